//! Pipe in the hands of the driver's user: a stream and the keys of its records.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use p2pd_core::pipe::{MAX_RECORD, Opened, PipeKeys, PipeStart};

pub struct Pipe {
    pub start: PipeStart,
    /// Blocks only if it is told to. The pipe is gone when nobody has this any more.
    pub tcp: Arc<TcpStream>,
    out: Vec<u8>,
    received: Vec<u8>,
}

impl Pipe {
    pub fn new(tcp: Arc<TcpStream>, start: PipeStart) -> Pipe {
        Pipe { start, tcp, out: Vec::new(), received: Vec::new() }
    }

    /// Queues bytes; [`flush`](Self::flush) sends them.
    pub fn send(&mut self, mut data: &[u8]) -> io::Result<()> {
        let PipeKeys::Encrypted(sealer, _) = &mut self.start.keys else {
            self.out.extend(data);
            return Ok(());
        };
        while !data.is_empty() {
            let taken = sealer.seal(data, &mut self.out).map_err(io::Error::other)?;
            data = &data[taken..];
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let n = (&*self.tcp).write(&self.out)?;
            self.out.drain(..n);
        }
        Ok(())
    }

    /// Ends our direction, after a flush.
    pub fn end(&mut self) -> io::Result<()> {
        if let PipeKeys::Encrypted(sealer, _) = &mut self.start.keys {
            sealer.end(&mut self.out).map_err(io::Error::other)?;
        }
        self.flush()?;
        self.tcp.shutdown(Shutdown::Write)
    }

    /// Receives what comes next; nothing at the peer's end.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; MAX_RECORD];
        loop {
            if let PipeKeys::Encrypted(_, opener) = &mut self.start.keys {
                match opener.open(&mut self.received).map_err(io::Error::other)? {
                    Opened::Data { consumed, plain } => {
                        let plain = self.received[plain].to_vec();
                        self.received.drain(..consumed);
                        return Ok(plain);
                    }
                    Opened::End { consumed } => drop(self.received.drain(..consumed)),
                    Opened::Need(_) => {}
                }
            }
            let n = (&*self.tcp).read(&mut buffer)?;
            match &self.start.keys {
                PipeKeys::Encrypted(_, opener) if n == 0 => {
                    opener.stream_ended(self.received.len()).map_err(io::Error::other)?;
                    return Ok(Vec::new());
                }
                PipeKeys::Encrypted(..) => self.received.extend(&buffer[..n]),
                _ => {
                    buffer.truncate(n);
                    return Ok(buffer);
                }
            }
        }
    }
}
