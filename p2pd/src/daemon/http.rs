//! Calls carried out.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use bytes::Bytes;
use futures_util::StreamExt;
use p2pd_core::nat::Verdict;
use p2pd_core::pipe::subscriptions::{Message, Overflow, Queue};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;

use super::answer::{Answer, Refused, ok, typed};
use super::call::{self, Call, LONGEST, Name, seconds};
use super::connection::BesideCall;
use super::files::{self, FileCall, Receiver};
use super::forwards::{self, ForwardCall};
use super::guard::{Guard, Query, Via, check_target};
use super::queues::{QueueCall, Queues};
use super::sessions::{self, SessionCall};
use super::turn::{self, TurnCall};
use super::{Daemon, Wanted, plan, relay};
use crate::metrics::{self, Way};
use crate::say::nat;

/// Longest body. Longer data goes over `/p2p/pipe`.
const MAX_BODY: usize = 8 << 20;
/// Longest entry of a server, whose certificates may be in it.
const MAX_ENTRY: usize = 64 << 10;
/// Longest time for the arrival of a body.
const BODY: Duration = Duration::from_secs(30);
/// Time to call the peer of a forward where the call gives none.
const FORWARD: Duration = Duration::from_secs(40);
/// Time to look for reports on NATs that are there already.
const MEASURED: Duration = Duration::from_millis(100);
/// Longest message of a WebSocket.
const MAX_MESSAGE: usize = 1 << 20;

const PAGE: &str = include_str!("page.html");
const OPENAPI: &str = include_str!("openapi.json");

/// The page, whose script a nonce of this process allows, and its policy: nothing from elsewhere, in no frame.
pub(super) fn page() -> std::io::Result<(String, String)> {
    let nonce = data_encoding::HEXLOWER.encode(&p2pd_tokio::random_seed()?[..16]);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Ok((PAGE.replace("NONCE", &nonce), policy))
}

/// Handles any request but a raw `/p2p/pipe`.
pub(super) async fn handle(daemon: Arc<Daemon>, via: Via, request: Request<Body>) -> Answer {
    if let Err(why) = check_target(request.uri()) {
        return why.answer();
    }
    if request.method() == Method::OPTIONS {
        return preflight(via, request.headers()).unwrap_or_else(|why| why.answer());
    }
    let (call, query, origin) = match admit(
        &daemon,
        via,
        request.method(),
        request.headers(),
        request.uri().path(),
        request.uri().query(),
    ) {
        Ok(admitted) => admitted,
        Err(why) => {
            tracing::debug!(target: "p2pd::api", status = why.status().as_u16(), %why, "refused");
            return why.answer();
        }
    };
    let asked = tracing::enabled!(target: "p2pd::api", tracing::Level::DEBUG).then(|| {
        // What follows the name is the user's, and the query may be the token.
        let path: String = request.uri().path().splitn(5, '/').take(4).collect::<Vec<_>>().join("/");
        (request.method().clone(), path, std::time::Instant::now())
    });
    let mut answer = carry_out(daemon, call, &query, request).await.unwrap_or_else(|why| why.answer());
    if let Some((method, path, began)) = asked {
        let (status, ms) = (answer.status().as_u16(), began.elapsed().as_secs_f64() * 1e3);
        tracing::debug!(target: "p2pd::api", %method, path, status, ms, "answered");
    }
    if let Some(origin) = origin {
        answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    }
    answer
}

/// Parses a request and checks whether it may be carried out.
pub(super) fn admit(
    daemon: &Daemon,
    via: Via,
    method: &Method,
    headers: &HeaderMap,
    path: &str,
    query: Option<&str>,
) -> Result<(Call, Query, Option<HeaderValue>), Refused> {
    let query = Query::parse(query)?;
    let call = Call::parse(method, path);
    // That a path is none, or has a mistake in it, is told to whoever may ask for the version.
    let asked = call.as_ref().unwrap_or(&Call::Version);
    let origin = daemon.guard.check(via, headers, query.get("token"), asked)?;
    Ok((call?, query, origin))
}

