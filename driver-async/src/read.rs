//! The reading task, which delivers each message to its receivers.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;

use bytes::Bytes;
use p2pd_core::pipe::subscriptions::Message;
use p2pd_sys::messages::End;

use crate::carrier::{Read, Reader};
use crate::pipe::{Handle, MessagePipe};
use crate::runtime::Runtime;
use crate::shared::{Child, Closed, OnEnd, Shared, Step};

pub(crate) async fn run<R: Runtime>(shared: Arc<Shared<R>>, handle: Weak<Handle<R>>, reader: Reader<R>) {
    // Also when a callback panics, nobody is left waiting.
    let mut over = Over { shared: &shared, end: End::Closed };
    over.end = read(&shared, &handle, reader).await;
    // Somebody may have come while the end was read.
    while let Some(message) = shared.last(over.end) {
        if !deliver(&shared, &handle, message).await {
            over.end = End::Closed;
        }
    }
    let end = over.end;
    let (children, callbacks) = over.finish();
    drop(over);
    for child in &children {
        child.ended(end).await;
    }
    for callback in callbacks {
        callback(end).await;
    }
    for child in children {
        child.other_direction().await;
    }
}

async fn read<R: Runtime>(shared: &Arc<Shared<R>>, handle: &Weak<Handle<R>>, mut reader: Reader<R>) -> End {
    loop {
        let message = {
            let mut reading = pin!(reader.read());
            let mut before = None;
            let read = poll_fn(|cx| match shared.poll_step(cx) {
                Poll::Ready(Ok(Step::Read)) => reading.as_mut().poll(cx).map(Ok),
                Poll::Ready(Ok(Step::Deliver(message))) => {
                    before = Some(message);
                    Poll::Ready(Ok(Ok(Read::Before)))
                }
                Poll::Ready(Err(Closed)) => Poll::Ready(Err(Closed)),
                Poll::Pending => Poll::Pending,
            });
            match read.await {
                Ok(Ok(Read::Before)) => before,
                Ok(Ok(Read::Data(data, from))) => match from.or(shared.remote) {
                    Some(from) => shared.wanted(Message { data: Bytes::copy_from_slice(data), from }),
                    None => continue,
                },
                Ok(Ok(Read::End)) => return End::Peer,
                Ok(Err(e)) => return End::Failed(e.kind()),
                Err(Closed) => return End::Closed,
            }
        };
        // Whoever wanted it may have left meanwhile; then it is the next one's.
        let Some(message) = message else { continue };
        if !deliver(shared, handle, message).await {
            return End::Closed;
        }
    }
}

/// Delivers a message. Returns false if nobody holds the pipe any more, or if the pipe is broken off because a joined
/// one is.
async fn deliver<R: Runtime>(shared: &Shared<R>, handle: &Weak<Handle<R>>, message: Message) -> bool {
    let (callbacks, children, arrived) = {
        let mut inbox = shared.inbox();
        if !inbox.unique.is_new(&message.data, message.from) {
            return true;
        }
        inbox.subscriptions.deliver(&message.data, message.from);
        (inbox.callbacks.clone(), inbox.children.clone(), inbox.arrived.take())
    };
    arrived.now();
    for (_, callback) in callbacks {
        let Some(handle) = handle.upgrade() else { return false };
        callback(message.clone(), MessagePipe { handle }).await;
    }
    for child in children {
        if child.send(&message.data).await {
            continue;
        }
        shared.inbox().children.retain(|c| !c.pipe.is(&child.pipe));
        if child.joined {
            let Some(handle) = handle.upgrade() else { return false };
            MessagePipe { handle }.abort().await;
            return false;
        }
    }
    true
}

/// Says at its end that reading is over.
struct Over<'a, R: Runtime> {
    shared: &'a Shared<R>,
    end: End,
}

impl<R: Runtime> Over<'_, R> {
    /// Ends the reading, and returns the children and callbacks to be told. Callbacks and links added later are called
    /// at once, by their adder.
    fn finish(&mut self) -> (Vec<Child<R>>, Vec<OnEnd>) {
        let (children, at_end) = self.shared.end_with(self.end);
        (children, at_end.into_iter().map(|(_, callback)| callback).collect())
    }
}

impl<R: Runtime> Drop for Over<'_, R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.close();
            self.finish();
        }
    }
}
