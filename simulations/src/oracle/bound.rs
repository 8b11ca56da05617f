//! The bound of a punch over TCP: the probability that any policy can reach between two chains of NATs, within a budget
//! of dials.
//!
//! It is derived from the models of the NATs alone. Each rule stands where it is used. What they share is this. A
//! connection comes about as soon as one SYN of either end passes the other end's filter and finds a socket behind it,
//! either a listener or a dial to the SYN's own source. So there are three ways to it.
//!
//! - **Anybody may come in** (filtering EIF). Any mapping that is kept open will do, and a STUN server tells its port.
//!   Nothing of the other end matters, as long as TCP can leave it.
//! - **The address may come in** (ADF). One SYN to any port of the other end's address opens a mapping for all its ports.
//!   The other end's ports do not matter, and it has to find ours only.
//! - **The address and port may come in** (APDF) on each side. Both ends have to name each other's port of one flow.
//!
//! What may be known of a port beforehand: with endpoint-independent mapping all of it, by one look. Otherwise it is
//! known where the allocation is a rule: the inside port, kept or with an offset, or a counter. A port that is kept while
//! it is free is kept for an inside port that has never been used. What is drawn at random is one of a range.
//!
//! **Refusals** take nothing from any of this. A SYN that is answered by RST or ICMP has left its hole before the answer
//! came, and the answer ends a dial and no mapping: a mapping outlives that as these NATs are, and where it does not
//! (Linux forgets an unanswered session at a RST) the two SYNs have to cross on their way, which dials repeated without
//! a constant pause do within a few tries (`facts.rs`, ADR 13). A listener on the dialling port takes the SYN that comes
//! after the refusal. So refusals cost time, and no probability.
//!
//! **UDP** has the same three ways, by the NATs' behaviour for UDP, with probes in place of SYNs and sockets in place of dials.
//! A probe that crosses another one is like any other. A NAT that lets no UDP through leaves none of the ways.

use crate::nat::{Alloc, Chain, Dependence, NatSpec, Tracking, Unique};

/// Dials that a punch may use. A router remembers each for two minutes or more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Dials of each end in one call.
    pub dials: u32,
    /// Dials or listeners of each end that wait at the same time.
    pub held: u32,
}

impl Budget {
    /// The limits that core has by its rules of manners: 8,192 dials for one peer in two minutes, 1,024 half-open.
    pub const CORE: Budget = Budget { dials: 8_192, held: 1_024 };
    /// The same over UDP: 2,048 probes of one attempt, 1,024 sockets.
    pub const CORE_UDP: Budget = Budget { dials: 2_048, held: 1_024 };
}

/// The most that a punch can reach.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bound {
    /// Probability of a connection.
    pub probability: f64,
    /// Dials of the busier end by which half of that is reached; 0 where no port has to be searched for.
    pub dials: u32,
}

/// Flows of each end that have a port outside which no server tells: its stream to an MQTT broker.
const UNTOLD: u32 = 1;
/// Least probability from which a pair has to be joined. What is missing is less than one in a million.
const MUST: f64 = 0.999_9;
/// Least probability for which a search is worth its SYNs.
const IN_REACH: f64 = 0.02;

impl Bound {
    /// Returns true if the pair has to be joined.
    pub fn must(&self) -> bool {
        self.probability >= MUST
    }

    /// Returns true if no budget that a router bears is likely to join the pair.
    pub fn is_out_of_reach(&self) -> bool {
        self.probability < IN_REACH
    }

    fn known() -> Bound {
        Bound { probability: 1.0, dials: 0 }
    }

    /// Returns the bound of two ways that are gone at the same time, and succeed independently of each other.
    pub fn or(self, other: Bound) -> Bound {
        let both = 1.0 - (1.0 - self.probability) * (1.0 - other.probability);
        Bound { probability: both, ..self.better(other) }
    }

    fn better(self, other: Bound) -> Bound {
        let (ours, theirs) = (self.probability, other.probability);
        let wins = other.probability > self.probability + 1e-9
            || ((ours - theirs).abs() <= 1e-9 && other.dials < self.dials);
        if wins { other } else { self }
    }
}

/// An end of the punch, in what the other one can know of the external port of its next flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    filtering: Dependence,
    /// Number of external ends among which the port is drawn; 1 where it is known.
    range: u32,
    /// One port serves all flows from one inside port to the other end's address. Otherwise each flow has its own.
    shared: bool,
    /// SYNs that cross are not let in.
    deaf: bool,
}

