//! A NAT's view of one TCP connection, as Linux 6.18 conntrack has it: the states of both directions and the windows.
//! Written from the rules in `simulations/netsim/data/README.md`, which were measured.
//!
//! Windows matter to punching where an ICMP error ended a dial: its entry stays. The peer's SYN then passes in and
//! meets the listener beside the dial, whose SYN-ACK has a later initial sequence number than the entry knows. That
//! SYN-ACK is invalid and leaves the router untranslated. After the peer's SYN has come again it may pass, but what follows
//! it is invalid: both ends are connected, and no byte passes.

use crate::engine::Nanos;
use crate::nat::{NatSpec, OnRst, Tracking};
use crate::net::Segment;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TcpState {
    SynSent,
    /// The SYNs crossed.
    SynSent2,
    SynReceived,
    Established,
    /// A FIN was seen.
    Closing,
    /// Two FINs were seen, one in each direction.
    TimeWait,
    /// A RST was seen.
    Closed,
}

/// Decision about a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Pass,
    /// The segment does not belong to the session.
    Invalid,
    /// The segment passes, and the session is deleted.
    PassAndForget,
    /// The session is over and a new one begins with this segment.
    Renew,
}

/// Place of a segment in the windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fit {
    Inside,
    /// Beyond the window by no more than another one: Linux lets it pass and be translated, but the session's state stays.
    Over,
    Outside,
}

/// State of one end, as seen in its segments.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    seen: bool,
    /// End of the sequence numbers sent: one past the last.
    end: u32,
    /// End of the sequence numbers that the other end allows: one past the last.
    allowed: u32,
    /// Largest window that the end ever offered.
    window: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Track {
    pub(super) state: TcpState,
    /// The direction that began comes first.
    ends: [End; 2],
    replied: bool,
    fin: [bool; 2],
}

fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

impl Track {
    /// A session that this SYN begins.
    pub(super) fn new(syn: &Segment) -> Track {
        let mut track =
            Track { state: TcpState::SynSent, ends: [End::default(); 2], replied: false, fin: [false; 2] };
        track.begin(0, syn);
        track.ends[1].allowed = syn.window;
        track
    }

    fn begin(&mut self, from: usize, syn: &Segment) {
        let end = syn.seq.wrapping_add(syn.length());
        self.ends[from] = End { seen: true, end, allowed: end, window: syn.window.max(1) };
    }

    pub(super) fn lifetime(&self, spec: &NatSpec) -> Nanos {
        let timers = &spec.timers;
        match self.state {
            TcpState::SynSent | TcpState::SynSent2 => timers.syn,
            TcpState::SynReceived => timers.syn_received,
            TcpState::Established => timers.established,
            TcpState::Closing => timers.closing,
            TcpState::TimeWait => timers.time_wait,
            TcpState::Closed => timers.closed,
        }
    }

    /// Returns true once the session has run its course, so that a SYN may begin anew.
    fn over(&self) -> bool {
        matches!(self.state, TcpState::TimeWait | TcpState::Closed)
    }

    /// A segment in the direction that began (`reply` false) or in the other.
    pub(super) fn step(&mut self, spec: &NatSpec, reply: bool, s: &Segment) -> Step {
        if spec.tracking == Tracking::Contacts {
            return self.step_loosely(spec, reply, s);
        }
        let (syn, ack) = (s.flags.syn(), s.flags.ack());
        if s.flags.rst() {
            if spec.on_rst == OnRst::Keep {
                return Step::Pass;
            }
            if !self.replied {
                return Step::PassAndForget;
            }
            match self.fits(reply, s) {
                Fit::Inside => {}
                Fit::Over => return Step::Pass,
                Fit::Outside => return Step::Invalid,
            }
            if spec.on_rst == OnRst::Delete {
                return Step::PassAndForget;
            }
            self.state = TcpState::Closed;
            return Step::Pass;
        }
        use TcpState::{Closing, Established, SynReceived, SynSent, SynSent2};
        let next = match (self.state, syn, ack, reply) {
            (SynSent, true, false, false) => SynSent,
            (SynSent, true, false, true) if !spec.simultaneous_open => return Step::Invalid,
            (SynSent | SynSent2, true, false, _) => SynSent2,
            (SynSent, true, true, true) | (SynSent2, true, true, _) => SynReceived,
            (SynReceived, true, true, false) => SynReceived,
            _ if syn && !ack && !reply && self.over() => return Step::Renew,
            // Linux lets a SYN-ACK and a SYN of a known session pass without looking ("ignored").
            (SynReceived | Established | Closing, true, true, true) => return Step::Pass,
            (SynReceived | Established | Closing, true, false, false) => return Step::Pass,
            (_, true, _, _) => return Step::Invalid,
            // An acknowledgement before any SYN-ACK: the reply's is ignored, the other is invalid.
            (SynSent | SynSent2, false, _, true) if !s.flags.fin() => return Step::Pass,
            (SynSent | SynSent2, false, _, _) => return Step::Invalid,
            (SynReceived, false, true, _) => Established,
            (state, ..) => state,
        };
        let fit = self.fits(reply, s);
        if fit == Fit::Outside {
            return Step::Invalid;
        }
        self.replied |= reply;
        if fit == Fit::Over {
            return Step::Pass;
        }
        self.state = next;
        self.note_fin(reply, s);
        Step::Pass
    }

