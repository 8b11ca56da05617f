//! The pipes that users have: whether their peers live, and which are gone.

use std::collections::HashMap;

use p2pd_core::{Instant, Liveness, PipeEnd, SockId};
use socket2::SockRef;

use crate::liveness::{LOOK_EVERY, Silence, keep_alive, signs};
use crate::pipe::{Grip, Held, Released};

#[derive(Debug)]
pub(super) struct Handed {
    liveness: Liveness,
    pipes: HashMap<SockId, (Grip, Silence)>,
    released: Released,
    /// Time of the next look at their peers.
    look: Option<Instant>,
}

impl Handed {
    pub(super) fn new(liveness: Liveness) -> Self {
        Handed { liveness, pipes: HashMap::new(), released: Released::default(), look: None }
    }

    /// The mark of a pipe that is handed out next. From now on the system looks after it; what the core holds has deadlines
    /// of its own, and is to be as silent as these allow.
    pub(super) fn hold(&mut self, now: Instant, sock: SockId, socket: &SockRef<'_>) -> Held {
        // Whatever cannot be set is done without.
        let _ = keep_alive(&**socket, &self.liveness);
        let (held, grip) = self.released.hold(sock, socket);
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        // On this machine nobody vanishes without the system's knowledge. Elsewhere, only where there is something to see.
        let is_far = peer.is_some_and(|peer| !peer.ip().to_canonical().is_loopback());
        if is_far && !self.liveness.patience.is_zero() && grip.look(signs).is_some() {
            self.look.get_or_insert(now + LOOK_EVERY);
        }
        self.pipes.insert(sock, (grip, Silence::default()));
        held
    }

    /// A stream that was to be handed out was lost before.
    pub(super) fn came_to_nothing(&self, sock: SockId) {
        self.released.add(sock);
    }

    /// Ends a pipe.
    pub(super) fn end(&self, sock: SockId, why: PipeEnd) {
        if let Some((grip, _)) = self.pipes.get(&sock) {
            grip.end(why);
        }
    }

    /// Returns the pipes that users have no more.
    pub(super) fn released(&mut self) -> Vec<SockId> {
        let gone = self.released.take();
        for sock in &gone {
            self.pipes.remove(sock);
        }
        if self.pipes.is_empty() {
            self.look = None;
        }
        gone
    }

    /// Returns the time to [`look`](Self::look).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look
    }

    /// Ends those whose peers have vanished. A microsecond for each (measured).
    pub(super) fn look(&mut self, now: Instant) {
        if self.look.is_none_or(|at| at > now) {
            return;
        }
        self.look = Some(now + LOOK_EVERY);
        for (grip, silence) in self.pipes.values_mut() {
            if let Some(signs) = grip.look(signs)
                && silence.is_over(now, signs, self.liveness.patience)
            {
                grip.end(PipeEnd::Vanished);
            }
        }
    }
}
