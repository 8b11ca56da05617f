//! The hello: proof of identity on a fresh TCP stream, and agreement of its two ends to keep it.
//!
//! ```text
//! initiator                                   responder
//! FIRST   Noise IK 1 {session, purpose, mode}  ->
//!                                         <-   SECOND  Noise IK 2 {ready | asking | refused}
//! then sealed control messages, in both directions:
//!         HERE                the dialler, whose responder asks its user, is no replay
//!         APPROVED            the responder's user said yes
//!         NOMINATE sessions   this stream is to be the pipe (from the side with the lower node id)
//!         COMMIT   sessions   this stream is the pipe (from an initiator with the lower id whose responder allowed it)
//!         CONFIRM  sessions   it is; what follows CONFIRM or COMMIT are the pipe's bytes
//!         REFUSE   reason
//! ```
//! The dialler is the initiator. The address that is dialled may belong to no peer at all but to a service that trusts
//! us. So nothing that a peer chose is sent in clear: the session is its choice where it asked to be dialled. The Noise
//! prologue binds the version and the responder's node id, and IK itself binds the two static keys.
//!
//! Frames are read exactly, header first, so that no byte behind CONFIRM or COMMIT is taken from the stream.
//!
//! # On the wire
//!
//! Numbers are big-endian. A frame is `version u8 = 3 | kind u8 | length u16 | body`, with a body of 1 to 178 bytes.
//!
//! ```text
//! 1 FIRST   114 bytes and those of a protocol: Noise IK 1 of { session 16 | purpose u8 | mode u8 | protocol }
//!           = ephemeral key 32 | sealed static key 48 | sealed payload 34
//! 2 SECOND  51 bytes: Noise IK 2 of { status u8 | detail 2 }
//!           = ephemeral key 32 | sealed payload 19
//! 3 SEALED  a control message and a tag of 16: transport messages of Noise, nonces counted from 0 in each direction
//! 4 REFUSE  2 bytes: a refusal in clear, of a frame whose version is not spoken
//! ```
//! - Noise is `Noise_IK_25519_ChaChaPoly_BLAKE2s`, prologue `"p2pd hello\0" | version u8 | responder's static key 32`.
//! - `purpose`: 0 to open a session of the dialler's own, 1 because the responder asked for it.
//! - `mode`: 0 encrypted, 1 plain, 2 encrypted and for a session; 4 more where AES-256-GCM is on offer. For purpose 0 the
//!   protocol's name follows, up to 64 bytes, if there is one.
//! - `status`: 0 ready, 1 the responder's user is asked, 2 refused. The detail is a refusal if it is 2, else the cipher
//!   of all that follows and 0, or 1 where the status is 0 and the initiator may commit. The cipher is 0
//!   ChaCha20-Poly1305, or 1 AES-256-GCM, which must have been on offer.
//! - A refusal is `code u8 | detail u8`: 1 not accepted, 2 busy, 3 plain not allowed, 4 no such session, 5 version with
//!   the one that is spoken as detail, 6 no search for strangers, 7 nothing inside for strangers with what was asked
//!   for as detail (1 reverse, 2 punch, 3 relay), 8 no search in silence, 9 protocol not taken, 10 no sessions.
//! - A control message: `1` APPROVED, `2 | session 16 (| session 16)` NOMINATE, `3 (| session 16)` CONFIRM,
//!   `4 | refusal 2` REFUSE, `6` HERE, `7` BUSY, `8 | session 16 (| session 16)` COMMIT.

mod frame;

use core::fmt;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::call::{Refusal, Strategy};
use crate::identity::{NodeId, SecretKey};
use crate::noise::{Handshake, Keys, NotAuthentic, Suite, TAG};
use crate::pipe::{Opener, PipeKeys, PipeMode, ProtocolTag, Sealer, Terms};
use crate::session::SessionId;
use frame::{Framer, Kind};

pub(crate) use frame::HEADER;

/// The one version of the hello that is spoken.
pub(crate) const VERSION: u8 = 3;

/// Bit of the mode's byte in FIRST, where the initiator offers AES-256-GCM. Plain pipes have none.
const OFFERS_AES: u8 = 4;

/// Reason that the initiator dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Opens a session of its own.
    Open,
    /// Answers the responder's request.
    Answer,
}

/// Content of the initiator's first message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Offer {
    pub(crate) session: SessionId,
    pub(crate) purpose: Purpose,
    pub(crate) terms: Terms,
}

