//! Files with secrets in them: keys, tokens, passwords, pins.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::files::open_file;

/// Why a file is not taken for a secret of ours.
#[derive(Debug)]
pub enum SecretError {
    /// The system did not open it.
    Io(io::Error),
    /// A folder, a device or a named pipe.
    NotAFile,
    /// Another user's, of this number, who may have chosen what is in it.
    Owner(u32),
    /// Others than its owner may read or write it: these permission bits.
    Mode(u32),
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::Io(why) => why.fmt(f),
            SecretError::NotAFile => f.write_str("not a file"),
            SecretError::Owner(uid) => {
                write!(f, "belongs to another user (number {uid}); mend it by chown, or give another path")
            }
            SecretError::Mode(mode) => {
                write!(f, "can be read or written by others (mode {mode:o}); mend it by: chmod 600")
            }
        }
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SecretError::Io(why) => Some(why),
            _ => None,
        }
    }
}

impl From<io::Error> for SecretError {
    fn from(why: io::Error) -> Self {
        SecretError::Io(why)
    }
}

impl SecretError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, SecretError::Io(why) if why.kind() == io::ErrorKind::NotFound)
    }
}

impl From<SecretError> for io::Error {
    fn from(why: SecretError) -> Self {
        match why {
            SecretError::Io(why) => why,
            why @ SecretError::NotAFile => io::Error::new(io::ErrorKind::InvalidInput, why),
            why => io::Error::new(io::ErrorKind::PermissionDenied, why),
        }
    }
}

/// Opens a file to read that only we may read and write: ours, mode 0600 or less. Links are followed, and what they lead
/// to is judged. A named pipe is not waited for.
///
/// # Errors
/// Which of these it is not. Elsewhere than on Unix only that it is a file is looked at.
pub fn open_private(path: &Path) -> Result<File, SecretError> {
    open_own(path, 0o077)
}

/// The same, where these permission bits may not be set.
pub(crate) fn open_own(path: &Path, forbidden: u32) -> Result<File, SecretError> {
    let file = open_file(path).map_err(|why| match why.kind() {
        io::ErrorKind::InvalidInput => SecretError::NotAFile,
        _ => SecretError::Io(why),
    })?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let found = file.metadata()?;
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(SecretError::Owner(found.uid()));
        }
        if found.mode() & forbidden != 0 {
            return Err(SecretError::Mode(found.mode() & 0o777));
        }
    }
    #[cfg(not(unix))]
    let _ = forbidden;
    Ok(file)
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_a_file_of_ours_that_nobody_else_can_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(open_private(&path).unwrap_err().is_missing());
        fs::write(&path, "secret").unwrap();
        for mode in [0o644, 0o640, 0o620, 0o604, 0o610, 0o601] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let refused = open_private(&path).unwrap_err();
            assert!(matches!(refused, SecretError::Mode(found) if found == mode), "{refused}");
        }
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            open_private(&path).unwrap();
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        open_private(&link).unwrap();
        assert!(matches!(open_private(dir.path()), Err(SecretError::NotAFile)));
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        assert!(matches!(open_private(&fifo), Err(SecretError::NotAFile)), "and nobody is waited for");
    }

    #[test]
    fn a_secret_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let uid = rustix::process::geteuid().as_raw() + 1;
        if std::os::unix::fs::chown(&path, Some(uid), None).is_err() {
            eprintln!("SKIPPED a_secret_of_another_user_is_refused: only root gives files away");
            return;
        }
        let refused = open_private(&path).unwrap_err();
        // Who is not root cannot even open it.
        assert!(matches!(refused, SecretError::Owner(found) if found == uid), "{refused}");
        assert!(refused.to_string().contains("another user"), "{refused}");
    }
}
