//! Two hosts on a cable, without a route and without a server, that find each other by node id: `--lan`. Beside them strangers
//! that answer for others, and that flood.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use p2pd_core::lan::Tag;
use p2pd_core::{SecretKey, WallTime};
use p2pd_tests::lab::{Child, Home, Lab, Nat};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, event, program};
use socket2::{Domain, Protocol, Socket, Type};

/// Listener, caller, and the second address of the listener's host, which strangers have.
const LISTENER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const CALLER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 3);
const TYPE: &str = "_p2pd._tcp.local";
/// A responder repeats no record within a second (RFC 6762, section 6).
const APART: Duration = Duration::from_millis(1100);

fn lab() -> Lab {
    let home = || Home::new(Nat::None);
    let lab = Lab::builder().home(home()).home(home()).build().unwrap();
    lab.cable([0, 1], "lan").unwrap();
    let up = |ips: &[Ipv4Addr]| {
        let add = |ip: &Ipv4Addr| format!("addr add {ip}/24 dev lan\n");
        format!("link set eth0 down\n{}link set lan up\n", ips.iter().map(add).collect::<String>())
    };
    lab.host(0).ip_batch(&up(&[LISTENER, STRANGER])).unwrap();
    lab.host(1).ip_batch(&up(&[CALLER])).unwrap();
    lab
}

fn run(lab: &Lab, host: usize, args: &[&str]) -> Child {
    let mut command = lab.host(host).command(program());
    command.env("P2PD_FORBID_PUBLIC_SERVERS", "1").args(args).args(["--lan", "--no-servers", "--json"]);
    lab.host(host).spawn(command).unwrap()
}

/// Starts a listener, and returns it with its id and its tag.
fn listen(lab: &Lab) -> (Child, String, String) {
    let mut listener = run(lab, 0, &["listen", "--echo", "--interface", &LISTENER.to_string()]);
    let (mut id, mut tag) = (None, None);
    while id.is_none() || tag.is_none() {
        let line = listener.wait_for_line(|line| line.starts_with('{'), PATIENCE).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        match said["event"].as_str() {
            Some("ready") => id = said["address"].as_str().unwrap().rsplit('-').next().map(str::to_owned),
            Some("announced") => tag = said["tags"][0].as_str().map(str::to_owned),
            _ => {}
        }
    }
    let (id, tag) = (id.unwrap(), tag.unwrap());
    // The second announcement comes a second after the first, and no answer within one more.
    std::thread::sleep(2 * APART);
    (listener, id, tag)
}

/// Calls by id. Returns the times of the search and of the call in ms, and the address that was found.
fn call(lab: &Lab, id: &str) -> ([f64; 2], String) {
    call_at(lab, id, id)
}

/// Calls this id or address of a node.
fn call_at(lab: &Lab, to: &str, id: &str) -> ([f64; 2], String) {
    let mut caller = run(lab, 1, &["connect", to]);
    drop(caller.take_stdin());
    let found = event(&mut caller, "found");
    let connected = event(&mut caller, "connected");
    assert_eq!(connected["peer"], id);
    assert!(caller.wait(PATIENCE).unwrap().success());
    let remote: SocketAddr = connected["remote"].as_str().unwrap().parse().unwrap();
    assert_eq!(remote.ip(), LISTENER);
    let ms = [&found["elapsed_ms"], &connected["elapsed_ms"]].map(|ms| ms.as_f64().unwrap());
    (ms, found["address"].as_str().unwrap().to_owned())
}

