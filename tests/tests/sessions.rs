//! Sessions of each driver, over real loopback sockets: the drivers' common behaviour.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use p2pd_core::pipe::session::{FIRST_CREDIT, SessionEnd};
use p2pd_core::{Config, PeerAddress, Plan, SecretKey, Strategy};
use p2pd_tests::drivers::{Driver, Node, Session, Stream};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.sessions(true)
}

fn plan() -> Plan {
    Plan::new().strategies([Strategy::Direct]).timeout(LONG)
}

/// Both ends of a session, which live as long as the nodes are held.
struct Pair {
    _nodes: [Box<dyn Node>; 2],
    ours: Box<dyn Session>,
    theirs: Box<dyn Session>,
    between: Between,
}

/// A port whose streams lead to another one until they are cut.
struct Between(Arc<Mutex<Vec<TcpStream>>>, u16);

impl Between {
    fn new(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let all = streams.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect((Ipv4Addr::LOCALHOST, to)).unwrap());
                // First: a stream that can be used can be cut.
                all.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (mut from, mut into) in [(&near, &far), (&far, &near)]
                    .map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
                {
                    from.set_nodelay(true).unwrap();
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut into);
                        let _ = into.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Between(streams, port)
    }

    /// Cuts what there is off, with what is under way.
    fn cut(&self) {
        for stream in self.0.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pair(driver: Driver) -> Pair {
    let (a, b) = (driver.bind(config(), None).unwrap(), driver.bind(config(), None).unwrap());
    let to = b.address();
    let there = to.v4()[0].port;
    let between = Between::new(there);
    let to: PeerAddress =
        to.to_string().replace(&format!(",{there},"), &format!(",{},", between.1)).parse().unwrap();
    let ours = a.connect_session(&to, plan()).unwrap();
    let theirs = b.accept_session(LONG).unwrap();
    Pair { _nodes: [a, b], ours, theirs, between }
}

fn pattern(n: usize) -> u8 {
    (n.wrapping_mul(2_654_435_761) >> 13) as u8
}

fn send(stream: &mut dyn Stream, bytes: std::ops::Range<usize>) {
    let all: Vec<u8> = bytes.map(pattern).collect();
    all.chunks(10_000).for_each(|piece| stream.write_all(piece).unwrap());
}

fn receive(stream: &mut dyn Stream) -> usize {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.iter().enumerate().all(|(n, byte)| *byte == pattern(n)));
    all.len()
}

#[test]
fn each_direction_of_a_stream_ends_by_itself_and_tags_come_along() {
    for driver in Driver::ALL {
        let Pair { _nodes, ours, theirs, .. } = pair(driver);
        let mut near = ours.open(true, b"chat/1").unwrap();
        near.write_all(b"question").unwrap();
        near.finish();
        let mut far = theirs.accept(true).unwrap();
        assert_eq!(far.tag(), b"chat/1", "{driver}");
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question", "{driver}");
        far.write_all(b"answer").unwrap();
        far.finish();
        text.clear();
        near.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer", "{driver}");
        let mut one = theirs.open(false, b"").unwrap();
        one.write_all(b"news").unwrap();
        one.finish();
        text.clear();
        ours.accept(false).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "news", "{driver}");
        theirs.delivered();
        theirs.close(3, b"bye");
        let end = SessionEnd::ClosedByPeer(3, b"bye".to_vec().into());
        assert_eq!((ours.closed(), theirs.closed()), (end, SessionEnd::Closed), "{driver}");
        assert_eq!(ours.accept(true).err().unwrap().kind(), ErrorKind::ConnectionAborted, "{driver}");
    }
}

