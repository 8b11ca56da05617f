//! The native half of the Python package `p2pd`: nodes on p2pd-tokio, for one asyncio loop each.
//!
//! The runtime's thread never enters the interpreter. A call gives a number at once; its result waits in a list until the
//! loop, woken by a socket, takes all there are ([`engine`]). Bytes of pipes never pass here either: asyncio reads and
//! writes a socket of its own ([`pipe`]).

mod engine;
mod network;
mod node;
mod pipe;

use pyo3::prelude::*;

/// Nodes, as `p2pd` wraps them.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::network::{Allocation, Mapping};
    #[pymodule_export]
    use crate::node::{Events, Node};
    #[pymodule_export]
    use crate::pipe::Pipe;
}
