//! A dial: from the armed socket to a stream.

use std::io;
use std::net::SocketAddr;

use p2pd_core::{Instant, IoFailure, SockId};
use p2pd_sys::{Clock, failure, socket};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::run::Happened;
use crate::stream::{self, Order};

/// A bound socket and when to connect it.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) sock: SockId,
    pub(crate) socket: socket2::Socket,
    pub(crate) remote: SocketAddr,
    pub(crate) at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) clock: Clock,
}

/// Fires, waits for the outcome, and goes on as the stream's task. Ends early when the socket is closed.
pub(crate) async fn run(
    dial: Dial,
    mut orders: mpsc::UnboundedReceiver<Order>,
    events: mpsc::Sender<Happened>,
) {
    let (sock, clock, deadline) = (dial.sock, dial.clock, dial.deadline);
    let connecting = connect(dial, &events);
    let within = clock.until(deadline);
    // Sends and reads wait in the queue; all that can come before the outcome is the end.
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(within, connecting) => outcome,
        _ = orders.recv() => return,
    };
    let failed = match outcome {
        Ok(Ok((stream, local, remote))) => {
            if events.send(Happened::Connected { sock, local, remote }).await.is_ok() {
                stream::run(sock, stream, orders, events).await;
            }
            return;
        }
        Ok(Err(e)) => failure(&e),
        Err(_) => IoFailure::TimedOut,
    };
    let _ = events.send(Happened::Failed { sock, cause: failed }).await;
}

async fn connect(
    dial: Dial,
    events: &mpsc::Sender<Happened>,
) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    let early = dial.clock.until(dial.at);
    if !early.is_zero() {
        tokio::time::sleep(early).await;
    }
    socket::connect(&dial.socket, dial.remote)?;
    let late = dial.clock.now().since(dial.at);
    let stream = TcpStream::from_std(dial.socket.into())?;
    let _ = events.send(Happened::Fired { sock: dial.sock, late }).await;
    loop {
        stream.writable().await?;
        if let Some(e) = stream.take_error()? {
            return Err(e);
        }
        let remote = stream.try_io(Interest::WRITABLE, || {
            // Not connected and no error: woken too early, so that it is to be waited for again.
            stream.peer_addr().map_err(|e| match e.kind() {
                io::ErrorKind::NotConnected => io::ErrorKind::WouldBlock.into(),
                _ => e,
            })
        });
        match remote {
            Ok(remote) => {
                let local = stream.local_addr()?;
                return Ok((stream, local, remote));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}
