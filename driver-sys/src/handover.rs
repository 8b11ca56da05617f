//! Handover of sockets: to a program that is started with them, or to one that runs already.
//!
//! The socket of a plain pipe needs nothing of p2pd any more: `into_std` of a driver's pipe gives it, and it becomes an
//! `OwnedFd` by `into`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, dup2, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The number that [`inherit`] gives to the socket in the program that it starts.
pub const INHERITED: i32 = 3;

/// Flag that closes received descriptors in programs that this one starts. Apple's systems have no such flag: there it
/// is set on the descriptor once it is here.
#[cfg(not(target_vendor = "apple"))]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::empty();

/// Makes the program inherit this socket as descriptor 3. The command holds it until it is dropped.
///
/// # Errors
/// Where no descriptor is left.
#[allow(unsafe_code)]
pub fn inherit(command: &mut Command, socket: OwnedFd) -> io::Result<()> {
    // A copy with a number of 3 or more, so that 3 is taken in this process from now on: by this copy, or by something
    // else. A free 3 could become the pipe through which the child tells that it could not be started.
    let copy = fcntl_dupfd_cloexec(&socket, INHERITED)?;
    drop(socket);
    let place = move || {
        if copy.as_raw_fd() == INHERITED {
            fcntl_setfd(&copy, FdFlags::empty())?;
        } else {
            // SAFETY: the descriptor is only replaced, and never closed by this value.
            let mut three = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(INHERITED) });
            dup2(&copy, &mut three)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// Sends a socket to the process at the other end, with one byte; the sender's own copy stays open until it is dropped.
///
/// # Errors
/// Of `sendmsg`.
pub fn send(to: &UnixStream, socket: impl AsFd) -> io::Result<()> {
    let sockets = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
    debug_assert!(fits, "the space is made for it");
    sendmsg(to, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Receives a socket that [`send`] sent. It is not inherited by programs that this one starts.
///
/// # Errors
/// Of `recvmsg`; `UnexpectedEof` if the other end is gone, `InvalidData` if it sent no socket.
pub fn receive(from: &UnixStream) -> io::Result<OwnedFd> {
    let (mut byte, mut space) = ([0], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, CLOSE_ON_EXEC)?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut sockets = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let socket = sockets.next().ok_or(io::ErrorKind::InvalidData)?;
    #[cfg(target_vendor = "apple")]
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_socket_sent_over_a_unix_socket_is_the_same_socket() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        send(&here, &far).unwrap();
        drop(far);
        let far = receive(&there).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&far).unwrap(), FdFlags::CLOEXEC, "no other program gets it");
        let mut far = UnixStream::from(far);
        near.write_all(b"across").unwrap();
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "across");
        (&here).write_all(b"x").unwrap();
        assert_eq!(receive(&there).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(here);
        assert_eq!(receive(&there).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_program_inherits_the_socket_as_descriptor_3() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "read word <&3; echo \"heard $word\" >&3"]);
        inherit(&mut command, far.into()).unwrap();
        let mut child = command.spawn().unwrap();
        drop(command);
        near.write_all(b"this\n").unwrap();
        let mut text = String::new();
        // To the end: nobody else holds the socket open.
        near.read_to_string(&mut text).unwrap();
        assert_eq!(text, "heard this\n");
        assert!(child.wait().unwrap().success());
        let mut missing = Command::new("/nonexistent/program");
        let (mut near, far) = UnixStream::pair().unwrap();
        inherit(&mut missing, far.into()).unwrap();
        assert_eq!(missing.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(missing);
        assert_eq!(near.read(&mut [0; 8]).unwrap(), 0, "not a byte of ours");
    }
}
