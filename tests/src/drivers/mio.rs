//! `p2pd-mio` by calls that block: a thread has the loop, as a program on mio would, and is asked by messages.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use p2pd_core::{Config, ConnectId, PeerAddress, Plan, Stats, Target, ToTarget};
use p2pd_mio::News;
use p2pd_sys::{BindError, ConnectError, PipeInfo};

use super::{Call, Messages, Node, Outcome, Pipe, Trace};

const WAKER: Token = Token(0);
const NODE: std::ops::Range<usize> = 1..20_000;

enum Ask {
    Address(Sender<PeerAddress>),
    Begin(Box<Target>, Plan, Sender<Result<ConnectId, ConnectError>>, Sender<Outcome>),
    Cancel(ConnectId),
    Stats(Sender<Stats>),
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

struct Looping {
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
    let thread = std::thread::spawn(move || run(poll, node, &asked, &accept));
    let asks = Asks { asks, waker };
    Ok(Box::new(Looping { asks, accepted: Mutex::new(accepted), thread: Mutex::new(Some(thread)) }))
}

fn run(mut poll: Poll, mut node: p2pd_mio::Node, asked: &Receiver<Ask>, accept: &Sender<Box<dyn Pipe>>) {
    let mut events = Events::with_capacity(256);
    let mut calls: HashMap<ConnectId, Sender<Outcome>> = HashMap::new();
    let mut wait_for_address: Vec<Sender<PeerAddress>> = Vec::new();
    while !node.is_over() {
        match poll.poll(&mut events, node.timeout()) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => panic!("{e}"),
            _ => {}
        }
        for event in &events {
            assert!(node.handle(event) || event.token() == WAKER, "{event:?}");
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
                Ask::Stats(reply) => drop(reply.send(node.stats())),
                Ask::Shutdown => node.shutdown(),
            }
        }
        node.tick();
        while let Some(news) = node.poll() {
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
