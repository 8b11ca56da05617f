//! Homes of a pair: routers that open ports, a second home, and its changes.

use std::net::IpAddr;

use p2pd_core::{Event, PortState};

use super::{Pair, Place, Program, Run, flooded};
use crate::engine::{MILLI, Nanos, SECOND};
use crate::nat::Chain;
use crate::net::{Blackout, LinkSpec};
use crate::service::ServerProgram;
use crate::service::router::{PortControl, RouterSpec};
use crate::world::{HostId, Site, SiteSpec, World};

/// Time in which ports must be opened: silent ways, and a UPnP device whose every answer takes three seconds.
const MAPPED_WITHIN: Nanos = 30 * SECOND;
/// Time from a change of interfaces to the node's notice of it, as drivers wait for it to settle.
const HEARD_AFTER: Nanos = 250 * MILLI;
/// Time of a node to find its way in another home, before it is called.
const FOUND_WITHIN: Nanos = 30 * SECOND;
/// A router that answers at once has closed a port so long after the end of its node.
const CLOSED_WITHIN: Nanos = 5 * SECOND;
/// Second homes have numbers above those of first ones.
const NUMBER: u8 = 10;

/// A second home of one of the two, who has to stand apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Second {
    /// Owner of the home: 0 for the listener, 1 for the caller.
    pub of: usize,
    /// NATs of the home.
    pub chain: Chain,
    /// Link of the home.
    pub link: LinkSpec,
    /// Protocols and faults of the home's router.
    pub router: Option<RouterSpec>,
    /// Course of the two homes.
    pub life: Life,
}

/// Course of two homes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// The host is in both.
    Beside,
    /// The host is in both until it loses the first: its interface goes.
    Loses(When),
    /// The host is in both until nothing gets through the first any more. Its interface stays, and the system reports
    /// nothing.
    Dead(When),
    /// The host is in the first, and then in the second.
    Moves(When),
}

/// Time of a change of homes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// A change before the call, while nothing else happens.
    Idle,
    /// A change so long after the first call began.
    Into(Nanos),
}

impl Second {
    /// Returns true if the host is elsewhere at the end of its call than at the beginning.
    pub fn changes_mid_call(&self) -> bool {
        matches!(self.life, Life::Loses(When::Into(_)) | Life::Moves(When::Into(_)))
    }
}

impl Life {
    fn when(self) -> Option<When> {
        match self {
            Life::Beside => None,
            Life::Loses(when) | Life::Dead(when) | Life::Moves(when) => Some(when),
        }
    }
}

impl Pair {
    /// Returns true if a node asks its router for a port.
    pub(super) fn asks_router(&self, n: usize) -> bool {
        let site = if self.place == Place::SameSite { 0 } else { n };
        let second = self.second.as_ref().filter(|s| s.of == n);
        self.routers[site].is_some() || second.is_some_and(|s| s.router.is_some())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Change,
    Hear,
}

/// The homes of a run.
#[derive(Debug, Default)]
pub(super) struct Homes {
    /// The first home of each, by number of the home.
    first: Vec<(usize, Site)>,
    second: Option<Site>,
    /// Owner of the second home, and the course of its homes.
    life: Option<(usize, Life)>,
    /// Routers: whose home, whether the second one, and which host is the server.
    routers: Vec<(usize, bool, HostId)>,
    /// Steps still to come, the next first.
    planned: Vec<(Nanos, Step)>,
    /// Time at which the planned change began.
    changed: Option<Nanos>,
    /// Times at which homes were left, or routers restarted.
    shaken: Vec<Nanos>,
}

fn server(spec: RouterSpec, site: &Site) -> Option<Program> {
    let external = *site.external.first()?;
    let service = Box::new(PortControl::new(spec, external));
    Some(Program::Server(ServerProgram::new(service)))
}

impl Homes {
    /// Puts a router on a first home, if it is to have one, and remembers the home.
    pub(super) fn add_router(&mut self, world: &mut World<Program>, pair: &Pair, site: &mut Site, n: usize) {
        self.put(world, pair.routers[n], site, (n, false));
        self.first.push((n, site.clone()));
    }

