//! Files that are sent, and folders with all that is in them. They are walked twice, for the list and for the sending, so
//! that no list of them is ever held.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::folder::{self, Entries, Folder, Found, Kind};
use super::given::Given;
use super::name::{FileName, MAX_DEPTH, folded, portable};
use super::wire::{Listing, MAX_NAME, MAX_NAMES, MAX_PATH, MAX_TARGET, Meta, Offer, Resume};
use crate::say::Say;

/// Name that standard input has at the receiver.
const STDIN: &str = "stdin";

/// A path of the command line.
#[derive(Debug)]
struct Root {
    name: FileName,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Folder(PathBuf),
    Stdin,
    /// Bytes of a program, with what they are offered as, and what they are known again by.
    Given {
        bytes: Arc<Mutex<Given>>,
        size: Option<u64>,
        meta: Meta,
        mark: Vec<u8>,
    },
}

/// Files and folders to be sent, and how many of them were left out.
#[derive(Debug)]
pub(crate) struct Batch {
    roots: Vec<Root>,
    pub(super) listing: Listing,
    pub(super) skipped: usize,
    /// Secret of a sender whose bytes are others each time, so that nothing is gone on with.
    pub(super) fresh: Option<Resume>,
}

/// Opened file that is sent.
#[derive(Debug)]
pub(super) enum Opened {
    File(File),
    Stdin,
    Given(Arc<Mutex<Given>>),
}

/// Step of a walk. Paths are those on the wire.
#[derive(Debug)]
pub(super) enum Step {
    Folder(Vec<u8>),
    File(Offer),
    Link(Vec<u8>, Vec<u8>, Meta),
    Leave(Vec<u8>, Meta),
    /// An entry that cannot be sent, and why.
    Left(Vec<u8>, String),
}

/// Folder that is walked.
struct Level {
    folder: Folder,
    entries: Entries,
    path: Vec<u8>,
}

/// Walk over a batch. A folder comes before what is in it, and is left after it.
pub(super) struct Walk<'a> {
    roots: std::slice::Iter<'a, Root>,
    levels: Vec<Level>,
}

impl Batch {
    /// Looks at what is to be sent, before anything is opened. What cannot be sent is left out, and that is said.
    ///
    /// # Errors
    /// Says which path is none, or that nothing can be sent.
    pub(crate) fn new(paths: &[impl AsRef<Path>], say: Say) -> Result<Self, String> {
        let (mut roots, mut bad, mut taken) = (Vec::new(), Vec::new(), BTreeSet::new());
        for path in paths.iter().map(AsRef::as_ref) {
            match Root::new(path)? {
                Ok(root) if taken.insert(folded(root.name.as_str().as_bytes())) => roots.push(root),
                Ok(root) => bad.push(format!("{}: {} is sent already", path.display(), root.name)),
                Err(why) => bad.push(why),
            }
        }
        if roots.is_empty() {
            return Err(bad.pop().unwrap_or("no file".into()));
        }
        let mut batch = Batch { roots, listing: Listing::default(), skipped: bad.len(), fresh: None };
        batch.list(&mut bad);
        if batch.listing.files + batch.listing.folders == 0 {
            return Err(bad.pop().unwrap_or("no file".into()));
        }
        for why in &bad {
            say.error(&format!("{why}; it is left out"));
        }
        batch.skipped = bad.len();
        Ok(batch)
    }

    /// Makes a batch of one file, whose bytes a program hands over. Of a file with a time of its last change, in seconds and
    /// nanoseconds since 1970, a send that was cut off can be gone on with.
    ///
    /// # Errors
    /// The error of the name, or of the system's random numbers.
    pub(crate) fn given(
        name: &str,
        size: Option<u64>,
        changed: Option<(i64, u32)>,
        bytes: Given,
    ) -> Result<Self, String> {
        let name = FileName::new(name).map_err(|why| why.to_string())?;
        let meta = changed.map_or_else(now, |(seconds, nanos)| Meta { seconds, nanos, ..now() });
        let mark = format!("{name}/{size:?}/{changed:?}").into_bytes();
        let fresh = match changed {
            Some(_) => None,
            None => p2pd_tokio::random_seed().map_err(|why| why.to_string())?.first_chunk().copied(),
        };
        let source = Source::Given { bytes: Arc::new(Mutex::new(bytes)), size, meta, mark };
        let roots = vec![Root { name, source }];
        let mut batch = Batch { roots, listing: Listing::default(), skipped: 0, fresh };
        batch.list(&mut Vec::new());
        Ok(batch)
    }

