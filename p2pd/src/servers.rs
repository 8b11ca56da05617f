//! The server list, of [`p2pd_sys::servers`], and the programs that it names for logins.

pub use crate::credentials::{Commands, CredentialError, Renewals, credentials, log_in};
pub use p2pd_sys::servers::*;
