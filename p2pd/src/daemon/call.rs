//! Calls of the API: a method and a path, taken exactly. A path that only resembles one of the API is refused.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::Method;
use p2pd_core::Target;

use crate::lan;
use p2pd_core::pipe::subscriptions::{Pattern, PatternError};
use percent_encoding::percent_decode_str;

use super::answer::Refused;
use super::connection::BesideCall;
use super::files::FileCall;
use super::forwards::ForwardCall;
use super::queues::QueueCall;
use super::sessions::SessionCall;
use super::turn::{self, TurnCall};

/// Time that `recv` waits where the call gives none, as in P2PD's documents.
const RECV: Duration = Duration::from_secs(2);
/// Longest that may be waited.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// A call of the API.
#[derive(Debug)]
pub(super) enum Call {
    Page,
    OpenApi,
    Version,
    Metrics,
    Address,
    /// The address as a picture.
    Qr,
    Interfaces,
    Nat,
    Events,
    List,
    /// An address or a name that ends with `.peer`, or `None` for our own.
    Open(Name, Option<Target>),
    Show(Name),
    Close(Name),
    Send(Name, Vec<u8>),
    Recv(Name, Subscribed, Duration),
    PutBinary(Name),
    TakeBinary(Name, Subscribed, Duration),
    Pipe(Name),
    Subscribe(Name, Subscribed),
    Unsubscribe(Name, Subscribed),
    /// A relayed address at a TURN server.
    Turn(Name, TurnCall),
    /// All of these.
    Turns,
    /// The messages beside a relayed connection.
    Beside(Name, BesideCall),
    /// A session with its streams and datagrams.
    Session(Name, SessionCall),
    /// All of these.
    Sessions,
    File(FileCall),
    /// A door to a peer's service.
    Forward(Name, ForwardCall),
    /// All of these, and the services of this node.
    Forwards,
}

/// A connection's name: 1 to 64 letters, digits, dots, hyphens and underscores.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Name(pub(super) String);

/// The patterns that name a subscription.
#[derive(Clone, Debug)]
pub(super) struct Subscribed {
    pub(super) message: Pattern,
    pub(super) peer: Pattern,
}

