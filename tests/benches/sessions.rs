//! Measures a session over TCP beside an encrypted pipe, on tokio over loopback: one way over one stream and over 100,
//! the time to open a stream, and the memory of idle sessions and streams.
//!
//! Run `cargo bench -p p2pd-tests --bench sessions`.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use p2pd_core::{Accept, Config, PipeMode, Plan, SecretKey};
use p2pd_tests::drivers::runtime;
use p2pd_tokio::{Node, Session, SessionConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const BYTES: usize = 256 << 20;
const CHUNK: usize = 64 << 10;
const ROUNDS: usize = 9;
const STREAMS: usize = 100;

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.max_pipes = Some(8 * 1_000);
    config.sessions(true)
}

fn rate(began: Instant) -> f64 {
    BYTES as f64 / 1e6 / began.elapsed().as_secs_f64()
}

async fn write(mut near: impl AsyncWrite + Unpin, bytes: usize) {
    let data = vec![7; CHUNK];
    for _ in 0..bytes / CHUNK {
        near.write_all(&data).await.unwrap();
    }
    near.shutdown().await.unwrap();
}

async fn read(mut far: impl AsyncRead + Unpin) -> usize {
    let (mut all, mut buffer) = (0, vec![0; CHUNK]);
    loop {
        match far.read(&mut buffer).await.unwrap() {
            0 => return all,
            n => all += n,
        }
    }
}

async fn pipe([a, b]: &[Node; 2]) -> f64 {
    let to = b.address().await;
    let plan = Plan::new().mode(PipeMode::Encrypted);
    let (near, far) = tokio::join!(a.connect_with(&to, plan), b.accept());
    let (near, far) = (near.unwrap(), far.unwrap());
    let began = Instant::now();
    let writer = tokio::spawn(write(near, BYTES));
    let reader = tokio::spawn(read(far));
    assert_eq!(reader.await.unwrap(), BYTES);
    writer.await.unwrap();
    rate(began)
}

async fn session(a: &Node, b: &Node) -> (Session, Session) {
    let to = b.address().await;
    let (near, far) = tokio::join!(a.connect_session(&to), b.accept_session());
    (near.unwrap(), far.unwrap())
}

/// Sends all bytes over so many streams at once.
async fn streams([a, b]: &[Node; 2], count: usize) -> f64 {
    let (near, far) = session(a, b).await;
    let each = BYTES / count / CHUNK * CHUNK;
    let began = Instant::now();
    let readers = tokio::spawn(async move {
        let mut readers = Vec::new();
        for _ in 0..count {
            readers.push(tokio::spawn(read(far.accept_uni().await.unwrap())));
        }
        for reader in readers {
            assert_eq!(reader.await.unwrap(), each);
        }
        far
    });
    for _ in 0..count {
        tokio::spawn(write(near.open_uni(b"").await.unwrap(), each));
    }
    readers.await.unwrap();
    rate(began) * (each * count) as f64 / BYTES as f64
}

/// Median time of opening a stream with a byte and its answer.
async fn open([a, b]: &[Node; 2]) -> Duration {
    let (near, far) = session(a, b).await;
    tokio::spawn(async move {
        while let Ok((mut send, mut recv)) = far.accept_bi().await {
            send.write_all(&[recv.read_u8().await.unwrap()]).await.unwrap();
        }
    });
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let began = Instant::now();
        let (mut send, mut recv) = near.open_bi(b"").await.unwrap();
        send.write_all(b"x").await.unwrap();
        recv.read_u8().await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Bytes an end of an idle session, and of an idle stream that has carried a byte.
async fn memory() -> (usize, usize) {
    // One named peer has 64 sessions.
    const CALLERS: usize = 16;
    const OF_EACH: usize = 60;
    const IDLE: usize = 10_000;
    let settings = SessionConfig { streams: IDLE as u32, ..SessionConfig::default() };
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(Node::builder(config()).session(settings).bind().await.unwrap());
    }
    let mut named = config();
    named.accept = Accept::Only(callers.iter().map(Node::node_id).collect());
    let b = Node::builder(named).session(settings).bind().await.unwrap();
    // The first of each costs what a node needs once.
    let mut all = Vec::new();
    for a in &callers {
        all.push(session(a, &b).await);
    }
    let before = resident();
    for _ in 1..OF_EACH {
        for a in &callers {
            all.push(session(a, &b).await);
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let of_session = resident().saturating_sub(before) / (2 * CALLERS * (OF_EACH - 1));
    let (near, far) = &all[0];
    let before = resident();
    let mut open = Vec::new();
    for _ in 0..IDLE {
        let (mut send, recv) = near.open_bi(b"").await.unwrap();
        send.write_all(b"x").await.unwrap();
        let (back, mut got) = far.accept_bi().await.unwrap();
        got.read_u8().await.unwrap();
        open.push((send, recv, back, got));
    }
    (of_session, resident().saturating_sub(before) / (2 * IDLE))
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn main() {
    runtime().block_on(async {
        let (of_session, of_stream) = memory().await;
        println!("memory an end: idle session {of_session} bytes, idle stream {of_stream} bytes");
        let nodes = [Node::bind(config()).await.unwrap(), Node::bind(config()).await.unwrap()];
        println!("open a stream, a byte and its answer: {:?}", open(&nodes).await);
        let (mut pipes, mut one, mut many) = (Vec::new(), Vec::new(), Vec::new());
        // In turn, so that what the machine does beside concerns all of them.
        for _ in 0..ROUNDS {
            pipes.push(pipe(&nodes).await);
            one.push(streams(&nodes, 1).await);
            many.push(streams(&nodes, STREAMS).await);
        }
        let ratio = |rates: &[f64]| median(rates.iter().zip(&pipes).map(|(a, b)| a / b).collect());
        let (one_to, many_to) = (ratio(&one), ratio(&many));
        println!("encrypted pipe:                     {:6.0} MB/s", median(pipes.clone()));
        println!("session over TCP, 1 stream:         {:6.0} MB/s, {one_to:.2} of the pipe", median(one));
        println!(
            "session over TCP, {STREAMS} streams:       {:6.0} MB/s, {many_to:.2} of the pipe",
            median(many)
        );
    });
}
