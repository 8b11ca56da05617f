//! Configuration of a node, and the plan of one connect.
//!
//! Long: one call for each setting of a node and of a plan.

use crate::login::Login;
use core::fmt;
use core::time::Duration;
use std::collections::BTreeSet;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::call::Strategy;
use crate::identity::{NodeId, SecretKey};
use crate::nat::NatMemory;
use crate::noise::Suite;
use crate::pipe::{PipeMode, ProtocolTag, Terms};
use crate::proxy::Proxy;
use crate::selection::Interfaces;
use crate::turn::{Credentials, Lifetimes};
use crate::wire::Transport;
use crate::wrap::{Header, Tls, Wrap};

/// Most brokers, STUN servers and TURN servers in a configuration, of each.
pub const MAX_SERVERS: usize = 16;

/// Fault of a proxy in a configuration.
const NO_PROXY: &str = "has no host or port 0, or cannot be told the server's name or who we are";

/// Descriptors that a direct pipe takes in a driver: its socket, and a duplicate by which the driver looks after it. A
/// place of [`Config::max_pipes`] is reckoned as so many.
pub const PIPE_DESCRIPTORS: usize = 2;

/// Places of peers where nobody says how many there are.
pub(crate) const DEFAULT_PIPES: u32 = 512;

/// Calls that set one field each.
macro_rules! setters {
    ($($field:ident: $type:ty,)*) => {$(
        #[doc = concat!("Sets [`", stringify!($field), "`](#structfield.", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: impl Into<$type>) -> Self {
            self.$field = $field.into();
            self
        }
    )*};
}

/// Configuration of a node.
///
/// ```
/// # use p2pd_core::{Broker, Config, SecretKey};
/// # let key = SecretKey::from_bytes([7; 32]);
/// let config = Config::new(key).port(4000).brokers([Broker::new(1, "broker.example", 1883)]);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The node's key pair.
    pub identity: SecretKey,
    /// MQTT brokers for signalling, at most [`MAX_SERVERS`]. The node keeps a session with each; the first
    /// two that work go into its address. Default: none, and only direct connects are possible.
    pub brokers: Vec<Broker>,
    /// STUN servers that tell the outside address, at most [`MAX_SERVERS`]; the first three of each address
    /// family are asked. Default: none, and the inside addresses are announced.
    pub stun: Vec<StunServer>,
    /// TURN servers that relay for us where nothing else works, at most [`MAX_SERVERS`]; the first three are asked at
    /// once, and the one that answers first is used. Default: none, and relays of peers only are used.
    pub turn: Vec<TurnServer>,
    /// The only local address to listen on, dial from and announce. Default: all but loopback.
    pub bind: Option<IpAddr>,
    /// TCP port to listen on. Default 0: the system chooses.
    pub port: u16,
    /// Peers that get a pipe. Default: anyone who knows the address and proves its node id.
    pub accept: Accept,
    /// Permits a peer to ask for a plain pipe. Default: no. A plan of our own may ask in any case.
    pub allow_plain: bool,
    /// Offers AES-256-GCM on encrypted pipes, and takes it where the peer offers it; otherwise they have
    /// ChaCha20-Poly1305. AES is the faster one where both processors have instructions for it, and slower without.
    /// Default: drivers look at the processor, and the core alone says no. Yes needs the core's feature `ring`.
    pub aes: Option<bool>,
    /// Permits a peer to open a session, for a program that accepts sessions. Default: no, and such calls are refused with
    /// [`Refusal::NoSessions`](crate::Refusal::NoSessions). A call of our own may open one in any case.
    pub sessions: bool,
    /// Protocols of which peers may open pipes, as [`Plan::protocol`] names them. Default: none is listed, which means
    /// all, and calls that name none. With a list other calls are refused with
    /// [`Refusal::ProtocolNotTaken`](crate::Refusal::ProtocolNotTaken).
    pub protocols: Vec<ProtocolTag>,
    /// Measures the NATs in front of us when the node starts, over about four round trips to the first STUN server.
    /// Without the survey a punch can only assume that NATs keep local ports. Default: yes.
    pub survey: bool,
    /// Has the survey dial our own outside address too, to test our NAT for hairpinning. The result is only reported;
    /// the node does not use it. Default: no.
    pub hairpin: bool,
    /// Opens the listener's port by PCP, NAT-PMP or UPnP ([`portmap`](crate::portmap)), on the router of each interface
    /// behind a NAT. Peers reach the port directly where STUN sees the address that the router names. For IPv6 the
    /// router's firewall is asked for a pinhole, unless the survey found no firewall there. The port is closed again at
    /// shutdown, which may then take 2 s. Default: no.
    pub portmap: bool,
    /// External port to ask these routers for; they may give another one. 443 and 80 are what networks let out that
    /// let out little. Default 0: the listener's own.
    pub external_port: u16,
    /// Time servers, asked when the node starts, once a day, and when the wall clock was set: where they say that the clock
    /// is wrong by more than a minute, the node goes by theirs. Nothing needs them but names on a machine whose clock is
    /// wrong. Of three or more, one that lies is outvoted. Default: none.
    pub ntp: Vec<NtpServer>,
    /// Most streams and pipes that peers have opened, at a time. Strangers together have three quarters of them; one
    /// stranger an eighth, and one IPv4 address or IPv6 /64 of strangers a quarter. Whoever comes beyond is told that the
    /// node is busy. Streams that have not proved who they are have places of their own, half as many and at most 512.
    /// A relayed pipe takes three places. Default: as many as take half of the descriptors that the process may have,
    /// [`PIPE_DESCRIPTORS`] each, at most 8,192; a driver that does not know has 512.
    pub max_pipes: Option<u32>,
    /// Bounds on the time until a peer that has vanished is found out.
    pub liveness: Liveness,
    /// Memory of the NATs of networks, as [`Event::NatMemory`](crate::Event::NatMemory) said it in an earlier run, the latest
    /// last. Default: none, and each is measured.
    pub nat_memory: Vec<NatMemory>,
    /// Addresses to dial peers from, to be dialled at and to announce; a driver looks at it when it lists the machine's
    /// interfaces. Servers are reached by whatever way the system has. With `bind`, that address has to be among them.
    /// Default: all but loopback.
    pub interfaces: Interfaces,
}

