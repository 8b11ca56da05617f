//! Tasks that a node is brought up for, made of the command line.

use std::ffi::OsString;
use std::time::Duration;

use p2pd_core::{Name, NodeId, PipeMode, Plan, Strategy, Target};

use crate::checks::Listed;
use crate::daemon::Prepared;
use crate::doctor::Patient;
use crate::exec::Program;
use crate::file::{self, Batch, Parcel, Receiving};
use crate::forward::options::{Expose, Forward};
use crate::forward::{self, Exposing, ServiceName};
use crate::invitation::Invitation;
use crate::meet::Role;
use crate::options::{Command, Common, File, NameCommand, Receive, Send, ServersCommand, StrategyName};
use crate::say::Say;
use crate::talk::{Input, Wanted};
use crate::{lan, peers, ping};

/// Task that a node is brought up for.
pub(crate) enum Task {
    Listen(Listening, Option<Name>, Invitation),
    Name(NameCommand),
    Connect(Target, Plan, Option<Program>, Option<Wanted>),
    /// A session, of which one stream is talked on.
    Stream(Target, Plan),
    Service(Target, Plan, ServiceName),
    Expose(Exposing, Option<Name>, Invitation),
    Forward(Target, Plan, Vec<forward::Wanted>),
    Addr,
    Nat,
    /// The servers of the list, which is read later on.
    Check(Listed),
    Doctor(Box<Patient>),
    Ping(Target, Box<ping::Wanted>),
    Send(Target, Plan, Parcel),
    Receive(Receiving, Invitation),
    /// Files to whoever has a code.
    SendByCode(Role, Plan, Parcel),
    /// Files of the one sender with this code.
    ReceiveByCode(Role, Receiving),
    Pair(Role, Option<Name>),
    Daemon(Prepared, Option<Name>),
}

/// Treatment of callers.
#[derive(Debug)]
pub(crate) enum Listening {
    /// Callers get their own bytes back.
    Echo,
    /// Standard input and output go to one after another.
    Talk { idle: Duration, messages: Option<Wanted> },
    /// Each has a program of its own; many at once or one after another.
    Programs { program: Vec<OsString>, many: bool, idle: Duration },
}

/// Reason to refuse a pairing.
const LASTING: &str = "machines know each other by keys that last: give --identity";

/// Whether a router is asked to open the listener's port, and as which external one.
pub(crate) type Port = (bool, u16);

