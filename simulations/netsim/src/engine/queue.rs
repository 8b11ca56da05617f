//! A queue of future events, ordered by time. Events of one time keep the order in which they were put in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Nanos;

/// A stable priority queue. Items stay where they were put; only their times move about in the heap, since a packet
/// is five times as large as its time.
#[derive(Debug)]
pub struct Queue<T> {
    /// Time, number of insertion, and index in `items`.
    heap: BinaryHeap<Reverse<(Nanos, u64, u32)>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    put: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), items: Vec::new(), free: Vec::new(), put: 0 }
    }
}

impl<T> Queue<T> {
    /// Adds something that happens at `at`.
    pub fn put(&mut self, at: Nanos, item: T) {
        let place = match self.free.pop() {
            Some(place) => {
                self.items[place as usize] = Some(item);
                place
            }
            None => {
                self.items.push(Some(item));
                self.items.len() as u32 - 1
            }
        };
        self.heap.push(Reverse((at, self.put, place)));
        self.put += 1;
    }

    /// Returns the time of the next item.
    pub fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the next thing out.
    pub fn take(&mut self) -> Option<(Nanos, T)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        self.items[place as usize].take().map(|item| (at, item))
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Returns true if the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_by_time_and_then_in_the_order_they_were_put() {
        let mut queue = Queue::default();
        for (at, item) in [(5, 'a'), (3, 'b'), (5, 'c'), (3, 'd'), (4, 'e'), (5, 'f')] {
            queue.put(at, item);
        }
        let order: String = std::iter::from_fn(|| queue.take().map(|(_, item)| item)).collect();
        assert_eq!(order, "bdeacf");
    }

    #[test]
    fn places_are_used_again_and_order_holds() {
        let mut queue = Queue::default();
        let (mut state, mut now, mut taken) = (7u64, 0, 0);
        let mut waiting = std::collections::BTreeMap::new();
        for n in 0..10_000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (state >> 33) % 3 < 2 && queue.len() < 50 {
                let at = now + (state >> 40) % 10;
                queue.put(at, n);
                waiting.insert((at, n), ());
            } else if let Some((at, item)) = queue.take() {
                assert_eq!(waiting.pop_first().map(|(key, ())| key), Some((at, item)));
                now = at;
                taken += 1;
            }
        }
        assert!(taken > 3_000 && queue.items.len() <= 50, "{taken} {}", queue.items.len());
    }
}
