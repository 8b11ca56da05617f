//! Tasks that wait for a change. They are kept beside the changed state and under its lock, so that nothing comes
//! between looking and waiting. They are woken after the lock is released: a task that is woken under it runs on
//! another core against the lock (measured with event-listener: a quarter less throughput).

use std::task::{Context, Waker};

use smallvec::SmallVec;

/// Waiting tasks; mostly one.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    each: Woken,
    next: u64,
}

type Woken = SmallVec<[(u64, Waker); 1]>;

/// A task's place among them, once it has waited.
#[derive(Debug, Default)]
pub(crate) struct Ticket(Option<u64>);

impl Waiters {
    pub(crate) fn wait(&mut self, ticket: &mut Ticket, cx: &Context<'_>) {
        let number = *ticket.0.get_or_insert_with(|| {
            self.next += 1;
            self.next
        });
        match self.each.iter_mut().find(|(known, _)| *known == number) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => self.each.push((number, cx.waker().clone())),
        }
    }

    pub(crate) fn leave(&mut self, ticket: &Ticket) {
        if let Some(number) = ticket.0 {
            self.each.retain(|(known, _)| *known != number);
        }
    }

    /// All of them, to be woken without the lock.
    pub(crate) fn take(&mut self) -> Wake {
        Wake(std::mem::take(&mut self.each))
    }
}

impl Ticket {
    pub(crate) fn has_waited(&self) -> bool {
        self.0.is_some()
    }
}

/// Tasks to wake.
#[must_use = "they wait"]
pub(crate) struct Wake(Woken);

impl Wake {
    pub(crate) fn now(self) {
        for (_, waker) in self.0 {
            waker.wake();
        }
    }
}
