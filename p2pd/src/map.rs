//! `p2pd map`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use p2pd::servers::{FORBID_PUBLIC, Servers};
use p2pd_core::Transport;
use p2pd_core::portmap::{Config, Event, MapError, Mapper, Protocol, Request, StreamId};
use p2pd_core::stun::{BindingOutcome, TransactionId, binding_request, decode_binding};
use p2pd_core::{Interfaces, StunServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::commands::{ended, usage};
use crate::options::Map;
use crate::say::Say;
use crate::signals::interrupted;

/// Time for a STUN server to answer, one after another.
const STUN_WITHIN: Duration = Duration::from_millis(1000);

pub(crate) async fn run(options: &Map, say: Say) -> ExitCode {
    let stun = match options.config.as_deref().map(list).transpose() {
        Ok(stun) => stun.unwrap_or_default(),
        Err(why) => return usage(say, &why),
    };
    if options.bind.is_none() && std::env::var_os(FORBID_PUBLIC).is_some() {
        return usage(
            say,
            &format!("looking for routers everywhere is forbidden by {FORBID_PUBLIC}: give --bind"),
        );
    }
    let mut runner = match Runner::open(options).await {
        Ok(runner) => runner,
        Err(why) => {
            let bind = options.bind.map_or("network interfaces".into(), |ip| format!("--bind {ip}"));
            say.error(&format!("{bind}: {why}"));
            return ExitCode::FAILURE;
        }
    };
    let protocol = if options.udp { Protocol::Udp } else { Protocol::Tcp };
    say.waiting("looking for the router");
    let done = match (options.add, options.remove) {
        (Some(port), _) => hold(&mut runner, protocol, port, &stun, say).await.map(|()| true),
        (None, Some(port)) => remove(&mut runner, protocol, port, say).await.map(|()| true),
        (None, None) => table(&mut runner, say).await,
    };
    ended(done, say)
}

pub(crate) fn list(path: &Path) -> Result<Vec<StunServer>, String> {
    Servers::read(path).map(|servers| servers.stun)
}

/// Opens a port and holds it until a signal comes.
async fn hold(
    runner: &mut Runner,
    protocol: Protocol,
    port: u16,
    stun: &[StunServer],
    say: Say,
) -> Result<(), String> {
    let asked = runner.mapper.map(runner.clock.now(), protocol, port, port);
    asked.map_err(|why| why.to_string())?;
    let seen = seen(runner.local, None, stun);
    tokio::pin!(seen);
    let mut waits = !stun.is_empty();
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let (mut closing, mut failed) = (false, None);
    loop {
        tokio::select! {
            event = runner.event() => match event {
                Event::Failed { gateway, upnp, .. } => {
                    failed = Some(reasons(gateway, upnp));
                    closing = true;
                    runner.close();
                }
                Event::Closed => return failed.map_or(Ok(()), Err),
                Event::Removed { .. } if failed.is_some() => {}
                event => say.mapping(protocol, port, &event),
            },
            ip = &mut seen, if waits => {
                waits = false;
                runner.mapper.seen(runner.clock.now(), ip);
            }
            () = &mut interrupted, if !closing => {
                closing = true;
                runner.close();
            }
        }
    }
}

async fn remove(runner: &mut Runner, protocol: Protocol, port: u16, say: Say) -> Result<(), String> {
    let asked = runner.mapper.forget(runner.clock.now(), protocol, port);
    asked.map_err(|why| why.to_string())?;
    loop {
        match runner.event().await {
            Event::Removed { confirmed: false, .. } => {
                return Err("no router confirmed that the port is closed".into());
            }
            event @ Event::Removed { .. } => {
                say.mapping(protocol, port, &event);
                return Ok(());
            }
            _ => {}
        }
    }
}

/// Prints the router's table. Returns false if nobody reads the output.
async fn table(runner: &mut Runner, say: Say) -> Result<bool, String> {
    runner.mapper.list(runner.clock.now());
    let mut read = true;
    while read {
        match runner.event().await {
            Event::Listed(entry) => read &= say.listed(&entry),
            Event::ListEnd(end) => {
                say.still();
                return end.map_or_else(|why| Err(format!("UPnP: {why}")), |()| Ok(true));
            }
            _ => {}
        }
    }
    Ok(false)
}

fn reasons(gateway: Option<MapError>, upnp: Option<MapError>) -> String {
    let ways = [("PCP, NAT-PMP", gateway), ("UPnP", upnp)];
    let said: Vec<String> =
        ways.iter().filter_map(|(way, why)| Some(format!("{way}: {}", (*why)?))).collect();
    if said.is_empty() {
        "no mapping: there is no router to ask".into()
    } else {
        format!("no mapping: {}", said.join("; "))
    }
}

/// Returns this machine's address as a STUN server sees it, by the interface with this index if there is a choice. The
/// first answer is believed.
pub(crate) async fn seen(local: IpAddr, interface: Option<u32>, servers: &[StunServer]) -> Option<IpAddr> {
    let socket = UdpSocket::bind((local, 0)).await.ok()?;
    if let Some(interface) = interface {
        // Where it is not allowed the routes decide.
        let _ = p2pd_sys::socket::leave_by(&socket, (local, 0).into(), interface);
    }
    for server in servers {
        let Ok(found) = tokio::net::lookup_host((&*server.host, server.port)).await else { continue };
        let Some(to) = found.into_iter().find(|to| to.is_ipv4() == local.is_ipv4()) else { continue };
        let seed = p2pd_tokio::random_seed().ok()?;
        let id = TransactionId(*seed.first_chunk()?);
        if socket.send_to(&binding_request(id, None), to).await.is_err() {
            continue;
        }
        let mut buffer = [0; 1500];
        let answer = tokio::time::timeout(STUN_WITHIN, async {
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.ok()?;
                let reply = decode_binding(&buffer[..n], Transport::Udp);
                match reply.map(|r| (r.transaction == id && from == to, r.outcome)) {
                    Ok((true, BindingOutcome::Mapped(mapped))) => return Some(mapped.ip()),
                    Ok((true, _)) => return None,
                    _ => {}
                }
            }
        });
        if let Ok(Some(ip)) = answer.await {
            return Some(ip);
        }
    }
    None
}

