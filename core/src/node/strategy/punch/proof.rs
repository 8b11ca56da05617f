//! Proof of a peer's address: whoever names one is there, and so may have us search for its port.
//!
//! A punch says where the peer is, and that may be anybody's address. The side that searches gets a relayed address at a
//! TURN server of its own, permits the peer's address there, and names the relayed one to the peer with a token
//! (PROVE, over a broker). The peer calls from home. The answer is a knock that goes to where the call came from, and
//! only whoever is there, with the peer's key, can answer it.
//!
//! ```text
//! CALL     peer -> relayed address     of the token
//! KNOCK    back to the call's source   another token
//! ANSWER   peer -> relayed address     of that one
//! ```
//! The server vouches for addresses that it sees, and a source can be forged; hence the knock. Calls and answers are
//! keyed hashes under the two peers' secret and the session. So no service that repeats what it gets can answer, no
//! third node, and nothing of another call counts.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use super::Punches;
use super::state::Punch;
use crate::cx::{Cx, Owner, Timer};
use crate::identity::NodeId;
use crate::io::{CloseHow, Input, SockId};
use crate::login::ServerRef;
use crate::node::servers::{ServerNews, Servers};
use crate::node::strategy::Ctx;
use crate::node::strategy::knock::{KnockKey, LENGTH};
use crate::pipe::PipeId;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::message::Body;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::ours::Trust;
use crate::time::Instant;
use crate::turn::{Credentials, Family};

/// Allocations for proofs at a time, and those for one peer.
const MAX_ASKED: usize = 16;
const MAX_ASKED_OF_ONE: usize = 4;
/// Proofs for one call, ours and the peer's together: one that is lost is asked for again.
const MAX_OF_CALL: u8 = 4;
/// Time for a proof, from the request for an allocation on.
const WITHIN: Duration = Duration::from_secs(5);
/// Knocks in answer to calls. Each has as many bytes as the call.
const KNOCKS: u8 = 4;
/// Calls, with a pause before each next one that is twice the one before.
const CALLS: u8 = 4;
const PAUSE: Duration = Duration::from_millis(250);
/// Answers to knocks, of which there may be one for each call.
const ANSWERS: u8 = KNOCKS;

/// Time for a server to hear that a proof needs it no longer.
const END_WITHIN: Duration = Duration::from_secs(5);

pub(super) type Proofs = BTreeMap<PipeId, Box<Proof>>;

/// A proof that is under way.
pub(in crate::node) struct Proof {
    key: Key,
    peer: NodeId,
    until: Instant,
    side: Side,
}

enum Side {
    /// The peer is being asked.
    Asks(Box<Asks>),
    /// The peer was asked, and the server is being told that we need it no longer.
    Leaves(Box<Servers>),
    /// The peer asks us.
    Shows(Shows),
}

struct Asks {
    servers: Servers,
    /// The address in question.
    ip: IpAddr,
    /// Places of the brokers that reach the peer.
    via: SmallVec<[u8; 2]>,
    token: [u8; 16],
    call: [u8; LENGTH],
    knock: [u8; LENGTH],
    answer: [u8; LENGTH],
    knocks: u8,
}

struct Shows {
    sock: SockId,
    /// The relayed address that the peer has named.
    to: SocketAddr,
    knock_key: KnockKey,
    call: [u8; LENGTH],
    calls: u8,
    next: Option<Instant>,
    answers: u8,
}

/// Outcome of an [`Asks`].
enum Found {
    Nothing,
    Relayed(SocketAddr),
    Proven,
    Failed,
    Redirected(usize, SocketAddr, bool),
    Stale(u8),
}

