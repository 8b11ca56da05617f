//! An end of a session: its carriers, and the sequence of frames that goes over them.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use super::carrier::{self, Carrier, Silence};
use super::datagrams::Datagrams;
use super::frame::{DATA_HEADER, Frame};
use super::log::Log;
use super::streams::Streams;
use super::{
    CarrierId, CarrierKind, Direction, MAX_CARRIERS, MAX_DATA, MAX_DATAGRAM, MAX_REASON, OpenError,
    ReadResult, SessionConfig, SessionEnd, SessionEvent, Side, StreamId, Violation, WriteError,
};
use crate::time::Instant;

/// Longest time that an acknowledgement is held back, to go out with other frames.
const ACK_DELAY: Duration = Duration::from_millis(20);
/// Number of received bytes after which an acknowledgement is due at once.
const ACK_AFTER: usize = 128 << 10;
/// The most bytes that are put together for a carrier: a record of 16 KiB.
const MOST: usize = DATA_HEADER + MAX_DATA;
/// The most bytes kept, with what frames cost beside, that go to a new carrier before the peer has said what it has. They
/// may come twice, and save a round trip.
const EARLY: usize = 64 << 10;
/// Frames of more bytes go to a carrier as they are, and are not copied.
const COPIED: usize = 2048;

/// An end of a session.
///
/// The holder attaches carriers, gives the bytes they receive to [`handle_bytes`](Self::handle_bytes), and says when
/// one [broke](Self::handle_broken). Whenever a carrier can take bytes, the holder writes the bytes of
/// [`poll_output`](Self::poll_output) to it.
///
/// After any call: drain `poll_output` of every writable carrier and [`poll_event`](Self::poll_event), then arm a timer
/// for [`poll_timeout`](Self::poll_timeout). A deadline in the past means now, and after it the deadline has moved.
///
/// Memory is bounded by [`SessionConfig`], whatever the peer does.
#[derive(Debug)]
pub struct Session {
    side: Side,
    config: SessionConfig,
    now: Instant,
    /// One mostly, [`MAX_CARRIERS`] at most.
    pub(super) carriers: SmallVec<[Carrier; 1]>,
    /// The carrier that we send on.
    on: Option<CarrierId>,
    /// A carrier was attached before.
    begun: bool,
    /// The peer has answered on a carrier.
    known: bool,
    /// The last USE that was sent, or came.
    uses: u32,
    doubt: Duration,
    pub(super) log: Log,
    /// Numbered frames that came.
    received: u64,
    /// Bytes of frames that came and were not acknowledged.
    unacked: usize,
    /// Time at which an ACK is due.
    pub(super) ack_at: Option<Instant>,
    pub(super) streams: Streams,
    /// Datagrams that wait for a carrier, and for their reader.
    going: Datagrams,
    come: Datagrams,
    news: VecDeque<SessionEvent>,
    /// The user waits until all has arrived.
    watches: bool,
    /// Time at which the session gives up, as it has no carrier.
    stranded_until: Option<Instant>,
    state: State,
}

#[derive(PartialEq, Eq, Debug)]
enum State {
    Open,
    /// The user closed the session, with this frame; the carriers are told.
    Closed(Bytes),
    Over,
}

impl Session {
    /// Returns a session without a carrier, which has [`SessionConfig::linger`] to get one. Settings outside their
    /// bounds are taken as the bound.
    pub fn new(side: Side, config: SessionConfig, now: Instant) -> Self {
        let config = config.bounded();
        Session {
            side,
            config,
            now,
            carriers: SmallVec::new(),
            on: None,
            begun: false,
            known: false,
            uses: 0,
            doubt: config.doubt,
            log: Log::default(),
            received: 0,
            unacked: 0,
            ack_at: None,
            streams: Streams::new(side, config),
            going: Datagrams::default(),
            come: Datagrams::default(),
            // An idle session has had one event. A queue that grows has room for four.
            news: VecDeque::with_capacity(1),
            watches: false,
            stranded_until: Some(now + config.linger),
            state: State::Open,
        }
    }

    // ---- carriers

    /// Attaches a carrier. On the side of the caller frames go over it from now on if it is the best. Returns false if the session
    /// is over: close the carrier. Of more than [`MAX_CARRIERS`] the one heard longest ago is [`SessionEvent::Silent`].
    pub fn attach(&mut self, now: Instant, id: CarrierId, kind: CarrierKind) -> bool {
        self.advance(now);
        if self.state != State::Open {
            return false;
        }
        let silent = carrier::make_room(&mut self.carriers);
        self.news.extend(silent.map(SessionEvent::Silent));
        let mut carrier = Carrier::new(id, kind, self.now);
        if !core::mem::replace(&mut self.begun, true) {
            // Nothing can have come yet, so the first frames need not wait for HAVE.
            carrier.peer_has = Some(0);
        }
        self.carriers.push(carrier);
        self.choose();
        true
    }

