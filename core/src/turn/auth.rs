//! Long-term credentials (RFC 8489 section 9.2): from a server's challenge to the proof that requests carry.

use data_encoding::BASE64;

use super::Error;
use super::credentials::Credentials;
use crate::wire::integrity::{self, IntegrityKey};
use crate::wire::turn::{self, Challenge, Proof, User};

/// What a nonce begins with that names security features, in four characters of base64 (section 9.2).
const NONCE_COOKIE: &str = "obMatJos2";
/// The first of the features, counted from the highest bit (section 18.1).
const PASSWORD_ALGORITHMS: u8 = 0x80;
const USERNAME_ANONYMITY: u8 = 0x40;

/// Numbers of the password algorithms (section 18.5).
const MD5: u16 = 1;
const SHA256: u16 = 2;

/// The credentials, if the server is to want any, and the proof once there was a challenge.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: Option<Credentials>,
    proof: Option<Proof>,
}

impl Auth {
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Auth { credentials, proof: None }
    }

    /// Returns true if the server is to want no proof.
    pub(super) fn is_open(&self) -> bool {
        self.credentials.is_none()
    }

    pub(super) fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    /// The first request was answered with 401.
    ///
    /// # Errors
    /// Why no proof can be made of the challenge.
    pub(super) fn challenged(&mut self, challenge: Challenge) -> Result<(), Error> {
        let realm = challenge.realm.clone().ok_or(Error::BadAnswer)?;
        self.proof = Some(self.prove(realm, challenge)?);
        Ok(())
    }

    /// A request with proof was answered with 438. `None`, and all stays as it is, for a challenge that would
    /// weaken the proof: nothing shows that it is the server's. PASSWORD-ALGORITHMS may be missing, although
    /// section 9.2.5 has it otherwise: `turn-server-proto` says them with 401 only. Those of then stay in force.
    pub(super) fn renewed(&mut self, mut challenge: Challenge) -> Option<()> {
        let old = self.proof.as_ref()?;
        if challenge.algorithms.is_none() {
            challenge.algorithms = old.algorithms.as_ref().map(|(offered, _)| offered.clone());
        }
        let new = self.prove(old.realm.clone(), challenge).ok()?;
        let strength = |proof: &Proof| proof.algorithms.as_ref().map_or(MD5, |(_, chosen)| *chosen);
        let shows_name = |proof: &Proof| matches!(proof.user, User::Name(_));
        if strength(&new) < strength(old) || (shows_name(&new) && !shows_name(old)) {
            return None;
        }
        self.proof = Some(new);
        Some(())
    }

    fn prove(&self, realm: Box<str>, challenge: Challenge) -> Result<Proof, Error> {
        let credentials = self.credentials.as_ref().ok_or(Error::WantsCredentials)?;
        let Credentials { user, password, name_is_read } = credentials;
        let features = features(&challenge.nonce);
        let algorithms = match challenge.algorithms {
            Some(offered) => {
                let mut listed = turn::password_algorithms(&offered).ok_or(Error::BadAnswer)?;
                // The first that we know, as section 9.2.5 has it: the server put them in its order.
                let chosen = listed.find(|a| matches!(*a, MD5 | SHA256)).ok_or(Error::NoCommonAlgorithm)?;
                Some((offered, chosen))
            }
            // Somebody on the way took them out.
            None if features & PASSWORD_ALGORITHMS != 0 => return Err(Error::NoCommonAlgorithm),
            None => None,
        };
        let key = match algorithms {
            Some((_, SHA256)) => IntegrityKey::long_term_sha256(user, &realm, password),
            _ => IntegrityKey::long_term(user, &realm, password),
        };
        let user = match features & USERNAME_ANONYMITY != 0 && !name_is_read {
            false => User::Name(user.clone()),
            true => User::Hash(integrity::userhash(user, &realm)),
        };
        Ok(Proof { user, realm, nonce: challenge.nonce, algorithms, key })
    }
}

