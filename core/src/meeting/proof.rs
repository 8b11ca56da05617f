//! Proof that both nodes have the same code, and the keys that come of it.
//!
//! SPAKE2 in the group of edwards25519, with the constants and the transcript of the crate `spake2`: side A is the host and
//! B the guest. The password is the code as it is written. The identities are `p2pd meeting 1 host` and `p2pd meeting 1
//! guest`, each with the topic behind it. With the shared key K, each key and proof is
//!
//! ```text
//! keyed BLAKE2s-256(K, label | BLAKE2s-256(topic | HELLO | ANSWER))
//! ```
//! where the label is `p2pd meeting guest proof`, `p2pd meeting host proof`, `p2pd meeting host key`, `p2pd meeting guest
//! key`, or `p2pd meeting done` for the host's last word. An address is sealed by ChaCha20-Poly1305 with the nonce 0, because each key seals one text.

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use bytes::Bytes;
use rand_core::{CryptoRng, RngCore};
use spake2::{Ed25519Group, Identity, Password, Spake2};

use super::code::Code;
use super::wire::{Message, Point, Proof};
use crate::noise::{self, Aead, Suite, TAG};
use crate::random::{Domain, Random};

/// The two ends of a meeting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Host,
    Guest,
}

/// One side's half of an exchange, until the other's message is there.
pub(super) struct Half(Spake2<Ed25519Group>);

/// Keys of an exchange.
pub(super) struct Keys {
    proofs: [Proof; 2],
    seals: [[u8; 32]; 2],
    done: Proof,
}

/// The node's randomness as the crate wants it.
struct Entropy<'a>(&'a mut Random);

impl CryptoRng for Entropy<'_> {}

