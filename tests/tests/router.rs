//! The core's mapper against miniupnpd on the home's router, and its clock against chrony. Both run in the smallest
//! loop there can be, with a public host that calls.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use p2pd_core::PeerAddress;
use p2pd_core::clock::Clock;
use p2pd_core::nat::NatType;
use p2pd_core::portmap::{Config, Event, Listed, MapError, Mapper, Protocol, Request, StreamId, Truth, Way};
use p2pd_tests::lab::services::{Chrony, Coturn, Miniupnpd};
use p2pd_tests::lab::{Child, Home, Host, Lab, Nat};
use p2pd_tests::require_lab;
use p2pd_tests::world::{World, event, program};

const PATIENCE: Duration = Duration::from_secs(20);
const TCP: Protocol = Protocol::Tcp;

/// A mapper with its sockets.
struct Driver<'a> {
    host: &'a Host,
    local: Ipv4Addr,
    mapper: Mapper,
    udp: UdpSocket,
    streams: BTreeMap<StreamId, (TcpStream, u32)>,
    began: Instant,
    events: Vec<Event>,
}

impl<'a> Driver<'a> {
    fn open(host: &'a Host, local: Ipv4Addr, change: impl Fn(&mut Config)) -> Self {
        let mut config = Config::new(local.into(), 24);
        let [a, b, c, _] = local.octets();
        config.gateway = Some(Ipv4Addr::new(a, b, c, 1).into());
        change(&mut config);
        let udp = host.enter(|| UdpSocket::bind((local, 0))).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let mapper = Mapper::new(config, seed(), p2pd_core::Instant::ZERO);
        Driver { host, local, mapper, udp, streams: BTreeMap::new(), began: Instant::now(), events: vec![] }
    }

    fn now(&self) -> p2pd_core::Instant {
        p2pd_core::Instant::ZERO + self.began.elapsed()
    }

