//! First bytes on a carrier, by which the listener knows the session.
//!
//! ```text
//! kind u8 | token 32     of the end that called: 1 a new session, 2 an open one goes on
//! ```
//! The token is the session's name and its secret at once. It goes over carriers alone, which are encrypted and whose ends
//! have proven their identity. A listener looks a session up by the peer's id and the token.

use core::fmt;

use bytes::Bytes;

use super::frame::Frame;

/// Length of an [`Opening`], in bytes.
pub const OPENING: usize = 1 + 32;

/// Name and secret of a session: 32 random bytes, chosen by the end that called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Exhaustive: bare bytes.
pub struct SessionToken(pub [u8; 32]);

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(..)")
    }
}

/// Intent of the end that called, on a carrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a session is new, or it is not.
pub enum Opening {
    /// A session begins.
    New(SessionToken),
    /// A session goes on.
    Resume(SessionToken),
}

impl Opening {
    /// Returns the bytes to send first.
    pub fn encode(self) -> [u8; OPENING] {
        let (kind, token) = match self {
            Opening::New(token) => (1, token),
            Opening::Resume(token) => (2, token),
        };
        let mut out = [kind; OPENING];
        out[1..].copy_from_slice(&token.0);
        out
    }

    /// Returns the intent in these bytes; `None` if they are none.
    pub fn decode(bytes: &[u8; OPENING]) -> Option<Self> {
        let (kind, token) = bytes.split_first()?;
        let token = SessionToken(token.try_into().ok()?);
        match kind {
            1 => Some(Opening::New(token)),
            2 => Some(Opening::Resume(token)),
            _ => None,
        }
    }

    /// Returns what a listener that does not know the session answers before it closes the carrier.
    pub fn refusal() -> Bytes {
        let mut frame = Vec::new();
        Frame::Gone.put(&mut frame);
        frame.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_comes_back_and_what_is_none_does_not() {
        let token = SessionToken(core::array::from_fn(|n| n as u8));
        for opening in [Opening::New(token), Opening::Resume(token)] {
            assert_eq!(Opening::decode(&opening.encode()), Some(opening));
        }
        for kind in [0, 3, 255] {
            let mut bytes = Opening::New(token).encode();
            bytes[0] = kind;
            assert_eq!(Opening::decode(&bytes), None);
        }
        assert_eq!(format!("{token:?}"), "SessionToken(..)");
    }
}
