//! Measures the cost of a pipe against the bare socket of the same runtime, on loopback, and the memory of idle pipes
//! on tokio.
//!
//! A plain pipe is that socket, so the two are compared by one thread that does both ends. With a thread for each, bare
//! sockets alone differ threefold from one run to the next, by where the system puts the threads (measured). An
//! encrypted pipe has a thread for each end. On tokio it is compared with tokio-rustls under the same cipher and with
//! bare TCP, and over UDP with a stream of quinn, in turn, where each end has a runtime on a thread of its own.
//!
//! Run `cargo bench -p p2pd-tests --bench pipes`, for a part alone with `-- throughput`, `-- peers`, `-- udp` or
//! `-- memory` behind it.

mod apart;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use mio::event::Source;
use mio::{Events, Interest, Poll, Token};
use p2pd_core::{Accept, Config, PeerAddress, PipeMode, Plan, SecretKey};
use p2pd_tests::drivers::runtime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const BYTES: usize = 256 << 20;
const CHUNK: usize = 64 << 10;
const ROUNDS: usize = 61;
const LONG: Duration = Duration::from_secs(60);

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.allow_plain = true;
    // One stranger's key has an eighth.
    config.max_pipes = Some(8 * 10_000);
    config
}

fn plan(mode: PipeMode) -> Plan {
    Plan::new().mode(mode).timeout(LONG)
}

fn raw() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    for stream in [&near, &far] {
        stream.set_nonblocking(true).unwrap();
        // As pipes have it.
        stream.set_nodelay(true).unwrap();
    }
    (near, far)
}

/// Megabytes a second.
fn rate(began: Instant) -> f64 {
    BYTES as f64 / 1e6 / began.elapsed().as_secs_f64()
}

/// Sends all bytes; both kinds of streams have these methods.
macro_rules! write_all {
    ($near:expr) => {{
        let data = vec![7; CHUNK];
        for _ in 0..BYTES / CHUNK {
            $near.write_all(&data).await.unwrap();
        }
        $near.flush().await.unwrap();
    }};
}

macro_rules! read_all {
    ($far:expr) => {{
        let (mut left, mut buffer) = (BYTES, vec![0; CHUNK]);
        while left > 0 {
            left -= $far.read(&mut buffer).await.unwrap();
        }
    }};
}

use {read_all, write_all};

/// Writes and reads in turn by one thread: the time of the calls themselves.
async fn alone_tokio<S>((mut near, mut far): (S, S)) -> f64
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let began = Instant::now();
    futures_lite::future::zip(async { write_all!(near) }, async { read_all!(far) }).await;
    rate(began)
}

/// Writes and reads in turn by one thread, on async-std.
async fn alone_async_std<S>((mut near, mut far): (S, S)) -> f64
where
    S: futures_io::AsyncRead + futures_io::AsyncWrite + Unpin,
{
    let began = Instant::now();
    futures_lite::future::zip(async { write_all!(near) }, async { read_all!(far) }).await;
    rate(began)
}

/// The same of sockets that only a loop of their own could wait for: there is nothing to wait for.
fn alone_mio<S: Read + Write>((mut near, mut far): (S, S)) -> f64 {
    let began = Instant::now();
    let (data, mut buffer) = (vec![7; CHUNK], vec![0; CHUNK]);
    let (mut sent, mut got) = (0, 0);
    let or_later = |moved: io::Result<usize>| match moved {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
        moved => moved.unwrap(),
    };
    while got < BYTES {
        sent += or_later(near.write(&data[..CHUNK.min(BYTES - sent)]));
        got += or_later(far.read(&mut buffer));
    }
    rate(began)
}

/// A task for each end.
async fn over_tokio<S>((mut near, mut far): (S, S)) -> f64
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    let writer = tokio::spawn(async move {
        write_all!(near);
        near
    });
    read_all!(far);
    writer.await.unwrap();
    rate(began)
}

