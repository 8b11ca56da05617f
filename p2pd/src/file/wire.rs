//! Frames of sender and receiver on the one stream of a session. `docs/src/protocol/files.md` has the rules.
//!
//! A frame has four bytes of length, big-endian, a byte for its kind, and its body. The length counts the kind and the
//! body. Hashes are BLAKE3.

use std::fmt;
use std::io;

use p2pd_core::ProtocolTag;

use super::tree::{GROUPS_IN_FRAME, HASH};

/// Protocol that calls name, so that other programs refuse them before a session opens.
const PROTOCOL: &[u8] = b"p2pd-files/3";
/// Tag of the stream.
pub(super) const TAG: &[u8] = b"files/3";
/// Bytes of a file in a frame, at most.
pub(super) const CHUNK: usize = 128 * 1024;
/// Longest hole in a frame, in bytes: it is hashed as zeros.
pub(super) const MAX_HOLE: u64 = 256 << 20;
/// Longest path in bytes, from the first name that the sender chose.
pub(crate) const MAX_PATH: usize = 4096;
/// Longest target of a symbolic link in bytes.
pub(super) const MAX_TARGET: usize = 4095;
/// Most names in a listing, of each kind.
pub(super) const MAX_NAMES: usize = 10;
/// Longest name in bytes.
pub(crate) const MAX_NAME: usize = 255;
/// Longest frame: its kind, and the bytes of a file or hashes.
const MAX_FRAME: usize = 1 + CHUNK;
/// Size of a file that its sender does not know, as of standard input.
const UNKNOWN: u64 = u64::MAX;

/// Secret of a sender, another one for each receiver.
pub(crate) type Resume = [u8; 16];
/// Number of an entry: entries are counted from 0 as they come.
pub(super) type Number = u32;

/// Returns the protocol that calls name.
pub(crate) fn protocol() -> Option<ProtocolTag> {
    ProtocolTag::new(PROTOCOL)
}

/// Summary of what is offered, which the receiver's user is asked about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Listing {
    /// Number of files and links.
    pub(super) files: u64,
    pub(super) folders: u64,
    /// Bytes of all files; `None` if one has no known size.
    pub(super) bytes: Option<u64>,
    /// First names, at most [`MAX_NAMES`].
    pub(super) names: Vec<Vec<u8>>,
    /// Number of names that some systems cannot have, or not beside one that came before.
    pub(super) odd: u64,
    /// First paths with such names, at most [`MAX_NAMES`], each cut to [`MAX_NAME`] bytes.
    pub(super) odd_names: Vec<Vec<u8>>,
}

impl Listing {
    /// Returns whether it lists anything, and has as many names as fit.
    pub(super) fn is_shown(&self) -> bool {
        let all = self.files.saturating_add(self.folders);
        all > 0 && self.names.len() as u64 == all.min(MAX_NAMES as u64)
    }

    /// Returns whether what is listed may have this path: any, unless the list has the names of all.
    pub(super) fn may_have(&self, path: &[u8]) -> bool {
        let is_whole = self.files.saturating_add(self.folders) <= self.names.len() as u64;
        let begin = &path[..path.len().min(MAX_NAME)];
        !is_whole || self.names.iter().any(|name| name == begin)
    }
}

/// Permission bits, and time of the last change in seconds and nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Meta {
    pub(super) mode: u16,
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

/// File that is offered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) path: Vec<u8>,
    /// Length in bytes; `None` if it is not known.
    pub(super) size: Option<u64>,
    pub(super) meta: Meta,
    /// True if parts of the file are holes, so that it takes less room than its length.
    pub(super) sparse: bool,
}

