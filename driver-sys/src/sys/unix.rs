//! Calls that are the same on Linux, Apple's systems and the BSDs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use p2pd_core::IoFailure;
use p2pd_core::io::Reuse;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// A system's error of a silent peer is its own word for it: elsewhere a user's own timeout may be the same.
pub(crate) const NAMES_SILENCE: bool = true;
/// Interfaces say whether they run: `IFF_RUNNING`.
pub(crate) const SAYS_RUNNING: bool = true;

/// Classes that the standard library has no name for.
pub(crate) fn failure(error: i32) -> Option<IoFailure> {
    Some(match Errno::from_raw_os_error(error) {
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN => IoFailure::Resources,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN => IoFailure::Unreachable,
        Errno::ACCESS | Errno::PERM => IoFailure::NotPermitted,
        _ => return None,
    })
}

/// Returns true if a connect goes on in the background.
pub(crate) fn in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error())
}

/// Returns true if more came than a socket of changes has room for.
pub(crate) fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

/// Two Unix sockets that are joined, non-blocking.
pub(crate) fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((ours.into(), theirs.into()))
}

/// Has a socket share its port as far as `reuse` says; before it is bound.
pub(crate) fn share(socket: &Socket, reuse: Reuse) -> io::Result<()> {
    if reuse != Reuse::No {
        socket.set_reuse_address(true)?;
    }
    if reuse == Reuse::AddressAndPort {
        socket.set_reuse_port(true)?;
    }
    Ok(())
}

/// Binds a socket that shares as it was told.
pub(crate) fn bind(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    socket.bind(&local.into())
}

/// Binds a fresh socket and listens. First it is claimed for itself alone, so that a port that somebody listens on is
/// refused; then shared with our own dials, which ask for it too.
pub(crate) fn listen(socket: &Socket, local: SocketAddr, backlog: u16, reuse: Reuse) -> io::Result<()> {
    share(socket, if reuse == Reuse::No { Reuse::No } else { Reuse::Address })?;
    socket.bind(&local.into())?;
    socket.listen(i32::from(backlog))?;
    share(socket, reuse)
}

/// Raises the limit of open descriptors to the most that the system allows, and returns what holds then.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Where it is refused the old one holds.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    descriptor_limit()
}

/// Returns the limit of open descriptors, if there is one.
pub(crate) fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Has an open wait for nothing: neither for the other end of a named pipe, nor to own a terminal.
pub(crate) fn at_once(options: &mut OpenOptions) {
    options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
}

/// Has a new file be its owner's alone: mode 0600.
pub(crate) fn owners_alone(options: &mut OpenOptions) {
    options.mode(0o600);
}

/// Creates a file that its owner alone may use. Where the file system keeps no modes, and others may read it, there is none.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    owners_alone(&mut options);
    let file = options.open(path)?;
    let judged = file.metadata().and_then(|made| keeps_modes(made.mode()));
    judged.inspect_err(|_| drop(fs::remove_file(path)))?;
    Ok(file)
}

/// Judges the mode of a file that was made with 0600.
fn keeps_modes(mode: u32) -> io::Result<()> {
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let why = format!(
        "files of this file system can be read by others (mode {:o}); mount it with umask=077, or give another path",
        mode & 0o777
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Has new folders be their owner's alone: mode 0700.
pub(crate) fn owners_folders(builder: &mut DirBuilder) {
    builder.mode(0o700);
}

/// Judges a file that is believed because it is the user's own: nobody else may have it, or any of these permission bits.
pub(crate) fn check_own(file: &File, forbidden: u32) -> io::Result<()> {
    let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let found = file.metadata()?;
    let (owner, mode) = (found.uid(), found.mode() & 0o777);
    if owner != geteuid().as_raw() {
        return denied(format!(
            "belongs to another user (number {owner}); mend it by chown, or give another path"
        ));
    }
    if mode & forbidden != 0 {
        let uses = if forbidden & 0o044 == 0 { "written" } else { "read or written" };
        return denied(format!("can be {uses} by others (mode {mode:o}); mend it by chmod 600"));
    }
    Ok(())
}

/// Gives a file another name, which must be free, by a second link.
pub(crate) fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    let _ = fs::remove_file(from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_modes_is_named() {
        assert!(keeps_modes(0o100600).is_ok() && keeps_modes(0o100400).is_ok());
        let said = keeps_modes(0o100755).unwrap_err().to_string();
        assert!(said.contains("(mode 755)") && said.contains("umask=077"), "{said}");
    }
}
