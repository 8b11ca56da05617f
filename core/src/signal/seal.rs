//! The envelope around a message: all that a broker sees of it.
//!
//! # On the wire
//!
//! An envelope is one message of `Noise_X_25519_ChaChaPoly_BLAKE2s` with the prologue `"p2pd signal\0"` and nothing
//! else: `ephemeral key 32 | sealed static key 48 | sealed content, 16 longer than the content`, at most 2,048 bytes. The
//! content is
//!
//! ```text
//! version u8 = 2 | message                         a message, which begins with its id in every version
//! 0 | id 16 of a message | version u8              "I speak that version only, and could not read that message"
//! ```
//! A broker learns its reader from the topic, and its length, but neither who asks nor what. Since the version stands
//! inside, a node that cannot read the message still knows from whom it is, and its refusal is authentic. The id
//! binds that to a message of ours, so that nobody can show us an old one.

use crate::hello::VERSION;
use crate::identity::{NodeId, SecretKey};
use crate::noise;
use crate::signal::message::{Message, MessageId};

/// Most bytes of an envelope. The longest message, DIRECT with a full address, takes under 800.
pub(crate) const MAX_ENVELOPE: usize = 2048;

const PROLOGUE: &[u8] = b"p2pd signal\0";

/// In place of a version: a refusal follows.
const REFUSAL: u8 = 0;

/// What a broker delivered.
#[derive(Debug)]
pub(crate) enum Content {
    Message(Box<Message>),
    /// The message with this id has a version that we do not speak.
    OtherVersion(MessageId),
    /// The sender speaks another version than our message with this id had.
    VersionRefused {
        about: MessageId,
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
    let content = [&[VERSION], message.encode().as_slice()].concat();
    noise::seal(ours, to, PROLOGUE, &content, entropy)
}

/// Seals which version we speak, for the sender of a message that has another.
pub(crate) fn refuse_version(
    ours: &SecretKey,
    to: &NodeId,
    about: MessageId,
    entropy: [u8; 32],
) -> Result<Vec<u8>, noise::NotAuthentic> {
    let content = [[REFUSAL].as_slice(), &about.0, &[VERSION]].concat();
    noise::seal(ours, to, PROLOGUE, &content, entropy)
}

/// Who sealed an envelope, and what is in it.
pub(crate) fn open(ours: &SecretKey, envelope: &[u8]) -> Result<(NodeId, Content), OpenError> {
    if envelope.len() > MAX_ENVELOPE {
        return Err(OpenError::Malformed);
    }
    let (from, content) = noise::open(ours, PROLOGUE, envelope).map_err(|_| OpenError::NotAuthentic)?;
    let content = parse(&content).ok_or(OpenError::Malformed)?;
    Ok((from, content))
}

fn parse(content: &[u8]) -> Option<Content> {
    let (version, rest) = content.split_first()?;
    if *version == VERSION {
        return Message::decode(rest).ok().map(|message| Content::Message(Box::new(message)));
    }
    let (about, rest) = rest.split_first_chunk()?;
    let about = MessageId(*about);
    match (*version, rest) {
        (REFUSAL, &[version]) => Some(Content::VersionRefused { about, version }),
        (REFUSAL, _) => None,
        _ => Some(Content::OtherVersion(about)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use crate::signal::message::Body;
    use crate::time::WallTime;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

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
        let (a, b, c) = (key(1), key(2), key(3));
        let envelope = seal(&a, &b.node_id(), &message(), [9; 32]).unwrap();
        match open(&b, &envelope) {
            Ok((from, Content::Message(m))) => assert_eq!((from, *m), (a.node_id(), message())),
            other => panic!("{other:?}"),
        }
        assert!(matches!(open(&c, &envelope), Err(OpenError::NotAuthentic)));
        for at in 0..envelope.len() {
            let mut bad = envelope.clone();
            bad[at] ^= 0x10;
            assert!(matches!(open(&b, &bad), Err(OpenError::NotAuthentic)), "byte {at}");
        }
    }

    /// A broker sees who is to read it by the topic; here is nothing of who sent it, nor anything that two envelopes share.
    #[test]
    fn nothing_of_the_sender_is_in_clear() {
        let (a, b) = (key(1), key(2));
        let [one, two] = [[9; 32], [8; 32]].map(|e| seal(&a, &b.node_id(), &message(), e).unwrap());
        assert_eq!(one.len(), noise::X_OVERHEAD + 1 + message().encode().len());
        for public in [a.node_id().topic().0, *a.node_id().as_bytes()] {
            assert!(!one.windows(4).any(|w| public.windows(4).any(|p| w == p)));
        }
        assert!(!one.windows(4).any(|w| two.windows(4).any(|t| w == t)));
    }

    #[test]
    fn another_version_is_told_apart_and_refused_under_seal() {
        let (a, b) = (key(1), key(2));
        let newer = [[7].as_slice(), &[3; 16], b"whatever that version says"].concat();
        let newer = noise::seal(&a, &b.node_id(), PROLOGUE, &newer, [9; 32]).unwrap();
        match open(&b, &newer) {
            Ok((from, Content::OtherVersion(about))) => {
                assert_eq!((from, about), (a.node_id(), MessageId([3; 16])));
            }
            other => panic!("{other:?}"),
        }
        match open(&a, &refuse_version(&b, &a.node_id(), MessageId([3; 16]), [8; 32]).unwrap()) {
            Ok((from, Content::VersionRefused { about, version })) => {
                assert_eq!((from, about, version), (b.node_id(), MessageId([3; 16]), VERSION));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_none_of_these_is_malformed() {
        let (a, b) = (key(1), key(2));
        for bad in [&[][..], &[0; 95], &[1; MAX_ENVELOPE + 1]] {
            assert!(open(&a, bad).is_err());
        }
        for content in [&[][..], &[VERSION], &[VERSION, 1, 2], &[0; 17], &[0; 19], &[7; 16]] {
            let sealed = noise::seal(&a, &b.node_id(), PROLOGUE, content, [9; 32]).unwrap();
            assert_eq!(open(&b, &sealed).err(), Some(OpenError::Malformed), "{content:?}");
        }
    }
}
