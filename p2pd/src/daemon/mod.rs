//! `p2pd daemon`: the REST API of the P2PD documents.

mod answer;
mod call;
mod clients;
mod connection;
mod events;
mod files;
mod forwards;
#[cfg(test)]
mod fuzz;
mod guard;
mod http;
mod place;
mod queues;
mod relay;
mod serve;
mod sessions;
mod turn;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pd::servers::WayOut;
use p2pd_core::pipe::subscriptions::Queue;
use p2pd_core::{PipeMode, Plan, Strategy, Target};
use p2pd_tokio::{ConnectError, Node, Pipe};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::commands::{addresses, usage};
use crate::file;
use crate::forward::{self, Exposing, Who};
use crate::lan;
use crate::metrics::{Metrics, Way};
use crate::options::{Common, Daemon as Options};
use crate::say::Say;
use answer::Refused;
use call::Name;
use connection::{Connection, State};
use events::Feed;
use guard::{Guard, Query};
use place::{Place, Places};
pub(crate) use sessions::settings;

/// Connections in all; a further one of a peer is closed. Of peers' there are [`MAX_INCOMING`], and those whose relays
/// have ended, whose last messages are kept: 32 a second for a minute.
const MAX_CONNECTIONS: usize = 4096;
/// Most places of the node for peers. It shares them out, so that no key and no network has them all.
pub(crate) const MAX_INCOMING: u32 = 1024;
/// Queue of a connection that a peer opened: 256 MiB for all that are open, and the cost of keeping them.
const INCOMING_QUEUE: Queue = Queue {
    messages: 1000,
    bytes: 256 * 1024,
    overflow: p2pd_core::pipe::subscriptions::Overflow::DropOldest,
};
/// Time for which a peer's ended connection is kept, for the messages that wait in it.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// Bodies that may be read at once.
const BODIES: usize = 32;
/// Streams of server-sent events at a time, of `/events` and of messages.
const STREAMS: usize = 64;

/// A node behind the API.
#[derive(Debug)]
struct Daemon {
    node: Node,
    guard: Guard,
    connections: Mutex<BTreeMap<Name, Slot>>,
    events: Feed,
    metrics: Arc<Metrics>,
    places: Places,
    bodies: Semaphore,
    /// Streams of server-sent events.
    streams: Arc<Semaphore>,
    turns: turn::Turns,
    sessions: sessions::Sessions,
    files: files::Files,
    forwards: forwards::Forwards,
    /// Services of this machine for peers.
    exposing: Option<Arc<Exposing>>,
    served: sessions::Served,
    /// The list's word on the way to servers.
    way: Option<WayOut>,
    common: Common,
    /// The page, with the nonce of its policy.
    page: (String, String),
    /// Name that the node holds.
    name: Option<p2pd_core::Name>,
}

#[derive(Debug)]
enum Slot {
    /// The name is taken by a connect under way.
    Opening,
    Open(Arc<Connection>),
}

/// Settings that are decided before the node is started.
#[derive(Debug)]
pub(crate) struct Prepared {
    api: SocketAddr,
    unix: Option<PathBuf>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    allow_null: bool,
    files: files::Wanted,
    exposing: Option<Exposing>,
    common: Common,
    name: Option<p2pd_core::Name>,
}

impl Prepared {
    /// Reads the token or makes it.
    ///
    /// # Errors
    /// An error of the options, for a person.
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        if !options.api.ip().is_loopback() {
            return Err(format!(
                "--api {}: the API is for this machine only, so give a loopback address",
                options.api
            ));
        }
        let token_file = (!options.no_token)
            .then(|| match &options.token_file {
                Some(path) => Ok(path.clone()),
                None => crate::secret::at_home("token").ok_or("no home directory: give --token-file"),
            })
            .transpose()?;
        let token = token_file.as_deref().map(crate::secret::load_or_create).transpose()?;
        Ok(Prepared {
            api: options.api,
            unix: options.unix.clone(),
            token,
            token_file,
            allow_null: options.allow_origin.is_some(),
            files: files::Wanted::new(options),
            exposing: exposing(options)?,
            common: options.common.clone(),
            name: options.name,
        })
    }
}