#[test]
fn two_hosts_on_a_cable_find_each_other_by_id_twenty_times_of_twenty() {
    require_lab!();
    let lab = lab();
    let (listener, id, tag) = listen(&lab);
    let mut times = Vec::new();
    for _ in 0..20 {
        std::thread::sleep(APART);
        let ([search, call], _) = call(&lab, &id);
        times.push((search + call).round() as u32);
        println!("search {search:.0} ms, call {call:.0} ms");
    }
    times.sort();
    println!("of {}: median {} ms, longest {} ms", times.len(), times[times.len() / 2], times[19]);
    // An address that is no longer right is mended.
    std::thread::sleep(APART);
    let old = format!("None-[0,192.168.7.99,192.168.7.99,9,1,1,0]-0-{id}");
    let (_, found) = call_at(&lab, &old, &id);
    assert!(found.contains("[1,192.168.7.99,192.168.7.99,9,1,1,0]"), "{found}");
    // Another start has another tag. An id that is not there is not found, and one alone needs the option.
    listener.terminate().unwrap();
    drop(listener);
    let (_listener, other, other_tag) = listen(&lab);
    assert!(tag[..16] != other_tag[..16] && id != other);
    let mut caller = run(&lab, 1, &["connect", &id]);
    let why = caller.wait_for_line(|line| line.contains("nobody in this network"), PATIENCE).unwrap();
    assert!(why.contains(&id), "{why}");
    assert_eq!(caller.wait(PATIENCE).unwrap().code(), Some(1));
}

#[test]
fn an_address_is_announced_only_where_the_node_listens() {
    require_lab!();
    let lab = Lab::builder().home(Home::new(Nat::None)).home(Home::new(Nat::None)).build().unwrap();
    lab.cable([0, 1], "lan").unwrap();
    // A public address is not announced, and the link's IPv6 address has no listener.
    let up = "link set eth0 down\naddr add 203.0.113.77/24 dev lan\nlink set lan up\n";
    lab.host(0).ip_batch(up).unwrap();
    lab.host(1).ip_batch("link set lan up\n").unwrap();
    // It is there after its duplicates were looked for.
    std::thread::sleep(Duration::from_secs(3));
    let mut listener = run(&lab, 0, &["listen", "--echo"]);
    assert_eq!(event(&mut listener, "announced")["at"], serde_json::json!([]));
}

#[test]
fn what_is_said_names_neither_node_nor_machine_and_is_taken_back() {
    require_lab!();
    let lab = lab();
    let ear: UdpSocket = lab.host(1).enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 5353).into()).unwrap();
        socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &CALLER).unwrap();
        socket.into()
    });
    ear.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let (mut listener, id, tag) = listen(&lab);
    call(&lab, &id);
    listener.terminate().unwrap();
    assert!(listener.wait(PATIENCE).unwrap().success());
    let mut heard = Vec::new();
    let mut buffer = [0; 9000];
    while let Ok(length) = ear.recv(&mut buffer) {
        heard.push(buffer[..length].to_vec());
    }
    let has = |packet: &[u8], part: &[u8]| packet.windows(part.len()).any(|window| window == part);
    let of = |part: &[u8]| heard.iter().filter(|packet| has(packet, part)).count();
    let key = data_encoding::BASE32_NOPAD.decode(id.to_ascii_uppercase().as_bytes()).unwrap();
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    // As a label: a short one may stand in a random name by chance.
    let machine = [&[machine.trim().len() as u8], machine.trim().as_bytes()].concat();
    println!("{} packets, {} with the tag", heard.len(), of(tag.as_bytes()));
    assert!(of(tag.as_bytes()) >= 3, "two announcements and an answer, or a farewell");
    assert_eq!([of(id.as_bytes()), of(&key), of(&machine)], [0, 0, 0]);
    // The last word on it has no time to live.
    let last = heard.iter().rfind(|packet| has(packet, tag.as_bytes())).unwrap();
    let answers = [name(TYPE), vec![0, 12, 0, 1, 0, 0, 0, 0]].concat();
    assert!(has(last, &answers), "{last:?}");
}

