//! Layers against the server ends of rustls and tungstenite, over a socket pair that takes and gives little at a time.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use p2pd_core::{Login, Proxy, ProxyFailure, ProxyKind, Tls, TlsFailure, Trust};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::{Error, Message, WebSocket};

use super::*;
use crate::{failure, socket};

const NAME: &str = "server.test";

/// An authority for tests.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: Bytes,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Returns the trust of a client in this server, and in nobody else.
    pub(crate) fn trust(&self) -> Trust {
        Trust::Authorities(self.pem.clone())
    }

    /// A server that has a certificate of it, changed by `change`, and the pin of its key.
    fn server(&self, change: impl FnOnce(&mut CertificateParams)) -> (Arc<ServerConfig>, [u8; 32]) {
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pin = Sha256::digest(key.subject_public_key_info()).into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (server(certificate.der().clone(), &key), pin)
    }

    /// The far end of `stream`, which this server reads and writes, blocking.
    pub(crate) fn serve(&self, stream: TcpStream) -> Secure {
        secure(&self.server(|_| {}).0, stream)
    }
}

pub(crate) type Secure = StreamOwned<ServerConnection, TcpStream>;

fn server(certificate: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let builder = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
}

fn secure(config: &Arc<ServerConfig>, stream: TcpStream) -> Secure {
    stream.set_nonblocking(false).unwrap();
    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream)
}

/// The answer of a server that speaks MQTT.
#[expect(clippy::result_large_err, reason = "tungstenite asks for this type")]
fn agree(
    request: &Request,
    mut response: Response,
) -> Result<Response, tungstenite::handshake::server::ErrorResponse> {
    assert_eq!(request.headers()["Sec-WebSocket-Protocol"], "mqtt");
    assert_eq!(
        (request.uri().path(), &request.headers()["Host"]),
        ("/mqtt", &"server.test:9".parse().unwrap())
    );
    response.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    Ok(response)
}

/// A socket that takes and gives at most so much, and nothing every second time.
struct Slow {
    stream: TcpStream,
    piece: usize,
    turn: [bool; 2],
}

impl Slow {
    fn limit(&mut self, way: usize, len: usize) -> io::Result<usize> {
        self.turn[way] = !self.turn[way];
        if self.turn[way] || self.piece == 0 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(self.piece.min(len))
        }
    }
}

impl Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.limit(0, buf.len())?;
        self.stream.read(&mut buf[..n])
    }
}

