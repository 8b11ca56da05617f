//! Cryptography in one place: the Noise patterns, on the `snow` crate.
//!
//! The ephemeral keys come from the node's seed, one fresh 32-byte key stream per handshake, so that a
//! simulation repeats exactly. See <https://noiseprotocol.org/noise.html>.

use std::sync::Arc;

use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s, Blake2sMac, Digest};
use smallvec::SmallVec;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
#[cfg(not(p2pd_insecure_stand_in))]
use snow::resolvers::DefaultResolver as Primitives;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::identity::{NodeId, SecretKey};
#[cfg(p2pd_insecure_stand_in)]
use crate::stand_in::{StandIn as Primitives, curve};
#[cfg(not(p2pd_insecure_stand_in))]
use crate::x25519 as curve;

/// Bytes of an authentication tag.
pub(crate) const TAG: usize = 16;
/// Bytes that a one-way X message adds to its payload: ephemeral key, sealed static key, tag.
pub(crate) const X_OVERHEAD: usize = 32 + 32 + TAG + TAG;
/// Bytes that the first IK message adds to its payload.
pub(crate) const IK1_OVERHEAD: usize = X_OVERHEAD;
/// Bytes that the second IK message adds to its payload.
pub(crate) const IK2_OVERHEAD: usize = 32 + TAG;

/// A text did not verify, or was too long. The error says nothing more, on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotAuthentic;

/// Returns a secret that only `ours` and `peer` can compute: the X25519 exchange of their static keys.
pub(crate) fn shared_secret(ours: &SecretKey, peer: &NodeId) -> [u8; 32] {
    curve::exchange(ours.as_bytes(), peer.as_bytes())
}

/// Derives a key from `key` for one purpose: keyed BLAKE2s over the label's parts.
pub(crate) fn derive(key: &[u8; 32], label: &[&[u8]]) -> [u8; 32] {
    // A 32-byte key is always accepted.
    let mut mac = <Blake2sMac<U32> as KeyInit>::new(&(*key).into());
    label.iter().for_each(|part| mac.update(part));
    mac.finalize_fixed().into()
}

/// ChaCha20-Poly1305 under one key, in which each nonce is used once.
pub(crate) struct Aead(Box<dyn Cipher>);

impl Aead {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, NotAuthentic> {
        let mut cipher = Primitives.resolve_cipher(&CipherChoice::ChaChaPoly).ok_or(NotAuthentic)?;
        cipher.set(key);
        Ok(Aead(cipher))
    }

    /// Seals all of `text` but its last [`TAG`] bytes, which become the tag.
    pub(crate) fn seal_in_place(&self, nonce: u64, ad: &[u8], text: &mut [u8]) {
        let plain: SmallVec<[u8; 1_536]> = SmallVec::from_slice(&text[..text.len() - TAG]);
        self.0.encrypt(nonce, ad, &plain, text);
    }

    /// Opens `text` and returns the plain text's length. After a failure the content of `text` means nothing.
    pub(crate) fn open_in_place(
        &self,
        nonce: u64,
        ad: &[u8],
        text: &mut [u8],
    ) -> Result<usize, NotAuthentic> {
        if text.len() < TAG {
            return Err(NotAuthentic);
        }
        let sealed: SmallVec<[u8; 1_536]> = SmallVec::from_slice(text);
        self.0.decrypt(nonce, ad, &sealed, text).map_err(|_| NotAuthentic)
    }
}

/// Seals `payload` so that only `to` can open it and knows it came from us (Noise one-way X).
pub(crate) fn seal(
    ours: &SecretKey,
    to: &NodeId,
    prologue: &[u8],
    payload: &[u8],
    entropy: [u8; 32],
) -> Result<Vec<u8>, NotAuthentic> {
    let mut state = builder(ONE_WAY, ours, entropy, prologue)
        .and_then(|b| b.remote_public_key(to.as_bytes()))
        .and_then(Builder::build_initiator)
        .map_err(|_| NotAuthentic)?;
    write(&mut state, payload, X_OVERHEAD)
}

/// Opens a message that [`seal`] made for us. Returns the sender and the payload.
pub(crate) fn open(
    ours: &SecretKey,
    prologue: &[u8],
    sealed: &[u8],
) -> Result<(NodeId, Vec<u8>), NotAuthentic> {
    let mut state = builder(ONE_WAY, ours, [0; 32], prologue)
        .and_then(Builder::build_responder)
        .map_err(|_| NotAuthentic)?;
    let payload = read(&mut state, sealed)?;
    Ok((remote_static(&state)?, payload))
}

/// A Noise IK handshake under way, and how it ends: keys of a stream.
pub(crate) struct Handshake(Box<HandshakeState>);

impl core::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Handshake")
    }
}

