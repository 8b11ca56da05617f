//! The server list, `servers.toml`.

mod secure;

use std::fmt::{self, Write};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use p2pd_core::turn::Lifetimes;
use p2pd_core::wire::Transport;
use p2pd_core::{Broker, NtpServer, StunServer, Tls};
use secure::Keys;
use serde::Deserialize;

/// Longer than any server list.
const MAX_FILE: u64 = 64 * 1024;
/// While this variable is set, the shipped list of public servers is not to be had, and routers are looked for only
/// from an address that was named. `tests/run` sets it.
pub const FORBID_PUBLIC: &str = "P2PD_FORBID_PUBLIC_SERVERS";

/// A list with every field there is, and the defaults: `p2pd config`.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The servers that a node uses.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Servers {
    /// MQTT brokers, in the order they are preferred.
    pub brokers: Vec<Broker>,
    /// STUN servers.
    pub stun: Vec<StunServer>,
    /// TURN servers.
    pub turn: Vec<TurnServer>,
    /// NTP servers.
    pub ntp: Vec<NtpServer>,
}

/// A TURN server (RFC 8656).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TurnServer {
    /// Host name or literal address.
    pub host: Box<str>,
    /// UDP and TCP port, not 0. TURN's own is 3478, with TLS 5349.
    pub port: u16,
    /// The only way to it. Default: UDP, and TCP where UDP gets no answer.
    pub transport: Option<Transport>,
    /// Whether and how the connection is to be TLS. Default: no.
    pub tls: Option<Tls>,
    /// Who we are to it.
    pub credential: TurnCredential,
    /// How long things last there; other than the RFC's only where the server was set so.
    pub lifetimes: Lifetimes,
}

/// Where credentials for a TURN server come from.
#[derive(Clone, PartialEq, Eq)]
pub enum TurnCredential {
    /// The server was set up with them.
    Password {
        /// The user's name.
        user: Box<str>,
        /// The user's password.
        password: Box<str>,
    },
    /// A secret of the server's, from which short-lived ones are made (coturn's `use-auth-secret`).
    Secret(Box<str>),
    /// A program and its arguments. It prints the name on its first line and the password on its second.
    Command(Vec<String>),
}

