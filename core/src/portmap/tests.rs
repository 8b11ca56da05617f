//! The mapper against routers written by hand.
use super::pcp;
use super::*;

const LOCAL: &str = "192.168.1.5";
const SERVER: &str = "192.168.1.1:5351";

pub(super) fn ms(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn config() -> Config {
    let gateway = Some(at(SERVER).ip());
    Config { gateway, upnp: false, ..Config::new(LOCAL.parse().unwrap(), 24) }
}

fn mapper(config: Config) -> Mapper {
    Mapper::new(config, [5; 32], Instant::ZERO)
}

/// The datagrams that are to be sent, all to the gateway.
fn sent(mapper: &mut Mapper) -> Vec<Bytes> {
    let datagram = |request| match request {
        Request::Datagram { to, data } if to == at(SERVER) => data,
        other => panic!("{other:?}"),
    };
    core::iter::from_fn(|| mapper.poll_request()).map(datagram).collect()
}

pub(super) fn events(mapper: &mut Mapper) -> Vec<Event> {
    core::iter::from_fn(|| mapper.poll_event()).collect()
}

/// Lets time pass until nothing is due before `until`; what was sent, and when.
fn pass(mapper: &mut Mapper, until: Instant) -> Vec<(u128, Bytes)> {
    let mut all = Vec::new();
    while let Some(due) = mapper.poll_timeout().filter(|due| *due <= until) {
        mapper.handle_timeout(due);
        assert!(mapper.poll_timeout().is_none_or(|next| next > due), "the deadline moves");
        all.extend(sent(mapper).into_iter().map(|data| (due.since(Instant::ZERO).as_millis(), data)));
    }
    all
}

fn hear(mapper: &mut Mapper, now: Instant, data: &[u8]) {
    mapper.datagram(now, at(SERVER), data);
}

/// Maps TCP 4000 by PCP at time 0: what was asked, and its id.
fn by_pcp(mapper: &mut Mapper, lifetime: u32) -> (MapId, Bytes) {
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    let asked = sent(mapper);
    assert_eq!((asked.len(), asked[0].len(), &asked[1][..]), (2, 60, &[0, 0][..]));
    hear(mapper, Instant::ZERO, &pcp::answer(&asked[0], 0, lifetime, 1000, at("9.9.9.9:4000")));
    assert_eq!(events(mapper), [mapped(id, Way::Pcp, "9.9.9.9:4000", lifetime)]);
    (id, asked[0].clone())
}

pub(super) fn mapped(id: MapId, way: Way, external: &str, seconds: u32) -> Event {
    let lifetime = Some(Duration::from_secs(seconds.into()));
    Event::Mapped { id, way, external: at(external), lifetime, truth: Truth::Unchecked }
}

fn pmp_map(epoch: u32, external: u16, lifetime: u32) -> Vec<u8> {
    let mut bytes = vec![0, 130, 0, 0];
    bytes.extend(epoch.to_be_bytes());
    bytes.extend([15, 160]);
    bytes.extend(external.to_be_bytes());
    bytes.extend(lifetime.to_be_bytes());
    bytes
}

#[test]
fn pcp_maps_renews_at_half_and_removes_at_the_end() {
    let mut mapper = mapper(config());
    let (id, first) = by_pcp(&mut mapper, 600);
    assert_eq!(mapper.poll_timeout(), Some(ms(300_000)));
    let renewal = pass(&mut mapper, ms(300_000));
    assert_eq!(renewal, [(300_000, first.clone())], "the same nonce and port");
    hear(&mut mapper, ms(300_000), &pcp::answer(&first, 0, 600, 1300, at("9.9.9.9:4000")));
    assert_eq!((events(&mut mapper), mapper.stats().renewed), (vec![], 1), "nothing new");
    assert_eq!(mapper.poll_timeout(), Some(ms(600_000)));
    mapper.close(ms(310_000));
    let removal = sent(&mut mapper);
    assert_eq!((removal.len(), &removal[0][4..8], &removal[0][24..36]), (1, &[0; 4][..], &first[24..36]));
    hear(&mut mapper, ms(310_001), &pcp::answer(&removal[0], 0, 0, 1310, at("0.0.0.0:0")));
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: true }, Event::Closed]);
    assert_eq!((mapper.poll_timeout(), mapper.map(ms(0), Protocol::Tcp, 1, 1)), (None, Err(Refused::Closed)));
    assert_eq!(mapper.stats(), Stats { renewed: 1, ..Stats::default() });
}

