//! Answers of the API: JSON with an `error` field, 0 for success, and the HTTP status that belongs to it. Numbers up to
//! 7 are those of P2PD's documents.

use std::fmt;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use p2pd_core::TargetError;
use p2pd_core::pipe::subscriptions::PatternError;
use p2pd_core::text::shown;
use serde_json::{Value, json};

/// Reason why a call was not carried out.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Refused {
    NoSuchCall,
    WrongMethod,
    BadName,
    BadAddress(Box<TargetError>),
    /// A node id alone, and a daemon without `--lan`.
    NoLan,
    BadPattern(PatternError),
    BadTimeout,
    BadOption(&'static str),
    BadServer(String),
    UnknownOption(String),
    OptionTwice(String),
    NotText,
    /// The connection of this name exists.
    NameTaken,
    ConnectFailed(Value),
    NoSuchConnection(String),
    NoSuchSession(String),
    NoSuchStream,
    /// The stream has one direction, and not this one.
    OneWay,
    /// The peer reset or stopped the stream, with this code.
    GivenUp(u32),
    BadOrigin,
    BadHost,
    NoToken,
    Empty(String),
    NoSuchSubscription,
    NoLength,
    TooLong,
    BodyBroken,
    BodySlow,
    Piped,
    NotRelayed,
    OwnConnection,
    Ended,
    Busy,
    PeerSlow,
    TooMany(&'static str),
    NoSuchTransfer(u64),
    /// The transfer waits for no answer.
    NotOffered,
    /// The file's name is none, and why.
    BadFile(String),
    /// The file has not arrived, and why.
    NotSent(String),
    NoSuchForward(String),
    /// Nobody can listen at the place, and why.
    NotListened(String),
    /// The peer called, and no address of it is known.
    NoAddress(String),
    /// No files are received.
    NoFolder,
}

impl Refused {
    /// The number in the `error` field.
    pub(super) fn number(&self) -> u16 {
        match self {
            Refused::NoSuchCall => 1,
            Refused::NameTaken => 2,
            Refused::ConnectFailed(_) => 3,
            Refused::NoSuchConnection(_) => 4,
            Refused::BadOrigin => 5,
            Refused::Empty(_) | Refused::NoLength => 6,
            Refused::TooLong | Refused::BodyBroken | Refused::BodySlow => 7,
            Refused::BadHost => 20,
            Refused::NoToken => 21,
            Refused::WrongMethod => 22,
            Refused::BadName => 23,
            Refused::BadAddress(_) | Refused::NoLan => 24,
            Refused::BadPattern(_) => 25,
            Refused::BadTimeout | Refused::BadOption(_) | Refused::NotText => 26,
            Refused::UnknownOption(_) | Refused::OptionTwice(_) | Refused::BadServer(_) => 26,
            Refused::NoSuchSubscription => 27,
            Refused::Piped => 28,
            Refused::OwnConnection => 29,
            Refused::Ended => 30,
            Refused::Busy | Refused::PeerSlow => 31,
            Refused::TooMany(_) => 32,
            Refused::NotRelayed => 33,
            Refused::NoSuchSession(_) => 34,
            Refused::NoSuchStream => 35,
            Refused::OneWay => 36,
            Refused::GivenUp(_) => 37,
            Refused::NoSuchTransfer(_) => 38,
            Refused::NotOffered => 39,
            Refused::BadFile(_) => 40,
            Refused::NotSent(_) => 41,
            Refused::NoSuchForward(_) => 42,
            Refused::NotListened(_) => 43,
            Refused::NoAddress(_) => 44,
            Refused::NoFolder => 45,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Refused::NoSuchCall
            | Refused::NoSuchConnection(_)
            | Refused::NoSuchSubscription
            | Refused::NoSuchSession(_)
            | Refused::NoSuchStream
            | Refused::NoSuchTransfer(_)
            | Refused::NoSuchForward(_) => StatusCode::NOT_FOUND,
            Refused::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Refused::BadName
            | Refused::BadAddress(_)
            | Refused::NoLan
            | Refused::BadPattern(_)
            | Refused::BadTimeout
            | Refused::BadOption(_)
            | Refused::BadServer(_)
            | Refused::UnknownOption(_)
            | Refused::OptionTwice(_)
            | Refused::NotText
            | Refused::BadFile(_)
            | Refused::BodyBroken => StatusCode::BAD_REQUEST,
            Refused::NameTaken | Refused::Piped | Refused::NotRelayed | Refused::OneWay => {
                StatusCode::CONFLICT
            }
            Refused::NotOffered
            | Refused::NotSent(_)
            | Refused::NotListened(_)
            | Refused::NoAddress(_)
            | Refused::NoFolder => StatusCode::CONFLICT,
            Refused::ConnectFailed(_) => StatusCode::BAD_GATEWAY,
            Refused::BadOrigin => StatusCode::FORBIDDEN,
            Refused::BadHost => StatusCode::MISDIRECTED_REQUEST,
            Refused::NoToken => StatusCode::UNAUTHORIZED,
            Refused::Empty(_) | Refused::PeerSlow => StatusCode::GATEWAY_TIMEOUT,
            Refused::NoLength => StatusCode::LENGTH_REQUIRED,
            Refused::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::BodySlow => StatusCode::REQUEST_TIMEOUT,
            Refused::OwnConnection => StatusCode::UPGRADE_REQUIRED,
            Refused::Ended | Refused::GivenUp(_) => StatusCode::GONE,
            Refused::Busy | Refused::TooMany(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let mut body = json!({"error": self.number(), "msg": self.to_string()});
        if let Refused::ConnectFailed(report) = self {
            body["report"] = report.clone();
        }
        let mut answer = json_answer(self.status(), &body);
        match self {
            Refused::NoToken => {
                let scheme = HeaderValue::from_static("Bearer realm=\"p2pd\"");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            // RFC 9110 asks for the list of what would do.
            Refused::WrongMethod => {
                let allow = HeaderValue::from_static("GET, HEAD, POST, DELETE");
                answer.headers_mut().insert(header::ALLOW, allow);
            }
            Refused::OwnConnection => {
                answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            _ => {}
        }
        answer
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoSuchCall => f.write_str("No API method found."),
            Refused::WrongMethod => f.write_str("This path has no such method."),
            Refused::BadName => {
                f.write_str("A name is 1 to 64 letters, digits, dots, hyphens and underscores.")
            }
            Refused::BadAddress(why) => write!(f, "Not an address: {why}."),
            Refused::NoLan => f.write_str(
                "A node id without an address: a daemon that runs with --lan searches for it in its network.",
            ),
            Refused::BadPattern(why) => write!(f, "Not a pattern: {why}."),
            Refused::BadTimeout => f.write_str("A timeout is 0 to 3600 seconds."),
            Refused::BadOption(option) => write!(f, "The option {option} has a value that it cannot have."),
            Refused::BadServer(why) => write!(f, "The body is no entry of [[turn]] as JSON: {why}."),
            Refused::UnknownOption(option) => {
                write!(f, "This call has no option {}.", shown(&option.chars().take(64).collect::<String>()))
            }
            Refused::OptionTwice(option) => {
                write!(
                    f,
                    "The option {} is given twice, or there are more than 16.",
                    shown(&option.chars().take(64).collect::<String>())
                )
            }
            Refused::NotText => f.write_str("Not UTF-8."),
            Refused::NameTaken => f.write_str("Con name already exists."),
            Refused::ConnectFailed(_) => f.write_str("Con failed connect."),
            Refused::NoSuchConnection(name) => write!(f, "Con name {name} not found."),
            Refused::NoSuchSession(name) => write!(f, "Session name {name} not found."),
            Refused::NoSuchStream => {
                f.write_str("The session has no stream of this number, or its two directions are over.")
            }
            Refused::OneWay => f.write_str("The stream has the other direction only."),
            Refused::GivenUp(code) => write!(f, "The peer gave the stream up, with code {code}."),
            Refused::BadOrigin => f.write_str("Invalid origin."),
            Refused::BadHost => f.write_str("The Host header names another server."),
            Refused::NoToken => f.write_str("This call needs the token."),
            Refused::Empty(name) => write!(f, "recv buffer {name} empty."),
            Refused::NoSuchSubscription => f.write_str("There is no such subscription."),
            Refused::NoLength => f.write_str("No body: neither Content-Length nor chunks."),
            Refused::TooLong => f.write_str("The body is too long."),
            Refused::BodyBroken => f.write_str("The body is not as long as its Content-Length."),
            Refused::BodySlow => f.write_str("The body came too slowly."),
            Refused::Piped => f.write_str("A client has this connection for itself."),
            Refused::NotRelayed => f.write_str("Only a relayed connection has messages beside its bytes."),
            Refused::OwnConnection => {
                f.write_str("A pipe is the first request of a connection, or a WebSocket.")
            }
            Refused::Ended => f.write_str("The connection has ended."),
            Refused::Busy => f.write_str("Too many sends wait on this connection."),
            Refused::PeerSlow => f.write_str("The peer did not take it in time; it is still being sent."),
            Refused::TooMany(what) => write!(f, "There are too many {what}."),
            Refused::NoSuchTransfer(number) => write!(f, "There is no transfer {number}."),
            Refused::NotOffered => f.write_str("The transfer waits for no answer."),
            Refused::BadFile(why) => write!(f, "Not a file's name: {why}."),
            Refused::NotSent(why) => write!(f, "The file was not sent: {why}."),
            Refused::NoFolder => f.write_str("No files are received: the daemon was not given --files."),
            Refused::NoSuchForward(name) => write!(f, "Forward {name} not found."),
            Refused::NotListened(why) => write!(f, "The place cannot be listened at: {why}."),
            Refused::NoAddress(name) => {
                write!(f, "The peer opened {name}, and its address is not known here: give it.")
            }
        }
    }
}

pub(super) type Answer = Response<Body>;

/// Success.
pub(super) fn ok(mut body: Value) -> Answer {
    body["error"] = 0.into();
    json_answer(StatusCode::OK, &body)
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    // As P2PD has it: sorted and indented, for people with curl.
    let mut text = serde_json::to_string_pretty(body).unwrap_or_default();
    text.push('\n');
    typed(status, "application/json", text)
}

/// An answer that no browser takes for something else, and no cache keeps.
pub(super) fn typed(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
