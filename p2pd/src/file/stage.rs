//! Places of what a sender sends: files beside each other, and folders under the names of parts until they are whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use super::channel::Stop;
use super::content::Written;
use super::folder::{Folder, Found, Kind, found, next_data, set};
use super::inbox::{Have, Inbox, NotTaken, Place};
use super::name::{FileName, NameError, Sender, folded, is_partial, names, top};
use super::send::WINDOW_ROOTS;
use super::tree::{self, HASH};
use super::wire::{Meta, Offer, Refusal};

/// Files that are taken from one stream, and folders, beside what is in these.
pub(super) const MAX_FILES: usize = 1000;
/// Bytes of a file after which the disk is looked at again.
pub(super) const LOOK: u64 = 16 << 20;
/// Time for which a name may be in use before its sender is refused.
const IN_USE: Duration = Duration::from_secs(3);

/// Terms on which things are taken from one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes.
    pub(super) max_size: u64,
    /// Makes links that lead out of their folder too.
    pub(super) outside_links: bool,
    /// Takes packed bytes and holes, which cost a sender next to nothing. Strangers that nobody has said yes to send every
    /// byte.
    pub(super) packed: bool,
}

/// File that is offered and not here yet.
pub(super) struct Pending<'a> {
    pub(super) offer: Offer,
    pub(super) spot: Spot<'a>,
    pub(super) state: State,
}

/// Place of a file.
pub(super) enum Spot<'a> {
    /// Into the folder that is received into.
    Top(Place<'a>, FileName),
    /// Into a folder that was sent.
    Inside(Vec<OsString>),
}

pub(super) enum State {
    /// The sender proves that it has the same bytes. These hashes have come.
    Proving { have: u64, whole: bool, hashes: Vec<[u8; HASH]> },
    /// Groups with these hashes are here.
    Taken(Vec<[u8; HASH]>),
}

/// Folder of the sender's command line.
pub(super) struct Staged<'a> {
    pub(super) place: Place<'a>,
    folder: Folder,
    /// True if it was here before, from a send that was cut off.
    resumed: bool,
    /// Folder that the same sender has sent under the name before.
    earlier: Option<Folder>,
    /// Names that have come, by folder, folded: only where the system takes such names for the same.
    twins: BTreeMap<Vec<u8>, BTreeSet<String>>,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.place.touch();
    }
}

/// Reason why something did not arrive.
pub(super) enum Error {
    /// A refusal; the next one may follow.
    NotTaken(NotTaken),
    Stream(io::Error),
}

/// File that is whole.
pub(super) struct Done {
    pub(super) bytes: u64,
    pub(super) digest: [u8; HASH],
    pub(super) kept: Option<FileName>,
}

/// Everything that one sender has under way.
pub(super) struct Stage<'a> {
    inbox: &'a Inbox,
    terms: Terms,
    sender: Sender,
    stop: Arc<Stop>,
    /// Bytes that may still be offered.
    pub(super) left: u64,
    /// Names that have come which are in no folder.
    tops: usize,
    staged: BTreeMap<OsString, Staged<'a>>,
}

impl<'a> Stage<'a> {
    /// Creates the stage of a sender, which has listed so many bytes, if it knows.
    pub(super) fn new(
        inbox: &'a Inbox,
        terms: Terms,
        (sender, stop): (Sender, Arc<Stop>),
        listed: Option<u64>,
    ) -> Self {
        let left = terms.max_size.min(listed.unwrap_or(u64::MAX));
        Stage { inbox, terms, sender, stop, left, tops: 0, staged: BTreeMap::new() }
    }

    /// Counts an entry against the bounds of all, if `take` takes it.
    fn counted<R>(
        &mut self,
        is_top: bool,
        take: impl FnOnce(&mut Self) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.tops += usize::from(is_top);
        if self.tops > MAX_FILES || !self.inbox.counts() {
            return Err(Refusal::TooMany.into());
        }
        let taken = take(self);
        if taken.is_err() {
            self.inbox.counts_not();
        }
        taken
    }

