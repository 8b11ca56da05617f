//! Ciphers that protect nothing, of the same message sizes as the real ones: for measuring what a simulation costs
//! beside its cryptography. Compiled with `--cfg p2pd_insecure_stand_in` only, which no feature can switch on and with
//! which no driver compiles; `sim bench --stand-in` asks for it.
//!
//! What is altered, or sealed for somebody else, is still found out, so that nodes behave as ever.
//!
//! The reasons: ADR 33 in docs/src/adr.

use snow::Error;
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};

const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

/// A running sum of everything put into it.
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    fn put(&mut self, data: &[u8]) {
        let mut sum = self.0 ^ (data.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Four sums beside each other, since each waits for its own last one.
        let (blocks, rest) = data.as_chunks::<32>();
        let mut lanes = [sum, !sum, sum.rotate_left(21), !sum.rotate_left(42)];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane = mix(*lane ^ u64::from_le_bytes(*word)).rotate_left(17);
            }
        }
        for lane in lanes {
            sum = mix(sum ^ lane).rotate_left(17);
        }
        for byte in rest {
            sum = mix(sum ^ u64::from(*byte)).rotate_left(17);
        }
        self.0 = sum;
    }

    fn fill(self, out: &mut [u8]) {
        for (n, chunk) in out.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&mix(self.0 ^ mix(n as u64 + 1)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A curve whose public key is the secret one, upside down.
pub(crate) mod curve {
    pub(crate) fn public_key(secret: &[u8; 32]) -> [u8; 32] {
        let mut public = secret.map(|b| !b);
        // As in every canonical key.
        public[31] &= 0x7f;
        public
    }

    pub(crate) fn exchange(secret: &[u8; 32], theirs: &[u8; 32]) -> [u8; 32] {
        let ours = public_key(secret);
        core::array::from_fn(|n| ours[n] ^ theirs[n])
    }
}

struct StandInHash(Sum);

impl Hash for StandInHash {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }
    fn block_len(&self) -> usize {
        64
    }
    fn hash_len(&self) -> usize {
        32
    }
    fn reset(&mut self) {
        self.0 = Sum(0);
    }
    fn input(&mut self, data: &[u8]) {
        self.0.put(data);
    }
    fn result(&mut self, out: &mut [u8]) {
        self.0.fill(&mut out[..32]);
        self.reset();
    }
}

#[derive(Default)]
pub(crate) struct StandInCipher {
    pub(crate) key: [u8; 32],
}

impl StandInCipher {
    pub(crate) fn tag(&self, nonce: u64, ad: &[u8], text: &[u8]) -> [u8; 16] {
        let mut sum = Sum(nonce);
        sum.put(&self.key);
        sum.put(ad);
        sum.put(text);
        let mut tag = [0; 16];
        sum.fill(&mut tag);
        tag
    }
}

impl Cipher for StandInCipher {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }
    fn set(&mut self, key: &[u8; 32]) {
        self.key = *key;
    }
    fn encrypt(&self, nonce: u64, ad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plain.len());
        text.copy_from_slice(plain);
        rest[..16].copy_from_slice(&self.tag(nonce, ad, plain));
        plain.len() + 16
    }
    fn decrypt(&self, nonce: u64, ad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (text, tag) = sealed.split_at(sealed.len().checked_sub(16).ok_or(Error::Decrypt)?);
        if self.tag(nonce, ad, text) != tag {
            return Err(Error::Decrypt);
        }
        out[..text.len()].copy_from_slice(text);
        Ok(text.len())
    }
}

/// Stand-ins for snow's primitives; randomness and key pairs are the caller's.
pub(crate) struct StandIn;

impl CryptoResolver for StandIn {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        None
    }
    fn resolve_dh(&self, _: &snow::params::DHChoice) -> Option<Box<dyn Dh>> {
        None
    }
    fn resolve_hash(&self, _: &snow::params::HashChoice) -> Option<Box<dyn Hash>> {
        Some(Box::new(StandInHash(Sum(0))))
    }
    fn resolve_cipher(&self, _: &snow::params::CipherChoice) -> Option<Box<dyn Cipher>> {
        Some(Box::new(StandInCipher::default()))
    }
}
