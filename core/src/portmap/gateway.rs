//! The gateway's PCP or NAT-PMP server: which of the two it is, and exchanges with it.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;

use super::epoch::{Epoch, Rule};
use super::pcp::{self, PORT};
use super::{Ask, Config, MapError, MapId, Out, Protocol, Reply, Way, pmp};
use crate::address::scoped;
use crate::time::Instant;

/// Wait after a question is sent, which doubles each time, as RFC 6886 section 3.1 has it. RFC 6887 would begin with 3
/// s, though a server that answers at all is one hop away.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Times that a question is sent: it is given up after 7.75 s. RFC 6886 would go on for two minutes.
const QUESTIONS: u32 = 5;
/// Times that a removal is sent, so that a shutdown takes 1.75 s at most.
const REMOVALS: u32 = 3;
/// Shortest time between two restarts of a server that are believed. A server that says so with every answer would be
/// asked again at the pace of its answers.
const RESTARTS_EVERY: Duration = Duration::from_secs(60);
/// Number of PCP questions without an answer before NAT-PMP takes over, if NAT-PMP answers.
const PCP_FIRST: u32 = 2;

/// The server at the gateway's port 5351.
#[derive(Debug)]
pub(super) struct Gateway {
    server: SocketAddr,
    local: IpAddr,
    speaks: Speaks,
    /// Protocol to be tried alone, if not all are.
    only: Option<Speaks>,
    epoch: Option<Epoch>,
    /// Time at which a restart was last believed.
    restarted: Option<Instant>,
    /// External address by NAT-PMP.
    external: External,
    exchanges: BTreeMap<MapId, Exchange>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaks {
    Unknown,
    Pcp,
    Pmp,
}

#[derive(Clone, Copy, Debug)]
enum External {
    Unknown,
    Asking(Sends),
    Is(Ipv4Addr),
    Not(MapError),
}

#[derive(Debug)]
struct Exchange {
    ask: Ask,
    removing: bool,
    sends: Sends,
}

/// A question's repetitions.
#[derive(Clone, Copy, Debug)]
struct Sends {
    sent: u32,
    most: u32,
    /// Time to send again, or to give up.
    due: Instant,
}

impl Sends {
    fn new(now: Instant, most: u32) -> Self {
        Sends { sent: 0, most, due: now }
    }

    fn is_over(&self) -> bool {
        self.sent >= self.most
    }

    fn count(&mut self, now: Instant) {
        self.due = now + FIRST_WAIT * (1 << self.sent);
        self.sent += 1;
    }
}

impl Gateway {
    /// Returns the exchange with the gateway; `None` where no gateway is known, or nothing is to be asked of it.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let server = scoped(config.gateway?, PORT, config.zone);
        let only = match (config.pcp, config.nat_pmp && config.local.is_ipv4()) {
            (true, true) => None,
            (true, false) => Some(Speaks::Pcp),
            (false, true) => Some(Speaks::Pmp),
            (false, false) => return None,
        };
        Some(Gateway {
            server,
            local: config.local,
            speaks: only.unwrap_or(Speaks::Unknown),
            only,
            epoch: None,
            restarted: None,
            external: External::Unknown,
            exchanges: BTreeMap::new(),
        })
    }

    /// Asks for a mapping, or for a longer life of it.
    pub(super) fn map(&mut self, out: &mut Out, ask: Ask) {
        self.begin(out, ask, false);
    }

    /// Takes a mapping back, or the question for it.
    pub(super) fn remove(&mut self, out: &mut Out, ask: Ask) {
        self.begin(out, ask, true);
    }

    fn begin(&mut self, out: &mut Out, ask: Ask, removing: bool) {
        // PCP goes out before the question that tells of NAT-PMP.
        let sends = Sends::new(out.now, if removing { REMOVALS } else { QUESTIONS });
        self.exchanges.insert(ask.id, Exchange { ask, removing, sends });
        let again = match self.external {
            External::Unknown | External::Not(_) => true,
            // It may have changed since, and no mapping says it.
            External::Is(_) => self.speaks == Speaks::Pmp && !removing,
            External::Asking(_) => false,
        };
        if self.speaks != Speaks::Pcp && again {
            self.external = External::Asking(Sends::new(out.now, QUESTIONS));
        }
        self.drive(out);
    }

    /// Returns true if the server is asked by PCP only.
    pub(super) fn is_pcp(&self) -> bool {
        self.only == Some(Speaks::Pcp)
    }