fn preflight(via: Via, headers: &HeaderMap) -> Result<Answer, Refused> {
    let origin = Guard::preflight(via, headers)?;
    let mut answer = typed(StatusCode::NO_CONTENT, "text/plain", "");
    let allow = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, DELETE")),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type, x-p2pd-token, x-requested-with"),
        ),
    ];
    answer.headers_mut().extend(allow);
    Ok(answer)
}

async fn carry_out(
    daemon: Arc<Daemon>,
    call: Call,
    query: &Query,
    request: Request<Body>,
) -> Result<Answer, Refused> {
    query.only(match call {
        Call::Open(..) => {
            &["strategies", "mode", "protocol", "timeout", "relay_first", "overflow", "queue", "unique"]
        }
        Call::Subscribe(..)
        | Call::Turn(_, TurnCall::Queue(QueueCall::Subscribe(_)))
        | Call::Beside(_, BesideCall::Queue(QueueCall::Subscribe(_))) => &["overflow", "queue"],
        Call::Turn(_, TurnCall::Open) => &["family", "timeout", "overflow", "queue"],
        Call::Session(_, SessionCall::Open(_)) => &["strategies", "protocol", "timeout", "relay_first"],
        Call::Session(_, SessionCall::Stream) => &["tag", "uni"],
        Call::File(FileCall::Send(..) | FileCall::SendOn(..) | FileCall::SendByCode(_)) => &["modified"],
        Call::Forward(_, ForwardCall::Open(_)) => &["service", "at", "socks", "strategies", "timeout"],
        _ => &[],
    })?;
    match call {
        Call::Page => {
            let mut answer = typed(StatusCode::OK, "text/html; charset=utf-8", daemon.page.0.clone());
            let policy = HeaderValue::from_str(&daemon.page.1)
                .unwrap_or(HeaderValue::from_static("default-src 'none'"));
            answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            answer.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            answer.headers_mut().insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
            Ok(answer)
        }
        Call::OpenApi => Ok(typed(StatusCode::OK, "application/json", OPENAPI)),
        Call::Version => Ok(ok(json!({
            "title": "p2pd", "author": "the p2pd developers", "version": env!("CARGO_PKG_VERSION"),
        }))),
        Call::Metrics => Ok(typed(StatusCode::OK, metrics::TYPE, daemon.metrics().await)),
        Call::Address => {
            let mut said = json!({"addr": daemon.node.address().await.to_string()});
            if let Some(name) = daemon.name {
                said["name"] = name.to_string().into();
            }
            Ok(ok(said))
        }
        Call::Qr => {
            let picture = qr(&daemon.node.address().await.to_string()).ok_or(Refused::TooLong)?;
            Ok(typed(StatusCode::OK, "image/svg+xml", picture))
        }
        Call::Interfaces => {
            let ours = daemon.node.current_address();
            let (mut ifs, routes) = daemon.places.to_json(ours.as_ref());
            // After a start it takes seconds until they are there, for which nobody is to wait here.
            let reports = tokio::time::timeout(MEASURED, daemon.node.nats()).await.unwrap_or_default();
            for of in &mut ifs {
                of["nat"] =
                    reports.iter().find(|report| of["ip"] == report.local.to_string()).map(nat).into();
            }
            Ok(ok(json!({"ifs": ifs, "routes": routes})))
        }
        Call::Nat => {
            let reports = daemon.node.nats().await;
            let (nats, verdict) = (reports.iter().map(nat).collect::<Vec<_>>(), Verdict::of(&reports));
            Ok(ok(json!({"nats": nats, "verdict": verdict.name(), "text": verdict.to_string()})))
        }
        Call::Events => events(&daemon),
        Call::List => Ok(ok(json!({"cons": daemon.list()}))),
        Call::Open(name, to) => {
            let timeout = query.get("timeout").map(seconds).transpose()?;
            let unique = number(query, "unique", 0, 100_000)?;
            let plan = plan(query, timeout)?;
            let wanted = Wanted { plan, queue: queue(query)?, unique };
            Ok(ok(daemon.open(name, to, wanted).await?.to_json()))
        }
        Call::Show(name) => Ok(ok(daemon.find(&name)?.to_json())),
        Call::Close(name) => {
            daemon.remove(&daemon.find(&name)?);
            Ok(ok(json!({"closed": name.0})))
        }
        Call::Send(name, text) => {
            let sent = daemon.find(&name)?.send(text.into()).await?;
            Ok(ok(json!({"name": name.0, "sent": sent})))
        }
        Call::PutBinary(name) => {
            let connection = daemon.find(&name)?;
            let sent = connection.send(body(&daemon, request, MAX_BODY).await?).await?;
            Ok(ok(json!({"name": name.0, "sent": sent})))
        }
        Call::Recv(name, of, _) if wants_events(request.headers()) => {
            let connection = daemon.find(&name)?;
            if !connection.knows(&of) {
                return Err(Refused::NoSuchSubscription);
            }
            pushed(&daemon, &connection, move |connection| {
                let of = of.clone();
                async move { connection.recv(&of, LONGEST).await }
            })
        }
        Call::Recv(name, of, timeout) => {
            let (message, dropped) = daemon.find(&name)?.recv(&of, timeout).await?;
            Ok(ok(received(&message, dropped)))
        }
        Call::Turn(name, call) => relayed(&daemon, name, call, query, request).await,
        Call::Beside(name, BesideCall::Send(text)) => {
            let sent = daemon.find(&name)?.send_beside(&text).await?;
            Ok(ok(json!({"name": name.0, "sent": sent})))
        }
        Call::Beside(name, BesideCall::Queue(call)) => {
            queued(&daemon, daemon.find(&name)?.beside()?, (name, call), query, request.headers()).await
        }
        Call::Turns => Ok(ok(json!({"turns": daemon.turns.list()}))),
        Call::Sessions => Ok(ok(json!({"sessions": daemon.sessions.list()}))),
        Call::Session(name, call) => session(&daemon, name, call, query, request).await,
        Call::File(call) => file(&daemon, call, query, request).await.map(ok),
        Call::Forwards => {
            let services = forwards::services(daemon.exposing.as_deref());
            Ok(ok(json!({"forwards": daemon.forwards.list(), "services": services})))
        }
        Call::Forward(name, ForwardCall::Show) => daemon.forwards.show(&name).map(ok),
        Call::Forward(name, ForwardCall::Close) => forwards::close(&daemon, &name).await.map(ok),
        Call::Forward(name, ForwardCall::Open(to)) => {
            // Somebody may have to say yes there, as with the command.
            let timeout = query.get("timeout").map(seconds).transpose()?.unwrap_or(FORWARD);
            let plan = plan(query, Some(timeout))?;
            forwards::open(&daemon, name, to, (plan, query)).await.map(ok)
        }
        Call::TakeBinary(name, of, timeout) => {
            let (message, _) = daemon.find(&name)?.recv(&of, timeout).await?;
            Ok(typed(StatusCode::OK, "application/octet-stream", message.data))
        }
        Call::Subscribe(name, to) => {
            daemon.find(&name)?.subscribe(&to, queue(query)?)?;
            Ok(ok(json!({"name": name.0, "sub": [to.message.as_str(), to.peer.as_str()]})))
        }
        Call::Unsubscribe(name, from) => {
            daemon.find(&name)?.unsubscribe(&from)?;
            Ok(ok(json!({"name": name.0, "unsub": [from.message.as_str(), from.peer.as_str()]})))
        }
        Call::Pipe(name) => {
            let connection = daemon.find(&name)?;
            let (mut parts, _) = request.into_parts();
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
            let upgrade = upgrade.map_err(|_| Refused::OwnConnection)?;
            let borrowed = connection.borrow().await?;
            let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
            Ok(upgrade.on_upgrade(|socket| relay::web_socket(daemon, borrowed, socket)))
        }
    }
}

