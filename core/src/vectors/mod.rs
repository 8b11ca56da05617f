//! Test vectors of the protocol: `docs/src/protocol/vectors.json`, which the pages beside it refer to.
//!
//! The vectors are made by the code that nodes run, with fixed keys and entropy. A change of what goes over a wire
//! therefore shows here. `P2PD_WRITE_VECTORS=1 cargo test -p p2pd-core --lib vectors` writes the file anew.

mod addresses;
mod meetings;
mod messages;
mod names;
mod relays;
mod sessions;
mod streams;
mod tags;

use std::fmt::Write;
use std::net::SocketAddr;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use data_encoding::HEXLOWER;

use crate::identity::SecretKey;
use crate::pipe::ProtocolTag;
use crate::session::SessionId;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors.json");

/// Two nodes. The first has the higher id; their signing keys have different sign bits.
fn alice() -> SecretKey {
    SecretKey::from_bytes([1; 32])
}

fn bob() -> SecretKey {
    SecretKey::from_bytes([3; 32])
}

const SESSION: SessionId = SessionId(*b"session of alice");
const OTHER_SESSION: SessionId = SessionId(*b"a session of bob");

/// Ephemeral secret that a handshake draws from this entropy. An implementation may draw it as it likes.
fn ephemeral(entropy: [u8; 32]) -> [u8; 32] {
    let mut hash = Blake2s::<U32>::new();
    hash.update(entropy);
    hash.update(0_u64.to_be_bytes());
    hash.finalize().into()
}

/// Names of one vector's values, and the values as JSON.
type Fields = Vec<(&'static str, String)>;

fn hex(bytes: &[u8]) -> String {
    format!("\"{}\"", HEXLOWER.encode(bytes))
}

/// Text of printable ASCII, which is all that the vectors have.
fn text(text: impl ToString) -> String {
    let text = text.to_string();
    assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// A value that has no lines of its own.
fn line(fields: &Fields) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    format!("{{ {} }}", fields.join(", "))
}

/// A list of values, each on a line.
fn lines(items: &[Fields]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("        {}", line(item))).collect();
    if items.is_empty() { "[]".into() } else { format!("[\n{}\n      ]", items.join(",\n")) }
}

fn endpoint(at: SocketAddr) -> String {
    text(at)
}

fn protocol(tag: Option<ProtocolTag>) -> String {
    hex(tag.as_ref().map_or(&[], |tag| tag.as_bytes()))
}

fn nodes() -> Vec<Fields> {
    let node = |(name, key): (&str, SecretKey)| {
        vec![
            ("name", text(name)),
            ("secret", hex(key.as_bytes())),
            ("public", hex(key.node_id().as_bytes())),
            ("id", text(key.node_id())),
            ("topic", text(key.node_id().topic())),
        ]
    };
    [("alice", alice()), ("bob", bob())].into_iter().map(node).collect()
}

fn whole() -> String {
    let groups: [(&str, Vec<Fields>); 16] = [
        ("nodes", nodes()),
        ("not_ids", addresses::not_ids()),
        ("addresses", addresses::addresses()),
        ("not_addresses", addresses::not_addresses()),
        ("messages", messages::messages()),
        ("not_messages", messages::not_messages()),
        ("envelopes", messages::envelopes()),
        ("hellos", streams::hellos()),
        ("openings", sessions::openings()),
        ("sessions", sessions::sessions()),
        ("knocks", relays::knocks()),
        ("relays", relays::relays()),
        ("names", names::names()),
        ("records", names::records()),
        ("meetings", meetings::meetings()),
        ("tags", tags::tags()),
    ];
    let mut out = String::from("{\n");
    for (n, (group, vectors)) in groups.iter().enumerate() {
        let vectors: Vec<String> = vectors
            .iter()
            .map(|fields| {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("      \"{name}\": {value}")).collect();
                format!("    {{\n{}\n    }}", fields.join(",\n"))
            })
            .collect();
        let comma = if n + 1 < groups.len() { "," } else { "" };
        let _ = writeln!(out, "  \"{group}\": [\n{}\n  ]{comma}", vectors.join(",\n"));
    }
    out.push_str("}\n");
    out
}

#[test]
fn nothing_on_the_wire_has_changed() {
    let made = whole();
    if std::env::var_os("P2PD_WRITE_VECTORS").is_some() {
        std::fs::write(FILE, &made).unwrap();
    }
    let kept = std::fs::read_to_string(FILE).unwrap();
    for (n, (made, kept)) in made.lines().zip(kept.lines()).enumerate() {
        assert_eq!(made, kept, "vectors.json, line {}; P2PD_WRITE_VECTORS=1 writes it anew", n + 1);
    }
    assert_eq!(made.len(), kept.len(), "vectors.json; P2PD_WRITE_VECTORS=1 writes it anew");
}
