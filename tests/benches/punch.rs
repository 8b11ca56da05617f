//! Measures the time to open a pipe by punching through two Linux NATs, RTT 40 ms, both nodes up and their NATs
//! measured. It counts from the call of connect to the open TCP connection, and to the pipe, which takes the hello's
//! two round trips more.

use std::time::{Duration, Instant};

use p2pd_tests::lab::Host;
use p2pd_tests::require_lab;
use p2pd_tests::world::World;
use p2pd_tokio::{Config, Event, Node, PeerAddress, Plan, SecretKey, Strategy};

const SAMPLES: usize = 20;
const ONE_WAY: Duration = Duration::from_millis(20);

fn main() {
    require_lab!(Mosquitto, Coturn);
    println!(
        "pair                    opened   TCP: min  median    p95   pipe: min  median    p95 ms (RTT 40)   goal, TCP"
    );
    for (home, goal) in [("pr/drop", "median <= 2 RTT + 20 ms = 100"), ("pr/rst", "median <= 3 RTT = 120")] {
        let world = World::far_apart(&[home, home], ONE_WAY);
        let (mut tcp, mut pipe) = (Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            if let Some((a, b)) = sample(&world) {
                tcp.push(a);
                pipe.push(b);
            }
        }
        let [a, b] = [tcp, pipe].map(|mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(f64::NAN);
            (times.len(), [at(0), at(50), at(95)])
        });
        println!(
            "{home:>8} {home:<12} {:>2} of {SAMPLES} {:>11.0} {:>7.0} {:>6.0} {:>11.0} {:>7.0} {:>6.0}                 {goal}",
            a.0, a.1[0], a.1[1], a.1[2], b.1[0], b.1[1], b.1[2]
        );
    }
}

/// Measures the two times of opening a pipe between two new nodes.
fn sample(world: &World) -> Option<(f64, f64)> {
    let (told, heard) = std::sync::mpsc::channel::<PeerAddress>();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            on(world.lab.host(0), async {
                let node = node(world).await;
                told.send(node.address().await).unwrap();
                let _pipe = tokio::select! { pipe = node.accept() => pipe, () = tokio::time::sleep(Duration::from_secs(20)) => None };
                let _ = ended.await;
                node.shutdown().await;
            });
        });
        let to = heard.recv_timeout(Duration::from_secs(20)).unwrap();
        on(world.lab.host(1), async {
            let node = node(world).await;
            node.address().await;
            let mut events = node.events();
            let plan = Plan::new().strategies([Strategy::Punch]);
            let began = Instant::now();
            let opened = tokio::spawn(async move {
                loop {
                    match events.recv().await {
                        Some(Ok(Event::Progress { stage: p2pd_core::Stage::Hello(_), .. })) => {
                            return began.elapsed();
                        }
                        Some(_) => {}
                        None => return Duration::MAX,
                    }
                }
            });
            let pipe = node.connect_with(&to, plan).await.ok();
            let took = began.elapsed();
            let _ = end.send(());
            node.shutdown().await;
            let opened = opened.await.ok()?;
            pipe.map(|_| (opened.min(took).as_secs_f64() * 1e3, took.as_secs_f64() * 1e3))
        })
    })
}

fn on<T: Send>(host: &Host, work: impl Future<Output = T> + Send) -> T {
    host.enter(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work))
}

async fn node(world: &World) -> Node {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
    let servers = p2pd::servers::Servers::read(world.config()).unwrap();
    (config.brokers, config.stun) = (servers.brokers, servers.stun);
    Node::bind(config).await.unwrap()
}