impl Punches {
    /// Asks the peer of a punch to prove that it is at this address, if we have a server and the proof is worth one.
    pub(super) fn seek_proof(&mut self, ctx: &mut Ctx<'_>, key: Key, ip: IpAddr) {
        let asked = || self.proofs.values().filter(|p| matches!(p.side, Side::Asks(_)));
        let Some(punch) = self.all.get(&key) else { return };
        let (peer, via) = (punch.peer, punch.via.clone());
        if !self.may_seek_proof(ctx, key)
            || asked().count() >= MAX_ASKED
            || asked().filter(|p| p.peer == peer).count() >= MAX_ASKED_OF_ONE
            || asked().any(|p| p.key == key)
        {
            return;
        }
        if let Some(punch) = self.all.get_mut(&key) {
            punch.proofs += 1;
        }
        let id = ctx.cx.fresh_pipe();
        let servers =
            ctx.ask_servers(Owner::Proof(id), if ip.is_ipv4() { Family::V4 } else { Family::V6 }, false);
        let knock_key = KnockKey::new(&ctx.config.identity, &peer, key.0);
        let token: [u8; 16] = ctx.cx.random.bytes(Domain::Proof);
        let [knock, answer] = knock_key.knock(&ctx.cx.random.bytes(Domain::Proof));
        let call = knock_key.call(&token, &ctx.node_id());
        let asks = Asks { servers, ip, via, token, call, knock, answer, knocks: KNOCKS };
        let until = ctx.cx.now + WITHIN;
        self.proofs.insert(id, Box::new(Proof { key, peer, until, side: Side::Asks(Box::new(asks)) }));
        self.work_proof(ctx, id);
    }

    /// Returns true if the peer of a punch may still be asked for a proof.
    pub(super) fn may_seek_proof(&self, ctx: &Ctx<'_>, key: Key) -> bool {
        let open = |p: &Punch| p.trust == Trust::Known && p.proofs < MAX_OF_CALL;
        !ctx.config.turn.is_empty() && self.all.get(&key).is_some_and(|p| open(p))
    }

    /// Shows a peer that we are where we say, as it asks us to. Returns true if that had an effect.
    pub(in crate::node) fn show(
        &mut self,
        ctx: &mut Ctx<'_>,
        peer: NodeId,
        session: SessionId,
        token: [u8; 16],
        to: SocketAddr,
    ) -> bool {
        let Some(key) = self.punch_with(peer, session) else { return false };
        let may = ctx.may_send_to(to.ip(), Trust::Known);
        let busy = self.proofs.values().any(|p| p.key == key && matches!(p.side, Side::Shows(_)));
        let Some(punch) = self.all.get_mut(&key) else { return false };
        let from = punch.local();
        if !may || busy || punch.proofs >= MAX_OF_CALL || from.is_ipv4() != to.is_ipv4() {
            return false;
        }
        punch.proofs += 1;
        let id = ctx.cx.fresh_pipe();
        let local = ctx.network.local(from, 0);
        let sock = ctx.cx.bind_udp(Owner::Proof(id), local);
        let knock_key = KnockKey::new(&ctx.config.identity, &peer, session);
        let call = knock_key.call(&token, &peer);
        let shows = Shows { sock, to, knock_key, call, calls: CALLS, next: None, answers: ANSWERS };
        let until = ctx.cx.now + WITHIN;
        self.proofs.insert(id, Box::new(Proof { key, peer, until, side: Side::Shows(shows) }));
        self.work_proof(ctx, id);
        true
    }

    /// Returns true if a peer may ask us for a proof in this session: our user has named it, and we punch.
    pub(in crate::node) fn punches_with(&self, peer: NodeId, session: SessionId) -> bool {
        self.punch_with(peer, session).is_some()
    }

    /// Ends the proofs for a punch that is over.
    pub(super) fn end_proofs(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let of_key = self.proofs.iter().filter(|(_, p)| p.key == key).map(|(id, _)| *id);
        for id in of_key.collect::<Vec<_>>() {
            self.end_proof(ctx, id);
        }
    }

    /// Ends all proofs at the node's end.
    pub(super) fn shut_proofs(&mut self, ctx: &mut Ctx<'_>) {
        for id in self.proofs.keys().copied().collect::<Vec<_>>() {
            self.end_proof(ctx, id);
            self.forget_proof(ctx, id);
        }
    }