async fn relayed(
    daemon: &Daemon,
    name: Name,
    call: TurnCall,
    query: &Query,
    request: Request<Body>,
) -> Result<Answer, Refused> {
    let turns = &daemon.turns;
    Ok(ok(match call {
        TurnCall::Open => {
            let timeout = query.get("timeout").map(seconds).transpose()?;
            let server = match entry(daemon, request).await? {
                Some(entry) => Some(turn::server(&entry, daemon.way.as_ref())?),
                None => None,
            };
            let wanted = (query.get("family"), timeout, server);
            turns.open(&daemon.node, &name, wanted, queue(query)?).await?
        }
        TurnCall::Close => turns.close(&name).await?,
        TurnCall::Send(to, data) => turns.send(&name, to, &data).await?,
        TurnCall::Queue(call) => {
            return queued(daemon, turns.queues(&name)?, (name, call), query, request.headers()).await;
        }
    }))
}

async fn session(
    daemon: &Arc<Daemon>,
    name: Name,
    call: SessionCall,
    query: &Query,
    request: Request<Body>,
) -> Result<Answer, Refused> {
    if let SessionCall::Open(to) = call {
        let timeout = query.get("timeout").map(seconds).transpose()?;
        return Ok(ok(sessions::open(daemon, name, to, plan(query, timeout)?).await?));
    }
    let held = daemon.sessions.find(&name)?;
    let binary = |bytes: Bytes| typed(StatusCode::OK, "application/octet-stream", bytes);
    let done = json!({"name": name.0});
    Ok(ok(match call {
        SessionCall::Open(_) | SessionCall::Show => held.to_json(),
        SessionCall::Close => {
            held.close();
            json!({"closed": name.0})
        }
        SessionCall::Stream => {
            let both = match query.get("uni") {
                None | Some("0" | "false") => true,
                Some("" | "1" | "true") => false,
                Some(_) => return Err(Refused::BadOption("uni")),
            };
            held.open(query.get("tag").unwrap_or_default(), both).await?
        }
        SessionCall::Accept(longest) => held.accept(longest).await?,
        SessionCall::Write(n) => {
            let sent = held.write(n, body(daemon, request, MAX_BODY).await?).await?;
            daemon.count(&held, Way::Sent, sent);
            json!({"name": name.0, "stream": n, "sent": sent})
        }
        SessionCall::Read(n, longest) => {
            return Ok(match held.read(n, longest).await? {
                Some(bytes) => {
                    daemon.count(&held, Way::Received, bytes.len());
                    binary(bytes)
                }
                None => typed(StatusCode::NO_CONTENT, "application/octet-stream", ""),
            });
        }
        SessionCall::Finish(n) => held.finish(n, None).await.map(|()| done)?,
        SessionCall::Reset(n, code) => held.finish(n, Some(code)).await.map(|()| done)?,
        SessionCall::Stop(n, code) => held.stop(n, code).map(|()| done)?,
        SessionCall::SendDatagram => {
            let sent = held.send_datagram(body(daemon, request, MAX_BODY).await?)?;
            json!({"name": name.0, "sent": sent})
        }
        SessionCall::ReadDatagram(longest) => return Ok(binary(held.read_datagram(longest).await?)),
    }))
}

