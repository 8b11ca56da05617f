//! What a stream to a server is wrapped in. The core only says so: TLS and WebSocket are the driver's to do, and what
//! the core sends and receives is what is inside.

use core::fmt;

use bytes::Bytes;

/// The layers around a stream to a server, from the outside in: TLS, then WebSocket.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wrap {
    /// The server's name or literal address, as it was configured.
    pub host: Box<str>,
    /// TLS, if any.
    pub tls: Option<Tls>,
    /// The path of a WebSocket (RFC 6455) that carries MQTT (subprotocol `mqtt`, MQTT 3.1.1 section 6), if any.
    pub websocket: Option<Box<str>>,
}

/// TLS to a server (RFC 8446, or RFC 5246 where the server has no newer).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tls {
    /// How the server proves who it is.
    pub trust: Trust,
    /// The name or literal address that is asked for (SNI, which knows names only) and that the certificate must be
    /// for. Default: the host's.
    pub name: Option<Box<str>>,
}

/// What makes a server's certificate good.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Trust {
    /// An authority that the driver knows: the system's, or where it has none the ones built in.
    Public,
    /// One of these authorities and no other: certificates in PEM.
    Authorities(Bytes),
    /// Its key alone, whoever made the certificate out, for whatever name and time: SHA-256 of the certificate's
    /// SubjectPublicKeyInfo in DER (as RFC 7469 section 2.4).
    Pinned([u8; 32]),
}

impl Tls {
    /// For the host's own name, by authorities that everybody knows.
    pub const PUBLIC: Tls = Tls { trust: Trust::Public, name: None };
}

/// Why there is no TLS with a server.
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
    /// A signature is wrong: under the certificate, though an authority that we know has the signer's name, or the
    /// server's own, which then has the certificate but not its key.
    BadSignature,
    /// The certificate is of no use for any other reason.
    BadCertificate,
    /// What we were given to check the server by is of no use: no name, or no authority.
    Settings,
    /// The server hung up, or what it sent is not TLS.
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