    /// Takes in bytes of a carrier, in order, cut anywhere. Bytes of an unknown carrier are dropped.
    ///
    /// # Errors
    /// [`Violation`] if the peer broke the rules: the session has ended.
    pub fn handle_bytes(&mut self, now: Instant, id: CarrierId, mut bytes: Bytes) -> Result<(), Violation> {
        self.advance(now);
        let Some(at) = self.carriers.iter().position(|c| c.id == id) else { return Ok(()) };
        if self.carriers[at].heard(self.now) {
            self.doubt = (self.doubt * 2).min(self.config.patience / 2);
            self.choose();
        }
        while self.state == State::Open {
            let heard = match self.carriers[at].parser.next(&mut bytes) {
                Ok(Some(frame)) => self.hear(at, frame),
                Ok(None) => break,
                Err(why) => Err(why),
            };
            if let Err(why) = heard {
                self.end(SessionEnd::Violation(why));
                return Err(why);
            }
        }
        self.expect();
        Ok(())
    }

    /// Takes in that a carrier broke, or ended. The session goes on with the others.
    pub fn handle_broken(&mut self, now: Instant, id: CarrierId) {
        self.advance(now);
        self.carriers.retain(|c| c.id != id);
        self.choose();
    }

    /// Goes on after the deadline that [`poll_timeout`](Self::poll_timeout) gave has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if self.state != State::Open {
            return;
        }
        if self.stranded_until.is_some_and(|until| until <= self.now) {
            return self.end(SessionEnd::NoCarrier);
        }
        let mut broken = SmallVec::<[CarrierId; MAX_CARRIERS]>::new();
        for carrier in &mut self.carriers {
            match carrier.silence(self.now, &self.config, self.doubt) {
                Silence::None => {}
                Silence::Ask => carrier.ask(self.now),
                Silence::Doubt => {
                    carrier.doubted = true;
                    carrier.ask(self.now);
                    if self.on == Some(carrier.id) {
                        self.news.push_back(SessionEvent::Doubtful(carrier.id));
                    }
                }
                Silence::Broken => broken.push(carrier.id),
            }
        }
        self.carriers.retain(|c| !broken.contains(&c.id));
        self.news.extend(broken.into_iter().map(SessionEvent::Silent));
        self.choose();
    }

    /// Returns the time to call [`handle_timeout`](Self::handle_timeout). A delayed ACK is a deadline too:
    /// [`poll_output`](Self::poll_output) has it then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.state != State::Open {
            return None;
        }
        let lives = self.carriers.iter().map(|c| c.deadline(&self.config, self.doubt));
        // One that is due already waits for its carrier, not for a time.
        let ack = self.ack_at.filter(|at| *at > self.now);
        lives.chain(ack).chain(self.stranded_until).min()
    }

    /// Returns the next bytes for a carrier that can take bytes: whole frames, 16 KiB at most. The carrier has to send
    /// all of them, or it is broken.
    pub fn poll_output(&mut self, now: Instant, id: CarrierId) -> Option<Bytes> {
        self.advance(now);
        let at = self.carriers.iter().position(|c| c.id == id)?;
        let now = self.now;
        let carrier = &mut self.carriers[at];
        match &self.state {
            State::Open => {}
            State::Closed(close) => {
                return (!core::mem::replace(&mut carrier.close_sent, true)).then(|| close.clone());
            }
            State::Over => return None,
        }
        let mut out = Vec::new();
        if !core::mem::replace(&mut carrier.have_sent, true) {
            Frame::Have(self.received).put(&mut out);
        }
        if let Some(count) = carrier.use_due.take() {
            Frame::Use(count).put(&mut out);
        }
        if let Some(number) = carrier.pong.take() {
            Frame::Pong(number).put(&mut out);
        }
        if let Some(number) = carrier.asks(now) {
            Frame::Ping(number).put(&mut out);
        }
        if self.on == Some(id) {
            while out.len() + 3 + MAX_DATAGRAM <= MOST
                && let Some(data) = self.going.pop()
            {
                Frame::Datagram(data).put(&mut out);
            }
            if let Some(whole) = self.put_numbered(at, &mut out) {
                return Some(whole);
            }
            let due = self.ack_at.is_some_and(|at| at <= self.now);
            if due || (self.ack_at.is_some() && !out.is_empty()) {
                Frame::Ack(self.received).put(&mut out);
                (self.ack_at, self.unacked) = (None, 0);
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// Puts numbered frames together, or returns one that goes as it is.
    fn put_numbered(&mut self, at: usize, out: &mut Vec<u8>) -> Option<Bytes> {
        loop {
            let acked = self.log.acked();
            let unknown = || (self.log.size() <= EARLY).then_some(acked);
            let peer_has = self.carriers[at].peer_has.or_else(unknown)?;
            // What an older carrier brought may be acknowledged before it was sent here.
            let going = self.carriers[at].next.filter(|next| *next >= acked);
            let next = going.unwrap_or(acked.max(peer_has));
            if next == self.log.end() {
                let frame = self.next_frame()?;
                self.log.push(frame);
            }
            let carrier = &mut self.carriers[at];
            if going.is_none() {
                Frame::From(next).put(out);
                carrier.next = Some(next);
            }
            let frame = self.log.get(next)?;
            let whole = out.is_empty() && frame.len() > COPIED;
            if !whole && (out.len() + frame.len() > MOST || frame.len() > COPIED) {
                return None;
            }
            carrier.next = Some(next + 1);
            carrier.wants_answer(self.now);
            if whole {
                return Some(frame.clone());
            }
            out.extend_from_slice(frame);
        }
    }

    /// Makes the next numbered frame.
    fn next_frame(&mut self) -> Option<Bytes> {
        // Words are short. Without a bound a peer that acknowledges nothing and opens and ends streams would have any
        // number of them kept.
        if self.log.size() >= 2 * self.config.kept {
            return None;
        }
        if let Some(word) = self.streams.next_word() {
            return Some(word);
        }
        if self.log.size() >= self.config.kept { None } else { self.streams.next_data(&mut self.news) }
    }

    /// Chooses the carrier to send on: the best at the end that called, the other end follows.
    fn choose(&mut self) {
        if self.state != State::Open {
            return;
        }
        let best = || self.carriers.iter().max_by_key(|c| c.rank()).map(|c| c.id);
        let chosen = match self.side {
            Side::Caller => best(),
            Side::Listener => self.on.filter(|on| self.carriers.iter().any(|c| c.id == *on)).or_else(best),
        };
        if chosen != self.on {
            if self.side == Side::Caller {
                self.uses = self.uses.wrapping_add(1);
            }
            self.send_on(chosen);
        }
        match chosen {
            Some(_) => self.stranded_until = None,
            None if self.stranded_until.is_none() => {
                self.stranded_until = Some(self.now + self.config.linger);
                self.news.push_back(SessionEvent::Stranded);
            }
            None => {}
        }
    }

    fn send_on(&mut self, chosen: Option<CarrierId>) {
        self.on = chosen;
        let Some(carrier) = self.carriers.iter_mut().find(|c| Some(c.id) == chosen) else { return };
        carrier.next = None;
        // The last acknowledgement may be lost with the carrier that it went on.
        self.ack_at = (self.received > 0).then_some(self.now);
        carrier.use_due = (self.side == Side::Caller).then_some(self.uses);
        self.news.push_back(SessionEvent::Moved(carrier.id));
        self.expect();
    }

    /// Does something with the streams for a user.
    fn act<T>(&mut self, now: Instant, work: impl FnOnce(&mut Streams) -> T) -> T {
        self.advance(now);
        let done = work(&mut self.streams);
        self.expect();
        done
    }

    /// Expects an answer to what is kept or waits: a path that died with full buffers takes nothing.
    fn expect(&mut self) {
        let waits = self.streams.wants_to_send() || !self.log.is_empty();
        if let Some(carrier) = self.carriers.iter_mut().find(|c| waits && Some(c.id) == self.on) {
            carrier.wants_answer(self.now);
        }
    }

    // ---- frames that come

    fn hear(&mut self, at: usize, frame: Frame) -> Result<(), Violation> {
        let carrier = &mut self.carriers[at];
        if !frame.is_numbered() {
            return self.hear_carrier(at, frame);
        }
        let number = carrier.coming.ok_or(Violation::Order)?;
        carrier.coming = Some(number + 1);
        self.unacked += match &frame {
            Frame::Data(_, body) => body.iter().map(Bytes::len).sum(),
            _ => 16,
        };
        let due = self.now + if self.unacked >= ACK_AFTER { Duration::ZERO } else { ACK_DELAY };
        self.ack_at = Some(self.ack_at.map_or(due, |at| at.min(due)));
        if number < self.received {
            // It came over another carrier before.
            return Ok(());
        }
        self.received += 1;
        self.streams.hear(frame, &mut self.news)
    }

    fn hear_carrier(&mut self, at: usize, frame: Frame) -> Result<(), Violation> {
        let carrier = &mut self.carriers[at];
        if !carrier.have_heard && !matches!(frame, Frame::Have(_) | Frame::Gone | Frame::Close(..)) {
            return Err(Violation::Order);
        }
        match frame {
            Frame::Have(_) if carrier.have_heard => return Err(Violation::Order),
            Frame::Have(received) => {
                (carrier.have_heard, self.known) = (true, true);
                carrier.peer_has = Some(received);
                self.acked(received)?;
            }
            Frame::From(number) if number > self.received => return Err(Violation::Gap),
            Frame::From(number) => carrier.coming = Some(number),
            Frame::Ack(received) => self.acked(received)?,
            Frame::Ping(number) => carrier.pong = Some(number),
            Frame::Pong(number) => {
                carrier.answered(self.now, number);
                self.choose();
            }
            Frame::Use(count) => {
                // The caller's last word counts, on whichever carrier it came.
                let id = carrier.id;
                if self.side == Side::Listener && count.wrapping_sub(self.uses) as i32 > 0 {
                    self.uses = count;
                    if self.on != Some(id) {
                        self.send_on(Some(id));
                    }
                }
            }
            Frame::Datagram(data) => {
                if self.come.is_empty() {
                    self.news.push_back(SessionEvent::Datagram);
                }
                // A reference would keep the whole buffer that it came in.
                self.come.push(Bytes::copy_from_slice(&data), self.config.datagrams);
            }
            Frame::Close(code, reason) => {
                self.end(SessionEnd::ClosedByPeer(code, Bytes::copy_from_slice(&reason)));
            }
            _ => self.end(SessionEnd::Unknown),
        }
        Ok(())
    }

    fn acked(&mut self, received: u64) -> Result<(), Violation> {
        if self.log.ack(received)? && self.watches && self.all_arrived() {
            self.watches = false;
            self.news.push_back(SessionEvent::Delivered);
        }
        Ok(())
    }

    // ---- streams

    /// Opens a stream, with a protocol tag of at most [`MAX_TAG`](super::MAX_TAG) bytes. No answer is waited for.
    ///
    /// # Errors
    /// [`OpenError`], and nothing was opened.
    pub fn open(&mut self, now: Instant, direction: Direction, tag: &[u8]) -> Result<StreamId, OpenError> {
        self.act(now, |streams| streams.open(direction, tag))
    }

    /// Takes the oldest stream that the peer opened and that was not taken, with its protocol tag.
    pub fn accept(&mut self, direction: Direction) -> Option<(StreamId, Bytes)> {
        self.streams.accept(direction)
    }

    /// Takes as many bytes as there is room for in the stream's queue, and in [`SessionConfig::queues`], and returns their
    /// number.
    ///
    /// # Errors
    /// [`WriteError`] if no bytes are taken any more.
    pub fn write(&mut self, now: Instant, id: StreamId, data: &[u8]) -> Result<usize, WriteError> {
        self.act(now, |streams| streams.write(id, data))
    }

    /// Ends our direction of a stream, after the bytes that were written. Does nothing to one that has ended.
    pub fn finish(&mut self, now: Instant, id: StreamId) {
        self.act(now, |streams| streams.finish(id));
    }

    /// Gives our direction of a stream up: bytes that wait are dropped, and the peer is told this code. Does nothing to
    /// one that has ended.
    pub fn reset(&mut self, now: Instant, id: StreamId, code: u32) {
        self.act(now, |streams| streams.reset(id, code));
    }

    /// Gives the peer's direction of a stream up: bytes that wait are dropped, and the peer is told this code. Does
    /// nothing to one that has ended.
    pub fn stop(&mut self, now: Instant, id: StreamId, code: u32) {
        self.act(now, |streams| streams.stop(id, code));
    }

    /// Copies bytes of the peer out.
    pub fn read(&mut self, now: Instant, id: StreamId, out: &mut [u8]) -> ReadResult<usize> {
        self.act(now, |streams| streams.read(id, |receiving| receiving.read(out)))
    }

    /// Takes bytes of the peer out as they came, without a copy: at most `most`.
    pub fn read_chunk(&mut self, now: Instant, id: StreamId, most: usize) -> ReadResult<Bytes> {
        self.act(now, |streams| streams.read(id, |receiving| receiving.chunk(most)))
    }

    /// Sets a stream's priority: of the streams that can send, those with the greatest send first. Default 0.
    pub fn set_priority(&mut self, id: StreamId, priority: i32) {
        self.streams.set_priority(id, priority);
    }

    /// Returns the bytes that the session holds for the peer and for its user: those that wait for their reader, those
    /// that wait to be sent beyond the first [`MAX_DATA`] of each stream, frames that are kept, and datagrams.
    pub fn held(&self) -> usize {
        self.streams.held() + self.log.size() + self.going.size() + self.come.size()
    }

    // ---- datagrams, events, end

    /// Sends a datagram, when the carrier can take it. The oldest that wait are dropped for it if there are too many.
    /// Returns false if it has more than [`MAX_DATAGRAM`] bytes, or the session is over.
    pub fn send_datagram(&mut self, now: Instant, data: Bytes) -> bool {
        self.advance(now);
        if data.len() > MAX_DATAGRAM || self.state != State::Open {
            return false;
        }
        self.going.push(data, self.config.datagrams);
        true
    }

    /// Takes the oldest datagram that has come.
    pub fn read_datagram(&mut self) -> Option<Bytes> {
        self.come.pop()
    }

    /// Returns the next event; `None` when there is nothing more to tell.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.news.pop_front()
    }

    /// Returns true if all that was written has arrived at the peer. If not, [`SessionEvent::Delivered`] follows.
    pub fn is_delivered(&mut self) -> bool {
        self.watches = !self.all_arrived();
        !self.watches
    }

    fn all_arrived(&self) -> bool {
        self.log.is_empty() && self.streams.are_sent()
    }

    /// Closes the session at once: bytes that have not arrived are lost. The peer is told the code, and as much of the
    /// reason as [`MAX_REASON`] bytes hold. The carriers send what [`poll_output`](Self::poll_output) has, then close
    /// them.
    pub fn close(&mut self, now: Instant, code: u32, reason: &[u8]) {
        self.leave(now, SessionEnd::Closed, code, reason);
    }

    /// Closes the session as [`Overfull`](SessionEnd::Overfull), because of what it [holds](Self::held). The peer is told code
    /// 0 and why.
    pub fn shed(&mut self, now: Instant) {
        self.leave(now, SessionEnd::Overfull, 0, b"too many bytes are held");
    }

    fn leave(&mut self, now: Instant, why: SessionEnd, code: u32, reason: &[u8]) {
        self.advance(now);
        if self.state != State::Open {
            return;
        }
        let reason = Bytes::copy_from_slice(&reason[..reason.len().min(MAX_REASON)]);
        let mut frame = Vec::new();
        Frame::Close(code, reason).put(&mut frame);
        self.end(why);
        self.state = State::Closed(frame.into());
    }

    fn end(&mut self, why: SessionEnd) {
        if self.state == State::Open {
            self.state = State::Over;
            self.stranded_until = None;
            self.streams.end();
            (self.log, self.going) = (Log::default(), Datagrams::default());
            self.news.push_back(SessionEvent::Ended(why));
        }
    }

    /// Returns true if streams or datagrams wait for a carrier.
    pub fn wants_to_send(&self) -> bool {
        self.streams.wants_to_send() || !self.going.is_empty()
    }

    /// Returns true once the session is over.
    pub fn is_over(&self) -> bool {
        self.state != State::Open
    }

    /// Returns the side of this end.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Returns the carrier that frames go over, with its kind.
    pub fn carrier(&self) -> Option<(CarrierId, CarrierKind)> {
        let carrier = self.carriers.iter().find(|c| Some(c.id) == self.on)?;
        Some((carrier.id, carrier.kind))
    }

    /// Returns true if the session goes on, and no carrier is left or the one that frames go over is doubted: another one
    /// should be attached.
    pub fn needs_carrier(&self) -> bool {
        let on = self.carriers.iter().find(|c| Some(c.id) == self.on);
        self.state == State::Open && on.is_none_or(|c| c.doubted)
    }

    /// Returns the round trip of the carrier that frames go over, as last measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.carriers.iter().find(|c| Some(c.id) == self.on)?.rtt()
    }

    /// Returns true if the peer has said anything on any carrier, so that it knows the session.
    pub fn is_known(&self) -> bool {
        self.known
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }
}
