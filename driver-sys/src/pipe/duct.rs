//! A socket pair without the system: the bytes of a relayed pipe between its user and the engine.
//!
//! A pair of sockets copies each byte into the kernel and out of it again. Here bytes go by buffers that one end fills and the
//! other empties. Each end behaves as one of a stream socket that does not block, also where an end is closed.
//!
//! The engine's end has a waker. So there is a duct only on loops that know wakers; others have the pair: ADR 21 in docs/src/adr.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Most bytes of one buffer.
const BUFFER: usize = 64 * 1024;
/// Most bytes in one direction: about what a pair of sockets holds.
const MOST: usize = 4 * BUFFER;

/// The user's end. It remembers one task that waits to read, and one that waits to write.
#[derive(Debug)]
pub struct Duct(Arc<Shared>);

/// The engine's end.
#[derive(Debug)]
pub(crate) struct EngineEnd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    engine: Waker,
}

#[derive(Debug, Default)]
struct State {
    /// For the user.
    inbound: Queue,
    reader: Option<Waker>,
    /// From the user.
    outbound: Queue,
    writer: Option<Waker>,
    /// The engine found no room for more.
    engine_waits: bool,
    user_is_gone: bool,
    engine_is_gone: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Queue {
    buffers: VecDeque<Vec<u8>>,
    /// Bytes of the first buffer that are gone.
    gone: usize,
    length: usize,
    /// No more comes.
    ended: bool,
}

impl Queue {
    fn put(&mut self, mut data: &[u8]) -> usize {
        let before = self.length;
        while !data.is_empty() && self.length < MOST {
            let room = self.buffers.back().map_or(0, |last| BUFFER.saturating_sub(last.len()));
            if room == 0 {
                self.buffers.push_back(Vec::new());
                continue;
            }
            let (now, later) = data.split_at(data.len().min(room).min(MOST - self.length));
            if let Some(last) = self.buffers.back_mut() {
                last.extend_from_slice(now);
            }
            self.length += now.len();
            data = later;
        }
        self.length - before
    }

    /// Moves bytes into `out` until it is full or nothing is left. Returns their number.
    fn read(&mut self, out: &mut [u8]) -> usize {
        let mut read = 0;
        while let Some(first) = self.buffers.front()
            && read < out.len()
        {
            let rest = &first[self.gone..];
            let n = rest.len().min(out.len() - read);
            out[read..read + n].copy_from_slice(&rest[..n]);
            read += n;
            self.gone += n;
            if self.gone == first.len() {
                // An idle pipe holds no buffer.
                self.buffers.pop_front();
                self.gone = 0;
            }
        }
        self.length -= read;
        read
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the two ends. The waker is the engine's.
pub(crate) fn duct(engine: Waker) -> (EngineEnd, Duct) {
    let shared = Arc::new(Shared { state: Mutex::default(), engine });
    (EngineEnd(shared.clone()), Duct(shared))
}

impl Duct {
    /// Reads what is there; zero is the end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let n = state.inbound.read(buffer);
        if n == 0 && !(buffer.is_empty() || state.inbound.ended || state.engine_is_gone) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let wake = std::mem::take(&mut state.engine_waits);
        drop(state);
        if wake {
            self.0.engine.wake_by_ref();
        }
        Ok(n)
    }

    /// Takes bytes to be sent, as many as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room, `BrokenPipe` if nobody takes them any more.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.engine_is_gone || state.outbound.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // An engine that has left bytes here waits for room of its own.
        let wake = state.outbound.length == 0;
        let n = state.outbound.put(data);
        drop(state);
        if n == 0 && !data.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if wake && n > 0 {
            self.0.engine.wake_by_ref();
        }
        Ok(n)
    }

    /// Ends the direction to the engine.
    pub fn end(&self) {
        self.0.lock().outbound.ended = true;
        self.0.engine.wake_by_ref();
    }

    /// Waits until [`read`](Self::read) has something, an end included.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let State { inbound, reader, engine_is_gone, .. } = &mut *state;
        wait(inbound.length > 0 || inbound.ended || *engine_is_gone, reader, cx)
    }

    /// Waits until [`write`](Self::write) has room, an error included.
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let State { outbound, writer, engine_is_gone, .. } = &mut *state;
        wait(outbound.length < MOST || outbound.ended || *engine_is_gone, writer, cx)
    }
}

impl Drop for Duct {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.user_is_gone = true;
        state.inbound.buffers = VecDeque::new();
        drop(state);
        self.0.engine.wake_by_ref();
    }
}

impl EngineEnd {
    /// Takes bytes for the user, as many as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room, `BrokenPipe` if there is no user.
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.user_is_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = state.inbound.put(data);
        if n == 0 && !data.is_empty() {
            state.engine_waits = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Ok(n)
    }

