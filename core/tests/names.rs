//! Names over brokers: who has one, who finds it, and what a stranger who publishes under it can cause.

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use common::broker::{Greeting, NO_ANSWER};
use common::view::{direct, only};
use common::{LATENCY, MS, NOON, S, World, key};
use p2pd_core::name::{MAX_RECORD, Record};
use p2pd_core::{ConnectError, FailReason, Name, NameError, NameNews, NamePin, NodeId, PeerAddress};

const HOUR: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_millis(500);

fn name() -> Name {
    "example".parse().unwrap()
}

fn seconds(world: &World) -> u64 {
    let since = world.now.since(p2pd_core::Instant::ZERO).as_secs();
    u64::try_from(NOON.as_micros() / 1_000_000).unwrap() + since
}

/// `brokers` brokers and two hosts, settled.
fn world(brokers: usize) -> World {
    let mut world = World::new(1);
    for _ in 0..brokers {
        world.add_broker();
    }
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    world
}

/// All that a node said of the name.
fn news(world: &World, n: usize) -> Vec<NameNews> {
    world.name_news(n, name())
}

fn last(world: &World, n: usize) -> Option<NameNews> {
    news(world, n).pop()
}

fn register(world: &mut World, n: usize) {
    world.ask(n, |node, now| node.register(now, name())).unwrap();
}

fn resolve(world: &mut World, n: usize) -> Result<PeerAddress, NameError> {
    world.resolve(n, name())
}

fn kept(world: &World, b: usize) -> Record {
    Record::decode(&world.brokers[b].kept[&name().topic()]).unwrap()
}

/// A record by host `n`'s key, as nobody but its owner could make it.
fn record(world: &World, n: usize, sequence: u64) -> Record {
    let address = Some(Box::new(world.address(n)));
    Record { name: name(), id: world.id(n), sequence, expiry: seconds(world) + 3_600, address }
}

fn plant(world: &mut World, b: usize, record: &Record, by: usize) {
    let bytes = record.encode(&key(by));
    world.publish_kept(b, &name().topic(), &bytes);
}

fn pinned(id: NodeId, sequence: u64) -> NameNews {
    NameNews::Pinned { id, sequence }
}

#[test]
fn a_name_leads_to_who_registered_it() {
    let mut world = world(2);
    let began = seconds(&world);
    register(&mut world, 0);
    // SUBSCRIBE and SUBACK, half a second without a record, and the copy of our own.
    let took = world.run_until(2 * S, |w| !news(w, 0).is_empty());
    assert_eq!(took, 2 * LATENCY + GRACE + 2 * LATENCY);
    let id = world.id(0);
    assert_eq!(news(&world, 0), [pinned(id, began), NameNews::Registered { brokers: 2 }]);
    for b in 0..2 {
        let record = kept(&world, b);
        assert_eq!((record.name, record.id, record.sequence), (name(), id, began));
        assert_eq!(record.expiry, began + 86_400);
        assert_eq!(record.address.as_deref(), Some(&world.address(0)));
    }
    // A record that is there comes right behind the SUBACK.
    world.ask(1, |node, now| node.resolve(now, name())).unwrap();
    let took = world.run_until(S, |w| !news(w, 1).is_empty());
    assert_eq!(took, 2 * LATENCY);
    assert_eq!(news(&world, 1), [pinned(id, began), NameNews::Resolved(Box::new(world.address(0)))]);
    world.run(S);
    for b in 0..2 {
        assert_eq!(world.followers(b, &name().topic()), 1, "who has resolved follows no longer");
    }
}

#[test]
fn a_call_by_name_gives_a_pipe() {
    let mut world = world(1);
    register(&mut world, 0);
    world.run(S);
    let call = world.ask(1, |node, now| node.connect_name(now, name(), direct(5))).unwrap();
    world.run(S);
    world.assert_piped(1, call, 0, &[]);
}

