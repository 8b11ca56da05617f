//! Putting a world together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{App, Counts, Cx, Device, HostId, NatId, Net, NetId, Plug, PlugId, World};
use crate::engine::{Digest, Keyed, Queue};
use crate::host::{Host, Profile};
use crate::nat::{Chain, Nat, NatSpec, Side};
use crate::net::LinkSpec;

/// Routers that a packet crosses in the internet.
const INTERNET_HOPS: u8 = 8;

/// A place where hosts can stand: a network behind NATs, or the internet itself.
#[derive(Clone, Debug)]
pub struct Site {
    /// The network that hosts are put in.
    pub net: NetId,
    /// NATs of the site, the hosts' own first.
    pub nats: Vec<NatId>,
    /// The site's link to the internet, for hosts that stand there themselves.
    pub link: LinkSpec,
    /// The address that the next host gets.
    pub next: IpAddr,
    /// The address inside of the NAT that hosts stand behind, if it is known as their gateway: it serves port mappings.
    pub gateway: Option<IpAddr>,
    /// The addresses outside of the NAT that hosts stand behind.
    pub external: Vec<IpAddr>,
    number: u8,
}

/// Description of a site to be built.
#[derive(Clone, Debug)]
pub struct SiteSpec {
    /// A number of its own, out of which its addresses come: 0 to 99.
    pub number: u8,
    /// NATs between the site and the internet.
    pub chain: Chain,
    /// The link between the outermost NAT, or the host, and the internet.
    pub link: LinkSpec,
}

fn after(ip: IpAddr, n: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + u32::from(n)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + u128::from(n)).into()),
    }
}

impl<A: App> World<A> {
    /// An empty internet.
    pub fn new(seed: u64) -> World<A> {
        World {
            now: 0,
            rng: Keyed::new(seed),
            queue: Queue::default(),
            hosts: Vec::new(),
            nats: Vec::new(),
            nets: vec![Net { routes: BTreeMap::new(), gateway: None, hops: INTERNET_HOPS }],
            plugs: Vec::new(),
            routers: BTreeMap::new(),
            digest: Digest::default(),
            counts: Counts::default(),
            in_flight: 0,
            still: 0,
            trace: None,
        }
    }

    /// The public network.
    pub fn internet(&self) -> NetId {
        NetId(0)
    }

    fn plug(&mut self, net: NetId, device: Device, link: LinkSpec) -> PlugId {
        self.plugs.push(Plug { net, device, link, packets: 0 });
        PlugId(self.plugs.len() - 1)
    }

    /// Puts a NAT on `outside` and gives the network behind it.
    pub fn add_nat(
        &mut self,
        spec: NatSpec,
        outside: NetId,
        external: &[IpAddr],
        link: LinkSpec,
    ) -> (NatId, NetId) {
        let n = self.nats.len();
        let net = NetId(self.nets.len());
        let out = self.plug(outside, Device::Nat(n, Side::Outside), link);
        let inside = self.plug(net, Device::Nat(n, Side::Inside), LinkSpec::default());
        self.nets.push(Net { routes: BTreeMap::new(), gateway: Some(inside), hops: 0 });
        for ip in external {
            self.nets[outside.0].routes.insert(*ip, out);
        }
        self.nats.push((Nat::new(n as u64, self.rng, spec, external.to_vec()), [Some(inside), Some(out)]));
        (NatId(n), net)
    }

    /// Puts a host on a network, and starts its program with wake token 0.
    pub fn add_host(&mut self, net: NetId, ip: IpAddr, link: LinkSpec, app: A) -> HostId {
        let host = self.put_host(net, ip, link, app);
        if let Some(gateway) = self.nets[net.0].gateway
            && let Device::Nat(nat, _) = self.plugs[gateway.0].device
        {
            self.nats[nat].0.host_added(ip);
        }
        self.announce(net, ip);
        host
    }

    fn put_host(&mut self, net: NetId, ip: IpAddr, link: LinkSpec, app: A) -> HostId {
        let n = self.hosts.len();
        let mut host = Host::new(n as u64, self.rng, Profile::LINUX);
        host.add_address(ip, None);
        let plug = self.plug(net, Device::Host(n), link);
        self.nets[net.0].routes.insert(ip, plug);
        self.hosts.push((host, app, vec![(ip, plug)]));
        Cx { host: &mut self.hosts[n].0, now: self.now, rng: self.rng }.wake_at(self.now, 0);
        self.flush(n);
        HostId(n)
    }

