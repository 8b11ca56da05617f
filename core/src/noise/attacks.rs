//! Attacks on the handshake by who has stolen a key, or has a key of its own choice: docs/src/protocol/claims.md.

use super::*;

const PROLOGUE: &[u8] = b"p";

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

/// Attacker that claims a static key without the secret of it. It may have stolen the secret of another.
#[derive(Clone)]
struct Forger {
    claims: [u8; 32],
    /// Public key of the stolen secret, and the secret.
    stolen: Option<([u8; 32], [u8; 32])>,
}

impl CryptoResolver for Forger {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Stream { entropy: [8; 32], block: 0 }))
    }
    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(ForgedPair { forger: self.clone(), ephemeral: None, public: [0; 32] }))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        Primitives.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Primitives.resolve_cipher(choice)
    }
}

struct ForgedPair {
    forger: Forger,
    /// Secret of an ephemeral pair; a static one has none.
    ephemeral: Option<[u8; 32]>,
    public: [u8; 32],
}

impl Dh for ForgedPair {
    fn name(&self) -> &'static str {
        "25519"
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    fn set(&mut self, _: &[u8]) {
        self.public = self.forger.claims;
    }
    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = [0; 32];
        random.try_fill_bytes(&mut secret)?;
        (self.ephemeral, self.public) = (Some(secret), curve::public_key(&secret));
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn privkey(&self) -> &[u8] {
        &[0; 32]
    }
    /// Exchange as far as it can be computed: with an ephemeral secret, or from the other side where that one was stolen.
    /// Otherwise zeros, which are also what every exchange with a key of small order gives.
    fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs = theirs.first_chunk().ok_or(snow::Error::Input)?;
        let shared = match (self.ephemeral, self.forger.stolen) {
            (Some(secret), _) => curve::exchange(&secret, theirs),
            (None, Some((public, secret))) if public == *theirs => curve::exchange(&secret, &self.public),
            _ => [0; 32],
        };
        out[..32].copy_from_slice(&shared);
        Ok(())
    }
}

impl Forger {
    /// Claims the key of `who`, with the secret of `stolen`.
    fn of(who: &SecretKey, stolen: &SecretKey) -> Self {
        let stolen = (*stolen.node_id().as_bytes(), *stolen.as_bytes());
        Forger { claims: *who.node_id().as_bytes(), stolen: Some(stolen) }
    }

    fn builder(&self) -> Builder<'static> {
        let builder = Builder::with_resolver(INTERACTIVE.parse().unwrap(), Box::new(self.clone()));
        builder.prologue(PROLOGUE).unwrap().local_private_key(&[0; 32]).unwrap()
    }

    /// Begins a handshake with `peer`.
    fn initiate(&self, peer: &SecretKey, payload: &[u8]) -> (Handshake, Vec<u8>) {
        let peer = peer.node_id();
        let builder = self.builder().remote_public_key(peer.as_bytes()).unwrap();
        let mut state = builder.build_initiator().unwrap();
        let first = write(&mut state, payload, IK1_OVERHEAD).unwrap();
        (Handshake(Box::new(state)), first)
    }
}

/// Noise's level 1 of the first message: who has the responder's secret speaks in anybody's name there. It gets no further.
#[test]
fn who_stole_our_key_says_a_first_message_for_anybody_and_nothing_after_it() {
    let (a, b) = (key(1), key(2));
    let (forged, first) = Forger::of(&a, &b).initiate(&b, b"one");
    let (resp, who, payload) = Handshake::respond(&b, PROLOGUE, &first, [6; 32]).unwrap();
    assert_eq!((who, payload.as_slice()), (a.node_id(), b"one".as_slice()), "the limit of level 1");
    let (second, theirs) = resp.split_writing(b"two").unwrap();
    let mut state = forged.0;
    assert!(read(&mut state, &second).is_err(), "SECOND needs the initiator's own secret");
    // What it can compute are no keys of the stream.
    let guess: Secrets = state.dangerously_get_raw_split().into();
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        let mut text = vec![0; 1 + TAG];
        guess.keys(suite, true).unwrap().sealing.seal(&mut text).unwrap();
        let opened = theirs.keys(suite, false).unwrap().opening.open(&mut text);
        assert_eq!(opened, Err(NotAuthentic));
    }
    // Without the stolen secret there is no first message either.
    let (_, first) = Forger { stolen: None, ..Forger::of(&a, &b) }.initiate(&b, b"one");
    assert_eq!(Handshake::respond(&b, PROLOGUE, &first, [6; 32]).err(), Some(NotAuthentic));
    // Nor with the secret of a third.
    let (_, first) = Forger::of(&a, &key(3)).initiate(&b, b"one");
    assert_eq!(Handshake::respond(&b, PROLOGUE, &first, [6; 32]).err(), Some(NotAuthentic));
}

