//! Expected outcomes, derived without a simulation: whether two hosts behind two NAT chains can be joined. Where the
//! simulator disagrees, one of the two is wrong.

mod bound;

pub use bound::{Bound, Budget, at_443, bound, bound_udp};

use crate::nat::{Alloc, Caps, Chain, Dependence, NatSpec, Unsolicited};
use crate::service::router::RouterSpec;

/// Expected outcome of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The pair must be joined.
    Must,
    /// The pair cannot be joined.
    MustNot,
    /// The outcome depends on the ports that other users take.
    Perhaps,
}

/// Predicts whether a stranger's SYN to the announced port arrives, as direct and reverse connects need of one side.
/// Through a full cone it does if the node has measured its NAT from the port it listens on.
pub fn reachable(chain: &Chain) -> Verdict {
    let of = |nat: &NatSpec| match nat.translate {
        true if nat.dmz => Verdict::Must,
        true if (nat.mapping, nat.filtering) == (Dependence::Endpoint, Dependence::Endpoint) => {
            Verdict::Perhaps
        }
        false if nat.filtering == Dependence::Endpoint => Verdict::Must,
        _ => Verdict::MustNot,
    };
    worst(chain.0.iter().map(of))
}

/// The same of a side whose router opens a port for it, in all that it does as it says, or not.
pub fn reachable_with(chain: &Chain, router: Option<&RouterSpec>) -> Verdict {
    let opens = |router: &RouterSpec| match chain.0.as_slice() {
        // An address that the internet does not see is not announced.
        [nat] if nat.translate && nat.pool <= 1 => {
            if router.is_honest() {
                Verdict::Must
            } else {
                Verdict::Perhaps
            }
        }
        _ => Verdict::MustNot,
    };
    match (reachable(chain), router.map_or(Verdict::MustNot, opens)) {
        (Verdict::Must, _) | (_, Verdict::Must) => Verdict::Must,
        (Verdict::Perhaps, _) | (_, Verdict::Perhaps) => Verdict::Perhaps,
        _ => Verdict::MustNot,
    }
}

/// Direct and reverse together: one side has to be reachable.
pub fn direct_or_reverse(a: &Chain, b: &Chain) -> Verdict {
    match (reachable(a), reachable(b)) {
        (Verdict::Must, _) | (_, Verdict::Must) => Verdict::Must,
        (Verdict::Perhaps, _) | (_, Verdict::Perhaps) => Verdict::Perhaps,
        _ => Verdict::MustNot,
    }
}

fn worst(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    verdicts.fold(Verdict::Must, |a, b| match (a, b) {
        (Verdict::MustNot, _) | (_, Verdict::MustNot) => Verdict::MustNot,
        (Verdict::Perhaps, _) | (_, Verdict::Perhaps) => Verdict::Perhaps,
        _ => Verdict::Must,
    })
}

/// Returns the certainty with which the external port of the next flow from `port` is known from flows before it.
fn predictable(nat: &NatSpec, port: u16) -> Verdict {
    let kept = |p: u16| (nat.range.0..=nat.range.1).contains(&p);
    match nat.alloc {
        _ if !nat.translate || nat.mapping == Dependence::Endpoint => Verdict::Must,
        Alloc::Preserve(_) if kept(port) => Verdict::Must,
        Alloc::Offset(_) | Alloc::Dependent { .. } => Verdict::Must,
        Alloc::Sequential { .. } if nat.background == 0 => Verdict::Must,
        Alloc::Sequential { .. } => Verdict::Perhaps,
        _ => Verdict::MustNot,
    }
}

/// Predicts TCP hole punching from local port `port` with a listener beside each dial, where the first SYNs cross. Both
/// ports must be predictable, or one is and its side lets any port of the other's address in.
pub fn punch(a: &Chain, b: &Chain, port: u16) -> Verdict {
    let admits = |chain: &Chain| chain.0.iter().all(|nat| nat.filtering != Dependence::AddressAndPort);
    let known = |chain: &Chain| worst(chain.0.iter().map(|nat| predictable(nat, port)));
    match (known(a), known(b)) {
        (Verdict::Must, Verdict::Must) => Verdict::Must,
        (Verdict::Must, _) if admits(a) => Verdict::Must,
        (_, Verdict::Must) if admits(b) => Verdict::Must,
        (Verdict::MustNot, _) | (_, Verdict::MustNot) => Verdict::MustNot,
        _ => Verdict::Perhaps,
    }
}

/// Predicts UDP punching between fresh sockets. Both ports have to be known beforehand, and neither router may hold the
/// peer's first probe for a flow of its own.
pub fn udp(a: &Chain, b: &Chain) -> Verdict {
    let of = |nat: &NatSpec| {
        let kept = matches!(nat.alloc, Alloc::Preserve(_)) && nat.range == (1024, 65535);
        let known = nat.udp.0 == Dependence::Endpoint || kept;
        let quiet = nat.unsolicited != Unsolicited::Local && nat.caps == Caps::default();
        match nat.udp_passes {
            false => Verdict::MustNot,
            true if quiet && (!nat.translate || (known && (nat.pool <= 1 || nat.paired))) => Verdict::Must,
            true => Verdict::Perhaps,
        }
    };
    worst(a.0.iter().chain(&b.0).map(of))
}

/// Predicts every strategy together, as a node must manage it: direct and reverse, and punching where each side keeps
/// one external port or the inside one. Counted ports and sprays may meet or not, so nothing is ruled out.
pub fn every_strategy(a: &Chain, b: &Chain) -> Verdict {
    let kept = |nat: &NatSpec| {
        let endpoint = nat.mapping == Dependence::Endpoint && !matches!(nat.alloc, Alloc::Dependent { .. });
        !nat.translate || endpoint || matches!(nat.alloc, Alloc::Preserve(_))
    };
    let steady = |chain: &Chain| chain.0.iter().all(kept);
    // Any port that the system would choose.
    match (direct_or_reverse(a, b), punch(a, b, 40_000)) {
        (Verdict::Must, _) => Verdict::Must,
        (_, Verdict::Must) if steady(a) && steady(b) => Verdict::Must,
        _ => Verdict::Perhaps,
    }
}