    fn note_fin(&mut self, reply: bool, s: &Segment) {
        if s.flags.fin() {
            self.fin[usize::from(reply)] = true;
            self.state = if self.fin == [true; 2] { TcpState::TimeWait } else { TcpState::Closing };
        }
    }

    /// Ends, timers and flags, without asking whether they fit.
    fn step_loosely(&mut self, spec: &NatSpec, reply: bool, s: &Segment) -> Step {
        use TcpState::{Established, SynReceived, SynSent, SynSent2};
        if s.flags.rst() {
            return match spec.on_rst {
                OnRst::Delete => Step::PassAndForget,
                OnRst::DeleteUnreplied if !self.replied => Step::PassAndForget,
                OnRst::DeleteUnreplied => {
                    self.state = TcpState::Closed;
                    Step::Pass
                }
                OnRst::Keep => Step::Pass,
            };
        }
        let (syn, ack) = (s.flags.syn(), s.flags.ack());
        if syn && !ack && reply && self.state == SynSent && !spec.simultaneous_open {
            return Step::Invalid;
        }
        if syn && !ack && !reply && self.over() {
            return Step::Renew;
        }
        self.state = match (self.state, syn, ack, reply) {
            (SynSent, true, false, true) => SynSent2,
            (SynSent | SynSent2, true, true, _) => SynReceived,
            (SynReceived, false, true, _) => Established,
            (state, ..) => state,
        };
        self.replied |= reply;
        self.note_fin(reply, s);
        Step::Pass
    }

    /// Returns where the segment lies, and updates the windows from it.
    fn fits(&mut self, reply: bool, s: &Segment) -> Fit {
        let from = usize::from(reply);
        let (syn, ack) = (s.flags.syn(), s.flags.ack());
        let reopened = syn
            && after(s.seq.wrapping_add(s.length()), self.ends[from].end)
            && matches!(self.state, TcpState::SynSent | TcpState::SynReceived);
        if !self.ends[from].seen || reopened {
            self.begin(from, s);
            if !ack && (reply || !reopened) {
                return Fit::Inside;
            }
        }
        let to = self.ends[1 - from];
        let sender = &mut self.ends[from];
        let answers_syn = s.flags.rst() && s.seq == 0 && self.state == TcpState::SynSent;
        let seq = if answers_syn { sender.end } else { s.seq };
        let end = if answers_syn { sender.end } else { s.seq.wrapping_add(s.length()) };
        let acked = if !ack || (s.flags.rst() && s.ack == 0) { to.end } else { s.ack };
        let in_window = to.window == 0 || after(end, sender.end.wrapping_sub(to.window).wrapping_sub(1));
        let farthest = sender.window.max(66_000);
        let ack_fresh = after(acked, to.end.wrapping_sub(farthest).wrapping_sub(1));
        if after(seq, sender.allowed) {
            let over = end.wrapping_sub(sender.allowed).wrapping_add(1);
            if to.window != 0 && in_window && ack_fresh && over <= to.window && !after(acked, to.end) {
                sender.end = end;
                return Fit::Over;
            }
            return Fit::Outside;
        }
        if after(acked, to.end) || !in_window || !ack_fresh {
            return Fit::Outside;
        }
        sender.window = sender.window.max(s.window);
        if after(end, sender.end) {
            sender.end = end;
        }
        let receiver = &mut self.ends[1 - from];
        let limit = acked.wrapping_add(s.window.max(1));
        if after(limit, receiver.allowed) || !receiver.seen {
            receiver.allowed = limit;
        }
        Fit::Inside
    }
}
