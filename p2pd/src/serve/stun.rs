//! The STUN server's sockets, which the TURN server shares: a message that is no Binding request is for the TURN
//! server.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use p2pd_rendezvous::Shares;
use p2pd_rendezvous::stun::{Server, Stats, Stream};
use p2pd_rendezvous::turn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::door::{Door, Place};
use super::turn::Turn;
use super::udp::{BATCH, Socket};
use super::{ServeError, TRIES, listen};

/// TCP clients at a time, in all and of one address. One that waited to be accepted would wait as long as the others
/// please.
const CLIENTS: Shares = Shares { all: 512, one: 32 };

/// A port, open on every address for UDP and TCP.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) port: u16,
    sockets: Vec<(Socket, TcpListener)>,
}

impl Port {
    /// Opens a port; with 0 one that is free everywhere.
    pub(super) fn open(ips: &[IpAddr], port: u16) -> Result<Self, ServeError> {
        let tries = if port == 0 { TRIES } else { 1 };
        let mut last = Err(ServeError::Addresses);
        for _ in 0..tries {
            last = Self::try_open(ips, port);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn try_open(ips: &[IpAddr], mut port: u16) -> Result<Self, ServeError> {
        let mut sockets = Vec::new();
        for ip in ips {
            let at = SocketAddr::new(*ip, port);
            let udp = Socket::bind(at).map_err(|why| ServeError::Bind("STUN over UDP", at, why))?;
            let at = udp.local();
            port = at.port();
            sockets.push((udp, listen("STUN over TCP", at)?));
        }
        Ok(Port { port, sockets })
    }
}

/// State that a task needs to serve a socket.
#[derive(Clone)]
struct Shared {
    began: Instant,
    server: Arc<Mutex<Server>>,
    turn: Option<Arc<Turn>>,
}

/// The servers as their counters are read. The TURN server ends without regard to who reads them.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    server: Arc<Mutex<Server>>,
    turn: Weak<Turn>,
}

impl Counted {
    /// Returns the counters of both servers, and the number of allocations.
    pub(super) fn stats(&self) -> (Stats, Option<(turn::Stats, usize)>) {
        (lock(&self.server).stats(), self.turn.upgrade().map(|turn| turn.stats()))
    }
}

/// The servers on these ports; of TURN, the one that is made for the UDP sockets.
pub(super) fn start(
    tasks: &mut JoinSet<()>,
    began: Instant,
    server: Server,
    ports: Vec<Port>,
    turn: impl FnOnce(Arc<[Socket]>) -> Option<Arc<Turn>>,
) -> Counted {
    let clients = Door::new(CLIENTS);
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for (socket, listener) in ports.into_iter().flat_map(|p| p.sockets) {
        tcp.push((socket.local(), listener));
        udp.push(socket);
    }
    let udp: Arc<[Socket]> = udp.into();
    let turn = turn(udp.clone());
    if let Some(turn) = &turn {
        tasks.spawn(turn.clone().tick());
    }
    let shared = Shared { began, server: Arc::new(Mutex::new(server)), turn };
    for (at, listener) in tcp {
        tasks.spawn(accept(shared.clone(), at, listener, clients.clone()));
    }
    for n in 0..udp.len() {
        tasks.spawn(answer(shared.clone(), udp.clone(), n));
    }
    Counted { server: shared.server, turn: shared.turn.as_ref().map(Arc::downgrade).unwrap_or_default() }
}

/// Returns true if the data begin like a Binding request or indication, for the STUN server.
fn is_binding(data: &[u8]) -> bool {
    matches!(data, [0x00, 0x01 | 0x11, ..])
}

async fn answer(shared: Shared, sockets: Arc<[Socket]>, n: usize) {
    let mut buffer = vec![0; BATCH];
    loop {
        let Ok(received) = sockets[n].receive(&mut buffer).await else {
            // One that stays must not spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (local, from) = (received.local, received.from);
        for data in received.datagrams(&buffer) {
            if let Some(turn) = shared.turn.as_ref().filter(|_| !is_binding(data)) {
                turn.datagram(local, from, data);
                continue;
            }
            let reply = lock(&shared.server).datagram(shared.began.elapsed(), local, from, data);
            if let Some(reply) = reply
                && let Some(socket) = sockets.iter().find(|socket| socket.has(reply.from))
            {
                socket.send(reply.from, reply.to, &reply.data);
            }
        }
    }
}

async fn accept(shared: Shared, local: SocketAddr, listener: TcpListener, clients: Arc<Door>) {
    // Dropped with this task, and with it every client.
    let mut streams = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(place) = clients.enter(from) else { continue };
                let local = stream.local_addr().unwrap_or(local);
                let shared = shared.clone();
                streams.spawn(async move {
                    tokio::select! {
                        () = serve(shared, local, from, stream, &place) => {}
                        () = place.evicted() => {}
                    }
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while streams.try_join_next().is_some() {}
    }
}

async fn serve(shared: Shared, local: SocketAddr, from: SocketAddr, mut stream: TcpStream, place: &Place) {
    let Shared { began, server, turn } = shared;
    p2pd_sys::accepted_node(&stream);
    let mut state = Stream::new(began.elapsed(), local, from);
    let mut buffer = [0; 2048];
    // Two bytes tell for which of the servers it is.
    let mut held = 0;
    while held < 2 {
        let left = state.deadline().saturating_sub(began.elapsed());
        let read = tokio::time::timeout(left, stream.read(&mut buffer[held..])).await;
        let Ok(Ok(size @ 1..)) = read else { return };
        held += size;
    }
    if let Some(turn) = turn.filter(|_| !is_binding(&buffer)) {
        return turn.stream(local, from, stream, &buffer[..held], place).await;
    }
    loop {
        let size = match std::mem::take(&mut held) {
            0 => {
                let left = state.deadline().saturating_sub(began.elapsed());
                let read = tokio::time::timeout(left, stream.read(&mut buffer)).await;
                let Ok(Ok(size @ 1..)) = read else { return };
                size
            }
            size => size,
        };
        let answers = state.receive(&mut lock(&server), began.elapsed(), &buffer[..size]);
        if !answers.data.is_empty() {
            place.heard();
        }
        let left = state.deadline().saturating_sub(began.elapsed());
        for data in answers.data {
            let Ok(Ok(())) = tokio::time::timeout(left, stream.write_all(&data)).await else { return };
        }
        if answers.close {
            return;
        }
    }
}

/// Locks the server, also after a panic: a panic leaves nothing half done under this lock.
fn lock(server: &Mutex<Server>) -> std::sync::MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}
