//! A list as it stands in its file: what each entry may say, and what it comes to.

use std::path::Path;
use std::time::Duration;

use p2pd_core::Transport;
use p2pd_core::text::shown;
use p2pd_core::turn::Lifetimes;
use p2pd_core::{NtpServer, StunServer};
use serde::Deserialize;

use super::broker::Mqtt;
use super::host::place;
use super::proxy;
use super::secure::Keys;
use super::{Servers, TurnCredential, TurnServer};

/// Reads a list's text; files that it names are sought in `folder`.
///
/// # Errors
/// Names the line or the entry where it is wrong. Values of the list are not repeated: they may be secrets.
pub(super) fn parse(text: &str, folder: &Path) -> Result<Servers, String> {
    let file: Format = toml::from_str(text).map_err(|why| wrong(text, &why))?;
    let (brokers, sources): (Vec<_>, Vec<_>) =
        entries("mqtt", file.mqtt, |m| m.broker(folder))?.into_iter().unzip();
    let logins = brokers.iter().zip(sources).filter_map(|(b, source)| Some((b.id, source?)));
    Ok(Servers {
        logins: logins.collect(),
        brokers,
        stun: entries("stun", file.stun, |s| {
            place(&s.host, s.port)?;
            Ok(StunServer { host: s.host, port: s.port })
        })?,
        turn: entries("turn", file.turn, |t| t.server(folder))?,
        proxy: file
            .proxy
            .map(|entry| entry.way_out(folder).map_err(|why| format!("[proxy]: {why}")))
            .transpose()?,
        ntp: entries("ntp", file.ntp, |n| {
            place(&n.host, n.port)?;
            Ok(NtpServer { host: n.host, port: n.port })
        })?,
    })
}

/// Reads one entry of `[[turn]]` as JSON, which opens no file: whoever gives it may have none to give.
///
/// # Errors
/// Says what is wrong with it. Its values are not repeated: they may be secrets.
pub(super) fn turn_entry(json: &str) -> Result<TurnServer, String> {
    let entry: Turn =
        serde_json::from_str(json).map_err(|why| shown(&without_values(&why.to_string())).to_string())?;
    if entry.ca.as_ref().is_some_and(|ca| !ca.contains("-----BEGIN")) {
        return Err("`ca` is the certificates themselves (PEM)".into());
    }
    entry.server(Path::new(""))
}

