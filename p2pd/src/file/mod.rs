//! `p2pd file send` and `p2pd file receive`: files over a pipe, gone on with where they were cut off, checked by hash. The
//! worked example of a program on p2pd: [`send`] and [`receive`] know nothing but a stream.

mod copy;
mod inbox;
mod name;
mod receive;
mod send;
mod show;
mod wire;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use p2pd_tokio::{Node, Pipe};
use tokio::sync::Semaphore;

use crate::options::Receive;
use crate::say::Say;
use inbox::Inbox;
pub(crate) use send::Outgoing;
use show::Shown;
use wire::{HASH, Refusal};

/// Peers that are received from at once; a further one waits.
const PEERS: usize = 8;
/// How long the receiver's end of the pipe is waited for.
const GOODBYE: Duration = Duration::from_secs(5);

/// How it goes with a file.
#[derive(Debug)]
enum Event<'a> {
    /// Its bytes come, from this one on.
    Begins {
        name: &'a str,
        size: u64,
        from: u64,
    },
    /// So many of them are there.
    Moved {
        name: &'a str,
        bytes: u64,
    },
    Ended {
        name: &'a str,
        how: Ended<'a>,
    },
}

/// How it ended with a file.
#[derive(Debug)]
enum Ended<'a> {
    /// It is there; so many bytes of it were before.
    Moved {
        bytes: u64,
        from: u64,
        digest: [u8; HASH],
    },
    /// It was there already.
    Same,
    Refused(Refusal),
    Failed(&'a io::Error),
}

/// What is to be sent: names are looked at before anything is opened.
///
/// # Errors
/// Says which file cannot be sent, and why.
pub(crate) fn outgoing(paths: &[impl AsRef<Path>]) -> Result<Vec<Outgoing>, String> {
    paths.iter().map(|path| Outgoing::new(path.as_ref())).collect()
}

/// Sends files to the peer of a pipe that is open.
pub(crate) async fn send(pipe: Pipe, files: &[Outgoing], say: Say) -> ExitCode {
    let mut shown = Shown::new(say, "send", pipe.peer());
    let (mut from, mut to) = tokio::io::split(pipe);
    let sent = send::send(files, (&mut from, &mut to), |event| shown.tell(&event)).await;
    match sent {
        Ok(sent) => {
            // The receiver has heard of our end, wherever its bytes go through.
            let _ = tokio::time::timeout(GOODBYE, tokio::io::copy(&mut from, &mut tokio::io::sink())).await;
            if sent == files.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            shown.clear();
            say.error(&format!("{why}; the same command goes on from there"));
            ExitCode::FAILURE
        }
    }
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
        let inbox = Inbox::new(&options.dir, options.overwrite);
        let inbox = inbox.map_err(|why| format!("--dir {}: {why}", options.dir.display()))?;
        Ok(Receiving { inbox, max_size: options.max_size, once: options.once })
    }
}

/// Receives from whoever comes, until interrupted, or from one peer.
pub(crate) async fn receive(node: &Node, receiving: Receiving, say: Say) -> ExitCode {
    say.waiting("asking for the outside address");
    say.ready(&node.address().await, node.node_id());
    let receiving = Arc::new(receiving);
    let (places, failures) = (Arc::new(Semaphore::new(PEERS)), Arc::new(AtomicUsize::new(0)));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let Some(pipe) = node.accept().await else { break };
        say.opened("incoming", &pipe);
        let (receiving, failures) = (receiving.clone(), failures.clone());
        let once = receiving.once;
        let peer = tokio::spawn(async move {
            let mut shown = Shown::new(say, "receive", pipe.peer());
            let halves = tokio::io::split(pipe);
            let received =
                receive::receive(&receiving.inbox, receiving.max_size, halves, |event| shown.tell(&event))
                    .await;
            let failed = match received {
                Ok(refused) => refused,
                Err(why) => {
                    shown.clear();
                    say.error(&why.to_string());
                    1
                }
            };
            failures.fetch_add(failed, Ordering::Relaxed);
            drop(place);
        });
        if once {
            let _ = peer.await;
            break;
        }
    }
    if failures.load(Ordering::Relaxed) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests;
