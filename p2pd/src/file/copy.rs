//! Bytes of a file moved and hashed, as sender and receiver both do.

use std::io;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::wire::HASH;
use crate::talk::Gather;

/// Bytes moved at a time.
pub(crate) const CHUNK: usize = 128 * 1024;
/// A peer that does nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// A peer that hashes or stores gets a second more for each so many bytes.
const SLOWEST: u64 = 10_000_000;

/// Hash of the bytes that have passed so far, and their number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hashed {
    hash: blake3::Hasher,
    pub(crate) bytes: u64,
}

impl Hashed {
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.hash.update(data);
        self.bytes += data.len() as u64;
    }

    pub(crate) fn digest(&self) -> [u8; HASH] {
        self.hash.finalize().into()
    }

    /// The first `bytes` of a file, which is left behind them.
    ///
    /// # Errors
    /// Those of reading; `UnexpectedEof` if it is shorter.
    pub(crate) async fn prefix(file: &mut File, bytes: u64) -> io::Result<Self> {
        file.rewind().await?;
        let (mut hashed, mut chunk) = (Hashed::default(), vec![0; CHUNK]);
        while hashed.bytes < bytes {
            let n = next(file, &mut chunk, bytes - hashed.bytes).await?;
            hashed.update(&chunk[..n]);
        }
        Ok(hashed)
    }
}

/// Reads some, `most` bytes at most.
///
/// # Errors
/// Those of reading; `UnexpectedEof` at the end.
pub(crate) async fn next(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    chunk: &mut [u8],
    most: u64,
) -> io::Result<usize> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(chunk.len());
    match from.read(&mut chunk[..most]).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => Ok(n),
    }
}

/// Reads all that is there, `most` bytes at most.
///
/// # Errors
/// Those of reading; `UnexpectedEof` at the end.
pub(crate) async fn gathered(
    from: &mut Gather<impl tokio::io::AsyncRead + Unpin>,
    chunk: &mut [u8],
    most: u64,
) -> io::Result<usize> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(chunk.len());
    match from.read(&mut chunk[..most]).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => Ok(n),
    }
}

/// Waits for the peer, which hashes or stores so many bytes meanwhile.
///
/// # Errors
/// `TimedOut`, and those of `work`.
pub(crate) async fn patiently<T>(bytes: u64, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    within(SILENCE + Duration::from_secs(bytes / SLOWEST), work).await
}

/// Waits for the peer for so long.
///
/// # Errors
/// `TimedOut`, and those of `work`.
pub(crate) async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(time, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not go on")),
    }
}
