//! Pairs of homes as the internet has them, drawn from a census.
//!
//! The basic census has eleven classes of NAT with weights, and a range of paths. The weights are a calibration between
//! published sources and no measurement: with them a model of DCUtR joins the 70 % that it was measured to join in the
//! field. 18 % of homes of every class have a router of class A in front, so that a carrier's NAT of class C, H or I is
//! met through a home's own. The three losses are drawn evenly.
//!
//! The extended census has five more classes, of NATs that other kinds of punches find easier or harder than any of the
//! eleven, and pairs that meet over IPv6.
//!
//! Over each may be laid that some networks spoil one of TCP and UDP.
//!
//! Homes of class K reach nobody, or those who can be had at port 443. For that each node listens at 443, and asks for
//! 443 outside where its own router opens ports, as home routers are taken to do and carriers' NATs not.

use std::time::Duration;

use super::pair::{Ending, Pair, Relaying, run};
use super::plan::By;
use crate::domain;
use crate::engine::{Keyed, MICRO, Nanos};
use crate::nat::{Alloc, Chain, Clash, Dependence, Hairpin, NatSpec, OnRst, Scope, Timers};
use crate::nat::{Tracking, Unique, Unsolicited};
use crate::oracle::{Budget, at_443};
use crate::service::router::RouterSpec;
use Dependence::{Address as Ad, AddressAndPort as Apd, Endpoint as Ei};

/// A class of homes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// An external port for all destinations, the inside one where possible; strangers meet silence.
    A,
    /// An external port for all destinations, another one than inside.
    B,
    /// Any stranger is let in.
    C,
    /// Any port of a known address is let in.
    D,
    /// Class A, but strangers are refused by RST.
    E,
    /// Class A, but strangers are refused by ICMP.
    F,
    /// A port for each destination, counted.
    G,
    /// A port for each destination, random within a block.
    H,
    /// A port for each destination, random.
    I,
    /// Class I, with several external addresses.
    J,
    /// TCP leaves for ports 80 and 443 only.
    K,
    /// A port for each destination address: kept while it is free, counted or random.
    L,
    /// A port for each destination, kept while it is free.
    M,
    /// A random port for each destination, where any stranger or any port of a known address is let in.
    N,
    /// A port for each destination, counted within a block.
    O,
    /// A random port of the inside port's parity for each destination.
    P,
    /// No NAT: a firewall on IPv6, or a translation of prefixes.
    V,
}

/// Fault of a home's outermost NAT towards one of TCP and UDP, whatever its class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Spoil {
    /// TCP: a SYN that crosses one from inside is dropped, as any other.
    Dropped,
    /// TCP: any SYN from outside is refused by RST.
    Reset,
    /// UDP: none passes.
    Blocked,
    /// UDP: all beyond 1 Mbit/s is dropped, in each direction.
    Policed,
}

/// Classes and how many homes of a thousand each has.
#[derive(Clone, Copy, Debug)]
pub struct Census {
    /// The classes, each with its share and the source of that.
    pub weights: &'static [(Class, u32, &'static str)],
    /// Pairs of a thousand that meet over IPv6.
    pub ipv6: u32,
    /// Faults that spoil TCP or UDP, each with its homes of a thousand and the source of that.
    pub spoils: &'static [(Spoil, u32, &'static str)],
}

const OURS: &str = "our assumption: no study tells it apart";
const FORD: &str = "Ford et al. 2005: 64 % of home NATs keep one port and refuse nothing";
const RICHTER: &str =
    "Richter et al. 2016: under 2 % of homes, 11 % of fixed carriers, 40 % of cellular ones";
const BLOCKS: &str = "RFC 7422 and 6888 for the blocks; the share is our assumption";
const WANG: &str = "Wang et al. 2011: 4 % of cellular carriers spread flows over addresses";

/// The basic census.
pub const BASIC: Census = Census {
    weights: &[
        (Class::A, 580, FORD),
        (Class::B, 90, FORD),
        (Class::C, 80, "Ford et al. 2005 and the defaults of carriers' NATs; calibrated"),
        (Class::D, 20, "Halkes and Pouwelse 2011; calibrated"),
        (Class::E, 60, "OpenWrt's default; calibrated"),
        (Class::F, 10, OURS),
        (Class::G, 50, RICHTER),
        (Class::H, 35, BLOCKS),
        (Class::I, 50, RICHTER),
        (Class::J, 10, WANG),
        (Class::K, 15, OURS),
    ],
    ipv6: 0,
    spoils: &[],
};