    /// Hands the user's new credentials for a TURN server on; `None` if the user has none.
    pub(in crate::node) fn renew(&mut self, ctx: &mut Ctx<'_>, place: u8, fresh: Option<&Credentials>) {
        for id in self.proofs.keys().copied().collect::<Vec<_>>() {
            if let Some(servers) = self.proofs.get_mut(&id).and_then(|p| p.servers()) {
                servers.renew(ctx.cx, place, fresh);
            }
            self.work_proof(ctx, id);
        }
    }

    /// Takes in an input of a proof's socket or look-up.
    pub(in crate::node) fn handle(&mut self, ctx: &mut Ctx<'_>, id: PipeId, input: Input<'_>) {
        let Some(proof) = self.proofs.get_mut(&id) else { return };
        match (&mut proof.side, input) {
            (Side::Shows(shows), Input::Bound { .. }) => shows.next = Some(ctx.cx.now),
            (Side::Shows(shows), Input::Datagram { from, data, .. }) => {
                return shows.datagram(ctx.cx, from, data);
            }
            (Side::Shows(_), Input::Failed { .. }) => return self.end_proof(ctx, id),
            (Side::Shows(_), _) => return,
            (Side::Asks(asks), input) => asks.servers.handle(ctx.cx, input),
            (Side::Leaves(servers), input) => servers.handle(ctx.cx, input),
        }
        self.work_proof(ctx, id);
    }

    /// Takes in that a proof's time has come.
    pub(in crate::node) fn proof_timeout(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        if let Some(servers) = self.proofs.get_mut(&id).and_then(|p| p.servers()) {
            servers.timeout(ctx.cx);
        }
        self.work_proof(ctx, id);
    }

    /// Goes on with a proof after anything that happened to it.
    pub(super) fn work_proof(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let now = ctx.cx.now;
        while let Some(proof) = self.proofs.get_mut(&id) {
            let found = match &mut proof.side {
                Side::Asks(asks) => asks.take_in(ctx.cx),
                Side::Leaves(_) => Found::Nothing,
                Side::Shows(shows) => shows.call(ctx.cx),
            };
            let (key, peer) = (proof.key, proof.peer);
            match found {
                Found::Nothing if proof.until <= now => match proof.side {
                    Side::Asks(_) => self.proof_failed(ctx, id),
                    Side::Shows(_) => self.end_proof(ctx, id),
                    Side::Leaves(_) => self.forget_proof(ctx, id),
                },
                Found::Nothing => break,
                Found::Relayed(relayed) => {
                    if let Side::Asks(asks) = &mut proof.side {
                        let (via, token) = (asks.via.clone(), asks.token);
                        ctx.reply(peer, key.0, &via, Body::Prove { token, relayed });
                    }
                }
                Found::Proven => {
                    let Side::Asks(asks) = &proof.side else { break };
                    let ip = asks.ip;
                    self.end_proof(ctx, id);
                    self.took_part(ctx, key, ip);
                }
                Found::Failed => self.proof_failed(ctx, id),
                Found::Redirected(by, to, anywhere) => {
                    let may = ctx.network.may_follow(to, anywhere);
                    if let Some(servers) = self.proofs.get_mut(&id).and_then(|p| p.servers()) {
                        servers.follow(ctx.cx, by, to, may);
                    }
                }
                Found::Stale(place) => ctx.logins.want(ctx.cx, ServerRef::Turn(place)),
            }
        }
        let Some(proof) = self.proofs.get_mut(&id) else { return };
        if let Side::Leaves(servers) = &proof.side
            && servers.is_over()
        {
            return self.forget_proof(ctx, id);
        }
        let next = [proof.next(), Some(proof.until)].into_iter().flatten().min();
        ctx.cx.timers.set(Timer::Proof(id), next);
    }

    /// The peer has not shown itself: asks once more, if the punch still waits for it.
    fn proof_failed(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let Some(proof) = self.proofs.get(&id) else { return };
        let (key, ip) = (proof.key, if let Side::Asks(asks) = &proof.side { Some(asks.ip) } else { None });
        self.end_proof(ctx, id);
        if let Some(ip) = ip.filter(|_| self.all.get(&key).is_some_and(|p| p.stalls())) {
            self.seek_proof(ctx, key, ip);
        }
    }

