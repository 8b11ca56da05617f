//! Servers that are wrong, people in between, and peers that nobody asked for. Each has a clear error or is
//! counted; none does harm.

use p2pd_core::Transport::{Tcp, Udp};
use p2pd_core::strangers::{IntegrityKey, append_fingerprint};
use p2pd_core::stun::{GuardError, Rule};
use p2pd_core::turn::{Error, Event, Stats};

use super::hand::*;

#[test]
fn wrong_credentials_are_said_after_one_proof() {
    for realm in ["lab", "another realm each time"] {
        let mut hand = Hand::new(Udp);
        let first = hand.one();
        hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
        let second = hand.one();
        hand.say(&error(&second, &challenge(401, realm, "n1"), None));
        assert_eq!((hand.events(), hand.sent().len()), (vec![Event::Lost(Error::WrongCredentials)], 0));
    }
}

#[test]
fn a_wrong_realm_leads_to_a_proof_that_the_server_refuses() {
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    hand.say(&error(&first, &challenge(401, "evil", "n0"), None));
    let second = hand.one();
    assert!(!second.is_signed_by(&key()), "the password went nowhere else");
    assert!(second.is_signed_by(&IntegrityKey::long_term("alice", "evil", "secret")));
    // Who knows the true realm's key cannot grant it either.
    hand.say(&allocated(&second, RELAYED, 600));
    assert_eq!((hand.events(), hand.client.stats().forged), (vec![], 1));
}

#[test]
fn stale_nonces_are_replaced_and_a_server_that_likes_none_is_given_up() {
    let mut hand = Hand::ready(Tcp);
    let mut refresh = Sent::read(hand.wait().remove(0));
    for n in 1..=2 {
        let nonce = format!("n{n}");
        hand.say(&error(&refresh, &challenge(438, "lab", &nonce), None));
        let again = hand.one();
        assert_eq!((again.kind, again.get(NONCE)), (REFRESH, Some(nonce.as_bytes())));
        assert_ne!(again.id, refresh.id);
        assert!(again.is_signed_by(&key()));
        refresh = again;
    }
    hand.say(&error(&refresh, &challenge(438, "lab", "n3"), None));
    assert_eq!(hand.events(), [Event::Lost(Error::StaleNonce)]);
    // One that gets better is not.
    let mut hand = Hand::ready(Tcp);
    let refresh = Sent::read(hand.wait().remove(0));
    hand.say(&error(&refresh, &challenge(438, "lab", "n1"), None));
    let again = hand.one();
    hand.say(&success(&again, &[seconds(600)]));
    let next = Sent::read(hand.wait().remove(0));
    assert_eq!((hand.at(), next.get(NONCE)), (1_080_000, Some(&b"n1"[..])), "kept for the next");
    assert_eq!((hand.events(), hand.client.stats()), (vec![], Stats::default()));
}

#[test]
fn forged_answers_are_counted_and_the_true_one_still_counts() {
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
    let second = hand.one();
    let fields =
        [(0x16, xored(addr("192.0.2.66:6"), second.id)), (0x20, xored(addr(MAPPED), second.id)), seconds(9)];
    let other = IntegrityKey::long_term("alice", "lab", "guess");
    let mut flipped = allocated(&second, RELAYED, 600);
    flipped[24] ^= 1;
    let mut behind = allocated(&second, RELAYED, 600);
    let tag = behind.split_off(behind.len() - 24);
    behind = message(0x0103, second.id, &[], None);
    behind.extend(tag);
    let length = (behind.len() - 20) as u16;
    behind[2..4].copy_from_slice(&length.to_be_bytes());
    for (n, forged) in [
        message(0x0103, second.id, &fields, None),
        message(0x0103, second.id, &fields, Some(&other)),
        flipped,
        behind,
        error(&second, &[code(486)], None),
        error(&second, &[code(486)], Some(&other)),
        error(&second, &challenge(401, "lab", "n1"), Some(&other)),
        error(&second, &challenge(438, "lab", "n1"), Some(&other)),
    ]
    .iter()
    .enumerate()
    {
        hand.say(forged);
        assert_eq!((hand.events(), hand.sent().len()), (vec![], 0), "{n}");
        assert_eq!(hand.client.stats(), Stats { forged: n as u64 + 1, ..Stats::default() });
    }
    hand.say(&allocated(&second, RELAYED, 600));
    assert!(matches!(hand.events()[..], [Event::Allocated { relayed, .. }] if relayed == addr(RELAYED)));
    // Twice, late, and to nothing that was asked.
    hand.say(&allocated(&second, RELAYED, 600));
    hand.say(&message(0x0103, [9; 12], &fields, Some(&key())));
    assert_eq!((hand.events(), hand.client.stats().unasked), (vec![], 2));
}

