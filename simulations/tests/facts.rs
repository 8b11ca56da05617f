//! Single rules of hosts, NATs and servers, each as it was measured or as its RFC has it.

use std::net::{IpAddr, SocketAddr};

use p2pd_core::Transport;
use p2pd_core::stun::{self, BindingOutcome, ChangeRequest, TransactionId};
use p2pd_simulations::engine::{MILLI, Nanos, SECOND};
use p2pd_simulations::host::{Close, Failure, HostEvent, Reuse, Sock};
use p2pd_simulations::nat::{Chain, Dependence, PRESETS};
use p2pd_simulations::net::LinkSpec;
use p2pd_simulations::service::{ServerProgram, StunFaults, StunServer};
use p2pd_simulations::world::{App, Cx, HostId, SiteSpec, World};

/// A program that carries out calls and records its events, or a server.
enum Puppet {
    Hand(Vec<(Nanos, HostEvent)>),
    Server(ServerProgram),
}

impl App for Puppet {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match self {
            Puppet::Hand(events) => events.push((cx.now, event)),
            Puppet::Server(server) => server.event(cx, event),
        }
    }

    fn wake(&mut self, cx: &mut Cx<'_>, token: u64) {
        if let Puppet::Server(server) = self {
            server.wake(cx, token);
        }
    }
}

const SHARED: Reuse = Reuse::AddressAndPort;
const MS5: LinkSpec = LinkSpec::with_delay(5 * MILLI);

struct Bench {
    world: World<Puppet>,
}

impl Bench {
    fn new() -> Bench {
        Bench { world: World::new(7) }
    }

    fn public(&mut self, last: u8) -> HostId {
        let internet = self.world.internet();
        self.world.add_host(internet, [203, 0, 113, last].into(), MS5, Puppet::Hand(Vec::new()))
    }

    /// Hosts at one site behind a chain of NATs, with the external address 45.10.N.1.
    fn site<const N: usize>(&mut self, number: u8, chain: &str) -> [HostId; N] {
        let spec = SiteSpec { number, chain: chain.parse().unwrap(), link: MS5 };
        let mut site = self.world.add_site(&spec);
        std::array::from_fn(|_| self.world.add_host_at(&mut site, Puppet::Hand(Vec::new())))
    }

    fn run(&mut self, for_ms: u64) {
        let until = self.world.now() + for_ms * MILLI;
        self.world.run_until(until);
        self.world.check().unwrap();
    }

    fn events(&self, host: HostId) -> Vec<HostEvent> {
        match self.world.app(host) {
            Puppet::Hand(events) => events.iter().map(|(_, e)| e.clone()).collect(),
            Puppet::Server(_) => panic!("a server"),
        }
    }

    fn udp(&mut self, host: HostId, port: u16) -> Sock {
        let local = SocketAddr::new([0, 0, 0, 0].into(), port);
        self.world.with(host, |_, cx| cx.host.bind_udp(local, SHARED)).unwrap()
    }

    fn send(&mut self, host: HostId, sock: Sock, to: SocketAddr, text: &str) {
        let data = text.as_bytes().to_vec().into();
        self.world.with(host, |_, cx| cx.host.send_to(sock, None, to, data));
    }

    fn listen(&mut self, host: HostId, port: u16) -> Sock {
        let local = SocketAddr::new([0, 0, 0, 0].into(), port);
        self.world.with(host, |_, cx| cx.host.listen(local, 8, SHARED)).unwrap()
    }

    fn dial(&mut self, host: HostId, port: u16, to: SocketAddr) -> Result<Sock, Failure> {
        self.dial_with(host, port, to, SHARED)
    }

    fn dial_with(&mut self, host: HostId, port: u16, to: SocketAddr, reuse: Reuse) -> Result<Sock, Failure> {
        self.world.with(host, |_, cx| {
            let local = SocketAddr::new([0, 0, 0, 0].into(), port);
            let sock = cx.host.bind_tcp(local, to, reuse)?;
            cx.host.connect(cx.now, sock, to).map(|()| sock)
        })
    }

