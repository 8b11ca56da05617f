//! A chat between two homes: one TCP connection, which both ends dial at once.

use std::net::SocketAddr;

use p2pd_netsim::aio::net::{TcpSocket, TcpStream};
use p2pd_netsim::aio::time::{Duration, now, sleep};
use p2pd_netsim::aio::{Process, Sim};
use p2pd_netsim::engine::MILLI;
use p2pd_netsim::net::LinkSpec;
use p2pd_netsim::world::{SiteSpec, World};
use protocol_of_your_own::chat::chat;

// ANCHOR: chat
/// Dials from a port of one's own, which NATs that keep ports show outside.
async fn dial(port: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([0, 0, 0, 0], port).into())?;
    socket.connect(to).await
}

#[test]
fn two_homes_chat_over_a_connection_that_both_dialled() {
    let mut world: World<Process> = World::new(7);
    let link = LinkSpec::with_delay(20 * MILLI);
    let mut sites = [(1, "openwrt"), (2, "linux")]
        .map(|(number, nat)| world.add_site(&SiteSpec { number, chain: nat.parse().unwrap(), link }));
    let hosts = sites.each_mut().map(|site| world.add_host_at(site, Process::default()));
    let mut sim = Sim::over(world);
    let said: [&[&str]; 2] = [&["hello", "are you there?"], &["yes"]];
    let ends = [(0, 1), (1, 0)].map(|(mine, other): (usize, usize)| {
        let to = SocketAddr::new(sites[other].external[0], 5000);
        let lines = said[mine];
        sim.spawn(hosts[mine], async move {
            let stream = dial(5000, to).await.unwrap();
            let heard = chat(stream, lines, async || sleep(Duration::from_millis(500)).await).await.unwrap();
            (heard, now().since_start().as_millis())
        })
    });
    let [first, second] = ends.map(|end| sim.join(end).unwrap());
    assert_eq!((first.0, second.0), (vec!["yes".into()], vec!["hello".to_string(), "are you there?".into()]));
    sim.world().check().unwrap();
}
// ANCHOR_END: chat
