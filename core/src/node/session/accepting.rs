//! Streams that others opened, from the listener to the turn in which they are heard.

use std::net::{IpAddr, SocketAddr};

use super::door::Fate;
use super::hello::MAX_OF_SESSION;
use super::stream::Stream;
use super::{Env, Sessions};
use crate::call::Strategy;
use crate::cx::Timer;
use crate::hello::{Hello, Offer, Purpose};
use crate::identity::NodeId;
use crate::io::{CloseHow, SockId};
use crate::pipe::Terms;
use crate::random::Domain;
use crate::strategy::agreement::{Key, Requester};

impl Sessions {
    /// Takes in a stream that a listener has accepted. `awaited`: the session of ours that is being punched from there.
    pub(in crate::node) fn accepted(
        &mut self,
        env: &mut Env<'_>,
        sock: SockId,
        [local, remote]: [SocketAddr; 2],
        awaited: Option<(Key, NodeId, Terms)>,
    ) {
        match awaited.filter(|s| self.accepted_of(s.0, sock) < MAX_OF_SESSION) {
            Some(session) if self.door.take_turn(env.cx.now) => {
                self.accepted_punch(env, sock, local, remote, session);
            }
            _ => self.accepted_caller(env, sock, local, remote),
        }
    }

    /// Notes that a listener has accepted a stream.
    pub(in crate::node) fn came(&mut self, listener: SockId) {
        self.door.came(listener);
    }

    /// Notes that a listener is open.
    pub(in crate::node) fn listens(&mut self, listener: SockId) {
        self.door.opened(listener);
    }

    /// Notes that a listener is no more.
    pub(in crate::node) fn stopped_listening(&mut self, listener: SockId) {
        self.door.shut(listener);
    }

    fn accepted_caller(&mut self, env: &mut Env<'_>, sock: SockId, local: SocketAddr, remote: SocketAddr) {
        match self.door.enter(env.cx.now, sock, remote.ip()) {
            Fate::Place { within, of } => {
                if let Some(silent) = of {
                    env.cx.stats.streams_over_limit += 1;
                    self.turn_away(env.cx, silent);
                }
                let stream = Stream::accepted(
                    Hello::respond(env.config.has_aes()),
                    None,
                    Strategy::Direct,
                    [local, remote],
                    env.cx.now,
                );
                self.streams.insert(sock, stream);
                self.hello_began(env.cx, sock, None);
                env.cx.timers.set(Timer::Stream(sock), Some(env.cx.now + within));
            }
            Fate::Refused => {
                env.cx.stats.streams_over_limit += 1;
                env.cx.close(sock, CloseHow::Reset);
            }
        }
    }

    /// A stream from where a peer of ours is to come from: it called nobody, so we begin the hello.
    fn accepted_punch(
        &mut self,
        env: &mut Env<'_>,
        sock: SockId,
        local: SocketAddr,
        remote: SocketAddr,
        session: (Key, NodeId, Terms),
    ) {
        let (key, peer, terms) = session;
        let offer = Offer { session: key.0, purpose: Purpose::Open, terms };
        let entropy = env.cx.random.draw(Domain::NoiseEphemeral);
        let Ok((hello, first)) =
            Hello::initiate(&env.config.identity, &peer, offer, env.config.has_aes(), entropy)
        else {
            return env.cx.close(sock, CloseHow::Drop);
        };
        let ends = [local, remote];
        let stream = Stream::accepted(hello.yielding(), Some(session), Strategy::Punch, ends, env.cx.now);
        self.streams.insert(sock, stream);
        self.hello_began(env.cx, sock, Some(first));
    }

    /// Hears whose turn it is, and lets in whom there is room for.
    pub(in crate::node) fn serve_door(&mut self, env: &mut Env<'_>) {
        let now = env.cx.now;
        while let Some(sock) = self.door.next_turn(now) {
            self.turn_came(env, sock);
        }
        for (listener, credit) in self.door.credit(now) {
            env.cx.accept(listener, credit);
        }
        env.cx.timers.set(Timer::Door, self.door.due(now));
    }

    /// Gives a peer's stream one of the places for such. Those of our own calls need none.
    pub(super) fn takes_place(
        &mut self,
        env: &Env<'_>,
        sock: SockId,
        key: Key,
        peer: NodeId,
        from: IpAddr,
    ) -> bool {
        key.1 == Requester::Us || self.places.enter(sock, peer, env.admission.trust(peer), from)
    }
}
