//! One NAT by itself, for those who have a simulator: every verdict that it can come to, and that the world's are the same.

use std::net::SocketAddr;

use p2pd_netsim::engine::{Domain, Keyed, MILLI, Nanos, SECOND};
use p2pd_netsim::host::{HostEvent, Reuse};
use p2pd_netsim::nat::{
    Alloc, Chain, Kind, LAB, Nat, NatSpec, Order, PRESETS, Reason, Side, Unsolicited, Verdict,
};
use p2pd_netsim::net::{Body, Flags, IcmpKind, LinkSpec, Packet, Proto, Segment};
use p2pd_netsim::world::{App, Cx, SiteSpec, World};

const INSIDE: &str = "192.168.1.2:5000";
const EXTERNAL: &str = "203.0.113.1:5000";
const SERVER: &str = "198.51.100.9:53";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn nat(text: &str) -> Nat {
    let Chain(specs) = text.parse().unwrap();
    Nat::new(0, Keyed::new(7), specs[0], vec![at(EXTERNAL).ip()])
}

fn udp(src: &str, dst: &str) -> Packet {
    Packet { src: at(src), dst: at(dst), ttl: 64, body: Body::Udp((&b"hello"[..]).into()) }
}

fn tcp(src: &str, dst: &str, flags: Flags, seq: u32) -> Packet {
    let segment = Segment { flags, seq, ack: 0, window: 1_000, data: Default::default() };
    Packet { src: at(src), dst: at(dst), ttl: 64, body: Body::Tcp(segment) }
}

