//! UDP punching of a build without the feature `relay`, which has no QUIC: calls of ours do without it, and peers are told so.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Contract, Ctx, End};
use crate::identity::NodeId;
use crate::io::Input;
use crate::node::admission::Place;
use crate::node::call::facts::Call;
use crate::session::SessionId;
use crate::signal::mappings::UdpMappings;
use crate::signal::message::Body;
use crate::strategy::agreement::Key;

#[derive(Default)]
pub(in crate::node) struct Udps;

impl Udps {
    pub(super) fn visit(
        &mut self,
        ctx: &mut Ctx<'_>,
        (key, peer, via): (Key, NodeId, SmallVec<[u8; 2]>),
        _: &UdpMappings,
        _: u32,
    ) {
        ctx.reply(peer, key.0, &via, Body::UdpResponse(None));
    }

    pub(super) fn is_next_rung(&self, _: Key, _: NodeId, _: &UdpMappings) -> bool {
        false
    }

    pub(in crate::node) fn answered(
        &mut self,
        _: &mut Ctx<'_>,
        _: NodeId,
        _: SessionId,
        _: Option<&UdpMappings>,
    ) {
    }

    pub(in crate::node) fn handle(&mut self, _: &mut Ctx<'_>, _: Input<'_>) {}

    pub(in crate::node) fn drive_attempt(&mut self, _: &mut Ctx<'_>, _: Key) {}

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        core::iter::empty()
    }

    pub(super) fn shut(&mut self, _: &mut Ctx<'_>) {}
}

impl Contract for Udps {
    fn begin(&mut self, _: &mut Ctx<'_>, _: &Arc<Call>) -> Result<(), String> {
        Err("this build punches over TCP only".into())
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