async fn file(
    daemon: &Arc<Daemon>,
    call: FileCall,
    query: &Query,
    request: Request<Body>,
) -> Result<Value, Refused> {
    let (to, name) = match call {
        FileCall::List => return Ok(daemon.files.list()),
        FileCall::Accept(number) => return daemon.files.answer(number, true),
        FileCall::Refuse(number) => return daemon.files.answer(number, false),
        FileCall::End(number) => return daemon.files.end(number),
        FileCall::Send(to, name) => {
            let told = call::told(to.as_ref());
            (Receiver::Peer(to, told), name)
        }
        FileCall::SendOn(con, name) => {
            let to = daemon.find(&con)?.target(daemon.common.lan)?;
            (Receiver::Peer(Some(to), con.0), name)
        }
        FileCall::SendByCode(name) => (Receiver::ByCode, name),
        FileCall::Receive(code) => return files::receive(daemon, code).await,
    };
    let changed = query.get("modified").map(time).transpose()?;
    files::send(daemon, to, (&name, changed), request).await
}

/// Seconds since 1970, with a fraction or without, as whole seconds and nanoseconds.
fn time(text: &str) -> Result<(i64, u32), Refused> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = seconds.and_then(|since| Some((i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())));
    time.ok_or(Refused::BadOption("modified"))
}

