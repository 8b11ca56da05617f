//! Inference of a NAT's rules from the mappings that it was seen to make.
//!
//! Each hypothesis is a mapping behaviour with a rule of allocation, and says how likely what was seen is. Bayes' rule
//! makes of that, and of how common each is, the probability of the hypothesis. Mappings of other users between ours are part
//! of each likelihood.
//!
//! Numbers are logarithms to base 2 in 256ths of a bit, and integers, so that every machine comes to the same.
//!
//! Long: hypotheses are weighed against each other, so that they stand together, as do the cases that tell them apart.

use core::fmt;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::behaviour::{Allocation, Behaviour, Foresight, MAX_STEP, Mapping, middle};

/// Mappings that are judged together, the latest.
pub(super) const MAX_SEEN: usize = 32;
/// Hypotheses that a report has.
const REPORTED: usize = 4;

/// Mapping that a server saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) local: u16,
    pub(super) towards: Towards,
    pub(super) external: SocketAddr,
}

/// Destination of a mapping, beside the server that was asked first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Towards {
    /// The server itself.
    Server,
    /// Another port of its address.
    OtherPort,
    /// Another address.
    OtherAddress,
}

/// Rule of allocation as hypotheses have it: finer than what a peer is told.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Rule {
    /// The local port, whatever mappings there are.
    Kept,
    /// The local port while no other mapping has it, else a random one.
    KeptWhileFree,
    /// The local port in this many of a thousand cases, else a random one: other users have the port so often.
    KeptInPart(u16),
    /// The local port plus this, modulo 65,536.
    Offset(u16),
    /// The one before plus this, whatever the local port.
    Counted(i16),
    /// The one before plus this for each step of the local port.
    ByLocalPort(i16),
    /// A random port with the parity of the local one (RFC 4787 section 4.2.2).
    Parity,
    /// A random port out of a block (RFC 7422).
    Block {
        /// Lowest port of the block, as far as seen.
        low: u16,
        /// Highest.
        high: u16,
    },
    /// A random port.
    Random,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Kept => f.write_str("ports as inside"),
            Rule::KeptWhileFree => f.write_str("ports as inside while they are free, else random"),
            Rule::KeptInPart(share) => {
                write!(f, "ports as inside in {} % of all cases, else random", share / 10)
            }
            Rule::Offset(by) => write!(f, "ports as inside plus {by}"),
            Rule::Counted(step) => write!(f, "ports counted by {step}"),
            Rule::ByLocalPort(step) => write!(f, "ports that go by {step} with the inside port"),
            Rule::Parity => f.write_str("random ports, even for even and odd for odd"),
            Rule::Block { low, high } => write!(f, "random ports of a block, {low} to {high}"),
            Rule::Random => f.write_str("random ports"),
        }
    }
}

/// Hypothesis about a NAT, with its probability.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Hypothesis {
    /// Mapping behaviour.
    pub mapping: Mapping,
    /// Rule of allocation.
    pub rule: Rule,
    /// Probability in thousandths, given what was seen. At most 999.
    pub permille: u16,
}

impl fmt::Display for Hypothesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hypothesis { mapping, rule, permille } = self;
        write!(f, "{}.{} %: a mapping {mapping}, {rule}", permille / 10, permille % 10)
    }
}

/// Judgement of what was seen of a NAT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Judged {
    /// The likeliest hypotheses, the likeliest first.
    pub(super) hypotheses: SmallVec<[Hypothesis; REPORTED]>,
    /// Rule of the likeliest, as peers are told it.
    ///
    /// `None`: fewer than three new mappings were seen.
    pub(super) allocation: Option<Allocation>,
    /// Mapping of the likeliest. `None`: no other destination was seen that could tell.
    pub(super) mapping: Option<Mapping>,
    /// Probability, in thousandths and at most 999, that the next mapping is foreseen by the same rule. Hypotheses that
    /// foresee the same count together.
    pub(super) certainty: u32,
    /// Share of mappings that have the foreseen port, if the rule is right, in thousandths.
    pub(super) share: u32,
}

