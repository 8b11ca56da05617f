//! Inputs made of good ones: bytes changed, pieces put in, taken out, doubled and exchanged. Shared by the fuzzers of
//! the parsers and of the running daemon; a run is repeated by its seed.

use std::time::{Duration, Instant, SystemTime};

/// Well-formed requests. None names another machine: altered ones are sent, and must reach nobody.
pub(crate) const REQUESTS: [&str; 20] = [
    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /version HTTP/1.1\r\nHost: 127.0.0.1:12333\r\nOrigin: null\r\n\r\n",
    "GET /openapi.json?token=abc HTTP/1.1\r\nHost: [::1]:12333\r\n\r\n",
    "GET /p2p/addr HTTP/1.0\r\n\r\n",
    "GET /p2p/con HTTP/1.1\r\nHost: localhost\r\nX-P2PD-Token: 5b1f\r\n\r\nGET /nat HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /p2p/open/b/self?strategies=direct&queue=10&overflow=wait HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /p2p/send/a/ECHO%20hello,%20world! HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /p2p/recv/a/timeout/0/msg_p/[hH]e[l]+o/addr_p/127%2E HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /p2p/sub/a/msg_p/(a+)+$/addr_p/x{1,9} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "DELETE /p2p/sub/a/msg_p/(a+)+$/addr_p/x{1,9} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST /p2p/binary/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n\x01\x02\x03\0\r",
    "POST /p2p/binary/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "GET /p2p/binary/a/timeout/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /p2p/pipe/a HTTP/1.1\r\nHost: localhost\r\n\r\nECHO bytes\nGET /version HTTP/1.1\r\n\r\n",
    "GET /p2p/pipe/b HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\u{1}\u{2}",
    "POST /p2p/file/send/self/a%20b.txt?modified=1700000000.5 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    "POST /p2p/file/con/b/a.txt HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "DELETE /p2p/file/1 HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /p2p/file/1/accept HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST /p2p/forward/f/open/self?service=echo&timeout=0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "OPTIONS /p2p/close/b HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:3000\r\n\
     Access-Control-Request-Method: DELETE\r\n\r\n",
];

/// Texts that parsers look for.
const PIECES: [&str; 40] = [
    "/",
    "//",
    "..",
    "%2F",
    "%",
    "%00",
    "%ff",
    "%zz",
    "?",
    "&",
    "=",
    "token=",
    "?token=",
    "#",
    "\r\n",
    "\n",
    "\r\n\r\n",
    "\0",
    ":",
    "Host: ",
    "Content-Length: 99999999999\r\n",
    "Transfer-Encoding: chunked\r\n",
    "HTTP/1.1",
    "GET ",
    "/p2p/recv/a/",
    "/msg_p/",
    "/addr_p/",
    "/timeout/0",
    "(?i)",
    "(a|",
    "){1000}",
    "{0,1000}",
    "[^",
    "\\pL",
    "\\x{10FFFF}",
    "(?P<n>",
    "*+?",
    "$",
    "\u{202e}",
    "self",
];

/// Splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn one<'a>(&mut self, of: &'a [&'a str]) -> &'a [u8] {
        of[self.below(of.len())].as_bytes()
    }
}

/// Returns one of the good inputs, altered in one to eight ways.
pub(crate) fn altered(good: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.one(good).to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(16)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].repeat(1 + random.below(40));
                bytes.splice(at..at, copy);
            }
            4 => {
                let other = random.one(good);
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            _ => drop(bytes.splice(at..at, random.one(&PIECES).iter().copied())),
        }
        bytes.truncate(20_000);
    }
    bytes
}

/// Returns the duration and the seed, from `P2PD_FUZZ_MINUTES` and `P2PD_FUZZ_SEED`. Default: 2 s, and the seed 1.
pub(crate) fn asked() -> (Duration, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("P2PD_FUZZ_MINUTES") {
        Some(minutes) => {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
            (Duration::from_secs(60 * minutes), number("P2PD_FUZZ_SEED").unwrap_or(now))
        }
        None => (Duration::from_secs(2), number("P2PD_FUZZ_SEED").unwrap_or(1)),
    }
}

/// Returns true once the time is over.
pub(crate) fn is_over(begin: Instant, time: Duration) -> bool {
    begin.elapsed() >= time
}
