//! `p2pd doctor` on a host whose firewall drops what comes in, and whose server list names what is not there.

use std::collections::BTreeMap;

use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event};
use serde_json::Value;

/// Port that the listener has.
const PORT: &str = "4000";
const RULES: &str = "table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
        meta l4proto icmp accept
    }
}";

/// Runs it, and returns its exit code and findings in order.
fn doctor(world: &World, args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let host = world.lab.host(0);
    let mut child = world.run(host, &[&["doctor", "--port", PORT], args].concat());
    let code = child.wait(PATIENCE * 2).unwrap().code();
    let findings = child.lines().iter().filter_map(|line| serde_json::from_str::<Value>(&line.text).ok());
    (code, findings.filter(|said| said["about"].is_string()).collect())
}

/// Findings that stand in the way, with the commands that mend it.
fn in_the_way(findings: &[Value]) -> BTreeMap<&str, Option<&str>> {
    let ill = findings.iter().filter(|of| of["state"] == "in_the_way");
    ill.map(|of| (of["said"].as_str().unwrap(), of["mend"].as_str())).collect()
}

fn reaches(world: &World, address: &str) -> bool {
    let more = ["--strategies", "direct", "--timeout", "3"];
    world.try_connect(1, address, &more).is_ok()
}

#[test]
fn a_firewall_that_drops_is_named_and_mended() {
    require_lab!();
    let world = World::new(&["none", "none"]);
    world.lab.host(0).nft(RULES).unwrap();
    // It has the port that the doctor is asked about.
    let mut listener = world.run(world.lab.host(0), &["listen", "--echo", "--port", PORT]);
    let ready = event(&mut listener, "ready");
    let address = ready["address"].as_str().unwrap();
    assert!(!reaches(&world, address));

    let mend = "nft insert rule inet filter input tcp dport 4000 accept";
    let (code, findings) = doctor(&world, &[]);
    assert_eq!(code, Some(1), "{findings:#?}");
    let said = "nftables: chain input of table inet filter drops new connections to TCP port 4000, so peers do not reach \
        this node directly";
    assert_eq!(in_the_way(&findings), BTreeMap::from([(said, Some(mend))]), "{findings:#?}");
    // Nobody can be asked, and nothing is run.
    let (code, _) = doctor(&world, &["--fix"]);
    assert_eq!(code, Some(1));
    assert!(!reaches(&world, address));
    let (code, findings) = doctor(&world, &["--fix", "--yes"]);
    assert_eq!(code, Some(0), "{findings:#?}");
    // The second look has found it open.
    assert_eq!(findings.iter().filter(|of| of["said"] == "nftables: lets in TCP port 4000").count(), 1);
    assert!(reaches(&world, address));
    let (code, findings) = doctor(&world, &[]);
    assert_eq!((code, in_the_way(&findings).len()), (Some(0), 0), "{findings:#?}");
}

#[test]
fn names_and_servers_that_are_not_there_are_named() {
    require_lab!();
    let more = "[[turn]]\nhost = \"198.51.100.77\"\nuser = \"a\"\npassword = \"b\"\n[[stun]]\nhost = \"nowhere.invalid\"\n";
    let world = World::listing(&["none"], more);
    let (code, findings) = doctor(&world, &[]);
    assert_eq!(code, Some(1), "{findings:#?}");
    let ill = in_the_way(&findings);
    let named = |text: &str| ill.keys().any(|said| said.starts_with(text));
    assert!(named("nowhere.invalid: ") && named("turn 198.51.100.77:3478: "), "{findings:#?}");
    // Another STUN server and the broker answer.
    assert_eq!(ill.len(), 2, "{findings:#?}");
    let state = |begin: &str| {
        let of = findings.iter().find(|of| of["said"].as_str().is_some_and(|said| said.starts_with(begin)));
        of.map(|of| of["state"].as_str().unwrap())
    };
    assert_eq!(
        (state("mqtt 3 "), state("stun nowhere.invalid")),
        (Some("ok"), Some("note")),
        "{findings:#?}"
    );
    assert_eq!(state("not asked: --map-port"), Some("note"));
}