/// Judges mappings, in the order in which they were made. Returns `None` for none.
///
/// The local ports should not be evenly spaced, or counting by local port and counting by mapping look alike.
pub(super) fn judge(seen: &[Seen]) -> Option<Judged> {
    let mut all: Vec<(i32, Mapping, Rule)> = Vec::new();
    for (mapping, prior) in MAPPINGS {
        let (fresh, reused) = split(seen, mapping);
        let base = log2_permille(prior) + reused;
        let symmetric = mapping != Mapping::EndpointIndependent;
        all.extend(rules(&fresh, symmetric).into_iter().map(|(bits, rule)| (base + bits, mapping, rule)));
    }
    // Equal ones stay in the order of the tables, the more common first.
    all.sort_by_key(|(bits, ..)| core::cmp::Reverse(*bits));
    let best = all.first()?.0;
    let weight = |bits: i32| exp2(bits - best);
    let sum: u64 = all.iter().map(|(bits, ..)| weight(*bits)).sum();
    let permille = |bits: i32| ((weight(bits) * 1000 + sum / 2) / sum.max(1)).min(999) as u16;
    let hypotheses = all
        .iter()
        .map(|&(bits, mapping, rule)| Hypothesis { mapping, rule, permille: permille(bits) })
        .take(REPORTED)
        .filter(|h| h.permille > 0)
        .collect();
    let &(_, mapping, rule) = all.first()?;
    let lowest = seen.iter().map(|s| s.external.port()).min()?.min(LOWEST);
    let is_enough = split(seen, mapping).0.len() >= 3;
    let told = seen.iter().any(|s| s.towards == Towards::OtherAddress);
    let told = told || mapping == Mapping::AddressPortDependent;
    let behaviour = |mapping, rule| Behaviour {
        mapping: told.then_some(mapping),
        filtering: None,
        allocation: Some(allocation(mapping, rule, lowest)),
    };
    let best = behaviour(mapping, rule);
    let agrees = |mapping, rule| match (best.foresight(), behaviour(mapping, rule).foresight()) {
        (Foresight::Nothing { low, high }, Foresight::Nothing { low: l, high: h }) => low <= l && h <= high,
        (told, other) => told == other,
    };
    // Of hypotheses that foresee the same port some foresee it in part.
    let (mut right, mut kept) = (0, 0);
    for &(bits, _, rule) in all.iter().filter(|(_, mapping, rule)| agrees(*mapping, *rule)) {
        right += weight(bits);
        kept += weight(bits)
            * match (rule, best.foresight()) {
                (Rule::KeptInPart(share), Foresight::Offset(_)) => u64::from(share),
                _ => 1000,
            };
    }
    let certainty = (right * 1000 / sum.max(1)).min(999) as u32;
    let share = (kept / right.max(1)) as u32;
    let allocation = best.allocation.filter(|_| is_enough);
    Some(Judged { hypotheses, allocation, mapping: best.mapping, certainty, share })
}

/// Returns a hypothesis' rule as peers are told it; `lowest` is the lowest port of a random choice.
fn allocation(mapping: Mapping, rule: Rule, lowest: u16) -> Allocation {
    let random = Allocation::Random { low: lowest, high: u16::MAX };
    match rule {
        Rule::Kept | Rule::KeptWhileFree => Allocation::Equal,
        // One mapping for all destinations is measured and has not to be foreseen.
        Rule::KeptInPart(_) if mapping == Mapping::EndpointIndependent => random,
        Rule::KeptInPart(share) if share >= 500 => Allocation::Equal,
        Rule::Offset(by) => Allocation::Preserving(by),
        Rule::Counted(step) => Allocation::Sequential(step),
        Rule::ByLocalPort(step) => Allocation::Dependent(step),
        Rule::Block { low, high } => Allocation::Random { low, high },
        Rule::KeptInPart(_) | Rule::Parity | Rule::Random => random,
    }
}

/// Returns the share of mappings that have this address outside, in thousandths. A NAT with several addresses may choose one for
/// each mapping (RFC 4787 section 4.1, "Arbitrary"). Once that was seen, Laplace's rule of succession tells of the next one.
pub(super) fn same_address(seen: &[Seen], external: IpAddr) -> u32 {
    // A mapping that serves several destinations is one.
    let is_new =
        |n: usize| !seen[..n].iter().any(|s| (s.local, s.external) == (seen[n].local, seen[n].external));
    let all: Vec<bool> =
        (0..seen.len()).filter(|n| is_new(*n)).map(|n| seen[n].external.ip() == external).collect();
    let (same, of) = (all.iter().filter(|same| **same).count() as u32, all.len() as u32);
    if same == of { 1000 } else { (same + 1) * 1000 / (of + 2) }
}

