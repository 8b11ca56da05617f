//! Programs that people have, through `p2pd forward` between two homes behind NATs, while the caller's network changes twice.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use p2pd_tests::lab::{Child, Host};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, TwoLines, World, event};

/// Time for which every client is busy. The network changes after a third and after two thirds of it.
const BUSY: Duration = Duration::from_secs(9);
const FILE: usize = 9 << 20;

/// The machine whose services are exposed, and their files.
struct Services<'a> {
    host: &'a Host,
    dir: &'a Path,
    /// Servers that run, ended with this.
    running: Vec<Child>,
}

impl Services<'_> {
    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// Starts a server, and waits for what it says once it serves.
    fn start(&mut self, mut command: Command, args: &[&str], ready: &str) {
        command.args(args);
        let mut child = self.host.spawn(command).unwrap();
        let said = child.wait_for_line(|line| line.contains(ready), PATIENCE);
        assert!(said.is_ok(), "{args:?}: {:?}", child.lines());
        self.running.push(child);
    }

    fn ssh(&mut self) {
        for key in ["host", "user"] {
            let args = ["-q", "-t", "ed25519", "-N", "", "-f", &self.path(key)];
            assert!(Command::new("ssh-keygen").args(args).status().unwrap().success());
        }
        let config = format!(
            "Port 22\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n",
            self.path("host"),
            self.path("user.pub")
        );
        fs::write(self.path("sshd_config"), config).unwrap();
        let _ = fs::create_dir_all("/run/sshd");
        // It wants its whole path.
        let args = ["-D", "-e", "-f", &self.path("sshd_config")];
        self.start(self.host.command("/usr/sbin/sshd"), &args, "Server listening on ");
    }

    fn web(&mut self) {
        let bytes: Vec<u8> = (0..FILE).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(self.path("file"), bytes).unwrap();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {0}/nginx.pid;\nerror_log stderr notice;\nevents {{ }}\nhttp {{\naccess_log off;\n\
             server {{ listen 127.0.0.1:80; root {0}; }}\n}}\n",
            self.dir.display()
        );
        fs::write(self.path("nginx.conf"), config).unwrap();
        let args = ["-e", "stderr", "-c", &self.path("nginx.conf")];
        self.start(self.host.command("nginx"), &args, "getrlimit");
    }

    fn database(&mut self) -> PathBuf {
        let ids = ["-u", "-g"].map(|kind| {
            let out = Command::new("id").args([kind, "postgres"]).output().unwrap();
            String::from_utf8(out.stdout).unwrap().trim().parse::<u32>().unwrap()
        });
        let dir = self.dir.join("db");
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(ids[0]), Some(ids[1])).unwrap();
        let bin =
            fs::read_dir("/usr/lib/postgresql").unwrap().map(|dir| dir.unwrap().path().join("bin")).max();
        let bin = |name: &str| bin.as_ref().unwrap().join(name).to_str().unwrap().to_owned();
        // It refuses to run as root.
        let as_postgres = || {
            let mut command = self.host.command("setpriv");
            command.args([&format!("--reuid={}", ids[0]), &format!("--regid={}", ids[1]), "--clear-groups"]);
            command
        };
        let data = dir.join("data").to_str().unwrap().to_owned();
        let made = as_postgres()
            .args([&bin("initdb"), "-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"])
            .output();
        assert!(made.as_ref().unwrap().status.success(), "{made:?}");
        let sockets = format!("unix_socket_directories={}", dir.display());
        let args = ["-D", &data, "-c", "listen_addresses=", "-c", "fsync=off", "-c", &sockets];
        let ready = "database system is ready to accept connections";
        let mut command = as_postgres();
        command.arg(bin("postgres"));
        self.start(command, &args, ready);
        let fill = ["-i", "-q", "-h", dir.to_str().unwrap(), "-U", "postgres", "postgres"];
        let filled = self.host.command("pgbench").args(fill).output().unwrap();
        assert!(filled.status.success(), "{filled:?}");
        dir.join(".s.PGSQL.5432")
    }
}

/// The clients of one machine.
struct Clients<'a> {
    host: &'a Host,
    dir: &'a Path,
}

impl Clients<'_> {
    fn run(&self, program: &str, args: &[&str]) -> Child {
        self.host.run(program, args).unwrap()
    }

    /// A shell over there that counts, ten times a second.
    fn ssh(&self, times: u32) -> Child {
        let count = format!("n=0; while [ $n -lt {times} ]; do echo $n; n=$((n + 1)); sleep 0.1; done");
        let key = self.dir.join("user");
        let known = format!("UserKnownHostsFile={}", self.dir.join("known").display());
        let options = ["-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-o", &known];
        let to = ["-F", "none", "-i", key.to_str().unwrap(), "-p", "2222"];
        self.run("ssh", &[&to[..], &options, &["root@127.0.0.1", &count]].concat())
    }

    /// Asks twice a second. Returns the answers.
    fn dig(&self, times: u32) -> Vec<String> {
        let ask = |_| {
            let args = ["+short", "+time=5", "+tries=3", "-p", "5300", "@127.0.0.1", "p2pd.test"];
            let out = self.host.command("dig").args(args).output().unwrap();
            sleep(Duration::from_millis(500));
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        (0..times).map(ask).collect()
    }
}