/// Frame in either direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    // Of the sender.
    Hello(Option<Resume>, Listing),
    /// Path of a folder; what is in it follows.
    Folder(Vec<u8>),
    File(Offer),
    /// Path, target, and time of a symbolic link.
    Link(Vec<u8>, Vec<u8>, Meta),
    /// Path of a folder to which nothing is added.
    Leave(Vec<u8>, Meta),
    /// Hashes of groups of the part that the receiver has.
    Tree(Number, Vec<[u8; HASH]>),
    /// The bytes of this file follow.
    Body(Number),
    Data(Vec<u8>),
    /// Bytes packed by zstd.
    Packed(Vec<u8>),
    /// Number of zero bytes.
    Hole(u64),
    /// Hash of the whole file, after its bytes.
    End([u8; HASH]),
    /// The bytes of the file end here: it has changed, or was given up.
    Abort,
    Bye,
    // Of the receiver.
    /// True if bytes may be packed, and holes left out.
    Go(bool),
    /// Nothing is taken any more.
    No(Refusal),
    /// The file is wanted from this byte on.
    Take(Number, u64),
    /// The receiver has so many bytes, and wants their hashes.
    Prove(Number, u64),
    /// The file is there already.
    Same(Number),
    Done(Number),
    Not(Number, Refusal),
    /// Everything that was taken is stored.
    Stored,
}

/// Reason why a receiver does not take an entry, or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Name,
    TooLarge,
    TooMany,
    InUse,
    NotWritten,
    Damaged,
    Crowded,
    Declined,
    Nobody,
    Unanswered,
    Link,
    Twin,
}

impl Refusal {
    const ALL: [Refusal; 12] = [
        Refusal::Name,
        Refusal::TooLarge,
        Refusal::TooMany,
        Refusal::InUse,
        Refusal::NotWritten,
        Refusal::Damaged,
        Refusal::Crowded,
        Refusal::Declined,
        Refusal::Nobody,
        Refusal::Unanswered,
        Refusal::Link,
        Refusal::Twin,
    ];

    /// Returns the reason for a person.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Refusal::Name => "the name is none that the receiver takes",
            Refusal::TooLarge => "the receiver does not take so many bytes",
            Refusal::TooMany => "the receiver takes no more files",
            Refusal::InUse => "another send of this file is under way",
            Refusal::NotWritten => "the receiver could not write it",
            Refusal::Damaged => "what arrived is not what was sent",
            Refusal::Crowded => {
                "the receiver is busy and made room for others, as next to nothing came: try later"
            }
            Refusal::Declined => "the receiver's user said no",
            Refusal::Nobody => {
                "nobody is at the receiver's terminal to say yes to a folder: it needs --yes there"
            }
            Refusal::Unanswered => "the receiver's user has not answered",
            Refusal::Link => "the link leads out of its folder, or the receiver makes no links",
            Refusal::Twin => "on the receiver's system another file there has this name in other letters",
        }
    }
}

/// Reason why bytes are no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WireError {
    /// The length is none that frames have.
    Length(usize),
    /// The kind is unknown, or the body does not fit it.
    Malformed,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Length(n) => write!(f, "no frame has {n} bytes"),
            WireError::Malformed => f.write_str("a malformed frame"),
        }
    }
}

impl From<WireError> for io::Error {
    fn from(why: WireError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, format!("the peer sent {why}"))
    }
}

/// Bytes of a frame's body that are not read yet.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(WireError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Malformed)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Text with two bytes of length before it, 1 to `most` bytes.
    fn text(&mut self, most: usize) -> Result<Vec<u8>, WireError> {
        let length = usize::from(self.u16()?);
        if !(1..=most).contains(&length) {
            return Err(WireError::Malformed);
        }
        self.take(length).map(<[u8]>::to_vec)
    }

    fn rest(&mut self, least: usize, most: usize) -> Result<Vec<u8>, WireError> {
        let rest = std::mem::take(&mut self.0);
        if (least..=most).contains(&rest.len()) { Ok(rest.to_vec()) } else { Err(WireError::Malformed) }
    }

    fn meta(&mut self) -> Result<Meta, WireError> {
        let mode = self.u16()?;
        let seconds = self.array().map(i64::from_be_bytes)?;
        let nanos = self.u32()?;
        if mode > 0o777 || nanos >= 1_000_000_000 {
            return Err(WireError::Malformed);
        }
        Ok(Meta { mode, seconds, nanos })
    }

    fn names(&mut self) -> Result<Vec<Vec<u8>>, WireError> {
        let [count] = self.array()?;
        if usize::from(count) > MAX_NAMES {
            return Err(WireError::Malformed);
        }
        (0..count).map(|_| self.text(MAX_NAME)).collect()
    }

    fn listing(&mut self) -> Result<Listing, WireError> {
        let (files, folders, bytes) = (self.u64()?, self.u64()?, self.u64()?);
        let names = self.names()?;
        let (odd, odd_names) = (self.u64()?, self.names()?);
        Ok(Listing { files, folders, bytes: (bytes != UNKNOWN).then_some(bytes), names, odd, odd_names })
    }

    fn refusal(&mut self) -> Result<Refusal, WireError> {
        let [why] = self.array()?;
        Refusal::ALL.get(usize::from(why)).copied().ok_or(WireError::Malformed)
    }
}

