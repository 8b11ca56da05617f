//! Reverse: the peer is asked over a broker to dial us, and dials.

use core::fmt::Write;
use core::time::Duration;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Contract, Ctx, End, Parting, Request, Said};
use crate::address::PeerAddress;
use crate::call::{ConnectId, Strategy};
use crate::cx::Timer;
use crate::event::Stage;
use crate::failure::IoFailure;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::node::admission::{Kind, Place};
use crate::node::call::facts::Call;
use crate::pipe::Terms;
use crate::portmap::Scope;
use crate::session::SessionId;
use crate::signal::message::{Body, MAX_DIALS};
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::{DialEnd, Dialler};
use crate::strategy::ours::Trust;
use crate::time::Instant;

/// Delay after which a call asks to be dialled at the known addresses though no STUN server has answered. There may
/// be no server, and the peer may be within reach all the same. Once a server has answered, the call asks again.
const OUTSIDE_WITHIN: Duration = Duration::from_secs(1);
/// A visit to a peer that is known ends after this long. It outlives the dials, whose results it reports.
const VISIT_WITHIN: Duration = Duration::from_secs(12);
/// A visit to a stranger takes exactly so long, whatever became of its dials. The stranger cannot learn which of the
/// addresses answered: not from the answer, nor from its time, nor from leave to ask again. Dials without an answer are
/// over by then.
const STRANGERS_VISIT: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub(in crate::node) struct Reverse {
    /// Calls of ours that ask.
    asking: BTreeMap<ConnectId, Asking>,
    visits: BTreeMap<SessionId, Box<Visit>>,
}

/// A call of ours, from the wish to the peer's dial.
#[derive(Debug, Default)]
struct Asking {
    request: Option<Request>,
    told_waiting: bool,
    /// The request was made before our outside address was known.
    early: bool,
    /// Number of our addresses that the peer said it dials.
    peer_dials: Option<u8>,
}

/// A peer asked us to dial it.
#[derive(Debug)]
struct Visit {
    peer: NodeId,
    trust: Trust,
    terms: Terms,
    /// Address that the peer sent.
    address: Box<PeerAddress>,
    dialler: Dialler,
    /// Places of the brokers that reach the peer.
    via: SmallVec<[u8; 2]>,
    since: Instant,
}

impl Reverse {
    /// Takes in that the peer of a call dials us.
    pub(in crate::node) fn peer_dials(&mut self, ctx: &mut Ctx<'_>, call: &Call, count: u8) {
        let Some(asking) = self.asking.get_mut(&call.connect) else { return };
        asking.peer_dials = Some(count);
        if let Some(request) = &mut asking.request {
            request.answered = true;
        }
        ctx.progress(call.connect, Strategy::Reverse, Stage::PeerDials);
        ctx.say(Said::GoesOn(call.connect));
    }

    /// Takes in that the dials of the peer of a call failed.
    pub(in crate::node) fn peer_dialled(
        &mut self,
        ctx: &mut Ctx<'_>,
        call: &Call,
        count: u8,
        dials: &[(SocketAddr, IoFailure)],
    ) {
        let Some(asking) = self.asking.get_mut(&call.connect) else { return };
        if ctx.sessions.has_accepted(call.key()) || asking.will_ask_again() {
            return;
        }
        let mut detail = String::from("the peer dialled us without success");
        for (k, (to, why)) in dials.iter().enumerate() {
            let _ = write!(detail, "{} {to}: {why}", if k == 0 { ":" } else { ";" });
        }
        if dials.is_empty() && count > 0 {
            detail = format!(
                "the peer dialled {count} address(es) of ours without success, and tells strangers no more"
            );
        } else if dials.is_empty() {
            detail = String::from("the peer found no address of ours that it could dial");
        } else if dials.iter().any(|(_, why)| *why == IoFailure::TimedOut) {
            detail.push_str(" (our NAT or firewall does not let it in)");
        }
        self.asking.remove(&call.connect);
        ctx.say(Said::Ended(call.connect, Strategy::Reverse, End::failed(detail)));
    }

    /// Returns true if a refusal of the call's request is no outcome: it was an early one, and another one follows.
    pub(in crate::node) fn will_ask_again(&mut self, call: &Call) -> bool {
        self.asking.get_mut(&call.connect).is_some_and(Asking::will_ask_again)
    }

    /// Returns true if a peer's wish to be dialled at this address is being fulfilled.
    pub(super) fn visits(&self, session: SessionId, peer: NodeId, address: &PeerAddress) -> bool {
        // A peer whose network has become another asks anew in the same session.
        self.visits.get(&session).is_some_and(|v| v.peer != peer || *v.address == *address)
    }

