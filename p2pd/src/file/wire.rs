//! Messages of sender and receiver on a pipe.
//!
//! The sender begins with [`Message::Hello`]. It shows a secret by which the receiver recognises it after a cut. Its
//! node id may be another one by then, and files that others have begun are not for it.
//!
//! For each file the sender sends `Offer`, and the receiver answers `Accept` with the number of bytes of it that this
//! sender has sent already. If there are some, the sender proves with `Proof` that its file begins with the same bytes.
//! The other way round, anybody who knows an address could ask for hashes of what others have sent. The receiver then
//! answers `Begin`, or `Done` where the whole file is there. The bytes follow as they are, and then `Digest` of the whole
//! file; `Done` says that the file arrived and was kept. `Refused` may come in place of any answer, also between the
//! bytes. The sender ends the pipe after its last file.
//!
//! The receiver answers the same whatever other senders have left there. So a name that is taken gets a number, and a
//! part belongs to the sender that began it.
//!
//! A message has two bytes of length, big-endian, a byte for its kind, and its body. Hashes are BLAKE3.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Length of a hash in bytes.
pub(crate) const HASH: usize = 32;
/// Longest message: an offer, with a name as long as file systems have them.
const MAX_MESSAGE: usize = 1 + 8 + 255;
/// A secret of a sender, another one for each receiver.
pub(crate) type Resume = [u8; 16];
/// Greeting of a sender, with the protocol's version.
const HELLO: &[u8] = b"p2pd file 2";

/// A message in either direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    Hello(Option<Resume>),
    /// Bytes, and a name that may be anything.
    Offer {
        size: u64,
        name: String,
    },
    /// Number of bytes of the file that the receiver has already.
    Accept {
        have: u64,
    },
    /// Hash of the sender's first `have` bytes.
    Proof([u8; HASH]),
    /// Request to send from this byte on: the number in `Accept`, or 0.
    Begin {
        from: u64,
    },
    Digest([u8; HASH]),
    Done,
    Refused(Refusal),
}

/// Reason why a receiver does not take a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    Name,
    TooLarge,
    TooMany,
    InUse,
    NotWritten,
    Damaged,
    Crowded,
}

impl Refusal {
    const ALL: [Refusal; 7] = [
        Refusal::Name,
        Refusal::TooLarge,
        Refusal::TooMany,
        Refusal::InUse,
        Refusal::NotWritten,
        Refusal::Damaged,
        Refusal::Crowded,
    ];

    /// Returns the reason for a person.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Refusal::Name => "the name is none that the receiver takes",
            Refusal::TooLarge => "the receiver does not take so many bytes",
            Refusal::TooMany => "the receiver takes no more files",
            Refusal::InUse => "another send of this file is under way",
            Refusal::NotWritten => "the receiver could not write it",
            Refusal::Damaged => "what arrived is not what was sent",
            Refusal::Crowded => {
                "the receiver is busy and made room for others, as next to nothing came: try later"
            }
        }
    }
}

/// Reason why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WireError {
    /// The length is none that messages have.
    Length(usize),
    /// The kind is unknown, or the body does not fit it.
    Malformed,
    /// A hello of another version, or of something else.
    Hello,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WireError::Length(n) => write!(f, "no message has {n} bytes"),
            WireError::Malformed => f.write_str("a malformed message"),
            WireError::Hello => f.write_str("another protocol, or another version of it"),
        }
    }
}

impl From<WireError> for io::Error {
    fn from(why: WireError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, format!("the peer sent {why}"))
    }
}

impl Message {
    /// The message without its length.
    fn body(&self) -> Vec<u8> {
        let with = |kind: u8, parts: &[&[u8]]| [&[kind], &*parts.concat()].concat();
        match self {
            Message::Hello(resume) => with(0, &[HELLO, resume.as_ref().map_or(&[], |secret| secret)]),
            Message::Offer { size, name } => with(1, &[&size.to_be_bytes(), name.as_bytes()]),
            Message::Accept { have } => with(2, &[&have.to_be_bytes()]),
            Message::Proof(hash) => with(3, &[hash]),
            Message::Begin { from } => with(4, &[&from.to_be_bytes()]),
            Message::Digest(hash) => with(5, &[hash]),
            Message::Done => with(6, &[]),
            Message::Refused(why) => with(7, &[&[*why as u8]]),
        }
    }

