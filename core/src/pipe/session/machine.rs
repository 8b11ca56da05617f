//! An end of a session. Long: sending, receiving and the carriers share one sequence of numbers, and streams share all
//! three; what can be told apart is in the files beside.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use smallvec::SmallVec;

use super::carrier::{Carrier, Silence};
use super::frame::{Body, DATA_HEADER, Frame};
use super::log::{Log, OVERHEAD};
use super::stream::{ALWAYS, End, Receiving, Sending, Stream};
use super::{
    CarrierId, CarrierKind, Direction, FIRST_CREDIT, FIRST_STREAMS, MAX_CARRIERS, MAX_DATA, MAX_DATAGRAM,
    MAX_REASON, MAX_TAG, OpenError, ReadResult, SessionConfig, SessionEnd, SessionEvent, Side, StreamId,
    Violation, WriteError,
};
use crate::time::Instant;

/// Longest time that an acknowledgement is held back, to go out with other frames.
const ACK_DELAY: Duration = Duration::from_millis(20);
/// Number of received bytes after which an acknowledgement is due at once.
const ACK_AFTER: usize = 128 << 10;
/// The most bytes that are put together for a carrier: a record of 16 KiB.
const MOST: usize = DATA_HEADER + MAX_DATA;
/// Frames of more bytes go to a carrier as they are, and are not copied.
const COPIED: usize = 2048;
/// The most streams that one end opens in a session, as far as their numbers go.
const ALL_STREAMS: u32 = 1 << 30;

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
    pub(super) carriers: SmallVec<[Carrier; MAX_CARRIERS]>,
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
    /// Words that go before bytes of streams.
    pub(super) words: VecDeque<Word>,
    /// Streams that can send, by their priority.
    ready: BTreeMap<i32, VecDeque<StreamId>>,
    /// Numbered frames that came.
    received: u64,
    /// Bytes of frames that came and were not acknowledged.
    unacked: usize,
    /// Time at which an ACK is due.
    pub(super) ack_at: Option<Instant>,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    ours: Ours,
    theirs: Theirs,
    /// Bytes beyond the first credit that streams were given.
    pub(super) lent: u64,
    /// Bytes that wait to be sent beyond what each stream may always have waiting.
    pub(super) queued: usize,
    datagrams: Datagrams,
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

/// Word on a stream, which waits for a carrier.
#[derive(Debug)]
pub(super) enum Word {
    Open(StreamId, Bytes),
    Reset(StreamId, u32),
    Stop(StreamId, u32),
    Credit(StreamId),
    Streams,
}

/// Streams that we open.
#[derive(Debug)]
struct Ours {
    opened: u32,
    limit: u32,
    /// The user was refused one.
    wanted: bool,
}

/// Streams that the peer opens.
#[derive(Debug, Default)]
struct Theirs {
    opened: u32,
    ended: u32,
    /// The limit that the peer was told.
    told: u32,
    /// STREAMS waits to be sent.
    due: bool,
    /// Streams that the user has not accepted, of both directions and of one.
    waiting: [VecDeque<StreamId>; 2],
}

#[derive(Debug, Default)]
struct Datagrams {
    out: VecDeque<Bytes>,
    inn: VecDeque<Bytes>,
    out_size: usize,
    inn_size: usize,
}

impl Session {
    /// Returns a session without a carrier, which has [`SessionConfig::linger`] to get one. Settings outside their
    /// bounds are taken as the bound.
    pub fn new(side: Side, config: SessionConfig, now: Instant) -> Self {
        let config = config.bounded();
        let mut session = Session {
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
            words: VecDeque::new(),
            ready: BTreeMap::new(),
            received: 0,
            unacked: 0,
            ack_at: None,
            streams: BTreeMap::new(),
            ours: Ours { opened: 0, limit: FIRST_STREAMS, wanted: false },
            theirs: Theirs { told: FIRST_STREAMS, ..Theirs::default() },
            lent: 0,
            queued: 0,
            datagrams: Datagrams::default(),
            news: VecDeque::new(),
            watches: false,
            stranded_until: Some(now + config.linger),
            state: State::Open,
        };
        session.allow_streams();
        session
    }

    // ---- carriers

