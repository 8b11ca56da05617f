//! Choice of the record of a name to believe, out of all that brokers have.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{Name, NameError, NamePin, Record};
use crate::identity::NodeId;

/// Most names whose keys are remembered; a further one is not resolved rather than believed anew each time.
const MAX_PINS: usize = 4096;
/// Most keys whose records are kept of one name: the pinned one always, and enough of others to see that there are
/// several.
const MAX_KEYS: usize = 4;

/// The keys that names had when they were first seen.
#[derive(Debug, Default)]
pub(crate) struct Pins(BTreeMap<Name, NamePin>);

impl Pins {
    pub(crate) fn get(&self, name: Name) -> Option<NamePin> {
        self.0.get(&name).copied()
    }

    /// Remembers a pin that the user kept. The first key stays, and so does the highest sequence number.
    pub(crate) fn restore(&mut self, pin: NamePin) {
        if let Some(known) = self.0.get_mut(&pin.name) {
            if known.id == pin.id {
                known.sequence = known.sequence.max(pin.sequence);
            }
        } else if self.0.len() < MAX_PINS {
            self.0.insert(pin.name, pin);
        }
    }

    /// Takes in a record that is believed. Returns its pin, if the pin is new or changed.
    pub(crate) fn learn(
        &mut self,
        name: Name,
        id: NodeId,
        sequence: u64,
    ) -> Result<Option<NamePin>, NameError> {
        let full = self.0.len() >= MAX_PINS;
        match self.0.get_mut(&name) {
            Some(known) if known.id != id => Err(NameError::OtherKey { pinned: known.id, found: id }),
            Some(known) if known.sequence >= sequence => Ok(None),
            Some(known) => {
                known.sequence = sequence;
                Ok(Some(*known))
            }
            None if full => Err(NameError::TooMany),
            None => {
                let pin = NamePin { name, id, sequence };
                self.0.insert(name, pin);
                Ok(Some(pin))
            }
        }
    }
}

/// The valid records of one name that came in: of each key the one with the highest sequence number.
#[derive(Debug, Default)]
pub(crate) struct Found(SmallVec<[Box<Record>; 1]>);

impl Found {
    /// Takes a record in. A record of `wanted` always finds a place.
    pub(crate) fn add(&mut self, record: Record, wanted: Option<NodeId>) {
        if let Some(known) = self.0.iter_mut().find(|r| r.id == record.id) {
            if record.sequence > known.sequence {
                **known = record;
            }
        } else if self.0.len() < MAX_KEYS {
            self.0.push(Box::new(record));
        } else if wanted == Some(record.id) {
            self.0.pop();
            self.0.push(Box::new(record));
        }
    }

    pub(crate) fn of(&self, id: NodeId) -> Option<&Record> {
        self.0.iter().map(Box::as_ref).find(|r| r.id == id)
    }

    /// Finds another node than `id` that has the name, and has not given it up.
    pub(crate) fn other_than(&self, id: NodeId) -> Option<NodeId> {
        self.0.iter().find(|r| r.id != id && r.address.is_some()).map(|r| r.id)
    }

