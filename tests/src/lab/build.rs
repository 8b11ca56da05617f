//! Builder of a lab: from a list of homes to configured namespaces.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::home::{Home, Nat};
use super::internet::{Internet, Port};
use super::netns::Namespace;
use super::process::Registry;
use super::userspace::Translator;
use super::{Host, Lab, LabError, Result, rules};

/// The server's addresses. It has two, so that STUN can tell mappings apart.
pub const SERVER: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11)];

/// Most homes: a WAN network of four addresses for each, 62 homes to each 45.10.X.
const MAX_HOMES: usize = 200;

/// Describes a lab. See [`Lab::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    homes: Vec<Home>,
    server_delay: Duration,
    seed: u64,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { homes: Vec::new(), server_delay: Duration::ZERO, seed: 0x9E37_79B9_7F4A_7C15 }
    }

    /// Adds a home; the first is number 0.
    pub fn home(mut self, home: Home) -> Self {
        self.homes.push(home);
        self
    }

    /// Adds homes.
    pub fn homes(mut self, homes: impl IntoIterator<Item = Home>) -> Self {
        self.homes.extend(homes);
        self
    }

    /// Sets the one-way delay of the server's line. Default: none.
    pub fn server_delay(mut self, one_way: Duration) -> Self {
        self.server_delay = one_way;
        self
    }

    /// Decides which packets are lost and how jitter falls.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Builds the namespaces, routers and lines. On an error nothing is left behind.
    pub fn build(self) -> Result<Lab> {
        if self.homes.len() > MAX_HOMES {
            return Err(LabError::new(format!("{} homes: at most {MAX_HOMES}", self.homes.len())));
        }
        self.homes.iter().try_for_each(Home::validate)?;
        let registry = Registry::default();
        let mut ports = Vec::new();
        let server = server(self.server_delay, &registry, &mut ports)?;
        let (mut hosts, mut routers) = (Vec::new(), Vec::new());
        for (number, home) in self.homes.iter().enumerate() {
            let (host, chain) = Site::new(number, home, self.seed).build(&registry, &mut ports)?;
            hosts.push(host);
            routers.push(chain);
        }
        let internet = Internet::start(ports, self.seed)?;
        Ok(Lab { internet, hosts, routers, server, registry })
    }
}

fn server(delay: Duration, registry: &Registry, ports: &mut Vec<Port>) -> Result<Host> {
    let space = namespace("srv")?;
    let tun = space.tun("eth0")?;
    let [first, second] = SERVER;
    let batch = format!(
        "link set lo up\naddr add {first}/24 dev eth0\naddr add {second}/24 dev eth0\n\
         link set eth0 up\nroute add default dev eth0\n"
    );
    space.configure("ip", &["-batch", "-"], &batch)?;
    let networks = SERVER.map(|ip| (ip, 32)).into();
    ports.push(Port { tun, delay, jitter: Duration::ZERO, loss: 0.0, networks, nat: None });
    Ok(Host { space, ip: first, wan: first, registry: registry.clone() })
}

/// Creates a namespace without IPv6 on its devices (the lab speaks IPv4; `::1` remains). The reverse path filter is
/// off, against the machine's own default. A device that comes up announces its address, as DHCP clients do (RFC 2131
/// section 4.4.1): a router that has asked for an absent host in vain asks again only a second later.
fn namespace(name: &str) -> Result<Namespace> {
    let space = Namespace::new(name)?;
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        space.sysctl(&[("net/ipv6/conf/default/disable_ipv6", "1")])?;
    }
    space.sysctl(&[
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/arp_notify", "1"),
    ])?;
    Ok(space)
}

/// The addresses of one home.
struct Site<'a> {
    home: &'a Home,
    number: u8,
    wan: Ipv4Addr,
    seed: u64,
}

impl<'a> Site<'a> {
    fn new(number: usize, home: &'a Home, seed: u64) -> Self {
        // Not one of the documentation networks: miniupnpd refuses to work with such a WAN address.
        let (block, within) = (number / 62, number % 62);
        let wan = Ipv4Addr::new(45, 10, 100 + block as u8, (within * 4 + 2) as u8);
        let seed = seed.rotate_left(number as u32).wrapping_add(number as u64 * 2);
        Self { home, number: number as u8, wan, seed }
    }

