//! Messages in place of bytes: each line is one and arrives whole.
//!
//! Over a relay they go beside the pipe's bytes, acknowledged one by one and in no order. The pipe itself then carries
//! their number at the end, eight bytes. Any other pipe carries each message behind its length, two bytes. Both numbers
//! are big-endian.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::NodeId;
use p2pd_core::pipe::subscriptions::Pattern;
use p2pd_core::relay::MAX_MESSAGE;
use p2pd_tokio::{Messages, Pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::process::Command;

use super::{Activity, PIPE, named};
use crate::say::Say;

/// Longest time of a program that answers a message.
const PATIENCE: Duration = Duration::from_secs(60);

/// Wish for messages.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Those that are shown, or answered.
    pub(crate) only: Pattern,
    /// Program that answers each, with its arguments; empty for none.
    pub(crate) each: Vec<OsString>,
}

/// Makes the pipe one of messages.
pub(super) fn split(mut pipe: Pipe, wanted: &Wanted, say: Say) -> (Receiving, Sending) {
    let beside = pipe.messages().ok().map(Arc::new);
    let (from, to) = tokio::io::split(pipe);
    let (incoming, outgoing) = match beside {
        None => (Incoming::Framed(from), Outgoing::Framed(to)),
        Some(messages) => (
            Incoming::Beside { messages: messages.clone(), pipe: from, number: Vec::new(), got: 0 },
            Outgoing::Beside { messages, pipe: to, sent: 0 },
        ),
    };
    let receiving = Receiving { incoming, only: wanted.only.clone() };
    (receiving, Sending { outgoing, line: Vec::new(), say })
}

#[derive(Debug)]
pub(super) struct Receiving {
    incoming: Incoming,
    only: Pattern,
}

#[derive(Debug)]
enum Incoming {
    Framed(ReadHalf<Pipe>),
    Beside {
        messages: Arc<Messages>,
        pipe: ReadHalf<Pipe>,
        /// What came of the number of messages.
        number: Vec<u8>,
        got: u64,
    },
}

impl Receiving {
    /// The next message that is wanted; `None` at the peer's end.
    ///
    /// # Errors
    /// Those of the pipe, and `UnexpectedEof` for one that ends without saying so.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.incoming.next().await? {
                Some(message) if !self.only.matches(&message) => {}
                message => return Ok(message),
            }
        }
    }

    /// The next one as a line. The buffer has room for the longest.
    pub(super) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(mut message) = self.next().await? else { return Ok(0) };
        message.push(b'\n');
        into[..message.len()].copy_from_slice(&message);
        Ok(message.len())
    }
}

impl Incoming {
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Incoming::Framed(from) => {
                let mut length = [0; 2];
                if from.read(&mut length[..1]).await? == 0 {
                    return Ok(None);
                }
                from.read_exact(&mut length[1..]).await?;
                let length = usize::from(u16::from_be_bytes(length));
                if length > MAX_MESSAGE {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer sends no messages"));
                }
                let mut message = vec![0; length];
                from.read_exact(&mut message).await?;
                Ok(Some(message))
            }
            Incoming::Beside { messages, pipe, number, got } => loop {
                let all = number[..].try_into().ok().map(u64::from_be_bytes);
                if all.is_some_and(|all| *got >= all) {
                    return Ok(None);
                }
                let mut more = [0; 8];
                let rest = &mut more[number.len()..];
                tokio::select! {
                    // First: where the pipe has ended the messages have, too.
                    biased;
                    read = pipe.read(rest), if all.is_none() => match read? {
                        0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer sends no messages")),
                        n => number.extend_from_slice(&rest[..n]),
                    },
                    message = messages.recv() => {
                        *got += 1;
                        return message.map(Some);
                    }
                }
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct Sending {
    outgoing: Outgoing,
    /// Beginning of a line.
    line: Vec<u8>,
    say: Say,
}

#[derive(Debug)]
enum Outgoing {
    Framed(WriteHalf<Pipe>),
    Beside { messages: Arc<Messages>, pipe: WriteHalf<Pipe>, sent: u64 },
}

impl Sending {
    /// Sends the lines that end here, and keeps the rest for later.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = part.strip_suffix(b"\n");
            // One that is too long already is left out.
            if self.line.len() <= MAX_MESSAGE {
                self.line.extend_from_slice(whole.unwrap_or(part));
            }
            if whole.is_some() {
                self.end_line().await?;
            }
        }
        Ok(())
    }

    async fn end_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        if line.len() > MAX_MESSAGE {
            self.say.error(&format!("a line of more than {MAX_MESSAGE} bytes is no message; it is left out"));
            return Ok(());
        }
        self.outgoing.send(&line).await
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        match &mut self.outgoing {
            Outgoing::Framed(to) => to.flush().await,
            Outgoing::Beside { .. } => Ok(()),
        }
    }

    /// Ends the sending, with a last line that has no end.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.end_line().await?;
        }
        match &mut self.outgoing {
            Outgoing::Framed(to) => to.shutdown().await,
            Outgoing::Beside { pipe, sent, .. } => {
                pipe.write_all(&sent.to_be_bytes()).await?;
                pipe.shutdown().await
            }
        }
    }
}

impl Outgoing {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Outgoing::Framed(to) => {
                to.write_all(&(message.len() as u16).to_be_bytes()).await?;
                to.write_all(message).await
            }
            Outgoing::Beside { messages, sent, .. } => {
                *sent += 1;
                messages.send(message).await
            }
        }
    }
}

/// Has a program answer each message, to the peer's end. What it prints is the answer, without the last line's end; one
/// that prints nothing, or fails, gives none.
pub(super) async fn answer(
    (mut from, mut to): (Receiving, Sending),
    program: &[OsString],
    peer: NodeId,
    activity: &Activity,
    say: Say,
) -> io::Result<()> {
    let broke = |why| named(PIPE, &why);
    while let Some(message) = from.next().await.map_err(broke)? {
        activity.now();
        let ran = tokio::time::timeout(PATIENCE, run(program, peer, &message)).await;
        match ran.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(answer) if answer.is_empty() => {}
            Ok(answer) => {
                to.outgoing.send(&answer).await.map_err(broke)?;
                to.flush().await.map_err(broke)?;
            }
            Err(why) => {
                let name = program.first().map(|name| name.to_string_lossy().into_owned());
                say.error(&format!("--each {}: {why}", name.unwrap_or_default()));
            }
        }
    }
    to.shutdown().await.map_err(broke)
}

/// Returns what the program prints for a message. It ends with this program at the latest.
async fn run(program: &[OsString], peer: NodeId, message: &[u8]) -> io::Result<Vec<u8>> {
    let (name, arguments) = program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(name);
    command.args(arguments).env("P2PD_PEER", peer.to_string()).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let fed = async {
        if let Some(mut input) = input {
            // One that does not read it all may answer all the same.
            let _ = input.write_all(message).await;
        }
    };
    let mut answer = Vec::new();
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
    match child.wait().await? {
        status if status.success() => Ok(answer),
        status => Err(io::Error::other(status.to_string())),
    }
}
