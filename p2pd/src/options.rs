//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use p2pd::servers::FORBID_PUBLIC;
use p2pd_core::pipe::subscriptions::Pattern;
use p2pd_core::{Code, Interfaces, Name, Strategy, Which};
use tracing_subscriber::filter::Targets;

use crate::forward;
use crate::forward::options::{Expose, Forward};
use crate::peers::Accepted;
use crate::talk::Wanted;
use crate::{help, log};

/// Opens a connection between two computers wherever they are.
#[derive(Debug, Parser)]
#[command(name = "p2pd", version, after_long_help = help::MAIN)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say what happens as JSON, one object a line, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing on standard error but what went wrong
    #[arg(long, global = true, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// File with the peers of `p2pd pair`, whose names stand for their addresses. Default: ~/.p2pd/peers
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) peers: Option<PathBuf>,
    /// Say on standard error what goes on inside, from this level on: error, warn, info, debug or trace. Or targets with
    /// levels, such as `p2pd::api=debug,warn`. With `--json`, as JSON too
    #[arg(long, global = true, value_name = "LEVEL", value_parser = log::filter)]
    pub(crate) log: Option<Targets>,
}

/// Options of all subcommands that run a node.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Set by the commands that have a [`MetricsPort`].
    #[arg(skip)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Server list, a TOML file: brokers, STUN and TURN servers. `p2pd config` prints one with every field and its
    /// default. Without it, public servers of others are used
    #[arg(long, value_name = "FILE", conflicts_with = "no_servers")]
    pub(crate) config: Option<PathBuf>,
    /// Run the programs that the server list names (`credential_command`). Without it a list that names one is refused,
    /// because a list of somebody else's could run anything
    #[arg(long, requires = "config")]
    pub(crate) allow_commands: bool,
    /// Use no servers at all: direct connects only
    #[arg(long)]
    pub(crate) no_servers: bool,
    /// Listen on, dial from and announce this address only
    #[arg(long, value_name = "IP")]
    pub(crate) bind: Option<IpAddr>,
    /// Use this only, may be given several times: listen on, dial from and announce the addresses of this interface, or
    /// this address, or those with this prefix. Default: all
    #[arg(long, value_name = "NAME|IP|PREFIX", conflicts_with = "bind")]
    pub(crate) interface: Vec<Which>,
    /// Do not use this, may be given several times: an interface, an address or a prefix
    #[arg(long, value_name = "NAME|IP|PREFIX", conflicts_with = "bind")]
    pub(crate) not_interface: Vec<Which>,
    /// TCP port to listen on, 0 for any
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Key file; made if missing. Without it the node has a new key each time
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// File with the keys that names had when they were first seen. Default: beside the key file, with `.names` behind its
    /// name, or ~/.p2pd/names
    #[arg(long, value_name = "FILE")]
    pub(crate) names: Option<PathBuf>,
    /// Give pipes to these node ids only, and search for them with many dials where a NAT asks for it. `paired`: to every
    /// peer of `p2pd peers`. Default: to anybody who knows the address
    #[arg(long, value_name = "NODE-ID|paired", value_delimiter = ',')]
    pub(crate) accept: Vec<Accepted>,
    /// Be found, or find the peer, by node id in the networks of this machine, without any server: by multicast DNS
    /// (RFC 6762). Who listens announces a tag that changes every 10 minutes, and that only those recognize who know the
    /// node id. Who calls may give a node id in place of the address
    #[arg(long)]
    pub(crate) lan: bool,
    /// Ask for plain pipes, and let peers ask for them
    #[arg(long)]
    pub(crate) plain: bool,
    /// Record what this node is told and does, for `replay`, in a new file of mode 0600. It holds the node's
    /// private key, unless the identity is a temporary one (no `--identity`), and the secrets of the pipes opened
    /// meanwhile: hand it only to people who may know them
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

impl Common {
    pub(crate) fn interfaces(&self) -> Interfaces {
        Interfaces { only: self.interface.clone(), not: self.not_interface.clone() }
    }
}

