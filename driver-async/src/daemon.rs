//! Servers on many addresses and ports at once.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use p2pd_core::pipe::subscriptions::Message;
use p2pd_sys::messages::{
    Bound, Family, ListenError, ListenFailure, PipeOptions, Protocol, Route, Target, combine,
};

use crate::carrier::{Socket, address};
use crate::pipe::MessagePipe;
use crate::runtime::Runtime;

/// Pause after a failed accept, which fails at once again as long as there are no descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// TCP clients that are served at a time.
const CLIENTS: usize = 1000;

/// TCP listeners and UDP sockets, all of which are open. Dropping it closes them, UDP sockets when the runtime next
/// comes to their tasks.
#[derive(Debug)]
pub struct Daemon<R: Runtime> {
    tcp: Vec<R::Listener>,
    udp: Vec<MessagePipe<R>>,
    bound: Vec<(SocketAddr, Protocol)>,
    options: PipeOptions,
    max_clients: usize,
    /// The listener whose turn it is to be asked first.
    turn: usize,
}

impl<R: Runtime> Daemon<R> {
    /// Listens on every port of every range (`30_000..=30_100` has 101) on every address of every target, over each of
    /// these protocols and those of the families that a target has. Port 0 is one that the system chooses. All or nothing.
    /// Must be called within the runtime, as [`MessagePipe::open`]; looking an interface up takes about a millisecond.
    ///
    /// # Errors
    /// Everything that failed.
    pub fn listen_all(
        targets: &[Target],
        ports: &[RangeInclusive<u16>],
        protocols: &[Protocol],
        families: &[Family],
        options: &PipeOptions,
    ) -> Result<Self, ListenError> {
        Self::listen(&combine(targets, ports, protocols, families)?, options)
    }

    /// Listens on each of these. All or nothing. Must be called within the runtime, as [`MessagePipe::open`].
    ///
    /// # Errors
    /// Everything that failed.
    pub fn listen_specific(
        wanted: &[(SocketAddr, Protocol)],
        options: &PipeOptions,
    ) -> Result<Self, ListenError> {
        let wanted: Vec<_> = wanted.iter().map(|(at, protocol)| (Route::from(*at), *protocol)).collect();
        Self::listen(&wanted, options)
    }

    fn listen(wanted: &[(Route, Protocol)], options: &PipeOptions) -> Result<Self, ListenError> {
        // First all sockets alone, which go at once if one fails; pipes have tasks that would hold them a while.
        let open = Bound::all(wanted, options)?;
        let mut daemon = Daemon {
            tcp: Vec::new(),
            udp: Vec::new(),
            bound: Vec::new(),
            options: *options,
            max_clients: CLIENTS,
            turn: 0,
        };
        for (bound, &(route, protocol)) in open.into_iter().zip(wanted) {
            if let Err(why) = daemon.add(bound) {
                return Err(ListenError { failed: vec![ListenFailure::Bind(route.local(), protocol, why)] });
            }
        }
        Ok(daemon)
    }

    fn add(&mut self, bound: Bound) -> io::Result<()> {
        match bound {
            Bound::Tcp(listener) => {
                let listener = R::listener(listener)?;
                self.bound.push((address(R::listener_socket(&listener).local_addr()?)?, Protocol::Tcp));
                self.tcp.push(listener);
            }
            Bound::Udp(socket) => {
                let socket = Socket::Udp(R::udp(socket)?, None);
                let pipe = MessagePipe::new(socket, &self.options)?;
                self.bound.push((pipe.local_addr(), Protocol::Udp));
                self.udp.push(pipe);
            }
        }
        Ok(())
    }

    /// Sets the most TCP clients that [`serve`](Self::serve) has at a time; others wait to be accepted. There is no
    /// limit on the time that a client stays. Default 1,000.
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients.max(1);
        self
    }

    /// Returns the addresses on which the daemon listens, in the order asked for, with the ports that were chosen for
    /// 0.
    pub fn bound(&self) -> &[(SocketAddr, Protocol)] {
        &self.bound
    }

    /// The pipes of the UDP sockets.
    pub fn udp(&self) -> &[MessagePipe<R>] {
        &self.udp
    }

    /// Accepts the next TCP client, on any port; waits without end if none listens on TCP. Giving up waiting loses
    /// nothing.
    ///
    /// # Errors
    /// Of `accept`: too few descriptors, or a client that left again. The next may be accepted.
    pub async fn accept(&mut self) -> io::Result<MessagePipe<R>> {
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn;
        let (stream, _) = poll_fn(|cx| {
            for n in 0..self.tcp.len() {
                let at = first.wrapping_add(n) % self.tcp.len();
                if let Some(Poll::Ready(accepted)) = self.tcp.get(at).map(|l| R::poll_accept(l, cx)) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await?;
        MessagePipe::new(Socket::Tcp(stream), &self.options)
    }

    /// Serves everybody with one callback, as [`MessagePipe::on_message`] has it, until the future is dropped. A TCP
    /// client is let go when it sends no more and its last message's callback is done.
    pub async fn serve<F, T>(mut self, on_message: F)
    where
        F: Fn(Message, MessagePipe<R>) -> T + Clone + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        for pipe in &self.udp {
            pipe.on_message(on_message.clone());
        }
        let clients = Arc::new(Clients::default());
        loop {
            clients.fewer_than(self.max_clients).await;
            match self.accept().await {
                Ok(pipe) => {
                    pipe.on_message(on_message.clone());
                    clients.keep(pipe);
                }
                Err(_) => R::sleep(PAUSE).await,
            }
        }
    }
}

/// Clients that are served. They go with it, each by itself at its end.
#[derive(Debug)]
struct Clients<R: Runtime> {
    places: Mutex<Places<R>>,
}

#[derive(Debug)]
struct Places<R: Runtime> {
    taken: BTreeMap<u64, MessagePipe<R>>,
    next: u64,
    /// The server, which waits for a free one.
    server: Option<Waker>,
}

impl<R: Runtime> Default for Clients<R> {
    fn default() -> Self {
        Clients { places: Mutex::new(Places { taken: BTreeMap::new(), next: 0, server: None }) }
    }
}

impl<R: Runtime> Clients<R> {
    fn places(&self) -> MutexGuard<'_, Places<R>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fewer_than(&self, most: usize) {
        poll_fn(|cx| {
            let mut places = self.places();
            if places.taken.len() < most {
                return Poll::Ready(());
            }
            places.server = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn keep(self: &Arc<Self>, pipe: MessagePipe<R>) {
        let mut places = self.places();
        let number = places.next;
        places.next += 1;
        places.taken.insert(number, pipe.clone());
        drop(places);
        let place = Place { clients: Arc::downgrade(self), number };
        pipe.on_end(move |_| async move { drop(place) });
    }
}

/// A client's place, which is free when this is dropped: at its end, also if that is a callback's panic.
struct Place<R: Runtime> {
    clients: Weak<Clients<R>>,
    number: u64,
}

impl<R: Runtime> Drop for Place<R> {
    fn drop(&mut self) {
        if let Some(clients) = self.clients.upgrade() {
            let mut places = clients.places();
            let (gone, server) = (places.taken.remove(&self.number), places.server.take());
            // A pipe's end takes locks.
            drop(places);
            drop(gone);
            if let Some(server) = server {
                server.wake();
            }
        }
    }
}
