//! One attempt: the sockets of one end, what is known of both mappings, and the probes that are left to send.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use super::measuring::Measurement;
use super::probe::Probes;
use crate::call::ConnectId;
use crate::cx::Cx;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::limit::{Bucket, Buckets};
use crate::node::admission::{Kind, Place};
use crate::pipe::Terms;
use crate::relay::RelayStream;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::ours::{Route, Trust};
use crate::strategy::punch::{self, From, Ports, Side, Tactic};
use crate::time::Instant;

/// Sockets of a search from the responder: 256 of them and 1,024 probes meet among 64,512 ports with P = 98.3 %. The requester
/// has as many as the plan says, 512, since the responder may send 256 probes only: P = 86.9 %.
const SOCKETS: u16 = 256;
/// Pause between two rounds of probes: at first, and after so many of them.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(100)];
const FAST_ROUNDS: u32 = 6;
/// Pause between two rounds of a search from many sockets: what was lost is sent once more.
const SPRAY_PAUSE: Duration = Duration::from_millis(700);
/// Ports that a search tries at once, and the pause between two such bursts: 1,000 a second.
const BURST: u16 = 8;
const BURST_PAUSE: Duration = Duration::from_millis(8);
/// Most probes for a stranger to where nobody has answered. With headers these are 360 bytes, and its request had 250. As many
/// more answer what comes.
const STRANGERS_PROBES: u32 = 8;
/// Probes for peers' requests to where nobody has answered: of one peer in two minutes, and of all.
const SILENT: (u32, Duration) = (256, Duration::from_millis(469));
const SILENT_PEERS: usize = 256;
const SILENT_OF_ALL: (u32, Duration) = (2048, Duration::from_millis(2));
/// Most probes of one attempt.
const MOST_PROBES: u32 = 2048;
/// Most sockets of all attempts of peers together, beyond which a search has fewer.
pub(super) const MAX_SOCKETS: usize = 1024;

pub(super) struct Attempt {
    pub(super) key: Key,
    pub(super) peer: NodeId,
    pub(super) terms: Terms,
    pub(super) trust: Trust,
    /// The call, where it is ours.
    pub(super) connect: Option<ConnectId>,
    /// Places of the brokers that reach the peer.
    pub(super) via: SmallVec<[u8; 2]>,
    pub(super) rung: u8,
    /// Window of the stream in each direction, where the peer begins it.
    pub(super) window: u32,
    pub(super) route: Route,
    /// The requester's way to the broker.
    pub(super) delay: Duration,
    pub(super) since: Instant,
    pub(super) stage: Stage,
    /// Time at which the stage ends.
    pub(super) until: Instant,
    pub(super) secret: [u8; 16],
    /// The socket whose mapping is announced.
    pub(super) main: SockId,
    /// All sockets, with their local addresses once these are bound.
    pub(super) socks: BTreeMap<SockId, Option<SocketAddr>>,
    pub(super) measurement: Option<Measurement>,
    pub(super) ours: Option<Side>,
    pub(super) theirs: Option<Side>,
    pub(super) probes: Option<Probes>,
    pub(super) plan: Plan,
    /// Addresses that our user named the peer by, where the call is ours.
    pub(super) named: SmallVec<[IpAddr; 4]>,
    /// True if a probe of the peer has come. It may be somebody else's by the peer's will, so that it is answered and no more.
    pub(super) heard: bool,
    /// Responder: hears the requester's QUIC.
    pub(super) stream: Option<Box<RelayStream>>,
    pub(super) sent: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The mapping of our socket is being measured.
    Measuring,
    /// Requester: the peer is being asked.
    Asking,
    /// Probes go and come.
    Probing,
}

/// Probes that are left to send.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pairs of a socket and the place that it sends to, once each round.
    pub(super) targets: Vec<(SockId, SocketAddr)>,
    pub(super) next: Option<Instant>,
    rounds: u32,
    many: bool,
    /// Ports that are tried from the main socket: where, which, in what order, the next one, and how many.
    search: Option<(IpAddr, Ports, u64, u16, u16)>,
}

impl Attempt {
    pub(super) fn place(&self) -> Place {
        let Attempt { key: (session, _), peer, trust, since, .. } = *self;
        Place { kind: Kind::Udp, session, peer, trust, since, answered: self.heard }
    }

    /// Returns true if the peer is behind our own router, or on this machine.
    pub(super) fn is_near(&self, theirs: &Side) -> bool {
        punch::is_near(self.route.internal, self.route.external, theirs)
    }

    /// Returns true if the peer may come from this address by what it has named.
    pub(super) fn names(&self, ip: IpAddr) -> bool {
        let theirs = self.theirs.as_ref();
        theirs.is_some_and(|t| t.external == ip || (t.internal == ip && self.is_near(t)))
    }