/// Choice to ask routers to open the listener's port, or not.
#[derive(Debug, Args)]
pub(crate) struct MapPort {
    /// Have the router in front of us open the listener's port, by PCP, NAT-PMP or UPnP, where a NAT hides us and a
    /// STUN server is in the list. This is the default, unless P2PD_FORBID_PUBLIC_SERVERS is set. With a number: ask for
    /// that external port. 443 and 80 are reached from networks that let out nothing else
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    map_port: Option<u16>,
    /// Ask no router for anything
    #[arg(long, conflicts_with = "map_port")]
    no_map_port: bool,
}

impl MapPort {
    pub(crate) fn wanted(&self) -> bool {
        self.map_port.is_some() || (!self.no_map_port && std::env::var_os(FORBID_PUBLIC).is_none())
    }

    /// The external port to ask for, 0 for the listener's.
    pub(crate) fn external(&self) -> u16 {
        self.map_port.unwrap_or_default()
    }
}

/// Port for the counters of a node.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct MetricsPort {
    /// Answer `GET /metrics` here, in the text form of OpenMetrics: counters of connections, bytes and refusals, without a
    /// peer's name. Whoever reaches it reads it
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve peers one after another: their bytes to standard output, standard input to them
    #[command(after_long_help = help::LISTEN)]
    Listen {
        /// Send every byte of every pipe back instead, for many peers at once
        #[arg(long, conflicts_with = "messages")]
        echo: bool,
        /// While others wait for their turn, end with a caller after so many seconds without a byte in either direction;
        /// with one that never said anything after 10. With `--each` so many seconds are a turn's longest time then
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, conflicts_with = "echo")]
        idle: Duration,
        /// With `--exec`: serve 64 callers at once, 8 of them from one address, rather than one after another
        #[arg(long, requires = "exec")]
        many: bool,
        /// Run a program for each caller, with what the caller sends as its standard input; what it prints is sent back. The
        /// peer's id is in P2PD_PEER. The program's arguments follow, so this comes last
        #[arg(long, value_name = "PROGRAM [ARGS]", num_args = 1.., allow_hyphen_values = true, conflicts_with_all = ["echo", "messages"])]
        exec: Vec<OsString>,
        /// Take this name, and hold it while listening: `p2pd connect NAME.peer` then finds this node. Needs
        /// `--identity`, because a name belongs to a key
        #[arg(long, value_name = "NAME")]
        name: Option<Name>,
        /// Show the address as a QR code too
        #[arg(long, conflicts_with_all = ["json", "quiet"])]
        qr: bool,
        #[command(flatten)]
        lines: Lines,
        #[command(flatten)]
        metrics: MetricsPort,
        #[command(flatten)]
        port: MapPort,
        #[command(flatten)]
        common: Common,
    },
    /// Connect to a peer: standard input to it, its bytes to standard output
    #[command(after_long_help = help::CONNECT)]
    Connect {
        /// Address that the peer's `listen` or `addr` printed, or the peer's name: NAME.peer. With `--lan` a node id is enough
        address: String,
        /// Strategies to try, in this order. A relay needs a TURN server in the list, and begins when the others
        /// have ended or after 3 s
        #[arg(long, value_delimiter = ',', default_value = "direct,reverse,punch,udp,relay")]
        strategies: Vec<StrategyName>,
        /// Give up after this many seconds
        #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
        timeout: Duration,
        /// Begin with the relay at once, on a session (`--streams`) that moves to what another strategy opens, and back if
        /// that breaks
        #[arg(long, conflicts_with_all = ["exec", "messages"])]
        relay_first: bool,
        /// Run a program with the connected socket as descriptor 3, and end as it ends. The pipe is a plain one, so
        /// the peer has to allow that (`--plain`). The program's arguments follow, so this comes last
        #[arg(long, value_name = "PROGRAM [ARGS]", num_args = 1.., allow_hyphen_values = true, conflicts_with_all = ["messages", "metrics"])]
        exec: Vec<OsString>,
        /// With `--exec`: the socket is the program's standard input and output too
        #[arg(long, requires = "exec")]
        stdio: bool,
        /// Reach a service that the peer's `expose` names. This is for `ssh -o ProxyCommand=...`
        #[arg(long, value_name = "SERVICE", conflicts_with_all = ["exec", "messages", "streams"])]
        service: Option<forward::ServiceName>,
        /// Talk on a stream of a session in place of a pipe: when the connection breaks or the network changes, it goes on
        /// over another one, and no byte is lost. `listen` needs no option for it
        #[arg(long, conflicts_with_all = ["exec", "messages"])]
        streams: bool,
        #[command(flatten)]
        lines: Lines,
        #[command(flatten)]
        metrics: MetricsPort,
        #[command(flatten)]
        common: Common,
    },
    /// Print the node id of a key file, which others need for `--accept`
    #[command(after_long_help = help::ID)]
    Id {
        /// Key file; made if missing
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
    /// Print this node's address: with `--identity` and `--port`, the one that `listen` with the same will have
    #[command(after_long_help = help::ADDR)]
    Addr {
        #[command(flatten)]
        common: Common,
    },
    /// Take, look up or give up a name, by which a node can be called in place of its address
    #[command(subcommand)]
    Name(NameCommand),
    /// Ask a peer for answers: by its brokers, which works whatever the NATs, or on a pipe
    #[command(after_long_help = help::PING)]
    Ping(Ping),
    /// Measure the NATs in front of this machine and say what they do
    #[command(after_long_help = help::NAT)]
    Nat {
        #[command(flatten)]
        common: Common,
    },
    /// Check a server list
    #[command(subcommand)]
    Servers(ServersCommand),
    /// Run listen, expose, daemon or serve as a service of this user, by a unit of systemd
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Find what in firewall, router, DNS, clock and server list stands in the way, and the command that mends it. Ends
    /// with 1 if something does
    #[command(after_long_help = help::DOCTOR)]
    Doctor(Doctor),
    /// List this machine's network interfaces, their addresses and gateways, and what the internet sees of each
    #[command(after_long_help = help::INTERFACES)]
    Interfaces {
        /// Server list, of which STUN servers are asked. Without it nobody is asked
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Open a port on the router in front of this machine, by PCP, NAT-PMP or UPnP, and hold it open until interrupted;
    /// or see and remove what is open
    #[command(after_long_help = help::MAP)]
    Map(Map),
    /// Ask time servers how far this machine's clock is off, and how sure that is
    #[command(after_long_help = help::CLOCK)]
    Clock {
        /// Server list, a TOML file with tables `ntp` (host, port). Without it, public servers of others are used
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Run a node behind a REST API on this machine, and a page at its address, until interrupted
    #[command(after_long_help = help::DAEMON)]
    Daemon(Daemon),
    /// Send and receive files: gone on with where they were cut off, and checked by hash
    #[command(subcommand)]
    File(File),
    /// Send files to whoever has the code that this prints, or to a peer
    #[command(after_long_help = help::SEND_CODE)]
    Send {
        /// Address or name of a peer that runs `receive`, in place of a code
        #[arg(long, value_name = "PEER")]
        to: Option<String>,
        #[command(flatten)]
        send: Send,
    },
    /// Receive files from the one sender that printed this code, or, without a code, as `file receive`
    #[command(after_long_help = help::RECEIVE_CODE)]
    Receive {
        /// Code that the sender's `p2pd send` printed
        code: Option<Code>,
        #[command(flatten)]
        receive: Receive,
    },
    /// Make two machines know each other for good: one prints a code, the other is told it
    #[command(after_long_help = help::PAIR)]
    Pair {
        /// Code that `p2pd pair` printed on the other machine
        code: Option<Code>,
        /// Name that the other machine gets here. Default: the beginning of its node id, or the name that it has
        #[arg(long, value_name = "NAME")]
        name: Option<Name>,
        #[command(flatten)]
        common: Common,
    },
    /// List the peers that this machine was paired with, or forget one
    #[command(after_long_help = help::PEERS)]
    Peers {
        #[command(subcommand)]
        command: Option<PeersCommand>,
    },
    /// Let peers reach services of this machine, TCP, UDP or Unix sockets, by `forward` and `connect --service`
    #[command(after_long_help = help::EXPOSE)]
    Expose(Expose),
    /// Listen here for services that a peer exposes: any number of connections, over one session that goes on when the
    /// network changes
    #[command(after_long_help = help::FORWARD)]
    Forward(Forward),
    /// Run the servers that peers need, a broker, a STUN and a TURN server, until interrupted
    #[command(after_long_help = help::SERVE)]
    Serve(Serve),
    /// Try every strategy between two nodes on this machine, with servers of its own; and a session, whose connection is cut
    /// while bytes are under way
    #[command(after_long_help = help::DEMO)]
    Demo {
        /// Mebibytes to send each way
        #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=4096))]
        size: u32,
    },
    /// Run a `--trace` file again, offline: ends with 0 if the node acts the same, with 1 and the first
    /// difference if it does not, with 2 for a file that is no trace
    #[command(after_long_help = help::REPLAY)]
    Replay {
        /// File that `--trace` wrote
        file: PathBuf,
    },
    /// Print a server list with every field there is, and the defaults
    #[command(after_long_help = help::CONFIG)]
    Config,
    /// Print a shell's completion script
    #[command(after_long_help = help::COMPLETIONS)]
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
    /// Show what the daemon of this machine holds: connections, sessions, relayed addresses
    #[command(after_long_help = help::STATUS)]
    Status(Status),
    /// Print the man page, or write those of all subcommands into a folder
    #[command(after_long_help = help::MAN)]
    Man {
        /// An existing folder
        folder: Option<PathBuf>,
    },
}

impl Command {
    /// Returns true if the command ends by itself when it is interrupted.
    pub(crate) fn serves(&self) -> bool {
        match self {
            Command::Listen { .. } | Command::Daemon(_) | Command::Serve(_) => true,
            Command::Expose(_) | Command::Forward(_) => true,
            Command::Map(map) => map.add.is_some(),
            Command::File(File::Receive(receive)) => !receive.once,
            Command::Receive { code: None, receive } => !receive.once,
            // It tells its receiver that it was interrupted.
            Command::File(File::Send { .. }) | Command::Send { .. } => true,
            _ => false,
        }
    }
}

/// Messages in place of bytes.
#[derive(Debug, Args)]
pub(crate) struct Lines {
    /// Send each line as a message, which arrives whole; the other side gives this option too. Over a relay each is
    /// acknowledged by itself, and their order is not kept
    #[arg(long)]
    messages: bool,
    /// With `--messages`: take no notice of messages in which this pattern is not found
    #[arg(long, value_name = "PATTERN", requires = "messages", value_parser = Pattern::new)]
    only: Option<Pattern>,
    /// With `--messages`: run a program for each, with the message as its standard input; what it prints is sent back.
    /// It has 60 s, and the peer's id in P2PD_PEER; after 64 messages it is run ten times a second. The program's arguments
    /// follow, so this comes last
    #[arg(long, value_name = "PROGRAM [ARGS]", num_args = 1.., allow_hyphen_values = true, requires = "messages")]
    each: Vec<OsString>,
}

impl Lines {
    /// The wish for messages, if there is one.
    pub(crate) fn wanted(self) -> Option<Wanted> {
        self.messages.then(|| Wanted { only: self.only.unwrap_or(Pattern::ANY), each: self.each })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum File {
    /// Send files and folders to a `p2pd file receive`. After a cut, the same command goes on where the receiver has got to
    #[command(after_long_help = help::SEND)]
    Send {
        /// Address that the peer's `file receive` printed
        address: String,
        #[command(flatten)]
        send: Send,
    },
    /// Print this node's address, and receive files and folders from whoever knows it, until interrupted. At a terminal the
    /// user is asked about each list
    #[command(after_long_help = help::RECEIVE)]
    Receive(Receive),
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Send {
    /// Files and folders; `-` is standard input
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Do not compress. Otherwise a file is, if its first MiB gets smaller by a tenth
    #[arg(long)]
    pub(crate) no_compress: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Receive {
    /// Folder to receive into, made if missing; nothing is written outside of it. What is not whole yet is
    /// `.NAME.SENDER.p2pd-part`, and is kept for its sender for a week, or a month with `--accept`
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Replace files that are there, once the new one is whole. Default: another file of a name that is taken is kept as
    /// `NAME (1)`, and its sender does not learn of it
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Take whatever is sent, without asking. Without it, and where nobody is at a terminal to be asked, files are taken
    /// and folders are not
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Make links of folders as they are sent, also those that lead out of the folder
    #[arg(long)]
    pub(crate) outside_links: bool,
    /// Take no more files, folders and links than these in all, however many connects
    #[arg(long, value_name = "NUMBER", default_value = "1000000")]
    pub(crate) max_files: u64,
    /// Take no more bytes than these from one connect, K, M, G and T are allowed behind the number
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = bytes)]
    pub(crate) max_size: u64,
    /// Take no more bytes than these in all, however many connects. Of the disk a tenth or 4 GiB are left free in any case
    #[arg(long, value_name = "BYTES", default_value = "256G", value_parser = bytes)]
    pub(crate) max_bytes: u64,
    /// End after one peer: with 0 if all it sent was received
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Actions on the peers of `p2pd pair`.
#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// Forget a peer, which is not told
    #[command(after_long_help = help::FORGET)]
    Forget {
        /// The peer's name
        name: Name,
    },
}

/// Actions on a name: 1 to 63 letters, digits and hyphens, `.peer` behind it or not.
#[derive(Debug, Subcommand)]
pub(crate) enum NameCommand {
    /// Take a name for the key of `--identity` and the address that `addr` prints, for a day. `listen --name` and
    /// `daemon --name` hold a name as long as they run
    #[command(after_long_help = help::REGISTER)]
    Register {
        /// The name
        name: Name,
        #[command(flatten)]
        common: Common,
    },
    /// Print the address that a name leads to
    #[command(after_long_help = help::RESOLVE)]
    Resolve {
        /// The name
        name: Name,
        #[command(flatten)]
        common: Common,
    },
    /// Give up a name that the key of `--identity` has
    #[command(after_long_help = help::RELEASE)]
    Release {
        /// The name
        name: Name,
        #[command(flatten)]
        common: Common,
    },
    /// Forget which key a name had, where it is right that it has another one now. Asks nobody
    #[command(after_long_help = help::FORGET_NAME)]
    Forget {
        /// The name
        name: Name,
        #[command(flatten)]
        common: Common,
    },
}

/// The API of the daemon.
#[derive(Debug, Args)]
pub(crate) struct Daemon {
    /// Loopback address to serve the API on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:12333")]
    pub(crate) api: SocketAddr,
    /// Serve the API on this Unix socket too, which its owner alone can use, without a token
    #[arg(long, value_name = "PATH")]
    pub(crate) unix: Option<PathBuf>,
    /// File with the token that calls have to show, in the header X-P2PD-Token or as `?token=`; made with mode 0600 if
    /// missing. Default: ~/.p2pd/token
    #[arg(long, value_name = "FILE", conflicts_with = "no_token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Ask for no token: every program of every user of this machine can use the API, so can pages of servers on
    /// 127.0.0.1, and images of web pages in browsers that send no Sec-Fetch-Site
    #[arg(long)]
    pub(crate) no_token: bool,
    /// With `--no-token`: `null` lets pages in files use the API. So can a sandboxed frame of any web page that is looked
    /// at meanwhile: it opens connections, reads and sends
    #[arg(long, value_name = "ORIGIN", requires = "no_token", value_parser = ["null"])]
    pub(crate) allow_origin: Option<String>,
    /// Take this name, and hold it while running. Needs `--identity`, because a name belongs to a key
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Receive files and folders into this folder, made if missing, as `p2pd receive` does. Each list waits for a yes by the
    /// API or on its page. Without it no files are received
    #[arg(long, value_name = "FOLDER")]
    pub(crate) files: Option<PathBuf>,
    /// Send no file of more bytes by the API, and take no more from one peer that sends files; K, M, G and T are allowed behind
    /// the number
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = bytes)]
    pub(crate) max_size: u64,
    /// Receive no more bytes than these in all. Of the disk a tenth or 4 GiB are left free in any case
    #[arg(long, value_name = "BYTES", default_value = "256G", value_parser = bytes, requires = "files")]
    pub(crate) max_bytes: u64,
    /// Let peers reach this service, as `p2pd expose` does, may be given several times: `ssh=127.0.0.1:22`. The peers are those
    /// of `--accept`
    #[arg(long, value_name = "NAME=PLACE")]
    pub(crate) expose: Vec<forward::Service>,
    /// Let anybody who knows the address reach the services of `--expose`
    #[arg(long, requires = "expose", conflicts_with = "accept")]
    pub(crate) expose_to_anyone: bool,
    #[command(flatten)]
    pub(crate) port: MapPort,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Actions on a server list.
#[derive(Debug, Subcommand)]
pub(crate) enum ServersCommand {
    /// Ask each server of the list, and print what it answers
    #[command(after_long_help = help::CHECK)]
    Check {
        #[command(flatten)]
        common: Common,
    },
}

/// Actions on units of the user's systemd.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Write the unit `p2pd-NAME.service` for a command line, which runs in the current folder, and begin it. A unit of this
    /// name that `install` made is replaced
    #[command(after_long_help = help::INSTALL)]
    Install {
        /// Name of the service, letters, digits and hyphens. Default: the command
        #[arg(long, value_name = "NAME")]
        name: Option<ServiceName>,
        /// Print the unit, and write nothing
        #[arg(long)]
        dry_run: bool,
        /// The command, one of listen, expose, daemon and serve, with its options
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// End a service, and remove its unit
    #[command(after_long_help = help::REMOVE)]
    Remove {
        /// Name of the service
        name: ServiceName,
    },
    /// List the services, and whether they run. Ends with 1 if one does not
    #[command(after_long_help = help::SERVICES)]
    Status,
}

/// Name of a service: 1 to 63 letters, digits and hyphens.
#[derive(Clone, Debug)]
pub(crate) struct ServiceName(pub(crate) String);

impl std::str::FromStr for ServiceName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        match (1..64).contains(&text.len()) && text.bytes().all(fits) {
            true => Ok(ServiceName(text.into())),
            false => Err("not 1 to 63 letters, digits and hyphens"),
        }
    }
}

/// An examination of this machine.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Run the commands that mend what stands in the way; each is shown in full and asked about
    #[arg(long)]
    pub(crate) fix: bool,
    /// Say yes to each of these commands
    #[arg(long, short, requires = "fix")]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) port: MapPort,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// A daemon to be asked.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Address of its API
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:12333")]
    pub(crate) api: SocketAddr,
    /// Ask it on this Unix socket
    #[arg(long, value_name = "PATH", conflicts_with_all = ["api", "token_file"])]
    pub(crate) unix: Option<PathBuf>,
    /// File with its token. Default: ~/.p2pd/token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Look again every second, until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").args(["list", "add", "remove"]).required(true)))]
pub(crate) struct Map {
    /// Print the router's table of mappings: UPnP only, the others have none to show
    #[arg(long)]
    pub(crate) list: bool,
    /// Open this port, and renew it until interrupted; then it is closed again
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) add: Option<u16>,
    /// Close what a run of this program left behind that was killed. What PCP opened only its maker can close: it
    /// ends with its lease
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) remove: Option<u16>,
    /// UDP rather than TCP
    #[arg(long, conflicts_with = "list")]
    pub(crate) udp: bool,
    /// Seconds to open it for at a time; it is renewed after half of them
    #[arg(long, value_name = "SECONDS", default_value_t = 7200, conflicts_with_all = ["list", "remove"], value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) lease: u32,
    /// Map to this address of the machine. Default: the first one of the default route
    #[arg(long, value_name = "IP")]
    pub(crate) bind: Option<IpAddr>,
    /// Server list, of which a STUN server is asked whether the router tells the truth about its address. Without it
    /// nobody is asked
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "remove"])]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Serve on this address only
    #[arg(long, value_name = "IP")]
    pub(crate) bind: Option<IpAddr>,
    /// A second address of this machine, beside `--bind`: the STUN server then measures NATs (RFC 5780)
    #[arg(long, value_name = "IP", requires = "bind")]
    pub(crate) second: Option<IpAddr>,
    /// Answer `GET /metrics` here, in the text form of OpenMetrics: counters of the servers. Whoever reaches it reads it
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Port of the MQTT broker, 0 for any
    #[arg(long, value_name = "PORT", default_value_t = 1883)]
    pub(crate) mqtt_port: u16,
    /// Port of the STUN server, 0 for any
    #[arg(long, value_name = "PORT", default_value_t = 3478)]
    pub(crate) stun_port: u16,
    /// Second port of the STUN server, which tells whether a NAT maps each port anew. Default: the one behind the first
    #[arg(long, value_name = "PORT")]
    pub(crate) stun_second_port: Option<u16>,
    /// Run no TURN server. By default there is one on the STUN server's ports, for the user `p2pd` with a password that is
    /// made once, kept in a file and written to the list. A relay carries what its users send, in this machine's name
    #[arg(long, conflicts_with_all = ["turn_password_file", "turn_user", "turn_users", "turn_secret", "turn_secret_file", "relay_ip", "turn_allow_private"])]
    pub(crate) no_turn: bool,
    /// File that keeps the password of the user `p2pd`. Default: `~/.p2pd/turn-password`
    #[arg(long, value_name = "FILE")]
    pub(crate) turn_password_file: Option<PathBuf>,
    /// Run the TURN server for this user in place of `p2pd`; may be given several times, and the first goes into the list.
    /// Every user of this machine can read it in the list of processes
    #[arg(long, value_name = "NAME:PASSWORD", value_parser = user)]
    pub(crate) turn_user: Vec<(String, String)>,
    /// Run the TURN server for the users in this file, one NAME:PASSWORD a line, which nobody else may read
    #[arg(long, value_name = "FILE")]
    pub(crate) turn_users: Option<PathBuf>,
    /// Run the TURN server for short-lived credentials made from this secret, as coturn's `use-auth-secret` has them. Every
    /// user of this machine can read it in the list of processes; in P2PD_TURN_SECRET only this one
    #[arg(long, value_name = "SECRET", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) turn_secret: Option<String>,
    /// The same with the secret in this file, which nobody else may read
    #[arg(long, value_name = "FILE", conflicts_with = "turn_secret")]
    pub(crate) turn_secret_file: Option<PathBuf>,
    /// Address under which peers reach the TURN server's sockets, perhaps one of each family. Default: `--bind`, or the
    /// addresses of the default routes
    #[arg(long, value_name = "IP")]
    pub(crate) relay_ip: Vec<IpAddr>,
    /// Relay to private addresses too, although the relay's own is public: users then reach the networks around it
    #[arg(long)]
    pub(crate) turn_allow_private: bool,
    /// Bytes a second that one allocation relays, in both directions together; what is beyond is dropped, and 0 is no
    /// limit. `25M` is 25 times 1,024 squared
    #[arg(long, value_name = "BYTES", default_value = "25000000", value_parser = bytes)]
    pub(crate) turn_rate: u64,
    /// The same of all allocations of one user
    #[arg(long, value_name = "BYTES", default_value = "100000000", value_parser = bytes)]
    pub(crate) turn_user_rate: u64,
    /// Write the server list that peers need. With a TURN server it holds its password or secret
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Name by which peers reach this machine, for the list. Default: the address served on
    #[arg(long, value_name = "HOST", requires = "write", value_parser = p2pd::servers::host)]
    pub(crate) host: Option<String>,
    /// Number of the broker in the list: it stands in addresses and must not change its meaning
    #[arg(long, default_value_t = 0)]
    pub(crate) id: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StrategyName {
    Direct,
    Reverse,
    Punch,
    Udp,
    Relay,
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::Direct => Strategy::Direct,
            StrategyName::Reverse => Strategy::Reverse,
            StrategyName::Punch => Strategy::Punch,
            StrategyName::Udp => Strategy::Udp,
            StrategyName::Relay => Strategy::Relay,
        }
    }
}

