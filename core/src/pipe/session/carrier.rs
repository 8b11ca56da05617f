//! A carrier, as a session knows it: what goes over it, whether it lives, and how good it is.

use core::cmp::Reverse;
use core::time::Duration;

use smallvec::SmallVec;

use super::frame::Parser;
use super::{CarrierId, CarrierKind, MAX_CARRIERS, SessionConfig};
use crate::time::Instant;

#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) id: CarrierId,
    pub(super) kind: CarrierKind,
    pub(super) parser: Parser,
    pub(super) have_sent: bool,
    pub(super) have_heard: bool,
    /// Number of frames that the peer had when this carrier began.
    pub(super) peer_has: Option<u64>,
    /// A USE is to be sent.
    pub(super) use_due: Option<u32>,
    /// Number of the next frame to send here; none before FROM is sent.
    pub(super) next: Option<u64>,
    /// Number of the next frame that comes here; none before FROM has come.
    pub(super) coming: Option<u64>,
    pub(super) close_sent: bool,
    /// Number of a PING to answer.
    pub(super) pong: Option<u32>,
    /// A PING is to be sent.
    ping: bool,
    /// Number and time of the PING that is not answered.
    asked: Option<(u32, Instant)>,
    pings: u32,
    rtt: Option<Duration>,
    /// Last sign of life.
    heard: Instant,
    /// Time of the first thing since then that wants an answer, sent or still to be sent: a dead path may take nothing.
    waiting: Option<Instant>,
    pub(super) doubted: bool,
}

/// Judgement of a carrier's silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Silence {
    None,
    /// A PING is to be sent.
    Ask,
    Doubt,
    Broken,
}

/// Makes room for one more: gives up the carrier that was heard longest ago, if there are [`MAX_CARRIERS`]. A caller whose
/// network changes again and again leaves carriers behind, of which the listener hears nothing.
pub(super) fn make_room(carriers: &mut SmallVec<[Carrier; 1]>) -> Option<CarrierId> {
    let full = carriers.len() >= MAX_CARRIERS;
    let at = (0..carriers.len()).filter(|_| full).min_by_key(|at| carriers[*at].heard)?;
    Some(carriers.remove(at).id)
}

impl Carrier {
    pub(super) fn new(id: CarrierId, kind: CarrierKind, now: Instant) -> Self {
        Carrier {
            id,
            kind,
            parser: Parser::default(),
            have_sent: false,
            have_heard: false,
            peer_has: None,
            use_due: None,
            next: None,
            coming: None,
            close_sent: false,
            pong: None,
            // The first measures the round trip.
            ping: true,
            asked: None,
            pings: 0,
            rtt: None,
            heard: now,
            waiting: Some(now),
            doubted: false,
        }
    }

    /// Notes a sign of life. Returns true if the carrier was doubted.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        self.heard = now;
        self.waiting = self.ping.then_some(now);
        core::mem::take(&mut self.doubted)
    }

    /// Has a PING sent.
    pub(super) fn ask(&mut self, now: Instant) {
        self.ping = true;
        self.wants_answer(now);
    }

    /// Returns the number of the PING that goes out now, if one is to be sent.
    pub(super) fn asks(&mut self, now: Instant) -> Option<u32> {
        if !core::mem::take(&mut self.ping) {
            return None;
        }
        self.pings = self.pings.wrapping_add(1);
        self.asked = Some((self.pings, now));
        Some(self.pings)
    }

    /// Notes that something goes out that wants an answer.
    pub(super) fn wants_answer(&mut self, now: Instant) {
        self.waiting.get_or_insert(now);
    }

    /// Measures the round trip by an answer.
    pub(super) fn answered(&mut self, now: Instant, number: u32) {
        if let Some((asked, at)) = self.asked
            && asked == number
        {
            self.rtt = Some(now.since(at));
            self.asked = None;
        }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Judges the silence.
    pub(super) fn silence(&self, now: Instant, config: &SessionConfig, doubt: Duration) -> Silence {
        match self.waiting {
            Some(since) if since + config.patience <= now => Silence::Broken,
            Some(since) if !self.doubted && since + doubt <= now => Silence::Doubt,
            None if self.heard + config.ask_after <= now => Silence::Ask,
            _ => Silence::None,
        }
    }

    /// Returns the time to judge the silence anew.
    pub(super) fn deadline(&self, config: &SessionConfig, doubt: Duration) -> Instant {
        match self.waiting {
            Some(since) if self.doubted => since + config.patience,
            Some(since) => since + doubt.min(config.patience),
            None => self.heard + config.ask_after,
        }
    }

    /// Returns the place among the carriers: the greatest is the best. Round trips count as equal within a factor of
    /// two, and then the newer carrier is better: nothing moves for a little.
    pub(super) fn rank(&self) -> (bool, CarrierKind, Reverse<u32>, CarrierId) {
        let trip = self.rtt.map_or(0, |rtt| {
            let millis = u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX);
            u32::BITS - millis.leading_zeros()
        });
        (!self.doubted, self.kind, Reverse(trip), self.id)
    }
}
