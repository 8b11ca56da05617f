//! An end of a TCP connection (RFC 9293), as a machine that takes segments and gives segments.
//!
//! There is no congestion control: a connection sends up to 64 KiB beyond the acknowledged bytes. Sequence numbers on
//! the wire are 32 bits. Inside, each position is an offset from the SYN, which has offset 0. A closed window is probed, by a
//! byte that was acknowledged before, for as long as the peer answers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Buffers, Failure, Profile};
use crate::engine::{MILLI, Nanos, SECOND};
use crate::net::{Flags, Segment};

/// Bytes of payload per segment.
const MSS: usize = 1400;
/// Most bytes in flight.
const WINDOW: u32 = 64 * 1024;
/// The window field of a SYN, which is never scaled.
const SYN_WINDOW: u32 = 64_240;
/// Duration of TIME_WAIT and of an abandoned FIN_WAIT_2.
const LINGER: Nanos = 60 * SECOND;
/// Most repeats of a SYN-ACK, of data, and of data after close (Linux: `tcp_synack_retries`, `tcp_retries2`,
/// `tcp_orphan_retries`).
const TRIES: (u8, u8, u8) = (5, 15, 8);

/// The states of RFC 9293 section 3.3.2, without LISTEN, which is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    /// The connection is over; the program has not closed it yet.
    Closed,
}

/// Effect of a segment, or of time, on the connection's owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Nothing,
    Established,
    /// Bytes are to be read, or the end.
    Readable,
    /// The connection failed.
    Failed(Failure),
    /// The connection ended and may be forgotten.
    Gone,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) state: State,
    iss: u32,
    irs: u32,
    /// First offset that the peer has not acknowledged, and first that was not sent.
    una: u64,
    next: u64,
    buffers: Buffers,
    /// Bytes from `una` on, at the earliest from offset 1.
    output: VecDeque<u8>,
    /// True once the output has filled its buffer, until the program is told of room.
    full: bool,
    /// A FIN follows once the output is empty.
    finish: bool,
    peer_window: u32,
    /// First offset of the peer's that has not arrived.
    expected: u64,
    input: VecDeque<u8>,
    early: BTreeMap<u64, Bytes>,
    peer_fin: Option<u64>,
    /// True if nobody reads any more.
    orphan: bool,
    tries: u8,
    repeats: u8,
    /// Losses up to here are repaired one by one as acknowledgements come.
    recover: u64,
    /// Time of the SYN whose round trip is timed.
    began: Nanos,
    /// The round trip and its variation (RFC 6298), once measured.
    trip: Option<(Nanos, Nanos)>,
    /// The offset whose acknowledgement is timed, and since when.
    timed: Option<(u64, Nanos)>,
    rto: Nanos,
    due: Option<Nanos>,
}

impl Conn {
    fn new(state: State, iss: u32, irs: u32, now: Nanos, buffers: Buffers) -> Conn {
        Conn {
            state,
            iss,
            irs,
            una: 0,
            next: 1,
            buffers,
            output: VecDeque::new(),
            full: false,
            finish: false,
            peer_window: WINDOW,
            expected: 1,
            input: VecDeque::new(),
            early: BTreeMap::new(),
            peer_fin: None,
            orphan: false,
            tries: 0,
            repeats: 0,
            recover: 0,
            began: now,
            trip: None,
            timed: None,
            rto: SECOND,
            due: None,
        }
    }

    /// A dial; its SYN goes to `out`.
    pub(super) fn dial(
        iss: u32,
        now: Nanos,
        profile: &Profile,
        buffers: Buffers,
        out: &mut Vec<Segment>,
    ) -> Conn {
        let mut conn = Conn::new(State::SynSent, iss, 0, now, buffers);
        conn.due = Some(now + profile.syn_gap(0));
        out.push(conn.syn());
        conn
    }

