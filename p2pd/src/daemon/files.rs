//! Files: the calls below `/p2p/file`, and the folder that peers' files are received into.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use futures_util::StreamExt;
use p2pd_core::{Code, MeetingError, Plan, Target};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify, Semaphore};

use super::answer::Refused;
use super::call::Name;
use super::events::{Feed, failure};
use super::{Daemon, Prepared};
use crate::file::{self, Batch, Given, NotThere, Parcel, Progress, Receiving, Transfers, Watcher};
use crate::forward;
use crate::meet::{self, Purpose, Told};
use crate::metrics::Metrics;
use crate::options;

/// Files that are sent at a time.
const SENDS: usize = 16;
/// Longest time for which a body is read that nobody wants, so that its sender reads the answer.
const LINGER: Duration = Duration::from_secs(2);

/// A call that concerns files.
#[derive(Debug)]
pub(super) enum FileCall {
    List,
    /// To an address or a name, or `None` for our own; under this file name.
    Send(Option<Target>, String),
    /// To the peer of a connection.
    SendOn(Name, String),
    /// To whoever has a code, which is told.
    SendByCode(String),
    /// From the sender that has made this code.
    Receive(Code),
    Accept(u64),
    Refuse(u64),
    End(u64),
}

/// Folder and bounds that the options name.
#[derive(Debug)]
pub(super) struct Wanted {
    folder: Option<PathBuf>,
    /// Most bytes of one file that is sent, or of what one peer sends.
    max_size: u64,
    /// Most bytes that are received in all.
    max_bytes: u64,
}

impl Wanted {
    pub(super) fn new(options: &options::Daemon) -> Self {
        Wanted { folder: options.files.clone(), max_size: options.max_size, max_bytes: options.max_bytes }
    }
}

/// Files that are sent and received.
#[derive(Debug)]
pub(super) struct Files {
    transfers: Arc<Transfers>,
    sends: Arc<Semaphore>,
    max_size: u64,
    folder: Option<PathBuf>,
}

impl Files {
    /// Makes the place for files, and returns beside it what receives into the folder, where the options name one.
    ///
    /// # Errors
    /// If the folder is none.
    pub(super) fn new(
        prepared: &Prepared,
        metrics: Arc<Metrics>,
        feed: Feed,
    ) -> Result<(Self, Option<Receiving>), String> {
        let Wanted { folder, max_size, max_bytes } = &prepared.files;
        let transfers = Transfers::new(metrics, move |event| feed.tell(event));
        let receiving =
            |dir: &PathBuf| Receiving::of_programs(dir, (*max_size, *max_bytes), transfers.clone());
        let receiving = folder.as_ref().map(receiving).transpose()?;
        let (sends, folder) = (Arc::new(Semaphore::new(SENDS)), folder.clone());
        Ok((Files { transfers, sends, max_size: *max_size, folder }, receiving))
    }

    /// Lists the transfers, and tells whether files are received.
    pub(super) fn list(&self) -> Value {
        let folder = self.folder.as_ref().map(|folder| folder.display().to_string());
        json!({"transfers": self.transfers.list(), "folder": folder, "max_size": self.max_size})
    }

    /// Answers what a peer wants to send.
    pub(super) fn answer(&self, number: u64, yes: bool) -> Result<Value, Refused> {
        self.transfers.answer(number, yes).map_err(|why| match why {
            NotThere::Unknown => Refused::NoSuchTransfer(number),
            NotThere::NotOffered => Refused::NotOffered,
        })
    }

    /// Ends a transfer, or forgets one that has ended.
    pub(super) fn end(&self, number: u64) -> Result<Value, Refused> {
        self.transfers.end(number).map_err(|_| Refused::NoSuchTransfer(number))?;
        Ok(json!({"ended": number}))
    }
}

