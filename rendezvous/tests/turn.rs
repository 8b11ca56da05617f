//! The TURN server with the core's client, under virtual time and without latency.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2pd_core::Transport;
use p2pd_core::turn::{Client, Config as ClientConfig, Credentials, Error, Event, Family, PermitError};
use p2pd_core::{Instant, WallTime};
use p2pd_rendezvous::ConnId;
use p2pd_rendezvous::turn::{Config, Limits, Output, RelayId, Server, Stats, Users};

const LOCAL: &str = "203.0.113.10:3478";
const EPOCH: u64 = 1_700_000_000;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

struct Peer {
    client: Client,
    at: SocketAddr,
    conn: Option<ConnId>,
    events: Vec<Event>,
    /// The server closed its stream.
    closed: bool,
}

struct World {
    now: Duration,
    server: Server,
    peers: Vec<Peer>,
    relays: BTreeMap<RelayId, SocketAddr>,
    port: u16,
    /// Whether no socket can be opened at an address.
    no_socket: fn(IpAddr) -> bool,
    /// Datagrams that left for addresses outside the relays.
    outside: Vec<(SocketAddr, Vec<u8>)>,
}

fn config() -> Config {
    let users =
        Users { named: vec![("alice".into(), "secret".into())], secret: Some("north".into()), epoch: EPOCH };
    Config::new(users, addr(LOCAL).ip())
}

fn alice(over: Transport) -> ClientConfig {
    ClientConfig::new(over, Credentials::new("alice", "secret"))
}

impl World {
    fn new(config: Config) -> World {
        World {
            now: Duration::ZERO,
            server: Server::new(config),
            peers: Vec::new(),
            relays: BTreeMap::new(),
            port: 50_000,
            no_socket: |_| false,
            outside: Vec::new(),
        }
    }

    fn instant(&self) -> Instant {
        Instant::ZERO + self.now
    }

    /// Adds a client at this address, and returns its events.
    fn join(&mut self, at: &str, config: ClientConfig) -> (usize, Vec<Event>) {
        let (n, at) = (self.peers.len(), addr(at));
        let conn = (config.transport == Transport::Tcp).then_some(ConnId(n as u64));
        let client = Client::new(config, [n as u8 + 1; 32], self.instant());
        self.peers.push(Peer { client, at, conn, events: Vec::new(), closed: false });
        if let Some(conn) = conn {
            self.server.accept(self.now, conn, addr(LOCAL), at);
        }
        self.settle();
        (n, self.take(n))
    }

    fn take(&mut self, n: usize) -> Vec<Event> {
        std::mem::take(&mut self.peers[n].events)
    }

    fn relayed(&self, n: usize) -> SocketAddr {
        self.peers[n].client.relayed().unwrap()
    }

