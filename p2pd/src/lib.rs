//! What the program `p2pd` is made of, for those who want a part of it: the server list ([`servers`]) and the
//! servers themselves on real sockets ([`serve`]).
#![forbid(unsafe_code)]

mod credentials;
pub mod serve;
pub mod servers;
