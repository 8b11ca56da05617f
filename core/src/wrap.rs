//! Layers around a stream to a server. The core only names them: proxies, TLS and WebSocket are the driver's work. The
//! core sends and receives the bytes inside the layers.

pub use crate::failure::TlsFailure;

use core::fmt;

use bytes::Bytes;

use crate::proxy::Proxy;

/// The layers around a stream to a server, from the outside in: the proxy's tunnel, TLS, then WebSocket.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
// Exhaustive: a driver has to carry out every layer.
pub struct Wrap {
    /// The server's name or literal address, as it was configured.
    pub host: Box<str>,
    /// The server's port.
    pub port: u16,
    /// The proxy that the stream leads to, if any: it is asked for the server first.
    pub proxy: Option<Proxy>,
    /// TLS, if any.
    pub tls: Option<Tls>,
    /// The path of a WebSocket (RFC 6455) that carries MQTT (subprotocol `mqtt`, MQTT 3.1.1 section 6), if any.
    pub websocket: Option<Box<str>>,
    /// Further fields of the WebSocket's HTTP request.
    pub headers: Vec<Header>,
}

/// A field of an HTTP request (RFC 9110 section 5). Its value may be a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Header {
    pub(crate) name: Box<str>,
    pub(crate) value: Box<str>,
}

impl Header {
    /// Returns a field; `None` if it cannot be sent, or is one of the WebSocket's own.
    pub fn new(name: &str, value: &str) -> Option<Self> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let own = ["host", "connection", "upgrade"].iter().any(|own| name.eq_ignore_ascii_case(own))
            || name.to_ascii_lowercase().starts_with("sec-websocket-");
        let fits = (1..=64).contains(&name.len()) && value.len() <= 4096;
        let sound = name.bytes().all(token) && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        (fits && sound && !own).then(|| Header { name: name.into(), value: value.into() })
    }

    /// Returns the name of the field.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the value of the field.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({:?}, ..)", self.name)
    }
}

/// TLS to a server (RFC 8446, or RFC 5246 where the server has no newer).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
// Exhaustive: users write it over its default.
pub struct Tls {
    /// Ground for trust in the server's certificate.
    pub trust: Trust,
    /// The name or literal address that is asked for (SNI, which knows names only) and that the certificate must be
    /// for. Default: the host's.
    pub name: Option<Box<str>>,
    /// Certificate and key of our own, where the server asks for them. Default: none.
    pub client: Option<ClientKey>,
    /// The protocol to ask for (ALPN, RFC 7301), where a server has several on one port. Default: none.
    pub alpn: Option<Box<str>>,
}

/// A certificate of our own and its private key, both in PEM.
#[derive(Clone, PartialEq, Eq, Hash)]
// Exhaustive: a certificate and its key.
pub struct ClientKey {
    /// Certificate of our own, then those above it, if any.
    pub certificates: Bytes,
    /// The private key.
    pub key: Bytes,
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(..)")
    }
}

/// Condition for a good server certificate.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
// Exhaustive: a driver has to know each.
pub enum Trust {
    /// An authority that the driver knows: the system's, or where it has none the ones built in.
    Public,
    /// A certificate by an authority of this list and no other: certificates in PEM.
    Authorities(Bytes),
    /// The server's key alone, whoever made the certificate out, for whatever name and time. SHA-256 of the
    /// certificate's SubjectPublicKeyInfo in DER (as RFC 7469 section 2.4).
    Pinned([u8; 32]),
}

impl Tls {
    /// TLS for the host's own name, by authorities that everybody knows.
    pub const PUBLIC: Tls = Tls { trust: Trust::Public, name: None, client: None, alpn: None };
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::io::Interface;
    use crate::turn::Credentials;
    use crate::wire::Transport;
    use crate::{
        Broker, Config, ConfigError, Input, Instant, Node, Output, Plan, SecretKey, Strategy, TurnServer,
    };

    fn config() -> Config {
        Config::new(SecretKey::from_bytes([7; 32]))
    }

    fn pinned() -> Tls {
        Tls { trust: Trust::Pinned([9; 32]), name: Some("server.test".into()), ..Tls::PUBLIC }
    }

