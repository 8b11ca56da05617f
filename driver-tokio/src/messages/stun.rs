//! What STUN servers (RFC 8489) say of us.
//!
//! ```no_run
//! use p2pd_tokio::messages::{Protocol, Route, stun::Client};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(("stun.example", 3478), Route::V4);
//! println!("{}", client.external_ip().await?);
//! let mapping = client.mapping(Protocol::Udp).await?;
//! println!("{} is seen as {}", mapping.local, mapping.external);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2pd_core::nat::NatReport;
use p2pd_core::wire::Transport;
use p2pd_core::wire::stun::{BindingOutcome, TransactionId, binding_request, decode_binding};
use p2pd_core::{Config, SecretKey, StunServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use super::carrier::Socket;
use super::open::{Destination, OpenError, Protocol, Route};
use super::options::PipeOptions;
use crate::{BindError, Node};

/// How long each request over UDP is waited for before it is sent again: RFC 8489 section 6.2.1, cut short.
const WAITS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(1500)];
/// How long an answer over TCP is waited for.
const TCP_WITHIN: Duration = Duration::from_secs(3);
/// Longest answer.
const MAX_ANSWER: usize = 2048;
const HEADER: usize = 20;

/// A client of one STUN server.
#[derive(Clone, Debug)]
pub struct Client {
    server: Destination,
    route: Route,
    options: PipeOptions,
}

/// A socket, and what the server saw it as. The mapping lives as long as the socket, and where NATs give every socket one
/// external end, others can be told of it.
#[derive(Debug)]
pub struct Mapping {
    /// Its own end; over UDP without an address where the route has none.
    pub local: SocketAddr,
    /// What the server saw.
    pub external: SocketAddr,
    /// The socket, of TCP connected to the server.
    pub socket: Socket,
}

impl Client {
    /// A client that asks this server, by this route.
    pub fn new(server: impl Into<Destination>, route: Route) -> Self {
        Client { server: server.into(), route, options: PipeOptions::default() }
    }

    /// The address that the world sees: over UDP, and where no answer comes within 3 s, over TCP.
    ///
    /// # Errors
    /// Why the server did not say.
    pub async fn external_ip(&self) -> Result<IpAddr, StunError> {
        let mapping = match self.mapping(Protocol::Udp).await {
            Err(StunError::NoAnswer) => self.mapping(Protocol::Tcp).await,
            other => other,
        };
        mapping.map(|mapping| mapping.external.ip())
    }

    /// A new socket and what it is seen as. Takes 3 s at most after the look-up and, over TCP, the connect.
    ///
    /// # Errors
    /// Why the server did not say.
    pub async fn mapping(&self, protocol: Protocol) -> Result<Mapping, StunError> {
        let socket = Socket::open(protocol, self.server.clone(), self.route, &self.options).await;
        let mut socket = socket.map_err(StunError::Open)?;
        let external = match &mut socket {
            Socket::Udp(socket, Some(server)) => over_udp(socket, *server).await,
            Socket::Tcp(stream) => over_tcp(stream).await,
            Socket::Udp(_, None) | Socket::Peer(_) => Err(StunError::NoAnswer),
        }?;
        let local = socket.local_addr().map_err(StunError::Io)?;
        Ok(Mapping { local, external, socket })
    }
}

/// What NATs are in front of this machine, measured over TCP and UDP with these servers: one report for each interface,
/// of `bind` alone if it is given. Takes about four round trips and 150 ms, and about six seconds if nobody answers. A
/// [`Node`] measures by itself: [`Node::nats`] has it for nothing.
///
/// # Errors
/// That there is no socket to measure with.
pub async fn nat_info(servers: Vec<StunServer>, bind: Option<IpAddr>) -> Result<Vec<NatReport>, BindError> {
    let key = p2pd_sys::random_seed().map_err(BindError::Random)?;
    let mut config = Config::new(SecretKey::from_bytes(key));
    (config.stun, config.bind) = (servers, bind);
    let node = Node::bind(config).await?;
    let nats = node.nats().await;
    node.shutdown().await;
    Ok(nats)
}

fn transaction() -> Result<TransactionId, StunError> {
    let random = p2pd_sys::random_seed().map_err(StunError::Io)?;
    let mut id = [0; 12];
    id.copy_from_slice(&random[..12]);
    Ok(TransactionId(id))
}

async fn over_udp(socket: &UdpSocket, server: SocketAddr) -> Result<SocketAddr, StunError> {
    let transaction = transaction()?;
    let request = binding_request(transaction, None);
    let mut buffer = [0; MAX_ANSWER];
    for wait in WAITS {
        let until = Instant::now() + wait;
        socket.send_to(&request, server).await.map_err(StunError::Io)?;
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await {
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

async fn over_tcp(stream: &mut TcpStream) -> Result<SocketAddr, StunError> {
    let transaction = transaction()?;
    let asking = async {
        stream.write_all(&binding_request(transaction, None)).await?;
        let mut data = vec![0; HEADER];
        stream.read_exact(&mut data).await?;
        let body = usize::from(u16::from_be_bytes([data[2], data[3]]));
        if HEADER + body > MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        data.resize(HEADER + body, 0);
        stream.read_exact(&mut data[HEADER..]).await?;
        Ok(data)
    };
    let data = tokio::time::timeout(TCP_WITHIN, asking).await.map_err(|_| StunError::NoAnswer)?;
    let data = data.map_err(StunError::Io)?;
    answer(&data, Transport::Tcp, transaction).unwrap_or(Err(StunError::NoAnswer))
}

/// `None`: it is no answer to this.
fn answer(data: &[u8], over: Transport, to: TransactionId) -> Option<Result<SocketAddr, StunError>> {
    let reply = decode_binding(data, over).ok().filter(|reply| reply.transaction == to)?;
    Some(match reply.outcome {
        BindingOutcome::Mapped(external) => Ok(external),
        BindingOutcome::Error(code) => Err(StunError::Refused(code)),
    })
}

/// Why a STUN server did not say what it sees.
#[derive(Debug)]
#[non_exhaustive]
pub enum StunError {
    /// It could not be reached.
    Open(OpenError),
    /// The socket failed.
    Io(io::Error),
    /// It answered with this error code (RFC 8489 section 14.8).
    Refused(u16),
    /// No answer came.
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
