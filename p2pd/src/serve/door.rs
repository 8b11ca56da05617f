//! Places for TCP clients of the STUN and the TURN server. Each network has its share. Where all places are taken the
//! idlest client of the network that has most makes room.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use p2pd_rendezvous::{Crowd, Shares};
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Door {
    began: Instant,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    crowd: Crowd<u64>,
    next: u64,
    /// Notified when the client's place is given to another one.
    evicted: HashMap<u64, Arc<Notify>>,
}

/// A client's place, its until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    door: Arc<Door>,
    id: u64,
    evicted: Arc<Notify>,
}

impl Door {
    pub(super) fn new(shares: Shares) -> Arc<Self> {
        let inside = Inside { crowd: Crowd::new(shares), next: 0, evicted: HashMap::new() };
        Arc::new(Door { began: Instant::now(), inside: Mutex::new(inside) })
    }

    /// A place, if there is one for this client.
    pub(super) fn enter(self: &Arc<Self>, client: SocketAddr) -> Option<Place> {
        let mut inside = self.lock();
        let id = inside.next;
        if let Some(gone) = inside.crowd.enter(self.began.elapsed(), id, client.ip()).ok()?
            && let Some(evicted) = inside.evicted.remove(&gone)
        {
            evicted.notify_one();
        }
        inside.next += 1;
        let evicted = Arc::new(Notify::new());
        inside.evicted.insert(id, evicted.clone());
        Some(Place { door: self.clone(), id, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing that the lock guards is left half done by a panic.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The client has asked something.
    pub(super) fn heard(&self) {
        self.door.lock().crowd.heard(self.door.began.elapsed(), &self.id);
    }

    /// Waits until the place is another's.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.lock();
        inside.crowd.leave(&self.id);
        inside.evicted.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_come_back_and_the_idlest_is_told_when_its_place_is_anothers() {
        let door = Door::new(Shares { all: 4, one: 2 });
        let enter = |from: &str| door.enter(from.parse().unwrap());
        let one = [enter("192.0.2.1:1").unwrap(), enter("[::ffff:192.0.2.1]:2").unwrap()];
        assert!(enter("192.0.2.1:3").is_none(), "two of one address");
        let six = [enter("[2001:db8::1]:1").unwrap(), enter("[2001:db8:1::1]:1").unwrap()];
        one[0].heard();
        let late = enter("198.51.100.2:1").unwrap();
        one[1].evicted().await;
        drop(one);
        assert!(enter("192.0.2.1:4").is_some());
        drop((six, late));
        let inside = door.lock();
        assert_eq!((inside.crowd.len(), inside.evicted.len()), (0, 0));
    }
}
