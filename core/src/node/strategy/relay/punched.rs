//! Paths that UDP punching has found: the same QUIC stream, on a socket that sends to the peer itself.

use core::time::Duration;

use super::state::{Relay, RelayStage};
use super::{Ctx, End, Relays, Said};
use crate::call::Strategy;
use crate::cx::Owner;
use crate::io::CloseHow;
use crate::node::strategy::Met;
use crate::node::strategy::knock::KnockKey;
use crate::pipe::{PipeEnd, PipeId};
use crate::random::Domain;
use crate::relay::RelayStream;

/// Time for the handshake on a path by which a probe has come.
const MEET_WITHIN: Duration = Duration::from_secs(5);

impl Relays {
    /// Begins the QUIC stream on a path by which both ends have heard each other. The requester speaks first.
    pub(in crate::node) fn take_over(&mut self, ctx: &mut Ctx<'_>, met: Met) {
        let Met { key, peer, terms, connect, via, path: [local, remote], sock, stream } = met;
        let trust = ctx.admission.trust(peer);
        if !self.has_room(trust) || self.by_key.contains_key(&(key, Strategy::Udp)) {
            ctx.cx.close(sock, CloseHow::Drop);
            if let Some(connect) = connect {
                let end = End::failed("too many pipes are open".into());
                ctx.say(Said::Ended(connect, Strategy::Udp, end));
            }
            return;
        }
        let id = ctx.cx.fresh_pipe();
        let knock = KnockKey::new(&ctx.config.identity, &peer, key.0);
        let now = ctx.cx.now;
        let mut relay = Relay::new(id, (key, peer, terms), trust, via, now, knock);
        relay.strategy = Strategy::Udp;
        relay.connect = connect;
        (relay.socket, relay.local, relay.to) = (Some((sock, true)), Some(local), Some(remote));
        relay.until = Some(now + MEET_WITHIN);
        ctx.cx.adopt(sock, Owner::Relay(id));
        self.insert_relay(relay);
        let (stream, window) = stream.map_or((None, None), |(stream, window)| (Some(stream), Some(window)));
        let stream = stream.unwrap_or_else(|| {
            let config = self.relay_config(ctx, id);
            let seed = ctx.cx.random.draw(Domain::RelaySeed);
            let ours = &ctx.config.identity;
            Box::new(RelayStream::connect(ours, &peer, &key.0.0, seed, &config, now))
        });
        if let Some(relay) = self.all.get_mut(&id) {
            (relay.window, relay.stream) = (window.unwrap_or(relay.window), Some(stream));
        }
        self.work(ctx, id);
    }

    /// Takes in that the socket of a path is gone.
    pub(super) fn punched_broke(&mut self, ctx: &mut Ctx<'_>, id: PipeId, why: String) {
        match self.all.get(&id).map(|relay| relay.stage) {
            Some(RelayStage::Meeting | RelayStage::Agreeing) => self.relay_failed(ctx, id, why),
            Some(RelayStage::Pipe) => self.pipe_over(ctx, id, PipeEnd::NoPath),
            Some(RelayStage::Leaving) => self.close_relay(ctx, id),
            Some(RelayStage::Won | RelayStage::Ending) | None => {}
        }
    }
}
