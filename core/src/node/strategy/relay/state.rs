//! Relay of one session, from the request for an allocation to the end of the pipe.

use core::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::call::{ConnectId, Strategy};
use crate::cx::{Cx, Timer};
use crate::hello::{Control, parse_control};
use crate::identity::NodeId;
use crate::io::SockId;
use crate::node::admission::{Kind, Place};
use crate::node::servers::{ServerNews, Servers};
use crate::node::strategy::knock::{Knock, KnockKey};
use crate::pipe::{PipeId, Terms};
use crate::relay::{ReadOutcome, RelayStream, StreamEvent};
use crate::signal::message::MAX_SOURCES;
use crate::strategy::agreement::Key;
use crate::strategy::ours::Trust;
use crate::time::Instant;

pub(in crate::node) struct Relay {
    pub(super) id: PipeId,
    /// The strategy that found the way: the relay's own, or UDP punching, whose socket sends to the peer itself.
    pub(super) strategy: Strategy,
    pub(super) key: Key,
    /// The call, where it is ours.
    pub(super) connect: Option<ConnectId>,
    pub(super) peer: NodeId,
    pub(super) terms: Terms,
    pub(super) trust: Trust,
    /// Places of the brokers that reach the peer.
    pub(super) via: SmallVec<[u8; 2]>,
    pub(super) since: Instant,
    pub(super) stage: RelayStage,
    /// Time at which the relay is given up.
    pub(super) until: Option<Instant>,
    /// Servers of this node, where the relay is ours, or where we come from one of our own.
    pub(super) servers: Option<Servers>,
    /// Socket from which we come to the peer's relay. True: it is bound.
    pub(super) socket: Option<(SockId, bool)>,
    /// True if we come from our own relayed address.
    pub(super) by_server: bool,
    /// True if a time for that was set, once.
    pub(super) helped: bool,
    /// True if a knock was answered, for which `Relays` has not begun the stream yet.
    answered: bool,
    /// True if we have servers that could relay for us too.
    pub(super) has_turn: bool,
    /// Time to say again from where we come, and to get a relayed address of our own.
    pub(super) help_at: Option<Instant>,
    /// Window of the stream in each direction.
    pub(super) window: u32,
    pub(super) stream: Option<Box<RelayStream>>,
    /// Destination of our datagrams.
    pub(super) to: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
    /// Addresses that we come from, for TURN_RESPONSE.
    pub(super) sources: SmallVec<[SocketAddr; MAX_SOURCES]>,
    /// The server does not let the peer through.
    pub(super) refused: Option<u16>,
    /// Answers knocks.
    knock_key: KnockKey,
    /// A stranger has named where our datagrams are to go, and nobody has answered from there.
    pub(super) knock: Option<Knock>,
    /// The beginning of a control message.
    held: SmallVec<[u8; 64]>,
    /// True if the outgoing direction was ended.
    pub(super) finished: bool,
    /// True if all bytes that were written have arrived, or never will.
    pub(super) done: bool,
    /// The pipe has ended from the other end, or for want of a relay.
    pub(super) over: bool,
    /// News that came while the pipe was about to be handed out.
    pub(super) later: Vec<RelayEvent>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RelayStage {
    /// The handshake is under way, or a step before it.
    Meeting,
    /// The peer is authentic; the ends agree on the stream that is the pipe.
    Agreeing,
    /// The ends have agreed on it, and its pipe is about to be handed out.
    Won,
    /// The pipe is the user's.
    Pipe,
    /// The user has closed it. Bytes that were written before go still.
    Leaving,
    /// Closed; the peer and the servers are being told.
    Ending,
}

#[derive(Debug)]
pub(super) enum RelayEvent {
    Stream(StreamEvent),
    /// A knock was answered.
    Answered,
    Server(ServerNews),
}

impl Relay {
    pub(super) fn new(
        id: PipeId,
        (key, peer, terms): (Key, NodeId, Terms),
        trust: Trust,
        via: SmallVec<[u8; 2]>,
        now: Instant,
        knock_key: KnockKey,
    ) -> Self {
        Relay {
            id,
            strategy: Strategy::Relay,
            key,
            connect: None,
            peer,
            terms,
            trust,
            via,
            since: now,
            stage: RelayStage::Meeting,
            until: None,
            servers: None,
            socket: None,
            by_server: false,
            helped: false,
            answered: false,
            has_turn: false,
            help_at: None,
            window: 0,
            stream: None,
            to: None,
            local: None,
            sources: SmallVec::new(),
            refused: None,
            knock_key,
            knock: None,
            held: SmallVec::new(),
            finished: false,
            done: false,
            over: false,
            later: Vec::new(),
        }
    }

