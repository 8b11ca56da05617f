//! The drivers' examples, run as their readers run them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use p2pd::serve::{Serving, Wanted};
use p2pd_core::{Config, Plan, SecretKey};
use p2pd_tests::drivers::{Driver, runtime};
use p2pd_tests::world::built;

/// The folder of the examples, which are built once.
fn examples() -> &'static Path {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    // Of the whole workspace, so that crates have the features that its tests were built with (four minutes less).
    EXAMPLES.get_or_init(|| built(&["--workspace", "--examples"]).join("examples"))
}

/// A running example, which ends with this.
struct Running(Child);

impl Running {
    fn start(name: &str, args: &[&str]) -> Running {
        let mut command = Command::new(examples().join(name));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    fn output(&mut self) -> BufReader<std::process::ChildStdout> {
        BufReader::new(self.0.stdout.take().unwrap())
    }

    /// Types this and the end of input.
    fn type_in(&mut self, text: &str) {
        self.0.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Output of an example that ends by itself, and well.
fn ended(example: &mut Running) -> String {
    let mut said = String::new();
    example.output().read_to_string(&mut said).unwrap();
    assert!(example.0.wait().unwrap().success(), "{said}");
    said
}

#[test]
fn the_chat_in_each_style_talks_to_each_other() {
    let chats = ["chat", "mio_chat", "async_chat"];
    for there in chats {
        for here in chats {
            let mut waits = Running::start(there, &["127.0.0.1"]);
            let mut heard_there = waits.output();
            let mut address = String::new();
            heard_there.read_line(&mut address).unwrap();
            let mut calls = Running::start(here, &["127.0.0.1", address.trim()]);
            waits.type_in("hello from there\n");
            calls.type_in("hello from here\nand once more\n");
            let (mut at_here, mut at_there) = (String::new(), String::new());
            calls.output().read_to_string(&mut at_here).unwrap();
            heard_there.read_to_string(&mut at_there).unwrap();
            assert_eq!(at_here, "hello from there\n", "{here} calls {there}");
            assert_eq!(at_there, "hello from here\nand once more\n", "{here} calls {there}");
            assert!(waits.0.wait().unwrap().success() && calls.0.wait().unwrap().success());
        }
    }
}

#[test]
fn an_echo_server_on_mio_gains_p2pd_and_goes_on_serving_tcp() {
    let mut server = Running::start("echo_after", &["127.0.0.1:0"]);
    let mut said = server.output().lines().map(Result::unwrap);
    let tcp = said.find_map(|l| l.strip_prefix("listening on ").map(String::from)).unwrap();
    let address = said.find_map(|l| l.strip_prefix("also at ").map(String::from)).unwrap();
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some("127.0.0.1".parse().unwrap());
    let node = Driver::Tokio.bind(config, None).unwrap();
    let mut pipe = node.connect(&address, Plan::default()).unwrap();
    let mut stream = TcpStream::connect(tcp).unwrap();
    let mut word = [0; 5];
    for _ in 0..3 {
        pipe.write_all(b"pipe!").unwrap();
        pipe.flush().unwrap();
        pipe.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"pipe!");
        stream.write_all(b"tcp!!").unwrap();
        stream.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"tcp!!");
    }
}

#[test]
fn the_servers_of_messages_answer() {
    for style in ["", "async_", "mio_"] {
        let mut echo = Running::start(&format!("{style}echo_server"), &["127.0.0.1", "0", "0"]);
        let mut said = echo.output().lines().map(Result::unwrap);
        let tcp: SocketAddr = said.next().unwrap().strip_prefix("Tcp ").unwrap().parse().unwrap();
        let udp: SocketAddr = said.next().unwrap().strip_prefix("Udp ").unwrap().parse().unwrap();
        let mut stream = TcpStream::connect(tcp).unwrap();
        stream.write_all(b"by stream").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "by stream", "{style}");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.send_to(b"by datagram", udp).unwrap();
        let mut answer = [0; 64];
        let (len, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..len], from), (&b"by datagram"[..], udp), "{style}");
    }
    for style in ["", "async_"] {
        let mut stun = Running::start(&format!("{style}stun_server"), &["127.0.0.1:0"]);
        let at: SocketAddr = stun.output().lines().next().unwrap().unwrap().parse().unwrap();
        let route = p2pd_tokio::messages::Route::V4;
        let client = p2pd_tokio::messages::stun::Client::new(at, route);
        assert_eq!(runtime().block_on(client.external_ip()).unwrap(), at.ip(), "{style}");
        let client = p2pd_async_std::messages::stun::Client::new(at, route);
        assert_eq!(futures_lite::future::block_on(client.external_ip()).unwrap(), at.ip(), "{style}");
    }
}

