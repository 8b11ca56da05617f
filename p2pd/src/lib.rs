//! Parts of the program `p2pd` for other programs: the server list ([`servers`]) and the servers themselves on real
//! sockets ([`serve`]).
#![forbid(unsafe_code)]

mod credentials;
pub mod serve;
pub mod servers;