    fn map(&mut self, port: u16) -> p2pd_core::portmap::MapId {
        self.mapper.map(self.now(), TCP, port, port).unwrap()
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Datagram { to, data } => drop(self.udp.send_to(&data, to)),
            Request::Connect { stream, to } => {
                let dial = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
                match self.host.enter(dial) {
                    Ok(tcp) => {
                        // miniupnpd sees who calls, and lets him map for himself only.
                        assert_eq!(tcp.local_addr().unwrap().ip(), self.host.ip());
                        tcp.set_nonblocking(true).unwrap();
                        self.streams.insert(stream, (tcp, 0));
                        self.mapper.connected(self.now(), stream);
                    }
                    Err(_) => self.mapper.ended(self.now(), stream),
                }
            }
            Request::Send { stream, data } => {
                self.streams.get_mut(&stream).unwrap().0.write_all(&data).unwrap()
            }
            Request::Read { stream, credit } => self.streams.get_mut(&stream).unwrap().1 += credit,
            Request::Close { stream } => drop(self.streams.remove(&stream)),
        }
    }

    /// Runs one turn of the loop, of 5 ms or so.
    fn turn(&mut self) {
        while let Some(request) = self.mapper.poll_request() {
            self.request(request);
        }
        let mut buffer = [0; 4096];
        match self.udp.recv_from(&mut buffer) {
            Ok((n, from)) => self.mapper.datagram(self.now(), from, &buffer[..n]),
            Err(why) => assert!(matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{why}"),
        }
        for stream in self.streams.keys().copied().collect::<Vec<_>>() {
            let Some((tcp, credit)) = self.streams.get_mut(&stream).filter(|s| s.1 > 0) else { continue };
            let most = buffer.len().min(*credit as usize);
            match tcp.read(&mut buffer[..most]) {
                Ok(0) => self.mapper.ended(self.now(), stream),
                Ok(n) => {
                    *credit -= n as u32;
                    self.mapper.received(self.now(), stream, &buffer[..n]);
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.mapper.ended(self.now(), stream),
            }
        }
        let now = self.now();
        if self.mapper.poll_timeout().is_some_and(|at| at <= now) {
            self.mapper.handle_timeout(now);
        }
        self.events.extend(core::iter::from_fn(|| self.mapper.poll_event()));
    }

    fn turn_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn();
        }
    }

    fn event(&mut self) -> Event {
        let end = Instant::now() + PATIENCE;
        while self.events.is_empty() {
            assert!(Instant::now() < end, "{:?}", self.mapper);
            self.turn();
        }
        self.events.remove(0)
    }

    /// The next event, which is a mapping.
    fn mapped(&mut self) -> (Way, SocketAddr, Truth) {
        match self.event() {
            Event::Mapped { way, external, truth, .. } => (way, external, truth),
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self) -> Vec<Listed> {
        self.mapper.list(self.now());
        let mut all = Vec::new();
        loop {
            match self.event() {
                Event::Listed(entry) => all.push(entry),
                Event::ListEnd(end) => {
                    assert_eq!(end, Ok(()));
                    return all;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn close(mut self) {
        self.mapper.close(self.now());
        loop {
            match self.event() {
                Event::Removed { confirmed, .. } => assert!(confirmed),
                Event::Closed => return,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos().to_be_bytes());
    seed
}

fn lab() -> Lab {
    let home = Home::new(Nat::SymmetricRandom).delay(Duration::from_millis(2));
    Lab::builder().home(home).build().unwrap()
}

/// Each way alone, and all together.
type Change = fn(&mut Config);
const WAYS: [(&str, Option<Way>, Change); 4] = [
    ("PCP", Some(Way::Pcp), |c| (c.nat_pmp, c.upnp) = (false, false)),
    ("NAT-PMP", Some(Way::NatPmp), |c| (c.pcp, c.upnp) = (false, false)),
    ("UPnP", Some(Way::Upnp), |c| (c.pcp, c.nat_pmp) = (false, false)),
    ("all", None, |_| {}),
];

/// Returns true if a public host gets through to the listener behind the NAT, within a second.
fn reaches(lab: &Lab, external: SocketAddr, listener: &TcpListener) -> bool {
    let call = lab.server().enter(|| TcpStream::connect_timeout(&external, Duration::from_secs(1)));
    let Ok(mut call) = call else { return false };
    let (mut accepted, _) = listener.accept().unwrap();
    call.write_all(b"hello").unwrap();
    drop(call);
    let mut text = String::new();
    accepted.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    true
}

#[test]
fn miniupnpd_opens_a_port_each_way_until_it_is_taken_back() {
    require_lab!(Miniupnpd);
    let lab = lab();
    let _router = Miniupnpd::start(&lab, 0, "").unwrap();
    let host = lab.host(0);
    let listener = host.enter(|| TcpListener::bind((host.ip(), 4000))).unwrap();
    let external = SocketAddr::new(host.wan().into(), 4000);
    for (name, way, change) in WAYS {
        assert!(!reaches(&lab, external, &listener), "before {name}");
        let mut driver = Driver::open(host, host.ip(), change);
        driver.mapper.seen(driver.now(), Some(host.wan().into()));
        driver.map(4000);
        let asked = Instant::now();
        let found = driver.mapped();
        println!("{name}: mapped by {} after {:?}", found.0, asked.elapsed());
        assert_eq!((found.1, found.2), (external, Truth::Agrees), "{name}");
        assert!(way.is_none_or(|way| way == found.0), "{name}: {found:?}");
        assert!(reaches(&lab, external, &listener), "{name}");
        // What comes later than the first must not take it away.
        driver.turn_for(Duration::from_millis(500));
        assert!(reaches(&lab, external, &listener), "{name}");
        driver.close();
        assert!(!reaches(&lab, external, &listener), "after {name}");
    }
}

#[test]
fn a_short_lease_is_renewed_and_ends_without_us() {
    require_lab!(Miniupnpd);
    let lab = lab();
    let _router = Miniupnpd::start(&lab, 0, "").unwrap();
    let host = lab.host(0);
    let listener = host.enter(|| TcpListener::bind((host.ip(), 4000))).unwrap();
    let external = SocketAddr::new(host.wan().into(), 4000);
    for (name, _, change) in WAYS {
        let mut driver = Driver::open(host, host.ip(), |config| {
            change(config);
            config.lifetime = Duration::from_secs(4);
        });
        driver.map(4000);
        assert_eq!(driver.mapped().1, external, "{name}");
        driver.turn_for(Duration::from_secs(7));
        assert!(driver.mapper.stats().renewed >= 2, "{name}: {:?}", driver.mapper.stats());
        assert_eq!((driver.events.len(), reaches(&lab, external, &listener)), (0, true), "{name}");
        // As if the process had been killed.
        drop(driver);
        let end = Instant::now() + PATIENCE;
        while reaches(&lab, external, &listener) {
            assert!(Instant::now() < end, "{name}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn a_router_that_lies_about_its_address_is_found_out() {
    require_lab!(Miniupnpd);
    let lab = lab();
    let _router = Miniupnpd::start(&lab, 0, "ext_ip=9.9.9.9").unwrap();
    let host = lab.host(0);
    for (name, _, change) in WAYS {
        let mut driver = Driver::open(host, host.ip(), change);
        driver.map(4000);
        let (way, lie) = (driver.mapped().0, SocketAddr::from(([9, 9, 9, 9], 4000)));
        let seen = IpAddr::from(host.wan());
        driver.mapper.seen(driver.now(), Some(seen));
        assert_eq!(driver.mapped(), (way, lie, Truth::Differs { seen }), "{name}");
        driver.close();
    }
}

/// miniupnpd opens nothing where its own address is not of the internet, and that is said.
#[test]
fn behind_a_carriers_nat_there_is_no_mapping_and_a_reason() {
    require_lab!(Miniupnpd);
    let home = Home::new(Nat::PortPreserving).behind(Nat::PortPreserving);
    let lab = Lab::builder().home(home).build().unwrap();
    let _router = Miniupnpd::start(&lab, 0, "").unwrap();
    let host = lab.host(0);
    let mut said = Vec::new();
    for (name, _, change) in WAYS {
        let mut driver = Driver::open(host, host.ip(), change);
        driver.map(4000);
        let Event::Failed { gateway, upnp, .. } = driver.event() else { panic!("{name}") };
        said.push((name, gateway, upnp));
    }
    // Its PCP says no resources where NAT-PMP and UPnP say no network.
    let (none, full) = (Some(MapError::NoNetwork), Some(MapError::NoResources));
    assert_eq!(
        said,
        [("PCP", full, None), ("NAT-PMP", none, None), ("UPnP", None, none), ("all", full, none)]
    );
}

#[test]
fn a_port_of_somebody_else_is_left_to_him() {
    require_lab!(Miniupnpd);
    let lab = lab();
    let _router = Miniupnpd::start(&lab, 0, "").unwrap();
    let host = lab.host(0);
    let [a, b, c, _] = host.ip().octets();
    let mut another = Driver::open(host, host.ip(), |c| c.upnp = false);
    another.map(4000);
    let first = another.mapped().1;
    assert_eq!(first.port(), 4000);
    let second = Ipv4Addr::new(a, b, c, 3);
    let mut add = host.run("ip", ["addr", "add", &format!("{second}/24"), "dev", "eth0"]).unwrap();
    assert!(add.wait(PATIENCE).unwrap().success());
    // By UPnP too the port is his; the dial there is made from the first address, so only the datagram ways
    // can speak for the second.
    for (_, way, change) in &WAYS[..2] {
        let mut driver = Driver::open(host, second, change);
        driver.map(4000);
        let (by, external, _) = driver.mapped();
        assert_eq!((Some(by), external.ip()), (*way, first.ip()));
        assert_ne!(external.port(), 4000);
        driver.close();
    }
    let mut driver = Driver::open(host, host.ip(), WAYS[2].2);
    let left: Vec<_> = driver.list().into_iter().map(|e| (e.external, e.internal.to_string())).collect();
    assert_eq!(left, [(4000, format!("{}:4000", host.ip()))]);
    // And what is left behind is removed by name.
    drop(another);
    driver.mapper.forget(driver.now(), TCP, 4000).unwrap();
    assert!(matches!(driver.event(), Event::Removed { confirmed: true, .. }));
    assert_eq!(driver.list(), []);
    assert_eq!(driver.local, host.ip());
}

#[test]
fn a_router_that_restarted_is_asked_again() {
    require_lab!(Miniupnpd);
    let lab = lab();
    let mut router = Miniupnpd::start(&lab, 0, "").unwrap();
    let host = lab.host(0);
    let listener = host.enter(|| TcpListener::bind((host.ip(), 4000))).unwrap();
    let external = SocketAddr::new(host.wan().into(), 4000);
    let mut driver = Driver::open(host, host.ip(), |c| c.upnp = false);
    driver.map(4000);
    assert_eq!(driver.mapped().1, external);
    driver.turn_for(Duration::from_secs(4));
    router.process().terminate().unwrap();
    router.process().wait(PATIENCE).unwrap();
    drop(router);
    let _router = Miniupnpd::start(&lab, 0, "").unwrap();
    assert!(!reaches(&lab, external, &listener), "it forgot");
    // The answer for another port tells it.
    driver.map(4001);
    assert_eq!(driver.mapped().1.port(), 4001);
    driver.turn_for(Duration::from_millis(500));
    assert_eq!(driver.mapper.stats().restarts, 1);
    assert!(reaches(&lab, external, &listener), "and was told");
    driver.close();
}

#[test]
fn a_router_without_such_a_server_is_no_mapping() {
    require_lab!();
    let lab = lab();
    let host = lab.host(0);
    let mut driver = Driver::open(host, host.ip(), |_| {});
    driver.map(4000);
    let none = Some(MapError::NoAnswer);
    let event = driver.event();
    assert!(
        matches!(event, Event::Failed { gateway, upnp, .. } if (gateway, upnp) == (none, none)),
        "{event:?}"
    );
}

#[test]
fn the_program_opens_lists_and_closes_ports() {
    require_lab!(Miniupnpd, Coturn);
    let lab = lab();
    let (_stun, _router) = (Coturn::start(&lab).unwrap(), Miniupnpd::start(&lab, 0, "").unwrap());
    let host = lab.host(0);
    let listener = host.enter(|| TcpListener::bind((host.ip(), 4000))).unwrap();
    let external = SocketAddr::new(host.wan().into(), 4000);
    let mut list = tempfile::NamedTempFile::new().unwrap();
    writeln!(list, "[[stun]]\nhost = \"{}\"", lab.server().ip()).unwrap();
    let config = list.path().to_str().unwrap();
    let ip = host.ip().to_string();
    let map = |args: &[&str]| {
        let mut command = host.command(program());
        command.args(["map", "--json", "--bind", &ip]).args(args).env("P2PD_FORBID_PUBLIC_SERVERS", "1");
        host.spawn(command).unwrap()
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    for end in [true, false] {
        let mut holding = map(&["--add", "4000", "--config", config]);
        let mut mapped = event(&mut holding, "mapped");
        if mapped["truth"] == "unchecked" {
            mapped = event(&mut holding, "mapped");
        }
        assert_eq!(
            (text(&mapped["external"]), text(&mapped["truth"])),
            (external.to_string(), "agrees".into())
        );
        assert!(reaches(&lab, external, &listener));
        if end {
            holding.terminate().unwrap();
            assert!(holding.wait(PATIENCE).unwrap().success());
            assert_eq!(event(&mut holding, "removed")["confirmed"], true);
            assert!(!reaches(&lab, external, &listener));
        } else {
            holding.kill();
        }
    }
    // What was left behind is listed. PCP made it, and miniupnpd lets UPnP of the same host close it.
    let mut listing = map(&["--list"]);
    assert!(listing.wait(PATIENCE).unwrap().success());
    let entry = event(&mut listing, "mapping");
    assert_eq!((&entry["external"], text(&entry["internal"])), (&4000.into(), format!("{}:4000", host.ip())));
    let mut removing = map(&["--remove", "4000"]);
    assert!(removing.wait(PATIENCE).unwrap().success());
    assert!(!reaches(&lab, external, &listener));
}

/// The clock's answer after its burst: how far it is from the system's, in microseconds, and its bound.
fn offset(host: &Host, server: SocketAddr) -> (u64, u128) {
    let socket = host.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let began = Instant::now();
    let now = || p2pd_core::Instant::ZERO + began.elapsed();
    let mut clock = Clock::new([server], seed(), now());
    while !clock.is_settled(now()) {
        assert!(began.elapsed() < PATIENCE);
        while let Some((to, data)) = clock.poll_transmit() {
            socket.send_to(&data, to).unwrap();
        }
        let mut buffer = [0; 128];
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            clock.handle(now(), from, &buffer[..n]);
        }
        if clock.poll_timeout().is_some_and(|at| at <= now()) {
            clock.handle_timeout(now());
        }
    }
    assert_eq!((clock.answered(), clock.stats()), (1, Default::default()));
    let system = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64;
    let fix = clock.time(now()).unwrap();
    (fix.wall.as_micros().abs_diff(system), fix.error.as_micros())
}

#[test]
fn chrony_tells_the_time_within_a_millisecond_and_half_the_asymmetry() {
    require_lab!(Chrony);
    let ms = Duration::from_millis;
    let homes = [Home::new(Nat::PortPreserving).delay(ms(10)), Home::new(Nat::PortPreserving).jitter(ms(20))];
    let lab = Lab::builder().homes(homes).build().unwrap();
    let chrony = Chrony::start(&lab).unwrap();
    let (error, bound) = offset(lab.host(0), chrony.addr());
    println!("symmetric: {error} us off, stated {bound} us");
    assert!(error <= 1_000 && u128::from(error) <= bound, "{error} us, stated {bound} us");
    // Each way takes up to 20 ms more than the other.
    let (error, bound) = offset(lab.host(1), chrony.addr());
    println!("with jitter: {error} us off, stated {bound} us");
    assert!(error <= 1_000 + 10_000 && u128::from(error) <= bound, "{error} us, stated {bound} us");
}

/// Starts the program as a node behind the NAT whose listener's port is mapped. Returns its event about the port, and
/// its address then.
fn mapped_listener(world: &World) -> (Child, serde_json::Value, String) {
    let mut child = world.run(world.lab.host(0), &["listen", "--echo", "--map-port"]);
    let open = event(&mut child, "port");
    let wan = world.lab.host(0).wan().to_string();
    let is_open = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let address = event["address"].as_str().and_then(|a| a.parse::<PeerAddress>().ok());
        let first = address.and_then(|a| a.v4().first().copied());
        first.is_some_and(|i| i.external.to_string() == wan && i.nat == NatType::OpenInternet)
    };
    let line = child.wait_for_line(is_open, PATIENCE).unwrap();
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    (child, open, event["address"].as_str().unwrap().to_owned())
}

#[test]
fn a_listener_behind_a_nat_is_dialled_directly_until_it_ends() {
    require_lab!(Miniupnpd, Mosquitto, Coturn);
    let world = World::new(&["symrand", "none", "symrand"]);
    let _router = Miniupnpd::start(&world.lab, 0, "").unwrap();
    let (mut listener, open, address) = mapped_listener(&world);
    assert_eq!((&open["state"], &open["truth"]), (&"open".into(), &"agrees".into()), "{open}");
    for from in [1, 2] {
        let connected = world.try_connect(from, &address, &["--strategies", "direct"]).unwrap();
        println!("from host {from} to {}: {} ms", open["external"], connected["elapsed_ms"]);
        assert_eq!(connected["strategy"], "direct");
    }
    listener.terminate().unwrap();
    assert!(listener.wait(PATIENCE).unwrap().success(), "{:?}", listener.lines());
    let removed = "\"state\":\"removed\"";
    assert!(
        listener.lines().iter().any(|l| l.text.contains(removed) && l.text.contains("\"confirmed\":true"))
    );
    let mut list = world.lab.host(0).command(program());
    list.args(["map", "--list", "--json", "--bind", &world.lab.host(0).ip().to_string()]);
    list.env("P2PD_FORBID_PUBLIC_SERVERS", "1");
    let mut list = world.lab.host(0).spawn(list).unwrap();
    assert!(list.wait(PATIENCE).unwrap().success());
    assert!(list.lines().iter().all(|l| !l.text.contains("\"event\":\"mapping\"")), "{:?}", list.lines());
}

#[test]
fn what_a_lying_router_opens_is_not_announced() {
    require_lab!(Miniupnpd, Mosquitto, Coturn);
    let world = World::new(&["symrand", "none"]);
    let _router = Miniupnpd::start(&world.lab, 0, "ext_ip=9.9.9.9").unwrap();
    let mut listener = world.run(world.lab.host(0), &["listen", "--map-port"]);
    let open = event(&mut listener, "port");
    let ready = event(&mut listener, "ready");
    assert_eq!((&open["state"], &open["truth"]), (&"open".into(), &"differs".into()), "{open}");
    std::thread::sleep(Duration::from_secs(1));
    let said = listener.lines().iter().filter(|l| l.text.contains("\"event\":\"ready\"")).count();
    let address: PeerAddress = ready["address"].as_str().unwrap().parse().unwrap();
    assert_eq!((said, address.v4().len(), address.v4()[0].nat), (1, 1, NatType::Symmetric));
}
