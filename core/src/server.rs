//! The way to a server that has a name: its addresses, one after the other, until one works.
//!
//! A name may have several addresses of both families, and some of them may lead nowhere. They are tried in the order of
//! RFC 8305 section 4, the families in turn, each 250 ms after the one before or as soon as that failed. The first that
//! works wins, and is the first the next time.
//!
//! The reasons: ADR 16 in docs/src/adr.

use core::time::Duration;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use crate::address::is_internet;
use crate::cx::{Cx, Owner};
use crate::failure::IoFailure;
use crate::io::{CloseHow, QueryId, SockId};
use crate::time::Instant;
use crate::wrap::Wrap;

/// Connection Attempt Delay of RFC 8305 section 5.
const STAGGER: Duration = Duration::from_millis(250);
/// The addresses of one server, given out one after the other.
#[derive(Debug)]
pub(crate) struct Race {
    host: Box<str>,
    query: Option<QueryId>,
    rest: VecDeque<IpAddr>,
    /// Time at which the next address is due.
    next: Instant,
    by: Instant,
}

impl Race {
    /// Looks the name up; a literal address needs none. All of it is to end within `limit`.
    pub(crate) fn start(cx: &mut Cx, owner: Owner, host: &str, limit: Duration) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Race::among(cx, host, &[ip], limit),
            Err(_) => {
                let query = Some(cx.resolve(owner, host.into(), limit));
                Race { query, ..Race::among(cx, host, &[], limit) }
            }
        }
    }

    /// The same where the addresses are known.
    pub(crate) fn among(cx: &Cx, host: &str, ips: &[IpAddr], limit: Duration) -> Self {
        let (rest, by) = (cx.experience.order(host, ips), cx.now + limit);
        Race { host: host.into(), query: None, rest, next: cx.now, by }
    }

    /// The name.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Takes what a look-up found: the usable addresses are tried. `None`: the look-up is another's.
    pub(crate) fn resolved(
        &mut self,
        cx: &Cx,
        query: QueryId,
        result: &Result<SmallVec<[IpAddr; 2]>, IoFailure>,
        usable: impl Fn(&IpAddr) -> bool,
    ) -> Option<Result<(), IoFailure>> {
        self.query.take_if(|q| *q == query)?;
        let all = match result {
            Ok(all) if !all.is_empty() => all,
            Ok(_) => return Some(Err(IoFailure::NoSuchName)),
            Err(why) => return Some(Err(*why)),
        };
        let all: SmallVec<[IpAddr; 4]> = all.iter().copied().filter(usable).collect();
        (self.rest, self.next) = (cx.experience.order(&self.host, &all), cx.now);
        Some(Ok(()))
    }

    /// The next address, if its turn has come.
    pub(crate) fn next(&mut self, now: Instant) -> Option<IpAddr> {
        let ip = if self.next <= now { self.rest.pop_front()? } else { return None };
        self.next = now + STAGGER;
        Some(ip)
    }

    /// An address failed: the next one need not wait.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next = now;
    }

    /// Has an address tried once more, before those whose turn has not come.
    pub(crate) fn again(&mut self, now: Instant, ip: IpAddr, limit: Duration) {
        self.rest.push_front(ip);
        (self.next, self.by) = (now, now + limit);
    }

    /// Returns the time to ask for the [`next`](Self::next) address.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!self.rest.is_empty()).then_some(self.next)
    }

    /// Time that is left.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.by.since(now)
    }

    /// Returns true if there may be further addresses.
    pub(crate) fn is_open(&self) -> bool {
        self.query.is_some() || !self.rest.is_empty()
    }

    /// Gives out no more.
    pub(crate) fn stop(&mut self, cx: &mut Cx) {
        self.rest.clear();
        if let Some(query) = self.query.take() {
            cx.cancel(query);
        }
    }
}

/// Streams being opened to one server, of which the first that opens is kept.
#[derive(Debug)]
pub(crate) struct Dials {
    race: Race,
    owner: Owner,
    bind: Option<IpAddr>,
    port: u16,
    wrap: Option<Wrap>,
    open: SmallVec<[(SockId, IpAddr); 2]>,
}

impl Dials {
    pub(crate) fn start(
        cx: &mut Cx,
        owner: Owner,
        race: Race,
        bind: Option<IpAddr>,
        port: u16,
        wrap: Option<Wrap>,
    ) -> Self {
        let mut dials = Dials { race, owner, bind, port, wrap, open: SmallVec::new() };
        dials.drive(cx);
        dials
    }

