//! An end of a relay stream.
//!
//! Long: every call goes to the one QUIC connection and takes in its events before it returns.

use core::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, ConnectionId, DatagramEvent, Dir, Endpoint,
    Event, ReadError, ReadableError, ServerConfig, Side, StreamId, VarInt, WriteError,
};

use super::clock::{Clock, NoWallClock};
use super::crypto::{Identity, NoTokens, QUIC_VERSION};
use super::messages::{Messages, Violation};
use super::settings::{RelayConfig, endpoint};
use super::{MessageError, ReadOutcome};
use crate::identity::{NodeId, SecretKey};
use crate::noise;
use crate::time::Instant;

/// Longer datagrams are dropped unseen.
const MAX_RECEIVED: usize = 1_500;

/// Most bytes of the datagrams that are made at a time: as many as a driver sends by one call of the system.
const BATCH: usize = 60_000;

/// Address that stands for the peer: quinn-proto wants to know where datagrams go, and all of ours go to the peer.
const THE_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Error code to close with when the peer breaks the protocol.
const VIOLATION: u32 = 1;

/// Event on a relay stream. Each kind is reported once, however often it happened since the last time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: the holder has to do something about each.
pub enum StreamEvent {
    /// The peer is there and is the one that was wanted. Until now nothing can be written.
    Connected,
    /// Bytes or the peer's end may be there to [`read`](RelayStream::read): read until `Empty` or `End`.
    Readable,
    /// Room for [`write`](RelayStream::write) again, after a write that took less than it was given.
    Writable,
    /// Room for [`send_message`](RelayStream::send_message) again, after there was none.
    MessageRoom,
    /// Messages are there: call [`read_message`](RelayStream::read_message) until there are none.
    Message,
    /// All bytes that were written before [`finish`](RelayStream::finish) have arrived at the peer.
    Delivered,
    /// The stream is over in both directions. Bytes that have arrived can be read still; nothing else follows.
    Ended(EndCause),
}

/// Reason that a relay stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EndCause {
    /// The peer closed the stream. Bytes that it had not acknowledged are lost.
    ClosedByPeer,
    /// No packet came for the idle timeout; or, at first, none from the wanted peer.
    TimedOut,
    /// The peer broke the protocol, or says that we did; the QUIC error code (RFC 9000 section 20).
    Protocol(u64),
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndCause::ClosedByPeer => f.write_str("the peer closed the relayed stream"),
            EndCause::TimedOut => f.write_str("nothing is heard from the peer through the relay"),
            EndCause::Protocol(code) => write!(f, "the relayed stream broke: QUIC error {code:#x}"),
        }
    }
}

impl std::error::Error for EndCause {}

/// Counters of a relay stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RelayStats {
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes of the datagrams sent.
    pub sent_bytes: u64,
    /// Datagrams that came and belonged to the stream by their look.
    pub received: u64,
    /// Datagrams that came and did not belong to the stream, or were too long.
    pub dropped: u64,
    /// Packets that were taken for lost, and their contents sent again.
    pub lost: u64,
}

/// An end of an ordered, reliable, congestion-controlled stream over datagrams, and of messages on streams of their
/// own.
///
/// Call [`handle_datagram`](Self::handle_datagram) and [`handle_timeout`](Self::handle_timeout) as things happen; after
/// any call, drain [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event), then arm a timer for
/// [`poll_timeout`](Self::poll_timeout). A deadline in the past means now, and after it the deadline has moved.
///
/// Memory is bounded by the two windows of [`RelayConfig`] and twice [`MAX_MESSAGES`](super::MAX_MESSAGES) messages
/// in each direction, whatever the peer does.
pub struct RelayStream {
    clock: Clock,
    endpoint: Endpoint,
    side: Side,
    link: Link,
    pipe: Pipe,
    messages: Messages,
    news: Untold,
    scratch: Vec<u8>,
    /// Datagrams that were made together, and the length of each but the last.
    made: (Bytes, usize),
    stats: RelayStats,
}

#[cfg(test)]
impl RelayStream {
    /// Returns the bare connection, for a peer that does not keep to our rules.
    pub(super) fn quic(&mut self) -> &mut Connection {
        match &mut self.link {
            Link::Running(_, conn) => conn,
            Link::Awaiting(_) | Link::Over => panic!("no connection"),
        }
    }
}

