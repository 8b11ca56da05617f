//! TCP hole punching, on each side of it. A side announces the addresses it comes from, hears the peer's, and dials so
//! that the two NATs let the same connection through.
//!
//! The requester announces itself (INITIAL_MAPPINGS). The responder answers (UPDATED_MAPPINGS) and dials when its
//! answer should have arrived; the requester dials when it has. Every dial leaves from a port that listens too, or is
//! repeated until the rung ends. So any SYN that comes through finds somebody.

mod dialling;
mod ladder;
mod proof;
mod state;

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use smallvec::{SmallVec, smallvec};

use ladder::Ladder;
use proof::Proofs;
#[cfg(all(test, feature = "relay"))]
pub(in crate::node) use state::PunchStage as Stages;
use state::{Punch, PunchStage, SYN_BURST, SYN_EVERY};

use super::{Ctx, Parting, Said};
use crate::address::{PeerAddress, PeerInterface, is_link_local};
use crate::call::{ConnectId, Refusal, Strategy};
use crate::cx::Timer;
use crate::identity::NodeId;
use crate::io::CloseHow;
use crate::limit::Bucket;
use crate::nat::surveyor::Sampled;
use crate::nat::{Behaviour, DeltaType, Foreseen, Foresight, NatType};
use crate::node::admission::Place;
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::signal::mappings::Mappings;
use crate::signal::message::Body;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::ours::{Route, Trust};
use crate::strategy::punch::{self, Side, Tactic};

/// First rung whose dials leave from ports of their own: a stale connection may hold the listener's.
const FRESH_FROM: u8 = 2;
/// Times that a port may be taken by a connection that is none, before it is given up.
const STUCK: u8 = 2;
/// Time of a rung on which each side knows where to dial; then the next begins at the same time.
const MEET_FOR: Duration = Duration::from_secs(2);
/// Time of a dial, over the rungs. Linux sends three SYNs in it, a second apart.
const DIAL_FOR: Duration = Duration::from_millis(2900);
/// Time of a rung on which both sides search: two seconds of dials, a round trip, and less than the second retransmission of the
/// first SYN, 3 s after it. Another rung is worth more than a longer one: its flows take ports that those before left.
const BOTH_SEARCH_FOR: Duration = Duration::from_millis(2900);
/// Time of a rung that searches: two seconds of dials, the time that each of them has, and no more. Another rung swaps who is
/// early, and takes new ports.
const SEARCH_FOR: Duration = Duration::from_secs(4);
/// Listeners of one punch: one for each dial of a search from many ports.
const MAX_LISTENERS: usize = punch::PROBES as usize;
/// Half-open sockets of one punch.
const MAX_HALF_OPEN: usize = 1024;
/// Dials for the punches with one peer: so many at once, and as many again every two minutes. A router remembers them
/// that long.
pub(in crate::node) const MAX_DIALS: u32 = 8192;
pub(in crate::node) const DIALS_EVERY: Duration = Duration::from_micros(120_000_000 / MAX_DIALS as u64);
/// Dials of one punch with a stranger: one for each of its messages, of three SYNs. The number is small, since anybody
/// can ask.
const MAX_DIALS_STRANGER: u32 = 4;
/// Times that a refused dial is repeated at once: a constant pause locks two sides out of phase, no pause cannot
/// (simulation and kernel, ADR 13). Later repetitions come after random pauses up to this.
const AT_ONCE: u8 = 8;
const PAUSE: Duration = Duration::from_millis(200);
/// Time to wait for the peer's next rung after one of its.
const REST_FOR: Duration = Duration::from_secs(15);
/// Time to wait for a stranger's next rung: the stranger has to show itself. Two announcements are two seconds apart,
/// and their ways up to two more.
const STRANGERS_REST_FOR: Duration = Duration::from_secs(5);
const FOR_EVER: Duration = Duration::from_secs(7200);
/// Streams of one punch refused for the holes of older dials.
const MAX_TAINTED: u8 = 3;
/// Longest delay of a start that the peer asks for.
const MAX_DELAY: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(in crate::node) struct Punches {
    // Boxed: a map makes room for eleven at once, and few nodes have eleven calls.
    all: BTreeMap<Key, Box<Punch>>,
    /// Calls of ours that punch.
    ladders: BTreeMap<ConnectId, Ladder>,
    proofs: Proofs,
}

