//! Prints this machine's interfaces, its address as a STUN server sees it, and the NATs in front of it:
//! `... --example machine -- STUN-HOST PORT [BIND-IP]`.

use std::net::IpAddr;

use p2pd_tokio::StunServer;
use p2pd_tokio::messages::stun::{Client, nat_info};
use p2pd_tokio::messages::{Protocol, Route};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = std::env::args().nth(1).ok_or("usage: machine STUN-HOST PORT [BIND-IP]")?;
    let port = std::env::args().nth(2).ok_or("usage: machine STUN-HOST PORT [BIND-IP]")?.parse()?;
    let bind = std::env::args().nth(3).map(|ip| ip.parse::<IpAddr>()).transpose()?;
    for card in p2pd_sys::cards() {
        let default = if card.default_route { ", default route" } else { "" };
        println!("interface {}: {:?}{default}", card.name, card.addresses);
    }
    let client = Client::new((host.as_str(), port), bind.map_or(Route::V4, Route::from));
    println!("external {}", client.external_ip().await?);
    let mapping = client.mapping(Protocol::Tcp).await?;
    println!("mapping {} is seen as {}", mapping.local, mapping.external);
    for report in nat_info(vec![StunServer { host: host.into(), port }], bind).await? {
        println!("nat {}: {}", report.local, report.behaviour);
    }
    Ok(())
}
