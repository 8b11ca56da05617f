//! Rates and times of `p2pd forward` beside those of `ssh -L`, of a bare socket and of a stream of a session, over one line
//! of the lab. Its figures want a quiet machine: `tests/long/forward`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use p2pd_tests::lab::{Child, Home};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event, program};
use serde_json::Value;

/// Time of each measurement.
const SECONDS: u64 = 5;
const REQUESTS: usize = 10_000;
/// Requests that are under way at once.
const AT_ONCE: usize = 10;
const IPERF: u16 = 5201;
const WEB: u16 = 8000;
/// Ports at the caller: of `ssh -L`, and of `p2pd forward`.
const SSH: [u16; 2] = [5301, 8301];
const OURS: [u16; 2] = [5401, 8401];
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// A caller behind a NAT, and a public machine whose services it uses in three ways.
struct Line {
    world: World,
    dir: tempfile::TempDir,
    /// Servers and forwarders, ended with this.
    running: Vec<Child>,
}

impl Line {
    fn new(round_trip: Duration, loss: f64) -> Self {
        let home = |text: &str| text.parse::<Home>().unwrap().delay(round_trip / 4);
        let homes = vec![home("none").loss(loss), home("pr")];
        let world = World::relaying_for(homes, &[], "");
        let mut line = Line { world, dir: tempfile::tempdir().unwrap(), running: Vec::new() };
        line.serve();
        line.ssh();
        line.ours();
        line
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn server(&self) -> Ipv4Addr {
        self.world.lab.host(0).ip()
    }

    fn serve(&mut self) {
        let host = self.world.lab.host(0);
        self.running.push(host.run("iperf3", ["-s", "-p", &IPERF.to_string()]).unwrap());
        let listener = host.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, WEB)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || answers(stream));
            }
        });
    }

    fn ssh(&mut self) {
        for key in ["host", "user"] {
            let args = ["-q", "-t", "ed25519", "-N", "", "-f", &self.at(key)];
            assert!(Command::new("ssh-keygen").args(args).status().unwrap().success());
        }
        let config = format!(
            "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n",
            self.at("host"),
            self.at("user.pub")
        );
        fs::write(self.at("sshd_config"), config).unwrap();
        let _ = fs::create_dir_all("/run/sshd");
        let mut sshd = self
            .world
            .lab
            .host(0)
            .run("/usr/sbin/sshd", ["-D", "-e", "-f", &self.at("sshd_config")])
            .unwrap();
        sshd.wait_for_line(|line| line.contains("Server listening on "), PATIENCE).unwrap();
        self.running.push(sshd);
        let doors = [(SSH[0], IPERF), (SSH[1], WEB)].map(|(here, there)| format!("{here}:127.0.0.1:{there}"));
        let known = format!("UserKnownHostsFile={}", self.at("known"));
        let (key, to) = (self.at("user"), format!("root@{}", self.server()));
        let options =
            ["-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-o", &known, "-v", "-F", "none"];
        let args = ["-N", "-i", &key, "-L", &doors[0], "-L", &doors[1], &to];
        let mut ssh = self.world.lab.host(1).run("ssh", [&options[..], &args].concat()).unwrap();
        ssh.wait_for_line(|line| line.contains("Entering interactive session"), PATIENCE).unwrap();
        self.running.push(ssh);
    }

    fn ours(&mut self) {
        let (key, id) = self.world.key(1);
        let services = [format!("iperf={IPERF}"), format!("web={WEB}")];
        let expose = ["expose", &services[0], &services[1], "--accept", &id];
        let mut exposer = self.world.run(self.world.lab.host(0), &expose);
        let address = event(&mut exposer, "ready")["address"].as_str().unwrap().to_owned();
        let doors = OURS.map(|port| port.to_string());
        let forward = ["forward", &address, "iperf", &doors[0], "web", &doors[1], "--identity", &key];
        let mut forwarder = self.world.run(self.world.lab.host(1), &forward);
        (0..2).for_each(|_| _ = event(&mut forwarder, "forwards"));
        self.running.extend([exposer, forwarder]);
        // The first one opens the session.
        self.iperf([Ipv4Addr::LOCALHOST.to_string(), OURS[0].to_string()], 1, 1);
    }

    /// Megabits a second that iperf3's server receives over so many connections.
    fn iperf(&self, [host, port]: [String; 2], connections: usize, seconds: u64) -> f64 {
        let (connections, seconds) = (connections.to_string(), seconds.to_string());
        let args = ["-c", &host, "-p", &port, "-P", &connections, "-t", &seconds, "--json"];
        // What a test before has left under way keeps the server busy.
        for _ in 0..60 {
            let said = self.world.lab.host(1).command("iperf3").args(args).output().unwrap();
            let report: Value = serde_json::from_slice(&said.stdout).unwrap();
            match report["end"]["sum_received"]["bits_per_second"].as_f64() {
                Some(bits) => return bits / 1e6,
                None => println!("{}, once more", report["error"]),
            }
            thread::sleep(Duration::from_secs(1));
        }
        panic!("no rate by {host}:{port}");
    }

    /// Megabits a second of a stream of a session, for as long.
    fn stream(&self) -> f64 {
        let (key, id) = self.world.key(1);
        let count = self.at("count");
        let _ = fs::remove_file(&count);
        let host = self.world.lab.host(0);
        let mut listen = host.command(program());
        listen.env("P2PD_FORBID_PUBLIC_SERVERS", "1").args(["listen", "--json", "--accept", &id, "--config"]);
        listen.arg(self.world.config()).args(["--exec", "sh", "-c", &format!("wc -c > {count}")]);
        let mut listener = host.spawn(listen).unwrap();
        let address = event(&mut listener, "ready")["address"].as_str().unwrap().to_owned();
        let mut caller =
            self.world.run(self.world.lab.host(1), &["connect", &address, "--streams", "--identity", &key]);
        let mut to = caller.take_stdin().unwrap();
        event(&mut caller, "connected");
        let (began, block) = (Instant::now(), vec![7; 64 << 10]);
        while began.elapsed() < Duration::from_secs(SECONDS) {
            to.write_all(&block).unwrap();
        }
        drop(to);
        caller.wait(PATIENCE).unwrap();
        let took = began.elapsed();
        let counted = (0..500).find_map(|_| {
            thread::sleep(Duration::from_millis(10));
            fs::read_to_string(&count).ok()?.trim().parse::<u64>().ok()
        });
        counted.unwrap() as f64 * 8.0 / 1e6 / took.as_secs_f64()
    }

    /// Median times of a request on an open connection, and of one with a connection of its own.
    fn requests(&self, to: SocketAddr) -> [Duration; 2] {
        [true, false].map(|keeps| {
            let ask = || self.world.lab.host(1).enter(|| ask(to, keeps));
            let mut times: Vec<Duration> = thread::scope(|scope| {
                let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(ask)).collect();
                all.into_iter().flat_map(|one| one.join().unwrap()).collect()
            });
            times.sort();
            assert_eq!(times.len(), REQUESTS);
            times[REQUESTS / 2]
        })
    }
}

