//! Tests of one node against peers and servers played by hand: effects of peers' mappings and of STUN servers on it.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quickcheck::{TestResult, quickcheck};

use super::Node;
use super::strategy::punch::Stages as PunchStage;
use crate::address::PeerAddress;
use crate::config::{Accept, Config, StunServer, TurnAuth, TurnServer};
use crate::failure::IoFailure;
use crate::identity::{NodeId, SecretKey};
use crate::io::{Input, Interface, Output, SockId};
use crate::nat::{Allocation, Behaviour, Filtering, Mapping, NatReport, Verdict};
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::signal::mappings::{Mappings, UdpMappings};
use crate::signal::message::{Body, Message, MessageId};
use crate::signal::seal;
use crate::strategy::agreement::{Key, Requester};
use crate::time::{ClockFix, Instant, WallTime};
use crate::wire::Transport;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const S: Duration = Duration::from_secs(1);
/// A SYN of Linux on Ethernet.
const SYN_BYTES: usize = 74;
pub(super) const NOON: i64 = 1_700_000_000_000_000;
/// Address that peer 2 claims.
pub(super) const AT: &str = "198.51.100.7";
/// Address of the TURN server.
pub(super) const TURN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 90)), 3478);

/// Answer of a server over TCP: delay and bytes, or `None` for a close without an answer. The parameters are our local
/// address, the server's address and the request.
type Answers = Box<dyn FnMut(SocketAddr, SocketAddr, &[u8]) -> Option<(Duration, Vec<u8>)>>;

pub(super) struct Bench {
    pub(super) node: Node,
    pub(super) now: Instant,
    servers: Vec<SocketAddr>,
    answers: Answers,
    /// Connections to servers: our local address, and the server's.
    asking: BTreeMap<SockId, (SocketAddr, SocketAddr)>,
    later: Vec<(Instant, SockId, Option<Vec<u8>>)>,
    /// Open dials to peers: deadline and target.
    open: BTreeMap<SockId, (Instant, SocketAddr)>,
    /// Dials to peers so far: time and target.
    pub(super) dials: Vec<(Instant, SocketAddr)>,
    /// SYNs of the dials if nobody answers: Linux since 6.5 retransmits them after 1, 2, 3, 4, 6 and 10 s.
    syns: usize,
    /// Datagrams to others than servers: target and length in bytes.
    datagrams: Vec<(SocketAddr, usize)>,
    /// Datagrams to [`TURN`], and all that sockets of proofs send, with the socket.
    pub(super) to_turn: VecDeque<(SockId, SocketAddr, Bytes)>,
    /// Largest number of dials open at once.
    most_open: usize,
    /// Sockets of any kind.
    held: BTreeSet<SockId>,
    messages: u16,
}

pub(super) fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

pub(super) fn id(n: u8) -> NodeId {
    key(n).node_id()
}

fn answer(question: &[u8], seen: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = seen.ip() else { panic!("IPv4 only") };
    let mut out = vec![0x01, 0x01, 0, 12];
    out.extend_from_slice(&question[4..20]);
    out.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    out.extend_from_slice(&(seen.port() ^ 0x2112).to_be_bytes());
    out.extend_from_slice(&(u32::from(ip) ^ 0x2112_a442).to_be_bytes());
    out
}

/// Addresses of so many STUN servers.
fn stuns(count: u8) -> Vec<SocketAddr> {
    (0..count).map(|n| ([192, 0, 2, n], 3478).into()).collect()
}

impl Bench {
    /// A node with an open address, that two STUN servers agree about.
    pub(super) fn open(accept: Accept) -> Bench {
        Bench::new(accept, 2, Box::new(|local, _, q| Some((20 * MS, answer(q, local)))))
    }

    /// The same with a TURN server, of which the test takes the requests out.
    pub(super) fn with_turn(accept: Accept) -> Bench {
        let mut config = Config::new(key(1));
        config.turn = vec![TurnServer {
            transport: Some(Transport::Udp),
            ..TurnServer::new(&TURN.ip().to_string(), TURN.port(), TurnAuth::Nobody)
        }];
        config.accept = accept;
        Bench::of(config, stuns(2), Box::new(|local, _, q| Some((20 * MS, answer(q, local)))))
    }

    fn new(accept: Accept, servers: u8, answers: Answers) -> Bench {
        Bench::asking(accept, stuns(servers), answers)
    }

    fn asking(accept: Accept, servers: Vec<SocketAddr>, answers: Answers) -> Bench {
        let mut config = Config::new(key(1));
        config.accept = accept;
        Bench::of(config, servers, answers)
    }

    fn of(mut config: Config, servers: Vec<SocketAddr>, answers: Answers) -> Bench {
        config.stun =
            servers.iter().map(|s| StunServer { host: s.ip().to_string().into(), port: s.port() }).collect();
        let node = Node::new(config, [1; 32], Instant::ZERO).unwrap();
        let mut bench = Bench {
            node,
            now: Instant::ZERO,
            servers,
            answers,
            asking: BTreeMap::new(),
            later: Vec::new(),
            open: BTreeMap::new(),
            dials: Vec::new(),
            syns: 0,
            datagrams: Vec::new(),
            to_turn: VecDeque::new(),
            most_open: 0,
            held: BTreeSet::new(),
            messages: 0,
        };
        let fix = ClockFix { at: Instant::ZERO, wall: WallTime::from_micros(NOON), error: S };
        bench.tell(Input::Clock(fix));
        let ip = [203, 0, 113, 1].into();
        bench.tell(Input::Interfaces(&[Interface { default_route: true, ..Interface::new(2, ip, 32) }]));
        bench.run(6 * S);
        bench
    }

