//! Servers on many addresses and ports at once.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{TcpListener, TcpStream, UdpSocket};
use p2pd_sys::messages::{
    Bound, Family, ListenError, ListenFailure, PipeOptions, Protocol, Route, Target, combine,
};

use super::pipe::State;
use super::pipes::{News, Pipes};
use super::socket::Socket;
use super::tokens::PipeId;

/// Pause after a failed accept, which fails at once again as long as there are no descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// Clients that are accepted in one turn.
const ACCEPTS: usize = 16;

/// An address and port that is listened on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: what each pipe of a server is.
pub struct Listening {
    /// Address and port, with the port that was chosen for 0.
    pub at: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// The server's pipe over UDP, the listener over TCP. [`News::Accepted`] names the listener, and
    /// [`close`](Pipes::close) ends it.
    pub pipe: PipeId,
}

impl Pipes {
    /// Listens on every port of every range (`30_000..=30_100` has 101) on every address of every target, over each of
    /// these protocols and those of the families that a target has. Port 0 is one that the system chooses. All or nothing,
    /// in the order asked for. Looking an interface up takes about a millisecond. TCP clients come by [`News::Accepted`], with these options,
    /// and wait in the system while no token is left.
    ///
    /// # Errors
    /// Everything that failed.
    pub fn listen_all(
        &mut self,
        targets: &[Target],
        ports: &[RangeInclusive<u16>],
        protocols: &[Protocol],
        families: &[Family],
        options: &PipeOptions,
    ) -> Result<Vec<Listening>, ListenError> {
        self.listen_on(&combine(targets, ports, protocols, families)?, options)
    }

    /// Listens on each of these. All or nothing.
    ///
    /// # Errors
    /// Everything that failed.
    pub fn listen_specific(
        &mut self,
        wanted: &[(SocketAddr, Protocol)],
        options: &PipeOptions,
    ) -> Result<Vec<Listening>, ListenError> {
        let wanted: Vec<_> = wanted.iter().map(|(at, protocol)| (Route::from(*at), *protocol)).collect();
        self.listen_on(&wanted, options)
    }

    fn listen_on(
        &mut self,
        wanted: &[(Route, Protocol)],
        options: &PipeOptions,
    ) -> Result<Vec<Listening>, ListenError> {
        let open = Bound::all(wanted, options)?;
        let mut all: Vec<Listening> = Vec::with_capacity(open.len());
        for (bound, &(route, protocol)) in open.into_iter().zip(wanted) {
            match self.listen(bound, options) {
                Ok(listening) => all.push(listening),
                Err(why) => {
                    for listening in all {
                        self.close(listening.pipe);
                    }
                    return Err(ListenError {
                        failed: vec![ListenFailure::Bind(route.local(), protocol, why)],
                    });
                }
            }
        }
        Ok(all)
    }

    fn listen(&mut self, bound: Bound, options: &PipeOptions) -> io::Result<Listening> {
        let protocol = bound.protocol();
        match bound {
            Bound::Udp(socket) => {
                let at = socket.local_addr()?;
                let pipe = self.add(Socket::Udp(UdpSocket::from_std(socket), None), options)?;
                Ok(Listening { at, protocol, pipe })
            }
            Bound::Tcp(socket) => {
                let at = socket.local_addr()?;
                let pipe = self.insert(options, |registry, token| {
                    let mut listener = TcpListener::from_std(socket);
                    registry.register(&mut listener, token, Interest::READABLE)?;
                    Ok(State::Listening(listener))
                })?;
                Ok(Listening { at, protocol, pipe })
            }
        }
    }

    pub(super) fn accept(&mut self, on: PipeId) {
        for _ in 0..ACCEPTS {
            if !self.tokens.are_left() {
                if !self.crowded.contains(&on) {
                    self.crowded.push(on);
                }
                return;
            }
            let Some(entry) = self.each.get(&on) else { return };
            let State::Listening(listener) = &entry.state else { return };
            let options = entry.options;
            match listener.accept() {
                Ok((stream, _)) => self.accepted(on, stream, &options),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // One that left again.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return self.set_deadline(on, Some(Instant::now() + PAUSE)),
            }
        }
        self.queue(on);
    }

    fn accepted(&mut self, on: PipeId, stream: TcpStream, options: &PipeOptions) {
        // One that is broken already is nobody's client.
        if let Ok(pipe) = self.add(stream, options) {
            self.news.push_back(News::Accepted { on, pipe });
        }
    }
}
