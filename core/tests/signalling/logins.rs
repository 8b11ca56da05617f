//! Logins that end: of TURN servers and brokers.

use std::time::Duration;

use p2pd_core::turn::Credentials;
use p2pd_core::{BrokerLoss, BrokerState, ConnectId, Event, Login, Outcome, ServerRef, TurnAuth};

use crate::common::broker::Greeting;
use crate::common::view::relay;
use crate::common::{LATENCY, MS, NOON, S, World};

const DAY: i64 = 24 * 3600 * 1_000_000;
const TURN: ServerRef = ServerRef::Turn(0);

/// Two nodes behind NATs, the second without TURN servers, and a TURN server to which the first is `auth`.
fn world(auth: impl Into<TurnAuth>) -> World {
    let mut world = World::new(1);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.behind_nat(|c| c.turn[0].auth = auth.into());
    world.behind_nat(|c| c.turn.clear());
    world.run(S);
    world
}

/// Returns the credentials that a secret gives on the host's wall clock at `world`'s time, `micros` later.
fn made(world: &World, micros: i64) -> Credentials {
    Credentials::short_lived("north", None, NOON.offset_micros(world.now.as_nanos() / 1000 + micros))
}

fn call(world: &mut World) -> ConnectId {
    world.connect(0, &world.address(1), relay(30))
}

fn wanted(world: &World) -> Vec<ServerRef> {
    let events = world.hosts[0].events.iter();
    events
        .filter_map(|(_, event)| match event {
            Event::LoginWanted { server } => Some(*server),
            _ => None,
        })
        .collect()
}

fn give(world: &mut World, server: ServerRef, login: Option<Login>) {
    world.ask(0, |node, now| node.renew_login(now, server, login));
}

#[test]
fn of_a_secret_credentials_are_made_when_they_are_needed() {
    let mut world = world(TurnAuth::Secret("north".into()));
    for _ in 0..2 {
        let now = made(&world, DAY);
        world.admit(0, &now);
        let id = call(&mut world);
        world.run_until(260 * MS, |w| w.is_over(0, id));
        world.close_pipe(0);
        world.hosts[0].relayed.clear();
        world.run(Duration::from_secs(25 * 3600));
    }
}

#[test]
fn a_clock_that_is_wrong_by_more_than_a_day_costs_round_trips_and_not_the_relay() {
    let mut world = world(TurnAuth::Secret("north".into()));
    world.set_clock(0, 25 * 3600 * S, false);
    let good = Credentials::short_lived(
        "north",
        None,
        p2pd_core::WallTime::from_micros(i64::from(i32::MAX) * 1_000_000),
    );
    world.admit(0, &good);
    let id = call(&mut world);
    // Four latencies for the server, and the peer tells its time first.
    world.run_until(340 * MS + 4 * LATENCY, |w| w.is_over(0, id));
    world.relayed(0);
    // A wrong secret is tried twice, and not for ever.
    let mut world = self::world(TurnAuth::Secret("south".into()));
    let id = call(&mut world);
    world.run_until(400 * MS, |w| w.is_over(0, id));
    let why = "turn0.test:3478 over UDP at 198.51.100.90: the TURN server does not take the credentials; "
        .repeat(2);
    assert_eq!(world.failed(0, id).2, &why[..why.len() - 2]);
}

#[test]
fn credentials_that_are_refused_are_renewed_once() {
    let mut world = world(TurnAuth::Renewed(Some(Credentials::new("alice", "yesterday"))));
    let id = call(&mut world);
    world.run(S);
    assert_eq!(wanted(&world), [TURN]);
    give(&mut world, TURN, Some(Login::new("alice", Some("secret"))));
    world.run_until(260 * MS, |w| w.is_over(0, id));
    world.relayed(0);
    // They are used from then on.
    world.close_pipe(0);
    world.hosts[0].relayed.clear();
    let id = call(&mut world);
    world.run_until(260 * MS, |w| w.is_over(0, id));
    assert_eq!(wanted(&world), [TURN]);
    // Those that are no better are said so, without asking again.
    world.admit(0, &Credentials::new("alice", "tomorrow"));
    world.close_pipe(0);
    let id = call(&mut world);
    world.run(S);
    give(&mut world, TURN, Some(Login::new("alice", Some("guess"))));
    world.run_until(200 * MS, |w| w.is_over(0, id));
    let (_, outcome, why) = world.failed(0, id);
    assert!(outcome == Outcome::Failed && why.ends_with("does not take the credentials"), "{why}");
    assert_eq!(wanted(&world), [TURN; 2]);
}

