//! Words on the streams of a session.
//!
//! The stream's tag says what is wanted: `stream/NAME` or `datagrams/NAME` for a service, `connect/HOST:PORT` for an
//! address that the exposer allows. The exposer's first byte is an [`Answer`]. Behind [`Answer::Open`] both directions
//! carry the service's bytes; datagrams carry their length before them, two bytes, big-endian.

use std::fmt;
use std::str::FromStr;

use p2pd_core::ProtocolTag;

/// Protocol that calls name, so that other programs refuse them before a session opens.
const PROTOCOL: &[u8] = b"p2pd-forward/1";
/// Code of a stream that ends because the connection at its other end was reset.
pub(super) const RESET: u32 = 1;
/// Code of a session that the exposer has no room for.
pub(super) const CROWDED: u32 = 2;

/// Returns the protocol that calls name.
pub(crate) fn protocol() -> Option<ProtocolTag> {
    ProtocolTag::new(PROTOCOL)
}

/// Name of a service: 1 to 64 letters, digits, dots, hyphens and underscores.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ServiceName(String);

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(good) {
            Ok(ServiceName(text.to_owned()))
        } else {
            Err("a service's name is 1 to 64 letters, digits, dots, hyphens and underscores".into())
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Host and port that a SOCKS client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Destination {
    pub(super) host: Host,
    pub(super) port: u16,
}

/// Host that is asked for, as the client gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Host {
    Ip(std::net::IpAddr),
    /// Lower case, without a dot at its end.
    Name(String),
}

impl Host {
    /// Returns the host of this text; `None` if it is neither an address nor a name of DNS.
    pub(super) fn new(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse::<std::net::IpAddr>() {
            return Some(Host::Ip(ip.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        // What looks like an address in another way of writing is none: resolvers would take it for one.
        let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
            || name.starts_with("0x");
        let parts = name.split('.').all(|part| !part.is_empty() && part.len() <= 63);
        ((1..=230).contains(&name.len()) && name.bytes().all(good) && parts && !numeric)
            .then_some(Host::Name(name))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => std::net::SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl FromStr for Destination {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(at) = text.parse::<std::net::SocketAddr>() {
            return Ok(Destination { host: Host::Ip(at.ip().to_canonical()), port: at.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        Ok(Destination { host: Host::new(host).ok_or(())?, port: port.parse().map_err(drop)? })
    }
}

/// Wish of a stream's opener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Stream(ServiceName),
    Datagrams(ServiceName),
    Connect(Destination),
}

impl Wish {
    /// Returns the tag of the stream.
    pub(super) fn tag(&self) -> Vec<u8> {
        match self {
            Wish::Stream(name) => format!("stream/{name}"),
            Wish::Datagrams(name) => format!("datagrams/{name}"),
            Wish::Connect(to) => format!("connect/{to}"),
        }
        .into_bytes()
    }

    /// Returns the wish that a tag stands for; `None` for other tags.
    pub(super) fn read(tag: &[u8]) -> Option<Self> {
        let (kind, rest) = std::str::from_utf8(tag).ok()?.split_once('/')?;
        match kind {
            "stream" => rest.parse().ok().map(Wish::Stream),
            "datagrams" => rest.parse().ok().map(Wish::Datagrams),
            "connect" => rest.parse().ok().map(Wish::Connect),
            _ => None,
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wish::Stream(name) | Wish::Datagrams(name) => name.fmt(f),
            Wish::Connect(to) => to.fmt(f),
        }
    }
}

/// Exposer's first byte on a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Open,
    Unknown,
    /// Nothing listens there.
    Refused,
    Unreachable,
    TimedOut,
    NotAllowed,
    Busy,
    IsDatagrams,
    IsStream,
}

impl Answer {
    const ALL: [Answer; 9] = [
        Answer::Open,
        Answer::Unknown,
        Answer::Refused,
        Answer::Unreachable,
        Answer::TimedOut,
        Answer::NotAllowed,
        Answer::Busy,
        Answer::IsDatagrams,
        Answer::IsStream,
    ];

    /// Returns the byte of the answer.
    pub(super) fn byte(self) -> u8 {
        self as u8
    }

    pub(super) fn read(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Open => "open",
            Answer::Unknown => "the peer exposes no service of this name",
            Answer::Refused => "the peer exposes it, but nothing listens there",
            Answer::Unreachable => "the peer does not reach it",
            Answer::TimedOut => "the peer reaches it, but it does not answer",
            Answer::NotAllowed => "the peer's --allow does not list it",
            Answer::Busy => "the peer has too many connections already",
            Answer::IsDatagrams => "the service is UDP: write udp: before the local port",
            Answer::IsStream => "the service is no UDP: leave udp: out",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_as_they_were_written_and_nothing_else_is_one() {
        let name = |text: &str| text.parse::<ServiceName>().unwrap();
        let to = |text: &str| text.parse::<Destination>().unwrap();
        for (wish, tag) in [
            (Wish::Stream(name("ssh")), "stream/ssh"),
            (Wish::Datagrams(name("a.b-c_9")), "datagrams/a.b-c_9"),
            (Wish::Connect(to("Intranet.Example.:80")), "connect/intranet.example:80"),
            (Wish::Connect(to("[::ffff:192.0.2.1]:80")), "connect/192.0.2.1:80"),
            (Wish::Connect(to("[2001:db8::1]:443")), "connect/[2001:db8::1]:443"),
        ] {
            assert_eq!(wish.tag(), tag.as_bytes());
            assert_eq!(Wish::read(tag.as_bytes()), Some(wish));
        }
        let long = format!("stream/{}", "n".repeat(65));
        for bad in [
            &b"stream"[..],
            b"stream/",
            b"stream/a/b",
            b"stream/a b",
            b"stream/\xff",
            b"other/a",
            b"connect/a",
            b"connect/a:",
            b"connect/a:70000",
            b"connect/:80",
            b"connect/a..b:80",
            b"connect/127.1:80",
            b"connect/2130706433:80",
            b"connect/0x7f000001:80",
            b"connect/a\n:80",
            long.as_bytes(),
        ] {
            assert_eq!(Wish::read(bad), None, "{}", bad.escape_ascii());
        }
        // The longest one is a tag of a session.
        let longest = [63, 63, 63, 38].map(|n| "n".repeat(n)).join(".");
        let tag = Wish::Connect(to(&format!("{longest}:65535"))).tag();
        assert!(tag.len() <= p2pd_core::pipe::session::MAX_TAG, "{}", tag.len());
        assert_eq!(Host::new(&format!("{longest}n")), None);
    }

    #[test]
    fn answers_are_read_by_their_bytes() {
        for (n, answer) in Answer::ALL.into_iter().enumerate() {
            assert_eq!((usize::from(answer.byte()), Answer::read(n as u8)), (n, Some(answer)));
        }
        assert_eq!(Answer::read(9), None);
        assert!(protocol().is_some());
    }
}
