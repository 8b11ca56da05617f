//! Sessions by REST: streams, datagrams, moves as events.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::Daemon;

const LONG: Duration = Duration::from_secs(30);

impl Daemon {
    /// Status and body of a call with a body.
    pub fn post(&self, path: &str, data: &str) -> (u16, Value) {
        self.curl(path, &["--data-binary", data])
    }

    /// Status and bytes of a call.
    fn bytes(&self, path: &str) -> (u16, Vec<u8>) {
        self.bare(path, &["-H", &format!("X-P2PD-Token: {}", self.token)])
    }

    /// Events from now on, as they come.
    pub fn follow(&self) -> Arc<Mutex<Vec<Value>>> {
        let mut stream = self.socket();
        stream.set_read_timeout(None).unwrap();
        let token = &self.token;
        write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\nX-P2PD-Token: {token}\r\n\r\n").unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        // The head has come: the daemon listens for us.
        while stream.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let events: Arc<Mutex<Vec<Value>>> = Arc::default();
        let into = events.clone();
        std::thread::spawn(move || {
            for line in stream.lines().map_while(Result::ok) {
                if let Some(event) = line.strip_prefix("data: ") {
                    into.lock().unwrap().push(serde_json::from_str(event).unwrap());
                }
            }
        });
        events
    }
}

pub fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begin.elapsed() < LONG, "it does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn told(events: &Mutex<Vec<Value>>, kind: &str, name: &str) -> Value {
    until(|| {
        let events = events.lock().unwrap();
        let is_so = |event: &&Value| {
            event["event"] == kind && (event["name"] == name || event["session"]["name"] == name)
        };
        events.iter().find(is_so).cloned()
    })
}

