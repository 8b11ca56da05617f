//! The TURN client of the core against coturn, driven by the smallest loop there can be. Both peers are behind
//! symmetric NATs with random ports. Coturn's client runs against `p2pd serve` too.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pd_core::Transport;
use p2pd_core::WallTime;
use p2pd_core::strangers::{Answer, guard_stun, turn_answer};
use p2pd_core::turn::{Client, Config, Credentials, Error, Event, Family, Lifetimes};
use p2pd_tests::lab::services::Coturn;
use p2pd_tests::lab::{Home, Host, Lab, SERVER};
use p2pd_tests::require_lab;
use p2pd_tests::world::{event, program};

const PATIENCE: Duration = Duration::from_secs(30);
const ALICE: &str = "--user=alice:secret";

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// A client with its socket.
struct Relay {
    client: Client,
    socket: Socket,
    began: Instant,
    events: Vec<Event>,
    /// Answers with 438, over UDP.
    stale: u32,
}

impl Relay {
    fn open(host: &Host, coturn: &Coturn, config: Config) -> Relay {
        let socket = host.enter(|| match config.transport {
            Transport::Udp => {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect(coturn.addr()).unwrap();
                Socket::Udp(socket)
            }
            Transport::Tcp => {
                let stream = TcpStream::connect(coturn.addr()).unwrap();
                stream.set_nodelay(true).unwrap();
                Socket::Tcp(stream)
            }
        });
        let mut seed = [0; 32];
        let began = Instant::now();
        seed[..16].copy_from_slice(&std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos().to_be_bytes());
        let client = Client::new(config, seed, p2pd_core::Instant::ZERO);
        Relay { client, socket, began, events: Vec::new(), stale: 0 }
    }

    fn now(&self) -> p2pd_core::Instant {
        p2pd_core::Instant::ZERO + self.began.elapsed()
    }

    /// Runs one turn of the loop, of 10 ms at most.
    fn turn(&mut self) {
        while let Some(bytes) = self.client.poll_transmit() {
            match &mut self.socket {
                Socket::Udp(socket) => drop(socket.send(&bytes)),
                Socket::Tcp(stream) => drop(stream.write_all(&bytes)),
            }
        }
        let mut buffer = [0; 65_536];
        let wait = Some(Duration::from_millis(10));
        let read = match &mut self.socket {
            Socket::Udp(socket) => {
                socket.set_read_timeout(wait).unwrap();
                socket.recv(&mut buffer)
            }
            Socket::Tcp(stream) => {
                stream.set_read_timeout(wait).unwrap();
                stream.read(&mut buffer)
            }
        };
        let now = self.now();
        match read {
            Ok(0) => self.client.handle_end(now),
            Ok(n) => {
                let view = guard_stun(&buffer[..n], Transport::Udp).ok();
                if matches!(view.and_then(turn_answer), Some(Answer::Error { code: 438, .. })) {
                    self.stale += 1;
                }
                self.client.handle(now, &buffer[..n]);
            }
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // A UDP socket hears by ICMP that the server is down: it may come back.
            Err(_) if matches!(self.socket, Socket::Udp(_)) => {}
            Err(_) => self.client.handle_end(now),
        }
        if self.client.poll_timeout().is_some_and(|at| at <= now) {
            self.client.handle_timeout(now);
        }
        while let Some(event) = self.client.poll_event() {
            self.events.push(event);
        }
    }

    /// Turns until there are so many events, and takes them.
    fn events(&mut self, n: usize) -> Vec<Event> {
        let end = Instant::now() + PATIENCE;
        while self.events.len() < n {
            assert!(Instant::now() < end, "only {:?}; {:?}", self.events, self.client.stats());
            self.turn();
        }
        std::mem::take(&mut self.events)
    }

    fn send(&mut self, to: &Relay, text: &[u8]) {
        let (now, peer) = (self.now(), to.client.relayed().unwrap());
        self.client.send(now, peer, text).unwrap();
        self.turn();
    }

    fn close(&mut self) {
        let now = self.now();
        self.client.close(now);
        assert_eq!(self.events(1), [Event::Closed]);
    }
}

fn lab() -> Lab {
    let homes =
        ["symrand", "symrand"].map(|nat| nat.parse::<Home>().unwrap().delay(Duration::from_millis(2)));
    Lab::builder().homes(homes).build().unwrap()
}

fn config(over: Transport) -> Config {
    Config::new(over, Credentials::new(Coturn::USER, Coturn::PASSWORD))
}

/// Two relays that have permitted each other.
fn joined(lab: &Lab, coturn: &Coturn, config: &Config) -> (Relay, Relay) {
    joined_at(lab, coturn, config, SERVER[0].into())
}

