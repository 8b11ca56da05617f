//! `p2pd-mio` by calls that block: a thread has the loop, as a program on mio would, and is asked by messages.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use p2pd_core::Instant;
use p2pd_core::pipe::session::{
    Direction, OpenError, ReadResult, SessionConfig, SessionEnd, SessionEvent, StreamId, WriteError,
};
use p2pd_core::{Config, ConnectId, PeerAddress, Plan, Stats, Target, ToTarget};
use p2pd_mio::{News, SessionId, SessionNews, Sessions};
use p2pd_sys::session::SessionError;
use p2pd_sys::{BindError, ConnectError, PipeInfo};

use super::{Call, Messages, Node, Outcome, Pipe, Session, Stream, Trace};

const WAKER: Token = Token(0);
const NODE: std::ops::Range<usize> = 1..20_000;
const CARRIERS: std::ops::Range<usize> = 20_000..30_000;

type Work = Box<dyn FnOnce(&mut Looped) + Send>;

enum Ask {
    Address(Sender<PeerAddress>),
    Begin(Box<Target>, Plan, Sender<Result<ConnectId, ConnectError>>, Sender<Outcome>),
    Cancel(ConnectId),
    Stats(Sender<Stats>),
    Session(Box<Target>, Plan, Sender<Result<SessionId, ConnectError>>),
    Work(Work),
    Shutdown,
}

#[derive(Clone)]
struct Asks {
    asks: Sender<Ask>,
    waker: Arc<Waker>,
}

impl Asks {
    fn ask(&self, ask: Ask) {
        // One whose loop has ended drops the message, and with it whoever waits for an answer.
        let _ = self.asks.send(ask);
        let _ = self.waker.wake();
    }
}

/// Sessions in the loop, and what was said of each.
struct Looped {
    sessions: Sessions,
    said: HashMap<SessionId, (u64, Option<SessionEnd>)>,
}

struct Looping {
    incoming: Mutex<Receiver<SessionId>>,
    asks: Asks,
    accepted: Mutex<Receiver<Box<dyn Pipe>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn bind(config: Config, trace: Option<Trace>) -> Result<Box<dyn Node>, BindError> {
    let poll = Poll::new().map_err(BindError::Loop)?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(BindError::Loop)?);
    let mut builder = p2pd_mio::Node::builder(config);
    if let Some(trace) = trace {
        builder = builder.trace(trace);
    }
    let node = builder.bind(poll.registry(), NODE)?;
    let (asks, asked) = channel();
    let (accept, accepted) = channel();
    let (accept_session, incoming) = channel();
    let sessions =
        Sessions::new(poll.registry(), CARRIERS, SessionConfig::default()).map_err(BindError::Loop)?;
    let looped = Looped { sessions, said: HashMap::new() };
    let thread = std::thread::spawn(move || run(poll, node, looped, &asked, (&accept, &accept_session)));
    let asks = Asks { asks, waker };
    let (incoming, accepted, thread) = (Mutex::new(incoming), Mutex::new(accepted), Mutex::new(Some(thread)));
    Ok(Box::new(Looping { incoming, asks, accepted, thread }))
}

