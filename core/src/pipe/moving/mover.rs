//! An end of a moving pipe: its sending, its receiving and its choice of the carrier.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use super::frame::{Frame, MAX_DATA, Parsed, Parser};
use super::{
    CarrierId, CarrierKind, FIRST_LIMIT, MAX_CARRIERS, MoveError, MoverConfig, MoverEnd, MoverEvent,
    ReadOutcome,
};
use crate::time::Instant;

/// Longest time that an acknowledgement is held back, to go out with other frames.
const ACK_DELAY: Duration = Duration::from_millis(20);
/// Number of received bytes after which an acknowledgement is due at once.
const ACK_AFTER: u64 = 2 * MAX_DATA as u64;

/// An end of a pipe that moves between carriers.
///
/// The holder attaches carriers, gives the bytes they receive to [`handle_bytes`](Self::handle_bytes), and says when
/// one [broke](Self::handle_broken). Whenever a carrier can take bytes, the holder writes the bytes of
/// [`poll_output`](Self::poll_output) to it.
///
/// After any call: drain `poll_output` of every writable carrier and [`poll_event`](Self::poll_event), then arm a timer
/// for [`poll_timeout`](Self::poll_timeout). A deadline in the past means now, and after it the deadline has moved.
///
/// Memory is bounded by the two buffers of [`MoverConfig`], whatever the peer does.
#[derive(Debug)]
pub struct Mover {
    config: MoverConfig,
    now: Instant,
    carriers: SmallVec<[Carrier; MAX_CARRIERS]>,
    /// The carrier that we send on.
    on: Option<CarrierId>,
    out: Outgoing,
    inn: Incoming,
    news: Untold,
    /// Time at which the pipe gives up, as it has no carrier.
    stranded_until: Option<Instant>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    /// The user closed the pipe; the carriers are told.
    Closed,
    Over,
}

#[derive(Debug)]
struct Carrier {
    id: CarrierId,
    kind: CarrierKind,
    parser: Parser,
    /// The next byte to send on it.
    next: u64,
    end_sent: bool,
    close_sent: bool,
    heard: Instant,
    life: Life,
    pong: bool,
}

/// Proof of life of a carrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// The carrier notices by itself when the peer is gone.
    Trusted,
    Heard,
    Asking {
        sent: bool,
        until: Instant,
    },
}

/// Outgoing direction.
#[derive(Debug)]
struct Outgoing {
    /// Bytes from `acked` on.
    buffer: VecDeque<u8>,
    acked: u64,
    /// Offset up to which the peer takes bytes.
    limit: u64,
    /// The most that was ever sent, the end counting as one.
    sent: u64,
    end: Option<u64>,
    end_acked: bool,
    /// The last write took less than it was given.
    short: bool,
}

/// The peer's direction.
#[derive(Debug)]
struct Incoming {
    buffer: VecDeque<u8>,
    /// Bytes received in order.
    received: u64,
    end: Option<u64>,
    /// Received bytes that the last ACK reported.
    told: u64,
    limit: u64,
    /// Time at which an ACK is due.
    ack_at: Option<Instant>,
}

/// Events that `poll_event` has to tell.
#[derive(Debug, Default)]
struct Untold {
    moved: Option<CarrierId>,
    silent: SmallVec<[CarrierId; MAX_CARRIERS]>,
    stranded: bool,
    readable: bool,
    writable: bool,
    delivered: bool,
    ended: Option<MoverEnd>,
}

impl Mover {
    /// Returns a pipe without a carrier, which has [`MoverConfig::linger`] to get one.
    pub fn new(config: MoverConfig, now: Instant) -> Self {
        Mover {
            config,
            now,
            carriers: SmallVec::new(),
            on: None,
            out: Outgoing {
                buffer: VecDeque::new(),
                acked: 0,
                limit: FIRST_LIMIT,
                sent: 0,
                end: None,
                end_acked: false,
                short: false,
            },
            inn: Incoming {
                buffer: VecDeque::new(),
                received: 0,
                end: None,
                told: 0,
                limit: FIRST_LIMIT,
                ack_at: None,
            },
            news: Untold::default(),
            stranded_until: Some(now + config.linger),
            state: State::Open,
        }
    }

