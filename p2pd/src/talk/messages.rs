//! Messages in place of bytes: each line is one and arrives whole.
//!
//! Over a relay they go beside the pipe's bytes, acknowledged one by one and in no order. The pipe itself then carries
//! their number at the end, eight bytes. Any other pipe carries each message behind its length, two bytes. Both numbers
//! are big-endian.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use p2pd_core::pipe::subscriptions::Pattern;
use p2pd_core::relay::MAX_MESSAGE;
use p2pd_tokio::{Messages, Pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

use crate::say::Say;

/// Wish for messages.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Pattern of those that are shown, or answered.
    pub(crate) only: Pattern,
    /// Program that answers each, with its arguments; empty for none.
    pub(crate) each: Vec<OsString>,
}

/// Makes the pipe one of messages.
///
/// # Errors
/// Says why the messages beside a relayed pipe cannot be had.
pub(super) fn split(mut pipe: Pipe, wanted: &Wanted, say: Say) -> io::Result<(Receiving, Sending)> {
    let beside = match pipe.messages() {
        Ok(messages) => Some(Arc::new(messages)),
        Err(why) if why.kind() == io::ErrorKind::Unsupported => None,
        Err(why) => return Err(why),
    };
    #[cfg(unix)]
    let socket = socket2::SockRef::from(&pipe).try_clone().ok();
    #[cfg(not(unix))]
    let socket = None;
    let (from, to) = tokio::io::split(pipe);
    let (incoming, outgoing) = match beside {
        None => (Incoming::Framed(from), Outgoing::Framed { to, rest: BytesMut::new() }),
        Some(messages) => (
            Incoming::Beside { messages: messages.clone(), pipe: from, number: Vec::new(), got: 0 },
            Outgoing::Beside { messages, pipe: to, sent: 0, sending: None },
        ),
    };
    let receiving = Receiving { incoming, only: wanted.only.clone() };
    Ok((receiving, Sending { outgoing, socket, line: Vec::new(), say }))
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
        /// Digits that came of the number of messages.
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
    /// The pipe's, to look at its errors.
    socket: Option<socket2::Socket>,
    /// Beginning of a line.
    line: Vec<u8>,
    say: Say,
}

#[derive(Debug)]
enum Outgoing {
    Framed {
        to: WriteHalf<Pipe>,
        /// Bytes of a message that are still to be written.
        rest: BytesMut,
    },
    Beside {
        messages: Arc<Messages>,
        pipe: WriteHalf<Pipe>,
        sent: u64,
        /// The message under way, which is counted already.
        sending: Option<JoinHandle<io::Result<()>>>,
    },
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
        self.send(&line).await
    }

    /// Sends a message. One that is given up meanwhile is sent to its end by [`shutdown`](Self::shutdown).
    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.outgoing.begin(message);
        self.outgoing.finish().await
    }

    /// # Errors
    /// Says that nothing can be written to the peer any more, as far as the system knows.
    pub(super) fn check(&self) -> io::Result<()> {
        self.socket.as_ref().map_or(Ok(None), socket2::Socket::take_error)?.map_or(Ok(()), Err)
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        match &mut self.outgoing {
            Outgoing::Framed { to, .. } => to.flush().await,
            Outgoing::Beside { .. } => Ok(()),
        }
    }

    /// Ends the sending, with the message under way and a last line that has no end.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.outgoing.finish().await?;
        if !self.line.is_empty() {
            self.end_line().await?;
        }
        match &mut self.outgoing {
            Outgoing::Framed { to, .. } => to.shutdown().await,
            Outgoing::Beside { pipe, sent, .. } => {
                pipe.write_all(&sent.to_be_bytes()).await?;
                pipe.shutdown().await
            }
        }
    }
}

impl Outgoing {
    fn begin(&mut self, message: &[u8]) {
        match self {
            Outgoing::Framed { rest, .. } => {
                rest.put_u16(message.len() as u16);
                rest.put_slice(message);
            }
            Outgoing::Beside { messages, sent, sending, .. } => {
                *sent += 1;
                let (messages, message) = (messages.clone(), message.to_vec());
                // Given up, a send does not tell whether the message goes out; this one is not given up.
                *sending = Some(tokio::spawn(async move { messages.send(&message).await }));
            }
        }
    }

    /// Waits until the message under way has gone out. Nothing of it is lost if this is given up.
    async fn finish(&mut self) -> io::Result<()> {
        match self {
            Outgoing::Framed { to, rest } => to.write_all_buf(rest).await,
            Outgoing::Beside { sending, .. } => match sending {
                Some(under_way) => {
                    let sent = under_way.await;
                    *sending = None;
                    sent.map_err(io::Error::other)?
                }
                None => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use p2pd_core::{Config, SecretKey};
    use p2pd_tokio::Node;
    use tokio::time::timeout;

    use super::*;

    async fn node() -> Node {
        let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
        config.bind = Some([127, 0, 0, 1].into());
        Node::bind(config).await.unwrap()
    }

    /// Two ends of a pipe, and their nodes.
    async fn pair() -> ([(Receiving, Sending); 2], [Node; 2]) {
        let nodes = [node().await, node().await];
        let address = nodes[1].address().await;
        let (near, far) = tokio::join!(nodes[0].connect(&address), nodes[1].accept());
        let all = Wanted { only: Pattern::ANY, each: Vec::new() };
        ([near.unwrap(), far.unwrap()].map(|pipe| split(pipe, &all, Say::new(true, true)).unwrap()), nodes)
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn that_a_peer_is_gone_is_seen_before_anything_is_written() {
        let ([near, (_receiving, mut sending)], _nodes) = pair().await;
        sending.send(b"never read").await.unwrap();
        sending.flush().await.unwrap();
        sending.check().unwrap();
        drop(near);
        let gone = async {
            while sending.check().is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    /// As a listener at a terminal does, whose caller has ended.
    #[tokio::test]
    async fn a_message_whose_sending_was_given_up_arrives_whole() {
        let ([(_theirs, mut sending), (mut receiving, _ours)], _nodes) = pair().await;
        // Until the system takes no more.
        let mut begun = 0_usize;
        let line = [vec![b'x'; MAX_MESSAGE], b"\n".to_vec()].concat();
        loop {
            begun += 1;
            if timeout(Duration::from_millis(300), sending.write_all(&line)).await.is_err() {
                break;
            }
        }
        let received = async {
            let mut received = 0;
            while let Some(message) = receiving.next().await? {
                assert!(message.len() == MAX_MESSAGE);
                received += 1;
            }
            Ok::<_, io::Error>(received)
        };
        let (ended, received) = tokio::join!(sending.shutdown(), received);
        assert_eq!((ended.unwrap(), received.unwrap()), ((), begun));
    }
}
