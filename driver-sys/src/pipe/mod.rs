//! Layer that makes a stream a pipe: records around the user's bytes, and the echo service.

mod ahead;
mod buffer;
mod datagrams;
mod duct;
mod held;
mod messages;
mod relayed;
mod wakers;

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use p2pd_core::pipe::{
    MAX_PLAIN, MAX_RECORD, Opened, Opener, PipeKeys, PipeStart, RecordError, Sealer, echo_reply,
};
use p2pd_core::{NodeId, PipeMode, ProtocolTag, Strategy};

use ahead::Ahead;
pub use ahead::ReadAhead;
use buffer::{Incoming, Outgoing};
pub use datagrams::DatagramLayer;
pub(crate) use datagrams::{put_address, take_address};
pub use duct::Duct;
pub(crate) use duct::{EngineEnd, duct};
pub(crate) use held::{Grip, Held, Released};
pub use messages::MessageLayer;
pub(crate) use messages::{frame_length, put_frame};
pub(crate) use relayed::Link;
pub use relayed::Relayed;
pub use wakers::{Half, Wakers};

/// A record with its length.
const RECORD: usize = 2 + MAX_RECORD;
/// Records that go to the system by one call: more gained nothing, where measured.
const RECORDS_A_CALL: usize = 2;
/// Most bytes of echo replies that may wait, with the user's own, before no more is read.
const MAX_ECHO: usize = 64 * 1024;

/// State that an engine hands out with the stream.
#[derive(Debug)]
pub struct Start {
    pipe: PipeStart,
    relayed: Option<Relayed>,
    held: Option<Held>,
}

impl Start {
    pub(crate) fn stream(pipe: PipeStart, held: Held) -> Self {
        Start { pipe, relayed: None, held: Some(held) }
    }

    pub(crate) fn relayed(pipe: PipeStart, relayed: Relayed) -> Self {
        Start { pipe, relayed: Some(relayed), held: None }
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn strategy(&self) -> Strategy {
        self.pipe.strategy
    }

    /// Returns true for a carrier of a session, which is no pipe of its user.
    pub fn is_carrier(&self) -> bool {
        self.pipe.mode == PipeMode::Session
    }

    /// Takes the way to the engine that has a relayed pipe's bytes in place of its socket, once; `None` where the socket has
    /// them.
    pub fn take_duct(&mut self) -> Option<Duct> {
        self.relayed.as_mut()?.take_duct()
    }

    pub(crate) fn pipe(&self) -> &PipeStart {
        &self.pipe
    }
}

/// Properties of a pipe.
#[derive(Clone, Copy, Debug)]
pub struct PipeInfo {
    peer: NodeId,
    named: bool,
    strategy: Strategy,
    mode: PipeMode,
    local: SocketAddr,
    remote: SocketAddr,
    elapsed: Duration,
    protocol: Option<ProtocolTag>,
}

impl PipeInfo {
    /// Takes the properties out of an engine's [`Start`].
    pub fn new(start: &Start) -> Self {
        let PipeStart { peer, named, strategy, local, remote, elapsed, protocol, .. } = start.pipe;
        PipeInfo { peer, named, strategy, mode: start.pipe.mode, local, remote, elapsed, protocol }
    }

    /// The peer's proven id.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Returns true if the user named the peer when the pipe opened: by the accept list, by a yes, or by a call. Others are
    /// strangers.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// The strategy that opened it.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Returns the protocol that the caller named, which the listener takes.
    pub fn protocol(&self) -> Option<ProtocolTag> {
        self.protocol
    }

    /// Encrypted or plain.
    pub fn mode(&self) -> PipeMode {
        self.mode
    }

    /// Returns the local end of the TCP stream. For a relayed pipe that is the relayed address if the allocation is
    /// this node's, the address of its socket otherwise.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer's end, as seen from here.
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote
    }

