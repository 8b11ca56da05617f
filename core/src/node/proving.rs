//! Tests of proofs of an address, with the TURN server and the peer played by hand.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use bytes::Bytes;

use super::hostile::{AT, Bench, MS, RANDOM, S, TURN, id, key, mappings};
use super::strategy::KnockKey;
use crate::config::Accept;
use crate::io::{Input, SockId};
use crate::session::SessionId;
use crate::signal::mappings::Mappings;
use crate::signal::message::Body;
use crate::strategy::agreement::Requester;

/// The relayed address of our node, and that of a peer's.
const RELAYED: SocketAddr = SocketAddr::new(TURN.ip(), 50_000);
const KNOCK: u8 = 1;

/// Plays the TURN server: grants what is asked, and returns what is relayed to peers, with their addresses.
fn serve(bench: &mut Bench) -> Vec<(SocketAddr, Bytes)> {
    let mut relayed = Vec::new();
    while let Some((sock, to, data)) = bench.to_turn.pop_front() {
        assert_eq!(to, TURN);
        let granted: &[u8] = match data[1] {
            // Allocate: the relayed address, that of the client, and a lifetime.
            3 => &[
                &attribute(0x16, &xored(RELAYED))[..],
                &attribute(0x20, &xored("203.0.113.1:4001".parse().unwrap())),
                &attribute(0x0d, &600_u32.to_be_bytes()),
            ]
            .concat(),
            4 => &attribute(0x0d, &[0; 4]),
            8 => &[],
            0x16 => {
                let [_, a, b, c, d] = [0, data[28], data[29], data[30], data[31]];
                let ip = u32::from_be_bytes([a, b, c, d]) ^ 0x2112_a442;
                let port = u16::from_be_bytes([data[26], data[27]]) ^ 0x2112;
                let length = usize::from(u16::from_be_bytes([data[34], data[35]]));
                relayed.push((
                    SocketAddr::new(IpAddr::from(ip.to_be_bytes()), port),
                    data.slice(36..36 + length),
                ));
                continue;
            }
            _ => continue,
        };
        let head = [&[1, data[1]][..], &(granted.len() as u16).to_be_bytes(), &data[4..20]].concat();
        let answer = [&head[..], granted].concat();
        bench.tell(Input::Datagram { sock, from: TURN, data: &answer });
    }
    relayed
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
    [&kind.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value, &padding].concat()
}

fn xored(at: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = at.ip() else { panic!("IPv4 only") };
    let port = (at.port() ^ 0x2112).to_be_bytes();
    [&[0, 1][..], &port, &(u32::from(ip) ^ 0x2112_a442).to_be_bytes()].concat()
}

/// Delivers a datagram that came to the relayed address, and returns what is relayed then.
fn arrives(bench: &mut Bench, sock: SockId, from: SocketAddr, data: &[u8]) -> Vec<(SocketAddr, Bytes)> {
    let body = [attribute(0x12, &xored(from)), attribute(0x13, data)].concat();
    let head =
        [&[0, 0x17][..], &(body.len() as u16).to_be_bytes(), &[0x21, 0x12, 0xa4, 0x42], &[7; 12]].concat();
    bench.tell(Input::Datagram { sock, from: TURN, data: &[head, body].concat() });
    serve(bench)
}

fn session(n: u8) -> SessionId {
    SessionId([n; 16])
}

/// The peer's side of the secret with our node.
fn secret(of: u8, call: u8) -> KnockKey {
    KnockKey::new(&key(of), &id(1), session(call))
}

fn random(at: &str) -> Mappings {
    Mappings { behaviour: RANDOM, ..mappings(2, at, &[]) }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(AT.parse().unwrap(), port)
}

/// Begins a search at peer 2's address that has come to its bound. Returns the server's socket and the token of the
/// proof that is asked for.
fn searching(bench: &mut Bench, call: u8, theirs: Mappings) -> (SockId, [u8; 16]) {
    bench.say(2, call, Body::Initial(Box::new(theirs)));
    let sock = bench.to_turn[0].0;
    assert_eq!(serve(bench), []);
    bench.run(S);
    assert_eq!(serve(bench), []);
    let (tokens, _) = bench.node.strategies.punch.tokens();
    let asked = tokens.into_iter().find(|(key, _)| *key == (session(call), Requester::Them)).unwrap();
    (sock, asked.1)
}

