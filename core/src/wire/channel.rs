//! ChannelData (RFC 8656 section 12.4), and the frames of a TURN connection over a stream, where it stands
//! between STUN messages.

use bytes::{BufMut, Bytes, BytesMut};

use super::guard::{GuardError, MAGIC_COOKIE, Rule, STUN_HEADER, STUN_MAX_TCP, Transport};

/// The channel numbers that a client may choose (RFC 8656 section 12).
pub const CHANNELS: core::ops::RangeInclusive<u16> = 0x4000..=0x4fff;

/// Bytes of a ChannelData header.
const HEADER: usize = 4;

/// A ChannelData message, in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelData<'a> {
    /// The channel, one of [`CHANNELS`].
    pub number: u16,
    /// The payload, without padding.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Returns true if bytes that begin so are ChannelData rather than STUN: the two highest bits are 01.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|first| first & 0xc0 == 0x40)
    }

    /// Reads one message: a whole datagram, or a whole frame of a stream. Padding to a multiple of four may be
    /// there and, over UDP, may be missing.
    ///
    /// # Errors
    /// [`Rule::Header`] for a number outside [`CHANNELS`], [`Rule::Length`] where the stated length and the bytes
    /// that came differ by more than the padding.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GuardError> {
        let Some(([a, b, c, d], rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(GuardError { offset: bytes.len(), rule: Rule::Length });
        };
        let number = u16::from_be_bytes([*a, *b]);
        if !CHANNELS.contains(&number) {
            return Err(GuardError { offset: 0, rule: Rule::Header });
        }
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        match rest.get(..length) {
            Some(data) if rest.len() <= length.next_multiple_of(4) => Ok(ChannelData { number, data }),
            _ => Err(GuardError { offset: 2, rule: Rule::Length }),
        }
    }

    /// Returns the message's bytes. Padding is added on a stream, where it is needed, and not over UDP, where it is
    /// not. `None` where the payload is longer than its length field can say.
    pub fn to_bytes(self, over: Transport) -> Option<Bytes> {
        let length = u16::try_from(self.data.len()).ok()?;
        let padded = match over {
            Transport::Udp => self.data.len(),
            Transport::Tcp => self.data.len().next_multiple_of(4),
        };
        let mut bytes = BytesMut::with_capacity(HEADER + padded);
        bytes.put_u16(self.number);
        bytes.put_u16(length);
        bytes.put_slice(self.data);
        bytes.put_bytes(0, padded - self.data.len());
        Some(bytes.freeze())
    }
}

/// Cuts a stream into STUN messages and padded ChannelData (RFC 8656 section 3.1).
///
/// A frame that came whole is handed out where it lies. A frame that is cut is held, at most [`STUN_MAX_TCP`] bytes. A
/// longer frame is skipped. Any peer that may send to us through the relay decides the length of its datagrams, and
/// must not end the connection by that.
#[derive(Debug, Default)]
pub struct TurnSplitter {
    /// The beginning of a frame, or a frame that was handed out.
    held: Vec<u8>,
    handed_out: bool,
    /// Bytes to come of a frame that is too long.
    skip: usize,
    skipped: u64,
    broken: Option<GuardError>,
}

