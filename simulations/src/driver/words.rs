//! The core's words of sockets, as those of the simulated host.

use p2pd_core::io::{Interface, Reuse};
use p2pd_core::{CloseHow, IoFailure, SockOpts};

use crate::host::{self, Close, Failure, Host};

pub(super) fn reuse(opts: SockOpts) -> host::Reuse {
    match opts.reuse {
        Reuse::No => host::Reuse::No,
        Reuse::Address => host::Reuse::Address,
        Reuse::AddressAndPort => host::Reuse::AddressAndPort,
    }
}

pub(super) fn close(how: CloseHow) -> Close {
    match how {
        CloseHow::Graceful => Close::Graceful,
        CloseHow::Reset => Close::Reset,
        CloseHow::Drop => Close::Drop,
    }
}

pub(super) fn failure(why: Failure) -> IoFailure {
    match why {
        Failure::Refused => IoFailure::Refused,
        Failure::Reset => IoFailure::Reset,
        Failure::TimedOut => IoFailure::TimedOut,
        Failure::AddrInUse => IoFailure::AddrInUse,
        Failure::AddrNotAvailable => IoFailure::AddrNotAvailable,
        Failure::Unreachable => IoFailure::Unreachable,
        // EINVAL.
        Failure::Invalid => IoFailure::Other(22),
    }
}

/// The interfaces as a node is told of them: each leads to the internet.
pub(super) fn interfaces(host: &Host) -> Vec<Interface> {
    let of = |i: host::Interface| Interface {
        default_route: true,
        gateway: i.gateway,
        ..Interface::new(i.index, i.ip, i.prefix)
    };
    host.interfaces().into_iter().map(of).collect()
}
