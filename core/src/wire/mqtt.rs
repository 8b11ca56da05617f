//! MQTT 3.1.1 on the client's side, as far as signalling needs it.
//!
//! `mqttrs` without its feature `std` has at most five topics in a packet, of at most 256 bytes, and panics beyond. Another crate may
//! turn `std` on, so what is written here compiles with both forms, and keeps to the smaller one.

use core::fmt;
use core::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use mqttrs::{
    Connack, Connect, ConnectReturnCode, Packet, Pid, Protocol, Publish, QoS, QosPid, Subscribe,
    SubscribeReturnCodes, SubscribeTopic, Unsubscribe,
};

use super::guard::{self, GuardError, MQTT_MAX};
use crate::login::Login;

/// Most bytes of a topic that is subscribed to. Ours have at most 64.
const MAX_TOPIC: usize = 256;

/// Reason that a packet could not be made or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MqttError {
    /// A topic, client id or payload is too long.
    TooLong,
    /// The packet breaks a rule of the guard.
    Guard(GuardError),
    /// The codec could not read the packet.
    Malformed,
    /// A packet that a server never sends to a client like ours.
    Unexpected,
}

impl fmt::Display for MqttError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MqttError::TooLong => f.write_str("too long for an MQTT packet"),
            MqttError::Guard(why) => write!(f, "not an MQTT packet: {why}"),
            MqttError::Malformed => f.write_str("a malformed MQTT packet"),
            MqttError::Unexpected => f.write_str("a packet that no server sends here"),
        }
    }
}

impl std::error::Error for MqttError {
    /// Returns the rule that the packet breaks.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MqttError::Guard(why) => Some(why),
            _ => None,
        }
    }
}

/// Packet of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming<'a> {
    /// The answer to CONNECT (section 3.2).
    Connack {
        /// True if the session is up.
        accepted: bool,
        /// The return code; 0 is accepted.
        code: u8,
    },
    /// The answer to SUBSCRIBE (section 3.9).
    Suback {
        /// Id of the SUBSCRIBE.
        packet_id: NonZeroU16,
        /// Whether every topic was granted.
        granted: bool,
    },
    /// A message (section 3.3).
    Publish {
        /// Topic of the message.
        topic: &'a str,
        /// Content of the message.
        payload: &'a [u8],
        /// Id to acknowledge, at QoS 1.
        packet_id: Option<NonZeroU16>,
        /// True if the server may have sent the message before.
        dup: bool,
        /// True if the server kept the message from an earlier time.
        retain: bool,
    },
    /// The answer to UNSUBSCRIBE (section 3.11).
    Unsuback {
        /// Id of the UNSUBSCRIBE.
        packet_id: NonZeroU16,
    },
    /// The answer to PINGREQ (section 3.13).
    Pingresp,
}

/// Builds CONNECT with a clean session (section 3.1); `keep_alive` in seconds.
///
/// # Errors
/// `TooLong` for a client id, user name or password over 65,535 bytes, or a packet over 16 KiB.
pub fn connect(client_id: &str, keep_alive: u16, login: Option<&Login>) -> Result<Bytes, MqttError> {
    let user = login.map(|l| checked(l.user())).transpose()?;
    let password = login.and_then(Login::password).map(checked).transpose()?.map(str::as_bytes);
    encode(
        &Packet::Connect(Connect {
            protocol: Protocol::MQTT311,
            keep_alive,
            client_id: checked(client_id)?,
            clean_session: true,
            last_will: None,
            username: user,
            password,
        }),
        client_id.len() + user.map_or(0, str::len) + password.map_or(0, <[u8]>::len),
    )
}

/// Builds SUBSCRIBE to one topic at QoS 0 (section 3.8).
///
/// # Errors
/// `TooLong` for a topic over 256 bytes.
pub fn subscribe(packet_id: NonZeroU16, topic: &str) -> Result<Bytes, MqttError> {
    let topic_path = short(topic)?.parse().map_err(|_| MqttError::TooLong)?;
    let topics = [SubscribeTopic { topic_path, qos: QoS::AtMostOnce }].into_iter().collect();
    encode(&Packet::Subscribe(Subscribe::new(pid(packet_id), topics)), topic.len())
}

