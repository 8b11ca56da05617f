//! Bytes between a carrier's pipe and its session.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use p2pd_core::pipe::MAX_RECORD;
use p2pd_core::pipe::session::{OPENING, Opening};

/// Bytes of fewer than this are copied, so that the buffer is used again: those that wait for their reader keep at most
/// a third more than themselves.
const COPIED: usize = MAX_RECORD / 4 * 3;
/// Records that are read or written before others get their turn.
const BUDGET: usize = 32;

/// A carrier's bytes on their way. The calls it is given do not block: `WouldBlock` says that the pipe has to be waited
/// for.
#[derive(Debug, Default)]
pub struct Ferry {
    /// Bytes of the session that the pipe has not taken.
    out: Bytes,
    buffer: BytesMut,
}

impl Ferry {
    /// Returns a carrier on which these bytes are sent first.
    pub fn new(first: Bytes) -> Self {
        Ferry { out: first, buffer: BytesMut::new() }
    }

    /// Sends what `next` gives until there is nothing. Returns true if the turn is over before that.
    ///
    /// # Errors
    /// The pipe's; `WouldBlock` if it takes no more now.
    pub fn send(
        &mut self,
        mut next: impl FnMut() -> Option<Bytes>,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        for _ in 0..BUDGET {
            if self.out.is_empty() {
                match next() {
                    Some(bytes) => self.out = bytes,
                    None => return Ok(false),
                }
            }
            let taken = write(&self.out)?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.out.advance(taken);
        }
        Ok(true)
    }

    /// Reads until there is nothing, and gives what came to `take`, which says whether to go on. Returns true if the turn
    /// is over before there is nothing.
    ///
    /// # Errors
    /// The pipe's; `WouldBlock` if nothing has come, `UnexpectedEof` at its end.
    pub fn receive(
        &mut self,
        mut take: impl FnMut(Bytes) -> bool,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        for _ in 0..BUDGET {
            if self.buffer.is_empty() {
                self.buffer = BytesMut::zeroed(MAX_RECORD);
            }
            let n = match read(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(why) => {
                    // A session that waits holds no buffer.
                    self.buffer = BytesMut::new();
                    return Err(why);
                }
            };
            let bytes = if n < COPIED {
                Bytes::copy_from_slice(&self.buffer[..n])
            } else {
                let mut whole = std::mem::take(&mut self.buffer);
                whole.truncate(n);
                whole.freeze()
            };
            if !take(bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reader of an [`Opening`], and of no byte more.
#[derive(Debug)]
pub struct Greeter {
    bytes: [u8; OPENING],
    filled: usize,
}

impl Default for Greeter {
    fn default() -> Self {
        Greeter { bytes: [0; OPENING], filled: 0 }
    }
}

impl Greeter {
    /// Reads until the opening is whole.
    ///
    /// # Errors
    /// The pipe's; `WouldBlock` if it is not whole yet, `InvalidData` if it is none.
    pub fn read(&mut self, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<Opening> {
        while self.filled < OPENING {
            match read(&mut self.bytes[self.filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.filled += n,
            }
        }
        Opening::decode(&self.bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::pipe::session::SessionToken;

    use super::*;

    #[test]
    fn bytes_that_a_pipe_does_not_take_wait_and_nothing_is_left_out() {
        let mut ferry = Ferry::new(Bytes::from_static(b"first "));
        let mut more = vec![Bytes::from_static(b"last"), Bytes::from_static(b"then ")];
        let (mut sent, mut calls) = (Vec::new(), 0);
        for _ in 0..20 {
            let result = ferry.send(
                || more.pop(),
                |data| {
                    calls += 1;
                    if calls % 2 == 0 {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    sent.extend_from_slice(&data[..data.len().min(4)]);
                    Ok(data.len().min(4))
                },
            );
            if matches!(result, Ok(false)) {
                break;
            }
        }
        assert_eq!(sent, b"first then last");
    }

    #[test]
    fn bytes_that_are_kept_keep_a_third_more_at_most() {
        for (came, kept) in [(1, 1), (COPIED - 1, COPIED - 1), (COPIED, MAX_RECORD), (MAX_RECORD, MAX_RECORD)]
        {
            let (mut ferry, mut got, mut reads) = (Ferry::default(), Vec::new(), 0);
            let end = ferry.receive(
                |bytes| {
                    got.push(bytes);
                    true
                },
                |_| {
                    reads += 1;
                    if reads == 1 { Ok(came) } else { Err(io::ErrorKind::WouldBlock.into()) }
                },
            );
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let buffer = got.pop().unwrap().try_into_mut().unwrap();
            assert_eq!((got.len(), buffer.len(), buffer.capacity()), (0, came, kept));
            assert!(kept * 3 <= came * 4);
        }
    }

    #[test]
    fn an_opening_is_read_to_its_last_byte_and_no_further() {
        let opening = Opening::Resume(SessionToken([7; 32]));
        let wire = [&opening.encode()[..], b"frames"].concat();
        let (mut rest, mut greeter) = (&wire[..], Greeter::default());
        let mut calls = 0;
        let got = loop {
            let read = greeter.read(|buffer| {
                calls += 1;
                if calls % 2 == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let n = buffer.len().min(5);
                buffer[..n].copy_from_slice(&rest[..n]);
                rest = &rest[n..];
                Ok(n)
            });
            if let Ok(opening) = read {
                break opening;
            }
        };
        assert_eq!((got, rest), (opening, &b"frames"[..]));
    }
}
