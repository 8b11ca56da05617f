//! The security layer of the relay stream: QUIC (RFC 9001) with the Noise IK handshake in place of TLS.
//!
//! ```text
//! Initial    caller -> callee   FIRST    e, es, s, ss   and the caller's transport parameters
//! Initial    callee -> caller   SECOND   e, ee, se      and the callee's transport parameters
//! Handshake  callee -> caller   DONE     one byte, under the handshake's keys
//! Handshake  caller -> callee   DONE     likewise
//! ```
//! The callee forgets its Handshake packets when the caller's DONE comes, as with TLS, so the caller says it last.
//! FIRST and SECOND have two bytes of length before them. The prologue binds version, session and the callee's id,
//! IK binds both static keys, and each side knows beforehand which peer it wants.
//!
//! Initial packets of QUIC are protected with keys that everybody can compute. Here these keys come from the exchange
//! of the two static keys as well. A packet that the relay altered or made up, or that belongs to another session, is
//! dropped like noise at every stage. It costs one keyed hash and one opening.
//!
//! All keys are derived by keyed BLAKE2s from Noise's split. A key update (RFC 9001 section 6) derives the
//! next key from the one before. The nonce is the packet number; no key is used in both directions.
//!
//! The reasons: ADR 17 in docs/src/adr.

use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use bytes::BytesMut;
use quinn_proto::crypto::{
    AeadKey, ClientConfig, CryptoError, ExportKeyingMaterialError, HandshakeTokenKey, HeaderKey, HmacKey,
    KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};

use crate::identity::{NodeId, SecretKey};
use crate::noise::{self, Aead, Handshake, NotAuthentic, Secrets, Suite, TAG};

/// The QUIC version in the packets: `p2pd`. All else on the wire follows this number.
pub(super) const QUIC_VERSION: u32 = u32::from_be_bytes(*b"p2pd");

/// The longest FIRST or SECOND that is taken; ours have about 200 bytes.
const MAX_MESSAGE: usize = 1_000;

const DONE: u8 = 1;

/// Transport parameter 0x3032, without a value: the caller can have data packets under AES-256-GCM, and the callee takes it.
/// Others pass over it (RFC 9000 section 7.4.2).
const AES: [u8; 3] = [0x70, 0x32, 0];

/// Names of the two ends and the session, and the secrets derived from them.
pub(super) struct Identity {
    ours: SecretKey,
    peer: NodeId,
    prologue: [u8; 60],
    /// Secret of Initial packets.
    initial: [u8; 32],
    /// Entropy for our ephemeral key.
    entropy: [u8; 32],
    /// AES-256-GCM is offered and taken.
    aes: bool,
}

impl Identity {
    pub(super) fn new(
        ours: &SecretKey,
        peer: &NodeId,
        session: &[u8; 16],
        side: Side,
        entropy: [u8; 32],
        aes: bool,
    ) -> Self {
        let callee = if side.is_client() { *peer } else { ours.node_id() };
        let mut prologue = [0; 60];
        prologue[..11].copy_from_slice(b"p2pd relay\0");
        prologue[11] = crate::signal::message::VERSION;
        prologue[12..28].copy_from_slice(session);
        prologue[28..].copy_from_slice(callee.as_bytes());
        let initial = noise::derive(&noise::shared_secret(ours, peer), &[&prologue]);
        Identity { ours: ours.clone(), peer: *peer, prologue, initial, entropy, aes }
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let secret = |of: &[u8]| noise::derive(&self.initial, &[b"initial ", of, dst_cid]);
        let suite = Suite::ChaCha20Poly1305;
        Directions { caller: secret(b"caller"), callee: secret(b"callee"), suite }.keys(side)
    }
}

impl ClientConfig for Identity {
    fn start_session(
        self: Arc<Self>,
        _version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let mut ours = Vec::new();
        params.write(&mut ours);
        ours.extend_from_slice(if self.aes { &AES } else { &[] });
        let state = Handshake::initiate(&self.ours, &self.peer, &self.prologue, &ours, self.entropy)
            .map_or(State::Dead, |(handshake, first)| State::Opening(handshake, first));
        Ok(Box::new(NoiseSession::new(self, Side::Client, ours, state)))
    }
}

impl ServerConfig for Identity {
    fn initial_keys(&self, _version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        Ok(self.initial_keys(dst_cid, Side::Server))
    }

