//! Pipes of `p2pd-async-std` by calls that block.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use futures_lite::future::block_on;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use p2pd_async_std::AsyncIo;
use p2pd_sys::PipeInfo;

use super::futures::{Block, Blocking};
use super::{Messages, Pipe};

impl Block for AsyncIo {
    fn block_on<T>(work: impl Future<Output = T>) -> T {
        block_on(work)
    }
}

impl Read for Blocking<p2pd_async_std::Pipe> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        block_on(self.0.read(buf))
    }
}

impl Write for Blocking<p2pd_async_std::Pipe> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        block_on(self.0.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        block_on(self.0.flush())
    }
}

impl Pipe for Blocking<p2pd_async_std::Pipe> {
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
