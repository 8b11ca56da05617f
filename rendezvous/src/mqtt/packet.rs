//! A client's packets out of a byte stream, with checks before the codec reads their bodies, and a server's packets.
//!
//! Brokers of tests are written with it too: no other place in the project has a server's side of MQTT.

use mqtt_protocol_core::mqtt::packet::{Qos, v3_1_1};
pub use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, SubackReturnCode};

/// Reason why a client's stream cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than the limit, or its length is no variable byte integer.
    Length,
    /// A packet type that clients do not send, or wrong flags for it.
    Header,
    /// The body is not as its type asks for.
    Body,
    /// A CONNECT of MQTT 5.
    Version5,
    /// A CONNECT of another version.
    Version,
}

/// A client's packet.
#[derive(Debug)]
// Exhaustive: a broker has to know each.
pub enum Packet {
    /// The first one (section 3.1).
    Connect(v3_1_1::Connect),
    /// A message (section 3.3), of any QoS.
    Publish(v3_1_1::Publish),
    /// The acknowledgement of a message with this identifier (section 3.4).
    Puback(u16),
    /// Topics to follow (section 3.8).
    Subscribe(v3_1_1::Subscribe),
    /// Topics to follow no longer (section 3.10).
    Unsubscribe(v3_1_1::Unsubscribe),
    /// A sign of life (section 3.12).
    Pingreq,
    /// The farewell (section 3.14).
    Disconnect,
}

/// Cuts a stream into packets. Holds at most one incomplete packet of the size allowed.
#[derive(Debug)]
pub struct Framer {
    held: Vec<u8>,
    max: usize,
}

impl Framer {
    /// A framer that takes packets of so many bytes.
    pub fn new(max: usize) -> Self {
        Framer { held: Vec::new(), max }
    }

    /// Takes the next packet out of the held bytes and `data`, which shrinks by the bytes used.
    ///
    /// # Errors
    /// [`FrameError`]: the stream cannot go on.
    pub fn next(&mut self, data: &mut &[u8]) -> Result<Option<Packet>, FrameError> {
        loop {
            if let Some((header, whole)) = measure(&self.held)? {
                if whole > self.max {
                    return Err(FrameError::Length);
                }
                let missing = whole - self.held.len();
                let (taken, rest) = data.split_at(missing.min(data.len()));
                self.held.extend_from_slice(taken);
                *data = rest;
                if self.held.len() < whole {
                    return Ok(None);
                }
                let packet = parse(self.held[0], &self.held[header..]);
                // With its memory: a connection that sent a long packet once would keep it for an hour.
                self.held = Vec::new();
                return packet.map(Some);
            }
            // The header comes byte by byte: nothing behind it belongs to this packet for sure.
            let Some((first, rest)) = data.split_first() else { return Ok(None) };
            if self.held.is_empty() && !is_clients_header(*first) {
                return Err(FrameError::Header);
            }
            self.held.push(*first);
            *data = rest;
        }
    }
}

/// Builds CONNACK (section 3.2); `present` where a session of the client goes on.
pub fn connack(code: ConnectReturnCode, present: bool) -> Vec<u8> {
    let built = v3_1_1::Connack::builder().return_code(code).session_present(present).build();
    built.map(|packet| packet.to_continuous_buffer()).unwrap_or_default()
}

/// Builds PUBLISH (section 3.3): of QoS 1 with an identifier, and of QoS 0 without; `again` where the client may have it.
/// Empty for a topic that none may have.
pub fn publish(topic: &str, payload: &[u8], id: Option<u16>, again: bool, retain: bool) -> Vec<u8> {
    let builder = v3_1_1::Publish::builder().topic_name(topic).map(|b| b.payload(payload).retain(retain));
    let built = builder.and_then(|b| match id {
        Some(id) => b.qos(Qos::AtLeastOnce).packet_id(id).dup(again).build(),
        None => b.qos(Qos::AtMostOnce).build(),
    });
    built.map(|packet| packet.to_continuous_buffer()).unwrap_or_default()
}

/// Builds PUBACK (section 3.4).
pub fn puback(id: u16) -> Vec<u8> {
    let built = v3_1_1::Puback::builder().packet_id(id).build();
    built.map(|packet| packet.to_continuous_buffer()).unwrap_or_default()
}

