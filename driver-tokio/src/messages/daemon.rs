//! Servers on many addresses and ports at once.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::task::Poll;
use std::time::Duration;

use p2pd_core::pipe::subscriptions::Message;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::carrier::Socket;
use super::open::{Family, Protocol};
use super::options::PipeOptions;
use super::pipe::MessagePipe;
use super::target::{ListenError, ListenFailure, Target, combine};

/// Clients that the system holds for each TCP port until they are accepted.
const BACKLOG: u16 = 1024;
/// After a failed accept, which fails at once again as long as there are no descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// TCP clients that are served at a time.
const CLIENTS: usize = 1000;

/// TCP listeners and UDP sockets, all of which are open. Dropping it closes them, UDP sockets when the runtime next comes to
/// their tasks.
///
/// ```no_run
/// use p2pd_tokio::messages::{Daemon, Family, PipeOptions, Protocol, Target};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let protocols = [Protocol::Tcp, Protocol::Udp];
/// let families = [Family::V4, Family::V6];
/// let ports = [7..=7, 30_000..=30_100];
/// let daemon = Daemon::listen_all(&[Target::Any], &ports, &protocols, &families, &PipeOptions::default())?;
/// daemon
///     .serve(|message, pipe| async move {
///         // One that leaves before its answer is no error.
///         let _ = pipe.send_to(&message.data, message.from).await;
///     })
///     .await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Daemon {
    tcp: Vec<TcpListener>,
    udp: Vec<MessagePipe>,
    bound: Vec<(SocketAddr, Protocol)>,
    options: PipeOptions,
    max_clients: usize,
    /// The listener whose turn it is to be asked first.
    turn: usize,
}

impl Daemon {
    /// Listens on every port of every range (`30_000..=30_100` has 101) on every address of every target, over each of these
    /// protocols and families; port 0 is one that the system chooses. All or nothing. Must be called within a tokio
    /// runtime with I/O and time; looking an interface up takes about a millisecond.
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
        Self::listen_specific(&combine(targets, ports, protocols, families)?, options)
    }

    /// Listens on each of these. All or nothing. Must be called within a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// Everything that failed.
    pub fn listen_specific(
        wanted: &[(SocketAddr, Protocol)],
        options: &PipeOptions,
    ) -> Result<Self, ListenError> {
        // First all sockets alone, which go at once if one fails; pipes have tasks that would hold them a while.
        let (mut open, mut failed) = (Vec::new(), Vec::new());
        for &(at, protocol) in wanted {
            match Bound::open(at, protocol, options) {
                Ok(bound) => open.push((at, bound)),
                Err(why) => failed.push(ListenFailure::Bind(at, protocol, why)),
            }
        }
        if !failed.is_empty() || open.is_empty() {
            return Err(ListenError { failed });
        }
        let mut daemon = Daemon {
            tcp: Vec::new(),
            udp: Vec::new(),
            bound: Vec::new(),
            options: *options,
            max_clients: CLIENTS,
            turn: 0,
        };
        for (at, bound) in open {
            let protocol = bound.protocol();
            if let Err(why) = daemon.add(bound) {
                return Err(ListenError { failed: vec![ListenFailure::Bind(at, protocol, why)] });
            }
        }
        Ok(daemon)
    }

    fn add(&mut self, bound: Bound) -> io::Result<()> {
        match bound {
            Bound::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                self.bound.push((listener.local_addr()?, Protocol::Tcp));
                self.tcp.push(listener);
            }
            Bound::Udp(socket) => {
                let socket = Socket::Udp(UdpSocket::from_std(socket)?, None);
                let pipe = MessagePipe::new(socket, &self.options)?;
                self.bound.push((pipe.local_addr(), Protocol::Udp));
                self.udp.push(pipe);
            }
        }
        Ok(())
    }

    /// Most TCP clients that [`serve`](Self::serve) has at a time; others wait to be accepted. There is no limit on how long a
    /// client stays. Default 1,000.
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients.max(1);
        self
    }

    /// Where it listens, in the order asked for, with the ports that were chosen for 0.
    pub fn bound(&self) -> &[(SocketAddr, Protocol)] {
        &self.bound
    }

    /// The pipes of the UDP sockets.
    pub fn udp(&self) -> &[MessagePipe] {
        &self.udp
    }

    /// The next TCP client, on any port; waits without end if there is none that listens on TCP. Giving up waiting loses
    /// nothing.
    ///
    /// # Errors
    /// Of `accept`: too few descriptors, or a client that left again. The next may be accepted.
    pub async fn accept(&mut self) -> io::Result<MessagePipe> {
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn;
        let (stream, _) = poll_fn(|cx| {
            for n in 0..self.tcp.len() {
                let at = first.wrapping_add(n) % self.tcp.len();
                if let Some(Poll::Ready(accepted)) = self.tcp.get(at).map(|l| l.poll_accept(cx)) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await?;
        MessagePipe::new(stream, &self.options)
    }

    /// Serves everybody with one callback, as [`MessagePipe::on_message`] has it, until the future is dropped. A TCP client
    /// is let go when it sends no more and its last message's callback is done.
    pub async fn serve<F, R>(mut self, on_message: F)
    where
        F: Fn(Message, MessagePipe) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        for pipe in &self.udp {
            pipe.on_message(on_message.clone());
        }
        let (mut clients, most) = (JoinSet::new(), self.max_clients);
        loop {
            tokio::select! {
                accepted = self.accept(), if clients.len() < most => match accepted {
                    Ok(pipe) => {
                        pipe.on_message(on_message.clone());
                        clients.spawn(async move { pipe.ended().await });
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }
}

/// A socket that nobody waits on yet.
enum Bound {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

impl Bound {
    fn open(at: SocketAddr, protocol: Protocol, options: &PipeOptions) -> io::Result<Self> {
        Ok(match protocol {
            Protocol::Tcp => Bound::Tcp(p2pd_sys::socket::listener(at, BACKLOG, &options.listener())?),
            Protocol::Udp => Bound::Udp(p2pd_sys::socket::udp(at, &options.socket())?),
        })
    }

    fn protocol(&self) -> Protocol {
        match self {
            Bound::Tcp(_) => Protocol::Tcp,
            Bound::Udp(_) => Protocol::Udp,
        }
    }
}
