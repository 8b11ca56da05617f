//! The way to a server through a proxy: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).
//!
//! [`ProxyHandshake`] is a machine of its own, which a driver runs on the stream to the proxy before anything else:
//! TLS and WebSocket go through the tunnel to the server. Names of servers are looked up by the proxy, so that a home
//! without a name server has a way out too. A proxy is a stranger: it is read [`MAX_ANSWER`] bytes at most, not a byte
//! beyond its answer, and until the dial's deadline only.

pub use crate::failure::ProxyFailure;

use core::fmt::Write;
use core::mem;
use std::net::IpAddr;

use bytes::Bytes;
use data_encoding::BASE64;

use crate::failure::IoFailure;
use crate::login::Login;

/// Longest answer of a proxy, its refusals of all kinds included.
pub const MAX_ANSWER: usize = 8 * 1024;
/// Longest name, user name and password that SOCKS5 can say.
const MAX_SOCKS: usize = 255;

/// A proxy, which opens streams to servers in our place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
// Exhaustive: what a URL of a proxy has.
pub struct Proxy {
    /// Protocol of the proxy.
    pub kind: ProxyKind,
    /// Host name or literal address.
    pub host: Box<str>,
    /// TCP port, not 0. There is no usual one for HTTP; that of SOCKS is 1080.
    pub port: u16,
    /// User name and password, if the proxy asks for them. Both go to it in the clear.
    pub login: Option<Login>,
}

/// Protocol of a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
// Exhaustive: a driver has to speak each.
pub enum ProxyKind {
    /// HTTP, which is asked to CONNECT.
    Http,
    /// SOCKS5.
    Socks5,
}

impl Proxy {
    /// Returns true if the proxy can be asked for a server with this name.
    pub fn can_reach(&self, host: &str) -> bool {
        ProxyHandshake::new(self, host, 1).is_ok()
    }

    /// Host and port that are dialled on the way to a server.
    pub(crate) fn first<'a>(proxy: Option<&'a Proxy>, host: &'a str, port: u16) -> (&'a str, u16) {
        proxy.map_or((host, port), |proxy| (&proxy.host, proxy.port))
    }

    /// The reason why a dial failed, with the proxy's name to it if it was the proxy that was not reached.
    pub(crate) fn blame(proxy: Option<&Proxy>, why: IoFailure) -> IoFailure {
        match why {
            IoFailure::Refused | IoFailure::Unreachable | IoFailure::NoSuchName if proxy.is_some() => {
                IoFailure::Proxy(ProxyFailure::Away)
            }
            why => why,
        }
    }
}

/// Handshake with a proxy, until the connection to the server is open.
///
/// ```
/// use p2pd_core::proxy::{Proxy, ProxyHandshake, ProxyKind};
///
/// let proxy = Proxy { kind: ProxyKind::Http, host: "proxy.test".into(), port: 3128, login: None };
/// let mut handshake = ProxyHandshake::new(&proxy, "broker.test", 1883).unwrap();
/// let request = handshake.poll_transmit().unwrap();
/// assert_eq!(request, "CONNECT broker.test:1883 HTTP/1.1\r\nHost: broker.test:1883\r\n\r\n");
/// for byte in b"HTTP/1.1 200 OK\r\n\r\n" {
///     assert_eq!(handshake.wants(), 1);
///     handshake.handle(&[*byte]).unwrap();
/// }
/// assert_eq!(handshake.wants(), 0, "the way is open");
/// ```
#[derive(Debug)]
pub struct ProxyHandshake {
    state: State,
    out: Option<Bytes>,
    /// Bytes of the answer so far, all in all.
    heard: usize,
}

#[derive(Debug)]
enum State {
    /// The head of an HTTP answer.
    Head {
        head: Vec<u8>,
        login: bool,
    },
    /// A part of a SOCKS5 answer, of this length.
    Socks {
        part: Vec<u8>,
        len: usize,
        next: Socks,
    },
    Open,
    Failed(ProxyFailure),
}

