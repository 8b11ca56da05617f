//! rust-libp2p with DCUtR as a peer of the league, as its relay-server and dcutr examples set it up: a relay (v2) in the lab, identify,
//! and the same transport to the relay as for the punch: the first word is `tcp` or `quic`.

use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, dcutr, identify, identity, noise, ping, relay, tcp, yamux,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const LONGEST: Duration = Duration::from_secs(25);
const ALL: [&str; 2] = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];

#[derive(NetworkBehaviour)]
struct Relay {
    relay: relay::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

#[derive(NetworkBehaviour)]
struct Peer {
    relay: relay::client::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    dcutr: dcutr::Behaviour,
}

fn relay_key() -> Result<identity::Keypair> {
    Ok(identity::Keypair::ed25519_from_bytes([7; 32])?)
}

fn relay_at(transport: &str) -> Result<Multiaddr> {
    Ok(match transport {
        "quic" => "/ip4/203.0.113.10/udp/4001/quic-v1",
        _ => "/ip4/203.0.113.10/tcp/4001",
    }
    .parse()?)
}

fn identifying(key: &identity::Keypair) -> identify::Behaviour {
    identify::Behaviour::new(identify::Config::new("/p2pd-league/1".into(), key.public()))
}

async fn serve() -> Result<()> {
    // The default of 16 is too few for as many calls at once, whose circuits the relay holds for a while when a caller has ended.
    let limits = relay::Config { max_circuits: 1024, ..relay::Config::default() };
    let mut swarm = SwarmBuilder::with_existing_identity(relay_key()?)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_behaviour(|key| Relay {
            relay: relay::Behaviour::new(key.public().to_peer_id(), limits),
            ping: ping::Behaviour::default(),
            identify: identifying(key),
        })?
        .build();
    for transport in ["tcp", "quic"] {
        swarm.listen_on(relay_at(transport)?)?;
        swarm.add_external_address(relay_at(transport)?);
    }
    println!(r#"{{"event":"ready"}}"#);
    loop {
        swarm.select_next_some().await;
    }
}

/// A node that is connected to the relay, and whose addresses each knows as the other sees them.
async fn node(transport: &str) -> Result<Swarm<Peer>> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key, relay| Peer {
            relay,
            ping: ping::Behaviour::default(),
            identify: identifying(key),
            dcutr: dcutr::Behaviour::new(key.public().to_peer_id()),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    for address in ALL {
        swarm.listen_on(address.parse()?)?;
    }
    // Time for the listening addresses to be there, as the example has it.
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            swarm.select_next_some().await;
        }
    })
    .await;
    swarm.dial(relay_at(transport)?)?;
    let (mut told, mut learned) = (false, false);
    while !(told && learned) {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(PeerEvent::Identify(identify::Event::Sent { .. })) => told = true,
            SwarmEvent::Behaviour(PeerEvent::Identify(identify::Event::Received { .. })) => learned = true,
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
    Ok(swarm)
}

fn circuit(transport: &str) -> Result<Multiaddr> {
    let relay = relay_key()?.public().to_peer_id();
    Ok(relay_at(transport)?.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit))
}

async fn listen(transport: &str) -> Result<()> {
    let mut swarm = node(transport).await?;
    swarm.listen_on(circuit(transport)?)?;
    loop {
        let event = swarm.select_next_some().await;
        if let SwarmEvent::Behaviour(PeerEvent::Relay(relay::client::Event::ReservationReqAccepted {
            renewal: false,
            ..
        })) = event
        {
            println!(r#"{{"event":"ready","address":"{}"}}"#, swarm.local_peer_id());
        }
    }
}

/// Milliseconds from the call to the first ping that was answered on a connection without a relay.
async fn call(swarm: &mut Swarm<Peer>, transport: &str, peer: PeerId) -> Result<f64> {
    let begin = Instant::now();
    let (mut relayed, mut direct) = (false, Vec::new());
    swarm.dial(circuit(transport)?.with(Protocol::P2p(peer)))?;
    loop {
        let event = swarm.select_next_some().await;
        if std::env::var_os("RUST_LOG").is_some() {
            eprintln!("{event:?}");
        }
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                if peer_id == peer {
                    match endpoint.is_relayed() {
                        true => relayed = true,
                        false => direct.push(connection_id),
                    }
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. }
                if !relayed && peer_id == Some(peer) =>
            {
                return Err(error.into());
            }
            SwarmEvent::Behaviour(PeerEvent::Ping(ping::Event { connection, result: Ok(_), .. })) => {
                if direct.contains(&connection) {
                    return Ok(begin.elapsed().as_secs_f64() * 1e3);
                }
            }
            _ => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "serve"] => serve().await,
        [transport, "listen", _] => listen(transport).await,
        [transport, "call", address] => {
            let mut swarm = tokio::time::timeout(LONGEST, node(transport)).await??;
            match tokio::time::timeout(LONGEST, call(&mut swarm, transport, address.parse()?)).await {
                Ok(Ok(took)) => println!(r#"{{"event":"connected","elapsed_ms":{took}}}"#),
                Ok(Err(why)) => println!(r#"{{"event":"failed","why":{:?}}}"#, why.to_string()),
                Err(_) => println!(r#"{{"event":"failed","why":"no direct path in time"}}"#),
            }
            Ok(())
        }
        _ => Err("tcp|quic, then serve | listen KEY | call ADDRESS".into()),
    }
}
