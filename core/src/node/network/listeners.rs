//! The listeners: one per address family, all on one port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::Network;
use crate::cx::{Cx, Owner};
use crate::event::Event;
use crate::failure::IoFailure;
use crate::io::{CloseHow, Reuse, SockId, SockOpts};
use crate::strategy::ours::Route;

#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    /// Every family's listener was opened, or failed, once.
    opened: bool,
}

#[derive(Debug)]
struct Listener {
    ip: IpAddr,
    /// The listener is one in addition to the family's: see [`Network::open_beside`].
    beside: bool,
    state: ListenState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ListenState {
    /// Waits for the port of the first one.
    Waiting,
    Opening(SockId),
    Open(SockId, u16),
    Failed,
}

impl Listeners {
    /// Returns true while one is being opened.
    pub(super) fn are_opening(&self) -> bool {
        self.all.iter().any(|l| matches!(l.state, ListenState::Waiting | ListenState::Opening(_)))
    }

    /// Notes that all were opened or failed. Returns true the first time.
    pub(super) fn opened(&mut self) -> bool {
        !core::mem::replace(&mut self.opened, true)
    }

    /// Returns true once it was known on which port we can be dialled.
    pub(super) fn are_open(&self) -> bool {
        self.opened
    }

    /// Returns true once it is certain that nobody can dial us.
    pub(super) fn have_failed(&self) -> bool {
        self.opened && !self.all.iter().any(|l| matches!(l.state, ListenState::Open(..)))
    }

    fn port(&self, v4: bool) -> Option<u16> {
        self.all.iter().find_map(|l| match l.state {
            ListenState::Open(_, port) if l.ip.is_ipv4() == v4 => Some(port),
            _ => None,
        })
    }
}

impl Network {
    /// Takes in that a listener was bound, or could not be.
    pub(in crate::node) fn listening(&mut self, cx: &mut Cx, n: u8, result: Result<SocketAddr, IoFailure>) {
        let Some(listener) = self.listeners.all.get_mut(usize::from(n)) else { return };
        match (result, listener.state) {
            (Ok(local), ListenState::Opening(sock)) => listener.state = ListenState::Open(sock, local.port()),
            (Ok(_), _) => return,
            // Then the family's listener has to do for its address.
            (Err(_), _) if listener.beside => listener.state = ListenState::Failed,
            (Err(cause), _) => {
                listener.state = ListenState::Failed;
                let ip = listener.ip;
                let local = self.local(ip, self.port);
                cx.notify(Event::ListenFailed { local, cause });
            }
        }
        self.open_listeners(cx);
    }

    /// Returns the port that a family's listener has.
    pub(in crate::node) fn listen_port(&self, v4: bool) -> Option<u16> {
        // What a NAT64 lets in comes to the listener for IPv6.
        let by_nat64 = || self.listeners.port(false).filter(|_| v4 && self.nat64.interface().is_some());
        self.listeners.port(v4).or_else(by_nat64)
    }

    /// Opens a listener for each address family that we have and that has none.
    pub(super) fn open_listeners(&mut self, cx: &mut Cx) {
        let mut wanted: SmallVec<[IpAddr; 2]> = SmallVec::new();
        match self.bind {
            Some(ip) => wanted.push(ip),
            None => {
                let own = |r: &Route| r.internal.is_ipv4() && !self.nat64.is_ours(r.internal);
                if self.routes.iter().any(own) {
                    wanted.push(Ipv4Addr::UNSPECIFIED.into());
                }
                if self.routes.iter().any(|r| r.internal.is_ipv6()) || !self.announced_links().is_empty() {
                    wanted.push(Ipv6Addr::UNSPECIFIED.into());
                }
            }
        }
        for ip in wanted {
            if self.listeners.all.iter().all(|l| l.ip != ip) {
                let listener = Listener { ip, beside: false, state: ListenState::Waiting };
                self.listeners.all.push(listener);
            }
        }
        self.open_beside(cx);
        // One after the other: the second takes the port that the first was given.
        if self.listeners.all.iter().any(|l| matches!(l.state, ListenState::Opening(_))) {
            return;
        }
        let open = self.listeners.all.iter().find_map(|l| match l.state {
            ListenState::Open(_, port) => Some(port),
            _ => None,
        });
        let waiting = self.listeners.all.iter().position(|l| l.state == ListenState::Waiting);
        if let Some(n) = waiting {
            let (ip, port) = (self.listeners.all[n].ip, open.unwrap_or(self.port));
            let opts = SockOpts { reuse: Reuse::AddressAndPort, nodelay: true };
            let local = self.local(ip, port);
            let sock = cx.listen(Owner::Listener(n as u8), local, opts);
            self.listeners.all[n].state = ListenState::Opening(sock);
        }
    }

    /// Opens one listener for each address of a family that has several default routes. The system sends the answers of
    /// the family's listener by the best route, even to callers that came by another, with another outside address.
    /// A listener on one address answers by the interface of that address.
    fn open_beside(&mut self, cx: &mut Cx) {
        if self.bind.is_some() {
            return;
        }
        let leads = |v4: bool| self.chosen.iter().filter(move |i| i.default_route && i.ip.is_ipv4() == v4);
        let several = [true, false].into_iter().filter(|v4| leads(*v4).count() > 1);
        let wanted: SmallVec<[IpAddr; 6]> = several.flat_map(leads).map(|i| i.ip).collect();
        for listener in self.listeners.all.iter_mut().filter(|l| l.beside) {
            match listener.state {
                ListenState::Opening(sock) | ListenState::Open(sock, _) if !wanted.contains(&listener.ip) => {
                    self.news.push_back(super::NetworkEvent::Shut(sock));
                    cx.close(sock, CloseHow::Drop);
                    listener.state = ListenState::Failed;
                }
                _ => {}
            }
        }
        let full = self.listeners.all.len() > usize::from(u8::MAX) - wanted.len();
        for ip in wanted {
            match self.listeners.all.iter_mut().find(|l| l.ip == ip) {
                Some(listener) if listener.state == ListenState::Failed => {
                    listener.state = ListenState::Waiting
                }
                Some(_) => {}
                // Their numbers are a byte, and a machine that has had so many addresses can do without.
                None if full => {}
                None => {
                    let listener = Listener { ip, beside: true, state: ListenState::Waiting };
                    self.listeners.all.push(listener);
                }
            }
        }
    }
}