impl Config {
    /// The defaults, for this key pair.
    pub fn new(identity: SecretKey) -> Self {
        Config {
            identity,
            brokers: Vec::new(),
            stun: Vec::new(),
            turn: Vec::new(),
            bind: None,
            port: 0,
            accept: Accept::Anyone,
            allow_plain: false,
            aes: None,
            sessions: false,
            protocols: Vec::new(),
            survey: true,
            hairpin: false,
            portmap: false,
            external_port: 0,
            ntp: Vec::new(),
            max_pipes: None,
            liveness: Liveness::default(),
            nat_memory: Vec::new(),
            interfaces: Interfaces::default(),
        }
    }

    setters! {
        brokers: Vec<Broker>,
        stun: Vec<StunServer>,
        turn: Vec<TurnServer>,
        bind: Option<IpAddr>,
        accept: Accept,
        allow_plain: bool,
        aes: Option<bool>,
        sessions: bool,
        protocols: Vec<ProtocolTag>,
        survey: bool,
        hairpin: bool,
        portmap: bool,
        ntp: Vec<NtpServer>,
        liveness: Liveness,
        nat_memory: Vec<NatMemory>,
        interfaces: Interfaces,
    }

    /// Sets [`port`](#structfield.port).
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets [`external_port`](#structfield.external_port).
    #[must_use]
    pub fn external_port(mut self, port: u16) -> Self {
        self.external_port = port;
        self
    }

    /// Sets [`max_pipes`](#structfield.max_pipes).
    #[must_use]
    pub fn max_pipes(mut self, most: u32) -> Self {
        self.max_pipes = Some(most);
        self
    }

    /// Has brokers and TURN servers reached through a proxy, all but those whose hosts are excepted.
    pub fn set_proxy(&mut self, proxy: &Proxy, except: impl Fn(&str) -> bool) {
        let brokers = self.brokers.iter_mut().map(|b| (&b.host, &mut b.proxy));
        let turn = self.turn.iter_mut().map(|t| (&t.host, &mut t.proxy));
        for (_, of) in brokers.chain(turn).filter(|(host, _)| !except(host)) {
            *of = Some(proxy.clone());
        }
    }

    pub(crate) fn has_aes(&self) -> bool {
        self.aes == Some(true)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !Suite::HAS_AES && self.has_aes() {
            return Err(ConfigError::NotBuilt("ring"));
        }
        if cfg!(not(feature = "relay")) && !self.turn.is_empty() {
            return Err(ConfigError::NotBuilt("relay"));
        }
        if cfg!(not(feature = "portmap")) && self.portmap {
            return Err(ConfigError::NotBuilt("portmap"));
        }
        if self.brokers.len() > MAX_SERVERS {
            return Err(ConfigError::TooManyBrokers(self.brokers.len()));
        }
        if self.stun.len() > MAX_SERVERS {
            return Err(ConfigError::TooManyStunServers(self.stun.len()));
        }
        if self.ntp.len() > MAX_SERVERS {
            return Err(ConfigError::TooManyNtpServers(self.ntp.len()));
        }
        if let Some(n) = self.ntp.iter().position(|s| s.host.is_empty() || s.port == 0) {
            return Err(ConfigError::BadNtpServer(n));
        }
        check_turn(&self.turn)?;
        let mut seen = BTreeSet::new();
        for (n, broker) in self.brokers.iter().enumerate() {
            if !seen.insert(broker.id) {
                return Err(ConfigError::DuplicateBrokerId(broker.id));
            }
            if broker.host.is_empty() || broker.port == 0 {
                return Err(ConfigError::BadBroker(n));
            }
            let path = broker.websocket.as_deref().unwrap_or("/");
            if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(ConfigError::BadWebSocketPath(n));
            }
            let too_long = |text: &str| text.len() > Login::MAX;
            if broker.login.as_ref().is_some_and(|l| too_long(l.user()) || l.password().is_some_and(too_long))
            {
                return Err(ConfigError::LoginTooLong(n));
            }
        }
        if let Some(n) = self.brokers.iter().position(|b| is_bad(&b.proxy, &b.host)) {
            return Err(ConfigError::BadBrokerProxy(n));
        }
        match self.stun.iter().position(|s| s.host.is_empty() || s.port == 0) {
            Some(n) => Err(ConfigError::BadStunServer(n)),
            None => Ok(()),
        }
    }
}