#[test]
fn a_lease_that_cannot_be_renewed_is_lost_and_looked_for_again() {
    let mut mapper = mapper(config());
    let (id, _) = by_pcp(&mut mapper, 64);
    let at: Vec<u128> = pass(&mut mapper, ms(63_999)).iter().map(|(at, _)| *at).collect();
    assert_eq!(at[..5], [32_000, 32_250, 32_750, 33_750, 35_750]);
    assert_eq!(at[5], 48_000, "again at half of what is left");
    assert_eq!(events(&mut mapper), []);
    pass(&mut mapper, ms(64_000));
    assert_eq!(events(&mut mapper), [Event::Lost { id }]);
    pass(&mut mapper, ms(75_000));
    let gateway = Some(MapError::NoAnswer);
    assert_eq!(events(&mut mapper), [Event::Failed { id, gateway, upnp: None }]);
    let again = pass(&mut mapper, ms(71_750 + 300_000));
    assert_eq!(again.iter().map(|(_, data)| data.len()).collect::<Vec<_>>(), [60, 2], "{again:?}");
    assert_eq!(again[0].0, 371_750, "five minutes after all had failed");
}

#[test]
fn nobody_at_home_is_said_after_eight_seconds() {
    let mut mapper = mapper(config());
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    assert_eq!(sent(&mut mapper).len(), 2);
    let at: Vec<u128> = pass(&mut mapper, ms(10_000)).iter().map(|(at, _)| *at).collect();
    assert_eq!(at, [250, 250, 750, 750, 1750, 1750, 3750, 3750]);
    assert_eq!(events(&mut mapper), [Event::Failed { id, gateway: Some(MapError::NoAnswer), upnp: None }]);
    // It is taken back at once, since nothing is out there.
    mapper.unmap(ms(10_000), id);
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: true }]);
    assert_eq!((sent(&mut mapper).len(), mapper.poll_timeout()), (0, None));
}

#[test]
fn what_is_asked_twice_is_one_and_there_is_an_end() {
    let mut mapper = mapper(config());
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    assert_eq!(mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4001), Ok(id));
    assert_eq!(mapper.map(Instant::ZERO, Protocol::Tcp, 0, 1), Err(Refused::PortZero));
    for port in 1..MAX_MAPPINGS as u16 {
        assert!(mapper.map(Instant::ZERO, Protocol::Udp, port, port).is_ok());
    }
    assert_eq!(mapper.map(Instant::ZERO, Protocol::Udp, 4000, 4000), Err(Refused::TooMany));
    let mut alone = super::Mapper::new(Config { gateway: None, ..config() }, [5; 32], Instant::ZERO);
    let id = alone.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    assert_eq!(events(&mut alone), [Event::Failed { id, gateway: None, upnp: None }]);
}

#[test]
fn nat_pmp_takes_over_where_pcp_is_refused() {
    let mut mapper = mapper(config());
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    sent(&mut mapper);
    hear(&mut mapper, ms(1), &[0, 129, 0, 1, 0, 0, 0, 50]);
    assert_eq!(sent(&mut mapper), [""; 0], "a mapping without an address would be worth nothing");
    hear(&mut mapper, ms(2), &[0, 128, 0, 0, 0, 0, 0, 50, 9, 9, 9, 9]);
    let ask = [0, 2, 0, 0, 15, 160, 15, 160, 0, 0, 28, 32];
    assert_eq!(sent(&mut mapper), [&ask[..]]);
    hear(&mut mapper, ms(3), &pmp_map(50, 4001, 100));
    assert_eq!(events(&mut mapper), [mapped(id, Way::NatPmp, "9.9.9.9:4001", 100)]);
    let renewal = [0, 2, 0, 0, 15, 160, 15, 161, 0, 0, 28, 32];
    assert_eq!(
        pass(&mut mapper, ms(50_003)),
        [(50_003, Bytes::from_static(&[0, 0]))],
        "it may be another one"
    );
    hear(&mut mapper, ms(50_003), &[0, 128, 0, 0, 0, 0, 0, 100, 9, 9, 9, 9]);
    assert_eq!(sent(&mut mapper), [&renewal[..]]);
    hear(&mut mapper, ms(50_004), &pmp_map(100, 4001, 100));
    mapper.unmap(ms(60_000), id);
    assert_eq!(sent(&mut mapper), [&[0, 2, 0, 0, 15, 160, 0, 0, 0, 0, 0, 0][..]]);
    hear(&mut mapper, ms(60_001), &pmp_map(110, 0, 0));
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: true }]);
    assert_eq!(mapper.stats(), Stats { renewed: 1, ..Stats::default() });
}