    /// Walks once, for the list.
    fn list(&mut self, bad: &mut Vec<String>) {
        let mut list = Listing { bytes: Some(0), ..Listing::default() };
        // Hashes of the names in each folder that is walked: of two twins the second is odd.
        let mut seen: BTreeMap<Vec<u8>, BTreeSet<u64>> = BTreeMap::new();
        for step in self.walk() {
            let path = match &step {
                Step::Folder(path) => {
                    list.folders += 1;
                    path
                }
                Step::File(offer) => {
                    list.files += 1;
                    list.bytes = list.bytes.zip(offer.size).map(|(all, one)| all.saturating_add(one));
                    &offer.path
                }
                Step::Link(path, ..) => {
                    list.files += 1;
                    path
                }
                Step::Leave(path, _) => {
                    seen.remove(path);
                    continue;
                }
                Step::Left(path, why) => {
                    bad.push(format!("{}: {why}", show(path)));
                    continue;
                }
            };
            if list.names.len() < MAX_NAMES {
                list.names.push(path[..path.len().min(MAX_NAME)].to_vec());
            }
            let at = path.iter().rposition(|b| *b == b'/');
            let name = &path[at.map_or(0, |at| at + 1)..];
            let hash = blake3::hash(folded(name).as_bytes());
            let hash = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            let is_new = seen.entry(path[..at.unwrap_or(0)].to_vec()).or_default().insert(hash);
            if !is_new || portable(name).is_err() {
                list.odd += 1;
                if list.odd_names.len() < MAX_NAMES {
                    list.odd_names.push(path[..path.len().min(MAX_NAME)].to_vec());
                }
            }
        }
        self.listing = list;
    }

    /// Hashes the places of all that is sent, whatever is in them.
    pub(super) fn mark(&self, hash: &mut blake3::Hasher) {
        for root in &self.roots {
            let place = match &root.source {
                Source::File(path) | Source::Folder(path) => path.canonicalize().unwrap_or(path.clone()),
                Source::Stdin => PathBuf::from("-"),
                // No path has a zero byte.
                Source::Given { mark, .. } => {
                    hash.update(&(mark.len() as u64 + 1).to_be_bytes()).update(&[0]).update(mark);
                    continue;
                }
            };
            let place = place.as_os_str().as_encoded_bytes();
            hash.update(&(place.len() as u64).to_be_bytes()).update(place);
        }
    }

