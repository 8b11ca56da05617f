//! UDP punching beside TCP through real Linux NATs, where the homes spoil one of them or both. RTT 40 ms, by the program
//! as its user runs it.

use std::time::{Duration, Instant};

use p2pd_core::NodeId;
use p2pd_tests::lab::SERVER;
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event};

const ONE_WAY: Duration = Duration::from_millis(20);
const HOMES: [&str; 2] = ["pr/drop", "pr/drop"];
/// Calls of one pair of nodes: a named peer may ask eight times at once.
const CALLS: usize = 5;

/// Treats what the routers forward of this protocol, but to the servers and from them, by this verdict.
fn spoil(world: &World, proto: &str, verdict: &str) {
    let servers = SERVER.map(|ip| ip.to_string()).join(", ");
    for home in 0..HOMES.len() {
        let rules = format!(
            "table inet spoilt_{proto} {{\nchain forwarded {{\ntype filter hook forward priority -10\n\
             meta l4proto {proto} ip saddr != {{ {servers} }} ip daddr != {{ {servers} }} {verdict}\n}}\n}}"
        );
        nft(world, home, &rules);
    }
}

/// Lets no UDP through, nor that of the servers.
fn block_udp(world: &World) {
    for home in 0..HOMES.len() {
        let chain = "chain forwarded {\ntype filter hook forward priority -10\nmeta l4proto udp drop\n}";
        nft(world, home, &format!("table inet noudp {{\n{chain}\n}}"));
    }
}

fn nft(world: &World, home: usize, rules: &str) {
    let [router, ..] = world.lab.routers(home) else { panic!("no router") };
    assert!(router.command("nft").arg(rules).status().unwrap().success());
}

/// Outcome of some calls.
struct Calls {
    /// Strategies that won.
    by: Vec<String>,
    /// Times in ms, sorted.
    times: Vec<f64>,
    /// True if the caller has the lower id. The lower one nominates, which takes the caller a round trip more.
    nominates: bool,
}

fn calls(world: &World, count: usize, wanted: &str, args: &[&str]) -> Calls {
    let key = world.key(1);
    let caller: NodeId = key.1.parse().unwrap();
    let (_listener, address) = world.listen_for(0, &[key.1]);
    let (mut by, mut times, mut nominates) = (Vec::new(), Vec::new(), false);
    for _ in 0..count {
        let args = [&["--identity", &key.0, "--timeout", "25"], args].concat();
        let mut child = world.run(world.lab.host(1), &[&["connect", &address], &args[..]].concat());
        let connected = event(&mut child, "connected");
        drop(child.take_stdin());
        child.wait(PATIENCE).unwrap();
        if connected["strategy"] != wanted {
            println!("not {wanted}: {:#?}", child.lines());
        }
        by.push(connected["strategy"].as_str().unwrap().to_owned());
        times.push(connected["elapsed_ms"].as_f64().unwrap());
        nominates = caller < connected["peer"].as_str().unwrap().parse().unwrap();
    }
    by.dedup();
    times.sort_by(f64::total_cmp);
    println!("{by:?}: median {:.0} ms, worst {:.0} ms", times[count / 2], times[count - 1]);
    Calls { by, times, nominates }
}

#[test]
fn between_homes_that_let_no_syn_in_udp_connects_within_half_a_second() {
    require_lab!(Mosquitto, Coturn);
    for verdict in ["drop", "reject with tcp reset"] {
        let world = World::relaying(&HOMES, ONE_WAY, &[], "");
        spoil(&world, "tcp", verdict);
        let Calls { by, times, .. } = calls(&world, CALLS, "udp", &[]);
        assert_eq!(by, ["udp"], "{verdict}");
        assert!(times[CALLS - 1] < 500.0, "{times:?}");
    }
}

#[test]
fn where_udp_is_blocked_tcp_connects_as_without_it() {
    require_lab!(Mosquitto, Coturn);
    let world = World::relaying(&HOMES, ONE_WAY, &[], "");
    block_udp(&world);
    // Without UDP an address is known late, and each call asks twice.
    let without = calls(&world, 3, "punch", &["--strategies", "direct,reverse,punch"]);
    // Ids are drawn: each try has either order with the same probability.
    let with = (0..12).find_map(|_| {
        let world = World::relaying(&HOMES, ONE_WAY, &[], "");
        block_udp(&world);
        let with = calls(&world, 3, "punch", &["--strategies", "direct,reverse,punch,udp"]);
        (with.nominates == without.nominates).then_some(with)
    });
    let with = with.expect("ids in the same order");
    assert_eq!(with.by, ["punch"]);
    let (ours, theirs) = (with.times[1], without.times[1]);
    assert!(ours < theirs + 40.0, "{ours} and {theirs} ms: not a round trip later");
}

/// A megabit a second over UDP in each direction, and what is more is dropped: QUIC goes at about that rate.
#[test]
fn homes_that_police_udp_to_a_megabit_carry_about_that() {
    require_lab!(Mosquitto, Coturn);
    let world = World::relaying(&HOMES, ONE_WAY, &[], "");
    spoil(&world, "tcp", "drop");
    for home in 0..HOMES.len() {
        let police = |way: &str| {
            format!("{way} lan meta l4proto udp limit rate over 125 kbytes/second burst 12 kbytes drop")
        };
        let [up, down] = ["iifname", "oifname"].map(police);
        let chain = format!("chain forwarded {{\ntype filter hook forward priority -10\n{up}\n{down}\n}}");
        nft(&world, home, &format!("table inet policed {{\n{chain}\n}}"));
    }
    let key = world.key(1);
    let (_listener, address) = world.listen_for(0, &[key.1]);
    let text = format!("{}\n", "0123456789".repeat(30_000));
    let begin = Instant::now();
    let (connected, echo) = world.connect(&address, &text, &["--identity", &key.0, "--timeout", "25"]);
    let took = begin.elapsed().as_secs_f64();
    let rate = text.len() as f64 * 8.0 / took / 1e6;
    println!(
        "{} in {} ms; {} bytes there and back in {took:.1} s: {rate:.2} Mbit/s",
        connected["strategy"],
        connected["elapsed_ms"],
        text.len()
    );
    assert_eq!(connected["strategy"], "udp");
    assert!(echo == text.trim(), "{} of {} bytes", echo.len(), text.len());
    // With the program's start and its end, and what a burst lets through.
    assert!((0.3..1.5).contains(&rate), "{rate}");
}

#[test]
fn where_both_are_spoilt_the_relay_connects() {
    require_lab!(Mosquitto, Coturn);
    let world = World::relaying(&HOMES, ONE_WAY, &[], "");
    spoil(&world, "tcp", "drop");
    spoil(&world, "udp", "drop");
    assert_eq!(calls(&world, CALLS, "relay", &[]).by, ["relay"]);
}
