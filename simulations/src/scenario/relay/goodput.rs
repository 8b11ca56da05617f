//! Goodput through a relay, by p2pd's scheme and by others.

use p2pd_core::relay::{Congestion, ReadOutcome, RelayConfig, RelayStream};
use p2pd_core::{Instant, SecretKey};

use super::rudp::Rudp;
use super::{Way, Wire};
use crate::domain;
use crate::engine::{Keyed, MILLI, Nanos, SECOND};
use crate::net::{Bottleneck, LinkSpec};

/// No transfer takes longer.
const LIMIT: Nanos = 600 * SECOND;

/// A way of sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// The relay stream.
    Stream(Congestion),
    /// P2PD's messages, all at once.
    P2pd,
    /// P2PD's messages, from an application that knows the way's rate.
    P2pdPaced,
}

/// Result of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Measured {
    /// Bits of content a second, from the first datagram to the last byte's arrival.
    pub goodput: u64,
    /// Bytes that were given up.
    pub missing: u64,
    /// Bytes sent in datagrams by the sender, for each hundred of content.
    pub percent: u64,
}

/// A way with a round trip of 100 ms and a queue of 100 ms.
pub fn way(megabits: u64, loss_percent: u32, reordered: bool) -> Way {
    let link = LinkSpec {
        delay: 50 * MILLI,
        loss_ppm: loss_percent * 10_000,
        // One in ten comes 10 ms late.
        reorder_ppm: if reordered { 100_000 } else { 0 },
        hold: 10 * MILLI,
        ..LinkSpec::default()
    };
    Way { link, narrow: Some(Bottleneck::new(megabits * 1_000_000, 100 * MILLI)) }
}

/// The same where what is above the rate is dropped at once, beyond what takes 100 ms.
pub fn policed(megabits: u64) -> Way {
    let narrow = Some(Bottleneck::policer(megabits * 1_000_000, 100 * MILLI));
    Way { narrow, ..way(megabits, 0, false) }
}

/// Sends `bytes` bytes from one end to the other.
pub fn measure(seed: u64, scheme: Scheme, way: Way, bytes: usize) -> Measured {
    let (took, got, sent) = match scheme {
        Scheme::Stream(congestion) => stream(seed, congestion, way, bytes),
        Scheme::P2pd => rudp(seed, None, way, bytes),
        Scheme::P2pdPaced => rudp(seed, way.narrow.map(|n| n.rate), way, bytes),
    };
    Measured {
        goodput: got * 8 * SECOND / took.max(1),
        missing: bytes as u64 - got,
        percent: sent * 100 / bytes.max(1) as u64,
    }
}

fn stream(seed: u64, congestion: Congestion, way: Way, bytes: usize) -> (Nanos, u64, u64) {
    let rng = Keyed::new(seed);
    let keys = [1, 2].map(|n| SecretKey::from_bytes([n; 32]));
    let ids = [keys[0].node_id(), keys[1].node_id()];
    let config = RelayConfig { congestion, ..RelayConfig::default() };
    let (one, two) = (rng.bytes(domain::NODE, 0), rng.bytes(domain::NODE, 1));
    let ends = [
        RelayStream::connect(&keys[0], &ids[1], &[1; 16], one, &config, Instant::ZERO),
        RelayStream::accept(&keys[1], &ids[0], &[1; 16], two, &config, Instant::ZERO),
    ];
    let mut wire = Wire::new(seed, way, ends);
    let (chunk, mut buffer) = (vec![0xa5; 65_536], vec![0; 65_536]);
    let (mut written, mut got, mut took) = (0, 0, 0);
    while got < bytes && wire.step(LIMIT) {
        let now = wire.at();
        loop {
            let n = wire.ends[0].write(now, &chunk[..chunk.len().min(bytes - written)]);
            written += n;
            if n == 0 {
                break;
            }
        }
        while let ReadOutcome::Read(n) = wire.ends[1].read(now, &mut buffer) {
            got += n;
            took = wire.now;
        }
    }
    (took, got as u64, wire.ends[0].stats().sent_bytes)
}

fn rudp(seed: u64, rate: Option<u64>, way: Way, bytes: usize) -> (Nanos, u64, u64) {
    let mut wire = Wire::new(seed, way, [Rudp::new(bytes, rate), Rudp::new(0, None)]);
    let (mut got, mut took) = (0, 0);
    while !(wire.ends[0].is_done() && wire.ends[1].is_done()) && wire.step(LIMIT) {
        if wire.ends[1].got > got {
            (got, took) = (wire.ends[1].got, wire.now);
        }
    }
    (took, got, wire.ends[0].sent_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_policed_goes_at_about_that_rate() {
        let all = [1, 2, 3].map(|seed| measure(seed, Scheme::Stream(Congestion::Bbr), policed(1), 1 << 20));
        println!("{all:?}");
        assert!(
            all.iter().all(|m| m.missing == 0 && m.goodput > 600_000 && m.goodput < 1_000_000),
            "{all:?}"
        );
    }

    #[test]
    fn loss_costs_us_little_and_others_much() {
        let measure = |scheme, loss| measure(1, scheme, way(20, loss, false), 2 << 20);
        let bbr = |loss| measure(Scheme::Stream(Congestion::Bbr), loss);
        let clean = bbr(0);
        assert_eq!(clean.missing, 0);
        assert!(clean.goodput > 10_000_000, "{clean:?}");
        let lossy = bbr(1);
        assert!(lossy.goodput * 10 > clean.goodput * 8, "{clean:?} {lossy:?}");
        let cubic = measure(Scheme::Stream(Congestion::Cubic), 1);
        assert!(cubic.goodput * 2 < lossy.goodput, "{cubic:?} {lossy:?}");
        // All at once is more than the queue takes, three times.
        let p2pd = measure(Scheme::P2pd, 0);
        assert!(p2pd.missing > 0 && p2pd.goodput < lossy.goodput, "{p2pd:?}");
        let paced = measure(Scheme::P2pdPaced, 0);
        assert_eq!(paced.missing, 0);
        assert!(paced.goodput > clean.goodput, "{paced:?} {clean:?}");
        assert!(measure(Scheme::P2pdPaced, 1).goodput < lossy.goodput);
    }
}
