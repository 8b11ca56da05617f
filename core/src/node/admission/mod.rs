//! Rules on the peers that may make us act, and how much. Strategies ask here, and none decides by itself.
//!
//! A peer is *named* by the accept list, by our user's yes, or by a call of ours while it runs. Everybody else is a
//! *stranger*: it has proved a key, which costs nothing. Strangers use up their own share only, so that a named peer
//! never lacks any.

mod asks;
mod inbox;
mod marks;
mod named;
mod replies;
mod requests;
mod source;
mod wish;

pub(in crate::node) use asks::Waiting;
pub(in crate::node) use inbox::{Stamp, Verdict};
pub(in crate::node) use named::Entry;
pub(in crate::node) use replies::Worth;
pub(in crate::node) use requests::{Denied, Place};
pub use source::Source;
pub(in crate::node) use wish::{How, Kind, Wish};

use crate::strategy::ours::Trust;
use core::time::Duration;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::call::Refusal;
use crate::config::Config;
use crate::cx::{Cx, Timer};
use crate::event::Event;
use crate::identity::{NodeId, SecretKey};
use crate::io::SockId;
use crate::limit::Buckets;
use crate::node::MAX_CONNECTS;
use crate::pipe::{PipeMode, ProtocolTag, Terms};
use crate::signal::message::Message;
use crate::time::{Instant, WallTime};

use asks::{Asks, MAX_WAITING};
use inbox::Inbox;
use marks::Marks;
use named::Named;
use replies::Replies;
use requests::Requests;

/// Answers of one peer to our calls: so many at once, then one each so often.
const ANSWERS: (u32, Duration) = (128, Duration::from_secs(1));
const CALLED_COUNTED: usize = 8192;
/// Dials for a peer's punches to addresses from where nothing has come: so many at once, and as many again in two
/// minutes. Each call of ours may have a peer of its own.
const SILENT_DIALS: (u32, Duration) = (32, Duration::from_millis(3750));
const SILENT_COUNTED: usize = MAX_CONNECTS;

/// Meaning of a message for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Bearing {
    Asks,
    /// The message belongs to a call of ours.
    Answers,
    /// The message leaves nothing behind.
    Tells,
}

#[derive(Debug)]
pub(in crate::node) struct Admission {
    ours: NodeId,
    allow_plain: bool,
    sessions: bool,
    /// Protocols that our user takes; none: all.
    protocols: Vec<ProtocolTag>,
    named: Named,
    asks: Asks,
    marks: Marks,
    inbox: Inbox,
    answers: Buckets<NodeId>,
    requests: Requests,
    replies: Replies,
    /// Dials for punches, by peer.
    syns: Buckets<NodeId>,
    /// Dials for punches to addresses from where nothing has come, by peer.
    silent_dials: Buckets<NodeId>,
}

impl Admission {
    /// Returns the rules at the start. `syns` are the dials for punches that one peer has at once, and how often one
    /// more.
    pub(in crate::node) fn new(config: &Config, syns: (u32, Duration)) -> Self {
        let ours = config.identity.node_id();
        Admission {
            ours,
            allow_plain: config.allow_plain,
            sessions: config.sessions,
            protocols: config.protocols.clone(),
            named: Named::new(ours, config.accept.clone()),
            asks: Asks::default(),
            marks: Marks::new(),
            inbox: Inbox::default(),
            answers: Buckets::new(CALLED_COUNTED, ANSWERS.0, ANSWERS.1),
            requests: Requests::new(),
            replies: Replies::new(),
            syns: Buckets::new(256, syns.0, syns.1),
            silent_dials: Buckets::new(SILENT_COUNTED, SILENT_DIALS.0, SILENT_DIALS.1),
        }
    }

    /// Returns the trust in this peer: it bounds the effects of the peer's authentic messages and hellos.
    pub(in crate::node) fn trust(&self, peer: NodeId) -> Trust {
        self.named.trust(peer)
    }

    #[cfg(test)]
    pub(in crate::node) fn approve(&mut self, peer: NodeId) {
        self.named.approve(peer);
    }

    /// Notes that a call of ours to this peer begins, or that a pipe which one gave goes on looking for ways.
    pub(in crate::node) fn call_began(&mut self, peer: NodeId) {
        self.named.call_began(peer);
    }

    /// Notes that such a call or search is over.
    pub(in crate::node) fn call_ended(&mut self, peer: NodeId) {
        self.named.call_ended(peer);
    }

    /// Decides whether a peer may have a pipe for which it asks, as far as the user's rules say.
    pub(in crate::node) fn enter(&self, peer: NodeId, terms: Terms) -> Result<Entry, Refusal> {
        if terms.mode == PipeMode::Plain && !self.allow_plain && peer != self.ours {
            return Err(Refusal::PlainNotAllowed);
        }
        if terms.mode == PipeMode::Session && !self.sessions {
            return Err(Refusal::NoSessions);
        }
        let entry = self.named.entry(peer).ok_or(Refusal::NotAccepted)?;
        let taken =
            self.protocols.is_empty() || terms.protocol.is_some_and(|tag| self.protocols.contains(&tag));
        if taken { Ok(entry) } else { Err(Refusal::ProtocolNotTaken) }
    }

