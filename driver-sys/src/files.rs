//! Files that a program is told to use: read without waiting, made for their owner alone, replaced as a whole.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

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
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
    }
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

/// Creates a file that only its owner may read and write (mode 0600), for a key or a trace.
///
/// # Errors
/// The system's. A path that exists, even as a link that leads nowhere, is left alone.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
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
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)?;
    let beside = write_beside(path, contents)?;
    // A hard link fails where the name exists, which a rename would replace.
    let linked = fs::hard_link(&beside, path);
    let _ = fs::remove_file(&beside);
    match linked {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.exists() => Ok(false),
        Err(e) => Err(e),
    }
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
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
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
