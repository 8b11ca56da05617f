//! Floods of messages against one node, played by hand, of keys that nobody has used before.

use core::time::Duration;
use std::net::IpAddr;

use super::hostile::{Bench, MS, NOON, S, id};
use crate::address::PeerAddress;
use crate::config::Accept;
use crate::identity::NodeId;
use crate::nat::{Allocation, Behaviour, Filtering, Mapping};
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::signal::mappings::Mappings;
use crate::signal::message::{Body, Message, MessageId};
use crate::strategy::agreement::Requester;
use crate::time::{Instant, WallTime};

const CONE: Behaviour = Behaviour {
    mapping: Some(Mapping::EndpointIndependent),
    filtering: Some(Filtering::AddressPortDependent),
    allocation: Some(Allocation::Equal),
};

/// A peer with a key of this number, and an address of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Peer(u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wants {
    Dial,
    Punch,
    Relay,
}
const ALL: [Wants; 3] = [Wants::Dial, Wants::Punch, Wants::Relay];

impl Peer {
    fn id(self) -> NodeId {
        let mut bytes = [9; 32];
        bytes[..4].copy_from_slice(&self.0.to_be_bytes());
        NodeId::from_bytes(bytes).unwrap()
    }

    fn ip(self) -> IpAddr {
        let [_, b, c, d] = self.0.to_be_bytes();
        [5, b, c, d].into()
    }

    fn session(self) -> SessionId {
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&self.0.to_be_bytes());
        SessionId(bytes)
    }

    fn address(self) -> Box<PeerAddress> {
        let (ip, id) = (self.ip(), self.id());
        Box::new(format!("1-[0,{ip},{ip},4000,5,2,0]-0-{id}").parse().unwrap())
    }

    fn wants(self, what: Wants) -> Body {
        let (terms, address) = (Terms::ENCRYPTED, self.address());
        match what {
            Wants::Dial => Body::Direct { terms, address },
            Wants::Punch => Body::Initial(Box::new(Mappings {
                terms,
                rung: 0,
                behaviour: CONE,
                signal_delay: 10 * MS,
                external: self.ip(),
                ports: [5000].into_iter().collect(),
                address,
            })),
            Wants::Relay => {
                let relayed = (self.ip(), 50_000).into();
                Body::TurnRequest { terms, relayed, address }
            }
        }
    }
}

impl Bench {
    /// A message with this number comes over a broker, sealed by `from`.
    fn broker(&mut self, number: u32, from: NodeId, session: SessionId, ahead: Duration, body: Body) {
        let mut unique = [1; 16];
        unique[..4].copy_from_slice(&number.to_be_bytes());
        let now = (self.now.since(Instant::ZERO) + ahead).as_micros() as i64;
        let sent = WallTime::from_micros(NOON + now);
        let message = Message { id: MessageId(unique), sent, lifetime: 600, session, body };
        self.node.advance(self.now);
        self.node.message(from, Box::new(message), 0);
        self.node.follow_up();
        self.pump();
    }

    fn ask(&mut self, peer: Peer, what: Wants) {
        self.broker(peer.0, peer.id(), peer.session(), Duration::ZERO, peer.wants(what));
    }

    /// Returns true while a peer's request is being carried out.
    fn serves(&mut self, peer: Peer) -> bool {
        let key = (peer.session(), Requester::Them);
        self.node.strategies.is_busy(key)
    }
}

/// The scripts b2 and b6: 17 keys with 256 messages each, of which some are from the future, and then many more keys.
fn fill(bench: &mut Bench, bodies: impl Fn(Peer) -> Body) {
    let keys = (0..4352).map(|n| 1000 + n % 17).chain(2000..12_000);
    for (n, key) in keys.enumerate() {
        let (peer, ahead) = (Peer(key), if n % 2 == 0 { 590 * S } else { Duration::ZERO });
        bench.broker(100_000 + n as u32, peer.id(), peer.session(), ahead, bodies(peer));
    }
}

#[test]
fn no_flood_of_messages_makes_a_node_deaf_to_whom_it_accepts() {
    let floods: [fn(Peer) -> Body; 4] = [
        |_| Body::Dialling(0),
        |_| Body::EchoReply([0; 8].into_iter().collect()),
        |peer| peer.wants(Wants::Dial),
        |peer| peer.wants(Wants::Relay),
    ];
    for flood in floods {
        let mut bench = Bench::open(Accept::Only([Peer(1).id()].into()));
        fill(&mut bench, flood);
        assert!(bench.dials.is_empty());
        assert_eq!(bench.node.stats().messages_over_limit, 0);
        bench.ask(Peer(1), Wants::Dial);
        assert_eq!(bench.dials.len(), 1, "heard at once");
        bench.ask(Peer(1), Wants::Dial);
        assert_eq!(bench.node.stats().repeated_messages, 1, "and each message once");
    }
}

#[test]
fn no_flood_of_requests_makes_a_node_deaf_to_whom_it_calls_or_has_approved() {
    for what in ALL {
        let mut bench = Bench::open(Accept::Anyone);
        fill(&mut bench, |peer| peer.wants(what));
        let to = *Peer(1).address();
        let plan = crate::config::Plan::default();
        bench.node.connect(bench.now, &to, plan).unwrap();
        bench.pump();
        bench.node.answer(bench.now, Peer(2).id(), true);
        bench.dials.clear();
        for peer in [Peer(1), Peer(2)] {
            bench.ask(peer, Wants::Dial);
            assert!(bench.serves(peer), "{what:?} {peer:?}");
        }
        bench.ask(Peer(3), what);
        assert!(!bench.serves(Peer(3)), "{what:?}: a stranger waits");
    }
}