impl Call {
    /// The call, or why there is none.
    pub(super) fn parse(method: &Method, path: &str) -> Result<Self, Refused> {
        let path = path.strip_prefix('/').ok_or(Refused::NoSuchCall)?;
        let parts: Vec<&str> = path.split('/').collect();
        let head = method == Method::HEAD;
        let (get, post, delete) =
            (head || method == Method::GET, method == Method::POST, method == Method::DELETE);
        // What changes something may be a POST too; P2PD's documents have GETs.
        let (allowed, call): (bool, Result<Call, Refused>) = match parts[..] {
            [""] => (get, Ok(Call::Page)),
            ["openapi.json"] => (get, Ok(Call::OpenApi)),
            ["version"] => (get, Ok(Call::Version)),
            ["metrics"] => (get, Ok(Call::Metrics)),
            ["nat"] => (get, Ok(Call::Nat)),
            ["events"] => (get, Ok(Call::Events)),
            ["ifs"] => (get, Ok(Call::Interfaces)),
            ["p2p", "addr"] => (get, Ok(Call::Address)),
            ["p2p", "addr", "qr"] => (get, Ok(Call::Qr)),
            ["p2p", "con"] => (get, Ok(Call::List)),
            ["p2p", "con", name] if delete => (true, named(name, Call::Close)),
            ["p2p", "con", name] => (get, named(name, Call::Show)),
            ["p2p", "close", name] => (get || post, named(name, Call::Close)),
            ["p2p", "open", name, to] => (get || post, open(name, to)),
            ["p2p", "send", name, ref text @ ..] if !text.is_empty() => {
                (get || post, send(name, text, Call::Send))
            }
            ["p2p", "pipe", name] => (get, named(name, Call::Pipe)),
            ["p2p", "recv", name, ref options @ ..] => (get || post, recv(name, options, Call::Recv)),
            ["p2p", "binary", name] if post => (true, named(name, Call::PutBinary)),
            ["p2p", "binary", name, ref options @ ..] => (get, recv(name, options, Call::TakeBinary)),
            ["p2p", "sub", name, ref options @ ..] if delete => (true, sub(name, options, Call::Unsubscribe)),
            ["p2p", "sub", name, ref options @ ..] => (get || post, sub(name, options, Call::Subscribe)),
            ["p2p", "turn"] => (get, Ok(Call::Turns)),
            ["p2p", "turn", name] if delete => (true, turned(name, TurnCall::Close)),
            ["p2p", "turn", name] => (get || post, turned(name, TurnCall::Open)),
            ["p2p", "turn", name, "close"] => (get || post, turned(name, TurnCall::Close)),
            ["p2p", "turn", name, "send", ip, port, ref text @ ..] if !text.is_empty() => {
                (get || post, send_from(name, (ip, port), text))
            }
            ["p2p", "msg", name, "send", ref text @ ..] if !text.is_empty() => {
                (get || post, send(name, text, |name, text| Call::Beside(name, BesideCall::Send(text))))
            }
            ["p2p", of @ ("turn" | "msg"), name, "recv", ref options @ ..] => (
                get || post,
                recv(name, options, |name, to, time| queued(of, name, QueueCall::Recv(to, time))),
            ),
            ["p2p", of @ ("turn" | "msg"), name, "sub", ref options @ ..] if delete => {
                (true, sub(name, options, |name, from| queued(of, name, QueueCall::Unsubscribe(from))))
            }
            ["p2p", of @ ("turn" | "msg"), name, "sub", ref options @ ..] => {
                (get || post, sub(name, options, |name, to| queued(of, name, QueueCall::Subscribe(to))))
            }
            ["p2p", "session"] => (get, Ok(Call::Sessions)),
            ["p2p", "session", name, ref rest @ ..] => session(name, rest, (get, post, delete))?,
            ["p2p", "file", ref rest @ ..] => file(rest, (get, post, delete))?,
            ["p2p", "forward"] => (get, Ok(Call::Forwards)),
            ["p2p", "forward", name] if delete => (true, forward(name, Ok(ForwardCall::Close))),
            ["p2p", "forward", name] => (get, forward(name, Ok(ForwardCall::Show))),
            ["p2p", "forward", name, "close"] => (post, forward(name, Ok(ForwardCall::Close))),
            ["p2p", "forward", name, "open", to] => (post, forward(name, peer(to).map(ForwardCall::Open))),
            _ => return Err(Refused::NoSuchCall),
        };
        match call {
            // Whoever asks for a head alone takes nothing away and changes nothing.
            Ok(call) if head && !call.is_safe() => Err(Refused::WrongMethod),
            call if allowed => call,
            _ => Err(Refused::WrongMethod),
        }
    }

    /// Returns true if the call only shows something.
    fn is_safe(&self) -> bool {
        match self {
            Call::Page | Call::OpenApi | Call::Version | Call::Address | Call::Qr | Call::Metrics => true,
            Call::Interfaces | Call::Nat | Call::List | Call::Show(_) | Call::Turns => true,
            Call::Events | Call::Open(..) | Call::Close(_) | Call::Send(..) | Call::Recv(..) => false,
            Call::PutBinary(_) | Call::TakeBinary(..) | Call::Pipe(_) | Call::Turn(..) => false,
            Call::Subscribe(..) | Call::Unsubscribe(..) | Call::Beside(..) => false,
            Call::Sessions | Call::Session(_, SessionCall::Show) => true,
            Call::Forwards | Call::Forward(_, ForwardCall::Show) | Call::File(FileCall::List) => true,
            Call::Session(..) | Call::Forward(..) | Call::File(_) => false,
        }
    }

    /// Returns true if anybody on this machine may make the call without a token. All other calls change something,
    /// take messages away, or tell this node's peers.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Call::Page | Call::OpenApi | Call::Version | Call::Address | Call::Qr)
    }
}

fn name(text: &str) -> Result<Name, Refused> {
    let text = decoded(text)?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    // A dot is what clients make shorter paths of.
    if (1..=64).contains(&text.len()) && text.bytes().all(good) && text != "." && text != ".." {
        Ok(Name(text.into_owned()))
    } else {
        Err(Refused::BadName)
    }
}

fn named(text: &str, call: impl FnOnce(Name) -> Call) -> Result<Call, Refused> {
    name(text).map(call)
}

