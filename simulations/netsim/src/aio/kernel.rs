//! The part of a host that its tasks call: states of sockets, datagrams not received yet, and timers.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::ready::{Place, Waiting};
use crate::engine::{Domain, Keyed, Nanos};
use crate::host::{Close, Failure, Host, HostEvent, Profile, Sock};
use crate::world::Cx;

/// Most bytes of datagrams that wait at a socket (Linux: `net.core.rmem_default`).
const RECEIVE_BUFFER: usize = 212_992;
/// Bytes that each of them takes beside its payload, about as much as Linux's `sk_buff`.
const DATAGRAM_OVERHEAD: usize = 576;

/// A TCP stream, as its program sees it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) state: State,
    /// True if closing it sends RST.
    pub(super) resets: bool,
    pub(super) readers: Waiting,
    pub(super) writers: Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Dialling,
    Open,
    /// Open, and the program has sent its FIN.
    Shut,
    /// The next call returns the error.
    Failed(Failure),
    /// The error was returned.
    Broken,
}

impl Stream {
    pub(super) fn new(state: State) -> Stream {
        Stream { state, resets: false, readers: Waiting::default(), writers: Waiting::default() }
    }

    /// Returns the failure that nobody was told yet.
    pub(super) fn failure(&mut self) -> Option<Failure> {
        let State::Failed(why) = self.state else { return None };
        self.state = State::Broken;
        Some(why)
    }
}

#[derive(Debug, Default)]
pub(super) struct Listener {
    /// Streams not accepted yet, each with its own address and its peer's.
    pub(super) queue: VecDeque<(Sock, SocketAddr, SocketAddr)>,
    pub(super) waiting: Waiting,
}

/// State of a UDP socket.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) queue: VecDeque<(SocketAddr, Bytes)>,
    /// Room that the queue takes.
    bytes: usize,
    /// The one peer, once connected.
    pub(super) peer: Option<SocketAddr>,
    /// Error of the next call: an ICMP error about what went to the peer.
    pub(super) error: Option<Failure>,
    pub(super) waiting: Waiting,
}

impl Inbox {
    /// Takes the next datagram out, or the error, which comes first.
    pub(super) fn pop(&mut self) -> Option<Result<(SocketAddr, Bytes), Failure>> {
        if let Some(why) = self.error.take() {
            return Some(Err(why));
        }
        let (from, data) = self.queue.pop_front()?;
        self.bytes -= data.len() + DATAGRAM_OVERHEAD;
        Some(Ok((from, data)))
    }
}

/// A future that a task is made of.
pub(super) type Body = Pin<Box<dyn Future<Output = ()>>>;

/// States of everything that the tasks of one host have open.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) streams: BTreeMap<Sock, Stream>,
    pub(super) listeners: BTreeMap<Sock, Listener>,
    pub(super) inboxes: BTreeMap<Sock, Inbox>,
    /// Tasks begun since the last turn, with their numbers.
    pub(super) begun: Vec<(u64, Body)>,
    tasks: u64,
    timers: BTreeMap<(Nanos, u64), Waker>,
    timer: u64,
    /// The next wake that was asked for.
    armed: Option<Nanos>,
    draws: u64,
}

impl Kernel {
    /// Takes in an event of one of the sockets.
    pub(super) fn event(&mut self, host: &mut Host, event: HostEvent) {
        match event {
            HostEvent::Connected(sock) => {
                if let Some(stream) = self.streams.get_mut(&sock) {
                    stream.state = State::Open;
                    stream.writers.wake();
                }
            }
            HostEvent::Failed(sock, why) | HostEvent::Broken(sock, why) => {
                if let Some(stream) = self.streams.get_mut(&sock) {
                    stream.state = State::Failed(why);
                    stream.readers.wake();
                    stream.writers.wake();
                }
            }
            HostEvent::Accepted { listener, sock } => {
                let ends = host.local(sock).zip(host.remote(sock));
                let Some((local, peer)) = ends else { return };
                let Some(Listener { queue, waiting }) = self.listeners.get_mut(&listener) else { return };
                queue.push_back((sock, local, peer));
                waiting.wake();
                host.queued(listener);
                self.streams.insert(sock, Stream::new(State::Open));
            }
            HostEvent::Readable(sock) => {
                if let Some(stream) = self.streams.get_mut(&sock) {
                    stream.readers.wake();
                }
            }
            HostEvent::Writable(sock) => {
                if let Some(stream) = self.streams.get_mut(&sock) {
                    stream.writers.wake();
                }
            }
            HostEvent::Bounced { sock, to, cause } => {
                if let Some(inbox) = self.inboxes.get_mut(&sock).filter(|inbox| inbox.peer == Some(to)) {
                    inbox.error = Some(cause);
                    inbox.waiting.wake();
                }
            }
            HostEvent::Datagram { sock, from, data, .. } => {
                let Some(inbox) = self.inboxes.get_mut(&sock) else { return };
                let cost = data.len() + DATAGRAM_OVERHEAD;
                let heard = inbox.peer.is_none_or(|peer| peer == from);
                if heard && inbox.bytes + cost <= RECEIVE_BUFFER {
                    inbox.bytes += cost;
                    inbox.queue.push_back((from, data));
                    inbox.waiting.wake();
                }
            }
        }
    }