/// Returns the services that the options name, which are for the peers of `--accept`, or for everybody who is told to come.
fn exposing(options: &Options) -> Result<Option<Exposing>, String> {
    if options.expose.is_empty() {
        return Ok(None);
    }
    let who = match (options.common.accept.is_empty(), options.expose_to_anyone) {
        (false, _) => Who::Listed,
        (true, true) => Who::Anyone,
        (true, false) => {
            return Err("--expose: name the peers by --accept, or give --expose-to-anyone".into());
        }
    };
    Exposing::of(&options.expose, Vec::new(), who).map(Some)
}

/// Serves until interrupted.
pub(crate) async fn run(node: &Node, mut prepared: Prepared, way: Option<WayOut>, say: Say) -> ExitCode {
    let listeners = match serve::Listeners::bind(prepared.api, prepared.unix.as_deref()) {
        Ok(listeners) => listeners,
        Err(why) => return usage(say, &why),
    };
    let page = match http::page() {
        Ok(page) => page,
        Err(why) => return usage(say, &format!("no random numbers: {why}")),
    };
    let events = Feed::new();
    let metrics: Arc<Metrics> = Arc::default();
    let (files, receiving) = match files::Files::new(&prepared, metrics.clone(), events.clone()) {
        Ok(files) => files,
        Err(why) => return usage(say, &why),
    };
    let mut exposing = prepared.exposing.take();
    exposing.iter_mut().for_each(|exposing| exposing.metrics = metrics.clone());
    let exposing = exposing.map(Arc::new);
    let mut served = sessions::Served::default();
    let receiving = receiving
        .map(|receiving| tokio::spawn(file::receive_from_all(receiving, served.add(file::protocol()))));
    let serving = exposing.clone().map(|exposing| {
        tokio::spawn(forward::expose_to(served.add(forward::protocol()), exposing, Say::new(false, true)))
    });
    let daemon = Arc::new(Daemon {
        node: node.clone(),
        guard: Guard::new(prepared.token, prepared.allow_null),
        connections: Mutex::new(BTreeMap::new()),
        events,
        metrics,
        places: Places::new(prepared.common.bind, prepared.common.interfaces()),
        name: prepared.name,
        bodies: Semaphore::new(BODIES),
        streams: Arc::new(Semaphore::new(STREAMS)),
        turns: turn::Turns::default(),
        sessions: sessions::Sessions::default(),
        files,
        forwards: forwards::Forwards::default(),
        exposing,
        served,
        way,
        common: prepared.common,
        page,
    });
    let following = tokio::spawn(events::follow(daemon.clone(), node.events()));
    let (counting, counted) = (daemon.clone(), node.events());
    let counting = tokio::spawn(async move { counting.metrics.follow(counted).await });
    let accepting = tokio::spawn(accept(daemon.clone()));
    let of_sessions = tokio::spawn(sessions::accept(daemon.clone()));
    say.api(listeners.tcp(), daemon.guard.token(), prepared.token_file.as_deref(), prepared.unix.as_deref());
    let telling = tokio::spawn(addresses(node.clone(), node.events(), None, say));
    tokio::select! {
        () = listeners.serve(daemon.clone()) => {}
        () = crate::signals::interrupted() => {}
    }
    let tasks = [following, counting, accepting, of_sessions, telling];
    for task in tasks.into_iter().chain(receiving).chain(serving) {
        task.abort();
    }
    // The peers are told of the end.
    for (_, slot) in std::mem::take(&mut *daemon.connections()) {
        if let Slot::Open(connection) = slot {
            connection.close();
        }
    }
    daemon.sessions.close();
    daemon.forwards.close().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    ExitCode::SUCCESS
}

/// Peers' pipes become connections named by the peer's id; a second one of the same peer has `.2` behind it.
async fn accept(daemon: Arc<Daemon>) {
    while let Some(pipe) = daemon.node.accept().await {
        if let Some(connection) = daemon.incoming(pipe) {
            tokio::spawn(forget(daemon.clone(), connection));
        }
    }
}