    /// Dials a peer that has asked for it. Our user's rules have been asked.
    pub(super) fn visit(
        &mut self,
        ctx: &mut Ctx<'_>,
        (key, peer, terms): (Key, NodeId, Terms),
        address: PeerAddress,
        via: SmallVec<[u8; 2]>,
    ) {
        let trust = ctx.admission.trust(peer);
        let paths = ctx.paths_to(peer, &address, trust);
        if paths.is_empty() {
            let reason = ctx.why_not_dialled(peer, &address, Strategy::Reverse);
            return ctx.reply(peer, key.0, &via, reason);
        }
        ctx.sessions.close_dials_of(ctx.cx, key);
        let dialler = Dialler::new(paths, ctx.cx.now);
        ctx.reply(peer, key.0, &via, Body::Dialling(dialler.planned() as u8));
        ctx.sessions.open(key, peer, terms);
        let (since, address) = (ctx.cx.now, Box::new(address));
        self.visits.insert(key.0, Box::new(Visit { peer, trust, terms, address, dialler, via, since }));
        self.drive_visit(ctx, key.0);
    }

    /// Goes on with a visit: dials, or ends.
    pub(in crate::node) fn drive_visit(&mut self, ctx: &mut Ctx<'_>, session: SessionId) {
        let now = ctx.cx.now;
        let key = (session, Requester::Them);
        let Some(visit) = self.visits.get_mut(&session) else { return };
        let (peer, terms, until) = (visit.peer, visit.terms, visit.until());
        while let Some(path) = visit.dialler.due(now) {
            let sock = ctx.dial(path, key, peer, terms);
            visit.dialler.started(sock, path, now);
        }
        let stranger = visit.trust == Trust::Stranger;
        let in_vain = visit.dialler.is_exhausted();
        if until > now && (stranger || !in_vain) {
            let next = visit.dialler.next().unwrap_or(until).min(until);
            return ctx.cx.timers.set(Timer::Visit(session), Some(next));
        }
        self.report(ctx, session);
        ctx.doubt();
        let parting = match (stranger, in_vain) {
            (_, true) => Parting::Forget,
            // What has connected may still be in its hello.
            (true, false) => Parting::IfStreamless,
            (false, false) => Parting::Abandon,
        };
        ctx.say(Said::Left(key, peer, parting));
    }

    /// Takes in that a stream of a peer's session is gone. False: the peer is not being dialled.
    pub(in crate::node) fn lost_stream(
        &mut self,
        ctx: &mut Ctx<'_>,
        session: SessionId,
        sock: SockId,
        why: DialEnd,
    ) -> bool {
        let Some(visit) = self.visits.get_mut(&session) else { return false };
        if visit.dialler.ended(sock, why, ctx.cx.now) {
            self.drive_visit(ctx, session);
        }
        true
    }

    /// Ends a visit for the sake of another one.
    pub(super) fn turn_out(&mut self, ctx: &mut Ctx<'_>, session: SessionId) {
        self.report(ctx, session);
        ctx.sessions.close_dials_of(ctx.cx, (session, Requester::Them));
    }

    /// Dials again, after a change of our network, what nobody has answered.
    pub(in crate::node) fn roam(&mut self, ctx: &mut Ctx<'_>) {
        for session in self.visits.keys().copied().collect::<Vec<_>>() {
            ctx.sessions.close_dials_of(ctx.cx, (session, Requester::Them));
            let Some(visit) = self.visits.get_mut(&session) else { continue };
            let paths = ctx.paths_to(visit.peer, &visit.address, visit.trust);
            if !paths.is_empty() {
                visit.dialler = Dialler::new(paths, ctx.cx.now);
                self.drive_visit(ctx, session);
            }
        }
    }

    /// Returns the places that visits take. `met`: the peer of a session has proved its identity.
    pub(super) fn places(&self, met: impl Fn(SessionId) -> bool) -> impl Iterator<Item = Place> {
        self.visits.iter().map(move |(session, visit)| visit.place(*session, met(*session)))
    }

    /// Forgets all at the node's end.
    pub(in crate::node) fn shut(&mut self) {
        self.visits.clear();
    }

    /// Says what became of the dials that a peer asked for, and makes no more.
    fn report(&mut self, ctx: &mut Ctx<'_>, session: SessionId) {
        let Some(visit) = self.visits.remove(&session) else { return };
        ctx.cx.timers.set(Timer::Visit(session), None);
        let count = visit.dialler.planned() as u8;
        let told = if visit.trust == Trust::Stranger { 0 } else { MAX_DIALS };
        let dials = visit.dialler.failures().take(told).collect();
        ctx.reply(visit.peer, session, &visit.via, Body::Dialled { count, dials });
    }
}

