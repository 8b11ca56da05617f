//! Congestion control by measured bandwidth and round trip, after BBR (draft-ietf-ccwg-bbr), for quinn-proto.
//!
//! quinn-proto has a BBR of its own. It takes the distance between two acknowledgements for a rate. So two
//! acknowledgements that a busy machine handles together make a bandwidth that there never was. Here a sample is the
//! bytes delivered between the sending of a packet and its acknowledgement. They are divided by the longer of the times
//! that sending and acknowledging took (draft-ietf-ccwg-bbr section 4.1).
//!
//! quinn-proto paces by the window: 1.25 windows in a smoothed round trip. So gains are of the window here.
//!
//! The reasons: ADR 18 in docs/src/adr.

#![expect(clippy::disallowed_types, reason = "quinn-proto's interface; the values come from the driver")]

use core::any::Any;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use web_time::Instant;

/// Packets that may come before one is acknowledged; sooner where something is missing or `ACK_WITHIN` passes. QUIC
/// itself acknowledges every other packet (RFC 9000 section 13.2.2). That costs relay and routers half as many packets
/// again as there are data.
pub(super) const ACK_EVERY: u32 = 10;
/// Window before anything is known: quinn-proto's own begins with it.
const INITIAL_WINDOW: u64 = 200 * 1200;
/// Growth of the window while the bandwidth is looked for: by the acknowledged bytes, up to this many products of
/// bandwidth and round trip.
const STARTUP_GAIN: f64 = 2.885;
/// Rounds without a quarter more bandwidth, until it is taken for found.
const FULL_ROUNDS: u8 = 3;
/// Windows of one cycle, a round trip each, in products of bandwidth and round trip. First more is tried, then the
/// queue is let go, and then as much as keeps the way full where acknowledgements come late.
const CYCLE: [f64; 8] = [2.0, 1.0, CRUISE, CRUISE, CRUISE, CRUISE, CRUISE, CRUISE];
const CRUISE: f64 = 1.5;
/// Rounds of which the highest bandwidth counts.
const BANDWIDTH_ROUNDS: u64 = 10;
/// Time after which the shortest round trip is looked for again, and for how long, with half of the fitting window.
const MIN_RTT_FOR: Duration = Duration::from_secs(10);
const PROBE_RTT_FOR: Duration = Duration::from_millis(200);
/// Time that the machines at both ends may keep packets: timers that pace by the millisecond, and reads of many at a time. A window
/// for less would have a short way stand idle between them. It is the send quantum of draft-ietf-ccwg-bbr section 4.6.3; on
/// loopback a pipe has 1.6 times the rate with it (measured).
const ENDS: Duration = Duration::from_millis(1);
/// Share of lost packets in a round above which queues are too short for the window; a lower loss is the way's own.
const TOO_MUCH_LOST: f64 = 0.15;
/// Sent packets that are remembered: twice what a window of 16 MiB has.
const MAX_LOG: usize = 32_768;

#[derive(Clone, Debug)]
pub(super) struct Bbr {
    mtu: u64,
    state: State,
    window: u64,
    /// Bytes delivered, the time of the latest delivery, and the time at which that packet was sent.
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    in_flight: u64,
    log: VecDeque<Sent>,
    /// Packet sent last of the acknowledgements being handled, and the bytes that they are of.
    newest: Option<Sent>,
    acked: u64,
    round: u64,
    /// A round ends with the first packet that was sent when so much had been delivered.
    round_until: u64,
    lost_in_round: u64,
    acked_in_round: u64,
    /// The highest rates of late, in bytes a second, falling, each with its round.
    rates: VecDeque<(u64, f64)>,
    min_rtt: Option<(Duration, Instant)>,
    /// Bytes acknowledged ahead of the bandwidth: since this time, so many, and the most of late.
    ahead_since: Instant,
    ahead_acked: u64,
    ahead: VecDeque<(u64, f64)>,
    /// Amount in flight that overflows a queue.
    most: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Startup { best: f64, rounds: u8 },
    Drain,
    Cruise { phase: usize, since: Instant },
    ProbeRtt { until: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
}

impl Bbr {
    fn new(now: Instant, mtu: u16) -> Self {
        Bbr {
            mtu: u64::from(mtu),
            state: State::Startup { best: 0.0, rounds: 0 },
            window: INITIAL_WINDOW,
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            in_flight: 0,
            log: VecDeque::new(),
            newest: None,
            acked: 0,
            round: 0,
            round_until: 0,
            lost_in_round: 0,
            acked_in_round: 0,
            rates: VecDeque::new(),
            min_rtt: None,
            ahead_since: now,
            ahead_acked: 0,
            ahead: VecDeque::new(),
            most: None,
        }
    }

