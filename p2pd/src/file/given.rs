//! Bytes of a file that a program hands over as they come, and that are read once.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::tree::{HASH, Hashed};
use super::wire::CHUNK;

/// Longest time in which the program hands nothing over.
const SILENCE: Duration = Duration::from_secs(30);

type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Bytes that come once. What was read to compare it with the receiver's part is gone, but for its last group, which may be
/// wanted again.
pub(crate) struct Given {
    rt: Handle,
    pieces: Pieces,
    /// Rest of the piece that came last.
    piece: Bytes,
    /// Bytes that may still come.
    left: u64,
    /// Position behind all that was read.
    at: u64,
    /// Last bytes that were read to be compared.
    kept: Vec<u8>,
    /// Number of these that are to be read once more.
    again: usize,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("at", &self.at).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Given {
    /// Creates it within a runtime. More than `most` bytes are an error.
    pub(crate) fn new(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static, most: u64) -> Self {
        // It is asked once more at its end.
        let (pieces, rt) = (Box::pin(pieces.fuse()), Handle::current());
        Given { rt, pieces, piece: Bytes::new(), left: most, at: 0, kept: Vec::new(), again: 0 }
    }

    /// Reads what is there, at least one byte; 0 at the end.
    ///
    /// # Errors
    /// The program's; `TimedOut` after 30 s without a byte, `FileTooLarge` beyond the bound.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.again > 0 {
            let from = self.kept.len() - self.again;
            let n = self.again.min(into.len());
            into[..n].copy_from_slice(&self.kept[from..from + n]);
            self.again -= n;
            return Ok(n);
        }
        self.kept = Vec::new();
        while self.piece.is_empty() {
            let next = self.rt.block_on(async { timeout(SILENCE, self.pieces.next()).await });
            match next {
                Ok(Some(piece)) => self.piece = piece?,
                Ok(None) => return Ok(0),
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "its bytes do not come")),
            }
        }
        let n = self.piece.len().min(into.len());
        self.left = self.left.checked_sub(n as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.piece.copy_to_slice(&mut into[..n]);
        self.at += n as u64;
        Ok(n)
    }

    /// Returns the hashes of the groups of the first `have` bytes, which are read for it.
    ///
    /// # Errors
    /// As those of [`read`](Self::read); `UnexpectedEof` if there are fewer, `Unsupported` if some are gone by now.
    pub(super) fn prove(&mut self, have: u64, group: u64) -> io::Result<Vec<[u8; HASH]>> {
        if self.at > 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (mut hashed, mut last) = (Hashed::new(group), Vec::new());
        let last_begins = have.saturating_sub(1) / group * group;
        let mut buffer = vec![0; CHUNK];
        while self.at < have {
            let end = if self.at < last_begins { last_begins } else { have };
            let most = usize::try_from(end - self.at).unwrap_or(CHUNK).min(CHUNK);
            let n = self.read(&mut buffer[..most])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hashed.update(&buffer[..n]);
            if self.at > last_begins {
                last.extend_from_slice(&buffer[..n]);
            }
        }
        self.kept = last;
        Ok(hashed.groups())
    }

    /// Goes to a position, at which what is read next begins.
    ///
    /// # Errors
    /// `Unsupported` if the bytes from there on are not to be had.
    pub(super) fn seek(&mut self, to: u64) -> io::Result<()> {
        let back = self.at.checked_sub(to).and_then(|back| usize::try_from(back).ok());
        match back.filter(|back| *back <= self.kept.len()) {
            Some(back) => {
                self.again = back;
                Ok(())
            }
            None => {
                let text = "the receiver has the beginning of another file of this name, size and time: send it once more";
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(data: &[u8], most: u64) -> Given {
        let pieces: Vec<_> = data.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Given::new(futures_util::stream::iter(pieces), most)
    }

    fn rest(given: &mut Given) -> io::Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 700]);
        loop {
            match given.read(&mut buffer)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }

    #[test]
    fn what_was_compared_is_read_again_from_its_last_group_on_and_no_earlier() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let data: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, &data).unwrap();
        let file = std::fs::File::open(&file).unwrap();
        for have in [1, 2047, 2048, 2049, 8192, 20_000] {
            let mut source = given(&data, 20_000);
            let hashes = source.prove(have, 2048).unwrap();
            assert_eq!(hashes, super::super::tree::of_file(&file, have, 2048).unwrap(), "{have}");
            let last = (have - 1) / 2048 * 2048;
            if last > 0 {
                assert_eq!(source.seek(last - 1).unwrap_err().kind(), io::ErrorKind::Unsupported);
            }
            source.seek(last).unwrap();
            assert_eq!(rest(&mut source).unwrap(), data[last as usize..], "{have}");
        }
        assert_eq!(
            given(&data, 20_000).prove(20_001, 2048).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(rest(&mut given(&data, 19_999)).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let mut whole = given(&data, 20_000);
        assert_eq!(rest(&mut whole).unwrap(), data);
        assert_eq!(rest(&mut whole).unwrap(), b"", "at the end it stays");
    }
}
