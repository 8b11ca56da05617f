//! Traces: a run of a node, written down line by line, which [`replay`] runs again.
//!
//! A node decides by nothing but its configuration, its seed, the calls and the inputs. So a user's failure can be
//! looked at, and kept as a test, on another machine. A [`Recorder`] is a node that writes; it opens no file, its lines
//! go where the driver wants them.
//!
//! ```
//! use p2pd_core::io::Interface;
//! use p2pd_core::trace::{Recorder, replay};
//! use p2pd_core::{Config, Input, Instant, SecretKey};
//! use std::sync::{Arc, Mutex};
//!
//! let text = Arc::new(Mutex::new(String::new()));
//! let lines = text.clone();
//! let config = Config::new(SecretKey::from_bytes([7; 32]));
//! let sink = Box::new(move |line: &str| lines.lock().unwrap().push_str(line));
//! let mut node = Recorder::new(config, [1; 32], Instant::ZERO, Some(sink)).unwrap();
//! let ip = "192.168.1.5".parse().unwrap();
//! let lan = Interface { default_route: true, ..Interface::new(2, ip, 24) };
//! node.handle(Instant::ZERO, Input::Interfaces(&[lan]));
//! while let Some(output) = node.poll_output() {
//!     // What a driver does.
//! #   let _ = output;
//! }
//!
//! let text = text.lock().unwrap();
//! assert!(text.contains("event 0 interfaces 1 2 192.168.1.5 24 yes - real yes\naction listen 0 0.0.0.0:0 128 "));
//! assert_eq!(replay(&text).unwrap().actions, 1);
//! ```
//!
//! # A trace is a secret
//!
//! The trace holds the node's *private key* and *seed*, without which it could not run again. A reader of the trace can
//! take the node's place for as long as the key is used. Such a reader can also compute the keys of every pipe that was
//! opened while the trace was written. So a reader can read their traffic where that was captured.
//!
//! Drivers create the file for its owner alone (mode 0600). Record with a temporary identity, or give the key up before
//! handing a trace on. The keys of pipes are never written, nor a byte that users send through pipes that are streams.
//! Relayed pipes run through the node, so that their bytes are in the trace. So are the credentials of TURN servers.
//!
//! # The text
//!
//! One record a line, words with one space between them, each line ended by a newline. First a header, in
//! this order:
//!
//! ```text
//! p2pd-trace 1
//! key 64 hexadecimal digits
//! seed 64 hexadecimal digits
//! start now
//! bind address or -
//! port number
//! accept anyone | ask | only number-of-peers peer...
//! allow-plain yes | no
//! survey yes | no
//! hairpin yes | no
//! portmap yes | no
//! external-port port
//! brokers number-of-brokers, and for each: id host port
//! stun number-of-servers, and for each: host port
//! turn number-of-servers, and for each: host port transport auth lifetimes alternates proxy
//! ntp number-of-servers, and for each: host port
//! max-pipes number or -
//! liveness interval patience
//! nat-memory number-of-networks, and for each: gateway outside held lost
//! ```
//! Then, in the order in which they happened:
//!
//! ```text
//! event now what...       an Input, by Node::handle
//! call now what...        connect (address and plan), calls on names, cancel, answer, busy, renew-login, shutdown, and
//!                         calls on relayed pipes and allocations
//! begun ok id             what connect or connect-name gave, always the next line; or: begun error why
//! action what...          an Output, which Node::poll_output gave
//! idle deadline or -      it gave nothing more, and this was the next deadline
//! ```
//! Times are nanoseconds of the driver's clock, bytes are hexadecimal; `form.rs` has the rest. A value has one
//! spelling. A trace may stop after any line: so do programs that crash.
//!
//! The reasons: ADR 1 in docs/src/adr.

mod form;
mod replay;
mod vocabulary;

