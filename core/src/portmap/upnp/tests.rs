//! The mapper against devices written by hand, friendly and not.

use super::super::tests::{config, events, mapped, ms};
use super::super::*;
use super::*;

const GATEWAY: &str = "192.168.1.1:1900";
const V1: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
const V2: &str = "urn:schemas-upnp-org:service:WANIPConnection:2";

/// UPnP alone.
fn mapper() -> Mapper {
    Mapper::new(Config { pcp: false, nat_pmp: false, upnp: true, ..config() }, [5; 32], Instant::ZERO)
}

fn requests(mapper: &mut Mapper) -> Vec<Request> {
    core::iter::from_fn(|| mapper.poll_request()).collect()
}

fn found(mapper: &mut Mapper, now: Instant, from: &str, location: &str) {
    let text = format!(
        "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: {location}\r\n\r\n"
    );
    mapper.datagram(now, from.parse().unwrap(), text.as_bytes());
}

/// Opens the one stream that is asked for: its id and the request's first line and action.
fn opened(mapper: &mut Mapper, now: Instant) -> (StreamId, String) {
    let asked = requests(mapper);
    let connect = asked.iter().find_map(|r| match r {
        Request::Connect { stream, .. } => Some(*stream),
        _ => None,
    });
    let stream = connect.unwrap_or_else(|| panic!("{asked:?}"));
    mapper.connected(now, stream);
    let [Request::Send { data, .. }, Request::Read { .. }] = &requests(mapper)[..] else { panic!() };
    (stream, String::from_utf8(data.to_vec()).unwrap())
}

fn answer(mapper: &mut Mapper, now: Instant, stream: StreamId, code: u16, body: &str) {
    let text = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    mapper.received(now, stream, text.as_bytes());
}

fn description(urn: &str) -> String {
    format!("<root><service><serviceType>{urn}</serviceType><controlURL>/ctl</controlURL></service></root>")
}

fn response(action: &str, values: &[(&str, &str)]) -> String {
    let values: String = values.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
    format!("<e><b><u:{action}Response xmlns:u='x'>{values}</u:{action}Response></b></e>")
}

fn fault(code: u16) -> String {
    format!("<e><Fault><errorCode>{code}</errorCode></Fault></e>")
}

/// Answers the next call, which has to be this one.
fn call(mapper: &mut Mapper, now: Instant, action: &str, answered: Result<&[(&str, &str)], u16>) -> String {
    let (stream, text) = opened(mapper, now);
    assert!(text.contains(&format!("#{action}\"")), "{action}: {text}");
    match answered {
        Ok(values) => answer(mapper, now, stream, 200, &response(action, values)),
        Err(code) => answer(mapper, now, stream, 500, &fault(code)),
    }
    text
}

/// A mapper that asks a device of this version for TCP 4000 and knows its external address.
fn chosen(urn: &str) -> (Mapper, MapId) {
    let mut mapper = mapper();
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    assert_eq!(requests(&mut mapper).len(), 4, "two searches to two places");
    found(&mut mapper, ms(1), GATEWAY, "http://192.168.1.1:5000/root.xml");
    let (stream, text) = opened(&mut mapper, ms(1));
    assert!(text.starts_with("GET /root.xml HTTP/1.1\r\nHost: 192.168.1.1:5000\r\n"));
    answer(&mut mapper, ms(2), stream, 200, &description(urn));
    call(&mut mapper, ms(2), "GetExternalIPAddress", Ok(&[("NewExternalIPAddress", "9.9.9.9")]));
    (mapper, id)
}

const LOOK: &str = "GetSpecificPortMappingEntry";
const ADD: &str = "AddPortMapping";

fn failed(mapper: &mut Mapper, id: MapId, why: MapError) {
    assert_eq!(events(mapper), [Event::Failed { id, gateway: None, upnp: Some(why) }]);
}

