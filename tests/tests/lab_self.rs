//! The lab measured against itself. Every NAT is what its name says, lines are as long as asked, nothing gets out and
//! nothing is left behind.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use p2pd_core::Transport;
use p2pd_core::strangers::mqtt::{self, Incoming};
use p2pd_core::stun::{BindingOutcome, TransactionId, binding_request, decode_binding};
use p2pd_tests::lab::services::{Coturn, Mosquitto};
use p2pd_tests::lab::{Home, Host, Lab, Nat, SERVER, Unsolicited};
use p2pd_tests::require_lab;
use p2pd_tests::vantage::{PATIENCE, SILENCE, Vantage, shared_tcp, udp};

fn homes(texts: &[&str]) -> Lab {
    let homes = texts.iter().map(|text| text.parse::<Home>().unwrap());
    Lab::builder().homes(homes).build().unwrap()
}

/// Checks a mapping as it looks from three places.
fn check_mapping(text: &str, nat: Nat, host: &Host, port: u16, seen: [SocketAddrV4; 3]) {
    let context = || format!("{text} from {}:{port}: {seen:?}", host.ip());
    assert!(seen.iter().all(|addr| *addr.ip() == host.wan()), "{}", context());
    let ports = seen.map(|addr| addr.port());
    let [a, b, c] = ports;
    let distinct = BTreeSet::from(ports).len();
    match nat {
        Nat::None | Nat::Firewall | Nat::FullCone | Nat::AddressRestricted | Nat::PortPreserving => {
            assert_eq!(ports, [port; 3], "{}", context());
        }
        Nat::EimRandom => {
            assert!(a == b && b == c && a != port, "{}", context());
            assert!((32_768..61_000).contains(&a), "{}", context());
        }
        Nat::SymmetricSequential => assert!(b == a + 1 && c == b + 1 && a >= 40_000, "{}", context()),
        // Random ports could be neighbours once in 65,000 runs; equal they cannot be.
        Nat::User(_) => unreachable!("tests/user_nats.rs has them"),
        Nat::SymmetricRandom => assert!(distinct == 3 && (b, c) != (a + 1, a + 2), "{}", context()),
    }
}

/// Checks which places may come back to a host that has spoken to the primary place only.
fn check_filter(text: &str, nat: Nat, host: &Host, vantage: &Vantage) {
    let expected = match nat {
        Nat::None | Nat::FullCone => [true, true],
        Nat::AddressRestricted => [true, false],
        _ => [false, false],
    };
    assert_eq!(vantage.answers_udp(host, 6100), expected, "{text}: UDP filtering");
    vantage.check_tcp(host, 6200, expected, text);
}

/// Runs the test for each kind in a lab of its own, all at once: labs share nothing.
fn in_own_labs(texts: &[&str], test: impl Fn(&str, &Lab) + Sync) {
    std::thread::scope(|scope| {
        for text in texts {
            scope.spawn(|| test(text, &homes(&[text])));
        }
    });
}

#[test]
fn every_nat_maps_and_filters_as_named() {
    require_lab!();
    let names = Nat::ALL.map(Nat::name);
    in_own_labs(&names, |text, lab| {
        let nat = Nat::ALL.into_iter().find(|nat| nat.name() == text).unwrap();
        let (host, vantage) = (lab.host(0), Vantage::new(lab.server()));
        let socket = udp(host, host.ip(), 6000);
        check_mapping(text, nat, host, 6000, vantage.see_udp(&socket));
        let (seen, _open) = vantage.see_tcp(host, 6001);
        check_mapping(text, nat, host, 6001, seen);
        check_filter(text, nat, host, &vantage);
    });
}

#[test]
fn a_chain_is_as_strict_as_its_strictest_router() {
    require_lab!();
    let chains = [
        ("pr+symrand", Nat::SymmetricRandom, Nat::SymmetricRandom),
        ("symseq+pr", Nat::SymmetricSequential, Nat::SymmetricSequential),
        ("fc+pr", Nat::PortPreserving, Nat::PortPreserving),
        ("fc+fc", Nat::FullCone, Nat::FullCone),
        ("pr+pr+pr", Nat::PortPreserving, Nat::PortPreserving),
    ];
    in_own_labs(&chains.map(|(text, ..)| text), |text, lab| {
        let (_, mapping, filter) = chains.into_iter().find(|(name, ..)| *name == text).unwrap();
        let (host, vantage) = (lab.host(0), Vantage::new(lab.server()));
        assert_eq!(lab.routers(0).len(), text.split('+').count());
        let socket = udp(host, host.ip(), 6000);
        check_mapping(text, mapping, host, 6000, vantage.see_udp(&socket));
        check_filter(text, filter, host, &vantage);
    });
}