use core::fmt;
use core::ops::Deref;
use core::time::Duration;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::address::PeerAddress;
use crate::call::ConnectId;
use crate::config::{Config, ConfigError, Plan};
use crate::identity::NodeId;
use crate::io::{Input, Output};
use crate::login::{Login, ServerRef};
use crate::meeting::{Code, MeetingError, MeetingId};
use crate::name::{Name, NameError, NamePin};
use crate::node::{Allocate, AllocateError, ConnectError, Node};
use crate::pipe::{PipeId, ProtocolTag};
use crate::relay::{MAX_AT_ONCE, MAX_MESSAGE, MessageError, ReadOutcome};
use crate::time::Instant;
use crate::turn::{MAX_PAYLOAD, SendError};

use form::{Put, word};
use vocabulary::{Call, Record};

pub use replay::{LineError, MAX_LINE, MAX_TEXT, ReplayError, Replayed, replay};

/// The first word of a trace.
const NAME: &str = "p2pd-trace";
/// The version of the text, which changes when a reader of the one before would misread it.
const VERSION: u8 = 1;

/// Receiver of a trace: is given one whole line at a time, with its newline.
pub type Sink = Box<dyn FnMut(&str) + Send>;

/// A [`Node`] that writes down all it is told and all it says, if somebody listens.
///
/// Its methods are the node's; without a sink they cost nothing more. The module's page says what a trace is and
/// why it is a secret.
pub struct Recorder {
    node: Node,
    sink: Option<Sink>,
    line: String,
    /// True if the last line said that nothing is left to do.
    idle: bool,
}

impl Recorder {
    /// Creates a node by [`Node::new`]; with a sink, everything from here on is recorded.
    ///
    /// # Errors
    /// [`ConfigError`] of [`Node::new`].
    pub fn new(
        config: Config,
        seed: [u8; 32],
        now: Instant,
        mut sink: Option<Sink>,
    ) -> Result<Self, ConfigError> {
        let header = sink.is_some().then(|| header(&config, &seed, now));
        let node = Node::new(config, seed, now)?;
        if let (Some(sink), Some(header)) = (&mut sink, header) {
            header.split_inclusive('\n').for_each(sink);
        }
        Ok(Recorder { node, sink, line: String::new(), idle: false })
    }

