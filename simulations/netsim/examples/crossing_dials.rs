//! Two hosts behind NATs dial each other at the same moment, and hold one connection: TCP's simultaneous open.
//!
//! `cargo run -p p2pd-netsim --example crossing_dials -- openwrt linux crossing.pcapng`; the file is for Wireshark, and may be left out.
//! With `crossing.svg` it is a picture.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use p2pd_netsim::engine::{MILLI, SECOND};
use p2pd_netsim::host::{HostEvent, Reuse, Sock};
use p2pd_netsim::nat::Chain;
use p2pd_netsim::net::LinkSpec;
use p2pd_netsim::world::{App, Cx, SiteSpec, World};

/// Port of both hosts. NATs that keep ports show it outside too.
const PORT: u16 = 5000;

/// A program that says hello on the connection it dialled, and keeps what it hears.
#[derive(Default)]
struct Peer {
    heard: Vec<u8>,
    failed: Option<String>,
}

impl App for Peer {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match event {
            HostEvent::Connected(sock) => _ = cx.host.send(cx.now, sock, b"hello"),
            HostEvent::Readable(sock) => self.heard.extend(cx.host.read(sock, 100)),
            HostEvent::Failed(_, why) | HostEvent::Broken(_, why) => self.failed = Some(why.to_string()),
            _ => {}
        }
    }

    fn wake(&mut self, _: &mut Cx<'_>, _: u64) {}
}

fn dial(cx: &mut Cx<'_>, to: SocketAddr) -> Sock {
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);
    let sock = cx.host.bind_tcp(any, to, Reuse::No).expect("the port is free");
    cx.host.connect(cx.now, sock, to).expect("nothing connects these two yet");
    sock
}

fn main() {
    let mut args = std::env::args().skip(1);
    let names = [args.next(), args.next()].map(|name| name.unwrap_or("openwrt".into()));
    let mut world: World<Peer> = World::new(7);
    world.record();
    let link = LinkSpec::with_delay(20 * MILLI);
    let mut homes = [1, 2].map(|number| {
        let chain: Chain =
            names[usize::from(number) - 1].parse().expect("a preset, or a NAT as `apdm.apdf.rand.rst`");
        world.add_site(&SiteSpec { number, chain, link })
    });
    let hosts = homes.each_mut().map(|home| world.add_host_at(home, Peer::default()));
    for (host, other) in [(0, 1), (1, 0)] {
        let to = SocketAddr::new(homes[other].external[0], PORT);
        world.with(hosts[host], |_, cx| dial(cx, to));
    }
    world.run_until(SECOND);
    let trace = world.trace().expect("recorded");
    print!("{}", trace.text());
    if let Some(file) = args.next() {
        let written = match file.strip_suffix(".svg") {
            Some(_) => std::fs::write(file, trace.svg(&format!("{} and {}", names[0], names[1]), &[], 0)),
            None => std::fs::write(file, trace.pcapng()),
        };
        written.expect("the file can be written");
    }
    for host in hosts {
        let Peer { heard, failed } = world.app(host);
        println!("heard {:?}, failed: {failed:?}", String::from_utf8_lossy(heard));
    }
    world.check().expect("no packet is unaccounted for");
}