fn drop_of(verdict: Verdict) -> Reason {
    match verdict {
        Verdict::Dropped(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flow_is_translated_both_ways_until_it_expires() {
    let mut nat = nat("linux");
    let out = nat.translate(0, Side::Inside, udp(INSIDE, SERVER));
    assert_eq!(out, Verdict::Translated(Side::Outside, udp(EXTERNAL, SERVER).into()));
    let back = |nat: &mut Nat, now| nat.translate(now, Side::Outside, udp(SERVER, EXTERNAL));
    let inside = Verdict::Translated(Side::Inside, udp(SERVER, INSIDE).into());
    assert_eq!(back(&mut nat, 29 * SECOND), inside);
    assert_eq!(back(&mut nat, 148 * SECOND), inside, "with a reply it lives 120 s");
    assert_eq!(drop_of(back(&mut nat, 269 * SECOND)), Reason::Unsolicited);
    assert_eq!(nat.spec(), &NatSpec::LINUX);
}

#[test]
fn strangers_are_answered_as_the_policy_says() {
    let answer =
        |policy: &str, packet: Packet| nat(&format!("linux/{policy}")).translate(0, Side::Outside, packet);
    let syn = || tcp(SERVER, EXTERNAL, Flags::SYN, 6);
    let Verdict::Answered(Side::Outside, rst) = answer("rst", syn()) else { panic!() };
    let Body::Tcp(segment) = &rst.body else { panic!("{rst}") };
    assert_eq!((rst.src, rst.dst, segment.ack), (at(EXTERNAL), at(SERVER), 7));
    assert!(segment.flags.rst() && segment.flags.ack());
    let kinds =
        [("icmp-port", IcmpKind::Port), ("icmp-host", IcmpKind::Host), ("icmp-admin", IcmpKind::Admin)];
    for (policy, kind) in kinds {
        let Verdict::Answered(Side::Outside, icmp) = answer(policy, syn()) else { panic!("{policy}") };
        let Body::Icmp(said, quote) = icmp.body else { panic!("{icmp}") };
        assert_eq!((said, quote.src, quote.seq), (kind, at(SERVER), 6));
    }
    assert_eq!(drop_of(answer("drop", syn())), Reason::Unsolicited);
    // RFC 5382: silence for 6 s, and the port unreachable unless somebody inside has dialled meanwhile.
    for dials in [false, true] {
        let mut nat = nat("rfc5382");
        let Verdict::Later(when, waiting) = nat.translate(SECOND, Side::Outside, syn()) else { panic!() };
        assert_eq!((when, &*waiting), (7 * SECOND, &syn()));
        if dials {
            nat.translate(2 * SECOND, Side::Inside, tcp(INSIDE, SERVER, Flags::SYN, 1)).out().unwrap();
        }
        match nat.again(when, &waiting) {
            Verdict::Answered(Side::Outside, icmp) if !dials => assert_eq!(icmp.dst.ip(), at(SERVER).ip()),
            Verdict::Dropped(Reason::Forgotten) if dials => {}
            other => panic!("{dials}: {other:?}"),
        }
    }
}

#[test]
fn a_packet_to_our_own_outside_comes_back_in_where_the_field_says_so() {
    let other = "192.168.1.3:6000";
    let hairpin = |how: &str| {
        let mut nat = nat(&format!("fullcone,hairpin={how}"));
        nat.translate(0, Side::Inside, udp(INSIDE, SERVER)).out().unwrap();
        nat.translate(0, Side::Inside, udp(other, EXTERNAL))
    };
    assert_eq!(hairpin("external"), Verdict::Hairpinned(udp("203.0.113.1:6000", INSIDE).into()));
    assert_eq!(hairpin("internal"), Verdict::Hairpinned(udp(other, INSIDE).into()));
    assert_eq!(drop_of(hairpin("dropped")), Reason::Hairpin);
    let Verdict::Answered(Side::Inside, icmp) = hairpin("refused") else { panic!() };
    assert_eq!(icmp.dst.ip(), at(other).ip());
}

#[test]
fn every_reason_to_drop_is_said() {
    let out = |text: &str, packet: Packet| drop_of(nat(text).translate(0, Side::Inside, packet));
    assert_eq!(out("linux,udp=no", udp(INSIDE, SERVER)), Reason::UdpBlocked);
    assert_eq!(out("linux,narrow=yes", tcp(INSIDE, SERVER, Flags::SYN, 1)), Reason::Narrow);
    assert_eq!(out("apdm.apdf.rand.drop", tcp(INSIDE, SERVER, Flags::ACK, 1)), Reason::NoSession);
    let icmp = udp(SERVER, INSIDE).icmp(IcmpKind::Port, at(INSIDE).ip()).unwrap();
    assert_eq!(out("linux", *icmp), Reason::IcmpOfNothing);
    // Linux forwards what conntrack calls invalid as it is.
    let stray = tcp(INSIDE, SERVER, Flags::ACK, 1);
    assert_eq!(nat("linux").translate(0, Side::Inside, stray.clone()), Verdict::Untranslated(stray.into()));
    let twice = |spec: NatSpec, external: &[&str]| {
        let external = external.iter().map(|ip| ip.parse().unwrap()).collect();
        let mut nat = Nat::new(0, Keyed::new(1), spec, external);
        let first = nat.translate(0, Side::Inside, udp(INSIDE, SERVER));
        (first, nat.translate(0, Side::Inside, udp("192.168.1.3:7", SERVER)))
    };
    let one = ["203.0.113.1"];
    let mut spec = NatSpec::LINUX;
    spec.caps.total = 1;
    assert_eq!(drop_of(twice(spec, &one).1), Reason::SessionLimit);
    let spec = NatSpec { range: (2_000, 2_000), ..NatSpec::LINUX.alloc(Alloc::Random) };
    assert_eq!(drop_of(twice(spec, &one).1), Reason::NoPort);
    let empty = NatSpec { range: (2_000, 1_999), ..spec };
    assert_eq!(drop_of(twice(empty, &one).0), Reason::NoPort);
    assert_eq!(drop_of(twice(NatSpec::LINUX, &[]).0), Reason::NoAddress);
    let spec = NatSpec { udp_rate: 1_000, ..NatSpec::LINUX };
    assert_eq!(drop_of(twice(spec, &one).1), Reason::UdpPoliced);
}

#[test]
fn orders_and_power_cuts_are_carried_out() {
    let mut nat = nat("linux");
    let stranger =
        |nat: &mut Nat, now: Nanos| nat.translate(now, Side::Outside, udp(SERVER, "203.0.113.1:80"));
    let open = Order::Open { proto: Proto::Udp, external: 80, inside: at(INSIDE), until: 9 * SECOND };
    nat.carry_out(open);
    assert_eq!(stranger(&mut nat, SECOND), Verdict::Translated(Side::Inside, udp(SERVER, INSIDE).into()));
    nat.reboot();
    assert_eq!(drop_of(stranger(&mut nat, 2 * SECOND)), Reason::Unsolicited);
    let mut exposed =
        Nat::new(0, Keyed::new(1), NatSpec { dmz: true, ..NatSpec::LINUX }, vec![at(EXTERNAL).ip()]);
    exposed.host_added(at(INSIDE).ip());
    let (_, packet) = stranger(&mut exposed, 0).out().unwrap();
    assert_eq!(packet.dst, at("192.168.1.2:80"));
}

/// Every kind of NAT gets packets drawn from few ends at drawn times: none makes it panic, and what leaves is never from
/// an inside address, but where Linux forwards what is invalid.
#[test]
fn no_packet_breaks_any_nat() {
    let rng = Keyed::new(11);
    let presets = PRESETS.iter().chain(LAB).filter_map(|p| p.chain.first().copied());
    let mut verdicts = [0u32; 6];
    let all =
        presets.chain(Kind::all().map(Kind::spec)).chain([NatSpec::LINUX.unsolicited(Unsolicited::Delayed)]);
    for (n, spec) in all.enumerate() {
        let mut nat = Nat::new(n as u64, rng, spec, vec![at(EXTERNAL).ip()]);
        let (mut now, mut waiting) = (0, Vec::<(Nanos, Box<Packet>)>::new());
        for draw in 0..400 {
            let below = |what: u64, bound| rng.below(Domain::User(0), n as u64, 8 * draw + what, bound);
            now += [MILLI, 40 * SECOND][usize::from(below(0, 20) == 0)];
            waiting.retain(|(when, packet)| {
                if *when <= now {
                    let _ = nat.again(now, packet);
                }
                *when > now
            });
            let inside = format!("192.168.1.{}:{}", 2 + below(1, 2), 5_000 + below(2, 2));
            let remote = format!("198.51.100.{}:{}", 8 + below(3, 2), 53 + below(4, 2));
            let external = format!("203.0.113.1:{}", 5_000 + below(2, 2));
            let (side, src, dst) = match below(5, 5) {
                0 | 1 => (Side::Inside, &inside, &remote),
                2 => (Side::Inside, &inside, &external),
                _ => (Side::Outside, &remote, &external),
            };
            let flags =
                [Flags::SYN, Flags::SYN | Flags::ACK, Flags::ACK, Flags::FIN | Flags::ACK, Flags::RST];
            let packet = match below(6, 8) {
                0..5 => tcp(src, dst, flags[below(6, 5) as usize], below(7, 4) as u32),
                5 => *udp(dst, src).icmp(IcmpKind::Port, at(src).ip()).unwrap(),
                _ => udp(src, dst),
            };
            let verdict = nat.translate(now, side, packet);
            verdicts[match &verdict {
                Verdict::Translated(to, packet) => {
                    assert_eq!(*to, side.other());
                    let hidden = !spec.translate || packet.src.ip() == at(EXTERNAL).ip();
                    assert!(side == Side::Outside || hidden, "{packet}");
                    0
                }
                Verdict::Hairpinned(_) => 1,
                Verdict::Untranslated(_) => 2,
                Verdict::Answered(..) => 3,
                Verdict::Later(when, packet) => {
                    waiting.push((*when, packet.clone()));
                    4
                }
                _ => 5,
            }] += 1;
        }
    }
    assert!(verdicts.iter().all(|count| *count > 5), "{verdicts:?}");
}

/// Records the ends that its datagrams come from.
#[derive(Default)]
struct Listener(Vec<SocketAddr>);

impl App for Listener {
    fn event(&mut self, _: &mut Cx<'_>, event: HostEvent) {
        if let HostEvent::Datagram { from, .. } = event {
            self.0.push(from);
        }
    }
    fn wake(&mut self, _: &mut Cx<'_>, _: u64) {}
}

#[test]
fn the_worlds_nat_is_this_one() {
    for text in ["linux", "apdm.apdf.seq2.rst", "apdm.apdf.rand.drop", "eim.adf.block.icmp"] {
        let mut world: World<Listener> = World::new(7);
        let link = LinkSpec::with_delay(MILLI);
        let mut site = world.add_site(&SiteSpec { number: 1, chain: text.parse().unwrap(), link });
        let inside = world.add_host_at(&mut site, Listener::default());
        let net = world.internet();
        let servers =
            [9, 10].map(|last| world.add_host(net, [198, 51, 100, last].into(), link, Listener::default()));
        for server in servers {
            world.with(server, |_, cx| cx.host.bind_udp(at("0.0.0.0:53"), Reuse::No)).unwrap();
        }
        let Chain(specs) = text.parse().unwrap();
        let mut alone = Nat::new(0, Keyed::new(7), specs[0], site.external.clone());
        for (port, to) in [(5_000, 9), (5_000, 10), (5_001, 9), (5_002, 10), (5_000, 9)] {
            let to = SocketAddr::from(([198, 51, 100, to], 53));
            let ip = world.host(inside).addresses()[0];
            world.with(inside, |_, cx| {
                let sock = cx.host.bind_udp(SocketAddr::new(ip, port), Reuse::AddressAndPort).unwrap();
                cx.host.send_to(sock, None, to, (&b"hello"[..]).into());
            });
            let until = world.now() + SECOND;
            world.run_until(until);
            let packet = Packet { src: SocketAddr::new(ip, port), dst: to, ..udp(INSIDE, SERVER) };
            let (_, out) = alone.translate(world.now(), Side::Inside, packet).out().unwrap();
            let server = servers[usize::from(to.ip() != at(SERVER).ip())];
            assert_eq!(world.app(server).0.last(), Some(&out.src), "{text}");
        }
    }
}
