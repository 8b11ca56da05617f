//! Hellos on streams, with the records of the pipes that follow.

use smallvec::smallvec;

use super::{Fields, OTHER_SESSION, SESSION, alice, bob, ephemeral, hex, lines, list, protocol, text};
use crate::call::{Refusal, Strategy};
use crate::hello::{Control, Heard, Hello, Offer, Purpose, Status, VERSION, refusal_code, refuse_version};
use crate::identity::SecretKey;
use crate::pipe::{Opened, PipeKeys, PipeMode, ProtocolTag, Terms};

const INITIATOR: usize = 0;
const RESPONDER: usize = 1;
const SIDES: [&str; 2] = ["initiator", "responder"];
const CHACHA: [bool; 2] = [false; 2];
const ENTROPY: [[u8; 32]; 2] = [[0x51; 32], [0x52; 32]];

/// Whole hello of alice, who dials, with bob. Each has AES-256-GCM or has it not.
fn hello(
    name: &str,
    offer: Offer,
    aes: [bool; 2],
    status: Status,
    controls: &[(usize, Control)],
    data: &[(usize, &[u8])],
) -> Fields {
    hello_between([alice(), bob()], name, offer, aes, status, controls, data)
}

/// Whole hello of the first of these nodes, which dials, with the second.
fn hello_between(
    keys: [SecretKey; 2],
    name: &str,
    offer: Offer,
    aes: [bool; 2],
    status: Status,
    controls: &[(usize, Control)],
    data: &[(usize, &[u8])],
) -> Fields {
    let (init, first) = Hello::initiate(
        &keys[INITIATOR],
        &keys[RESPONDER].node_id(),
        offer,
        aes[INITIATOR],
        ENTROPY[INITIATOR],
    )
    .unwrap();
    let mut ends = [init, Hello::respond(aes[RESPONDER])];
    let (taken, heard) = ends[RESPONDER].receive(&keys[RESPONDER], &first, || ENTROPY[RESPONDER]).unwrap();
    assert!(matches!(heard, Some(Heard::First { peer, offer: read }) if peer == keys[INITIATOR].node_id()
        && read.session == offer.session && taken == first.len()));
    let second = ends[RESPONDER].answer(status).unwrap();
    let (_, heard) = ends[INITIATOR].receive(&keys[INITIATOR], &second, || unreachable!()).unwrap();
    assert!(matches!(heard, Some(Heard::Second(read)) if read == status));
    let mut said = Vec::new();
    for (from, control) in controls {
        let frame = ends[*from].control(control).unwrap();
        let (_, heard) = ends[1 - from].receive(&keys[1 - from], &frame, || unreachable!()).unwrap();
        assert!(matches!(heard, Some(Heard::Control(read)) if read == *control));
        said.push(vec![
            ("from", text(SIDES[*from])),
            ("plain", hex(&control.encode())),
            ("frame", hex(&frame)),
        ]);
    }
    let (purpose, tag) = match offer.purpose {
        Purpose::Open => (0, offer.terms.protocol),
        Purpose::Answer => (1, None),
    };
    let cipher = u8::from(aes == [true; 2]);
    let (status, detail) = match status {
        Status::Ready { commit } => (0, [cipher, commit.into()]),
        Status::Asking => (1, [cipher, 0]),
        Status::Refused(why) => (2, refusal_code(why)),
    };
    let mode = offer.terms.mode.code() | if aes[INITIATOR] { 4 } else { 0 };
    vec![
        ("name", text(name)),
        ("initiator", hex(keys[INITIATOR].as_bytes())),
        ("responder", hex(keys[RESPONDER].as_bytes())),
        ("initiator_ephemeral", hex(&ephemeral(ENTROPY[INITIATOR]))),
        ("responder_ephemeral", hex(&ephemeral(ENTROPY[RESPONDER]))),
        ("session", hex(&offer.session.0)),
        ("purpose", purpose.to_string()),
        ("mode", mode.to_string()),
        ("protocol", protocol(tag)),
        ("status", status.to_string()),
        ("detail", list(detail.map(|n| n.to_string()))),
        ("first", hex(&first)),
        ("second", hex(&second)),
        ("controls", lines(&said)),
        ("records", lines(&records(ends, offer.terms.mode, data))),
    ]
}

