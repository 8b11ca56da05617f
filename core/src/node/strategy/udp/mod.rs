//! UDP hole punching, on each side of it.
//!
//! Each side binds a fresh socket, and measures its mapping from that very socket. The requester announces its own
//! (UDP_REQUEST), the responder answers with its own (UDP_RESPONSE). Both send probes to where the other's mapping is, or is
//! expected to be, by the tactics that TCP punching has ([`crate::strategy::punch`]). The responder waits as long as its answer
//! takes, so that the first probes cross: a router that has seen nothing leave yet may hold the peer's probe for a flow of
//! its own, and give ours another port (Linux).
//!
//! A probe that arrives names its path, also where the port is another than announced. The responder answers there. The
//! requester begins the relay's QUIC there, which proves both ends. From then on the path is a candidate like a relay.

mod attempt;
mod calling;
mod measuring;
mod probe;

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use smallvec::{SmallVec, smallvec};

use attempt::{Attempt, MAX_SOCKETS, Plan, Silent, Stage};
use calling::Calling;
use measuring::Measurement;
use probe::Probes;

use super::{Ctx, Met, Parting, Said};
use crate::address::{PeerAddress, is_link_local};
use crate::call::{ConnectId, Refusal, Strategy};
use crate::cx::{Owner, Timer};
use crate::identity::NodeId;
use crate::io::{CloseHow, Input, SockId};
use crate::nat::Foresight;
use crate::node::admission::Place;
use crate::pipe::Terms;
use crate::random::Domain;
use crate::relay::{RelayConfig, RelayStream};
use crate::session::SessionId;
use crate::signal::mappings::{Mappings, UdpMappings};
use crate::signal::message::Body;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::ours::{Route, Trust};
use crate::strategy::punch::{self, Side, Tactic};

/// Time for probes where each side knows where to send, and where one searches.
const MEET_FOR: Duration = Duration::from_millis(1500);
const SEARCH_FOR: Duration = Duration::from_secs(3);
/// Time for which the responder goes on longer: for the next request, and for QUIC's first packet to be repeated.
const REST_FOR: Duration = Duration::from_secs(3);
/// Longest delay of a start that the peer's way to the broker may cause.
const MAX_DELAY: Duration = Duration::from_secs(2);
/// Time for which the peer is waited for: the call's own deadline comes before.
const FOR_EVER: Duration = Duration::from_secs(7200);

pub(in crate::node) struct Udps {
    // Boxed: a map makes room for eleven at once, and few nodes have eleven calls.
    all: BTreeMap<Key, Box<Attempt>>,
    /// Owners of the sockets.
    socks: BTreeMap<SockId, Key>,
    /// Calls of ours that punch.
    calling: BTreeMap<ConnectId, Calling>,
    silent: Silent,
}

impl Default for Udps {
    fn default() -> Self {
        Udps { all: BTreeMap::new(), socks: BTreeMap::new(), calling: BTreeMap::new(), silent: Silent::new() }
    }
}

/// Parties of an attempt.
struct With {
    key: Key,
    peer: NodeId,
    terms: Terms,
    /// The call, where it is ours.
    connect: Option<ConnectId>,
    via: SmallVec<[u8; 2]>,
    rung: u8,
    /// Window of the stream in each direction, where the peer is to begin it.
    window: u32,
}

impl Udps {
    /// Begins an attempt: binds a socket, whose mapping is measured next.
    fn begin_attempt(&mut self, ctx: &mut Ctx<'_>, with: With, route: Route, theirs: Option<&UdpMappings>) {
        let With { key, peer, terms, connect, via, rung, window } = with;
        self.drop_attempt(ctx, key);
        let now = ctx.cx.now;
        let main = ctx.cx.bind_udp(Owner::Udp, ctx.network.local(route.internal, 0));
        self.socks.insert(main, key);
        let secret: [u8; 16] = ctx.cx.random.bytes(Domain::Udp);
        let probes = theirs.map(|t| Probes::new(&ctx.config.identity, &peer, key, [t.secret, secret]));
        let call = connect.and_then(|connect| self.calling.get(&connect));
        let named = call.map(|calling| calling.named().collect()).unwrap_or_default();
        let attempt = Attempt {
            key,
            peer,
            terms,
            trust: ctx.admission.trust(peer),
            connect,
            via,
            rung,
            window,
            route,
            delay: theirs.map_or(Duration::ZERO, |t| t.mappings.signal_delay),
            since: now,
            stage: Stage::Measuring,
            until: now + FOR_EVER,
            secret,
            main,
            socks: [(main, None)].into_iter().collect(),
            measurement: None,
            ours: None,
            theirs: theirs.map(side_of),
            probes,
            plan: Plan::default(),
            named,
            heard: false,
            stream: None,
            sent: 0,
        };
        self.all.insert(key, Box::new(attempt));
    }

