//! `p2pd-async-std` by calls that block.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use futures_lite::future::{block_on, or};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use p2pd_core::{Config, PeerAddress, Plan, Stats, ToTarget};
use p2pd_sys::{BindError, ConnectError, PipeInfo};

use super::{Call, Messages, Node, Outcome, Pipe, Trace};

pub(super) fn bind(config: Config, trace: Option<Trace>) -> Result<Box<dyn Node>, BindError> {
    let mut builder = p2pd_async_std::Node::builder(config);
    if let Some(trace) = trace {
        builder = builder.trace(trace);
    }
    Ok(Box::new(block_on(builder.bind())?))
}

impl Node for p2pd_async_std::Node {
    fn address(&self) -> PeerAddress {
        block_on(self.address())
    }

    fn begin(&self, to: &dyn ToTarget, plan: Plan) -> Result<Box<dyn Call>, ConnectError> {
        Ok(Box::new(block_on(self.start_connect(to, plan))?))
    }

    fn accept(&self, within: Duration) -> Option<Box<dyn Pipe>> {
        let late = async {
            async_io::Timer::after(within).await;
            None
        };
        Some(Box::new(Blocking(block_on(or(self.accept(), late))?)))
    }

    fn stats(&self) -> Stats {
        block_on(self.stats()).unwrap_or_default()
    }

    fn shutdown(&self) {
        block_on(self.shutdown());
    }
}

impl Call for p2pd_async_std::Connecting {
    fn wait(self: Box<Self>) -> Outcome {
        Ok(Box::new(Blocking(block_on(*self)?)))
    }
}

struct Blocking(p2pd_async_std::Pipe);

impl Read for Blocking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        block_on(self.0.read(buf))
    }
}

impl Write for Blocking {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        block_on(self.0.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        block_on(self.0.flush())
    }
}

impl Pipe for Blocking {
    fn end(&mut self) -> io::Result<()> {
        block_on(self.0.close())
    }

    fn info(&self) -> PipeInfo {
        *self.0
    }

    fn messages(&mut self) -> io::Result<Box<dyn Messages>> {
        Ok(Box::new(self.0.messages()?))
    }

    fn into_std(self: Box<Self>) -> io::Result<TcpStream> {
        self.0.into_std()
    }
}

impl Messages for p2pd_async_std::Messages {
    fn send(&self, message: &[u8]) -> io::Result<()> {
        block_on(self.send(message))
    }

    fn recv(&self) -> io::Result<Vec<u8>> {
        block_on(self.recv())
    }
}