/// Content of the responder's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    /// `commit`: the initiator may say COMMIT in place of NOMINATE.
    Ready {
        commit: bool,
    },
    /// The responder's user is being asked; `Control::Approved` or `Refuse` follows.
    Asking,
    Refused(Refusal),
}

/// A sealed message after the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Control {
    /// Proof that the sender of FIRST has the key, and did not record it: for a responder that asks its user.
    Here,
    Approved,
    /// The sessions that this stream settles: one, or two that asked for each other.
    Nominate(SmallVec<[SessionId; 2]>),
    /// The sessions that this stream has settled, which nobody confirms.
    Commit(SmallVec<[SessionId; 2]>),
    /// The pipe that follows is not served at once: its user has another one.
    Busy,
    /// Agreement; with a session of the confirming side that is settled too.
    Confirm(Option<SessionId>),
    Refuse(Refusal),
}

/// Content of a whole frame.
#[derive(Debug)]
pub(crate) enum Heard {
    First { peer: NodeId, offer: Offer },
    Second(Status),
    Control(Control),
}

/// Reason that a hello is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HelloError {
    /// No frame of ours, or a frame out of place.
    Malformed,
    /// A frame of another version; the peer's version.
    Version(u8),
    /// A frame does not decrypt: not the peer we wanted, or changed on the way.
    NotAuthentic,
    /// The peer said no before the handshake was done.
    Refused(Refusal),
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloError::Malformed => f.write_str("whoever answered does not speak our protocol"),
            HelloError::Version(v) => write!(f, "the peer speaks protocol version {v}, we speak {VERSION}"),
            HelloError::NotAuthentic => f.write_str("whoever answered is not the peer"),
            HelloError::Refused(why) => write!(f, "the peer refused: {why}"),
        }
    }
}

impl From<NotAuthentic> for HelloError {
    fn from(_: NotAuthentic) -> Self {
        HelloError::NotAuthentic
    }
}

/// An end of a hello.
#[derive(Debug)]
pub(crate) struct Hello {
    framer: Framer,
    state: State,
    /// True if this end began although the other end dialled. If the other end has begun too, this end answers instead.
    yields: bool,
    /// The other end's beginning was passed over, once.
    crossed: bool,
    /// True if this end offers AES-256-GCM, and takes it.
    aes: bool,
}

#[derive(Debug)]
enum State {
    /// Initiator: FIRST is sent.
    AwaitingSecond(Handshake),
    /// Responder: nothing came yet.
    AwaitingFirst,
    /// Responder: FIRST came, the answer is the caller's to give, for a stream of this cipher.
    Answering(Handshake, Suite),
    /// The handshake is done: each end knows the other.
    Open(Box<Keys>),
    /// End of the hello.
    Dead,
}

impl Hello {
    /// Returns the end that dialled, and its first frame. With `aes` it offers AES-256-GCM.
    pub(crate) fn initiate(
        ours: &SecretKey,
        peer: &NodeId,
        offer: Offer,
        aes: bool,
        entropy: [u8; 32],
    ) -> Result<(Self, Bytes), HelloError> {
        let purpose = match offer.purpose {
            Purpose::Open => 0,
            Purpose::Answer => 1,
        };
        let mut payload: SmallVec<[u8; 96]> = SmallVec::new();
        payload.extend_from_slice(&offer.session.0);
        let mode = match offer.terms.mode {
            PipeMode::Plain => PipeMode::Plain.code(),
            mode => mode.code() | if aes { OFFERS_AES } else { 0 },
        };
        payload.extend_from_slice(&[purpose, mode]);
        // Who asked to be dialled knows its own protocol. Its length would be the peer's choice.
        if let (Purpose::Open, Some(protocol)) = (offer.purpose, offer.terms.protocol) {
            payload.extend_from_slice(protocol.as_bytes());
        }
        let (handshake, first) = Handshake::initiate(ours, peer, &prologue(peer), &payload, entropy)?;
        let state = State::AwaitingSecond(handshake);
        let hello = Hello { framer: Framer::new(), state, yields: false, crossed: false, aes };
        Ok((hello, frame::encode(Kind::First, &first)))
    }

    /// Returns the end that accepted. With `aes` it takes AES-256-GCM where the other one offers it.
    pub(crate) fn respond(aes: bool) -> Self {
        Hello { framer: Framer::new(), state: State::AwaitingFirst, yields: false, crossed: false, aes }
    }

