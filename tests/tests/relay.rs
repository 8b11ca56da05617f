//! Pipes through coturn by the program as its user runs it. Both homes are behind NATs that take a random port for each
//! destination and let in answers only.
//!
//! `P2PD_RELAY_MIB=100` sends so many mebibytes there and back (`tests/run --long`; 10 without).

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use p2pd_tests::lab::Child;
use p2pd_tests::lab::services::Coturn;
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event, program};

const HOMES: [&str; 2] = ["symrand/drop", "symrand/drop"];
const ONE_WAY: Duration = Duration::from_millis(5);
const RELAY: [&str; 2] = ["--strategies", "relay"];

#[test]
fn ten_of_ten_calls_come_through_and_ten_mebibytes_unchanged() {
    require_lab!(Mosquitto, Coturn);
    let world = World::relaying(&HOMES, ONE_WAY, &[], "");
    let (_listener, address) = world.listen();
    let mut times = Vec::new();
    for _ in 0..10 {
        let connected = world.try_connect(1, &address, &RELAY).unwrap();
        assert_eq!(connected["strategy"], "relay");
        times.push(connected["elapsed_ms"].as_f64().unwrap());
    }
    println!("open by relay, ms: {times:?}");
    // By the default plan, in which a search for random ports is refused to strangers.
    let connected = world.try_connect(1, &address, &[]).unwrap();
    let ms = connected["elapsed_ms"].as_f64().unwrap();
    assert!(connected["strategy"] == "relay" && ms < 6_000.0, "{connected}");
    println!("by the default plan: {ms} ms");
    let mebibytes: usize = std::env::var("P2PD_RELAY_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let data: Vec<u8> =
        (0..mebibytes << 20).map(|n| ((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let files = tempfile::tempdir().unwrap();
    let (sent, came) = (files.path().join("sent"), files.path().join("came"));
    fs::write(&sent, &data).unwrap();
    let line = format!(
        "exec {} connect {address} --strategies relay --config {} < {} > {}",
        program(),
        world.config().display(),
        sent.display(),
        came.display()
    );
    let began = Instant::now();
    let mut child = world.lab.host(1).run("sh", ["-c", &line]).unwrap();
    let ended = child.wait(Duration::from_secs(20 + 10 * mebibytes as u64)).unwrap();
    assert!(ended.success(), "{:?}", child.lines());
    println!("{mebibytes} MiB there and back in {:.1} s", began.elapsed().as_secs_f64());
    assert!(fs::read(&came).unwrap() == data, "changed on the way");
}

#[test]
fn without_udp_at_either_home_it_goes_over_tcp() {
    require_lab!(Mosquitto, Coturn);
    for blocked in 0..2 {
        let world = World::relaying(&HOMES, ONE_WAY, &[], "");
        let (_listener, address) = world.listen();
        block(&world, blocked);
        let connected = world.try_connect(1, &address, &RELAY).unwrap();
        println!("without UDP at home {blocked}: {} ms", connected["elapsed_ms"]);
        assert_eq!(connected["strategy"], "relay");
    }
}

/// Blocks UDP through a home's router from now on.
fn block(world: &World, home: usize) {
    let rules = "table inet noudp {\nchain forwarded {\ntype filter hook forward priority -10\nmeta l4proto udp drop\n}\n}";
    let [router, ..] = world.lab.routers(home) else { panic!("no router") };
    let status = router.command("nft").arg(rules).status().unwrap();
    assert!(status.success());
}

/// A call that is open and idle: the program, which has sent a line and got it back.
fn talking(world: &World, address: &str) -> (Child, std::process::ChildStdin) {
    let mut child = world.run(world.lab.host(1), &["connect", address, "--strategies", "relay"]);
    let mut stdin = child.take_stdin().unwrap();
    event(&mut child, "connected");
    stdin.write_all(b"first\n").unwrap();
    child.wait_for_line(|line| line == "first", PATIENCE).unwrap();
    (child, stdin)
}

#[test]
fn what_expires_within_seconds_is_kept_alive_through_a_silence() {
    require_lab!(Mosquitto, Coturn);
    let options = ["--max-allocate-lifetime=20", "--permission-lifetime=8", "--channel-lifetime=8"];
    let more = "permission_lifetime = 8\nchannel_lifetime = 8";
    let world = World::relaying(&HOMES, ONE_WAY, &options, more);
    let (_listener, address) = world.listen();
    let (mut child, mut stdin) = talking(&world, &address);
    std::thread::sleep(Duration::from_secs(45));
    stdin.write_all(b"after the silence\n").unwrap();
    child.wait_for_line(|line| line == "after the silence", PATIENCE).unwrap();
    drop(stdin);
    assert!(child.wait(PATIENCE).unwrap().success(), "{:?}", child.lines());
}

#[test]
fn a_server_that_was_restarted_ends_the_pipe_with_a_word() {
    require_lab!(Mosquitto, Coturn);
    for (more, why) in [
        ("", "the TURN server has forgotten the allocation"),
        ("transport = \"tcp\"", "the TURN server is gone"),
    ] {
        let mut world = World::relaying(&HOMES, ONE_WAY, &[], more);
        let (_listener, address) = world.listen();
        let (mut child, _stdin) = talking(&world, &address);
        world.stun.process().kill();
        world.stun.process().wait(PATIENCE).unwrap();
        // Restarted, it knows nothing of us.
        world.stun = Coturn::start_with(&world.lab, &["--user=alice:secret", "--lt-cred-mech"]).unwrap();
        let error = child
            .wait_for_line(|line| line.contains("\"event\":\"error\""), Duration::from_secs(60))
            .unwrap();
        assert!(error.contains(why), "{error}");
        assert!(!child.wait(PATIENCE).unwrap().success());
    }
}

#[test]
fn why_there_is_no_relay_is_said() {
    require_lab!(Mosquitto, Coturn);
    let wrong = "user = \"alice\"\npassword = \"sesame\"";
    let world = World::relaying(&HOMES, ONE_WAY, &[], wrong);
    let (_listener, address) = world.listen();
    let why = world.try_connect(1, &address, &RELAY).unwrap_err();
    assert!(why.contains("does not take the credentials"), "{why}");
    let world = World::far_apart(&HOMES, ONE_WAY);
    let (_listener, address) = world.listen();
    let why = world.try_connect(1, &address, &RELAY).unwrap_err();
    assert!(why.contains("no TURN server is configured"), "{why}");
}
