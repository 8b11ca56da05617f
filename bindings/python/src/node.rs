//! Nodes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::NameNews;
use p2pd_sys::PinFile;
use p2pd_sys::servers::{self, TurnServer};
use p2pd_tokio::{
    Accept, Allocate, Config, ConnectError, Event, Name, NamePin, NodeId, PipeMode, Plan, ProtocolTag,
    RelayFamily, SecretKey, Strategy,
};
use pyo3::prelude::*;
use tokio::sync::Mutex;

use crate::engine::{Failure, Reach};
use crate::network::{Allocation, measured};
use crate::pipe::Pipe;

/// A node's key: its file, or its 32 bytes.
#[derive(FromPyObject)]
pub(crate) enum Key {
    Bytes([u8; 32]),
    File(PathBuf),
}

/// A server list: the shipped one or none at all, or a file.
#[derive(FromPyObject)]
pub(crate) enum Servers {
    Public(bool),
    File(PathBuf),
}

/// Peers that get a pipe: those with these ids, or whom the user says yes to.
#[derive(FromPyObject)]
pub(crate) enum Accepted {
    Ask(bool),
    Only(Vec<String>),
}

/// Settings of a node, as Python gives them.
pub(crate) struct Settings {
    pub(crate) key: Option<Key>,
    pub(crate) port: u16,
    pub(crate) bind: Option<String>,
    pub(crate) servers: Servers,
    pub(crate) accept: Option<Accepted>,
    pub(crate) plain: bool,
    pub(crate) protocols: Vec<Vec<u8>>,
    pub(crate) map_port: bool,
    /// File with the keys that names had when they were first seen.
    pub(crate) names: Option<PathBuf>,
}

impl Servers {
    pub(crate) fn read(&self) -> Result<servers::Servers, Failure> {
        match self {
            Servers::Public(true) => servers::Servers::shipped(),
            Servers::Public(false) => Ok(servers::Servers::default()),
            Servers::File(path) => servers::Servers::read(path),
        }
        .map_err(wrong)
    }
}

impl Settings {
    fn config(&self) -> Result<Config, Failure> {
        let key = match &self.key {
            Some(Key::Bytes(key)) => SecretKey::from_bytes(*key),
            Some(Key::File(path)) => p2pd_sys::load_or_create_key(path).map_err(wrong)?,
            None => SecretKey::from_bytes(p2pd_sys::random_seed().map_err(wrong)?),
        };
        let mut config = Config::new(key).port(self.port);
        self.servers.read()?.apply(&mut config).map_err(wrong)?;
        config.bind = address(self.bind.as_deref())?;
        config.accept = match &self.accept {
            Some(Accepted::Ask(true)) => Accept::Ask,
            Some(Accepted::Only(ids)) => {
                let ids: Result<_, _> = ids.iter().map(|id| id.parse::<NodeId>()).collect();
                Accept::Only(ids.map_err(wrong)?)
            }
            Some(Accepted::Ask(false)) | None => Accept::Anyone,
        };
        config.protocols = self.protocols.iter().map(|tag| protocol(tag)).collect::<Result<_, _>>()?;
        (config.allow_plain, config.portmap) = (self.plain, self.map_port);
        Ok(config)
    }
}

/// Brings a node up.
pub(crate) async fn bind(settings: Settings, reach: Reach) -> Result<Node, Failure> {
    // Files are read off the runtime's one thread.
    let read = move || {
        let file = settings.names.clone().map(PinFile::new);
        let pins = file.as_ref().map(PinFile::load).transpose().map_err(wrong)?;
        Ok((settings.config()?, file, pins.unwrap_or_default()))
    };
    let (config, file, pins) = reach.handle.spawn_blocking(read).await.map_err(wrong)??;
    let node = p2pd_tokio::Node::bind(config).await.map_err(|why| Failure::new("bind", why))?;
    pins.into_iter().for_each(|pin| node.pin_name(pin));
    if let Some(file) = file {
        reach.handle.spawn(keep_pins(node.events(), file, reach.clone()));
    }
    Ok(Node { node, reach })
}

/// Writes down whose names were seen, until the node ends. Errors are told where no call is: in the log.
async fn keep_pins(mut events: p2pd_tokio::Events, file: PinFile, reach: Reach) {
    while let Some(event) = events.recv().await {
        let Ok(Event::Name { name, news }) = event else { continue };
        let NameNews::Pinned { id, sequence } = *news else { continue };
        let file = file.clone();
        let kept = reach.handle.spawn_blocking(move || file.keep(NamePin { name, id, sequence })).await;
        if let Ok(Err(why)) = kept {
            reach.tell(wrong(why));
        }
    }
}

/// A running node.
#[pyclass(frozen, module = "p2pd._native")]
pub struct Node {
    node: p2pd_tokio::Node,
    reach: Reach,
}

#[pymethods]
impl Node {
    /// Returns the node's id.
    #[getter]
    fn node_id(&self) -> String {
        self.node.node_id().to_string()
    }

    /// Waits for the address to hand out: a call that gives its text.
    fn address(&self) -> u64 {
        let node = self.node.clone();
        self.reach.call(async move { Ok(node.address().await.to_string()) })
    }

