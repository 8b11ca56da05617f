//! `p2pd daemon` as its users meet it: the lines of the P2PD documents typed with curl, sockets by hand, and who is
//! turned away.
#![cfg(unix)]

mod browser;
mod common;
mod documents;
mod fuzz;
mod hostile;
mod javascript;
mod mutate;
mod page;
mod pipes;
