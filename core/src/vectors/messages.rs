//! Messages between nodes over brokers, and the envelopes around them.

use core::time::Duration;
use std::net::SocketAddr;

use smallvec::{SmallVec, smallvec};

use super::{
    Fields, OTHER_SESSION, SESSION, alice, bob, endpoint, ephemeral, hex, lines, list, protocol, text,
};
use crate::call::{Refusal, Strategy};
use crate::failure::IoFailure;
use crate::hello::refusal_code;
use crate::nat::{Allocation, Behaviour, Filtering, Mapping};
use crate::pipe::{PipeMode, ProtocolTag, Terms};
use crate::session::SessionId;
use crate::signal::mappings::{Mappings, UdpMappings};
use crate::signal::message::{Body, Message, MessageId, VERSION};
use crate::signal::seal::{self, Content, MarkKey};
use crate::time::WallTime;

const SENT: WallTime = WallTime::from_micros(1_700_000_000_123_456);
const ID: MessageId = MessageId(*b"id of a message.");

fn message(session: SessionId, body: Body) -> Message {
    Message { id: ID, sent: SENT, lifetime: 600, session, body }
}

fn address() -> String {
    format!("0,1-[0,203.0.113.9,192.168.21.21,58959,5,4,2]-0-{}", alice().node_id())
}

fn named(mode: PipeMode, tag: &[u8]) -> Terms {
    Terms::of(mode, ProtocolTag::new(tag))
}

fn mappings(terms: Terms, rung: u8, behaviour: Behaviour, ports: SmallVec<[u16; 16]>) -> Box<Mappings> {
    Box::new(Mappings {
        terms,
        rung,
        behaviour,
        signal_delay: Duration::from_micros(12_345),
        external: [203, 0, 113, 9].into(),
        ports,
        address: Box::new(address().parse().unwrap()),
    })
}

fn over_udp(terms: Terms) -> Box<UdpMappings> {
    let behaviour = Behaviour {
        mapping: Some(Mapping::EndpointIndependent),
        filtering: Some(Filtering::AddressPortDependent),
        allocation: Some(Allocation::Equal),
    };
    let mappings = *mappings(terms, 1, behaviour, smallvec![40_001]);
    let inside = SocketAddr::new([192, 168, 21, 21].into(), 40_001);
    Box::new(UdpMappings { secret: *b"16 random bytes.", inside, mappings })
}

