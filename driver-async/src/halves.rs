//! A pipe to a peer, read by one task and written by another.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use socket2::SockRef;

use crate::peer::Pipe;
use crate::runtime::Runtime;

/// Half of a pipe: one of its two holders. The pipe itself keeps the waiting reader and the waiting writer apart.
#[derive(Debug)]
pub(crate) struct Half<R: Runtime> {
    pipe: Arc<Mutex<Pipe<R>>>,
}

impl<R: Runtime> Half<R> {
    pub(crate) fn both(pipe: Pipe<R>) -> [Self; 2] {
        let pipe = Arc::new(Mutex::new(pipe));
        [Half { pipe: pipe.clone() }, Half { pipe }]
    }

    pub(crate) fn downgrade(&self) -> Weak<Mutex<Pipe<R>>> {
        Arc::downgrade(&self.pipe)
    }

    fn pipe(&self) -> MutexGuard<'_, Pipe<R>> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.pipe().poll_read(cx, buffer)).await
    }

    pub(crate) async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = poll_fn(|cx| self.pipe().poll_write(cx, data)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = data.get(written..).unwrap_or_default();
        }
        poll_fn(|cx| self.pipe().poll_flush(cx)).await
    }

    pub(crate) async fn end(&self) -> io::Result<()> {
        poll_fn(|cx| self.pipe().poll_end(cx)).await
    }
}

/// Gives the socket of a pipe to a function, while a half is left.
pub(crate) fn with_socket<R: Runtime, T>(
    pipe: &Weak<Mutex<Pipe<R>>>,
    work: impl FnOnce(SockRef<'_>) -> T,
) -> Option<T> {
    let pipe = pipe.upgrade()?;
    let pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    Some(work(pipe.socket()))
}
