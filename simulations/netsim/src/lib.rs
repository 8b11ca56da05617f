//! A simulated internet under virtual time: networks and links that fail on purpose, NATs that behave as measured ones do, and
//! hosts with UDP and TCP.
//!
//! A [`World`](world::World) is a function of its seed and its description: the same two give the same
//! [digest](world::World::digest). Nothing in here touches the real network, the clock or the system's randomness. The crate
//! knows of no protocol above TCP and UDP, but that routers hear SSDP's group, and that narrow networks let out ports 80 and 443.
//!
//! ```
//! use p2pd_netsim::engine::{MILLI, SECOND};
//! use p2pd_netsim::host::{HostEvent, Reuse};
//! use p2pd_netsim::net::LinkSpec;
//! use p2pd_netsim::world::{App, Cx, SiteSpec, World};
//!
//! /// Counts its connections.
//! #[derive(Default)]
//! struct Peer(u32);
//!
//! impl App for Peer {
//!     fn event(&mut self, _: &mut Cx<'_>, event: HostEvent) {
//!         self.0 += u32::from(matches!(event, HostEvent::Connected(_)));
//!     }
//!     fn wake(&mut self, _: &mut Cx<'_>, _: u64) {}
//! }
//!
//! // Two hosts, each behind a router with Linux's masquerading, dial each other's outside at the same moment.
//! let mut world: World<Peer> = World::new(7);
//! let link = LinkSpec::with_delay(20 * MILLI);
//! let mut homes = [1, 2].map(|number| {
//!     world.add_site(&SiteSpec { number, chain: "openwrt".parse().unwrap(), link })
//! });
//! let hosts = homes.each_mut().map(|home| world.add_host_at(home, Peer::default()));
//! for (host, other) in [(0, 1), (1, 0)] {
//!     let to = (homes[other].external[0], 5000).into();
//!     world.with(hosts[host], |_, cx| {
//!         let sock = cx.host.bind_tcp(([0, 0, 0, 0], 5000).into(), to, Reuse::No).unwrap();
//!         cx.host.connect(cx.now, sock, to).unwrap();
//!     });
//! }
//! world.run_until(SECOND);
//! assert_eq!(hosts.map(|host| world.app(host).0), [1, 1]);
//! ```
//!
//! Programs here are polled by hand. The feature `aio` has the module `aio`, for async ones with sockets as tokio's.
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
