//! Bytes between a stream of this machine and one of a session. Each direction ends by itself, a reset is a reset at the
//! other end, and whoever reads slowly slows the sender.

use std::io;
use std::time::Duration;

use p2pd_tokio::{RecvStream, SendStream, SessionError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::place::Local;
use super::wire::RESET;
use crate::metrics::Way;

/// Bytes read from this machine at a time.
pub(super) const CHUNK: usize = 64 * 1024;

/// A stream of a session, both directions.
pub(super) type Stream = (SendStream, RecvStream);

/// End of a connection that was not whole: a reset on either side, or the end of the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Broke;

/// Copies both ways until both directions have ended, or one broke. `ended` tells that the local one has been read to its
/// end already. `count` is told of the bytes that went.
///
/// # Errors
/// `Broke`; the session's stream is given up then.
pub(super) async fn both(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (send, recv): &mut Stream,
    ended: bool,
    count: impl Fn(Way, usize),
) -> Result<(), Broke> {
    let up = async {
        if ended {
            return Ok(false);
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = from.read(&mut buffer).await.map_err(|_| Broke)?;
            if n == 0 {
                send.finish();
                return Ok(false);
            }
            match send.write_all(&buffer[..n]).await {
                Ok(()) => count(Way::Sent, n),
                // What the peer still sends says why.
                Err(why) if why.kind() == io::ErrorKind::BrokenPipe => return Ok(true),
                Err(_) => return Err(Broke),
            }
        }
    };
    let down = async {
        while let Some(bytes) = recv.read_chunk(usize::MAX).await.map_err(|_| Broke)? {
            to.write_all(&bytes).await.map_err(|_| Broke)?;
            count(Way::Received, bytes.len());
        }
        to.shutdown().await.map_err(|_| Broke)
    };
    match tokio::try_join!(up, down) {
        Ok((false, ())) => Ok(()),
        Ok((true, ())) | Err(Broke) => {
            send.reset(RESET);
            recv.stop(RESET);
            Err(Broke)
        }
    }
}

/// The same for a stream of this machine, which is reset if the other end broke.
pub(super) async fn join(mut local: Local, stream: &mut Stream, count: impl Fn(Way, usize)) {
    let ended = match &mut local {
        Local::Tcp(socket) => {
            let (from, to) = socket.split();
            both(from, to, stream, false, count).await
        }
        #[cfg(unix)]
        Local::Unix(socket) => {
            let (from, to) = socket.split();
            both(from, to, stream, false, count).await
        }
    };
    if ended.is_err() {
        local.reset();
    }
}

impl Local {
    /// Makes the socket's end a reset, so that its user does not take it for the end of the bytes.
    pub(super) fn reset(&self) {
        match self {
            Local::Tcp(socket) => _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)),
            // The others know no resets.
            #[cfg(unix)]
            _ => {}
        }
    }
}

/// Returns whether a stream ended because its session did.
pub(super) fn is_of_session(why: &io::Error) -> bool {
    let inner = why.get_ref().and_then(|why| why.downcast_ref::<SessionError>());
    matches!(inner, Some(SessionError::Ended(_)))
}
