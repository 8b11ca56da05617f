//! Plans of p2pd's that are compared with each other, of which none has a relay.

use core::str::FromStr;

use p2pd_core::Strategy;

use crate::nat::Chain;
use crate::oracle::{Bound, Budget, bound, bound_udp};

/// A plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// TCP punching and nothing else.
    Punch,
    /// All strategies over TCP.
    Tcp,
    /// UDP punching.
    Udp,
    /// All strategies over TCP and UDP: the default plan without its relay.
    Both,
}

impl By {
    const ALL: [By; 4] = [By::Punch, By::Tcp, By::Udp, By::Both];

    /// Returns the plan's name in tables and options.
    pub const fn name(self) -> &'static str {
        match self {
            By::Punch => "punch",
            By::Tcp => "tcp",
            By::Udp => "udp",
            By::Both => "both",
        }
    }

    /// Returns the strategies of the plan.
    pub fn strategies(self) -> Vec<Strategy> {
        let tcp = [Strategy::Direct, Strategy::Reverse, Strategy::Punch];
        match self {
            By::Punch => vec![Strategy::Punch],
            By::Tcp => tcp.to_vec(),
            By::Udp => vec![Strategy::Udp],
            By::Both => [&tcp[..], &[Strategy::Udp]].concat(),
        }
    }

    /// Returns the most that the plan can reach between these chains, with so many dials over TCP.
    pub fn bound(self, a: &Chain, b: &Chain, budget: Budget) -> Bound {
        match self {
            By::Punch | By::Tcp => bound(a, b, budget),
            By::Udp => bound_udp(a, b, Budget::CORE_UDP),
            By::Both => bound(a, b, budget).or(bound_udp(a, b, Budget::CORE_UDP)),
        }
    }
}

impl FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> Result<By, String> {
        let found = By::ALL.into_iter().find(|by| by.name() == text);
        found.ok_or_else(|| format!("{text:?} is none of punch, tcp, udp and both"))
    }
}
