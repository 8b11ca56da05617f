//! Bytes between a carrier's pipe and its session.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use p2pd_core::pipe::session::{OPENING, Opening};

/// Calls of the pipe before others get their turn.
const BUDGET: usize = 32;

/// A carrier's bytes on their way. The calls it is given do not block: `WouldBlock` says that the pipe has to be waited
/// for.
#[derive(Debug, Default)]
pub struct Ferry {
    /// Records of the session that the pipe has not taken: as many as it takes by one call. The first is empty last.
    out: [Bytes; 2],
}

impl Ferry {
    /// Returns a carrier on which these bytes are sent first.
    pub fn new(first: Bytes) -> Self {
        Ferry { out: [first, Bytes::new()] }
    }

    /// Sends what `next` gives until there is nothing. Returns true if the turn is over before that.
    ///
    /// # Errors
    /// The pipe's; `WouldBlock` if it takes no more now.
    pub fn send(
        &mut self,
        mut next: impl FnMut() -> Option<Bytes>,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        for _ in 0..BUDGET {
            while let Some(place) = self.out.iter_mut().find(|bytes| bytes.is_empty())
                && let Some(bytes) = next()
            {
                *place = bytes;
            }
            if self.out[0].is_empty() {
                return Ok(false);
            }
            let mut taken = write(&self.out.each_ref().map(|bytes| IoSlice::new(bytes)))?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            for bytes in &mut self.out {
                let n = taken.min(bytes.len());
                bytes.advance(n);
                taken -= n;
            }
            if self.out[0].is_empty() {
                self.out.swap(0, 1);
            }
        }
        Ok(true)
    }

    /// Reads until there is nothing, and gives what came to `take`. Returns true if the turn is over before there is
    /// nothing.
    ///
    /// # Errors
    /// The pipe's; `WouldBlock` if nothing has come, `UnexpectedEof` at its end.
    pub fn receive(
        &mut self,
        mut take: impl FnMut(Bytes),
        mut read: impl FnMut() -> io::Result<Bytes>,
    ) -> io::Result<bool> {
        for _ in 0..BUDGET {
            let bytes = read()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            take(bytes);
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
        let (mut sent, mut offered, mut calls) = (Vec::new(), Vec::new(), 0);
        for _ in 0..20 {
            let result = ferry.send(
                || more.pop(),
                |data| {
                    calls += 1;
                    if calls % 2 == 0 {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    // Two pieces at once, while there are two.
                    offered.push(data.iter().map(|piece| piece.len()).collect::<Vec<_>>());
                    let all: Vec<u8> = data.iter().flat_map(|piece| piece.iter().copied()).collect();
                    sent.extend_from_slice(&all[..all.len().min(7)]);
                    Ok(all.len().min(7))
                },
            );
            if matches!(result, Ok(false)) {
                break;
            }
        }
        assert_eq!(sent, b"first then last");
        assert_eq!(offered, [[6, 5], [4, 4], [1, 0]]);
    }

    #[test]
    fn what_is_read_is_given_until_there_is_nothing_or_the_peer_has_ended() {
        for (last, kind) in
            [(Err(()), io::ErrorKind::WouldBlock), (Ok(Bytes::new()), io::ErrorKind::UnexpectedEof)]
        {
            let mut reads = [Ok(Bytes::from_static(b"some")), last].into_iter();
            let mut got = Vec::new();
            let end = Ferry::default().receive(
                |bytes| got.push(bytes),
                || reads.next().unwrap().map_err(|()| io::ErrorKind::WouldBlock.into()),
            );
            assert_eq!((end.unwrap_err().kind(), got), (kind, vec![Bytes::from_static(b"some")]));
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
