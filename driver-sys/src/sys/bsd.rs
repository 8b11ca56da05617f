//! FreeBSD and the other BSDs, and all Unixes that have no file of their own.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket, TcpKeepalive};

use crate::liveness::Signs;

pub(crate) use super::route::{changes, matters};

/// A connected UDP socket sends to its peer alone.
pub(crate) const CONNECTED_SENDS_ANYWHERE: bool = false;

/// Nanoseconds of a monotonic clock.
pub(crate) fn awake() -> i64 {
    static ZERO: OnceLock<Instant> = OnceLock::new();
    i64::try_from(ZERO.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(i64::MAX)
}

/// No clock is known to go on while the machine sleeps.
pub(crate) fn through() -> Option<i64> {
    None
}

/// Nothing is known of the kinds of links, beside their types.
pub(crate) fn dump_links(_: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    Ok(())
}

/// No socket can be told which interface to leave by.
pub(crate) fn leave_by(_: &SockRef<'_>, _: SocketAddr, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// No socket can be held to an interface.
pub(crate) fn hold_to(_: &Socket, _: SocketAddr, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Two listeners cannot share a port by their interfaces.
pub(crate) fn listen_beside(_: &Socket, _: SocketAddr, _: u16, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is no such option.
pub(crate) fn quick_ack(_: &SockRef<'_>) {}

/// Has an idle stream be asked again so often, at this distance.
#[cfg(any(target_os = "freebsd", target_os = "netbsd", target_os = "dragonfly"))]
pub(crate) fn ask_again(ask: TcpKeepalive, interval: Duration, times: u32) -> TcpKeepalive {
    ask.with_interval(interval).with_retries(times)
}

/// The whole system has one setting for this.
#[cfg(not(any(target_os = "freebsd", target_os = "netbsd", target_os = "dragonfly")))]
pub(crate) fn ask_again(ask: TcpKeepalive, _: Duration, _: u32) -> TcpKeepalive {
    ask
}

/// Nothing is known of the other end.
pub(crate) fn signs(_: &Socket) -> Option<Signs> {
    None
}

/// No rename leaves alone what has the name.
pub(crate) fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