/// Parties of a punch.
#[derive(Clone, Copy)]
struct With<'a> {
    key: Key,
    peer: NodeId,
    terms: Terms,
    address: &'a PeerAddress,
    /// The call, where it is ours.
    connect: Option<ConnectId>,
}

impl Punches {
    /// Begins a rung. `theirs` is the peer's announcement, where the peer is the requester. False: there is no way to
    /// the peer.
    fn begin_rung(
        &mut self,
        ctx: &mut Ctx<'_>,
        With { key, peer, terms, address, connect }: With<'_>,
        via: SmallVec<[u8; 2]>,
        rung: u8,
        theirs: Option<&Mappings>,
    ) -> bool {
        let trust = ctx.admission.trust(peer);
        let Some((route, behaviour)) = easiest_route(ctx, address, theirs) else { return false };
        let before = self.take_punch(ctx, key);
        let dials = before.as_ref().map_or(0, |p| p.dials);
        let asked = before.as_ref().map_or(1, |p| p.asked.saturating_add(1));
        let stalled = before.as_ref().is_some_and(|p| p.stalls);
        let (silent, proofs) = before.as_ref().map(|p| (p.silent.clone(), p.proofs)).unwrap_or_default();
        let mut took_part = before.as_ref().map(|p| p.took_part.clone()).unwrap_or_default();
        if key.1 == Requester::Us {
            // Our user has named these.
            took_part.extend(address.interfaces().flat_map(|i| [i.external, i.internal]));
        }
        let belief = before.as_ref().map(|p| p.belief_after()).unwrap_or_default();
        let theirs_before = before.as_ref().and_then(|p| p.theirs.as_ref()).map(|t| t.behaviour);
        let took = before.as_ref().and_then(|p| p.took);
        let (stale, tainted) =
            before.as_ref().map_or_else(Default::default, |p| (p.stale.clone(), p.tainted));
        // What is under way goes on until the new rung dials: a port that falls silent meanwhile answers the
        // peer's SYN by its listener, with a sequence number that our NAT does not expect any more.
        let (mut live, mut waiting, flows) = before.map(|p| (p.live, p.waiting, p.flows)).unwrap_or_default();
        // A search leaves holes in our NAT for two minutes, in which the listener could be met by the next one.
        let varies = behaviour.is_symmetric();
        let searches = behaviour.filters_by_port()
            && match theirs {
                Some(theirs) => theirs.ports.is_empty() || (varies && theirs.behaviour.is_symmetric()),
                None => address
                    .interfaces()
                    .any(|i| picks_random_ports(i) || (varies && i.nat == NatType::Symmetric)),
            };
        // The survey has made mappings of the listener's port, which a NAT that keeps ports keeps for one only.
        let fresh = rung >= FRESH_FROM || searches || behaviour.keeps_once();
        let counts = |b: Behaviour| matches!(b.foresight(), Foresight::Next(_));
        if counts(behaviour) || theirs_before.is_some_and(counts) {
            // Unless each dial takes one of the ports that are about to be predicted: of ours, or of the peer's, whose
            // router takes one for each RST that it answers with (Linux: seen in the lab).
            waiting.clear();
            ctx.sessions.close_dials(ctx.cx, core::mem::take(&mut live).into_keys());
        }
        let surveyed = ctx.network.surveyor().settled();
        let listen = ctx.network.listen_port(route.internal.is_ipv4()).unwrap_or(0);
        let (internal, external) = (route.internal, route.external);
        let ours = Side { behaviour, external, internal, ports: SmallVec::new(), listen, others: 0 };
        let delay =
            theirs.map_or(Duration::ZERO, |t| (t.signal_delay + ctx.signalling.delay(&via)).min(MAX_DELAY));
        // A quarter longer: SYNs cross unless one side is later than the way is long, the asking side is late by what
        // it takes to read our answer, and our waiting costs it nothing. Not more, since the way between us may be
        // less than half as long as the one by the broker.
        let delay = delay * 5 / 4;
        let now = ctx.cx.now;
        let punch = Punch {
            peer,
            connect,
            trust,
            terms,
            via,
            rung,
            sources: address.interfaces().flat_map(|i| [i.external, i.internal]).collect(),
            local: internal,
            stage: PunchStage::Sampling,
            ours,
            theirs: theirs.and_then(side_of),
            delay,
            began: now,
            announced: now,
            took,
            until: now + MEET_FOR,
            port: if fresh { ctx.cx.fresh_port() } else { listen },
            waiting,
            search: None,
            flows,
            live,
            budget: Bucket::new(SYN_BURST, SYN_EVERY),
            dials,
            asked,
            silent,
            proofs,
            took_part,
            stalls: false,
            stalled,
            refused: 0,
            hurries: false,
            tactic: None,
            fresh,
            listeners: BTreeMap::new(),
            foreseen: Foreseen::default(),
            belief,
            ground: None,
            stated: None,
            stale,
            tainted,
            walk: 0,
            probed: 0,
            surveyed,
        };
        self.all.insert(key, Box::new(punch));
        ctx.sessions.set_punched(key, true);
        let opens = punch::opens(behaviour, rung);
        let needed = match behaviour.foresight() {
            Foresight::Next(_) => !opens,
            Foresight::Measured => fresh,
            Foresight::Offset(_) | Foresight::Nothing { .. } => false,
        };
        if needed && ctx.network.sample(ctx.cx, internal, key) {
            // A server that takes the connection and says nothing must not keep the punch, and its place, for ever.
            ctx.cx.timers.set(Timer::Punch(key), Some(now + MEET_FOR));
        } else {
            self.announce(ctx, key, None);
        }
        true
    }