    /// Returns the addresses that have connected or sent to a host.
    fn seen(&self, host: HostId) -> Vec<SocketAddr> {
        self.events(host)
            .iter()
            .filter_map(|e| match e {
                HostEvent::Accepted { sock, .. } => self.world.host(host).remote(*sock),
                HostEvent::Datagram { from, .. } => Some(*from),
                _ => None,
            })
            .collect()
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn linux_keeps_a_port_for_every_destination_until_two_hosts_collide() {
    let mut b = Bench::new();
    let [one, two] = b.site(1, "linux");
    let servers = [b.public(1), b.public(2)];
    for server in servers {
        b.listen(server, 5001);
        b.listen(server, 5002);
    }
    for to in ["203.0.113.1:5001", "203.0.113.1:5002", "203.0.113.2:5001"] {
        b.dial(one, 40_000, at(to)).unwrap();
    }
    b.run(100);
    assert_eq!(b.seen(servers[0]), [at("45.10.1.1:40000"); 2]);
    assert_eq!(b.seen(servers[1]), [at("45.10.1.1:40000")]);
    // The same port of another host: shared towards another destination, replaced towards the same.
    b.dial(two, 40_000, at("203.0.113.2:5002")).unwrap();
    b.dial(two, 40_000, at("203.0.113.2:5001")).unwrap();
    b.run(100);
    let seen = b.seen(servers[1]);
    assert_eq!(seen[1], at("45.10.1.1:40000"));
    assert_ne!(seen[2].port(), 40_000);
}

#[test]
fn an_early_datagram_takes_the_port_away_where_the_router_itself_takes_it() {
    for (chain, kept) in [("linux", true), ("linux/local", false), ("linux/rst", true)] {
        let mut b = Bench::new();
        let [inside] = b.site(1, chain);
        let server = b.public(1);
        let theirs = b.udp(server, 5300);
        b.send(server, theirs, at("45.10.1.1:48101"), "early");
        b.run(100);
        let ours = b.udp(inside, 48_101);
        b.send(inside, ours, at("203.0.113.1:5300"), "late");
        b.run(100);
        assert_eq!(b.seen(server)[0].port() == 48_101, kept, "{chain}");
    }
}

#[test]
fn hairpins_do_what_the_field_says() {
    let seen = |hairpin: &str| {
        let mut b = Bench::new();
        let [one, two] = b.site(1, &format!("fullcone,hairpin={hairpin}"));
        let server = b.public(1);
        let (listening, dialling) = (b.udp(one, 6_000), b.udp(two, 7_000));
        b.send(one, listening, at("203.0.113.1:9"), "opens the mapping");
        b.run(50);
        b.send(two, dialling, at("45.10.1.1:6000"), "hairpin");
        b.run(50);
        let _ = server;
        b.seen(one)
    };
    assert_eq!(seen("external"), [at("45.10.1.1:7000")]);
    assert_eq!(seen("internal"), [at("192.168.1.3:7000")]);
    assert_eq!(seen("dropped"), []);
    let mut b = Bench::new();
    let [one, two] = b.site(1, "linux");
    b.listen(one, 48_400);
    let sock = b.dial(two, 0, at("45.10.1.1:48400")).unwrap();
    b.run(50);
    assert_eq!(b.events(two), [HostEvent::Failed(sock, Failure::Refused)], "measured: no rule, refused");
}

#[test]
fn a_four_tuple_exists_once_and_is_free_after_a_failure_or_an_active_close() {
    let mut b = Bench::new();
    let (one, two) = (b.public(1), b.public(2));
    let to = at("203.0.113.2:80");
    let first = b.dial(one, 5_000, to).unwrap();
    assert_eq!(b.dial(one, 5_000, to), Err(Failure::AddrNotAvailable));
    assert!(b.dial(one, 5_000, at("203.0.113.2:81")).is_ok());
    b.world.with(one, |_, cx| cx.host.close(cx.now, first, Close::Drop));
    b.listen(two, 80);
    let second = b.dial(one, 5_000, to).unwrap();
    b.run(100);
    assert!(b.events(one).contains(&HostEvent::Connected(second)));
    let HostEvent::Accepted { sock, .. } = b.events(two)[0] else { panic!() };
    b.world.with(one, |_, cx| cx.host.close(cx.now, second, Close::Graceful));
    b.run(100);
    b.world.with(two, |_, cx| cx.host.close(cx.now, sock, Close::Graceful));
    b.run(200);
    let third = b.dial(one, 5_000, to).unwrap();
    b.run(100);
    assert!(b.events(one).contains(&HostEvent::Connected(third)), "TIME_WAIT of ours does not block us");
    // A port without SO_REUSEPORT is ours alone; one address more does not help.
    let plain = Reuse::No;
    assert_eq!(b.dial_with(two, 80, at("203.0.113.1:9"), plain), Err(Failure::AddrInUse));
}

#[test]
fn bytes_arrive_exactly_through_every_fault_of_the_way() {
    let mut b = Bench::new();
    let (one, two) = (b.public(1), b.public(2));
    let bad = LinkSpec {
        jitter: 20 * MILLI,
        loss_ppm: 50_000,
        reorder_ppm: 50_000,
        hold: 30 * MILLI,
        duplicate_ppm: 50_000,
        ..MS5
    };
    b.world.set_link(one, bad);
    b.listen(two, 80);
    let dialled = b.dial(one, 0, at("203.0.113.2:80")).unwrap();
    b.run(30_000);
    let HostEvent::Accepted { sock: accepted, .. } = b.events(two)[0] else { panic!() };
    let text = |tag: u32| (0..300_000u32).map(|n| (n.wrapping_mul(tag) >> 7) as u8).collect::<Vec<u8>>();
    for (host, sock, tag) in [(one, dialled, 12_345), (two, accepted, 54_321)] {
        b.world.with(host, |_, cx| {
            cx.host.send(cx.now, sock, &text(tag));
            cx.host.finish(cx.now, sock);
        });
    }
    let mut got = [Vec::new(), Vec::new()];
    for _ in 0..6_000 {
        b.run(100);
        for (n, (host, sock)) in [(one, dialled), (two, accepted)].into_iter().enumerate() {
            // A slow reader: the window closes and opens.
            let data = b.world.with(host, |_, cx| cx.host.read(sock, 5_000));
            got[n].extend(data);
        }
    }
    assert!(got[0] == text(54_321) && got[1] == text(12_345), "{} {}", got[0].len(), got[1].len());
    assert!(b.world.host(one).at_end(dialled) && b.world.host(two).at_end(accepted));
    b.world.with(one, |_, cx| cx.host.close(cx.now, dialled, Close::Graceful));
    b.world.with(two, |_, cx| cx.host.close(cx.now, accepted, Close::Graceful));
    b.run(600_000);
    assert_eq!(
        (b.world.host(one).sockets(), b.world.host(two).sockets()),
        (0, 1),
        "only the listener is left"
    );
}

#[test]
fn closing_with_unread_bytes_and_resetting_are_heard() {
    for how in [Close::Graceful, Close::Reset] {
        let mut b = Bench::new();
        let (one, two) = (b.public(1), b.public(2));
        b.listen(two, 80);
        let dialled = b.dial(one, 0, at("203.0.113.2:80")).unwrap();
        b.run(100);
        let HostEvent::Accepted { sock, .. } = b.events(two)[0] else { panic!() };
        b.world.with(one, |_, cx| cx.host.send(cx.now, dialled, b"unread"));
        b.run(100);
        b.world.with(two, |_, cx| cx.host.close(cx.now, sock, how));
        b.run(100);
        assert!(b.events(one).contains(&HostEvent::Broken(dialled, Failure::Reset)), "{how:?}");
    }
}

#[test]
fn a_syn_with_few_hops_opens_our_nat_and_dies_before_theirs() {
    let mut b = Bench::new();
    let ([one], [two]) = (b.site(1, "linux"), b.site(2, "linux/rst"));
    let to = at("45.10.2.1:5000");
    let sock = b.world.with(one, |_, cx| {
        let sock = cx.host.bind_tcp(at("0.0.0.0:5000"), to, SHARED).unwrap();
        cx.host.set_ttl(sock, 4);
        cx.host.connect(cx.now, sock, to).map(|()| sock).unwrap()
    });
    b.run(100);
    // Linux ends a dial on "time exceeded".
    assert_eq!(b.events(one), [HostEvent::Failed(sock, Failure::Unreachable)]);
    b.listen(one, 5_000);
    b.dial(two, 5_000, at("45.10.1.1:5000")).unwrap();
    b.run(100);
    // The listener's SYN-ACK is not of the SYN that conntrack saw: the measured un-translated leak.
    assert!(!b.events(two).iter().any(|e| matches!(e, HostEvent::Connected(_))));
}

#[test]
fn rfc_5382_waits_six_seconds_before_it_refuses() {
    let mut b = Bench::new();
    let ([_inside], one) = (b.site(1, "rfc5382"), b.public(1));
    let sock = b.dial(one, 0, at("45.10.1.1:1234")).unwrap();
    b.run(5_990);
    assert_eq!(b.events(one), []);
    b.run(40);
    assert_eq!(b.events(one), [HostEvent::Failed(sock, Failure::Refused)]);
}

/// Measures a NAT by RFC 5780's tests over UDP: the dependence of mapping, as far as it shows, and of filtering.
fn measure(chain: &Chain) -> (Dependence, Dependence) {
    let mut world: World<Puppet> = World::new(3);
    let servers: [IpAddr; 2] = [[203, 0, 113, 10].into(), [203, 0, 113, 11].into()];
    let internet = world.internet();
    let stun = ServerProgram::new(Box::new(StunServer::new(servers, StunFaults::default())));
    let host = world.add_host(internet, servers[0], MS5, Puppet::Server(stun));
    world.add_address(host, internet, servers[1], MS5);
    let mut site = world.add_site(&SiteSpec { number: 1, chain: chain.clone(), link: MS5 });
    let inside = world.add_host_at(&mut site, Puppet::Hand(Vec::new()));
    let mut b = Bench { world };
    let mut asked = 0;
    let mut ask = |port: u16, to: SocketAddr, change: Option<ChangeRequest>| {
        asked += 1;
        let transaction = TransactionId([asked; 12]);
        let bound = b.world.with(inside, |_, cx| cx.host.bind_udp(([0, 0, 0, 0], port).into(), SHARED));
        let sock = bound.unwrap();
        let request = stun::binding_request(transaction, change);
        b.world.with(inside, |_, cx| cx.host.send_to(sock, None, to, request));
        b.run(1_000);
        let answer = b.events(inside).iter().find_map(|e| match e {
            HostEvent::Datagram { data, .. } => {
                let reply = stun::decode_binding(data, Transport::Udp).unwrap();
                (reply.transaction == transaction).then_some(reply.outcome)
            }
            _ => None,
        });
        b.world.with(inside, |_, cx| cx.host.close(cx.now, sock, Close::Drop));
        match answer {
            Some(BindingOutcome::Mapped(mapped)) => Some(mapped),
            Some(BindingOutcome::Error(code)) => panic!("error {code}"),
            None => None,
        }
    };
    let server = |ip: usize, port| SocketAddr::new(servers[ip], port);
    let mapped = [server(0, 3478), server(1, 3478), server(1, 3479)].map(|to| ask(40_000, to, None).unwrap());
    let mapping = match mapped {
        [a, b, _] if a == b => Dependence::Endpoint,
        [_, b, c] if b == c => Dependence::Address,
        _ => Dependence::AddressAndPort,
    };
    let other = ask(41_000, server(0, 3478), Some(ChangeRequest { ip: true, port: true }));
    let port = ask(42_000, server(0, 3478), Some(ChangeRequest { ip: false, port: true }));
    let filtering = match (other, port) {
        (Some(_), _) => Dependence::Endpoint,
        (None, Some(_)) => Dependence::Address,
        (None, None) => Dependence::AddressAndPort,
    };
    (mapping, filtering)
}

#[test]
fn every_preset_measures_as_what_it_says() {
    for preset in PRESETS {
        let [spec] = preset.chain else { continue };
        let (mapping, filtering) = measure(&Chain(preset.chain.to_vec()));
        assert_eq!(filtering, spec.udp.1, "{}", preset.name);
        // A NAT that keeps the port looks endpoint-independent, and a firewall is.
        use p2pd_simulations::nat::Alloc;
        let keeps = !spec.translate || matches!(spec.alloc, Alloc::Preserve(_));
        let expected = if keeps { Dependence::Endpoint } else { spec.udp.0 };
        assert_eq!(mapping, expected, "{}", preset.name);
    }
    let other = |text: &str| measure(&text.parse().unwrap());
    let (ad, apd) = (Dependence::Address, Dependence::AddressAndPort);
    assert_eq!(other("u:adm.adf.seq"), (ad, ad));
    assert_eq!(other("fullcone,map=apd,alloc=random"), (apd, Dependence::Endpoint));
    assert_eq!(other("fc+symrand"), (apd, apd), "a chain is as its worst");
}

#[test]
fn a_power_cut_and_time_forget_mappings() {
    let mut b = Bench::new();
    let spec = SiteSpec { number: 1, chain: "linux".parse().unwrap(), link: MS5 };
    let mut site = b.world.add_site(&spec);
    let inside = b.world.add_host_at(&mut site, Puppet::Hand(Vec::new()));
    let server = b.public(1);
    let (ours, theirs) = (b.udp(inside, 4_000), b.udp(server, 53));
    let answered = |b: &mut Bench, wait: u64, cut: bool| {
        b.send(inside, ours, at("203.0.113.1:53"), "?");
        b.run(50);
        if cut {
            b.world.reboot_nat(site.nats[0]);
        }
        b.run(wait);
        let before = b.seen(inside).len();
        b.send(server, theirs, at("45.10.1.1:4000"), "!");
        b.run(50);
        b.seen(inside).len() > before
    };
    assert!(answered(&mut b, 29_000, false));
    assert!(!answered(&mut b, 121_000, false), "a flow with replies lives 120 s");
    b.run(200_000);
    assert!(!answered(&mut b, 31_000, false), "one without lives 30 s");
    assert!(!answered(&mut b, 0, true));
    assert!(b.world.now() > 300 * SECOND);
}
