//! Exchanges of meetings.

use super::{Fields, alice, bob, hex, text};
use crate::meeting::{Code, sample};
use crate::pipe::ProtocolTag;

pub(super) fn meetings() -> Vec<Fields> {
    let address = |n: u8, id| format!("1-[0,198.51.100.{n},10.0.0.7,80,1,1,0]-0-{id}");
    let addresses = [address(7, alice().node_id()), address(8, bob().node_id())];
    let vector = |(code, purpose): (&str, &str)| {
        let code: Code = code.parse().unwrap();
        let topic = code.topic(&ProtocolTag::new(purpose.as_bytes()).unwrap());
        let mut fields = vec![
            ("code", text(code)),
            ("purpose", text(purpose)),
            ("topic", text(&topic)),
            ("host_address", text(&addresses[0])),
            ("guest_address", text(&addresses[1])),
        ];
        let values = sample(&code, &topic, [&addresses[0], &addresses[1]]);
        fields.extend(values.into_iter().map(|(name, bytes)| (name, hex(&bytes))));
        fields
    };
    [("7-guitar-oxygen", "p2pd file"), ("999-yo-yo-zucchini", "p2pd pair")].map(vector).into()
}