/// Writes and reads by two tasks, on async-std.
async fn over_async_std<S>((mut near, mut far): (S, S)) -> f64
where
    S: futures_io::AsyncRead + futures_io::AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    let writer = async_std::task::spawn(async move {
        write_all!(near);
        near
    });
    let reader = async_std::task::spawn(async move { read_all!(far) });
    reader.await;
    drop(writer.await);
    rate(began)
}

/// Does `work` again whenever its source is ready, until it says that all is done.
fn in_loop<S: Source>(mut source: S, mut work: impl FnMut(&mut S) -> io::Result<()>) -> S {
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(4));
    poll.registry().register(&mut source, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    while let Err(e) = work(&mut source) {
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock, "{e}");
        poll.poll(&mut events, None).unwrap();
    }
    source
}

fn over_mio<S: Source + Read + Write + Send + 'static>((near, far): (S, S)) -> f64 {
    let began = Instant::now();
    let writer = thread::spawn(move || {
        let (data, mut sent) = (vec![7; CHUNK], 0);
        in_loop(near, |near| {
            while sent < BYTES {
                sent += near.write(&data[sent % CHUNK..])?;
            }
            near.flush()
        })
    });
    let (mut left, mut buffer) = (BYTES, vec![0; CHUNK]);
    in_loop(far, |far| {
        while left > 0 {
            left -= far.read(&mut buffer)?;
        }
        Ok(())
    });
    writer.join().unwrap();
    rate(began)
}

fn mio_pair(mode: PipeMode) -> (p2pd_mio::Pipe, p2pd_mio::Pipe) {
    use p2pd_mio::{News, Node};
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(64));
    let mut nodes = [0..100, 100..200].map(|tokens| Node::bind(config(), poll.registry(), tokens).unwrap());
    let to = nodes[1].current_address().unwrap().clone();
    nodes[0].connect(&to, plan(mode)).unwrap();
    let (mut near, mut far) = (None, None);
    while near.is_none() || far.is_none() {
        poll.poll(&mut events, nodes.iter().filter_map(|n| n.timeout()).min()).unwrap();
        for event in &events {
            nodes.iter_mut().any(|node| node.handle(event));
        }
        for node in &mut nodes {
            node.tick();
            while let Some(news) = node.poll() {
                match news {
                    News::Opened(_, pipe) => near = Some(pipe),
                    News::Incoming(pipe) => far = Some(pipe),
                    _ => {}
                }
            }
        }
    }
    (near.unwrap(), far.unwrap())
}

async fn tokio_pair(mode: PipeMode) -> (p2pd_tokio::Pipe, p2pd_tokio::Pipe) {
    let [a, b] = [config(), config()].map(p2pd_tokio::Node::bind);
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    let to = b.address().await;
    let (near, far) = tokio::join!(a.connect_with(&to, plan(mode)), b.accept());
    // The end of a node is work too, and none of the pipe's.
    tokio::join!(a.shutdown(), b.shutdown());
    (near.unwrap(), far.unwrap())
}

async fn async_std_pair(mode: PipeMode) -> (p2pd_async_std::Pipe, p2pd_async_std::Pipe) {
    let [a, b] = [config(), config()].map(p2pd_async_std::Node::bind);
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    let to = b.address().await;
    let near = a.connect_with(&to, plan(mode)).await.unwrap();
    let far = b.accept().await.unwrap();
    // As above.
    a.shutdown().await;
    b.shutdown().await;
    (near, far)
}

/// A pipe's rate, or without a mode a bare socket's, both ends by one thread.
fn alone(runtime_name: &str, mode: Option<PipeMode>) -> f64 {
    match (runtime_name, mode) {
        ("mio", None) => {
            let (near, far) = raw();
            let wrap = mio::net::TcpStream::from_std;
            alone_mio((wrap(near), wrap(far)))
        }
        ("mio", Some(mode)) => alone_mio(mio_pair(mode)),
        ("tokio", None) => runtime().block_on(async {
            let (near, far) = raw();
            let wrap = |s| tokio::net::TcpStream::from_std(s).unwrap();
            alone_tokio((wrap(near), wrap(far))).await
        }),
        ("tokio", Some(mode)) => runtime().block_on(async { alone_tokio(tokio_pair(mode).await).await }),
        (_, None) => async_std::task::block_on(async {
            let (near, far) = raw();
            let wrap = async_std::net::TcpStream::from;
            alone_async_std((wrap(near), wrap(far))).await
        }),
        (_, Some(mode)) => {
            async_std::task::block_on(async { alone_async_std(async_std_pair(mode).await).await })
        }
    }
}