#[test]
fn a_search_goes_on_where_the_peer_has_shown_itself() {
    let mut bench = Bench::with_turn(Accept::Only([id(2)].into()));
    let (sock, token) = searching(&mut bench, 1, random(AT));
    assert_eq!(bench.dials.len(), 32);
    let secret = secret(2, 1);
    let knocks = arrives(&mut bench, sock, at(700), &secret.call(&token, &id(1)));
    let [(to, knock)] = &knocks[..] else { panic!("{knocks:?}") };
    assert_eq!((*to, knock[0], knock.len()), (at(700), KNOCK, 17));
    assert_eq!(bench.dials.len(), 32, "a call alone proves nothing");
    assert_eq!(arrives(&mut bench, sock, at(700), &secret.answer(knock).unwrap()), []);
    assert!(bench.node.strategies.punch.tokens().1 == 0, "the server is told, and has said that it was");
    bench.run(3 * S);
    assert_eq!(bench.dials.len(), 1024);
    let ports: std::collections::BTreeSet<SocketAddr> = bench.to().into_iter().collect();
    assert_eq!(ports.len(), 1024, "it went on where it had stopped");
    // Of this address and this call: not of another address in a later rung, nor of the next call.
    let other = "198.51.100.8";
    bench.say(2, 1, Body::Initial(Box::new(Mappings { rung: 1, ..random(other) })));
    bench.run(20 * S);
    let there = |bench: &Bench, ip: &str| bench.to().iter().filter(|to| to.ip().to_string() == ip).count();
    // The first call's 32 were none to a silent address.
    assert_eq!(there(&bench, other), 32);
    bench.run(130 * S);
    bench.dials.clear();
    serve(&mut bench);
    searching(&mut bench, 2, random(AT));
    bench.run(4 * S);
    assert_eq!(bench.dials.len(), 32);
}

#[test]
fn whoever_is_not_at_the_address_with_the_peers_key_proves_nothing() {
    let mut bench = Bench::with_turn(Accept::Only([id(2), id(3)].into()));
    let (sock, token) = searching(&mut bench, 1, random(AT));
    let (ours, call) = (secret(2, 1), secret(2, 1).call(&token, &id(1)));
    // Only a call of this token, key and session, to us as the asker, is answered.
    let others = [
        secret(2, 2).call(&token, &id(1)),
        secret(3, 1).call(&token, &id(1)),
        ours.call(&[0; 16], &id(1)),
        ours.call(&token, &id(2)),
    ];
    for data in others.iter().map(|c| &c[..]).chain([&call[..16], &[3; 17], &token, b""]) {
        assert_eq!(arrives(&mut bench, sock, at(700), data), [], "{data:?}");
    }
    // From elsewhere neither, should the server let it through.
    let elsewhere: SocketAddr = "198.51.100.8:700".parse().unwrap();
    assert_eq!(arrives(&mut bench, sock, elsewhere, &call), []);
    // A forged source: whoever is there gets four knocks of 17 bytes for four calls, and no more.
    let mut knocks = Vec::new();
    for port in 0..40 {
        knocks.extend(arrives(&mut bench, sock, at(700 + port), &call));
    }
    assert_eq!(knocks.len(), 4);
    assert!(knocks.iter().all(|(to, knock)| to.ip() == at(0).ip() && knock.len() == 17));
    let knock = &knocks[0].1;
    // A service that repeats what it gets; other ends, other calls, guesses; and the right answer from elsewhere.
    let wrong = [secret(3, 1).answer(knock), secret(2, 2).answer(knock), ours.answer(&[KNOCK; 17])];
    for data in wrong.iter().flatten().map(|a| &a[..]).chain([&knock[..], &[2; 17], &call]) {
        assert_eq!(arrives(&mut bench, sock, at(700), data), []);
    }
    arrives(&mut bench, sock, elsewhere, &ours.answer(knock).unwrap());
    bench.run(60 * S);
    assert_eq!(bench.dials.len(), 32);
    assert!(bench.node.strategies.punch.tokens().1 == 0, "given up");
}

