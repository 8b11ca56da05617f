//! Other machines of the node, as they are lent to a strategy for the time of one event.

use core::time::Duration;
use std::collections::VecDeque;
use std::net::IpAddr;

use smallvec::SmallVec;

use super::Said;
use crate::address::PeerAddress;
use crate::call::{ConnectId, Refusal, Strategy};
use crate::config::Config;
use crate::cx::{Cx, Owner};
use crate::event::{Event, Stage};
use crate::identity::NodeId;
use crate::io::SockId;
use crate::node::admission::{Admission, Worth};
use crate::node::call::facts::Call;
use crate::node::logins::Logins;
use crate::node::network::Network;
use crate::node::servers::Servers;
use crate::node::session::Sessions;
use crate::node::signalling::Signalling;
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::signal::message::Body;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::ours::Trust;
use crate::strategy::paths::{self, Path, Paths};
use crate::turn::Family;

/// A dial may take this long: SYN retransmissions, at 1 s and 3 s or each second, find a path that lost the first.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// Time limit of a dial for a stranger, to two addresses that may both be a third party's. It allows two SYNs each, the
/// second after 1 s. Linux sends four retransmissions a second apart (since 6.5).
const STRANGERS_DIAL_WITHIN: Duration = Duration::from_millis(1900);
/// An answer to a peer's message is of no use later.
const REPLY_WITHIN: Duration = Duration::from_secs(12);

pub(in crate::node) struct Ctx<'a> {
    pub(in crate::node) cx: &'a mut Cx,
    pub(in crate::node) config: &'a Config,
    pub(in crate::node) network: &'a mut Network,
    pub(in crate::node) signalling: &'a mut Signalling,
    pub(in crate::node) admission: &'a mut Admission,
    pub(in crate::node) sessions: &'a mut Sessions,
    pub(in crate::node) logins: &'a mut Logins,
    said: VecDeque<Said>,
}

impl<'a> Ctx<'a> {
    pub(in crate::node) fn new(
        cx: &'a mut Cx,
        config: &'a Config,
        network: &'a mut Network,
        signalling: &'a mut Signalling,
        admission: &'a mut Admission,
        sessions: &'a mut Sessions,
        logins: &'a mut Logins,
    ) -> Self {
        Ctx { cx, config, network, signalling, admission, sessions, logins, said: VecDeque::new() }
    }
}