#[test]
fn credentials_are_renewed_before_their_end_and_are_asked_for_where_there_are_none() {
    let end = |seconds: i64| {
        let until = NOON.offset_micros((1 + seconds) * 1_000_000);
        Some(Credentials::new(&format!("{}:x", until.as_micros() / 1_000_000), "p"))
    };
    for (auth, asked) in [(end(5), true), (end(-5), true), (None, true), (end(60), false)] {
        let mut world = world(TurnAuth::Renewed(auth));
        let before = world.turns[0].datagrams;
        call(&mut world);
        world.run(500 * MS);
        assert_eq!((world.turns[0].datagrams == before, wanted(&world) == [TURN]), (asked, true));
    }
    // What ends soon does where there is nothing else.
    let mut world = world(TurnAuth::Renewed(end(5)));
    let old = end(5).unwrap();
    world.admit(0, &old);
    let id = call(&mut world);
    give(&mut world, TURN, None);
    world.run_until(260 * MS, |w| w.is_over(0, id));
    world.relayed(0);
}

#[test]
fn a_user_who_gives_nothing_ends_the_wait_at_once_and_one_who_says_nothing_in_12_s() {
    for said in [true, false] {
        let mut world = world(TurnAuth::Renewed(None));
        let id = call(&mut world);
        if said {
            give(&mut world, TURN, None);
        }
        let took = world.run_until(13 * S, |w| w.is_over(0, id));
        assert_eq!(took.as_secs(), if said { 0 } else { 12 });
        assert_eq!(world.failed(0, id).2, "turn0.test:3478 over UDP: there are no other credentials");
    }
}

#[test]
fn a_brokers_login_is_renewed_where_it_is_refused_and_tried_at_once() {
    let mut world = World::new(1);
    world.add_broker();
    world.brokers[0].greeting = Greeting::Connack(5);
    let broker = ServerRef::Broker(world.brokers[0].config.id);
    world.brokers[0].config.login = Some(Login::new("alice", Some("yesterday")));
    world.brokers[0].config.renews = true;
    world.open(|_| {});
    world.run(200 * MS);
    assert_eq!(wanted(&world), [broker]);
    world.brokers[0].greeting = Greeting::Connack(0);
    give(&mut world, broker, Some(Login::new("alice", Some("today"))));
    world.run(100 * MS);
    let states = world.broker_states(0, 0);
    assert_eq!(states, [BrokerState::Lost(BrokerLoss::Refused(5)), BrokerState::Ready]);
    let passwords: Vec<_> = world.brokers[0].logins.iter().map(|(_, p)| p.as_deref()).collect();
    assert_eq!(passwords, [Some("yesterday"), Some("today")]);
}

/// A user who gives another wrong login each time has the broker asked no more often than one who gives none.
#[test]
fn logins_that_are_no_better_do_not_hurry_a_broker() {
    let mut world = World::new(1);
    world.add_broker();
    world.brokers[0].greeting = Greeting::Connack(4);
    let broker = ServerRef::Broker(world.brokers[0].config.id);
    world.brokers[0].config.renews = true;
    world.open(|_| {});
    for n in 0..600 {
        world.run(100 * MS);
        give(&mut world, broker, Some(Login::new("alice", Some(&n.to_string()))));
    }
    assert!((4..=9).contains(&world.brokers[0].connects.len()), "{}", world.brokers[0].connects.len());
}
