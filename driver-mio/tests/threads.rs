//! Test of the number of threads, alone in its file and so in its process.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use p2pd_core::BrokerState;
use p2pd_mio::{Broker, Config, Event, News, Node, Plan, SecretKey, StunServer};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_mio::random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config
}

/// Turns the loop of these nodes until `is` returns something for their news.
fn until<T>(poll: &mut Poll, nodes: &mut [Node], mut is: impl FnMut(&mut Node, News) -> Option<T>) -> T {
    let (mut events, began) = (Events::with_capacity(64), Instant::now());
    loop {
        assert!(began.elapsed() < Duration::from_secs(20), "never");
        let timeout = nodes.iter().filter_map(|n| n.timeout()).min();
        poll.poll(&mut events, timeout).unwrap();
        for event in &events {
            assert!(nodes.iter_mut().any(|node| node.handle(event)), "{event:?}");
        }
        for node in &mut *nodes {
            node.tick();
            while let Some(news) = node.poll() {
                if let Some(found) = is(node, news) {
                    return found;
                }
            }
        }
    }
}

#[test]
fn addresses_need_no_thread_and_names_one_that_ends_or_the_user() {
    let before = threads();
    let mut poll = Poll::new().unwrap();
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    // Two nodes in one loop, servers given as addresses: a pipe, and not one thread.
    let mut with_servers = config();
    with_servers.stun = vec![StunServer { host: "127.0.0.1".into(), port }];
    with_servers.brokers = vec![Broker::new(1, "127.0.0.1", 1)];
    let a = Node::bind(with_servers, poll.registry(), 0..100).unwrap();
    let b = Node::bind(config(), poll.registry(), 100..200).unwrap();
    let to = b.current_address().unwrap().clone();
    let mut nodes = [a, b];
    let call = nodes[0].connect(&to, Plan::default()).unwrap();
    let (mut opened, mut incoming) = (None, None);
    until(&mut poll, &mut nodes, |_, news| {
        match news {
            News::Opened(id, pipe) if id == call => opened = Some(pipe),
            News::Incoming(pipe) => incoming = Some(pipe),
            _ => {}
        }
        (opened.is_some() && incoming.is_some()).then_some(())
    });
    assert_eq!(threads(), before);

    // A name, by the system: the broker that is looked up is found to be down.
    let mut named = config();
    named.brokers = vec![Broker::new(1, "localhost", 1)];
    let node = Node::bind(named.clone(), poll.registry(), 200..300).unwrap();
    let mut nodes = [node];
    until(&mut poll, &mut nodes, |_, news| {
        matches!(news, News::Event(Event::Broker { state: BrokerState::Lost(_), .. })).then_some(())
    });
    while threads() > before {
        std::thread::yield_now();
    }

    // The same by the user.
    let node = Node::builder(named).own_names(true).bind(poll.registry(), 300..400).unwrap();
    let mut asked = 0;
    until(&mut poll, &mut [node], |node, news| match news {
        News::LookUp(query, host) => {
            assert_eq!(&*host, "localhost");
            asked += 1;
            node.resolved(query, &[Ipv4Addr::LOCALHOST.into()]);
            assert_eq!(threads(), before);
            None
        }
        News::Event(Event::Broker { state: BrokerState::Lost(_), .. }) => Some(()),
        _ => None,
    });
    assert_eq!(asked, 1);
}
