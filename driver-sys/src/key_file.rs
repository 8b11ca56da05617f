//! The file with a node's private key.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use p2pd_core::{SecretKey, SecretKeyError};

/// Longer than any key file.
const MAX_FILE: u64 = 1024;

/// Why a key file could not be used.
#[derive(Debug)]
pub enum KeyFileError {
    /// It could not be read, or its place not written.
    Io(PathBuf, io::Error),
    /// It is no key file; the inner error says where.
    Malformed(PathBuf, SecretKeyError),
    /// Others than its owner may read or write it: these permission bits.
    Permissions(PathBuf, u32),
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileError::Io(path, why) => write!(f, "key file {}: {why}", path.display()),
            KeyFileError::Malformed(path, why) => write!(f, "key file {}: {why}", path.display()),
            KeyFileError::Permissions(path, mode) => write!(
                f,
                "key file {0} can be read or written by others (mode {mode:o}); mend it by: chmod 600 {0}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for KeyFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            KeyFileError::Io(_, why) => Some(why),
            KeyFileError::Malformed(_, why) => Some(why),
            KeyFileError::Permissions(..) => None,
        }
    }
}

/// Reads the key in `path`, or makes a new one there, with mode 0600, if there is no such file. Its folder is
/// made too. Of two processes that create it at once both get the same key.
///
/// # Errors
/// Names the file and what is wrong with it. A file that others may read is refused, since its key may be
/// known; one that is not a key is left as it is.
pub fn load_or_create_key(path: &Path) -> Result<SecretKey, KeyFileError> {
    let io = |why| KeyFileError::Io(path.to_owned(), why);
    match File::open(path) {
        Ok(file) => read(path, file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = SecretKey::from_bytes(crate::random_seed().map_err(io)?);
            if create(path, &key).map_err(io)? {
                return Ok(key);
            }
            // Another process was faster: its key is the one.
            read(path, File::open(path).map_err(io)?)
        }
        Err(e) => Err(io(e)),
    }
}

fn read(path: &Path, file: File) -> Result<SecretKey, KeyFileError> {
    let io = |why| KeyFileError::Io(path.to_owned(), why);
    let metadata = file.metadata().map_err(io)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & 0o077 != 0 {
            return Err(KeyFileError::Permissions(path.to_owned(), mode));
        }
    }
    if !metadata.is_file() {
        return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "not a file")));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
    SecretKey::from_file_text(&text).map_err(|why| KeyFileError::Malformed(path.to_owned(), why))
}

/// Writes the key beside `path` and links it there: whole or not at all. False: `path` exists by now.
fn create(path: &Path, key: &SecretKey) -> io::Result<bool> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // A name of its own for each try: two of them sharing one could link each other's key.
    let seed = crate::random_seed()?;
    let unique = seed.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    name.push(format!(".new-{unique:016x}"));
    let beside = folder.join(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(key.to_file_text().as_bytes())?;
        file.sync_all()
    });
    // A hard link fails where the name exists, which a rename would replace.
    let linked = written.and_then(|()| fs::hard_link(&beside, path));
    let _ = fs::remove_file(&beside);
    match linked {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.exists() => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_with_mode_0600_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/key");
        let made = load_or_create_key(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(load_or_create_key(&path).unwrap().node_id(), made.node_id());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing left beside it");
    }

    #[test]
    fn bad_files_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        load_or_create_key(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let open = load_or_create_key(&path);
        assert!(matches!(&open, Err(KeyFileError::Permissions(_, 0o644))), "{open:?}");
        for text in ["", "hello", "p2pd-secret-key-1 zz\n"] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            let bad = load_or_create_key(&path);
            assert!(matches!(&bad, Err(KeyFileError::Malformed(..))), "{text:?}: {bad:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let folder = load_or_create_key(dir.path());
        assert!(matches!(&folder, Err(KeyFileError::Io(..))), "{folder:?}");
        let below_a_file = load_or_create_key(&path.join("key"));
        assert!(matches!(&below_a_file, Err(KeyFileError::Io(..))), "{below_a_file:?}");
    }

    #[test]
    fn creating_at_once_gives_one_key() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("key");
            let make = || load_or_create_key(&path).unwrap().node_id();
            let (a, b) = std::thread::scope(|s| {
                let other = s.spawn(make);
                (make(), other.join().unwrap())
            });
            assert_eq!(a, b);
        }
    }
}