/// The first eight security features that a nonce names.
fn features(nonce: &str) -> u8 {
    let bits = nonce.strip_prefix(NONCE_COOKIE).and_then(|rest| rest.get(..4));
    let bits = bits.and_then(|text| BASE64.decode(text.as_bytes()).ok());
    bits.and_then(|bits| bits.first().copied()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];

    fn challenge(nonce: &str, algorithms: Option<&[u8]>) -> Challenge {
        let algorithms = algorithms.map(Into::into);
        Challenge { realm: Some("lab".into()), nonce: nonce.into(), algorithms }
    }

    fn auth() -> Auth {
        Auth::new(Some(Credentials::new("alice", "secret")))
    }

    /// Whether the name is shown, and the algorithm.
    fn made(auth: &Auth) -> (bool, Option<u16>) {
        let proof = auth.proof().unwrap();
        (matches!(proof.user, User::Name(_)), proof.algorithms.as_ref().map(|(_, n)| *n))
    }

    #[test]
    fn the_challenge_decides_what_is_proven_how() {
        for (nonce, algorithms, expected) in [
            ("plain", None, Ok((true, None))),
            ("obMatJos2gAAA", Some(BOTH), Ok((true, Some(SHA256)))),
            ("obMatJos2wAAAxyz", Some(BOTH), Ok((false, Some(SHA256)))),
            ("obMatJos2QAAAxyz", None, Ok((false, None))),
            ("obMatJos2gAAA", Some(&[0, 1, 0, 0, 0, 2, 0, 0]), Ok((true, Some(MD5)))),
            ("obMatJos2gAAA", Some(&[0, 9, 0, 0, 0, 2, 0, 0]), Ok((true, Some(SHA256)))),
            ("obMatJos2gAAA", Some(&[0, 9, 0, 0]), Err(Error::NoCommonAlgorithm)),
            ("obMatJos2gAAA", Some(&[0, 2, 0]), Err(Error::BadAnswer)),
            ("obMatJos2gAAA", None, Err(Error::NoCommonAlgorithm)),
            ("obMatJos2g", None, Ok((true, None))),
            ("obMatJos2\u{e9}\u{e9}\u{e9}", None, Ok((true, None))),
        ] {
            let mut auth = auth();
            let made = auth.challenged(challenge(nonce, algorithms)).map(|()| made(&auth));
            assert_eq!(made, expected, "{nonce} {algorithms:?}");
        }
        let until = crate::time::WallTime::from_micros(1_000_000);
        let mut short_lived = Auth::new(Some(Credentials::short_lived("north", None, until)));
        short_lived.challenged(challenge("obMatJos2wAAAxyz", Some(BOTH))).unwrap();
        assert_eq!(made(&short_lived), (true, Some(SHA256)), "its name is what the password is made of");
        let mut auth = auth();
        let without = Challenge { realm: None, ..challenge("n", None) };
        assert_eq!(auth.challenged(without), Err(Error::BadAnswer));
    }

    #[test]
    fn a_new_nonce_cannot_weaken_the_proof_or_change_the_realm() {
        let mut auth = auth();
        auth.challenged(challenge("obMatJos2wAAA1", Some(BOTH))).unwrap();
        let other = Challenge { realm: Some("evil".into()), ..challenge("obMatJos2wAAA2", Some(BOTH)) };
        assert_eq!(auth.renewed(other), Some(()));
        assert_eq!(&*auth.proof().unwrap().realm, "lab");
        assert_eq!(auth.renewed(challenge("n", None)), None, "it shows the name");
        assert_eq!(auth.renewed(challenge("obMatJos2wAAA3", Some(&[0, 1, 0, 0]))), None);
        assert_eq!(auth.renewed(challenge("obMatJos2gAAA3", Some(BOTH))), None);
        assert_eq!((&*auth.proof().unwrap().nonce, made(&auth)), ("obMatJos2wAAA2", (false, Some(SHA256))));
        assert_eq!(auth.renewed(challenge("obMatJos2wAAA4", None)), Some(()));
        assert_eq!((&*auth.proof().unwrap().nonce, made(&auth)), ("obMatJos2wAAA4", (false, Some(SHA256))));
    }
}
