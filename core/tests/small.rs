//! A core with some of its features off: it opens streams as every other, and refuses at once what it has no part for.

mod common;

use common::view::plan;
use common::{S, World, key};
use p2pd_core::trace::replay;
use p2pd_core::turn::Credentials;
use p2pd_core::{Config, ConfigError, Instant, Node, Strategy, TurnServer};

/// Two hosts with a broker and a STUN server. The second has no other way than to be asked, where it is hidden.
fn pair(hidden: bool) -> World {
    let mut world = World::new(9);
    world.add_broker();
    world.add_stun();
    world.tracing = true;
    world.open(|_| {});
    if hidden {
        world.behind_nat(|_| {})
    } else {
        world.open(|_| {})
    };
    world.run(S);
    world
}

fn config() -> Config {
    Config::new(key(7))
}

fn refused(config: Config) -> Option<ConfigError> {
    Node::new(config, [7; 32], Instant::ZERO).err()
}

#[test]
fn streams_are_opened_by_each_strategy_and_by_all_together() {
    for by in [Strategy::Direct, Strategy::Reverse, Strategy::Punch] {
        assert!(by.is_built());
        let mut world = pair(by == Strategy::Reverse);
        let id = world.connect(0, &world.address(1), plan(&[by], 20));
        world.run(2 * S);
        world.assert_piped(0, id, 1, &[]);
        assert_eq!((world.pipe(0).strategy, world.pipe(1).strategy), (by, by));
    }
    let mut world = pair(true);
    let id = world.connect(0, &world.address(1), plan(&Strategy::ALL, 20));
    world.run(2 * S);
    world.assert_piped(0, id, 1, &[]);
    for host in &world.hosts {
        let trace = host.trace.lock().unwrap().clone();
        replay(&trace).unwrap();
    }
}

#[test]
fn what_is_built_is_what_the_features_say() {
    assert_eq!(Strategy::Relay.is_built(), cfg!(feature = "relay"));
    let mut with_turn = config();
    with_turn.turn = vec![TurnServer::new("turn.example", 3478, Credentials::new("alice", "secret"))];
    let mut with_ports = config();
    with_ports.portmap = true;
    let not_built = |feature, on: bool| (!on).then_some(ConfigError::NotBuilt(feature));
    assert_eq!(refused(with_turn), not_built("relay", cfg!(feature = "relay")));
    assert_eq!(refused(with_ports), not_built("portmap", cfg!(feature = "portmap")));
    assert_eq!(refused(config().aes(true)), not_built("ring", cfg!(feature = "ring")));
    assert_eq!(refused(config().aes(false)), None);
    assert_eq!(ConfigError::NotBuilt("relay").to_string(), "this build has no `relay`");
}

#[cfg(not(feature = "relay"))]
mod without_relays {
    use super::*;
    use crate::common::view::relay;
    use crate::common::{NOON, envelope};
    use p2pd_core::relay::{MessageError, ReadOutcome};
    use p2pd_core::strangers::{Letter, Matter};
    use p2pd_core::turn::SendError;
    use p2pd_core::{Allocate, AllocateError, ConnectError, FailReason, Outcome, PipeId};

    /// Behind version, id and time of an envelope's content: the kind of its message.
    const KIND: usize = 43;
    const TURN_RESPONSE: u8 = 6;

