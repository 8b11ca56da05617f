//! Bytes of one file: read with its holes and packed where that helps, or unpacked and written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::folder::next_data;
use super::given::Given;
use super::tree::Hashed;
use super::walk::Opened;
use super::wire::{CHUNK, Frame, MAX_HOLE};

/// Bytes at the beginning that are packed to try whether it helps.
const TRIED: u64 = 1 << 20;
/// Fewest bytes that are packed.
const LEAST: usize = 512;
/// zstd's level: about as fast as a disk.
const LEVEL: i32 = 1;

/// Takes the bytes of a program, which one thread alone reads.
pub(super) fn locked(bytes: &Mutex<Given>) -> MutexGuard<'_, Given> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Packs bytes while that makes a file smaller by a tenth.
pub(super) struct Packer {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    helps: bool,
    tried: u64,
    saved: u64,
}

impl Packer {
    /// Creates it; `packs` is false for a sender that packs nothing.
    pub(super) fn new(packs: bool) -> Self {
        let zstd = if packs { zstd::bulk::Compressor::new(LEVEL).ok() } else { None };
        Packer { zstd, helps: true, tried: 0, saved: 0 }
    }

    /// Begins with a file.
    pub(super) fn begin(&mut self) {
        (self.helps, self.tried, self.saved) = (true, 0, 0);
    }

    /// Makes a frame of these bytes, which are [`CHUNK`] at most.
    pub(super) fn frame(&mut self, data: &[u8]) -> Frame {
        if let Some(zstd) = self.zstd.as_mut().filter(|_| self.helps && data.len() >= LEAST)
            && let Ok(packed) = zstd.compress(data)
        {
            self.tried += data.len() as u64;
            self.saved += (data.len() as u64).saturating_sub(packed.len() as u64);
            self.helps = self.tried < TRIED || self.saved >= self.tried / 10;
            if packed.len() < data.len() {
                return Frame::Packed(packed);
            }
        }
        Frame::Data(data.to_vec())
    }
}

/// Reads a file from a position on.
pub(super) struct Content {
    from: Opened,
    /// Length that was offered.
    size: Option<u64>,
    /// Holes are left out.
    holes: bool,
    pub(super) hashed: Hashed,
    /// End of the bytes that are read now; behind it is a hole.
    until: u64,
    buffer: Vec<u8>,
}

impl Content {
    /// Goes on behind what was hashed. `holes` leaves holes out.
    ///
    /// # Errors
    /// Those of the file.
    pub(super) fn new(mut from: Opened, size: Option<u64>, hashed: Hashed, holes: bool) -> io::Result<Self> {
        let until = hashed.bytes;
        match &mut from {
            Opened::File(file) => drop(file.seek(SeekFrom::Start(until))?),
            Opened::Given(bytes) => locked(bytes).seek(until)?,
            Opened::Stdin => {}
        }
        // Most files are small.
        let most = size.map_or(CHUNK, |size| usize::try_from(size).unwrap_or(CHUNK).min(CHUNK));
        Ok(Content { from, size, holes, hashed, until, buffer: vec![0; most] })
    }

    /// Returns the next frame; `None` at the end.
    ///
    /// # Errors
    /// Those of the file; `UnexpectedEof` if it has become shorter.
    pub(super) fn next(&mut self, packer: &mut Packer) -> io::Result<Option<Frame>> {
        let at = self.hashed.bytes;
        let most = match (&mut self.from, self.size) {
            (Opened::File(file), Some(size)) => {
                if at >= size {
                    return Ok(None);
                }
                if at >= self.until {
                    let all = (at, size);
                    let (begin, end) =
                        if self.holes { next_data(file, at, size)?.unwrap_or((size, size)) } else { all };
                    if begin > at {
                        let hole = (begin - at).min(MAX_HOLE);
                        self.until = at + hole;
                        self.hashed.zeros(hole);
                        return Ok(Some(Frame::Hole(hole)));
                    }
                    self.until = end;
                    file.seek(SeekFrom::Start(at))?;
                }
                usize::try_from(self.until - at).unwrap_or(CHUNK).min(CHUNK)
            }
            (_, Some(size)) => usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK),
            (_, None) => CHUNK,
        };
        let mut n = 0;
        while n < most {
            let into = &mut self.buffer[n..most];
            let read = match &mut self.from {
                Opened::File(file) => file.read(into),
                Opened::Stdin => io::stdin().lock().read(into),
                Opened::Given(bytes) => locked(bytes).read(into),
            };
            match read {
                Ok(0) if self.size.is_some() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => break,
                Ok(more) => n += more,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        if n == 0 {
            return Ok(None);
        }
        self.hashed.update(&self.buffer[..n]);
        Ok(Some(packer.frame(&self.buffer[..n])))
    }

    /// Returns the open file; `None` for what is none.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.from {
            Opened::File(file) => Some(file),
            Opened::Stdin | Opened::Given(_) => None,
        }
    }
}