    /// Returns the time that opening took: from the call of connect, or from the peer's first sign.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

/// Layer between a user and a stream: nothing on a plain pipe, records on an encrypted one.
///
/// Each call is given the stream. The stream may block, or give `WouldBlock`, which the call then gives too: repeat the
/// call with the same bytes once the stream is ready. At most two records, 32 KiB, wait to be sent. They leave with the
/// next call, reading included. So a user who wants to be woken asks for readiness to write while
/// [`waits`](Self::waits).
#[derive(Debug)]
pub struct Layer {
    secure: Option<Box<Secure>>,
    /// Link of a relayed pipe, whose stream leads to the engine.
    relayed: Option<Relayed>,
    /// True if messages are answered by the echo service.
    echo: bool,
    /// Sealed bytes, or echo replies on a plain pipe, that wait to be sent.
    out: Outgoing,
    /// Error of sending replies while reading. The system tells it once, and a read of the stream gives zero then.
    unsent: Option<io::Error>,
    write_ended: bool,
    /// Bytes that were read for nobody.
    ahead: Ahead,
    /// Mark of a pipe on a stream: tells the engine that the pipe is gone, and the user why the pipe ended.
    held: Option<Held>,
}

#[derive(Debug)]
struct Secure {
    sealer: Sealer,
    opener: Opener,
    /// Bytes as received, behind those that are opened and not yet read.
    received: Incoming,
    /// Bytes at the front that are opened, and bytes behind these that are of no more use.
    opened: usize,
    spent: usize,
    read_ended: bool,
}

impl Layer {
    /// The layer of this pipe; with `echo`, messages are answered by the echo service of the P2PD documents.
    pub fn new(start: Start, echo: bool) -> Self {
        let secure = match start.pipe.keys {
            PipeKeys::Plain | PipeKeys::Relayed(_) => None,
            PipeKeys::Encrypted(sealer, opener) => Some(Box::new(Secure {
                sealer,
                opener,
                received: Incoming::new(RECORDS_A_CALL * RECORD),
                opened: 0,
                spent: 0,
                read_ended: false,
            })),
        };
        let (relayed, out) = (start.relayed, Outgoing::default());
        let (held, ahead, unsent, write_ended) = (start.held, Ahead::default(), None, false);
        Layer { secure, relayed, echo, out, unsent, write_ended, ahead, held }
    }

    /// Returns true if the stream may be used as it is: a plain pipe, no echo service, and nothing waits.
    pub fn is_bare(&self) -> bool {
        self.secure.is_none() && self.relayed.is_none() && !self.echo && self.out.is_empty()
    }

    /// Returns true if the stream may be given away: a plain pipe, and nothing waits.
    pub fn may_leave(&self) -> bool {
        self.secure.is_none() && self.relayed.is_none() && self.out.is_empty() && self.ahead.is_empty()
    }

    /// The same, as a result.
    ///
    /// # Errors
    /// `Unsupported`, with the reason.
    pub fn check_bare(&self) -> io::Result<()> {
        let why = match (&self.secure, self.out.is_empty()) {
            (None, _) if !self.ahead.is_empty() => "the echo service has read ahead",
            _ if self.relayed.is_some() => {
                "a relayed pipe runs through its node and has no socket of its own"
            }
            (None, true) => return Ok(()),
            (Some(_), _) => "an encrypted pipe is more than its socket",
            (None, false) => "an echo reply waits to be sent",
        };
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    /// Returns the socket for messages beside a relayed pipe, which does not block, and the layer that makes messages
    /// of its bytes.
    ///
    /// # Errors
    /// `Unsupported` for a pipe that was not relayed when it opened, `AlreadyExists` if they were taken before.
    pub fn messages(&mut self) -> io::Result<(TcpStream, MessageLayer)> {
        let Some(relayed) = &mut self.relayed else {
            let why = "messages go beside relayed pipes only";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        };
        relayed.messages().ok_or_else(|| {
            io::Error::new(io::ErrorKind::AlreadyExists, "this pipe's messages were taken before")
        })
    }

    /// Returns true if something waits to be sent.
    pub fn waits(&self) -> bool {
        !self.out.is_empty()
    }

    /// Reads; zero is the peer's end. Data that waits to be sent leaves meanwhile. An error of that is kept for the
    /// writer: received bytes are still good.
    ///
    /// # Errors
    /// The stream's; `UnexpectedEof` for an encrypted one that was cut off, `InvalidData` for one that was changed.
    /// [`PipeEnd`](p2pd_core::PipeEnd) inside where it says more than the system.
    pub fn read(&mut self, io: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        match self.ahead.read(buf) {
            Some(before) => before,
            None => self.read_now(io, buf),
        }
    }

    /// Reads what comes next, a record's bytes at most, into a place of exactly their size; none is the peer's end. What
    /// waits to be sent leaves meanwhile, as by [`read`](Self::read). Not for a pipe with the echo service.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_chunk(&mut self, io: &mut (impl Read + Write)) -> io::Result<Bytes> {
        let mut chunk = Bytes::new();
        let read = if self.secure.is_some() {
            self.read_records(io, |bytes| {
                chunk = Bytes::copy_from_slice(bytes);
                bytes.len()
            })
        } else {
            let mut buffer = [0; MAX_PLAIN];
            self.read_plain(io, &mut buffer).inspect(|n| chunk = Bytes::copy_from_slice(&buffer[..*n]))
        };
        self.judge(read).map(|_| chunk)
    }