    /// Ends a punch, with the dials that nobody has answered.
    pub(in crate::node) fn forget_punch(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        if let Some(punch) = self.end_punch(ctx, key) {
            ctx.sessions.close_dials(ctx.cx, punch.live.into_keys());
        }
    }

    /// Ends a punch without touching its streams.
    fn end_punch(&mut self, ctx: &mut Ctx<'_>, key: Key) -> Option<Box<Punch>> {
        self.end_proofs(ctx, key);
        self.take_punch(ctx, key)
    }

    fn take_punch(&mut self, ctx: &mut Ctx<'_>, key: Key) -> Option<Box<Punch>> {
        let mut punch = self.all.remove(&key)?;
        for listener in core::mem::take(&mut punch.listeners).into_values() {
            ctx.sessions.stopped_listening(listener);
            ctx.cx.close(listener, CloseHow::Drop);
        }
        ctx.sessions.set_punched(key, false);
        ctx.cx.timers.set(Timer::Punch(key), None);
        ctx.network.release_sample(ctx.cx, key);
        Some(punch)
    }

    pub(in crate::node) fn sampled(&mut self, ctx: &mut Ctx<'_>, sampled: Sampled) {
        if self.all.get(&sampled.key).is_some_and(|p| p.stage == PunchStage::Sampling) {
            self.announce(ctx, sampled.key, Some(sampled));
        }
    }

    /// Answers a peer that wants to punch, and dials when the answer has arrived. Our user's rules have been asked.
    pub(in crate::node) fn visit(
        &mut self,
        ctx: &mut Ctx<'_>,
        peer: NodeId,
        session: SessionId,
        via: SmallVec<[u8; 2]>,
        mappings: &Mappings,
    ) {
        let key = (session, Requester::Them);
        if !self.may_punch(ctx, peer, mappings) {
            let reason = ctx.why_not_dialled(peer, &mappings.address, Strategy::Punch);
            return ctx.reply(peer, session, &via, reason);
        }
        ctx.sessions.open(key, peer, mappings.terms);
        let (terms, address) = (mappings.terms, &*mappings.address);
        let with = With { key, peer, terms, address, connect: None };
        let begun = self.begin_rung(ctx, with, via.clone(), mappings.rung, Some(mappings));
        if !begun {
            ctx.say(Said::Left(key, peer, Parting::IfStreamless));
            ctx.reply(peer, session, &via, Body::Dialled { count: 0, dials: SmallVec::new() });
        }
    }

