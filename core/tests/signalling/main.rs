//! Whole nodes over brokers: who gets a pipe, what the user is told, and what strangers can cause.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "relay")]
mod advice;
#[cfg(feature = "relay")]
mod allocations;
mod brokers;
#[cfg(feature = "relay")]
mod carriers;
mod clocks;
mod consent;
mod first;
mod glare;
mod hellos;
#[cfg(feature = "relay")]
mod logins;
#[cfg(feature = "portmap")]
mod mapping;
#[cfg(feature = "relay")]
mod nat64;
#[cfg(feature = "relay")]
mod outage;
#[cfg(feature = "relay")]
mod outside;
mod pings;
#[cfg(feature = "relay")]
mod protocols;
mod proxies;
#[cfg(feature = "relay")]
mod relay_first;
#[cfg(feature = "relay")]
mod relay_servers;
#[cfg(feature = "relay")]
mod relaying;
mod reverse;
mod roaming;
#[cfg(feature = "relay")]
mod servers;
mod strangers;
mod time;
mod udp;
mod versions;
