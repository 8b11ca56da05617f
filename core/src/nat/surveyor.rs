//! The surveys of all interfaces, and samples for punches.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::behaviour::Behaviour;
use super::counter::Sight;
use super::external::StunAnswer;
use super::probe::{self, Probe};
use super::survey::{Foreseen, NatReport, Survey};
use super::vantage::Vantage;
use crate::cx::{Cx, Owner};
use crate::io::{CloseHow, SockId};
use crate::strategy::agreement::Key;
use crate::time::Instant;

/// A fresh sample for a punch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sampled {
    pub(crate) key: Key,
    pub(crate) local: u16,
    /// External endpoint of the port; `None`: no server answered.
    pub(crate) seen: Option<SocketAddr>,
    /// Time at which the mapping was made.
    pub(crate) at: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Surveyor {
    surveys: Vec<Survey>,
    samples: BTreeMap<SockId, Sample>,
    started: bool,
    hairpin: bool,
}

#[derive(Debug)]
struct Sample {
    key: Key,
    /// The interface it leaves from.
    from: IpAddr,
    probe: Probe,
}

impl Surveyor {
    /// Surveys these interfaces; `listening` is the port of the node's listener.
    pub(crate) fn start(
        &mut self,
        cx: &mut Cx,
        locals: impl Iterator<Item = (Vantage, u16)>,
        servers: &[SocketAddr],
        hairpin: bool,
    ) {
        self.stop(cx);
        (self.started, self.hairpin) = (true, hairpin);
        for (place, (vantage, port)) in locals.enumerate() {
            let survey = Survey::begun(cx, place as u8, vantage, port, servers, hairpin);
            self.surveys.push(survey);
        }
    }

    /// Returns true if an interface has a server to ask and could not be measured.
    pub(crate) fn lacks(&self) -> bool {
        self.surveys.iter().any(Survey::lacks)
    }

    /// Surveys the interfaces anew that could not be measured, or all. What was known stays so meanwhile.
    pub(crate) fn again(&mut self, cx: &mut Cx, servers: &[SocketAddr], all: bool) {
        for survey in &mut self.surveys {
            let reachable = servers.iter().any(|s| s.is_ipv4() == survey.report.local.is_ipv4());
            if survey.lacks() || (survey.done && reachable && (all || survey.servers.is_empty())) {
                survey.again(cx, servers);
            }
        }
    }

    pub(crate) fn stop(&mut self, cx: &mut Cx) {
        for mut survey in self.surveys.drain(..) {
            survey.end(cx);
        }
        for sock in core::mem::take(&mut self.samples).into_keys() {
            cx.close(sock, CloseHow::Drop);
        }
        self.started = false;
    }

    pub(crate) fn started(&self) -> bool {
        self.started
    }

    pub(crate) fn settled(&self) -> bool {
        self.started && self.surveys.iter().all(|s| s.done)
    }

    /// Returns how far the next mapping of this interface is foreseen, if it is said to have this address outside; of a `fresh`
    /// port, or of the listener's.
    pub(crate) fn foreseen(&self, local: IpAddr, external: IpAddr, fresh: bool) -> Foreseen {
        let survey = self.surveys.iter().find(|s| s.report.local == local);
        survey.map(|s| s.foreseen(external, fresh)).unwrap_or_default()
    }

    /// Hears the answers of STUN servers about this local address.
    pub(crate) fn hear(&mut self, cx: &mut Cx, local: IpAddr, answers: Vec<StunAnswer>) {
        if let Some(survey) = self.surveys.iter_mut().find(|s| s.report.local == local) {
            survey.hear(cx, answers);
        }
    }

    pub(crate) fn of(&self, local: IpAddr) -> Option<&NatReport> {
        self.surveys.iter().find(|s| s.report.local == local).and_then(Survey::known)
    }

    /// Returns the behaviour of the NAT in front of this address of ours, if it could be measured.
    pub(crate) fn measured(&self, local: IpAddr) -> Option<Behaviour> {
        self.of(local).map(|r| r.behaviour).filter(|b| b.mapping.is_some())
    }

    pub(crate) fn reports(&self) -> impl Iterator<Item = &NatReport> {
        self.surveys.iter().filter_map(Survey::known)
    }

