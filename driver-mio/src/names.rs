//! Names: each look-up is a thread that ends with it, or the user's own.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::{Registry, Token};
use p2pd_core::IoFailure;
use smallvec::SmallVec;

/// Answer to a look-up, with the name of the asker.
pub(crate) type Answer<K> = (K, Result<SmallVec<[IpAddr; 2]>, IoFailure>);
/// Filter of the addresses that the asker can use.
pub(crate) type Keep = fn(&IpAddr) -> bool;

/// Most addresses of one name that the asker is given.
const MOST: usize = 4;

#[derive(Debug)]
pub(crate) struct Names<K> {
    /// The user looks up.
    own: bool,
    asked: VecDeque<(K, Box<str>)>,
    /// Threads of look-ups; none before the first name is asked for.
    threads: Option<Threads<K>>,
}

#[derive(Debug)]
struct Threads<K> {
    answers: Receiver<Answer<K>>,
    answer: Sender<Answer<K>>,
    #[cfg(unix)]
    bell: mio::net::UnixStream,
    #[cfg(unix)]
    ring: std::sync::Arc<std::os::unix::net::UnixStream>,
}

impl<K: Copy + PartialEq + Send + 'static> Names<K> {
    pub(crate) fn new(own: bool) -> Self {
        Names { own, asked: VecDeque::new(), threads: None }
    }

    pub(crate) fn look_up(
        &mut self,
        query: K,
        host: Box<str>,
        keep: Keep,
        registry: &Registry,
        token: Token,
    ) {
        if self.own {
            self.asked.push_back((query, host));
            return;
        }
        let threads = match &mut self.threads {
            Some(threads) => threads,
            none => match Threads::new(registry, token) {
                Ok(new) => none.insert(new),
                // Whoever asked has a deadline.
                Err(_) => return,
            },
        };
        threads.start(query, host, keep);
    }

    pub(crate) fn cancel(&mut self, query: K) {
        self.asked.retain(|(asked, _)| *asked != query);
    }

    /// Returns true if the user is to look a name up.
    pub(crate) fn asks(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The next name that the user is to look up.
    pub(crate) fn poll_asked(&mut self) -> Option<(K, Box<str>)> {
        self.asked.pop_front()
    }

    /// The next answer of a thread.
    pub(crate) fn poll_answer(&mut self) -> Option<Answer<K>> {
        let threads = self.threads.as_mut()?;
        threads.silence();
        threads.answers.try_recv().ok()
    }
}

impl<K: Send + 'static> Threads<K> {
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
    fn start(&self, query: K, host: Box<str>, keep: Keep) {
        let (answer, ring) = (self.answer.clone(), self.ring.clone());
        let work = move || {
            if answer.send((query, look_up(&host, keep))).is_ok() {
                // A full pipe has rung already.
                let _ = io::Write::write(&mut &*ring, &[0]);
            }
        };
        // Without a thread the deadline of whoever asked ends it.
        let _ = std::thread::Builder::new().name("p2pd look-up".into()).spawn(work);
    }

    #[cfg(unix)]
    fn silence(&mut self) {
        let mut rings = [0; 64];
        while io::Read::read(&mut self.bell, &mut rings).is_ok_and(|n| n > 0) {}
    }

    /// Creates a look-up without threads. On this system nothing light can wake a loop of mio from another thread,
    /// beside the user's own `Waker`. So the look-up takes place at once, and the user may look names up instead.
    #[cfg(not(unix))]
    fn new(_: &Registry, _: Token) -> io::Result<Self> {
        let (answer, answers) = channel();
        Ok(Threads { answers, answer })
    }

    #[cfg(not(unix))]
    fn start(&self, query: K, host: Box<str>, keep: Keep) {
        let _ = self.answer.send((query, look_up(&host, keep)));
    }

    #[cfg(not(unix))]
    fn silence(&mut self) {}
}

fn look_up(host: &str, keep: Keep) -> Result<SmallVec<[IpAddr; 2]>, IoFailure> {
    match (host, 0).to_socket_addrs() {
        Ok(found) => Ok(found.map(|a| a.ip()).filter(keep).take(MOST).collect()),
        Err(_) => Err(IoFailure::NoSuchName),
    }
}
