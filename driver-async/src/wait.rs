//! Waiting no longer than for a time, on whichever runtime.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::runtime::Runtime;

/// Returns the output of a future, or `None` if it takes longer than `time`.
pub(crate) async fn within<R: Runtime, T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut late) = (pin!(work), pin!(None));
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        // What is there needs no timer.
        if late.is_none() {
            late.set(Some(R::sleep(time)));
        }
        late.as_mut().as_pin_mut().map_or(Poll::Pending, |late| late.poll(cx).map(|()| None))
    })
    .await
}
