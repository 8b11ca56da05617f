//! Messages of a meeting, published under its topic.
//!
//! ```text
//! 1 | 0 CLAIM  | claim 16                                  "does anybody wait under this number?"
//! 1 | 1 TAKEN  | claim 16                                  "yes, I do"
//! 1 | 2 HELLO  | guest 16 | SPAKE2 message of B 33
//! 1 | 3 ANSWER | guest 16 | exchange 16 | SPAKE2 message of A 33
//! 1 | 4 BUSY   | guest 16                                  "an exchange with somebody else is under way"
//! 1 | 5 PROOF  | exchange 16 | proof of the guest 32
//! 1 | 6 HOST   | exchange 16 | proof of the host 32 | the host's address, sealed
//! 1 | 7 GUEST  | exchange 16 | the guest's address, sealed
//! 1 | 8 GONE   | exchange 16                               "that proof was wrong"
//! 1 | 9 DONE   | exchange 16 | the host's word 32           "I have your address"
//! ```
//! The first byte is the version. Claims, guests and exchanges are random.

use bytes::Bytes;

use super::VERSION;
use crate::address::MAX_TEXT;
use crate::noise::TAG;

/// Random name of a claim, a guest or an exchange.
pub(super) type Tag = [u8; 16];
/// A message of SPAKE2: its side, and a compressed point of edwards25519.
pub(super) type Point = [u8; 33];
/// Proof of a key.
pub(super) type Proof = [u8; 32];

/// Most bytes of a sealed address.
const MAX_SEALED: usize = MAX_TEXT + TAG;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    Claim(Tag),
    Taken(Tag),
    Hello { guest: Tag, point: Point },
    Answer { guest: Tag, exchange: Tag, point: Point },
    Busy(Tag),
    Proof { exchange: Tag, proof: Proof },
    Host { exchange: Tag, proof: Proof, sealed: Bytes },
    Guest { exchange: Tag, sealed: Bytes },
    Gone(Tag),
    Done { exchange: Tag, word: Proof },
}

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let (kind, parts): (u8, [&[u8]; 3]) = match self {
            Message::Claim(claim) => (0, [claim, &[], &[]]),
            Message::Taken(claim) => (1, [claim, &[], &[]]),
            Message::Hello { guest, point } => (2, [guest, point, &[]]),
            Message::Answer { guest, exchange, point } => (3, [guest, exchange, point]),
            Message::Busy(guest) => (4, [guest, &[], &[]]),
            Message::Proof { exchange, proof } => (5, [exchange, proof, &[]]),
            Message::Host { exchange, proof, sealed } => (6, [exchange, proof, sealed]),
            Message::Guest { exchange, sealed } => (7, [exchange, sealed, &[]]),
            Message::Gone(exchange) => (8, [exchange, &[], &[]]),
            Message::Done { exchange, word } => (9, [exchange, word, &[]]),
        };
        [&[VERSION, kind], parts.concat().as_slice()].concat().into()
    }

    /// Reads a message. `None`: malformed.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let ([VERSION, kind], rest) = bytes.split_first_chunk()? else { return None };
        let (tag, rest) = rest.split_first_chunk().map(|(tag, rest)| (*tag, rest))?;
        let sealed =
            |rest: &[u8]| (TAG..=MAX_SEALED).contains(&rest.len()).then(|| Bytes::copy_from_slice(rest));
        let message = match kind {
            0 => Message::Claim(tag),
            1 => Message::Taken(tag),
            2 => return Some(Message::Hello { guest: tag, point: rest.try_into().ok()? }),
            3 => {
                let (exchange, point) = rest.split_first_chunk()?;
                let point = point.try_into().ok()?;
                return Some(Message::Answer { guest: tag, exchange: *exchange, point });
            }
            4 => Message::Busy(tag),
            5 => return Some(Message::Proof { exchange: tag, proof: rest.try_into().ok()? }),
            6 => {
                let (proof, rest) = rest.split_first_chunk()?;
                return Some(Message::Host { exchange: tag, proof: *proof, sealed: sealed(rest)? });
            }
            7 => return Some(Message::Guest { exchange: tag, sealed: sealed(rest)? }),
            8 => Message::Gone(tag),
            9 => return Some(Message::Done { exchange: tag, word: rest.try_into().ok()? }),
            _ => return None,
        };
        rest.is_empty().then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::MAX_RECORD;

    fn every() -> Vec<Message> {
        let ([a, b], point, proof) = ([[1; 16], [2; 16]], [3; 33], [4; 32]);
        let sealed = Bytes::from(vec![5; MAX_SEALED]);
        vec![
            Message::Claim(a),
            Message::Taken(a),
            Message::Hello { guest: a, point },
            Message::Answer { guest: a, exchange: b, point },
            Message::Busy(a),
            Message::Proof { exchange: b, proof },
            Message::Host { exchange: b, proof, sealed: sealed.clone() },
            Message::Guest { exchange: b, sealed },
            Message::Gone(b),
            Message::Done { exchange: b, word: proof },
        ]
    }

    #[test]
    fn messages_are_read_as_written_and_a_byte_more_or_less_is_none() {
        for message in every() {
            let bytes = message.encode();
            // What a session passes on of a followed topic.
            assert!(bytes.len() <= MAX_RECORD, "{message:?}");
            assert_eq!(Message::decode(&bytes).as_ref(), Some(&message));
            assert_eq!(Message::decode(&[&bytes[..], &[0]].concat()), None, "{message:?}");
            for cut in 0..bytes.len() {
                let read = Message::decode(&bytes[..cut]);
                // What is sealed may be shorter.
                assert!(read.is_none_or(|read| read.encode() == bytes[..cut]), "{message:?} at {cut}");
            }
            let other = [&[VERSION + 1], &bytes[1..]].concat();
            assert_eq!(Message::decode(&other), None);
        }
        assert_eq!(Message::decode(&[&[VERSION, 10], [0; 16].as_slice()].concat()), None);
    }
}
