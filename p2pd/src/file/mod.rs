//! `p2pd file send` and `p2pd file receive`: files over a pipe, resumed after a cut, checked by hash. The worked
//! example of a program on p2pd: [`send`] and [`receive`] know nothing but a stream.

mod copy;
mod inbox;
mod name;
mod receive;
mod seats;
mod send;
mod show;
mod wire;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use p2pd_core::NodeId;
use p2pd_tokio::{Node, Pipe};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::invitation::Invitation;
use crate::options::Receive;
use crate::say::Say;
use crate::signals::interrupted;
use inbox::{Inbox, Limits};
use name::FileName;
use seats::{Moved, Seats};
use send::Outgoing;
use show::Shown;
use wire::{HASH, Refusal, Resume};

/// Times for which a partial file is kept: for any sender, and for one that was named by `--accept`.
const KEEP: [Duration; 2] = [Duration::from_secs(7 * 86_400), Duration::from_secs(30 * 86_400)];
/// Longest wait for the call of a sender that was met: its own deadline, and some more.
const CALL: Duration = Duration::from_secs(30);
/// Longest wait for the receiver's end of the pipe.
const GOODBYE: Duration = Duration::from_secs(5);

/// Progress of a file.
#[derive(Debug)]
enum Event<'a> {
    /// The peer is one that sends files.
    Greeted,
    /// The two sides compare the part that the receiver has. That takes time and moves no bytes.
    Compares,
    /// The bytes of the file follow, from this one on.
    Begins {
        name: &'a str,
        size: u64,
        from: u64,
    },
    /// The receiver has the first `bytes` bytes.
    Moved {
        name: &'a str,
        bytes: u64,
    },
    Ended {
        name: &'a str,
        how: Ended<'a>,
    },
}

/// Outcome of a file.
#[derive(Debug)]
enum Ended<'a> {
    /// The file has arrived; the first `from` bytes were there before.
    Moved {
        bytes: u64,
        from: u64,
        digest: [u8; HASH],
        /// The name that it got where its own was taken.
        kept: Option<FileName>,
    },
    /// The file was there already.
    Same,
    Refused(Refusal),
    Failed(&'a io::Error),
}

/// Files to be sent, and how many were left out for their names.
#[derive(Debug)]
pub(crate) struct Batch {
    files: Vec<Outgoing>,
    skipped: usize,
}

/// Makes the list of files to be sent, before anything is opened. One whose name cannot be sent is left out, and that is
/// said.
///
/// # Errors
/// Says which file is none, or that no name can be sent.
pub(crate) fn outgoing(paths: &[impl AsRef<Path>], say: Say) -> Result<Batch, String> {
    let all: Vec<_> = paths.iter().map(|path| Outgoing::new(path.as_ref())).collect::<Result<_, _>>()?;
    let (files, bad): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    let mut bad: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
    if files.is_empty() {
        return Err(bad.pop().unwrap_or("no file".into()));
    }
    for why in &bad {
        say.error(&format!("{why}; it is left out"));
    }
    Ok(Batch { files: files.into_iter().flatten().collect(), skipped: bad.len() })
}

/// Sends files to the peer of a pipe that is open.
pub(crate) async fn send(pipe: Pipe, Batch { files, skipped }: &Batch, say: Say) -> ExitCode {
    let mut shown = Shown::new(say, "send", pipe.peer());
    let resume = resume(pipe.peer()).unwrap_or_else(|why| {
        say.error(&format!("{why}; a send that is cut off cannot be gone on with"));
        None
    });
    let (mut from, mut to) = tokio::io::split(pipe);
    let sent = send::send(files, resume, (&mut from, &mut to), |event| shown.tell(&event)).await;
    match sent {
        Ok(sent) => {
            // The receiver has heard of our end, wherever its bytes go through.
            let _ = tokio::time::timeout(GOODBYE, tokio::io::copy(&mut from, &mut tokio::io::sink())).await;
            if sent == files.len() && *skipped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            shown.clear();
            say.error(&format!("{why}; the same command goes on from there"));
            ExitCode::FAILURE
        }
    }
}

