//! Names: each look-up is a thread that ends with it, or the user's own.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::{Registry, Token};
use p2pd_core::{IoFailure, QueryId};
use smallvec::SmallVec;

pub(crate) type Answer = (QueryId, Result<SmallVec<[IpAddr; 2]>, IoFailure>);

/// Addresses of one name that the core is given.
const MOST: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The user looks up.
    own: bool,
    asked: VecDeque<(QueryId, Box<str>)>,
    /// Made when the first name is asked for.
    threads: Option<Threads>,
}

#[derive(Debug)]
struct Threads {
    answers: Receiver<Answer>,
    answer: Sender<Answer>,
    #[cfg(unix)]
    bell: mio::net::UnixStream,
    #[cfg(unix)]
    ring: std::sync::Arc<std::os::unix::net::UnixStream>,
}

impl Names {
    pub(crate) fn new(own: bool) -> Self {
        Names { own, ..Names::default() }
    }

    pub(crate) fn look_up(&mut self, query: QueryId, host: Box<str>, registry: &Registry, token: Token) {
        if self.own {
            self.asked.push_back((query, host));
            return;
        }
        let threads = match &mut self.threads {
            Some(threads) => threads,
            none => match Threads::new(registry, token) {
                Ok(new) => none.insert(new),
                // The engine's own deadline says so.
                Err(_) => return,
            },
        };
        threads.start(query, host);
    }

    pub(crate) fn cancel(&mut self, query: QueryId) {
        self.asked.retain(|(asked, _)| *asked != query);
    }

    /// Whether the user is to look a name up.
    pub(crate) fn asks(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The next name that the user is to look up.
    pub(crate) fn poll_asked(&mut self) -> Option<(QueryId, Box<str>)> {
        self.asked.pop_front()
    }

    /// The next answer of a thread.
    pub(crate) fn poll_answer(&mut self) -> Option<Answer> {
        let threads = self.threads.as_mut()?;
        threads.silence();
        threads.answers.try_recv().ok()
    }
}

impl Threads {
    #[cfg(unix)]
    fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let (ring, bell) = std::os::unix::net::UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        let mut bell = mio::net::UnixStream::from_std(bell);
        registry.register(&mut bell, token, mio::Interest::READABLE)?;
        let (answer, answers) = channel();
        Ok(Threads { answers, answer, bell, ring: ring.into() })
    }

    #[cfg(unix)]
    fn start(&self, query: QueryId, host: Box<str>) {
        let (answer, ring) = (self.answer.clone(), self.ring.clone());
        let work = move || {
            if answer.send((query, look_up(&host))).is_ok() {
                // A full pipe has rung already.
                let _ = io::Write::write(&mut &*ring, &[0]);
            }
        };
        // Without a thread the engine's own deadline ends it.
        let _ = std::thread::Builder::new().name("p2pd look-up".into()).spawn(work);
    }

    #[cfg(unix)]
    fn silence(&mut self) {
        let mut rings = [0; 64];
        while io::Read::read(&mut self.bell, &mut rings).is_ok_and(|n| n > 0) {}
    }

    /// Here nothing light can wake a loop of mio from another thread beside the user's own `Waker`, so the look-up
    /// takes place at once, and the user may have own names.
    #[cfg(not(unix))]
    fn new(_: &Registry, _: Token) -> io::Result<Self> {
        let (answer, answers) = channel();
        Ok(Threads { answers, answer })
    }

    #[cfg(not(unix))]
    fn start(&self, query: QueryId, host: Box<str>) {
        let _ = self.answer.send((query, look_up(&host)));
    }

    #[cfg(not(unix))]
    fn silence(&mut self) {}
}

fn look_up(host: &str) -> Result<SmallVec<[IpAddr; 2]>, IoFailure> {
    match (host, 0).to_socket_addrs() {
        Ok(found) => Ok(found.map(|a| a.ip()).take(MOST).collect()),
        Err(_) => Err(IoFailure::NoSuchName),
    }
}
