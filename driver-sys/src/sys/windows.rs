//! Windows.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawSocket;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use p2pd_core::IoFailure;
use p2pd_core::io::Reuse;
use socket2::{Domain, SockRef, Socket, TcpKeepalive};
use windows_sys::Win32::Foundation::{ERROR_TOO_MANY_OPEN_FILES, GENERIC_WRITE};
use windows_sys::Win32::Networking::WinSock::{
    IP_UNICAST_IF, IPPROTO_IP, IPPROTO_IPV6, IPV6_UNICAST_IF, SO_EXCLUSIVEADDRUSE, SOCKET, SOL_SOCKET,
    WSAEACCES, WSAEADDRINUSE, WSAEHOSTDOWN, WSAEMFILE, WSAENOBUFS, setsockopt,
};
use windows_sys::Win32::Storage::FileSystem::{MOVEFILE_WRITE_THROUGH, MoveFileExW, READ_CONTROL, WRITE_DAC};
use windows_sys::Win32::System::WindowsProgramming::QueryUnbiasedInterruptTime;

use crate::liveness::Signs;

mod access;
mod notices;

pub(crate) use access::check_own;
pub(crate) use notices::changes;

/// A timeout that a user set reads as a silent peer does.
pub(crate) const NAMES_SILENCE: bool = false;
/// Interfaces do not say whether they run in the flags that are read.
pub(crate) const SAYS_RUNNING: bool = false;
/// A connected UDP socket sends to its peer alone.
pub(crate) const CONNECTED_SENDS_ANYWHERE: bool = false;

/// Classes that the standard library has no name for.
pub(crate) fn failure(error: i32) -> Option<IoFailure> {
    match error {
        WSAEMFILE | WSAENOBUFS => Some(IoFailure::Resources),
        WSAEHOSTDOWN => Some(IoFailure::Unreachable),
        _ if error.cast_unsigned() == ERROR_TOO_MANY_OPEN_FILES => Some(IoFailure::Resources),
        _ => None,
    }
}

/// Returns true if a connect goes on in the background.
pub(crate) fn in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// No socket of changes overflows: one byte says the same as many.
pub(crate) fn is_overflow(_: &io::Error) -> bool {
    false
}

/// Each word of [`changes`] matters.
pub(crate) fn matters(_: &[u8]) -> bool {
    true
}

/// Nanoseconds of a clock that stands still while the machine sleeps.
#[allow(unsafe_code)]
pub(crate) fn awake() -> i64 {
    let mut hundreds = 0;
    // SAFETY: it writes one number, to a place of ours. It fails for a null pointer alone.
    unsafe { QueryUnbiasedInterruptTime(&mut hundreds) };
    i64::try_from(hundreds.saturating_mul(100)).unwrap_or(i64::MAX)
}

/// Nanoseconds of a clock that goes on while the machine sleeps: the performance counter, the standard library's.
pub(crate) fn through() -> Option<i64> {
    static ZERO: OnceLock<Instant> = OnceLock::new();
    let zero = ZERO.get_or_init(Instant::now);
    Some(i64::try_from(zero.elapsed().as_nanos()).unwrap_or(i64::MAX))
}

/// Nothing is known of the kinds of links, beside their types.
pub(crate) fn dump_links(_: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    Ok(())
}

/// Two TCP streams over loopback that are joined, non-blocking. If somebody else connected, that is an error.
pub(crate) fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, from) = listener.accept()?;
    if from != ours.local_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((ours, theirs))
}

