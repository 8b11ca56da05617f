//! Errors of every driver.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use p2pd_core::{ConfigError, ConnectId, FailReason, IoFailure, Report, TargetError};

/// Reason why a node could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// The configuration is wrong.
    Config(ConfigError),
    /// The listener could not be opened there.
    Listen(SocketAddr, IoFailure),
    /// The machine's interfaces could not be listed, or none has the address to bind.
    Interfaces(io::Error),
    /// The system has no randomness to give.
    Random(io::Error),
    /// The event loop cannot be used.
    Loop(io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Config(why) => write!(f, "configuration: {why}"),
            BindError::Listen(local, why) => write!(f, "cannot listen on {local}: {why}"),
            BindError::Interfaces(why) => write!(f, "network interfaces: {why}"),
            BindError::Random(why) => write!(f, "no randomness: {why}"),
            BindError::Loop(why) => write!(f, "event loop: {why}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BindError::Config(why) => Some(why),
            BindError::Listen(_, why) => Some(why),
            BindError::Interfaces(why) | BindError::Random(why) | BindError::Loop(why) => Some(why),
        }
    }
}

/// Reason why a connect gave no pipe.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is neither an address nor a name.
    Target(TargetError),
    /// The call did not begin.
    NotBegun(p2pd_core::ConnectError),
    /// The call was tried and failed. The report lists the attempts and observations, strategy by strategy.
    Failed(FailReason, Box<Report>),
    /// The peer agreed, but the stream broke before it could be handed out.
    Lost(IoFailure),
    /// The pipe answers this call as well, and only one of the callers can have it.
    AnsweredTogether(ConnectId),
    /// The node was shut down.
    NodeGone,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Target(why) => write!(f, "{why}"),
            ConnectError::NotBegun(why) => write!(f, "{why}"),
            ConnectError::Failed(reason, report) => {
                write!(f, "{reason}")?;
                for s in &report.strategies {
                    write!(f, "; {} {}: {}", s.strategy, s.outcome.name(), s.detail)?;
                }
                report.advice.map_or(Ok(()), |advice| write!(f, "; what to do: {advice}"))
            }
            ConnectError::Lost(why) => write!(f, "the pipe broke as it opened: {why}"),
            ConnectError::AnsweredTogether(first) => write!(f, "the pipe went to the call {first:?}"),
            ConnectError::NodeGone => f.write_str("the node was shut down"),
        }
    }
}

impl std::error::Error for ConnectError {
    /// Returns the error below: of the target's text, of the call, of the stream, or why every strategy ended.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConnectError::Target(why) => Some(why),
            ConnectError::NotBegun(why) => Some(why),
            ConnectError::Failed(reason, _) => Some(reason),
            ConnectError::Lost(why) => Some(why),
            ConnectError::AnsweredTogether(_) | ConnectError::NodeGone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::error::Error;

    use p2pd_core::{Advice, Refusal};

    use super::*;

    #[test]
    fn the_causes_of_a_failed_connect_are_a_chain_and_its_advice_comes_last() {
        let report = Report {
            elapsed: Duration::ZERO,
            strategies: Default::default(),
            advice: Some(Advice::TryLater),
        };
        let error = ConnectError::Failed(FailReason::RefusedByPeer(Refusal::Busy), Box::new(report));
        assert_eq!(
            error.to_string(),
            "the peer refused: too many requests, try later; what to do: call again in a minute"
        );
        let causes = core::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source());
        let causes: Vec<String> = causes.map(ToString::to_string).collect();
        assert_eq!(
            causes,
            ["the peer refused: too many requests, try later", "too many requests, try later"]
        );
    }
}
