//! Two nodes on loopback, without servers: direct connects over real sockets.

use std::time::Duration;

use p2pd_core::IoFailure;
use p2pd_tokio::{BindError, Config, ConnectError, Node, PipeMode, Plan, SecretKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const MIB: usize = 1024 * 1024;

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some("127.0.0.1".parse().unwrap());
    config.allow_plain = true;
    config
}

fn plan(mode: PipeMode) -> Plan {
    Plan::new().mode(mode).timeout(Duration::from_secs(20))
}

async fn pair(mode: PipeMode) -> (Node, Node, p2pd_tokio::Pipe, p2pd_tokio::Pipe) {
    let (a, b) = (Node::bind(config()).await.unwrap(), Node::bind(config()).await.unwrap());
    let to = b.address().await;
    let (ours, theirs) = tokio::join!(a.connect_with(&to, plan(mode)), b.accept());
    (a, b, ours.unwrap(), theirs.unwrap())
}

/// Byte `n` of the test stream.
fn pattern(n: usize) -> u8 {
    (n.wrapping_mul(2_654_435_761) >> 13) as u8
}

async fn send(pipe: &mut (impl AsyncWriteExt + Unpin), len: usize) {
    let mut sent = 0;
    while sent < len {
        let chunk: Vec<u8> = (sent..len.min(sent + 65_536)).map(pattern).collect();
        pipe.write_all(&chunk).await.unwrap();
        sent += chunk.len();
    }
    pipe.shutdown().await.unwrap();
}

async fn receive(pipe: &mut (impl AsyncReadExt + Unpin)) -> usize {
    let (mut got, mut buffer) = (0, vec![0; 65_536]);
    loop {
        let n = pipe.read(&mut buffer).await.unwrap();
        if n == 0 {
            return got;
        }
        for (k, byte) in buffer[..n].iter().enumerate() {
            assert_eq!(*byte, pattern(got + k), "byte {}", got + k);
        }
        got += n;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mebibytes_each_way_arrive_byte_exact() {
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        let (_a, _b, ours, theirs) = pair(mode).await;
        assert_eq!((ours.mode(), theirs.mode()), (mode, mode));
        let there = async |pipe| {
            let (mut read, mut write) = tokio::io::split(pipe);
            tokio::join!(send(&mut write, 100 * MIB), receive(&mut read)).1
        };
        assert_eq!(tokio::join!(there(ours), there(theirs)), (100 * MIB, 100 * MIB), "{mode}");
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself_and_a_cut_is_not_an_end() {
    let (_a, _b, mut ours, mut theirs) = pair(PipeMode::Encrypted).await;
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.flush().await.unwrap();
    drop(theirs);
    let mut answer = Vec::new();
    let cut = ours.read_to_end(&mut answer).await;
    assert_eq!(
        (answer.as_slice(), cut.unwrap_err().kind()),
        (&b"answer"[..], std::io::ErrorKind::UnexpectedEof)
    );
}

#[tokio::test]
async fn a_plain_pipe_is_the_raw_socket() {
    let (_a, _b, ours, theirs) = pair(PipeMode::Plain).await;
    let (local, remote) = (ours.local_addr(), ours.remote_addr());
    let mut raw = ours.into_tcp_stream().unwrap();
    assert_eq!((raw.local_addr().unwrap(), raw.peer_addr().unwrap()), (local, remote));
    let mut other = theirs.into_tcp_stream().unwrap();
    raw.write_all(b"bare").await.unwrap();
    let mut buffer = [0; 4];
    other.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"bare");
    let (_a, _b, ours, _theirs) = pair(PipeMode::Encrypted).await;
    assert!(ours.into_tcp_stream().is_err());
}

#[tokio::test]
async fn both_calling_each_other_get_one_pipe_and_oneself_can_be_called() {
    let (a, b) = (Node::bind(config()).await.unwrap(), Node::bind(config()).await.unwrap());
    let (to_a, to_b) = (a.address().await, b.address().await);
    let (from_a, from_b) = tokio::join!(a.connect(&to_b), b.connect(&to_a));
    let (mut from_a, mut from_b) = (from_a.unwrap(), from_b.unwrap());
    if from_a.local_addr() == from_b.remote_addr() {
        from_a.write_all(b"one").await.unwrap();
        from_a.shutdown().await.unwrap();
        let mut text = String::new();
        from_b.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "one");
    }
    // Had one call ended before the other began, there are two pipes, and one waits here.
    let myself = async {
        loop {
            let pipe = a.accept().await.unwrap();
            if pipe.peer() == a.node_id() {
                return pipe;
            }
            assert_eq!(pipe.peer(), b.node_id());
        }
    };
    let (mine, myself) = tokio::join!(a.connect(&to_a), myself);
    assert_eq!((mine.unwrap().peer(), myself.peer()), (a.node_id(), a.node_id()));
}

#[tokio::test]
async fn strangers_at_the_other_end_are_clear_errors() {
    let a = Node::bind(config()).await.unwrap();
    let b = Node::bind(config()).await.unwrap();
    let to = b.address().await.to_string();
    let port = b.address().await.v4()[0].port;
    b.shutdown().await;
    let refused = a.connect(&to).await.unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");
    for (answer, word) in [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "version"), (b"", "broke")] {
        let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = stranger.local_addr().unwrap().port();
        let address = to.replace(&format!(",{port},"), &format!(",{there},"));
        let rude = tokio::spawn(async move {
            let (mut s, _) = stranger.accept().await.unwrap();
            let mut hello = [0; 118];
            s.read_exact(&mut hello).await.unwrap();
            s.write_all(answer).await.unwrap();
        });
        let failed = a.connect(&address).await.unwrap_err();
        assert!(failed.to_string().contains(word), "{failed}");
        rude.await.unwrap();
    }
}

#[tokio::test]
async fn a_taken_port_is_named_and_shutdown_frees_it() {
    let first = Node::bind(config()).await.unwrap();
    let port = first.address().await.v4()[0].port;
    let taken = Node::bind(config().port(port)).await;
    assert!(matches!(taken, Err(BindError::Listen(at, IoFailure::AddrInUse)) if at.port() == port));
    first.shutdown().await;
    assert!(matches!(first.connect("None-0-0-x").await, Err(ConnectError::NodeGone)));
    Node::bind(config().port(port)).await.unwrap();
}

#[tokio::test]
async fn giving_up_leaves_no_task_behind() {
    let a = Node::bind(config()).await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let key = SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()).node_id();
    let to = format!("None-[0,127.0.0.1,127.0.0.1,{port},1,1,0]-0-{key}");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let given_up = tokio::time::timeout(Duration::from_millis(200), a.connect(&to)).await;
    assert!(given_up.is_err());
    let (mut s, _) = silent.accept().await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), s.read_to_end(&mut rest)).await.expect("closed");
    for _ in 0..100 {
        if tasks() <= before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} tasks, {before} before", tasks());
}
