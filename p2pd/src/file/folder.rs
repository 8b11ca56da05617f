//! Folders by handle: every name is looked up in the folder that is meant, and no link is followed on the way.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;

use super::wire::Meta;

/// Thing that a name in a folder stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    File,
    Folder,
    Link,
    /// A device, a socket, a named pipe.
    Other,
}

/// Entry of a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) meta: Meta,
    /// Bytes of the disk, its length at most.
    pub(super) room: u64,
}

pub(super) use system::{Entries, Folder, found, masked, name, next_data, set};

#[cfg(unix)]
mod system {
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    use rustix::fs::{
        AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, UTIME_OMIT,
    };

    use super::*;

    /// An open folder.
    #[derive(Debug)]
    pub(in crate::file) struct Folder(OwnedFd);

    /// Names in a folder, in no order.
    pub(in crate::file) struct Entries(Dir);

    const ENTER: OFlags =
        OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

    impl Folder {
        /// Opens a folder of the user's; links in the path are followed.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn open(path: &Path) -> io::Result<Self> {
            let flags = ENTER.difference(OFlags::NOFOLLOW);
            Ok(Folder(rustix::fs::open(path, flags, Mode::empty())?))
        }

        /// Opens a folder in this one.
        ///
        /// # Errors
        /// The system's; an error for anything else than a folder, as for a link to one.
        pub(in crate::file) fn enter(&self, name: &OsStr) -> io::Result<Self> {
            Ok(Folder(rustix::fs::openat(&self.0, name, ENTER, Mode::empty())?))
        }

