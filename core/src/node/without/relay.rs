//! The relay strategy of a build without the feature `relay`: calls of ours do without it, and peers are told that we cannot come.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Contract, Ctx, End};
use crate::call::{ConnectId, Strategy};
use crate::identity::NodeId;
use crate::io::Input;
use crate::node::admission::Place;
use crate::node::call::facts::Call;
use crate::pipe::{PipeId, Terms};
use crate::relay::{MessageError, ReadOutcome};
use crate::signal::message::Body;
use crate::strategy::agreement::{Decision, Key};
use crate::strategy::ours::Trust;
use crate::time::Instant;
use crate::turn::Credentials;

#[derive(Default)]
pub(in crate::node) struct Relays;

// Strategy.
impl Relays {
    pub(in crate::node) fn is_opening(&self, _: Key, _: Strategy) -> bool {
        false
    }

    pub(super) fn end_opening(&mut self, _: &mut Ctx<'_>, _: Key, _: Strategy) {}

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        core::iter::empty()
    }

    pub(super) fn window_for(&self, _: Trust) -> u32 {
        0
    }

    pub(in crate::node) fn has_room(&self, _: Trust) -> bool {
        true
    }

    /// Says that we come from nowhere, as where the peer names an address that we do not send to.
    pub(in crate::node) fn visit(
        &mut self,
        ctx: &mut Ctx<'_>,
        (key, peer, _): (Key, NodeId, Terms),
        via: SmallVec<[u8; 2]>,
        _: SocketAddr,
    ) {
        ctx.reply(peer, key.0, &via, Body::TurnResponse(SmallVec::new()));
    }

    pub(in crate::node) fn peer_comes(&mut self, _: &mut Ctx<'_>, _: &Call, _: &[SocketAddr]) {}

    pub(in crate::node) fn handle(&mut self, _: &mut Ctx<'_>, _: PipeId, _: Input<'_>) {}

    pub(in crate::node) fn is_stirred(&self) -> bool {
        false
    }

    pub(in crate::node) fn settle(&mut self, _: &mut Ctx<'_>) {}

    pub(in crate::node) fn timeout(&mut self, _: &mut Ctx<'_>, _: PipeId) {}

    pub(in crate::node) fn carry_out(&mut self, _: &mut Ctx<'_>, _: Decision) {}

    pub(in crate::node) fn renew(&mut self, _: &mut Ctx<'_>, _: u8, _: Option<&Credentials>) {}

    pub(in crate::node) fn hand_out(
        &mut self,
        _: &mut Ctx<'_>,
        _: PipeId,
        _: SmallVec<[ConnectId; 1]>,
        _: Instant,
    ) {
    }

    pub(super) fn shut(&mut self, _: &mut Ctx<'_>) {}
}

// Pipes, of which there are none.
impl Relays {
    pub(in crate::node) fn write(&mut self, _: &mut Ctx<'_>, _: PipeId, _: &[u8]) -> usize {
        0
    }

    pub(in crate::node) fn read(&mut self, _: &mut Ctx<'_>, _: PipeId, _: &mut [u8]) -> ReadOutcome {
        ReadOutcome::Empty
    }

    pub(in crate::node) fn finish_pipe(&mut self, _: &mut Ctx<'_>, _: PipeId) {}

    pub(in crate::node) fn send_message(
        &mut self,
        _: &mut Ctx<'_>,
        _: PipeId,
        _: Bytes,
    ) -> Result<(), MessageError> {
        Err(MessageError::NotConnected)
    }

    pub(in crate::node) fn read_message(&mut self, _: &mut Ctx<'_>, _: PipeId) -> Option<Bytes> {
        None
    }

    pub(in crate::node) fn close_pipe(&mut self, _: &mut Ctx<'_>, _: PipeId) {}

    pub(in crate::node) fn has_leaving(&self) -> bool {
        false
    }
}

impl Contract for Relays {
    fn begin(&mut self, _: &mut Ctx<'_>, _: &Arc<Call>) -> Result<(), String> {
        Err("this build has no relays".into())
    }

    fn drive(&mut self, _: &mut Ctx<'_>, _: &Arc<Call>) -> Option<End> {
        None
    }

    fn describe(&self, _: &Ctx<'_>, _: &Call) -> String {
        String::new()
    }

    fn network_changed(&mut self, _: &Arc<Call>) -> bool {
        false
    }

    fn forget(&mut self, _: &Call) {}
}
