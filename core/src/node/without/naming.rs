//! Names of a build without the feature `names`: none is looked up or held.

use super::network::Network;
use super::signalling::Signalling;
use crate::address::PeerAddress;
use crate::call::ConnectId;
use crate::config::Plan;
use crate::cx::Cx;
use crate::identity::{NodeId, SecretKey};
use crate::name::{Name, NameError, NamePin};

#[derive(Debug, Default)]
pub(super) struct Names;

pub(super) struct Env<'a> {
    pub(super) cx: &'a mut Cx,
    pub(super) network: &'a Network,
    pub(super) signalling: &'a mut Signalling,
    pub(super) identity: &'a SecretKey,
    pub(super) running: bool,
}

impl Names {
    pub(super) fn resolve(&mut self, _: &mut Env<'_>, _: Name) -> Result<(), NameError> {
        Err(NameError::NotBuilt)
    }

    pub(super) fn call(&mut self, _: &mut Env<'_>, _: Name, _: ConnectId, _: Plan) -> Result<(), NameError> {
        Err(NameError::NotBuilt)
    }

    pub(super) fn hold(&mut self, _: &mut Env<'_>, _: Name, _: bool) -> Result<(), NameError> {
        Err(NameError::NotBuilt)
    }

    pub(super) fn pin(&mut self, _: NamePin) {}

    pub(super) fn calls(&self) -> usize {
        0
    }

    pub(super) fn has_room(&self, _: Name) -> bool {
        false
    }

    pub(super) fn take_found(&mut self) -> Vec<(ConnectId, NodeId, Box<PeerAddress>, Plan)> {
        Vec::new()
    }

    pub(super) fn followed(&mut self, _: &mut Env<'_>, _: u8, _: &str, _: bool) {}

    pub(super) fn record(&mut self, _: &mut Env<'_>, _: u8, _: &str, _: &[u8], _: bool) {}

    pub(super) fn drive(&mut self, _: &mut Env<'_>) {}

    pub(super) fn anew(&mut self, _: &mut Env<'_>) {}

    pub(super) fn cancel(&mut self, _: &mut Env<'_>, _: ConnectId) {}

    pub(super) fn shut(&mut self, _: &mut Env<'_>) {}
}
