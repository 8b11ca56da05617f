//! Features of the library that are off by default: streams, what can be serialized, events of tracing's, server lists.

use futures_lite::StreamExt;
use p2pd_core::nat::{Allocation, Behaviour, Mapping, NatReport, StunAnswer};
use p2pd_core::{
    Advice, BrokerLoss, BrokerState, Config, Event, FailReason, IoFailure, NameNews, Outcome, Report,
    SecretKey, ServerRef, Stage, Strategy, StrategyReport,
};
use p2pd_tests::drivers::runtime;
use serde_json::{Value, json};

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some([127, 0, 0, 1].into());
    config
}

#[test]
fn pipes_and_events_are_streams_that_end_with_the_node() {
    runtime().block_on(async {
        let (a, b) = (
            p2pd_tokio::Node::bind(config()).await.unwrap(),
            p2pd_tokio::Node::bind(config()).await.unwrap(),
        );
        let (mut incoming, events) = (b.incoming(), a.events());
        let to = b.address().await;
        for _ in 0..2 {
            let (ours, theirs) = tokio::join!(a.connect(&to), incoming.next());
            assert_eq!((ours.unwrap().peer(), theirs.unwrap().peer()), (b.node_id(), a.node_id()));
        }
        b.shutdown().await;
        assert!(incoming.next().await.is_none() && incoming.next().await.is_none());
        a.shutdown().await;
        let all: Vec<_> = events.collect().await;
        assert!(matches!(all.last(), Some(Ok(Event::Closed))), "{all:?}");
        assert!(all.iter().any(|event| matches!(event, Ok(Event::Progress { .. }))));
    });
    futures_lite::future::block_on(async {
        use p2pd_async_std::Node;
        let (a, b) = (Node::bind(config()).await.unwrap(), Node::bind(config()).await.unwrap());
        let (mut incoming, events) = (b.incoming(), a.events());
        let to = b.address().await;
        let (ours, theirs) = futures_lite::future::zip(a.connect(&to), incoming.next()).await;
        assert_eq!((ours.unwrap().peer(), theirs.unwrap().peer()), (b.node_id(), a.node_id()));
        futures_lite::future::zip(a.shutdown(), b.shutdown()).await;
        let all: Vec<_> = events.collect().await;
        assert!(matches!(all.last(), Some(Ok(Event::Closed))), "{all:?}");
        assert!(all.iter().any(|event| matches!(event, Ok(Event::Progress { .. }))));
    });
}

