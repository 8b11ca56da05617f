//! The way through a proxy, by the core's handshake. It reads nothing that is the server's, so that of this layer nothing is
//! left once the way is open.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use p2pd_core::proxy::ProxyHandshake;
use p2pd_core::{IoFailure, Proxy, ProxyFailure};

use super::error;

/// Reads from a proxy before others have their turn: HTTP's answer is read byte by byte.
const READS: usize = 512;

#[derive(Debug)]
pub(super) struct ProxyLayer {
    handshake: ProxyHandshake,
    /// What is being sent.
    out: Bytes,
}

impl ProxyLayer {
    pub(super) fn new(proxy: &Proxy, host: &str, port: u16) -> Result<Self, ProxyFailure> {
        Ok(ProxyLayer { handshake: ProxyHandshake::new(proxy, host, port)?, out: Bytes::new() })
    }

    pub(super) fn open(&mut self, io: &mut (impl Read + Write)) -> io::Result<()> {
        let mut part = [0; 64];
        for _ in 0..READS {
            while self.out.has_remaining() || self.more() {
                match io.write(&self.out)? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    n => self.out.advance(n),
                }
            }
            let wants = self.handshake.wants().min(part.len());
            if wants == 0 {
                return Ok(());
            }
            let read = io.read(&mut part[..wants])?;
            let heard = match read {
                0 => Err(ProxyFailure::Closed),
                n => self.handshake.handle(&part[..n]),
            };
            heard.map_err(|why| error(IoFailure::Proxy(why)))?;
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Takes what the handshake says next.
    fn more(&mut self) -> bool {
        self.handshake.poll_transmit().is_some_and(|out| {
            self.out = out;
            true
        })
    }
}