    /// Returns the number of further sockets that a tactic takes.
    pub(super) fn sockets(&self, tactic: &Tactic) -> u16 {
        match tactic {
            Tactic::Spray { from, .. } if self.key.1 == Requester::Us => *from,
            Tactic::Spray { from, .. } => SOCKETS.min(*from),
            Tactic::Meet(dials) => dials.iter().filter(|(from, _)| *from == From::Fresh).count() as u16,
            Tactic::Await | Tactic::Probe { .. } | Tactic::Hopeless(_) => 0,
        }
    }

    /// Plans the probes of a tactic from `at` on, with these further sockets. `key` chooses the order of a search.
    pub(super) fn plan(&mut self, tactic: &Tactic, fresh: &[SockId], at: Instant, key: u64) {
        let mut plan = Plan { next: Some(at), ..Plan::default() };
        match tactic {
            Tactic::Meet(dials) => {
                let mut fresh = fresh.iter();
                for (from, to) in dials {
                    let sock = if *from == From::Fresh { fresh.next() } else { None };
                    plan.targets.push((*sock.unwrap_or(&self.main), *to));
                }
            }
            Tactic::Spray { to, .. } => {
                plan.targets = fresh.iter().map(|sock| (*sock, *to)).collect();
                plan.many = true;
            }
            Tactic::Probe { to, ports, count } => plan.search = Some((*to, *ports, key, 0, *count)),
            Tactic::Await | Tactic::Hopeless(_) => plan.next = None,
        }
        self.plan = plan;
    }

    /// Adds a place that the main socket sends to.
    pub(super) fn also_to(&mut self, to: SocketAddr) {
        if !self.plan.targets.contains(&(self.main, to)) {
            self.plan.targets.push((self.main, to));
        }
    }

    /// Returns true if this takes many probes.
    pub(super) fn searches(&self) -> bool {
        self.plan.many || self.plan.search.is_some()
    }

    /// Sends the probes that are due.
    pub(super) fn send(&mut self, cx: &mut Cx, silent: &mut Silent) {
        while let Some(at) = self.plan.next.filter(|at| *at <= cx.now) {
            let pause = if self.plan.rounds < FAST_ROUNDS { PAUSE[0] } else { PAUSE[1] };
            if let Some((ip, ports, key, next, count)) = self.plan.search {
                let upto = next.saturating_add(BURST).min(count);
                for n in next..upto {
                    self.send_one(cx, self.main, SocketAddr::new(ip, ports.nth(key, n)), silent);
                }
                self.plan.search = Some((ip, ports, key, upto, count));
                self.plan.next = (upto < count).then_some(at.max(cx.now) + BURST_PAUSE);
            } else {
                for (sock, to) in self.plan.targets.clone() {
                    self.send_one(cx, sock, to, silent);
                }
                self.plan.next = Some(at.max(cx.now) + if self.plan.many { SPRAY_PAUSE } else { pause });
            }
            self.plan.rounds += 1;
        }
    }

    /// Sends the first probe of a socket that was bound while the others sent theirs.
    pub(super) fn send_first(&mut self, cx: &mut Cx, sock: SockId, silent: &mut Silent) {
        let to = self.plan.targets.iter().find(|(s, _)| *s == sock).map(|(_, to)| *to);
        if let Some(to) = to.filter(|_| self.plan.rounds > 0 && !self.heard) {
            self.send_one(cx, sock, to, silent);
        }
    }

    /// Answers a probe by the way that it came. From then on each probe of the peer's has one answer, and nothing else is sent:
    /// the peer repeats its own until it has one.
    pub(super) fn hears(&mut self, cx: &mut Cx, sock: SockId, from: SocketAddr, silent: &mut Silent) {
        self.heard = true;
        self.plan.next = None;
        self.send_one(cx, sock, from, silent);
    }

    fn send_one(&mut self, cx: &mut Cx, sock: SockId, to: SocketAddr, silent: &mut Silent) {
        let (Some(probes), Some(Some(_))) = (&self.probes, self.socks.get(&sock)) else { return };
        let most = match self.trust {
            Trust::Stranger if self.heard => 2 * STRANGERS_PROBES,
            Trust::Stranger => STRANGERS_PROBES,
            Trust::Known => MOST_PROBES,
        };
        let free = self.heard || self.named.contains(&to.ip());
        if self.sent < most && (free || silent.take(cx.now, self.peer)) {
            self.sent += 1;
            cx.send_datagram(sock, to, Bytes::copy_from_slice(&probes.ours()));
        }
    }
}

/// Budget of probes for peers' requests to where nobody has answered.
pub(super) struct Silent {
    of_one: Buckets<NodeId>,
    of_all: Bucket,
}

impl Silent {
    pub(super) fn new() -> Self {
        Silent {
            of_one: Buckets::new(SILENT_PEERS, SILENT.0, SILENT.1),
            of_all: Bucket::new(SILENT_OF_ALL.0, SILENT_OF_ALL.1),
        }
    }

    fn take(&mut self, now: Instant, peer: NodeId) -> bool {
        self.of_one.allows(now, peer) && self.of_all.take(now) && self.of_one.take(now, peer)
    }
}
