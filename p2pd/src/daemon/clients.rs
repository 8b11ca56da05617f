//! Connections to the API over TCP, which every user of this machine can open. One that has shown the token is not
//! pushed out by those that have not.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// Connections that have not shown the token, where one is asked for.
const STRANGERS: usize = 256;
/// Connections that have, or all where none is asked for.
const TRUSTED: usize = 768;

/// All connections.
#[derive(Debug)]
pub(super) struct Clients {
    /// Connections by the order in which they were last idle, the oldest first.
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
    strangers: usize,
}

/// A connection as its task has it. When dropped, it leaves the list.
#[derive(Debug)]
pub(super) struct Held {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

#[derive(Debug)]
struct Client {
    state: Mutex<State>,
    /// Notified when the place of this client is given to another one.
    out: Notify,
}

#[derive(Debug)]
struct State {
    /// Key of this client in the list.
    number: u64,
    requests: usize,
    trusted: bool,
}

impl Client {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if no request is under way on it.
    fn is_idle(&self) -> bool {
        self.state().requests == 0
    }
}

impl Clients {
    pub(super) fn new(token: bool) -> Arc<Self> {
        let strangers = if token { STRANGERS } else { STRANGERS + TRUSTED };
        Arc::new(Clients { open: Mutex::default(), strangers })
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new one in. Where there are too many that have shown no token, the one makes room that has been idle for
    /// the longest time. `None` if all of them are busy.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Held> {
        let mut open = self.open();
        let strangers = open.values().filter(|client| !client.state().trusted).count();
        if strangers >= self.strangers {
            Self::push_out(&mut open, false)?;
        }
        let number = next(&open);
        let state = Mutex::new(State { number, requests: 0, trusted: false });
        let client = Arc::new(Client { state, out: Notify::new() });
        open.insert(number, client.clone());
        drop(open);
        Some(Held { clients: self.clone(), client })
    }

    fn push_out(open: &mut BTreeMap<u64, Arc<Client>>, trusted: bool) -> Option<()> {
        let idlest = |client: &Arc<Client>| client.state().trusted == trusted && client.is_idle();
        let number = *open.iter().find(|(_, client)| idlest(client))?.0;
        open.remove(&number)?.out.notify_one();
        Some(())
    }
}

fn next(open: &BTreeMap<u64, Arc<Client>>) -> u64 {
    open.last_key_value().map_or(0, |(last, _)| last + 1)
}

impl Held {
    /// Waits until the place is needed.
    pub(super) async fn pushed_out(&self) {
        self.client.out.notified().await;
    }

    /// A request has come, and the token with it or not.
    pub(super) fn begin(&self, shown: bool) -> Request {
        let mut open = self.clients.open();
        let trusted = open.values().filter(|client| client.state().trusted).count();
        let mut state = self.client.state();
        state.requests += 1;
        let becomes = shown && !state.trusted;
        drop(state);
        // With no idle one among so many it goes on as a stranger.
        if becomes && (trusted < TRUSTED || Clients::push_out(&mut open, true).is_some()) {
            self.client.state().trusted = true;
        }
        drop(open);
        Request { clients: self.clients.clone(), client: self.client.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        let number = self.client.state().number;
        if open.get(&number).is_some_and(|client| Arc::ptr_eq(client, &self.client)) {
            open.remove(&number);
        }
    }
}

/// A request, until its answer is out.
#[derive(Debug)]
pub(super) struct Request {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        let mut state = self.client.state();
        state.requests -= 1;
        // Idle from now on, so the last one to make room.
        if open.get(&state.number).is_some_and(|client| Arc::ptr_eq(client, &self.client)) {
            let client = open.remove(&state.number);
            state.number = next(&open);
            open.extend(client.map(|client| (state.number, client)));
        }
    }
}

/// An answer's body, with which the request ends.
pub(super) struct Answering {
    body: Body,
    _request: Request,
}

impl Answering {
    pub(super) fn new(body: Body, request: Request) -> Self {
        Answering { body, _request: request }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_out(held: &Held) -> bool {
        use futures_util::FutureExt;
        held.pushed_out().now_or_never().is_some()
    }

    #[test]
    fn the_idlest_stranger_makes_room_and_nobody_else() {
        let clients = Clients::new(true);
        let trusted = clients.enter().unwrap();
        drop(trusted.begin(true));
        let strangers: Vec<Held> = (0..STRANGERS).map(|_| clients.enter().unwrap()).collect();
        assert!(!strangers.iter().any(is_out));
        // The first has just asked something, and the second is asking.
        drop(strangers[0].begin(false));
        let asking = strangers[1].begin(false);
        let new = clients.enter().unwrap();
        assert!(is_out(&strangers[2]));
        assert!(![&trusted, &new, &strangers[0], &strangers[1], &strangers[3]].into_iter().any(is_out));
        drop(asking);
        let more: Vec<Held> = (0..10 * STRANGERS).map(|_| clients.enter().unwrap()).collect();
        assert_eq!(strangers.iter().filter(|held| is_out(held)).count(), STRANGERS - 1);
        assert!(!is_out(&trusted));
        drop(strangers);
        assert_eq!(clients.open().len(), STRANGERS + 1, "those that were pushed out are not counted twice");
        drop((more, new));
        assert_eq!(clients.open().len(), 1);
    }

    #[test]
    fn those_that_are_busy_stay() {
        let clients = Clients::new(false);
        let held: Vec<Held> = (0..STRANGERS + TRUSTED).map(|_| clients.enter().unwrap()).collect();
        let busy: Vec<Request> = held.iter().map(|held| held.begin(false)).collect();
        assert!(clients.enter().is_none() && !held.iter().any(is_out));
        drop(busy);
        assert!(clients.enter().is_some() && is_out(&held[0]));
    }
}