/// The part of a SOCKS5 answer that is read.
#[derive(Debug)]
enum Socks {
    /// The method that the proxy chose, and what follows: our login, our request.
    Method { login: Option<Bytes>, request: Bytes },
    /// Reply of the proxy to the login; then follows our request.
    Login { request: Bytes },
    /// Version and reply.
    Reply,
    /// Reserved byte, kind of its own address, and that address's first byte.
    Kind,
    /// The rest of it.
    Rest,
}

impl ProxyHandshake {
    /// Asks for the server with this name or address.
    ///
    /// # Errors
    /// [`ProxyFailure::Settings`].
    pub fn new(proxy: &Proxy, host: &str, port: u16) -> Result<Self, ProxyFailure> {
        if !(1..=MAX_SOCKS).contains(&host.len()) || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ProxyFailure::Settings);
        }
        let login = proxy.login.as_ref();
        let (state, out) = match proxy.kind {
            ProxyKind::Http => {
                let request = http_request(host, port, login)?;
                (State::Head { head: Vec::new(), login: login.is_some() }, request)
            }
            ProxyKind::Socks5 => {
                let (login, request) = (login.map(socks_login).transpose()?, socks_request(host, port));
                let methods: &[u8] = if login.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
                (Socks::Method { login, request }.of(2), Bytes::from_static(methods))
            }
        };
        Ok(ProxyHandshake { state, out: Some(out), heard: 0 })
    }

    /// Returns the bytes to send to the proxy next, if any.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.out.take()
    }

    /// Most bytes that may be read from the proxy next; what comes behind its answer is the server's. Zero: the way is
    /// open, or will not be.
    pub fn wants(&self) -> usize {
        match &self.state {
            State::Head { .. } => 1,
            State::Socks { part, len, .. } => len - part.len(),
            State::Open | State::Failed(_) => 0,
        }
    }

    /// The proxy sent this; no more than is [wanted](Self::wants).
    ///
    /// # Errors
    /// Why there will be no way.
    pub fn handle(&mut self, data: &[u8]) -> Result<(), ProxyFailure> {
        for byte in data {
            self.heard += 1;
            if self.heard > MAX_ANSWER {
                self.state = State::Failed(ProxyFailure::TooLong);
            }
            match self.byte(*byte) {
                Ok(()) => {}
                Err(why) => {
                    self.state = State::Failed(why);
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8) -> Result<(), ProxyFailure> {
        match &mut self.state {
            State::Head { head, login } => {
                head.push(byte);
                if !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
                    return Err(ProxyFailure::NotAProxy);
                }
                // A line may end without CR (RFC 9112 section 2.2).
                if !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
                    return Ok(());
                }
                match judge(head, *login)? {
                    true => self.state = State::Open,
                    false => head.clear(),
                }
                Ok(())
            }
            State::Socks { part, len, .. } => {
                part.push(byte);
                if part.len() < *len {
                    return Ok(());
                }
                match mem::replace(&mut self.state, State::Open) {
                    State::Socks { part, next, .. } => self.part(&part, next),
                    _ => Ok(()),
                }
            }
            State::Failed(why) => Err(*why),
            State::Open => Err(ProxyFailure::NotAProxy),
        }
    }

    /// A part of a SOCKS5 answer is whole.
    fn part(&mut self, part: &[u8], what: Socks) -> Result<(), ProxyFailure> {
        self.state = match (what, part) {
            (Socks::Method { request, .. }, [5, 0]) => {
                self.out = Some(request);
                Socks::Reply.of(2)
            }
            (Socks::Method { login: Some(login), request }, [5, 2]) => {
                self.out = Some(login);
                Socks::Login { request }.of(2)
            }
            (Socks::Method { login: None, .. }, [5, 0xff]) => return Err(ProxyFailure::LoginNeeded),
            (Socks::Method { .. }, [5, 0xff]) => return Err(ProxyFailure::OtherLogin),
            // RFC 1929 has version 1; some proxies repeat SOCKS's.
            (Socks::Login { request }, [1 | 5, 0]) => {
                self.out = Some(request);
                Socks::Reply.of(2)
            }
            (Socks::Login { .. }, [1 | 5, _]) => return Err(ProxyFailure::LoginRefused),
            (Socks::Reply, [5, 0]) => Socks::Kind.of(3),
            (Socks::Reply, [5, reply]) => return Err(ProxyFailure::Socks(*reply)),
            (Socks::Kind, [_, 1, _]) => Socks::Rest.of(3 + 2),
            (Socks::Kind, [_, 4, _]) => Socks::Rest.of(15 + 2),
            (Socks::Kind, [_, 3, length]) => Socks::Rest.of(usize::from(*length) + 2),
            (Socks::Rest, _) => State::Open,
            _ => return Err(ProxyFailure::NotAProxy),
        };
        Ok(())
    }
}