impl TurnSplitter {
    /// Returns an empty splitter.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes of the stream. Returns the number of bytes of `data` that it took, and the next whole frame,
    /// ChannelData with its padding. Without a frame it took all, and wants more.
    ///
    /// # Errors
    /// [`GuardError`] once the stream can be neither STUN nor ChannelData, for ever.
    pub fn take<'a>(&'a mut self, data: &'a [u8]) -> Result<(usize, Option<&'a [u8]>), GuardError> {
        if let Some(why) = self.broken {
            return Err(why);
        }
        if self.handed_out {
            self.handed_out = false;
            self.held.clear();
        }
        let mut rest = data;
        loop {
            let passed = self.skip.min(rest.len());
            rest = rest.get(passed..).unwrap_or_default();
            self.skip -= passed;
            let known = if self.held.is_empty() { frame(rest) } else { frame(&self.held) };
            let whole = match known {
                Ok(Some(whole)) => whole,
                Ok(None) if rest.is_empty() => return Ok((data.len(), None)),
                Ok(None) => {
                    rest = self.hold(rest, HEADER);
                    continue;
                }
                Err(why) => {
                    self.broken = Some(why);
                    self.held = Vec::new();
                    return Err(why);
                }
            };
            if whole > STUN_MAX_TCP {
                self.skip = whole - self.held.len();
                self.skipped += 1;
                self.held.clear();
                continue;
            }
            if self.held.is_empty()
                && let Some((frame, after)) = rest.split_at_checked(whole)
            {
                return Ok((data.len() - after.len(), Some(frame)));
            }
            rest = self.hold(rest, whole);
            if self.held.len() == whole {
                self.handed_out = true;
                return Ok((data.len() - rest.len(), Some(&self.held)));
            }
            if rest.is_empty() {
                return Ok((data.len(), None));
            }
        }
    }

    /// Returns true if the stream stands in the middle of a frame.
    pub fn is_mid_frame(&self) -> bool {
        self.skip > 0 || (!self.handed_out && !self.held.is_empty())
    }

    /// Returns the number of frames that were too long.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Takes bytes until `size` are held; returns the rest of them.
    fn hold<'a>(&mut self, data: &'a [u8], size: usize) -> &'a [u8] {
        let (taken, rest) = data.split_at(size.saturating_sub(self.held.len()).min(data.len()));
        self.held.extend_from_slice(taken);
        rest
    }
}

