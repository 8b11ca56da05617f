//! AEADs of records and packets: ChaCha20-Poly1305 (RFC 8439), and AES-256-GCM (NIST SP 800-38D) where both ends want it.
//!
//! With the feature `ring`, which drivers turn on, ring computes them by the processor's own instructions. Without it
//! RustCrypto computes ChaCha20-Poly1305, in Rust alone. The bytes are the same.
//!
//! The reasons: ADR 36 in docs/src/adr.

use super::{NotAuthentic, TAG};
use backend::Key;

/// An AEAD, named as RFC 5116 and RFC 8439 do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Suite {
    ChaCha20Poly1305,
    Aes256Gcm,
}

impl Suite {
    /// True if this build has AES-256-GCM. Tests without ring have RustCrypto's.
    pub(crate) const HAS_AES: bool = cfg!(all(any(feature = "ring", test), not(p2pd_insecure_stand_in)));

    /// Messages of one key, after which the key is renewed. RFC 9001 section 6.6 has 2^23 for AES-GCM. For
    /// ChaCha20-Poly1305 it has more than there are; 2^64 - 1 is the number that Noise keeps for the renewal itself.
    pub(crate) const fn messages_per_key(self) -> u64 {
        match self {
            Suite::ChaCha20Poly1305 => u64::MAX,
            Suite::Aes256Gcm => 1 << 23,
        }
    }

    /// Returns the nonce of message `n`, as Noise has it (section 12).
    fn nonce(self, n: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&match self {
            Suite::ChaCha20Poly1305 => n.to_le_bytes(),
            Suite::Aes256Gcm => n.to_be_bytes(),
        });
        nonce
    }
}

/// An AEAD under one key, in which each nonce is used once.
pub(crate) struct Aead {
    suite: Suite,
    key: Box<Key>,
}

impl Aead {
    /// Returns the AEAD under this key.
    ///
    /// # Errors
    /// `NotAuthentic` for one that this build has not.
    pub(crate) fn new(suite: Suite, key: &[u8; 32]) -> Result<Self, NotAuthentic> {
        Ok(Aead { suite, key: Box::new(Key::new(suite, key)?) })
    }

    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// Seals all of `text` but its last [`TAG`] bytes, which become the tag. After an error the content of `text` may be
    /// bare still.
    pub(crate) fn seal_in_place(&self, nonce: u64, ad: &[u8], text: &mut [u8]) -> Result<(), NotAuthentic> {
        let (text, tag) = text.split_last_chunk_mut::<TAG>().ok_or(NotAuthentic)?;
        *tag = self.key.seal(self.suite.nonce(nonce), ad, text)?;
        Ok(())
    }

    /// Opens `text` and returns the plain text's length. After a failure the content of `text` means nothing.
    pub(crate) fn open_in_place(
        &self,
        nonce: u64,
        ad: &[u8],
        text: &mut [u8],
    ) -> Result<usize, NotAuthentic> {
        let plain = text.len().checked_sub(TAG).ok_or(NotAuthentic)?;
        self.key.open(self.suite.nonce(nonce), ad, text)?;
        Ok(plain)
    }

    /// Returns the AEAD under the next key: Noise's REKEY (section 4.2), which no one can go back from.
    pub(super) fn renewed(&self) -> Result<Self, NotAuthentic> {
        let mut next = [0; 32 + TAG];
        self.seal_in_place(u64::MAX, &[], &mut next)?;
        let (next, _) = next.split_first_chunk().ok_or(NotAuthentic)?;
        Aead::new(self.suite, next)
    }
}

#[cfg(all(feature = "ring", not(p2pd_insecure_stand_in)))]
mod backend {
    use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{NotAuthentic, Suite, TAG};

    pub(super) struct Key(LessSafeKey);

