//! HTTP/1.1 (RFC 9112) as devices speak it: one request and one answer.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::address::scoped;

/// Longest status line and headers.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// Longest line before a chunk. It is parsed anew each time that more of it comes.
const MAX_CHUNK_LINE: usize = 128;
/// Longest URL.
const MAX_URL: usize = 512;

/// A place on a device: literal addresses only, http only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Url {
    pub(super) host: SocketAddr,
    /// Begins with a slash; graphic ASCII only, so that it cannot end the request line.
    pub(super) path: String,
}

impl Url {
    /// Reads an absolute URL; `None` for a URL that is not used here.
    pub(super) fn parse(text: &str, zone: u32) -> Option<Url> {
        if text.len() > MAX_URL || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let (scheme, rest) = text.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case("http://") {
            return None;
        }
        let (place, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port): (IpAddr, &str) = match place.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']')?;
                // A zone means something to its sender only.
                let host = host.split_once('%').map_or(host, |(host, _)| host);
                (IpAddr::V6(host.parse().ok()?), rest)
            }
            None => {
                let (host, port) = place.find(':').map_or((place, ""), |at| place.split_at(at));
                (IpAddr::V4(host.parse().ok()?), port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|p| *p != 0)?,
            None if port.is_empty() => 80,
            None => return None,
        };
        Some(Url { host: scoped(host, port, zone), path: path.into() })
    }

    /// Resolves a reference of a document at this place. The reference has to be on the same address.
    pub(super) fn join(&self, reference: &str, zone: u32) -> Option<Url> {
        if reference.len() > MAX_URL || !reference.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        if reference.contains("://") {
            return Url::parse(reference, zone).filter(|url| url.host.ip() == self.host.ip());
        }
        let path = if reference.starts_with('/') {
            reference.into()
        } else {
            let folder = self.path.rfind('/').map_or("/", |at| &self.path[..=at]);
            format!("{folder}{reference}")
        };
        Some(Url { host: self.host, path })
    }

    /// Returns the value of a Host header: without a zone.
    fn authority(&self) -> SocketAddr {
        SocketAddr::new(self.host.ip(), self.host.port())
    }
}

/// Builds a request for a document.
pub(super) fn get(url: &Url) -> Bytes {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.path, url.authority()).into()
}

/// Builds a SOAP call.
pub(super) fn post(url: &Url, action: &str, body: &str) -> Bytes {
    let Url { path, .. } = url;
    format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: \"{action}\"\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        url.authority(),
        body.len()
    )
    .into()
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) body: Vec<u8>,
}

/// Reason that an answer is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HttpError {
    Malformed,
    TooLong,
    /// The stream ended before the answer.
    CutOff,
}

/// Reads one answer from a stream.
#[derive(Debug)]
pub(super) struct Reader {
    /// All bytes that came, or after the head those that are not in `body` yet.
    held: Vec<u8>,
    body: Vec<u8>,
    most: usize,
    taken: usize,
    head: Option<(u16, Framing)>,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length(usize),
    Chunked,
    UntilEnd,
}

