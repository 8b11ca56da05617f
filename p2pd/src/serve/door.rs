//! Who may come in: so many TCP clients in all, and so many of one address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(super) struct Door {
    most: usize,
    most_of_one: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// A client's place, its until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    door: Arc<Door>,
    owner: IpAddr,
}

impl Door {
    pub(super) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Door { most, most_of_one, inside: Mutex::default() })
    }

    /// A place, if there is one for this client.
    pub(super) fn enter(self: &Arc<Self>, client: SocketAddr) -> Option<Place> {
        let owner = p2pd_rendezvous::owner(client.ip());
        let mut inside = self.inside();
        let its = inside.of.get(&owner).copied().unwrap_or_default();
        if inside.all >= self.most || its >= self.most_of_one {
            return None;
        }
        inside.all += 1;
        inside.of.insert(owner, its + 1);
        Some(Place { door: self.clone(), owner })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Nothing that the lock guards is left half done by a panic.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        inside.all -= 1;
        if let Some(its) = inside.of.get_mut(&self.owner) {
            *its -= 1;
            if *its == 0 {
                inside.of.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_owner_and_in_all_and_come_back() {
        let door = Door::new(4, 2);
        let enter = |from: &str| door.enter(from.parse().unwrap());
        let one = (enter("192.0.2.1:1"), enter("[::ffff:192.0.2.1]:2"));
        assert!(one.0.is_some() && one.1.is_some());
        assert!(enter("192.0.2.1:3").is_none(), "two of one address");
        let six = (enter("[2001:db8::1]:1"), enter("[2001:db8::2]:1"));
        assert!(six.0.is_some() && six.1.is_some());
        assert!(enter("192.0.2.2:1").is_none(), "four in all");
        drop(one.0);
        assert!(enter("[2001:db8::3]:1").is_none(), "an IPv6 network is one");
        assert!(enter("192.0.2.1:4").is_some());
        drop((one.1, six));
        let inside = door.inside();
        assert_eq!((inside.all, inside.of.len()), (0, 0));
    }
}
