//! The task by which the echo service answers while nobody reads a pipe.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use p2pd_sys::{Half, Layer, ReadAhead, Wakers};

use crate::runtime::Runtime;
use crate::tcp::Stream;

/// Time that a reader has to take what came: whoever reads answers by itself.
const READER: Duration = Duration::from_millis(20);

/// The task, which ends with this. A pipe drops it after its stream and its layer.
#[derive(Debug)]
pub(crate) struct Echo {
    readable: Wakers,
}

impl Echo {
    /// Answers on this pipe while nobody reads it, until it is dropped or has ended. The task shares the stream, but only
    /// while it has the layer. `writable` is what the pipe waits by to write.
    pub(crate) fn spawn<R: Runtime>(
        stream: &Arc<Stream<R>>,
        layer: &Arc<Mutex<Layer>>,
        writable: &Wakers,
    ) -> Self {
        let readable = Wakers::default();
        let pipe = Pipe::<R> { stream: Arc::downgrade(stream), layer: Arc::downgrade(layer) };
        R::spawn(answer(pipe, readable.clone(), writable.clone()));
        Echo { readable }
    }

    /// Returns the context by which the reader of the pipe waits for its stream.
    pub(crate) fn reader(&self, cx: &Context<'_>) -> Context<'_> {
        self.readable.register(Half::Reader, cx)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.readable.wake();
    }
}

struct Pipe<R: Runtime> {
    stream: Weak<Stream<R>>,
    layer: Weak<Mutex<Layer>>,
}

impl<R: Runtime> Pipe<R> {
    /// Does something with the pipe, if there still is one.
    fn with<T>(&self, work: impl FnOnce(&Stream<R>, &mut Layer) -> T) -> Option<T> {
        let layer = self.layer.upgrade()?;
        let mut layer = layer.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = self.stream.upgrade()?;
        Some(work(&stream, &mut layer))
    }
}

async fn answer<R: Runtime>(pipe: Pipe<R>, readable: Wakers, writable: Wakers) {
    let mut state = ReadAhead::Waits;
    loop {
        let ready = poll_fn(|cx| {
            // In every state: the end of the pipe is told so.
            let mut reading = readable.register(Half::Echo, cx);
            let ready = pipe.with(|stream, layer| match state {
                ReadAhead::Waits => stream.poll_readable(&mut reading),
                ReadAhead::Sending => stream.poll_writable(&mut writable.register(Half::Echo, cx)),
                ReadAhead::Full => layer.poll_room(cx).map(Ok),
                ReadAhead::Ended => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            });
            match ready {
                Some(ready) => ready.map(|ready| ready.is_ok()),
                None => Poll::Ready(false),
            }
        });
        if !ready.await {
            return;
        }
        let next = if state == ReadAhead::Sending {
            pipe.with(|stream, layer| match layer.flush(&mut &*stream) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ReadAhead::Sending,
                _ => ReadAhead::Waits,
            })
        } else {
            let Some(before) = pipe.with(|_, layer| layer.reads()) else { return };
            R::sleep(READER).await;
            pipe.with(|stream, layer| match layer.reads() == before {
                true => layer.read_ahead(&mut &*stream),
                false => ReadAhead::Waits,
            })
        };
        let Some(next) = next else { return };
        state = next;
    }
}