    /// Returns the folder that holds an entry inside of one that was sent.
    fn parent(&self, names: &[OsString]) -> Result<Folder, NotTaken> {
        let ([root, between @ .., _], true) = (names, names.len() > 1) else {
            return Err(Refusal::Name.into());
        };
        let staged = self.staged.get(root).ok_or(Refusal::NotWritten)?;
        let mut folder: Option<Folder> = None;
        for name in between {
            folder = Some(folder.as_ref().unwrap_or(&staged.folder).enter(name)?);
        }
        match folder {
            Some(folder) => Ok(folder),
            None => Ok(staged.folder.again()?),
        }
    }

    /// Refuses a name that is another one's already on this system.
    fn no_twin(&mut self, names: &[OsString], path: &[u8]) -> Result<(), Error> {
        if !self.inbox.folds || names.len() < 2 {
            return Ok(());
        }
        let at = path.iter().rposition(|b| *b == b'/').unwrap_or_default();
        let staged = self.staged.get_mut(&names[0]).ok_or(Refusal::NotWritten)?;
        let name = folded(&path[at + 1..]);
        let new = staged.twins.entry(path[..at].to_vec()).or_default().insert(name);
        if new { Ok(()) } else { Err(Refusal::Twin.into()) }
    }

    /// Waits a moment for a name that is in use: whoever has it from the same sender is told to end.
    fn free<R>(
        &self,
        name: &FileName,
        take: impl Fn(Place<'a>) -> Result<R, NotTaken>,
    ) -> Result<R, NotTaken> {
        let begin = Instant::now();
        loop {
            let place = self.inbox.place(&self.sender, name.clone(), &self.stop).map_err(NotTaken::from);
            match place.and_then(&take) {
                Err(NotTaken { told: Refusal::InUse, .. }) if begin.elapsed() < IN_USE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                done => return done,
            }
        }
    }

    pub(super) fn folder(&mut self, path: &[u8]) -> Result<(), Error> {
        let names = names(path)?;
        self.counted(names.len() == 1, |it| it.make_folder(&names, path))
    }

    fn make_folder(&mut self, names: &[OsString], path: &[u8]) -> Result<(), Error> {
        self.no_twin(names, path)?;
        if names.len() > 1 {
            let parent = self.parent(names)?;
            parent.make(&names[names.len() - 1])?;
            return Ok(());
        }
        if self.staged.len() >= WINDOW_ROOTS {
            return Err(unexpected().into());
        }
        let name = top(path)?;
        let staged = self.free(&name, |place| {
            let ((folder, resumed), earlier) = (place.folder()?, place.earlier());
            Ok(Staged { place, folder, resumed, earlier, twins: BTreeMap::new() })
        })?;
        self.staged.insert(names[0].clone(), staged);
        Ok(())
    }

    pub(super) fn link(&mut self, path: &[u8], target: &[u8], meta: &Meta) -> Result<(), Error> {
        let names = names(path)?;
        self.counted(names.len() == 1, |it| it.make_link(&names, path, target, meta))
    }

    fn make_link(
        &mut self,
        names: &[OsString],
        path: &[u8],
        target: &[u8],
        meta: &Meta,
    ) -> Result<(), Error> {
        self.no_twin(names, path)?;
        let parent = self.parent(names)?;
        if target.contains(&0)
            || !(self.terms.outside_links || stays_inside(target, names.len().saturating_sub(2)))
        {
            return Err(Refusal::Link.into());
        }
        match parent.link(target, &names[names.len() - 1], meta) {
            Err(why) if why.kind() == io::ErrorKind::Unsupported => Err(Refusal::Link.into()),
            made => Ok(made?),
        }
    }

    /// Gives a folder its permissions and time; one of the command line its name too, with which it is returned. `is_busy`
    /// tells whether files of one are not here yet.
    pub(super) fn leave(
        &mut self,
        path: &[u8],
        mut meta: Meta,
        is_busy: impl Fn(&OsString) -> bool,
    ) -> Result<Option<(Staged<'a>, FileName)>, Error> {
        let names = names(path)?;
        meta.mode &= self.inbox.mask;
        let resumed = self.staged.get(&names[0]).ok_or(Refusal::NotWritten)?.resumed;
        if let Some(staged) = self.staged.get_mut(&names[0]) {
            staged.twins.remove(path);
        }
        if names.len() > 1 {
            let folder = self.parent(&names)?.enter(&names[names.len() - 1])?;
            if resumed {
                without_parts(&folder)?;
            }
            folder.set(&meta)?;
            return Ok(None);
        }
        if is_busy(&names[0]) {
            return Err(unexpected().into());
        }
        let Some(staged) = self.staged.get(&names[0]) else { return Err(Refusal::NotWritten.into()) };
        if resumed {
            without_parts(&staged.folder)?;
        }
        // What is written to a disk that is full may be told only now.
        staged.folder.store()?;
        staged.folder.set(&meta)?;
        let kept = staged.place.keep_folder();
        let staged = self.staged.remove(&names[0]);
        Ok(staged.zip(Some(kept?)))
    }

    /// Returns the folder of an entry in what the same sender has sent before.
    fn earlier(&self, names: &[OsString]) -> Option<Folder> {
        let [root, between @ .., _] = names else { return None };
        let earlier = self.staged.get(root)?.earlier.as_ref()?;
        between.iter().try_fold(earlier.again().ok()?, |folder, name| folder.enter(name).ok())
    }

    /// Opens the file of an offer in what the same sender has sent before, if it has the time and size of the offer, and no
    /// holes: the copy would have none. The folder is the user's by now, and what the user has put there has another time.
    fn earlier_file(&self, names: &[OsString], offer: &Offer) -> Option<File> {
        let (size, file) = (offer.size?, self.earlier(names)?.read(names.last()?).ok()?);
        let time = |meta: &Meta| (meta.seconds, meta.nanos);
        let is_sent =
            |it: &Found| it.kind == Kind::File && it.size == size && time(&it.meta) == time(&offer.meta);
        let found = found(&file).ok().filter(is_sent)?;
        let data = next_data(&file, 0, size).ok()?;
        (data == Some((0, found.size))).then_some(file)
    }

    /// Looks for what is here of a file.
    pub(super) fn look(&mut self, offer: &Offer) -> Result<(Spot<'a>, State), Error> {
        let names = names(&offer.path)?;
        let is_top = names.len() == 1;
        self.counted(is_top, |it| it.look_at(names, offer))
    }

    fn look_at(&mut self, names: Vec<OsString>, offer: &Offer) -> Result<(Spot<'a>, State), Error> {
        self.no_twin(&names, &offer.path)?;
        let size = offer.size.unwrap_or(0);
        if size > self.left || !(offer.sparse || self.inbox.takes(size)) {
            return Err(Refusal::TooLarge.into());
        }
        let proving = |have, whole| State::Proving { have, whole, hashes: Vec::new() };
        let new = || State::Taken(Vec::new());
        let found = if names.len() == 1 {
            let name = top(&offer.path)?;
            self.free(&name, |place| {
                let state = match place.look(size)? {
                    _ if size == 0 => new(),
                    Have::Whole(_) => proving(size, true),
                    Have::Part(_, 0) => new(),
                    Have::Part(_, have) => proving(have, false),
                };
                Ok((Spot::Top(place, name.clone()), state))
            })?
        } else {
            let parent = self.parent(&names)?;
            let entry = &names[names.len() - 1];
            let length = |parent: &Folder, name: &OsString| match parent.look(name) {
                Ok(found) if found.kind == Kind::File => found.size,
                _ => 0,
            };
            let state = match (length(&parent, entry), length(&parent, &self.part(&offer.path))) {
                _ if size == 0 => new(),
                (have, _) if have == size => proving(size, true),
                (_, have) if (1..=size).contains(&have) => proving(have, false),
                _ if self.earlier_file(&names, offer).is_some() => proving(size, true),
                _ => new(),
            };
            (Spot::Inside(names), state)
        };
        self.left -= size;
        Ok(found)
    }

    /// Name of the partial file of a path inside of a folder.
    fn part(&self, path: &[u8]) -> OsString {
        self.sender.part(path.rsplit(|b| *b == b'/').next().unwrap_or_default()).into()
    }

    /// Compares what is here with the sender's hashes. Returns true if it is the whole file; otherwise keeps the groups that
    /// are the same.
    pub(super) fn compare(&self, pending: &mut Pending<'a>) -> Result<bool, Error> {
        let State::Proving { have, whole, hashes } = &pending.state else { return Err(unexpected().into()) };
        let (have, whole, size) = (*have, *whole, pending.offer.size.unwrap_or_default());
        let group = tree::group(pending.offer.size);
        let mut from_earlier = false;
        let file = match &pending.spot {
            Spot::Top(place, _) => match if whole { place.look(size)? } else { place.begin(size)? } {
                Have::Whole(file) | Have::Part(file, _) => file,
            },
            Spot::Inside(names) => {
                let parent = self.parent(names)?;
                let part = self.part(&pending.offer.path);
                let name = &names[names.len() - 1];
                from_earlier = whole && parent.look(name).is_err();
                let read = match from_earlier {
                    true => self.earlier_file(names, &pending.offer).ok_or(io::ErrorKind::NotFound.into()),
                    false => parent.read(if whole { name } else { &part }),
                };
                match read {
                    // Its sender had made it unreadable, or its owner has changed it.
                    Err(_) if whole => {
                        pending.state = State::Taken(Vec::new());
                        return Ok(false);
                    }
                    read => read?,
                }
            }
        };
        let ours = tree::of_file(&file, have, group)?;
        let same = ours.iter().zip(hashes).take_while(|(one, other)| one.ct_eq(*other).into()).count();
        if whole && same == ours.len() {
            match &pending.spot {
                Spot::Inside(names) if from_earlier => self.copy(&file, names, &pending.offer)?,
                Spot::Inside(_) => self.finish(&file, &pending.offer.meta)?,
                Spot::Top(..) => {}
            }
            return Ok(true);
        }
        // A whole file that is another one is begun anew. The last group comes again: the hash of the file ends with it.
        let full = if whole { 0 } else { same.min((have / group) as usize) };
        let full = full.min(tree::groups(size, group) - 1);
        pending.state = State::Taken(ours[..full].to_vec());
        Ok(false)
    }

    /// Copies a file of what the same sender has sent before, as far as bytes are taken. What is equal as a whole goes again
    /// at its end.
    fn copy(&self, mut from: &File, names: &[OsString], offer: &Offer) -> Result<(), Error> {
        let (parent, part) = (self.parent(names)?, self.part(&offer.path));
        let mut to = parent.write(&part)?;
        to.set_len(0)?;
        from.rewind()?;
        let mut at = 0;
        loop {
            let piece = self.inbox.room().min(LOOK);
            let copied = io::copy(&mut from.take(piece), &mut to);
            // What was written before an error counts too.
            let end = to.stream_position().unwrap_or(at + piece);
            self.inbox.took(end - at);
            at = end;
            if copied? == 0 {
                break;
            }
        }
        if offer.size != Some(at) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no more bytes are taken").into());
        }
        self.finish(&to, &offer.meta)?;
        Ok(parent.rename(&part, &parent, &names[names.len() - 1])?)
    }

