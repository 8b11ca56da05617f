//! Reading of the fields of a message, and writing of those that several kinds have.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::pipe::ProtocolTag;

/// A sealed message's content is not one of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    pub(super) fn protocol(&mut self) -> Result<ProtocolTag, Malformed> {
        let [length] = self.array()?;
        let (tag, rest) = self.0.split_at_checked(length.into()).ok_or(Malformed)?;
        self.0 = rest;
        ProtocolTag::new(tag).ok_or(Malformed)
    }

    pub(super) fn endpoint(&mut self) -> Result<SocketAddr, Malformed> {
        Ok(SocketAddr::new(self.ip()?, u16::from_be_bytes(self.array()?)))
    }

    pub(super) fn ip(&mut self) -> Result<IpAddr, Malformed> {
        match self.array()? {
            [4] => Ok(self.array::<4>()?.into()),
            [6] => Ok(self.array::<16>()?.into()),
            _ => Err(Malformed),
        }
    }

    /// An endpoint that something can be sent to.
    pub(super) fn reachable(&mut self) -> Result<SocketAddr, Malformed> {
        self.endpoint().and_then(|at| if at.port() == 0 { Err(Malformed) } else { Ok(at) })
    }

    pub(super) fn echo(&mut self) -> Result<SmallVec<[u8; MAX_ECHO]>, Malformed> {
        let payload = self.rest();
        if payload.len() <= MAX_ECHO { Ok(SmallVec::from_slice(payload)) } else { Err(Malformed) }
    }
}

pub(super) fn put_endpoint(out: &mut Vec<u8>, at: SocketAddr) {
    put_ip(out, at.ip());
    out.extend_from_slice(&at.port().to_be_bytes());
}

pub(super) fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
}

/// Most bytes of ECHO's payload.
pub(crate) const MAX_ECHO: usize = 64;
