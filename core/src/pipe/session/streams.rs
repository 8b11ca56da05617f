//! Streams of a session: what waits to be sent and to be read, how much of it, and how many streams there may be. Knows no
//! carrier.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::frame::{Body, Frame};
use super::stream::{ALWAYS, End, Receiving, Sending, Stream};
use super::{
    Direction, FIRST_CREDIT, FIRST_STREAMS, MAX_TAG, OpenError, ReadResult, SessionConfig, SessionEvent,
    Side, StreamId, Violation, WriteError,
};

/// The most streams that one end opens in a session, as far as their numbers go.
const ALL_STREAMS: u32 = 1 << 30;

#[derive(Debug)]
pub(super) struct Streams {
    side: Side,
    config: SessionConfig,
    pub(super) all: BTreeMap<StreamId, Stream>,
    /// Words that go before bytes of streams.
    pub(super) words: VecDeque<Word>,
    /// Streams that can send, by their priority.
    ready: BTreeMap<i32, VecDeque<StreamId>>,
    ours: Ours,
    theirs: Theirs,
    /// Bytes beyond the first credit that streams were given.
    pub(super) lent: u64,
    /// Bytes that wait to be sent beyond what each stream may always have waiting.
    pub(super) queued: usize,
    /// Bytes that wait for their reader.
    pub(super) unread: usize,
    /// The session is over.
    over: bool,
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

impl Streams {
    pub(super) fn new(side: Side, config: SessionConfig) -> Self {
        let mut streams = Streams {
            side,
            config,
            all: BTreeMap::new(),
            words: VecDeque::with_capacity(1),
            ready: BTreeMap::new(),
            ours: Ours { opened: 0, limit: FIRST_STREAMS, wanted: false },
            theirs: Theirs { told: FIRST_STREAMS, ..Theirs::default() },
            lent: 0,
            queued: 0,
            unread: 0,
            over: false,
        };
        streams.allow_more();
        streams
    }

    /// Sends and opens no more. What waits can be read.
    pub(super) fn end(&mut self) {
        self.over = true;
        (self.words, self.ready) = (VecDeque::new(), BTreeMap::new());
        self.all.values_mut().for_each(|s| s.sending = None);
        self.queued = 0;
    }

    /// Returns true if something waits for a carrier that can go now.
    pub(super) fn wants_to_send(&self) -> bool {
        !(self.words.is_empty() && self.ready.is_empty())
    }

    /// Returns true if nothing waits for a carrier.
    pub(super) fn are_sent(&self) -> bool {
        let sent = |s: &Stream| s.sending.as_ref().is_none_or(|s| s.is_empty() && !s.finished);
        self.words.is_empty() && self.all.values().all(sent)
    }

    /// Returns the bytes that wait to be sent and to be read, as far as they are bounded together.
    pub(super) fn held(&self) -> usize {
        self.queued + self.unread
    }

    // ---- frames that go

    /// Makes a frame of the next word.
    pub(super) fn next_word(&mut self) -> Option<Bytes> {
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
                    let Some(stream) = self.all.get_mut(&id) else { continue };
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
        None
    }

