//! Sessions: the calls below `/p2p/session/NAME`, their streams by number, and their datagrams.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use p2pd_core::{Plan, ProtocolTag, Strategy, Target};
use p2pd_tokio::{RecvStream, SendStream, Session, SessionConfig, SessionError};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::Daemon;
use super::answer::Refused;
use super::call::Name;
use super::events::failure;
use super::place;
use crate::arrivals::Arrivals;
use crate::limits::Places;
use crate::talk::place;

/// Sessions at a time.
const MAX_SESSIONS: usize = 256;
/// Sessions that peers opened, from one address and in all, so that strangers leave room for calls. A further one is closed.
const INCOMING: [usize; 2] = [32, 192];
/// Streams of one session under a number.
const MAX_STREAMS: usize = 1024;
/// Writes of one session that may wait.
const WRITES: usize = 16;
/// Longest wait for a write.
const WRITE: Duration = Duration::from_secs(30);
/// Most bytes of one read.
const READ: usize = 1 << 20;
/// Sessions of files or of services that wait to be looked at.
const WAITING: usize = 64;
/// Code of a session that there is no room for.
const CROWDED: u32 = 1;
/// Directions of a stream that are over.
const SENT: u8 = 1;
const RECEIVED: u8 = 2;

/// A call that concerns a session.
#[derive(Debug)]
pub(super) enum SessionCall {
    /// To an address or a name, or `None` for our own.
    Open(Option<Target>),
    Show,
    Close,
    Stream,
    Accept(Duration),
    Write(u32),
    Read(u32, Duration),
    Finish(u32),
    Reset(u32, u32),
    Stop(u32, u32),
    SendDatagram,
    ReadDatagram(Duration),
}

/// Sessions by their names.
#[derive(Debug)]
pub(super) struct Sessions {
    all: Mutex<BTreeMap<Name, Slot>>,
    incoming: Arc<Places<IpAddr>>,
}

impl Default for Sessions {
    fn default() -> Self {
        let [of_one, of_all] = INCOMING;
        Sessions { all: Mutex::default(), incoming: Places::new(of_one, of_all) }
    }
}

#[derive(Debug)]
enum Slot {
    /// The name is taken by a call under way.
    Opening,
    Open(Arc<Held>),
}

/// A session under a name.
#[derive(Debug)]
pub(super) struct Held {
    name: Name,
    /// Place of a session that the peer opened.
    incoming: Option<Place>,
    session: Session,
    streams: Mutex<BTreeMap<u32, Arc<Stream>>>,
    writes: Arc<Semaphore>,
}

/// Protocols that the daemon speaks itself: sessions that name one of them get no name.
#[derive(Debug, Default)]
pub(super) struct Served(Vec<(ProtocolTag, mpsc::Sender<Session>)>);

impl Served {
    /// Has the sessions of a protocol handed on.
    pub(super) fn add(&mut self, protocol: Option<ProtocolTag>) -> Arrivals {
        let (to, arrivals) = mpsc::channel(WAITING);
        self.0.extend(protocol.map(|protocol| (protocol, to)));
        Arrivals::HandedOn(arrivals)
    }

    /// Hands a session on, or gives it back.
    fn hand_on(&self, session: Session) -> Option<Session> {
        let protocol = session.carrier().and_then(|carrier| carrier.protocol());
        let Some((_, to)) = self.0.iter().find(|(served, _)| Some(*served) == protocol) else {
            return Some(session);
        };
        if let Err(TrySendError::Full(session) | TrySendError::Closed(session)) = to.try_send(session) {
            session.close(CROWDED, b"too many sessions");
        }
        None
    }
}

/// A stream under its number.
#[derive(Debug)]
struct Stream {
    send: Option<Arc<AsyncMutex<SendStream>>>,
    recv: Option<AsyncMutex<RecvStream>>,
    over: AtomicU8,
    /// True once our direction is given up: writes under way end then.
    given_up: watch::Sender<bool>,
}

type Place = crate::limits::Held<IpAddr>;

/// Returns the settings of the daemon's sessions. Anybody may open one, so each holds little.
pub(crate) fn settings() -> SessionConfig {
    SessionConfig {
        stream_window: 1 << 20,
        window: 2 << 20,
        kept: 1 << 20,
        queues: 1 << 20,
        ..SessionConfig::default()
    }
}

