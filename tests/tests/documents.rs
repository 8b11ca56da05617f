//! The Python examples of the P2PD documents, in Rust: over loopback, with servers in this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd_core::nat::NatType;
use p2pd_tests::lab::{Home, Lab, Nat};
use p2pd_tests::require_lab;
use p2pd_tokio::messages::stun::{Client as Stun, nat_info};
use p2pd_tokio::messages::{
    Daemon, End, Family, MessagePipe, Pattern, PipeOptions, Protocol, Route, SubscriptionId, Target,
};
use p2pd_tokio::{Accept, Allocate, Config, Node, PeerAddress, Plan, SecretKey, Strategy};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some(LOOPBACK);
    config
}

/// A broker, a STUN server with two addresses, and a TURN server for alice.
async fn servers() -> Serving {
    let users = vec![("alice".into(), "secret".into())];
    let turn = Some(WantedTurn { users, relay_ips: vec![LOOPBACK], ..WantedTurn::default() });
    let second_ip = Some(Ipv4Addr::new(127, 0, 0, 2).into());
    let wanted = Wanted { ip: LOOPBACK, second_ip, mqtt_port: 0, stun_ports: [0, 0], turn };
    Serving::start(&wanted).await.unwrap()
}

fn everything(pipe: &MessagePipe) -> SubscriptionId {
    pipe.subscribe(Pattern::ANY, Pattern::ANY).unwrap()
}

async fn bytes(pipe: &MessagePipe, from: SubscriptionId, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        all.extend_from_slice(&pipe.recv(from, LONG).await.unwrap());
    }
    all
}

/// A node with the echo service of the documents, and a pipe to itself, both ends.
async fn to_itself() -> (Node, MessagePipe, MessagePipe) {
    let node = Node::builder(config()).echo(true).bind().await.unwrap();
    let own = node.address().await;
    let (ours, theirs) = tokio::join!(node.connect(&own), node.accept());
    let options = PipeOptions::default();
    let ours = MessagePipe::new(ours.unwrap(), &options).unwrap();
    let theirs = MessagePipe::new(theirs.unwrap(), &options).unwrap();
    // The service answers while the pipe is read.
    theirs.on_message(|_, _| async {});
    (node, ours, theirs)
}

#[tokio::test]
async fn a_nodes_address() {
    let node = Node::bind(config()).await.unwrap();
    let text = node.address().await.to_string();
    let read: PeerAddress = text.parse().unwrap();
    assert_eq!((read.to_string(), text.split('-').count()), (text.clone(), 4));
    assert!(text.ends_with(&node.node_id().to_string()), "{text}");
    node.shutdown().await;
}

#[tokio::test]
async fn connect_to_oneself_and_echo() {
    let (node, pipe, _theirs) = to_itself().await;
    let all = everything(&pipe);
    pipe.send(b"ECHO hello, world!").await.unwrap();
    let message = pipe.recv_from(all, LONG).await.unwrap();
    assert_eq!((&message.data[..], Some(message.from)), (&b"hello, world!"[..], pipe.remote_addr()));
    pipe.close().await;
    node.shutdown().await;
}

#[tokio::test]
async fn subscriptions_by_patterns() {
    let (_node, pipe, _theirs) = to_itself().await;
    let hellos = pipe.subscribe(Pattern::new("[hH]e[l]+o").unwrap(), Pattern::ANY).unwrap();
    let from_here = Pattern::new(r"^127[.]0[.]0[.]1:[0-9]+$").unwrap();
    let here = pipe.subscribe(Pattern::new("meow").unwrap(), from_here).unwrap();
    let elsewhere = pipe.subscribe(Pattern::ANY, Pattern::new("^192[.]168[.]").unwrap()).unwrap();
    for (text, id) in [("ECHO Helllo", hellos), ("ECHO meow", here)] {
        pipe.send(text.as_bytes()).await.unwrap();
        assert_eq!(pipe.recv(id, LONG).await.unwrap(), text["ECHO ".len()..]);
    }
    assert_eq!(
        (pipe.waiting(hellos), pipe.waiting(here), pipe.waiting(elsewhere)),
        (Some(0), Some(0), Some(0))
    );
    assert!(pipe.unsubscribe(elsewhere));
}

