//! The receiver's side of the protocol in [`wire`](super::wire).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pd_core::NodeId;
use subtle::ConstantTimeEq;

use super::channel::{Reader, Stop, Writer, is_stopped, patience};
use super::content::Written;
use super::folder::{Folder, Kind, set};
use super::inbox::{Have, Inbox, NotTaken, Place};
use super::name::{FileName, NameError, Sender, is_partial, names, top};
use super::send::{WINDOW, WINDOW_BYTES, WINDOW_ROOTS};
use super::tree::{self, HASH, Hashed};
use super::walk::show;
use super::wire::{CHUNK, Frame, Listing, Meta, Number, Offer, Refusal};
use super::{Ended, Event};

/// Files that are taken from one stream, and folders, beside what is in these.
pub(super) const MAX_FILES: usize = 1000;
/// Entries of one stream that are refused before nothing more is answered.
pub(super) const MAX_REFUSED: usize = 10_000;
/// Time for which a name may be in use before its sender is refused.
const IN_USE: Duration = Duration::from_secs(3);
/// Longest time for each step of a peer: to introduce itself, to offer its first file, and to begin with it.
const BEGIN: Duration = Duration::from_secs(10);
/// Longest time for a sender to hear why nothing is taken any more.
const GOODBYE: Duration = Duration::from_secs(2);
/// Bytes of a file after which the disk is looked at again.
const LOOK: u64 = 16 << 20;

/// What is taken from one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes.
    pub(super) max_size: u64,
    /// Makes links that lead out of their folder too.
    pub(super) outside_links: bool,
}

/// File that is offered and not here yet.
struct Pending<'a> {
    offer: Offer,
    spot: Spot<'a>,
    state: State,
}

/// Where a file goes.
enum Spot<'a> {
    /// Into the folder that is received into.
    Top(Place<'a>, FileName),
    /// Into a folder that was sent.
    Inside(Vec<OsString>),
}

enum State {
    /// The sender proves that it has the same bytes. These hashes have come.
    Proving { have: u64, whole: bool, hashes: Vec<[u8; HASH]> },
    /// Groups with these hashes are here.
    Taken(Vec<[u8; HASH]>),
}

/// Folder of the sender's command line.
struct Staged<'a> {
    place: Place<'a>,
    folder: Folder,
    /// True if it was here before, from a send that was cut off.
    resumed: bool,
    /// Names that have come, by folder, in lower case: only where names are the same that differ in case alone.
    twins: BTreeMap<Vec<u8>, BTreeSet<String>>,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.place.touch();
    }
}

/// Reason why something did not arrive.
enum Error {
    /// It is refused; the next one may follow.
    NotTaken(NotTaken),
    Stream(io::Error),
}

struct Receiving<'a, T> {
    inbox: &'a Inbox,
    terms: Terms,
    sender: Sender,
    stop: Arc<Stop>,
    from: Reader,
    to: Writer,
    tell: T,
    next: Number,
    /// Entries that were announced and have not come.
    announced: u64,
    /// Bytes that may still be offered.
    left: u64,
    /// Names that have come which are in no folder.
    tops: usize,
    pending: BTreeMap<Number, Pending<'a>>,
    paths: usize,
    staged: BTreeMap<OsString, Staged<'a>>,
    refused: usize,
    /// Whether a file has begun.
    begun: bool,
    zstd: zstd::bulk::Decompressor<'static>,
}