/// Returns the error of a stranger's connect to the home's public address.
fn stranger(lab: &Lab, patience: Duration) -> io::Error {
    let target = SocketAddr::from((lab.host(0).wan(), 7000)).into();
    let caller = shared_tcp(lab.server(), SERVER[0], 0);
    // Blocking connect with a send timeout, because connect_timeout of std and socket2 report ICMP
    // errors the same way; a plain connect shows errno as a program gets it.
    caller.set_write_timeout(Some(patience)).unwrap();
    caller.connect(&target).unwrap_err()
}

#[test]
fn strangers_get_the_answer_that_was_chosen() {
    require_lab!();
    let mut texts = vec!["none/drop".to_owned(), "pr+symrand/rst".to_owned()];
    for nat in [Nat::Firewall, Nat::FullCone, Nat::PortPreserving, Nat::SymmetricRandom] {
        texts.extend(Unsolicited::ALL.map(|policy| format!("{}/{}", nat.name(), policy.name())));
    }
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    in_own_labs(&texts, |text, lab| {
        let (nat, policy) = text.split_once('/').unwrap();
        let expected = match policy {
            // Nothing is filtered there: the host itself refuses.
            _ if nat == "none" => Some(libc_errno::ECONNREFUSED),
            "drop" => None,
            "icmp-host" | "icmp-admin" => Some(libc_errno::EHOSTUNREACH),
            _ => Some(libc_errno::ECONNREFUSED),
        };
        let begin = Instant::now();
        let error = stranger(lab, if expected.is_some() { PATIENCE } else { SILENCE });
        match expected {
            Some(errno) => assert_eq!(error.raw_os_error(), Some(errno), "{text}: {error}"),
            // What Linux says when the send timeout ends a connect.
            None => {
                assert_eq!(error.raw_os_error(), Some(libc_errno::EINPROGRESS), "{text}: {error}");
                assert!(begin.elapsed() >= SILENCE, "{text}");
            }
        }
    });
}

/// The three numbers needed here, the same on every Linux but MIPS, Alpha, SPARC and PA-RISC.
mod libc_errno {
    pub const ECONNREFUSED: i32 = 111;
    pub const EHOSTUNREACH: i32 = 113;
    pub const EINPROGRESS: i32 = 115;
}

