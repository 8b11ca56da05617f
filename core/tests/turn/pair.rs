//! Two of our clients and `turn-server-proto` under virtual time, 10 ms away from it.
//!
//! Over a stream that server reads and writes ChannelData without the padding that RFC 8656 section 12.5 asks for.
//! So it gets frames here, as over UDP, and what stands between it and the stream is [`Framing`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use p2pd_core::Instant;
use p2pd_core::Transport;
use p2pd_core::turn::{Client, Config, Credentials, Error, Event};
use turn_server_proto::api::{Transmit, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_server_proto::types::{AddressFamily, Instant as Theirs, TransportType};

use super::hand::{addr, ms};

const SERVER: &str = "203.0.113.10:3478";
const CLIENTS: [&str; 2] = ["198.51.100.1:1000", "198.51.100.2:1000"];
const ONE_WAY: Duration = Duration::from_millis(10);

struct World {
    over: Transport,
    now: Instant,
    server: TurnServer,
    framing: [Framing; 2],
    relays: BTreeSet<SocketAddr>,
    port: u16,
    clients: Vec<Client>,
    events: Vec<Vec<Event>>,
    /// Datagrams under way, by arrival and order: to the client of that number, or from it to the server.
    flying: BTreeMap<(Instant, u64), (usize, bool, Bytes)>,
    sent: u64,
    /// Loss: so many of each hundred datagrams.
    loss: u64,
    /// Disorder: of eight datagrams one comes twice, and each up to 40 ms later than it should.
    disorder: bool,
    lost: u64,
    /// Messages of the clients by their first two bytes; Send indications as they are, ChannelData as one.
    said: BTreeMap<u16, u32>,
}

/// The server's end of a stream.
#[derive(Default)]
struct Framing(Vec<u8>);

impl Framing {
    /// The frames that are whole now, without padding.
    fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.0.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while self.0.len() >= 4 {
            let length = usize::from(u16::from_be_bytes([self.0[2], self.0[3]]));
            let length = length + if self.0[0] >= 0x40 { 4 } else { 20 };
            let padded = length.next_multiple_of(4);
            if self.0.len() < padded {
                break;
            }
            let mut frame: Vec<u8> = self.0.drain(..padded).collect();
            assert!(frame.drain(length..).all(|b| b == 0), "padding");
            frames.push(frame);
        }
        frames
    }
}

fn server(nonce: Duration) -> TurnServer {
    let mut server = TurnServer::new(TransportType::Udp, addr(SERVER), "lab".into());
    server.add_user("alice".into(), "secret".into());
    server.set_nonce_expiry_duration(nonce);
    server
}

impl World {
    fn new(over: Transport, nonce: Duration) -> World {
        let credentials = Credentials::new("alice", "secret");
        let client = |n: u8| Client::new(Config::new(over, credentials.clone()), [n; 32], Instant::ZERO);
        World {
            over,
            now: Instant::ZERO,
            server: server(nonce),
            framing: [Framing::default(), Framing::default()],
            relays: BTreeSet::new(),
            port: 50_000,
            clients: vec![client(1), client(2)],
            events: vec![Vec::new(), Vec::new()],
            flying: BTreeMap::new(),
            sent: 0,
            loss: 0,
            disorder: false,
            lost: 0,
            said: BTreeMap::new(),
        }
    }

    /// Two clients that have permitted each other; their relayed addresses.
    fn joined(over: Transport, nonce: Duration, loss: u64) -> (World, [SocketAddr; 2]) {
        let mut world = World::new(over, nonce);
        world.loss = loss;
        let server = addr(SERVER).ip();
        for client in &mut world.clients {
            client.permit(Instant::ZERO, server).unwrap();
        }
        world.run(Duration::from_secs(if loss == 0 { 1 } else { 60 }));
        let relayed = [0, 1].map(|n| world.clients[n].relayed().unwrap());
        for n in 0..2 {
            let mapped = addr(CLIENTS[n]);
            let allocated = Event::Allocated {
                relayed: relayed[n],
                other: None,
                mapped,
                lifetime: Duration::from_secs(600),
            };
            assert_eq!(world.take(n), [allocated, Event::Permitted(server)]);
        }
        (world, relayed)
    }

