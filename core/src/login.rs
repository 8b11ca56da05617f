//! Logins at servers, and the servers that want one.

use core::fmt;

/// A server of the configuration that has to know who we are.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
// Exhaustive: whoever renews logins has to know each kind.
pub enum ServerRef {
    /// The broker with this id.
    Broker(u16),
    /// The TURN server at this position.
    Turn(u8),
}

impl fmt::Display for ServerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerRef::Broker(id) => write!(f, "broker {id}"),
            ServerRef::Turn(place) => write!(f, "TURN server number {}", place + 1),
        }
    }
}

/// A user name and, where one is wanted, a password (for brokers MQTT 3.1.1 sections 3.1.3.4 and 3.1.3.5).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    pub(crate) user: Box<str>,
    pub(crate) password: Option<Box<str>>,
}

impl Login {
    /// Most bytes of a user name, and of a password: tokens in place of passwords are a few thousand bytes long.
    pub const MAX: usize = 6000;

    /// The login of `user`.
    pub fn new(user: &str, password: Option<&str>) -> Self {
        Login { user: user.into(), password: password.map(Into::into) }
    }

    /// The user name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, ..)", self.user)
    }
}