#[test]
fn a_device_of_version_1_maps_renews_and_removes() {
    let (mut mapper, id) = chosen(V1);
    call(&mut mapper, ms(3), LOOK, Err(714));
    let text = call(&mut mapper, ms(4), ADD, Ok(&[]));
    assert!(text.contains("<NewLeaseDuration>7200</NewLeaseDuration>"));
    assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, "9.9.9.9:4000", 7200)]);
    requests(&mut mapper);
    // The search goes on beside it and ends.
    for at in [500, 1500, 3000] {
        assert_eq!(mapper.poll_timeout(), Some(ms(at)));
        mapper.handle_timeout(ms(at));
        requests(&mut mapper);
    }
    assert_eq!(mapper.poll_timeout(), Some(ms(3_600_004)));
    let half = ms(3_600_004);
    mapper.handle_timeout(half);
    call(&mut mapper, half, "GetExternalIPAddress", Ok(&[("NewExternalIPAddress", "9.9.9.8")]));
    call(&mut mapper, half, ADD, Ok(&[]));
    assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, "9.9.9.8:4000", 7200)], "another address");
    mapper.close(half);
    let text = call(&mut mapper, half, "DeletePortMapping", Ok(&[]));
    assert!(text.contains("<NewExternalPort>4000</NewExternalPort><NewProtocol>TCP</NewProtocol>"));
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: true }, Event::Closed]);
    assert_eq!(mapper.poll_timeout(), None);
}

#[test]
fn somebody_elses_port_is_left_alone() {
    let (mut mapper, id) = chosen(V1);
    let other = [("NewInternalClient", "192.168.1.9"), ("NewInternalPort", "4000")];
    call(&mut mapper, ms(3), LOOK, Ok(&other));
    let second = call(&mut mapper, ms(3), LOOK, Err(714));
    assert!(!second.contains("<NewExternalPort>4000<"));
    call(&mut mapper, ms(3), ADD, Err(718));
    let third = call(&mut mapper, ms(3), LOOK, Err(714));
    let port = third.split("NewExternalPort>").nth(1).and_then(|t| t.split('<').next()).unwrap();
    assert!(port.parse::<u16>().unwrap() >= 49_152);
    call(&mut mapper, ms(3), ADD, Ok(&[]));
    assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, &format!("9.9.9.9:{port}"), 7200)]);
    // Four ports are tried, no more.
    let (mut mapper, id) = chosen(V1);
    for _ in 0..4 {
        call(&mut mapper, ms(3), LOOK, Ok(&other));
    }
    failed(&mut mapper, id, MapError::Conflict);
    // Ours of an earlier run is taken over.
    let (mut mapper, id) = chosen(V1);
    call(&mut mapper, ms(3), LOOK, Ok(&[("NewInternalClient", "192.168.1.5"), ("NewInternalPort", "4000")]));
    call(&mut mapper, ms(3), ADD, Ok(&[]));
    assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, "9.9.9.9:4000", 7200)]);
}

#[test]
fn a_device_of_version_2_chooses_the_port() {
    let (mut mapper, id) = chosen(V2);
    call(&mut mapper, ms(3), LOOK, Ok(&[("NewInternalClient", "192.168.1.9"), ("NewInternalPort", "4000")]));
    call(&mut mapper, ms(3), "AddAnyPortMapping", Ok(&[("NewReservedPort", "4001")]));
    assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, "9.9.9.9:4001", 7200)]);
    let (mut mapper, id) = chosen(V2);
    call(&mut mapper, ms(3), LOOK, Err(714));
    call(&mut mapper, ms(3), "AddAnyPortMapping", Ok(&[]));
    failed(&mut mapper, id, MapError::BadAnswer);
    let (mut mapper, id) = chosen(V2);
    call(&mut mapper, ms(3), LOOK, Err(714));
    call(&mut mapper, ms(3), "AddAnyPortMapping", Err(401));
    call(&mut mapper, ms(3), ADD, Ok(&[]));
    assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, "9.9.9.9:4000", 7200)]);
}

