//! Parts of a home: its NAT or chain of NATs, its answer to strangers, and its line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::LabError;
use super::userspace::UserNat;

/// Address translation of a home's router, in the terms of RFC 4787.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nat {
    /// A public host behind a router that only forwards.
    None,
    /// A public host behind a stateful firewall.
    Firewall,
    /// Endpoint-independent mapping and filtering ("full cone").
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering ("address restricted").
    AddressRestricted,
    /// Linux masquerading: keeps the source port while it is free, filters by address and port. Most homes.
    PortPreserving,
    /// Endpoint-independent mapping to a random port, filtering by address and port.
    EimRandom,
    /// A new port for each destination, counting upwards; filtering by address and port.
    SymmetricSequential,
    /// A new random port for each destination; filtering by address and port.
    SymmetricRandom,
    /// In userspace, as the lab's internet translates; the outermost only.
    User(UserNat),
}

impl Nat {
    /// Every kind of the kernel's.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortPreserving,
        Self::EimRandom,
        Self::SymmetricSequential,
        Self::SymmetricRandom,
    ];

    /// The short name: `none fw fc ar pr eimrand symseq symrand`, and `user` for all in userspace.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Firewall => "fw",
            Self::FullCone => "fc",
            Self::AddressRestricted => "ar",
            Self::PortPreserving => "pr",
            Self::EimRandom => "eimrand",
            Self::SymmetricSequential => "symseq",
            Self::SymmetricRandom => "symrand",
            Self::User(_) => "user",
        }
    }

    /// Returns true if addresses are translated at all.
    pub fn translates(self) -> bool {
        !matches!(self, Self::None | Self::Firewall)
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(nat) => write!(f, "user:{nat}"),
            _ => f.write_str(self.name()),
        }
    }
}

impl FromStr for Nat {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        if let Some(kind) = text.strip_prefix("user:") {
            return kind.parse().map(Self::User);
        }
        let known = Self::ALL.into_iter().find(|nat| nat.name() == text);
        known.ok_or_else(|| LabError::new(format!("no NAT is called {text:?}")))
    }
}

/// Answer of a home's outermost router to a SYN that nobody inside asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unsolicited {
    /// Silence: the caller times out.
    #[default]
    Drop,
    /// A reset: the caller sees ECONNREFUSED.
    Rst,
    /// ICMP port unreachable: ECONNREFUSED.
    IcmpPort,
    /// ICMP host unreachable: EHOSTUNREACH.
    IcmpHost,
    /// ICMP administratively prohibited: EHOSTUNREACH.
    IcmpAdmin,
    /// The router's own TCP answers, which without a listener is a reset.
    Local,
}

impl Unsolicited {
    /// Every policy.
    pub const ALL: [Self; 6] =
        [Self::Drop, Self::Rst, Self::IcmpPort, Self::IcmpHost, Self::IcmpAdmin, Self::Local];

    /// The short name: `drop rst icmp-port icmp-host icmp-admin local`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Rst => "rst",
            Self::IcmpPort => "icmp-port",
            Self::IcmpHost => "icmp-host",
            Self::IcmpAdmin => "icmp-admin",
            Self::Local => "local",
        }
    }
}

/// Order of the ports of a sequential symmetric NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// The first external port.
    pub first: u16,
    /// The distance from one port to the next.
    pub step: u16,
    /// Number of ports after which the count starts again.
    pub count: u16,
}

impl Default for Sequence {
    fn default() -> Self {
        Self { first: 40_000, step: 1, count: 2048 }
    }
}

/// A home: a host, its router, perhaps a carrier's NAT beyond, and the line to the internet.
///
/// Also parsed from text: `"pr"`, `"symrand/rst"`, `"pr+symrand/icmp-host"` (innermost router first),
/// `"user:adm.apdf.seq2/rst"` (see [`UserNat`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Home {
    pub(super) chain: Vec<Nat>,
    pub(super) unsolicited: Unsolicited,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) loss: f64,
    pub(super) sequence: Sequence,
}

impl Home {
    /// A home whose router is of this kind, silent towards strangers, at no distance.
    pub fn new(nat: Nat) -> Self {
        Self {
            chain: vec![nat],
            unsolicited: Unsolicited::Drop,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            sequence: Sequence::default(),
        }
    }