    /// Takes what a look-up found. The error says why there is nothing to dial.
    pub(crate) fn resolved(
        &mut self,
        cx: &mut Cx,
        query: QueryId,
        result: &Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) -> Result<(), IoFailure> {
        self.race.resolved(cx, query, result, |_| true).unwrap_or(Ok(()))?;
        self.drive(cx);
        Ok(())
    }

    /// Dials what is due.
    pub(crate) fn drive(&mut self, cx: &mut Cx) {
        while let Some(ip) = self.race.next(cx.now) {
            let (local, remote) = (local_for(cx, ip, self.bind), SocketAddr::new(ip, self.port));
            let limit = self.race.left(cx.now);
            self.open.push((cx.dial_server(self.owner, local, remote, limit, self.wrap.clone()), ip));
        }
    }

    /// Returns the time to [`drive`](Self::drive) them.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.race.due()
    }

    pub(crate) fn has(&self, sock: SockId) -> bool {
        self.open.iter().any(|(s, _)| *s == sock)
    }

    /// Returns true if the server has other addresses than the one that was reached first, as far as known.
    pub(crate) fn has_others(&self) -> bool {
        self.race.is_open() || self.open.len() > 1
    }

    /// The address that this socket has reached; the others are closed.
    pub(crate) fn connected(&mut self, cx: &mut Cx, sock: SockId) -> Option<IpAddr> {
        let at = self.open.iter().position(|(s, _)| *s == sock)?;
        let (_, ip) = self.open.remove(at);
        self.close(cx);
        Some(ip)
    }

    /// A socket failed. True: it was the last.
    pub(crate) fn failed(&mut self, cx: &mut Cx, sock: SockId) -> bool {
        self.open.retain(|(s, _)| *s != sock);
        self.race.hurry(cx.now);
        self.drive(cx);
        self.open.is_empty() && !self.race.is_open()
    }

    pub(crate) fn close(&mut self, cx: &mut Cx) {
        self.race.stop(cx);
        for (sock, _) in core::mem::take(&mut self.open) {
            cx.close(sock, CloseHow::Drop);
        }
    }
}

/// Returns the local address to send to a server from. What is not on the internet is not reached through a NAT64.
pub(crate) fn local_for(cx: &Cx, ip: IpAddr, bind: Option<IpAddr>) -> SocketAddr {
    let translated = || cx.translated.filter(|_| ip.is_ipv4() && is_internet(ip));
    SocketAddr::new(local_towards(ip, bind, translated), 0)
}

/// Returns the local address to send from: the one that we are bound to, the one that is `used` that way, or any of the
/// family.
pub(crate) fn local_towards(
    to: IpAddr,
    bind: Option<IpAddr>,
    used: impl FnOnce() -> Option<IpAddr>,
) -> IpAddr {
    let any = match to {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    bind.filter(|b| b.is_ipv4() == to.is_ipv4()).or_else(used).unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experience::Experience;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn order(experience: &Experience, all: &[&str]) -> Vec<String> {
        let all: Vec<IpAddr> = all.iter().map(|text| ip(text)).collect();
        experience.order("a.test", &all).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn families_take_turns_and_what_worked_is_first_what_was_of_no_use_last() {
        let mut experience = Experience::default();
        let all = ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2", "2001:db8::1"];
        assert_eq!(order(&experience, &all), ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]);
        experience.works("a.test", ip("192.0.2.2"));
        experience.is_useless("a.test", ip("2001:db8::1"));
        let expected = ["192.0.2.2", "192.0.2.1", "2001:db8::2", "2001:db8::1"];
        assert_eq!(order(&experience, &all), expected);
        experience.is_useless("a.test", ip("192.0.2.2"));
        assert_eq!(order(&experience, &all)[3], "192.0.2.2");
        experience.works("a.test", ip("192.0.2.2"));
        assert_eq!(order(&experience, &all)[0], "192.0.2.2");
    }

    #[test]
    fn a_name_with_a_thousand_addresses_is_tried_at_eight_of_them() {
        let all: Vec<String> = (0..1000).map(|n| format!("2001:db8::{n:x}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(order(&Experience::default(), &all).len(), 8);
    }

    #[test]
    fn addresses_come_a_quarter_of_a_second_apart_or_as_soon_as_one_failed() {
        let cx = Cx::new([1; 32], Instant::ZERO);
        let all = [ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.3")];
        let mut race = Race::among(&cx, "a.test", &all, Duration::from_secs(5));
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        assert_eq!((race.next(at(0)), race.next(at(0))), (Some(all[0]), None));
        assert_eq!(race.due(), Some(at(250)));
        assert_eq!((race.next(at(249)), race.next(at(250))), (None, Some(all[1])));
        race.hurry(at(260));
        assert_eq!((race.next(at(260)), race.due(), race.is_open()), (Some(all[2]), None, false));
    }
}
