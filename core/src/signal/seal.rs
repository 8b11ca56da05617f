//! The envelope around a message: all that a broker sees of it.
//!
//! # On the wire
//!
//! An envelope is a mark of 16 bytes and one message of `Noise_X_25519_ChaChaPoly_BLAKE2s` with the prologue `"p2pd
//! signal\0"`: `mark 16 | ephemeral key 32 | sealed static key 48 | sealed content, 16 longer than the content`, at most
//! 2,048 bytes. The content is
//!
//! ```text
//! version u8 = 2 | message                         a message, which begins with its id in every version
//! version u8 = 3 | UDP_REQUEST                     a message that nodes before it cannot read
//! 0 | id 16 of a message | version u8              "I speak that version only, and could not read that message"
//! ```
//! A broker learns its reader from the topic, and its length, but neither who asks nor what. Since the version stands
//! inside, a node that cannot read the message still knows from whom it is, and its refusal is authentic. The id
//! binds that to a message of ours, so that nobody can show us an old one.
//!
//! The mark shows a reader who has the sender's key at hand that the envelope is this sender's, for a four-hundredth of
//! what opening it costs. To everybody else it is random, and a reader who knows no sender ignores it. It is `minute u8 |
//! proof 15`:
//! - the low byte of the sending time in whole minutes since 1970,
//! - the first bytes of keyed BLAKE2s-256 over `"p2pd mark\0" | reader's static key 32 | minute, i64 | ephemeral key 32`. Its
//!   key is the X25519 exchange of both static keys.

use crate::identity::{NodeId, SecretKey};
use crate::noise;
use crate::signal::message::{Message, MessageId, UDP_VERSION, VERSION};
use crate::time::WallTime;

/// Most bytes of an envelope. The longest message, DIRECT with a full address, takes under 800.
pub(crate) const MAX_ENVELOPE: usize = 2048;

/// Bytes of a mark.
const MARK: usize = 16;

const PROLOGUE: &[u8] = b"p2pd signal\0";

/// A mark counts for so many minutes around its own.
pub(crate) const MARKED_WITHIN: i64 = 2;

/// Byte in place of a version: a refusal follows.
const REFUSAL: u8 = 0;

/// Content of an envelope that a broker delivered.
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

/// Reasons for which a payload is not accepted.
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
    let content = [&[message.version()], message.encode().as_slice()].concat();
    seal_content(ours, to, message.sent, &content, entropy)
}

fn seal_content(
    ours: &SecretKey,
    to: &NodeId,
    sent: WallTime,
    content: &[u8],
    entropy: [u8; 32],
) -> Result<Vec<u8>, noise::NotAuthentic> {
    let sealed = noise::seal(ours, to, PROLOGUE, content, entropy)?;
    let mark = MarkKey::new(ours, to).mark(to, minute(sent), &sealed);
    Ok([mark.as_slice(), &sealed].concat())
}

/// Seals which version we speak, for the sender of a message that has another.
pub(crate) fn refuse_version(
    ours: &SecretKey,
    to: &NodeId,
    about: MessageId,
    sent: WallTime,
    entropy: [u8; 32],
) -> Result<Vec<u8>, noise::NotAuthentic> {
    let content = [[REFUSAL].as_slice(), &about.0, &[VERSION]].concat();
    seal_content(ours, to, sent, &content, entropy)
}

/// Key of the marks on envelopes between us and one peer.
#[derive(Clone, Debug)]
pub(crate) struct MarkKey([u8; 32]);

impl MarkKey {
    pub(crate) fn new(ours: &SecretKey, peer: &NodeId) -> Self {
        if *peer == ours.node_id() {
            // Nobody looks for it.
            return MarkKey(noise::derive(ours.as_bytes(), &[b"p2pd mark of oneself"]));
        }
        MarkKey(noise::shared_secret(ours, peer))
    }

    /// Returns true if the peer marked this envelope for `reader`, in a minute around this time.
    pub(crate) fn is_of(&self, envelope: &[u8], reader: &NodeId, wall: WallTime) -> bool {
        let Some((mark, sealed)) = envelope.split_first_chunk::<MARK>() else { return false };
        let now = minute(wall);
        // The minute that ends so and is nearest to ours.
        let meant = now + i64::from(mark[0].wrapping_sub(now as u8) as i8);
        let differs = mark.iter().zip(self.mark(reader, meant, sealed)).fold(0, |all, (a, b)| all | (a ^ b));
        differs == 0 && (meant - now).abs() <= MARKED_WITHIN
    }

    fn mark(&self, reader: &NodeId, minute: i64, sealed: &[u8]) -> [u8; MARK] {
        let ephemeral = &sealed[..sealed.len().min(32)];
        let label = [b"p2pd mark\0", reader.as_bytes().as_slice(), &minute.to_be_bytes(), ephemeral];
        let proof = noise::derive(&self.0, &label);
        let mut mark = [minute as u8; MARK];
        mark[1..].copy_from_slice(&proof[..MARK - 1]);
        mark
    }
}

