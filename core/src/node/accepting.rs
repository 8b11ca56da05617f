//! Streams that others opened, from the listener to the turn in which they are heard.

use std::net::{IpAddr, SocketAddr};

use super::Node;
use super::admission::door::Entry;
use super::streams::{MAX_OF_SESSION, Stream};
use crate::cx::{Owner, Timer};
use crate::hello::{Hello, Offer, Purpose};
use crate::identity::NodeId;
use crate::io::{CloseHow, SockId};
use crate::notice::Strategy;
use crate::pipe::Terms;
use crate::random::Domain;
use crate::strategy::agreement::{Key, Requester};

impl Node {
    pub(super) fn accepted(&mut self, listener: SockId, sock: SockId, local: SocketAddr, remote: SocketAddr) {
        self.cx.adopt(sock, Owner::Stream);
        self.network.accepted(&mut self.cx, remote);
        self.door.came(listener);
        if self.network.is_unused(local.ip()) {
            // The listener takes whatever comes to the port.
            self.cx.close(sock, CloseHow::Reset);
        } else if self.is_tainted(local, remote) {
            self.cx.stats.streams_refused_as_tainted += 1;
            self.cx.close(sock, CloseHow::Reset);
        } else {
            let awaited = self.awaited_from(remote.ip());
            match awaited.filter(|s| self.accepted_of(s.0, sock) < MAX_OF_SESSION) {
                Some(session) if self.door.take_turn(self.cx.now) => {
                    self.accepted_punch(sock, local, remote, session);
                }
                _ => self.accepted_caller(sock, local, remote),
            }
        }
        self.serve_door();
    }

    fn accepted_caller(&mut self, sock: SockId, local: SocketAddr, remote: SocketAddr) {
        match self.door.enter(self.cx.now, sock, remote.ip()) {
            Entry::Place { within, of } => {
                if let Some(silent) = of {
                    self.cx.stats.streams_over_limit += 1;
                    self.turn_away(silent);
                }
                let stream =
                    Stream::accepted(Hello::respond(), None, Strategy::Direct, [local, remote], self.cx.now);
                self.streams.insert(sock, stream);
                self.hello_began(sock, None);
                self.cx.timers.set(Timer::Stream(sock), Some(self.cx.now + within));
            }
            Entry::Refused => {
                self.cx.stats.streams_over_limit += 1;
                self.cx.close(sock, CloseHow::Reset);
            }
        }
    }

    /// A stream from where a peer of ours is to come from: it called nobody, so we begin the hello.
    fn accepted_punch(
        &mut self,
        sock: SockId,
        local: SocketAddr,
        remote: SocketAddr,
        session: (Key, NodeId, Terms),
    ) {
        let (key, peer, terms) = session;
        let offer = Offer { session: key.0, purpose: Purpose::Open, terms };
        let entropy = self.cx.random.draw(Domain::NoiseEphemeral);
        let Ok((hello, first)) = Hello::initiate(&self.config.identity, &peer, offer, entropy) else {
            return self.cx.close(sock, CloseHow::Drop);
        };
        let ends = [local, remote];
        let stream = Stream::accepted(hello.yielding(), Some(session), Strategy::Punch, ends, self.cx.now);
        self.streams.insert(sock, stream);
        self.hello_began(sock, Some(first));
    }

    /// Hears whose turn it is, and lets in whom there is room for.
    pub(super) fn serve_door(&mut self) {
        let now = self.cx.now;
        while let Some(sock) = self.door.next_turn(now) {
            self.turn_came(sock);
        }
        for (listener, credit) in self.door.credit(now) {
            self.cx.accept(listener, credit);
        }
        self.cx.timers.set(Timer::Door, self.door.due(now));
    }

    /// Gives a peer's stream one of the places for such. Those of our own calls need none.
    pub(super) fn takes_place(&mut self, sock: SockId, key: Key, peer: NodeId, from: IpAddr) -> bool {
        key.1 == Requester::Us || self.places.enter(sock, peer, self.admission.trust(peer), from)
    }

    /// A pipe that was handed out is gone.
    pub(super) fn released(&mut self, sock: SockId) {
        self.places.leave(sock);
        self.pipes.remove(&sock);
    }
}