/// Records of an encrypted pipe, each of which is one call of its writer; the last one of each direction is its end.
fn records(ends: [Hello; 2], mode: PipeMode, data: &[(usize, &[u8])]) -> Vec<Fields> {
    if data.is_empty() {
        return Vec::new();
    }
    let keys = ends.map(|end| match end.into_pipe_keys(mode) {
        Ok(PipeKeys::Encrypted(sealer, opener)) => (sealer, opener),
        other => panic!("{other:?}"),
    });
    let [(sealing, opening), (sealing_back, opening_back)] = keys;
    let (mut sealers, mut openers) = ([sealing, sealing_back], [opening, opening_back]);
    let mut out = Vec::new();
    for (from, plain) in data {
        let mut record = Vec::new();
        if plain.is_empty() {
            sealers[*from].end(&mut record).unwrap();
            let opened = openers[1 - from].open(&mut record.clone());
            assert_eq!(opened, Ok(Opened::End { consumed: record.len() }));
        } else {
            sealers[*from].seal(plain, &mut record).unwrap();
            let opened = openers[1 - from].open(&mut record.clone());
            assert_eq!(opened, Ok(Opened::Data { consumed: record.len(), plain: 2..2 + plain.len() }));
        }
        out.push(vec![("from", text(SIDES[*from])), ("plain", hex(plain)), ("record", hex(&record))]);
    }
    out
}

pub(super) fn hellos() -> Vec<Fields> {
    let offer = |purpose, terms| Offer { session: SESSION, purpose, terms };
    let named = |mode| Terms::of(mode, ProtocolTag::new(b"chat/1"));
    let nominate = Control::Nominate(smallvec![SESSION]);
    let ready = Status::Ready { commit: false };
    let mut out = vec![
        hello(
            "ready, and an encrypted pipe",
            offer(Purpose::Open, Terms::ENCRYPTED),
            CHACHA,
            ready,
            &[(RESPONDER, nominate.clone()), (INITIATOR, Control::Confirm(None))],
            &[
                (INITIATOR, b"hello"),
                (RESPONDER, b"ECHO "),
                (INITIATOR, &[0; 300]),
                (INITIATOR, b""),
                (RESPONDER, b""),
            ],
        ),
        hello(
            "asked, with a protocol, and calls that crossed",
            offer(Purpose::Open, named(PipeMode::Encrypted)),
            CHACHA,
            Status::Asking,
            &[
                (INITIATOR, Control::Here),
                (RESPONDER, Control::Approved),
                (RESPONDER, Control::Busy),
                (RESPONDER, nominate.clone()),
                (INITIATOR, Control::Confirm(Some(OTHER_SESSION))),
            ],
            &[(RESPONDER, b"x")],
        ),
        hello(
            "dialled back, two sessions, a plain pipe",
            offer(Purpose::Answer, named(PipeMode::Plain)),
            CHACHA,
            ready,
            &[
                (RESPONDER, Control::Nominate(smallvec![SESSION, OTHER_SESSION])),
                (INITIATOR, Control::Confirm(None)),
            ],
            &[],
        ),
        hello_between(
            [bob(), alice()],
            "the initiator has the lower id and commits",
            Offer { session: OTHER_SESSION, ..offer(Purpose::Open, Terms::ENCRYPTED) },
            CHACHA,
            Status::Ready { commit: true },
            &[(INITIATOR, Control::Commit(smallvec![OTHER_SESSION]))],
            &[(INITIATOR, b"hello"), (RESPONDER, b"ECHO ")],
        ),
        hello(
            "refused in SECOND",
            offer(Purpose::Open, named(PipeMode::Encrypted)),
            CHACHA,
            Status::Refused(Refusal::ProtocolNotTaken),
            &[],
            &[],
        ),
        hello(
            "refused after SECOND",
            offer(Purpose::Open, Terms::ENCRYPTED),
            CHACHA,
            Status::Asking,
            &[
                (INITIATOR, Control::Here),
                (RESPONDER, Control::Refuse(Refusal::PrivateForStrangers { asked: Strategy::Punch })),
            ],
            &[],
        ),
    ];
    let (confirmed, said) = (Control::Confirm(None), [(INITIATOR, b"hello".as_slice()), (RESPONDER, b"")]);
    for (name, aes) in [
        ("AES-256-GCM, offered and taken", [true; 2]),
        ("AES-256-GCM, offered to one that has it not", [true, false]),
    ] {
        let controls = [(RESPONDER, nominate.clone()), (INITIATOR, confirmed.clone())];
        out.push(hello(name, offer(Purpose::Open, Terms::ENCRYPTED), aes, ready, &controls, &said));
    }
    out.push(vec![
        ("name", text("a refused version, in clear")),
        ("refusal", list(refusal_code(Refusal::Version { ours: VERSION }).map(|n| n.to_string()))),
        ("refuse", hex(&refuse_version())),
    ]);
    out
}
