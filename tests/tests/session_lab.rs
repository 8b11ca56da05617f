//! Sessions in the lab's namespaces: a path that dies without a word, and a relay that is killed, both under traffic.

use std::thread::sleep;
use std::time::Duration;

use p2pd_tests::drivers::Driver;
use p2pd_tests::lab::Child;
use p2pd_tests::lab::services::Coturn;
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const ONE_WAY: Duration = Duration::from_millis(10);
/// The goal is 2 s. The bound leaves room for a busy machine, and is far from the 10 s after which a silent carrier is broken.
const LONGEST: u64 = 4_000;

/// Has the second host talk to the first over a session by this strategy, while `harm` is done to it so often.
fn talk(world: &mut World, driver: Driver, strategy: &str, times: usize, harm: impl Fn(&mut World)) {
    let servers = world.config().to_str().unwrap().to_owned();
    let mut listener = world.lab.host(0).run(PEER, [driver.name(), "listen", &servers]).unwrap();
    let ready = listener.wait_for_line(|line| line.starts_with("ready "), PATIENCE).unwrap();
    let address = ready.strip_prefix("ready ").unwrap();
    let args = [driver.name(), "session", &servers, address, &times.to_string(), strategy];
    let mut caller: Child = world.lab.host(1).run(PEER, args).unwrap();
    caller.wait_for_line(|line| line == "session", PATIENCE).unwrap();
    let mut gaps = Vec::new();
    for n in 1..=times {
        sleep(Duration::from_secs(2));
        harm(world);
        let moved = caller.wait_for_line(|line| line.starts_with(&format!("moved {n} ")), PATIENCE);
        assert!(moved.is_ok(), "{driver}: {:?}", caller.lines());
        gaps.push(moved.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    }
    let end = caller.wait_for_line(|line| line.starts_with("exact "), PATIENCE).unwrap();
    println!("{driver}, {strategy}: {end}; each {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= LONGEST), "{driver}: {gaps:?}");
    assert!(caller.wait(PATIENCE).unwrap().success(), "{driver}: {:?}", caller.lines());
}

/// Drops all packets of the streams that the second host has to the first now, and of no later ones.
fn silence(world: &World) {
    let to = world.lab.host(0).wan().to_string();
    let args = ["-tnH", "state", "established", "dst", &to];
    let listed = world.lab.host(1).command("ss").args(args).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let port = |line: &str| line.split_whitespace().nth(2)?.rsplit(':').next()?.parse::<u16>().ok();
    let ports: Vec<String> = listed.lines().filter_map(port).map(|port| port.to_string()).collect();
    assert!(!ports.is_empty(), "{listed}");
    let rules = format!(
        "table inet silent {{\nchain f {{\ntype filter hook forward priority -300\n\
         tcp sport {{ {0} }} drop\ntcp dport {{ {0} }} drop\n}}\n}}",
        ports.join(", ")
    );
    let [router, ..] = world.lab.routers(1) else { panic!("no router") };
    assert!(router.command("nft").arg(rules).status().unwrap().success());
}

#[test]
fn a_session_leaves_a_path_that_dies_without_a_word() {
    require_lab!(Mosquitto, Coturn);
    let mut world = World::far_apart(&["none", "pr"], ONE_WAY);
    for driver in Driver::ALL {
        talk(&mut world, driver, "direct", 3, |world| silence(world));
    }
}

#[test]
fn a_session_goes_on_over_a_relay_that_is_killed_twice() {
    require_lab!(Mosquitto, Coturn);
    let mut world = World::relaying(&["pr", "pr"], ONE_WAY, &[], "");
    for driver in Driver::ALL {
        talk(&mut world, driver, "relay", 2, |world| {
            world.stun.process().kill();
            world.stun = Coturn::start(&world.lab).unwrap();
        });
    }
}
