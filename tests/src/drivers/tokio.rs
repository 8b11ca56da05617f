//! Pipes of `p2pd-tokio` by calls that block.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;

use p2pd_sys::PipeInfo;
use p2pd_tokio::Tokio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use super::futures::{Block, Blocking};
use super::{Messages, Pipe};

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

impl Block for Tokio {
    fn block_on<T>(work: impl Future<Output = T>) -> T {
        runtime().block_on(work)
    }
}

impl Read for Blocking<p2pd_tokio::Pipe> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        runtime().block_on(self.0.read(buf))
    }
}

impl Write for Blocking<p2pd_tokio::Pipe> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        runtime().block_on(self.0.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        runtime().block_on(self.0.flush())
    }
}

impl Pipe for Blocking<p2pd_tokio::Pipe> {
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
