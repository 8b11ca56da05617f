//! The task of a session: bytes between the session and its carriers, and calls for another carrier.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_channel::Receiver;
use bytes::Bytes;
use futures_core::Stream;
use p2pd_core::pipe::session::{CarrierId, CarrierKind, Opening, SessionToken};
use p2pd_core::{Event, Instant, NodeId, Plan, Target};
use p2pd_sys::session::{Calls, Ferry};

use super::{Sessions, Shared};
use crate::news::Events;
use crate::node::WeakNode;
use crate::peer::Pipe;
use crate::run::Called;
use crate::runtime::Runtime;
use crate::tcp::tried;

/// Longest time that what was written may take to arrive, once no user has the session.
const LEFT_WITHIN: Duration = Duration::from_secs(60);
/// Longest time for the last words to a peer.
const FAREWELL: Duration = Duration::from_secs(5);
/// Number of bytes by which what a session holds has to change to be counted anew.
const WEIGHED: usize = 16 << 10;

pub(crate) struct Pump<R: Runtime> {
    shared: Arc<Shared>,
    carriers: Vec<Carried<R>>,
    role: Role<R>,
    next: u32,
    timer: R::Timer,
    /// Time at which a session that no user has is closed, whatever has not arrived.
    left_until: Option<Instant>,
    /// Time at which the carriers are closed, whatever is left to say.
    closing: Option<Instant>,
}

/// Part of an end in further carriers.
pub(crate) enum Role<R: Runtime> {
    Caller(Box<Caller<R>>),
    Listener(Listener<R>),
}

/// The end that was called: the peer brings its carriers, and others' sessions hold bytes too.
pub(crate) struct Listener<R: Runtime> {
    coming: Pin<Box<Receiver<Pipe<R>>>>,
    sessions: Arc<Sessions<R>>,
    token: SessionToken,
    /// Bytes that the session held when that was last said.
    weighed: usize,
}

struct Carried<R: Runtime> {
    id: CarrierId,
    pipe: Pipe<R>,
    ferry: Ferry,
    /// True once the direction from us was ended.
    ended: bool,
}

type Calling<R> = Pin<Box<dyn Future<Output = Called<R>> + Send>>;

/// The end that called, which calls again.
pub(crate) struct Caller<R: Runtime> {
    node: WeakNode<R>,
    news: Events,
    to: Target,
    token: SessionToken,
    calls: Calls,
    calling: Option<Calling<R>>,
}

impl<R: Runtime> Listener<R> {
    pub(crate) fn new(sessions: &Arc<Sessions<R>>, token: SessionToken, coming: Receiver<Pipe<R>>) -> Self {
        Listener { coming: Box::pin(coming), sessions: sessions.clone(), token, weighed: 0 }
    }

    /// Returns false if the session has to end, as it holds so many bytes.
    fn may_hold(&mut self, peer: NodeId, held: usize) -> bool {
        if !is_news(self.weighed, held) {
            return true;
        }
        self.weighed = held;
        self.sessions.weigh(peer, self.token, held)
    }
}

impl<R: Runtime> Caller<R> {
    pub(crate) fn new(node: WeakNode<R>, news: Events, to: Target, plan: Plan, token: SessionToken) -> Self {
        Caller { node, news, to, token, calls: Calls::new(plan), calling: None }
    }

    /// Returns the next carrier, if one has opened.
    fn poll(&mut self, cx: &mut Context<'_>, now: Instant, lacks: bool, relayed: bool) -> Option<Pipe<R>> {
        while let Poll::Ready(Some(news)) = Pin::new(&mut self.news).poll_next(cx) {
            if matches!(news, Ok(Event::Ready { .. } | Event::Listening { .. })) {
                self.calls.network_changed();
            }
        }
        if let Some(plan) = self.calls.poll(now, lacks, relayed) {
            let (node, to) = (self.node.clone(), self.to.clone());
            self.calling = Some(Box::pin(async move { node.call(&to, plan).await }));
        }
        let Poll::Ready(outcome) = self.calling.as_mut()?.as_mut().poll(cx) else { return None };
        self.calling = None;
        self.calls.ended(now, lacks, outcome.is_ok());
        outcome.ok()
    }
}

/// Returns true if a session that held so many bytes holds much more or less now, or none.
fn is_news(before: usize, held: usize) -> bool {
    held.abs_diff(before) >= WEIGHED || (held == 0 && before > 0)
}

impl<R: Runtime> Pump<R> {
    pub(crate) fn new(shared: &Arc<Shared>, role: Role<R>) -> Self {
        let (carriers, timer) = (Vec::new(), R::timer());
        Pump { shared: shared.clone(), carriers, role, next: 0, timer, left_until: None, closing: None }
    }

