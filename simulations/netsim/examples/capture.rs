//! A busy minute of a small internet as a pcapng file: ten homes behind different NATs, IPv4 and IPv6, TCP and UDP, refusals and
//! links that lose, repeat and reorder. The same seed gives the same file, byte for byte, on every machine.
//!
//! `cargo run -p p2pd-netsim --example capture -- 7 capture.pcapng`; the file is for Wireshark, and may be left out.

use std::net::{IpAddr, SocketAddr};

use p2pd_netsim::engine::{Digest, Domain, MILLI, SECOND};
use p2pd_netsim::host::{Close, HostEvent, Reuse};
use p2pd_netsim::nat::Chain;
use p2pd_netsim::net::LinkSpec;
use p2pd_netsim::world::{App, Cx, SiteSpec, World};

const PORT: u16 = 5000;
const HOMES: [&str; 10] = [
    "openwrt",
    "open",
    "linux-random",
    "rfc5382",
    "linux/rst",
    "eim.adf.seq2.icmp",
    "apdm.apdf.parity.rst",
    "linux,hairpin=external,alloc=seq+1,background=500",
    "fc+symrand",
    "adm.eif.block.drop",
];
const DIAL: Domain = Domain::User(0);

/// A program that dials and sends to drawn others, answers all that reaches it, and counts it.
#[derive(Default)]
struct Peer {
    /// The others' addresses as they are seen from outside.
    others: Vec<IpAddr>,
    turns: u64,
    heard: u64,
}

impl App for Peer {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match event {
            HostEvent::Connected(sock) => {
                cx.host.send(cx.now, sock, &[7; 3_000]);
            }
            HostEvent::Readable(sock) => {
                self.heard += cx.host.read(sock, 10_000).len() as u64;
                if cx.host.at_end(sock) {
                    cx.host.close(cx.now, sock, Close::Graceful);
                } else if self.heard.is_multiple_of(3) {
                    cx.host.finish(cx.now, sock);
                }
            }
            HostEvent::Datagram { sock, from, data, .. } => {
                self.heard += data.len() as u64;
                // Half of what came, so that answers to answers end.
                if data.len() > 1 {
                    cx.host.send_to(sock, None, from, data.slice(data.len() / 2..));
                }
            }
            _ => {}
        }
    }

    fn wake(&mut self, cx: &mut Cx<'_>, _: u64) {
        if self.turns == 0 {
            // Either may fail where the family is the other one.
            for any in ["0.0.0.0", "::"] {
                let local = SocketAddr::new(any.parse().expect("an address"), PORT);
                let _ = cx.host.listen(local, 8, Reuse::AddressAndPort);
            }
        }
        self.turns += 1;
        let (me, turn) = (cx.host.id(), self.turns);
        let draw = |n, bound| cx.rng.below(DIAL, me, 8 * turn + n, bound);
        let family = |ip: &IpAddr| ip.is_ipv4() == cx.host.addresses()[0].is_ipv4();
        let others: Vec<IpAddr> = self.others.iter().copied().filter(family).collect();
        let to = SocketAddr::new(others[draw(0, others.len() as u64) as usize], PORT);
        let (datagram, size) = (draw(1, 2) == 0, draw(2, 1_200) as usize);
        let next = cx.now + (50 + draw(3, 2_000)) * MILLI;
        let local = SocketAddr::new(cx.host.addresses()[0], PORT);
        if datagram {
            if let Ok(sock) = cx.host.bind_udp(local, Reuse::AddressAndPort) {
                cx.host.send_to(sock, None, to, vec![turn as u8; size].into());
            }
        } else if let Ok(sock) = cx.host.bind_tcp(local, to, Reuse::AddressAndPort) {
            let _ = cx.host.connect(cx.now, sock, to);
        }
        cx.wake_at(next, turn);
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let seed = args.next().map_or(Ok(7), |seed| seed.parse()).expect("a seed is a number");
    let mut world: World<Peer> = World::new(seed);
    world.record();
    let link = LinkSpec {
        jitter: 5 * MILLI,
        loss_ppm: 30_000,
        reorder_ppm: 30_000,
        hold: 20 * MILLI,
        duplicate_ppm: 30_000,
        ..LinkSpec::with_delay(15 * MILLI)
    };
    let mut hosts = Vec::new();
    for (number, text) in (1..).zip(HOMES) {
        let chain: Chain = text.parse().expect("a NAT");
        let mut site = world.add_site(&SiteSpec { number, chain, link });
        for _ in 0..2 {
            hosts.push(world.add_host_at(&mut site, Peer::default()));
        }
    }
    for (number, text) in [(1, "firewall"), (2, "firewall/icmp-port")] {
        let chain: Chain = text.parse().expect("a preset");
        let mut site = world.add_site_v6(&SiteSpec { number, chain, link });
        hosts.push(world.add_host_at(&mut site, Peer::default()));
    }
    let mut others: Vec<IpAddr> = (1..=HOMES.len() as u8).map(|n| [45, 10, n, 1].into()).collect();
    others.extend(hosts.iter().map(|host| world.host(*host).addresses()[0]).filter(IpAddr::is_ipv6));
    for host in &hosts {
        world.with(*host, |peer, _| peer.others.clone_from(&others));
    }
    world.run_until(60 * SECOND);
    world.check().expect("no packet is unaccounted for");
    let capture = world.trace().expect("recorded").pcapng();
    let mut digest = Digest::default();
    digest.bytes(&capture);
    let heard: u64 = hosts.iter().map(|host| world.app(*host).heard).sum();
    println!("{} bytes of capture, digest {:016x}; {heard} bytes heard", capture.len(), digest.value());
    println!("world {:016x}: {:?}", world.digest(), world.counts());
    if let Some(file) = args.next() {
        std::fs::write(file, capture).expect("the file can be written");
    }
}