/// Builds UNSUBSCRIBE from one topic (section 3.10).
///
/// # Errors
/// `TooLong` for a topic over 256 bytes.
pub fn unsubscribe(packet_id: NonZeroU16, topic: &str) -> Result<Bytes, MqttError> {
    let topic_path = short(topic)?.parse().map_err(|_| MqttError::TooLong)?;
    let topics = [topic_path].into_iter().collect();
    encode(&Packet::Unsubscribe(Unsubscribe::new(pid(packet_id), topics)), topic.len())
}

/// Builds PUBLISH at QoS 0 (section 3.3); with `retain` the server keeps it for whoever subscribes later.
///
/// # Errors
/// `TooLong` if topic and payload do not fit a packet of 16 KiB.
pub fn publish(topic: &str, payload: &[u8], retain: bool) -> Result<Bytes, MqttError> {
    let qospid = QosPid::AtMostOnce;
    let packet = Publish { dup: false, qospid, retain, topic_name: checked(topic)?, payload };
    encode(&Packet::Publish(packet), topic.len() + payload.len())
}

/// Builds PUBACK (section 3.4).
pub fn puback(packet_id: NonZeroU16) -> Bytes {
    encode(&Packet::Puback(pid(packet_id)), 0).unwrap_or_default()
}

/// Builds PINGREQ (section 3.12).
pub fn pingreq() -> Bytes {
    encode(&Packet::Pingreq, 0).unwrap_or_default()
}

/// Builds DISCONNECT (section 3.14).
pub fn disconnect() -> Bytes {
    encode(&Packet::Disconnect, 0).unwrap_or_default()
}

/// Reads one packet that a server sent, whole and alone.
///
/// # Errors
/// [`MqttError`]: the connection is of no further use.
pub fn decode(packet: &[u8]) -> Result<Incoming<'_>, MqttError> {
    match guard::mqtt(packet) {
        Ok(Some(whole)) if whole == packet.len() => {}
        Ok(_) => return Err(MqttError::Malformed),
        Err(why) => return Err(MqttError::Guard(why)),
    }
    // The codec reads what clients send too, with topics of any length and number.
    if !packet.first().is_some_and(|first| matches!(first >> 4, 2 | 3 | 9 | 11 | 13)) {
        return Err(MqttError::Unexpected);
    }
    let id = |pid: Pid| NonZeroU16::new(pid.get()).ok_or(MqttError::Malformed);
    match mqttrs::decode_slice(packet).ok().flatten().ok_or(MqttError::Malformed)? {
        Packet::Connack(Connack { code, .. }) => {
            let code = match code {
                ConnectReturnCode::Accepted => 0,
                ConnectReturnCode::RefusedProtocolVersion => 1,
                ConnectReturnCode::RefusedIdentifierRejected => 2,
                ConnectReturnCode::ServerUnavailable => 3,
                ConnectReturnCode::BadUsernamePassword => 4,
                ConnectReturnCode::NotAuthorized => 5,
            };
            Ok(Incoming::Connack { accepted: code == 0, code })
        }
        Packet::Suback(suback) => Ok(Incoming::Suback {
            packet_id: id(suback.pid)?,
            granted: suback.return_codes.iter().all(|c| *c != SubscribeReturnCodes::Failure),
        }),
        Packet::Unsuback(pid) => Ok(Incoming::Unsuback { packet_id: id(pid)? }),
        Packet::Publish(p) => Ok(Incoming::Publish {
            topic: p.topic_name,
            payload: p.payload,
            packet_id: match p.qospid {
                QosPid::AtMostOnce => None,
                QosPid::AtLeastOnce(pid) => Some(id(pid)?),
                QosPid::ExactlyOnce(_) => return Err(MqttError::Unexpected),
            },
            dup: p.dup,
            retain: p.retain,
        }),
        Packet::Pingresp => Ok(Incoming::Pingresp),
        _ => Err(MqttError::Unexpected),
    }
}

/// Cuts a TCP stream into packets.
#[derive(Debug, Default)]
pub struct MqttSplitter {
    held: BytesMut,
    broken: Option<GuardError>,
}

