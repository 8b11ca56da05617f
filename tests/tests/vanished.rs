//! Peers that vanish without a word, and addresses that go away under pipes, in the lab's namespaces, on every driver.

use std::time::{Duration, Instant};

use p2pd_core::PipeEnd;
use p2pd_tests::drivers::Driver;
use p2pd_tests::lab::Child;
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
/// Time until a holder notices: its interval, its patience, and the 10 s that its documentation has beside them.
const VANISHED_WITHIN: Duration = Duration::from_secs(2 + 3 + 10);
/// Changes of the network are listed after 250 ms of quiet.
const GONE_WITHIN: Duration = Duration::from_secs(3);
/// Nothing comes or goes any more, and no router says so.
const NOTHING: &str = "table ip f {\n chain i { type filter hook input priority 0; drop; }\n \
                       chain o { type filter hook output priority 0; drop; }\n}\n";
const HOW: [&str; 3] = ["idle", "plain", "writing"];

struct Held {
    _listener: Child,
    holders: Vec<(String, Child)>,
}

/// Pipes of each kind from each driver on the first host to the second.
fn hold(world: &World) -> Held {
    let servers = world.config().to_str().unwrap();
    let run = |host: usize, args: &[&str]| world.lab.host(host).run(PEER, args).unwrap();
    let mut listener = run(1, &["tokio", "listen", servers]);
    let line = listener.wait_for_line(|line| line.starts_with("ready "), PATIENCE).unwrap();
    let address = line.strip_prefix("ready ").unwrap();
    let mut holders = Vec::new();
    for driver in Driver::ALL {
        for how in HOW {
            let mut holder = run(0, &[driver.name(), "hold", servers, address, how]);
            holder.wait_for_line(|line| line == "connected", PATIENCE).unwrap();
            holders.push((format!("{driver}, {how}"), holder));
        }
    }
    // What is written has an answer still.
    std::thread::sleep(Duration::from_secs(1));
    Held { _listener: listener, holders }
}

impl Held {
    /// Asserts that all end for this reason, within so long.
    fn all_end(&mut self, cut: Instant, why: PipeEnd, within: Duration) {
        for (name, holder) in &mut self.holders {
            let ended = holder.wait_for_line(|line| line.starts_with("ended "), PATIENCE).unwrap();
            let took = cut.elapsed();
            println!("{name}: {ended:?} after {took:?}");
            assert_eq!(ended, format!("ended {why}"), "{name}");
            assert!(took <= within, "{name}: {took:?}");
        }
    }
}

#[test]
fn a_peer_that_vanishes_is_named_while_a_pipe_is_idle_and_while_data_waits() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["none", "none"]);
    let mut held = hold(&world);
    world.lab.host(1).nft(NOTHING).unwrap();
    held.all_end(Instant::now(), PipeEnd::Vanished, VANISHED_WITHIN);
}

#[test]
fn the_owner_of_a_pipe_whose_interface_is_gone_is_told_at_once() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["none", "none"]);
    let mut held = hold(&world);
    world.lab.host(0).ip_batch("link set eth0 down\n").unwrap();
    held.all_end(Instant::now(), PipeEnd::AddressGone, GONE_WITHIN);
}

/// The wait of a minute runs beside the others.
#[test]
fn the_daemon_shows_the_pipe_of_a_peer_that_has_vanished_as_ended_within_a_minute() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["none", "none"]);
    let (_listener, address) = world.listen();
    let host = world.lab.host(1);
    let mut daemon = world.run(host, &["daemon", "--no-token", "--api", "127.0.0.1:0"]);
    let api = event(&mut daemon, "api")["api"].as_str().unwrap().to_owned();
    event(&mut daemon, "ready");
    let ask = |path: &str| {
        let fixed = ["-q", "-s", "-g", "--noproxy", "*", "--max-time", "20", "-w", "%{http_code}"];
        let out = host.command("curl").args(fixed).arg(format!("http://{api}{path}")).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let opened = ask(&format!("/p2p/open/x/{address}"));
    assert!(opened.ends_with("200"), "{opened}");
    world.lab.host(0).nft(NOTHING).unwrap();
    let cut = Instant::now();
    std::thread::sleep(Duration::from_secs(15));
    let ended = || ask("/p2p/con/x").contains("\"ended\": true");
    assert!(!ended(), "it may be slow only");
    while !ended() {
        assert!(cut.elapsed() < Duration::from_secs(60), "{}", ask("/p2p/con/x"));
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("ended after {:?}", cut.elapsed());
}