#[test]
fn no_flood_of_envelopes_hides_whom_we_named() {
    use crate::identity::SecretKey;
    use crate::signal::seal::seal;
    let friend = SecretKey::from_bytes([2; 32]);
    for named in [true, false] {
        let list = if named { vec![friend.node_id()] } else { Vec::new() };
        let mut bench = match named {
            true => Bench::open(Accept::Only(list.into_iter().collect())),
            false => Bench::open(Accept::Anyone),
        };
        // A thousand a second, and the friend asks amid them.
        for n in 0..1000u32 {
            bench.run(MS);
            bench.deliver(&[n.to_be_bytes().as_slice(), &[9; 300]].concat());
        }
        let now = bench.now.since(Instant::ZERO).as_micros() as i64;
        let address: PeerAddress =
            format!("1-[0,5.0.0.1,5.0.0.1,4000,5,2,0]-0-{}", friend.node_id()).parse().unwrap();
        let message = Message {
            id: MessageId([1; 16]),
            sent: WallTime::from_micros(NOON + now),
            lifetime: 600,
            session: SessionId([1; 16]),
            body: Body::Direct { terms: Terms::ENCRYPTED, address: Box::new(address) },
        };
        let envelope = seal(&friend, &bench.node.node_id(), &message, [1; 32]).unwrap();
        bench.deliver(&envelope);
        assert_eq!(bench.dials.len(), usize::from(named));
        let stats = bench.node.stats();
        // What the rate left, and five each 25 ms since.
        assert_eq!((stats.bad_messages, stats.messages_over_limit), (399, 601 + u64::from(!named)));
    }
}

/// Floods the node with `a_second` fresh keys a second of one kind. Meanwhile honest strangers ask every 300 ms by some
/// kind, each up to four times. Returns the number served of ten, by kind, and the last try that was needed.
fn served(a_second: u32, flood: Wants) -> ([usize; 3], usize) {
    const TRIES: [u32; 4] = [0, 2, 6, 14];
    let mut bench = Bench::open(Accept::Anyone);
    let mut fresh = 1_000_000;
    let mut honest: Vec<(Instant, Peer, Wants, usize)> = Vec::new();
    let began = bench.now + 10 * S;
    for n in 0..30 {
        honest.push((began + n * 300 * MS + 7 * MS, Peer(1 + n), ALL[n as usize % 3], 0));
    }
    let mut kept = [0; 3];
    let mut last = 0;
    while !honest.is_empty() {
        bench.run(S / a_second);
        fresh += 1;
        bench.ask(Peer(fresh), flood);
        let mut waiting = Vec::new();
        for (at, peer, what, tries) in honest {
            if at > bench.now {
                waiting.push((at, peer, what, tries));
                continue;
            }
            bench.ask(peer, what);
            if bench.serves(peer) {
                kept[what as usize] += 1;
                last = last.max(tries + 1);
            } else if tries + 1 < TRIES.len() {
                let pause = (TRIES[tries + 1] - TRIES[tries]) * S;
                waiting.push((bench.now + pause, peer, what, tries + 1));
            }
        }
        honest = waiting;
    }
    (kept, last)
}

#[test]
fn a_flood_of_ten_requests_a_second_hinders_no_honest_stranger() {
    for flood in ALL {
        assert_eq!(served(10, flood), ([10; 3], 1), "{flood:?}");
    }
}

#[test]
fn a_flood_of_a_hundred_requests_a_second_hinders_those_of_its_kind_only() {
    for flood in ALL {
        let (served, _) = served(100, flood);
        for what in ALL {
            let least = if what == flood { 5 } else { 10 };
            assert!(served[what as usize] >= least, "{flood:?}: {served:?}");
        }
    }
}

#[test]
fn whom_a_flood_lets_in_has_three_seconds_to_answer() {
    for what in ALL {
        let mut bench = Bench::open(Accept::Anyone);
        let mut fresh = 1_000_000;
        let mut began = bench.now;
        loop {
            bench.run(10 * MS);
            fresh += 1;
            bench.ask(Peer(fresh), what);
            if !bench.serves(Peer(1)) {
                if bench.now.since(Instant::ZERO) > 30 * S {
                    break;
                }
                bench.ask(Peer(1), what);
                began = bench.now;
            } else if bench.now.since(began) > 3 * S {
                break;
            }
        }
        assert!(bench.serves(Peer(1)), "{what:?}");
    }
}

#[test]
fn a_strangers_relay_from_which_nothing_comes_ends_after_five_seconds_and_a_known_peers_after_thirty() {
    let mut bench = Bench::open(Accept::Only([id(2), Peer(1).id()].into()));
    bench.ask(Peer(1), Wants::Relay);
    bench.run(29 * S);
    assert!(bench.serves(Peer(1)));
    bench.run(2 * S);
    assert!(!bench.serves(Peer(1)));
    let mut bench = Bench::open(Accept::Anyone);
    bench.ask(Peer(1), Wants::Relay);
    bench.run(4900 * MS);
    assert!(bench.serves(Peer(1)));
    bench.run(200 * MS);
    assert!(!bench.serves(Peer(1)));
}
