//! The contract on the crate's first page, rule by rule, with two nodes and a wire that loses nothing.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::io::Interface;
use p2pd_core::{
    Action, CloseHow, Config, Event, Instant, IoFailure, Node, Notice, PeerAddress, PipeMode, Plan,
    SecretKey, SockId,
};

/// Two nodes with one address each, joined by TCP that works.
struct Pair {
    nodes: [Node; 2],
    now: Instant,
    /// A stream's other end.
    ends: BTreeMap<(usize, SockId), (usize, SockId)>,
    ports: BTreeMap<SocketAddr, (usize, SockId)>,
    credit: BTreeMap<(usize, SockId), usize>,
    arriving: BTreeMap<(usize, SockId), VecDeque<u8>>,
    accepted: u32,
    /// Per node: ids that were closed or detached, and then must stay silent.
    gone: Vec<(usize, SockId)>,
    pipes: Vec<(usize, SockId, bool)>,
    notices: Vec<(usize, Notice)>,
    log: String,
}

const LATENCY: Duration = Duration::from_millis(10);

impl Pair {
    fn new(seed: u8) -> Pair {
        let node = |n: u8| {
            let config = Config::new(SecretKey::from_bytes([n; 32]));
            Node::new(config, [seed ^ n; 32], Instant::ZERO).unwrap()
        };
        let mut pair = Pair {
            nodes: [node(1), node(2)],
            now: Instant::ZERO,
            ends: BTreeMap::new(),
            ports: BTreeMap::new(),
            credit: BTreeMap::new(),
            arriving: BTreeMap::new(),
            accepted: 0,
            gone: Vec::new(),
            pipes: Vec::new(),
            notices: Vec::new(),
            log: String::new(),
        };
        for n in 0..2 {
            let ip = [203, 0, 113, n as u8 + 1].into();
            let interface = Interface { index: 2, ip, prefix: 32, default_route: true };
            pair.tell(n, Event::Interfaces(&[interface]));
        }
        pair.drive();
        pair
    }

    fn tell(&mut self, n: usize, event: Event<'_>) {
        self.nodes[n].handle(self.now, event);
    }

    fn address(&self, n: usize) -> PeerAddress {
        self.nodes[n].address()
    }

    /// Runs until nothing happens but time.
    fn drive(&mut self) {
        for _ in 0..1000 {
            let mut busy = false;
            for n in 0..2 {
                while let Some(action) = self.nodes[n].poll_action() {
                    busy = true;
                    self.log.push_str(&format!("{n} {action:?}\n"));
                    self.act(n, action);
                }
            }
            busy |= self.deliver();
            if !busy {
                return;
            }
            self.now = self.now + LATENCY;
        }
        panic!("livelock: {}", self.log);
    }

    fn act(&mut self, n: usize, action: Action) {
        match action {
            Action::Listen { sock, .. } => {
                let local: SocketAddr = ([203, 0, 113, n as u8 + 1], 4000).into();
                self.ports.insert(local, (n, sock));
                self.tell(n, Event::Bound { sock, local });
            }
            Action::Connect { sock, remote, .. } => {
                self.tell(n, Event::Fired { sock, late: Duration::ZERO });
                let Some(&(m, listener)) = self.ports.get(&remote) else {
                    return self.tell(n, Event::Failed { sock, cause: IoFailure::Refused });
                };
                let local: SocketAddr = ([203, 0, 113, n as u8 + 1], 50_000).into();
                let theirs = SockId::accepted(self.accepted);
                self.accepted += 1;
                self.ends.insert((n, sock), (m, theirs));
                self.ends.insert((m, theirs), (n, sock));
                self.tell(n, Event::Connected { sock, local, remote });
                self.tell(m, Event::Accepted { listener, sock: theirs, local: remote, remote: local });
            }
            Action::SendStream { sock, data } => {
                let end = self.ends[&(n, sock)];
                self.arriving.entry(end).or_default().extend(data);
            }
            Action::Read { sock, credit } => *self.credit.entry((n, sock)).or_default() += credit as usize,
            Action::Close { sock, how } => {
                self.gone.push((n, sock));
                if let Some((m, other)) = self.ends.remove(&(n, sock))
                    && self.ends.contains_key(&(m, other))
                    && how != CloseHow::Graceful
                {
                    self.tell(m, Event::Eof { sock: other });
                }
            }
            Action::Detach { sock, pipe } => {
                self.gone.push((n, sock));
                self.pipes.push((n, sock, pipe.answers.is_empty()));
            }
            Action::Notify(notice) => self.notices.push((n, notice)),
            other => panic!("not in this world: {other:?}"),
        }
    }