    /// Attaches a carrier. If it is better than the others, our bytes go over it from now on.
    ///
    /// # Errors
    /// `TooManyCarriers`; the pipe goes on without it.
    pub fn attach(&mut self, now: Instant, id: CarrierId, kind: CarrierKind) -> Result<(), MoveError> {
        self.advance(now);
        if self.carriers.len() >= MAX_CARRIERS {
            return Err(MoveError::TooManyCarriers);
        }
        if self.state == State::Open {
            let life = match kind {
                CarrierKind::Relayed => Life::Trusted,
                CarrierKind::Direct => Life::Heard,
            };
            self.carriers.push(Carrier {
                id,
                kind,
                parser: Parser::default(),
                next: 0,
                end_sent: false,
                close_sent: false,
                heard: self.now,
                life,
                pong: false,
            });
            self.choose();
        }
        Ok(())
    }

    /// Takes in bytes of a carrier, in order, cut anywhere. Bytes of an unknown carrier are dropped.
    ///
    /// # Errors
    /// [`MoveError`] if the peer broke the rules: the pipe has ended.
    pub fn handle_bytes(&mut self, now: Instant, id: CarrierId, bytes: &[u8]) -> Result<(), MoveError> {
        self.advance(now);
        let Some(at) = self.carriers.iter().position(|c| c.id == id) else { return Ok(()) };
        let carrier = &mut self.carriers[at];
        carrier.heard = self.now;
        if carrier.life != Life::Trusted {
            carrier.life = Life::Heard;
        }
        let mut rest = bytes;
        loop {
            if self.state != State::Open {
                return Ok(());
            }
            let heard = match self.carriers[at].parser.next(&mut rest) {
                Ok(Some(parsed)) => self.hear(at, parsed),
                Ok(None) => return Ok(()),
                Err(why) => Err(why),
            };
            if let Err(why) = heard {
                self.end(MoverEnd::Violation(why));
                return Err(why);
            }
        }
    }

    /// Takes in that a carrier broke, or ended. The pipe goes on with the others.
    pub fn handle_broken(&mut self, now: Instant, id: CarrierId) {
        self.advance(now);
        self.carriers.retain(|c| c.id != id);
        self.choose();
    }