#[test]
fn calls_by_name_fail_for_the_reasons_of_names_and_in_their_time() {
    let mut world = world(1);
    let call = world.ask(1, |node, now| node.connect_name(now, name(), direct(5))).unwrap();
    world.run(S);
    let (reason, report) = world.failure(1, call).unwrap();
    assert_eq!((reason, report.elapsed), (FailReason::Name(NameError::NotFound), 2 * LATENCY + GRACE));
    assert!(report.strategies.is_empty());
    let mut quick = direct(5);
    quick.timeout = 100 * MS;
    let call = world.ask(1, |node, now| node.connect_name(now, name(), quick)).unwrap();
    world.run(S);
    let (reason, report) = world.failure(1, call).unwrap();
    assert_eq!((reason, report.elapsed), (FailReason::DeadlinePassed, 100 * MS));
    let given_up = world.ask(1, |node, now| node.connect_name(now, name(), direct(5))).unwrap();
    world.cancel(1, given_up);
    world.run(S);
    assert!(!world.is_over(1, given_up));
    assert_eq!(world.followers(0, &name().topic()), 0);
    let at_the_end = world.ask(1, |node, now| node.connect_name(now, name(), direct(5))).unwrap();
    world.shutdown(1);
    assert_eq!(world.failure(1, at_the_end).unwrap().0, FailReason::Shutdown);
    let none = world.ask(1, |node, now| node.connect_name(now, name(), direct(5)));
    assert_eq!(none, Err(ConnectError::Shutdown));
}

#[test]
fn nobody_to_ask_is_not_the_same_as_nobody_knows() {
    let mut world = world(0);
    assert_eq!(resolve(&mut world, 0), Err(NameError::NoBroker));
    let mut world = self::world(2);
    assert_eq!(resolve(&mut world, 0), Err(NameError::NotFound));
    world.kill_broker(0);
    assert_eq!(resolve(&mut world, 0), Err(NameError::NotFound), "one is left");
    world.kill_broker(1);
    world.run(LATENCY);
    assert_eq!(resolve(&mut world, 0), Err(NameError::NoBroker));
    register(&mut world, 0);
    world.run(20 * S);
    assert_eq!(last(&world, 0), Some(NameNews::Waiting));
    world.brokers[1].up = true;
    world.run(61 * S);
    assert_eq!(last(&world, 0), Some(NameNews::Registered { brokers: 1 }), "it waited for one");
}

/// A cluster's node that dies takes our session with it, and the next one begins at another node.
#[test]
fn a_session_that_breaks_does_not_end_a_search() {
    let mut world = world(1);
    register(&mut world, 0);
    world.run(S);
    world.kill_broker(0);
    world.brokers[0].up = true;
    let began = world.now;
    assert_eq!(resolve(&mut world, 1), Ok(world.address(0)));
    assert!(world.now.since(began) < 2 * S, "{:?}", world.now.since(began));
    world.kill_broker(0);
    let began = world.now;
    assert_eq!(resolve(&mut world, 1), Err(NameError::NoBroker));
    assert_eq!(world.now.since(began), 2500 * MS);
}

/// A cluster that has lost its leader takes streams and gives no session for some seconds.
#[test]
fn a_call_by_name_waits_for_a_broker_that_takes_streams_but_for_none_that_refuses() {
    let mut world = world(1);
    register(&mut world, 0);
    world.run(S);
    let restart = |world: &mut World, greeting| {
        world.kill_broker(0);
        (world.brokers[0].up, world.brokers[0].greeting) = (true, greeting);
    };
    restart(&mut world, Greeting::Silence);
    let call = world.ask(1, |node, now| node.connect_name(now, name(), direct(60))).unwrap();
    world.run(15 * S);
    assert!(!world.is_over(1, call));
    world.brokers[0].greeting = Greeting::Connack(0);
    world.run(40 * S);
    assert!(world.is_over(1, call) && world.failure(1, call).is_none(), "{:?}", world.failure(1, call));
    restart(&mut world, Greeting::Connack(5));
    let call = world.ask(1, |node, now| node.connect_name(now, name(), direct(60))).unwrap();
    // The next try is due after a while: there were failures before.
    world.run(20 * S);
    assert_eq!(world.failure(1, call).unwrap().0, FailReason::Name(NameError::NoBroker));
}

/// A cluster that has lost a node refuses subscriptions for a while, or ends sessions that it has just begun.
#[test]
fn a_broker_that_refuses_a_name_for_a_moment_or_ends_the_session_is_asked_again() {
    for refusals in 1..=3 {
        let mut world = world(1);
        register(&mut world, 0);
        world.run(S);
        world.brokers[0].subacks = vec![128; refusals].into();
        let call = world.ask(1, |node, now| node.connect_name(now, name(), direct(60))).unwrap();
        world.run(4 * S);
        if refusals < 3 {
            world.assert_piped(1, call, 0, &[]);
        } else {
            let (reason, report) = world.failure(1, call).unwrap();
            let took = 2 * S + 6 * LATENCY;
            assert_eq!((reason, report.elapsed), (FailReason::Name(NameError::NoBroker), took));
        }
    }
    let mut world = world(1);
    register(&mut world, 0);
    world.run(S);
    world.brokers[0].subacks = [NO_ANSWER].into();
    let call = world.ask(1, |node, now| node.connect_name(now, name(), direct(60))).unwrap();
    world.run(3 * S);
    world.kill_broker(0);
    world.brokers[0].up = true;
    world.run(2 * S);
    world.assert_piped(1, call, 0, &[]);
}