impl Write for Slow {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.limit(1, data.len())?;
        self.stream.write(&data[..n])
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wrap(trust: Option<Trust>, websocket: bool) -> Wrap {
    let tls = trust.map(|trust| Tls { trust, ..Tls::PUBLIC });
    Wrap {
        host: NAME.into(),
        port: 9,
        proxy: None,
        tls,
        websocket: websocket.then(|| "/mqtt".into()),
        headers: Vec::new(),
    }
}

fn layers(wrap: &Wrap) -> Result<Layers, IoFailure> {
    Layers::new(wrap, &mut Settings::default())
}

/// A client's layers, its socket, and a thread that has the other end.
fn against<T: Send + 'static>(
    wrap: &Wrap,
    piece: usize,
    far: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (Layers, Slow, JoinHandle<T>) {
    let (near, theirs) = socket::pair().unwrap();
    theirs.set_nonblocking(false).unwrap();
    let far = thread::spawn(move || far(theirs));
    (layers(wrap).unwrap(), Slow { stream: near, piece, turn: [false; 2] }, far)
}

/// Repeats a step until it does not block, as an event loop would.
fn wait<T>(mut step: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..200_000 {
        match step() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(std::time::Duration::from_micros(20))
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
    panic!("never");
}

fn read_end(layers: &mut Layers, io: &mut Slow) -> (Vec<u8>, io::Result<()>) {
    let (mut all, mut buffer) = (Vec::new(), [0; 700]);
    loop {
        match wait(|| layers.read(io, &mut buffer)) {
            Ok(0) => return (all, Ok(())),
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(e) => return (all, Err(e)),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| ((n * 31) >> 3) as u8).collect()
}

/// Sends received bytes back, until the end.
fn echo_stream(mut stream: impl Read + Write) {
    let mut buffer = [0; 5000];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return,
            n => stream.write_all(&buffer[..n]).unwrap(),
        }
    }
}

fn echo_messages(mut socket: WebSocket<impl Read + Write>) {
    loop {
        match socket.read() {
            Ok(Message::Binary(data)) => {
                socket.send(Message::Ping(Bytes::from_static(b"there?"))).unwrap();
                socket.send(Message::Binary(data)).unwrap();
            }
            Ok(Message::Pong(data)) => assert_eq!(&data[..], b"there?"),
            Ok(Message::Close(_)) => {}
            Err(Error::ConnectionClosed) => {
                io::copy(socket.get_mut(), &mut io::sink()).unwrap();
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn bytes_pass_both_ways_through_every_layer_in_pieces_of_any_size() {
    let authority = Authority::new("one");
    let (config, _) = authority.server(|_| {});
    for (tls, websocket) in [(true, false), (false, true), (true, true)] {
        for piece in [7, 333, 100_000] {
            let config = config.clone();
            let wrap = wrap(tls.then(|| authority.trust()), websocket);
            let (mut layers, mut io, far) = against(&wrap, piece, move |stream| match (tls, websocket) {
                (true, true) => {
                    echo_messages(tungstenite::accept_hdr(secure(&config, stream), agree).unwrap())
                }
                (true, false) => {
                    let mut stream = secure(&config, stream);
                    echo_stream(&mut stream);
                    stream.conn.send_close_notify();
                    stream.flush().unwrap();
                }
                (false, _) => echo_messages(tungstenite::accept_hdr(stream, agree).unwrap()),
            });
            wait(|| layers.open(&mut io)).unwrap();
            let (sent, mut at, mut got, mut buffer) = (pattern(40_000), 0, Vec::new(), [0; 700]);
            while got.len() < sent.len() {
                if at < sent.len() {
                    let end = sent.len().min(at + 3000);
                    match layers.write(&mut io, &sent[at..end]) {
                        Ok(n) => at += n,
                        Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
                    }
                }
                let _ = layers.flush(&mut io);
                match layers.read(&mut io, &mut buffer) {
                    Ok(n) => got.extend_from_slice(&buffer[..n]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                    Err(e) => assert_eq!(e.kind(), io::ErrorKind::Interrupted),
                }
            }
            assert!(got == sent, "TLS {tls}, WebSocket {websocket}, pieces of {piece}");
            wait(|| layers.finish(&mut io)).unwrap();
            let (rest, end) = read_end(&mut layers, &mut io);
            assert!(rest.is_empty() && end.is_ok(), "{end:?}");
            drop(io);
            far.join().unwrap();
        }
    }
}

/// Takes part of a proxy at this end of a stream: each answer once the bytes before it have come.
fn proxy(stream: &mut TcpStream, script: &[(&[u8], &[u8])]) {
    for (request, answer) in script {
        let mut said = vec![0; request.len()];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(said, *request, "{}", String::from_utf8_lossy(&said));
        stream.write_all(answer).unwrap();
    }
}

fn through(mut wrap: Wrap, kind: ProxyKind, login: bool) -> Wrap {
    let login = login.then(|| Login::new("alice", Some("s3cret")));
    wrap.proxy = Some(Proxy { kind, host: "proxy.test".into(), port: 3128, login });
    wrap
}

#[test]
fn every_layer_goes_through_the_tunnel_of_a_proxy_and_what_the_server_says_first_is_its_own() {
    const CONNECT: &[u8] = b"CONNECT server.test:9 HTTP/1.1\r\nHost: server.test:9\r\n\r\n";
    const SOCKS: &[u8] = b"\x05\x01\x00\x03\x0bserver.test\x00\x09";
    let opened = [0x05, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let socks: [(&[u8], &[u8]); 3] =
        [(b"\x05\x02\x00\x02", b"\x05\x02"), (b"\x01\x05alice\x06s3cret", b"\x01\x00"), (SOCKS, &opened)];
    let authority = Authority::new("one");
    let (config, _) = authority.server(|_| {});
    for piece in [7, 333, 100_000] {
        for (kind, tls, websocket) in [
            (ProxyKind::Http, true, true),
            (ProxyKind::Http, false, false),
            (ProxyKind::Socks5, true, false),
            (ProxyKind::Socks5, false, true),
        ] {
            let config = config.clone();
            let wrap = wrap(tls.then(|| authority.trust()), websocket);
            let wrap = through(wrap, kind, kind == ProxyKind::Socks5);
            let socks = socks.map(|(request, answer)| (request.to_vec(), answer.to_vec()));
            let (mut layers, mut io, far) = against(&wrap, piece, move |mut stream| {
                // The server's first words follow at once where there is nothing between.
                let first: &[u8] = if tls || websocket { b"" } else { b"first" };
                match kind {
                    ProxyKind::Http => {
                        proxy(&mut stream, &[(CONNECT, &[b"HTTP/1.1 200 OK\r\n\r\n", first].concat())]);
                    }
                    ProxyKind::Socks5 => {
                        socks.iter().for_each(|(said, answer)| proxy(&mut stream, &[(said, answer)]))
                    }
                }
                match (tls, websocket) {
                    (true, true) => {
                        let _ = tungstenite::accept_hdr(secure(&config, stream), agree).unwrap().read();
                    }
                    (false, true) => {
                        let _ = tungstenite::accept_hdr(stream, agree).unwrap().read();
                    }
                    (true, false) => {
                        let _ = secure(&config, stream).read(&mut [0]);
                    }
                    (false, false) => {}
                }
            });
            wait(|| layers.open(&mut io)).unwrap();
            if !tls && !websocket {
                let mut first = Vec::new();
                while first.len() < 5 {
                    let mut buffer = [0; 9];
                    let n = wait(|| layers.read(&mut io, &mut buffer)).unwrap();
                    first.extend_from_slice(&buffer[..n]);
                }
                assert_eq!(first, b"first");
            }
            drop((layers, io));
            far.join().unwrap();
        }
    }
}

#[test]
fn a_proxy_that_refuses_or_hangs_up_is_told_from_the_server() {
    for (kind, answer, why) in [
        (ProxyKind::Http, &b"HTTP/1.1 407 Who?\r\n\r\n"[..], ProxyFailure::LoginNeeded),
        (ProxyKind::Http, b"HTTP/1.1 200", ProxyFailure::Closed),
        (ProxyKind::Http, b"", ProxyFailure::Closed),
        (ProxyKind::Socks5, b"\x05\xff", ProxyFailure::LoginNeeded),
        (ProxyKind::Socks5, b"HTTP", ProxyFailure::NotAProxy),
    ] {
        let wrap = through(wrap(Some(Trust::Public), false), kind, false);
        let (mut layers, mut io, far) = against(&wrap, 5000, move |mut stream| {
            let _ = stream.read(&mut [0; 2000]);
            stream.write_all(answer).unwrap();
        });
        assert_eq!(failure(&wait(|| layers.open(&mut io)).unwrap_err()), IoFailure::Proxy(why));
        far.join().unwrap();
    }
}

/// Returns the outcome of a handshake with a server's certificate.
fn handshake(wrap: &Wrap, config: Arc<ServerConfig>) -> Result<(), IoFailure> {
    let (mut layers, mut io, far) = against(wrap, 5000, move |stream| {
        let mut stream = secure(&config, stream);
        let _ = stream.read(&mut [0]);
    });
    let done = wait(|| layers.open(&mut io)).map_err(|e| failure(&e));
    drop(io);
    far.join().unwrap();
    done
}

#[test]
fn a_server_is_refused_in_words_that_say_why() {
    let [ours, other, namesake] = ["one", "two", "one"].map(Authority::new);
    let trusting = wrap(Some(ours.trust()), false);
    let refused = |why| Err(IoFailure::Tls(why));
    let past = |p: &mut CertificateParams| p.not_after = date_time_ymd(2020, 1, 1);
    let future = |p: &mut CertificateParams| p.not_before = date_time_ymd(2120, 1, 1);
    let elsewhere = |p: &mut CertificateParams| {
        *p = CertificateParams::new(["other.test".to_owned()]).unwrap();
    };
    let (good, pin) = ours.server(|_| {});
    assert_eq!(handshake(&trusting, good.clone()), Ok(()));
    assert_eq!(handshake(&trusting, ours.server(past).0), refused(TlsFailure::Expired));
    assert_eq!(handshake(&trusting, ours.server(future).0), refused(TlsFailure::NotYetValid));
    assert_eq!(handshake(&trusting, ours.server(elsewhere).0), refused(TlsFailure::WrongName));
    assert_eq!(handshake(&trusting, other.server(|_| {}).0), refused(TlsFailure::UnknownAuthority));
    assert_eq!(
        handshake(&wrap(Some(Trust::Public), false), good.clone()),
        refused(TlsFailure::UnknownAuthority)
    );
    assert_eq!(handshake(&trusting, namesake.server(|_| {}).0), refused(TlsFailure::BadSignature));
    // The name to check by is another than the host's.
    let mut named = trusting.clone();
    named.host = "192.0.2.1".into();
    assert_eq!(handshake(&named, good.clone()), refused(TlsFailure::WrongName));
    named.tls.as_mut().unwrap().name = Some(NAME.into());
    assert_eq!(handshake(&named, good.clone()), Ok(()));
    // A pin needs no authority, name or date, and accepts no other key.
    let pinned = wrap(Some(Trust::Pinned(pin)), false);
    assert_eq!(handshake(&pinned, good), Ok(()));
    assert_eq!(handshake(&pinned, ours.server(|_| {}).0), refused(TlsFailure::PinDiffers));
    let (stale, pin) = other.server(past);
    assert_eq!(handshake(&wrap(Some(Trust::Pinned(pin)), false), stale), Ok(()));
    let key = KeyPair::generate().unwrap();
    let mut itself = CertificateParams::new([NAME.to_owned()]).unwrap();
    itself.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let itself = itself.self_signed(&key).unwrap();
    let trust = Trust::Authorities(itself.pem().into());
    let config = server(itself.der().clone(), &key);
    assert_eq!(handshake(&wrap(Some(trust), false), config), refused(TlsFailure::BadCertificate));
}

#[test]
fn what_a_pin_names_must_sign_too() {
    let authority = Authority::new("one");
    let (_, pin) = authority.server(|_| {});
    let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
    params.not_after = date_time_ymd(2020, 1, 1);
    let (key, thief) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    assert_ne!(pin, <[u8; 32]>::from(Sha256::digest(key.subject_public_key_info())));
    let pin = Sha256::digest(key.subject_public_key_info()).into();
    // rustls does not let a server have another's certificate by mistake, so it is told to.
    let signer = rustls::crypto::ring::sign::any_supported_type(
        &PrivateKeyDer::try_from(thief.serialize_der()).unwrap(),
    );
    let stolen = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], signer.unwrap());
    let builder = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
    let refused = handshake(&wrap(Some(Trust::Pinned(pin)), false), config.into());
    assert_eq!(refused, Err(IoFailure::Tls(TlsFailure::BadSignature)));
}

#[test]
fn wishes_of_no_use_are_named() {
    let settings = Err(IoFailure::Tls(TlsFailure::Settings));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for pem in ["", "no certificate", broken] {
        let trust = Trust::Authorities(Bytes::from_static(pem.as_bytes()));
        assert_eq!(layers(&wrap(Some(trust), false)).map(|_| ()), settings, "{pem}");
    }
    let mut nameless = wrap(Some(Trust::Public), false);
    nameless.host = "no name".into();
    assert_eq!(layers(&nameless).map(|_| ()), settings);
    nameless.tls = None;
    nameless.websocket = Some("/".into());
    assert_eq!(layers(&nameless).map(|_| ()), Err(IoFailure::NoWebSocket(0)));
    let mut v6 = wrap(Some(Trust::Public), true);
    v6.host = "2001:db8::1".into();
    assert_eq!(layers(&v6).map(|_| ()), Ok(()));
}

#[test]
fn a_server_without_tls_is_told_from_one_that_refuses() {
    let wrap = wrap(Some(Authority::new("one").trust()), false);
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"", b"\x15\x03\x03\x00\x02\x02\x46"] {
        let (mut layers, mut io, far) = against(&wrap, 5000, move |mut stream| {
            let _ = stream.read(&mut [0; 2000]);
            stream.write_all(answer).unwrap();
        });
        let why = failure(&wait(|| layers.open(&mut io)).unwrap_err());
        let expected = if answer.starts_with(b"\x15") { TlsFailure::Alert(70) } else { TlsFailure::NotTls };
        assert_eq!(why, IoFailure::Tls(expected));
        far.join().unwrap();
    }
}

#[test]
fn what_a_layer_holds_is_read_though_nothing_comes_in() {
    let authority = Authority::new("one");
    for websocket in [false, true] {
        let (config, _) = authority.server(|_| {});
        let wrap = wrap(Some(authority.trust()), websocket);
        let (mut layers, mut io, far) = against(&wrap, 5000, move |stream| {
            let stream = secure(&config, stream);
            if websocket {
                let mut socket = tungstenite::accept_hdr(stream, agree).unwrap();
                socket.send(Message::Binary(Bytes::from_static(b"0123456789"))).unwrap();
                return socket.read().is_err();
            }
            let mut stream = stream;
            stream.write_all(b"0123456789").unwrap();
            stream.read(&mut [0]).is_err()
        });
        wait(|| layers.open(&mut io)).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(wait(|| layers.read(&mut io, &mut buffer)).unwrap(), 4);
        assert_eq!(&buffer, b"0123");
        // From here on the socket has nothing more, and is not asked.
        io.piece = 0;
        assert_eq!(layers.read(&mut io, &mut buffer).unwrap(), 4);
        assert_eq!(layers.read(&mut io, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"89");
        io.stream.shutdown(Shutdown::Both).unwrap();
        assert!(far.join().unwrap(), "cut off, which the server's end notices too");
    }
}

#[test]
fn an_end_that_is_said_differs_from_one_that_is_not_and_no_byte_before_it_is_lost() {
    let authority = Authority::new("one");
    for (websocket, said) in [(false, true), (false, false), (true, true), (true, false)] {
        let (config, _) = authority.server(|_| {});
        let wrap = wrap(Some(authority.trust()), websocket);
        let sent = pattern(30_000);
        let expected = sent.clone();
        let (mut layers, mut io, far) = against(&wrap, 4000, move |stream| {
            let mut stream = secure(&config, stream);
            if websocket {
                let mut socket = tungstenite::accept_hdr(stream, agree).unwrap();
                socket.send(Message::Binary(sent.into())).unwrap();
                if said {
                    socket.close(None).unwrap();
                    while socket.read().is_ok() {}
                }
                return;
            }
            stream.write_all(&sent).unwrap();
            if said {
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        });
        wait(|| layers.open(&mut io)).unwrap();
        let (all, end) = read_end(&mut layers, &mut io);
        assert!(all == expected, "{} bytes", all.len());
        let end = end.map_err(|e| failure(&e));
        assert_eq!(end, if said { Ok(()) } else { Err(IoFailure::Reset) }, "WebSocket {websocket}");
        drop(io);
        far.join().unwrap();
    }
}

#[test]
fn writing_to_a_server_that_does_not_read_stops_at_a_bound() {
    let authority = Authority::new("one");
    for websocket in [false, true] {
        let (config, _) = authority.server(|_| {});
        let wrap = wrap(Some(authority.trust()), websocket);
        let (go, stop) = std::sync::mpsc::channel();
        let (mut layers, mut io, far) = against(&wrap, 100_000, move |stream| {
            let stream = secure(&config, stream);
            if websocket {
                let mut socket = tungstenite::accept_hdr(stream, agree).unwrap();
                stop.recv().unwrap();
                let all = std::iter::from_fn(|| socket.read().ok()).map(|m| m.len()).sum();
                io::copy(socket.get_mut(), &mut io::sink()).unwrap();
                return all;
            }
            let mut stream = stream;
            stream.flush().unwrap();
            stop.recv().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all.len()
        });
        wait(|| layers.open(&mut io)).unwrap();
        // Nothing leaves at all any more.
        io.piece = 0;
        let mut blocked = Slow { stream: io.stream.try_clone().unwrap(), piece: 0, turn: [false; 2] };
        let (data, mut taken, mut refused) = (vec![7; 16 * 1024], 0, 0);
        while refused < 3 {
            blocked.turn = [false; 2];
            match layers.write(&mut blocked, &data) {
                Ok(n) => taken += n,
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    refused += 1;
                }
            }
        }
        assert!((60_000..200_000).contains(&taken), "{taken}");
        io.piece = 100_000;
        go.send(()).unwrap();
        wait(|| layers.flush(&mut io)).unwrap();
        wait(|| layers.finish(&mut io)).unwrap();
        assert_eq!(far.join().unwrap(), taken);
    }
}

#[test]
fn servers_that_are_no_websocket_or_a_bad_one_are_named() {
    let key = |request: &str| {
        let key = request.lines().find_map(|l| l.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        tungstenite::handshake::derive_accept_key(key.as_bytes())
    };
    type Answer = fn(String) -> Vec<u8>;
    fn accepted(key: String, frames: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        [head.as_bytes(), frames].concat()
    }
    let cases: [(Answer, IoFailure); 9] = [
        (|_| b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(), IoFailure::NoWebSocket(404)),
        (|_| b"\x20\x02\x00\x01".to_vec(), IoFailure::NoWebSocket(0)),
        (|_| Vec::new(), IoFailure::NoWebSocket(0)),
        (|key| accepted(format!("{key}="), b""), IoFailure::NoWebSocket(0)),
        (|_| [&b"HTTP/1.1 101 S\r\n"[..], &[b'x'; 200_000]].concat(), IoFailure::NoWebSocket(0)),
        // A text; a reserved code; a length of 8 EiB; a masked frame.
        (|key| accepted(key, b"\x81\x02hi"), IoFailure::BadFrame),
        (|key| accepted(key, b"\x8f\x00"), IoFailure::BadFrame),
        (|key| accepted(key, b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"), IoFailure::BadFrame),
        (|key| accepted(key, b"\x82\x81\0\0\0\0h"), IoFailure::BadFrame),
    ];
    for (n, (answer, expected)) in cases.into_iter().enumerate() {
        let (mut layers, mut io, far) = against(&wrap(None, true), 5000, move |mut stream| {
            let mut request = [0; 2000];
            let len = stream.read(&mut request).unwrap();
            let _ = stream.write_all(&answer(key(str::from_utf8(&request[..len]).unwrap())));
        });
        let mut buffer = [0; 100];
        let why = wait(|| layers.open(&mut io)).and_then(|()| wait(|| layers.read(&mut io, &mut buffer)));
        assert_eq!(failure(&why.unwrap_err()), expected, "case {n}");
        drop(io);
        far.join().unwrap();
    }
}

#[test]
fn pings_without_end_give_others_their_turn_and_hold_no_memory() {
    let (mut layers, mut io, far) = against(&wrap(None, true), 100_000, |stream| {
        let mut socket = tungstenite::accept_hdr(stream.try_clone().unwrap(), agree).unwrap();
        socket.flush().unwrap();
        let mut stream = stream;
        let pings = [0x89, 0].repeat(8192);
        // Until the client hangs up; no answer is read.
        while stream.write_all(&pings).is_ok() {}
    });
    wait(|| layers.open(&mut io)).unwrap();
    let (mut turns, mut blocked, mut buffer) = (0, 0, [0; 100]);
    while blocked < 50 {
        match layers.read(&mut io, &mut buffer).unwrap_err().kind() {
            io::ErrorKind::Interrupted => turns += 1,
            io::ErrorKind::WouldBlock => {
                blocked += 1;
                thread::sleep(std::time::Duration::from_millis(1));
            }
            other => panic!("{other}"),
        }
        assert!(layers.websocket.as_mut().unwrap().waiting() <= 2 * 64 * 1024);
    }
    assert!(turns > 0);
    drop(io);
    far.join().unwrap();
}

#[test]
fn a_byte_that_was_changed_on_the_way_is_an_error_or_does_no_harm() {
    let authority = Authority::new("one");
    let (config, _) = authority.server(|_| {});
    // What one server said to one client is of no use to the next, so each runs with its own and is changed in flight.
    for at in (0..1400).step_by(13) {
        let config = config.clone();
        let (near, middle) = socket::pair().unwrap();
        let (theirs, far) = socket::pair().unwrap();
        middle.set_nonblocking(false).unwrap();
        theirs.set_nonblocking(false).unwrap();
        let server = thread::spawn(move || {
            let mut stream = secure(&config, far);
            let _ = stream.write_all(b"hello").and_then(|()| stream.read(&mut [0]));
        });
        let (mut up_from, mut up_to) = (middle.try_clone().unwrap(), theirs.try_clone().unwrap());
        let up = thread::spawn(move || {
            let _ = io::copy(&mut up_from, &mut up_to);
            let _ = up_to.shutdown(Shutdown::Both);
        });
        let down = thread::spawn(move || {
            let (mut from, mut to, mut passed, mut buffer) = (theirs, middle, 0, [0; 4096]);
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if (passed..passed + n).contains(&at) {
                    buffer[at - passed] ^= 0x40;
                }
                passed += n;
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
        let mut layers = layers(&wrap(Some(authority.trust()), false)).unwrap();
        let mut io = Slow { stream: near, piece: 5000, turn: [false; 2] };
        let mut buffer = [0; 10];
        let end = std::time::Instant::now() + std::time::Duration::from_millis(300);
        let mut open = false;
        let outcome = loop {
            let step =
                if open { layers.read(&mut io, &mut buffer) } else { layers.open(&mut io).map(|()| 0) };
            match step {
                Ok(0) if !open => open = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && std::time::Instant::now() < end => {
                    thread::sleep(std::time::Duration::from_micros(50));
                }
                other => break other,
            }
        };
        match outcome {
            Ok(n) => assert_eq!(&buffer[..n], b"hello", "byte {at}"),
            Err(e) => {
                assert!(e.kind() == io::ErrorKind::WouldBlock || failure(&e) != IoFailure::Other(0), "{e}")
            }
        }
        drop(io);
        drop(layers);
        for thread in [server, up, down] {
            thread.join().unwrap();
        }
    }
}