    /// Returns true if a datagram from `from` is this server's.
    pub(super) fn is_from(&self, from: SocketAddr) -> bool {
        (from.ip(), from.port()) == (self.server.ip(), self.server.port())
    }

    pub(super) fn datagram(&mut self, out: &mut Out, data: &[u8]) {
        let heard = match pcp::parse(data) {
            Some(answer) => self.pcp(out, answer),
            None => pmp::parse(data).is_some_and(|answer| self.pmp(out, answer)),
        };
        if !heard {
            out.stats.malformed += 1;
        }
        self.drive(out);
    }

    pub(super) fn timeout(&mut self, out: &mut Out) {
        self.drive(out);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let probe = match &self.external {
            External::Asking(sends) => Some(sends.due),
            _ => None,
        };
        let waits = self.waits();
        let exchanges = self.exchanges.values().filter(|e| e.removing || !waits).map(|e| e.sends.due);
        exchanges.chain(probe).min()
    }

    /// NAT-PMP mappings wait until the external address is known: without it they are worth nothing.
    fn waits(&self) -> bool {
        self.speaks == Speaks::Pmp && matches!(self.external, External::Asking(_))
    }

    /// Takes in a PCP answer. Returns true if it answers a question of ours.
    fn pcp(&mut self, out: &mut Out, answer: pcp::Answer) -> bool {
        // What granted a mapping late does not say that it is gone.
        let fits = |e: &&Exchange| answer.fits(&e.ask) && !(e.removing && answer.grants());
        let asked = self.exchanges.values().find(fits);
        let Some((id, removing)) = asked.map(|e| (e.ask.id, e.removing)) else { return false };
        let (result, lifetime, epoch, external) = match answer {
            pcp::Answer::Version(_) if self.speaks == Speaks::Pcp && self.only.is_none() => return false,
            _ if self.only == Some(Speaks::Pmp) => return false,
            pcp::Answer::Version(0) if self.only.is_none() => {
                self.switch_to_pmp(out.now);
                return true;
            }
            pcp::Answer::Version(_) => {
                self.refuse_all(out, MapError::Version);
                return true;
            }
            pcp::Answer::Map { result, lifetime, epoch, external, .. } => (result, lifetime, epoch, external),
        };
        if self.speaks != Speaks::Pcp {
            (self.speaks, self.external, self.epoch) = (Speaks::Pcp, External::Unknown, None);
        }
        self.hear(out, Rule::Pcp, epoch, Some(id));
        self.exchanges.remove(&id);
        let way = Way::Pcp;
        out.reply(match result {
            result if removing => Reply::Removed { id, way, confirmed: result.is_ok() },
            Ok(()) if lifetime > 0 && external.port() > 0 => {
                Reply::Granted { id, way, external, lifetime: Some(lifetime) }
            }
            Ok(()) => Reply::Refused { id, way, why: MapError::BadAnswer },
            Err(why) => Reply::Refused { id, way, why },
        });
        true
    }

    /// Takes in a NAT-PMP answer. Returns true if it answers a question of ours.
    fn pmp(&mut self, out: &mut Out, answer: pmp::Answer) -> bool {
        let way = Way::NatPmp;
        match answer {
            pmp::Answer::External { epoch, result } => {
                if !matches!(self.external, External::Asking(_)) {
                    return false;
                }
                self.hear(out, Rule::Pmp, epoch, None);
                match result {
                    Ok(ip) => self.external = External::Is(ip),
                    Err(why) => {
                        self.external = External::Not(why);
                        if self.speaks == Speaks::Pmp {
                            self.refuse_all(out, why);
                        }
                    }
                }
            }
            pmp::Answer::Map { epoch, protocol, internal, external, lifetime } => {
                let fits = |e: &Exchange| e.removing == (lifetime == 0) && e.is_of(protocol, Some(internal));
                let Some(id) = self.pmp_exchange(fits) else { return false };
                let before = self.external;
                self.hear(out, Rule::Pmp, epoch, Some(id));
                out.reply(match before {
                    _ if lifetime == 0 => Reply::Removed { id, way, confirmed: true },
                    _ if external == 0 => Reply::Refused { id, way, why: MapError::BadAnswer },
                    External::Is(ip) => {
                        Reply::Granted { id, way, external: (ip, external).into(), lifetime: Some(lifetime) }
                    }
                    // The address is asked for again, and then the mapping.
                    _ => return true,
                });
                self.exchanges.remove(&id);
            }
            pmp::Answer::Refused { epoch, protocol, internal, why } => {
                let Some(id) = self.pmp_exchange(|e| e.is_of(protocol, internal)) else { return false };
                self.hear(out, Rule::Pmp, epoch, Some(id));
                if let Some(exchange) = self.exchanges.remove(&id) {
                    out.reply(exchange.refused(way, why));
                }
            }
        }
        true
    }

