//! Limits of a node's holdings, and their release: connects at once, silence, overflow, tasks and sockets.

mod common;

use std::time::{Duration, Instant};

use common::{LONG, config, moved, node, plan, until};
use p2pd_tokio::{ConnectError, Node, PipeMode, StunServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connects_at_once_give_two_hundred_pipes() {
    let (a, b) = (node().await, node().await);
    let to = b.address().await;
    let accepts = async {
        let mut pipes = Vec::new();
        while pipes.len() < 200 {
            pipes.push(b.accept().await.unwrap());
        }
        for pipe in &mut pipes {
            let mut n = [0; 1];
            pipe.read_exact(&mut n).await.unwrap();
            pipe.write_all(&n).await.unwrap();
            pipe.flush().await.unwrap();
        }
        pipes
    };
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..200_u8 {
        let (a, to) = (a.clone(), to.clone());
        calls.spawn(async move {
            let mut pipe = a.connect_with(&to, plan(PipeMode::Encrypted, LONG)).await.unwrap();
            pipe.write_all(&[n]).await.unwrap();
            pipe.flush().await.unwrap();
            let mut back = [0; 1];
            pipe.read_exact(&mut back).await.unwrap();
            assert_eq!(back, [n]);
        });
    }
    let both = async { tokio::join!(accepts, calls.join_all()) };
    let (pipes, done) = timeout(LONG, both).await.expect("stuck");
    assert_eq!((pipes.len(), done.len()), (200, 200));
}

#[tokio::test]
async fn a_silent_stranger_costs_no_more_than_the_plans_time() {
    let (a, b) = (node().await, node().await);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = moved(&b.address().await, silent.local_addr().unwrap().port());
    let began = Instant::now();
    let within = Duration::from_millis(700);
    let failed = a.connect_with(&to, plan(PipeMode::Encrypted, within)).await.unwrap_err();
    assert!(matches!(failed, ConnectError::Failed(..)), "{failed}");
    assert!(began.elapsed() >= within && began.elapsed() < LONG, "{:?}", began.elapsed());
    assert!(failed.to_string().contains("deadline"), "{failed}");
}

#[tokio::test]
async fn pipes_that_nobody_accepts_are_closed_beyond_the_queue() {
    let (a, b) = (node().await, node().await);
    let to = b.address().await;
    let mut held = Vec::new();
    for _ in 0..130 {
        held.push(a.connect_with(&to, plan(PipeMode::Encrypted, LONG)).await.unwrap());
    }
    // The first 128 wait; the newest two were closed.
    until("two are counted", || b.turned_away() == 2).await;
    for pipe in held.iter_mut().skip(128) {
        let closed = timeout(LONG, pipe.read(&mut [0; 1])).await.expect("still open");
        assert!(closed.is_err(), "{closed:?}");
    }
    for pipe in held.iter_mut().take(128) {
        pipe.shutdown().await.unwrap();
        let mut theirs = b.accept().await.unwrap();
        assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn whoever_calls_shutdown_waits_for_the_end() {
    for _ in 0..20 {
        let before = tasks();
        let a = node().await;
        let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = moved(&a.address().await, stranger.local_addr().unwrap().port());
        let _under_way = a.start_connect(&to, plan(PipeMode::Encrypted, LONG)).await.unwrap();
        let ends = async || {
            a.shutdown().await;
            tasks()
        };
        assert_eq!(tokio::join!(ends(), ends(), ends()), (before, before, before));
        a.shutdown().await;
    }
}

/// Sends a datagram in the same turn as its socket is bound. It must not be lost to the runtime, which does not know
/// yet that the socket can be written.
#[tokio::test]
async fn the_first_stun_request_leaves_at_once() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = config();
    config.stun = vec![StunServer { host: "127.0.0.1".into(), port: server.local_addr().unwrap().port() }];
    let began = Instant::now();
    let _node = Node::bind(config).await.unwrap();
    let mut buffer = [0; 1500];
    let (n, _) = timeout(LONG, server.recv_from(&mut buffer)).await.unwrap().unwrap();
    let after = began.elapsed();
    assert_eq!(&buffer[..2], [0, 1], "a Binding request of {n} bytes");
    assert!(after < Duration::from_millis(150), "only its repetition came, after {after:?}");
}
