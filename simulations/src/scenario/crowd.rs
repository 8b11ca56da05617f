//! A crowd: many nodes with names, each behind a NAT of its own, at the same brokers. They start, idle, and call each
//! other, and the brokers count what passes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use p2pd_core::{ConnectId, Event, NameNews, Plan};

use super::pair::Program;
use super::standing;
use crate::domain;
use crate::engine::{Keyed, MILLI, Nanos, SECOND};
use crate::nat::Chain;
use crate::net::LinkSpec;
use crate::service::{Broker, BrokerFaults, ServerProgram, StunFaults, StunServer as Stun, Traffic};
use crate::world::{Cx, HostId, World};

/// A crowd as data.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// Seed of all randomness.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: u32,
    /// Number of brokers: each node has a session with every one.
    pub brokers: u16,
    /// The NATs of each node.
    pub chain: Chain,
    /// Time between the start of one node and of the next.
    pub apart: Nanos,
    /// Time in which all nodes idle.
    pub idle: Nanos,
    /// Number of calls, and the time between two of them.
    pub calls: (u32, Nanos),
}

/// Outcome of a crowd.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Nodes with an address.
    pub ready: usize,
    /// Nodes with their name.
    pub named: usize,
    /// Traffic of each broker from the start of the first node to the beginning of the idle time.
    pub starting: Vec<Traffic>,
    /// Traffic of each broker in the idle time.
    pub idle: Vec<Traffic>,
    /// Traffic of each broker while calls were made, and for how long.
    pub calling: (Vec<Traffic>, Nanos),
    /// Calls that opened a pipe, by their strategy.
    pub opened: BTreeMap<&'static str, usize>,
    /// Calls that failed, with the reason of the first.
    pub failed: (usize, Option<String>),
    /// Events of the world.
    pub events: u64,
    /// Violations of the world's and of the drivers' invariants.
    pub violations: Vec<String>,
}

/// Time from the last node's start until all are registered.
const REGISTERED: Nanos = 15 * SECOND;
/// Time from the last call until all are over.
const OVER: Nanos = 30 * SECOND;
const DELAY: Nanos = 5 * MILLI;

struct Run {
    world: World<Program>,
    brokers: Vec<HostId>,
    nodes: Vec<HostId>,
    /// Traffic of each broker at the last look.
    carried: Vec<Traffic>,
}

/// Runs a crowd. There are at most 200 brokers and 16 million nodes, each with one NAT at most.
pub fn run(crowd: &Crowd) -> Outcome {
    let mut run = build(crowd);
    let starting = run.pass(REGISTERED);
    let idle = run.pass(crowd.idle);
    let begun = run.world.now();
    let ids = run.call(crowd);
    let calling = (run.pass(OVER), run.world.now() - begun);
    let mut outcome = Outcome { starting, idle, calling, ..Outcome::default() };
    for host in &run.nodes {
        let node = run.world.app(*host).node();
        outcome.ready += usize::from(node.address().is_some());
        let named = |n: &Event| matches!(n, Event::Name { news, .. } if matches!(**news, NameNews::Registered { .. }));
        outcome.named += usize::from(node.events.iter().any(|(_, event)| named(event)));
        outcome.violations.extend(node.violations.iter().cloned());
    }
    for (caller, id) in ids {
        let node = run.world.app(caller).node();
        match node.pipes.iter().find(|p| p.start.answers.contains(&id)) {
            Some(pipe) => *outcome.opened.entry(pipe.start.strategy.name()).or_default() += 1,
            None => {
                outcome.failed.0 += 1;
                let why = node.events.iter().find_map(|(_, n)| match n {
                    Event::Failed { connect, reason, .. } if *connect == id => Some(reason.to_string()),
                    _ => None,
                });
                outcome.failed.1 = outcome.failed.1.or(why);
            }
        }
    }
    outcome.violations.extend(run.world.check().err());
    outcome.events = run.world.counts().events;
    outcome
}

