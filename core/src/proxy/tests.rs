//! Handshakes byte by byte.

use super::*;

fn proxy(kind: ProxyKind, login: Option<(&str, Option<&str>)>) -> Proxy {
    let login = login.map(|(user, password)| Login::new(user, password));
    Proxy { kind, host: "proxy.test".into(), port: 3128, login }
}

/// Words until the script of the proxy's answers is over, how that ends, and how much of the last answer was read.
fn spoken(
    proxy: &Proxy,
    host: &str,
    answers: &[&[u8]],
    chunk: usize,
) -> (Vec<Vec<u8>>, Result<bool, ProxyFailure>, usize) {
    let (mut said, mut read) = (Vec::new(), 0);
    let mut handshake = match ProxyHandshake::new(proxy, host, 1883) {
        Ok(handshake) => handshake,
        Err(why) => return (said, Err(why), 0),
    };
    for answer in answers {
        said.extend(handshake.poll_transmit().map(|out| out.to_vec()));
        read = 0;
        while read < answer.len() && handshake.wants() > 0 {
            let end = answer.len().min(read + handshake.wants().min(chunk));
            if let Err(why) = handshake.handle(&answer[read..end]) {
                assert_eq!(handshake.wants(), 0);
                return (said, Err(why), end);
            }
            read = end;
        }
    }
    (said, Ok(handshake.wants() == 0), read)
}

fn http(answer: &[u8], login: bool) -> (Result<bool, ProxyFailure>, usize) {
    let login = login.then_some(("alice", Some("secret")));
    let (_, end, read) = spoken(&proxy(ProxyKind::Http, login), "a.test", &[answer], 9);
    (end, read)
}

#[test]
fn connect_is_asked_for_in_these_bytes() {
    let ask = |login, host| {
        let (said, end, _) = spoken(&proxy(ProxyKind::Http, login), host, &[b"HTTP/1.0 200 Yes\r\n\r\n"], 1);
        assert_eq!(end, Ok(true));
        String::from_utf8(said.concat()).unwrap()
    };
    assert_eq!(ask(None, "a.test"), "CONNECT a.test:1883 HTTP/1.1\r\nHost: a.test:1883\r\n\r\n");
    assert_eq!(
        ask(None, "2001:db8::1"),
        "CONNECT [2001:db8::1]:1883 HTTP/1.1\r\nHost: [2001:db8::1]:1883\r\n\r\n"
    );
    assert_eq!(
        ask(Some(("Aladdin", Some("open sesame"))), "192.0.2.1"),
        "CONNECT 192.0.2.1:1883 HTTP/1.1\r\nHost: 192.0.2.1:1883\r\n\
         Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n",
        "RFC 7617's example"
    );
}

