//! UDP punching as a strategy of a call: waiting for a broker, the request, and attempts one after the other.

use std::net::IpAddr;
use std::sync::Arc;

use super::attempt::{Attempt, Stage as At};
use super::{Udps, With, route_to};
use crate::call::{ConnectId, Strategy};
use crate::event::Stage;
use crate::node::call::facts::Call;
use crate::node::strategy::{Contract, Ctx, End, Request, Said};
use crate::signal::mappings::UdpMappings;
use crate::signal::message::Body;
use crate::strategy::agreement::Key;
use crate::strategy::punch::{self, Tactic};

/// Attempts of one call. Each has sockets of its own, since what a router holds against one is nothing to another.
const RUNGS: u8 = 3;

/// A call of ours that punches over UDP.
#[derive(Debug)]
pub(super) struct Calling {
    call: Arc<Call>,
    told_waiting: bool,
    next: u8,
    request: Option<Request>,
}

impl Calling {
    /// Returns the addresses that our user named the peer by.
    pub(super) fn named(&self) -> impl Iterator<Item = IpAddr> {
        self.call.address.interfaces().flat_map(|i| [i.external, i.internal])
    }

    /// Returns the most ports that a search tries: half as many beside TCP's own search.
    pub(super) fn most_ports(&self) -> u16 {
        if self.call.plan.strategies.contains(&Strategy::Punch) { punch::PROBES / 2 } else { punch::PROBES }
    }
}

impl Udps {
    /// Asks the peer to punch.
    pub(super) fn send_request(&mut self, ctx: &mut Ctx<'_>, key: Key, mappings: Box<UdpMappings>) {
        let Some(calling) = self.calling_of(key) else { return };
        let body = Body::UdpRequest(mappings);
        calling.request = Some(Request::send(ctx, &calling.call, Strategy::Udp, body));
        let connect = calling.call.connect;
        ctx.say(Said::GoesOn(connect));
    }

    pub(super) fn stop_asking(&mut self, key: Key) {
        if let Some(request) = self.calling_of(key).and_then(|calling| calling.request.as_mut()) {
            request.answered = true;
        }
    }

    /// Begins the next attempt of a call, if there is one left.
    pub(super) fn next_rung(&mut self, ctx: &mut Ctx<'_>, key: Key) -> bool {
        let Some(calling) = self.calling_of(key).filter(|calling| calling.next < RUNGS) else { return false };
        calling.request = None;
        let call = Arc::clone(&calling.call);
        self.begin_rung(ctx, &call)
    }

    /// Tells our user that probes go out.
    pub(super) fn tell_probing(&mut self, ctx: &mut Ctx<'_>, key: Key, tactic: &Tactic) {
        let Some(attempt) = self.all.get(&key) else { return };
        let (Some(connect), Some(ours), Some(theirs)) = (attempt.connect, &attempt.ours, &attempt.theirs)
        else {
            return;
        };
        let (rung, permille) = (attempt.rung, Some(punch::chance(ours, theirs, tactic, 0) as u16));
        ctx.progress(connect, Strategy::Udp, Stage::Punching { rung, permille });
    }

    /// Ends the strategy of a call.
    pub(super) fn call_ended(&mut self, ctx: &mut Ctx<'_>, connect: ConnectId, why: String) {
        if self.calling.remove(&connect).is_some() {
            ctx.say(Said::Ended(connect, Strategy::Udp, End::failed(why)));
        }
    }

    fn begin_rung(&mut self, ctx: &mut Ctx<'_>, call: &Call) -> bool {
        let Some(calling) = self.calling.get_mut(&call.connect) else { return false };
        let rung = calling.next;
        let Some(route) = route_to(ctx, &call.address, rung) else { return false };
        calling.next += 1;
        let via = ctx.signalling.shared_with(&call.address);
        let (key, peer, terms, connect) = (call.key(), call.peer, call.terms(), Some(call.connect));
        self.begin_attempt(ctx, With { key, peer, terms, connect, via, rung, window: 0 }, route, None);
        true
    }