impl Task {
    /// Makes the task of a subcommand that needs a node, with the options of its node.
    ///
    /// # Errors
    /// Says what is wrong with the usage.
    pub(crate) fn new(command: Command, say: Say) -> Result<(Self, Common, Port), String> {
        let no_port = (false, 0);
        Ok(match command {
            Command::Listen { echo, idle, many, exec, port, name, qr, lines, metrics, mut common } => {
                common.metrics = metrics.metrics;
                let messages = lines.wanted();
                let more = if messages.is_some() { " --messages" } else { "" };
                let listening = match exec.is_empty() {
                    _ if echo => Listening::Echo,
                    true => Listening::Talk { idle, messages },
                    false => Listening::Programs { program: exec, many, idle },
                };
                let invitation = Invitation::new("connect", more, name, qr, &common);
                (Task::Listen(listening, name, invitation), common, (port.wanted(), port.external()))
            }
            Command::Name(command) => {
                let common = match &command {
                    NameCommand::Register { common, .. }
                    | NameCommand::Resolve { common, .. }
                    | NameCommand::Release { common, .. }
                    | NameCommand::Forget { common, .. } => common.clone(),
                };
                (Task::Name(command), common, no_port)
            }
            Command::Nat { common } => (Task::Nat, common, no_port),
            Command::Ping(ping) => {
                let wanted = Box::new(ping::Wanted::new(&ping));
                (Task::Ping(target(&ping.address, &ping.common)?, wanted), ping.common, no_port)
            }
            Command::Daemon(daemon) => {
                let port = (daemon.port.wanted(), daemon.port.external());
                (Task::Daemon(Prepared::new(&daemon)?, daemon.name), daemon.common, port)
            }
            Command::File(File::Receive(receive)) | Command::Receive { code: None, receive } => {
                never_plain(&receive.common)?;
                let invitation = Invitation::new("file send", " PATH", None, false, &receive.common);
                (Task::Receive(Receiving::new(&receive)?, invitation), receive.common, no_port)
            }
            Command::Receive { code: Some(code), receive } => Self::receive(Role::Guest(code), receive)?,
            Command::File(File::Send { address, send }) => Self::send(Some(&address), send, say)?,
            Command::Send { to, send } => Self::send(to.as_deref(), send, say)?,
            Command::Pair { code, name, common } => {
                crate::names::needs_identity(&common).map_err(|_| LASTING)?;
                needs_broker(&common)?;
                let invitation = Invitation::new("pair", " --identity KEY", None, false, &common);
                (Task::Pair(code.map_or(Role::Host(invitation), Role::Guest), name), common, no_port)
            }
            Command::Expose(expose) => Self::expose(expose)?,
            Command::Forward(Forward { address, pairs, socks, strategies, timeout, common }) => {
                never_plain(&common)?;
                let (to, wanted) =
                    (target(&address, &common)?, forward::Wanted::all(&pairs, socks.as_ref())?);
                (Task::Forward(to, forward::plan(plan(strategies, timeout)), wanted), common, no_port)
            }
            Command::Connect {
                address,
                strategies,
                timeout,
                relay_first,
                exec,
                stdio,
                service,
                streams,
                lines,
                metrics,
                mut common,
            } => {
                common.metrics = metrics.metrics;
                let (to, program) = (target(&address, &common)?, Program::new(exec, stdio));
                let mode =
                    if common.plain || program.is_some() { PipeMode::Plain } else { PipeMode::Encrypted };
                let plan = plan(strategies, timeout).mode(mode).relay_first(relay_first);
                if relay_first && !plan.strategies.contains(&Strategy::Relay) {
                    return Err("--relay-first needs relay among the strategies".into());
                }
                let streams = streams || relay_first;
                if service.is_some() || streams {
                    never_plain(&common)?;
                }
                let task = match service {
                    Some(service) => Task::Service(to, forward::plan(plan), service),
                    None if streams => Task::Stream(to, plan),
                    None => Task::Connect(to, plan, program, lines.wanted()),
                };
                (task, common, no_port)
            }
            Command::Servers(ServersCommand::Check { common }) => {
                (Task::Check(Listed::default()), common, no_port)
            }
            Command::Doctor(doctor) => {
                let port = (doctor.port.wanted(), doctor.port.external());
                let patient = Box::new(Patient::new(&doctor));
                // A listener may be running, and have the port that is asked about.
                (Task::Doctor(patient), Common { port: 0, ..doctor.common }, port)
            }
            Command::Addr { common } => (Task::Addr, common, no_port),
            // What needs no node has been done by now.
            _ => return Err("there is nothing to do".into()),
        })
    }

    /// Files to an address, or to whoever has a code.
    fn send(to: Option<&str>, send: Send, say: Say) -> Result<(Self, Common, Port), String> {
        let Send { paths, no_compress, common } = send;
        never_plain(&common)?;
        let to = to.map(|to| target(to, &common)).transpose()?;
        if to.is_none() {
            needs_broker(&common)?;
        }
        let parcel = Parcel { batch: Batch::new(&paths, say)?, packs: !no_compress, by_code: to.is_none() };
        let plan = file::plan(Plan::new());
        let task = match to {
            Some(to) => Task::Send(to, plan, parcel),
            None => {
                let invitation = Invitation::new("receive", "", None, false, &common);
                Task::SendByCode(Role::Host(invitation), plan, parcel)
            }
        };
        Ok((task, common, (false, 0)))
    }

