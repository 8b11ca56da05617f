//! Files that hold what only their owner is to know.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Puts a file that only its owner may read and write in the place of whatever is there: whole or not at all.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    put(path, text, |beside| fs::rename(beside, path))
}

/// The same where nothing is there yet. False: something is.
pub(super) fn create(path: &Path, text: &str) -> io::Result<bool> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    // A hard link fails where the name exists, which a rename would replace.
    match put(path, text, |beside| fs::hard_link(beside, path)) {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(why) => Err(why),
    }
}

fn put(path: &Path, text: &str, place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let seed = p2pd_tokio::random_seed()?;
    let unique = seed.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".new-{unique:016x}"));
    let beside = path.with_file_name(name);
    let written = p2pd_sys::create_private(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| place(&beside));
    let _ = fs::remove_file(&beside);
    written
}

/// The text of a file that nobody else may read or change.
pub(super) fn read(path: &Path) -> io::Result<String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let why = format!("others may read or change it (mode {mode:04o}): give it the mode 0600");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    fs::read_to_string(path)
}
