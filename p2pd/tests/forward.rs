//! `p2pd expose`, `forward` and `connect --service` between processes on loopback, with services of every kind behind them.
#![cfg(unix)]

mod between;
mod program;
mod terminal;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use between::{Between, port_of};
use program::Program;

const LOCAL: [&str; 3] = ["--no-servers", "--bind", "127.0.0.1"];
const LONG: Duration = Duration::from_secs(60);

/// The program, which ends however the test ends. What it says is kept.
struct Running {
    program: Program,
    input: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
}

impl Running {
    fn start(command: Command) -> Self {
        let (program, input, streams) = Program::start(command);
        let said = Arc::new(Mutex::new(String::new()));
        for stream in streams {
            let said = said.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = Vec::new();
                while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    said.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            });
        }
        Running { program, input, said }
    }

    fn p2pd(verb: &str, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.arg(verb).args(LOCAL).args(args);
        Self::start(command)
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits for what comes behind this in a line.
    fn says(&self, what: &str) -> String {
        let begin = Instant::now();
        loop {
            let said = self.said();
            if let Some((_, rest)) = said.split_once(what)
                && let Some((rest, _)) = rest.split_once('\n')
            {
                return rest.trim().to_owned();
            }
            assert!(begin.elapsed() < LONG, "not {what:?}: {said}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ends(&mut self) -> Option<i32> {
        let code = self.program.code(LONG, || self.said.lock().unwrap().clone());
        thread::sleep(Duration::from_millis(20));
        code
    }

    /// Address at which a door has opened.
    fn door(&self, service: &str) -> SocketAddr {
        self.says(&format!("to {service}"));
        let said = self.said();
        let line = said.lines().find(|line| line.ends_with(&format!("to {service}"))).unwrap();
        let at = line.strip_prefix("forwards: ").unwrap().split(' ').next().unwrap();
        at.trim_start_matches("udp:").parse().unwrap()
    }
}

/// An exposer that lets in anybody, and its address.
fn exposes(args: &[&str]) -> (Running, String) {
    let exposer = Running::p2pd("expose", &[args, &["--anyone"]].concat());
    let address = exposer.says("ready: ");
    (exposer, address)
}

fn forwards(address: &str, args: &[&str]) -> Running {
    Running::p2pd("forward", &[&[address], args].concat())
}

/// A server that gives each connection to a thread.
fn serves(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (at, handle) = (listener.local_addr().unwrap(), Arc::new(handle));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream.unwrap()));
        }
    });
    at
}

fn echo(mut stream: TcpStream) {
    let mut back = stream.try_clone().unwrap();
    let _ = std::io::copy(&mut stream, &mut back);
    let _ = back.shutdown(Shutdown::Write);
}

