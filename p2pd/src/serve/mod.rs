//! The servers of `p2pd-rendezvous` on real sockets, under tokio.

mod broker;
mod door;
mod stun;
mod turn;
mod udp;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use p2pd_core::turn::Lifetimes;
use p2pd_core::{Broker, StunServer};
use p2pd_rendezvous::{mqtt, stun as stun_server, turn as turn_server};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::servers::{Servers, TurnCredential, TurnServer};
pub use turn::Wanted as WantedTurn;

/// Tries to find a port that is free on every address and for UDP and TCP.
const TRIES: usize = 50;

/// Addresses and ports to serve at, and the servers.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The address.
    pub ip: IpAddr,
    /// A second address of the same family: with it the STUN server measures NATs (RFC 5780).
    pub second_ip: Option<IpAddr>,
    /// Port of the broker; 0 takes a free one.
    pub mqtt_port: u16,
    /// Ports of the STUN server, UDP and TCP; the second shows what NATs make of another port. 0 takes a free one.
    pub stun_ports: [u16; 2],
    /// A TURN server on the STUN server's sockets. Default: none, since a relay carries others' data, in this machine's
    /// name.
    pub turn: Option<WantedTurn>,
}

/// Reason why the servers could not be started.
#[derive(Debug)]
pub enum ServeError {
    /// The two addresses are the same, of two families, or not addresses of a machine.
    Addresses,
    /// The address of the TURN server's sockets, as peers reach them, cannot be found.
    RelayAddress(io::Error),
    /// A socket could not be opened.
    Bind(&'static str, SocketAddr, io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Addresses => {
                f.write_str("two addresses must be two different ones of one family, and no wildcards")
            }
            ServeError::RelayAddress(why) => {
                write!(f, "no address to relay with, because there is no default route: {why}")
            }
            ServeError::Bind(what, at, why) => write!(f, "{what} on {at}: {why}"),
        }
    }
}

impl std::error::Error for ServeError {
    /// Returns the system's error.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServeError::RelayAddress(why) | ServeError::Bind(.., why) => Some(why),
            _ => None,
        }
    }
}

/// Running servers; they end when this is dropped.
#[derive(Debug)]
pub struct Serving {
    mqtt: SocketAddr,
    stun: SocketAddr,
    stun_ports: [u16; 2],
    second_ip: Option<IpAddr>,
    turn: Option<Relaying>,
    counting: Counting,
    tasks: JoinSet<()>,
}

/// Counters of running servers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Counts {
    /// Counters of the broker.
    pub mqtt: mqtt::Stats,
    /// Counters of the STUN server.
    pub stun: stun_server::Stats,
    /// Counters of the TURN server, where there is one.
    pub turn: Option<turn_server::Stats>,
    /// Allocations that there are now.
    pub allocations: usize,
}

/// The counters of running servers, which go on while somebody else serves.
#[derive(Clone, Debug)]
pub struct Counting {
    mqtt: watch::Receiver<mqtt::Stats>,
    others: stun::Counted,
}

impl Counting {
    /// Returns the counters as they are now.
    pub fn counts(&self) -> Counts {
        let (stun, turn) = self.others.stats();
        let (turn, allocations) = turn.unzip();
        Counts { mqtt: *self.mqtt.borrow(), stun, turn, allocations: allocations.unwrap_or_default() }
    }
}

/// A TURN server that runs.
#[derive(Debug)]
struct Relaying {
    ips: Vec<IpAddr>,
    reaches_private: bool,
    wanted: WantedTurn,
}