    /// Returns true if a tactic dials nothing for these mappings that we would not dial for the peer otherwise.
    fn may_punch(&self, ctx: &Ctx<'_>, peer: NodeId, mappings: &Mappings) -> bool {
        let paths = ctx.paths_to(peer, &mappings.address, ctx.admission.trust(peer));
        // There is no NAT on a link, nor do mappings have zones.
        let may = |ip: IpAddr| !is_link_local(ip) && paths.iter().any(|p| p.remote.ip() == ip);
        let Some(theirs) = side_of(mappings) else { return false };
        let shared = |r: &Route| punch::is_near(r.internal, r.external, &theirs);
        may(theirs.external) && (may(theirs.internal) || !ctx.network.routes().iter().any(shared))
    }

    /// Returns true if a peer's announcement is that of the next rung of a punch that was judged.
    pub(super) fn is_next_rung(&self, key: Key, peer: NodeId, mappings: &Mappings) -> bool {
        self.all.get(&key).is_some_and(|punch| punch.peer == peer && mappings.rung > punch.rung)
    }

    /// Takes in the peer's answer to our announcement.
    pub(in crate::node) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        peer: NodeId,
        session: SessionId,
        mappings: &Mappings,
    ) {
        let key = (session, Requester::Us);
        let may = self.may_punch(ctx, peer, mappings);
        let Some(punch) = self.all.get_mut(&key) else { return };
        if punch.peer != peer || punch.rung != mappings.rung || punch.stage != PunchStage::Announced {
            return;
        }
        if !may {
            ctx.cx.stats.bad_messages += 1;
            return;
        }
        punch.theirs = side_of(mappings);
        punch.sources.push(mappings.external);
        let swapped = is_swapped(punch.rung);
        let wait = if swapped { mappings.signal_delay.min(MAX_DELAY) } else { Duration::ZERO };
        self.stop_asking(key);
        self.plan(ctx, key, wait);
    }

    /// Returns the punch of ours whose other end a stream from this address may be.
    pub(in crate::node) fn awaited_from(&self, ip: IpAddr) -> Option<(Key, NodeId, Terms)> {
        self.all
            .iter()
            .find(|(key, p)| key.1 == Requester::Us && p.sources.contains(&ip))
            .map(|(key, p)| (*key, p.peer, p.terms))
    }

    /// Returns true if a stream that our listener took would break sooner or later, since our NAT holds it for an
    /// earlier dial of ours. Such a stream is to be refused, which clears the NAT's entry too. At most three per punch.
    pub(in crate::node) fn is_tainted(&mut self, local: SocketAddr, remote: SocketAddr) -> bool {
        let of_dial = |p: &&mut Box<Punch>| p.ours.listen == local.port() && p.stale.contains(&remote);
        let Some(punch) = self.all.values_mut().find(of_dial) else { return false };
        let open = punch.ours.behaviour == Behaviour::OPEN;
        if open || punch.tainted >= MAX_TAINTED {
            return false;
        }
        punch.tainted += 1;
        true
    }

    /// Notes that a peer has proved its identity on a stream: the address at the other end takes part.
    pub(in crate::node) fn met(&mut self, ctx: &mut Ctx<'_>, peer: NodeId, ip: IpAddr) {
        let of_peer = self.all.iter().filter(|(_, p)| p.peer == peer).map(|(key, _)| *key);
        let all: SmallVec<[Key; 2]> = of_peer.collect();
        for key in all {
            self.took_part(ctx, key, ip);
        }
    }

    /// Notes that somebody is at this address, in what concerns this punch.
    pub(in crate::node) fn took_part(&mut self, ctx: &mut Ctx<'_>, key: Key, ip: IpAddr) {
        let Some(punch) = self.all.get_mut(&key) else { return };
        let (silent, goes_on) = punch.took_part(ip);
        if let Some(silent) = silent {
            ctx.admission.were_not_silent(punch.peer, silent.dials, ctx.cx.now.since(silent.since));
        }
        if goes_on {
            self.drive_punch(ctx, key);
        }
    }

    /// Ends the punches that leave from the way that we had. Ours begin their next rung once our address is known
    /// again; a peer's next one is a new punch to us.
    pub(in crate::node) fn roam(&mut self, ctx: &mut Ctx<'_>) {
        for key in self.all.keys().copied().collect::<Vec<_>>() {
            self.forget_punch(ctx, key);
        }
    }

    /// Returns the places that punches of peers take. `met`: the peer of a session has proved its identity.
    pub(super) fn places(&self, met: impl Fn(SessionId) -> bool) -> impl Iterator<Item = Place> {
        let theirs = self.all.iter().filter(|(key, _)| key.1 == Requester::Them);
        theirs.map(move |(key, punch)| punch.place(key.0, met(key.0)))
    }

    /// Forgets all at the node's end.
    pub(in crate::node) fn shut(&mut self, ctx: &mut Ctx<'_>) {
        for key in self.all.keys().copied().collect::<Vec<_>>() {
            self.take_punch(ctx, key);
        }
        self.shut_proofs(ctx);
    }

    /// Announces our mappings to the peer, once they are known.
    fn announce(&mut self, ctx: &mut Ctx<'_>, key: Key, sampled: Option<Sampled>) {
        let now = ctx.cx.now;
        let Some(punch) = self.all.get_mut(&key) else { return };
        let signal_delay = ctx.signalling.delay(&punch.via);
        let report = ctx.network.surveyor().of(punch.local);
        // The sample may have shown that what looked like a counter is none.
        punch.ours.behaviour = report.map_or(punch.ours.behaviour, |r| r.behaviour);
        let (listen, fresh) = (punch.ours.listen, punch.fresh);
        punch.foreseen = ctx.network.surveyor().foreseen(punch.local, punch.ours.external, fresh);
        let seen = sampled.and_then(|s| s.seen);
        let opens = punch::opens(punch.ours.behaviour, punch.rung);
        punch.ours.ports = match punch.ours.behaviour.foresight() {
            Foresight::Next(_) | Foresight::Nothing { .. } if opens => {
                // The survey keeps it open.
                report.and_then(|r| r.mapped).map(|mapped| mapped.port()).into_iter().collect()
            }
            Foresight::Offset(offset) => smallvec![punch.port.wrapping_add(offset).max(1)],
            Foresight::Measured if fresh => match (sampled, seen) {
                (Some(sampled), Some(seen)) => {
                    punch.port = sampled.local;
                    smallvec![seen.port()]
                }
                _ => smallvec![punch.port],
            },
            Foresight::Measured => match report.and_then(|r| r.mapped) {
                Some(mapped) => smallvec![mapped.port()],
                None => smallvec![listen],
            },
            Foresight::Next(step) => match (sampled, seen) {
                (Some(sampled), Some(seen)) => {
                    let others = ctx.network.surveyor().others(
                        punch.local,
                        sampled.at,
                        now + punch.until_dials(signal_delay),
                    );
                    punch.ours.others = others;
                    punch::window(seen.port(), step, others)
                }
                _ => smallvec![listen],
            },
            Foresight::Nothing { .. } => SmallVec::new(),
        };
        let (peer, terms, rung, via) = (punch.peer, punch.terms, punch.rung, punch.via.clone());
        let (behaviour, external, ports) =
            (punch.ours.behaviour, punch.ours.external, punch.ours.ports.clone());
        let (delay, swapped) = (punch.delay, is_swapped(rung));
        punch.stage = PunchStage::Announced;
        // The peer's user may be asked first: the connect's own deadline ends the wait.
        punch.until = now + FOR_EVER;
        punch.announced = now;
        let address = Box::new(ctx.address());
        let mappings = Box::new(Mappings { terms, rung, behaviour, signal_delay, external, ports, address });
        match key.1 {
            Requester::Us => self.send_initial(ctx, key, mappings),
            Requester::Them => {
                let (session, trust, stalled) = (key.0, punch.trust, punch.stalled);
                let why = match punch.tactic() {
                    Some(Tactic::Spray { .. } | Tactic::Probe { .. }) if trust == Trust::Stranger => {
                        Some(Refusal::NoSearchForStrangers)
                    }
                    // The peer would search in vain.
                    _ if stalled && !self.may_seek_proof(ctx, key) => Some(Refusal::NoSearchInSilence),
                    _ => None,
                };
                if let Some(why) = why {
                    ctx.cx.stats.refused += 1;
                    self.leave(ctx, key);
                    ctx.doubt();
                    return ctx.reply(peer, session, &via, Body::Refused(why));
                }
                ctx.reply(peer, session, &via, Body::Updated(mappings));
                self.plan(ctx, key, if swapped { Duration::ZERO } else { delay });
            }
        }
    }

    /// Ends our part in a punch that we will not or cannot do. The session is not over: the peer may ask for a dial or
    /// to its relay next.
    fn leave(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        if let Some(punch) = self.end_punch(ctx, key) {
            ctx.say(Said::Left(key, punch.peer, Parting::IfStreamless));
        }
    }
}

