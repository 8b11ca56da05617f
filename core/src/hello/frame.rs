//! Frames of the hello: `version, kind, length: u16` and that many bytes.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::{HelloError, VERSION};

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 4;

/// Most bytes of a frame's body: FIRST, the longest, has 114, and a protocol's name of at most 64.
const MAX_BODY: usize = 178;
/// Bytes of a body that are kept without an allocation.
const USUAL: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    First = 1,
    Second = 2,
    Sealed = 3,
    /// Refusal, the only frame in clear text: for a version that is not spoken.
    Refuse = 4,
}

pub(super) fn encode(kind: Kind, body: &[u8]) -> Bytes {
    debug_assert!(body.len() <= MAX_BODY);
    let mut out = BytesMut::with_capacity(HEADER + body.len());
    out.put_u8(VERSION);
    out.put_u8(kind as u8);
    out.put_u16(body.len() as u16);
    out.put_slice(body);
    out.freeze()
}

/// Puts frames together, one at a time.
#[derive(Debug)]
pub(super) struct Framer {
    held: SmallVec<[u8; USUAL]>,
    /// Kind and length of the frame whose header has come.
    header: Option<(Kind, usize)>,
}

type Whole = Option<(Kind, SmallVec<[u8; USUAL]>)>;

impl Framer {
    pub(super) fn new() -> Self {
        Framer { held: SmallVec::new(), header: None }
    }

    pub(super) fn needs(&self) -> u32 {
        let goal = self.header.map_or(HEADER, |(_, length)| length);
        (goal - self.held.len()) as u32
    }

    /// Returns true if a header has come and so many bytes more make its frame whole.
    pub(super) fn has_body(&self, more: usize) -> bool {
        self.header.is_some() && more >= self.needs() as usize
    }

    /// Takes bytes up to the end of a frame. Returns the number of bytes taken, and the frame if it is whole.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(usize, Whole), HelloError> {
        let mut taken = 0;
        loop {
            let part = data[taken..].len().min(self.needs() as usize);
            self.held.extend_from_slice(&data[taken..taken + part]);
            taken += part;
            if self.needs() > 0 {
                return Ok((taken, None));
            }
            match self.header {
                Some((kind, _)) => {
                    self.header = None;
                    return Ok((taken, Some((kind, core::mem::take(&mut self.held)))));
                }
                None => {
                    self.header = Some(parse_header(&self.held)?);
                    self.held.clear();
                }
            }
        }
    }
}

fn parse_header(held: &[u8]) -> Result<(Kind, usize), HelloError> {
    let &[version, kind, high, low] = held else { return Err(HelloError::Malformed) };
    if version != VERSION {
        return Err(HelloError::Version(version));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let kind = match kind {
        1 => Kind::First,
        2 => Kind::Second,
        3 => Kind::Sealed,
        4 => Kind::Refuse,
        _ => return Err(HelloError::Malformed),
    };
    if (1..=MAX_BODY).contains(&length) { Ok((kind, length)) } else { Err(HelloError::Malformed) }
}
