//! Mappings of the listener's port on the routers in front of us, where the configuration asks for them. There is one
//! mapper for each interface that has a gateway and is behind a NAT, or for IPv6 behind a firewall. A granted mapping
//! goes into our address once STUN agrees with it.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::cx::{Cx, Owner, Timer};
use crate::event::{Event, PortState};
use crate::io::{CloseHow, Interface, SockId};
use crate::portmap::{self, Mapper, Protocol, Request, StreamId, Truth};
use crate::random::Domain;
use crate::time::Instant;

/// A stream to a UPnP device may take this long to open.
const DIAL_WITHIN: Duration = Duration::from_secs(3);
/// The end of a node waits for its mappings to be taken back, so long at most: routers answer in milliseconds.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Delay before another attempt where no socket could be had.
const SOCKET_AGAIN: Duration = Duration::from_secs(60);

/// The mappers of a node, each by a number that is not used again.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    all: BTreeMap<u32, Mapping>,
    next: u32,
    /// Time until which the end of the mappings is waited for.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Mapping {
    /// The interface whose port is mapped.
    interface: Interface,
    mapper: Mapper,
    udp: SockId,
    bound: bool,
    /// The UDP socket could not be had, or broke: nothing is done until the timer ends it for a new one.
    failed: bool,
    streams: BTreeMap<StreamId, SockId>,
    /// Address of the interface as STUN saw it, and as the mapper was told.
    seen: Option<IpAddr>,
    /// External address of the open port, and STUN's agreement with it.
    held: Option<(SocketAddr, Truth)>,
}

impl Mappings {
    /// Returns the address at which the router leads to the listener at this address of ours, if STUN agrees.
    pub(super) fn of(&self, local: IpAddr) -> Option<SocketAddr> {
        let held = self.all.values().find(|m| m.interface.ip == local)?.held;
        held.filter(|(_, truth)| *truth == Truth::Agrees).map(|(external, _)| external)
    }

    /// Returns true if a socket is a mapping's, which outlives the node by a moment.
    pub(super) fn owns(&self, owner: Option<Owner>) -> bool {
        matches!(owner, Some(Owner::Mapping(n)) if self.all.contains_key(&n))
    }

    /// Sees to an interface: tells the mapper what STUN sees, or asks for a mapping of the listener's port, where there
    /// is one that has to be opened. The ports are the listener's and the external one to ask for.
    pub(super) fn cover(
        &mut self,
        cx: &mut Cx,
        interface: Interface,
        seen: Option<IpAddr>,
        ports: Option<[u16; 2]>,
    ) {
        let known = self.all.iter().find(|(_, m)| m.interface.ip == interface.ip);
        match (known.map(|(n, m)| (*n, m.seen)), seen) {
            (Some((n, told)), Some(_)) if told != seen => {
                let now = cx.now;
                self.with(cx, n, |m| {
                    m.seen = seen;
                    m.mapper.seen(now, seen);
                });
            }
            (None, Some(seen)) if interface.gateway.is_some() => {
                if let Some(ports) = ports {
                    self.map_port(cx, interface, ports, seen);
                }
            }
            _ => {}
        }
    }

    fn map_port(&mut self, cx: &mut Cx, interface: Interface, [port, external]: [u16; 2], seen: IpAddr) {
        let now = cx.now;
        let mut config = portmap::Config::new(interface.ip, interface.prefix);
        (config.gateway, config.zone) = (interface.gateway, interface.index);
        let mut mapper = Mapper::new(config, cx.random.draw(Domain::PortMapping), now);
        mapper.seen(now, Some(seen));
        // A new mapper has room, and the port is a listener's.
        let _ = mapper.map(now, Protocol::Tcp, port, external);
        let n = self.next;
        self.next += 1;
        let udp = cx.bind_udp(Owner::Mapping(n), SocketAddr::new(interface.ip, 0));
        let (streams, held) = (BTreeMap::new(), None);
        let seen = Some(seen);
        let mapping = Mapping { interface, mapper, udp, bound: false, failed: false, streams, seen, held };
        self.all.insert(n, mapping);
    }

    /// Has the routers asked now whether our ports are open: what they granted may be lost.
    pub(super) fn check(&mut self, cx: &mut Cx) {
        let now = cx.now;
        let all: Vec<u32> = self.all.keys().copied().collect();
        for n in all {
            self.with(cx, n, |m| m.mapper.ask_again(now));
        }
    }

    /// Gives up the mappings of interfaces that are gone or lead to another gateway. The routers that granted them
    /// cannot be asked any more, and their leases end.
    pub(super) fn drop_gone(&mut self, cx: &mut Cx, chosen: &[Interface]) {
        let stays =
            |m: &Mapping| chosen.iter().any(|i| (i.ip, i.gateway) == (m.interface.ip, m.interface.gateway));
        let gone: Vec<u32> = self.all.iter().filter(|(_, m)| !stays(m)).map(|(n, _)| *n).collect();
        gone.into_iter().for_each(|n| self.end(cx, n));
    }

    /// Takes every mapping back. What is open is waited for.
    pub(super) fn close(&mut self, cx: &mut Cx) {
        let now = cx.now;
        self.until = Some(now + CLOSE_WITHIN);
        let all: Vec<u32> = self.all.keys().copied().collect();
        for n in all {
            let held = self.all.get(&n).is_some_and(|m| m.held.is_some());
            self.with(cx, n, |m| m.mapper.close(now));
            // One that was asked for is taken back too, for what it is worth: perhaps nobody listens there.
            if !held {
                self.end(cx, n);
            }
        }
    }