impl MqttSplitter {
    /// Returns an empty splitter.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes of the stream; at most two packets of 16 KiB are held.
    ///
    /// # Errors
    /// [`GuardError`] once the stream cannot be MQTT, for ever.
    pub fn push(&mut self, data: &[u8]) -> Result<(), GuardError> {
        if let Some(why) = self.broken {
            return Err(why);
        }
        if self.held.len() + data.len() > 2 * MQTT_MAX {
            return Err(self.fail(GuardError { offset: self.held.len(), rule: guard::Rule::Size }));
        }
        self.held.extend_from_slice(data);
        Ok(())
    }

    /// Returns the next whole packet.
    ///
    /// # Errors
    /// [`GuardError`] once the stream cannot be MQTT, for ever.
    pub fn next_packet(&mut self) -> Result<Option<Bytes>, GuardError> {
        if let Some(why) = self.broken {
            return Err(why);
        }
        match guard::mqtt(&self.held) {
            Ok(whole) => Ok(whole.map(|n| self.held.split_to(n).freeze())),
            Err(why) => Err(self.fail(why)),
        }
    }

    fn fail(&mut self, why: GuardError) -> GuardError {
        self.broken = Some(why);
        self.held.clear();
        why
    }
}

fn checked(text: &str) -> Result<&str, MqttError> {
    // The codec cuts the length of longer strings and encodes nonsense.
    if text.len() <= usize::from(u16::MAX) { Ok(text) } else { Err(MqttError::TooLong) }
}

fn short(topic: &str) -> Result<&str, MqttError> {
    if topic.len() <= MAX_TOPIC { Ok(topic) } else { Err(MqttError::TooLong) }
}

fn pid(id: NonZeroU16) -> Pid {
    // Not zero, which is all that is asked.
    Pid::try_from(id.get()).unwrap_or_else(|_| Pid::new())
}