/// The text of a POST's body; `None` without one.
async fn entry(daemon: &Daemon, request: Request<Body>) -> Result<Option<String>, Refused> {
    let headers = request.headers();
    let is_empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    if request.method() != Method::POST || is_empty && !headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(None);
    }
    let text = body(daemon, request, MAX_ENTRY).await?;
    String::from_utf8(text.into()).map(Some).map_err(|_| Refused::NotText)
}

/// Carries out a call of the queues of a pipe of messages.
async fn queued(
    daemon: &Daemon,
    queues: Arc<Queues>,
    (name, call): (Name, QueueCall),
    query: &Query,
    headers: &HeaderMap,
) -> Result<Answer, Refused> {
    Ok(match call {
        QueueCall::Recv(of, _) if wants_events(headers) => {
            queues.id(&of)?;
            pushed(daemon, &queues, move |queues| {
                let (name, of) = (name.clone(), of.clone());
                async move { queues.recv(&name, &of, LONGEST).await }
            })?
        }
        QueueCall::Recv(of, timeout) => {
            let (message, dropped) = queues.recv(&name, &of, timeout).await?;
            ok(received(&message, dropped))
        }
        QueueCall::Subscribe(to) => {
            queues.subscribe(&to, queue(query)?)?;
            ok(json!({"name": name.0, "sub": [to.message.as_str(), to.peer.as_str()]}))
        }
        QueueCall::Unsubscribe(from) => {
            queues.unsubscribe(&from)?;
            ok(json!({"name": name.0, "unsub": [from.message.as_str(), from.peer.as_str()]}))
        }
    })
}

/// Returns true if a client wants messages as they come, as `EventSource` does.
fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim() == "text/event-stream")
}

