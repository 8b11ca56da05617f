//! Facts of a call, which its strategies read.

use crate::address::PeerAddress;
use crate::call::ConnectId;
use crate::config::Plan;
use crate::identity::NodeId;
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::strategy::agreement::{Key, Requester};
use crate::time::Instant;

#[derive(Debug)]
pub(in crate::node) struct Call {
    pub(in crate::node) connect: ConnectId,
    pub(in crate::node) session: SessionId,
    pub(in crate::node) peer: NodeId,
    pub(in crate::node) address: PeerAddress,
    pub(in crate::node) plan: Plan,
    pub(in crate::node) started: Instant,
    pub(in crate::node) deadline: Instant,
}

impl Call {
    pub(in crate::node) fn key(&self) -> Key {
        (self.session, Requester::Us)
    }

    pub(in crate::node) fn terms(&self) -> Terms {
        self.plan.terms()
    }
}
