//! Encrypted pipes beside what a user would take instead, each end with a runtime of tokio and a thread of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use p2pd::serve::{Serving, Wanted};
use p2pd_core::{Accept, Config, PeerAddress, PipeMode, Plan, SecretKey, Strategy};
use p2pd_tests::drivers::runtime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring::{self, cipher_suite};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{BYTES, CHUNK, LONG, config, median, plan, rate, read_all, write_all};

const ROUNDS: usize = 21;

fn own_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns the rate from `near` to `far`, each on a runtime and a thread of its own. `far` tells `near` where it is.
fn apart<At, Near, Far>(
    near: impl AsyncFnOnce(At) -> Near,
    far: impl AsyncFnOnce(mpsc::Sender<At>) -> Far + Send + 'static,
) -> f64
where
    At: Send + 'static,
    Near: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    Far: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (tell, told) = mpsc::channel();
    let (done, is_done) = oneshot::channel();
    let reader = thread::spawn(move || {
        own_runtime().block_on(async {
            let mut far = far(tell).await;
            let began = Instant::now();
            read_all!(far);
            let rate = rate(began);
            far.write_all(&[0]).await.unwrap();
            far.flush().await.unwrap();
            // Until then the byte may be on its way: a runtime that ends sends no more datagrams.
            is_done.await.unwrap();
            rate
        })
    });
    own_runtime().block_on(async {
        let mut near = near(told.recv().unwrap()).await;
        write_all!(near);
        near.read_exact(&mut [0]).await.unwrap();
        done.send(()).unwrap();
    });
    reader.join().unwrap()
}

/// Returns the end of a TCP connection, as pipes have it.
async fn dial(to: SocketAddr) -> tokio::net::TcpStream {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn accept(tell: mpsc::Sender<SocketAddr>) -> tokio::net::TcpStream {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    tell.send(listener.local_addr().unwrap()).unwrap();
    let stream = listener.accept().await.unwrap().0;
    stream.set_nodelay(true).unwrap();
    stream
}

fn bare_apart() -> f64 {
    apart(dial, accept)
}

/// TLS 1.3 with one cipher suite.
fn rustls_apart(suite: SupportedCipherSuite) -> f64 {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let provider = Arc::new(CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() });
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let versions = &[&tokio_rustls::rustls::version::TLS13];
    let client =
        ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let client = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let key = signing_key.serialize_der().try_into().unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    apart(
        async |to| client.connect("localhost".try_into().unwrap(), dial(to).await).await.unwrap(),
        async move |tell| TlsAcceptor::from(Arc::new(server)).accept(accept(tell).await).await.unwrap(),
    )
}

fn p2pd_apart(aes: bool) -> f64 {
    let node = async move || p2pd_tokio::Node::bind(config().aes(aes)).await.unwrap();
    apart(
        async |to: PeerAddress| {
            let node = node().await;
            let pipe = node.connect_with(&to, plan(PipeMode::Encrypted)).await.unwrap();
            node.shutdown().await;
            pipe
        },
        async move |tell: mpsc::Sender<PeerAddress>| {
            let node = node().await;
            tell.send(node.address().await).unwrap();
            let pipe = node.accept().await.unwrap();
            node.shutdown().await;
            pipe
        },
    )
}

