//! The folder that files are received into, and nothing outside of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::channel::Stop;
use super::folder::{Folder, Kind, masked};
use super::name::{FileName, Sender, folded, is_partial};
use super::wire::{Meta, Refusal};

/// Part of the disk that is left free: one in this many.
const LEFT_FREE: u64 = 10;
/// Most bytes of the disk that are left free.
const LEFT_AT_MOST: u64 = 4 << 30;
/// Time between two sweeps of partial files left behind.
const SWEEP: Duration = Duration::from_secs(10);
/// Files that were received whole and are known again when they are offered once more.
const REMEMBERED: usize = 10_000;
/// Earlier files of its name that a file is compared with, and folders.
const COMPARED: u32 = 8;
/// Length in memory of what is a folder.
const FOLDER: u64 = u64::MAX;
/// Files of one name.
const NAMESAKES: u32 = 1000;
/// Most files that are not whole yet and do not go on.
const MOST_PARTS: usize = 1000;

/// Limits over all calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Files, folders and links in one run, however short.
    pub(crate) files: u64,
    /// Bytes in one run.
    pub(crate) bytes: u64,
    /// Bytes of files that are not whole yet and do not go on; the oldest go first.
    pub(crate) parts: u64,
    /// Time for which partial files are kept.
    pub(crate) keep: Duration,
}

/// A folder.
#[derive(Debug)]
pub(crate) struct Inbox {
    dir: PathBuf,
    overwrite: bool,
    limits: Limits,
    /// True if names of the folder are the same file's that differ in case alone, or in the normal form of Unicode.
    pub(super) folds: bool,
    /// Permissions that new files may have here.
    pub(super) mask: u16,
    /// Senders and names of what is being received, folded for file systems that take names for the same. Each holder is told
    /// when its sender begins anew.
    busy: Mutex<BTreeMap<Key, Arc<Stop>>>,
    /// Files and folders received whole, each with its name in the folder and its length.
    whole: Mutex<BTreeMap<Key, (FileName, u64)>>,
    swept: Mutex<Option<Instant>>,
    taken: AtomicU64,
    files: AtomicU64,
}

type Key = (Sender, String);

/// The right to receive a file of one name from one sender, until it is dropped. The part that was written stays, to go
/// on with.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    inbox: &'a Inbox,
    name: FileName,
    sender: Sender,
}

/// Present part of a file.
#[derive(Debug)]
pub(crate) enum Have {
    /// A file that this sender sent, of the size and name that is offered: perhaps the same one.
    Whole(File),
    /// A beginning by this sender, of so many bytes; 0 for a new file. It can be read and written.
    Part(File, u64),
}

/// Reason why a file is not received: the refusal for the sender, and the error for the receiver's user.
#[derive(Debug)]
pub(crate) struct NotTaken {
    pub(crate) told: Refusal,
    pub(crate) why: Option<io::Error>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    /// Makes the folder if only it is missing: a path of which more is missing is rather a slip.
    ///
    /// # Errors
    /// If it is no folder and cannot be made.
    pub(crate) fn new(dir: &Path, overwrite: bool, limits: Limits) -> io::Result<Self> {
        if !dir.exists() {
            std::fs::create_dir(dir)?;
        }
        let dir = dir.canonicalize()?;
        if !dir.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let (busy, whole, swept) = (Mutex::default(), Mutex::default(), Mutex::default());
        let [taken, files] = [(); 2].map(|()| AtomicU64::new(0));
        let (folds, mask) = (folds(&dir), masked());
        Ok(Inbox { dir, overwrite, limits, folds, mask, busy, whole, swept, taken, files })
    }

