//! A laboratory in a few lines: nodes behind NATs, pipes between them, and faults on the way.
//!
//! The crate's first page has an example.
//!
//! A node is configured by a function of the program under test. It gets a [`Config`](p2pd_core::Config) that names the lab's servers, with a
//! key of the node's own, and returns the one that the node is to have.

mod faults;
mod node;
mod picture;
mod place;
mod scene;
mod sweep;

use core::time::Duration;
use std::collections::BTreeSet;

use p2pd_core::{ConnectId, Event, NodeId, PeerAddress, Plan, Strategy};

use crate::driver::{self, NodeProgram};
use crate::engine::{Nanos, SECOND};
use crate::net::LinkSpec;
use crate::scenario::pair::Program;
use crate::scenario::standing;
use crate::world::{HostId, Trace, World};
use faults::Coming;
use place::Home;

pub use faults::Link;
pub use node::At;
pub use place::Place;
pub use scene::Scene;
pub use sweep::{Finding, Sweep};

/// Longest time that [`Lab::read`] and its like wait, in virtual time. It covers several repeats of TCP on a bad way.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time that a node needs to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Time beyond a call's deadline at which its outcome is there at the latest, by clocks that drift.
const OUTCOME_WITHIN: Duration = Duration::from_secs(2);
/// Longest plan of a connect, as in the core.
const LONGEST_PLAN: Duration = Duration::from_secs(3_600);
/// Bytes of a read or write that a note shows.
const SHOWN: usize = 32;

/// A node of a lab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Peer(usize);

/// One end of a pipe between two nodes of a lab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pipe {
    peer: Peer,
    place: usize,
}

impl Pipe {
    /// Returns the node that has this end.
    pub fn peer(self) -> Peer {
        self.peer
    }
}

/// A node where it stands.
#[derive(Debug)]
struct Standing {
    host: HostId,
    home: usize,
    /// Number of its events that were returned.
    heard: usize,
}

/// A simulated internet with nodes of p2pd in homes behind NATs, and the servers that they use.
///
/// Time goes by in those calls only that wait for something: [`connect`](Self::connect), [`read`](Self::read), [`run_for`](Self::run_for) and the like.
/// The same seed and the same calls give the same run. Nothing reaches the real network.
///
/// The servers are a STUN server at 203.0.113.10 and 203.0.113.11, an MQTT broker at 203.0.113.20 and a TURN server at
/// 203.0.113.12, which has eight relayed addresses. Links take 5 ms each where none is given.
#[derive(Debug)]
pub struct Lab {
    world: World<Program>,
    scene: Scene,
    homes: Vec<Home>,
    peers: Vec<Standing>,
    turn: HostId,
    /// The homes of [`Lab::here`] and [`Lab::there`], once they are built.
    sides: [Option<usize>; 2],
    /// Planned changes, the next first.
    coming: Vec<(Nanos, Coming)>,
    /// Pipes that the user has.
    given: BTreeSet<Pipe>,
    /// Time of the first connected pipe.
    opened: Option<Nanos>,
}

/// Returns a time in the simulator's units; beyond 584 years, these.
fn nanos(time: Duration) -> Nanos {
    time.as_nanos().try_into().unwrap_or(Nanos::MAX)
}

/// Returns a duration as a sentence has it.
fn words(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{} ms", time.as_millis()) } else { format!("{seconds:.1} s") }
}

/// Returns the bytes as a note has them: their number, and the first ones as text.
fn shown(data: &[u8]) -> String {
    let dots = if data.len() > SHOWN { "…" } else { "" };
    let head = &data[..data.len().min(SHOWN)];
    format!("{} bytes: {}{dots}", data.len(), head.escape_ascii())
}

impl Lab {
    /// Makes a lab without nodes, whose packets are recorded for [`trace`](Self::trace), [`pcap`](Self::pcap) and [`picture`](Self::picture).
    pub fn new(seed: u64) -> Lab {
        Lab::of(Scene::plain(seed), true)
    }

    /// Makes the lab of a scene again, as a [`Finding`] prints it.
    ///
    /// # Errors
    /// The words that are no scene.
    pub fn repeat(scene: &str) -> Result<Lab, String> {
        Ok(Lab::of(scene.parse()?, true))
    }

    fn of(scene: Scene, record: bool) -> Lab {
        let mut world = World::new(scene.seed);
        if record {
            world.record();
        }
        let turn = standing::add_all(&mut world);
        Lab {
            world,
            scene,
            homes: Vec::new(),
            peers: Vec::new(),
            turn,
            sides: [None; 2],
            coming: Vec::new(),
            given: BTreeSet::new(),
            opened: None,
        }
    }