        /// Returns another handle of the folder.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn again(&self) -> io::Result<Self> {
            Ok(Folder(self.0.try_clone()?))
        }

        /// Returns the names in the folder.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn list(&self) -> io::Result<Entries> {
            Ok(Entries(Dir::read_from(&self.0)?))
        }

        /// Looks at an entry itself, also where it is a link.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn look(&self, name: &OsStr) -> io::Result<Found> {
            Ok(of(&rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?))
        }

        /// Looks at the folder itself.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn itself(&self) -> io::Result<Found> {
            Ok(of(&rustix::fs::fstat(&self.0)?))
        }

        /// Opens a file for reading, without waiting for the other end of a named pipe.
        ///
        /// # Errors
        /// The system's; those of a link.
        pub(in crate::file) fn read(&self, name: &OsStr) -> io::Result<File> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(&self.0, name, flags, Mode::empty())?.into())
        }

        /// Opens a file for reading and writing, made for its owner alone if it is not there.
        ///
        /// # Errors
        /// The system's; those of a link.
        pub(in crate::file) fn write(&self, name: &OsStr) -> io::Result<File> {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into())
        }

        /// Returns the target of a link.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn read_link(&self, name: &OsStr) -> io::Result<Vec<u8>> {
            Ok(rustix::fs::readlinkat(&self.0, name, Vec::new())?.into_bytes())
        }

        /// Makes a folder, for its owner alone until it is whole, or takes the one that is there. What else has the name
        /// is removed.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn make(&self, name: &OsStr) -> io::Result<Self> {
            match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
                Err(rustix::io::Errno::EXIST) => {
                    if self.look(name)?.kind != Kind::Folder {
                        self.remove(name)?;
                        rustix::fs::mkdirat(&self.0, name, Mode::RWXU)?;
                    }
                }
                made => made?,
            }
            let made = match self.enter(name) {
                // One that its sender had made unreadable is the owner's still. It is a folder: links are none to enter.
                Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
                    rustix::fs::chmodat(&self.0, name, Mode::RWXU, AtFlags::empty())?;
                    self.enter(name)?
                }
                entered => entered?,
            };
            rustix::fs::fchmod(&made.0, Mode::RWXU)?;
            Ok(made)
        }

        /// Makes a link, in place of anything but a folder.
        ///
        /// # Errors
        /// The system's; `AlreadyExists` where a folder has the name.
        pub(in crate::file) fn link(&self, target: &[u8], name: &OsStr, meta: &Meta) -> io::Result<()> {
            if self.look(name).is_ok_and(|found| found.kind != Kind::Folder) {
                self.remove(name)?;
            }
            rustix::fs::symlinkat(OsStr::from_bytes(target), &self.0, name)?;
            // The times of links are kept where the system has them.
            let _ = rustix::fs::utimensat(&self.0, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW);
            Ok(())
        }

        /// Renames an entry, over another one of its kind.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn rename(&self, from: &OsStr, into: &Folder, to: &OsStr) -> io::Result<()> {
            Ok(rustix::fs::renameat(&self.0, from, &into.0, to)?)
        }

        /// Removes an entry that is no folder.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn remove(&self, name: &OsStr) -> io::Result<()> {
            Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
        }

        /// Removes an empty folder.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
            Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
        }

        /// Sets permissions and time of the folder itself.
        ///
        /// # Errors
        /// The system's.
        pub(in crate::file) fn set(&self, meta: &Meta) -> io::Result<()> {
            of_handle(&self.0, meta)
        }

        /// Locks the folder against other processes that receive into it. Returns true on success. The lock ends with
        /// the handle.
        pub(in crate::file) fn lock(&self) -> bool {
            rustix::fs::flock(&self.0, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
        }

        /// Stores everything that was written to the disk of the folder, where the system can; returns false elsewhere.
        ///
        /// # Errors
        /// The system's, as for a disk that is full.
        pub(in crate::file) fn store(&self) -> io::Result<bool> {
            #[cfg(target_os = "linux")]
            {
                rustix::fs::syncfs(&self.0)?;
                Ok(true)
            }
            #[cfg(not(target_os = "linux"))]
            Ok(false)
        }
    }

    impl Iterator for Entries {
        type Item = io::Result<OsString>;

        fn next(&mut self) -> Option<Self::Item> {
            loop {
                let name = match self.0.next()? {
                    Ok(entry) => entry.file_name().to_bytes().to_vec(),
                    Err(why) => return Some(Err(why.into())),
                };
                if name != b"." && name != b".." {
                    return Some(Ok(OsString::from_vec(name)));
                }
            }
        }
    }

    fn of(stat: &Stat) -> Found {
        let mode = stat.st_mode;
        let kind = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        Found {
            kind,
            size,
            meta: Meta {
                mode: (mode & 0o777) as u16,
                seconds: stat.st_mtime,
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default().min(999_999_999),
            },
            room: blocks.saturating_mul(512).min(size),
        }
    }

    /// Looks at an open file.
    ///
    /// # Errors
    /// The system's.
    pub(in crate::file) fn found(file: &File) -> io::Result<Found> {
        Ok(of(&rustix::fs::fstat(file)?))
    }

    fn times(meta: &Meta) -> Timestamps {
        Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
            last_modification: Timespec { tv_sec: meta.seconds as _, tv_nsec: meta.nanos as _ },
        }
    }

    fn of_handle(handle: impl std::os::fd::AsFd, meta: &Meta) -> io::Result<()> {
        rustix::fs::fchmod(&handle, Mode::from_raw_mode(meta.mode as _))?;
        // A time that the disk cannot have is left out.
        let _ = rustix::fs::futimens(&handle, &times(meta));
        Ok(())
    }

    /// Sets permissions and time of an open file.
    ///
    /// # Errors
    /// The system's.
    pub(in crate::file) fn set(file: &File, meta: &Meta) -> io::Result<()> {
        of_handle(file, meta)
    }

    /// Returns what new files may have of these permissions here, by the process's mask. Called while no other thread
    /// makes files.
    pub(in crate::file) fn masked() -> u16 {
        let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        rustix::process::umask(mask);
        0o777 & !(mask.bits() as u16)
    }

    /// Returns where the next bytes of a file begin and end, from a position on; `None` if only a hole follows, or nothing.
    ///
    /// # Errors
    /// The system's.
    pub(in crate::file) fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd"))]
        {
            let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(begin) => begin,
                Err(rustix::io::Errno::NXIO) => return Ok(None),
                // A disk without holes.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(Some((at, size))),
                Err(why) => return Err(why.into()),
            };
            let end = rustix::fs::seek(file, SeekFrom::Hole(begin))?;
            Ok((begin < size).then_some((begin, end.min(size))))
        }
        #[cfg(not(any(
            target_os = "linux",
            target_os = "android",
            target_os = "macos",
            target_os = "freebsd"
        )))]
        {
            let _ = (file, SeekFrom::Start(0));
            Ok((at < size).then_some((at, size)))
        }
    }

    /// Returns a name on the wire as this system has it.
    pub(in crate::file) fn name(bytes: &[u8]) -> Option<OsString> {
        Some(OsStr::from_bytes(bytes).to_owned())
    }
}

