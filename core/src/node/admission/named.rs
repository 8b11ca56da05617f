//! Peers that our user named, and the accept list's verdict on everybody else.

use crate::strategy::ours::Trust;
use std::collections::{BTreeMap, BTreeSet};

use crate::config::Accept;
use crate::identity::NodeId;

/// Most peers whose approval is remembered.
const MAX_APPROVED: usize = 4096;

/// Answer of the user's rules to a peer that asks for a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Entry {
    Open,
    /// Open if our user says yes.
    Ask,
}

#[derive(Debug)]
pub(super) struct Named {
    ours: NodeId,
    accept: Accept,
    approved: BTreeSet<NodeId>,
    /// Calls of ours that run, by peer.
    calls: BTreeMap<NodeId, u32>,
}

impl Named {
    pub(super) fn new(ours: NodeId, accept: Accept) -> Self {
        Named { ours, accept, approved: BTreeSet::new(), calls: BTreeMap::new() }
    }

    /// Returns the trust in this peer: it bounds the effects of the peer's authentic messages and hellos.
    ///
    /// A call names its peer without an answer to it: the sender of a message or hello has proved its key already. Two
    /// nodes that call each other at the same time have each said whom they want.
    pub(super) fn trust(&self, peer: NodeId) -> Trust {
        let listed = matches!(&self.accept, Accept::Only(list) if list.contains(&peer));
        if listed || peer == self.ours || self.approved.contains(&peer) || self.calls.contains_key(&peer) {
            Trust::Known
        } else {
            Trust::Stranger
        }
    }

    /// Returns the rule for this peer; `None` where the peer is not accepted.
    pub(super) fn entry(&self, peer: NodeId) -> Option<Entry> {
        match &self.accept {
            _ if peer == self.ours => Some(Entry::Open),
            Accept::Anyone => Some(Entry::Open),
            Accept::Only(list) => {
                (list.contains(&peer) || self.approved.contains(&peer)).then_some(Entry::Open)
            }
            Accept::Ask if self.trust(peer) == Trust::Known => Some(Entry::Open),
            Accept::Ask => Some(Entry::Ask),
        }
    }

    /// Returns all peers that are named, those first to whom a call of ours runs.
    pub(super) fn all(&self) -> impl Iterator<Item = NodeId> + '_ {
        let listed = match &self.accept {
            Accept::Only(list) => Some(list),
            Accept::Anyone | Accept::Ask => None,
        };
        self.calls.keys().chain(&self.approved).chain(listed.into_iter().flatten()).copied()
    }

    pub(super) fn approve(&mut self, peer: NodeId) {
        if self.approved.len() < MAX_APPROVED {
            self.approved.insert(peer);
        }
    }

    pub(super) fn call_began(&mut self, peer: NodeId) {
        *self.calls.entry(peer).or_default() += 1;
    }

    pub(super) fn call_ended(&mut self, peer: NodeId) {
        match self.calls.get_mut(&peer) {
            Some(calls) if *calls > 1 => *calls -= 1,
            _ => {
                self.calls.remove(&peer);
            }
        }
    }
}
