//! A home from which only TCP to ports 80 and 443 gets out, and the peers that it reaches without a relay: those that
//! are dialled at port 443. Its broker and its STUN server are at 443 too.
//!
//! `P2PD_NARROW_ROUNDS=10` calls each peer so often.

use std::time::Duration;

use p2pd_core::PeerAddress;
use p2pd_tests::lab::services::Miniupnpd;
use p2pd_tests::lab::{Child, Host, Namespace, SERVER};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event};

/// The home's host.
const NARROW: usize = 3;

fn nft(space: &Namespace, rules: &str) {
    assert!(space.command("nft").arg(rules).status().unwrap().success(), "{rules}");
}

fn world() -> World {
    let world = World::new(&["none", "pr", "pr", "pr"]);
    let [broker, stun] = SERVER;
    let list = format!(
        "[[mqtt]]\nid = 3\nhost = \"{broker}\"\nport = 443\n[[stun]]\nhost = \"{stun}\"\nport = 443\n"
    );
    std::fs::write(world.config(), list).unwrap();
    nft(
        world.lab.server().namespace(),
        &format!(
            "table ip test {{ chain moved {{ type nat hook prerouting priority -100\n\
             ip daddr {broker} tcp dport 443 dnat to {broker}:1883\n\
             ip daddr {stun} tcp dport 443 dnat to {stun}:3478\n\
             ip daddr {stun} udp dport 443 dnat to {stun}:3478\n}}\n}}"
        ),
    );
    nft(
        &world.lab.routers(NARROW)[0],
        "table inet narrow { chain out { type filter hook forward priority -10\n\
         iifname lan meta l4proto tcp tcp dport { 80, 443 } accept\niifname lan drop\n}\n}",
    );
    world
}

/// Starts a listener, and returns it with its address once that names an end at this port.
fn listener(world: &World, host: &Host, args: &[&str], port: u16) -> (Child, String) {
    let mut child = world.run(host, &[&["listen", "--echo"], args].concat());
    let wan = host.wan();
    let named = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let address: PeerAddress = event["address"].as_str()?.parse().ok()?;
        address.v4().iter().any(|i| i.external == wan && i.port == port).then(|| address.to_string())
    };
    let line = child.wait_for_line(|line| named(line).is_some(), PATIENCE).unwrap();
    (child, named(&line).unwrap())
}

#[test]
fn it_reaches_public_preserving_and_mapping_homes_at_port_443() {
    require_lab!(Mosquitto, Coturn, Miniupnpd);
    let rounds: usize = std::env::var("P2PD_NARROW_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap());
    let world = world();
    let _router = Miniupnpd::start(&world.lab, 2, "allow 443 0.0.0.0/0 1024-65535").unwrap();
    let peers: [(&str, &[&str], &str); 3] = [
        ("public", &["--port", "443"], "direct"),
        ("port-preserving", &["--port", "443"], "punch"),
        ("mapping", &["--map-port=443"], "direct"),
    ];
    let listeners: Vec<_> = peers
        .iter()
        .enumerate()
        .map(|(n, (_, args, _))| listener(&world, world.lab.host(n), args, 443))
        .collect();
    let mut failed = Vec::new();
    for _ in 0..rounds {
        for ((name, _, strategy), (_, address)) in peers.iter().zip(&listeners) {
            match world.try_connect(NARROW, address, &["--timeout", "20"]) {
                Ok(connected) => {
                    println!("{name}: {} in {} ms", connected["strategy"], connected["elapsed_ms"]);
                    assert_eq!(connected["strategy"], *strategy, "{name}");
                }
                Err(why) => failed.push(format!("{name}: {why}")),
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn it_gets_out_by_no_other_port() {
    require_lab!(Mosquitto, Coturn);
    let world = world();
    let mut public = world.run(world.lab.host(0), &["listen", "--echo"]);
    let address = event(&mut public, "ready")["address"].as_str().unwrap().to_owned();
    let args = ["--strategies", "direct,punch", "--timeout", "6"];
    assert!(world.try_connect(NARROW, &address, &args).is_err());
    let probe = |port: u16| {
        let to = (SERVER[1], port).into();
        world.lab.host(NARROW).enter(|| std::net::TcpStream::connect_timeout(&to, Duration::from_millis(400)))
    };
    assert!(probe(3478).is_err() && probe(443).is_ok());
}
