//! A pipe: its input and its output.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Token;
use mio::net::TcpListener;
use p2pd_core::pipe::subscriptions::{Subscriptions, Unique};
use p2pd_sys::messages::network::NetworkWatch;
use p2pd_sys::messages::{End, PipeOptions, Protocol};

use super::opening::Opening;
use super::socket::Socket;
use super::tokens::PipeId;

/// Messages of one pipe that may wait to be taken out by [`Pipes::poll`](super::Pipes::poll).
const UNHEARD: usize = 64;

/// A pipe, or a listener.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) token: Token,
    pub(super) options: PipeOptions,
    pub(super) state: State,
    pub(super) subscriptions: Subscriptions,
    pub(super) unique: Unique,
    /// True if messages are reported as news. `unheard` is the number of those that wait.
    pub(super) hears: bool,
    pub(super) unheard: usize,
    /// Pipes to which all messages of this one are sent. `sources` are the pipes that send to this one.
    pub(super) links: Vec<Link>,
    pub(super) sources: Vec<PipeId>,
    /// Network as the pipe saw it last, if its user wants to hear of changes.
    pub(super) network: Option<NetworkWatch>,
    /// True if there may be something to read.
    pub(super) readable: bool,
    /// True while the pipe waits for its turn.
    pub(super) queued: bool,
    /// Time of the next turn, even if nothing happens.
    pub(super) deadline: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum State {
    Opening(Opening),
    Open(Open),
    /// The user is done with it, but not all of it is sent.
    Leaving(Open),
    Listening(TcpListener),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) to: PipeId,
    /// The linked pipe gets the end, too.
    pub(super) joined: bool,
}

impl Entry {
    pub(super) fn new(token: Token, options: &PipeOptions, state: State) -> Self {
        Entry {
            token,
            options: *options,
            state,
            subscriptions: Subscriptions::default(),
            unique: Unique::new(if options.unique { options.unique_kept } else { 0 }),
            hears: false,
            unheard: 0,
            links: Vec::new(),
            sources: Vec::new(),
            network: None,
            // The loop tells of what came before it watched, too.
            readable: false,
            queued: false,
            deadline: None,
        }
    }

    pub(super) fn open(&self) -> Option<&Open> {
        if let State::Open(open) = &self.state { Some(open) } else { None }
    }

    pub(super) fn open_mut(&mut self) -> Option<&mut Open> {
        if let State::Open(open) = &mut self.state { Some(open) } else { None }
    }

    /// Returns the entry as its user leaves it: it only sends the rest.
    pub(super) fn leaving(self) -> Self {
        let state = match self.state {
            State::Open(open) => State::Leaving(open),
            other => other,
        };
        Entry { state, hears: false, subscriptions: Subscriptions::default(), ..self }
    }

    /// Returns true if anybody here wants the next message and can take it. Links are asked separately.
    pub(super) fn wants(&self) -> bool {
        let asked = !self.subscriptions.is_empty() || self.hears || !self.links.is_empty();
        asked && self.subscriptions.may_read() && self.unheard < UNHEARD
    }
}

/// A socket that can be read and written.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) socket: Socket,
    pub(super) protocol: Protocol,
    pub(super) local: SocketAddr,
    pub(super) remote: Option<SocketAddr>,
    no_close: bool,
    /// Outcome of reading, once it has ended.
    pub(super) end: Option<End>,
    ours: Ours,
    out: Option<Out>,
    /// The user was told that there is no room.
    pub(super) told: bool,
}

/// A message that the system has taken so much of.
#[derive(Debug)]
struct Out {
    data: Vec<u8>,
    taken: usize,
    to: SocketAddr,
}

/// State of the outgoing direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ours {
    Sends,
    /// The direction ends as soon as all of it is sent.
    Ends,
    Over,
}

impl Open {
    pub(super) fn new(socket: Socket, options: &PipeOptions) -> io::Result<Self> {
        socket.set(options)?;
        let ((local, remote), protocol) = (socket.ends()?, socket.protocol());
        let (no_close, ours) = (options.no_close, Ours::Sends);
        Ok(Open { socket, protocol, local, remote, no_close, end: None, ours, out: None, told: false })
    }

    /// Takes a message, whole or not at all.
    pub(super) fn send(&mut self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        if self.ours != Ours::Sends {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.out.is_some() {
            self.told = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.write(data, to) {
            Ok(None) => Ok(()),
            Ok(Some(taken)) => {
                self.out = Some(Out { data: data[taken..].into(), taken: 0, to });
                Ok(())
            }
            Err(e) => {
                if self.socket.is_a_stream() {
                    self.ours = Ours::Over;
                }
                Err(e)
            }
        }
    }

    /// `None`: the system, or the record layer, has all of it; else how much.
    fn write(&mut self, data: &[u8], to: SocketAddr) -> io::Result<Option<usize>> {
        let mut taken = 0;
        loop {
            match self.socket.write(&data[taken..], to) {
                Ok(n) => taken += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Some(taken)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if taken == data.len() || self.protocol == Protocol::Udp {
                break;
            }
        }
        match self.socket.flush() {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(None),
        }
    }

    /// Returns true if the pipe takes a message now.
    pub(super) fn has_room(&self) -> bool {
        self.out.is_none()
    }

    /// Sends the waiting bytes, and ends the outgoing direction if that is asked for. Returns true once nothing more is
    /// to be done.
    pub(super) fn flush(&mut self) -> bool {
        let sent = self.try_flush();
        match sent {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) if self.protocol == Protocol::Tcp => {
                // Reading tells why; who sends next hears that it is over.
                (self.out, self.ours) = (None, Ours::Over);
            }
            Ok(()) | Err(_) => {}
        }
        true
    }

    fn try_flush(&mut self) -> io::Result<()> {
        if let Some(mut out) = self.out.take()
            && let Some(taken) = self.write(&out.data[out.taken..], out.to)?
        {
            out.taken += taken;
            self.out = Some(out);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.ours == Ours::Over {
            return Ok(());
        }
        self.socket.flush()?;
        if self.ours == Ours::Ends {
            self.socket.end()?;
            self.ours = Ours::Over;
        }
        Ok(())
    }

    /// Ends the outgoing direction once all of it is sent. Returns false if it has ended already.
    pub(super) fn finish(&mut self) -> bool {
        let sends = self.ours == Ours::Sends;
        if sends {
            self.ours = Ours::Ends;
        }
        sends
    }

    /// The user is done with it.
    pub(super) fn leave(&mut self) {
        if self.no_close {
            self.ours = Ours::Over;
        } else {
            self.finish();
        }
    }

    /// Has the peer see that not all of it came.
    pub(super) fn reset(&self) {
        if !self.no_close {
            self.socket.reset();
        }
    }

    /// Returns true if both directions have ended.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some() && self.ours == Ours::Over
    }
}