    /// Ends a proof; our server is told.
    fn end_proof(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let Some(mut proof) = self.proofs.remove(&id) else { return };
        ctx.cx.timers.set(Timer::Proof(id), None);
        proof.side = match proof.side {
            Side::Asks(asks) => {
                let mut servers = asks.servers;
                servers.close(ctx.cx);
                proof.until = ctx.cx.now + END_WITHIN;
                Side::Leaves(Box::new(servers))
            }
            Side::Leaves(servers) => Side::Leaves(servers),
            Side::Shows(shows) => return ctx.cx.close(shows.sock, CloseHow::Drop),
        };
        self.proofs.insert(id, proof);
        self.work_proof(ctx, id);
    }

    fn forget_proof(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        ctx.cx.timers.set(Timer::Proof(id), None);
        if let Some(servers) = self.proofs.remove(&id).as_mut().and_then(|p| p.servers()) {
            servers.drop_sockets(ctx.cx);
        }
    }

    /// The punch with a named peer in this session, whoever has asked for it.
    fn punch_with(&self, peer: NodeId, session: SessionId) -> Option<Key> {
        let with = |key: &Key| self.all.get(key).is_some_and(|p| p.peer == peer && p.trust == Trust::Known);
        [Requester::Us, Requester::Them].map(|by| (session, by)).into_iter().find(with)
    }
}

impl Proof {
    #[cfg(test)]
    pub(in crate::node) fn key(&self) -> Key {
        self.key
    }

    #[cfg(test)]
    pub(in crate::node) fn token(&self) -> Option<[u8; 16]> {
        if let Side::Asks(asks) = &self.side { Some(asks.token) } else { None }
    }

    fn servers(&mut self) -> Option<&mut Servers> {
        match &mut self.side {
            Side::Asks(asks) => Some(&mut asks.servers),
            Side::Leaves(servers) => Some(servers),
            Side::Shows(_) => None,
        }
    }

    fn next(&self) -> Option<Instant> {
        match &self.side {
            Side::Asks(asks) => asks.servers.poll_timeout(),
            Side::Leaves(servers) => servers.poll_timeout(),
            Side::Shows(shows) => shows.next,
        }
    }
}

impl Asks {
    /// Takes in one piece of news.
    fn take_in(&mut self, cx: &mut Cx) -> Found {
        while let Some(news) = self.servers.poll_news() {
            match news {
                ServerNews::Allocated(relayed) => {
                    self.servers.permit(cx, SocketAddr::new(self.ip, 0));
                    return Found::Relayed(relayed);
                }
                ServerNews::Data(from, data) if from.ip() == self.ip => {
                    if data[..] == self.answer {
                        return Found::Proven;
                    }
                    if data[..] == self.call && self.knocks > 0 {
                        self.knocks -= 1;
                        self.servers.send(cx, from, &self.knock);
                    }
                }
                ServerNews::Data(..) => {}
                ServerNews::Redirected { by, to, anywhere } => return Found::Redirected(by, to, anywhere),
                ServerNews::Stale(place) => return Found::Stale(place),
                ServerNews::Refused(..) | ServerNews::Lost(_) | ServerNews::Failed(_) => {
                    return Found::Failed;
                }
            }
        }
        Found::Nothing
    }
}

impl Shows {
    /// Answers a knock.
    fn datagram(&mut self, cx: &mut Cx, from: SocketAddr, data: &[u8]) {
        if from == self.to
            && self.answers > 0
            && let Some(answer) = self.knock_key.answer(data)
        {
            self.answers -= 1;
            cx.send_datagram(self.sock, from, Bytes::copy_from_slice(&answer));
        }
    }

    /// Calls if it is time to.
    fn call(&mut self, cx: &mut Cx) -> Found {
        if self.calls > 0 && self.next.is_some_and(|at| at <= cx.now) {
            let made = CALLS - self.calls;
            self.calls -= 1;
            self.next = (self.calls > 0).then_some(cx.now + PAUSE * (1 << made));
            cx.send_datagram(self.sock, self.to, Bytes::copy_from_slice(&self.call));
        }
        Found::Nothing
    }
}
