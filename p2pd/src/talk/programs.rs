//! A program for each caller (`listen --exec`).

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::NodeId;
use p2pd_tokio::Node;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, timeout};

use super::callers::{Caller, Callers};
use super::each::{Pace, Running, with_complaints};
use super::stdio::CHUNK;
use super::waiting::Waiting;
use super::{Counted, FAREWELL, PIPE, named, place, split};
use crate::metrics::{Metrics, Way};
use crate::quiet::Quiet;
use crate::say::Say;
use crate::secret::keep_secrets;

/// Most programs at once, and most for callers of one place.
const MOST: usize = 64;
const MOST_OF_PLACE: usize = 8;

/// A program that runs.
struct Seat {
    task: AbortHandle,
    peer: NodeId,
    place: IpAddr,
    quiet: Arc<Quiet>,
}

/// Runs the program for each caller, until the node ends. While others wait for a seat, a caller that is silent for
/// `idle` makes room.
pub(crate) async fn serve(
    node: &Node,
    (program, many, idle): (Vec<OsString>, bool, Duration),
    metrics: Arc<Metrics>,
    say: Say,
) {
    let (mut callers, mut waiting, mut pace) =
        (Callers::new(node, &metrics, say), Waiting::default(), Pace::new());
    let (mut running, mut seats) = (JoinSet::new(), Vec::<Seat>::new());
    let most = if many { MOST } else { 1 };
    let program: Arc<[OsString]> = program.into();
    let mut look = interval(Duration::from_secs(1));
    loop {
        while seats.len() < most {
            let of = |place| seats.iter().filter(|seat| seat.place == place).count();
            let Some(caller) = waiting.next_of(|place| of(place) < MOST_OF_PLACE) else { break };
            pace.next().await;
            say.opened("incoming", &caller.info());
            let (peer, place, quiet) =
                (caller.peer(), place(caller.remote_addr().ip()), Arc::new(Quiet::new()));
            let (program, watched) = (program.clone(), (quiet.clone(), caller.counted(metrics.clone())));
            let task = running.spawn(async move {
                if let Err(why) = one(&program, caller, (&watched.0, &watched.1), say).await {
                    say.error(&why.to_string());
                }
            });
            seats.push(Seat { task, peer, place, quiet });
        }
        // Whoever comes from now on is told that it waits.
        node.set_busy(seats.len() >= most);
        tokio::select! {
            caller = callers.next() => match caller {
                Some(caller) => waiting.push(caller),
                None => return,
            },
            Some(ended) = running.join_next_with_id() => {
                let id = ended.map_or_else(|why| why.id(), |(id, ())| id);
                seats.retain(|seat| seat.task.id() != id);
            }
            _ = look.tick(), if !waiting.is_empty() => {
                let silent = seats.iter().max_by_key(|seat| seat.quiet.lasts());
                if let Some(Seat { task, peer, quiet, .. }) = silent.filter(|seat| seat.quiet.lasts() >= idle) {
                    let seconds = quiet.lasts().as_secs();
                    say.line(
                        || json!({"event": "idle", "peer": peer.to_string(), "seconds": seconds}),
                        || format!("{peer} was silent for {seconds} s, and makes room for the next caller"),
                    );
                    task.abort();
                }
            }
        }
    }
}

/// Joins a caller with a program of its own, until the program ends or the caller breaks. Given up, it ends the program.
///
/// # Errors
/// Says whose error it is.
async fn one(
    program: &[OsString],
    caller: Caller,
    (quiet, counted): (&Quiet, &Counted),
    say: Say,
) -> io::Result<()> {
    let (name, arguments) = program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let shown = format!("--exec {}", name.to_string_lossy());
    let mut command = Command::new(name);
    command.args(arguments).env("P2PD_PEER", caller.peer().to_string()).kill_on_drop(true);
    keep_secrets(command.as_std_mut());
    #[cfg(unix)]
    command.process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Running(command.spawn().map_err(|why| named(&shown, &why))?);
    let (input, output, errors) = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let (mut theirs, mut ours) = split(caller);
    let fed = async {
        let mut buffer = vec![0; CHUNK];
        let mut input = input;
        loop {
            let n = theirs.read(&mut buffer).await.map_err(|why| named(PIPE, &why))?;
            quiet.now();
            counted.add(Way::Received, n);
            // One that does not read it all may answer all the same.
            let taken = match &mut input {
                Some(to) if n > 0 => to.write_all(&buffer[..n]).await.is_ok(),
                _ => false,
            };
            if !taken {
                input = None;
            }
            if n == 0 {
                return std::future::pending::<io::Result<()>>().await;
            }
        }
    };
    let answered = async {
        let mut buffer = vec![0; CHUNK];
        if let Some(mut output) = output {
            loop {
                let n = output.read(&mut buffer).await.map_err(|why| named(&shown, &why))?;
                if n == 0 {
                    break;
                }
                quiet.now();
                ours.write_all(&buffer[..n]).await.map_err(|why| named(PIPE, &why))?;
                counted.add(Way::Sent, n);
                ours.flush().await.map_err(|why| named(PIPE, &why))?;
            }
        }
        child.0.wait().await.map_err(|why| named(&shown, &why))
    };
    let complain = |what: &str| say.error(&format!("{shown}: {what}"));
    let status = tokio::select! {
        broke = fed => return broke,
        status = with_complaints(answered, errors, complain) => status?,
    };
    let farewell = async {
        ours.shutdown().await?;
        // A pipe that is dropped with bytes unread may take the last of ours with it.
        let mut rest = vec![0; CHUNK];
        while theirs.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(FAREWELL, farewell).await;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{shown}: {status}"))) }
}