/// Waits for the end of a peer's connection and takes it off the list, once nobody reads the rest.
async fn forget(daemon: Arc<Daemon>, connection: Arc<Connection>) {
    if connection.ended().await == State::PeerEnded && connection.has_messages() {
        tokio::time::sleep(LAST_WORDS).await;
    }
    daemon.remove(&connection);
}

/// Options of a connection to be opened.
#[derive(Debug)]
struct Wanted {
    plan: Plan,
    queue: Queue,
    unique: usize,
}

impl Daemon {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<Name, Slot>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &Name) -> Result<Arc<Connection>, Refused> {
        match self.connections().get(name) {
            Some(Slot::Open(connection)) => Ok(connection.clone()),
            _ => Err(Refused::NoSuchConnection(name.0.clone())),
        }
    }

    fn place(&self, pipe: &Pipe) -> Place {
        #[cfg(unix)]
        let fd = Some(std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(pipe)));
        #[cfg(not(unix))]
        let fd = None;
        self.places.of(
            pipe.local_addr(),
            pipe.strategy() == Strategy::Relay,
            self.node.current_address().as_ref(),
            fd,
        )
    }

    fn open_ones(&self) -> Vec<Arc<Connection>> {
        let of = |slot: &Slot| match slot {
            Slot::Open(connection) => Some(connection.clone()),
            Slot::Opening => None,
        };
        self.connections().values().filter_map(of).collect()
    }

    fn list(&self) -> Vec<Value> {
        self.open_ones().iter().map(|connection| connection.to_json()).collect()
    }

    /// Counts bytes of a session among those of its carrier.
    fn count(&self, held: &sessions::Held, way: Way, bytes: usize) {
        if let Some(over) = held.carried_by() {
            self.metrics.count(way, over, bytes as u64);
        }
    }

    /// Returns the text of `/metrics`.
    async fn metrics(&self) -> String {
        let open = self.open_ones();
        let [ours, theirs] = self.sessions.count();
        let held = [
            ("p2pd_connections", "Connections under a name", open.len() as u64),
            (
                "p2pd_messages_waiting",
                "Messages that wait to be read",
                open.iter().map(|c| c.waiting()).sum(),
            ),
            ("p2pd_sessions_opened", "Sessions that were opened here", ours),
            ("p2pd_sessions_incoming", "Sessions that peers opened", theirs),
        ];
        self.metrics.text(&self.node, &held).await
    }

    /// Returns whom to call, who for a node id alone is searched for in this machine's networks (`--lan`); `None` is this
    /// node itself.
    async fn target(&self, to: Option<Target>) -> Result<Target, Refused> {
        match to {
            Some(bare) if lan::is_bare(&bare) && !self.common.lan => Err(Refused::NoLan),
            Some(mut bare) if lan::is_bare(&bare) => {
                let found = lan::find(&mut bare, &self.common, Say::new(false, true)).await;
                found.map_err(|why| Refused::ConnectFailed(json!({"reason": why})))?;
                Ok(bare)
            }
            Some(to) => Ok(to),
            None => Ok(Target::Address(Box::new(self.node.address().await))),
        }
    }

    /// Opens a connection. A caller that leaves meanwhile gives it up.
    async fn open(&self, name: Name, to: Option<Target>, wanted: Wanted) -> Result<Arc<Connection>, Refused> {
        let reserved = Reserved::new(self, name)?;
        let to = self.target(to).await?;
        let failed = |why: &ConnectError| Refused::ConnectFailed(events::failure(why));
        let connecting = self.node.start_connect(&to, wanted.plan).await.map_err(|why| failed(&why))?;
        let number = connecting.id().number();
        self.events.tell(
            &json!({"event": "opening", "connect": number, "name": reserved.name.0, "to": to.to_string()}),
        );
        let pipe = match connecting.await {
            Ok(pipe) => pipe,
            Err(why) => {
                self.events.tell(&json!({
                    "event": "failed", "connect": number, "name": reserved.name.0, "report": events::failure(&why),
                }));
                return Err(failed(&why));
            }
        };
        let place = self.place(&pipe);
        let connection = Connection::new(
            reserved.name.0.clone(),
            Some(to),
            pipe,
            place,
            (wanted.queue, wanted.unique),
            &self.metrics,
        );
        let connection = connection.map_err(|why| {
            let report = json!({"reason": why.to_string()});
            self.events.tell(&json!({
                "event": "failed", "connect": number, "name": reserved.name.0, "report": report,
            }));
            Refused::ConnectFailed(report)
        })?;
        reserved.fill(connection.clone());
        let mut opened = json!({"event": "opened", "connect": number});
        opened["connection"] = connection.to_json();
        self.events.tell(&opened);
        Ok(connection)
    }

    /// Names a peer's pipe; `None` if there are too many, or if it cannot be taken over.
    fn incoming(&self, pipe: Pipe) -> Option<Arc<Connection>> {
        let base = pipe.peer().to_string();
        let place = self.place(&pipe);
        let mut connections = self.connections();
        if connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        let names = std::iter::once(base.clone()).chain((2..).map(|n| format!("{base}.{n}")));
        let name = names.map(Name).find(|name| !connections.contains_key(name))?;
        let connection =
            Connection::new(name.0.clone(), None, pipe, place, (INCOMING_QUEUE, 0), &self.metrics);
        let connection =
            connection.inspect_err(|why| tracing::warn!(target: "p2pd::api", %why, "a pipe lost"));
        let connection = connection.ok()?;
        connections.insert(name, Slot::Open(connection.clone()));
        drop(connections);
        self.events.tell(&json!({"event": "incoming", "connection": connection.to_json()}));
        Some(connection)
    }

    /// Closes a connection and frees its name.
    fn remove(&self, connection: &Arc<Connection>) {
        connection.close();
        self.free(connection);
    }

    /// Frees a connection's name, unless another one has it by now.
    fn free(&self, connection: &Arc<Connection>) {
        let name = Name(connection.name.clone());
        let mut connections = self.connections();
        if matches!(connections.get(&name), Some(Slot::Open(c)) if Arc::ptr_eq(c, connection)) {
            connections.remove(&name);
            drop(connections);
            let mut closed = json!({"event": "closed", "name": name.0});
            if let Some(why) = connection.broke() {
                closed["reason"] = why.into();
            }
            self.events.tell(&closed);
        }
    }
}

