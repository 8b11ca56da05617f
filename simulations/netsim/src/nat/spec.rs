//! A NAT as plain data. Every difference between NATs that a peer can observe is a field here. So a new kind of NAT is
//! a row in a table and not code.

use crate::engine::{Nanos, SECOND};

/// Dependence of a mapping or a filter (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Dependence {
    /// Endpoint-independent.
    Endpoint,
    /// Address-dependent.
    Address,
    /// Address- and port-dependent.
    AddressAndPort,
}

/// Allocation of a new mapping's external port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alloc {
    /// The inside port, and if that is taken the choice of `Clash`.
    Preserve(Clash),
    /// The inside port plus a constant, within the range.
    Offset(i16),
    /// The port after the last one.
    Sequential {
        /// Difference from one port to the next.
        step: i16,
        /// Users of one counter.
        scope: Scope,
    },
    /// A base drawn once per inside address, plus `step` for each step of the inside port.
    Dependent {
        /// Difference for each step of the inside port.
        step: i16,
    },
    /// Any free port of the range.
    Random,
    /// Any free port of the inside port's parity (RFC 4787 REQ-4).
    Parity,
    /// Any free port out of a block of this size that belongs to the inside address (RFC 7422).
    Block(u16),
    /// The next free port of such a block, which begins again at its end.
    CountedBlock(u16),
    /// The port after the last one, by 1 to this many more: a counter of which nobody knows who else moves it.
    Drift(u16),
    /// The inside port in so many of a thousand cases, and any free port in the others.
    Mixed(u16),
    /// A random port for each inside port, the same again whenever it is free.
    Sticky,
}

/// Choice where the port to preserve is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clash {
    /// A random one, as Linux does.
    Random,
    /// The next free one.
    Next,
}

/// Users of a sequential counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All hosts behind the NAT, and its background flows.
    Global,
    /// Each inside address has its own.
    Host,
}

/// Uniqueness of an external port (RFC 4787 REQ-3, RFC 7857 section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unique {
    /// The port together with the remote end, as in Linux: two inside hosts may share a port.
    FiveTuple,
    /// The port.
    Port,
    /// The flow alone: one inside end has the same port for each of its mappings, and two inside hosts may share one
    /// (RFC 4787 section 4.2.1 calls it overloading).
    Shared,
}

/// The answer to a packet that nothing inside asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unsolicited {
    /// Silence.
    Drop,
    /// RST to TCP, ICMP port unreachable to UDP.
    Rst,
    /// ICMP port unreachable.
    IcmpPort,
    /// ICMP host unreachable.
    IcmpHost,
    /// ICMP administratively prohibited.
    IcmpAdmin,
    /// The router's own stack gets the packet and answers: RST to TCP, ICMP to UDP. UDP leaves an entry that takes the
    /// tuple away from those inside for 30 s (measured on Linux).
    Local,
    /// Silence for 6 s, and then ICMP port unreachable unless the inside has dialled out meanwhile
    /// (RFC 5382 REQ-4).
    Delayed,
}

/// Effect of a RST on the session that it crosses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnRst {
    /// Deletion of a session without a reply yet, as in Linux. Another session closes.
    DeleteUnreplied,
    /// Deletion of any session, and of an endpoint-independent mapping with it.
    Delete,
    /// No effect (RFC 7857 section 2.2 asks for four minutes more).
    Keep,
}

/// Treatment of a packet from inside to one of the NAT's own external addresses (RFC 4787 REQ-9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hairpin {
    /// The router itself, which refuses.
    Refused,
    /// Silence.
    Dropped,
    /// The inside host with that mapping, which sees the sender's external end, as it must be.
    External,
    /// The inside host with that mapping, which sees the sender's inside end, and answers past the NAT.
    Internal,
}

/// Depth of the tracking of TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracking {
    /// States and windows, as in Linux conntrack. A packet that does not fit is not translated, goes out with its
    /// inside source and comes in as unsolicited. Filtering by address and port means: a session exists.
    Conntrack,
    /// Ends and timers only: a remote end that was sent to may send, as long as the mapping lives.
    Contacts,
}

/// Lifetimes of the entries of a NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// A SYN without answer.
    pub syn: Nanos,
    /// A connection that is being opened.
    pub syn_received: Nanos,
    /// An established connection.
    pub established: Nanos,
    /// A connection after a FIN.
    pub closing: Nanos,
    /// A connection after both FINs.
    pub time_wait: Nanos,
    /// A connection after a RST, where that does not delete.
    pub closed: Nanos,
    /// UDP without a reply.
    pub udp: Nanos,
    /// UDP with replies.
    pub udp_replied: Nanos,
    /// A mapping that serves many sessions, after the last packet out.
    pub mapping: Nanos,
}

impl Timers {
    /// Linux 6.18, read from its sysctls; the mapping is the lab's nft map.
    pub const LINUX: Timers = Timers {
        syn: 120 * SECOND,
        syn_received: 60 * SECOND,
        established: 432_000 * SECOND,
        closing: 120 * SECOND,
        time_wait: 120 * SECOND,
        closed: 10 * SECOND,
        udp: 30 * SECOND,
        udp_replied: 120 * SECOND,
        mapping: 3_600 * SECOND,
    };

