//! Requests under way: sent again over UDP until they are answered (RFC 8489 section 6.2).

use core::time::Duration;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::integrity::IntegrityKey;
use crate::wire::stun::TransactionId;
use crate::wire::turn::Ask;

/// A request is sent at these times after its start, in ms: RTO 500 ms, doubled, Rc = 7.
const SEND_AT: [u64; 7] = [0, 500, 1500, 3500, 7500, 15_500, 31_500];
/// Time after which a request is given up, in ms: Rm = 16.
const GIVE_UP: u64 = 39_500;
/// The allocation ends by itself: giving it up is not worth more.
const RELEASE_GIVE_UP: u64 = 3500;

/// A request under way.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) ask: Ask,
    /// Time of the first request, before any 438. The lifetime that is granted counts from here.
    pub(super) begun: Instant,
    /// Number of times that the nonce was stale (438).
    pub(super) stale: u8,
    /// Key that the answer must be authenticated with, if the request was.
    pub(super) key: Option<IntegrityKey>,
    /// The ERROR-CODE of an answer that was not proven.
    pub(super) hint: Option<u16>,
    since: Instant,
    sent: usize,
    bytes: Bytes,
}

/// Step that is due.
#[derive(Debug)]
pub(super) enum Due {
    /// Send the request again.
    Send(Bytes),
    /// Give the request up. `hint`: ERROR-CODE of an answer that was not proven, if one came.
    GivenUp { hint: Option<u16> },
}

/// Requests under way.
#[derive(Debug)]
pub(super) struct Exchanges {
    over: Transport,
    open: BTreeMap<TransactionId, Exchange>,
}

impl Exchange {
    pub(super) fn new(ask: Ask, now: Instant, key: Option<IntegrityKey>, bytes: Bytes) -> Self {
        Exchange { ask, begun: now, stale: 0, key, hint: None, since: now, sent: 1, bytes }
    }

    /// The same, asked again because the nonce was stale.
    pub(super) fn in_place_of(self, old: &Exchange) -> Self {
        Exchange { begun: old.begun, stale: old.stale + 1, ..self }
    }

    /// Returns true if the request was sent more than once.
    pub(super) fn was_repeated(&self) -> bool {
        self.sent > 1
    }

    fn give_up(&self) -> u64 {
        match self.ask {
            Ask::Refresh { lifetime: 0 } => RELEASE_GIVE_UP,
            _ => GIVE_UP,
        }
    }

    fn next(&self, over: Transport) -> Instant {
        let again = SEND_AT.get(self.sent).filter(|_| over == Transport::Udp);
        let at = again.map_or(self.give_up(), |at| (*at).min(self.give_up()));
        self.since + Duration::from_millis(at)
    }
}

impl Exchanges {
    pub(super) fn new(over: Transport) -> Self {
        Exchanges { over, open: BTreeMap::new() }
    }

    /// Takes in a request that is sent now; returns its bytes, and when to [`drive`](Self::drive) it.
    pub(super) fn begin(&mut self, id: TransactionId, exchange: Exchange) -> (Bytes, Instant) {
        let (bytes, next) = (exchange.bytes.clone(), exchange.next(self.over));
        self.open.insert(id, exchange);
        (bytes, next)
    }

    pub(super) fn get_mut(&mut self, id: TransactionId) -> Option<&mut Exchange> {
        self.open.get_mut(&id)
    }

    /// Returns true if a request under way asks for this.
    pub(super) fn asks(&self, this: impl Fn(&Ask) -> bool) -> bool {
        self.open.values().any(|exchange| this(&exchange.ask))
    }

    /// The ERROR-CODE of an answer that was not proven to a request under way.
    pub(super) fn hint(&self) -> Option<u16> {
        self.open.values().find_map(|e| e.hint)
    }

    pub(super) fn end(&mut self, id: TransactionId) -> Option<Exchange> {
        self.open.remove(&id)
    }

    /// Ends those that ask for this; returns which they were.
    pub(super) fn end_all(&mut self, these: impl Fn(&Ask) -> bool) -> Vec<TransactionId> {
        let ended: Vec<_> = self.open.iter().filter(|(_, e)| these(&e.ask)).map(|(id, _)| *id).collect();
        self.open.retain(|_, e| !these(&e.ask));
        ended
    }

    /// Returns the step that is due for a request, and the time of the next one.
    pub(super) fn drive(&mut self, id: TransactionId, now: Instant) -> Option<(Due, Option<Instant>)> {
        let exchange = self.open.get_mut(&id)?;
        if exchange.since + Duration::from_millis(exchange.give_up()) <= now {
            let hint = self.open.remove(&id)?.hint;
            return Some((Due::GivenUp { hint }, None));
        }
        // After a pause of ours, one is sent in place of those that were missed.
        let gone = now.since(exchange.since);
        while SEND_AT.get(exchange.sent).is_some_and(|at| Duration::from_millis(*at) <= gone) {
            exchange.sent += 1;
        }
        Some((Due::Send(exchange.bytes.clone()), Some(exchange.next(self.over))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId([1; 12]);

    /// Returns the times at which a request is sent, and the time at which it is given up, in ms.
    fn times(over: Transport, ask: Ask) -> (Vec<i64>, i64) {
        let mut exchanges = Exchanges::new(over);
        let (mut sent, ms) = (vec![0], |at: Instant| at.as_nanos() / 1_000_000);
        let (_, mut next) = exchanges.begin(ID, Exchange::new(ask, Instant::ZERO, None, Bytes::new()));
        loop {
            match exchanges.drive(ID, next).unwrap() {
                (Due::Send(_), at) => {
                    sent.push(ms(next));
                    next = at.unwrap();
                }
                (Due::GivenUp { hint: None }, at) => {
                    assert!(at.is_none() && exchanges.end(ID).is_none());
                    return (sent, ms(next));
                }
                due => panic!("{due:?}"),
            }
        }
    }

    #[test]
    fn requests_are_sent_as_rfc_8489_has_it_over_udp_and_once_over_a_stream() {
        let refresh = Ask::Refresh { lifetime: 600 };
        let all = vec![0, 500, 1500, 3500, 7500, 15_500, 31_500];
        assert_eq!(times(Transport::Udp, refresh), (all, 39_500));
        assert_eq!(times(Transport::Tcp, refresh), (vec![0], 39_500));
        let release = Ask::Refresh { lifetime: 0 };
        assert_eq!(times(Transport::Udp, release), (vec![0, 500, 1500], 3500));
        assert_eq!(times(Transport::Tcp, release), (vec![0], 3500));
    }

    #[test]
    fn a_late_driver_sends_one_in_place_of_those_it_missed() {
        let mut exchanges = Exchanges::new(Transport::Udp);
        let ask = Ask::Refresh { lifetime: 600 };
        exchanges.begin(ID, Exchange::new(ask, Instant::ZERO, None, Bytes::new()));
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let (due, next) = exchanges.drive(ID, at(8000)).unwrap();
        assert!(matches!(due, Due::Send(_)));
        assert_eq!(next, Some(at(15_500)));
    }
}
