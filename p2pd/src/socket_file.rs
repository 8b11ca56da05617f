//! Unix sockets that are served here.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Socket file, removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens a socket file that nobody else may connect to at any time: it has its mode before it listens and its name. One
/// that nobody serves is replaced.
///
/// # Errors
/// The system's; `AlreadyExists` for a file that is no socket, `AddrInUse` for one that is served.
pub(crate) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Ok(old) = fs::symlink_metadata(path) {
        if !old.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is no socket"));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves there"));
        }
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let beside = SocketFile(path.with_file_name(name));
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(&beside.0)?)?;
    fs::set_permissions(&beside.0, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside.0, path)?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(OwnedFd::from(socket)))?;
    Ok((listener, SocketFile(path.into())))
}
