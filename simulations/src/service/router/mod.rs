//! A home router's server for port mappings: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD over one table, with the
//! errors of such servers. It stands on its NAT's inside address and has the NAT carry out its grants. Written from the
//! documents' layouts and not with the core's codecs.

mod datagram;
mod upnp;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{ConnId, Input, Output, Service, ServiceCx};
use crate::domain;
use crate::engine::{Nanos, SECOND};
use crate::nat::Order;
use crate::net::Proto;
use upnp::Requests;

/// Protocols and faults of a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouterSpec {
    /// PCP.
    pub pcp: bool,
    /// NAT-PMP.
    pub nat_pmp: bool,
    /// UPnP: WANIPConnection of this version, 1 or 2.
    pub upnp: Option<u8>,
    /// The longest lease that it grants, in seconds.
    pub lease: u32,
    /// Faults of the router.
    pub faults: RouterFaults,
}

/// Faults of a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouterFaults {
    /// Address outside that the router reports in place of the true one.
    pub says: Option<IpAddr>,
    /// Ports that are somebody else's.
    pub taken: Taken,
    /// The router grants ports and opens none.
    pub idle: bool,
    /// The router closes ports after a quarter of the lease that it granted.
    pub early: bool,
    /// Time of a restart. NAT and table are empty after it, and the epoch begins anew.
    pub crash: Option<Nanos>,
    /// Time of silence after the restart.
    pub down: Nanos,
    /// Each answer is later by up to this.
    pub slow: Nanos,
}

/// Ports that belong to somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Taken {
    /// None.
    #[default]
    None,
    /// All below 49,152: another port can be had.
    Low,
    /// Every one.
    All,
}

impl RouterSpec {
    /// A router that speaks all three protocols and keeps its word, for leases of two hours.
    pub const HONEST: RouterSpec = RouterSpec {
        pcp: true,
        nat_pmp: true,
        upnp: Some(2),
        lease: 7_200,
        faults: RouterFaults {
            says: None,
            taken: Taken::None,
            idle: false,
            early: false,
            crash: None,
            down: 0,
            slow: 0,
        },
    };

    /// Returns true if granted ports are open, at the reported address and for the whole lease.
    pub fn is_honest(&self) -> bool {
        let faults = RouterFaults { slow: 0, taken: Taken::None, ..self.faults };
        faults == RouterFaults::default() && self.faults.taken != Taken::All
    }
}

/// A port in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    inside: SocketAddr,
    /// PCP's proof of who made it.
    nonce: Option<[u8; 12]>,
    until: Nanos,
}

/// Reason why a port is not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum No {
    /// The port is somebody else's.
    Taken,
    /// The port is another's, who can prove it.
    NotYours,
}

/// The server.
#[derive(Debug)]
pub struct PortControl {
    spec: RouterSpec,
    external: IpAddr,
    table: BTreeMap<(Proto, u16), Entry>,
    /// Time at which its state began.
    since: Nanos,
    silent_until: Nanos,
    answers: u64,
    requests: Requests,
}

const MAPPING_PORT: u16 = 5351;
const SSDP_PORT: u16 = 1900;
const HTTP_PORT: u16 = 5000;
/// Lowest port that is free where `Taken::Low` are taken.
const HIGH: u16 = 49_152;

impl PortControl {
    /// The server of a NAT with this address outside.
    pub fn new(spec: RouterSpec, external: IpAddr) -> PortControl {
        PortControl {
            spec,
            external,
            table: BTreeMap::new(),
            since: 0,
            silent_until: 0,
            answers: 0,
            requests: Requests::default(),
        }
    }

    fn says(&self) -> IpAddr {
        self.spec.faults.says.unwrap_or(self.external)
    }

    fn delay(&mut self, cx: &ServiceCx) -> Nanos {
        self.answers += 1;
        match self.spec.faults.slow {
            0 => 0,
            most => cx.rng.below(domain::SERVICE, 7_000, self.answers, most + 1),
        }
    }

    fn epoch(&self, now: Nanos) -> u32 {
        ((now - self.since) / SECOND) as u32
    }

    /// Returns the entry of a port's present owner.
    fn holder(&self, now: Nanos, proto: Proto, external: u16) -> Option<Entry> {
        let others: SocketAddr = ([192, 168, 255, 254], 80).into();
        let is_taken = match self.spec.faults.taken {
            Taken::None => false,
            Taken::Low => external < HIGH,
            Taken::All => true,
        };
        let stranger = Entry { inside: others, nonce: None, until: Nanos::MAX };
        let own = self.table.get(&(proto, external)).copied().filter(|e| e.until > now);
        own.or(is_taken.then_some(stranger))
    }

