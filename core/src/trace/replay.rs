//! Replay of a trace.

use core::fmt;

use crate::call::ConnectId;
use crate::config::{Config, ConfigError};
use crate::identity::{NodeId, SecretKey};
use crate::node::{ConnectError, Node};
use crate::relay::MAX_AT_ONCE;
use crate::selection::Interfaces;
use crate::time::Instant;

use super::form::{Put, Take, Words, spelled, whole, word};
use super::vocabulary::{Call, Line, Record};
use super::{NAME, VERSION};

/// Longest text that is looked at: 256 MiB.
pub const MAX_TEXT: usize = 256 << 20;

/// Longest line: 4 MiB, far over what a socket gives at a time.
pub const MAX_LINE: usize = 4 << 20;

/// A trace that was run again: the node did what it had done.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Replayed {
    /// The node that was recorded.
    pub node: NodeId,
    /// Number of events that the node was told.
    pub events: u64,
    /// Number of calls of its user.
    pub calls: u64,
    /// Number of actions that it asked of its driver, each the same as recorded.
    pub actions: u64,
    /// Time of the start, by the driver's clock.
    pub start: Instant,
    /// Last time that the node was told.
    pub end: Instant,
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Replayed { events, calls, actions, .. } = self;
        let seconds = self.end.since(self.start).as_secs_f64();
        write!(f, "acts the same: {events} events and {calls} calls in {seconds:.3} s gave {actions} actions")
    }
}

/// Reason that a trace could not be run again to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// The first line is not that of a trace.
    NoTrace,
    /// A trace of a version that this one does not read.
    Version,
    /// Longer than [`MAX_TEXT`]: this many bytes.
    TooLong(usize),
    /// A line is wrong.
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// Error of the line. Never repeats the text, which may be a secret.
        why: LineError,
    },
    /// The configuration could not have been used.
    Config(ConfigError),
    /// The node does something else than it did.
    Differs {
        /// The number of the first line that is not the same, from 1.
        line: usize,
        /// The line.
        expected: String,
        /// Line that the node would write now.
        got: String,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::NoTrace => write!(f, "not a trace: the first line is not \"{NAME} {VERSION}\""),
            ReplayError::Version => write!(f, "a trace of another version, this one reads {VERSION}"),
            ReplayError::TooLong(n) => write!(f, "{n} bytes are no trace, at most {MAX_TEXT} are read"),
            ReplayError::Line { line, why } => write!(f, "line {line}: {why}"),
            ReplayError::Config(why) => write!(f, "configuration: {why}"),
            ReplayError::Differs { line, expected, got } => {
                write!(f, "line {line} differs\n  recorded: {expected}\n  replayed: {got}")
            }
        }
    }
}

impl std::error::Error for ReplayError {
    /// Returns the fault of the line or of the configuration.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReplayError::Line { why, .. } => Some(why),
            ReplayError::Config(why) => Some(why),
            _ => None,
        }
    }
}

/// Error of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LineError {
    /// The header ends before this line, which it has to have.
    Header(&'static str),
    /// Length over [`MAX_LINE`] bytes; this many.
    TooLong(usize),
    /// The text ends within the line: there is no newline.
    CutOff,
    /// A word is missing at the end.
    Short,
    /// A word too many; its number, from 1.
    Long(usize),
    /// The word with this number, from 1, is not one that may stand there.
    Word(usize),
    /// The word reads as a value that is written otherwise.
    Spelling,
    /// `begun` stands after a connect, and there only.
    Order,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::Header(name) => write!(f, "the header's line \"{name}\" has to stand here"),
            LineError::TooLong(n) => write!(f, "{n} bytes long, at most {MAX_LINE} are possible"),
            LineError::CutOff => f.write_str("cut off within the line; without it the rest may be good"),
            LineError::Short => f.write_str("a word is missing at its end"),
            LineError::Long(n) => write!(f, "word {n} is one too many"),
            LineError::Word(n) => write!(f, "word {n} cannot stand there"),
            LineError::Spelling => f.write_str("not spelled as p2pd would"),
            LineError::Order => f.write_str("\"begun\" stands after a connect, and only there"),
        }
    }
}

impl std::error::Error for LineError {}