    /// Attaches a carrier. On the side of the caller frames go over it from now on if it is the best.
    ///
    /// Returns false if there are [`MAX_CARRIERS`], or the session is over: close the carrier.
    pub fn attach(&mut self, now: Instant, id: CarrierId, kind: CarrierKind) -> bool {
        self.advance(now);
        if self.carriers.len() >= MAX_CARRIERS || self.state != State::Open {
            return false;
        }
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
        let (acked, now) = (self.log.acked(), self.now);
        if let Some(carrier) = self.carriers.get_mut(at)
            && carrier.next.is_some_and(|next| next > acked)
        {
            carrier.wants_answer(now);
        }
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
                Silence::Ask => carrier.ping = true,
                Silence::Doubt => {
                    (carrier.doubted, carrier.ping) = (true, true);
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
        let lives = self.carriers.iter().filter_map(|c| c.deadline(&self.config, self.doubt));
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
        if carrier.ping {
            Frame::Ping(carrier.asks(now)).put(&mut out);
        }
        if self.on == Some(id) {
            while out.len() + 3 + MAX_DATAGRAM <= MOST
                && let Some(data) = self.datagrams.out.pop_front()
            {
                self.datagrams.out_size -= data.len() + OVERHEAD;
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
        let peer_has = self.carriers[at].peer_has?;
        loop {
            let acked = self.log.acked();
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
        while let Some(word) = self.words.pop_front() {
            let frame = match word {
                Word::Open(id, tag) => Frame::Open(id, tag),
                Word::Reset(id, code) => Frame::Reset(id, code),
                Word::Stop(id, code) => Frame::Stop(id, code),
                Word::Streams => {
                    self.theirs.due = false;
                    self.theirs.told = self.theirs.ended + self.config.streams;
                    Frame::Streams(self.theirs.told)
                }
                Word::Credit(id) => {
                    let Some(stream) = self.streams.get_mut(&id) else { continue };
                    stream.credit_due = false;
                    let Some(receiving) = stream.receiving.as_mut().filter(|r| r.wants_credit()) else {
                        continue;
                    };
                    let more = receiving.window.min(self.config.stream_window - receiving.window);
                    let more = more.min(self.config.window - self.lent);
                    receiving.window += more;
                    self.lent += more;
                    Frame::Credit(id, receiving.grant())
                }
            };
            let mut out = Vec::with_capacity(16);
            frame.put(&mut out);
            return Some(out.into());
        }
        if self.log.size() >= self.config.kept {
            return None;
        }
        self.next_of_streams()
    }

    /// Takes a frame of the stream whose turn it is: of those with the highest priority one after the other.
    fn next_of_streams(&mut self) -> Option<Bytes> {
        loop {
            let mut turn = self.ready.last_entry()?;
            let Some(id) = turn.get_mut().pop_front() else {
                turn.remove();
                continue;
            };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            let Some(sending) = stream.sending.as_mut() else { continue };
            let before = sending.beyond();
            let frame = sending.take(id);
            self.queued -= before - sending.beyond();
            if sending.short && sending.size() <= self.config.queue / 2 {
                sending.short = false;
                self.news.push_back(SessionEvent::Writable(id));
            }
            if let Some(frame) = frame {
                self.schedule(id);
                return Some(frame);
            }
            if sending.is_empty() && sending.finished {
                stream.sending = None;
                self.forget(id);
                let mut out = Vec::with_capacity(5);
                Frame::Fin(id).put(&mut out);
                return Some(out.into());
            }
        }
    }

    /// Puts a stream in the list of those that can send, if it can.
    fn schedule(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.queued && stream.sending.as_ref().is_some_and(Sending::can_send) {
            stream.queued = true;
            self.ready.entry(stream.priority).or_default().push_back(id);
        }
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
        if self.side == Side::Caller {
            carrier.use_due = Some(self.uses);
        }
        self.news.push_back(SessionEvent::Moved(carrier.id));
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
        self.hear_numbered(frame)
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
                let d = &mut self.datagrams;
                if d.inn.is_empty() {
                    self.news.push_back(SessionEvent::Datagram);
                }
                d.inn_size += data.len() + OVERHEAD;
                // A reference would keep the whole buffer that it came in.
                d.inn.push_back(Bytes::copy_from_slice(&data));
                while d.inn_size > self.config.datagrams
                    && let Some(oldest) = d.inn.pop_front()
                {
                    d.inn_size -= oldest.len() + OVERHEAD;
                }
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

    fn hear_numbered(&mut self, frame: Frame) -> Result<(), Violation> {
        match frame {
            Frame::Open(id, tag) => self.hear_open(id, tag),
            Frame::Data(id, body) => self.hear_data(id, body),
            Frame::Fin(id) => self.hear_end(id, End::Finished),
            Frame::Reset(id, code) => self.hear_end(id, End::Reset(code)),
            Frame::Stop(id, code) => {
                self.check_sends(id, self.side)?;
                let sending = self.streams.get(&id).and_then(|s| s.sending.as_ref());
                // Whoever has finished writes no more, and is not told: it may have forgotten the stream.
                if sending.is_some_and(|s| !s.finished) {
                    self.news.push_back(SessionEvent::Stopped(id, code));
                }
                self.reset(self.now, id, code);
                Ok(())
            }
            Frame::Credit(id, limit) => {
                self.check_sends(id, self.side)?;
                if let Some(sending) = self.streams.get_mut(&id).and_then(|s| s.sending.as_mut()) {
                    sending.limit = sending.limit.max(limit);
                    self.schedule(id);
                }
                Ok(())
            }
            Frame::Streams(limit) => {
                let ours = &mut self.ours;
                ours.limit = ours.limit.max(limit.min(ALL_STREAMS));
                if ours.opened < ours.limit && core::mem::take(&mut ours.wanted) {
                    self.news.push_back(SessionEvent::MayOpen);
                }
                Ok(())
            }
            // No other frame is numbered.
            _ => Err(Violation::Order),
        }
    }

    fn hear_open(&mut self, id: StreamId, tag: Bytes) -> Result<(), Violation> {
        if id.opener() == self.side || id.count() != self.theirs.opened {
            return Err(Violation::StreamNumber(id.0));
        }
        if self.theirs.opened >= self.theirs.told {
            return Err(Violation::TooManyStreams);
        }
        self.theirs.opened += 1;
        let direction = id.direction();
        let sending = (direction == Direction::Both).then(Sending::new);
        // A reference would keep the whole buffer that it came in.
        let tag = Bytes::copy_from_slice(&tag);
        self.streams.insert(id, Stream { held: false, ..Stream::new(tag, sending, Some(Receiving::new())) });
        self.theirs.waiting[place(direction)].push_back(id);
        self.news.push_back(SessionEvent::Opened(direction));
        Ok(())
    }

    fn hear_data(&mut self, id: StreamId, body: Body) -> Result<(), Violation> {
        self.check_sends(id, self.side.other())?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let Some(receiving) = &mut stream.receiving else { return Ok(()) };
        receiving.take(id, body)?;
        if stream.held && !receiving.stopped && core::mem::take(&mut receiving.wanted) {
            self.news.push_back(SessionEvent::Readable(id));
        }
        Ok(())
    }

    fn hear_end(&mut self, id: StreamId, end: End) -> Result<(), Violation> {
        self.check_sends(id, self.side.other())?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let Some(receiving) = &mut stream.receiving else { return Ok(()) };
        receiving.end(id, end)?;
        if receiving.stopped {
            self.received_all(id);
        } else if stream.held && core::mem::take(&mut receiving.wanted) {
            self.news.push_back(SessionEvent::Readable(id));
        }
        Ok(())
    }

    /// Checks that a stream was opened once, and that this side sends on it.
    fn check_sends(&self, id: StreamId, side: Side) -> Result<(), Violation> {
        let opened = if id.opener() == self.side { self.ours.opened } else { self.theirs.opened };
        match id.count() < opened && (id.direction() == Direction::Both || id.opener() == side) {
            true => Ok(()),
            false => Err(Violation::NoStream(id.0)),
        }
    }

    // ---- streams

    /// Opens a stream, with a protocol tag of at most [`MAX_TAG`] bytes. No answer is waited for.
    ///
    /// # Errors
    /// [`OpenError`], and nothing was opened.
    pub fn open(&mut self, now: Instant, direction: Direction, tag: &[u8]) -> Result<StreamId, OpenError> {
        self.advance(now);
        match () {
            () if self.state != State::Open => return Err(OpenError::Ended),
            () if tag.len() > MAX_TAG => return Err(OpenError::TagTooLong),
            () if self.ours.opened >= self.ours.limit => {
                self.ours.wanted = true;
                return Err(OpenError::TooMany);
            }
            () => {}
        }
        let id = StreamId::new(self.side, direction, self.ours.opened);
        self.ours.opened += 1;
        let receiving = (direction == Direction::Both).then(Receiving::new);
        self.streams.insert(id, Stream::new(Bytes::new(), Some(Sending::new()), receiving));
        self.words.push_back(Word::Open(id, Bytes::copy_from_slice(tag)));
        Ok(id)
    }

    /// Takes the oldest stream that the peer opened and that was not taken, with its protocol tag.
    pub fn accept(&mut self, direction: Direction) -> Option<(StreamId, Bytes)> {
        let id = self.theirs.waiting[place(direction)].pop_front()?;
        let stream = self.streams.get_mut(&id)?;
        stream.held = true;
        Some((id, stream.tag.clone()))
    }

    /// Takes as many bytes as there is room for in the stream's queue, and in [`SessionConfig::queues`], and returns their
    /// number.
    ///
    /// # Errors
    /// [`WriteError`] if no bytes are taken any more.
    pub fn write(&mut self, now: Instant, id: StreamId, data: &[u8]) -> Result<usize, WriteError> {
        self.advance(now);
        if self.state != State::Open {
            return Err(WriteError::Ended);
        }
        let sending = self.streams.get_mut(&id).and_then(|s| s.sending.as_mut());
        let sending = sending.filter(|s| !s.finished).ok_or(WriteError::Closed)?;
        // A stream that gets less than it wants has bytes waiting, so their way out tells of room.
        let before = sending.beyond();
        let most = ALWAYS + before + self.config.queues.saturating_sub(self.queued);
        let taken = sending.write(data, self.config.queue.min(most));
        self.queued += sending.beyond() - before;
        self.schedule(id);
        Ok(taken)
    }

    /// Ends our direction of a stream, after the bytes that were written. Does nothing to one that has ended.
    pub fn finish(&mut self, now: Instant, id: StreamId) {
        self.advance(now);
        if let Some(sending) = self.streams.get_mut(&id).and_then(|s| s.sending.as_mut()) {
            sending.finished = true;
            self.schedule(id);
        }
    }

    /// Gives our direction of a stream up: bytes that wait are dropped, and the peer is told this code. Does nothing to
    /// one that has ended.
    pub fn reset(&mut self, now: Instant, id: StreamId, code: u32) {
        self.advance(now);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(sending) = stream.sending.take() else { return };
        self.queued -= sending.beyond();
        if self.state == State::Open {
            self.words.push_back(Word::Reset(id, code));
            self.forget(id);
        }
    }

    /// Gives the peer's direction of a stream up: bytes that wait are dropped, and the peer is told this code. Does
    /// nothing to one that has ended.
    pub fn stop(&mut self, now: Instant, id: StreamId, code: u32) {
        self.advance(now);
        let Some(receiving) = self.streams.get_mut(&id).and_then(|s| s.receiving.as_mut()) else { return };
        if core::mem::replace(&mut receiving.stopped, true) {
            return;
        }
        receiving.clear();
        if receiving.end.is_some() || self.state != State::Open {
            self.received_all(id);
        } else {
            self.words.push_back(Word::Stop(id, code));
        }
    }

    /// Copies bytes of the peer out.
    pub fn read(&mut self, now: Instant, id: StreamId, out: &mut [u8]) -> ReadResult<usize> {
        self.reading(now, id, |receiving| receiving.read(out))
    }

    /// Takes bytes of the peer out as they came, without a copy: at most `most`.
    pub fn read_chunk(&mut self, now: Instant, id: StreamId, most: usize) -> ReadResult<Bytes> {
        self.reading(now, id, |receiving| receiving.chunk(most))
    }

    fn reading<T>(
        &mut self,
        now: Instant,
        id: StreamId,
        read: impl FnOnce(&mut Receiving) -> ReadResult<T>,
    ) -> ReadResult<T> {
        self.advance(now);
        let Some(stream) = self.streams.get_mut(&id) else { return ReadResult::Gone };
        let Some(receiving) = stream.receiving.as_mut().filter(|r| !r.stopped) else {
            return ReadResult::Gone;
        };
        let result = read(receiving);
        match result {
            ReadResult::Read(_) if receiving.wants_credit() && !stream.credit_due => {
                stream.credit_due = true;
                self.words.push_back(Word::Credit(id));
            }
            ReadResult::Empty if self.state != State::Open => return ReadResult::Gone,
            ReadResult::End | ReadResult::Reset(_) => self.received_all(id),
            _ => {}
        }
        result
    }

    /// Sets a stream's priority: of the streams that can send, those with the greatest send first. Default 0.
    pub fn set_priority(&mut self, id: StreamId, priority: i32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = core::mem::replace(&mut stream.priority, priority);
        if core::mem::take(&mut stream.queued)
            && let Some(turns) = self.ready.get_mut(&before)
        {
            turns.retain(|turn| *turn != id);
        }
        self.schedule(id);
    }

    /// Forgets the peer's direction.
    fn received_all(&mut self, id: StreamId) {
        if let Some(receiving) = self.streams.get_mut(&id).and_then(|s| s.receiving.take()) {
            self.lent -= receiving.window - FIRST_CREDIT;
            self.forget(id);
        }
    }

    /// Forgets a stream whose directions have ended.
    fn forget(&mut self, id: StreamId) {
        let over = |s: &Stream| s.sending.is_none() && s.receiving.is_none();
        if !self.streams.get(&id).is_some_and(over) {
            return;
        }
        self.streams.remove(&id);
        if id.opener() != self.side {
            self.theirs.ended += 1;
            self.allow_streams();
        }
    }

    /// Lets the peer open more streams, if it is worth a frame.
    fn allow_streams(&mut self) {
        let theirs = &mut self.theirs;
        let more = (theirs.ended + self.config.streams).saturating_sub(theirs.told);
        let worth = more >= self.config.streams / 8 || theirs.opened >= theirs.told;
        if more > 0 && worth && !core::mem::replace(&mut theirs.due, true) {
            self.words.push_back(Word::Streams);
        }
    }

    // ---- datagrams, events, end

    /// Sends a datagram, when the carrier can take it. The oldest that wait are dropped for it if there are too many.
    /// Returns false if it has more than [`MAX_DATAGRAM`] bytes, or the session is over.
    pub fn send_datagram(&mut self, now: Instant, data: Bytes) -> bool {
        self.advance(now);
        if data.len() > MAX_DATAGRAM || self.state != State::Open {
            return false;
        }
        let d = &mut self.datagrams;
        d.out_size += data.len() + OVERHEAD;
        d.out.push_back(data);
        while d.out_size > self.config.datagrams
            && let Some(oldest) = d.out.pop_front()
        {
            d.out_size -= oldest.len() + OVERHEAD;
        }
        true
    }

    /// Takes the oldest datagram that has come.
    pub fn read_datagram(&mut self) -> Option<Bytes> {
        let data = self.datagrams.inn.pop_front()?;
        self.datagrams.inn_size -= data.len() + OVERHEAD;
        Some(data)
    }

    /// Returns the next event; `None` when there is nothing more to tell.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.news.pop_front()
    }

    /// Returns true if all that was written has arrived at the peer. If not, [`SessionEvent::Delivered`] follows.
    pub fn is_delivered(&mut self) -> bool {
        let all = self.all_arrived();
        self.watches = !all;
        all
    }

    fn all_arrived(&self) -> bool {
        let sent = |s: &Stream| s.sending.as_ref().is_none_or(|s| s.is_empty() && !s.finished);
        self.log.is_empty() && self.words.is_empty() && self.streams.values().all(sent)
    }

    /// Closes the session at once: bytes that have not arrived are lost. The peer is told the code, and as much of the
    /// reason as [`MAX_REASON`] bytes hold. The carriers send what [`poll_output`](Self::poll_output) has, then close
    /// them.
    pub fn close(&mut self, now: Instant, code: u32, reason: &[u8]) {
        self.advance(now);
        if self.state != State::Open {
            return;
        }
        let reason = Bytes::copy_from_slice(&reason[..reason.len().min(MAX_REASON)]);
        let mut frame = Vec::new();
        Frame::Close(code, reason).put(&mut frame);
        self.end(SessionEnd::Closed);
        self.state = State::Closed(frame.into());
    }

    fn end(&mut self, why: SessionEnd) {
        if self.state == State::Open {
            self.state = State::Over;
            self.stranded_until = None;
            (self.words, self.ready) = (VecDeque::new(), BTreeMap::new());
            (self.log, self.datagrams.out) = (Log::default(), VecDeque::new());
            self.streams.values_mut().for_each(|s| s.sending = None);
            self.queued = 0;
            self.news.push_back(SessionEvent::Ended(why));
        }
    }

    /// Returns true if streams or datagrams wait for a carrier.
    pub fn wants_to_send(&self) -> bool {
        !(self.words.is_empty() && self.ready.is_empty() && self.datagrams.out.is_empty())
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

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Caller => Side::Listener,
            Side::Listener => Side::Caller,
        }
    }
}

fn place(direction: Direction) -> usize {
    match direction {
        Direction::Both => 0,
        Direction::One => 1,
    }
}
