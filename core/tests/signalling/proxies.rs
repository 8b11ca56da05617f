//! Homes where nothing but a proxy gets out.

use std::net::IpAddr;

use crate::common::proxy::takes;
use crate::common::stun::Udp;
use crate::common::{LATENCY, Port, S, World};
use p2pd_core::{BrokerLoss, BrokerState, IoFailure, Login, ProxyFailure, ProxyKind};

/// A broker that is not reached directly, a proxy that leads to it, and a node.
fn world(kind: ProxyKind, login: Option<Login>, change: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(7);
    world.add_broker();
    world.add_proxy(kind, login);
    world.ports.insert(world.brokers[0].at, Port::Blackholed);
    change(&mut world);
    let proxy = world.proxies[0].config.clone();
    world.behind_nat(|c| {
        c.survey = false;
        c.set_proxy(&proxy, |host| host == "excepted.test");
    });
    world
}

fn lost(world: &World) -> BrokerLoss {
    match world.broker_states(0, 0)[..] {
        [BrokerState::Lost(why), ..] => why,
        ref other => panic!("{other:?}:\n{}", world.tail()),
    }
}

fn login() -> Option<Login> {
    Some(Login::new("alice", Some("s3cret")))
}

#[test]
fn a_broker_is_reached_through_each_kind_of_proxy_and_its_name_is_the_proxys_to_look_up() {
    for kind in [ProxyKind::Http, ProxyKind::Socks5] {
        for login in [None, login()] {
            let logs_in = login.is_some();
            let mut world = world(kind, login, |_| {});
            world.run(S);
            assert_eq!(world.broker_states(0, 0), [BrokerState::Ready]);
            // The look-up, TCP, the proxy, CONNECT, SUBSCRIBE, a message to ourselves.
            let (at, _) = world.ready(0).unwrap();
            assert_eq!(at, LATENCY + 2 * LATENCY + takes(kind, logs_in) + 6 * LATENCY);
            let said = world.proxies[0].heard.concat();
            let name =
                if kind == ProxyKind::Http { "CONNECT broker0.test:1883 " } else { "\x03\x0cbroker0.test" };
            assert!(String::from_utf8_lossy(&said).contains(name), "{said:?}");
            assert!(
                !world.log.contains("broker0.test\", deadline"),
                "the name was looked up:\n{}",
                world.log
            );
            assert!(!world.log.contains("s3cret"), "{}", world.log);
        }
    }
}

#[test]
fn three_silent_addresses_of_a_proxy_cost_three_quarters_of_a_second() {
    for hung in [false, true] {
        let mut world = world(ProxyKind::Http, None, |world| {
            let silent: Vec<IpAddr> = (201..204).map(|n| IpAddr::from([203, 0, 113, n])).collect();
            if hung {
                // They take connections, and say nothing.
                for ip in &silent {
                    let p = world.add_proxy(ProxyKind::Http, None);
                    (world.proxies[p].at, world.proxies[p].silent) = ((*ip, 3128).into(), true);
                }
            }
            world.silent.insert("proxy0.test".into(), silent);
        });
        let took = world.run_until(2 * S, |w| !w.broker_states(0, 0).is_empty());
        assert_eq!(world.broker_states(0, 0), [BrokerState::Ready]);
        assert!(took <= S, "{hung}: {took:?}");
    }
}

#[test]
fn what_a_proxy_refuses_is_said_in_words_without_the_password() {
    let login_refused = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
    for (kind, refusal, why) in [
        (ProxyKind::Http, &login_refused[..], ProxyFailure::LoginRefused),
        (ProxyKind::Http, b"HTTP/1.1 403 Forbidden\r\n\r\n", ProxyFailure::Http(403)),
        (ProxyKind::Http, b"\x05\x00", ProxyFailure::NotAProxy),
        (ProxyKind::Socks5, b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", ProxyFailure::Socks(2)),
    ] {
        let mut world = world(kind, login(), |world| world.proxies[0].refusal = Some(refusal.into()));
        world.run(S);
        assert_eq!(lost(&world), BrokerLoss::Io(IoFailure::Proxy(why)));
        assert!(!lost(&world).to_string().contains("s3cret") && !world.log.contains("s3cret"));
    }
}

#[test]
fn a_proxy_that_is_silent_or_away_is_given_up_within_the_brokers_time() {
    let mut silent = world(ProxyKind::Socks5, None, |world| world.proxies[0].silent = true);
    silent.run(9 * S);
    assert_eq!(lost(&silent), BrokerLoss::Io(IoFailure::TimedOut));
    let mut away = world(ProxyKind::Socks5, None, |world| {
        world.ports.insert(world.proxies[0].at, Port::Refused);
    });
    away.run(S);
    assert_eq!(lost(&away), BrokerLoss::Io(IoFailure::Proxy(ProxyFailure::Away)));
}

#[test]
fn hosts_that_are_excepted_and_datagrams_go_directly() {
    let mut world = world(ProxyKind::Http, None, |world| {
        world.brokers[0].config.host = "excepted.test".into();
        world.ports.clear();
        let stun = world.add_stun();
        assert_eq!(world.stuns[stun].udp, Udp::Truth);
    });
    world.run(S);
    assert_eq!(world.broker_states(0, 0), [BrokerState::Ready]);
    assert!(world.proxies[0].heard.is_empty() && world.stuns[0].asked.0 > 0);
}