/// 256ths of a bit.
const BIT: i32 = 256;
/// Ports of a random choice.
const PORTS: u64 = 64_512;
const LOWEST: u16 = 1024;
/// Cost of what a rule does not foresee: others have the port, or a mapping was forgotten in between.
const ODD: i32 = -7 * BIT;
/// Mapping behaviours and how common each is, in thousandths: eight homes of ten keep one mapping for all destinations (the
/// census; our assumption for address-dependent mapping, which RFC 4787 section 4.1 forbids like the last).
const MAPPINGS: [(Mapping, u32); 3] = [
    (Mapping::EndpointIndependent, 830),
    (Mapping::AddressPortDependent, 140),
    (Mapping::AddressDependent, 30),
];
/// Sizes of blocks and how common each is, in thousandths. RFC 7422 has 512 to 4,096; larger ones are ranges that a NAT is set
/// to, as that of pf is.
const BLOCKS: [(u16, u32); 10] = [
    (64, 50),
    (128, 50),
    (256, 100),
    (512, 180),
    (1024, 200),
    (2048, 200),
    (4096, 150),
    (8192, 30),
    (16_384, 30),
    (32_768, 10),
];

/// New mapping: its local port, its port outside, and the ports outside that our other mappings had by then.
struct Fresh {
    local: u16,
    port: u16,
    /// True if an earlier mapping of ours had the local port outside.
    taken: bool,
}

/// Tells new mappings from mappings used again, as a mapping behaviour has it. Also returns the logarithm of the likelihood
/// of those used again.
fn split(seen: &[Seen], mapping: Mapping) -> (Vec<Fresh>, i32) {
    let (mut fresh, mut bits) = (Vec::<Fresh>::new(), 0);
    let shares = |a: &Seen, b: &Seen| {
        a.local == b.local
            && match mapping {
                Mapping::None | Mapping::EndpointIndependent => true,
                Mapping::AddressDependent => {
                    (a.towards == Towards::OtherAddress) == (b.towards == Towards::OtherAddress)
                }
                Mapping::AddressPortDependent => a.towards == b.towards,
            }
    };
    for (n, one) in seen.iter().enumerate() {
        match seen[..n].iter().rev().find(|before| shares(before, one)) {
            Some(before) if before.external == one.external => bits += log2_permille(990),
            Some(_) => bits += ODD - log2(PORTS),
            None => {
                let (local, port) = (one.local, one.external.port());
                let outside = SocketAddr::new(one.external.ip(), local);
                let taken = seen[..n].iter().any(|s| s.external == outside);
                fresh.push(Fresh { local, port, taken });
            }
        }
    }
    (fresh, bits)
}

/// Rules for new mappings, each with the logarithm of its prior times its likelihood.
fn rules(fresh: &[Fresh], symmetric: bool) -> Vec<(i32, Rule)> {
    let any = -log2(PORTS);
    let each = |of: &dyn Fn(&Fresh) -> i32| fresh.iter().map(of).sum::<i32>();
    let mut all = Vec::new();
    // Where mappings differ by destination, ports are kept while they are free, or not at all.
    let [kept, in_part, offset, counted, by_port, parity, block, random] =
        if symmetric { [240, 10, 10, 250, 5, 15, 200, 270] } else { [680, 20, 15, 120, 10, 10, 45, 100] };
    let expected = |right: bool| if right { log2_permille(990) } else { ODD + any };
    if symmetric {
        let bits = each(&|f| match f.taken {
            false => expected(f.port == f.local),
            // The next free one, or any.
            true => (if f.port > f.local && f.port - f.local <= 8 { -4 * BIT } else { any }) - BIT,
        });
        all.push((log2_permille(kept) + bits, Rule::KeptWhileFree));
    } else {
        all.push((log2_permille(kept) + each(&|f| expected(f.port == f.local)), Rule::Kept));
    }
    let (bits, rule) = kept_in_part(fresh);
    all.push((log2_permille(in_part) + bits, rule));
    let Some(first) = fresh.first() else { return Vec::new() };
    let by = first.port.wrapping_sub(first.local);
    if by != 0 {
        let bits = each(&|f| expected(f.port.wrapping_sub(f.local) == by)) + any;
        all.push((log2_permille(offset) + bits, Rule::Offset(by)));
    }
    for step in (1..=MAX_STEP as i16).flat_map(|step| [step, -step]) {
        let prior = step_prior(step);
        all.push((log2_permille(counted) + prior + any + counts(fresh, step), Rule::Counted(step)));
        if step != 1 {
            let follows = |f: &Fresh| {
                let steps = i32::from(f.local) - i32::from(first.local);
                i32::from(first.port) + steps * i32::from(step) == i32::from(f.port)
            };
            let bits = fresh[1..].iter().map(|f| expected(follows(f))).sum::<i32>();
            all.push((log2_permille(by_port) + prior + any + bits, Rule::ByLocalPort(step)));
        }
    }
    let alike = |f: &Fresh| if f.port % 2 == f.local % 2 { any + BIT } else { ODD + any };
    all.push((log2_permille(parity) + each(&alike), Rule::Parity));
    all.extend(in_block(fresh).map(|(bits, rule)| (log2_permille(block) + bits, rule)));
    all.push((log2_permille(random) + any * fresh.len() as i32, Rule::Random));
    all
}