enum Link {
    /// Callee: nothing authentic came yet.
    Awaiting(Instant),
    /// Connection, also when it is over: there may be something to read.
    Running(ConnectionHandle, Box<Connection>),
    /// No connection, from the start.
    Over,
}

/// The two halves of the pipe. Each is the first unidirectional stream of the end that writes it.
#[derive(Default)]
struct Pipe {
    outgoing: Option<StreamId>,
    /// `finish` was called.
    finished: bool,
    /// The last write took less than it was given.
    blocked: bool,
    /// The peer's end has been read.
    ended: bool,
}

/// Events that `poll_event` has to tell.
#[derive(Default)]
struct Untold {
    connected: bool,
    readable: bool,
    writable: bool,
    message: bool,
    message_room: bool,
    delivered: bool,
    ended: Option<EndCause>,
    /// `Ended` has been told, or we closed it ourselves.
    silent: bool,
}

impl RelayStream {
    /// Returns the end that begins. `session` is the call's, which the two ends know from signalling; `seed` must never
    /// be used twice.
    pub fn connect(
        ours: &SecretKey,
        peer: &NodeId,
        session: &[u8; 16],
        seed: [u8; 32],
        config: &RelayConfig,
        now: Instant,
    ) -> Self {
        let mut stream = RelayStream::new(Side::Client, seed, now, None);
        let identity =
            Identity::new(ours, peer, session, Side::Client, derive(&seed, b"ephemeral"), config.aes);
        let mut client = ClientConfig::new(Arc::new(identity));
        // 8 bytes at least (RFC 9000 section 7.2), and what the first keys are made with.
        let first_id = ConnectionId::new(&derive(&seed, b"first id")[..16]);
        client.version(QUIC_VERSION).transport_config(config.transport());
        client.initial_dst_cid_provider(Arc::new(move || first_id));
        let at = stream.clock.advance(now);
        match stream.endpoint.connect(at, client, THE_PEER, "peer") {
            Ok((handle, conn)) => stream.link = Link::Running(handle, Box::new(conn)),
            Err(_) => stream.lose(EndCause::Protocol(0)),
        }
        stream
    }

    /// Returns the end that answers. Arguments as for [`connect`](Self::connect). A datagram that is not from `peer`
    /// and for `session` is dropped.
    pub fn accept(
        ours: &SecretKey,
        peer: &NodeId,
        session: &[u8; 16],
        seed: [u8; 32],
        config: &RelayConfig,
        now: Instant,
    ) -> Self {
        let identity =
            Identity::new(ours, peer, session, Side::Server, derive(&seed, b"ephemeral"), config.aes);
        let mut server = ServerConfig::new(Arc::new(identity), Arc::new(NoTokens));
        server
            .transport_config(config.transport())
            .migration(false)
            .max_incoming(1)
            .time_source(Arc::new(NoWallClock));
        let mut stream = RelayStream::new(Side::Server, seed, now, Some(Arc::new(server)));
        stream.link = Link::Awaiting(now + config.idle_timeout);
        stream
    }

    /// Waits for the peer until `until`, in place of the configuration's idle timeout.
    pub(crate) fn await_until(&mut self, until: Instant) {
        if let Link::Awaiting(at) = &mut self.link {
            *at = until;
        }
    }

    fn new(side: Side, seed: [u8; 32], now: Instant, server: Option<Arc<ServerConfig>>) -> Self {
        let config = endpoint(derive(&seed, b"reset"), derive(&seed, b"endpoint"));
        RelayStream {
            clock: Clock::starting(now),
            // Whether longer datagrams are searched for is a matter of the transport.
            endpoint: Endpoint::new(config, server, true, None),
            side,
            link: Link::Over,
            pipe: Pipe::default(),
            messages: Messages::default(),
            news: Untold::default(),
            scratch: Vec::new(),
            made: (Bytes::new(), 0),
            stats: RelayStats::default(),
        }
    }

