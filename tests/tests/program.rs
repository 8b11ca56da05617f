//! The program as its user runs it: two hosts in namespaces, a real broker (mosquitto), real STUN (coturn) and
//! real Linux NATs.

use std::io::Write;
use std::process::Command;

use p2pd_tests::lab::{Home, Lab, SERVER};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event, program};

#[test]
fn public_hosts_connect_directly() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["none", "none"]);
    let (mut listener, address) = world.listen();
    assert!(address.starts_with("3-["), "{address}");
    let (connected, answer) = world.connect(&address, "over the direct path\n", &[]);
    assert_eq!((connected["strategy"].as_str(), answer.as_str()), (Some("direct"), "over the direct path"));
    assert_eq!(event(&mut listener, "incoming")["strategy"], "direct");
    println!("direct: {} ms", connected["elapsed_ms"]);
}

#[test]
fn a_listener_behind_a_nat_dials_back() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["pr", "none"]);
    let (mut listener, address) = world.listen();
    let outside = world.lab.host(0).wan().to_string();
    assert!(address.contains(&outside), "STUN's view is announced: {address}");
    let (connected, answer) = world.connect(&address, "over the reversed path\n", &[]);
    assert_eq!(
        (connected["strategy"].as_str(), answer.as_str()),
        (Some("reverse"), "over the reversed path")
    );
    assert_eq!(event(&mut listener, "incoming")["strategy"], "reverse");
    println!("reverse: {} ms", connected["elapsed_ms"]);
}

#[test]
fn two_nats_fail_in_time_and_say_why() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["pr", "pr"]);
    let (_listener, address) = world.listen();
    let args = ["connect", &address, "--timeout", "15", "--strategies", "direct,reverse"];
    let mut child = world.run(world.lab.host(1), &args);
    let failed = event(&mut child, "failed");
    assert_eq!(child.wait(PATIENCE).unwrap().code(), Some(1));
    let entries = failed["strategies"].as_array().unwrap();
    let detail = |n: usize| entries[n]["detail"].as_str().unwrap();
    assert_eq!((&entries[0]["strategy"], &entries[0]["outcome"]), (&"direct".into(), &"failed".into()));
    assert!(detail(0).contains("no answer"), "{failed}");
    assert_eq!((&entries[1]["strategy"], &entries[1]["outcome"]), (&"reverse".into(), &"failed".into()));
    assert!(detail(1).contains("the peer dialled 1 address(es) of ours without success"), "{failed}");
    assert_eq!(failed["advice"], "let every strategy be tried, which is the default");
    // The advice is taken.
    let (connected, _) = world.connect(&address, "by whichever\n", &[]);
    assert!(["punch", "relay"].contains(&connected["strategy"].as_str().unwrap()), "{connected}");
}

#[test]
fn a_file_goes_through_two_nats_and_is_not_sent_twice() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["pr", "pr"]);
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = here.path().join("file.bin");
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    std::fs::write(&file, &data).unwrap();
    let mut receiver =
        world.run(world.lab.host(0), &["file", "receive", "--dir", there.path().to_str().unwrap()]);
    let address = event(&mut receiver, "ready")["address"].as_str().unwrap().to_owned();
    for state in ["done", "same"] {
        let args = ["file", "send", &address, file.to_str().unwrap()];
        let mut sender = world.run(world.lab.host(1), &args);
        assert_eq!(event(&mut sender, "connected")["strategy"], "punch");
        assert!(sender.wait(PATIENCE).unwrap().success(), "{:?}", sender.lines());
        let ended = sender.lines().iter().any(|l| l.text.contains(&format!("\"state\":\"{state}\"")));
        assert!(ended, "{:?}", sender.lines());
    }
    assert!(std::fs::read(there.path().join("file.bin")).unwrap() == data);
}

/// As README has it: one computer with one address runs the servers. The two ends name each other, and either calls.
#[test]
fn homes_behind_hard_nats_punch_by_one_server_with_one_address() {
    require_lab!();
    for homes in [["symrand", "pr"], ["pr", "symrand"], ["symrand", "eimrand"], ["eimrand", "symrand"]] {
        let lab = Lab::builder().homes(homes.map(|home| home.parse::<Home>().unwrap())).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (list, ip) = (path("servers.toml"), SERVER[0].to_string());
        let password = ["--turn-password-file", &path("password")];
        let serve = ["serve", "--json", "--bind", &ip, "--host", &ip, "--write", &list];
        let mut serving = lab.server().run(program(), [&serve[..], &password].concat()).unwrap();
        event(&mut serving, "serving");
        let keys = [path("there"), path("here")];
        let ids = keys.each_ref().map(|key| {
            let out = Command::new(program()).args(["id", "--identity", key]).output().unwrap();
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        });
        let with = |n: usize| ["--json", "--config", &list, "--accept", &ids[1 - n], "--identity", &keys[n]];
        let mut listener =
            lab.host(0).run(program(), [&["listen", "--echo"][..], &with(0)].concat()).unwrap();
        let address = event(&mut listener, "ready")["address"].as_str().unwrap().to_owned();
        let connect = ["connect", &address, "--strategies", "punch"];
        let mut caller = lab.host(1).run(program(), [&connect[..], &with(1)].concat()).unwrap();
        caller.take_stdin().unwrap().write_all(b"there and back\n").unwrap();
        let ended = caller.wait(PATIENCE);
        let said: Vec<String> = caller.lines().iter().map(|line| line.text.clone()).collect();
        assert!(
            ended.unwrap().success() && said.iter().any(|line| line == "there and back"),
            "{homes:?}: {said:#?}"
        );
    }
}

#[test]
fn wrong_usage_is_said_and_nothing_is_opened() {
    let run = |args: &[&str]| {
        let out = Command::new(program()).args(args).env("P2PD_FORBID_PUBLIC_SERVERS", "1").output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) = run(&["connect", "0-[0,8.8.8.8,10.0.0.1,0,1,1,0]-0-x"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("port") && text.contains("byte 22"), "{text}");
    let (code, text) = run(&["addr", "--config", "/nonexistent/servers.toml"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("/nonexistent/servers.toml"), "{text}");
    assert_eq!(run(&["connect", "0-0-0-x", "--timeout", "never"]).0, Some(2));
    let local = ["--no-servers", "--bind", "127.0.0.1"];
    assert_eq!(run(&[&["connect", "None-0-0-x"][..], &local].concat()).0, Some(2), "no node id");
}

#[test]
fn where_udp_is_blocked_stun_over_tcp_finds_the_outside_address() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["pr"]);
    let host = world.lab.host(0);
    for args in [
        "add table inet test",
        "add chain inet test out { type filter hook output priority 0; }",
        "add rule inet test out meta l4proto udp drop",
    ] {
        assert!(host.command("nft").args(args.split(' ')).status().unwrap().success(), "{args}");
    }
    let mut child = world.run(host, &["addr"]);
    assert!(child.wait(PATIENCE).unwrap().success());
    let outside = host.wan().to_string();
    let address = child.lines().iter().map(|l| l.text.clone()).collect::<String>();
    assert!(address.contains(&outside), "{address}");
}
