//! A program that answers each message.

use std::ffi::OsString;
use std::io;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use p2pd_core::NodeId;
use p2pd_core::relay::MAX_MESSAGE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, sleep_until, timeout};

use super::messages::{Receiving, Sending};
use super::{Activity, PIPE, named};
use crate::metrics::Way;
use crate::say::Say;
use crate::secret::keep_secrets;

/// Longest time of a program.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages that are answered at once, and the time until one more is.
const BURST: u32 = 64;
const EVERY: Duration = Duration::from_millis(100);
/// Longest wait for the rest of a program's complaints, once it has ended: processes that it has left behind may never end.
const COMPLAINTS: Duration = Duration::from_millis(500);
/// Longest line of a program's complaints.
const COMPLAINT: usize = 4096;

/// Rate at which programs are run. It goes on from caller to caller: an empty message costs its sender two bytes, a
/// further call little more, and us a process.
#[derive(Debug)]
pub(super) struct Pace(Instant);

impl Pace {
    pub(super) fn new() -> Self {
        Pace(Instant::now())
    }

    /// Waits until one more may be run.
    pub(super) async fn next(&mut self) {
        let now = Instant::now();
        self.0 = self.0.max(now) + EVERY;
        sleep_until(now + (self.0 - now).saturating_sub(EVERY * BURST)).await;
    }
}

/// Has a program answer each message, to the peer's end, or until nothing can be written to the peer. What it prints is
/// the answer, without the last line's end; one that prints nothing, or fails, gives none.
pub(super) async fn answer(
    (mut from, mut to): (Receiving, Sending),
    (program, pace): (&[OsString], &mut Pace),
    peer: NodeId,
    activity: &Activity,
    say: Say,
) -> io::Result<()> {
    let broke = |why| named(PIPE, &why);
    let name = program.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    let complain = |what: &str| say.error(&format!("--each {name}: {what}"));
    while let Some(message) = from.next().await.map_err(broke)? {
        activity.now(Way::Received, message.len());
        pace.next().await;
        to.check().map_err(broke)?;
        let ran = timeout(PATIENCE, run(program, peer, &message, complain)).await;
        match ran.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(answer) if answer.is_empty() => {}
            Ok(answer) => {
                to.send(&answer).await.map_err(broke)?;
                activity.counted.add(Way::Sent, answer.len());
                to.flush().await.map_err(broke)?;
            }
            Err(why) => complain(&why.to_string()),
        }
    }
    to.shutdown().await.map_err(broke)
}

/// Returns what the program prints for a message, and hands its complaints on. It ends with this program at the latest.
async fn run(
    program: &[OsString],
    peer: NodeId,
    message: &[u8],
    complain: impl Fn(&str),
) -> io::Result<Vec<u8>> {
    let (name, arguments) = program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(name);
    command.args(arguments).env("P2PD_PEER", peer.to_string()).kill_on_drop(true);
    keep_secrets(command.as_std_mut());
    #[cfg(unix)]
    command.process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn()?);
    let child = &mut running.0;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let fed = async {
        if let Some(mut input) = input {
            // One that does not read it all may answer all the same.
            let _ = input.write_all(message).await;
        }
    };
    let mut answer = Vec::new();
    let work = async {
        let heard = async {
            match output {
                Some(output) => output.take(MAX_MESSAGE as u64 + 2).read_to_end(&mut answer).await.map(drop),
                None => Ok(()),
            }
        };
        let ((), heard) = tokio::join!(fed, heard);
        heard?;
        if answer.last() == Some(&b'\n') {
            answer.pop();
        }
        if answer.len() > MAX_MESSAGE {
            return Err(io::Error::other(format!("it printed more than {MAX_MESSAGE} bytes")));
        }
        child.wait().await
    };
    let status = with_complaints(work, errors, complain).await?;
    if status.success() { Ok(answer) } else { Err(io::Error::other(status.to_string())) }
}

/// Waits for the end of a program, and hands its complaints on, also those that it has left behind.
///
/// # Errors
/// Those of `work`.
pub(super) async fn with_complaints<T>(
    work: impl Future<Output = io::Result<T>>,
    errors: Option<ChildStderr>,
    complain: impl Fn(&str),
) -> io::Result<T> {
    let complained = async {
        let Some(mut errors) = errors else { return };
        let mut piece = [0; COMPLAINT];
        while let Ok(n @ 1..) = errors.read(&mut piece).await {
            complain(String::from_utf8_lossy(&piece[..n]).trim_end());
        }
    };
    let mut complained = pin!(complained);
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => {
            let _ = timeout(COMPLAINTS, complained).await;
            done
        }
        () = &mut complained => work.await,
    }
}

/// A program that is run. Dropped before its end, it is killed together with what it has started.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(group) = self.0.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
            // A child that nobody has waited for keeps its number.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn programs_are_run_at_a_rate() {
        let (mut pace, begin) = (Pace::new(), Instant::now());
        for _ in 0..BURST {
            pace.next().await;
        }
        assert!(begin.elapsed() < EVERY * 10, "{:?}", begin.elapsed());
        for _ in 0..5 {
            pace.next().await;
        }
        assert!(begin.elapsed() >= EVERY * 5, "{:?}", begin.elapsed());
    }
}