    /// Wakes those whose timers are due.
    pub(super) fn tick(&mut self, host: &mut Host, now: Nanos) {
        self.armed = self.armed.filter(|at| *at > now);
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            timer.remove().wake();
        }
        self.arm(host);
    }

    /// Asks the world for a wake at the first timer, unless one as early was asked for.
    fn arm(&mut self, host: &mut Host) {
        if let Some((&(at, _), _)) = self.timers.first_key_value()
            && self.armed.is_none_or(|armed| armed > at)
        {
            self.armed = Some(at);
            host.out.wakes.push((at, 0));
        }
    }

    pub(super) fn begin(&mut self, body: Body) -> u64 {
        self.tasks += 1;
        self.begun.push((self.tasks, body));
        self.tasks
    }
}

/// The host whose task is being polled.
pub(super) struct Current {
    pub(super) host: Host,
    pub(super) kernel: Kernel,
    pub(super) now: Nanos,
    pub(super) rng: Keyed,
    pub(super) place: Place,
}

impl Current {
    /// Closes a socket, and a listener's streams that nobody has accepted.
    pub(super) fn close(&mut self, sock: Sock) {
        for (queued, ..) in self.kernel.listeners.remove(&sock).unwrap_or_default().queue {
            self.kernel.streams.remove(&queued);
            self.host.close(self.now, queued, Close::Reset);
        }
        self.kernel.inboxes.remove(&sock);
        let resets = self.kernel.streams.remove(&sock).is_some_and(|stream| stream.resets);
        self.host.close(self.now, sock, if resets { Close::Reset } else { Close::Drop });
    }

    /// Sets a timer, or gives it another waker; the number is the one to cancel it by.
    pub(super) fn set_timer(&mut self, at: Nanos, number: Option<u64>, waker: &Waker) -> u64 {
        let number = number.unwrap_or_else(|| {
            self.kernel.timer += 1;
            self.kernel.timer
        });
        self.kernel.timers.insert((at, number), waker.clone());
        self.kernel.arm(&mut self.host);
        number
    }

    pub(super) fn cancel_timer(&mut self, at: Nanos, number: u64) {
        self.kernel.timers.remove(&(at, number));
    }

    pub(super) fn random(&mut self) -> u64 {
        self.kernel.draws += 1;
        self.rng.draw(Domain::Program, self.host.id(), self.kernel.draws)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The host and the kernel of a process, which are [`Current`] until this is dropped.
pub(super) struct Entered<'a> {
    host: &'a mut Host,
    kernel: &'a mut Kernel,
    outer: Option<Current>,
}

impl<'a> Entered<'a> {
    pub(super) fn new(place: &Place, cx: &'a mut Cx<'_>, kernel: &'a mut Kernel) -> Entered<'a> {
        let Cx { host, now, rng } = cx;
        let current = Current {
            // Nobody sees the one that stands in.
            host: core::mem::replace(host, Host::new(0, *rng, Profile::LINUX)),
            kernel: core::mem::take(kernel),
            now: *now,
            rng: *rng,
            place: place.clone(),
        };
        let outer = CURRENT.replace(Some(current));
        Entered { host, kernel, outer }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(current) = CURRENT.replace(self.outer.take()) {
            *self.host = current.host;
            *self.kernel = current.kernel;
        }
    }
}

/// Runs `run` on the host whose task is being polled.
///
/// # Panics
/// Panics outside of a task, as tokio's calls do outside of a runtime.
#[track_caller]
pub(super) fn current<R>(run: impl FnOnce(&mut Current) -> R) -> R {
    try_current(run).expect("this call needs a simulated host: make it in a task of a `Sim`")
}

/// Does what [`current`] does, without a panic outside of a task.
pub(super) fn try_current<R>(run: impl FnOnce(&mut Current) -> R) -> Option<R> {
    let current = CURRENT.try_with(|current| Some(run(current.try_borrow_mut().ok()?.as_mut()?)));
    current.ok().flatten()
}

/// A socket of a host, closed when this is dropped.
#[derive(Debug)]
pub(super) struct Handle {
    sock: Sock,
    place: Place,
}

impl Handle {
    /// A socket of the current host.
    pub(super) fn new(current: &Current, sock: Sock) -> Handle {
        Handle { sock, place: current.place.clone() }
    }

    /// Runs `run` on the socket's host.
    ///
    /// # Errors
    /// Fails in a task of another host, and outside of tasks.
    pub(super) fn with<R>(&self, run: impl FnOnce(&mut Current, Sock) -> R) -> io::Result<R> {
        try_current(|current| (current.place == self.place).then(|| run(current, self.sock)))
            .flatten()
            .ok_or_else(|| io::Error::other("a simulated socket works in the tasks of its own host only"))
    }

    /// Does what [`with`](Self::with) does, for calls that may have to wait.
    pub(super) fn poll<R>(
        &self,
        run: impl FnOnce(&mut Current, Sock) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        self.with(run).unwrap_or_else(|error| Poll::Ready(Err(error)))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.with(Current::close).is_err() {
            self.place.close(self.sock);
        }
    }
}
