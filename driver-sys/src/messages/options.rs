//! Options of a pipe.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use p2pd_core::io::Reuse;
use p2pd_core::pipe::subscriptions::Queue;
use p2pd_core::{Liveness, SockOpts};
use socket2::{SockRef, Socket};

use super::{Protocol, Route};
use crate::liveness::keep_alive;
use crate::socket;

/// Settings of one pipe. The names of the P2PD documents' configuration, and where they are here:
///
/// | P2PD | here | default |
/// |---|---|---|
/// | `con_timeout` | [`connect_timeout`](Self::connect_timeout) | 2 s |
/// | `dns_timeout` | [`resolve_timeout`](Self::resolve_timeout) | 2 s |
/// | `recv_timeout` | the argument of `recv`; of mio's loop its own timeout | none |
/// | `max_qsize` | [`queue`](Self::queue)`.messages` | 1,000 |
/// | `enable_msg_ids` | [`unique`](Self::unique) | off |
/// | `max_msg_ids` | [`unique_kept`](Self::unique_kept) | 1,000 |
/// | `reuse_addr` | [`reuse_address`](Self::reuse_address) | off |
/// | `broadcast` | [`broadcast`](Self::broadcast) | off |
/// | `reader_limit` | [`reader_limit`](Self::reader_limit) | 65,536 |
/// | `linger` | [`linger`](Self::linger) | off |
/// | `no_close`, later `do_close` | [`no_close`](Self::no_close) | off |
/// | `sock_only` | `Socket::open` in place of `MessagePipe::open`; on mio a socket of one's own | |
/// | `loop` | the runtime that the pipe is made in, or the loop that its `Registry` is of | |
/// | | [`liveness`](Self::liveness) | 20 s, 30 s |
/// | `sock_proto`, `use_ssl`, `ssl_handshake`, `send_retry` | not there | |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: users write it over its default.
pub struct PipeOptions {
    /// Longest time of a TCP connect, for each address of the destination. Default 2 s.
    pub connect_timeout: Duration,
    /// Longest time of the look-up of the destination's name. Default 2 s.
    pub resolve_timeout: Duration,
    /// Limits of each subscription's queue, and the choice when it is full. Default 1,000 messages or 1 MiB, and the
    /// oldest is dropped.
    pub queue: Queue,
    /// Drops a message that repeats one of its sender. Default: no.
    pub unique: bool,
    /// Number of messages remembered for that; at most 100,000. Default 1,000.
    pub unique_kept: usize,
    /// Most bytes that one read of a stream gives, 1 at least. Default 65,536. Datagrams are always whole.
    pub reader_limit: usize,
    /// `SO_LINGER`: time that the system has, from closing on, to get unacknowledged data to the peer. Zero drops the
    /// data and resets the connection. Default: the system goes on sending.
    pub linger: Option<Duration>,
    /// Leaves the connection alone at the pipe's end. Nothing is shut down, so that the connection lives on in a
    /// duplicate of the socket (`try_clone`), which is managed elsewhere. Default: no.
    pub no_close: bool,
    /// Allows to bind a local address that is in use, or was a moment ago (`SO_REUSEADDR`). Listening TCP sockets
    /// always may where that only lets a server start again, which is everywhere but on Windows. Default: no.
    pub reuse_address: bool,
    /// Allows a UDP socket to send to broadcast addresses. Default: no.
    pub broadcast: bool,
    /// Bounds on the time until an idle TCP peer that has vanished is found out, by the system. Default as a node's.
    pub liveness: Liveness,
}

impl Default for PipeOptions {
    fn default() -> Self {
        PipeOptions {
            connect_timeout: Duration::from_secs(2),
            resolve_timeout: Duration::from_secs(2),
            queue: Queue::default(),
            unique: false,
            unique_kept: 1000,
            reader_limit: 65_536,
            linger: None,
            no_close: false,
            reuse_address: false,
            broadcast: false,
            liveness: Liveness::default(),
        }
    }
}

impl PipeOptions {
    /// A bound UDP socket that nobody waits on yet.
    ///
    /// # Errors
    /// Of `socket`, `setsockopt` or `bind`.
    pub fn udp(&self, route: Route) -> io::Result<UdpSocket> {
        socket::udp_by(route.local(), route.interface(), &self.opts())
    }

    /// A TCP socket for [`socket::connect`], bound to the route.
    ///
    /// # Errors
    /// Of `socket`, `setsockopt` or `bind`.
    pub fn dialler(&self, route: Route) -> io::Result<Socket> {
        socket::dialler_by(route.local(), route.interface(), &self.opts())
    }

    /// Sets those options that can be set on an open socket.
    ///
    /// # Errors
    /// Of `setsockopt`.
    pub fn set(&self, protocol: Protocol, socket: SockRef<'_>) -> io::Result<()> {
        match protocol {
            Protocol::Tcp => {
                socket.set_tcp_nodelay(true)?;
                keep_alive(&*socket, &self.liveness)?;
                if self.linger.is_some() {
                    socket.set_linger(self.linger)?;
                }
            }
            Protocol::Udp if self.broadcast => socket.set_broadcast(true)?,
            Protocol::Udp => {}
        }
        Ok(())
    }

    pub(super) fn opts(&self) -> SockOpts {
        let reuse = if self.reuse_address { Reuse::Address } else { Reuse::No };
        SockOpts { reuse, nodelay: true }
    }
}