    pub(super) fn tell(&mut self, input: Input<'_>) {
        self.node.handle(self.now, input);
        self.pump();
    }

    pub(super) fn pump(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Listen { sock, .. } => {
                    self.held.insert(sock);
                    self.tell(Input::Bound { sock, local: ([203, 0, 113, 1], 4000).into() });
                }
                Output::BindUdp { sock, .. } => {
                    self.held.insert(sock);
                    self.tell(Input::Bound { sock, local: ([203, 0, 113, 1], 4001).into() });
                }
                Output::Resolve { query, host, .. } => {
                    let ip: IpAddr = host.parse().unwrap();
                    self.tell(Input::Resolved { query, result: Ok([ip].into_iter().collect()) });
                }
                Output::Connect { sock, local, remote, at, deadline, .. } => {
                    self.held.insert(sock);
                    if self.servers.contains(&remote) {
                        self.asking.insert(sock, (local, remote));
                        self.tell(Input::Connected { sock, local, remote });
                        continue;
                    }
                    self.dials.push((at, remote));
                    // As Linux retransmits them since 6.5.
                    self.syns +=
                        [0, 1, 2, 3, 4, 6, 10].into_iter().filter(|s| at + *s * S < deadline).count();
                    self.open.insert(sock, (deadline, remote));
                    self.most_open = self.most_open.max(self.open.len());
                }
                Output::SendDatagram { sock, to, data } if to.ip() == TURN.ip() => {
                    self.to_turn.push_back((sock, to, data));
                }
                Output::SendDatagram { to, data, .. } if !self.servers.contains(&to) => {
                    self.datagrams.push((to, data.len()));
                }
                Output::SendStream { sock, data } => {
                    let Some((local, server)) = self.asking.get(&sock).copied() else { continue };
                    match (self.answers)(local, server, &data) {
                        Some((after, bytes)) => self.later.push((self.now + after, sock, Some(bytes))),
                        None => self.later.push((self.now + 20 * MS, sock, None)),
                    }
                }
                Output::Close { sock, .. } => {
                    self.held.remove(&sock);
                    self.open.remove(&sock);
                    self.asking.remove(&sock);
                }
                _ => {}
            }
        }
    }

    pub(super) fn run(&mut self, span: Duration) {
        let until = self.now + span;
        for _ in 0..200_000 {
            let timer = self.node.poll_timeout();
            let late = self.later.iter().map(|l| l.0).min();
            let dial = self.open.values().map(|o| o.0).min();
            let Some(next) = timer.into_iter().chain(late).chain(dial).min().filter(|n| *n <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            if let Some(n) = self.later.iter().position(|l| l.0 <= self.now) {
                let (_, sock, bytes) = self.later.remove(n);
                match bytes {
                    _ if !self.held.contains(&sock) => {}
                    Some(data) => self.tell(Input::Stream { sock, data: &data }),
                    None => self.tell(Input::Eof { sock }),
                }
            } else if let Some(sock) = self.open.iter().find(|(_, o)| o.0 <= self.now).map(|(s, _)| *s) {
                self.open.remove(&sock);
                self.held.remove(&sock);
                self.tell(Input::Failed { sock, cause: IoFailure::TimedOut });
            } else {
                self.tell(Input::Timeout);
            }
        }
        panic!("livelock");
    }

    /// Ends one of the open dials with this failure.
    fn fail_one(&mut self, cause: IoFailure) {
        if let Some((sock, _)) = self.open.pop_first() {
            self.held.remove(&sock);
            self.tell(Input::Failed { sock, cause });
        }
    }

    fn refuse_one(&mut self) {
        self.fail_one(IoFailure::Refused);
    }

    fn message(&mut self, session: u8, body: Body) -> Message {
        self.messages += 1;
        let mut unique = [0; 16];
        unique[..2].copy_from_slice(&self.messages.to_be_bytes());
        let now = self.now.since(Instant::ZERO).as_micros() as i64;
        Message {
            id: MessageId(unique),
            sent: WallTime::from_micros(NOON + now),
            lifetime: 600,
            session: SessionId([session; 16]),
            body,
        }
    }

    /// An authentic message of peer `from`.
    pub(super) fn say(&mut self, from: u8, session: u8, body: Body) {
        let message = self.message(session, body);
        self.hear(from, message);
    }

    fn hear(&mut self, from: u8, message: Message) {
        self.node.advance(self.now);
        self.node.authentic_message(id(from), message, None);
        self.pump();
    }

    /// Bytes as a broker would deliver them.
    pub(super) fn deliver(&mut self, bytes: &[u8]) {
        self.node.advance(self.now);
        self.node.payload(0, bytes);
        self.pump();
    }

    pub(super) fn initial(&mut self, from: u8, session: u8, mappings: Mappings) {
        self.say(from, session, Body::Initial(Box::new(mappings)));
    }

    /// Begins a punch of our own with peer 2, up to where its answer is waited for.
    pub(super) fn call(&mut self, session: u8, rung: u8) -> Key {
        self.node.advance(self.now);
        let key = (SessionId([session; 16]), Requester::Us);
        self.node.admission.call_began(id(2));
        self.node.sessions.open(key, id(2), Terms::ENCRYPTED);
        let address = address(2, AT, AT);
        let begun =
            self.node.with_calls(|_, all, ctx| all.punch.begin_alone(ctx, (key, id(2)), &address, rung));
        assert!(begun);
        self.pump();
        key
    }

    fn stage(&self, key: Key) -> Option<PunchStage> {
        self.node.strategies.punch.stage(key)
    }

    pub(super) fn to(&self) -> Vec<SocketAddr> {
        self.dials.iter().map(|(_, to)| *to).collect()
    }

    fn report(&self) -> NatReport {
        self.node.nats().next().unwrap().clone()
    }

    /// Asserts that nothing of any punch is left.
    fn assert_clean(&self) {
        assert!(self.node.strategies.punch.is_empty());
        assert!(self.open.is_empty(), "{:?}", self.open);
    }

    /// Asserts that nothing of any punch is left, and no session is open.
    fn assert_over(&self) {
        self.assert_clean();
        assert_eq!(self.node.sessions.open_sessions(), 0);
    }
}