/// Lines that the guide has people type, in the order of the page: the prompt, and the command.
#[test]
fn two_computers_in_one_network_as_the_guide_has_them() {
    require_lab!();
    let guide = include_str!("../../docs/src/guide/two-computers.md");
    let page = guide.split_once("## One network").unwrap().1.split_once("## Two networks").unwrap().0;
    let typed: Vec<_> = page.lines().filter_map(|line| line.split_once("$ ")).collect();
    let [("there", id), ("there", listen), ("here", call)] = typed[..] else { panic!("{typed:?}") };
    let (lab, dir) = (lab(), tempfile::tempdir().unwrap());
    let path = std::path::Path::new(program()).parent().unwrap().to_str().unwrap();
    let types = |host: usize, line: &str| {
        let mut shell = lab.host(host).command("sh");
        shell.args(["-c", line]).current_dir(&dir).env("HOME", dir.path());
        shell.env("P2PD_FORBID_PUBLIC_SERVERS", "1");
        shell.env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()));
        let mut child = lab.host(host).spawn(shell).unwrap();
        drop(child.take_stdin());
        child
    };
    let id = types(0, id).wait_for_line(|line| line.len() == 52, PATIENCE).unwrap();
    let mut listener = types(0, &format!("exec {listen}"));
    listener.wait_for_line(|line| line.starts_with("announced in this network at "), PATIENCE).unwrap();
    let mut caller = types(1, &call.replace("y5cv…", &id));
    let found = caller.wait_for_line(|line| line.starts_with("found in this network"), PATIENCE).unwrap();
    assert!(found.ends_with(&id), "{found}");
    assert!(caller.wait(PATIENCE).unwrap().success());
    listener.wait_for_line(|line| line == "hello", PATIENCE).unwrap();
}

/// Name in the form of DNS.
fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// Record of a type, with the bit that has others forgotten where names are somebody's own.
fn record(of: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let class: u16 = if kind == 12 { 1 } else { 0x8001 };
    let mut all = name(of);
    all.extend([kind.to_be_bytes(), class.to_be_bytes()].concat());
    all.extend(120_u32.to_be_bytes());
    all.extend((data.len() as u16).to_be_bytes());
    all.extend(data);
    all
}

/// An answer that an instance is at these addresses; `listed` among those of its type, or not.
fn answer(label: &str, port: u16, ips: &[Ipv4Addr], listed: bool) -> Vec<u8> {
    signed(label, "", port, ips, listed)
}

/// An answer with a signature.
fn signed(label: &str, signature: &str, port: u16, ips: &[Ipv4Addr], listed: bool) -> Vec<u8> {
    let text = if signature.is_empty() { String::new() } else { format!("s={signature}") };
    let (instance, host) = (format!("{label}.{TYPE}"), format!("{label}.local"));
    let srv = [&[0, 0, 0, 0][..], &port.to_be_bytes(), &name(&host)].concat();
    let count = 2 + u8::from(listed) + ips.len() as u8;
    let mut all = vec![0, 0, 0x84, 0, 0, 0, 0, count, 0, 0, 0, 0];
    if listed {
        all.extend(record(TYPE, 12, &name(&instance)));
    }
    all.extend(record(&instance, 33, &srv));
    all.extend(record(&instance, 16, &[&[text.len() as u8], text.as_bytes()].concat()));
    ips.iter().for_each(|ip| all.extend(record(&host, 1, &ip.octets())));
    all
}

fn stranger(lab: &Lab) -> UdpSocket {
    lab.host(0).enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddrV4::new(STRANGER, 5353).into()).unwrap();
        socket.set_multicast_if_v4(&STRANGER).unwrap();
        socket.set_multicast_ttl_v4(255).unwrap();
        socket.into()
    })
}

fn say(socket: &UdpSocket, answer: &[u8]) {
    socket.send_to(answer, (Ipv4Addr::new(224, 0, 0, 251), 5353)).unwrap();
}