    /// Goes on after the deadline that [`poll_timeout`](Self::poll_timeout) gave has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        let (now, config) = (self.now, self.config);
        if self.stranded_until.is_some_and(|until| until <= now) {
            self.end(MoverEnd::NoCarrier);
        }
        for carrier in &mut self.carriers {
            match carrier.life {
                Life::Heard if carrier.heard + config.ask_after <= now => {
                    carrier.life = Life::Asking { sent: false, until: now + config.patience };
                }
                Life::Asking { until, .. } if until <= now => self.news.silent.push(carrier.id),
                Life::Trusted | Life::Heard | Life::Asking { .. } => {}
            }
        }
        let silent = &self.news.silent;
        self.carriers.retain(|c| !silent.contains(&c.id));
        self.choose();
    }

    /// Returns the time to call [`handle_timeout`](Self::handle_timeout). A delayed ACK is a deadline too:
    /// [`poll_output`](Self::poll_output) has it then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.state != State::Open {
            return None;
        }
        let lives = self.carriers.iter().filter_map(|c| match c.life {
            Life::Trusted => None,
            Life::Heard => Some(c.heard + self.config.ask_after),
            Life::Asking { until, .. } => Some(until),
        });
        // One that is due already waits for its carrier, not for a time.
        let ack = self.inn.ack_at.filter(|at| *at > self.now);
        lives.chain(ack).chain(self.stranded_until).min()
    }

    /// Returns the next bytes for a carrier that can take bytes: whole frames, about 16 KiB at most. The carrier has to
    /// send all of them, or it is broken.
    pub fn poll_output(&mut self, now: Instant, id: CarrierId) -> Option<Bytes> {
        self.advance(now);
        let carrier = self.carriers.iter_mut().find(|c| c.id == id)?;
        let mut frames = Vec::new();
        match self.state {
            State::Open => {}
            State::Closed if !carrier.close_sent => {
                carrier.close_sent = true;
                Frame::Close.put(&mut frames);
                return Some(frames.into());
            }
            State::Closed | State::Over => return None,
        }
        if core::mem::take(&mut carrier.pong) {
            Frame::Pong.put(&mut frames);
        }
        if let Life::Asking { sent, .. } = &mut carrier.life
            && !core::mem::replace(sent, true)
        {
            Frame::Ping.put(&mut frames);
        }
        if self.on == Some(id) {
            self.out.put(carrier, &mut frames);
            let due = self.inn.ack_at.is_some_and(|at| at <= self.now);
            if due || (self.inn.ack_at.is_some() && !frames.is_empty()) {
                self.inn.put_ack(self.config.receive_buffer, &mut frames);
            }
        }
        (!frames.is_empty()).then(|| frames.into())
    }

    /// Returns the next event; `None` when there is nothing more to tell.
    pub fn poll_event(&mut self) -> Option<MoverEvent> {
        let news = &mut self.news;
        let take = core::mem::take::<bool>;
        if !news.silent.is_empty() {
            Some(MoverEvent::Silent(news.silent.remove(0)))
        } else if let Some(id) = news.moved.take() {
            Some(MoverEvent::Moved(id))
        } else if take(&mut news.stranded) {
            Some(MoverEvent::Stranded)
        } else if take(&mut news.readable) {
            Some(MoverEvent::Readable)
        } else if take(&mut news.writable) {
            Some(MoverEvent::Writable)
        } else if take(&mut news.delivered) {
            Some(MoverEvent::Delivered)
        } else {
            news.ended.take().map(MoverEvent::Ended)
        }
    }

    /// Appends as many bytes as there is room for. Returns their number; 0 after [`finish`](Self::finish).
    pub fn write(&mut self, now: Instant, data: &[u8]) -> usize {
        self.advance(now);
        if self.state != State::Open || self.out.end.is_some() {
            return 0;
        }
        let room = self.config.send_buffer.saturating_sub(self.out.buffer.len());
        let taken = &data[..data.len().min(room)];
        self.out.buffer.extend(taken);
        self.out.short = taken.len() < data.len();
        taken.len()
    }

    /// Takes the peer's bytes, in order and once each.
    pub fn read(&mut self, now: Instant, out: &mut [u8]) -> ReadOutcome {
        self.advance(now);
        let inn = &mut self.inn;
        let n = out.len().min(inn.buffer.len());
        if n == 0 {
            return if inn.end.is_some() && inn.buffer.is_empty() {
                ReadOutcome::End
            } else {
                ReadOutcome::Empty
            };
        }
        let (front, back) = inn.buffer.as_slices();
        let split = n.min(front.len());
        out[..split].copy_from_slice(&front[..split]);
        out[split..n].copy_from_slice(&back[..n - split]);
        inn.buffer.drain(..n);
        // Half a buffer is worth telling.
        if inn.end.is_none()
            && 2 * (inn.allowed(self.config.receive_buffer) - inn.limit)
                >= inn.window(self.config.receive_buffer)
        {
            inn.ack_at = Some(self.now);
        }
        ReadOutcome::Read(n)
    }

    /// Ends our direction; the peer's goes on. `Delivered` says when all bytes have arrived.
    pub fn finish(&mut self, now: Instant) {
        self.advance(now);
        let length = self.out.acked + self.out.buffer.len() as u64;
        self.out.end.get_or_insert(length);
    }

    /// Ends both directions at once; bytes that are not delivered are lost. Each carrier has a last output; then it can
    /// be closed. No event follows.
    pub fn close(&mut self, now: Instant) {
        self.advance(now);
        if self.state == State::Open {
            self.state = State::Closed;
            self.news = Untold::default();
        }
    }

    /// Returns true if both directions have ended, all bytes have arrived at both ends, and the peer was told so. The
    /// carriers can be closed then: gracefully, since the last ACK may still be on its way. A peer that misses this ACK
    /// has all bytes, and ends with `NoCarrier` in place of `Delivered`.
    pub fn is_done(&self) -> bool {
        self.out.end_acked && self.inn.end.is_some_and(|end| self.inn.told == end + 1)
    }

    /// Returns the carrier that our bytes go over.
    pub fn carrier(&self) -> Option<CarrierId> {
        self.on
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn end(&mut self, why: MoverEnd) {
        if self.state == State::Open {
            self.state = State::Over;
            self.news.ended = Some(why);
        }
    }

    /// Goes over to the best carrier, if that is another one.
    fn choose(&mut self) {
        if self.state != State::Open {
            return;
        }
        let best = self.carriers.iter().enumerate().max_by_key(|(age, c)| (c.kind, *age));
        let id = best.map(|(_, c)| c.id);
        if id == self.on {
            return;
        }
        self.on = id;
        if id.is_none() {
            self.stranded_until = Some(self.now + self.config.linger);
            self.news.stranded = true;
            return;
        }
        // What was said on the other one may be lost.
        if self.inn.received > 0 || self.inn.end.is_some() {
            self.inn.ack_at = Some(self.now);
        }
        self.stranded_until = None;
        self.news.stranded = false;
        self.news.moved = id;
    }

    fn hear(&mut self, at: usize, parsed: Parsed<'_>) -> Result<(), MoveError> {
        match parsed {
            Parsed::Frame(Frame::Data { offset, length }) => self.inn.expect(offset, length),
            Parsed::Body(offset, bytes) => {
                self.news.readable |= self.inn.take(offset, bytes, self.now);
                Ok(())
            }
            Parsed::Frame(Frame::End { offset }) => {
                self.news.readable |= self.inn.take_end(offset, self.now)?;
                Ok(())
            }
            Parsed::Frame(Frame::Ack { received, limit }) => {
                let was_acked = self.out.end_acked;
                self.out.take_ack(received, limit)?;
                self.news.delivered |= self.out.end_acked && !was_acked;
                if self.out.short && self.out.buffer.len() < self.config.send_buffer {
                    self.out.short = false;
                    self.news.writable = true;
                }
                Ok(())
            }
            Parsed::Frame(Frame::Ping) => {
                self.carriers[at].pong = true;
                Ok(())
            }
            Parsed::Frame(Frame::Pong) => Ok(()),
            Parsed::Frame(Frame::Close) => {
                self.end(MoverEnd::ClosedByPeer);
                Ok(())
            }
        }
    }
}