/// Sets an option that is a word.
#[allow(unsafe_code)]
fn set(socket: &SockRef<'_>, level: i32, option: i32, value: u32) -> io::Result<()> {
    let place = (&raw const value).cast();
    // SAFETY: the value has four bytes and lives through the call, and the socket is open.
    let failed = unsafe { setsockopt(socket.as_raw_socket() as SOCKET, level, option, place, 4) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a socket share its port as far as `reuse` says, before it is bound. What shares nothing is exclusive: no other program
/// can bind beside it, as by SO_REUSEADDR it could. Here an address is free once its listener is gone, so that
/// `Reuse::Address` asks for nothing of TCP; for UDP it means the same on all systems.
pub(crate) fn share(socket: &Socket, reuse: Reuse) -> io::Result<()> {
    match reuse {
        Reuse::No => set(&SockRef::from(socket), SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1),
        Reuse::Address if socket.r#type()? == socket2::Type::STREAM => Ok(()),
        Reuse::Address | Reuse::AddressAndPort => socket.set_reuse_address(true),
    }
}

/// Binds a socket. Where an exclusive socket has the place, the system says that it is not permitted.
pub(crate) fn bind(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    socket.bind(&local.into()).map_err(|why| match why.raw_os_error() {
        Some(WSAEACCES) => io::Error::from_raw_os_error(WSAEADDRINUSE),
        _ => why,
    })
}

/// Binds a fresh socket and listens. One that shares its port with dials has to say so before it is bound, and would
/// then take the port of any other that shares. So a socket that shares nothing is bound there first.
pub(crate) fn listen(socket: &Socket, mut local: SocketAddr, backlog: u16, reuse: Reuse) -> io::Result<()> {
    if reuse == Reuse::AddressAndPort {
        let alone = Socket::new(Domain::for_address(local), socket2::Type::STREAM, None)?;
        if local.is_ipv6() {
            alone.set_only_v6(true)?;
        }
        bind(&alone, local)?;
        let found = alone.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        local.set_port(found.port());
    }
    share(socket, reuse)?;
    bind(socket, local)?;
    socket.listen(i32::from(backlog))
}

/// Has packets of a socket that is bound to all addresses leave by an interface: `IP_UNICAST_IF`.
pub(crate) fn leave_by(socket: &SockRef<'_>, local: SocketAddr, interface: u32) -> io::Result<()> {
    match local {
        // In network order for IPv4, and for it alone.
        SocketAddr::V4(_) => set(socket, IPPROTO_IP, IP_UNICAST_IF, interface.to_be()),
        SocketAddr::V6(_) => set(socket, IPPROTO_IPV6, IPV6_UNICAST_IF, interface),
    }
}

/// No socket is kept from hearing by other interfaces, but by its address.
pub(crate) fn hold_to(_: &Socket, _: SocketAddr, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is no need: what has an interface's address leaves by it (the strong host model, since Windows Vista).
pub(crate) fn listen_beside(_: &Socket, _: SocketAddr, _: u16, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is no such option.
pub(crate) fn quick_ack(_: &SockRef<'_>) {}

/// Has an idle stream be asked again so often, at this distance; how often older systems choose themselves.
pub(crate) fn ask_again(ask: TcpKeepalive, interval: Duration, _: u32) -> TcpKeepalive {
    ask.with_interval(interval)
}

/// Nothing is known of the other end.
pub(crate) fn signs(_: &Socket) -> Option<Signs> {
    None
}

/// There is no such limit.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    None
}

/// There is no such limit.
pub(crate) fn descriptor_limit() -> Option<u64> {
    None
}

/// No open waits here.
pub(crate) fn at_once(_: &mut OpenOptions) {}

/// A file that holds no secret has its folder's rights.
pub(crate) fn owners_alone(_: &mut OpenOptions) {}

/// A folder has the rights of the one that it is in: the files in it have their own.
pub(crate) fn owners_folders(_: &mut DirBuilder) {}

/// Creates a file with an access list of its owner alone. Until it is closed nobody else can open it, so that nobody
/// has opened it before the list was there.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).access_mode(GENERIC_WRITE | WRITE_DAC | READ_CONTROL).share_mode(0);
    let file = options.open(path)?;
    match access::restrict(&file) {
        Ok(()) => Ok(file),
        Err(why) => {
            drop(file);
            let _ = std::fs::remove_file(path);
            Err(why)
        }
    }
}

/// Gives a file another name, which must be free.
#[allow(unsafe_code)]
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (wide(from)?, wide(to)?);
    // SAFETY: both end with a zero, and live through the call.
    let done = unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), MOVEFILE_WRITE_THROUGH) };
    if done != 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A second link and no first one: as [`rename_new`], which knows all file systems here.
pub(crate) fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_new(from, to)
}

/// A path in the system's own letters, ended by a zero. Without the prefix it may have 260 letters at most.
fn wide(path: &Path) -> io::Result<Vec<u16>> {
    let whole = std::path::absolute(path)?;
    let letters: Vec<u16> = whole.as_os_str().encode_wide().collect();
    let slash = u16::from(b'\\');
    let prefix = if letters.starts_with(&[slash, slash]) { "" } else { r"\\?\" };
    Ok(prefix.encode_utf16().chain(letters).chain([0]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_descriptors_and_no_buffers_are_resources() {
        let class = |error: i32| crate::failure(&io::Error::from_raw_os_error(error));
        assert_eq!([class(WSAEMFILE), class(WSAENOBUFS)], [IoFailure::Resources; 2]);
        assert_eq!(class(WSAEADDRINUSE), IoFailure::AddrInUse);
    }

    #[test]
    fn a_name_that_is_taken_is_left_alone_and_paths_may_be_long() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a".repeat(200)).join("b".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        let [one, other] = ["one", "other"].map(|name| deep.join(name));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&other, "2").unwrap();
        assert_eq!(rename_new(&one, &other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_file(&other).unwrap();
        rename_new(&one, &other).unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"1");
        assert!(!one.exists());
    }

    #[test]
    fn a_socket_can_be_told_its_way_out() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let lo = crate::card_of(local).unwrap().index;
        leave_by(&SockRef::from(&socket), local, lo).unwrap();
        assert!(leave_by(&SockRef::from(&socket), local, 0x00ff_ffff).is_err(), "there is no such interface");
    }
}