    /// The answer to a SYN at a listener.
    pub(super) fn answer(
        iss: u32,
        syn: &Segment,
        now: Nanos,
        buffers: Buffers,
        out: &mut Vec<Segment>,
    ) -> Conn {
        let mut conn = Conn::new(State::SynReceived, iss, syn.seq, now, buffers);
        conn.peer_window = syn.window;
        conn.due = Some(now + SECOND);
        out.push(conn.syn());
        conn
    }

    pub(super) fn due(&self) -> Option<Nanos> {
        self.due
    }

    /// Returns true once the peer's FIN was reached and everything before it was read.
    pub(super) fn at_end(&self) -> bool {
        self.input.is_empty() && self.peer_fin.is_some_and(|fin| self.expected > fin)
    }

    pub(super) fn unread(&self) -> usize {
        self.input.len()
    }

    /// Returns true if `seq` could be the number of a segment that a dial in SYN_SENT has in flight. An ICMP error must
    /// quote such a number to be believed.
    pub(super) fn has_out(&self, seq: u32) -> bool {
        u64::from(seq.wrapping_sub(self.seq(self.una))) < (self.next - self.una).max(1)
    }

    fn seq(&self, offset: u64) -> u32 {
        self.iss.wrapping_add(offset as u32)
    }

    fn make(&self, flags: Flags, offset: u64, data: Bytes) -> Segment {
        let window = u32::try_from(self.window()).unwrap_or(u32::MAX);
        let window = if flags.syn() { window.min(SYN_WINDOW) } else { window };
        let ack = if flags.ack() { self.irs.wrapping_add(self.expected as u32) } else { 0 };
        Segment { flags, seq: self.seq(offset), ack, window, data }
    }

    /// Bytes that the receive buffer has room for.
    fn window(&self) -> usize {
        self.buffers.receive.saturating_sub(self.input.len())
    }

    fn syn(&self) -> Segment {
        let flags = if self.state == State::SynSent { Flags::SYN } else { Flags::SYN | Flags::ACK };
        self.make(flags, 0, Bytes::new())
    }

    fn ack(&self) -> Segment {
        self.make(Flags::ACK, self.next, Bytes::new())
    }

    /// The RST that ends a connection that was open.
    pub(super) fn reset(&self) -> Option<Segment> {
        let open = !matches!(self.state, State::SynSent | State::TimeWait | State::Closed);
        open.then(|| self.make(Flags::RST | Flags::ACK, self.next, Bytes::new()))
    }

    pub(super) fn segment(&mut self, now: Nanos, s: &Segment, out: &mut Vec<Segment>) -> Change {
        if self.state == State::SynSent {
            return self.in_syn_sent(now, s, out);
        }
        let seq = self.expected as i64
            + i64::from(s.seq.wrapping_sub(self.irs.wrapping_add(self.expected as u32)) as i32);
        if s.flags.rst() {
            // RFC 5961 section 3.2: only the exact number is believed.
            return match seq {
                _ if self.state == State::TimeWait => Change::Nothing,
                n if n == self.expected as i64 => Change::Failed(Failure::Reset),
                n if n > self.expected as i64 && n < self.expected as i64 + self.buffers.receive as i64 => {
                    out.push(self.ack());
                    Change::Nothing
                }
                _ => Change::Nothing,
            };
        }
        if s.flags.syn() {
            let crossing = self.state == State::SynReceived && seq == 0;
            match (crossing, s.flags.ack()) {
                // The second half of a simultaneous open.
                (true, true) if s.ack == self.seq(1) => {
                    self.established(now, s.window);
                    out.push(self.ack());
                    self.push(now, out);
                    return Change::Established;
                }
                (true, false) => out.push(self.syn()),
                // RFC 5961 section 4.2.
                _ => out.push(self.ack()),
            }
            return Change::Nothing;
        }
        if !s.flags.ack() {
            return Change::Nothing;
        }
        let mut change = Change::Nothing;
        if self.state == State::SynReceived {
            if s.ack != self.seq(1) {
                out.extend(s.refusal());
                return Change::Nothing;
            }
            self.established(now, s.window);
            change = Change::Established;
        }
        if self.orphan && !s.data.is_empty() && seq + s.data.len() as i64 > self.expected as i64 {
            out.extend(self.reset());
            return Change::Gone;
        }
        if self.acknowledged(now, s, out) {
            return self.gone();
        }
        if self.take(now, seq, s, out) && change == Change::Nothing {
            change = Change::Readable;
        }
        self.push(now, out);
        change
    }