/// Returns the secret by which this receiver recognises this sender, independent of the node's key. Each receiver gets
/// another one, so that receivers learn nothing of each other. `None` where there is no place to store it.
fn resume(receiver: NodeId) -> Result<Option<Resume>, String> {
    let Some(path) = crate::secret::at_home("resume") else { return Ok(None) };
    let secret = crate::secret::load_or_create(&path)?;
    let mut hash = blake3::Hasher::new();
    hash.update(b"p2pd resume").update(secret.as_ref()).update(receiver.as_bytes());
    Ok(hash.finalize().as_bytes().first_chunk().copied())
}

/// A place to receive into, looked at before anything is opened.
#[derive(Debug)]
pub(crate) struct Receiving {
    inbox: Inbox,
    max_size: u64,
    once: bool,
}

impl Receiving {
    /// # Errors
    /// If the folder is none.
    pub(crate) fn new(options: &Receive) -> Result<Self, String> {
        let keep = KEEP[usize::from(!options.common.accept.is_empty())];
        let limits = Limits { bytes: options.max_bytes, parts: options.max_size, keep };
        let inbox = Inbox::new(&options.dir, options.overwrite, limits);
        let inbox = inbox.map_err(|why| format!("--dir {}: {why}", options.dir.display()))?;
        Ok(Receiving { inbox, max_size: options.max_size, once: options.once })
    }

    /// Receives from the first peer that sends files. Returns the number of files that did not arrive.
    async fn first(&self, node: &Node, say: Say) -> usize {
        while let Some(pipe) = node.accept().await {
            say.opened("incoming", &pipe);
            // Whoever sends no files is not the one that was meant.
            if let (true, failed) =
                self.one(pipe.peer(), tokio::io::split(pipe), &Moved::default(), say).await
            {
                return failed;
            }
        }
        0
    }

    /// Receives from one peer. Returns true if the peer was a sender at all, and the number of files that did not
    /// arrive.
    async fn one(
        &self,
        peer: NodeId,
        halves: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
        moved: &Moved,
        say: Say,
    ) -> (bool, usize) {
        let mut shown = Shown::new(say, "receive", peer);
        let mut greeted = false;
        let received = receive::receive(&self.inbox, self.max_size, peer, halves, |event| {
            greeted |= matches!(event, Event::Greeted);
            moved.tell(&event);
            shown.tell(&event);
        });
        let failed = match received.await {
            Ok(refused) => refused,
            Err(why) => {
                shown.clear();
                say.error(&why.to_string());
                1
            }
        };
        (greeted, failed)
    }
}

/// Receives from one peer, which is about to call, and lets it in.
pub(crate) async fn receive_from(node: &Node, peer: NodeId, receiving: &Receiving, say: Say) -> ExitCode {
    node.answer(peer, true);
    say.waiting("waiting for the sender's call");
    let Ok(pipe) = tokio::time::timeout(CALL, node.accept()).await else {
        say.still();
        say.error("the sender did not call");
        return ExitCode::FAILURE;
    };
    let Some(pipe) = pipe else { return ExitCode::FAILURE };
    say.opened("incoming", &pipe);
    match receiving.one(pipe.peer(), tokio::io::split(pipe), &Moved::default(), say).await {
        (true, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Receives from all peers that come, until interrupted, or from one peer.
pub(crate) async fn receive(
    node: &Node,
    receiving: Receiving,
    invitation: &Invitation,
    say: Say,
) -> ExitCode {
    say.waiting("asking for the outside address");
    say.ready(&node.address().await, node.node_id(), Some(invitation));
    let failed = if receiving.once {
        receiving.first(node, say).await
    } else {
        let mut seats = Seats::new(receiving, say);
        tokio::select! {
            () = seats.serve(node) => {}
            () = interrupted() => {}
        }
        seats.failed()
    };
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests;