impl Socks {
    fn of(self, len: usize) -> State {
        State::Socks { part: Vec::with_capacity(len), len, next: self }
    }
}

fn http_request(host: &str, port: u16, login: Option<&Login>) -> Result<Bytes, ProxyFailure> {
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
    if let Some(login) = login {
        // RFC 7617 section 2: what is before the first colon is the user's name.
        if login.user().contains(':') {
            return Err(ProxyFailure::Settings);
        }
        let pair = format!("{}:{}", login.user(), login.password().unwrap_or_default());
        let _ = write!(request, "Proxy-Authorization: Basic {}\r\n", BASE64.encode(pair.as_bytes()));
    }
    request.push_str("\r\n");
    Ok(request.into())
}

fn socks_login(login: &Login) -> Result<Bytes, ProxyFailure> {
    let mut out = vec![1];
    for text in [login.user(), login.password().unwrap_or_default()] {
        let len = u8::try_from(text.len()).map_err(|_| ProxyFailure::Settings)?;
        out.push(len);
        out.extend_from_slice(text.as_bytes());
    }
    Ok(out.into())
}

fn socks_request(host: &str, port: u16) -> Bytes {
    let mut out = vec![5, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(ip)) => {
            out.push(1);
            out.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            // At most MAX_SOCKS bytes, as was looked at.
            out.extend([3, host.len() as u8]);
            out.extend_from_slice(host.as_bytes());
        }
    }
    out.extend(port.to_be_bytes());
    out.into()
}

/// True: the way is open. False: it is an answer before the answer (RFC 9110 section 15.2).
fn judge(head: &[u8], login: bool) -> Result<bool, ProxyFailure> {
    let status = head.get(9..12).and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
    let status: u16 = status.filter(|_| head[8] == b' ').ok_or(ProxyFailure::NotAProxy)?;
    match status {
        100 | 102..=199 => Ok(false),
        200..=299 => Ok(true),
        407 if !offers_basic(head) => Err(ProxyFailure::OtherLogin),
        // Tinyproxy says 401 to a wrong password.
        401 | 407 if login => Err(ProxyFailure::LoginRefused),
        401 | 407 => Err(ProxyFailure::LoginNeeded),
        status => Err(ProxyFailure::Http(status)),
    }
}

/// Returns true if the proxy asks for what we can give, or does not say what it asks for.
fn offers_basic(head: &[u8]) -> bool {
    let asks = head.split(|b| *b == b'\n').filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = line.split_at(colon);
        name.eq_ignore_ascii_case(b"proxy-authenticate").then_some(value)
    });
    let mut asks = asks.peekable();
    let basic = |value: &[u8]| {
        let mut words = value.split(|b| !b.is_ascii_alphanumeric());
        words.any(|word| word.eq_ignore_ascii_case(b"basic"))
    };
    asks.peek().is_none() || asks.any(basic)
}

#[cfg(test)]
mod tests;