    /// Adds a carrier, on which these bytes go first.
    pub(crate) fn attach(&mut self, pipe: Pipe<R>, opening: Option<Opening>) {
        let id = CarrierId(self.next);
        self.next += 1;
        let info = *pipe;
        let taken = self.shared.pumped(|state, now| {
            let taken = state.session.attach(now, id, info.carrier_kind());
            if taken {
                // Alone mostly, where a vector makes room for four.
                state.carriers.reserve_exact(1);
                state.carriers.push((id, info));
            }
            taken
        });
        if taken {
            let first = opening.map_or_else(Bytes::new, |opening| Bytes::copy_from_slice(&opening.encode()));
            self.carriers.reserve_exact(1);
            self.carriers.push(Carried { id, pipe, ferry: Ferry::new(first), ended: false });
        }
    }

    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Before anything is looked at: who changes it from now on wakes this task.
        self.shared.lock().task = Some(cx.waker().clone());
        while let Role::Listener(listener) = &mut self.role
            && let Poll::Ready(Some(pipe)) = listener.coming.as_mut().poll_next(cx)
        {
            self.attach(pipe, None);
        }
        let mut again = false;
        let shared = self.shared.clone();
        let over = self.closing.is_some();
        self.carriers.retain_mut(|carried| match carried.pump(cx, &shared, over) {
            Ok(more) => {
                again |= more;
                true
            }
            Err(()) => {
                shared.pumped(|state, now| {
                    state.session.handle_broken(now, carried.id);
                    state.carriers.retain(|(id, _)| *id != carried.id);
                });
                false
            }
        });
        let now = shared.now();
        let left_until = &mut self.left_until;
        let deadline = shared.pumped(|state, _| {
            if state.session.poll_timeout().is_some_and(|at| at <= now) {
                state.session.handle_timeout(now);
                again = true;
            }
            if state.left {
                let until = *left_until.get_or_insert(now + LEFT_WITHIN);
                if state.session.is_delivered() || until <= now {
                    state.session.close(now, 0, b"");
                }
            }
            let silent = std::mem::take(&mut state.silent);
            state.carriers.retain(|(id, _)| !silent.contains(id));
            self.carriers.retain(|carried| !silent.contains(&carried.id));
            state.session.poll_timeout().into_iter().chain(*left_until).min()
        });
        if shared.lock().session.is_over() {
            let until = *self.closing.get_or_insert(now + FAREWELL);
            if !over {
                again = true;
            }
            if self.carriers.is_empty() || until <= now {
                return Poll::Ready(());
            }
            return self.sleep(cx, Some(until), again);
        }
        if let Role::Listener(listener) = &mut self.role {
            let held = shared.lock().session.held();
            if !listener.may_hold(shared.peer, held) {
                shared.pumped(|state, now| state.session.shed(now));
                again = true;
            }
        }
        let (needs, relayed) = {
            let state = shared.lock();
            let on = state.session.carrier();
            let relayed = on.is_some_and(|(_, kind)| kind == CarrierKind::Relayed);
            (state.session.needs_carrier(), relayed)
        };
        let mut at = None;
        if let Role::Caller(caller) = &mut self.role {
            let opened = caller.poll(cx, now, needs, relayed);
            at = caller.calls.deadline(needs);
            let token = caller.token;
            if let Some(pipe) = opened {
                // A listener that never answered may not know of the session.
                let known = shared.lock().session.is_known();
                let opening = if known { Opening::Resume(token) } else { Opening::New(token) };
                self.attach(pipe, Some(opening));
                again = true;
            }
        }
        self.sleep(cx, deadline.into_iter().chain(at).min(), again)
    }

    /// Waits for the deadline, or gives others their turn if there is more to do.
    fn sleep(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>, again: bool) -> Poll<()> {
        if !again && let Some(at) = deadline {
            R::set_timer(&mut self.timer, self.shared.until(at));
            if R::poll_timer(&mut self.timer, cx).is_pending() {
                return Poll::Pending;
            }
        } else if !again {
            return Poll::Pending;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<R: Runtime> Carried<R> {
    /// Moves bytes both ways. Returns true if there may be more to move; an error if the carrier is over.
    fn pump(&mut self, cx: &mut Context<'_>, shared: &Shared, over: bool) -> Result<bool, ()> {
        let (id, pipe) = (self.id, &mut self.pipe);
        let take = |bytes| {
            shared.pumped(|state, now| {
                // The error is the session's end, and told as such.
                let _ = state.session.handle_bytes(now, id, bytes);
            });
        };
        let mut more = match self.ferry.receive(take, || tried(pipe.poll_read_chunk(cx))) {
            Ok(more) => more,
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(_) => return Err(()),
        };
        let next = || shared.pumped(|state, now| state.session.poll_output(now, id));
        let mut sent = false;
        match self.ferry.send(next, |data| tried(pipe.poll_write_vectored(cx, data))) {
            Ok(true) => more = true,
            Ok(false) => match pipe.poll_flush(cx) {
                Poll::Ready(Ok(())) => sent = true,
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => {}
            },
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(()),
        }
        if over && sent && !self.ended {
            // What the peer has sent is read until it has heard: a reset could overtake our last word.
            match pipe.poll_end(cx) {
                Poll::Ready(Ok(())) => self.ended = true,
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => {}
            }
        }
        Ok(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_weighed_when_it_holds_16_kib_more_or_nothing() {
        let rows = [(0, 0), (0, 16_383), (0, 16_384), (20_000, 3_617), (20_000, 3_616), (1, 0)];
        assert_eq!(rows.map(|(before, held)| is_news(before, held)), [false, false, true, false, true, true]);
    }
}