#[test]
fn who_answers_for_another_is_not_believed_and_the_right_one_is_found() {
    require_lab!();
    let lab = lab();
    let (_listener, id, tag) = listen(&lab);
    let socket = stranger(&lab);
    let door = lab.host(0).enter(|| TcpListener::bind((STRANGER, 0)).unwrap());
    let port = door.local_addr().unwrap().port();
    door.set_nonblocking(true).unwrap();
    let (over, dialled) = (AtomicBool::new(false), AtomicU32::new(0));
    // The tag of the node, with its own address and more neighbours than are dialled.
    let mut ips = vec![STRANGER];
    ips.extend((50..60).map(|n| Ipv4Addr::new(192, 168, 7, n)));
    // Who knows the id makes tags that are right, and cannot sign them.
    let (node, key) = (id.parse().unwrap(), SecretKey::from_bytes([7; 32]));
    let made = |ip: Ipv4Addr| {
        let tag = Tag::new(&node, (ip.into(), port), [ip.octets()[3]; 10]);
        (ip, tag.to_string(), tag.sign(&key, WallTime::from_micros(i64::MAX)))
    };
    let made = [STRANGER, Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::LOCALHOST, lab.host(1).ip()].map(made);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = Vec::new();
            let began = Instant::now();
            while !over.load(Ordering::Relaxed) && began.elapsed() < 2 * PATIENCE {
                say(&socket, &answer(&tag, port, &ips, true));
                for (ip, tag, by) in &made {
                    say(&socket, &signed(tag, by, port, &[*ip], true));
                }
                while let Ok((stream, _)) = door.accept() {
                    dialled.fetch_add(1, Ordering::Relaxed);
                    // It says nothing, so that it costs the caller as much time as it can.
                    held.push(stream);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        for _ in 0..5 {
            std::thread::sleep(APART);
            let (ms, found) = call(&lab, &id);
            println!("search {:.0} ms, call {:.0} ms, {found}", ms[0], ms[1]);
            assert!(found.contains(&LISTENER.to_string()), "{found}");
            assert!(!found.contains(&STRANGER.to_string()) && !found.contains("192.168.7.5"), "{found}");
            assert!(!found.contains("8.8.8.8") && !found.contains("127.0.0.1"), "{found}");
            assert!(!found.contains(&lab.host(1).ip().to_string()), "{found}");
        }
        over.store(true, Ordering::Relaxed);
    });
    let dialled = dialled.load(Ordering::Relaxed);
    assert_eq!(dialled, 0);
}

#[test]
fn a_daemon_calls_a_node_by_its_id() {
    require_lab!();
    let lab = lab();
    let (_listener, id, _) = listen(&lab);
    let mut daemon = run(&lab, 1, &["daemon", "--api", "127.0.0.1:0", "--no-token"]);
    let api = event(&mut daemon, "api")["api"].as_str().unwrap().to_owned();
    let nobody = SecretKey::from_bytes([9; 32]).node_id().to_string();
    for (call, says) in [
        (format!("open/x/{id}"), "\"raddr\""),
        (format!("open/y/{nobody}"), "nobody in this network answered"),
    ] {
        let mut curl = lab.host(1).command("curl");
        curl.args(["-sg", "-X", "POST", &format!("http://{api}/p2p/{call}")]);
        let mut curl = lab.host(1).spawn(curl).unwrap();
        let said = curl.wait_for_line(|line| line.contains(says), PATIENCE);
        assert!(said.is_ok(), "{call}: {said:?}");
        assert!(curl.wait(PATIENCE).unwrap().success());
    }
}

#[test]
fn a_flood_of_answers_for_others_keeps_nobody_from_being_found() {
    require_lab!();
    let lab = lab();
    let (mut listener, id, _) = listen(&lab);
    let socket = stranger(&lab);
    let (over, said) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let began = Instant::now();
            while !over.load(Ordering::Relaxed) && began.elapsed() < 2 * PATIENCE {
                for _ in 0..10 {
                    let n = said.fetch_add(1, Ordering::Relaxed);
                    let label: String = format!("{n:048b}").replace('0', "a").replace('1', "b");
                    say(&socket, &answer(&label, 1 + (n % 60_000) as u16, &[STRANGER], n % 2 == 0));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        for _ in 0..5 {
            std::thread::sleep(APART);
            let (ms, found) = call(&lab, &id);
            println!("search {:.0} ms, call {:.0} ms, {found}", ms[0], ms[1]);
            assert!(!found.contains(&STRANGER.to_string()), "{found}");
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("{} answers for others", said.load(Ordering::Relaxed));
    // The listener has forgotten what it had kept of them, and has announced itself anew.
    event(&mut listener, "announced");
}
