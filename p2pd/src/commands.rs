//! Work of the subcommands.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use p2pd_core::{Accept, BrokerState, Config, Event, Name, PipeMode, Plan, SecretKey, Strategy, Target};
use p2pd_sys::{NatFile, PinFile};
use p2pd_tokio::{BindError, Events, Lost, Node, Pipe};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::USAGE;
use crate::daemon::{self, Prepared};
use crate::exec::Program;
use crate::file::{self, Batch, Receiving};
use crate::invitation::Invitation;
use crate::options::{Command, Common, File, NameCommand, Options};
use crate::say::Say;
use crate::talk::{self, Gather, PIPE, Wanted, named};
use crate::{clock, demo, interfaces, log, manual, map, names, ping, server, signals, trace};
use p2pd::servers::{
    Commands, CredentialError, Renewals, Servers, TurnCredential, WayOut, credentials, log_in,
};

/// Bytes copied at a time.
const CHUNK: usize = 64 * 1024;

/// Task that a node is brought up for.
enum Task {
    Listen(Listening, Option<Name>, Invitation),
    Name(NameCommand),
    Connect(Target, Plan, Option<Program>, Option<Wanted>),
    Addr,
    Nat,
    Ping(Target, Box<ping::Wanted>),
    Send(Target, Plan, Batch),
    Receive(Receiving, Invitation),
    Daemon(Prepared, Option<Name>),
}

/// Treatment of callers.
#[derive(Debug)]
enum Listening {
    /// Callers get their own bytes back.
    Echo,
    /// Standard input and output go to one after another.
    Talk { idle: Duration, messages: Option<Wanted> },
}

impl Task {
    /// A name to hold meanwhile.
    fn holds(&self) -> Option<Name> {
        match self {
            Task::Listen(_, name, _) | Task::Daemon(_, name) => *name,
            _ => None,
        }
    }

    /// True if it has to do with names, or may have.
    fn knows_names(&self) -> bool {
        match self {
            Task::Connect(to, ..) | Task::Send(to, ..) | Task::Ping(to, _) => matches!(to, Target::Name(_)),
            Task::Name(_) | Task::Daemon(..) => true,
            _ => self.holds().is_some(),
        }
    }
}

