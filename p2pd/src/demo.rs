//! `p2pd demo`: every strategy between two nodes on this machine, with servers of its own on loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd::servers::TurnServer;
use p2pd_core::{Accept, Config, Event, PeerAddress, PipeMode, Plan, SecretKey, Strategy};
use p2pd_rendezvous::turn::Limits;
use p2pd_tokio::{Node, Pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::say::Say;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Second address of the STUN server, on Linux and Windows, where all of 127.0.0.0/8 is this machine. Elsewhere the
/// server has one address.
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const CHUNK: usize = 64 * 1024;
/// A relayed pipe moves within a second here.
const MOVES_WITHIN: Duration = Duration::from_secs(20);

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The strategy's name, or that the pipe has moved.
    pub(crate) way: &'static str,
    pub(crate) mode: PipeMode,
    pub(crate) open: Duration,
    /// Time to send everything: from the caller, and back.
    pub(crate) there: Duration,
    pub(crate) back: Duration,
    pub(crate) bytes: usize,
}

impl Row {
    pub(crate) fn rate(self, time: Duration) -> f64 {
        self.bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9)
    }
}

pub(crate) async fn run(mebibytes: u32, say: Say) -> ExitCode {
    match table(mebibytes, say).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say.error(&why.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn table(mebibytes: u32, say: Say) -> Result<(), Box<dyn std::error::Error>> {
    let serving = serve().await?;
    let key = SecretKey::from_bytes(p2pd_tokio::random_seed()?);
    // Strangers are never answered on loopback.
    let accept = Accept::Only([key.node_id()].into());
    let ours = node(&serving, key, Accept::Anyone).await?;
    let theirs = node(&serving, SecretKey::from_bytes(p2pd_tokio::random_seed()?), accept).await?;
    let address = theirs.address().await;
    ours.address().await;
    say.demo_begins(serving.mqtt(), serving.stun(), &address, mebibytes)?;
    let data = payload(mebibytes as usize * 1024 * 1024);
    let hash = blake3::hash(&data);
    for strategy in Strategy::ALL {
        for mode in [PipeMode::Encrypted, PipeMode::Plain] {
            let plan = Plan::new().strategies([strategy]).mode(mode);
            let called = async { ours.connect_with(&address, plan).await.map_err(io::Error::other) };
            let accepted = async { theirs.accept().await.ok_or(io::Error::other("the node ended")) };
            let (mut near, mut far) = tokio::try_join!(called, accepted)?;
            if (near.strategy(), near.mode()) != (strategy, mode) {
                return Err(format!("{strategy} was asked for, {} came", near.strategy()).into());
            }
            let open = near.elapsed();
            let there = send(&data, &hash, &mut near, &mut far).await?;
            let back = send(&data, &hash, &mut far, &mut near).await?;
            say.demo_row(Row { way: strategy.name(), mode, open, there, back, bytes: data.len() })?;
        }
    }
    let (mut near, mut far) = moved([&ours, &theirs], &address).await?;
    let open = near.elapsed();
    let there = send(&data, &hash, &mut near, &mut far).await?;
    let back = send(&data, &hash, &mut far, &mut near).await?;
    let mode = near.mode();
    say.demo_row(Row { way: "moved", mode, open, there, back, bytes: data.len() })?;
    ours.shutdown().await;
    theirs.shutdown().await;
    say.demo_ends()?;
    Ok(())
}

/// A pipe that opened over the relay and has moved to a direct stream, at both ends.
async fn moved(nodes: [&Node; 2], to: &PeerAddress) -> Result<(Pipe, Pipe), Box<dyn std::error::Error>> {
    let [ours, theirs] = nodes;
    let events = nodes.map(Node::events);
    // On one machine the direct stream would be there first; as the second strategy it begins a little later.
    let strategies = [Strategy::Relay, Strategy::Direct];
    let plan = Plan::new().strategies(strategies).relay_first(true);
    let called = async { ours.connect_with(to, plan).await.map_err(io::Error::other) };
    let accepted = async { theirs.accept().await.ok_or(io::Error::other("the node ended")) };
    let pipes = tokio::try_join!(called, accepted)?;
    for mut events in events {
        let told = async {
            loop {
                match events.recv().await {
                    Some(Ok(Event::Moved { strategy: Strategy::Direct, .. })) => return Ok(()),
                    Some(_) => {}
                    None => return Err("the node ended"),
                }
            }
        };
        tokio::time::timeout(MOVES_WITHIN, told).await??;
    }
    Ok(pipes)
}

async fn serve() -> Result<Serving, p2pd::serve::ServeError> {
    // For this program only: what it relays does not leave the machine.
    let users = vec![("demo".into(), "demo".into())];
    let limits = Limits { allocation_bytes: None, user_bytes: None, ..Limits::default() };
    let turn = Some(WantedTurn { users, relay_ips: vec![LOOPBACK], limits, ..WantedTurn::default() });
    let wanted = Wanted { ip: LOOPBACK, second_ip: Some(SECOND), mqtt_port: 0, stun_ports: [0, 0], turn };
    match Serving::start(&wanted).await {
        Ok(serving) => Ok(serving),
        Err(_) => Serving::start(&Wanted { second_ip: None, ..wanted }).await,
    }
}

async fn node(serving: &Serving, key: SecretKey, accept: Accept) -> Result<Node, Box<dyn std::error::Error>> {
    let mut config = Config::new(key);
    config.accept = accept;
    let servers = serving.servers(&LOOPBACK.to_string(), 0);
    (config.brokers, config.stun) = (servers.brokers, servers.stun);
    config.turn = servers.turn.iter().map(TurnServer::for_node).collect();
    config.bind = Some(LOOPBACK);
    config.allow_plain = true;
    Ok(Node::bind(config).await?)
}

/// Bytes without a short period, so that none lost, doubled or swapped goes unnoticed.
fn payload(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut data = Vec::with_capacity(len);
    while data.len() < len {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        data.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
    }
    data.truncate(len);
    data
}

/// Sends all of it and waits until it arrived; its hash is compared outside the time taken.
async fn send(data: &[u8], hash: &blake3::Hash, from: &mut Pipe, to: &mut Pipe) -> io::Result<Duration> {
    let mut arrived = vec![0; data.len()];
    let began = Instant::now();
    let writing = async {
        for chunk in data.chunks(CHUNK) {
            from.write_all(chunk).await?;
        }
        from.flush().await
    };
    tokio::try_join!(writing, to.read_exact(&mut arrived))?;
    let took = began.elapsed();
    if blake3::hash(&arrived) != *hash {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what arrived is not what was sent"));
    }
    Ok(took)
}
