//! Users that may relay.

use core::fmt;
use core::time::Duration;

use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use stun_types::attribute::Userhash;

/// Users with passwords, and a secret that short-lived ones are made of.
#[derive(Clone, Default)]
// Exhaustive: owners write it over its default.
pub struct Users {
    /// Names and passwords.
    pub named: Vec<(String, String)>,
    /// The secret of coturn's `use-auth-secret`: a name begins with the second since 1970 until which it holds, `:`
    /// and an id may follow, and its password is base64(HMAC-SHA1(secret, name)).
    pub secret: Option<String>,
    /// Seconds since 1970 at the time zero of the server, for the secret.
    pub epoch: u64,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({} named, secret: {})", self.named.len(), self.secret.is_some())
    }
}

impl Users {
    /// The password of a name that is good now.
    pub(super) fn password(&self, now: Duration, name: &str) -> Option<String> {
        if let Some((_, password)) = self.named.iter().find(|(n, _)| n == name) {
            return Some(password.clone());
        }
        let secret = self.secret.as_ref()?;
        let until: u64 = name.split(':').next()?.parse().ok()?;
        if until < self.epoch.saturating_add(now.as_secs()) {
            return None;
        }
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).ok()?;
        mac.update(name.as_bytes());
        Some(BASE64.encode(&mac.finalize().into_bytes()))
    }

    /// The user behind a hash; of short-lived ones it cannot be told.
    pub(super) fn behind(&self, hash: &[u8], realm: &str) -> Option<&str> {
        let is = |(name, _): &&(String, String)| Userhash::compute(name, realm)[..] == *hash;
        self.named.iter().find(is).map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_those_of_users_and_of_the_secret_while_it_lasts() {
        let users = Users {
            named: vec![("alice".into(), "secret".into())],
            secret: Some("north".into()),
            epoch: 1_699_999_000,
        };
        let at = |s, name| users.password(Duration::from_secs(s), name);
        assert_eq!(at(0, "alice").as_deref(), Some("secret"));
        assert_eq!(at(1000, "1700000000:alice").as_deref(), Some("Cd/49soE35ICqcJF/bCTn8Z4OyE="));
        assert_eq!(at(1000, "1700000000").as_deref(), Some("CWyHi3zCeWqXBir9thl4m+iZPRY="));
        assert_eq!((at(1001, "1700000000:alice"), at(0, "bob"), at(0, "")), (None, None, None));
        let hash = Userhash::compute("alice", "lab");
        assert_eq!((users.behind(&hash, "lab"), users.behind(&hash, "other")), (Some("alice"), None));
        assert_eq!(format!("{users:?}"), "Users(1 named, secret: true)");
    }
}
