//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use p2pd_core::Strategy;

/// Opens a connection between two computers wherever they are.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Server list, a TOML file: tables `mqtt` (id, host, port) and `stun` (host, port)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Strategies to try, in this order
    #[arg(long, global = true, value_delimiter = ',', default_value = "direct,reverse")]
    pub(crate) strategies: Vec<StrategyName>,
    /// Listen on, dial from and announce this address only
    #[arg(long, global = true, value_name = "IP")]
    pub(crate) bind: Option<IpAddr>,
    /// TCP port to listen on, 0 for any
    #[arg(long, global = true, default_value_t = 0)]
    pub(crate) port: u16,
    /// A connect ends after this many seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Key file; made if missing. Without it the node has a new key each time
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Ask for plain pipes, and let peers ask for them
    #[arg(long, global = true)]
    pub(crate) plain: bool,
    /// Say what happens as JSON, one object a line, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve peers one after another: their bytes to standard output, standard input to them
    Listen {
        /// Send every byte of every pipe back instead, for many peers at once
        #[arg(long)]
        echo: bool,
    },
    /// Connect to a peer: standard input to it, its bytes to standard output
    Connect {
        /// What the peer's `listen` or `addr` printed
        address: String,
    },
    /// Print this node's address
    Addr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StrategyName {
    Direct,
    Reverse,
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::Direct => Strategy::Direct,
            StrategyName::Reverse => Strategy::Reverse,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(d) if !d.is_zero() && d <= Duration::from_secs(3600) => Ok(d),
        _ => Err("between 0 and 3600 seconds".into()),
    }
}