/// Returns the route whose NAT is the easiest to punch through, of the family in which the peer can be met.
fn easiest_route(
    ctx: &Ctx<'_>,
    address: &PeerAddress,
    theirs: Option<&Mappings>,
) -> Option<(Route, Behaviour)> {
    let family =
        |v4: bool| address.interfaces().any(|i| i.external.is_ipv4() == v4 && !is_link_local(i.external));
    let fits = |r: &&Route| {
        let fits = theirs.is_none_or(|t| t.external.is_ipv4() == r.internal.is_ipv4());
        fits && family(r.internal.is_ipv4())
    };
    let v4 = ctx.network.routes().iter().find(fits)?.internal.is_ipv4();
    let behaviour_of =
        |r: &Route| ctx.network.surveyor().of(r.internal).map(|report| report.behaviour).unwrap_or_default();
    let ours = ctx.network.routes().iter().filter(|r| r.internal.is_ipv4() == v4);
    let easiest = ours.min_by_key(|r| punch::difficulty(behaviour_of(r))).copied()?;
    Some((easiest, behaviour_of(&easiest)))
}

#[cfg(test)]
impl Punches {
    /// Begins a rung of ours that no call asked for.
    pub(in crate::node) fn begin_alone(
        &mut self,
        ctx: &mut Ctx<'_>,
        (key, peer): (Key, NodeId),
        address: &PeerAddress,
        rung: u8,
    ) -> bool {
        let with = With { key, peer, terms: Terms::ENCRYPTED, address, connect: None };
        self.begin_rung(ctx, with, SmallVec::new(), rung, None)
    }

