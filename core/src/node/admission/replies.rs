//! Rates of the messages that strangers and known peers have us send.

use core::time::Duration;

use crate::identity::NodeId;
use crate::limit::{Bucket, Buckets};
use crate::signal::message::Body;
use crate::strategy::ours::Trust;
use crate::time::Instant;

/// Messages of each worth to one peer that is known, and to one stranger: so many at once, then one each so often. A
/// node that knows our address can repeat a peer's messages to us. The answer to that is at most a refusal or the time,
/// which leaves the peer's answers alone.
const OF_ONE: [(u32, Duration); 2] = [(64, Duration::from_millis(100)), (16, Duration::from_secs(1))];
const STRANGERS_COUNTED: usize = 256;
const KNOWN_COUNTED: usize = 8192;

/// Worth of a message to a stranger, the greatest first. Brokers cut off a client that publishes too much (our own
/// broker beyond 100 a second). So all that strangers cause has a rate, and a flood of refusals leaves answers alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Worth {
    /// Answer without which the call fails.
    Answer,
    /// Report on the progress of a call.
    Report,
    Refusal,
}

/// Rate of each worth: so many at once, then one each so often.
const STRANGERS: [(u32, Duration); 3] =
    [(64, Duration::from_millis(16)), (32, Duration::from_millis(100)), (32, Duration::from_millis(100))];

impl Worth {
    pub(in crate::node) fn of(body: &Body) -> Self {
        match body {
            Body::Updated(_) | Body::TurnResponse(_) | Body::EchoReply(_) | Body::Prove { .. } => {
                Worth::Answer
            }
            Body::Dialling(_) | Body::Dialled { .. } => Worth::Report,
            _ => Worth::Refusal,
        }
    }
}

#[derive(Debug)]
pub(super) struct Replies {
    strangers: [Bucket; 3],
    /// Buckets by worth and by trust.
    of_one: [[Buckets<NodeId>; 2]; 3],
}

impl Replies {
    pub(super) fn new() -> Self {
        let of = |(cap, (burst, every))| Buckets::new(cap, burst, every);
        let [known, strangers] = OF_ONE;
        Replies {
            strangers: STRANGERS.map(|(burst, every)| Bucket::new(burst, every)),
            of_one: [(); 3].map(|()| [(KNOWN_COUNTED, known), (STRANGERS_COUNTED, strangers)].map(of)),
        }
    }

    /// Returns true if one more message may go out, and counts it.
    pub(super) fn take(&mut self, now: Instant, to: NodeId, trust: Trust, worth: Worth) -> bool {
        let of_one = &mut self.of_one[worth as usize][trust as usize];
        of_one.allows(now, to)
            && (trust == Trust::Known || self.strangers[worth as usize].take(now))
            && of_one.take(now, to)
    }
}
