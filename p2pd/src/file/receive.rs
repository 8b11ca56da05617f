//! The receiver's side of the protocol in [`wire`](super::wire).

use std::io;
use std::time::{Duration, Instant};

use p2pd_core::NodeId;
use p2pd_core::text::shown;
use subtle::ConstantTimeEq;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncSeekExt, AsyncWrite, AsyncWriteExt};

use super::copy::{CHUNK, Hashed, Hashing, next, patiently, within};
use super::inbox::{Have, Inbox, NotTaken, Place};
use super::name::{FileName, Sender};
use super::wire::{HASH, Message, Refusal};
use super::{Ended, Event};
use crate::talk::Gather;

/// Files that are taken from one pipe.
pub(crate) const MAX_FILES: usize = 1000;
/// Time for which a name may be in use before its sender is refused.
const IN_USE: Duration = Duration::from_secs(3);
/// Longest time for each step of a peer: to introduce itself, to offer its first file, and to begin with it.
const BEGIN: Duration = Duration::from_secs(10);
/// Bytes of a file after which the disk is looked at again.
const LOOK: u64 = 16 << 20;

/// Receives the files of one pipe's peer, and reports their progress. Returns the number of files that were refused.
///
/// # Errors
/// Those of the pipe, and `InvalidData` for a peer that speaks otherwise. Data received by then stays.
pub(crate) async fn receive(
    inbox: &Inbox,
    max_size: u64,
    peer: NodeId,
    (mut from, mut to): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    mut tell: impl FnMut(Event<'_>),
) -> io::Result<usize> {
    let sender = match within(BEGIN, Message::read(&mut from)).await? {
        Some(Message::Hello(resume)) => Sender::new(resume.as_ref(), peer),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer sends no files")),
    };
    tell(Event::Greeted);
    let (mut refused, mut left) = (0, max_size);
    for number in 0.. {
        let next = Message::read(&mut from);
        let next = if number == 0 { within(BEGIN, next).await } else { patiently(0, next).await };
        let (size, name) = match next? {
            None => break,
            Some(Message::Offer { size, name }) => (size, name),
            Some(_) => return Err(unexpected()),
        };
        let name = match FileName::new(&name) {
            Ok(name) if number < MAX_FILES => name,
            taken => {
                let why = taken.map_or(Refusal::Name, |_| Refusal::TooMany);
                Message::Refused(why).write(&mut to).await?;
                // Such a name is shown escaped: it could write on the terminal.
                tell(Event::Ended { name: &shown(&name).to_string(), how: Ended::Refused(why) });
                refused += 1;
                // A peer that goes on offering is not answered for ever.
                if number > 2 * MAX_FILES {
                    return Err(unexpected());
                }
                continue;
            }
        };
        let how = if size > left || !inbox.takes(size) {
            Err(Error::NotTaken(Refusal::TooLarge.into()))
        } else {
            left -= size;
            one(inbox, (&sender, &name), size, (&mut from, &mut to), &mut tell).await
        };
        match how {
            Ok(how) => tell(Event::Ended { name: name.as_str(), how }),
            Err(Error::NotTaken(NotTaken { told, why })) => {
                let how = why.as_ref().map_or(Ended::Refused(told), Ended::Failed);
                tell(Event::Ended { name: name.as_str(), how });
                Message::Refused(told).write(&mut to).await?;
                refused += 1;
            }
            // The sender is in the midst of the bytes: it is told, and given time to hear it.
            Err(Error::Broken(why)) => {
                tell(Event::Ended { name: name.as_str(), how: Ended::Failed(&why) });
                Message::Refused(Refusal::NotWritten).write(&mut to).await?;
                to.shutdown().await?;
                let _ = patiently(0, tokio::io::copy(&mut from, &mut tokio::io::sink())).await;
                return Err(io::Error::new(why.kind(), format!("{name}: {why}")));
            }
            Err(Error::Anew) => {
                let _ = within(BEGIN, Message::Refused(Refusal::InUse).write(&mut to)).await;
                return Err(io::Error::other(format!("{name}: its sender begins it anew")));
            }
            Err(Error::Pipe(why)) => return Err(io::Error::new(why.kind(), format!("{name}: {why}"))),
        }
    }
    to.shutdown().await?;
    Ok(refused)
}

/// Reason why a file did not arrive.
#[derive(Debug)]
enum Error {
    /// The file is refused; the next one may follow.
    NotTaken(NotTaken),
    /// The file cannot be written any more, while its bytes arrive.
    Broken(io::Error),
    /// Its sender sends it on another pipe.
    Anew,
    Pipe(io::Error),
}

async fn one(
    inbox: &Inbox,
    (sender, name): (&Sender, &FileName),
    size: u64,
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    tell: &mut impl FnMut(Event<'_>),
) -> Result<Ended<'static>, Error> {
    let (place, have) = free(inbox, (sender, name), size).await?;
    // A sender that was cut off is back before its earlier pipe is known to be dead.
    tokio::select! {
        ended = into_place(inbox, (&place, have), (name, size), (from, to), tell) => ended,
        () = place.begun_anew() => Err(Error::Anew),
    }
}

/// Receives a file to its place.
async fn into_place(
    inbox: &Inbox,
    (place, have): (&Place<'_>, Have),
    (name, size): (&FileName, u64),
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    tell: &mut impl FnMut(Event<'_>),
) -> Result<Ended<'static>, Error> {
    tell(Event::Compares);
    let (file, hashed) = match have {
        Have::Whole(file) if size > 0 => {
            let whole = proven(&mut File::from_std(file), size, (&mut *from, &mut *to)).await?;
            if whole.is_some() {
                Message::Done.write(to).await.map_err(Error::Pipe)?;
                return Ok(Ended::Same);
            }
            // It proved to be another file. What there is of the one that comes is not asked for again.
            let Have::Part(file, _) = place.begin(size)? else { return Err(unexpected().into()) };
            (restarted(file, to).await?, Hashed::default())
        }
        // Of nothing there is only one.
        Have::Whole(_) => {
            Message::Accept { have: 0 }.write(to).await.map_err(Error::Pipe)?;
            digest(from).await?;
            Message::Done.write(to).await.map_err(Error::Pipe)?;
            return Ok(Ended::Same);
        }
        Have::Part(file, 0) => {
            Message::Accept { have: 0 }.write(to).await.map_err(Error::Pipe)?;
            (File::from_std(file), Hashed::default())
        }
        Have::Part(file, have) => {
            let mut file = File::from_std(file);
            match proven(&mut file, have, (&mut *from, &mut *to)).await? {
                Some(hashed) => {
                    Message::Begin { from: have }.write(to).await.map_err(Error::Pipe)?;
                    (file, hashed)
                }
                None => (restarted(file.into_std().await, to).await?, Hashed::default()),
            }
        }
    };
    let begun = hashed.bytes;
    tell(Event::Begins { name: name.as_str(), size, from: begun });
    let (mut chunk, mut look) = (vec![0; CHUNK], begun + LOOK);
    let (mut gather, mut hashing, mut at) =
        (Gather::new(&mut *from), Hashing::new(file, hashed).await, begun);
    while at < size {
        if at >= look {
            look = at + LOOK;
            if inbox.room() == 0 {
                return Err(Error::Broken(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "no more bytes are taken",
                )));
            }
        }
        let some = next(&mut gather, &mut chunk, size - at);
        let some = if at == begun { within(BEGIN, some).await } else { patiently(0, some).await };
        let n = match some {
            Ok(n) => n,
            Err(why) => {
                // What came is there when the name is free again.
                let _ = hashing.settle().await;
                return Err(Error::Pipe(why));
            }
        };
        chunk = hashing.write(chunk, n).await.map_err(Error::Broken)?;
        at += n as u64;
        inbox.took(n as u64);
        tell(Event::Moved { name: name.as_str(), bytes: at });
    }
    let (file, hashed) = hashing.finish().await.map_err(Error::Broken)?;
    let (ours, theirs) = (hashed.digest(), digest(from).await?);
    let kept = keep(place, file, size, ours == theirs).await?;
    Message::Done.write(to).await.map_err(Error::Pipe)?;
    // Only now, because it takes longer if there is one like it.
    let kept = tokio::task::block_in_place(|| place.merge(kept, size));
    let kept = (kept != *name).then_some(kept);
    Ok(Ended::Moved { bytes: size, from: begun, digest: ours, kept })
}

/// Waits a moment for a name that is in use: whoever has it from the same sender is told to end.
async fn free<'a>(
    inbox: &'a Inbox,
    (sender, name): (&Sender, &FileName),
    size: u64,
) -> Result<(Place<'a>, Have), NotTaken> {
    let begin = Instant::now();
    loop {
        let found = inbox.place(sender, name.clone()).map_err(NotTaken::from);
        let found = found.and_then(|place| place.look(size).map(|have| (place, have)));
        match found {
            Err(NotTaken { told: Refusal::InUse, .. }) if begin.elapsed() < IN_USE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            done => return done,
        }
    }
}

