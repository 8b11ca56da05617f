//! A whole driver on bare sockets that are asked one after the other. docs/src/uses/driver-guide.md goes through it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2pd_core::io::Interface;
use p2pd_core::{
    ClockFix, CloseHow, Config, Event, Input, Instant, IoFailure, Node, Output, SockId, WallTime,
};
use socket2::{Socket, Type};

use super::pipe::Pipe;
use super::sockets::{Sock, Stage, accept, address, begin, failure, open, outcome};

// ANCHOR: state
pub struct Driver {
    pub node: Node,
    /// News for the user, who takes it out.
    pub pipes: VecDeque<Pipe>,
    pub events: VecDeque<Event>,
    zero: std::time::Instant,
    socks: BTreeMap<SockId, Sock>,
    accepted: u64,
    /// Pipes that users have.
    handed: BTreeMap<SockId, Weak<TcpStream>>,
}
// ANCHOR_END: state

impl Driver {
    // ANCHOR: new
    pub fn new(config: Config, interfaces: &[Interface]) -> io::Result<Driver> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let node = Node::new(config, seed, Instant::ZERO).map_err(io::Error::other)?;
        let (zero, socks, handed) = (std::time::Instant::now(), BTreeMap::new(), BTreeMap::new());
        let (pipes, events) = (VecDeque::new(), VecDeque::new());
        let mut driver = Driver { node, pipes, events, zero, socks, accepted: 0, handed };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let wall = WallTime::from_micros(since.as_micros() as i64);
        driver.tell(Input::Clock(ClockFix { at: Instant::ZERO, wall, error: Duration::from_secs(3600) }));
        driver.tell(Input::Interfaces(interfaces));
        Ok(driver)
    }
    // ANCHOR_END: new

    // ANCHOR: tick
    /// Does what can be done without waiting. Returns the time until something is due, if no socket is ready before.
    pub fn tick(&mut self) -> Duration {
        for id in self.socks.keys().copied().collect::<Vec<_>>() {
            // Sixteen rounds at most: the others have their turn, too.
            let _ = (0..16).take_while(|_| self.work(id)).count();
        }
        let gone = |(sock, tcp): (&SockId, &Weak<_>)| (tcp.strong_count() == 0).then_some(*sock);
        for sock in self.handed.iter().filter_map(gone).collect::<Vec<_>>() {
            self.handed.remove(&sock);
            self.tell(Input::Released { sock });
        }
        if self.node.poll_timeout().is_some_and(|at| at <= self.now()) {
            self.tell(Input::Timeout);
        }
        self.node.poll_timeout().map_or(Duration::MAX, |at| at.since(self.now()))
    }

    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.zero.elapsed().as_nanos() as i64)
    }

    fn tell(&mut self, input: Input<'_>) {
        self.node.handle(self.now(), input);
        while let Some(output) = self.node.poll_output() {
            self.act(output);
        }
    }
    // ANCHOR_END: tick

    // ANCHOR: act
    fn act(&mut self, output: Output) {
        match output {
            Output::BindUdp { sock, local, opts, .. } => {
                self.opened(sock, Stage::Udp, open(local, Type::DGRAM, opts, None));
            }
            Output::Listen { sock, local, backlog, opts } => {
                self.opened(sock, Stage::Listener, open(local, Type::STREAM, opts, Some(backlog)));
            }
            Output::Connect { sock, local, remote, opts, at, deadline, wrap } => {
                // TLS, WebSocket and proxies are layers of other crates: no such server can be reached.
                let bare = if wrap.is_none() { Ok(()) } else { Err(ErrorKind::Unsupported.into()) };
                let socket = bare.and_then(|()| open(local, Type::STREAM, opts, None));
                self.opened(sock, Stage::Armed { remote, at, deadline }, socket);
            }
            // The system may wait for a server here: a loop in a hurry asks in a thread.
            Output::Resolve { query, host, .. } => {
                let found = (&*host, 0).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect());
                let result = found.map_err(|_| IoFailure::NoSuchName);
                self.node.handle(self.now(), Input::Resolved { query, result });
            }
            Output::Accept { sock, credit } | Output::Read { sock, credit } => {
                self.with(sock, |sock| sock.credit += credit);
            }
            Output::SendStream { sock, data } => self.with(sock, |sock| sock.out.extend(&data)),
            Output::SendDatagram { sock, to, data } => {
                self.with(sock, |sock| drop(sock.socket.send_to(&data, &to.into())));
            }
            Output::Detach { sock, pipe } => self.with(sock, |sock| sock.stage = Stage::Leaving(pipe)),
            Output::Close { sock, how: CloseHow::Graceful } => {
                self.with(sock, |sock| sock.stage = Stage::Ending);
            }
            Output::Close { sock, how } => {
                let linger = (how == CloseHow::Reset).then_some(Duration::ZERO);
                self.with(sock, |sock| drop(sock.socket.set_linger(linger)));
                self.socks.remove(&sock);
            }
            Output::EndPipe { sock, .. } => {
                let pipe = self.handed.get(&sock).and_then(Weak::upgrade);
                drop(pipe.map(|tcp| tcp.shutdown(Shutdown::Both)));
            }
            Output::Event(event) => self.events.push_back(event),
            Output::OpenRelayed { pipe, .. } => self.node.pipe_close(self.now(), pipe),
            // Of relayed pipes and allocations, which this driver has none of.
            _ => {}
        }
    }

    fn opened(&mut self, sock: SockId, stage: Stage, opened: io::Result<Socket>) {
        match opened.and_then(|socket| Ok((address(socket.local_addr())?, Sock::new(socket, stage)))) {
            Err(e) => self.node.handle(self.now(), Input::Failed { sock, cause: failure(&e) }),
            Ok((local, open)) => {
                // A dial is heard of once it is connected.
                if matches!(open.stage, Stage::Udp | Stage::Listener) {
                    self.node.handle(self.now(), Input::Bound { sock, local });
                }
                self.socks.insert(sock, open);
            }
        }
    }

    fn with(&mut self, sock: SockId, change: impl FnOnce(&mut Sock)) {
        self.socks.get_mut(&sock).map(change);
    }
    // ANCHOR_END: act

    // ANCHOR: work
    /// Does one thing with a socket. Returns whether there may be more to do.
    fn work(&mut self, id: SockId) -> bool {
        let why = match self.step(id) {
            Ok(()) => return true,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return false,
            Err(e) => e,
        };
        match self.socks.get(&id).map(|sock| &sock.stage) {
            // A datagram's error, or no descriptor for a caller: the socket itself lives.
            Some(Stage::Udp | Stage::Listener) | None => return false,
            Some(Stage::Leaving(_)) => drop(self.handed.insert(id, Weak::new())),
            Some(Stage::Ending) => {}
            Some(_) => self.node.handle(self.now(), Input::Failed { sock: id, cause: failure(&why) }),
        }
        self.socks.remove(&id);
        false
    }

    fn step(&mut self, id: SockId) -> io::Result<()> {
        let nothing = || Err(ErrorKind::WouldBlock.into());
        let (now, mut buffer) = (self.now(), [0; 2048]);
        let Some(Sock { socket, stage, out, credit }) = self.socks.get_mut(&id) else { return nothing() };
        if !out.is_empty() {
            let n = socket.write(out)?;
            out.drain(..n);
            return Ok(());
        }
        match *stage {
            Stage::Udp => {
                let from = address(socket.peek_sender())?;
                let n = socket.read(&mut buffer)?;
                self.tell(Input::Datagram { sock: id, from, data: &buffer[..n] });
            }
            Stage::Listener if *credit > 0 => {
                let (accepted, local, remote) = accept(socket)?;
                *credit -= 1;
                let sock = SockId::accepted(self.accepted);
                self.accepted += 1;
                self.socks.insert(sock, accepted);
                self.tell(Input::Accepted { listener: id, sock, local, remote });
            }
            Stage::Armed { remote, at, deadline } if at <= now => {
                begin(socket, remote)?;
                *stage = Stage::Dialling { deadline };
            }
            Stage::Dialling { deadline } => {
                let (local, remote) = outcome(socket, deadline <= now)?;
                *stage = Stage::Open;
                self.tell(Input::Connected { sock: id, local, remote });
            }
            Stage::Open if *credit > 0 => {
                let most = buffer.len().min(*credit as usize);
                let n = socket.read(&mut buffer[..most])?;
                *credit = if n == 0 { 0 } else { *credit - n as u32 };
                let data = &buffer[..n];
                self.tell(if n == 0 { Input::Eof { sock: id } } else { Input::Stream { sock: id, data } });
            }
            Stage::Leaving(_) => {
                let Some(Sock { socket, stage: Stage::Leaving(start), .. }) = self.socks.remove(&id) else {
                    unreachable!("looked at above")
                };
                let tcp = Arc::new(TcpStream::from(socket));
                self.handed.insert(id, Arc::downgrade(&tcp));
                self.pipes.push_back(Pipe::new(tcp, *start));
            }
            Stage::Ending => drop(self.socks.remove(&id)),
            Stage::Listener | Stage::Armed { .. } | Stage::Open => return nothing(),
        }
        Ok(())
    }
    // ANCHOR_END: work
}