#[test]
fn a_silent_broker_is_waited_for_eight_seconds_where_the_owner_does_not_answer() {
    let mut world = world(2);
    register(&mut world, 0);
    world.run(S);
    let address = world.address(0);
    world.hosts[0].frozen = true;
    world.brokers[1].greeting = common::broker::Greeting::Silence;
    let late = world.open(|_| {});
    let began = world.now;
    assert_eq!(resolve(&mut world, late), Ok(address));
    assert_eq!(world.now.since(began), 8 * S);
}

#[test]
fn an_unpinned_name_whose_owner_answers_waits_a_second_for_silent_brokers() {
    // The second time the broker was given up before.
    for (wait, expected) in [(Duration::ZERO, S), (10 * S, 2 * LATENCY)] {
        let mut world = world(2);
        register(&mut world, 0);
        world.run(S);
        world.brokers[1].greeting = common::broker::Greeting::Silence;
        let late = world.open(|_| {});
        world.run(wait);
        let began = world.now;
        assert_eq!(resolve(&mut world, late), Ok(world.address(0)));
        assert_eq!(world.now.since(began), expected);
    }
}

#[test]
fn a_record_that_a_broker_kept_does_not_win_over_the_newer_one_of_a_slow_broker() {
    let mut world = world(2);
    register(&mut world, 0);
    world.run(S);
    // The owner answers nobody, and the first broker has an older record than the second, which comes after a second.
    let address = world.address(0);
    world.hosts[0].frozen = true;
    let old = Record {
        address: Some(Box::new(world.address(1))),
        ..record(&world, 0, kept(&world, 0).sequence - 1)
    };
    world.brokers[0].kept.insert(name().topic(), old.encode(&key(0)).to_vec());
    world.brokers[1].subacks = [128].into();
    let late = world.open(|_| {});
    let began = world.now;
    assert_eq!(resolve(&mut world, late), Ok(address));
    let took = world.now.since(began);
    assert!(S < took && took < 2 * S, "{took:?}");
}

#[test]
fn two_claims_that_come_within_a_second_are_nobodys_though_another_broker_is_silent() {
    let mut world = world(3);
    register(&mut world, 0);
    world.run(S);
    let rival = record(&world, 1, kept(&world, 0).sequence);
    plant(&mut world, 1, &rival, 1);
    world.brokers[2].greeting = common::broker::Greeting::Silence;
    let late = world.open(|_| {});
    let found = resolve(&mut world, late);
    assert!(matches!(found, Err(NameError::Contested { .. })), "{found:?}");
}

#[test]
fn a_pinned_name_is_not_kept_waiting_by_a_silent_broker() {
    let mut world = world(2);
    register(&mut world, 0);
    world.run(S);
    world.brokers[1].greeting = common::broker::Greeting::Silence;
    let pin = NamePin { name: name(), id: world.id(0), sequence: kept(&world, 0).sequence };
    for (wait, most) in [(Duration::ZERO, 550), (10 * S, 550)] {
        let late = world.open(|_| {});
        world.ask(late, |node, now| node.pin_name(now, pin));
        world.run(wait);
        let began = world.now;
        assert_eq!(resolve(&mut world, late), Ok(world.address(0)));
        let took = world.now.since(began);
        assert!(took <= most * MS, "{took:?}");
    }
}