impl End {
    fn of(chain: &Chain) -> End {
        let mut end = End::by(chain, |nat| (nat.mapping, nat.filtering));
        end.deaf = chain.0.iter().any(|nat| !nat.simultaneous_open);
        end
    }

    /// Returns the end whose NATs have this mapping and filtering behaviour.
    fn by(chain: &Chain, behaviour: impl Fn(&NatSpec) -> (Dependence, Dependence)) -> End {
        let mut end = End { filtering: Dependence::Endpoint, range: 1, shared: true, deaf: false };
        let mut mapping = Dependence::Endpoint;
        // The host's own NAT comes first, so that each translates what the one before made of the port.
        for nat in &chain.0 {
            let (maps, filters) = behaviour(nat);
            end.filtering = end.filtering.max(filters);
            if !nat.translate {
                continue;
            }
            // Inside ends that differ by destination have mappings that do too, whatever this NAT's own behaviour.
            mapping = mapping.max(maps);
            end.range = match nat.alloc {
                _ if mapping == Dependence::Endpoint => 1,
                // Follows the inside port: as well known as that.
                Alloc::Preserve(_) | Alloc::Offset(_) | Alloc::Dependent { .. } => end.range,
                // Counts, whatever the inside port was. Others move the counter too, and a few dials more make up for it.
                Alloc::Sequential { .. } | Alloc::CountedBlock(_) | Alloc::Drift(_) => 1,
                Alloc::Parity => ports(nat) / 2,
                Alloc::Block(size) => u32::from(size).min(ports(nat)),
                Alloc::Random | Alloc::Mixed(_) | Alloc::Sticky => ports(nat),
            };
            if mapping != Dependence::Endpoint {
                // Which address of a pool a mapping gets is as unknown as a port, unless one look tells it for all.
                end.range = end.range.saturating_mul(if nat.paired { 1 } else { u32::from(nat.pool.max(1)) });
            }
            end.shared &= maps != Dependence::AddressAndPort || keeps_always(nat, filters);
        }
        end
    }

    /// Local ports from which this end dials: as many as have ports of their own outside. Of a range that is used up, what its
    /// broker's stream has is missing, and nobody knows which port that is.
    fn most(self, dials: u32) -> u32 {
        dials.min(self.range.saturating_sub(UNTOLD).max(1))
    }
}

fn ports(nat: &NatSpec) -> u32 {
    u32::from(nat.range.1) - u32::from(nat.range.0) + 1
}

/// Returns true if a NAT with another mapping for each destination gives all of them the inside port, or one that follows
/// from it.
fn keeps_always(nat: &NatSpec, filtering: Dependence) -> bool {
    let by_flow = match nat.unique {
        Unique::Shared => true,
        // As on Linux, where each session is its own mapping.
        Unique::FiveTuple => nat.tracking == Tracking::Conntrack && filtering == Dependence::AddressAndPort,
        Unique::Port => false,
    };
    by_flow && matches!(nat.alloc, Alloc::Preserve(_) | Alloc::Offset(_))
}

/// Returns the most that a punch between hosts behind these chains can reach.
pub fn bound(a: &Chain, b: &Chain, budget: Budget) -> Bound {
    between(End::of(a), End::of(b), budget)
}

/// The same of a punch over UDP.
pub fn bound_udp(a: &Chain, b: &Chain, budget: Budget) -> Bound {
    if a.0.iter().chain(&b.0).any(|nat| !nat.udp_passes || nat.narrow) {
        return Bound { probability: 0.0, dials: 0 };
    }
    let [a, b] = [a, b].map(|chain| End::by(chain, |nat| nat.udp));
    between(a, b, budget)
}

fn between(a: End, b: End, budget: Budget) -> Bound {
    met(a, b, budget).better(dialled(a, budget)).better(dialled(b, budget))
}

/// Predicts whether two hosts can meet of which one or both get out by TCP to ports 80 and 443 only. Each listens at port
/// 443; `opens`: its own router opens ports on request. So one of them has port 443 outside, opened or kept, and where
/// both are so confined, both have.
pub fn at_443(chains: [&Chain; 2], opens: [bool; 2]) -> bool {
    let narrow = chains.map(|chain| chain.0.iter().any(|nat| nat.narrow));
    let kept = chains.map(|chain| chain.0.iter().all(keeps_well_known));
    // A router opens a port of the address that the internet sees if no other NAT is in front of it.
    let open = [0, 1].map(|n| opens[n] && matches!(chains[n].0.as_slice(), [nat] if nat.pool <= 1));
    match narrow {
        [true, true] => kept == [true; 2],
        [true, false] => open[1] || kept[1],
        [false, true] => open[0] || kept[0],
        [false, false] => false,
    }
}