    /// Begins a walk.
    pub(super) fn walk(&self) -> Walk<'_> {
        Walk { roots: self.roots.iter(), levels: Vec::new() }
    }

    /// Opens a file of a walk again. No link inside of a folder is followed.
    ///
    /// # Errors
    /// The system's; `NotFound` for what is not in the batch.
    pub(super) fn open(&self, path: &[u8]) -> io::Result<Opened> {
        let mut names = path.split(|b| *b == b'/');
        let first = names.next().unwrap_or_default();
        let root = self.roots.iter().find(|root| root.name.as_str().as_bytes() == first);
        let names: Vec<&[u8]> = names.collect();
        match (root.map(|root| &root.source), names.split_last()) {
            (Some(Source::File(path)), None) => Ok(Opened::File(File::open(path)?)),
            (Some(Source::Stdin), None) => Ok(Opened::Stdin),
            (Some(Source::Given { bytes, .. }), None) => Ok(Opened::Given(bytes.clone())),
            (Some(Source::Folder(path)), Some((last, between))) => {
                let here = |name: &[u8]| folder::name(name).ok_or(io::ErrorKind::NotFound);
                let mut folder = Folder::open(path)?;
                for name in between {
                    folder = folder.enter(&here(name)?)?;
                }
                Ok(Opened::File(folder.read(&here(last)?)?))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Root {
    /// A path of the command line, or why its name cannot be sent.
    ///
    /// # Errors
    /// Names a path that is none.
    fn new(path: &Path) -> Result<Result<Self, String>, String> {
        let said = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        if path == Path::new("-") {
            let name = FileName::new(STDIN).map_err(|why| said(&why))?;
            return Ok(Ok(Root { name, source: Source::Stdin }));
        }
        let found = path.metadata().map_err(|why| said(&why))?;
        // `.` and `..` have names too.
        let named = match path.file_name() {
            Some(_) => path.to_path_buf(),
            None => path.canonicalize().map_err(|why| said(&why))?,
        };
        let source = match (found.is_file(), found.is_dir()) {
            (true, _) => Source::File(path.into()),
            (_, true) => Source::Folder(path.into()),
            _ => return Err(said(&"not a file and not a folder")),
        };
        let Some(name) = named.file_name().and_then(OsStr::to_str) else {
            return Ok(Err(said(&"its name is not UTF-8")));
        };
        Ok(FileName::new(name).map(|name| Root { name, source }).map_err(|why| said(&why)))
    }

    fn begin(&self, levels: &mut Vec<Level>) -> Step {
        let path = self.name.as_str().as_bytes().to_vec();
        match &self.source {
            Source::Stdin => Step::File(Offer { path, size: None, meta: now(), sparse: false }),
            Source::Given { size, meta, .. } => {
                Step::File(Offer { path, size: *size, meta: *meta, sparse: false })
            }
            Source::File(from) => match File::open(from).and_then(|file| folder::found(&file)) {
                Ok(found) => file(path, &found),
                Err(why) => Step::Left(path, why.to_string()),
            },
            Source::Folder(from) => match Folder::open(from) {
                Ok(folder) => enter(levels, folder, path),
                Err(why) => Step::Left(path, why.to_string()),
            },
        }
    }
}

/// Permissions and time of what has none.
fn now() -> Meta {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Meta { mode: 0o666, seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

fn file(path: Vec<u8>, found: &Found) -> Step {
    Step::File(Offer { path, size: Some(found.size), meta: found.meta, sparse: found.room < found.size })
}

fn enter(levels: &mut Vec<Level>, folder: Folder, path: Vec<u8>) -> Step {
    if levels.len() >= MAX_DEPTH {
        return Step::Left(path, format!("more than {MAX_DEPTH} folders deep"));
    }
    match folder.list() {
        Ok(entries) => {
            levels.push(Level { folder, entries, path: path.clone() });
            Step::Folder(path)
        }
        Err(why) => Step::Left(path, why.to_string()),
    }
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let Some(level) = self.levels.last_mut() else {
            return Some(self.roots.next()?.begin(&mut self.levels));
        };
        match level.entries.next() {
            Some(Ok(name)) => {
                let path = [&level.path, &b"/"[..], &bytes(&name)].concat();
                if path.len() > MAX_PATH {
                    return Some(Step::Left(path, format!("its path has more than {MAX_PATH} bytes")));
                }
                let found = match level.folder.look(&name) {
                    Ok(found) => found,
                    Err(why) => return Some(Step::Left(path, why.to_string())),
                };
                Some(match found.kind {
                    Kind::File => file(path, &found),
                    Kind::Link => match level.folder.read_link(&name) {
                        Ok(target) if (1..=MAX_TARGET).contains(&target.len()) => {
                            Step::Link(path, target, found.meta)
                        }
                        Ok(_) => Step::Left(path, "the target of the link is too long".into()),
                        Err(why) => Step::Left(path, why.to_string()),
                    },
                    Kind::Folder => match level.folder.enter(&name) {
                        Ok(folder) => enter(&mut self.levels, folder, path),
                        Err(why) => Step::Left(path, why.to_string()),
                    },
                    Kind::Other => Step::Left(path, "not a file, a folder or a link".into()),
                })
            }
            Some(Err(why)) => Some(Step::Left(level.path.clone(), why.to_string())),
            None => {
                let level = self.levels.pop()?;
                let meta = level.folder.itself().map_or_else(|_| now(), |found| found.meta);
                Some(Step::Leave(level.path, meta))
            }
        }
    }
}

/// The bytes of a name on the wire. Elsewhere than on Unix names that are no Unicode have bytes that no system takes.
fn bytes(name: &OsString) -> Vec<u8> {
    name.as_encoded_bytes().to_vec()
}

/// A path of the wire for people: what could write on the terminal is escaped.
pub(super) fn show(path: &[u8]) -> String {
    p2pd_core::text::shown(&String::from_utf8_lossy(path)).to_string()
}