/// Tells the transfer to end, if its caller leaves before.
struct Leaves(Arc<Notify>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Peer that a file is sent to.
#[derive(Debug)]
pub(super) enum Receiver {
    /// The peer at an address, or this node itself, by the text that names it.
    Peer(Option<Target>, String),
    ByCode,
}

/// Sends the body of a request as a file. The peer has it, or has said why not, when this returns.
pub(super) async fn send(
    daemon: &Arc<Daemon>,
    to: Receiver,
    (name, changed): (&str, Option<(i64, u32)>),
    request: Request<Body>,
) -> Result<Value, Refused> {
    let files = &daemon.files;
    let size = length(request.headers())?;
    if size.is_some_and(|size| size > files.max_size) {
        return Err(Refused::TooLong);
    }
    let permit = files.sends.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Refused::TooMany("files that are sent"))?;
    let body = Arc::new(Mutex::new(request.into_body().into_data_stream()));
    let pieces = futures_util::stream::unfold(body.clone(), |body| async {
        let piece = body.lock().await.next().await?;
        Some((piece.map_err(io::Error::other), body))
    });
    let batch = Batch::given(name, size, changed, Given::new(pieces, files.max_size));
    let batch = batch.map_err(Refused::BadFile)?;
    let (to, told) = match to {
        Receiver::Peer(to, told) => (Some(daemon.target(to).await?), told),
        Receiver::ByCode => (None, "whoever has the code".into()),
    };
    let (progress, stop) = files.transfers.send(told, &batch);
    let leaves = Leaves(stop.clone());
    let of = daemon.clone();
    let sending = tokio::spawn(async move {
        let _permit = permit;
        let parcel = Parcel { batch, packs: true, by_code: true };
        carry(&of, to, parcel, Arc::new(progress), &stop).await
    });
    let sent = sending.await.unwrap_or(Err(Refused::Ended));
    drop(leaves);
    if sent.is_err() {
        // A client that is still writing would lose the answer with its connection.
        let rest = async { while let Some(Ok(_)) = body.lock().await.next().await {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
    sent
}

/// Calls the peer, or whoever comes with a code, and sends it the parcel, until it is told to stop.
async fn carry(
    daemon: &Daemon,
    to: Option<Target>,
    parcel: Parcel,
    progress: Arc<Progress>,
    stop: &Notify,
) -> Result<Value, Refused> {
    let stopped = || {
        progress.failed("it was ended here");
        Refused::NotSent("it was ended here".into())
    };
    let calling = async {
        let to = match to {
            Some(to) => to,
            None => {
                let met = meet::by_code(&daemon.node, Purpose::File, None, |told| {
                    progress.code(match told {
                        Told::Code(code) => Some(code.to_string()),
                        Told::Guessed => None,
                    });
                });
                let (address, ..) = met.await.map_err(|why| not_met(&why))?;
                progress.code(None);
                Target::Address(Box::new(address))
            }
        };
        let session = daemon.node.connect_session_with(&to, file::plan(Plan::new())).await;
        session.map_err(|why| (why.to_string(), Refused::ConnectFailed(failure(&why))))
    };
    let session = tokio::select! {
        session = calling => session.map_err(|(why, refused)| {
            progress.failed(&why);
            refused
        })?,
        () = stop.notified() => return Err(stopped()),
    };
    progress.goes_by(&session);
    let sent = tokio::select! {
        lost = file::over(&session, parcel, Watcher::Programs(progress.clone())) => Ok(lost),
        () = stop.notified() => Err(stopped()),
    };
    forward::close(&session).await;
    if let Ok(1..) = sent {
        progress.failed("it did not arrive");
    }
    let transfer = progress.to_json().ok_or(Refused::Ended)?;
    match sent? {
        0 => Ok(transfer),
        _ => {
            let why = transfer["reason"].as_str().unwrap_or_default();
            Err(Refused::NotSent(why.to_owned()))
        }
    }
}

/// Meets the sender that has made a code. Its list needs no further yes.
pub(super) async fn receive(daemon: &Daemon, code: Code) -> Result<Value, Refused> {
    if daemon.files.folder.is_none() {
        return Err(Refused::NoFolder);
    }
    let met = meet::by_code(&daemon.node, Purpose::File, Some(code), |_| {}).await;
    let (_, peer, meeting) = met.map_err(|why| not_met(&why).1)?;
    daemon.files.transfers.expect(peer);
    daemon.node.answer(peer, true);
    // It ends by itself, once the sender has our address.
    tokio::spawn(meet::leave(meeting));
    Ok(json!({"peer": peer.to_string()}))
}

fn not_met(why: &MeetingError) -> (String, Refused) {
    let report = json!({"reason": why.to_string(), "strategies": [], "advice": null});
    (why.to_string(), Refused::ConnectFailed(report))
}

/// Returns the length of a body; `None` for one in chunks.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    match headers.get(header::CONTENT_LENGTH).map(|n| n.to_str().unwrap_or_default().parse()) {
        Some(Ok(length)) => Ok(Some(length)),
        Some(Err(_)) => Err(Refused::BodyBroken),
        None if headers.contains_key(header::TRANSFER_ENCODING) => Ok(None),
        None => Err(Refused::NoLength),
    }
}
