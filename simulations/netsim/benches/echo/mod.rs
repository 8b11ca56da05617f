//! Two hosts that send datagrams to and fro: the work that `simulations/beside` gives to others too.

use std::net::SocketAddr;

use bytes::Bytes;
use p2pd_netsim::engine::MILLI;
use p2pd_netsim::host::{HostEvent, Reuse};
use p2pd_netsim::nat::Chain;
use p2pd_netsim::net::LinkSpec;
use p2pd_netsim::world::{App, Cx, SiteSpec, World};

/// Bytes of a datagram.
pub const SIZE: usize = 100;
/// Port of both hosts.
pub const PORT: u16 = 5000;

/// Sends every datagram back.
#[derive(Default)]
struct Echo(u64);

impl App for Echo {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        if let HostEvent::Datagram { sock, from, data, .. } = event {
            self.0 += 1;
            cx.host.send_to(sock, None, from, data);
        }
    }

    fn wake(&mut self, _: &mut Cx<'_>, _: u64) {}
}

/// Sends datagrams to and fro, `window` of them at any time, each host behind this NAT, 1 ms apart, until so many have
/// arrived. Returns the number of packets that were sent, by hosts and NATs.
pub fn run(seed: u64, chain: &str, window: u64, datagrams: u64) -> u64 {
    let mut world: World<Echo> = World::new(seed);
    let link = LinkSpec::with_delay(MILLI / 2);
    let mut sites = [1, 2].map(|number| {
        let chain: Chain = chain.parse().expect("a chain");
        world.add_site(&SiteSpec { number, chain, link })
    });
    let hosts = sites.each_mut().map(|site| world.add_host_at(site, Echo::default()));
    let outside = [0, 1].map(|n| *sites[n].external.first().unwrap_or(&world.host(hosts[n]).addresses()[0]));
    let local = SocketAddr::from(([0, 0, 0, 0], PORT));
    let socks = hosts.map(|host| world.with(host, |_, cx| cx.host.bind_udp(local, Reuse::No)).expect("free"));
    for (n, other) in [(0, 1), (1, 0)] {
        // They cross, so that each NAT has sent before it is sent to.
        for _ in 0..window / 2 {
            let to = SocketAddr::new(outside[other], PORT);
            world.with(hosts[n], |_, cx| cx.host.send_to(socks[n], None, to, Bytes::from_static(&[7; SIZE])));
        }
    }
    let arrived = |world: &World<Echo>| hosts.iter().map(|host| world.app(*host).0).sum::<u64>();
    while arrived(&world) < datagrams {
        assert!(world.in_flight() > 0, "all are lost");
        let until = world.now() + MILLI;
        world.run_until(until);
    }
    world.check().expect("no packet is unaccounted for");
    world.counts().sent
}
