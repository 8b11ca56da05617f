//! The task that reads, and does with each message what was asked for.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use p2pd_core::pipe::subscriptions::Message;

use super::carrier::{Read, Reader};
use super::open::Protocol;
use super::pipe::{End, Handle, MessagePipe, SendError};
use super::shared::{Child, OnEnd, Shared, closed};

pub(super) async fn run(shared: Arc<Shared>, handle: Weak<Handle>, reader: Reader) {
    // Also when a callback panics, nobody waits in vain.
    let mut over = Over { shared: &shared, end: End::Closed };
    over.end = read(&shared, &handle, reader).await;
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

async fn read(shared: &Arc<Shared>, handle: &Weak<Handle>, mut reader: Reader) -> End {
    let mut state = shared.state.subscribe();
    loop {
        let wanted = shared.inbox().wants();
        let message = tokio::select! {
            biased;
            () = closed(&mut state) => return End::Closed,
            () = shared.changed.notified() => continue,
            read = reader.read(), if wanted => match read {
                Ok(Read::Data(data, from)) => match from.or(shared.remote) {
                    Some(from) => Message { data: Bytes::copy_from_slice(data), from },
                    None => continue,
                },
                Ok(Read::End) => return End::Peer,
                Err(e) => return End::Failed(e.kind()),
            },
        };
        // Whoever wanted it may have left meanwhile; then it is the next one's.
        while !shared.inbox().wants() {
            tokio::select! {
                biased;
                () = closed(&mut state) => return End::Closed,
                () = shared.changed.notified() => {}
            }
        }
        if !deliver(shared, handle, message).await {
            return End::Closed;
        }
    }
}

/// False: nobody holds the pipe any more, or it is broken off because one that is joined to it is.
async fn deliver(shared: &Arc<Shared>, handle: &Weak<Handle>, message: Message) -> bool {
    let (callbacks, children) = {
        let mut inbox = shared.inbox();
        if !inbox.unique.is_new(&message.data, message.from) {
            return true;
        }
        inbox.subscriptions.deliver(&message.data, message.from);
        (inbox.callbacks.clone(), inbox.children.clone())
    };
    shared.arrived.notify_waiters();
    for (_, callback) in callbacks {
        let Some(handle) = handle.upgrade() else { return false };
        callback(message.clone(), MessagePipe { handle }).await;
    }
    for child in children {
        match child.pipe.send(&message.data).await {
            Ok(()) => continue,
            // It was one datagram that could not be sent.
            Err(SendError::Failed(_)) if child.pipe.protocol() == Protocol::Udp => continue,
            Err(_) => {}
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
struct Over<'a> {
    shared: &'a Shared,
    end: End,
}

impl Over<'_> {
    /// Whom to tell. From here on whoever adds a callback or a link calls it.
    fn finish(&mut self) -> (Vec<Child>, Vec<OnEnd>) {
        let mut inbox = self.shared.inbox();
        inbox.over = true;
        let callbacks = std::mem::take(&mut inbox.callbacks);
        let children = std::mem::take(&mut inbox.children);
        let at_end = inbox.at_end.drain(..).map(|(_, callback)| callback).collect();
        drop(inbox);
        // What callbacks hold may be pipes, whose end takes locks.
        drop(callbacks);
        self.shared.state.send_if_modified(|state| state.end.replace(self.end) != Some(self.end));
        (children, at_end)
    }
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.close();
            self.finish();
        }
    }
}
