//! Records of names: a record under [`PREFIX`] is kept for the key that signed it.
//!
//! ```text
//! version 1 | X25519 key 32 | sequence 8 | expiry 8 | length 1, name | length 2, address | signature 64
//! ```
//! The topic's end is the hash of the name, so that a record cannot be kept under another one's topic. The signature is
//! XEdDSA's with the sign bit 0, over `p2pd name record` and the fields before it.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use curve25519_dalek::MontgomeryPoint;
use ed25519_dalek::{Signature, VerifyingKey};

use super::session::Message;
use crate::{Crowd, Full, Shares};

/// Topics of names begin so.
const PREFIX: &str = "p2pd-name-";
/// Question to the owner of a name for its record, where brokers do not keep it. This one does.
pub(super) const QUERY: &[u8] = b"?";
/// Text before the signed content.
const CONTEXT: &[u8] = b"p2pd name record";
/// An address has at most 1,024 bytes and a name 63.
const MAX: usize = 1 + 32 + 8 + 8 + 1 + 63 + 2 + 1_024 + 64;
/// A record that would be valid for longer is not kept.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// Longest difference between clocks.
const SKEW: Duration = Duration::from_secs(600);

/// Returns true if a topic is that of a name, where only records are kept and passed on.
pub(super) fn is_name(topic: &str) -> bool {
    topic.starts_with(PREFIX)
}

/// Fields of a record, as far as a broker has to know them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Claim {
    key: [u8; 32],
    sequence: u64,
    /// Seconds of Unix time.
    expiry: u64,
    /// The name is given up.
    released: bool,
}

impl Claim {
    /// Reads a record and checks that it belongs under this topic and is signed.
    pub(super) fn read(topic: &str, record: &[u8]) -> Option<Self> {
        if record.len() > MAX {
            return None;
        }
        let (content, signature) = record.split_last_chunk::<64>()?;
        let (fixed, rest) = content.split_first_chunk::<49>()?;
        let (name, rest) = rest.split_first().and_then(|(n, rest)| rest.split_at_checked(usize::from(*n)))?;
        let (length, address) = rest.split_first_chunk::<2>()?;
        if fixed[0] != 1 || address.len() != usize::from(u16::from_be_bytes(*length)) {
            return None;
        }
        let hash = Blake2s::<U32>::new().chain_update(b"p2pd name").chain_update(name).finalize();
        let hash = data_encoding::BASE32_NOPAD.encode(&hash).to_ascii_lowercase();
        if topic.strip_prefix(PREFIX) != Some(&hash) {
            return None;
        }
        let key: [u8; 32] = fixed[1..33].try_into().ok()?;
        let point = MontgomeryPoint(key).to_edwards(0)?;
        let signed = [CONTEXT, content].concat();
        VerifyingKey::from(point).verify_strict(&signed, &Signature::from_bytes(signature)).ok()?;
        let number = |at: usize| fixed[at..at + 8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        Some(Claim { key, sequence: number(33), expiry: number(41), released: address.is_empty() })
    }

    fn is_current(&self, unix: Option<Duration>) -> bool {
        let Some(now) = unix.map(|d| d.as_secs()) else { return true };
        self.expiry.saturating_add(SKEW.as_secs()) > now
            && self.expiry <= now.saturating_add(LONGEST.as_secs() + SKEW.as_secs())
    }
}

/// A record that is kept.
#[derive(Debug)]
struct Held {
    claim: Claim,
    message: Message,
}

/// The records that are kept, one for each name.
#[derive(Debug)]
pub(super) struct Records {
    held: BTreeMap<Arc<str>, Held>,
    /// Sources of the records, and when each came last.
    senders: Crowd<Arc<str>>,
}

impl Records {
    pub(super) fn new(shares: Shares) -> Self {
        Records { held: BTreeMap::new(), senders: Crowd::new(shares) }
    }

    /// Keeps a record, if its key may have the name and the sender's network has not its share of names.
    pub(super) fn keep(
        &mut self,
        now: Duration,
        message: &Message,
        claim: Claim,
        from: IpAddr,
        unix: Option<Duration>,
    ) -> bool {
        if !claim.is_current(unix) {
            return false;
        }
        match self.held.get(&message.topic).filter(|held| held.claim.is_current(unix)) {
            Some(held) if held.claim.key == claim.key => {
                let again = held.claim.sequence == claim.sequence && held.message.payload == message.payload;
                if !again && held.claim.sequence >= claim.sequence {
                    return false;
                }
            }
            Some(held) if !held.claim.released => return false,
            _ => {}
        }
        let topic = &message.topic;
        let mut entered = self.senders.enter(now, topic.clone(), from);
        if entered == Err(Full) {
            self.forget_expired(unix);
            entered = self.senders.enter(now, topic.clone(), from);
        }
        match entered {
            Ok(None) => {}
            Ok(Some(gone)) => drop(self.held.remove(&gone)),
            Err(Full) => return false,
        }
        self.held.insert(topic.clone(), Held { claim, message: message.clone() });
        true
    }

    fn forget_expired(&mut self, unix: Option<Duration>) {
        let Records { held, senders } = self;
        held.retain(|topic, held| {
            let current = held.claim.is_current(unix);
            if !current {
                senders.leave(topic);
            }
            current
        });
    }

    /// Returns the message that is kept under a topic.
    pub(super) fn get(&self, topic: &str, unix: Option<Duration>) -> Option<&Message> {
        self.held.get(topic).filter(|held| held.claim.is_current(unix)).map(|held| &held.message)
    }
}