fn run(
    mut poll: Poll,
    mut node: p2pd_mio::Node,
    mut looped: Looped,
    asked: &Receiver<Ask>,
    (accept, accept_session): (&Sender<Box<dyn Pipe>>, &Sender<SessionId>),
) {
    let mut opening: HashMap<SessionId, Sender<Result<SessionId, ConnectError>>> = HashMap::new();
    let mut events = Events::with_capacity(256);
    let mut calls: HashMap<ConnectId, Sender<Outcome>> = HashMap::new();
    let mut wait_for_address: Vec<Sender<PeerAddress>> = Vec::new();
    while !node.is_over() {
        let timeout = node.timeout().into_iter().chain(looped.sessions.timeout()).min();
        match poll.poll(&mut events, timeout) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => panic!("{e}"),
            _ => {}
        }
        for event in &events {
            let ours = node.handle(event) || looped.sessions.handle(event);
            assert!(ours || event.token() == WAKER, "{event:?}");
        }
        for ask in asked.try_iter() {
            match ask {
                Ask::Address(reply) => wait_for_address.push(reply),
                Ask::Begin(to, plan, begun, done) => {
                    let id = node.connect(&*to, plan);
                    if let Ok(id) = id {
                        calls.insert(id, done);
                    }
                    let _ = begun.send(id);
                }
                Ask::Cancel(id) => {
                    if calls.remove(&id).is_some() {
                        node.cancel(id);
                    }
                }
                Ask::Session(to, plan, done) => match looped.sessions.connect(&mut node, &*to, plan) {
                    Ok(id) => drop(opening.insert(id, done)),
                    Err(why) => drop(done.send(Err(why))),
                },
                Ask::Work(work) => work(&mut looped),
                Ask::Stats(reply) => drop(reply.send(node.stats())),
                Ask::Shutdown => node.shutdown(),
            }
        }
        node.tick();
        while let Some(news) = node.poll() {
            let Some(news) = looped.sessions.take(news) else { continue };
            match news {
                News::Opened(id, pipe) => {
                    if let Some(done) = calls.remove(&id) {
                        let _ = done.send(Ok(Box::new(Polled::new(pipe))));
                    }
                }
                News::NotOpened(id, why) => {
                    if let Some(done) = calls.remove(&id) {
                        let _ = done.send(Err(why));
                    }
                }
                News::Incoming(pipe) => drop(accept.send(Box::new(Polled::new(pipe)))),
                _ => {}
            }
        }
        looped.sessions.tick(&mut node);
        while let Some(news) = looped.sessions.poll() {
            match news {
                SessionNews::Opened(id) => drop(opening.remove(&id).map(|done| done.send(Ok(id)))),
                SessionNews::NotOpened(id, why) => drop(opening.remove(&id).map(|done| done.send(Err(why)))),
                SessionNews::Incoming(id, _) => drop(accept_session.send(id)),
                SessionNews::Event(id, SessionEvent::Moved(_)) => looped.said.entry(id).or_default().0 += 1,
                SessionNews::Event(id, SessionEvent::Ended(why)) => {
                    looped.said.entry(id).or_default().1 = Some(why);
                }
                _ => {}
            }
        }
        if let Some(address) = node.address() {
            for reply in wait_for_address.drain(..) {
                let _ = reply.send(address.clone());
            }
        }
    }
}

impl Node for Looping {
    fn address(&self) -> PeerAddress {
        let (reply, address) = channel();
        self.asks.ask(Ask::Address(reply));
        address.recv().unwrap()
    }

    fn begin(&self, to: &dyn ToTarget, plan: Plan) -> Result<Box<dyn Call>, ConnectError> {
        let ((begun_tx, begun), (done_tx, done)) = (channel(), channel());
        let to = to.to_target().map_err(ConnectError::Target)?;
        self.asks.ask(Ask::Begin(Box::new(to), plan, begun_tx, done_tx));
        let id = begun.recv().map_err(|_| ConnectError::NodeGone)??;
        Ok(Box::new(Under { id, done, asks: self.asks.clone() }))
    }