    /// Takes a buffer of bytes of the user; an empty one is its end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock();
        let Some(buffer) = state.outbound.buffers.pop_front() else {
            let over = state.outbound.ended || state.user_is_gone;
            return if over { Ok(Vec::new()) } else { Err(io::ErrorKind::WouldBlock.into()) };
        };
        state.outbound.length -= buffer.len();
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
        Ok(buffer)
    }

    /// Returns true if there is no user any more.
    pub(crate) fn is_user_gone(&self) -> bool {
        self.0.lock().user_is_gone
    }

    /// Ends the direction to the user.
    pub(crate) fn end(&self) {
        let mut state = self.0.lock();
        state.inbound.ended = true;
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Drop for EngineEnd {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.engine_is_gone = true;
        state.outbound.buffers = VecDeque::new();
        let tasks = [state.reader.take(), state.writer.take()];
        drop(state);
        tasks.into_iter().flatten().for_each(Waker::wake);
    }
}

fn wait(ready: bool, task: &mut Option<Waker>, cx: &Context<'_>) -> Poll<io::Result<()>> {
    if ready {
        return Poll::Ready(Ok(()));
    }
    if !task.as_ref().is_some_and(|t| t.will_wake(cx.waker())) {
        *task = Some(cx.waker().clone());
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicU32);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Bell {
        fn rang(&self) -> u32 {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn each_direction_holds_four_buffers_and_wakes_who_waits() {
        let [engine, task] = [(); 2].map(|()| Arc::new(Bell::default()));
        let (end, user) = duct(engine.clone().into());
        let waker = task.clone().into();
        let cx = Context::from_waker(&waker);
        let data = vec![7; 3 * BUFFER];

        // From the user: the engine is woken for the first bytes alone.
        assert_eq!((user.write(&data).unwrap(), engine.rang()), (3 * BUFFER, 1));
        assert_eq!((user.write(&data).unwrap(), engine.rang()), (BUFFER, 0));
        assert_eq!(kind(user.write(&data)), io::ErrorKind::WouldBlock);
        assert!(user.poll_writable(&cx).is_pending());
        assert_eq!((end.read().unwrap().len(), task.rang()), (BUFFER, 1));
        assert!(user.poll_writable(&cx).is_ready());
        for _ in 0..3 {
            assert_eq!(end.read().unwrap().len(), BUFFER);
        }
        assert_eq!(kind(end.read()), io::ErrorKind::WouldBlock);

        // To the user: the engine is woken once it found no room.
        assert_eq!(kind(user.read(&mut [0; 9])), io::ErrorKind::WouldBlock);
        assert!(user.poll_readable(&cx).is_pending());
        assert_eq!((end.write(&data).unwrap(), task.rang()), (3 * BUFFER, 1));
        assert!(user.poll_readable(&cx).is_ready());
        assert_eq!(user.read(&mut [0; 9]).unwrap(), 9);
        assert_eq!((end.write(&data).unwrap(), engine.rang()), (BUFFER + 9, 0));
        assert_eq!(kind(end.write(&data)), io::ErrorKind::WouldBlock);
        let mut all = vec![0; 5 * BUFFER];
        assert_eq!((user.read(&mut all).unwrap(), engine.rang()), (4 * BUFFER, 1));
        assert_eq!(kind(user.read(&mut all)), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn bytes_come_in_order_before_the_end_of_their_direction() {
        let engine = Arc::new(Bell::default());
        let (end, user) = duct(engine.clone().into());
        for (n, word) in [&b"small "[..], b"words ", b"go together"].iter().enumerate() {
            assert_eq!(user.write(word).unwrap(), word.len());
            assert_eq!(end.write(word).unwrap(), word.len());
            assert_eq!(engine.rang(), u32::from(n == 0));
        }
        user.end();
        assert_eq!((engine.rang(), kind(user.write(b"x"))), (1, io::ErrorKind::BrokenPipe));
        assert_eq!(end.read().unwrap(), b"small words go together");
        assert_eq!((end.read().unwrap(), end.is_user_gone()), (Vec::new(), false));
        end.end();
        let mut out = [0; 64];
        assert_eq!((user.read(&mut out).unwrap(), user.read(&mut out[23..]).unwrap()), (23, 0));
        assert_eq!(&out[..23], b"small words go together");
    }

    #[test]
    fn an_end_that_is_dropped_is_the_end_of_both_directions_at_the_other() {
        let [engine, task] = [(); 2].map(|()| Arc::new(Bell::default()));
        let waker = task.clone().into();
        let cx = Context::from_waker(&waker);
        let (end, user) = duct(engine.clone().into());
        assert_eq!(user.write(b"last").unwrap(), 4);
        engine.rang();
        drop(user);
        assert_eq!((engine.rang(), end.is_user_gone()), (1, true));
        assert_eq!((end.read().unwrap(), end.read().unwrap()), (b"last".to_vec(), Vec::new()));
        assert_eq!(kind(end.write(b"x")), io::ErrorKind::BrokenPipe);

        let (end, user) = duct(engine.into());
        assert_eq!(end.write(b"last").unwrap(), 4);
        assert_eq!((user.read(&mut [0; 2]).unwrap(), user.write(&vec![0; MOST]).unwrap()), (2, MOST));
        assert!(user.poll_writable(&cx).is_pending());
        drop(end);
        assert_eq!(task.rang(), 1);
        assert_eq!((user.read(&mut [0; 9]).unwrap(), user.read(&mut [0; 9]).unwrap()), (2, 0));
        assert_eq!(kind(user.write(b"x")), io::ErrorKind::BrokenPipe);
        assert!(user.poll_readable(&cx).is_ready() && user.poll_writable(&cx).is_ready());
    }
}