/// Messages of a source as they come, as server-sent events, and an event `end` behind the last. A client that does not
/// read keeps no source alive.
fn pushed<S, F>(
    daemon: &Daemon,
    source: &Arc<S>,
    next: impl Fn(Arc<S>) -> F + Send + 'static,
) -> Result<Answer, Refused>
where
    S: Send + Sync + 'static,
    F: Future<Output = Result<(Message, u64), Refused>> + Send + 'static,
{
    let of = (next, Arc::downgrade(source), stream(daemon)?);
    let stream = futures_util::stream::unfold(Some(of), |of| async {
        let of = of?;
        loop {
            let got = match of.1.upgrade() {
                Some(source) => (of.0)(source).await,
                None => Err(Refused::Ended),
            };
            let (event, goes_on) = match got {
                Ok((message, dropped)) => {
                    (sse::Event::default().data(received(&message, dropped).to_string()), true)
                }
                Err(Refused::Empty(_)) => continue,
                Err(why) => {
                    let why = json!({"error": why.number(), "msg": why.to_string()});
                    (sse::Event::default().event("end").data(why.to_string()), false)
                }
            };
            return Some((Ok::<_, std::convert::Infallible>(event), goes_on.then_some(of)));
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

/// One of the places for streams of events.
fn stream(daemon: &Daemon) -> Result<OwnedSemaphorePermit, Refused> {
    daemon.streams.clone().try_acquire_owned().map_err(|_| Refused::TooMany("streams of events"))
}

/// A message as the documents have it, and its bytes where they are no text.
fn received(message: &Message, dropped: u64) -> Value {
    let from = json!([message.from.ip().to_string(), message.from.port()]);
    let mut body = json!({
        "client_tup": from, "data": String::from_utf8_lossy(&message.data), "dropped": dropped,
    });
    if std::str::from_utf8(&message.data).is_err() {
        body["base64"] = data_encoding::BASE64.encode(&message.data).into();
    }
    body
}

/// A QR code, black on white, with its margin. `None` for more than it can hold, 2,331 bytes.
fn qr(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M).ok()?;
    Some(code.render::<svg::Color<'_>>().min_dimensions(200, 200).build())
}

/// A body of a stated length or in chunks, whole.
async fn body(daemon: &Daemon, request: Request<Body>, most: usize) -> Result<Bytes, Refused> {
    let headers = request.headers();
    match headers.get(header::CONTENT_LENGTH).map(|n| n.to_str().unwrap_or_default().parse::<usize>()) {
        Some(Ok(stated)) if stated <= most => {}
        Some(Ok(_)) => return Err(Refused::TooLong),
        Some(Err(_)) => return Err(Refused::BodyBroken),
        None if headers.contains_key(header::TRANSFER_ENCODING) => {}
        None => return Err(Refused::NoLength),
    }
    let _permit = daemon.bodies.acquire().await.map_err(|_| Refused::Busy)?;
    let whole = async {
        let (mut body, mut pieces) = (Vec::new(), request.into_body().into_data_stream());
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|_| Refused::BodyBroken)?;
            if body.len() + piece.len() > most {
                return Err(Refused::TooLong);
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.into())
    };
    tokio::time::timeout(BODY, whole).await.unwrap_or(Err(Refused::BodySlow))
}

fn events(daemon: &Daemon) -> Result<Answer, Refused> {
    let listening = (daemon.events.listen(), stream(daemon)?);
    let stream = futures_util::stream::unfold(listening, |mut listening| async {
        let event = match listening.0.recv().await {
            Ok(event) => sse::Event::default().data(event),
            // Whoever lags is told so, and can ask for the list again.
            Err(RecvError::Lagged(lost)) => {
                sse::Event::default().data(json!({"event": "lost", "events": lost}).to_string())
            }
            Err(RecvError::Closed) => return None,
        };
        Some((Ok::<_, std::convert::Infallible>(event), listening))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

/// `overflow` and `queue`.
fn queue(query: &Query) -> Result<Queue, Refused> {
    let overflow = match query.get("overflow") {
        None | Some("oldest") => Overflow::DropOldest,
        Some("newest") => Overflow::DropNewest,
        Some("wait") => Overflow::StopReading,
        Some(_) => return Err(Refused::BadOption("overflow")),
    };
    let default = Queue::default();
    Ok(Queue { messages: number(query, "queue", default.messages, default.messages)?, overflow, ..default })
}

fn number(query: &Query, key: &'static str, default: usize, most: usize) -> Result<usize, Refused> {
    match query.get(key).map(str::parse) {
        None => Ok(default),
        Some(Ok(n)) if n <= most => Ok(n),
        Some(_) => Err(Refused::BadOption(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_documented_is_there() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = document["paths"].as_object().unwrap();
        let mut kinds = std::collections::BTreeSet::new();
        for (path, methods) in paths {
            let path = path
                .replace("{address}", "self")
                .replace("{seconds}", "1")
                .replace("{ip}", "192.0.2.1")
                .replace("{port}", "7")
                .replace("{number}", "4")
                .replace("{code}", "9")
                .replace("{file}", "a%20b.txt")
                .replace("{transfer}", "3")
                .replace("{word}", "7-guitar-oxygen")
                .replace(['{', '}'], "");
            for method in ["get", "post", "delete", "put"] {
                let call = Call::parse(&Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &path);
                assert_eq!(call.is_ok(), methods.get(method).is_some(), "{method} {path}");
                let Ok(call) = call else { continue };
                let open = methods[method]["security"] == json!([]);
                assert_eq!(call.is_open(), open, "{method} {path}");
                kinds.insert(format!("{call:?}").split('(').next().map(str::to_owned));
            }
        }
        // Every kind of call there is.
        assert_eq!(kinds.len(), 28);
    }

    #[test]
    fn the_page_asks_nobody_else() {
        let (page, policy) = page().unwrap();
        for outside in ["http://", "https://", "//cdn", "@import", "url("] {
            assert_eq!(page.matches(outside).count(), 0, "{outside}");
        }
        assert!(
            !page.contains("NONCE")
                && !page.contains("innerHTML")
                && policy.starts_with("default-src 'none'")
        );
        assert_eq!(page.matches("nonce=").count(), 2);
    }

    #[test]
    fn a_qr_code_is_one_for_each_text_and_holds_long_ones() {
        let picture = qr("None-0-0-abc").unwrap();
        assert!(
            picture.starts_with("<?xml") && picture.contains("<svg") && !picture.contains("href"),
            "{picture}"
        );
        assert_ne!(picture, qr("None-0-0-abd").unwrap());
        assert!(qr(&"a".repeat(2331)).is_some() && qr(&"a".repeat(2332)).is_none());
    }
}
