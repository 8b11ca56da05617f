//! Knocks and proofs of addresses as nodes make them, by the formulas of `docs/src/protocol/relay.md`, whose vectors are
//! made by the same formulas.

#[path = "common/mod.rs"]
mod common;

use std::net::{Ipv4Addr, SocketAddrV4};

use blake2::Blake2sMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Update};
use curve25519_dalek::MontgomeryPoint;
use data_encoding::HEXLOWER;
use p2pd_core::{Instant, Strategy};

use common::view::{plan, relay};
use common::{NOON, S, World, envelope, key};

/// Offsets in an envelope's content, behind its version: sending time, session and kind.
const SENT: usize = 17;
const SESSION: usize = 27;
const KIND: usize = 43;

/// KNOCK, ANSWER and CALL have this length.
const LENGTH: usize = 17;

fn keyed(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Blake2sMac<U32> as KeyInit>::new(&(*key).into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize_fixed().into()
}

/// K of the page, between nodes 0 and 1.
fn knock_key(session: &[u8]) -> [u8; 32] {
    let text = key(0).to_file_text();
    let secret = HEXLOWER.decode(text.split_whitespace().last().unwrap().as_bytes()).unwrap();
    let theirs = MontgomeryPoint(*key(1).node_id().as_bytes());
    let shared = theirs.mul_clamped(secret.try_into().unwrap()).to_bytes();
    keyed(&shared, &[b"p2pd knock", session])
}

fn proof(session: &[u8], kind: u8, of: &[&[u8]]) -> Vec<u8> {
    let proof = keyed(&knock_key(session), &[&[&[kind][..]], of].concat());
    [&[kind], &proof[..LENGTH - 1]].concat()
}

/// The contents of all messages of a kind that a node was sent.
fn told(world: &World, n: usize, kind: u8) -> Vec<Vec<u8>> {
    let opened = world.published_to(n).into_iter().filter_map(|p| envelope::open(n, &p.payload));
    opened.map(|(_, content)| content).filter(|content| content[KIND] == kind).collect()
}

/// Datagrams as long as a knock in a node's trace: those that it sent, or those that came.
fn small(world: &World, n: usize, what: &str) -> Vec<Vec<u8>> {
    let trace = world.hosts[n].trace.lock().unwrap();
    let of = trace.lines().filter(|line| line.split_whitespace().any(|word| word == what));
    let bytes = of.filter_map(|line| HEXLOWER.decode(line.split_whitespace().last()?.as_bytes()).ok());
    bytes.filter(|bytes| bytes.len() == LENGTH).collect()
}

/// Two nodes behind NATs that let nobody in, with servers. The second has no TURN server.
fn world(seed: u8) -> World {
    let mut world = World::new(seed);
    world.tracing = true;
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.behind_nat(|_| {});
    world.behind_nat(|c| c.turn.clear());
    world.run(S);
    world
}

#[test]
fn a_stranger_s_relay_is_knocked_at_and_answers_by_the_formula() {
    let mut world = world(1);
    world.connect(0, &world.address(1), relay(20));
    // The responder has a pipe, so the answer was the right one.
    world.run_until(5 * S, |w| !w.hosts[1].relayed.is_empty());
    let asked = told(&world, 1, 5);
    let session = &asked[0][SESSION..KIND];
    let knocks = small(&world, 1, "send-datagram");
    let token = knocks[0].strip_prefix(&[1]).unwrap();
    let answers = small(&world, 1, "datagram");
    assert_eq!(answers[0], proof(session, 2, &[token]));
}

#[test]
fn a_node_that_is_to_prove_its_address_calls_by_the_formula() {
    let mut world = world(2);
    world.connect(0, &world.address(1), plan(&[Strategy::Punch], 20));
    world.run_until(5 * S, |w| !told(w, 0, 4).is_empty());
    let mut content = told(&world, 0, 4).swap_remove(0);
    let session = content[SESSION..KIND].to_vec();
    let (token, relayed) = (*b"a token of tests", SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 90), 5_000));
    let elapsed = i64::try_from(world.now.since(Instant::ZERO).as_micros()).unwrap();
    content[1..SENT].fill(9);
    content[SENT..SENT + 8].copy_from_slice(&NOON.offset_micros(elapsed).as_micros().to_be_bytes());
    content.truncate(KIND);
    content.push(7);
    content.extend_from_slice(&token);
    content.push(4);
    content.extend_from_slice(&relayed.ip().octets());
    content.extend_from_slice(&relayed.port().to_be_bytes());
    let prove = envelope::seal(1, &world.id(0), &content);
    world.publish(0, 0, &prove);
    world.run(S);
    let call = proof(&session, 3, &[&token, world.id(1).as_bytes()]);
    assert_eq!(small(&world, 0, "send-datagram"), vec![call; 3], "after 0, 250 and 750 ms");
}