    fn read_now(&mut self, io: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let read = match self.secure {
            None => self.read_plain(io, buf),
            Some(_) => self.read_records(io, |bytes| {
                let n = bytes.len().min(buf.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                n
            }),
        };
        self.judge(read)
    }

    /// Translates the result of a read that had room.
    fn judge(&self, read: io::Result<usize>) -> io::Result<usize> {
        match read {
            Ok(0) => self.end_of_reading(),
            other => self.explain(other),
        }
    }

    /// Translates the result of a read of the bare stream, for a pipe that [`is_bare`](Self::is_bare). `room` is the
    /// size of the read's buffer.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_bare(&self, read: io::Result<usize>, room: usize) -> io::Result<usize> {
        match read {
            Ok(0) if room > 0 => self.end_of_reading(),
            read => self.explain(read),
        }
    }

    /// Translates the error of a call on the stream, by the reason of the pipe's end.
    ///
    /// # Errors
    /// The given one, or a [`PipeEnd`](p2pd_core::PipeEnd) in its place.
    pub fn explain<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|why| match (&self.relayed, &self.held) {
            (Some(relayed), _) => relayed.explain(why),
            (None, Some(held)) => held.explain(why),
            (None, None) => why,
        })
    }

    /// Takes bytes to be sent, at most two records' on an encrypted pipe.
    ///
    /// # Errors
    /// The stream's; `BrokenPipe` after [`end`](Self::end).
    pub fn write(&mut self, io: &mut impl Write, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(io, &[IoSlice::new(data)])
    }

    /// Takes bytes of these slices, from the first on, as [`write`](Self::write) does: on an encrypted pipe of two at
    /// most, since a record has bytes of one.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_vectored(&mut self, io: &mut impl Write, data: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.write_some(io, data);
        self.explain(written)
    }

    /// Sends the waiting bytes.
    ///
    /// # Errors
    /// The stream's.
    pub fn flush(&mut self, io: &mut impl Write) -> io::Result<()> {
        let sent = self.out.send(io);
        self.explain(sent)
    }

    /// Ends the sending, and sends the waiting bytes. Then the stream's own direction may be shut.
    ///
    /// # Errors
    /// The stream's.
    pub fn end(&mut self, io: &mut impl Write) -> io::Result<()> {
        if !self.write_ended {
            if let Some(secure) = &mut self.secure {
                secure.sealer.end(self.out.end()).map_err(broken)?;
            }
            self.write_ended = true;
        }
        self.flush(io)?;
        if let Some(relayed) = &self.relayed {
            relayed.end();
        }
        Ok(())
    }

    /// Returns the outcome of a read of zero bytes: the peer's end, or an error.
    fn end_of_reading(&self) -> io::Result<usize> {
        let ended = self.secure.as_ref().is_some_and(|s| s.read_ended);
        match self.held.as_ref().and_then(Held::over) {
            Some(over) if !ended => Err(held::over_as_error(over)),
            _ => Ok(0),
        }
    }

    /// Reads a stream without records.
    fn read_plain(&mut self, io: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        self.send_while_reading(io)?;
        let n = match (&self.relayed, io.read(buf)) {
            (Some(relayed), Ok(0)) => return relayed.end_of_reading(),
            (None, Ok(0)) => return self.unsent.as_ref().map_or(Ok(0), |why| Err(again(why))),
            (_, read) => read?,
        };
        if let Some(payload) = echo_reply(&buf[..n]).filter(|_| self.echo && !self.write_ended) {
            self.out.end().extend_from_slice(payload);
            let _ = self.send_while_reading(io);
        }
        Ok(n)
    }

    /// Reads a stream of records, and gives the bytes of one to `take`, which returns how many it took: at least one.
    fn read_records(
        &mut self,
        io: &mut (impl Read + Write),
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> io::Result<usize> {
        self.send_while_reading(io)?;
        let echo = self.echo && !self.write_ended;
        let Some(secure) = &mut self.secure else { return Ok(0) };
        let out = &mut self.out;
        let mut answer = |sealer: &mut Sealer, message: &[u8]| {
            if let Some(payload) = echo_reply(message).filter(|_| echo) {
                // A reply is shorter than its message, so it is one record; keys that are used up show at the
                // user's own next write.
                let _ = sealer.seal(payload, out.end());
            }
        };
        let n = loop {
            match secure.open(&mut take, &mut answer)? {
                Next::Read(n) => break n,
                Next::Need(need) => match secure.received.fill(io, need) {
                    Ok(0) => {
                        secure.opener.stream_ended(secure.received.front().len()).map_err(broken)?;
                        secure.read_ended = true;
                        break 0;
                    }
                    Ok(_) => {}
                    Err(e) => {
                        // A pipe that waits holds no buffers: there may be ten thousand of them.
                        secure.received.release();
                        self.out.release();
                        return Err(e);
                    }
                },
            }
        };
        if echo {
            let _ = self.send_while_reading(io);
        }
        Ok(n)
    }

    fn write_some(&mut self, io: &mut impl Write, data: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(secure) = &mut self.secure else {
            // An echo reply that has begun must not be cut in two by the user's bytes.
            self.out.send(io)?;
            return io.write(data.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice));
        };
        // What waits leaves first: echo replies, and what the system did not take before.
        self.out.send(io)?;
        let mut taken = 0;
        let records = data.iter().flat_map(|slice| slice.chunks(MAX_PLAIN));
        for record in records.take(RECORDS_A_CALL) {
            taken += secure.sealer.seal(record, self.out.end()).map_err(broken)?;
        }
        // What the system does not take now goes with what is done next, reading included.
        match self.out.send(io) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(taken),
        }
    }

    /// `WouldBlock`: so many echo replies wait that no more may be read.
    fn send_while_reading(&mut self, io: &mut impl Write) -> io::Result<()> {
        match self.out.send(io) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let room = !self.echo || self.out.len() + RECORD <= MAX_ECHO;
                if room { Ok(()) } else { Err(e) }
            }
            Err(e) => {
                // Nobody hears replies any more. After the peer's end that is no loss of what it sent.
                self.echo = false;
                if e.kind() != io::ErrorKind::BrokenPipe {
                    self.unsent.get_or_insert(e);
                }
                Ok(())
            }
        }
    }
}

