//! Relayed addresses at TURN servers, which a pipe of messages can be made of.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use p2pd_sys::DatagramLayer;

use crate::carrier::{IntoSocket, Socket};
use crate::runtime::Runtime;
use crate::tcp::{read, write};

/// A relayed address at a TURN server (RFC 8656), which a node keeps alive.
///
/// [`MessagePipe::new`](crate::MessagePipe::new) makes a pipe of it that is used as a UDP server's is. `send_to` goes to
/// any address of the relayed one's family; the server's permission is asked for on the way and kept, for 64 peers at a
/// time. Whoever was sent to is heard. A datagram has at most 1,400 bytes, and may be lost. The pipe's end gives the
/// address up, and so does the node's.
#[derive(Debug)]
pub struct Allocation<R: Runtime> {
    stream: R::Tcp,
    layer: DatagramLayer,
}

impl<R: Runtime> Allocation<R> {
    /// Watches the socket of an engine's allocation.
    pub(crate) fn new(socket: TcpStream, layer: DatagramLayer) -> io::Result<Self> {
        Ok(Allocation { stream: R::tcp(socket)?, layer })
    }

    /// Returns the address at the server that peers send to.
    pub fn relayed_addr(&self) -> SocketAddr {
        self.layer.relayed_addr()
    }

    /// Returns the IPv6 address at the server beside an IPv4 one, where both were asked for and the server has both.
    pub fn other_relayed_addr(&self) -> Option<SocketAddr> {
        self.layer.other_relayed_addr()
    }

    pub(crate) fn split(self) -> (Inbound<R>, Outbound<R>) {
        let of = Arc::new(self);
        let inbound =
            Inbound { of: of.clone(), fed: Fed { bytes: vec![0; 16 * 1024], next: 0, len: 0, over: false } };
        (inbound, Outbound { of, waiting: Vec::new(), gone: 0 })
    }
}

impl<R: Runtime> IntoSocket<R> for Allocation<R> {
    fn into_socket(self) -> io::Result<Socket<R>> {
        Ok(Socket::Relayed(Box::new(self)))
    }
}

/// Reading half.
#[derive(Debug)]
pub(crate) struct Inbound<R: Runtime> {
    of: Arc<Allocation<R>>,
    fed: Fed,
}

impl<R: Runtime> Inbound<R> {
    /// The next datagram. Giving up waiting loses nothing.
    pub(crate) async fn receive(&mut self) -> io::Result<(SocketAddr, Vec<u8>)> {
        loop {
            match self.of.layer.receive(&mut self.fed) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            // A socket that fails has ended too; the layer knows the reason.
            let read = read::<R>(&self.of.stream, &mut self.fed.bytes).await.unwrap_or(0);
            (self.fed.next, self.fed.len, self.fed.over) = (0, read, read == 0);
        }
    }
}

/// Bytes that the runtime has read.
#[derive(Debug)]
struct Fed {
    bytes: Vec<u8>,
    next: usize,
    len: usize,
    over: bool,
}

impl Read for Fed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.get(self.next..self.len).unwrap_or_default();
        if left.is_empty() && !self.over {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = left.len().min(out.len());
        out[..n].copy_from_slice(&left[..n]);
        self.next += n;
        Ok(n)
    }
}

/// Writing half.
#[derive(Debug)]
pub(crate) struct Outbound<R: Runtime> {
    of: Arc<Allocation<R>>,
    /// Bytes that the system has not taken; those before `gone` it has.
    waiting: Vec<u8>,
    gone: usize,
}

impl<R: Runtime> Outbound<R> {
    /// Sends a datagram. Where waiting is given up, it goes before the next one.
    pub(crate) async fn send(&mut self, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        self.flush().await?;
        self.of.layer.send(&mut self.waiting, to, data)?;
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        while self.gone < self.waiting.len() {
            self.gone += write::<R>(&self.of.stream, &self.waiting[self.gone..]).await?;
        }
        self.waiting.clear();
        self.gone = 0;
        Ok(())
    }
}
