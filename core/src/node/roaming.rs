//! Changes of our network: measurements are repeated, and work from addresses that are gone begins again from those
//! that are there.

use core::time::Duration;
use std::net::IpAddr;

use super::admission::reach::is_on_link;
use super::opening::{MeasureAgain, choose, choose_links};
use super::{Node, Phase};
use crate::address::is_link_local;
use crate::cx::Timer;
use crate::io::{Interface, SockId};
use crate::nat::vantage::Vantage;
use crate::notice::{ConnectId, Notice};
use crate::pipe::PipeEnd;
use crate::session::SessionId;
use crate::signal::broker::News;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::Dialler;
use crate::strategy::paths::Route;

/// A new address is handed out after this long even if its NAT is still being measured.
const RESETTLE_WITHIN: Duration = Duration::from_secs(2);

impl Node {
    /// The interfaces as they are now. The first list starts the node.
    pub(super) fn interfaces(&mut self, list: &[Interface]) {
        self.listed = list.to_vec();
        let chosen = self.with_translated(list, choose(list, self.config.bind));
        let links = choose_links(list, self.config.bind);
        // They are all that we have where nothing else was chosen.
        let relinked = core::mem::replace(&mut self.links, links) != self.links && chosen.is_empty();
        if self.phase == Phase::New {
            self.phase = Phase::Running;
            self.set_routes(chosen);
            return self.start();
        }
        let moved = is_elsewhere(&self.chosen, &chosen) || relinked;
        if chosen != self.chosen || relinked {
            self.set_routes(chosen);
            self.signal_ways = (false, None);
            self.listeners.waited = false;
            self.cx.timers.set(Timer::Settle, Some(self.cx.now + RESETTLE_WITHIN));
            self.open_listeners();
        }
        // Beside the chosen addresses there may be others, of which the system chooses too.
        let translated = self.cx.translated;
        let gone = |ip: IpAddr| is_gone(ip, list) && translated != Some(ip);
        self.roam_brokers(moved, gone);
        if moved {
            self.time.ask_again(&mut self.cx);
            self.roam_punches();
            self.roam_visits();
            self.roam_attempts(gone);
            self.check_allocations();
        }
        self.drop_streams_from(gone);
        self.end_pipes_from(gone);
    }

    /// The address to leave from, where not all of ours are used or one is translated: a neighbour's own network
    /// before the way out.
    pub(super) fn used_towards(&self, to: IpAddr) -> Option<IpAddr> {
        let family = || self.chosen.iter().filter(|i| i.ip.is_ipv4() == to.is_ipv4());
        let near = || family().find(|i| is_on_link(i.ip, i.prefix, to));
        let leads = || family().find(|i| i.default_route).or_else(|| family().next());
        let all = self.listed.iter().all(|i| i.used) && (to.is_ipv6() || self.cx.translated.is_none());
        if all || is_link_local(to) || to.is_loopback() { None } else { near().or_else(leads).map(|i| i.ip) }
    }

    /// Returns true if an address of ours is not to be used.
    pub(super) fn is_unused(&self, ip: IpAddr) -> bool {
        self.listed.iter().any(|i| i.ip == ip.to_canonical() && !i.used)
    }

    /// Tells the owners of pipes whose address of ours is gone. Nothing of what the peer sends arrives any more, and
    /// the system would go on waiting for it.
    fn end_pipes_from(&mut self, gone: impl Fn(IpAddr) -> bool) {
        let lost = self.pipes.iter().filter(|(_, (_, ends))| gone(ends[0].ip())).map(|(sock, _)| *sock);
        for sock in lost.collect::<Vec<_>>() {
            let Some((peer, [local, remote])) = self.pipes.remove(&sock) else { continue };
            self.cx.end_pipe(sock, PipeEnd::AddressGone);
            self.cx.notify(Notice::PipeGone { peer, local, remote });
        }
    }

    /// Repairs, after a sleep of the machine, all that the next call needs, before that call fails. Meanwhile NATs have
    /// forgotten us, leases have run out, and brokers may have given us up.
    pub(super) fn woke(&mut self) {
        if self.phase != Phase::Running {
            return;
        }
        self.roam_brokers(true, |_| false);
        self.check_allocations();
        self.measure_all();
    }

    fn set_routes(&mut self, chosen: Vec<Interface>) {
        self.routes =
            chosen.iter().map(|i| Route { internal: i.ip, prefix: i.prefix, external: i.ip }).collect();
        self.chosen = chosen;
        self.cx.memory.leave();
        self.mappings.drop_gone(&mut self.cx, &self.chosen);
        let vantages = self.routes.iter().map(|r| Vantage { ip: r.internal, prefix: r.prefix });
        self.external.start(&mut self.cx, vantages);
        self.surveyor.stop(&mut self.cx);
        self.surveyed = false;
        self.again = MeasureAgain::default();
        self.cx.timers.set(Timer::Measure, None);
    }

