//! Whole nodes over brokers: who gets a pipe, what the user is told, and what strangers can cause.

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod consent;
mod reverse;
mod strangers;
mod versions;