impl Reader {
    /// Returns a reader for a body of at most so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Reader { held: Vec::new(), body: Vec::new(), most, taken: 0, head: None }
    }

    /// Returns the number of bytes that may be read from the stream in all: chunks' framing counts as body.
    pub(super) fn credit(&self) -> u32 {
        u32::try_from(MAX_HEAD + self.most).unwrap_or(u32::MAX)
    }

    /// Takes bytes; returns the answer once it is complete.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<Option<Answer>, HttpError> {
        self.taken += data.len();
        let tail = self.held.len().saturating_sub(3);
        self.held.extend_from_slice(data);
        if self.head.is_none() {
            // Looked for before it is parsed, so that bytes that come one by one cost no more.
            if !self.held[tail..].windows(4).any(|w| w == b"\r\n\r\n") {
                return if self.held.len() > MAX_HEAD { Err(HttpError::TooLong) } else { Ok(None) };
            }
            self.read_head()?;
        }
        self.read_body()
    }

    /// Ends the reading with the end of the stream.
    pub(super) fn end(mut self) -> Result<Answer, HttpError> {
        match self.head {
            Some((code, Framing::UntilEnd)) => Ok(Answer { code, body: core::mem::take(&mut self.held) }),
            _ => Err(HttpError::CutOff),
        }
    }

    fn read_head(&mut self) -> Result<(), HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&self.held).map_err(|_| HttpError::Malformed)?;
        let (httparse::Status::Complete(end), Some(code)) = (parsed, response.code) else {
            return Err(HttpError::Malformed);
        };
        let (mut length, mut chunked) = (None, false);
        for header in response.headers.iter() {
            let value = header.value.trim_ascii();
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = str::from_utf8(value).map_err(|_| HttpError::Malformed)?;
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                let stated: u64 = text.parse().ok().filter(|_| digits).ok_or(HttpError::Malformed)?;
                if length.replace(stated).is_some_and(|before| before != stated) {
                    return Err(HttpError::Malformed);
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HttpError::Malformed);
                }
                chunked = true;
            }
        }
        let framing = match (length, chunked) {
            (Some(_), true) => return Err(HttpError::Malformed),
            (None, true) => Framing::Chunked,
            (None, false) => Framing::UntilEnd,
            (Some(length), false) => match usize::try_from(length) {
                Ok(length) if length <= self.most => Framing::Length(length),
                _ => return Err(HttpError::TooLong),
            },
        };
        self.held.drain(..end);
        self.head = Some((code, framing));
        Ok(())
    }

    fn read_body(&mut self) -> Result<Option<Answer>, HttpError> {
        let Some((code, framing)) = self.head else { return Ok(None) };
        if self.held.len() + self.body.len() > self.most + MAX_HEAD || self.taken > self.credit() as usize {
            return Err(HttpError::TooLong);
        }
        match framing {
            Framing::UntilEnd if self.held.len() > self.most => Err(HttpError::TooLong),
            Framing::UntilEnd => Ok(None),
            Framing::Length(length) if self.held.len() < length => Ok(None),
            Framing::Length(length) => {
                self.held.truncate(length);
                Ok(Some(Answer { code, body: core::mem::take(&mut self.held) }))
            }
            Framing::Chunked => {
                let mut at = 0;
                let done = self.read_chunks(&mut at)?;
                self.held.drain(..at);
                Ok(done.then(|| Answer { code, body: core::mem::take(&mut self.body) }))
            }
        }
    }

    /// Moves whole chunks to the body. Returns true if the last one was there. Trailers are not waited for.
    fn read_chunks(&mut self, at: &mut usize) -> Result<bool, HttpError> {
        loop {
            let rest = &self.held[*at..];
            let (start, size) = match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((start, size))) => (start, size),
                Ok(httparse::Status::Partial) if rest.len() < MAX_CHUNK_LINE => return Ok(false),
                Ok(httparse::Status::Partial) => return Err(HttpError::Malformed),
                Err(_) => return Err(HttpError::Malformed),
            };
            if size == 0 {
                return Ok(true);
            }
            let size = usize::try_from(size).map_err(|_| HttpError::TooLong)?;
            if size > self.most || self.body.len() + size > self.most {
                return Err(HttpError::TooLong);
            }
            let Some(chunk) = rest.get(start..start + size + 2) else { return Ok(false) };
            let Some(chunk) = chunk.strip_suffix(b"\r\n") else { return Err(HttpError::Malformed) };
            self.body.extend_from_slice(chunk);
            *at += start + size + 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Option<(String, String)> {
        Url::parse(text, 0).map(|u| (u.host.to_string(), u.path))
    }

    #[test]
    fn only_literal_http_addresses_are_places() {
        let some = |host: &str, path: &str| Some((host.to_owned(), path.to_owned()));
        assert_eq!(url("http://192.168.1.1:5000/root.xml?a"), some("192.168.1.1:5000", "/root.xml?a"));
        assert_eq!(url("HTTP://192.168.1.1"), some("192.168.1.1:80", "/"));
        assert_eq!(url("http://[fe80::1%eth0]:1900/x"), some("[fe80::1]:1900", "/x"));
        for bad in [
            "https://192.168.1.1/",
            "http://router.lan/",
            "http://user@192.168.1.1/",
            "http://192.168.1.1:0/",
            "http://192.168.1.1:99999/",
            "http://192.168.1.1:/",
            "http://[fe80::1/",
            "http://[fe80::1]x/",
            "http://192.168.1.1/a b",
            "http://192.168.1.1/a\r\nX: y",
            "http://0xc0a80101/",
            "http://192.168.1.1é/",
            "http:/",
            "",
        ] {
            assert_eq!(url(bad), None, "{bad}");
        }
        assert_eq!(url(&format!("http://192.168.1.1/{}", "a".repeat(512))), None);
    }

    #[test]
    fn references_stay_on_the_device() {
        let base = Url::parse("http://192.168.1.1:5000/a/root.xml", 0).unwrap();
        let join = |text| base.join(text, 0).map(|u| (u.host.port(), u.path));
        assert_eq!(join("/ctl"), Some((5000, "/ctl".into())));
        assert_eq!(join("ctl"), Some((5000, "/a/ctl".into())));
        assert_eq!(join("http://192.168.1.1:80/ctl"), Some((80, "/ctl".into())));
        assert_eq!((join("http://192.168.1.9/ctl"), join("x://y"), join("a b")), (None, None, None));
    }

    fn read(parts: &[&[u8]], end: bool) -> Result<Option<Answer>, HttpError> {
        let mut reader = Reader::new(100);
        for part in parts {
            if let Some(answer) = reader.push(part)? {
                return Ok(Some(answer));
            }
        }
        if end { reader.end().map(Some) } else { Ok(None) }
    }

    #[test]
    fn the_three_framings_are_read_in_any_pieces() {
        let length = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhellomore";
        let chunked =
            b"HTTP/1.1 500 No\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n";
        let ended = b"HTTP/1.0 200 OK\r\n\r\nhello";
        for (bytes, code, end) in [(&length[..], 200, false), (chunked, 500, false), (ended, 200, true)] {
            let expected = Ok(Some(Answer { code, body: b"hello".to_vec() }));
            assert_eq!(read(&[bytes], end), expected);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single, end), expected);
        }
    }

    #[test]
    fn lies_about_length_are_refused_and_cost_no_more_than_the_cap() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (text, end, error) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", true, HttpError::CutOff),
            ("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", false, HttpError::TooLong),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", false, HttpError::Malformed),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", false, HttpError::Malformed),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
                false,
                HttpError::Malformed,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
                HttpError::Malformed,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", false, HttpError::Malformed),
            ("NOT HTTP\r\n\r\n", false, HttpError::Malformed),
            ("HTTP/1.1 200 OK\r\n", true, HttpError::CutOff),
            (&format!("{chunked}65\r\n"), false, HttpError::TooLong),
            (&format!("{chunked}ffffffffffffffff\r\n"), false, HttpError::TooLong),
            (&format!("{chunked}x\r\n"), false, HttpError::Malformed),
            // It would be parsed anew with every byte that comes.
            (&format!("{chunked}1;{}", "x".repeat(200)), false, HttpError::Malformed),
            (&format!("{chunked}2\r\nhello\r\n"), false, HttpError::Malformed),
            (&format!("{chunked}2\r\nhe"), true, HttpError::CutOff),
            (&format!("HTTP/1.1 200 OK\r\n\r\n{}", "a".repeat(101)), false, HttpError::TooLong),
            (&"a".repeat(8193), false, HttpError::TooLong),
        ] {
            assert_eq!(read(&[text.as_bytes()], end), Err(error), "{}", &text[..text.len().min(80)]);
        }
        assert_eq!(Reader::new(100).credit(), 8292);
    }
}