    /// Dummy, never called: nobody here asks for a retry.
    fn retry_tag(&self, _version: u32, _orig_dst_cid: &ConnectionId, _packet: &[u8]) -> [u8; 16] {
        [0; 16]
    }

    fn start_session(self: Arc<Self>, _version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let mut ours = Vec::new();
        params.write(&mut ours);
        Box::new(NoiseSession::new(self, Side::Server, ours, State::AwaitingFirst))
    }
}

struct NoiseSession {
    identity: Arc<Identity>,
    side: Side,
    /// Transport parameters of this end.
    ours: Vec<u8>,
    /// Transport parameters of the peer.
    theirs: Option<TransportParameters>,
    /// The beginning of a message.
    inbox: Vec<u8>,
    state: State,
    /// The keys of the phase after the current one.
    next: Option<Directions>,
    /// Cipher of data packets.
    suite: Suite,
}

enum State {
    /// Caller: FIRST is to be written.
    Opening(Handshake, Vec<u8>),
    /// Caller: FIRST is written.
    AwaitingSecond(Handshake),
    /// Callee: nothing came yet.
    AwaitingFirst,
    /// The Handshake packets' keys are to be given out, and SECOND to be written if we are the callee.
    Keyed(Vec<u8>, Secrets),
    /// Caller: the callee's DONE has to come.
    AwaitingCallee(Secrets),
    /// The data packets' keys are to be given out and DONE to be written.
    Finishing(Secrets),
    /// Callee: the caller's DONE has to come.
    AwaitingCaller,
    Open,
    Dead,
}

impl NoiseSession {
    fn new(identity: Arc<Identity>, side: Side, ours: Vec<u8>, state: State) -> Self {
        let suite = Suite::ChaCha20Poly1305;
        NoiseSession { identity, side, ours, theirs: None, inbox: Vec::new(), state, next: None, suite }
    }

    /// Takes in a whole FIRST or SECOND.
    fn hear(&mut self, message: &[u8]) -> Result<State, NotAuthentic> {
        let identity = &self.identity;
        let (params, state) = match core::mem::replace(&mut self.state, State::Dead) {
            State::AwaitingFirst => {
                let (handshake, peer, params) =
                    Handshake::respond(&identity.ours, &identity.prologue, message, identity.entropy)?;
                if peer != identity.peer {
                    return Err(NotAuthentic);
                }
                if identity.aes && has_aes(&params) {
                    self.suite = Suite::Aes256Gcm;
                    self.ours.extend_from_slice(&AES);
                }
                let (second, secrets) = handshake.split_writing(&self.ours)?;
                (params, State::Keyed(framed(&second), secrets))
            }
            State::AwaitingSecond(handshake) => {
                let (params, secrets) = handshake.split_reading(message)?;
                if has_aes(&params) {
                    self.suite = if identity.aes { Suite::Aes256Gcm } else { return Err(NotAuthentic) };
                }
                (params, State::Keyed(Vec::new(), secrets))
            }
            _ => return Err(NotAuthentic),
        };
        let params = TransportParameters::read(self.side, &mut Cursor::new(params));
        self.theirs = Some(params.map_err(|_| NotAuthentic)?);
        Ok(state)
    }
}

impl Session for NoiseSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.identity.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    /// Returns `None`: no other peer than the wanted one gets through the handshake.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        !matches!(self.state, State::Open)
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        match (core::mem::replace(&mut self.state, State::Dead), buf) {
            (State::AwaitingCallee(secrets), [DONE]) => {
                self.state = State::Finishing(secrets);
                return Ok(false);
            }
            (State::AwaitingCaller, [DONE]) => {
                self.state = State::Open;
                return Ok(true);
            }
            (state, _) => self.state = state,
        }
        self.inbox.extend_from_slice(buf);
        let Some((length, body)) = self.inbox.split_first_chunk() else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_MESSAGE || body.len() > length {
            return Err(alert());
        }
        if body.len() == length {
            let inbox = core::mem::take(&mut self.inbox);
            self.state = self.hear(&inbox[2..]).map_err(|_| alert())?;
        }
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.theirs)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let (state, keys) = match core::mem::replace(&mut self.state, State::Dead) {
            State::Opening(handshake, first) => {
                buf.extend_from_slice(&framed(&first));
                (State::AwaitingSecond(handshake), None)
            }
            State::Keyed(second, secrets) => {
                buf.extend_from_slice(&second);
                let keys = Directions::of(&secrets, b"handshake", Suite::ChaCha20Poly1305).keys(self.side);
                let state = match self.side {
                    Side::Client => State::AwaitingCallee(secrets),
                    Side::Server => State::Finishing(secrets),
                };
                (state, Some(keys))
            }
            State::Finishing(secrets) => {
                buf.push(DONE);
                let data = Directions::of(&secrets, b"data", self.suite);
                self.next = Some(data.next());
                let state = match self.side {
                    Side::Client => State::Open,
                    Side::Server => State::AwaitingCaller,
                };
                (state, Some(data.keys(self.side)))
            }
            state => (state, None),
        };
        self.state = state;
        keys
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let next = self.next.take()?;
        self.next = Some(next.next());
        Some(next.packet_keys(self.side))
    }

    /// Returns false: nobody here sends a Retry.
    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