    /// Runs until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for n in 0..self.peers.len() {
                while let Some(event) = self.peers[n].client.poll_event() {
                    self.peers[n].events.push(event);
                }
                while let Some(bytes) = self.peers[n].client.poll_transmit() {
                    quiet = false;
                    let Peer { at, conn, closed, .. } = self.peers[n];
                    match conn {
                        None => self.server.datagram(self.now, addr(LOCAL), at, &bytes),
                        // A stream keeps no boundaries.
                        Some(conn) if !closed => {
                            let (one, two) = bytes.split_at(bytes.len() / 3);
                            self.server.receive(self.now, conn, one);
                            self.server.receive(self.now, conn, two);
                        }
                        Some(_) => {}
                    }
                }
            }
            while let Some(output) = self.server.poll_output() {
                quiet = false;
                self.carry_out(output);
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        let now = self.instant();
        match output {
            Output::Datagram { from, to, data } => {
                assert_eq!(from, addr(LOCAL));
                if let Some(peer) = self.peers.iter_mut().find(|p| p.at == to && p.conn.is_none()) {
                    peer.client.handle(now, &data);
                }
            }
            Output::Send(conn, data) => {
                let peer = self.peers.iter_mut().find(|p| p.conn == Some(conn)).unwrap();
                peer.client.handle(now, &data);
            }
            Output::Close(conn) => {
                let peer = self.peers.iter_mut().find(|p| p.conn == Some(conn)).unwrap();
                peer.closed = true;
                peer.client.handle_end(now);
            }
            Output::Open(relay, ip) => {
                let port = (!(self.no_socket)(ip)).then_some(self.port);
                if let Some(port) = port {
                    self.port += 1;
                    self.relays.insert(relay, (ip, port).into());
                }
                self.server.opened(self.now, relay, port);
            }
            Output::Relay { relay, to, data } => {
                assert!(self.relays.contains_key(&relay));
                self.outside.push((to, data.to_vec()));
            }
            Output::CloseRelay(relay) => {
                self.relays.remove(&relay);
            }
        }
    }

    /// Lets time pass for all.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let clients = self.peers.iter().filter_map(|p| p.client.poll_timeout());
            let clients = clients.map(|at| at.since(Instant::ZERO));
            let Some(at) = clients.chain(self.server.poll_timeout()).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.server.handle_timeout(self.now);
            let now = self.instant();
            self.peers.iter_mut().for_each(|p| p.client.handle_timeout(now));
            assert!(self.server.poll_timeout().is_none_or(|at| at > self.now), "the deadline has moved");
        }
        self.now = end;
    }

    fn permit(&mut self, n: usize, ip: IpAddr) {
        let now = self.instant();
        self.peers[n].client.permit(now, ip).unwrap();
        self.settle();
        assert_eq!(self.take(n), [Event::Permitted(ip)]);
    }

    fn send(&mut self, n: usize, to: SocketAddr, data: &[u8]) {
        let now = self.instant();
        self.peers[n].client.send(now, to, data).unwrap();
        self.settle();
    }

    fn close(&mut self, n: usize) {
        let now = self.instant();
        self.peers[n].client.close(now);
        self.settle();
        assert_eq!(self.take(n), [Event::Closed]);
    }
}

fn is_allocated(events: &[Event]) -> bool {
    matches!(events, [Event::Allocated { .. }])
}

#[test]
fn two_clients_reach_each_other_and_the_world_over_udp_and_tcp() {
    for over in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new(config());
        let until = WallTime::from_micros((EPOCH as i64 + 60) * 1_000_000);
        let short_lived = Credentials::short_lived("north", Some("bob"), until);
        let (a, events) = world.join("198.51.100.1:1000", alice(over));
        let lifetime = s(600);
        let (relayed, mapped) = (addr("203.0.113.10:50000"), addr("198.51.100.1:1000"));
        assert_eq!(events, [Event::Allocated { relayed, other: None, mapped, lifetime }]);
        let (b, events) = world.join("198.51.100.2:1000", ClientConfig::new(over, short_lived));
        assert!(is_allocated(&events), "{events:?}");
        for n in [a, b] {
            world.permit(n, addr(LOCAL).ip());
        }
        for size in [1, 2, 3, 4, 1400, 0] {
            let data = vec![size as u8; size];
            for (from, to) in [(a, b), (b, a)] {
                let (source, target) = (world.relayed(from), world.relayed(to));
                world.send(from, target, &data);
                assert_eq!(world.take(to), [Event::Data { from: source, data: data.clone().into() }]);
            }
        }
        assert_eq!(world.outside, [], "from relay to relay nothing leaves");
        // And a peer without a relay.
        let outsider = addr("192.0.2.7:7000");
        world.permit(a, outsider.ip());
        world.send(a, outsider, b"out");
        assert_eq!(world.outside, [(outsider, b"out".to_vec())]);
        world.server.relayed(world.now, RelayId(0), outsider, b"in");
        world.server.relayed(world.now, RelayId(0), addr("192.0.2.8:7000"), b"a stranger's");
        world.settle();
        assert_eq!(world.take(a), [Event::Data { from: outsider, data: b"in"[..].into() }]);
        world.close(a);
        world.close(b);
        assert_eq!((world.server.allocations(), world.relays.len()), (0, 0));
        for peer in &world.peers {
            assert_eq!(peer.client.stats(), Default::default());
        }
        assert_eq!(world.server.stats(), Stats { allocated: 2, ..Stats::default() });
    }
}