/// Receives from the peer of one stream, if `consent` takes the list. Returns the number of entries that were refused.
///
/// # Errors
/// Those of the stream, `InvalidData` for a peer that speaks otherwise, and the reason to take nothing. Data received by
/// then stays.
pub(super) fn receive(
    inbox: &Inbox,
    terms: Terms,
    (peer, stop): (NodeId, Arc<Stop>),
    (mut from, mut to): (Reader, Writer),
    consent: impl FnOnce(&Listing) -> Result<(), Refusal>,
    mut tell: impl FnMut(Event<'_>),
) -> io::Result<usize> {
    let Some(Frame::Hello(resume, list)) = from.frame(BEGIN, &mut to)? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer sends no files"));
    };
    tell(Event::Compares);
    if let Err(why) = consent(&list) {
        say_no(why, &mut from, &mut to);
        return Err(io::Error::other(format!("{peer} sends nothing: {}", why.reason())));
    }
    tell(Event::Listed(&list));
    to.put(&Frame::Go)?;
    let mut receiving = Receiving {
        inbox,
        terms,
        sender: Sender::new(resume.as_ref(), peer),
        stop,
        from,
        to,
        tell,
        next: 0,
        announced: list.files.saturating_add(list.folders.saturating_mul(2)),
        left: terms.max_size.min(list.bytes.unwrap_or(u64::MAX)),
        tops: 0,
        pending: BTreeMap::new(),
        paths: 0,
        staged: BTreeMap::new(),
        refused: 0,
        begun: false,
        zstd: zstd::bulk::Decompressor::new()?,
    };
    match receiving.all() {
        Ok(()) => Ok(receiving.refused),
        Err(why) => {
            if is_stopped(&why) {
                let (why, text) = match receiving.stop.is_anew() {
                    true => (Refusal::InUse, "its sender begins anew"),
                    false => (Refusal::Crowded, "sent next to nothing, and made room for others"),
                };
                say_no(why, &mut receiving.from, &mut receiving.to);
                return Err(io::Error::other(format!("{peer}: {text}")));
            }
            if why.kind() == io::ErrorKind::InvalidData {
                let _ = receiving.to.flush();
            }
            Err(why)
        }
    }
}

/// Tells a peer why nothing is taken, before the stream is closed.
fn say_no(why: Refusal, from: &mut Reader, to: &mut Writer) {
    if to.put(&Frame::No(why)).and_then(|()| to.end()).is_ok() {
        // A stream that is dropped with bytes unread may take the word with it.
        from.drain(GOODBYE);
    }
}

