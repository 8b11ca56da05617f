//! Sessions in the user's loop: streams and datagrams between two nodes, which go on when the connection under them changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::Duration;

use mio::{Interest, Registry, Token};
use p2pd_core::pipe::session::{
    CarrierId, CarrierKind, Opening, Session, SessionConfig, SessionEvent, SessionToken, Side,
};
use p2pd_core::{ConnectId, Event, Instant, NodeId, PipeMode, Plan, Target, ToTarget};
use p2pd_sys::session::{Calls, Ferry, Greeter, Registry as Known};
use p2pd_sys::{Clock, ConnectError, PipeInfo};

use crate::node::{News, Node};
use crate::pipe::Pipe;

/// Longest time for a carrier's first bytes, and for the last words to a peer.
const SOON: Duration = Duration::from_secs(10);

/// A session of [`Sessions`]. Never used twice there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(u64);

impl SessionId {
    /// Returns the bare number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Returns the session with this number, for those that hand numbers out. The calls of [`Sessions`] find nothing by one
    /// that there is not.
    pub fn from_number(number: u64) -> Self {
        SessionId(number)
    }
}

/// News of [`Sessions`].
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionNews {
    /// A call has its session.
    Opened(SessionId),
    /// A call has none, and why.
    NotOpened(SessionId, ConnectError),
    /// A peer opened a session to this node.
    Incoming(SessionId, NodeId),
    /// News of a session. After [`SessionEvent::Ended`] it is gone once its streams were read: [`forget`](Sessions::forget) it.
    Event(SessionId, SessionEvent),
}

/// Sessions of a node in a mio loop, beside the [`Node`]. They do something only while they are called.
///
/// Pass each of the node's news through [`take`](Self::take), and events through [`handle`](Self::handle). Call
/// [`tick`](Self::tick) after each turn of the loop, and after you have used a session. Take out the news of
/// [`poll`](Self::poll), and wait no longer than their [`timeout`](Self::timeout).
///
/// A session is used by [`get`](Self::get): streams are opened, accepted, written and read by the calls of
/// [`p2pd_core::pipe::session::Session`], which do not block. The end that called calls again when the connection breaks.
#[derive(Debug)]
pub struct Sessions {
    registry: Registry,
    tokens: Range<usize>,
    clock: Clock,
    settings: SessionConfig,
    next: u64,
    all: BTreeMap<SessionId, One>,
    known: Known<SessionId>,
    carriers: HashMap<usize, Carried>,
    calls: HashMap<ConnectId, SessionId>,
    news: VecDeque<SessionNews>,
}

#[derive(Debug)]
struct One {
    /// None until the first call has succeeded.
    session: Option<Session>,
    peer: Option<NodeId>,
    token: SessionToken,
    next: u32,
    carriers: Vec<(CarrierId, PipeInfo)>,
    caller: Option<Caller>,
    /// Time at which the carriers of a session that is over are closed.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Caller {
    to: Target,
    calls: Calls,
}

#[derive(Debug)]
struct Carried {
    pipe: Pipe,
    /// Session of the carrier; none until the carrier has said which.
    of: Option<(SessionId, CarrierId, Ferry)>,
    greeter: Greeter,
    until: Instant,
    /// There may be something to read.
    readable: bool,
}

impl Sessions {
    /// Returns no session yet. Each carrier has a token of this range.
    ///
    /// # Errors
    /// The system's, of the registry.
    pub fn new(registry: &Registry, tokens: Range<usize>, settings: SessionConfig) -> io::Result<Self> {
        Ok(Sessions {
            registry: registry.try_clone()?,
            tokens,
            clock: Clock::start(),
            settings,
            next: 0,
            all: BTreeMap::new(),
            known: Known::default(),
            carriers: HashMap::new(),
            calls: HashMap::new(),
            news: VecDeque::new(),
        })
    }