    /// Gives a file its permissions and time.
    fn finish(&self, file: &File, meta: &Meta) -> io::Result<()> {
        // From somebody that nobody has said yes to nothing comes that can be run.
        let bits = if self.terms.packed { 0o777 } else { 0o666 };
        set(file, &Meta { mode: meta.mode & self.inbox.mask & bits, ..*meta })
    }

    /// Opens the partial file, of which there are `from` bytes at least.
    pub(super) fn open(&self, pending: &Pending<'a>, from: u64) -> Result<File, Error> {
        let file = match &pending.spot {
            Spot::Top(place, _) => match place.begin(pending.offer.size.unwrap_or(u64::MAX))? {
                Have::Whole(file) | Have::Part(file, _) => file,
            },
            Spot::Inside(names) => {
                let file = self.parent(names)?.write(&self.part(&pending.offer.path))?;
                if found(&file)?.kind != Kind::File {
                    return Err(Refusal::NotWritten.into());
                }
                file
            }
        };
        // What was compared is there still.
        if found(&file)?.size < from { Err(Refusal::NotWritten.into()) } else { Ok(file) }
    }

    /// Gives a file its name, if it has the sender's hash.
    pub(super) fn keep(
        &self,
        written: Written,
        pending: &Pending<'a>,
        theirs: [u8; HASH],
    ) -> Result<Done, NotTaken> {
        let (file, hashed) = written.finish();
        let (bytes, digest) = (hashed.bytes, hashed.digest());
        match &pending.spot {
            Spot::Top(place, _) => {
                if digest != theirs {
                    place.discard();
                    return Err(Refusal::Damaged.into());
                }
                self.finish(&file, &pending.offer.meta)?;
                // What is written to a disk that is full may be told only now.
                file.sync_all()?;
                Ok(Done { bytes, digest, kept: Some(place.keep(bytes)?) })
            }
            Spot::Inside(names) => {
                let (parent, part) = (self.parent(names)?, self.part(&pending.offer.path));
                if digest != theirs {
                    parent.remove(&part)?;
                    return Err(Refusal::Damaged.into());
                }
                self.finish(&file, &pending.offer.meta)?;
                // Elsewhere the whole disk is told to store at the folder's end.
                if cfg!(not(target_os = "linux")) {
                    file.sync_all()?;
                }
                let name = &names[names.len() - 1];
                if parent.look(name).is_ok_and(|found| found.kind == Kind::Folder) {
                    return Err(Refusal::NotWritten.into());
                }
                parent.rename(&part, &parent, name)?;
                Ok(Done { bytes, digest, kept: None })
            }
        }
    }
}