#[test]
fn streams_and_datagrams_of_a_session() {
    let (here, there) = (Daemon::start(), Daemon::start());
    let events = there.follow();
    let opened = here.ok(&format!("/p2p/session/mine/open/{}", there.address));
    assert_eq!((&opened["peer"], &opened["incoming"]), (&there.id.clone().into(), &false.into()));
    assert_eq!(opened["carrier"]["strategy"], "direct");
    let theirs = format!("/p2p/session/{}", here.id);
    let incoming = told(&events, "session_incoming", &here.id);
    assert_eq!(incoming["session"]["incoming"], true);

    let stream = here.ok("/p2p/session/mine/stream?tag=chat/1");
    assert_eq!(
        (&stream["stream"], &stream["sends"], &stream["receives"]),
        (&0.into(), &true.into(), &true.into())
    );
    assert_eq!(here.post("/p2p/session/mine/stream/0", "question").1["sent"], 8);
    here.ok("/p2p/session/mine/stream/0/finish");
    let accepted = there.ok(&format!("{theirs}/accept"));
    assert_eq!((&accepted["stream"], &accepted["tag"]), (&0.into(), &"chat/1".into()));
    assert_eq!(there.bytes(&format!("{theirs}/stream/0")), (200, b"question".to_vec()));
    assert_eq!(there.bytes(&format!("{theirs}/stream/0")), (204, vec![]));
    // A direction that has ended leaves the other one.
    assert_eq!(there.post(&format!("{theirs}/stream/0"), "answer").0, 200);
    there.ok(&format!("{theirs}/stream/0/finish"));
    assert_eq!(here.bytes("/p2p/session/mine/stream/0"), (200, b"answer".to_vec()));
    assert_eq!(here.bytes("/p2p/session/mine/stream/0").0, 204);
    assert_eq!(here.error("/p2p/session/mine/stream/0"), (404, 35));

    // One way; given up by either end.
    let one = here.ok("/p2p/session/mine/stream?uni=1")["stream"].clone();
    assert_eq!(here.error(&format!("/p2p/session/mine/stream/{one}")), (409, 36));
    assert_eq!(here.post(&format!("/p2p/session/mine/stream/{one}"), "x").0, 200);
    assert_eq!(there.ok(&format!("{theirs}/accept"))["sends"], false);
    assert_eq!(there.bytes(&format!("{theirs}/stream/{one}")), (200, b"x".to_vec()));
    assert_eq!(there.error(&format!("{theirs}/stream/{one}/timeout/0.05")), (504, 6));
    here.ok(&format!("/p2p/session/mine/stream/{one}/reset/9"));
    let reset = there.get(&format!("{theirs}/stream/{one}"));
    assert_eq!((reset.0, &reset.1["error"]), (410, &37.into()));
    assert!(reset.1["msg"].as_str().unwrap().contains("code 9"), "{reset:?}");
    let both = here.ok("/p2p/session/mine/stream")["stream"].clone();
    here.post(&format!("/p2p/session/mine/stream/{both}"), "x");
    there.ok(&format!("{theirs}/accept"));
    there.ok(&format!("{theirs}/stream/{both}/stop/7"));
    let stopped = until(|| {
        let (status, body) = here.post(&format!("/p2p/session/mine/stream/{both}"), "more");
        (status != 200).then_some((status, body))
    });
    assert!(stopped.0 == 410 && stopped.1["msg"].as_str().unwrap().contains("code 7"), "{stopped:?}");

    assert_eq!(here.post("/p2p/session/mine/datagram", "there").1["sent"], 5);
    assert_eq!(there.bytes(&format!("{theirs}/datagram")), (200, b"there".to_vec()));
    assert_eq!(here.post("/p2p/session/mine/datagram", &"x".repeat(1201)).0, 413);
    assert_eq!(there.error(&format!("{theirs}/datagram/timeout/0")), (504, 6));

    assert_eq!(here.ok("/p2p/session")["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(here.error("/p2p/session/other"), (404, 34));
    assert_eq!(here.error(&format!("/p2p/session/mine/open/{}", there.address)), (409, 2));
    here.ok("/p2p/session/mine/close");
    assert_eq!(told(&events, "session_closed", &here.id)["name"], json!(here.id));
    until(|| (there.ok("/p2p/session")["sessions"] == json!([])).then_some(()));
    until(|| (here.get("/p2p/session/mine").0 == 404).then_some(()));
}

#[test]
fn a_move_is_an_event_and_no_byte_is_lost() {
    let (here, there) = (Daemon::start(), Daemon::start());
    let port: u16 = there.address.split(',').nth(3).unwrap().parse().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let between = listener.local_addr().unwrap().port();
    let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let all = streams.clone();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
            all.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
            for (mut from, mut into) in
                [(&near, &far), (&far, &near)].map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Write);
                });
            }
        }
    });
    let events = here.follow();
    let to = there.address.replace(&format!(",{port},"), &format!(",{between},"));
    here.ok(&format!("/p2p/session/mine/open/{to}"));
    told(&events, "session_opened", "mine");
    here.ok("/p2p/session/mine/stream");
    here.post("/p2p/session/mine/stream/0", "before ");
    for stream in streams.lock().unwrap().drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    assert_eq!(here.post("/p2p/session/mine/stream/0", "after").0, 200);
    here.ok("/p2p/session/mine/stream/0/finish");
    told(&events, "session_stranded", "mine");
    assert_eq!(told(&events, "session_moved", "mine")["strategy"], "direct");
    assert_eq!(here.ok("/p2p/session/mine")["moves"], 1);
    let theirs = format!("/p2p/session/{}", here.id);
    there.ok(&format!("{theirs}/accept"));
    let mut text = Vec::new();
    loop {
        let (status, bytes) = there.bytes(&format!("{theirs}/stream/0"));
        if status == 204 {
            break;
        }
        assert_eq!(status, 200);
        text.extend(bytes);
    }
    assert_eq!(text, b"before after");
}

/// Writes to a peer that does not read have places of their session until their stream is given up.
#[test]
fn a_reset_ends_the_writes_that_a_peer_does_not_take() {
    let (here, there) = (Daemon::start(), Daemon::start());
    here.ok(&format!("/p2p/session/mine/open/{}", there.address));
    let [full, other] = [(); 2].map(|()| here.ok("/p2p/session/mine/stream")["stream"].clone());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, vec![b'x'; 512 << 10]).unwrap();
    let data = format!("@{}", file.path().display());
    let (to_full, to_other) = [&full, &other].map(|n| format!("/p2p/session/mine/stream/{n}")).into();
    std::thread::scope(|scope| {
        let writes: Vec<_> = (0..40).map(|_| scope.spawn(|| here.post(&to_full, &data).0)).collect();
        // All places of the session are taken.
        until(|| (here.post(&to_other, "x").0 == 503).then_some(()));
        let begin = Instant::now();
        here.ok(&format!("{to_full}/reset/3"));
        until(|| (here.post(&to_other, "x").0 == 200).then_some(()));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        let ended: Vec<u16> = writes.into_iter().map(|write| write.join().unwrap()).collect();
        assert!(ended.iter().any(|status| *status != 200), "{ended:?}");
    });
}
