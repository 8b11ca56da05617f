//! Allocating, refreshing, giving up; every answer that ends it.

use p2pd_core::Transport::{Tcp, Udp};
use p2pd_core::strangers::{IntegrityKey, userhash};
use p2pd_core::turn::{Client, Config, Credentials, Error, Event, Family, Lifetimes};
use p2pd_core::{Instant, WallTime};

use super::hand::*;

#[test]
fn an_allocation_is_asked_for_without_and_then_with_proof() {
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    assert_eq!((first.kind, first.attributes.len()), (ALLOCATE, 2));
    assert_eq!(
        (first.get(0x19), first.get(LIFETIME)),
        (Some(&[17, 0, 0, 0][..]), Some(&[0, 0, 2, 0x58][..]))
    );
    hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
    let second = hand.one();
    assert_ne!(first.id, second.id);
    assert!(second.is_signed_by(&key()));
    assert_eq!(second.get(USERNAME), Some(&b"alice"[..]));
    assert_eq!((second.get(REALM), second.get(NONCE)), (Some(&b"lab"[..]), Some(&b"n0"[..])));
    assert_eq!(hand.client.relayed(), None);
    hand.say(&allocated(&second, RELAYED, 600));
    let event =
        Event::Allocated { relayed: addr(RELAYED), other: None, mapped: addr(MAPPED), lifetime: ms(600_000) };
    assert_eq!(hand.events(), [event]);
    assert_eq!((hand.client.relayed(), hand.client.mapped()), (Some(addr(RELAYED)), Some(addr(MAPPED))));
    assert_eq!((hand.client.stats(), hand.sent().len()), (Default::default(), 0));
}