    /// Begins to open a session, to an address or a name that ends with `.peer`, by a plan of which the mode does not
    /// count. The call ends by [`SessionNews::Opened`] or [`SessionNews::NotOpened`].
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub fn connect<T: ToTarget + ?Sized>(
        &mut self,
        node: &mut Node,
        to: &T,
        plan: Plan,
    ) -> Result<SessionId, ConnectError> {
        let to = to.to_target().map_err(ConnectError::Target)?;
        let plan = plan.mode(PipeMode::Session);
        let token = p2pd_sys::random_seed().map_err(|why| ConnectError::Lost(p2pd_sys::failure(&why)))?;
        let call = node.connect(&to, plan.clone())?;
        let caller = Caller { to, calls: Calls::new(plan) };
        let id = self.insert(None, None, SessionToken(token), Some(caller));
        self.calls.insert(call, id);
        Ok(id)
    }

    /// Takes the node's news that are about sessions, and returns all others.
    pub fn take(&mut self, news: News) -> Option<News> {
        match news {
            News::Opened(call, pipe) => match self.calls.remove(&call) {
                Some(id) => self.called(id, Ok(pipe)),
                None => return Some(News::Opened(call, pipe)),
            },
            News::NotOpened(call, why) => match self.calls.remove(&call) {
                Some(id) => self.called(id, Err(why)),
                None => return Some(News::NotOpened(call, why)),
            },
            News::Incoming(pipe) if pipe.mode() == PipeMode::Session => self.watch(pipe, None),
            News::Event(event) => {
                if matches!(event, Event::Ready { .. } | Event::Listening { .. }) {
                    self.network_changed();
                }
                return Some(News::Event(event));
            }
            other => return Some(other),
        }
        None
    }

    /// Has calls that wait begin at once.
    fn network_changed(&mut self) {
        for caller in self.all.values_mut().filter_map(|one| one.caller.as_mut()) {
            caller.calls.network_changed();
        }
    }

    fn insert(
        &mut self,
        session: Option<Session>,
        peer: Option<NodeId>,
        token: SessionToken,
        caller: Option<Caller>,
    ) -> SessionId {
        let id = SessionId(self.next);
        self.next += 1;
        let (carriers, until) = (Vec::new(), None);
        let one = One { session, peer, token, next: 0, carriers, caller, until };
        self.all.insert(id, one);
        id
    }

    /// Goes on with what a call came to.
    fn called(&mut self, id: SessionId, outcome: Result<Pipe, ConnectError>) {
        let now = self.clock.now();
        let Some(one) = self.all.get_mut(&id) else { return };
        let lacks = one.lacks_carrier();
        let Some(caller) = &mut one.caller else { return };
        caller.calls.ended(now, lacks, outcome.is_ok());
        match outcome {
            Ok(pipe) => {
                one.peer = Some(pipe.peer());
                let known = one.session.as_ref().is_some_and(Session::is_known);
                if one.session.is_none() {
                    one.session = Some(Session::new(Side::Caller, self.settings, now));
                    self.news.push_back(SessionNews::Opened(id));
                }
                let opening = if known { Opening::Resume(one.token) } else { Opening::New(one.token) };
                self.watch(pipe, Some((id, opening)));
            }
            Err(_) if one.session.is_some() => {}
            Err(why) => {
                self.all.remove(&id);
                self.news.push_back(SessionNews::NotOpened(id, why));
            }
        }
    }

    /// Watches a carrier. One for which there is no token is closed.
    fn watch(&mut self, mut pipe: Pipe, of: Option<(SessionId, Opening)>) {
        let Some(token) = self.tokens.clone().find(|token| !self.carriers.contains_key(token)) else {
            return;
        };
        let both = Interest::READABLE | Interest::WRITABLE;
        if self.registry.register(&mut pipe, Token(token), both).is_err() {
            return;
        }
        let until = self.clock.now() + SOON;
        let of = match of {
            None => None,
            Some((id, opening)) => match self.attach(id, &pipe, Some(opening)) {
                None => return,
                attached => attached,
            },
        };
        self.carriers.insert(token, Carried { pipe, of, greeter: Greeter::default(), until, readable: true });
    }

    fn attach(
        &mut self,
        id: SessionId,
        pipe: &Pipe,
        opening: Option<Opening>,
    ) -> Option<(SessionId, CarrierId, Ferry)> {
        let now = self.clock.now();
        let one = self.all.get_mut(&id)?;
        let carrier = CarrierId(one.next);
        one.next += 1;
        if !one.session.as_mut()?.attach(now, carrier, pipe.carrier_kind()) {
            return None;
        }
        one.carriers.push((carrier, **pipe));
        let first = opening.map_or_else(Vec::new, |opening| opening.encode().to_vec());
        Some((id, carrier, Ferry::new(first.into())))
    }

