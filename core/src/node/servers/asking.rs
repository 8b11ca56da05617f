//! Choice of the servers that are asked next, the way to each, and who is asked again.

use std::net::SocketAddr;

use super::asked::{Asked, ByTcp, Renewal};
use super::{
    AT_ONCE, FASTER_THAN, FRESH_PORTS, OTHER_FAMILY_AFTER, REACH_WITHIN, ServerNews, Servers, TCP_AFTER, Try,
};
use crate::config::{TurnAuth, TurnServer};
use crate::cx::Cx;
use crate::node::logins::RENEW_WITHIN;
use crate::server::Race;
use crate::turn;
use crate::turn::{Credentials, Family};
use crate::wire::Transport;

impl Servers {
    pub(super) fn ask_more(&mut self, cx: &mut Cx) {
        let now = cx.now;
        self.asked_at = now;
        // Beside another, or for so long that it is waited for and others with it.
        let beside = |asked: &Asked| asked.over == Transport::Tcp && asked.server.only_way().is_none();
        let counts = |asked: &Asked| !beside(asked) && asked.begun + FASTER_THAN > now;
        while self.chosen.is_none()
            && !self.closed
            && (0..self.asked.len()).filter(|n| counts(&self.asked[*n]) && self.is_alive(*n)).count()
                < AT_ONCE
            && let Some((place, server)) = self.waiting.pop_front()
        {
            let over = server.only_way().unwrap_or(Transport::Udp);
            let by_tcp = if server.only_way().is_some() { ByTcp::No } else { ByTcp::Later(None) };
            self.ask(cx, (place, server), over, self.family.0, by_tcp);
        }
        // Nothing is left that could give the better family.
        let others = |asked: &Asked| asked.other.is_some();
        if self.chosen.is_none()
            && !self.closed
            && (0..self.asked.len()).all(|n| others(&self.asked[n]) || !self.is_alive(n))
        {
            for n in 0..self.asked.len() {
                if others(&self.asked[n]) {
                    self.ask_other_family(cx, n);
                }
            }
        }
        let alive = (0..self.asked.len()).any(|n| self.is_alive(n));
        if self.chosen.is_none() && !alive && !self.closed {
            self.closed = true;
            self.news.push_back(ServerNews::Failed(self.describe()));
        }
    }

    fn ask(
        &mut self,
        cx: &mut Cx,
        (place, server): (u8, TurnServer),
        over: Transport,
        family: Family,
        by_tcp: ByTcp,
    ) {
        let race = Race::start(cx, self.owner, server.first(over).0, REACH_WITHIN);
        let by_tcp = match by_tcp {
            // Where only a proxy gets out, look-ups may take as long as they like.
            ByTcp::Later(_) if server.proxy.is_some() => ByTcp::Later(Some(cx.now + TCP_AFTER)),
            by_tcp => by_tcp,
        };
        let asked = Asked {
            place,
            server,
            renewal: Renewal::Possible,
            over,
            family,
            race,
            begun: cx.now,
            by_tcp,
            other: None,
            is_alternate: false,
            fresh_ports: FRESH_PORTS,
            why: None,
        };
        self.begin(cx, asked);
    }

    fn begin(&mut self, cx: &mut Cx, asked: Asked) {
        let n = self.asked.len();
        self.asked.push(asked);
        if self.asked[n].is_stale(cx) {
            self.await_renewal(cx, n);
        }
        self.drive(cx, n);
    }

    /// Asks a server for what it has where it has no address of the better family.
    pub(super) fn ask_other_family(&mut self, cx: &mut Cx, of: usize) {
        self.asked[of].other = None;
        if self.chosen.is_none() && !self.closed {
            let race = self.race_again(cx, of);
            let mut asked = self.asked[of].again(cx, race);
            asked.family = if asked.family == Family::V4 { Family::V6 } else { Family::V4 };
            self.begin(cx, asked);
        }
    }

    /// Starts the race to the addresses of a server once more.
    fn race_again(&self, cx: &mut Cx, of: usize) -> Race {
        let Asked { server, over, is_alternate, .. } = &self.asked[of];
        let host = server.first(*over).0;
        match self.tries.iter().find(|t| t.of == of).filter(|_| *is_alternate) {
            Some(t) => Race::among(cx, host, &[t.at.ip()], REACH_WITHIN),
            None => Race::start(cx, self.owner, host, REACH_WITHIN),
        }
    }

    /// Asks the alternate server that a server named, in the same way and as the same user, if we may be sent there.
    pub(in crate::node) fn follow(&mut self, cx: &mut Cx, by: usize, to: SocketAddr, may: bool) {
        let Some(t) = self.tries.get(by) else { return };
        let (of, [v4, v6]) = (t.of, self.ours);
        let ours = if to.is_ipv4() { v4 } else { v6 };
        if self.closed || self.chosen.is_some() {
            return;
        }
        if !may || !ours {
            let which = if may { "of a family we have" } else { "that it may send us to" };
            let why = format!("{}, which is no address {which}", turn::Error::Redirected(to));
            return self.fail(cx, by, why, false);
        }
        let by_proxy = self.asked[of].proxy().is_some();
        // A proxy stays where it is, and is told the address.
        let dialled = if by_proxy { t.at.ip() } else { to.ip() };
        let race = Race::among(cx, self.asked[of].race.host(), &[dialled], REACH_WITHIN);
        let mut asked = self.asked[of].again(cx, race);
        (asked.server.port, asked.is_alternate) = (to.port(), true);
        if by_proxy {
            let name = core::mem::replace(&mut asked.server.host, to.ip().to_string().into());
            if let Some(tls) = &mut asked.server.tls {
                tls.name.get_or_insert(name);
            }
        }
        self.begin(cx, asked);
        self.ask_more(cx);
    }

