//! The sender's side of the protocol in [`wire`](super::wire). Entries are offered ahead of their answers, so that no file
//! waits for a round trip.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use super::channel::{Reader, Writer, patience};
use super::content::{Content, Packer, locked};
use super::folder::found;
use super::tree::{self, GROUPS_IN_FRAME, HASH, Hashed};
use super::walk::{Batch, Opened, Step, Walk, show};
use super::wire::{Frame, Meta, Number, Offer, Refusal, Resume};
use super::{Ended, Event};

/// Most entries that are offered and not done.
pub(super) const WINDOW: usize = 1024;
/// Most bytes of their paths.
pub(super) const WINDOW_BYTES: usize = 256 * 1024;
/// Most folders of the command line among them.
pub(super) const WINDOW_ROOTS: usize = 8;
/// Longest wait for the receiver's user to say yes.
const YES: Duration = Duration::from_secs(600);

/// Entry that is offered.
#[derive(Debug)]
enum Open {
    File(Offer, State),
    Link(Vec<u8>),
    /// A folder, or the end of one. True for the end of one of the command line.
    Folder(Vec<u8>, bool),
}

#[derive(Debug)]
enum State {
    Offered,
    /// The receiver knows these hashes of the part that it has, of so many bytes.
    Proven(Vec<[u8; HASH]>, u64),
    Wanted,
    /// The bytes have been sent; from this one on, and their hash.
    Sent(u64, [u8; HASH]),
}

/// Entry in the order of the walk.
#[derive(Debug)]
enum Item {
    Entry(Number),
    /// End of a folder, sent once all before it is done.
    Leave(Vec<u8>, Meta),
}

struct Sending<'a, T> {
    from: Reader,
    to: Writer,
    batch: &'a Batch,
    walk: Walk<'a>,
    walked: bool,
    tell: T,
    packer: Packer,
    /// Leaves holes out.
    holes: bool,
    next: Number,
    queue: VecDeque<Item>,
    open: BTreeMap<Number, Open>,
    /// Files whose bytes are wanted, with where they begin.
    wanted: VecDeque<(Number, Hashed)>,
    /// Bytes of the paths of open entries.
    paths: usize,
    /// Folders of the command line that are not whole there.
    roots: usize,
    /// Files, folders and bytes that were listed and are not offered yet.
    left: (u64, u64, Option<u64>),
    /// Folders that are left out, and are walked now.
    left_out: BTreeSet<Vec<u8>>,
    failed: usize,
    /// Name of the file whose bytes are under way.
    current: Option<String>,
}

