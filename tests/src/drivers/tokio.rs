//! `p2pd-tokio` by calls that block.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

use p2pd_core::{Config, PeerAddress, Plan, Stats, ToTarget};
use p2pd_sys::{BindError, ConnectError, PipeInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{Call, Messages, Node, Outcome, Pipe, Trace};

/// The runtime of every node here.
///
/// # Panics
/// Where no runtime can be made.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

pub(super) fn bind(config: Config, trace: Option<Trace>) -> Result<Box<dyn Node>, BindError> {
    let mut builder = p2pd_tokio::Node::builder(config);
    if let Some(trace) = trace {
        builder = builder.trace(trace);
    }
    Ok(Box::new(runtime().block_on(builder.bind())?))
}

impl Node for p2pd_tokio::Node {
    fn address(&self) -> PeerAddress {
        runtime().block_on(self.address())
    }

    fn begin(&self, to: &dyn ToTarget, plan: Plan) -> Result<Box<dyn Call>, ConnectError> {
        Ok(Box::new(runtime().block_on(self.start_connect(to, plan))?))
    }

    fn accept(&self, within: Duration) -> Option<Box<dyn Pipe>> {
        let pipe = runtime().block_on(async { timeout(within, self.accept()).await }).ok()??;
        Some(Box::new(Blocking(pipe)))
    }

    fn stats(&self) -> Stats {
        runtime().block_on(self.stats()).unwrap_or_default()
    }

    fn shutdown(&self) {
        runtime().block_on(self.shutdown());
    }
}

impl Call for p2pd_tokio::Connecting {
    fn wait(self: Box<Self>) -> Outcome {
        Ok(Box::new(Blocking(runtime().block_on(*self)?)))
    }
}

struct Blocking(p2pd_tokio::Pipe);

impl Read for Blocking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        runtime().block_on(self.0.read(buf))
    }
}

impl Write for Blocking {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        runtime().block_on(self.0.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        runtime().block_on(self.0.flush())
    }
}

impl Pipe for Blocking {
    fn end(&mut self) -> io::Result<()> {
        runtime().block_on(self.0.shutdown())
    }

    fn info(&self) -> PipeInfo {
        *self.0
    }

    fn messages(&mut self) -> io::Result<Box<dyn Messages>> {
        let _inside = runtime().enter();
        Ok(Box::new(self.0.messages()?))
    }

    fn into_std(self: Box<Self>) -> io::Result<TcpStream> {
        let _inside = runtime().enter();
        self.0.into_std()
    }
}

impl Messages for p2pd_tokio::Messages {
    fn send(&self, message: &[u8]) -> io::Result<()> {
        runtime().block_on(self.send(message))
    }

    fn recv(&self) -> io::Result<Vec<u8>> {
        runtime().block_on(self.recv())
    }
}