    /// Opens this port, or where `any` another if it cannot be had; its number and for how many seconds.
    fn open(
        &mut self,
        cx: &mut ServiceCx,
        (proto, wanted): (Proto, u16),
        inside: SocketAddr,
        nonce: Option<[u8; 12]>,
        (lease, any): (u32, bool),
    ) -> Result<(u16, u32), No> {
        let now = cx.now;
        let ours = |e: &Entry| e.inside == inside && e.until > now;
        // PCP and NAT-PMP keep one mapping for each inside end, whatever port is suggested.
        let kept = self.table.iter().find(|((p, _), e)| any && *p == proto && ours(e));
        if kept.is_some_and(|(_, e)| e.nonce.is_some() && nonce.is_some() && e.nonce != nonce) {
            return Err(No::NotYours);
        }
        let wanted = kept.map_or(wanted, |((_, port), _)| *port);
        let free = |port: &u16| self.holder(now, proto, *port).is_none_or(|e| e.inside == inside);
        let others = (0..if any { 64 } else { 0 }).map(|n| HIGH + (wanted % 1_000) + n);
        let Some(external) = core::iter::once(wanted).chain(others).find(free) else { return Err(No::Taken) };
        let granted = lease.clamp(1, self.spec.lease);
        let until = now + u64::from(granted) * SECOND;
        self.table.insert((proto, external), Entry { inside, nonce, until });
        let until = if self.spec.faults.early { now + u64::from(granted) * SECOND / 4 } else { until };
        if !self.spec.faults.idle {
            cx.put(0, Output::Nat(Order::Open { proto, external, inside, until }));
        }
        Ok((external, granted))
    }

    fn close(&mut self, cx: &mut ServiceCx, proto: Proto, external: u16) {
        self.table.remove(&(proto, external));
        cx.put(0, Output::Nat(Order::Close { proto, external }));
    }

    /// The ports open for an inside end at the time of the last event.
    fn of_inside(&self, proto: Proto, inside: SocketAddr) -> Vec<u16> {
        self.table
            .iter()
            .filter(|((p, _), e)| *p == proto && e.inside == inside)
            .map(|((_, x), _)| *x)
            .collect()
    }
}

impl Service for PortControl {
    fn udp_ports(&self) -> &[u16] {
        match (self.spec.pcp || self.spec.nat_pmp, self.spec.upnp.is_some()) {
            (true, true) => &[MAPPING_PORT, SSDP_PORT],
            (true, false) => &[MAPPING_PORT],
            (false, true) => &[SSDP_PORT],
            (false, false) => &[],
        }
    }

    fn tcp_ports(&self) -> &[u16] {
        if self.spec.upnp.is_some() { &[HTTP_PORT] } else { &[] }
    }

    fn handle(&mut self, cx: &mut ServiceCx, input: Input<'_>) {
        let now = cx.now;
        self.table.retain(|_, e| e.until > now);
        if let Input::Timeout = input {
            if self.timeout().is_some_and(|at| at <= now) {
                let down = self.spec.faults.down;
                self.spec.faults.crash = None;
                self.table.clear();
                (self.since, self.silent_until) = (now, now + down);
                cx.put(0, Output::Nat(Order::Reboot));
            }
            return;
        }
        if now < self.silent_until {
            return;
        }
        match input {
            Input::Datagram { local, from, data } if local.port() == MAPPING_PORT => {
                if let Some(answer) = self.datagram(cx, from, data) {
                    let delay = self.delay(cx);
                    cx.put(delay, Output::Datagram { local, to: from, data: answer.into() });
                }
            }
            Input::Datagram { local, from, data } => self.search(cx, local, from, data),
            Input::Opened { conn, remote, .. } => self.opened(conn, remote),
            Input::Stream { conn, data } => self.stream(cx, conn, data),
            Input::Closed { conn } => self.requests.forget(conn),
            Input::Timeout => {}
        }
    }

    fn heal(&mut self) {
        self.spec.faults = RouterFaults::default();
    }

    fn held(&self) -> usize {
        self.table.len()
    }

    fn timeout(&self) -> Option<Nanos> {
        self.spec.faults.crash
    }
}
