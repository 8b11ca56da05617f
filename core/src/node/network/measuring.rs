//! Measurement of our outside addresses and of the NATs in front of them, and its repetition.

use core::time::Duration;
use std::net::IpAddr;

use super::{Network, NetworkEvent};
use crate::cx::{Cx, Timer};
use crate::nat::vantage::Vantage;
use crate::nat::{NatType, Network as Place};
use crate::portmap::Scope;
use crate::strategy::ours::Route;
use crate::time::Instant;

/// Delay before measurements that no server answered are repeated: the first value, doubled each time up to the second.
/// The way out may have been down while our interfaces were up.
const MEASURE_AGAIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));
/// Delay from a failed call to a new measurement of everything: the call's punch is over at the other end too by then.
/// `DOUBTED_EVERY` is the least interval between two, since strangers can cause them.
const DOUBTED_AFTER: Duration = Duration::from_secs(15);
const DOUBTED_EVERY: Duration = Duration::from_secs(300);

/// Plan to repeat measurements that no server answered or that are doubted.
#[derive(Debug, Default)]
pub(super) struct MeasureAgain {
    /// Number of times that missing answers were asked for again, which sets the delay before the next.
    failures: u32,
    armed: bool,
    /// The next repetition measures everything.
    doubted: bool,
    /// Time of the last doubt.
    last: Option<Instant>,
}

impl Network {
    /// Measures the NATs, once the listeners are open and the servers known. Returns true if the survey has ended.
    pub(in crate::node) fn measure(&mut self, cx: &mut Cx) -> bool {
        if !self.surveyor.started()
            && let Some(servers) = self.external.servers(cx)
        {
            let with_port = |r: &Route| {
                let vantage = Vantage { ip: r.internal, prefix: r.prefix };
                Some((vantage, self.listen_port(r.internal.is_ipv4())?))
            };
            let locals: Vec<(Vantage, u16)> = self.routes.iter().filter_map(with_port).collect();
            let servers = if self.survey { servers } else { Vec::new() };
            self.surveyor.start(cx, locals.into_iter(), &servers, self.hairpin);
        }
        let ended = self.surveyor.settled() && !self.surveyed;
        self.surveyed |= ended;
        ended
    }

    /// Sees to it that what no server answered is asked for again.
    pub(in crate::node) fn plan_measure(&mut self, cx: &mut Cx) {
        let lacks = self.external.lacks() || self.nat64.lacks() || (self.survey && self.surveyor.lacks());
        if self.again.armed || !lacks {
            return;
        }
        let (first, most) = MEASURE_AGAIN;
        let pause = (first * (1 << self.again.failures.min(8))).min(most);
        self.again.armed = true;
        cx.timers.set(Timer::Measure, Some(cx.now + pause));
    }

    /// Plans a new measurement of our NATs, as a call of ours or of a peer's came to nothing. The result so far may be
    /// wrong: a server lied, answers were lost, or the NAT is another by now.
    pub(in crate::node) fn doubt(&mut self, cx: &mut Cx) {
        let lately = self.again.last.is_some_and(|at| cx.now < at + DOUBTED_EVERY);
        if !self.has_stun || !self.started || lately {
            return;
        }
        self.again.last = Some(cx.now);
        (self.again.armed, self.again.doubted) = (true, true);
        cx.timers.set(Timer::Measure, Some(cx.now + DOUBTED_AFTER));
    }

    /// Measures all of it now.
    pub(in crate::node) fn measure_all(&mut self, cx: &mut Cx) {
        self.again = MeasureAgain { doubted: true, last: Some(cx.now), ..MeasureAgain::default() };
        cx.timers.set(Timer::Measure, None);
        self.measure_again(cx);
    }

    pub(in crate::node) fn measure_again(&mut self, cx: &mut Cx) {
        let all = core::mem::take(&mut self.again.doubted);
        self.again.armed = false;
        if !all {
            self.again.failures = self.again.failures.saturating_add(1);
        }
        if all || self.nat64.lacks() {
            self.nat64.find(cx);
        }
        self.external.ask_again(cx, all);
        if let Some(servers) = self.external.servers(cx).filter(|_| self.survey) {
            self.surveyor.again(cx, &servers, all);
            self.surveyed = self.surveyor.settled();
        }
        if all {
            self.mappings.check(cx);
        }
    }

    /// Learns our outside addresses, and from them which network we are in.
    pub(in crate::node) fn learn(&mut self, cx: &mut Cx) {
        for route in &mut self.routes {
            route.external = self.external.of(route.internal).unwrap_or(route.internal);
        }
        if self.surveyor.started() && self.external.take_news() {
            for route in &self.routes {
                let answers = self.external.answers(route.internal);
                self.surveyor.hear(cx, route.internal, answers);
            }
        }
        if !self.external.settled() {
            return;
        }
        // The way out, by the family that has a NAT if there is one.
        let best = |(n, i): &(usize, &crate::io::Interface)| (!i.default_route, i.ip.is_ipv6(), *n);
        if let Some((n, interface)) = self.chosen.iter().enumerate().min_by_key(best)
            && let Some(route) = self.routes.get(n)
        {
            cx.memory.arrive(Place::new(interface.gateway, route.external));
        }
    }

    /// Asks for a mapping wherever one is of use and none is asked for, and tells mappers what STUN sees.
    pub(in crate::node) fn map_ports(&mut self, cx: &mut Cx) {
        if !self.portmap {
            return;
        }
        for n in 0..self.chosen.len() {
            let interface = self.chosen[n];
            let seen = self.seen_of(interface.ip);
            let behind = seen.is_some_and(|seen| self.is_behind(interface.ip, seen));
            let port = self.listen_port(interface.ip.is_ipv4()).filter(|_| behind);
            let ports = port.map(|own| [own, if self.external_port == 0 { own } else { self.external_port }]);
            self.mappings.cover(cx, interface, seen, ports);
        }
    }

    /// Starts the measurements anew, in other interfaces.
    pub(super) fn forget_measured(&mut self, cx: &mut Cx) {
        self.mappings.drop_gone(cx, &self.chosen);
        let vantages = self.routes.iter().map(|r| Vantage { ip: r.internal, prefix: r.prefix });
        self.external.start(cx, vantages);
        self.surveyor.stop(cx);
        self.surveyed = false;
        self.again = MeasureAgain::default();
        cx.timers.set(Timer::Measure, None);
    }

    /// Tells of a sample that has ended.
    pub(super) fn sampled(&mut self, sampled: Option<crate::nat::surveyor::Sampled>) {
        self.news.extend(sampled.map(NetworkEvent::Sampled));
    }

    /// Returns the outside address of an address of ours. Where no server answered, a public IPv6 address counts as its
    /// own outside address: those are not translated.
    fn seen_of(&self, ip: IpAddr) -> Option<IpAddr> {
        let own = ip.is_ipv6() && self.external.settled() && Scope::of(ip) == Scope::Public;
        self.external.of(ip).or(own.then_some(ip))
    }

    /// Returns true if a port has to be opened: behind a NAT, and for IPv6 behind a firewall. Home routers have one by
    /// default (RFC 6092): it is assumed unless everybody was measured to get in. A useless request costs little.
    fn is_behind(&self, ip: IpAddr, seen: IpAddr) -> bool {
        let open = self.surveyor.measured(ip).is_some_and(|b| b.nat_type() == Some(NatType::OpenInternet));
        seen != ip || (ip.is_ipv6() && self.surveyor.settled() && !open)
    }
}
