//! The TURN server's sockets: it shares the STUN server's, and opens one for each allocation.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use p2pd_rendezvous::ConnId;
use p2pd_rendezvous::turn::{Config, Limits, Output, RelayId, Server, Stats, Users};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::door::Place;
use super::udp::Socket;

/// Messages that may wait for a client that reads slowly; further ones are dropped, as in a network.
const WAITING: usize = 128;
/// Time between two looks for expired state.
const TICK: Duration = Duration::from_secs(1);
/// Time between two looks at which addresses this machine has.
const LOOK: Duration = Duration::from_secs(5);
/// Longest datagram.
const LARGEST: usize = 65_536;

/// Options of a TURN server.
#[derive(Clone, Default)]
pub struct Wanted {
    /// Users who may relay: names and passwords.
    pub users: Vec<(String, String)>,
    /// The secret of short-lived credentials, as coturn's `use-auth-secret` has them.
    pub secret: Option<String>,
    /// The addresses under which peers reach the sockets that relay, at most one of each family. None: the one served on, or
    /// where that is every address, those of the default routes.
    pub relay_ips: Vec<IpAddr>,
    /// Lets relays reach private addresses although their own is public.
    pub allow_private: bool,
    /// Bounds of allocations, in number and in bytes.
    pub limits: Limits,
}

/// Shows the options without secrets.
impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("relay_ips", &self.relay_ips)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Wanted {
    /// A server for these users.
    pub(super) fn server(&self, ip: IpAddr) -> io::Result<(Server, Vec<IpAddr>)> {
        let relay_ips = match ip {
            _ if !self.relay_ips.is_empty() => self.relay_ips.clone(),
            // Its sockets take IPv4 too.
            IpAddr::V6(any) if any.is_unspecified() => {
                let v4 = outward(Ipv4Addr::UNSPECIFIED.into());
                match (v4, outward(ip)) {
                    (Err(_), v6) => vec![v6?],
                    (Ok(v4), v6) => core::iter::once(v4).chain(v6).collect(),
                }
            }
            _ if ip.is_unspecified() => vec![outward(ip)?],
            _ => vec![ip],
        };
        let epoch = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let users = Users { named: self.users.clone(), secret: self.secret.clone(), epoch };
        let mut config = Config::new(users, ip);
        (config.allow_private, config.limits) = (self.allow_private, self.limits);
        config.relay_ips.clone_from(&relay_ips);
        let mut server = Server::new(config);
        server.set_own(own());
        Ok((server, relay_ips))
    }
}

/// Addresses of this machine.
fn own() -> Vec<IpAddr> {
    p2pd_sys::cards().into_iter().flat_map(|card| card.addresses).map(|(ip, _)| ip).collect()
}

