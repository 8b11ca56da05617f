//! Mappings of a build without the feature `portmap`: no router is asked.

use std::net::{IpAddr, SocketAddr};

use crate::cx::{Cx, Owner};
use crate::io::{Interface, SockId};

#[derive(Debug, Default)]
pub(super) struct Mappings;

impl Mappings {
    pub(super) fn of(&self, _: IpAddr) -> Option<SocketAddr> {
        None
    }

    pub(super) fn owns(&self, _: Option<Owner>) -> bool {
        false
    }

    pub(super) fn cover(&mut self, _: &mut Cx, _: Interface, _: Option<IpAddr>, _: Option<[u16; 2]>) {}

    pub(super) fn check(&mut self, _: &mut Cx) {}

    pub(super) fn drop_gone(&mut self, _: &mut Cx, _: &[Interface]) {}

    pub(super) fn close(&mut self, _: &mut Cx) {}

    pub(super) fn are_closed(&self) -> bool {
        true
    }

    pub(super) fn bound(&mut self, _: &mut Cx, _: u32) {}

    pub(super) fn datagram(&mut self, _: &mut Cx, _: u32, _: SocketAddr, _: &[u8]) {}

    pub(super) fn connected(&mut self, _: &mut Cx, _: u32, _: SockId) {}

    pub(super) fn received(&mut self, _: &mut Cx, _: u32, _: SockId, _: &[u8]) {}

    pub(super) fn lost(&mut self, _: &mut Cx, _: u32, _: SockId) {}

    pub(super) fn timeout(&mut self, _: &mut Cx, _: u32) {}
}
