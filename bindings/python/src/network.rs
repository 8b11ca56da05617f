//! Network cards, STUN and TURN servers: the surroundings of a node.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2pd_core::nat::NatType;
use p2pd_tokio::NatReport;
use p2pd_tokio::messages::stun::{self, Client};
use p2pd_tokio::messages::{
    MessagePipe, Pattern, PipeOptions, Protocol, RecvError, Route, RouteTable, SubscriptionId,
};
use pyo3::prelude::*;
use serde_json::json;

use crate::engine::{Failure, Reach};
use crate::node::{Servers, address, text, wrong};

/// Lists the network cards, as JSON.
pub(crate) async fn cards() -> Result<String, Failure> {
    text(&tokio::task::spawn_blocking(p2pd_sys::cards).await.map_err(wrong)?)
}

/// Measures the NATs, and returns the reports and the routes, as JSON.
pub(crate) async fn nats(servers: Servers, bind: Option<String>) -> Result<(String, String), Failure> {
    let servers = servers.read()?.stun;
    let reports = stun::nat_info(servers, address(bind.as_deref())?).await;
    let reports = reports.map_err(|why| Failure::new("bind", why))?;
    measured(&reports)
}

/// Returns reports with P2PD's numbers, and the routes, as JSON.
pub(crate) fn measured(reports: &[NatReport]) -> Result<(String, String), Failure> {
    let with_numbers = |report: &NatReport| {
        let (kind, delta) = (report.behaviour.nat_type(), report.behaviour.delta());
        json!({
            "local": report.local, "external": report.external(),
            "type": kind.map(NatType::number), "nat_info": kind,
            "delta": {"type": delta.kind.number(), "value": delta.value}, "delta_info": delta.kind,
            "report": report,
        })
    };
    let all: Vec<_> = reports.iter().map(with_numbers).collect();
    Ok((text(&all)?, text(&RouteTable::measured(reports))?))
}

/// Returns the hosts and ports of a list's STUN servers.
pub(crate) async fn stun_servers(servers: Servers) -> Result<Vec<(String, u16)>, Failure> {
    Ok(servers.read()?.stun.into_iter().map(|server| (server.host.into(), server.port)).collect())
}

/// Opens a socket and asks how a server sees it.
pub(crate) async fn mapping(server: (String, u16), local: String, tcp: bool) -> Result<Mapping, Failure> {
    let local: IpAddr = local.parse().map_err(|_| wrong(format!("{local:?} is no IP address")))?;
    let client = Client::new((server.0.as_str(), server.1), Route::from(local));
    let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
    let mapping = client.mapping(protocol).await.map_err(|why| Failure::new("stun", why))?;
    Ok(Mapping(mapping))
}

/// A socket, and how a STUN server saw it. The mapping lives as long as this.
#[pyclass(frozen, module = "p2pd._native")]
pub struct Mapping(stun::Mapping);

#[pymethods]
impl Mapping {
    /// Returns the socket's local end.
    #[getter]
    fn local(&self) -> (String, u16) {
        parts(self.0.local)
    }

    /// Returns the end that the server saw.
    #[getter]
    fn external(&self) -> (String, u16) {
        parts(self.0.external)
    }
}

/// A relayed address at a TURN server.
#[pyclass(frozen, module = "p2pd._native")]
pub struct Allocation {
    pipe: MessagePipe,
    all: SubscriptionId,
    reach: Reach,
}

impl Allocation {
    pub(crate) fn new(allocation: p2pd_tokio::messages::Allocation, reach: Reach) -> Result<Self, Failure> {
        let pipe = MessagePipe::new(allocation, &PipeOptions::default()).map_err(failed)?;
        let all = pipe.subscribe(Pattern::ANY, Pattern::ANY).map_err(failed)?;
        Ok(Allocation { pipe, all, reach })
    }
}

#[pymethods]
impl Allocation {
    /// Returns the address at the server that peers send to.
    #[getter]
    fn relayed(&self) -> (String, u16) {
        parts(self.pipe.local_addr())
    }

    /// Sends a datagram to a peer: a call that gives nothing.
    fn send(&self, data: Vec<u8>, ip: String, port: u16) -> u64 {
        let pipe = self.pipe.clone();
        self.reach.call(async move {
            let ip: IpAddr = ip.parse().map_err(|_| wrong(format!("{ip:?} is no IP address")))?;
            pipe.send_to(&data, SocketAddr::new(ip, port)).await.map_err(failed)
        })
    }

    /// Waits for the next datagram: a call that gives it and its sender, or `None` at the end.
    fn recv(&self) -> u64 {
        let (pipe, all) = (self.pipe.clone(), self.all);
        self.reach.call(async move {
            match pipe.recv_from(all, Duration::MAX).await {
                Ok(message) => Ok(Some((message.data.to_vec(), parts(message.from)))),
                Err(RecvError::Ended(_)) => Ok(None),
                Err(why) => Err(failed(why)),
            }
        })
    }

    /// Gives the address up: a call that gives nothing.
    fn close(&self) -> u64 {
        let pipe = self.pipe.clone();
        self.reach.call(async move {
            pipe.close().await;
            Ok(())
        })
    }
}

fn parts(at: SocketAddr) -> (String, u16) {
    (at.ip().to_string(), at.port())
}

fn failed(why: impl std::fmt::Display) -> Failure {
    Failure::new("pipe", why)
}
