//! Whole nodes over brokers: who gets a pipe, what the user is told, and what strangers can cause.

#[path = "../common/mod.rs"]
mod common;

mod advice;
mod allocations;
mod brokers;
mod clocks;
mod consent;
mod glare;
mod hellos;
mod logins;
mod mapping;
mod nat64;
mod outage;
mod outside;
mod pings;
mod protocols;
mod proxies;
mod relay_first;
mod relay_servers;
mod relaying;
mod reverse;
mod roaming;
mod servers;
mod strangers;
mod time;
mod versions;
