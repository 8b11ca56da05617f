//! iroh as a peer of the league: two relay servers with address discovery over QUIC, in the lab, and no discovery service. The caller
//! knows the listener's identity and relay, which is what its DNS gives by default. All else is the default.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use iroh::endpoint::presets;
use iroh::tls::CaTlsConfig;
use iroh::{Endpoint, EndpointAddr, RelayMap, RelayMode, RelayUrl};
use iroh_relay::server::{CertConfig, QuicConfig, RelayConfig, Server, ServerConfig, TlsConfig, testing};
use iroh_relay::{RelayConfig as RelayAt, RelayQuicConfig};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11)];
const ALPN: &[u8] = b"p2pd-league";
const QUIC_PORT: u16 = 7842;
const LONGEST: Duration = Duration::from_secs(25);

fn url(ip: Ipv4Addr) -> Result<RelayUrl> {
    Ok(format!("https://{ip}").parse()?)
}

async fn serve() -> Result<()> {
    let mut servers = Vec::new();
    for ip in SERVERS {
        let (_, server_config) = testing::self_signed_tls_certs_and_config();
        let mut relay = RelayConfig::new((ip, 80));
        relay.tls = Some(TlsConfig::new((ip, 443), CertConfig::Manual { server_config }));
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        config.quic = Some(QuicConfig::new((ip, QUIC_PORT)));
        servers.push(Server::spawn(config).await?);
    }
    println!(r#"{{"event":"ready"}}"#);
    std::future::pending().await
}

async fn online() -> Result<Endpoint> {
    let relays = SERVERS.map(|ip| Ok(RelayAt::new(url(ip)?, Some(RelayQuicConfig::new(QUIC_PORT)))));
    let relays: RelayMap = relays.into_iter().collect::<Result<Vec<_>>>()?.into_iter().collect();
    let endpoint = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Custom(relays))
        .ca_tls_config(CaTlsConfig::insecure_skip_verify())
        .alpns(vec![ALPN.to_vec()])
        .bind()
        .await?;
    endpoint.online().await;
    Ok(endpoint)
}

async fn listen() -> Result<()> {
    let endpoint = online().await?;
    let relay = endpoint.addr().relay_urls().next().cloned().ok_or("no relay")?;
    println!(r#"{{"event":"ready","address":"{}@{relay}"}}"#, endpoint.id());
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await?;
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                tokio::io::copy(&mut receive, &mut send).await?;
                send.finish()?;
            }
            Result::Ok(())
        });
    }
    Ok(())
}

/// Milliseconds from the call to the first answer while the chosen path is one of IP addresses.
async fn call(endpoint: &Endpoint, address: &str) -> Result<f64> {
    let (id, relay) = address.split_once('@').ok_or("no address")?;
    let address = EndpointAddr::new(id.parse()?).with_relay_url(relay.parse()?);
    let begin = Instant::now();
    let connection = endpoint.connect(address, ALPN).await?;
    let direct = || connection.paths().iter().any(|path| path.is_selected() && path.is_ip());
    loop {
        while !direct() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(b"there and back").await?;
        send.finish()?;
        receive.read_to_end(64).await?;
        if direct() {
            return Ok(begin.elapsed().as_secs_f64() * 1e3);
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
        ["serve"] => serve().await,
        ["listen", _] => listen().await,
        ["call", address] => {
            let begin = Instant::now();
            let endpoint = tokio::time::timeout(LONGEST, online()).await??;
            let online = begin.elapsed().as_secs_f64() * 1e3;
            match tokio::time::timeout(LONGEST, call(&endpoint, address)).await {
                Ok(Ok(took)) => {
                    println!(r#"{{"event":"connected","elapsed_ms":{took},"online_ms":{online}}}"#)
                }
                Ok(Err(why)) => println!(r#"{{"event":"failed","why":{:?}}}"#, why.to_string()),
                Err(_) => println!(r#"{{"event":"failed","why":"no direct path in time"}}"#),
            }
            Ok(())
        }
        _ => Err("serve | listen KEY | call ADDRESS".into()),
    }
}
