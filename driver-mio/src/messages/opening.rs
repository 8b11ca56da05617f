//! A pipe that opens: a name that is looked up, and addresses that are tried one after another.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use mio::Registry;
use mio::net::{TcpStream, UdpSocket};
use p2pd_sys::messages::{Destination, Found, OpenError, PipeOptions, Protocol, Route, fitting};
use p2pd_sys::socket;
use smallvec::SmallVec;

use super::pipe::{Open, State};
use super::pipes::{News, Pipes};
use super::socket::Socket;
use super::tokens::PipeId;

#[derive(Debug)]
pub(super) struct Opening {
    protocol: Protocol,
    route: Route,
    port: u16,
    /// Addresses that are tried after this one.
    next: VecDeque<SocketAddr>,
    step: Step,
    /// Reason why the last address was not reached.
    last: OpenError,
}

#[derive(Debug)]
enum Step {
    Naming,
    Dialling(TcpStream),
    /// A moment between two of these.
    None,
}

impl Opening {
    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match &mut self.step {
            Step::Dialling(stream) => registry.deregister(stream),
            Step::Naming | Step::None => Ok(()),
        }
    }
}

impl Pipes {
    pub(super) fn begin(
        &mut self,
        protocol: Protocol,
        to: Destination,
        route: Route,
        options: &PipeOptions,
    ) -> Result<PipeId, OpenError> {
        let found = to.find(route)?;
        let (next, port) = match &found {
            Found::Address(at) => (VecDeque::from([*at]), at.port()),
            Found::Ask(_, port) => (VecDeque::new(), *port),
        };
        let last = OpenError::OtherFamily;
        let opening = Opening { protocol, route, port, next, step: Step::None, last };
        let id = self.insert(options, |_, _| Ok(State::Opening(opening))).map_err(OpenError::Socket)?;
        match found {
            Found::Address(_) => self.try_next(id),
            Found::Ask(host, _) => {
                self.step(id, Step::Naming);
                self.set_deadline(id, Some(Instant::now() + options.resolve_timeout));
                let keep = if route.local().is_ipv4() { IpAddr::is_ipv4 } else { IpAddr::is_ipv6 };
                self.names.look_up(id, host.into(), keep, &self.registry, self.tokens.names());
                // Where it took place at once.
                self.take_answers();
            }
        }
        Ok(id)
    }

    pub(super) fn take_answers(&mut self) {
        while let Some((id, found)) = self.names.poll_answer() {
            self.resolved(id, found.ok());
        }
    }

    /// A name's addresses are there, or it has none.
    fn resolved(&mut self, id: PipeId, found: Option<SmallVec<[IpAddr; 2]>>) {
        let Some(opening) = self.opening(id) else { return };
        let (route, port) = (opening.route, opening.port);
        let found = found.ok_or_else(|| OpenError::Resolve(io::ErrorKind::NotFound.into()));
        match found.and_then(|found| fitting(found.into_iter().map(|ip| (ip, port).into()), route)) {
            Ok(found) => {
                opening.next = found.into();
                self.try_next(id);
            }
            Err(why) => self.not_opened(id, why),
        }
    }

    /// A dial may have an outcome.
    pub(super) fn dialled(&mut self, id: PipeId) {
        let Some(Opening { step: Step::Dialling(stream), .. }) = self.opening(id) else { return };
        match socket::outcome(&*stream) {
            Ok(_) => {
                if let Step::Dialling(stream) = self.step(id, Step::None) {
                    self.opened(id, Socket::Tcp(stream));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => self.failed(id, OpenError::Connect(e)),
        }
    }

    pub(super) fn opening_is_late(&mut self, id: PipeId) {
        self.failed(id, OpenError::TimedOut);
    }

    /// The address did not answer; or, where there is none yet, the name.
    fn failed(&mut self, id: PipeId, why: OpenError) {
        if let Step::Dialling(mut stream) = self.step(id, Step::None) {
            // The loop's own end.
            let _ = self.registry.deregister(&mut stream);
        }
        if let Some(opening) = self.opening(id) {
            opening.last = why;
            self.try_next(id);
        }
    }

    fn try_next(&mut self, id: PipeId) {
        self.set_deadline(id, None);
        let Some(entry) = self.each.get_mut(&id) else { return };
        let (token, options) = (entry.token, entry.options);
        let State::Opening(opening) = &mut entry.state else { return };
        let (protocol, route) = (opening.protocol, opening.route);
        let Some(to) = opening.next.pop_front() else {
            let last = std::mem::replace(&mut opening.last, OpenError::OtherFamily);
            return self.not_opened(id, last);
        };
        if protocol == Protocol::Udp {
            let socket = options.udp(route).and_then(|socket| {
                let mut socket = UdpSocket::from_std(socket);
                self.watch(&mut socket, token)?;
                Ok(Socket::Udp(socket, Some(to)))
            });
            return match socket {
                Ok(socket) => self.opened(id, socket),
                Err(e) => self.not_opened(id, OpenError::Socket(e)),
            };
        }
        let dial = options.dialler(route).map_err(OpenError::Socket).and_then(|dialler| {
            socket::connect(&dialler, to).map_err(OpenError::Connect)?;
            let mut stream = TcpStream::from_std(dialler.into());
            self.watch(&mut stream, token).map_err(OpenError::Socket)?;
            Ok(stream)
        });
        match dial {
            Ok(stream) => {
                self.step(id, Step::Dialling(stream));
                self.set_deadline(id, Some(Instant::now() + options.connect_timeout));
                // It may be there already.
                self.queue(id);
            }
            Err(why) => self.failed(id, why),
        }
    }

    fn opened(&mut self, id: PipeId, socket: Socket) {
        self.set_deadline(id, None);
        let Some(entry) = self.each.get_mut(&id) else { return };
        match Open::new(socket, &entry.options) {
            Ok(open) => {
                // What it can be read for may have been said already.
                (entry.state, entry.readable) = (State::Open(open), true);
                self.news.push_back(News::Opened(id));
                self.queue(id);
                self.queue_sources(id);
                self.pass_ends_before(id);
            }
            Err(e) => self.not_opened(id, OpenError::Socket(e)),
        }
    }

    fn not_opened(&mut self, id: PipeId, why: OpenError) {
        self.news.push_back(News::NotOpened(id, why));
        self.break_off(id, None);
    }

    fn opening(&mut self, id: PipeId) -> Option<&mut Opening> {
        match &mut self.each.get_mut(&id)?.state {
            State::Opening(opening) => Some(opening),
            _ => None,
        }
    }

    /// Sets the step and returns the one before.
    fn step(&mut self, id: PipeId, step: Step) -> Step {
        self.opening(id).map_or(Step::None, |opening| std::mem::replace(&mut opening.step, step))
    }
}
