//! Brokers that are down or lie: each is named, and direct connects go on without them.

use std::time::Duration;

use p2pd_core::{BrokerLoss, BrokerState, IoFailure};
use p2pd_rendezvous::mqtt::packet::{ConnectReturnCode, connack};
use p2pd_tokio::{Broker, Config, Event, Node, Plan, SecretKey, Strategy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(20);

fn config(broker_port: u16) -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some("127.0.0.1".parse().unwrap());
    config.brokers = vec![Broker::new(5, "127.0.0.1", broker_port)];
    config
}

/// A broker that answers CONNECT with these bytes; how the node loses it.
async fn loss_of(answers: Vec<u8>) -> BrokerLoss {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let liar = tokio::spawn(async move {
        let (mut s, _) = listener.accept().await.unwrap();
        wait.await.unwrap();
        let mut connect = [0; 2];
        s.read_exact(&mut connect).await.unwrap();
        assert_eq!(connect[0], 0x10, "CONNECT comes first");
        // The node may hang up in the middle of it.
        let _ = s.write_all(&answers).await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, s.read_to_end(&mut rest)).await.expect("the node hangs up");
    });
    let node = Node::bind(config(port)).await.unwrap();
    let mut events = node.events();
    go.send(()).unwrap();
    let lost = async {
        loop {
            if let Ok(Event::Broker { id: 5, state: BrokerState::Lost(why) }) = events.recv().await.unwrap() {
                return why;
            }
        }
    };
    let why = tokio::time::timeout(PATIENCE, lost).await.expect("the loss is said");
    liar.await.unwrap();
    // The node itself is unhurt.
    let oneself = node.address().await;
    let (ours, theirs) = tokio::join!(node.connect(&oneself), node.accept());
    assert!(ours.is_ok() && theirs.is_some());
    why
}

#[tokio::test]
async fn lying_brokers_are_dropped_and_named() {
    assert_eq!(loss_of(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await, BrokerLoss::Malformed);
    let refused = connack(ConnectReturnCode::NotAuthorized, false);
    assert_eq!(loss_of(refused).await, BrokerLoss::Refused(5));
    assert_eq!(loss_of(b"\x40\x00".to_vec()).await, BrokerLoss::Malformed);
    // A packet that says it has a mebibyte, and sends it.
    let mut large = connack(ConnectReturnCode::Accepted, false);
    large.extend(b"\x30\x80\x80\x40");
    large.resize(1 << 20, 7);
    assert_eq!(loss_of(large).await, BrokerLoss::Malformed);
}

#[tokio::test]
async fn a_broker_that_is_down_is_named_in_the_report() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let node = Node::bind(config(unused)).await.unwrap();
    let mut events = node.events();
    let lost = async {
        loop {
            if let Ok(Event::Broker { state: BrokerState::Lost(why), .. }) = events.recv().await.unwrap() {
                return why;
            }
        }
    };
    // The first try may have failed before we listened; the next follows within two seconds.
    let why = tokio::time::timeout(PATIENCE, lost).await.unwrap();
    assert_eq!(why, BrokerLoss::Io(IoFailure::Refused));
    let peer = SecretKey::from_bytes([7; 32]).node_id();
    let plan = |timeout| Plan::new().strategies([Strategy::Reverse]).timeout(timeout);
    let to = format!("5-[0,127.0.0.1,127.0.0.1,9,1,1,0]-0-{peer}");
    let failed = node.connect_with(&to, plan(Duration::from_secs(1))).await.unwrap_err();
    assert!(failed.to_string().contains("no common broker became usable"), "{failed}");
    let elsewhere = format!("6-[0,127.0.0.1,127.0.0.1,9,1,1,0]-0-{peer}");
    let failed = node.connect_with(&elsewhere, plan(Duration::from_secs(9))).await.unwrap_err();
    assert!(failed.to_string().contains("(6) are not in our server list"), "{failed}");
}
