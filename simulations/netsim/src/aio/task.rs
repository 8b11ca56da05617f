//! Tasks, and what becomes of them.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::kernel::{Body, current};
use super::ready::{Place, Waiting};

/// Begins a task on the host of the task that calls, which need not be `Send`.
///
/// # Panics
/// Panics outside of a task.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let (body, slot) = body(future);
    let (task, place) = current(|current| (current.kernel.begin(body), current.place.clone()));
    place.wake(task);
    JoinHandle { slot, place, task }
}

/// Lets the host's other woken tasks run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Handle of a task: a future of its result. The task goes on if this is dropped.
pub struct JoinHandle<T> {
    pub(super) slot: Arc<Slot<T>>,
    pub(super) place: Place,
    pub(super) task: u64,
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("task", &self.task).finish_non_exhaustive()
    }
}

impl<T> JoinHandle<T> {
    /// Has the task dropped before it is polled again. Its sockets are closed.
    pub fn abort(&self) {
        self.place.abort(self.task);
    }

    /// Returns true once the task has ended or was dropped.
    pub fn is_finished(&self) -> bool {
        !matches!(self.slot.lock().0, Outcome::Running)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.is_finished() {
            return Poll::Ready(self.slot.take().ok_or(JoinError(())));
        }
        self.slot.lock().1.add(cx.waker());
        Poll::Pending
    }
}

/// Error of a task without a result: it was aborted, or its host was killed. A panic ends the simulation instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinError(pub(super) ());

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task was cancelled")
    }
}

impl std::error::Error for JoinError {}

/// Place of a task's result.
pub(super) struct Slot<T>(Mutex<(Outcome<T>, Waiting)>);

enum Outcome<T> {
    Running,
    Done(T),
    /// Cancelled, or taken already.
    Gone,
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, (Outcome<T>, Waiting)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the result out, if there is one.
    pub(super) fn take(&self) -> Option<T> {
        match core::mem::replace(&mut self.lock().0, Outcome::Gone) {
            Outcome::Done(value) => Some(value),
            Outcome::Running | Outcome::Gone => None,
        }
    }

    fn end(&self, outcome: Outcome<T>) {
        let mut slot = self.lock();
        if matches!(slot.0, Outcome::Running) {
            slot.0 = outcome;
            slot.1.wake();
        }
    }
}

/// The task's end of its slot, which says so if the task is dropped.
struct Ending<T>(Arc<Slot<T>>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.end(Outcome::Gone);
    }
}

/// Returns a future as the body of a task, and the place of its result.
pub(super) fn body<F>(future: F) -> (Body, Arc<Slot<F::Output>>)
where
    F: Future + 'static,
{
    let slot = Arc::new(Slot(Mutex::new((Outcome::Running, Waiting::default()))));
    let ending = Ending(slot.clone());
    let body = async move {
        let value = future.await;
        ending.0.end(Outcome::Done(value));
    };
    (Box::pin(body), slot)
}
