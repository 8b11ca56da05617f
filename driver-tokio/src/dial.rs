//! A dial: from the armed socket to a stream.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

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

/// The runtime's timer is up to 2 ms late (measured: 1.2 ms at the median), which is long beside a round trip in a
/// city. So it wakes this task early, which then gives way to others until little is left, and then to nobody.
async fn wait_until(at: Instant, clock: Clock) {
    const TIMER: Duration = Duration::from_millis(2);
    const NOBODY: Duration = Duration::from_micros(50);
    let left = clock.until(at);
    if left > TIMER {
        tokio::time::sleep(left - TIMER).await;
    }
    while clock.until(at) > NOBODY {
        tokio::task::yield_now().await;
    }
    while !clock.until(at).is_zero() {
        std::hint::spin_loop();
    }
}

async fn connect(
    dial: Dial,
    events: &mpsc::Sender<Happened>,
) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    wait_until(dial.at, dial.clock).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How late so many dials fire that are armed for one moment.
    async fn lateness(dials: u32) -> Vec<Duration> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote = listener.local_addr().unwrap();
        let (events, mut happened) = mpsc::channel(4 * dials as usize);
        let clock = Clock::start();
        let at = clock.now() + Duration::from_millis(60);
        let mut held = Vec::new();
        for n in 0..dials {
            let socket =
                socket::dialler(([127, 0, 0, 1], 0).into(), &p2pd_core::SockOpts::default()).unwrap();
            let (orders, queue) = mpsc::unbounded_channel();
            held.push(orders);
            let sock = SockId::accepted(n);
            let dial = Dial { sock, socket, remote, at, deadline: at + Duration::from_secs(5), clock };
            tokio::spawn(run(dial, queue, events.clone()));
        }
        let mut late = Vec::new();
        while late.len() < dials as usize {
            match happened.recv().await {
                Some(Happened::Fired { late: l, .. }) => late.push(l),
                Some(_) => {}
                None => break,
            }
        }
        late.sort();
        late
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn armed_dials_fire_in_time() {
        for dials in [1, 64, 512] {
            let late = lateness(dials).await;
            let [half, most] = [late.len() / 2, late.len() * 99 / 100].map(|n| late[n]);
            println!("{dials} armed: median {half:?}, 99 % {most:?}");
            assert_eq!(late.len(), dials as usize);
            // The figures are in the bench's print; a busy machine may be much later.
            assert!(half < Duration::from_millis(50), "{dials}: {half:?}");
        }
    }
}