    /// Answers a peer that wants to punch over UDP. Our user's rules have been asked.
    pub(super) fn visit(
        &mut self,
        ctx: &mut Ctx<'_>,
        (key, peer, via): (Key, NodeId, SmallVec<[u8; 2]>),
        theirs: &UdpMappings,
        window: u32,
    ) {
        let mappings = &theirs.mappings;
        let route = best_route(ctx, mappings.external.is_ipv4());
        let (Some(route), true) = (route, self.may(ctx, peer, theirs, ctx.admission.trust(peer))) else {
            let private = self.may(ctx, peer, theirs, Trust::Known);
            let why = Refusal::PrivateForStrangers { asked: Strategy::Udp };
            let stranger = ctx.admission.trust(peer) == Trust::Stranger;
            let answer = if stranger && private { Body::Refused(why) } else { Body::UdpResponse(None) };
            return ctx.reply(peer, key.0, &via, answer);
        };
        ctx.sessions.open(key, peer, mappings.terms);
        let (terms, rung) = (mappings.terms, mappings.rung);
        let with = With { key, peer, terms, connect: None, via, rung, window };
        self.begin_attempt(ctx, with, route, Some(theirs));
    }

    /// Returns true if a peer of this trust may name these addresses: those that it could have us dial.
    fn may(&self, ctx: &Ctx<'_>, peer: NodeId, theirs: &UdpMappings, trust: Trust) -> bool {
        let paths = ctx.paths_to(peer, &theirs.mappings.address, trust);
        let may = |ip: IpAddr| !is_link_local(ip) && paths.iter().any(|p| p.remote.ip() == ip);
        let side = side_of(theirs);
        let shared = |r: &Route| punch::is_near(r.internal, r.external, &side);
        let near = ctx.network.routes().iter().any(shared);
        may(side.external) && (may(side.internal) || !near)
    }

    /// Returns true if a peer's request is that of the next attempt in a session that was judged.
    pub(super) fn is_next_rung(&self, key: Key, peer: NodeId, theirs: &UdpMappings) -> bool {
        self.all.get(&key).is_some_and(|a| a.peer == peer && theirs.mappings.rung > a.rung)
    }