#[test]
fn nat_pmp_takes_over_where_pcp_is_silent_and_says_why_it_refuses() {
    let ask = |mapper: &mut Mapper| {
        mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
        sent(mapper);
    };
    let mut one = mapper(config());
    ask(&mut one);
    hear(&mut one, ms(2), &[0, 128, 0, 0, 0, 0, 0, 50, 9, 9, 9, 9]);
    let all: Vec<_> = pass(&mut one, ms(900)).into_iter().map(|(at, data)| (at, data.len())).collect();
    assert_eq!(all, [(250, 60), (750, 12)]);
    let mut other = mapper(config());
    ask(&mut other);
    hear(&mut other, ms(2), &[0, 128, 0, 3, 0, 0, 0, 50, 0, 0, 0, 0]);
    pass(&mut other, ms(900));
    let [Event::Failed { gateway, .. }] = events(&mut other)[..] else { panic!() };
    assert_eq!(gateway, Some(MapError::NoNetwork));
    hear(&mut one, ms(900), &[0, 130, 0, 4, 0, 0, 0, 50]);
    let [Event::Failed { gateway, .. }] = events(&mut one)[..] else { panic!() };
    assert_eq!(gateway, Some(MapError::NoResources));
}

#[test]
fn a_router_that_restarted_is_asked_for_everything_again() {
    let mut mapper = mapper(config());
    let (_, first) = by_pcp(&mut mapper, 7200);
    mapper.map(ms(10_000), Protocol::Udp, 5000, 5000).unwrap();
    let asked = sent(&mut mapper);
    assert_eq!((asked.len(), asked[0].len()), (1, 60), "PCP is known by now");
    // Its epoch was 1000 ten seconds ago.
    hear(&mut mapper, ms(10_000), &pcp::answer(&asked[0], 0, 7200, 3, at("9.9.9.9:5000")));
    assert_eq!((sent(&mut mapper), mapper.stats().restarts), (vec![first.clone()], 1));
    hear(&mut mapper, ms(10_001), &pcp::answer(&first, 0, 7200, 3, at("8.8.8.8:4000")));
    let said = events(&mut mapper);
    assert!(matches!(said[1], Event::Mapped { external, .. } if external == at("8.8.8.8:4000")), "{said:?}");
}

#[test]
fn strangers_and_nonsense_change_nothing() {
    let mut mapper = mapper(config());
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    let asked = sent(&mut mapper).remove(0);
    let good = pcp::answer(&asked, 0, 600, 7, at("9.9.9.9:4000"));
    for from in ["192.168.1.1:5350", "192.168.1.2:5351", "[::1]:5351"] {
        mapper.datagram(ms(1), at(from), &good);
    }
    let mut other_nonce = good.clone();
    other_nonce[30] ^= 1;
    for bad in [&other_nonce[..], &good[..59], &asked, &[0; 3], &[], &pmp_map(7, 4000, 600), &vec![7; 65_000]]
    {
        hear(&mut mapper, ms(1), bad);
    }
    assert_eq!((events(&mut mapper), sent(&mut mapper)), (vec![], vec![]));
    assert_eq!(mapper.stats(), Stats { strangers: 3, malformed: 7, ..Stats::default() });
    // A mapping for no time, or to no port, is none.
    hear(&mut mapper, ms(2), &pcp::answer(&asked, 0, 0, 7, at("9.9.9.9:4000")));
    assert_eq!(events(&mut mapper), [Event::Failed { id, gateway: Some(MapError::BadAnswer), upnp: None }]);
}

