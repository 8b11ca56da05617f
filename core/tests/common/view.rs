//! Questions of a test about a world.

use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::{
    Advice, BrokerState, ConnectId, Event, FailReason, Name, NameError, NameNews, NodeId, Outcome,
    PeerAddress, Plan, Refusal, Report, Stage, Stats, Strategy,
};

use super::{End, Pipe, S, World};

/// A plan of these strategies and this many seconds.
pub fn plan(strategies: &[Strategy], seconds: u64) -> Plan {
    Plan::new().strategies(strategies.iter().copied()).timeout(Duration::from_secs(seconds))
}

/// The relay first, then one of these.
pub fn relay_first(others: &[Strategy], seconds: u64) -> Plan {
    let strategies = others.iter().copied().chain([Strategy::Relay]);
    plan(&[], seconds).strategies(strategies).relay_first(true)
}

/// Plan with Reverse only: the peer is asked to dial.
pub fn reverse(seconds: u64) -> Plan {
    plan(&[Strategy::Reverse], seconds)
}

/// Plan with Relay only: through a TURN server.
pub fn relay(seconds: u64) -> Plan {
    plan(&[Strategy::Relay], seconds)
}

/// Plan with Direct only: the peer is dialled.
pub fn direct(seconds: u64) -> Plan {
    plan(&[Strategy::Direct], seconds)
}

/// Counters at zero but for these.
pub fn only(change: impl FnOnce(&mut Stats)) -> Stats {
    let mut stats = Stats::default();
    change(&mut stats);
    stats
}

impl World {
    pub fn id(&self, n: usize) -> NodeId {
        self.hosts[n].node.node_id()
    }

    /// Returns the node's address as the node knows it now.
    pub fn address(&self, n: usize) -> PeerAddress {
        self.hosts[n].node.address()
    }

    /// Returns the counters of what the node refused and dropped, with zero for all else.
    pub fn stats(&self, n: usize) -> Stats {
        let mut stats = self.hosts[n].node.stats();
        let none = Stats::default();
        (stats.opened, stats.accepted) = (none.opened, none.accepted);
        (stats.open_times, stats.failed) = (none.open_times, none.failed);
        stats
    }

    pub fn is_pipe(&self, end: End) -> bool {
        matches!(end, End::Node(n, sock) if self.hosts[n].pipes.iter().any(|p| p.sock == sock))
    }

    /// Bytes that nobody has read.
    pub fn unread(&self) -> usize {
        self.streams.values().map(|half| half.arrived.len()).sum()
    }

    /// Bytes that have come to this end of a stream, and that nobody has read.
    pub fn arrived(&self, end: End) -> Vec<u8> {
        self.streams.get(&end).map(|half| half.arrived.iter().copied().collect()).unwrap_or_default()
    }

    /// The largest credit that a node has left on a stream.
    pub fn credit_left(&self) -> usize {
        self.streams.values().map(|half| half.credit).max().unwrap_or(0)
    }

    /// Streams between nodes, pipes included, that are open at this node.
    pub fn streams_of(&self, n: usize) -> usize {
        let at = |end: &End| matches!(end, End::Node(m, _) if *m == n);
        let peer = |to: &End| matches!(to, End::Node(..) | End::Hand(_));
        self.streams.iter().filter(|(end, half)| at(end) && peer(&half.to)).count()
    }

    /// The one pipe of a node.
    pub fn pipe(&self, n: usize) -> &Pipe {
        let [pipe] = &self.hosts[n].pipes[..] else {
            panic!("node {n} has {} pipes:\n{}", self.hosts[n].pipes.len(), self.tail())
        };
        pipe
    }

    /// Asserts that `from`'s call is answered by one pipe, and that its other end is `to`'s only one, which answers
    /// `theirs`.
    pub fn assert_piped(&self, from: usize, connect: ConnectId, to: usize, theirs: &[ConnectId]) {
        let (a, b) = (self.pipe(from), self.pipe(to));
        assert_eq!(a.answers, [connect]);
        assert_eq!(b.answers, theirs);
        assert_eq!((a.peer, b.peer), (self.id(to), self.id(from)));
        assert_eq!((a.end, b.end), (End::Node(to, b.sock), End::Node(from, a.sock)), "one stream");
    }

    /// The addresses that the node dialled, servers left out.
    pub fn dialled(&self, n: usize) -> Vec<SocketAddr> {
        let server = |to: &SocketAddr| {
            self.brokers.iter().any(|b| b.at == *to) || self.stuns.iter().any(|s| s.at == *to)
        };
        self.hosts[n].dials.iter().map(|(_, to)| *to).filter(|to| !server(to)).collect()
    }

