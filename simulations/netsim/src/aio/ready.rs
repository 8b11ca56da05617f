//! Work that waits for a host's turn: tasks to be polled, and sockets dropped away from their host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use crate::host::Sock;
use crate::world::HostId;

/// Work of the hosts of one simulation. Wakers, handles and sockets share it. A mutex, since wakers are `Send`; there is one thread.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<BTreeMap<HostId, Turn>>);

/// Work of one host, in the order of the numbers of tasks.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Tasks to poll.
    pub(super) woken: BTreeSet<u64>,
    /// Tasks to drop.
    pub(super) aborted: BTreeSet<u64>,
    /// Sockets to close.
    pub(super) left: Vec<Sock>,
}

impl Turn {
    /// Takes another turn's work over.
    pub(super) fn add(&mut self, other: &mut Turn) {
        self.woken.append(&mut other.woken);
        self.aborted.append(&mut other.aborted);
        self.left.append(&mut other.left);
    }
}

impl Ready {
    fn turns(&self) -> MutexGuard<'_, BTreeMap<HostId, Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first host that has work.
    pub(super) fn first(&self) -> Option<HostId> {
        self.turns().first_key_value().map(|(host, _)| *host)
    }
}

/// A host of one simulation.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) ready: Arc<Ready>,
    pub(super) host: HostId,
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.host == other.host && Arc::ptr_eq(&self.ready, &other.ready)
    }
}

impl Place {
    pub(super) fn add(&self, work: impl FnOnce(&mut Turn)) {
        work(self.ready.turns().entry(self.host).or_default());
    }

    pub(super) fn wake(&self, task: u64) {
        self.add(|turn| _ = turn.woken.insert(task));
    }

    pub(super) fn abort(&self, task: u64) {
        self.add(|turn| _ = turn.aborted.insert(task));
    }

    pub(super) fn close(&self, sock: Sock) {
        self.add(|turn| turn.left.push(sock));
    }

    /// Takes the host's work out.
    pub(super) fn take(&self) -> Option<Turn> {
        self.ready.turns().remove(&self.host)
    }

    /// Returns the waker of one of the host's tasks.
    pub(super) fn waker(&self, task: u64) -> Waker {
        Arc::new(Task { place: self.clone(), task }).into()
    }
}

struct Task {
    place: Place,
    task: u64,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.place.wake(self.task);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.place.wake(self.task);
    }
}

/// Wakers of those who wait for one thing, each once.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<Waker>);

impl Waiting {
    pub(super) fn add(&mut self, waker: &Waker) {
        if !self.0.iter().any(|has| has.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }

    pub(super) fn wake(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}
