//! Meetings of a build without the feature `meetings`: none begins.

use core::time::Duration;

use super::network::Network;
use super::signalling::Signalling;
use crate::cx::Cx;
use crate::meeting::{Code, MeetingError, MeetingId};
use crate::pipe::ProtocolTag;

#[derive(Debug, Default)]
pub(super) struct Meetings;

pub(super) struct Env<'a> {
    pub(super) cx: &'a mut Cx,
    pub(super) network: &'a Network,
    pub(super) signalling: &'a mut Signalling,
}

impl Meetings {
    pub(super) fn begin(
        &mut self,
        _: &mut Env<'_>,
        _: Option<Code>,
        _: ProtocolTag,
        _: Duration,
    ) -> Result<MeetingId, MeetingError> {
        Err(MeetingError::NotBuilt)
    }

    pub(super) fn end(&mut self, _: &mut Env<'_>, _: MeetingId) {}

    pub(super) fn has(&self, _: &str) -> bool {
        false
    }

    pub(super) fn followed(&mut self, _: &mut Env<'_>, _: u8, _: &str, _: bool) {}

    pub(super) fn heard(&mut self, _: &mut Env<'_>, _: &str, _: &[u8], _: bool) {}

    pub(super) fn drive(&mut self, _: &mut Env<'_>) {}

    pub(super) fn shut(&mut self, _: &mut Env<'_>) {}
}
