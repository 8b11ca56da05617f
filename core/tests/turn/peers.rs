//! Permissions, channels and the datagrams that go by them.

use std::net::IpAddr;

use bytes::Bytes;
use p2pd_core::Transport::{Tcp, Udp};
use p2pd_core::turn::{
    Config, Credentials, Error, Event, Lifetimes, MAX_CHANNELS, MAX_PAYLOAD, MAX_PEERS, MAX_PENDING,
    MAX_QUEUED, PermitError, SendError,
};

use super::hand::*;

const PEER_IP: &str = "192.0.2.1";
const PEER_ADDR: &str = "192.0.2.1:7000";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A Data indication of a peer's.
fn data_indication(peer: &str, data: &[u8]) -> Vec<u8> {
    message(DATA | 0x10, [5; 12], &[(PEER, xored(addr(peer), [5; 12])), (0x13, data.to_vec())], None)
}

#[test]
fn a_peer_is_permitted_sent_to_and_then_has_a_channel() {
    let mut hand = Hand::ready(Udp);
    hand.client.permit(hand.now, ip(PEER_IP)).unwrap();
    let asked = hand.one();
    assert_eq!(asked.kind, PERMISSION);
    assert_eq!(asked.get(PEER), Some(&xored(addr("192.0.2.1:0"), asked.id)[..]));
    // What is sent meanwhile waits.
    hand.client.send(hand.now, addr(PEER_ADDR), b"first").unwrap();
    assert_eq!(hand.sent().len(), 0);
    hand.say(&success(&asked, &[]));
    assert_eq!(hand.events(), [Event::Permitted(ip(PEER_IP))]);
    let [bind, first] = hand.sent().try_into().unwrap();
    let (bind, first) = (Sent::read(bind), Sent::read(first));
    assert_eq!((bind.kind, bind.get(CHANNEL_NUMBER)), (CHANNEL, Some(&[0x40, 0, 0, 0][..])));
    assert_eq!(bind.get(PEER), Some(&xored(addr(PEER_ADDR), bind.id)[..]));
    assert_eq!((first.kind, first.get(0x13)), (0x0016, Some(&b"first"[..])));
    assert_eq!(first.get(PEER), Some(&xored(addr(PEER_ADDR), first.id)[..]));
    // The server may use the channel before its answer arrives.
    hand.say(b"\x40\x00\x00\x05early\0\0\0");
    let early = Event::Data { from: addr(PEER_ADDR), data: Bytes::from_static(b"early") };
    assert_eq!(hand.events(), [early]);
    hand.say(&success(&bind, &[]));
    hand.client.send(hand.now, addr(PEER_ADDR), b"second").unwrap();
    assert_eq!(hand.sent(), [&b"\x40\x00\x00\x06second"[..]]);
    // Another port of the peer needs no permission, and has a channel of its own.
    hand.client.send(hand.now, addr("192.0.2.1:7001"), b"third").unwrap();
    assert_eq!(Sent::read(hand.sent().remove(0)).get(CHANNEL_NUMBER), Some(&[0x40, 1, 0, 0][..]));
    for from in [PEER_ADDR, "192.0.2.1:9"] {
        hand.say(&data_indication(from, b"answer"));
        let data = Bytes::from_static(b"answer");
        assert_eq!(hand.events(), [Event::Data { from: addr(from), data }]);
    }
    assert_eq!(hand.client.stats(), Default::default());
}

#[test]
fn peers_permitted_before_there_is_an_allocation_are_asked_for_then() {
    let mut hand = Hand::new(Udp);
    hand.client.permit(hand.now, ip(PEER_IP)).unwrap();
    hand.client.send(hand.now, addr(PEER_ADDR), b"first").unwrap();
    let first = hand.one();
    hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
    let second = hand.one();
    hand.say(&allocated(&second, RELAYED, 600));
    let asked = hand.one();
    assert_eq!(asked.kind, PERMISSION);
    hand.say(&success(&asked, &[]));
    assert_eq!(hand.sent().len(), 2);
}

