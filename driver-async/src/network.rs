//! The task that calls back at changes of the machine's network.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use p2pd_sys::messages::NetworkChange;
use p2pd_sys::messages::network::{COMPARE_EVERY, NetworkWatch, QUIET, Word, changes};

use crate::pipe::CallbackId;
use crate::runtime::Runtime;
use crate::shared::Shared;
use crate::tcp::read;

/// Calls back until the pipe has ended or the callback was taken away.
pub(crate) async fn run<R, F, T>(shared: Arc<Shared<R>>, id: CallbackId, callback: F)
where
    R: Runtime,
    F: Fn(NetworkChange) -> T + Send + Sync + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let mut told = changes().and_then(R::tcp).ok();
    let mut watch = NetworkWatch::new(shared.local);
    loop {
        {
            let mut unheard = pin!(shared.unheard(id));
            let mut word = pin!(word::<R>(&mut told));
            let over = poll_fn(|cx| match unheard.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => word.as_mut().poll(cx).map(|()| false),
            });
            if over.await {
                return;
            }
        }
        let change = watch.compare(&p2pd_sys::cards());
        if !shared.inbox().at_change.contains(&id) {
            return;
        }
        if let Some(change) = change {
            callback(change).await;
        }
    }
}

/// Waits until the interfaces may have changed.
async fn word<R: Runtime>(told: &mut Option<R::Tcp>) {
    let Some(socket) = told else { return R::sleep(COMPARE_EVERY).await };
    let mut buffer = [0; 8192];
    loop {
        let read = read::<R>(socket, &mut buffer).await;
        match Word::of(&read, &buffer) {
            Word::None | Word::Idle => {}
            Word::Changed => break,
            Word::Lost => {
                *told = None;
                return;
            }
        }
    }
    R::sleep(QUIET).await;
}