    /// Makes an end that began on a stream it accepted give way to a dialler that began as well.
    pub(crate) fn yielding(mut self) -> Self {
        self.yields = true;
        self
    }

    /// Takes received bytes, up to the end of a frame. Returns the number of bytes taken and the content of the frame.
    /// The responder draws its ephemeral key from `entropy`, which is used for the first frame only.
    pub(crate) fn receive(
        &mut self,
        ours: &SecretKey,
        data: &[u8],
        entropy: impl FnOnce() -> [u8; 32],
    ) -> Result<(usize, Option<Heard>), HelloError> {
        let (taken, whole) = self.framer.push(data).inspect_err(|_| self.state = State::Dead)?;
        let Some((kind, body)) = whole else { return Ok((taken, None)) };
        let state = core::mem::replace(&mut self.state, State::Dead);
        let state = match (state, kind) {
            (State::AwaitingSecond(_), Kind::First) if self.yields => State::AwaitingFirst,
            // The other end accepted this stream, began as well, and will give way.
            (state @ State::AwaitingSecond(_), Kind::First) if !self.crossed => {
                (self.state, self.crossed) = (state, true);
                return Ok((taken, None));
            }
            (state, _) => state,
        };
        let (state, heard) = state.hear(ours, kind, &body, self.aes, entropy)?;
        self.state = state;
        Ok((taken, Some(heard)))
    }

    /// Returns the number of bytes that are needed before anything can happen. The caller gives the driver so much
    /// credit, once for each header and once for each body.
    pub(crate) fn needs(&self) -> u32 {
        self.framer.needs()
    }

    /// Responder: returns true if so many bytes more make FIRST whole, which takes a handshake to hear.
    pub(crate) fn has_first(&self, more: usize) -> bool {
        matches!(self.state, State::AwaitingFirst) && self.framer.has_body(more)
    }

    /// Responder: returns the answer to FIRST.
    pub(crate) fn answer(&mut self, status: Status) -> Result<Bytes, HelloError> {
        let State::Answering(handshake, suite) = core::mem::replace(&mut self.state, State::Dead) else {
            return Err(HelloError::Malformed);
        };
        let cipher = match suite {
            Suite::ChaCha20Poly1305 => 0,
            Suite::Aes256Gcm => 1,
        };
        let payload: [u8; 3] = match status {
            Status::Ready { commit } => [0, cipher, commit.into()],
            Status::Asking => [1, cipher, 0],
            Status::Refused(why) => {
                let [code, detail] = refusal_code(why);
                [2, code, detail]
            }
        };
        let (second, secrets) = handshake.split_writing(&payload)?;
        self.state = State::Open(Box::new(secrets.keys(suite, false)?));
        Ok(frame::encode(Kind::Second, &second))
    }

    /// Seals a control message, at either end, after the handshake.
    pub(crate) fn control(&mut self, message: &Control) -> Result<Bytes, HelloError> {
        let State::Open(keys) = &mut self.state else { return Err(HelloError::Malformed) };
        let mut sealed = message.encode();
        sealed.extend_from_slice(&[0; TAG]);
        keys.sealing.seal(&mut sealed)?;
        Ok(frame::encode(Kind::Sealed, &sealed))
    }

    /// Returns the keys for the pipe, once the handshake is done.
    pub(crate) fn into_pipe_keys(self, mode: PipeMode) -> Result<PipeKeys, HelloError> {
        match (self.state, mode) {
            (State::Open(_), PipeMode::Plain) => Ok(PipeKeys::Plain),
            (State::Open(keys), PipeMode::Encrypted | PipeMode::Session) => {
                Ok(PipeKeys::Encrypted(Sealer::new(keys.sealing), Opener::new(keys.opening)))
            }
            _ => Err(HelloError::Malformed),
        }
    }
}

/// Returns the clear-text answer to a frame of a version that is not spoken.
pub(crate) fn refuse_version() -> Bytes {
    frame::encode(Kind::Refuse, &refusal_code(Refusal::Version { ours: VERSION }))
}

