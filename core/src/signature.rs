//! Signatures by a node's own key, to be checked with nothing but its node id.
//!
//! A node id is an X25519 key, which cannot sign as it is. XEdDSA (<https://signal.org/docs/specifications/xeddsa/>)
//! has the way out. The node id has two points on the Edwards form of the curve; the point with sign 0 is an Ed25519
//! key. Its secret is the X25519 secret or the negative of it. The signature is a plain one of Ed25519 (RFC 8032).
//! XEdDSA draws the nonce at random. Here the nonce comes from a secret derived from the key, as in RFC 8032: the same
//! seed gives the same bytes.

use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::Sha512;

use crate::identity::{NodeId, SecretKey};
use crate::noise;

/// Bytes of a signature.
pub(crate) const LENGTH: usize = 64;

/// Signs `message` with `key`. The caller must see to it, by the first bytes, that a message cannot be mistaken for
/// another kind.
pub(crate) fn sign(key: &SecretKey, message: &[u8]) -> [u8; LENGTH] {
    let secret = Scalar::from_bytes_mod_order(clamp_integer(*key.as_bytes()));
    let point = curve25519_dalek::EdwardsPoint::mul_base(&secret);
    let scalar = if point.compress().as_bytes()[31] & 0x80 == 0 { secret } else { -secret };
    let public = VerifyingKey::from(curve25519_dalek::EdwardsPoint::mul_base(&scalar));
    let hash_prefix = noise::derive(key.as_bytes(), &[b"p2pd signature nonce"]);
    raw_sign::<Sha512>(&ExpandedSecretKey { scalar, hash_prefix }, message, &public).to_bytes()
}

/// Returns true if the node with this id signed `message`.
pub(crate) fn verify(id: &NodeId, message: &[u8], signature: &[u8; LENGTH]) -> bool {
    let Some(point) = MontgomeryPoint(*id.as_bytes()).to_edwards(0) else { return false };
    VerifyingKey::from(point).verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_id_alone_checks_a_signature() {
        let mut negated = 0;
        for n in 0..64 {
            let key = SecretKey::from_bytes([n; 32]);
            let secret = Scalar::from_bytes_mod_order(clamp_integer([n; 32]));
            let sign_bit = curve25519_dalek::EdwardsPoint::mul_base(&secret).compress().as_bytes()[31] >> 7;
            negated += u32::from(sign_bit);
            let signature = sign(&key, b"message");
            assert!(verify(&key.node_id(), b"message", &signature), "key {n}");
            assert_eq!(sign(&key, b"message"), signature, "the same bytes again");
            assert!(!verify(&key.node_id(), b"massage", &signature));
            let other = SecretKey::from_bytes([n + 100; 32]).node_id();
            assert!(!verify(&other, b"message", &signature));
        }
        // Keys of both signs were among them.
        assert!((16..48).contains(&negated), "{negated}");
    }

    #[test]
    fn no_bit_may_change() {
        let key = SecretKey::from_bytes([7; 32]);
        let signature = sign(&key, b"message");
        for bit in 0..LENGTH * 8 {
            let mut other = signature;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&key.node_id(), b"message", &other), "bit {bit}");
        }
    }

    #[test]
    fn two_messages_have_two_nonces() {
        let key = SecretKey::from_bytes([7; 32]);
        assert_ne!(sign(&key, b"one")[..32], sign(&key, b"two")[..32]);
        let other = SecretKey::from_bytes([8; 32]);
        assert_ne!(sign(&key, b"one")[..32], sign(&other, b"one")[..32]);
    }

    /// A node id on the twist is no Ed25519 key: nobody can have signed by it.
    #[test]
    fn an_id_on_the_twist_signs_nothing() {
        let mut twisted = 0;
        for n in 2..=20 {
            let mut bytes = [0; 32];
            bytes[0] = n;
            let id = NodeId::from_bytes(bytes).unwrap();
            if MontgomeryPoint(bytes).to_edwards(0).is_none() {
                twisted += 1;
            }
            assert!(!verify(&id, b"message", &[0; LENGTH]));
        }
        assert!(twisted > 0);
    }
}