/// Returns whether a link, so many folders below the one that was sent, leads to nowhere but into that one. Dots lead up in
/// front only: behind another name, which may be a link, they lead elsewhere than they seem to.
fn stays_inside(target: &[u8], depth: usize) -> bool {
    let mut parts = target.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
    let mut up = 0;
    while parts.next_if(|part| *part == b"..").is_some() {
        up += 1;
    }
    !target.starts_with(b"/") && up <= depth && !parts.any(|part| part == b"..")
}

/// Removes what was begun in a folder by an earlier send, and is no file of this one.
fn without_parts(folder: &Folder) -> io::Result<()> {
    for name in folder.list()? {
        let name = name?;
        if name.to_str().is_some_and(is_partial) && folder.look(&name)?.kind == Kind::File {
            folder.remove(&name)?;
        }
    }
    Ok(())
}

pub(super) fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the peer sent what was not asked for")
}

impl From<NotTaken> for Error {
    fn from(why: NotTaken) -> Self {
        Error::NotTaken(why)
    }
}

impl From<Refusal> for Error {
    fn from(why: Refusal) -> Self {
        Error::NotTaken(why.into())
    }
}

impl From<NameError> for Error {
    fn from(_: NameError) -> Self {
        Error::NotTaken(Refusal::Name.into())
    }
}

/// Errors of the disk are those of one entry.
impl From<io::Error> for Error {
    fn from(why: io::Error) -> Self {
        match why.kind() {
            io::ErrorKind::InvalidData => Error::Stream(why),
            _ => Error::NotTaken(why.into()),
        }
    }
}
