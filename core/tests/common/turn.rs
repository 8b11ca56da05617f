//! A TURN server (`turn-server-proto`) over UDP, and NATs that give each way a port of its own and let in only answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use p2pd_core::pipe::PipeStart;
use p2pd_core::relay::{MessageError, ReadOutcome};
use p2pd_core::turn::Credentials;
use p2pd_core::{ConnectId, PipeEnd, PipeId, PipeMode, PipeNews, ProtocolTag, SockId, Strategy, TurnServer};
use stun_types::attribute::{AlternateServer, ErrorCode};
use stun_types::message::{Message, MessageClass, MessageWrite, MessageWriteExt, MessageWriteVec, Method};
use turn_server_proto::api::{SocketAllocateError, Transmit, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer as Server;
use turn_server_proto::types::{AddressFamily, Instant as Theirs, TransportType};

use super::{Happening, LATENCY, World};

const ALLOCATE: Method = Method::new(3);

pub struct Turn {
    pub config: TurnServer,
    pub at: SocketAddr,
    /// True if the server runs. Otherwise nothing is answered.
    pub up: bool,
    /// Addresses of the relays, at most one of each family. Default: the server's own.
    pub relay_ips: Vec<IpAddr>,
    /// Every Allocate is answered with 300 and this address.
    pub redirects: Option<SocketAddr>,
    /// Clients' ports that have an allocation of somebody else's: their Allocates are answered with 437.
    pub taken: BTreeSet<u16>,
    /// The allocations that there are.
    pub relays: BTreeSet<SocketAddr>,
    /// Datagrams that came to the server.
    pub datagrams: u32,
    /// Datagrams that came to relayed addresses.
    pub from_peers: u32,
    server: Server,
    next_port: u16,
}

impl Turn {
    fn is_at(&self, ip: IpAddr) -> bool {
        self.at.ip() == ip || self.relay_ips.contains(&ip)
    }
}

/// A NAT's way from a socket to one other end, and the port that it has outside.
pub type Ways = BTreeMap<(SockId, SocketAddr), u16>;

/// A relayed pipe that a node handed out. All that can be read is read at once.
#[derive(Debug)]
pub struct Relayed {
    pub pipe: PipeId,
    pub answers: Vec<ConnectId>,
    pub strategy: Strategy,
    pub mode: PipeMode,
    pub protocol: Option<ProtocolTag>,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub received: Vec<u8>,
    /// The peer's end was read.
    pub end: bool,
    pub delivered: bool,
    pub over: Option<PipeEnd>,
    pub messages: Vec<Bytes>,
    /// True if the user reads no messages.
    pub deaf: bool,
}

/// An allocation that a node handed out. All that can be read is read at once.
#[derive(Debug)]
pub struct Allocated {
    pub pipe: PipeId,
    pub relayed: SocketAddr,
    pub other: Option<SocketAddr>,
    pub received: Vec<(SocketAddr, Bytes)>,
    /// True if the user reads nothing.
    pub deaf: bool,
    pub over: Option<PipeEnd>,
}

impl World {
    /// A server at 198.51.100.90 and up, for alice.
    pub fn add_turn(&mut self) -> usize {
        let ip = [198, 51, 100, 90 + self.turns.len() as u8];
        self.add_turn_at(ip.into())
    }

    /// The same at this address.
    pub fn add_turn_at(&mut self, ip: IpAddr) -> usize {
        let (n, at) = (self.turns.len(), SocketAddr::new(ip, 3478));
        let mut server = Server::new(TransportType::Udp, at, "lab".into());
        server.add_user("alice".into(), "secret".into());
        let mut config = TurnServer::new(&format!("turn{n}.test"), 3478, Credentials::new("alice", "secret"));
        config.transport = Some(p2pd_core::Transport::Udp);
        self.turns.push(Turn {
            config,
            at,
            up: true,
            relay_ips: vec![at.ip()],
            redirects: None,
            taken: BTreeSet::new(),
            relays: BTreeSet::new(),
            datagrams: 0,
            from_peers: 0,
            server,
            next_port: 50_000,
        });
        n
    }

    /// Sets the server up anew, for this user alone.
    pub fn admit(&mut self, n: usize, credentials: &Credentials) {
        let turn = &mut self.turns[n];
        turn.server = Server::new(TransportType::Udp, turn.at, "lab".into());
        turn.server.add_user(credentials.user().into(), credentials.password().into());
        turn.relays.clear();
    }

    /// Returns the node's only relayed pipe. Panics if there is none or more than one.
    pub fn relayed(&self, n: usize) -> &Relayed {
        let [pipe] = &self.hosts[n].relayed[..] else {
            panic!("node {n} has {} relayed pipes:\n{}", self.hosts[n].relayed.len(), self.tail())
        };
        pipe
    }

    /// Writes all of it, as there is room.
    pub fn write(&mut self, n: usize, mut data: &[u8]) {
        let pipe = self.relayed(n).pipe;
        while !data.is_empty() {
            let taken = self.hosts[n].node.pipe_write(self.now, pipe, data);
            self.drain(n);
            data = &data[taken..];
            if taken == 0 {
                self.run(LATENCY);
            }
        }
    }

    pub fn send_message(&mut self, n: usize, message: impl Into<Bytes>) -> Result<(), MessageError> {
        let pipe = self.relayed(n).pipe;
        let taken = self.hosts[n].node.pipe_send_message(self.now, pipe, message.into());
        self.drain(n);
        taken
    }

    /// Reads messages again.
    pub fn listen(&mut self, n: usize) {
        let pipe = self.relayed(n).pipe;
        self.hosts[n].relayed[0].deaf = false;
        self.read_relayed(n, pipe);
        self.drain(n);
    }

    pub fn finish(&mut self, n: usize) {
        let pipe = self.relayed(n).pipe;
        self.hosts[n].node.pipe_finish(self.now, pipe);
        self.drain(n);
    }

    pub fn close_pipe(&mut self, n: usize) {
        let pipe = self.relayed(n).pipe;
        self.hosts[n].node.pipe_close(self.now, pipe);
        self.drain(n);
    }

    pub fn allocations(&self) -> usize {
        self.turns.iter().map(|t| t.relays.len()).sum()
    }

    pub(super) fn opened_relayed(&mut self, n: usize, pipe: PipeId, start: &PipeStart) {
        self.hosts[n].relayed.push(Relayed {
            pipe,
            answers: start.answers.to_vec(),
            strategy: start.strategy,
            mode: start.mode,
            protocol: start.protocol,
            local: start.local,
            remote: start.remote,
            received: Vec::new(),
            end: false,
            delivered: false,
            over: None,
            messages: Vec::new(),
            deaf: false,
        });
        self.read_relayed(n, pipe);
    }

    pub(super) fn allocation_news(&mut self, n: usize, pipe: PipeId, news: PipeNews) {
        let host = &mut self.hosts[n];
        let allocated = host.allocated.iter_mut().find(|a| a.pipe == pipe).unwrap();
        match news {
            PipeNews::Message if allocated.deaf => {}
            PipeNews::Message => {
                allocated.received.extend(std::iter::from_fn(|| host.node.pipe_recv_from(self.now, pipe)))
            }
            PipeNews::Ended(why) => assert_eq!(allocated.over.replace(why), None, "told once"),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn pipe_news(&mut self, n: usize, id: PipeId, news: PipeNews) {
        let pipe = self.hosts[n].relayed.iter_mut().find(|p| p.pipe == id).expect("news of a pipe");
        match news {
            PipeNews::Delivered => pipe.delivered = true,
            PipeNews::Ended(why) => assert_eq!(pipe.over.replace(why), None, "told once"),
            _ => {}
        }
        self.read_relayed(n, id);
    }

    fn read_relayed(&mut self, n: usize, id: PipeId) {
        let host = &mut self.hosts[n];
        let pipe = host.relayed.iter_mut().find(|p| p.pipe == id).unwrap();
        while !pipe.deaf
            && let Some(message) = host.node.pipe_read_message(self.now, id)
        {
            pipe.messages.push(message);
        }
        let mut space = [0; 4096];
        loop {
            match host.node.pipe_read(self.now, id, &mut space) {
                ReadOutcome::Read(n) => pipe.received.extend_from_slice(&space[..n]),
                ReadOutcome::Empty => return,
                ReadOutcome::End => {
                    pipe.end = true;
                    return;
                }
            }
        }
    }

    /// A datagram leaves a host for a TURN server, or for a relayed address of one.
    pub(super) fn datagram_to_turn(&mut self, n: usize, sock: SockId, to: SocketAddr, data: &[u8]) {
        if !self.turns.iter().any(|t| t.is_at(to.ip())) {
            return;
        }
        let host = &mut self.hosts[n];
        if host.unreachable == Some(to.ip()) {
            return;
        }
        let free = 60_000 + host.ways.len() as u16;
        let port = match host.inside == host.outside {
            true => host.bound[&sock].port(),
            false => *host.ways.entry((sock, to)).or_insert(free),
        };
        let from = SocketAddr::new(host.outside, port);
        self.schedule(LATENCY, Happening::AtTurn { from, to, data: data.to_vec() });
    }

    pub(super) fn at_turn(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        let now = Theirs::from_nanos(self.now.as_nanos());
        let turn = self.turns.iter_mut().find(|t| t.is_at(to.ip())).unwrap();
        if !turn.up {
            return;
        }
        if to.port() == 3478 {
            turn.datagrams += 1;
        } else {
            turn.from_peers += 1;
            if !turn.relays.contains(&to) {
                return;
            }
        }
        if let Ok(request) = Message::from_bytes(&data)
            && request.has_method(ALLOCATE)
            && request.has_class(MessageClass::Request)
        {
            let refused = |code| {
                let mut answer = Message::builder_error(&request, MessageWriteVec::new());
                answer.add_attribute(&ErrorCode::new(code, "").unwrap()).unwrap();
                answer
            };
            let answer = match turn.redirects {
                _ if turn.taken.contains(&from.port()) => Some(refused(437)),
                Some(alternate) => {
                    let mut answer = refused(300);
                    answer.add_attribute(&AlternateServer::new(alternate)).unwrap();
                    Some(answer)
                }
                None => None,
            };
            if let Some(answer) = answer {
                return self.datagram_from_turn(to, from, answer.finish());
            }
        }
        let said = turn.server.recv(Transmit::new(data, TransportType::Udp, from, to), now);
        let mut out: Vec<(Vec<u8>, SocketAddr, SocketAddr)> = Vec::new();
        out.extend(said.map(|said| said.build()).map(|s| (s.data, s.from, s.to)));
        loop {
            match turn.server.poll(now) {
                TurnServerPollRet::WaitUntil(_) => break,
                TurnServerPollRet::AllocateSocket { transport, listen_addr, client_addr, family, .. } => {
                    let fits = |ip: &&IpAddr| ip.is_ipv4() == (family == AddressFamily::IPV4);
                    let relay =
                        turn.relay_ips.iter().find(fits).map(|ip| SocketAddr::new(*ip, turn.next_port));
                    turn.next_port += 1;
                    turn.relays.extend(relay);
                    let relay = relay.ok_or(SocketAllocateError::AddressFamilyNotSupported);
                    let udp = TransportType::Udp;
                    turn.server.allocated_socket(
                        transport,
                        listen_addr,
                        client_addr,
                        udp,
                        family,
                        relay,
                        now,
                    );
                }
                TurnServerPollRet::SocketClose { listen_addr, .. } => {
                    assert!(turn.relays.remove(&listen_addr));
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(said) = turn.server.poll_transmit(now) {
            out.push((said.data, said.from, said.to));
        }
        for (data, from, to) in out {
            if self.turns.iter().any(|t| t.is_at(to.ip())) {
                self.schedule(LATENCY, Happening::AtTurn { from, to, data });
            } else {
                self.datagram_from_turn(from, to, data);
            }
        }
    }

    fn datagram_from_turn(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        let Some(n) = self.hosts.iter().position(|h| h.outside == to.ip()) else { return };
        let host = &self.hosts[n];
        let way = match host.inside == host.outside {
            true => host.bound.iter().find(|(_, local)| local.port() == to.port()).map(|(sock, _)| *sock),
            false => {
                host.ways.iter().find(|((_, r), p)| *r == from && **p == to.port()).map(|((s, _), _)| *s)
            }
        };
        if let Some(sock) = way {
            self.schedule(LATENCY, Happening::Datagram { n, sock, from, data });
        }
    }

    /// Returns the address that the name of a TURN server leads to.
    pub(super) fn turn_named(&self, name: &str) -> Option<IpAddr> {
        self.turns.iter().find(|t| &*t.config.host == name).map(|t| t.at.ip())
    }
}