#[test]
fn allocations_live_for_hours_and_nonces_change() {
    for over in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new(config());
        for at in ["198.51.100.1:1000", "198.51.100.2:1000"] {
            let (n, _) = world.join(at, alice(over));
            world.permit(n, addr(LOCAL).ip());
        }
        world.run(s(3 * 3600 + 100));
        let (from, to) = (world.relayed(0), world.relayed(1));
        world.send(0, to, b"after three hours");
        assert_eq!(world.take(1), [Event::Data { from, data: b"after three hours"[..].into() }]);
        assert_eq!((world.take(0), world.peers[0].client.stats()), (vec![], Default::default()));
    }
}

#[test]
fn quotas_hold_and_come_back() {
    let limits = Limits { allocations: 4, per_user: 3, per_address: 2, ..Limits::default() };
    let mut world = World::new(Config { limits, ..config() });
    let short_lived = |id| {
        let until = WallTime::from_micros((EPOCH as i64 + 600) * 1_000_000);
        ClientConfig::new(Transport::Udp, Credentials::short_lived("north", Some(id), until))
    };
    let full = [Event::Lost(Error::Capacity)];
    assert!(is_allocated(&world.join("198.51.100.1:1", alice(Transport::Udp)).1));
    assert!(is_allocated(&world.join("198.51.100.1:2", alice(Transport::Udp)).1));
    assert_eq!(world.join("198.51.100.1:3", alice(Transport::Udp)).1, full, "of one address");
    assert!(is_allocated(&world.join("198.51.100.2:1", alice(Transport::Udp)).1));
    assert_eq!(world.join("198.51.100.3:1", alice(Transport::Udp)).1, full, "of one user");
    assert!(is_allocated(&world.join("198.51.100.3:2", short_lived("bob")).1));
    assert_eq!(world.join("198.51.100.4:1", short_lived("carol")).1, full, "in all");
    assert_eq!((world.server.stats().over_quota, world.server.allocations()), (3, 4));
    world.close(0);
    assert!(is_allocated(&world.join("198.51.100.1:4", alice(Transport::Udp)).1), "all three have one less");
    world.no_socket = |_| true;
    world.close(1);
    assert_eq!(world.join("198.51.100.1:5", alice(Transport::Udp)).1, full, "no socket");
    world.no_socket = |_| false;
    assert!(is_allocated(&world.join("198.51.100.1:6", alice(Transport::Udp)).1), "and it took no place");
}

#[test]
fn wrong_credentials_and_families_are_refused() {
    let mut world = World::new(config());
    let until = |s: i64| WallTime::from_micros((EPOCH as i64 + s) * 1_000_000);
    world.run(s(10));
    for wrong in [
        Credentials::new("alice", "guess"),
        Credentials::new("bob", "secret"),
        Credentials::short_lived("south", None, until(60)),
        Credentials::short_lived("north", None, until(9)),
    ] {
        let config = ClientConfig::new(Transport::Udp, wrong.clone());
        let (_, events) = world.join(&format!("198.51.100.1:{}", 1000 + world.peers.len()), config);
        assert_eq!(events, [Event::Lost(Error::WrongCredentials)], "{wrong:?}");
    }
    let v6 = ClientConfig { family: Family::V6, ..alice(Transport::Udp) };
    let (_, events) = world.join("198.51.100.1:2000", v6.clone());
    assert_eq!(events, [Event::Lost(Error::UnsupportedFamily)]);
    let relay_ips = vec![addr(LOCAL).ip(), "2001:db8::a".parse().unwrap()];
    let mut world = World::new(Config { relay_ips, ..config() });
    world.join("198.51.100.1:2000", v6);
    assert_eq!(world.relayed(0), addr("[2001:db8::a]:50000"));
}

