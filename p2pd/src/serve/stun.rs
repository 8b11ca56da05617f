//! The STUN server's sockets.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2pd_rendezvous::stun::{Server, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::door::Door;
use super::{ServeError, TRIES, listen};

/// TCP clients at a time, in all and of one address; a further one is closed. One that waited to be accepted
/// would wait as long as the others please.
const MAX_CLIENTS: usize = 512;
const MAX_CLIENTS_OF_ONE: usize = 32;

/// One port, open on every address for UDP and TCP.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) port: u16,
    sockets: Vec<(SocketAddr, UdpSocket, TcpListener)>,
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
            let udp = || -> std::io::Result<UdpSocket> {
                let socket = std::net::UdpSocket::bind(at)?;
                socket.set_nonblocking(true)?;
                UdpSocket::from_std(socket)
            };
            let failed = |why| ServeError::Bind("STUN over UDP", at, why);
            let udp = udp().map_err(failed)?;
            let at = udp.local_addr().map_err(failed)?;
            port = at.port();
            sockets.push((at, udp, listen("STUN over TCP", at)?));
        }
        Ok(Port { port, sockets })
    }
}

type Shared = Arc<Mutex<Server>>;

pub(super) fn start(tasks: &mut JoinSet<()>, began: Instant, server: Server, ports: Vec<Port>) {
    let server = Arc::new(Mutex::new(server));
    let clients = Door::new(MAX_CLIENTS, MAX_CLIENTS_OF_ONE);
    let mut udp = Vec::new();
    for (at, socket, listener) in ports.into_iter().flat_map(|p| p.sockets) {
        udp.push((at, socket));
        tasks.spawn(accept(began, server.clone(), at, listener, clients.clone()));
    }
    let udp: Arc<[(SocketAddr, UdpSocket)]> = udp.into();
    for n in 0..udp.len() {
        tasks.spawn(answer(began, server.clone(), udp.clone(), n));
    }
}

async fn answer(began: Instant, server: Shared, sockets: Arc<[(SocketAddr, UdpSocket)]>, n: usize) {
    let (local, socket) = &sockets[n];
    let mut buffer = [0; 2048];
    loop {
        let Ok((size, from)) = socket.recv_from(&mut buffer).await else {
            // One that stays must not spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let reply = lock(&server).datagram(began.elapsed(), *local, from, &buffer[..size]);
        if let Some(reply) = reply {
            let through = sockets.iter().find(|(at, _)| *at == reply.from);
            if let Some((_, socket)) = through {
                // What does not fit is dropped, as a network would.
                let _ = socket.try_send_to(&reply.data, reply.to);
            }
        }
    }
}

async fn accept(
    began: Instant,
    server: Shared,
    local: SocketAddr,
    listener: TcpListener,
    clients: Arc<Door>,
) {
    // Dropped with this task, and with it every client.
    let mut streams = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(place) = clients.enter(from) else { continue };
                let local = stream.local_addr().unwrap_or(local);
                let server = server.clone();
                streams.spawn(async move {
                    serve(began, server, local, from, stream).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while streams.try_join_next().is_some() {}
    }
}

async fn serve(began: Instant, server: Shared, local: SocketAddr, from: SocketAddr, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut state = Stream::new(began.elapsed(), local, from);
    let mut buffer = [0; 2048];
    loop {
        let left = state.deadline().saturating_sub(began.elapsed());
        let Ok(Ok(size @ 1..)) = tokio::time::timeout(left, stream.read(&mut buffer)).await else { return };
        let answers = state.receive(&mut lock(&server), began.elapsed(), &buffer[..size]);
        let left = state.deadline().saturating_sub(began.elapsed());
        for data in answers.data {
            let Ok(Ok(())) = tokio::time::timeout(left, stream.write_all(&data)).await else { return };
        }
        if answers.close {
            return;
        }
    }
}

/// Nothing that the lock guards is left half done by a panic.
fn lock(server: &Shared) -> std::sync::MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}
