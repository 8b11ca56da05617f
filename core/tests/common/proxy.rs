//! Proxies on raw bytes: HTTP CONNECT and SOCKS5, for streams of nodes to brokers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::proxy::ProxyHandshake;
use p2pd_core::wrap::Wrap;
use p2pd_core::{Instant, IoFailure, Login, ProxyKind, SockId};

use super::{End, Happening, LATENCY, World};

pub struct Proxy {
    pub config: p2pd_core::Proxy,
    pub at: SocketAddr,
    /// Takes connections and says nothing.
    pub silent: bool,
    /// Answers every request so, in place of opening a stream.
    pub refusal: Option<Vec<u8>>,
    /// All that was said to it.
    pub heard: Vec<Vec<u8>>,
}

/// A dial of a node's that leads to a proxy.
pub(super) struct Proxied {
    pub(super) wrap: Arc<Wrap>,
    pub(super) deadline: Instant,
}

impl World {
    /// A proxy that asks for this login, if any.
    pub fn add_proxy(&mut self, kind: ProxyKind, login: Option<Login>) -> usize {
        let n = self.proxies.len();
        let host: Box<str> = format!("proxy{n}.test").into();
        let at: SocketAddr = ([198, 51, 100, 90 + n as u8], 3128).into();
        let config = p2pd_core::Proxy { kind, host, port: 3128, login };
        self.proxies.push(Proxy { config, at, silent: false, refusal: None, heard: Vec::new() });
        n
    }

    /// A SYN has reached a proxy. What the driver and the proxy say follows, and the way to a broker, if it is one.
    pub(super) fn through_proxy(&mut self, n: usize, sock: SockId, local: SocketAddr, p: usize) {
        let remote = self.proxies[p].at;
        let Some(Proxied { wrap, deadline }) = self.proxied.remove(&(n, sock)) else { return };
        let config = wrap.proxy.as_ref().expect("a dial to a proxy says so");
        let mut handshake = ProxyHandshake::new(config, &wrap.host, wrap.port).unwrap();
        let mut after = LATENCY;
        while let Some(said) = handshake.poll_transmit() {
            self.proxies[p].heard.push(said.to_vec());
            let Some(answer) = self.proxies[p].answer(&said) else {
                let cause = IoFailure::TimedOut;
                return self.schedule(deadline.since(self.now), Happening::Failed { n, sock, cause });
            };
            after += 2 * LATENCY;
            for byte in answer {
                if let Err(why) = handshake.handle(&[byte]) {
                    let cause = IoFailure::Proxy(why);
                    return self.schedule(after, Happening::Failed { n, sock, cause });
                }
            }
        }
        assert_eq!(handshake.wants(), 0, "the proxy has said all");
        let named =
            |b: &super::broker::Broker| *b.config.host == *wrap.host || b.at.ip().to_string() == *wrap.host;
        let b = self.brokers.iter().position(named).expect("only brokers are behind proxies");
        let id = self.accepted as u32;
        self.accepted += 1;
        self.join(End::Node(n, sock), End::Broker(b, id));
        let ours = SocketAddr::new(self.hosts[n].inside, local.port());
        self.schedule(after, Happening::Connected { n, sock, local: ours, remote });
        self.accept(End::Broker(b, id), remote, self.brokers[b].at);
    }
}

impl Proxy {
    /// What it answers; `None`: nothing, ever.
    fn answer(&self, said: &[u8]) -> Option<Vec<u8>> {
        if self.silent {
            return None;
        }
        Some(match (self.config.kind, said) {
            (ProxyKind::Socks5, [5, _, methods @ ..]) if self.heard.len() == 1 => {
                vec![5, if methods.contains(&2) { 2 } else { 0 }]
            }
            (ProxyKind::Socks5, [1, ..]) => vec![1, 0],
            _ => match (&self.refusal, self.config.kind) {
                (Some(refusal), _) => refusal.clone(),
                (None, ProxyKind::Http) => b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
                (None, ProxyKind::Socks5) => vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            },
        })
    }
}

/// A proxy's handshakes take so long.
pub fn takes(kind: ProxyKind, login: bool) -> Duration {
    let trips = match kind {
        ProxyKind::Http => 1,
        ProxyKind::Socks5 => 2 + u32::from(login),
    };
    trips * 2 * LATENCY
}