impl State {
    fn hear(
        self,
        ours: &SecretKey,
        kind: Kind,
        body: &[u8],
        aes: bool,
        entropy: impl FnOnce() -> [u8; 32],
    ) -> Result<(State, Heard), HelloError> {
        match (self, kind) {
            (State::AwaitingFirst, Kind::First) => {
                let prologue = prologue(&ours.node_id());
                let (handshake, peer, payload) = Handshake::respond(ours, &prologue, body, entropy())?;
                let (offer, aes_offered) = parse_offer(&payload).ok_or(HelloError::Malformed)?;
                let suite = if aes && aes_offered { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
                Ok((State::Answering(handshake, suite), Heard::First { peer, offer }))
            }
            (State::AwaitingSecond(handshake), Kind::Second) => {
                let (payload, secrets) = handshake.split_reading(body)?;
                let [status, detail @ ..] =
                    <[u8; 3]>::try_from(&payload[..]).map_err(|_| HelloError::Malformed)?;
                let (status, cipher) = match (status, detail) {
                    (0, [cipher, commit @ 0..=1]) => (Status::Ready { commit: commit == 1 }, cipher),
                    (1, [cipher, 0]) => (Status::Asking, cipher),
                    (2, refusal) => (Status::Refused(refusal_from(refusal)), 0),
                    _ => return Err(HelloError::Malformed),
                };
                let suite = match cipher {
                    0 => Suite::ChaCha20Poly1305,
                    1 if aes => Suite::Aes256Gcm,
                    _ => return Err(HelloError::Malformed),
                };
                let keys = secrets.keys(suite, true)?;
                Ok((State::Open(Box::new(keys)), Heard::Second(status)))
            }
            (State::AwaitingSecond(_), Kind::Refuse) => match *body {
                [code, detail] => Err(HelloError::Refused(refusal_from([code, detail]))),
                _ => Err(HelloError::Malformed),
            },
            (State::Open(mut keys), Kind::Sealed) => {
                let mut plain: SmallVec<[u8; 64]> = SmallVec::from_slice(body);
                let length = keys.opening.open(&mut plain)?;
                let control = parse_control(&plain[..length]).ok_or(HelloError::Malformed)?;
                Ok((State::Open(keys), Heard::Control(control)))
            }
            _ => Err(HelloError::Malformed),
        }
    }
}

impl Control {
    /// Encodes the message as it stands inside a seal.
    pub(crate) fn encode(&self) -> SmallVec<[u8; 64]> {
        let mut plain = SmallVec::new();
        match self {
            Control::Approved => plain.push(1),
            Control::Nominate(sessions) | Control::Commit(sessions) => {
                plain.push(if matches!(self, Control::Nominate(_)) { 2 } else { 8 });
                sessions.iter().for_each(|s| plain.extend_from_slice(&s.0));
            }
            Control::Confirm(also) => {
                plain.push(3);
                also.iter().for_each(|s| plain.extend_from_slice(&s.0));
            }
            Control::Refuse(why) => {
                plain.push(4);
                plain.extend_from_slice(&refusal_code(*why));
            }
            Control::Here => plain.push(6),
            Control::Busy => plain.push(7),
        }
        plain
    }
}

pub(crate) fn parse_control(plain: &[u8]) -> Option<Control> {
    let (kind, rest) = plain.split_first()?;
    let sessions = || {
        let (chunks, left) = rest.as_chunks::<{ SessionId::LEN }>();
        left.is_empty().then(|| chunks.iter().map(|c| SessionId(*c)).collect::<SmallVec<[_; 2]>>())
    };
    match kind {
        1 if rest.is_empty() => Some(Control::Approved),
        2 => sessions().filter(|s| matches!(s.len(), 1..=2)).map(Control::Nominate),
        3 => sessions().filter(|s| s.len() <= 1).map(|s| Control::Confirm(s.first().copied())),
        4 => <[u8; 2]>::try_from(rest).ok().map(|code| Control::Refuse(refusal_from(code))),
        6 if rest.is_empty() => Some(Control::Here),
        7 if rest.is_empty() => Some(Control::Busy),
        8 => sessions().filter(|s| matches!(s.len(), 1..=2)).map(Control::Commit),
        _ => None,
    }
}

/// Returns an offer, and whether AES-256-GCM is on it.
fn parse_offer(payload: &[u8]) -> Option<(Offer, bool)> {
    let (session, rest) = payload.split_first_chunk()?;
    let [purpose, mode, protocol @ ..] = rest else { return None };
    let protocol = match protocol {
        [] => None,
        tag => Some(ProtocolTag::new(tag)?),
    };
    let purpose = match *purpose {
        0 => Purpose::Open,
        1 if protocol.is_none() => Purpose::Answer,
        _ => return None,
    };
    let aes = mode & OFFERS_AES != 0;
    let mode = PipeMode::from_code(mode & !OFFERS_AES)?;
    if aes && mode == PipeMode::Plain {
        return None;
    }
    Some((Offer { session: SessionId(*session), purpose, terms: Terms::of(mode, protocol) }, aes))
}

fn prologue(responder: &NodeId) -> [u8; 11 + 1 + 32] {
    let mut out = [0; 44];
    out[..11].copy_from_slice(b"p2pd hello\0");
    out[11] = VERSION;
    out[12..].copy_from_slice(responder.as_bytes());
    out
}

/// Returns a refusal's two bytes, in the hello and in signalling.
pub(crate) fn refusal_code(why: Refusal) -> [u8; 2] {
    match why {
        Refusal::NotAccepted => [1, 0],
        Refusal::Busy => [2, 0],
        Refusal::PlainNotAllowed => [3, 0],
        Refusal::NoSuchSession => [4, 0],
        Refusal::Version { ours } => [5, ours],
        Refusal::NoSearchForStrangers => [6, 0],
        Refusal::PrivateForStrangers { asked } => [7, strategy_code(asked)],
        Refusal::NoSearchInSilence => [8, 0],
        Refusal::ProtocolNotTaken => [9, 0],
        Refusal::NoSessions => [10, 0],
        Refusal::Unanswered => [11, 0],
        Refusal::Unknown(code) => [code, 0],
    }
}

/// Returns the refusal with these two bytes.
pub(crate) fn refusal_from([code, detail]: [u8; 2]) -> Refusal {
    match code {
        1 => Refusal::NotAccepted,
        2 => Refusal::Busy,
        3 => Refusal::PlainNotAllowed,
        4 => Refusal::NoSuchSession,
        5 => Refusal::Version { ours: detail },
        6 => Refusal::NoSearchForStrangers,
        7 => Refusal::PrivateForStrangers { asked: strategy_from(detail) },
        8 => Refusal::NoSearchInSilence,
        9 => Refusal::ProtocolNotTaken,
        10 => Refusal::NoSessions,
        11 => Refusal::Unanswered,
        code => Refusal::Unknown(code),
    }
}

fn strategy_code(strategy: Strategy) -> u8 {
    match strategy {
        Strategy::Direct => 0,
        Strategy::Reverse => 1,
        Strategy::Punch => 2,
        Strategy::Relay => 3,
        Strategy::Udp => 4,
    }
}

fn strategy_from(code: u8) -> Strategy {
    match code {
        1 => Strategy::Reverse,
        2 => Strategy::Punch,
        3 => Strategy::Relay,
        4 => Strategy::Udp,
        _ => Strategy::Direct,
    }
}

#[cfg(test)]
mod attacks;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    const OFFER: Offer =
        Offer { session: SessionId([9; 16]), purpose: Purpose::Open, terms: Terms::ENCRYPTED };