    fn put(
        &mut self,
        world: &mut World<Program>,
        spec: Option<RouterSpec>,
        site: &mut Site,
        (n, second): (usize, bool),
    ) {
        let Some(spec) = spec else { return };
        let Some(host) = server(spec, site).and_then(|program| world.add_router(site, program)) else {
            return;
        };
        self.routers.push((n, second, host));
        self.shaken.extend(spec.faults.crash);
    }

    /// Builds the second home, and puts its host there if it is in both.
    pub(super) fn add_second(&mut self, world: &mut World<Program>, pair: &Pair, hosts: [HostId; 2]) {
        let Some(second) = &pair.second else { return };
        let spec =
            SiteSpec { number: NUMBER + second.of as u8, chain: second.chain.clone(), link: second.link };
        let mut site = world.add_site(&spec);
        self.put(world, second.router, &mut site, (second.of, true));
        if !matches!(second.life, Life::Moves(_)) {
            world.join(hosts[second.of], &mut site);
        }
        (self.second, self.life) = (Some(site), Some((second.of, second.life)));
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = HostId> {
        self.routers.iter().map(|(_, _, host)| *host)
    }

    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.first.iter().map(|(_, site)| site).chain(&self.second).filter_map(|site| site.gateway)
    }

    /// Returns true if a home was left or a router restarted in this time.
    pub(super) fn shaken_since(&self, from: Nanos, until: Nanos) -> bool {
        self.shaken.iter().any(|at| (from..=until).contains(at))
    }

    /// Returns the time from the change to the first address that has the second home's address outside.
    pub(super) fn announced_after(&self, world: &World<Program>, hosts: [HostId; 2]) -> Option<Nanos> {
        let (of, _) = self.life?;
        let (changed, second) = (self.changed?, self.second.as_ref()?);
        let mut ready = world.app(hosts[of]).node().events.iter().filter_map(|(at, n)| match n {
            Event::Ready { address } if *at >= changed => Some((*at, address)),
            _ => None,
        });
        let has =
            |ip: IpAddr| second.external.contains(&ip) || world.host(hosts[of]).addresses().contains(&ip);
        ready.find(|(_, a)| a.interfaces().any(|i| has(i.external))).map(|(at, _)| at - changed)
    }

    fn plan(&mut self, at: Nanos, life: Life) {
        self.changed = Some(at);
        self.shaken.push(at);
        self.planned.push((at, Step::Change));
        if !matches!(life, Life::Dead(_)) {
            self.planned.push((at + HEARD_AFTER, Step::Hear));
        }
    }
}

impl Run {
    /// Runs as [`World::run_while`], with the planned changes of the homes, and with the looks of strangers.
    pub(super) fn run_while(&mut self, until: Nanos, mut done: impl FnMut(&World<Program>) -> bool) -> bool {
        loop {
            let planned = self.homes.planned.first().copied();
            let at = planned.map(|(at, _)| at).into_iter().chain(self.strangers.next()).min();
            let Some(at) = at.filter(|at| *at <= until) else { return self.world.run_while(until, done) };
            if self.world.run_while(at, &mut done) {
                return true;
            }
            match planned {
                Some((due, step)) if due == at => {
                    self.homes.planned.remove(0);
                    self.change(step);
                }
                _ => flooded::look(self),
            }
        }
    }