    /// # Errors
    /// If something of this name is being received from this sender. The transfer that receives it is told to end, unless
    /// it is this one: `Twin`.
    pub(super) fn place(
        &self,
        sender: &Sender,
        name: FileName,
        stop: &Arc<Stop>,
    ) -> Result<Place<'_>, Refusal> {
        match locked(&self.busy).entry(key(sender, &name)) {
            Entry::Occupied(holder) if Arc::ptr_eq(holder.get(), stop) => return Err(Refusal::Twin),
            Entry::Occupied(holder) => {
                holder.get().begun_anew();
                return Err(Refusal::InUse);
            }
            Entry::Vacant(free) => drop(free.insert(stop.clone())),
        }
        let place = Place { inbox: self, name, sender: sender.clone() };
        self.sweep();
        Ok(place)
    }

    /// Returns true if so many bytes are taken.
    pub(crate) fn takes(&self, bytes: u64) -> bool {
        bytes <= self.room()
    }

    /// Counts one more file, folder or link. Returns false if there are too many.
    pub(super) fn counts(&self) -> bool {
        let more = |files: u64| (files < self.limits.files).then_some(files + 1);
        self.files.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Takes the count of one back that was refused.
    pub(super) fn counts_not(&self) {
        self.files.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number of bytes that may still be taken.
    pub(crate) fn room(&self) -> u64 {
        let left = self.limits.bytes.saturating_sub(self.taken.load(Ordering::Relaxed));
        left.min(free(&self.dir).unwrap_or(u64::MAX))
    }

    /// Counts bytes that were written.
    pub(crate) fn took(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Opens a folder in this one, and no link to one.
    fn inner(&self, path: &Path) -> io::Result<Folder> {
        Folder::open(&self.dir)?.enter(path.file_name().unwrap_or_default())
    }

    /// Removes partial files that were begun long ago, and the oldest ones where they are too many bytes. Files being
    /// received stay.
    fn sweep(&self) {
        let mut swept = locked(&self.swept);
        if swept.is_some_and(|at| at.elapsed() < SWEEP) {
            return;
        }
        *swept = Some(Instant::now());
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let mut parts: Vec<(SystemTime, u64, PathBuf)> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_partial))
            .filter_map(|entry| {
                let found = Folder::open(&self.dir).ok()?.look(&entry.file_name()).ok()?;
                // Holes cost their sender nothing, and count for nothing.
                let len = match found.kind {
                    Kind::File => found.room,
                    Kind::Folder => weight(&self.inner(&entry.path()).ok()?),
                    _ => return None,
                };
                let modified = entry.path().symlink_metadata().ok()?.modified().ok()?;
                Some((modified, len, entry.path()))
            })
            .collect();
        parts.sort();
        let (mut bytes, mut files) = (parts.iter().map(|(_, len, _)| len).sum::<u64>(), parts.len());
        for (modified, len, path) in parts {
            let old = modified.elapsed().is_ok_and(|age| age > self.limits.keep);
            if !old && bytes <= self.limits.parts && files <= MOST_PARTS {
                continue;
            }
            // Locked by whoever receives into it.
            let removed = if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                self.inner(&path).is_ok_and(|folder| folder.lock() && clear(&folder).is_ok())
                    && std::fs::remove_dir(&path).is_ok()
            } else {
                let file = open(OpenOptions::new().write(true), &path);
                file.is_ok_and(|file| lock(&file)) && std::fs::remove_file(&path).is_ok()
            };
            if removed {
                (bytes, files) = (bytes - len, files - 1);
            }
        }
    }
}

