//! Routers that open ports, honest or not, second homes, and hosts that move.

use std::net::SocketAddr;

use p2pd_core::portmap::{Truth, Way};
use p2pd_core::{PortState, Strategy};
use p2pd_simulations::engine::{MILLI, SECOND};
use p2pd_simulations::nat::Chain;
use p2pd_simulations::net::LinkSpec;
use p2pd_simulations::scenario::pair::{Ending, Life, Pair, Second, When, run};
use p2pd_simulations::service::router::{RouterFaults, RouterSpec, Taken};

const HONEST: RouterSpec = RouterSpec::HONEST;

fn chain(name: &str) -> Chain {
    name.parse().unwrap()
}

/// The listener behind a home router that has this server, the caller behind ports drawn at random.
fn pair(router: RouterSpec) -> Pair {
    let mut pair = Pair::new(3, [chain("linux"), chain("symrand")]);
    pair.routers[0] = Some(router);
    pair
}

fn with(faults: RouterFaults) -> RouterSpec {
    RouterSpec { faults, ..HONEST }
}

fn good(pair: &Pair) -> Ending {
    let ending = run(pair);
    assert!(ending.violations.is_empty(), "{:?}", ending.violations);
    ending
}

/// Returns the protocol, the address and the check of the listener's opened port, if one was opened.
fn opened(ending: &Ending) -> Option<(Way, SocketAddr, Truth)> {
    ending.ports[0].iter().find_map(|state| match *state {
        PortState::Open { way, external, truth } => Some((way, external, truth)),
        _ => None,
    })
}

#[test]
fn a_listener_whose_router_opens_a_port_is_dialled_by_whatever_protocol() {
    let none = RouterSpec { pcp: false, nat_pmp: false, upnp: None, ..HONEST };
    for (router, way) in [
        (RouterSpec { pcp: true, ..none }, Way::Pcp),
        (RouterSpec { nat_pmp: true, ..none }, Way::NatPmp),
        (RouterSpec { upnp: Some(1), ..none }, Way::Upnp),
        (RouterSpec { upnp: Some(2), ..none }, Way::Upnp),
        (HONEST, Way::Pcp),
    ] {
        let ending = good(&pair(router));
        let (by, external, truth) = opened(&ending).unwrap();
        assert_eq!((by, external.ip().to_string().as_str(), truth), (way, "45.10.1.1", Truth::Agrees));
        assert_eq!(ending.strategy, Some(Strategy::Direct), "{way}: {}", ending.why);
        assert_eq!(*ending.ports[0].last().unwrap(), PortState::Removed { confirmed: true }, "{way}");
    }
}

#[test]
fn without_a_router_the_same_two_need_more_than_a_dial() {
    let mut pair = pair(HONEST);
    pair.routers[0] = None;
    pair.strategies = vec![Strategy::Direct, Strategy::Reverse];
    assert_eq!(good(&pair).strategy, None);
}

/// Ports that the router grants are open, so that a dial to the address that STUN sees still gets in.
#[test]
fn a_router_that_lies_about_its_address_is_found_out() {
    let lie = [45, 99, 9, 9].into();
    let mut pair = pair(with(RouterFaults { says: Some(lie), ..RouterFaults::default() }));
    pair.chains[1] = chain("open");
    let ending = good(&pair);
    let (_, external, truth) = opened(&ending).unwrap();
    assert_eq!((external.ip(), truth), (lie, Truth::Differs { seen: [45, 10, 1, 1].into() }));
    let port = external.port();
    let announced = format!("[0,45.10.1.1,192.168.1.2,{port},5,");
    assert!(ending.address.contains(&announced), "as behind a NAT: {}", ending.address);
    assert!(!ending.address.contains("45.99.9.9"), "{}", ending.address);
    assert_eq!(ending.strategy, Some(Strategy::Direct), "{}", ending.why);
}

/// A dial is the only test of such a port.
#[test]
fn where_a_router_opens_nothing_that_it_grants_another_strategy_opens_the_pipe() {
    let mut pair = pair(with(RouterFaults { idle: true, ..RouterFaults::default() }));
    pair.chains[1] = chain("open");
    let ending = good(&pair);
    assert_eq!(opened(&ending).unwrap().2, Truth::Agrees);
    assert_eq!(ending.strategy, Some(Strategy::Reverse), "{}", ending.why);
}

