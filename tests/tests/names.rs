//! Names on every driver with the broker of `p2pd serve`, and as the program's user has them with mosquitto.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use p2pd::serve::{Serving, Wanted};
use p2pd_core::{Broker, Config, Name, NameError, Plan, SecretKey, Target};
use p2pd_sys::ConnectError;
use p2pd_tests::drivers::{Driver, runtime};
use p2pd_tests::lab::SERVER;
use p2pd_tests::lab::services::Chrony;
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event};

const LONG: Duration = Duration::from_secs(20);

fn key() -> SecretKey {
    SecretKey::from_bytes(p2pd_sys::random_seed().unwrap())
}

#[test]
fn every_driver_calls_by_name() {
    let ip = Ipv4Addr::LOCALHOST.into();
    let wanted = Wanted { ip, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn: None };
    let serving = runtime().block_on(Serving::start(&wanted)).unwrap();
    let config = || {
        let mut config = Config::new(key());
        config.bind = Some(ip);
        config.brokers = vec![Broker::new(1, "127.0.0.1", serving.mqtt().port())];
        config
    };
    let name: Name = "example".parse().unwrap();
    let (owner, accepted) = runtime().block_on(async {
        let owner = p2pd_tokio::Node::bind(config()).await.unwrap();
        assert_eq!(owner.register(name).await, Ok(1));
        assert_eq!(owner.resolve(name).await, Ok(owner.address().await));
        let accepting = owner.clone();
        let accepted = tokio::spawn(async move {
            let mut peers = Vec::new();
            for _ in Driver::ALL {
                let mut pipe = accepting.accept().await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut pipe, b"found").await.unwrap();
                tokio::io::AsyncWriteExt::shutdown(&mut pipe).await.unwrap();
                peers.push(pipe);
            }
            peers.len()
        });
        (owner, accepted)
    });
    for driver in Driver::ALL {
        let node = driver.bind(config(), None).unwrap();
        let mut pipe = node.connect(&"example.peer", Plan::default()).unwrap();
        assert_eq!(pipe.info().peer(), owner.node_id(), "{driver}");
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        assert_eq!(text, "found", "{driver}");
        let unknown = Target::Name("nobody".parse().unwrap());
        let failed = node.connect(&unknown, Plan::default()).err().unwrap();
        assert!(failed.to_string().contains(&NameError::NotFound.to_string()), "{driver}: {failed}");
        let wrong = node.connect(&"no_name.peer", Plan::default()).err().unwrap();
        assert!(matches!(wrong, ConnectError::Target(_)), "{driver}: {wrong}");
        node.shutdown();
    }
    assert_eq!(runtime().block_on(async { tokio::time::timeout(LONG, accepted).await }).unwrap().unwrap(), 3);
    runtime().block_on(async {
        assert_eq!(owner.release(name).await, Ok(1));
        assert_eq!(owner.resolve(name).await, Err(NameError::Released));
        owner.shutdown().await;
        assert_eq!(owner.resolve(name).await, Err(NameError::Shutdown));
    });
}

#[test]
fn mosquitto_keeps_a_name_through_two_nats() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["pr", "pr"]);
    let ((alice, id), (bob, _)) = (world.key(0), world.key(1));
    let listen = ["listen", "--echo", "--name", "example", "--identity", &alice];
    let mut listener = world.run(world.lab.host(0), &listen);
    assert_eq!(event(&mut listener, "registered")["brokers"], 1);
    event(&mut listener, "ready");
    let connect = ["connect", "example.peer", "--identity", &bob];
    let mut caller = world.run(world.lab.host(1), &connect);
    caller.take_stdin().unwrap().write_all(b"by name\n").unwrap();
    let connected = event(&mut caller, "connected");
    assert_eq!((&connected["strategy"], &connected["peer"]), (&"punch".into(), &id.into()));
    assert!(caller.wait(PATIENCE).unwrap().success(), "{:?}", caller.lines());
    assert!(caller.lines().iter().any(|l| l.text == "by name"), "{:?}", caller.lines());
    // Mosquitto looks at no key; the node that comes second does.
    let mut second = world.run(world.lab.host(1), &["name", "register", "example", "--identity", &bob]);
    let error = event(&mut second, "error");
    assert!(error["reason"].as_str().unwrap().contains("pinned"), "bob knows whose it is: {error}");
    let mut stranger =
        world.run(world.lab.host(1), &["name", "register", "example", "--identity", &format!("{bob}.new")]);
    let error = event(&mut stranger, "error");
    assert!(error["reason"].as_str().unwrap().contains("taken by node"), "{error}");
    let mut release = world.run(world.lab.host(0), &["name", "release", "example", "--identity", &alice]);
    assert_eq!(event(&mut release, "released")["brokers"], 1);
    let lost = event(&mut listener, "name_lost");
    assert!(lost["reason"].as_str().unwrap().contains("given up"), "{lost}");
    let mut late = world.run(world.lab.host(1), &["name", "resolve", "example", "--identity", &bob]);
    let error = event(&mut late, "error");
    assert!(error["reason"].as_str().unwrap().contains("given up by its owner"), "{error}");
}

#[test]
fn a_machine_whose_clock_is_a_month_behind_has_and_finds_names_where_a_time_server_puts_it_right() {
    require_lab!(Mosquitto, Coturn, Chrony, Faketime);
    let server = format!("[[ntp]]\nhost = \"{}\"", SERVER[0]);
    for (more, right) in [("", false), (&*server, true)] {
        let world = World::listing(&["none", "none"], more);
        let _chrony = Chrony::start(&world.lab).unwrap();
        let (owner, other) = (world.lab.host(0), world.lab.host(1));
        let ((alice, _), (bob, _)) = (world.key(0), world.key(1));
        let listen = ["listen", "--echo", "--name", "example", "--identity", &alice];
        let mut listener = world.run_at(owner, "-30d", &listen);
        event(&mut listener, "registered");
        if right {
            let clock = event(&mut listener, "clock");
            let days = clock["offset_ms"].as_f64().unwrap() / 86.4e6;
            assert!((-30.01..-29.99).contains(&days), "{clock}");
        }
        let resolve = ["name", "resolve", "example", "--identity", &bob];
        let mut resolved = world.run(other, &resolve);
        assert_eq!(resolved.wait(PATIENCE).unwrap().success(), right, "{:?}", resolved.lines());
        let mut fellow = world.run_at(other, "-30d", &resolve);
        assert!(fellow.wait(PATIENCE).unwrap().success(), "{:?}", fellow.lines());
    }
}
