//! IPv6 without a NAT, behind a router that is a firewall and opens ports by miniupnpd.

use std::net::Ipv6Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use p2pd_core::PeerAddress;
use p2pd_core::nat::NatType;
use p2pd_tests::lab::services::Miniupnpd;
use p2pd_tests::lab::{Child, Home, Lab, Nat};
use p2pd_tests::require_lab;
use p2pd_tests::world::{event, program};

const PATIENCE: Duration = Duration::from_secs(20);

/// The listener at 2001:db8:1::2, its router, and who calls at 2001:db8:2::2.
const LISTENER: usize = 0;
const CALLER: usize = 1;
const ROUTER: usize = 2;

const NO_PCP: &str = "
    table ip6 no_pcp {
        chain input {
            type filter hook input priority 0
            udp dport 5351 drop
        }
    }
";

fn lab() -> Lab {
    let home = || Home::new(Nat::None);
    let lab = Lab::builder().home(home()).home(home()).home(home()).build().unwrap();
    for (host, net, device) in [(LISTENER, 1, "inner"), (CALLER, 2, "outer")] {
        lab.cable([host, ROUTER], device).unwrap();
        let up = "link set eth0 down\n";
        let ours = format!(
            "{up}link set {device} addrgenmode none\nlink set {device} up\n\
             addr add 2001:db8:{net}::1/64 dev {device} nodad\naddr add fe80::1/64 dev {device} nodad\n"
        );
        lab.host(ROUTER).ip_batch(&ours).unwrap();
        // As routers announce themselves: by a link-local address.
        let theirs = format!(
            "{up}link set {device} up\naddr add 2001:db8:{net}::2/64 dev {device} nodad\n\
             route add default via fe80::1 dev {device}\n"
        );
        lab.host(host).ip_batch(&theirs).unwrap();
    }
    let router = lab.host(ROUTER);
    router.sysctl(&[("net/ipv6/conf/all/forwarding", "1")]).unwrap();
    // Miniupnpd wants to have addresses of IPv4.
    router.ip_batch("addr add 10.9.9.1/24 dev inner\naddr add 45.9.9.1/24 dev outer\n").unwrap();
    // The caller has the servers, too, and their second address.
    lab.host(CALLER).ip_batch("addr add 2001:db8:2::3/64 dev outer nodad\n").unwrap();
    lab
}

#[test]
fn a_listener_behind_an_ipv6_firewall_is_dialled_through_a_pinhole_until_it_ends() {
    require_lab!(Miniupnpd);
    for way in ["PCP", "UPnP"] {
        let lab = lab();
        if way == "UPnP" {
            // Miniupnpd's PCP over IPv6 cannot be switched off.
            lab.host(ROUTER).nft(NO_PCP).unwrap();
        }
        let inside = (lab.host(LISTENER), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
        let _router =
            Miniupnpd::start_on_firewall(&lab, lab.host(ROUTER), ["inner", "outer"], inside).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("servers.toml");
        let list = list.to_str().unwrap();
        let run = |host: usize, args: &[&str]| -> Child {
            let mut command: Command = lab.host(host).command(program());
            command.env("P2PD_FORBID_PUBLIC_SERVERS", "1").args(args).arg("--json");
            lab.host(host).spawn(command).unwrap()
        };
        let serve =
            ["serve", "--no-turn", "--bind", "2001:db8:2::2", "--second", "2001:db8:2::3", "--write", list];
        let mut servers = run(CALLER, &serve);
        event(&mut servers, "serving");
        let call = |to: &str| {
            run(CALLER, &["connect", to, "--strategies", "direct", "--timeout", "3", "--config", list])
        };

        let mut shut = run(LISTENER, &["listen", "--echo", "--config", list]);
        let ready = event(&mut shut, "ready");
        event(&mut call(ready["address"].as_str().unwrap()), "failed");
        drop(shut);

        let mut listener = run(LISTENER, &["listen", "--echo", "--map-port", "--config", list]);
        let open = event(&mut listener, "port");
        let said = |name: &str| open[name].as_str().unwrap_or_default();
        assert_eq!([said("state"), said("way"), said("truth")], ["open", way, "agrees"], "{open}");
        assert!(said("external").starts_with("[2001:db8:1::2]:"), "{open}");
        let announced = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            let address = event["address"].as_str()?.parse::<PeerAddress>().ok()?;
            (address.v6().first()?.nat == NatType::OpenInternet).then(|| address.to_string())
        };
        // Which of the two it says first is left open.
        let deadline = Instant::now() + PATIENCE;
        let to = loop {
            match listener.lines().iter().find_map(|line| announced(&line.text)) {
                Some(to) => break to,
                None => assert!(Instant::now() < deadline, "{:?}", listener.lines()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut caller = call(&to);
        let opened = event(&mut caller, "connected");
        assert!(opened["remote"].as_str().unwrap().starts_with("[2001:db8:1::2]:"), "{way}: {opened}");

        assert!(rules(&lab).contains("accept"), "{way}");
        listener.terminate().unwrap();
        assert!(listener.wait(PATIENCE).unwrap().success());
        let removed = event(&mut listener, "port");
        assert_eq!((&removed["state"], &removed["confirmed"]), (&"removed".into(), &true.into()), "{way}");
        assert!(!rules(&lab).contains("accept"), "{way}: {}", rules(&lab));
    }
}

/// Returns the rules by which miniupnpd lets packets in.
fn rules(lab: &Lab) -> String {
    let mut command = lab.host(ROUTER).command("nft");
    let out =
        lab.host(ROUTER).enter(|| command.args(["list", "chain", "inet", "filter", "miniupnpd"]).output());
    String::from_utf8(out.unwrap().stdout).unwrap()
}
