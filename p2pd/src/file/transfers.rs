//! Transfers as programs see them: each has a number, and what a peer wants to send waits here for a yes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use p2pd_core::NodeId;
use p2pd_tokio::Session;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::consent::{PATIENCE, listed};
use super::walk::Batch;
use super::wire::{Listing, Refusal};
use super::{CALL, Ended, Event};
use crate::metrics::{Metrics, Way};

/// Transfers that are remembered once they have ended.
const REMEMBERED: usize = 64;
/// Files of one transfer that are told one by one,
const TOLD: usize = 16;
/// and bytes of all their outcomes, since each event has them.
const TOLD_BYTES: usize = 8 << 10;
/// Time between two events about bytes and files that move.
const EVERY: Duration = Duration::from_millis(500);

/// Transfers by number: all that go on, and the last that have ended.
pub(crate) struct Transfers {
    all: Mutex<All>,
    metrics: Arc<Metrics>,
    tell: Box<dyn Fn(&Value) + Send + Sync>,
}

#[derive(Debug, Default)]
struct All {
    next: u64,
    by_number: BTreeMap<u64, Transfer>,
    /// Senders that were met by a code, and until when each is to call. Their lists need no further yes.
    met: BTreeMap<NodeId, Instant>,
}

#[derive(Debug)]
struct Transfer {
    direction: Direction,
    state: State,
    list: Listing,
    /// Code for the receiver, while nobody with it has come.
    code: Option<String>,
    /// Session by which bytes go; `None` of a send before it is open.
    session: Option<Session>,
    /// Position in the file under way, and bytes and files that are there.
    at: u64,
    bytes: u64,
    files: u64,
    /// Bytes that were there before.
    before: u64,
    /// Number of files that the receiver does not have, and why it has not got the first of them.
    lost: (u64, Option<String>),
    /// Outcomes of the first files.
    told: Vec<Value>,
    /// Time at which bytes began to move, and of the last event.
    began: Option<Instant>,
    last: Instant,
}

#[derive(Debug)]
enum Direction {
    /// To a peer, by the text that names it, until this is notified.
    Send {
        to: String,
        stop: Arc<Notify>,
    },
    Receive(NodeId),
}

#[derive(Debug)]
enum State {
    /// The peer is called, or has not said yes.
    Waiting,
    /// A peer's list waits for a yes until then.
    Offered {
        until: Instant,
        answer: oneshot::Sender<bool>,
    },
    /// Bytes move, or the two sides compare.
    Moving,
    Done,
    Failed(String),
}

/// Reason that a transfer is not as a call wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotThere {
    /// No transfer has this number.
    Unknown,
    /// The transfer waits for no answer.
    NotOffered,
}

/// Transfer of this process, which fails if it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Progress {
    transfers: Arc<Transfers>,
    number: u64,
}

impl fmt::Debug for Transfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfers").field("all", &self.all).finish_non_exhaustive()
    }
}

