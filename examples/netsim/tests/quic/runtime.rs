//! quinn on simulated sockets and in virtual time: its `Runtime` and its `AsyncUdpSocket`.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use p2pd_netsim::aio::net::UdpSocket;
use p2pd_netsim::aio::time::{Instant, Sleep, sleep_until};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller};
use tokio::io::ReadBuf;

/// The runtime. quinn reckons in std's `Instant`, which nothing can make up: one, taken from the real clock, stands for the world's
/// beginning. Only differences to it are used, so it has no influence on a run.
#[derive(Debug)]
pub struct SimRuntime {
    beginning: std::time::Instant,
    /// The last time that was asked for, in nanoseconds: connections are closed when they are dropped, which may be outside of
    /// a task.
    last: AtomicU64,
}

impl SimRuntime {
    /// Returns a runtime for all endpoints of a simulation, or for one.
    #[allow(clippy::new_without_default, reason = "it reads the clock")]
    pub fn new() -> SimRuntime {
        SimRuntime { beginning: std::time::Instant::now(), last: AtomicU64::new(0) }
    }

    fn simulated(beginning: std::time::Instant, at: std::time::Instant) -> Instant {
        Instant::START + at.saturating_duration_since(beginning)
    }
}

impl Runtime for SimRuntime {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        let sleep = sleep_until(SimRuntime::simulated(self.beginning, at));
        Box::pin(Timer { beginning: self.beginning, sleep })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        p2pd_netsim::aio::spawn(future);
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a socket of the real network"))
    }

    fn now(&self) -> std::time::Instant {
        if let Some(now) = Instant::try_now() {
            self.last.store(now.since_start().as_nanos() as u64, Ordering::Relaxed);
        }
        self.beginning + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Timer {
    beginning: std::time::Instant,
    sleep: Sleep,
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: std::time::Instant) {
        let at = SimRuntime::simulated(self.beginning, at);
        Pin::new(&mut self.sleep).reset(at);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.sleep).poll(cx)
    }
}

/// A simulated UDP socket for an endpoint. It may be shared: hole punching sends from it what quinn does not.
pub struct SimSocket(pub UdpSocket);

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send_to(transmit.contents, transmit.destination).map(|_| ())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buf), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else { return Poll::Ready(Ok(0)) };
        let mut buf = ReadBuf::new(buf);
        let addr = ready!(self.0.poll_recv_from(cx, &mut buf))?;
        let len = buf.filled().len();
        *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