#[test]
fn what_stun_saw_judges_a_mapping_whenever_it_comes() {
    let mut mapper = mapper(config());
    let (id, _) = by_pcp(&mut mapper, 600);
    mapper.seen(ms(0), Some("8.8.8.8".parse().unwrap()));
    mapper.seen(ms(0), Some("8.8.8.8".parse().unwrap()));
    let [Event::Mapped { id: which, truth, .. }] = events(&mut mapper)[..] else { panic!() };
    assert_eq!((which, truth), (id, Truth::Differs { seen: "8.8.8.8".parse().unwrap() }));
}

#[test]
fn a_pinhole_for_ipv6_is_asked_for_by_pcp_alone() {
    let gateway = Some("fe80::1".parse().unwrap());
    let config = Config { gateway, upnp: false, zone: 3, ..Config::new("2a00::5".parse().unwrap(), 64) };
    let mut mapper = mapper(config);
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    let server = at("[fe80::1%3]:5351");
    let Some(Request::Datagram { to, data }) = mapper.poll_request() else { panic!() };
    assert_eq!((to, data.len(), mapper.poll_request()), (server, 60, None));
    mapper.datagram(ms(1), server, &pcp::answer(&data, 0, 600, 7, at("[2a00::5]:4000")));
    assert_eq!(events(&mut mapper), [mapped(id, Way::Pcp, "[2a00::5]:4000", 600)]);
}

#[test]
fn addresses_that_the_internet_does_not_route_are_known() {
    for (ip, scope) in [
        ("8.8.8.8", Scope::Public),
        ("100.63.255.255", Scope::Public),
        ("100.64.0.1", Scope::CarrierGrade),
        ("100.127.255.255", Scope::CarrierGrade),
        ("100.128.0.1", Scope::Public),
        ("10.1.2.3", Scope::Private),
        ("172.32.0.1", Scope::Public),
        ("172.31.0.1", Scope::Private),
        ("0.0.0.0", Scope::Special),
        ("169.254.1.1", Scope::Special),
        ("198.19.0.1", Scope::Special),
        ("203.0.113.1", Scope::Special),
        ("240.0.0.1", Scope::Special),
        ("::ffff:192.168.1.1", Scope::Private),
        ("fd00::1", Scope::Private),
        ("fe80::1", Scope::Special),
        ("2001:db8::1", Scope::Special),
        ("2a00::1", Scope::Public),
    ] {
        assert_eq!(Scope::of(ip.parse().unwrap()), scope, "{ip}");
    }
}

#[test]
fn a_routers_address_is_judged_by_what_the_world_sees() {
    let ip = |text: &str| text.parse().unwrap();
    for (external, seen, truth) in [
        ("9.9.9.9", None, Truth::Unchecked),
        ("9.9.9.9", Some("9.9.9.9"), Truth::Agrees),
        ("9.9.9.9", Some("8.8.8.8"), Truth::Differs { seen: ip("8.8.8.8") }),
        ("10.0.0.2", None, Truth::NotPublic(Scope::Private)),
        ("10.0.0.2", Some("8.8.8.8"), Truth::NotPublic(Scope::Private)),
        ("100.64.3.3", Some("8.8.8.8"), Truth::NotPublic(Scope::CarrierGrade)),
        ("10.0.0.2", Some("10.0.0.2"), Truth::Agrees),
    ] {
        assert_eq!(Truth::of(ip(external), seen.map(ip)), truth, "{external} {seen:?}");
    }
}

