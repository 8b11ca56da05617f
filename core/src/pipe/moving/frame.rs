//! Frames of a moving pipe on its carriers.
//!
//! ```text
//! DATA   1  offset: u64, length: u16, bytes   the pipe's bytes from `offset` on
//! END    2  offset: u64                       so many bytes were all
//! ACK    3  received: u64, limit: u64         bytes received in order, the end counting as one; may send up to `limit`
//! PING   4
//! PONG   5
//! CLOSE  6                                    the pipe is over
//! ```
//! Numbers are big-endian.

use smallvec::SmallVec;

use super::MoveError;

/// The most bytes in one DATA.
pub(super) const MAX_DATA: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    /// The bytes follow as [`Parsed::Body`].
    Data {
        offset: u64,
        length: u16,
    },
    End {
        offset: u64,
    },
    Ack {
        received: u64,
        limit: u64,
    },
    Ping,
    Pong,
    Close,
}

impl Frame {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        match self {
            Frame::Data { offset, length } => {
                out.push(1);
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
            }
            Frame::End { offset } => {
                out.push(2);
                out.extend_from_slice(&offset.to_be_bytes());
            }
            Frame::Ack { received, limit } => {
                out.push(3);
                out.extend_from_slice(&received.to_be_bytes());
                out.extend_from_slice(&limit.to_be_bytes());
            }
            Frame::Ping => out.push(4),
            Frame::Pong => out.push(5),
            Frame::Close => out.push(6),
        }
    }

    fn parse(kind: u8, body: &[u8]) -> Result<Frame, MoveError> {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&body[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        Ok(match kind {
            1 => {
                let length = u16::from_be_bytes([body[8], body[9]]);
                if !(1..=MAX_DATA).contains(&usize::from(length)) {
                    return Err(MoveError::Length(length));
                }
                Frame::Data { offset: number(0), length }
            }
            2 => Frame::End { offset: number(0) },
            3 => Frame::Ack { received: number(0), limit: number(8) },
            4 => Frame::Ping,
            5 => Frame::Pong,
            6 => Frame::Close,
            kind => return Err(MoveError::UnknownFrame(kind)),
        })
    }
}

/// Bytes between a frame's kind and its data.
fn fixed(kind: u8) -> Result<usize, MoveError> {
    match kind {
        1 => Ok(8 + 2),
        2 => Ok(8),
        3 => Ok(8 + 8),
        4..=6 => Ok(0),
        kind => Err(MoveError::UnknownFrame(kind)),
    }
}

/// Takes a carrier's bytes apart, in any cuts, and holds no more than a header.
#[derive(Debug, Default)]
pub(super) struct Parser {
    header: SmallVec<[u8; 17]>,
    /// Offset of the next byte of the current DATA, and the number of bytes to come.
    body: Option<(u64, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parsed<'a> {
    Frame(Frame),
    /// Bytes of the last DATA, and their offset.
    Body(u64, &'a [u8]),
}

impl Parser {
    /// Takes one thing off the front of `input`; `None` if that is used up.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Parsed<'a>>, MoveError> {
        if input.is_empty() {
            return Ok(None);
        }
        if let Some((offset, left)) = self.body {
            let (bytes, rest) = input.split_at(left.min(input.len()));
            *input = rest;
            let left = left - bytes.len();
            self.body = (left > 0).then_some((offset.saturating_add(bytes.len() as u64), left));
            return Ok(Some(Parsed::Body(offset, bytes)));
        }
        let kind = *self.header.first().unwrap_or(&input[0]);
        let missing = 1 + fixed(kind)? - self.header.len();
        let (bytes, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        self.header.extend_from_slice(bytes);
        if bytes.len() < missing {
            return Ok(None);
        }
        let frame = Frame::parse(kind, &self.header[1..])?;
        self.header.clear();
        if let Frame::Data { offset, length } = frame {
            self.body = Some((offset, length.into()));
        }
        Ok(Some(Parsed::Frame(frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_however_they_are_cut() {
        let frames = [
            Frame::Ack { received: u64::MAX, limit: 3 },
            Frame::Data { offset: 1 << 40, length: 5 },
            Frame::Ping,
            Frame::Pong,
            Frame::End { offset: (1 << 40) + 5 },
            Frame::Close,
        ];
        let mut wire = Vec::new();
        for frame in frames {
            frame.put(&mut wire);
            if let Frame::Data { .. } = frame {
                wire.extend_from_slice(b"12345");
            }
        }
        for cut in 1..=wire.len() {
            let (mut parser, mut got, mut body) = (Parser::default(), Vec::new(), Vec::new());
            for mut piece in wire.chunks(cut) {
                while let Some(parsed) = parser.next(&mut piece).unwrap() {
                    match parsed {
                        Parsed::Frame(frame) => got.push(frame),
                        Parsed::Body(offset, bytes) => {
                            assert_eq!(offset, (1 << 40) + body.len() as u64);
                            body.extend_from_slice(bytes);
                        }
                    }
                }
            }
            assert_eq!((got.as_slice(), body.as_slice()), (frames.as_slice(), b"12345".as_slice()), "{cut}");
        }
    }

    #[test]
    fn what_is_not_a_frame_is_said_to_be_none() {
        let parse = |bytes: &[u8]| {
            let (mut parser, mut input) = (Parser::default(), bytes);
            parser.next(&mut input).err()
        };
        for kind in [0, 7, 255] {
            assert_eq!(parse(&[kind]), Some(MoveError::UnknownFrame(kind)));
        }
        let data = |length: u16| [&[1][..], &[0; 8], &length.to_be_bytes()].concat();
        assert_eq!(parse(&data(0)), Some(MoveError::Length(0)));
        assert_eq!(parse(&data(16_385)), Some(MoveError::Length(16_385)));
        assert_eq!(parse(&data(16_384)), None);
    }
}
