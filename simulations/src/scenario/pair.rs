//! Two nodes, their NATs, two STUN addresses and brokers: one opens a pipe to the other.

mod call;
mod flooded;
mod homes;
mod idle;
mod relaying;

use std::net::IpAddr;
use std::time::Duration;

use p2pd_core::nat::NatReport;
use p2pd_core::pipe::PipeMode;
use p2pd_core::{Accept, Config, Event, Node, PortState, SecretKey, Strategy};

use crate::domain;
use crate::driver::{Clocks, NodeProgram};
use crate::engine::{Keyed, MILLI, Nanos, SECOND};
use crate::host::HostEvent;
use crate::nat::Chain;
use crate::net::{Blackout, LinkSpec};
use crate::scenario::flood::{Flood, Named, Stranger};
use crate::scenario::standing;
use crate::service::router::RouterSpec;
use crate::service::{
    Broker, BrokerFaults, LIE, RealBroker, RealStun, ServerProgram, Service, StunFaults, TurnFaults,
};
use crate::world::{App, Cx, HostId, SiteSpec, Trace, World};

use call::{Call, call};
use flooded::Strangers;
use homes::Homes;

pub use call::HOME_LEFT;
pub use homes::{Life, Second, When};
pub use idle::{Idle, idle};
pub use relaying::Relaying;

/// Program on a host of a pair's world.
#[derive(Debug)]
pub enum Program {
    /// A node.
    Node(Box<NodeProgram>),
    /// A server.
    Server(ServerProgram),
    /// Strangers.
    Stranger(Box<Stranger>),
}

impl Program {
    pub(crate) fn node(&self) -> &NodeProgram {
        match self {
            Program::Node(node) => node,
            Program::Server(_) | Program::Stranger(_) => unreachable!("asked of a node's host only"),
        }
    }

    pub(crate) fn node_mut(&mut self) -> &mut NodeProgram {
        match self {
            Program::Node(node) => node,
            Program::Server(_) | Program::Stranger(_) => unreachable!("asked of a node's host only"),
        }
    }
}

impl App for Program {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match self {
            Program::Node(node) => node.event(cx, event),
            Program::Server(server) => server.event(cx, event),
            Program::Stranger(stranger) => stranger.event(cx, event),
        }
    }

    fn wake(&mut self, cx: &mut Cx<'_>, token: u64) {
        match self {
            Program::Node(node) => node.wake(cx, token),
            Program::Server(server) => server.wake(cx, token),
            Program::Stranger(stranger) => stranger.wake(cx, token),
        }
    }
}

/// Places of the two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Place {
    /// Each behind its own NATs.
    #[default]
    Apart,
    /// The two nodes are on one network, behind the first chain.
    SameSite,
    /// A single node calls itself.
    Oneself,
}

/// A pair's world as data.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Seed of all randomness.
    pub seed: u64,
    /// The NATs of the listening node and of the calling one.
    pub chains: [Chain; 2],
    /// Places of the two nodes.
    pub place: Place,
    /// The link of each site and its faults; `delay` is half the way between the two.
    pub links: [LinkSpec; 2],
    /// Strategies of the call. Default: all that the core has.
    pub strategies: Vec<Strategy>,
    /// Time limit of the connect.
    pub timeout: Duration,
    /// Mode of the pipe.
    pub mode: PipeMode,
    /// Faults of the STUN servers.
    pub stun: StunFaults,
    /// Faults of each broker; at least one.
    pub brokers: Vec<BrokerFaults>,
    /// The servers are those of `p2pd-rendezvous`, as `p2pd serve` has them, and not the simulator's own.
    pub rendezvous: bool,
    /// A TURN server, if there is one.
    pub relay: Option<Relaying>,
    /// Servers for port mappings on the routers that the two stand behind, if there are any. Each node whose router has
    /// one asks for a port.
    pub routers: [Option<RouterSpec>; 2],
    /// A second home of one of the two.
    pub second: Option<Second>,
    /// Time from the internet to each broker.
    pub broker_delay: Nanos,
    /// The nodes' clocks.
    pub clocks: [Clocks; 2],
    /// The listener knows the caller by name: it dials as often as it takes, and searches.
    pub known: bool,
    /// Flood by strangers while the two call.
    pub flood: Option<Flood>,
    /// A dial may be late by up to this.
    pub late: Nanos,
    /// Calls again. After the first call the faults of all ways and servers end, and a while later the caller calls
    /// again. Where that fails both doubt their measurements, and the caller calls up to twice more.
    pub again: bool,
    /// Number of calls while the nodes stay up, 10 s apart. The report is about the first call that failed, or about
    /// the last.
    pub calls: u32,
    /// The world is one of IPv6: sites behind firewalls, STUN servers and brokers. TURN servers and routers are not.
    pub six: bool,
    /// Port of the nodes' listeners, and the external one that they ask routers for; 0 for any.
    pub port: u16,
    /// Keeps a trace.
    pub trace: bool,
}

