//! `p2pd interfaces`.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use p2pd_core::io::LinkKind;
use p2pd_core::{StunServer, is_link_local};
use p2pd_sys::Card;
use p2pd_sys::messages::{RouteEntry, RouteTable};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::commands::usage;
use crate::map::{list, seen};
use crate::say::Say;

/// A card, and the address outside that a STUN server sees for each of its addresses.
#[derive(Debug)]
pub(crate) struct Listed {
    card: Card,
    seen: Vec<Option<IpAddr>>,
}

pub(crate) async fn run(config: Option<&Path>, say: Say) -> ExitCode {
    let stun = match config.map(list).transpose() {
        Ok(stun) => stun.unwrap_or_default(),
        Err(why) => return usage(say, &why),
    };
    let mut listed: Vec<Listed> = p2pd_sys::cards()
        .into_iter()
        .map(|card| Listed { seen: vec![None; card.addresses.len()], card })
        .collect();
    if !stun.is_empty() {
        say.waiting("asking what the internet sees");
        ask(&mut listed, &stun).await;
    }
    let routes = if stun.is_empty() { RouteTable::default() } else { routes(&listed) };
    if say.interfaces(&listed, &routes) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Asks for all addresses at once.
async fn ask(listed: &mut [Listed], stun: &[StunServer]) {
    let mut asked = JoinSet::new();
    for (n, Listed { card, .. }) in listed.iter().enumerate().filter(|(_, l)| l.card.up) {
        for (k, (ip, _)) in card.addresses.iter().enumerate() {
            let (ip, index, stun) = (*ip, card.index, stun.to_vec());
            if !ip.is_loopback() && !is_link_local(ip) {
                asked.spawn(async move { (n, k, seen(ip, Some(index), &stun).await) });
            }
        }
    }
    while let Some(Ok((n, k, found))) = asked.join_next().await {
        listed[n].seen[k] = found;
    }
}

fn routes(listed: &[Listed]) -> RouteTable {
    let cards: Vec<Card> = listed.iter().map(|listed| listed.card.clone()).collect();
    let each = listed.iter().flat_map(|listed| listed.card.addresses.iter().zip(&listed.seen));
    let seen: Vec<(IpAddr, IpAddr)> = each.filter_map(|((ip, _), seen)| Some((*ip, (*seen)?))).collect();
    RouteTable::new(&cards, |ip| seen.iter().find(|(ours, _)| *ours == ip).map(|(_, seen)| *seen))
}

/// A route in the form of P2PD's documents.
pub(crate) fn route(row: &RouteEntry) -> Value {
    json!({"af": af(row.source), "nic_ips": row.nic, "ext_ips": [row.ext]})
}

/// The same with its interface.
pub(crate) fn listed_route(row: &RouteEntry) -> Value {
    let mut json = route(row);
    json["if"] = json!({"name": row.interface, "index": row.index});
    json
}

/// Number of the address family in P2PD's documents, which is Linux' one on every system.
pub(crate) fn af(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

impl Listed {
    pub(crate) fn event(&self) -> Value {
        let Card { index, name, up, addresses, gateways, default_route, link } = &self.card;
        let addresses: Vec<Value> = addresses
            .iter()
            .zip(&self.seen)
            .map(|((ip, prefix), seen)| {
                let scope = if is_link_local(*ip) { "link" } else { "global" };
                let scope = if ip.is_loopback() { "host" } else { scope };
                json!({"ip": ip, "prefix": prefix, "scope": scope, "zone": self.zone(*ip), "external": seen})
            })
            .collect();
        json!({
            "event": "interface", "index": index, "name": name, "up": up, "link": link.name(), "default_route": default_route,
            "gateways": gateways, "addresses": addresses,
        })
    }

    pub(crate) fn text(&self) -> String {
        let Card { index, name, up, addresses, gateways, default_route, link } = &self.card;
        let mut text = format!("{index} {name}");
        text += if *up { "" } else { ", down" };
        text += match link {
            LinkKind::Tunnel => ", tunnel",
            LinkKind::Virtual => ", this machine only",
            LinkKind::Dead if *up => ", no carrier",
            _ => "",
        };
        text += if *default_route { ", default route" } else { "" };
        for gateway in gateways {
            text += &format!(", gateway {gateway}");
        }
        for ((ip, prefix), seen) in addresses.iter().zip(&self.seen) {
            let zone = self.zone(*ip).map_or(String::new(), |zone| format!("%{zone}"));
            text += &format!("\n  {ip}{zone}/{prefix}");
            match seen {
                Some(seen) if seen == ip => text += ", no NAT",
                Some(seen) => text += &format!(", seen from outside as {seen}"),
                None => {}
            }
        }
        text
    }

    /// Returns the zone of a link-local IPv6 address: the interface's name.
    fn zone(&self, ip: IpAddr) -> Option<&str> {
        (ip.is_ipv6() && is_link_local(ip)).then_some(&*self.card.name)
    }
}