#[test]
fn a_name_resolves_wherever_its_owner_is_though_nothing_is_kept() {
    let mut world = world(1);
    world.brokers[0].keeps = false;
    register(&mut world, 0);
    world.run(6 * S);
    assert_eq!(last(&world, 0), Some(NameNews::Registered { brokers: 1 }));
    world.run(S);
    let began = world.now;
    assert_eq!(resolve(&mut world, 1), Ok(world.address(0)));
    let took = world.now.since(began);
    assert_eq!(took, 4 * LATENCY, "there, to the owner, back, and to us");
    // Whoever has only begun asks with the subscription: the look-up takes half a round trip, SYN, CONNECT and SUBSCRIBE
    // one each.
    let fresh = world.open(|_| {});
    let began = world.now;
    assert_eq!(resolve(&mut world, fresh), Ok(world.address(0)));
    assert_eq!(world.now.since(began), (1 + 6 + 4) * LATENCY);
    // The first answer is lost.
    let mut lost = false;
    world.brokers[0].bend = Box::new(move |message| {
        let is_answer = message.payload.len() > 200 && !message.retain;
        let lose = is_answer && !lost;
        lost |= lose;
        if lose { Vec::new() } else { vec![(Duration::ZERO, message.payload.clone())] }
    });
    let late = world.open(|_| {});
    world.run(S);
    assert_eq!(resolve(&mut world, late), Ok(world.address(0)));
}

#[test]
fn who_asks_without_end_is_answered_four_times_a_second() {
    let mut world = world(1);
    register(&mut world, 0);
    world.run(10 * S);
    let before = world.brokers[0].published.len();
    for _ in 0..1000 {
        world.deliver_now(0, &name().topic(), b"?");
        world.run(10 * MS);
    }
    let answers = world.brokers[0].published.len() - before;
    assert!((40..=50).contains(&answers), "{answers}");
}

#[test]
fn a_broker_that_ends_sessions_for_what_it_is_to_keep_is_not_asked_to_keep() {
    let mut world = world(1);
    world.brokers[0].hates_retained = true;
    register(&mut world, 0);
    world.run(60 * S);
    assert_eq!(last(&world, 0), Some(NameNews::Registered { brokers: 1 }));
    assert!(world.brokers[0].kept.is_empty());
    assert_eq!(resolve(&mut world, 1), Ok(world.address(0)));
}

#[test]
fn the_highest_sequence_of_all_brokers_counts() {
    let mut world = world(3);
    for (b, sequence) in [(0, 7), (1, 9), (2, 8)] {
        let mut one = record(&world, 0, sequence);
        let text = world.address(0).to_string().replace(",4000,", &format!(",{},", 5000 + sequence));
        one.address = Some(Box::new(text.parse().unwrap()));
        plant(&mut world, b, &one, 0);
    }
    let found = resolve(&mut world, 1).unwrap();
    assert_eq!(found.interfaces().next().unwrap().port, 5009);
    assert_eq!(news(&world, 1)[0], pinned(world.id(0), 9));
}

#[test]
fn a_record_is_refreshed_each_hour_and_after_a_broker_came_back() {
    let mut world = world(1);
    register(&mut world, 0);
    world.run(S);
    let first = kept(&world, 0);
    world.run(HOUR - S);
    assert_eq!(kept(&world, 0), first);
    world.run(S);
    let second = kept(&world, 0);
    assert_eq!(second.sequence - first.sequence, 3_600);
    assert_eq!(second.expiry - first.expiry, 3_600);
    assert_eq!(second.address, first.address);
    // A broker that forgets what it kept.
    world.kill_broker(0);
    world.brokers[0].kept.clear();
    world.brokers[0].up = true;
    world.run(5 * S);
    assert_eq!(kept(&world, 0), second);
    assert_eq!(news(&world, 0).len(), 2, "pinned and registered, once");
}

#[test]
fn a_name_that_is_given_up_is_free_and_its_old_records_are_worth_nothing() {
    let mut world = world(1);
    register(&mut world, 0);
    world.run(S);
    let old = kept(&world, 0);
    assert!(resolve(&mut world, 1).is_ok());
    world.ask(0, |node, now| node.release(now, name())).unwrap();
    world.run(S);
    assert_eq!(last(&world, 0), Some(NameNews::Released { brokers: 1 }));
    assert_eq!(kept(&world, 0).address, None);
    assert_eq!(resolve(&mut world, 1), Err(NameError::Released));
    // Anybody may have kept the old record. Who has seen the newer one, or finds it elsewhere, does not believe it.
    plant(&mut world, 0, &old, 0);
    assert_eq!(resolve(&mut world, 1), Ok(world.address(0)), "the pin knows the record, not its end");
    let fresh = world.open(|_| {});
    world.run(S);
    let third = world.open(|_| {});
    world.run(S);
    register(&mut world, third);
    world.run(S);
    assert_eq!(last(&world, third), Some(NameNews::NotRegistered(NameError::Taken { by: world.id(0) })));
    let gone = Record { sequence: old.sequence + 1, address: None, ..old };
    plant(&mut world, 0, &gone, 0);
    register(&mut world, third);
    world.run(S);
    assert_eq!(last(&world, third), Some(NameNews::Registered { brokers: 1 }));
    assert_eq!(resolve(&mut world, fresh), Ok(world.address(third)));
    let other = NameError::OtherKey { pinned: world.id(0), found: world.id(third) };
    assert_eq!(resolve(&mut world, 1), Err(other), "who knew it before is told");
}