impl<'a, T: FnMut(Event<'_>)> Receiving<'a, T> {
    fn all(&mut self) -> io::Result<()> {
        loop {
            let patience = match (self.next, self.begun) {
                (0, _) => BEGIN,
                (_, false) if !self.pending.is_empty() => BEGIN + patience(self.proving()) - patience(0),
                _ => patience(self.proving()),
            };
            let Some(frame) = self.from.frame(patience, &mut self.to)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            match frame {
                Frame::Folder(path) => self.entry(&path, |it| it.folder(&path))?,
                Frame::Link(path, target, meta) => self.entry(&path, |it| it.link(&path, &target, &meta))?,
                Frame::Leave(path, meta) => self.entry(&path, |it| it.leave(&path, meta))?,
                Frame::File(offer) => self.file(offer)?,
                Frame::Tree(n, hashes) => self.tree(n, hashes)?,
                Frame::Body(n) => self.body(n)?,
                Frame::Bye => {
                    self.to.put(&Frame::Stored)?;
                    return self.to.end();
                }
                _ => return Err(unexpected()),
            }
        }
    }

    /// Most bytes that the sender hashes meanwhile.
    fn proving(&self) -> u64 {
        let have = |pending: &Pending<'_>| match pending.state {
            State::Proving { have, .. } => have,
            State::Taken(_) => 0,
        };
        self.pending.values().map(have).max().unwrap_or_default()
    }

    /// Counts an entry, and returns its number.
    fn number(&mut self) -> io::Result<Number> {
        let n = self.next;
        self.next = n.checked_add(1).ok_or_else(unexpected)?;
        self.announced = self.announced.checked_sub(1).ok_or_else(unexpected)?;
        Ok(n)
    }

    fn refuse(&mut self, n: Number, path: &[u8], NotTaken { told, why }: NotTaken) -> io::Result<()> {
        let how = why.as_ref().map_or(Ended::Refused(told), Ended::Failed);
        // Such a name is shown escaped: it could write on the terminal.
        (self.tell)(Event::Ended { name: &show(path), how });
        self.refused += 1;
        if self.refused > MAX_REFUSED {
            return Err(unexpected());
        }
        self.to.put(&Frame::Not(n, told))
    }

    /// Handles an entry that is done at once.
    fn entry(&mut self, path: &[u8], work: impl FnOnce(&mut Self) -> Result<(), Error>) -> io::Result<()> {
        let n = self.number()?;
        match work(self) {
            Ok(()) => self.to.put(&Frame::Done(n)),
            Err(Error::NotTaken(why)) => self.refuse(n, path, why),
            Err(Error::Stream(why)) => Err(why),
        }
    }

    /// Counts an entry against the bounds of all.
    fn counted(&mut self, is_top: bool) -> Result<(), Error> {
        self.tops += usize::from(is_top);
        if self.tops > MAX_FILES || !self.inbox.counts() {
            return Err(Refusal::TooMany.into());
        }
        Ok(())
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
        let name = String::from_utf8_lossy(&path[at + 1..]).to_lowercase();
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

    fn folder(&mut self, path: &[u8]) -> Result<(), Error> {
        let names = names(path)?;
        self.counted(names.len() == 1)?;
        self.no_twin(&names, path)?;
        if names.len() > 1 {
            let parent = self.parent(&names)?;
            parent.make(&names[names.len() - 1])?;
            return Ok(());
        }
        if self.staged.len() >= WINDOW_ROOTS {
            return Err(unexpected().into());
        }
        let name = top(path)?;
        let staged = self.free(&name, |place| {
            let (folder, resumed) = place.folder()?;
            Ok(Staged { place, folder, resumed, twins: BTreeMap::new() })
        })?;
        self.staged.insert(names[0].clone(), staged);
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8], meta: &Meta) -> Result<(), Error> {
        let names = names(path)?;
        self.counted(names.len() == 1)?;
        self.no_twin(&names, path)?;
        let parent = self.parent(&names)?;
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

    /// Gives a folder its permissions and time; one of the command line its name too.
    fn leave(&mut self, path: &[u8], mut meta: Meta) -> Result<(), Error> {
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
            return Ok(folder.set(&meta)?);
        }
        let busy = |pending: &Pending<'_>| match &pending.spot {
            Spot::Inside(of) => of[0] == names[0],
            Spot::Top(..) => false,
        };
        if self.pending.values().any(busy) {
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
        let Some(staged) = self.staged.remove(&names[0]) else { return Ok(()) };
        let kept = kept.map_err(Error::from)?;
        drop(staged);
        let name = show(path);
        (self.tell)(Event::Kept { name: &name, kept: (kept.as_str() != name).then_some(&kept) });
        Ok(())
    }

    /// Takes an offer in, and answers what is wanted of the file.
    fn file(&mut self, offer: Offer) -> io::Result<()> {
        let n = self.number()?;
        if self.pending.len() >= WINDOW || self.paths + offer.path.len() > WINDOW_BYTES {
            return Err(unexpected());
        }
        match self.look(&offer) {
            Ok((spot, state)) => {
                self.to.put(&match &state {
                    State::Proving { have, .. } => Frame::Prove(n, *have),
                    State::Taken(_) => Frame::Take(n, 0),
                })?;
                self.paths += offer.path.len();
                self.pending.insert(n, Pending { offer, spot, state });
                Ok(())
            }
            Err(Error::NotTaken(why)) => self.refuse(n, &offer.path, why),
            Err(Error::Stream(why)) => Err(why),
        }
    }

    /// Looks for what is here of a file.
    fn look(&mut self, offer: &Offer) -> Result<(Spot<'a>, State), Error> {
        let names = names(&offer.path)?;
        self.counted(names.len() == 1)?;
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
            let length = |name: &OsString| match parent.look(name) {
                Ok(found) if found.kind == Kind::File => found.size,
                _ => 0,
            };
            let state = match (length(entry), length(&self.part(&offer.path))) {
                _ if size == 0 => new(),
                (have, _) if have == size => proving(size, true),
                (_, have) if (1..=size).contains(&have) => proving(have, false),
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

    /// Takes in hashes of the part that is here. When all have come, answers from where on the file is wanted.
    fn tree(&mut self, n: Number, some: Vec<[u8; HASH]>) -> io::Result<()> {
        let Some(Pending { offer, state: State::Proving { have, hashes, .. }, .. }) =
            self.pending.get_mut(&n)
        else {
            return Err(unexpected());
        };
        let group = tree::group(offer.size);
        let wanted = tree::groups(*have, group);
        hashes.extend(some);
        if hashes.len() < wanted {
            return Ok(());
        }
        if hashes.len() > wanted {
            return Err(unexpected());
        }
        let Some(mut pending) = self.pending.remove(&n) else { return Err(unexpected()) };
        self.paths -= pending.offer.path.len();
        (self.tell)(Event::Compares);
        match self.compare(&mut pending) {
            Ok(true) => {
                let name = show(&pending.offer.path);
                let how = Ended::Same(pending.offer.size.unwrap_or_default());
                (self.tell)(Event::Ended { name: &name, how });
                self.to.put(&Frame::Same(n))
            }
            Ok(false) => {
                let State::Taken(full) = &pending.state else { return Err(unexpected()) };
                self.to.put(&Frame::Take(n, full.len() as u64 * group))?;
                self.paths += pending.offer.path.len();
                self.pending.insert(n, pending);
                Ok(())
            }
            Err(Error::NotTaken(why)) => self.refuse(n, &pending.offer.path, why),
            Err(Error::Stream(why)) => Err(why),
        }
    }

    /// Compares what is here with the sender's hashes. Returns true if it is the whole file; otherwise keeps the groups that
    /// are the same.
    fn compare(&self, pending: &mut Pending<'a>) -> Result<bool, Error> {
        let State::Proving { have, whole, hashes } = &pending.state else { return Err(unexpected().into()) };
        let (have, whole, size) = (*have, *whole, pending.offer.size.unwrap_or_default());
        let group = tree::group(pending.offer.size);
        let file = match &pending.spot {
            Spot::Top(place, _) => match if whole { place.look(size)? } else { place.begin(size)? } {
                Have::Whole(file) | Have::Part(file, _) => file,
            },
            Spot::Inside(names) => {
                let parent = self.parent(names)?;
                let part = self.part(&pending.offer.path);
                match parent.read(if whole { &names[names.len() - 1] } else { &part }) {
                    // Its sender had made it unreadable.
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
            if let Spot::Inside(_) = pending.spot {
                self.finish(&file, &pending.offer.meta)?;
            }
            return Ok(true);
        }
        // A whole file that is another one is begun anew. The last group comes again: the hash of the file ends with it.
        let full = if whole { 0 } else { same.min((have / group) as usize) };
        let full = full.min(tree::groups(size, group) - 1);
        pending.state = State::Taken(ours[..full].to_vec());
        Ok(false)
    }

    /// Gives a file its permissions and time.
    fn finish(&self, file: &File, meta: &Meta) -> io::Result<()> {
        set(file, &Meta { mode: meta.mode & self.inbox.mask, ..*meta })
    }

    /// Receives the bytes of a file.
    fn body(&mut self, n: Number) -> io::Result<()> {
        let Some(pending) = self.pending.remove(&n) else { return Err(unexpected()) };
        self.paths -= pending.offer.path.len();
        let name = show(&pending.offer.path);
        let State::Taken(full) = &pending.state else {
            // The sender could not read it any more.
            return match self.from.frame(patience(0), &mut self.to)? {
                Some(Frame::Abort) => self.gone(&name),
                _ => Err(unexpected()),
            };
        };
        let (size, group) = (pending.offer.size, tree::group(pending.offer.size));
        let hashed = Hashed::after(group, full.clone());
        let from = hashed.bytes;
        let written = self.open(&pending).and_then(|file| Ok(Written::new(file, hashed)?));
        (self.tell)(Event::Begins { name: &name, size, from });
        let received = match written {
            Ok(written) => self.content(written, &pending, &name),
            Err(Error::NotTaken(why)) => Ok(Body::Refused(why, true)),
            Err(Error::Stream(why)) => Err(why),
        };
        match received.map_err(|why| named(&name, why))? {
            Body::Whole(done) => {
                self.to.put(&Frame::Done(n))?;
                // Only now, because it takes longer if there is one like it.
                let kept = match (&pending.spot, done.kept) {
                    (Spot::Top(place, wanted), Some(kept)) => {
                        self.to.flush()?;
                        Some(place.merge(kept, done.bytes)).filter(|kept| kept != wanted)
                    }
                    _ => None,
                };
                let how = Ended::Moved { bytes: done.bytes, from, digest: done.digest, kept };
                (self.tell)(Event::Ended { name: &name, how });
                Ok(())
            }
            Body::Gone => self.gone(&name),
            Body::Refused(why, goes_on) => {
                self.refuse(n, &pending.offer.path, why)?;
                if goes_on { self.skip() } else { Ok(()) }
            }
        }
    }

    /// Says of a file that its sender gave it up.
    fn gone(&mut self, name: &str) -> io::Result<()> {
        self.refused += 1;
        let why = io::Error::other("its sender gave it up: it has changed, or cannot be read");
        (self.tell)(Event::Ended { name, how: Ended::Failed(&why) });
        Ok(())
    }

    /// Opens the partial file.
    fn open(&self, pending: &Pending<'a>) -> Result<File, Error> {
        match &pending.spot {
            Spot::Top(place, _) => match place.begin(pending.offer.size.unwrap_or(u64::MAX))? {
                Have::Whole(file) | Have::Part(file, _) => Ok(file),
            },
            Spot::Inside(names) => {
                let file = self.parent(names)?.write(&self.part(&pending.offer.path))?;
                if super::folder::found(&file)?.kind != Kind::File {
                    return Err(Refusal::NotWritten.into());
                }
                Ok(file)
            }
        }
    }

    /// Reads to the end of a file's bytes, which are not kept.
    fn skip(&mut self) -> io::Result<()> {
        loop {
            match self.from.frame(patience(0), &mut self.to)? {
                Some(Frame::End(_) | Frame::Abort) => return Ok(()),
                Some(Frame::Data(_) | Frame::Packed(_) | Frame::Hole(_)) => {}
                Some(_) => return Err(unexpected()),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Writes the bytes of a file, and keeps it.
    fn content(&mut self, mut written: Written, pending: &Pending<'a>, name: &str) -> io::Result<Body> {
        let size = pending.offer.size;
        let (mut counted, mut look) = (0, LOOK);
        let digest = loop {
            let wait = if self.begun { patience(0) } else { BEGIN };
            let frame = match self.from.frame(wait, &mut self.to)? {
                Some(frame) => frame,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            self.begun = true;
            let room = match size {
                Some(size) => size - written.hashed.bytes,
                None => self.left,
            };
            let (before, wrote) = (
                written.hashed.bytes,
                match frame {
                    Frame::Data(data) if data.len() as u64 <= room => written.data(&data),
                    Frame::Packed(packed) => match self.zstd.decompress(&packed, CHUNK) {
                        Ok(data) if data.len() as u64 <= room => written.data(&data),
                        Ok(_) if size.is_none() => Err(io::ErrorKind::FileTooLarge.into()),
                        _ => return Err(unexpected()),
                    },
                    Frame::Hole(bytes) if bytes <= room => written.hole(bytes),
                    Frame::Data(_) | Frame::Hole(_) if size.is_none() => {
                        Err(io::ErrorKind::FileTooLarge.into())
                    }
                    Frame::End(digest) => break digest,
                    Frame::Abort => return Ok(Body::Gone),
                    _ => return Err(unexpected()),
                },
            );
            let wrote = wrote.and_then(|()| {
                self.inbox.took(written.taken - counted);
                counted = written.taken;
                if counted < look {
                    return Ok(());
                }
                look = counted + LOOK;
                match self.inbox.room() {
                    0 => Err(io::Error::new(io::ErrorKind::StorageFull, "no more bytes are taken")),
                    _ => Ok(()),
                }
            });
            if let Err(why) = wrote {
                return Ok(Body::Refused(why.into(), true));
            }
            if size.is_none() {
                self.left -= written.hashed.bytes - before;
            }
            (self.tell)(Event::Moved { name, bytes: written.hashed.bytes });
        };
        if size.is_some_and(|size| size != written.hashed.bytes) {
            return Err(unexpected());
        }
        Ok(match self.keep(written, pending, digest) {
            Ok(done) => Body::Whole(done),
            Err(why) => Body::Refused(why, false),
        })
    }

    /// Gives a file its name, if it has the sender's hash.
    fn keep(&self, written: Written, pending: &Pending<'a>, theirs: [u8; HASH]) -> Result<Done, NotTaken> {
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

/// Outcome of the bytes of a file.
enum Body {
    Whole(Done),
    /// Its sender gave it up.
    Gone,
    /// True if its bytes have not ended.
    Refused(NotTaken, bool),
}

/// File that is whole.
struct Done {
    bytes: u64,
    digest: [u8; HASH],
    kept: Option<FileName>,
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

fn named(name: &str, why: io::Error) -> io::Error {
    if is_stopped(&why) { why } else { io::Error::new(why.kind(), format!("{name}: {why}")) }
}

fn unexpected() -> io::Error {
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