#[test]
fn sha256_and_a_hashed_name_are_used_where_the_server_offers_them() {
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    let mut offer = challenge(401, "lab", "obMatJos2wAAAx");
    offer.push((0x8002, vec![0, 2, 0, 0, 0, 1, 0, 0]));
    hand.say(&error(&first, &offer, None));
    let second = hand.one();
    let key = IntegrityKey::long_term_sha256("alice", "lab", "secret");
    assert!(second.is_signed_by(&key));
    assert_eq!((second.get(USERNAME), second.get(0x1e)), (None, Some(&userhash("alice", "lab")[..])));
    assert_eq!(second.get(0x8002), Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
    assert_eq!(second.get(0x1d), Some(&[0, 2, 0, 0][..]));
    // The weaker integrity proves nothing then, whoever knows the password.
    hand.say(&allocated(&second, RELAYED, 600));
    assert_eq!((hand.events(), hand.client.stats().forged), (vec![], 1));
    let relayed = (0x16, xored(addr(RELAYED), second.id));
    let fields = [relayed, (0x20, xored(addr(MAPPED), second.id)), seconds(600)];
    hand.say(&message(0x0103, second.id, &fields, Some(&key)));
    assert!(matches!(hand.events()[..], [Event::Allocated { .. }]));
}

#[test]
fn short_lived_credentials_are_proof_like_others() {
    let until = WallTime::from_micros(1_700_000_000_000_000);
    let credentials = Credentials::short_lived("north", Some("alice"), until);
    let key = IntegrityKey::long_term("1700000000:alice", "lab", credentials.password());
    let mut hand = Hand::with(Config::new(Udp, credentials));
    let first = hand.one();
    hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
    let second = hand.one();
    assert_eq!(second.get(USERNAME), Some(&b"1700000000:alice"[..]));
    assert!(second.is_signed_by(&key));
}

#[test]
fn an_ipv6_address_is_asked_for_by_its_family() {
    let config = Config { family: Family::V6, ..Config::new(Tcp, Credentials::new("alice", "secret")) };
    let mut hand = Hand::with(config.clone());
    assert_eq!(hand.one().get(0x17), Some(&[2, 0, 0, 0][..]));
    let mut hand = Hand::with(config);
    hand.allocate(600);
    assert_eq!(hand.client.relayed(), Some(addr("[2001:db8::a]:50000")));
    hand.permit("2001:db8::9");
}

#[test]
fn requests_are_repeated_over_udp_and_given_up() {
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    let mut times = Vec::new();
    while hand.client.poll_timeout().is_some() {
        for bytes in hand.wait() {
            // Over UDP there is a keep-alive among them.
            match bytes[..2] {
                [0, 3] => {
                    assert_eq!(bytes, first.bytes);
                    times.push(hand.at());
                }
                _ => assert_eq!(bytes[..2], [0, 0x11]),
            }
        }
    }
    assert_eq!(times, [500, 1500, 3500, 7500, 15_500, 31_500]);
    assert_eq!((hand.at(), hand.events()), (39_500, vec![Event::Lost(Error::NoAnswer)]));

    let mut hand = Hand::new(Tcp);
    assert_eq!(hand.sent().len(), 1);
    assert_eq!(hand.wait().len(), 0);
    assert_eq!((hand.at(), hand.events()), (39_500, vec![Event::Lost(Error::NoAnswer)]));
    assert_eq!(hand.client.poll_timeout(), None);
}

#[test]
fn every_refusal_has_its_error() {
    let table = [
        (403, Error::Forbidden),
        (437, Error::PortInUse),
        (440, Error::UnsupportedFamily),
        (441, Error::OtherUser),
        (442, Error::UnsupportedTransport),
        (486, Error::Quota),
        (508, Error::Capacity),
        (400, Error::Rejected(400)),
        (500, Error::Rejected(500)),
        (300, Error::BadAnswer),
    ];
    for (number, expected) in table {
        // Before it has asked who we are.
        let mut hand = Hand::new(Udp);
        let first = hand.one();
        hand.say(&error(&first, &[code(number)], None));
        assert_eq!(hand.events(), [Event::Lost(expected)], "{number}");
        // And after.
        let mut hand = Hand::new(Udp);
        let first = hand.one();
        hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
        let second = hand.one();
        hand.say(&error(&second, &[code(number)], Some(&key())));
        assert_eq!(hand.events(), [Event::Lost(expected)], "{number}");
        assert_eq!((hand.client.poll_timeout(), hand.sent().len()), (None, 0));
        hand.say(&allocated(&second, RELAYED, 600));
        assert_eq!(hand.events(), [], "nothing comes after the last event");
    }
}

/// A server that does not know a request it hears again says 437 to it; then the first answer was lost.
#[test]
fn an_allocation_whose_answer_was_lost_is_given_up_and_asked_for_again() {
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
    let second = hand.one();
    let [again] = hand.wait().try_into().unwrap();
    assert_eq!(again, second.bytes);
    hand.say(&error(&second, &[code(437)], Some(&key())));
    let release = hand.one();
    assert_eq!((release.kind, release.get(LIFETIME)), (REFRESH, Some(&[0; 4][..])));
    hand.say(&success(&release, &[seconds(0)]));
    let third = hand.one();
    assert_eq!(third.kind, ALLOCATE);
    assert_ne!(third.id, second.id);
    // Once is enough.
    hand.wait();
    hand.say(&error(&third, &[code(437)], Some(&key())));
    assert_eq!(hand.events(), [Event::Lost(Error::PortInUse)]);
}

#[test]
fn a_redirect_names_the_other_server() {
    for other in ["192.0.2.9:3478", "[2001:db8::9]:3478"] {
        let mut hand = Hand::new(Udp);
        let first = hand.one();
        let other = addr(other);
        let mut plain = vec![0, if other.is_ipv4() { 1 } else { 2 }];
        plain.extend(other.port().to_be_bytes());
        match other.ip() {
            std::net::IpAddr::V4(ip) => plain.extend(ip.octets()),
            std::net::IpAddr::V6(ip) => plain.extend(ip.octets()),
        }
        hand.say(&error(&first, &[code(300), (0x8023, plain)], None));
        assert_eq!(hand.events(), [Event::Lost(Error::Redirected(other))]);
    }
}

#[test]
fn answers_that_lack_something_are_said_so() {
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    hand.say(&error(&first, &[code(401)], None));
    assert_eq!(hand.events(), [Event::Lost(Error::BadAnswer)], "401 without a challenge");
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    hand.say(&allocated(&first, RELAYED, 600));
    assert_eq!(hand.events(), [Event::Lost(Error::NoChallenge)], "without asking who we are");
    for (n, what) in
        ["no relayed address", "no mapped address", "no lifetime", "the other family"].iter().enumerate()
    {
        let mut hand = Hand::new(Udp);
        let first = hand.one();
        hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
        let second = hand.one();
        let relayed = if n == 3 { "[2001:db8::9]:1" } else { RELAYED };
        let mut fields = vec![
            (0x16, xored(addr(relayed), second.id)),
            (0x20, xored(addr(MAPPED), second.id)),
            seconds(600),
        ];
        if n < 3 {
            fields.remove(n);
        }
        hand.say(&success(&second, &fields));
        assert_eq!(hand.events(), [Event::Lost(Error::BadAnswer)], "{what}");
    }
    let mut hand = Hand::with(Config::new(Udp, Credentials::new(&"a".repeat(600), "secret")));
    let first = hand.one();
    hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
    assert_eq!(hand.events(), [Event::Lost(Error::TooLong)]);
}

#[test]
fn refreshes_come_a_minute_before_the_end_or_half_way() {
    for (lifetime, at) in [(600, 540_000), (3600, 3_540_000), (120, 60_000), (20, 10_000), (1, 1000)] {
        let mut hand = Hand::new(Tcp);
        hand.allocate(lifetime);
        for round in 1..=3 {
            let [refresh] = hand.wait().try_into().unwrap();
            let refresh = Sent::read(refresh);
            assert_eq!((refresh.kind, hand.at()), (REFRESH, round * at));
            assert_eq!(refresh.get(LIFETIME), Some(&[0, 0, 2, 0x58][..]), "what it wants, not what it got");
            assert!(refresh.is_signed_by(&key()));
            hand.say(&success(&refresh, &[seconds(lifetime)]));
        }
        assert_eq!(hand.events(), []);
    }
}

#[test]
fn the_lifetime_that_is_asked_for_can_be_chosen() {
    let lifetimes = Lifetimes { allocation: ms(90_500), ..Lifetimes::default() };
    let config = Config::new(Udp, Credentials::new("alice", "secret"));
    let mut hand = Hand::with(Config { lifetimes, ..config.clone() });
    assert_eq!(hand.one().get(LIFETIME), Some(&[0, 0, 0, 90][..]));
    let lifetimes = Lifetimes { allocation: ms(0), ..Lifetimes::default() };
    let mut hand = Hand::with(Config { lifetimes, ..config });
    assert_eq!(hand.one().get(LIFETIME), Some(&[0, 0, 0, 1][..]), "0 would give it up");
}

#[test]
fn silence_either_way_has_the_allocation_refreshed_and_a_server_that_vanished_is_lost_within_a_minute() {
    for over in [Udp, Tcp] {
        let mut hand = Hand::with(Config::new(over, Credentials::new("alice", "secret")));
        hand.allocate(600);
        let refresh = |hand: &mut Hand, at| {
            let [bytes] = hand.wait().try_into().unwrap();
            let refresh = Sent::read(bytes);
            assert_eq!((hand.at(), refresh.kind), (at, REFRESH));
            hand.say(&success(&refresh, &[seconds(600)]));
        };
        for n in 1..=5 {
            refresh(&mut hand, n * 20_000);
        }
        // What is said meanwhile, and answered, counts.
        hand.now = hand.now + ms(10_000);
        hand.permit("192.0.2.1");
        assert_eq!(hand.wait(), [] as [&[u8]; 0], "the old deadline finds that something was said");
        refresh(&mut hand, 130_000);
        let mut events = Vec::new();
        while events.is_empty() {
            hand.wait();
            events = hand.events();
        }
        assert_eq!((hand.at(), events), (189_500, vec![Event::Lost(Error::NoAnswer)]), "{over:?}");
    }
}

#[test]
fn a_lost_allocation_is_one_event() {
    // The server says so.
    let mut hand = Hand::ready(Tcp);
    let refresh = Sent::read(hand.wait().remove(0));
    hand.say(&error(&refresh, &[code(437)], Some(&key())));
    assert_eq!((hand.events(), hand.client.poll_timeout()), (vec![Event::Lost(Error::AllocationGone)], None));
    // It was restarted, and does not know its nonce.
    let mut hand = Hand::ready(Tcp);
    let refresh = Sent::read(hand.wait().remove(0));
    hand.say(&error(&refresh, &challenge(401, "lab", "n1"), None));
    let again = hand.one();
    assert_eq!((again.kind, again.get(NONCE)), (REFRESH, Some(&b"n1"[..])));
    hand.say(&error(&again, &[code(437)], Some(&key())));
    assert_eq!(hand.events(), [Event::Lost(Error::AllocationGone)]);
    // It does not take the credentials any more.
    let mut hand = Hand::ready(Tcp);
    let refresh = Sent::read(hand.wait().remove(0));
    hand.say(&error(&refresh, &challenge(401, "lab", "n1"), None));
    let again = hand.one();
    hand.say(&error(&again, &challenge(401, "lab", "n2"), None));
    assert_eq!(hand.events(), [Event::Lost(Error::WrongCredentials)]);
    // It says nothing.
    let mut hand = Hand::ready(Tcp);
    assert_eq!(hand.wait().len(), 1);
    assert_eq!(hand.wait().len(), 0);
    assert_eq!((hand.at(), hand.events()), (579_500, vec![Event::Lost(Error::NoAnswer)]));
    // It grants nothing.
    let mut hand = Hand::ready(Tcp);
    let refresh = Sent::read(hand.wait().remove(0));
    hand.say(&success(&refresh, &[seconds(0)]));
    assert_eq!(hand.events(), [Event::Lost(Error::AllocationGone)]);
    // The connection ends.
    let mut hand = Hand::ready(Tcp);
    hand.client.handle_end(hand.now);
    hand.client.handle_end(hand.now);
    assert_eq!(hand.events(), [Event::Lost(Error::ServerClosed)]);
}

#[test]
fn giving_up_tells_the_server() {
    let mut hand = Hand::ready(Udp);
    hand.permit("192.0.2.1");
    hand.client.close(hand.now);
    hand.client.close(hand.now);
    let release = hand.one();
    assert_eq!((release.kind, release.get(LIFETIME)), (REFRESH, Some(&[0; 4][..])));
    assert!(release.is_signed_by(&key()));
    assert_eq!(hand.client.relayed(), None);
    // A nonce that is stale just then.
    hand.say(&error(&release, &challenge(438, "lab", "n1"), None));
    let release = hand.one();
    assert_eq!((release.get(NONCE), release.get(LIFETIME)), (Some(&b"n1"[..]), Some(&[0; 4][..])));
    hand.say(&success(&release, &[seconds(0)]));
    assert_eq!((hand.events(), hand.client.poll_timeout()), (vec![Event::Closed], None));
    assert!(hand.client.permit(hand.now, "192.0.2.1".parse().unwrap()).is_err());

    // No answer.
    let mut hand = Hand::ready(Udp);
    hand.client.close(hand.now);
    let mut sent = hand.sent().len();
    while hand.client.poll_timeout().is_some() {
        sent += hand.wait().len();
    }
    assert_eq!((sent, hand.at(), hand.events()), (3, 3500, vec![Event::Closed]));
    // The server has forgotten it, or the connection ends first: either way it is gone.
    let mut hand = Hand::ready(Tcp);
    hand.client.close(hand.now);
    let release = hand.one();
    hand.say(&error(&release, &[code(437)], Some(&key())));
    assert_eq!(hand.events(), [Event::Closed]);
    let mut hand = Hand::ready(Tcp);
    hand.client.close(hand.now);
    hand.client.handle_end(hand.now);
    assert_eq!(hand.events(), [Event::Closed]);
}

#[test]
fn giving_up_while_it_is_asked_for_leaves_nothing() {
    let mut hand = Hand::new(Udp);
    hand.sent();
    hand.client.close(hand.now);
    assert_eq!((hand.sent().len(), hand.events()), (0, vec![Event::Closed]), "the server holds nothing");
    let mut hand = Hand::new(Udp);
    let first = hand.one();
    hand.say(&error(&first, &challenge(401, "lab", "n0"), None));
    hand.sent();
    hand.client.close(hand.now);
    let release = hand.one();
    assert_eq!((release.kind, release.get(LIFETIME)), (REFRESH, Some(&[0; 4][..])), "it may have granted it");
    hand.say(&error(&release, &[code(437)], Some(&key())));
    assert_eq!(hand.events(), [Event::Closed]);
}

#[test]
fn the_same_seed_says_the_same_bytes() {
    let run = |seed| {
        let config = Config::new(Udp, Credentials::new("alice", "secret"));
        let mut hand = Hand::with(config.clone());
        hand.client = Client::new(config, [seed; 32], Instant::ZERO);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.extend(hand.sent());
            all.extend(hand.wait());
        }
        all
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_server_that_asks_for_no_credentials_is_used_where_none_are_given() {
    let open = || Hand::with(Config::new(Udp, None));
    let unsigned =
        |to: &Sent, attributes: &[(u16, Vec<u8>)]| message(to.kind | 0x100, to.id, attributes, None);
    let mut hand = open();
    let asked = hand.one();
    assert!(asked.get(USERNAME).is_none() && asked.get(NONCE).is_none());
    let fields =
        [(0x16, xored(addr(RELAYED), asked.id)), (0x20, xored(addr(MAPPED), asked.id)), seconds(600)];
    hand.say(&unsigned(&asked, &fields));
    assert!(matches!(hand.events()[..], [Event::Allocated { .. }]));
    let peer = "192.0.2.1".parse().unwrap();
    hand.client.permit(hand.now, peer).unwrap();
    let asked = hand.one();
    hand.say(&unsigned(&asked, &[]));
    assert_eq!(hand.events(), [Event::Permitted(peer)]);
    hand.client.close(hand.now);
    let asked = hand.one();
    assert_eq!((asked.kind, asked.get(LIFETIME)), (REFRESH, Some(&[0; 4][..])));
    hand.say(&unsigned(&asked, &[seconds(0)]));
    assert_eq!(hand.events(), [Event::Closed]);
    // Given up before there was an answer: an allocation may be there.
    let mut hand = open();
    hand.one();
    hand.client.close(hand.now);
    assert_eq!(hand.one().kind, REFRESH);
    // One that wants some after all.
    let mut hand = open();
    let asked = hand.one();
    hand.say(&error(&asked, &challenge(401, "lab", "n0"), None));
    assert_eq!(hand.events(), [Event::Lost(Error::WantsCredentials)]);
}
