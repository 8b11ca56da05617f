//! Cryptography in one place: the Noise patterns, on the `snow` crate.
//!
//! The ephemeral keys come from the node's seed, one fresh 32-byte key stream per handshake, so that a
//! simulation repeats exactly. See <https://noiseprotocol.org/noise.html>.

mod aead;

use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s, Blake2sMac, Digest};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
#[cfg(not(p2pd_insecure_stand_in))]
use snow::resolvers::DefaultResolver as Primitives;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};

use crate::identity::{NodeId, SecretKey};
#[cfg(p2pd_insecure_stand_in)]
use crate::stand_in::{StandIn as Primitives, curve};
#[cfg(not(p2pd_insecure_stand_in))]
use crate::x25519 as curve;
pub(crate) use aead::{Aead, Suite};

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

    /// Responder: returns the second message, and the secrets of the two directions, the initiator's first.
    pub(crate) fn split_writing(mut self, payload: &[u8]) -> Result<(Vec<u8>, Secrets), NotAuthentic> {
        let second = write(&mut self.0, payload, IK2_OVERHEAD)?;
        Ok((second, self.0.dangerously_get_raw_split().into()))
    }

    /// Initiator: returns the second message's payload, and the secrets of the two directions.
    pub(crate) fn split_reading(mut self, second: &[u8]) -> Result<(Vec<u8>, Secrets), NotAuthentic> {
        let payload = read(&mut self.0, second)?;
        Ok((payload, self.0.dangerously_get_raw_split().into()))
    }
}

/// Secrets that a handshake leaves: Noise's Split.
pub(crate) struct Secrets {
    pub(crate) initiator: [u8; 32],
    pub(crate) responder: [u8; 32],
}

impl From<([u8; 32], [u8; 32])> for Secrets {
    fn from((initiator, responder): ([u8; 32], [u8; 32])) -> Self {
        Secrets { initiator, responder }
    }
}

impl Secrets {
    /// Returns the keys of a stream whose ends have agreed on `suite`.
    pub(crate) fn keys(&self, suite: Suite, initiates: bool) -> Result<Keys, NotAuthentic> {
        let of = |secret: &[u8; 32]| match suite {
            Suite::ChaCha20Poly1305 => Direction::new(suite, secret),
            // No key is one of two ciphers.
            Suite::Aes256Gcm => Direction::new(suite, &derive(secret, &[b"p2pd aes-256-gcm"])),
        };
        let (initiator, responder) = (of(&self.initiator)?, of(&self.responder)?);
        let (ours, theirs) = if initiates { (initiator, responder) } else { (responder, initiator) };
        Ok(Keys { sealing: Sealing(ours), opening: Opening(theirs) })
    }
}

/// The two directions of an authenticated stream.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) sealing: Sealing,
    pub(crate) opening: Opening,
}

/// Key of one direction. Each message has the next number as its nonce, from 0; 2^64 - 1 messages are the limit.
struct Direction {
    aead: Aead,
    next: u64,
    /// Number of the message before which the key is renewed.
    renewal: u64,
    messages_per_key: u64,
}

impl Direction {
    fn new(suite: Suite, key: &[u8; 32]) -> Result<Self, NotAuthentic> {
        let messages_per_key = suite.messages_per_key();
        Ok(Direction { aead: Aead::new(suite, key)?, next: 0, renewal: messages_per_key, messages_per_key })
    }

    /// Does `work` with the next message's key and number. The number is used up if that succeeds.
    fn step<T>(
        &mut self,
        work: impl FnOnce(&Aead, u64) -> Result<T, NotAuthentic>,
    ) -> Result<T, NotAuthentic> {
        // Noise keeps the last number for the renewal.
        let after = self.next.checked_add(1).ok_or(NotAuthentic)?;
        if self.next == self.renewal {
            self.aead = self.aead.renewed()?;
            self.renewal = self.renewal.saturating_add(self.messages_per_key);
        }
        let done = work(&self.aead, self.next)?;
        self.next = after;
        Ok(done)
    }
}

/// Outgoing direction.
pub(crate) struct Sealing(Direction);

/// The peer's direction.
pub(crate) struct Opening(Direction);

impl Sealing {
    /// Seals all of `text` but its last [`TAG`] bytes, which become the tag.
    pub(crate) fn seal(&mut self, text: &mut [u8]) -> Result<(), NotAuthentic> {
        self.0.step(|aead, n| aead.seal_in_place(n, &[], text))
    }

    pub(crate) fn suite(&self) -> Suite {
        self.0.aead.suite()
    }

    /// Sets the number of messages of one key, for tests of the limit.
    #[cfg(test)]
    pub(crate) fn renew_after(&mut self, messages: u64) {
        (self.0.renewal, self.0.messages_per_key) = (messages, messages);
    }
}

impl Opening {
    /// Opens `sealed` in its place; returns the plain text's length. After a failure the content of `sealed` means
    /// nothing.
    pub(crate) fn open(&mut self, sealed: &mut [u8]) -> Result<usize, NotAuthentic> {
        self.0.step(|aead, n| aead.open_in_place(n, &[], sealed))
    }

    /// Sets the number of messages of one key, for tests of the limit.
    #[cfg(test)]
    pub(crate) fn renew_after(&mut self, messages: u64) {
        (self.0.renewal, self.0.messages_per_key) = (messages, messages);
    }
}