/// Returns true if port 443 inside is port 443 outside, for some destination at least.
fn keeps_well_known(nat: &NatSpec) -> bool {
    !nat.translate || (matches!(nat.alloc, Alloc::Preserve(_)) && nat.range == NatSpec::LINUX.range)
}

/// Bound of an end that is dialled from any port.
fn dialled(to: End, budget: Budget) -> Bound {
    match to.filtering {
        // The port of a mapping to a STUN server is told by that server, and open to all.
        Dependence::Endpoint => Bound::known(),
        // The port of the mapping for our address is what matters. Where it is not known, `to` opens many by a SYN from
        // each of many local ports, a listener beside each, and we dial many.
        Dependence::Address if to.range == 1 => Bound::known(),
        Dependence::Address => search(to.most(budget.held), budget.dials, to.range),
        Dependence::AddressAndPort => Bound { probability: 0.0, dials: 0 },
    }
}

/// Both ends name each other's port. This is possible whatever the filters are, and needed where both are by port.
///
/// Flows to one destination differ in their external ports, or they would be one flow. So an end whose ports are hidden
/// does best to send all its flows to one port of the other's: `n` of them come from `n` of its `range` ports, and the
/// likelihood that the agreed one is among them is `n / range`. With targets chosen at random the flows of both ends
/// would meet with 1 - exp(-x y), where x and y are those shares; with one agreed target each they meet with x y, which
/// is more.
fn met(a: End, b: End, budget: Budget) -> Bound {
    // Whichever SYN comes first is answered by a SYN-ACK if the other end lets it in, and that passes in any case.
    if a.deaf && b.deaf {
        return Bound { probability: 0.0, dials: 0 };
    }
    match (a.range, b.range) {
        // Each dials what the other has announced.
        (1, 1) => return Bound::known(),
        // The end with the known port tries many of the other's ports from that one, and the other one comes to it from
        // many. Where the known port serves one flow only, that flow has one target, and the other end must come from
        // there.
        (1, range) if a.shared => return search(b.most(budget.held), budget.dials, range),
        (range, 1) if b.shared => return search(a.most(budget.held), budget.dials, range),
        (1, range) => return cover(b.most(budget.dials), range),
        (range, 1) => return cover(a.most(budget.dials), range),
        _ => {}
    }
    // Both are hidden. A flow meets the other end's while that one's socket waits. An end either holds few or goes
    // through many, each of which waits for a while.
    let mut best = Bound { probability: 0.0, dials: 0 };
    let steps = |end: End, most: u32| {
        (0..16).map(|n| 1 << n).chain([end.most(most)]).filter(move |n| *n <= end.most(most))
    };
    for (x, y) in [(a, b), (b, a)] {
        for held in steps(x, budget.held) {
            for gone_through in steps(y, budget.dials) {
                // An end whose ports serve several of the other's tries more than one target from each.
                let targets =
                    |end: End, flows: u32| if end.shared { (budget.dials / flows).max(1) } else { 1 };
                let (of_x, of_y) = (targets(x, held), targets(y, gone_through));
                let probability = share(held, of_y, x.range) * share(gone_through, of_x, y.range);
                let dials = (held * of_x).max(gone_through * of_y);
                best = best.better(Bound { probability, dials: dials / 2 });
            }
        }
    }
    // Each goes through all it may, and two flows meet if they are begun while the other waits.
    let (m, n) = (a.most(budget.dials), b.most(budget.dials));
    let waits = f64::from(budget.held) / f64::from(m.max(n).max(budget.held));
    let probability = share(m, 1, a.range) * share(n, 1, b.range) * waits * (2.0 - waits);
    best.better(Bound { probability, dials: m.max(n) / 2 })
}

/// A search: one end comes from `held` of `range` ports, and the other one tries as many as it likes.
fn search(held: u32, dials: u32, range: u32) -> Bound {
    let probability = share(held, dials.min(range), range);
    // The two sides work together best where each does as much as the other, up to what may be held.
    let half = |n: &u32| share((*n).min(held), *n, range) >= probability / 2.0;
    Bound { probability, dials: (1..=dials.min(range)).find(half).unwrap_or(dials) }
}

/// One end comes from `flows` of `range` ports to the only port that lets it in, which waits for one of them.
fn cover(flows: u32, range: u32) -> Bound {
    Bound { probability: share(flows, 1, range), dials: flows / 2 }
}