    fn pmp_exchange(&self, fits: impl Fn(&Exchange) -> bool) -> Option<MapId> {
        let mut all = self.exchanges.values().filter(|_| self.speaks == Speaks::Pmp);
        all.find(|e| e.sends.sent > 0 && fits(e)).map(|e| e.ask.id)
    }

    fn hear(&mut self, out: &mut Out, rule: Rule, said: u32, except: Option<MapId>) {
        if Epoch::hear(&mut self.epoch, rule, said, out.now) {
            out.stats.restarts += 1;
            if self.restarted.is_some_and(|at| out.now < at + RESTARTS_EVERY) {
                return;
            }
            self.restarted = Some(out.now);
            // With NAT-PMP the address may be another one too, and no mapping says it.
            let asks_again = rule == Rule::Pmp && except.is_some();
            out.reply(Reply::Restarted { except: except.filter(|_| !asks_again) });
            if asks_again {
                self.external = External::Asking(Sends::new(out.now, QUESTIONS));
            }
        }
    }

    fn switch_to_pmp(&mut self, now: Instant) {
        (self.speaks, self.epoch) = (Speaks::Pmp, None);
        for exchange in self.exchanges.values_mut() {
            exchange.sends = Sends::new(now, exchange.sends.most);
        }
    }

    fn way(&self) -> Way {
        if self.speaks == Speaks::Pmp { Way::NatPmp } else { Way::Pcp }
    }

    fn refuse_all(&mut self, out: &mut Out, why: MapError) {
        let way = self.way();
        for exchange in core::mem::take(&mut self.exchanges).into_values() {
            out.reply(exchange.refused(way, why));
        }
    }

    /// Sends all that is due and gives up all that is over.
    fn drive(&mut self, out: &mut Out) {
        let ids: Vec<MapId> = self.exchanges.keys().copied().collect();
        for id in ids {
            if self.waits() && !self.exchanges[&id].removing {
                continue;
            }
            let exchange = &self.exchanges[&id];
            if exchange.sends.due > out.now {
                continue;
            }
            if self.speaks == Speaks::Unknown && exchange.sends.sent >= PCP_FIRST {
                match self.external {
                    External::Is(_) => return self.take_over(out),
                    External::Not(why) => return self.refuse_all(out, why),
                    External::Unknown | External::Asking(_) => {}
                }
            }
            self.send_or_give_up(out, id);
        }
        if let External::Asking(mut sends) = self.external
            && sends.due <= out.now
        {
            if sends.is_over() {
                self.external = External::Not(MapError::NoAnswer);
                if self.speaks == Speaks::Pmp {
                    self.refuse_all(out, MapError::NoAnswer);
                    self.speaks = self.only.unwrap_or(Speaks::Unknown);
                }
                return;
            }
            sends.count(out.now);
            self.external = External::Asking(sends);
            out.datagram(self.server, Bytes::from_static(&pmp::EXTERNAL));
        }
    }

    fn take_over(&mut self, out: &mut Out) {
        self.switch_to_pmp(out.now);
        self.drive(out);
    }

    fn send_or_give_up(&mut self, out: &mut Out, id: MapId) {
        let way = self.way();
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        if exchange.sends.is_over() {
            out.reply(exchange.refused(way, MapError::NoAnswer));
            self.exchanges.remove(&id);
            // Perhaps it is another router by now.
            if self.exchanges.is_empty() {
                self.speaks = self.only.unwrap_or(Speaks::Unknown);
                (self.epoch, self.external) = (None, External::Unknown);
            }
            return;
        }
        exchange.sends.count(out.now);
        let lifetime = if exchange.removing { 0 } else { exchange.ask.lifetime };
        let data = match way {
            Way::NatPmp => pmp::map(&exchange.ask, lifetime),
            _ => pcp::map(&exchange.ask, self.local, lifetime),
        };
        out.datagram(self.server, data);
    }
}

impl Exchange {
    fn is_of(&self, protocol: Protocol, internal: Option<u16>) -> bool {
        self.ask.protocol == protocol && internal.is_none_or(|port| port == self.ask.internal)
    }

    fn refused(&self, way: Way, why: MapError) -> Reply {
        let id = self.ask.id;
        match self.removing {
            true => Reply::Removed { id, way, confirmed: false },
            false => Reply::Refused { id, way, why },
        }
    }
}