    /// Takes in a datagram that came through the relay from the peer, or so it seems.
    pub fn handle_datagram(&mut self, now: Instant, data: &[u8]) {
        let at = self.clock.advance(now);
        if data.len() > MAX_RECEIVED || matches!(self.link, Link::Over) {
            self.stats.dropped += 1;
            return;
        }
        self.scratch.clear();
        let out = &mut self.scratch;
        match (self.endpoint.handle(at, THE_PEER, None, None, BytesMut::from(data), out), &mut self.link) {
            (Some(DatagramEvent::ConnectionEvent(_, event)), Link::Running(_, conn)) => {
                self.stats.received += 1;
                conn.handle_event(event);
            }
            (Some(DatagramEvent::NewConnection(incoming)), Link::Awaiting(_)) => {
                match self.endpoint.accept(incoming, at, out, None) {
                    Ok((handle, conn)) => {
                        self.stats.received += 1;
                        self.link = Link::Running(handle, Box::new(conn));
                    }
                    // Not sealed by the peer for this session.
                    Err(_) => self.stats.dropped += 1,
                }
            }
            (Some(DatagramEvent::NewConnection(incoming)), _) => {
                self.endpoint.ignore(incoming);
                self.stats.dropped += 1;
            }
            // What the endpoint would answer to strangers is not sent.
            (Some(DatagramEvent::ConnectionEvent(..) | DatagramEvent::Response(_)) | None, _) => {
                self.stats.dropped += 1;
            }
        }
        self.take_events();
    }

