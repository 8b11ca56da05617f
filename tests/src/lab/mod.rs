//! A laboratory of real Linux NATs, for tests.
//!
//! ```text
//! h0 ── r0 ┐                      ┌ srv  203.0.113.10, 203.0.113.11
//! h1 ── r1 ┼─ internet (a thread) ┘
//! h2 ── r2 ── c2_1 ┘              each line with its own delay, jitter and loss
//! ```
//!
//! Every host and router is a network namespace of its own, held by descriptors of this process. It has no name that
//! could collide and no route to the real network. It is gone when the [`Lab`] is dropped or the process dies. Routers
//! are the kernel's, set up by `ip` and `nft`; between them a thread forwards packets from TUN device to TUN device.
//! That thread also is the NAT of homes whose kind the kernel has no rules for ([`UserNat`]).
//!
//! ```no_run
//! use p2pd_tests::lab::{Home, Lab, Nat, Unsolicited};
//! use std::time::Duration;
//!
//! p2pd_tests::require_lab!(Mosquitto);
//! let lab = Lab::builder()
//!     .home(Home::new(Nat::PortPreserving).delay(Duration::from_millis(20)))
//!     .home(Home::new(Nat::PortPreserving).behind(Nat::SymmetricRandom).unsolicited(Unsolicited::Rst))
//!     .build()
//!     .unwrap();
//! let broker = p2pd_tests::lab::services::Mosquitto::start(&lab).unwrap();
//! let mut listener = lab.host(0).run("p2pd", ["listen"]).unwrap();
//! listener.wait_for_line(|line| line.contains("address"), Duration::from_secs(10)).unwrap();
//! let stream = lab.host(1).enter(|| std::net::TcpStream::connect(broker.addr())).unwrap();
//! # drop(stream);
//! ```

mod available;
mod build;
pub mod certificates;
mod dice;
mod home;
mod internet;
mod netns;
mod process;
mod rules;
pub mod services;
#[allow(unsafe_code)]
mod sys;
mod userspace;

use std::ffi::OsStr;
use std::fmt;
use std::net::Ipv4Addr;
use std::process::Command;

pub use available::{Part, available, available_with, ready};
pub use build::{Builder, SERVER};
pub use home::{Home, Nat, Sequence, Unsolicited};
pub use internet::Traffic;
pub use netns::Namespace;
pub use process::{Child, Line, Stream};
pub use userspace::{Allocation, Dependence, UserNat};

use available::tool;
use internet::Internet;
use process::Registry;

/// Error of the lab: the step, the host, and the system's message.
#[derive(Debug, Clone)]
pub struct LabError(String);

/// A result of the lab.
pub type Result<T> = std::result::Result<T, LabError>;

impl LabError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LabError {}

/// A running lab. Dropping it ends its programs and removes its namespaces.
pub struct Lab {
    internet: Internet,
    hosts: Vec<Host>,
    routers: Vec<Vec<Namespace>>,
    server: Host,
    registry: Registry,
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("hosts", &self.hosts).field("traffic", &self.traffic()).finish()
    }
}

impl Lab {
    /// Describes a lab: a server, and the homes that are added.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The host in home number `index`.
    ///
    /// # Panics
    /// If there is no such home.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The hosts of all homes.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host with the two public addresses [`SERVER`].
    pub fn server(&self) -> &Host {
        &self.server
    }

    /// The routers of home number `index`, the innermost first.
    ///
    /// # Panics
    /// If there is no such home.
    pub fn routers(&self, index: usize) -> &[Namespace] {
        &self.routers[index]
    }

    /// Gives a host a second line, to the innermost router of another home: device `device`, which is down and has no
    /// address. Its address there is to be the first, the router's the second.
    ///
    /// # Errors
    /// Of `ip`.
    pub fn plug(&self, host: usize, home: usize, device: &str) -> Result<[Ipv4Addr; 2]> {
        let [ours, theirs] = [2, 1].map(|n| Ipv4Addr::new(172, 20 + home as u8, host as u8, n));
        let (router, line) = (&self.routers[home][0], format!("lan{host}"));
        let batch = format!(
            "link add {line} type veth peer name {device} netns {}\naddr add {theirs}/24 dev {line}\n\
             link set {line} up\n",
            self.hosts[host].space.path()
        );
        router.configure("ip", &["-batch", "-"], &batch)?;
        Ok([ours, theirs])
    }

    /// Lays a cable between two hosts: device `device` at both, which is down, has no address, and may have IPv6.
    ///
    /// # Errors
    /// Of `ip`.
    pub fn cable(&self, [a, b]: [usize; 2], device: &str) -> Result<()> {
        let other = self.hosts[b].space.path();
        self.hosts[a].ip_batch(&format!("link add {device} type veth peer name {device} netns {other}\n"))?;
        let ipv6 = format!("net/ipv6/conf/{device}/disable_ipv6");
        [a, b].into_iter().try_for_each(|n| self.hosts[n].space.sysctl(&[(&ipv6, "0")]))
    }

    /// Returns the counts of packets that the internet has carried and dropped.
    pub fn traffic(&self) -> Traffic {
        self.internet.traffic()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.registry.kill_all();
    }
}

/// A computer in the lab.
#[derive(Clone)]
pub struct Host {
    space: Namespace,
    ip: Ipv4Addr,
    wan: Ipv4Addr,
    registry: Registry,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({} {} as {})", self.space.name(), self.ip, self.wan)
    }
}

impl Host {
    /// `h0`, `h1`, ..., `srv`.
    pub fn name(&self) -> &str {
        self.space.name()
    }

    /// The host's own address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// The address under which the internet sees the host: the outermost router's, or its own.
    pub fn wan(&self) -> Ipv4Addr {
        self.wan
    }

    /// The host's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.space
    }

    /// Runs `work` on a thread inside the host; see [`Namespace::enter`].
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.space.enter(work)
    }

    /// Has `ip -batch` carry these lines out on the host.
    ///
    /// # Errors
    /// Of `ip`.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        self.space.configure("ip", &["-batch", "-"], lines)
    }

    /// Loads rules of `nft`.
    ///
    /// # Errors
    /// Of `nft`.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.space.configure("nft", &["-f", "-"], rules)
    }

    /// Sets kernel parameters, `("net/ipv6/conf/all/forwarding", "1")`.
    ///
    /// # Errors
    /// Of writing them.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        self.space.sysctl(values)
    }

    /// A command that runs on the host; see [`Namespace::command`]. Best given to [`Host::spawn`].
    pub fn command(&self, program: &str) -> Command {
        self.space.command(program)
    }

    /// Starts a command made by [`Host::command`], its output captured. It ends with the guard, the lab
    /// or this process, whichever is first.
    pub fn spawn(&self, command: Command) -> Result<Child> {
        Child::spawn(command, &self.registry)
    }

    /// Starts `program` with `args` on the host.
    pub fn run(&self, program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Child> {
        let mut command = self.command(program);
        command.args(args);
        self.spawn(command)
    }
}
