//! Pipes that were handed out: which are gone again, and which end for a reason that their sockets do not know of.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pd_core::{IoFailure, PipeEnd, SockId};
use socket2::{SockRef, Socket};

use crate::failure;

/// The list of an engine. It is looked at in each turn of the loop: nobody waits for an old pipe's place but a new
/// caller, which wakes the loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Released(Arc<Mutex<Vec<SockId>>>);

/// A pipe's own mark: the pipe is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    sock: SockId,
    released: Released,
    grip: Grip,
}

/// An engine's hold on a pipe that is its user's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grip(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Duplicate of the pipe's socket as long as there is a pipe, and no longer: an open duplicate keeps the stream
    /// open. [`PIPE_DESCRIPTORS`](p2pd_core::PIPE_DESCRIPTORS) reckons with it.
    socket: Option<Socket>,
    over: Option<PipeEnd>,
}

impl Released {
    /// Creates a pipe's mark, and the hold on it. Where there is no descriptor for a duplicate of the socket, the hold
    /// does nothing.
    pub(crate) fn hold(&self, sock: SockId, socket: &SockRef<'_>) -> (Held, Grip) {
        let grip = Grip::default();
        grip.state().socket = socket.try_clone().ok();
        (Held { sock, released: self.clone(), grip: grip.clone() }, grip)
    }

    /// Adds a stream that failed before it was handed out.
    pub(crate) fn add(&self, sock: SockId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sock);
    }

    /// Takes those that are gone since the last call.
    pub(crate) fn take(&self) -> Vec<SockId> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Held {
    /// Returns why the engine has ended the pipe, if it has.
    pub(super) fn over(&self) -> Option<PipeEnd> {
        self.grip.state().over
    }

    /// The error of a socket, by its real name.
    pub(super) fn explain(&self, why: io::Error) -> io::Error {
        if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
            return why;
        }
        match self.over() {
            Some(over) => over_as_error(over),
            // Windows gives the same where only the user's own timeout is over.
            None if crate::sys::NAMES_SILENCE && is_silence(&why) => over_as_error(PipeEnd::Vanished),
            None => why,
        }
    }
}

impl Grip {
    /// Ends the pipe: its reader and its writer wake up, and get the reason.
    pub(crate) fn end(&self, why: PipeEnd) {
        let mut state = self.state();
        state.over.get_or_insert(why);
        if let Some(socket) = &state.socket {
            // Nothing that waits would arrive. Either fails only where the stream has ended already.
            let _ = crate::socket::reset_on_close(socket);
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Looks at the socket, if there is a pipe still.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Socket) -> Option<T>) -> Option<T> {
        self.state().socket.as_ref().and_then(at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.grip.state().socket = None;
        self.released.add(self.sock);
    }
}

/// The system's words for a peer of an open stream that answers nothing: its own, or those of the last router.
fn is_silence(why: &io::Error) -> bool {
    why.raw_os_error().is_some() && matches!(failure(why), IoFailure::TimedOut | IoFailure::Unreachable)
}

/// Turns such an end into the error of reading and writing.
pub(super) fn over_as_error(over: PipeEnd) -> io::Error {
    let kind = match over {
        PipeEnd::ClosedByPeer => io::ErrorKind::UnexpectedEof,
        PipeEnd::Silent | PipeEnd::Vanished => io::ErrorKind::TimedOut,
        PipeEnd::Broken(_) => io::ErrorKind::InvalidData,
        PipeEnd::ServerForgot | PipeEnd::ServerGone => io::ErrorKind::ConnectionReset,
        PipeEnd::AddressGone => io::ErrorKind::NetworkDown,
        _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, over)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn streams() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        [near, listener.accept().unwrap().0]
    }

    #[test]
    fn a_pipe_is_told_of_once_when_it_is_gone_and_its_stream_ends_with_it() {
        let released = Released::default();
        let ([near, mut far], [other, _far]) = (streams(), streams());
        let [(a, grip), (b, _)] =
            [(1, &near), (2, &other)].map(|(n, s)| released.hold(SockId::accepted(n), &SockRef::from(s)));
        assert_eq!((released.take(), grip.look(|_| Some(()))), (vec![], Some(())));
        drop((near, a));
        assert_eq!((released.take(), grip.look(|_| Some(()))), (vec![SockId::accepted(1)], None));
        assert_eq!(far.read(&mut [0]).unwrap(), 0, "the hold does not keep it open");
        std::thread::spawn(move || drop(b)).join().unwrap();
        assert_eq!((released.take(), released.take()), (vec![SockId::accepted(2)], Vec::new()));
    }

    #[test]
    fn an_end_wakes_the_reader_and_is_the_first_one_said() {
        let [mut near, _far] = streams();
        let (held, grip) = Released::default().hold(SockId::accepted(1), &SockRef::from(&near));
        let reader = std::thread::spawn(move || near.read(&mut [0]).map(|n| (n, held.over())));
        std::thread::sleep(std::time::Duration::from_millis(20));
        grip.end(PipeEnd::AddressGone);
        grip.end(PipeEnd::Vanished);
        assert_eq!(reader.join().unwrap().unwrap(), (0, Some(PipeEnd::AddressGone)));
    }

    #[cfg(unix)]
    #[test]
    fn what_the_system_says_of_silence_has_our_name_for_it() {
        use rustix::io::Errno;
        let [near, _far] = streams();
        let (held, grip) = Released::default().hold(SockId::accepted(1), &SockRef::from(&near));
        let said =
            |errno: Errno| held.explain(io::Error::from_raw_os_error(errno.raw_os_error())).to_string();
        for errno in [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH] {
            assert_eq!(said(errno), PipeEnd::Vanished.to_string());
        }
        assert!(said(Errno::CONNRESET).contains("reset"));
        grip.end(PipeEnd::AddressGone);
        assert_eq!(said(Errno::PIPE), PipeEnd::AddressGone.to_string());
        assert_eq!(held.explain(io::ErrorKind::WouldBlock.into()).kind(), io::ErrorKind::WouldBlock);
    }
}