/// Appends `length` bytes from `from` on, which are there.
fn copy_range(buffer: &VecDeque<u8>, from: usize, length: usize, out: &mut Vec<u8>) {
    let (front, back) = buffer.as_slices();
    let (until, middle) = (from + length, front.len());
    out.extend_from_slice(&front[from.min(middle)..until.min(middle)]);
    out.extend_from_slice(&back[from.max(middle) - middle..until.max(middle) - middle]);
}

impl Outgoing {
    /// The next bytes, or the end.
    fn put(&mut self, carrier: &mut Carrier, frames: &mut Vec<u8>) {
        // What this carrier was given before it delivers as long as it lives, so only the rest is to be sent on it.
        carrier.next = carrier.next.max(self.acked);
        let written = self.acked + self.buffer.len() as u64;
        let most = self.limit.min(written).saturating_sub(carrier.next).min(MAX_DATA as u64);
        if most > 0 {
            let from = (carrier.next - self.acked) as usize;
            Frame::Data { offset: carrier.next, length: most as u16 }.put(frames);
            copy_range(&self.buffer, from, most as usize, frames);
            carrier.next += most;
        }
        self.sent = self.sent.max(carrier.next);
        if let Some(end) = self.end
            && carrier.next == end
            && !self.end_acked
            && !core::mem::replace(&mut carrier.end_sent, true)
        {
            Frame::End { offset: end }.put(frames);
            self.sent = end + 1;
        }
    }