    /// Calls [`Node::handle`], and records the input.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        // Before the node acts: where it panics, the trace holds the reason.
        self.write(|| Record::Input(now, &input));
        self.node.handle(now, input);
    }

    /// Calls [`Node::poll_output`], and records the output.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.node.poll_output();
        match &output {
            Some(output) => self.write(|| Record::Output(output)),
            None if self.idle || self.sink.is_none() => {}
            None => {
                let deadline = self.node.poll_timeout();
                self.write(|| Record::Idle(deadline));
                self.idle = true;
            }
        }
        output
    }

    /// Calls [`Node::connect`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::connect`].
    pub fn connect(&mut self, now: Instant, to: &PeerAddress, plan: Plan) -> Result<ConnectId, ConnectError> {
        self.write(|| Record::Call(now, Call::Connect { to: Box::new(to.clone()), plan: plan.clone() }));
        let begun = self.node.connect(now, to, plan);
        self.write(|| Record::Begun(begun));
        begun
    }

    /// Calls [`Node::connect_name`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::connect_name`].
    pub fn connect_name(&mut self, now: Instant, name: Name, plan: Plan) -> Result<ConnectId, ConnectError> {
        self.write(|| Record::Call(now, Call::ConnectName { name, plan: plan.clone() }));
        let begun = self.node.connect_name(now, name, plan);
        self.write(|| Record::Begun(begun));
        begun
    }

    /// Calls [`Node::resolve`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::resolve`].
    pub fn resolve(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        self.write(|| Record::Call(now, Call::Resolve { name }));
        self.node.resolve(now, name)
    }

    /// Calls [`Node::register`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::register`].
    pub fn register(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        self.write(|| Record::Call(now, Call::Register { name }));
        self.node.register(now, name)
    }

    /// Calls [`Node::release`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::release`].
    pub fn release(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        self.write(|| Record::Call(now, Call::Release { name }));
        self.node.release(now, name)
    }

    /// Calls [`Node::pin_name`], and records the call.
    pub fn pin_name(&mut self, now: Instant, pin: NamePin) {
        self.write(|| Record::Call(now, Call::NamePin { pin }));
        self.node.pin_name(now, pin);
    }

    /// Calls [`Node::meet`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::meet`].
    pub fn meet(
        &mut self,
        now: Instant,
        code: Option<Code>,
        purpose: ProtocolTag,
        within: Duration,
    ) -> Result<MeetingId, MeetingError> {
        self.write(|| Record::Call(now, Call::Meet { code, purpose, within }));
        self.node.meet(now, code, purpose, within)
    }

    /// Calls [`Node::end_meeting`], and records the call.
    pub fn end_meeting(&mut self, now: Instant, meeting: MeetingId) {
        self.write(|| Record::Call(now, Call::EndMeeting { meeting }));
        self.node.end_meeting(now, meeting);
    }

    /// Calls [`Node::cancel`], and records the call.
    pub fn cancel(&mut self, now: Instant, connect: ConnectId) {
        self.write(|| Record::Call(now, Call::Cancel { connect }));
        self.node.cancel(now, connect);
    }

    /// Calls [`Node::answer`], and records the call.
    pub fn answer(&mut self, now: Instant, peer: NodeId, accept: bool) {
        self.write(|| Record::Call(now, Call::Answer { peer, accept }));
        self.node.answer(now, peer, accept);
    }

    /// Calls [`Node::set_busy`], and records the call.
    pub fn set_busy(&mut self, now: Instant, busy: bool) {
        self.write(|| Record::Call(now, Call::Busy { busy }));
        self.node.set_busy(now, busy);
    }

    /// Calls [`Node::renew_login`], and records the call.
    pub fn renew_login(&mut self, now: Instant, server: ServerRef, login: Option<Login>) {
        self.write(|| Record::Call(now, Call::RenewLogin { server, login: login.clone() }));
        self.node.renew_login(now, server, login);
    }

    /// Calls [`Node::shutdown`], and records the call.
    pub fn shutdown(&mut self, now: Instant) {
        self.write(|| Record::Call(now, Call::Shutdown));
        self.node.shutdown(now);
    }

    /// Calls [`Node::pipe_write`], and records the call.
    pub fn pipe_write(&mut self, now: Instant, pipe: PipeId, data: &[u8]) -> usize {
        let data = &data[..data.len().min(MAX_AT_ONCE)];
        self.write(|| Record::Call(now, Call::PipeWrite { pipe, data: Bytes::copy_from_slice(data) }));
        self.node.pipe_write(now, pipe, data)
    }

    /// Calls [`Node::pipe_read`], and records the call.
    pub fn pipe_read(&mut self, now: Instant, pipe: PipeId, out: &mut [u8]) -> ReadOutcome {
        let most = out.len().min(MAX_AT_ONCE);
        self.write(|| Record::Call(now, Call::PipeRead { pipe, most: most as u32 }));
        self.node.pipe_read(now, pipe, &mut out[..most])
    }

    /// Calls [`Node::pipe_send_message`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::pipe_send_message`].
    pub fn pipe_send_message(
        &mut self,
        now: Instant,
        pipe: PipeId,
        message: Bytes,
    ) -> Result<(), MessageError> {
        if message.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong);
        }
        self.write(|| Record::Call(now, Call::PipeSendMessage { pipe, message: message.clone() }));
        self.node.pipe_send_message(now, pipe, message)
    }

    /// Calls [`Node::pipe_read_message`], and records the call.
    pub fn pipe_read_message(&mut self, now: Instant, pipe: PipeId) -> Option<Bytes> {
        self.write(|| Record::Call(now, Call::PipeReadMessage { pipe }));
        self.node.pipe_read_message(now, pipe)
    }

    /// Calls [`Node::pipe_finish`], and records the call.
    pub fn pipe_finish(&mut self, now: Instant, pipe: PipeId) {
        self.write(|| Record::Call(now, Call::PipeFinish { pipe }));
        self.node.pipe_finish(now, pipe);
    }

    /// Calls [`Node::pipe_close`], and records the call.
    pub fn pipe_close(&mut self, now: Instant, pipe: PipeId) {
        self.write(|| Record::Call(now, Call::PipeClose { pipe }));
        self.node.pipe_close(now, pipe);
    }

    /// Calls [`Node::ping`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::ping`].
    pub fn ping(&mut self, now: Instant, to: &PeerAddress, number: u32) -> Result<u8, ConnectError> {
        self.write(|| Record::Call(now, Call::Ping { to: Box::new(to.clone()), number }));
        self.node.ping(now, to, number)
    }

    /// Calls [`Node::allocate`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::allocate`].
    pub fn allocate(&mut self, now: Instant, wish: &Allocate) -> Result<PipeId, AllocateError> {
        self.write(|| Record::Call(now, Call::Allocate { wish: wish.clone() }));
        self.node.allocate(now, wish)
    }

    /// Calls [`Node::pipe_send_to`], and records the call.
    ///
    /// # Errors
    /// Errors of [`Node::pipe_send_to`].
    pub fn pipe_send_to(
        &mut self,
        now: Instant,
        pipe: PipeId,
        to: SocketAddr,
        data: &[u8],
    ) -> Result<(), SendError> {
        if data.len() > MAX_PAYLOAD {
            return Err(SendError::TooLong);
        }
        self.write(|| Record::Call(now, Call::PipeSendTo { pipe, to, data: Bytes::copy_from_slice(data) }));
        self.node.pipe_send_to(now, pipe, to, data)
    }

    /// Calls [`Node::pipe_recv_from`], and records the call.
    pub fn pipe_recv_from(&mut self, now: Instant, pipe: PipeId) -> Option<(SocketAddr, Bytes)> {
        self.write(|| Record::Call(now, Call::PipeRecvFrom { pipe }));
        self.node.pipe_recv_from(now, pipe)
    }

    fn write<'a>(&mut self, record: impl FnOnce() -> Record<&'a Input<'a>, &'a Output>) {
        self.idle = false;
        if let Some(sink) = &mut self.sink {
            self.line.clear();
            record().put(&mut self.line);
            self.line.push('\n');
            sink(&self.line);
        }
    }
}

