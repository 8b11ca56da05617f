//! Records: the form of an encrypted pipe's bytes on a stream.
//!
//! ```text
//! length: u16, big-endian   of what follows: TAG..=MAX_RECORD
//! sealed: length bytes      Noise transport message; an empty one says "I send no more"
//! ```
//! The two halves work in buffers of the caller and neither reads nor writes a socket. Records are numbered by
//! their nonce, so a lost, repeated, swapped or cut record is an error, never wrong data. An end of the stream
//! without the empty record is a broken pipe, not a clean end.

use core::fmt;
use core::ops::Range;

use crate::noise::{Opening, Sealing, TAG};

/// The most payload of one record: 16 KiB, where sealing reaches its full speed (measured) and a
/// slow reader waits for little.
pub const MAX_PLAIN: usize = 16 * 1024;

/// The most bytes of one record on the wire, after its length.
pub const MAX_RECORD: usize = MAX_PLAIN + TAG;

const HEADER: usize = 2;

/// Reason that a record could not be made or opened. The pipe cannot be used further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a driver tells each to its user in its own way.
pub enum RecordError {
    /// The stated length is under a tag or over [`MAX_RECORD`].
    Length(u16),
    /// The record does not verify: somebody changed it, or records are missing.
    NotAuthentic,
    /// A record came after the end.
    AfterEnd,
    /// The stream ended without the record that says so: cut off on the way.
    Truncated,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Length(n) => write!(f, "a record of {n} bytes is not allowed"),
            RecordError::NotAuthentic => f.write_str("a record does not verify"),
            RecordError::AfterEnd => f.write_str("a record came after the end of the pipe"),
            RecordError::Truncated => f.write_str("the pipe was cut off without its end"),
        }
    }
}

impl std::error::Error for RecordError {}

/// Outgoing direction of an encrypted pipe.
#[derive(Debug)]
pub struct Sealer {
    keys: Sealing,
    ended: bool,
}

impl Sealer {
    pub(crate) fn new(keys: Sealing) -> Self {
        Sealer { keys, ended: false }
    }

    /// Appends records that carry as much of `data` as one record holds. Returns the number of bytes taken: at most
    /// [`MAX_PLAIN`], zero only for empty `data`.
    ///
    /// # Errors
    /// `AfterEnd` once [`end`](Self::end) was called.
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, RecordError> {
        let chunk = &data[..data.len().min(MAX_PLAIN)];
        if chunk.is_empty() {
            return Ok(0);
        }
        self.append(chunk, out)?;
        Ok(chunk.len())
    }

    /// Appends the record that says "I send no more".
    ///
    /// # Errors
    /// `AfterEnd` if it was sent already.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        self.append(&[], out)?;
        self.ended = true;
        Ok(())
    }

    fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        if self.ended {
            return Err(RecordError::AfterEnd);
        }
        let sealed = plain.len() + TAG;
        let start = out.len();
        out.reserve(HEADER + sealed);
        // At most MAX_RECORD, which fits.
        out.extend_from_slice(&(sealed as u16).to_be_bytes());
        out.extend_from_slice(plain);
        out.extend_from_slice(&[0; TAG]);
        let made = self.keys.seal(&mut out[start + HEADER..]);
        if made.is_err() {
            out.truncate(start);
        }
        made.map_err(|_| RecordError::NotAuthentic)
    }
}

/// The peer's direction of an encrypted pipe.
#[derive(Debug)]
pub struct Opener {
    keys: Opening,
    ended: bool,
}

/// Content of the front of the received bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: a reader has to know what to do with each.
pub enum Opened {
    /// No whole record yet; this many bytes in all are needed.
    Need(usize),
    /// A record of `consumed` bytes was opened in its place.
    Data {
        /// Bytes to drop from the front of the input, once the plain text is used.
        consumed: usize,
        /// Place of the plain text in the input, never empty.
        plain: Range<usize>,
    },
    /// The peer sends no more; `consumed` bytes to drop.
    End {
        /// Bytes to drop from the front of the input.
        consumed: usize,
    },
}

impl Opener {
    pub(crate) fn new(keys: Opening) -> Self {
        Opener { keys, ended: false }
    }

