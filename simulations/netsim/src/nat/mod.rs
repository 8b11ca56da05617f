//! NATs and firewalls: their properties ([`NatSpec`]), their text form ([`Chain`]), and the device itself.

mod device;
mod forwards;
mod kind;
mod ports;
mod presets;
mod spec;
mod table;
mod text;
mod track;
mod verdict;

pub use device::Nat;
pub use forwards::Order;
pub use kind::{Allot, BLOCK, Kind, Pattern};
pub use presets::{LAB, PRESETS, Preset};
pub use spec::{
    Alloc, Caps, Clash, Dependence, Hairpin, NatSpec, OnRst, Scope, Timers, Tracking, Unique, Unsolicited,
};
pub use table::Entry;
pub use text::{Chain, SpecError};
pub use verdict::{Reason, Side, Verdict};
