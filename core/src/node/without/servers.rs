//! TURN servers of a build without the feature `relay`. No configuration has any there, so none is ever asked.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::config::TurnServer;
use crate::cx::{Cx, Owner};
use crate::io::Input;
use crate::time::Instant;
use crate::turn::{self, Credentials, Family};

#[derive(Debug)]
pub(in crate::node) enum ServerNews {
    Allocated(SocketAddr),
    Data(SocketAddr, Bytes),
    Refused(IpAddr, u16),
    Redirected { by: usize, to: SocketAddr, anywhere: bool },
    Stale(u8),
    Lost(turn::Error),
    Failed(String),
}

#[derive(Debug)]
pub(in crate::node) struct Servers;

impl Servers {
    pub(in crate::node) fn start(
        _: &mut Cx,
        _: Owner,
        _: &[TurnServer],
        _: Option<IpAddr>,
        _: [bool; 2],
        _: (Family, bool),
    ) -> Self {
        Servers
    }

    pub(in crate::node) fn poll_news(&mut self) -> Option<ServerNews> {
        None
    }

    pub(in crate::node) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub(in crate::node) fn is_over(&self) -> bool {
        true
    }

    pub(in crate::node) fn permit(&mut self, _: &mut Cx, _: SocketAddr) {}

    pub(in crate::node) fn send(&mut self, _: &mut Cx, _: SocketAddr, _: &[u8]) {}

    pub(in crate::node) fn handle(&mut self, _: &mut Cx, _: Input<'_>) {}

    pub(in crate::node) fn timeout(&mut self, _: &mut Cx) {}

    pub(in crate::node) fn renew(&mut self, _: &mut Cx, _: u8, _: Option<&Credentials>) {}

    pub(in crate::node) fn follow(&mut self, _: &mut Cx, _: usize, _: SocketAddr, _: bool) {}

    pub(in crate::node) fn close(&mut self, _: &mut Cx) {}

    pub(in crate::node) fn drop_sockets(&mut self, _: &mut Cx) {}
}