fn build(crowd: &Crowd) -> Run {
    let mut world: World<Program> = World::new(crowd.seed);
    let stun = ServerProgram::new(Box::new(Stun::new(standing::stun(false), StunFaults::default())));
    standing::add_stun(&mut world, false, stun);
    let brokers = (0..crowd.brokers)
        .map(|n| {
            let broker = ServerProgram::new(Box::new(Broker::new(BrokerFaults::default())));
            world.add_host(
                world.internet(),
                standing::broker(false, n),
                standing::LINK,
                Program::Server(broker),
            )
        })
        .collect();
    let mut run = Run { world, brokers, nodes: Vec::new(), carried: Vec::new() };
    for n in 0..crowd.nodes {
        let begins = u64::from(n) * crowd.apart;
        run.world.run_until(begins);
        run.add(crowd, n);
    }
    run
}

impl Run {
    /// Adds a node at a home of its own, which takes a name.
    fn add(&mut self, crowd: &Crowd, n: u32) {
        let rng = Keyed::new(crowd.seed);
        let configure = |config| standing::configure(config, false, crowd.brokers, false);
        let program = match standing::node(rng, n.into(), self.world.now(), configure) {
            Ok(program) => program,
            Err(why) => unreachable!("the scenario's configuration is good: {why}"),
        };
        let [_, a, b, c] = n.to_be_bytes();
        let (outside, link) = (IpAddr::from([45, a, b, c]), LinkSpec::with_delay(DELAY));
        let mut net = self.world.internet();
        let mut ip = outside;
        if let Some(nat) = crowd.chain.0.first() {
            (_, net) = self.world.add_nat(*nat, net, &[outside], link);
            ip = [192, 168, 1, 2].into();
        }
        let inside = if crowd.chain.0.is_empty() { link } else { LinkSpec::default() };
        let host = self.world.add_host(net, ip, inside, program);
        if let Ok(name) = format!("node-{n}").parse() {
            // It has the name's news or none.
            let _ =
                self.world.with(host, |p, cx| p.node_mut().call(cx, |node, now| node.register(now, name)));
        }
        self.nodes.push(host);
    }

    /// Lets time pass, and returns what each broker carried since the last such time.
    fn pass(&mut self, time: Nanos) -> Vec<Traffic> {
        self.world.run_until(self.world.now() + time);
        let of = |host: &HostId| match self.world.app(*host) {
            Program::Server(server) => server.traffic(),
            Program::Node(_) | Program::Stranger(_) => Traffic::default(),
        };
        let before = core::mem::replace(&mut self.carried, self.brokers.iter().map(of).collect());
        let then = before.into_iter().chain(core::iter::repeat(Traffic::default()));
        self.carried.iter().zip(then).map(|(now, then)| now.since(then)).collect()
    }

    /// Has one node after the other call another, which the seed says.
    fn call(&mut self, crowd: &Crowd) -> Vec<(HostId, ConnectId)> {
        let (count, apart) = crowd.calls;
        let rng = Keyed::new(crowd.seed);
        let mut calls = Vec::new();
        for n in 0..u64::from(count) {
            let all = self.nodes.len();
            let below = |draw, most: usize| rng.below(domain::SCENARIO, n, draw, most.max(1) as u64) as usize;
            let caller = below(0, all);
            let listener = (caller + 1 + below(1, all - 1)) % all;
            let (caller, listener) = (self.nodes[caller], self.nodes[listener]);
            let address = self.world.app(listener).node().address().cloned();
            if let Some(address) = address {
                let call = |p: &mut Program, cx: &mut Cx<'_>| {
                    p.node_mut().call(cx, |node, now| node.connect(now, &address, Plan::default()))
                };
                calls.extend(self.world.with(caller, call).ok().map(|id| (caller, id)));
            }
            self.world.run_until(self.world.now() + apart);
        }
        calls
    }
}