impl Transfers {
    /// Creates it. Bytes are counted by `metrics`, and `tell` is told of each change.
    pub(crate) fn new(metrics: Arc<Metrics>, tell: impl Fn(&Value) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Transfers { all: Mutex::default(), metrics, tell: Box::new(tell) })
    }

    /// Lists all transfers.
    pub(crate) fn list(&self) -> Vec<Value> {
        self.all().by_number.iter().map(|(number, transfer)| transfer.to_json(*number)).collect()
    }

    /// Says yes or no to what a peer wants to send.
    ///
    /// # Errors
    /// If nothing waits under this number for an answer.
    pub(crate) fn answer(&self, number: u64, yes: bool) -> Result<Value, NotThere> {
        let mut all = self.all();
        let transfer = all.by_number.get_mut(&number).ok_or(NotThere::Unknown)?;
        match std::mem::replace(&mut transfer.state, State::Waiting) {
            State::Offered { answer, .. } => {
                answer.send(yes).map_err(|_| NotThere::NotOffered)?;
                Ok(transfer.to_json(number))
            }
            other => {
                transfer.state = other;
                Err(NotThere::NotOffered)
            }
        }
    }

    /// Ends a transfer, or forgets one that has ended.
    ///
    /// # Errors
    /// If no transfer has this number.
    pub(crate) fn end(&self, number: u64) -> Result<(), NotThere> {
        let mut all = self.all();
        let transfer = all.by_number.get(&number).ok_or(NotThere::Unknown)?;
        match (&transfer.state, &transfer.direction) {
            (State::Done | State::Failed(_), _) => drop(all.by_number.remove(&number)),
            (_, Direction::Send { stop, .. }) => stop.notify_one(),
            (_, Direction::Receive(_)) => {
                transfer.session.iter().for_each(|session| session.close(0, b"the receiver ended it"));
            }
        }
        Ok(())
    }

    /// Begins to send a batch to a peer, by the text that names it. Returns what is notified if a program ends it.
    pub(crate) fn send(self: &Arc<Self>, to: String, batch: &Batch) -> (Progress, Arc<Notify>) {
        let progress = self.begin();
        let stop = Arc::new(Notify::new());
        let direction = Direction::Send { to, stop: stop.clone() };
        progress.insert(direction, State::Waiting, &batch.listing, None);
        (progress, stop)
    }

    /// Says yes to the list of a sender that was met by a code, and is about to call.
    pub(crate) fn expect(&self, peer: NodeId) {
        let (mut all, now) = (self.all(), Instant::now());
        all.met.retain(|_, until| *until > now);
        all.met.insert(peer, now + CALL);
    }

    /// Returns true if the peer was met by a code, and has not offered its list yet.
    pub(super) fn expects(&self, peer: NodeId) -> bool {
        self.all().met.get(&peer).is_some_and(|until| *until > Instant::now())
    }

    /// Takes a number for a peer that is received from.
    pub(super) fn begin(self: &Arc<Self>) -> Progress {
        let mut all = self.all();
        all.next += 1;
        Progress { transfers: self.clone(), number: all.next }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// Offers a list of the peer of a session, and waits for the answer until the peer has hung up.
    ///
    /// # Errors
    /// The reason for the sender.
    pub(super) fn offer(
        &self,
        list: &Listing,
        session: &Session,
        hung_up: impl Future<Output = ()>,
    ) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        if self.transfers.all().met.remove(&session.peer()).is_some_and(|until| until > Instant::now()) {
            let direction = Direction::Receive(session.peer());
            self.insert(direction, State::Waiting, list, Some(session.clone()));
            return Ok(());
        }
        let state = State::Offered { until: Instant::now() + PATIENCE, answer };
        self.insert(Direction::Receive(session.peer()), state, list, Some(session.clone()));
        let answer = Handle::current().block_on(async {
            tokio::select! {
                // An answer counts though the peer hangs up at that moment.
                biased;
                answer = answered => match answer {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Refusal::Declined),
                    Err(_) => Err(Refusal::Unanswered),
                },
                () = hung_up => Err(Refusal::Unanswered),
                () = tokio::time::sleep(PATIENCE) => Err(Refusal::Unanswered),
            }
        });
        match answer {
            Ok(()) => self.change(|transfer| transfer.state = State::Waiting),
            Err(why) => {
                self.failed(why.reason());
                // What was not taken is no part of the history: strangers could fill it.
                self.transfers.all().by_number.remove(&self.number);
            }
        }
        answer
    }

    fn insert(&self, direction: Direction, state: State, list: &Listing, session: Option<Session>) {
        let transfer = Transfer {
            direction,
            state,
            list: list.clone(),
            code: None,
            session,
            at: 0,
            bytes: 0,
            files: 0,
            before: 0,
            lost: (0, None),
            told: Vec::new(),
            began: None,
            last: Instant::now(),
        };
        self.transfers.all().by_number.insert(self.number, transfer);
        self.change(|_| {});
    }

    /// Changes the transfer if it goes on, and tells of it.
    fn change(&self, change: impl FnOnce(&mut Transfer)) {
        let mut all = self.transfers.all();
        let Some(transfer) = all.by_number.get_mut(&self.number).filter(|of| !of.is_over()) else { return };
        change(transfer);
        transfer.last = Instant::now();
        let told = json!({"event": "transfer", "transfer": transfer.to_json(self.number)});
        let mut ended = None;
        if transfer.is_over() {
            // A session ends with its last handle, which the history is not to be.
            ended = transfer.session.take();
            all.prune();
        }
        drop(all);
        drop(ended);
        (self.transfers.tell)(&told);
    }

    pub(super) fn tell(&self, event: &Event<'_>) {
        if let Event::Moved { bytes, .. } = *event {
            let mut all = self.transfers.all();
            let Some(transfer) = all.by_number.get_mut(&self.number) else { return };
            let more = bytes.saturating_sub(transfer.at);
            transfer.bytes += more;
            transfer.at = bytes;
            if let Some(carrier) = transfer.session.as_ref().and_then(Session::carrier) {
                self.transfers.metrics.count(transfer.direction.way(), carrier.strategy(), more);
            }
        }
        let mut all = self.transfers.all();
        let Some(transfer) = all.by_number.get_mut(&self.number).filter(|of| !of.is_over()) else { return };
        transfer.tell(event);
        let is_due = matches!(event, Event::Listed(_)) || transfer.last.elapsed() >= EVERY;
        drop(all);
        if is_due {
            self.change(|_| {});
        }
    }

    /// Shows a code for the receiver, or that somebody with it has come.
    pub(crate) fn code(&self, code: Option<String>) {
        self.change(|transfer| transfer.code = code);
    }

    /// Takes in by which session a file is sent.
    pub(crate) fn goes_by(&self, session: &Session) {
        self.change(|transfer| transfer.session = Some(session.clone()));
    }

    /// Says that all is done. What is not whole has failed, by the reason of the first file that did not arrive.
    pub(super) fn finish(&self) {
        self.change(|transfer| {
            transfer.state = match transfer.lost.1.take() {
                None => State::Done,
                Some(why) => State::Failed(why),
            }
        });
    }

    /// Returns the transfer as it is now; `None` once it is forgotten.
    pub(crate) fn to_json(&self) -> Option<Value> {
        Some(self.transfers.all().by_number.get(&self.number)?.to_json(self.number))
    }

    /// Says that nothing more is done.
    pub(crate) fn failed(&self, why: &str) {
        self.change(|transfer| transfer.state = State::Failed(why.to_owned()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.failed("given up");
    }
}

impl Direction {
    fn way(&self) -> Way {
        match self {
            Direction::Send { .. } => Way::Sent,
            Direction::Receive(_) => Way::Received,
        }
    }
}

impl All {
    /// Forgets those that have ended the longest time ago, beyond so many.
    fn prune(&mut self) {
        let mut over: Vec<(Instant, u64)> = self
            .by_number
            .iter()
            .filter(|(_, of)| of.is_over())
            .map(|(number, of)| (of.last, *number))
            .collect();
        over.sort_unstable();
        for (_, number) in &over[..over.len().saturating_sub(REMEMBERED)] {
            self.by_number.remove(number);
        }
    }
}

impl Transfer {
    fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Failed(_))
    }

    fn tell(&mut self, event: &Event<'_>) {
        match *event {
            Event::Compares | Event::Moved { .. } => {}
            Event::Listed(_) => (self.state, self.began) = (State::Moving, Some(Instant::now())),
            Event::Begins { from, .. } => {
                self.at = from;
                (self.bytes, self.before) = (self.bytes + from, self.before + from);
            }
            Event::Linked => self.files += 1,
            Event::Kept { name, kept, .. } => {
                self.add(json!({"name": name, "kept": kept.map_or(name, |kept| kept.as_str())}));
            }
            Event::Ended { name, ref how } => match how {
                Ended::Moved { bytes, digest, kept, .. } => {
                    self.files += 1;
                    let kept = kept.as_ref().map_or(name, |kept| kept.as_str());
                    self.add(json!({
                        "name": name, "kept": kept, "size": bytes, "blake3": HEXLOWER.encode(digest),
                    }));
                }
                Ended::Same(bytes) => {
                    self.files += 1;
                    (self.bytes, self.before) = (self.bytes + bytes, self.before + bytes);
                    self.add(json!({"name": name, "size": bytes, "same": true}));
                }
                Ended::Refused(why) => self.lose(name, why.reason()),
                Ended::Failed(why) => self.lose(name, &why.to_string()),
            },
        }
    }

    fn add(&mut self, outcome: Value) {
        let told: usize = self.told.iter().chain([&outcome]).map(|told| told.to_string().len()).sum();
        if self.told.len() < TOLD && told <= TOLD_BYTES {
            self.told.push(outcome);
        }
    }

    fn lose(&mut self, name: &str, why: &str) {
        self.lost.0 += 1;
        self.lost.1.get_or_insert_with(|| format!("{name}: {why}"));
        self.add(json!({"name": name, "reason": why}));
    }

    fn to_json(&self, number: u64) -> Value {
        let mut of = listed(&self.list);
        of["number"] = number.into();
        (of["direction"], of["peer"]) = match &self.direction {
            Direction::Send { to, .. } => ("send".into(), to.as_str().into()),
            Direction::Receive(peer) => ("receive".into(), peer.to_string().into()),
        };
        if let Some(code) = &self.code {
            of["code"] = code.as_str().into();
        }
        of["state"] = match &self.state {
            State::Waiting => "waiting",
            State::Offered { .. } => "offered",
            State::Moving => "moving",
            State::Done => "done",
            State::Failed(_) => "failed",
        }
        .into();
        match &self.state {
            State::Offered { until, .. } => {
                of["seconds_left"] = until.saturating_duration_since(Instant::now()).as_secs().into();
            }
            State::Failed(why) => of["reason"] = why.as_str().into(),
            _ => {}
        }
        let until = if self.is_over() { self.last } else { Instant::now() };
        of["moved"] = json!({
            "bytes": self.bytes, "before": self.before, "files": self.files, "lost": self.lost.0,
            "seconds": self.began.map_or(0.0, |began| until.duration_since(began).as_secs_f64()),
        });
        of["outcomes"] = self.told.clone().into();
        of
    }
}

