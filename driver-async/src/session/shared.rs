//! State that the handles of a session share with its task.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use event_listener::Event;
use p2pd_core::pipe::session::{
    CarrierId, Direction, SessionConfig, SessionEnd, SessionEvent, Side, StreamId,
};
use p2pd_core::{Instant, NodeId};
use p2pd_sys::session::SessionError;
use p2pd_sys::{Clock, PipeInfo};

use p2pd_core::pipe::session::Session as Machine;

pub(crate) struct Shared {
    pub(super) peer: NodeId,
    pub(super) side: Side,
    clock: Clock,
    state: Mutex<State>,
    /// Changes that many may wait for: streams that were opened, of both directions and of one.
    pub(super) opened: [Event; 2],
    pub(super) may_open: Event,
    pub(super) datagram: Event,
    pub(super) delivered: Event,
    pub(super) moved: Event,
    pub(super) ended: Event,
}

pub(super) struct State {
    pub(super) session: Machine,
    pub(super) readers: HashMap<StreamId, Waker>,
    pub(super) writers: HashMap<StreamId, Waker>,
    /// Codes of streams that the peer stopped, until they are dropped.
    pub(super) stopped: HashMap<StreamId, u32>,
    /// The session's task, if it sleeps.
    pub(super) task: Option<Waker>,
    pub(super) end: Option<SessionEnd>,
    pub(super) carriers: Vec<(CarrierId, PipeInfo)>,
    on: Option<CarrierId>,
    moves: u64,
    changes: u64,
    /// No user has the session any more.
    pub(super) left: bool,
    /// Carriers that the session has forgotten.
    pub(super) silent: Vec<CarrierId>,
}

/// Hold of the users on a session; it is theirs until this is dropped.
pub(super) struct Owner(Arc<Shared>);

impl Owner {
    pub(super) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Owner(shared.clone()))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let task = {
            let mut state = self.0.lock();
            state.left = true;
            state.task.take()
        };
        task.into_iter().for_each(Waker::wake);
    }
}

impl Shared {
    pub(crate) fn new(peer: NodeId, side: Side, config: SessionConfig) -> Arc<Self> {
        let clock = Clock::start();
        let state = State {
            session: Machine::new(side, config, clock.now()),
            readers: HashMap::new(),
            writers: HashMap::new(),
            stopped: HashMap::new(),
            task: None,
            end: None,
            carriers: Vec::new(),
            on: None,
            moves: 0,
            changes: 0,
            left: false,
            silent: Vec::new(),
        };
        Arc::new(Shared {
            peer,
            side,
            clock,
            state: Mutex::new(state),
            opened: Default::default(),
            may_open: Event::new(),
            datagram: Event::new(),
            delivered: Event::new(),
            moved: Event::new(),
            ended: Event::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn until(&self, at: Instant) -> std::time::Duration {
        self.clock.until(at)
    }

    /// Does something with the session for a user, and wakes whom it concerns.
    pub(super) fn act<T>(&self, work: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        self.with(|state, now| work(&mut state.session, now))
    }

    /// Does something with the state for the session's task, and wakes the users that it concerns.
    pub(super) fn pumped<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let done = work(&mut state, self.clock.now());
        let woken = self.tell(&mut state);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        done
    }

    /// Does something with the state for a user, and wakes whom it concerns.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let done = work(&mut state, self.clock.now());
        let woken = self.tell(&mut state);
        let task =
            if state.session.wants_to_send() || state.session.is_over() { state.task.take() } else { None };
        drop(state);
        woken.into_iter().chain(task).for_each(Waker::wake);
        done
    }

    /// Takes the session's events. Returns the tasks to wake without the lock.
    fn tell(&self, state: &mut State) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(event) = state.session.poll_event() {
            match event {
                SessionEvent::Opened(Direction::Both) => _ = self.opened[0].notify(1),
                SessionEvent::Opened(Direction::One) => _ = self.opened[1].notify(1),
                SessionEvent::Readable(id) => woken.extend(state.readers.remove(&id)),
                SessionEvent::Writable(id) => woken.extend(state.writers.remove(&id)),
                SessionEvent::Stopped(id, code) => {
                    state.stopped.insert(id, code);
                    woken.extend(state.writers.remove(&id));
                }
                SessionEvent::MayOpen => _ = self.may_open.notify(usize::MAX),
                SessionEvent::Datagram => _ = self.datagram.notify(usize::MAX),
                SessionEvent::Delivered => _ = self.delivered.notify(usize::MAX),
                SessionEvent::Moved(id) => {
                    state.moves += u64::from(state.changes > 0);
                    state.changes += 1;
                    state.on = Some(id);
                    self.moved.notify(usize::MAX);
                }
                // The session's task looks at `needs_carrier` at each turn.
                SessionEvent::Doubtful(_) => {}
                SessionEvent::Silent(id) => state.silent.push(id),
                SessionEvent::Stranded => {
                    state.changes += 1;
                    state.on = None;
                    self.moved.notify(usize::MAX);
                }
                SessionEvent::Ended(why) => {
                    state.end = Some(why);
                    woken.extend(state.readers.drain().chain(state.writers.drain()).map(|(_, waker)| waker));
                    let all = [&self.may_open, &self.datagram, &self.delivered, &self.moved, &self.ended];
                    all.into_iter().chain(&self.opened).for_each(|event| _ = event.notify(usize::MAX));
                }
            }
        }
        woken
    }

    pub(super) fn end(&self) -> Option<SessionEnd> {
        self.lock().end.clone()
    }

    /// Returns the end as an error, of a session that is over.
    pub(super) fn over(&self) -> SessionError {
        self.end().map_or(SessionError::Closed, SessionError::Ended)
    }

    /// Returns the number of moves, and the carrier in use.
    pub(super) fn carrier(&self) -> (u64, Option<PipeInfo>) {
        let state = self.lock();
        let on = state.on.and_then(|on| state.carriers.iter().find(|(id, _)| *id == on));
        (state.moves, on.map(|(_, info)| *info))
    }

    /// Returns the number of changes of the carrier, losses included.
    pub(super) fn changes(&self) -> u64 {
        self.lock().changes
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(&self.0.peer).finish()
    }
}
