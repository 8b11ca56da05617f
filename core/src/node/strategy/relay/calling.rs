//! The relay as a strategy of a call: a relayed address, the request that names it, and the peer's word on where it comes
//! from.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Relays;
use super::state::Relay;
use crate::call::Strategy;
use crate::cx::Owner;
use crate::event::Stage;
use crate::node::call::facts::Call;
use crate::node::servers::Servers;
use crate::node::strategy::knock::KnockKey;
use crate::node::strategy::{Contract, Ctx, End, Request, Said};
use crate::pipe::PipeId;
use crate::signal::message::Body;
use crate::strategy::agreement::Key;
use crate::strategy::ours::Trust;
use crate::turn::Family;

/// A call of ours that asks for a relay.
#[derive(Debug)]
pub(super) struct Calling {
    id: PipeId,
    told_waiting: bool,
    request: Option<Request>,
}

impl Relays {
    /// Takes in the word of a call's peer on the addresses that it comes from.
    pub(in crate::node) fn peer_comes(&mut self, ctx: &mut Ctx<'_>, call: &Call, sources: &[SocketAddr]) {
        let Some(calling) = self.calling.get_mut(&call.connect) else { return };
        let id = calling.id;
        if sources.is_empty() {
            return self.relay_failed(ctx, id, "the peer cannot come to our relay".into());
        }
        let Some(request) = &mut calling.request else { return };
        if !core::mem::replace(&mut request.answered, true) {
            ctx.progress(call.connect, Strategy::Relay, Stage::PeerComes);
        }
        if let Some(servers) = self.all.get_mut(&id).and_then(|relay| relay.servers.as_mut()) {
            for at in sources {
                servers.permit(ctx.cx, *at);
            }
        }
        self.work(ctx, id);
        ctx.say(Said::GoesOn(call.connect));
    }

    /// Describes the progress of a relay of ours, in words.
    pub(super) fn describe_calling(&self, calling: &Calling) -> String {
        let Some(relay) = self.all.get(&calling.id) else { return String::new() };
        let relayed = relay.servers.as_ref().and_then(Servers::relayed);
        match (relayed, &calling.request) {
            (None, _) => match relay.servers.as_ref().map(Servers::describe) {
                Some(text) if !text.is_empty() => text,
                _ => "no TURN server relays for us".into(),
            },
            (Some(_), None) => "no common broker became usable in time".into(),
            (Some(_), Some(request)) if !request.answered => {
                format!("asked {} time(s), the peer did not answer", request.sent)
            }
            (Some(_), Some(_)) if let Some(code) = relay.refused => {
                format!("the TURN server does not let the peer through: error {code}")
            }
            (Some(_), Some(_)) if let Some(code) = relay.servers.as_ref().and_then(Servers::unproven) => {
                format!("the TURN server seems not to let the peer through: error {code}, without integrity")
            }
            (Some(at), Some(_)) => {
                format!("the peer answered, but nothing of it came through the relay at {at}")
            }
        }
    }
}

impl Contract for Relays {
    /// Begins to ask our servers for a relayed address.
    fn begin(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Result<(), String> {
        if ctx.is_oneself(call.peer) {
            return Err("it is us".into());
        }
        if ctx.config.turn.is_empty() {
            return Err("no TURN server is configured".into());
        }
        if !self.has_room(Trust::Known) {
            return Err("too many relays are open".into());
        }
        if let Some(why) = ctx.why_no_broker(call) {
            return Err(why);
        }
        let (key, peer, address) = (call.key(), call.peer, &call.address);
        let via = ctx.signalling.shared_with(address);
        let family = match address.v4().is_empty() && !address.v6().is_empty() {
            true => Family::V6,
            false => Family::V4,
        };
        let id = ctx.cx.fresh_pipe();
        let knock = KnockKey::new(&ctx.config.identity, &peer, key.0);
        let mut relay = Relay::new(id, (key, peer, call.terms()), Trust::Known, via, ctx.cx.now, knock);
        relay.connect = Some(call.connect);
        relay.servers = Some(ctx.ask_servers(Owner::Relay(id), family, true));
        self.insert_relay(relay);
        self.work(ctx, id);
        self.calling.insert(call.connect, Calling { id, told_waiting: false, request: None });
        Ok(())
    }

    /// Sends the request once there is an address to name, and repeats it.
    fn drive(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Option<End> {
        let brokers = ctx.signalling.shared_with(&call.address);
        // The peer needs to know the relay and nothing else of us.
        let (ready, settled) = (ctx.signalling.is_ready(&brokers), ctx.network.listeners_are_open());
        let calling = self.calling.get_mut(&call.connect)?;
        if let Some(request) = &mut calling.request {
            request.repeat(ctx, call);
            return None;
        }
        let id = calling.id;
        let relay = self.all.get(&id);
        let relayed = relay.and_then(|r| Some((r.servers.as_ref()?.relayed()?, r.terms)));
        if let (Some((relayed, terms)), true, true) = (relayed, ready, settled) {
            let address = Box::new(ctx.address());
            let body = Body::TurnRequest { terms, relayed, address };
            calling.request = Some(Request::send(ctx, call, Strategy::Relay, body));
            self.await_peer(ctx, id, call.deadline);
        } else if !ready && !core::mem::replace(&mut calling.told_waiting, true) {
            ctx.progress(call.connect, Strategy::Relay, Stage::AwaitingBroker);
        }
        None
    }

    fn request(&mut self, call: &Call) -> Option<&mut Option<Request>> {
        self.calling.get_mut(&call.connect).map(|calling| &mut calling.request)
    }

    fn describe(&self, _: &Ctx<'_>, call: &Call) -> String {
        self.calling.get(&call.connect).map(|calling| self.describe_calling(calling)).unwrap_or_default()
    }

    fn network_changed(&mut self, call: &Arc<Call>) -> bool {
        self.forget(call);
        true
    }

    fn forget(&mut self, call: &Call) {
        self.calling.remove(&call.connect);
    }

    /// Returns true if a relay of this session is being opened.
    fn is_busy(&self, key: Key) -> bool {
        self.is_opening(key, Strategy::Relay)
    }

    fn end(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        self.end_opening(ctx, key, Strategy::Relay);
    }
}