/// The extended census.
pub const EXTENDED: Census = Census {
    weights: &[
        (Class::A, 560, FORD),
        (Class::B, 85, FORD),
        (Class::C, 75, "Ford et al. 2005 and the defaults of carriers' NATs; calibrated"),
        (Class::D, 20, "Halkes and Pouwelse 2011; calibrated"),
        (Class::E, 60, "OpenWrt's default; calibrated"),
        (Class::F, 10, OURS),
        (Class::G, 40, RICHTER),
        (Class::H, 30, BLOCKS),
        (Class::I, 40, RICHTER),
        (Class::J, 10, WANG),
        (Class::K, 15, OURS),
        (Class::L, 15, OURS),
        (Class::M, 15, OURS),
        (Class::N, 10, OURS),
        (Class::O, 10, BLOCKS),
        (Class::P, 5, "RFC 4787 REQ-4 asks for it; the share is our assumption"),
    ],
    // 46 to 51 % of users (Google, 2026), drawn for each side.
    ipv6: 220,
    spoils: &[],
};

const FORD_TCP: &str = "Ford et al. 2005: of NATs fit for UDP (310 of 380) 21 % are not for TCP (184 of 286); dropped or reset by halves is our assumption";

/// Homes that spoil TCP or UDP. Ford's count has also NATs that refuse strangers and let crossing SYNs in, as classes E and F do,
/// so that it is an upper bound. Guha and Francis (2005) found TCP to succeed for 88 % of pairs of home NATs, by the best way.
pub const SPOILS: &[(Spoil, u32, &str)] = &[
    (Spoil::Dropped, 105, FORD_TCP),
    (Spoil::Reset, 105, FORD_TCP),
    (Spoil::Blocked, 40, "RFC 9308 section 2: 3 to 5 % of networks let no UDP through"),
    (Spoil::Policed, 20, "our assumption: carriers do it, and nobody has counted them"),
];

/// Kinds of pairs, as the census' table has them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Group {
    /// A pair of which each keeps one external port for all destinations.
    OneOne,
    /// A pair of which one keeps one external port for all destinations, and the other does not.
    OneMany,
    /// A pair of which each takes another external port for each destination.
    ManyMany,
    /// TCP cannot leave from one of the two, or from either.
    Closed,
    /// A pair that meets over IPv6.
    Six,
}

impl Group {
    /// All of them.
    pub const ALL: [Group; 5] = [Group::OneOne, Group::OneMany, Group::ManyMany, Group::Closed, Group::Six];

    /// Returns the group's name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Group::OneOne => "EIM-EIM",
            Group::OneMany => "EIM-EDM",
            Group::ManyMany => "EDM-EDM",
            Group::Closed => "K",
            Group::Six => "IPv6",
        }
    }
}

/// A home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    /// Class of the home.
    pub class: Class,
    /// NATs of the home.
    pub chain: Chain,
    /// Fault of its outermost NAT.
    pub spoil: Option<Spoil>,
}

impl Home {
    /// Returns the server for port mappings on the home's own router. Carriers' NATs have none.
    pub fn router(&self) -> Option<RouterSpec> {
        use Class::{A, B, D, E, F, L, P};
        let own = self.chain.0.len() == 2 || matches!(self.class, A | B | D | E | F | L | P);
        own.then_some(RouterSpec::HONEST)
    }
}

/// A pair of homes and the way between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drawn {
    /// Seed of all randomness.
    pub seed: u64,
    /// The home of the listener and that of the caller.
    pub homes: [Home; 2],
    /// Time from one home to the other.
    pub one_way: Nanos,
    /// The same over the signalling.
    pub signal: Nanos,
    /// Packets lost from one to the other, in a million.
    pub loss_ppm: u32,
    /// True if both know a TURN server, by which each shows the other where it is.
    pub turn: bool,
    /// True if homes of class K are run, against nodes that have port 443 where they can.
    pub peer_443: bool,
}

