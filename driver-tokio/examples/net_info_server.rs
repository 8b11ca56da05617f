//! A REST service that tells its clients by which route they came: `... --example net_info_server -- IP:PORT [STUN-HOST PORT]`,
//! then `curl http://IP:PORT/mapping`. Without a STUN server the external addresses are not known.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::serve::{IncomingStream, Listener};
use axum::{Router, routing::get};
use p2pd_tokio::messages::stun::nat_info;
use p2pd_tokio::messages::{Daemon, IpRange, MessagePipe, Pattern, PipeOptions, Protocol, RouteTable};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Connection as its client is told of it.
#[derive(Clone, Debug)]
struct Info(Arc<Value>);

impl Info {
    fn of(pipe: &MessagePipe, routes: &RouteTable) -> Info {
        let (local, card) = (pipe.local_addr(), pipe.interface());
        let range = |of: &IpRange| json!({"ip": of.first().to_string(), "cidr": of.prefix()});
        let row = routes.of(local.ip());
        let nic: Vec<Value> =
            row.map_or(vec![range(&local.ip().into())], |row| row.nic.iter().map(range).collect());
        let ext: Vec<Value> = row.iter().map(|row| range(&row.ext)).collect();
        Info(Arc::new(json!({
            "error": 0, "fd": descriptor(pipe), "laddr": local, "raddr": pipe.remote_addr(),
            "route": {"af": if local.is_ipv4() { 2 } else { 10 }, "nic_ips": nic, "ext_ips": ext},
            "if": {"name": card.map(|card| card.name)},
        })))
    }
}

#[cfg(unix)]
fn descriptor(pipe: &MessagePipe) -> Option<i32> {
    pipe.with_socket(|socket| std::os::fd::AsRawFd::as_raw_fd(&socket))
}

#[cfg(not(unix))]
fn descriptor(_: &MessagePipe) -> Option<i32> {
    None
}

/// The server's door, with a pipe for each client.
struct Door(Daemon, RouteTable);

impl Listener for Door {
    type Io = DuplexStream;
    type Addr = Info;

    async fn accept(&mut self) -> (DuplexStream, Info) {
        loop {
            let Ok(pipe) = self.0.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let info = Info::of(&pipe, &self.1);
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(carry(pipe, theirs));
            return (ours, info);
        }
    }

    fn local_addr(&self) -> std::io::Result<Info> {
        Ok(Info(Arc::new(Value::Null)))
    }
}

impl Connected<IncomingStream<'_, Door>> for Info {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Info {
        stream.remote_addr().clone()
    }
}

/// Carries the bytes of a client and its answers.
async fn carry(pipe: MessagePipe, mut http: DuplexStream) {
    let Ok(all) = pipe.subscribe(Pattern::ANY, Pattern::ANY) else { return };
    let mut answer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            message = pipe.recv(all, Duration::from_secs(60)) => match message {
                Ok(data) if http.write_all(&data).await.is_ok() => {}
                _ => break,
            },
            read = http.read(&mut answer) => match read {
                Ok(n) if n > 0 && pipe.send(&answer[..n]).await.is_ok() => {}
                _ => break,
            },
        }
    }
    pipe.close().await;
}

async fn mapping(ConnectInfo(info): ConnectInfo<Info>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], info.0.to_string())
}

async fn missing() -> impl IntoResponse {
    let answer = json!({"error": 2, "msg": "method not implemented"});
    ([(CONTENT_TYPE, "application/json")], answer.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let at: std::net::SocketAddr =
        args.next().ok_or("usage: net_info_server IP:PORT [STUN-HOST PORT]")?.parse()?;
    let mut routes = RouteTable::default();
    if let (Some(host), Some(port)) = (args.next(), args.next()) {
        let server = p2pd_tokio::StunServer { host: host.into(), port: port.parse()? };
        routes = RouteTable::measured(&nat_info(vec![server], None).await?);
    }
    for row in &routes {
        println!("route {row}");
    }
    let daemon = Daemon::listen_specific(&[(at, Protocol::Tcp)], &PipeOptions::default())?;
    println!("listening on {}", daemon.bound()[0].0);
    let service = Router::new().route("/mapping", get(mapping)).fallback(missing);
    axum::serve(Door(daemon, routes), service.into_make_service_with_connect_info::<Info>()).await?;
    Ok(())
}