impl Place<'_> {
    fn path(&self, name: &FileName) -> PathBuf {
        self.inbox.dir.join(name.as_str())
    }

    fn partial(&self) -> PathBuf {
        self.inbox.dir.join(self.name.partial(&self.sender))
    }

    /// Looks for a file of this size by this sender, whole or in part.
    ///
    /// # Errors
    /// If another process receives the file, or it cannot be written.
    pub(crate) fn look(&self, size: u64) -> Result<Have, NotTaken> {
        let whole = locked(&self.inbox.whole).get(&key(&self.sender, &self.name)).cloned();
        if let Some((name, _)) = whole.filter(|(_, len)| *len == size)
            // Nothing is read through a link, which may lead anywhere.
            && let Ok(file) = open(OpenOptions::new().read(true), &self.path(&name))
            && file.metadata().is_ok_and(|found| found.is_file() && found.len() == size)
        {
            return Ok(Have::Whole(file));
        }
        self.begin(size)
    }

    /// Opens the part of the file that was received, or begins.
    ///
    /// # Errors
    /// As those of [`look`](Self::look).
    pub(crate) fn begin(&self, size: u64) -> Result<Have, NotTaken> {
        // A folder that this sender sent under the name is another thing.
        if self.partial().symlink_metadata().is_ok_and(|found| found.is_dir()) {
            let folder = self.inbox.inner(&self.partial())?;
            if !folder.lock() {
                return Err(Refusal::InUse.into());
            }
            clear(&folder)?;
            std::fs::remove_dir(self.partial())?;
        }
        let file = open(OpenOptions::new().read(true).write(true).create(true), &self.partial())?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(Refusal::NotWritten.into());
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

    /// Gives the whole file its name, or a numbered one where another file has the name: the sender is not told which
    /// files there are. Returns the name that the file got.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub(crate) fn keep(&self, size: u64) -> Result<FileName, NotTaken> {
        for name in (0..NAMESAKES).map(|number| self.name.numbered(number)) {
            let path = self.path(&name);
            if self.inbox.overwrite {
                if path.is_dir() {
                    continue;
                }
            } else {
                // Made only if there is none, in one step; then the renamed file takes its place.
                match OpenOptions::new().write(true).create_new(true).open(&path) {
                    Ok(_) => {}
                    Err(why) if why.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(why) => return Err(why.into()),
                }
            }
            std::fs::rename(self.partial(), path)?;
            self.remember(name.clone(), size);
            return Ok(name);
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists).into())
    }

    /// Opens the folder that stands for the one that is received until it is whole, or begins it. Returns true beside it if
    /// it was there.
    ///
    /// # Errors
    /// If another process receives it, or it cannot be made.
    pub(super) fn folder(&self) -> Result<(Folder, bool), NotTaken> {
        let root = Folder::open(&self.inbox.dir)?;
        let name = OsString::from(self.name.partial(&self.sender));
        let there = root.look(&name).is_ok_and(|found| found.kind == Kind::Folder);
        let folder = root.make(&name)?;
        if !folder.lock() {
            return Err(Refusal::InUse.into());
        }
        self.touch();
        Ok((folder, there))
    }

    /// Sets the time from which on the part is kept.
    pub(super) fn touch(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = (now.as_secs() as i64, now.subsec_nanos());
        let part = self.inbox.inner(&self.partial());
        let _ = part.and_then(|part| part.set(&Meta { mode: 0o700, seconds, nanos }));
    }

    /// Gives the whole folder its name, as [`keep`](Self::keep) does for a file. Where folders may be overwritten, its
    /// content goes into the one that is there, file by file.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub(super) fn keep_folder(&self) -> Result<FileName, NotTaken> {
        for name in (0..NAMESAKES).map(|number| self.name.numbered(number)) {
            let path = self.path(&name);
            match std::fs::create_dir(&path) {
                Ok(()) => {}
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
                    if self.inbox.overwrite && path.symlink_metadata()?.is_dir() {
                        merge(&self.inbox.inner(&self.partial())?, &self.inbox.inner(&path)?)?;
                        std::fs::remove_dir(self.partial())?;
                        // Not all that is in it now is of one sender.
                        locked(&self.inbox.whole).retain(|_, there| *there != (name.clone(), FOLDER));
                        return Ok(name);
                    }
                    continue;
                }
                Err(why) => return Err(why.into()),
            }
            // An empty folder gives its place up; on Windows it has to go first.
            if cfg!(windows) {
                std::fs::remove_dir(&path)?;
            }
            if let Err(why) = std::fs::rename(self.partial(), &path) {
                let _ = std::fs::remove_dir(&path);
                return Err(why.into());
            }
            self.remember(name.clone(), FOLDER);
            return Ok(name);
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists).into())
    }

    /// Returns the folder that this sender has sent under the name before, if it is there.
    pub(super) fn earlier(&self) -> Option<Folder> {
        let (name, len) = locked(&self.inbox.whole).get(&key(&self.sender, &self.name)).cloned()?;
        (len == FOLDER).then(|| self.inbox.inner(&self.path(&name)).ok())?
    }

    /// Removes a folder that was kept, if one of its namesakes has the same in it. Gives the name under which it is there,
    /// and whether it was there before.
    pub(super) fn merge_folder(&self, kept: FileName) -> (FileName, bool) {
        self.merge_if(kept, has_same)
    }

    /// Does that with a comparison. Before it the folder gets its partial name again: what somebody puts into it meanwhile
    /// would be removed with it.
    fn merge_if(
        &self,
        kept: FileName,
        is_same: impl Fn(&Folder, &Folder) -> io::Result<bool>,
    ) -> (FileName, bool) {
        let (root, path) = (Folder::open(&self.inbox.dir), self.path(&kept));
        let Ok(root) = root else { return (kept, false) };
        let open = |name: &FileName| self.inbox.inner(&self.path(name));
        let may_be = |name: &FileName| is_like(&open(name)?, &open(&kept)?, false);
        let earlier = (0..COMPARED).map(|number| self.name.numbered(number)).take_while(|name| *name != kept);
        let alike: Vec<FileName> = earlier.filter(|name| may_be(name).unwrap_or(false)).collect();
        if alike.is_empty() || std::fs::rename(&path, self.partial()).is_err() {
            return (kept, false);
        }
        let same = |name: &FileName| is_same(&open(name)?, &self.inbox.inner(&self.partial())?);
        if let Some(name) = alike.into_iter().find(|name| same(name).unwrap_or(false)) {
            // What cannot be removed goes with the other parts.
            let _ = root.make(self.partial().file_name().unwrap_or_default()).and_then(|it| clear(&it));
            let _ = std::fs::remove_dir(self.partial());
            self.remember(name.clone(), FOLDER);
            return (name, true);
        }
        if std::fs::rename(self.partial(), &path).is_ok() {
            return (kept, false);
        }
        // Somebody has taken the name meanwhile.
        (self.keep_folder().unwrap_or(kept), false)
    }

    fn remember(&self, name: FileName, size: u64) {
        let mut whole = locked(&self.inbox.whole);
        if whole.len() >= REMEMBERED {
            whole.pop_first();
        }
        whole.insert(key(&self.sender, &self.name), (name, size));
    }

    /// Removes a file that was kept, if one of its namesakes is the same. Gives the name under which it is there.
    pub(crate) fn merge(&self, kept: FileName, size: u64) -> FileName {
        let earlier = (0..COMPARED).map(|number| self.name.numbered(number)).take_while(|name| *name != kept);
        for name in earlier {
            if is_same(&self.path(&name), &self.path(&kept), size).unwrap_or(false) {
                if std::fs::remove_file(self.path(&kept)).is_ok() {
                    self.remember(name.clone(), size);
                    return name;
                }
                break;
            }
        }
        kept
    }

    /// Throws the received part away.
    pub(crate) fn discard(&self) {
        let _ = std::fs::remove_file(self.partial());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Nothing to go on with.
        if self.partial().symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == 0) {
            self.discard();
        }
        locked(&self.inbox.busy).remove(&key(&self.sender, &self.name));
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

