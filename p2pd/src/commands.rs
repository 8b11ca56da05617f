//! Work of the subcommands.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use p2pd_core::{Accept, BrokerState, Config, Event, Plan, SecretKey, Target};
use p2pd_sys::{NatFile, PinFile};
use p2pd_tokio::{BindError, ConnectError, Events, Lost, Node, Pipe};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::USAGE;
use crate::checks::{self, Listed};
use crate::daemon;
use crate::invitation::Invitation;
use crate::metrics::Metrics;
use crate::options::{Command, Common, NameCommand, Options};
use crate::say::Say;
use crate::talk::{self, Wanted};
use crate::task::{Listening, Port, Task};
use crate::{
    clock, demo, doctor, file, forward, interfaces, lan, log, manual, map, meet, names, peers, ping, public,
    server, service, signals, status, trace,
};
use p2pd::servers::{
    Commands, CredentialError, Renewals, Servers, TurnCredential, WayOut, credentials, log_in,
};

pub(crate) async fn run(options: Options) -> ExitCode {
    let say = Say::new(options.json, options.quiet);
    let _log = match log::start(options.log, say) {
        Ok(log) => log,
        Err(why) => return usage(say, &why),
    };
    if let Some(path) = &options.peers {
        peers::use_file(path);
    }
    // Everything that can be wrong with the usage is, before anything is opened.
    match options.command {
        Command::Serve(serve) => server::run(&serve, say).await,
        Command::Interfaces { config } => interfaces::run(config.as_deref(), say).await,
        Command::Map(map) => map::run(&map, say).await,
        Command::Clock { config } => clock::run(config.as_deref(), say).await,
        Command::Demo { size } => demo::run(size, say).await,
        Command::Replay { file } => trace::replay(&file, say),
        Command::Config => manual::config(say),
        Command::Completions { shell } => manual::completions(shell, say),
        Command::Man { folder } => manual::man(folder.as_deref(), say),
        Command::Status(options) => status::run(&options, say).await,
        Command::Service(command) => service::run(command, say),
        Command::Peers { command } => peers::run(command, say),
        Command::Id { identity } => id(&identity, say),
        Command::Name(NameCommand::Forget { name, common }) => match names::pin_file(&common) {
            Ok(file) => names::forget(name, &file, say),
            Err(why) => usage(say, &why),
        },
        command => match Task::new(command, say) {
            Ok((task, common, port)) => with_node(task, &common, port, say).await,
            Err(why) => usage(say, &why),
        },
    }
}

/// Brings a node up for a task, and carries it out.
async fn with_node(mut task: Task, common: &Common, port: Port, say: Say) -> ExitCode {
    let pins = match task.knows_names().then(|| pins(&task, common)).transpose() {
        Ok(pins) => pins,
        Err(why) => return usage(say, &why),
    };
    let nat_file = names::nat_file(common);
    let (config, renewals, way) = match config(common, say).await {
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
            config.external_port = port.1;
            config.sessions = task.takes_sessions();
            if task.meets() && common.accept.is_empty() {
                // Nobody answers for others than who is met.
                config.accept = Accept::Ask;
            }
            match &task {
                Task::Expose(exposing, ..) => forward::prepare(&mut config, exposing),
                Task::Receive(..) | Task::ReceiveByCode(..) => file::prepare(&mut config),
                _ => {}
            }
            (config.portmap(port.0).hairpin(hairpin).nat_memory(nat_memory), renewals, way)
        }
        Err(why) => return usage(say, &why),
    };
    let key = config.identity.clone();
    match &mut task {
        Task::Check(listed) => *listed = Listed::of(&config),
        Task::Doctor(patient) => patient.listed = Listed::of(&config),
        _ => {}
    }
    // P2PD's documents have a node answer ECHO on what peers open to it.
    let mut builder = Node::builder(config).echo(matches!(task, Task::Daemon(..)));
    match &task {
        Task::Expose(exposing, ..) => builder = builder.session(exposing.sessions()),
        Task::Listen(..) => builder = builder.session(talk::sessions()),
        Task::Receive(..) | Task::ReceiveByCode(..) => builder = builder.session(file::sessions()),
        Task::Daemon(..) => builder = builder.session(daemon::settings()),
        _ => {}
    }
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
    // An exposer has counted nothing yet.
    let metrics = match &task {
        Task::Expose(exposing, ..) => exposing.metrics.clone(),
        _ => Arc::default(),
    };
    let reading = match metrics.read_at(common.metrics, &node, say).await {
        Ok(reading) => reading,
        Err(why) => {
            node.shutdown().await;
            return usage(say, &why);
        }
    };
    let (said, following) = follow(node.events(), file.clone(), nat_file, say);
    tokio::spawn(renew(node.clone(), node.events(), renewals, say));
    known.into_iter().flatten().for_each(|pin| node.pin_name(pin));
    if let (Some(name), Some(file)) = (task.holds(), &file)
        && let Err(code) = names::register(&node, name, true, file, say).await
    {
        node.shutdown().await;
        return code;
    }
    let code = in_network((&node, key), &mut task, common, say).await;
    let code = match code {
        Ok(announcement) => {
            let code = carry_out(&node, task, (file.as_ref(), way, metrics), say, &said).await;
            if let Some(announcement) = announcement {
                announcement.end().await;
            }
            code
        }
        Err(code) => code,
    };
    if let Some(reading) = reading {
        reading.abort();
    }
    node.shutdown().await;
    drop(node);
    let _ = following.await;
    code
}

