//! Forwards by REST: doors of one daemon to services that another one exposes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::Daemon;
use crate::sessions::{told, until};

const LONG: Duration = Duration::from_secs(20);

/// Starts a service that answers with all that was sent, once its client has ended its sending. Returns its port.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let (mut stream, mut all) = (stream.unwrap(), Vec::new());
                let _ = stream.read_to_end(&mut all);
                let _ = stream.write_all(&all);
            });
        }
    });
    port
}

fn exposes(services: &[&str]) -> Daemon {
    let mut args = vec!["--no-servers", "--expose-to-anyone"];
    services.iter().for_each(|service| args.extend(["--expose", service]));
    Daemon::with(&args)
}

fn open(here: &Daemon, name: &str, there: &Daemon, query: &str) -> (u16, Value) {
    here.post(&format!("/p2p/forward/{name}/open/{}?{query}", there.address), "")
}

fn visit(at: &str, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(data)?;
    stream.shutdown(Shutdown::Write)?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

#[test]
fn a_door_leads_to_a_service_and_each_direction_ends_by_itself() {
    let port = echo();
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dns = datagrams.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..n], from);
        }
    });
    let there = exposes(&[&format!("echo=127.0.0.1:{port}"), &format!("dns=udp:127.0.0.1:{dns}")]);
    let here = Daemon::start();
    let events = here.follow();
    let services = &there.ok("/p2p/forward")["services"];
    assert_eq!(services[1], json!({"name": "echo", "place": format!("127.0.0.1:{port}")}));

    let (status, opened) = open(&here, "mine", &there, "service=echo&at=0");
    assert_eq!(
        (status, &opened["service"], &opened["private"]),
        (200, &"echo".into(), &true.into()),
        "{opened}"
    );
    assert_eq!(opened["carrier"]["strategy"], "direct");
    assert_eq!(told_forward(&events), opened["at"]);
    let at = opened["at"].as_str().unwrap().to_owned();
    assert!(at.starts_with("127.0.0.1:"), "{at}");
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 5) as u8).collect();
    assert!(visit(&at, &data).unwrap() == data);
    std::thread::scope(|scope| {
        let visits: Vec<_> =
            (0..8).map(|n| (n, scope.spawn(|| visit(&at, &data[..70_000]).unwrap()))).collect();
        assert!(visits.into_iter().all(|(_, visit)| visit.join().unwrap() == data[..70_000]));
    });

    let (status, opened) = open(&here, "names", &there, "service=dns&at=udp:0");
    assert_eq!(status, 200, "{opened}");
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    client.send_to(b"question", opened["at"].as_str().unwrap().strip_prefix("udp:").unwrap()).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(client.recv(&mut buffer).unwrap(), 8);

    let names = |of: &Daemon| {
        let all = of.ok("/p2p/forward")["forwards"].as_array().unwrap().clone();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&here), ["mine", "names"]);
    assert_eq!(here.ok("/p2p/forward/mine")["at"], at.as_str());
    // Neither is a session of a user's.
    assert_eq!(there.ok("/p2p/session")["sessions"], json!([]));
    assert_eq!(here.curl("/p2p/forward/mine", &["-X", "DELETE"]).1["closed"], "mine");
    told(&events, "forward_closed", "mine");
    assert_eq!(names(&here), ["names"]);
    until(|| TcpStream::connect(&at).is_err().then_some(()));
    assert_eq!(here.error("/p2p/forward/mine"), (404, 42));
}

fn told_forward(events: &std::sync::Mutex<Vec<Value>>) -> Value {
    until(|| {
        let events = events.lock().unwrap();
        let event = events.iter().find(|event| event["event"] == "forward_opened")?;
        Some(event["forward"]["at"].clone())
    })
}

#[test]
fn what_cannot_be_forwarded_is_said() {
    let there = exposes(&[&format!("echo={}", echo())]);
    let here = Daemon::start();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    for (query, error) in [
        ("", 26),
        ("service=echo", 26),
        ("at=0", 26),
        ("service=e%20cho&at=0", 26),
        ("service=echo&at=nowhere", 26),
        ("service=echo&at=0&socks=0", 26),
        ("socks=udp:0", 26),
        ("service=echo&at=0&mode=plain", 26),
        (&format!("service=echo&at={port}"), 43),
    ] {
        assert_eq!(open(&here, "f", &there, query).1["error"], error, "{query}");
    }
    assert_eq!(here.get(&format!("/p2p/forward/f/open/{}?service=echo&at=0", there.address)).0, 405);
    // A service that is not exposed has a door, which resets whoever comes.
    let (status, opened) = open(&here, "f", &there, "service=other&at=0");
    assert_eq!(status, 200);
    assert!(visit(opened["at"].as_str().unwrap(), b"x").is_err());
    assert_eq!(open(&here, "f", &there, "service=echo&at=0").1["error"], 2);
    // The peer ends, and nothing is opened in its place.
    let gone = exposes(&["echo=1"]);
    let address = gone.address.clone();
    drop(gone);
    let path = format!("/p2p/forward/g/open/{address}?service=echo&at=0&timeout=3");
    assert_eq!(here.post(&path, "").0, 502);
    assert_eq!(here.error("/p2p/forward/g"), (404, 42));
    // Without --expose nothing of this machine is reached.
    let (_, opened) = open(&there, "back", &here, "service=echo&at=0&timeout=5");
    assert!(opened["at"].as_str().is_none_or(|at| visit(at, b"x").is_err()), "{opened}");
    for (wrong, says) in [
        (&["--expose", "echo=1"][..], "name the peers by --accept, or give --expose-to-anyone"),
        (&["--expose-to-anyone"], "--expose"),
        (&["--expose", "echo=1", "--expose", "echo=2", "--expose-to-anyone"], "given twice"),
    ] {
        let args =
            [&["daemon", "--no-servers", "--bind", "127.0.0.1", "--api", "127.0.0.1:0", "--no-token"], wrong];
        let out = crate::common::p2pd(&args.concat()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && said.contains(says), "{said}");
    }
}

#[test]
fn forwards_have_a_number() {
    let here = Daemon::start();
    // A stranger has eight sessions.
    let there = Daemon::with(&["--no-servers", "--expose", "echo=1", "--accept", &here.id]);
    let mut opened = 0;
    loop {
        let (status, body) = open(&here, &format!("f{opened}"), &there, "service=echo&at=0");
        if status != 200 {
            assert_eq!((status, &body["error"]), (503, &32.into()), "{body}");
            break;
        }
        opened += 1;
        assert!(opened <= 64);
    }
    assert_eq!(opened, 64);
}
