//! Credentials of a user at a TURN server.

use core::fmt;

use crate::time::WallTime;

/// A user's name and password, both already prepared by OpaqueString (RFC 8265) where they are not ASCII.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) user: Box<str>,
    pub(crate) password: Box<str>,
    /// True if the server derives the password from the name, and so has to read the name whatever else it offers.
    pub(crate) name_is_read: bool,
}

impl Credentials {
    /// Makes the credentials of a user that the server was set up with.
    pub fn new(user: &str, password: &str) -> Self {
        Credentials { user: user.into(), password: password.into(), name_is_read: false }
    }

    /// Short-lived ones, made from a secret that the server has too: coturn's `use-auth-secret`. The name is the
    /// time until which they hold, in seconds since 1970, with `:id` where there is an id; the password is
    /// base64(HMAC-SHA1(secret, name)). The name is never hidden behind USERHASH, for want of which the server could
    /// not know the password.
    #[cfg(feature = "relay")]
    pub fn short_lived(secret: &str, id: Option<&str>, until: WallTime) -> Self {
        use hmac::{Hmac, Mac};
        let seconds = until.as_micros().div_euclid(1_000_000);
        let user = match id {
            Some(id) => format!("{seconds}:{id}"),
            None => seconds.to_string(),
        };
        // HMAC takes keys of any length.
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes())
            .unwrap_or_else(|_| unreachable!("any length"));
        mac.update(user.as_bytes());
        let password = data_encoding::BASE64.encode(&mac.finalize().into_bytes());
        Credentials { user: user.into(), password: password.into(), name_is_read: true }
    }

    /// The time until which they hold, where their name says it as that of [short-lived](Self::short_lived) ones does.
    pub fn until(&self) -> Option<WallTime> {
        let seconds = self.user.split(':').next().filter(|text| text.len() == 10)?;
        let digits = seconds.bytes().all(|b| b.is_ascii_digit());
        let seconds: i64 = seconds.parse().ok().filter(|_| digits)?;
        Some(WallTime::from_micros(seconds.saturating_mul(1_000_000)))
    }

    /// The name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, ..)", self.user)
    }
}

#[cfg(all(test, feature = "relay"))]
mod tests {
    use super::*;

    /// The password is what `printf %s NAME | openssl dgst -sha1 -hmac north -binary | base64` prints.
    #[test]
    fn short_lived_ones_are_those_of_the_rest_scheme() {
        let until = WallTime::from_micros(1_700_000_000_999_999);
        let with = Credentials::short_lived("north", Some("alice"), until);
        assert_eq!((with.user(), with.password()), ("1700000000:alice", "Cd/49soE35ICqcJF/bCTn8Z4OyE="));
        let without = Credentials::short_lived("north", None, until);
        assert_eq!((without.user(), without.password()), ("1700000000", "CWyHi3zCeWqXBir9thl4m+iZPRY="));
        assert_eq!(format!("{with:?}"), "Credentials(\"1700000000:alice\", ..)");
        let whole = Some(WallTime::from_micros(1_700_000_000_000_000));
        assert_eq!((with.until(), without.until()), (whole, whole));
        for user in ["alice", "12345", "170000000a", "+170000000", "17000000000", ""] {
            assert_eq!(Credentials::new(user, "").until(), None, "{user}");
        }
    }
}
