//! Decisions of a NAT about packets.

use core::fmt;

use crate::engine::Nanos;
use crate::net::Packet;

/// A side of a NAT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: a NAT has two.
pub enum Side {
    /// The network of the hosts behind it.
    Inside,
    /// The network of its external addresses.
    Outside,
}

impl Side {
    /// Returns the other side.
    #[must_use]
    pub const fn other(self) -> Side {
        match self {
            Side::Inside => Side::Outside,
            Side::Outside => Side::Inside,
        }
    }
}

/// Decision of a NAT about one packet.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// The packet leaves on this side, with the addresses that it has there. A firewall leaves them as they were.
    Translated(Side, Box<Packet>),
    /// The packet came from inside and goes back there, to the host with the mapping it was sent to.
    Hairpinned(Box<Packet>),
    /// The packet leaves outside as it came, with its inside source: Linux does so with what conntrack calls invalid.
    Untranslated(Box<Packet>),
    /// The packet is dropped, and this RST or ICMP error to its sender leaves on this side.
    Answered(Side, Box<Packet>),
    /// The answer waits: at this time [`Nat::again`](super::Nat::again) is to judge the packet.
    Later(Nanos, Box<Packet>),
    /// The packet is dropped in silence.
    Dropped(Reason),
}

impl Verdict {
    /// Returns what leaves now, and on which side; `None` if nothing does.
    pub fn out(self) -> Option<(Side, Box<Packet>)> {
        match self {
            Verdict::Translated(side, packet) | Verdict::Answered(side, packet) => Some((side, packet)),
            Verdict::Hairpinned(packet) => Some((Side::Inside, packet)),
            Verdict::Untranslated(packet) => Some((Side::Outside, packet)),
            Verdict::Later(..) | Verdict::Dropped(_) => None,
        }
    }
}

/// Reason of a NAT to drop a packet without an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing inside has asked for it, and the NAT is silent, or has sent its share of ICMP errors.
    Unsolicited,
    /// The same, and the inside has dialled out while the answer waited (RFC 5382 REQ-4).
    Forgotten,
    /// Sent from inside to an external address, and the NAT does not turn it back.
    Hairpin,
    /// Part of no session, and not the beginning of one.
    NoSession,
    /// As many sessions exist as the NAT may have, or one inside address.
    SessionLimit,
    /// No external port is free.
    NoPort,
    /// The NAT has no external address.
    NoAddress,
    /// An ICMP error about a packet of no session.
    IcmpOfNothing,
    /// UDP does not pass.
    UdpBlocked,
    /// There is more UDP than may pass.
    UdpPoliced,
    /// Nothing but TCP to ports 80 and 443 leaves.
    Narrow,
}

impl Reason {
    /// Returns the reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Reason::Unsolicited => "unsolicited",
            Reason::Forgotten => "unsolicited, forgotten",
            Reason::Hairpin => "hairpin",
            Reason::NoSession => "no session",
            Reason::SessionLimit => "no session is left",
            Reason::NoPort => "no port is left",
            Reason::NoAddress => "no address",
            Reason::IcmpOfNothing => "icmp about nothing known",
            Reason::UdpBlocked => "udp is blocked",
            Reason::UdpPoliced => "udp is policed",
            Reason::Narrow => "only ports 80 and 443 get out",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
