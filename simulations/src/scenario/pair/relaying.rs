//! The TURN server of a pair's world, and the invariants of pipes through it.

use core::time::Duration;

use p2pd_core::Transport;
use p2pd_core::TurnServer;
use p2pd_rendezvous::turn::Config;

use super::{Program, Run};
use crate::engine::{Nanos, SECOND};
use crate::scenario::standing;
use crate::service::TurnFaults;
use crate::world::{HostId, World};

/// Longest time that a server keeps an allocation that nobody refreshes or gives back. It is TURN's default lifetime
/// (RFC 8656 section 3.2), and a request of a node that was under way when it ended.
const KEPT_WITHIN: Nanos = 660 * SECOND;
/// Time in which allocations and the like are given back, a few round trips, where nothing is lost.
const GIVEN_BACK_WITHIN: Nanos = 5 * SECOND;
/// Longest time that a closed relayed pipe may take to send the rest, as in drivers.
const LEAVE_WITHIN: Nanos = 10 * SECOND;

/// A TURN server that both nodes know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relaying {
    /// Faults of the server.
    pub faults: TurnFaults,
    /// The only way to it; else UDP, and TCP where that gets no answer.
    pub over: Option<Transport>,
    /// Lifetime of the server's nonces.
    pub nonce: Nanos,
    /// Idle time of pipes before the first byte.
    pub idle: Nanos,
}

impl Default for Relaying {
    fn default() -> Self {
        Relaying { faults: TurnFaults::default(), over: None, nonce: 3_600 * SECOND, idle: 0 }
    }
}

impl Relaying {
    pub(super) fn add_server(&self, world: &mut World<Program>, at_443: bool) -> HostId {
        let config = Config { nonce: Duration::from_nanos(self.nonce), ..standing::turn_config() };
        standing::add_turn(world, config, self.faults, at_443)
    }

    pub(super) fn configured(&self, narrow: bool) -> TurnServer {
        TurnServer { transport: self.over, ..standing::turn_server(narrow) }
    }
}

/// Waits until closed pipes have sent the rest.
pub(super) fn leave(run: &mut Run, hosts: &[HostId]) {
    let until = run.world.now() + LEAVE_WITHIN;
    run.world.run_while(until, |w| hosts.iter().all(|h| !w.app(*h).node().has_leaving_pipes()));
}

/// Checks the server after the nodes have ended: nothing of theirs may stay there; where nothing was `lost`, not for
/// long.
pub(super) fn left_behind(run: &mut Run, lost: bool) -> Option<String> {
    let turn = run.turn?;
    let held = |w: &World<Program>| match w.app(turn) {
        Program::Server(server) => server.held(),
        Program::Node(_) | Program::Stranger(_) => 0,
    };
    let until = run.world.now() + if lost { KEPT_WITHIN } else { GIVEN_BACK_WITHIN };
    run.world.run_while(until, |w| held(w) == 0);
    let left = held(&run.world);
    (left > 0).then(|| format!("{left} allocations are left behind"))
}