#[test]
fn soap_errors_have_their_consequences() {
    for (code, why) in [
        (501, MapError::Other(501)),
        (606, MapError::NotAuthorized),
        (727, MapError::OnlyWholeAddress),
        (728, MapError::NoResources),
        (402, MapError::Other(402)),
    ] {
        let (mut mapper, id) = chosen(V1);
        call(&mut mapper, ms(3), LOOK, Err(714));
        call(&mut mapper, ms(3), ADD, Err(code));
        failed(&mut mapper, id, why);
    }
    // A lease without end is asked for where there is no other, and asked for again each hour.
    let (mut mapper, id) = chosen(V1);
    call(&mut mapper, ms(3), LOOK, Err(714));
    call(&mut mapper, ms(3), ADD, Err(725));
    let text = call(&mut mapper, ms(3), ADD, Ok(&[]));
    assert!(text.contains("<NewLeaseDuration>0</NewLeaseDuration>"));
    let external = "9.9.9.9:4000".parse().unwrap();
    let expected = Event::Mapped { id, way: Way::Upnp, external, lifetime: None, truth: Truth::Unchecked };
    assert_eq!(events(&mut mapper), [expected]);
    // 724: the ports have to be the same, and they are already.
    let (mut mapper, id) = chosen(V1);
    call(&mut mapper, ms(3), LOOK, Err(714));
    call(&mut mapper, ms(3), ADD, Err(724));
    failed(&mut mapper, id, MapError::Other(724));
}

#[test]
fn an_external_address_that_is_none_is_no_mapping() {
    let mut mapper = mapper();
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    requests(&mut mapper);
    found(&mut mapper, ms(1), GATEWAY, "http://192.168.1.1:5000/root.xml");
    let (stream, _) = opened(&mut mapper, ms(1));
    let ppp = "urn:schemas-upnp-org:service:WANPPPConnection:1";
    let both = format!("<r>{}{}</r>", description(ppp), description(V1));
    answer(&mut mapper, ms(2), stream, 200, &both);
    call(&mut mapper, ms(2), "GetExternalIPAddress", Ok(&[("NewExternalIPAddress", "0.0.0.0")]));
    let second = call(&mut mapper, ms(2), "GetExternalIPAddress", Ok(&[("NewExternalIPAddress", "x")]));
    assert!(second.contains("WANPPPConnection"), "the other service is asked");
    assert_eq!(events(&mut mapper), [], "another device may answer yet");
    for at in [500, 1500, 3000] {
        mapper.handle_timeout(ms(at));
    }
    failed(&mut mapper, id, MapError::NoNetwork);
}

#[test]
fn a_hostile_description_costs_its_cap_and_ends_there() {
    let big = "x".repeat(MAX_DESCRIPTION + 1);
    let laughs = "<!DOCTYPE a [<!ENTITY b \"ha\"><!ENTITY c \"&b;&b;\">]><a>&c;</a>";
    let deep = "<a>".repeat(10_000);
    for body in [laughs, &deep, "<root/>", &big] {
        let mut mapper = mapper();
        mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
        requests(&mut mapper);
        found(&mut mapper, ms(1), GATEWAY, "http://192.168.1.1:5000/root.xml");
        let (stream, _) = opened(&mut mapper, ms(1));
        answer(&mut mapper, ms(2), stream, 200, body);
        assert_eq!(requests(&mut mapper), [Request::Close { stream }], "{}", &body[..body.len().min(40)]);
    }
    // 10 MB without a length: what may be read is a cap.
    let mut mapper = mapper();
    mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    requests(&mut mapper);
    found(&mut mapper, ms(1), GATEWAY, "http://192.168.1.1:5000/root.xml");
    let [Request::Connect { stream, .. }] = requests(&mut mapper)[..] else { panic!() };
    mapper.connected(ms(1), stream);
    let credit = match requests(&mut mapper)[1] {
        Request::Read { credit, .. } => credit,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(credit, 73_728);
    mapper.received(ms(1), stream, b"HTTP/1.1 200 OK\r\n\r\n");
    let mut read = 0;
    while requests(&mut mapper).is_empty() {
        mapper.received(ms(1), stream, &[b'x'; 1000]);
        read += 1000;
        assert!(read < 100_000);
    }
    assert_eq!(read, 66_000);
}

#[test]
fn four_devices_at_most_and_the_gateway_has_a_place() {
    let mut mapper = mapper();
    mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    requests(&mut mapper);
    let connects = |mapper: &mut Mapper| {
        requests(mapper).iter().filter(|r| matches!(r, Request::Connect { .. })).count()
    };
    for host in 10..30 {
        let place = format!("192.168.1.{host}");
        found(&mut mapper, ms(1), &format!("{place}:1900"), &format!("http://{place}/x"));
        // Each answers often, too.
        found(&mut mapper, ms(1), &format!("{place}:1900"), &format!("http://{place}:81/y"));
    }
    assert_eq!(connects(&mut mapper), 3);
    found(&mut mapper, ms(1), GATEWAY, "http://192.168.1.1/x");
    assert_eq!(connects(&mut mapper), 1);
    found(&mut mapper, ms(1), "9.9.9.9:1900", "http://9.9.9.9/x");
    assert_eq!((connects(&mut mapper), mapper.stats().strangers), (0, 2 * 17 + 1));
}

#[test]
fn a_device_that_is_silent_is_waited_for_three_seconds_and_the_gateway_is_preferred() {
    let mut mapper = mapper();
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    requests(&mut mapper);
    // Another device is there first, and ready.
    found(&mut mapper, ms(1), "192.168.1.9:1900", "http://192.168.1.9/x");
    let (stream, _) = opened(&mut mapper, ms(1));
    answer(&mut mapper, ms(1), stream, 200, &description(V1));
    call(&mut mapper, ms(1), "GetExternalIPAddress", Ok(&[("NewExternalIPAddress", "6.6.6.6")]));
    // The gateway answers the search and then says nothing, byte by byte.
    found(&mut mapper, ms(2), GATEWAY, "http://192.168.1.1/x");
    let (slow, _) = opened(&mut mapper, ms(2));
    let mut closed = vec![];
    while let Some(due) = mapper.poll_timeout().filter(|at| *at <= ms(3002)) {
        mapper.received(due, slow, b"H");
        mapper.handle_timeout(due);
        closed.extend(requests(&mut mapper).into_iter().filter(|r| !matches!(r, Request::Datagram { .. })));
    }
    let [Request::Connect { stream, to }, Request::Close { stream: given_up }] = closed[..] else {
        panic!("{closed:?}");
    };
    assert_eq!((to.to_string(), given_up), ("192.168.1.9:80".into(), slow), "when the search was over");
    mapper.connected(ms(3002), stream);
    requests(&mut mapper);
    answer(&mut mapper, ms(3002), stream, 500, &fault(714));
    call(&mut mapper, ms(3002), ADD, Ok(&[]));
    assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, "6.6.6.6:4000", 7200)]);
}

