//! `p2pd daemon` as its users meet it: the lines of the P2PD documents typed with curl, sockets by hand, and who is
//! turned away. Beside it, the browser that the tests have with the TURN server of `p2pd serve`.
#![cfg(unix)]

mod browser;
mod common;
mod documents;
mod files;
mod forwards;
mod fuzz;
mod hostile;
mod javascript;
mod metrics;
mod mutate;
mod outside;
mod page;
mod ping;
mod pipes;
mod sessions;
mod turn;
mod webrtc;