/// Runs a trace again: builds the node, tells it all that it was told, and compares its actions.
///
/// The text may be anybody's. Reading it costs time and memory in proportion to its length.
///
/// # Errors
/// First line that is wrong, or at which the node acts otherwise.
pub fn replay(text: &str) -> Result<Replayed, ReplayError> {
    if text.len() > MAX_TEXT {
        return Err(ReplayError::TooLong(text.len()));
    }
    let mut lines = Lines { rest: text, at: 0 };
    first_line(&mut lines)?;
    let header = |lines: &mut Lines<'_>| -> Result<_, LineError> {
        // In the order of the text.
        let identity = SecretKey::from_bytes(lines.field("key")?);
        let seed: [u8; 32] = lines.field("seed")?;
        let start: Instant = lines.field("start")?;
        let config = Config {
            identity,
            bind: lines.field("bind")?,
            port: lines.field("port")?,
            accept: lines.field("accept")?,
            allow_plain: lines.field("allow-plain")?,
            aes: lines.field("aes")?,
            sessions: lines.field("sessions")?,
            protocols: lines.field("protocols")?,
            survey: lines.field("survey")?,
            hairpin: lines.field("hairpin")?,
            portmap: lines.field("portmap")?,
            external_port: lines.field("external-port")?,
            brokers: lines.field("brokers")?,
            stun: lines.field("stun")?,
            turn: lines.field("turn")?,
            ntp: lines.field("ntp")?,
            max_pipes: lines.field("max-pipes")?,
            liveness: lines.field("liveness")?,
            nat_memory: lines.field("nat-memory")?,
            interfaces: Interfaces::default(),
        };
        Ok((config, seed, start))
    };
    let (config, seed, start) = header(&mut lines).map_err(|why| lines.error(why))?;
    let node = Node::new(config, seed, start).map_err(ReplayError::Config)?;
    let done = Replayed { node: node.node_id(), events: 0, calls: 0, actions: 0, start, end: start };
    let mut run = Run { node, begun: None, done };
    while let Some(line) = lines.next().map_err(|why| lines.error(why))? {
        match run.line(line) {
            Ok(None) => {}
            Ok(Some(got)) => {
                return Err(ReplayError::Differs { line: lines.at, expected: line.into(), got });
            }
            Err(why) => return Err(lines.error(why)),
        }
    }
    Ok(run.done)
}

fn first_line(lines: &mut Lines<'_>) -> Result<(), ReplayError> {
    let mut first = Words::of(lines.next().ok().flatten().unwrap_or_default());
    if first.next() != Ok(NAME) {
        return Err(ReplayError::NoTrace);
    }
    match (first.next().map(str::parse), first.end()) {
        (Ok(Ok(VERSION)), Ok(())) => Ok(()),
        _ => Err(ReplayError::Version),
    }
}

#[derive(Debug)]
struct Lines<'a> {
    rest: &'a str,
    /// The number of the last line, from 1.
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<Option<&'a str>, LineError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.at += 1;
        let (line, rest) = self.rest.split_once('\n').ok_or(LineError::CutOff)?;
        if line.len() > MAX_LINE {
            return Err(LineError::TooLong(line.len()));
        }
        self.rest = rest;
        Ok(Some(line))
    }

    /// Reads the header's line with this name.
    fn field<T: Put + Take>(&mut self, name: &'static str) -> Result<T, LineError> {
        let Some(line) = self.next()? else {
            self.at += 1;
            return Err(LineError::Header(name));
        };
        let mut words = Words::of(line);
        if words.next() != Ok(name) {
            return Err(LineError::Header(name));
        }
        let value = T::take(&mut words)?;
        words.end()?;
        spelled(line, |again| {
            word(again, name);
            value.put(again);
        })?;
        Ok(value)
    }

    fn error(&self, why: LineError) -> ReplayError {
        ReplayError::Line { line: self.at, why }
    }
}

struct Run {
    node: Node,
    /// Result of the connect just before.
    begun: Option<Result<ConnectId, ConnectError>>,
    done: Replayed,
}

impl Run {
    /// Carries a line out, or compares it. Returns the line as it would be now if it is not the same.
    fn line(&mut self, line: &str) -> Result<Option<String>, LineError> {
        let kind = Words::of(line).next()?;
        if (kind == "begun") != self.begun.is_some() {
            return Err(LineError::Order);
        }
        let got = match kind {
            "begun" => self.begun.take().map(|begun| written(&Line::Begun(begun))),
            "action" | "idle" => Some(match self.node.poll_output() {
                Some(output) => written(&Record::Output(&output)),
                None => written(&Line::Idle(self.node.poll_timeout())),
            }),
            _ => None,
        };
        if got.as_deref() == Some(line) {
            self.done.actions += u64::from(kind == "action");
            return Ok(None);
        }
        // Only a good line can be a difference.
        match whole(line)? {
            Line::Input(now, input) => {
                self.done.events += 1;
                self.done.end = self.done.end.max(now);
                self.node.handle(now, input.input());
            }
            Line::Call(now, call) => {
                self.done.calls += 1;
                self.done.end = self.done.end.max(now);
                self.call(now, call);
            }
            Line::Begun(_) | Line::Output(_) | Line::Idle(_) => {}
        }
        Ok(got)
    }