#[test]
fn reports_and_events_are_data_without_texts_of_rust() {
    let ip = std::net::IpAddr::from([192, 168, 1, 2]);
    let id = SecretKey::from_bytes([7; 32]).node_id();
    let report = Report {
        elapsed: std::time::Duration::from_millis(1500),
        strategies: [StrategyReport {
            strategy: Strategy::Punch,
            outcome: Outcome::Failed,
            detail: "no answer".into(),
        }]
        .into_iter()
        .collect(),
        advice: Some(Advice::TryLater),
    };
    let strategies = json!([{"strategy": "punch", "outcome": "failed", "detail": "no answer"}]);
    let told = json!({"elapsed": 1.5, "strategies": strategies, "advice": Advice::TryLater.to_string()});
    assert_eq!(json(&report), told);
    let nat = NatReport {
        local: ip,
        behaviour: Behaviour {
            mapping: Some(Mapping::EndpointIndependent),
            filtering: None,
            allocation: Some(Allocation::Random { low: 1024, high: 65535 }),
        },
        mapped: Some("203.0.113.7:4000".parse().unwrap()),
        samples: vec![(1, 2)],
        hypotheses: Vec::new(),
        round_trip: Some(std::time::Duration::from_millis(250)),
        server: None,
        hairpin: Some(false),
        second_address: true,
        same_by_port: None,
        answers: vec![StunAnswer {
            server: "198.51.100.1:3478".parse().unwrap(),
            said: Some(ip),
            plausible: true,
            believed: false,
        }],
    };
    let allocation = json!({"random": {"low": 1024, "high": 65535}});
    let behaviour = json!({
        "mapping": Mapping::EndpointIndependent.to_string(), "filtering": null, "allocation": allocation,
    });
    let answers = json!([
        {"server": "198.51.100.1:3478", "said": "192.168.1.2", "plausible": true, "believed": false},
    ]);
    let told = json!({
        "local": "192.168.1.2", "behaviour": behaviour, "mapped": "203.0.113.7:4000", "samples": [[1, 2]], "hypotheses": [],
        "round_trip": 0.25, "server": null, "hairpin": false, "second_address": true, "same_by_port": null,
        "answers": answers,
    });
    assert_eq!(json(&nat), told);
    let lost = BrokerState::Lost(BrokerLoss::Io(IoFailure::Refused));
    let name = "example".parse().unwrap();
    for (event, told) in [
        (Event::Closed, json!({"event": "closed"})),
        (
            Event::Broker { id: 3, state: BrokerState::Ready },
            json!({"event": "broker", "id": 3, "state": "ready"}),
        ),
        (
            Event::Broker { id: 3, state: lost },
            json!({"event": "broker", "id": 3, "state": {"lost": "connection refused"}}),
        ),
        (
            Event::LoginWanted { server: ServerRef::Turn(1) },
            json!({"event": "login_wanted", "server": {"turn": 1}}),
        ),
        (Event::Ask { peer: id, from: None }, json!({"event": "ask", "peer": id.to_string(), "from": null})),
        (Event::AskOver { peer: id }, json!({"event": "ask_over", "peer": id.to_string()})),
        (
            Event::Name { name, news: Box::new(NameNews::Registered { brokers: 2 }) },
            json!({"event": "name", "name": "example.peer", "news": {"registered": {"brokers": 2}}}),
        ),
        (
            Event::Pong { peer: id, number: 4, broker: 3, took: std::time::Duration::from_millis(125) },
            json!({"event": "pong", "peer": id.to_string(), "number": 4, "broker": 3, "took": 0.125}),
        ),
    ] {
        assert_eq!(json(&event), told);
    }
    let punching = |permille| json(&Stage::Punching { rung: 0, permille });
    assert_eq!(punching(None), json!("punching, try 1"));
    assert_eq!(punching(Some(632)), json!("punching, try 1, at P = 63.2 %"));
    assert_eq!(json(&FailReason::DeadlinePassed), json!("the deadline passed"));
    // Of this machine, whatever it has.
    let cards = json(&p2pd_sys::cards());
    assert!(cards.as_array().unwrap().iter().all(|card| card["link"].is_string()), "{cards}");
    let table = p2pd_tokio::messages::RouteTable::new(&p2pd_sys::cards(), |_| Some([203, 0, 113, 7].into()));
    let rows = json(&table);
    assert!(rows["rows"][0]["ext"]["cidr"].is_u64(), "{rows}");
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

#[test]
fn a_list_is_read_by_the_library_of_each_driver_and_sets_a_node_up() {
    let text = "[[mqtt]]\nid = 3\nhost = \"127.0.0.1\"\n[[stun]]\nhost = \"127.0.0.1\"\n[[turn]]\nhost = \"127.0.0.1\"\n\
                credential_command = [\"false\"]\n[[turn]]\nhost = \"127.0.0.1\"\nuser = \"u\"\npassword = \"p\"\n";
    let servers = p2pd_mio::servers::Servers::parse(text).unwrap();
    let mut config = config();
    servers.apply(&mut config).unwrap();
    assert_eq!((config.brokers[0].id, config.stun.len(), config.turn.len()), (3, 1, 2));
    // A program is the user's to run.
    assert_eq!(config.turn[0].auth, p2pd_core::TurnAuth::Renewed(None));
    let source = servers.source(ServerRef::Turn(0)).unwrap();
    assert!(source.read().is_none() && servers.source(ServerRef::Turn(1)).is_none());
}