    pub(in crate::node) fn stage(&self, key: Key) -> Option<PunchStage> {
        self.all.get(&key).map(|punch| punch.stage)
    }

    pub(in crate::node) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(in crate::node) fn announced(&self, key: Key) -> &[u16] {
        self.all[&key].announced()
    }

    /// Returns the tokens of the proofs that we ask for, and the number of all proofs.
    pub(in crate::node) fn tokens(&self) -> (Vec<(Key, [u8; 16])>, usize) {
        let asked = self.proofs.values().filter_map(|p| Some((p.key(), p.token()?)));
        (asked.collect(), self.proofs.len())
    }
}

/// Returns true if an interface's NAT takes a random port for each destination, as far as its address says.
fn picks_random_ports(interface: &PeerInterface) -> bool {
    interface.nat == NatType::Symmetric && interface.delta.kind == DeltaType::Random
}

/// Returns true if the responder dials first on this rung. A NAT that refuses strangers wants its own side first,
/// whichever that is. The first two rungs are not swapped: the second often follows the first at once, when our own NAT
/// has been measured.
fn is_swapped(rung: u8) -> bool {
    rung > 2 && rung % 2 == 1
}

fn side_of(mappings: &Mappings) -> Option<Side> {
    let of = |i: &&PeerInterface| i.external == mappings.external || i.internal == mappings.external;
    let interface = mappings.address.interfaces().find(of)?;
    Some(Side {
        behaviour: mappings.behaviour,
        external: mappings.external,
        internal: interface.internal,
        ports: mappings.ports.clone(),
        listen: interface.port,
        others: 0,
    })
}
