//! Servers behind a proxy, by every driver: over loopback, and from a home where nothing but the proxy is let out.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd::servers::Commands;
use p2pd_core::wire::Transport;
use p2pd_core::{Accept, Config, Login, Plan, ProxyKind, SecretKey, Strategy};
use p2pd_tests::drivers::{Driver, runtime};
use p2pd_tests::lab::certificates::Authority;
use p2pd_tests::lab::services::{Coturn, Mosquitto};
use p2pd_tests::lab::{Home, Lab, SERVER};
use p2pd_tests::proxy::{Proxy, Setup};
use p2pd_tests::require_lab;
use p2pd_tests::world::PATIENCE;
use tempfile::NamedTempFile;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A name that the proxy alone knows.
const NAME: &str = "servers.test";
const LOGIN: (&str, &str) = ("alice", "pass:word");

fn setup(ip: IpAddr) -> Setup {
    let (user, password) = LOGIN;
    let names = BTreeMap::from([(NAME.into(), ip.to_string())]);
    Setup { login: Some((user.into(), password.into())), names }
}

#[test]
fn every_driver_reaches_brokers_and_relays_through_each_kind_of_proxy() {
    let users = vec![("bob".into(), "secret".into())];
    let turn = Some(WantedTurn { users, relay_ips: vec![LOOPBACK], ..WantedTurn::default() });
    let wanted = Wanted { ip: LOOPBACK, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn };
    let servers = runtime().block_on(Serving::start(&wanted)).unwrap();
    let list = servers.servers(NAME, 0);
    let turn = runtime().block_on(list.turn[0].resolve(Commands::Refused)).unwrap();
    let proxy = Proxy::start((LOOPBACK, 0).into(), setup(LOOPBACK)).unwrap();
    for driver in Driver::ALL {
        for kind in [ProxyKind::Http, ProxyKind::Socks5] {
            let login = Some(Login::new(LOGIN.0, Some(LOGIN.1)));
            let way = p2pd_core::Proxy { kind, host: "127.0.0.1".into(), port: proxy.at().port(), login };
            let config = |accept: &[&SecretKey], key: &SecretKey| {
                let mut config = Config::new(key.clone());
                config.brokers = list.brokers.clone();
                config.turn = vec![p2pd_core::TurnServer { transport: Some(Transport::Tcp), ..turn.clone() }];
                (config.bind, config.survey) = (Some(LOOPBACK), false);
                config.accept = Accept::Only(accept.iter().map(|key| key.node_id()).collect());
                config.set_proxy(&way, |_| false);
                config
            };
            let [ours, theirs] = [(); 2].map(|()| SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
            let a = driver.bind(config(&[&theirs], &ours), None).unwrap();
            let b = driver.bind(config(&[&ours], &theirs), None).unwrap();
            let strategies = [Strategy::Relay].into_iter().collect();
            let plan = Plan { strategies, timeout: PATIENCE, ..Plan::default() };
            let mut pipe = a.connect(&b.address(), plan).unwrap();
            let mut other = b.accept(PATIENCE).unwrap();
            let sent: Vec<u8> = (0..200_000_u32).map(|n| (n >> 3) as u8).collect();
            let written = sent.clone();
            let writing = std::thread::spawn(move || {
                pipe.write_all(&written).unwrap();
                pipe.end().unwrap();
            });
            let mut got = Vec::new();
            other.read_to_end(&mut got).unwrap();
            writing.join().unwrap();
            assert!(got == sent, "{driver} {kind:?}");
            a.shutdown();
            b.shutdown();
        }
    }
    let asked = proxy.asked();
    for port in [list.brokers[0].port, turn.port] {
        assert!(asked.iter().filter(|place| **place == format!("{NAME}:{port}")).count() >= 6, "{asked:?}");
    }
}

/// The caller's servers by name, behind a proxy; the listener's by address.
#[test]
fn a_home_where_only_a_proxy_gets_out_and_no_name_is_known_is_connected_ten_times_of_ten() {
    require_lab!(Mosquitto, Coturn);
    let homes = ["symrand/drop", "symrand/drop"];
    let homes = homes.iter().map(|home| home.parse::<Home>().unwrap().delay(Duration::from_millis(1)));
    let lab = Lab::builder().homes(homes).build().unwrap();
    let [mqtt, turn] = SERVER;
    let at: SocketAddr = (turn, 3128).into();
    let rules = "table inet test { chain test { type filter hook output priority 0; policy drop;\n\
                 oif lo accept\ntcp dport 3128 accept\n}\n}";
    assert!(lab.host(1).command("nft").arg(rules).status().unwrap().success());
    let authority = Authority::new("ours").unwrap();
    let by_name = authority.certificate(&[NAME], false).unwrap();
    let _mosquitto = Mosquitto::start_with(&lab, &[(8883, &by_name), (443, &by_name)]).unwrap();
    let _coturn = Coturn::start_tls(&lab, 5349, &by_name).unwrap();
    let names =
        BTreeMap::from([("broker.test".into(), mqtt.to_string()), ("turn.test".into(), turn.to_string())]);
    let proxy = lab.server().enter(|| Proxy::start(at, Setup { names, ..setup(turn.into()) })).unwrap();

    let secure = format!("tls = true\nserver_name = \"{NAME}\"\nca = '''{}'''\n", authority.pem);
    let theirs = format!("[[mqtt]]\nid = 3\nhost = \"{mqtt}\"\n[[stun]]\nhost = \"{turn}\"\n");
    let brokers = [String::new(), secure.clone(), format!("websocket = \"/mqtt\"\n{secure}")];
    let relays = ["".into(), "transport = \"tcp\"\n".into(), secure];
    let file = |text: &str| {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let theirs = file(&theirs);
    let peer = |host: usize, driver: Driver, command: &str, list: &NamedTempFile, more: &[&str]| {
        let args = [&[driver.name(), command, list.path().to_str().unwrap()], more].concat();
        lab.host(host).run(env!("CARGO_BIN_EXE_peer"), args).unwrap()
    };
    let mut listener = peer(0, Driver::ALL[0], "listen", &theirs, &[]);
    let ready = listener.wait_for_line(|line| line.starts_with("ready "), PATIENCE).unwrap();
    let address = ready.strip_prefix("ready ").unwrap();
    for n in 0..10 {
        let driver = Driver::ALL[n % Driver::ALL.len()];
        let scheme = if n % 2 == 0 { "http" } else { "socks5" };
        let ours = format!(
            "[[mqtt]]\nid = 3\nhost = \"broker.test\"\n{}[[turn]]\nhost = \"turn.test\"\nuser = \"{}\"\n\
             password = \"{}\"\n{}[proxy]\nurl = \"{scheme}://{}@{at}\"\npassword = \"{}\"\n",
            brokers[n % 3],
            Coturn::USER,
            Coturn::PASSWORD,
            relays[n / 3 % 3],
            LOGIN.0,
            LOGIN.1,
        );
        let ours = file(&ours);
        let mut caller = peer(1, driver, "connect", &ours, &[address, "relay"]);
        let ended = caller.wait(PATIENCE);
        let said: Vec<String> = caller.lines().iter().map(|line| line.text.clone()).collect();
        assert!(ended.is_ok() && said.iter().any(|line| line == "there and back"), "{n} {driver}: {said:?}");
    }
    let asked = proxy.asked();
    for place in
        ["broker.test:1883", "broker.test:8883", "broker.test:443", "turn.test:3478", "turn.test:5349"]
    {
        assert!(asked.iter().any(|asked| asked == place), "{place} of {asked:?}");
    }
}
