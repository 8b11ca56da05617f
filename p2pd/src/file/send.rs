//! The sender's side of the protocol in [`wire`](super::wire).

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::copy::{CHUNK, Hashed, next, patiently};
use super::name::FileName;
use super::wire::{Message, Refusal, Resume};
use super::{Ended, Event};

/// A file to send.
#[derive(Debug)]
pub(crate) struct Outgoing {
    path: PathBuf,
    name: FileName,
}

impl Outgoing {
    /// The file, or why its name cannot be sent.
    ///
    /// # Errors
    /// Names a file that is none.
    pub(crate) fn new(path: &Path) -> Result<Result<Self, String>, String> {
        let said = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let found = path.metadata().map_err(|why| said(&why))?;
        if !found.is_file() {
            return Err(said(&"not a file"));
        }
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Ok(Err(said(&"its name is not UTF-8")));
        };
        let named = |name| Outgoing { path: path.into(), name };
        Ok(FileName::new(name).map(named).map_err(|why| said(&why)))
    }
}

/// Sends files one after another and says how it goes; gives how many the peer has now. One that is refused, or cannot
/// be read before it begins, does not keep the others back.
///
/// # Errors
/// Those of the pipe, and of reading a file whose bytes are under way: nothing can be sent behind them.
pub(crate) async fn send(
    files: &[Outgoing],
    resume: Option<Resume>,
    (mut from, mut to): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    mut tell: impl FnMut(Event<'_>),
) -> io::Result<usize> {
    let mut sent = 0;
    Message::Hello(resume).write(&mut to).await?;
    for Outgoing { path, name } in files {
        let file = match File::open(path).await {
            Ok(file) => file,
            Err(why) => {
                tell(Event::Ended { name: name.as_str(), how: Ended::Failed(&why) });
                continue;
            }
        };
        let size = file.metadata().await?.len();
        let how = one(file, name, size, (&mut from, &mut to), &mut tell).await;
        let how = how.map_err(|why| io::Error::new(why.kind(), format!("{name}: {why}")))?;
        sent += usize::from(!matches!(how, Ended::Refused(_)));
        tell(Event::Ended { name: name.as_str(), how });
    }
    to.shutdown().await?;
    Ok(sent)
}

async fn one(
    mut file: File,
    name: &FileName,
    size: u64,
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    tell: &mut impl FnMut(Event<'_>),
) -> io::Result<Ended<'static>> {
    Message::Offer { size, name: name.as_str().into() }.write(to).await?;
    let have = match answer(from, 0).await? {
        Message::Accept { have } if have <= size => have,
        Message::Refused(why) => return Ok(Ended::Refused(why)),
        other => return Err(unexpected(&other)),
    };
    let mut hashed = Hashed::default();
    if have > 0 {
        hashed = Hashed::prefix(&mut file, have).await?;
        Message::Proof(hashed.digest()).write(to).await?;
        match answer(from, have).await? {
            Message::Begin { from: at } if at == have => {}
            Message::Begin { from: 0 } => hashed = Hashed::prefix(&mut file, 0).await?,
            Message::Done if have == size => return Ok(Ended::Same),
            Message::Refused(why) => return Ok(Ended::Refused(why)),
            other => return Err(unexpected(&other)),
        }
    }
    let begun = hashed.bytes;
    tell(Event::Begins { name: name.as_str(), size, from: begun });
    let mut chunk = vec![0; CHUNK];
    let early = Message::read(from);
    tokio::pin!(early);
    while hashed.bytes < size {
        let n = next(&mut file, &mut chunk, size - hashed.bytes).await.map_err(|why| match why.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(why.kind(), "became shorter while it was sent"),
            _ => why,
        })?;
        hashed.update(&chunk[..n]);
        tokio::select! {
            written = patiently(0, to.write_all(&chunk[..n])) => match written {
                Ok(()) => {}
                // A receiver that gives up says why before it leaves.
                Err(why) => return match patiently(0, &mut early).await {
                    Ok(Some(Message::Refused(refusal))) => Err(gave_up(refusal)),
                    _ => Err(why),
                },
            },
            said = &mut early => return Err(match said? {
                Some(Message::Refused(refusal)) => gave_up(refusal),
                Some(other) => unexpected(&other),
                None => io::ErrorKind::UnexpectedEof.into(),
            }),
        }
        tell(Event::Moved { name: name.as_str(), bytes: hashed.bytes });
    }
    let digest = hashed.digest();
    Message::Digest(digest).write(to).await?;
    match patiently(size, early).await?.ok_or(io::ErrorKind::UnexpectedEof)? {
        Message::Done => Ok(Ended::Moved { bytes: size, from: begun, digest, kept: None }),
        Message::Refused(why) => Ok(Ended::Refused(why)),
        other => Err(unexpected(&other)),
    }
}

async fn answer(from: &mut (impl AsyncRead + Unpin), bytes: u64) -> io::Result<Message> {
    let answer = patiently(bytes, Message::read(from)).await?;
    answer.ok_or_else(|| {
        io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended: it does not receive files")
    })
}

fn gave_up(why: Refusal) -> io::Error {
    io::Error::other(why.reason())
}

fn unexpected(message: &Message) -> io::Error {
    let kind = match message {
        Message::Hello(_) | Message::Offer { .. } => "is no receiver",
        _ => "answered what was not asked",
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("the peer {kind}"))
}
