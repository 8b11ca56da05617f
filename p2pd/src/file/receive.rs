//! The receiver's side of the protocol in [`wire`](super::wire).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::NodeId;

use super::channel::{Reader, Stop, Writer, is_stopped, patience};
use super::content::Written;
use super::inbox::{Inbox, NotTaken};
use super::name::Sender;
use super::send::{WINDOW, WINDOW_BYTES};
use super::stage::{Done, Error, LOOK, Pending, Spot, Stage, State, Terms, unexpected};
use super::tree::{self, HASH, Hashed};
use super::walk::show;
use super::wire::{CHUNK, Frame, Listing, Meta, Number, Offer, Refusal};
use super::{Ended, Event};

/// Entries of one stream that are refused before nothing more is answered.
pub(super) const MAX_REFUSED: usize = 10_000;
/// Longest time for each step of a peer: to introduce itself, to offer its first file, and to begin with it.
const BEGIN: Duration = Duration::from_secs(10);
/// Longest time for a sender to hear why nothing is taken any more.
const GOODBYE: Duration = Duration::from_secs(2);

struct Receiving<'a, T> {
    inbox: &'a Inbox,
    stop: Arc<Stop>,
    stage: Stage<'a>,
    from: Reader,
    to: Writer,
    tell: T,
    next: Number,
    /// List that the user has said yes to.
    list: Listing,
    /// Packed bytes and holes are taken.
    packed: bool,
    /// Entries that were announced and have not come.
    announced: u64,
    pending: BTreeMap<Number, Pending<'a>>,
    paths: usize,
    refused: usize,
    /// True once a file has begun.
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
    if !list.is_shown() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer hides what it sends, or sends nothing",
        ));
    }
    tell(Event::Compares);
    if let Err(why) = consent(&list) {
        say_no(why, &mut from, &mut to);
        return Err(io::Error::other(format!("{peer} sends nothing: {}", why.reason())));
    }
    tell(Event::Listed(&list));
    to.put(&Frame::Go(terms.packed))?;
    let sender = Sender::new(resume.as_ref(), peer);
    let mut receiving = Receiving {
        inbox,
        stage: Stage::new(inbox, terms, (sender, stop.clone()), list.bytes),
        stop,
        from,
        to,
        tell,
        next: 0,
        packed: terms.packed,
        announced: list.files.saturating_add(list.folders.saturating_mul(2)),
        list,
        pending: BTreeMap::new(),
        paths: 0,
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
                Frame::Folder(path) => self.entry(&path, |it| it.stage.folder(&path))?,
                Frame::Link(path, target, meta) => self.entry(&path, |it| {
                    it.stage.link(&path, &target, &meta)?;
                    (it.tell)(Event::Linked);
                    Ok(())
                })?,
                Frame::Leave(path, meta) => self.leave(&path, meta)?,
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

    /// Refuses what the user was not shown.
    fn shown(&self, path: &[u8]) -> Result<(), Error> {
        if self.list.may_have(path) { Ok(()) } else { Err(Refusal::Name.into()) }
    }

    /// Handles an entry that is done at once.
    fn entry(&mut self, path: &[u8], work: impl FnOnce(&mut Self) -> Result<(), Error>) -> io::Result<()> {
        let n = self.number()?;
        match self.shown(path).and_then(|()| work(self)) {
            Ok(()) => self.to.put(&Frame::Done(n)),
            Err(Error::NotTaken(why)) => self.refuse(n, path, why),
            Err(Error::Stream(why)) => Err(why),
        }
    }

    /// Ends a folder.
    fn leave(&mut self, path: &[u8], meta: Meta) -> io::Result<()> {
        let mut whole = None;
        self.entry(path, |it| {
            let pending = &it.pending;
            let is_busy = |name: &OsString| {
                pending.values().any(|pending| matches!(&pending.spot, Spot::Inside(of) if of[0] == *name))
            };
            whole = it.stage.leave(path, meta, is_busy)?;
            Ok(())
        })?;
        let Some((staged, kept)) = whole else { return Ok(()) };
        // Only now, because it takes longer if there is one like it.
        self.to.flush()?;
        let (kept, was_there) = staged.place.merge_folder(kept);
        let name = show(path);
        let kept = (kept.as_str() != name).then_some(&kept);
        (self.tell)(Event::Kept { name: &name, kept, was_there });
        Ok(())
    }

    /// Takes an offer in, and answers what is wanted of the file.
    fn file(&mut self, offer: Offer) -> io::Result<()> {
        let n = self.number()?;
        if self.pending.len() >= WINDOW || self.paths + offer.path.len() > WINDOW_BYTES {
            return Err(unexpected());
        }
        match self.shown(&offer.path).and_then(|()| self.stage.look(&offer)) {
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
        match self.stage.compare(&mut pending) {
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
        let written = self.stage.open(&pending, from).and_then(|file| Ok(Written::new(file, hashed)?));
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
                None => self.stage.left,
            };
            let (before, wrote) = (
                written.hashed.bytes,
                match frame {
                    Frame::Data(data) if data.len() as u64 <= room => written.data(&data),
                    Frame::Packed(_) | Frame::Hole(_) if !self.packed => return Err(unexpected()),
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
                self.stage.left -= written.hashed.bytes - before;
            }
            (self.tell)(Event::Moved { name, bytes: written.hashed.bytes });
        };
        if size.is_some_and(|size| size != written.hashed.bytes) {
            return Err(unexpected());
        }
        Ok(match self.stage.keep(written, pending, digest) {
            Ok(done) => Body::Whole(done),
            Err(why) => Body::Refused(why, false),
        })
    }
}

/// Outcome of the bytes of a file.
enum Body {
    Whole(Done),
    /// The sender gave it up.
    Gone,
    /// True if its bytes have not ended.
    Refused(NotTaken, bool),
}

fn named(name: &str, why: io::Error) -> io::Error {
    if is_stopped(&why) { why } else { io::Error::new(why.kind(), format!("{name}: {why}")) }
}