impl Sessions {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Name, Slot>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn list(&self) -> Vec<Value> {
        let open = |slot: &Slot| match slot {
            Slot::Open(held) => Some(held.to_json()),
            Slot::Opening => None,
        };
        self.all().values().filter_map(open).collect()
    }

    /// Returns how many sessions were opened here, and how many peers opened.
    pub(super) fn count(&self) -> [u64; 2] {
        let all = self.all();
        let theirs = all.values().filter(|slot| matches!(slot, Slot::Open(held) if held.incoming.is_some()));
        let theirs = theirs.count();
        [all.len() - theirs, theirs].map(|n| n as u64)
    }

    pub(super) fn find(&self, name: &Name) -> Result<Arc<Held>, Refused> {
        match self.all().get(name) {
            Some(Slot::Open(held)) => Ok(held.clone()),
            _ => Err(Refused::NoSuchSession(name.0.clone())),
        }
    }

    /// Takes a name for a call under way.
    fn reserve(&self, name: &Name) -> Result<(), Refused> {
        let mut all = self.all();
        if all.len() >= MAX_SESSIONS {
            return Err(Refused::TooMany("sessions"));
        }
        match all.entry(name.clone()) {
            Entry::Occupied(_) => Err(Refused::NameTaken),
            Entry::Vacant(place) => {
                place.insert(Slot::Opening);
                Ok(())
            }
        }
    }

    /// Frees the name of a session that is over, unless another one has it by now.
    fn remove(&self, held: &Arc<Held>) {
        let mut all = self.all();
        if matches!(all.get(&held.name), Some(Slot::Open(other)) if Arc::ptr_eq(other, held)) {
            all.remove(&held.name);
        }
    }

    /// Closes all sessions, so that the peers are told.
    pub(super) fn close(&self) {
        for (_, slot) in std::mem::take(&mut *self.all()) {
            if let Slot::Open(held) = slot {
                held.session.close(0, b"");
            }
        }
    }
}

/// A name that is given back if nothing comes of its call.
struct Reserved<'a>(&'a Sessions, &'a Name);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut all = self.0.all();
        if matches!(all.get(self.1), Some(Slot::Opening)) {
            all.remove(self.1);
        }
    }
}

/// Opens a session under a name. A client that leaves meanwhile gives it up.
pub(super) async fn open(
    daemon: &Arc<Daemon>,
    name: Name,
    to: Option<Target>,
    plan: Plan,
) -> Result<Value, Refused> {
    daemon.sessions.reserve(&name)?;
    let _reserved = Reserved(&daemon.sessions, &name);
    let to = daemon.target(to).await?;
    let session = daemon.node.connect_session_with(&to, plan).await;
    let session = session.map_err(|why| Refused::ConnectFailed(failure(&why)))?;
    Ok(keep(daemon, &name, None, session))
}

/// Puts a session under its name, and tells what becomes of it.
fn keep(daemon: &Arc<Daemon>, name: &Name, incoming: Option<Place>, session: Session) -> Value {
    let (streams, writes) = (Mutex::default(), Arc::new(Semaphore::new(WRITES)));
    let held = Arc::new(Held { name: name.clone(), incoming, session, streams, writes });
    daemon.sessions.all().insert(name.clone(), Slot::Open(held.clone()));
    let shown = held.to_json();
    let event = if held.incoming.is_some() { "session_incoming" } else { "session_opened" };
    daemon.events.tell(&json!({"event": event, "session": shown}));
    tokio::spawn(follow(daemon.clone(), held));
    shown
}

/// Peers' sessions are named by the peer's id; a second one of the same peer has `.2` behind it.
pub(super) async fn accept(daemon: Arc<Daemon>) {
    while let Some(session) = daemon.node.accept_session().await {
        let Some(session) = daemon.served.hand_on(session) else { continue };
        let base = session.peer().to_string();
        let mut names = std::iter::once(base.clone()).chain((2..).map(|n| format!("{base}.{n}"))).map(Name);
        // One that has lost its stream already is nobody's in particular.
        let from =
            session.carrier().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| place(c.remote_addr().ip()));
        let name = {
            let all = daemon.sessions.all();
            names.find(|name| !all.contains_key(name)).filter(|_| all.len() < MAX_SESSIONS)
        };
        match name.zip(daemon.sessions.incoming.take(from)) {
            Some((name, place)) => drop(keep(&daemon, &name, Some(place), session)),
            None => session.close(CROWDED, b"too many sessions"),
        }
    }
}

