//! What a person can read of a run.

use core::fmt::Write;

use crate::engine::{MILLI, Nanos};
use crate::net::Packet;

/// Lines, one per thing that happened.
#[derive(Debug, Default)]
pub struct Trace {
    text: String,
}

impl Trace {
    /// The lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn packet(&mut self, now: Nanos, at: &str, way: &str, packet: &Packet) {
        self.line(now, at, &format!("{way} {packet}"));
    }

    pub(super) fn dropped(&mut self, now: Nanos, at: &str, packet: &Packet, why: &str) {
        self.line(now, at, &format!("x {packet}: {why}"));
    }

    pub(super) fn line(&mut self, now: Nanos, at: &str, line: &str) {
        let (ms, ns) = (now / MILLI, now % MILLI);
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{ms:>7}.{:03} {at:<6} {line}", ns / 1_000);
    }
}