impl Pair {
    /// A quiet world: 10 ms each way, no faults, clocks of unlike beginnings.
    pub fn new(seed: u64, chains: [Chain; 2]) -> Pair {
        let rng = Keyed::new(seed);
        let clocks =
            |n| Clocks { mono: rng.below(domain::CLOCK, n, 0, 1 << 40), drift_ppm: 0, wall_ahead: 0 };
        Pair {
            seed,
            chains,
            place: Place::Apart,
            links: [LinkSpec::with_delay(5 * MILLI); 2],
            strategies: Strategy::ALL.to_vec(),
            timeout: Duration::from_secs(15),
            mode: PipeMode::Encrypted,
            known: false,
            flood: None,
            stun: StunFaults::default(),
            brokers: vec![BrokerFaults::default()],
            rendezvous: false,
            relay: None,
            routers: [None; 2],
            second: None,
            broker_delay: 5 * MILLI,
            clocks: [clocks(0), clocks(1)],
            late: 0,
            again: false,
            calls: 1,
            port: 0,
            six: false,
            trace: false,
        }
    }
}

/// Outcome of a pair.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The winning strategy, or none.
    pub strategy: Option<Strategy>,
    /// Time from the call to its end.
    pub took: Nanos,
    /// Times at which the rungs of a punch began to dial, after the call.
    pub rungs: Vec<Nanos>,
    /// Probability of a connection that each of these stated, in thousandths, if it did.
    pub stated: Vec<Option<u32>>,
    /// SYNs of both hosts from the call to its end, repeats included.
    pub syns: u64,
    /// The first report of each node on its NATs.
    pub nats: [Option<NatReport>; 2],
    /// Reason of a failure, for a person.
    pub why: String,
    /// Outcome of the call after the faults, if there was one: the winning strategy, or the reason of the failure.
    pub again: Option<Result<Strategy, String>>,
    /// States, for each node, of the ports that its routers opened.
    pub ports: [Vec<PortState>; 2],
    /// Time from a change of a host's homes to an address of the host with the second home.
    pub announced_after: Option<Nanos>,
    /// The most sockets that either node held at a time.
    pub held: usize,
    /// Violations of the invariants.
    pub violations: Vec<String>,
    /// Digest of everything that happened.
    pub digest: u64,
    /// Events of the world.
    pub events: u64,
    /// The address that was called.
    pub address: String,
    /// Packets and outputs of the nodes, if wanted.
    pub trace: String,
    /// The packets as an HTML page, if wanted.
    pub page: String,
    /// The packets as an SVG sequence chart, if wanted.
    pub chart: String,
}

/// The most that a node may need to be ready.
pub(super) const READY_WITHIN: Nanos = 30 * SECOND;
/// Time from the end of all faults to the second call. It covers the longest wait of a node before it tries a broker or
/// asks a STUN server again, and the try.
const REST: Nanos = 330 * SECOND;
/// Time between calls of nodes that stay.
const PAUSE: Nanos = 10 * SECOND;
/// Time until the measurements that a failed call made doubtful are repeated, and the listener has room for a
/// stranger's next call.
const MEASURED_WITHIN: Nanos = 60 * SECOND;
/// Longer than a closed stream repeats its last bytes where nobody answers.
const GONE_WITHIN: Nanos = 600 * SECOND;

pub(super) struct Run {
    pub(super) world: World<Program>,
    pub(super) hosts: [HostId; 2],
    servers: Vec<HostId>,
    turn: Option<HostId>,
    homes: Homes,
    strangers: Strangers,
    calls: usize,
    violations: Vec<String>,
}

/// Runs a pair to its end.
pub fn run(pair: &Pair) -> Ending {
    let mut run = build(pair);
    let ready = |w: &World<Program>| run.hosts.iter().all(|h| w.app(*h).node().address().is_some());
    if !run.world.run_while(READY_WITHIN, ready) {
        run.violations.push("the node was not ready in time".into());
    }
    flooded::introduce(&mut run, pair);
    homes::settle(&mut run, pair);
    let mut first = call(&mut run, pair);
    for _ in 1..pair.calls {
        if first.strategy.is_none() {
            break;
        }
        run.world.run_until(run.world.now() + PAUSE);
        first = call(&mut run, pair);
    }
    let mut again = None;
    if pair.again && run.calls > 0 {
        homes::finish(&mut run);
        heal(&mut run);
        for rest in [REST, MEASURED_WITHIN, MEASURED_WITHIN] {
            let rested = run.world.now() + rest;
            run.world.run_until(rested);
            let next = call(&mut run, pair);
            again = Some(next.strategy.ok_or(next.why));
            if next.strategy.is_some() {
                break;
            }
        }
    }
    end(run, pair, first, again)
}