#[test]
fn permissions_channels_and_the_allocation_are_refreshed_each_in_its_time() {
    let mut hand = Hand::ready(Tcp);
    hand.permit(PEER_IP);
    hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    let bind = Sent::read(hand.sent().remove(0));
    hand.say(&success(&bind, &[]));
    let mut asked = Vec::new();
    while hand.at() < 1_200_000 {
        for bytes in hand.wait() {
            let sent = Sent::read(bytes);
            asked.push((hand.at() / 1000, sent.kind));
            let lifetime = [seconds(600)];
            hand.say(&success(&sent, if sent.kind == REFRESH { &lifetime } else { &[] }));
            if sent.kind == CHANNEL {
                assert_eq!(sent.get(CHANNEL_NUMBER), bind.get(CHANNEL_NUMBER));
            }
            // While it is refreshed it goes on.
            hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
            assert_eq!(hand.sent()[..], [&b"\x40\0\0\x01x\0\0\0"[..]]);
        }
    }
    let (p, c, r) = (PERMISSION, CHANNEL, REFRESH);
    let expected =
        [(240, p), (480, p), (540, r), (540, c), (720, p), (960, p), (1080, r), (1080, c), (1200, p)];
    assert_eq!(asked, expected);
    assert_eq!(hand.events(), []);
}

#[test]
fn a_server_with_other_lifetimes_can_be_said() {
    let lifetimes = Lifetimes { permission: ms(20_000), channel: ms(40_000), ..Lifetimes::default() };
    let config = Config { lifetimes, ..Config::new(Tcp, Credentials::new("alice", "secret")) };
    let mut hand = Hand::with(config);
    hand.allocate(600);
    hand.permit(PEER_IP);
    hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    let bind = Sent::read(hand.sent().remove(0));
    hand.say(&success(&bind, &[]));
    let kinds = [(); 2].map(|()| {
        let sent = Sent::read(hand.wait().remove(0));
        hand.say(&success(&sent, &[]));
        (hand.at(), sent.kind)
    });
    assert_eq!(kinds, [(10_000, PERMISSION), (20_000, PERMISSION)]);
}

#[test]
fn a_refused_peer_is_said_and_can_be_tried_again() {
    let mut hand = Hand::ready(Udp);
    hand.client.permit(hand.now, ip(PEER_IP)).unwrap();
    hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    let asked = hand.one();
    hand.say(&error(&asked, &[code(403)], Some(&key())));
    assert_eq!(hand.events(), [Event::Refused { peer: ip(PEER_IP), code: 403 }]);
    assert_eq!(hand.client.send(hand.now, addr(PEER_ADDR), b"x"), Err(SendError::NotPermitted));
    hand.permit(PEER_IP);
    assert_eq!(hand.sent().len(), 0, "what waited for the first is gone");
    // An allocation that is gone is more than a refused peer.
    hand.client.permit(hand.now, ip("192.0.2.2")).unwrap();
    let asked = hand.one();
    hand.say(&error(&asked, &[code(437)], Some(&key())));
    assert_eq!(hand.events(), [Event::Lost(Error::AllocationGone)]);
}

#[test]
fn without_a_channel_indications_go_on() {
    let mut hand = Hand::ready(Udp);
    hand.permit(PEER_IP);
    hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    let bind = Sent::read(hand.sent().remove(0));
    hand.say(&error(&bind, &[code(508)], Some(&key())));
    hand.client.send(hand.now, addr(PEER_ADDR), b"y").unwrap();
    let sent = hand.one();
    assert_eq!((sent.kind, sent.get(0x13)), (0x0016, Some(&b"y"[..])));
    assert_eq!(hand.events(), []);
    // As many channels as there may be, and one peer more.
    let mut hand = Hand::ready(Udp);
    hand.permit(PEER_IP);
    for n in 0..=MAX_CHANNELS as u16 {
        hand.client.send(hand.now, (ip(PEER_IP), 1000 + n).into(), b"x").unwrap();
        assert_eq!(hand.sent().len(), if usize::from(n) < MAX_CHANNELS { 2 } else { 1 });
    }
}