/// The same where the relayed addresses are of this one.
fn joined_at(lab: &Lab, coturn: &Coturn, config: &Config, server: IpAddr) -> (Relay, Relay) {
    let [a, b] = [0, 1].map(|n| {
        let mut relay = Relay::open(lab.host(n), coturn, config.clone());
        let now = relay.now();
        relay.client.permit(now, server).unwrap();
        let events = relay.events(2);
        let [Event::Allocated { relayed, mapped, .. }, Event::Permitted(peer)] = events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((relayed.ip(), mapped.ip(), peer), (server, lab.host(n).wan().into(), server));
        relay
    });
    (a, b)
}

/// Sends a text both ways and waits until both arrived.
fn exchange(a: &mut Relay, b: &mut Relay, text: &[u8]) {
    a.send(b, text);
    b.send(a, text);
    let [from_a, from_b] = [&*a, &*b].map(|relay| relay.client.relayed().unwrap());
    for (to, from) in [(a, from_b), (b, from_a)] {
        let data = Bytes::copy_from_slice(text);
        assert_eq!(to.events(1), [Event::Data { from, data }]);
    }
}

#[test]
fn coturn_relays_both_ways_over_udp_and_tcp() {
    require_lab!(Coturn);
    let lab = lab();
    for over in [Transport::Udp, Transport::Tcp] {
        let coturn = Coturn::start_with(&lab, &[ALICE, "--lt-cred-mech", "--user-quota=2"]).unwrap();
        let (mut a, mut b) = joined(&lab, &coturn, &config(over));
        for size in [1, 2, 3, 4, 100, 1200, 1400] {
            exchange(&mut a, &mut b, &vec![size as u8; size]);
            // The channels are bound by the second time.
            exchange(&mut a, &mut b, &vec![7; size]);
        }
        // A third allocation is one too many until one is given up.
        let mut third = Relay::open(lab.host(0), &coturn, config(over));
        assert_eq!(third.events(1), [Event::Lost(Error::Quota)]);
        a.close();
        // coturn counts a given up one for a moment longer; without that it would be 600 s.
        let end = Instant::now() + PATIENCE;
        loop {
            let mut third = Relay::open(lab.host(0), &coturn, config(over));
            match third.events(1)[..] {
                [Event::Allocated { .. }] => break third.close(),
                [Event::Lost(Error::Quota)] => assert!(Instant::now() < end, "it was not given up"),
                ref other => panic!("{other:?}"),
            }
        }
        b.close();
        for relay in [a, b] {
            assert_eq!(relay.client.stats(), Default::default(), "{over:?}");
        }
    }
}

#[test]
fn coturn_relays_ipv6_for_clients_that_have_none() {
    require_lab!(Coturn);
    let lab = lab();
    let ip = "2001:db8::10";
    let mut add =
        lab.server().run("ip", ["addr", "add", &format!("{ip}/128"), "dev", "lo", "nodad"]).unwrap();
    assert!(add.wait(PATIENCE).unwrap().success());
    let options = [ALICE, "--lt-cred-mech", &format!("--relay-ip={ip}")];
    let coturn = Coturn::start_with(&lab, &options).unwrap();
    for over in [Transport::Udp, Transport::Tcp] {
        let config = Config { family: Family::V6, ..config(over) };
        let (mut a, mut b) = joined_at(&lab, &coturn, &config, ip.parse().unwrap());
        exchange(&mut a, &mut b, b"by Send indications");
        exchange(&mut a, &mut b, b"by channels");
        a.close();
        b.close();
        assert_eq!(a.client.stats(), Default::default());
    }
}

#[test]
fn coturn_takes_short_lived_credentials_and_refuses_wrong_ones() {
    require_lab!(Coturn);
    let lab = lab();
    let coturn = Coturn::start_with(&lab, &["--use-auth-secret", "--static-auth-secret=north"]).unwrap();
    let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let until = |seconds: i64| WallTime::from_micros(seconds * 1_000_000);
    for over in [Transport::Udp, Transport::Tcp] {
        for id in [Some("alice"), None] {
            let credentials = Credentials::short_lived("north", id, until(seconds + 600));
            let mut relay = Relay::open(lab.host(0), &coturn, Config::new(over, credentials));
            assert!(matches!(relay.events(1)[..], [Event::Allocated { .. }]));
            relay.close();
        }
        for wrong in [
            Credentials::short_lived("south", None, until(seconds + 600)),
            Credentials::short_lived("north", None, until(seconds - 600)),
            Credentials::new("alice", "secret"),
        ] {
            let tried = || {
                let mut relay = Relay::open(lab.host(0), &coturn, Config::new(over, wrong.clone()));
                (relay.events(1), relay.client.stats())
            };
            // The router's ports are random: one that an earlier client had is refused for that.
            let taken = |(events, _): &(Vec<Event>, _)| *events == [Event::Lost(Error::PortInUse)];
            let (events, stats) =
                (0..3).map(|_| tried()).find(|t| !taken(t)).expect("three ports were in use");
            assert_eq!(events, [Event::Lost(Error::WrongCredentials)], "{over:?} {stats:?}");
        }
    }
}