fn said(child: &mut Child) -> Vec<String> {
    child.lines().iter().map(|line| line.text.clone()).collect()
}

/// Waits for a client that must end well.
fn ends(name: &str, child: &mut Child) -> Vec<String> {
    let status = child.wait(PATIENCE);
    let said = said(child);
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{name}: {status:?}: {said:#?}");
    said
}

#[test]
fn ssh_nginx_iperf3_dns_and_postgresql_outlive_two_changes_of_network() {
    require_lab!(Mosquitto, Coturn, Services, Iperf3);
    let world = World::far_apart(&["pr", "pr", "pr"], Duration::from_millis(10));
    let lines = TwoLines::of(&world);
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Servers that are not root read there.
    Command::new("chmod").arg("755").arg(there.path()).status().unwrap();
    let mut services = Services { host: world.lab.host(2), dir: there.path(), running: Vec::new() };
    services.ssh();
    services.web();
    let socket = services.database();
    let speed = ["-s", "-B", "127.0.0.1", "--forceflush"];
    services.start(services.host.command("iperf3"), &speed, "Server listening on 5201");
    let dns = [
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--port=53",
        "--bind-interfaces",
    ];
    let dns = [&dns[..], &["--listen-address=127.0.0.1", "--address=/p2pd.test/192.0.2.7"]].concat();
    services.start(services.host.command("dnsmasq"), &dns, "started");

    let db = format!("db=unix:{}", socket.display());
    let (_, id) = world.key(0);
    let expose =
        ["expose", "ssh=22", "web=127.0.0.1:80", "speed=5201", "dns=udp:127.0.0.1:53", &db, "--accept", &id];
    let mut exposer = world.run(world.lab.host(2), &expose);
    let address = event(&mut exposer, "ready")["address"].as_str().unwrap().to_owned();
    let (key, _) = world.key(0);
    let door = here.path().join(".s.PGSQL.5432");
    let doors = [
        ["ssh", "2222"],
        ["web", "8080"],
        ["speed", "5201"],
        ["dns", "udp:5300"],
        ["db", &format!("unix:{}", door.display())],
    ];
    let forward = [&["forward", &address, "--identity", &key][..], &doors.concat()].concat();
    let mut forwarder = world.run(world.lab.host(0), &forward);
    doors.iter().for_each(|_| {
        event(&mut forwarder, "forwards");
    });

    for name in ["user", "user.pub"] {
        fs::copy(there.path().join(name), here.path().join(name)).unwrap();
    }
    let clients = Clients { host: world.lab.host(0), dir: here.path() };
    let secs = BUSY.as_secs();
    let mut ssh = clients.ssh(secs as u32 * 10);
    let file = here.path().join("file");
    let rate = (FILE as u64 / secs).to_string();
    let curl = ["-sSf", "--limit-rate", &rate, "-o", file.to_str().unwrap(), "http://127.0.0.1:8080/file"];
    let mut curl = clients.run("curl", &curl);
    let mut iperf3 = clients.run("iperf3", &["-c", "127.0.0.1", "-b", "20M", "-t", &secs.to_string()]);
    let pgbench = [
        "-n",
        "-c",
        "4",
        "-T",
        &secs.to_string(),
        "-h",
        here.path().to_str().unwrap(),
        "-U",
        "postgres",
        "postgres",
    ];
    let mut pgbench = clients.run("pgbench", &pgbench);
    let answers = std::thread::scope(|scope| {
        let asking = scope.spawn(|| clients.dig(2 * secs as u32));
        for line in [1, 0] {
            sleep(BUSY / 3);
            lines.go(&world, line);
        }
        asking.join().unwrap()
    });

    let begin = Instant::now();
    let counted = ends("ssh", &mut ssh);
    let numbers: Vec<String> = (0..secs * 10).map(|n| n.to_string()).collect();
    assert!(counted.iter().filter(|line| line.parse::<u32>().is_ok()).eq(&numbers), "{counted:?}");
    ends("curl", &mut curl);
    assert!(fs::read(&file).unwrap() == fs::read(there.path().join("file")).unwrap());
    let measured = ends("iperf3", &mut iperf3);
    assert!(measured.iter().any(|line| line.ends_with("receiver")), "{measured:#?}");
    let done = ends("pgbench", &mut pgbench);
    let failed = done.iter().find(|line| line.starts_with("number of failed transactions: "));
    assert!(failed.is_some_and(|line| line.contains(": 0 ")), "{done:#?}");
    assert!(answers.iter().all(|answer| answer == "192.0.2.7"), "{answers:?}");
    // One session had it all, which moved twice at least.
    let events = said(&mut forwarder);
    let count =
        |name: &str| events.iter().filter(|line| line.contains(&format!("\"event\":\"{name}\""))).count();
    println!(
        "moved {} times; the clients ended within {:?} of the last answer",
        count("moved"),
        begin.elapsed()
    );
    println!(
        "{}",
        done.iter()
            .filter(|line| line.contains("latency") || line.contains("tps"))
            .cloned()
            .collect::<Vec<_>>()
            .join("; ")
    );
    assert!(count("moved") >= 2 && count("connected") == 1, "{events:#?}");
}