    impl Key {
        pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Result<Self, NotAuthentic> {
            let algorithm = match suite {
                Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
                Suite::Aes256Gcm => &AES_256_GCM,
            };
            let key = UnboundKey::new(algorithm, key).map_err(|_| NotAuthentic)?;
            Ok(Key(LessSafeKey::new(key)))
        }

        pub(super) fn seal(
            &self,
            nonce: [u8; 12],
            ad: &[u8],
            text: &mut [u8],
        ) -> Result<[u8; TAG], NotAuthentic> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(ad), text);
            tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or(NotAuthentic)
        }

        pub(super) fn open(&self, nonce: [u8; 12], ad: &[u8], text: &mut [u8]) -> Result<(), NotAuthentic> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0.open_in_place(nonce, Aad::from(ad), text).map(|_| ()).map_err(|_| NotAuthentic)
        }
    }
}

#[cfg(not(any(feature = "ring", p2pd_insecure_stand_in)))]
mod backend {
    #[cfg(test)]
    use aes_gcm::Aes256Gcm;
    use chacha20poly1305::aead::AeadInPlace;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

    use super::{NotAuthentic, Suite, TAG};

    pub(super) enum Key {
        ChaCha(ChaCha20Poly1305),
        /// The negotiation can so be tested without ring.
        #[cfg(test)]
        Aes(Box<Aes256Gcm>),
    }

    impl Key {
        pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Result<Self, NotAuthentic> {
            match suite {
                Suite::ChaCha20Poly1305 => Ok(Key::ChaCha(ChaCha20Poly1305::new(key.into()))),
                #[cfg(test)]
                Suite::Aes256Gcm => Ok(Key::Aes(Box::new(Aes256Gcm::new(key.into())))),
                #[cfg(not(test))]
                Suite::Aes256Gcm => Err(NotAuthentic),
            }
        }

        pub(super) fn seal(
            &self,
            nonce: [u8; 12],
            ad: &[u8],
            text: &mut [u8],
        ) -> Result<[u8; TAG], NotAuthentic> {
            let nonce = &nonce.into();
            let tag = match self {
                Key::ChaCha(key) => key.encrypt_in_place_detached(nonce, ad, text),
                #[cfg(test)]
                Key::Aes(key) => key.encrypt_in_place_detached(nonce, ad, text),
            };
            tag.map(Into::into).map_err(|_| NotAuthentic)
        }

        pub(super) fn open(&self, nonce: [u8; 12], ad: &[u8], text: &mut [u8]) -> Result<(), NotAuthentic> {
            let nonce = &nonce.into();
            let (text, tag) = text.split_last_chunk_mut::<TAG>().ok_or(NotAuthentic)?;
            let tag = &(*tag).into();
            match self {
                Key::ChaCha(key) => key.decrypt_in_place_detached(nonce, ad, text, tag),
                #[cfg(test)]
                Key::Aes(key) => key.decrypt_in_place_detached(nonce, ad, text, tag),
            }
            .map_err(|_| NotAuthentic)
        }
    }
}

#[cfg(p2pd_insecure_stand_in)]
mod backend {
    use super::{NotAuthentic, Suite, TAG};
    use crate::stand_in::StandInCipher;

    pub(super) struct Key(StandInCipher);

    impl Key {
        pub(super) fn new(_: Suite, key: &[u8; 32]) -> Result<Self, NotAuthentic> {
            Ok(Key(StandInCipher { key: *key }))
        }

        pub(super) fn seal(
            &self,
            nonce: [u8; 12],
            ad: &[u8],
            text: &mut [u8],
        ) -> Result<[u8; TAG], NotAuthentic> {
            Ok(self.0.tag(number(nonce), ad, text))
        }

        pub(super) fn open(&self, nonce: [u8; 12], ad: &[u8], text: &mut [u8]) -> Result<(), NotAuthentic> {
            let (text, tag) = text.split_last_chunk::<TAG>().ok_or(NotAuthentic)?;
            if self.0.tag(number(nonce), ad, text) == *tag { Ok(()) } else { Err(NotAuthentic) }
        }
    }