/// Returns this machine's address that the default route leaves from. Nothing is sent.
fn outward(any: IpAddr) -> io::Result<IpAddr> {
    let far: IpAddr = match any {
        IpAddr::V4(_) => Ipv4Addr::new(203, 0, 113, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = StdSocket::bind((any, 0))?;
    socket.connect((far, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The server and all that it sends through. The task that serves a listening socket holds it. The tasks that it
/// started itself do not, so that they end with it.
#[derive(Debug)]
pub(super) struct Turn {
    began: Instant,
    /// Address that relaying sockets are bound to where the relaying address is none of this machine's.
    bind: IpAddr,
    listening: Arc<[Socket]>,
    inside: Mutex<Inside>,
    myself: Weak<Turn>,
}

#[derive(Debug)]
struct Inside {
    server: Server,
    relays: HashMap<RelayId, Relay>,
    streams: HashMap<ConnId, mpsc::Sender<Bytes>>,
    next: u64,
}

#[derive(Debug)]
struct Relay {
    /// Socket for sending by the system's own call: tokio's fails on a socket that its reactor has not seen yet.
    socket: StdSocket,
    reading: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Turn {
    pub(super) fn new(began: Instant, server: Server, bind: IpAddr, listening: Arc<[Socket]>) -> Arc<Self> {
        let (relays, streams) = (HashMap::new(), HashMap::new());
        let inside = Mutex::new(Inside { server, relays, streams, next: 0 });
        Arc::new_cyclic(|myself| Turn { began, bind, listening, inside, myself: myself.clone() })
    }

    /// A datagram that is no Binding request came in on a listening socket.
    pub(super) fn datagram(&self, local: SocketAddr, from: SocketAddr, data: &[u8]) {
        self.with(|server, now| server.datagram(now, local, from, data));
    }

    /// Removes expired state, for ever.
    pub(super) async fn tick(self: Arc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        let mut looked = Instant::now();
        loop {
            interval.tick().await;
            self.with(|server, now| server.handle_timeout(now));
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                let own = own();
                self.with(|server, _| server.set_own(own));
            }
        }
    }

    /// Serves a stream that began with these bytes.
    pub(super) async fn stream(
        &self,
        local: SocketAddr,
        from: SocketAddr,
        stream: TcpStream,
        first: &[u8],
        place: &Place,
    ) {
        let (mut read, write) = stream.into_split();
        let (sender, receiver) = mpsc::channel(WAITING);
        let conn = {
            let mut inside = self.lock();
            let conn = ConnId(inside.next);
            inside.next += 1;
            inside.streams.insert(conn, sender);
            conn
        };
        // However this ends, the server hears of it.
        let _left = Left { turn: self, conn };
        self.with(|server, now| server.accept(now, conn, local, from));
        self.with(|server, now| server.receive(now, conn, first));
        let reading = async {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(size @ 1..) = read.read(&mut buffer).await {
                place.heard();
                self.with(|server, now| server.receive(now, conn, &buffer[..size]));
            }
        };
        tokio::select! {
            () = reading => {}
            () = write_all(write, receiver) => {}
        }
    }

    /// Passes an input to the server and carries its outputs out.
    fn with(&self, tell: impl FnOnce(&mut Server, Duration)) {
        let mut inside = self.lock();
        tell(&mut inside.server, self.began.elapsed());
        while let Some(output) = inside.server.poll_output() {
            match output {
                Output::Datagram { from, to, data } => {
                    if let Some(socket) = self.listening.iter().find(|socket| socket.has(from)) {
                        socket.send(from, to, &data);
                    }
                }
                // What does not fit is dropped, as a network would.
                Output::Relay { relay, to, data } => {
                    if let Some(relay) = inside.relays.get(&relay) {
                        let _ = relay.socket.send_to(&data, to);
                    }
                }
                Output::Send(conn, data) => {
                    if let Some(stream) = inside.streams.get(&conn) {
                        let _ = stream.try_send(data);
                    }
                }
                // The end of the queue is the end of the stream.
                Output::Close(conn) => drop(inside.streams.remove(&conn)),
                Output::Open(id, ip) => {
                    let port = match self.open(id, ip) {
                        Ok((relay, port)) => {
                            inside.relays.insert(id, relay);
                            Some(port)
                        }
                        Err(_) => None,
                    };
                    inside.server.opened(self.began.elapsed(), id, port);
                }
                Output::CloseRelay(id) => drop(inside.relays.remove(&id)),
            }
        }
    }

    fn open(&self, id: RelayId, ip: IpAddr) -> io::Result<(Relay, u16)> {
        // On the very address that peers are told, where it is this machine's and not that of a NAT before it.
        let any = match ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let inside = if self.bind.is_ipv4() == ip.is_ipv4() { self.bind } else { any };
        let socket = StdSocket::bind((ip, 0)).or_else(|_| StdSocket::bind((inside, 0)))?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        let reader = UdpSocket::from_std(socket.try_clone()?)?;
        let reading = tokio::spawn(relay(self.myself.clone(), id, reader)).abort_handle();
        Ok((Relay { socket, reading }, port))
    }

    /// Returns the counters, and the number of allocations.
    pub(super) fn stats(&self) -> (Stats, usize) {
        let inside = self.lock();
        (inside.server.stats(), inside.server.allocations())
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing that the lock guards is left half done by a panic.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Left<'a> {
    turn: &'a Turn,
    conn: ConnId,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.turn.lock().streams.remove(&self.conn);
        self.turn.with(|server, _| server.closed(self.conn));
    }
}

/// Passes the peers' datagrams to the server.
async fn relay(turn: Weak<Turn>, id: RelayId, socket: UdpSocket) {
    let mut buffer = vec![0; LARGEST];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((size, from)) => {
                let Some(turn) = turn.upgrade() else { return };
                turn.with(|server, now| server.relayed(now, id, from, &buffer[..size]));
            }
            // Of a peer that is not there, by ICMP; one that stays must not spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn write_all(mut stream: OwnedWriteHalf, mut waiting: mpsc::Receiver<Bytes>) {
    while let Some(data) = waiting.recv().await {
        if stream.write_all(&data).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}
