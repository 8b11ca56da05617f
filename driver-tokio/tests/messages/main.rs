//! Pipes of messages, over loopback.

mod daemons;
mod links;
mod pipes;
mod stun;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use p2pd_tokio::messages::{
    Daemon, MessagePipe, Pattern, PipeOptions, Protocol, RecvError, Route, SubscriptionId,
};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// Time in which an event that should not happen would happen.
const WHILE: Duration = Duration::from_millis(300);

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn route() -> Route {
    loopback().into()
}

fn everything(pipe: &MessagePipe) -> SubscriptionId {
    pipe.subscribe(Pattern::ANY, Pattern::ANY).unwrap()
}

/// Connects a TCP pair and returns both ends.
async fn pair(ours: &PipeOptions, theirs: &PipeOptions) -> (MessagePipe, MessagePipe) {
    let mut daemon = Daemon::listen_specific(&[(loopback(), Protocol::Tcp)], theirs).unwrap();
    let to = daemon.bound()[0].0;
    let (ours, theirs) = tokio::join!(MessagePipe::open(Protocol::Tcp, to, Route::V4, ours), daemon.accept());
    (ours.unwrap(), theirs.unwrap())
}

async fn tcp() -> (MessagePipe, MessagePipe) {
    pair(&PipeOptions::default(), &PipeOptions::default()).await
}

/// A UDP server and a client of it.
async fn udp(options: &PipeOptions) -> (MessagePipe, MessagePipe) {
    let server = MessagePipe::bind(route(), options).unwrap();
    let to = server.local_addr();
    (server, MessagePipe::open(Protocol::Udp, to, route(), options).await.unwrap())
}

/// Receives the bytes of a stream until `len` are there.
async fn bytes(pipe: &MessagePipe, from: SubscriptionId, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        all.extend_from_slice(&pipe.recv(from, LONG).await.unwrap());
    }
    all
}

/// Receives the bytes until the end, and returns them with the end.
async fn rest(pipe: &MessagePipe, from: SubscriptionId) -> (Vec<u8>, RecvError) {
    let mut all = Vec::new();
    loop {
        match pipe.recv(from, LONG).await {
            Ok(data) => all.extend_from_slice(&data),
            Err(why) => return (all, why),
        }
    }
}

/// Waits until it is so.
async fn until(so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("it never came to that");
}

/// Bytes without a short period, so that none lost, doubled or swapped goes unnoticed.
fn patterned(len: usize) -> Bytes {
    let mut data = Vec::with_capacity(len + 4);
    let mut state = 1_u32;
    while data.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        data.extend_from_slice(&(state >> 3).to_le_bytes());
    }
    data.truncate(len);
    data.into()
}

/// Returns the first of so many ports in a row that are free for TCP and UDP, below those that the system gives to
/// others. No two tests get the same.
fn free_ports(many: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 18_000 + (std::process::id() % 100) as u16 * 100;
    loop {
        let first = base + NEXT.fetch_add(many, Ordering::Relaxed);
        if (first..first + many).all(is_free) {
            return first;
        }
    }
}

fn is_free(port: u16) -> bool {
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    std::net::TcpListener::bind(at).is_ok() && std::net::UdpSocket::bind(at).is_ok()
}
