//! Requests of RFC 3489, which have no magic cookie: their answers name the address in clear.

use std::net::{IpAddr, SocketAddr};

use super::{CHANGE_REQUEST, COOKIE, MAX_REQUEST};

const HEADER: usize = 20;
const REQUEST: [u8; 2] = [0x00, 0x01];
const SUCCESS: u16 = 0x0101;
const ERROR: u16 = 0x0111;

const MAPPED_ADDRESS: u16 = 0x0001;
const SOURCE_ADDRESS: u16 = 0x0004;
const CHANGED_ADDRESS: u16 = 0x0005;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
/// Types from here on may be passed over.
const OPTIONAL: u16 = 0x8000;

/// A Binding request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    id: &'a [u8; 16],
    /// CHANGE-REQUEST, if there is one: the answer is to come from another address, from another port.
    pub(super) change: Option<(bool, bool)>,
    /// The first attribute that would have to be known.
    pub(super) unknown: Option<u16>,
}

impl<'a> Request<'a> {
    /// Reads one of the very length that was received.
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        let (header, mut rest) = data.split_first_chunk::<HEADER>()?;
        let (kind, length, id) = (&header[..2], &header[2..4], header[4..].first_chunk::<16>()?);
        let whole = HEADER + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if kind != REQUEST || whole != data.len() || whole > MAX_REQUEST || id.starts_with(&COOKIE) {
            return None;
        }
        let mut request = Request { id, change: None, unknown: None };
        while !rest.is_empty() {
            let ([a, b, c, d], after) = rest.split_first_chunk::<4>()?;
            let (kind, length) = (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d])));
            let value = after.get(..length)?;
            rest = after.get(length.next_multiple_of(4)..)?;
            match kind {
                _ if kind == CHANGE_REQUEST.value() => {
                    let [.., flags] = <[u8; 4]>::try_from(value).ok()?;
                    request.change = Some((flags & 4 != 0, flags & 2 != 0));
                }
                USERNAME | MESSAGE_INTEGRITY | OPTIONAL.. => {}
                // RESPONSE-ADDRESS among them, which would send the answer to anybody.
                _ => request.unknown = request.unknown.or(Some(kind)),
            }
        }
        Some(request)
    }

    /// The answer that tells an address, and where it is known, from where else the server answers.
    pub(super) fn success(
        &self,
        mapped: SocketAddr,
        source: Option<SocketAddr>,
        changed: Option<SocketAddr>,
    ) -> Vec<u8> {
        let mut answer = self.begin(SUCCESS);
        for (kind, address) in
            [(MAPPED_ADDRESS, Some(mapped)), (SOURCE_ADDRESS, source), (CHANGED_ADDRESS, changed)]
        {
            if let Some(address) = address {
                append(&mut answer, kind, &value(address));
            }
        }
        answer
    }

    /// The answer that an attribute is not known: 420.
    pub(super) fn refusal(&self, unknown: u16) -> Vec<u8> {
        let mut answer = self.begin(ERROR);
        append(&mut answer, ERROR_CODE, &[0, 0, 4, 20]);
        let [high, low] = unknown.to_be_bytes();
        // Lengths are multiples of four, which RFC 3489 reaches by saying one twice.
        append(&mut answer, UNKNOWN_ATTRIBUTES, &[high, low, high, low]);
        answer
    }

    fn begin(&self, kind: u16) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &[0, 0], self.id].concat()
    }
}

/// Appends an attribute whose length is a multiple of four.
fn append(answer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    answer.extend(kind.to_be_bytes());
    answer.extend((value.len() as u16).to_be_bytes());
    answer.extend(value);
    let length = (answer.len() - HEADER) as u16;
    answer[2..4].copy_from_slice(&length.to_be_bytes());
}

/// An address as attributes have it in clear.
fn value(address: SocketAddr) -> Vec<u8> {
    let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
    value.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => value.extend(ip.octets()),
        IpAddr::V6(ip) => value.extend(ip.octets()),
    }
    value
}
