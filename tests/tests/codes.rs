//! Codes on every driver with the broker of `p2pd serve`, and as the program's user has them, through NATs.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use p2pd::serve::{Serving, Wanted};
use p2pd_core::{
    Broker, Code, Config, Event, MeetingError, MeetingId, MeetingNews, NodeId, PeerAddress, ProtocolTag,
    SecretKey,
};
use p2pd_tests::drivers::runtime;
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event};

const WITHIN: Duration = Duration::from_secs(20);

fn purpose() -> ProtocolTag {
    ProtocolTag::new(b"test").unwrap()
}

/// Waits for the end of a meeting: the other side's address.
async fn met<R: p2pd_async::Runtime>(
    mut meeting: p2pd_async::Meeting<R>,
) -> Result<PeerAddress, MeetingError> {
    let mut met = Err(MeetingError::Nobody);
    while let Some(news) = meeting.next().await {
        match news {
            MeetingNews::Met(address) => met = Ok(*address),
            MeetingNews::Failed(why) => met = Err(why),
            _ => {}
        }
    }
    met
}

/// The same on a node in a mio loop.
fn met_in_loop(config: Config, code: Code) -> (NodeId, Vec<MeetingNews>) {
    let (mut poll, mut events) = (mio::Poll::new().unwrap(), mio::Events::with_capacity(64));
    let mut node = p2pd_mio::Node::bind(config, poll.registry(), 0..1000).unwrap();
    let id: MeetingId = node.meet(Some(code), purpose(), WITHIN).unwrap();
    let (began, mut told) = (Instant::now(), Vec::new());
    while !matches!(told.last(), Some(MeetingNews::Done | MeetingNews::Failed(_))) {
        assert!(began.elapsed() < PATIENCE, "{told:?}");
        poll.poll(&mut events, node.timeout()).unwrap();
        for event in &events {
            node.handle(event);
        }
        node.tick();
        while let Some(news) = node.poll() {
            if let p2pd_mio::News::Event(Event::Meeting { meeting, news }) = news {
                assert_eq!(meeting, id);
                told.push(*news);
            }
        }
    }
    (node.node_id(), told)
}

#[test]
fn every_driver_meets_by_a_code() {
    let ip = Ipv4Addr::LOCALHOST.into();
    let wanted = Wanted { ip, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn: None };
    let serving = runtime().block_on(Serving::start(&wanted)).unwrap();
    let config = || {
        let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
        config.bind = Some(ip);
        config.brokers = vec![Broker::new(1, "127.0.0.1", serving.mqtt().port())];
        config
    };
    let host = runtime().block_on(p2pd_tokio::Node::bind(config())).unwrap();
    let begin = || {
        runtime().block_on(async {
            let mut meeting = host.meet(None, purpose(), WITHIN).await.unwrap();
            let Some(MeetingNews::Code(code)) = meeting.next().await else { panic!("no code") };
            (code, tokio::spawn(met(meeting)))
        })
    };
    let ours = runtime().block_on(host.address());

    let (code, hosting) = begin();
    let guest = runtime().block_on(p2pd_tokio::Node::bind(config())).unwrap();
    let address =
        runtime().block_on(async { met(guest.meet(Some(code), purpose(), WITHIN).await.unwrap()).await });
    assert_eq!(address.as_ref(), Ok(&ours));
    let theirs = runtime().block_on(hosting).unwrap().unwrap();
    assert_eq!(NodeId::try_from(theirs.node()), Ok(guest.node_id()));

    let (code, hosting) = begin();
    let guest = futures_lite::future::block_on(p2pd_async_std::Node::bind(config())).unwrap();
    let address = futures_lite::future::block_on(async {
        met(guest.meet(Some(code), purpose(), WITHIN).await.unwrap()).await
    });
    assert_eq!(address.as_ref(), Ok(&ours));
    let theirs = runtime().block_on(hosting).unwrap().unwrap();
    assert_eq!(NodeId::try_from(theirs.node()), Ok(guest.node_id()));

    let (code, hosting) = begin();
    let (id, told) = met_in_loop(config(), code);
    assert_eq!(told, [MeetingNews::Met(Box::new(ours)), MeetingNews::Done]);
    let theirs = runtime().block_on(hosting).unwrap().unwrap();
    assert_eq!(NodeId::try_from(theirs.node()), Ok(id));

    // Whoever drops it has given it up, and its place is free.
    runtime().block_on(async {
        for _ in 0..2 * p2pd_core::MAX_MEETINGS {
            drop(host.meet(None, purpose(), WITHIN).await.unwrap());
        }
        host.shutdown().await;
        let over = host.meet(None, purpose(), WITHIN).await.map(|meeting| meeting.id());
        assert_eq!(over, Err(MeetingError::Shutdown));
    });
}

#[test]
fn files_go_by_a_code_through_two_nats() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["pr", "pr"]);
    let dir = tempfile::tempdir().unwrap();
    let (file, into) = (dir.path().join("large.bin"), dir.path().join("in"));
    let content: Vec<u8> = (0..8_u32 << 20).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    fs::write(&file, &content).unwrap();
    let mut sender = world.run(world.lab.host(0), &["send", file.to_str().unwrap()]);
    let code = event(&mut sender, "code")["code"].as_str().unwrap().to_owned();
    let receive = ["receive", &code, "--dir", into.to_str().unwrap()];
    let mut receiver = world.run(world.lab.host(1), &receive);
    let connected = event(&mut sender, "connected");
    let strategy = connected["strategy"].as_str().unwrap();
    assert!(["punch", "udp"].contains(&strategy), "{connected}");
    assert!(receiver.wait(PATIENCE).unwrap().success(), "{:?}", receiver.lines());
    assert!(sender.wait(PATIENCE).unwrap().success(), "{:?}", sender.lines());
    assert!(fs::read(into.join("large.bin")).unwrap() == content);
}

#[test]
fn machines_that_were_paired_find_each_other_through_two_nats() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["pr", "pr"]);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let ((alice, _), (bob, id)) = (world.key(0), world.key(1));
    let (of_alice, of_bob) = (at("alice"), at("bob"));
    let pair = ["pair", "--identity", &alice, "--peers", &of_alice, "--name", "bob"];
    let mut host = world.run(world.lab.host(0), &pair);
    let code = event(&mut host, "code")["code"].as_str().unwrap().to_owned();
    let pair = ["pair", &code, "--identity", &bob, "--peers", &of_bob, "--name", "alice"];
    let mut guest = world.run(world.lab.host(1), &pair);
    assert!(guest.wait(PATIENCE).unwrap().success(), "{:?}", guest.lines());
    assert!(host.wait(PATIENCE).unwrap().success(), "{:?}", host.lines());
    // Each listens on another port than it was paired on.
    let listen = ["listen", "--echo", "--identity", &bob, "--peers", &of_bob, "--accept", "paired"];
    let mut listener = world.run(world.lab.host(1), &listen);
    event(&mut listener, "ready");
    let connect = ["connect", "bob", "--identity", &alice, "--peers", &of_alice];
    let mut caller = world.run(world.lab.host(0), &connect);
    drop(caller.take_stdin());
    let connected = event(&mut caller, "connected");
    assert_eq!(connected["peer"], id.as_str());
    assert!(caller.wait(PATIENCE).unwrap().success(), "{:?}", caller.lines());
}