    fn hear(hello: &mut Hello, who: &SecretKey, frame: &[u8]) -> Result<Heard, HelloError> {
        let (taken, heard) = hello.receive(who, frame, || [4; 32])?;
        assert_eq!(taken, frame.len());
        Ok(heard.expect("a whole frame"))
    }

    const READY: Status = Status::Ready { commit: false };

    /// Returns the two ends after SECOND.
    fn open_pair(status: Status) -> (Hello, Hello) {
        open_pair_with(status, false, false)
    }

    /// Returns the two ends after SECOND, each with AES-256-GCM or without.
    fn open_pair_with(status: Status, one: bool, other: bool) -> (Hello, Hello) {
        let (a, b) = (key(1), key(2));
        let (mut init, first) = Hello::initiate(&a, &b.node_id(), OFFER, one, [3; 32]).unwrap();
        let mut resp = Hello::respond(other);
        match hear(&mut resp, &b, &first) {
            Ok(Heard::First { peer, offer }) => assert_eq!((peer, offer), (a.node_id(), OFFER)),
            other => panic!("{other:?}"),
        }
        let second = resp.answer(status).unwrap();
        match hear(&mut init, &a, &second) {
            Ok(Heard::Second(s)) => assert_eq!(s, status),
            other => panic!("{other:?}"),
        }
        (init, resp)
    }