    /// An older ACK, from a slower carrier, changes nothing.
    fn take_ack(&mut self, received: u64, limit: u64) -> Result<(), MoveError> {
        if received > self.sent {
            return Err(MoveError::NotSent);
        }
        self.limit = self.limit.max(limit);
        self.end_acked |= self.end.is_some_and(|end| received > end);
        let arrived = received.min(self.end.unwrap_or(u64::MAX));
        let new = arrived.saturating_sub(self.acked);
        // At most what was sent, which is in the buffer.
        self.buffer.drain(..new as usize);
        self.acked += new;
        Ok(())
    }
}

impl Incoming {
    fn window(&self, buffer: usize) -> u64 {
        (buffer as u64).max(FIRST_LIMIT)
    }

    /// Returns the offset up to which bytes may come, by the bytes that have been read.
    fn allowed(&self, buffer: usize) -> u64 {
        (self.received - self.buffer.len() as u64 + self.window(buffer)).max(self.limit)
    }

    fn expect(&self, offset: u64, length: u16) -> Result<(), MoveError> {
        let behind = offset.checked_add(length.into()).ok_or(MoveError::Overrun)?;
        if self.end.is_some_and(|end| behind > end) {
            return Err(MoveError::AfterEnd);
        }
        if offset > self.received {
            return Err(MoveError::Gap);
        }
        if behind > self.limit {
            return Err(MoveError::Overrun);
        }
        Ok(())
    }

    /// Keeps the new bytes, and returns true if there are any. `expect` has seen to it that nothing is missing before.
    fn take(&mut self, offset: u64, bytes: &[u8], now: Instant) -> bool {
        let known = usize::try_from(self.received.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(new @ [_, ..]) = bytes.get(known..) else {
            // The peer did not hear of it.
            self.ack_at.get_or_insert(now + ACK_DELAY);
            return false;
        };
        self.buffer.extend(new);
        self.received += new.len() as u64;
        let at = if self.received - self.told >= ACK_AFTER { now } else { now + ACK_DELAY };
        self.ack_at = Some(self.ack_at.map_or(at, |earlier| earlier.min(at)));
        true
    }

    fn take_end(&mut self, offset: u64, now: Instant) -> Result<bool, MoveError> {
        if offset > self.received {
            return Err(MoveError::Gap);
        }
        if offset < self.received || self.end.is_some_and(|end| end != offset) {
            return Err(MoveError::AfterEnd);
        }
        self.ack_at = Some(now);
        Ok(self.end.replace(offset).is_none())
    }

    fn put_ack(&mut self, buffer: usize, frames: &mut Vec<u8>) {
        self.ack_at = None;
        self.limit = self.allowed(buffer);
        self.told = self.received + u64::from(self.end.is_some());
        Frame::Ack { received: self.told, limit: self.limit }.put(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_copied_wherever_the_buffer_wraps() {
        for wrap in 0..16 {
            let mut buffer: VecDeque<u8> = VecDeque::with_capacity(16);
            buffer.extend(vec![0; wrap]);
            buffer.drain(..wrap);
            buffer.extend(0..16);
            for from in 0..=16 {
                for length in 0..=16 - from {
                    let mut out = Vec::new();
                    copy_range(&buffer, from, length, &mut out);
                    assert!(
                        out.iter().copied().eq(from as u8..(from + length) as u8),
                        "{wrap} {from} {length}"
                    );
                }
            }
        }
    }
}
