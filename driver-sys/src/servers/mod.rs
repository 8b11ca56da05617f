//! The server list, `servers.toml`. Lists are handed on among people, so that one may be anybody's: it makes us ask
//! servers, and nothing else.
//!
//! ```no_run
//! use p2pd_core::{Config, SecretKey};
//! use p2pd_sys::servers::Servers;
//!
//! # fn example() -> Result<(), String> {
//! let key = SecretKey::from_bytes(p2pd_sys::random_seed().map_err(|e| e.to_string())?);
//! let mut config = Config::new(key);
//! Servers::read("servers.toml".as_ref())?.apply(&mut config)?;
//! # Ok(())
//! # }
//! ```
//!
//! Programs that an entry names (`credential_command`) are never run here: a node asks for their output by
//! [`Event::LoginWanted`](p2pd_core::Event::LoginWanted), and who trusts the list runs them.

mod broker;
mod folder;
mod format;
mod host;
mod login;
mod proxy;
mod secure;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use p2pd_core::Transport;
use p2pd_core::turn::{Credentials, Lifetimes};
use p2pd_core::{Broker, Config, Login, NtpServer, ServerRef, StunServer, Tls, TurnAuth};

pub use host::host;
pub use proxy::WayOut;

/// While this variable is set, the shipped list of public servers is not to be had, and routers are looked for only
/// from an address that was named. `tests/run` sets it.
pub const FORBID_PUBLIC: &str = "P2PD_FORBID_PUBLIC_SERVERS";

/// A list with every field there is, and the defaults: `p2pd config`.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The servers that a node uses.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
// Exhaustive: a server list has these sections.
pub struct Servers {
    /// MQTT brokers, in the order they are preferred.
    pub brokers: Vec<Broker>,
    /// Sources of the brokers' logins that expire, by the brokers' ids.
    pub logins: BTreeMap<u16, LoginSource>,
    /// STUN servers.
    pub stun: Vec<StunServer>,
    /// TURN servers.
    pub turn: Vec<TurnServer>,
    /// NTP servers.
    pub ntp: Vec<NtpServer>,
    /// The way to brokers and, over TCP, to TURN servers. `None`: the list says nothing of it.
    pub proxy: Option<WayOut>,
}

/// A TURN server (RFC 8656).
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: an entry of a server list.
pub struct TurnServer {
    /// Host name or literal address.
    pub host: Box<str>,
    /// UDP and TCP port, not 0. TURN's own is 3478, with TLS 5349.
    pub port: u16,
    /// The only way to it. Default: UDP, and TCP where UDP gets no answer.
    pub transport: Option<Transport>,
    /// TLS, and how its certificate is judged. Default: none.
    pub tls: Option<Tls>,
    /// User and password, or a way to them.
    pub credential: TurnCredential,
    /// Lifetimes of what is made there; other than the RFC's only where the server was set so.
    pub lifetimes: Lifetimes,
    /// Permits the server to redirect us (300) to any address. Default: no, to addresses of the internet only.
    pub alternates_anywhere: bool,
}

/// Source of the credentials for a TURN server.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TurnCredential {
    /// No credentials: the server relays for anyone.
    Nobody,
    /// The server was set up with them.
    Password {
        /// The user's name.
        user: Box<str>,
        /// The user's password.
        password: Box<str>,
    },
    /// A secret of the server's, from which short-lived ones are made (coturn's `use-auth-secret`).
    Secret(Box<str>),
    /// A program and its arguments. It prints the name on its first line and the password on its second. It is run only
    /// by whoever trusts the list with that.
    Command(Vec<String>),
}

/// Source of a broker's login, which is asked again once the broker does not take what came from it.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: whoever asks for a login has to know each.
pub enum LoginSource {
    /// A program and its arguments, which prints the user name and the password, each on a line.
    Command(Vec<String>),
    /// A file with the password, in the list's folder or below it.
    File {
        /// The user's name.
        user: Box<str>,
        /// The list's folder.
        folder: PathBuf,
        /// The file's name, as the list has it.
        name: String,
    },
}

/// Omits what is secret.
impl fmt::Debug for TurnCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TurnCredential::Nobody => f.write_str("Nobody"),
            TurnCredential::Password { user, .. } => write!(f, "Password({user:?}, ..)"),
            TurnCredential::Secret(_) => f.write_str("Secret(..)"),
            TurnCredential::Command(command) => write!(f, "Command({command:?})"),
        }
    }
}

