//! Shared wake-up for several tasks.
//!
//! A stream of tokio or async-io remembers one task that waits to write, and one that waits to read. The reading half of
//! a pipe may write too: bytes that a writer left in the pipe, or answers of the echo service. When the pipe is split into
//! halves, that half is another task; the echo service has a third one. The task that registered last would then take the
//! others' wake-up away.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Task that polls the pipe's stream.
#[derive(Clone, Copy, Debug)]
// Exhaustive: a stream has two halves.
pub enum Half {
    /// The half that reads.
    Reader,
    /// The half that writes.
    Writer,
    /// The echo service.
    Echo,
}

/// The waker to give to one side of the stream in place of a task's own: it wakes all tasks that wait for this side.
#[derive(Clone, Debug)]
pub struct Wakers {
    tasks: Arc<Tasks>,
    all: Waker,
}

/// A place for each [`Half`].
#[derive(Debug, Default)]
struct Tasks([Mutex<Option<Waker>>; 3]);

impl Default for Wakers {
    fn default() -> Self {
        let tasks = Arc::new(Tasks::default());
        Wakers { all: tasks.clone().into(), tasks }
    }
}

impl Wakers {
    /// Remembers the task that polls as this half, and returns the context to poll this side of the stream with.
    pub fn register(&self, half: Half, cx: &Context<'_>) -> Context<'_> {
        let mut waker = self.tasks.0[half as usize].lock().unwrap_or_else(PoisonError::into_inner);
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        Context::from_waker(&self.all)
    }

    /// Wakes all of them.
    pub fn wake(&self) {
        self.all.wake_by_ref();
    }
}

impl Wake for Tasks {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        for place in &self.0 {
            // Taken out first: a waker may run anything, even a poll of this very pipe.
            let waker = place.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
