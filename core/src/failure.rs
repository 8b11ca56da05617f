//! Reasons for which sockets, look-ups, proxies and TLS fail.

use core::fmt;

/// Cause of the failure of an operation on a socket or a name: the classes that a strategy treats differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IoFailure {
    /// `ECONNREFUSED`: the SYN arrived somewhere and was answered by RST or ICMP port unreachable.
    Refused,
    /// `ECONNRESET`, `EPIPE`: the other end broke the stream.
    Reset,
    /// No answer came in time.
    TimedOut,
    /// `EADDRINUSE`: the local port is taken.
    AddrInUse,
    /// `EADDRNOTAVAIL`: not our address, or this exact 4-tuple exists already.
    AddrNotAvailable,
    /// `EHOSTUNREACH`, `ENETUNREACH`: no route, or a router said so by ICMP.
    Unreachable,
    /// `EACCES`, `EPERM`: a local rule forbids it.
    NotPermitted,
    /// The name does not exist or has no address.
    NoSuchName,
    /// No more descriptors, ports or memory.
    Resources,
    /// The server has no TLS that is good enough.
    Tls(TlsFailure),
    /// The server has no WebSocket for MQTT there: its HTTP status, 0 where it sent no HTTP.
    NoWebSocket(u16),
    /// The server broke the rules of WebSocket.
    BadFrame,
    /// The proxy does not lead to the server.
    Proxy(ProxyFailure),
    /// Any other error number.
    Other(i32),
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoFailure::Refused => "connection refused",
            IoFailure::Reset => "connection reset",
            IoFailure::TimedOut => "no answer in time",
            IoFailure::AddrInUse => "local port already in use",
            IoFailure::AddrNotAvailable => "local address not available",
            IoFailure::Unreachable => "host or network unreachable",
            IoFailure::NotPermitted => "not permitted",
            IoFailure::NoSuchName => "no such host name",
            IoFailure::Resources => "out of sockets, ports or memory",
            IoFailure::BadFrame => "the server broke the rules of WebSocket",
            IoFailure::Tls(why) => return why.fmt(f),
            IoFailure::Proxy(why) => return why.fmt(f),
            IoFailure::NoWebSocket(0) => "no WebSocket there: the server does not answer as one",
            IoFailure::NoWebSocket(status) => {
                return write!(f, "no WebSocket there: the server answers with HTTP status {status}");
            }
            IoFailure::Other(errno) => return write!(f, "system error {errno}"),
        })
    }
}

impl std::error::Error for IoFailure {
    /// Returns the failure of the layer above TCP.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            IoFailure::Tls(why) => Some(why),
            IoFailure::Proxy(why) => Some(why),
            _ => None,
        }
    }
}

/// Failure of a proxy to lead to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ProxyFailure {
    /// The proxy itself is not reached: its name is unknown, nothing listens there, or no route leads there.
    Away,
    /// The server's name, or our user name or password, cannot be said to such a proxy.
    Settings,
    /// No proxy of this kind answers there.
    NotAProxy,
    /// The proxy's answer is longer than [`MAX_ANSWER`](crate::proxy::MAX_ANSWER).
    TooLong,
    /// The proxy hung up before it had answered.
    Closed,
    /// The proxy asks for a user name and a password, and we have none.
    LoginNeeded,
    /// The proxy does not take our user name and password.
    LoginRefused,
    /// The proxy asks who we are in a way that is unknown here (NTLM or Kerberos, for example).
    OtherLogin,
    /// Status of another refusal by an HTTP proxy.
    Http(u16),
    /// Reply of another refusal by a SOCKS5 proxy.
    Socks(u8),
}

impl fmt::Display for ProxyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyFailure::Away => "the proxy is not reached",
            ProxyFailure::Settings => {
                "the proxy cannot be told the server's name, or our user name or password"
            }
            ProxyFailure::NotAProxy => "what answers is no proxy of this kind",
            ProxyFailure::TooLong => "the proxy's answer is too long",
            ProxyFailure::Closed => "the proxy hung up before it had answered",
            ProxyFailure::LoginNeeded => "the proxy asks for a user name and a password",
            ProxyFailure::LoginRefused => "the proxy does not take the user name and password",
            ProxyFailure::OtherLogin => "the proxy asks for a login of a kind that is unknown here",
            ProxyFailure::Http(status) => {
                let why = match status {
                    403 | 405 => "it does not let us go there",
                    404 | 502 | 503 => "it does not reach the server",
                    504 => "the server does not answer it",
                    429 => "too many requests",
                    _ => return write!(f, "the proxy refuses with HTTP status {status}"),
                };
                return write!(f, "the proxy refuses with HTTP status {status}: {why}");
            }
            ProxyFailure::Socks(reply) => {
                let why = match reply {
                    1 => "it fails",
                    2 => "it does not let us go there",
                    3 | 4 => "it does not reach the server",
                    5 => "the server refused the connection",
                    6 => "the server does not answer it",
                    7 => "it opens no connections",
                    8 => "it does not know this kind of address",
                    _ => return write!(f, "the proxy refuses with SOCKS reply {reply}"),
                };
                return write!(f, "the proxy refuses with SOCKS reply {reply}: {why}");
            }
        })
    }
}

impl std::error::Error for ProxyFailure {}

/// Reason that there is no TLS with a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The certificate, or one above it, has expired.
    Expired,
    /// The certificate, or one above it, is not valid yet.
    NotYetValid,
    /// The certificate is for another name.
    WrongName,
    /// No authority that we know made the certificate out.
    UnknownAuthority,
    /// The key is not the pinned one.
    PinDiffers,
    /// A signature is wrong. Either the certificate's, though an authority that we know has the signer's name. Or the
    /// server's own, which then has the certificate but not its key.
    BadSignature,
    /// The certificate is of no use for any other reason.
    BadCertificate,
    /// The settings to check the server by are of no use: no name, or no authority.
    Settings,
    /// The server hung up, or its bytes are not TLS.
    NotTls,
    /// The server gave up, by this alert (RFC 8446 section 6).
    Alert(u8),
    /// The server broke the protocol, or nothing it offers is good enough for us.
    Protocol,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsFailure::Expired => "TLS: the server's certificate has expired",
            TlsFailure::NotYetValid => {
                "TLS: the server's certificate is not valid yet, or our clock is wrong"
            }
            TlsFailure::WrongName => "TLS: the server's certificate is for another name",
            TlsFailure::UnknownAuthority => "TLS: the server's certificate is from an unknown authority",
            TlsFailure::PinDiffers => "TLS: the server's key differs from the pin",
            TlsFailure::BadSignature => {
                "TLS: the server's certificate is from an authority that only has the name of a known one, or stolen"
            }
            TlsFailure::BadCertificate => {
                "TLS: the server's certificate cannot be used (an authority's own one, for example)"
            }
            TlsFailure::Settings => "TLS: no name or no authority to check the server by",
            TlsFailure::NotTls => "TLS: the server does not answer with TLS",
            TlsFailure::Alert(code) => return write!(f, "TLS: the server refused with alert {code}"),
            TlsFailure::Protocol => "TLS: the server broke the protocol or offers nothing good enough",
        })
    }
}

impl std::error::Error for TlsFailure {}
