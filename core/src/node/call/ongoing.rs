//! A call that goes on: the order of its strategies, where each of them stands, and what the peer has answered.

use core::time::Duration;
use std::sync::Arc;

use smallvec::SmallVec;

use super::advice::Heard;
use super::facts::Call;
use crate::address::{PeerAddress, PeerInterface, is_internet, is_link_local};
use crate::call::Strategy;
use crate::config::Plan;
use crate::event::{Outcome, StrategyReport};
use crate::identity::NodeId;
use crate::nat::NatType;
use crate::node::strategy::{Ctx, End, Strategies};
use crate::strategy::ours::Trust;
use crate::time::Instant;

/// Delay between the starts of two strategies, where the first is likely to work by itself. Where it is not, the next
/// starts at once: it costs one message.
const HEAD_START: Duration = Duration::from_millis(250);
/// Delay of UDP punching behind TCP's, where the two would be in each other's way.
const AFTER_PUNCH: Duration = Duration::from_secs(2);
/// A relay costs whoever runs it: others have so long before.
const BEFORE_RELAY: Duration = Duration::from_secs(3);

/// A call until its end. What does not change while it runs is [`Call`], which its strategies read.
#[derive(Debug)]
pub(super) struct Ongoing {
    pub(super) call: Arc<Call>,
    pub(super) runs: SmallVec<[Run; 2]>,
    /// The peer's clock minus ours, in microseconds, once it told us.
    pub(super) clock_offset: Option<i64>,
    /// Answers of the peer over the brokers.
    pub(super) heard: Heard,
    /// A dial was refused by the peer's system, or by something on the way.
    pub(super) dial_refused: bool,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) strategy: Strategy,
    pub(super) state: RunState,
}

#[derive(Debug)]
pub(super) enum RunState {
    Pending { at: Instant },
    Running,
    Ended(End),
}

impl Ongoing {
    pub(super) fn has(&self, strategy: Strategy) -> bool {
        self.runs.iter().any(|run| run.strategy == strategy)
    }

    /// Tries again, after a change of our network, the strategies that ran from the old one.
    /// They wait for a network while there is none.
    pub(super) fn roam(&mut self, all: &mut Strategies, now: Instant, offline: bool) {
        let at = if offline { self.call.deadline } else { now };
        for run in &mut self.runs {
            let again = match &run.state {
                RunState::Running => all.of(run.strategy).network_changed(&self.call),
                // Those that wait only because there was no network.
                RunState::Pending { at } => run.strategy != Strategy::Relay && *at >= self.call.deadline,
                RunState::Ended(_) => run.strategy != Strategy::Relay,
            };
            if again {
                run.state = RunState::Pending { at };
            }
        }
    }
}

impl Run {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running)
    }

    pub(super) fn report(&self, all: &mut Strategies, ctx: &Ctx<'_>, call: &Call) -> StrategyReport {
        let strategy = self.strategy;
        let (outcome, detail) = match &self.state {
            RunState::Pending { .. } => (Outcome::Skipped, "its turn did not come".into()),
            RunState::Running => (Outcome::Unfinished, all.of(strategy).describe(ctx, call)),
            RunState::Ended(End { outcome, detail }) => (*outcome, detail.clone()),
        };
        StrategyReport { strategy, outcome, detail }
    }
}

/// Returns true if a NAT takes another port for each destination: what one strategy opens there moves the ports that
/// another one foresees, or takes some of the few that a subscriber has.
fn is_hard(ctx: &Ctx<'_>, to: &PeerAddress) -> bool {
    let ours = |ip| ctx.network.surveyor().of(ip).is_some_and(|report| report.behaviour.is_symmetric());
    to.interfaces().any(|i| i.nat == NatType::Symmetric)
        || ctx.network.routes().iter().any(|r| ours(r.internal))
}

/// Returns the strategies of a plan, each with the time of its turn.
pub(super) fn order(ctx: &Ctx<'_>, peer: NodeId, to: &PeerAddress, plan: &Plan) -> SmallVec<[Run; 2]> {
    let now = ctx.cx.now;
    // A peer that no NAT hides, or that is near, will be reached directly: reverse may wait a moment.
    let open = |i: &PeerInterface| i.nat == NatType::OpenInternet && !is_link_local(i.external);
    let likely =
        to.interfaces().any(open) || ctx.paths_to(peer, to, Trust::Known).first().is_some_and(|p| p.local);
    let mut at = now;
    let mut runs: SmallVec<[Run; 2]> = SmallVec::new();
    // Where no NAT hides us, the peer's dial needs no hole. Until a server has said so, an address of a private network does
    // not count as seen outside.
    let (routes, heard) = (ctx.network.routes(), ctx.network.outside_is_heard());
    let seen = |ip| heard || is_internet(ip);
    let open = !routes.is_empty() && routes.iter().all(|r| r.external == r.internal && seen(r.internal));
    for strategy in &plan.strategies {
        if runs.iter().all(|r| r.strategy != *strategy) {
            if *strategy == Strategy::Punch && open && !runs.is_empty() {
                at = at + HEAD_START;
            }
            let mut at_its_turn = at;
            let punch = runs.last().filter(|r| r.strategy == Strategy::Punch && *strategy == Strategy::Udp);
            if let Some(Run { state: RunState::Pending { at: with_punch }, .. }) = punch {
                at_its_turn = *with_punch + if is_hard(ctx, to) { AFTER_PUNCH } else { Duration::ZERO };
            }
            if *strategy == Strategy::Relay && plan.relay_first {
                at_its_turn = now;
            } else if *strategy == Strategy::Relay && !ctx.config.turn.is_empty() && plan.strategies.len() > 1
            {
                at_its_turn = now + BEFORE_RELAY;
            }
            runs.push(Run { strategy: *strategy, state: RunState::Pending { at: at_its_turn } });
            at = at + if likely { HEAD_START } else { Duration::ZERO };
        }
    }
    runs
}