#[test]
fn an_answer_of_another_call_is_none_here() {
    let mut bench = Bench::with_turn(Accept::Only([id(2)].into()));
    let (sock, token) = searching(&mut bench, 1, random(AT));
    let knocks = arrives(&mut bench, sock, at(700), &secret(2, 1).call(&token, &id(1)));
    let answer = secret(2, 1).answer(&knocks[0].1).unwrap();
    arrives(&mut bench, sock, at(700), &answer);
    bench.run(150 * S);
    serve(&mut bench);
    bench.dials.clear();
    let (sock, _) = searching(&mut bench, 2, random(AT));
    for data in [&secret(2, 1).call(&token, &id(1))[..], &answer] {
        assert_eq!(arrives(&mut bench, sock, at(700), data), [], "a recording");
    }
    bench.run(60 * S);
    assert_eq!(bench.dials.len(), 32);
}

#[test]
fn proofs_have_a_number_and_a_time() {
    let most = |bench: &Bench| bench.node.strategies.punch.tokens().0.len();
    let mut bench = Bench::with_turn(Accept::Only((2..20).map(id).collect()));
    for call in 1..=8 {
        bench.say(2, call, Body::Initial(Box::new(random(AT))));
        bench.run(10 * MS);
    }
    assert_eq!(most(&bench), 4, "of one peer");
    for peer in 3..20 {
        let theirs = Mappings { behaviour: RANDOM, ..mappings(peer, AT, &[]) };
        bench.say(peer, peer * 10, Body::Initial(Box::new(theirs)));
        bench.run(10 * MS);
    }
    assert_eq!(most(&bench), 16);
    // The server is silent: each is tried again, four times for a call in all.
    bench.run(60 * S);
    assert!(bench.node.strategies.punch.tokens().1 == 0);
}

#[test]
fn nothing_is_proved_by_a_stranger_nor_for_one() {
    let mut bench = Bench::with_turn(Accept::Anyone);
    bench.say(2, 1, Body::Initial(Box::new(mappings(2, AT, &[5000]))));
    bench.run(100 * MS);
    bench.say(2, 1, Body::Prove { token: [5; 16], relayed: RELAYED });
    bench.run(5 * S);
    bench.say(2, 2, Body::Initial(Box::new(random(AT))));
    bench.run(60 * S);
    assert!(bench.to_turn.is_empty(), "{:?}", bench.to_turn);
}

#[test]
fn who_is_asked_calls_four_times_and_answers_knocks_from_there_only() {
    let mut bench = Bench::open(Accept::Only([id(9)].into()));
    let began = bench.now;
    bench.call(1, 0);
    let token = [5; 16];
    let prove = |relayed| Body::Prove { token, relayed };
    bench.say(2, 7, prove(RELAYED));
    bench.say(3, 1, prove(RELAYED));
    bench.say(9, 1, prove(RELAYED));
    assert!(bench.to_turn.is_empty(), "no call of ours to this peer");
    bench.say(2, 1, prove(RELAYED));
    // Again, elsewhere, while the first is under way.
    bench.say(2, 1, prove(SocketAddr::new(TURN.ip(), 50_001)));
    let call = secret_of_ours(1).call(&token, &id(2));
    let mut when = Vec::new();
    for _ in 0..60 {
        while let Some((sock, to, data)) = bench.to_turn.pop_front() {
            assert_eq!((to, &data[..]), (RELAYED, &call[..]));
            assert!(!data.windows(16).any(|w| w == token), "no byte of the peer's choice");
            when.push((bench.now.since(began), sock));
        }
        bench.run(50 * MS);
    }
    let times: Vec<Duration> = when.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 250, 750, 1750].map(Duration::from_millis));
    let sock = when[0].1;
    let [knock, answer] = secret_of_ours(1).knock(&[6; 16]);
    for from in [SocketAddr::new(TURN.ip(), 50_001), at(50_000)] {
        bench.tell(Input::Datagram { sock, from, data: &knock });
        assert!(bench.to_turn.is_empty());
    }
    for n in 0..9 {
        bench.tell(Input::Datagram { sock, from: RELAYED, data: &knock });
        let said = bench.to_turn.pop_front();
        assert_eq!(said.map(|(_, to, data)| (to, data[..] == answer)), (n < 4).then_some((RELAYED, true)));
    }
    bench.run(3 * S);
    assert!(bench.node.strategies.punch.tokens().1 == 0);
    // Three more of this call.
    for n in 0..5_u8 {
        bench.say(2, 1, Body::Prove { token: [n; 16], relayed: RELAYED });
        bench.run(6 * S);
    }
    assert_eq!(bench.to_turn.len(), 12);
}

/// Node 1's side of the secret with peer 2.
fn secret_of_ours(call: u8) -> KnockKey {
    KnockKey::new(&key(1), &id(2), session(call))
}