fn all() -> Vec<(&'static str, Body)> {
    let address = || Box::new(address().parse().unwrap());
    let v4: SocketAddr = "203.0.113.9:4000".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::1]:65535".parse().unwrap();
    let causes = [
        IoFailure::Other(0),
        IoFailure::Refused,
        IoFailure::Reset,
        IoFailure::TimedOut,
        IoFailure::Unreachable,
        IoFailure::NotPermitted,
    ];
    let counting = Behaviour {
        mapping: Some(Mapping::AddressPortDependent),
        filtering: Some(Filtering::AddressPortDependent),
        allocation: Some(Allocation::Sequential(-2)),
    };
    let random = Behaviour {
        mapping: Some(Mapping::AddressDependent),
        filtering: Some(Filtering::AddressDependent),
        allocation: Some(Allocation::Random { low: 1024, high: 65_535 }),
    };
    let preserving = Behaviour {
        mapping: Some(Mapping::EndpointIndependent),
        filtering: Some(Filtering::EndpointIndependent),
        allocation: Some(Allocation::Preserving(65_000)),
    };
    let dependent = Behaviour { allocation: Some(Allocation::Dependent(3)), ..Behaviour::default() };
    let inside = Box::new(Mappings {
        external: "2001:db8::7".parse().unwrap(),
        address: Box::new(
            format!("None-0-[0,2001:db8::7,2001:db8::7,4000,1,1,0]-{}", alice().node_id()).parse().unwrap(),
        ),
        ..*mappings(Terms::ENCRYPTED, 0, Behaviour::OPEN, smallvec![4000])
    });
    let mut bodies = vec![
        ("ECHO", Body::Echo(smallvec![1, 2, 3])),
        ("ECHO of nothing", Body::Echo(smallvec![])),
        ("ECHO_REPLY, the longest", Body::EchoReply(smallvec![7; 64])),
        ("DIRECT", Body::Direct { terms: Terms::ENCRYPTED, address: address() }),
        (
            "DIRECT, plain, with a protocol",
            Body::Direct { terms: named(PipeMode::Plain, b"chat/1"), address: address() },
        ),
        (
            "INITIAL_MAPPINGS before anything is measured",
            Body::Initial(mappings(Terms::ENCRYPTED, 0, Behaviour::default(), smallvec![58_959])),
        ),
        ("INITIAL_MAPPINGS of an open host", Body::Initial(inside)),
        (
            "INITIAL_MAPPINGS of a NAT that counts down",
            Body::Initial(mappings(Terms::ENCRYPTED, 3, counting, (0..16).map(|n| 7000 - 2 * n).collect())),
        ),
        (
            "INITIAL_MAPPINGS with a protocol",
            Body::Initial(mappings(
                named(PipeMode::Encrypted, &[0xff; 64]),
                7,
                preserving,
                smallvec![58_423],
            )),
        ),
        (
            "UPDATED_MAPPINGS of a NAT with random ports",
            Body::Updated(mappings(Terms::PLAIN, 3, random, smallvec![])),
        ),
        (
            "UPDATED_MAPPINGS, ports by steps of the local one",
            Body::Updated(mappings(Terms::ENCRYPTED, 1, dependent, smallvec![1, 65_535])),
        ),
        ("UDP_REQUEST", Body::UdpRequest(over_udp(Terms::ENCRYPTED))),
        (
            "UDP_RESPONSE with a protocol",
            Body::UdpResponse(Some(over_udp(named(PipeMode::Plain, b"chat/1")))),
        ),
        ("UDP_RESPONSE: cannot come", Body::UdpResponse(None)),
        ("TURN_REQUEST", Body::TurnRequest { terms: Terms::ENCRYPTED, relayed: v4, address: address() }),
        ("TURN_REQUEST, plain", Body::TurnRequest { terms: Terms::PLAIN, relayed: v6, address: address() }),
        (
            "TURN_REQUEST with a protocol",
            Body::TurnRequest { terms: named(PipeMode::Encrypted, b"x"), relayed: v4, address: address() },
        ),
        ("TURN_RESPONSE: cannot come", Body::TurnResponse(smallvec![])),
        (
            "TURN_RESPONSE, the most addresses",
            Body::TurnResponse(smallvec![v4, v6, (v4.ip(), 0).into(), (v6.ip(), 0).into(), v4, v6]),
        ),
        ("PROVE", Body::Prove { token: *b"token for proofs", relayed: v4 }),
        ("DIALLING", Body::Dialling(4)),
        ("DIALLED to a stranger", Body::Dialled { count: 2, dials: smallvec![] }),
        (
            "DIALLED to a named peer, with every cause",
            Body::Dialled {
                count: 6,
                dials: causes.iter().zip([v4, v6].iter().cycle()).map(|(why, to)| (*to, *why)).collect(),
            },
        ),
        (
            "CLOCK",
            Body::Clock { about: MessageId([8; 16]), wall: WallTime::from_micros(1_700_000_900_000_000) },
        ),
        ("CLOCK before 1970", Body::Clock { about: MessageId([8; 16]), wall: WallTime::from_micros(-1) }),
    ];
    let refusals = [
        ("REFUSED: not accepted", Refusal::NotAccepted),
        ("REFUSED: busy", Refusal::Busy),
        ("REFUSED: plain not allowed", Refusal::PlainNotAllowed),
        ("REFUSED: no such session", Refusal::NoSuchSession),
        ("REFUSED: version", Refusal::Version { ours: VERSION }),
        ("REFUSED: no search for strangers", Refusal::NoSearchForStrangers),
        (
            "REFUSED: nothing inside for strangers, by DIRECT",
            Refusal::PrivateForStrangers { asked: Strategy::Reverse },
        ),
        (
            "REFUSED: nothing inside for strangers, by a punch",
            Refusal::PrivateForStrangers { asked: Strategy::Punch },
        ),
        (
            "REFUSED: nothing inside for strangers, by a relay",
            Refusal::PrivateForStrangers { asked: Strategy::Relay },
        ),
        ("REFUSED: no search in silence", Refusal::NoSearchInSilence),
        ("REFUSED: protocol not taken", Refusal::ProtocolNotTaken),
    ];
    bodies.extend(refusals.map(|(name, why)| (name, Body::Refused(why))));
    bodies
}

fn terms_of(terms: Terms) -> Fields {
    vec![("mode", terms.mode.code().to_string()), ("protocol", protocol(terms.protocol))]
}

fn mappings_of(kind: u8, m: &Mappings, bytes: &[u8]) -> Fields {
    // The numbers stand where the page says.
    let at = 43 + m.terms.protocol.map_or(0, |p| 1 + p.as_bytes().len());
    let number = |n: usize| u16::from_be_bytes([bytes[at + n], bytes[at + n + 1]]).to_string();
    let mut fields = vec![("kind", kind.to_string())];
    fields.extend(terms_of(m.terms));
    fields.extend([
        ("rung", m.rung.to_string()),
        ("mapping", bytes[at + 2].to_string()),
        ("filtering", bytes[at + 3].to_string()),
        ("allocation", list([bytes[at + 4].to_string(), number(5), number(7)])),
        ("delay", m.signal_delay.as_micros().to_string()),
        ("external", text(m.external)),
        ("ports", list(m.ports.iter().map(u16::to_string))),
        ("address", text(&m.address)),
    ]);
    fields
}