    /// Moves what credit allows, a byte at a time; a header and the body behind it never come together.
    fn deliver(&mut self) -> bool {
        let ready: Vec<(usize, SockId)> = self.arriving.keys().copied().collect();
        let mut moved = false;
        for (n, sock) in ready {
            while self.credit.get(&(n, sock)).is_some_and(|c| *c > 0) && !self.gone.contains(&(n, sock)) {
                let Some(byte) = self.arriving.get_mut(&(n, sock)).and_then(VecDeque::pop_front) else {
                    break;
                };
                *self.credit.entry((n, sock)).or_default() -= 1;
                self.tell(n, Event::Stream { sock, data: &[byte] });
                let mut asked = Vec::new();
                while let Some(action) = self.nodes[n].poll_action() {
                    self.log.push_str(&format!("{n} {action:?}\n"));
                    asked.push(action);
                }
                asked.into_iter().for_each(|a| self.act(n, a));
                moved = true;
            }
        }
        moved
    }
}

fn connect(pair: &mut Pair, from: usize, to: usize, mode: PipeMode) {
    let address = pair.address(to);
    let now = pair.now;
    pair.nodes[from].connect(now, &address, Plan { mode, ..Plan::default() }).unwrap();
}

#[test]
fn a_direct_connect_gives_each_side_one_pipe_and_reads_nothing_past_the_hello() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut pair = Pair::new(7);
        connect(&mut pair, from, to, PipeMode::Encrypted);
        pair.drive();
        let mut sides: Vec<(usize, bool)> =
            pair.pipes.iter().map(|(n, _, incoming)| (*n, *incoming)).collect();
        sides.sort_unstable();
        assert_eq!(sides, [(0, from == 1), (1, from == 0)], "{}", pair.log);
        assert!(pair.arriving.values().all(VecDeque::is_empty), "every byte was the hello's");
        assert!(pair.credit.iter().all(|(_, left)| *left <= 4), "no credit beyond a header is left");
    }
}

#[test]
fn calls_on_each_other_are_answered_by_one_pipe() {
    let mut pair = Pair::new(7);
    connect(&mut pair, 0, 1, PipeMode::Encrypted);
    connect(&mut pair, 1, 0, PipeMode::Encrypted);
    pair.drive();
    assert_eq!(pair.pipes.len(), 2, "one per side: {}", pair.log);
    assert!(pair.pipes.iter().all(|(_, _, incoming)| !incoming), "both answer their caller");
    let [(a, ours, _), (b, theirs, _)] = pair.pipes[..] else { panic!() };
    assert_eq!(pair.ends[&(a, ours)], (b, theirs), "and are the two ends of one stream");
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    let run = |seed| {
        let mut pair = Pair::new(seed);
        connect(&mut pair, 0, 1, PipeMode::Encrypted);
        pair.drive();
        pair.log
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn unknown_ids_are_counted_and_time_may_go_back() {
    let mut pair = Pair::new(7);
    let later = Instant::ZERO + Duration::from_secs(9);
    pair.nodes[0].handle(later, Event::Eof { sock: SockId::from_number(99) });
    pair.nodes[0].handle(Instant::ZERO, Event::Stream { sock: SockId::from_number(98), data: b"x" });
    assert_eq!(pair.nodes[0].stats().unknown_ids, 2);
    assert!(pair.nodes[0].poll_action().is_none());
}

#[test]
fn every_deadline_moves_and_an_unanswered_connect_ends_at_its_own() {
    let mut pair = Pair::new(7);
    let nobody = "None-[0,203.0.113.9,203.0.113.9,9,1,1,0]-0-";
    let key = SecretKey::from_bytes([9; 32]).node_id();
    let to: PeerAddress = format!("{nobody}{key}").parse().unwrap();
    let begin = pair.now;
    pair.nodes[0].connect(begin, &to, Plan::default()).unwrap();
    while let Some(action) = pair.nodes[0].poll_action() {
        if let Action::Notify(notice) = action {
            pair.notices.push((0, notice));
        }
    }
    for _ in 0..100 {
        let Some(at) = pair.nodes[0].poll_timeout() else { break };
        pair.nodes[0].handle(at, Event::Timeout);
        while let Some(action) = pair.nodes[0].poll_action() {
            if let Action::Notify(notice) = action {
                pair.notices.push((0, notice));
            }
        }
        assert!(pair.nodes[0].poll_timeout().is_none_or(|next| next > at), "the deadline moved");
    }
    let failed = pair.notices.iter().find_map(|(_, n)| match n {
        Notice::Failed { report, .. } => Some(report.elapsed),
        _ => None,
    });
    assert_eq!(failed, Some(Plan::default().timeout));
}

#[test]
fn a_plain_pipe_needs_the_other_sides_consent() {
    let mut pair = Pair::new(7);
    connect(&mut pair, 0, 1, PipeMode::Plain);
    pair.drive();
    assert!(pair.pipes.is_empty());
    let refused = pair.notices.iter().any(|(n, notice)| {
        *n == 0 && matches!(notice, Notice::Failed { reason, .. } if reason.to_string().contains("encrypted pipes only"))
    });
    assert!(refused, "{:?}", pair.notices);
}
