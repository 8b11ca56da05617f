//! Access control of the API. The API is on loopback, where two kinds of strangers reach it. These are other users of
//! this machine, and every web page that a browser here shows. A browser is recognised by its headers.
//!
//! The reasons: ADR 31 in docs/src/adr.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq;

use super::answer::Refused;
use super::call::Call;

/// Way by which a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Via {
    Tcp,
    /// A socket file that only its owner may open: no browser, no other user.
    Unix,
}

/// Proofs that a request has to show.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None`: nothing, its user said so.
    token: Option<String>,
    /// True if an Origin of `null` needs no token.
    allow_null: bool,
}

impl Guard {
    pub(super) fn new(token: Option<String>, allow_null: bool) -> Self {
        Guard { token, allow_null }
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Checks whether the request may be carried out. Returns the origin whose pages may read the answer, if any.
    pub(super) fn check(
        &self,
        via: Via,
        headers: &HeaderMap,
        token: Option<&str>,
        call: &Call,
    ) -> Result<Option<HeaderValue>, Refused> {
        if via == Via::Unix {
            return Ok(None);
        }
        let shown = self.is_shown(headers, token);
        let mut hosts = headers.get_all(header::HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if is_loopback_host(host.as_bytes()) => {}
            // Only a browser can be rebound, and every browser sends one.
            (None, _) if shown || self.token.is_none() => {}
            _ => return Err(Refused::BadHost),
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (None, _) => None,
            (Some(origin), None) if is_loopback_origin(origin.as_bytes()) => Some(origin.clone()),
            // A page in a file has this one, and so has a frame that any site on the web sandboxes, whose WebSocket says
            // nothing else of where it comes from.
            (Some(origin), None) if origin == "null" && (shown || self.allow_null) => Some(origin.clone()),
            _ => return Err(Refused::BadOrigin),
        };
        // An image or a form of a web page has no Origin. Following a link to the page is all that other sites may cause.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if site == Some(b"cross-site") && origin.is_none() && !shown && !matches!(call, Call::Page) {
            return Err(Refused::BadOrigin);
        }
        if !shown && self.token.is_some() && !call.is_open() {
            return Err(Refused::NoToken);
        }
        Ok(origin.filter(|_| shown || self.token.is_none()))
    }

    /// Answers the question of a browser before it sends a token to another origin (CORS preflight).
    pub(super) fn preflight(via: Via, headers: &HeaderMap) -> Result<HeaderValue, Refused> {
        let host = headers.get(header::HOST).is_some_and(|host| is_loopback_host(host.as_bytes()));
        if via == Via::Tcp && !host {
            return Err(Refused::BadHost);
        }
        let allowed = |origin: &[u8]| origin == b"null" || is_loopback_origin(origin);
        let origin = headers.get(header::ORIGIN).filter(|origin| allowed(origin.as_bytes()));
        origin.cloned().ok_or(Refused::BadOrigin)
    }

    /// Returns true if these headers, or this query, show the token.
    pub(super) fn shows_token(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let query = Query::parse(query).unwrap_or_default();
        self.is_shown(headers, query.get("token"))
    }

    fn is_shown(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let Some(token) = &self.token else { return false };
        let own = headers.get("x-p2pd-token").map(HeaderValue::as_bytes);
        let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
        [own, bearer, query.map(str::as_bytes)]
            .into_iter()
            .flatten()
            .any(|shown| bool::from(shown.ct_eq(token.as_bytes())))
    }
}

/// Checks the host that an absolute target names, whose user part no server of ours has.
pub(super) fn check_target(uri: &axum::http::Uri) -> Result<(), Refused> {
    let http = uri.scheme().is_none_or(|scheme| *scheme == axum::http::uri::Scheme::HTTP);
    match uri.authority() {
        Some(host) if !http || !is_loopback_host(host.as_str().as_bytes()) => Err(Refused::BadHost),
        _ => Ok(()),
    }
}

/// `localhost`, or an address of this machine's loopback, with a port or without: a tunnel has another port.
fn is_loopback_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let is_port = |port: &str| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit());
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, "")) => (v6, None),
        Some((v6, port)) => match port.strip_prefix(':') {
            Some(port) => (v6, Some(port)),
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let is_loopback = match name.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() && ip.is_ipv6() == host.starts_with('['),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    };
    is_loopback && port.is_none_or(is_port)
}

fn is_loopback_origin(origin: &[u8]) -> bool {
    origin.strip_prefix(b"http://").is_some_and(is_loopback_host)
}