    fn calling_of(&mut self, key: Key) -> Option<&mut Calling> {
        self.calling.get_mut(&self.all.get(&key)?.connect?)
    }
}

impl Attempt {
    /// Describes how far it has come, in words.
    pub(super) fn describe(&self) -> String {
        let Some(theirs) = &self.theirs else {
            return "our mapping is being measured".into();
        };
        let ports: Vec<String> = theirs.ports.iter().take(3).map(u16::to_string).collect();
        let ports = if ports.is_empty() { "its random ports".into() } else { ports.join(", ") };
        let ip = theirs.external;
        format!(
            "{} probe(s) to {ip}, {ports}, and none of the peer's came (try {})",
            self.sent,
            self.rung + 1
        )
    }

    /// Returns our side's part of the plan to which both ends come.
    pub(super) fn tactic(&self) -> Option<Tactic> {
        Some(punch::tactic(self.ours.as_ref()?, self.theirs.as_ref()?, 0))
    }
}

impl Contract for Udps {
    fn begin(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Result<(), String> {
        if ctx.is_oneself(call.peer) {
            return Err("it is us".into());
        }
        if let Some(why) = ctx.why_no_broker(call) {
            return Err(why);
        }
        if route_to(ctx, &call.address, 0).is_none() {
            return Err(ctx.why_no_path(&call.address));
        }
        self.drop_attempt(ctx, call.key());
        let calling = Calling { call: Arc::clone(call), told_waiting: false, next: 0, request: None };
        self.calling.insert(call.connect, calling);
        Ok(())
    }

    /// Begins the first attempt when it can, or repeats a request.
    fn drive(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Option<End> {
        let calling = self.calling.get_mut(&call.connect)?;
        match self.all.get(&call.key()).map(|attempt| attempt.stage) {
            Some(At::Asking) => {
                if let Some(request) = &mut calling.request {
                    request.repeat(ctx, call);
                }
            }
            None if calling.next == 0 => {
                let brokers = ctx.signalling.shared_with(&call.address);
                if ctx.network.address_is_settled() && ctx.signalling.is_ready(&brokers) {
                    self.begin_rung(ctx, call);
                } else if !core::mem::replace(&mut calling.told_waiting, true) {
                    ctx.progress(call.connect, Strategy::Udp, Stage::AwaitingBroker);
                }
            }
            Some(At::Measuring | At::Probing) | None => {}
        }
        None
    }

    fn request(&mut self, call: &Call) -> Option<&mut Option<Request>> {
        self.calling.get_mut(&call.connect).map(|calling| &mut calling.request)
    }

    fn ask_again(&mut self, ctx: &mut Ctx<'_>, call: &Call) {
        if let Some(calling) = self.calling.get_mut(&call.connect).filter(|c| c.request.is_some()) {
            (calling.request, calling.next) = (None, 0);
            self.drop_attempt(ctx, call.key());
        }
    }

    fn describe(&self, _: &Ctx<'_>, call: &Call) -> String {
        let Some(calling) = self.calling.get(&call.connect) else { return String::new() };
        match (self.all.get(&call.key()), &calling.request) {
            (Some(attempt), Some(request)) if attempt.stage == At::Asking => {
                format!("asked {} time(s), the peer did not answer", request.sent)
            }
            (Some(attempt), _) => attempt.describe(),
            (None, _) => "no common broker became usable in time".into(),
        }
    }

    fn network_changed(&mut self, call: &Arc<Call>) -> bool {
        self.forget(call);
        true
    }

    fn forget(&mut self, call: &Call) {
        self.calling.remove(&call.connect);
    }

    fn is_busy(&self, key: Key) -> bool {
        self.all.contains_key(&key)
    }

    fn end(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        self.drop_attempt(ctx, key);
    }
}