/// Returns true if the file system of a folder takes names for the same that differ in case alone, or in the normal form of
/// Unicode.
fn folds(dir: &Path) -> bool {
    let path = |name: &str| dir.join(format!(".{name}-{}", std::process::id()));
    let probe = path("p2pd-caf\u{e9}");
    let made = OpenOptions::new().write(true).create_new(true).open(&probe).is_ok();
    let others = ["P2PD-CAF\u{c9}", "p2pd-cafe\u{301}"];
    let folds = made && others.iter().any(|other| path(other).symlink_metadata().is_ok());
    if made {
        let _ = std::fs::remove_file(&probe);
    }
    folds
}

/// Bytes that the files in a folder take.
fn weight(folder: &Folder) -> u64 {
    let Ok(entries) = folder.list() else { return 0 };
    let of = |name: OsString| match folder.look(&name) {
        Ok(found) if found.kind == Kind::Folder => folder.enter(&name).map_or(0, |inner| weight(&inner)),
        Ok(found) => found.room,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Removes all that is in a folder.
fn clear(folder: &Folder) -> io::Result<()> {
    for name in folder.list()? {
        let name = name?;
        match folder.look(&name)?.kind {
            Kind::Folder => {
                // Its owner may enter it again, whatever its sender said.
                clear(&folder.make(&name)?)?;
                folder.remove_folder(&name)?;
            }
            _ => folder.remove(&name)?,
        }
    }
    Ok(())
}

/// Moves all that is in a folder into another one, over files and links that are there. Folders that both have are merged.
fn merge(from: &Folder, into: &Folder) -> io::Result<()> {
    let meta = from.itself()?.meta;
    for name in from.list()? {
        let name = name?;
        let ours = from.look(&name)?;
        match (ours.kind, into.look(&name).map(|found| found.kind)) {
            (Kind::Folder, Ok(Kind::Folder)) => {
                merge(&from.make(&name)?, &into.enter(&name)?)?;
                // The permissions of the inner one went when it was opened.
                into.enter(&name)?.set(&ours.meta)?;
                from.remove_folder(&name)?;
            }
            (Kind::Folder, Ok(_)) | (_, Ok(Kind::Folder)) => return Err(io::ErrorKind::AlreadyExists.into()),
            _ => from.rename(&name, into, &name)?,
        }
    }
    into.set(&meta)
}

fn key(sender: &Sender, name: &FileName) -> Key {
    (sender.clone(), folded(name.as_str().as_bytes()))
}

/// Returns true if two folders have the same names in them, of the same kinds, sizes and contents. Modes and times may
/// differ.
fn has_same(one: &Folder, other: &Folder) -> io::Result<bool> {
    // Nothing is read before all is known to be there.
    Ok(is_like(one, other, false)? && is_like(one, other, true)?)
}

fn is_like(one: &Folder, other: &Folder, reads: bool) -> io::Result<bool> {
    let mut more = other.list()?.count();
    for name in one.list()? {
        let name = name?;
        let (ours, theirs) = (one.look(&name)?, other.look(&name)?);
        let is_like = ours.kind == theirs.kind
            && match ours.kind {
                Kind::Folder => is_like(&one.enter(&name)?, &other.enter(&name)?, reads)?,
                Kind::File if reads => has_bytes(one.read(&name)?, other.read(&name)?, ours.size)?,
                Kind::File => ours.size == theirs.size,
                Kind::Link => one.read_link(&name)? == other.read_link(&name)?,
                Kind::Other => false,
            };
        if !is_like || more == 0 {
            return Ok(false);
        }
        more -= 1;
    }
    Ok(more == 0)
}

/// Compares the contents of two files. Returns true if each has this size and their bytes are the same.
fn is_same(one: &Path, other: &Path, size: u64) -> io::Result<bool> {
    let read = |path: &Path| open(OpenOptions::new().read(true), path);
    has_bytes(read(one)?, read(other)?, size)
}

fn has_bytes(mut one: File, mut other: File, size: u64) -> io::Result<bool> {
    for file in [&one, &other] {
        let found = file.metadata()?;
        if !found.is_file() || found.len() != size {
            return Ok(false);
        }
    }
    let (mut a, mut b) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut left = size;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(a.len());
        one.read_exact(&mut a[..n])?;
        other.read_exact(&mut b[..n])?;
        if a[..n] != b[..n] {
            return Ok(false);
        }
        left -= n as u64;
    }
    Ok(true)
}

/// Bytes of the disk that may still be used; `None` where that cannot be told.
fn free(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(dir).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let kept = (bytes(disk.f_blocks) / LEFT_FREE).min(LEFT_AT_MOST);
        Some(bytes(disk.f_bavail).saturating_sub(kept))
    }
    #[cfg(not(unix))]
    {
        let _ = (dir, LEFT_FREE, LEFT_AT_MOST);
        None
    }
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

/// Locks a file against other processes that receive into it. Returns true on success. The lock ends with `file`.
fn lock(file: &File) -> bool {
    file.try_lock().is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use p2pd_core::SecretKey;

    use super::*;

    const LIMITS: Limits =
        Limits { files: 1000, bytes: 1 << 40, parts: 1 << 40, keep: Duration::from_secs(3600) };

    fn name(text: &str) -> FileName {
        FileName::new(text).unwrap()
    }

    fn by(n: u8) -> Sender {
        Sender::new(Some(&[n; 16]), SecretKey::from_bytes([n; 32]).node_id())
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

    /// Receives this; the name that it gets.
    fn receive(inbox: &Inbox, sender: &Sender, as_name: &str, bytes: &str) -> String {
        let place = inbox.place(sender, name(as_name), &Arc::default()).unwrap();
        let size = bytes.len() as u64;
        let Ok(Have::Part(mut file, 0)) = place.begin(size) else { panic!("{as_name}") };
        file.write_all(bytes.as_bytes()).unwrap();
        let kept = place.keep(size).unwrap();
        place.merge(kept, size).as_str().to_owned()
    }

    fn parts(dir: &Path) -> usize {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| is_partial(name)).count()
    }

    #[test]
    fn what_was_received_stays_for_its_sender_and_is_kept_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(dir.path(), false, LIMITS).unwrap();
        let place = inbox.place(&by(1), name("a"), &Arc::default()).unwrap();
        let Ok(Have::Part(mut file, 0)) = place.look(5) else { panic!() };
        file.write_all(b"abc").unwrap();
        drop((file, place));
        assert!(!dir.path().join("a").exists());
        assert_eq!(
            have(inbox.place(&by(2), name("a"), &Arc::default()).unwrap().look(5)),
            (false, 0),
            "another's"
        );

        let place = inbox.place(&by(1), name("a"), &Arc::default()).unwrap();
        assert_eq!(have(place.look(5)), (false, 3));
        // A file that has become smaller than what there is of it begins again.
        assert_eq!(have(place.look(2)), (false, 0));
        assert_eq!(place.keep(0).unwrap(), name("a"));
        drop(place);
        assert_eq!(have(inbox.place(&by(1), name("a"), &Arc::default()).unwrap().look(0)), (true, 0));
        assert_eq!(
            have(inbox.place(&by(2), name("a"), &Arc::default()).unwrap().look(0)),
            (false, 0),
            "another's"
        );
    }

    #[test]
    fn nothing_is_overwritten_unless_asked_for_and_no_sender_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.txt"), "old").unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let careful = Inbox::new(dir.path(), false, LIMITS).unwrap();
        for (sender, bytes, kept) in [
            (1, "new", "a (1).txt"),
            (2, "newer", "a (2).txt"),
            // Those that are there already are not kept twice.
            (3, "new", "a (1).txt"),
            (3, "old", "a.txt"),
        ] {
            assert_eq!(receive(&careful, &by(sender), "a.txt", bytes), kept);
        }
        assert_eq!(receive(&careful, &by(1), "d", "x"), "d (1)", "a folder");
        assert_eq!(fs::read_to_string(dir.path().join("a.txt")).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
        // Its sender does not send it again.
        assert_eq!(have(careful.place(&by(3), name("a.txt"), &Arc::default()).unwrap().look(3)), (true, 3));

        let bold = Inbox::new(dir.path(), true, LIMITS).unwrap();
        let place = bold.place(&by(1), name("a.txt"), &Arc::default()).unwrap();
        let Ok(Have::Part(mut file, 0)) = place.look(3) else { panic!() };
        file.write_all(b"newest").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a.txt")).unwrap(), "old", "until it is whole");
        place.keep(6).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a.txt")).unwrap(), "newest");
    }

    #[test]
    fn one_name_is_received_once_at_a_time_from_one_sender() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| Inbox::new(dir.path(), false, LIMITS).unwrap());
        let place = one.place(&by(1), name("A"), &Arc::default()).unwrap();
        assert_eq!(one.place(&by(1), name("a"), &Arc::default()).err(), Some(Refusal::InUse));
        one.place(&by(2), name("a"), &Arc::default()).unwrap().look(1).unwrap();
        let _file = place.look(1).unwrap();
        assert_eq!(
            told(other.place(&by(1), name("A"), &Arc::default()).unwrap().look(1)),
            Some(Refusal::InUse)
        );
        drop((place, _file));
        assert_eq!(have(other.place(&by(1), name("A"), &Arc::default()).unwrap().look(1)), (false, 0));
    }

    #[test]
    fn what_was_begun_does_not_stay_for_ever_and_the_oldest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |inbox: &Inbox, n: u8, age: u64| {
            let place = inbox.place(&by(n), name("a"), &Arc::default()).unwrap();
            let Ok(Have::Part(mut file, 0)) = place.begin(1000) else { panic!() };
            file.write_all(&[7; 100]).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            file.set_times(fs::FileTimes::new().set_modified(then)).unwrap();
        };
        let inbox = Inbox::new(dir.path(), false, LIMITS).unwrap();
        fs::write(dir.path().join(".mine.p2pd-part"), "no sender's").unwrap();
        for (n, age) in [(1, 3700), (2, 300), (3, 200), (4, 100)] {
            begin(&inbox, n, age);
        }
        assert_eq!(parts(dir.path()), 4);
        Inbox::new(dir.path(), false, LIMITS).unwrap().sweep();
        assert_eq!(parts(dir.path()), 3, "of an hour ago");
        // What is being received stays, however old.
        let place = inbox.place(&by(2), name("a"), &Arc::default()).unwrap();
        let held = place.begin(1000).unwrap();
        Inbox::new(dir.path(), false, Limits { parts: 250, ..LIMITS }).unwrap().sweep();
        let left = [2, 3, 4].map(|n| dir.path().join(name("a").partial(&by(n))).exists());
        assert_eq!(left, [true, false, true]);
        assert!(dir.path().join(".mine.p2pd-part").exists());
        drop(held);
    }

    #[test]
    fn there_is_an_end_to_what_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(dir.path(), false, Limits { bytes: 1000, ..LIMITS }).unwrap();
        assert_eq!(inbox.room(), 1000);
        inbox.took(600);
        assert_eq!(inbox.room(), 400);
        inbox.took(600);
        assert_eq!(inbox.room(), 0);
    }

    #[test]
    fn what_somebody_puts_into_a_new_folder_while_it_is_compared_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(dir.path(), false, LIMITS).unwrap();
        let at = |name: &str| dir.path().join(name);
        let receive = || {
            let place = inbox.place(&by(1), name("d"), &Arc::default()).unwrap();
            place.folder().unwrap();
            fs::write(place.partial().join("a"), "one").unwrap();
            let kept = place.keep_folder().unwrap();
            (place, kept)
        };
        let (place, kept) = receive();
        assert_eq!(place.merge_folder(kept), (name("d"), false));
        drop(place);
        // The folder cannot be written into under the name that it had, and a new one of that name stays.
        for is_same in [true, false] {
            let (place, kept) = receive();
            assert_eq!(kept, name("d (1)"));
            let compared = |one: &Folder, other: &Folder| {
                assert!(has_same(one, other)?);
                assert!(fs::write(at("d (1)/mine"), "mine").is_err());
                fs::create_dir(at("d (1)"))?;
                fs::write(at("d (1)/mine"), "mine")?;
                Ok(is_same)
            };
            let there = if is_same { (name("d"), true) } else { (name("d (2)"), false) };
            assert_eq!(place.merge_if(kept, compared), there);
            assert_eq!(fs::read_to_string(at("d (1)/mine")).unwrap(), "mine");
            assert_eq!(at("d (2)/a").exists(), !is_same);
            assert_eq!(parts(dir.path()), 0);
            fs::remove_dir_all(at("d (1)")).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_nowhere() {
        use std::os::unix::fs::symlink;
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = outside.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let partial = |of: &str| dir.path().join(name(of).partial(&by(1)));
        symlink(&secret, dir.path().join("a")).unwrap();
        symlink(&secret, partial("b")).unwrap();
        symlink(outside.path().join("made"), partial("c")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, partial("d"), 0o600.into()).unwrap();
        let inbox = Inbox::new(dir.path(), false, LIMITS).unwrap();
        for of in ["b", "c", "d"] {
            let told = told(inbox.place(&by(1), name(of), &Arc::default()).unwrap().look(6));
            assert_eq!(told, Some(Refusal::NotWritten), "{of}");
        }
        assert_eq!(receive(&inbox, &by(1), "a", "secret"), "a (1)");
        // Overwriting replaces the link, not what it leads to.
        let bold = Inbox::new(dir.path(), true, LIMITS).unwrap();
        assert_eq!(receive(&bold, &by(1), "a", "other!"), "a");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert!(!outside.path().join("made").exists());
        assert!(dir.path().join("a").symlink_metadata().unwrap().is_file());
        assert!(Inbox::new(&secret, false, LIMITS).is_err());
    }
}