/// A stream of quinn as its makers set it up, but for the trust in one certificate. What holds it open lasts as long as the runtime.
fn quinn_apart() -> f64 {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let key = signing_key.serialize_der().try_into().unwrap();
    let server = quinn::ServerConfig::with_single_cert(vec![cert.der().clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    apart(
        async |to: SocketAddr| {
            let endpoint = quinn::Endpoint::client(any).unwrap();
            let connection = endpoint.connect_with(client, to, "localhost").unwrap().await.unwrap();
            let (mut send, receive) = connection.open_bi().await.unwrap();
            // A stream is known to the other end once something is sent.
            send.write_all(&[0]).await.unwrap();
            std::mem::forget((endpoint, connection));
            tokio::io::join(receive, send)
        },
        async move |tell| {
            let endpoint = quinn::Endpoint::server(server, any).unwrap();
            tell.send(endpoint.local_addr().unwrap()).unwrap();
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            let (send, mut receive) = connection.accept_bi().await.unwrap();
            receive.read_exact(&mut [0]).await.unwrap();
            std::mem::forget((endpoint, connection));
            tokio::io::join(receive, send)
        },
    )
}

/// A pipe that was punched over UDP, from one address of loopback to itself. Its node carries it.
fn p2pd_udp_apart(servers: &Serving, aes: bool) -> f64 {
    let keys = [(); 2].map(|()| SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    let [caller, listener] = keys;
    let named = Accept::Only([caller.node_id()].into());
    let list = servers.servers("127.0.0.1", 0);
    let (brokers, stun) = (list.brokers.clone(), list.stun.clone());
    let node = async move |key, accept| {
        let mut config = Config::new(key);
        (config.accept, config.bind) = (accept, Some(Ipv4Addr::LOCALHOST.into()));
        (config.brokers, config.stun) = (brokers.clone(), stun.clone());
        p2pd_tokio::Node::bind(config.aes(aes)).await.unwrap()
    };
    let other = node.clone();
    apart(
        async |to: PeerAddress| {
            let node = node(caller, Accept::Anyone).await;
            node.address().await;
            let plan = Plan::new().strategies([Strategy::Udp]).timeout(LONG);
            let pipe = node.connect_with(&to, plan).await.unwrap();
            std::mem::forget(node);
            pipe
        },
        async move |tell: mpsc::Sender<PeerAddress>| {
            let node = other(listener, named).await;
            tell.send(node.address().await).unwrap();
            let pipe = node.accept().await.unwrap();
            std::mem::forget(node);
            pipe
        },
    )
}

/// Name of a kind of pipe, the place of what it is compared with, and a run of it in MB/s.
type Measured<'a> = (&'static str, Option<usize>, Box<dyn Fn() -> f64 + 'a>);

/// Runs all kinds in turn. Prints the median rate of each, beside the first and beside what it is compared with.
fn compare(kinds: &[Measured<'_>]) {
    let mut rates = vec![Vec::new(); kinds.len()];
    for _ in 0..ROUNDS {
        for ((.., rate), rates) in kinds.iter().zip(&mut rates) {
            rates.push(rate());
        }
    }
    println!("{} MiB one way over loopback, a runtime of tokio and a thread for each end", BYTES >> 20);
    println!("{ROUNDS} rounds in turn, medians                MB/s   of the first   of its rival");
    // A round's rates are compared with each other: the machine is the same then.
    let of = |n: usize, base: usize| median(rates[n].iter().zip(&rates[base]).map(|(a, b)| a / b).collect());
    for (n, (name, rival, _)) in kinds.iter().enumerate() {
        let rival = rival.map_or(String::new(), |rival| format!("{:>15.2}", of(n, rival)));
        println!("{name:<34} {:>9.0} {:>14.2}{rival}", median(rates[n].clone()), of(n, 0));
    }
}

/// Measures encrypted pipes beside tokio-rustls and bare TCP.
pub fn peers() {
    use cipher_suite::{TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    compare(&[
        ("TCP", None, Box::new(bare_apart)),
        ("tokio-rustls, AES-256-GCM", None, Box::new(|| rustls_apart(TLS13_AES_256_GCM_SHA384))),
        ("p2pd, AES-256-GCM", Some(1), Box::new(|| p2pd_apart(true))),
        ("tokio-rustls, ChaCha20-Poly1305", None, Box::new(|| rustls_apart(TLS13_CHACHA20_POLY1305_SHA256))),
        ("p2pd, ChaCha20-Poly1305", Some(3), Box::new(|| p2pd_apart(false))),
    ]);
}

/// Measures pipes over UDP beside a stream of quinn.
pub fn udp() {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let wanted = Wanted { ip, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn: None };
    let servers = runtime().block_on(Serving::start(&wanted)).unwrap();
    compare(&[
        ("quinn", None, Box::new(quinn_apart)),
        ("p2pd over UDP, AES-256-GCM", Some(0), Box::new(|| p2pd_udp_apart(&servers, true))),
        ("p2pd over UDP, ChaCha20-Poly1305", Some(0), Box::new(|| p2pd_udp_apart(&servers, false))),
    ]);
}