impl Handshake {
    /// Begins a handshake at the side that knows whom it talks to. Returns the state and the first message.
    pub(crate) fn initiate(
        ours: &SecretKey,
        peer: &NodeId,
        prologue: &[u8],
        payload: &[u8],
        entropy: [u8; 32],
    ) -> Result<(Self, Vec<u8>), NotAuthentic> {
        let mut state = builder(INTERACTIVE, ours, entropy, prologue)
            .and_then(|b| b.remote_public_key(peer.as_bytes()))
            .and_then(Builder::build_initiator)
            .map_err(|_| NotAuthentic)?;
        let first = write(&mut state, payload, IK1_OVERHEAD)?;
        Ok((Handshake(Box::new(state)), first))
    }

    /// Answers the first message. Returns the state, the initiator's id and the payload.
    pub(crate) fn respond(
        ours: &SecretKey,
        prologue: &[u8],
        first: &[u8],
        entropy: [u8; 32],
    ) -> Result<(Self, NodeId, Vec<u8>), NotAuthentic> {
        let mut state = builder(INTERACTIVE, ours, entropy, prologue)
            .and_then(Builder::build_responder)
            .map_err(|_| NotAuthentic)?;
        let payload = read(&mut state, first)?;
        let peer = remote_static(&state)?;
        Ok((Handshake(Box::new(state)), peer, payload))
    }

    /// Responder: returns the second message, and the keys.
    pub(crate) fn finish_writing(mut self, payload: &[u8]) -> Result<(Vec<u8>, Keys), NotAuthentic> {
        let second = write(&mut self.0, payload, IK2_OVERHEAD)?;
        Ok((second, self.keys()?))
    }

    /// Initiator: returns the second message's payload, and the keys.
    pub(crate) fn finish_reading(mut self, second: &[u8]) -> Result<(Vec<u8>, Keys), NotAuthentic> {
        let payload = read(&mut self.0, second)?;
        Ok((payload, self.keys()?))
    }

    /// Responder: returns the second message, and the secrets of the two directions, the initiator's first.
    pub(crate) fn split_writing(mut self, payload: &[u8]) -> Result<(Vec<u8>, Secrets), NotAuthentic> {
        let second = write(&mut self.0, payload, IK2_OVERHEAD)?;
        Ok((second, self.0.dangerously_get_raw_split().into()))
    }

    /// Initiator: returns the second message's payload, and the secrets of the two directions, ours first.
    pub(crate) fn split_reading(mut self, second: &[u8]) -> Result<(Vec<u8>, Secrets), NotAuthentic> {
        let payload = read(&mut self.0, second)?;
        Ok((payload, self.0.dangerously_get_raw_split().into()))
    }

    fn keys(self) -> Result<Keys, NotAuthentic> {
        let state = Arc::new(self.0.into_stateless_transport_mode().map_err(|_| NotAuthentic)?);
        Ok(Keys { sealing: Sealing { state: state.clone(), nonce: 0 }, opening: Opening { state, nonce: 0 } })
    }
}

/// Secrets that a handshake leaves to a protocol that numbers and protects its packets itself.
pub(crate) struct Secrets {
    pub(crate) initiator: [u8; 32],
    pub(crate) responder: [u8; 32],
}

impl From<([u8; 32], [u8; 32])> for Secrets {
    fn from((initiator, responder): ([u8; 32], [u8; 32])) -> Self {
        Secrets { initiator, responder }
    }
}

/// The two directions of an authenticated stream.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) sealing: Sealing,
    pub(crate) opening: Opening,
}

/// Outgoing direction. Each message has the next number as its nonce; 2^64 - 1 messages are the limit.
pub(crate) struct Sealing {
    state: Arc<StatelessTransportState>,
    nonce: u64,
}

/// The peer's direction.
pub(crate) struct Opening {
    state: Arc<StatelessTransportState>,
    nonce: u64,
}

impl Sealing {
    /// Seals `plain` into `out`, which takes [`TAG`] bytes more; returns the length.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, NotAuthentic> {
        let n = self.state.write_message(self.nonce, plain, out).map_err(|_| NotAuthentic)?;
        self.nonce = self.nonce.checked_add(1).ok_or(NotAuthentic)?;
        Ok(n)
    }
}

impl Opening {
    /// Opens `sealed` into `out`, which needs as many bytes as `sealed` has; returns the length.
    pub(crate) fn open(&mut self, sealed: &[u8], out: &mut [u8]) -> Result<usize, NotAuthentic> {
        let n = self.state.read_message(self.nonce, sealed, out).map_err(|_| NotAuthentic)?;
        self.nonce = self.nonce.checked_add(1).ok_or(NotAuthentic)?;
        Ok(n)
    }
}

impl core::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Sealing(nonce {})", self.nonce)
    }
}

impl core::fmt::Debug for Opening {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Opening(nonce {})", self.nonce)
    }
}

const ONE_WAY: &str = "Noise_X_25519_ChaChaPoly_BLAKE2s";
const INTERACTIVE: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";

fn builder<'a>(
    pattern: &str,
    ours: &'a SecretKey,
    entropy: [u8; 32],
    prologue: &'a [u8],
) -> Result<Builder<'a>, snow::Error> {
    let params: NoiseParams = pattern.parse()?;
    Builder::with_resolver(params, Box::new(Resolver { ours: ours.clone(), entropy }))
        .prologue(prologue)?
        .local_private_key(ours.as_bytes())
}