    fn change(&mut self, step: Step) {
        let Some((of, life)) = self.homes.life else { return };
        let host = self.hosts[of];
        if step == Step::Hear {
            return self.world.with(host, |p, cx| p.node_mut().network_changed(cx));
        }
        let Some((_, first)) = self.homes.first.iter().find(|(n, _)| *n == of) else { return };
        let old = self.world.host(host).addresses()[0];
        match life {
            Life::Beside => {}
            Life::Dead(_) => {
                let blackout = Blackout { from: 0, until: Nanos::MAX };
                let dead = LinkSpec { blackout, ..first.link };
                self.world.set_uplink(first, host, old, dead);
            }
            Life::Loses(_) => self.world.part(host, old),
            Life::Moves(_) => {
                self.world.part(host, old);
                if let Some(second) = &mut self.homes.second {
                    self.world.join(host, second);
                }
            }
        }
    }
}

/// Returns the states of ports that a host's node reported, in order.
pub(super) fn ports(world: &World<Program>, host: HostId) -> Vec<PortState> {
    let state = |(_, event): &(Nanos, Event)| match event {
        Event::Port { state, .. } => Some(*state),
        _ => None,
    };
    world.app(host).node().events.iter().filter_map(state).collect()
}

/// Waits until ports are open or were refused, and then for the changes of homes before the call.
pub(super) fn settle(run: &mut Run, pair: &Pair) {
    let asking: Vec<HostId> =
        (0..2).filter(|n| run.homes.routers.iter().any(|(of, _, _)| of == n)).map(|n| run.hosts[n]).collect();
    let said = |w: &World<Program>, host: &HostId| {
        w.app(*host).node().events.iter().any(|(_, n)| matches!(n, Event::Port { .. }))
    };
    let until = run.world.now() + MAPPED_WITHIN;
    run.run_while(until, |w| asking.iter().all(|host| said(w, host)));
    if !asking.is_empty() {
        // What it was told goes into the address.
        run.run_while(run.world.now() + SECOND, |_| false);
    }
    if let Some(Second { life, .. }) = &pair.second
        && life.when() == Some(When::Idle)
    {
        let now = run.world.now();
        run.homes.plan(now, *life);
        run.run_while(now + FOUND_WITHIN, |_| false);
    }
}

/// Carries out the rest of the plan, where the call was over before it.
pub(super) fn finish(run: &mut Run) {
    if let Some(&(last, _)) = run.homes.planned.last() {
        run.run_while(last + FOUND_WITHIN, |_| false);
    }
}

/// Plans the changes during the first call, which begins now.
pub(super) fn called(run: &mut Run, pair: &Pair) {
    if let Some(Second { life, .. }) = &pair.second
        && let Some(When::Into(after)) = life.when()
        && run.homes.changed.is_none()
    {
        run.homes.plan(run.world.now() + after, *life);
    }
}

/// Checks the homes after the nodes have ended. No port of theirs may be open at their present routers. At no time may
/// a node have announced an address that only a router reported.
pub(super) fn left_behind(run: &mut Run, pair: &Pair) -> Vec<String> {
    let mut wrong = Vec::new();
    let until = run.world.now() + CLOSED_WITHIN;
    run.world.run_until(until);
    for &(of, second, router) in &run.homes.routers {
        let spec = if second { pair.second.as_ref().and_then(|s| s.router) } else { pair.routers[of] };
        let Some(spec) = spec else { continue };
        let here = match pair.second.as_ref().filter(|s| s.of == of).map(|s| s.life) {
            Some(Life::Moves(_) | Life::Loses(_)) => second == run.homes.changed.is_some(),
            Some(Life::Beside | Life::Dead(_)) | None => true,
        };
        let tenants: &[HostId] = match pair.place {
            Place::SameSite => &run.hosts,
            Place::Apart | Place::Oneself => &run.hosts[of..=of],
        };
        let held = match run.world.app(router) {
            Program::Server(server) => server.held(),
            Program::Node(_) | Program::Stranger(_) => 0,
        };
        if here && held > 0 {
            wrong.push(format!(
                "{held} ports are left open at the router of host{}",
                run.world.host(run.hosts[of]).id()
            ));
        }
        let Some(lie) = spec.faults.says else { continue };
        for host in tenants {
            let announced = run.world.app(*host).node().addresses();
            if announced.flat_map(|a| a.interfaces()).any(|i| i.external == lie) {
                wrong.push(format!("a router's lie was announced: {lie}"));
            }
        }
    }
    wrong
}
