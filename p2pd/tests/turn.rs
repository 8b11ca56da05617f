//! The TURN server of `serve` on loopback, with the core's client on real sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd::servers::{TurnCredential, TurnServer};
use p2pd_core::Transport;
use p2pd_core::stun::{BindingOutcome, TransactionId, binding_request, decode_binding};
use p2pd_core::turn::{Client, Config, Credentials, Error, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(20);

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

struct Relay {
    client: Client,
    socket: Socket,
    began: Instant,
}

impl Relay {
    async fn open(server: SocketAddr, over: Transport, credentials: Credentials) -> Relay {
        let socket = match over {
            Transport::Udp => {
                let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
                socket.connect(server).await.unwrap();
                Socket::Udp(socket)
            }
            Transport::Tcp => Socket::Tcp(TcpStream::connect(server).await.unwrap()),
        };
        let seed = p2pd_tokio::random_seed().unwrap();
        let client = Client::new(Config::new(over, credentials), seed, p2pd_core::Instant::ZERO);
        Relay { client, socket, began: Instant::now() }
    }

    /// Returns a relay that has its allocation, and has permitted this machine.
    async fn ready(server: SocketAddr, over: Transport) -> Relay {
        let mut relay = Relay::open(server, over, alice()).await;
        assert!(matches!(relay.event().await, Event::Allocated { .. }));
        relay.client.permit(relay.now(), LOOPBACK).unwrap();
        assert_eq!(relay.event().await, Event::Permitted(LOOPBACK));
        relay
    }

    fn now(&self) -> p2pd_core::Instant {
        p2pd_core::Instant::ZERO + self.began.elapsed()
    }

    fn at(&self) -> SocketAddr {
        self.client.relayed().unwrap()
    }

    async fn flush(&mut self) {
        while let Some(bytes) = self.client.poll_transmit() {
            match &mut self.socket {
                Socket::Udp(socket) => drop(socket.send(&bytes).await.unwrap()),
                Socket::Tcp(stream) => stream.write_all(&bytes).await.unwrap(),
            }
        }
    }

    async fn event(&mut self) -> Event {
        let mut buffer = vec![0; 65_536];
        let end = Instant::now() + PATIENCE;
        loop {
            self.flush().await;
            if let Some(event) = self.client.poll_event() {
                return event;
            }
            assert!(Instant::now() < end, "no event: {:?}", self.client.stats());
            let next = self.client.poll_timeout().map(|at| at.since(self.now()));
            let read = async {
                match &mut self.socket {
                    Socket::Udp(socket) => socket.recv(&mut buffer).await.unwrap(),
                    Socket::Tcp(stream) => stream.read(&mut buffer).await.unwrap_or(0),
                }
            };
            let read = tokio::time::timeout(next.unwrap_or(PATIENCE), read).await;
            let now = self.now();
            match read {
                Ok(0) => self.client.handle_end(now),
                Ok(size) => self.client.handle(now, &buffer[..size]),
                Err(_) => self.client.handle_timeout(now),
            }
        }
    }

    async fn send(&mut self, to: SocketAddr, data: &[u8]) {
        self.client.send(self.now(), to, data).unwrap();
        self.flush().await;
    }
}

fn alice() -> Credentials {
    Credentials::new("alice", "secret")
}

async fn serve(secret: Option<&str>) -> Serving {
    let users = vec![("alice".into(), "secret".into())];
    let turn = Some(WantedTurn { users, secret: secret.map(Into::into), ..WantedTurn::default() });
    let wanted = Wanted { ip: LOOPBACK, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn };
    Serving::start(&wanted).await.unwrap()
}

#[tokio::test]
async fn peers_talk_through_the_relay_over_udp_and_tcp() {
    let serving = serve(None).await;
    assert_eq!(serving.relay_ips(), [LOOPBACK]);
    for (one, other) in [(Transport::Udp, Transport::Udp), (Transport::Tcp, Transport::Udp)] {
        let mut a = Relay::ready(serving.stun(), one).await;
        let mut b = Relay::ready(serving.stun(), other).await;
        for size in [1, 3, 100, 1400, 1200] {
            let data = vec![size as u8; size];
            a.send(b.at(), &data).await;
            assert_eq!(b.event().await, Event::Data { from: a.at(), data: data.clone().into() });
            b.send(a.at(), &data).await;
            assert_eq!(a.event().await, Event::Data { from: b.at(), data: data.into() });
        }
        // And a socket that is no relay's, through the relay's own.
        let outside = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
        let mut buffer = [0; 100];
        for text in [&b"by Send indication"[..], b"by channel"] {
            a.send(outside.local_addr().unwrap(), text).await;
            let (size, from) = outside.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..size], from), (text, a.at()));
            outside.send_to(b"back", from).await.unwrap();
            let from = outside.local_addr().unwrap();
            assert_eq!(a.event().await, Event::Data { from, data: b"back"[..].into() });
        }
        for relay in [&mut a, &mut b] {
            let at = relay.at();
            relay.client.close(relay.now());
            assert_eq!(relay.event().await, Event::Closed);
            // The socket is closed soon: its port can be had again.
            let end = Instant::now() + PATIENCE;
            while let Err(why) = UdpSocket::bind(at).await {
                assert!(Instant::now() < end, "{at}: {why}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test]
async fn short_lived_credentials_are_taken_and_wrong_ones_are_not() {
    let serving = serve(Some("north")).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let until = |s| p2pd_core::WallTime::from_micros((now + s) * 1_000_000);
    for over in [Transport::Udp, Transport::Tcp] {
        let good = Credentials::short_lived("north", Some("bob"), until(600));
        let mut relay = Relay::open(serving.stun(), over, good).await;
        assert!(matches!(relay.event().await, Event::Allocated { .. }));
        for wrong in
            [Credentials::short_lived("north", None, until(-600)), Credentials::new("alice", "guess")]
        {
            let mut relay = Relay::open(serving.stun(), over, wrong).await;
            assert_eq!(relay.event().await, Event::Lost(Error::WrongCredentials));
        }
    }
}

#[tokio::test]
async fn binding_requests_on_the_same_port_are_answered_as_before() {
    let serving = serve(None).await;
    let request = binding_request(TransactionId([7; 12]), None);
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    socket.send_to(&request, serving.stun()).await.unwrap();
    let mut buffer = [0; 200];
    let size = socket.recv(&mut buffer).await.unwrap();
    let outcome = decode_binding(&buffer[..size], Transport::Udp).unwrap().outcome;
    assert_eq!(outcome, BindingOutcome::Mapped(socket.local_addr().unwrap()));
    let mut stream = TcpStream::connect(serving.stun()).await.unwrap();
    for part in [&request[..1], &request[1..]] {
        stream.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let size = stream.read(&mut buffer).await.unwrap();
    let outcome = decode_binding(&buffer[..size], Transport::Tcp).unwrap().outcome;
    assert_eq!(outcome, BindingOutcome::Mapped(stream.local_addr().unwrap()));
}

#[tokio::test]
async fn the_servers_end_takes_the_clients_with_it() {
    let serving = serve(None).await;
    let mut relay = Relay::ready(serving.stun(), Transport::Tcp).await;
    let at = relay.at();
    drop(serving);
    assert_eq!(relay.event().await, Event::Lost(Error::ServerClosed));
    let end = Instant::now() + PATIENCE;
    while UdpSocket::bind(at).await.is_err() {
        assert!(Instant::now() < end, "its socket is still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_list_names_the_relay_with_what_lets_peers_in() {
    let turn = |users: &[(&str, &str)], secret: Option<&str>| {
        let users = users.iter().map(|(n, p)| ((*n).into(), (*p).into())).collect();
        Some(WantedTurn {
            users,
            secret: secret.map(Into::into),
            relay_ips: vec!["203.0.113.7".parse().unwrap()],
            ..WantedTurn::default()
        })
    };
    let alice = TurnCredential::Password { user: "alice".into(), password: "secret".into() };
    for (turn, expected) in [
        (turn(&[("alice", "secret"), ("bob", "other")], Some("north")), Some(alice)),
        (turn(&[], Some("north")), Some(TurnCredential::Secret("north".into()))),
        (None, None),
    ] {
        let wanted = Wanted { ip: LOOPBACK, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn };
        let serving = Serving::start(&wanted).await.unwrap();
        let entry = |credential| TurnServer {
            host: "server.example".into(),
            port: serving.stun().port(),
            transport: None,
            tls: None,
            credential,
            lifetimes: Default::default(),
            alternates_anywhere: false,
        };
        assert_eq!(serving.servers("server.example", 0).turn, Vec::from_iter(expected.map(entry)));
    }
}