#[cfg(test)]
mod tests {
    use super::super::Given;
    use super::*;

    #[tokio::test]
    async fn the_last_that_have_ended_are_remembered_and_those_that_go_on() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let transfers = Transfers::new(Arc::default(), move |event| tell.lock().unwrap().push(event.clone()));
        let bytes = Given::new(futures_util::stream::empty(), 9);
        let batch = Batch::given("n", Some(9), None, bytes).unwrap();
        let (first, stop) = transfers.send("peer".into(), &batch);
        assert_eq!(transfers.end(1), Ok(()));
        stop.notified().await;
        assert_eq!(transfers.answer(1, true), Err(NotThere::NotOffered));
        assert_eq!(transfers.answer(2, true), Err(NotThere::Unknown));
        for _ in 0..100 {
            // Dropped before its end, it has failed.
            drop(transfers.send("peer".into(), &batch));
        }
        let numbers: Vec<u64> = transfers.list().iter().map(|of| of["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, std::iter::once(1).chain(38..=101).collect::<Vec<_>>());
        assert!(transfers.list()[1..].iter().all(|of| of["reason"] == "given up"));
        first.finish();
        first.failed("too late");
        assert_eq!(told.lock().unwrap().last().unwrap()["transfer"]["state"], "done");
        let first = first.to_json().unwrap();
        assert_eq!((&first["number"], transfers.list()[1]["number"].as_u64()), (&1.into(), Some(39)));
        assert_eq!(transfers.end(50), Ok(()));
        assert_eq!((transfers.end(50), transfers.list().len()), (Err(NotThere::Unknown), 63));
    }

    #[tokio::test]
    async fn many_small_files_with_long_names_make_few_small_events() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let transfers =
            Transfers::new(Arc::default(), move |event| tell.lock().unwrap().push(event.to_string()));
        let bytes = Given::new(futures_util::stream::empty(), 9);
        let (progress, _) = transfers.send("peer".into(), &Batch::given("n", Some(9), None, bytes).unwrap());
        let begin = Instant::now();
        for n in 0..1000 {
            progress.tell(&Event::Ended { name: &format!("{n}{}", "x".repeat(4000)), how: Ended::Same(7) });
        }
        let most = 3 + begin.elapsed().as_millis() / EVERY.as_millis();
        progress.finish();
        let told = told.lock().unwrap();
        assert!(told.len() as u128 <= most, "{} events", told.len());
        let last: Value = serde_json::from_str(told.last().unwrap()).unwrap();
        assert_eq!(
            (&last["transfer"]["state"], &last["transfer"]["moved"]["files"]),
            (&"done".into(), &1000.into())
        );
        assert!(told.iter().all(|event| event.len() < TOLD_BYTES + 1000));
    }

    #[tokio::test]
    async fn what_is_lost_has_a_reason_and_few_files_are_told() {
        let transfers = Transfers::new(Arc::default(), |_| {});
        let bytes = Given::new(futures_util::stream::empty(), 9);
        let (progress, _) = transfers.send("peer".into(), &Batch::given("n", Some(9), None, bytes).unwrap());
        for n in 0..40 {
            let how = if n == 3 { Ended::Refused(Refusal::TooLarge) } else { Ended::Same(7) };
            progress.tell(&Event::Ended { name: &n.to_string(), how });
        }
        progress.finish();
        let shown = progress.to_json().unwrap();
        assert_eq!(
            (&shown["state"], &shown["reason"]),
            (&"failed".into(), &json!("3: the receiver does not take so many bytes"))
        );
        assert_eq!(shown["outcomes"].as_array().unwrap().len(), TOLD);
        assert_eq!((&shown["moved"]["files"], &shown["moved"]["lost"]), (&39.into(), &1.into()));
    }
}