impl Contract for Reverse {
    fn begin(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Result<(), String> {
        if let Some(why) = ctx.why_no_signal(call) {
            return Err(why);
        }
        self.asking.insert(call.connect, Asking::default());
        Ok(())
    }

    /// Sends the request, or sends it again.
    fn drive(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Option<End> {
        let ready =
            ctx.is_oneself(call.peer) || ctx.signalling.is_ready(&ctx.signalling.shared_with(&call.address));
        let late = call.started + OUTSIDE_WITHIN <= ctx.cx.now && ctx.network.listeners_are_open();
        let known = is_known_where_to_dial(ctx, call);
        let heard_of = ctx.sessions.has_accepted(call.key());
        let asking = self.asking.get_mut(&call.connect)?;
        if known && core::mem::take(&mut asking.early) && !heard_of {
            (asking.request, asking.peer_dials) = (None, None);
        }
        match &mut asking.request {
            Some(request) => request.repeat(ctx, call),
            None if (known || (late && !asking.early)) && ready => {
                asking.early = !known;
                let body = Body::Direct { terms: call.terms(), address: Box::new(ctx.address()) };
                asking.request = Some(Request::send(ctx, call, Strategy::Reverse, body));
            }
            None => {
                if !core::mem::replace(&mut asking.told_waiting, true) {
                    ctx.progress(call.connect, Strategy::Reverse, Stage::AwaitingBroker);
                }
            }
        }
        None
    }

    fn next(&mut self, now: Instant, call: &Call) -> Option<Instant> {
        match self.asking.get(&call.connect)? {
            Asking { request: None, early: false, .. } => Some(call.started + OUTSIDE_WITHIN),
            Asking { request, .. } => request.as_ref()?.due(),
        }
        .filter(|at| *at > now)
    }

    fn request(&mut self, call: &Call) -> Option<&mut Option<Request>> {
        self.asking.get_mut(&call.connect).map(|asking| &mut asking.request)
    }

    fn waits(&mut self, call: &Call) -> bool {
        self.asking.get(&call.connect).is_some_and(|asking| asking.request.is_none() || asking.early)
    }

    fn describe(&self, _: &Ctx<'_>, call: &Call) -> String {
        self.asking.get(&call.connect).map(Asking::describe).unwrap_or_default()
    }

    fn network_changed(&mut self, call: &Arc<Call>) -> bool {
        if let Some(asking) = self.asking.get_mut(&call.connect) {
            (asking.request, asking.peer_dials, asking.early) = (None, None, false);
        }
        false
    }

    fn forget(&mut self, call: &Call) {
        self.asking.remove(&call.connect);
    }

    fn is_busy(&self, key: Key) -> bool {
        key.1 == Requester::Them && self.visits.contains_key(&key.0)
    }

    fn end(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        if key.1 == Requester::Them && self.visits.remove(&key.0).is_some() {
            ctx.cx.timers.set(Timer::Visit(key.0), None);
        }
    }
}

/// Returns true if an address of ours that the peer may dial is known: outside addresses matter to whoever is outside.
fn is_known_where_to_dial(ctx: &Ctx<'_>, call: &Call) -> bool {
    let near = || {
        let paths = ctx.paths_to(call.peer, &call.address, Trust::Known);
        paths.first().is_some_and(|p| p.local)
    };
    let routes = ctx.network.routes();
    let open = || !routes.is_empty() && routes.iter().all(|r| Scope::of(r.internal) == Scope::Public);
    let known = ctx.network.listeners_are_open() && !ctx.network.is_asking_nat64();
    known && (ctx.network.outside_is_heard() || open() || near())
}

impl Asking {
    fn will_ask_again(&mut self) -> bool {
        if self.early {
            (self.request, self.peer_dials) = (None, None);
        }
        self.early
    }

    fn describe(&self) -> String {
        match (&self.request, self.peer_dials) {
            (None, _) if self.early => {
                "the peer dialled us without success, and no STUN server answered in time".into()
            }
            (None, _) => "no common broker became usable in time".into(),
            (Some(_), Some(n)) => format!("the peer was dialling {n} address(es) of ours"),
            (Some(r), None) => format!("asked {} time(s), the peer did not answer", r.sent),
        }
    }
}

impl Visit {
    /// Returns the end of the visit: the latest one for a known peer, the exact one for a stranger.
    fn until(&self) -> Instant {
        self.since + if self.trust == Trust::Stranger { STRANGERS_VISIT } else { VISIT_WITHIN }
    }

    fn place(&self, session: SessionId, answered: bool) -> Place {
        let Visit { peer, trust, since, .. } = *self;
        Place { kind: Kind::Dial, session, peer, trust, since, answered }
    }
}