fn encode(packet: &Packet<'_>, variable: usize) -> Result<Bytes, MqttError> {
    const FIXED: usize = 32;
    let mut room = vec![0; variable + FIXED];
    let n = mqttrs::encode_slice(packet, &mut room).map_err(|_| MqttError::TooLong)?;
    if n > MQTT_MAX {
        return Err(MqttError::TooLong);
    }
    room.truncate(n);
    Ok(room.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: NonZeroU16 = NonZeroU16::new(0x1234).unwrap();

    #[test]
    fn packets_look_as_the_standard_says() {
        let expected = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x1e\x00\x02me";
        assert_eq!(connect("me", 30, None).as_deref(), Ok(&expected[..]));
        assert_eq!(subscribe(ID, "a/b").as_deref(), Ok(&b"\x82\x08\x12\x34\x00\x03a/b\x00"[..]));
        assert_eq!(publish("a", b"hi", false).as_deref(), Ok(&b"\x30\x05\x00\x01ahi"[..]));
        assert_eq!(publish("a", b"hi", true).map(|p| p[0]), Ok(0x31));
        assert_eq!(unsubscribe(ID, "a/b").as_deref(), Ok(&b"\xa2\x07\x12\x34\x00\x03a/b"[..]));
        assert_eq!(&puback(ID)[..], b"\x40\x02\x12\x34");
        assert_eq!(&pingreq()[..], b"\xc0\x00");
        assert_eq!(&disconnect()[..], b"\xe0\x00");
    }

    #[test]
    fn what_is_too_long_is_not_cut() {
        assert_eq!(connect(&"x".repeat(70_000), 30, None), Err(MqttError::TooLong));
        for (length, fits) in [(256, true), (257, false), (70_000, false)] {
            let topic = "x".repeat(length);
            assert_eq!(subscribe(ID, &topic).is_ok(), fits, "{length}");
            assert_eq!(unsubscribe(ID, &topic).is_ok(), fits, "{length}");
        }
        assert_eq!(publish("t", &[0; MQTT_MAX], false), Err(MqttError::TooLong));
        assert!(publish("t", &vec![0; MQTT_MAX - 10], false).is_ok());
    }

    /// In its smaller form the codec panics at these.
    #[test]
    fn packets_of_clients_do_not_reach_the_codec() {
        let topic = "x".repeat(300);
        let subscription = [&b"\x82\xb1\x02\x12\x34\x01\x2c"[..], topic.as_bytes(), b"\0"].concat();
        assert_eq!(guard::mqtt(&subscription), Ok(Some(subscription.len())));
        assert_eq!(decode(&subscription), Err(MqttError::Unexpected));
        let cancelled = [&b"\xa2\xb0\x02\x12\x34\x01\x2c"[..], topic.as_bytes()].concat();
        assert_eq!(decode(&cancelled), Err(MqttError::Unexpected));
        let protocol = [&b"\x10\x18\0\x0c"[..], b"MQTT or more", b"\x04\x02\0\x1e\0\x04name"].concat();
        assert_eq!(guard::mqtt(&protocol), Ok(Some(protocol.len())));
        assert_eq!(decode(&protocol), Err(MqttError::Unexpected));
    }

    #[test]
    fn answers_are_read_and_the_rest_is_unexpected() {
        let ok = Incoming::Connack { accepted: true, code: 0 };
        assert_eq!(decode(b"\x20\x02\x00\x00"), Ok(ok));
        assert_eq!(decode(b"\x20\x02\x00\x05"), Ok(Incoming::Connack { accepted: false, code: 5 }));
        assert_eq!(decode(b"\x90\x03\x12\x34\x01"), Ok(Incoming::Suback { packet_id: ID, granted: true }));
        assert_eq!(decode(b"\x90\x03\x12\x34\x80"), Ok(Incoming::Suback { packet_id: ID, granted: false }));
        assert_eq!(decode(b"\xb0\x02\x12\x34"), Ok(Incoming::Unsuback { packet_id: ID }));
        assert_eq!(decode(b"\xd0\x00"), Ok(Incoming::Pingresp));
        let publish =
            Incoming::Publish { topic: "a", payload: b"hi", packet_id: Some(ID), dup: false, retain: true };
        assert_eq!(decode(b"\x33\x07\x00\x01a\x12\x34hi"), Ok(publish));
        for unexpected in [&b"\xc0\x00"[..], b"\xe0\x00", b"\x34\x05\x00\x01a\x12\x34", b"\x40\x02\x12\x34"] {
            assert_eq!(decode(unexpected), Err(MqttError::Unexpected), "{unexpected:02x?}");
        }
        assert_eq!(decode(b"\xd0\x00\xd0\x00"), Err(MqttError::Malformed), "one at a time");
        assert!(decode(b"\x20\x02\x00\x09").is_err());
    }

    #[test]
    fn streams_are_split_the_same_wherever_they_are_cut() {
        let packets = [b"\x20\x02\x00\x00".to_vec(), publish("a", &[7; 300], false).unwrap().to_vec()];
        let stream = packets.concat();
        let split = |chunks: &[&[u8]]| {
            let (mut splitter, mut found) = (MqttSplitter::new(), Vec::new());
            for chunk in chunks {
                splitter.push(chunk).unwrap();
                while let Some(packet) = splitter.next_packet().unwrap() {
                    found.push(packet.to_vec());
                }
            }
            found
        };
        for cut in 0..=stream.len() {
            assert_eq!(split(&[&stream[..cut], &stream[cut..]]), packets);
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(split(&bytes), packets);
    }

    #[test]
    fn mutated_packets_never_panic() {
        let seeds: Vec<Vec<u8>> = vec![
            b"\x20\x02\x00\x00".to_vec(),
            b"\x90\x03\x12\x34\x01".to_vec(),
            publish("topic", b"payload", true).unwrap().to_vec(),
            connect("client", 30, None).unwrap().to_vec(),
            subscribe(ID, "a/b").unwrap().to_vec(),
            puback(ID).to_vec(),
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = move |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) as usize % n
        };
        for round in 0..300_000 {
            let mut packet = seeds[round % seeds.len()].clone();
            for _ in 0..=draw(4) {
                match draw(4) {
                    0 => packet.truncate(draw(packet.len() + 1)),
                    1 => packet.push(draw(256) as u8),
                    _ if !packet.is_empty() => {
                        let at = draw(packet.len());
                        packet[at] = draw(256) as u8;
                    }
                    _ => {}
                }
            }
            if packet.len() > 2 && round % 2 == 0 {
                packet[1] = (packet.len() - 2) as u8;
            }
            let _ = decode(&packet);
        }
    }
}