    /// Returns true if no mapping is left to wait for at the end.
    pub(super) fn are_closed(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn bound(&mut self, cx: &mut Cx, n: u32) {
        self.with(cx, n, |m| m.bound = true);
    }

    pub(super) fn datagram(&mut self, cx: &mut Cx, n: u32, from: SocketAddr, data: &[u8]) {
        let now = cx.now;
        self.with(cx, n, |m| m.mapper.datagram(now, from, data));
    }

    pub(super) fn connected(&mut self, cx: &mut Cx, n: u32, sock: SockId) {
        let now = cx.now;
        self.with(cx, n, |m| {
            if let Some(stream) = m.stream(sock) {
                m.mapper.connected(now, stream);
            }
        });
    }

    pub(super) fn received(&mut self, cx: &mut Cx, n: u32, sock: SockId, data: &[u8]) {
        let now = cx.now;
        self.with(cx, n, |m| {
            if let Some(stream) = m.stream(sock) {
                m.mapper.received(now, stream, data);
            }
        });
    }

    /// A socket failed, or its stream ended.
    pub(super) fn lost(&mut self, cx: &mut Cx, n: u32, sock: SockId) {
        let now = cx.now;
        if let Some(mapping) = self.all.get_mut(&n).filter(|m| m.udp == sock) {
            if self.until.is_some() {
                return self.end(cx, n);
            }
            mapping.failed = true;
            let streams = core::mem::take(&mut mapping.streams);
            streams.into_values().for_each(|sock| cx.close(sock, CloseHow::Drop));
            if mapping.held.take().is_some() {
                cx.notify(Event::Port { local: mapping.interface.ip, state: PortState::Lost });
            }
            return cx.timers.set(Timer::Mapping(n), Some(now + SOCKET_AGAIN));
        }
        self.with(cx, n, |m| {
            if let Some(stream) = m.stream(sock) {
                m.mapper.ended(now, stream);
            }
        });
    }

    pub(super) fn timeout(&mut self, cx: &mut Cx, n: u32) {
        let now = cx.now;
        let failed = self.all.get(&n).is_some_and(|m| m.failed);
        if failed || self.until.is_some_and(|until| until <= now) {
            // If it is of use still, a new one follows.
            return self.end(cx, n);
        }
        self.with(cx, n, |m| m.mapper.handle_timeout(now));
    }

    /// Does something with a mapping, and then what it asks for.
    fn with(&mut self, cx: &mut Cx, n: u32, act: impl FnOnce(&mut Mapping)) {
        let Some(mapping) = self.all.get_mut(&n).filter(|m| !m.failed) else { return };
        act(mapping);
        while let Some(request) = mapping.bound.then(|| mapping.mapper.poll_request()).flatten() {
            match request {
                Request::Datagram { to, data } => cx.send_datagram(mapping.udp, to, data),
                Request::Connect { stream, to } => {
                    let local = SocketAddr::new(mapping.interface.ip, 0);
                    let sock = cx.dial(Owner::Mapping(n), local, to, DIAL_WITHIN);
                    mapping.streams.insert(stream, sock);
                }
                Request::Send { stream, data } => {
                    if let Some(sock) = mapping.streams.get(&stream) {
                        cx.send(*sock, data);
                    }
                }
                Request::Read { stream, credit } => {
                    if let Some(sock) = mapping.streams.get(&stream) {
                        cx.read(*sock, credit);
                    }
                }
                Request::Close { stream } => {
                    if let Some(sock) = mapping.streams.remove(&stream) {
                        cx.close(sock, CloseHow::Drop);
                    }
                }
            }
        }
        let local = mapping.interface.ip;
        let mut over = false;
        while let Some(event) = mapping.mapper.poll_event() {
            let state = match event {
                portmap::Event::Mapped { way, external, truth, .. } => {
                    mapping.held = Some((external, truth));
                    PortState::Open { way, external, truth }
                }
                portmap::Event::Failed { gateway, upnp, .. } => PortState::Failed { gateway, upnp },
                portmap::Event::Lost { .. } => {
                    mapping.held = None;
                    PortState::Lost
                }
                // What was never open, or was lost, is not said to be closed.
                portmap::Event::Removed { .. } if mapping.held.take().is_none() => continue,
                portmap::Event::Removed { confirmed, .. } => PortState::Removed { confirmed },
                portmap::Event::Closed => {
                    over = true;
                    continue;
                }
                portmap::Event::Listed(_) | portmap::Event::ListEnd(_) => continue,
            };
            cx.notify(Event::Port { local, state });
        }
        if over {
            return self.end(cx, n);
        }
        let at = mapping.mapper.poll_timeout();
        let at = at.into_iter().chain(self.until).min();
        cx.timers.set(Timer::Mapping(n), at);
    }

    fn end(&mut self, cx: &mut Cx, n: u32) {
        let Some(mapping) = self.all.remove(&n) else { return };
        cx.timers.set(Timer::Mapping(n), None);
        for sock in mapping.streams.into_values().chain([mapping.udp]) {
            cx.close(sock, CloseHow::Drop);
        }
    }
}

impl Mapping {
    fn stream(&self, sock: SockId) -> Option<StreamId> {
        self.streams.iter().find(|(_, s)| **s == sock).map(|(stream, _)| *stream)
    }
}
