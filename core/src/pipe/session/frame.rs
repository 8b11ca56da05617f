//! Frames of a session on its carriers.
//!
//! ```text
//! numbered: kept until the peer has them, the same on every carrier
//! OPEN      1  stream u32, length u8, tag              a stream begins; its protocol tag
//! DATA      2  stream u32, length u16, bytes
//! FIN       3  stream u32                              the stream's bytes end
//! RESET     4  stream u32, code u32                    the stream's bytes are given up
//! STOP      5  stream u32, code u32                    the stream's bytes are not wanted
//! CREDIT    6  stream u32, limit u64                   so many bytes may be sent in all
//! STREAMS   7  limit u32                               so many streams may be opened in all
//! of one carrier
//! HAVE     16  received u64                            first on each carrier: numbered frames received so far
//! FROM     17  number u64                              the next numbered frame here has this number
//! ACK      18  received u64
//! PING     19  number u32
//! PONG     20  number u32
//! USE      21  count u32                               of the caller: send here from now on
//! DATAGRAM 22  length u16, bytes
//! CLOSE    23  code u32, length u8, reason             the session is over
//! GONE     24                                          the session is not known
//! ```
//! Numbers are big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::{MAX_DATA, MAX_DATAGRAM, StreamId, Violation};

/// Bytes of a DATA frame before its data.
pub(super) const DATA_HEADER: usize = 1 + 4 + 2;
/// Bytes of the longest header.
const MAX_HEADER: usize = 1 + 4 + 8;
/// Number of the first kind of frame that belongs to one carrier.
const FIRST_OF_CARRIER: u8 = 16;

/// Bytes behind a header, as they came: in one piece mostly.
pub(super) type Body = SmallVec<[Bytes; 2]>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    Open(StreamId, Bytes),
    Data(StreamId, Body),
    Fin(StreamId),
    Reset(StreamId, u32),
    Stop(StreamId, u32),
    Credit(StreamId, u64),
    Streams(u32),
    Have(u64),
    From(u64),
    Ack(u64),
    Ping(u32),
    Pong(u32),
    Use(u32),
    Datagram(Bytes),
    Close(u32, Bytes),
    Gone,
}

impl Frame {
    /// Appends the frame.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind());
        match self {
            Frame::Open(id, tag) => {
                out.put_u32(id.0);
                // Tags and reasons are 255 bytes at most: their makers see to it.
                out.put_u8(tag.len() as u8);
                out.put_slice(tag);
            }
            Frame::Data(id, body) => {
                out.put_u32(id.0);
                out.put_u16(body.iter().map(Bytes::len).sum::<usize>() as u16);
                body.iter().for_each(|piece| out.put_slice(piece));
            }
            Frame::Fin(id) => out.put_u32(id.0),
            Frame::Reset(id, code) | Frame::Stop(id, code) => {
                out.put_u32(id.0);
                out.put_u32(*code);
            }
            Frame::Credit(id, limit) => {
                out.put_u32(id.0);
                out.put_u64(*limit);
            }
            Frame::Streams(n) | Frame::Ping(n) | Frame::Pong(n) | Frame::Use(n) => out.put_u32(*n),
            Frame::Have(n) | Frame::From(n) | Frame::Ack(n) => out.put_u64(*n),
            Frame::Datagram(data) => {
                out.put_u16(data.len() as u16);
                out.put_slice(data);
            }
            Frame::Gone => {}
            Frame::Close(code, reason) => {
                out.put_u32(*code);
                out.put_u8(reason.len() as u8);
                out.put_slice(reason);
            }
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Open(..) => 1,
            Frame::Data(..) => 2,
            Frame::Fin(_) => 3,
            Frame::Reset(..) => 4,
            Frame::Stop(..) => 5,
            Frame::Credit(..) => 6,
            Frame::Streams(_) => 7,
            Frame::Have(_) => 16,
            Frame::From(_) => 17,
            Frame::Ack(_) => 18,
            Frame::Ping(_) => 19,
            Frame::Pong(_) => 20,
            Frame::Use(_) => 21,
            Frame::Datagram(_) => 22,
            Frame::Close(..) => 23,
            Frame::Gone => 24,
        }
    }

    /// Returns true for a frame that is numbered, and kept until the peer has it.
    pub(super) fn is_numbered(&self) -> bool {
        self.kind() < FIRST_OF_CARRIER
    }

    /// Returns the frame with this header and these bytes behind it.
    fn read(mut header: &[u8], mut body: Body) -> Frame {
        let mut whole = || match body.len() {
            0 => Bytes::new(),
            1 => body.remove(0),
            _ => body
                .iter()
                .fold(BytesMut::new(), |mut all, piece| {
                    all.put_slice(piece);
                    all
                })
                .freeze(),
        };
        let h = &mut header;
        match h.get_u8() {
            1 => Frame::Open(StreamId(h.get_u32()), whole()),
            2 => Frame::Data(StreamId(h.get_u32()), body),
            3 => Frame::Fin(StreamId(h.get_u32())),
            4 => Frame::Reset(StreamId(h.get_u32()), h.get_u32()),
            5 => Frame::Stop(StreamId(h.get_u32()), h.get_u32()),
            6 => Frame::Credit(StreamId(h.get_u32()), h.get_u64()),
            7 => Frame::Streams(h.get_u32()),
            16 => Frame::Have(h.get_u64()),
            17 => Frame::From(h.get_u64()),
            18 => Frame::Ack(h.get_u64()),
            19 => Frame::Ping(h.get_u32()),
            20 => Frame::Pong(h.get_u32()),
            21 => Frame::Use(h.get_u32()),
            22 => Frame::Datagram(whole()),
            23 => Frame::Close(h.get_u32(), whole()),
            _ => Frame::Gone,
        }
    }
}