#[test]
fn only_its_owner_gives_a_name_up_from_another_process_too() {
    let mut world = world(1);
    register(&mut world, 0);
    world.run(S);
    world.ask(1, |node, now| node.release(now, name())).unwrap();
    world.run(S);
    assert_eq!(last(&world, 1), Some(NameNews::NotRegistered(NameError::NotFound)));
    assert!(kept(&world, 0).address.is_some());
    // The same key once more.
    let other = world.open(|config| config.identity = key(0));
    world.run(S);
    world.ask(other, |node, now| node.release(now, name())).unwrap();
    world.run(S);
    assert_eq!(last(&world, other), Some(NameNews::Released { brokers: 1 }));
    assert_eq!(last(&world, 0), Some(NameNews::NotRegistered(NameError::Released)), "the holder gives in");
    world.run(2 * HOUR);
    assert_eq!(kept(&world, 0).address, None);
}

#[test]
fn the_first_key_is_pinned_and_another_is_an_error_that_says_so() {
    let mut world = world(1);
    let two = record(&world, 1, u64::MAX);
    plant(&mut world, 0, &two, 1);
    let asking = world.open(|_| {});
    world.run(S);
    let known = NamePin { name: name(), id: world.id(0), sequence: 5 };
    world.ask(asking, |node, now| node.pin_name(now, known));
    let why = NameError::OtherKey { pinned: world.id(0), found: world.id(1) };
    assert_eq!(resolve(&mut world, asking), Err(why));
    assert!(why.to_string().contains(&world.id(0).to_string()), "{why}");
    assert_eq!(news(&world, asking).len(), 1, "nothing is pinned anew");
    let call = world.ask(asking, |node, now| node.connect_name(now, name(), direct(5))).unwrap();
    world.run(S);
    assert_eq!(world.failure(asking, call).unwrap().0, FailReason::Name(why));
    assert_eq!(world.dialled(asking), [], "the other one is not even dialled");
}

#[test]
fn a_record_older_than_one_seen_before_is_stale() {
    let mut world = world(1);
    let nine = record(&world, 0, 9);
    plant(&mut world, 0, &nine, 0);
    assert!(resolve(&mut world, 1).is_ok());
    let eight = record(&world, 0, 8);
    plant(&mut world, 0, &eight, 0);
    assert_eq!(resolve(&mut world, 1), Err(NameError::Stale { found: 8, known: 9 }));
    // Expired ones are none, and neither are such as would be valid for ever.
    let before = world.stats(1).stale_messages;
    let now = seconds(&world);
    for expiry in [now - 601, now + 7 * 86_400 + 700, u64::MAX] {
        // UNSUBSCRIBE arrives.
        world.run(S);
        let ten = Record { expiry, ..record(&world, 0, 10) };
        plant(&mut world, 0, &ten, 0);
        assert_eq!(resolve(&mut world, 1), Err(NameError::NotFound), "{expiry}");
    }
    assert_eq!(world.stats(1).stale_messages, before + 3);
}

#[test]
fn squatters_hide_no_owner_and_win_nothing() {
    let mut world = world(2);
    register(&mut world, 0);
    world.run(S);
    assert!(resolve(&mut world, 1).is_ok());
    // A third key takes the name on one broker, with the highest number there is.
    let squatter = world.open(|_| {});
    let fresh = world.open(|_| {});
    world.run(S);
    let grab = record(&world, squatter, u64::MAX);
    plant(&mut world, 0, &grab, squatter);
    assert_eq!(resolve(&mut world, 1), Ok(world.address(0)), "the pinned key is on the other broker");
    let contested = resolve(&mut world, fresh).unwrap_err();
    assert!(matches!(contested, NameError::Contested { .. }), "{contested}");
    // The owner hears of it, says so, and takes the place back within a minute.
    assert_eq!(last(&world, 0), Some(NameNews::Contested { by: world.id(squatter) }));
    world.run(60 * S);
    assert_eq!(kept(&world, 0).id, world.id(0));
    assert_eq!(resolve(&mut world, fresh), Ok(world.address(0)));
    // However often: once a minute.
    let published = |w: &World| w.brokers[0].published.iter().filter(|p| p.retain).count();
    let before = published(&world);
    for _ in 0..600 {
        plant(&mut world, 0, &grab, squatter);
        world.run(S);
    }
    assert_eq!(published(&world) - before, 10);
    let told = news(&world, 0).iter().filter(|n| matches!(n, NameNews::Contested { .. })).count();
    assert_eq!(told, 1);
}

