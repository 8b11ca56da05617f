//! Real servers on the lab's server host.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use p2pd_core::Transport;
use p2pd_core::stun::{TransactionId, binding_request, decode_binding};

use super::certificates::Certificate;
use super::process::Child;
use super::{Host, Lab, LabError, Namespace, Result, SERVER};

/// Longest time until a server's first answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running mosquitto: an MQTT 3.1.1 broker that lets anybody in.
#[derive(Debug)]
pub struct Mosquitto {
    child: Child,
    _files: TempDir,
}

impl Mosquitto {
    /// Starts the broker and waits until it takes connections.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, &[])
    }

    /// The same with TLS at these ports too; at 443 it is MQTT over WebSocket over TLS.
    pub fn start_with(lab: &Lab, tls: &[(u16, &Certificate)]) -> Result<Self> {
        let files = TempDir::new("mosquitto")?;
        let config = files.path().join("conf");
        let ip = SERVER[0];
        let mut text = format!("listener 1883 {ip}\nallow_anonymous true\npersistence false\nuser root\n");
        for (port, certificate) in tls {
            let (pem, key) = files.certificate(&port.to_string(), certificate)?;
            let protocol = if *port == 443 { "websockets" } else { "mqtt" };
            text += &format!("listener {port} {ip}\nprotocol {protocol}\ncertfile {pem}\nkeyfile {key}\n");
        }
        std::fs::write(&config, text).map_err(|e| LabError::new(format!("{}: {e}", config.display())))?;
        let mut command = lab.server().command("mosquitto");
        command.arg("-c").arg(&config);
        let mut child = lab.server().spawn(command)?;
        for port in tls.iter().map(|(port, _)| *port).chain([1883]) {
            let addr = (ip, port).into();
            await_service(lab, &mut child, || TcpStream::connect_timeout(&addr, PATIENCE).map(drop))?;
        }
        Ok(Self { child, _files: files })
    }

    /// Returns the address on which the broker listens.
    pub fn addr(&self) -> SocketAddr {
        (SERVER[0], 1883).into()
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// A running coturn: STUN with the second address of RFC 5780 and TURN, over UDP and TCP.
#[derive(Debug)]
pub struct Coturn {
    child: Child,
    _files: TempDir,
}

impl Coturn {
    /// The realm of its users.
    pub const REALM: &str = "lab";
    /// The one user.
    pub const USER: &str = "alice";
    /// The user's password.
    pub const PASSWORD: &str = "secret";

    /// Starts the server and waits until it answers over TCP and UDP.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, &[&format!("--user={}:{}", Self::USER, Self::PASSWORD), "--lt-cred-mech"])
    }

    /// The same with these options, which say who may use it; [`start`](Self::start) lets in its one user.
    pub fn start_with(lab: &Lab, options: &[&str]) -> Result<Self> {
        let files = TempDir::new("coturn")?;
        let [first, second] = SERVER;
        let mut command = lab.server().command("turnserver");
        command.args([
            "-n".to_owned(),
            format!("--listening-ip={first}"),
            format!("--listening-ip={second}"),
            format!("--relay-ip={first}"),
            "--listening-port=3478".to_owned(),
            "--alt-listening-port=3479".to_owned(),
            "--min-port=49152".to_owned(),
            "--max-port=49999".to_owned(),
            format!("--realm={}", Self::REALM),
            format!("--userdb={}", files.path().join("turndb").display()),
            format!("--pidfile={}", files.path().join("pid").display()),
            "--log-file=stdout".to_owned(),
            "--relay-threads=1".to_owned(),
        ]);
        command.args(["--no-tls", "--no-dtls", "--no-cli", "--fingerprint", "--simple-log"]);
        command.args(options);
        let mut child = lab.server().spawn(command)?;
        for ip in SERVER {
            for port in [3478, 3479] {
                let addr = (ip, port).into();
                await_service(lab, &mut child, || TcpStream::connect_timeout(&addr, PATIENCE).map(drop))?;
                await_service(lab, &mut child, || binding(addr))?;
            }
        }
        Ok(Self { child, _files: files })
    }

    /// A TURN server at the second address, for its one user, that takes TLS at this port.
    pub fn start_tls(lab: &Lab, port: u16, certificate: &Certificate) -> Result<Self> {
        let files = TempDir::new("coturn")?;
        let (pem, key) = files.certificate("turn", certificate)?;
        let ip = SERVER[1];
        let mut command = lab.server().command("turnserver");
        command.args([
            "-n".to_owned(),
            format!("--listening-ip={ip}"),
            format!("--relay-ip={ip}"),
            "--listening-port=3478".to_owned(),
            format!("--tls-listening-port={port}"),
            format!("--cert={pem}"),
            format!("--pkey={key}"),
            format!("--user={}:{}", Self::USER, Self::PASSWORD),
            format!("--realm={}", Self::REALM),
            format!("--userdb={}", files.path().join("turndb").display()),
            format!("--pidfile={}", files.path().join("pid").display()),
            "--log-file=stdout".to_owned(),
        ]);
        command.args(["--lt-cred-mech", "--no-dtls", "--no-cli", "--fingerprint", "--simple-log"]);
        let mut child = lab.server().spawn(command)?;
        let addr = (ip, port).into();
        await_service(lab, &mut child, || TcpStream::connect_timeout(&addr, PATIENCE).map(drop))?;
        Ok(Self { child, _files: files })
    }

    /// Returns the primary address. The first of the two is the one to ask, because the second names itself as the
    /// other.
    pub fn addr(&self) -> SocketAddr {
        (SERVER[0], 3478).into()
    }

    /// The other address and port (RFC 5780 OTHER-ADDRESS).
    pub fn other_addr(&self) -> SocketAddr {
        (SERVER[1], 3479).into()
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// The port of its descriptions and calls.
const HTTP: u16 = 5000;

/// A running miniupnpd on the router of a home: UPnP IGD version 2, NAT-PMP and PCP.
#[derive(Debug)]
pub struct Miniupnpd {
    child: Child,
    _files: TempDir,
}

impl Miniupnpd {
    /// Starts it on the innermost router of home number `home`, with more lines for its configuration, and waits until
    /// it answers the home's host. The first start makes the chains that it needs, and old mappings are forgotten.
    pub fn start(lab: &Lab, home: usize, options: &str) -> Result<Self> {
        let options = format!("ext_ifname=wan\nlistening_ip=lan\n{options}");
        let host = lab.host(home);
        let [a, b, c, _] = host.ip().octets();
        let probe = || {
            let socket = UdpSocket::bind((host.ip(), 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            socket.connect((Ipv4Addr::new(a, b, c, 1), 5351))?;
            // NAT-PMP: which is your address?
            socket.send(&[0, 0])?;
            socket.recv(&mut [0; 16]).map(drop)
        };
        Self::start_on(lab, &lab.routers(home)[0], host, &options, "policy accept;", probe)
    }

    /// Starts it on a host that routes between two of its interfaces, the one inside and the one outside. The host is a
    /// firewall that lets nothing in. Waits until the server answers `inside` at this address, an IPv6 one.
    pub fn start_on_firewall(
        lab: &Lab,
        router: &Host,
        [inside, outside]: [&str; 2],
        (host, at): (&Host, Ipv6Addr),
    ) -> Result<Self> {
        let options = format!("ext_ifname={outside}\nlistening_ip={inside}\n");
        let rules = format!(
            "policy drop; iifname \"{inside}\" accept; ct state established accept;
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept;"
        );
        let probe = || TcpStream::connect_timeout(&(at, HTTP).into(), PATIENCE).map(drop);
        Self::start_on(lab, router.namespace(), host, &options, &rules, probe)
    }

    fn start_on(
        lab: &Lab,
        router: &Namespace,
        host: &Host,
        options: &str,
        forward: &str,
        probe: impl Fn() -> io::Result<()> + Sync,
    ) -> Result<Self> {
        let files = TempDir::new("miniupnpd")?;
        // As after a restart of the router, nothing is left of earlier mappings.
        let forget = "flush chain inet filter miniupnpd\nflush chain inet filter prerouting_miniupnpd\n\
                      flush chain inet filter postrouting_miniupnpd\n";
        if router.configure("nft", &["-f", "-"], forget).is_err() {
            router.configure("nft", &["-f", "-"], &Self::rules(forward))?;
        }
        let config = files.path().join("conf");
        let text = format!(
            "http_port={HTTP}\nenable_upnp=yes\nenable_natpmp=yes\nsecure_mode=yes\n\
             min_lifetime=1\nmax_lifetime=86400\nclean_ruleset_interval=1\nnotify_interval=60\n\
             uuid=fc4ec57e-b051-11db-88f8-0060085db3f6\n{options}\nallow 1024-65535 0.0.0.0/0 1024-65535\n"
        );
        std::fs::write(&config, text).map_err(|e| LabError::new(format!("{}: {e}", config.display())))?;
        let mut command = router.command("miniupnpd");
        command.arg("-d").arg("-f").arg(&config).arg("-P").arg(files.path().join("pid"));
        let mut child = Child::spawn(command, &lab.registry)?;
        await_answer(host, &mut child, probe)?;
        Ok(Self { child, _files: files })
    }

    /// Returns the chains that it fills, with `forward` as the rules of forwarding.
    fn rules(forward: &str) -> String {
        format!(
            "table inet filter {{
chain forward {{ type filter hook forward priority 0; {forward} jump miniupnpd; }}
chain miniupnpd {{ }}
chain prerouting {{ type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd; }}
chain postrouting {{ type nat hook postrouting priority 90; policy accept; jump postrouting_miniupnpd; }}
chain prerouting_miniupnpd {{ }}
chain postrouting_miniupnpd {{ }}
}}
"
        )
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// A running chronyd that serves its machine's time and leaves that alone.
#[derive(Debug)]
pub struct Chrony {
    child: Child,
    _files: TempDir,
}

impl Chrony {
    /// Starts the server and waits until it answers.
    pub fn start(lab: &Lab) -> Result<Self> {
        let files = TempDir::new("chrony")?;
        let config = files.path().join("conf");
        let (ip, pid) = (SERVER[0], files.path().join("pid"));
        let text = format!(
            "local stratum 3\nallow all\nport 123\nbindaddress {ip}\ncmdport 0\nbindcmdaddress /\npidfile {}\n",
            pid.display()
        );
        std::fs::write(&config, text).map_err(|e| LabError::new(format!("{}: {e}", config.display())))?;
        let mut command = lab.server().command("chronyd");
        // -x: it must not touch the clock.
        command.args(["-d", "-x", "-U", "-u", "root", "-f"]).arg(&config);
        let mut child = lab.server().spawn(command)?;
        let probe = || {
            let socket = UdpSocket::bind((ip, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            socket.connect((ip, 123))?;
            let mut request = [0; 48];
            request[0] = 0x23;
            socket.send(&request)?;
            socket.recv(&mut [0; 64]).map(drop)
        };
        await_answer(lab.server(), &mut child, probe)?;
        Ok(Self { child, _files: files })
    }

    /// Returns the address on which the server listens.
    pub fn addr(&self) -> SocketAddr {
        (SERVER[0], 123).into()
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// Repeats `probe` in the server's namespace until it succeeds, the server ends, or patience does.
fn await_service(lab: &Lab, child: &mut Child, probe: impl Fn() -> io::Result<()> + Sync) -> Result<()> {
    await_answer(lab.server(), child, probe)
}

/// The same on any host.
fn await_answer(host: &Host, child: &mut Child, probe: impl Fn() -> io::Result<()> + Sync) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(error) = host.enter(&probe) else { return Ok(()) };
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            return Err(child.complain(&format!("it does not answer: {error}")));
        }
        // Nothing announces that a port has been opened, so ask again soon.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Does one STUN Binding exchange over UDP.
fn binding(server: SocketAddr) -> io::Result<()> {
    let id = TransactionId(*b"p2pd-lab-isr");
    let socket = UdpSocket::bind((SERVER[0], 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.connect(server)?;
    socket.send(&binding_request(id, None))?;
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply)?;
    match decode_binding(&reply[..length], Transport::Udp) {
        Ok(reply) if reply.transaction == id => Ok(()),
        other => Err(io::Error::other(format!("not a Binding response: {other:?}"))),
    }
}

/// A directory that is removed when dropped.
#[derive(Debug)]
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("p2pd-lab-{}-{number}-{name}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| LabError::new(format!("{}: {e}", path.display())))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a certificate and its key; their files.
    fn certificate(&self, name: &str, certificate: &Certificate) -> Result<(String, String)> {
        let write = |kind: &str, text: &str| {
            let file = self.0.join(format!("{name}.{kind}"));
            let written = std::fs::write(&file, text).map(|()| file.display().to_string());
            written.map_err(|e| LabError::new(format!("{}: {e}", file.display())))
        };
        Ok((write("pem", &certificate.pem)?, write("key", &certificate.key)?))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What cannot be removed from the temporary directory harms no test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
