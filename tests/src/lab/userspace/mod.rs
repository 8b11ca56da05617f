//! NATs that the kernel has no rules for, as a translator between a home's line and the internet.

mod packet;
mod translator;

use std::fmt;
use std::str::FromStr;

use super::LabError;

pub(super) use translator::{Inbound, Translator};

/// Extent to which a NAT looks at the remote end, of mapping or of filtering (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dependence {
    /// Not at all: one mapping for all, or anybody may answer.
    EndpointIndependent,
    /// At its address.
    Address,
    /// At its address and port.
    AddressAndPort,
}

/// Choice of the external port for a new mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// The inside port always; mappings of one inside endpoint share it.
    Overload,
    /// The inside port while it is free, else a random one.
    Keep,
    /// The last port and this much more.
    Sequential(u16),
    /// A random port, even or odd as the inside one.
    Parity,
    /// A random port of a block of so many; when all are taken, none.
    Block(u16),
    /// The inside port and this much more while that is free, else a random one.
    Offset(u16),
    /// A random port.
    Random,
}

/// A kind of NAT in userspace, also parsed from text: `adm.apdf.seq2`, `eim.adf.rand.hairpin.pool3.unpaired`.
///
/// Mapping `eim adm apdm`; filtering `eif adf apdf`; allocation `overload keep seqN parity blockN offsetN rand`, where
/// a number may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserNat {
    /// Remote ends that have a mapping of their own.
    pub mapping: Dependence,
    /// Remote ends that may answer.
    pub filtering: Dependence,
    /// External ports.
    pub allocation: Allocation,
    /// Whether hosts inside reach each other's external addresses, and their own.
    pub hairpin: bool,
    /// Number of external addresses, 1 to 4.
    pub pool: u8,
    /// Whether all mappings of a host have the same external address.
    pub paired: bool,
}

/// Ports of a block, where the text names no number.
const BLOCK: u16 = 1024;
/// Distance of an offset, where the text names no number.
const OFFSET: u16 = 1000;
/// Most external addresses: a home has that many.
const MAX_POOL: u8 = 4;

impl UserNat {
    /// The 45 kinds of the userspace grid: every mapping and filtering with `keep seq seq2 rand parity`.
    pub fn grid() -> Vec<Self> {
        let all = [Dependence::EndpointIndependent, Dependence::Address, Dependence::AddressAndPort];
        let ports = [
            Allocation::Keep,
            Allocation::Sequential(1),
            Allocation::Sequential(2),
            Allocation::Random,
            Allocation::Parity,
        ];
        let kinds = all.into_iter().flat_map(|m| ports.into_iter().map(move |p| (m, p)));
        kinds.flat_map(|(m, p)| all.into_iter().map(move |f| Self::new(m, f, p))).collect()
    }

    /// A NAT with one address and without hairpinning.
    pub fn new(mapping: Dependence, filtering: Dependence, allocation: Allocation) -> Self {
        Self { mapping, filtering, allocation, hairpin: false, pool: 1, paired: true }
    }

    pub(super) fn validate(&self) -> Result<(), &'static str> {
        match self.allocation {
            Allocation::Sequential(0) | Allocation::Block(0) => Err("a step or a block of 0 ports"),
            Allocation::Block(64_513..) => Err("a block of more than 64,512 ports"),
            _ if !(1..=MAX_POOL).contains(&self.pool) => Err("a pool has 1 to 4 addresses"),
            _ => Ok(()),
        }
    }
}

const MAPPINGS: [(&str, Dependence); 3] = [
    ("eim", Dependence::EndpointIndependent),
    ("adm", Dependence::Address),
    ("apdm", Dependence::AddressAndPort),
];
const FILTERINGS: [(&str, Dependence); 3] = [
    ("eif", Dependence::EndpointIndependent),
    ("adf", Dependence::Address),
    ("apdf", Dependence::AddressAndPort),
];