    /// Returns the bandwidth in bytes a second.
    fn bandwidth(&self) -> Option<f64> {
        self.rates.front().map(|(_, rate)| *rate)
    }

    /// Returns the number of bytes that fit on the way without a queue (the bandwidth-delay product), and on the machines at its
    /// ends.
    fn product(&self) -> Option<f64> {
        Some(self.bandwidth()? * self.min_rtt?.0.max(ENDS).as_secs_f64())
    }

    /// Least window: fewer packets than are acknowledged together would wait for [`ACK_EVERY`]'s timer, each time
    /// (found on loopback).
    fn least(&self) -> u64 {
        (3 * u64::from(ACK_EVERY) + 2) * self.mtu
    }

    /// Takes in that a packet that was sent then has arrived.
    fn take(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        self.acked += bytes;
        self.acked_in_round += bytes;
        if self.newest.is_none_or(|newest| newest.at < sent)
            && let Ok(n) = self.log.binary_search_by(|s| s.at.cmp(&sent))
        {
            self.newest = Some(self.log[n]);
        }
    }

    fn sample(&mut self, now: Instant, packet: Sent, app_limited: bool) {
        let rtt = now.saturating_duration_since(packet.at);
        if !rtt.is_zero() && self.min_rtt.is_none_or(|(least, _)| rtt <= least) {
            self.min_rtt = Some((rtt, now));
        }
        let acking = now.saturating_duration_since(packet.delivered_at);
        let sending = packet.at.saturating_duration_since(packet.first_sent);
        let took = acking.max(sending);
        // Over less than a round trip it measures how acknowledgements come in.
        if took.is_zero() || self.min_rtt.is_some_and(|(least, _)| took < least) {
            return;
        }
        let rate = (self.delivered - packet.delivered) as f64 / took.as_secs_f64();
        if !app_limited || self.bandwidth().is_none_or(|best| rate > best) {
            highest(&mut self.rates, self.round, rate);
        }
    }

    /// Measures the bytes that came in at once beyond the bandwidth: machines and radios collect acknowledgements.
    fn aggregate(&mut self, now: Instant) {
        let Some(bandwidth) = self.bandwidth() else { return };
        let expected = bandwidth * now.saturating_duration_since(self.ahead_since).as_secs_f64();
        if self.ahead_acked as f64 <= expected {
            (self.ahead_since, self.ahead_acked) = (now, self.acked);
            return highest(&mut self.ahead, self.round, 0.0);
        }
        self.ahead_acked += self.acked;
        let ahead = (self.ahead_acked as f64 - expected).clamp(0.0, self.product().unwrap_or(0.0));
        highest(&mut self.ahead, self.round, ahead);
    }

    fn end_round(&mut self, app_limited: bool) {
        self.round_until = self.delivered;
        if app_limited {
            // It says nothing about the way, so what is known of that stays.
            (self.lost_in_round, self.acked_in_round) = (0, 0);
            return;
        }
        self.round += 1;
        let all = self.lost_in_round + self.acked_in_round;
        let much = self.lost_in_round as f64 > all as f64 * TOO_MUCH_LOST;
        if let Some(product) = self.product() {
            // Less than what fits would be slower than the way, and lose as much where the way itself does.
            self.most = match self.most {
                _ if much => Some((self.window as f64 * 0.85).max(CRUISE * product)),
                Some(most) if most < 4.0 * product => Some(most * 1.05),
                _ => None,
            };
        }
        (self.lost_in_round, self.acked_in_round) = (0, 0);
        let bandwidth = self.bandwidth().unwrap_or(0.0);
        if let State::Startup { best, rounds } = &mut self.state {
            if bandwidth > *best * 1.25 {
                (*best, *rounds) = (bandwidth, 0);
            } else {
                *rounds += 1;
            }
            if *rounds >= FULL_ROUNDS || (much && bandwidth > 0.0) {
                self.state = State::Drain;
            }
        }
    }