fn over_udp_of(kind: u8, m: &UdpMappings, bytes: &[u8]) -> Fields {
    let mut fields = vec![("secret", hex(&m.secret)), ("inside", endpoint(m.inside))];
    // Those bytes stand between the protocol and the rest.
    let at = 43 + m.mappings.terms.protocol.map_or(0, |p| 1 + p.as_bytes().len());
    fields.extend(mappings_of(kind, &m.mappings, &[&bytes[..at], &bytes[at + 23..]].concat()));
    fields
}

fn body_of(body: &Body, bytes: &[u8]) -> Fields {
    let kind = |n: u8| vec![("kind", n.to_string())];
    match body {
        Body::Echo(payload) => [kind(1), vec![("payload", hex(payload))]].concat(),
        Body::EchoReply(payload) => [kind(16), vec![("payload", hex(payload))]].concat(),
        Body::Direct { terms, address } => {
            [kind(2), terms_of(*terms), vec![("address", text(address))]].concat()
        }
        Body::Initial(m) => mappings_of(3, m, bytes),
        Body::Updated(m) => mappings_of(4, m, bytes),
        Body::UdpRequest(m) => over_udp_of(8, m, bytes),
        Body::UdpResponse(None) => kind(9),
        Body::UdpResponse(Some(m)) => over_udp_of(9, m, bytes),
        Body::TurnRequest { terms, relayed, address } => {
            let rest = vec![("relayed", endpoint(*relayed)), ("address", text(address))];
            [kind(5), terms_of(*terms), rest].concat()
        }
        Body::TurnResponse(sources) => {
            [kind(6), vec![("sources", list(sources.iter().map(|at| endpoint(*at))))]].concat()
        }
        Body::Prove { token, relayed } => {
            [kind(7), vec![("token", hex(token)), ("relayed", endpoint(*relayed))]].concat()
        }
        Body::Dialling(count) => [kind(17), vec![("count", count.to_string())]].concat(),
        Body::Dialled { count, dials } => {
            let dials: Vec<Fields> = dials
                .iter()
                .map(|(to, why)| {
                    let code = match why {
                        IoFailure::Refused => 1,
                        IoFailure::Reset => 2,
                        IoFailure::TimedOut => 3,
                        IoFailure::Unreachable => 4,
                        IoFailure::NotPermitted => 5,
                        _ => 0,
                    };
                    vec![("cause", code.to_string()), ("to", endpoint(*to))]
                })
                .collect();
            [kind(18), vec![("count", count.to_string()), ("dials", lines(&dials))]].concat()
        }
        Body::Clock { about, wall } => {
            [kind(19), vec![("about", hex(&about.0)), ("wall", wall.as_micros().to_string())]].concat()
        }
        Body::Refused(why) => {
            [kind(20), vec![("refusal", list(refusal_code(*why).map(|n| n.to_string())))]].concat()
        }
    }
}

pub(super) fn messages() -> Vec<Fields> {
    let vector = |(name, body): (&'static str, Body)| {
        let message = message(SESSION, body);
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes).as_ref(), Ok(&message), "{name}");
        let mut fields = vec![
            ("name", text(name)),
            ("id", hex(&ID.0)),
            ("sent", SENT.as_micros().to_string()),
            ("lifetime", message.lifetime.to_string()),
            ("session", hex(&SESSION.0)),
        ];
        fields.extend(body_of(&message.body, &bytes));
        fields.push(("bytes", hex(&bytes)));
        fields
    };
    all().into_iter().map(vector).collect()
}