/// Checks a list of TURN servers.
pub(crate) fn check_turn(turn: &[TurnServer]) -> Result<(), ConfigError> {
    if turn.len() > MAX_SERVERS {
        return Err(ConfigError::TooManyTurnServers(turn.len()));
    }
    if let Some(n) = turn.iter().position(|s| s.host.is_empty() || s.port == 0) {
        return Err(ConfigError::BadTurnServer(n));
    }
    if let Some(n) = turn.iter().position(|s| s.tls.is_some() && s.transport == Some(Transport::Udp)) {
        return Err(ConfigError::TlsOverUdp(n));
    }
    match turn.iter().position(|t| is_bad(&t.proxy, &t.host)) {
        Some(n) => Err(ConfigError::BadTurnProxy(n)),
        None => Ok(()),
    }
}

/// Returns true for a proxy that cannot lead to the host.
fn is_bad(proxy: &Option<Proxy>, host: &str) -> bool {
    proxy.as_ref().is_some_and(|p| p.host.is_empty() || p.port == 0 || !p.can_reach(host))
}

/// Bounds on the time until the driver finds out that the other end of a TCP stream has vanished with its machine or network.
///
/// A pipe ends with [`PipeEnd::Vanished`](crate::PipeEnd::Vanished) within `interval` + `patience` + 10 s, which is a minute by
/// default, whether it is idle or data waits. A peer that lives and does not read is waited for without end; one that stopped
/// reading and then vanished is found out by the kernel's next window probe, up to two minutes later. Where the system has no
/// `TCP_INFO` (all but Linux), only idle streams are watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: two bounds, which users give together.
pub struct Liveness {
    /// An idle stream asks the other end for a sign of life after this long, which keeps NATs awake, too. Whole seconds,
    /// zero for never. Default 20 s.
    pub interval: Duration,
    /// The stream ends once it has asked for this long without an answer. Zero for the system's own patience, which is
    /// a quarter of an hour where data waits. Default 30 s.
    pub patience: Duration,
}