fn minute(wall: WallTime) -> i64 {
    wall.as_micros().div_euclid(60_000_000)
}

/// Opens an envelope. Returns its sender and its content.
pub(crate) fn open(ours: &SecretKey, envelope: &[u8]) -> Result<(NodeId, Content), OpenError> {
    if envelope.len() > MAX_ENVELOPE {
        return Err(OpenError::Malformed);
    }
    let (_, sealed) = envelope.split_first_chunk::<MARK>().ok_or(OpenError::Malformed)?;
    let (from, content) = noise::open(ours, PROLOGUE, sealed).map_err(|_| OpenError::NotAuthentic)?;
    let content = parse(&content).ok_or(OpenError::Malformed)?;
    Ok((from, content))
}

fn parse(content: &[u8]) -> Option<Content> {
    let (version, rest) = content.split_first()?;
    if [VERSION, UDP_VERSION].contains(version) {
        let message = Message::decode(rest).ok().filter(|message| message.version() == *version)?;
        return Some(Content::Message(Box::new(message)));
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
        for at in MARK..envelope.len() {
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
        assert_eq!(one.len(), MARK + noise::X_OVERHEAD + 1 + message().encode().len());
        for public in [a.node_id().topic().0, *a.node_id().as_bytes()] {
            assert!(!one.windows(4).any(|w| public.windows(4).any(|p| w == p)));
        }
        assert!(!one.windows(4).any(|w| two.windows(4).any(|t| w == t)));
    }

    #[test]
    fn another_version_is_told_apart_and_refused_under_seal() {
        let (a, b) = (key(1), key(2));
        let newer = [[7].as_slice(), &[3; 16], b"whatever that version says"].concat();
        let newer = seal_content(&a, &b.node_id(), WallTime::from_micros(0), &newer, [9; 32]).unwrap();
        match open(&b, &newer) {
            Ok((from, Content::OtherVersion(about))) => {
                assert_eq!((from, about), (a.node_id(), MessageId([3; 16])));
            }
            other => panic!("{other:?}"),
        }
        let wall = WallTime::from_micros(0);
        match open(&a, &refuse_version(&b, &a.node_id(), MessageId([3; 16]), wall, [8; 32]).unwrap()) {
            Ok((from, Content::VersionRefused { about, version })) => {
                assert_eq!((from, about, version), (b.node_id(), MessageId([3; 16]), VERSION));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_mark_shows_its_reader_whose_it_is_around_its_minute() {
        let (a, b, c) = (key(1), key(2), key(3));
        let minutes = |n: i64| WallTime::from_micros(n * 60_000_000);
        for sent in [0, 127, 128, 255, 256, 28_000_000] {
            let message = Message { sent: minutes(sent), ..message() };
            let envelope = seal(&a, &b.node_id(), &message, [9; 32]).unwrap();
            let is_of = |reader: &SecretKey, sender: &SecretKey, wall| {
                let key = MarkKey::new(reader, &sender.node_id());
                key.is_of(&envelope, &reader.node_id(), minutes(wall))
            };
            for apart in -300..300 {
                assert_eq!(is_of(&b, &a, sent + apart), apart.abs() <= MARKED_WITHIN, "{sent} {apart}");
            }
            assert!(!is_of(&c, &a, sent) && !is_of(&b, &c, sent));
            assert!(!is_of(&a, &b, sent), "sent back to its sender");
            for at in 0..MARK + 32 {
                let mut bad = envelope.clone();
                bad[at] ^= 0x10;
                let key = MarkKey::new(&b, &a.node_id());
                assert!(!key.is_of(&bad, &b.node_id(), minutes(sent)), "byte {at}");
            }
        }
        let key = MarkKey::new(&b, &a.node_id());
        assert!([0, 15, 16, 17].iter().all(|n| !key.is_of(&vec![0; *n], &b.node_id(), minutes(0))));
    }

    #[test]
    fn what_is_none_of_these_is_malformed() {
        let (a, b) = (key(1), key(2));
        for bad in [&[][..], &[0; MARK], &[0; MARK + 95], &[1; MAX_ENVELOPE + 1]] {
            assert!(open(&a, bad).is_err());
        }
        for content in [&[][..], &[VERSION], &[VERSION, 1, 2], &[0; 17], &[0; 19], &[7; 16]] {
            let wall = WallTime::from_micros(0);
            let sealed = seal_content(&a, &b.node_id(), wall, content, [9; 32]).unwrap();
            assert_eq!(open(&b, &sealed).err(), Some(OpenError::Malformed), "{content:?}");
        }
    }
}
