//! Ends of a stream, each with the traits of the runtimes that the crate's features name.

use std::sync::Arc;
use std::task::{Context, Poll};
#[cfg(any(feature = "futures-io", feature = "tokio"))]
use std::{io, pin::Pin};

use bytes::Bytes;
use p2pd_core::pipe::session::{ReadResult, StreamId, WriteError};
use p2pd_sys::session::SessionError;

use super::shared::{Owner, State};

/// Sending end of a stream. It is a writer of its runtime: closing it ends the stream after what was written.
///
/// Written bytes leave by themselves. Dropping the end ends the stream too.
#[derive(Debug)]
pub struct SendStream {
    owner: Arc<Owner>,
    id: StreamId,
    tag: Bytes,
}

/// Receiving end of a stream. It is a reader of its runtime: zero bytes are the peer's end.
///
/// Dropping it before the end tells the peer that no more is wanted, with code 0.
#[derive(Debug)]
pub struct RecvStream {
    owner: Arc<Owner>,
    id: StreamId,
    tag: Bytes,
}

impl SendStream {
    pub(super) fn new(owner: &Arc<Owner>, id: StreamId, tag: Bytes) -> Self {
        SendStream { owner: owner.clone(), id, tag }
    }

    /// Returns the stream's number, the same at both ends.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Returns the protocol tag that the opener gave.
    pub fn tag(&self) -> &[u8] {
        &self.tag
    }

    /// Takes bytes to send, as many as there is room for in the stream's queue.
    ///
    /// # Errors
    /// `Stopped`, `Closed`; the end of the session.
    pub fn poll_send(&mut self, cx: &Context<'_>, data: &[u8]) -> Poll<Result<usize, SessionError>> {
        let id = self.id;
        self.owner.shared().with(|state, now| match state.session.write(now, id, data) {
            Ok(0) if !data.is_empty() => {
                remember(&mut state.writers, id, cx);
                Poll::Pending
            }
            Ok(n) => Poll::Ready(Ok(n)),
            Err(WriteError::Ended) => Poll::Ready(Err(ended(state))),
            Err(_) => Poll::Ready(Err(match state.stopped.get(&id) {
                Some(code) => SessionError::Stopped(*code),
                None => SessionError::Closed,
            })),
        })
    }

    /// Ends the stream, after what was written. Does not wait.
    pub fn finish(&mut self) {
        let id = self.id;
        self.owner.shared().act(|session, now| session.finish(now, id));
    }

    /// Gives the stream up: what has not left is dropped, and the peer gets the code.
    pub fn reset(&mut self, code: u32) {
        let id = self.id;
        self.owner.shared().act(|session, now| session.reset(now, id, code));
    }

    /// Sets the priority: of the streams with something to send, those with the greatest send first. Default 0.
    pub fn set_priority(&mut self, priority: i32) {
        let id = self.id;
        self.owner.shared().act(|session, _| session.set_priority(id, priority));
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let id = self.id;
        self.owner.shared().with(|state, now| {
            state.session.finish(now, id);
            state.stopped.remove(&id);
            state.writers.remove(&id);
        });
    }
}

impl RecvStream {
    pub(super) fn new(owner: &Arc<Owner>, id: StreamId, tag: Bytes) -> Self {
        RecvStream { owner: owner.clone(), id, tag }
    }

    /// Returns the stream's number, the same at both ends.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Returns the protocol tag that the opener gave.
    pub fn tag(&self) -> &[u8] {
        &self.tag
    }

    /// Reads bytes; zero is the peer's end.
    ///
    /// # Errors
    /// `Reset`, `Closed`; the end of the session.
    pub fn poll_receive(&mut self, cx: &Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, SessionError>> {
        let id = self.id;
        let empty = buffer.is_empty();
        self.owner.shared().with(|state, now| match state.session.read(now, id, buffer) {
            ReadResult::Empty if empty => Poll::Ready(Ok(0)),
            result => given(state, id, cx, result).map_ok(|n| n.unwrap_or(0)),
        })
    }

    /// Takes bytes as they came, without a copy, at most `most`; `None` is the peer's end.
    ///
    /// # Errors
    /// As [`poll_receive`](Self::poll_receive).
    pub async fn read_chunk(&mut self, most: usize) -> Result<Option<Bytes>, SessionError> {
        let id = self.id;
        std::future::poll_fn(|cx| {
            self.owner.shared().with(|state, now| {
                let result = state.session.read_chunk(now, id, most.max(1));
                given(state, id, cx, result)
            })
        })
        .await
    }

    /// Gives the stream up: the peer gets the code, and what waits is dropped.
    pub fn stop(&mut self, code: u32) {
        let id = self.id;
        self.owner.shared().act(|session, now| session.stop(now, id, code));
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let id = self.id;
        self.owner.shared().with(|state, now| {
            state.session.stop(now, id, 0);
            state.readers.remove(&id);
        });
    }
}

/// Returns what a read gave, `None` for the peer's end; or remembers the task that waits.
fn given<T>(
    state: &mut State,
    id: StreamId,
    cx: &Context<'_>,
    result: ReadResult<T>,
) -> Poll<Result<Option<T>, SessionError>> {
    Poll::Ready(match result {
        ReadResult::Read(what) => Ok(Some(what)),
        ReadResult::Empty => {
            remember(&mut state.readers, id, cx);
            return Poll::Pending;
        }
        ReadResult::End => Ok(None),
        ReadResult::Reset(code) => Err(SessionError::Reset(code)),
        ReadResult::Gone => Err(ended(state)),
    })
}

fn remember(
    tasks: &mut std::collections::HashMap<StreamId, std::task::Waker>,
    id: StreamId,
    cx: &Context<'_>,
) {
    tasks.insert(id, cx.waker().clone());
}

fn ended(state: &State) -> SessionError {
    state.end.clone().map_or(SessionError::Closed, SessionError::Ended)
}

#[cfg(feature = "futures-io")]
impl futures_io::AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_receive(cx, buffer).map_err(Into::into)
    }
}

#[cfg(feature = "futures-io")]
impl futures_io::AsyncWrite for SendStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, data).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

#[cfg(feature = "tokio")]
impl tokio::io::AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = std::task::ready!(self.poll_receive(cx, buffer.initialize_unfilled()))?;
        buffer.advance(n);
        Poll::Ready(Ok(()))
    }
}

#[cfg(feature = "tokio")]
impl tokio::io::AsyncWrite for SendStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, data).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}