/// Systems without handles of folders. No links are made there, so that none can lead out of a folder that is received;
/// those that the user made are not entered.
#[cfg(not(unix))]
mod system {
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A folder by its path.
    #[derive(Debug)]
    pub(in crate::file) struct Folder(PathBuf);

    /// Names in a folder, in no order.
    pub(in crate::file) struct Entries(std::fs::ReadDir);

    fn not_a_link(path: &Path) -> io::Result<()> {
        match path.symlink_metadata() {
            Ok(found) if found.is_symlink() => Err(io::ErrorKind::InvalidInput.into()),
            _ => Ok(()),
        }
    }

    impl Folder {
        pub(in crate::file) fn open(path: &Path) -> io::Result<Self> {
            if path.is_dir() { Ok(Folder(path.into())) } else { Err(io::ErrorKind::NotADirectory.into()) }
        }

        pub(in crate::file) fn enter(&self, name: &OsStr) -> io::Result<Self> {
            let path = self.0.join(name);
            match path.symlink_metadata()?.is_dir() {
                true => Ok(Folder(path)),
                false => Err(io::ErrorKind::NotADirectory.into()),
            }
        }

        pub(in crate::file) fn again(&self) -> io::Result<Self> {
            Ok(Folder(self.0.clone()))
        }

        pub(in crate::file) fn list(&self) -> io::Result<Entries> {
            Ok(Entries(self.0.read_dir()?))
        }

        pub(in crate::file) fn look(&self, name: &OsStr) -> io::Result<Found> {
            Ok(of(&self.0.join(name).symlink_metadata()?))
        }

        pub(in crate::file) fn itself(&self) -> io::Result<Found> {
            Ok(of(&self.0.metadata()?))
        }

        pub(in crate::file) fn read(&self, name: &OsStr) -> io::Result<File> {
            let path = self.0.join(name);
            not_a_link(&path)?;
            File::open(path)
        }

        pub(in crate::file) fn write(&self, name: &OsStr) -> io::Result<File> {
            let path = self.0.join(name);
            not_a_link(&path)?;
            File::options().read(true).write(true).create(true).truncate(false).open(path)
        }

        pub(in crate::file) fn read_link(&self, _: &OsStr) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::file) fn make(&self, name: &OsStr) -> io::Result<Self> {
            let path = self.0.join(name);
            match std::fs::create_dir(&path) {
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => self.enter(name),
                made => made.map(|()| Folder(path)),
            }
        }

        pub(in crate::file) fn link(&self, _: &[u8], _: &OsStr, _: &Meta) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::file) fn rename(&self, from: &OsStr, into: &Folder, to: &OsStr) -> io::Result<()> {
            std::fs::rename(self.0.join(from), into.0.join(to))
        }

        pub(in crate::file) fn remove(&self, name: &OsStr) -> io::Result<()> {
            std::fs::remove_file(self.0.join(name))
        }

        pub(in crate::file) fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
            std::fs::remove_dir(self.0.join(name))
        }

        pub(in crate::file) fn set(&self, _: &Meta) -> io::Result<()> {
            Ok(())
        }

        pub(in crate::file) fn lock(&self) -> bool {
            true
        }

        pub(in crate::file) fn store(&self) -> io::Result<bool> {
            Ok(false)
        }
    }

    impl Iterator for Entries {
        type Item = io::Result<OsString>;

        fn next(&mut self) -> Option<Self::Item> {
            Some(self.0.next()?.map(|entry| entry.file_name()))
        }
    }

    fn of(found: &std::fs::Metadata) -> Found {
        let kind = match found.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        let since = found.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let since = since.unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
        let meta = Meta { mode: 0o666, seconds, nanos: since.subsec_nanos() };
        Found { kind, size: found.len(), meta, room: found.len() }
    }

    pub(in crate::file) fn found(file: &File) -> io::Result<Found> {
        Ok(of(&file.metadata()?))
    }

    pub(in crate::file) fn set(file: &File, meta: &Meta) -> io::Result<()> {
        if let Ok(seconds) = u64::try_from(meta.seconds)
            && let Some(at) = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, meta.nanos))
        {
            let _ = file.set_modified(at);
        }
        Ok(())
    }

    pub(in crate::file) fn masked() -> u16 {
        0o666
    }

    pub(in crate::file) fn next_data(_: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
        Ok((at < size).then_some((at, size)))
    }

    pub(in crate::file) fn name(bytes: &[u8]) -> Option<OsString> {
        std::str::from_utf8(bytes).ok().map(OsString::from)
    }
}