/// Tells the moves of a session and its end, and frees its name then.
async fn follow(daemon: Arc<Daemon>, held: Arc<Held>) {
    let name = &held.name.0;
    loop {
        let event = match held.session.moved().await {
            Ok(Some(carrier)) => {
                daemon.metrics.moved(carrier.strategy());
                json!({
                    "event": "session_moved", "name": name, "strategy": carrier.strategy().name(),
                    "local": carrier.local_addr().to_string(), "remote": carrier.remote_addr().to_string(),
                })
            }
            Ok(None) => json!({"event": "session_stranded", "name": name}),
            Err(why) => {
                daemon.sessions.remove(&held);
                daemon
                    .events
                    .tell(&json!({"event": "session_closed", "name": name, "reason": why.to_string()}));
                return;
            }
        };
        daemon.events.tell(&event);
    }
}

impl Held {
    fn streams(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the session with what is under it now.
    pub(super) fn to_json(&self) -> Value {
        let carrier = self.session.carrier().as_ref().map(place::carrier);
        json!({
            "name": self.name.0, "incoming": self.incoming.is_some(), "peer": self.session.peer().to_string(),
            "carrier": carrier, "moves": self.session.moves(),
            "round_trip_ms": self.session.round_trip().map(|time| time.as_secs_f64() * 1e3),
            "streams": self.streams().keys().collect::<Vec<_>>(),
        })
    }

    pub(super) fn close(&self) {
        self.session.close(0, b"");
    }

    /// Returns the strategy of the carrier, if there is one now.
    pub(super) fn carried_by(&self) -> Option<Strategy> {
        self.session.carrier().map(|carrier| carrier.strategy())
    }

    /// Opens a stream of both directions, or of ours alone.
    pub(super) async fn open(&self, tag: &str, both: bool) -> Result<Value, Refused> {
        if self.streams().len() >= MAX_STREAMS {
            return Err(Refused::TooMany("streams"));
        }
        let (send, recv) = match both {
            true => self.session.open_bi(tag.as_bytes()).await.map(|(send, recv)| (send, Some(recv))),
            false => self.session.open_uni(tag.as_bytes()).await.map(|send| (send, None)),
        }
        .map_err(refused)?;
        Ok(self.put(Some(send), recv))
    }

    /// Waits for a stream that the peer opens.
    pub(super) async fn accept(&self, longest: Duration) -> Result<Value, Refused> {
        if self.streams().len() >= MAX_STREAMS {
            return Err(Refused::TooMany("streams"));
        }
        let next = async {
            tokio::select! {
                both = self.session.accept_bi() => both.map(|(send, recv)| (Some(send), Some(recv))),
                one = self.session.accept_uni() => one.map(|recv| (None, Some(recv))),
            }
        };
        let (send, recv) = self.within(longest, next).await?.map_err(refused)?;
        Ok(self.put(send, recv))
    }

    fn put(&self, send: Option<SendStream>, recv: Option<RecvStream>) -> Value {
        let of_send = send.as_ref().map(|send| (send.id(), send.tag()));
        let Some((id, tag)) = of_send.or(recv.as_ref().map(|recv| (recv.id(), recv.tag()))) else {
            return Value::Null;
        };
        let shown = json!({
            "name": self.name.0, "stream": id.number(), "tag": String::from_utf8_lossy(tag),
            "sends": send.is_some(), "receives": recv.is_some(),
        });
        let over = if send.is_some() { 0 } else { SENT } | if recv.is_some() { 0 } else { RECEIVED };
        let stream = Stream {
            send: send.map(|send| Arc::new(AsyncMutex::new(send))),
            recv: recv.map(AsyncMutex::new),
            over: AtomicU8::new(over),
            given_up: watch::channel(false).0,
        };
        self.streams().insert(id.number(), Arc::new(stream));
        shown
    }

    fn stream(&self, number: u32) -> Result<Arc<Stream>, Refused> {
        self.streams().get(&number).cloned().ok_or(Refused::NoSuchStream)
    }

    /// Forgets a stream once both of its directions are over.
    fn over(&self, number: u32, stream: &Stream, direction: u8) {
        let before = stream.over.fetch_or(direction, Ordering::AcqRel);
        if before | direction == SENT | RECEIVED {
            self.streams().remove(&number);
        }
    }

    /// Writes all of it. It is written to the end also if the client leaves, unless the direction is given up meanwhile.
    pub(super) async fn write(&self, number: u32, data: Bytes) -> Result<usize, Refused> {
        let stream = self.stream(number)?;
        let send = stream.send.clone().ok_or(Refused::OneWay)?;
        let permit = self.writes.clone().try_acquire_owned().map_err(|_| Refused::Busy)?;
        let len = data.len();
        let mut given_up = stream.given_up.subscribe();
        let writing = tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                biased;
                _ = given_up.wait_for(|is_so| *is_so) => Err(std::io::ErrorKind::BrokenPipe.into()),
                written = async { send.lock().await.write_all(&data).await } => written,
            }
        });
        match timeout(WRITE, writing).await {
            Ok(Ok(Ok(()))) => Ok(len),
            Ok(Ok(Err(why))) => {
                self.over(number, &stream, SENT);
                Err(why.downcast::<SessionError>().map_or(Refused::Ended, refused))
            }
            Ok(Err(_)) => Err(Refused::Ended),
            Err(_) => Err(Refused::PeerSlow),
        }
    }

    /// Returns bytes that have come; `None` at the peer's end.
    pub(super) async fn read(&self, number: u32, longest: Duration) -> Result<Option<Bytes>, Refused> {
        let stream = self.stream(number)?;
        let recv = stream.recv.as_ref().ok_or(Refused::OneWay)?;
        let mut recv = recv.try_lock().map_err(|_| Refused::Busy)?;
        let read = self.within(longest, recv.read_chunk(READ)).await?;
        if !matches!(read, Ok(Some(_))) {
            self.over(number, &stream, RECEIVED);
        }
        read.map_err(refused)
    }

    /// Ends our direction after what was written, or gives it up with a code.
    pub(super) async fn finish(&self, number: u32, reset: Option<u32>) -> Result<(), Refused> {
        let stream = self.stream(number)?;
        let send = stream.send.as_ref().ok_or(Refused::OneWay)?;
        match reset {
            // A write under way may wait for a peer that reads nothing, and ends here.
            Some(code) => {
                stream.given_up.send_replace(true);
                send.lock().await.reset(code);
            }
            None => timeout(WRITE, send.lock()).await.map_err(|_| Refused::PeerSlow)?.finish(),
        }
        self.over(number, &stream, SENT);
        Ok(())
    }

    /// Wants no more of the peer's direction.
    pub(super) fn stop(&self, number: u32, code: u32) -> Result<(), Refused> {
        let stream = self.stream(number)?;
        let recv = stream.recv.as_ref().ok_or(Refused::OneWay)?;
        recv.try_lock().map_err(|_| Refused::Busy)?.stop(code);
        self.over(number, &stream, RECEIVED);
        Ok(())
    }

    pub(super) fn send_datagram(&self, data: Bytes) -> Result<usize, Refused> {
        let len = data.len();
        self.session.send_datagram(data).map_err(refused)?;
        Ok(len)
    }

    pub(super) async fn read_datagram(&self, longest: Duration) -> Result<Bytes, Refused> {
        self.within(longest, self.session.read_datagram()).await?.map_err(refused)
    }

    async fn within<T>(&self, longest: Duration, work: impl Future<Output = T>) -> Result<T, Refused> {
        timeout(longest, work).await.map_err(|_| Refused::Empty(self.name.0.clone()))
    }
}

fn refused(why: SessionError) -> Refused {
    match why {
        SessionError::TooLong => Refused::TooLong,
        SessionError::Reset(code) => Refused::GivenUp(code),
        SessionError::Stopped(code) => Refused::GivenUp(code),
        _ => Refused::Ended,
    }
}