    pub fn failure(&self, n: usize, id: ConnectId) -> Option<(FailReason, &Report)> {
        self.hosts[n].events.iter().find_map(|(_, event)| match event {
            Event::Failed { connect, reason, report } if *connect == id => Some((*reason, &**report)),
            _ => None,
        })
    }

    /// A connect's end without a pipe: the reason, and the outcome and detail of its only strategy.
    pub fn failed(&self, n: usize, id: ConnectId) -> (FailReason, Outcome, &str) {
        let Some((reason, report)) = self.failure(n, id) else { panic!("no failure:\n{}", self.tail()) };
        let [only] = &report.strategies[..] else { panic!("{report:?}") };
        (reason, only.outcome, &only.detail)
    }

    /// Advice of a connect's end without a pipe.
    pub fn advice(&self, n: usize, id: ConnectId) -> Option<Advice> {
        self.failure(n, id).and_then(|(_, report)| report.advice)
    }

    pub fn is_over(&self, n: usize, id: ConnectId) -> bool {
        self.failure(n, id).is_some()
            || self.hosts[n].pipes.iter().any(|p| p.answers.contains(&id))
            || self.hosts[n].relayed.iter().any(|p| p.answers.contains(&id))
    }

    /// The stages that a connect's strategy went through.
    pub fn stages(&self, n: usize, id: ConnectId, by: Strategy) -> Vec<Stage> {
        let events = self.hosts[n].events.iter();
        events
            .filter_map(|(_, event)| match event {
                Event::Progress { connect, strategy, stage } if *connect == id && *strategy == by => {
                    Some(*stage)
                }
                _ => None,
            })
            .collect()
    }

    /// The peers that the node's user was asked about.
    pub fn asked(&self, n: usize) -> Vec<NodeId> {
        let events = self.hosts[n].events.iter();
        events
            .filter_map(|(_, event)| match event {
                Event::Ask { peer, .. } => Some(*peer),
                _ => None,
            })
            .collect()
    }

    /// Returns the node's news about a name.
    pub fn name_news(&self, n: usize, name: Name) -> Vec<NameNews> {
        let events = self.hosts[n].events.iter();
        events
            .filter_map(|(_, event)| match event {
                Event::Name { name: of, news } if *of == name => Some((**news).clone()),
                _ => None,
            })
            .collect()
    }

    /// Asks a node where a name leads, until it says so.
    pub fn resolve(&mut self, n: usize, name: Name) -> Result<PeerAddress, NameError> {
        let before = self.name_news(n, name).len();
        self.ask(n, |node, now| node.resolve(now, name)).unwrap();
        let said = |w: &World| {
            w.name_news(n, name).into_iter().skip(before).find_map(|news| match news {
                NameNews::Resolved(address) => Some(Ok(*address)),
                NameNews::NotResolved(why) => Some(Err(why)),
                _ => None,
            })
        };
        self.run_until(9 * S, |w| said(w).is_some());
        said(self).unwrap()
    }

    /// Returns the states that the node told of its broker with this place.
    pub fn broker_states(&self, n: usize, broker: usize) -> Vec<BrokerState> {
        let wanted = self.brokers[broker].config.id;
        let events = self.hosts[n].events.iter();
        events
            .filter_map(|(_, event)| match event {
                Event::Broker { id, state } if *id == wanted => Some(*state),
                _ => None,
            })
            .collect()
    }

    /// The address that `Ready` gave last, and when it first was said.
    pub fn ready(&self, n: usize) -> Option<(Duration, &PeerAddress)> {
        let mut told = self.hosts[n].events.iter().filter_map(|(at, event)| match event {
            Event::Ready { address } => Some((at, &**address)),
            _ => None,
        });
        let (first, address) = told.next()?;
        Some((first.since(p2pd_core::Instant::ZERO), told.next_back().map_or(address, |(_, last)| last)))
    }

    /// Counts the calls of these nodes that ended by this refusal of the only strategy.
    pub fn refused(&self, calls: &[(usize, ConnectId)], why: Refusal) -> usize {
        let text = format!("the peer refused: {why}");
        let ended = |(n, id): &&(usize, ConnectId)| {
            self.failure(*n, *id).is_some_and(|(_, r)| r.strategies.iter().any(|s| s.detail == text))
        };
        calls.iter().filter(ended).count()
    }

    /// The last of the log.
    pub fn tail(&self) -> &str {
        let from = self.log.len().saturating_sub(6000);
        self.log.get(from..).unwrap_or(&self.log)
    }
}