/// Names and passwords of TURN (RFC 8489): what does not fit into USERNAME, nobody could use.
pub(crate) fn user(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() && name.len() < 509 => {
            Ok((name.into(), password.into()))
        }
        _ => Err("not NAME:PASSWORD"),
    }
}

/// Powers of 1024.
fn bytes(text: &str) -> Result<u64, &'static str> {
    let power = text.bytes().last().and_then(|last| b"KMGT".iter().position(|unit| *unit == last));
    let (number, unit) = match power {
        Some(power) => (&text[..text.len() - 1], 1 << (10 * (power + 1))),
        None => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| "not a number of bytes")?;
    number.checked_mul(unit).ok_or("too many bytes")
}

/// `p2pd ping`.
#[derive(clap::Args, Debug)]
pub(crate) struct Ping {
    /// Address that the peer's `listen` or `addr` printed, or the peer's name: NAME.peer. With `--lan` a node id is enough
    pub(crate) address: String,
    /// Ask so often
    #[arg(short, long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Time between two questions
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// Wait so long for an answer
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Open a pipe and ask on it: `listen --echo` and `daemon` answer there
    #[arg(long)]
    pub(crate) pipe: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(d) if !d.is_zero() && d <= Duration::from_secs(3600) => Ok(d),
        _ => Err("between 0 and 3600 seconds".into()),
    }
}