    fn receive(role: Role, receive: Receive) -> Result<(Self, Common, Port), String> {
        never_plain(&receive.common)?;
        needs_broker(&receive.common)?;
        Ok((Task::ReceiveByCode(role, Receiving::new(&receive)?), receive.common, (false, 0)))
    }

    fn expose(options: Expose) -> Result<(Self, Common, Port), String> {
        never_plain(&options.common)?;
        let exposing = Exposing::new(&options, Input::can_ask())?;
        let invitation =
            Invitation::new("forward", &exposing.example(), options.name, false, &options.common);
        let port = (options.port.wanted(), options.port.external());
        let common = Common { metrics: options.metrics.metrics, ..options.common };
        Ok((Task::Expose(exposing, options.name, invitation), common, port))
    }

    /// Returns true if peers may open sessions.
    pub(crate) fn takes_sessions(&self) -> bool {
        match self {
            Task::Listen(Listening::Talk { messages, .. }, ..) => messages.is_none(),
            Task::Listen(Listening::Programs { .. } | Listening::Echo, ..)
            | Task::Expose(..)
            | Task::Daemon(..) => true,
            Task::Receive(..) | Task::ReceiveByCode(..) => true,
            _ => false,
        }
    }

    /// Returns true if it lets in nobody but who it meets.
    pub(crate) fn meets(&self) -> bool {
        matches!(self, Task::SendByCode(..) | Task::ReceiveByCode(..) | Task::Pair(..))
    }

    /// Returns a name to hold meanwhile.
    pub(crate) fn holds(&self) -> Option<Name> {
        match self {
            Task::Listen(_, name, _) | Task::Daemon(_, name) | Task::Expose(_, name, _) => *name,
            _ => None,
        }
    }

    /// Returns true if peers call the node.
    pub(crate) fn is_called(&self) -> bool {
        matches!(self, Task::Listen(..) | Task::Daemon(..) | Task::Expose(..) | Task::Receive(..))
    }

    /// Returns whom it calls.
    pub(crate) fn target(&mut self) -> Option<&mut Target> {
        match self {
            Task::Connect(to, ..) | Task::Send(to, ..) | Task::Ping(to, _) | Task::Stream(to, _) => Some(to),
            Task::Service(to, ..) | Task::Forward(to, ..) => Some(to),
            _ => None,
        }
    }

    /// Returns true if it has to do with names, or may have.
    pub(crate) fn knows_names(&self) -> bool {
        match self {
            Task::Connect(to, ..) | Task::Send(to, ..) | Task::Ping(to, _) | Task::Stream(to, _) => {
                matches!(to, Target::Name(_))
            }
            Task::Service(to, ..) | Task::Forward(to, ..) => matches!(to, Target::Name(_)),
            Task::Name(_) | Task::Daemon(..) | Task::Check(_) | Task::Doctor(_) => true,
            _ => self.holds().is_some(),
        }
    }
}

/// Reads whom to call. By `--lan` a node id is enough.
fn target(text: &str, common: &Common) -> Result<Target, String> {
    match text.trim().parse::<NodeId>() {
        Ok(id) if common.lan => lan::bare(id).map_err(|why| why.to_string()),
        Ok(_) => Err("this is a node id without an address: --lan searches for it in this network".into()),
        Err(_) => peers::target(text).map_err(|why| why.to_string()),
    }
}

fn needs_broker(common: &Common) -> Result<(), String> {
    if common.no_servers { Err("--no-servers: two who have a code meet at a broker".into()) } else { Ok(()) }
}

fn plan(strategies: Vec<StrategyName>, timeout: Duration) -> Plan {
    Plan::new().strategies(strategies.into_iter().map(Strategy::from)).timeout(timeout)
}

fn never_plain(common: &Common) -> Result<(), String> {
    if common.plain { Err("--plain: a session is encrypted always".into()) } else { Ok(()) }
}
