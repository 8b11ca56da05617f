//! Plans of calls.

use std::ffi::c_char;
use std::time::Duration;

use p2pd_core::{PipeMode, Plan, ProtocolTag, Strategy};

use crate::border::{Sized32, read_struct, text};
use crate::status::*;

/// Ways to open a connection.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: C sees numbers.
pub enum p2pd_strategy {
    /// The node dials the peer's addresses.
    P2PD_DIRECT = 1,
    /// The peer, asked over a broker, dials this node's addresses.
    P2PD_REVERSE = 2,
    /// Both dial at the same time, through their NATs, over TCP.
    P2PD_PUNCH = 3,
    /// The same over UDP, with QUIC on the path that was found.
    P2PD_UDP = 4,
    /// A TURN server carries the bytes, which are sealed from end to end.
    P2PD_RELAY = 5,
}

/// Protection of a pipe's bytes.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: C sees numbers.
pub enum p2pd_mode {
    /// Both ends have proved who they are, and every byte is sealed.
    P2PD_ENCRYPTED = 0,
    /// Both ends have proved who they are, and nothing is protected after that. The listener has to permit it.
    P2PD_PLAIN = 1,
}

/// Plan of one call. All zero but `size` is the default, as is NULL in its place.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
// Exhaustive: C has its layout. It may grow at its end, and says its size.
pub struct p2pd_plan {
    /// sizeof(p2pd_plan).
    pub size: u32,
    /// A number of p2pd_mode. Does not count for sessions, which are encrypted.
    pub mode: u32,
    /// The call ends after so many milliseconds; 0 for 20,000. At most an hour.
    pub timeout_ms: u32,
    /// Not 0: the relay begins at once, beside the others. By default it begins when these have ended, or after 3 s.
    pub relay_first: u32,
    /// Numbers of p2pd_strategy, begun in this order; a 0 ends the list. An empty list is all.
    pub strategies: [u8; 8],
    /// Name of what is spoken over the pipe, 1 to 64 bytes, for listeners that take some only. NULL for none.
    pub protocol: *const c_char,
}

// SAFETY: numbers and a pointer, the size first.
unsafe impl Sized32 for p2pd_plan {
    const FIRST: usize = size_of::<p2pd_plan>();
}

const NONE: p2pd_plan = p2pd_plan {
    size: 0,
    mode: 0,
    timeout_ms: 0,
    relay_first: 0,
    strategies: [0; 8],
    protocol: std::ptr::null(),
};

pub(crate) fn number(strategy: Strategy) -> u32 {
    Strategy::ALL.iter().position(|known| *known == strategy).map_or(0, |place| place as u32 + 1)
}

pub(crate) unsafe fn read_plan(at: *const p2pd_plan) -> Result<Plan, Fault> {
    // SAFETY: as the caller's.
    let read = unsafe { read_struct(at, NONE) }?;
    let mut plan = Plan::new().relay_first(read.relay_first != 0);
    plan.mode = match read.mode {
        0 => PipeMode::Encrypted,
        1 => PipeMode::Plain,
        other => return Err(Fault::new(P2PD_ERR_ARGUMENT, format_args!("there is no mode {other}"))),
    };
    if read.timeout_ms != 0 {
        plan.timeout = Duration::from_millis(read.timeout_ms.into());
    }
    let numbers: Vec<u8> = read.strategies.into_iter().take_while(|number| *number != 0).collect();
    if !numbers.is_empty() {
        let strategy = |number: &u8| {
            let known = Strategy::ALL.get(usize::from(*number) - 1).copied();
            known.ok_or_else(|| Fault::new(P2PD_ERR_ARGUMENT, format_args!("there is no strategy {number}")))
        };
        plan.strategies = numbers.iter().map(strategy).collect::<Result<_, _>>()?;
    }
    if !read.protocol.is_null() {
        // SAFETY: as the caller's.
        plan.protocol = Some(tag(unsafe { text(read.protocol) }?)?);
    }
    Ok(plan)
}

pub(crate) fn tag(text: &str) -> Result<ProtocolTag, Fault> {
    ProtocolTag::new(text.as_bytes())
        .ok_or_else(|| Fault::new(P2PD_ERR_ARGUMENT, "a protocol's name has 1 to 64 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_strategy_has_the_number_of_its_name() {
        let names = [
            (p2pd_strategy::P2PD_DIRECT, Strategy::Direct),
            (p2pd_strategy::P2PD_REVERSE, Strategy::Reverse),
            (p2pd_strategy::P2PD_PUNCH, Strategy::Punch),
            (p2pd_strategy::P2PD_UDP, Strategy::Udp),
            (p2pd_strategy::P2PD_RELAY, Strategy::Relay),
        ];
        assert_eq!(names.map(|(_, strategy)| strategy), Strategy::ALL);
        assert!(names.iter().all(|(name, strategy)| *name as u32 == number(*strategy)));
    }
}