/// Writes the header of a DATA frame into the room before its data.
pub(super) fn put_data_header(frame: &mut [u8], id: StreamId) {
    let length = (frame.len() - DATA_HEADER) as u16;
    frame[0] = 2;
    frame[1..5].copy_from_slice(&id.0.to_be_bytes());
    frame[5..DATA_HEADER].copy_from_slice(&length.to_be_bytes());
}

/// Returns the length of a header, its kind included.
fn header_length(kind: u8) -> Result<usize, Violation> {
    Ok(1 + match kind {
        1 | 23 => 4 + 1,
        2 => 4 + 2,
        3 | 7 | 19..=21 => 4,
        4 | 5 => 4 + 4,
        6 => 4 + 8,
        16..=18 => 8,
        22 => 2,
        24 => 0,
        kind => return Err(Violation::UnknownFrame(kind)),
    })
}

/// Returns the number of bytes behind a whole header.
fn body_length(header: &[u8]) -> Result<usize, Violation> {
    let long = || u16::from_be_bytes([header[header.len() - 2], header[header.len() - 1]]);
    let within = |length: u16, least: usize, most: usize| match usize::from(length) {
        n if (least..=most).contains(&n) => Ok(n),
        _ => Err(Violation::Length(length)),
    };
    match header[0] {
        1 | 23 => Ok(header[header.len() - 1].into()),
        2 => within(long(), 1, MAX_DATA),
        22 => within(long(), 0, MAX_DATAGRAM),
        _ => Ok(0),
    }
}

/// Parser of a carrier's bytes, in any cuts. Holds one header, and references to the bytes of one body.
#[derive(Debug, Default)]
pub(super) struct Parser {
    header: SmallVec<[u8; MAX_HEADER]>,
    body: Body,
    /// Bytes of the body that are still to come, once the header is whole.
    left: Option<usize>,
}