fn open(named: &str, to: &str) -> Result<Call, Refused> {
    Ok(Call::Open(name(named)?, peer(to)?))
}

/// A call below `/p2p/session/NAME`, and whether it may have this method.
fn session(
    named: &str,
    rest: &[&str],
    (get, post, delete): (bool, bool, bool),
) -> Result<(bool, Result<Call, Refused>), Refused> {
    let either = get || post;
    let number = |text: &str| decoded(text)?.parse::<u32>().map_err(|_| Refused::BadOption("number"));
    let longest = |options: &[&str]| match options {
        [] => Ok(RECV),
        ["timeout", time] => seconds(&decoded(time)?),
        _ => Err(Refused::NoSuchCall),
    };
    let (allowed, call) = match *rest {
        [] if delete => (true, Ok(SessionCall::Close)),
        [] => (get, Ok(SessionCall::Show)),
        ["close"] => (either, Ok(SessionCall::Close)),
        ["open", to] => (either, peer(to).map(SessionCall::Open)),
        ["stream"] => (either, Ok(SessionCall::Stream)),
        ["accept", ref options @ ..] => (either, longest(options).map(SessionCall::Accept)),
        ["datagram"] if post => (true, Ok(SessionCall::SendDatagram)),
        ["datagram", ref options @ ..] => (get, longest(options).map(SessionCall::ReadDatagram)),
        ["stream", n] if post => (true, number(n).map(SessionCall::Write)),
        ["stream", n, "finish"] => (either, number(n).map(SessionCall::Finish)),
        ["stream", n, "reset", code] => {
            (either, number(n).and_then(|n| Ok(SessionCall::Reset(n, number(code)?))))
        }
        ["stream", n, "stop", code] => {
            (either, number(n).and_then(|n| Ok(SessionCall::Stop(n, number(code)?))))
        }
        ["stream", n, ref options @ ..] => {
            (get, number(n).and_then(|n| Ok(SessionCall::Read(n, longest(options)?))))
        }
        _ => return Err(Refused::NoSuchCall),
    };
    let call = call.and_then(|call| Ok(Call::Session(name(named)?, call)));
    Ok((allowed, call))
}

fn forward(named: &str, call: Result<ForwardCall, Refused>) -> Result<Call, Refused> {
    Ok(Call::Forward(name(named)?, call?))
}

/// A call below `/p2p/file`, and whether it may have this method.
fn file(
    rest: &[&str],
    (get, post, delete): (bool, bool, bool),
) -> Result<(bool, Result<Call, Refused>), Refused> {
    let number = |text: &str| decoded(text)?.parse::<u64>().map_err(|_| Refused::BadOption("number"));
    let text = |text: &str| decoded(text).map(Cow::into_owned);
    let (allowed, call) = match *rest {
        [] => (get, Ok(FileCall::List)),
        ["send", to, file] => (post, peer(to).and_then(|to| Ok(FileCall::Send(to, text(file)?)))),
        ["con", con, file] => (post, name(con).and_then(|con| Ok(FileCall::SendOn(con, text(file)?)))),
        ["code", file] => (post, text(file).map(FileCall::SendByCode)),
        ["receive", code] => {
            let code = text(code).and_then(|code| code.parse().map_err(|_| Refused::BadOption("code")));
            (post, code.map(FileCall::Receive))
        }
        [n] => (delete, number(n).map(FileCall::End)),
        [n, "accept"] => (post, number(n).map(FileCall::Accept)),
        [n, "refuse"] => (post, number(n).map(FileCall::Refuse)),
        _ => return Err(Refused::NoSuchCall),
    };
    Ok((allowed, call.map(Call::File)))
}

/// Returns the text of a peer that a call names: the reverse of [`peer`].
pub(super) fn told(to: Option<&Target>) -> String {
    to.map_or_else(|| "self".into(), ToString::to_string)
}

/// An address, a node id, a name that ends with `.peer`, or `None` for `self`.
fn peer(to: &str) -> Result<Option<Target>, Refused> {
    let bad = |why| Refused::BadAddress(Box::new(why));
    match &*decoded(to)? {
        "self" => Ok(None),
        other => match other.parse().ok().and_then(|id| lan::bare(id).ok()) {
            Some(bare) => Ok(Some(bare)),
            None => crate::peers::target(other).map(Some).map_err(bad),
        },
    }
}

