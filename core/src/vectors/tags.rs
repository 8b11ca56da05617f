//! Tags by which nodes are found in a network.

use std::net::IpAddr;

use super::{Fields, alice, bob, hex, text};
use crate::identity::SecretKey;
use crate::lan::Tag;
use crate::time::WallTime;

/// Time of the signatures, which a reader takes as it is.
const TIME: WallTime = WallTime::from_micros(1_700_000_000_123_456);

pub(super) fn tags() -> Vec<Fields> {
    let vector = |(key, ip, port, salt): (SecretKey, &str, u16, [u8; 10])| {
        let ip: IpAddr = ip.parse().unwrap();
        let tag = Tag::new(&key.node_id(), (ip, port), salt);
        vec![
            ("public", hex(key.node_id().as_bytes())),
            ("ip", text(ip)),
            ("port", port.to_string()),
            ("salt", hex(&salt)),
            ("tag", text(tag)),
            ("host", text(tag.host())),
            ("secret", hex(key.as_bytes())),
            ("time", TIME.as_micros().to_string()),
            ("s", text(tag.sign(&key, TIME))),
        ]
    };
    let of = [
        (alice(), "192.168.7.9", 40404, [7; 10]),
        (alice(), "fd07::9", 40404, *b"other salt"),
        (bob(), "169.254.1.1", 1, [7; 10]),
    ];
    of.into_iter().map(vector).collect()
}