/// Ends the faults of the ways and of the servers.
fn heal(run: &mut Run) {
    run.world.heal();
    for server in run.servers.clone() {
        run.world.with(server, |program, _| {
            if let Program::Server(server) = program {
                server.heal();
            }
        });
    }
}

/// Returns true for a home from which TCP to ports 80 and 443 alone gets out, so that its node's servers are at 443.
fn is_narrow(chain: &Chain) -> bool {
    chain.0.iter().any(|nat| nat.narrow)
}

pub(super) fn build(pair: &Pair) -> Run {
    let mut world: World<Program> = World::new(pair.seed);
    if pair.trace {
        world.record();
    }
    let internet = world.internet();
    let at = standing::stun(pair.six);
    let stun: Box<dyn Service> = match pair.rendezvous {
        true => Box::new(RealStun::new(at, pair.stun)),
        false => Box::new(crate::service::StunServer::new(at, pair.stun)),
    };
    let narrow = pair.chains.each_ref().map(is_narrow);
    let also = narrow.contains(&true);
    let server = |service| ServerProgram::new(service).also_at_443(also);
    let mut servers = vec![standing::add_stun(&mut world, pair.six, server(stun))];
    for (n, faults) in pair.brokers.iter().enumerate() {
        let broker: Box<dyn Service> = match pair.rendezvous {
            true => Box::new(RealBroker::new(*faults)),
            false => Box::new(Broker::new(*faults)),
        };
        let (broker, link) = (Program::Server(server(broker)), LinkSpec::with_delay(pair.broker_delay));
        servers.push(world.add_host(internet, standing::broker(pair.six, n as u16), link, broker));
    }
    let mut violations = Vec::new();
    let program = |n: usize| {
        let rng = Keyed::new(pair.seed);
        let key = |n: u64| SecretKey::from_bytes(rng.bytes(domain::NODE, n));
        let config = Config::new(key(n as u64));
        let mut config = standing::configure(config, pair.six, pair.brokers.len() as u16, narrow[n]);
        (config.port, config.external_port) = (pair.port, pair.port);
        config.portmap = pair.asks_router(n);
        let other = key(1 - n as u64).node_id();
        let named = pair.flood.as_ref().map(|f| f.named);
        if pair.known || named == Some(Named::Listed) {
            config.accept = Accept::Only([other].into_iter().collect());
        } else if named == Some(Named::Approved) {
            config.accept = Accept::Ask;
        }
        config.turn = pair.relay.iter().map(|relay| relay.configured(narrow[n])).collect();
        let seed = rng.bytes(domain::NODE, 100 + n as u64);
        let node = match Node::new(config, seed, pair.clocks[n].instant(0)) {
            Ok(node) => node,
            Err(why) => unreachable!("the scenario's configuration is good: {why}"),
        };
        let mut node = NodeProgram::new(node, pair.clocks[n], pair.late);
        if pair.trace {
            node.record();
        }
        Program::Node(Box::new(node))
    };
    let specs =
        [0, 1].map(|n| SiteSpec { number: n as u8 + 1, chain: pair.chains[n].clone(), link: pair.links[n] });
    let mut homes = Homes::default();
    let add = if pair.six { World::add_site_v6 } else { World::add_site };
    let mut site = add(&mut world, &specs[0]);
    homes.add_router(&mut world, pair, &mut site, 0);
    let listener = world.add_host_at(&mut site, program(0));
    let caller = match pair.place {
        Place::Oneself => listener,
        Place::SameSite => world.add_host_at(&mut site, program(1)),
        Place::Apart => {
            let mut site = add(&mut world, &specs[1]);
            homes.add_router(&mut world, pair, &mut site, 1);
            world.add_host_at(&mut site, program(1))
        }
    };
    let turn = pair.relay.map(|relay| relay.add_server(&mut world, also));
    servers.extend(turn);
    homes.add_second(&mut world, pair, [listener, caller]);
    servers.extend(homes.servers());
    let strangers = Strangers::add(&mut world, pair, [listener, caller]);
    if !matches!(pair.brokers.len(), 1..=16) {
        violations.push("a pair needs 1 to 16 brokers".into());
    }
    Run { world, hosts: [listener, caller], servers, turn, homes, strangers, calls: 0, violations }
}

