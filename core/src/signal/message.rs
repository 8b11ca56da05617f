//! Messages that nodes send each other over brokers, inside the seal.
//!
//! ```text
//! id 16 | sent: i64 us | lifetime: u16 s | session 16 | kind u8 | body
//! ```
//! Numbers are big-endian. A kind has 0x80 more where a protocol's name stands before the body, as `length u8` and 1 to 64 bytes:
//! in DIRECT, TURN_REQUEST and the mappings, those for UDP too. The body of TURN_REQUEST is the mode, the relayed address and
//! the sender's address text. The body of TURN_RESPONSE is a list of addresses. The body of DIALLED is the number of dials,
//! and for peers that are known the failure, address and port of each. The body of PROVE is the token and the relayed
//! address. The body of UDP_RESPONSE is empty where the sender has no UDP. An IP address is its family, 4 or 6, and its bytes.

use super::reader::{MAX_ECHO, Malformed, Reader, put_endpoint};
use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::address::PeerAddress;
use crate::call::Refusal;
use crate::failure::IoFailure;
use crate::hello::{refusal_code, refusal_from};
use crate::pipe::{PipeMode, Terms};
use crate::session::SessionId;
use crate::signal::mappings::{Mappings, UdpMappings};
use crate::time::WallTime;

/// Most dials that a DIALLED message reports.
pub(crate) const MAX_DIALS: usize = 6;
/// Most addresses that a side may come to a relay from.
pub(crate) const MAX_SOURCES: usize = 6;

/// Sixteen random bytes that make a message unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct MessageId(pub(crate) [u8; 16]);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    /// Time by the sender's clock, as far as it was corrected.
    pub(crate) sent: WallTime,
    /// Seconds after which it means nothing any more.
    pub(crate) lifetime: u16,
    /// Session that is meant; all zero for none.
    pub(crate) session: SessionId,
    pub(crate) body: Body,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    /// Answer with the same payload. To itself a node sends it as a probe of the broker.
    Echo(SmallVec<[u8; MAX_ECHO]>),
    EchoReply(SmallVec<[u8; MAX_ECHO]>),
    /// P2PD's name for: connect to me, at this address.
    Direct {
        terms: Terms,
        address: Box<PeerAddress>,
    },
    /// Answer to `Direct`: it dials this many addresses.
    Dialling(u8),
    /// The sender dialled this many addresses, all without success as far as it knows. The result of each is told only
    /// to peers that the sender's user named.
    Dialled {
        count: u8,
        dials: SmallVec<[(SocketAddr, IoFailure); MAX_DIALS]>,
    },
    /// The message with this id is outside the window of the receiver's clock, which shows this.
    Clock {
        about: MessageId,
        wall: WallTime,
    },
    /// Answer to a request: no.
    Refused(Refusal),
    /// Punch a hole with me: this is where I come from.
    Initial(Box<Mappings>),
    /// Answer to `Initial`: and I from here.
    Updated(Box<Mappings>),
    /// P2PD's name for: come to me at this relayed address of mine.
    TurnRequest {
        terms: Terms,
        relayed: SocketAddr,
        /// The sender's own address.
        address: Box<PeerAddress>,
    },
    /// Answer to `TurnRequest`: it will come from one of these, by a port of its NAT's where that is 0. None: it cannot.
    TurnResponse(SmallVec<[SocketAddr; MAX_SOURCES]>),
    /// Punch a hole over UDP with me: this is where I come from.
    UdpRequest(Box<UdpMappings>),
    /// Answer to `UdpRequest`: and I from here. None: it has no UDP.
    UdpResponse(Option<Box<UdpMappings>>),
    /// Show that you are where you say, by a call with this token to this relayed address of mine: before that, no
    /// search goes on at your address.
    Prove {
        token: [u8; 16],
        relayed: SocketAddr,
    },
}

