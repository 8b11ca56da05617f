//! Ready sockets of an async runtime: each socket has a waker of its own, and one task hears of all of them.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use p2pd_core::SockId;

/// The sockets that were woken. Clones are handles to the same list.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    sockets: VecDeque<Arc<Bell>>,
    task: Option<Waker>,
}

/// The waker of one socket, for both directions.
#[derive(Clone, Debug)]
pub struct SockWaker(Waker);

#[derive(Debug)]
struct Bell {
    sock: SockId,
    /// True if the socket is in the list already.
    rung: AtomicBool,
    list: Ready,
}

impl Ready {
    /// A waker for this socket.
    pub fn waker(&self, sock: SockId) -> SockWaker {
        SockWaker(Arc::new(Bell { sock, rung: AtomicBool::new(false), list: self.clone() }).into())
    }

    /// The next socket that was woken, if there is one.
    pub fn try_next(&self) -> Option<SockId> {
        let bell = self.0.lock().unwrap_or_else(PoisonError::into_inner).sockets.pop_front()?;
        bell.rung.store(false, Ordering::Release);
        Some(bell.sock)
    }

    /// The next socket that was woken since it was last given.
    pub fn poll_next(&self, cx: &Context<'_>) -> Poll<SockId> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match list.sockets.pop_front() {
            Some(bell) => {
                bell.rung.store(false, Ordering::Release);
                Poll::Ready(bell.sock)
            }
            None => {
                if !list.task.as_ref().is_some_and(|t| t.will_wake(cx.waker())) {
                    list.task = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl SockWaker {
    /// Returns the context to poll the socket with.
    pub fn context(&self) -> Context<'_> {
        Context::from_waker(&self.0)
    }

    /// Tries `io` until the result is not `WouldBlock`, or until `poll_ready` has arranged for this waker to be woken.
    ///
    /// # Errors
    /// Of `io` and of `poll_ready`; on `WouldBlock` the socket is reported once it is ready.
    pub fn retry<T>(
        &self,
        mut io: impl FnMut() -> io::Result<T>,
        mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> io::Result<T> {
        loop {
            match io() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match poll_ready(&mut self.context()) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => return Err(e),
                },
                done => return done,
            }
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let list = self.list.clone();
        let mut list = list.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.sockets.push_back(self);
        let task = list.task.take();
        drop(list);
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_is_told_once_and_again_after_it_was_taken() {
        let ready = Ready::default();
        let [one, two] = [1, 2].map(|n| (SockId::accepted(n), ready.waker(SockId::accepted(n))));
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(ready.poll_next(&cx), Poll::Pending);
        for (_, waker) in [&one, &two, &one] {
            waker.context().waker().wake_by_ref();
        }
        assert_eq!(ready.poll_next(&cx), Poll::Ready(one.0));
        one.1.context().waker().wake_by_ref();
        assert_eq!(ready.poll_next(&cx), Poll::Ready(two.0));
        assert_eq!(ready.poll_next(&cx), Poll::Ready(one.0));
        assert_eq!(ready.poll_next(&cx), Poll::Pending);
    }
}