    /// Takes an event, if its token is one of these; false: it is another's.
    pub fn handle(&mut self, event: &mio::event::Event) -> bool {
        if let Some(carried) = self.carriers.get_mut(&event.token().0) {
            carried.readable = true;
        }
        self.tokens.contains(&event.token().0)
    }

    /// Moves bytes, and does what is due. Call it after each turn of the loop.
    pub fn tick(&mut self, node: &mut Node) {
        // Before, for what is due to be sent; and after, for what has come.
        self.turns(node);
        self.serve_all();
        self.turns(node);
    }

    fn serve_all(&mut self) {
        let tokens: Vec<usize> = self.carriers.keys().copied().collect();
        for token in tokens {
            let Some(mut carried) = self.carriers.remove(&token) else { continue };
            if self.serve(&mut carried) {
                self.carriers.insert(token, carried);
                continue;
            }
            if let Some((id, carrier, _)) = carried.of
                && let Some(one) = self.all.get_mut(&id)
            {
                one.carriers.retain(|(known, _)| *known != carrier);
                let now = self.clock.now();
                if let Some(session) = &mut one.session {
                    session.handle_broken(now, carrier);
                }
            }
        }
    }

    fn turns(&mut self, node: &mut Node) {
        let now = self.clock.now();
        let ids: Vec<SessionId> = self.all.keys().copied().collect();
        for id in ids {
            self.turn(node, id, now);
        }
    }

