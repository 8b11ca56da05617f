//! Changes of our network: measurements are repeated, and work from addresses that are gone begins again from those
//! that are there.

use std::net::IpAddr;

use super::allocating::Allocations;
use super::network::is_gone;
use super::{Node, Phase};
use crate::io::Interface;
use crate::notice::ConnectId;
use crate::session::SessionId;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::Dialler;

impl Node {
    /// Takes in the interfaces as they are now. The first list starts the node.
    pub(super) fn interfaces(&mut self, list: &[Interface]) {
        let relisted = self.network.relist(&mut self.cx, list);
        if self.phase == Phase::New {
            self.phase = Phase::Running;
            return self.start();
        }
        if relisted.changed {
            self.signalling.forget_ways();
            self.network.restart(&mut self.cx);
        }
        // Beside the chosen addresses there may be others, of which the system chooses too.
        let translated = self.cx.translated;
        let gone = |ip: IpAddr| is_gone(ip, list) && translated != Some(ip);
        self.roam_brokers(relisted.moved, gone);
        if relisted.moved {
            self.network.ask_the_time_again(&mut self.cx);
            self.roam_punches();
            self.roam_visits();
            self.roam_attempts(gone);
            self.with_allocations(Allocations::check);
        }
        self.sessions.drop_streams_from(&mut self.cx, gone);
        self.sessions.end_pipes_from(&mut self.cx, gone);
    }

    /// Repairs, after a sleep of the machine, all that the next call needs, before that call fails. Meanwhile NATs have
    /// forgotten us, leases have run out, and brokers may have given us up.
    pub(super) fn woke(&mut self) {
        if self.phase != Phase::Running {
            return;
        }
        self.roam_brokers(true, |_| false);
        self.with_allocations(Allocations::check);
        self.network.measure_all(&mut self.cx);
    }

    fn roam_brokers(&mut self, moved: bool, gone: impl Fn(IpAddr) -> bool) {
        for place in 0..self.signalling.len() as u8 {
            let news = self.signalling.roam(&mut self.cx, place, moved, &gone);
            self.broker_news(place, news);
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
            self.sessions.close_dials_of(&mut self.cx, (session, Requester::Them));
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
        let offline = self.network.routes().is_empty();
        let all: Vec<ConnectId> = self.attempts.keys().copied().collect();
        for connect in all {
            let Some(key) = self.attempts.get(&connect).map(|a| (a.session(), Requester::Us)) else {
                continue;
            };
            // The peer may have nominated such a stream, or taken our relay, and will wait for it.
            let opened = self.sessions.has_opened_from(key, &gone) || self.relaying_of(key.0).is_some();
            if opened {
                self.renew_session(connect);
            } else {
                self.sessions.close_dials_of(&mut self.cx, key);
            }
            if let Some(attempt) = self.attempts.get_mut(&connect) {
                attempt.roam(self.cx.now, offline);
            }
            self.drive_attempt(connect);
        }
    }
}
