//! The grid of NATs: each mapping with each filtering, each allocation and each refusal, 216 kinds in all.
//!
//! A kind's text is `MAPPING.FILTERING.ALLOCATION.REFUSAL`, as in `apdm.adf.seq2.rst`. The words are those of the
//! laboratory's userspace NAT, and so is the rest of the device: it tracks no states of TCP, remembers which remote ends
//! were sent to, and a RST that crosses it changes nothing.

use core::fmt;
use core::str::FromStr;

use super::{Alloc, Clash, Dependence, Hairpin, NatSpec, OnRst, Scope, SpecError, Timers};
use super::{Tracking, Unique, Unsolicited};
use crate::engine::SECOND;

/// The userspace NAT of the laboratory, before a kind is chosen.
pub(super) const USERSPACE: NatSpec = NatSpec {
    unique: Unique::Port,
    tracking: Tracking::Contacts,
    on_rst: OnRst::Keep,
    hairpin: Hairpin::Dropped,
    timers: Timers { mapping: 120 * SECOND, ..Timers::RFC },
    ..NatSpec::LINUX
};

/// Distance of the external port from the inside one, where that is constant.
const OFFSET: i16 = 1_000;
/// Ports of a block.
pub const BLOCK: u16 = 1_024;

/// Allocation of a kind's external ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Allot {
    /// The inside port, also while another mapping has it.
    Always,
    /// The inside port while it is free, and else a random one.
    Keep,
    /// The inside port plus a constant, also while another mapping has it.
    Offset,
    /// The port after the last one.
    Seq,
    /// The second port after the last one.
    Seq2,
    /// A random one of the inside port's parity.
    Parity,
    /// A random one of a block.
    Block,
    /// A random one.
    Rand,
}

/// A kind of NAT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kind {
    /// Mapping behaviour.
    pub mapping: Dependence,
    /// Allocation of external ports.
    pub allot: Allot,
    /// Filtering behaviour.
    pub filtering: Dependence,
    /// Answer to unsolicited packets: silence, RST or ICMP port unreachable.
    pub refusal: Unsolicited,
}

const MAPPINGS: [(&str, Dependence); 3] =
    [("eim", Dependence::Endpoint), ("adm", Dependence::Address), ("apdm", Dependence::AddressAndPort)];
const FILTERINGS: [(&str, Dependence); 3] =
    [("eif", Dependence::Endpoint), ("adf", Dependence::Address), ("apdf", Dependence::AddressAndPort)];
const ALLOTS: [(&str, Allot); 8] = [
    ("always", Allot::Always),
    ("keep", Allot::Keep),
    ("offset", Allot::Offset),
    ("seq", Allot::Seq),
    ("seq2", Allot::Seq2),
    ("parity", Allot::Parity),
    ("block", Allot::Block),
    ("rand", Allot::Rand),
];
const REFUSALS: [(&str, Unsolicited); 3] =
    [("drop", Unsolicited::Drop), ("rst", Unsolicited::Rst), ("icmp", Unsolicited::IcmpPort)];

fn name<T: PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, v)| *v == value).map_or("?", |(name, _)| name)
}

fn pick<T: Copy>(table: &[(&str, T)], text: &str) -> Result<T, SpecError> {
    table.iter().find(|(name, _)| *name == text).map(|(_, v)| *v).ok_or_else(|| SpecError::Value(text.into()))
}

impl Kind {
    /// Number of kinds.
    pub const COUNT: usize = MAPPINGS.len() * FILTERINGS.len() * ALLOTS.len() * REFUSALS.len();

    /// Every kind, ordered by mapping, allocation, filtering and refusal.
    pub fn all() -> impl Iterator<Item = Kind> {
        MAPPINGS.iter().flat_map(|(_, mapping)| {
            ALLOTS.iter().flat_map(move |(_, allot)| {
                FILTERINGS.iter().flat_map(move |(_, filtering)| {
                    REFUSALS.iter().map(move |(_, refusal)| Kind {
                        mapping: *mapping,
                        allot: *allot,
                        filtering: *filtering,
                        refusal: *refusal,
                    })
                })
            })
        })
    }

    /// The kind of this NAT, if it is one.
    pub fn of(spec: &NatSpec) -> Option<Kind> {
        Kind::all().find(|kind| kind.spec() == *spec)
    }