    fn advance(&mut self, now: Instant, app_limited: bool) {
        let Some((min_rtt, measured)) = self.min_rtt else { return };
        let product = self.product().unwrap_or(0.0);
        match self.state {
            State::Drain if (self.in_flight as f64) <= product => {
                self.state = State::Cruise { phase: 2, since: now };
            }
            State::Cruise { .. } if !app_limited && now.saturating_duration_since(measured) > MIN_RTT_FOR => {
                self.min_rtt = None;
                self.state = State::ProbeRtt { until: now + PROBE_RTT_FOR };
            }
            State::Cruise { phase, since } if now.saturating_duration_since(since) > min_rtt => {
                self.state = State::Cruise { phase: (phase + 1) % CYCLE.len(), since: now };
            }
            State::ProbeRtt { until } if until <= now => {
                self.state = State::Cruise { phase: 2, since: now };
            }
            _ => {}
        }
    }

    fn set_window(&mut self) {
        let ahead = self.ahead.front().map_or(0.0, |(_, ahead)| *ahead);
        let Some(product) = self.product() else {
            // Nothing is measured yet, or the shortest round trip is looked for.
            if let State::Startup { .. } = self.state {
                self.window += self.acked;
            }
            return;
        };
        let most = self.most.unwrap_or(f64::INFINITY);
        let target = match self.state {
            State::Startup { .. } => (STARTUP_GAIN * product).max(INITIAL_WINDOW as f64) + ahead,
            State::Drain => 0.75 * product,
            State::ProbeRtt { .. } => 0.5 * product,
            State::Cruise { phase, .. } => (CYCLE[phase] * product + ahead).min(most),
        };
        let grown = (self.window + self.acked) as f64;
        self.window = match self.state {
            State::Startup { .. } if target < self.window as f64 => self.window,
            _ => target.min(grown) as u64,
        };
        self.window = self.window.max(self.least());
    }
}

/// Keeps the highest values of the last rounds, falling, one for each round at most.
fn highest(values: &mut VecDeque<(u64, f64)>, round: u64, value: f64) {
    while values.back().is_some_and(|(_, last)| *last <= value) {
        values.pop_back();
    }
    // A lower one of the same round would go with the higher one.
    if values.back().is_none_or(|(at, _)| *at < round) {
        values.push_back((round, value));
    }
    while values.front().is_some_and(|(at, _)| at + BANDWIDTH_ROUNDS < round) {
        values.pop_front();
    }
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        if self.in_flight == 0 {
            (self.delivered_at, self.first_sent) = (now, now);
        }
        self.in_flight += bytes;
        if self.log.back().is_none_or(|last| last.at < now) {
            if self.log.len() >= MAX_LOG {
                self.log.pop_front();
            }
            let Bbr { delivered, delivered_at, first_sent, .. } = *self;
            self.log.push_back(Sent { at: now, delivered, delivered_at, first_sent });
        }
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.take(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.in_flight = in_flight;
        if let Some(packet) = self.newest.take() {
            self.first_sent = packet.at;
            self.sample(now, packet, app_limited);
            // What was sent two round trips before this one is acknowledged by now, or lost.
            let patience = 2 * now.saturating_duration_since(packet.at);
            let past = self.log.partition_point(|s| s.at + patience < packet.at);
            self.log.drain(..past);
            if packet.delivered >= self.round_until {
                self.end_round(app_limited);
            }
        }
        self.aggregate(now);
        self.advance(now, app_limited);
        self.set_window();
        self.acked = 0;
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, lost: u64) {
        self.lost_in_round += lost;
        self.in_flight = self.in_flight.saturating_sub(lost);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
    }

    fn window(&self) -> u64 {
        match (self.state, self.product()) {
            // The round trip before is forgotten: half of what is out there now is less than any queue.
            (State::ProbeRtt { .. }, None) => (self.window / 4).max(self.least()),
            _ => self.window,
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Builder of [`Bbr`] for quinn-proto.
#[derive(Debug)]
pub(super) struct BbrFactory;

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr::new(now, mtu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PACKET: u64 = 1_200;

    /// Runs a way of 10 Mbyte/s and 20 ms whose receiver acknowledges each 5 ms. `lose` of each 100 packets are lost,
    /// and `queue` packets fit into its queue. Returns the bytes that arrived in the last second of five, and the bytes
    /// lost in it.
    fn run(lose: u64, queue: u64) -> (Bbr, u64, u64) {
        let begin = Instant::now();
        let mut bbr = Bbr::new(begin, PACKET as u16);
        let per_packet = Duration::from_nanos(1_000_000_000 * PACKET / 10_000_000);
        let (mut free_at, mut sent, mut flying) = (begin, 0, 0);
        // When each is known to have arrived or not, when it was sent, and which.
        let mut under_way: VecDeque<(Instant, Instant, bool)> = VecDeque::new();
        let (mut came, mut lost) = (0, 0);
        for tick in 0..50_000 {
            let now = begin + tick * MS / 10;
            let last = tick >= 40_000;
            let mut acked = false;
            while under_way.front().is_some_and(|(at, ..)| *at <= now) {
                let (_, at, arrived) = under_way.pop_front().unwrap();
                flying -= PACKET;
                acked |= arrived;
                if arrived {
                    bbr.take(now, at, PACKET);
                    came += u64::from(last) * PACKET;
                } else {
                    bbr.on_congestion_event(now, at, false, PACKET);
                    lost += u64::from(last) * PACKET;
                }
            }
            if acked {
                bbr.on_end_acks(now, flying, false, None);
            }
            while flying + PACKET <= bbr.window() {
                flying += PACKET;
                bbr.on_sent(now, PACKET, sent);
                sent += 1;
                let waiting = free_at.saturating_duration_since(now);
                let fits = waiting < per_packet * queue as u32;
                let arrived = fits && sent * 7919 % 100 >= lose;
                if fits {
                    free_at = free_at.max(now) + per_packet;
                }
                let grid =
                    (free_at.saturating_duration_since(begin) + 20 * MS).as_nanos() as u64 / 5_000_000 + 1;
                under_way.push_back((begin + Duration::from_nanos(grid * 5_000_000), now, arrived));
            }
        }
        (bbr, came, lost)
    }

    #[test]
    fn acknowledgements_in_bunches_are_no_bandwidth() {
        for lose in [0, 5] {
            let (bbr, came, lost) = run(lose, 1_000);
            let bandwidth = bbr.bandwidth().unwrap();
            assert!((9e6..11.5e6).contains(&bandwidth), "{bandwidth}");
            let possible = 10_000_000 * (100 - lose) / 100;
            assert!(came * 10 > possible * 9, "{came} of {possible}");
            assert!(lost * 100 <= (came + lost) * (lose + 1), "{lost}");
        }
    }

    #[test]
    fn a_queue_that_is_too_short_costs_packets_and_no_bandwidth() {
        // 200 packets fill the way and wait for their acknowledgement; another 80 may wait, two bunches.
        let (_, came, lost) = run(0, 80);
        assert!(came > 9_500_000 && lost * 3 < came, "{came} {lost}");
    }

    #[test]
    fn a_short_way_is_given_what_its_ends_hold_for_a_millisecond() {
        let at = Instant::now();
        let mut bbr = Bbr::new(at, PACKET as u16);
        bbr.rates = VecDeque::from([(0, 100e6)]);
        for (rtt_us, product) in [(50, 100_000.0), (1_000, 100_000.0), (20_000, 2_000_000.0)] {
            bbr.min_rtt = Some((Duration::from_micros(rtt_us), at));
            assert_eq!(bbr.product(), Some(product), "{rtt_us}");
        }
    }
}