    /// Returns true if the relay is still to become a pipe.
    pub(in crate::node) fn is_opening(&self) -> bool {
        matches!(self.stage, RelayStage::Meeting | RelayStage::Agreeing)
    }

    /// Returns true if all bytes that were written and all messages have arrived, or never will.
    pub(super) fn has_arrived(&self) -> bool {
        let messages = !self.over && self.stream.as_ref().is_some_and(|s| s.has_messages_under_way());
        self.done && !messages
    }

    pub(in crate::node) fn key(&self) -> Key {
        self.key
    }

    #[cfg(test)]
    pub(in crate::node) fn peer(&self) -> NodeId {
        self.peer
    }

    /// Returns the place that a peer's relay takes while it is opened.
    pub(in crate::node) fn place(&self) -> Place {
        let Relay { key: (session, _), peer, trust, since, .. } = *self;
        let kind = if self.strategy == Strategy::Udp { Kind::Udp } else { Kind::Relay };
        Place { kind, session, peer, trust, since, answered: self.is_heard() }
    }

    /// Returns true if a datagram of the peer's has come by the relay.
    pub(super) fn is_heard(&self) -> bool {
        let answered = self.trust == Trust::Stranger && self.knock.is_none();
        answered || self.stream.as_ref().is_some_and(|s| s.stats().received > 0)
    }

    /// Takes in a datagram on a socket of ours.
    pub(super) fn datagram(&mut self, cx: &mut Cx, sock: SockId, from: SocketAddr, data: &[u8]) {
        if self.socket.is_some_and(|(s, _)| s == sock) {
            if self.to != Some(from) || self.by_server || self.is_answer(data) {
                return;
            }
            if let Some(stream) = &mut self.stream {
                stream.handle_datagram(cx.now, data);
            }
        } else if let Some(servers) = &mut self.servers {
            servers.datagram(cx, sock, from, data);
        }
    }

    /// Sends all that is to be sent, takes all that came, and arms the timer. Returns the news for `Relays`.
    pub(super) fn pump(&mut self, cx: &mut Cx) -> SmallVec<[RelayEvent; 2]> {
        let mut news = SmallVec::new();
        if core::mem::take(&mut self.answered) {
            news.push(RelayEvent::Answered);
        }
        self.knock(cx);
        loop {
            let mut busy = false;
            while let Some(datagram) = self.stream.as_mut().and_then(|s| s.poll_transmit(cx.now)) {
                self.transmit(cx, datagram);
                busy = true;
            }
            while let Some(event) = self.stream.as_mut().and_then(|s| s.poll_event()) {
                news.push(RelayEvent::Stream(event));
            }
            while let Some(said) = self.servers.as_mut().and_then(Servers::poll_news) {
                match said {
                    ServerNews::Data(from, data) => self.relayed(cx, from, &data),
                    other => news.push(RelayEvent::Server(other)),
                }
                busy = true;
            }
            if !busy {
                break;
            }
        }
        // What came through our own relay may have been the answer.
        if core::mem::take(&mut self.answered) {
            news.push(RelayEvent::Answered);
        }
        self.release(cx);
        let knock = self.knock.as_ref().and_then(Knock::poll_timeout);
        let stream = self.stream.as_mut().and_then(|s| s.poll_timeout());
        let servers = self.servers.as_ref().and_then(Servers::poll_timeout);
        let next = [stream, servers, knock, self.until, self.help_at].into_iter().flatten().min();
        cx.timers.set(Timer::Relay(self.id), next);
        news
    }

    pub(super) fn timeout(&mut self, cx: &mut Cx) {
        if let Some(stream) = &mut self.stream
            && stream.poll_timeout().is_some_and(|at| at <= cx.now)
        {
            stream.handle_timeout(cx.now);
        }
        if let Some(servers) = &mut self.servers {
            servers.timeout(cx);
        }
    }