fn text(into: &mut Vec<u8>, text: &[u8]) {
    // The longest is 4,096 bytes.
    into.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    into.extend(text);
}

fn meta(into: &mut Vec<u8>, Meta { mode, seconds, nanos }: &Meta) {
    into.extend(mode.to_be_bytes());
    into.extend(seconds.to_be_bytes());
    into.extend(nanos.to_be_bytes());
}

fn names(into: &mut Vec<u8>, names: &[Vec<u8>]) {
    into.push(names.len() as u8);
    names.iter().for_each(|name| text(into, name));
}

impl Frame {
    /// Appends the frame, with its length before it.
    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let begin = into.len();
        into.extend([0; 4]);
        self.body(into);
        let length = (into.len() - begin - 4) as u32;
        into[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn body(&self, to: &mut Vec<u8>) {
        match self {
            Frame::Hello(resume, listing) => {
                to.extend([0, u8::from(resume.is_some())]);
                to.extend(resume.unwrap_or_default());
                for number in [listing.files, listing.folders, listing.bytes.unwrap_or(UNKNOWN)] {
                    to.extend(number.to_be_bytes());
                }
                names(to, &listing.names);
                to.extend(listing.odd.to_be_bytes());
                names(to, &listing.odd_names);
            }
            Frame::Folder(path) => {
                to.push(1);
                text(to, path);
            }
            Frame::File(offer) => {
                to.extend([2, u8::from(offer.sparse)]);
                to.extend(offer.size.unwrap_or(UNKNOWN).to_be_bytes());
                meta(to, &offer.meta);
                text(to, &offer.path);
            }
            Frame::Link(path, target, of) => {
                to.push(3);
                meta(to, of);
                text(to, path);
                text(to, target);
            }
            Frame::Leave(path, of) => {
                to.push(4);
                meta(to, of);
                text(to, path);
            }
            Frame::Tree(n, hashes) => {
                to.push(5);
                to.extend(n.to_be_bytes());
                hashes.iter().for_each(|hash| to.extend(hash));
            }
            Frame::Body(n) => with_number(to, 6, *n),
            Frame::Data(bytes) => {
                to.push(7);
                to.extend(bytes);
            }
            Frame::Packed(bytes) => {
                to.push(8);
                to.extend(bytes);
            }
            Frame::Hole(n) => {
                to.push(9);
                to.extend(n.to_be_bytes());
            }
            Frame::End(hash) => {
                to.push(10);
                to.extend(hash);
            }
            Frame::Abort => to.push(11),
            Frame::Bye => to.push(12),
            Frame::Go(packs) => to.extend([32, u8::from(*packs)]),
            Frame::No(why) => to.extend([33, *why as u8]),
            Frame::Take(n, from) => {
                with_number(to, 34, *n);
                to.extend(from.to_be_bytes());
            }
            Frame::Prove(n, have) => {
                with_number(to, 35, *n);
                to.extend(have.to_be_bytes());
            }
            Frame::Same(n) => with_number(to, 36, *n),
            Frame::Done(n) => with_number(to, 37, *n),
            Frame::Not(n, why) => {
                with_number(to, 38, *n);
                to.push(*why as u8);
            }
            Frame::Stored => to.push(39),
        }
    }

    /// Reads the frame at the beginning of the bytes, and returns it with its length in them; `None` if it is not there
    /// whole.
    ///
    /// # Errors
    /// Says why the bytes are no frame.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(1..=MAX_FRAME).contains(&length) {
            return Err(WireError::Length(length));
        }
        match rest.get(..length) {
            Some(body) => Self::parse(body).map(|frame| Some((frame, 4 + length))),
            None => Ok(None),
        }
    }

    /// Parses the output of [`body`](Self::body), and nothing else.
    fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut body = Body(body);
        let [kind] = body.array()?;
        let frame = match kind {
            0 => {
                let [shows] = body.array()?;
                let secret = body.array()?;
                match shows {
                    0 if secret == Resume::default() => Frame::Hello(None, body.listing()?),
                    1 => Frame::Hello(Some(secret), body.listing()?),
                    _ => return Err(WireError::Malformed),
                }
            }
            1 => Frame::Folder(body.text(MAX_PATH)?),
            2 => {
                let [sparse] = body.array()?;
                let size = Some(body.u64()?).filter(|size| *size != UNKNOWN);
                let (meta, path) = (body.meta()?, body.text(MAX_PATH)?);
                match sparse {
                    0 | 1 => Frame::File(Offer { path, size, meta, sparse: sparse == 1 }),
                    _ => return Err(WireError::Malformed),
                }
            }
            3 => {
                let meta = body.meta()?;
                Frame::Link(body.text(MAX_PATH)?, body.text(MAX_TARGET)?, meta)
            }
            4 => {
                let meta = body.meta()?;
                Frame::Leave(body.text(MAX_PATH)?, meta)
            }
            5 => {
                let n = body.u32()?;
                let (hashes, rest) = std::mem::take(&mut body.0).as_chunks();
                if !(1..=GROUPS_IN_FRAME).contains(&hashes.len()) || !rest.is_empty() {
                    return Err(WireError::Malformed);
                }
                Frame::Tree(n, hashes.to_vec())
            }
            6 => Frame::Body(body.u32()?),
            7 => Frame::Data(body.rest(1, CHUNK)?),
            8 => Frame::Packed(body.rest(1, CHUNK)?),
            9 => match body.u64()? {
                n @ 1..=MAX_HOLE => Frame::Hole(n),
                _ => return Err(WireError::Malformed),
            },
            10 => Frame::End(body.array()?),
            11 => Frame::Abort,
            12 => Frame::Bye,
            32 => match body.array()? {
                [0] => Frame::Go(false),
                [1] => Frame::Go(true),
                _ => return Err(WireError::Malformed),
            },
            33 => Frame::No(body.refusal()?),
            34 => Frame::Take(body.u32()?, body.u64()?),
            35 => Frame::Prove(body.u32()?, body.u64()?),
            36 => Frame::Same(body.u32()?),
            37 => Frame::Done(body.u32()?),
            38 => Frame::Not(body.u32()?, body.refusal()?),
            39 => Frame::Stored,
            _ => return Err(WireError::Malformed),
        };
        if body.0.is_empty() { Ok(frame) } else { Err(WireError::Malformed) }
    }
}