/// Returns the probability that of `range` ports `taken` random ones and `tried` random ones have one in common.
fn share(taken: u32, tried: u32, range: u32) -> f64 {
    let (taken, tried) = (taken.min(range), tried.min(range));
    let (few, many) = (taken.min(tried), taken.max(tried));
    let mut miss = 1.0;
    for n in 0..few {
        miss *= f64::from(range - many).max(0.0) - f64::from(n);
        miss /= f64::from(range - n);
        if miss <= 0.0 {
            return 1.0;
        }
    }
    1.0 - miss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Kind;

    fn of(a: &str, b: &str) -> Bound {
        let [x, y] = [a, b].map(|text| text.parse::<Chain>().unwrap());
        let (there, back) = (bound(&x, &y, Budget::CORE), bound(&y, &x, Budget::CORE));
        assert_eq!(there, back, "{a} {b}: who calls does not matter");
        there
    }

    #[track_caller]
    fn about(bound: Bound, permille: f64) {
        assert!((bound.probability * 1_000.0 - permille).abs() < 1.0, "{bound:?}");
    }

    #[test]
    fn shares_are_those_of_the_urn() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-3;
        assert!(near(share(256, 1_024, 64_512), 0.983) && near(share(64, 64, 1_024), 0.986));
        assert!(near(share(1, 1, 10), 0.1) && near(share(2, 3, 6), 0.8));
        assert_eq!((share(5, 6, 10), share(0, 6, 10)), (1.0, 0.0));
    }

    #[test]
    fn ports_that_are_known_have_to_be_met() {
        for a in
            ["eim.apdf.rand.rst", "adm.apdf.keep", "apdm.apdf.keep.icmp", "apdm.apdf.seq2", "adm.apdf.offset"]
        {
            for b in ["eim.apdf.block", "apdm.apdf.always.rst", "apdm.apdf.seq", "open", "firewall", "linux"]
            {
                assert_eq!(of(a, b), Bound::known(), "{a} {b}");
            }
        }
    }

    #[test]
    fn whoever_lets_anybody_in_is_dialled_and_whoever_lets_the_address_in_is_found() {
        for b in ["apdm.apdf.rand", "apdm.apdf.seq", "adm.apdf.parity.rst"] {
            assert_eq!(of("apdm.eif.rand", b), Bound::known(), "{b}");
            assert_eq!(of("apdm.adf.seq", b), Bound::known(), "{b}");
            let found = of("apdm.adf.rand.rst", b);
            assert!(found.must() && (200..220).contains(&found.dials), "{b}: {found:?}");
        }
    }

    #[test]
    fn hidden_ports_are_found_by_whoever_keeps_one_and_by_others_as_far_as_dials_go() {
        for a in ["apdm.apdf.always", "eim.apdf.rand", "adm.apdf.seq", "linux"] {
            let found = of(a, "apdm.apdf.rand");
            assert!(found.must() && (200..220).contains(&found.dials), "{a}: {found:?}");
        }
        // One flow from the known port, and as many dials to it as there may be: of 64,512 ports, 32,256, and 1,024. Of the
        // last the broker's stream has one, so that 1,023 are left.
        for a in ["apdm.apdf.seq", "apdm.apdf.keep.rst"] {
            about(of(a, "apdm.apdf.rand"), 127.0);
            about(of(a, "adm.apdf.parity"), 254.0);
            about(of(a, "apdm.apdf.block"), 999.0);
        }
    }

    #[test]
    fn two_hidden_ends_meet_as_their_shares_of_their_ranges_say() {
        // 1,023 of 1,024 on each side.
        about(of("apdm.apdf.block", "apdm.apdf.block.rst"), 998.0);
        let far = of("apdm.apdf.rand", "apdm.apdf.rand");
        assert!(far.is_out_of_reach() && far.probability > 0.003, "{far:?}");
        // 1,024 of 4,096 wait at a time while the other end goes through its 4,096.
        about(of("linux,alloc=block4096", "linux,alloc=block4096"), 437.5);
        // 8,192 of 64,512 come to the other end, which has the whole block wait.
        about(of("apdm.apdf.block", "apdm.apdf.rand"), 127.0);
        // Or to several of its ports, where each of the block's serves eight.
        about(of("adm.apdf.block", "apdm.apdf.rand"), 662.0);
        let few = Budget { dials: 1_024, held: 1_024 };
        let [a, b] = ["linux,alloc=block4096", "linux,alloc=block2048"].map(|t| t.parse::<Chain>().unwrap());
        about(bound(&a, &b, few), 125.0);
    }

    #[test]
    fn chains_are_as_strict_as_their_strictest_and_pools_hide_the_address() {
        assert_eq!(of("eim.eif.keep+apdm.apdf.seq", "linux"), Bound::known());
        assert!(of("apdm.apdf.rand+eim.apdf.keep", "apdm.apdf.seq").probability < 0.2, "the inner one draws");
        assert_eq!(
            of("apdm.apdf.rand+eim.apdf.seq", "apdm.apdf.seq"),
            Bound::known(),
            "the outer one counts"
        );
        let pool = of("linux,alloc=random,pool=4,paired=no", "apdm.apdf.seq");
        about(pool, 32.0);
    }

    #[test]
    fn whoever_gets_out_to_port_443_only_meets_those_who_have_it() {
        let met = |a: &str, b: &str, opens: [bool; 2]| {
            let [x, y] = [a, b].map(|text| text.parse::<Chain>().unwrap());
            let there = at_443([&x, &y], opens);
            assert_eq!(there, at_443([&y, &x], [opens[1], opens[0]]), "{a} {b}");
            there
        };
        let narrow = "linux,narrow=yes";
        for peer in ["open", "linux", "linux+linux", "eim.eif.keep", "firewall", "linux,narrow=yes"] {
            assert!(met(narrow, peer, [false; 2]), "{peer}");
        }
        for peer in ["eim.apdf.rand", "apdm.apdf.seq", "linux,range=35000-65535"] {
            assert!(!met(narrow, peer, [false; 2]) && met(narrow, peer, [false, true]), "{peer}");
        }
        assert!(
            !met(narrow, "linux+eim.apdf.rand", [false, true]),
            "the port is opened at an inside address"
        );
        assert!(!met(narrow, "eim.apdf.rand", [true, false]), "the other one's is of no use");
    }

    #[test]
    fn over_udp_syns_do_not_matter_and_blocks_do() {
        let udp = |a: &str, b: &str| {
            let [x, y] = [a, b].map(|text| text.parse::<Chain>().unwrap());
            let (there, back) = [(&x, &y), (&y, &x)].map(|(a, b)| bound_udp(a, b, Budget::CORE_UDP)).into();
            assert_eq!(there, back, "{a} {b}");
            there
        };
        assert_eq!(udp("linux,sim-open=no", "linux/rst,sim-open=no"), Bound::known());
        assert_eq!(udp("linux,udp=no", "open").probability, 0.0);
        assert_eq!(udp("open", "linux,narrow=yes").probability, 0.0);
        // Its own behaviour for UDP: one mapping there, a random port for each destination over TCP.
        let two_faced = "linux,alloc=random,udp-map=ei,udp-filter=apd";
        assert_eq!(udp(two_faced, two_faced), Bound::known());
        assert!(of(two_faced, two_faced).is_out_of_reach());
        // 2,048 probes against 1,024 sockets. In blocks of 4,096 each end goes through half, and half of those wait at a time.
        assert!(udp("linux", "linux,alloc=random").must());
        about(udp("linux,alloc=block4096", "linux,alloc=block4096"), 187.5);
        let [one, other] = [0.5, 0.2].map(|probability| Bound { probability, dials: 8 });
        assert_eq!(one.or(other).probability, 0.6);
    }

    #[test]
    fn of_two_firewalls_one_has_to_let_crossing_syns_in() {
        let deaf = "firewall,sim-open=no";
        assert_eq!(of(deaf, "firewall"), Bound::known());
        assert_eq!(of(deaf, deaf).probability, 0.0);
    }

    #[test]
    fn of_the_grid_all_but_a_few_must_be_joined() {
        let all: Vec<Chain> = Kind::all().map(|kind| Chain(vec![kind.spec()])).collect();
        let (mut must, mut out) = (0, 0);
        for (n, a) in all.iter().enumerate() {
            for b in &all[n..] {
                let bound = bound(a, b, Budget::CORE);
                assert!(bound.probability > 0.0 && bound.probability <= 1.0);
                must += u32::from(bound.must());
                out += u32::from(bound.is_out_of_reach());
            }
        }
        // Of 23,436. Both ends have to be hidden, or one and the other give each flow another port. In 69 pairs a whole block is
        // searched for one port, which a stream to a broker may have.
        assert_eq!((must, out), (23_109, 45));
    }
}