/// An encrypted pipe's rate with a thread for each end.
fn sealed(runtime_name: &str) -> f64 {
    let mode = PipeMode::Encrypted;
    match runtime_name {
        "mio" => over_mio(mio_pair(mode)),
        "tokio" => runtime().block_on(async { over_tokio(tokio_pair(mode).await).await }),
        _ => async_std::task::block_on(async { over_async_std(async_std_pair(mode).await).await }),
    }
}

fn throughput() {
    println!("{} MiB one way over loopback, {ROUNDS} rounds in turn, MB/s", BYTES >> 20);
    println!("           one thread, median                 two threads, best");
    println!("runtime    raw socket   plain pipe   ratio    encrypted");
    for name in ["mio", "tokio", "async-std"] {
        let [mut bare, mut plain, mut ratios] = [const { Vec::new() }; 3];
        let mut best = 0.0_f64;
        for round in 0..ROUNDS {
            let of_pipe = || alone(name, Some(PipeMode::Plain));
            // Each goes first as often.
            let (a, b) = if round % 2 == 0 {
                (alone(name, None), of_pipe())
            } else {
                let b = of_pipe();
                (alone(name, None), b)
            };
            bare.push(a);
            plain.push(b);
            ratios.push(b / a);
            if round % 4 == 0 {
                best = best.max(sealed(name));
            }
        }
        println!(
            "{name:<10} {:>10.0} {:>12.0} {:>7.3} {best:>12.0}",
            median(bare),
            median(plain),
            median(ratios)
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Measures the memory of idle pipes. Both ends are in this process, so a pipe's memory is half of a pair's.
fn memory() {
    let limit = p2pd_sys::raise_descriptor_limit().unwrap_or(1024) as usize;
    let pairs = 10_000.min((limit - 200) / 2);
    runtime().block_on(async {
        for mode in [PipeMode::Encrypted, PipeMode::Plain] {
            let near = config();
            // Strangers open fewer a second.
            let named = Accept::Only([near.identity.node_id()].into());
            let mut far = config();
            far.accept = named;
            let a = p2pd_tokio::Node::bind(near).await.unwrap();
            let b = p2pd_tokio::Node::bind(far).await.unwrap();
            let to: PeerAddress = b.address().await;
            let mut held = Vec::with_capacity(pairs);
            let before = resident();
            for _ in 0..pairs {
                let (near, far) = tokio::join!(a.connect_with(&to, plan(mode)), b.accept());
                held.push((near.unwrap(), far.unwrap()));
            }
            let each = (resident() - before) / (2 * pairs);
            println!("memory, tokio, {mode}: {} idle pipes, {each} bytes each", 2 * pairs);
            // Each end has used it, and waits to read.
            for (near, far) in &mut held {
                near.write_all(b"word").await.unwrap();
                near.flush().await.unwrap();
                far.read_exact(&mut [0; 4]).await.unwrap();
                far.write_all(b"word").await.unwrap();
                far.flush().await.unwrap();
                near.read_exact(&mut [0; 4]).await.unwrap();
                for end in [near, far] {
                    assert!(futures_lite::future::poll_once(end.read(&mut [0; 1])).await.is_none());
                }
            }
            let each = (resident() - before) / (2 * pairs);
            println!("memory, tokio, {mode}: {} used pipes, {each} bytes each", 2 * pairs);
        }
    });
}

fn main() {
    let parts: [(&str, fn()); 4] =
        [("throughput", throughput), ("peers", apart::peers), ("udp", apart::udp), ("memory", memory)];
    let one = std::env::args().find(|arg| parts.iter().any(|(name, _)| name == arg));
    for (name, part) in parts {
        if one.as_deref().is_none_or(|one| one == name) {
            part();
        }
    }
}