#[test]
fn behind_two_nats_the_inner_router_is_not_believed() {
    let mut pair = pair(HONEST);
    pair.chains = [chain("linux+linux"), chain("open")];
    let ending = good(&pair);
    assert!(matches!(opened(&ending).unwrap().2, Truth::NotPublic(_)), "{:?}", ending.ports[0]);
    assert_eq!(ending.strategy, Some(Strategy::Reverse), "{}", ending.why);
}

#[test]
fn another_port_is_announced_and_dialled_and_none_is_said() {
    let taken = |taken| with(RouterFaults { taken, ..RouterFaults::default() });
    let ending = good(&pair(taken(Taken::Low)));
    assert!(opened(&ending).unwrap().1.port() >= 49_152);
    assert_eq!(ending.strategy, Some(Strategy::Direct), "{}", ending.why);
    let mut refused = pair(taken(Taken::All));
    refused.strategies = vec![Strategy::Direct];
    let ending = good(&refused);
    assert!(matches!(ending.ports[0][..], [PortState::Failed { .. }]), "{:?}", ending.ports[0]);
    assert_eq!(ending.strategy, None);
}

/// The router's ports are lost for nearly an hour, if nobody asks before half of the lease is over. The call that fails
/// for that reason has the listener ask.
#[test]
fn a_router_that_restarted_is_asked_again_when_a_call_came_to_nothing() {
    let faults = RouterFaults { crash: Some(8 * SECOND), ..RouterFaults::default() };
    let none = RouterSpec { pcp: false, nat_pmp: false, upnp: None, ..with(faults) };
    for router in [
        RouterSpec { pcp: true, ..none },
        RouterSpec { nat_pmp: true, ..none },
        RouterSpec { upnp: Some(1), ..none },
    ] {
        let mut pair = pair(router);
        // By a dial back the listener learns of the call.
        pair.strategies = vec![Strategy::Direct, Strategy::Reverse];
        // The first finds the port open, the second, 10 s later, closed.
        (pair.calls, pair.again) = (2, true);
        let ending = good(&pair);
        assert_eq!((ending.strategy, ending.again), (None, Some(Ok(Strategy::Direct))), "{router:?}");
    }
}

fn second(of: usize, nat: &str, life: Life) -> Option<Second> {
    Some(Second { of, chain: chain(nat), link: LinkSpec::with_delay(5 * MILLI), router: None, life })
}

#[test]
fn a_host_that_moves_says_its_new_address_within_three_seconds_and_is_found() {
    for when in [When::Idle, When::Into(30 * MILLI)] {
        for (first, other) in [("linux", "openwrt"), ("open", "linux"), ("fullcone", "open")] {
            let mut pair = Pair::new(5, [chain(first), chain("open")]);
            pair.second = second(0, other, Life::Moves(when));
            pair.again = true;
            let ending = good(&pair);
            let after = ending.announced_after.unwrap();
            assert!(after <= 3 * SECOND, "{first} {other} {when:?}: {} ms", after / MILLI);
            assert!(matches!(ending.again, Some(Ok(_))), "{first} {other} {when:?}: {:?}", ending.again);
        }
    }
}

#[test]
fn with_two_homes_and_one_dead_the_other_is_dialled() {
    for when in [When::Idle, When::Into(0)] {
        for life in [Life::Dead(when), Life::Loses(when)] {
            let mut pair = Pair::new(7, [chain("open"), chain("linux")]);
            pair.second = second(0, "open", life);
            pair.strategies = vec![Strategy::Direct];
            let ending = good(&pair);
            assert_eq!(ending.strategy, Some(Strategy::Direct), "{life:?}: {}", ending.why);
        }
    }
}

/// The first home's NAT gives each destination a random port, the second's keeps it.
#[test]
fn of_two_homes_the_one_whose_ports_can_be_predicted_is_punched_from() {
    for of in 0..2 {
        let mut chains = [chain("linux"), chain("linux")];
        chains[of] = chain("enterprise");
        let mut pair = Pair::new(9, chains);
        pair.strategies = vec![Strategy::Punch];
        pair.second = second(of, "linux", Life::Beside);
        let ending = good(&pair);
        assert_eq!((ending.strategy, ending.rungs.len()), (Some(Strategy::Punch), 1), "{of}: {}", ending.why);
    }
}
