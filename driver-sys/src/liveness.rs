//! Signs of life on TCP streams.
//!
//! The system probes an idle pipe (keep-alive), and ends it when nothing answers. That holds also for a stream that was
//! taken out of its pipe. Streams to servers are looked after by the core, which lets them be silent for longer.
//!
//! Where data waits the system does not probe, and retransmits the data for a quarter of an hour. `TCP_USER_TIMEOUT`
//! would shorten that. But it also ends streams whose peer lives and does not read (since Linux 5.11). Set to 6 s it ended one
//! after 6.5 s whose window was closed (6.18). So the pipes that are held are looked at instead.

use std::io;
use std::time::Duration;

use p2pd_core::{Instant, Liveness};
use socket2::{SockRef, TcpKeepalive};

use crate::sys;

/// Time between two looks at the pipes that users hold.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Questions that are repeated before an idle stream ends.
const QUESTIONS: u32 = 6;

/// Has the system look after a stream: the one place where that is said, for streams that were dialled or accepted.
///
/// # Errors
/// Of `setsockopt`.
pub fn keep_alive<'s>(socket: impl Into<SockRef<'s>>, liveness: &Liveness) -> io::Result<()> {
    let Liveness { interval, patience } = *liveness;
    if interval.is_zero() {
        return Ok(());
    }
    let ask = TcpKeepalive::new().with_time(interval.max(Duration::from_secs(1)));
    let ask = if patience.is_zero() {
        ask
    } else {
        let times = (patience.as_secs() as u32).clamp(1, QUESTIONS);
        sys::ask_again(ask, (patience / QUESTIONS).max(Duration::from_secs(1)), times)
    };
    socket.into().set_tcp_keepalive(&ask)
}

/// Prepares a stream that a server of p2pd has accepted. Written data leaves at once, and a vanished client is found
/// out as a node's peers are. An option that cannot be set is left out.
pub fn accepted<'s>(socket: impl Into<SockRef<'s>>) {
    let socket = socket.into();
    let _ = socket.set_tcp_nodelay(true);
    let _ = keep_alive(socket, &Liveness::default());
}

/// The same for a server of nodes, which are not to be woken: one that has vanished is found out after ten minutes.
pub fn accepted_node<'s>(socket: impl Into<SockRef<'s>>) {
    let socket = socket.into();
    let _ = socket.set_tcp_nodelay(true);
    let _ = keep_alive(socket, &Liveness { interval: Duration::from_secs(600), ..Liveness::default() });
}

/// Signs of a stream's other end, as the system has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Signs {
    /// True if bytes sent are not acknowledged: data, or a probe of the keep-alive or the window.
    pub(crate) asked: bool,
    /// Time since the last acknowledgement.
    pub(crate) heard: Duration,
}

/// Time since which a stream's other end owes an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Silence(Option<Instant>);

impl Silence {
    /// Returns true once so long has passed without any answer, as far as is known from looking now and then.
    pub(crate) fn is_over(&mut self, now: Instant, signs: Signs, patience: Duration) -> bool {
        let heard = now - signs.heard;
        self.0 = signs.asked.then(|| self.0.map_or(now, |since| since.max(heard)));
        self.0.is_some_and(|since| now.since(since) >= patience)
    }
}

/// Reads the signs of a connected TCP socket. Linux only.
pub(crate) fn signs(socket: &socket2::Socket) -> Option<Signs> {
    sys::signs(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn silence_is_counted_from_the_first_question_or_the_last_answer() {
        let start = Instant::from_nanos(0) + 1000 * S;
        let mut silence = Silence::default();
        let mut look = |at: u32, asked: bool, heard: u32| {
            silence.is_over(start + at * S, Signs { asked, heard: heard * S }, 30 * S)
        };
        // Idle for long; then data, which nothing answers.
        assert!(!look(0, false, 500) && !look(5, true, 505) && !look(34, true, 534) && look(35, true, 535));
        // An answer in between, though more waits already.
        assert!(!look(40, true, 2) && !look(65, true, 27) && look(68, true, 30));
        assert!(!look(70, false, 0) && !look(75, true, 5));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_stream_that_nobody_reads_is_no_silence() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        let signs = |s: &std::net::TcpStream| super::signs(&SockRef::from(s)).unwrap();
        assert!(!signs(&near).asked);
        while near.write(&[0; 65_536]).is_ok() {}
        std::thread::sleep(Duration::from_millis(700));
        let full = signs(&near);
        assert!(!full.asked && full.heard < S, "its questions are answered: {full:?}");
        keep_alive(&near, &Liveness { interval: 7 * S, patience: 9 * S }).unwrap();
        let socket = SockRef::from(&near);
        assert_eq!(
            (
                socket.keepalive().unwrap(),
                socket.tcp_keepalive_time().unwrap(),
                socket.tcp_keepalive_retries().unwrap()
            ),
            (true, 7 * S, 6)
        );
    }
}
