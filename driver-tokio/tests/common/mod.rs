//! Helpers of the tests: nodes on loopback without servers, pairs of pipes, and a proxy between them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

use std::net::SocketAddr;
use std::time::Duration;

use p2pd_tokio::{Config, Node, PeerAddress, Pipe, PipeMode, Plan, SecretKey};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

pub fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some("127.0.0.1".parse().unwrap());
    config.allow_plain = true;
    config
}

pub fn plan(mode: PipeMode, timeout: Duration) -> Plan {
    Plan::new().mode(mode).timeout(timeout)
}

pub async fn node() -> Node {
    Node::bind(config()).await.unwrap()
}

/// Two nodes, and both ends of a pipe that the first opened to the second.
pub async fn pair(mode: PipeMode, echo: bool) -> (Node, Node, Pipe, Pipe) {
    let (a, b) = (node().await, Node::builder(config()).echo(echo).bind().await.unwrap());
    let to = b.address().await;
    let (ours, theirs) = tokio::join!(a.connect_with(&to, plan(mode, LONG)), b.accept());
    (a, b, ours.unwrap(), theirs.unwrap())
}

/// The same peer, said to be at another port.
pub fn moved(address: &PeerAddress, port: u16) -> PeerAddress {
    let there = address.v4()[0].port;
    address.to_string().replace(&format!(",{there},"), &format!(",{port},")).parse().unwrap()
}

/// A port that accepts one stream, connects it to `to`, and gives both streams to the caller.
pub async fn between(to: SocketAddr) -> (u16, tokio::task::JoinHandle<(TcpStream, TcpStream)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let both = tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        (near, far)
    });
    (port, both)
}

/// Waits until `is` holds.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}