#[test]
fn a_name_of_somebody_else_cannot_be_registered() {
    let mut world = world(2);
    register(&mut world, 0);
    world.run(S);
    let of_first = [kept(&world, 0), kept(&world, 1)];
    register(&mut world, 1);
    world.run(S);
    assert_eq!(news(&world, 1), [NameNews::NotRegistered(NameError::Taken { by: world.id(0) })]);
    assert_eq!([kept(&world, 0), kept(&world, 1)], of_first);
    // Who keeps nothing holds nothing.
    let mut world = self::world(1);
    world.brokers[0].bend = Box::new(|_| Vec::new());
    register(&mut world, 0);
    world.run(10 * S);
    assert_eq!(news(&world, 0), [NameNews::NotRegistered(NameError::Refused)]);
}

#[test]
fn forged_foreign_and_oversized_records_are_counted_and_ignored() {
    let mut world = world(1);
    let forged = record(&world, 0, 9).encode(&key(1));
    let mut elsewhere = record(&world, 0, 9);
    elsewhere.name = "other".parse().unwrap();
    let elsewhere = elsewhere.encode(&key(0));
    let cut = record(&world, 0, 9).encode(&key(0)).slice(..100);
    for (what, bytes) in [
        ("forged", &forged[..]),
        ("of another name", &elsewhere),
        ("cut off", &cut),
        ("noise", &[7; 300]),
        ("as long as can be", &[1; MAX_RECORD]),
        ("longer", &[1; MAX_RECORD + 1]),
        ("far longer", &[1; 10_000]),
    ] {
        // UNSUBSCRIBE arrives.
        world.run(S);
        let before = world.stats(1).bad_messages;
        world.publish_kept(0, &name().topic(), bytes);
        assert_eq!(resolve(&mut world, 1), Err(NameError::NotFound), "{what}");
        assert_eq!(world.stats(1).bad_messages, before + 1, "{what}");
    }
    assert_eq!(world.stats(0), only(|_| {}), "who does not ask hears nothing");
}

#[test]
fn garbage_in_floods_costs_a_bounded_part_of_a_core() {
    let mut world = world(1);
    register(&mut world, 0);
    world.run(S);
    for _ in 0..1_000 {
        world.publish_kept(0, &name().topic(), &[1; 300]);
    }
    world.run(S);
    let stats = world.stats(0);
    // 200 at once, and one more each 5 ms; each costs about 50 us.
    assert_eq!((stats.bad_messages, stats.messages_over_limit), (200, 800));
    assert_eq!(news(&world, 0).len(), 2);
}

#[test]
fn only_so_many_names_at_once() {
    let mut world = world(1);
    let n = |i: usize| format!("n{i}").parse::<Name>().unwrap();
    for i in 0..24 {
        world.ask(0, |node, now| node.register(now, n(i))).unwrap();
    }
    assert_eq!(world.ask(0, |node, now| node.resolve(now, n(24))), Err(NameError::TooMany));
    let call = world.ask(0, |node, now| node.connect_name(now, n(24), direct(5)));
    assert_eq!(call, Err(ConnectError::TooMany));
    world.ask(0, |node, now| node.release(now, n(3))).unwrap();
    world.run(10 * S);
    assert!(world.ask(0, |node, now| node.resolve(now, n(24))).is_ok());
}

#[test]
fn an_address_that_changes_is_published() {
    let mut world = world(2);
    world.brokers[0].up = false;
    let late = world.open(|_| {});
    world.run(2 * S);
    register(&mut world, late);
    world.run(2 * S);
    let before = kept(&world, 1);
    assert_eq!(before.address.as_deref(), Some(&world.address(late)));
    // The second broker of the address comes up, and is in it from then on.
    world.brokers[0].up = true;
    world.run(60 * S);
    let after = kept(&world, 1);
    assert_ne!(after.address, before.address);
    assert_eq!(after.address.as_deref(), Some(&world.address(late)));
    assert_eq!(kept(&world, 0), after);
}