/// With `--lan`: announces the node of a task that peers call, and searches for the peer of one that calls.
async fn in_network(
    (node, key): (&Node, SecretKey),
    task: &mut Task,
    common: &Common,
    say: Say,
) -> Result<Option<lan::Announcement>, ExitCode> {
    let outcome = if !common.lan {
        Ok(None)
    } else if task.is_called() {
        lan::Announcement::begin(node, key, common, say).map(Some)
    } else if let Some(to) = task.target() {
        lan::find(to, common, say).await.map(|()| None)
    } else {
        Ok(None)
    };
    outcome.map_err(|why| {
        say.error(&why);
        ExitCode::FAILURE
    })
}

async fn carry_out(
    node: &Node,
    task: Task,
    (file, way, metrics): (Option<&PinFile>, Option<WayOut>, Arc<Metrics>),
    say: Say,
    said: &Said,
) -> ExitCode {
    match task {
        Task::Check(listed) => checks::run(node, listed, say).await,
        Task::Doctor(patient) => doctor::run(node, *patient, say).await,
        Task::Name(command) => match file {
            Some(file) => names::run(node, &command, file, say).await,
            None => ExitCode::FAILURE,
        },
        Task::Connect(to, plan, None, messages) => {
            connect(node, (&to, plan), (messages, metrics), say, said).await
        }
        Task::Connect(to, plan, Some(program), _) => match open(node, &to, plan, say, said).await {
            Ok(pipe) => {
                // The socket needs nothing of ours any more.
                node.shutdown().await;
                program.run(pipe, say).await
            }
            Err(code) => code,
        },
        Task::Stream(to, plan) => stream(node, (&to, plan), metrics, say, said).await,
        Task::Service(to, plan, service) => forward::connect(node, (&to, plan), service, metrics, say).await,
        Task::Forward(to, plan, wanted) => forward::forward(node, (&to, plan), wanted, say).await,
        Task::Expose(exposing, _, invitation) => forward::expose(node, exposing, invitation, say).await,
        Task::Send(to, plan, parcel) => send_files(node, (&to, plan), parcel, say, said).await,
        Task::SendByCode(role, plan, parcel) => {
            match meet::meet(node, meet::Purpose::File, &role, say).await {
                Ok((address, ..)) => {
                    let to = Target::Address(Box::new(address));
                    send_files(node, (&to, plan), parcel, say, said).await
                }
                Err(code) => code,
            }
        }
        Task::ReceiveByCode(role, receiving) => match meet::meet(node, meet::Purpose::File, &role, say).await
        {
            Ok((_, id, _meeting)) => file::receive_from(node, id, receiving, say).await,
            Err(code) => code,
        },
        Task::Pair(role, name) => meet::pair(node, &role, name, say).await,
        Task::Receive(receiving, invitation) => file::receive(node, receiving, &invitation, say).await,
        Task::Listen(listening, _, invitation) => listen(node, listening, invitation, metrics, say).await,
        Task::Nat => nat(node, say).await,
        Task::Ping(to, wanted) => ping::run(node, &to, &wanted, say).await,
        Task::Daemon(prepared, _) => daemon::run(node, prepared, way, say).await,
        Task::Addr => {
            say.waiting("asking for the outside address");
            let address = node.address().await;
            say.still();
            if say.print(&address.to_string()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
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

/// Returns the exit code of a command that needs no node; says why it failed.
pub(crate) fn ended(done: Result<bool, String>, say: Say) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            say.error(&why);
            ExitCode::FAILURE
        }
    }
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
        None => {
            let shipped = Servers::shipped()?;
            public::agree(&shipped, say)?;
            shipped
        }
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
        config.accept = Accept::Only(peers::ids(&common.accept)?);
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
    (messages, metrics): (Option<Wanted>, Arc<Metrics>),
    say: Say,
    said: &Said,
) -> ExitCode {
    let pipe = match open(node, to, plan, say, said).await {
        Ok(pipe) => pipe,
        Err(code) => return code,
    };
    match talk::caller(pipe, messages, metrics, say).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say.error(&why.to_string());
            ExitCode::FAILURE
        }
    }
}