/// Lifetimes are 4 to 8 seconds at the server, and 3 for nonces; after 25 s all has been refreshed several times.
#[test]
fn coturn_keeps_what_is_refreshed_and_its_nonces_may_get_stale() {
    require_lab!(Coturn);
    let lab = lab();
    let coturn = Coturn::start_with(
        &lab,
        &[
            ALICE,
            "--lt-cred-mech",
            "--stale-nonce=3",
            "--max-allocate-lifetime=8",
            "--permission-lifetime=4",
            "--channel-lifetime=6",
        ],
    )
    .unwrap();
    let s = Duration::from_secs;
    let lifetimes = Lifetimes { allocation: s(8), permission: s(4), channel: s(6) };
    let config = Config { lifetimes, ..config(Transport::Udp) };
    let (mut a, mut b) = joined(&lab, &coturn, &config);
    exchange(&mut a, &mut b, b"at the beginning");
    // Silence, as long as all of it lasts three times over.
    let until = Instant::now() + s(25);
    while Instant::now() < until {
        a.turn();
        b.turn();
    }
    for round in 0..20_u8 {
        exchange(&mut a, &mut b, &[round; 50]);
    }
    assert!(a.stale >= 3 && b.stale >= 3, "{} and {} stale nonces", a.stale, b.stale);
    a.close();
    b.close();
    assert_eq!(a.client.stats(), Default::default());
}

#[test]
fn a_restarted_coturn_is_noticed() {
    require_lab!(Coturn);
    let lab = lab();
    let options = [ALICE, "--lt-cred-mech", "--max-allocate-lifetime=8"];
    let coturn = Coturn::start_with(&lab, &options).unwrap();
    let lifetimes = Lifetimes { allocation: Duration::from_secs(8), ..Lifetimes::default() };
    let open = |over| {
        let mut relay = Relay::open(lab.host(0), &coturn, Config { lifetimes, ..config(over) });
        assert!(matches!(relay.events(1)[..], [Event::Allocated { .. }]));
        relay
    };
    let (mut udp, mut tcp) = (open(Transport::Udp), open(Transport::Tcp));
    drop(coturn);
    assert_eq!(tcp.events(1), [Event::Lost(Error::ServerClosed)]);
    let _coturn = Coturn::start_with(&lab, &options).unwrap();
    assert_eq!(udp.events(1), [Event::Lost(Error::AllocationGone)]);
}

/// Uses UDP and TCP, Send indications and channels, with payloads that need padding.
#[test]
fn coturns_client_is_served_by_ours() {
    require_lab!(Coturn);
    // The peer is on a machine of its own: ours relays to no address of the server's.
    let homes = ["symrand", "none"].map(|nat| nat.parse::<Home>().unwrap().delay(Duration::from_millis(2)));
    let lab = Lab::builder().homes(homes).build().unwrap();
    let (ip, peer) = (SERVER[0].to_string(), lab.host(1).wan().to_string());
    let mut serve = lab.server().command(program());
    serve.env("P2PD_FORBID_PUBLIC_SERVERS", "1");
    serve.args(["serve", "--json", "--bind", &ip, "--mqtt-port", "0", "--turn-user", "alice:secret"]);
    let mut serve = lab.server().spawn(serve).unwrap();
    assert_eq!(event(&mut serve, "serving")["turn"], format!("{ip}:3478"));
    let _peer = lab.host(1).run("turnutils_peer", ["-L", &peer, "-p", "3480"]).unwrap();
    let modes = [&[][..], &["-s"], &["-t"], &["-t", "-s"]];
    let mut clients = modes.map(|mode| {
        let common =
            ["-u", "alice", "-w", "secret", "-e", &peer, "-r", "3480", "-n", "20", "-m", "2", "-l", "171"];
        lab.host(0).run("turnutils_uclient", [&common, mode, &[&ip]].concat()).unwrap()
    });
    for (client, mode) in clients.iter_mut().zip(modes) {
        assert!(client.wait(PATIENCE).unwrap().success(), "{mode:?}: {:?}", client.lines());
        let said = client.lines();
        for wanted in ["tot_send_msgs=40, tot_recv_msgs=40", "Total lost packets 0 (0.000000%)"] {
            assert!(said.iter().any(|line| line.text.contains(wanted)), "{mode:?}: {said:?}");
        }
    }
}