pub(super) fn not_messages() -> Vec<Fields> {
    let of = |at: &str| {
        let found = all().into_iter().find(|(name, _)| *name == at);
        message(SESSION, found.unwrap_or_else(|| panic!("{at}")).1).encode()
    };
    let with = |at: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = of(at);
        change(&mut bytes);
        bytes
    };
    // Offsets of the kind and of the body behind it.
    const KIND: usize = 42;
    const BODY: usize = 43;
    let dials = "DIALLED to a named peer, with every cause";
    let initial = "INITIAL_MAPPINGS before anything is measured";
    let bad = [
        ("cut off before the kind", of("ECHO")[..KIND].to_vec()),
        ("an unknown kind", with("ECHO", &|b| b[KIND] = 10)),
        ("ECHO of 65 bytes", with("ECHO_REPLY, the longest", &|b| b.push(7))),
        ("DIRECT with an unknown mode", with("DIRECT", &|b| b[BODY] = 3)),
        ("DIRECT with a mode of TURN_REQUEST", with("DIRECT", &|b| b[BODY] = 0x80)),
        ("DIRECT whose address is none", with("DIRECT", &|b| b[BODY + 1] = b'x')),
        (
            "DIRECT with a protocol of 0 bytes",
            with("DIRECT", &|b| {
                b[KIND] |= 0x80;
                b.insert(BODY, 0);
            }),
        ),
        (
            "DIRECT with a protocol of 65 bytes",
            with("DIRECT", &|b| {
                b[KIND] |= 0x80;
                b.splice(BODY..BODY, [&[65][..], &[b'x'; 65]].concat());
            }),
        ),
        (
            "DIALLING with a protocol",
            with("DIALLING", &|b| {
                b[KIND] |= 0x80;
                b.splice(BODY..BODY, [1, b'x']);
            }),
        ),
        ("DIALLING, and something follows", with("DIALLING", &|b| b.push(0))),
        ("DIALLED with seven dials", with(dials, &|b| b.extend([1, 4, 203, 0, 113, 9, 15, 160]))),
        ("TURN_REQUEST to port 0", with("TURN_REQUEST", &|b| b[BODY + 6..BODY + 8].fill(0))),
        ("TURN_REQUEST to an address of no family", with("TURN_REQUEST", &|b| b[BODY + 1] = 5)),
        (
            "TURN_RESPONSE with seven addresses",
            with("TURN_RESPONSE, the most addresses", &|b| b.extend([4, 203, 0, 113, 9, 15, 160])),
        ),
        ("UDP_REQUEST from port 0 inside", with("UDP_REQUEST", &|b| b[BODY + 21..BODY + 23].fill(0))),
        ("UDP_REQUEST from another's address inside", with("UDP_REQUEST", &|b| b[BODY + 17] = 10)),
        ("PROVE to port 0", with("PROVE", &|b| b[BODY + 21..].fill(0))),
        ("mappings with an unknown mapping", with(initial, &|b| b[BODY + 2] = 5)),
        ("mappings with an unknown filtering", with(initial, &|b| b[BODY + 3] = 4)),
        ("mappings with an unknown allocation", with(initial, &|b| b[BODY + 4] = 6)),
        (
            "mappings with a range upside down",
            with("UPDATED_MAPPINGS of a NAT with random ports", &|b| b[BODY + 7..BODY + 9].fill(0)),
        ),
        ("mappings from an address that the sender does not announce", with(initial, &|b| b[BODY + 17] = 10)),
        (
            "mappings with seventeen ports",
            with(initial, &|b| {
                b[BODY + 18] = 17;
                b.splice(BODY + 19..BODY + 19, [1; 32]);
            }),
        ),
        ("mappings with port 0", with(initial, &|b| b[BODY + 19..BODY + 21].fill(0))),
        ("CLOCK that is too short", of("CLOCK")[..BODY + 23].to_vec()),
        ("REFUSED that is too short", of("REFUSED: busy")[..BODY + 1].to_vec()),
    ];
    let vector = |(why, bytes): (&str, Vec<u8>)| {
        assert!(Message::decode(&bytes).is_err(), "{why}");
        vec![("why", text(why)), ("bytes", hex(&bytes))]
    };
    bad.into_iter().map(vector).collect()
}

pub(super) fn envelopes() -> Vec<Fields> {
    let (alice, bob) = (alice(), bob());
    let direct = message(OTHER_SESSION, all().remove(3).1);
    let entropy = |n: u8| [0x40 + n; 32];
    let sealed = seal::seal(&alice, &bob.node_id(), &direct, entropy(1)).unwrap();
    let refused = seal::refuse_version(&bob, &alice.node_id(), ID, SENT, entropy(2)).unwrap();
    let vector = |name, [from, to]: [&crate::SecretKey; 2], entropy, content: &[u8], envelope: &[u8]| {
        let key = MarkKey::new(to, &from.node_id());
        assert!(key.is_of(envelope, &to.node_id(), SENT), "{name}");
        vec![
            ("name", text(name)),
            ("from", hex(from.as_bytes())),
            ("to", hex(to.as_bytes())),
            ("ephemeral", hex(&ephemeral(entropy))),
            ("sent", SENT.as_micros().to_string()),
            ("content", hex(content)),
            ("envelope", hex(envelope)),
        ]
    };
    let content = [&[VERSION][..], &direct.encode()].concat();
    let (from, heard) = seal::open(&bob, &sealed).unwrap();
    assert!(matches!(heard, Content::Message(m) if *m == direct && from == alice.node_id()));
    let refusal = [&[0][..], &ID.0, &[VERSION]].concat();
    let (_, heard) = seal::open(&alice, &refused).unwrap();
    assert!(matches!(heard, Content::VersionRefused { about: ID, version: VERSION }));
    vec![
        vector("DIRECT from alice to bob", [&alice, &bob], entropy(1), &content, &sealed),
        vector("a refused version, from bob to alice", [&bob, &alice], entropy(2), &refusal, &refused),
    ]
}
