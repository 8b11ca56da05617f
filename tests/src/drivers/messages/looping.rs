//! Pipes of messages of mio: a thread has the loop, as a program on mio would, and carries out requests.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use p2pd_mio::messages::{
    Destination, End, Family, ListenError, Message, News, OpenError, Pattern, PipeId, PipeOptions,
    Pipes as MioPipes, Protocol, Queue, RecvError, Route, SubscriptionId, Target,
};

use super::{Key, NoMessage, Pipes};

const WAKER: Token = Token(0);
/// Time between two looks of the loop for changes that it does not report.
const AGAIN: Duration = Duration::from_millis(1);

struct State {
    pipes: MioPipes,
    opened: HashMap<PipeId, Result<(), OpenError>>,
    accepted: HashMap<PipeId, VecDeque<PipeId>>,
    ended: HashMap<PipeId, End>,
    /// Listeners and clients of an echo server.
    echo: HashSet<PipeId>,
}

type Ask = Box<dyn FnOnce(&mut State) + Send>;

pub(super) struct Looping {
    asks: Mutex<Option<Sender<Ask>>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    keys: Mutex<Vec<PipeId>>,
}

impl Looping {
    pub(super) fn new() -> Self {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).unwrap());
        let (asks, asked) = channel();
        let thread = std::thread::spawn(move || run(poll, &asked));
        Looping { asks: Mutex::new(Some(asks)), waker, thread: Some(thread), keys: Mutex::default() }
    }

    /// Does something on the loop's thread.
    fn ask<T: Send + 'static>(&self, work: impl FnOnce(&mut State) -> T + Send + 'static) -> T {
        let (reply, answer) = channel();
        let ask: Ask = Box::new(move |state| drop(reply.send(work(state))));
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.as_ref().unwrap().send(ask).unwrap();
        drop(asks);
        self.waker.wake().unwrap();
        answer.recv().unwrap()
    }

    /// Asks until there is an answer.
    fn until<T: Send + 'static>(&self, work: impl Fn(&mut State) -> Option<T> + Clone + Send + 'static) -> T {
        loop {
            if let Some(answer) = self.ask(work.clone()) {
                return answer;
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn get(&self, pipe: Key) -> PipeId {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)[pipe]
    }

    fn keep(&self, pipe: PipeId) -> Key {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.push(pipe);
        keys.len() - 1
    }

    fn begin(
        &self,
        protocol: Protocol,
        to: Destination,
        route: Route,
        options: &PipeOptions,
    ) -> Result<PipeId, OpenError> {
        let options = *options;
        let pipe = self.ask(move |state| state.pipes.open(protocol, to, route, &options))?;
        self.until(move |state| state.opened.remove(&pipe)).map(|()| pipe)
    }
}

impl Drop for Looping {
    fn drop(&mut self) {
        *self.asks.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the loop panicked");
        }
    }
}

fn run(mut poll: Poll, asked: &Receiver<Ask>) {
    let pipes = MioPipes::new(poll.registry(), 1..1_000).unwrap();
    let (opened, accepted) = (HashMap::new(), HashMap::new());
    let mut state = State { pipes, opened, accepted, ended: HashMap::new(), echo: HashSet::new() };
    let mut events = Events::with_capacity(256);
    loop {
        match poll.poll(&mut events, state.pipes.timeout()) {
            Err(e) if e.kind() != ErrorKind::Interrupted => panic!("{e}"),
            _ => {}
        }
        for event in &events {
            assert!(state.pipes.handle(event) || event.token() == WAKER, "{event:?}");
        }
        loop {
            match asked.try_recv() {
                Ok(ask) => ask(&mut state),
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            }
        }
        state.pipes.tick();
        while let Some(news) = state.pipes.poll() {
            state.note(news);
        }
    }
}

impl State {
    fn note(&mut self, news: News) {
        match news {
            News::Opened(pipe) => drop(self.opened.insert(pipe, Ok(()))),
            News::NotOpened(pipe, why) => drop(self.opened.insert(pipe, Err(why))),
            News::Accepted { on, pipe } if self.echo.contains(&on) => {
                self.echo.insert(pipe);
                self.pipes.link(pipe, pipe);
            }
            News::Accepted { on, pipe } => self.accepted.entry(on).or_default().push_back(pipe),
            News::Message(pipe, message) => {
                let _ = self.pipes.send_to(pipe, &message.data, message.from);
            }
            News::Ended(pipe, _) if self.echo.contains(&pipe) => drop(self.pipes.close(pipe)),
            News::Ended(pipe, end) => drop(self.ended.insert(pipe, end)),
            _ => {}
        }
    }
}

