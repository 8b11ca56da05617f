//! `p2pd nat` behind every NAT of the lab, measured with coturn, against the NAT's real behaviour.

use std::time::Duration;

use p2pd_tests::require_lab;
use p2pd_tests::world::{World, event};

#[test]
fn every_nat_is_measured_for_what_it_is() {
    require_lab!(Mosquitto, Coturn);
    let homes = ["none", "fw", "fc", "ar", "pr", "eimrand", "symseq", "symrand", "pr+symrand", "eimrand+pr"];
    // P2PD's NAT type and delta type.
    let truth = [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (5, 6), (6, 4), (6, 6), (6, 6), (5, 6)];
    let world = World::far_apart(&homes, Duration::from_millis(5));
    for ((n, home), (nat, delta)) in homes.iter().enumerate().zip(truth) {
        let mut child = world.run(world.lab.host(n), &["nat"]);
        let found = event(&mut child, "nat");
        assert_eq!(
            (&found["nat_type"], &found["delta_type"]),
            (&nat.into(), &delta.into()),
            "{home}: {found}"
        );
        let outside = world.lab.host(n).wan().to_string();
        assert!(found["mapped"].as_str().unwrap().starts_with(&outside), "{home}: {found}");
        assert_eq!(found["second_address"], true, "{home}: {found}");
        // None of them takes it back; without translation there is nothing to ask.
        let hairpin = if matches!(*home, "none" | "fw") { None } else { Some(false) };
        assert_eq!(found["hairpin"], serde_json::json!(hairpin), "{home}: {found}");
    }
}
