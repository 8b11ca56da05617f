//! The STUN server, asked by stun_codec, the core's codec.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytecodec::{DecodeExt, EncodeExt};
use p2pd_rendezvous::stun::{Limits, Reply, Server, Sites, Stream};
use stun_codec::rfc5389::attributes::{
    ErrorCode, Fingerprint, UnknownAttributes, Username, XorMappedAddress,
};
use stun_codec::rfc5389::methods::BINDING;
use stun_codec::rfc5780::attributes::{ChangeRequest, OtherAddress, ResponseOrigin};
use stun_codec::{Message, MessageClass, MessageDecoder, MessageEncoder, TransactionId};

stun_codec::define_attribute_enums!(
    Known,
    KnownDecoder,
    KnownEncoder,
    [
        ChangeRequest,
        ErrorCode,
        Fingerprint,
        OtherAddress,
        ResponseOrigin,
        UnknownAttributes,
        Username,
        XorMappedAddress
    ]
);

const CHANGE_REQUEST: u16 = 3;
const NOW: Duration = Duration::from_secs(7);
fn id() -> TransactionId {
    TransactionId::new([7; 12])
}

fn request(attributes: Vec<Known>) -> Vec<u8> {
    let mut message = Message::<Known>::new(MessageClass::Request, BINDING, id());
    for attribute in attributes {
        message.add_attribute(attribute);
    }
    MessageEncoder::new().encode_into_bytes(message).unwrap()
}

