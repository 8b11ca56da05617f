//! `p2pd file send` and `p2pd file receive`: files and folders over a session, gone on with after a cut, checked by hash.
//! [`send`](send::send) and [`receive`](receive::receive) know nothing but a stream of bytes.

mod channel;
mod consent;
mod content;
mod folder;
mod given;
mod inbox;
mod name;
mod receive;
mod seats;
mod send;
mod show;
mod stage;
mod transfers;
mod tree;
mod walk;
mod watcher;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use p2pd_core::{Config, NodeId, Plan, Target};
use p2pd_tokio::{ConnectError, Node, RecvStream, SendStream, Session, SessionConfig};
use tokio::time::timeout;

use crate::INTERRUPTED;
use crate::arrivals::Arrivals;
use crate::commands::close_pipes;
use crate::forward;
use crate::invitation::Invitation;
use crate::options::Receive;
use crate::say::Say;
use crate::signals::interrupted;
use crate::talk::Input;
use channel::{Reader, Stop, Writer};
use consent::{Consent, ask};
pub(crate) use given::Given;
use inbox::{Inbox, Limits};
use name::FileName;
use seats::{Moved, Seats};
use stage::Terms;
pub(crate) use transfers::{NotThere, Progress, Transfers};
use tree::HASH;
pub(crate) use walk::Batch;
pub(crate) use watcher::Watcher;
pub(crate) use wire::protocol;
use wire::{Listing, Refusal, Resume, TAG};

/// Times for which a partial file is kept: for any sender, and for one that was named by `--accept`.
const KEEP: [Duration; 2] = [Duration::from_secs(7 * 86_400), Duration::from_secs(30 * 86_400)];
/// Longest wait for the call of a sender that was met: its own deadline, and some more.
const CALL: Duration = Duration::from_secs(30);
/// Longest time for a peer to open the stream.
const BEGIN: Duration = Duration::from_secs(10);
/// Text behind the error of a send.
const AGAIN: &str = "; the same command goes on from there";
/// Files, folders and links that programs take in one run.
const MAX_FILES: u64 = 1_000_000;
/// Code of streams and sessions that are not served.
const NOT_SERVED: u32 = 1;