#[test]
fn the_first_way_is_kept_and_the_others_removed_unless_they_are_the_same() {
    for (external, same) in [("9.9.9.9", true), ("6.6.6.6", false)] {
        let mut mapper = Mapper::new(Config { upnp: true, ..config() }, [5; 32], Instant::ZERO);
        let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
        let Request::Datagram { data: asked, .. } = requests(&mut mapper).remove(0) else { panic!() };
        found(&mut mapper, ms(1), GATEWAY, "http://192.168.1.1:5000/root.xml");
        let (stream, _) = opened(&mut mapper, ms(1));
        answer(&mut mapper, ms(2), stream, 200, &description(V1));
        call(&mut mapper, ms(2), "GetExternalIPAddress", Ok(&[("NewExternalIPAddress", external)]));
        let granted = super::super::pcp::answer(&asked, 0, 600, 7, "9.9.9.9:4000".parse().unwrap());
        mapper.datagram(ms(3), "192.168.1.1:5351".parse().unwrap(), &granted);
        call(&mut mapper, ms(3), LOOK, Err(714));
        call(&mut mapper, ms(3), ADD, Ok(&[]));
        assert_eq!(events(&mut mapper), [mapped(id, Way::Pcp, "9.9.9.9:4000", 600)]);
        if same {
            let asked = requests(&mut mapper);
            assert!(
                matches!(asked[..], [Request::Close { .. }]),
                "to remove it would remove ours: {asked:?}"
            );
        } else {
            call(&mut mapper, ms(4), "DeletePortMapping", Ok(&[]));
        }
    }
}

#[test]
fn what_is_taken_back_while_it_is_asked_for_does_not_stay() {
    let (mut mapper, id) = chosen(V1);
    call(&mut mapper, ms(3), LOOK, Err(714));
    let (stream, _) = opened(&mut mapper, ms(3));
    mapper.unmap(ms(3), id);
    assert_eq!(events(&mut mapper), []);
    answer(&mut mapper, ms(4), stream, 200, &response(ADD, &[]));
    call(&mut mapper, ms(4), "DeletePortMapping", Ok(&[]));
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: true }]);
    // And a device that does not answer holds no shutdown up for longer than 6 s.
    let (mut mapper, id) = chosen(V1);
    mapper.close(ms(5));
    while let Some(due) = mapper.poll_timeout() {
        assert!(due <= ms(6005));
        mapper.handle_timeout(due);
    }
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: true }, Event::Closed]);
}