/// Returns the length of the frame that begins so, in bytes, once that can be told.
fn frame(bytes: &[u8]) -> Result<Option<usize>, GuardError> {
    let Some([a, b, c, d]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*c, *d]));
    if CHANNELS.contains(&u16::from_be_bytes([*a, *b])) {
        return Ok(Some(HEADER + length.next_multiple_of(4)));
    }
    if a & 0xc0 != 0 {
        return Err(GuardError { offset: 0, rule: Rule::Header });
    }
    // Messages end on a multiple of four: after such a length nothing would be in its place.
    if !length.is_multiple_of(4) {
        return Err(GuardError { offset: 2, rule: Rule::Length });
    }
    let cookie = bytes.get(4..).and_then(|rest| rest.first_chunk());
    if cookie.is_some_and(|cookie| *cookie != MAGIC_COOKIE.to_be_bytes()) {
        return Err(GuardError { offset: 4, rule: Rule::Header });
    }
    Ok(Some(STUN_HEADER + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: GuardError = GuardError { offset: 2, rule: Rule::Length };

    #[test]
    fn channel_data_is_read_in_place_and_its_length_is_checked() {
        let exact = [0x40, 0x00, 0, 3, b'a', b'b', b'c'];
        let expected = ChannelData { number: 0x4000, data: b"abc" };
        assert_eq!(ChannelData::parse(&exact), Ok(expected));
        let padded = [0x40, 0x00, 0, 3, b'a', b'b', b'c', 9];
        assert_eq!(ChannelData::parse(&padded), Ok(expected));
        assert_eq!(ChannelData::parse(&[&padded[..], &[0]].concat()), Err(LENGTH));
        assert_eq!(ChannelData::parse(&[0x40, 0, 0, 4, 1, 2, 3]), Err(LENGTH));
        assert_eq!(ChannelData::parse(&[0x40, 0, 0xff, 0xff, 1]), Err(LENGTH));
        assert_eq!(ChannelData::parse(&[0x4f, 0xff, 0, 0]), Ok(ChannelData { number: 0x4fff, data: &[] }));
        for bad in [[0x50, 0, 0, 0], [0x3f, 0xff, 0, 0], [0xc0, 0, 0, 0]] {
            assert_eq!(ChannelData::parse(&bad), Err(GuardError { offset: 0, rule: Rule::Header }));
        }
        for cut in 0..4 {
            let short = GuardError { offset: cut, rule: Rule::Length };
            assert_eq!(ChannelData::parse(&exact[..cut]), Err(short));
        }
    }

    #[test]
    fn channel_data_is_padded_on_streams_only() {
        let message = ChannelData { number: 0x4abc, data: b"hello" };
        assert_eq!(&message.to_bytes(Transport::Udp).unwrap()[..], b"\x4a\xbc\x00\x05hello");
        assert_eq!(&message.to_bytes(Transport::Tcp).unwrap()[..], b"\x4a\xbc\x00\x05hello\0\0\0");
        let long = vec![0; 65_536];
        assert_eq!(ChannelData { number: 0x4000, data: &long }.to_bytes(Transport::Tcp), None);
    }

    fn stun(body: usize) -> Vec<u8> {
        let mut message = vec![0x01, 0x03];
        message.extend((body as u16).to_be_bytes());
        message.extend(MAGIC_COOKIE.to_be_bytes());
        message.extend([7; 12]);
        message.resize(STUN_HEADER + body, 8);
        message
    }

    fn split(splitter: &mut TurnSplitter, chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, GuardError> {
        let mut frames = Vec::new();
        for chunk in chunks {
            let mut taken = 0;
            while let (n, Some(frame)) = splitter.take(&chunk[taken..])? {
                frames.push(frame.to_vec());
                taken += n;
            }
        }
        Ok(frames)
    }

    #[test]
    fn every_cut_and_single_bytes_give_the_same_frames() {
        let channel = |n: usize| {
            let data = vec![n as u8; n];
            ChannelData { number: 0x4001, data: &data }.to_bytes(Transport::Tcp).unwrap().to_vec()
        };
        let all = [stun(0), channel(5), channel(0), stun(8), channel(8), channel(0)];
        // Also the shortest one that ends a stream.
        for frames in (1..=all.len()).map(|n| all[..n].to_vec()) {
            let stream = frames.concat();
            for cut in 0..=stream.len() {
                let mut splitter = TurnSplitter::new();
                let chunks = [&stream[..cut], &stream[cut..]];
                assert_eq!(split(&mut splitter, &chunks), Ok(frames.clone()), "cut at {cut}");
                assert!(!splitter.is_mid_frame());
            }
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(split(&mut TurnSplitter::new(), &bytes), Ok(frames));
        }
    }

    #[test]
    fn frames_that_came_whole_are_not_copied() {
        let stream = [stun(4), vec![0x40, 0, 0, 0]].concat();
        let mut splitter = TurnSplitter::new();
        let (n, frame) = splitter.take(&stream).unwrap();
        assert_eq!((n, frame.map(<[u8]>::as_ptr)), (24, Some(stream.as_ptr())));
        assert_eq!(splitter.take(&stream[24..]), Ok((4, Some(&stream[24..]))));
        assert_eq!(splitter.held.capacity(), 0);
    }

    #[test]
    fn long_frames_are_skipped_at_any_cut_and_never_held() {
        let long = [&[0x40, 0, 0xff, 0xfd][..], &[1; 65_536]].concat();
        for long in [long, stun(STUN_MAX_TCP)] {
            let stream = [long.clone(), stun(4)].concat();
            for chunk in [1, 3, 4, 1000, stream.len()] {
                let mut splitter = TurnSplitter::new();
                let chunks: Vec<&[u8]> = stream.chunks(chunk).collect();
                assert_eq!(split(&mut splitter, &chunks), Ok(vec![stun(4)]), "chunks of {chunk}");
                assert_eq!(splitter.skipped(), 1);
                assert!(splitter.held.capacity() <= STUN_MAX_TCP);
            }
            let mut splitter = TurnSplitter::new();
            assert_eq!(split(&mut splitter, &[&long[..100]]), Ok(vec![]));
            assert!(splitter.is_mid_frame());
        }
    }

    #[test]
    fn what_can_be_neither_breaks_the_stream_for_ever() {
        for (stream, why) in [
            (&b"SSH-2.0-"[..], GuardError { offset: 0, rule: Rule::Header }),
            (&[0x80, 0, 0, 0], GuardError { offset: 0, rule: Rule::Header }),
            (&[0x50, 0, 0, 0], GuardError { offset: 0, rule: Rule::Header }),
            (&[1, 3, 0, 2], LENGTH),
            (&[1, 3, 0, 4, 0x21, 0x12, 0xa4, 0x43], GuardError { offset: 4, rule: Rule::Header }),
        ] {
            let mut splitter = TurnSplitter::new();
            assert_eq!(split(&mut splitter, &[stream]), Err(why), "{stream:02x?}");
            assert_eq!(split(&mut splitter, &[&stun(0)]), Err(why), "for ever");
        }
    }
}
