//! Files that a program is told to use: read without waiting, made for their owner alone, replaced as a whole.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::sys;

/// Opens a file for reading, and nothing but a file: a FIFO would wait for a writer, a device may never end.
///
/// # Errors
/// The system's, and `InvalidInput` for anything but a file.
pub fn open_file(path: &Path) -> io::Result<File> {
    // A device may act on being opened, so that it is looked at first; what was put in its place is looked at again.
    if let Ok(metadata) = fs::metadata(path) {
        be_file(&metadata)?;
    }
    let mut options = OpenOptions::new();
    options.read(true);
    sys::at_once(&mut options);
    let file = options.open(path)?;
    be_file(&file.metadata()?)?;
    Ok(file)
}

fn be_file(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let what = if metadata.is_dir() { "a folder, not a file" } else { "not a file" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Reads a file's text; opens it as [`open_file`] does.
///
/// # Errors
/// As of `open_file`; `FileTooLarge` beyond `longest` bytes, `InvalidData` for text that is not UTF-8.
pub fn read_text(path: &Path, longest: u64) -> io::Result<String> {
    text_of(open_file(path)?, longest)
}

/// The text of an open file.
pub(crate) fn text_of(file: File, longest: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {longest} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text (UTF-8)"))
}

/// Creates a file that only its owner may read and write, for a key or a trace: mode 0600. On Windows it has an access list of
/// the present user alone, and nobody else opens it before it is closed.
///
/// # Errors
/// The system's. A path that exists, even as a link that leads nowhere, is left alone. `PermissionDenied`, with the remedy,
/// where the file system cannot keep others out; then no file is left.
pub fn create_private(path: &Path) -> io::Result<File> {
    sys::create_private(path)
}

/// Puts a new file with mode 0600 in the place of `path`, also where another file is: whole or not at all.
///
/// # Errors
/// The system's; then the old file is as it was.
pub fn replace_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let beside = write_beside(path, contents)?;
    fs::rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Makes a file with mode 0600, and its folders with 0700: whole or not at all. Returns false if there is one by now,
/// which is left as it is.
///
/// # Errors
/// The system's.
pub fn make_private(path: &Path, contents: &[u8]) -> io::Result<bool> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = fs::DirBuilder::new();
    sys::owners_folders(&mut builder);
    builder.recursive(true).create(folder)?;
    let beside = write_beside(path, contents)?;
    let placed = place_new(&beside, path, &[sys::rename_new, sys::link_new, rename_locked]);
    match placed {
        Ok(()) => Ok(true),
        Err(why) => {
            let _ = fs::remove_file(&beside);
            if why.kind() == io::ErrorKind::AlreadyExists && path.exists() { Ok(false) } else { Err(why) }
        }
    }
}

/// A way to give a file a name that nothing else may have.
type Way = fn(&Path, &Path) -> io::Result<()>;

/// Gives a file a name that must be free, by the first way that the file system knows: not all have hard links, FAT for
/// one, and not all can rename so.
fn place_new(from: &Path, to: &Path, ways: &[Way]) -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for way in ways {
        match way(from, to) {
            Err(why) if why.kind() != io::ErrorKind::AlreadyExists => last = why,
            done => return done,
        }
    }
    Err(last)
}

/// The way of last resort: programs of ours wait for each other, and of others there is none at this moment.
fn rename_locked(from: &Path, to: &Path) -> io::Result<()> {
    let _lock = Lock::take(to)?;
    if to.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// A new file in the same folder, with a name that nobody else has, mode 0600, on the disk.
fn write_beside(path: &Path, contents: &[u8]) -> io::Result<PathBuf> {
    // A name of its own for each try: two that share one could put each other's in place.
    let unique = crate::random_seed()?.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let beside = with_suffix(path, &format!(".new-{unique:016x}"));
    let mut file = create_private(&beside)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&beside)))?;
    Ok(beside)
}

/// The path with this behind its file's name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Lock on the file at `path`, until it is dropped; others that ask meanwhile wait.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, by a file beside `path` that stays there: to remove it would let two in.
    ///
    /// # Errors
    /// The system's, of making that file or locking it.
    pub fn take(path: &Path) -> io::Result<Lock> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        sys::owners_alone(&mut options);
        let file = options.open(with_suffix(path, ".lock"))?;
        file.lock()?;
        Ok(Lock { _file: file })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::mpsc;
    use std::time::Duration;

    /// Fails, rather than hanging, where the call waits.
    fn at_once<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
        let (told, hears) = mpsc::channel();
        std::thread::spawn(move || told.send(call()));
        hears.recv_timeout(Duration::from_secs(10)).expect("it waits")
    }

    #[test]
    fn nothing_but_a_file_is_opened_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        );
        made.unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for place in [fifo, socket, dir.path().to_owned(), "/dev/zero".into(), "/dev/tty".into()] {
            let path = place.clone();
            let why = at_once(move || open_file(&path)).unwrap_err();
            assert_eq!(why.kind(), io::ErrorKind::InvalidInput, "{place:?}: {why}");
        }
    }

    #[test]
    fn text_has_a_longest_and_is_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read_text(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// As on FAT, which knows no hard links, and on systems that cannot rename so.
    #[test]
    fn a_name_is_given_once_by_each_way_that_there_is() {
        let not_known: Way = |_, _| Err(rustix::io::Errno::PERM.into());
        for ways in [
            &[sys::rename_new as Way] as &[Way],
            &[sys::link_new],
            &[rename_locked],
            &[not_known, rename_locked],
        ] {
            let dir = tempfile::tempdir().unwrap();
            let to = dir.path().join("key");
            let tries: Vec<PathBuf> = (0..8).map(|n| dir.path().join(n.to_string())).collect();
            for from in &tries {
                fs::write(from, from.as_os_str().as_encoded_bytes()).unwrap();
            }
            let placed: Vec<io::Result<()>> = std::thread::scope(|s| {
                let threads = tries.iter().map(|from| s.spawn(|| place_new(from, &to, ways)));
                let threads: Vec<_> = threads.collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let winner = placed.iter().position(Result::is_ok).unwrap();
            assert_eq!(fs::read(&to).unwrap(), tries[winner].as_os_str().as_encoded_bytes());
            let taken =
                |p: &io::Result<()>| p.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists);
            assert_eq!(placed.iter().filter(|p| taken(p)).count(), tries.len() - 1, "{placed:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let why = place_new(&from, &to, &[not_known]).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::PermissionDenied, "nothing is said to be done");
    }

    #[test]
    fn what_is_replaced_has_mode_0600_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old, and longer").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let reader = File::open(&path).unwrap();
        replace_private(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(text_of(reader, 100).unwrap(), "old, and longer", "who reads it reads one of them");
        replace_private(dir.path(), b"new").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing left beside it");
    }
}