/// Noise's level 2 of the second message: who has the initiator's secret cannot play a peer to it.
#[test]
fn who_stole_our_key_cannot_answer_us_as_a_peer_that_we_call() {
    let (a, b) = (key(1), key(2));
    let (_, first) = Handshake::initiate(&a, &b.node_id(), PROLOGUE, b"one", [5; 32]).unwrap();
    let mut forged = Forger::of(&b, &a).builder().build_responder().unwrap();
    assert!(read(&mut forged, &first).is_err(), "FIRST is for the peer's own secret");
    // The same by hand: an answer that takes another FIRST of its own making for ours.
    let (init, _) = Handshake::initiate(&a, &b.node_id(), PROLOGUE, b"one", [5; 32]).unwrap();
    let (_, own) = Handshake::initiate(&a, &key(3).node_id(), PROLOGUE, b"one", [5; 32]).unwrap();
    let (resp, ..) = Handshake::respond(&key(3), PROLOGUE, &own, [6; 32]).unwrap();
    let (second, _) = resp.split_writing(b"two").unwrap();
    assert_eq!(init.split_reading(&second).err(), Some(NotAuthentic));
}

/// A recording, and both secrets stolen later: FIRST is read, as level 2 allows, and nothing more.
#[test]
fn both_secrets_stolen_later_open_the_first_message_of_a_recording_and_nothing_more() {
    let (a, b) = (key(1), key(2));
    let (init, first) = Handshake::initiate(&a, &b.node_id(), PROLOGUE, b"one", [5; 32]).unwrap();
    let (resp, ..) = Handshake::respond(&b, PROLOGUE, &first, [6; 32]).unwrap();
    let (second, _) = resp.split_writing(b"two").unwrap();
    let (_, ours) = init.split_reading(&second).unwrap();
    let mut recorded = [b"data".as_slice(), &[0; TAG]].concat();
    ours.keys(Suite::ChaCha20Poly1305, true).unwrap().sealing.seal(&mut recorded).unwrap();
    // With another ephemeral secret than the responder's. With that one, which nobody keeps, the record opens.
    for (ephemeral, opened) in [([7; 32], Err(NotAuthentic)), ([6; 32], Ok(4))] {
        let (resp, who, payload) = Handshake::respond(&b, PROLOGUE, &first, ephemeral).unwrap();
        assert_eq!((who, payload.as_slice()), (a.node_id(), b"one".as_slice()));
        let (_, theirs) = resp.split_writing(b"two").unwrap();
        let mut keys = theirs.keys(Suite::ChaCha20Poly1305, false).unwrap();
        assert_eq!(keys.opening.open(&mut recorded.clone()), opened);
    }
    // With another ephemeral secret than the initiator's, which makes another FIRST: SECOND does not open.
    let (init, other) = Handshake::initiate(&a, &b.node_id(), PROLOGUE, b"one", [4; 32]).unwrap();
    assert_ne!(other, first);
    assert_eq!(init.split_reading(&second).err(), Some(NotAuthentic));
}

/// An exchange with a key of small order is zero whoever makes it: a node of such a key would be everybody.
#[test]
fn a_key_of_small_order_that_everybody_could_claim_is_no_initiator() {
    let b = key(2);
    let mut one = [0; 32];
    one[0] = 1;
    for claims in [[0; 32], one] {
        let (_, first) = Forger { claims, stolen: None }.initiate(&b, b"one");
        let mut state = builder(INTERACTIVE, &b, [6; 32], PROLOGUE).unwrap().build_responder().unwrap();
        assert_eq!(read(&mut state, &first).unwrap(), b"one", "Noise itself takes it");
        assert_eq!(Handshake::respond(&b, PROLOGUE, &first, [6; 32]).err(), Some(NotAuthentic));
    }
}

/// A key has a second form, with its highest bit set: two names of one node.
#[test]
fn a_key_in_its_second_form_is_no_second_initiator() {
    let (a, b) = (key(1), key(2));
    let mut claims = *a.node_id().as_bytes();
    claims[31] |= 0x80;
    let stolen = Some((*b.node_id().as_bytes(), *b.as_bytes()));
    let (_, first) = Forger { claims, stolen }.initiate(&b, b"one");
    let mut state = builder(INTERACTIVE, &b, [6; 32], PROLOGUE).unwrap().build_responder().unwrap();
    assert_eq!(read(&mut state, &first).unwrap(), b"one", "Noise itself takes it");
    assert_eq!(Handshake::respond(&b, PROLOGUE, &first, [6; 32]).err(), Some(NotAuthentic));
}
