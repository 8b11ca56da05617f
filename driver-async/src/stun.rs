//! Addresses of this machine as STUN servers (RFC 8489) report them.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use p2pd_core::wire::Transport;
use p2pd_core::wire::stun::{BindingOutcome, TransactionId, binding_request, decode_binding};
use p2pd_sys::messages::{Destination, OpenError, PipeOptions, Protocol, Route};

use crate::carrier::Socket;
use crate::runtime::Runtime;
use crate::wait::within;

/// Times for which each request over UDP waits before it is retransmitted: RFC 8489 section 6.2.1, cut short.
const WAITS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(1500)];
/// Longest wait for an answer over TCP.
const TCP_WITHIN: Duration = Duration::from_secs(3);
/// Longest answer.
const MAX_ANSWER: usize = 2048;
const HEADER: usize = 20;

/// A client of one STUN server.
#[derive(Clone, Debug)]
pub struct Client<R: Runtime> {
    server: Destination,
    route: Route,
    options: PipeOptions,
    runtime: PhantomData<R>,
}

/// A socket, and the address that the server saw. The mapping lives as long as the socket. Where NATs give every socket
/// one external end, others can be told of it.
#[derive(Debug)]
pub struct Mapping<R: Runtime> {
    /// Local address of the socket; over UDP without an IP address where the route has none.
    pub local: SocketAddr,
    /// Address that the server saw.
    pub external: SocketAddr,
    /// The socket, of TCP connected to the server.
    pub socket: Socket<R>,
}

impl<R: Runtime> Client<R> {
    /// A client that asks this server, by this route.
    pub fn new(server: impl Into<Destination>, route: Route) -> Self {
        let (server, options) = (server.into(), PipeOptions::default());
        Client { server, route, options, runtime: PhantomData }
    }

    /// Returns the address that the world sees: over UDP, and where no answer comes within 3 s, over TCP.
    ///
    /// # Errors
    /// The reason why the server reported no address.
    pub async fn external_ip(&self) -> Result<IpAddr, StunError> {
        let mapping = match self.mapping(Protocol::Udp).await {
            Err(StunError::NoAnswer) => self.mapping(Protocol::Tcp).await,
            other => other,
        };
        mapping.map(|mapping| mapping.external.ip())
    }

    /// Opens a new socket and asks how the server sees it. Takes 3 s at most after the look-up and, over TCP, the
    /// connect.
    ///
    /// # Errors
    /// The reason why the server reported no address.
    pub async fn mapping(&self, protocol: Protocol) -> Result<Mapping<R>, StunError> {
        let socket = Socket::open(protocol, self.server.clone(), self.route, &self.options).await;
        let socket = socket.map_err(StunError::Open)?;
        let external = match &socket {
            Socket::Udp(socket, Some(server)) => over_udp::<R>(socket, *server).await,
            Socket::Tcp(stream) => over_tcp::<R>(stream).await,
            Socket::Udp(_, None) | Socket::Peer(_) | Socket::Relayed(_) => Err(StunError::NoAnswer),
        }?;
        let local = socket.local_addr().map_err(StunError::Io)?;
        Ok(Mapping { local, external, socket })
    }
}

fn transaction() -> Result<TransactionId, StunError> {
    let random = p2pd_sys::random_seed().map_err(StunError::Io)?;
    let mut id = [0; 12];
    id.copy_from_slice(&random[..12]);
    Ok(TransactionId(id))
}

async fn over_udp<R: Runtime>(socket: &R::Udp, server: SocketAddr) -> Result<SocketAddr, StunError> {
    let transaction = transaction()?;
    let request = binding_request(transaction, None);
    let mut buffer = [0; MAX_ANSWER];
    for wait in WAITS {
        let until = Instant::now() + wait;
        R::send(socket, &request, Some(server)).await.map_err(StunError::Io)?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(received) = within::<R, _>(left, R::receive(socket, &mut buffer)).await else { break };
            let (len, from) = received.map_err(StunError::Io)?;
            let data = buffer.get(..len).unwrap_or_default();
            // Anybody can send us anything: only the answer counts.
            if from == server
                && let Some(outcome) = answer(data, Transport::Udp, transaction)
            {
                return outcome;
            }
        }
    }
    Err(StunError::NoAnswer)
}

async fn over_tcp<R: Runtime>(stream: &R::Tcp) -> Result<SocketAddr, StunError> {
    let transaction = transaction()?;
    let request = binding_request(transaction, None);
    let asking = async {
        let mut rest = &request[..];
        while !rest.is_empty() {
            let written = R::write(stream, rest).await?;
            rest = rest.get(written..).unwrap_or_default();
        }
        let mut data = vec![0; HEADER];
        read_exact::<R>(stream, &mut data).await?;
        let body = usize::from(u16::from_be_bytes([data[2], data[3]]));
        if HEADER + body > MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        data.resize(HEADER + body, 0);
        read_exact::<R>(stream, &mut data[HEADER..]).await?;
        Ok(data)
    };
    let data = within::<R, _>(TCP_WITHIN, asking).await.ok_or(StunError::NoAnswer)?;
    let data = data.map_err(StunError::Io)?;
    answer(&data, Transport::Tcp, transaction).unwrap_or(Err(StunError::NoAnswer))
}

async fn read_exact<R: Runtime>(stream: &R::Tcp, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match R::read(stream, buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => buffer = buffer.get_mut(n..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// `None`: it is no answer to this.
fn answer(data: &[u8], over: Transport, to: TransactionId) -> Option<Result<SocketAddr, StunError>> {
    let reply = decode_binding(data, over).ok().filter(|reply| reply.transaction == to)?;
    Some(match reply.outcome {
        BindingOutcome::Mapped(external) => Ok(external),
        BindingOutcome::Error(code) => Err(StunError::Refused(code)),
    })
}

/// Reason why a STUN server did not report an address.
#[derive(Debug)]
#[non_exhaustive]
pub enum StunError {
    /// The server could not be reached.
    Open(OpenError),
    /// The socket failed.
    Io(io::Error),
    /// The server answered with this error code (RFC 8489 section 14.8).
    Refused(u16),
    /// The time passed without an answer.
    NoAnswer,
}

impl fmt::Display for StunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StunError::Open(why) => write!(f, "{why}"),
            StunError::Io(why) => write!(f, "the socket failed: {why}"),
            StunError::Refused(code) => write!(f, "the STUN server answered with error {code}"),
            StunError::NoAnswer => f.write_str("the STUN server did not answer"),
        }
    }
}

impl std::error::Error for StunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StunError::Open(why) => Some(why),
            StunError::Io(why) => Some(why),
            StunError::Refused(_) | StunError::NoAnswer => None,
        }
    }
}
