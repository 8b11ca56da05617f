//! Streams of what a call gives each time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

/// A call under way: what it gives, and the state of the next one. `None` ends the stream.
pub type Step<S, T> = Pin<Box<dyn Future<Output = Option<(T, S)>> + Send>>;

/// A stream of what a call gives each time. Giving up waiting for the next one loses nothing.
pub struct Calls<S, T> {
    call: fn(S) -> Step<S, T>,
    state: State<S, T>,
}

enum State<S, T> {
    Rests(S),
    Calls(Step<S, T>),
    Over,
}

/// Number of notices that a reader has lost since it was too slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost(pub u64);

impl<S, T> Calls<S, T> {
    /// Creates a stream of this call's results, which begins in this state.
    pub fn new(state: S, call: fn(S) -> Step<S, T>) -> Self {
        Calls { call, state: State::Rests(state) }
    }
}

impl<S: Unpin, T> Stream for Calls<S, T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Rests(state) => self.state = State::Calls((self.call)(state)),
                State::Calls(mut call) => {
                    let Poll::Ready(done) = call.as_mut().poll(cx) else {
                        self.state = State::Calls(call);
                        return Poll::Pending;
                    };
                    return Poll::Ready(done.map(|(item, state)| {
                        self.state = State::Rests(state);
                        item
                    }));
                }
                State::Over => return Poll::Ready(None),
            }
        }
    }
}

impl<S, T> fmt::Debug for Calls<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Rests(_) => "rests",
            State::Calls(_) => "waits",
            State::Over => "over",
        };
        f.debug_tuple("Calls").field(&state).finish()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} notices were lost: they came faster than they were read", self.0)
    }
}

impl std::error::Error for Lost {}
