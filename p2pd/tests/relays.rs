//! Relays over coturn and our own server as people run them: with secrets that end, without any, in pools, and for nodes
//! with one address family each. Skipped where coturn is missing.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd_core::Transport;
use p2pd_core::turn::{Credentials, Family};
use p2pd_core::{
    Accept, Allocate, AllocateError, Config, Event, Login, Plan, SecretKey, ServerRef, Strategy, TurnAuth,
    TurnServer, WallTime,
};
use p2pd_tokio::messages::{MessagePipe, Pattern, PipeOptions};
use p2pd_tokio::{ConnectError, Node, Pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Says that a test cannot run, past the harness that keeps what a passing test prints, for `tests/run` to list.
fn skip(why: &str) {
    let required = std::env::var("P2PD_REQUIRE_LAB").is_ok_and(|value| value == "1");
    assert!(!required, "P2PD_REQUIRE_LAB=1, but there is {why}");
    let _ = std::io::stderr().write_all(format!("SKIPPED relays: {why}\n").as_bytes());
}

/// Ends the process however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A coturn on loopback, and its port.
fn coturn(options: &[&str]) -> Option<(Running, u16)> {
    let port = TcpListener::bind((V4, 0)).unwrap().local_addr().unwrap().port();
    let mut command = Command::new("turnserver");
    command.args(["-n", "-L", "127.0.0.1", "-E", "127.0.0.1", "-r", "x", "-p", &port.to_string()]);
    command.args(["--no-cli", "--no-tls", "--no-dtls", "--allow-loopback-peers", "--log-file", "stdout"]);
    let child = command.args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(child) = child else {
        skip("no turnserver");
        return None;
    };
    let (running, began) = (Running(child), Instant::now());
    while TcpStream::connect((V4, port)).is_err() || !answers_by_udp(port) {
        assert!(began.elapsed() < Duration::from_secs(10), "coturn does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((running, port))
}

/// Asks for a Binding (RFC 8489): coturn opens its UDP socket after the other one.
fn answers_by_udp(port: u16) -> bool {
    let socket = UdpSocket::bind((V4, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let asked = socket.connect((V4, port)).and_then(|()| socket.send(&request));
    asked.is_ok() && socket.recv(&mut [0; 200]).is_ok()
}

/// Starts servers of our own on this address.
async fn serving(ip: IpAddr, relay_ips: &[IpAddr]) -> Serving {
    let users = vec![("alice".into(), "secret".into())];
    let turn = Some(WantedTurn { users, relay_ips: relay_ips.to_vec(), ..WantedTurn::default() });
    let wanted = Wanted { ip, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn };
    Serving::start(&wanted).await.unwrap()
}

/// Two nodes, at these addresses, that name each other. The first has these relays, the second those.
async fn nodes(serving: &Serving, ips: [IpAddr; 2], relays: [Vec<TurnServer>; 2]) -> [Node; 2] {
    let keys = [(); 2].map(|()| SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
    let ids = keys.each_ref().map(SecretKey::node_id);
    let [a, b] = [0, 1].map(|n| {
        let mut config = Config::new(keys[n].clone());
        config.accept = Accept::Only([ids[1 - n]].into());
        config.brokers = serving.servers(&ips[n].to_string(), 0).brokers;
        (config.bind, config.survey) = (Some(ips[n]), false);
        config.turn.clone_from(&relays[n]);
        Node::bind(config)
    });
    [a.await.unwrap(), b.await.unwrap()]
}

async fn relay(from: &Node, to: &Node) -> Result<Pipe, ConnectError> {
    let plan = Plan::new().strategies([Strategy::Relay]);
    let (address, _) = (to.address().await, from.address().await);
    from.connect_with(&address, plan).await
}

/// A pipe opens, and bytes go both ways.
async fn talk(from: &Node, to: &Node) {
    let mut ours = relay(from, to).await.unwrap();
    let mut theirs = to.accept().await.unwrap();
    let mut space = [0; 4];
    ours.write_all(b"ping").await.unwrap();
    theirs.read_exact(&mut space).await.unwrap();
    theirs.write_all(b"pong").await.unwrap();
    ours.read_exact(&mut space).await.unwrap();
    assert_eq!(&space, b"pong");
}

/// Credentials of coturn's shared secret, for so many seconds from now.
fn made(seconds: i64) -> Credentials {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    Credentials::short_lived("north", Some("x"), WallTime::from_micros((now + seconds) * 1_000_000))
}

#[tokio::test]
async fn secrets_that_end_are_renewed_and_those_of_a_secret_are_made_anew() {
    let Some((_coturn, port)) = coturn(&["--use-auth-secret", "--static-auth-secret", "north"]) else {
        return;
    };
    let serving = serving(V4, &[]).await;
    let turn = |auth: TurnAuth| vec![TurnServer::new("127.0.0.1", port, auth)];
    let [a, b] = nodes(&serving, [V4; 2], [turn(TurnAuth::Secret("north".into())), Vec::new()]).await;
    talk(&a, &b).await;
    // Ended by their own name, unknown to the server, and none at all.
    for old in [Some(made(-3600)), Some(Credentials::new("alice", "yesterday")), None] {
        let [a, b] = nodes(&serving, [V4; 2], [turn(TurnAuth::Renewed(old.clone())), Vec::new()]).await;
        let (mut events, node) = (a.events(), a.clone());
        let renewing = tokio::spawn(async move {
            let mut asked = 0;
            loop {
                match events.recv().await.unwrap().unwrap() {
                    Event::LoginWanted { server } => {
                        assert_eq!(server, ServerRef::Turn(0));
                        asked += 1;
                        let fresh = made(600);
                        node.renew_login(server, Some(Login::new(fresh.user(), Some(fresh.password()))));
                    }
                    Event::Closed => return asked,
                    _ => {}
                }
            }
        });
        talk(&a, &b).await;
        talk(&a, &b).await;
        a.shutdown().await;
        assert_eq!(renewing.await.unwrap(), 1, "{old:?}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_no_credentials_relays_where_the_list_says_so() {
    let Some((_coturn, port)) = coturn(&["--no-auth"]) else { return };
    let serving = serving(V4, &[]).await;
    let turn = |auth: TurnAuth| vec![TurnServer::new("127.0.0.1", port, auth)];
    let [a, b] = nodes(&serving, [V4; 2], [turn(TurnAuth::Nobody), Vec::new()]).await;
    talk(&a, &b).await;
    let [a, b] = nodes(&serving, [V4; 2], [turn(Credentials::new("u", "p").into()), Vec::new()]).await;
    let why = relay(&a, &b).await.unwrap_err().to_string();
    assert!(why.contains("asks for no credentials"), "{why}");
}

#[tokio::test]
async fn a_relayed_address_is_a_pipe_of_its_own() {
    let user = ["--lt-cred-mech", "-u", "alice:secret"];
    let Some((_known, known)) = coturn(&user) else { return };
    let Some((_open, open)) = coturn(&["--no-auth"]) else { return };
    let alice = TurnAuth::from(Credentials::new("alice", "secret"));
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
    (config.bind, config.survey) = (Some(V4), false);
    let node = Node::bind(config).await.unwrap();
    let [udp, tcp] = [Transport::Udp, Transport::Tcp].map(Some);
    for (port, auth, transport) in
        [(known, &alice, udp), (known, &alice, tcp), (open, &TurnAuth::Nobody, udp)]
    {
        let mut server = TurnServer::new("127.0.0.1", port, auth.clone());
        server.transport = transport;
        let wish = Allocate { servers: vec![server], ..Allocate::default() };
        let pipe = MessagePipe::new(node.allocate(wish).await.unwrap(), &PipeOptions::default()).unwrap();
        let peer = tokio::net::UdpSocket::bind((V4, 0)).await.unwrap();
        let (to, mut buffer) = (peer.local_addr().unwrap(), [0; 2000]);
        let all = pipe.subscribe(Pattern::ANY, Pattern::ANY).unwrap();
        for n in 0..3 {
            pipe.send_to(b"ping", to).await.unwrap();
            let (len, from) = peer.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..len], from), (&b"ping"[..], pipe.local_addr()), "{n}");
            peer.send_to(b"pong", from).await.unwrap();
            let message = pipe.recv_from(all, Duration::from_secs(20)).await.unwrap();
            assert_eq!((&message.data[..], message.from), (&b"pong"[..], to), "{n}");
        }
        pipe.close().await;
    }
    node.shutdown().await;
}

#[tokio::test]
async fn one_allocation_has_an_address_of_each_family_that_the_server_has() {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
    (config.bind, config.survey) = (Some(V4), false);
    let node = Node::bind(config).await.unwrap();
    let user = ["--lt-cred-mech", "-u", "alice:secret"];
    let ours = serving(V4, &[V4, V6]).await;
    let theirs = coturn(&[&user[..], &["-E", "::1"]].concat());
    let alice = TurnAuth::from(Credentials::new("alice", "secret"));
    let at = |port| vec![TurnServer::new("127.0.0.1", port, alice.clone())];
    let lists = [
        (Some(at(ours.stun().port())), true),
        // coturn 4.6.1 does not heed the attribute.
        (theirs.as_ref().map(|(_, port)| at(*port)), false),
    ];
    for (servers, has_both) in lists {
        let Some(servers) = servers else { continue };
        let allocate = async |family| {
            let wish = Allocate { servers: servers.clone(), family: Some(family), ..Allocate::default() };
            let allocation = node.allocate(wish).await.unwrap();
            let at = [Some(allocation.relayed_addr()), allocation.other_relayed_addr()];
            (MessagePipe::new(allocation, &PipeOptions::default()).unwrap(), at)
        };
        let (pipe, [relayed, other]) = allocate(Family::Both).await;
        assert_eq!(relayed.map(|at| at.ip()), Some(V4), "{servers:?}");
        assert_eq!(other.map(|at| at.ip()), has_both.then_some(V6), "{servers:?}");
        let all = pipe.subscribe(Pattern::ANY, Pattern::ANY).unwrap();
        for (family, ours) in [(Family::V4, relayed), (Family::V6, other)] {
            let Some(ours) = ours else { continue };
            let (peer, [theirs, _]) = allocate(family).await;
            let (theirs, hears) = (theirs.unwrap(), peer.subscribe(Pattern::ANY, Pattern::ANY).unwrap());
            // Each lets the other in by sending to it.
            peer.send_to(b"early", ours).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            pipe.send_to(b"ping", theirs).await.unwrap();
            let message = peer.recv_from(hears, Duration::from_secs(20)).await.unwrap();
            assert_eq!((&message.data[..], message.from), (&b"ping"[..], ours), "{family:?}");
            peer.send_to(b"pong", ours).await.unwrap();
            let message = pipe.recv_from(all, Duration::from_secs(20)).await.unwrap();
            assert_eq!((&message.data[..], message.from), (&b"pong"[..], theirs), "{family:?}");
            peer.close().await;
        }
        pipe.close().await;
    }
    node.shutdown().await;
}

#[tokio::test]
async fn whoever_drops_the_future_of_a_relayed_address_gives_it_up() {
    let serving = serving(V4, &[V4]).await;
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
    (config.bind, config.survey) = (Some(V4), false);
    let node = Node::bind(config).await.unwrap();
    // One that never answers, and 64 wishes, which are as many as there may be.
    let silent = tokio::net::UdpSocket::bind((V4, 0)).await.unwrap();
    let auth = TurnAuth::from(Credentials::new("alice", "secret"));
    let at = |port| TurnServer::new("127.0.0.1", port, auth.clone());
    let server = at(silent.local_addr().unwrap().port());
    let wishes: Vec<_> = (0..p2pd_core::MAX_ALLOCATIONS)
        .map(|_| {
            let (node, wish) =
                (node.clone(), Allocate { servers: vec![server.clone()], ..Allocate::default() });
            tokio::spawn(async move { node.allocate(wish).await })
        })
        .collect();
    let wish = Allocate { servers: vec![at(serving.stun().port())], ..Allocate::default() };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(matches!(node.allocate(wish.clone()).await, Err(AllocateError::TooMany)));
    for wish in wishes {
        wish.abort();
        assert!(wish.await.is_err());
    }
    let began = Instant::now();
    while node.allocate(wish.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(began.elapsed() < Duration::from_secs(10), "places are not given back");
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_pool_of_servers_is_followed_as_far_as_the_list_lets_it() {
    let user = ["--lt-cred-mech", "-u", "alice:secret"];
    let Some((_second, second)) = coturn(&user) else { return };
    let alternate = format!("--alternate-server=127.0.0.1:{second}");
    let Some((_first, first)) = coturn(&[&user[..], &[&alternate]].concat()) else { return };
    let serving = serving(V4, &[]).await;
    let mut turn = vec![TurnServer::new("127.0.0.1", first, Credentials::new("alice", "secret"))];
    let [a, b] = nodes(&serving, [V4; 2], [turn.clone(), Vec::new()]).await;
    let why = relay(&a, &b).await.unwrap_err().to_string();
    let expected = format!("sends us to 127.0.0.1:{second}, which is no address that it may send us to");
    assert!(why.contains(&expected), "{why}");
    turn[0].alternates_anywhere = true;
    for transport in [None, Some(p2pd_core::Transport::Tcp)] {
        turn[0].transport = transport;
        let [a, b] = nodes(&serving, [V4; 2], [turn.clone(), Vec::new()]).await;
        talk(&a, &b).await;
    }
}

#[tokio::test]
async fn nodes_with_one_family_each_meet_at_a_server_with_both() {
    let serving = serving(Ipv6Addr::UNSPECIFIED.into(), &[V4, V6]).await;
    let turn = |ip: IpAddr| {
        vec![TurnServer::new(&ip.to_string(), serving.stun().port(), Credentials::new("alice", "secret"))]
    };
    let [a, b] = nodes(&serving, [V4, V6], [turn(V4), turn(V6)]).await;
    talk(&a, &b).await;
    talk(&b, &a).await;
}