/// Returns one-way times from `from` to `to` in milliseconds, sorted. `greet` is the address to which `from` sends.
fn one_way_times(from: &UdpSocket, greet: SocketAddr, to: &UdpSocket) -> Vec<f64> {
    let time = || {
        let begin = Instant::now();
        from.send_to(b"tick", greet).unwrap();
        to.recv(&mut [0; 16]).unwrap();
        begin.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<_> = (0..15).map(|_| time()).collect();
    times.sort_by(f64::total_cmp);
    times
}

#[test]
fn lines_are_as_long_as_asked() {
    require_lab!();
    let near = Home::new(Nat::PortPreserving).delay(Duration::from_millis(5));
    let far = Home::new(Nat::None).delay(Duration::from_millis(20));
    let lab = Lab::builder().home(near).home(far).server_delay(Duration::from_millis(1)).build().unwrap();
    let [near, far, server] = [lab.host(0), lab.host(1), lab.server()].map(|host| udp(host, host.ip(), 6000));
    for (a, b, asked) in [(&near, &server, 6.0), (&far, &server, 21.0), (&near, &far, 25.0)] {
        let target = b.local_addr().unwrap();
        a.send_to(b"open", target).unwrap();
        let (_, seen) = b.recv_from(&mut [0; 16]).unwrap();
        for times in [one_way_times(a, target, b), one_way_times(b, seen, a)] {
            let (least, median) = (times[0], times[times.len() / 2]);
            println!("asked {asked} ms: least {least:.3} median {median:.3} most {:.3}", times[14]);
            assert!(least >= asked && least < asked + 1.5, "{asked}: {times:?}");
            // Other tests share the processor, so only half of the packets have to be punctual.
            assert!(median < asked + 5.0, "{asked}: {times:?}");
        }
    }
}

#[test]
fn lines_lose_and_scatter_as_asked() {
    require_lab!();
    const SENT: usize = 400;
    let home = Home::new(Nat::None).loss(0.3).jitter(Duration::from_millis(20));
    let lab = Lab::builder().home(home).build().unwrap();
    let (host, server) = (udp(lab.host(0), lab.host(0).ip(), 6000), udp(lab.server(), SERVER[0], 6000));
    let begin = Instant::now();
    for number in 0..SENT as u16 {
        host.send_to(&number.to_be_bytes(), server.local_addr().unwrap()).unwrap();
    }
    let sent_in = begin.elapsed();
    let mut came = Vec::new();
    // The counters tell when all packets are accounted for; the socket then has the rest.
    while came.len() < SENT - lab.traffic().lost as usize {
        let mut number = [0; 2];
        server.recv(&mut number).unwrap();
        came.push(u16::from_be_bytes(number));
    }
    let took = begin.elapsed();
    // 400 draws with p = 0.3: six standard deviations are 55.
    assert!((SENT * 7 / 10).abs_diff(came.len()) < 55, "{} of {SENT} came", came.len());
    assert!(!came.is_sorted(), "20 ms of jitter, and nobody overtook");
    println!("{} of {SENT} came; sent in {sent_in:?}, the last after {took:?}", came.len());
}

#[test]
fn nothing_gets_out() {
    require_lab!();
    let outside = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let here = TcpStream::connect(("127.0.0.1", port)).unwrap();
    drop((here, outside.accept().unwrap()));
    // The machine's own address, if it has one: no packet is sent for this.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).ok().map(|addr| addr.ip());
    let lab = homes(&["none", "pr"]);
    let routers = (0..2).flat_map(|home| lab.routers(home));
    let spaces = lab.hosts().iter().chain([lab.server()]).map(Host::namespace).chain(routers);
    for space in spaces {
        let targets = ["127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()].into_iter().chain(own);
        for target in targets {
            let reached =
                space.enter(|| TcpStream::connect_timeout(&SocketAddr::new(target, port), SILENCE / 4));
            assert!(reached.is_err(), "{space:?} reached {target}:{port}");
        }
        let devices = space.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let names = devices.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim);
        let ours = ["lo", "eth0", "lan", "wan"];
        // Some kernels put these into every namespace; they lead nowhere.
        let idle =
            ["tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"];
        let strange: Vec<_> = names.filter(|name| !ours.contains(name) && !idle.contains(name)).collect();
        assert!(strange.is_empty(), "{space:?} has {strange:?}");
    }
    let traffic = lab.traffic();
    assert!(traffic.unroutable > 0, "the tries to get out must have died in the lab's internet: {traffic:?}");
}

/// Returns every reference to a network namespace that this machine's processes hold, by the number of the namespace. A
/// reference is the namespace they are in, or an open descriptor.
fn namespaces_in_use() -> BTreeSet<u64> {
    let numbers = |dir: &Path| -> Vec<u64> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        // A descriptor of a namespace links to "net:[N]"; anything may vanish while we look.
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let number = |t: &Path| t.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok();
        targets.filter_map(|target| number(&target)).collect()
    };
    let mut found = BTreeSet::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        if !process.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        found.extend(numbers(&process.path().join("fd")));
        for thread in std::fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
            found.extend(numbers(&thread.path().join("ns")));
        }
    }
    found
}

fn numbers(lab: &Lab) -> BTreeSet<u64> {
    let routers = (0..lab.hosts().len()).flat_map(|home| lab.routers(home));
    let hosts = lab.hosts().iter().chain([lab.server()]).map(Host::namespace);
    hosts.chain(routers).map(|space| space.inode().unwrap()).collect()
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    require_lab!(Mosquitto);
    let lab = homes(&["pr", "pr+symrand"]);
    let spaces = numbers(&lab);
    assert_eq!(spaces.len(), 6);
    let own = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    assert!(!spaces.contains(&own));
    let mut broker = Mosquitto::start(&lab).unwrap();
    let pid = broker.process().id();
    let process = format!("/proc/{pid}");
    let arguments = std::fs::read_to_string(format!("{process}/cmdline")).unwrap();
    let config = arguments.split('\0').find(|argument| argument.ends_with("/conf")).unwrap();
    let files = Path::new(config).parent().unwrap();
    assert!(files.is_dir());
    assert!(spaces.is_subset(&namespaces_in_use()));
    let begin = Instant::now();
    drop(lab);
    println!("teardown in {:?}", begin.elapsed());
    assert!(!Path::new(&process).exists(), "the broker outlived its lab although its guard still exists");
    drop(broker);
    let left: Vec<_> = spaces.intersection(&namespaces_in_use()).copied().collect();
    assert!(left.is_empty(), "namespaces still held: {left:?}");
    assert!(!files.exists(), "{} is left", files.display());
}