    fn accept(&self, within: Duration) -> Option<Box<dyn Pipe>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(within).ok()
    }

    fn connect_session(&self, to: &dyn ToTarget, plan: Plan) -> Result<Box<dyn Session>, ConnectError> {
        let (done, opened) = channel();
        let to = to.to_target().map_err(ConnectError::Target)?;
        self.asks.ask(Ask::Session(Box::new(to), plan, done));
        let id = opened.recv().map_err(|_| ConnectError::NodeGone)??;
        Ok(Box::new(Talk { id, asks: self.asks.clone() }))
    }

    fn accept_session(&self, within: Duration) -> Option<Box<dyn Session>> {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Box::new(Talk { id: incoming.recv_timeout(within).ok()?, asks: self.asks.clone() }))
    }

    fn stats(&self) -> Stats {
        let (reply, stats) = channel();
        self.asks.ask(Ask::Stats(reply));
        stats.recv().unwrap_or_default()
    }

    fn shutdown(&self) {
        self.asks.ask(Ask::Shutdown);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Looping {
    fn drop(&mut self) {
        self.asks.ask(Ask::Shutdown);
    }
}

struct Under {
    id: ConnectId,
    done: Receiver<Outcome>,
    asks: Asks,
}

impl Call for Under {
    fn wait(self: Box<Self>) -> Outcome {
        self.done.recv().unwrap_or(Err(ConnectError::NodeGone))
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.asks.ask(Ask::Cancel(self.id));
    }
}

/// A pipe that is waited for in a loop of its own.
struct Polled {
    pipe: p2pd_mio::Pipe,
    poll: Poll,
    events: Events,
}

impl Polled {
    fn new(mut pipe: p2pd_mio::Pipe) -> Self {
        let poll = Poll::new().unwrap();
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut pipe, Token(0), both).unwrap();
        Polled { pipe, poll, events: Events::with_capacity(4) }
    }

    fn until_done<T>(&mut self, mut work: impl FnMut(&mut p2pd_mio::Pipe) -> io::Result<T>) -> io::Result<T> {
        loop {
            match work(&mut self.pipe) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match self.poll.poll(&mut self.events, None) {
                        Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                        _ => {}
                    }
                }
                done => return done,
            }
        }
    }
}

impl Read for Polled {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.until_done(|pipe| pipe.read(buf))
    }
}

impl Write for Polled {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.until_done(|pipe| pipe.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.until_done(|pipe| pipe.flush())
    }
}

impl Pipe for Polled {
    fn end(&mut self) -> io::Result<()> {
        self.until_done(|pipe| pipe.shutdown())
    }

    fn info(&self) -> PipeInfo {
        *self.pipe
    }

    fn messages(&mut self) -> io::Result<Box<dyn Messages>> {
        Ok(Box::new(PolledMessages(self.pipe.messages()?)))
    }

    fn into_std(mut self: Box<Self>) -> io::Result<TcpStream> {
        self.poll.registry().deregister(&mut self.pipe)?;
        self.pipe.into_std()
    }
}

/// Messages that are asked for again each millisecond.
struct PolledMessages(p2pd_mio::Messages);

impl PolledMessages {
    fn until_done<T>(&self, work: impl Fn(&p2pd_mio::Messages) -> io::Result<T>) -> io::Result<T> {
        loop {
            match work(&self.0) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                done => return done,
            }
        }
    }
}

impl Messages for PolledMessages {
    fn send(&self, message: &[u8]) -> io::Result<()> {
        self.until_done(|m| m.send(message))?;
        self.until_done(|m| m.flush())
    }

    fn recv(&self) -> io::Result<Vec<u8>> {
        self.until_done(|m| m.recv())
    }
}

type Machine = p2pd_core::pipe::session::Session;

/// A session of the loop, which is asked again each millisecond.
struct Talk {
    id: SessionId,
    asks: Asks,
}

struct Ends {
    talk: Talk,
    id: StreamId,
    tag: Vec<u8>,
}