#[test]
fn an_answer_must_be_to_the_method_that_was_asked() {
    let mut hand = Hand::ready(Tcp);
    let refresh = Sent::read(hand.wait().remove(0));
    hand.say(&message(0x0103, refresh.id, &[seconds(600)], Some(&key())));
    assert_eq!(hand.client.stats(), Stats { unasked: 1, ..Stats::default() });
    hand.say(&success(&refresh, &[seconds(600)]));
    assert_eq!(hand.wait()[0][..2], [0, 4]);
}

#[test]
fn an_error_that_proves_nothing_is_the_reason_only_if_nothing_better_comes() {
    let mut hand = Hand::ready(Tcp);
    let refresh = Sent::read(hand.wait().remove(0));
    hand.say(&error(&refresh, &[code(437)], None));
    assert_eq!(hand.events(), []);
    assert_eq!(hand.wait().len(), 0);
    assert_eq!(hand.events(), [Event::Lost(Error::Unproven(437))]);
}

#[test]
fn a_nonce_that_weakens_the_proof_is_not_taken() {
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    let mut offer = challenge(401, "lab", "obMatJos2wAAAx");
    offer.push((0x8002, vec![0, 2, 0, 0, 0, 1, 0, 0]));
    hand.say(&error(&first, &offer, None));
    let second = hand.one();
    let mut weak = challenge(438, "lab", "obMatJos2wAAAy");
    weak.push((0x8002, vec![0, 1, 0, 0]));
    hand.say(&error(&second, &weak, None));
    assert_eq!((hand.sent().len(), hand.client.stats().forged), (0, 1));
    // And an offer from which the algorithms were taken is none.
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    hand.say(&error(&first, &challenge(401, "lab", "obMatJos2wAAAx"), None));
    assert_eq!(hand.events(), [Event::Lost(Error::NoCommonAlgorithm)]);
}

#[test]
fn channel_data_of_a_lying_length_is_dropped() {
    let mut hand = Hand::ready(Udp);
    hand.permit("192.0.2.1");
    hand.client.send(hand.now, addr("192.0.2.1:7000"), b"x").unwrap();
    hand.sent();
    for (n, lie) in [
        &b"\x40\x00\x00\x06hello"[..],
        b"\x40\x00\xff\xffhello",
        b"\x40\x00\x00\x01hello123",
        b"\x40\x00\x00",
    ]
    .iter()
    .enumerate()
    {
        hand.say(lie);
        assert_eq!((hand.events(), hand.client.stats().malformed), (vec![], n as u64 + 1));
    }
    hand.say(b"\x40\x00\x00\x05hello");
    assert_eq!(hand.events().len(), 1);
    // On a stream the length is the frame: what it claims is waited for, and what follows is taken for its own.
    let mut hand = Hand::ready(Tcp);
    hand.permit("192.0.2.1");
    hand.client.send(hand.now, addr("192.0.2.1:7000"), b"x").unwrap();
    hand.sent();
    hand.say(b"\x40\x00\x00\x09hello");
    assert_eq!(hand.events(), []);
    hand.client.handle_end(hand.now);
    assert_eq!(hand.events(), [Event::Lost(Error::CutOff)]);
}

#[test]
fn strangers_are_dropped_and_counted() {
    let mut hand = Hand::ready(Udp);
    hand.permit("192.0.2.1");
    let indication = |peer: &str| {
        let fields = [(PEER, xored(addr(peer), [5; 12])), (0x13, b"psst".to_vec())];
        message(DATA | 0x10, [5; 12], &fields, None)
    };
    hand.say(&indication("192.0.2.2:7000"));
    hand.say(&indication("[2001:db8::1]:7000"));
    hand.say(b"\x40\x07\x00\x04psst");
    assert_eq!((hand.events(), hand.client.stats()), (vec![], Stats { strangers: 3, ..Stats::default() }));
    // A permission that is only asked for lets nobody in.
    hand.client.permit(hand.now, "192.0.2.2".parse().unwrap()).unwrap();
    hand.say(&indication("192.0.2.2:7000"));
    assert_eq!((hand.events(), hand.client.stats().strangers), (vec![], 4));
}

#[test]
fn a_server_that_closes_is_told_from_one_that_breaks_off() {
    for cut in [1, 4, 19, 30] {
        let mut hand = Hand::ready(Tcp);
        let refresh = Sent::read(hand.wait().remove(0));
        let answer = success(&refresh, &[seconds(600)]);
        hand.say(&answer[..cut]);
        hand.client.handle_end(hand.now);
        assert_eq!(hand.events(), [Event::Lost(Error::CutOff)], "after {cut} bytes");
        assert_eq!((hand.client.poll_timeout(), hand.sent().len()), (None, 0));
    }
}