/// Without what is secret.
impl fmt::Debug for TurnCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TurnCredential::Password { user, .. } => write!(f, "Password({user:?}, ..)"),
            TurnCredential::Secret(_) => f.write_str("Secret(..)"),
            TurnCredential::Command(command) => write!(f, "Command({command:?})"),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format {
    #[serde(default)]
    mqtt: Vec<Mqtt>,
    #[serde(default)]
    stun: Vec<Stun>,
    #[serde(default)]
    turn: Vec<Turn>,
    #[serde(default)]
    ntp: Vec<Ntp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    /// In place of the next three.
    url: Option<String>,
    host: Option<Box<str>>,
    port: Option<u16>,
    transport: Option<Over>,
    tls: Option<bool>,
    server_name: Option<Box<str>>,
    ca: Option<String>,
    pin: Option<String>,
    user: Option<Box<str>>,
    password: Option<Box<str>>,
    secret: Option<Box<str>>,
    credential_command: Option<Vec<String>>,
    /// Seconds; coturn's options with the same names.
    permission_lifetime: Option<u32>,
    channel_lifetime: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Over {
    Udp,
    Tcp,
}

impl From<Over> for Transport {
    fn from(over: Over) -> Self {
        match over {
            Over::Udp => Transport::Udp,
            Over::Tcp => Transport::Tcp,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mqtt {
    id: u16,
    host: Box<str>,
    port: Option<u16>,
    tls: Option<bool>,
    server_name: Option<Box<str>>,
    ca: Option<String>,
    pin: Option<String>,
    websocket: Option<Box<str>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stun {
    host: Box<str>,
    #[serde(default = "stun_port")]
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ntp {
    host: Box<str>,
    #[serde(default = "ntp_port")]
    port: u16,
}

fn ntp_port() -> u16 {
    123
}

fn stun_port() -> u16 {
    3478
}

fn turns_port() -> u16 {
    5349
}

impl Servers {
    /// Reads a list from a file.
    ///
    /// # Errors
    /// Names the file, and the line where it is wrong.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse_in(&read_text(path)?, folder).map_err(|e| format!("{name}: {e}"))
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
        Self::parse_in(text, Path::new(""))
    }

    fn parse_in(text: &str, folder: &Path) -> Result<Self, String> {
        let file: Format = toml::from_str(text).map_err(|e| e.to_string())?;
        let stun = |s: Stun| StunServer { host: s.host, port: s.port };
        let named = |n: usize, kind| move |why| format!("the {} entry of [[{kind}]]: {why}", ordinal(n));
        let turn = file.turn.into_iter().enumerate().map(|(n, t)| t.server(folder).map_err(named(n, "turn")));
        let brokers =
            file.mqtt.into_iter().enumerate().map(|(n, m)| m.broker(folder).map_err(named(n, "mqtt")));
        Ok(Servers {
            turn: turn.collect::<Result<_, _>>()?,
            brokers: brokers.collect::<Result<_, _>>()?,
            stun: file.stun.into_iter().map(stun).collect(),
            ntp: file.ntp.into_iter().map(|n| NtpServer { host: n.host, port: n.port }).collect(),
        })
    }

    /// The list as a file's text, which [`parse`](Self::parse) reads back.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Broker { id, host, port, tls, websocket } in &self.brokers {
            let _ = writeln!(text, "[[mqtt]]\nid = {id}\nhost = {}\nport = {port}", quoted(host));
            if let Some(path) = websocket {
                let _ = writeln!(text, "websocket = {}", quoted(path));
            }
            let _ = writeln!(text, "{}", secure::to_text(tls.as_ref()));
        }
        for StunServer { host, port } in &self.stun {
            let _ = writeln!(text, "[[stun]]\nhost = {}\nport = {port}\n", quoted(host));
        }
        for TurnServer { host, port, transport, tls, credential, lifetimes } in &self.turn {
            let _ = writeln!(text, "[[turn]]\nhost = {}\nport = {port}", quoted(host));
            text.push_str(&secure::to_text(tls.as_ref()));
            if let Some(over) = transport {
                let over = if *over == Transport::Udp { "udp" } else { "tcp" };
                let _ = writeln!(text, "transport = \"{over}\"");
            }
            let usual = Lifetimes::default();
            for (name, is, usual) in [
                ("permission_lifetime", lifetimes.permission, usual.permission),
                ("channel_lifetime", lifetimes.channel, usual.channel),
            ] {
                if is != usual {
                    let _ = writeln!(text, "{name} = {}", is.as_secs());
                }
            }
            let _ = match credential {
                TurnCredential::Password { user, password } => {
                    writeln!(text, "user = {}\npassword = {}\n", quoted(user), quoted(password))
                }
                TurnCredential::Secret(secret) => writeln!(text, "secret = {}\n", quoted(secret)),
                TurnCredential::Command(command) => {
                    let command = toml::Value::from(command.clone());
                    writeln!(text, "credential_command = {command}\n")
                }
            };
        }
        for NtpServer { host, port } in &self.ntp {
            let _ = writeln!(text, "[[ntp]]\nhost = {}\nport = {port}\n", quoted(host));
        }
        text
    }

    /// Whether there is something in the list that strangers must not know.
    pub fn is_secret(&self) -> bool {
        !self.turn.is_empty()
    }
}

fn ordinal(n: usize) -> String {
    match n {
        0 => "first".into(),
        1 => "second".into(),
        2 => "third".into(),
        n => format!("{}th", n + 1),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A file's text, which names the file in its errors.
fn read_text(path: &Path) -> Result<String, String> {
    let name = path.display();
    let mut text = String::new();
    // A device tells no length and may never end.
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    read.map_err(|e| format!("{name}: {e}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("{name}: more than {MAX_FILE} bytes are no server list and no authorities"));
    }
    Ok(text)
}

impl Mqtt {
    fn broker(self, folder: &Path) -> Result<Broker, String> {
        let Mqtt { id, host, port, tls, server_name, ca, pin, websocket } = self;
        let tls = Keys { tls, server_name, ca, pin }.tls(&host, folder)?;
        let is_path = |path: &str| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
        if websocket.as_deref().is_some_and(|path| !is_path(path)) {
            return Err("`websocket` is a path, which begins with / and has no spaces".into());
        }
        let usual = match (&tls, &websocket) {
            (None, None) => 1883,
            (Some(_), None) => 8883,
            (None, Some(_)) => 80,
            (Some(_), Some(_)) => 443,
        };
        Ok(Broker { id, host, port: port.unwrap_or(usual), tls, websocket })
    }
}

impl Turn {
    fn server(self, folder: &Path) -> Result<TurnServer, String> {
        let t = self;
        let mut keys = Keys { tls: t.tls, server_name: t.server_name, ca: t.ca, pin: t.pin };
        let usual = if t.tls == Some(true) { turns_port() } else { stun_port() };
        let (host, port, transport) = match (t.url, t.host) {
            (Some(_), Some(_)) => return Err("`url` or `host`, not both".into()),
            (Some(_), None) if t.port.is_some() || t.transport.is_some() => {
                return Err("`url` has port and transport in it".into());
            }
            (Some(_), None) if keys.tls.is_some() => {
                return Err("whether `tls` is in the `url`: turns: or turn:".into());
            }
            (Some(url), None) => {
                keys.tls = Some(url.starts_with("turns:"));
                turn_url(&url).map_err(|why| format!("{url}: {why}"))?
            }
            (None, Some(host)) => (host, t.port.unwrap_or(usual), t.transport.map(Transport::from)),
            (None, None) => return Err("no `host`".into()),
        };
        if host.is_empty() || port == 0 {
            return Err("no host or port 0".into());
        }
        let tls = keys.tls(&host, folder)?;
        if tls.is_some() && transport == Some(Transport::Udp) {
            return Err("TLS goes over TCP, not UDP".into());
        }
        let credential = match (t.user, t.password, t.secret, t.credential_command) {
            (Some(user), Some(password), None, None) => TurnCredential::Password { user, password },
            (None, None, Some(secret), None) => TurnCredential::Secret(secret),
            (None, None, None, Some(command)) if !command.is_empty() => TurnCredential::Command(command),
            (None, None, None, Some(_)) => return Err("an empty `credential_command`".into()),
            (None, None, None, None) => return Err("no credentials".into()),
            (Some(_), None, None, None) => return Err("a `user` without `password`".into()),
            (None, Some(_), None, None) => return Err("a `password` without `user`".into()),
            _ => return Err("one of `user` with `password`, `secret`, `credential_command`".into()),
        };
        let mut lifetimes = Lifetimes::default();
        for (given, lifetime) in
            [(t.permission_lifetime, &mut lifetimes.permission), (t.channel_lifetime, &mut lifetimes.channel)]
        {
            match given {
                Some(0) => return Err("a lifetime of 0 seconds".into()),
                Some(seconds) => *lifetime = Duration::from_secs(seconds.into()),
                None => {}
            }
        }
        Ok(TurnServer { host, port, transport, tls, credential, lifetimes })
    }
}

/// `turn:host`, `turn:host:port`, either with `?transport=udp` or `?transport=tcp`; the same with `turns:` (RFC 7065).
fn turn_url(url: &str) -> Result<(Box<str>, u16, Option<Transport>), &'static str> {
    let (rest, usual) = match (url.strip_prefix("turn:"), url.strip_prefix("turns:")) {
        (Some(rest), _) => (rest, stun_port()),
        (None, Some(rest)) => (rest, turns_port()),
        (None, None) => return Err("does not begin with turn: or turns:"),
    };
    let (place, transport) = match rest.split_once('?') {
        None => (rest, None),
        Some((place, "transport=udp")) => (place, Some(Transport::Udp)),
        Some((place, "transport=tcp")) => (place, Some(Transport::Tcp)),
        Some(_) => return Err("the only query is transport=udp or transport=tcp"),
    };
    let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']').ok_or("[ without ]")) {
        Some(bracketed) => {
            let (host, port) = bracketed?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| "no IPv6 address in brackets")?;
            (host, port)
        }
        None => place.find(':').map_or((place, ""), |at| place.split_at(at)),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| "no port")?,
        None if port.is_empty() => usual,
        None => return Err("something behind ]"),
    };
    Ok((host.into(), port, transport))
}

const SHIPPED: &str = include_str!("servers.toml");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_their_default_ports_and_written_again() {
        let text =
            "[[mqtt]]\nid = 7\nhost = \"a\"\n[[stun]]\nhost = \"b\"\nport = 99\n[[ntp]]\nhost = \"c\"\n";
        let servers = Servers::parse(text).unwrap();
        assert_eq!(servers.brokers, [Broker::new(7, "a", 1883)]);
        assert_eq!(servers.stun, [StunServer { host: "b".into(), port: 99 }]);
        assert_eq!(servers.ntp, [NtpServer { host: "c".into(), port: 123 }]);
        assert_eq!(Servers::parse(&servers.to_text()).unwrap(), servers);
        assert_eq!(Servers::parse("").unwrap(), Servers::default());
    }

    #[test]
    fn turn_servers_are_read_with_their_credentials_and_written_again() {
        let text = r#"
            [[turn]]
            host = "a"
            user = "alice"
            password = "se\"cret"
            [[turn]]
            host = "b"
            port = 99
            transport = "tcp"
            secret = "north"
            permission_lifetime = 20
            [[turn]]
            url = "turn:[2001:db8::9]:5000?transport=udp"
            credential_command = ["pass", "show", "turn"]
            [[turn]]
            url = "turn:c.example"
            secret = "x"
        "#;
        let servers = Servers::parse(text).unwrap();
        let alice = TurnCredential::Password { user: "alice".into(), password: "se\"cret".into() };
        let command = TurnCredential::Command(vec!["pass".into(), "show".into(), "turn".into()]);
        let entry = |host: &str, port, transport, credential| TurnServer {
            host: host.into(),
            port,
            transport,
            tls: None,
            credential,
            lifetimes: Lifetimes::default(),
        };
        let secret = |text: &str| TurnCredential::Secret(text.into());
        let mut expected = [
            entry("a", 3478, None, alice),
            entry("b", 99, Some(Transport::Tcp), secret("north")),
            entry("2001:db8::9", 5000, Some(Transport::Udp), command),
            entry("c.example", 3478, None, secret("x")),
        ];
        expected[1].lifetimes.permission = Duration::from_secs(20);
        assert_eq!(servers.turn, expected);
        assert_eq!(Servers::parse(&servers.to_text()).unwrap(), servers);
        assert!(servers.is_secret() && !Servers::default().is_secret());
        let said = format!("{servers:?}");
        assert!(said.contains("alice") && !said.contains("cret\\\"") && !said.contains("north"), "{said}");
    }

    #[test]
    fn mistakes_in_turn_entries_are_named() {
        for (entry, word) in [
            ("", "first entry of [[turn]]: no `host`"),
            ("host = \"a\"", "no credentials"),
            ("host = \"\"\nsecret = \"s\"", "no host"),
            ("host = \"a\"\nport = 0\nsecret = \"s\"", "port 0"),
            ("host = \"a\"\nuser = \"u\"", "without `password`"),
            ("host = \"a\"\npassword = \"p\"", "without `user`"),
            ("host = \"a\"\nuser = \"u\"\npassword = \"p\"\nsecret = \"s\"", "one of"),
            ("host = \"a\"\ncredential_command = []", "empty `credential_command`"),
            ("host = \"a\"\nsecret = \"s\"\nchannel_lifetime = 0", "lifetime of 0"),
            ("host = \"a\"\ntransport = \"sctp\"\nsecret = \"s\"", "line 3"),
            ("host = \"a\"\nurl = \"turn:a\"\nsecret = \"s\"", "not both"),
            ("url = \"turn:a\"\nport = 5\nsecret = \"s\"", "in it"),
            ("url = \"stun:a\"\nsecret = \"s\"", "begin with turn:"),
            ("url = \"turn:a:b\"\nsecret = \"s\"", "no port"),
            ("url = \"turn:a?transport=tls\"\nsecret = \"s\"", "only query"),
            ("url = \"turn:[::1\"\nsecret = \"s\"", "[ without ]"),
            ("url = \"turn:[a]\"\nsecret = \"s\"", "no IPv6"),
            ("url = \"turn:[::1]5\"\nsecret = \"s\"", "behind ]"),
            ("url = \"turn:\"\nsecret = \"s\"", "no host"),
        ] {
            let error = Servers::parse(&format!("[[turn]]\n{entry}\n")).unwrap_err();
            assert!(error.contains(word), "{entry}: {error}");
        }
        let second = "[[turn]]\nhost = \"a\"\nsecret = \"s\"\n[[turn]]\n";
        assert!(Servers::parse(second).unwrap_err().contains("second entry"));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, word) in [
            ("[[mqtt]]\nhost = \"a\"\n", "id"),
            ("[[mqtt]]\nid = 70000\nhost = \"a\"\n", "line 2"),
            ("[[mqqt]]\nid = 1\n", "mqqt"),
            ("[[stun]]\nhost = 3\n", "line 2"),
            ("[[stun]\n", "line 1"),
        ] {
            let error = Servers::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_shipped_list_is_sound_and_says_what_it_is_worth() {
        let servers = Servers::parse(SHIPPED).unwrap();
        assert!(servers.brokers.len() >= 2 && servers.stun.len() >= 2 && servers.ntp.len() >= 3);
        let entries = servers.brokers.len() + servers.stun.len() + servers.ntp.len();
        assert_eq!(SHIPPED.matches("# unverified\n").count(), entries, "each entry is marked");
    }

    /// The example with one more line of a table uncommented.
    fn example(line: &str) -> String {
        assert_eq!(EXAMPLE.matches(&format!("\n#{line}\n")).count(), 1, "{line}");
        EXAMPLE.replacen(&format!("\n#{line}\n"), &format!("\n{line}\n"), 1)
    }

    #[test]
    fn the_example_has_every_field_and_the_defaults() {
        let servers = Servers::parse(EXAMPLE).unwrap();
        let counts = (servers.brokers.len(), servers.stun.len(), servers.turn.len(), servers.ntp.len());
        assert_eq!(counts, (1, 1, 1, 1));
        // What stands there as a default is one.
        for port in ["1883", "3478", "123"] {
            let text = EXAMPLE.replace(&format!("\n#port = {port}\n"), &format!("\nport = {port}\n"));
            assert_ne!(text, EXAMPLE);
            assert_eq!(Servers::parse(&text).unwrap(), servers, "{port}");
        }
        for line in ["permission_lifetime = 300", "channel_lifetime = 600"] {
            assert_eq!(Servers::parse(&example(line)).unwrap(), servers, "{line}");
        }
        // Alternatives are ones.
        let password = "user = \"alice\"\npassword = \"change me\"\n";
        for line in [
            "secret = \"change me\"",
            "credential_command = [\"/usr/local/bin/turn-credentials\", \"--short\"]",
            "transport = \"udp\"",
        ] {
            let alone = line.starts_with("transport");
            let text = if alone { example(line) } else { example(line).replacen(password, "", 1) };
            assert_ne!(Servers::parse(&text).unwrap().turn, servers.turn, "{line}");
        }
        let (before, url) = EXAMPLE.split_once("#[[turn]]\n").unwrap();
        let text = format!("{before}[[turn]]\n{}", url.replacen('#', "", 3));
        assert_eq!(Servers::parse(&text).unwrap().turn.len(), 2);
        // None is missing: the parser names all there are.
        let mut named = 0;
        for table in ["", "[[mqtt]]\n", "[[stun]]\n", "[[turn]]\n", "[[ntp]]\n"] {
            let said = Servers::parse(&format!("{table}nonsense = 1\n")).unwrap_err();
            let fields = said.split_once("expected ").unwrap_or_else(|| panic!("{said}")).1;
            for field in fields.split('`').skip(1).step_by(2) {
                let there = [format!("\n{field} = "), format!("\n#{field} = "), format!("\n[[{field}]]\n")];
                assert!(there.iter().any(|t| EXAMPLE.contains(t)), "{table}{field}");
                named += 1;
            }
        }
        assert!(named >= 21, "{named}");
    }
}