/// Ports that are kept in a share of all cases which nobody knows: others have the ports of busy carriers' NATs. Each share is as
/// likely as any other, so that the next port is kept with (kept + 1) / (seen + 2): Laplace's rule of succession.
fn kept_in_part(fresh: &[Fresh]) -> (i32, Rule) {
    // Ports that our own mappings have tell nothing.
    let (mut bits, mut kept, mut seen) = (0, 0, 0);
    for one in fresh {
        let is_kept = one.port == one.local;
        let likely = if is_kept { kept + 1 } else { seen - kept + 1 };
        bits -= if is_kept { 0 } else { log2(PORTS) };
        if !one.taken {
            bits += log2(likely) - log2(seen + 2);
            kept += u64::from(is_kept);
            seen += 1;
        }
    }
    (bits, Rule::KeptInPart(((kept + 1) * 1000 / (seen + 2)) as u16))
}

/// Prior of a counter's step: by 1 in six of ten, by 2 in two, and all others in the rest.
fn step_prior(step: i16) -> i32 {
    match step {
        1 => log2_permille(600),
        2 => log2_permille(200),
        -2..=-1 => log2_permille(50),
        _ => log2_permille(4),
    }
}

/// Logarithm of the likelihood that a counter gave these ports. Others take k numbers between two of ours with a probability
/// of 1 / ((k + 1) (k + 2)): none in half of all cases, and no rate is preferred. Once the counter may begin again at its
/// other end.
fn counts(fresh: &[Fresh], step: i16) -> i32 {
    let any = -log2(PORTS);
    let by = i32::from(step);
    let (mut bits, mut turns) = (0, 0);
    for pair in fresh.windows(2) {
        let ahead = i32::from(pair[1].port) - i32::from(pair[0].port);
        bits += if ahead % by == 0 && ahead / by > 0 {
            let others = (ahead / by - 1) as u64;
            -log2(others + 1) - log2(others + 2)
        } else {
            turns += 1;
            if turns > 1 { ODD * 2 + any } else { ODD + any }
        };
    }
    bits
}

/// The blocks that can have given these ports, with their likelihood: the ports of a size lie evenly in a block of that size,
/// which lies anywhere.
fn in_block(fresh: &[Fresh]) -> impl Iterator<Item = (i32, Rule)> {
    let ports = fresh.iter().map(|f| f.port);
    let (low, high) = (ports.clone().min().unwrap_or(0), ports.max().unwrap_or(0));
    let (span, n) = (high - low, fresh.len().max(1) as i32);
    BLOCKS.into_iter().filter(move |(size, _)| *size > span).map(move |(size, prior)| {
        let places = u64::from(size - span);
        let bits = log2(places) - log2(PORTS) - n * log2(size.into());
        // The seen ones rarely reach the block's ends: they leave a gap as wide as those between them at either.
        let gap = (span / fresh_gaps(n)).min(size - span).max(1);
        let (low, mut high) = (low.saturating_sub(gap).max(1), high.saturating_add(gap));
        // Searches from both sides go to the middle and the port after it. What the survey has there would keep them out.
        let taken = |high| fresh.iter().any(|f| f.port.wrapping_sub(middle(low, high)) <= 1);
        while taken(high) && high < u16::MAX - 1 {
            high += 2;
        }
        (bits + log2_permille(prior), Rule::Block { low, high })
    })
}