#[tokio::test]
async fn binary_data() {
    let (_node, ours, theirs) = to_itself().await;
    let data: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (at_ours, at_theirs) = (everything(&ours), everything(&theirs));
    for (from, to, id) in [(&ours, &theirs, at_theirs), (&theirs, &ours, at_ours)] {
        let (sent, came) = tokio::join!(from.send(&data), bytes(to, id, data.len()));
        assert!(sent.is_ok() && came == data);
    }
}

#[tokio::test]
async fn two_linked_pipes_are_a_relay() {
    let (_node, ours, _theirs) = to_itself().await;
    let door =
        Daemon::listen_specific(&[(SocketAddr::new(LOOPBACK, 0), Protocol::Tcp)], &PipeOptions::default());
    let mut door = door.unwrap();
    let (at, options) = (door.bound()[0].0, PipeOptions::default());
    let (client, visitor) =
        tokio::join!(MessagePipe::open(Protocol::Tcp, at, Route::V4, &options), door.accept());
    let (client, visitor) = (client.unwrap(), visitor.unwrap());
    visitor.add_pipe(&ours);
    ours.add_pipe(&visitor);
    let all = everything(&client);
    client.send(b"ECHO through the relay").await.unwrap();
    assert_eq!(bytes(&client, all, 17).await, b"through the relay");
    assert!(visitor.del_pipe(&ours) && ours.del_pipe(&visitor));
    // Joined, they pass the end on, too.
    visitor.join(&ours);
    client.send(b"ECHO again").await.unwrap();
    assert_eq!(bytes(&client, all, 5).await, b"again");
    client.finish().await.unwrap();
    assert_eq!(visitor.ended().await, End::Peer);
    assert_eq!(_theirs.ended().await, End::Peer);
}

#[tokio::test]
async fn a_tcp_echo_server_and_udp_that_is_awaited() {
    let (protocols, families) = ([Protocol::Tcp, Protocol::Udp], [Family::V4]);
    let daemon =
        Daemon::listen_all(&[Target::Loopback], &[0..=0], &protocols, &families, &PipeOptions::default())
            .unwrap();
    let bound = daemon.bound().to_vec();
    let serving = tokio::spawn(daemon.serve(|message, pipe| async move {
        pipe.send_to(&message.data, message.from).await.unwrap();
    }));
    for (at, protocol) in bound {
        let to = ("localhost", at.port());
        let pipe = MessagePipe::open(protocol, to, Route::V4, &PipeOptions::default()).await.unwrap();
        let all = everything(&pipe);
        pipe.send(b"some data").await.unwrap();
        assert_eq!(pipe.recv(all, LONG).await.unwrap(), "some data", "{protocol:?}");
    }
    serving.abort();
}