    /// The third router of a chain has level 2. Level 0 serves the home, the others carriers' networks.
    fn lan(&self, level: usize, host: u8) -> Ipv4Addr {
        match level {
            0 if self.home.is_public() => Ipv4Addr::new(45, 11, self.number, host),
            0 => Ipv4Addr::new(192, 168, 10 + self.number, host),
            _ => Ipv4Addr::new(100, 63 + level as u8, self.number, host),
        }
    }

    fn build(&self, registry: &Registry, ports: &mut Vec<Port>) -> Result<(Host, Vec<Namespace>)> {
        let space = namespace(&format!("h{}", self.number))?;
        let mut routers = Vec::new();
        for level in 0..self.home.chain.len() {
            let name =
                if level == 0 { format!("r{}", self.number) } else { format!("c{}_{level}", self.number) };
            routers.push(namespace(&name)?);
        }
        for level in 0..routers.len() {
            let inside = if level == 0 { Some(&space) } else { None };
            if let Some(port) = self.router(level, &routers[level], inside, routers.get(level + 1))? {
                ports.push(port);
            }
        }
        let (ip, gateway) = (self.lan(0, 2), self.lan(0, 1));
        let batch = format!(
            "link set lo up\naddr add {ip}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"
        );
        space.configure("ip", &["-batch", "-"], &batch)?;
        let wan = if self.home.is_public() { ip } else { self.wan };
        Ok((Host { space, ip, wan, registry: registry.clone() }, routers))
    }

    /// External addresses of the outermost router, all four of its network at most.
    fn pool(&self, level: usize) -> Vec<Ipv4Addr> {
        let size = if let Nat::User(nat) = self.home.chain[level] { nat.pool } else { 1 };
        let [a, b, c, d] = self.wan.octets();
        (0..size).map(|n| Ipv4Addr::new(a, b, c, d & !3 | (d + n) & 3)).collect()
    }

    fn translator(&self, level: usize) -> Option<Translator> {
        let Nat::User(nat) = self.home.chain[level] else { return None };
        Some(Translator::new(nat, self.home.unsolicited, self.pool(level), self.seed))
    }

    /// Configures the router of a level. Its `lan` leads to `inside`, or was made by the router before it. Its `wan`
    /// leads to `outside` or, for the outermost, into the internet; then its port is returned.
    fn router(
        &self,
        level: usize,
        space: &Namespace,
        inside: Option<&Namespace>,
        outside: Option<&Namespace>,
    ) -> Result<Option<Port>> {
        let mut batch = String::from("link set lo up\n");
        if let Some(host) = inside {
            batch += &format!("link add lan type veth peer name eth0 netns {}\n", host.path());
        }
        let lan = self.lan(level, 1);
        batch += &format!("addr add {lan}/24 dev lan\nlink set lan up\n");
        let (wan, port) = if let Some(outside) = outside {
            let (wan, gateway) = (self.lan(level + 1, 2), self.lan(level + 1, 1));
            batch += &format!("link add wan type veth peer name lan netns {}\n", outside.path());
            batch +=
                &format!("addr add {wan}/24 dev wan\nlink set wan up\nroute add default via {gateway}\n");
            (wan, None)
        } else {
            let tun = space.tun("wan")?;
            let wan = self.wan;
            let nat = self.translator(level);
            // The router of a NAT in userspace has no address there: what is sent to the home's own has to leave it.
            if nat.is_none() {
                batch += &format!("addr add {wan}/30 dev wan\n");
            }
            batch += "link set wan up\nroute add default dev wan\n";
            let mut networks: Vec<_> = self.pool(level).into_iter().map(|address| (address, 32)).collect();
            if self.home.is_public() {
                networks.push((self.lan(0, 0), 24));
            }
            let Home { delay, jitter, loss, .. } = *self.home;
            (wan, Some(Port { tun, delay, jitter, loss, networks, nat }))
        };
        space.configure("ip", &["-batch", "-"], &batch)?;
        let policy = if outside.is_none() { self.home.unsolicited } else { Default::default() };
        let rules = rules::ruleset(self.home.chain[level], wan, policy, self.home.sequence);
        space.configure("nft", &["-f", "-"], &rules)?;
        // After nft, which brings connection tracking in. Not loose: a stray ACK must not make a mapping.
        space.sysctl(&[("net/netfilter/nf_conntrack_tcp_loose", "0"), ("net/ipv4/ip_forward", "1")])?;
        Ok(port)
    }
}
