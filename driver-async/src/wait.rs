//! Waiting for one of two things, on whichever runtime.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::runtime::Runtime;

/// What a future gives, unless it takes longer.
pub(crate) async fn within<R: Runtime, T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        R::sleep(time).await;
        None
    };
    first(async { Some(work.await) }, late).await
}

/// What the first to be done of two futures gives; where both are, of the first.
pub(crate) async fn first<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Pending => other.as_mut().poll(cx),
        done => done,
    })
    .await
}
