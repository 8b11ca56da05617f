//! The folder that files are received into, and nothing outside of it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::name::FileName;
use super::wire::Refusal;

/// A folder.
#[derive(Debug)]
pub(crate) struct Inbox {
    dir: PathBuf,
    overwrite: bool,
    /// Names, in lower case for file systems that have it so, of what is being received.
    busy: Mutex<BTreeSet<String>>,
}

/// The right to receive a file of one name, until it is dropped. What was written of it stays, to go on with.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    inbox: &'a Inbox,
    name: FileName,
}

/// What there is of a file.
#[derive(Debug)]
pub(crate) enum Have {
    /// A file of the size and name that is offered: perhaps the same one.
    Whole(File),
    /// A beginning, of so many bytes; 0 for a new file. It can be read and written.
    Part(File, u64),
}

/// Why a file is not received: what the sender is told, and what the receiver's user is told besides.
#[derive(Debug)]
pub(crate) struct NotTaken {
    pub(crate) told: Refusal,
    pub(crate) why: Option<io::Error>,
}

impl Inbox {
    /// Makes the folder if only it is missing: a path of which more is missing is rather a slip.
    ///
    /// # Errors
    /// If it is no folder and cannot be made.
    pub(crate) fn new(dir: &Path, overwrite: bool) -> io::Result<Self> {
        if !dir.exists() {
            std::fs::create_dir(dir)?;
        }
        let dir = dir.canonicalize()?;
        if !dir.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Inbox { dir, overwrite, busy: Mutex::default() })
    }

    /// # Errors
    /// If a file of this name is being received.
    pub(crate) fn place(&self, name: FileName) -> Result<Place<'_>, Refusal> {
        if !self.busy().insert(key(&name)) {
            return Err(Refusal::InUse);
        }
        Ok(Place { inbox: self, name })
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Where it ends up.
    pub(crate) fn path(&self) -> PathBuf {
        self.inbox.dir.join(self.name.as_str())
    }

    fn partial(&self) -> PathBuf {
        self.inbox.dir.join(self.name.partial())
    }

    /// What there is of a file of this size.
    ///
    /// # Errors
    /// If another file is in its place, another process receives it, or it cannot be written.
    pub(crate) fn look(&self, size: u64) -> Result<Have, NotTaken> {
        match self.path().symlink_metadata() {
            // Nothing is read through a link, which may lead anywhere.
            Ok(found) if found.is_file() && found.len() == size => {
                Ok(Have::Whole(open(OpenOptions::new().read(true), &self.path())?))
            }
            Ok(_) => self.replace(size),
            Err(why) if why.kind() == io::ErrorKind::NotFound => self.begin(size),
            Err(why) => Err(why.into()),
        }
    }

    /// As [`look`](Self::look), where the file of this name turned out to be another one.
    ///
    /// # Errors
    /// `Exists`, unless files are overwritten.
    pub(crate) fn replace(&self, size: u64) -> Result<Have, NotTaken> {
        if !self.inbox.overwrite || self.path().is_dir() {
            return Err(Refusal::Exists.into());
        }
        self.begin(size)
    }

    /// Opens what was received of it, or begins.
    fn begin(&self, size: u64) -> Result<Have, NotTaken> {
        let file = open(OpenOptions::new().read(true).write(true).create(true), &self.partial())?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(Refusal::Exists.into());
        }
        if !lock(&file) {
            return Err(Refusal::InUse.into());
        }
        if found.len() > size {
            file.set_len(0)?;
            return Ok(Have::Part(file, 0));
        }
        Ok(Have::Part(file, found.len()))
    }

    /// Gives the whole file its name.
    ///
    /// # Errors
    /// If there is one of that name by now, and none is overwritten, or it cannot be renamed.
    pub(crate) fn keep(&self) -> Result<(), NotTaken> {
        let path = self.path();
        if !self.inbox.overwrite {
            // Made only if there is none, in one step; then the renamed file takes its place.
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => {}
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => return Err(Refusal::Exists.into()),
                Err(why) => return Err(why.into()),
            }
        }
        Ok(std::fs::rename(self.partial(), path)?)
    }

    /// Throws away what was received.
    pub(crate) fn discard(&self) {
        let _ = std::fs::remove_file(self.partial());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.inbox.busy().remove(&key(&self.name));
    }
}

impl From<Refusal> for NotTaken {
    fn from(told: Refusal) -> Self {
        NotTaken { told, why: None }
    }
}

impl From<io::Error> for NotTaken {
    fn from(why: io::Error) -> Self {
        NotTaken { told: Refusal::NotWritten, why: Some(why) }
    }
}

