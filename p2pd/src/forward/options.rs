//! The command lines of `expose` and `forward`.

use std::time::Duration;

use clap::Args;
use p2pd_core::Name;

use super::{Place, Rule, Service};
use crate::options::{Common, MapPort, MetricsPort, StrategyName, seconds};

/// Services for peers.
#[derive(Debug, Args)]
pub(crate) struct Expose {
    /// Services by name: `ssh=127.0.0.1:22`, `web=[::1]:8080`, `dns=udp:127.0.0.1:53`, `db=unix:/run/db.sock`. Nothing
    /// else is reached. A port alone is this machine's
    #[arg(value_name = "NAME=PLACE")]
    pub(crate) services: Vec<Service>,
    /// Let `forward --socks` reach this too, may be given several times: HOST:PORT, where the host is a name, `*.NAME`, an
    /// address or a prefix, and the port may be `*`. Names are resolved here
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) allow: Vec<Rule>,
    /// Let in anybody who knows the address. Without this and `--accept`, each new peer is asked about at the terminal
    #[arg(long, conflicts_with = "accept")]
    pub(crate) anyone: bool,
    /// Take this name, and hold it while running: `p2pd forward NAME.peer` then finds this node. Needs `--identity`, because
    /// a name belongs to a key
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    #[command(flatten)]
    pub(crate) metrics: MetricsPort,
    #[command(flatten)]
    pub(crate) port: MapPort,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Services of a peer.
#[derive(Debug, Args)]
pub(crate) struct Forward {
    /// Address that the peer's `expose` printed, or the peer's name: NAME.peer. With `--lan` a node id is enough
    pub(crate) address: String,
    /// Pairs of a service and the place to listen at: `ssh 2222`, `web :8080` for all addresses, `dns udp:5353`,
    /// `db unix:./db.sock`. A port alone is reached from this machine only
    #[arg(value_name = "SERVICE PLACE")]
    pub(crate) pairs: Vec<String>,
    /// Listen for SOCKS5 here too. Names are resolved by the peer, whose `--allow` says what is reached
    #[arg(long, value_name = "PLACE")]
    pub(crate) socks: Option<Place>,
    /// Strategies to try, as of `connect`
    #[arg(long, value_delimiter = ',', default_value = "direct,reverse,punch,udp,relay")]
    pub(crate) strategies: Vec<StrategyName>,
    /// Give up a call after this many seconds; somebody may have to say yes at the other side
    #[arg(long, value_name = "SECONDS", default_value = "40", value_parser = seconds)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) common: Common,
}