#[test]
fn one_allocate_gives_an_address_of_each_family_as_far_as_there_is_one() {
    let (v4, v6) = (addr(LOCAL).ip(), "2001:db8::a".parse().unwrap());
    let both = |over| ClientConfig { family: Family::Both, ..alice(over) };
    for over in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new(Config { relay_ips: vec![v6, v4], ..config() });
        let (n, events) = world.join("198.51.100.1:1000", both(over));
        let (relayed, other) = (addr("203.0.113.10:50001"), addr("[2001:db8::a]:50000"));
        let found = |e: &Event| matches!(e, Event::Allocated { relayed: at, other: Some(too), .. } if *at == relayed && *too == other);
        assert!(matches!(&events[..], [e] if found(e)), "{events:?}");
        let peers = [addr("192.0.2.1:9"), addr("[2001:db8:9::1]:9")];
        for (at, peer) in [relayed, other].into_iter().zip(peers) {
            world.permit(n, peer.ip());
            world.send(n, peer, b"there");
            assert_eq!(world.outside.pop(), Some((peer, b"there".to_vec())));
            let relay = *world.relays.iter().find(|(_, its)| **its == at).unwrap().0;
            world.server.relayed(world.now, relay, peer, b"back");
            world.settle();
            assert_eq!(world.take(n), [Event::Data { from: peer, data: b"back"[..].into() }]);
        }
        world.run(s(4000));
        assert_eq!((world.server.allocations(), world.relays.len(), world.take(n)), (2, 2, vec![]));
        world.close(n);
        assert_eq!((world.server.allocations(), world.relays.len()), (0, 0));
    }
    // One family, for want of an address, a socket, or a place.
    let limits = Limits { per_user: 1, ..Limits::default() };
    let one = |ip| Config { relay_ips: vec![ip], ..config() };
    let two = || Config { relay_ips: vec![v4, v6], ..config() };
    type Case<'a> = (Config, fn(IpAddr) -> bool, &'a [IpAddr]);
    let cases: [Case<'_>; 6] = [
        (one(v4), |_| false, &[v4]),
        (one(v6), |_| false, &[v6]),
        (two(), |ip| ip.is_ipv6(), &[v4]),
        (two(), |ip| ip.is_ipv4(), &[v6]),
        (Config { limits, ..two() }, |_| false, &[v4, v6]),
        (two(), |_| true, &[]),
    ];
    for (config, no_socket, expected) in cases {
        let mut world = World::new(config);
        world.no_socket = no_socket;
        let (n, events) = world.join("198.51.100.1:1000", both(Transport::Udp));
        let client = &world.peers[n].client;
        assert_eq!(client.other_relayed(), None);
        match client.relayed() {
            Some(at) => assert!(expected.contains(&at.ip()), "{at}, {expected:?}"),
            None => assert_eq!((&events[..], expected), (&[Event::Lost(Error::Capacity)][..], &[][..])),
        }
        let count = expected.len().min(1);
        assert_eq!((world.server.allocations(), world.relays.len()), (count, count), "{expected:?}");
        // What is there lives on, and a peer of the other family is refused here.
        world.run(s(2000));
        if let Some(at) = world.peers[n].client.relayed() {
            let peer = if at.is_ipv4() { "2001:db8:9::1" } else { "192.0.2.1" }.parse().unwrap();
            let now = world.instant();
            assert_eq!(world.peers[n].client.permit(now, peer), Err(PermitError::Family));
        }
    }
}