/// The text may have slashes, and is bytes.
fn send(named: &str, text: &[&str], call: impl FnOnce(Name, Vec<u8>) -> Call) -> Result<Call, Refused> {
    Ok(call(name(named)?, percent_decode_str(&text.join("/")).collect()))
}

/// A call of the queues of a relayed address, or of the messages beside a connection.
fn queued(of: &str, name: Name, call: QueueCall) -> Call {
    if of == "turn" {
        Call::Turn(name, TurnCall::Queue(call))
    } else {
        Call::Beside(name, BesideCall::Queue(call))
    }
}

fn turned(named: &str, what: TurnCall) -> Result<Call, Refused> {
    Ok(Call::Turn(name(named)?, what))
}

/// The same from a relayed address.
fn send_from(named: &str, (ip, port): (&str, &str), text: &[&str]) -> Result<Call, Refused> {
    let to = turn::address(&decoded(ip)?, port).ok_or(Refused::BadOption("address"))?;
    turned(named, TurnCall::Send(to, percent_decode_str(&text.join("/")).collect()))
}

fn recv(
    named: &str,
    options: &[&str],
    call: impl FnOnce(Name, Subscribed, Duration) -> Call,
) -> Result<Call, Refused> {
    let (subscribed, timeout) = read_options(options, true)?;
    Ok(call(name(named)?, subscribed, timeout))
}

fn sub(named: &str, options: &[&str], call: impl FnOnce(Name, Subscribed) -> Call) -> Result<Call, Refused> {
    let (subscribed, _) = read_options(options, false)?;
    Ok(call(name(named)?, subscribed))
}

/// `/timeout/SECONDS`, `/msg_p/PATTERN` and `/addr_p/PATTERN`, each at most once, in any order.
fn read_options(options: &[&str], timed: bool) -> Result<(Subscribed, Duration), Refused> {
    let (mut message, mut peer, mut timeout) = (None, None, None);
    for pair in options.chunks(2) {
        let [key, value] = *pair else { return Err(Refused::NoSuchCall) };
        let pattern = |slot: &mut Option<Pattern>| match slot.replace(Pattern::new(&decoded(value)?)?) {
            None => Ok(()),
            Some(_) => Err(Refused::NoSuchCall),
        };
        match key {
            "msg_p" => pattern(&mut message)?,
            "addr_p" => pattern(&mut peer)?,
            "timeout" if timed && timeout.is_none() => timeout = Some(seconds(&decoded(value)?)?),
            _ => return Err(Refused::NoSuchCall),
        }
    }
    let subscribed =
        Subscribed { message: message.unwrap_or(Pattern::ANY), peer: peer.unwrap_or(Pattern::ANY) };
    Ok((subscribed, timeout.unwrap_or(RECV)))
}

