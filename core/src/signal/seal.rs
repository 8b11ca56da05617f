//! The envelope around a message, as a broker sees it.
//!
//! ```text
//! 1 | sender's topic 32 | Noise one-way X message      a message
//! 0 | version           | sender's topic 32            "I speak that version only"
//! ```
//! A broker learns from the sender's topic only what the sender's subscription told it already; with it,
//! a node that cannot read the version can still say so. The refusal is not authentic and so never ends
//! anything: it is a hint for the report.

use crate::hello::VERSION;
use crate::identity::{NodeId, SecretKey, Topic};
use crate::noise;
use crate::signal::message::Message;

/// Most bytes of an envelope. The longest message, DIRECT with a full address, takes under 800.
pub(crate) const MAX_ENVELOPE: usize = 2048;

/// What a broker delivered.
#[derive(Debug)]
pub(crate) enum Opened {
    Message {
        from: NodeId,
        message: Box<Message>,
    },
    /// It has a version we do not speak; where to say so.
    OtherVersion {
        reply_to: Topic,
    },
    /// The node with this topic does not speak our version, it says.
    VersionRefused {
        by: Topic,
        version: u8,
    },
}

/// Why a payload means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpenError {
    Malformed,
    NotAuthentic,
}

pub(crate) fn seal(
    ours: &SecretKey,
    to: &NodeId,
    message: &Message,
    entropy: [u8; 32],
) -> Result<Vec<u8>, noise::NotAuthentic> {
    let topic = ours.node_id().topic();
    let sealed = noise::seal(ours, to, &prologue(topic), &message.encode(), entropy)?;
    let mut out = Vec::with_capacity(33 + sealed.len());
    out.push(VERSION);
    out.extend_from_slice(&topic.0);
    out.extend_from_slice(&sealed);
    Ok(out)
}

pub(crate) fn open(ours: &SecretKey, envelope: &[u8]) -> Result<Opened, OpenError> {
    let (version, rest) = envelope.split_first().ok_or(OpenError::Malformed)?;
    if envelope.len() > MAX_ENVELOPE {
        return Err(OpenError::Malformed);
    }
    match *version {
        0 => {
            let (version, topic) = rest.split_first().ok_or(OpenError::Malformed)?;
            let by = topic.try_into().map(Topic).map_err(|_| OpenError::Malformed)?;
            Ok(Opened::VersionRefused { by, version: *version })
        }
        VERSION => {
            let (topic, sealed) = rest.split_first_chunk().ok_or(OpenError::Malformed)?;
            let topic = Topic(*topic);
            let (from, content) =
                noise::open(ours, &prologue(topic), sealed).map_err(|_| OpenError::NotAuthentic)?;
            if from.topic() != topic {
                return Err(OpenError::NotAuthentic);
            }
            let message = Message::decode(&content).map_err(|_| OpenError::Malformed)?;
            Ok(Opened::Message { from, message: Box::new(message) })
        }
        _ => {
            let (topic, _) = rest.split_first_chunk().ok_or(OpenError::Malformed)?;
            Ok(Opened::OtherVersion { reply_to: Topic(*topic) })
        }
    }
}

/// The envelope that says which version we speak.
pub(crate) fn refuse_version(ours: &SecretKey) -> Vec<u8> {
    let mut out = vec![0, VERSION];
    out.extend_from_slice(&ours.node_id().topic().0);
    out
}

fn prologue(topic: Topic) -> [u8; 12 + 1 + 32] {
    let mut out = [0; 45];
    out[..12].copy_from_slice(b"p2pd signal\0");
    out[12] = VERSION;
    out[13..].copy_from_slice(&topic.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use crate::signal::message::{Body, MessageId};
    use crate::time::WallTime;

    fn message() -> Message {
        Message {
            id: MessageId([3; 16]),
            sent: WallTime::from_micros(5),
            lifetime: 9,
            session: SessionId([0; 16]),
            body: Body::Dialling(2),
        }
    }

    #[test]
    fn envelopes_open_for_their_reader_only_and_not_when_changed() {
        let (a, b, c) =
            (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]), SecretKey::from_bytes([3; 32]));
        let envelope = seal(&a, &b.node_id(), &message(), [9; 32]).unwrap();
        match open(&b, &envelope) {
            Ok(Opened::Message { from, message: m }) => assert_eq!((from, *m), (a.node_id(), message())),
            other => panic!("{other:?}"),
        }
        assert!(matches!(open(&c, &envelope), Err(OpenError::NotAuthentic)));
        for at in 1..envelope.len() {
            let mut bad = envelope.clone();
            bad[at] ^= 0x10;
            assert!(matches!(open(&b, &bad), Err(OpenError::NotAuthentic)), "byte {at}");
        }
    }

    #[test]
    fn versions_are_refused_politely_once_and_in_both_directions() {
        let (a, b) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let mut newer = seal(&a, &b.node_id(), &message(), [9; 32]).unwrap();
        newer[0] = 7;
        assert!(
            matches!(open(&b, &newer), Ok(Opened::OtherVersion { reply_to }) if reply_to == a.node_id().topic())
        );
        match open(&a, &refuse_version(&b)) {
            Ok(Opened::VersionRefused { by, version }) => {
                assert_eq!((by, version), (b.node_id().topic(), VERSION));
            }
            other => panic!("{other:?}"),
        }
        for bad in [&[][..], &[0], &[0, 1, 2], &[1, 2], &[9], &[1; MAX_ENVELOPE + 1]] {
            assert!(open(&a, bad).is_err());
        }
    }
}