/// Says how much there is, and has the sender prove that it has the same. `None` if it has something else.
async fn proven(
    file: &mut File,
    have: u64,
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
) -> Result<Option<Hashed>, Error> {
    Message::Accept { have }.write(to).await.map_err(Error::Pipe)?;
    // While the sender hashes its own.
    let ours = Hashed::prefix(file, have).await;
    match patiently(have, Message::read(from)).await.map_err(Error::Pipe)? {
        Some(Message::Proof(theirs)) => {
            let ours = ours.map_err(NotTaken::from)?;
            Ok(bool::from(ours.digest().ct_eq(&theirs)).then_some(ours))
        }
        Some(_) => Err(unexpected().into()),
        None => Err(Error::Pipe(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Begins from nothing.
async fn restarted(file: std::fs::File, to: &mut (impl AsyncWrite + Unpin)) -> Result<File, Error> {
    let mut file = File::from_std(file);
    let emptied = async {
        file.set_len(0).await?;
        file.rewind().await
    };
    emptied.await.map_err(NotTaken::from)?;
    Message::Begin { from: 0 }.write(to).await.map_err(Error::Pipe)?;
    Ok(file)
}

async fn digest(from: &mut (impl AsyncRead + Unpin)) -> Result<[u8; HASH], Error> {
    match patiently(0, Message::read(from)).await.map_err(Error::Pipe)? {
        Some(Message::Digest(digest)) => Ok(digest),
        Some(_) => Err(unexpected().into()),
        None => Err(Error::Pipe(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Stores the file for good, if it has the sender's hash.
async fn keep(place: &Place<'_>, mut file: File, size: u64, same: bool) -> Result<FileName, NotTaken> {
    if !same {
        place.discard();
        return Err(Refusal::Damaged.into());
    }
    // What is written to a disk that is full may be told only now.
    file.flush().await?;
    file.sync_all().await?;
    place.keep(size)
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

impl From<io::Error> for Error {
    fn from(why: io::Error) -> Self {
        Error::Pipe(why)
    }
}