#[test]
fn a_restarted_server_says_at_once_that_it_has_forgotten() {
    let mut world = World::new(config());
    world.join("198.51.100.1:1000", alice(Transport::Udp));
    world.server = Server::new(config());
    world.run(s(19));
    assert_eq!(world.take(0), []);
    world.run(s(1));
    assert_eq!(world.take(0), [Event::Lost(Error::AllocationGone)]);
}

#[test]
fn a_repeated_allocate_has_the_same_answer() {
    let mut server = Server::new(config());
    let mut client = Client::new(alice(Transport::Udp), [1; 32], Instant::ZERO);
    let (from, now) = (addr("198.51.100.1:1000"), Duration::ZERO);
    let first = client.poll_transmit().unwrap();
    server.datagram(now, addr(LOCAL), from, &first);
    let Some(Output::Datagram { data, .. }) = server.poll_output() else { panic!("no challenge") };
    client.handle(Instant::ZERO, &data);
    let second = client.poll_transmit().unwrap();
    server.datagram(now, addr(LOCAL), from, &second);
    let Some(Output::Open(relay, _)) = server.poll_output() else { panic!("no socket asked for") };
    // While the socket is opened it is heard again, too.
    server.datagram(now, addr(LOCAL), from, &second);
    server.opened(now, relay, Some(50_000));
    let mut answers = Vec::new();
    while let Some(output) = server.poll_output() {
        answers.push(output);
    }
    server.datagram(now, addr(LOCAL), from, &second);
    let again = server.poll_output().unwrap();
    assert!(answers.contains(&again), "{answers:?}");
    let Output::Datagram { data, .. } = again else { panic!("{again:?}") };
    client.handle(Instant::ZERO, &data);
    assert!(matches!(client.poll_event(), Some(Event::Allocated { .. })));
    assert_eq!(server.allocations(), 1);
}

#[test]
fn what_is_not_refreshed_ends_and_a_closed_stream_ends_at_once() {
    let mut world = World::new(config());
    world.join("198.51.100.1:1000", alice(Transport::Udp));
    world.join("198.51.100.2:1000", alice(Transport::Tcp));
    world.peers.clear();
    world.server.closed(ConnId(1));
    world.settle();
    assert_eq!((world.server.allocations(), world.relays.len()), (1, 1));
    world.run(s(600));
    assert_eq!(world.server.allocations(), 1);
    world.run(s(1));
    assert_eq!((world.server.allocations(), world.relays.len()), (0, 0));
    world.run(s(100));
    assert_eq!(world.server.poll_timeout(), None, "and nobody is remembered");
}

#[test]
fn silent_streams_are_closed_and_so_are_those_that_are_no_turn() {
    let mut world = World::new(config());
    let now = Duration::ZERO;
    world.server.accept(now, ConnId(7), addr(LOCAL), addr("198.51.100.1:1"));
    world.server.accept(now, ConnId(8), addr(LOCAL), addr("198.51.100.1:2"));
    world.server.receive(now, ConnId(8), b"\xffwhatever");
    assert_eq!(world.server.poll_output(), Some(Output::Close(ConnId(8))));
    assert_eq!(world.server.poll_timeout(), Some(s(60)));
    world.server.handle_timeout(s(60));
    assert_eq!(
        (world.server.poll_output(), world.server.poll_output()),
        (Some(Output::Close(ConnId(7))), None)
    );
    assert_eq!((world.server.poll_timeout(), world.server.stats().malformed), (None, 1));
}

/// Asks for a peer, and returns the events that follow.
fn asks(world: &mut World, n: usize, ip: &str) -> Vec<Event> {
    let now = world.instant();
    world.peers[n].client.permit(now, ip.parse().unwrap()).unwrap();
    world.settle();
    world.take(n)
}

