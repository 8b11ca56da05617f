//! Record of a name: the bytes published under it.
//!
//! ```text
//! version 1 | node id 32 | sequence 8 | expiry 8 | length 1, name | length 2, address | signature 64
//! ```
//! Numbers are big-endian; the expiry is in seconds of Unix time. An address of length 0 gives the name up. The
//! signature is over `p2pd name record` and all that stands before it. So no other signature of the key is one of a
//! record.

use core::fmt;
use core::time::Duration;

use bytes::Bytes;

use super::{MAX_RECORD, Name};
use crate::address::PeerAddress;
use crate::identity::{NodeId, SecretKey};
use crate::signature;
use crate::time::WallTime;

/// The version of the form.
const VERSION: u8 = 1;
/// Context: stands before the signed bytes.
const CONTEXT: &[u8] = b"p2pd name record";

/// Signed statement about a name: its owner's node id and address, and its expiry.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: its format on the wire has these fields.
pub struct Record {
    /// The name.
    pub name: Name,
    /// Node id of the owner, who signed.
    pub id: NodeId,
    /// A record with a higher number replaces those with lower ones.
    pub sequence: u64,
    /// Seconds of Unix time after which the record means nothing.
    pub expiry: u64,
    /// Address of the node. None: the name is given up.
    pub address: Option<Box<PeerAddress>>,
}

/// Reason that bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RecordError {
    /// Length over [`MAX_RECORD`]; this many bytes.
    TooLong(usize),
    /// Wrong length: cut off, or something follows.
    Length,
    /// Unknown version.
    Version(u8),
    /// The node id, the name or the address is none.
    Malformed,
    /// The address is that of another node.
    OtherNode,
    /// The signature is not that of the node id.
    Forged,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::TooLong(n) => write!(f, "{n} bytes, a record has at most {MAX_RECORD}"),
            RecordError::Length => f.write_str("cut off, or something follows"),
            RecordError::Version(v) => write!(f, "a record of version {v}, not {VERSION}"),
            RecordError::Malformed => f.write_str("malformed"),
            RecordError::OtherNode => f.write_str("the address is that of another node"),
            RecordError::Forged => f.write_str("the signature is not that of the node"),
        }
    }
}

impl std::error::Error for RecordError {}

impl Record {
    /// Longest time for which a record may be valid; a week. A broker and a resolver take no longer one. So no name is
    /// held for ever by somebody who has left.
    const MAX_LIFETIME: Duration = Duration::from_secs(7 * 86_400);
    /// Tolerated difference of clocks, as in signalling.
    pub const SKEW: Duration = Duration::from_secs(600);

    /// Returns the record's bytes, signed by `key`, whose node id has to be the record's.
    pub fn encode(&self, key: &SecretKey) -> Bytes {
        let name = self.name.as_str();
        let address = self.address.as_ref().map_or(String::new(), |a| a.to_string());
        let mut out = Vec::with_capacity(MAX_RECORD);
        out.extend_from_slice(CONTEXT);
        out.push(VERSION);
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.expiry.to_be_bytes());
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        // The text of an address has at most 1,024 bytes.
        out.extend_from_slice(&(address.len() as u16).to_be_bytes());
        out.extend_from_slice(address.as_bytes());
        let signature = signature::sign(key, &out);
        out.extend_from_slice(&signature);
        out.drain(..CONTEXT.len());
        out.into()
    }

    /// Reads a record and checks its signature, which takes about 50 us (`cargo bench -p p2pd-core --bench names`).
    ///
    /// # Errors
    /// [`RecordError`] if the bytes are no record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let (content, signature) = bytes.split_last_chunk().ok_or(RecordError::Length)?;
        let mut rest = content;
        let [version] = *take(&mut rest)?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let id = NodeId::from_bytes(*take(&mut rest)?).map_err(|_| RecordError::Malformed)?;
        let sequence = u64::from_be_bytes(*take(&mut rest)?);
        let expiry = u64::from_be_bytes(*take(&mut rest)?);
        let [length] = *take(&mut rest)?;
        let name = text(&mut rest, length.into())?;
        let length = u16::from_be_bytes(*take(&mut rest)?);
        let address = text(&mut rest, length.into())?;
        if !rest.is_empty() {
            return Err(RecordError::Length);
        }
        let parsed: Name = name.parse().map_err(|_| RecordError::Malformed)?;
        if parsed.as_str() != name {
            // It has one spelling here.
            return Err(RecordError::Malformed);
        }
        let address = match address {
            "" => None,
            text => Some(Box::new(text.parse::<PeerAddress>().map_err(|_| RecordError::Malformed)?)),
        };
        if address.as_ref().is_some_and(|a| NodeId::try_from(a.node()) != Ok(id)) {
            return Err(RecordError::OtherNode);
        }
        if !signature::verify(&id, &[CONTEXT, content].concat(), signature) {
            return Err(RecordError::Forged);
        }
        Ok(Record { name: parsed, id, sequence, expiry, address })
    }

    /// Returns true if the record means something now, by a clock that may be off by [`SKEW`](Self::SKEW).
    pub fn is_current(&self, now: WallTime) -> bool {
        let now = u64::try_from(now.as_micros() / 1_000_000).unwrap_or(0);
        let (skew, most) = (Self::SKEW.as_secs(), Self::MAX_LIFETIME.as_secs());
        self.expiry.saturating_add(skew) > now && self.expiry <= now.saturating_add(most + skew)
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], RecordError> {
    let (first, others) = rest.split_first_chunk().ok_or(RecordError::Length)?;
    *rest = others;
    Ok(first)
}