fn pattern(n: usize) -> u8 {
    (n.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Sends so many bytes, and checks that they come back as they were.
fn round(at: SocketAddr, bytes: usize) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut to = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        let all: Vec<u8> = (0..bytes).map(pattern).collect();
        to.write_all(&all).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    writing.join().unwrap();
    assert_eq!(all.len(), bytes);
    assert!(all.iter().enumerate().all(|(n, byte)| *byte == pattern(n)));
}

#[test]
fn a_hundred_connections_at_once_over_one_session() {
    let service = serves(echo);
    let (exposer, address) = exposes(&[&format!("echo={service}")]);
    let forwarder = forwards(&address, &["echo", "0"]);
    let door = forwarder.door("echo");
    let all: Vec<_> = (0..100).map(|n| thread::spawn(move || round(door, 1000 * n))).collect();
    all.into_iter().for_each(|one| one.join().unwrap());
    round(door, 20 << 20);
    let said = exposer.said();
    assert_eq!(said.matches("incoming: ").count(), 1, "{said}");
    assert!(said.contains(&format!("exposes: echo at {service}")), "{said}");
}

#[test]
fn each_direction_ends_by_itself_and_a_reset_is_one_at_the_other_end() {
    // Reads to the end, and then answers.
    let polite = serves(|mut stream| {
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        stream.write_all(format!("heard {all}").as_bytes()).unwrap();
    });
    // Ends its direction at once, and reads on.
    let (taken, takes) = std::sync::mpsc::channel();
    let terse = serves(move |mut stream| {
        stream.write_all(b"end").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        taken.send(all.len()).unwrap();
    });
    let rude = serves(|mut stream| {
        stream.read_exact(&mut [0; 4]).unwrap();
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    let (heard, hears) = std::sync::mpsc::channel();
    let watcher = serves(move |mut stream| {
        stream.write_all(b"x").unwrap();
        let ended = stream.read(&mut [0; 16]).err().map(|why| why.kind());
        heard.send(ended).unwrap();
    });
    let services = [("polite", polite), ("terse", terse), ("rude", rude), ("watcher", watcher)];
    let words: Vec<String> = services.iter().map(|(name, at)| format!("{name}={at}")).collect();
    let (_exposer, address) = exposes(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let forwarder = forwards(&address, &["polite", "0", "terse", "0", "rude", "0", "watcher", "0"]);
    let open = |name: &str| {
        let stream = TcpStream::connect(forwarder.door(name)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    let mut text = String::new();
    let mut stream = open("polite");
    stream.write_all(b"all").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "heard all");
    let mut stream = open("terse");
    text.clear();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "end");
    stream.write_all(&vec![7; 1 << 20]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(takes.recv_timeout(LONG).unwrap(), 1 << 20);
    let mut stream = open("rude");
    stream.write_all(b"rude").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut stream = open("watcher");
    stream.read_exact(&mut [0; 1]).unwrap();
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(hears.recv_timeout(LONG).unwrap(), Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_service_that_reads_nothing_stops_its_client_and_no_other() {
    let deaf = serves(|_stream| thread::sleep(LONG));
    let good = serves(echo);
    let (_exposer, address) = exposes(&[&format!("deaf={deaf}"), &format!("echo={good}")]);
    let forwarder = forwards(&address, &["deaf", "0", "echo", "0"]);
    let mut stuck = TcpStream::connect(forwarder.door("deaf")).unwrap();
    stuck.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut taken = 0;
    let full = loop {
        match stuck.write(&[1; 1 << 16]) {
            Ok(n) => taken += n,
            Err(why) => break why.kind(),
        }
        assert!(taken < 256 << 20, "somebody keeps it all");
    };
    assert_eq!(full, ErrorKind::WouldBlock);
    round(forwarder.door("echo"), 8 << 20);
}

#[test]
fn what_was_not_named_is_not_reached_and_the_reason_is_said() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (_exposer, address) = exposes(&[&format!("gone={closed}"), "dns=udp:9"]);
    for (service, why) in [
        ("ssh", "ssh: the peer exposes no service of this name"),
        ("gone", "gone: the peer exposes it, but nothing listens there"),
        ("dns", "dns: the service is UDP: write udp: before the local port"),
    ] {
        let mut caller = Running::p2pd("connect", &[&address, "--service", service]);
        assert_eq!(caller.ends(), Some(1), "{}", caller.said());
        assert!(caller.said().contains(why), "{}", caller.said());
        let forwarder = forwards(&address, &[service, "0"]);
        let mut stream = TcpStream::connect(forwarder.door(service)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        forwarder.says(why);
    }
    // Callers of other programs are none.
    let mut caller = Running::p2pd("connect", &[&address]);
    assert_eq!(caller.ends(), Some(1), "{}", caller.said());
    assert!(caller.said().contains("does not take the call's protocol"), "{}", caller.said());
    let mut caller = Running::p2pd("connect", &["None-0-0-x", "--service", "a"]);
    assert_eq!(caller.ends(), Some(2), "{}", caller.said());
    // And a listener exposes nothing.
    let listener = Running::p2pd("listen", &[]);
    let mut caller =
        Running::p2pd("connect", &[&listener.says("ready: "), "--service", "a", "--timeout", "20"]);
    assert_eq!(caller.ends(), Some(1), "{}", caller.said());
}

#[test]
fn datagrams_go_both_ways_to_each_client_its_own() {
    let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = service.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((n, from)) = service.recv_from(&mut buffer) {
            buffer[..n].reverse();
            service.send_to(&buffer[..n], from).unwrap();
        }
    });
    let (_exposer, address) = exposes(&[&format!("dns=udp:{at}")]);
    let forwarder = forwards(&address, &["dns", "udp:0"]);
    let door = forwarder.door("dns");
    let clients: Vec<_> = (0..10).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    for size in [0, 1, 1200, 9000, 60_000] {
        for (n, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(LONG)).unwrap();
            let mut sent: Vec<u8> = (0..size).map(|at| pattern(at + n)).collect();
            client.send_to(&sent, door).unwrap();
            let mut buffer = [0; 65_535];
            let (got, from) = client.recv_from(&mut buffer).unwrap();
            sent.reverse();
            assert_eq!((got, from), (size, door));
            assert!(buffer[..got] == sent[..], "{size} bytes");
        }
    }
}

#[test]
fn unix_sockets_at_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (service, door) = (dir.path().join("service"), dir.path().join("door"));
    let listener = UnixListener::bind(&service).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut all = String::new();
            stream.read_to_string(&mut all).unwrap();
            stream.write_all(all.to_uppercase().as_bytes()).unwrap();
        }
    });
    let (_exposer, address) = exposes(&[&format!("db=unix:{}", service.display())]);
    let mut forwarder = forwards(&address, &["db", &format!("unix:{}", door.display())]);
    forwarder.says("to db");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&door).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    for word in ["one", "two"] {
        let mut stream = UnixStream::connect(&door).unwrap();
        stream.write_all(word.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, word.to_uppercase());
    }
    assert!(
        Command::new("kill")
            .args(["-INT", &forwarder.program.0.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(forwarder.ends(), Some(0), "{}", forwarder.said());
    assert!(!door.exists());
}

/// A client of SOCKS5 by the name of a host; the code that it is told, and the stream.
fn socks(door: SocketAddr, host: &str, port: u16) -> (u8, TcpStream) {
    let mut stream = TcpStream::connect(door).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let request =
        [&[5, 1, 0, 5, 1, 0, 3, host.len() as u8][..], host.as_bytes(), &port.to_be_bytes()].concat();
    stream.write_all(&request).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[..3], &[5, 0, 5]);
    (answer[3], stream)
}

#[test]
fn socks_reaches_what_is_allowed_by_names_of_the_other_side() {
    let service = serves(echo);
    let port = service.port();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let (_exposer, address) = exposes(&[
        "--allow",
        &format!("localhost:{port}"),
        "--allow",
        &format!("localhost:{closed}"),
        "--allow",
        &format!("127.0.0.0/30:{port}"),
    ]);
    let forwarder = forwards(&address, &["--socks", "0"]);
    let door = forwarder.door("SOCKS5");
    for (host, port, code) in [
        ("localhost", port, 0),
        ("127.0.0.1", port, 0),
        ("localhost", closed, 5),
        ("localhost", 22, 2),
        ("127.0.0.9", port, 2),
        ("other.example", port, 2),
    ] {
        let (told, mut stream) = socks(door, host, port);
        assert_eq!(told, code, "{host}:{port}");
        if code == 0 {
            stream.write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
    }
}

#[test]
fn connections_go_on_when_the_network_under_them_is_cut() {
    let service = serves(echo);
    let (_exposer, address) = exposes(&[&format!("echo={service}")]);
    let (between, address) = Between::before(&address);
    let forwarder = forwards(&address, &["echo", "0"]);
    let door = forwarder.door("echo");
    let mut stream = TcpStream::connect(door).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    for n in 0..4_u32 {
        stream.write_all(&n.to_be_bytes()).unwrap();
        if n > 0 {
            between.cut();
        }
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, n.to_be_bytes());
        round(door, 1 << 20);
    }
    forwarder.says("goes on: ");
}

#[test]
fn an_exposer_that_was_begun_anew_serves_the_next_connection() {
    let service = serves(echo);
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let exposing = |port: &str| {
        let service = format!("echo={service}");
        exposes(&[&service, "--identity", key.to_str().unwrap(), "--port", port])
    };
    let (exposer, address) = exposing("0");
    let forwarder = forwards(&address, &["echo", "0"]);
    let door = forwarder.door("echo");
    round(door, 1000);
    let mut open = TcpStream::connect(door).unwrap();
    open.set_read_timeout(Some(LONG)).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0; 1]).unwrap();
    drop(exposer);
    let (_exposer, again) = exposing(&port_of(&address).to_string());
    assert_eq!(address, again);
    // What the old one had is over, and its user sees a reset.
    assert_eq!(open.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    round(door, 1 << 20);
    assert!(forwarder.said().contains("ended: "), "{}", forwarder.said());
    assert_eq!(forwarder.said().matches("connected: ").count(), 2, "{}", forwarder.said());
}

