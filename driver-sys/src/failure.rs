//! Error numbers in the classes that the core tells apart.

use std::io::{Error, ErrorKind};

use p2pd_core::IoFailure;

/// The class of an error of a socket call, or of a layer around a stream.
pub fn failure(error: &Error) -> IoFailure {
    if let Some(known) = error.get_ref().and_then(|e| e.downcast_ref()) {
        return *known;
    }
    if let Some(known) = error.raw_os_error().and_then(crate::sys::failure) {
        return known;
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => IoFailure::Refused,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => IoFailure::Reset,
        ErrorKind::TimedOut => IoFailure::TimedOut,
        ErrorKind::AddrInUse => IoFailure::AddrInUse,
        ErrorKind::AddrNotAvailable => IoFailure::AddrNotAvailable,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            IoFailure::Unreachable
        }
        ErrorKind::PermissionDenied => IoFailure::NotPermitted,
        ErrorKind::OutOfMemory => IoFailure::Resources,
        _ => IoFailure::Other(error.raw_os_error().unwrap_or(0)),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn errors_fall_into_their_classes() {
        for (errno, class) in [
            (Errno::CONNREFUSED, IoFailure::Refused),
            (Errno::CONNRESET, IoFailure::Reset),
            (Errno::PIPE, IoFailure::Reset),
            (Errno::TIMEDOUT, IoFailure::TimedOut),
            (Errno::ADDRINUSE, IoFailure::AddrInUse),
            (Errno::ADDRNOTAVAIL, IoFailure::AddrNotAvailable),
            (Errno::HOSTUNREACH, IoFailure::Unreachable),
            (Errno::NETUNREACH, IoFailure::Unreachable),
            (Errno::NETDOWN, IoFailure::Unreachable),
            (Errno::PERM, IoFailure::NotPermitted),
            (Errno::MFILE, IoFailure::Resources),
        ] {
            assert_eq!(failure(&Error::from_raw_os_error(errno.raw_os_error())), class);
        }
        let odd = Errno::PROTO.raw_os_error();
        assert_eq!(failure(&Error::from_raw_os_error(odd)), IoFailure::Other(odd));
    }
}