/// Seconds, with a fraction or without; 0 does not wait.
pub(super) fn seconds(text: &str) -> Result<Duration, Refused> {
    let seconds: f64 = text.parse().map_err(|_| Refused::BadTimeout)?;
    Duration::try_from_secs_f64(seconds).ok().filter(|t| *t <= LONGEST).ok_or(Refused::BadTimeout)
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Refused> {
    percent_decode_str(text).decode_utf8().map_err(|_| Refused::NotText)
}

impl From<PatternError> for Refused {
    fn from(why: PatternError) -> Self {
        Refused::BadPattern(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<Call, Refused> {
        Call::parse(&Method::GET, path)
    }

    fn code(result: Result<Call, Refused>) -> u16 {
        result.map_or_else(|why| why.status().as_u16(), |_| 200)
    }

    #[test]
    fn paths_are_exact() {
        for path in [
            "",
            "version",
            "//version",
            "/version/",
            "/xyz/version",
            "/Version",
            "/versions",
            "/p2p",
            "/p2p/",
            "/p2p/addr/",
            "/p2p/open/a",
            "/p2p/open/a/b/c",
            "/p2p/send/a",
            "/p2p/recv",
            "/p2p/pipe/a/b",
            "/p2p/recv/a/timeout",
            "/p2p/recv/a/timeout/1/timeout/2",
            "/p2p/recv/a/other/1",
            "/p2p/sub/a/timeout/1",
            "/p2p/sub/a/msg_p",
            "/p2p/sub/a/msg_p/x/msg_p/y",
            "/p2p/session/a/",
            "/p2p/session/a/open",
            "/p2p/session/a/stream/1/other",
            "/p2p/session/a/stream/1/timeout",
            "/p2p/session/a/accept/1",
            "/%76ersion",
            "*",
        ] {
            assert_eq!(code(parse(path)), 404, "{path}");
        }
        for path in ["/", "/version", "/p2p/addr", "/p2p/con", "/p2p/open/a/self", "/nat", "/events"] {
            assert_eq!(code(parse(path)), 200, "{path}");
        }
    }

    #[test]
    fn methods_are_exact() {
        let code = |method: Method, path| code(Call::parse(&method, path));
        assert_eq!(code(Method::POST, "/version"), 405);
        assert_eq!(code(Method::DELETE, "/p2p/send/a/b"), 405);
        assert_eq!(code(Method::PUT, "/p2p/binary/a"), 405);
        for (path, head) in [
            ("/", 200),
            ("/version", 200),
            ("/p2p/con/a", 200),
            ("/p2p/con", 200),
            ("/p2p/turn", 200),
            ("/p2p/turn/a", 405),
            ("/nothing", 404),
        ] {
            assert_eq!(code(Method::HEAD, path), head, "{path}");
        }
        for path in
            ["/p2p/recv/a", "/p2p/open/a/self", "/p2p/send/a/b", "/p2p/close/a", "/p2p/sub/a", "/events"]
        {
            assert_eq!(code(Method::HEAD, path), 405, "{path}");
        }
        assert_eq!(code(Method::POST, "/p2p/open/a/self"), 200);
        assert_eq!(code(Method::DELETE, "/p2p/sub/a/msg_p/x"), 200);
        assert_eq!(code(Method::DELETE, "/p2p/con/a"), 200);
    }

    #[test]
    fn streams_have_numbers_and_sessions_names() {
        let code = |method: Method, path: &str| code(Call::parse(&method, &format!("/p2p/session{path}")));
        for (path, get, post, delete) in [
            ("", 200, 405, 405),
            ("/a", 200, 405, 200),
            ("/a/open/self", 200, 200, 405),
            ("/a/stream", 200, 200, 405),
            ("/a/accept/timeout/0.5", 200, 200, 405),
            ("/a/datagram", 200, 200, 405),
            ("/a/datagram/timeout/1", 200, 405, 405),
            ("/a/stream/0", 200, 200, 405),
            ("/a/stream/7/timeout/1", 200, 405, 405),
            ("/a/stream/4294967295/finish", 200, 200, 405),
            ("/a/stream/1/reset/9", 200, 200, 405),
            ("/a/stream/1/stop/9", 200, 200, 405),
            ("/a/stream/4294967296", 400, 400, 405),
            ("/a/stream/-1/finish", 400, 400, 405),
            ("/a/stream/1/reset/x", 400, 400, 405),
            ("/a/stream/1/timeout/-1", 400, 405, 405),
            ("/a%2Fb", 400, 405, 400),
            ("/a/open/example", 400, 400, 405),
        ] {
            let codes = [Method::GET, Method::POST, Method::DELETE].map(|method| code(method, path));
            assert_eq!(codes, [get, post, delete], "{path}");
        }
        assert_eq!((code(Method::HEAD, "/a"), code(Method::HEAD, "/a/stream/1")), (200, 405));
    }

    #[test]
    fn a_peer_is_an_address_or_a_name() {
        let to = |path: &str| match parse(path) {
            Ok(Call::Open(_, to)) => Ok(to.map(|to| to.to_string())),
            other => Err(code(other)),
        };
        assert_eq!(to("/p2p/open/a/self"), Ok(None));
        assert_eq!(to("/p2p/open/a/Example.peer"), Ok(Some("example.peer".into())));
        assert_eq!(to("/p2p/open/a/None-0-0-x"), Ok(Some("None-0-0-x".into())));
        for bad in ["example", ".peer", "a_b.peer", "a.b.peer", "example.peer%00", "example.PEER"] {
            assert_eq!(to(&format!("/p2p/open/a/{bad}")), Err(400), "{bad}");
        }
    }

    #[test]
    fn names_are_exact() {
        let long = "n".repeat(64);
        for good in ["a", "con_name", "A.b-9", "%61", &long] {
            assert_eq!(code(parse(&format!("/p2p/con/{good}"))), 200, "{good}");
        }
        let long = "n".repeat(65);
        for bad in ["", ".", "..", "%2e%2E", "a%2Fb", "a b", "a%20b", "a%00", "caf%C3%A9", "a'b", &long] {
            assert_eq!(code(parse(&format!("/p2p/con/{bad}"))), 400, "{bad}");
        }
        assert_eq!(code(parse("/p2p/con/%ff")), 400);
    }

    #[test]
    fn a_text_is_any_bytes_and_no_control_word() {
        let sent = |path: &str| match parse(path) {
            Ok(Call::Send(Name(name), text)) => (name, text),
            other => panic!("{other:?}"),
        };
        for (path, text) in [
            ("/p2p/send/a/ECHO%20hello,%20world!", &b"ECHO hello, world!"[..]),
            ("/p2p/send/a//version", b"/version"),
            ("/p2p/send/a/b/p2p/close/a", b"b/p2p/close/a"),
            ("/p2p/send/a/%ff%00%0d%0a", b"\xff\x00\r\n"),
            ("/p2p/send/a/%zz+", b"%zz+"),
            ("/p2p/send/a/", b""),
        ] {
            assert_eq!(sent(path), ("a".into(), text.to_vec()));
        }
    }

    #[test]
    fn patterns_are_taken_from_their_places() {
        let subscribed = |path: &str| match parse(path) {
            Ok(Call::Recv(_, s, t)) => (s.message.as_str().to_owned(), s.peer.as_str().to_owned(), t),
            other => panic!("{other:?}"),
        };
        let two = Duration::from_secs(2);
        assert_eq!(subscribed("/p2p/recv/a"), ("".into(), "".into(), two));
        assert_eq!(
            subscribed("/p2p/recv/a/msg_p/[hH]e[l]+o/addr_p/%2F%5C%2F"),
            ("[hH]e[l]+o".into(), r"/\/".into(), two)
        );
        let (message, _, timeout) = subscribed("/p2p/recv/a/addr_p/x/timeout/0.25/msg_p/timeout");
        assert_eq!((message.as_str(), timeout), ("timeout", Duration::from_millis(250)));
        for bad in [
            "/timeout/-1",
            "/timeout/nan",
            "/timeout/inf",
            "/timeout/3601",
            "/timeout/",
            "/msg_p/(",
            "/msg_p/%ff",
        ] {
            assert_eq!(code(parse(&format!("/p2p/recv/a{bad}"))), 400, "{bad}");
        }
        // Python's, which P2PD handed to eval().
        let eval = "/p2p/sub/a/addr_p/('1'+str(__import__('os').getpid()),0)";
        let Ok(Call::Subscribe(_, s)) = parse(eval) else { panic!() };
        assert_eq!(s.peer.as_str(), "('1'+str(__import__('os').getpid()),0)");
    }

    /// Every prefix of every path, and each with one byte changed: an answer, and never a panic.
    #[test]
    fn any_path_is_answered() {
        let paths = [
            "/p2p/sub/name/msg_p/[hH]e[l]+o%2F/addr_p/(a+)+$",
            "/p2p/recv/name/timeout/1e3/msg_p/x{1,9}",
            "/p2p/open/name/0-[0,8.8.8.8,192.168.21.21,58959,3,2,0]-0-zmUGXPOFxBUuToh",
            "/p2p/send/name/%F0%9F%92%A9//?",
        ];
        let mut answered = 0;
        for path in paths {
            for end in 0..=path.len() {
                for at in 0..end {
                    for other in *b"/%(\\{[\0\x7f+0" {
                        let mut bytes = path.as_bytes()[..end].to_vec();
                        bytes[at] = other;
                        let text = String::from_utf8(bytes).unwrap();
                        let status = code(parse(&text));
                        assert!([200, 400, 404].contains(&status), "{text}: {status}");
                        answered += 1;
                    }
                }
            }
        }
        assert_eq!(answered, 10 * paths.map(|p| p.len() * (p.len() + 1) / 2).iter().sum::<usize>());
    }
}
