//! A session that begins on one carrier and goes on over another, as frames.

use bytes::Bytes;

use super::{Fields, hex, list, text};
use crate::pipe::session::{
    CarrierId, CarrierKind, Direction, Opening, ReadResult, Session, SessionConfig, SessionToken, Side,
};
use crate::time::Instant;

const RELAY: CarrierId = CarrierId(0);
const DIRECT: CarrierId = CarrierId(1);

pub(super) fn openings() -> Vec<Fields> {
    let token = SessionToken([7; 32]);
    let of = [("a session begins", Opening::New(token)), ("a session goes on", Opening::Resume(token))];
    let vector =
        |(name, opening): (_, Opening)| vec![("name", text(name)), ("bytes", hex(&opening.encode()))];
    of.into_iter().map(vector).collect()
}

/// The caller is `a`. What it wrote last over the relay does not arrive, and goes over the direct path.
pub(super) fn sessions() -> Vec<Fields> {
    let config = SessionConfig::default();
    let now = Instant::ZERO;
    let mut ends = [Side::Caller, Side::Listener].map(|side| Session::new(side, config, now));
    let mut out = Vec::new();
    let mut step = |ends: &mut [Session; 2], from: usize, on: CarrierId, lost: bool, frames: &[&str]| {
        let mut bytes = Vec::new();
        while let Some(more) = ends[from].poll_output(now, on) {
            bytes.extend_from_slice(&more);
        }
        if !lost {
            ends[1 - from].handle_bytes(now, on, Bytes::copy_from_slice(&bytes)).unwrap();
        }
        out.push(vec![
            ("from", text(["a", "b"][from])),
            ("carrier", text(if on == RELAY { "relay" } else { "direct" })),
            ("arrives", (!lost).to_string()),
            ("frames", list(frames.iter().map(text))),
            ("bytes", hex(&bytes)),
        ]);
    };
    ends.iter_mut().for_each(|end| assert!(end.attach(now, RELAY, CarrierKind::Relayed)));
    let stream = ends[0].open(now, Direction::Both, b"chat").unwrap();
    ends[0].write(now, stream, b"hello").unwrap();
    step(
        &mut ends,
        0,
        RELAY,
        false,
        &["HAVE 0", "USE 1", "PING 1", "FROM 0", "STREAMS 256", "OPEN 0 4", "DATA 0 5"],
    );
    step(&mut ends, 1, RELAY, false, &["HAVE 3", "PONG 1", "PING 1", "FROM 0", "STREAMS 256", "ACK 3"]);
    ends[0].write(now, stream, b" world").unwrap();
    step(&mut ends, 0, RELAY, true, &["PONG 1", "DATA 0 6", "ACK 1"]);
    ends.iter_mut().for_each(|end| assert!(end.attach(now, DIRECT, CarrierKind::Direct)));
    step(&mut ends, 0, DIRECT, false, &["HAVE 1", "USE 2", "PING 1", "FROM 3", "DATA 0 6", "ACK 1"]);
    step(&mut ends, 1, DIRECT, false, &["HAVE 4", "PONG 1", "PING 1", "ACK 4"]);
    step(&mut ends, 0, DIRECT, false, &["PONG 1"]);
    ends[0].finish(now, stream);
    step(&mut ends, 0, DIRECT, false, &["FIN 0"]);
    assert_eq!(ends[1].accept(Direction::Both).map(|(_, tag)| tag), Some("chat".into()));
    let mut got = [0; 32];
    assert!(matches!(ends[1].read(now, stream, &mut got), ReadResult::Read(11)));
    assert_eq!(&got[..11], b"hello world");
    ends[1].reset(now, stream, 9);
    ends[1].send_datagram(now, Bytes::from_static(b"by itself"));
    step(&mut ends, 1, DIRECT, false, &["DATAGRAM 9", "FROM 1", "RESET 0 9", "ACK 5"]);
    ends[1].close(now, 3, b"done");
    step(&mut ends, 1, DIRECT, false, &["CLOSE 3 4"]);
    out
}