const CONE: NatSpec = NatSpec {
    unique: Unique::Port,
    tracking: Tracking::Contacts,
    on_rst: OnRst::Keep,
    timers: Timers::RFC,
    hairpin: Hairpin::External,
    ..NatSpec::LINUX.with(Ei, Apd)
};
const SYMMETRIC: NatSpec = NatSpec { on_rst: OnRst::Delete, timers: Timers::RFC, ..NatSpec::LINUX };
/// Bits a second that a NAT lets through where it polices UDP.
const POLICED: u32 = 1_000_000;
/// Homes with a second NAT in front, in a million.
const DOUBLE: u32 = 180_000;

/// Round trips by twentieths of all pairs, in microseconds: log-normal, median 60 ms, 95 % below 250 ms. The ends
/// are those of 99 %.
const ROUND_TRIPS: [u64; 21] = [
    8_000, 14_400, 19_700, 24_400, 28_900, 33_400, 38_100, 42_900, 48_200, 53_800, 60_000, 66_900, 74_700,
    83_800, 94_700, 107_700, 124_500, 147_400, 182_400, 250_000, 451_000,
];

/// Draws the pair of this seed from the basic census.
pub fn draw(seed: u64) -> Drawn {
    draw_from(&BASIC, seed)
}

/// Draws the pair of this seed from a census.
pub fn draw_from(census: &Census, seed: u64) -> Drawn {
    let rng = Keyed::new(seed);
    let below = |entity: u64, n: u64, bound: u64| rng.below(domain::SCENARIO, 1_000 + entity, n, bound);
    let six = rng.chance(domain::SCENARIO, 1_002, 3, census.ipv6 * 1_000);
    let home = |side: u64| {
        let mut class = pick(census.weights, below(side, 0, 1_000) as u32).unwrap_or(Class::A);
        if six && class != Class::K {
            class = Class::V;
        }
        let mut chain = Chain(vec![nat(class, |n, bound| below(side, 1 + n, bound))]);
        if class != Class::V && rng.chance(domain::SCENARIO, 1_000 + side, 100, DOUBLE) {
            chain.0.insert(0, nat(Class::A, |n, bound| below(side, 101 + n, bound)));
        }
        let spoil = pick(census.spoils, below(side, 200, 1_000) as u32);
        if let (Some(spoil), Some(outermost)) = (spoil, chain.0.last_mut()) {
            spoil.lay_over(outermost);
        }
        Home { class, chain, spoil }
    };
    let place = below(2, 0, 20_000);
    let (low, high) = (ROUND_TRIPS[place as usize / 1_000], ROUND_TRIPS[place as usize / 1_000 + 1]);
    let round_trip = (low + (high - low) * (place % 1_000) / 1_000) * MICRO;
    let one_way = round_trip / 2;
    let signal = one_way * (100 + below(2, 1, 151)) / 100;
    let loss_ppm = [0, 10_000, 30_000][below(2, 2, 3) as usize];
    Drawn { seed, homes: [home(0), home(1)], one_way, signal, loss_ppm, turn: true, peer_443: false }
}

/// Returns what has this place, of a thousand, in a table of weights.
fn pick<T: Copy>(table: &[(T, u32, &str)], mut place: u32) -> Option<T> {
    for (what, weight, _) in table {
        if place < *weight {
            return Some(*what);
        }
        place -= weight;
    }
    None
}

impl Spoil {
    fn lay_over(self, nat: &mut NatSpec) {
        match self {
            Spoil::Dropped => (nat.simultaneous_open, nat.unsolicited) = (false, Unsolicited::Drop),
            Spoil::Reset => (nat.simultaneous_open, nat.unsolicited) = (false, Unsolicited::Rst),
            Spoil::Blocked => nat.udp_passes = false,
            Spoil::Policed => nat.udp_rate = POLICED,
        }
    }
}

