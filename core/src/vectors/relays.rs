//! The stream over a relay, from the first datagram to the last, and the datagrams that knock before it.

use core::time::Duration;

use bytes::Bytes;

use super::{Fields, SESSION, alice, bob, ephemeral, hex, lines, text};
use crate::hello::Control;
use crate::identity::{NodeId, SecretKey};
use crate::noise;
use crate::relay::{ReadOutcome, RelayConfig, RelayStream, StreamEvent};
use crate::session::SessionId;
use crate::signal::message::VERSION;
use crate::time::Instant;

/// Knocks by the page's formulas. `tests/knocks.rs` holds nodes to these.
pub(super) fn knocks() -> Vec<Fields> {
    let vector = |name: &str, [ours, peer]: [SecretKey; 2], session: SessionId| {
        let token = *b"sixteen bytes ok";
        let secret = noise::shared_secret(&ours, &peer.node_id());
        let key = noise::derive(&secret, &[b"p2pd knock", &session.0]);
        let proof = |kind: u8, of: &[&[u8]]| {
            let proof = noise::derive(&key, &[&[&[kind][..]][..], of].concat());
            [&[kind], &proof[..16]].concat()
        };
        let asker: NodeId = ours.node_id();
        vec![
            ("name", text(name)),
            ("asker", hex(ours.as_bytes())),
            ("peer", hex(peer.as_bytes())),
            ("session", hex(&session.0)),
            ("token", hex(&token)),
            ("knock", hex(&[&[1][..], &token].concat())),
            ("answer", hex(&proof(2, &[&token]))),
            ("call", hex(&proof(3, &[&token, asker.as_bytes()]))),
        ]
    };
    vec![
        vector("alice asks bob", [alice(), bob()], SESSION),
        vector("bob asks alice, in another session", [bob(), alice()], super::OTHER_SESSION),
    ]
}

/// Both ends, the caller first, and what went over the wire.
struct Wire {
    now: Instant,
    ends: [RelayStream; 2],
    datagrams: Vec<Fields>,
    connected: usize,
    read: [Vec<u8>; 2],
    messages: [Vec<Bytes>; 2],
}

impl Wire {
    /// Lets a time pass in which all datagrams arrive at once.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            while (0..2).any(|end| self.turn(end)) {}
            let next = self.ends.iter_mut().filter_map(RelayStream::poll_timeout).min();
            match next.filter(|at| *at <= until) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            for end in &mut self.ends {
                if end.poll_timeout().is_some_and(|at| at <= self.now) {
                    end.handle_timeout(self.now);
                }
            }
        }
        self.now = until;
    }

    fn turn(&mut self, from: usize) -> bool {
        let mut moved = false;
        while let Some(datagram) = self.ends[from].poll_transmit(self.now) {
            moved = true;
            self.datagrams.push(vec![("from", text(["caller", "callee"][from])), ("bytes", hex(&datagram))]);
            self.ends[1 - from].handle_datagram(self.now, &datagram);
        }
        while let Some(event) = self.ends[from].poll_event() {
            self.connected += usize::from(event == StreamEvent::Connected);
        }
        let mut space = [0; 64];
        while let ReadOutcome::Read(n) = self.ends[from].read(self.now, &mut space) {
            self.read[1 - from].extend_from_slice(&space[..n]);
        }
        while let Some(message) = self.ends[from].read_message(self.now) {
            self.messages[1 - from].push(message);
        }
        moved
    }
}

/// Bob asked alice to come to his relay: alice is the caller, and bob, who has the lower id, nominates.
pub(super) fn relays() -> Vec<Fields> {
    [("a whole pipe with two messages", false), ("the same under AES-256-GCM", true)]
        .map(|(name, aes)| relay(name, aes))
        .into()
}

fn relay(name: &str, aes: bool) -> Fields {
    let (alice, bob) = (alice(), bob());
    let seeds = [[0x61; 32], [0x62; 32]];
    let (config, now) = (RelayConfig { aes, ..RelayConfig::default() }, Instant::ZERO);
    let caller = RelayStream::connect(&alice, &bob.node_id(), &SESSION.0, seeds[0], &config, now);
    let callee = RelayStream::accept(&bob, &alice.node_id(), &SESSION.0, seeds[1], &config, now);
    let mut wire = Wire {
        now,
        ends: [caller, callee],
        datagrams: Vec::new(),
        connected: 0,
        read: Default::default(),
        messages: Default::default(),
    };
    wire.run(Duration::from_millis(10));
    assert_eq!(wire.connected, 2);
    let said = |control: &Control| [&[control.encode().len() as u8][..], &control.encode()].concat();
    let callee_says = [said(&Control::Nominate([SESSION].into_iter().collect())), b"hello".to_vec()].concat();
    let caller_says = [said(&Control::Confirm(None)), b"world".to_vec()].concat();
    for (end, text) in [(1, &callee_says), (0, &caller_says)] {
        assert_eq!(wire.ends[end].write(wire.now, text), text.len());
        wire.run(Duration::from_millis(10));
    }
    for (end, message) in [(1, b"beside the pipe".as_slice()), (0, b"")] {
        wire.ends[end].send_message(wire.now, Bytes::copy_from_slice(message)).unwrap();
        wire.run(Duration::from_millis(10));
    }
    wire.ends[1].finish(wire.now);
    wire.run(Duration::from_millis(10));
    wire.ends[0].close(wire.now);
    wire.run(Duration::from_millis(10));
    assert_eq!(wire.read, [caller_says.clone(), callee_says.clone()]);
    assert_eq!(wire.messages, [vec![Bytes::new()], vec![Bytes::from_static(b"beside the pipe")]]);

    let prologue = [b"p2pd relay\0", &[VERSION][..], &SESSION.0, bob.node_id().as_bytes()].concat();
    let drawn = |n: usize| ephemeral(noise::derive(&seeds[n], &[b"relay stream ", b"ephemeral"]));
    vec![
        ("name", text(name)),
        ("caller", hex(alice.as_bytes())),
        ("callee", hex(bob.as_bytes())),
        ("session", hex(&SESSION.0)),
        ("caller_ephemeral", hex(&drawn(0))),
        ("callee_ephemeral", hex(&drawn(1))),
        ("prologue", hex(&prologue)),
        ("initial_secret", hex(&noise::derive(&noise::shared_secret(&alice, &bob.node_id()), &[&prologue]))),
        ("caller_stream", hex(&caller_says)),
        ("callee_stream", hex(&callee_says)),
        ("caller_message", hex(b"")),
        ("callee_message", hex(b"beside the pipe")),
        ("datagrams", lines(&wire.datagrams)),
    ]
}