/// As [`connect`], on a stream of a session.
async fn stream(
    node: &Node,
    (to, plan): (&Target, Plan),
    metrics: Arc<Metrics>,
    say: Say,
    said: &Said,
) -> ExitCode {
    say.waiting("connecting");
    match talk::stream(node, (to, plan), metrics, say).await {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => {
            say.error(&why.to_string());
            ExitCode::FAILURE
        }
        Err(why) => {
            all_said(said).await;
            not_opened(&why, say)
        }
    }
}

/// Waits until what led to the outcome of a call is said.
async fn all_said(said: &Said) {
    let (done, all) = oneshot::channel();
    if said.send(done).await.is_ok() {
        let _ = all.await;
    }
}

async fn send_files(
    node: &Node,
    to: (&Target, Plan),
    parcel: file::Parcel,
    say: Say,
    said: &Said,
) -> ExitCode {
    match file::send(node, to, parcel, say).await {
        Ok(code) => code,
        Err(why) => {
            all_said(said).await;
            not_opened(&why, say)
        }
    }
}

/// Closes the pipes that come to a node of which sessions alone are wanted. Otherwise their peers would wait for ever.
pub(crate) fn close_pipes(node: &Node) -> JoinHandle<()> {
    let node = node.clone();
    tokio::spawn(async move { while node.accept().await.is_some() {} })
}

/// Says why there is no connection, and returns the exit code.
pub(crate) fn not_opened(why: &ConnectError, say: Say) -> ExitCode {
    say.failed(why);
    match why {
        ConnectError::NotBegun(_) => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

async fn open(node: &Node, to: &Target, plan: Plan, say: Say, said: &Said) -> Result<Pipe, ExitCode> {
    say.waiting("connecting");
    let outcome = node.connect_with(to, plan).await;
    // What led to it is said before it.
    all_said(said).await;
    match outcome {
        Ok(pipe) => {
            say.opened("connected", &pipe);
            Ok(pipe)
        }
        Err(why) => Err(not_opened(&why, say)),
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
async fn listen(
    node: &Node,
    listening: Listening,
    invitation: Invitation,
    metrics: Arc<Metrics>,
    say: Say,
) -> ExitCode {
    let telling = tokio::spawn(addresses(node.clone(), node.events(), Some(invitation), say));
    let serving = async {
        match listening {
            Listening::Echo => talk::echo(node, &metrics, say).await,
            Listening::Programs { program, many, idle } => {
                talk::programs(node, (program, many, idle), metrics, say).await;
            }
            Listening::Talk { idle, messages } => {
                if let Err(why) = talk::listener(node, idle, messages, metrics, say).await {
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
