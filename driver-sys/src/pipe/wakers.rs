//! Shared wake-up for two tasks.
//!
//! A stream of tokio or async-io remembers one task that waits to write. The reading half of a pipe may write too:
//! bytes that a writer left in the pipe, or answers of the echo service. When the pipe is split into halves, that half
//! is another task. The task that registered last would then take the other's wake-up away.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Half of the pipe that is being polled.
#[derive(Clone, Copy, Debug)]
pub enum Half {
    /// The one that reads.
    Reader,
    /// The one that writes.
    Writer,
}

/// The waker to give to the stream's writing side in place of a task's own: it wakes both halves.
#[derive(Debug)]
pub struct Wakers {
    halves: Arc<Halves>,
    both: Waker,
}

#[derive(Debug, Default)]
struct Halves {
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

impl Default for Wakers {
    fn default() -> Self {
        let halves = Arc::new(Halves::default());
        Wakers { both: halves.clone().into(), halves }
    }
}

impl Wakers {
    /// Remembers the task that polls this half, and returns the context to poll the stream's writing side with.
    pub fn register(&self, half: Half, cx: &Context<'_>) -> Context<'_> {
        let place = match half {
            Half::Reader => &self.halves.reader,
            Half::Writer => &self.halves.writer,
        };
        let mut waker = place.lock().unwrap_or_else(PoisonError::into_inner);
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        Context::from_waker(&self.both)
    }
}

impl Wake for Halves {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        for place in [&self.reader, &self.writer] {
            // Taken out first: a waker may run anything, even a poll of this very pipe.
            let waker = place.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
