//! Punches of ours as a strategy of a call: waiting for a broker, the announcement, and the ladder of rungs.

use std::net::IpAddr;
use std::sync::Arc;

use super::state::PunchStage;
use super::{FRESH_FROM, Punches, With};
use crate::call::Strategy;
use crate::event::Stage;
use crate::nat::Foresight;
use crate::node::call::facts::Call;
use crate::node::strategy::{Contract, Ctx, End, Request, Said};
use crate::signal::mappings::Mappings;
use crate::signal::message::Body;
use crate::strategy::agreement::{Key, Requester};

/// Rungs of the ladder. Each swaps who dials first and takes fresh samples.
const RUNGS: u8 = 8;

/// The punch strategy of one call.
#[derive(Debug)]
pub(super) struct Ladder {
    call: Arc<Call>,
    told_waiting: bool,
    /// The network has changed: the next rung waits until our address is known again.
    moved: bool,
    /// The rung to begin next.
    next: u8,
    /// The announcement of the rung under way, for repeating.
    request: Option<Request>,
    /// Reason for which the last rung failed.
    detail: String,
}

impl Punches {
    /// Ends each rung that was begun before our NAT was measured and that the result contradicts.
    pub(in crate::node) fn survey_done(&mut self, ctx: &mut Ctx<'_>) {
        let hasty = |key: &Key, p: &super::Punch| {
            key.1 == Requester::Us && !p.surveyed && (p.gropes() || !was_right(ctx, p.local()))
        };
        let all = self.all.iter().filter(|(key, p)| hasty(key, p)).map(|(key, _)| *key);
        for key in all.collect::<Vec<_>>() {
            self.rung_failed(ctx, key);
        }
    }

    /// Goes on with ports of its own, since the listener's cannot be used towards this peer.
    pub(super) fn stuck(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        if let Some(ladder) = self.ladder_of(key) {
            ladder.next = ladder.next.max(FRESH_FROM);
        }
        self.rung_failed(ctx, key);
    }

    /// Goes on after a rung that ended without a pipe: to the next one, or to the end of the ladder.
    pub(super) fn rung_failed(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let detail = self.describe_rung(ctx, key);
        let hopeless = self.all.get(&key).is_some_and(|p| p.is_hopeless());
        let Some(ladder) = self.ladder_of(key) else { return self.forget_punch(ctx, key) };
        let call = Arc::clone(&ladder.call);
        ladder.detail = detail;
        ladder.request = None;
        let end = if ladder.next >= RUNGS || hopeless {
            let detail = core::mem::take(&mut ladder.detail);
            self.forget_punch(ctx, key);
            Some(End::failed(detail))
        } else {
            self.next_rung(ctx, &call)
        };
        if let Some(end) = end {
            self.ladders.remove(&call.connect);
            ctx.say(Said::Ended(call.connect, Strategy::Punch, end));
        }
    }

    /// Tells the peer where our next dials come from.
    pub(super) fn send_initial(&mut self, ctx: &mut Ctx<'_>, key: Key, mappings: Box<Mappings>) {
        let Some(ladder) = self.ladder_of(key) else { return };
        ladder.request = Some(Request::send(ctx, &ladder.call, Strategy::Punch, Body::Initial(mappings)));
    }

    /// Notes that the peer has answered the announcement.
    pub(super) fn stop_asking(&mut self, key: Key) {
        if let Some(request) = self.ladder_of(key).and_then(|ladder| ladder.request.as_mut()) {
            request.answered = true;
        }
    }

    fn next_rung(&mut self, ctx: &mut Ctx<'_>, call: &Call) -> Option<End> {
        let ladder = self.ladders.get_mut(&call.connect)?;
        let rung = ladder.next;
        (ladder.next, ladder.moved) = (rung + 1, false);
        let (key, peer, address) = (call.key(), call.peer, &call.address);
        let with = With { key, peer, terms: call.terms(), address, connect: Some(call.connect) };
        let via = ctx.signalling.shared_with(address);
        if !self.begin_rung(ctx, with, via, rung, None) {
            return Some(End::skipped(ctx.why_no_path(address)));
        }
        self.drive_punch(ctx, key);
        None
    }

    /// Describes the progress of a rung, in words.
    fn describe_rung(&self, ctx: &Ctx<'_>, key: Key) -> String {
        let Some(punch) = self.all.get(&key) else { return String::from("not begun") };
        punch.describe(ctx.cx.now)
    }

    fn ladder_of(&mut self, key: Key) -> Option<&mut Ladder> {
        self.ladders.get_mut(&self.all.get(&key)?.connect?)
    }
}

impl Contract for Punches {
    fn begin(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Result<(), String> {
        if ctx.is_oneself(call.peer) {
            return Err("it is us".into());
        }
        if let Some(why) = ctx.why_no_signal(call) {
            return Err(why);
        }
        let call = Arc::clone(call);
        let connect = call.connect;
        let (told_waiting, moved, next, request, detail) = (false, false, 0, None, String::new());
        self.ladders.insert(connect, Ladder { call, told_waiting, moved, next, request, detail });
        Ok(())
    }

    /// Begins the first rung when it can, or repeats an announcement.
    fn drive(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Option<End> {
        let ladder = self.ladders.get_mut(&call.connect)?;
        match self.all.get(&call.key()).map(|p| p.stage) {
            None if ladder.next == 0 || ladder.moved => {
                let brokers = ctx.signalling.shared_with(&call.address);
                if ctx.network.address_is_settled() && ctx.signalling.is_ready(&brokers) {
                    let end = self.next_rung(ctx, call);
                    if end.is_some() {
                        self.forget(call);
                    }
                    return end;
                }
                if !core::mem::replace(&mut ladder.told_waiting, true) {
                    ctx.progress(call.connect, Strategy::Punch, Stage::AwaitingBroker);
                }
            }
            // Its timer sees to the end of the rung.
            Some(PunchStage::Announced) => {
                if let Some(request) = &mut ladder.request {
                    request.repeat(ctx, call);
                }
            }
            _ => {}
        }
        None
    }

    fn request(&mut self, call: &Call) -> Option<&mut Option<Request>> {
        self.ladders.get_mut(&call.connect).map(|ladder| &mut ladder.request)
    }

    fn ask_again(&mut self, ctx: &mut Ctx<'_>, call: &Call) {
        if self.ladders.get(&call.connect).is_some_and(|ladder| ladder.request.is_some()) {
            self.rung_failed(ctx, call.key());
        }
    }

    fn describe(&self, ctx: &Ctx<'_>, call: &Call) -> String {
        match self.all.contains_key(&call.key()) {
            true => self.describe_rung(ctx, call.key()),
            false => self.ladders.get(&call.connect).map(|l| l.detail.clone()).unwrap_or_default(),
        }
    }

    fn network_changed(&mut self, call: &Arc<Call>) -> bool {
        if let Some(ladder) = self.ladders.get_mut(&call.connect) {
            ladder.call = Arc::clone(call);
            (ladder.request, ladder.moved) = (None, true);
        }
        false
    }

    fn forget(&mut self, call: &Call) {
        self.ladders.remove(&call.connect);
    }

    fn is_busy(&self, key: Key) -> bool {
        self.all.contains_key(&key)
    }

    fn end(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        self.end_punch(ctx, key);
    }
}

/// Returns true if a rung was right to take the external port for the local one, or if the result is not known.
fn was_right(ctx: &Ctx<'_>, local: IpAddr) -> bool {
    let foresight = ctx.network.surveyor().of(local).map(|r| r.behaviour.foresight());
    matches!(foresight, None | Some(Foresight::Offset(0)))
}