    #[test]
    fn a_whole_hello_and_every_control_message() {
        let refused = Status::Refused(Refusal::Version { ours: 4 });
        for status in [READY, Status::Ready { commit: true }, Status::Asking, refused] {
            let (mut init, mut resp) = open_pair(status);
            let (one, two) = (SessionId([1; 16]), SessionId([2; 16]));
            let messages = [
                Control::Approved,
                Control::Here,
                Control::Busy,
                Control::Nominate(SmallVec::from_slice(&[one])),
                Control::Nominate(SmallVec::from_slice(&[one, two])),
                Control::Commit(SmallVec::from_slice(&[one])),
                Control::Commit(SmallVec::from_slice(&[one, two])),
                Control::Confirm(None),
                Control::Confirm(Some(two)),
                Control::Refuse(Refusal::Busy),
                Control::Refuse(Refusal::Unknown(77)),
                Control::Refuse(Refusal::ProtocolNotTaken),
                Control::Refuse(Refusal::NoSessions),
                Control::Refuse(Refusal::Unanswered),
                Control::Refuse(Refusal::PrivateForStrangers { asked: Strategy::Relay }),
            ];
            for message in messages {
                let frame = init.control(&message).unwrap();
                match hear(&mut resp, &key(2), &frame) {
                    Ok(Heard::Control(c)) => assert_eq!(c, message),
                    other => panic!("{other:?}"),
                }
                let frame = resp.control(&message).unwrap();
                assert!(matches!(hear(&mut init, &key(1), &frame), Ok(Heard::Control(c)) if c == message));
            }
            assert!(matches!(init.into_pipe_keys(PipeMode::Plain), Ok(PipeKeys::Plain)));
            assert!(matches!(resp.into_pipe_keys(PipeMode::Encrypted), Ok(PipeKeys::Encrypted(..))));
        }
    }