    /// Runs a protocol once for every ordered pair of the [presets](crate::nat::PRESETS), between [`here`](Self::here) and
    /// [`there`](Self::there), with drawn faults in half of these worlds. Returns the number of worlds. [`Sweep`] has more to choose.
    ///
    /// A protocol fails by an error or by a panic, and where a node or the world violates what always holds. Two failures
    /// are the same one where their texts are, up to the first colon. Faults begin once a pipe has been connected or accepted.
    ///
    /// # Errors
    /// The first failure, in the smallest world that fails in the same way.
    pub fn every_pair(
        seed: u64,
        protocol: impl Fn(&mut Lab) -> Result<(), String>,
    ) -> Result<u32, Box<Finding>> {
        Sweep::new(seed).run(protocol)
    }

    /// Returns the scene of this lab: its seed and, in a sweep, all that was drawn.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Draws a number of the protocol's own, such as how many messages it sends. The same name gives the same number in one
    /// lab. A sweep draws it anew for each world, and tries smaller ones where it fails.
    ///
    /// # Panics
    /// Where the range is empty, and where the name is none of a scene: words without commas, the first neither `seed`, `here` nor `there`.
    #[track_caller]
    pub fn number(&mut self, name: &str, range: core::ops::RangeInclusive<u64>) -> u64 {
        assert!(scene::is_name(name), "{name:?} is no name of a scene's number");
        assert!(!range.is_empty(), "no number is in {range:?}");
        self.scene.number(name, *range.start(), *range.end())
    }

