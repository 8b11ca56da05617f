//! Measurement of the mapping of one socket, by STUN from that very socket.
//!
//! Two servers are asked at once where two are known, or both addresses of one. Two answers tell whether the mapping depends
//! on the destination over UDP, which the survey knows for TCP only.

use core::time::Duration;
use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::cx::Cx;
use crate::io::SockId;
use crate::nat::{Allocation, Behaviour, Mapping, is_other};
use crate::random::Domain;
use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::stun::{self, BindingOutcome, TransactionId};

/// Times at which a server is asked, from the first on.
const SEND_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(400)];
/// Time after which nothing is waited for: the network lets no UDP through.
const WITHIN: Duration = Duration::from_millis(1000);
/// Least and most time for the second answer, from the first on.
const SECOND: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(200));
/// Time between two uses of the mapping while the peer is waited for.
const KEEP: Duration = Duration::from_secs(10);
/// Largest step between two ports that counts as counting.
const MAX_STEP: u16 = 16;
/// Ports of a NAT whose rule is not known.
const ANY: Allocation = Allocation::Random { low: 1024, high: u16::MAX };

/// Questions to servers from one socket.
#[derive(Debug)]
pub(super) struct Measurement {
    sock: SockId,
    since: Instant,
    asked: SmallVec<[Asked; 2]>,
    sent: usize,
    first: Option<Instant>,
    /// Another address of the only server counts too.
    may_follow: bool,
    /// Time at which the mapping is used again.
    keep: Option<Instant>,
}

#[derive(Debug)]
struct Asked {
    server: SocketAddr,
    id: TransactionId,
    mapped: Option<SocketAddr>,
}

/// Mappings that servers have seen, in the order in which they were made: server and mapping.
pub(super) type Seen = SmallVec<[(SocketAddr, SocketAddr); 2]>;

impl Measurement {
    /// Asks the first of these servers, and the next one that tells more. `may_follow`: also the other address that the only
    /// server names.
    pub(super) fn begin(cx: &mut Cx, sock: SockId, servers: &[SocketAddr], may_follow: bool) -> Self {
        let mut asked = SmallVec::new();
        let mut ask = |server: SocketAddr| {
            asked.push(Asked { server, id: TransactionId(cx.random.bytes(Domain::Udp)), mapped: None });
        };
        if let Some(first) = servers.first() {
            ask(*first);
            let elsewhere = servers.iter().find(|s| s.ip() != first.ip());
            if let Some(second) = elsewhere.or_else(|| servers.get(1)) {
                ask(*second);
            }
        }
        let mut all =
            Measurement { sock, since: cx.now, asked, sent: 0, first: None, may_follow, keep: None };
        all.send(cx);
        all
    }

    fn send(&mut self, cx: &mut Cx) {
        while SEND_AT.get(self.sent).is_some_and(|after| self.since + *after <= cx.now) {
            self.sent += 1;
            for asked in self.asked.iter().filter(|a| a.mapped.is_none()) {
                cx.send_datagram(self.sock, asked.server, stun::binding_request(asked.id, None));
            }
        }
    }

    /// Takes in a datagram. Returns true if it answers a question.
    pub(super) fn datagram(&mut self, cx: &mut Cx, from: SocketAddr, data: &[u8]) -> bool {
        let Ok(reply) = stun::decode_binding(data, Transport::Udp) else { return false };
        let of = |a: &&mut Asked| a.id == reply.transaction && a.server == from;
        let Some(asked) = self.asked.iter_mut().find(of) else { return false };
        if let BindingOutcome::Mapped(mapped) = reply.outcome
            && mapped.port() != 0
        {
            asked.mapped = Some(SocketAddr::new(mapped.ip().to_canonical(), mapped.port()));
            self.first.get_or_insert(cx.now);
        }
        let follows = |o: &SocketAddr| self.may_follow && self.asked.len() == 1 && is_other(from, *o);
        if let Some(server) = reply.other.filter(follows) {
            let id = TransactionId(cx.random.bytes(Domain::Udp));
            self.asked.push(Asked { server, id, mapped: None });
            cx.send_datagram(self.sock, server, stun::binding_request(id, None));
        }
        true
    }