/// Gaps between so many ports.
fn fresh_gaps(n: i32) -> u16 {
    (n - 1).max(1) as u16
}

/// Logarithm to base 2 of a probability in thousandths, in 256ths of a bit.
fn log2_permille(permille: u32) -> i32 {
    log2(permille.max(1).into()) - log2(1000)
}

/// Logarithm to base 2 in 256ths of a bit, rounded down; of 0 that of 1.
fn log2(n: u64) -> i32 {
    let whole = n.max(1).ilog2();
    // The mantissa in [1, 2), with 31 binary places; a square above 2 is a bit.
    let mut mantissa = ((u128::from(n.max(1)) << 31) >> whole) as u64;
    let mut bits = whole as i32;
    for _ in 0..8 {
        mantissa = ((u128::from(mantissa) * u128::from(mantissa)) >> 31) as u64;
        bits <<= 1;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            bits |= 1;
        }
    }
    bits
}

/// 2 to the power of a number of 256ths that is 0 or less, times 2^30.
fn exp2(bits: i32) -> u64 {
    /// 2^30 times 2 to the power of -1/2, -1/4 ... -1/256.
    const ROOTS: [u64; 8] = [
        759_250_125,
        902_905_651,
        984_625_594,
        1_028_218_693,
        1_050_733_751,
        1_062_175_491,
        1_067_942_999,
        1_070_838_486,
    ];
    let below = bits.min(0).unsigned_abs();
    let mut weight: u64 = if below / 256 > 30 { 0 } else { (1 << 30) >> (below / 256) };
    for (n, root) in ROOTS.into_iter().enumerate() {
        if (below % 256) >> (7 - n) & 1 == 1 {
            weight = (weight * root) >> 30;
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mapping::{AddressDependent as Ad, AddressPortDependent as Apd, EndpointIndependent as Ei};
    use Towards::{OtherAddress, OtherPort, Server};

    /// Sights of a survey from port 4000: the server, its other address, its other port, and three fresh ports.
    fn survey(first: [u16; 3], samples: [u16; 3]) -> Vec<Seen> {
        let seen = |local, towards, port| Seen { local, towards, external: ([203, 0, 113, 1], port).into() };
        let towards = [Server, OtherAddress, OtherPort];
        let of_listener = towards.into_iter().zip(first).map(|(towards, port)| seen(4000, towards, port));
        let samples = [20_000, 20_003, 20_004].into_iter().zip(samples);
        of_listener.chain(samples.map(|(local, port)| seen(local, Server, port))).collect()
    }

    fn best(first: [u16; 3], samples: [u16; 3]) -> (Mapping, Rule) {
        let judged = judge(&survey(first, samples)).unwrap();
        (judged.hypotheses[0].mapping, judged.hypotheses[0].rule)
    }

    #[test]
    fn each_kind_is_told_from_one_survey() {
        let kept = [20_000, 20_003, 20_004];
        for (first, samples, mapping, rule) in [
            ([4000; 3], kept, Ei, Rule::Kept),
            ([5000; 3], [21_000, 21_003, 21_004], Ei, Rule::Offset(1000)),
            ([40_000; 3], [40_001, 40_002, 40_003], Ei, Rule::Counted(1)),
            ([40_000; 3], [40_002, 40_004, 40_006], Ei, Rule::Counted(2)),
            ([40_000; 3], [39_999, 39_998, 39_997], Ei, Rule::Counted(-1)),
            ([40_000; 3], [7001, 21_044, 60_002], Ei, Rule::Random),
            ([1000; 3], [33_000, 33_006, 33_008], Ei, Rule::ByLocalPort(2)),
            // Ports that are free are kept: only the listener's own, which has a mapping, is not.
            ([4000, 51_712, 4000], kept, Ad, Rule::KeptWhileFree),
            ([4000, 51_712, 33_019], kept, Apd, Rule::KeptWhileFree),
            // One mapping for both ports of the server's address.
            ([26_225, 26_226, 26_225], [26_227, 26_228, 26_229], Ad, Rule::Counted(1)),
            ([26_225, 26_227, 26_225], [26_229, 26_231, 26_233], Ad, Rule::Counted(2)),
            ([26_225, 26_226, 26_225], [26_230, 26_231, 26_240], Ad, Rule::Counted(1)),
            ([26_225, 26_226, 26_227], [26_228, 26_229, 26_230], Apd, Rule::Counted(1)),
            ([26_225, 31_007, 26_225], [11_228, 50_229, 42_230], Ad, Rule::Random),
            ([26_225, 31_007, 9001], [11_228, 50_229, 42_230], Apd, Rule::Random),
        ] {
            assert_eq!(best(first, samples), (mapping, rule), "{first:?} {samples:?}");
        }
    }

    #[test]
    fn a_counter_is_told_from_a_block_and_both_from_chance() {
        let rule = |first, samples| best(first, samples).1;
        let block = |first, samples| matches!(rule(first, samples), Rule::Block { .. });
        // Ports of a block of 512 that happen to rise are no counter's, nor are they of a counter in a hurry.
        assert!(block([40_011, 40_102, 40_149], [40_263, 40_390, 40_482]));
        assert!(block([40_410, 40_020, 40_150], [40_260, 40_110, 40_480]));
        assert_eq!(rule([40_010, 40_011, 40_030], [40_031, 40_032, 40_040]), Rule::Counted(1));
        // Past its highest port a counter begins again.
        assert_eq!(rule([65_533, 65_534, 65_535], [1024, 1025, 1026]), Rule::Counted(1));
        assert_eq!(rule([26_225, 26_226, 40_227], [11_228, 26_229, 50_230]), Rule::Random);
    }

    /// P2PD's mistakes about ports, each with the right result.
    #[test]
    fn p2pds_mistakes_are_not_made() {
        let of = |samples: &[(u16, u16)]| {
            let seen = |&(local, port): &(u16, u16)| Seen {
                local,
                towards: Server,
                external: ([203, 0, 113, 1], port).into(),
            };
            judge(&samples.iter().map(seen).collect::<Vec<_>>()).unwrap().allocation
        };
        // It drops the sign of a distance, so that allocators which count down are unknown to it.
        let down = of(&[(5000, 40_010), (5003, 40_008), (5004, 40_006)]);
        assert_eq!(down, Some(Allocation::Sequential(-2)));
        let down = of(&[(5000, 40_000), (5003, 39_997), (5004, 39_996)]);
        assert_eq!(down, Some(Allocation::Dependent(-1)));
        // It wants two different distances to see preservation; the same one thrice is preserved too. And it
        // takes the absolute value, so that a port below its mapping is predicted wrongly.
        let below = of(&[(50_000, 40_000), (50_003, 40_003), (50_004, 40_004)]);
        assert_eq!(below, Some(Allocation::Preserving(55_536)));
        assert_eq!(50_010_u16.wrapping_add(55_536), 40_010);
        // It takes distances modulo 65,535; the ports wrap at 65,536.
        let over = of(&[(65_000, 65_500), (65_003, 65_503), (65_100, 64)]);
        assert_eq!(over, Some(Allocation::Preserving(500)));
        // Any distance that occurs often enough is a rule to it, one that jumps both ways included.
        let both = of(&[(5000, 40_000), (5003, 40_002), (5004, 40_000), (5009, 40_002)]);
        assert!(matches!(both, Some(Allocation::Random { .. })), "{both:?}");
        // Oddities are no rule, and nothing overflows.
        let same = of(&[(5000, 7), (5003, 7), (5004, 7)]);
        assert!(matches!(same, Some(Allocation::Random { low: ..=7, .. })), "{same:?}");
        assert_eq!(
            of(&[(0, u16::MAX), (u16::MAX, 0), (0, u16::MAX)]),
            None,
            "one of three was there already"
        );
    }

    #[test]
    fn probabilities_add_up_and_none_is_certain() {
        let judged = judge(&survey([4000; 3], [20_000, 20_003, 20_004])).unwrap();
        assert_eq!(judged.hypotheses[0].permille, 993);
        assert_eq!(
            judged.hypotheses[0].to_string(),
            "99.3 %: a mapping the same for every destination, ports as inside"
        );
        // Six ports, all with the parity of those inside: eight times as likely as by chance is not certain.
        let judged = judge(&survey([26_226, 31_008, 9002], [11_228, 50_229, 42_230])).unwrap();
        let of = |rule| judged.hypotheses.iter().find(|h| h.rule == rule).map_or(0, |h| h.permille);
        assert!(of(Rule::Parity) > 500 && of(Rule::Random) > 50, "{:?}", judged.hypotheses);
        assert!(judged.hypotheses.iter().map(|h| h.permille).sum::<u16>() <= 1000);
    }

    #[test]
    fn ports_that_are_kept_in_part_are_told_by_their_share() {
        let judged = |first, samples| {
            let judged = judge(&survey(first, samples)).unwrap();
            (judged.hypotheses[0].rule, judged.allocation, judged.certainty, judged.share)
        };
        let random = Some(Allocation::Random { low: 1024, high: u16::MAX });
        // Once of four times others may have had the port by chance: the share is that of both hypotheses.
        let one_lost = judged([4000, 51_712, 33_019], [20_000, 31_007, 20_004]);
        assert_eq!(one_lost, (Rule::KeptInPart(666), Some(Allocation::Equal), 999, 825));
        // Twice of four is a rule of its own. The listener's port is taken by then, and does not count again.
        let half = judged([4000, 51_712, 33_019], [20_000, 31_007, 41_004]);
        assert_eq!(half, (Rule::KeptInPart(500), Some(Allocation::Equal), 999, 505));
        // One mapping for all destinations is measured, whatever its port.
        let measured = judged([4000; 3], [31_007, 20_003, 41_004]);
        assert_eq!(measured, (Rule::KeptInPart(500), random, 858, 1000));
    }

    #[test]
    fn hypotheses_that_foresee_the_same_count_together() {
        let certainty = |first, samples| judge(&survey(first, samples)).unwrap().certainty;
        // One mapping for all destinations is measured: no rule matters.
        let measured = certainty([40_000; 3], [7001, 21_044, 60_002]);
        // Ports of a range that may be a counter's, and ports that may be any.
        let ranged = certainty([40_011, 40_102, 40_149], [40_263, 40_390, 40_482]);
        let random = certainty([26_225, 31_007, 9001], [11_228, 50_229, 42_230]);
        assert_eq!([measured, ranged, random], [999, 803, 999]);
    }

    #[test]
    fn an_address_for_each_mapping_is_seen() {
        let at =
            |local, host, port| Seen { local, towards: Server, external: ([203, 0, 113, host], port).into() };
        let announced = [203, 0, 113, 1].into();
        let seen = [at(4000, 1, 7), at(4000, 1, 7), at(5000, 1, 8), at(5003, 1, 9), at(5004, 1, 10)];
        assert_eq!(same_address(&seen, announced), 1000);
        // Three of four mappings: the mapping that serves two destinations is one.
        let spread = [seen[0], seen[1], seen[2], seen[3], at(5004, 2, 10)];
        assert_eq!(same_address(&spread, announced), 666);
        assert_eq!(same_address(&spread, [203, 0, 113, 3].into()), 166);
        assert_eq!(same_address(&[], announced), 1000);
        // A port that another address of the NAT has is free.
        let (fresh, _) = split(&[at(4000, 2, 5000), at(5000, 1, 8)], Ei);
        assert!(!fresh[1].taken);
    }

    #[test]
    fn what_was_not_asked_is_not_told() {
        let mut seen = survey([4000; 3], [20_000, 20_003, 20_004]);
        seen.remove(1);
        assert_eq!(judge(&seen).unwrap().mapping, None, "no other address");
        seen.remove(1);
        assert_eq!(judge(&seen).unwrap().mapping, None, "no other port");
        assert_eq!(judge(&seen[..2]).unwrap().allocation, None, "two are too few");
        assert_eq!(judge(&[]), None);
        let seen = survey([26_225, 26_226, 26_227], [26_228, 26_229, 26_230]);
        assert_eq!(
            judge(&[seen[0], seen[2], seen[3], seen[4]]).unwrap().mapping,
            Some(Apd),
            "its ports tell"
        );
    }

    #[test]
    fn logarithms_and_powers_are_those_of_the_books() {
        for (n, bits) in
            [(0, 0), (1, 0), (2, 256), (3, 405), (1000, 2551), (64_512, 4090), (1 << 40, 40 * 256)]
        {
            assert_eq!(log2(n), bits, "{n}");
        }
        for bits in 0..2560 {
            let exact = (2f64).powf(-f64::from(bits) / 256.0);
            let ours = exp2(-bits) as f64 / f64::from(1 << 30);
            assert!((ours - exact).abs() < 1e-7, "{bits}: {ours} {exact}");
        }
        assert_eq!(exp2(-40 * 256), 0);
    }
}