/// PCP has been asked and is silent, or asked and answers: who opened the port says whether it is closed.
#[test]
fn a_way_that_opened_nothing_has_no_say_in_whether_the_port_is_closed() {
    for (deleted, confirmed) in [(Ok(&[][..]), true), (Err(501), false)] {
        for pcp_answers in [false, true] {
            let mut mapper = Mapper::new(Config { upnp: true, ..config() }, [5; 32], Instant::ZERO);
            let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
            requests(&mut mapper);
            found(&mut mapper, ms(1), GATEWAY, "http://192.168.1.1:5000/root.xml");
            let (stream, _) = opened(&mut mapper, ms(1));
            answer(&mut mapper, ms(2), stream, 200, &description(V1));
            call(&mut mapper, ms(2), "GetExternalIPAddress", Ok(&[("NewExternalIPAddress", "9.9.9.9")]));
            call(&mut mapper, ms(3), LOOK, Err(714));
            call(&mut mapper, ms(4), ADD, Ok(&[]));
            assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, "9.9.9.9:4000", 7200)]);
            requests(&mut mapper);
            mapper.close(ms(5));
            let asked = requests(&mut mapper);
            let pcp = asked.iter().find_map(|r| match r {
                Request::Datagram { data, .. } if data.len() == 60 => Some(data.clone()),
                _ => None,
            });
            let Some(Request::Connect { stream, .. }) =
                asked.iter().find(|r| matches!(r, Request::Connect { .. }))
            else {
                panic!("{asked:?}")
            };
            mapper.connected(ms(5), *stream);
            match deleted {
                Ok(values) => {
                    answer(&mut mapper, ms(6), *stream, 200, &response("DeletePortMapping", values))
                }
                Err(code) => answer(&mut mapper, ms(6), *stream, 500, &fault(code)),
            }
            assert_eq!(events(&mut mapper), [], "what PCP may still grant is waited for");
            if pcp_answers {
                let none = "0.0.0.0:0".parse().unwrap();
                let gone = super::super::pcp::answer(&pcp.unwrap(), 0, 0, 7, none);
                mapper.datagram(ms(7), "192.168.1.1:5351".parse().unwrap(), &gone);
            } else {
                while let Some(due) = mapper.poll_timeout() {
                    assert!(due <= ms(1755), "three questions and what is waited for the last");
                    mapper.handle_timeout(due);
                }
            }
            assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed }, Event::Closed]);
        }
    }
}

#[test]
fn a_table_is_listed_and_what_others_left_is_removed() {
    let (mut mapper, _) = chosen(V1);
    call(&mut mapper, ms(3), LOOK, Err(606));
    call(&mut mapper, ms(3), ADD, Ok(&[]));
    events(&mut mapper);
    mapper.list(ms(4));
    let entry = [
        ("NewExternalPort", "7"),
        ("NewProtocol", "UDP"),
        ("NewInternalPort", "8"),
        ("NewInternalClient", "192.168.1.9"),
        ("NewPortMappingDescription", "a&#9;\u{202e}b"),
        ("NewLeaseDuration", "60"),
    ];
    call(&mut mapper, ms(4), "GetGenericPortMappingEntry", Ok(&entry));
    call(&mut mapper, ms(4), "GetGenericPortMappingEntry", Ok(&[]));
    call(&mut mapper, ms(4), "GetGenericPortMappingEntry", Err(713));
    let internal = "192.168.1.9:8".parse().unwrap();
    let listed =
        Listed { protocol: Protocol::Udp, external: 7, internal, lease: 60, description: "ab".into() };
    assert_eq!(events(&mut mapper), [Event::Listed(listed), Event::ListEnd(Ok(()))]);
    let id = mapper.forget(ms(5), Protocol::Udp, 7).unwrap();
    let text = call(&mut mapper, ms(5), "DeletePortMapping", Err(606));
    assert!(text.contains("<NewExternalPort>7</NewExternalPort><NewProtocol>UDP</NewProtocol>"));
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: false }]);
}