    #[test]
    fn calls_do_without_them_and_what_needs_one_is_refused() {
        let mut world = pair(false);
        let to = world.address(1);
        let begun = world.ask(0, |node, now| node.connect(now, &to, relay(20)));
        assert_eq!(begun.unwrap_err(), ConnectError::NoStrategy);
        let allocated = world.ask(0, |node, now| node.allocate(now, &Allocate::default()));
        assert_eq!(allocated, Err(AllocateError::NotBuilt));
        let none = PipeId::from_number(7);
        world.ask(0, |node, now| {
            assert_eq!(node.pipe_write(now, none, b"x"), 0);
            assert_eq!(node.pipe_read(now, none, &mut [0; 4]), ReadOutcome::Empty);
            assert_eq!(
                node.pipe_send_message(now, none, b"x".as_slice().into()),
                Err(MessageError::NotConnected)
            );
            assert_eq!(node.pipe_read_message(now, none), None);
            assert_eq!(
                node.pipe_send_to(now, none, "192.0.2.1:7".parse().unwrap(), b"x"),
                Err(SendError::Closed)
            );
            assert_eq!(node.pipe_recv_from(now, none), None);
            node.pipe_finish(now, none);
            node.pipe_close(now, none);
            assert!(!node.has_leaving_pipes());
        });
        // Nobody listens there, and the plan's relay is named with its reason.
        let gone = to.to_string().replace("203.0.113.2", "203.0.113.77").parse().unwrap();
        let id = world.connect(0, &gone, plan(&[Strategy::Direct, Strategy::Relay], 20));
        world.run(20 * S);
        let (why, report) = world.failure(0, id).unwrap();
        assert_eq!((why, report.advice), (FailReason::AllStrategiesFailed, None));
        let skipped = &report.strategies[1];
        assert_eq!((skipped.strategy, skipped.outcome), (Strategy::Relay, Outcome::Skipped));
        assert_eq!(skipped.detail, "this build has no relays");
    }

    /// A peer that names its relay hears that we cannot come, and that no more is heard of us.
    #[test]
    fn a_peers_request_for_one_is_answered() {
        let mut world = pair(false);
        let (address, reader) = (world.address(0), world.id(1));
        let before = world.published_to(0).len();
        let matter = Matter::Relay(address, "198.51.100.7:5000".parse().unwrap());
        let letter = Letter { id: [5; 16], session: [6; 16], sent: NOON.offset_micros(1_000_000), matter };
        world.publish(0, 1, &letter.seal(&key(0), &reader, [8; 32]));
        world.run(5 * S);
        let told = world.published_to(0);
        let [answer] = &told[before..] else { panic!("{} answers", told.len() - before) };
        let (from, content) = envelope::open(0, &answer.payload).unwrap();
        assert_eq!((from, &content[KIND..]), (reader, &[TURN_RESPONSE][..]));
        assert!(world.hosts.iter().all(|host| host.pipes.is_empty() && host.relayed.is_empty()));
        // And nothing of it is left: the same node is connected to as before.
        let id = world.connect(1, &world.address(0), plan(&Strategy::ALL, 20));
        world.run(2 * S);
        world.assert_piped(1, id, 0, &[]);
    }
}

#[cfg(not(feature = "meetings"))]
#[test]
fn without_meetings_none_begins() {
    use p2pd_core::{MeetingError, ProtocolTag};
    let mut world = pair(false);
    let purpose = ProtocolTag::new(b"test").unwrap();
    for code in [None, Some("7-guitar-oxygen".parse().unwrap())] {
        let begun = world.ask(0, |node, now| node.meet(now, code, purpose, S));
        assert_eq!(begun, Err(MeetingError::NotBuilt));
    }
}

#[cfg(not(feature = "names"))]
mod without_names {
    use super::*;
    use p2pd_core::{ConnectError, NameError, NamePin};

    #[test]
    fn none_is_looked_up_held_or_called() {
        let mut world = pair(false);
        let name: p2pd_core::Name = "example.peer".parse().unwrap();
        let topic = name.topic();
        let id = world.id(1);
        world.ask(0, |node, now| {
            node.pin_name(now, NamePin { name, id, sequence: 1 });
            assert_eq!(node.resolve(now, name), Err(NameError::NotBuilt));
            assert_eq!(node.register(now, name), Err(NameError::NotBuilt));
            assert_eq!(node.release(now, name), Err(NameError::NotBuilt));
            assert_eq!(node.connect_name(now, name, plan(&Strategy::ALL, 5)), Err(ConnectError::NoNames));
        });
        world.deliver_now(0, &topic, b"?");
        world.run(5 * S);
        assert_eq!((world.followers(0, &topic), world.name_news(0, name)), (0, Vec::new()));
    }
}
