//! Datagrams, many to one call of the system where it can. Those of a relayed pipe come in rows, of one length and for
//! one server. A call for each took half of a transfer's time (measured).

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::{Input, Instant, IoFailure, SockId};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

use super::{Engine, Reactor, Sock};

/// Most bytes of one receive: Linux joins datagrams up to the longest that IP knows.
const ROOM: usize = 1 << 16;
/// Buffers received into at a time.
const BUFFERS: usize = 4;
/// Calls of the system before other sockets have their turn.
const ROUNDS: usize = 4;
/// An ICMP error of an earlier datagram says nothing that silence does not; one that stays must not spin.
const RECEIVE_AGAIN: Duration = Duration::from_millis(10);
/// Longer rows are cut: no more fits one call.
const LONGEST_ROW: usize = 60_000;

/// Pauses before looks whether the only address of a socket refuses. Loops do not say that a socket has nothing but an error.
const LOOKS_MS: [u64; 4] = [5, 20, 60, 150];

/// A UDP socket, and the system's abilities for it.
#[derive(Debug)]
pub(super) struct Udp<S> {
    io: S,
    state: UdpSocketState,
    /// Number of looks whether the only address refuses, from which nothing came yet.
    looks: Option<usize>,
}

impl<S> Udp<S> {
    pub(super) fn new<R: Reactor<Udp = S>>(io: S, hears: bool) -> io::Result<Self> {
        let looks = hears.then_some(0);
        let state = UdpSocketState::new((&*R::udp_socket(&io)).into())?;
        Ok(Udp { io, state, looks })
    }
}

/// Datagrams that wait to be sent with one call: of one length, but for a shorter last one, from one socket to one
/// address.
#[derive(Debug, Default)]
pub(super) struct Row {
    to: Option<(SockId, SocketAddr)>,
    length: usize,
    count: usize,
    bytes: Vec<u8>,
}

impl Row {
    /// Returns true if one more datagram belongs to the row.
    fn takes(&self, to: (SockId, SocketAddr), length: usize, most: usize) -> bool {
        self.to == Some(to)
            && length <= self.length
            && self.bytes.len() == self.count * self.length
            && self.count < most
            && self.bytes.len() + length <= LONGEST_ROW
    }
}

impl<R: Reactor> Engine<R> {
    /// Sends it, with others like it perhaps: before anything else is waited for.
    pub(super) fn send_datagram(&mut self, sock: SockId, to: SocketAddr, data: &[u8]) {
        let Some(Sock::Udp(udp)) = self.socks.get_mut(&sock) else { return };
        if udp.looks == Some(0) {
            udp.looks = Some(1);
            self.timers.insert((self.clock.now() + Duration::from_millis(LOOKS_MS[0]), sock));
        }
        if !self.row.takes((sock, to), data.len(), udp.state.max_gso_segments()) {
            self.send_row();
            self.row.to = Some((sock, to));
            self.row.length = data.len();
        }
        self.row.bytes.extend_from_slice(data);
        self.row.count += 1;
    }

    /// Sends the waiting row.
    pub(super) fn send_row(&mut self) {
        let row = &mut self.row;
        if let Some((sock, to)) = row.to.take()
            && let Some(Sock::Udp(udp)) = self.socks.get(&sock)
        {
            let send = |contents, segment_size| {
                let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
                // By the socket itself: tokio's own try fails until its reactor has seen the new socket once.
                udp.state.try_send((&*R::udp_socket(&udp.io)).into(), &transmit)
            };
            let length = (row.count > 1).then_some(row.length);
            // What the system has no room for is lost, as on the way. Some devices cannot send rows after all.
            if let Err(e) = send(&row.bytes, length)
                && length.is_some()
                && e.kind() != io::ErrorKind::WouldBlock
            {
                row.bytes.chunks(row.length).for_each(|one| drop(send(one, None)));
            }
        }
        row.bytes.clear();
        row.count = 0;
    }

    pub(super) fn receive(&mut self, now: Instant, sock: SockId) {
        if self.is_refused(now, sock) {
            return self.fail(sock, IoFailure::Refused);
        }
        self.buffer.resize(self.buffer.len().max(BUFFERS * ROOM), 0);
        for _ in 0..ROUNDS {
            let Some(Sock::Udp(udp)) = self.socks.get(&sock) else { return };
            let mut meta = [RecvMeta::default(); BUFFERS];
            let received = R::receive(&udp.io, |io| {
                let mut buffers = self.buffer.chunks_mut(ROOM).map(IoSliceMut::new);
                let mut buffers: [_; BUFFERS] =
                    std::array::from_fn(|_| buffers.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
                udp.state.recv((&*io).into(), &mut buffers, &mut meta)
            });
            match received {
                Ok(count) => {
                    if let Some(Sock::Udp(udp)) = self.socks.get_mut(&sock) {
                        udp.looks = None;
                    }
                    for (meta, buffer) in meta[..count].iter().zip(self.buffer.chunks(ROOM)) {
                        // An empty datagram has no stride to go by, and says nothing.
                        for data in buffer[..meta.len].chunks(meta.stride.max(1)) {
                            self.core.handle(now, Input::Datagram { sock, from: meta.addr, data });
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if udp.looks.is_some() && e.kind() == io::ErrorKind::ConnectionRefused => {
                    return self.fail(sock, IoFailure::Refused);
                }
                Err(_) => {
                    self.timers.insert((now + RECEIVE_AGAIN, sock));
                    return;
                }
            }
        }
        self.again.push(sock);
    }

    /// Looks whether the only address refuses, and plans the next look.
    fn is_refused(&mut self, now: Instant, sock: SockId) -> bool {
        let Some(Sock::Udp(Udp { io, looks: Some(looks), .. })) = self.socks.get_mut(&sock) else {
            return false;
        };
        if let Some(after) = LOOKS_MS.get(*looks) {
            *looks += 1;
            self.timers.insert((now + Duration::from_millis(*after), sock));
        }
        let error = R::udp_socket(io).take_error();
        error.is_ok_and(|e| e.is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused))
    }
}