#[test]
fn a_host_is_asked_over_tcp_and_over_udp() {
    let mut echo = Running::start("echo_server", &["127.0.0.1", "0", "0"]);
    for line in echo.output().lines().map(Result::unwrap).take(2) {
        let (protocol, at) = line.split_once(' ').unwrap();
        let port = at.rsplit(':').next().unwrap();
        let said =
            ended(&mut Running::start("ask", &[&protocol.to_lowercase(), "localhost", port, "a text"]));
        assert_eq!(said, format!("{at}: a text\n"), "{protocol}");
    }
}

#[test]
fn a_machine_is_told_its_interfaces_and_its_nat() {
    let [ip, second_ip] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(std::net::IpAddr::from);
    let wanted = Wanted { ip, second_ip: Some(second_ip), mqtt_port: 0, stun_ports: [0, 0], turn: None };
    let servers = runtime().block_on(Serving::start(&wanted)).unwrap();
    let port = servers.stun().port().to_string();
    let said = ended(&mut Running::start("machine", &["127.0.0.1", &port, "127.0.0.1"]));
    let has = |begin: &str| said.lines().any(|line| line.starts_with(begin));
    assert!(has("interface lo") && has("external 127.0.0.1") && has("nat 127.0.0.1: "), "{said}");
    let mapping = said.lines().find_map(|line| line.strip_prefix("mapping ")).unwrap();
    let (local, external) = mapping.split_once(" is seen as ").unwrap();
    assert_eq!(local, external, "no NAT");
}

#[test]
fn a_protocol_of_ones_own_answers_whom_it_serves() {
    assert_eq!(ended(&mut Running::start("protocol", &["127.0.0.1"])), "direct\nPONG\n");
}

#[test]
fn a_port_that_is_forwarded_leads_to_the_peer() {
    let mut peer = Running::start("listen", &["127.0.0.1"]);
    let mut said = peer.output();
    let mut address = String::new();
    said.read_line(&mut address).unwrap();
    let mut forward = Running::start("forward", &["127.0.0.1:0", address.trim(), "127.0.0.1"]);
    let at = forward.output().lines().next().unwrap().unwrap();
    for visitor in ["one", "two"] {
        let mut stream = TcpStream::connect(&at).unwrap();
        stream.write_all(visitor.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, visitor);
    }
}

#[test]
fn two_homes_of_the_simulator_connect_by_what_their_nats_let_through() {
    let outcome = |a: &str, b: &str| ended(&mut Running::start("two_homes", &[a, b, "3"]));
    assert_eq!(outcome("open", "linux"), "direct: 3 of 3\n");
    assert_eq!(outcome("linux", "open"), "reverse: 3 of 3\n");
    assert_eq!(outcome("linux", "linux"), "punch: 3 of 3\n");
}

/// Lines of the second text that are not in the first, in order.
fn added(before: &str, after: &str) -> usize {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // The longest common subsequence.
    let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..a.len() {
        for j in 0..b.len() {
            common[i + 1][j + 1] =
                if a[i] == b[j] { common[i][j] + 1 } else { common[i][j + 1].max(common[i + 1][j]) };
        }
    }
    b.len() - common[a.len()][b.len()]
}

#[test]
fn it_takes_less_than_thirty_lines() {
    assert_eq!(added("a\nb\nc\n", "a\nx\nc\nd\n"), 2);
    let before = include_str!("../../driver-mio/examples/echo_before.rs");
    let after = include_str!("../../driver-mio/examples/echo_after.rs");
    let added = added(before, after);
    println!("{added} lines, of {}, are new or changed", after.lines().count());
    assert!((1..30).contains(&added), "{added}");
}
