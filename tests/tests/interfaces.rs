//! Which of a machine's addresses are announced: beside bridges of containers and a VPN that has the only default route; and
//! which are used where `--interface` and `--not-interface` say so.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use p2pd_core::PeerAddress;
use p2pd_tests::lab::{Child, Home, Lab, Nat};
use p2pd_tests::require_lab;
use p2pd_tests::world::{event, program};

/// A host with a LAN, three bridges of containers, one of which has a container, and a VPN that has the only default route.
fn lab() -> (Lab, File) {
    let home = || Home::new(Nat::None);
    let lab = Lab::builder().home(home()).home(home()).build().unwrap();
    lab.cable([0, 1], "lan").unwrap();
    let mut batch = String::new();
    for n in 0..3 {
        batch += &format!(
            "link add br{n} type bridge\naddr add 172.{}.0.1/16 dev br{n}\nlink set br{n} up\n",
            17 + n
        );
    }
    batch += "link add inside type veth peer name vethb\nlink set vethb master br0\nlink set vethb up\nlink set inside up\n";
    let vpn = lab.host(0).namespace().tun("vpn").unwrap();
    batch += "link set eth0 down\naddr add 10.8.0.6/24 dev vpn\nlink set vpn up\nroute add default dev vpn\n";
    lab.host(0).ip_batch(&batch).unwrap();
    for n in 0..2 {
        let batch = format!(
            "addr add 192.168.7.{0}/24 dev lan\naddr add fd07::{0}/64 dev lan nodad\nlink set lan up\n",
            n + 1
        );
        lab.host(n).ip_batch(&batch).unwrap();
    }
    lab.host(1).ip_batch("link set eth0 down\n").unwrap();
    (lab, vpn)
}

fn run(lab: &Lab, host: usize, args: &[&str]) -> Child {
    let mut command: Command = lab.host(host).command(program());
    command.env("P2PD_FORBID_PUBLIC_SERVERS", "1").args(args).args(["--no-servers", "--json"]);
    lab.host(host).spawn(command).unwrap()
}

/// What a listener with these options announces, and whether the neighbour reaches it.
fn announced(lab: &Lab, options: &[&str]) -> (Vec<String>, bool) {
    let mut listener = run(lab, 0, &[&["listen", "--echo"], options].concat());
    let ready = event(&mut listener, "ready");
    let to = ready["address"].as_str().unwrap();
    let address: PeerAddress = to.parse().unwrap();
    let ips = address.v4().iter().chain(address.v6()).map(|i| i.internal.to_string()).collect();
    let mut caller = run(lab, 1, &["connect", to, "--timeout", "3", "--strategies", "direct"]);
    drop(caller.take_stdin());
    let reached = caller.wait(Duration::from_secs(10)).unwrap().success();
    (ips, reached)
}

#[test]
fn a_lan_is_announced_first_beside_containers_and_a_vpn_and_the_options_say_what_is_used() {
    require_lab!();
    let (lab, _vpn) = lab();
    let vpn = "10.8.0.6";

    let (all, reached) = announced(&lab, &[]);
    assert!(reached, "{all:?}");
    assert_eq!(all, ["192.168.7.1", vpn, "172.17.0.1", "fd07::1"]);

    for (options, expected) in [
        (&["--interface", "lan"][..], &["192.168.7.1", "fd07::1"][..]),
        (&["--interface", "192.168.0.0/16"], &["192.168.7.1"]),
        (&["--interface", "fd07::1"], &["fd07::1"]),
        (&["--interface", "vpn", "--interface", "lan"], &["192.168.7.1", vpn, "fd07::1"]),
        (&["--not-interface", "vpn", "--not-interface", "172.16.0.0/12"], &["192.168.7.1", "fd07::1"]),
        (&["--interface", "lan", "--not-interface", "fc00::/7"], &["192.168.7.1"]),
    ] {
        let (ips, reached) = announced(&lab, options);
        assert_eq!((ips, reached), (expected.iter().map(ToString::to_string).collect(), true), "{options:?}");
    }
    // What is not used is not dialled from, and takes no stream though the listener is on its port.
    let mut listener = run(&lab, 0, &["listen", "--echo", "--not-interface", "lan", "--port", "40404"]);
    let address = event(&mut listener, "ready")["address"].as_str().unwrap().to_owned();
    assert!(!address.contains("192.168.7.1") && !address.contains("fd07::1"), "{address}");
    let node = address.rsplit('-').next().unwrap();
    let guessed = format!("None-[0,192.168.7.1,192.168.7.1,40404,1,1,0]-0-{node}");
    let mut caller = run(&lab, 1, &["connect", &guessed, "--timeout", "3", "--strategies", "direct"]);
    drop(caller.take_stdin());
    assert!(!caller.wait(Duration::from_secs(10)).unwrap().success());

    let mut unknown = run(&lab, 0, &["addr", "--interface", "eth7"]);
    let said = unknown.wait_for_line(|line| line.contains("eth7"), Duration::from_secs(10)).unwrap();
    assert!(
        said.contains("no interface is called eth7") && said.contains("lan 192.168.7.1 fd07::1"),
        "{said}"
    );
    assert_eq!(unknown.wait(Duration::from_secs(10)).unwrap().code(), Some(2));
}