/// Runs in the lab for its namespace, whose addresses are free to choose.
#[test]
fn a_daemon_on_an_interface_has_its_link_local_and_its_global_addresses() {
    require_lab!();
    let lab = Lab::builder().home(Home::new(Nat::None)).build().unwrap();
    lab.server().ip_batch("addr add 2001:db8::5/128 dev lo nodad\naddr add fe80::5/64 dev lo nodad").unwrap();
    let listen = async {
        // Linux has the local way to a new address a moment after the address (2 of 120 connects failed, of Python's too).
        let is_local = |ip: &str| {
            let socket = std::net::UdpSocket::bind("[::]:0")?;
            socket.connect((ip, 4000))?;
            Ok::<_, std::io::Error>(socket.local_addr()?.ip() == socket.peer_addr()?.ip())
        };
        // It may go once more meanwhile.
        let mut steady = 0;
        while steady < 50 {
            let local = ["2001:db8::5", "fe80::5%1"].into_iter().all(|ip| is_local(ip).unwrap_or(false));
            steady = if local { steady + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(1));
        }
        let target = [Target::Interface("lo".into())];
        let (protocols, families) = ([Protocol::Tcp, Protocol::Udp], [Family::V6]);
        let options = PipeOptions::default();
        let daemon = Daemon::listen_all(&target, &[4000..=4000], &protocols, &families, &options).unwrap();
        let bound = daemon.bound().to_vec();
        let serving = tokio::spawn(daemon.serve(|message, pipe| async move {
            pipe.send_to(&message.data, message.from).await.unwrap();
        }));
        for (at, protocol) in &bound {
            let pipe = MessagePipe::open(*protocol, *at, Route::V6, &options).await.unwrap();
            let all = everything(&pipe);
            pipe.send(b"hello").await.unwrap();
            assert_eq!(pipe.recv(all, LONG).await.unwrap(), "hello", "{at} over {protocol:?}");
        }
        serving.abort();
        bound
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut bound = lab.server().enter(|| runtime().block_on(listen));
    bound.sort();
    let expected = ["[::1]:4000", "[2001:db8::5]:4000", "[fe80::5%1]:4000"].map(|at| at.parse().unwrap());
    let each = expected.into_iter().flat_map(|at| [(at, Protocol::Tcp), (at, Protocol::Udp)]);
    assert_eq!(bound, each.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stun_client() {
    let servers = servers().await;
    let client = Stun::new(servers.stun(), Route::from(LOOPBACK));
    assert_eq!(client.external_ip().await.unwrap(), LOOPBACK);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mapping = client.mapping(protocol).await.unwrap();
        assert_eq!((mapping.external, mapping.local.ip()), (mapping.local, LOOPBACK), "{protocol:?}");
    }
    let reports = nat_info(servers.servers("127.0.0.1", 0).stun, Some(LOOPBACK)).await.unwrap();
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((report.local, report.behaviour.nat_type()), (LOOPBACK, Some(NatType::OpenInternet)));
}

#[tokio::test]
async fn a_turn_client() {
    let servers = servers().await;
    let list = servers.servers("127.0.0.1", 0);
    let mut config = config();
    config.turn = vec![list.turn[0].for_node()];
    let node = Node::bind(config).await.unwrap();
    let (mut pipes, options) = (Vec::new(), PipeOptions::default());
    for _ in 0..2 {
        let allocation = node.allocate(Allocate::default()).await.unwrap();
        assert_eq!(allocation.relayed_addr().ip(), LOOPBACK);
        pipes.push(MessagePipe::new(allocation, &options).unwrap());
    }
    let [a, b] = &pipes[..] else { unreachable!() };
    let all = everything(b);
    // Permissions are made on the way, in both directions.
    b.send_to(b"permits a", a.local_addr()).await.unwrap();
    for text in ["hello from a", "and again"] {
        let message = loop {
            a.send_to(text.as_bytes(), b.local_addr()).await.unwrap();
            if let Ok(message) = b.recv_from(all, Duration::from_millis(200)).await {
                break message;
            }
        };
        assert_eq!((&message.data[..], message.from), (text.as_bytes(), a.local_addr()));
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_pipe_through_a_relay() {
    let servers = servers().await;
    let list = servers.servers("127.0.0.1", 0);
    let (mut nodes, mut accept) = (Vec::new(), Accept::Anyone);
    for _ in 0..2 {
        let mut config = config();
        // A stranger's relay is nothing to a node on loopback.
        config.accept = std::mem::replace(&mut accept, Accept::Only([config.identity.node_id()].into()));
        (config.brokers, config.stun) = (list.brokers.clone(), list.stun.clone());
        config.turn = vec![list.turn[0].for_node()];
        nodes.push(Node::builder(config).echo(true).bind().await.unwrap());
    }
    let plan = Plan::new().strategies([Strategy::Relay]).timeout(LONG);
    let to = nodes[1].address().await;
    nodes[0].address().await;
    let (ours, theirs) = tokio::join!(nodes[0].connect_with(&to, plan), nodes[1].accept());
    let theirs = MessagePipe::new(theirs.unwrap(), &PipeOptions::default()).unwrap();
    theirs.on_message(|_, _| async {});
    let ours = ours.unwrap();
    assert_eq!(ours.strategy(), Strategy::Relay);
    let ours = MessagePipe::new(ours, &PipeOptions::default()).unwrap();
    let all = everything(&ours);
    ours.send(b"ECHO by way of the relay").await.unwrap();
    assert_eq!(bytes(&ours, all, 19).await, b"by way of the relay");
    ours.close().await;
    assert_eq!(theirs.ended().await, End::Peer);
}
