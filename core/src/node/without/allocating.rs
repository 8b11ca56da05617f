//! Allocations of a build without the feature `relay`: there are none.

use std::net::SocketAddr;

use bytes::Bytes;

use super::allocate::{Allocate, AllocateError};
use super::logins::Logins;
use super::network::Network;
use crate::config::Config;
use crate::cx::Cx;
use crate::io::Input;
use crate::pipe::PipeId;
use crate::turn::{Credentials, SendError};

#[derive(Debug, Default)]
pub(super) struct Allocations;

pub(super) struct Env<'a> {
    pub(super) cx: &'a mut Cx,
    pub(super) network: &'a Network,
    pub(super) logins: &'a mut Logins,
}

impl Allocations {
    pub(super) fn open(
        &mut self,
        _: &mut Env<'_>,
        _: &Config,
        _: &Allocate,
    ) -> Result<PipeId, AllocateError> {
        Err(AllocateError::NotBuilt)
    }

    pub(super) fn send_to(
        &mut self,
        _: &mut Env<'_>,
        _: PipeId,
        _: SocketAddr,
        _: &[u8],
    ) -> Result<(), SendError> {
        Err(SendError::Closed)
    }

    pub(super) fn recv_from(&mut self, _: PipeId) -> Option<(SocketAddr, Bytes)> {
        None
    }

    pub(super) fn has(&self, _: PipeId) -> bool {
        false
    }

    pub(super) fn handle(&mut self, _: &mut Env<'_>, _: PipeId, _: Input<'_>) {}

    pub(super) fn close(&mut self, _: &mut Env<'_>, _: PipeId) {}

    pub(super) fn timeout(&mut self, _: &mut Env<'_>, _: PipeId) {}

    pub(super) fn check(&mut self, _: &mut Env<'_>) {}

    pub(super) fn renew(&mut self, _: &mut Env<'_>, _: u8, _: Option<&Credentials>) {}

    pub(super) fn shut(&mut self, _: &mut Env<'_>) {}
}