    /// Runs the node until it is idle. Returns the addresses that it dials, each with its layers; look-ups find
    /// 192.0.2.7.
    fn dials(node: &mut Node) -> Vec<(SocketAddr, Option<Wrap>)> {
        let mut dials = Vec::new();
        while let Some(output) = node.poll_output() {
            match output {
                Output::Connect { remote, wrap, .. } => {
                    dials.push((remote, wrap.map(|wrap| (*wrap).clone())));
                }
                Output::BindUdp { .. } => panic!("TLS does not go over UDP"),
                Output::Listen { sock, .. } => {
                    let local = "192.0.2.1:4000".parse().unwrap();
                    node.handle(Instant::ZERO, Input::Bound { sock, local });
                }
                Output::Resolve { query, .. } => {
                    let result = Ok(["192.0.2.7".parse().unwrap()].into_iter().collect());
                    node.handle(Instant::ZERO, Input::Resolved { query, result });
                }
                _ => {}
            }
        }
        dials
    }

    #[test]
    fn servers_are_dialled_in_the_layers_of_their_entry() {
        let mut config = config();
        config.survey = false;
        config.brokers = vec![
            Broker::new(1, "192.0.2.2", 1883),
            Broker { tls: Some(Tls::PUBLIC), ..Broker::new(2, "broker.test", 8883) },
            Broker {
                websocket: Some("/mqtt".into()),
                tls: Some(pinned()),
                ..Broker::new(3, "192.0.2.4", 443)
            },
        ];
        let turn = TurnServer::new("turn.test", 5349, Credentials::new("alice", "secret"));
        config.turn = vec![TurnServer { tls: Some(Tls::PUBLIC), ..turn }];
        let mut node = Node::new(config, [3; 32], Instant::ZERO).unwrap();
        let ip = "192.0.2.1".parse().unwrap();
        let interface = Interface { default_route: true, ..Interface::new(2, ip, 24) };
        node.handle(Instant::ZERO, Input::Interfaces(&[interface]));
        let wrap = |host: &str, port, tls, websocket: Option<&str>| {
            Some(Wrap {
                host: host.into(),
                port,
                proxy: None,
                tls: Some(tls),
                websocket: websocket.map(Into::into),
                headers: Vec::new(),
            })
        };
        let mut dialled = dials(&mut node);
        dialled.sort_by_key(|(remote, _)| *remote);
        assert_eq!(
            dialled,
            [
                ("192.0.2.2:1883".parse().unwrap(), None),
                ("192.0.2.4:443".parse().unwrap(), wrap("192.0.2.4", 443, pinned(), Some("/mqtt"))),
                ("192.0.2.7:8883".parse().unwrap(), wrap("broker.test", 8883, Tls::PUBLIC, None)),
            ]
        );
        let peer = SecretKey::from_bytes([8; 32]).node_id();
        let peer = format!("1-[0,192.0.2.9,192.0.2.9,9,1,1,0]-0-{peer}").parse().unwrap();
        let plan = Plan { strategies: [Strategy::Relay].into_iter().collect(), ..Plan::default() };
        node.connect(Instant::ZERO, &peer, plan).unwrap();
        let turn = ("192.0.2.7:5349".parse().unwrap(), wrap("turn.test", 5349, Tls::PUBLIC, None));
        assert_eq!(dials(&mut node), [turn]);
    }

    #[test]
    fn wishes_that_cannot_be_are_refused_at_the_start() {
        let refused = |config| Node::new(config, [3; 32], Instant::ZERO).unwrap_err();
        for path in ["", "mqtt", "/a b", "/a\r\nHost: b"] {
            let mut config = config();
            config.brokers = vec![Broker { websocket: Some(path.into()), ..Broker::new(1, "a", 80) }];
            assert_eq!(refused(config), ConfigError::BadWebSocketPath(0), "{path}");
        }
        let mut config = config();
        let turn = TurnServer::new("a", 5349, Credentials::new("alice", "secret"));
        config.turn = vec![TurnServer { tls: Some(Tls::PUBLIC), transport: Some(Transport::Udp), ..turn }];
        assert_eq!(refused(config), ConfigError::TlsOverUdp(0));
    }
}