    /// Returns the record that is believed, which has an address.
    pub(crate) fn decide(&self, pin: Option<NamePin>) -> Result<&Record, NameError> {
        if let Some(pin) = pin {
            let other = self.other_than(pin.id).map(|found| NameError::OtherKey { pinned: pin.id, found });
            return match self.of(pin.id) {
                Some(r) if r.sequence < pin.sequence => {
                    Err(NameError::Stale { found: r.sequence, known: pin.sequence })
                }
                Some(r) if r.address.is_some() => Ok(r),
                Some(_) => Err(other.unwrap_or(NameError::Released)),
                None => Err(other.unwrap_or(NameError::NotFound)),
            };
        }
        let mut live = self.0.iter().filter(|r| r.address.is_some());
        match (live.next(), live.next()) {
            (Some(one), Some(other)) => Err(NameError::Contested { one: one.id, other: other.id }),
            (Some(one), None) => Ok(one),
            (None, _) if self.0.is_empty() => Err(NameError::NotFound),
            (None, _) => Err(NameError::Released),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    fn id(n: u8) -> NodeId {
        SecretKey::from_bytes([n; 32]).node_id()
    }

    fn name() -> Name {
        "example".parse().unwrap()
    }

    fn record(of: u8, sequence: u64, live: bool) -> Record {
        let address = format!("None-0-0-{}", id(of)).parse().unwrap();
        Record { name: name(), id: id(of), sequence, expiry: 9, address: live.then(|| Box::new(address)) }
    }

    fn decided(records: &[(u8, u64, bool)], pin: Option<(u8, u64)>) -> Result<(NodeId, u64), NameError> {
        let mut found = Found::default();
        let pin = pin.map(|(n, sequence)| NamePin { name: name(), id: id(n), sequence });
        records.iter().for_each(|&(n, s, live)| found.add(record(n, s, live), pin.map(|p| p.id)));
        found.decide(pin).map(|r| (r.id, r.sequence))
    }

    #[test]
    fn the_highest_sequence_of_one_key_wins() {
        assert_eq!(decided(&[], None), Err(NameError::NotFound));
        assert_eq!(decided(&[(1, 5, true), (1, 7, true), (1, 6, true)], None), Ok((id(1), 7)));
        assert_eq!(decided(&[(1, 5, true), (1, 6, false)], None), Err(NameError::Released));
        assert_eq!(decided(&[(1, 7, true), (1, 6, false)], None), Ok((id(1), 7)));
    }

    #[test]
    fn two_keys_without_a_pin_are_nobodys() {
        let contested = Err(NameError::Contested { one: id(1), other: id(2) });
        assert_eq!(decided(&[(1, 5, true), (2, u64::MAX, true)], None), contested);
        assert_eq!(decided(&[(1, 9, false), (2, 1, true)], None), Ok((id(2), 1)), "the first one left");
    }

    #[test]
    fn the_pinned_key_stands_whatever_others_say() {
        let pin = Some((1, 5));
        assert_eq!(decided(&[(2, 9, true), (1, 5, true)], pin), Ok((id(1), 5)));
        let other = Err(NameError::OtherKey { pinned: id(1), found: id(2) });
        assert_eq!(decided(&[(2, 9, true)], pin), other);
        assert_eq!(decided(&[(2, 9, true), (1, 6, false)], pin), other, "it has passed on");
        assert_eq!(decided(&[(1, 4, true)], pin), Err(NameError::Stale { found: 4, known: 5 }));
        assert_eq!(decided(&[(1, 5, false)], pin), Err(NameError::Released));
        assert_eq!(decided(&[(2, 5, false)], pin), Err(NameError::NotFound));
        let crowd: Vec<_> = (2..40).map(|n| (n, 9, true)).chain([(1, 5, true)]).collect();
        assert_eq!(decided(&crowd, pin), Ok((id(1), 5)), "among more keys than are kept");
    }

    #[test]
    fn pins_keep_the_first_key_and_the_highest_sequence() {
        let mut pins = Pins::default();
        let pin = |sequence| NamePin { name: name(), id: id(1), sequence };
        assert_eq!(pins.learn(name(), id(1), 5), Ok(Some(pin(5))));
        assert_eq!(pins.learn(name(), id(1), 5), Ok(None));
        assert_eq!(pins.learn(name(), id(1), 8), Ok(Some(pin(8))));
        pins.restore(NamePin { id: id(2), ..pin(99) });
        pins.restore(pin(7));
        assert_eq!(pins.get(name()), Some(pin(8)));
        let other = NameError::OtherKey { pinned: id(1), found: id(2) };
        assert_eq!(pins.learn(name(), id(2), 9), Err(other));
        for n in 0..MAX_PINS {
            pins.restore(NamePin { name: format!("n{n}").parse().unwrap(), ..pin(1) });
        }
        assert_eq!(pins.learn("one-more".parse().unwrap(), id(1), 1), Err(NameError::TooMany));
    }
}