/// Builds SUBACK (section 3.9), with a code for each topic.
pub fn suback(id: u16, codes: Vec<SubackReturnCode>) -> Vec<u8> {
    let built = v3_1_1::Suback::builder().packet_id(id).return_codes(codes).build();
    built.map(|packet| packet.to_continuous_buffer()).unwrap_or_default()
}

/// Builds UNSUBACK (section 3.11).
pub fn unsuback(id: u16) -> Vec<u8> {
    let built = v3_1_1::Unsuback::builder().packet_id(id).build();
    built.map(|packet| packet.to_continuous_buffer()).unwrap_or_default()
}

/// Builds PINGRESP (section 3.13).
pub fn pingresp() -> Vec<u8> {
    v3_1_1::Pingresp::new().to_continuous_buffer()
}

/// Length of the fixed header and of the whole packet, once they are known.
fn measure(bytes: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut length = 0;
    for (n, byte) in bytes.iter().skip(1).enumerate() {
        if n == 4 {
            return Err(FrameError::Length);
        }
        length |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Ok(Some((n + 2, n + 2 + length)));
        }
    }
    if bytes.len() > 4 { Err(FrameError::Length) } else { Ok(None) }
}

/// Returns true if a client's packet can begin with this byte: types and the flags they must have (MQTT 3.1.1 section
/// 2.2).
fn is_clients_header(first: u8) -> bool {
    matches!(first, 0x10 | 0x30..=0x3f | 0x40 | 0x82 | 0xa2 | 0xc0 | 0xe0)
}

/// A packet whose first byte [`is_clients_header`].
fn parse(first: u8, body: &[u8]) -> Result<Packet, FrameError> {
    let all = |used: usize| if used == body.len() { Ok(()) } else { Err(FrameError::Body) };
    let body_error = |_| FrameError::Body;
    match first >> 4 {
        1 => {
            check_connect(body)?;
            let (connect, used) = v3_1_1::Connect::parse(body).map_err(body_error)?;
            all(used)?;
            Ok(Packet::Connect(connect))
        }
        3 => {
            let (publish, used) = v3_1_1::Publish::parse(first & 0x0f, body.into()).map_err(body_error)?;
            all(used)?;
            Ok(Packet::Publish(publish))
        }
        4 => {
            let (puback, used) = v3_1_1::Puback::parse(body).map_err(body_error)?;
            all(used)?;
            Ok(Packet::Puback(puback.packet_id()))
        }
        8 => {
            let (subscribe, used) = v3_1_1::Subscribe::parse(body).map_err(body_error)?;
            all(used)?;
            Ok(Packet::Subscribe(subscribe))
        }
        10 => {
            let (unsubscribe, used) = v3_1_1::Unsubscribe::parse(body).map_err(body_error)?;
            all(used)?;
            Ok(Packet::Unsubscribe(unsubscribe))
        }
        12 => {
            all(0)?;
            Ok(Packet::Pingreq)
        }
        14 => {
            all(0)?;
            Ok(Packet::Disconnect)
        }
        _ => Err(FrameError::Header),
    }
}

/// Checks the parts of a CONNECT that the codec leaves unchecked (MQTT 3.1.1 sections 3.1.2.2 to 3.1.2.7).
fn check_connect(body: &[u8]) -> Result<(), FrameError> {
    let flags = match body {
        [0, 4, b'M', b'Q', b'T', b'T', 4, flags, ..] => flags,
        [0, 4, b'M', b'Q', b'T', b'T', 5, ..] => return Err(FrameError::Version5),
        // 3.1 called itself otherwise.
        [0, 4, b'M', b'Q', b'T', b'T', _, ..] | [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', _, ..] => {
            return Err(FrameError::Version);
        }
        _ => return Err(FrameError::Body),
    };
    let (will, qos, retain) = (flags & 4 != 0, (flags >> 3) & 3, flags & 0x20 != 0);
    if flags & 1 != 0 || qos == 3 || (!will && (qos != 0 || retain)) {
        return Err(FrameError::Body);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_packet_leaves_no_memory_behind() {
        let mut framer = Framer::new(20_000);
        let packet = [&[0x30, 0x80, 0x7d, 0, 1, b't'][..], &[7; 15_997]].concat();
        let mut data = &packet[..];
        assert!(matches!(framer.next(&mut data), Ok(Some(Packet::Publish(_)))));
        assert!(framer.held.capacity() < 100, "{}", framer.held.capacity());
    }
}
