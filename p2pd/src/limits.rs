//! Places for what peers open: of each and of all, so that no peer has them all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Places that are shared out by who asks.
#[derive(Debug)]
pub(crate) struct Places<K> {
    of_one: usize,
    of_all: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    by: HashMap<K, usize>,
    all: usize,
}

/// Place that is given back when dropped.
#[derive(Debug)]
pub(crate) struct Held<K: Hash + Eq + Copy> {
    of: K,
    places: Arc<Places<K>>,
}

impl<K: Hash + Eq + Copy> Places<K> {
    pub(crate) fn new(of_one: usize, of_all: usize) -> Arc<Self> {
        let taken = Mutex::new(Taken { by: HashMap::new(), all: 0 });
        Arc::new(Places { of_one, of_all, taken })
    }

    /// Takes a place; `None` if there is none.
    pub(crate) fn take(self: &Arc<Self>, of: K) -> Option<Held<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let its = taken.by.get(&of).copied().unwrap_or(0);
        if its >= self.of_one || taken.all >= self.of_all {
            return None;
        }
        taken.by.insert(of, its + 1);
        taken.all += 1;
        Some(Held { of, places: self.clone() })
    }
}

impl<K: Hash + Eq + Copy> Drop for Held<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(its) = taken.by.get_mut(&self.of) {
            *its -= 1;
            if *its == 0 {
                taken.by.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_its_places_and_all_have_theirs() {
        let places = Places::new(2, 3);
        let [a, b] = [(); 2].map(|()| places.take(1).unwrap());
        assert!(places.take(1).is_none());
        let c = places.take(2).unwrap();
        assert!(places.take(2).is_none() && places.take(3).is_none());
        drop(a);
        let again = places.take(1).unwrap();
        assert!(places.take(2).is_none());
        drop((b, c, again));
        assert!(places.taken.lock().unwrap().by.is_empty());
        assert_eq!(places.taken.lock().unwrap().all, 0);
    }
}
