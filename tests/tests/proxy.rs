//! Servers behind a proxy, by every driver: over loopback, and from a home where nothing but the proxy is let out.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd_core::Transport;
use p2pd_core::{Accept, Config, Login, Plan, ProxyKind, SecretKey, Strategy, TurnServer};
use p2pd_tests::drivers::{Driver, Node, Outcome, runtime};
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

/// Servers of our own on loopback, a proxy that knows them by name, and nodes that reach them through it alone.
struct Behind {
    list: p2pd::servers::Servers,
    turn: TurnServer,
    proxy: Proxy,
    _servers: Serving,
}

impl Behind {
    fn start() -> Self {
        let users = vec![("bob".into(), "secret".into())];
        let turn = Some(WantedTurn { users, relay_ips: vec![LOOPBACK], ..WantedTurn::default() });
        let wanted = Wanted { ip: LOOPBACK, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn };
        let servers = runtime().block_on(Serving::start(&wanted)).unwrap();
        let list = servers.servers(NAME, 0);
        let turn = list.turn[0].for_node();
        let turn = TurnServer { transport: Some(Transport::Tcp), ..turn };
        let proxy = Proxy::start((LOOPBACK, 0).into(), setup(LOOPBACK)).unwrap();
        Behind { list, turn, proxy, _servers: servers }
    }

    /// Two nodes that name each other, by this driver, through this kind of proxy.
    fn nodes(&self, driver: Driver, kind: ProxyKind) -> [Box<dyn Node>; 2] {
        let login = Some(Login::new(LOGIN.0, Some(LOGIN.1)));
        let way = p2pd_core::Proxy { kind, host: "127.0.0.1".into(), port: self.proxy.at().port(), login };
        let keys = [(); 2].map(|()| SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
        [0, 1].map(|n| {
            let mut config = Config::new(keys[n].clone());
            config.brokers = self.list.brokers.clone();
            config.turn = vec![self.turn.clone()];
            (config.bind, config.survey) = (Some(LOOPBACK), false);
            config.accept = Accept::Only([keys[1 - n].node_id()].into());
            config.set_proxy(&way, |_| false);
            driver.bind(config, None).unwrap()
        })
    }
}

/// Opens a relayed pipe.
fn relay(from: &dyn Node, to: &dyn Node) -> Outcome {
    let strategies = [Strategy::Relay];
    from.connect(&to.address(), Plan::new().strategies(strategies).timeout(PATIENCE))
}

#[test]
fn every_driver_reaches_brokers_and_relays_through_each_kind_of_proxy() {
    let behind = Behind::start();
    for driver in Driver::ALL {
        for kind in [ProxyKind::Http, ProxyKind::Socks5] {
            let [a, b] = behind.nodes(driver, kind);
            let mut pipe = relay(&*a, &*b).unwrap();
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
    let asked = behind.proxy.asked();
    for port in [behind.list.brokers[0].port, behind.turn.port] {
        assert!(asked.iter().filter(|place| **place == format!("{NAME}:{port}")).count() >= 6, "{asked:?}");
    }
}

/// The port of a TURN server over TCP that answers 300 and names another server (RFC 8489 section 14.16).
fn sends_to(other: (Ipv4Addr, u16)) -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = [0; 20];
                while stream.read_exact(&mut head).is_ok() {
                    let mut body = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
                    stream.read_exact(&mut body).unwrap();
                    let mut answer = vec![0x01, 0x13, 0, 20];
                    answer.extend(&head[4..]);
                    answer.extend([0, 9, 0, 4, 0, 0, 3, 0]);
                    answer.extend([0x80, 0x23, 0, 8, 0, 1]);
                    answer.extend(other.1.to_be_bytes());
                    answer.extend(other.0.octets());
                    stream.write_all(&answer).unwrap();
                }
            });
        }
    });
    port
}

#[test]
fn a_server_that_sends_elsewhere_is_followed_through_the_same_proxy() {
    let mut behind = Behind::start();
    let there = behind.turn.port;
    behind.turn.port = sends_to((Ipv4Addr::LOCALHOST, there));
    for kind in [ProxyKind::Http, ProxyKind::Socks5] {
        behind.turn.alternates_anywhere = false;
        let [a, b] = behind.nodes(Driver::ALL[0], kind);
        let why = relay(&*a, &*b).err().unwrap().to_string();
        assert!(why.contains("which is no address that it may send us to"), "{why}");
        let elsewhere = format!("127.0.0.1:{there}");
        let asked = || behind.proxy.asked().iter().filter(|place| **place == elsewhere).count();
        let before = asked();
        behind.turn.alternates_anywhere = true;
        let [a, b] = behind.nodes(Driver::ALL[0], kind);
        let mut pipe = relay(&*a, &*b).unwrap();
        let mut other = b.accept(PATIENCE).unwrap();
        pipe.write_all(b"hello").unwrap();
        let mut got = [0; 5];
        other.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        assert!(asked() > before, "{kind:?}");
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