impl RngCore for Entropy<'_> {
    fn next_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.0.bytes(Domain::Meeting))
    }

    fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.0.bytes(Domain::Meeting))
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            chunk.copy_from_slice(&self.0.draw(Domain::Meeting)[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl Half {
    /// Begins an exchange, and returns the message for the other side.
    pub(super) fn start(side: Side, code: &Code, topic: &str, random: &mut Random) -> (Self, Point) {
        let identity = |name: &str| Identity::new(format!("p2pd meeting 1 {name}{topic}").as_bytes());
        let (host, guest) = (identity("host"), identity("guest"));
        let (password, entropy) = (Password::new(code.to_string()), Entropy(random));
        let (half, message) = match side {
            Side::Host => Spake2::start_a_with_rng(&password, &host, &guest, entropy),
            Side::Guest => Spake2::start_b_with_rng(&password, &host, &guest, entropy),
        };
        // Its length is that of every message of the group.
        (Half(half), message.try_into().unwrap_or([0; 33]))
    }

    /// Makes the keys of the other side's message. `None`: the message is not one of that side.
    pub(super) fn finish(
        self,
        theirs: &Point,
        topic: &str,
        hello: &Message,
        answer: &Message,
    ) -> Option<Keys> {
        let shared = self.0.finish(theirs).ok()?;
        let shared: &[u8; 32] = shared.as_slice().try_into().ok()?;
        let mut transcript = Blake2s::<U32>::new();
        transcript.update(topic);
        transcript.update(hello.encode());
        transcript.update(answer.encode());
        Some(Keys::new(shared, &transcript.finalize().into()))
    }
}

impl Keys {
    pub(super) fn new(shared: &[u8; 32], transcript: &[u8; 32]) -> Self {
        let key = |label: &[u8]| noise::derive(shared, &[label, transcript]);
        Keys {
            proofs: [key(b"p2pd meeting host proof"), key(b"p2pd meeting guest proof")],
            seals: [key(b"p2pd meeting host key"), key(b"p2pd meeting guest key")],
            done: key(b"p2pd meeting done"),
        }
    }

    /// Returns the proof of one side that it has the key.
    pub(super) fn proof(&self, of: Side) -> Proof {
        self.proofs[of as usize]
    }

    /// Returns true for that proof, in a time that does not depend on the bytes.
    pub(super) fn is_proof(&self, of: Side, proof: &Proof) -> bool {
        is_same(&self.proof(of), proof)
    }

    /// Returns the host's word that it has the guest's address.
    pub(super) fn done(&self) -> Proof {
        self.done
    }

    /// Returns true for that word, in a time that does not depend on the bytes.
    pub(super) fn is_done(&self, word: &Proof) -> bool {
        is_same(&self.done, word)
    }

    /// Seals the one text that a side sends.
    pub(super) fn seal(&self, of: Side, text: &str) -> Bytes {
        let mut sealed = [text.as_bytes(), &[0; TAG]].concat();
        let done = Aead::new(Suite::ChaCha20Poly1305, &self.seals[of as usize])
            .and_then(|aead| aead.seal_in_place(0, &[], &mut sealed));
        if done.is_err() {
            // Never bare.
            sealed.clear();
        }
        sealed.into()
    }

    /// Opens the text that a side has sealed.
    pub(super) fn open(&self, of: Side, sealed: &[u8]) -> Option<String> {
        let mut text = sealed.to_vec();
        let aead = Aead::new(Suite::ChaCha20Poly1305, &self.seals[of as usize]).ok()?;
        let length = aead.open_in_place(0, &[], &mut text).ok()?;
        text.truncate(length);
        String::from_utf8(text).ok()
    }
}

fn is_same(ours: &Proof, theirs: &Proof) -> bool {
    ours.iter().zip(theirs).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

impl core::fmt::Debug for Half {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Half(..)")
    }
}

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Values of one exchange by their names: what the two draw, and every message from HELLO to DONE.
#[cfg(test)]
pub(crate) fn sample(code: &Code, topic: &str, addresses: [&str; 2]) -> Vec<(&'static str, Vec<u8>)> {
    let mut random = Random::new([7; 32]);
    // A scalar is 64 bytes modulo the order.
    let scalar = |random: &mut Random, seed: u8| {
        *random = Random::new([seed; 32]);
        let wide = [random.draw(Domain::Meeting), random.draw(Domain::Meeting)].concat();
        let scalar = curve25519_dalek::Scalar::from_bytes_mod_order_wide(&wide.try_into().unwrap());
        *random = Random::new([seed; 32]);
        scalar.to_bytes().to_vec()
    };
    let (guest, exchange) = (*b"this is a guest.", *b"and an exchange.");
    let of_host = scalar(&mut random, 1);
    let (host, a) = Half::start(Side::Host, code, topic, &mut random);
    let of_guest = scalar(&mut random, 2);
    let (_, b) = Half::start(Side::Guest, code, topic, &mut random);
    let hello = Message::Hello { guest, point: b };
    let answer = Message::Answer { guest, exchange, point: a };
    let keys = host.finish(&b, topic, &hello, &answer).unwrap();
    let proof = Message::Proof { exchange, proof: keys.proof(Side::Guest) };
    let sealed = keys.seal(Side::Host, addresses[0]);
    let told = Message::Host { exchange, proof: keys.proof(Side::Host), sealed };
    let back = Message::Guest { exchange, sealed: keys.seal(Side::Guest, addresses[1]) };
    let done = Message::Done { exchange, word: keys.done() };
    let mut values = vec![("host_scalar", of_host), ("guest_scalar", of_guest)];
    let messages = [
        ("hello", hello),
        ("answer", answer),
        ("proof", proof),
        ("host", told),
        ("guest", back),
        ("done", done),
    ];
    values.extend(messages.map(|(name, message)| (name, message.encode().to_vec())));
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(host: &str, guest: &str, topics: [&str; 2]) -> [Keys; 2] {
        let mut random = Random::new([1; 32]);
        let (host, guest) = (host.parse().unwrap(), guest.parse().unwrap());
        let (theirs, b) = Half::start(Side::Guest, &guest, topics[1], &mut random);
        let (ours, a) = Half::start(Side::Host, &host, topics[0], &mut random);
        let hello = Message::Hello { guest: [1; 16], point: b };
        let answer = Message::Answer { guest: [1; 16], exchange: [2; 16], point: a };
        [
            ours.finish(&b, topics[0], &hello, &answer).unwrap(),
            theirs.finish(&a, topics[1], &hello, &answer).unwrap(),
        ]
    }

    #[test]
    fn one_code_makes_one_key_and_another_code_topic_or_side_another() {
        let [host, guest] = keys("7-guitar-oxygen", "7-guitar-oxygen", ["t", "t"]);
        for side in [Side::Host, Side::Guest] {
            assert!(host.is_proof(side, &guest.proof(side)));
            let sealed = host.seal(side, "an address");
            assert_eq!(guest.open(side, &sealed).as_deref(), Some("an address"));
            let other = if side == Side::Host { Side::Guest } else { Side::Host };
            assert_eq!(guest.open(other, &sealed), None);
            assert_ne!(host.proof(side), host.proof(other));
            assert!(!guest.is_done(&host.proof(side)));
        }
        assert!(guest.is_done(&host.done()));
        for (codes, topics) in [
            (["7-guitar-oxygen", "7-guitar-oyster"], ["t", "t"]),
            (["7-guitar-oxygen", "7-oxygen-guitar"], ["t", "t"]),
            (["7-guitar-oxygen", "8-guitar-oxygen"], ["t", "t"]),
            (["7-guitar-oxygen", "7-guitar-oxygen"], ["t", "u"]),
        ] {
            let [host, guest] = keys(codes[0], codes[1], topics);
            assert!(!host.is_proof(Side::Guest, &guest.proof(Side::Guest)), "{codes:?} {topics:?}");
            assert!(!guest.is_done(&host.done()), "{codes:?} {topics:?}");
            assert_eq!(guest.open(Side::Host, &host.seal(Side::Host, "x")), None);
        }
    }

    #[test]
    fn a_message_of_ones_own_side_or_of_no_point_makes_no_key() {
        let mut random = Random::new([2; 32]);
        let code = "7-guitar-oxygen".parse().unwrap();
        let claim = Message::Claim([0; 16]);
        let (half, a) = Half::start(Side::Host, &code, "t", &mut random);
        assert!(half.finish(&a, "t", &claim, &claim).is_none());
        // An x of which there is no point.
        let mut none = [2; 33];
        none[0] = b'B';
        let (half, _) = Half::start(Side::Host, &code, "t", &mut random);
        assert!(half.finish(&none, "t", &claim, &claim).is_none());
    }

    #[test]
    fn each_bit_of_a_proof_and_of_a_sealed_text_counts() {
        let [host, guest] = keys("7-guitar-oxygen", "7-guitar-oxygen", ["t", "t"]);
        let (proof, sealed) = (guest.proof(Side::Guest), guest.seal(Side::Guest, "text"));
        for bit in 0..256 {
            let mut altered = proof;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!host.is_proof(Side::Guest, &altered));
        }
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(host.open(Side::Guest, &altered), None);
        }
    }
}