fn with_number(to: &mut Vec<u8>, kind: u8, n: Number) {
    to.push(kind);
    to.extend(n.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        let listing = Listing {
            files: 3,
            folders: 1,
            bytes: Some(70),
            names: vec![b"a".to_vec(), vec![0xff; MAX_NAME]],
            odd: 1,
            odd_names: vec![b"nul".to_vec()],
        };
        let meta = Meta { mode: 0o777, seconds: -1, nanos: 999_999_999 };
        let offer = Offer { path: b"a/b".to_vec(), size: Some(0), meta, sparse: false };
        let mut all = vec![
            Frame::Hello(None, Listing::default()),
            Frame::Hello(Some([7; 16]), listing),
            Frame::Folder(vec![b'p'; MAX_PATH]),
            Frame::File(offer.clone()),
            Frame::File(Offer { size: None, sparse: true, ..offer }),
            Frame::Link(b"l".to_vec(), vec![b't'; MAX_TARGET], meta),
            Frame::Leave(b"a".to_vec(), Meta::default()),
            Frame::Tree(9, vec![[1; HASH]; GROUPS_IN_FRAME]),
            Frame::Body(u32::MAX),
            Frame::Data(vec![7; CHUNK]),
            Frame::Packed(vec![8]),
            Frame::Hole(MAX_HOLE),
            Frame::End([3; HASH]),
            Frame::Abort,
            Frame::Bye,
            Frame::Go(false),
            Frame::Go(true),
            Frame::Take(1, 2),
            Frame::Prove(3, 4),
            Frame::Same(5),
            Frame::Done(6),
            Frame::Stored,
        ];
        all.extend(Refusal::ALL.map(Frame::No));
        all.extend(Refusal::ALL.map(|why| Frame::Not(7, why)));
        all
    }

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        all().iter().for_each(|frame| frame.write(&mut bytes));
        let mut rest = &bytes[..];
        for frame in all() {
            let (read, length) = Frame::read(rest).unwrap().unwrap();
            assert_eq!(read, frame);
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        // A part of a frame is none yet.
        for frame in all() {
            let mut bytes = Vec::new();
            frame.write(&mut bytes);
            for cut in [0, 3, 4, bytes.len() - 1] {
                assert_eq!(Frame::read(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_said() {
        let framed = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
        for (bytes, why) in [
            (vec![0; 4], WireError::Length(0)),
            (vec![0xff; 4], WireError::Length(u32::MAX as usize)),
            ((MAX_FRAME as u32 + 1).to_be_bytes().to_vec(), WireError::Length(MAX_FRAME + 1)),
            (framed(&[13]), WireError::Malformed),
            (framed(&[11, 0]), WireError::Malformed),
            (framed(&[1, 0, 0]), WireError::Malformed),
            (framed(&[1, 0, 2, b'a']), WireError::Malformed),
            (framed(&[1, 0, 1, b'a', b'b']), WireError::Malformed),
            (framed(&[5, 0, 0, 0, 1]), WireError::Malformed),
            (framed(&[5, 0, 0, 0, 1, 2]), WireError::Malformed),
            (framed(&[7]), WireError::Malformed),
            (framed(&[9, 0, 0, 0, 0, 0, 0, 0, 0]), WireError::Malformed),
            (framed(&[9, 0, 0, 0, 0, 0x10, 0, 0, 1]), WireError::Malformed),
            (framed(&[33, 12]), WireError::Malformed),
            // A mode beyond the permission bits; nanoseconds of a whole second.
            (framed(&[&[4, 2, 0][..], &[0; 12], &[0, 1, b'a']].concat()), WireError::Malformed),
            (
                framed(&[&[4, 0, 0][..], &[0; 8], &1_000_000_000_u32.to_be_bytes(), &[0, 1, b'a']].concat()),
                WireError::Malformed,
            ),
            // A secret that is not shown; eleven names.
            (framed(&[&[0, 0][..], &[1; 16], &[0; 34]].concat()), WireError::Malformed),
            (framed(&[&[0, 0][..], &[0; 40], &[11], &[0; 60]].concat()), WireError::Malformed),
        ] {
            assert_eq!(Frame::read(&bytes), Err(why), "{bytes:?}");
        }
    }

    /// Bytes that are near frames: each is refused, or is what it is written as again.
    #[test]
    fn whatever_is_read_is_written_so_again() {
        let mut seed = 1_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        let originals: Vec<Vec<u8>> = all()
            .iter()
            .filter(|frame| !matches!(frame, Frame::Data(_) | Frame::Tree(..)))
            .map(|frame| {
                let mut bytes = Vec::new();
                frame.write(&mut bytes);
                bytes
            })
            .collect();
        let mut read = 0;
        for _ in 0..50_000 {
            let mut bytes = originals[random() % originals.len()].clone();
            for _ in 0..random() % 3 {
                let at = random() % bytes.len().min(64);
                bytes[at] = random() as u8;
            }
            if let Ok(Some((frame, length))) = Frame::read(&bytes) {
                let mut again = Vec::new();
                frame.write(&mut again);
                assert_eq!(again, bytes[..length]);
                read += 1;
            }
        }
        assert!((10_000..50_000).contains(&read), "{read}");
    }
}