    fn call(&mut self, now: Instant, call: Call) {
        match call {
            Call::Connect { to, plan } => self.begun = Some(self.node.connect(now, &to, plan)),
            Call::ConnectName { name, plan } => self.begun = Some(self.node.connect_name(now, name, plan)),
            Call::Resolve { name } => drop(self.node.resolve(now, name)),
            Call::Register { name } => drop(self.node.register(now, name)),
            Call::Release { name } => drop(self.node.release(now, name)),
            Call::NamePin { pin } => self.node.pin_name(now, pin),
            Call::Meet { code, purpose, within } => {
                let _ = self.node.meet(now, code, purpose, within);
            }
            Call::EndMeeting { meeting } => self.node.end_meeting(now, meeting),
            Call::Cancel { connect } => self.node.cancel(now, connect),
            Call::Answer { peer, accept } => self.node.answer(now, peer, accept),
            Call::Busy { busy } => self.node.set_busy(now, busy),
            Call::RenewLogin { server, login } => self.node.renew_login(now, server, login),
            Call::Shutdown => self.node.shutdown(now),
            Call::PipeWrite { pipe, data } => drop(self.node.pipe_write(now, pipe, &data)),
            Call::PipeRead { pipe, most } => {
                let mut space = vec![0; (most as usize).min(MAX_AT_ONCE)];
                self.node.pipe_read(now, pipe, &mut space);
            }
            Call::PipeSendMessage { pipe, message } => {
                let _ = self.node.pipe_send_message(now, pipe, message);
            }
            Call::PipeReadMessage { pipe } => drop(self.node.pipe_read_message(now, pipe)),
            Call::PipeFinish { pipe } => self.node.pipe_finish(now, pipe),
            Call::PipeClose { pipe } => self.node.pipe_close(now, pipe),
            Call::Ping { to, number } => drop(self.node.ping(now, &to, number)),
            Call::Allocate { wish } => drop(self.node.allocate(now, &wish)),
            Call::PipeSendTo { pipe, to, data } => {
                let _ = self.node.pipe_send_to(now, pipe, to, &data);
            }
            Call::PipeRecvFrom { pipe } => drop(self.node.pipe_recv_from(now, pipe)),
        }
    }
}