    /// The least that RFC 5382 REQ-5 and RFC 4787 REQ-5 allow.
    pub const RFC: Timers = Timers {
        syn: 240 * SECOND,
        syn_received: 240 * SECOND,
        established: 7_440 * SECOND,
        closing: 240 * SECOND,
        time_wait: 240 * SECOND,
        closed: 240 * SECOND,
        udp: 300 * SECOND,
        udp_replied: 300 * SECOND,
        mapping: 300 * SECOND,
    };

    /// Replaces the lifetimes of opening and of open connections, in seconds.
    pub const fn with(mut self, syn: u64, established: u64) -> Timers {
        self.syn = syn * SECOND;
        self.syn_received = syn * SECOND;
        self.established = established * SECOND;
        self
    }
}

/// Limits, 0 meaning none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caps {
    /// Sessions in all.
    pub total: u32,
    /// Sessions per inside address.
    pub per_host: u32,
}

/// A NAT, or with `translate` off a stateful firewall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatSpec {
    /// True if addresses are translated. If false, addresses stay as they are, and only filtering is left.
    pub translate: bool,
    /// Mapping behaviour for TCP.
    pub mapping: Dependence,
    /// Filtering behaviour for TCP.
    pub filtering: Dependence,
    /// Mapping and filtering behaviour for UDP.
    pub udp: (Dependence, Dependence),
    /// Allocation of external ports.
    pub alloc: Alloc,
    /// Uniqueness of external ports.
    pub unique: Unique,
    /// Lowest and highest external port.
    pub range: (u16, u16),
    /// Number of external addresses, one after the other.
    pub pool: u8,
    /// True if an inside address keeps its external one (RFC 4787 REQ-2).
    pub paired: bool,
    /// Answer to unsolicited packets.
    pub unsolicited: Unsolicited,
    /// Depth of the tracking of TCP.
    pub tracking: Tracking,
    /// Effect of a RST.
    pub on_rst: OnRst,
    /// True if a SYN that meets a SYN from inside passes (RFC 5382 REQ-2).
    pub simultaneous_open: bool,
    /// Treatment of packets from inside to an external address.
    pub hairpin: Hairpin,
    /// Lifetimes of entries.
    pub timers: Timers,
    /// True if packets from outside prolong a mapping (RFC 4787 REQ-6).
    pub refresh_inbound: bool,
    /// Limits.
    pub caps: Caps,
    /// Mappings that other users open, in a thousand seconds, advancing a shared counter.
    pub background: u32,
    /// True if packets that match no mapping go to the first host inside, on the same port (1:1 NAT, DMZ).
    pub dmz: bool,
    /// True if UDP passes. Otherwise it is dropped in both directions.
    pub udp_passes: bool,
    /// Bits of UDP a second that pass in each direction; 0 for any. What is more is dropped.
    pub udp_rate: u32,
    /// True if nothing leaves but TCP to ports 80 and 443.
    pub narrow: bool,
    /// True if each RST that the NAT itself sends takes a port, as where nft counts ports by `numgen`.
    pub refusal_takes_port: bool,
}

impl NatSpec {
    /// Most home routers: Linux masquerading, silent towards strangers.
    pub const LINUX: NatSpec = NatSpec {
        translate: true,
        mapping: Dependence::AddressAndPort,
        filtering: Dependence::AddressAndPort,
        udp: (Dependence::AddressAndPort, Dependence::AddressAndPort),
        alloc: Alloc::Preserve(Clash::Random),
        unique: Unique::FiveTuple,
        range: (1024, 65535),
        pool: 1,
        paired: true,
        unsolicited: Unsolicited::Drop,
        tracking: Tracking::Conntrack,
        on_rst: OnRst::DeleteUnreplied,
        simultaneous_open: true,
        hairpin: Hairpin::Refused,
        timers: Timers::LINUX,
        refresh_inbound: true,
        caps: Caps { total: 0, per_host: 0 },
        background: 0,
        dmz: false,
        udp_passes: true,
        udp_rate: 0,
        narrow: false,
        refusal_takes_port: false,
    };

    /// A NAT as RFC 4787 and RFC 5382 ask for.
    pub const RFC: NatSpec = NatSpec {
        unique: Unique::Port,
        unsolicited: Unsolicited::Delayed,
        tracking: Tracking::Contacts,
        on_rst: OnRst::Keep,
        hairpin: Hairpin::External,
        timers: Timers::RFC,
        refresh_inbound: false,
        ..Self::LINUX.with(Dependence::Endpoint, Dependence::Endpoint)
    };

    /// Replaces mapping and filtering, for TCP and UDP alike.
    pub const fn with(mut self, mapping: Dependence, filtering: Dependence) -> NatSpec {
        self.mapping = mapping;
        self.filtering = filtering;
        self.udp = (mapping, filtering);
        self
    }

    /// Replaces the allocation.
    pub const fn alloc(mut self, alloc: Alloc) -> NatSpec {
        self.alloc = alloc;
        self
    }

    /// Replaces the answer to unsolicited packets.
    pub const fn unsolicited(mut self, unsolicited: Unsolicited) -> NatSpec {
        self.unsolicited = unsolicited;
        self
    }
}