#[test]
fn a_forgotten_peer_is_a_stranger_and_is_not_refreshed() {
    let mut hand = Hand::ready(Tcp);
    hand.permit(PEER_IP);
    hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    let bind = Sent::read(hand.sent().remove(0));
    hand.say(&success(&bind, &[]));
    hand.client.forget(hand.now, ip(PEER_IP));
    assert_eq!(hand.client.send(hand.now, addr(PEER_ADDR), b"x"), Err(SendError::NotPermitted));
    hand.say(b"\x40\0\0\x01x\0\0\0");
    hand.say(&data_indication(PEER_ADDR, b"x"));
    assert_eq!((hand.events(), hand.client.stats().strangers), (vec![], 2));
    assert_eq!(hand.wait()[0][..2], [0, 4]);
    assert_eq!(hand.at(), 540_000, "nothing but the allocation");
    // Permitted again, it has the number that it had.
    let mut hand = Hand::ready(Tcp);
    hand.permit(PEER_IP);
    hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    hand.sent();
    hand.client.forget(hand.now, ip(PEER_IP));
    hand.permit(PEER_IP);
    hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    assert_eq!(Sent::read(hand.sent().remove(0)).get(CHANNEL_NUMBER), Some(&[0x40, 0, 0, 0][..]));
}

#[test]
fn addresses_of_both_spellings_are_one_peer() {
    let mut hand = Hand::ready(Udp);
    hand.client.permit(hand.now, ip("::ffff:192.0.2.1")).unwrap();
    let asked = hand.one();
    assert_eq!(asked.get(PEER), Some(&xored(addr("192.0.2.1:0"), asked.id)[..]));
    hand.client.permit(hand.now, ip(PEER_IP)).unwrap();
    assert_eq!(hand.sent().len(), 0);
    hand.say(&success(&asked, &[]));
    hand.client.send(hand.now, addr("[::ffff:192.0.2.1]:7000"), b"x").unwrap();
    assert_eq!(hand.sent().len(), 2);
}

#[test]
fn what_cannot_be_has_its_error() {
    let mut hand = Hand::ready(Udp);
    assert_eq!(hand.client.permit(hand.now, ip("2001:db8::1")), Err(PermitError::Family));
    assert_eq!(hand.client.send(hand.now, addr(PEER_ADDR), b"x"), Err(SendError::NotPermitted));
    hand.permit(PEER_IP);
    let long = [0; MAX_PAYLOAD + 1];
    assert_eq!(hand.client.send(hand.now, addr(PEER_ADDR), &long), Err(SendError::TooLong));
    hand.client.send(hand.now, addr(PEER_ADDR), &long[1..]).unwrap();
    let longest = hand.sent().iter().map(Bytes::len).max();
    assert_eq!(longest, Some(MAX_PAYLOAD + 36));
    for n in 1..MAX_PEERS as u8 {
        hand.client.permit(hand.now, IpAddr::from([198, 51, 100, n])).unwrap();
    }
    assert_eq!(hand.client.permit(hand.now, ip("192.0.2.9")), Err(PermitError::TooMany));
    assert_eq!(hand.client.permit(hand.now, ip(PEER_IP)), Ok(()));
    hand.client.close(hand.now);
    assert_eq!(hand.client.permit(hand.now, ip(PEER_IP)), Err(PermitError::Closed));
    assert_eq!(hand.client.send(hand.now, addr(PEER_ADDR), b"x"), Err(SendError::Closed));
}

#[test]
fn queues_are_bounded_and_what_is_beyond_is_counted() {
    let mut hand = Hand::ready(Udp);
    hand.client.permit(hand.now, ip(PEER_IP)).unwrap();
    let asked = hand.one();
    for _ in 0..MAX_PENDING + 3 {
        hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    }
    assert_eq!(hand.client.stats().dropped, 3);
    hand.say(&success(&asked, &[]));
    assert_eq!(hand.sent().len(), MAX_PENDING + 1);
    for _ in 0..MAX_QUEUED + 5 {
        hand.client.send(hand.now, addr(PEER_ADDR), b"x").unwrap();
    }
    assert_eq!((hand.sent().len(), hand.client.stats().dropped), (MAX_QUEUED, 8));
    hand.events();
    for _ in 0..MAX_QUEUED + 7 {
        hand.say(&data_indication(PEER_ADDR, b"x"));
    }
    assert_eq!((hand.events().len(), hand.client.stats().dropped), (MAX_QUEUED, 15));
}