    /// Parses the output of [`body`](Self::body), and nothing else.
    fn parse(body: &[u8]) -> Result<Self, WireError> {
        let (kind, rest) = body.split_first().ok_or(WireError::Length(0))?;
        let number = || rest.try_into().map(u64::from_be_bytes).map_err(|_| WireError::Malformed);
        let hash = || rest.try_into().map_err(|_| WireError::Malformed);
        match kind {
            0 => match rest.strip_prefix(HELLO) {
                Some([]) => Ok(Message::Hello(None)),
                Some(secret) => match secret.try_into() {
                    Ok(secret) => Ok(Message::Hello(Some(secret))),
                    Err(_) => Err(WireError::Hello),
                },
                None => Err(WireError::Hello),
            },
            1 => {
                let (size, name) = rest.split_first_chunk().ok_or(WireError::Malformed)?;
                let name = std::str::from_utf8(name).map_err(|_| WireError::Malformed)?;
                Ok(Message::Offer { size: u64::from_be_bytes(*size), name: name.into() })
            }
            2 => Ok(Message::Accept { have: number()? }),
            3 => Ok(Message::Proof(hash()?)),
            4 => Ok(Message::Begin { from: number()? }),
            5 => Ok(Message::Digest(hash()?)),
            6 if rest.is_empty() => Ok(Message::Done),
            7 => match rest {
                [why] => Refusal::ALL.get(usize::from(*why)).copied().map(Message::Refused),
                _ => None,
            }
            .ok_or(WireError::Malformed),
            _ => Err(WireError::Malformed),
        }
    }

    pub(crate) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let body = self.body();
        // The longest is far below 64 KiB.
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
        to.write_all(&[&length[..], &body].concat()).await?;
        to.flush().await
    }

    /// Reads the next message; `None` where the peer ended before one.
    ///
    /// # Errors
    /// Those of the stream, `UnexpectedEof` within a message, and `InvalidData` for bytes that are none.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut length = [0; 2];
        if from.read(&mut length[..1]).await? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut length[1..]).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if !(1..=MAX_MESSAGE).contains(&length) {
            return Err(WireError::Length(length).into());
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).await?;
        Ok(Some(Message::parse(&body)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let mut all = vec![
            Message::Hello(None),
            Message::Hello(Some([9; 16])),
            Message::Offer { size: 0, name: "a".into() },
            Message::Offer { size: u64::MAX, name: "n".repeat(255) },
            Message::Accept { have: 1 << 40 },
            Message::Proof([7; HASH]),
            Message::Begin { from: 3 },
            Message::Digest([0; HASH]),
            Message::Done,
        ];
        all.extend(Refusal::ALL.map(Message::Refused));
        all
    }

    #[test]
    fn each_message_is_read_as_it_was_written() {
        for message in messages() {
            let body = message.body();
            assert!(body.len() <= MAX_MESSAGE, "{message:?}");
            assert_eq!(Message::parse(&body), Ok(message));
        }
        assert_eq!(Message::parse(b"\0p2pd file 1"), Err(WireError::Hello));
    }

    /// A message has one spelling: a body that parses is the body that would be written, and all others are refused.
    #[test]
    fn whatever_is_altered_is_another_message_or_none() {
        let (mut read, mut refused) = (0, 0);
        let mut check = |body: &[u8]| match Message::parse(body) {
            Ok(message) => {
                assert_eq!(message.body(), body);
                read += 1;
            }
            Err(_) => refused += 1,
        };
        for message in messages() {
            let body = message.body();
            for end in 0..body.len() {
                check(&body[..end]);
            }
            check(&[&*body, b"x"].concat());
            for at in 0..body.len() {
                for bit in 0..8 {
                    let mut other = body.clone();
                    other[at] ^= 1 << bit;
                    check(&other);
                }
            }
        }
        // Of hashes and numbers each is one.
        assert_eq!((read, refused), (2969, 764));
    }

    #[tokio::test]
    async fn lengths_are_capped_before_anything_is_held() {
        for (bytes, expected) in [
            (&b""[..], Ok(None)),
            (b"\0\x01\x06", Ok(Some(Message::Done))),
            (b"\0\0", Err(io::ErrorKind::InvalidData)),
            (b"\xff\xff", Err(io::ErrorKind::InvalidData)),
            (b"GET / HTTP/1.1\r\n\r\n", Err(io::ErrorKind::InvalidData)),
            (b"\0", Err(io::ErrorKind::UnexpectedEof)),
            (b"\0\x02\x07", Err(io::ErrorKind::UnexpectedEof)),
        ] {
            let mut from = bytes;
            assert_eq!(Message::read(&mut from).await.map_err(|e| e.kind()), expected, "{bytes:?}");
        }
    }
}
