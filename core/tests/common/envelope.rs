//! Envelopes by hand, after the page of `core/src/signal/seal.rs`.

use p2pd_core::NodeId;
use snow::Builder;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

use super::{key, numbered};

/// Bytes of a mark, which mean nothing to a reader that does not know the sender.
const MARK: usize = 16;

/// Seals this content, as node `from` would have a broker deliver it to `to`.
pub fn seal(from: usize, to: &NodeId, content: &[u8]) -> Vec<u8> {
    let secret = numbered(1, from);
    let builder = builder().local_private_key(&secret).and_then(|b| b.remote_public_key(to.as_bytes()));
    let mut out = vec![0; MARK + content.len() + 96];
    let mut state = builder.unwrap().build_initiator().unwrap();
    let length = state.write_message(content, &mut out[MARK..]).unwrap();
    assert_eq!(MARK + length, out.len());
    out
}

/// Opens an envelope for node `reader`. Returns the sender and the content.
pub fn open(reader: usize, envelope: &[u8]) -> Option<(NodeId, Vec<u8>)> {
    let secret = numbered(1, reader);
    let mut state = builder().local_private_key(&secret).unwrap().build_responder().unwrap();
    let mut content = vec![0; envelope.len()];
    let length = state.read_message(envelope.get(MARK..)?, &mut content).ok()?;
    content.truncate(length);
    let from = NodeId::from_bytes(state.get_remote_static()?.try_into().ok()?).ok()?;
    Some((from, content))
}

/// Changes the content of an envelope between nodes of a test.
pub fn changed([from, to]: [usize; 2], envelope: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    match open(to, envelope) {
        Some((sender, mut content)) if sender == key(from).node_id() => {
            change(&mut content);
            seal(from, &key(to).node_id(), &content)
        }
        _ => envelope.to_vec(),
    }
}

fn builder() -> Builder<'static> {
    let params = "Noise_X_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
    Builder::with_resolver(params, Box::new(Resolver)).prologue(b"p2pd signal\0").unwrap()
}

/// The usual primitives, with an ephemeral key that is always the same.
struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Same))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Same;

impl Random for Same {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        out.fill(7);
        Ok(())
    }
}
