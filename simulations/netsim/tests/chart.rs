//! The picture of a run that the book has, letter by letter.

use p2pd_netsim::engine::{MILLI, SECOND};
use p2pd_netsim::host::{HostEvent, Reuse};
use p2pd_netsim::net::LinkSpec;
use p2pd_netsim::world::{App, Cx, SiteSpec, World};

/// Counts its connections.
#[derive(Default)]
struct Peer(u32);

impl App for Peer {
    fn event(&mut self, _: &mut Cx<'_>, event: HostEvent) {
        self.0 += u32::from(matches!(event, HostEvent::Connected(_)));
    }
    fn wake(&mut self, _: &mut Cx<'_>, _: u64) {}
}

/// Two homes dial each other, the second one 50 ms later: its NAT drops the first SYN, and its own SYN meets the other's dial.
fn late() -> String {
    let mut world: World<Peer> = World::new(7);
    world.record();
    let link = LinkSpec::with_delay(20 * MILLI);
    let mut homes =
        [1, 2].map(|number| world.add_site(&SiteSpec { number, chain: "linux".parse().unwrap(), link }));
    let hosts = homes.each_mut().map(|home| world.add_host_at(home, Peer::default()));
    for (host, other) in [(0, 1), (1, 0)] {
        let to = (homes[other].external[0], 5000).into();
        world.note(hosts[host], &format!("dials {to}"));
        world.with(hosts[host], |_, cx| {
            let sock = cx.host.bind_tcp(([0, 0, 0, 0], 5000).into(), to, Reuse::No).unwrap();
            cx.host.connect(cx.now, sock, to).unwrap();
        });
        world.run_until(50 * MILLI);
    }
    for host in hosts {
        assert!(world.run_while(SECOND, |world| world.app(host).0 == 1));
        world.note(host, "is connected");
    }
    world.run_until(SECOND / 2);
    world.trace().unwrap().svg("The second end dials 50 ms later", &[], 0)
}

#[test]
fn the_books_picture_is_of_this_run() {
    let (now, file) = (late(), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crossing.svg"));
    // To draw it again, after a change that is meant.
    if std::env::var_os("P2PD_DRAW").is_some() {
        std::fs::write(file, &now).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), now, "{file}");
    assert_eq!(now.matches("class=\"drop\"").count(), 1);
}