impl core::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Sealing({:?}, message {})", self.suite(), self.0.next)
    }
}

impl core::fmt::Debug for Opening {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Opening({:?}, message {})", self.0.aead.suite(), self.0.next)
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
mod attacks;

#[cfg(test)]
mod tests {
    use super::*;

    const SUITES: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    fn sealed(by: &mut Sealing, plain: &[u8]) -> Vec<u8> {
        let mut text = [plain, &[0; TAG]].concat();
        by.seal(&mut text).unwrap();
        text
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
        let (second, theirs) = resp.split_writing(b"two").unwrap();
        let (two, ours) = init.split_reading(&second).unwrap();
        assert_eq!(two, b"two");
        for suite in SUITES {
            let (mut ours, mut theirs) =
                (ours.keys(suite, true).unwrap(), theirs.keys(suite, false).unwrap());
            for text in [b"12345", b"67890"] {
                let sealed = sealed(&mut ours.sealing, text);
                let mut plain = sealed.clone();
                assert_eq!(theirs.opening.open(&mut plain), Ok(5));
                assert_eq!(&plain[..5], text);
                // The same record again has the wrong number.
                assert_eq!(theirs.opening.open(&mut sealed.clone()), Err(NotAuthentic));
            }
            let mut back = sealed(&mut theirs.sealing, b"back");
            assert_eq!(ours.opening.open(&mut back), Ok(4));
        }
        assert!(Handshake::respond(&b, b"other", &first, [6; 32]).is_err());
        assert!(Handshake::respond(&a, b"p", &first, [6; 32]).is_err());
    }

    fn keys(suite: Suite) -> (Keys, Keys) {
        let secrets = Secrets { initiator: [1; 32], responder: [2; 32] };
        (secrets.keys(suite, true).unwrap(), secrets.keys(suite, false).unwrap())
    }

    #[test]
    fn each_cipher_has_keys_of_its_own() {
        let of = |suite| sealed(&mut keys(suite).0.sealing, &[0; 32]);
        let direct = |key: &[u8; 32]| {
            let mut text = vec![0; 32 + TAG];
            Aead::new(Suite::Aes256Gcm, key).unwrap().seal_in_place(0, &[], &mut text).unwrap();
            text
        };
        assert_ne!(of(Suite::Aes256Gcm), of(Suite::ChaCha20Poly1305));
        assert_ne!(of(Suite::Aes256Gcm), direct(&[1; 32]), "not the secret itself");
        assert_eq!(of(Suite::Aes256Gcm), direct(&derive(&[1; 32], &[b"p2pd aes-256-gcm"])));
    }

    /// RFC 9001 section 6.6.
    #[test]
    fn aes_keys_are_renewed_after_2_to_the_23_messages_and_chacha_keys_never() {
        let of = |suite| keys(suite).0.sealing.0.renewal;
        assert_eq!(of(Suite::Aes256Gcm), 8_388_608);
        assert_eq!(of(Suite::ChaCha20Poly1305), u64::MAX);
    }

    #[test]
    fn both_ends_renew_the_key_at_the_same_message_and_count_on() {
        for suite in SUITES {
            let (mut ours, mut theirs) = keys(suite);
            ours.sealing.renew_after(3);
            theirs.opening.renew_after(3);
            let mut expected = match suite {
                Suite::ChaCha20Poly1305 => Aead::new(suite, &[1; 32]),
                Suite::Aes256Gcm => Aead::new(suite, &derive(&[1; 32], &[b"p2pd aes-256-gcm"])),
            }
            .unwrap();
            for n in 0..10 {
                if [3, 6, 9].contains(&n) {
                    expected = expected.renewed().unwrap();
                }
                let mut by_hand = [[7; 4].as_slice(), &[0; TAG]].concat();
                expected.seal_in_place(n, &[], &mut by_hand).unwrap();
                let mut text = sealed(&mut ours.sealing, &[7; 4]);
                assert_eq!(text, by_hand, "message {n}");
                // What does not open neither counts nor renews a second time.
                assert_eq!(theirs.opening.open(&mut [0; 20]), Err(NotAuthentic));
                assert_eq!(theirs.opening.open(&mut text), Ok(4), "message {n}");
            }
        }
    }

    #[test]
    fn an_end_that_renews_elsewhere_is_not_understood() {
        let (mut ours, mut theirs) = keys(Suite::Aes256Gcm);
        ours.sealing.renew_after(3);
        theirs.opening.renew_after(4);
        for n in 0..4 {
            let opened = theirs.opening.open(&mut sealed(&mut ours.sealing, &[7; 4]));
            assert_eq!(opened, if n < 3 { Ok(4) } else { Err(NotAuthentic) }, "message {n}");
        }
    }

    #[test]
    fn the_last_number_of_noise_is_never_a_message() {
        for suite in SUITES {
            let (mut ours, _) = keys(suite);
            (ours.sealing.0.next, ours.sealing.0.renewal) = (u64::MAX - 1, u64::MAX);
            assert_eq!(ours.sealing.seal(&mut [0; 20]), Ok(()));
            assert_eq!(ours.sealing.seal(&mut [0; 20]), Err(NotAuthentic));
        }
    }
}