/// Carries out a mapper's requests.
struct Runner {
    mapper: Mapper,
    local: IpAddr,
    clock: p2pd_sys::Clock,
    udp: UdpSocket,
    streams: BTreeMap<StreamId, Stream>,
    told: UnboundedSender<(StreamId, Told)>,
    news: UnboundedReceiver<(StreamId, Told)>,
}

/// A stream has a task of its own, which ends with it.
struct Stream {
    orders: UnboundedSender<Order>,
    task: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Order {
    Send(Bytes),
    Read(u32),
}

enum Told {
    Connected,
    Received(Vec<u8>),
    Ended,
}

fn is_zoned(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

impl Runner {
    async fn open(options: &Map) -> io::Result<Runner> {
        let interfaces = p2pd_sys::interfaces(options.bind, &Interfaces::default())?;
        // No router is asked from a link-local address.
        let wide = interfaces.iter().filter(|i| options.bind.is_some() || !is_zoned(i.ip));
        let first = wide.clone().find(|i| options.bind.is_some() || i.ip.is_ipv4()).or(wide.clone().next());
        let interface = first.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let local = interface.ip;
        let udp = UdpSocket::bind((local, 0)).await?;
        let socket = socket2::SockRef::from(&udp);
        match local {
            IpAddr::V4(ip) => socket.set_multicast_if_v4(&ip)?,
            IpAddr::V6(_) => socket.set_multicast_if_v6(interface.index)?,
        }
        let config = Config {
            gateway: interface.gateway,
            zone: interface.index,
            lifetime: Duration::from_secs(options.lease.into()),
            // PCP would not let us close what another process opened.
            pcp: options.remove.is_none(),
            ..Config::new(local, interface.prefix)
        };
        let seed = p2pd_tokio::random_seed()?;
        let clock = p2pd_sys::Clock::start();
        let mapper = Mapper::new(config, seed, clock.now());
        let (told, news) = unbounded_channel();
        Ok(Runner { mapper, local, clock, udp, streams: BTreeMap::new(), told, news })
    }

    fn close(&mut self) {
        self.mapper.close(self.clock.now());
    }

    /// Waits for the next event. May be dropped and called again.
    async fn event(&mut self) -> Event {
        let mut buffer = [0; 2048];
        loop {
            while let Some(request) = self.mapper.poll_request() {
                self.carry_out(request);
            }
            if let Some(event) = self.mapper.poll_event() {
                return event;
            }
            let next = self.mapper.poll_timeout();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep(self.clock.until(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                got = self.udp.recv_from(&mut buffer) => if let Ok((n, from)) = got {
                    self.mapper.datagram(self.clock.now(), from, &buffer[..n]);
                },
                Some((stream, told)) = self.news.recv() => {
                    let now = self.clock.now();
                    match told {
                        Told::Connected => self.mapper.connected(now, stream),
                        Told::Received(data) => self.mapper.received(now, stream, &data),
                        Told::Ended => self.mapper.ended(now, stream),
                    }
                }
                () = due => self.mapper.handle_timeout(self.clock.now()),
            }
        }
    }

    fn carry_out(&mut self, request: Request) {
        match request {
            // By the socket call itself: tokio's fails until its reactor has seen the socket. What cannot be sent is
            // lost, as on the way, and repeated.
            Request::Datagram { to, data } => {
                drop(socket2::SockRef::from(&self.udp).send_to(&data, &to.into()))
            }
            Request::Connect { stream, to } => {
                let (orders, taken) = unbounded_channel();
                let (told, local) = (self.told.clone(), self.local);
                let task = tokio::spawn(async move {
                    // An error is an end like any other.
                    let _ = serve(stream, local, to, taken, &told).await;
                    let _ = told.send((stream, Told::Ended));
                });
                self.streams.insert(stream, Stream { orders, task });
            }
            Request::Send { stream, data } => self.order(stream, Order::Send(data)),
            Request::Read { stream, credit } => self.order(stream, Order::Read(credit)),
            Request::Close { stream } => drop(self.streams.remove(&stream)),
        }
    }

    fn order(&mut self, stream: StreamId, order: Order) {
        if let Some(stream) = self.streams.get(&stream) {
            // Its task may have ended, which is told already.
            let _ = stream.orders.send(order);
        }
    }
}

async fn serve(
    stream: StreamId,
    local: IpAddr,
    to: SocketAddr,
    mut orders: UnboundedReceiver<Order>,
    told: &UnboundedSender<(StreamId, Told)>,
) -> io::Result<()> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind((local, 0).into())?;
    let mut tcp = socket.connect(to).await?;
    let _ = told.send((stream, Told::Connected));
    let mut buffer = vec![0; 4096];
    while let Some(order) = orders.recv().await {
        match order {
            Order::Send(data) => tcp.write_all(&data).await?,
            Order::Read(mut credit) => {
                while credit > 0 {
                    let most = buffer.len().min(credit as usize);
                    let n = tcp.read(&mut buffer[..most]).await?;
                    if n == 0 {
                        return Ok(());
                    }
                    credit -= n as u32;
                    let _ = told.send((stream, Told::Received(buffer[..n].to_vec())));
                }
            }
        }
    }
    Ok(())
}