    /// Puts a question to our user if it is new, and lets something wait for the answer.
    ///
    /// # Errors
    /// The stream or request itself, if there is no room.
    pub(in crate::node) fn ask(
        &mut self,
        cx: &mut Cx,
        peer: NodeId,
        from: Option<IpAddr>,
        what: Waiting,
    ) -> Result<(), Waiting> {
        if self.asks.wait(cx.now, peer, from, what)? {
            cx.notify(Event::Ask { peer, from });
            self.arm_asks(cx);
        }
        Ok(())
    }

    /// Takes in that a peer's stream has ended. A question is over with the last that waits for its answer.
    pub(in crate::node) fn left(&mut self, cx: &mut Cx, peer: NodeId, sock: SockId) {
        if self.asks.left(peer, sock) {
            cx.notify(Event::AskOver { peer });
            self.arm_asks(cx);
        }
    }

    /// Returns true if one more stream of this peer, from this address, may wait for our user's answer.
    pub(in crate::node) fn may_ask(&self, peer: NodeId, from: IpAddr) -> bool {
        self.asks.has_room(peer, Some(from))
    }

    /// Takes in our user's answer about a peer. Returns what waited for it.
    pub(in crate::node) fn answered(
        &mut self,
        cx: &mut Cx,
        peer: NodeId,
        yes: bool,
    ) -> SmallVec<[Waiting; MAX_WAITING]> {
        if yes {
            self.named.approve(peer);
        }
        let waiting = self.asks.answered(peer);
        self.arm_asks(cx);
        waiting
    }

    /// Returns the peers about whom our user has said nothing in time.
    pub(in crate::node) fn late(&self, now: Instant) -> Vec<NodeId> {
        self.asks.late(now)
    }

    /// Forgets all questions.
    pub(in crate::node) fn ask_no_more(&mut self) {
        self.asks.clear();
    }

    /// Returns true if a peer's message may make us answer at all.
    pub(in crate::node) fn may_talk(&self, peer: NodeId) -> bool {
        self.named.entry(peer).is_some() || self.trust(peer) == Trust::Known
    }

    /// Returns true if an envelope that came over the broker at this place is to be opened.
    pub(in crate::node) fn open(
        &mut self,
        now: (Instant, WallTime),
        place: u8,
        ours: &SecretKey,
        envelope: &[u8],
    ) -> bool {
        self.marks.admit(now, place, ours, envelope, self.named.all())
    }

    /// Judges a message before it is carried out.
    pub(in crate::node) fn hear(
        &mut self,
        (now, wall): (Instant, WallTime),
        offset: i64,
        from: NodeId,
        message: &Message,
        bearing: Bearing,
    ) -> Verdict {
        match self.inbox.judge(wall, offset, self.trust(from), message) {
            Verdict::Fresh(_) if bearing == Bearing::Answers && !self.answers.take(now, from) => {
                Verdict::Full
            }
            verdict => verdict,
        }
    }

    /// Keeps the stamp of a message that has caused something: none like it counts again.
    pub(in crate::node) fn keep(&mut self, stamp: Stamp) {
        self.inbox.keep(stamp);
    }

    /// Admits a request in addition to those that have places. Returns the place that makes room for it, if one has to.
    /// `draw` gives a random number below its argument.
    pub(in crate::node) fn admit(
        &mut self,
        now: Instant,
        new: Place,
        terms: Terms,
        places: impl Iterator<Item = Place> + Clone,
        draw: impl FnOnce(u64) -> u64,
    ) -> Result<Option<Place>, Denied> {
        if new.peer == self.ours {
            return Ok(None);
        }
        self.enter(new.peer, terms).map_err(Denied::Refused)?;
        self.requests.admit(now, new, places, draw)
    }

    /// Admits the next request within one that has a place.
    pub(in crate::node) fn go_on(
        &mut self,
        now: Instant,
        place: Place,
        draw: impl FnOnce(u64) -> u64,
    ) -> Result<(), Denied> {
        self.requests.go_on(now, place, draw)
    }

    /// Returns true if a peer may have us send one more message of this worth, and counts it.
    pub(in crate::node) fn may_reply(&mut self, now: Instant, to: NodeId, worth: Worth) -> bool {
        let trust = self.trust(to);
        to == self.ours || self.replies.take(now, to, trust, worth)
    }

    /// Returns true if a punch with this peer may have one more dial to an address from where nothing has come. Counts
    /// the dial.
    pub(in crate::node) fn may_dial_silent(&mut self, now: Instant, peer: NodeId) -> bool {
        self.silent_dials.take(now, peer)
    }

    /// Takes back so many of these dials, since something has come from there. What time has given back already, from
    /// the first of them on, is not given twice.
    pub(in crate::node) fn were_not_silent(&mut self, peer: NodeId, dials: u32, since: Duration) {
        let given = u32::try_from(since.as_micros() / SILENT_DIALS.1.as_micros()).unwrap_or(u32::MAX);
        self.silent_dials.give_back(peer, dials.saturating_sub(given));
    }

    /// Returns true if a punch with this peer may have one more dial, and counts it.
    pub(in crate::node) fn may_dial(&mut self, now: Instant, peer: NodeId) -> bool {
        self.syns.take(now, peer)
    }

    fn arm_asks(&self, cx: &mut Cx) {
        cx.timers.set(Timer::Asks, self.asks.next());
    }
}

#[cfg(test)]
mod tests;
