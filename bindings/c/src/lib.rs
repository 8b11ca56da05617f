//! p2pd for programs in C, on [`p2pd_mio`]. The contract is the first part of `include/p2pd.h`, which cbindgen writes from
//! this crate.
//!
//! A file has one kind of handle, with its calls. `border` alone turns C's pointers into references, catches panics and
//! keeps a second thread out.
#![allow(non_camel_case_types, reason = "these are C's names")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the rules for pointers are those of the header, the same for each call"
)]

mod border;
pub mod config;
pub mod event;
pub mod node;
pub mod pipe;
pub mod plan;
pub mod session;
pub mod status;
