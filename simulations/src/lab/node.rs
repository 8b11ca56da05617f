//! The calls of a node, drained at once, and its events.

use p2pd_core::{Event, Instant, Node};

use super::{Lab, PATIENCE, Peer};

/// A node's handle, by [`Lab::node`].
///
/// ```
/// # use p2pd_core::Accept;
/// # use p2pd_simulations::lab::Lab;
/// # fn main() -> Result<(), String> {
/// let mut lab = Lab::new(1);
/// let a = lab.outside().node(|config| config);
/// let b = lab.outside().node(|config| config.accept(Accept::Ask));
/// let caller = lab.id(a);
/// lab.node(b).call(|node, now| node.answer(now, caller, true));
/// lab.connect(a, b)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct At<'a> {
    pub(super) lab: &'a mut Lab,
    pub(super) peer: Peer,
}

impl At<'_> {
    /// Makes any call of the core's node, and carries out at once what follows from it.
    pub fn call<R>(&mut self, call: impl FnOnce(&mut Node, Instant) -> R) -> R {
        let host = self.lab.peers[self.peer.0].host;
        self.lab.world.with(host, |program, cx| program.node_mut().call(cx, call))
    }

    /// Returns the node, for what it tells without being changed: its NATs, counters and address.
    pub fn core(&self) -> &Node {
        &self.lab.program(self.peer).node
    }

    /// Returns the events that came since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        let heard = self.lab.peers[self.peer.0].heard;
        let events: Vec<Event> =
            self.lab.program(self.peer).events[heard..].iter().map(|(_, event)| event.clone()).collect();
        self.lab.peers[self.peer.0].heard += events.len();
        events
    }

    /// Waits for an event that is picked, and returns what was picked of it. Those before it are passed over. `None`: none
    /// came within [`PATIENCE`].
    pub fn wait_for<R>(&mut self, mut pick: impl FnMut(&Event) -> Option<R>) -> Option<R> {
        let (peer, mut next) = (self.peer, self.lab.peers[self.peer.0].heard);
        let mut picked = None;
        self.lab.wait(PATIENCE, |lab| {
            let events = &lab.program(peer).events;
            while picked.is_none() && next < events.len() {
                picked = pick(&events[next].1);
                next += 1;
            }
            picked.is_some()
        });
        self.lab.peers[peer.0].heard = next;
        picked
    }
}
