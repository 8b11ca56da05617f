//! Pipes of messages of tokio and async-std, whose calls are futures.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use p2pd_async::{
    Daemon, Destination, End, Family, ListenError, Message, MessagePipe, OpenError, Pattern, PipeOptions,
    Protocol, Queue, RecvError, Route, Runtime, SubscriptionId, Target,
};

use super::{Key, NoMessage, Pipes};
use crate::drivers::futures::Block;

pub(super) struct Blocking<R: Runtime> {
    each: Mutex<Vec<MessagePipe<R>>>,
}

impl<R: Runtime> Default for Blocking<R> {
    fn default() -> Self {
        Blocking { each: Mutex::default() }
    }
}

impl<R: Runtime> Blocking<R> {
    fn get(&self, pipe: Key) -> MessagePipe<R> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)[pipe].clone()
    }

    fn keep(&self, pipe: MessagePipe<R>) -> Key {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        each.push(pipe);
        each.len() - 1
    }
}

impl<R: Block> Pipes for Blocking<R> {
    fn open(
        &self,
        protocol: Protocol,
        to: Destination,
        route: Route,
        options: &PipeOptions,
    ) -> Result<Key, OpenError> {
        R::block_on(MessagePipe::open(protocol, to, route, options)).map(|pipe| self.keep(pipe))
    }

    fn bind(&self, route: Route, options: &PipeOptions) -> Key {
        self.keep(R::block_on(async { MessagePipe::bind(route, options) }).unwrap())
    }

    fn pair(&self, options: &PipeOptions) -> [Key; 2] {
        let [ours, theirs] = R::block_on(async {
            let at = ([127, 0, 0, 1], 0).into();
            let mut daemon = Daemon::<R>::listen_specific(&[(at, Protocol::Tcp)], options).unwrap();
            let to = daemon.bound()[0].0;
            let ours = MessagePipe::open(Protocol::Tcp, to, Route::V4, options).await.unwrap();
            [ours, daemon.accept().await.unwrap()]
        });
        [self.keep(ours), self.keep(theirs)]
    }

    fn echo(
        &self,
        ports: RangeInclusive<u16>,
        families: &[Family],
    ) -> Result<Vec<(SocketAddr, Protocol)>, ListenError> {
        R::block_on(async {
            let both = [Protocol::Tcp, Protocol::Udp];
            let (targets, options) = ([Target::Loopback], PipeOptions::default());
            let daemon = Daemon::<R>::listen_all(&targets, &[ports], &both, families, &options)?;
            let bound = daemon.bound().to_vec();
            // Until the process ends.
            R::spawn(daemon.serve(|message, pipe| async move {
                let _ = pipe.send_to(&message.data, message.from).await;
            }));
            Ok(bound)
        })
    }

    fn local(&self, pipe: Key) -> SocketAddr {
        self.get(pipe).local_addr()
    }

    fn subscribe(&self, pipe: Key, message: Pattern, queue: Queue) -> SubscriptionId {
        self.get(pipe).subscribe_with(message, Pattern::ANY, queue).unwrap()
    }

    fn count(&self, pipe: Key, of: SubscriptionId) -> (usize, u64) {
        let pipe = self.get(pipe);
        (pipe.waiting(of).unwrap(), pipe.dropped(of).unwrap())
    }

    fn recv(&self, pipe: Key, from: SubscriptionId, within: Duration) -> Result<Message, NoMessage> {
        R::block_on(async { self.get(pipe).recv_from(from, within).await }).map_err(|why| match why {
            RecvError::TimedOut => NoMessage::Late,
            RecvError::Ended(end) => NoMessage::Ended(end),
            RecvError::NoSuchSubscription => NoMessage::Gone,
        })
    }

    fn send(&self, pipe: Key, data: &[u8]) -> bool {
        R::block_on(self.get(pipe).send(data)).is_ok()
    }

    fn link(&self, from: Key, to: Key) {
        R::block_on(async { self.get(from).add_pipe(&self.get(to)) });
    }

    fn join(&self, one: Key, other: Key) {
        R::block_on(async { self.get(one).join(&self.get(other)) });
    }

    fn finish(&self, pipe: Key) {
        R::block_on(self.get(pipe).finish()).unwrap();
    }

    fn close(&self, pipe: Key) {
        R::block_on(self.get(pipe).close());
    }

    fn abort(&self, pipe: Key) {
        R::block_on(self.get(pipe).abort());
    }

    fn ended(&self, pipe: Key) -> End {
        R::block_on(self.get(pipe).ended())
    }
}
