//! Addresses of this machine as STUN servers (RFC 8489) report them.
//!
//! ```no_run
//! use p2pd_tokio::messages::{Protocol, Route, stun::Client};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(("stun.example", 3478), Route::V4);
//! println!("{}", client.external_ip().await?);
//! let mapping = client.mapping(Protocol::Udp).await?;
//! println!("{} is seen as {}", mapping.local, mapping.external);
//! # Ok(())
//! # }
//! ```

use std::net::IpAddr;

use p2pd_core::StunServer;
use p2pd_core::nat::NatReport;

use crate::{BindError, Tokio};

#[doc(inline)]
pub use p2pd_async::stun::StunError;

/// A client of one STUN server.
pub type Client = p2pd_async::stun::Client<Tokio>;
/// A socket, and the address that the server saw. The mapping lives as long as the socket. Where NATs give every socket
/// one external end, others can be told of it.
pub type Mapping = p2pd_async::stun::Mapping<Tokio>;

/// Measures the NATs in front of this machine, over TCP and UDP with these servers. Returns one report for each
/// interface, of `bind` alone if it is given. Takes about four round trips and 150 ms, and about six seconds if nobody
/// answers. A node measures by itself: [`Node::nats`](crate::Node::nats) has its reports at no cost.
///
/// # Errors
/// That there is no socket to measure with.
pub async fn nat_info(servers: Vec<StunServer>, bind: Option<IpAddr>) -> Result<Vec<NatReport>, BindError> {
    p2pd_async::stun::nat_info::<Tokio>(servers, bind).await
}