/// Query of a request: each option once, and no others.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Result<Self, Refused> {
        let mut options = Vec::new();
        for pair in text.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text| percent_decode_str(text).decode_utf8().map_err(|_| Refused::NotText);
            let key = decoded(key)?.into_owned();
            if options.len() >= 16 || options.iter().any(|(other, _)| *other == key) {
                return Err(Refused::OptionTwice(key));
            }
            options.push((key, decoded(value)?.into_owned()));
        }
        Ok(Query(options))
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Refuses a query that has other options than these and the token.
    pub(super) fn only(&self, keys: &[&str]) -> Result<(), Refused> {
        let unknown =
            self.0.iter().map(|(key, _)| key).find(|key| *key != "token" && !keys.contains(&&***key));
        unknown.map_or(Ok(()), |key| Err(Refused::UnknownOption(key.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "5ec2e7";

    fn check(
        guard: &Guard,
        headers: &[(&'static str, &'static str)],
        query: Option<&str>,
        call: &Call,
    ) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        guard.check(Via::Tcp, &map, query, call).map_or_else(|why| why.status().as_u16(), |_| 200)
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:12333");

    #[test]
    fn only_loopback_names_are_ours() {
        for good in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1",
            "127.0.0.1:12333",
            "127.9.9.9:80",
            "[::1]",
            "[::1]:65535",
        ] {
            assert!(is_loopback_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:12333",
            "::1",
            "127.0.0.1:",
            "127.0.0.1:x",
            "127.0.0.1:+1",
            "127.0.0.1:65536",
            "user@127.0.0.1",
            "0.0.0.0",
            "[::]",
            "[127.0.0.1]",
            "192.168.0.1",
            "[::1]x",
            "[::1",
            "2130706433",
            "127.1",
            "localhost.",
            "localhost ",
        ] {
            assert!(!is_loopback_host(bad.as_bytes()), "{bad}");
        }
        assert!(!is_loopback_host(b"\xff"));
    }

    #[test]
    fn a_rebound_name_is_refused_whatever_else_is_shown() {
        let guard = Guard::new(Some(TOKEN.into()), false);
        for call in [Call::Version, Call::List] {
            assert_eq!(check(&guard, &[("host", "evil.example")], Some(TOKEN), &call), 421);
            assert_eq!(check(&guard, &[HERE, HERE], Some(TOKEN), &call), 421);
        }
        assert_eq!(check(&guard, &[], None, &Call::Version), 421);
        assert_eq!(check(&guard, &[], Some(TOKEN), &Call::List), 200);
    }

    #[test]
    fn a_missing_origin_is_no_permission() {
        let guard = Guard::new(Some(TOKEN.into()), false);
        assert_eq!(check(&guard, &[HERE], None, &Call::Version), 200);
        assert_eq!(check(&guard, &[HERE], None, &Call::List), 401);
        assert_eq!(check(&guard, &[HERE], Some("5ec2e8"), &Call::List), 401);
        assert_eq!(check(&guard, &[HERE], Some(""), &Call::List), 401);
        for shown in [("x-p2pd-token", TOKEN), ("authorization", "Bearer 5ec2e7")] {
            assert_eq!(check(&guard, &[HERE, shown], None, &Call::List), 200);
        }
        assert_eq!(check(&guard, &[HERE, ("authorization", "Basic 5ec2e7")], None, &Call::List), 401);
    }

    #[test]
    fn origins_of_others_are_refused_and_those_of_loopback_need_the_token_too() {
        let guard = Guard::new(Some(TOKEN.into()), false);
        for bad in [
            "http://evil.example",
            "https://127.0.0.1",
            "http://127.0.0.1.evil.example",
            "file://",
            "",
            "NULL",
        ] {
            assert_eq!(check(&guard, &[HERE, ("origin", bad)], Some(TOKEN), &Call::Version), 403, "{bad}");
        }
        for good in ["null", "http://127.0.0.1", "http://127.0.0.1:12333", "http://localhost:8080"] {
            let without = if good == "null" { 403 } else { 401 };
            assert_eq!(check(&guard, &[HERE, ("origin", good)], None, &Call::List), without, "{good}");
            assert_eq!(check(&guard, &[HERE, ("origin", good)], Some(TOKEN), &Call::List), 200, "{good}");
        }
        // Only with the token may a page of another origin read an answer.
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost"));
        headers.insert("origin", HeaderValue::from_static("http://localhost:8080"));
        let allowed = |token| guard.check(Via::Tcp, &headers, token, &Call::Version).unwrap();
        assert_eq!((allowed(None), allowed(Some(TOKEN))), (None, headers.get("origin").cloned()));
    }

    #[test]
    fn without_a_token_browsers_still_tell_on_pages_of_others() {
        let guard = Guard::new(None, false);
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(check(&guard, &[HERE], None, &Call::List), 200);
        assert_eq!(check(&guard, &[HERE, cross], None, &Call::List), 403);
        assert_eq!(check(&guard, &[HERE, cross, ("origin", "null")], None, &Call::List), 403);
        assert_eq!(check(&guard, &[HERE, cross], None, &Call::Page), 200);
        assert_eq!(check(&guard, &[HERE, ("sec-fetch-site", "same-origin")], None, &Call::List), 200);
        assert_eq!(check(&guard, &[("host", "evil.example")], None, &Call::List), 421);
        // A sandboxed frame's WebSocket has nothing but this.
        let pipe = Call::Pipe(super::super::call::Name("x".into()));
        let sandboxed = ("origin", "null");
        for call in [&pipe, &Call::List, &Call::Version] {
            assert_eq!(check(&guard, &[HERE, sandboxed], None, call), 403);
        }
        assert_eq!(check(&guard, &[HERE, ("origin", "http://127.0.0.1:8000")], None, &pipe), 200);
        assert_eq!(check(&guard, &[HERE, cross, ("origin", "http://localhost:8000")], None, &pipe), 200);
        assert_eq!(
            check(&Guard::new(Some(TOKEN.into()), false), &[HERE, sandboxed], Some(TOKEN), &pipe),
            200
        );
        let open = Guard::new(None, true);
        assert_eq!(check(&open, &[HERE, cross, sandboxed], None, &pipe), 200, "its user said so");
        assert_eq!(check(&open, &[HERE, cross], None, &pipe), 403, "an image is no page of a file");
    }

    #[test]
    fn pages_of_this_machine_read_answers_where_no_token_is_asked_for() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost"));
        headers.insert("origin", HeaderValue::from_static("http://127.0.0.1:8000"));
        let guard = Guard::new(None, false);
        let may_read = guard.check(Via::Tcp, &headers, None, &Call::List).unwrap();
        assert_eq!(may_read, headers.get("origin").cloned());
    }
}
