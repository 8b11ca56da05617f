//! Layers around a stream to a server: the tunnel of a proxy, TLS, and WebSocket within. Each is a state machine over
//! anything that can be read and written, so that one serves every event loop. `WouldBlock` of the layer below comes out
//! as it is.
//!
//! A layer may hold bytes though nothing comes in below. [`read`](Layers::read) gives those first, so a reader that
//! reads until `WouldBlock` misses none. `Interrupted` means that the turn is over and more may be there.
//!
//! The reasons: ADR 23 in docs/src/adr.

mod proxy;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod websocket;

use std::io::{self, Read, Write};

use p2pd_core::{IoFailure, Wrap};

use proxy::ProxyLayer;
pub(crate) use tls::Settings;
use tls::TlsLayer;
pub use tls::check_tls;
use websocket::WebSocketLayer;

/// Rounds of work on received bytes without anything for the reader, before others have their turn.
const ROUNDS: usize = 32;

/// The layers of one stream; one of them at least.
#[derive(Debug)]
pub(crate) struct Layers {
    /// The handshake with the proxy; `None` once the tunnel is open.
    proxy: Option<Box<ProxyLayer>>,
    tls: Option<Box<TlsLayer>>,
    websocket: Option<Box<WebSocketLayer>>,
}

impl Layers {
    /// Creates the layers that the core asked for.
    ///
    /// # Errors
    /// The part of `wrap` that cannot be used.
    pub(crate) fn new(wrap: &Wrap, settings: &mut Settings) -> Result<Self, IoFailure> {
        let proxy = wrap.proxy.as_ref().map(|proxy| {
            ProxyLayer::new(proxy, &wrap.host, wrap.port).map(Box::new).map_err(IoFailure::Proxy)
        });
        let tls = wrap.tls.as_ref().map(|tls| {
            let name = tls.name.as_deref().unwrap_or(&wrap.host);
            TlsLayer::new(name, tls, settings).map(Box::new).map_err(IoFailure::Tls)
        });
        let websocket = wrap.websocket.as_ref().map(|path| {
            let usual = if wrap.tls.is_some() { 443 } else { 80 };
            let port = Some(wrap.port).filter(|port| *port != usual);
            WebSocketLayer::new(&wrap.host, port, path, &wrap.headers).map(Box::new)
        });
        Ok(Layers { proxy: proxy.transpose()?, tls: tls.transpose()?, websocket: websocket.transpose()? })
    }

    /// Goes on with the handshakes, until all are done.
    ///
    /// # Errors
    /// `WouldBlock` until then; an [`IoFailure`] inside where the server is not as it should be.
    pub(crate) fn open(&mut self, io: &mut (impl Read + Write)) -> io::Result<()> {
        if let Some(proxy) = &mut self.proxy {
            proxy.open(io)?;
            self.proxy = None;
        }
        if let Some(tls) = &mut self.tls {
            tls.open(io)?;
        }
        match (&mut self.websocket, &mut self.tls) {
            (Some(websocket), Some(tls)) => websocket.open(&mut Over { tls, io }),
            (Some(websocket), None) => websocket.open(io),
            (None, _) => Ok(()),
        }
    }

    /// Reads the content; zero is an end that the server sent.
    ///
    /// # Errors
    /// `UnexpectedEof` for a stream that was cut off; an [`IoFailure`] inside for one that was changed.
    pub(crate) fn read(&mut self, io: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        match (&mut self.websocket, &mut self.tls) {
            (Some(websocket), Some(tls)) => websocket.read(&mut Over { tls, io }, buf),
            (Some(websocket), None) => websocket.read(io, buf),
            (None, Some(tls)) => tls.read(io, buf),
            (None, None) => io.read(buf),
        }
    }

    /// Takes bytes to be sent. They leave with this call, or with [`flush`](Self::flush).
    ///
    /// # Errors
    /// `WouldBlock` where too many wait already.
    pub(crate) fn write(&mut self, io: &mut (impl Read + Write), data: &[u8]) -> io::Result<usize> {
        match (&mut self.websocket, &mut self.tls) {
            (Some(websocket), Some(tls)) => websocket.write(&mut Over { tls, io }, data),
            (Some(websocket), None) => websocket.write(io, data),
            (None, Some(tls)) => tls.write(io, data),
            (None, None) => io.write(data),
        }
    }

    /// Sends the waiting bytes.
    ///
    /// # Errors
    /// `WouldBlock` while something does.
    pub(crate) fn flush(&mut self, io: &mut (impl Read + Write)) -> io::Result<()> {
        match (&mut self.websocket, &mut self.tls) {
            (Some(websocket), Some(tls)) => websocket.flush(&mut Over { tls, io })?,
            (Some(websocket), None) => websocket.flush(io)?,
            (None, _) => {}
        }
        self.tls.as_mut().map_or(Ok(()), |tls| tls.flush(io))
    }

    /// Says in each layer that no more is sent, and sends that. May be called again until it is done.
    ///
    /// # Errors
    /// `WouldBlock` while something waits.
    pub(crate) fn finish(&mut self, io: &mut (impl Read + Write)) -> io::Result<()> {
        if let Some(websocket) = &mut self.websocket {
            websocket.end();
        }
        self.flush(io)?;
        if let Some(tls) = &mut self.tls {
            tls.end();
            tls.flush(io)?;
        }
        Ok(())
    }
}

/// TLS as the stream of a WebSocket.
struct Over<'a, IO> {
    tls: &'a mut TlsLayer,
    io: &'a mut IO,
}

impl<IO: Read + Write> Read for Over<'_, IO> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.tls.read(self.io, buf)
    }
}

impl<IO: Read + Write> Write for Over<'_, IO> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.tls.write(self.io, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tls.flush(self.io)
    }
}

/// `WouldBlock` is no error where something waits that is sent later.
fn unless_blocked(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

/// An error that [`failure`](crate::failure) knows again.
fn error(why: IoFailure) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