/// Sends all of a batch, and says how it goes. Returns the number of entries that the peer does not have now.
///
/// # Errors
/// Those of the stream, and the receiver's reason to take nothing.
pub(super) fn send(
    batch: &Batch,
    resume: Option<Resume>,
    packs: bool,
    (from, to): (Reader, Writer),
    tell: impl FnMut(Event<'_>),
) -> io::Result<usize> {
    let list = &batch.listing;
    let mut sending = Sending {
        from,
        to,
        batch,
        walk: batch.walk(),
        walked: false,
        tell,
        packer: Packer::new(packs),
        holes: false,
        next: 0,
        queue: VecDeque::new(),
        open: BTreeMap::new(),
        wanted: VecDeque::new(),
        paths: 0,
        roots: 0,
        left: (list.files, list.folders, list.bytes),
        left_out: BTreeSet::new(),
        failed: 0,
        current: None,
    };
    let ended = sending.begin(resume).and_then(|()| sending.all());
    ended.map_err(|why| {
        // A receiver that gives up says why before it leaves.
        let last = if why.kind() == io::ErrorKind::BrokenPipe { sending.last_word() } else { None };
        let why = last.unwrap_or(why);
        match &sending.current {
            Some(name) => io::Error::new(why.kind(), format!("{name}: {why}")),
            None => why,
        }
    })
}

impl<T: FnMut(Event<'_>)> Sending<'_, T> {
    fn begin(&mut self, resume: Option<Resume>) -> io::Result<()> {
        let batch = self.batch;
        self.to.put(&Frame::Hello(resume, batch.listing.clone()))?;
        match self.from.frame(YES, &mut self.to)? {
            Some(Frame::Go(packs)) => self.go(packs),
            Some(Frame::No(why)) => return Err(gave_up(why)),
            Some(other) => return Err(unexpected(&other)),
            None => {
                let text = "the peer ended: it does not receive files";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        (self.tell)(Event::Listed(&batch.listing));
        Ok(())
    }

    /// Packs bytes and leaves holes out, if the receiver takes that.
    fn go(&mut self, packs: bool) {
        self.holes = packs;
        if !packs {
            self.packer = Packer::new(false);
        }
    }

    fn all(&mut self) -> io::Result<usize> {
        loop {
            while let Some(frame) = self.from.ready()? {
                self.answer(frame)?;
            }
            self.leave()?;
            let offers = self.may_offer();
            if offers {
                self.offer()?;
            }
            if let Some((n, hashed)) = self.wanted.pop_front() {
                self.content(n, hashed)?;
                continue;
            }
            if offers {
                continue;
            }
            if self.walked && self.queue.is_empty() && self.open.is_empty() {
                break;
            }
            let bytes = self.open.values().map(Open::bytes).max().unwrap_or_default();
            match self.from.frame(patience(bytes), &mut self.to)? {
                Some(frame) => self.answer(frame)?,
                None => return Err(ended()),
            }
        }
        self.to.put(&Frame::Bye)?;
        match self.from.frame(patience(0), &mut self.to)? {
            Some(Frame::Stored) => {}
            Some(Frame::No(why)) => return Err(gave_up(why)),
            Some(other) => return Err(unexpected(&other)),
            None => return Err(ended()),
        }
        self.to.end()?;
        Ok(self.failed)
    }

    /// Returns true if one more entry may be offered.
    fn may_offer(&self) -> bool {
        !self.walked
            && self.open.len() + self.queue.len() / 2 < WINDOW
            && self.paths < WINDOW_BYTES - super::wire::MAX_PATH
            && self.roots < WINDOW_ROOTS
    }

    fn offer(&mut self) -> io::Result<()> {
        let step = self.walk.next();
        if let Some(Step::Folder(path) | Step::Link(path, ..) | Step::File(Offer { path, .. })) = &step
            && !self.is_listed(path)
        {
            if let Some(Step::Folder(path)) = &step {
                self.left_out.insert(path.clone());
            }
            self.unlisted(path);
            return Ok(());
        }
        match step {
            None => self.walked = true,
            Some(Step::Folder(path)) => match self.left.1.checked_sub(1) {
                Some(left) => {
                    self.left.1 = left;
                    self.roots += usize::from(!path.contains(&b'/'));
                    self.entry(Frame::Folder(path.clone()), Open::Folder(path, false))?;
                }
                None => {
                    self.unlisted(&path);
                    self.left_out.insert(path);
                }
            },
            Some(Step::Link(path, target, meta)) => match self.left.0.checked_sub(1) {
                Some(left) => {
                    self.left.0 = left;
                    self.entry(Frame::Link(path.clone(), target, meta), Open::Link(path))?;
                }
                None => self.unlisted(&path),
            },
            Some(Step::File(offer)) => {
                let bytes = match (self.left.2, offer.size) {
                    (Some(left), Some(size)) => left.checked_sub(size).map(Some),
                    _ => Some(None),
                };
                match (self.left.0.checked_sub(1), bytes) {
                    (Some(files), Some(bytes)) => {
                        (self.left.0, self.left.2) = (files, bytes);
                        self.entry(Frame::File(offer.clone()), Open::File(offer, State::Offered))?;
                    }
                    _ => self.unlisted(&offer.path),
                }
            }
            Some(Step::Leave(path, meta)) => {
                if !self.left_out.remove(&path) {
                    self.queue.push_back(Item::Leave(path, meta));
                }
            }
            // The list has said so.
            Some(Step::Left(..)) => {}
        }
        Ok(())
    }

    /// Returns whether the receiver's user has said yes to an entry, as far as the list tells.
    fn is_listed(&self, path: &[u8]) -> bool {
        let parent = path.iter().rposition(|b| *b == b'/').map_or(&[][..], |at| &path[..at]);
        self.batch.listing.may_have(path) && !self.left_out.contains(parent)
    }

    /// Says of an entry that the receiver's user has not seen it in the list.
    fn unlisted(&mut self, path: &[u8]) {
        self.fail(path, &io::Error::other("new, or longer than it was when the list was made"));
    }

    fn fail(&mut self, path: &[u8], why: &io::Error) {
        self.failed += 1;
        (self.tell)(Event::Ended { name: &show(path), how: Ended::Failed(why) });
    }

    fn entry(&mut self, frame: Frame, open: Open) -> io::Result<()> {
        self.to.put(&frame)?;
        let n = self.next;
        self.next = n.checked_add(1).ok_or_else(|| io::Error::other("more than four billion files"))?;
        self.paths += open.path().len();
        if !matches!(frame, Frame::Leave(..)) {
            self.queue.push_back(Item::Entry(n));
        }
        self.open.insert(n, open);
        Ok(())
    }

    /// Sends the ends of folders that everything has arrived in.
    fn leave(&mut self) -> io::Result<()> {
        loop {
            match self.queue.front() {
                Some(Item::Entry(n)) if !self.open.contains_key(n) => {
                    self.queue.pop_front();
                }
                Some(Item::Leave(..)) => {
                    if let Some(Item::Leave(path, meta)) = self.queue.pop_front() {
                        let root = !path.contains(&b'/');
                        self.entry(Frame::Leave(path.clone(), meta), Open::Folder(path, root))?;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Takes in what the receiver says.
    fn answer(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::No(why) => return Err(gave_up(why)),
            Frame::Prove(n, have) => return self.prove(n, have),
            Frame::Take(n, from) => {
                let Some(Open::File(offer, state)) = self.open.get_mut(&n) else {
                    return Err(unexpected(&frame));
                };
                let group = tree::group(offer.size);
                let hashed = match std::mem::replace(state, State::Wanted) {
                    State::Offered if from == 0 => Hashed::new(group),
                    State::Proven(mut hashes, have) if from.is_multiple_of(group) && from <= have => {
                        hashes.truncate((from / group) as usize);
                        Hashed::after(group, hashes)
                    }
                    _ => return Err(unexpected(&frame)),
                };
                self.wanted.push_back((n, hashed));
            }
            Frame::Same(n) => match self.close(n) {
                Some(Open::File(offer, State::Proven(_, have))) if offer.size == Some(have) => {
                    (self.tell)(Event::Ended { name: &show(&offer.path), how: Ended::Same(have) });
                }
                _ => return Err(unexpected(&frame)),
            },
            Frame::Done(n) => match self.close(n) {
                Some(Open::File(offer, State::Sent(from, digest))) => {
                    let bytes = offer.size.unwrap_or_default();
                    let how = Ended::Moved { bytes, from, digest, kept: None };
                    (self.tell)(Event::Ended { name: &show(&offer.path), how });
                }
                Some(Open::Link(_)) => (self.tell)(Event::Linked),
                Some(Open::Folder(..)) => {}
                _ => return Err(unexpected(&frame)),
            },
            Frame::Not(n, why) => match self.close(n) {
                Some(open) => {
                    self.failed += 1;
                    (self.tell)(Event::Ended { name: &show(open.path()), how: Ended::Refused(why) });
                }
                None => return Err(unexpected(&frame)),
            },
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn close(&mut self, n: Number) -> Option<Open> {
        let open = self.open.remove(&n)?;
        self.paths -= open.path().len();
        if let Open::Folder(_, true) = open {
            self.roots -= 1;
        }
        Some(open)
    }

    /// Sends the hashes of the part that the receiver has.
    fn prove(&mut self, n: Number, have: u64) -> io::Result<()> {
        let offer = match self.open.get(&n) {
            Some(Open::File(offer, State::Offered)) => offer.clone(),
            _ => return Err(unexpected(&Frame::Prove(n, have))),
        };
        if have == 0 || offer.size.is_none_or(|size| have > size) {
            return Err(unexpected(&Frame::Prove(n, have)));
        }
        (self.tell)(Event::Compares);
        // What was said before is not kept back by it.
        self.to.flush()?;
        let hashes = match self.batch.open(&offer.path) {
            Ok(Opened::File(file)) => tree::of_file(&file, have, tree::group(offer.size)),
            Ok(Opened::Stdin) => Err(io::ErrorKind::Unsupported.into()),
            Ok(Opened::Given(bytes)) => locked(&bytes).prove(have, tree::group(offer.size)),
            Err(why) => Err(why),
        };
        match hashes {
            Ok(hashes) => {
                for some in hashes.chunks(GROUPS_IN_FRAME) {
                    self.to.put(&Frame::Tree(n, some.to_vec()))?;
                }
                self.open.insert(n, Open::File(offer, State::Proven(hashes, have)));
                Ok(())
            }
            Err(why) => self.abort(n, &why),
        }
    }

    /// Gives a file up.
    fn abort(&mut self, n: Number, why: &io::Error) -> io::Result<()> {
        self.to.put(&Frame::Body(n))?;
        self.aborted(n, why)
    }

    fn aborted(&mut self, n: Number, why: &io::Error) -> io::Result<()> {
        self.to.put(&Frame::Abort)?;
        self.current = None;
        if let Some(open) = self.close(n) {
            self.fail(open.path(), why);
        }
        Ok(())
    }

    /// Sends the bytes of a file.
    fn content(&mut self, n: Number, hashed: Hashed) -> io::Result<()> {
        // Refused meanwhile.
        let Some(Open::File(offer, _)) = self.open.get(&n) else { return Ok(()) };
        let offer = offer.clone();
        let (from, name) = (hashed.bytes, show(&offer.path));
        let opened = self
            .batch
            .open(&offer.path)
            .and_then(|opened| Content::new(opened, offer.size, hashed, self.holes));
        let mut content = match opened {
            Ok(content) if is_same(&content, &offer) => content,
            Ok(_) => return self.abort(n, &changed()),
            Err(why) => return self.abort(n, &why),
        };
        self.to.put(&Frame::Body(n))?;
        (self.tell)(Event::Begins { name: &name, size: offer.size, from });
        self.current = Some(name.clone());
        self.packer.begin();
        loop {
            match content.next(&mut self.packer) {
                Ok(Some(frame)) => {
                    self.to.put(&frame)?;
                    if matches!(frame, Frame::Hole(_)) {
                        self.to.flush()?;
                    }
                }
                Ok(None) => break,
                Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return self.aborted(n, &changed()),
                Err(why) => return self.aborted(n, &why),
            }
            (self.tell)(Event::Moved { name: &name, bytes: content.hashed.bytes });
            while let Some(frame) = self.from.ready()? {
                self.answer(frame)?;
            }
            if !self.open.contains_key(&n) {
                self.current = None;
                return self.to.put(&Frame::Abort);
            }
        }
        if !is_same(&content, &offer) {
            return self.aborted(n, &changed());
        }
        self.current = None;
        let (bytes, digest) = (content.hashed.bytes, content.hashed.digest());
        self.to.put(&Frame::End(digest))?;
        let offer = Offer { size: Some(bytes), ..offer };
        self.open.insert(n, Open::File(offer, State::Sent(from, digest)));
        Ok(())
    }

    /// Returns what the receiver has said before it left.
    fn last_word(&mut self) -> Option<io::Error> {
        let until = std::time::Instant::now() + Duration::from_secs(2);
        while std::time::Instant::now() < until {
            match self.from.ready() {
                Ok(Some(Frame::No(why))) => return Some(gave_up(why)),
                Ok(Some(_)) => {}
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => return None,
            }
        }
        None
    }
}

impl Open {
    fn path(&self) -> &[u8] {
        match self {
            Open::File(offer, _) => &offer.path,
            Open::Link(path) | Open::Folder(path, _) => path,
        }
    }

    /// Bytes that the receiver may be hashing or storing.
    fn bytes(&self) -> u64 {
        match self {
            Open::File(offer, _) => offer.size.unwrap_or_default(),
            Open::Link(_) | Open::Folder(..) => 0,
        }
    }
}

/// Returns whether an open file is the one that was offered.
fn is_same(content: &Content, offer: &Offer) -> bool {
    content.file().is_none_or(|file| {
        found(file).is_ok_and(|found| {
            let same_time = (found.meta.seconds, found.meta.nanos) == (offer.meta.seconds, offer.meta.nanos);
            offer.size == Some(found.size) && same_time
        })
    })
}

fn changed() -> io::Error {
    io::Error::other("has changed while it was sent")
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended")
}

fn gave_up(why: Refusal) -> io::Error {
    io::Error::other(why.reason())
}

fn unexpected(frame: &Frame) -> io::Error {
    let kind = match frame {
        Frame::Hello(..) | Frame::File(_) => "is no receiver",
        _ => "answered what was not asked",
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("the peer {kind}"))
}