impl Parser {
    /// Takes one frame off the front of `input`; `None` if that is used up.
    ///
    /// # Errors
    /// The rule that the peer broke.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Frame>, Violation> {
        if self.left.is_none() {
            let Some(kind) = self.header.first().or(input.first()) else { return Ok(None) };
            let missing = header_length(*kind)? - self.header.len();
            let n = missing.min(input.len());
            self.header.extend_from_slice(&input[..n]);
            input.advance(n);
            if n < missing {
                return Ok(None);
            }
            self.left = Some(body_length(&self.header)?);
        }
        let mut left = self.left.unwrap_or(0);
        if left > 0 && !input.is_empty() {
            let piece = input.split_to(left.min(input.len()));
            left -= piece.len();
            // Many small pieces would hold more than their bytes.
            match self.body.last_mut() {
                Some(last) if last.len() + piece.len() < 2048 => *last = [&last[..], &piece].concat().into(),
                _ => self.body.push(piece),
            }
            self.left = Some(left);
        }
        if left > 0 {
            return Ok(None);
        }
        let frame = Frame::read(&self.header, core::mem::take(&mut self.body));
        self.header.clear();
        self.left = None;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let id = StreamId(0x0102_0304);
        vec![
            Frame::Have(7),
            Frame::From(u64::MAX),
            Frame::Open(id, Bytes::from_static(b"chat/1")),
            Frame::Open(id, Bytes::from(vec![9; 255])),
            Frame::Data(id, Body::from_iter([Bytes::from(vec![5; MAX_DATA])])),
            Frame::Fin(id),
            Frame::Reset(id, u32::MAX),
            Frame::Stop(id, 1),
            Frame::Credit(id, 1 << 40),
            Frame::Streams(12),
            Frame::Ack(3),
            Frame::Ping(4),
            Frame::Pong(5),
            Frame::Use(6),
            Frame::Datagram(Bytes::new()),
            Frame::Datagram(Bytes::from(vec![1; MAX_DATAGRAM])),
            Frame::Close(8, Bytes::from_static(b"why")),
            Frame::Gone,
        ]
    }

    #[test]
    fn frames_come_back_however_they_are_cut() {
        let mut wire = Vec::new();
        frames().iter().for_each(|frame| frame.put(&mut wire));
        for cut in [1, 2, 3, 7, 1000, 2047, 2049, 16_384, wire.len()] {
            let (mut parser, mut got) = (Parser::default(), Vec::new());
            for piece in wire.chunks(cut) {
                let mut piece = Bytes::copy_from_slice(piece);
                while let Some(mut frame) = parser.next(&mut piece).unwrap() {
                    if let Frame::Data(_, body) = &mut frame {
                        assert!(body.len() <= MAX_DATA / 1024, "{cut}: {} pieces", body.len());
                        *body = Body::from_iter([Bytes::from(body.concat())]);
                    }
                    got.push(frame);
                }
            }
            assert_eq!(got, frames(), "{cut}");
        }
    }

    #[test]
    fn a_header_in_place_is_the_frames_own() {
        let mut data = vec![0; DATA_HEADER];
        data.extend_from_slice(b"hello");
        put_data_header(&mut data, StreamId(77));
        let mut frame = Vec::new();
        Frame::Data(StreamId(77), Body::from_iter([Bytes::from_static(b"hello")])).put(&mut frame);
        assert_eq!(data, frame);
    }

    #[test]
    fn what_is_not_a_frame_is_said_to_be_none() {
        let parse = |bytes: &[u8]| Parser::default().next(&mut Bytes::copy_from_slice(bytes)).err();
        for kind in [0, 8, 15, 25, 255] {
            assert_eq!(parse(&[kind]), Some(Violation::UnknownFrame(kind)));
        }
        let data = |length: u16| [&[2, 0, 0, 0, 0][..], &length.to_be_bytes()].concat();
        assert_eq!(parse(&data(0)), Some(Violation::Length(0)));
        assert_eq!(parse(&data(16_378)), Some(Violation::Length(16_378)));
        assert_eq!(parse(&data(16_377)), None);
        let datagram = |length: u16| [&[22][..], &length.to_be_bytes()].concat();
        assert_eq!(parse(&datagram(1201)), Some(Violation::Length(1201)));
        assert_eq!(parse(&datagram(1200)), None);
    }
}