/// Returns true if [`AES`] is among these transport parameters (RFC 9000 section 18).
fn has_aes(mut params: &[u8]) -> bool {
    while let Some((id, rest)) = split_number(params)
        && let Some((length, value)) = split_number(rest)
        && let Some(next) = value.get(usize::try_from(length).unwrap_or(usize::MAX)..)
    {
        if [id, length] == [0x3032, 0] {
            return true;
        }
        params = next;
    }
    false
}

/// Splits a number of variable length off (RFC 9000 section 16).
fn split_number(from: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 << (from.first()? >> 6);
    let (number, rest) = from.split_at_checked(length)?;
    let whole = number.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
    Some((whole & ((1 << (8 * length - 2)) - 1), rest))
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length, message].concat()
}

/// "decrypt_error" of TLS (RFC 8446 section 6.2), where QUIC carries such.
fn alert() -> TransportError {
    TransportError { code: TransportErrorCode::crypto(51), frame: None, reason: "not authentic".into() }
}

/// The secrets that one kind of packets has in its two directions.
struct Directions {
    caller: [u8; 32],
    callee: [u8; 32],
    suite: Suite,
}

impl Directions {
    fn of(secrets: &Secrets, what: &[u8], suite: Suite) -> Self {
        Directions {
            caller: noise::derive(&secrets.initiator, &[what]),
            callee: noise::derive(&secrets.responder, &[what]),
            suite,
        }
    }

    fn next(&self) -> Self {
        Directions {
            caller: noise::derive(&self.caller, &[b"update"]),
            callee: noise::derive(&self.callee, &[b"update"]),
            suite: self.suite,
        }
    }

    fn keys(&self, side: Side) -> Keys {
        Keys { header: self.each(side, header_key), packet: self.packet_keys(side) }
    }

    fn packet_keys(&self, side: Side) -> KeyPair<Box<dyn PacketKey>> {
        self.each(side, |secret| packet_key(secret, self.suite))
    }

    fn each<T>(&self, side: Side, make: impl Fn(&[u8; 32]) -> T) -> KeyPair<T> {
        let (caller, callee) = (make(&self.caller), make(&self.callee));
        match side {
            Side::Client => KeyPair { local: caller, remote: callee },
            Side::Server => KeyPair { local: callee, remote: caller },
        }
    }
}

fn header_key(secret: &[u8; 32]) -> Box<dyn HeaderKey> {
    Box::new(HeaderMask(noise::derive(secret, &[b"header"])))
}

fn packet_key(secret: &[u8; 32], suite: Suite) -> Box<dyn PacketKey> {
    let label: &[u8] = match suite {
        Suite::ChaCha20Poly1305 => b"packet",
        Suite::Aes256Gcm => b"packet aes-256-gcm",
    };
    Box::new(Packets(Aead::new(suite, &noise::derive(secret, &[label])).ok()))
}

/// `None` if the cipher could not be made, which the features in Cargo.toml rule out: nothing opens then.
struct Packets(Option<Aead>);

impl Packets {
    fn suite(&self) -> Suite {
        self.0.as_ref().map_or(Suite::ChaCha20Poly1305, Aead::suite)
    }
}