#[test]
fn who_only_the_servers_own_networks_reach_is_refused_with_403() {
    let mut world = World::new(config());
    world.server.set_own(["198.51.100.200", "10.1.1.1", "127.0.0.1"].map(|ip| ip.parse().unwrap()));
    world.join("198.51.100.1:1000", alice(Transport::Udp));
    let forbidden = [
        "0.0.0.0",
        "10.0.0.1",
        "10.1.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.168.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "198.51.100.200",
    ];
    for (n, ip) in forbidden.iter().enumerate() {
        let peer = ip.parse().unwrap();
        assert_eq!(asks(&mut world, 0, ip), [Event::Refused { peer, code: 403 }], "{ip}");
        assert_eq!(world.server.stats().forbidden, n as u64 + 1);
    }
    // Nor does anything come in from there, though some of it could not be sent at all.
    world.permit(0, "192.0.2.1".parse().unwrap());
    world.server.relayed(world.now, RelayId(0), addr("192.168.0.1:9"), b"in");
    world.server.relayed(world.now, RelayId(0), addr("198.51.100.200:9"), b"in");
    world.server.relayed(world.now, RelayId(0), addr("192.0.2.1:9"), b"in");
    world.settle();
    assert_eq!(world.take(0), [Event::Data { from: addr("192.0.2.1:9"), data: b"in"[..].into() }]);
    assert_eq!((world.outside.len(), world.server.stats().forbidden), (0, forbidden.len() as u64 + 2));
    // IPv6 has forms with such addresses in them.
    let relay_ips = vec!["2001:db8::a".parse().unwrap()];
    let mut world = World::new(Config { relay_ips, ..config() });
    world.join("198.51.100.1:1000", ClientConfig { family: Family::V6, ..alice(Transport::Udp) });
    for ip in [
        "::1",
        "::10.0.0.1",
        "::ffff:0:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "2002:a00:1::",
        "2001:0:cb00:7101::f5ff:fffe",
        "fd00::1",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
    ] {
        let peer = ip.parse().unwrap();
        assert_eq!(asks(&mut world, 0, ip), [Event::Refused { peer, code: 403 }], "{ip}");
    }
    world.permit(0, "2001:db8::1".parse().unwrap());
}

#[test]
fn of_the_relays_own_address_only_relays_are_reached() {
    let mut world = World::new(config());
    for at in ["198.51.100.1:1000", "198.51.100.2:1000"] {
        let (n, _) = world.join(at, alice(Transport::Udp));
        world.permit(n, addr(LOCAL).ip());
    }
    let (from, to) = (world.relayed(0), world.relayed(1));
    // By indication first, then by a channel.
    for n in 1..=2 {
        world.send(0, addr(LOCAL), b"to the server's own port");
        world.send(0, addr("203.0.113.10:22"), b"to its machine");
        assert_eq!((world.outside.len(), world.server.stats().forbidden > 2 * n - 1), (0, true));
        world.send(0, to, b"to a relay");
        assert_eq!(world.take(1), [Event::Data { from, data: b"to a relay"[..].into() }]);
    }
    world.server.relayed(world.now, RelayId(0), addr("203.0.113.10:22"), b"from its machine");
    world.settle();
    assert_eq!(world.take(0), []);
}

