//! Which pipes that were handed out are gone again.

use std::sync::{Arc, Mutex, PoisonError};

use p2pd_core::SockId;

/// The list of an engine. It is looked at in each turn of the loop: nobody waits for an old pipe's place but a new
/// caller, which wakes the loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Released(Arc<Mutex<Vec<SockId>>>);

/// A pipe's own mark: the pipe is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    sock: SockId,
    released: Released,
}

impl Released {
    pub(crate) fn hold(&self, sock: SockId) -> Held {
        Held { sock, released: self.clone() }
    }

    /// Those that are gone since the last call.
    pub(crate) fn take(&self) -> Vec<SockId> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.released.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.sock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_told_of_once_when_it_is_gone() {
        let released = Released::default();
        let [a, b] = [1, 2].map(|n| released.hold(SockId::accepted(n)));
        assert_eq!(released.take(), []);
        drop(a);
        assert_eq!(released.take(), [SockId::accepted(1)]);
        std::thread::spawn(move || drop(b)).join().unwrap();
        assert_eq!((released.take(), released.take()), (vec![SockId::accepted(2)], Vec::new()));
    }
}