#[test]
fn a_router_that_restarts_with_every_answer_is_not_asked_at_its_pace() {
    // Two mappings by PCP: each one's answer would have the other asked for.
    let mut one = mapper(config());
    let (_, first) = by_pcp(&mut one, 7200);
    one.map(ms(10_000), Protocol::Udp, 5000, 5000).unwrap();
    let mut asked = sent(&mut one);
    let mut rounds = 0;
    while let Some(request) = asked.pop() {
        rounds += 1;
        assert!(rounds < 10, "it goes on and on");
        let now = ms(10_000 + rounds);
        let port = if request == first { 4000 } else { 5000 };
        let epoch = 900 - 10 * rounds as u32;
        hear(
            &mut one,
            now,
            &pcp::answer(&request, 0, 7200, epoch, SocketAddr::new(at("9.9.9.9:1").ip(), port)),
        );
        asked.extend(sent(&mut one));
    }
    assert_eq!(rounds, 2);
    // One by NAT-PMP: its address is asked for, too.
    let mut other = mapper(config());
    other.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    sent(&mut other);
    hear(&mut other, ms(1), &[0, 129, 0, 1, 0, 0, 0, 50]);
    let (mut epoch, mut rounds, mut asked) = (50_000, 0, vec![Bytes::from_static(&[0, 0])]);
    while let Some(request) = asked.pop() {
        (epoch, rounds) = (epoch - 10, rounds + 1);
        assert!(rounds < 20, "it goes on and on");
        let answer = match request.len() {
            2 => [&[0, 128, 0, 0][..], &u32::to_be_bytes(epoch), &[9, 9, 9, 9]].concat(),
            _ => pmp_map(epoch, 4000, 7200),
        };
        hear(&mut other, ms(1 + rounds), &answer);
        asked.extend(sent(&mut other));
    }
    let held = events(&mut other);
    assert!(matches!(held[..], [Event::Mapped { .. }]), "{held:?}");
}

#[test]
fn a_grant_that_is_late_confirms_no_removal() {
    let mut mapper = mapper(config());
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    let asked = sent(&mut mapper).remove(0);
    mapper.unmap(ms(1), id);
    let removal = sent(&mut mapper).remove(0);
    hear(&mut mapper, ms(2), &pcp::answer(&asked, 0, 7200, 7, at("9.9.9.9:4000")));
    assert_eq!(events(&mut mapper), []);
    hear(&mut mapper, ms(3), &pcp::answer(&removal, 0, 0, 7, at("9.9.9.9:4000")));
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: true }]);
}

#[test]
fn when_the_world_sees_another_address_the_router_is_asked_what_it_has_now() {
    let mut one = mapper(config());
    let id = one.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    sent(&mut one);
    hear(&mut one, ms(1), &[0, 129, 0, 1, 0, 0, 0, 50]);
    hear(&mut one, ms(2), &[0, 128, 0, 0, 0, 0, 0, 50, 9, 9, 9, 9]);
    hear(&mut one, ms(3), &pmp_map(50, 4000, 7200));
    one.seen(ms(4), Some(at("9.9.9.9:1").ip()));
    sent(&mut one);
    events(&mut one);
    // The provider gives it another one.
    let seen = at("8.8.8.8:1").ip();
    one.seen(ms(5), Some(seen));
    let (way, lifetime) = (Way::NatPmp, Some(Duration::from_secs(7200)));
    assert!(matches!(events(&mut one)[..], [Event::Mapped { truth: Truth::Differs { .. }, .. }]));
    assert_eq!(one.poll_timeout(), Some(ms(5)));
    one.handle_timeout(ms(5));
    assert_eq!(sent(&mut one), [&[0, 0][..]]);
    hear(&mut one, ms(6), &[0, 128, 0, 0, 0, 0, 0, 50, 8, 8, 8, 8]);
    assert_eq!(sent(&mut one).len(), 1);
    hear(&mut one, ms(7), &pmp_map(50, 4000, 7200));
    let external = at("8.8.8.8:4000");
    assert_eq!(events(&mut one), [Event::Mapped { id, way, external, lifetime, truth: Truth::Agrees }]);
    // A router that lies is not asked again and again.
    let mut liar = mapper(config());
    let (_, asked) = by_pcp(&mut liar, 600);
    liar.seen(ms(1), Some(seen));
    assert_eq!((events(&mut liar).len(), liar.poll_timeout()), (1, Some(ms(300_000))));
    liar.seen(ms(2), Some(at("9.9.9.9:1").ip()));
    liar.seen(ms(3), Some(seen));
    assert_eq!((events(&mut liar).len(), liar.poll_timeout()), (2, Some(ms(3))));
    assert_eq!(pass(&mut liar, ms(3)), [(3, asked.clone())]);
    hear(&mut liar, ms(4), &pcp::answer(&asked, 0, 600, 1000, at("9.9.9.9:4000")));
    assert_eq!((events(&mut liar), liar.poll_timeout()), (vec![], Some(ms(300_004))));
}