fn named(names: &[(&'static str, Dependence); 3], text: &str) -> Option<Dependence> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

fn name(names: &[(&'static str, Dependence); 3], value: Dependence) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Overload => f.write_str("overload"),
            Self::Keep => f.write_str("keep"),
            Self::Sequential(1) => f.write_str("seq"),
            Self::Sequential(step) => write!(f, "seq{step}"),
            Self::Parity => f.write_str("parity"),
            Self::Block(BLOCK) => f.write_str("block"),
            Self::Block(size) => write!(f, "block{size}"),
            Self::Offset(OFFSET) => f.write_str("offset"),
            Self::Offset(by) => write!(f, "offset{by}"),
            Self::Random => f.write_str("rand"),
        }
    }
}

impl FromStr for Allocation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (word, number) = text.split_at(text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len()));
        let number = if number.is_empty() { None } else { Some(number.parse().map_err(drop)?) };
        match (word, number) {
            ("overload", None) => Ok(Self::Overload),
            ("keep", None) => Ok(Self::Keep),
            ("seq", step) => Ok(Self::Sequential(step.unwrap_or(1))),
            ("parity", None) => Ok(Self::Parity),
            ("block", size) => Ok(Self::Block(size.unwrap_or(BLOCK))),
            ("offset", by) => Ok(Self::Offset(by.unwrap_or(OFFSET))),
            ("rand", None) => Ok(Self::Random),
            _ => Err(()),
        }
    }
}

impl fmt::Display for UserNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mapping, filtering) = (name(&MAPPINGS, self.mapping), name(&FILTERINGS, self.filtering));
        write!(f, "{mapping}.{filtering}.{}", self.allocation)?;
        if self.hairpin {
            f.write_str(".hairpin")?;
        }
        if self.pool != 1 {
            write!(f, ".pool{}", self.pool)?;
        }
        if self.paired { Ok(()) } else { f.write_str(".unpaired") }
    }
}

impl FromStr for UserNat {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let unknown = |what: &str| LabError::new(format!("userspace NAT {text:?}: {what}"));
        let mut words = text.split('.');
        let mut next = || words.next().unwrap_or_default();
        let mapping = named(&MAPPINGS, next()).ok_or_else(|| unknown("the mapping is eim, adm or apdm"))?;
        let filtering =
            named(&FILTERINGS, next()).ok_or_else(|| unknown("the filtering is eif, adf or apdf"))?;
        let allocation = next().parse().map_err(|()| {
            unknown("the allocation is overload, keep, seqN, parity, blockN, offsetN or rand")
        })?;
        let mut nat = Self::new(mapping, filtering, allocation);
        for word in words {
            match word.strip_prefix("pool").map(str::parse) {
                Some(Ok(addresses)) => nat.pool = addresses,
                None if word == "hairpin" => nat.hairpin = true,
                None if word == "unpaired" => nat.paired = false,
                _ => return Err(unknown(&format!("{word:?} is not hairpin, poolN or unpaired"))),
            }
        }
        nat.validate().map_err(unknown)?;
        Ok(nat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let grid = UserNat::grid();
        assert_eq!(grid.len(), 45);
        let more = ["eim.eif.overload.hairpin", "apdm.adf.block64.pool4.unpaired", "adm.apdf.offset"];
        let more = more.map(|text| text.parse().unwrap());
        for nat in grid.into_iter().chain(more) {
            assert_eq!(nat.to_string().parse::<UserNat>().unwrap(), nat);
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (text, word) in [
            ("cone", "mapping"),
            ("eim.open", "filtering"),
            ("eim.eif", "allocation"),
            ("eim.eif.seq99999", "allocation"),
            ("eim.eif.seq0", "step"),
            ("eim.eif.keep.pool5", "pool"),
            ("eim.eif.keep.rst", "rst"),
        ] {
            let error = text.parse::<UserNat>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