impl Pipes for Looping {
    fn open(
        &self,
        protocol: Protocol,
        to: Destination,
        route: Route,
        options: &PipeOptions,
    ) -> Result<Key, OpenError> {
        self.begin(protocol, to, route, options).map(|pipe| self.keep(pipe))
    }

    fn bind(&self, route: Route, options: &PipeOptions) -> Key {
        let options = *options;
        self.keep(self.ask(move |state| state.pipes.bind(route, &options)).unwrap())
    }

    fn pair(&self, options: &PipeOptions) -> [Key; 2] {
        let theirs = *options;
        let at = ([127, 0, 0, 1], 0).into();
        let bound = self.ask(move |state| state.pipes.listen_specific(&[(at, Protocol::Tcp)], &theirs));
        let listener = bound.unwrap()[0];
        let ours = self.begin(Protocol::Tcp, listener.at.into(), Route::V4, options).unwrap();
        let theirs = self.until(move |state| state.accepted.get_mut(&listener.pipe)?.pop_front());
        assert!(self.ask(move |state| state.pipes.close(listener.pipe)));
        [self.keep(ours), self.keep(theirs)]
    }

    fn echo(
        &self,
        ports: RangeInclusive<u16>,
        families: &[Family],
    ) -> Result<Vec<(SocketAddr, Protocol)>, ListenError> {
        let families = families.to_vec();
        self.ask(move |state| {
            let both = [Protocol::Tcp, Protocol::Udp];
            let (targets, options) = ([Target::Loopback], PipeOptions::default());
            let bound = state.pipes.listen_all(&targets, &[ports], &both, &families, &options)?;
            for server in &bound {
                state.echo.insert(server.pipe);
                state.pipes.hear(server.pipe, true);
            }
            Ok(bound.iter().map(|server| (server.at, server.protocol)).collect())
        })
    }

    fn local(&self, pipe: Key) -> SocketAddr {
        let pipe = self.get(pipe);
        self.ask(move |state| state.pipes.local_addr(pipe)).unwrap()
    }

    fn subscribe(&self, pipe: Key, message: Pattern, queue: Queue) -> SubscriptionId {
        let pipe = self.get(pipe);
        self.ask(move |state| state.pipes.subscribe_with(pipe, message, Pattern::ANY, queue)).unwrap()
    }

    fn count(&self, pipe: Key, of: SubscriptionId) -> (usize, u64) {
        let pipe = self.get(pipe);
        self.ask(move |state| Some((state.pipes.waiting(pipe, of)?, state.pipes.dropped(pipe, of)?))).unwrap()
    }

    fn recv(&self, pipe: Key, from: SubscriptionId, within: Duration) -> Result<Message, NoMessage> {
        let (pipe, until) = (self.get(pipe), Instant::now() + within);
        self.until(move |state| match state.pipes.recv(pipe, from) {
            Ok(Some(message)) => Some(Ok(message)),
            Ok(None) if Instant::now() < until => None,
            Ok(None) => Some(Err(NoMessage::Late)),
            Err(RecvError::Ended(end)) => Some(Err(NoMessage::Ended(end))),
            Err(RecvError::NoSuchSubscription | RecvError::TimedOut) => Some(Err(NoMessage::Gone)),
        })
    }

    fn send(&self, pipe: Key, data: &[u8]) -> bool {
        let (pipe, data) = (self.get(pipe), Arc::<[u8]>::from(data));
        let sent = self.until(move |state| match state.pipes.send(pipe, &data) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            sent => Some(sent.is_ok()),
        });
        // As where calls wait: until the system has taken it.
        sent && self.until(move |state| state.pipes.has_room(pipe).unwrap_or(true).then_some(true))
    }

    fn link(&self, from: Key, to: Key) {
        let (from, to) = (self.get(from), self.get(to));
        assert!(self.ask(move |state| state.pipes.link(from, to)));
    }

    fn join(&self, one: Key, other: Key) {
        let (one, other) = (self.get(one), self.get(other));
        assert!(self.ask(move |state| state.pipes.join(one, other)));
    }

    fn finish(&self, pipe: Key) {
        let pipe = self.get(pipe);
        assert!(self.ask(move |state| state.pipes.finish(pipe)));
    }

    fn close(&self, pipe: Key) {
        let pipe = self.get(pipe);
        assert!(self.ask(move |state| state.pipes.close(pipe)));
    }

    fn abort(&self, pipe: Key) {
        let pipe = self.get(pipe);
        assert!(self.ask(move |state| state.pipes.abort(pipe)));
    }

    fn ended(&self, pipe: Key) -> End {
        let pipe = self.get(pipe);
        self.until(move |state| state.ended.get(&pipe).copied())
    }
}