impl TurnServer {
    /// Reads an entry of a list's `[[turn]]` as JSON, with the same keys and rules; it may name no file.
    ///
    /// # Errors
    /// Says what is wrong with it. Its values are not repeated.
    pub fn from_json(text: &str) -> Result<Self, String> {
        format::turn_entry(text)
    }

    /// Returns the server as a node uses it. A node asks for the login that a program prints by
    /// [`Event::LoginWanted`](p2pd_core::Event::LoginWanted).
    pub fn for_node(&self) -> p2pd_core::TurnServer {
        let auth = match &self.credential {
            TurnCredential::Nobody => TurnAuth::Nobody,
            TurnCredential::Password { user, password } => Credentials::new(user, password).into(),
            TurnCredential::Secret(secret) => TurnAuth::Secret(secret.clone()),
            TurnCredential::Command(_) => TurnAuth::Renewed(None),
        };
        let TurnServer { host, port, transport, tls, lifetimes, alternates_anywhere, .. } = self.clone();
        p2pd_core::TurnServer {
            host,
            port,
            transport,
            tls,
            auth,
            lifetimes,
            alternates_anywhere,
            proxy: None,
        }
    }
}

impl LoginSource {
    /// Reads the login as it is now. `None`: a program prints it, which this module does not run.
    pub fn read(&self) -> Option<Result<Login, String>> {
        match self {
            LoginSource::Command(_) => None,
            LoginSource::File { user, folder, name } => {
                Some(login::password_file(folder, name).map(|password| Login::new(user, Some(&password))))
            }
        }
    }
}

impl Servers {
    /// Gives a node the servers of this list, and the way out to them.
    ///
    /// # Errors
    /// As those of [`set_way_out`](Self::set_way_out).
    pub fn apply(&self, config: &mut Config) -> Result<(), String> {
        (config.brokers, config.stun, config.ntp) =
            (self.brokers.clone(), self.stun.clone(), self.ntp.clone());
        config.turn = self.turn.iter().map(TurnServer::for_node).collect();
        self.set_way_out(config)
    }

    /// Returns the source of the login that a node [asks for](p2pd_core::Event::LoginWanted); `None`: its login stays
    /// as it is.
    pub fn source(&self, server: ServerRef) -> Option<LoginSource> {
        match server {
            ServerRef::Broker(id) => self.logins.get(&id).cloned(),
            ServerRef::Turn(place) => match &self.turn.get(usize::from(place))?.credential {
                TurnCredential::Command(command) => Some(LoginSource::Command(command.clone())),
                _ => None,
            },
        }
    }

    /// Reads a list from a file, and from files in its folder that it names; nothing else is opened or run.
    ///
    /// # Errors
    /// Names the file, and the line where it is wrong. What stands in the list is escaped.
    pub fn read(path: &Path) -> Result<Self, String> {
        let beside = path.parent().unwrap_or(Path::new(""));
        let text = folder::list(path)?;
        format::parse(&text, beside).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The shipped list: well-known public servers, none of them verified yet.
    ///
    /// # Errors
    /// While [`FORBID_PUBLIC`] is set in the environment.
    pub fn shipped() -> Result<Self, String> {
        if std::env::var_os(FORBID_PUBLIC).is_some() {
            return Err(format!("the public servers are forbidden by {FORBID_PUBLIC}: give --config"));
        }
        Self::parse(SHIPPED).map_err(|e| format!("the shipped server list: {e}"))
    }

    /// Reads a list; files that it names are sought in the working directory.
    ///
    /// # Errors
    /// Names the line or the entry where it is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        format::parse(text, Path::new(""))
    }

    /// Gives a node the way out of this list or, where it says nothing of it, that of the environment.
    ///
    /// # Errors
    /// Names the variable of the environment that is of no use.
    pub fn set_way_out(&self, config: &mut Config) -> Result<(), String> {
        match &self.proxy {
            Some(way) => way.apply(config),
            None if config.brokers.is_empty() && config.turn.is_empty() => {}
            None => WayOut::of_environment()?.apply(config),
        }
        Ok(())
    }

    /// True if there is something in the list that strangers must not know.
    pub fn is_secret(&self) -> bool {
        let tells = |b: &Broker| {
            let key = b.tls.as_ref().is_some_and(|tls| tls.client.is_some());
            b.login.is_some() || !b.headers.is_empty() || key
        };
        let proxy = self.proxy.as_ref().and_then(|way| way.proxy.as_ref());
        !self.turn.is_empty() || proxy.is_some_and(|p| p.login.is_some()) || self.brokers.iter().any(tells)
    }
}

const SHIPPED: &str = include_str!("servers.toml");

#[cfg(test)]
mod tests;