    fn in_syn_sent(&mut self, now: Nanos, s: &Segment, out: &mut Vec<Segment>) -> Change {
        if s.flags.ack() && s.ack != self.seq(1) {
            out.extend(s.refusal());
            return Change::Nothing;
        }
        if s.flags.rst() {
            return if s.flags.ack() { Change::Failed(Failure::Refused) } else { Change::Nothing };
        }
        if !s.flags.syn() {
            return Change::Nothing;
        }
        self.irs = s.seq;
        self.peer_window = s.window;
        if s.flags.ack() {
            self.established(now, s.window);
            out.push(self.ack());
            return Change::Established;
        }
        // RFC 9293 section 3.5, figure 7: the SYNs crossed.
        self.state = State::SynReceived;
        self.tries = 0;
        self.began = now;
        self.due = Some(now + SECOND);
        out.push(self.syn());
        Change::Nothing
    }

    fn established(&mut self, now: Nanos, window: u32) {
        self.state = State::Established;
        self.una = 1;
        self.next = 1;
        // Karn: what was repeated is not timed.
        if self.tries == 0 {
            self.measured(now - self.began);
        }
        self.tries = 0;
        self.peer_window = window;
        self.due = None;
    }

    /// Takes a measured round trip: the next repeat waits as RFC 6298 section 2 says, with Linux's least of 200 ms for
    /// the variation.
    fn measured(&mut self, trip: Nanos) {
        let (smooth, variation) = match self.trip {
            None => (trip, trip / 2),
            Some((smooth, variation)) => {
                ((7 * smooth + trip) / 8, (3 * variation + smooth.abs_diff(trip)) / 4)
            }
        };
        self.trip = Some((smooth, variation));
        self.rto = smooth + (4 * variation).max(200 * MILLI);
    }

    /// Takes the acknowledgement in; whether that was the last thing to wait for.
    fn acknowledged(&mut self, now: Nanos, s: &Segment, out: &mut Vec<Segment>) -> bool {
        self.peer_window = s.window;
        let ack = self.una as i64 + i64::from(s.ack.wrapping_sub(self.seq(self.una)) as i32);
        if ack > self.next as i64 {
            return false;
        }
        if ack <= self.una as i64 {
            if ack == self.una as i64 && self.next == self.una && !self.output.is_empty() {
                self.probed(s.window);
            }
            let duplicate = ack == self.una as i64 && s.data.is_empty() && self.next > self.una;
            self.repeats = if duplicate { self.repeats.saturating_add(1) } else { self.repeats };
            if self.repeats == 3 {
                self.recover = self.next;
                self.timed = None;
                out.extend(self.first_unacknowledged());
            }
            return false;
        }
        let ack = ack as u64;
        let gone = (ack - self.una).min(self.output.len() as u64);
        self.output.drain(..gone as usize);
        self.una = ack;
        if let Some((_, since)) = self.timed.take_if(|(offset, _)| *offset <= ack) {
            self.measured(now - since);
        }
        self.tries = 0;
        self.repeats = 0;
        self.due = (self.next > self.una).then_some(now + self.rto);
        if ack < self.recover {
            out.extend(self.first_unacknowledged());
        }
        let finished = self.finish && self.output.is_empty() && self.una == self.next && self.fin_sent();
        if finished {
            match self.state {
                State::FinWait1 => {
                    self.state = State::FinWait2;
                    self.due = self.orphan.then_some(now + LINGER);
                }
                State::Closing => self.linger(now),
                State::LastAck => return true,
                _ => {}
            }
        }
        false
    }