impl Talk {
    /// Does something in the loop.
    fn work<T: Send + 'static>(&self, work: impl FnOnce(&mut Looped) -> T + Send + 'static) -> T {
        let (reply, done) = channel();
        self.asks.ask(Ask::Work(Box::new(move |looped| drop(reply.send(work(looped))))));
        done.recv().unwrap()
    }

    fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Machine, Instant) -> T + Send + 'static) -> T {
        let id = self.id;
        self.work(move |looped| {
            let (session, now) = looped.sessions.get(id).unwrap();
            work(session, now)
        })
    }

    fn until_some<T>(&self, ask: impl Fn() -> Option<T>) -> io::Result<T> {
        loop {
            let over = self.end();
            if let Some(done) = ask() {
                return Ok(done);
            }
            if let Some(why) = over {
                return Err(SessionError::Ended(why).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(&self) -> Option<SessionEnd> {
        let id = self.id;
        self.work(move |looped| looped.said.get(&id).and_then(|(_, end)| end.clone()))
    }

    /// Returns the reason that a stream is not there any more.
    fn gone(&self) -> io::Error {
        self.end().map_or(SessionError::Closed, SessionError::Ended).into()
    }

    fn ends(&self, id: StreamId, tag: &[u8]) -> Box<dyn Stream> {
        let talk = Talk { id: self.id, asks: self.asks.clone() };
        Box::new(Ends { talk, id, tag: tag.to_vec() })
    }
}

fn direction(both: bool) -> Direction {
    if both { Direction::Both } else { Direction::One }
}

impl Session for Talk {
    fn open(&self, both: bool, tag: &[u8]) -> io::Result<Box<dyn Stream>> {
        let id = self.until_some(|| {
            let tag = tag.to_vec();
            match self.with(move |session, now| session.open(now, direction(both), &tag)) {
                Err(OpenError::TooMany) => None,
                done => Some(done),
            }
        })?;
        Ok(self.ends(id.map_err(|_| io::ErrorKind::InvalidInput)?, tag))
    }

    fn accept(&self, both: bool) -> io::Result<Box<dyn Stream>> {
        let (id, tag) = self.until_some(|| self.with(move |session, _| session.accept(direction(both))))?;
        Ok(self.ends(id, &tag))
    }

    fn send_datagram(&self, data: &[u8]) -> io::Result<()> {
        let data = data.to_vec();
        let sent = self.with(move |session, now| session.send_datagram(now, data.into()));
        if sent { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn read_datagram(&self) -> io::Result<Vec<u8>> {
        self.until_some(|| self.with(|session, _| session.read_datagram())).map(|data| data.to_vec())
    }

    fn moves(&self) -> u64 {
        let id = self.id;
        // The first carrier is no move.
        self.work(move |looped| looped.said.get(&id).map_or(0, |(moves, _)| moves.saturating_sub(1)))
    }

    fn delivered(&self) {
        self.until_some(|| self.with(|session, _| session.is_delivered().then_some(()))).unwrap();
    }

    fn close(&self, code: u32, reason: &[u8]) {
        let reason = reason.to_vec();
        self.with(move |session, now| session.close(now, code, &reason));
    }

    fn closed(&self) -> SessionEnd {
        loop {
            match self.end() {
                Some(why) => return why,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (id, most) = (self.id, buffer.len());
        let read = self.talk.until_some(|| {
            match self.talk.with(move |session, now| session.read_chunk(now, id, most)) {
                ReadResult::Empty => None,
                done => Some(done),
            }
        })?;
        match read {
            ReadResult::Read(bytes) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            ReadResult::Reset(code) => Err(SessionError::Reset(code).into()),
            ReadResult::Gone => Err(self.talk.gone()),
            ReadResult::End | ReadResult::Empty => Ok(0),
        }
    }
}

impl Write for Ends {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let id = self.id;
        let written = self.talk.until_some(|| {
            let data = data.to_vec();
            match self.talk.with(move |session, now| session.write(now, id, &data)) {
                Ok(0) => None,
                done => Some(done),
            }
        })?;
        written.map_err(|why| match why {
            WriteError::Ended => io::ErrorKind::ConnectionAborted.into(),
            _ => self.talk.gone(),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Ends {
    fn finish(&mut self) {
        let id = self.id;
        self.talk.with(move |session, now| session.finish(now, id));
    }

    fn reset(&mut self, code: u32) {
        let id = self.id;
        self.talk.with(move |session, now| session.reset(now, id, code));
    }

    fn stop(&mut self, code: u32) {
        let id = self.id;
        self.talk.with(move |session, now| session.stop(now, id, code));
    }

    fn tag(&self) -> Vec<u8> {
        self.tag.clone()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let id = self.id;
        self.talk.asks.ask(Ask::Work(Box::new({
            let session = self.talk.id;
            move |looped| {
                if let Some((session, now)) = looped.sessions.get(session) {
                    session.finish(now, id);
                    session.stop(now, id, 0);
                }
            }
        })));
    }
}
