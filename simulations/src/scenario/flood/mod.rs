//! Strangers who know a node's address and flood it while honest calls run: their acts, as data.
//!
//! Each part of a flood is a host on the internet with keys of its own. None of them is named by anybody. So a call
//! between two who have named each other must do as well as in a calm world. Nobody else may pay for the strangers'
//! requests.

mod draw;
mod letters;
mod stranger;

use std::net::{IpAddr, Ipv4Addr};

use crate::engine::{Nanos, SECOND};

pub(super) use draw::draw;
pub use letters::Asked;
pub use stranger::{Aim, Stranger};

/// A third party that refuses packets to other ports than [`OPEN`], and says nothing there.
pub const BYSTANDER: IpAddr = IpAddr::V4(Ipv4Addr::new(45, 30, 0, 1));
/// A third party's address at which there is nobody.
pub const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(45, 30, 0, 2));
/// The bystander's open ports.
pub const OPEN: [u16; 2] = [80, 11_211];
/// The port at which strangers have others dial inside addresses: none of the node's own.
pub const INSIDE_PORT: u16 = 22;
/// A flood goes on for so long at most after it began.
pub const FLOOD_FOR: Nanos = 40 * SECOND;
/// Most SYNs that a request of a stranger may cost a third party. [`MOST_DATAGRAMS`] is the same for datagrams, and
/// [`MOST_BYTES`] for bytes, for each byte of the request.
pub const MOST_SYNS: u64 = 4;
/// See [`MOST_SYNS`].
pub const MOST_DATAGRAMS: u64 = 3;
/// See [`MOST_SYNS`].
pub const MOST_BYTES: u64 = 3;

/// The first address of the hosts that do a flood's parts.
pub const fn stranger_ip(part: usize, n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(45, 20, part as u8, n + 1))
}

/// Relation between the listener and the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// Each is in the other's list, and nobody else is.
    Listed,
    /// The users are asked, and each has said yes to the other.
    Approved,
    /// The list lets anybody call, and the users have said yes to each other.
    Remembered,
    /// The list lets anybody call: the caller is a stranger like any other.
    Nobody,
}

/// A flood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flood {
    /// True for the listener, and for the caller, if it is flooded.
    pub victims: [bool; 2],
    /// Relation between those two.
    pub named: Named,
    /// Duration of the flood before each call.
    pub warm: Nanos,
    /// Acts of the flood, all at once.
    pub parts: Vec<Part>,
}

/// Acts of one host of strangers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Number of addresses.
    pub addresses: u8,
    /// Number of keys.
    pub keys: u16,
    /// Time between two acts.
    pub every: Nanos,
    /// Most acts in each flood.
    pub acts: u32,
    /// Kind of the acts.
    pub act: Act,
}

/// Kind of an act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// TCP connections on which this is said; closed after so long, if ever.
    Stream(Greeting, Option<Nanos>),
    /// Sealed messages over every broker, these in turn, dated so many seconds ahead.
    Letter(Vec<Plea>, i64),
    /// Datagrams at UDP ports and relayed addresses.
    Datagram,
}

/// Progress of a hello before it stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Greeting {
    /// Silence.
    Silent,
    /// Random bytes.
    Garbage,
    /// The first bytes of a first frame, so many.
    Cut(u8),
    /// A first frame, and then nothing.
    First,
    /// The same first frame each time.
    Again,
    /// A hello up to a pipe, which is held.
    Pipe,
}

/// Request or statement of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plea {
    /// DIRECT with an address of this kind.
    Dial(Whose),
    /// INITIAL_MAPPINGS.
    Punch(Whose),
    /// TURN_REQUEST.
    Relay(Whose),
    /// ECHO.
    Echo,
    /// CLOCK about nothing.
    Clock,
    /// DIALLED in no session.
    Dialled,
    /// REFUSED in no session.
    Refused,
    /// No message at all.
    Noise,
}

/// Owner of the address that a message names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The stranger's own, which answers and then says nothing.
    Own,
    /// A third party's.
    Third,
    /// An address that only the node can reach, or the node itself.
    Inside,
}

impl Flood {
    /// Describes the flood in words.
    pub fn what(&self) -> String {
        let victims = ["listener", "caller"].iter().zip(self.victims).filter(|(_, is)| *is);
        let victims: Vec<&str> = victims.map(|(who, _)| *who).collect();
        let parts: Vec<String> = self.parts.iter().map(Part::what).collect();
        format!(", {:?}, strangers at {}: {}", self.named, victims.join(" and "), parts.join(" + "))
    }
}

impl Part {
    fn what(&self) -> String {
        let rate = SECOND / self.every.max(1);
        let act = match &self.act {
            Act::Stream(greeting, _) => format!("{greeting:?}"),
            Act::Letter(pleas, ahead) => format!("{pleas:?} {ahead} s ahead"),
            Act::Datagram => "datagrams".into(),
        };
        format!("{act} {rate}/s of {} keys from {} addresses", self.keys, self.addresses)
    }
}
