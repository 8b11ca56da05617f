//! Calls that users of an async driver wait for.

use std::collections::HashMap;

use p2pd_core::{ConnectError, ConnectId, Name, NameError, NameNews, PeerAddress, Plan, Target};

use crate::{Engine, Reactor};

/// Calls under way, by the core's name and by the waiter's name. A waiter that gives up may not know the core's name
/// yet. `D` is told the outcome.
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
    /// As [`p2pd_core::Node::connect`] and [`p2pd_core::Node::connect_name`].
    pub fn begin<R: Reactor>(
        &mut self,
        engine: &mut Engine<R>,
        (to, plan): (&Target, Plan),
        token: u64,
        done: D,
    ) -> Result<ConnectId, ConnectError> {
        let id = engine.connect_to(to, plan)?;
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

/// Call about a name by a user of an async driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a driver has to know each.
pub enum NameCall {
    /// Resolve the name to an address.
    Resolve,
    /// Register the name.
    Register,
    /// Release the name.
    Release,
}

/// Answer to a [`NameCall`].
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: a driver has to know each.
pub enum NameAnswer {
    /// Address of the name's owner.
    Address(Box<PeerAddress>),
    /// Number of brokers that keep the record, or that were told of the release.
    Brokers(u8),
}

/// The calls about names under way. `D` is told the outcome.
#[derive(Debug)]
pub struct NameCalls<D>(Vec<(Name, NameCall, D)>);

impl<D> Default for NameCalls<D> {
    fn default() -> Self {
        NameCalls(Vec::new())
    }
}

impl<D> NameCalls<D> {
    /// Begins a call.
    ///
    /// # Errors
    /// The reason why nothing was begun, with the caller to be told.
    pub fn begin<R: Reactor>(
        &mut self,
        engine: &mut Engine<R>,
        (name, call): (Name, NameCall),
        done: D,
    ) -> Result<(), (NameError, D)> {
        let begun = match call {
            NameCall::Resolve => engine.resolve(name),
            NameCall::Register => engine.register(name),
            NameCall::Release => engine.release(name),
        };
        match begun {
            Ok(()) => {
                self.0.push((name, call, done));
                Ok(())
            }
            Err(why) => Err((why, done)),
        }
    }

    /// Takes the calls about a name that the news answers, each with its outcome.
    pub fn told(&mut self, name: Name, news: &NameNews) -> Vec<(D, Result<NameAnswer, NameError>)> {
        let (resolve, outcome) = match news {
            NameNews::Resolved(address) => (true, Ok(NameAnswer::Address(address.clone()))),
            NameNews::NotResolved(why) => (true, Err(*why)),
            NameNews::Registered { brokers } | NameNews::Released { brokers } => {
                (false, Ok(NameAnswer::Brokers(*brokers)))
            }
            NameNews::NotRegistered(why) => (false, Err(*why)),
            _ => return Vec::new(),
        };
        let concerned =
            |(of, call, _): &mut (Name, NameCall, D)| *of == name && (*call == NameCall::Resolve) == resolve;
        self.0.extract_if(.., concerned).map(|(.., done)| (done, outcome.clone())).collect()
    }
}