/// Progress of a transfer.
#[derive(Debug)]
enum Event<'a> {
    /// The listed entries follow.
    Listed(&'a Listing),
    /// The two sides compare the part that the receiver has, or the user is asked. That takes time and moves no bytes.
    Compares,
    /// The bytes of a file follow, from this one on.
    Begins {
        name: &'a str,
        /// Length in bytes, if it is known.
        size: Option<u64>,
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
    /// A link has arrived.
    Linked,
    /// A folder of the command line is whole, under another name where its own was taken.
    Kept {
        name: &'a str,
        kept: Option<&'a FileName>,
        /// True if an equal one was there before.
        was_there: bool,
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
    /// The file was there already, with so many bytes.
    Same(u64),
    Refused(Refusal),
    Failed(&'a io::Error),
}

/// Batch for one receiver.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) batch: Batch,
    /// True if bytes may be compressed.
    pub(crate) packs: bool,
    /// True if the receiver is to know the sender by what is sent alone: it has a code, and a key for a single run.
    pub(crate) by_code: bool,
}

/// Returns the plan for calls to a receiver.
pub(crate) fn plan(mut plan: Plan) -> Plan {
    plan.protocol = wire::protocol();
    plan
}

/// Prepares a node that receives: it takes callers that send files, and no others.
pub(crate) fn prepare(config: &mut Config) {
    config.protocols = wire::protocol().into_iter().collect();
}

/// Returns the settings of a receiver's sessions. Anybody may open one, so each has few streams.
pub(crate) fn sessions() -> SessionConfig {
    SessionConfig { streams: 16, window: 4 << 20, kept: 1 << 20, queues: 1 << 20, ..SessionConfig::default() }
}

/// Sends a parcel to a peer.
///
/// # Errors
/// The call's.
pub(crate) async fn send(
    node: &Node,
    (to, plan): (&Target, Plan),
    parcel: Parcel,
    say: Say,
) -> Result<ExitCode, ConnectError> {
    say.waiting("connecting");
    let session = tokio::select! {
        session = node.connect_session_with(to, plan) => session?,
        () = interrupted() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    if let Some(carrier) = session.carrier() {
        say.opened("connected", &carrier);
    }
    let following = tokio::spawn(forward::follow(session.clone(), Arc::default(), say));
    let watcher = Watcher::person(say, "send", session.peer());
    let sent = tokio::select! {
        sent = over(&session, parcel, watcher) => Some(sent),
        // The receiver hears of it at once, and is free for the next send.
        () = interrupted() => None,
    };
    following.abort();
    forward::close(&session).await;
    Ok(match sent {
        None => ExitCode::from(INTERRUPTED),
        Some(0) => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

/// Sends a parcel over a session, and tells the watcher of it. Returns the number of entries that the peer does not have, at
/// least one if the parcel was cut off.
pub(crate) async fn over(session: &Session, parcel: Parcel, mut watcher: Watcher) -> usize {
    let (send, recv) = match session.open_bi(TAG).await {
        Ok(stream) => stream,
        Err(why) => {
            watcher.failed(&why, AGAIN);
            return 1;
        }
    };
    let ends = (Reader::new(recv, Arc::default()), Writer::new(send));
    let Parcel { batch, packs, by_code } = parcel;
    let resume = batch.fresh.or_else(|| {
        resume(session.peer(), by_code.then_some(&batch)).unwrap_or_else(|why| {
            watcher.warn(&format!("{why}; a send that is cut off cannot be gone on with"));
            None
        })
    });
    let sending = tokio::task::spawn_blocking(move || {
        let sent = send::send(&batch, resume, packs, ends, |event| watcher.tell(&event));
        match sent {
            Ok(failed) => {
                watcher.finish();
                failed + batch.skipped
            }
            Err(why) => {
                watcher.failed(&why, AGAIN);
                1
            }
        }
    });
    sending.await.unwrap_or(1)
}

/// Returns the secret by which this receiver recognises this sender, independent of the node's key. Each receiver gets
/// another one, so that receivers learn nothing of each other. `None` where there is no place to store it.
///
/// A receiver with a code has another key under the next one. It recognises who sends the same paths. Receivers of the same
/// paths have one secret, and no more to learn by it than what they were sent.
fn resume(receiver: NodeId, by_code: Option<&Batch>) -> Result<Option<Resume>, String> {
    let Some(path) = crate::secret::at_home("resume") else { return Ok(None) };
    let secret = crate::secret::load_or_create(&path)?;
    let mut hash = blake3::Hasher::new();
    match by_code {
        None => hash.update(b"p2pd resume").update(secret.as_ref()).update(receiver.as_bytes()),
        Some(batch) => {
            hash.update(b"p2pd resume by code").update(secret.as_ref());
            batch.mark(&mut hash);
            &mut hash
        }
    };
    Ok(hash.finalize().as_bytes().first_chunk().copied())
}

/// A place to receive into, looked at before anything is opened.
#[derive(Debug)]
pub(crate) struct Receiving {
    inbox: Inbox,
    terms: Terms,
    consent: Consent,
    /// Programs that are asked in place of a user, and told of everything.
    programs: Option<Arc<Transfers>>,
    once: bool,
    /// True once the one sender was let in that is received from (`--once`).
    taken: AtomicBool,
}

impl Receiving {
    /// # Errors
    /// If the folder is none.
    pub(crate) fn new(options: &Receive) -> Result<Self, String> {
        let keep = KEEP[usize::from(!options.common.accept.is_empty())];
        let (files, bytes) = (options.max_files, options.max_bytes);
        let limits = Limits { files, bytes, parts: options.max_size, keep };
        let inbox = Inbox::new(&options.dir, options.overwrite, limits);
        let inbox = inbox.map_err(|why| format!("--dir {}: {why}", options.dir.display()))?;
        let packed = options.yes || !options.common.accept.is_empty();
        let terms = Terms { max_size: options.max_size, outside_links: options.outside_links, packed };
        let consent = if options.yes { Consent::Given } else { Consent::FilesAlone };
        let taken = AtomicBool::new(false);
        Ok(Receiving { inbox, terms, consent, programs: None, once: options.once, taken })
    }

    /// Makes a place that programs say yes for, within bounds in bytes: of one sender, and of all.
    ///
    /// # Errors
    /// If the folder is none.
    pub(crate) fn of_programs(
        dir: &Path,
        (max_size, max_bytes): (u64, u64),
        programs: Arc<Transfers>,
    ) -> Result<Self, String> {
        let limits = Limits { files: MAX_FILES, bytes: max_bytes, parts: max_size, keep: KEEP[0] };
        let inbox = Inbox::new(dir, false, limits);
        let inbox = inbox.map_err(|why| format!("--files {}: {why}", dir.display()))?;
        let terms = Terms { max_size, outside_links: false, packed: true };
        let (consent, taken) = (Consent::FilesAlone, AtomicBool::new(false));
        Ok(Receiving { inbox, terms, consent, programs: Some(programs), once: false, taken })
    }

    /// Returns true if the peer's list has a yes before it comes.
    fn expects(&self, peer: NodeId) -> bool {
        self.programs.as_ref().is_some_and(|programs| programs.expects(peer))
    }

    /// Has the user asked about each list, if there is one at a terminal and nothing else was said.
    fn asks(&mut self, say: Say) {
        if matches!(self.consent, Consent::FilesAlone) && Input::can_ask() {
            let (user, questions) = tokio::sync::mpsc::channel(1);
            tokio::spawn(ask(questions, (self.once, self.inbox.folds), say));
            self.consent = Consent::Asked(user);
            self.terms.packed = true;
        }
    }

    /// Lets a list in, if it may. Of one sender alone, if no other is let in.
    fn lets_in(
        &self,
        (peer, from): (NodeId, IpAddr),
        list: &Listing,
        hung_up: impl Future<Output = ()>,
    ) -> Result<(), Refusal> {
        let is_taken = |taken: bool| if self.once && taken { Err(Refusal::TooMany) } else { Ok(()) };
        is_taken(self.taken.load(Ordering::Relaxed))?;
        self.consent.to((peer, from), list, hung_up)?;
        is_taken(self.taken.swap(true, Ordering::Relaxed))
    }

    /// Receives from the peer of one session. Returns true if its list was let in, and the number of files that did not
    /// arrive.
    async fn one(
        self: &Arc<Self>,
        session: Session,
        stop: &Arc<Stop>,
        moved: &Arc<Moved>,
        say: Say,
    ) -> (bool, usize) {
        let peer = session.peer();
        let mut watcher = match &self.programs {
            Some(programs) => Watcher::Programs(Arc::new(programs.begin())),
            None => Watcher::person(say, "receive", peer),
        };
        let stream = match timeout(BEGIN, stream(&session)).await {
            Ok(Some(stream)) => stream,
            _ => {
                session.close(NOT_SERVED, b"no files were sent");
                watcher.failed(&format!("{peer} sends no files"), "");
                return (false, 1);
            }
        };
        let (send, recv) = stream;
        let ends = (Reader::new(recv, stop.clone()), Writer::new(send));
        let (receiving, stop, moved, ours) = (self.clone(), stop.clone(), moved.clone(), session.clone());
        let from =
            session.carrier().map_or(Ipv6Addr::UNSPECIFIED.into(), |carrier| carrier.remote_addr().ip());
        let working = tokio::task::spawn_blocking(move || {
            let mut let_in = false;
            let hung_up = async { drop(ours.closed().await) };
            let programs = watcher.programs();
            let consent = |list: &Listing| match programs {
                Some(progress) => progress.offer(list, &ours, hung_up),
                None => receiving.lets_in((peer, from), list, hung_up),
            };
            let Receiving { inbox, terms, .. } = &*receiving;
            let received = receive::receive(inbox, *terms, (peer, stop), ends, consent, |event| {
                let_in |= matches!(event, Event::Listed(_));
                moved.tell(&event);
                watcher.tell(&event);
            });
            match received {
                Ok(refused) => {
                    watcher.finish();
                    (let_in, refused)
                }
                Err(why) => {
                    // Of another kind are refusals, and peers that speak otherwise.
                    let is_cut = !matches!(why.kind(), io::ErrorKind::Other | io::ErrorKind::InvalidData);
                    let then = if is_cut && let_in {
                        "; what has come is kept, and goes on when it is sent again"
                    } else {
                        ""
                    };
                    watcher.failed(&why, then);
                    (let_in, 1)
                }
            }
        });
        let ended = working.await.unwrap_or((false, 1));
        // The peer closes it once it has heard the last word.
        let _ = timeout(BEGIN, session.closed()).await;
        ended
    }
}

/// Waits for the stream of a sender; `None` where the session ends before.
async fn stream(session: &Session) -> Option<(SendStream, RecvStream)> {
    loop {
        tokio::select! {
            // At the session's end its streams that had come are there still, and those of the other kind are over.
            biased;
            stream = session.accept_bi() => {
                let mut stream = stream.ok()?;
                if stream.1.tag() == TAG {
                    return Some(stream);
                }
                stream.0.reset(NOT_SERVED);
                stream.1.stop(NOT_SERVED);
            }
            one = session.accept_uni() => one.ok()?.stop(NOT_SERVED),
        }
    }
}

/// Receives from one peer, which is about to call, and lets it in. It has proved that it has the code.
pub(crate) async fn receive_from(node: &Node, peer: NodeId, mut receiving: Receiving, say: Say) -> ExitCode {
    receiving.asks(say);
    receiving.terms.packed = true;
    node.answer(peer, true);
    say.waiting("waiting for the sender's call");
    let Ok(session) = timeout(CALL, node.accept_session()).await else {
        say.still();
        say.error("the sender did not call");
        return ExitCode::FAILURE;
    };
    let Some(session) = session else { return ExitCode::FAILURE };
    if let Some(carrier) = session.carrier() {
        say.opened("incoming", &carrier);
    }
    match Arc::new(receiving).one(session, &Arc::default(), &Arc::default(), say).await {
        (true, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Receives from all peers that come, until interrupted, or from one peer.
pub(crate) async fn receive(
    node: &Node,
    mut receiving: Receiving,
    invitation: &Invitation,
    say: Say,
) -> ExitCode {
    receiving.asks(say);
    say.waiting("asking for the outside address");
    say.ready(&node.address().await, node.node_id(), Some(invitation));
    let draining = close_pipes(node);
    let once = receiving.once;
    let (mut seats, mut arrivals) = (Seats::new(Arc::new(receiving), say), Arrivals::Of(node.clone()));
    let failed = if once {
        seats.serve(&mut arrivals).await
    } else {
        tokio::select! {
            _ = seats.serve(&mut arrivals) => {}
            () = interrupted() => {}
        }
        seats.failed()
    };
    seats.close().await;
    draining.abort();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Receives from the peers of sessions that are handed on.
pub(crate) async fn receive_from_all(receiving: Receiving, mut arrivals: Arrivals) {
    Seats::new(Arc::new(receiving), Say::new(false, true)).serve(&mut arrivals).await;
}

#[cfg(test)]
mod tests;