    /// Opens the record at the front of `received`, in its place.
    ///
    /// # Errors
    /// `Length`, `NotAuthentic`, `AfterEnd`; after one the pipe is broken, and the record's bytes mean nothing.
    pub fn open(&mut self, received: &mut [u8]) -> Result<Opened, RecordError> {
        let Some((header, rest)) = received.split_first_chunk_mut::<HEADER>() else {
            return Ok(Opened::Need(HEADER));
        };
        let stated = u16::from_be_bytes(*header);
        let length = usize::from(stated);
        if self.ended {
            return Err(RecordError::AfterEnd);
        }
        if !(TAG..=MAX_RECORD).contains(&length) {
            return Err(RecordError::Length(stated));
        }
        let Some(sealed) = rest.get_mut(..length) else {
            return Ok(Opened::Need(HEADER + length));
        };
        let plain = self.keys.open(sealed).map_err(|_| RecordError::NotAuthentic)?;
        let consumed = HEADER + length;
        if plain == 0 {
            self.ended = true;
            return Ok(Opened::End { consumed });
        }
        Ok(Opened::Data { consumed, plain: HEADER..HEADER + plain })
    }

    /// Checks the end: to be called when the stream itself ended with `left` received bytes unopened.
    ///
    /// # Errors
    /// `Truncated` unless the peer had said that it sends no more.
    pub fn stream_ended(&self, left: usize) -> Result<(), RecordError> {
        match (self.ended, left) {
            (true, 0) => Ok(()),
            (true, _) => Err(RecordError::AfterEnd),
            (false, _) => Err(RecordError::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;
    use crate::noise::{Handshake, Suite};

    fn pair() -> (Sealer, Opener) {
        let (a, b) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let (init, first) = Handshake::initiate(&a, &b.node_id(), b"", b"", [5; 32]).unwrap();
        let (resp, _, _) = Handshake::respond(&b, b"", &first, [6; 32]).unwrap();
        let (second, theirs) = resp.split_writing(b"").unwrap();
        let (_, ours) = init.split_reading(&second).unwrap();
        let suite = Suite::ChaCha20Poly1305;
        let (ours, theirs) = (ours.keys(suite, true).unwrap(), theirs.keys(suite, false).unwrap());
        (Sealer::new(ours.sealing), Opener::new(theirs.opening))
    }

    fn open_all(opener: &mut Opener, mut wire: &mut [u8]) -> Result<(Vec<u8>, bool), RecordError> {
        let mut data = Vec::new();
        loop {
            match opener.open(wire)? {
                Opened::Need(_) => return Ok((data, false)),
                Opened::End { consumed } => {
                    opener.stream_ended(wire.len() - consumed)?;
                    return Ok((data, true));
                }
                Opened::Data { consumed, plain } => {
                    data.extend_from_slice(&wire[plain]);
                    wire = &mut wire[consumed..];
                }
            }
        }
    }

    #[test]
    fn bytes_arrive_whole_whatever_their_number() {
        for len in [0, 1, 2, MAX_PLAIN - 1, MAX_PLAIN, MAX_PLAIN + 1, 3 * MAX_PLAIN + 7] {
            let (mut sealer, mut opener) = pair();
            let data: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let (mut wire, mut done) = (Vec::new(), 0);
            while done < len {
                done += sealer.seal(&data[done..], &mut wire).unwrap();
            }
            sealer.end(&mut wire).unwrap();
            assert_eq!(open_all(&mut opener, &mut wire), Ok((data, true)), "{len}");
            assert_eq!(sealer.seal(b"x", &mut wire), Err(RecordError::AfterEnd));
        }
    }

    #[test]
    fn every_split_point_asks_for_more_and_loses_nothing() {
        let (mut sealer, mut opener) = pair();
        let mut wire = Vec::new();
        sealer.seal(b"hello", &mut wire).unwrap();
        for cut in 0..wire.len() {
            let need = if cut < HEADER { HEADER } else { wire.len() };
            assert_eq!(opener.open(&mut wire[..cut]), Ok(Opened::Need(need)));
        }
        assert_eq!(opener.open(&mut wire), Ok(Opened::Data { consumed: wire.len(), plain: 2..7 }));
        assert_eq!(&wire[2..7], b"hello");
    }

    #[test]
    fn changed_lost_repeated_and_cut_records_are_errors() {
        let (mut sealer, mut opener) = pair();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        sealer.seal(b"one", &mut one).unwrap();
        sealer.seal(b"two", &mut two).unwrap();
        let mut open = |record: &[u8]| opener.open(&mut record.to_vec());
        assert_eq!(open(&two), Err(RecordError::NotAuthentic), "lost");
        let mut changed = one.clone();
        changed[5] ^= 4;
        assert_eq!(open(&changed), Err(RecordError::NotAuthentic));
        assert!(open(&one).is_ok());
        assert_eq!(open(&one), Err(RecordError::NotAuthentic), "repeated");
        assert_eq!(open(&[0, 15]), Err(RecordError::Length(15)));
        assert_eq!(open(&[0xff, 0xff]), Err(RecordError::Length(0xffff)));
        assert_eq!(opener.stream_ended(0), Err(RecordError::Truncated));
    }
}
