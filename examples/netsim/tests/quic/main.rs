//! Two quinn endpoints behind NATs of their own punch a hole for each other, and hold a QUIC connection through it.

mod runtime;
mod seeded;

use std::net::SocketAddr;
use std::sync::Arc;

use p2pd_netsim::aio::net::UdpSocket;
use p2pd_netsim::aio::time::{Duration, now, sleep};
use p2pd_netsim::aio::{Process, Sim};
use p2pd_netsim::engine::MILLI;
use p2pd_netsim::net::LinkSpec;
use p2pd_netsim::world::{SiteSpec, World};
use quinn::Endpoint;
use runtime::{SimRuntime, SimSocket};

const PORT: u16 = 4433;
const BYTES: usize = 1 << 20;

/// An endpoint on this host's port, which has sent one datagram to the other end's outside: this end's NAT lets that in then.
async fn endpoint(runtime: Arc<SimRuntime>, other: SocketAddr) -> Endpoint {
    let socket = Arc::new(SimSocket(UdpSocket::bind(("0.0.0.0", PORT)).await.unwrap()));
    socket.0.send_to(b"open", other).await.unwrap();
    let server = Some(seeded::server());
    Endpoint::new_with_abstract_socket(seeded::endpoint(), server, socket, runtime).unwrap()
}

#[derive(PartialEq)]
struct Run {
    /// Milliseconds until the connection was open, at the caller's end.
    opened: u128,
    /// Bytes that the other end read, and what it said of them.
    read: usize,
    told: String,
    digest: u64,
    pcap: Vec<u8>,
}

fn run(seed: u64, loss_ppm: u32) -> Run {
    let mut world: World<Process> = World::new(seed);
    world.record();
    let link = LinkSpec { loss_ppm, ..LinkSpec::with_delay(20 * MILLI) };
    let mut sites = [(1, "openwrt"), (2, "linux")]
        .map(|(number, nat)| world.add_site(&SiteSpec { number, chain: nat.parse().unwrap(), link }));
    let [caller, callee] = sites.each_mut().map(|site| world.add_host_at(site, Process::default()));
    let [of_caller, of_callee] = sites.map(|site| SocketAddr::new(site.external[0], PORT));
    let runtime = Arc::new(SimRuntime::new());
    let mut sim = Sim::over(world);

    let its = runtime.clone();
    let read = sim.spawn(callee, async move {
        let endpoint = endpoint(its, of_caller).await;
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        assert_eq!(connection.remote_address(), of_caller);
        let (mut send, mut receive) = connection.accept_bi().await.unwrap();
        let all = receive.read_to_end(2 * BYTES).await.unwrap();
        assert!(all.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8));
        send.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
        send.finish().unwrap();
        connection.closed().await;
        all.len()
    });
    let (opened, told) = sim.block_on(caller, async move {
        let endpoint = endpoint(runtime, of_callee).await;
        let connecting = endpoint.connect_with(seeded::client(), of_callee, seeded::NAME).unwrap();
        let connection = connecting.await.unwrap();
        let opened = now().since_start().as_millis();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let data: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8).collect();
        send.write_all(&data).await.unwrap();
        send.finish().unwrap();
        let told = String::from_utf8(receive.read_to_end(100).await.unwrap()).unwrap();
        connection.close(0_u32.into(), b"done");
        endpoint.wait_idle().await;
        sleep(Duration::from_secs(1)).await;
        (opened, told)
    });
    let read = sim.join(read).unwrap();
    sim.world().check().unwrap();
    let pcap = sim.world().trace().unwrap().pcapng();
    Run { opened, read, told, digest: sim.world().digest(), pcap }
}

#[test]
fn two_endpoints_behind_nats_open_a_quic_connection() {
    let run = run(1, 0);
    // One round trip of 80 ms: both datagrams have left when the first packet comes to the other NAT.
    assert_eq!(run.opened, 80);
    assert_eq!((run.read, run.told.as_str()), (BYTES, "1048576 bytes"));
}

#[test]
fn one_seed_gives_one_capture_byte_for_byte() {
    let (first, second, other) = (run(2, 20_000), run(2, 20_000), run(3, 20_000));
    assert!(first == second, "the same packets with the same bytes at the same times");
    assert!(first.digest != other.digest && first.pcap != other.pcap);
    assert_eq!((first.read, other.read), (BYTES, BYTES));
}
