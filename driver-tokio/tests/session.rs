//! Sessions on tokio, over loopback.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{config, moved, until};
use p2pd_tokio::{Node, Plan, Session, SessionConfig, SessionEnd, SessionError, Strategy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

async fn pair() -> ([Node; 2], [Session; 2]) {
    let (a, b) = (Node::bind(config()).await.unwrap(), Node::bind(config().sessions(true)).await.unwrap());
    let to = b.address().await;
    let (ours, theirs) = tokio::join!(a.connect_session(&to), b.accept_session());
    ([a, b], [ours.unwrap(), theirs.unwrap()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_datagrams_go_both_ways() {
    let (_nodes, [ours, theirs]) = pair().await;
    let (mut send, mut recv) = ours.open_bi(b"echo/1").await.unwrap();
    send.write_all(b"question").await.unwrap();
    send.shutdown().await.unwrap();
    let (mut back, mut got) = theirs.accept_bi().await.unwrap();
    assert_eq!((got.tag(), got.id()), (&b"echo/1"[..], send.id()));
    let mut text = String::new();
    got.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    back.write_all(b"answer").await.unwrap();
    drop(back);
    text.clear();
    recv.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    theirs.send_datagram(Bytes::from_static(b"by the way")).unwrap();
    assert_eq!(ours.read_datagram().await.unwrap(), "by the way");
    ours.delivered().await.unwrap();
    ours.close(7, b"done");
    assert_eq!(theirs.closed().await, SessionEnd::ClosedByPeer(7, Bytes::from_static(b"done")));
    assert_eq!(ours.accept_uni().await.unwrap_err(), SessionError::Ended(SessionEnd::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_nobody_serves_is_refused_and_a_dropped_one_is_closed() {
    let (a, b) = (Node::bind(config()).await.unwrap(), Node::bind(config()).await.unwrap());
    let refused = a.connect_session(&b.address().await).await.unwrap_err();
    assert!(refused.to_string().contains("its program serves no sessions"), "{refused}");
    let (_nodes, [ours, theirs]) = pair().await;
    let mut news = ours.open_uni(b"").await.unwrap();
    drop(ours);
    news.write_all(&[7; 200_000]).await.unwrap();
    drop(news);
    let mut all = Vec::new();
    theirs.accept_uni().await.unwrap().read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [7; 200_000]);
    assert_eq!(theirs.closed().await, SessionEnd::ClosedByPeer(0, Bytes::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_has_eight_sessions_and_strangers_three_quarters_of_those_that_wait() {
    let b = Node::bind(config().sessions(true)).await.unwrap();
    let to = b.address().await;
    let open = async |node: &Node| {
        let session = node.connect_session(&to).await.unwrap();
        // One that is refused may have ended before.
        let _ = session.open_uni(b"").await?.write_all(b"x").await;
        session.delivered().await.map(|()| session)
    };
    let unknown = Some(SessionError::Ended(SessionEnd::Unknown));
    let (mut nodes, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..13 {
        nodes.push(Node::bind(config()).await.unwrap());
    }
    for node in &nodes[..12] {
        for _ in 0..8 {
            sessions.push(open(node).await.unwrap());
        }
    }
    assert_eq!(open(&nodes[12]).await.err(), unknown);
    // There is room for one more, but not for one of who has eight.
    let taken = b.accept_session().await.unwrap();
    assert_eq!(open(&nodes[0]).await.err(), unknown);
    assert_eq!(b.turned_away(), 2);
    sessions.push(open(&nodes[12]).await.unwrap());
    assert_eq!((taken.peer(), sessions.len()), (nodes[0].node_id(), 97));
}

/// A port whose streams lead to `to` until they are cut.
struct Between {
    port: u16,
    streams: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Between {
    async fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let all = streams.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let task = tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                all.lock().unwrap().push(task);
            }
        });
        Between { port, streams }
    }

    /// Cuts what there is off, with what is under way.
    fn cut(&self) {
        self.streams.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_when_its_connection_is_cut() {
    const PIECES: u32 = 4_000;
    let (a, b) = (Node::bind(config()).await.unwrap(), Node::bind(config().sessions(true)).await.unwrap());
    let to = b.address().await;
    let between = Between::new(SocketAddr::from(([127, 0, 0, 1], to.v4()[0].port))).await;
    let plan = Plan::new().strategies([Strategy::Direct]);
    let to = moved(&to, between.port);
    let (ours, theirs) = tokio::join!(a.connect_session_with(&to, plan), b.accept_session());
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    let (mut send, _back) = ours.open_bi(b"").await.unwrap();
    let sent = Arc::new(AtomicU32::new(0));
    let count = sent.clone();
    let writer = tokio::spawn(async move {
        for n in 0..PIECES {
            send.write_all(&n.to_be_bytes().repeat(2_000)).await.unwrap();
            count.store(n, Ordering::Relaxed);
        }
    });
    let reader = tokio::spawn(async move {
        let (_back, mut recv) = theirs.accept_bi().await.unwrap();
        let mut piece = vec![0; 8_000];
        for n in 0..PIECES {
            recv.read_exact(&mut piece).await.unwrap();
            assert_eq!(piece, n.to_be_bytes().repeat(2_000));
        }
        assert_eq!(recv.read(&mut piece).await.unwrap(), 0);
        theirs
    });
    for cut in 1..=5 {
        until("more was sent", || sent.load(Ordering::Relaxed) >= cut * PIECES / 6).await;
        between.cut();
        until("it has moved", || ours.moves() >= u64::from(cut)).await;
    }
    writer.await.unwrap();
    let theirs = reader.await.unwrap();
    // A carrier that was cut at once may be none that the listener heard of.
    assert!(ours.moves() >= 5 && theirs.moves() >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_a_connection_is_given_up() {
    let settings = SessionConfig { linger: Duration::from_millis(500), ..SessionConfig::default() };
    let a = Node::builder(config()).session(settings).bind().await.unwrap();
    let b = Node::builder(config().sessions(true)).session(settings).bind().await.unwrap();
    let to = b.address().await;
    let between = Between::new(SocketAddr::from(([127, 0, 0, 1], to.v4()[0].port))).await;
    let plan = Plan::new().strategies([Strategy::Direct]);
    let to = moved(&to, between.port);
    let (ours, theirs) = tokio::join!(a.connect_session_with(&to, plan), b.accept_session());
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    // Sessions live on without their node, as pipes do.
    b.shutdown().await;
    let mut send = ours.open_uni(b"").await.unwrap();
    send.write_all(b"still").await.unwrap();
    send.shutdown().await.unwrap();
    let mut text = String::new();
    theirs.accept_uni().await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "still");
    between.cut();
    until("it is lost", || ours.carrier().is_none()).await;
    assert_eq!((ours.closed().await, theirs.closed().await), (SessionEnd::NoCarrier, SessionEnd::NoCarrier));
    assert_eq!(send.write(b"x").await.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
}