    /// Goes on after the deadline that [`poll_timeout`](Self::poll_timeout) gave has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let at = self.clock.advance(now);
        match &mut self.link {
            Link::Awaiting(until) if *until <= self.clock.now() => self.lose(EndCause::TimedOut),
            Link::Running(_, conn) => conn.handle_timeout(at),
            Link::Awaiting(_) | Link::Over => {}
        }
        self.take_events();
    }

    /// Returns the time to call [`handle_timeout`](Self::handle_timeout); `None` once the stream is over.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        match &mut self.link {
            Link::Awaiting(until) => Some(*until),
            Link::Running(_, conn) => conn.poll_timeout().map(|at| self.clock.tell(at)),
            Link::Over => None,
        }
    }

    /// Returns the next datagram to send, of at most [`RelayConfig::max_datagram`] bytes.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        if self.made.0.is_empty() && !self.make(now) {
            self.take_events();
            return None;
        }
        let (made, length) = &mut self.made;
        let datagram = made.split_to(made.len().min(*length));
        self.stats.sent += 1;
        self.stats.sent_bytes += datagram.len() as u64;
        Some(datagram)
    }

    /// Makes the next datagrams, at most [`BATCH`] bytes: one by one each would pay for all that a connection looks at before.
    fn make(&mut self, now: Instant) -> bool {
        let at = self.clock.advance(now);
        let Link::Running(_, conn) = &mut self.link else { return false };
        self.scratch.clear();
        let most = (BATCH / usize::from(conn.current_mtu())).max(1);
        let Some(made) = conn.poll_transmit(at, most, &mut self.scratch) else {
            // quinn-proto makes room for all of them at once, which a stream that waits does not keep.
            self.scratch = Vec::new();
            return false;
        };
        self.made = match made.segment_size {
            Some(length) => (core::mem::take(&mut self.scratch).into(), length),
            // Mostly an acknowledgement, for which the room of many is not given away.
            None => (Bytes::copy_from_slice(&self.scratch), made.size),
        };
        true
    }

    /// Returns the next event; `None` when there is nothing more to tell.
    pub fn poll_event(&mut self) -> Option<StreamEvent> {
        let news = &mut self.news;
        let take = core::mem::take::<bool>;
        if news.silent {
            None
        } else if take(&mut news.connected) {
            Some(StreamEvent::Connected)
        } else if take(&mut news.readable) {
            Some(StreamEvent::Readable)
        } else if take(&mut news.message) {
            Some(StreamEvent::Message)
        } else if take(&mut news.writable) {
            Some(StreamEvent::Writable)
        } else if take(&mut news.message_room) {
            Some(StreamEvent::MessageRoom)
        } else if take(&mut news.delivered) {
            Some(StreamEvent::Delivered)
        } else {
            let cause = news.ended.take()?;
            news.silent = true;
            Some(StreamEvent::Ended(cause))
        }
    }

    /// Appends as many bytes to the pipe as fit into the windows. Returns their number; 0 before `Connected` and after
    /// `finish`.
    pub fn write(&mut self, now: Instant, data: &[u8]) -> usize {
        self.clock.advance(now);
        let (Link::Running(_, conn), Some(id), false) =
            (&mut self.link, self.pipe.outgoing, self.pipe.finished)
        else {
            return 0;
        };
        let mut taken = 0;
        while taken < data.len() {
            match conn.send_stream(id).write(&data[taken..]) {
                Ok(n) => taken += n,
                Err(WriteError::Blocked) => {
                    self.pipe.blocked = true;
                    break;
                }
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => break,
            }
        }
        taken
    }

    /// Takes bytes of the pipe in order.
    pub fn read(&mut self, now: Instant, out: &mut [u8]) -> ReadOutcome {
        let at = self.clock.advance(now);
        if self.pipe.ended {
            return ReadOutcome::End;
        }
        let Link::Running(_, conn) = &mut self.link else { return ReadOutcome::Empty };
        let mut stream = conn.recv_stream(StreamId::new(!self.side, Dir::Uni, 0));
        let mut chunks = match stream.read(true) {
            Ok(chunks) => chunks,
            // Not opened yet, as the end has been seen when it came.
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                return ReadOutcome::Empty;
            }
        };
        let mut filled = 0;
        let mut broken = false;
        while filled < out.len() {
            match chunks.next(out.len() - filled) {
                Ok(Some(chunk)) => {
                    out[filled..filled + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                    filled += chunk.bytes.len();
                }
                Ok(None) => {
                    self.pipe.ended = true;
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(_)) => {
                    broken = true;
                    break;
                }
            }
        }
        // Whether there is something to send now: callers drain `poll_transmit` after any call.
        let _ = chunks.finalize();
        if broken {
            conn.close(at, VarInt::from_u32(VIOLATION), Bytes::new());
            self.lose(EndCause::Protocol(VIOLATION.into()));
        }
        match filled {
            0 if self.pipe.ended => ReadOutcome::End,
            0 => ReadOutcome::Empty,
            n => ReadOutcome::Read(n),
        }
    }

    /// Ends our direction of the pipe; the peer's goes on. `Delivered` says when all bytes have arrived.
    pub fn finish(&mut self, now: Instant) {
        self.clock.advance(now);
        if !core::mem::replace(&mut self.pipe.finished, true) {
            self.send_end();
        }
    }

    /// Sends a message. The peer gets it once, in no order with others or with the pipe's bytes.
    ///
    /// # Errors
    /// As [`MessageError`] says; the message is not sent then.
    pub fn send_message(&mut self, now: Instant, message: Bytes) -> Result<(), MessageError> {
        self.clock.advance(now);
        if self.pipe.outgoing.is_none() || self.news.silent || self.news.ended.is_some() {
            return Err(MessageError::NotConnected);
        }
        let Link::Running(_, conn) = &mut self.link else { return Err(MessageError::NotConnected) };
        self.messages.put(message)?;
        self.messages.send(conn);
        Ok(())
    }

    /// Returns the next message of the peer.
    pub fn read_message(&mut self, now: Instant) -> Option<Bytes> {
        self.clock.advance(now);
        let message = self.messages.take();
        self.receive_messages();
        // Those that were read in just now belong to the event that brought the caller here.
        self.news.message = false;
        message
    }

    /// Returns true if messages that were taken have not arrived at the peer yet.
    pub fn has_messages_under_way(&self) -> bool {
        self.messages.are_under_way()
    }

    /// Ends both directions at once; bytes that the peer has not got yet are lost. Datagrams are left to send: the last
    /// one tells the peer. No event follows.
    pub fn close(&mut self, now: Instant) {
        let at = self.clock.advance(now);
        self.news.silent = true;
        match &mut self.link {
            Link::Running(_, conn) => conn.close(at, VarInt::from_u32(0), Bytes::new()),
            Link::Awaiting(_) | Link::Over => self.link = Link::Over,
        }
        self.take_events();
    }

    /// Returns true if nothing more will ever be sent, so that the stream can be dropped. After `close` and `Ended`
    /// that takes some round trips. A peer that missed the end is told again in that time.
    pub fn is_over(&self) -> bool {
        match &self.link {
            Link::Awaiting(_) => false,
            Link::Running(_, conn) => conn.is_drained(),
            Link::Over => true,
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> RelayStats {
        let mut stats = self.stats;
        if let Link::Running(_, conn) = &self.link {
            stats.lost = conn.stats().path.lost_packets;
        }
        stats
    }

    /// Takes in all that the connection has to say.
    fn take_events(&mut self) {
        let Link::Running(handle, conn) = &mut self.link else { return };
        let handle = *handle;
        while let Some(event) = conn.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                conn.handle_event(event);
            }
        }
        while let Link::Running(_, conn) = &mut self.link
            && let Some(event) = conn.poll()
        {
            self.take(event);
        }
        self.receive_messages();
        if let Link::Running(_, conn) = &mut self.link
            && self.pipe.outgoing.is_some()
            && self.messages.send(conn)
        {
            self.news.message_room = true;
        }
    }

    fn take(&mut self, event: Event) {
        use quinn_proto::StreamEvent as Quic;
        let Link::Running(_, conn) = &mut self.link else { return };
        match event {
            Event::Connected => {
                self.pipe.outgoing = conn.streams().open(Dir::Uni);
                if self.pipe.outgoing.is_none() {
                    // A peer that allows no stream.
                    return self.violated();
                }
                self.news.connected = true;
                if self.pipe.finished {
                    self.send_end();
                }
            }
            Event::ConnectionLost { reason } => self.lose(cause(&reason)),
            Event::Stream(Quic::Opened { .. }) => {
                while let Some(id) = conn.streams().accept(Dir::Uni) {
                    readable(id, &mut self.news, &mut self.messages);
                }
            }
            Event::Stream(Quic::Readable { id }) => readable(id, &mut self.news, &mut self.messages),
            Event::Stream(Quic::Writable { id }) => {
                if Some(id) == self.pipe.outgoing && core::mem::take(&mut self.pipe.blocked) {
                    self.news.writable = true;
                }
            }
            Event::Stream(Quic::Finished { id }) if Some(id) == self.pipe.outgoing => {
                self.news.delivered = true;
            }
            Event::Stream(Quic::Finished { .. }) => self.messages.acknowledged(),
            // Nobody here stops a stream, and `take_events` asks for what became available.
            Event::Stream(Quic::Stopped { .. }) => self.violated(),
            Event::Stream(Quic::Available { .. })
            | Event::HandshakeDataReady
            | Event::DatagramReceived
            | Event::DatagramsUnblocked => {}
        }
    }

    fn receive_messages(&mut self) {
        let Link::Running(_, conn) = &mut self.link else { return };
        match self.messages.receive(conn) {
            Ok(new) => self.news.message |= new,
            Err(Violation) => self.violated(),
        }
    }

    fn send_end(&mut self) {
        if let (Link::Running(_, conn), Some(id)) = (&mut self.link, self.pipe.outgoing) {
            // It fails on a stream that is gone, and then so is everything.
            let _ = conn.send_stream(id).finish();
        }
    }

    fn violated(&mut self) {
        let at = self.clock.advance(self.clock.now());
        if let Link::Running(_, conn) = &mut self.link {
            conn.close(at, VarInt::from_u32(VIOLATION), Bytes::new());
        }
        self.lose(EndCause::Protocol(VIOLATION.into()));
    }

    fn lose(&mut self, cause: EndCause) {
        self.news.ended.get_or_insert(cause);
        if let Link::Awaiting(_) = self.link {
            self.link = Link::Over;
        }
    }
}

