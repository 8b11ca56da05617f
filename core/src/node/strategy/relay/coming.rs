//! The responder's part: it comes to the peer's relay, by its own way or by a relay of ours.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::super::Ctx;
use super::super::knock::{Knock, KnockKey};
use super::state::{Relay, RelayStage};
use super::{HELP_AFTER, MEET_WITHIN, Relays, STRANGERS_SILENCE};
use crate::call::{Refusal, Strategy};
use crate::cx::Owner;
use crate::identity::NodeId;
use crate::node::servers::ServerNews;
use crate::pipe::{PipeId, Terms};
use crate::random::Domain;
use crate::relay::RelayStream;
use crate::signal::message::{Body, MAX_SOURCES};
use crate::strategy::agreement::Key;
use crate::strategy::ours::Trust;
use crate::turn::Family;

impl Relays {
    /// Goes to the peer's relay, as the peer asks us to; our user's rules have been asked.
    pub(in crate::node) fn visit(
        &mut self,
        ctx: &mut Ctx<'_>,
        (key, peer, terms): (Key, NodeId, Terms),
        via: SmallVec<[u8; 2]>,
        relayed: SocketAddr,
    ) {
        let session = key.0;
        let trust = ctx.admission.trust(peer);
        let may = |ctx: &Ctx<'_>, trust| ctx.may_send_to(relayed.ip(), trust);
        if ctx.is_oneself(peer) || !may(ctx, trust) {
            let private = !ctx.is_oneself(peer) && may(ctx, Trust::Known);
            let reason = match private {
                true => Body::Refused(Refusal::PrivateForStrangers { asked: Strategy::Relay }),
                false => Body::TurnResponse(SmallVec::new()),
            };
            return ctx.reply(peer, session, &via, reason);
        }
        ctx.sessions.open(key, peer, terms);
        let now = ctx.cx.now;
        let id = ctx.cx.fresh_pipe();
        let knock = KnockKey::new(&ctx.config.identity, &peer, session);
        let mut relay = Relay::new(id, (key, peer, terms), trust, via, now, knock);
        relay.has_turn = !ctx.config.turn.is_empty();
        relay.to = Some(relayed);
        if ctx.network.routes().iter().any(|r| r.internal.is_ipv4() == relayed.is_ipv4()) {
            let from = ctx.network.dial_from(relayed.ip());
            relay.socket = Some((ctx.cx.bind_udp(Owner::Relay(id), from), false));
        } else {
            // We cannot send there; a server of ours may.
            relay.help_at = Some(now);
        }
        relay.until = Some(now + MEET_WITHIN);
        if trust == Trust::Stranger {
            relay.until = Some(now + STRANGERS_SILENCE);
            relay.knock = Some(Knock::new(&knock, ctx.cx.random.bytes(Domain::MessageId)));
        }
        let routes = ctx.network.routes().iter().filter(|r| r.internal.is_ipv4() == relayed.is_ipv4());
        let known = routes.flat_map(|r| [r.external, r.internal]).filter(|ip| !ctx.network.is_by_nat64(*ip));
        for ip in known {
            let at = SocketAddr::new(ip, 0);
            if relay.sources.len() + 1 < MAX_SOURCES && !relay.sources.contains(&at) {
                relay.sources.push(at);
            }
        }
        self.insert_relay(relay);
        self.work(ctx, id);
    }

    /// Responder: says where we come from, and comes.
    pub(super) fn come(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let now = ctx.cx.now;
        let Some(relay) = self.all.get(&id).filter(|r| r.stage == RelayStage::Meeting) else { return };
        let (peer, session, via) = (relay.peer, relay.key.0, relay.via.clone());
        let sources = relay.sources.clone();
        let delay = ctx.signalling.delay(&via);
        if let Some(relay) = self.all.get_mut(&id) {
            if !relay.helped {
                (relay.help_at, relay.helped) = (Some(now + HELP_AFTER), true);
            }
            if let Some(knock) = &mut relay.knock {
                knock.begin(now, delay, relay.by_server);
            }
        }
        ctx.reply(peer, session, &via, Body::TurnResponse(sources));
        self.begin_stream(ctx, id);
    }

    /// Responder: speaks to the peer's relay, once nothing forbids that.
    pub(super) fn begin_stream(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let now = ctx.cx.now;
        let config = self.relay_config(ctx, id);
        let Some(relay) = self.all.get_mut(&id).filter(|r| r.stage == RelayStage::Meeting) else { return };
        if relay.stream.is_none() && relay.knock.is_none() {
            let seed = ctx.cx.random.draw(Domain::RelaySeed);
            let ours = &ctx.config.identity;
            let stream = RelayStream::connect(ours, &relay.peer, &relay.key.0.0, seed, &config, now);
            relay.stream = Some(Box::new(stream));
        }
        self.work(ctx, id);
    }

    /// Responder: tries by its own server, as nothing came back. Our answer may be lost, or we cannot get there by UDP.
    pub(super) fn come_by_server(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        if relay.stage != RelayStage::Meeting {
            return;
        }
        let (socket, to, servers) = (relay.socket, relay.to, relay.servers.is_some());
        if !ctx.config.turn.is_empty() && !servers {
            let family = if to.is_some_and(|to| to.is_ipv6()) { Family::V6 } else { Family::V4 };
            let servers = ctx.ask_servers(Owner::Relay(id), family, false);
            if let Some(relay) = self.all.get_mut(&id) {
                relay.until = relay.until.max(Some(ctx.cx.now + STRANGERS_SILENCE));
                relay.servers = Some(servers);
            }
        } else if socket.is_none() {
            self.server_news(ctx, id, ServerNews::Failed(String::new()));
        }
        if socket.is_some() {
            self.come(ctx, id);
        }
    }
}
