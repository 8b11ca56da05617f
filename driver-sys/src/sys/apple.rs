//! macOS, iOS and their like.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::time::{ClockId, clock_gettime};
use socket2::{SockRef, Socket, TcpKeepalive};

use crate::liveness::Signs;

pub(crate) use super::route::{changes, matters};

/// A connected UDP socket sends to its peer alone.
pub(crate) const CONNECTED_SENDS_ANYWHERE: bool = false;

/// Nanoseconds of a clock that stands still while the machine sleeps: `CLOCK_UPTIME_RAW`, the standard library's.
pub(crate) fn awake() -> i64 {
    static ZERO: OnceLock<Instant> = OnceLock::new();
    i64::try_from(ZERO.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(i64::MAX)
}

/// Nanoseconds of a clock that goes on while the machine sleeps: `CLOCK_MONOTONIC`, as clock_gettime(3) says there.
pub(crate) fn through() -> Option<i64> {
    let now = clock_gettime(ClockId::Monotonic);
    Some(now.tv_sec * 1_000_000_000 + now.tv_nsec)
}

/// Nothing is known of the kinds of links, beside their types.
pub(crate) fn dump_links(_: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    Ok(())
}

/// Does nothing: the system has no such option.
pub(crate) fn quick_ack(_: &SockRef<'_>) {}

/// Has an idle stream be asked again so often, at this distance.
pub(crate) fn ask_again(ask: TcpKeepalive, interval: Duration, times: u32) -> TcpKeepalive {
    ask.with_interval(interval).with_retries(times)
}

/// Nothing is known of the other end.
pub(crate) fn signs(_: &Socket) -> Option<Signs> {
    None
}

/// Gives a file another name, which must be free: `RENAME_EXCL`, which some file systems do not know.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}