    /// Returns the virtual time since the lab began.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.world.now())
    }

    /// Lets this much time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.wait(time, |_| false);
    }

    /// Lets time pass until `done`, which is asked after each event, at most this long. Returns whether it was done.
    pub fn wait(&mut self, most: Duration, mut done: impl FnMut(&Lab) -> bool) -> bool {
        let until = self.world.now().saturating_add(nanos(most));
        loop {
            if done(self) {
                return true;
            }
            let due = self.coming.first().map(|(at, _)| *at).filter(|at| *at <= until);
            if self.world.step(due.unwrap_or(until)) {
                continue;
            }
            match due.filter(|at| *at <= self.world.now()) {
                Some(_) => {
                    let (_, change) = self.coming.remove(0);
                    self.change(change);
                }
                None => return done(self),
            }
        }
    }

    /// Opens a pipe from one node to another by the default plan. The first one is the caller's end.
    ///
    /// # Errors
    /// The reason why there is no pipe, with what each strategy met.
    pub fn connect(&mut self, from: Peer, to: Peer) -> Result<(Pipe, Pipe), String> {
        self.connect_by(from, to, Plan::new())
    }

    /// Opens a pipe by this plan.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_by(&mut self, from: Peer, to: Peer, plan: Plan) -> Result<(Pipe, Pipe), String> {
        let ready = |lab: &Lab| [from, to].iter().all(|peer| lab.program(*peer).address().is_some());
        self.wait(READY_WITHIN, ready);
        let address = self.address(to)?;
        let no_pipe = |lab: &Lab, why: &str| {
            format!("no pipe: {} calls {}: {why}", lab.described(from), lab.described(to))
        };
        let call = self.node(from).call(|node, now| node.connect(now, &address, plan));
        let call = call.map_err(|why| no_pipe(self, &why.to_string()))?;
        let ours = self.outcome(from, call).map_err(|why| no_pipe(self, &why))?;
        let caller = self.program(from).node.node_id();
        let theirs = |lab: &Lab| lab.not_given(to, Some(caller));
        self.wait(PATIENCE, |lab| theirs(lab).is_some() || lab.is_over(ours));
        let theirs = theirs(self).ok_or_else(|| no_pipe(self, "it ended before the called node had it"))?;
        self.given.insert(theirs);
        let strategy = self.strategy(ours);
        self.note(from, &format!("has a pipe to {}: {strategy}", self.name(to)));
        self.note(to, &format!("has a pipe to {}: {strategy}", self.name(from)));
        self.begin_faults();
        Ok((ours, theirs))
    }

    /// Waits for the outcome of a call that [`At::call`] began, at most as long as the longest plan.
    ///
    /// # Errors
    /// The reason why there is no pipe, with what each strategy met.
    pub fn outcome(&mut self, peer: Peer, call: ConnectId) -> Result<Pipe, String> {
        let is_out = |lab: &Lab| lab.answered(peer, call).is_some() || lab.failed(peer, call).is_some();
        self.wait(LONGEST_PLAN + OUTCOME_WITHIN, is_out);
        match (self.answered(peer, call), self.failed(peer, call)) {
            (Some(pipe), _) => {
                self.given.insert(pipe);
                Ok(pipe)
            }
            (None, why) => Err(why.unwrap_or_else(|| "the call has no outcome".into())),
        }
    }

    /// Waits for a pipe that another node has opened to this one, and that nobody was given yet.
    ///
    /// # Errors
    /// Nobody came within [`PATIENCE`].
    pub fn accept(&mut self, peer: Peer) -> Result<Pipe, String> {
        self.wait(PATIENCE, |lab| lab.not_given(peer, None).is_some());
        let nobody = || format!("{} has no new pipe after {}", self.described(peer), words(PATIENCE));
        let pipe = self.not_given(peer, None).ok_or_else(nobody)?;
        self.given.insert(pipe);
        self.begin_faults();
        Ok(pipe)
    }

    /// Writes to a pipe. One that is over loses the bytes; [`read`](Self::read) says so.
    pub fn write(&mut self, pipe: Pipe, data: impl AsRef<[u8]>) {
        let data = data.as_ref();
        self.note(pipe.peer, &format!("writes {}", shown(data)));
        let host = self.peers[pipe.peer.0].host;
        self.world.with(host, |program, cx| program.node_mut().write(cx, pipe.place, data));
    }

    /// Says on a pipe that no more follows. The other direction goes on.
    pub fn finish(&mut self, pipe: Pipe) {
        self.note(pipe.peer, "ends its direction");
        let host = self.peers[pipe.peer.0].host;
        self.world.with(host, |program, cx| program.node_mut().end(cx, pipe.place));
    }

    /// Closes a pipe in both directions.
    pub fn close(&mut self, pipe: Pipe) {
        self.note(pipe.peer, "closes its pipe");
        let host = self.peers[pipe.peer.0].host;
        self.world.with(host, |program, cx| program.node_mut().close_pipe(cx, pipe.place));
    }

    /// Reads what has come, and waits until something has, as reading from a socket does: a part of a write, one, or
    /// several at once. No bytes mean the end.
    ///
    /// # Errors
    /// The pipe broke, or nothing came within [`PATIENCE`].
    pub fn read(&mut self, pipe: Pipe) -> Result<Vec<u8>, String> {
        self.wait(PATIENCE, |lab| !lab.pipe(pipe).received.is_empty() || lab.is_over(pipe));
        let host = self.peers[pipe.peer.0].host;
        let take =
            |program: &mut Program| core::mem::take(&mut program.node_mut().pipes[pipe.place].received);
        let data = self.world.with(host, |program, _| take(program));
        let (state, name) = (self.pipe(pipe), self.described(pipe.peer));
        let why = match (&state.broken, state.closed) {
            _ if !data.is_empty() => {
                self.note(pipe.peer, &format!("reads {}", shown(&data)));
                return Ok(data);
            }
            _ if state.ended => {
                self.note(pipe.peer, "reads the end");
                return Ok(data);
            }
            (Some(why), _) => format!("the pipe broke: {name}: {why}"),
            (None, true) => format!("the pipe broke: {name}: cut off"),
            (None, false) => format!("nothing came: {name} waited for {}", words(PATIENCE)),
        };
        self.note(pipe.peer, &why);
        Err(why)
    }

    /// Reads so many bytes, and leaves what follows them.
    ///
    /// # Errors
    /// As [`read`](Self::read), and the end came before.
    pub fn read_exact(&mut self, pipe: Pipe, count: usize) -> Result<Vec<u8>, String> {
        let mut data = Vec::new();
        while data.len() < count {
            let more = self.read(pipe)?;
            if more.is_empty() {
                let name = self.described(pipe.peer);
                return Err(format!("the pipe ended early: {name} has {} of {count} bytes", data.len()));
            }
            data.extend(more);
        }
        let rest = data.split_off(count);
        let host = self.peers[pipe.peer.0].host;
        self.world.with(host, |program, _| {
            program.node_mut().pipes[pipe.place].received.splice(..0, rest);
        });
        Ok(data)
    }

    /// Reads all bytes up to the end.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_to_end(&mut self, pipe: Pipe) -> Result<Vec<u8>, String> {
        let mut data = Vec::new();
        loop {
            match self.read(pipe)? {
                more if more.is_empty() => return Ok(data),
                more => data.extend(more),
            }
        }
    }

    /// Returns the strategy that opened a pipe.
    pub fn strategy(&self, pipe: Pipe) -> Strategy {
        self.pipe(pipe).start.strategy
    }

    /// Returns the handle by which a node is called and its events are had.
    pub fn node(&mut self, peer: Peer) -> At<'_> {
        At { lab: self, peer }
    }

    /// Returns a node's id.
    pub fn id(&self, peer: Peer) -> NodeId {
        self.program(peer).node.node_id()
    }

    /// Returns the newest address that a node handed out.
    ///
    /// # Errors
    /// The node is not ready.
    pub fn address(&self, peer: Peer) -> Result<PeerAddress, String> {
        let address = self.program(peer).address().cloned();
        address.ok_or_else(|| format!("no address: {} is not ready", self.described(peer)))
    }

    /// Checks what always holds: no packet is lost without a reason, NATs' tables agree, and no node broke its contract.
    ///
    /// # Errors
    /// What was violated.
    pub fn check(&self) -> Result<(), String> {
        self.world.check()?;
        let violation = |n: usize| self.program(Peer(n)).violations.first();
        match (0..self.peers.len()).find_map(|n| violation(n).map(|why| (n, why))) {
            Some((n, why)) => Err(format!("a contract was broken: {}: {why}", self.described(Peer(n)))),
            None => Ok(()),
        }
    }

    /// Returns the digest of everything that happened so far.
    pub fn digest(&self) -> u64 {
        self.world.digest()
    }

    /// Returns every packet at each place, and notes of what the user did, as text; empty in a sweep.
    pub fn trace(&self) -> String {
        let mut text = String::new();
        for (n, standing) in self.peers.iter().enumerate() {
            let nats = &self.homes[standing.home].site.nats;
            let nats: Vec<String> = nats.iter().map(|nat| nat.place()).collect();
            let by = if nats.is_empty() { String::new() } else { format!(", {}", nats.join(" and ")) };
            text += &format!("{} is {}{by}\n", standing.host.place(), self.described(Peer(n)));
        }
        text + &self.world.trace().map(Trace::text).unwrap_or_default()
    }

    /// Returns the packets as a pcapng file for Wireshark and tcpdump.
    pub fn pcap(&self) -> Vec<u8> {
        self.world.trace().map(Trace::pcapng).unwrap_or_default()
    }

    /// Returns the packets between nodes, with notes of what the user did, as an SVG: from the first pipe on, or from the
    /// beginning where there is none. Time runs down, each host and NAT has a line where something happens at it. [`Trace::svg`] has the bounds.
    pub fn picture(&self) -> String {
        picture::svg(self)
    }

    /// Returns a node's name in texts: a letter in the order in which nodes came.
    fn name(&self, peer: Peer) -> String {
        let letter = char::from(b'a' + (peer.0 % 26) as u8);
        if peer.0 < 26 { letter.into() } else { format!("{letter}{}", peer.0 / 26) }
    }

    fn described(&self, peer: Peer) -> String {
        format!("{} ({})", self.name(peer), self.homes[self.peers[peer.0].home].described())
    }

    fn program(&self, peer: Peer) -> &NodeProgram {
        self.world.app(self.peers[peer.0].host).node()
    }

    fn pipe(&self, pipe: Pipe) -> &driver::Pipe {
        &self.program(pipe.peer).pipes[pipe.place]
    }

    /// Returns true for a pipe from which nothing more comes.
    fn is_over(&self, pipe: Pipe) -> bool {
        let pipe = self.pipe(pipe);
        pipe.ended || pipe.closed || pipe.broken.is_some()
    }

    fn answered(&self, peer: Peer, call: ConnectId) -> Option<Pipe> {
        let pipes = &self.program(peer).pipes;
        pipes.iter().position(|pipe| pipe.start.answers.contains(&call)).map(|place| Pipe { peer, place })
    }

    /// Returns the reason why a call failed, if it did.
    fn failed(&self, peer: Peer, call: ConnectId) -> Option<String> {
        self.program(peer).events.iter().find_map(|(_, event)| match event {
            Event::Failed { connect, reason, report } if *connect == call => {
                let each = report.strategies.iter();
                let each = each.map(|s| format!("; {} {}: {}", s.strategy, s.outcome.name(), s.detail));
                Some(format!("{reason}{}", each.collect::<String>()))
            }
            _ => None,
        })
    }

    /// Returns the first pipe of a node that nobody was given, from this node or from any.
    fn not_given(&self, peer: Peer, from: Option<NodeId>) -> Option<Pipe> {
        let all = self.program(peer).pipes.iter().enumerate();
        let of = all.filter(|(_, pipe)| from.is_none_or(|from| pipe.start.peer == from));
        of.map(|(place, _)| Pipe { peer, place }).find(|pipe| !self.given.contains(pipe))
    }

    fn note(&mut self, peer: Peer, what: &str) {
        self.world.note(self.peers[peer.0].host, what);
    }
}

/// The link of a home where none is given.
const LINK: LinkSpec = LinkSpec::with_delay(SECOND / 200);