#[test]
fn private_peers_are_for_private_relays_and_for_who_allows_them() {
    let at =
        |ip: &str, allow_private| Config { relay_ips: vec![ip.parse().unwrap()], allow_private, ..config() };
    for (config, reached) in [
        (at("203.0.113.10", true), &["10.0.0.1", "100.64.0.1", "192.168.0.1", "192.0.2.1"][..]),
        (at("192.168.0.7", false), &["10.0.0.1", "100.64.0.1", "192.168.0.1", "192.0.2.1"]),
        (at("127.0.0.1", false), &["127.0.0.1", "127.9.9.9", "192.0.2.1"]),
    ] {
        let mut world = World::new(config);
        world.server.set_own(["192.168.0.8".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        world.join("198.51.100.1:1000", alice(Transport::Udp));
        for ip in [
            "10.0.0.1",
            "100.64.0.1",
            "192.168.0.1",
            "192.168.0.8",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "192.0.2.1",
        ] {
            let peer = ip.parse().unwrap();
            let expected = match reached.contains(&ip) {
                true => Event::Permitted(peer),
                false => Event::Refused { peer, code: 403 },
            };
            assert_eq!(asks(&mut world, 0, ip), [expected], "{reached:?}");
        }
        world.send(0, addr("192.0.2.1:80"), b"out");
        assert_eq!(world.outside.len(), 1);
    }
}

#[test]
fn allocations_and_users_carry_so_many_bytes_a_second() {
    let limits = Limits { allocation_bytes: Some(200_000), user_bytes: Some(300_000), ..Limits::default() };
    let mut world = World::new(Config { limits, ..config() });
    let peer = addr("192.0.2.1:9");
    for n in 0..2 {
        world.join(&format!("198.51.100.{n}:1000"), alice(Transport::Udp));
        world.permit(n, peer.ip());
    }
    let sent = |world: &mut World, n: usize, times: usize| {
        let before = world.outside.len();
        (0..times).for_each(|_| world.send(n, peer, &[7; 1000]));
        world.outside.len() - before
    };
    assert_eq!(sent(&mut world, 0, 150), 100, "half a second's worth of the allocation");
    assert_eq!(sent(&mut world, 1, 150), 50, "and what is left of the user's");
    assert_eq!(world.server.stats().over_bytes, 150);
    world.now += s(1);
    assert_eq!(sent(&mut world, 0, 60), 60);
    // What comes counts like what goes.
    for _ in 0..60 {
        world.server.relayed(world.now, RelayId(0), peer, &[7; 1000]);
    }
    world.settle();
    assert_eq!(world.take(0).len(), 40);
    assert_eq!(sent(&mut world, 1, 150), 50);
    // Who comes again has not got it all again.
    world.close(0);
    world.join("198.51.100.9:1000", alice(Transport::Udp));
    world.permit(2, peer.ip());
    assert_eq!(sent(&mut world, 2, 10), 0);
    world.now += Duration::from_millis(10);
    assert_eq!(sent(&mut world, 2, 10), 3);
}

/// A request without proof, with so many bytes of attributes that are passed over.
fn unsigned(kind: u16, more: &[u8]) -> Vec<u8> {
    let length = more.len() as u16;
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), &[0x21, 0x12, 0xa4, 0x42], &[7; 12], more].concat()
}

/// REQUESTED-TRANSPORT: UDP.
const UDP: [u8; 8] = [0, 0x19, 0, 4, 17, 0, 0, 0];

#[test]
fn what_a_forged_source_is_sent_is_hardly_more_than_what_came_from_it() {
    let local = addr(LOCAL);
    let mut world = World::new(config());
    let mut answer = |from: &str, request: &[u8]| {
        world.server.datagram(world.now, local, addr(from), request);
        match world.server.poll_output() {
            Some(Output::Datagram { data, .. }) => data.len(),
            other => panic!("{other:?}"),
        }
    };
    // An Allocate that asks for nothing, and what only clients with an allocation ask: a header and a code.
    for kind in [3, 4, 8, 9, 10] {
        assert_eq!(answer("192.0.2.1:9", &unsigned(kind, &[])), 28, "{kind}");
    }
    // The challenge: header, code, realm, nonce with its security features, algorithms.
    assert_eq!(answer("192.0.2.2:9", &unsigned(3, &UDP)), 20 + 8 + 8 + 36 + 12);
    // A second of a hundred requests, of which none is over the rate of requests.
    let (mut asked, mut answered) = (0, 0);
    for n in 0..100_u64 {
        let request = unsigned(3, &UDP);
        asked += 28 + request.len();
        let now = s(50) + Duration::from_millis(10 * n);
        world.server.datagram(now, local, addr("192.0.2.3:9"), &request);
        while let Some(Output::Datagram { data, .. }) = world.server.poll_output() {
            answered += 28 + data.len();
        }
    }
    assert!(answered <= asked + 4096 + 256, "{answered} for {asked}");
    // Whoever answers the challenge gets in, also from an address in whose name many were asked for.
    world.now = s(52);
    assert!(is_allocated(&world.join("192.0.2.3:10", alice(Transport::Udp)).1));
    // A stream's source is not forged.
    assert!(is_allocated(&world.join("192.0.2.3:11", alice(Transport::Tcp)).1));
}