    fn number([_, _, _, _, n @ ..]: [u8; 12]) -> u64 {
        u64::from_le_bytes(n)
    }
}

#[cfg(all(test, not(p2pd_insecure_stand_in)))]
mod tests {
    use aes_gcm::Aes256Gcm;
    use chacha20poly1305::ChaCha20Poly1305;
    use chacha20poly1305::aead::{AeadInPlace, KeyInit};
    use data_encoding::HEXLOWER;

    use super::*;

    const SUITES: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

    /// Returns what RustCrypto seals, with the tag behind it.
    fn by_rust_crypto(suite: Suite, key: [u8; 32], nonce: [u8; 12], ad: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut text = plain.to_vec();
        let nonce = &nonce.into();
        let tag = match suite {
            Suite::ChaCha20Poly1305 => {
                ChaCha20Poly1305::new(&key.into()).encrypt_in_place_detached(nonce, ad, &mut text).unwrap()
            }
            Suite::Aes256Gcm => {
                Aes256Gcm::new(&key.into()).encrypt_in_place_detached(nonce, ad, &mut text).unwrap()
            }
        };
        text.extend_from_slice(&tag);
        text
    }

    #[test]
    fn every_backend_gives_the_bytes_of_rust_crypto_under_the_nonces_of_noise() {
        let n = 0x0102_0304_0506_0708_u64;
        let nonces = [[0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1], [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]];
        for (suite, nonce) in SUITES.into_iter().zip(nonces) {
            let aead = Aead::new(suite, &[7; 32]).unwrap();
            for length in [0, 1, 15, 16, 17, 1_200, 16_384] {
                let plain: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
                let mut text = [plain.as_slice(), &[0; TAG]].concat();
                aead.seal_in_place(n, b"ad", &mut text).unwrap();
                assert_eq!(text, by_rust_crypto(suite, [7; 32], nonce, b"ad", &plain), "{suite:?} {length}");
                for (number, ad) in [(n + 1, b"ad"), (n, b"da")] {
                    assert_eq!(aead.open_in_place(number, ad, &mut text.clone()), Err(NotAuthentic));
                }
                for at in [0, length / 2, length, length + TAG - 1] {
                    let mut changed = text.clone();
                    changed[at] ^= 1;
                    assert_eq!(aead.open_in_place(n, b"ad", &mut changed), Err(NotAuthentic), "byte {at}");
                }
                assert_eq!(aead.open_in_place(n, b"ad", &mut text), Ok(length));
                assert_eq!(text[..length], plain);
            }
            assert_eq!(aead.open_in_place(n, b"", &mut [0; TAG - 1]), Err(NotAuthentic), "no tag");
        }
    }

    /// Test case 14 of the GCM specification (McGrew and Viega).
    #[test]
    fn the_published_vector_of_aes_256_gcm() {
        let mut text = [0; 16 + TAG];
        Aead::new(Suite::Aes256Gcm, &[0; 32]).unwrap().seal_in_place(0, b"", &mut text).unwrap();
        assert_eq!(
            HEXLOWER.encode(&text),
            "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
        );
    }

    #[test]
    fn a_renewed_key_is_the_32_zeros_sealed_under_the_last_nonce() {
        for suite in SUITES {
            let nonce = [[0; 4].as_slice(), &[0xff; 8]].concat().try_into().unwrap();
            let next = by_rust_crypto(suite, [7; 32], nonce, b"", &[0; 32]);
            let next = Aead::new(suite, next.first_chunk().unwrap()).unwrap();
            let renewed = Aead::new(suite, &[7; 32]).unwrap().renewed().unwrap();
            let [mut one, mut two] = [[5; 40]; 2];
            next.seal_in_place(3, b"", &mut one).unwrap();
            renewed.seal_in_place(3, b"", &mut two).unwrap();
            assert_eq!(one, two, "{suite:?}");
        }
    }
}
