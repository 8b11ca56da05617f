//! BLAKE3's tree over groups of a file: hashes by which two ends find how far their files are the same, and of which the
//! hash of the whole file is made.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

/// Length of a hash in bytes.
pub(super) const HASH: usize = 32;
/// Hashes of groups in one frame, at most.
pub(super) const GROUPS_IN_FRAME: usize = 2048;
/// Bytes of a group of most files.
const GROUP: u64 = 1 << 20;
/// Most groups of a file: 2 MiB of hashes.
const MOST_GROUPS: u64 = 1 << 16;
/// Most threads that hash one file.
const MOST_THREADS: usize = 8;
/// Bytes read at a time.
const READ: usize = 128 * 1024;
static ZEROS: [u8; READ] = [0; READ];

/// Returns the bytes of a group of a file with so many bytes; `None` stands for a size that is not known.
pub(super) fn group(size: Option<u64>) -> u64 {
    let mut group = GROUP;
    while size.is_some_and(|size| size.div_ceil(group) > MOST_GROUPS) {
        group *= 2;
    }
    group
}

/// Returns the number of groups in so many bytes.
pub(super) fn groups(bytes: u64, group: u64) -> usize {
    bytes.div_ceil(group) as usize
}

/// Hash of a file's bytes as they pass.
#[derive(Clone, Debug)]
pub(super) struct Hashed {
    group: u64,
    /// Hashes of the groups that are full, and are followed by others.
    full: Vec<ChainingValue>,
    current: Box<Hasher>,
    /// Bytes of the current group.
    filled: u64,
    /// Bytes of all groups.
    pub(super) bytes: u64,
}

impl Hashed {
    pub(super) fn new(group: u64) -> Self {
        Hashed { group, full: Vec::new(), current: Box::default(), filled: 0, bytes: 0 }
    }

    /// Goes on behind full groups with these hashes.
    pub(super) fn after(group: u64, full: Vec<ChainingValue>) -> Self {
        let bytes = full.len() as u64 * group;
        let mut current = Box::<Hasher>::default();
        current.set_input_offset(bytes);
        Hashed { group, full, current, filled: 0, bytes }
    }

    pub(super) fn update(&mut self, mut data: &[u8]) {
        self.bytes += data.len() as u64;
        while !data.is_empty() {
            if self.filled == self.group {
                self.full.push(self.current.finalize_non_root());
                *self.current = Hasher::new();
                self.current.set_input_offset(self.full.len() as u64 * self.group);
                self.filled = 0;
            }
            let most = usize::try_from(self.group - self.filled).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(most.min(data.len()));
            self.current.update(now);
            self.filled += now.len() as u64;
            data = later;
        }
    }

    /// Takes in so many zero bytes.
    pub(super) fn zeros(&mut self, mut bytes: u64) {
        while bytes > 0 {
            let n = usize::try_from(bytes).unwrap_or(READ).min(READ);
            self.update(&ZEROS[..n]);
            bytes -= n as u64;
        }
    }

    /// Returns the hashes of all groups, of which the last one may not be full.
    pub(super) fn groups(&self) -> Vec<ChainingValue> {
        let mut all = self.full.clone();
        all.extend((self.filled > 0).then(|| self.current.finalize_non_root()));
        all
    }

    /// Returns BLAKE3's hash of all that passed.
    pub(super) fn digest(&self) -> [u8; HASH] {
        if self.full.is_empty() {
            return self.current.finalize().into();
        }
        if self.filled == 0 {
            return root(&self.full, self.group, self.bytes).into();
        }
        let mut all = self.full.clone();
        all.push(self.current.finalize_non_root());
        root(&all, self.group, self.bytes).into()
    }
}

/// The hash of a file of at least two groups.
fn root(groups: &[ChainingValue], group: u64, bytes: u64) -> blake3::Hash {
    if groups.len() < 2 {
        // `digest` asks for no such: one group is hashed as a whole.
        return blake3::hash(&[]);
    }
    let left = left_subtree_len(bytes);
    let at = (left / group) as usize;
    merge_subtrees_root(
        &inner(&groups[..at], group, left),
        &inner(&groups[at..], group, bytes - left),
        Mode::Hash,
    )
}

fn inner(groups: &[ChainingValue], group: u64, bytes: u64) -> ChainingValue {
    match groups {
        [one] => *one,
        _ => {
            let left = left_subtree_len(bytes);
            let at = (left / group) as usize;
            let right = inner(&groups[at..], group, bytes - left);
            merge_subtrees_non_root(&inner(&groups[..at], group, left), &right, Mode::Hash)
        }
    }
}

