//! The file with a node's private key.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use p2pd_core::{SecretKey, SecretKeyError};

use crate::files::make_private;
use crate::secret::read_private;

/// Longer than any key file.
const MAX_FILE: u64 = 1024;
/// Most links that are followed, the same as on Linux.
const MAX_LINKS: u8 = 40;

/// Reason why a key file could not be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Reading or writing failed, or the file is of another owner or mode.
    Io(PathBuf, io::Error),
    /// The file contains no key; the inner error says where it is wrong.
    Malformed(PathBuf, SecretKeyError),
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileError::Io(path, why) => write!(f, "key file {}: {why}", path.display()),
            KeyFileError::Malformed(path, why) => write!(f, "key file {}: {why}", path.display()),
        }
    }
}

impl std::error::Error for KeyFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            KeyFileError::Io(_, why) => Some(why),
            KeyFileError::Malformed(_, why) => Some(why),
        }
    }
}

/// Reads the key in `path`, or makes a new one there, with mode 0600, if there is no such file. Its folder is made too.
/// Of two processes that create it at once both get the same key.
///
/// # Errors
/// Names the file and the error. A file that others may read is refused, since its key may be known; one that is not a
/// key is left as it is.
pub fn load_or_create_key(path: &Path) -> Result<SecretKey, KeyFileError> {
    let io = |why| KeyFileError::Io(path.to_owned(), why);
    match read(path) {
        Err(KeyFileError::Io(_, e)) if e.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let key = SecretKey::from_bytes(crate::random_seed().map_err(io)?);
    // Where another process was faster, its key is the one.
    let made = follow(path).and_then(|place| make_private(&place, key.to_file_text().as_bytes()));
    if made.map_err(io)? { Ok(key) } else { read(path) }
}

fn read(path: &Path) -> Result<SecretKey, KeyFileError> {
    let text = read_private(path, MAX_FILE).map_err(|why| KeyFileError::Io(path.to_owned(), why))?;
    SecretKey::from_file_text(&text).map_err(|why| KeyFileError::Malformed(path.to_owned(), why))
}

/// Follows a symbolic link to its end, though nothing is there; any other path is its own end.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut place = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&place) {
            // A relative target counts from the link's own folder.
            Ok(target) => place = place.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(place),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "too many symbolic links"))
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
        let said = open.unwrap_err().to_string();
        assert!(said.contains("mode 644"), "{said}");
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

    #[test]
    fn links_are_followed_even_to_a_key_that_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::os::unix::fs::symlink("real", &link).unwrap();
        let made = load_or_create_key(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link is left as it is");
        assert_eq!(load_or_create_key(&real).unwrap().node_id(), made.node_id());
        let around = dir.path().join("around");
        std::os::unix::fs::symlink("around", &around).unwrap();
        let lost = load_or_create_key(&around);
        assert!(matches!(&lost, Err(KeyFileError::Io(path, _)) if *path == around), "{lost:?}");
    }

    #[test]
    fn a_place_that_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        if !made.is_ok_and(|s| s.success()) {
            eprintln!("SKIPPED a_place_that_is_no_file_is_refused_at_once: no mkfifo here");
            return;
        }
        let (told, hears) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(load_or_create_key(&fifo)));
        let answer = hears.recv_timeout(std::time::Duration::from_secs(10)).expect("waits for a writer");
        assert!(matches!(&answer, Err(KeyFileError::Io(..))), "{answer:?}");
    }

    #[test]
    fn a_folder_that_may_not_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
        let refused = load_or_create_key(&closed.join("key"));
        if refused.is_ok() && rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED a_folder_that_may_not_be_read_is_named: root may read every folder");
            return;
        }
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("closed/key") && text.to_lowercase().contains("permission"), "{text}");
    }
}