pub(crate) async fn run(options: Options) -> ExitCode {
    let say = Say::new(options.json, options.quiet);
    if let Some(filter) = options.log {
        log::start(filter, say);
    }
    // Everything that can be wrong with the usage is, before anything is opened.
    let (mut portmap, mut external_port) = (false, 0);
    let (task, common) = match options.command {
        Command::Serve(serve) => return server::run(&serve, say).await,
        Command::Interfaces { config } => return interfaces::run(config.as_deref(), say).await,
        Command::Map(map) => return map::run(&map, say).await,
        Command::Clock { config } => return clock::run(config.as_deref(), say).await,
        Command::Demo { size } => return demo::run(size, say).await,
        Command::Replay { file } => return trace::replay(&file, say),
        Command::Config => return manual::config(say),
        Command::Completions { shell } => return manual::completions(shell, say),
        Command::Man { folder } => return manual::man(folder.as_deref(), say),
        Command::Id { identity } => return id(&identity, say),
        Command::Listen { echo, idle, port, name, qr, lines, common } => {
            (portmap, external_port) = (port.wanted(), port.external());
            let messages = lines.wanted();
            let more = if messages.is_some() { " --messages" } else { "" };
            let listening = if echo { Listening::Echo } else { Listening::Talk { idle, messages } };
            let invitation = Invitation::new("connect", more, name, qr, &common);
            (Task::Listen(listening, name, invitation), common)
        }
        Command::Name(command) => match name_task(command, say) {
            Ok(task) => task,
            Err(code) => return code,
        },
        Command::Addr { common } => (Task::Addr, common),
        Command::Nat { common } => (Task::Nat, common),
        Command::Ping(ping) => match ping.address.parse::<Target>() {
            Ok(to) => (Task::Ping(to, Box::new(ping::Wanted::new(&ping))), ping.common),
            Err(why) => return usage(say, &why.to_string()),
        },
        Command::Daemon(daemon) => match Prepared::new(&daemon) {
            Ok(prepared) => {
                (portmap, external_port) = (daemon.port.wanted(), daemon.port.external());
                (Task::Daemon(prepared, daemon.name), daemon.common)
            }
            Err(why) => return usage(say, &why),
        },
        Command::File(File::Receive(receive)) => match Receiving::new(&receive) {
            Ok(receiving) => {
                let invitation = Invitation::new("file send", " FILE", None, false, &receive.common);
                (Task::Receive(receiving, invitation), receive.common)
            }
            Err(why) => return usage(say, &why),
        },
        Command::File(File::Send { address, files, common }) => {
            let to = match address.parse::<Target>() {
                Ok(to) => to,
                Err(why) => return usage(say, &why.to_string()),
            };
            let files = match file::outgoing(&files, say) {
                Ok(files) => files,
                Err(why) => return usage(say, &why),
            };
            let mode = if common.plain { PipeMode::Plain } else { PipeMode::Encrypted };
            (Task::Send(to, Plan::new().mode(mode), files), common)
        }
        Command::Connect { address, strategies, timeout, relay_first, exec, stdio, lines, common } => {
            let to = match address.parse::<Target>() {
                Ok(to) => to,
                Err(why) => return usage(say, &why.to_string()),
            };
            let program = Program::new(exec, stdio);
            let mode = if common.plain || program.is_some() { PipeMode::Plain } else { PipeMode::Encrypted };
            let plan = Plan::new()
                .strategies(strategies.into_iter().map(Strategy::from))
                .mode(mode)
                .timeout(timeout)
                .relay_first(relay_first);
            if relay_first && !plan.strategies.contains(&Strategy::Relay) {
                return usage(say, "--relay-first needs relay among the strategies");
            }
            (Task::Connect(to, plan, program, lines.wanted()), common)
        }
    };
    let pins = match task.knows_names().then(|| pins(&task, &common)).transpose() {
        Ok(pins) => pins,
        Err(why) => return usage(say, &why),
    };
    let nat_file = names::nat_file(&common);
    let (config, renewals, way) = match config(&common, say).await {
        Ok((mut config, renewals, way)) => {
            // Names are signed for a time; nothing else needs to know it.
            if !task.knows_names() {
                config.ntp.clear();
            }
            let nat_memory = nat_file.as_ref().map(NatFile::load).unwrap_or_default();
            let hairpin = matches!(task, Task::Nat);
            let max_pipes =
                matches!(task, Task::Daemon(..)).then(|| p2pd_sys::most_pipes().min(daemon::MAX_INCOMING));
            config.max_pipes = max_pipes;
            config.external_port = external_port;
            (config.portmap(portmap).hairpin(hairpin).nat_memory(nat_memory), renewals, way)
        }
        Err(why) => return usage(say, &why),
    };
    // P2PD's documents have a node answer ECHO on what peers open to it.
    let mut builder = Node::builder(config).echo(matches!(task, Task::Daemon(..)));
    if let Some(path) = &common.trace {
        match trace::create(path, say) {
            Ok(write) => builder = builder.trace(write),
            Err(why) => return usage(say, &why),
        }
    }
    let node = match builder.bind().await {
        Ok(node) => node,
        Err(BindError::Config(why)) => {
            let list = common.config.as_ref().map(|path| format!("{}: ", path.display()));
            return usage(say, &format!("{}{why}", list.unwrap_or_default()));
        }
        Err(BindError::Interfaces(why)) => {
            if why.kind() == io::ErrorKind::NotFound {
                return usage(say, &why.to_string());
            }
            let bind = common.bind.map_or("network interfaces".into(), |ip| format!("--bind {ip}"));
            say.error(&format!("{bind}: {why}"));
            return ExitCode::FAILURE;
        }
        Err(why) => {
            say.error(&why.to_string());
            return ExitCode::FAILURE;
        }
    };
    let (file, known) = pins.unzip();
    let (said, following) = follow(node.events(), file.clone(), nat_file, say);
    tokio::spawn(renew(node.clone(), node.events(), renewals, say));
    known.into_iter().flatten().for_each(|pin| node.pin_name(pin));
    if let (Some(name), Some(file)) = (task.holds(), &file)
        && let Err(code) = names::register(&node, name, true, file, say).await
    {
        node.shutdown().await;
        return code;
    }
    let code = match task {
        Task::Name(command) => match &file {
            Some(file) => names::run(&node, &command, file, say).await,
            None => ExitCode::FAILURE,
        },
        Task::Connect(to, plan, None, messages) => connect(&node, (&to, plan), messages, say, &said).await,
        Task::Connect(to, plan, Some(program), _) => match open(&node, &to, plan, say, &said).await {
            Ok(pipe) => {
                // The socket needs nothing of ours any more.
                node.shutdown().await;
                program.run(pipe, say).await
            }
            Err(code) => code,
        },
        Task::Send(to, plan, files) => match open(&node, &to, plan, say, &said).await {
            Ok(pipe) => file::send(pipe, &files, say).await,
            Err(code) => code,
        },
        Task::Receive(receiving, invitation) => file::receive(&node, receiving, &invitation, say).await,
        Task::Listen(listening, _, invitation) => listen(&node, listening, invitation, say).await,
        Task::Nat => nat(&node, say).await,
        Task::Ping(to, wanted) => ping::run(&node, &to, &wanted, say).await,
        Task::Daemon(prepared, _) => daemon::run(&node, prepared, way, say).await,
        Task::Addr => {
            say.waiting("asking for the outside address");
            let address = node.address().await;
            say.still();
            if say.print(&address.to_string()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    };
    node.shutdown().await;
    drop(node);
    let _ = following.await;
    code
}

/// A key's node id, to standard output.
fn id(identity: &Path, say: Say) -> ExitCode {
    match p2pd_tokio::load_or_create_key(identity) {
        Ok(key) if say.print(&key.node_id().to_string()) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => usage(say, &why.to_string()),
    }
}

/// Asks to be told once all events so far are said.
type Said = mpsc::Sender<oneshot::Sender<()>>;

/// Says events, in a task of its own that ends with the node.
fn follow(
    mut events: Events,
    pins: Option<PinFile>,
    nats: Option<NatFile>,
    say: Say,
) -> (Said, JoinHandle<()>) {
    let (said, mut asked) = mpsc::channel::<oneshot::Sender<()>>(1);
    let following = tokio::spawn(async move {
        let mut lost = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(Ok(event)) => {
                        if let Some(file) = &pins {
                            names::keep(file, &event, say);
                        }
                        // What cannot be kept is measured again.
                        if let (Some(file), Event::NatMemory(memory)) = (&nats, &event) {
                            let _ = file.keep(*memory);
                        }
                        say.event(&event);
                        match event {
                            Event::Broker { id, state: BrokerState::Lost(_) } => drop(lost.insert(id)),
                            Event::Broker { id, state: BrokerState::Ready } if lost.remove(&id) => {
                                say.broker_again(id);
                            }
                            _ => {}
                        }
                    }
                    Some(Err(Lost(_))) => {}
                    None => return,
                },
                Some(done) = asked.recv() => drop(done.send(())),
            }
        }
    });
    (said, following)
}