impl Default for Liveness {
    fn default() -> Self {
        Liveness { interval: Duration::from_secs(20), patience: Duration::from_secs(30) }
    }
}

/// An MQTT broker. Peers find each other on brokers whose `id` both know, so an id never changes its
/// meaning once it was handed out.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: users write it over `Broker::new`.
pub struct Broker {
    /// Stable number of the broker, as it stands in addresses.
    pub id: u16,
    /// Host name or literal address.
    pub host: Box<str>,
    /// TCP port, not 0. MQTT's own is 1883, with TLS 8883; a WebSocket's 80, with TLS 443.
    pub port: u16,
    /// TLS settings of the connection. Default: no TLS.
    pub tls: Option<Tls>,
    /// The path of a WebSocket to it, which begins with `/`. Default: none, MQTT alone.
    pub websocket: Option<Box<str>>,
    /// Additional fields of the WebSocket's HTTP request. Default: none.
    pub headers: Vec<Header>,
    /// User name and password, if the broker asks for them. Default: none.
    pub login: Option<Login>,
    /// The proxy that leads to it. Default: none.
    pub proxy: Option<Proxy>,
    /// True if [`Event::LoginWanted`](crate::Event::LoginWanted) is to ask for another login where the broker refuses
    /// this one. Default: no.
    pub renews: bool,
}

impl Broker {
    /// Makes a broker that is reached over TCP alone, and lets in whoever comes.
    pub fn new(id: u16, host: &str, port: u16) -> Self {
        Broker {
            id,
            host: host.into(),
            port,
            tls: None,
            websocket: None,
            headers: Vec::new(),
            login: None,
            renews: false,
            proxy: None,
        }
    }

    /// Host and port that are dialled.
    pub(crate) fn first(&self) -> (&str, u16) {
        Proxy::first(self.proxy.as_ref(), &self.host, self.port)
    }

    pub(crate) fn wrap(&self) -> Option<Wrap> {
        let Broker { host, port, tls, websocket, headers, proxy, .. } = self.clone();
        let bare = proxy.is_none() && tls.is_none() && websocket.is_none();
        (!bare).then_some(Wrap { host, port, proxy, tls, websocket, headers })
    }
}

/// A STUN server (RFC 8489), asked over UDP, and over TCP where UDP gets no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: a host and its port.
pub struct StunServer {
    /// Host name or literal address.
    pub host: Box<str>,
    /// UDP and TCP port, not 0. STUN's own is 3478.
    pub port: u16,
}

/// An NTP server (RFC 5905).
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: a host and its port.
pub struct NtpServer {
    /// Host name or literal address.
    pub host: Box<str>,
    /// UDP port, not 0. NTP's own is 123.
    pub port: u16,
}

/// A TURN server (RFC 8656), and who we are to it.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: users write it over `TurnServer::new`.
pub struct TurnServer {
    /// Host name or literal address.
    pub host: Box<str>,
    /// UDP and TCP port, not 0. TURN's own is 3478, with TLS 5349.
    pub port: u16,
    /// The only way to it. Default: UDP, and TCP where UDP gets no answer within a second.
    pub transport: Option<Transport>,
    /// TLS settings of the connection. TLS goes over TCP only. Default: no TLS.
    pub tls: Option<Tls>,
    /// Proof of who we are.
    pub auth: TurnAuth,
    /// Lifetimes of allocations, permissions and channels at this server. Default: the RFC's.
    pub lifetimes: Lifetimes,
    /// Proxy that leads to it over TCP and TLS. UDP goes there directly, or not at all. Default: none.
    pub proxy: Option<Proxy>,
    /// Permits the server to redirect us (300) to any address. Default: no. Then only addresses of the internet are
    /// followed, and of those none that is ours or our neighbours'.
    pub alternates_anywhere: bool,
}