    #[test]
    fn the_callers_protocol_is_heard_and_the_longest_fits() {
        let (a, b) = (key(1), key(2));
        for length in [1, 64] {
            let terms = Terms::of(PipeMode::Encrypted, ProtocolTag::new(&vec![b'p'; length]));
            let (_, first) =
                Hello::initiate(&a, &b.node_id(), Offer { terms, ..OFFER }, false, [3; 32]).unwrap();
            match hear(&mut Hello::respond(false), &b, &first) {
                Ok(Heard::First { offer, .. }) => assert_eq!(offer.terms, terms),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn frames_are_read_exactly_at_every_split() {
        let (a, b) = (key(1), key(2));
        let (_, first) = Hello::initiate(&a, &b.node_id(), OFFER, false, [3; 32]).unwrap();
        let mut wire = first.to_vec();
        wire.extend_from_slice(b"the pipe's bytes");
        for cut in 0..first.len() {
            let mut resp = Hello::respond(false);
            let (taken, heard) = resp.receive(&b, &wire[..cut], || [4; 32]).unwrap();
            assert!(heard.is_none());
            assert_eq!(taken, cut);
            let expected = if cut < HEADER { HEADER - cut } else { first.len() - cut };
            assert_eq!(resp.needs() as usize, expected, "after {cut} bytes");
            let (taken, heard) = resp.receive(&b, &wire[cut..], || [4; 32]).unwrap();
            assert_eq!(cut + taken, first.len(), "nothing past the frame");
            assert!(heard.is_some());
        }
    }

    #[test]
    fn strangers_and_old_versions_are_told_apart() {
        let (a, b, c) = (key(1), key(2), key(3));
        let (_, first) = Hello::initiate(&a, &b.node_id(), OFFER, false, [3; 32]).unwrap();
        assert_eq!(hear(&mut Hello::respond(false), &c, &first).err(), Some(HelloError::NotAuthentic));

        for at in HEADER..first.len() {
            let mut changed = first.to_vec();
            changed[at] ^= 1;
            let heard = hear(&mut Hello::respond(false), &b, &changed).err();
            assert_eq!(heard, Some(HelloError::NotAuthentic), "byte {at}");
        }

        let mut newer = first.to_vec();
        newer[0] = 4;
        let err = Hello::respond(false).receive(&b, &newer, || [4; 32]).err();
        assert_eq!(err, Some(HelloError::Version(4)));

        let (mut init, _) = Hello::initiate(&a, &b.node_id(), OFFER, false, [3; 32]).unwrap();
        let told = hear(&mut init, &a, &refuse_version()).err();
        assert_eq!(told, Some(HelloError::Refused(Refusal::Version { ours: VERSION })));
    }

    /// A service that trusts us may be dialled for somebody else: that one must not choose the bytes that the service
    /// gets.
    #[test]
    fn what_is_in_clear_does_not_depend_on_what_the_peer_chose() {
        let (a, b) = (key(1), key(2));
        let first = |session, purpose, terms| {
            let offer = Offer { session: SessionId(session), purpose, terms };
            Hello::initiate(&a, &b.node_id(), offer, false, [3; 32]).unwrap().1
        };
        let one = first([9; 16], Purpose::Open, Terms::ENCRYPTED);
        let named = Terms::of(PipeMode::Plain, ProtocolTag::new(b"flush_all"));
        let two = first(*b"\r\nflush_all\r\n\r\n\r", Purpose::Answer, named);
        // Header, ephemeral key and sealed static key come before all that is chosen, which is sealed.
        let fixed = HEADER + 32 + 48;
        assert_eq!(one[..HEADER], [VERSION, 1, 0, 114]);
        assert_eq!(one[..fixed], two[..fixed]);
        assert_eq!((one.len(), two.len()), (fixed + 18 + 16, fixed + 18 + 16));
        assert!(!two.windows(4).any(|w| b"\r\nflush_all".windows(4).any(|chosen| w == chosen)));
    }

    #[test]
    fn offers_that_make_no_sense_are_refused() {
        let sound = [[9; 16].as_slice(), &[0, 0]].concat();
        assert!(parse_offer(&sound).is_some());
        for bad in [&sound[..17], &[&sound[..16], &[2, 0]].concat(), &[&sound[..16], &[0, 3]].concat()] {
            assert_eq!(parse_offer(bad), None);
        }
        // A protocol's name follows where the dialler calls.
        let (read, _) = parse_offer(&[sound.as_slice(), &[0]].concat()).unwrap();
        assert_eq!(read.terms, Terms::of(PipeMode::Encrypted, ProtocolTag::new(&[0])));
        assert!(parse_offer(&[sound.as_slice(), &[7; 64]].concat()).is_some());
        assert_eq!(parse_offer(&[sound.as_slice(), &[7; 65]].concat()), None);
        assert_eq!(parse_offer(&[&sound[..16], &[1, 0, 7]].concat()), None, "not where it answers");
    }

    #[test]
    fn frames_out_of_place_end_it() {
        let (mut init, mut resp) = open_pair(READY);
        let (_, first) = Hello::initiate(&key(1), &key(2).node_id(), OFFER, false, [3; 32]).unwrap();
        assert_eq!(hear(&mut resp, &key(2), &first).err(), Some(HelloError::Malformed));
        assert_eq!(resp.control(&Control::Approved).err(), Some(HelloError::Malformed), "dead");
        let mut forged = init.control(&Control::Approved).unwrap().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let (_, mut resp) = open_pair(READY);
        assert_eq!(hear(&mut resp, &key(2), &forged).err(), Some(HelloError::NotAuthentic));
    }

    /// Returns the cipher that both ends have come to.
    fn suite(init: &Hello, resp: &Hello) -> Suite {
        let of = |end: &Hello| match &end.state {
            State::Open(keys) => keys.sealing.suite(),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(init), of(resp));
        of(init)
    }

    #[test]
    fn aes_is_spoken_where_both_ends_have_it_and_only_there() {
        for (one, other, expected) in [
            (true, true, Suite::Aes256Gcm),
            (true, false, Suite::ChaCha20Poly1305),
            (false, true, Suite::ChaCha20Poly1305),
            (false, false, Suite::ChaCha20Poly1305),
        ] {
            for status in [READY, Status::Asking] {
                let (mut init, mut resp) = open_pair_with(status, one, other);
                assert_eq!(suite(&init, &resp), expected, "{one} {other}");
                let frame = init.control(&Control::Here).unwrap();
                assert!(matches!(hear(&mut resp, &key(2), &frame), Ok(Heard::Control(Control::Here))));
                let frame = resp.control(&Control::Approved).unwrap();
                assert!(matches!(hear(&mut init, &key(1), &frame), Ok(Heard::Control(Control::Approved))));
            }
            open_pair_with(Status::Refused(Refusal::Busy), one, other);
        }
    }

    /// The length tells nothing of the offer either.
    #[test]
    fn an_offer_of_aes_is_sealed_and_a_plain_pipe_has_none() {
        let (a, b) = (key(1), key(2));
        let first = |mode, aes| {
            let offer = Offer { terms: Terms::of(mode, None), ..OFFER };
            Hello::initiate(&a, &b.node_id(), offer, aes, [3; 32]).unwrap().1
        };
        let [with, without] = [true, false].map(|aes| first(PipeMode::Encrypted, aes));
        // Header, ephemeral key and sealed static key; then the sealed session and purpose; then the mode; then the tag.
        let mode = HEADER + 32 + 48 + 16 + 1;
        assert_eq!(with.len(), without.len());
        assert_eq!(with[..mode], without[..mode]);
        assert_eq!(
            with[mode] ^ without[mode],
            OFFERS_AES,
            "the cipher's stream is the same, so the bytes differ as the modes do"
        );
        assert_ne!(with[mode + 1..], without[mode + 1..], "the tag");
        assert_eq!(first(PipeMode::Plain, true), first(PipeMode::Plain, false));
    }

    #[test]
    fn nobody_between_the_ends_can_take_the_offer_of_aes_away() {
        let (a, b) = (key(1), key(2));
        let begin = |aes, entropy| Hello::initiate(&a, &b.node_id(), OFFER, aes, entropy).unwrap();
        let (mut init, first) = begin(true, [3; 32]);
        // The byte that has the offer is known, and so is the bit by which it differs.
        let mut flipped = first.to_vec();
        flipped[HEADER + 32 + 48 + 16 + 1] ^= 2;
        assert_eq!(hear(&mut Hello::respond(true), &b, &flipped).err(), Some(HelloError::NotAuthentic));

        // The answer may not be changed into one of the other cipher.
        let answer_to = |first: &[u8]| {
            let mut resp = Hello::respond(true);
            assert!(matches!(hear(&mut resp, &b, first), Ok(Heard::First { .. })));
            resp.answer(READY).unwrap()
        };
        let second = answer_to(&first);
        for at in HEADER..second.len() {
            let mut changed = second.to_vec();
            changed[at] ^= 1;
            let (mut init, _) = begin(true, [3; 32]);
            assert_eq!(hear(&mut init, &a, &changed).err(), Some(HelloError::NotAuthentic), "byte {at}");
        }

        // A recorded FIRST of the same node, without the offer, gets an answer that the node now cannot open. That holds
        // even if its ephemeral key were the same.
        for entropy in [[5; 32], [3; 32]] {
            let (_, recorded) = begin(false, entropy);
            let (mut init, _) = begin(true, [3; 32]);
            let heard = hear(&mut init, &a, &answer_to(&recorded)).err();
            assert_eq!(heard, Some(HelloError::NotAuthentic));
        }
        assert!(matches!(hear(&mut init, &a, &second), Ok(Heard::Second(READY))));
    }

    #[test]
    fn a_cipher_that_was_not_on_offer_or_is_none_is_malformed() {
        let (a, b) = (key(1), key(2));
        for (offered, payload, taken) in [
            (false, [0, 1, 0].as_slice(), false),
            (true, &[0, 1, 0], true),
            (true, &[1, 1, 0], true),
            (true, &[0, 0, 0], true),
            (true, &[0, 2, 0], false),
            (true, &[0, 1, 1], true),
            (true, &[0, 1, 2], false),
            (true, &[1, 1, 1], false),
            (true, &[3, 0, 0], false),
            (true, &[0, 1], false),
            (true, &[0, 1, 0, 0], false),
        ] {
            let (mut init, first) = Hello::initiate(&a, &b.node_id(), OFFER, offered, [3; 32]).unwrap();
            let (handshake, ..) =
                Handshake::respond(&b, &prologue(&b.node_id()), &first[HEADER..], [4; 32]).unwrap();
            let (second, _) = handshake.split_writing(payload).unwrap();
            let heard = hear(&mut init, &a, &frame::encode(Kind::Second, &second));
            assert_eq!(heard.is_ok(), taken, "{payload:?}");
            assert!(taken || heard.err() == Some(HelloError::Malformed), "{payload:?}");
        }
    }

    /// The end that accepted a stream of a punch gives way, and has AES-256-GCM as a responder too.
    #[test]
    fn an_end_that_gives_way_answers_the_offer() {
        let (a, b) = (key(1), key(2));
        let (mut dialled, first) = Hello::initiate(&a, &b.node_id(), OFFER, true, [3; 32]).unwrap();
        let (accepted, _) = Hello::initiate(&b, &a.node_id(), OFFER, true, [6; 32]).unwrap();
        let mut accepted = accepted.yielding();
        assert!(matches!(hear(&mut accepted, &b, &first), Ok(Heard::First { .. })));
        let second = accepted.answer(READY).unwrap();
        assert!(matches!(hear(&mut dialled, &a, &second), Ok(Heard::Second(READY))));
        assert_eq!(suite(&dialled, &accepted), Suite::Aes256Gcm);
    }
}
