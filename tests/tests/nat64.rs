//! A host that has IPv6 only behind a NAT64, tayga with a stateful NAT behind it, and hosts and servers that have IPv4 only:
//! they call each other by every strategy.

use std::io::Write;
use std::time::{Duration, Instant};

use p2pd_tests::lab::{Child, Home, Nat};
use p2pd_tests::require_lab;
use p2pd_tests::world::{World, event, program};

const PATIENCE: Duration = Duration::from_secs(30);
/// The router with the NAT64, the host behind it, and hosts of the IPv4 internet: open, and behind a NAT.
const ROUTER: usize = 0;
const SIX: usize = 1;
const OPEN: usize = 2;
const HOME: usize = 3;

struct Six {
    world: World,
    files: tempfile::TempDir,
    _tayga: Child,
}

impl Six {
    fn new() -> Six {
        let home = |nat| Home::new(nat).delay(Duration::from_micros(500));
        let homes = vec![home(Nat::None), home(Nat::None), home(Nat::None), home(Nat::PortPreserving)];
        let world = World::relaying_for(homes, &[], "");
        let (lab, files) = (&world.lab, tempfile::tempdir().unwrap());
        let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
        write(
            "hosts",
            "::1 localhost\n2001:db8:64::192.0.0.170 ipv4only.arpa\n2001:db8:64::192.0.0.171 ipv4only.arpa\n",
        );
        write(
            "tayga",
            &format!(
                "tun-device nat64\nipv4-addr 172.30.0.1\nipv6-addr 2001:db8:6:ffff::1\nprefix 2001:db8:64::/96\n\
                 dynamic-pool 172.30.0.0/16\ndata-dir {}\n",
                files.path().display()
            ),
        );
        let conf = files.path().join("tayga").display().to_string();
        lab.cable([ROUTER, SIX], "six").unwrap();
        let router = lab.host(ROUTER);
        let v6 = ["all/disable_ipv6", "default/disable_ipv6"].map(|name| format!("net/ipv6/conf/{name}"));
        router.sysctl(&[(&v6[0], "0"), (&v6[1], "0"), ("net/ipv6/conf/all/forwarding", "1")]).unwrap();
        router.sysctl(&[("net/ipv4/ip_forward", "1")]).unwrap();
        router.ip_batch("link set six up\naddr add 2001:db8:6::1/64 dev six nodad\n").unwrap();
        let batch = "link set eth0 down\nlink set six up\naddr add 2001:db8:6::2/64 dev six nodad\nroute add default via 2001:db8:6::1\n";
        lab.host(SIX).ip_batch(batch).unwrap();
        assert!(router.run("tayga", ["-c", &conf, "--mktun"]).unwrap().wait(PATIENCE).unwrap().success());
        router
            .ip_batch("link set nat64 up\nroute add 172.30.0.0/16 dev nat64\nroute add 2001:db8:64::/96 dev nat64\n")
            .unwrap();
        router
            .nft("table ip nat64 {\nchain post {\ntype nat hook postrouting priority 100\noifname eth0 ip saddr 172.30.0.0/16 masquerade\n}\n}\n")
            .unwrap();
        let tayga = router.run("tayga", ["-c", &conf, "-d"]).unwrap();
        Six { world, files, _tayga: tayga }
    }

    /// Starts the program on the IPv6-only host, whose resolver knows the prefix.
    fn run(&self, args: &[&str]) -> Child {
        let host = self.world.lab.host(SIX);
        let mut command = host.command("unshare");
        command.env("P2PD_FORBID_PUBLIC_SERVERS", "1");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        command.arg(self.files.path().join("hosts")).arg(program()).args(args);
        command.args(["--json", "--config"]).arg(self.world.config());
        host.spawn(command).unwrap()
    }

    /// Has a word come back by a connect, and gives how it was opened.
    fn echoed(mut child: Child) -> serde_json::Value {
        child.take_stdin().unwrap().write_all(b"there and back\n").unwrap();
        let opened = event(&mut child, "connected");
        assert!(child.wait(PATIENCE).unwrap().success(), "{:?}", child.lines());
        assert!(child.lines().iter().any(|line| line.text == "there and back"), "{:?}", child.lines());
        opened
    }
}

#[test]
fn an_ipv6_only_host_behind_a_nat64_and_ipv4_hosts_call_each_other_by_every_strategy() {
    require_lab!(Mosquitto, Coturn, Tayga);
    let six = Six::new();
    let lab = &six.world.lab;
    for (host, strategies) in [(OPEN, &["direct", "punch", "relay"][..]), (HOME, &["punch", "relay"])] {
        let mut listener = six.world.run(lab.host(host), &["listen", "--echo"]);
        let to = event(&mut listener, "ready")["address"].as_str().unwrap().to_owned();
        for strategy in strategies {
            let began = Instant::now();
            let opened = Six::echoed(six.run(&["connect", &to, "--strategies", strategy, "--timeout", "10"]));
            assert_eq!(opened["strategy"], *strategy, "{opened}");
            eprintln!("{host} {strategy} {:?} {opened}", began.elapsed());
        }
        // What the socket is connected to is the peer's address with the prefix.
        let opened = Six::echoed(six.run(&["connect", &to]));
        assert!(opened["remote"].as_str().unwrap().starts_with("[2001:db8:64::"), "{opened}");
    }

    let mut listener = six.run(&["listen", "--echo"]);
    let ready = event(&mut listener, "ready");
    let to = ready["address"].as_str().unwrap();
    // The NAT64's address outside stands there, and the host's own.
    let router = lab.host(ROUTER).ip();
    assert!(to.contains("-[0,2001:db8:6::2,2001:db8:6::2,"), "{to}");
    assert!(to.contains(&format!(",{router},{router},")), "{to}");
    for host in [OPEN, HOME] {
        for strategy in ["punch", "relay"] {
            let opened = six.world.try_connect(host, to, &["--strategies", strategy, "--timeout", "10"]);
            assert_eq!(opened.unwrap()["strategy"], strategy);
        }
    }
    let opened = six.world.try_connect(OPEN, to, &["--strategies", "reverse", "--timeout", "10"]).unwrap();
    assert_eq!(opened["strategy"], "reverse");
}

#[test]
fn a_nat_is_measured_through_a_nat64() {
    require_lab!(Mosquitto, Coturn, Tayga);
    let six = Six::new();
    let mut nat = six.run(&["nat"]);
    let found = nat.wait_for_line(|line| line.contains("\"mapped\":\""), PATIENCE).unwrap();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let router = six.world.lab.host(ROUTER).ip().to_string();
    assert!(found["mapped"].as_str().unwrap().starts_with(&router), "{found}");
    assert_eq!(found["mapping"], "EndpointIndependent", "{found}");
}