fn address(n: u8, outside: &str, inside: &str) -> PeerAddress {
    format!("1-[0,{outside},{inside},4000,5,2,0]-0-{}", id(n)).parse().unwrap()
}

const CONE: Behaviour = Behaviour {
    mapping: Some(Mapping::EndpointIndependent),
    filtering: Some(Filtering::AddressPortDependent),
    allocation: Some(Allocation::Equal),
};
pub(super) const RANDOM: Behaviour = Behaviour {
    mapping: Some(Mapping::AddressPortDependent),
    allocation: Some(Allocation::Random { low: 1024, high: u16::MAX }),
    ..CONE
};

pub(super) fn mappings(from: u8, outside: &str, ports: &[u16]) -> Mappings {
    Mappings {
        terms: Terms::ENCRYPTED,
        rung: 0,
        behaviour: CONE,
        signal_delay: 10 * MS,
        external: outside.parse().unwrap(),
        ports: ports.iter().copied().collect(),
        address: Box::new(address(from, outside, outside)),
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(AT.parse().unwrap(), port)
}

#[test]
fn a_peer_that_asks_is_dialled_when_our_answer_has_arrived() {
    let mut bench = Bench::open(Accept::Anyone);
    let began = bench.now;
    bench.initial(2, 1, mappings(2, AT, &[5000]));
    bench.run(S);
    // And a quarter more.
    assert_eq!(bench.dials, [(began + 10 * MS * 5 / 4, at(5000))]);
    bench.run(60 * S);
    bench.assert_over();
}

#[test]
fn an_absurd_delay_is_cut_to_two_seconds() {
    let mut bench = Bench::open(Accept::Anyone);
    let began = bench.now;
    let delay = Duration::from_micros(u32::MAX.into());
    bench.initial(2, 1, Mappings { signal_delay: delay, ..mappings(2, AT, &[5000]) });
    bench.run(3 * S);
    assert_eq!(bench.dials, [(began + 2 * S * 5 / 4, at(5000))]);
    let key = bench.call(9, 3);
    let before = bench.now;
    let swapped = Mappings { rung: 3, signal_delay: delay, ..mappings(2, AT, &[6000]) };
    bench.say(2, 9, Body::Updated(Box::new(swapped)));
    bench.run(3 * S);
    assert_eq!(bench.stage(key), Some(PunchStage::Punching));
    assert_eq!(bench.dials[1], (before + 2 * S, at(6000)));
}

#[test]
fn forged_replayed_stale_and_cut_mappings_are_inert_and_counted() {
    let mut bench = Bench::open(Accept::Anyone);
    let message = bench.message(1, Body::Initial(Box::new(mappings(2, AT, &[5000]))));
    let sealed = seal::seal(&key(2), &id(1), &message, [7; 32]).unwrap();
    for cut in 0..sealed.len() {
        bench.deliver(&sealed[..cut]);
        bench.run(50 * MS);
    }
    let for_another = seal::seal(&key(2), &id(3), &message, [7; 32]).unwrap();
    bench.deliver(&for_another);
    let cut_and_one = sealed.len() as u64 + 1;
    assert_eq!(bench.node.stats().bad_messages, cut_and_one);
    // Sealed by 3, and naming 2's address.
    let stolen = seal::seal(&key(3), &id(1), &message, [7; 32]).unwrap();
    bench.deliver(&stolen);
    assert_eq!(bench.node.stats().bad_messages, cut_and_one + 1);
    let encoded = message.encode();
    for cut in 0..encoded.len() {
        // What cuts the node id is no message, or another node's address.
        if let Ok(message) = Message::decode(&encoded[..cut]) {
            bench.hear(2, message);
        }
    }
    for hour in [-1, 1] {
        let sent = message.sent.offset_micros(hour * 3_600_000_000);
        let off = Message { sent, id: MessageId([200; 16]), ..message.clone() };
        bench.deliver(&seal::seal(&key(2), &id(1), &off, [8; 32]).unwrap());
    }
    assert_eq!(bench.node.stats().stale_messages, 2);
    bench.run(5 * S);
    assert!(bench.dials.is_empty(), "{:?}", bench.dials);
    bench.deliver(&sealed);
    bench.run(100 * MS);
    assert_eq!(bench.to(), [at(5000)]);
    bench.deliver(&sealed);
    bench.run(60 * S);
    assert_eq!(bench.node.stats().repeated_messages, 1);
    let first = bench.dials.len();
    bench.deliver(&sealed);
    bench.run(60 * S);
    assert_eq!(bench.dials.len(), first, "a replay does nothing, early or late");
    bench.assert_over();
}

#[test]
fn no_stranger_has_us_dial_loopback_private_space_or_a_third_party() {
    let mut bench = Bench::open(Accept::Anyone);
    for (n, place) in
        ["127.0.0.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"].into_iter().enumerate()
    {
        bench.initial(10 + n as u8, 1 + n as u8, mappings(10 + n as u8, place, &[80]));
        bench.run(S);
    }
    assert!(bench.dials.is_empty(), "{:?}", bench.dials);
    // Another node's address; and one's own with an inside address to be dialled.
    bench.initial(3, 20, mappings(2, AT, &[5000]));
    assert_eq!(bench.node.stats().bad_messages, 1);
    let inside = Mappings {
        external: "10.0.0.9".parse().unwrap(),
        address: Box::new(address(4, "198.51.100.8", "10.0.0.9")),
        ..mappings(4, AT, &[5000])
    };
    bench.initial(4, 21, inside);
    bench.run(30 * S);
    assert!(bench.dials.is_empty(), "{:?}", bench.dials);
    bench.assert_over();
}

/// Outside address of our NAT, which keeps ports.
const SHARED: &str = "203.0.113.77";

fn behind_nat(accept: Accept) -> Bench {
    let seen = |local: SocketAddr| SocketAddr::new(SHARED.parse().unwrap(), local.port());
    let bench = Bench::new(accept, 2, Box::new(move |local, _, q| Some((20 * MS, answer(q, seen(local))))));
    assert_eq!(bench.node.network.routes()[0].external.to_string(), SHARED);
    bench
}

#[test]
fn nobody_has_us_dial_our_own_machine_by_claiming_to_share_our_router() {
    for known in [false, true] {
        let mut bench = behind_nat(if known { Accept::Only([id(2)].into()) } else { Accept::Anyone });
        let inside = |inside| Mappings {
            address: Box::new(address(2, SHARED, inside)),
            ..mappings(2, SHARED, &[5000])
        };
        bench.initial(2, 1, inside("127.0.0.1"));
        bench.run(20 * S);
        assert!(bench.dials.is_empty(), "{:?}", bench.dials);
        bench.initial(2, 2, inside("192.168.0.9"));
        bench.run(S);
        let neighbour = [SocketAddr::from(([192, 168, 0, 9], 4000))];
        assert_eq!(bench.to(), if known { &neighbour[..] } else { &[] });
    }
}

#[test]
fn a_peer_that_we_called_has_us_dial_our_own_machine_no_more_than_others() {
    for (outside, inside) in [("127.0.0.1", "127.0.0.1"), (SHARED, "127.0.0.1"), (AT, "127.0.0.1")] {
        for external in [outside, inside] {
            let mut bench = behind_nat(Accept::Anyone);
            let key = bench.call(1, 0);
            let answer = Mappings {
                external: external.parse().unwrap(),
                address: Box::new(address(2, outside, inside)),
                ..mappings(2, AT, &[5000])
            };
            bench.say(2, 1, Body::Updated(Box::new(answer)));
            bench.run(S);
            assert!(bench.to().iter().all(|to| *to == at(5000)), "{:?}", bench.dials);
            if external != AT {
                assert_eq!(bench.stage(key), Some(PunchStage::Announced));
                assert_eq!(bench.node.stats().bad_messages, 1);
            }
        }
    }
}

#[test]
fn a_stranger_has_us_dial_four_times_over_any_number_of_rungs() {
    let mut bench = Bench::open(Accept::Anyone);
    for rung in 0..=255 {
        bench.initial(2, 1, Mappings { rung, ..mappings(2, AT, &[5000, 5001, 5002, 5003, 5004, 5005]) });
        bench.run(300 * MS);
        if rung % 3 == 0 {
            bench.refuse_one();
        }
    }
    for rung in (0..255).rev() {
        bench.initial(2, 1, Mappings { rung, ..mappings(2, AT, &[5000]) });
    }
    assert_eq!(bench.dials.len(), 4, "{:?}", bench.dials);
    bench.run(60 * S);
    assert_eq!(bench.dials.len(), 4, "{:?}", bench.dials);
    bench.assert_over();
}

#[test]
fn one_message_of_a_stranger_makes_one_dial_of_three_syns_whatever_rung_it_claims() {
    let mut bench = Bench::open(Accept::Anyone);
    let many = [5000, 5001, 5002, 5003, 5004, 5005];
    let message = bench.message(1, Body::Initial(Box::new(Mappings { rung: 200, ..mappings(2, AT, &many) })));
    let bytes = seal::seal(&key(2), &id(1), &message, [7; 32]).unwrap().len();
    bench.hear(2, message);
    bench.run(60 * S);
    assert_eq!((bench.dials.len(), bench.syns), (1, 3));
    assert!(bench.syns * SYN_BYTES <= 3 * bytes, "{bytes}");
    bench.assert_over();
}

#[test]
fn one_message_of_a_stranger_makes_four_syns_where_it_has_itself_dialled() {
    let mut bench = Bench::open(Accept::Anyone);
    let both =
        format!("1-[0,{AT},{AT},4000,1,1,0]|[1,{AT},{AT},4001,1,1,0]|[2,{AT},{AT},4002,1,1,0]-0-{}", id(2));
    let address = Box::new(both.parse().unwrap());
    let message = bench.message(1, Body::Direct { terms: Terms::ENCRYPTED, address });
    let bytes = seal::seal(&key(2), &id(1), &message, [7; 32]).unwrap().len();
    bench.hear(2, message);
    bench.run(60 * S);
    assert_eq!((bench.to(), bench.syns), (vec![at(4000), at(4001)], 4));
    assert!(bench.syns * SYN_BYTES <= 3 * bytes, "{bytes}");
    bench.assert_over();
}

#[test]
fn one_message_of_a_stranger_makes_three_datagrams_to_what_it_calls_its_relay() {
    let mut bench = Bench::open(Accept::Anyone);
    let address = Box::new(address(2, AT, AT));
    let (terms, relayed) = (Terms::ENCRYPTED, at(9999));
    let message = bench.message(1, Body::TurnRequest { terms, relayed, address });
    let bytes = seal::seal(&key(2), &id(1), &message, [7; 32]).unwrap().len();
    let before = bench.datagrams.len();
    bench.hear(2, message);
    bench.run(60 * S);
    let sent = &bench.datagrams[before..];
    assert_eq!(sent, [(relayed, 17); 3]);
    let sent: usize = sent.iter().map(|(_, bytes)| bytes + 28).sum();
    assert!(sent <= 3 * bytes && sent < bytes, "{sent} for {bytes}");
    bench.assert_over();
}

/// Rungs claim whatever makes us dial most: random ports to be probed, and others each time.
#[test]
fn a_peer_that_is_known_has_us_dial_a_silent_third_party_32_times() {
    let mut bench = Bench::open(Accept::Only([id(2)].into()));
    let rung = |rung: u8| match rung % 2 {
        0 => Mappings { rung, behaviour: RANDOM, ..mappings(2, AT, &[]) },
        _ => {
            let ports: Vec<u16> = (0..16).map(|n| 1000 + u16::from(rung) * 16 + n).collect();
            Mappings { rung, ..mappings(2, AT, &ports) }
        }
    };
    for n in 0..40 {
        bench.initial(2, 1, rung(n));
        bench.run(500 * MS);
    }
    // And one more each 3.75 s, of 20.
    assert_eq!(bench.dials.len(), 32 + 5);
    // Another call of the peer's has as many, less what it has used.
    let began = bench.now;
    for session in 2..8 {
        bench.initial(2, session, rung(0));
        bench.run(S);
    }
    bench.run(60 * S);
    let later = bench.dials.iter().filter(|(when, _)| *when >= began).count();
    assert!(later <= 18, "{later}");
}

#[test]
fn a_search_goes_on_where_something_has_come_back() {
    for cause in [IoFailure::Refused, IoFailure::Reset, IoFailure::Unreachable] {
        let mut bench = Bench::open(Accept::Only([id(2)].into()));
        bench.initial(2, 1, Mappings { behaviour: RANDOM, ..mappings(2, AT, &[]) });
        bench.run(S);
        assert_eq!(bench.dials.len(), 32, "{cause:?}");
        bench.fail_one(cause);
        bench.run(4 * S);
        assert!(bench.dials.len() >= 1024, "{cause:?} {}", bench.dials.len());
    }
}

#[test]
fn dials_that_were_answered_leave_the_next_calls_theirs() {
    let mut bench = Bench::open(Accept::Only([id(2)].into()));
    for session in 1..=60 {
        bench.initial(2, session, mappings(2, AT, &[5000]));
        bench.run(S);
        assert_eq!(bench.dials.len(), usize::from(session));
        bench.fail_one(IoFailure::Unreachable);
        let key = (SessionId([session; 16]), Requester::Them);
        bench.node.with_calls(|_, all, ctx| all.punch.forget_punch(ctx, key));
        bench.pump();
        bench.dials.truncate(usize::from(session));
        bench.run(S);
    }
}

/// Checks addresses that a stranger may name without one packet of ours to anybody. None is the stranger's own address.
#[test]
fn nothing_inside_is_dialled_punched_or_sent_to_for_a_stranger_and_it_is_told_why() {
    let mut bench = Bench::open(Accept::Anyone);
    let interface = |ip: &str, prefix, default_route| Interface {
        default_route,
        ..Interface::new(2, ip.parse().unwrap(), prefix)
    };
    bench.tell(Input::Interfaces(&[
        interface("203.0.113.1", 32, true),
        interface("2001:db8:77::1", 64, true),
        interface("10.77.0.1", 24, false),
        interface("172.17.0.1", 16, false),
        interface("fe80::1", 64, false),
    ]));
    bench.run(6 * S);
    bench.datagrams.clear();
    bench.dials.clear();
    let v4 = [
        "10.77.0.9",
        "10.77.0.1",
        "172.17.0.2",
        "203.0.113.1",
        "169.254.169.254",
        "100.64.1.1",
        "192.168.7.7",
    ];
    let v6 = [
        "64:ff9b::a00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "2001:db8:77::9",
        "2001:db8:77::1",
        "fd00:ec2::254",
        "fe80::9",
        "2002:a00:1::1",
        "2001:0:a00:1::1",
        "2001:db8:1::5efe:10.0.0.1",
    ];
    let lists = v4.iter().map(|ip| format!("1-[0,{ip},{ip},80,1,1,0]-0"));
    let lists = lists.chain(v6.iter().map(|ip| format!("1-0-[0,{ip},{ip},80,1,1,0]")));
    for (n, list) in lists.enumerate() {
        let n = n as u8 + 20;
        let address: PeerAddress = format!("{list}-{}", id(n)).parse().unwrap();
        let external = address.interfaces().next().unwrap().external;
        bench.say(n, n, Body::Direct { terms: Terms::ENCRYPTED, address: Box::new(address.clone()) });
        let made = Mappings { external, address: Box::new(address.clone()), ..mappings(n, AT, &[80]) };
        bench.initial(n, n, made.clone());
        let inside = SocketAddr::new(external, 80);
        let over_udp = UdpMappings { secret: [7; 16], inside, mappings: made };
        bench.say(n, n, Body::UdpRequest(Box::new(over_udp)));
        let relayed = SocketAddr::new(external, 80);
        let address = Box::new(address);
        bench.say(n, n, Body::TurnRequest { terms: Terms::ENCRYPTED, relayed, address });
        bench.run(10 * S);
        assert_eq!((&bench.dials[..], &bench.datagrams[..]), (&[][..], &[][..]), "{external}");
    }
    bench.assert_over();
}

#[test]
fn nobody_searches_for_a_stranger() {
    // We would probe 1,024 of its ports; or, with random ports of our own, spray.
    let random = |local: SocketAddr, server: SocketAddr, q: &[u8]| {
        let port = 20_000 + (u32::from(local.port()) * 7919 + server.port() as u32 * 31) % 40_000;
        let other = if server.ip() == IpAddr::from([192, 0, 2, 1]) { 7 } else { 0 };
        Some((20 * MS, answer(q, ([203, 0, 113, 77], port as u16 + other).into())))
    };
    let ours = [Bench::open(Accept::Anyone), Bench::new(Accept::Anyone, 2, Box::new(random))];
    for (mut bench, theirs) in ours
        .into_iter()
        .zip([Mappings { behaviour: RANDOM, ..mappings(2, AT, &[]) }, mappings(2, AT, &[5000])])
    {
        for mode in 0..2 {
            bench.node.network.surveyor().started();
            let mut asked = theirs.clone();
            asked.rung = mode;
            let open_filter = bench.report().behaviour.filtering;
            bench.initial(2, 1 + mode, asked);
            bench.run(2 * S);
            assert!(bench.dials.is_empty(), "{open_filter:?} {:?}", bench.dials);
            assert_eq!(bench.node.stats().refused, u64::from(mode) + 1);
        }
        bench.assert_over();
    }
}

#[test]
fn who_is_refused_a_search_is_heard_when_it_names_its_relay() {
    let mut bench = Bench::open(Accept::Anyone);
    bench.initial(2, 1, Mappings { behaviour: RANDOM, ..mappings(2, AT, &[]) });
    bench.run(2 * S);
    assert_eq!(bench.node.stats().refused, 1);
    let address = Box::new(address(2, AT, AT));
    bench.say(2, 1, Body::TurnRequest { terms: Terms::ENCRYPTED, relayed: at(50_000), address });
    bench.run(S);
    let relays = bench.node.strategies.relay.peers();
    assert_eq!(relays, [(id(2), true)]);
    assert_eq!(bench.node.stats().refused, 1);
}

#[test]
fn a_search_for_a_known_peer_keeps_to_its_rate_and_its_half_open_sockets() {
    let mut bench = Bench::open(Accept::Only([id(2)].into()));
    let began = bench.now;
    bench.initial(2, 1, Mappings { behaviour: RANDOM, ..mappings(2, AT, &[]) });
    bench.run(S);
    bench.refuse_one();
    bench.run(29 * S);
    // What was refused has left no hole, and one more took its place.
    assert_eq!(bench.dials.len(), 1025);
    let ports: BTreeSet<SocketAddr> = bench.to().into_iter().collect();
    assert_eq!(ports.len(), 1025, "none twice");
    assert!(bench.most_open <= 1024, "{}", bench.most_open);
    for (n, (when, to)) in bench.dials.iter().enumerate() {
        assert_eq!(to.ip(), AT.parse::<IpAddr>().unwrap());
        // The burst, and one each 2 ms.
        let so_far = 16 + when.since(began).as_micros() as usize / 2000 + 1;
        assert!(n <= so_far, "dial {n} at {when:?}");
    }
    bench.run(60 * S);
    bench.assert_over();
}

#[test]
fn any_range_of_ports_can_be_searched() {
    for (low, high) in [(0, 0), (0, 1), (0, u16::MAX), (u16::MAX, u16::MAX), (1, 1), (4000, 4100)] {
        let mut bench = Bench::open(Accept::Only([id(2)].into()));
        let behaviour = Behaviour { allocation: Some(Allocation::Random { low, high }), ..RANDOM };
        bench.initial(2, 1, Mappings { behaviour, ..mappings(2, AT, &[]) });
        bench.run(60 * S);
        assert!(bench.dials.iter().all(|(_, to)| to.port() >= low && (1..=high.max(1)).contains(&to.port())));
        bench.assert_over();
    }
}

#[test]
fn an_answer_counts_once_for_its_session_its_rung_and_its_peer() {
    let mut bench = Bench::open(Accept::Anyone);
    let key = bench.call(1, 4);
    assert_eq!(bench.stage(key), Some(PunchStage::Announced));
    let good = || Mappings { rung: 4, ..mappings(2, AT, &[5000]) };
    let wrong = [
        (2, 2, good()),
        (2, 1, Mappings { rung: 3, ..good() }),
        (2, 1, Mappings { rung: 5, ..good() }),
        (3, 1, good()),
        (3, 1, Mappings { rung: 4, ..mappings(3, "198.51.100.66", &[6000]) }),
    ];
    for (from, session, mappings) in wrong {
        bench.say(from, session, Body::Updated(Box::new(mappings)));
        bench.run(10 * MS);
        assert_eq!(bench.stage(key), Some(PunchStage::Announced));
    }
    assert!(bench.dials.is_empty());
    assert_eq!(bench.node.stats().bad_messages, 1, "another node's address");
    bench.say(2, 1, Body::Updated(Box::new(good())));
    bench.run(10 * MS);
    assert_eq!(bench.to(), [at(5000)]);
    bench.say(2, 1, Body::Updated(Box::new(Mappings { rung: 4, ..mappings(2, AT, &[7000]) })));
    bench.run(10 * MS);
    assert_eq!(bench.to(), [at(5000)], "not twice");
    assert_eq!(bench.stage(key), Some(PunchStage::Punching));
}

#[test]
fn shutdown_and_the_end_of_the_session_leave_nothing_of_a_punch() {
    for shut in [false, true] {
        let mut bench = Bench::open(Accept::Only([id(2)].into()));
        bench.initial(2, 1, Mappings { behaviour: RANDOM, ..mappings(2, AT, &[]) });
        let key = bench.call(2, 0);
        bench.say(2, 2, Body::Updated(Box::new(mappings(2, AT, &[5000]))));
        bench.run(200 * MS);
        assert!(bench.open.len() > 30);
        if shut {
            bench.node.shutdown(bench.now);
            bench.pump();
            assert!(bench.held.is_empty(), "{:?}", bench.held);
            assert_eq!(bench.node.poll_timeout(), None);
        } else {
            bench.node.advance(bench.now);
            for key in [key, (SessionId([1; 16]), Requester::Them)] {
                bench.node.with_calls(|_, all, ctx| {
                    all.end(ctx, key);
                    ctx.abandon(key, id(2));
                });
            }
            bench.pump();
            bench.assert_over();
        }
        bench.assert_clean();
        let before = bench.dials.len();
        bench.run(60 * S);
        assert_eq!(bench.dials.len(), before);
    }
}

/// The TCP answers of a server that sees `seen`, with its other address.
fn answer_with_other(question: &[u8], seen: SocketAddr, other: SocketAddr) -> Vec<u8> {
    let mut out = answer(question, seen);
    let IpAddr::V4(ip) = other.ip() else { panic!("IPv4 only") };
    out[3] += 12;
    out.extend_from_slice(&[0x80, 0x2c, 0, 8, 0, 1]);
    out.extend_from_slice(&other.port().to_be_bytes());
    out.extend_from_slice(&ip.octets());
    out
}

#[test]
fn a_server_with_one_address_tells_the_allocation_and_no_mapping() {
    let seen = |local: SocketAddr| SocketAddr::new(SHARED.parse().unwrap(), local.port() + 100);
    let bench =
        Bench::new(Accept::Anyone, 1, Box::new(move |local, _, q| Some((20 * MS, answer(q, seen(local))))));
    let report = bench.report();
    assert_eq!(report.behaviour.mapping, None);
    assert_eq!(report.behaviour.allocation, Some(Allocation::Preserving(100)));
    assert_eq!((report.second_address, report.samples.len()), (false, 3));
    assert_eq!(report.behaviour.announced_type().number(), 5, "the strictest common kind");
}

#[test]
fn two_ports_of_one_address_tell_whether_a_mapping_depends_on_the_port() {
    let ports = [3478, 3479].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
    for (by_port, random) in [(false, false), (false, true), (true, true)] {
        let seen = move |local: SocketAddr, server: SocketAddr| {
            // Ports without a rule, one for each local port or for each destination.
            let of = local.port().wrapping_add(if by_port { server.port() } else { 0 });
            let port = if random { 20_000 + of.wrapping_mul(7919) % 30_000 } else { local.port() };
            SocketAddr::new(SHARED.parse().unwrap(), port)
        };
        let answers =
            Box::new(move |local, server, q: &[u8]| Some((20 * MS, answer(q, seen(local, server)))));
        let bench = Bench::asking(Accept::Anyone, ports.to_vec(), answers);
        let report = bench.report();
        let mapping = by_port.then_some(Mapping::AddressPortDependent);
        assert_eq!((report.same_by_port, report.behaviour.mapping), (Some(!by_port), mapping), "{report:?}");
        let verdict = match (by_port, random) {
            (true, _) => Verdict::Random,
            (false, true) => Verdict::Likely,
            (false, false) => Verdict::Predictable,
        };
        assert_eq!(Verdict::of([&report]), verdict, "{report:?}");
    }
}

#[test]
fn servers_that_fail_over_tcp_in_any_way_end_the_survey_and_are_counted() {
    // After which time the survey must be over, and whether what came counts as bad.
    let cases: [(Answers, bool); 5] = [
        (Box::new(|_, _, _| None), false),
        (Box::new(|_, _, _| Some((20 * MS, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()))), true),
        (Box::new(|_, _, _| Some((20 * MS, vec![0xff; 4000]))), true),
        (
            Box::new(|local, _, q| {
                let mut other = answer(q, local);
                other[19] ^= 1;
                Some((20 * MS, other))
            }),
            true,
        ),
        (Box::new(|local, _, q| Some((30 * S, answer(q, local)))), false),
    ];
    for (n, (answers, bad)) in cases.into_iter().enumerate() {
        let mut bench = Bench::new(Accept::Anyone, 2, answers);
        assert!(bench.node.network.surveyor().settled(), "case {n}");
        let report = bench.report();
        assert_eq!((report.behaviour, report.mapped), (Behaviour::default(), None), "case {n}");
        assert_eq!(bench.node.stats().bad_stun > 0, bad, "case {n}");
        assert!(bench.asking.is_empty(), "case {n}: {:?}", bench.asking);
        bench.run(60 * S);
        // It still punches, as if the NAT kept ports.
        bench.initial(2, 1, mappings(2, AT, &[5000]));
        bench.run(S);
        assert_eq!(bench.to(), [at(5000)], "case {n}");
    }
}

#[test]
fn a_server_that_lies_has_us_dial_its_other_address_twice_at_most_and_announce_no_port_0() {
    let inside = ["10.0.0.1:80", "192.168.1.1:80", "169.254.169.254:80", "100.64.0.1:80", "224.0.0.1:80"];
    let lies = ["0.0.0.0:0", "192.0.2.0:3479", "192.0.2.9:0", "192.0.2.9:9", "127.0.0.1:22"];
    let lies = lies.into_iter().chain(inside);
    for (lie, port) in lies.flat_map(|lie| [(lie, 0), (lie, 5000)]) {
        let other: SocketAddr = lie.parse().unwrap();
        let seen = SocketAddr::new(SHARED.parse().unwrap(), port);
        let answers =
            move |_: SocketAddr, _: SocketAddr, q: &[u8]| Some((20 * MS, answer_with_other(q, seen, other)));
        let mut bench = Bench::new(Accept::Anyone, 2, Box::new(answers));
        assert!(bench.node.network.surveyor().settled());
        assert!(bench.dials.len() <= 2, "{lie}: {:?}", bench.dials);
        let servers = [[192, 0, 2, 0], [192, 0, 2, 9]].map(IpAddr::from);
        let sound = |to: &SocketAddr| to.port() != 0 && servers.contains(&to.ip());
        assert!(bench.to().iter().all(sound), "{lie}: {:?}", bench.dials);
        let key = bench.call(1, 0);
        let ports = bench.node.strategies.punch.announced(key);
        assert!(!ports.contains(&0), "{lie}: {ports:?}");
    }
}

quickcheck! {
    /// Dials go only to addresses that the authenticated sender announced as its own, and never to our own machine. For
    /// a stranger none goes to a private address, unless the stranger says that it is our neighbour.
    fn only_announced_addresses_are_dialled(seed: u64) -> TestResult {
        let mut state = seed;
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let strangers = draw(2) == 0;
        let accept = if strangers { Accept::Anyone } else { Accept::Only([id(2), id(3)].into()) };
        let mut bench = if draw(2) == 0 { Bench::open(accept) } else { behind_nat(accept) };
        let places = [AT, "198.51.100.8", SHARED, "10.1.2.3", "127.0.0.1", "203.0.113.1"];
        let mut named: BTreeSet<IpAddr> = BTreeSet::new();
        // Peer 2 is known from here on.
        bench.call(100, 0);
        named.insert(AT.parse().unwrap());
        for _ in 0..12 {
            let (from, claimed) = (2 + draw(2) as u8, 2 + draw(2) as u8);
            let (outside, inside) = (places[draw(6) as usize], places[draw(6) as usize]);
            let external = if draw(3) == 0 { inside } else { outside };
            let ports: Vec<u16> = (0..draw(4)).map(|_| 1 + draw(65_535) as u16).collect();
            let behaviour = if draw(3) == 0 { RANDOM } else { CONE };
            let made = Mappings {
                rung: draw(5) as u8,
                behaviour,
                signal_delay: Duration::from_micros(draw(5_000_000)),
                external: external.parse().unwrap(),
                address: Box::new(address(claimed, outside, inside)),
                ..mappings(claimed, AT, &ports)
            };
            // As it comes over the wire.
            let body = if draw(3) == 0 { Body::Updated(Box::new(made)) } else { Body::Initial(Box::new(made)) };
            let session = if draw(3) == 0 { 100 } else { 1 + draw(4) as u8 };
            let message = bench.message(session, body);
            let Ok(message) = Message::decode(&message.encode()) else { continue };
            if from == claimed {
                let private = |ip: &&str| **ip == *"10.1.2.3";
                let neighbour = outside == SHARED || outside == "203.0.113.1";
                let known = !strangers || from == 2 || neighbour;
                let counted = [outside, inside].into_iter().filter(|ip| known || !private(ip));
                named.extend(counted.map(|ip| ip.parse::<IpAddr>().unwrap()).filter(|ip| !ip.is_loopback()));
            }
            bench.hear(from, message);
            bench.run(Duration::from_millis(draw(1500)));
            let bad = bench.dials.iter().find(|(_, to)| !named.contains(&to.ip()) || to.port() == 0);
            if let Some(bad) = bad {
                return TestResult::error(format!("{bad:?}"));
            }
        }
        TestResult::passed()
    }
}