fn key(name: &FileName) -> String {
    name.as_str().to_lowercase()
}

/// Opens without following a link, and without waiting for the other end of a named pipe.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    }
    options.open(path)
}

/// Whether no other process receives into this file. It ends with the file.
fn lock(file: &File) -> bool {
    #[cfg(unix)]
    return rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
    #[cfg(not(unix))]
    {
        let _ = file;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn name(text: &str) -> FileName {
        FileName::new(text).unwrap()
    }

    fn told<T>(result: Result<T, NotTaken>) -> Option<Refusal> {
        result.err().map(|why| why.told)
    }

    fn have(found: Result<Have, NotTaken>) -> (bool, u64) {
        match found.unwrap() {
            Have::Whole(file) => (true, file.metadata().unwrap().len()),
            Have::Part(_, n) => (false, n),
        }
    }

    #[test]
    fn what_was_received_stays_and_is_kept_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(dir.path(), false).unwrap();
        let place = inbox.place(name("a")).unwrap();
        let Ok(Have::Part(mut file, 0)) = place.look(5) else { panic!() };
        file.write_all(b"abc").unwrap();
        drop((file, place));
        assert!(!dir.path().join("a").exists());

        let place = inbox.place(name("a")).unwrap();
        assert_eq!(have(place.look(5)), (false, 3));
        // A file that has become smaller than what there is of it begins again.
        assert_eq!(have(place.look(2)), (false, 0));
        place.keep().unwrap();
        drop(place);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(have(inbox.place(name("a")).unwrap().look(0)), (true, 0));
    }

    #[test]
    fn nothing_is_overwritten_unless_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let careful = Inbox::new(dir.path(), false).unwrap();
        let place = careful.place(name("a")).unwrap();
        assert_eq!(told(place.look(4)), Some(Refusal::Exists));
        assert_eq!(told(place.replace(3)), Some(Refusal::Exists));
        assert_eq!(have(place.look(3)), (true, 3));
        // One that comes while another is received is not overwritten either.
        let late = careful.place(name("b")).unwrap();
        assert_eq!(have(late.look(3)), (false, 0));
        fs::write(dir.path().join("b"), "new").unwrap();
        assert_eq!(told(late.keep()), Some(Refusal::Exists));
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "new");
        drop((place, late));

        let bold = Inbox::new(dir.path(), true).unwrap();
        let place = bold.place(name("a")).unwrap();
        let Ok(Have::Part(mut file, 0)) = place.look(4) else { panic!() };
        file.write_all(b"newer").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "old", "until it is whole");
        place.keep().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "newer");
        assert_eq!(told(bold.place(name("d")).unwrap().look(1)), Some(Refusal::Exists), "a folder");
    }

    #[test]
    fn one_name_is_received_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Inbox::new(dir.path(), false).unwrap(), Inbox::new(dir.path(), false).unwrap());
        let place = one.place(name("A")).unwrap();
        assert_eq!(one.place(name("a")).err(), Some(Refusal::InUse));
        let _file = place.look(1).unwrap();
        if cfg!(unix) {
            assert_eq!(told(other.place(name("A")).unwrap().look(1)), Some(Refusal::InUse));
        }
        drop((place, _file));
        assert_eq!(have(other.place(name("A")).unwrap().look(1)), (false, 0));
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_nowhere() {
        use std::os::unix::fs::symlink;
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = outside.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, dir.path().join("a")).unwrap();
        symlink(&secret, dir.path().join(name("b").partial())).unwrap();
        symlink(outside.path().join("made"), dir.path().join(name("c").partial())).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join(name("d").partial()), 0o600.into()).unwrap();
        let inbox = Inbox::new(dir.path(), false).unwrap();
        let look = |of: &str| told(inbox.place(name(of)).unwrap().look(6));
        assert_eq!(look("a"), Some(Refusal::Exists));
        assert_eq!((look("b"), look("c")), (Some(Refusal::NotWritten), Some(Refusal::NotWritten)));
        assert_eq!(look("d"), Some(Refusal::Exists), "a named pipe, and no wait for its other end");
        // Overwriting replaces the link, not what it leads to.
        let bold = Inbox::new(dir.path(), true).unwrap();
        let place = bold.place(name("a")).unwrap();
        assert_eq!(have(place.look(6)), (false, 0));
        place.keep().unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert!(!outside.path().join("made").exists());
        assert!(dir.path().join("a").symlink_metadata().unwrap().is_file());
        assert!(Inbox::new(&secret, false).is_err());
    }
}
