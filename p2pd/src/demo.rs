//! `p2pd demo`: every strategy, a session that moves and one that is cut, between two nodes on this machine, with servers of its own on
//! loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd::servers::TurnServer;
use p2pd_core::{Accept, Config, PeerAddress, PipeMode, Plan, SecretKey, Strategy};
use p2pd_rendezvous::turn::Limits;
use p2pd_tokio::{Node, Pipe, SendStream, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::say::Say;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Second address of the STUN server, on Linux and Windows, where all of 127.0.0.0/8 is this machine. Elsewhere the
/// server has one address.
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const CHUNK: usize = 64 * 1024;
/// A session moves within a second here.
const MOVES_WITHIN: Duration = Duration::from_secs(20);
/// Time between two looks at whether it has.
const LOOKS: Duration = Duration::from_millis(5);

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The strategy's name, or what the session went through.
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
    let row = moved([&ours, &theirs], &address, (&data, &hash)).await?;
    say.demo_row(row)?;
    let row = cut([&ours, &theirs], &address, (&data, &hash)).await?;
    say.demo_row(row)?;
    ours.shutdown().await;
    theirs.shutdown().await;
    say.demo_ends()?;
    Ok(())
}

/// A session that was cut while its bytes were under way, and went on: half of them on one stream, half on another.
async fn cut(
    nodes: [&Node; 2],
    to: &PeerAddress,
    (data, hash): (&[u8], &blake3::Hash),
) -> Result<Row, Box<dyn std::error::Error>> {
    let between = Between::new(to).await?;
    let plan = Plan::new().strategies([Strategy::Direct]);
    let (near, far, open, mode) = session(nodes, &between.to, plan).await?;
    let there = streams(data, hash, (&near, &far), Some(&between)).await?;
    let back = streams(data, hash, (&far, &near), Some(&between)).await?;
    if near.moves() == 0 {
        return Err("the session has not moved".into());
    }
    near.close(0, b"");
    Ok(Row { way: "cut", mode, open, there, back, bytes: data.len() })
}

/// A session that began on the relay, and has moved to a direct stream.
async fn moved(
    nodes: [&Node; 2],
    to: &PeerAddress,
    (data, hash): (&[u8], &blake3::Hash),
) -> Result<Row, Box<dyn std::error::Error>> {
    let strategies = [Strategy::Relay, Strategy::Direct];
    let plan = Plan::new().strategies(strategies).relay_first(true);
    let (near, far, open, mode) = session(nodes, to, plan).await?;
    let is_direct = |end: &Session| end.carrier().is_some_and(|c| c.strategy() == Strategy::Direct);
    for end in [&near, &far] {
        let moves = async {
            while !is_direct(end) {
                tokio::time::sleep(LOOKS).await;
            }
        };
        tokio::time::timeout(MOVES_WITHIN, moves).await?;
    }
    let there = streams(data, hash, (&near, &far), None).await?;
    let back = streams(data, hash, (&far, &near), None).await?;
    near.close(0, b"");
    Ok(Row { way: "moved", mode, open, there, back, bytes: data.len() })
}

/// Opens a session: its two ends, the time that it took, and its mode.
async fn session(
    [ours, theirs]: [&Node; 2],
    to: &PeerAddress,
    plan: Plan,
) -> Result<(Session, Session, Duration, PipeMode), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let called = async { ours.connect_session_with(to, plan).await.map_err(io::Error::other) };
    let accepted = async { theirs.accept_session().await.ok_or(io::Error::other("the node ended")) };
    let (near, far) = tokio::try_join!(called, accepted)?;
    let open = began.elapsed();
    let mode = near.carrier().ok_or("the connection broke")?.mode();
    Ok((near, far, open, mode))
}

/// Sends all of it on two streams, and cuts the connection once it is under way, if it is to be cut.
async fn streams(
    data: &[u8],
    hash: &blake3::Hash,
    (from, to): (&Session, &Session),
    between: Option<&Between>,
) -> Result<Duration, Box<dyn std::error::Error>> {
    let halves = data.split_at(data.len() / 2);
    let mut arrived = vec![0; data.len()];
    let (first, second) = arrived.split_at_mut(halves.0.len());
    let (mut a, mut b) = (from.open_uni(b"a").await?, from.open_uni(b"b").await?);
    let began = Instant::now();
    let writing = async {
        tokio::try_join!(write(halves.0, &mut a, between), async {
            b.write_all(halves.1).await?;
            b.shutdown().await
        })
    };
    let reading = async {
        for _ in 0..2 {
            let mut stream = to.accept_uni().await?;
            let into = if stream.tag() == b"a" { &mut *first } else { &mut *second };
            stream.read_exact(into).await?;
        }
        io::Result::Ok(())
    };
    tokio::try_join!(writing, reading)?;
    let took = began.elapsed();
    if blake3::hash(&arrived) != *hash {
        return Err("what arrived is not what was sent".into());
    }
    Ok(took)
}

/// Writes all of it and the end. Cuts the connection in the middle, if it is to be cut.
async fn write(data: &[u8], to: &mut SendStream, between: Option<&Between>) -> io::Result<()> {
    let (before, after) = data.split_at(data.len() / 2);
    to.write_all(before).await?;
    between.inspect(|between| between.cut.notify_waiters());
    to.write_all(after).await?;
    to.shutdown().await
}

/// A port whose streams lead to a node, until they are cut.
struct Between {
    /// The node's address with this port.
    to: PeerAddress,
    cut: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Drop for Between {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Between {
    async fn new(node: &PeerAddress) -> Result<Self, Box<dyn std::error::Error>> {
        let there = node.v4().first().ok_or("no IPv4 address")?.port;
        let listener = TcpListener::bind((LOOPBACK, 0)).await?;
        let port = listener.local_addr()?.port();
        let to = node.to_string().replace(&format!(",{there},"), &format!(",{port},")).parse()?;
        let cut = Arc::new(Notify::new());
        let cuts = cut.clone();
        let serving = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let Ok(mut far) = TcpStream::connect((LOOPBACK, there)).await else { continue };
                let cuts = cuts.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cuts.notified() => {}
                    }
                });
            }
        });
        Ok(Between { to, cut, serving })
    }
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
    Ok(Node::bind(config.sessions(true)).await?)
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
