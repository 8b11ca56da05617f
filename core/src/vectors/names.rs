//! Topics and records of names.

use super::{Fields, alice, bob, hex, text};
use crate::identity::SecretKey;
use crate::name::{Name, Record};

const EXPIRY: u64 = 1_700_086_400;

pub(super) fn names() -> Vec<Fields> {
    let vector = |name: &str| {
        let name: Name = name.parse().unwrap();
        vec![("name", text(name.as_str())), ("topic", text(name.topic()))]
    };
    ["example", "a", "0-9"].into_iter().map(vector).collect()
}

fn record(of: &SecretKey, sequence: u64, address: Option<String>) -> Record {
    Record {
        name: "example".parse().unwrap(),
        id: of.node_id(),
        sequence,
        expiry: EXPIRY,
        address: address.map(|a| Box::new(a.parse().unwrap())),
    }
}

/// Each record, and whether it is one.
pub(super) fn records() -> Vec<Fields> {
    let address = |key: &SecretKey| format!("1-[0,198.51.100.7,10.0.0.7,80,1,1,0]-0-{}", key.node_id());
    let mut out = Vec::new();
    let mut put = |name: &str, by: &SecretKey, record: &Record, bytes: &[u8], valid: bool| {
        assert_eq!(Record::decode(bytes).is_ok_and(|read| read == *record), valid, "{name}");
        out.push(vec![
            ("name", text(name)),
            ("secret", hex(by.as_bytes())),
            ("id", text(record.id)),
            ("sequence", record.sequence.to_string()),
            ("expiry", record.expiry.to_string()),
            ("of", text(record.name.as_str())),
            ("address", text(record.address.as_ref().map(|a| a.to_string()).unwrap_or_default())),
            ("valid", valid.to_string()),
            ("bytes", hex(bytes)),
        ]);
    };
    for (name, key) in [("by alice", alice()), ("by bob, whose signing key is the other one", bob())] {
        let record = record(&key, 5, Some(address(&key)));
        put(name, &key, &record, &record.encode(&key), true);
    }
    let gone = record(&alice(), u64::MAX, None);
    put("given up", &alice(), &gone, &gone.encode(&alice()), true);
    let forged = record(&alice(), 5, Some(address(&alice())));
    put("signed by another node", &bob(), &forged, &forged.encode(&bob()), false);
    let others = record(&alice(), 5, Some(address(&bob())));
    put("the address of another node", &alice(), &others, &others.encode(&alice()), false);
    let good = forged.encode(&alice());
    let mut changed = good.to_vec();
    changed[0] = 2;
    put("of version 2", &alice(), &forged, &changed, false);
    put("something follows", &alice(), &forged, &[&good[..], b"x"].concat(), false);
    put("cut off", &alice(), &forged, &good[..good.len() - 1], false);
    out
}
