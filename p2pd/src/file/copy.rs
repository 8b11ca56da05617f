//! Bytes of a file moved and hashed, as sender and receiver both do.

use std::io::{self, Read, Write};
use std::time::Duration;

use tokio::fs::File;
use tokio::io::AsyncSeekExt;
use tokio::task::JoinHandle;

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
    hash: Box<blake3::Hasher>,
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
        let (mut hashed, mut chunk, mut file) = (Hashed::default(), vec![0; CHUNK], Gather::new(file));
        while hashed.bytes < bytes {
            let n = next(&mut file, &mut chunk, bytes - hashed.bytes).await?;
            hashed.update(&chunk[..n]);
        }
        Ok(hashed)
    }
}

/// A file and the hash of its bytes so far. A thread of the pool reads or writes and hashes a chunk, while the one before
/// or behind it is on the pipe.
#[derive(Debug)]
pub(crate) struct Hashing {
    state: State,
}

#[derive(Debug)]
enum State {
    Idle(std::fs::File, Hashed, Vec<u8>),
    Busy(JoinHandle<Done>),
    /// A thread of the pool panicked.
    Lost,
}

/// Outcome of a chunk: the number of its bytes, and everything back.
type Done = (io::Result<usize>, std::fs::File, Hashed, Vec<u8>);

impl Hashing {
    /// Goes on where the file is, behind what was hashed.
    pub(crate) async fn new(file: File, hashed: Hashed) -> Self {
        Hashing { state: State::Idle(file.into_std().await, hashed, vec![0; CHUNK]) }
    }

    /// Waits for the chunk under way, and returns the number of its bytes.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) async fn settle(&mut self) -> io::Result<usize> {
        let State::Busy(job) = &mut self.state else { return Ok(0) };
        match job.await {
            Ok((done, file, hashed, chunk)) => {
                self.state = State::Idle(file, hashed, chunk);
                done
            }
            Err(why) => {
                self.state = State::Lost;
                Err(io::Error::other(why))
            }
        }
    }

    /// Begins to write a chunk, after the one before, and returns a chunk to be used again.
    ///
    /// # Errors
    /// Those of the chunk before.
    pub(crate) async fn write(&mut self, data: Vec<u8>, len: usize) -> io::Result<Vec<u8>> {
        self.settle().await?;
        let spare = self.start(Some(data), move |file, chunk| file.write_all(&chunk[..len]).map(|()| len));
        spare.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Begins to read a chunk of at most so many bytes.
    pub(crate) fn read(&mut self, most: u64) {
        self.start(None, move |file, chunk| {
            let most = usize::try_from(most).unwrap_or(usize::MAX).min(chunk.len());
            loop {
                match file.read(&mut chunk[..most]) {
                    Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                    done => return done,
                }
            }
        });
    }

    /// Takes the chunk that was read, in exchange for another buffer.
    pub(crate) fn exchange(&mut self, with: Vec<u8>) -> Vec<u8> {
        match &mut self.state {
            State::Idle(_, _, chunk) => std::mem::replace(chunk, with),
            _ => with,
        }
    }

    /// Begins, with the buffer at hand, or with another one in place of the one that is returned.
    fn start(
        &mut self,
        chunk: Option<Vec<u8>>,
        work: impl FnOnce(&mut std::fs::File, &mut [u8]) -> io::Result<usize> + Send + 'static,
    ) -> Option<Vec<u8>> {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Idle(mut file, mut hashed, own) => {
                let (mut chunk, spare) = match chunk {
                    Some(chunk) => (chunk, own),
                    None => (own, Vec::new()),
                };
                self.state = State::Busy(tokio::task::spawn_blocking(move || {
                    let done = work(&mut file, &mut chunk);
                    hashed.update(&chunk[..*done.as_ref().unwrap_or(&0)]);
                    (done, file, hashed, chunk)
                }));
                Some(spare)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Waits for the last chunk, and gives the file and its hash back.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) async fn finish(mut self) -> io::Result<(File, Hashed)> {
        self.settle().await?;
        match self.state {
            State::Idle(file, hashed, _) => Ok((File::from_std(file), hashed)),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Reads all that is there, `most` bytes at most.
///
/// # Errors
/// Those of reading; `UnexpectedEof` at the end.
pub(crate) async fn next(
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
