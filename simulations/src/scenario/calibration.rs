//! Statements of punches and reports, held against the truth. Pairs are drawn of the kinds of the grid and of NATs that
//! nobody has hypotheses about.

use p2pd_core::nat::{Allocation, Filtering, Mapping, NatReport, Rule};

use super::grid;
use super::pair::{Ending, run};
use super::plan::By;
use crate::domain;
use crate::engine::Keyed;
use crate::nat::{Alloc, Chain, Dependence, Kind, NatSpec, Scope, Unique};

/// NATs of a pair drawn outside of the grid, in a million.
const OUTSIDE: u32 = 350_000;

/// A pair whose statements are judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drawn {
    /// Seed of all randomness.
    pub seed: u64,
    /// The NATs of the listener and of the caller, one each.
    pub nats: [NatSpec; 2],
}

/// Draws the pair of this seed.
pub fn draw(seed: u64) -> Drawn {
    let rng = Keyed::new(seed);
    let nat = |side: u64| {
        let below = |n: u64, bound: u64| rng.below(domain::SCENARIO, 2_000 + side, n, bound);
        let kind = Kind::all().nth(below(0, Kind::COUNT as u64) as usize).map(Kind::spec);
        let spec = kind.unwrap_or(NatSpec::LINUX);
        match rng.chance(domain::SCENARIO, 2_000 + side, 1, OUTSIDE) {
            true => outside(spec, |n, bound| below(2 + n, bound)),
            false => spec,
        }
    };
    Drawn { seed, nats: [nat(0), nat(1)] }
}

/// Makes a kind into a NAT outside of the grid.
fn outside(spec: NatSpec, below: impl Fn(u64, u64) -> u64) -> NatSpec {
    let port = NatSpec { unique: Unique::Port, ..spec };
    match below(0, 8) {
        // A mixture of two rules.
        0 => port.alloc(Alloc::Mixed(300 + below(1, 600) as u16)),
        // A counter that others move, or that moves by itself.
        1 => port.alloc(Alloc::Drift(2 + below(1, 7) as u16)),
        2 => NatSpec {
            background: [500, 2_000, 10_000, 50_000][below(1, 4) as usize],
            ..port.alloc(Alloc::Sequential { step: 1 + below(2, 2) as i16, scope: Scope::Global })
        },
        // The same random port for an inside port, as long as it is free.
        3 => port.alloc(Alloc::Sticky),
        // Another behaviour for UDP than for TCP.
        4 => {
            let all = [Dependence::Endpoint, Dependence::Address, Dependence::AddressAndPort];
            NatSpec { udp: (all[below(1, 3) as usize], all[below(2, 3) as usize]), ..spec }
        }
        // Blocks of other sizes, and counted ones.
        5 => port.alloc(Alloc::Block(256 << below(1, 5))),
        6 => port.alloc(Alloc::CountedBlock(256 << below(1, 5))),
        // Several addresses.
        _ => NatSpec { pool: 2 + below(1, 3) as u8, paired: below(2, 2) == 0, ..spec },
    }
}

/// Statement of a punch about one of its rungs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The stated probability, in thousandths.
    pub permille: u32,
    /// True if the rung gave the pipe.
    pub hit: bool,
}

/// Judgement of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judged {
    /// Statements about the rungs.
    pub statements: Vec<Statement>,
    /// Rungs of which nothing was stated.
    pub unstated: u32,
    /// Statements of type that were made, and those of them that are wrong, by name.
    pub types: u32,
    /// The wrong ones.
    pub wrong: Vec<String>,
    /// True if the call gave a pipe.
    pub joined: bool,
    /// Violations of invariants.
    pub violations: Vec<String>,
    /// Digest of the run.
    pub digest: u64,
}

/// Runs a pair and judges what was stated.
pub fn judge(drawn: &Drawn) -> Judged {
    let ending = run(&grid::pair(drawn.seed, drawn.nats.map(|nat| Chain(vec![nat])), By::Punch));
    let mut judged = Judged { joined: ending.strategy.is_some(), digest: ending.digest, ..Judged::default() };
    for (n, stated) in ending.stated.iter().enumerate() {
        // Whatever connects does so on the last rung that began.
        let hit = judged.joined && n + 1 == ending.stated.len();
        match stated {
            Some(permille) => judged.statements.push(Statement { permille: *permille, hit }),
            None => judged.unstated += 1,
        }
    }
    for (report, nat) in ending.nats.iter().zip(&drawn.nats) {
        let Some(report) = report else { continue };
        for (claim, truth) in claims(report, nat) {
            judged.types += 1;
            if let Some(truth) = truth {
                judged.wrong.push(format!("{claim}, and is {truth}"));
            }
        }
    }
    let Ending { violations, .. } = ending;
    judged.violations = violations;
    judged
}

