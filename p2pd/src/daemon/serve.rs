//! The sockets of the API, and the first look at each connection: a plain `GET /p2p/pipe/NAME` is answered by no HTTP,
//! all else is hyper's.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use bytes::{Buf, Bytes};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::answer::Refused;
use super::call::Call;
use super::clients::{Answering, Clients, Held};
use super::guard::Via;
use super::{Daemon, http, relay};
#[cfg(unix)]
use crate::socket_file::{self, SocketFile};

/// Connections to the socket file at once; a further one waits.
#[cfg(unix)]
const UNIX_CLIENTS: usize = 256;
/// Longest time for a request's head, and longest idle time between two requests.
const HEAD: Duration = Duration::from_secs(10);
/// Longest time in which a client takes nothing of an answer.
const STUCK: Duration = Duration::from_secs(30);
/// Longest head.
const MAX_HEAD: usize = 16 * 1024;
/// Beginning of a request that may become the pipe.
const PIPE: &[u8] = b"GET /p2p/pipe/";

/// Sockets at which the API is served.
#[derive(Debug)]
pub(super) struct Listeners {
    tcp: TcpListener,
    at: SocketAddr,
    #[cfg(unix)]
    unix: Option<(tokio::net::UnixListener, SocketFile)>,
}

impl Listeners {
    pub(super) fn bind(at: SocketAddr, unix: Option<&Path>) -> Result<Self, String> {
        let open = || {
            let socket = std::net::TcpListener::bind(at)?;
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let tcp = open().map_err(|why| format!("--api {at}: {why}"))?;
        let at = tcp.local_addr().map_err(|why| why.to_string())?;
        #[cfg(unix)]
        let unix = unix
            .map(|path| {
                let named = |why: io::Error| format!("--unix {}: {why}", path.display());
                socket_file::bind(path).map_err(named)
            })
            .transpose()?;
        #[cfg(not(unix))]
        if unix.is_some() {
            return Err("--unix: there are no Unix sockets here".into());
        }
        Ok(Listeners {
            tcp,
            at,
            #[cfg(unix)]
            unix,
        })
    }

    pub(super) fn tcp(&self) -> SocketAddr {
        self.at
    }

    /// Serves for ever. Neither kind of socket waits for the other one.
    pub(super) async fn serve(self, daemon: Arc<Daemon>) {
        #[cfg(unix)]
        let (unix, _file) = self.unix.unzip();
        #[cfg(unix)]
        let by_file = async {
            match unix {
                Some(listener) => serve_unix(daemon.clone(), listener).await,
                None => std::future::pending().await,
            }
        };
        #[cfg(not(unix))]
        let by_file = std::future::pending::<()>();
        tokio::join!(serve_tcp(daemon.clone(), self.tcp), by_file);
    }
}

async fn serve_tcp(daemon: Arc<Daemon>, listener: TcpListener) {
    let clients = Clients::new(daemon.guard.token().is_some());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without a place it is closed.
                let Some(held) = clients.enter() else { continue };
                let daemon = daemon.clone();
                tokio::spawn(async move {
                    p2pd_sys::accepted(&stream);
                    let held = Arc::new(held);
                    tokio::select! {
                        () = client(daemon, Via::Tcp, stream, Some(held.clone())) => {}
                        () = held.pushed_out() => {}
                    }
                });
            }
            // Of a client that left, or for want of descriptors, which others give back.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

#[cfg(unix)]
async fn serve_unix(daemon: Arc<Daemon>, listener: tokio::net::UnixListener) {
    let clients = Arc::new(Semaphore::new(UNIX_CLIENTS));
    loop {
        let Ok(permit) = clients.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let daemon = daemon.clone();
                tokio::spawn(async move {
                    client(daemon, Via::Unix, stream, None).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn client(
    daemon: Arc<Daemon>,
    via: Via,
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    held: Option<Arc<Held>>,
) {
    let mut head = Vec::new();
    match timeout(HEAD, read_head(&mut stream, &mut head)).await {
        Ok(Ok(Some(end))) => pipe(&daemon, via, stream, (head, end), held.as_deref()).await,
        Ok(Ok(None)) => {
            let io = Rewound { first: head.into(), stream, stuck: None };
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let daemon = daemon.clone();
                let begun = held.as_ref().map(|held| {
                    held.begin(daemon.guard.shows_token(request.headers(), request.uri().query()))
                });
                async move {
                    let answer = http::handle(daemon, via, request.map(Body::new)).await;
                    Ok::<_, Infallible>(match begun {
                        Some(begun) => answer.map(|body| Body::new(Answering::new(body, begun))),
                        None => answer,
                    })
                }
            });
            let mut server = http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(MAX_HEAD)
                .half_close(false);
            // An error is the client's, who has left or sent no HTTP and was told so.
            let _ = server.serve_connection(TokioIo::new(io), service).with_upgrades().await;
        }
        Ok(Err(_)) | Err(_) => {}
    }
}

/// Reads until the kind of request is clear: `Some` is the end of the head of a plain pipe request.
async fn read_head(stream: &mut (impl AsyncRead + Unpin), head: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        let from = head.len();
        if stream.read_buf(head).await? == 0 {
            return Ok(None);
        }
        let same = head.len().min(PIPE.len());
        if head[..same] != PIPE[..same] || head.len() > MAX_HEAD {
            return Ok(None);
        }
        let begin = from.saturating_sub(3);
        if let Some(at) = head[begin..].windows(4).position(|w| w == b"\r\n\r\n") {
            let end = begin + at + 4;
            // What wants to be upgraded is a WebSocket's request.
            let upgrades = head[..end].to_ascii_lowercase().windows(10).any(|w| w == b"\r\nupgrade:");
            return Ok((!upgrades).then_some(end));
        }
    }
}

/// Handles a plain `GET /p2p/pipe/NAME`: the bytes after its head, in either direction, are the pipe's.
async fn pipe(
    daemon: &Arc<Daemon>,
    via: Via,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    (head, end): (Vec<u8>, usize),
    held: Option<&Held>,
) {
    let mut begun = None;
    let borrowed = async {
        let (target, headers) = parse(&head[..end])?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        begun = held.map(|held| held.begin(daemon.guard.shows_token(&headers, query)));
        match http::admit(daemon, via, &Method::GET, &headers, path, query)? {
            (Call::Pipe(name), query, _) => {
                query.only(&[])?;
                daemon.find(&name)?.borrow().await
            }
            _ => Err(Refused::NoSuchCall),
        }
    };
    let borrowed = borrowed.await;
    match borrowed {
        Ok(borrowed) => relay::stream(daemon, borrowed, Bytes::from(head).slice(end..), stream).await,
        Err(why) => {
            let _ = timeout(HEAD, refuse(&mut stream, &why)).await;
        }
    }
    drop(begun);
}

/// The target and the headers of a request's head.
pub(super) fn parse(head: &[u8]) -> Result<(&str, HeaderMap), Refused> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let complete = request.parse(head).is_ok_and(|status| status.is_complete());
    let target = request.path.filter(|_| complete).ok_or(Refused::BodyBroken)?;
    let mut headers = HeaderMap::new();
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Refused::BodyBroken)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Refused::BodyBroken)?;
        headers.append(name, value);
    }
    Ok((target, headers))
}

/// The answer, and then the end, once the client has seen it.
async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), why: &Refused) -> io::Result<()> {
    let (parts, body) = why.answer().into_parts();
    let body = axum::body::to_bytes(body, MAX_HEAD).await.map_err(io::Error::other)?;
    let mut text =
        format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", parts.status, body.len());
    for (name, value) in &parts.headers {
        text += &format!("{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    text += "\r\n";
    stream.write_all(text.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    // Closing a socket with unread bytes resets it, and the client would lose the answer.
    tokio::io::copy(&mut (&mut *stream).take(64 * 1024), &mut tokio::io::sink()).await.map(drop)
}

/// A stream whose first bytes, read already, are put back. Its reader must not stay away too long.
struct Rewound<S> {
    first: Bytes,
    stream: S,
    /// Timer of a write that has to wait.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..n]);
        self.first.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(done) = Pin::new(&mut self.stream).poll_write(cx, data) {
            self.stuck = None;
            return Poll::Ready(done);
        }
        let stuck =
            self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STUCK)));
        stuck.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
