//! Node ids and addresses, as texts.

use data_encoding::{BASE32_NOPAD, HEXLOWER};

use super::{Fields, alice, list, text};
use crate::address::{PeerAddress, PeerInterface};
use crate::identity::NodeId;

pub(super) fn not_ids() -> Vec<Fields> {
    let good = alice().node_id().to_string();
    let of = |low: u8, middle: u8, high: u8| {
        let mut key = [middle; 32];
        (key[0], key[31]) = (low, high);
        BASE32_NOPAD.encode(&key).to_lowercase()
    };
    let known = |key: &str| BASE32_NOPAD.encode(&HEXLOWER.decode(key.as_bytes()).unwrap()).to_lowercase();
    let texts = [
        ("51 characters", good[1..].to_string()),
        ("capital letters", good.to_uppercase()),
        ("a character that base32 has not", format!("{}1", &good[..51])),
        ("stray bits in the last character", format!("{}z", &good[..51])),
        ("0, of small order", of(0, 0, 0)),
        ("1, of small order", of(1, 0, 0)),
        ("of order 8", known("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")),
        ("of order 8, too", known("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")),
        ("the prime less 1, of small order", of(0xec, 0xff, 0x7f)),
        ("the prime, which is 0 again", of(0xed, 0xff, 0x7f)),
        ("9 with the top bit set", of(9, 0, 0x80)),
    ];
    let not = |(why, id): (&str, String)| {
        assert!(id.parse::<NodeId>().is_err(), "{why}: {id}");
        vec![("why", text(why)), ("text", text(id))]
    };
    texts.into_iter().map(not).collect()
}

pub(super) fn addresses() -> Vec<Fields> {
    let id = alice().node_id();
    let texts = [
        "0,1-[0,8.8.8.8,192.168.21.21,58959,3,2,0]-0-zmUGXPOFxBUuToh".to_string(),
        format!("None-0-0-{id}"),
        format!("65535-0-[3,2001:db8::1,fe80::1,10001,1,1,0]-{id}"),
        format!(
            "7,0-[0,203.0.113.9,10.0.0.7,80,6,4,65535]|[65535,203.0.113.9,10.0.1.7,1,7,6,0]-[0,2001:db8::7,2001:db8::7,65535,1,1,0]-{id}"
        ),
    ];
    let interface = |i: &PeerInterface| {
        list([
            i.index.to_string(),
            text(i.external),
            text(i.internal),
            i.port.to_string(),
            i.nat.number().to_string(),
            i.delta.kind.number().to_string(),
            i.delta.value.to_string(),
        ])
    };
    let vector = |written: String| {
        let address: PeerAddress = written.parse().unwrap();
        assert_eq!(address.to_string(), written);
        vec![
            ("text", text(&written)),
            ("brokers", list(address.brokers().iter().map(u16::to_string))),
            ("v4", list(address.v4().iter().map(interface))),
            ("v6", list(address.v6().iter().map(interface))),
            ("node", text(address.node())),
        ]
    };
    texts.into_iter().map(vector).collect()
}

pub(super) fn not_addresses() -> Vec<Fields> {
    let interface = |fields: &str| format!("0-[{fields}]-0-x");
    let texts = [
        format!("0-0-0-{}", "x".repeat(65)),
        "0-0-0-".into(),
        "0-0-0-a_b".into(),
        "0-0-x".into(),
        "0-0-0-x-y".into(),
        " 0-0-0-x".into(),
        "-0-0-x".into(),
        "none-0-0-x".into(),
        "00-0-0-x".into(),
        "+1-0-0-x".into(),
        "65536-0-0-x".into(),
        "1,1-0-0-x".into(),
        "1,2,3-0-0-x".into(),
        "0--0-x".into(),
        "0-0,8.8.8.8,10.0.0.1,80,1,1,0-0-x".into(),
        interface("0,8.8.8.8,10.0.0.1,80,1,1"),
        interface("0,8.8.8.8,10.0.0.1,80,1,1,0,0"),
        interface("0,8.8.8,10.0.0.1,80,1,1,0"),
        interface("0,08.8.8.8,10.0.0.1,80,1,1,0"),
        interface("0,::1,10.0.0.1,80,1,1,0"),
        interface("0,0.0.0.0,10.0.0.1,80,1,1,0"),
        interface("0,8.8.8.8,224.0.0.1,80,1,1,0"),
        interface("0,255.255.255.255,10.0.0.1,80,1,1,0"),
        interface("0,8.8.8.8,10.0.0.1,0,1,1,0"),
        interface("0,8.8.8.8,10.0.0.1,80,0,1,0"),
        interface("0,8.8.8.8,10.0.0.1,80,8,1,0"),
        interface("0,8.8.8.8,10.0.0.1,80,1,0,0"),
        interface("0,8.8.8.8,10.0.0.1,80,1,7,0"),
        interface("0,8.8.8.8,10.0.0.1,80,1,1,65536"),
        "0-0-[0,::ffff:8.8.8.8,fe80::1,80,1,1,0]-x".into(),
        "0-0-[0,ff02::1,fe80::1,80,1,1,0]-x".into(),
        "0-0-[0,2001:db8::1,fe80::1%2,80,1,1,0]-x".into(),
        interface("0,8.8.8.8,10.0.0.1,80,1,1,0]|[0,8.8.8.8,10.0.0.2,81,1,1,0"),
        interface(&(0..4).map(|n| format!("{n},8.8.8.8,10.0.0.1,80,1,1,0")).collect::<Vec<_>>().join("]|[")),
    ];
    let not = |written: String| {
        let why = written.parse::<PeerAddress>().expect_err(&written);
        vec![("why", text(why)), ("text", text(written))]
    };
    texts.into_iter().map(not).collect()
}