    /// Goes on as time has passed. Returns true once it is over.
    pub(super) fn drive(&mut self, cx: &mut Cx) -> bool {
        self.send(cx);
        self.asked.iter().all(|a| a.mapped.is_some()) || self.until() <= cx.now
    }

    fn until(&self) -> Instant {
        let whole = self.since + WITHIN;
        let Some(first) = self.first else { return whole };
        let (least, most) = SECOND;
        // As long again as the first answer took: the other address may be asked only by then.
        whole.min(first + (first.since(self.since) * 3 / 2).clamp(least, most))
    }

    /// Returns the time to [`drive`](Self::drive).
    pub(super) fn next(&self) -> Instant {
        let again = SEND_AT.get(self.sent).map(|after| self.since + *after);
        again.map_or(self.until(), |at| at.min(self.until()))
    }

    /// Uses the mapping again if it is time to. Returns the time of the next use.
    pub(super) fn keep(&mut self, cx: &mut Cx) -> Instant {
        let at = *self.keep.get_or_insert(cx.now + KEEP);
        if at > cx.now {
            return at;
        }
        if let Some(asked) = self.asked.iter().rfind(|a| a.mapped.is_some()) {
            cx.send_datagram(self.sock, asked.server, stun::binding_request(asked.id, None));
        }
        *self.keep.insert(cx.now + KEEP)
    }

    /// Returns what was seen, in the order in which the mappings were made.
    pub(super) fn seen(&self) -> Seen {
        self.asked.iter().filter_map(|a| Some((a.server, a.mapped?))).collect()
    }
}