    /// Asks what a fresh port of an interface is seen as, for a punch; the connection stays open until
    /// [`release`](Self::release). False: there is no server to ask.
    pub(crate) fn sample(&mut self, cx: &mut Cx, local: IpAddr, key: Key) -> bool {
        let survey = self.surveys.iter().find(|s| s.report.local == local);
        let server = survey.and_then(|s| s.report.server.or(s.known()?.server));
        let Some(server) = server else { return false };
        let port = cx.fresh_port();
        let from = SocketAddr::new(local, port);
        let (sock, probe) = Probe::dial(cx, Owner::Sample, from, server, Duration::ZERO);
        self.samples.insert(sock, Sample { key, from: local, probe });
        true
    }

    pub(crate) fn release(&mut self, cx: &mut Cx, key: Key) {
        let of: Vec<SockId> =
            self.samples.iter().filter(|(_, s)| s.key == key).map(|(sock, _)| *sock).collect();
        for sock in of {
            self.samples.remove(&sock);
            cx.close(sock, CloseHow::Drop);
        }
    }

    pub(crate) fn bound(&mut self, cx: &mut Cx, place: u8) {
        if let Some(survey) = self.surveys.get_mut(usize::from(place)) {
            survey.bound(cx);
        }
    }

    pub(crate) fn datagram(&mut self, cx: &mut Cx, place: u8, from: SocketAddr, data: &[u8]) {
        if let Some(survey) = self.surveys.get_mut(usize::from(place)) {
            survey.datagram(cx, from, data);
        }
    }

    pub(crate) fn connected(&mut self, cx: &mut Cx, owner: Owner, sock: SockId) {
        let probe = match owner {
            Owner::Survey(place) => {
                let Some(survey) = self.surveys.get_mut(usize::from(place)) else { return };
                survey.connected(cx, sock)
            }
            _ => self.samples.get(&sock).map(|sample| &sample.probe),
        };
        if let Some(probe) = probe {
            probe.ask(cx, sock);
        }
    }

    /// Notes a new stream at our listener, which may be our own hairpin dial.
    pub(crate) fn accepted(&mut self, cx: &mut Cx, remote: SocketAddr) {
        for survey in &mut self.surveys {
            survey.accepted(cx, remote);
        }
    }

    /// Bytes of a sample give its result.
    pub(crate) fn received(
        &mut self,
        cx: &mut Cx,
        owner: Owner,
        sock: SockId,
        data: &[u8],
    ) -> Option<Sampled> {
        if let Owner::Survey(place) = owner {
            self.surveys.get_mut(usize::from(place))?.received(cx, sock, data);
            return None;
        }
        let Sample { key, from, probe } = self.samples.get_mut(&sock)?;
        let reply = probe.answer(cx, data)?;
        let seen = reply.and_then(|r| probe::mapped(&r));
        let sampled = Sampled { key: *key, local: probe.local, seen, at: probe.began };
        let survey = self.surveys.iter_mut().find(|s| s.report.local == *from);
        if let (Some(survey), Some(seen)) = (survey, seen) {
            let sight = Sight { port: seen.port(), at: probe.began, flows: sock.number() as u32 };
            survey.watch(probe.local, seen, sight);
        }
        Some(sampled)
    }

    /// Returns the number of mappings that others are expected to make at an interface's NAT from `since` until
    /// `until`. The number is 0 where the NAT does not count ports.
    pub(crate) fn others(&self, local: IpAddr, since: Instant, until: Instant) -> u16 {
        let counter = self.surveys.iter().find(|s| s.report.local == local).and_then(|s| s.counter);
        counter.map_or(0, |c| c.expected(until.since(since)))
    }

    /// A socket failed or its stream ended; `open` says that the driver still has it.
    pub(crate) fn failed(&mut self, cx: &mut Cx, owner: Owner, sock: SockId, open: bool) -> Option<Sampled> {
        if open {
            cx.close(sock, CloseHow::Drop);
        }
        if let Owner::Survey(place) = owner {
            self.surveys.get_mut(usize::from(place))?.failed(cx, sock);
            return None;
        }
        let Sample { key, probe, .. } = self.samples.remove(&sock)?;
        (!probe.answered).then_some(Sampled { key, local: probe.local, seen: None, at: probe.began })
    }

    /// Takes in that NATs remember less than was thought.
    pub(crate) fn hurry(&mut self, cx: &mut Cx) {
        for survey in &mut self.surveys {
            survey.hurry(cx);
        }
    }

    pub(crate) fn timeout(&mut self, cx: &mut Cx, place: u8) {
        if let Some(survey) = self.surveys.get_mut(usize::from(place)) {
            survey.timeout(cx);
        }
    }
}