#[test]
fn not_a_byte_behind_the_answer_is_read() {
    let answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nSERVER";
    assert_eq!(http(answer, false), (Ok(true), answer.len() - 6));
    let twice = b"HTTP/1.1 100 Wait\r\n\r\nHTTP/1.1 200 OK\n\nSERVER";
    assert_eq!(http(twice, false), (Ok(true), twice.len() - 6));
    let all: [&[u8]; 2] = [&[5, 0], b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38SERVER"];
    let (_, end, read) = spoken(&proxy(ProxyKind::Socks5, None), "a.test", &all, 99);
    assert_eq!((end, read), (Ok(true), 10));
}

#[test]
fn refusals_of_http_proxies_are_told_apart() {
    for (answer, login, why) in [
        (
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n",
            false,
            ProxyFailure::LoginNeeded,
        ),
        ("HTTP/1.1 407 No\r\nproxy-authenticate:basic\r\n\r\n", true, ProxyFailure::LoginRefused),
        ("HTTP/1.1 407 No\r\n\r\n", true, ProxyFailure::LoginRefused),
        (
            "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n",
            true,
            ProxyFailure::OtherLogin,
        ),
        ("HTTP/1.0 401 Unauthorized\r\n\r\n", true, ProxyFailure::LoginRefused),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", false, ProxyFailure::Http(403)),
        ("HTTP/1.1 301 Moved\r\nLocation: x\r\n\r\n", false, ProxyFailure::Http(301)),
        ("HTTP/1.1 101 Switching\r\n\r\n", false, ProxyFailure::Http(101)),
        ("SSH-2.0-OpenSSH\r\n", false, ProxyFailure::NotAProxy),
        ("HTTP/2.0 200 OK\r\n\r\n", false, ProxyFailure::NotAProxy),
        ("HTTP/1.1 two\r\n\r\n", false, ProxyFailure::NotAProxy),
        ("HTTP/1.\n\n", false, ProxyFailure::NotAProxy),
    ] {
        assert_eq!(http(answer.as_bytes(), login).0, Err(why), "{answer}");
        assert!(!why.to_string().contains("secret"));
    }
    assert_eq!(http(b"HTTP/1.1 200 OK\r\n", false), (Ok(false), 17), "more is to come");
}

#[test]
fn socks5_is_spoken_in_these_bytes() {
    let chunks = [1, 2, 99];
    let opened = [5u8, 0, 0, 3, 2, b'x', b'y', 1, 2];
    for chunk in chunks {
        let (said, end, _) = spoken(&proxy(ProxyKind::Socks5, None), "a.test", &[&[5, 0], &opened], chunk);
        assert_eq!(end, Ok(true));
        assert_eq!(said, [&b"\x05\x01\x00"[..], b"\x05\x01\x00\x03\x06a.test\x07\x5b"]);
    }
    let with = proxy(ProxyKind::Socks5, Some(("alice", Some("secret"))));
    let v6 = [[5u8, 0, 0, 4].as_slice(), &[0; 18]].concat();
    let (said, end, read) = spoken(&with, "192.0.2.1", &[&[5, 2], &[1, 0], &v6], 5);
    assert_eq!((end, read), (Ok(true), 22));
    let login = b"\x01\x05alice\x06secret";
    assert_eq!(said, [&b"\x05\x02\x00\x02"[..], login, b"\x05\x01\x00\x01\xc0\x00\x02\x01\x07\x5b"]);
    let (said, end, _) = spoken(&with, "2001:db8::1", &[&[5, 0], &opened], 5);
    assert_eq!(end, Ok(true), "it need not ask who we are");
    assert_eq!(said[1][..6], [5, 1, 0, 4, 0x20, 1]);
}

#[test]
fn refusals_of_socks_proxies_are_told_apart() {
    let login = Some(("alice", Some("secret")));
    let cases: [(_, &[&[u8]], _); 9] = [
        (None, &[&[5, 0xff]], ProxyFailure::LoginNeeded),
        (login, &[&[5, 0xff]], ProxyFailure::OtherLogin),
        (login, &[&[5, 2], &[1, 1]], ProxyFailure::LoginRefused),
        (None, &[&[5, 2]], ProxyFailure::NotAProxy),
        (None, &[&[5, 0], &[5, 5]], ProxyFailure::Socks(5)),
        (None, &[&[5, 0], &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]], ProxyFailure::Socks(2)),
        (None, &[&[5, 0], &[5, 0, 0, 9, 0]], ProxyFailure::NotAProxy),
        (None, &[&[4, 0]], ProxyFailure::NotAProxy),
        (None, &[b"HTTP/1.1 400 Bad\r\n"], ProxyFailure::NotAProxy),
    ];
    for (login, answers, why) in cases {
        let (_, end, _) = spoken(&proxy(ProxyKind::Socks5, login), "a.test", answers, 1);
        assert_eq!(end, Err(why), "{answers:?}");
    }
}

#[test]
fn a_proxy_that_talks_without_end_is_left_after_eight_kilobytes() {
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 20_000]].concat();
    assert_eq!(http(&endless, false), (Err(ProxyFailure::TooLong), MAX_ANSWER + 1));
    let waits = b"HTTP/1.1 100 Wait\r\n\r\n".repeat(1000);
    assert_eq!(http(&waits, false), (Err(ProxyFailure::TooLong), MAX_ANSWER + 1));
}

#[test]
fn what_cannot_be_said_to_a_proxy_is_not_said() {
    let long = "x".repeat(256);
    for (kind, login, host) in [
        (ProxyKind::Http, None, "a\r\nX: y"),
        (ProxyKind::Http, None, "a b"),
        (ProxyKind::Http, None, ""),
        (ProxyKind::Socks5, None, &*long),
        (ProxyKind::Http, Some(("a:b", Some("c"))), "a"),
        (ProxyKind::Socks5, Some((&*long, None)), "a"),
        (ProxyKind::Socks5, Some(("a", Some(&*long))), "a"),
    ] {
        let proxy = proxy(kind, login);
        assert_eq!(spoken(&proxy, host, &[], 1).1, Err(ProxyFailure::Settings), "{kind:?} {host:?}");
        assert!(!proxy.can_reach(host));
    }
}

quickcheck::quickcheck! {
    fn whatever_a_proxy_says_in_whatever_pieces_is_the_same(rest: Vec<Vec<u8>>, socks: bool) -> bool {
        let kind = if socks { ProxyKind::Socks5 } else { ProxyKind::Http };
        let begin: &[&[u8]] = if socks { &[&[5, 2], &[1, 0], &[5, 0]] } else { &[b"HTTP/1.1 407 "] };
        let answers: Vec<&[u8]> = begin.iter().copied().chain(rest.iter().map(Vec::as_slice)).collect();
        let proxy = proxy(kind, Some(("alice", Some("secret"))));
        let [some, all] = [1, 99].map(|chunk| spoken(&proxy, "a.test", &answers, chunk));
        (some.0, some.1) == (all.0, all.1)
    }
}
