//! Strangers in a pair's world: their places, the times of their floods, and the limits of the costs for others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{Pair, Place, Program, Run};
use crate::engine::{MILLI, Nanos};
use crate::host::Sent;
use crate::net::LinkSpec;
use crate::scenario::flood::{
    Aim, BYSTANDER, INSIDE_PORT, MOST_BYTES, MOST_DATAGRAMS, MOST_SYNS, NOBODY, Named, OPEN, Stranger,
    stranger_ip,
};
use crate::scenario::standing;
use crate::service::{Input, ServerProgram, Service, ServiceCx};
use crate::world::{HostId, World};

/// Number of calls with a flood.
const FLOODS: u32 = 2;
/// Time between two looks of strangers at the addresses of the node's sockets.
const LOOK_EVERY: Nanos = 200 * MILLI;
/// The ports at which the TURN server relays.
const RELAYED: core::ops::Range<u16> = 49_152..49_160;
/// Sockets that a flooded node may hold at a time: the most of strangers, and those of an honest call.
const MOST_HELD: usize = 2_048;

/// Addresses in private and special space that nobody in these worlds has.
const PRIVATE: [[u8; 4]; 6] = [
    [10, 77, 0, 9],
    [172, 16, 9, 9],
    [192, 168, 77, 7],
    [100, 77, 0, 9],
    [169, 254, 169, 254],
    [127, 0, 0, 1],
];

/// The strangers of a run.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Hosts of strangers; without a flood none.
    hosts: Vec<HostId>,
    /// The numbers of the nodes that they flood.
    victims: Vec<usize>,
    brokers: Vec<IpAddr>,
    relay: Option<IpAddr>,
    /// Number of floods so far.
    floods: u32,
    /// Time of the next look, during a flood.
    look: Option<Nanos>,
}

/// A server that takes everything and says nothing.
#[derive(Debug)]
struct Mute;

impl Service for Mute {
    fn udp_ports(&self) -> &[u16] {
        &OPEN
    }

    fn tcp_ports(&self) -> &[u16] {
        &OPEN
    }

    fn handle(&mut self, _: &mut ServiceCx, _: Input<'_>) {}

    fn heal(&mut self) {}
}

impl Strangers {
    /// Puts the strangers and the third party into the world. They come last, so that all others are numbered as
    /// without them.
    pub(super) fn add(world: &mut World<Program>, pair: &Pair, nodes: [HostId; 2]) -> Strangers {
        let Some(flood) = &pair.flood else { return Strangers::default() };
        let internet = world.internet();
        let link = LinkSpec::with_delay(5 * MILLI);
        world.add_host(internet, BYSTANDER, link, Program::Server(ServerProgram::new(Box::new(Mute))));
        let mut hosts = Vec::new();
        for (n, part) in flood.parts.iter().enumerate() {
            let program = Program::Stranger(Box::new(Stranger::new(part.clone(), n)));
            let host = world.add_host(internet, stranger_ip(n, 0), link, program);
            for address in 1..part.addresses {
                world.add_address(host, internet, stranger_ip(n, address), link);
            }
            hosts.push(host);
        }
        nodes.iter().for_each(|host| world.watch(*host));
        Strangers {
            hosts,
            victims: match pair.place {
                Place::Oneself => vec![0],
                Place::SameSite | Place::Apart => (0..2).filter(|n| flood.victims[*n]).collect(),
            },
            brokers: (0..pair.brokers.len()).map(|n| standing::broker(pair.six, n as u16)).collect(),
            relay: pair.relay.map(|_| standing::TURN),
            floods: 0,
            look: None,
        }
    }

    /// Returns the time of the next look.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.look
    }
}