fn written(record: &impl Put) -> String {
    let mut line = String::new();
    record.put(&mut line);
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use quickcheck::Gen;

    use crate::turn::Credentials;

    use super::super::Recorder;
    use super::super::vocabulary::InputView;
    use super::*;
    use crate::config::{Accept, Broker, NtpServer, StunServer, TurnServer};
    use crate::io::{Input, Interface, Output, SockId};
    use crate::nat::{NatMemory, Network};

    fn config() -> Config {
        let other = SecretKey::from_bytes([8; 32]).node_id();
        let mut config = Config::new(SecretKey::from_bytes([7; 32]));
        config.brokers = vec![Broker::new(9, "broker.example", 1883)];
        config.stun = vec![StunServer { host: "2001:db8::1".into(), port: 3478 }];
        config.ntp = vec![NtpServer { host: "2001:db8::2".into(), port: 123 }];
        config.turn = vec![TurnServer::new("turn.example", 3478, Credentials::new("alice", "se cret"))];
        config.accept = Accept::Only([other].into());
        let network = Network { gateway: None, outside: "203.0.113.1".parse().unwrap() };
        let [held, lost] = [40, 80].map(core::time::Duration::from_secs);
        config.nat_memory = vec![NatMemory { network, held, lost: Some(lost) }];
        config
    }

    fn recorder() -> (Recorder, Arc<Mutex<String>>) {
        let text = Arc::new(Mutex::new(String::new()));
        let lines = text.clone();
        let sink = Box::new(move |line: &str| lines.lock().unwrap().push_str(line));
        (Recorder::new(config(), [3; 32], Instant::ZERO, Some(sink)).unwrap(), text)
    }

    /// Records a node that finds nothing where it looks, for ten of its deadlines.
    fn recorded() -> String {
        let (mut node, text) = recorder();
        let ip = "203.0.113.1".parse().unwrap();
        let mut now = Instant::ZERO;
        node.handle(
            now,
            Input::Interfaces(&[Interface { default_route: true, ..Interface::new(2, ip, 24) }]),
        );
        for _ in 0..10 {
            while let Some(output) = node.poll_output() {
                match output {
                    Output::Listen { sock, local, .. } | Output::BindUdp { sock, local, .. } => {
                        node.handle(now, Input::Bound { sock, local: (local.ip(), 4000).into() });
                    }
                    Output::Connect { sock, .. } => {
                        node.handle(now, Input::Failed { sock, cause: crate::IoFailure::Refused });
                    }
                    Output::Resolve { query, .. } => {
                        let result = Ok([ip].into_iter().collect());
                        node.handle(now, Input::Resolved { query, result });
                    }
                    _ => {}
                }
            }
            now = node.poll_timeout().unwrap();
            node.handle(now, Input::Timeout);
        }
        let text = text.lock().unwrap();
        text.clone()
    }

    #[test]
    fn a_run_acts_the_same_again_and_its_configuration_is_the_same() {
        let text = recorded();
        let replayed = replay(&text).unwrap();
        assert_eq!(replayed.node, config().identity.node_id());
        assert!(replayed.actions > 10 && replayed.events > 10, "{replayed}\n{text}");
        let other = SecretKey::from_bytes([8; 32]).node_id();
        let header = format!(
            "p2pd-trace 1\nkey {}\nseed {}\nstart 0\nbind -\nport 0\naccept only 1 {other}\nallow-plain no\naes -\nsessions no\nprotocols 0\nsurvey yes\nhairpin no\nportmap no\nexternal-port 0\n\
             brokers 1 9 broker.example 1883 - - 0 - no -\nstun 1 2001:db8::1 3478\n\
             turn 1 turn.example 3478 - - fixed alice se+cret no 600000000000 300000000000 600000000000 no -\nntp 1 2001:db8::2 123\nmax-pipes -\nliveness 20000000000 30000000000\nnat-memory 1 - 203.0.113.1 40000000000 80000000000\nevent 0 interfaces ",
            "07".repeat(32),
            "03".repeat(32)
        );
        assert!(text.starts_with(&header), "{text}");
    }

    /// Tells the node anything that a driver may say, in any order and at any time.
    #[test]
    fn random_runs_act_the_same_again() {
        let mut g = Gen::new(6);
        for round in 0..300 {
            let (mut node, text) = recorder();
            for _ in 0..40 {
                let now = match round % 3 {
                    0 => Instant::any(&mut g),
                    _ => node.poll_timeout().unwrap_or_default(),
                };
                let input = InputView::any(&mut g);
                node.handle(now, input.input());
                match Call::any(&mut g) {
                    Call::Connect { to, plan } => drop(node.connect(now, &to, plan)),
                    Call::ConnectName { name, plan } => drop(node.connect_name(now, name, plan)),
                    Call::Resolve { name } => drop(node.resolve(now, name)),
                    Call::Register { name } => drop(node.register(now, name)),
                    Call::Release { name } => drop(node.release(now, name)),
                    Call::NamePin { pin } => node.pin_name(now, pin),
                    Call::Meet { code, purpose, within } => {
                        let _ = node.meet(now, code, purpose, within);
                    }
                    Call::EndMeeting { meeting } => node.end_meeting(now, meeting),
                    Call::Cancel { connect } => node.cancel(now, connect),
                    Call::Answer { peer, accept } => node.answer(now, peer, accept),
                    Call::Busy { busy } => node.set_busy(now, busy),
                    Call::RenewLogin { server, login } => node.renew_login(now, server, login),
                    Call::Shutdown if round % 7 == 0 => node.shutdown(now),
                    Call::Shutdown => {}
                    Call::PipeWrite { pipe, data } => drop(node.pipe_write(now, pipe, &data)),
                    Call::PipeRead { pipe, most } => {
                        let _ = node.pipe_read(now, pipe, &mut vec![0; most as usize % 100]);
                    }
                    Call::PipeSendMessage { pipe, message } => {
                        let _ = node.pipe_send_message(now, pipe, message);
                    }
                    Call::PipeReadMessage { pipe } => drop(node.pipe_read_message(now, pipe)),
                    Call::PipeFinish { pipe } => node.pipe_finish(now, pipe),
                    Call::PipeClose { pipe } => node.pipe_close(now, pipe),
                    Call::Ping { to, number } => drop(node.ping(now, &to, number)),
                    Call::Allocate { wish } => drop(node.allocate(now, &wish)),
                    Call::PipeSendTo { pipe, to, data } => {
                        let _ = node.pipe_send_to(now, pipe, to, &data);
                    }
                    Call::PipeRecvFrom { pipe } => drop(node.pipe_recv_from(now, pipe)),
                }
                for _ in 0..u8::any(&mut g) % 8 {
                    if let Some(Output::Listen { sock, .. }) = node.poll_output() {
                        node.handle(now, Input::Bound { sock, local: ([203, 0, 113, 1], 4000).into() });
                        let accepted = SockId::accepted(u64::any(&mut g) % 4);
                        let (local, remote) = (([203, 0, 113, 1], 4000).into(), ([203, 0, 113, 2], 1).into());
                        node.handle(now, Input::Accepted { listener: sock, sock: accepted, local, remote });
                    }
                }
            }
            let text = text.lock().unwrap();
            if let Err(why) = replay(&text) {
                panic!("{why}\n{text}");
            }
        }
    }

    #[test]
    fn any_text_is_an_error_or_a_trace_and_never_a_panic() {
        let (mut g, text) = (Gen::new(10), recorded());
        for _ in 0..3_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..=u8::any(&mut g) % 3 {
                let at = usize::any(&mut g) % bytes.len();
                match u8::any(&mut g) % 4 {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes[at] = *g.choose(b" %+-0189:af~@\n\0").unwrap(),
                    2 => drop(bytes.remove(at)),
                    // A line taken out or doubled.
                    _ => {
                        let mut lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
                        let n = at % lines.len();
                        let line = lines.remove(n);
                        if at % 2 == 0 {
                            lines.insert(n, line);
                            lines.insert(usize::any(&mut g) % lines.len(), line);
                        }
                        bytes = lines.concat();
                    }
                }
                if bytes.is_empty() {
                    break;
                }
            }
            if let Err(why) = replay(&String::from_utf8_lossy(&bytes)) {
                let why = why.to_string();
                assert!(!why.contains("07070707") && !why.contains("03030303"), "a secret: {why}");
            }
        }
    }

    #[test]
    fn errors_name_the_line() {
        let text = recorded();
        let line = |line, why| Err(ReplayError::Line { line, why });
        let changed = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}: {text}");
            replay(&text.replacen(from, to, 1))
        };
        assert_eq!(replay(""), Err(ReplayError::NoTrace));
        assert_eq!(replay("p2pd-trace 1"), Err(ReplayError::NoTrace));
        assert_eq!(changed("p2pd-trace", "P2PD"), Err(ReplayError::NoTrace));
        assert_eq!(changed("p2pd-trace 1", "p2pd-trace 2"), Err(ReplayError::Version));
        assert_eq!(changed("p2pd-trace 1", "p2pd-trace 1 "), Err(ReplayError::Version));
        assert_eq!(replay("p2pd-trace 1\n"), line(2, LineError::Header("key")));
        assert_eq!(changed("key 07", "key 7"), line(2, LineError::Word(2)));
        assert_eq!(changed("seed 03", "seed 0x"), line(3, LineError::Word(2)));
        assert_eq!(changed("start 0", "start 00"), line(4, LineError::Spelling));
        assert_eq!(changed("bind -\n", ""), line(5, LineError::Header("bind")));
        assert_eq!(changed("port 0", "port"), line(6, LineError::Short));
        assert_eq!(changed("allow-plain no", "allow-plain no no"), line(8, LineError::Long(3)));
        assert_eq!(changed("brokers 1", "brokers 99999999"), line(16, LineError::Short));
        let port = ReplayError::Config(ConfigError::BadBroker(0));
        assert_eq!(changed("1883", "0"), Err(port));
        assert_eq!(changed("event 0 interfaces", "event 0 Interfaces"), line(23, LineError::Word(3)));
        assert_eq!(
            changed("event 0 interfaces", "begun ok 1\nevent 0 interfaces"),
            line(23, LineError::Order)
        );
        assert_eq!(changed("event 0 interfaces", "\nevent 0 interfaces"), line(23, LineError::Word(1)));
        assert_eq!(replay(text.trim_end()), line(text.lines().count(), LineError::CutOff));
        let call = "call 0 connect None-0-0-x 1 direct plain - 5 no\n";
        assert_eq!(
            replay(&format!("{text}{call}idle -\n")),
            line(text.lines().count() + 2, LineError::Order)
        );
        let long = format!("p2pd-trace 1\nkey {}\n", "0".repeat(MAX_LINE));
        assert_eq!(replay(&long), line(2, LineError::TooLong(MAX_LINE + 4)));
        let listen = text.lines().find(|l| l.starts_with("action listen ")).unwrap();
        let differs = ReplayError::Differs {
            line: 24,
            expected: listen.replace(" 128 ", " 5 "),
            got: listen.to_owned(),
        };
        assert_eq!(changed(" 128 ", " 5 "), Err(differs));
    }
}
