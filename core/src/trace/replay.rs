//! Running a trace again.

use core::fmt;

use crate::config::{Config, ConfigError};
use crate::identity::{NodeId, SecretKey};
use crate::node::{ConnectError, Node};
use crate::notice::ConnectId;
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
pub struct Replayed {
    /// The node that was recorded.
    pub node: NodeId,
    /// What it was told.
    pub events: u64,
    /// What its user asked of it.
    pub calls: u64,
    /// What it asked of its driver, each the same as recorded.
    pub actions: u64,
    /// When it started, by the driver's clock.
    pub start: Instant,
    /// The last time it was told.
    pub end: Instant,
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Replayed { events, calls, actions, .. } = self;
        let seconds = self.end.since(self.start).as_secs_f64();
        write!(f, "acts the same: {events} events and {calls} calls in {seconds:.3} s gave {actions} actions")
    }
}

/// Why a trace could not be run again to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplayError {
    /// The first line is not that of a trace.
    NoTrace,
    /// A trace of a version that this one does not read.
    Version,
    /// Longer than [`MAX_TEXT`]: this many bytes.
    TooLong(usize),
    /// A line is wrong.
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong. Never repeats the text, which may be a secret.
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
        /// What it would be now.
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

impl std::error::Error for ReplayError {}

/// What is wrong with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineError {
    /// The header ends before this line, which it has to have.
    Header(&'static str),
    /// More than [`MAX_LINE`] bytes; this many.
    TooLong(usize),
    /// The text ends within the line: there is no newline.
    CutOff,
    /// A word is missing at the end.
    Short,
    /// A word too many; its number, from 1.
    Long(usize),
    /// The word with this number, from 1, is not one that may stand there.
    Word(usize),
    /// It reads as something that is written otherwise.
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

/// Runs a trace again: builds the node, tells it what it was told, and compares what it does.
///
/// The text may be anybody's. Reading it costs time and memory in proportion to its length.
///
/// # Errors
/// The first line that is wrong, or at which the node acts otherwise.
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
            brokers: lines.field("brokers")?,
            stun: lines.field("stun")?,
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

    /// The header's line with this name.
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
    /// What the connect just before gave.
    begun: Option<Result<ConnectId, ConnectError>>,
    done: Replayed,
}

impl Run {
    /// Does what a line says, or compares; gives what the line would be now if it is not the same.
    fn line(&mut self, line: &str) -> Result<Option<String>, LineError> {
        let kind = Words::of(line).next()?;
        if (kind == "begun") != self.begun.is_some() {
            return Err(LineError::Order);
        }
        let got = match kind {
            "begun" => self.begun.take().map(|begun| written(&Line::Begun(begun))),
            "action" | "idle" => Some(match self.node.poll_action() {
                Some(action) => written(&Record::Action(&action)),
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
            Line::Event(now, event) => {
                self.done.events += 1;
                self.done.end = self.done.end.max(now);
                self.node.handle(now, event.event());
            }
            Line::Call(now, call) => {
                self.done.calls += 1;
                self.done.end = self.done.end.max(now);
                self.call(now, call);
            }
            Line::Begun(_) | Line::Action(_) | Line::Idle(_) => {}
        }
        Ok(got)
    }

    fn call(&mut self, now: Instant, call: Call) {
        match call {
            Call::Connect { to, plan } => self.begun = Some(self.node.connect(now, &to, plan)),
            Call::Cancel { connect } => self.node.cancel(now, connect),
            Call::Answer { peer, accept } => self.node.answer(now, peer, accept),
            Call::Shutdown => self.node.shutdown(now),
        }
    }
}

fn written(record: &impl Put) -> String {
    let mut line = String::new();
    record.put(&mut line);
    line
}
