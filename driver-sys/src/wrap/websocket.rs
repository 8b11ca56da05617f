//! A WebSocket that carries MQTT, by tungstenite over two buffers: it wants a stream of its own, and the engine's
//! belongs to an event loop.

use std::io::{self, Read, Write};
use std::net::Ipv6Addr;

use bytes::{Buf, Bytes};
use p2pd_core::{Header, IoFailure};
use tungstenite::client::{ClientRequestBuilder, IntoClientRequest};
use tungstenite::error::ProtocolError;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

use super::{ROUNDS, error, unless_blocked};

/// Bytes of one read from the layer below.
const CHUNK: usize = 4 * 1024;
/// Most bytes of a frame to be sent.
const FRAME: usize = 16 * 1024;
/// Most bytes that may wait to be sent.
const MAX_WAITING: usize = 64 * 1024;
/// The longest message that is taken. Brokers put several packets into one.
const MAX_MESSAGE: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct WebSocketLayer {
    state: State,
    /// Rest of a message, for the reader.
    message: Bytes,
}

#[derive(Debug)]
enum State {
    Shaking(Box<MidHandshake<ClientHandshake<Buffers>>>),
    Open(Box<WebSocket<Buffers>>),
    Broken,
}

/// Stream as tungstenite sees it.
#[derive(Debug, Default)]
struct Buffers {
    input: Bytes,
    /// True once no more input comes.
    ended: bool,
    output: Vec<u8>,
}

impl WebSocketLayer {
    /// Creates a layer to this host, with the port if it is not the usual one.
    pub(super) fn new(
        host: &str,
        port: Option<u16>,
        path: &str,
        headers: &[Header],
    ) -> Result<Self, IoFailure> {
        let no_use = |_| IoFailure::NoWebSocket(0);
        let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
        let place = port.map_or(host.clone(), |port| format!("{host}:{port}"));
        // TLS, if any, is not this layer's: the scheme stands in no header.
        let uri = format!("ws://{place}{path}").parse().map_err(|_| IoFailure::NoWebSocket(0))?;
        let mut request = ClientRequestBuilder::new(uri).with_sub_protocol("mqtt");
        for header in headers {
            request = request.with_header(header.name(), header.value());
        }
        let request = request.into_client_request();
        let request = request.map_err(no_use)?;
        let limits = WebSocketConfig::default()
            .read_buffer_size(CHUNK)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let shaking = ClientHandshake::start(Buffers::default(), request, Some(limits)).map_err(no_use)?;
        Ok(WebSocketLayer { state: State::Shaking(Box::new(shaking)), message: Bytes::new() })
    }

    pub(super) fn open(&mut self, io: &mut (impl Read + Write)) -> io::Result<()> {
        for _ in 0..ROUNDS {
            let shaking = match std::mem::replace(&mut self.state, State::Broken) {
                State::Shaking(shaking) => shaking,
                done => {
                    self.state = done;
                    return self.flush(io);
                }
            };
            match shaking.handshake() {
                Ok((socket, _)) => self.state = State::Open(Box::new(socket)),
                Err(HandshakeError::Interrupted(shaking)) => {
                    self.state = State::Shaking(Box::new(shaking));
                    self.flush(io)?;
                    self.fill(io)?;
                }
                Err(HandshakeError::Failure(Error::Http(answer))) => {
                    return Err(error(IoFailure::NoWebSocket(answer.status().as_u16())));
                }
                Err(HandshakeError::Failure(_)) => return Err(error(IoFailure::NoWebSocket(0))),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    pub(super) fn read(&mut self, io: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        for _ in 0..ROUNDS {
            if !self.message.is_empty() {
                let n = self.message.len().min(buf.len());
                self.message.copy_to_slice(&mut buf[..n]);
                return Ok(n);
            }
            let State::Open(socket) = &mut self.state else { return Err(error(IoFailure::BadFrame)) };
            match socket.read() {
                Ok(Message::Binary(message)) => self.message = message,
                // The answers to these wait; they leave with the next step.
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    self.answer(io)?;
                    return Ok(0);
                }
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.answer(io)?;
                    if self.buffers().is_some_and(|b| b.output.len() >= MAX_WAITING) {
                        // It asks and takes no answers; writing below is blocked, so we are woken.
                        return Err(e);
                    }
                    self.fill(io)?;
                }
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(Message::Text(_) | Message::Frame(_)) | Err(_) => {
                    return Err(error(IoFailure::BadFrame));
                }
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    pub(super) fn write(&mut self, io: &mut (impl Read + Write), data: &[u8]) -> io::Result<usize> {
        unless_blocked(self.flush(io))?;
        let State::Open(socket) = &mut self.state else { return Err(error(IoFailure::BadFrame)) };
        if socket.get_ref().output.len() >= MAX_WAITING {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = data.len().min(FRAME);
        socket.send(Message::Binary(Bytes::copy_from_slice(&data[..n]))).map_err(other)?;
        unless_blocked(self.flush(io)).map(|()| n)
    }

    pub(super) fn flush(&mut self, io: &mut impl Write) -> io::Result<()> {
        let Some(buffers) = self.buffers() else { return Ok(()) };
        while !buffers.output.is_empty() {
            match io.write(&buffers.output)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => drop(buffers.output.drain(..n)),
            }
        }
        Ok(())
    }

    /// Ends the sending. May be called again.
    pub(super) fn end(&mut self) {
        if let State::Open(socket) = &mut self.state {
            // It fails where the server has ended too, and then it is done.
            let _ = socket.close(None);
            let _ = socket.flush();
        }
    }

    /// Sends tungstenite's own frames.
    fn answer(&mut self, io: &mut impl Write) -> io::Result<()> {
        if let State::Open(socket) = &mut self.state {
            // Fails only once all is said.
            let _ = socket.flush();
        }
        unless_blocked(self.flush(io))
    }

    /// Reads once from below.
    fn fill(&mut self, io: &mut impl Read) -> io::Result<()> {
        let Some(buffers) = self.buffers() else { return Ok(()) };
        let mut chunk = [0; CHUNK];
        let n = io.read(&mut chunk)?;
        buffers.input = Bytes::copy_from_slice(&chunk[..n]);
        buffers.ended = n == 0;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn waiting(&mut self) -> usize {
        self.buffers().map_or(0, |buffers| buffers.output.len())
    }

    fn buffers(&mut self) -> Option<&mut Buffers> {
        match &mut self.state {
            State::Shaking(shaking) => Some(shaking.get_mut().get_mut()),
            State::Open(socket) => Some(socket.get_mut()),
            State::Broken => None,
        }
    }
}

fn other(why: Error) -> io::Error {
    match why {
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        _ => error(IoFailure::BadFrame),
    }
}

impl Read for Buffers {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = self.input.len().min(buf.len());
        self.input.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

impl Write for Buffers {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