    fn roam_brokers(&mut self, moved: bool, gone: impl Fn(IpAddr) -> bool) {
        for place in 0..self.brokers.len() {
            let news: News = self.brokers[place].roam(&mut self.cx, moved, &gone);
            self.broker_news(place as u8, news);
        }
    }

    /// Punches leave from the way that we had. Ours begin their next rung once our address is known again; a peer's
    /// next one is a new punch to us.
    fn roam_punches(&mut self) {
        let all: Vec<Key> = self.punches.keys().copied().collect();
        for key in all {
            self.forget_punch(key);
        }
    }

    /// Dials of ours that nobody has answered, for a peer that asked for them, are made again.
    fn roam_visits(&mut self) {
        let all: Vec<SessionId> = self.visits.keys().copied().collect();
        for session in all {
            self.close_dials_of((session, Requester::Them));
            let Some(visit) = self.visits.get(&session) else { continue };
            let (peer, trust, address) = (visit.peer, visit.trust, visit.address.clone());
            let paths = self.paths_to(peer, &address, trust);
            if let (false, Some(visit)) = (paths.is_empty(), self.visits.get_mut(&session)) {
                visit.dialler = Dialler::new(paths, self.cx.now);
                self.drive_visit(session);
            }
        }
    }

    fn roam_attempts(&mut self, gone: impl Fn(IpAddr) -> bool) {
        let offline = self.routes.is_empty();
        let all: Vec<ConnectId> = self.attempts.keys().copied().collect();
        for connect in all {
            let Some(key) = self.attempts.get(&connect).map(|a| (a.session(), Requester::Us)) else {
                continue;
            };
            // The peer may have nominated such a stream, or taken our relay, and will wait for it.
            let opened = self.has_opened_from(key, &gone) || self.relaying_of(key.0).is_some();
            if opened {
                self.renew_session(connect);
            } else {
                self.close_dials_of(key);
            }
            if let Some(attempt) = self.attempts.get_mut(&connect) {
                attempt.roam(self.cx.now, offline);
            }
            self.drive_attempt(connect);
        }
    }

    pub(super) fn close_dials_of(&mut self, key: Key) {
        let socks: Vec<SockId> = self.streams.of_session(key).collect();
        self.close_dials(socks.into_iter());
    }
}

/// Returns true if an address has gone, or if the first interface of a family has another address, route or gateway.
fn is_elsewhere(before: &[Interface], now: &[Interface]) -> bool {
    let first = |list: &[Interface], v4: bool| {
        list.iter().find(|i| i.ip.is_ipv4() == v4).map(|i| (i.ip, i.default_route, i.gateway))
    };
    before.iter().any(|b| now.iter().all(|n| n.ip != b.ip))
        || [true, false].iter().any(|v4| first(before, *v4) != first(now, *v4))
}

/// Returns true if an address that a socket has is not ours any more. Loopback and IPv4 link-local addresses are in
/// no list, and count as ours.
fn is_gone(ip: IpAddr, list: &[Interface]) -> bool {
    let listed = match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified(),
    };
    listed && list.iter().all(|i| i.ip != ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ip: &str, default_route: bool) -> Interface {
        Interface { default_route, ..Interface::new(2, ip.parse().unwrap(), 24) }
    }

    #[test]
    fn elsewhere_is_where_the_way_out_is_another() {
        let home = [interface("192.168.1.5", true), interface("10.0.0.1", false)];
        assert!(!is_elsewhere(&home, &home));
        let more = [home[0], home[1], interface("172.17.0.1", false)];
        assert!(!is_elsewhere(&home, &more), "one more beside it");
        assert!(is_elsewhere(&home, &home[..1]), "one gone");
        assert!(is_elsewhere(&home, &[home[1], home[0]]), "another one leads out");
        let cut = [interface("192.168.1.5", false), home[1]];
        assert!(is_elsewhere(&home, &cut), "none leads out");
        let neighbour = Interface { gateway: Some([192, 168, 1, 1].into()), ..home[0] };
        assert!(is_elsewhere(&home, &[neighbour, home[1]]), "the same address behind another router");
        let both = [home[0], home[1], interface("2001:db8::5", true)];
        assert!(is_elsewhere(&home, &both), "a family that there was not");
        assert!(is_elsewhere(&[], &home) && is_elsewhere(&home, &[]));
    }

    #[test]
    fn an_address_is_gone_if_it_could_be_listed_and_is_not() {
        let list = [interface("192.168.1.5", true), interface("fe80::1", false)];
        let gone = |ip: &str| is_gone(ip.parse().unwrap(), &list);
        assert!(gone("192.168.1.6") && gone("2001:db8::1") && gone("fe80::2"));
        for there in ["192.168.1.5", "::ffff:192.168.1.5", "127.0.0.1", "169.254.0.1", "fe80::1", "0.0.0.0"] {
            assert!(!gone(there), "{there}");
        }
    }
}