/// A name that is given back if nothing comes of it.
struct Reserved<'a> {
    daemon: &'a Daemon,
    name: Name,
    filled: bool,
}

impl<'a> Reserved<'a> {
    fn new(daemon: &'a Daemon, name: Name) -> Result<Self, Refused> {
        let mut connections = daemon.connections();
        if connections.contains_key(&name) {
            return Err(Refused::NameTaken);
        }
        if connections.len() >= MAX_CONNECTIONS {
            return Err(Refused::TooMany("connections"));
        }
        connections.insert(name.clone(), Slot::Opening);
        Ok(Reserved { daemon, name, filled: false })
    }

    fn fill(mut self, connection: Arc<Connection>) {
        self.filled = true;
        self.daemon.connections().insert(self.name.clone(), Slot::Open(connection));
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.daemon.connections().remove(&self.name);
        }
    }
}

/// The plan that `strategies`, `mode`, `protocol`, `relay_first` and the timeout ask for.
fn plan(query: &Query, timeout: Option<Duration>) -> Result<Plan, Refused> {
    let mut plan = Plan::default();
    if let Some(names) = query.get("strategies") {
        let known = names.split(',').map(Strategy::from_name).collect::<Option<_>>();
        plan.strategies = known.ok_or(Refused::BadOption("strategies"))?;
    }
    match query.get("mode") {
        None | Some("encrypted") => {}
        Some("plain") => plan.mode = PipeMode::Plain,
        Some(_) => return Err(Refused::BadOption("mode")),
    }
    if let Some(protocol) = query.get("protocol") {
        let tag = p2pd_core::ProtocolTag::new(protocol.as_bytes());
        plan.protocol = Some(tag.ok_or(Refused::BadOption("protocol"))?);
    }
    match query.get("relay_first") {
        None | Some("0" | "false") => {}
        Some("" | "1" | "true") if plan.strategies.contains(&Strategy::Relay) => plan.relay_first = true,
        Some(_) => return Err(Refused::BadOption("relay_first")),
    }
    if let Some(timeout) = timeout {
        plan.timeout = timeout;
    }
    Ok(plan)
}