#[test]
fn pinholes_for_ipv6_are_opened_prolonged_and_closed() {
    let config = Config {
        gateway: Some("fe80::1".parse().unwrap()),
        zone: 3,
        pcp: false,
        ..Config::new("2a00::5".parse().unwrap(), 64)
    };
    let mut mapper = Mapper::new(config, [5; 32], Instant::ZERO);
    let id = mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
    requests(&mut mapper);
    found(&mut mapper, ms(1), "[fe80::1%3]:1900", "http://[fe80::1]:5000/root.xml");
    let (stream, _) = opened(&mut mapper, ms(1));
    let firewall = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1";
    let both = format!("<r>{}{}</r>", description(V1), description(firewall));
    answer(&mut mapper, ms(2), stream, 200, &both);
    let allowed = [("FirewallEnabled", "1"), ("InboundPinholeAllowed", "1")];
    call(&mut mapper, ms(2), "GetFirewallStatus", Ok(&allowed));
    let text = call(&mut mapper, ms(2), "AddPinhole", Ok(&[("UniqueID", "42")]));
    assert!(
        text.contains(
            "<InternalClient>2a00::5</InternalClient><InternalPort>4000</InternalPort><Protocol>6<"
        )
    );
    assert_eq!(events(&mut mapper), [mapped(id, Way::Upnp, "[2a00::5]:4000", 7200)]);
    for at in [500, 1500, 3000] {
        mapper.handle_timeout(ms(at));
        requests(&mut mapper);
    }
    let half = ms(3_600_002);
    mapper.handle_timeout(half);
    call(&mut mapper, half, "GetFirewallStatus", Ok(&allowed));
    let text = call(&mut mapper, half, "UpdatePinhole", Ok(&[]));
    assert!(text.contains("<UniqueID>42</UniqueID><NewLeaseTime>7200</NewLeaseTime>"));
    assert_eq!((events(&mut mapper), mapper.stats().renewed), (vec![], 1));
    // A router that started again has forgotten it.
    let half = ms(7_200_002);
    mapper.handle_timeout(half);
    call(&mut mapper, half, "GetFirewallStatus", Ok(&allowed));
    call(&mut mapper, half, "UpdatePinhole", Err(704));
    call(&mut mapper, half, "AddPinhole", Ok(&[("UniqueID", "43")]));
    assert_eq!((events(&mut mapper), mapper.stats().renewed), (vec![], 2));
    mapper.unmap(half, id);
    let text = call(&mut mapper, half, "DeletePinhole", Ok(&[]));
    assert!(text.contains("<UniqueID>43</UniqueID>"));
    assert_eq!(events(&mut mapper), [Event::Removed { id, confirmed: true }]);
}