/// Returns the name of an allocation without its numbers, so that mistakes of one kind count together.
fn name(alloc: Alloc) -> String {
    let text = format!("{alloc:?}");
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

/// Claims of a report about a NAT, each with the truth where that is another.
fn claims(report: &NatReport, nat: &NatSpec) -> Vec<(String, Option<String>)> {
    let behaviour = report.behaviour;
    let mut claims = Vec::new();
    if let Some(mapping) = behaviour.mapping {
        let claimed = match mapping {
            Mapping::None | Mapping::EndpointIndependent => Dependence::Endpoint,
            Mapping::AddressDependent => Dependence::Address,
            Mapping::AddressPortDependent => Dependence::AddressAndPort,
        };
        // Where every mapping has the inside port, or one that follows from it, nobody can tell them apart.
        let alike = nat.unique == Unique::Shared && claimed == Dependence::Endpoint;
        let right = claimed == nat.mapping || alike;
        let truth = (!right).then(|| format!("{:?} with {}", nat.mapping, name(nat.alloc)));
        claims.push((format!("mapping is said to be {claimed:?}"), truth));
    }
    if let Some(filtering) = behaviour.filtering {
        let claimed = match filtering {
            Filtering::EndpointIndependent => Dependence::Endpoint,
            Filtering::AddressDependent => Dependence::Address,
            Filtering::AddressPortDependent => Dependence::AddressAndPort,
        };
        let over = if nat.udp.1 == nat.filtering { "" } else { " over TCP" };
        let truth = (claimed != nat.filtering).then(|| format!("{:?}{over}", nat.filtering));
        claims.push((format!("filtering is said to be {claimed:?}"), truth));
    }
    let in_part = report.hypotheses.first().is_some_and(|h| matches!(h.rule, Rule::KeptInPart(_)));
    if in_part {
        let is_so = matches!(nat.alloc, Alloc::Mixed(_));
        let truth = (!is_so).then(|| format!("{} with {:?} mapping", name(nat.alloc), nat.mapping));
        claims.push(("ports are said to be the inside port in part".into(), truth));
    } else if let Some(allocation) = behaviour.allocation {
        let (claimed, right) = match (allocation, nat.alloc) {
            (Allocation::Equal, alloc) => ("the inside port", matches!(alloc, Alloc::Preserve(_))),
            (Allocation::Preserving(_), alloc) => ("an offset", matches!(alloc, Alloc::Offset(_))),
            (Allocation::Sequential(_), alloc) => {
                let counts =
                    matches!(alloc, Alloc::Sequential { .. } | Alloc::CountedBlock(_) | Alloc::Drift(_));
                ("counted", counts)
            }
            (Allocation::Dependent(_), alloc) => {
                ("counted by inside port", matches!(alloc, Alloc::Dependent { .. }))
            }
            (_, alloc) => {
                let random = [Alloc::Random, Alloc::Parity, Alloc::Sticky].contains(&alloc);
                ("random", random || matches!(alloc, Alloc::Block(_) | Alloc::Mixed(_)))
            }
        };
        let truth = (!right).then(|| format!("{} with {:?} mapping", name(nat.alloc), nat.mapping));
        claims.push((format!("ports are said to be {claimed}"), truth));
    }
    claims
}

/// Statements of one bin of probabilities, and what happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bin {
    /// Number of statements.
    pub count: u64,
    /// Sum of what was stated, in thousandths.
    pub stated: u64,
    /// Number of hits.
    pub hits: u64,
}

impl Bin {
    /// Returns the mean of what was stated and the share that hit.
    pub fn shares(&self) -> (f64, f64) {
        let count = self.count.max(1) as f64;
        (self.stated as f64 / count / 1_000.0, self.hits as f64 / count)
    }
}

/// Puts statements into ten bins, from 0 to 1.
pub fn bins(statements: impl Iterator<Item = Statement>) -> [Bin; 10] {
    let mut bins = [Bin::default(); 10];
    for statement in statements {
        let bin = &mut bins[(statement.permille as usize / 100).min(9)];
        bin.count += 1;
        bin.stated += u64::from(statement.permille);
        bin.hits += u64::from(statement.hit);
    }
    bins
}

/// Returns the expected calibration error: the mean distance between what is stated and what happens, over all
/// statements.
pub fn error(bins: &[Bin; 10]) -> f64 {
    let all: u64 = bins.iter().map(|bin| bin.count).sum();
    let of = |bin: &Bin| {
        let (stated, hit) = bin.shares();
        (stated - hit).abs() * bin.count as f64 / all.max(1) as f64
    };
    bins.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_that_of_the_bins() {
        let of = |permille, hit| Statement { permille, hit };
        let good = bins([of(750, true), of(750, true), of(750, true), of(750, false)].into_iter());
        assert!(error(&good) < 1e-9, "{good:?}");
        let bad = bins([of(999, false), of(999, false), of(0, false), of(0, false)].into_iter());
        assert!((error(&bad) - 0.4995).abs() < 1e-9, "{bad:?}");
        assert_eq!(error(&bins(core::iter::empty())), 0.0);
        assert_eq!(bins([of(1_000, true)].into_iter())[9].count, 1);
    }

    #[test]
    fn a_third_of_the_nats_is_outside_of_the_grid() {
        let nats = (0..2_000).flat_map(|seed| draw(seed).nats);
        let outside = nats.filter(|nat| Kind::of(nat).is_none()).count();
        // Some of what is made so is a kind after all.
        assert!((1_150..1_450).contains(&outside), "{outside}");
    }
}
