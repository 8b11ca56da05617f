//! Faults of a lab, by hand and as a scene has them.

use core::time::Duration;

use super::place::Home;
use super::scene::Fault;
use super::{Lab, Peer, nanos, words};
use crate::engine::{MILLI, Nanos};
use crate::net::{Blackout, LinkSpec};

/// Time after which a host is told of its new network.
const HEARD_AFTER: Nanos = 100 * MILLI;
/// Time for which a scene's reordered packets are held back: more than the way takes.
const HELD: Duration = Duration::from_millis(50);

/// A change that is to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coming {
    /// A node's host is told of its interfaces.
    Hear(Peer),
    /// A home's link is cut for this long.
    Cut(usize, Nanos),
    /// The home's own NAT forgets everything.
    Reboot(usize),
    /// The home's first node moves to another home behind NATs of the same kind.
    Move(usize),
}

/// The link of a node's home to the internet, by [`Lab::link`]. Each call changes it at once, in both directions.
#[derive(Debug)]
pub struct Link<'a> {
    lab: &'a mut Lab,
    home: usize,
}

impl Link<'_> {
    fn change(self, change: impl FnOnce(&mut LinkSpec)) -> Self {
        let mut link = self.lab.homes[self.home].link;
        change(&mut link);
        self.lab.set_link(self.home, link);
        self
    }

    /// Replaces all of the link.
    pub fn set(self, link: LinkSpec) -> Self {
        self.change(|old| *old = link)
    }

    /// Loses so many of a hundred packets.
    pub fn loss(self, percent: f64) -> Self {
        self.change(|link| link.loss_ppm = ppm(percent))
    }

    /// Delivers so many of a hundred packets twice.
    pub fn duplicate(self, percent: f64) -> Self {
        self.change(|link| link.duplicate_ppm = ppm(percent))
    }

    /// Holds so many of a hundred packets back for this long, so that later ones overtake them.
    pub fn reorder(self, percent: f64, hold: Duration) -> Self {
        self.change(|link| (link.reorder_ppm, link.hold) = (ppm(percent), nanos(hold)))
    }

    /// Delays each packet by up to this much more.
    pub fn jitter(self, most: Duration) -> Self {
        self.change(|link| link.jitter = nanos(most))
    }

    /// Takes this long for each packet.
    pub fn delay(self, delay: Duration) -> Self {
        self.change(|link| link.delay = nanos(delay))
    }
}

fn ppm(percent: f64) -> u32 {
    (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32
}

impl Lab {
    /// The link of a node's home to the internet, to be changed.
    pub fn link(&mut self, peer: Peer) -> Link<'_> {
        let home = self.peers[peer.0].home;
        Link { lab: self, home }
    }

    /// Lets nothing through between a node's home and the internet for this long.
    pub fn drop_path(&mut self, peer: Peer, time: Duration) {
        self.cut(self.peers[peer.0].home, nanos(time));
    }

    /// Makes the NAT that a node stands behind forget everything, as a power cut does. Where there is none, nothing happens.
    pub fn reboot_nat(&mut self, peer: Peer) {
        self.reboot(self.peers[peer.0].home);
    }

    /// Moves a node's host to another home, which is built behind these NATs. Its old address is gone at once, and the node
    /// is told after 100 ms.
    ///
    /// # Panics
    /// As [`behind`](Self::behind).
    #[track_caller]
    pub fn move_to(&mut self, peer: Peer, nats: &str) {
        if let Err(why) = self.move_behind(peer, nats) {
            panic!("{why}");
        }
    }

    /// Ends the faults of every link. Each keeps its delay.
    pub fn heal(&mut self) {
        for home in 0..self.homes.len() {
            self.set_link(home, LinkSpec::with_delay(self.homes[home].link.delay));
        }
    }

    fn move_behind(&mut self, peer: Peer, nats: &str) -> Result<(), String> {
        let home = self.build(nats)?;
        self.note(peer, &format!("moves: {}", self.homes[home].described()));
        let host = self.peers[peer.0].host;
        for old in self.world.host(host).addresses().to_vec() {
            self.world.part(host, old);
        }
        self.world.join(host, &mut self.homes[home].site);
        self.peers[peer.0].home = home;
        self.plan(HEARD_AFTER, Coming::Hear(peer));
        Ok(())
    }

    pub(super) fn set_link(&mut self, home: usize, link: LinkSpec) {
        let Home { site, link: own, .. } = &mut self.homes[home];
        *own = link;
        site.link = link;
        for standing in self.peers.iter().filter(|standing| standing.home == home) {
            let ip = self.world.host(standing.host).addresses()[0];
            self.world.set_uplink(&self.homes[home].site, standing.host, ip, link);
        }
    }

    fn cut(&mut self, home: usize, time: Nanos) {
        let now = self.world.now();
        self.note_home(home, &format!("cut off for {}", words(Duration::from_nanos(time))));
        let blackout = Blackout { from: now, until: now.saturating_add(time) };
        self.set_link(home, LinkSpec { blackout, ..self.homes[home].link });
    }

    fn reboot(&mut self, home: usize) {
        if let Some(nat) = self.homes[home].site.nats.first().copied() {
            self.note_home(home, "its NAT forgets everything");
            self.world.reboot_nat(nat);
        }
    }

    fn note_home(&mut self, home: usize, what: &str) {
        if let Some(first) = self.first_of(home) {
            self.note(first, what);
        }
    }

    fn first_of(&self, home: usize) -> Option<Peer> {
        self.peers.iter().position(|standing| standing.home == home).map(Peer)
    }

    fn plan(&mut self, after: Nanos, change: Coming) {
        let at = self.world.now().saturating_add(after);
        let place = self.coming.partition_point(|(other, _)| *other <= at);
        self.coming.insert(place, (at, change));
    }

    pub(super) fn change(&mut self, change: Coming) {
        match change {
            Coming::Hear(peer) => {
                let host = self.peers[peer.0].host;
                self.world.with(host, |program, cx| program.node_mut().network_changed(cx));
            }
            Coming::Cut(home, time) => self.cut(home, time),
            Coming::Reboot(home) => self.reboot(home),
            Coming::Move(home) => {
                let text = self.homes[home].text.clone();
                if let Some(peer) = self.first_of(home) {
                    // Where there is no address left for one more home, the node stays.
                    let _ = self.move_behind(peer, &text);
                }
            }
        }
    }

    /// Begins the scene's faults, which wait for the first pipe: what fails then is not the way to it.
    pub(super) fn begin_faults(&mut self) {
        if self.opened.is_some() {
            return;
        }
        self.opened = Some(self.world.now());
        for (side, fault) in self.scene.faults.clone() {
            let Some(home) = self.sides[side] else { continue };
            let link = Link { lab: self, home };
            match fault {
                Fault::Loss(percent) => drop(link.loss(percent as f64)),
                Fault::Duplicate(percent) => drop(link.duplicate(percent as f64)),
                Fault::Reorder(percent) => drop(link.reorder(percent as f64, HELD)),
                Fault::Jitter(ms) => drop(link.jitter(Duration::from_millis(ms))),
                Fault::Cut(after, time) => self.plan(after * MILLI, Coming::Cut(home, time * MILLI)),
                Fault::Reboot(after) => self.plan(after * MILLI, Coming::Reboot(home)),
                Fault::Move(after) => self.plan(after * MILLI, Coming::Move(home)),
            }
        }
    }
}