/// Answers each request.
fn answers(mut stream: TcpStream) {
    let mut request = vec![0; REQUEST.len()];
    while stream.read_exact(&mut request).is_ok() && stream.write_all(ANSWER).is_ok() {}
}

/// Asks one client's share of the requests, and returns the time of each.
fn ask(to: SocketAddr, keeps: bool) -> Vec<Duration> {
    let connect = || {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let mut open = connect();
    let once = || {
        let began = Instant::now();
        if !keeps {
            open = connect();
        }
        open.write_all(REQUEST).unwrap();
        let mut answer = vec![0; ANSWER.len()];
        open.read_exact(&mut answer).unwrap();
        assert_eq!(answer, ANSWER);
        began.elapsed()
    };
    std::iter::repeat_with(once).take(REQUESTS / AT_ONCE).collect()
}

#[test]
#[ignore = "its rates want a quiet machine: tests/long/forward"]
fn a_forwarded_port_beside_ssh_and_bare_sockets() {
    require_lab!(Mosquitto, Coturn, Services, Iperf3);
    let local = Ipv4Addr::LOCALHOST;
    println!(
        "| round trip, loss | connections | bare, Mbit/s | ssh -L | stream | p2pd forward | of ssh's | of the stream's |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut times = String::new();
    for (ms, loss) in [(10, 0.0), (10, 0.01), (100, 0.0), (100, 0.01)] {
        let line = Line::new(Duration::from_millis(ms), loss);
        let rate =
            |to: Ipv4Addr, port: u16, many| line.iperf([to.to_string(), port.to_string()], many, SECONDS);
        for many in [1, 100] {
            let (bare, ssh) = (rate(line.server(), IPERF, many), rate(local, SSH[0], many));
            let (stream, ours) = (line.stream(), rate(local, OURS[0], many));
            println!(
                "| {ms} ms, {} % | {many} | {bare:.0} | {ssh:.0} | {stream:.0} | {ours:.0} | {:.2} | {:.2} |",
                loss * 100.0,
                ours / ssh,
                ours / stream
            );
        }
        if (ms, loss) == (10, 0.0) {
            let bare = line.requests(SocketAddr::from((line.server(), WEB)));
            let [ssh, ours] = [SSH[1], OURS[1]].map(|port| line.requests(SocketAddr::from((local, port))));
            for (n, what) in ["on an open connection", "with a connection of its own"].iter().enumerate() {
                times += &format!(
                    "{what}: direct {:.2?}, ssh -L {:.2?}, p2pd forward {:.2?}\n",
                    bare[n], ssh[n], ours[n]
                );
            }
        }
    }
    println!("{REQUESTS} requests, {AT_ONCE} at once, round trip 10 ms, no loss; the median of one");
    print!("{times}");
}