fn nat(class: Class, below: impl Fn(u64, u64) -> u64) -> NatSpec {
    let kept = Alloc::Preserve(Clash::Random);
    let counted = |scope| Alloc::Sequential { step: 1 + below(0, 2) as i16, scope };
    match class {
        // Half of the port-preserving routers are Linux, which is symmetric in theory and a cone in practice.
        Class::A => [NatSpec::LINUX, CONE][below(0, 2) as usize],
        Class::K => NatSpec { narrow: true, ..[NatSpec::LINUX, CONE][below(0, 2) as usize] },
        Class::B => CONE.alloc([counted(Scope::Global), Alloc::Random][below(1, 2) as usize]),
        Class::C => {
            CONE.with(Ei, Ei).alloc([kept, counted(Scope::Global), Alloc::Random][below(1, 3) as usize])
        }
        Class::D => {
            CONE.with(Ei, Ad).alloc([kept, counted(Scope::Global), Alloc::Random][below(1, 3) as usize])
        }
        Class::E => [NatSpec::LINUX, CONE][below(0, 2) as usize].unsolicited(Unsolicited::Rst),
        Class::F => {
            let how = [Unsolicited::IcmpPort, Unsolicited::IcmpHost, Unsolicited::IcmpAdmin];
            [NatSpec::LINUX, CONE][below(0, 2) as usize].unsolicited(how[below(1, 3) as usize])
        }
        Class::G => {
            // Flows of others in a thousand seconds: 0.5 to 50 a second, evenly in the logarithm.
            let background = [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000][below(1, 7) as usize];
            NatSpec { background, ..SYMMETRIC.alloc(counted(Scope::Global)) }
        }
        Class::H => SYMMETRIC.alloc(Alloc::Block(512 << below(0, 4))),
        Class::I => SYMMETRIC.alloc(Alloc::Random),
        Class::L => {
            let alloc = [kept, counted(Scope::Global), Alloc::Random][below(1, 3) as usize];
            NatSpec { unique: Unique::Port, ..SYMMETRIC.with(Ad, Apd).alloc(alloc) }
        }
        Class::M => NatSpec { unique: Unique::Port, ..SYMMETRIC },
        Class::N => CONE.with(Apd, [Ei, Ad][below(1, 2) as usize]).alloc(Alloc::Random),
        Class::O => SYMMETRIC.alloc(Alloc::CountedBlock(512 << below(0, 4))),
        Class::P => SYMMETRIC.alloc(Alloc::Parity),
        Class::V => {
            // RFC 6092 asks for a firewall, which one in five breaks for crossing SYNs, and one in ten has none. A few
            // translate prefixes (RFC 6296), and leave ports as they are.
            let firewall = NatSpec { translate: false, ..NatSpec::LINUX };
            let open = NatSpec { translate: false, ..NatSpec::LINUX.with(Ei, Ei) };
            let translated = NatSpec { unique: Unique::Shared, ..NatSpec::LINUX };
            let deaf = NatSpec { simultaneous_open: false, ..firewall };
            [firewall, firewall, firewall, firewall, firewall, firewall, translated, open, deaf, deaf]
                [below(1, 10) as usize]
        }
        Class::J => NatSpec { pool: 2 + below(0, 3) as u8, paired: false, ..SYMMETRIC.alloc(Alloc::Random) },
    }
}

impl Drawn {
    /// The kind of pair.
    pub fn group(&self) -> Group {
        let classes = [self.homes[0].class, self.homes[1].class];
        use Class::{G, H, I, J, L, M, N, O, P};
        let many = classes.iter().filter(|c| matches!(c, G | H | I | J | L | M | N | O | P)).count();
        match many {
            _ if classes.contains(&Class::K) => Group::Closed,
            _ if classes.contains(&Class::V) => Group::Six,
            0 => Group::OneOne,
            1 => Group::OneMany,
            _ => Group::ManyMany,
        }
    }

    /// The two classes, the lesser first.
    pub fn classes(&self) -> (Class, Class) {
        let (a, b) = (self.homes[0].class, self.homes[1].class);
        (a.min(b), a.max(b))
    }

    /// The world in which our nodes meet by this plan. They know each other.
    pub fn pair(&self, by: By) -> Pair {
        let mut pair = Pair::new(self.seed, [0, 1].map(|n| self.homes[n].chain.clone()));
        pair.known = true;
        pair.strategies = by.strategies();
        if self.group() == Group::Closed {
            if by == By::Punch {
                pair.strategies = By::Tcp.strategies();
            }
            pair.routers = self.homes.each_ref().map(Home::router);
            pair.port = 443;
        }
        pair.relay = self.turn.then(Relaying::default);
        pair.timeout = Duration::from_secs(60);
        for link in &mut pair.links {
            (link.delay, link.loss_ppm) = (self.one_way / 2, self.loss_ppm / 2);
        }
        pair.broker_delay = (self.signal - self.one_way) / 2;
        pair
    }