/// Methods that do not change a node.
impl Deref for Recorder {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("node", &self.node)
            .field("recording", &self.sink.is_some())
            .finish_non_exhaustive()
    }
}

fn header(config: &Config, seed: &[u8; 32], now: Instant) -> String {
    let Config {
        identity,
        brokers,
        stun,
        turn,
        bind,
        port,
        accept,
        allow_plain,
        aes,
        sessions,
        protocols,
        survey,
        hairpin,
        portmap,
        external_port,
        ntp,
        max_pipes,
        liveness,
        nat_memory,
        // The interfaces that the node is told of say what is used.
        interfaces: _,
    } = config;
    let mut text = format!("{NAME} {VERSION}\n");
    let mut line = |name: &str, value: &dyn Put| {
        let mut line = String::new();
        word(&mut line, name);
        value.put(&mut line);
        text.push_str(&line);
        text.push('\n');
    };
    line("key", identity.as_bytes());
    line("seed", seed);
    line("start", &now);
    line("bind", bind);
    line("port", port);
    line("accept", accept);
    line("allow-plain", allow_plain);
    line("aes", aes);
    line("sessions", sessions);
    line("protocols", protocols);
    line("survey", survey);
    line("hairpin", hairpin);
    line("portmap", portmap);
    line("external-port", external_port);
    line("brokers", brokers);
    line("stun", stun);
    line("turn", turn);
    line("ntp", ntp);
    line("max-pipes", max_pipes);
    line("liveness", liveness);
    line("nat-memory", nat_memory);
    text
}
