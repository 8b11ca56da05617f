//! A stream between two hosts that is saying hello.

use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::call::Strategy;
use crate::hello::{Hello, Offer};
use crate::identity::NodeId;
use crate::pipe::Terms;
use crate::strategy::agreement::Key;
use crate::time::Instant;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) stage: HelloStage,
    /// The hello is begun by this end, as usual for the end that dials.
    pub(super) initiator: bool,
    /// The stream was accepted, not dialled.
    pub(super) accepted: bool,
    /// Known from the start for a dial, from FIRST for an accepted stream; set by `Streams` only, which finds it
    /// by this.
    pub(super) session: Option<(Key, NodeId, Terms)>,
    pub(super) strategy: Strategy,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) since: Instant,
}

/// Role of this end in the hello once a dial has connected.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) enum Role {
    /// Begins the hello with this peer.
    Initiate(Offer, NodeId),
    /// Waits for the other end, which called, to begin.
    Respond,
}

#[derive(Debug)]
pub(super) enum HelloStage {
    Dialling(Role),
    Hello(Hello),
    /// A caller's first frame is there, and waits for its turn with this last part of it.
    Waiting(Hello, SmallVec<[u8; 128]>),
    /// The ends are authenticated; the user of one is being asked.
    Asking(Hello),
    /// The ends are authenticated, and each has approved.
    Candidate(Hello),
}

impl HelloStage {
    pub(super) fn hello(&mut self) -> Option<&mut Hello> {
        match self {
            HelloStage::Dialling(..) | HelloStage::Waiting(..) => None,
            HelloStage::Hello(h) | HelloStage::Asking(h) | HelloStage::Candidate(h) => Some(h),
        }
    }
}

impl Stream {
    /// Returns true if the peer has proved its identity.
    pub(super) fn is_proven(&self) -> bool {
        matches!(self.stage, HelloStage::Asking(_) | HelloStage::Candidate(_))
    }

    pub(super) fn is_dialling(&self) -> bool {
        matches!(self.stage, HelloStage::Dialling(_))
    }

    /// Returns a stream that was accepted. It has a session if this end begins the hello.
    pub(super) fn accepted(
        hello: Hello,
        session: Option<(Key, NodeId, Terms)>,
        strategy: Strategy,
        [local, remote]: [SocketAddr; 2],
        since: Instant,
    ) -> Self {
        let (stage, initiator, accepted) = (HelloStage::Hello(hello), session.is_some(), true);
        Stream { stage, initiator, accepted, session, strategy, local, remote, since }
    }

    pub(super) fn session(&self) -> Option<(Key, NodeId, Terms)> {
        self.session
    }

    pub(super) fn introduce(&mut self, session: (Key, NodeId, Terms)) {
        self.session = Some(session);
    }
}