/// Hashes of the groups of a file's first `bytes` bytes, by as many threads as there are processors, 8 at most.
///
/// # Errors
/// Those of reading; `UnexpectedEof` if it is shorter.
pub(super) fn of_file(file: &File, bytes: u64, group: u64) -> io::Result<Vec<ChainingValue>> {
    let count = groups(bytes, group);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(count);
    let next = AtomicUsize::new(0);
    let some = || -> io::Result<Vec<(usize, ChainingValue)>> {
        let (mut done, mut buffer) = (Vec::new(), vec![0; usize::try_from(bytes).unwrap_or(READ).min(READ)]);
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return Ok(done);
            }
            let begin = n as u64 * group;
            let end = (begin + group).min(bytes);
            let mut hasher = Hasher::new();
            hasher.set_input_offset(begin);
            let mut at = begin;
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(READ).min(READ);
                read_at(file, &mut buffer[..most], at)?;
                hasher.update(&buffer[..most]);
                at += most as u64;
            }
            done.push((n, hasher.finalize_non_root()));
        }
    };
    let mut all = vec![[0; HASH]; count];
    let results: Vec<io::Result<_>> = if threads <= 1 {
        vec![some()]
    } else {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
            let lost = |_| Err(io::Error::other("a thread that hashed a file was lost"));
            running.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
        })
    };
    for result in results {
        for (n, hash) in result? {
            all[n] = hash;
        }
    }
    Ok(all)
}

/// Fills the buffer from this position on.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, at);
    #[cfg(windows)]
    {
        let mut filled = 0;
        while filled < buffer.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut buffer[filled..], at + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn payload(len: usize) -> Vec<u8> {
        (0..len as u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
    }

    #[test]
    fn the_hash_of_groups_is_blake3s() {
        let data = payload(7 * 2048 + 5);
        for len in [0, 1, 1024, 2047, 2048, 2049, 4096, 4097, 6144, 8192, 8193, 14336, data.len()] {
            for step in [1000, 2048, 5000, 20_000] {
                let mut hashed = Hashed::new(2048);
                data[..len].chunks(step).for_each(|piece| hashed.update(piece));
                assert_eq!(hashed.digest(), *blake3::hash(&data[..len]).as_bytes(), "{len} by {step}");
                assert_eq!(hashed.bytes, len as u64);
            }
        }
        let mut zeros = Hashed::new(GROUP);
        zeros.update(b"x");
        zeros.zeros(3_000_000);
        let mut plain = vec![0; 3_000_001];
        plain[0] = b'x';
        assert_eq!(zeros.digest(), *blake3::hash(&plain).as_bytes());
    }

    #[test]
    fn a_file_that_is_gone_on_with_has_the_same_hash_and_groups_tell_where_it_differs() {
        let mut data = payload(9 * 2048 + 100);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        let all = of_file(&file, data.len() as u64, 2048).unwrap();
        assert_eq!(all.len(), 10);
        let whole = *blake3::hash(&data).as_bytes();
        for known in 0..=9 {
            let mut hashed = Hashed::after(2048, all[..known].to_vec());
            hashed.update(&data[known * 2048..]);
            assert_eq!(hashed.digest(), whole, "{known}");
        }
        // All groups are full.
        assert_eq!(
            Hashed::after(2048, all[..8].to_vec()).digest(),
            *blake3::hash(&data[..8 * 2048]).as_bytes()
        );
        data[5 * 2048 + 7] ^= 1;
        let mut other = tempfile::tempfile().unwrap();
        other.write_all(&data).unwrap();
        let others = of_file(&other, data.len() as u64, 2048).unwrap();
        let differ: Vec<usize> = (0..10).filter(|n| all[*n] != others[*n]).collect();
        assert_eq!(differ, [5]);
        assert_eq!(
            of_file(&other, data.len() as u64 + 1, 2048).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(of_file(&other, 0, 2048).unwrap().is_empty());
    }

    #[test]
    fn hashes_of_a_file_have_a_bound() {
        for (size, bytes) in
            [(None, 1 << 20), (Some(0), 1 << 20), (Some(1 << 36), 1 << 20), (Some((1 << 36) + 1), 1 << 21)]
        {
            assert_eq!(group(size), bytes);
        }
        assert!(groups(u64::MAX, group(Some(u64::MAX))) as u64 <= MOST_GROUPS);
    }
}
