//! Standard input and output. Each is read or written by one thread for the whole run. A read of a terminal cannot be
//! interrupted, and one that was given up would swallow text that is typed for the next caller.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

/// Bytes moved at a time; a pipe of the system holds half of it.
pub(crate) const CHUNK: usize = 128 * 1024;
/// Chunks between a thread and the rest.
const CHUNKS: usize = 4;

/// Bytes in a buffer that is used again.
#[derive(Debug)]
pub(crate) struct Chunk {
    data: Vec<u8>,
    len: usize,
}

impl Chunk {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

/// Standard input.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// `None` until it is first asked for: reading stops a program in the background.
    reading: Option<Reading>,
    ended: bool,
    /// Error that is returned after the bytes before it.
    failed: Option<io::Error>,
}

#[derive(Debug)]
struct Reading {
    chunks: mpsc::Receiver<io::Result<Chunk>>,
    spare: std::sync::mpsc::Sender<Vec<u8>>,
}

impl Input {
    /// Returns true if standard input is a terminal.
    pub(crate) fn is_terminal() -> bool {
        io::stdin().is_terminal()
    }

    /// Returns true if somebody at a terminal can be asked.
    pub(crate) fn can_ask() -> bool {
        Input::is_terminal() && io::stderr().is_terminal()
    }

    /// Returns true if the input has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next bytes; `None` at the end, from then on always. Nothing is lost if it is given up.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Chunk>> {
        if let Some(why) = self.failed.take() {
            return Err(why);
        }
        if self.ended {
            return Ok(None);
        }
        let reading = match &mut self.reading {
            Some(reading) => reading,
            none => none.insert(Reading::start()?),
        };
        match reading.chunks.recv().await {
            Some(Ok(chunk)) => Ok(Some(chunk)),
            Some(Err(why)) => {
                self.ended = true;
                Err(why)
            }
            None => {
                self.ended = true;
                Ok(None)
            }
        }
    }

    /// Returns a chunk that has been read already, if there is one.
    pub(crate) fn waiting(&mut self) -> Option<Chunk> {
        match self.reading.as_mut()?.chunks.try_recv() {
            Ok(Ok(chunk)) => Some(chunk),
            Ok(Err(why)) => {
                (self.ended, self.failed) = (true, Some(why));
                None
            }
            Err(_) => None,
        }
    }

    /// Takes a buffer back.
    pub(crate) fn done(&self, chunk: Chunk) {
        if let Some(reading) = &self.reading {
            let _ = reading.spare.send(chunk.data);
        }
    }
}

impl Reading {
    fn start() -> io::Result<Self> {
        let (to, chunks) = mpsc::channel(CHUNKS);
        let (spare, spares) = std::sync::mpsc::channel::<Vec<u8>>();
        let mut stdin = stdin()?;
        let read = move || {
            loop {
                let mut data = spares.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
                let chunk = match stdin.read(&mut data) {
                    Ok(0) => return,
                    Ok(len) => Ok(Chunk { data, len }),
                    Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                    Err(why) => Err(why),
                };
                let last = chunk.is_err();
                if to.blocking_send(chunk).is_err() || last {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("standard input".into()).spawn(read)?;
        Ok(Reading { chunks, spare })
    }
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Output {
    to: mpsc::Sender<Written>,
    spare: mpsc::UnboundedReceiver<Vec<u8>>,
    failed: Arc<Mutex<Option<io::Error>>>,
}

#[derive(Debug)]
enum Written {
    Bytes(Chunk),
    /// Signals once all before it is written.
    Until(oneshot::Sender<()>),
}

impl Output {
    pub(crate) fn start() -> io::Result<Self> {
        let (to, mut chunks) = mpsc::channel(CHUNKS);
        let (give, spare) = mpsc::unbounded_channel();
        let failed = Arc::new(Mutex::new(None));
        let (mut stdout, tell) = (stdout()?, failed.clone());
        let write = move || {
            while let Some(what) = chunks.blocking_recv() {
                match what {
                    Written::Bytes(chunk) => {
                        if let Err(why) = stdout.write_all(chunk.bytes()).and_then(|()| stdout.flush()) {
                            *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                            return;
                        }
                        let _ = give.send(chunk.data);
                    }
                    Written::Until(done) => drop(done.send(())),
                }
            }
        };
        std::thread::Builder::new().name("standard output".into()).spawn(write)?;
        Ok(Output { to, spare, failed })
    }

    /// A buffer of [`CHUNK`] bytes to read into.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_else(|_| vec![0; CHUNK])
    }

    /// Has the first bytes of a buffer written after earlier ones.
    pub(crate) async fn write(&self, data: Vec<u8>, len: usize) -> io::Result<()> {
        let sent = self.to.send(Written::Bytes(Chunk { data, len })).await;
        sent.map_err(|_| self.why())
    }

    /// Waits until all is written.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.to.send(Written::Until(done)).await.map_err(|_| self.why())?;
        written.await.map_err(|_| self.why())
    }

    fn why(&self) -> io::Error {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failed {
            Some(why) => io::Error::new(why.kind(), why.to_string()),
            None => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

/// Returns the descriptor itself: the standard library's handle looks for line ends and holds the bytes behind the
/// last.
#[cfg(unix)]
fn stdout() -> io::Result<impl Write + Send + 'static> {
    use std::os::fd::AsFd;
    Ok(std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

#[cfg(unix)]
fn stdin() -> io::Result<impl Read + Send + 'static> {
    use std::os::fd::AsFd;
    Ok(std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the other one may fail")]
fn stdout() -> io::Result<impl Write + Send + 'static> {
    Ok(io::stdout())
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the other one may fail")]
fn stdin() -> io::Result<impl Read + Send + 'static> {
    Ok(io::stdin())
}
