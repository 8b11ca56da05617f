//! Attacks on a hello from between its ends, and by peers that say what others said: docs/src/protocol/claims.md.

use super::*;

const SESSION: SessionId = SessionId([9; 16]);
const OFFER: Offer = Offer { session: SESSION, purpose: Purpose::Open, terms: Terms::ENCRYPTED };

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn begin(from: u8, to: u8, entropy: u8) -> (Hello, Bytes) {
    Hello::initiate(&key(from), &key(to).node_id(), OFFER, true, [entropy; 32]).unwrap()
}

/// Has an end hear frames in order. A responder answers FIRST. Returns what it heard up to its error or the end, and the error.
fn hear(end: &mut Hello, ours: u8, entropy: u8, frames: &[Bytes]) -> (Vec<String>, Option<HelloError>) {
    let mut heard = Vec::new();
    let wire = frames.concat();
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        match end.receive(&key(ours), rest, || [entropy; 32]) {
            Ok((taken, what)) => {
                rest = &rest[taken..];
                if matches!(what, Some(Heard::First { .. })) {
                    end.answer(Status::Asking).unwrap();
                }
                heard.extend(what.map(|what| format!("{what:?}")));
            }
            Err(why) => return (heard, Some(why)),
        }
    }
    (heard, None)
}

/// Frames of one whole hello: the initiator's and the responder's.
struct Recording {
    from: Vec<Bytes>,
    to: Vec<Bytes>,
}

/// Records the hello of 1 with 2, whose ephemeral keys come of `one` and `other`.
fn record(one: u8, other: u8) -> Recording {
    let (mut init, first) = begin(1, 2, one);
    let mut resp = Hello::respond(true);
    resp.receive(&key(2), &first, || [other; 32]).unwrap();
    let second = resp.answer(Status::Asking).unwrap();
    init.receive(&key(1), &second, || unreachable!()).unwrap();
    let named = SmallVec::from_slice(&[SESSION]);
    let from = [Control::Here, Control::Nominate(named)].map(|say| init.control(&say).unwrap());
    let to = [Control::Approved, Control::Confirm(None)].map(|say| resp.control(&say).unwrap());
    Recording { from: [&[first], from.as_slice()].concat(), to: [&[second], to.as_slice()].concat() }
}

/// Returns what either end of the hello of `record(3, 4)` hears of these frames in place of its peer's.
fn at(responder: bool, frames: &[Bytes]) -> (Vec<String>, Option<HelloError>) {
    match responder {
        true => hear(&mut Hello::respond(true), 2, 4, frames),
        false => hear(&mut begin(1, 2, 3).0, 1, 0, frames),
    }
}

#[test]
fn whoever_is_between_can_end_a_hello_and_do_nothing_else_to_it() {
    let ours = record(3, 4);
    let theirs = record(5, 6);
    for (responder, frames, others) in [(true, ours.from, theirs.from), (false, ours.to, theirs.to)] {
        let (all, end) = at(responder, &frames);
        assert_eq!((all.len(), end), (3, None), "untouched");
        for n in 0..3 {
            // Each bit, of the header too: that frame is not heard, nor any after it.
            for bit in 0..8 * frames[n].len() {
                let mut changed = frames[n].to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                let mut run = frames.clone();
                run[n] = changed.into();
                let (heard, end) = at(responder, &run);
                assert_eq!(heard, all[..n], "frame {n}, bit {bit}");
                // A length that became longer waits for more, until its time is over.
                let waits = (16..32).contains(&bit) && end.is_none();
                assert!(waits || end.is_some(), "frame {n}, bit {bit}");
            }
            let mut dropped = frames.clone();
            dropped.remove(n);
            assert_eq!(at(responder, &dropped).0, all[..n], "without frame {n}");
            let mut twice = frames.clone();
            twice.insert(n, frames[n].clone());
            let (heard, end) = at(responder, &twice);
            assert_eq!(heard, all[..=n], "frame {n} twice");
            assert!(end.is_some(), "frame {n} twice");
            for m in n + 1..3 {
                let mut swapped = frames.clone();
                swapped.swap(n, m);
                let (heard, end) = at(responder, &swapped);
                assert_eq!(heard, all[..n], "frames {n} and {m}");
                assert!(end.is_some(), "frames {n} and {m}");
            }
            // In place of it the same frame of another hello of the same two nodes.
            let mut spliced = frames.clone();
            spliced[n] = others[n].clone();
            let (heard, end) = at(responder, &spliced);
            // A FIRST of the same node is heard, and that is all: what follows is of another hello.
            let known = n + usize::from(responder && n == 0);
            assert_eq!(heard, all[..known], "frame {n} of another hello");
            assert_eq!(end, Some(HelloError::NotAuthentic), "frame {n} of another hello");
        }
    }
}

/// The answer to a recorded FIRST is of use to nobody, and what followed then does not open now.
#[test]
fn a_recorded_hello_is_heard_up_to_its_first_message() {
    let recorded = record(3, 4);
    let mut resp = Hello::respond(true);
    let (heard, end) = hear(&mut resp, 2, 7, &recorded.from);
    let first = format!("{:?}", Heard::First { peer: key(1).node_id(), offer: OFFER });
    assert_eq!((heard, end), (vec![first], Some(HelloError::NotAuthentic)));
    // The other way: a new FIRST, and the answers that an older one had.
    let (mut init, _) = begin(1, 2, 8);
    let (heard, end) = hear(&mut init, 1, 0, &recorded.to);
    assert_eq!((heard, end), (vec![], Some(HelloError::NotAuthentic)));
}

