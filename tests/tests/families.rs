//! Hosts with addresses of one family or of both, on one network: the pairs that connect without any server, and the
//! family they use. Two more have IPv6 only and a firewall each, and punch.

use std::process::Command;
use std::time::Duration;

use p2pd_tests::lab::{Home, Lab, Nat};
use p2pd_tests::require_lab;
use p2pd_tests::world::{event, program};

const NO_SERVERS: [&str; 2] = ["--no-servers", "--json"];

/// Gives both ends of the cable the addresses of these families, of the one host and of the other.
fn address(lab: &Lab, families: [&str; 2]) {
    for (host, of) in families.iter().enumerate() {
        let n = host + 1;
        // Down and up again: no address of before is left.
        let mut batch = "link set wire down\naddr flush dev wire\nlink set wire up\n".to_owned();
        if of.contains('4') {
            batch += &format!("addr add 10.9.9.{n}/24 dev wire\n");
        }
        if of.contains('6') {
            batch += &format!("addr add 2001:db8:9::{n}/64 dev wire nodad\n");
        }
        lab.host(host).ip_batch(&batch).unwrap();
    }
}

#[test]
fn hosts_that_have_nothing_but_link_local_addresses_connect_over_the_cable_between_them() {
    require_lab!();
    let home = || Home::new(Nat::None);
    let lab = Lab::builder().home(home()).home(home()).build().unwrap();
    lab.cable([0, 1], "wire").unwrap();

    for (n, host) in lab.hosts().iter().enumerate() {
        host.ip_batch("link set eth0 down\nlink set wire addrgenmode none\nlink set wire up\n").unwrap();
        host.ip_batch(&format!("addr add fe80::{}/64 dev wire nodad\n", n + 1)).unwrap();
    }
    let run = |host: usize, args: &[&str]| {
        let mut command: Command = lab.host(host).command(program());
        command.env("P2PD_FORBID_PUBLIC_SERVERS", "1").args(args);
        lab.host(host).spawn(command).unwrap()
    };
    let mut interfaces = run(1, &["interfaces", "--json"]);
    let line = interfaces.wait_for_line(|line| line.contains("\"wire\""), Duration::from_secs(10)).unwrap();
    assert!(line.contains("\"fe80::2\"") && line.contains("\"zone\":\"wire\""), "{line}");
    for bind in [&[][..], &["--bind", "fe80::1"]] {
        let mut listener = run(0, &[&["listen", "--echo"], bind, &NO_SERVERS].concat());
        let ready = event(&mut listener, "ready");
        let to = ready["address"].as_str().unwrap();
        assert!(to.starts_with("None-0-[0,fe80::1,fe80::1,"), "{to}");
        let mut caller = run(1, &[&["connect", to, "--timeout", "5"], &NO_SERVERS[..]].concat());
        let opened = event(&mut caller, "connected");
        let remote = opened["remote"].as_str().unwrap();
        assert!(remote.starts_with("[fe80::1%"), "{bind:?}: {opened}");
    }
}

#[test]
fn hosts_connect_by_every_family_that_both_have_and_say_so_where_they_have_none() {
    require_lab!();
    let home = || Home::new(Nat::None);
    let lab = Lab::builder().home(home()).home(home()).build().unwrap();
    lab.cable([0, 1], "wire").unwrap();
    for host in lab.hosts() {
        host.ip_batch("link set eth0 down\n").unwrap();
    }
    for (families, by) in [
        (["6", "6"], Some("[2001:db8:9::1]")),
        (["46", "6"], Some("[2001:db8:9::1]")),
        (["6", "46"], Some("[2001:db8:9::1]")),
        (["46", "46"], Some("[2001:db8:9::1]")),
        (["4", "4"], Some("10.9.9.1")),
        (["46", "4"], Some("10.9.9.1")),
        (["4", "46"], Some("10.9.9.1")),
        (["4", "6"], None),
        (["6", "4"], None),
    ] {
        address(&lab, families);
        let run = |host: usize, args: &[&str]| {
            let mut command: Command = lab.host(host).command(program());
            command.env("P2PD_FORBID_PUBLIC_SERVERS", "1").args(args).args(NO_SERVERS);
            lab.host(host).spawn(command).unwrap()
        };
        let mut listener = run(0, &["listen", "--echo"]);
        let ready = event(&mut listener, "ready");
        let to = ready["address"].as_str().unwrap();
        let mut caller = run(1, &["connect", to, "--strategies", "direct", "--timeout", "5"]);
        match by {
            Some(ip) => {
                let opened = event(&mut caller, "connected");
                let remote = opened["remote"].as_str().unwrap();
                assert!(remote.starts_with(&format!("{ip}:")), "{families:?}: {opened}");
            }
            None => {
                let failed = event(&mut caller, "failed").to_string();
                assert!(failed.contains("and we have none"), "{families:?}: {failed}");
                assert_eq!(caller.wait(Duration::from_secs(10)).unwrap().code(), Some(1));
            }
        }
    }
}

/// Firewall of many hosts: unsolicited packets are dropped, and IPv6's own housekeeping is not.
const FIREWALL: &str = "
    table ip6 guard {
        chain input {
            type filter hook input priority 0; policy drop;
            iifname lo accept
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
            ct state established accept
        }
    }
";

#[test]
fn two_firewalls_without_a_nat_are_punched_over_ipv6() {
    require_lab!();
    let home = || Home::new(Nat::None);
    let lab = Lab::builder().home(home()).home(home()).home(home()).build().unwrap();
    for (host, device) in [(0, "wire0"), (1, "wire1")] {
        lab.cable([host, 2], device).unwrap();
        let ip = |n: usize| {
            format!(
                "link set eth0 down\nlink set {device} up\naddr add 2001:db8:{host}::{n}/64 dev {device} nodad\n"
            )
        };
        lab.host(2).ip_batch(&ip(1)).unwrap();
        let route = format!("route add default via 2001:db8:{host}::1\n");
        lab.host(host).ip_batch(&(ip(2) + &route)).unwrap();
        lab.host(host).nft(FIREWALL).unwrap();
    }
    lab.host(2).sysctl(&[("net/ipv6/conf/all/forwarding", "1")]).unwrap();
    lab.host(2)
        .ip_batch("addr add 2001:db8:5::1/128 dev lo nodad\naddr add 2001:db8:5::2/128 dev lo nodad\n")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("servers.toml");
    let run = |host: usize, args: &[&str]| {
        let mut command: Command = lab.host(host).command(program());
        command.env("P2PD_FORBID_PUBLIC_SERVERS", "1").args(args).arg("--json");
        lab.host(host).spawn(command).unwrap()
    };
    let list = list.to_str().unwrap();
    let serve =
        ["serve", "--no-turn", "--bind", "2001:db8:5::1", "--second", "2001:db8:5::2", "--write", list];
    let mut servers = run(2, &serve);
    event(&mut servers, "serving");
    let mut listener = run(0, &["listen", "--echo", "--config", list]);
    let ready = event(&mut listener, "ready");
    let to = ready["address"].as_str().unwrap();
    let mut caller = run(1, &["connect", to, "--strategies", "direct", "--timeout", "5", "--config", list]);
    event(&mut caller, "failed");
    let mut caller = run(1, &["connect", to, "--strategies", "punch", "--timeout", "10", "--config", list]);
    let opened = event(&mut caller, "connected");
    let remote = opened["remote"].as_str().unwrap();
    assert!(remote.starts_with("[2001:db8::2]:"), "{opened}");
}