#[test]
fn a_stream_that_is_no_turn_ends_the_allocation() {
    let mut hand = Hand::new(Tcp);
    hand.say(b"SSH-2.0-OpenSSH_9.2\r\n");
    hand.say(b"more");
    let why = GuardError { offset: 0, rule: Rule::Header };
    assert_eq!(hand.events(), [Event::Lost(Error::OutOfStep(why))]);
}

#[test]
fn oversized_frames_are_skipped() {
    let long = message(DATA | 0x10, [5; 12], &[(PEER, vec![0; 8]), (0x13, vec![1; 60_000])], None);
    let mut hand = Hand::ready(Tcp);
    let refresh = Sent::read(hand.wait().remove(0));
    for chunk in long.chunks(1000) {
        hand.say(chunk);
    }
    hand.say(&[&[0x40, 0, 0xff, 0xff][..], &[2; 65_536]].concat());
    hand.say(&success(&refresh, &[seconds(600)]));
    assert_eq!((hand.events(), hand.client.stats()), (vec![], Stats { oversized: 2, ..Stats::default() }));
    assert_eq!(hand.wait()[0][..2], [0, 4]);
    assert_eq!(hand.at(), 1_080_000, "the answer behind them was read");
    let mut hand = Hand::ready(Udp);
    hand.say(&long);
    hand.say(&message(DATA | 0x10, [5; 12], &[(PEER, vec![0; 8]), (0x13, vec![1; 1600])], None));
    hand.say(&[&[0x40, 0, 0x0f, 0xff][..], &[2; 4095]].concat());
    let expected = Stats { oversized: 2, malformed: 1, ..Stats::default() };
    assert_eq!((hand.events(), hand.client.stats()), (vec![], expected));
}

#[test]
fn what_is_no_message_for_a_client_is_counted() {
    let mut hand = Hand::ready(Udp);
    let mut wrong_crc = message(DATA | 0x10, [5; 12], &[], None);
    append_fingerprint(&mut wrong_crc);
    *wrong_crc.last_mut().unwrap() ^= 1;
    let nothing: &[&[u8]] = &[
        b"",
        b"hello",
        &[0; 20],
        &message(ALLOCATE, [5; 12], &[], None),
        &message(DATA | 0x10, [5; 12], &[(0x13, b"from nobody".to_vec())], None),
        &message(DATA | 0x10, [5; 12], &[(PEER, vec![0, 3, 0, 0]), (0x13, vec![])], None),
        &wrong_crc,
    ];
    for data in nothing {
        hand.say(data);
    }
    let expected = Stats { malformed: nothing.len() as u64, ..Stats::default() };
    assert_eq!((hand.events(), hand.client.stats()), (vec![], expected));
}

/// Bytes of a permitted peer are handed on and no others, and nothing panics.
#[test]
fn mutated_messages_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % n
    };
    let (mut delivered, mut ended) = (0, 0);
    for round in 0..400 {
        let over = if round % 2 == 0 { Udp } else { Tcp };
        let mut hand = Hand::ready(over);
        hand.permit("192.0.2.1");
        hand.client.send(hand.now, addr("192.0.2.1:7000"), b"x").unwrap();
        let bind = Sent::read(hand.sent().remove(0));
        hand.client.permit(hand.now, "192.0.2.2".parse().unwrap()).unwrap();
        let asked = hand.one();
        let data = [(PEER, xored(addr("192.0.2.1:7000"), [5; 12])), (0x13, b"hello".to_vec())];
        let seeds = [
            success(&bind, &[]),
            error(&asked, &[code(403)], Some(&key())),
            error(&asked, &challenge(438, "lab", "n1"), None),
            message(DATA | 0x10, [5; 12], &data, None),
            b"\x40\x00\x00\x05hello\0\0\0".to_vec(),
        ];
        for _ in 0..500 {
            let mut bytes = seeds[draw(seeds.len())].clone();
            for _ in 0..=draw(3) {
                match draw(6) {
                    0 => bytes.truncate(draw(bytes.len() + 1)),
                    1 => bytes.extend_from_within(draw(bytes.len() + 1)..),
                    _ if !bytes.is_empty() => {
                        let at = draw(bytes.len());
                        bytes[at] = draw(256) as u8;
                    }
                    _ => {}
                }
            }
            hand.say(&bytes);
            for event in hand.events() {
                match event {
                    Event::Data { from, .. } => {
                        assert_eq!(from.ip().to_string(), "192.0.2.1");
                        delivered += 1;
                    }
                    Event::Refused { code, .. } => assert_eq!(code, 403, "signed"),
                    Event::Lost(_) => ended += 1,
                    event => panic!("{event:?}"),
                }
            }
            if hand.client.poll_timeout().is_none() {
                break;
            }
        }
    }
    assert!(delivered > 5_000 && ended > 100, "they were reached: {delivered}, {ended}");
}