impl Ctx<'_> {
    pub(in crate::node) fn node_id(&self) -> NodeId {
        self.config.identity.node_id()
    }

    pub(in crate::node) fn is_oneself(&self, peer: NodeId) -> bool {
        peer == self.node_id()
    }

    /// Returns our address as it is known now.
    pub(in crate::node) fn address(&self) -> PeerAddress {
        self.network.address(self.signalling.announced(), self.node_id())
    }

    /// Tells the calls something.
    pub(super) fn say(&mut self, said: Said) {
        self.said.push_back(said);
    }

    /// Returns what was told to the calls next.
    pub(in crate::node) fn hear(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// Tells the user how far a call has come.
    pub(in crate::node) fn progress(&mut self, connect: ConnectId, strategy: Strategy, stage: Stage) {
        self.cx.notify(Event::Progress { connect, strategy, stage });
    }

    /// Ends our part in a session, with every stream of it.
    pub(in crate::node) fn abandon(&mut self, key: Key, peer: NodeId) {
        self.sessions.abandon(self.cx, key, peer);
    }

    /// Plans a new measurement of our NATs, as a call of ours or of a peer's came to nothing.
    pub(in crate::node) fn doubt(&mut self) {
        self.network.doubt(self.cx);
    }

    /// Sends a message that a peer's message caused, within the rate for such.
    pub(super) fn reply(&mut self, to: NodeId, session: SessionId, via: &[u8], body: Body) {
        let _ = self.try_reply(to, session, via, body);
    }

    /// Sends a message that a peer's message caused. Returns false if the rate does not allow it.
    pub(in crate::node) fn try_reply(
        &mut self,
        to: NodeId,
        session: SessionId,
        via: &[u8],
        body: Body,
    ) -> bool {
        if !self.admission.may_reply(self.cx.now, to, Worth::of(&body)) {
            return false;
        }
        let (_, sealed) = self.signalling.seal(self.cx, to, session, 0, body);
        let until = self.cx.now + REPLY_WITHIN;
        let stranger = self.admission.trust(to) == Trust::Stranger;
        let free =
            |place: &&u8| !stranger || self.signalling.session(**place).is_some_and(|b| !b.is_crowded());
        let via: SmallVec<[u8; 2]> = via.iter().filter(free).copied().collect();
        self.signalling.publish(self.cx, to, &sealed, &via, until);
        true
    }

    /// Returns the paths on which a peer may be dialled.
    pub(in crate::node) fn paths_to(&self, peer: NodeId, address: &PeerAddress, trust: Trust) -> Paths {
        paths::to_peer(&self.network.ours(), self.network.links(), address, self.is_oneself(peer), trust)
    }

    /// Returns true if datagrams may be sent to this address for a peer of this trust.
    pub(super) fn may_send_to(&self, ip: IpAddr, trust: Trust) -> bool {
        paths::may_send_to(&self.network.ours(), ip, trust)
    }

    /// Dials a path for a session.
    pub(super) fn dial(&mut self, path: Path, key: Key, peer: NodeId, terms: Terms) -> SockId {
        let local = self.network.dial_from(path.remote.ip());
        let stranger = key.1 == Requester::Them && self.admission.trust(peer) == Trust::Stranger;
        let within = if stranger { STRANGERS_DIAL_WITHIN } else { DIAL_WITHIN };
        self.sessions.dial(self.cx, [local, path.remote], within, (key, peer, terms))
    }

    /// Asks our TURN servers for an address of this family, or of any where there is none of this.
    pub(super) fn ask_servers(&mut self, owner: Owner, family: Family, any: bool) -> Servers {
        let ours = self.network.families();
        let (list, bind) = (&self.config.turn, self.config.bind);
        Servers::start(self.cx, owner, list, bind, ours, (family, any))
    }

    /// Returns the answer to a peer of whose addresses none is dialled.
    pub(super) fn why_not_dialled(&self, peer: NodeId, address: &PeerAddress, asked: Strategy) -> Body {
        let stranger = self.admission.trust(peer) == Trust::Stranger;
        match stranger && !self.paths_to(peer, address, Trust::Known).is_empty() {
            true => Body::Refused(Refusal::PrivateForStrangers { asked }),
            false => Body::Dialled { count: 0, dials: SmallVec::new() },
        }
    }

    pub(super) fn why_no_path(&self, to: &PeerAddress) -> String {
        let [v4, v6] = self.network.families();
        match (to.v4().is_empty(), to.v6().is_empty()) {
            (true, true) => "the peer announces no interface".into(),
            (false, true) if !v4 => "the peer has IPv4 only, and we have none".into(),
            (true, false) if !v6 && self.network.links().is_empty() => {
                "the peer has IPv6 only, and we have none".into()
            }
            (true, false) if !v6 => "the peer has IPv6 only, and we have link-local addresses only".into(),
            _ => "none of the peer's addresses can be reached from here".into(),
        }
    }

    /// Returns the reason for which the peer cannot be asked to dial us, if there is one.
    pub(super) fn why_no_signal(&self, call: &Call) -> Option<String> {
        if self.network.listeners_failed() {
            return Some("we do not listen, so the peer could not dial us".into());
        }
        self.why_no_broker(call)
    }

    /// Returns the reason for which the peer cannot be asked for anything, if there is one.
    pub(in crate::node) fn why_no_broker(&self, call: &Call) -> Option<String> {
        let (peer, to) = (call.peer, &call.address);
        if self.is_oneself(peer) {
            return None;
        }
        if self.signalling.len() == 0 {
            return Some("no broker is configured".into());
        }
        if self.signalling.shared_with(to).is_empty() {
            let ids: Vec<String> = to.brokers().iter().map(u16::to_string).collect();
            return Some(match ids.is_empty() {
                true => "the peer announces no broker".into(),
                false => format!("the peer's brokers ({}) are not in our server list", ids.join(", ")),
            });
        }
        None
    }
}