#[test]
fn a_flood_of_strangers_is_bounded_and_others_still_get_in() {
    let mut world = World::new(config());
    world.join("198.51.100.1:1000", alice(Transport::Udp));
    let bare = unsigned(3, &UDP);
    let mut answered = 0;
    for n in 0..20_000_u32 {
        // Two thousand a second, each from an address of its own.
        let now = Duration::from_micros(u64::from(n) * 500);
        let from = (std::net::Ipv4Addr::from_bits(0x0a00_0000 + n), 9).into();
        world.server.datagram(now, addr(LOCAL), from, &bare);
        while world.server.poll_output().is_some() {
            answered += 1;
        }
    }
    assert!((10_000..12_500).contains(&answered), "{answered}");
    assert_eq!(world.server.stats().over_rate, 20_000 - answered);
    // One source alone gets fifty a second, and two hundred at once.
    world.now = s(100);
    let mut answered = 0;
    for _ in 0..1000 {
        world.server.datagram(world.now, addr(LOCAL), addr("198.51.100.9:9"), &bare);
        answered += u32::from(world.server.poll_output().is_some());
    }
    // 4,096 bytes beyond what came, 56 for each answer, and then every other one.
    assert_eq!(answered, 73 + 63);
    assert!(is_allocated(&world.join("198.51.100.2:1000", alice(Transport::Udp)).1));
    let now = world.instant();
    world.peers[0].client.handle_timeout(now);
    world.permit(0, addr(LOCAL).ip());
}

#[test]
fn mutated_messages_do_not_panic_and_open_nothing() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % n
    };
    let mut world = World::new(config());
    world.join("198.51.100.1:1000", alice(Transport::Udp));
    world.permit(0, addr(LOCAL).ip());
    // What an honest client says, caught on the way.
    let mut client = Client::new(alice(Transport::Udp), [9; 32], Instant::ZERO);
    let mut seeds = vec![client.poll_transmit().unwrap().to_vec(), b"\x40\x00\x00\x05hello".to_vec()];
    world.server.datagram(Duration::ZERO, addr(LOCAL), addr("198.51.100.9:9"), &seeds[0]);
    let Some(Output::Datagram { data, .. }) = world.server.poll_output() else { panic!("no challenge") };
    client.handle(Instant::ZERO, &data);
    seeds.push(client.poll_transmit().unwrap().to_vec());
    let mut answered = 0;
    for round in 0..100_000_u64 {
        let mut bytes = seeds[draw(seeds.len())].clone();
        for _ in 0..=draw(3) {
            match draw(8) {
                0 => bytes.truncate(draw(bytes.len() + 1)),
                1 => bytes.extend_from_within(draw(bytes.len() + 1)..),
                _ if !bytes.is_empty() => {
                    let at = draw(bytes.len());
                    bytes[at] = draw(256) as u8;
                }
                _ => {}
            }
        }
        let now = Duration::from_millis(round);
        let from = if draw(2) == 0 { "198.51.100.9:9" } else { "198.51.100.1:1000" };
        world.server.datagram(now, addr(LOCAL), addr(from), &bytes);
        while let Some(output) = world.server.poll_output() {
            match output {
                Output::Datagram { .. } | Output::CloseRelay(_) => answered += 1,
                // A byte of an attribute that is not read, or of FINGERPRINT, may change.
                Output::Open(relay, _) => world.server.opened(now, relay, None),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(answered > 500, "{answered}");
    assert_eq!(world.server.allocations(), 1);
}