fn text<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a str, RecordError> {
    let (first, others) = rest.split_at_checked(length).ok_or(RecordError::Length)?;
    *rest = others;
    core::str::from_utf8(first).map_err(|_| RecordError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    fn record(of: &SecretKey) -> Record {
        let id = of.node_id();
        let address = format!("1-[0,198.51.100.7,10.0.0.7,80,1,1,0]-0-{id}").parse().unwrap();
        let name = "example".parse().unwrap();
        Record { name, id, sequence: 5, expiry: 1_000, address: Some(Box::new(address)) }
    }

    /// Signs any bytes of `content`, as its owner could.
    fn signed(content: &[u8], by: &SecretKey) -> Vec<u8> {
        let signature = signature::sign(by, &[CONTEXT, content].concat());
        [content, &signature].concat()
    }

    #[test]
    fn records_are_read_as_written_and_by_their_layout() {
        let mut one = record(&key(1));
        let bytes = one.encode(&key(1));
        assert_eq!(Record::decode(&bytes), Ok(one.clone()));
        assert_eq!((bytes[0], &bytes[1..33]), (1, &key(1).node_id().as_bytes()[..]));
        assert_eq!(bytes[33..49], [0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0x03, 0xe8]);
        assert_eq!(&bytes[49..57], b"\x07example");
        one.address = None;
        let bytes = one.encode(&key(1));
        assert_eq!(Record::decode(&bytes), Ok(one));
        assert_eq!(bytes.len(), 1 + 32 + 8 + 8 + 8 + 2 + 64);
        assert_eq!(MAX_RECORD, 1_203);
    }

    #[test]
    fn no_byte_may_change_and_none_may_be_missing() {
        let bytes = record(&key(1)).encode(&key(1));
        for at in 0..bytes.len() {
            for bit in [1, 0x20, 0x80] {
                let mut bad = bytes.to_vec();
                bad[at] ^= bit;
                assert!(Record::decode(&bad).is_err(), "byte {at}");
            }
            assert!(Record::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(Record::decode(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn forged_and_oversized_records_are_told_apart() {
        let one = record(&key(1));
        assert_eq!(Record::decode(&one.encode(&key(2))), Err(RecordError::Forged));
        // Another node's address, in a record that is well signed.
        let mut other = record(&key(2));
        other.id = key(1).node_id();
        assert_eq!(Record::decode(&other.encode(&key(1))), Err(RecordError::OtherNode));
        assert_eq!(Record::decode(&[1; MAX_RECORD + 1]), Err(RecordError::TooLong(MAX_RECORD + 1)));
        let content = one.encode(&key(1));
        let content = &content[..content.len() - 64];
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut content = content.to_vec();
            change(&mut content);
            Record::decode(&signed(&content, &key(1)))
        };
        assert_eq!(changed(&|_| {}), Ok(one));
        assert_eq!(changed(&|c| c[0] = 2), Err(RecordError::Version(2)));
        assert_eq!(changed(&|c| c[50] = b'E'), Err(RecordError::Malformed), "a second spelling");
        assert_eq!(changed(&|c| c[50] = b'_'), Err(RecordError::Malformed));
        assert_eq!(changed(&|c| c[1..33].fill(0)), Err(RecordError::Malformed), "no key");
        assert_eq!(changed(&|c| c[59] = b'x'), Err(RecordError::Malformed), "no address");
        assert_eq!(changed(&|c| c.push(0)), Err(RecordError::Length));
        assert_eq!(changed(&|c| c[49] = 0xff), Err(RecordError::Length));
    }

    #[test]
    fn records_mean_something_for_a_time() {
        let at = |seconds: i64| WallTime::from_micros(seconds * 1_000_000);
        let mut one = record(&key(1));
        one.expiry = 1_000_000;
        let week = 7 * 86_400;
        for (now, current) in [
            (1_000_000, true),
            (1_000_599, true),
            (1_000_600, false),
            (1_000_000 - week - 600, true),
            (1_000_000 - week - 601, false),
            (-5, false),
        ] {
            assert_eq!(one.is_current(at(now)), current, "{now}");
        }
        one.expiry = u64::MAX;
        assert!(!one.is_current(at(0)));
    }
}