/// A router's answers, changed in any place: the mapper goes on and its deadline moves.
#[test]
fn mutated_routers_break_nothing() {
    let mut dice = Random::new([3; 32]);
    let mut below = |most: u64| dice.below(Domain::BackOff, most) as usize;
    let (mut mapped, mut refused) = (0, 0);
    for _ in 0..2_000 {
        let mut mapper = Mapper::new(Config { upnp: true, ..config() }, [5; 32], Instant::ZERO);
        mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
        let mut now = Instant::ZERO;
        let mut spoil = |mut bytes: Vec<u8>| {
            for _ in 0..below(4) {
                let at = below(bytes.len() as u64);
                match below(3) {
                    0 => bytes[at] = below(256) as u8,
                    1 => bytes.truncate(at + 1),
                    _ => bytes.insert(at, b"<>\"'&=\r\n0"[below(9)]),
                }
            }
            bytes
        };
        let ssdp = "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
                    LOCATION: http://192.168.1.1:5000/root.xml\r\n\r\n";
        for _ in 0..60 {
            for request in requests(&mut mapper) {
                match request {
                    Request::Datagram { to, data } if to.port() == 5351 && data.len() == 60 => {
                        let external = "9.9.9.9:4000".parse().unwrap();
                        let bytes = spoil(super::super::pcp::answer(&data, 0, 600, 7, external));
                        mapper.datagram(now, to, &bytes);
                    }
                    Request::Datagram { to, .. } if to.to_string() == GATEWAY => {
                        mapper.datagram(now, to, &spoil(ssdp.into()));
                    }
                    Request::Connect { stream, .. } => mapper.connected(now, stream),
                    Request::Send { stream, data } => {
                        let body = match str::from_utf8(&data).unwrap() {
                            text if text.starts_with("GET") => description(V1),
                            text if text.contains("#GetExternalIPAddress") => {
                                response("GetExternalIPAddress", &[("NewExternalIPAddress", "9.9.9.9")])
                            }
                            text if text.contains("#AddPortMapping") => response(ADD, &[]),
                            _ => fault(714),
                        };
                        let code = if body.contains("Fault") { 500 } else { 200 };
                        let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n", body.len());
                        mapper.received(now, stream, &spoil((head + &body).into()));
                        mapper.ended(now, stream);
                    }
                    _ => {}
                }
            }
            match mapper.poll_timeout().filter(|at| *at < ms(60_000)) {
                Some(due) => now = due.max(now),
                None => break,
            }
            mapper.handle_timeout(now);
            assert!(mapper.poll_timeout().is_none_or(|next| next > now), "{mapper:?}");
        }
        for event in events(&mut mapper) {
            match event {
                Event::Mapped { .. } => mapped += 1,
                Event::Failed { .. } => refused += 1,
                _ => {}
            }
        }
    }
    assert!(mapped > 1_000 && refused > 5, "{mapped} {refused}");
}

#[test]
fn a_shutdown_ends_in_time_however_slow_the_device_is() {
    let (mut mapper, first) = chosen(V1);
    call(&mut mapper, ms(3), LOOK, Err(714));
    call(&mut mapper, ms(3), ADD, Ok(&[]));
    for port in 4001..4004 {
        mapper.map(ms(3), Protocol::Tcp, port, port).unwrap();
        call(&mut mapper, ms(3), LOOK, Err(714));
        call(&mut mapper, ms(3), ADD, Ok(&[]));
    }
    assert_eq!(events(&mut mapper).len(), 4);
    for at in [500, 1500, 3000] {
        mapper.handle_timeout(ms(at));
    }
    requests(&mut mapper);
    mapper.close(ms(5000));
    // Each removal is answered, shortly before it would be given up.
    for n in 1..=2 {
        let (stream, _) = opened(&mut mapper, ms(5000 + (n - 1) * 2900));
        answer(&mut mapper, ms(5000 + n * 2900), stream, 200, &response("DeletePortMapping", &[]));
    }
    let said = events(&mut mapper);
    assert_eq!((said.len(), &said[0]), (2, &Event::Removed { id: first, confirmed: true }));
    assert_eq!(mapper.poll_timeout(), Some(ms(11_000)));
    requests(&mut mapper);
    mapper.handle_timeout(ms(11_000));
    let said = events(&mut mapper);
    assert!(matches!(
        said[..],
        [Event::Removed { confirmed: false, .. }, Event::Removed { confirmed: false, .. }, Event::Closed]
    ));
    assert_eq!(mapper.poll_timeout(), None);
}

#[test]
fn a_lease_without_end_is_lost_when_the_device_is() {
    let (mut mapper, id) = chosen(V1);
    call(&mut mapper, ms(3), LOOK, Err(714));
    call(&mut mapper, ms(3), ADD, Err(725));
    call(&mut mapper, ms(3), ADD, Ok(&[]));
    assert!(matches!(events(&mut mapper)[..], [Event::Mapped { lifetime: None, .. }]));
    while mapper.poll_timeout().is_some_and(|at| at < ms(3_000_000)) {
        mapper.handle_timeout(mapper.poll_timeout().unwrap());
    }
    requests(&mut mapper);
    let hour = ms(3_600_003);
    assert_eq!(mapper.poll_timeout(), Some(hour));
    mapper.handle_timeout(hour);
    let (stream, _) = opened(&mut mapper, hour);
    mapper.ended(hour, stream);
    // Nobody knows whether it is there, and a device is searched for anew.
    assert_eq!(events(&mut mapper), [Event::Lost { id }]);
    let searches = requests(&mut mapper).iter().filter(|r| matches!(r, Request::Datagram { .. })).count();
    assert_eq!(searches, 4);
}