impl PacketKey for Packets {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (header, text) = buf.split_at_mut(header_len);
        let sealed = self.0.as_ref().is_some_and(|aead| aead.seal_in_place(packet, header, text).is_ok());
        if !sealed {
            text.fill(0);
        }
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let aead = self.0.as_ref().ok_or(CryptoError)?;
        let length = aead.open_in_place(packet, header, payload).map_err(|_| CryptoError)?;
        payload.truncate(length);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG
    }

    /// Number of packets under one key (RFC 9001 section 6.6). QUIC takes the next key before; ChaCha20-Poly1305 has no such limit.
    fn confidentiality_limit(&self) -> u64 {
        match self.suite() {
            Suite::ChaCha20Poly1305 => u64::MAX,
            Suite::Aes256Gcm => 1 << 23,
        }
    }

    /// Number of forged packets (RFC 9001 section 6.6).
    fn integrity_limit(&self) -> u64 {
        match self.suite() {
            Suite::ChaCha20Poly1305 => 1 << 36,
            Suite::Aes256Gcm => 1 << 52,
        }
    }
}

/// Header protection as in RFC 9001 section 5.4. The mask is BLAKE2s of key and sample, each of fixed length. RFC 9001
/// has ChaCha20 with the sample for its counter. That would make the crate panic at the last counter, which a stranger
/// could send.
struct HeaderMask([u8; 32]);

const SAMPLE: usize = 16;

impl HeaderMask {
    fn mask(&self, pn_offset: usize, packet: &[u8]) -> [u8; 5] {
        let mut hash = Blake2s::<U32>::new();
        hash.update(self.0);
        hash.update(&packet[pn_offset + 4..pn_offset + 4 + SAMPLE]);
        let [a, b, c, d, e, ..] = <[u8; 32]>::from(hash.finalize());
        [a, b, c, d, e]
    }
}

/// Returns the mask of the protected bits of the first byte.
const fn protected_bits(first: u8) -> u8 {
    if first & 0x80 == 0 { 0x1f } else { 0x0f }
}

fn apply(packet_number: &mut [u8], first: u8, mask: [u8; 5]) {
    let length = usize::from(first & 3) + 1;
    packet_number[..length].iter_mut().zip(&mask[1..]).for_each(|(byte, mask)| *byte ^= mask);
}

impl HeaderKey for HeaderMask {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        let mask = self.mask(pn_offset, packet);
        packet[0] ^= mask[0] & protected_bits(packet[0]);
        let first = packet[0];
        apply(&mut packet[pn_offset..], first, mask);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        let mask = self.mask(pn_offset, packet);
        let first = packet[0];
        packet[0] ^= mask[0] & protected_bits(first);
        apply(&mut packet[pn_offset..], first, mask);
    }

    fn sample_size(&self) -> usize {
        SAMPLE
    }
}

/// Keys of stateless resets.
pub(super) struct ResetKey(pub(super) [u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        out.copy_from_slice(&noise::derive(&self.0, &[data]));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        use subtle::ConstantTimeEq;
        let same = noise::derive(&self.0, &[data]).ct_eq(signature);
        if bool::from(same) { Ok(()) } else { Err(CryptoError) }
    }
}

/// Token key that makes none: this node gives out no address validation tokens, so none is valid.
pub(super) struct NoTokens;

impl HandshakeTokenKey for NoTokens {
    fn aead_from_hkdf(&self, _random_bytes: &[u8]) -> Box<dyn AeadKey> {
        Box::new(NoTokens)
    }
}

impl AeadKey for NoTokens {
    fn seal(&self, _data: &mut Vec<u8>, _ad: &[u8]) -> Result<(), CryptoError> {
        Err(CryptoError)
    }