/// Concludes the NAT's behaviour over UDP from the mappings of one socket at `local`, and from the survey for what these do
/// not tell.
pub(super) fn conclude(local: SocketAddr, seen: &[(SocketAddr, SocketAddr)], survey: Behaviour) -> Behaviour {
    let kept = |mapped: SocketAddr| mapped.port() == local.port();
    let surveyed = survey.allocation.filter(|a| !matches!(a, Allocation::Equal | Allocation::Preserving(_)));
    let (mapping, allocation) = match seen {
        [] => (survey.mapping, survey.allocation.unwrap_or(Allocation::Equal)),
        [(_, mapped), rest @ ..] if rest.iter().all(|(_, other)| other == mapped) => {
            let allocation = if kept(*mapped) { Allocation::Equal } else { surveyed.unwrap_or(ANY) };
            let mapping = match rest.is_empty() {
                _ if *mapped == local => Some(Mapping::None),
                true => survey.mapping.filter(|m| *m != Mapping::None),
                false => Some(Mapping::EndpointIndependent),
            };
            (mapping, allocation)
        }
        [(a, first), rest @ ..] => {
            let (b, last) = rest.last().copied().unwrap_or((*a, *first));
            let by_address = survey.mapping == Some(Mapping::AddressDependent) && a.ip() != b.ip();
            let mapping = if by_address { Mapping::AddressDependent } else { Mapping::AddressPortDependent };
            let step = last.port().wrapping_sub(first.port()) as i16;
            let counts = step != 0 && step.unsigned_abs() <= MAX_STEP;
            let allocation = match surveyed.filter(|_| survey.is_symmetric()) {
                // The first mapping of a port has its number, and the next ones have none.
                _ if kept(*first) => Allocation::Equal,
                Some(allocation) => allocation,
                None if counts => Allocation::Sequential(step),
                None => ANY,
            };
            (Some(mapping), allocation)
        }
    };
    Behaviour { mapping, filtering: survey.filtering, allocation: Some(allocation) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Foresight;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Returns where questions go, and what was seen, after a server's answer with this mapping and OTHER-ADDRESS.
    fn asked(mapped: u16, other: SocketAddr) -> (Vec<SocketAddr>, usize) {
        let mut cx = Cx::new([1; 32], Instant::ZERO);
        let server = at("45.10.0.1:3478");
        let sock = cx.bind_udp(crate::cx::Owner::Udp, ([203, 0, 113, 1], 0).into());
        let mut all = Measurement::begin(&mut cx, sock, &[server], true);
        let std::net::IpAddr::V4(ip) = other.ip() else { panic!("IPv4 only") };
        let mapped = (mapped ^ 0x2112).to_be_bytes();
        let mut data = vec![1, 1, 0, 24, 0x21, 0x12, 0xa4, 0x42];
        data.extend_from_slice(&all.asked[0].id.0);
        data.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
        data.extend_from_slice(&mapped);
        data.extend_from_slice(&[0x21 ^ 203, 0x12, 0xa4 ^ 113, 0x42 ^ 1, 0x80, 0x2c, 0, 8, 0, 1]);
        data.extend_from_slice(&other.port().to_be_bytes());
        data.extend_from_slice(&ip.octets());
        assert!(all.datagram(&mut cx, server, &data));
        let to = core::iter::from_fn(|| cx.pop_output()).filter_map(|output| match output {
            crate::io::Output::SendDatagram { to, .. } => Some(to),
            _ => None,
        });
        (to.collect(), all.seen().len())
    }

    #[test]
    fn a_server_has_us_ask_no_inside_address_and_believe_no_port_0() {
        let server = at("45.10.0.1:3478");
        let second = at("45.10.0.2:3479");
        assert_eq!(asked(4001, second), (vec![server, second], 1));
        for lie in ["192.168.1.1:53", "127.0.0.1:53", "45.10.0.2:0", "45.10.0.1:53"] {
            assert_eq!(asked(4001, at(lie)), (vec![server], 1), "{lie}");
        }
        assert_eq!(asked(0, at("45.10.0.1:53")), (vec![server], 0));
    }

    #[test]
    fn two_mappings_of_one_socket_tell_what_the_next_will_be() {
        let (local, a, b) = (at("192.168.1.2:4000"), at("198.51.100.1:3478"), at("198.51.100.2:3478"));
        let out = |port: u16| SocketAddr::new("203.0.113.1".parse().unwrap(), port);
        let unknown = Behaviour::default();
        let of = |seen: &[(SocketAddr, SocketAddr)], survey| conclude(local, seen, survey).foresight();
        assert_eq!(of(&[(a, out(4000)), (b, out(4000))], unknown), Foresight::Offset(0));
        assert_eq!(of(&[(a, out(61_000)), (b, out(61_000))], unknown), Foresight::Measured);
        assert_eq!(of(&[(a, out(61_000))], unknown), Foresight::Measured, "for want of better");
        assert_eq!(of(&[(a, out(61_000)), (b, out(61_002))], unknown), Foresight::Next(2));
        assert_eq!(
            of(&[(a, out(61_000)), (b, out(9_000))], unknown),
            Foresight::Nothing { low: 1024, high: u16::MAX }
        );
        let once = conclude(local, &[(a, out(4000)), (b, out(9_000))], unknown);
        assert!(once.keeps_once() && !once.shares_mapping());
        // Over TCP it counts by three.
        let allocation = Some(Allocation::Sequential(3));
        let survey = Behaviour { mapping: Some(Mapping::AddressDependent), filtering: None, allocation };
        assert_eq!(of(&[(a, out(61_000))], survey), Foresight::Next(3));
        assert!(conclude(local, &[(a, out(61_000)), (b, out(9_000))], survey).shares_mapping());
        // Where UDP keeps one mapping, what TCP does is of no account.
        assert_eq!(of(&[(a, out(61_000)), (b, out(61_000))], survey), Foresight::Measured);
        let open = conclude(local, &[(a, local), (b, local)], unknown);
        assert_eq!((open.mapping, open.foresight()), (Some(Mapping::None), Foresight::Offset(0)));
    }
}