/// Proof of who we are to a TURN server.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TurnAuth {
    /// No credentials: the server relays for anyone. Its answers are not proven; data through it is sealed anyway.
    Nobody,
    /// A name and a password that stay good.
    Fixed(Credentials),
    /// A name and a password for a while: [`Event::LoginWanted`](crate::Event::LoginWanted) asks for others. `None`: there
    /// are none yet.
    Renewed(Option<Credentials>),
    /// A secret of the server's, from which the node makes credentials of its own for each allocation: a day's ones, and
    /// where the server does not take these, because our clock is wrong, some until 2038.
    Secret(Box<str>),
}

impl From<Credentials> for TurnAuth {
    fn from(credentials: Credentials) -> Self {
        TurnAuth::Fixed(credentials)
    }
}

/// Omits what is secret.
impl fmt::Debug for TurnAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TurnAuth::Nobody => f.write_str("Nobody"),
            TurnAuth::Fixed(credentials) => write!(f, "Fixed({credentials:?})"),
            TurnAuth::Renewed(credentials) => write!(f, "Renewed({credentials:?})"),
            TurnAuth::Secret(_) => f.write_str("Secret(..)"),
        }
    }
}

impl TurnServer {
    /// Makes a server with the RFC's lifetimes, reached over UDP, or TCP where UDP gets no answer.
    pub fn new(host: &str, port: u16, auth: impl Into<TurnAuth>) -> Self {
        let (auth, lifetimes) = (auth.into(), Lifetimes::default());
        TurnServer {
            host: host.into(),
            port,
            transport: None,
            tls: None,
            auth,
            lifetimes,
            alternates_anywhere: false,
            proxy: None,
        }
    }

    /// Host and port that are dialled, or sent datagrams to.
    pub(crate) fn first(&self, over: Transport) -> (&str, u16) {
        let proxy = self.proxy.as_ref().filter(|_| over == Transport::Tcp);
        Proxy::first(proxy, &self.host, self.port)
    }

    pub(crate) fn only_way(&self) -> Option<Transport> {
        if self.tls.is_some() { Some(Transport::Tcp) } else { self.transport }
    }

    pub(crate) fn wrap(&self) -> Option<Wrap> {
        let TurnServer { host, port, tls, proxy, .. } = self.clone();
        let bare = proxy.is_none() && tls.is_none();
        (!bare).then_some(Wrap { host, port, proxy, tls, websocket: None, headers: Vec::new() })
    }
}

/// Peers that a node gives a pipe to. A peer proves its node id in every case.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Accept {
    /// Anyone who knows the address. Strangers are limited: their requests make us send at most 4 dials
    /// to at most 2 addresses, one request at a time.
    Anyone,
    /// Only the peers with these node ids, and those that [`Node::answer`](crate::Node::answer) approved.
    Only(BTreeSet<NodeId>),
    /// Peers that the user approves: [`Event::Ask`](crate::Event::Ask), answered within 30 s.
    Ask,
}