    /// Takes a frame of the stream whose turn it is: of those with the highest priority one after the other.
    pub(super) fn next_data(&mut self, news: &mut VecDeque<SessionEvent>) -> Option<Bytes> {
        loop {
            let mut turn = self.ready.last_entry()?;
            let Some(id) = turn.get_mut().pop_front() else {
                turn.remove();
                continue;
            };
            let Some(stream) = self.all.get_mut(&id) else { continue };
            stream.queued = false;
            let Some(sending) = stream.sending.as_mut() else { continue };
            let before = sending.beyond();
            let frame = sending.take(id);
            self.queued -= before - sending.beyond();
            if sending.short && sending.size() <= self.config.queue / 2 {
                sending.short = false;
                news.push_back(SessionEvent::Writable(id));
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
        let Some(stream) = self.all.get_mut(&id) else { return };
        if !stream.queued && stream.sending.as_ref().is_some_and(Sending::can_send) {
            stream.queued = true;
            self.ready.entry(stream.priority).or_default().push_back(id);
        }
    }

    // ---- frames that come

    /// Takes in a numbered frame.
    ///
    /// # Errors
    /// The rule that the peer broke.
    pub(super) fn hear(&mut self, frame: Frame, news: &mut VecDeque<SessionEvent>) -> Result<(), Violation> {
        match frame {
            Frame::Open(id, tag) => self.hear_open(id, tag, news),
            Frame::Data(id, body) => self.hear_data(id, body, news),
            Frame::Fin(id) => self.hear_end(id, End::Finished, news),
            Frame::Reset(id, code) => self.hear_end(id, End::Reset(code), news),
            Frame::Stop(id, code) => {
                self.check_sends(id, self.side)?;
                let sending = self.all.get(&id).and_then(|s| s.sending.as_ref());
                // Whoever has finished writes no more, and is not told: it may have forgotten the stream.
                if sending.is_some_and(|s| !s.finished) {
                    news.push_back(SessionEvent::Stopped(id, code));
                }
                self.reset(id, code);
                Ok(())
            }
            Frame::Credit(id, limit) => {
                self.check_sends(id, self.side)?;
                if let Some(sending) = self.all.get_mut(&id).and_then(|s| s.sending.as_mut()) {
                    sending.limit = sending.limit.max(limit);
                    self.schedule(id);
                }
                Ok(())
            }
            Frame::Streams(limit) => {
                let ours = &mut self.ours;
                ours.limit = ours.limit.max(limit.min(ALL_STREAMS));
                if ours.opened < ours.limit && core::mem::take(&mut ours.wanted) {
                    news.push_back(SessionEvent::MayOpen);
                }
                Ok(())
            }
            // No other frame is numbered.
            _ => Err(Violation::Order),
        }
    }

    fn hear_open(
        &mut self,
        id: StreamId,
        tag: Bytes,
        news: &mut VecDeque<SessionEvent>,
    ) -> Result<(), Violation> {
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
        self.all.insert(id, Stream { held: false, ..Stream::new(tag, sending, Some(Receiving::new())) });
        self.theirs.waiting[place(direction)].push_back(id);
        news.push_back(SessionEvent::Opened(direction));
        Ok(())
    }

    fn hear_data(
        &mut self,
        id: StreamId,
        body: Body,
        news: &mut VecDeque<SessionEvent>,
    ) -> Result<(), Violation> {
        self.check_sends(id, self.side.other())?;
        let Some(stream) = self.all.get_mut(&id) else { return Ok(()) };
        let Some(receiving) = &mut stream.receiving else { return Ok(()) };
        let before = receiving.waiting();
        receiving.take(id, body)?;
        self.unread += receiving.waiting() - before;
        if stream.held && !receiving.stopped && core::mem::take(&mut receiving.wanted) {
            news.push_back(SessionEvent::Readable(id));
        }
        Ok(())
    }

    fn hear_end(
        &mut self,
        id: StreamId,
        end: End,
        news: &mut VecDeque<SessionEvent>,
    ) -> Result<(), Violation> {
        self.check_sends(id, self.side.other())?;
        let Some(stream) = self.all.get_mut(&id) else { return Ok(()) };
        let Some(receiving) = &mut stream.receiving else { return Ok(()) };
        let before = receiving.waiting();
        receiving.end(id, end)?;
        self.unread -= before - receiving.waiting();
        if receiving.stopped {
            self.received_all(id);
        } else if stream.held && core::mem::take(&mut receiving.wanted) {
            news.push_back(SessionEvent::Readable(id));
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

    // ---- what users do

    pub(super) fn open(&mut self, direction: Direction, tag: &[u8]) -> Result<StreamId, OpenError> {
        match () {
            () if self.over => return Err(OpenError::Ended),
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
        self.all.insert(id, Stream::new(Bytes::new(), Some(Sending::new()), receiving));
        self.words.push_back(Word::Open(id, Bytes::copy_from_slice(tag)));
        Ok(id)
    }

    pub(super) fn accept(&mut self, direction: Direction) -> Option<(StreamId, Bytes)> {
        let id = self.theirs.waiting[place(direction)].pop_front()?;
        let stream = self.all.get_mut(&id)?;
        stream.held = true;
        Some((id, stream.tag.clone()))
    }

    pub(super) fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, WriteError> {
        if self.over {
            return Err(WriteError::Ended);
        }
        let sending = self.all.get_mut(&id).and_then(|s| s.sending.as_mut());
        let sending = sending.filter(|s| !s.finished).ok_or(WriteError::Closed)?;
        // A stream that gets less than it wants has bytes waiting, so their way out tells of room.
        let before = sending.beyond();
        let most = ALWAYS + before + self.config.queues.saturating_sub(self.queued);
        let taken = sending.write(data, self.config.queue.min(most));
        self.queued += sending.beyond() - before;
        self.schedule(id);
        Ok(taken)
    }

    pub(super) fn finish(&mut self, id: StreamId) {
        if let Some(sending) = self.all.get_mut(&id).and_then(|s| s.sending.as_mut()) {
            sending.finished = true;
            self.schedule(id);
        }
    }

    pub(super) fn reset(&mut self, id: StreamId, code: u32) {
        let Some(stream) = self.all.get_mut(&id) else { return };
        let Some(sending) = stream.sending.take() else { return };
        self.queued -= sending.beyond();
        if !self.over {
            self.words.push_back(Word::Reset(id, code));
            self.forget(id);
        }
    }

    pub(super) fn stop(&mut self, id: StreamId, code: u32) {
        let Some(receiving) = self.all.get_mut(&id).and_then(|s| s.receiving.as_mut()) else { return };
        if core::mem::replace(&mut receiving.stopped, true) {
            return;
        }
        self.unread -= receiving.waiting();
        receiving.clear();
        if receiving.end.is_some() || self.over {
            self.received_all(id);
        } else {
            self.words.push_back(Word::Stop(id, code));
        }
    }

    /// Reads by `read`, which has the stream's waiting bytes.
    pub(super) fn read<T>(
        &mut self,
        id: StreamId,
        read: impl FnOnce(&mut Receiving) -> ReadResult<T>,
    ) -> ReadResult<T> {
        let Some(stream) = self.all.get_mut(&id) else { return ReadResult::Gone };
        let Some(receiving) = stream.receiving.as_mut().filter(|r| !r.stopped) else {
            return ReadResult::Gone;
        };
        let before = receiving.waiting();
        let result = read(receiving);
        self.unread -= before - receiving.waiting();
        match result {
            ReadResult::Read(_) if receiving.wants_credit() && !stream.credit_due => {
                stream.credit_due = true;
                self.words.push_back(Word::Credit(id));
            }
            ReadResult::Empty if self.over => return ReadResult::Gone,
            ReadResult::End | ReadResult::Reset(_) => self.received_all(id),
            _ => {}
        }
        result
    }

    pub(super) fn set_priority(&mut self, id: StreamId, priority: i32) {
        let Some(stream) = self.all.get_mut(&id) else { return };
        let before = core::mem::replace(&mut stream.priority, priority);
        if core::mem::take(&mut stream.queued)
            && let Some(turns) = self.ready.get_mut(&before)
        {
            turns.retain(|turn| *turn != id);
        }
        self.schedule(id);
    }

    // ---- ends

    /// Forgets the peer's direction.
    fn received_all(&mut self, id: StreamId) {
        if let Some(receiving) = self.all.get_mut(&id).and_then(|s| s.receiving.take()) {
            self.lent -= receiving.window - FIRST_CREDIT;
            self.forget(id);
        }
    }

    /// Forgets a stream whose directions have ended.
    fn forget(&mut self, id: StreamId) {
        let over = |s: &Stream| s.sending.is_none() && s.receiving.is_none();
        if !self.all.get(&id).is_some_and(over) {
            return;
        }
        self.all.remove(&id);
        if id.opener() != self.side {
            self.theirs.ended += 1;
            self.allow_more();
        }
    }

    /// Lets the peer open more streams, if it is worth a frame.
    fn allow_more(&mut self) {
        let theirs = &mut self.theirs;
        let more = (theirs.ended + self.config.streams).saturating_sub(theirs.told);
        let worth = more >= self.config.streams / 8 || theirs.opened >= theirs.told;
        if more > 0 && worth && !core::mem::replace(&mut theirs.due, true) {
            self.words.push_back(Word::Streams);
        }
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
