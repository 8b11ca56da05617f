//! The async drivers by calls that block.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_lite::future::or;
use p2pd_async::Runtime;
use p2pd_core::{Config, PeerAddress, Plan, Stats, ToTarget};
use p2pd_sys::{BindError, ConnectError};

use super::{Call, Messages, Node, Outcome, Pipe, Trace};

/// A runtime whose futures a thread waits for.
pub(super) trait Block: Runtime {
    fn block_on<T>(work: impl Future<Output = T>) -> T;
}

/// A driver's pipe, whose calls block.
pub(super) struct Blocking<P>(pub(super) P);

pub(super) fn bind<R: Block>(config: Config, trace: Option<Trace>) -> Result<Box<dyn Node>, BindError>
where
    Blocking<R::Pipe>: Pipe,
{
    let mut builder = p2pd_async::Node::<R>::builder(config);
    if let Some(trace) = trace {
        builder = builder.trace(trace);
    }
    Ok(Box::new(R::block_on(builder.bind())?))
}

impl<R: Block> Node for p2pd_async::Node<R>
where
    Blocking<R::Pipe>: Pipe,
{
    fn address(&self) -> PeerAddress {
        R::block_on(self.address())
    }

    fn begin(&self, to: &dyn ToTarget, plan: Plan) -> Result<Box<dyn Call>, ConnectError> {
        Ok(Box::new(R::block_on(self.start_connect(to, plan))?))
    }

    fn accept(&self, within: Duration) -> Option<Box<dyn Pipe>> {
        let late = async {
            R::sleep(within).await;
            None
        };
        Some(Box::new(Blocking(R::block_on(or(self.accept(), late))?)))
    }

    fn stats(&self) -> Stats {
        R::block_on(self.stats()).unwrap_or_default()
    }

    fn shutdown(&self) {
        R::block_on(self.shutdown());
    }
}

impl<R: Block> Call for p2pd_async::Connecting<R>
where
    Blocking<R::Pipe>: Pipe,
{
    fn wait(self: Box<Self>) -> Outcome {
        Ok(Box::new(Blocking(R::block_on(*self)?)))
    }
}

impl<R: Block> Messages for p2pd_async::Messages<R> {
    fn send(&self, message: &[u8]) -> io::Result<()> {
        R::block_on(self.send(message))
    }

    fn recv(&self) -> io::Result<Vec<u8>> {
        R::block_on(self.recv())
    }
}