const ECHO: u8 = 1;
const DIRECT: u8 = 2;
const INITIAL_MAPPINGS: u8 = 3;
const UPDATED_MAPPINGS: u8 = 4;
const TURN_REQUEST: u8 = 5;
const TURN_RESPONSE: u8 = 6;
const PROVE: u8 = 7;
const UDP_REQUEST: u8 = 8;
const UDP_RESPONSE: u8 = 9;
const ECHO_REPLY: u8 = 16;
const DIALLING: u8 = 17;
const DIALLED: u8 = 18;
const CLOCK: u8 = 19;
const REFUSED: u8 = 20;

/// The one version of envelopes and relay streams that is spoken.
pub(crate) const VERSION: u8 = 2;
/// Version of a UDP_REQUEST.
pub(crate) const UDP_VERSION: u8 = VERSION + 1;

/// Flag in the kind of a message in which the protocol's name stands before the body: its length and its bytes.
const NAMED: u8 = 0x80;

impl Message {
    /// Returns the version that the envelope names. A request that nodes before it cannot read has one of its own, so that
    /// they say so.
    pub(crate) fn version(&self) -> u8 {
        if matches!(self.body, Body::UdpRequest(_)) { UDP_VERSION } else { VERSION }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.sent.as_micros().to_be_bytes());
        out.extend_from_slice(&self.lifetime.to_be_bytes());
        out.extend_from_slice(&self.session.0);
        match &self.body {
            Body::Echo(payload) => {
                out.push(ECHO);
                out.extend_from_slice(payload);
            }
            Body::EchoReply(payload) => {
                out.push(ECHO_REPLY);
                out.extend_from_slice(payload);
            }
            Body::Direct { terms, address } => {
                put_kind(&mut out, DIRECT, *terms);
                out.push(terms.mode.code());
                out.extend_from_slice(address.to_string().as_bytes());
            }
            Body::Dialling(count) => out.extend_from_slice(&[DIALLING, *count]),
            Body::Dialled { count, dials } => {
                out.extend_from_slice(&[DIALLED, *count]);
                for (to, why) in dials.iter().take(MAX_DIALS) {
                    out.push(failure_code(*why));
                    put_endpoint(&mut out, *to);
                }
            }
            Body::Clock { about, wall } => {
                out.push(CLOCK);
                out.extend_from_slice(&about.0);
                out.extend_from_slice(&wall.as_micros().to_be_bytes());
            }
            Body::Initial(mappings) => {
                put_kind(&mut out, INITIAL_MAPPINGS, mappings.terms);
                mappings.encode(&mut out);
            }
            Body::Updated(mappings) => {
                put_kind(&mut out, UPDATED_MAPPINGS, mappings.terms);
                mappings.encode(&mut out);
            }
            Body::TurnRequest { terms, relayed, address } => {
                put_kind(&mut out, TURN_REQUEST, *terms);
                out.push(terms.mode.code());
                put_endpoint(&mut out, *relayed);
                out.extend_from_slice(address.to_string().as_bytes());
            }
            Body::TurnResponse(sources) => {
                out.push(TURN_RESPONSE);
                sources.iter().take(MAX_SOURCES).for_each(|at| put_endpoint(&mut out, *at));
            }
            Body::UdpRequest(mappings) => {
                put_kind(&mut out, UDP_REQUEST, mappings.mappings.terms);
                mappings.encode(&mut out);
            }
            Body::UdpResponse(None) => out.push(UDP_RESPONSE),
            Body::UdpResponse(Some(mappings)) => {
                put_kind(&mut out, UDP_RESPONSE, mappings.mappings.terms);
                mappings.encode(&mut out);
            }
            Body::Prove { token, relayed } => {
                out.push(PROVE);
                out.extend_from_slice(token);
                put_endpoint(&mut out, *relayed);
            }
            Body::Refused(why) => {
                out.push(REFUSED);
                out.extend_from_slice(&refusal_code(*why));
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let id = MessageId(reader.array()?);
        let sent = WallTime::from_micros(i64::from_be_bytes(reader.array()?));
        let lifetime = u16::from_be_bytes(reader.array()?);
        let session = SessionId(reader.array()?);
        let [kind] = reader.array()?;
        let protocol = if kind & NAMED == 0 { None } else { Some(reader.protocol()?) };
        let body = match kind & !NAMED {
            ECHO => Body::Echo(reader.echo()?),
            ECHO_REPLY => Body::EchoReply(reader.echo()?),
            DIRECT => {
                let [mode] = reader.array()?;
                let terms = Terms::of(PipeMode::from_code(mode).ok_or(Malformed)?, protocol);
                let text = core::str::from_utf8(reader.rest()).map_err(|_| Malformed)?;
                Body::Direct { terms, address: Box::new(text.parse().map_err(|_| Malformed)?) }
            }
            DIALLING => {
                let [count] = reader.array()?;
                Body::Dialling(count)
            }
            DIALLED => {
                let [count] = reader.array()?;
                let mut dials = SmallVec::new();
                while !reader.0.is_empty() {
                    if dials.len() == MAX_DIALS {
                        return Err(Malformed);
                    }
                    let [why] = reader.array()?;
                    dials.push((reader.endpoint()?, failure_from(why)));
                }
                Body::Dialled { count, dials }
            }
            CLOCK => Body::Clock {
                about: MessageId(reader.array()?),
                wall: WallTime::from_micros(i64::from_be_bytes(reader.array()?)),
            },
            REFUSED => Body::Refused(refusal_from(reader.array()?)),
            INITIAL_MAPPINGS => Body::Initial(Box::new(Mappings::decode(&mut reader, protocol)?)),
            UPDATED_MAPPINGS => Body::Updated(Box::new(Mappings::decode(&mut reader, protocol)?)),
            TURN_REQUEST => {
                let [mode] = reader.array()?;
                let terms = Terms::of(PipeMode::from_code(mode).ok_or(Malformed)?, protocol);
                let relayed = reader.reachable()?;
                let text = core::str::from_utf8(reader.rest()).map_err(|_| Malformed)?;
                let address = Box::new(text.parse().map_err(|_| Malformed)?);
                Body::TurnRequest { terms, relayed, address }
            }
            TURN_RESPONSE => {
                let mut sources = SmallVec::new();
                while !reader.0.is_empty() {
                    if sources.len() == MAX_SOURCES {
                        return Err(Malformed);
                    }
                    sources.push(reader.endpoint()?);
                }
                Body::TurnResponse(sources)
            }
            UDP_REQUEST => Body::UdpRequest(Box::new(UdpMappings::decode(&mut reader, protocol)?)),
            UDP_RESPONSE if reader.0.is_empty() => Body::UdpResponse(None),
            UDP_RESPONSE => Body::UdpResponse(Some(Box::new(UdpMappings::decode(&mut reader, protocol)?))),
            PROVE => Body::Prove { token: reader.array()?, relayed: reader.reachable()? },
            _ => return Err(Malformed),
        };
        // A name belongs to what asks for a pipe, and to its answer.
        let named = matches!(
            body,
            Body::Direct { .. }
                | Body::Initial(_)
                | Body::Updated(_)
                | Body::TurnRequest { .. }
                | Body::UdpRequest(_)
                | Body::UdpResponse(Some(_))
        );
        if protocol.is_some() && !named {
            return Err(Malformed);
        }
        if reader.0.is_empty() { Ok(Message { id, sent, lifetime, session, body }) } else { Err(Malformed) }
    }
}

fn put_kind(out: &mut Vec<u8>, kind: u8, terms: Terms) {
    let Some(protocol) = terms.protocol else { return out.push(kind) };
    let tag = protocol.as_bytes();
    out.extend_from_slice(&[kind | NAMED, tag.len() as u8]);
    out.extend_from_slice(tag);
}

fn failure_code(why: IoFailure) -> u8 {
    match why {
        IoFailure::Refused => 1,
        IoFailure::Reset => 2,
        IoFailure::TimedOut => 3,
        IoFailure::Unreachable => 4,
        IoFailure::NotPermitted => 5,
        _ => 0,
    }
}

fn failure_from(code: u8) -> IoFailure {
    match code {
        1 => IoFailure::Refused,
        2 => IoFailure::Reset,
        3 => IoFailure::TimedOut,
        4 => IoFailure::Unreachable,
        5 => IoFailure::NotPermitted,
        _ => IoFailure::Other(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Allocation, Behaviour, Filtering, Mapping};
    use crate::pipe::ProtocolTag;
    use core::time::Duration;
    use quickcheck::{Arbitrary, Gen, quickcheck};
    use smallvec::smallvec;

    /// Mappings of every kind, such as a node may send.
    #[derive(Clone, Debug)]
    struct Any(Mappings);

    impl Arbitrary for Any {
        fn arbitrary(g: &mut Gen) -> Self {
            let mappings = [
                None,
                Some(Mapping::None),
                Some(Mapping::EndpointIndependent),
                Some(Mapping::AddressDependent),
                Some(Mapping::AddressPortDependent),
            ];
            let filterings = [
                None,
                Some(Filtering::EndpointIndependent),
                Some(Filtering::AddressDependent),
                Some(Filtering::AddressPortDependent),
            ];
            let (low, high) = (u16::arbitrary(g), u16::arbitrary(g));
            let allocations = [
                None,
                Some(Allocation::Equal),
                Some(Allocation::Preserving(low)),
                Some(Allocation::Sequential(low as i16)),
                Some(Allocation::Dependent(low as i16)),
                Some(Allocation::Random { low: low.min(high), high: low.max(high) }),
            ];
            let behaviour = Behaviour {
                mapping: *g.choose(&mappings).unwrap(),
                filtering: *g.choose(&filterings).unwrap(),
                allocation: *g.choose(&allocations).unwrap(),
            };
            let v6 = bool::arbitrary(g);
            let outside = ["203.0.113.9", "2001:db8::1"][usize::from(v6)];
            let inside = ["192.168.0.2", "2001:db8::2"][usize::from(v6)];
            let list = format!("[0,{outside},{inside},{},3,2,0]", low.max(1));
            let (v4, v6) = if v6 { ("0", list.as_str()) } else { (list.as_str(), "0") };
            let address = format!("0,1-{v4}-{v6}-zmUGXPOFxBUuToh").parse().unwrap();
            let external = [outside, inside][usize::from(bool::arbitrary(g))];
            let count = usize::arbitrary(g) % 17;
            Any(Mappings {
                terms: *g.choose(&[Terms::ENCRYPTED, Terms::PLAIN]).unwrap(),
                rung: u8::arbitrary(g),
                behaviour,
                signal_delay: Duration::from_micros(u32::arbitrary(g).into()),
                external: external.parse().unwrap(),
                ports: (0..count).map(|_| u16::arbitrary(g).max(1)).collect(),
                address: Box::new(address),
            })
        }
    }

    fn message(body: Body) -> Message {
        Message {
            id: MessageId([3; 16]),
            sent: WallTime::from_micros(1_700_000_000_000_000),
            lifetime: 600,
            session: SessionId([4; 16]),
            body,
        }
    }

    /// Offset of the mappings, after the kind.
    const MODE: usize = 43;
    const ALLOCATION: usize = MODE + 4;
    const EXTERNAL: usize = ALLOCATION + 9;

    quickcheck! {
        fn mappings_round_trip(any: Any) -> bool {
            [Body::Initial(Box::new(any.0.clone())), Body::Updated(Box::new(any.0))]
                .into_iter()
                .all(|body| Message::decode(&message(body.clone()).encode()) == Ok(message(body)))
        }

        fn cut_mappings_are_refused_or_end_in_another_address(any: Any) -> bool {
            let whole = message(Body::Initial(Box::new(any.0.clone()))).encode();
            (0..whole.len()).all(|cut| match Message::decode(&whole[..cut]) {
                Err(Malformed) => true,
                Ok(Message { body: Body::Initial(m), .. }) => m.address.node() != any.0.address.node(),
                Ok(_) => false,
            })
        }

        fn any_bytes_are_mappings_or_refused(kind: bool, bytes: Vec<u8>) -> bool {
            let mut text = message(Body::Dialling(0)).encode();
            text.truncate(MODE - 1);
            text.push(if kind { INITIAL_MAPPINGS } else { UPDATED_MAPPINGS });
            text.extend_from_slice(&bytes);
            // What is accepted says the same when it is said again.
            Message::decode(&text).is_ok_and(|m| Message::decode(&m.encode()) == Ok(m)) || Message::decode(&text).is_err()
        }
    }

    #[test]
    fn mappings_that_make_no_sense_are_refused() {
        let address = "0-[0,203.0.113.9,192.168.21.21,58959,3,2,0]-0-zmUGXPOFxBUuToh".parse().unwrap();
        let made = Mappings {
            terms: Terms::ENCRYPTED,
            rung: 0,
            behaviour: Behaviour {
                mapping: Some(Mapping::AddressPortDependent),
                filtering: None,
                allocation: Some(Allocation::Random { low: 5, high: 5 }),
            },
            signal_delay: Duration::MAX,
            external: [203, 0, 113, 9].into(),
            ports: smallvec![7; 16],
            address: Box::new(address),
        };
        let sound = message(Body::Initial(Box::new(made))).encode();
        let Ok(Message { body: Body::Initial(read), .. }) = Message::decode(&sound) else { panic!() };
        assert_eq!(read.signal_delay, Duration::from_micros(u32::MAX.into()), "cut");
        let with = |at: usize, byte: u8| {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            Message::decode(&bytes)
        };
        assert_eq!(with(MODE, 3), Err(Malformed), "terms");
        assert_eq!(with(MODE + 2, 5), Err(Malformed), "mapping");
        assert_eq!(with(MODE + 3, 4), Err(Malformed), "filtering");
        assert_eq!(with(ALLOCATION, 6), Err(Malformed), "allocation");
        assert_eq!(with(ALLOCATION + 2, 6), Err(Malformed), "a range upside down");
        assert_eq!(with(EXTERNAL, 5), Err(Malformed), "IPv5");
        assert_eq!(with(EXTERNAL + 4, 10), Err(Malformed), "an address that it does not announce");
        assert_eq!(with(EXTERNAL + 5, 17), Err(Malformed), "17 ports");
        assert_eq!(with(EXTERNAL + 5, 15), Err(Malformed), "a port taken for text");
        assert_eq!(with(EXTERNAL + 7, 0), Err(Malformed), "port 0");
        let seventeen = [&sound[..EXTERNAL + 5], &[17, 0, 7], &sound[EXTERNAL + 6..]].concat();
        assert_eq!(Message::decode(&seventeen), Err(Malformed));
        let mut every = sound.clone();
        for at in MODE..sound.len() {
            for byte in 0..=255 {
                every[at] = byte;
                if let Ok(message) = Message::decode(&every) {
                    assert_eq!(Message::decode(&message.encode()), Ok(message));
                }
            }
            every[at] = sound[at];
        }
    }

    fn named(length: usize) -> Terms {
        Terms::of(PipeMode::Plain, ProtocolTag::new(&vec![b'x'; length]))
    }

    #[test]
    fn a_protocol_stands_only_where_a_pipe_is_asked_for_and_has_one_to_64_bytes() {
        let address: Box<PeerAddress> = Box::new("None-0-0-zmUGXPOFxBUuToh".parse().unwrap());
        let whole = message(Body::Direct { terms: named(3), address }).encode();
        assert_eq!(whole[MODE - 1..MODE + 4], [DIRECT | NAMED, 3, b'x', b'x', b'x']);
        for length in [0, 65, 255] {
            let mut bytes = whole.clone();
            bytes[MODE] = length;
            assert_eq!(Message::decode(&bytes), Err(Malformed), "{length}");
        }
        let tag = [&[3], b"xxx".as_slice()].concat();
        for other in all() {
            let plain = other.encode();
            if plain[MODE - 1] & NAMED != 0 {
                continue;
            }
            let flagged = [&plain[..MODE - 1], &[plain[MODE - 1] | NAMED], &tag[..], &plain[MODE..]].concat();
            let asks = matches!(
                plain[MODE - 1],
                DIRECT | INITIAL_MAPPINGS | UPDATED_MAPPINGS | TURN_REQUEST | UDP_REQUEST | UDP_RESPONSE
            ) && other.body != Body::UdpResponse(None);
            assert_eq!(Message::decode(&flagged).is_ok(), asks, "{other:?}");
        }
    }

    fn over_udp() -> UdpMappings {
        let mappings = Any::arbitrary(&mut Gen::new(8)).0;
        let inside = mappings.address.interfaces().next().unwrap().internal;
        UdpMappings { secret: [5; 16], inside: SocketAddr::new(inside, 4000), mappings }
    }

    #[test]
    fn sockets_for_udp_are_the_senders_own() {
        let mappings = over_udp();
        let stranger = SocketAddr::new("198.51.100.9".parse().unwrap(), 4000);
        let of =
            |inside| message(Body::UdpRequest(Box::new(UdpMappings { inside, ..mappings.clone() }))).encode();
        assert!(Message::decode(&of(mappings.inside)).is_ok());
        assert_eq!(Message::decode(&of(stranger)), Err(Malformed));
        assert_eq!(Message::decode(&of(SocketAddr::new(mappings.inside.ip(), 0))), Err(Malformed));
    }

    fn all() -> Vec<Message> {
        let address = "0,1-[0,8.8.8.8,192.168.21.21,58959,3,2,0]-0-zmUGXPOFxBUuToh".parse().unwrap();
        let other: Box<PeerAddress> = Box::new("None-0-0-zmUGXPOFxBUuToh".parse().unwrap());
        let other2 = other.clone();
        let v4: SocketAddr = "203.0.113.9:4000".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:65535".parse().unwrap();
        let bodies = [
            Body::Echo(smallvec![]),
            Body::Echo(smallvec![7; MAX_ECHO]),
            Body::EchoReply(smallvec![1, 2, 3]),
            Body::Direct { terms: Terms::PLAIN, address: Box::new(address) },
            Body::TurnRequest { terms: Terms::PLAIN, relayed: v6, address: other.clone() },
            Body::TurnRequest { terms: Terms::ENCRYPTED, relayed: v4, address: other },
            Body::Direct { terms: named(64), address: other2.clone() },
            Body::TurnRequest { terms: named(1), relayed: v4, address: other2 },
            Body::TurnResponse(smallvec![]),
            Body::TurnResponse(smallvec![v4, v6, (v4.ip(), 0).into(), v4, v6, v4]),
            Body::Dialling(4),
            Body::Dialled { count: 0, dials: smallvec![] },
            Body::Dialled { count: 2, dials: smallvec![] },
            Body::Dialled { count: 2, dials: smallvec![(v4, IoFailure::TimedOut), (v6, IoFailure::Refused)] },
            Body::Clock { about: MessageId([8; 16]), wall: WallTime::from_micros(-5) },
            Body::Refused(Refusal::Version { ours: 9 }),
            Body::Initial(Box::new(Any::arbitrary(&mut Gen::new(8)).0)),
            Body::Updated(Box::new(Any::arbitrary(&mut Gen::new(8)).0)),
            Body::UdpRequest(Box::new(over_udp())),
            Body::UdpResponse(Some(Box::new(over_udp()))),
            Body::UdpResponse(None),
        ];
        bodies.into_iter().map(message).collect()
    }

    #[test]
    fn every_kind_round_trips() {
        for message in all() {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn cut_long_and_unknown_ones_are_refused() {
        for message in all() {
            let bytes = message.encode();
            for cut in 0..43.min(bytes.len()) {
                assert_eq!(Message::decode(&bytes[..cut]), Err(Malformed));
            }
            if !matches!(message.body, Body::Echo(_) | Body::EchoReply(_)) {
                let longer = [bytes.clone(), vec![0; 400]].concat();
                assert_eq!(Message::decode(&longer), Err(Malformed), "{message:?}");
            }
            let mut unknown = bytes;
            unknown[42] = 99;
            assert_eq!(Message::decode(&unknown), Err(Malformed));
        }
    }
}