/// Runs as the process that `a_killed_process_takes_its_lab_along` kills; it is no test.
#[test]
#[ignore = "run by a_killed_process_takes_its_lab_along"]
fn victim() {
    // So that `--ignored` by hand does not wait for ever.
    if std::env::var_os("P2PD_LAB_VICTIM").is_none() {
        return;
    }
    let lab = homes(&["pr"]);
    let mut broker = Mosquitto::start(&lab).unwrap();
    println!("ready {} {:?}", broker.process().id(), numbers(&lab));
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_process_takes_its_lab_along() {
    require_lab!(Mosquitto);
    // A lab of no homes, for its process guard.
    let outer = homes(&[]);
    let program = std::env::current_exe().unwrap();
    let mut command = outer.server().command(program.to_str().unwrap());
    command.args(["--exact", "victim", "--ignored", "--nocapture"]).env("P2PD_LAB_VICTIM", "1");
    // What a killed process leaves in the file system is left in the build directory.
    command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    let mut child = outer.server().spawn(command).unwrap();
    let line = child.wait_for_line(|line| line.contains("ready "), PATIENCE * 2).unwrap();
    let mut words = line[line.find("ready ").unwrap()..].split(|c: char| !c.is_ascii_digit());
    let mut next = || words.find_map(|word| word.parse::<u64>().ok());
    let broker = format!("/proc/{}", next().unwrap());
    let spaces = BTreeSet::from_iter(std::iter::from_fn(next));
    assert_eq!(spaces.len(), 3, "{line}");
    assert!(Path::new(&broker).exists());
    assert!(spaces.is_subset(&namespaces_in_use()));
    let pid = child.id();
    child.kill();
    let deadline = Instant::now() + PATIENCE;
    // Strangers' ends cannot be awaited, so look again and again.
    while Path::new(&broker).exists() || !spaces.is_disjoint(&namespaces_in_use()) {
        assert!(Instant::now() < deadline, "left over: {broker} or one of {spaces:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let files = format!("{}/p2pd-lab-{pid}-0-mosquitto", env!("CARGO_TARGET_TMPDIR"));
    std::fs::remove_dir_all(files).unwrap();
}

#[test]
fn programs_are_watched_and_ended() {
    require_lab!();
    let lab = homes(&["pr"]);
    let script = "echo one; echo two >&2; read answer; echo got $answer; exit 3";
    let mut child = lab.host(0).run("sh", ["-c", script]).unwrap();
    child.wait_for_line(|line| line == "two", PATIENCE).unwrap();
    let error = child.wait_for_line(|line| line == "three", Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("two"), "the error must quote the program: {error}");
    child.take_stdin().unwrap().write_all(b"42\n").unwrap();
    assert_eq!(child.wait(PATIENCE).unwrap().code(), Some(3));
    assert!(child.lines().iter().any(|line| line.text == "got 42"));
    let mut address = lab.host(0).run("ip", ["-o", "-4", "addr", "show", "dev", "eth0"]).unwrap();
    assert!(address.wait(PATIENCE).unwrap().success());
    assert!(address.lines()[0].text.contains(&lab.host(0).ip().to_string()));
    let mut sleeper = lab.host(0).run("sleep", ["1000"]).unwrap();
    assert!(sleeper.wait(Duration::from_millis(30)).is_err());
    sleeper.terminate().unwrap();
    assert!(!sleeper.wait(PATIENCE).unwrap().success());
    // Started from a thread that ends before the program does.
    let from_thread = std::thread::scope(|s| s.spawn(|| lab.host(0).run("cat", [""; 0]).unwrap()).join());
    let mut cat = from_thread.unwrap();
    let mut pipe = cat.take_stdin().unwrap();
    pipe.write_all(b"still here\n").unwrap();
    cat.wait_for_line(|line| line == "still here", PATIENCE).unwrap();
    assert!(lab.host(0).run("no-such-program", [""; 0]).unwrap_err().to_string().contains("no-such-program"));
}

#[test]
fn a_lab_has_a_size() {
    let homes = (0..201).map(|_| Home::new(Nat::None));
    let error = Lab::builder().homes(homes).build().unwrap_err().to_string();
    assert!(error.contains("201 homes"), "{error}");
}

/// Does one Binding exchange over a connected byte stream or datagram socket, and returns the XOR-MAPPED-ADDRESS.
fn stun(
    mut send: impl FnMut(&[u8]) -> io::Result<()>,
    receive: impl FnOnce() -> io::Result<Vec<u8>>,
) -> SocketAddrV4 {
    let id = TransactionId(*b"lab-self-id!");
    send(&binding_request(id, None)).unwrap();
    let reply = decode_binding(&receive().unwrap(), Transport::Tcp).unwrap();
    match (reply.transaction == id, reply.outcome) {
        (true, BindingOutcome::Mapped(SocketAddr::V4(seen))) => seen,
        _ => panic!("not our Binding response: {reply:?}"),
    }
}

fn stun_udp(host: &Host, port: u16, server: SocketAddr) -> SocketAddrV4 {
    let socket = udp(host, host.ip(), port);
    socket.connect(server).unwrap();
    stun(
        |request| socket.send(request).map(drop),
        || {
            let mut buffer = vec![0; 1500];
            socket.recv(&mut buffer).map(|length| buffer[..length].to_vec())
        },
    )
}

fn stun_tcp(host: &Host, port: u16, server: SocketAddr) -> SocketAddrV4 {
    let socket = shared_tcp(host, host.ip(), port);
    socket.connect_timeout(&server.into(), PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let stream = TcpStream::from(socket);
    stun(
        |request| (&stream).write_all(request),
        || {
            let mut reply = vec![0; 20];
            (&stream).read_exact(&mut reply)?;
            let length = usize::from(u16::from_be_bytes([reply[2], reply[3]]));
            reply.resize(20 + length, 0);
            (&stream).read_exact(&mut reply[20..])?;
            Ok(reply)
        },
    )
}

#[test]
fn coturn_answers_through_nats() {
    require_lab!(Coturn);
    let lab = homes(&["pr", "pr+symseq"]);
    let coturn = Coturn::start(&lab).unwrap();
    for server in [coturn.addr(), coturn.other_addr()] {
        let kept = SocketAddrV4::new(lab.host(0).wan(), 6000);
        assert_eq!(stun_udp(lab.host(0), 6000, server), kept);
        assert_eq!(stun_tcp(lab.host(0), 6000, server), kept);
    }
    let [first, second] = [coturn.addr(), coturn.other_addr()].map(|a| stun_udp(lab.host(1), 6000, a));
    assert_eq!((*first.ip(), second.port()), (lab.host(1).wan(), first.port() + 1));
}

/// Opens an MQTT session.
fn session(host: &Host, broker: SocketAddr, client: &str) -> TcpStream {
    let mut stream = host.enter(|| TcpStream::connect_timeout(&broker, PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&mqtt::connect(client, 60, None).unwrap()).unwrap();
    assert!(matches!(mqtt::decode(&read(&mut stream, 4)), Ok(Incoming::Connack { accepted: true, .. })));
    stream
}

fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn mosquitto_passes_messages_between_nats() {
    require_lab!(Mosquitto);
    let lab = homes(&["pr", "pr+symrand"]);
    let broker = Mosquitto::start(&lab).unwrap();
    let mut reader = session(lab.host(0), broker.addr(), "reader");
    let mut writer = session(lab.host(1), broker.addr(), "writer");
    let id = NonZeroU16::MIN;
    reader.write_all(&mqtt::subscribe(id, "lab").unwrap()).unwrap();
    let granted = Ok(Incoming::Suback { packet_id: id, granted: true });
    assert_eq!(mqtt::decode(&read(&mut reader, 5)), granted);
    let publish = mqtt::publish("lab", b"the news!", false).unwrap();
    writer.write_all(&publish).unwrap();
    assert_eq!(read(&mut reader, publish.len()), publish);
}