#[test]
fn what_an_end_said_does_not_come_back_to_it_as_the_peers() {
    let ours = record(3, 4);
    let [first, here, _] = &ours.from[..] else { unreachable!() };
    let [second, approved, _] = &ours.to[..] else { unreachable!() };
    // A dialler passes over one FIRST, whoever's, and hears its peer after it.
    let (heard, end) = at(false, &[first.clone(), second.clone()]);
    assert_eq!((heard.len(), end), (1, None));
    assert_eq!(at(false, &[first.clone(), first.clone()]), (vec![], Some(HelloError::Malformed)));
    // An end that gives way opens nothing that it has sealed for another.
    let mut yields = begin(1, 2, 3).0.yielding();
    let told = hear(&mut yields, 1, 7, core::slice::from_ref(first));
    assert_eq!(told, (vec![], Some(HelloError::NotAuthentic)));
    // The two directions have keys of their own.
    let (heard, end) = at(false, &[second.clone(), here.clone()]);
    assert_eq!((heard.len(), end), (1, Some(HelloError::NotAuthentic)));
    let (heard, end) = at(true, &[first.clone(), approved.clone()]);
    assert_eq!((heard.len(), end), (1, Some(HelloError::NotAuthentic)));
    let (heard, end) = at(true, &[first.clone(), second.clone()]);
    assert_eq!((heard.len(), end), (1, Some(HelloError::Malformed)));
}

/// Unknown key share: 3 is called by 1 and calls 2, with the same session, and passes on what it can.
#[test]
fn a_peer_that_passes_on_a_call_is_known_as_itself() {
    let (mut caller, first) = begin(1, 3, 3);
    let (told, end) = hear(&mut Hello::respond(true), 2, 4, core::slice::from_ref(&first));
    assert_eq!((told, end), (vec![], Some(HelloError::NotAuthentic)), "what is for 3 is not for 2");
    // So it has to call by itself, and 2 knows whose call that is.
    let (mut between, own) = begin(3, 2, 3);
    let mut called = Hello::respond(true);
    let (told, _) = hear(&mut called, 2, 4, core::slice::from_ref(&own));
    let expected = format!("{:?}", Heard::First { peer: key(3).node_id(), offer: OFFER });
    assert_eq!(told, [expected]);
    // Neither is the answer of 2 one of 3, nor what 1 says then one for 2.
    let mut called = Hello::respond(true);
    assert!(called.receive(&key(2), &own, || [4; 32]).is_ok());
    let second = called.answer(Status::Ready { commit: true }).unwrap();
    assert!(between.receive(&key(3), &second, || unreachable!()).is_ok());
    let (mut other, _) = begin(1, 3, 3);
    assert_eq!(hear(&mut other, 1, 0, &[second]), (vec![], Some(HelloError::NotAuthentic)));
    let mut answers = Hello::respond(true);
    assert!(answers.receive(&key(3), &first, || [4; 32]).is_ok());
    let second = answers.answer(Status::Ready { commit: true }).unwrap();
    assert!(caller.receive(&key(1), &second, || unreachable!()).is_ok());
    let commit = caller.control(&Control::Commit(SmallVec::from_slice(&[SESSION]))).unwrap();
    assert_eq!(hear(&mut called, 2, 0, &[commit]), (vec![], Some(HelloError::NotAuthentic)));
}

#[test]
fn no_other_version_is_spoken_whoever_asks_for_it() {
    let ours = record(3, 4);
    for version in (0..=255).filter(|v| *v != VERSION) {
        for (responder, frames) in [(true, &ours.from), (false, &ours.to)] {
            for n in 0..3 {
                let mut run = frames.clone();
                let mut changed = run[n].to_vec();
                changed[0] = version;
                run[n] = changed.into();
                let (heard, end) = at(responder, &run);
                assert_eq!((heard.len(), end), (n, Some(HelloError::Version(version))));
            }
        }
        // A handshake of that version in frames of ours.
        let (a, b) = (key(1), key(2));
        let mut of_version = prologue(&b.node_id());
        of_version[11] = version;
        let payload = [SESSION.0.as_slice(), &[0, 0]].concat();
        let (_, first) = Handshake::initiate(&a, &b.node_id(), &of_version, &payload, [3; 32]).unwrap();
        let told = at(true, &[frame::encode(Kind::First, &first)]);
        assert_eq!(told, (vec![], Some(HelloError::NotAuthentic)));
    }
    // A refusal in clear is anybody's: it ends a hello before SECOND, and is out of place behind it.
    let refused = Some(HelloError::Refused(Refusal::Version { ours: VERSION }));
    assert_eq!(at(false, &[refuse_version()]), (vec![], refused));
    let (heard, end) = at(false, &[ours.to[0].clone(), refuse_version()]);
    assert_eq!((heard.len(), end), (1, Some(HelloError::Malformed)));
    let (heard, end) = at(true, &[ours.from[0].clone(), refuse_version()]);
    assert_eq!((heard.len(), end), (1, Some(HelloError::Malformed)));
}