    /// A firewall's hosts are reached through it.
    fn announce(&mut self, net: NetId, ip: IpAddr) {
        let mut at = net;
        while let Some(gateway) = self.nets[at.0].gateway {
            let Device::Nat(nat, _) = self.plugs[gateway.0].device else { break };
            let (device, plugs) = &self.nats[nat];
            let Some(out) = plugs[1].filter(|_| !device.spec.translate) else { break };
            at = self.plugs[out.0].net;
            self.nets[at.0].routes.insert(ip, out);
        }
    }

    /// Gives a host another address on a network.
    pub fn add_address(&mut self, host: HostId, net: NetId, ip: IpAddr, link: LinkSpec) {
        let plug = self.plug(net, Device::Host(host.0), link);
        self.nets[net.0].routes.insert(ip, plug);
        self.hosts[host.0].0.add_address(ip, None);
        self.hosts[host.0].2.push((ip, plug));
    }

    /// Puts a server for port mappings on the NAT that a site's hosts stand behind. The NAT is then known as the
    /// gateway of hosts that come. Returns `None` where there is no translation.
    pub fn add_router(&mut self, site: &mut Site, app: A) -> Option<HostId> {
        let nat = *site.nats.first()?;
        if !self.nats[nat.0].0.spec.translate {
            return None;
        }
        let ip: IpAddr = [192, 168, site.number, 1].into();
        let host = self.put_host(site.net, ip, LinkSpec::default(), app);
        // SSDP's group: nobody else here listens to it.
        let plug = self.hosts[host.0].2[0].1;
        self.nets[site.net.0].routes.insert([239, 255, 255, 250].into(), plug);
        self.routers.insert(host.0, nat.0);
        site.gateway = Some(ip);
        Some(host)
    }

    /// Connects a host to one more site.
    pub fn join(&mut self, host: HostId, site: &mut Site) -> IpAddr {
        let ip = site.next;
        site.next = after(ip, 1);
        let plug = self.plug(site.net, Device::Host(host.0), site.link);
        self.nets[site.net.0].routes.insert(ip, plug);
        if let Some(nat) = site.nats.first() {
            self.nats[nat.0].0.host_added(ip);
        }
        self.announce(site.net, ip);
        let (host, _, plugs) = &mut self.hosts[host.0];
        host.add_address(ip, site.gateway);
        plugs.push((ip, plug));
        ip
    }

    /// Takes an address away from a host: its plug is pulled out, and packets under way to it are lost.
    pub fn part(&mut self, host: HostId, ip: IpAddr) {
        let (standing, _, plugs) = &mut self.hosts[host.0];
        standing.remove_address(ip);
        if let Some(place) = plugs.iter().position(|(has, _)| *has == ip) {
            let (_, plug) = plugs.remove(place);
            self.plugs[plug.0].device = Device::Nothing;
            for net in &mut self.nets {
                net.routes.retain(|_, to| *to != plug);
            }
        }
    }

    /// Builds a site with its NATs.
    pub fn add_site(&mut self, spec: &SiteSpec) -> Site {
        self.add_site_at(spec, [45, 10, spec.number, 1].into())
    }

    /// Builds a site on IPv6. Its NATs are firewalls, which translate nothing.
    pub fn add_site_v6(&mut self, spec: &SiteSpec) -> Site {
        self.add_site_at(spec, [0x2a10, u16::from(spec.number), 0, 0, 0, 0, 0, 1].into())
    }

    fn add_site_at(&mut self, spec: &SiteSpec, public: IpAddr) -> Site {
        let number = spec.number;
        let (mut net, mut nats) = (self.internet(), Vec::new());
        let (mut next, mut outside) = (public, Vec::new());
        for (place, nat) in spec.chain.0.iter().enumerate().rev() {
            let first = if place + 1 == spec.chain.0.len() { public } else { next };
            let external: Vec<IpAddr> = match nat.translate {
                true => (0..nat.pool.max(1)).map(|n| after(first, n)).collect(),
                false => Vec::new(),
            };
            let link = if net == self.internet() { spec.link } else { LinkSpec::default() };
            let (id, inside) = self.add_nat(*nat, net, &external, link);
            outside = external;
            nats.insert(0, id);
            net = inside;
            next = match (nat.translate, place) {
                (false, _) => first,
                (true, 0) => [192, 168, number, 2].into(),
                (true, _) => [100, 64 + place as u8, number, 2].into(),
            };
        }
        let link = if nats.is_empty() { spec.link } else { LinkSpec::default() };
        Site { net, nats, link, next, gateway: None, external: outside, number }
    }

    /// Puts a host on a site.
    pub fn add_host_at(&mut self, site: &mut Site, app: A) -> HostId {
        let ip = site.next;
        site.next = after(ip, 1);
        let host = self.add_host(site.net, ip, site.link, app);
        self.hosts[host.0].0.set_gateway(ip, site.gateway);
        host
    }
}
