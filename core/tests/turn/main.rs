//! The TURN client: against a server played by hand, byte by byte, and against `turn-server-proto`.

mod allocation;
mod hand;
mod hostile;
mod pair;
mod peers;