    fn take(&mut self, client: usize) -> Vec<Event> {
        std::mem::take(&mut self.events[client])
    }

    fn theirs(&self) -> Theirs {
        Theirs::from_nanos(self.now.as_nanos())
    }

    /// Lets so much time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.collect();
            let next = self.clients.iter().filter_map(Client::poll_timeout);
            let next = next.chain(self.flying.keys().next().map(|(at, _)| *at)).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            while let Some(first) = self.flying.first_entry().filter(|f| f.key().0 <= self.now) {
                let (client, to_server, bytes) = first.remove();
                if to_server {
                    let frames = match self.over {
                        Transport::Udp => vec![bytes.to_vec()],
                        Transport::Tcp => self.framing[client].take(&bytes),
                    };
                    for frame in frames {
                        self.serve(frame, addr(CLIENTS[client]), addr(SERVER));
                    }
                } else {
                    self.clients[client].handle(self.now, &bytes);
                }
            }
            for client in &mut self.clients {
                if client.poll_timeout().is_some_and(|at| at <= self.now) {
                    client.handle_timeout(self.now);
                }
            }
        }
        self.now = end;
        self.poll_server();
    }

    /// Puts the clients' datagrams on the way.
    fn collect(&mut self) {
        for n in 0..self.clients.len() {
            while let Some(event) = self.clients[n].poll_event() {
                self.events[n].push(event);
            }
            while let Some(bytes) = self.clients[n].poll_transmit() {
                let kind = u16::from_be_bytes([bytes[0], bytes[1]]);
                *self.said.entry(if kind >= 0x4000 { 0x4000 } else { kind }).or_default() += 1;
                self.fly(n, true, bytes);
            }
        }
    }

    fn fly(&mut self, client: usize, to_server: bool, bytes: Bytes) {
        self.sent += 1;
        let draw = scrambled(self.sent);
        if self.over == Transport::Udp && draw % 100 < self.loss {
            self.lost += 1;
            return;
        }
        if self.over == Transport::Udp {
            let copies = if self.disorder && draw.is_multiple_of(8) { 2 } else { 1 };
            for copy in 0..copies {
                let late = if self.disorder { ms((draw >> 8 >> (8 * copy)) % 40) } else { ms(0) };
                self.flying
                    .insert((self.now + ONE_WAY + late, self.sent), (client, to_server, bytes.clone()));
                self.sent += 1;
            }
            return;
        }
        // A stream keeps no boundaries.
        let cut = draw as usize % (bytes.len() + 1);
        for (n, part) in [bytes.slice(..cut), bytes.slice(cut..)].into_iter().enumerate() {
            if !part.is_empty() {
                self.flying.insert((self.now + ONE_WAY, self.sent * 2 + n as u64), (client, to_server, part));
            }
        }
        self.sent += 1;
    }

    fn serve(&mut self, bytes: Vec<u8>, from: SocketAddr, to: SocketAddr) {
        let now = self.theirs();
        let said = self.server.recv(Transmit::new(bytes, TransportType::Udp, from, to), now);
        if let Some(said) = said {
            let said = said.build();
            self.route(said.data, said.from, said.to);
        }
        self.poll_server();
    }

    fn poll_server(&mut self) {
        loop {
            match self.server.poll(self.theirs()) {
                TurnServerPollRet::WaitUntil(_) => break,
                TurnServerPollRet::AllocateSocket { transport, listen_addr, client_addr, family, .. } => {
                    assert_eq!(family, AddressFamily::IPV4);
                    let relay = SocketAddr::new(listen_addr.ip(), self.port);
                    self.port += 1;
                    self.relays.insert(relay);
                    let now = self.theirs();
                    let udp = TransportType::Udp;
                    self.server.allocated_socket(
                        transport,
                        listen_addr,
                        client_addr,
                        udp,
                        family,
                        Ok(relay),
                        now,
                    );
                }
                TurnServerPollRet::SocketClose { listen_addr, .. } => {
                    assert!(self.relays.remove(&listen_addr));
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(said) = self.server.poll_transmit(self.theirs()) {
            self.route(said.data, said.from, said.to);
        }
    }

    /// Routes a datagram from a socket of the server's to its destination.
    fn route(&mut self, mut data: Vec<u8>, from: SocketAddr, to: SocketAddr) {
        if let Some(client) = CLIENTS.iter().position(|c| addr(c) == to) {
            if self.over == Transport::Tcp {
                data.resize(data.len().next_multiple_of(4), 0);
            }
            self.fly(client, false, data.into());
        } else if self.relays.contains(&to) {
            self.serve(data, from, to);
        } else {
            panic!("{} bytes to {to}", data.len());
        }
    }

    /// Sends in each direction. Returns the number of datagrams that arrived.
    fn exchange(&mut self, relayed: [SocketAddr; 2], text: &[u8]) -> usize {
        for n in 0..2 {
            self.clients[n].send(self.now, relayed[1 - n], text).unwrap();
        }
        self.run(ms(200));
        let mut arrived = 0;
        for n in 0..2 {
            for event in self.take(n) {
                let expected = Event::Data { from: relayed[1 - n], data: Bytes::copy_from_slice(text) };
                assert_eq!(event, expected);
                arrived += 1;
            }
        }
        arrived
    }
}

/// splitmix64, so that losses have no period.
fn scrambled(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (n ^ n >> 31) >> 16
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn two_clients_talk_through_the_server_over_udp_and_tcp() {
    for over in [Transport::Udp, Transport::Tcp] {
        let (mut world, relayed) = World::joined(over, HOUR, 0);
        assert_eq!(world.said, BTreeMap::from([(3, 4), (8, 2)]));
        assert_eq!(world.exchange(relayed, b"by Send indications"), 2);
        assert_eq!(world.said.get(&0x0016), Some(&2));
        for size in [0, 1, 3, 1200, 1400] {
            assert_eq!(world.exchange(relayed, &vec![7; size]), 2, "{size} bytes over {over:?}");
        }
        assert_eq!((world.said[&9], world.said[&0x0016], world.said[&0x4000]), (2, 2, 10));
        // The server made SHA-256 and the hashed name of this: nothing was left unproven.
        for client in &world.clients {
            assert_eq!(client.stats(), Default::default());
        }
    }
}

#[test]
fn an_hour_of_silence_and_data_is_kept_alive_with_new_nonces() {
    for over in [Transport::Udp, Transport::Tcp] {
        let (mut world, relayed) = World::joined(over, Duration::from_secs(100), 0);
        // Silence longer than any lifetime, then data all the time, then silence.
        assert_eq!(world.exchange(relayed, b"first"), 2);
        world.run(Duration::from_secs(1500));
        assert_eq!(world.exchange(relayed, b"after a silence"), 2);
        for n in 0..60 {
            world.run(Duration::from_secs(10));
            assert_eq!(world.exchange(relayed, b"data"), 2, "round {n}");
        }
        world.run(Duration::from_secs(1500));
        assert_eq!(world.exchange(relayed, b"at the end"), 2);
        assert!(world.now.since(Instant::ZERO) >= HOUR);
        assert_eq!((world.take(0), world.take(1)), (vec![], vec![]));
        assert_eq!(world.relays.len(), 2);
        // In 3,613 s each: 1 + 15 permissions, 1 + 6 channels, and in 3,000 s of silence a refresh each 20 s. Some were asked
        // for twice because of the nonce, most of them refreshes.
        let said = |kind| world.said[&kind] / 2;
        assert_eq!((said(8), said(9), said(4)), (17, 8, 166), "{over:?}:");
    }
}

#[test]
fn one_packet_in_ten_lost_harms_no_allocation() {
    let (mut world, relayed) = World::joined(Transport::Udp, Duration::from_secs(100), 10);
    let mut arrived = 0;
    for _ in 0..360 {
        arrived += world.exchange(relayed, b"data");
        world.run(Duration::from_secs(10));
    }
    // Two ways of 720 datagrams, each with one loss in ten.
    assert!((720 * 76 / 100..720 * 86 / 100).contains(&arrived), "{arrived} of 720");
    assert!(world.lost > 100);
    assert_eq!((world.take(0), world.take(1), world.relays.len()), (vec![], vec![], 2));
}

#[test]
fn disorder_and_doubles_harm_no_allocation() {
    let mut world = World::new(Transport::Udp, Duration::from_secs(100));
    world.disorder = true;
    for client in &mut world.clients {
        client.permit(Instant::ZERO, addr(SERVER).ip()).unwrap();
    }
    world.run(Duration::from_secs(1));
    let relayed = [0, 1].map(|n| world.clients[n].relayed().unwrap());
    assert_eq!((world.take(0).len(), world.take(1).len()), (2, 2));
    let mut arrived = 0;
    for _ in 0..360 {
        arrived += world.exchange(relayed, b"data");
        world.run(Duration::from_secs(10));
    }
    // 720, and about one in eight twice on each of two ways.
    assert!((850..950).contains(&arrived), "{arrived}");
    assert_eq!((world.take(0), world.take(1), world.relays.len()), (vec![], vec![], 2));
    assert!(world.clients[0].stats().unasked > 0, "doubled answers are to nothing any more");
    let now = world.now;
    world.clients.iter_mut().for_each(|client| client.close(now));
    world.run(Duration::from_secs(10));
    assert_eq!((world.take(0), world.take(1)), (vec![Event::Closed], vec![Event::Closed]));
    assert_eq!(world.relays, BTreeSet::new());
}

#[test]
fn giving_up_leaves_nothing_at_the_server() {
    for over in [Transport::Udp, Transport::Tcp] {
        for loss in [0, 10] {
            let (mut world, relayed) = World::joined(over, HOUR, loss);
            world.exchange(relayed, b"x");
            let now = world.now;
            world.clients.iter_mut().for_each(|client| client.close(now));
            world.run(Duration::from_secs(10));
            assert_eq!((world.take(0), world.take(1)), (vec![Event::Closed], vec![Event::Closed]));
            assert_eq!(world.relays, BTreeSet::new());
            assert_eq!((world.clients[0].poll_timeout(), world.flying.len()), (None, 0));
        }
    }
}

#[test]
fn wrong_credentials_and_a_restarted_server_are_told_apart() {
    let mut world = World::new(Transport::Udp, HOUR);
    world.clients[1] = {
        let config = Config::new(Transport::Udp, Credentials::new("alice", "guess"));
        Client::new(config, [3; 32], world.now)
    };
    world.run(Duration::from_secs(1));
    assert!(matches!(world.take(0)[..], [Event::Allocated { .. }]));
    assert_eq!(world.take(1), [Event::Lost(Error::WrongCredentials)]);
    world.server = server(HOUR);
    world.run(Duration::from_secs(58));
    // This server says 400 without integrity, which may be anybody's.
    assert_eq!(world.take(0), []);
    world.run(Duration::from_secs(2));
    assert_eq!(world.take(0), [Event::Lost(Error::Unproven(400))]);
}

#[test]
fn a_peer_that_was_not_permitted_does_not_get_through() {
    let (mut world, relayed) = World::joined(Transport::Udp, HOUR, 0);
    let now = world.now;
    world.clients[1].forget(now, addr(SERVER).ip());
    world.clients[0].send(now, relayed[1], b"x").unwrap();
    world.run(ms(100));
    assert_eq!((world.take(1), world.clients[1].stats().strangers), (vec![], 1));
    // The server forgets the permission too, and lets nothing through any more.
    world.run(Duration::from_secs(301));
    let now = world.now;
    world.clients[0].send(now, relayed[1], b"x").unwrap();
    world.run(ms(100));
    assert_eq!((world.take(1), world.clients[1].stats().strangers), (vec![], 1));
}
