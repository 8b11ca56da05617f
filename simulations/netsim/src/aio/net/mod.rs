//! Sockets of the host whose task calls, with the names and the errors of `tokio::net`.

mod address;
mod split;
mod tcp;
mod udp;

use std::io;

use crate::host::Failure;

pub use self::address::ToSocketAddrs;
pub use self::split::{OwnedReadHalf, OwnedWriteHalf};
pub use self::tcp::{TcpListener, TcpSocket, TcpStream};
pub use self::udp::UdpSocket;

/// Returns the error that tokio has of the kernel for a failure.
fn error(failure: Failure) -> io::Error {
    let kind = match failure {
        Failure::Refused => io::ErrorKind::ConnectionRefused,
        Failure::Reset => io::ErrorKind::ConnectionReset,
        Failure::TimedOut => io::ErrorKind::TimedOut,
        Failure::AddrInUse => io::ErrorKind::AddrInUse,
        Failure::AddrNotAvailable => io::ErrorKind::AddrNotAvailable,
        Failure::Unreachable => io::ErrorKind::HostUnreachable,
        Failure::Invalid => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, failure)
}
