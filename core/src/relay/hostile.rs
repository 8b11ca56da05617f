//! A peer that is who it should be, and speaks QUIC by hand.

use core::time::Duration;

use bytes::Bytes;
use quinn_proto::{Dir, Side, StreamId, VarInt};

use super::{EndCause, MAX_MESSAGE, MAX_MESSAGES, ReadOutcome, RelayConfig, RelayStream, StreamEvent};
use crate::identity::SecretKey;
use crate::time::Instant;

struct Pair {
    now: Instant,
    peer: RelayStream,
    ours: RelayStream,
}

impl Pair {
    fn connected() -> Self {
        let keys = [1, 2].map(|n| SecretKey::from_bytes([n; 32]));
        let ids = [keys[0].node_id(), keys[1].node_id()];
        let (now, config) =
            (Instant::ZERO, RelayConfig { receive_window: 1 << 20, ..RelayConfig::default() });
        let peer = RelayStream::connect(&keys[0], &ids[1], &[5; 16], [1; 32], &config, now);
        let ours = RelayStream::accept(&keys[1], &ids[0], &[5; 16], [2; 32], &config, now);
        let mut pair = Pair { now, peer, ours };
        assert_eq!(pair.run(1_000), [StreamEvent::Connected]);
        pair
    }

    /// Runs for so many milliseconds, and returns the events at our end.
    fn run(&mut self, ms: u64) -> Vec<StreamEvent> {
        for _ in 0..ms {
            self.now = self.now + Duration::from_millis(1);
            while let Some(datagram) = self.peer.poll_transmit(self.now) {
                self.ours.handle_datagram(self.now, &datagram);
            }
            while let Some(datagram) = self.ours.poll_transmit(self.now) {
                self.peer.handle_datagram(self.now, &datagram);
            }
            for end in [&mut self.peer, &mut self.ours] {
                if end.poll_timeout().is_some_and(|at| at <= self.now) {
                    end.handle_timeout(self.now);
                }
            }
        }
        core::iter::from_fn(|| self.ours.poll_event()).collect()
    }

    fn violated(mut self) {
        assert_eq!(self.run(1_000).last(), Some(&StreamEvent::Ended(EndCause::Protocol(1))));
        let told = core::iter::from_fn(|| self.peer.poll_event()).last();
        assert_eq!(told, Some(StreamEvent::Ended(EndCause::Protocol(1))));
        assert!(self.ours.is_over() && self.peer.is_over());
    }
}

#[test]
fn a_message_that_is_too_long_ends_the_stream() {
    for over in [0, 1] {
        let mut pair = Pair::connected();
        let conn = pair.peer.quic();
        let id = conn.streams().open(Dir::Uni).unwrap();
        let long = vec![7; MAX_MESSAGE + over];
        assert_eq!(conn.send_stream(id).write(&long), Ok(long.len()));
        if over == 1 {
            pair.violated();
        } else {
            pair.peer.quic().send_stream(id).finish().unwrap();
            assert!(pair.run(1_000).contains(&StreamEvent::Message));
            assert_eq!(pair.ours.read_message(pair.now), Some(Bytes::from(long)));
        }
    }
}

#[test]
fn streams_are_neither_reset_nor_stopped() {
    let mut pair = Pair::connected();
    pair.peer.write(pair.now, b"some");
    let id = StreamId::new(Side::Client, Dir::Uni, 0);
    pair.peer.quic().send_stream(id).reset(VarInt::from_u32(9)).unwrap();
    assert_eq!(pair.run(100), [StreamEvent::Readable]);
    assert_eq!(pair.ours.read(pair.now, &mut [0; 9]), ReadOutcome::Empty);
    pair.violated();

    let mut pair = Pair::connected();
    let id = pair.peer.quic().streams().open(Dir::Uni).unwrap();
    pair.peer.quic().send_stream(id).write(b"a message").unwrap();
    pair.run(100);
    pair.peer.quic().send_stream(id).reset(VarInt::from_u32(9)).unwrap();
    pair.violated();

    let mut pair = Pair::connected();
    pair.ours.write(pair.now, b"some");
    pair.run(100);
    let id = StreamId::new(Side::Server, Dir::Uni, 0);
    pair.peer.quic().recv_stream(id).stop(VarInt::from_u32(9)).unwrap();
    pair.violated();
}

#[test]
fn what_a_peer_begins_and_never_ends_is_bounded() {
    let mut pair = Pair::connected();
    assert_eq!(pair.peer.quic().streams().open(Dir::Bi), None);
    let streams: Vec<_> = core::iter::from_fn(|| pair.peer.quic().streams().open(Dir::Uni)).collect();
    assert_eq!(streams.len(), MAX_MESSAGES);
    let part = vec![0; MAX_MESSAGE - 1];
    for id in &streams {
        assert_eq!(pair.peer.quic().send_stream(*id).write(&part), Ok(part.len()));
    }
    // A pipe that nobody reads has one window.
    assert_eq!(pair.peer.write(pair.now, &vec![0; 3 << 20]), 1 << 20);
    pair.run(60_000);
    assert_eq!(pair.peer.write(pair.now, &[0; 9]), 0);
    assert_eq!(pair.peer.quic().streams().open(Dir::Uni), None);
    assert_eq!(pair.ours.read_message(pair.now), None);
    assert!(!pair.ours.is_over());
}