#[test]
fn peers_are_those_that_were_named_or_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    let key = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let id = |name: &str| {
        let out =
            Command::new(env!("CARGO_BIN_EXE_p2pd")).args(["id", "--identity", &key(name)]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let service = format!("echo={}", serves(echo));
    let ours = id("ours");
    let listed = Running::p2pd("expose", &[&service, "--accept", &ours]);
    let address = listed.says("ready: ");
    let call = |address: &str, key: &str| {
        let mut caller =
            Running::p2pd("connect", &[address, "--service", "echo", "--identity", key, "--timeout", "40"]);
        caller.input.take().unwrap().write_all(b"hello\n").unwrap();
        caller
    };
    let mut caller = call(&address, &key("ours"));
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    assert!(caller.said().contains("hello\n"));
    let mut stranger = call(&address, &key("theirs"));
    assert_eq!(stranger.ends(), Some(1), "{}", stranger.said());
    // Nobody who could be asked.
    let mut nobody = Running::p2pd("expose", &[&service]);
    assert_eq!(nobody.ends(), Some(2), "{}", nobody.said());
    assert!(nobody.said().contains("--accept"), "{}", nobody.said());
    // At a terminal.
    let line = format!("exec {} expose {service} {}", env!("CARGO_BIN_EXE_p2pd"), LOCAL.join(" "));
    let mut asking = Running::start(terminal::at_terminal(&line));
    let address = asking.says("ready: ");
    let mut caller = call(&address, &key("ours"));
    asking.says(&format!("{ours} wants in"));
    asking.input.as_mut().unwrap().write_all(b"y\n").unwrap();
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    // The answer counts until the end.
    let mut caller = call(&address, &key("ours"));
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    let mut stranger = call(&address, &key("theirs"));
    asking.says(&format!("{} wants in", id("theirs")));
    asking.input.as_mut().unwrap().write_all(b"n\n").unwrap();
    assert_eq!(stranger.ends(), Some(1), "{}", stranger.said());
    // Whoever hangs up is asked about no more.
    let caller = call(&address, &key("gone"));
    asking.says(&format!("{} wants in", id("gone")));
    drop(caller);
    asking.says(&format!("{} has hung up", id("gone")));
}

#[test]
fn a_ping_that_an_exposer_does_not_answer_says_what_answers() {
    let (_exposer, address) = exposes(&[&format!("echo={}", serves(echo))]);
    for (more, why) in
        [(&[][..], "no broker that both have is ready"), (&["--pipe"], "does not take the call's protocol")]
    {
        let mut ping = Running::p2pd("ping", &[&[&*address, "--count", "1"], more].concat());
        assert_eq!(ping.ends(), Some(1), "{}", ping.said());
        assert!(ping.said().contains(why) && ping.said().contains("p2pd listen --echo"), "{}", ping.said());
    }
}

/// The user of a receiver sees the question of one sender; it goes with its sender, and the next one comes. After the yes
/// to one, a receiver of one asks about no other.
#[test]
fn a_question_about_files_ends_with_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "hello").unwrap();
    std::fs::create_dir(dir.path().join("there")).unwrap();
    let line = format!(
        "exec {} file receive --once --dir {} {}",
        env!("CARGO_BIN_EXE_p2pd"),
        dir.path().join("there").display(),
        LOCAL.join(" ")
    );
    let mut receiver = Running::start(terminal::at_terminal(&line));
    let address = receiver.says("ready: ");
    let send = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.args(["file", "send", &address]).arg(dir.path().join("file")).args(LOCAL);
        command.env("HOME", dir.path());
        Running::start(command)
    };
    let mut first = send();
    receiver.says("wants to send 1 file, 5 B: file;");
    let second = send();
    let interrupted = Command::new("kill").args(["-INT", &first.program.0.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    first.ends();
    receiver.says(" has hung up");
    // The line is not an answer to the next question until three seconds later.
    let begin = Instant::now();
    while receiver.said().matches("wants to send").count() < 2 {
        assert!(begin.elapsed() < LONG, "{}", receiver.said());
        thread::sleep(Duration::from_millis(5));
    }
    let mut third = send();
    thread::sleep(Duration::from_millis(3100));
    receiver.input.as_mut().unwrap().write_all(b"y\n").unwrap();
    let mut second = second;
    assert_eq!(second.ends(), Some(0), "{}", second.said());
    assert_eq!(std::fs::read(dir.path().join("there/file")).unwrap(), b"hello");
    assert_eq!(third.ends(), Some(1), "{}", third.said());
    assert_eq!(receiver.ends(), Some(0), "{}", receiver.said());
    assert_eq!(receiver.said().matches("wants to send").count(), 2, "{}", receiver.said());
}

#[test]
fn what_is_wrong_with_the_usage_is_said() {
    for (args, why) in [
        (&["expose"][..], "nothing to expose"),
        (&["expose", "a=1", "a=2", "--anyone"], "given twice"),
        (&["expose", "a=1", "--anyone", "--plain"], "encrypted always"),
        (&["expose", "a"], "not NAME=PLACE"),
        (&["forward", "None-0-0-x", "a"], "has no place to listen at"),
        (&["forward", "None-0-0-x"], "nothing to forward"),
        (&["forward", "nonsense", "a", "1"], "address"),
        (&["connect", "None-0-0-x", "--service", "a b"], "a service's name"),
        (&["connect", "None-0-0-x", "--streams", "--messages"], "cannot be used with"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.args(args).env(p2pd::servers::FORBID_PUBLIC, "1").stdin(Stdio::null());
        let mut running = Running::start(command);
        assert_eq!(running.ends(), Some(2), "{}", running.said());
        assert!(running.said().contains(why), "{args:?}: {}", running.said());
    }
    // A place that is taken.
    let (_exposer, address) = exposes(&["a=1"]);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
    let listener = TcpListener::bind(&taken).unwrap();
    let mut forwarder = forwards(&address, &["a", &taken]);
    assert_eq!(forwarder.ends(), Some(1), "{}", forwarder.said());
    assert!(forwarder.said().contains(&taken), "{}", forwarder.said());
    drop(listener);
}

/// A server of the system, as a user without privileges has one: its own key, and the caller's key alone.
#[test]
fn ssh_by_proxy_command() {
    let sshd = Path::new("/usr/sbin/sshd");
    if !sshd.exists() || Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_err() {
        println!("SKIPPED ssh_by_proxy_command: no sshd");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for key in ["host", "user"] {
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]).status();
        assert!(made.unwrap().success());
    }
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    std::fs::write(
        path("config"),
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PidFile none\nPasswordAuthentication no\n",
            path("host"),
            path("user.pub"),
        ),
    )
    .unwrap();
    let _ = std::fs::create_dir_all("/run/sshd");
    let mut server = Command::new(sshd);
    server.args(["-D", "-e", "-f", &path("config")]);
    let server = Running::start(server);
    server.says("Server listening on ");
    let (_exposer, address) = exposes(&[&format!("ssh=127.0.0.1:{port}")]);
    let proxy = format!(
        "ProxyCommand={} connect '{address}' --service ssh --no-servers --bind 127.0.0.1 --quiet",
        env!("CARGO_BIN_EXE_p2pd")
    );
    let out = Command::new("ssh")
        .env(p2pd::servers::FORBID_PUBLIC, "1")
        .args(["-F", "none", "-i", &path("user"), "-o", &proxy, "-o", "StrictHostKeyChecking=no", "-o"])
        .args([&format!("UserKnownHostsFile={}", path("known")), "-o", "BatchMode=yes", "host"])
        .args(["echo by ssh; head -c 1000000 /dev/zero | wc -c"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(said, "by ssh\n1000000\n", "{}\n{}", String::from_utf8_lossy(&out.stderr), server.said());
}