    /// Has our user asked for credentials before the server is asked again.
    fn await_renewal(&mut self, cx: &mut Cx, of: usize) {
        let asked = &mut self.asked[of];
        asked.race.stop(cx);
        asked.renewal = Renewal::Awaited(cx.now + RENEW_WITHIN);
        self.news.push_back(ServerNews::Stale(asked.place));
    }

    /// Takes the credentials that our user has given for a server, if any.
    pub(in crate::node) fn renew(&mut self, cx: &mut Cx, place: u8, fresh: Option<&Credentials>) {
        for (_, server) in self.waiting.iter_mut().filter(|(p, _)| *p == place) {
            server.renew(fresh);
        }
        for n in 0..self.asked.len() {
            if self.asked[n].place == place {
                match self.asked[n].renewal {
                    Renewal::Awaited(_) => self.renewed(cx, n, fresh),
                    Renewal::Possible | Renewal::Done => {
                        self.asked[n].server.renew(fresh);
                    }
                }
            }
        }
    }

    /// Asks a server again with what was awaited.
    pub(super) fn renewed(&mut self, cx: &mut Cx, of: usize, fresh: Option<&Credentials>) {
        // What is about to end may do, where there is nothing else.
        let untried = !self.tries.iter().any(|t| t.of == of);
        let asked = &mut self.asked[of];
        asked.renewal = Renewal::Done;
        if asked.server.renew(fresh) || (untried && asked.credentials(cx).is_some()) {
            self.asked[of].race = self.race_again(cx, of);
            return self.drive(cx, of);
        }
        asked.why = Some("there are no other credentials".into());
        self.ask_more(cx);
    }

    /// Tries again with a server that failed in this way, if that may help. Returns true if the new try is under way.
    pub(super) fn goes_on(&mut self, cx: &mut Cx, n: usize, why: turn::Error) -> bool {
        let of = self.tries[n].of;
        let has_other = self.has_other(self.asked[of].family, why);
        let asked = &mut self.asked[of];
        match why {
            turn::Error::WrongCredentials => self.mend(cx, n),
            // The NAT gave us a port of somebody whom the server has not forgotten.
            turn::Error::PortInUse if asked.fresh_ports > 0 => {
                asked.fresh_ports -= 1;
                self.try_address_again(cx, n);
                true
            }
            turn::Error::Redirected(to) if !asked.is_alternate => {
                let anywhere = asked.server.alternates_anywhere;
                self.news.push_back(ServerNews::Redirected { by: n, to, anywhere });
                true
            }
            // 420: it has not heard of the attribute that asks for IPv6. 508: it has neither of two.
            turn::Error::UnsupportedFamily | turn::Error::Rejected(420) | turn::Error::Capacity
                if has_other =>
            {
                asked.other = Some(cx.now + OTHER_FAMILY_AFTER);
                self.ask_more(cx);
                true
            }
            _ => false,
        }
    }

    /// Returns true if a server that refused a family is to be asked for another: both at once, then IPv4, then IPv6, or
    /// the better one, then the other.
    fn has_other(&self, refused: Family, why: turn::Error) -> bool {
        let (wanted, any) = self.family;
        let was_both = refused == Family::Both;
        let is_full = why == turn::Error::Capacity;
        any && (was_both || !is_full)
            && (refused == wanted || wanted == Family::Both && refused == Family::V4)
    }

    /// Replaces credentials that the server takes no longer, once. Returns true if others are under way.
    fn mend(&mut self, cx: &mut Cx, n: usize) -> bool {
        let of = self.tries[n].of;
        let asked = &mut self.asked[of];
        match (asked.renewal, &asked.server.auth) {
            (Renewal::Awaited(_), _) => {}
            (Renewal::Possible, TurnAuth::Renewed(_)) => self.await_renewal(cx, of),
            (Renewal::Possible, TurnAuth::Secret(_)) => {
                asked.renewal = Renewal::Done;
                self.try_address_again(cx, n);
            }
            _ => return false,
        }
        true
    }

    /// Asks the server of a try that is over once more at the same address, from another socket.
    fn try_address_again(&mut self, cx: &mut Cx, n: usize) {
        let Try { of, at, .. } = self.tries[n];
        self.asked[of].race.again(cx.now, at.ip(), REACH_WITHIN);
        self.drive(cx, of);
    }

    pub(super) fn ask_by_tcp(&mut self, cx: &mut Cx, of: usize) {
        self.asked[of].by_tcp = ByTcp::No;
        if self.chosen.is_none() && !self.closed {
            let Asked { place, server, family, .. } = &self.asked[of];
            self.ask(cx, (*place, server.clone()), Transport::Tcp, *family, ByTcp::No);
        }
    }
}
