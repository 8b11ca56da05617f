//! Calls that users of an async driver wait for.

use std::collections::HashMap;

use p2pd_core::{ConnectError, ConnectId, PeerAddress, Plan};

use crate::{Engine, Reactor};

/// The calls under way, by what the core names them and by what their waiters do: a waiter that gives up may not have
/// been told of the core's name yet. `D` is told the outcome.
#[derive(Debug)]
pub struct Calls<D>(HashMap<ConnectId, (u64, D)>);

impl<D> Default for Calls<D> {
    fn default() -> Self {
        Calls(HashMap::new())
    }
}

impl<D> Calls<D> {
    /// Begins a call; `token` is the waiter's name for it.
    ///
    /// # Errors
    /// As [`p2pd_core::Node::connect`].
    pub fn begin<R: Reactor>(
        &mut self,
        engine: &mut Engine<R>,
        (to, plan): (&PeerAddress, Plan),
        token: u64,
        done: D,
    ) -> Result<ConnectId, ConnectError> {
        let id = engine.connect(to, plan)?;
        self.0.insert(id, (token, done));
        Ok(id)
    }

    /// The waiter has given up. Nothing, if the call is over.
    pub fn cancel<R: Reactor>(&mut self, engine: &mut Engine<R>, token: u64) {
        if let Some(id) = self.0.iter().find(|(_, (t, _))| *t == token).map(|(id, _)| *id) {
            self.0.remove(&id);
            engine.cancel(id);
        }
    }

    /// The call is over: who is told. `None`: nobody waits.
    pub fn end(&mut self, id: ConnectId) -> Option<D> {
        self.0.remove(&id).map(|(_, done)| done)
    }
}
