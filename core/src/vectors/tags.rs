//! Tags by which nodes are found in a network.

use super::{Fields, alice, bob, hex, text};
use crate::lan::Tag;

pub(super) fn tags() -> Vec<Fields> {
    let vector = |(key, salt): (crate::identity::SecretKey, [u8; 10])| {
        let tag = Tag::new(&key.node_id(), salt);
        vec![
            ("public", hex(key.node_id().as_bytes())),
            ("salt", hex(&salt)),
            ("tag", text(tag)),
            ("host", text(tag.host())),
        ]
    };
    [(alice(), [7; 10]), (alice(), *b"other salt"), (bob(), [7; 10])].into_iter().map(vector).collect()
}