fn answer(reply: &Reply) -> Message<Known> {
    let message = MessageDecoder::<Known>::new().decode_from_bytes(&reply.data).unwrap().unwrap();
    assert_eq!((message.method(), message.transaction_id()), (BINDING, id()));
    message
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn two(a: &str, b: &str) -> Server {
    let ips: [IpAddr; 2] = [a.parse().unwrap(), b.parse().unwrap()];
    Server::new(Sites::Two { ips, ports: [3478, 3479] }, Limits::default())
}

fn mapped(message: &Message<Known>) -> Option<SocketAddr> {
    message.get_attribute::<XorMappedAddress>().map(|a| a.address())
}

#[test]
fn a_binding_request_learns_its_source() {
    for (local, from) in
        [("192.0.2.1:3478", "198.51.100.9:50000"), ("[2001:db8::1]:3478", "[2001:db8::9]:50000")]
    {
        let mut server = Server::new(Sites::One, Limits::default());
        let reply = server.datagram(NOW, addr(local), addr(from), &request(vec![])).unwrap();
        assert_eq!((reply.from, reply.to), (addr(local), addr(from)));
        let answer = answer(&reply);
        assert_eq!(answer.class(), MessageClass::SuccessResponse);
        assert_eq!(mapped(&answer), Some(addr(from)));
        assert!(answer.get_attribute::<ResponseOrigin>().is_none(), "it did not ask");
        assert!(answer.get_attribute::<OtherAddress>().is_none(), "there is one address only");
    }
    // Bound to any address, it does not know its own.
    let asked = request(vec![ChangeRequest::new(false, false).into()]);
    let mut server = Server::new(Sites::One, Limits::default());
    let reply = server.datagram(NOW, addr("0.0.0.0:3478"), addr("192.0.2.7:5"), &asked).unwrap();
    assert!(answer(&reply).get_attribute::<ResponseOrigin>().is_none());
}

#[test]
fn change_request_answers_from_the_other_sockets() {
    for (a, b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let at = |ip: &str, port: u16| SocketAddr::new(ip.parse().unwrap(), port);
        let from = at(if a.contains(':') { "2001:db8::9" } else { "198.51.100.9" }, 50_000);
        for (local, change, origin) in [
            (at(a, 3478), (false, false), at(a, 3478)),
            (at(a, 3478), (false, true), at(a, 3479)),
            (at(a, 3478), (true, false), at(b, 3478)),
            (at(a, 3478), (true, true), at(b, 3479)),
            (at(b, 3479), (true, true), at(a, 3478)),
        ] {
            let asked = request(vec![ChangeRequest::new(change.0, change.1).into()]);
            let reply = two(a, b).datagram(NOW, local, from, &asked).unwrap();
            assert_eq!((reply.from, reply.to), (origin, from), "{local} {change:?}");
            let answer = answer(&reply);
            assert_eq!(mapped(&answer), Some(from));
            assert_eq!(answer.get_attribute::<ResponseOrigin>().map(|a| a.address()), Some(origin));
            let other = at(if local.ip() == at(a, 0).ip() { b } else { a }, 3478 + 3479 - local.port());
            assert_eq!(answer.get_attribute::<OtherAddress>().map(|a| a.address()), Some(other), "{local}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_answered_420_with_its_type() {
    let refused = |reply: Reply, kind: u16| {
        let answer = answer(&reply);
        assert_eq!(answer.class(), MessageClass::ErrorResponse);
        assert_eq!(answer.get_attribute::<ErrorCode>().map(|e| e.code()), Some(420));
        let unknown = answer.get_attribute::<UnknownAttributes>().unwrap();
        assert_eq!(unknown.unknowns().iter().map(|t| t.as_u16()).collect::<Vec<_>>(), [kind]);
    };
    let (local, from) = (addr("192.0.2.1:3478"), addr("198.51.100.9:50000"));
    let change = request(vec![ChangeRequest::new(true, false).into()]);
    let mut one = Server::new(Sites::One, Limits::default());
    refused(one.datagram(NOW, local, from, &change).unwrap(), CHANGE_REQUEST);
    // PRIORITY, of ICE.
    let mut ice = request(vec![]);
    ice[3] = 8;
    ice.extend([0, 0x24, 0, 4, 1, 2, 3, 4]);
    refused(one.datagram(NOW, local, from, &ice).unwrap(), 0x24);
    // Over TCP nothing can come from elsewhere.
    let mut server = two("192.0.2.1", "192.0.2.2");
    let mut stream = Stream::new(NOW, local, from);
    let answers = stream.receive(&mut server, NOW, &change);
    assert!(!answers.close);
    refused(Reply { from: local, to: from, data: answers.data[0].clone() }, CHANGE_REQUEST);
    assert_eq!(one.stats().refused, 2);
    // Names of an optional kind and credentials are passed over.
    let named = request(vec![Username::new("me".into()).unwrap().into()]);
    assert_eq!(mapped(&answer(&one.datagram(NOW, local, from, &named).unwrap())), Some(from));
}

/// A request of RFC 3489 with these attributes.
fn classic(attributes: &[u8]) -> Vec<u8> {
    [&[0, 1, 0, attributes.len() as u8][..], b"0123456789abcdef", attributes].concat()
}

#[test]
fn requests_without_a_cookie_are_answered_in_clear() {
    let (local, from) = (addr("192.0.2.1:3478"), addr("198.51.100.9:50000"));
    let mapped = [0, 1, 0, 8, 0, 1, 0xc3, 0x50, 198, 51, 100, 9];
    let source =
        |last, port: u16| [&[0, 4, 0, 8, 0, 1][..], &port.to_be_bytes(), &[192, 0, 2, last]].concat();
    let changed = [0, 5, 0, 8, 0, 1, 0x0d, 0x97, 192, 0, 2, 2];
    let answer = |attributes: &[u8]| {
        [&[1, 1, 0, attributes.len() as u8][..], b"0123456789abcdef", attributes].concat()
    };
    let mut one = Server::new(Sites::One, Limits::default());
    let reply = one.datagram(NOW, local, from, &classic(&[])).unwrap();
    assert_eq!((reply.from, reply.to, &reply.data[..]), (local, from, &answer(&mapped)[..]));
    let mut server = two("192.0.2.1", "192.0.2.2");
    let reply = server.datagram(NOW, local, from, &classic(&[])).unwrap();
    assert_eq!(reply.data[..], answer(&[mapped, changed].concat()));
    for (flags, origin) in [(0, local), (2, addr("192.0.2.1:3479")), (6, addr("192.0.2.2:3479"))] {
        let reply = server.datagram(NOW, local, from, &classic(&[0, 3, 0, 4, 0, 0, 0, flags])).unwrap();
        let last = if flags & 4 == 0 { 1 } else { 2 };
        let expected = [&mapped[..], &source(last, origin.port()), &changed].concat();
        assert_eq!((reply.from, &reply.data[..]), (origin, &answer(&expected)[..]), "{flags}");
    }
    // What cannot be done, and RESPONSE-ADDRESS, which would send the answer to somebody else.
    let refused = |kind| {
        [
            &[1, 0x11, 0, 16][..],
            b"0123456789abcdef",
            &[0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 4, 0, kind, 0, kind],
        ]
        .concat()
    };
    let reply = one.datagram(NOW, local, from, &classic(&[0, 3, 0, 4, 0, 0, 0, 6])).unwrap();
    assert_eq!(reply.data[..], refused(3));
    let reply =
        server.datagram(NOW, local, from, &classic(&[0, 2, 0, 8, 0, 1, 0, 9, 203, 0, 113, 9])).unwrap();
    assert_eq!((reply.to, &reply.data[..]), (from, &refused(2)[..]));
    assert_eq!((one.stats().answered, one.stats().refused), (1, 1));
    // Over TCP, and of an IPv6 address.
    let mut stream = Stream::new(NOW, addr("[2001:db8::1]:3478"), addr("[2001:db8::9]:5"));
    let answers = stream.receive(&mut one, NOW, &classic(&[]));
    let mapped = [&[0, 1, 0, 20, 0, 2, 0, 5, 0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[9]].concat();
    assert_eq!((answers.close, &answers.data[0][..]), (false, &answer(&mapped)[..]));
}

#[test]
fn an_answer_is_hardly_longer_than_its_request() {
    let on_wire = |payload: usize| (payload + 28) as f64;
    let (local, from) = (addr("192.0.2.1:3478"), addr("198.51.100.9:50000"));
    let factor = |mut server: Server, asked: &[u8]| {
        let reply = server.datagram(NOW, local, from, asked).unwrap();
        on_wire(reply.data.len()) / on_wire(asked.len())
    };
    let one = || Server::new(Sites::One, Limits::default());
    let change = request(vec![ChangeRequest::new(true, true).into()]);
    assert_eq!(factor(one(), &request(vec![])), 1.25);
    assert_eq!(factor(two("192.0.2.1", "192.0.2.2"), &request(vec![])), 1.5);
    assert_eq!(factor(two("192.0.2.1", "192.0.2.2"), &change), 1.5);
    assert!(factor(one(), &change) < 1.25, "it is refused");
    for many in 1..=32_u16 {
        let mut unknown = request(vec![]);
        unknown[3] = 4 * many as u8;
        (0..many).for_each(|n| unknown.extend([0x70, n as u8, 0, 0]));
        assert!(factor(one(), &unknown) < 1.25, "{many}");
    }
}

#[test]
fn a_flood_in_anothers_name_brings_it_no_more_bytes_than_were_sent() {
    for (local, from, headers) in
        [("192.0.2.1:3478", "198.51.100.9:50000", 28), ("[2001:db8::1]:3478", "[2001:db8::9]:5", 48)]
    {
        let mut server = Server::new(Sites::One, Limits { per_source: 1000, total: 100_000 });
        let asked = request(vec![]);
        let (mut sent, mut answered) = (0, 0);
        for n in 0..10_000_u64 {
            let reply = server.datagram(NOW + Duration::from_millis(n), addr(local), addr(from), &asked);
            sent += headers + asked.len();
            answered += reply.map_or(0, |reply| headers + reply.data.len());
        }
        assert!(answered <= sent + 4096 + 10 * 256, "{answered} for {sent}");
        assert!(answered > sent * 9 / 10, "{answered} for {sent}");
    }
}

#[test]
fn a_fingerprint_is_checked_and_answered_with_one() {
    let (local, from) = (addr("192.0.2.1:3478"), addr("198.51.100.9:50000"));
    let mut server = Server::new(Sites::One, Limits::default());
    let mut message = Message::<Known>::new(MessageClass::Request, BINDING, id());
    message.add_attribute(Fingerprint::new(&message).unwrap());
    let mut asked = MessageEncoder::new().encode_into_bytes(message).unwrap();
    let reply = server.datagram(NOW, local, from, &asked).unwrap();
    let answer = answer(&reply);
    assert!(answer.get_attribute::<Fingerprint>().is_some(), "stun_codec has verified it");
    asked[25] ^= 1;
    assert!(server.datagram(NOW, local, from, &asked).is_none());
}

#[test]
fn what_is_no_request_gets_no_answer() {
    let (local, from) = (addr("192.0.2.1:3478"), addr("198.51.100.9:50000"));
    let good = request(vec![]);
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        bytes
    };
    let mut many = with(&|b| b.extend([0x80, 0x22, 0, 0].repeat(300)));
    many[2..4].copy_from_slice(&1200_u16.to_be_bytes());
    let cases = [
        ("empty", vec![]),
        ("half a header", good[..10].to_vec()),
        ("trailing bytes", with(&|b| b.push(0))),
        ("length too long", with(&|b| b[3] = 4)),
        ("no cookie, and a length that is no attribute", {
            let mut bytes = with(&|b| b.extend([0, 1, 0]));
            (bytes[3], bytes[4]) = (3, 9);
            bytes
        }),
        ("a response", with(&|b| b[0] = 1)),
        ("an indication", with(&|b| b[1] = 0x11)),
        ("another method", with(&|b| b[1] = 3)),
        ("leading bits", with(&|b| b[0] |= 0x40)),
        ("300 attributes", many),
        ("an attribute that ends behind the message", {
            let mut bytes = with(&|b| b.extend([0x80, 0x22, 0, 9, 0, 0, 0, 0]));
            bytes[3] = 8;
            bytes
        }),
    ];
    let mut server = Server::new(Sites::One, Limits::default());
    for (n, (what, bytes)) in cases.iter().enumerate() {
        assert_eq!(server.datagram(NOW, local, from, bytes), None, "{what}");
        assert_eq!(server.stats().malformed, n as u64 + 1, "{what}");
    }
    assert!(server.datagram(NOW, local, from, &good).is_some());
}

#[test]
fn a_source_that_asks_too_often_is_not_answered() {
    let limits = Limits { per_source: 10, total: 1000 };
    let mut server = Server::new(Sites::One, limits);
    let (local, asked) = (addr("192.0.2.1:3478"), request(vec![]));
    let mut count = |from: &str, now| {
        (0..100).filter(|_| server.datagram(now, local, addr(from), &asked).is_some()).count()
    };
    assert_eq!(count("198.51.100.9:50000", NOW), 40);
    assert_eq!(count("198.51.100.9:50001", NOW), 0, "by address, not by port");
    assert_eq!(count("198.51.100.8:50000", NOW), 40);
    assert_eq!(count("198.51.100.9:50000", NOW + Duration::from_secs(1)), 10);
    // Sources beyond those remembered share one rate; the rest of the world cannot make it forget any.
    let mut server = Server::new(Sites::One, Limits { per_source: 10, total: 1_000_000 });
    for n in 0..10_000_u32 {
        let from = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 9));
        server.datagram(NOW, local, from, &asked);
    }
    assert_eq!(server.stats().answered, 4096 + 40);
}

#[test]
fn requests_in_a_stream_are_answered_wherever_it_is_cut() {
    let (local, from) = (addr("192.0.2.1:3478"), addr("198.51.100.9:50000"));
    let named = request(vec![Username::new("somebody".into()).unwrap().into()]);
    let bytes = [request(vec![]), named, request(vec![])].concat();
    for size in 1..=bytes.len() {
        let mut server = Server::new(Sites::One, Limits::default());
        let mut stream = Stream::new(NOW, local, from);
        let mut got = Vec::new();
        for piece in bytes.chunks(size) {
            let answers = stream.receive(&mut server, NOW, piece);
            assert!(!answers.close, "{size}");
            got.extend(answers.data);
        }
        assert_eq!(got.len(), 3, "{size}");
        for data in got {
            assert_eq!(mapped(&answer(&Reply { from: local, to: from, data })), Some(from));
        }
    }
}

#[test]
fn a_stream_that_is_no_stun_is_closed_at_its_first_byte_or_length() {
    let (local, from) = (addr("192.0.2.1:3478"), addr("198.51.100.9:50000"));
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x00\x01\xff\xff", b"\xff"] {
        let mut server = Server::new(Sites::One, Limits::default());
        let mut stream = Stream::new(NOW, local, from);
        let mut closed = false;
        for byte in bytes {
            closed |= stream.receive(&mut server, NOW, &[*byte]).close;
        }
        let more = stream.receive(&mut server, NOW, &[0; 2000]);
        assert!(closed || more.close, "{bytes:?}");
        assert!(more.data.is_empty());
    }
    let mut server = Server::new(Sites::One, Limits { per_source: 1, total: 100 });
    let mut stream = Stream::new(NOW, local, from);
    let answers = stream.receive(&mut server, NOW, &request(vec![]).repeat(5));
    assert_eq!((answers.data.len(), answers.close), (4, true), "asks too often");
    assert_eq!(stream.deadline(), NOW + Duration::from_secs(600));
}

#[test]
fn an_ipv4_client_of_a_socket_for_both_families_is_told_its_ipv4_address() {
    let mut server = Server::new(Sites::One, Limits { per_source: 1, total: 100 });
    let (local, asked) = (addr("[::]:3478"), request(vec![]));
    let from = addr("[::ffff:198.51.100.9]:50000");
    let reply = server.datagram(NOW, local, from, &asked).unwrap();
    assert_eq!(reply.to, from, "the socket's own form of it");
    assert_eq!(mapped(&answer(&reply)), Some(addr("198.51.100.9:50000")));
    let mut stream = Stream::new(NOW, addr("[::ffff:192.0.2.1]:3478"), from);
    let data = stream.receive(&mut server, NOW, &asked).data.remove(0);
    let answer = answer(&Reply { from: local, to: from, data });
    assert_eq!(mapped(&answer), Some(addr("198.51.100.9:50000")));
    assert_eq!(answer.get_attribute::<ResponseOrigin>().map(|a| a.address()), Some(addr("192.0.2.1:3478")));
    let other = addr("[::ffff:198.51.100.8]:50000");
    let count = |server: &mut Server, from| {
        (0..9).filter(|_| server.datagram(NOW, local, from, &asked).is_some()).count()
    };
    assert_eq!((count(&mut server, from), count(&mut server, other)), (2, 4), "IPv4 addresses are not one");
}

#[test]
fn an_ipv6_network_is_one_source() {
    let mut server = Server::new(Sites::One, Limits { per_source: 1, total: 100 });
    let (local, asked) = (addr("[2001:db8::1]:3478"), request(vec![]));
    let mut count = |from: &dyn Fn(u16) -> SocketAddr| {
        (0..20).filter(|n| server.datagram(NOW, local, from(*n), &asked).is_some()).count()
    };
    assert_eq!(count(&|n| addr(&format!("[2001:db8:0:9::{n:x}]:5"))), 4);
    assert_eq!(count(&|n| addr(&format!("[2001:db8:{n:x}:8::1]:5"))), 20);
}

#[test]
fn a_stream_lives_by_requests_and_not_by_bytes() {
    let (local, from) = (addr("192.0.2.1:3478"), addr("198.51.100.9:50000"));
    let mut server = Server::new(Sites::One, Limits::default());
    let mut stream = Stream::new(NOW, local, from);
    let (asked, until) = (request(vec![]), stream.deadline());
    assert_eq!(until, NOW + Duration::from_secs(30));
    let later = NOW + Duration::from_secs(20);
    assert!(!stream.receive(&mut server, later, &asked[..19]).close);
    assert_eq!(stream.deadline(), until, "half a request is none");
    assert_eq!(stream.receive(&mut server, later, &asked[19..]).data.len(), 1);
    assert_eq!(stream.deadline(), later + Duration::from_secs(600), "a client may keep its NAT awake by it");
}

quickcheck::quickcheck! {
    fn damaged_requests_never_hurt(edits: Vec<(u16, u8)>, cut: u16) -> bool {
        let mut bytes = request(vec![
            ChangeRequest::new(true, true).into(),
            Username::new("somebody".into()).unwrap().into(),
        ]);
        for (at, value) in edits {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - usize::from(cut) % bytes.len() / 8);
        let mut server = two("192.0.2.1", "192.0.2.2");
        let reply = server.datagram(NOW, addr("192.0.2.1:3478"), addr("198.51.100.9:50000"), &bytes);
        reply.is_none_or(|r| r.data.len() <= 200 && r.to == addr("198.51.100.9:50000"))
    }
}
