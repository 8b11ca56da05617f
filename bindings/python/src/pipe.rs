//! Pipes to peers, as sockets that asyncio reads and writes.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pd_tokio::{PipeInfo, PipeMode};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::engine::{Reach, handed, lock};

/// Most bytes of a direction that wait between asyncio's socket and a pipe: four records.
const ROOM: usize = 64 * 1024;
/// Time for the rest of a pipe to leave, once Python has closed its end.
const FAREWELL: Duration = Duration::from_secs(5);

/// A pipe to a peer.
#[pyclass(frozen, module = "p2pd._native")]
pub struct Pipe {
    pipe: Mutex<Option<p2pd_tokio::Pipe>>,
    info: PipeInfo,
    reach: Reach,
    end: Arc<End>,
}

/// News between the two ends of a carried pipe, which Python and the runtime have.
#[derive(Default)]
struct End {
    closed: Notify,
    over: Notify,
    error: Mutex<Option<String>>,
}

impl Pipe {
    pub(crate) fn new(pipe: p2pd_tokio::Pipe, reach: Reach) -> Self {
        let info = *pipe;
        Pipe { pipe: Mutex::new(Some(pipe)), info, reach, end: Arc::default() }
    }
}

#[pymethods]
impl Pipe {
    /// Returns the number of a socket with the pipe's bytes, and whether they are carried: the runtime has to stay, and
    /// `close` to be called. A plain pipe is its bare TCP socket; of an encrypted or relayed one it is an end of a pair of
    /// sockets, and the runtime carries the bytes between the other end and the pipe.
    fn take(&self) -> PyResult<(u64, bool)> {
        let pipe =
            lock(&self.pipe).take().ok_or_else(|| PyRuntimeError::new_err("the pipe was taken before"))?;
        match pipe.into_tcp_stream() {
            Ok(stream) => Ok((handed(stream.into_std()?), false)),
            Err(pipe) => {
                let (ours, theirs) = p2pd_sys::socket::pair()?;
                self.reach.handle.spawn(carry(*pipe, ours, self.end.clone()));
                Ok((handed(theirs), true))
            }
        }
    }

    /// Tells a carried pipe that Python has closed its socket. What it holds leaves within 5 s.
    fn close(&self) {
        self.end.closed.notify_one();
    }

    /// Waits until the runtime has nothing more to carry: a call that gives nothing, to be made once.
    fn over(&self) -> u64 {
        let end = self.end.clone();
        self.reach.call(async move {
            end.over.notified().await;
            Ok(())
        })
    }

    /// Returns why a carried pipe broke; `None`: it did not, or not yet.
    fn error(&self) -> Option<String> {
        lock(&self.end.error).clone()
    }

    /// Returns the peer's proven node id.
    #[getter]
    fn peer(&self) -> String {
        self.info.peer().to_string()
    }

    /// Returns the word for the strategy that opened the pipe.
    #[getter]
    fn strategy(&self) -> &'static str {
        self.info.strategy().name()
    }

    /// Returns true if the pipe's bytes are encrypted.
    #[getter]
    fn encrypted(&self) -> bool {
        self.info.mode() == PipeMode::Encrypted
    }

    /// Returns the protocol that the caller named.
    #[getter]
    fn protocol(&self) -> Option<Vec<u8>> {
        self.info.protocol().map(|tag| tag.as_bytes().to_vec())
    }

    /// Returns the local end.
    #[getter]
    fn local(&self) -> (String, u16) {
        let at = self.info.local_addr();
        (at.ip().to_string(), at.port())
    }

    /// Returns the peer's end, as seen from here.
    #[getter]
    fn remote(&self) -> (String, u16) {
        let at = self.info.remote_addr();
        (at.ip().to_string(), at.port())
    }

    /// Returns the time that opening took, in seconds.
    #[getter]
    fn elapsed(&self) -> f64 {
        self.info.elapsed().as_secs_f64()
    }
}

/// Carries bytes and ends both ways. Why the pipe broke is known before asyncio's socket ends.
async fn carry(pipe: p2pd_tokio::Pipe, ours: std::net::TcpStream, end: Arc<End>) {
    match TcpStream::from_std(ours) {
        Ok(ours) => between(pipe, ours, &end).await,
        Err(why) => broke(&end, &why),
    }
    end.over.notify_one();
}

async fn between(mut pipe: p2pd_tokio::Pipe, mut ours: TcpStream, end: &End) {
    let carrying = copy_bidirectional_with_sizes(&mut ours, &mut pipe, ROOM, ROOM);
    tokio::pin!(carrying);
    let outcome = tokio::select! {
        outcome = &mut carrying => outcome,
        () = end.closed.notified() => tokio::time::timeout(FAREWELL, carrying).await.unwrap_or(Ok((0, 0))),
    };
    if let Err(why) = outcome {
        broke(end, &why);
    }
}

fn broke(end: &End, why: &io::Error) {
    *lock(&end.error) = Some(why.to_string());
}