    fn open<'a>(&self, _data: &'a mut [u8], _ad: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        Err(CryptoError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    fn identity(ours: u8, peer: u8, session: u8, side: Side) -> Identity {
        Identity::new(&key(ours), &key(peer).node_id(), &[session; 16], side, [9; 32], false)
    }

    #[test]
    fn initial_keys_are_the_two_peers_own_and_the_sessions() {
        let cid = ConnectionId::new(&[7; 8]);
        let caller = identity(1, 2, 5, Side::Client).initial_keys(&cid, Side::Client);
        let mut packet = BytesMut::from(&[3; 20 + 50 + TAG][..]);
        caller.packet.local.encrypt(4, &mut packet, 20);
        let open = |keys: Keys, number: u64| {
            let mut payload = BytesMut::from(&packet[20..]);
            keys.packet.remote.decrypt(number, &packet[..20], &mut payload).map(|()| payload)
        };
        let callee = |ours, peer, session| identity(ours, peer, session, Side::Server);
        assert_eq!(open(callee(2, 1, 5).initial_keys(&cid, Side::Server), 4).unwrap(), [3; 50][..]);
        assert!(open(callee(2, 1, 5).initial_keys(&cid, Side::Server), 5).is_err(), "number");
        assert!(open(callee(2, 1, 6).initial_keys(&cid, Side::Server), 4).is_err(), "session");
        assert!(open(callee(2, 3, 5).initial_keys(&cid, Side::Server), 4).is_err(), "peer");
        assert!(open(callee(3, 1, 5).initial_keys(&cid, Side::Server), 4).is_err(), "callee");
        let other = ConnectionId::new(&[8; 8]);
        assert!(open(callee(2, 1, 5).initial_keys(&other, Side::Server), 4).is_err(), "connection");
        assert!(open(caller, 4).is_err(), "direction");
    }

    #[test]
    fn header_protection_is_undone_whatever_the_number_s_length() {
        let mask = HeaderMask([5; 32]);
        for first in [0x40, 0x41, 0x42, 0x43, 0x5f, 0xc0, 0xe3] {
            let plain: Vec<u8> = core::iter::once(first).chain(1..60).collect();
            let mut packet = plain.clone();
            mask.encrypt(9, &mut packet);
            assert_ne!(packet[9], plain[9]);
            let length = usize::from(first & 3) + 1;
            assert_eq!(packet[9 + length..], plain[9 + length..]);
            mask.decrypt(9, &mut packet);
            assert_eq!(packet, plain);
        }
    }

    #[test]
    fn a_key_update_changes_every_key() {
        let first = Directions { caller: [1; 32], callee: [2; 32], suite: Suite::ChaCha20Poly1305 };
        let second = first.next();
        let sealed = |of: &Directions| {
            let mut text = [0; 40];
            of.packet_keys(Side::Client).local.encrypt(1, &mut text, 0);
            text
        };
        assert_ne!(sealed(&first), sealed(&second));
        assert_ne!(sealed(&second), sealed(&second.next()));
        assert_ne!(second.caller, second.callee);
    }

    fn params() -> TransportParameters {
        TransportParameters::read(Side::Client, &mut Cursor::new([])).unwrap()
    }

    /// Runs the handshake of two ends, each with AES or without. Returns what their data packets are under.
    fn suites(caller: bool, callee: bool) -> [Suite; 2] {
        let end = |ours, peer, side, aes| {
            Arc::new(Identity::new(&key(ours), &key(peer).node_id(), &[5; 16], side, [ours; 32], aes))
        };
        let params = params();
        let version = QUIC_VERSION;
        let caller = ClientConfig::start_session(end(1, 2, Side::Client, caller), version, "", &params);
        let callee = ServerConfig::start_session(end(2, 1, Side::Server, callee), version, &params);
        let mut ends = [caller.unwrap(), callee];
        let mut limits = [0; 2];
        for turn in [0, 1, 0, 1, 0] {
            let mut said = Vec::new();
            if let Some(keys) = ends[turn].write_handshake(&mut said) {
                limits[turn] = keys.packet.local.confidentiality_limit();
            }
            if !said.is_empty() {
                ends[1 - turn].read_handshake(&said).unwrap();
            }
        }
        assert!(ends.iter().all(|end| !end.is_handshaking()));
        limits.map(|limit| if limit == 1 << 23 { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 })
    }

    #[test]
    fn data_is_under_aes_where_both_ends_have_it_and_only_there() {
        assert_eq!(suites(true, true), [Suite::Aes256Gcm; 2]);
        for (caller, callee) in [(true, false), (false, true), (false, false)] {
            assert_eq!(suites(caller, callee), [Suite::ChaCha20Poly1305; 2], "{caller} {callee}");
        }
    }

    #[test]
    fn parameters_are_read_to_their_end_and_not_behind_it() {
        let other = [0x01, 0x02, 0x67, 0x10];
        assert!(!has_aes(&other));
        assert!(has_aes(&[&other[..], &AES, &other].concat()));
        // A value that looks like it, one with a value, and one that is cut off.
        for other in [&[&[0x40, 0x99, 3][..], &AES].concat()[..], &[0x70, 0x32, 1, 0], &[0x70], &[0x70, 0x32]]
        {
            assert!(!has_aes(other), "{other:?}");
        }
    }
}
