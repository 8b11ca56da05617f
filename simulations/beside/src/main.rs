//! The same datagrams to and fro between two hosts, 1 ms apart, in p2pd-netsim and in turmoil: delivered datagrams a second of one
//! core. `tests/long/beside` builds and runs it.

#[path = "../../netsim/benches/echo/mod.rs"]
mod echo;

use std::time::{Duration, Instant};

use echo::{PORT, SIZE};

/// Datagrams of a run.
const DATAGRAMS: u64 = 200_000;
/// Datagrams on their way at any time. Turmoil's time goes by ticks of a millisecond, so that this is what its ticks have to do.
const WINDOWS: [u64; 3] = [2, 32, 1_024];
/// Runs, of which the fastest counts.
const RUNS: u64 = 5;

/// The same work under turmoil: one host sends them, the other one sends them back.
fn turmoil(seed: u64, window: u64) {
    let apart = Duration::from_millis(1);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(100_000))
        .min_message_latency(apart)
        .max_message_latency(apart)
        .udp_capacity(2 * window as usize)
        .build();
    let bind = || turmoil::net::UdpSocket::bind(("0.0.0.0", PORT));
    sim.host("server", move || async move {
        let (socket, mut data) = (bind().await?, [0; SIZE]);
        loop {
            let (length, from) = socket.recv_from(&mut data).await?;
            socket.send_to(&data[..length], from).await?;
        }
    });
    sim.client("client", async move {
        let (socket, mut data) = (bind().await?, [7; SIZE]);
        for _ in 0..window {
            socket.send_to(&data, ("server", PORT)).await?;
        }
        // Each answer is the second delivery of its datagram.
        for _ in 0..DATAGRAMS / 2 {
            let (length, from) = socket.recv_from(&mut data).await?;
            socket.send_to(&data[..length], from).await?;
        }
        Ok(())
    });
    sim.run().expect("the client ends");
}

/// Returns the datagrams a second of the fastest run.
fn fastest(run: impl Fn(u64)) -> f64 {
    let one = |seed| {
        let begin = Instant::now();
        run(seed);
        begin.elapsed().as_secs_f64()
    };
    let best = (0..RUNS).map(one).fold(f64::INFINITY, f64::min);
    DATAGRAMS as f64 / best
}

fn main() {
    println!("datagrams of {SIZE} bytes a second, the fastest of {RUNS} runs of {DATAGRAMS}");
    println!("{:>10} {:>12} {:>22} {:>12}", "on the way", "p2pd-netsim", "... through two NATs", "turmoil");
    for window in WINDOWS {
        let ours = ["open", "linux"].map(|chain| {
            fastest(|seed| {
                echo::run(seed, chain, window, DATAGRAMS);
            })
        });
        let theirs = fastest(|seed| turmoil(seed, window));
        println!("{window:>10} {:>12.0} {:>22.0} {theirs:>12.0}", ours[0], ours[1]);
    }
}