#[test]
fn a_permission_names_the_peers_port_once_it_is_known() {
    let mut hand = Hand::ready(Udp);
    let named = |asked: &Sent, at: &str| {
        assert_eq!((asked.kind, asked.get(PEER)), (PERMISSION, Some(&xored(addr(at), asked.id)[..])));
    };
    hand.client.permit_at(hand.now, addr(PEER_ADDR)).unwrap();
    let asked = hand.one();
    named(&asked, PEER_ADDR);
    hand.say(&success(&asked, &[]));
    // Others of its ports change nothing, and refreshes name the same one.
    hand.client.permit_at(hand.now, addr("192.0.2.1:9")).unwrap();
    hand.client.permit(hand.now, ip(PEER_IP)).unwrap();
    assert_eq!(hand.sent().len(), 0);
    let mut again = hand.wait();
    while again.first().is_none_or(|bytes| bytes[..2] != [0, 8]) {
        again = hand.wait();
    }
    named(&Sent::read(again.remove(0)), PEER_ADDR);
    // One that is learnt later is asked for anew.
    let mut hand = Hand::ready(Udp);
    hand.permit(PEER_IP);
    hand.client.permit_at(hand.now, addr(PEER_ADDR)).unwrap();
    named(&hand.one(), PEER_ADDR);
}

#[test]
fn a_refusal_without_integrity_is_a_reason_and_ends_nothing() {
    for code_ in [403, 443] {
        let mut hand = Hand::ready(Udp);
        hand.client.permit(hand.now, ip(PEER_IP)).unwrap();
        let asked = hand.one();
        assert_eq!(hand.client.unproven(), None);
        hand.say(&error(&asked, &[code(code_)], None));
        assert_eq!((hand.client.unproven(), hand.events()), (Some(code_), vec![]));
        hand.say(&success(&asked, &[]));
        assert_eq!((hand.client.unproven(), hand.events()), (None, vec![Event::Permitted(ip(PEER_IP))]));
    }
}

#[test]
fn whoever_is_sent_to_is_permitted_and_the_idlest_gives_way() {
    let mut hand = Hand::ready(Udp);
    let peer = |n: usize| -> std::net::SocketAddr { ([192, 0, 2, n as u8], 7000).into() };
    let send = |hand: &mut Hand, n: usize| hand.client.send_permitting(hand.now, peer(n), b"hello");
    for n in 0..MAX_PEERS {
        send(&mut hand, n).unwrap();
        let asked = hand.one();
        assert_eq!(asked.kind, PERMISSION);
        hand.say(&success(&asked, &[]));
        assert_eq!(hand.events(), [Event::Permitted(peer(n).ip())]);
        let sent: Vec<u16> = hand.sent().into_iter().map(|bytes| Sent::read(bytes).kind).collect();
        assert_eq!(sent, [CHANNEL, 0x0016]);
    }
    assert_eq!(send(&mut hand, 100), Err(SendError::TooManyPeers));
    assert_eq!(hand.client.send_permitting(hand.now, addr("[::1]:1"), b""), Err(SendError::Family));
    // All but the first two are used later; of these the second is heard.
    hand.now = hand.now + ms(200_000);
    for n in 2..MAX_PEERS {
        send(&mut hand, n).unwrap();
    }
    hand.say(&data_indication("192.0.2.1:7000", b"here"));
    hand.now = hand.now + ms(99_999);
    assert_eq!(send(&mut hand, 100), Err(SendError::TooManyPeers));
    hand.now = hand.now + ms(1);
    send(&mut hand, 100).unwrap();
    hand.sent();
    assert_eq!(hand.client.send(hand.now, peer(0), b""), Err(SendError::NotPermitted));
    assert_eq!(send(&mut hand, 101), Err(SendError::TooManyPeers));
}