    /// Takes the answer to a probe: it proves that the peer is there, and may open the window.
    fn probed(&mut self, window: u32) {
        if window == 0 {
            self.tries = self.tries.min(TRIES.2 - 1);
        } else {
            self.tries = 0;
            self.due = None;
        }
    }

    fn gone(&mut self) -> Change {
        self.state = State::Closed;
        self.due = None;
        Change::Gone
    }

    /// Ends with an error; how many bytes are left to read.
    pub(super) fn fail(&mut self) -> usize {
        self.gone();
        self.input.len()
    }

    fn fin_sent(&self) -> bool {
        matches!(
            self.state,
            State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck | State::TimeWait
        )
    }

    fn linger(&mut self, now: Nanos) {
        self.state = State::TimeWait;
        self.due = Some(now + LINGER);
    }

    /// Takes the payload in; whether there is news for the reader.
    fn take(&mut self, now: Nanos, seq: i64, s: &Segment, out: &mut Vec<Segment>) -> bool {
        if s.length() == 0 {
            // A segment under the window is a probe or a repeat, and wants an answer.
            if seq < self.expected as i64 {
                out.push(self.ack());
            }
            return false;
        }
        let before = self.expected;
        if s.flags.fin() {
            self.peer_fin = Some((seq + s.data.len() as i64) as u64);
        }
        if !s.data.is_empty() {
            let skip = (before as i64 - seq).clamp(0, s.data.len() as i64);
            let start = (seq + skip) as u64;
            let room = (before + self.window() as u64).saturating_sub(start);
            let fresh = s.data.slice(skip as usize..);
            let fresh = fresh.slice(..fresh.len().min(room as usize));
            if !fresh.is_empty() {
                self.early.insert(start, fresh);
            }
        }
        while let Some((&start, _)) = self.early.first_key_value() {
            if start > self.expected {
                break;
            }
            let Some((_, data)) = self.early.pop_first() else { break };
            let skip = (self.expected - start).min(data.len() as u64);
            self.input.extend(&data[skip as usize..]);
            self.expected += data.len() as u64 - skip;
        }
        if self.peer_fin == Some(self.expected) {
            self.expected += 1;
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.linger(now),
                _ => {}
            }
        }
        out.push(self.ack());
        self.expected > before
    }

    /// Sends all that may be sent.
    fn push(&mut self, now: Nanos, out: &mut Vec<Segment>) {
        if !matches!(self.state, State::Established | State::CloseWait) {
            return;
        }
        let limit = self.una + u64::from(self.peer_window.min(WINDOW));
        loop {
            let sent = (self.next - self.una) as usize;
            let left = self.output.len().saturating_sub(sent);
            let room = limit.saturating_sub(self.next) as usize;
            let size = left.min(room).min(MSS);
            if size == 0 {
                break;
            }
            let data = self.output_bytes(sent, size);
            out.push(self.make(Flags::ACK, self.next, data));
            self.next += size as u64;
            self.timed.get_or_insert((self.next, now));
        }
        let all = (self.next - self.una) as usize == self.output.len();
        if self.finish && all {
            out.push(self.make(Flags::FIN | Flags::ACK, self.next, Bytes::new()));
            self.next += 1;
            self.state = if self.state == State::Established { State::FinWait1 } else { State::LastAck };
        }
        // With a closed window the timer probes.
        if self.due.is_none() && (self.next > self.una || !self.output.is_empty()) {
            self.due = Some(now + self.rto);
        }
    }

    /// A copy of `size` bytes of the output behind the first `from`.
    fn output_bytes(&self, from: usize, size: usize) -> Bytes {
        let (first, second) = self.output.as_slices();
        if let Some(data) = first.get(from..from + size) {
            return Bytes::copy_from_slice(data);
        }
        let tail = &first[from.min(first.len())..];
        let rest = from.saturating_sub(first.len());
        [tail, &second[rest..rest + size - tail.len()]].concat().into()
    }

    fn first_unacknowledged(&self) -> Option<Segment> {
        let size = self.output.len().min(MSS);
        if size > 0 {
            let data = self.output_bytes(0, size);
            return Some(self.make(Flags::ACK, self.una, data));
        }
        (self.next > self.una && self.fin_sent())
            .then(|| self.make(Flags::FIN | Flags::ACK, self.una, Bytes::new()))
    }

    pub(super) fn timer(&mut self, now: Nanos, profile: &Profile, out: &mut Vec<Segment>) -> Change {
        self.tries += 1;
        match self.state {
            State::TimeWait | State::FinWait2 | State::Closed => return self.gone(),
            State::SynSent => {
                if usize::from(self.tries) > profile.syn_repeats() {
                    return Change::Failed(Failure::TimedOut);
                }
                out.push(self.syn());
                self.due = Some(now + profile.syn_gap(self.tries));
            }
            State::SynReceived => {
                if self.tries > TRIES.0 {
                    return Change::Failed(Failure::TimedOut);
                }
                out.push(self.syn());
                self.due = Some(now + (SECOND << self.tries));
            }
            _ => {
                if self.tries > if self.orphan { TRIES.2 } else { TRIES.1 } {
                    return Change::Failed(Failure::TimedOut);
                }
                if self.next == self.una && !self.output.is_empty() {
                    // A probe of a closed window, as Linux's: no bytes, of a number that wants an answer.
                    out.push(self.make(Flags::ACK, self.una - 1, Bytes::new()));
                } else {
                    self.recover = self.next;
                    self.timed = None;
                    out.extend(self.first_unacknowledged());
                }
                self.due = Some(now + (self.rto << self.tries.min(8)).min(120 * SECOND));
            }
        }
        Change::Nothing
    }

    /// Bytes that the send buffer has room for.
    pub(super) fn room(&self) -> usize {
        if self.finish { 0 } else { self.buffers.send.saturating_sub(self.output.len()) }
    }

    /// Takes what there is room for; how many bytes.
    pub(super) fn send(&mut self, now: Nanos, data: &[u8], out: &mut Vec<Segment>) -> usize {
        let taken = data.len().min(self.room());
        if taken > 0 {
            self.output.extend(&data[..taken]);
            self.full = self.room() == 0;
            self.push(now, out);
        }
        taken
    }

    /// Returns true once when there is room again after the buffer was full: as on Linux half as much as is taken.
    pub(super) fn roomy(&mut self) -> bool {
        let roomy = self.full && self.room() >= self.output.len() / 2;
        self.full &= !roomy;
        roomy
    }

    /// Sends FIN after the queue.
    pub(super) fn finish(&mut self, now: Nanos, orphan: bool, out: &mut Vec<Segment>) {
        self.finish = true;
        self.orphan |= orphan;
        if self.orphan && self.state == State::FinWait2 {
            self.due = Some(now + LINGER);
        }
        self.push(now, out);
    }

    /// Takes up to `most` bytes out of the input.
    pub(super) fn read(&mut self, most: usize, out: &mut Vec<Segment>) -> Vec<u8> {
        let before = self.window();
        let count = most.min(self.input.len());
        let (first, second) = self.input.as_slices();
        let mut taken = first[..count.min(first.len())].to_vec();
        taken.extend_from_slice(&second[..count - taken.len()]);
        self.input.drain(..count);
        // RFC 9293 section 3.8.6.2.2: no news of a window that opens by less than a segment.
        if before < MSS && self.window() >= MSS.min(self.buffers.receive / 2) {
            out.push(self.ack());
        }
        taken
    }
}