fn write(state: &mut HandshakeState, payload: &[u8], overhead: usize) -> Result<Vec<u8>, NotAuthentic> {
    let mut out = vec![0; payload.len() + overhead];
    let n = state.write_message(payload, &mut out).map_err(|_| NotAuthentic)?;
    out.truncate(n);
    Ok(out)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
    let mut out = vec![0; message.len()];
    let n = state.read_message(message, &mut out).map_err(|_| NotAuthentic)?;
    out.truncate(n);
    Ok(out)
}

fn remote_static(state: &HandshakeState) -> Result<NodeId, NotAuthentic> {
    let key = state.get_remote_static().ok_or(NotAuthentic)?;
    let key = <[u8; 32]>::try_from(key).map_err(|_| NotAuthentic)?;
    NodeId::from_bytes(key).map_err(|_| NotAuthentic)
}

/// Resolver of snow's own primitives, or in a bench their stand-ins, with our curve and randomness.
struct Resolver {
    ours: SecretKey,
    entropy: [u8; 32],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Stream { entropy: self.entropy, block: 0 }))
    }
    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(KeyPair { ours: self.ours.clone(), secret: [0; 32], public: [0; 32] }))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        Primitives.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Primitives.resolve_cipher(choice)
    }
}

/// A key pair of a handshake: our static one, whose public key is known, or an ephemeral one.
struct KeyPair {
    ours: SecretKey,
    secret: [u8; 32],
    public: [u8; 32],
}

impl Dh for KeyPair {
    fn name(&self) -> &'static str {
        "25519"
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    /// Takes our static key, the only one that a builder is given.
    fn set(&mut self, _: &[u8]) {
        (self.secret, self.public) = (*self.ours.as_bytes(), *self.ours.node_id().as_bytes());
    }
    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        random.try_fill_bytes(&mut self.secret)?;
        self.public = curve::public_key(&self.secret);
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn privkey(&self) -> &[u8] {
        &self.secret
    }
    fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs = theirs.first_chunk().ok_or(snow::Error::Input)?;
        out[..32].copy_from_slice(&curve::exchange(&self.secret, theirs));
        Ok(())
    }
}

/// Block `n` is `BLAKE2s(entropy ‖ n)`.
struct Stream {
    entropy: [u8; 32],
    block: u64,
}

impl Random for Stream {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        for chunk in dest.chunks_mut(32) {
            let mut hash = Blake2s::<U32>::new();
            Digest::update(&mut hash, self.entropy);
            Digest::update(&mut hash, self.block.to_be_bytes());
            self.block += 1;
            chunk.copy_from_slice(&hash.finalize()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    #[test]
    fn sealed_messages_name_their_sender_and_open_for_one_reader() {
        let (a, b, c) = (key(1), key(2), key(3));
        let sealed = seal(&a, &b.node_id(), b"p", b"hello", [7; 32]).unwrap();
        assert_eq!(sealed.len(), 5 + X_OVERHEAD);
        assert_eq!(open(&b, b"p", &sealed), Ok((a.node_id(), b"hello".to_vec())));
        assert_eq!(open(&c, b"p", &sealed).err(), Some(NotAuthentic));
        assert_eq!(open(&b, b"q", &sealed).err(), Some(NotAuthentic));
        assert_eq!(seal(&a, &b.node_id(), b"p", b"hello", [7; 32]), Ok(sealed.clone()));
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(open(&b, b"p", &bad).err(), Some(NotAuthentic), "byte {at}");
            assert_eq!(open(&b, b"p", &sealed[..at]).err(), Some(NotAuthentic), "cut at {at}");
        }
    }

    #[test]
    fn a_handshake_authenticates_both_ends_and_gives_keys_in_order() {
        let (a, b) = (key(1), key(2));
        let (init, first) = Handshake::initiate(&a, &b.node_id(), b"p", b"one", [5; 32]).unwrap();
        let (resp, who, one) = Handshake::respond(&b, b"p", &first, [6; 32]).unwrap();
        assert_eq!((who, one.as_slice()), (a.node_id(), b"one".as_slice()));
        let (second, mut theirs) = resp.finish_writing(b"two").unwrap();
        let (two, mut ours) = init.finish_reading(&second).unwrap();
        assert_eq!(two, b"two");
        let (mut sealed, mut plain) = ([0; 21], [0; 21]);
        for text in [b"12345", b"67890"] {
            assert_eq!(ours.sealing.seal(text, &mut sealed), Ok(21));
            assert_eq!(theirs.opening.open(&sealed, &mut plain), Ok(5));
            assert_eq!(&plain[..5], text);
            // The same record again has the wrong number.
            assert_eq!(theirs.opening.open(&sealed, &mut plain), Err(NotAuthentic));
        }
        assert!(Handshake::respond(&b, b"other", &first, [6; 32]).is_err());
        assert!(Handshake::respond(&a, b"p", &first, [6; 32]).is_err());
    }
}