    /// Reads the control messages that are whole, one at a time; after CONFIRM the pipe's bytes follow.
    pub(super) fn read_control(&mut self, now: Instant) -> Option<Result<Control, ()>> {
        let stream = self.stream.as_mut()?;
        loop {
            // A length, then the message; not a byte more is read.
            let whole = self.held.first().map_or(1, |length| 1 + usize::from(*length));
            if whole > 64 {
                return Some(Err(()));
            }
            if self.held.len() == whole && whole > 1 {
                let message = core::mem::take(&mut self.held);
                return Some(parse_control(&message[1..]).ok_or(()));
            }
            if self.held.len() == whole {
                return Some(Err(()));
            }
            let mut space = [0; 64];
            let wanted = whole - self.held.len();
            match stream.read(now, &mut space[..wanted]) {
                ReadOutcome::Read(n) => self.held.extend_from_slice(&space[..n]),
                ReadOutcome::Empty => return None,
                ReadOutcome::End => return Some(Err(())),
            }
        }
    }

    pub(super) fn send_control(&mut self, now: Instant, control: &Control) {
        let message = control.encode();
        let mut framed: SmallVec<[u8; 64]> = SmallVec::new();
        framed.push(message.len() as u8);
        framed.extend_from_slice(&message);
        if let Some(stream) = &mut self.stream {
            // The first bytes of a stream always fit its window.
            stream.write(now, &framed);
        }
    }

    /// Closes the stream. The allocation at servers is given up once the peer has had its time to ask what became of
    /// us. The last datagram may be lost, and is said again to a peer that still sends.
    pub(super) fn close(&mut self, cx: &mut Cx) {
        self.stage = RelayStage::Ending;
        self.help_at = None;
        if self.trust == Trust::Stranger && !self.is_heard() {
            // Whoever it named is told nothing more.
            self.stream = None;
        }
        if let Some(stream) = &mut self.stream {
            stream.close(cx.now);
        }
    }

    /// Gives the allocation at servers up if it is time to, once the relay is closed.
    pub(super) fn release(&mut self, cx: &mut Cx) {
        if self.stage == RelayStage::Ending
            && self.stream.as_ref().is_none_or(|s| s.is_over())
            && let Some(servers) = &mut self.servers
        {
            servers.close(cx);
        }
    }

    /// Gives the relay up without waiting for anything. False: it was given up before.
    pub(super) fn hurry(&mut self) -> bool {
        self.stream.take().is_some()
    }

    /// Returns true if nothing is left to be told.
    pub(super) fn is_over(&self) -> bool {
        self.stage == RelayStage::Ending
            && self.stream.as_ref().is_none_or(|s| s.is_over())
            && self.servers.as_ref().is_none_or(Servers::is_over)
    }

    pub(super) fn drop_sockets(&mut self, cx: &mut Cx) {
        cx.timers.set(Timer::Relay(self.id), None);
        if let Some((sock, _)) = self.socket.take() {
            cx.close(sock, crate::io::CloseHow::Drop);
        }
        if let Some(servers) = &mut self.servers {
            servers.drop_sockets(cx);
        }
    }

    /// Takes the answer to a knock.
    fn is_answer(&mut self, data: &[u8]) -> bool {
        let is = self.knock.as_ref().is_some_and(|k| k.is_answer(data));
        if is {
            self.knock = None;
            self.answered = true;
        }
        is
    }

    /// Knocks if it is time to.
    fn knock(&mut self, cx: &mut Cx) {
        let spare = !self.by_server && self.has_turn;
        if let Some(knock) = self.knock.as_mut().and_then(|k| k.due(cx.now, spare)) {
            self.transmit(cx, Bytes::copy_from_slice(&knock));
        }
    }

    /// Takes in a datagram that came through our own relay.
    fn relayed(&mut self, cx: &mut Cx, from: SocketAddr, data: &[u8]) {
        if let (Some(answer), Some(servers)) = (self.knock_key.answer(data), &mut self.servers) {
            return servers.send(cx, from, &answer);
        }
        if self.to == Some(from) && self.is_answer(data) {
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        // Once the peer is authentic, its address is fixed: nobody else at a permitted address may move it.
        let fixed = self.by_server || self.stage != RelayStage::Meeting;
        if fixed && self.to != Some(from) {
            return;
        }
        let before = stream.stats().received;
        stream.handle_datagram(cx.now, data);
        if !fixed && stream.stats().received > before {
            self.to = Some(from);
        }
    }

    fn transmit(&mut self, cx: &mut Cx, datagram: Bytes) {
        let Some(to) = self.to else { return };
        match (&mut self.servers, self.socket) {
            (_, Some((sock, true))) if !self.by_server => cx.send_datagram(sock, to, datagram),
            (Some(servers), _) => servers.send(cx, to, &datagram),
            _ => {}
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("key", &self.key)
            .field("peer", &self.peer)
            .field("stage", &self.stage)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}