    /// Takes in the peer's answer to our request.
    pub(in crate::node) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        peer: NodeId,
        session: SessionId,
        theirs: Option<&UdpMappings>,
    ) {
        let key = (session, Requester::Us);
        let asked = self.all.get(&key).filter(|a| a.peer == peer && a.stage == Stage::Asking);
        let Some((rung, secret)) = asked.map(|a| (a.rung, a.secret)) else { return };
        let Some(theirs) = theirs else {
            return self.ended(ctx, key, "the peer has no UDP, or would have to search for us".into());
        };
        if theirs.mappings.rung != rung {
            return;
        }
        if !self.may(ctx, peer, theirs, ctx.admission.trust(peer)) {
            ctx.cx.stats.bad_messages += 1;
            return;
        }
        self.stop_asking(key);
        if let Some(attempt) = self.all.get_mut(&key) {
            attempt.theirs = Some(side_of(theirs));
            let secrets = [secret, theirs.secret];
            attempt.probes = Some(Probes::new(&ctx.config.identity, &peer, key, secrets));
        }
        self.probe(ctx, key, Duration::ZERO);
    }

    /// Takes in an input of a socket.
    pub(in crate::node) fn handle(&mut self, ctx: &mut Ctx<'_>, input: Input<'_>) {
        match input {
            Input::Bound { sock, local } => self.bound(ctx, sock, local),
            Input::Datagram { sock, from, data } => self.datagram(ctx, sock, from, data),
            Input::Failed { sock, cause } => {
                let Some(key) = self.socks.remove(&sock) else { return };
                let Some(attempt) = self.all.get_mut(&key) else { return };
                attempt.socks.remove(&sock);
                if attempt.main == sock {
                    self.cannot(ctx, key, format!("no UDP socket: {cause}"));
                }
            }
            _ => {}
        }
    }

    fn bound(&mut self, ctx: &mut Ctx<'_>, sock: SockId, local: SocketAddr) {
        let Some(key) = self.socks.get(&sock).copied() else { return };
        let Some(attempt) = self.all.get_mut(&key) else { return };
        let local = SocketAddr::new(attempt.route.internal, local.port());
        attempt.socks.insert(sock, Some(local));
        if attempt.stage == Stage::Measuring && attempt.measurement.is_none() {
            let family = |s: &SocketAddr| s.is_ipv4() == local.is_ipv4();
            let servers = ctx.network.stun_servers(ctx.cx).unwrap_or_default();
            let servers: Vec<_> = servers.into_iter().filter(family).collect();
            let survey = ctx.network.surveyor().of(local.ip()).map(|r| r.behaviour).unwrap_or_default();
            let follows = survey.mapping.is_none() || survey.is_symmetric();
            attempt.measurement = Some(Measurement::begin(ctx.cx, sock, &servers, follows));
        } else if attempt.stage == Stage::Measuring && attempt.main == sock {
            // The mapping that it will have is known, as it has none yet.
            return self.announce(ctx, key);
        } else if attempt.stage == Stage::Probing {
            attempt.send_first(ctx.cx, sock, &mut self.silent);
        }
        self.drive_attempt(ctx, key);
    }

    fn datagram(&mut self, ctx: &mut Ctx<'_>, sock: SockId, from: SocketAddr, data: &[u8]) {
        let Some(key) = self.socks.get(&sock).copied() else { return };
        let Some(attempt) = self.all.get_mut(&key) else { return };
        let now = ctx.cx.now;
        if attempt.measurement.as_mut().is_some_and(|m| m.datagram(ctx.cx, from, data)) {
            return self.drive_attempt(ctx, key);
        }
        // Only the peer's own addresses are answered.
        if attempt.stage != Stage::Probing || !attempt.names(from.ip()) {
            return;
        }
        if attempt.probes.is_some_and(|p| p.is_theirs(data)) {
            if key.1 == Requester::Us {
                self.meet(ctx, key, sock, from, None);
            } else {
                attempt.hears(ctx.cx, sock, from, &mut self.silent);
                self.arm(ctx, key);
            }
        } else if key.1 == Requester::Them && probe::may_be_quic(data) {
            let Some(mut stream) = attempt.stream.take() else { return };
            stream.handle_datagram(now, data);
            match stream.stats().received {
                0 => attempt.stream = Some(stream),
                _ => self.meet(ctx, key, sock, from, Some(stream)),
            }
        }
    }

    /// Goes on after a change, or when it is time to.
    pub(in crate::node) fn drive_attempt(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let now = ctx.cx.now;
        let Some(attempt) = self.all.get_mut(&key) else { return };
        match attempt.stage {
            Stage::Measuring => {
                let over = attempt.measurement.as_mut().is_some_and(|m| m.drive(ctx.cx));
                if over && attempt.ours.is_none() {
                    return self.measured(ctx, key);
                }
            }
            Stage::Asking => {}
            Stage::Probing if attempt.until <= now => return self.rung_failed(ctx, key),
            Stage::Probing => attempt.send(ctx.cx, &mut self.silent),
        }
        self.arm(ctx, key);
    }

    fn arm(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let Some(attempt) = self.all.get_mut(&key) else { return };
        let next = match (attempt.stage, &mut attempt.measurement) {
            (Stage::Measuring, Some(measurement)) if attempt.ours.is_none() => Some(measurement.next()),
            (Stage::Asking, Some(measurement)) => Some(measurement.keep(ctx.cx)),
            (Stage::Probing, _) => attempt.plan.next,
            (Stage::Measuring | Stage::Asking, _) => None,
        };
        let next = next.unwrap_or(attempt.until).min(attempt.until);
        ctx.cx.timers.set(Timer::Udp(key), Some(next));
    }

    /// Concludes from the measurement what to announce.
    fn measured(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let Some(attempt) = self.all.get_mut(&key) else { return };
        let Some(Some(local)) = attempt.socks.get(&attempt.main).copied() else { return };
        let seen = attempt.measurement.as_ref().map(Measurement::seen).unwrap_or_default();
        let Route { internal, external, .. } = attempt.route;
        let asked = ctx.network.stun_servers(ctx.cx).is_some_and(|s| !s.is_empty());
        if seen.is_empty() && asked && internal != external {
            return self.cannot(ctx, key, "no STUN server answered over UDP".into());
        }
        let survey = ctx.network.surveyor().of(internal).map(|r| r.behaviour).unwrap_or_default();
        let behaviour = measuring::conclude(local, &seen, survey);
        let last = seen.last().map_or(local.port(), |(_, mapped)| mapped.port());
        let once = behaviour.keeps_once();
        let ports = match behaviour.foresight() {
            Foresight::Next(_) | Foresight::Nothing { .. } if behaviour.admits_all() => smallvec![last],
            Foresight::Offset(_) | Foresight::Measured => smallvec![last],
            Foresight::Next(step) => punch::window(last, step, 0),
            Foresight::Nothing { .. } => SmallVec::new(),
        };
        let listen = local.port();
        attempt.ours = Some(Side { behaviour, external, internal, ports, listen, others: 0 });
        if once {
            // Its number is taken by the mapping towards the first server.
            let main = ctx.cx.bind_udp(Owner::Udp, ctx.network.local(internal, 0));
            attempt.socks.insert(main, None);
            attempt.main = main;
            self.socks.insert(main, key);
            return;
        }
        self.announce(ctx, key);
    }

    /// Tells the peer where we come from. The responder plans its probes with it.
    fn announce(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let Some(attempt) = self.all.get_mut(&key) else { return };
        let Some(Some(inside)) = attempt.socks.get(&attempt.main).copied() else { return };
        let Some(ours) = &mut attempt.ours else { return };
        if ours.behaviour.keeps_once() {
            let Foresight::Offset(offset) = ours.behaviour.foresight() else { return };
            (ours.listen, ours.ports) = (inside.port(), smallvec![inside.port().wrapping_add(offset).max(1)]);
        }
        let (terms, rung, behaviour, external) = (attempt.terms, attempt.rung, ours.behaviour, ours.external);
        let (ports, secret, via, peer) =
            (ours.ports.clone(), attempt.secret, attempt.via.clone(), attempt.peer);
        let signal_delay = ctx.signalling.delay(&via);
        let address = Box::new(ctx.address());
        let mappings = Mappings { terms, rung, behaviour, signal_delay, external, ports, address };
        let body = Box::new(UdpMappings { secret, inside, mappings });
        if key.1 == Requester::Us {
            attempt.stage = Stage::Asking;
            self.send_request(ctx, key, body);
            return self.arm(ctx, key);
        }
        let tactic = attempt.tactic();
        let search = matches!(tactic, Some(Tactic::Spray { .. } | Tactic::Probe { .. }));
        if search && attempt.trust == Trust::Stranger {
            return self.cannot(ctx, key, String::new());
        }
        ctx.reply(peer, key.0, &via, Body::UdpResponse(Some(body)));
        // Probes cross unless one side is later than the way is long: a quarter is for what reading the answer takes.
        let Some(attempt) = self.all.get_mut(&key) else { return };
        let delay = (attempt.delay + signal_delay).min(MAX_DELAY) * 5 / 4;
        self.probe(ctx, key, delay);
    }

    /// Begins to send probes, after a while.
    fn probe(&mut self, ctx: &mut Ctx<'_>, key: Key, wait: Duration) {
        let now = ctx.cx.now;
        let Some(attempt) = self.all.get_mut(&key) else { return };
        let Some(mut tactic) = attempt.tactic() else { return };
        if let (Tactic::Probe { count, .. }, Some(calling)) =
            (&mut tactic, attempt.connect.and_then(|c| self.calling.get(&c)))
        {
            *count = calling.most_ports().min(*count);
        }
        if let Tactic::Hopeless(why) = tactic {
            return self.ended(ctx, key, why.into());
        }
        let internal = attempt.route.internal;
        let mut fresh = Vec::new();
        let room = match key.1 {
            Requester::Us => usize::MAX,
            Requester::Them => MAX_SOCKETS.saturating_sub(self.socks.len()),
        };
        for _ in 0..usize::from(attempt.sockets(&tactic)).min(room) {
            let sock = ctx.cx.bind_udp(Owner::Udp, ctx.network.local(internal, 0));
            attempt.socks.insert(sock, None);
            self.socks.insert(sock, key);
            fresh.push(sock);
        }
        let order = ctx.cx.random.below(Domain::Udp, u64::MAX);
        attempt.plan(&tactic, &fresh, now + wait, order);
        let near = attempt.theirs.as_ref().filter(|t| attempt.is_near(t));
        if let Some(to) = near.and_then(|t| Some(SocketAddr::new(t.external, *t.ports.first()?))) {
            // Behind one carrier's NAT the inside addresses lead nowhere.
            attempt.also_to(to);
        }
        attempt.stage = Stage::Probing;
        let longer = if key.1 == Requester::Them { wait + REST_FOR } else { wait };
        attempt.until = now + longer + if attempt.searches() { SEARCH_FOR } else { MEET_FOR };
        if key.1 == Requester::Them {
            let defaults = RelayConfig::direct(ctx.signalling.delay(&attempt.via));
            let config = defaults.within(attempt.window, ctx.config.has_aes());
            let seed = ctx.cx.random.draw(Domain::RelaySeed);
            let (ours, peer) = (&ctx.config.identity, &attempt.peer);
            let mut stream = RelayStream::accept(ours, peer, &key.0.0, seed, &config, now);
            stream.await_until(attempt.until);
            attempt.stream = Some(Box::new(stream));
        }
        self.tell_probing(ctx, key, &tactic);
        self.drive_attempt(ctx, key);
    }

    /// Hands the path on by which both ends hear each other.
    fn meet(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: Key,
        sock: SockId,
        remote: SocketAddr,
        stream: Option<Box<RelayStream>>,
    ) {
        let Some(attempt) = self.all.get_mut(&key) else { return };
        let Some(Some(local)) = attempt.socks.remove(&sock) else { return };
        self.socks.remove(&sock);
        let Attempt { peer, terms, connect, window, .. } = **attempt;
        let via = attempt.via.clone();
        self.drop_attempt(ctx, key);
        let path = [local, remote];
        let stream = stream.map(|stream| (stream, window));
        ctx.say(Said::Met(Box::new(Met { key, peer, terms, connect, via, path, sock, stream })));
    }

    /// Ends an attempt that found no path: the next one follows, or the end.
    fn rung_failed(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        // A second search would take as many ports again, of which some subscribers have 2,000.
        let once = self.all.get(&key).is_some_and(|a| a.searches());
        if key.1 == Requester::Us && !once && self.next_rung(ctx, key) {
            return;
        }
        let why = self.all.get(&key).map(|a| a.describe()).unwrap_or_default();
        self.ended(ctx, key, why);
    }

    /// Ends an attempt for which we have no socket or no mapping. The peer is told.
    fn cannot(&mut self, ctx: &mut Ctx<'_>, key: Key, why: String) {
        if let Some(attempt) = self.all.get(&key).filter(|_| key.1 == Requester::Them) {
            let (peer, via) = (attempt.peer, attempt.via.clone());
            ctx.reply(peer, key.0, &via, Body::UdpResponse(None));
        }
        self.ended(ctx, key, why);
    }

    /// Ends our part for good.
    fn ended(&mut self, ctx: &mut Ctx<'_>, key: Key, why: String) {
        let Some(attempt) = self.all.get(&key) else { return };
        let (peer, connect) = (attempt.peer, attempt.connect);
        self.drop_attempt(ctx, key);
        match connect {
            Some(connect) => self.call_ended(ctx, connect, why),
            None => ctx.say(Said::Left(key, peer, Parting::IfStreamless)),
        }
    }

    fn drop_attempt(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let Some(attempt) = self.all.remove(&key) else { return };
        ctx.cx.timers.set(Timer::Udp(key), None);
        for sock in attempt.socks.into_keys() {
            self.socks.remove(&sock);
            ctx.cx.close(sock, CloseHow::Drop);
        }
    }

    /// Ends everything with the node.
    pub(super) fn shut(&mut self, ctx: &mut Ctx<'_>) {
        for key in self.all.keys().copied().collect::<Vec<_>>() {
            self.drop_attempt(ctx, key);
        }
        self.calling.clear();
    }

    /// Returns the places that requests of peers take.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.all.values().filter(|a| a.key.1 == Requester::Them).map(|a| a.place())
    }
}