/// Faults of a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// Number of brokers, which is larger than [`MAX_SERVERS`].
    TooManyBrokers(usize),
    /// Number of STUN servers, which is larger than [`MAX_SERVERS`].
    TooManyStunServers(usize),
    /// Number of TURN servers, which is larger than [`MAX_SERVERS`].
    TooManyTurnServers(usize),
    /// Number of NTP servers, which is larger than [`MAX_SERVERS`].
    TooManyNtpServers(usize),
    /// The NTP server at this position has no host or port 0.
    BadNtpServer(usize),
    /// The TURN server at this position has no host or port 0.
    BadTurnServer(usize),
    /// The TURN server at this position is to have TLS over UDP.
    TlsOverUdp(usize),
    /// Two brokers have this id.
    DuplicateBrokerId(u16),
    /// The broker at this position has no host or port 0.
    BadBroker(usize),
    /// The path of the WebSocket to the broker at this position does not begin with `/`, or is no path.
    BadWebSocketPath(usize),
    /// The user name or the password for the broker at this position is longer than [`Login::MAX`].
    LoginTooLong(usize),
    /// The STUN server at this position has no host or port 0.
    BadStunServer(usize),
    /// The proxy of the broker at this position has no host or port 0, or cannot be told the broker's name or who we are.
    BadBrokerProxy(usize),
    /// The same of the TURN server at this position.
    BadTurnProxy(usize),
    /// The configuration needs this feature of the core, which is off in this build.
    NotBuilt(&'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::TooManyBrokers(n) => write!(f, "{n} brokers, at most {MAX_SERVERS} are possible"),
            ConfigError::TooManyStunServers(n) => {
                write!(f, "{n} STUN servers, at most {MAX_SERVERS} are possible")
            }
            ConfigError::TooManyTurnServers(n) => {
                write!(f, "{n} TURN servers, at most {MAX_SERVERS} are possible")
            }
            ConfigError::TooManyNtpServers(n) => {
                write!(f, "{n} NTP servers, at most {MAX_SERVERS} are possible")
            }
            ConfigError::BadNtpServer(n) => write!(f, "NTP server number {} has no host or port 0", n + 1),
            ConfigError::BadTurnServer(n) => write!(f, "TURN server number {} has no host or port 0", n + 1),
            ConfigError::TlsOverUdp(n) => {
                write!(f, "TURN server number {} is to have TLS over UDP, it goes over TCP", n + 1)
            }
            ConfigError::BadWebSocketPath(n) => {
                write!(f, "broker number {} has a WebSocket path that does not begin with /", n + 1)
            }
            ConfigError::LoginTooLong(n) => {
                let most = Login::MAX;
                write!(f, "the user name or password for broker number {} is over {most} bytes", n + 1)
            }
            ConfigError::DuplicateBrokerId(id) => write!(f, "two brokers have the id {id}"),
            ConfigError::BadBroker(n) => write!(f, "broker number {} has no host or port 0", n + 1),
            ConfigError::BadStunServer(n) => write!(f, "STUN server number {} has no host or port 0", n + 1),
            ConfigError::BadBrokerProxy(n) => write!(f, "the proxy of broker number {} {NO_PROXY}", n + 1),
            ConfigError::BadTurnProxy(n) => write!(f, "the proxy of TURN server number {} {NO_PROXY}", n + 1),
            ConfigError::NotBuilt(feature) => write!(f, "this build has no `{feature}`"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Settings of one connect.
///
/// ```
/// # use p2pd_core::{Plan, Strategy};
/// # use std::time::Duration;
/// let plan = Plan::new().strategies([Strategy::Direct, Strategy::Punch]).timeout(Duration::from_secs(5));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Exactly the strategies to try, started in this order. Default: all. A relay among others begins when those have
    /// ended, or after 3 s.
    pub strategies: SmallVec<[Strategy; 4]>,
    /// Mode of the pipe. Default: encrypted.
    pub mode: PipeMode,
    /// Protocol to be spoken over the pipe, which the listener has to [take](Config::protocols). Default: none is named.
    pub protocol: Option<ProtocolTag>,
    /// The whole connect ends after this long. Default 20 s, at most an hour.
    pub timeout: Duration,
    /// The relay begins at once, and the first way is the pipe. A session that begins on the relay goes over to what
    /// another strategy opens later, and back if that breaks; a pipe stays. Default: no.
    pub relay_first: bool,
}

impl Plan {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`strategies`](#structfield.strategies).
    #[must_use]
    pub fn strategies(mut self, strategies: impl IntoIterator<Item = Strategy>) -> Self {
        self.strategies = strategies.into_iter().collect();
        self
    }

    setters! {
        mode: PipeMode,
        protocol: Option<ProtocolTag>,
        timeout: Duration,
        relay_first: bool,
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms::of(self.mode, self.protocol)
    }
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            strategies: SmallVec::from_slice(&Strategy::ALL),
            mode: PipeMode::Encrypted,
            protocol: None,
            timeout: Duration::from_secs(20),
            relay_first: false,
        }
    }
}