/// Possible next step with the received bytes.
enum Next {
    /// Number of bytes for the reader; 0 at the end.
    Read(usize),
    /// Number of bytes that must be there in all.
    Need(usize),
}

impl Secure {
    /// Opens the record at the front, shows it to `answer`, and gives it to `take`, which returns how much it took.
    fn open(
        &mut self,
        take: &mut impl FnMut(&[u8]) -> usize,
        answer: &mut impl FnMut(&mut Sealer, &[u8]),
    ) -> io::Result<Next> {
        while self.opened == 0 {
            if self.read_ended {
                return Ok(Next::Read(0));
            }
            match self.opener.open(self.received.front()).map_err(broken)? {
                Opened::Data { consumed, plain } => {
                    answer(&mut self.sealer, &self.received.front()[plain.clone()]);
                    self.received.consume(plain.start);
                    (self.opened, self.spent) = (plain.len(), consumed - plain.end);
                }
                Opened::End { consumed } => {
                    self.received.consume(consumed);
                    self.read_ended = true;
                }
                Opened::Need(need) => return Ok(Next::Need(need)),
            }
        }
        let n = take(&self.received.front()[..self.opened]);
        self.opened -= n;
        self.received.consume(if self.opened == 0 { n + self.spent } else { n });
        Ok(Next::Read(n))
    }
}

fn broken(why: RecordError) -> io::Error {
    let kind = match why {
        RecordError::Truncated => io::ErrorKind::UnexpectedEof,
        RecordError::AfterEnd => io::ErrorKind::BrokenPipe,
        RecordError::Length(_) | RecordError::NotAuthentic => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, why)
}

/// The same error once more.
fn again(why: &io::Error) -> io::Error {
    match why.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(why.kind(), why.to_string()),
    }
}
