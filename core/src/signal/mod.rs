//! Signalling: sealed messages between nodes over MQTT brokers, several at once.

pub(crate) mod broker;
pub(crate) mod mappings;
pub(crate) mod message;
mod reader;
pub(crate) mod seal;