/// Returns the error in the list, and its position.
fn wrong(text: &str, why: &toml::de::Error) -> String {
    let message = shown(&without_values(why.message())).to_string();
    let Some(before) = why.span().and_then(|span| text.get(..span.start)) else { return message };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// A message of the parser's without the value that it is about: serde says `invalid type: string "secret", expected u16`.
fn without_values(message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(", ");
    let about = ["invalid type: ", "invalid value: ", "unknown variant "];
    let Some(about) = about.into_iter().find(|about| message.starts_with(about)) else { return message };
    match message.rsplit_once(", expected ") {
        Some((_, expected)) => format!("{}, expected {expected}", about.trim_end_matches([':', ' '])),
        None => about.trim_end_matches([':', ' ']).into(),
    }
}

fn entries<T, U>(
    table: &str,
    given: Vec<T>,
    entry: impl Fn(T) -> Result<U, String>,
) -> Result<Vec<U>, String> {
    let named =
        |(n, given)| entry(given).map_err(|why| format!("the {} entry of [[{table}]]: {why}", ordinal(n)));
    given.into_iter().enumerate().map(named).collect()
}

fn ordinal(n: usize) -> String {
    match n {
        0 => "first".into(),
        1 => "second".into(),
        2 => "third".into(),
        n => format!("{}th", n + 1),
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
    proxy: Option<proxy::Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    /// URL in place of the next three.
    url: Option<String>,
    host: Option<Box<str>>,
    port: Option<u16>,
    transport: Option<Over>,
    tls: Option<bool>,
    server_name: Option<Box<str>>,
    ca: Option<String>,
    pin: Option<String>,
    auth: Option<String>,
    user: Option<Box<str>>,
    password: Option<Box<str>>,
    secret: Option<Box<str>>,
    credential_command: Option<Vec<String>>,
    /// Seconds; coturn's options with the same names.
    permission_lifetime: Option<u32>,
    channel_lifetime: Option<u32>,
    alternates: Option<String>,
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

impl Turn {
    fn server(self, folder: &Path) -> Result<TurnServer, String> {
        let t = self;
        let mut keys =
            Keys { tls: t.tls, server_name: t.server_name, ca: t.ca, pin: t.pin, ..Keys::default() };
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
                let (tls, host, port, transport) = turn_url(&url).map_err(|why| format!("`url`: {why}"))?;
                keys.tls = Some(tls);
                (host, port, transport)
            }
            (None, Some(host)) => (host, t.port.unwrap_or(usual), t.transport.map(Transport::from)),
            (None, None) => return Err("no `host`".into()),
        };
        place(&host, port)?;
        let tls = keys.tls(&host, folder)?;
        if tls.is_some() && transport == Some(Transport::Udp) {
            return Err("TLS goes over TCP, not UDP".into());
        }
        let credential = match (t.user, t.password, t.secret, t.credential_command) {
            (Some(user), Some(password), None, None) => TurnCredential::Password { user, password },
            (None, None, Some(secret), None) => TurnCredential::Secret(secret),
            (None, None, None, Some(command)) if !command.is_empty() => TurnCredential::Command(command),
            (None, None, None, Some(_)) => return Err("an empty `credential_command`".into()),
            (None, None, None, None) if t.auth.is_some() => TurnCredential::Nobody,
            (None, None, None, None) => {
                return Err("no credentials; `auth = \"none\"` if the server wants none".into());
            }
            (Some(_), None, None, None) => return Err("a `user` without `password`".into()),
            (None, Some(_), None, None) => return Err("a `password` without `user`".into()),
            _ => return Err("one of `user` with `password`, `secret`, `credential_command`".into()),
        };
        match t.auth.as_deref() {
            None => {}
            Some("none") if credential == TurnCredential::Nobody => {}
            Some("none") => return Err("`auth = \"none\"`, or credentials, not both".into()),
            Some(_) => return Err("`auth` is \"none\", or not there".into()),
        }
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
        let alternates_anywhere = match t.alternates.as_deref() {
            None | Some("internet") => false,
            Some("anywhere") => true,
            Some(_) => return Err("`alternates` is \"internet\" or \"anywhere\"".into()),
        };
        Ok(TurnServer { host, port, transport, tls, credential, lifetimes, alternates_anywhere })
    }
}

/// Parts of a TURN server's URL: TLS, host, port, transport.
type TurnUrl = (bool, Box<str>, u16, Option<Transport>);

/// `turn:host`, `turn:host:port`, either with `?transport=udp` or `?transport=tcp`; the same with `turns:` (RFC 7065).
/// The first is true for `turns:`.
fn turn_url(url: &str) -> Result<TurnUrl, &'static str> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    let (tls, usual) = match scheme.to_ascii_lowercase().as_str() {
        "turn" => (false, stun_port()),
        "turns" => (true, turns_port()),
        _ => return Err("does not begin with turn: or turns:"),
    };
    let (place, transport) = match rest.split_once('?') {
        None => (rest, None),
        Some((place, "transport=udp")) => (place, Some(Transport::Udp)),
        Some((place, "transport=tcp")) => (place, Some(Transport::Tcp)),
        Some(_) => return Err("the only query is transport=udp or transport=tcp"),
    };
    let (host, port) = host_and_port(place)?;
    Ok((tls, host, port.unwrap_or(usual), transport))
}

/// `host`, `host:port`, `[IPv6]`, `[IPv6]:port`.
pub(super) fn host_and_port(place: &str) -> Result<(Box<str>, Option<u16>), &'static str> {
    let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']').ok_or("[ without ]")) {
        Some(bracketed) => {
            let (host, port) = bracketed?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| "no IPv6 address in brackets")?;
            (host, port)
        }
        None => place.find(':').map_or((place, ""), |at| place.split_at(at)),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => Some(port.parse().map_err(|_| "no port")?),
        None if port.is_empty() => None,
        None => return Err("something behind ]"),
    };
    Ok((host.into(), port))
}
