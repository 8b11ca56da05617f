//! The async drivers by calls that block.

use std::future::Future;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::time::Duration;

use futures_lite::future::or;
use p2pd_async::Runtime;
use p2pd_core::pipe::session::SessionEnd;
use p2pd_core::{Config, PeerAddress, Plan, Stats, ToTarget};
use p2pd_sys::{BindError, ConnectError};

use super::{Call, Messages, Node, Outcome, Pipe, Session, Stream, Trace};

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

    fn connect_session(&self, to: &dyn ToTarget, plan: Plan) -> Result<Box<dyn Session>, ConnectError> {
        let session = R::block_on(self.connect_session_with(to, plan))?;
        Ok(Box::new(Talk(session, PhantomData::<R>)))
    }

    fn accept_session(&self, within: Duration) -> Option<Box<dyn Session>> {
        let late = async {
            R::sleep(within).await;
            None
        };
        Some(Box::new(Talk(R::block_on(or(self.accept_session(), late))?, PhantomData::<R>)))
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

/// A session whose calls block.
struct Talk<R>(p2pd_async::Session, PhantomData<R>);

/// A stream whose calls block, with the directions that it has.
struct Ends<R>(Option<p2pd_async::SendStream>, Option<p2pd_async::RecvStream>, PhantomData<R>);

impl<R: Block> Session for Talk<R> {
    fn open(&self, both: bool, tag: &[u8]) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(match both {
            true => {
                let (send, recv) = R::block_on(self.0.open_bi(tag))?;
                Ends(Some(send), Some(recv), PhantomData::<R>)
            }
            false => Ends(Some(R::block_on(self.0.open_uni(tag))?), None, PhantomData),
        }))
    }

    fn accept(&self, both: bool) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(match both {
            true => {
                let (send, recv) = R::block_on(self.0.accept_bi())?;
                Ends(Some(send), Some(recv), PhantomData::<R>)
            }
            false => Ends(None, Some(R::block_on(self.0.accept_uni())?), PhantomData),
        }))
    }

    fn send_datagram(&self, data: &[u8]) -> io::Result<()> {
        Ok(self.0.send_datagram(data.to_vec().into())?)
    }

    fn read_datagram(&self) -> io::Result<Vec<u8>> {
        Ok(R::block_on(self.0.read_datagram())?.to_vec())
    }

    fn moves(&self) -> u64 {
        self.0.moves()
    }

    fn delivered(&self) {
        R::block_on(self.0.delivered()).unwrap();
    }

    fn close(&self, code: u32, reason: &[u8]) {
        self.0.close(code, reason);
    }

    fn closed(&self) -> SessionEnd {
        R::block_on(self.0.closed())
    }
}

impl<R: Block> Read for Ends<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.1.as_mut().unwrap();
        Ok(R::block_on(poll_fn(|cx| end.poll_receive(cx, buffer)))?)
    }
}

impl<R: Block> Write for Ends<R> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let end = self.0.as_mut().unwrap();
        Ok(R::block_on(poll_fn(|cx| end.poll_send(cx, data)))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Block> Stream for Ends<R> {
    fn finish(&mut self) {
        self.0.as_mut().unwrap().finish();
    }

    fn reset(&mut self, code: u32) {
        self.0.as_mut().unwrap().reset(code);
    }

    fn stop(&mut self, code: u32) {
        self.1.as_mut().unwrap().stop(code);
    }

    fn tag(&self) -> Vec<u8> {
        let tag = self.0.as_ref().map(p2pd_async::SendStream::tag);
        tag.or(self.1.as_ref().map(p2pd_async::RecvStream::tag)).unwrap().to_vec()
    }
}