fn strangers(run: &mut Run, mut each: impl FnMut(&mut Stranger, &mut crate::world::Cx<'_>)) {
    for host in run.strangers.hosts.clone() {
        run.world.with(host, |program, cx| {
            if let Program::Stranger(stranger) = program {
                each(stranger, cx);
            }
        });
    }
}

/// Has each user approve of the other, where the flood's `named` asks for it.
pub(super) fn introduce(run: &mut Run, pair: &Pair) {
    if pair.flood.as_ref().is_some_and(|f| matches!(f.named, Named::Approved | Named::Remembered)) {
        let ids = run.hosts.map(|host| run.world.app(host).node().node.node_id());
        for (host, peer) in run.hosts.into_iter().zip(ids.into_iter().rev()) {
            run.world.with(host, |p, cx| p.node_mut().call(cx, |node, now| node.answer(now, peer, true)));
        }
    }
}

/// Returns the addresses of strangers and third parties that a node may have dialled.
pub(super) fn may_be_dialled(pair: &Pair) -> Vec<IpAddr> {
    let parts = pair.flood.iter().flat_map(|f| f.parts.iter().enumerate());
    let strangers = parts.flat_map(|(n, p)| (0..p.addresses).map(move |address| stranger_ip(n, address)));
    strangers.chain([BYSTANDER, NOBODY]).collect()
}

/// Begins the flood, and lets it run for a while. A call that is repeated because of faults has no flood.
pub(super) fn begin(run: &mut Run, pair: &Pair) {
    let Some(flood) = pair.flood.as_ref().filter(|_| run.strangers.floods < FLOODS) else { return };
    run.strangers.floods += 1;
    let aims = aims(run);
    strangers(run, |stranger, cx| stranger.begin(cx, aims.clone()));
    run.strangers.look = Some(run.world.now() + LOOK_EVERY);
    let warm = run.world.now() + flood.warm;
    run.run_while(warm, |_| false);
}

/// Has strangers look where the sockets are now, and users drop the pipes that strangers have ended.
pub(super) fn look(run: &mut Run) {
    let ids = run.hosts.map(|host| run.world.app(host).node().node.node_id());
    for (host, peer) in run.hosts.into_iter().zip(ids.into_iter().rev()) {
        run.world.with(host, |p, cx| p.node_mut().drop_ended(cx, peer));
    }
    let aims = aims(run);
    strangers(run, |stranger, _| stranger.aim(aims.clone()));
    run.strangers.look = Some(run.world.now() + LOOK_EVERY);
}

/// Ends the flood with the call; strangers keep their open streams.
pub(super) fn pause(run: &mut Run) {
    run.strangers.look = None;
    strangers(run, |stranger, _| stranger.pause());
}

/// Strangers go.
pub(super) fn end(run: &mut Run) {
    strangers(run, Stranger::end);
}

fn aims(run: &Run) -> Vec<Aim> {
    let Strangers { victims, brokers, relay, .. } = &run.strangers;
    let aim = |n: &usize| {
        let (n, host) = (*n, run.hosts[*n]);
        let node = run.world.app(host).node();
        let outside: Vec<(IpAddr, u16)> = node
            .address()
            .map(|a| a.interfaces().map(|i| (i.external, i.port)).collect())
            .unwrap_or_default();
        let tcp = outside.iter().map(|(ip, port)| SocketAddr::new(*ip, *port)).collect();
        let ports: Vec<u16> = run.world.host(host).udp_ports().collect();
        // Through a NAT that keeps ports, if it lets them in.
        let mut udp: Vec<SocketAddr> =
            outside.iter().flat_map(|(ip, _)| ports.iter().map(|port| SocketAddr::new(*ip, *port))).collect();
        udp.extend(relay.iter().flat_map(|relay| RELAYED.map(|port| SocketAddr::new(*relay, port))));
        let wall = node.wall(run.world.now());
        Aim { node: node.node.node_id(), tcp, udp, inside: inside(run, n), brokers: brokers.clone(), wall }
    };
    victims.iter().map(aim).collect()
}

/// Returns the node's own addresses, its gateway, a neighbour in its network, and addresses in space that nobody has.
fn inside(run: &Run, n: usize) -> Vec<IpAddr> {
    let own = run.world.host(run.hosts[n]).addresses().iter().copied();
    let near = own.clone().filter_map(|ip| match ip {
        IpAddr::V4(ip) if ip.is_private() => {
            let [a, b, c, _] = ip.octets();
            Some([[a, b, c, 1].into(), [a, b, c, 77].into()])
        }
        _ => None,
    });
    let own = own.clone().chain(near.flatten());
    own.chain(PRIVATE.into_iter().map(IpAddr::from)).collect()
}

/// Returns the violations: costs for third parties, and holdings of a node, beyond the limits.
pub(super) fn judge(run: &Run, pair: &Pair, hosts: &[HostId], known: &[IpAddr]) -> Vec<String> {
    if pair.flood.is_none() {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let from = may_be_dialled(pair);
    for (n, host) in hosts.iter().enumerate() {
        let node = run.world.app(*host).node();
        let inside = inside(run, n);
        let mut paid: BTreeMap<IpAddr, Sent> = BTreeMap::new();
        let ledger = run.world.host(*host).ledger();
        for (to, sent) in ledger.iter().flat_map(|l| l.iter()) {
            let ip = to.ip();
            // Whoever opened a stream is answered.
            let begun = sent.syns + sent.datagrams > 0;
            let forbidden = to.port() == INSIDE_PORT && inside.contains(&ip);
            if [BYSTANDER, NOBODY].contains(&ip) {
                let all = paid.entry(ip).or_default();
                *all = all.plus(sent);
            } else if forbidden || begun && !(known.contains(&ip) || from.contains(&ip) || ip.is_multicast())
            {
                wrong.push(format!("host{n} sent to {to} for a stranger: {sent:?}"));
            }
        }
        for (ip, sent) in paid {
            let mut requests = 0;
            let mut bytes = 0;
            for host in &run.strangers.hosts {
                if let Program::Stranger(stranger) = run.world.app(*host)
                    && let Some(asked) = stranger.asked.get(&(node.node.node_id(), ip))
                {
                    (requests, bytes) = (requests + asked.requests, bytes + asked.bytes);
                }
            }
            if sent.syns > MOST_SYNS * requests
                || sent.datagrams > MOST_DATAGRAMS * requests
                || sent.bytes > MOST_BYTES * bytes
            {
                wrong.push(format!(
                    "host{n} cost {ip} {sent:?} for {requests} requests of {bytes} bytes of strangers"
                ));
            }
        }
        if node.most_held > MOST_HELD {
            wrong.push(format!("host{n} held {} sockets", node.most_held));
        }
    }
    wrong
}