    /// The NAT of this kind.
    pub fn spec(self) -> NatSpec {
        let spec = USERSPACE.with(self.mapping, self.filtering).unsolicited(self.refusal);
        let counted = |step| spec.alloc(Alloc::Sequential { step, scope: Scope::Global });
        match self.allot {
            Allot::Always => NatSpec { unique: Unique::Shared, ..spec },
            Allot::Keep => spec.alloc(Alloc::Preserve(Clash::Random)),
            Allot::Offset => NatSpec { unique: Unique::Shared, ..spec.alloc(Alloc::Offset(OFFSET)) },
            Allot::Seq => counted(1),
            Allot::Seq2 => counted(2),
            Allot::Parity => spec.alloc(Alloc::Parity),
            Allot::Block => spec.alloc(Alloc::Block(BLOCK)),
            Allot::Rand => spec.alloc(Alloc::Random),
        }
    }

    /// Returns the mapping's and the allocation's names, by which tables put kinds together.
    pub fn class(self) -> String {
        format!("{}.{}", name(&MAPPINGS, self.mapping), name(&ALLOTS, self.allot))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mapping, filtering) = (name(&MAPPINGS, self.mapping), name(&FILTERINGS, self.filtering));
        let (allot, refusal) = (name(&ALLOTS, self.allot), name(&REFUSALS, self.refusal));
        write!(f, "{mapping}.{filtering}.{allot}.{refusal}")
    }
}

impl FromStr for Kind {
    type Err = SpecError;

    /// Reads a kind. Without a refusal, strangers meet silence.
    fn from_str(text: &str) -> Result<Kind, SpecError> {
        let mut parts = text.splitn(4, '.');
        let mut next = || parts.next().unwrap_or_default();
        let (mapping, filtering, allot) =
            (pick(&MAPPINGS, next())?, pick(&FILTERINGS, next())?, pick(&ALLOTS, next())?);
        let refusal = parts.next().map_or(Ok(Unsolicited::Drop), |word| pick(&REFUSALS, word))?;
        Ok(Kind { mapping, filtering, allot, refusal })
    }
}

/// Kinds by their texts: words between points, `*` for any, `|` between alternatives; what is left out is any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(Vec<Vec<String>>);

impl Pattern {
    /// Returns true if the pattern has this kind.
    pub fn has(&self, kind: Kind) -> bool {
        let text = kind.to_string();
        self.0.iter().zip(text.split('.')).all(|(words, word)| words.iter().any(|w| w == "*" || w == word))
    }
}

impl FromStr for Pattern {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Pattern, SpecError> {
        let words = |part: &str| part.split('|').map(str::to_owned).collect();
        let pattern = Pattern(text.split('.').map(words).collect());
        match Kind::all().any(|kind| pattern.has(kind)) && pattern.0.len() <= 4 {
            true => Ok(pattern),
            false => Err(SpecError::Value(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nat::Chain;

    #[test]
    fn there_are_216_kinds_and_each_is_read_back_from_its_print() {
        let all: BTreeSet<String> = Kind::all().map(|kind| kind.to_string()).collect();
        assert_eq!((all.len(), Kind::COUNT), (216, 216));
        for kind in Kind::all() {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            let chain: Chain = kind.to_string().parse().unwrap();
            assert_eq!(chain.0, [kind.spec()]);
            assert_eq!((Kind::of(&chain.0[0]), chain.to_string()), (Some(kind), kind.to_string()));
        }
        assert_eq!("adm.apdf.seq".parse::<Kind>(), "adm.apdf.seq.drop".parse());
        assert!("adm.apdf".parse::<Kind>().is_err() && "adm.apdf.seq.maybe".parse::<Kind>().is_err());
        let two: Chain = "eim.eif.keep+apdm.adf.rand.icmp".parse().unwrap();
        assert_eq!((two.0.len(), two.to_string().as_str()), (2, "eim.eif.keep.drop+apdm.adf.rand.icmp"));
    }

    #[test]
    fn patterns_choose_kinds() {
        let count = |text: &str| {
            let pattern: Pattern = text.parse().unwrap();
            Kind::all().filter(|kind| pattern.has(*kind)).count()
        };
        assert_eq!(["*", "apdm", "*.apdf.seq|seq2", "eim.eif.keep.rst"].map(count), [216, 72, 18, 1]);
        assert!("nosuch".parse::<Pattern>().is_err());
    }
}