/// Returns the task of `p2pd name`, or the exit code of one that needs no node.
fn name_task(command: NameCommand, say: Say) -> Result<(Task, Common), ExitCode> {
    let common = match &command {
        NameCommand::Register { common, .. }
        | NameCommand::Resolve { common, .. }
        | NameCommand::Release { common, .. }
        | NameCommand::Forget { common, .. } => common.clone(),
    };
    if let NameCommand::Forget { name, .. } = command {
        return Err(match names::pin_file(&common) {
            Ok(file) => names::forget(name, &file, say),
            Err(why) => usage(say, &why),
        });
    }
    Ok((Task::Name(command), common))
}

/// Returns the file with the keys of names, and its content.
fn pins(task: &Task, common: &Common) -> Result<(PinFile, Vec<p2pd_tokio::NamePin>), String> {
    let owns = matches!(task, Task::Name(NameCommand::Register { .. } | NameCommand::Release { .. }));
    if owns || task.holds().is_some() {
        names::needs_identity(common)?;
    }
    let file = names::pin_file(common)?;
    let known = file.load().map_err(|why| why.to_string())?;
    Ok((file, known))
}

pub(crate) fn usage(say: Say, why: &str) -> ExitCode {
    say.error(why);
    ExitCode::from(USAGE)
}

/// Returns the configuration that the options and the list make, the sources of the logins that expire, and what the list
/// says of the way out.
async fn config(common: &Common, say: Say) -> Result<(Config, Renewals, Option<WayOut>), String> {
    let key = match &common.identity {
        Some(path) => p2pd_tokio::load_or_create_key(path).map_err(|e| e.to_string())?,
        None => SecretKey::from_bytes(p2pd_tokio::random_seed().map_err(|e| e.to_string())?),
    };
    let mut config = Config::new(key);
    let mut servers = match &common.config {
        Some(path) => Servers::read(path)?,
        None if common.no_servers => Servers::default(),
        None => Servers::shipped()?,
    };
    let commands = if common.allow_commands { Commands::Allowed } else { Commands::Refused };
    let list = common.config.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default();
    for (n, why) in log_in(&mut servers, commands).await.map_err(|why| format!("{list}{why}"))? {
        say.error(&format!("broker {}:{}: {why}", servers.brokers[n].host, servers.brokers[n].port));
    }
    let renewals = Renewals::of(&servers);
    servers.apply(&mut config)?;
    for (server, of_node) in servers.turn.iter().zip(&mut config.turn) {
        let TurnCredential::Command(command) = &server.credential else { continue };
        match credentials(command, commands).await {
            Ok(auth) => of_node.auth = auth,
            Err(why @ CredentialError::NotAllowed(_)) => return Err(format!("{list}{why}")),
            // It is asked again when the server is needed.
            Err(why) => say.error(&format!("TURN server {}:{}: {why}", server.host, server.port)),
        }
    }
    if !common.accept.is_empty() {
        config.accept = Accept::Only(common.accept.iter().copied().collect());
    }
    config.bind = common.bind;
    config.interfaces = common.interfaces();
    config.port = common.port;
    config.allow_plain = common.plain;
    Ok((config, renewals, servers.proxy))
}

