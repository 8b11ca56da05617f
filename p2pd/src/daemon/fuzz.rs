//! Fuzzing of everything between a request's bytes and the call they ask for, with altered requests. Each must be
//! answered in a short time, and never panic. The tests run it for two seconds, and `tests/long/fuzz` for as long as is
//! asked for.

use std::time::{Duration, Instant};

use axum::http::Method;

use super::answer::Refused;
use super::call::Call;
use super::guard::{Guard, Query, Via};
use super::serve;
use mutate::{REQUESTS, Random, altered, asked, is_over};

#[path = "../../tests/daemon/mutate.rs"]
mod mutate;

/// Slower than any input may be, in a debug build on a busy machine.
const SLOW: Duration = Duration::from_secs(5);
/// Texts on which the patterns are tried.
const TEXTS: [&str; 4] = [
    "",
    "hello",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
    "127.0.0.1:80\n\0",
];
/// Paths beside those of the requests: patterns of all sorts, and addresses.
const PATHS: [&str; 8] = [
    "/p2p/sub/n/msg_p/((a*)*b)+[^c]{2,30}$/addr_p/^10%5C.0%5C..*",
    "/p2p/sub/n/msg_p/(?i:x|y|zz)(?s-u:.)%5Cd%5CpL%5Cb/addr_p/",
    "/p2p/recv/n/msg_p/%5E%28%3F%3Aa%3F%29%7B50%7Da%7B50%7D/timeout/1.5e3",
    "/p2p/recv/n/addr_p/[[:alpha:]&&[^x-z]]/timeout/0",
    "/p2p/open/n/0-[0,8.8.8.8,192.168.21.21,58959,3,2,0]-0-zmUGXPOFxBUuToh",
    "/p2p/open/n/1,2-[0,203.0.113.7,192.168.1.5,40404,5,6,0]-[1,2001:db8::1,fe80::1,40404,1,1,0]-y5cvy5cvy5cv",
    "/p2p/binary/n/timeout/3600/msg_p/a%7Cb/addr_p/c",
    "/p2p/send/n/%F0%9F%92%A9//?",
];

/// Results of the inputs.
#[derive(Debug, Default)]
struct Came {
    inputs: u64,
    admitted: u64,
    patterns: u64,
    matched: u64,
    slowest: Duration,
}

impl Came {
    fn request(&mut self, bytes: &[u8]) {
        let Ok((target, headers)) = serve::parse(bytes) else { return };
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let Ok(query) = Query::parse(query) else { return };
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let call = self.call(&method, path);
            let asked = call.as_ref().unwrap_or(&Call::Version);
            for guard in
                [Guard::new(None, false), Guard::new(None, true), Guard::new(Some("5b1f".into()), false)]
            {
                match guard.check(Via::Tcp, &headers, query.get("token"), asked) {
                    Ok(_) => self.admitted += 1,
                    Err(why) => assert!(why.answer().status().is_client_error()),
                }
            }
        }
    }

    fn call(&mut self, method: &Method, path: &str) -> Result<Call, Refused> {
        let call = Call::parse(method, path);
        match &call {
            Ok(
                Call::Recv(_, of, _)
                | Call::TakeBinary(_, of, _)
                | Call::Subscribe(_, of)
                | Call::Unsubscribe(_, of),
            ) => {
                self.patterns += 1;
                for text in TEXTS {
                    self.matched +=
                        u64::from(of.message.matches(text.as_bytes()) && of.peer.matches(text.as_bytes()));
                }
            }
            Ok(_) => {}
            Err(why) => assert!(why.answer().status().is_client_error(), "{why:?}"),
        }
        call
    }
}

#[test]
fn altered_requests_are_answered() {
    let (time, seed) = asked();
    let (begin, mut random, mut came) = (Instant::now(), Random::new(seed), Came::default());
    while !is_over(begin, time) {
        let on_requests = random.below(2) == 0;
        let bytes = altered(if on_requests { &REQUESTS } else { &PATHS }, &mut random);
        let started = Instant::now();
        if on_requests {
            came.request(&bytes);
        } else {
            let _ = came.call(&Method::GET, &String::from_utf8_lossy(&bytes));
        }
        let took = started.elapsed();
        assert!(took < SLOW, "seed {seed}: {took:?} for {:?}", String::from_utf8_lossy(&bytes));
        came.inputs += 1;
        came.slowest = came.slowest.max(took);
    }
    println!("fuzz of the parsers: seed {seed}, {:.0} s, {came:?}", begin.elapsed().as_secs_f64());
    assert!(came.inputs > 100 && came.admitted > 10 && came.patterns > 10 && came.matched > 10, "{came:?}");
}
