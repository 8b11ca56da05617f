//! Runs simulated internets from the command line.
fn main() {}
