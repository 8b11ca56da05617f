//! Conclusion from the surveys for people: who can connect to this network, in one sentence.

use core::fmt;

use super::behaviour::{Filtering, Foresight, Mapping};
use super::survey::NatReport;
use crate::reach::{Reach, reach};

/// Reachability of this network as far as surveys tell, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// Neither a NAT nor a firewall.
    Open,
    /// A public address, before which a firewall may stand.
    Public,
    /// A firewall without a NAT.
    Firewall,
    /// A NAT whose external ports can be predicted, or stay as measured.
    Predictable,
    /// A NAT that shows one random port to each port of a server; of other servers nothing is known.
    Likely,
    /// A NAT that maps each destination to the next one of its ports.
    Counting,
    /// A NAT that maps each destination to a random port.
    Random,
    /// A NAT that shows random ports, of which the mapping is not known.
    Unknown,
    /// The STUN servers are inside the network.
    Inside,
    /// Servers answered over UDP only, which says nothing about TCP.
    UdpOnly,
    /// No server answered.
    Silent,
    /// There was no interface to measure, or no server to ask.
    Unasked,
}

impl Verdict {
    /// Returns the verdict of a network's reports, which is that of its best way out.
    pub fn of<'a>(reports: impl IntoIterator<Item = &'a NatReport>) -> Verdict {
        reports.into_iter().map(Verdict::of_one).min().unwrap_or(Verdict::Unasked)
    }

    fn of_one(report: &NatReport) -> Verdict {
        let behaviour = report.behaviour;
        let Some(mapped) = report.mapped else {
            let answered = report.answers.iter().any(|a| a.believed);
            return if answered { Verdict::UdpOnly } else { Verdict::Silent };
        };
        if reach(mapped.ip(), &[]) != Reach::Internet {
            return Verdict::Inside;
        }
        if behaviour.mapping == Some(Mapping::None) {
            return match behaviour.filtering {
                Some(Filtering::EndpointIndependent) => Verdict::Open,
                Some(_) => Verdict::Firewall,
                None => Verdict::Public,
            };
        }
        match behaviour.foresight() {
            Foresight::Offset(_) if behaviour.allocation.is_none() => Verdict::Unknown,
            Foresight::Measured if behaviour.mapping.is_none() => match report.same_by_port {
                Some(_) => Verdict::Likely,
                None => Verdict::Unknown,
            },
            Foresight::Offset(_) | Foresight::Measured => Verdict::Predictable,
            Foresight::Next(_) => Verdict::Counting,
            Foresight::Nothing { .. } => Verdict::Random,
        }
    }

    /// Returns the name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Open => "open",
            Verdict::Public => "public",
            Verdict::Firewall => "firewall",
            Verdict::Predictable => "predictable",
            Verdict::Likely => "likely",
            Verdict::Counting => "counting",
            Verdict::Random => "random",
            Verdict::Unknown => "unknown",
            Verdict::Inside => "inside",
            Verdict::UdpOnly => "udp_only",
            Verdict::Silent => "silent",
            Verdict::Unasked => "unasked",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Open => "This machine can be dialled: there is no NAT and no firewall before it.",
            Verdict::Public => {
                "This machine has a public address, and can be dialled, or punched into where a firewall is before it."
            }
            Verdict::Firewall => {
                "This network can be punched into: it has no NAT, and a firewall that lets in answers only."
            }
            Verdict::Predictable => {
                "This network can be punched into: its NAT gives a port that is known beforehand."
            }
            Verdict::Likely => {
                "This network can very likely be punched into: its NAT gives the same port for each port of a server. \
                 Only a server with a second address, or a second server, tells more."
            }
            Verdict::Counting => {
                "This network can be punched into, but from networks with random ports only a relay will connect to it: \
                 its NAT counts its ports."
            }
            Verdict::Random => {
                "This network can be punched into from networks with a port that is known beforehand; from others only \
                 a relay will connect to it: its NAT gives random ports."
            }
            Verdict::Unknown => {
                "Whether this network can be punched into is not known: that takes a server with a second port or \
                 address in the list, or a second server."
            }
            Verdict::Inside => {
                "Nothing is known of this network's way to the internet: the STUN servers that answered are inside it."
            }
            Verdict::UdpOnly => {
                "Whether this network can be punched into is not known: its STUN servers answer over UDP only, and TCP \
                 is measured."
            }
            Verdict::Silent => {
                "Only a relay will connect to this network, if it is one behind a NAT: no STUN server answered, neither \
                 over UDP nor over TCP."
            }
            Verdict::Unasked => "Nothing is known: there is no network, or no STUN server in the list.",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::nat::{Allocation, Behaviour, StunAnswer};

    fn report(mapping: Option<Mapping>, filtering: Option<Filtering>, allocation: Allocation) -> NatReport {
        NatReport {
            behaviour: Behaviour { mapping, filtering, allocation: Some(allocation) },
            mapped: Some(SocketAddr::new([203, 0, 113, 1].into(), 40_000)),
            ..NatReport::new([192, 168, 1, 2].into())
        }
    }

    #[test]
    fn each_behaviour_has_its_verdict() {
        use Mapping as M;
        let (open, by_port) = (Some(Filtering::EndpointIndependent), Some(Filtering::AddressPortDependent));
        let random = Allocation::Random { low: 1024, high: u16::MAX };
        let counted = Allocation::Sequential(1);
        for (mapping, filtering, allocation, expected) in [
            (Some(M::None), open, Allocation::Equal, Verdict::Open),
            (Some(M::None), None, Allocation::Equal, Verdict::Public),
            (Some(M::None), by_port, Allocation::Equal, Verdict::Firewall),
            (Some(M::EndpointIndependent), by_port, random, Verdict::Predictable),
            (Some(M::AddressPortDependent), by_port, Allocation::Preserving(9), Verdict::Predictable),
            (Some(M::AddressPortDependent), by_port, counted, Verdict::Counting),
            (Some(M::AddressDependent), by_port, random, Verdict::Random),
            (None, None, Allocation::Equal, Verdict::Predictable),
            (None, None, random, Verdict::Unknown),
        ] {
            let mut report = report(mapping, filtering, allocation);
            assert_eq!(Verdict::of([&report]), expected, "{report:?}");
            // A server with two ports tells one thing more.
            report.same_by_port = Some(true);
            let told = if expected == Verdict::Unknown { Verdict::Likely } else { expected };
            assert_eq!(Verdict::of([&report]), told);
        }
    }

    #[test]
    fn what_was_not_measured_is_not_claimed_and_the_best_way_out_counts() {
        let cone = report(Some(Mapping::EndpointIndependent), None, Allocation::Equal);
        let unmeasured = NatReport { mapped: None, ..cone.clone() };
        assert_eq!(Verdict::of([&unmeasured]), Verdict::Silent);
        let said = StunAnswer {
            server: SocketAddr::new([203, 0, 113, 9].into(), 3478),
            said: Some([203, 0, 113, 1].into()),
            plausible: true,
            believed: true,
        };
        let by_udp = NatReport { answers: vec![said], ..unmeasured.clone() };
        assert_eq!(Verdict::of([&by_udp]), Verdict::UdpOnly);
        let inside = NatReport { mapped: Some(SocketAddr::new(cone.local, 4000)), ..cone.clone() };
        assert_eq!(Verdict::of([&inside]), Verdict::Inside);
        assert_eq!(Verdict::of([&unmeasured, &cone]), Verdict::Predictable);
        assert_eq!(Verdict::of([]), Verdict::Unasked);
    }
}