    /// Returns the probability that any punch by this plan can reach.
    pub fn bound(&self, by: By) -> f64 {
        let [a, b] = &self.homes;
        match self.group() {
            Group::Closed if by == By::Udp => 0.0,
            Group::Closed if self.peer_443 => {
                let opens = self.homes.each_ref().map(|home| home.router().is_some());
                if at_443([&a.chain, &b.chain], opens) { 1.0 } else { 0.0 }
            }
            Group::Closed => 0.0,
            _ => by.bound(&a.chain, &b.chain, Budget::CORE).probability,
        }
    }

    /// Returns true if a home's TCP cannot leave, so that no punch joins the pair.
    pub fn is_lost(&self) -> bool {
        self.group() == Group::Closed && !self.peer_443
    }

    /// Returns the outcome of p2pd's nodes; `None` for a pair that is lost beforehand.
    pub fn ours(&self, by: By) -> Option<Ending> {
        (!self.is_lost()).then(|| run(&self.pair(by)))
    }
}

/// The 95 % interval of a share, after Wilson, in ten-thousandths: from, to.
pub fn wilson(hits: u64, of: u64) -> (u64, u64) {
    if of == 0 {
        return (0, 10_000);
    }
    // In floating point, and for display only.
    let (n, z) = (of as f64, 1.96_f64);
    let p = hits as f64 / n;
    let middle = p + z * z / (2.0 * n);
    let reach = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let share = |x: f64| (x / (1.0 + z * z / n) * 10_000.0).round().clamp(0.0, 10_000.0) as u64;
    (share(middle - reach), share(middle + reach))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draws_are_the_census() {
        for census in [&BASIC, &EXTENDED] {
            assert_eq!(census.weights.iter().map(|w| w.1).sum::<u32>(), 1_000);
        }
        let all: Vec<Drawn> = (0..20_000).map(draw).collect();
        // EIM are 84 %, EDM 14.5 %, K 1.5 %.
        for (group, share) in Group::ALL.into_iter().zip([7_056, 2_436, 210, 298, 0]) {
            let count = all.iter().filter(|d| d.group() == group).count() / 2;
            assert!(count.abs_diff(share) < 160, "{}: {count}", group.name());
        }
        let double = all.iter().filter(|d| d.homes[0].chain.0.len() == 2).count();
        assert!(double.abs_diff(3_600) < 220, "{double}");
        let mut ways: Vec<Nanos> = all.iter().map(|d| d.one_way / MICRO).collect();
        ways.sort_unstable();
        assert!(ways[10_000].abs_diff(30_000) < 1_500 && ways[19_000].abs_diff(125_000) < 8_000);
        assert!(all.iter().all(|d| d.signal >= d.one_way && d.signal <= d.one_way * 5 / 2));
    }

    #[test]
    fn the_extended_census_has_every_class_and_ipv6() {
        let all: Vec<Drawn> = (0..20_000).map(|seed| draw_from(&EXTENDED, seed)).collect();
        let six = all.iter().filter(|d| d.group() == Group::Six).count();
        // 22 % of those that TCP can leave.
        assert!(six.abs_diff(4_270) < 250, "{six}");
        for (class, weight, _) in EXTENDED.weights {
            let count = all.iter().flat_map(|d| &d.homes).filter(|h| h.class == *class).count();
            assert!(
                count.abs_diff(*weight as usize * 31) < 100 + *weight as usize * 10,
                "{class:?}: {count}"
            );
        }
    }

    #[test]
    fn intervals_are_wilsons() {
        assert_eq!(wilson(0, 0), (0, 10_000));
        // Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20.
        assert_eq!(wilson(81, 263), (2_553, 3_662));
        assert_eq!(wilson(15, 148), (624, 1_605));
        assert_eq!(wilson(0, 20), (0, 1_611));
    }
}
