//! Addresses of this machine as STUN servers (RFC 8489) report them.

use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};

use p2pd_core::nat::NatReport;
use p2pd_core::{Config, SecretKey, StunServer};
use p2pd_sys::BindError;
use p2pd_sys::messages::stun::{MAX_ANSWER, Question};
use p2pd_sys::messages::{Destination, PipeOptions, Protocol, Route};

use crate::carrier::Socket;
use crate::node::Node;
use crate::runtime::Runtime;
use crate::tcp::{read, write};
use crate::wait::within;

#[doc(inline)]
pub use p2pd_sys::messages::stun::StunError;

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
// Exhaustive: a socket and its two addresses.
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
        let external = external(&socket, Question::new(protocol)?).await?;
        let local = socket.local_addr().map_err(StunError::Io)?;
        Ok(Mapping { local, external, socket })
    }
}

/// Measures the NATs in front of this machine, over TCP and UDP with these servers. Returns one report for each
/// interface, of `bind` alone if it is given. Takes about four round trips and 150 ms, and about six seconds if nobody
/// answers. A node measures by itself: [`Node::nats`] has its reports at no cost.
///
/// # Errors
/// That there is no socket to measure with.
pub async fn nat_info<R: Runtime>(
    servers: Vec<StunServer>,
    bind: Option<IpAddr>,
) -> Result<Vec<NatReport>, BindError> {
    let key = p2pd_sys::random_seed().map_err(BindError::Random)?;
    let mut config = Config::new(SecretKey::from_bytes(key));
    (config.stun, config.bind) = (servers, bind);
    let node = Node::<R>::bind(config).await?;
    let nats = node.nats().await;
    node.shutdown().await;
    Ok(nats)
}

async fn external<R: Runtime>(socket: &Socket<R>, mut question: Question) -> Result<SocketAddr, StunError> {
    loop {
        let wait = question.next_wait()?;
        if let Some(outcome) = within::<R, _>(wait, ask(socket, &mut question)).await {
            return outcome.unwrap_or_else(|why| Err(StunError::Io(why)));
        }
    }
}

/// Sends the request, and waits for the answer.
async fn ask<R: Runtime>(
    socket: &Socket<R>,
    question: &mut Question,
) -> io::Result<Result<SocketAddr, StunError>> {
    let mut request = question.request();
    let mut buffer = [0; MAX_ANSWER];
    match socket {
        Socket::Udp(socket, Some(server)) => {
            R::send(socket, request, Some(*server)).await?;
            loop {
                let (len, from) = R::receive(socket, &mut buffer).await?;
                let outcome = if from == *server { question.heard(&buffer[..len]) } else { None };
                if let Some(outcome) = outcome {
                    return Ok(outcome);
                }
            }
        }
        Socket::Tcp(stream) => {
            while !request.is_empty() {
                let written = write::<R>(stream, request).await?;
                request = request.get(written..).unwrap_or_default();
            }
            loop {
                let len = read::<R>(stream, &mut buffer).await?;
                if len == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let Some(outcome) = question.heard(&buffer[..len]) {
                    return Ok(outcome);
                }
            }
        }
        Socket::Udp(_, None) | Socket::Peer(_) | Socket::Relayed(_) | Socket::Beside(_) => {
            Ok(Err(StunError::NoAnswer))
        }
    }
}