    /// Moves a carrier's bytes. Returns false if it is over.
    fn serve(&mut self, carried: &mut Carried) -> bool {
        let now = self.clock.now();
        if carried.of.is_none() && !self.greet(carried) {
            return now < carried.until && carried.readable;
        }
        let Some((id, carrier, ferry)) = &mut carried.of else { return true };
        let Some(one) = self.all.get_mut(id) else { return false };
        let Some(session) = &mut one.session else { return false };
        let pipe = &mut carried.pipe;
        if !one.carriers.iter().any(|(known, _)| known == carrier) {
            return false;
        }
        if carried.readable {
            let take = |bytes| {
                // The error is the session's end, and told as such.
                let _ = session.handle_bytes(now, *carrier, bytes);
            };
            match ferry.receive(take, || pipe.read_chunk()) {
                Ok(_) => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => carried.readable = false,
                Err(_) => return false,
            }
        }
        let sent = ferry.send(|| session.poll_output(now, *carrier), |data| pipe.write_vectored(data));
        let flushed = match sent {
            Ok(true) => {
                carried.readable = true;
                return true;
            }
            Ok(false) => pipe.flush(),
            Err(why) => Err(why),
        };
        match flushed {
            Ok(()) => {
                if session.is_over() {
                    // Its last word has left. What the peer sends is read until it has heard.
                    let _ = pipe.shutdown();
                }
                true
            }
            Err(why) => why.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Reads which session a carrier is for. Returns true once it is known; `readable` is false for one to close.
    fn greet(&mut self, carried: &mut Carried) -> bool {
        let opening = match carried.greeter.read(|buffer| carried.pipe.read(buffer)) {
            Ok(opening) => opening,
            Err(why) => {
                carried.readable = why.kind() == io::ErrorKind::WouldBlock;
                return false;
            }
        };
        let opener = carried.pipe.opener();
        let peer = opener.peer;
        let (Opening::New(token) | Opening::Resume(token)) = opening;
        let found = self.known.get(peer, token).copied();
        let id = found.or_else(|| {
            (matches!(opening, Opening::New(_)) && self.known.has_room(&opener)).then(|| {
                let session = Session::new(Side::Listener, self.settings, self.clock.now());
                let id = self.insert(Some(session), Some(peer), token, None);
                self.known.insert(&opener, token, id);
                self.news.push_back(SessionNews::Incoming(id, peer));
                id
            })
        });
        carried.of = id.and_then(|id| self.attach(id, &carried.pipe, None));
        if carried.of.is_none() {
            carried.readable = false;
            let refusal = Opening::refusal();
            // One frame, for which there is room.
            let _ = carried.pipe.write(&refusal).and_then(|_| carried.pipe.shutdown());
        }
        carried.of.is_some()
    }

    /// Does what is due in a session.
    fn turn(&mut self, node: &mut Node, id: SessionId, now: Instant) {
        let Some(one) = self.all.get_mut(&id) else { return };
        let Some(session) = &mut one.session else { return };
        if session.poll_timeout().is_some_and(|at| at <= now) {
            session.handle_timeout(now);
        }
        if let Some(peer) = one.peer.filter(|_| one.caller.is_none())
            && !self.known.weigh(peer, one.token, session.held())
        {
            session.shed(now);
        }
        while let Some(event) = session.poll_event() {
            match &event {
                SessionEvent::Silent(carrier) => one.carriers.retain(|(known, _)| known != carrier),
                SessionEvent::Ended(_) => one.until = Some(now + SOON),
                _ => {}
            }
            self.news.push_back(SessionNews::Event(id, event));
        }
        if one.until.is_some_and(|until| until <= now) {
            one.carriers.clear();
        }
        if session.is_over() {
            return;
        }
        let relayed = session.carrier().is_some_and(|(_, kind)| kind == CarrierKind::Relayed);
        let lacks = session.needs_carrier();
        let Some(caller) = &mut one.caller else { return };
        if let Some(plan) = caller.calls.poll(now, lacks, relayed) {
            match node.connect(&caller.to, plan) {
                Ok(call) => _ = self.calls.insert(call, id),
                Err(_) => caller.calls.ended(now, lacks, false),
            }
        }
    }

    /// Returns the longest wait of the loop before the next [`tick`](Self::tick).
    pub fn timeout(&self) -> Option<Duration> {
        if !self.news.is_empty() {
            return Some(Duration::ZERO);
        }
        let of_one = |one: &One| {
            let session = one.session.as_ref().and_then(Session::poll_timeout);
            let caller = one.caller.as_ref().and_then(|caller| caller.calls.deadline(one.lacks_carrier()));
            session.into_iter().chain(caller).chain(one.until.filter(|_| !one.carriers.is_empty())).min()
        };
        let greeted = self.carriers.values().filter(|c| c.of.is_none()).map(|c| c.until);
        let at = self.all.values().filter_map(of_one).chain(greeted).min();
        let busy = self.carriers.values().any(|carried| carried.readable && carried.of.is_some());
        if busy { Some(Duration::ZERO) } else { at.map(|at| self.clock.until(at)) }
    }

    /// Returns the next news; `None` for nothing now.
    pub fn poll(&mut self) -> Option<SessionNews> {
        self.news.pop_front()
    }

    /// Returns a session to use, and the time to give to its calls; `None` before it is opened, and after it was
    /// forgotten. Call [`tick`](Self::tick) afterwards.
    pub fn get(&mut self, id: SessionId) -> Option<(&mut Session, Instant)> {
        let now = self.clock.now();
        Some((self.all.get_mut(&id)?.session.as_mut()?, now))
    }

    /// Returns the connection under a session; `None` while there is none.
    pub fn carrier(&self, id: SessionId) -> Option<PipeInfo> {
        let one = self.all.get(&id)?;
        let (on, _) = one.session.as_ref()?.carrier()?;
        one.carriers.iter().find(|(carrier, _)| *carrier == on).map(|(_, info)| *info)
    }

    /// Forgets a session that is over, or gives one up. Close it first, so that the peer hears of it. No news of it comes any more.
    pub fn forget(&mut self, id: SessionId) {
        self.news.retain(|news| match news {
            SessionNews::Opened(of) | SessionNews::NotOpened(of, _) | SessionNews::Incoming(of, _) => {
                *of != id
            }
            SessionNews::Event(of, _) => *of != id,
        });
        if let Some(One { peer: Some(peer), token, .. }) = self.all.remove(&id) {
            self.known.remove(peer, token);
        }
    }
}

impl One {
    /// Returns true if a session that was opened needs another carrier.
    fn lacks_carrier(&self) -> bool {
        self.session.as_ref().is_some_and(Session::needs_carrier)
    }
}