#[test]
fn a_reset_a_stop_and_datagrams() {
    for driver in Driver::ALL {
        let Pair { _nodes, ours, theirs, .. } = pair(driver);
        let mut near = ours.open(true, b"").unwrap();
        near.write_all(b"part").unwrap();
        let mut far = theirs.accept(true).unwrap();
        far.read_exact(&mut [0; 4]).unwrap();
        near.reset(9);
        let reset = far.read(&mut [0; 1]).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "{driver}");
        near.stop(1);
        let stopped = loop {
            match far.write(&[0; 1000]) {
                Ok(n) => {
                    assert!(n > 0, "{driver}");
                    thread::sleep(Duration::from_millis(1));
                }
                Err(why) => break why,
            }
        };
        assert_eq!(stopped.kind(), ErrorKind::BrokenPipe, "{driver}");
        ours.send_datagram(b"there").unwrap();
        assert_eq!(theirs.read_datagram().unwrap(), b"there", "{driver}");
        theirs.send_datagram(&[1; 1200]).unwrap();
        assert_eq!(ours.read_datagram().unwrap(), [1; 1200], "{driver}");
        assert_eq!(ours.send_datagram(&[1; 1201]).unwrap_err().kind(), ErrorKind::InvalidInput, "{driver}");
    }
}

#[test]
fn a_stream_that_stands_still_holds_no_other() {
    for driver in Driver::ALL {
        let Pair { _nodes, ours, theirs, .. } = pair(driver);
        let mut still = ours.open(false, b"still").unwrap();
        let mut going = ours.open(false, b"going").unwrap();
        still.write_all(&[7; 200_000]).unwrap();
        let writer = thread::spawn(move || {
            send(&mut *going, 0..8 << 20);
            going.finish();
        });
        let mut stands = theirs.accept(false).unwrap();
        let mut goes = theirs.accept(false).unwrap();
        assert_eq!((stands.tag(), goes.tag()), (b"still".to_vec(), b"going".to_vec()), "{driver}");
        assert_eq!(receive(&mut *goes), 8 << 20, "{driver}");
        writer.join().unwrap();
        // What has come of the other is its first credit.
        let mut waited = vec![0; FIRST_CREDIT as usize];
        stands.read_exact(&mut waited).unwrap();
        assert_eq!(waited, [7; FIRST_CREDIT as usize], "{driver}");
    }
}

#[test]
fn ten_thousand_streams_one_after_the_other_and_many_at_once() {
    for driver in Driver::ALL {
        let Pair { _nodes, ours, theirs, .. } = pair(driver);
        let echo = thread::spawn(move || {
            for _ in 0..10_000 {
                let mut far = theirs.accept(true).unwrap();
                let mut number = [0; 4];
                far.read_exact(&mut number).unwrap();
                far.write_all(&number).unwrap();
                far.finish();
            }
            theirs
        });
        for round in 0..100_u32 {
            let mut open: Vec<_> = (0..100).map(|_| ours.open(true, b"n").unwrap()).collect();
            for (n, near) in open.iter_mut().enumerate() {
                near.write_all(&(round * 100 + n as u32).to_be_bytes()).unwrap();
                near.finish();
            }
            for (n, near) in open.iter_mut().enumerate() {
                let mut number = Vec::new();
                near.read_to_end(&mut number).unwrap();
                assert_eq!(number, (round * 100 + n as u32).to_be_bytes(), "{driver}");
            }
        }
        drop(echo.join().unwrap());
    }
}

#[test]
fn a_session_goes_on_when_its_sockets_are_killed() {
    const ALL: usize = 6 << 20;
    for driver in Driver::ALL {
        let Pair { _nodes, ours, theirs, between } = pair(driver);
        let mut near = ours.open(true, b"").unwrap();
        let writer = thread::spawn(move || {
            for n in 0..6 {
                send(&mut *near, n << 20..(n + 1) << 20);
                thread::sleep(Duration::from_millis(20));
            }
            near.finish();
            near
        });
        let reader = thread::spawn(move || {
            let mut far = theirs.accept(true).unwrap();
            let all = receive(&mut *far);
            (theirs, all)
        });
        for cut in 1..=4 {
            between.cut();
            let began = Instant::now();
            while ours.moves() < cut {
                assert!(began.elapsed() < LONG, "{driver}: no move after cut {cut}");
                thread::sleep(Duration::from_millis(2));
            }
        }
        let _near = writer.join().unwrap();
        let (theirs, all) = reader.join().unwrap();
        assert_eq!(all, ALL, "{driver}");
        // A carrier that was cut at once may be none that the listener heard of.
        assert!(ours.moves() >= 4 && theirs.moves() >= 1, "{driver}");
    }
}