/// Gives a node the logins that it asks for, until it ends.
async fn renew(node: Node, mut events: Events, renewals: Renewals, say: Say) {
    let mut asked = JoinSet::new();
    loop {
        match events.recv().await {
            Some(Ok(Event::LoginWanted { server })) => {
                // A command may take its time, and there may be others.
                let (node, renewals) = (node.clone(), renewals.clone());
                asked.spawn(async move {
                    let login = renewals.get(server).await;
                    if let Err(why) = &login {
                        say.error(&format!("{}: {why}", server));
                    }
                    node.renew_login(server, login.ok());
                });
            }
            Some(Ok(Event::Closed)) | None => return,
            Some(_) => {}
        }
    }
}

async fn connect(
    node: &Node,
    (to, plan): (&Target, Plan),
    messages: Option<Wanted>,
    say: Say,
    said: &Said,
) -> ExitCode {
    let pipe = match open(node, to, plan, say, said).await {
        Ok(pipe) => pipe,
        Err(code) => return code,
    };
    match talk::caller(pipe, messages, say).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say.error(&why.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn open(node: &Node, to: &Target, plan: Plan, say: Say, said: &Said) -> Result<Pipe, ExitCode> {
    say.waiting("connecting");
    let outcome = node.connect_with(to, plan).await;
    // What led to it is said before it.
    let (done, all) = oneshot::channel();
    if said.send(done).await.is_ok() {
        let _ = all.await;
    }
    match outcome {
        Ok(pipe) => {
            say.opened("connected", &pipe);
            Ok(pipe)
        }
        Err(why) => {
            say.failed(&why);
            Err(match why {
                p2pd_tokio::ConnectError::NotBegun(_) => ExitCode::from(USAGE),
                _ => ExitCode::FAILURE,
            })
        }
    }
}

async fn nat(node: &Node, say: Say) -> ExitCode {
    say.waiting("measuring");
    let reports = node.nats().await;
    if say.nats(&reports) && reports.iter().any(|r| r.mapped.is_some()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Says the address once it is known, and again whenever it changes.
pub(crate) async fn addresses(node: Node, mut events: Events, invitation: Option<Invitation>, say: Say) {
    say.waiting("asking for the outside address");
    let id = node.node_id();
    let mut said = node.address().await;
    say.ready(&said, id, invitation.as_ref());
    loop {
        match events.recv().await {
            Some(Ok(Event::Ready { address })) if *address != said => {
                said = *address;
                say.ready(&said, id, invitation.as_ref());
            }
            Some(_) => {}
            None => return,
        }
    }
}

/// Serves until interrupted.
async fn listen(node: &Node, listening: Listening, invitation: Invitation, say: Say) -> ExitCode {
    let telling = tokio::spawn(addresses(node.clone(), node.events(), Some(invitation), say));
    let serving = async {
        match listening {
            Listening::Echo => echo(node, say).await,
            Listening::Talk { idle, messages } => {
                if let Err(why) = talk::listener(node, idle, messages, say).await {
                    say.error(&why.to_string());
                    return ExitCode::FAILURE;
                }
            }
        }
        ExitCode::SUCCESS
    };
    let code = tokio::select! {
        code = serving => code,
        () = signals::interrupted() => ExitCode::SUCCESS,
    };
    telling.abort();
    code
}

/// Every byte of every pipe back.
async fn echo(node: &Node, say: Say) {
    while let Some(pipe) = node.accept().await {
        say.opened("incoming", &pipe);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(pipe);
            if let Err(why) = copy(&mut read, &mut write).await {
                say.error(&named(PIPE, &why).to_string());
            }
        });
    }
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let (mut from, mut buffer) = (Gather::new(from), vec![0; CHUNK]);
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            n => to.write_all(&buffer[..n]).await?,
        }
        to.flush().await?;
    }
}