impl fmt::Debug for RelayStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.link {
            Link::Awaiting(_) => "awaiting the peer",
            Link::Running(_, conn) if conn.is_handshaking() => "in the handshake",
            Link::Running(_, conn) if !conn.is_closed() => "connected",
            Link::Running(_, conn) if !conn.is_drained() => "closing",
            Link::Running(..) | Link::Over => "over",
        };
        f.debug_struct("RelayStream")
            .field("state", &state)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

fn readable(id: StreamId, news: &mut Untold, messages: &mut Messages) {
    if id.index() == 0 {
        news.readable = true;
    } else {
        messages.readable(id);
    }
}

fn derive(seed: &[u8; 32], what: &[u8]) -> [u8; 32] {
    noise::derive(seed, &[b"relay stream ", what])
}

fn cause(reason: &ConnectionError) -> EndCause {
    match reason {
        ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(0) => {
            EndCause::ClosedByPeer
        }
        ConnectionError::ApplicationClosed(close) => EndCause::Protocol(close.error_code.into_inner()),
        ConnectionError::ConnectionClosed(close) => EndCause::Protocol(close.error_code.into()),
        ConnectionError::TransportError(error) => EndCause::Protocol(error.code.into()),
        ConnectionError::TimedOut => EndCause::TimedOut,
        ConnectionError::Reset
        | ConnectionError::VersionMismatch
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => EndCause::Protocol(0),
    }
}
