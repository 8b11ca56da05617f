#![doc = include_str!("../README.md")]
//!
//! The rules of NATs and TCP are read off Linux; `docs/src/adr/032` of the repository says how they are held against it.

#[cfg(feature = "aio")]
pub mod aio;
pub mod dial;
pub mod engine;
pub mod host;
pub mod nat;
pub mod net;
pub mod world;