impl Serving {
    /// Opens the sockets and starts to serve, within a tokio runtime.
    ///
    /// # Errors
    /// The socket that could not be opened, with the reason; then none is open.
    pub async fn start(wanted: &Wanted) -> Result<Self, ServeError> {
        let began = Instant::now();
        let ips: Vec<IpAddr> = [Some(wanted.ip), wanted.second_ip].into_iter().flatten().collect();
        if let [a, b] = ips[..]
            && (a == b || a.is_ipv4() != b.is_ipv4() || a.is_unspecified() || b.is_unspecified())
        {
            return Err(ServeError::Addresses);
        }
        let turn = wanted.turn.as_ref().map(|turn| turn.server(wanted.ip)).transpose();
        let (turn_server, relay_ips) = turn.map_err(ServeError::RelayAddress)?.unzip();
        let reaches_private =
            turn_server.as_ref().is_some_and(p2pd_rendezvous::turn::Server::reaches_private);
        let mut mqtt_listeners = Vec::new();
        let mut mqtt_port = wanted.mqtt_port;
        for ip in &ips {
            let listener = listen("MQTT", (*ip, mqtt_port).into())?;
            mqtt_port = port_of(&listener, (*ip, mqtt_port).into())?;
            mqtt_listeners.push(listener);
        }
        let bound =
            [stun::Port::open(&ips, wanted.stun_ports[0])?, stun::Port::open(&ips, wanted.stun_ports[1])?];
        let stun_ports = [bound[0].port, bound[1].port];
        let sites = match ips[..] {
            [a, b] => stun_server::Sites::Two { ips: [a, b], ports: stun_ports },
            _ => stun_server::Sites::One,
        };
        let mut tasks = JoinSet::new();
        let counted = stun::start(
            &mut tasks,
            began,
            stun_server::Server::new(sites, stun_server::Limits::default()),
            bound.into(),
            |sockets| Some(turn::Turn::new(began, turn_server?, wanted.ip, sockets)),
        );
        let (counter, counts) = watch::channel(mqtt::Stats::default());
        tasks.spawn(broker::run(began, mqtt::Limits::default(), mqtt_listeners, counter));
        let turn = relay_ips.zip(wanted.turn.clone());
        Ok(Serving {
            mqtt: (wanted.ip, mqtt_port).into(),
            stun: (wanted.ip, stun_ports[0]).into(),
            stun_ports,
            second_ip: wanted.second_ip,
            turn: turn.map(|(ips, wanted)| Relaying { ips, reaches_private, wanted }),
            counting: Counting { mqtt: counts, others: counted },
            tasks,
        })
    }

    /// The broker.
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// The STUN server's first socket, UDP and TCP.
    pub fn stun(&self) -> SocketAddr {
        self.stun
    }

    /// The addresses that the TURN server relays with, none without such a server. Clients reach it where the STUN server is.
    pub fn relay_ips(&self) -> &[IpAddr] {
        self.turn.as_ref().map_or(&[], |turn| &turn.ips)
    }

    /// Returns true if private addresses are relayed to.
    pub fn relays_to_private(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.reaches_private)
    }

    /// Returns the counters of the servers.
    pub fn counting(&self) -> Counting {
        self.counting.clone()
    }

    /// The STUN server's ports.
    pub fn stun_ports(&self) -> [u16; 2] {
        self.stun_ports
    }

    /// The list that peers need, with `host` as the name they reach the servers by and `id` as the broker's.
    pub fn servers(&self, host: &str, id: u16) -> Servers {
        // A server with two addresses names its other port itself.
        let listed = if self.second_ip.is_some() { &self.stun_ports[..1] } else { &self.stun_ports[..] };
        Servers {
            ntp: Vec::new(),
            brokers: vec![Broker::new(id, host, self.mqtt.port())],
            logins: BTreeMap::new(),
            proxy: None,
            stun: listed.iter().map(|port| StunServer { host: host.into(), port: *port }).collect(),
            turn: self.turn.iter().filter_map(|turn| self.turn_entry(host, &turn.wanted)).collect(),
        }
    }

    fn turn_entry(&self, host: &str, wanted: &WantedTurn) -> Option<TurnServer> {
        let credential = match (wanted.users.first(), &wanted.secret) {
            (Some((user, password)), _) => {
                TurnCredential::Password { user: user.as_str().into(), password: password.as_str().into() }
            }
            (None, Some(secret)) => TurnCredential::Secret(secret.as_str().into()),
            (None, None) => return None,
        };
        Some(TurnServer {
            host: host.into(),
            port: self.stun.port(),
            transport: None,
            tls: None,
            credential,
            lifetimes: Lifetimes::default(),
            alternates_anywhere: false,
        })
    }

    /// Serves until a server ends by itself, which is a defect.
    pub async fn ended(&mut self) {
        self.tasks.join_next().await;
    }
}

fn listen(what: &'static str, at: SocketAddr) -> Result<tokio::net::TcpListener, ServeError> {
    let open = || {
        let socket = match at {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }?;
        // A server that is started again must not wait for its old connections.
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        socket.listen(1024)
    };
    open().map_err(|why| ServeError::Bind(what, at, why))
}

fn port_of(listener: &tokio::net::TcpListener, at: SocketAddr) -> Result<u16, ServeError> {
    listener.local_addr().map(|a| a.port()).map_err(|why| ServeError::Bind("MQTT", at, why))
}