    /// Puts a carrier's NAT between the present routers and the internet.
    pub fn behind(mut self, carrier: Nat) -> Self {
        self.chain.push(carrier);
        self
    }

    /// Sets the outermost router's answer to strangers.
    pub fn unsolicited(mut self, policy: Unsolicited) -> Self {
        self.unsolicited = policy;
        self
    }

    /// Sets the one-way delay of the line. A packet between two homes takes the delays of both lines.
    pub fn delay(mut self, one_way: Duration) -> Self {
        self.delay = one_way;
        self
    }

    /// Sets the jitter: up to this much more delay per packet, evenly distributed. Packets may overtake each other.
    pub fn jitter(mut self, most: Duration) -> Self {
        self.jitter = most;
        self
    }

    /// The share of packets lost on the line, in either direction.
    pub fn loss(mut self, share: f64) -> Self {
        self.loss = share;
        self
    }

    /// Sets the order of the ports of the home's sequential NATs.
    pub fn sequence(mut self, sequence: Sequence) -> Self {
        self.sequence = sequence;
        self
    }

    /// Returns true if the host itself has a public address.
    pub fn is_public(&self) -> bool {
        self.chain.iter().all(|nat| !nat.translates())
    }

    pub(super) fn validate(&self) -> Result<(), LabError> {
        let bad = |why: &str| Err(LabError::new(format!("home {self}: {why}")));
        if self.chain.len() > 1 && !self.chain.iter().all(|nat| nat.translates()) {
            return bad("a chain can hold translating NATs only");
        }
        if self.chain.len() > 4 {
            return bad("more than 4 NATs in a row");
        }
        for (level, nat) in self.chain.iter().enumerate() {
            let Nat::User(kind) = nat else { continue };
            kind.validate().or_else(bad)?;
            if level + 1 < self.chain.len() {
                return bad("a NAT in userspace is the outermost");
            }
        }
        if !(0.0..=1.0).contains(&self.loss) {
            return bad("loss must be a share between 0 and 1");
        }
        let Sequence { first, step, count } = self.sequence;
        let last = u32::from(first) + u32::from(step) * u32::from(count.saturating_sub(1));
        if first == 0 || step == 0 || count == 0 || last > 65_535 {
            return bad("the port sequence must be 1..=65535 with a step and a count of at least 1");
        }
        Ok(())
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain: Vec<_> = self.chain.iter().map(Nat::to_string).collect();
        write!(f, "{}/{}", chain.join("+"), self.unsolicited.name())
    }
}

impl FromStr for Home {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let (chain, policy) = text.split_once('/').unwrap_or((text, Unsolicited::Drop.name()));
        let policy = Unsolicited::ALL.into_iter().find(|p| p.name() == policy).ok_or_else(|| {
            LabError::new(format!("home {text:?}: no policy for strangers is called {policy:?}"))
        })?;
        let chain = chain.split('+').map(str::parse).collect::<Result<Vec<Nat>, _>>();
        let chain = chain.map_err(|why| LabError::new(format!("home {text:?}: {why}")))?;
        let home = Self { chain, ..Self::new(Nat::None).unsolicited(policy) };
        home.validate()?;
        Ok(home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_builder_agree() {
        let built = Home::new(Nat::PortPreserving).behind(Nat::SymmetricRandom).unsolicited(Unsolicited::Rst);
        assert_eq!("pr+symrand/rst".parse::<Home>().unwrap(), built);
        assert_eq!(built.to_string(), "pr+symrand/rst");
        let text = "pr+user:adm.apdf.seq2/rst";
        assert_eq!(text.parse::<Home>().unwrap().to_string(), text);
        assert_eq!("fw".parse::<Home>().unwrap(), Home::new(Nat::Firewall));
    }

    #[test]
    fn nonsense_is_named() {
        for (text, word) in [
            ("cone", "cone"),
            ("pr/never", "never"),
            ("pr+fw", "translating"),
            ("", "\"\""),
            ("user:eim.eif.keep+pr", "outermost"),
            ("user:eim", "filtering"),
        ] {
            let error = text.parse::<Home>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let loss = Home::new(Nat::None).loss(1.5).validate().unwrap_err().to_string();
        assert!(loss.contains("between 0 and 1"), "{loss}");
        let ports = Sequence { first: 65_000, step: 10, count: 100 };
        assert!(Home::new(Nat::SymmetricSequential).sequence(ports).validate().is_err());
    }
}
