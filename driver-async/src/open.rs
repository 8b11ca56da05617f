//! Sockets for pipes that are opened here.

use std::net::{SocketAddr, ToSocketAddrs};

use p2pd_sys::messages::{Destination, Found, OpenError, PipeOptions, Protocol, Route, fitting};
use p2pd_sys::socket;

use crate::carrier::Socket;
use crate::runtime::Runtime;
use crate::tcp::connected;
use crate::wait::within;

impl<R: Runtime> Socket<R> {
    /// Opens the socket of [`MessagePipe::open`](crate::MessagePipe::open), without a pipe around it.
    ///
    /// # Errors
    /// The reason why there is none.
    pub async fn open(
        protocol: Protocol,
        to: impl Into<Destination>,
        route: Route,
        options: &PipeOptions,
    ) -> Result<Self, OpenError> {
        let found = resolve::<R>(to.into(), route, options).await?;
        let socket = match protocol {
            Protocol::Udp => {
                let udp = options.udp(route).and_then(R::udp).map_err(OpenError::Socket)?;
                Socket::Udp(udp, found.first().copied())
            }
            Protocol::Tcp => Socket::Tcp(connect_any::<R>(&found, route, options).await?),
        };
        socket.set(options).map_err(OpenError::Socket)?;
        Ok(socket)
    }
}

/// A destination's addresses of the route's family, one at least.
async fn resolve<R: Runtime>(
    to: Destination,
    route: Route,
    options: &PipeOptions,
) -> Result<Vec<SocketAddr>, OpenError> {
    match to.find(route)? {
        Found::Address(at) => Ok(vec![at]),
        Found::Ask(host, port) => {
            let look_up = R::unblock(move || Ok((host, port).to_socket_addrs()?.collect::<Vec<_>>()));
            let lookup = within::<R, _>(options.resolve_timeout, look_up).await;
            fitting(lookup.ok_or(OpenError::TimedOut)?.map_err(OpenError::Resolve)?, route)
        }
    }
}

/// The first that answers.
async fn connect_any<R: Runtime>(
    found: &[SocketAddr],
    route: Route,
    options: &PipeOptions,
) -> Result<R::Tcp, OpenError> {
    let mut last = OpenError::OtherFamily;
    for to in found {
        match connect::<R>(*to, route, options).await {
            Ok(stream) => return Ok(stream),
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn connect<R: Runtime>(
    to: SocketAddr,
    route: Route,
    options: &PipeOptions,
) -> Result<R::Tcp, OpenError> {
    let dialler = options.dialler(route).map_err(OpenError::Socket)?;
    socket::connect(&dialler, to).map_err(OpenError::Connect)?;
    let stream = R::tcp(dialler.into()).map_err(OpenError::Socket)?;
    let connected = within::<R, _>(options.connect_timeout, connected::<R>(&stream)).await;
    connected.ok_or(OpenError::TimedOut)?.map_err(OpenError::Connect)?;
    Ok(stream)
}