/// Writes a file from a position on.
pub(super) struct Written {
    file: File,
    pub(super) hashed: Hashed,
    /// Bytes that take room on the disk.
    pub(super) taken: u64,
}

impl Written {
    /// Goes on behind what was hashed, and drops what the file has behind it.
    ///
    /// # Errors
    /// Those of the file.
    pub(super) fn new(mut file: File, hashed: Hashed) -> io::Result<Self> {
        file.set_len(hashed.bytes)?;
        file.seek(SeekFrom::Start(hashed.bytes))?;
        Ok(Written { file, hashed, taken: 0 })
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// Those of the file.
    pub(super) fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.taken += data.len() as u64;
        self.hashed.update(data);
        Ok(())
    }

    /// Leaves a hole.
    ///
    /// # Errors
    /// Those of the file.
    pub(super) fn hole(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.hashed.bytes.saturating_add(bytes);
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end))?;
        self.hashed.zeros(bytes);
        Ok(())
    }

    /// Gives the file and its hash back.
    pub(super) fn finish(self) -> (File, Hashed) {
        (self.file, self.hashed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tree;

    #[test]
    fn what_does_not_get_smaller_is_tried_for_a_mebibyte_and_no_more() {
        let mut seed = 1_u32;
        let mut noise = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        let random: Vec<u8> = (0..CHUNK).map(|_| noise()).collect();
        let text = b"the same again and again ".repeat(CHUNK / 25);
        let mut packer = Packer::new(true);
        for n in 0..16 {
            assert_eq!(packer.frame(&random), Frame::Data(random.clone()), "{n}");
        }
        assert_eq!((packer.helps, packer.tried), (false, TRIED));
        assert_eq!(packer.frame(&text), Frame::Data(text.clone()));
        packer.begin();
        for _ in 0..16 {
            assert!(matches!(packer.frame(&text), Frame::Packed(packed) if packed.len() < 1000));
        }
        assert_eq!(packer.tried, 16 * text.len() as u64);
        assert_eq!(packer.frame(&text[..LEAST - 1]), Frame::Data(text[..LEAST - 1].to_vec()));
        assert_eq!(Packer::new(false).frame(&text), Frame::Data(text));
    }

    /// A file with a hole at its begin, in its middle and at its end.
    #[cfg(target_os = "linux")]
    #[test]
    fn holes_are_kept_and_are_zeros_to_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let mut file = File::create(&path).unwrap();
        for (at, text) in [(1_u64 << 20, "one"), (5 << 20, "two")] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        file.set_len(8 << 20).unwrap();
        let open = || Opened::File(File::open(&path).unwrap());
        let mut packer = Packer::new(true);
        let mut content = Content::new(open(), Some(8 << 20), Hashed::new(tree::group(None)), true).unwrap();
        let copy = dir.path().join("copy");
        let mut written = Written::new(File::create(&copy).unwrap(), Hashed::new(tree::group(None))).unwrap();
        let mut holes = 0;
        while let Some(frame) = content.next(&mut packer).unwrap() {
            match frame {
                Frame::Hole(n) => {
                    holes += n;
                    written.hole(n).unwrap();
                }
                Frame::Data(data) => written.data(&data).unwrap(),
                Frame::Packed(packed) => {
                    written.data(&zstd::bulk::decompress(&packed, CHUNK).unwrap()).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(holes >= 7 << 20, "{holes}");
        let taken = written.taken;
        assert_eq!(taken + holes, 8 << 20);
        let (_, hashed) = written.finish();
        let data = std::fs::read(&path).unwrap();
        assert!(std::fs::read(&copy).unwrap() == data);
        assert_eq!(hashed.digest(), *blake3::hash(&data).as_bytes());
        assert_eq!(content.hashed.digest(), hashed.digest());
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&copy).unwrap());
        assert!(blocks * 512 < 1 << 20, "{blocks}");
        // From the middle of a hole on.
        let mut hashed = Hashed::new(tree::group(None));
        hashed.update(&data[..2 << 20]);
        let mut content = Content::new(open(), Some(8 << 20), hashed, true).unwrap();
        assert!(matches!(content.next(&mut packer).unwrap(), Some(Frame::Hole(n)) if n > 2 << 20));
        // Whoever takes no holes gets their zeros.
        let mut content = Content::new(open(), Some(8 << 20), Hashed::new(tree::group(None)), false).unwrap();
        assert_eq!(content.next(&mut Packer::new(false)).unwrap(), Some(Frame::Data(vec![0; CHUNK])));
    }
}