    /// Opens a pipe: a call that gives it.
    #[pyo3(signature = (to, *, strategies, plain, protocol, timeout, relay_first))]
    fn connect(
        &self,
        to: String,
        strategies: Option<Vec<String>>,
        plain: bool,
        protocol: Option<Vec<u8>>,
        timeout: f64,
        relay_first: bool,
    ) -> u64 {
        let (node, reach) = (self.node.clone(), self.reach.clone());
        self.reach.call(async move {
            let mode = if plain { PipeMode::Plain } else { PipeMode::Encrypted };
            let mut plan = Plan::new().mode(mode).timeout(seconds(timeout)?).relay_first(relay_first);
            if let Some(names) = strategies {
                let named = |name: String| {
                    let unknown = || wrong(format!("there is no strategy {name:?}"));
                    Strategy::from_name(&name).ok_or_else(unknown)
                };
                plan.strategies = names.into_iter().map(named).collect::<Result<_, _>>()?;
            }
            plan.protocol = protocol.map(|tag| self::protocol(&tag)).transpose()?;
            let pipe = node.connect_with(&to, plan).await.map_err(not_connected)?;
            Ok(Pipe::new(pipe, reach))
        })
    }

    /// Waits for the next pipe that a peer opens: a call that gives it, or `None` once the node was shut down.
    fn accept(&self) -> u64 {
        let (node, reach) = (self.node.clone(), self.reach.clone());
        self.reach.call(async move { Ok(node.accept().await.map(|pipe| Pipe::new(pipe, reach))) })
    }

    /// Looks a name up: a call that gives the address's text.
    fn resolve(&self, name: String) -> u64 {
        let node = self.node.clone();
        self.reach.call(async move {
            node.resolve(self::name(&name)?).await.map(|address| address.to_string()).map_err(not_named)
        })
    }

    /// Takes a name: a call that gives it in full, and the number of brokers that keep it.
    fn register(&self, name: String) -> u64 {
        let node = self.node.clone();
        self.reach.call(async move {
            let name = self::name(&name)?;
            node.register(name).await.map(|brokers| (name.to_string(), brokers)).map_err(not_named)
        })
    }

    /// Gives a name up: a call that gives the number of brokers that were told.
    fn release(&self, name: String) -> u64 {
        let node = self.node.clone();
        self.reach.call(async move { node.release(self::name(&name)?).await.map_err(not_named) })
    }

    /// Reports on the NATs in front of the interfaces, and on the routes: a call that gives both as JSON.
    fn nats(&self) -> u64 {
        let node = self.node.clone();
        self.reach.call(async move { measured(&node.nats().await) })
    }

    /// Returns news from now on.
    fn events(&self) -> Events {
        Events { events: Arc::new(Mutex::new(self.node.events())), reach: self.reach.clone() }
    }

    /// Says whether a peer that asks may have a pipe. False: this is no node id.
    fn answer(&self, peer: &str, accept: bool) -> bool {
        peer.parse().map(|peer| self.node.answer(peer, accept)).is_ok()
    }

    /// Asks a TURN server for a relayed address: a call that gives it. The server is an entry of a server list, as JSON;
    /// `None`: those of the node's list.
    fn allocate(&self, server: Option<String>, ipv6: bool, timeout: f64) -> u64 {
        let (node, reach) = (self.node.clone(), self.reach.clone());
        self.reach.call(async move {
            let server = server.map(|text| TurnServer::from_json(&text).map_err(wrong)).transpose()?;
            let wish = Allocate {
                servers: server.iter().map(TurnServer::for_node).collect(),
                family: Some(if ipv6 { RelayFamily::V6 } else { RelayFamily::V4 }),
                timeout: seconds(timeout)?,
            };
            let allocation = node.allocate(wish).await.map_err(|why| Failure::new("allocate", why))?;
            Allocation::new(allocation, reach)
        })
    }

    /// Ends the node: a call that gives nothing.
    fn shutdown(&self) -> u64 {
        let node = self.node.clone();
        self.reach.call(async move {
            node.shutdown().await;
            Ok(())
        })
    }
}

/// News of a node.
#[pyclass(frozen, module = "p2pd._native")]
pub struct Events {
    events: Arc<Mutex<p2pd_tokio::Events>>,
    reach: Reach,
}

#[pymethods]
impl Events {
    /// Waits for the next one: a call that gives JSON, or `None` once the node has ended. What was lost counts as one.
    fn next(&self) -> u64 {
        let events = self.events.clone();
        self.reach.call(async move {
            Ok(match events.lock().await.recv().await {
                Some(Ok(event)) => Some(text(&event)?),
                Some(Err(lost)) => Some(format!("{{\"event\":\"lost\",\"count\":{}}}", lost.0)),
                None => None,
            })
        })
    }
}

/// A setting that cannot be.
pub(crate) fn wrong(why: impl std::fmt::Display) -> Failure {
    Failure::new("setting", why)
}

pub(crate) fn text(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(wrong)
}

pub(crate) fn address(text: Option<&str>) -> Result<Option<IpAddr>, Failure> {
    let read = |text: &str| text.parse().map_err(|_| wrong(format!("{text:?} is no IP address")));
    text.map(read).transpose()
}

fn seconds(number: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(number).map_err(|why| wrong(format!("a timeout of {number} s: {why}")))
}

fn protocol(tag: &[u8]) -> Result<ProtocolTag, Failure> {
    let most = ProtocolTag::MAX;
    ProtocolTag::new(tag).ok_or_else(|| wrong(format!("a protocol has 1 to {most} bytes, not {}", tag.len())))
}

fn name(text: &str) -> Result<Name, Failure> {
    text.parse().map_err(wrong)
}

fn not_named(why: p2pd_tokio::NameError) -> Failure {
    Failure::new("name", why)
}

fn not_connected(why: ConnectError) -> Failure {
    let kind = if matches!(why, ConnectError::Target(_)) { "setting" } else { "connect" };
    let report = if let ConnectError::Failed(_, report) = &why { text(report).ok() } else { None };
    Failure::new(kind, why).with(report)
}