/// Ends the nodes and checks for leftovers.
fn end(mut run: Run, pair: &Pair, first: Call, again: Option<Result<Strategy, String>>) -> Ending {
    flooded::end(&mut run);
    let both = run.hosts;
    let nats = both.map(|host| run.world.app(host).node().node.nats().next().cloned());
    let hosts = if pair.place == Place::Oneself { &both[..1] } else { &both };
    for host in hosts {
        run.world.with(*host, |p, cx| p.node_mut().close_pipes(cx));
    }
    relaying::leave(&mut run, hosts);
    for host in hosts {
        run.world.with(*host, |p, cx| p.node_mut().call(cx, Node::shutdown));
    }
    // Nobody dials any more, so that once nothing is on its way and no socket is left, none will come back.
    let over =
        |w: &World<Program>| w.in_flight() == 0 && hosts.iter().all(|h| w.host(*h).live_sockets() == 0);
    let until = run.world.now() + GONE_WITHIN;
    run.world.run_while(until, over);
    let lost = pair.relay.is_some_and(|relay| relay.faults != TurnFaults::default())
        || pair.links.iter().any(|link| link.loss_ppm > 0 || link.blackout != Blackout::default())
        // From an address that is gone nothing can be given back.
        || run.homes.shaken_since(0, run.world.now());
    let left = relaying::left_behind(&mut run, lost);
    run.violations.extend(left);
    let left = homes::left_behind(&mut run, pair);
    run.violations.extend(left);
    let mut known: Vec<IpAddr> = standing::stun(pair.six).to_vec();
    known.extend(pair.relay.map(|_| standing::TURN));
    known.extend((0..pair.brokers.len()).map(|n| standing::broker(pair.six, n as u16)));
    known.extend(run.homes.gateways());
    // A request may name our address before that is settled and announced, and so a lie that is found out later.
    if pair.stun.wrong_address_ppm > 0 {
        known.push(LIE);
    }
    for host in hosts {
        let node = run.world.app(*host).node();
        known.extend(node.addresses().flat_map(|a| a.interfaces().flat_map(|i| [i.external, i.internal])));
    }
    let wrong = flooded::judge(&run, pair, hosts, &known);
    run.violations.extend(wrong);
    if pair.flood.is_some() {
        known.extend(flooded::may_be_dialled(pair));
    }
    let ports = both.map(|host| homes::ports(&run.world, host));
    let announced_after = run.homes.announced_after(&run.world, both);
    let (mut trace, mut page, mut chart) = (String::new(), String::new(), String::new());
    for host in hosts {
        let (world, number) = (&run.world, run.world.host(*host).id());
        let node = world.app(*host).node();
        run.violations.extend(node.violations.iter().cloned());
        let left = world.host(*host).live_sockets();
        if left != 0 {
            run.violations.push(format!("host{number}: {left} sockets are left after the end"));
        }
        if let Some(stranger) = node.dialled.iter().find(|to| !known.contains(&to.ip())) {
            run.violations.push(format!("host{number} dialled {stranger}, which nobody announced"));
        }
        let outcomes = node.pipes.iter().flat_map(|p| p.start.answers.iter()).count()
            + node.events.iter().filter(|(_, n)| matches!(n, Event::Failed { .. })).count();
        if outcomes > run.calls {
            run.violations.push(format!("host{number}: {outcomes} outcomes of {} calls", run.calls));
        }
    }
    if let Err(why) = run.world.check() {
        run.violations.push(why);
    }
    if pair.trace {
        trace = run.world.trace().map(Trace::text).unwrap_or_default();
        let title = format!("{} calls {}", pair.chains[1], pair.chains[0]);
        page = run.world.trace().map(|t| t.html(&title, &[])).unwrap_or_default();
        chart = run.world.trace().map(|t| t.svg(&title, &[], 0)).unwrap_or_default();
        for host in hosts {
            let number = run.world.host(*host).id();
            let lines = run.world.with(*host, |p, _| p.node_mut().take_lines());
            trace.push_str(&format!(
                "\nwhat host{number}'s node was told and asked for:\n{}\n",
                lines.join("\n")
            ));
        }
    }
    Ending {
        strategy: first.strategy,
        took: first.took,
        rungs: first.rungs,
        stated: first.stated,
        syns: first.syns,
        nats,
        why: first.why,
        again,
        ports,
        announced_after,
        held: hosts.iter().map(|h| run.world.app(*h).node().most_held).max().unwrap_or(0),
        violations: run.violations,
        digest: run.world.digest(),
        events: run.world.counts().events,
        address: first.address,
        trace,
        page,
        chart,
    }
}