/// Returns the interface to punch from: the one whose NAT is the easiest.
fn best_route(ctx: &Ctx<'_>, v4: bool) -> Option<Route> {
    let difficulty = |r: &&Route| {
        let report = ctx.network.surveyor().of(r.internal);
        punch::difficulty(report.map(|report| report.behaviour).unwrap_or_default())
    };
    let ours = ctx.network.routes().iter().filter(|r| r.internal.is_ipv4() == v4);
    ours.filter(|r| !ctx.network.is_by_nat64(r.internal)).min_by_key(difficulty).copied()
}

/// Returns the interface for an attempt: both families by turns where both ends have both, IPv4 first.
fn route_to(ctx: &Ctx<'_>, address: &PeerAddress, rung: u8) -> Option<Route> {
    let theirs = |v4| address.interfaces().any(|i| i.external.is_ipv4() == v4 && !is_link_local(i.external));
    let common = [true, false].into_iter().filter(|v4| theirs(*v4));
    let routes: SmallVec<[Route; 2]> = common.filter_map(|v4| best_route(ctx, v4)).collect();
    routes.get(usize::from(rung) % routes.len().max(1)).copied()
}

fn side_of(theirs: &UdpMappings) -> Side {
    let Mappings { behaviour, external, ref ports, .. } = theirs.mappings;
    let (internal, listen) = (theirs.inside.ip(), theirs.inside.port());
    Side { behaviour, external, internal, ports: ports.clone(), listen, others: 0 }
}
