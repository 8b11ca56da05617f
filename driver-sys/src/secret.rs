//! Files that are believed because they are the user's own: keys, tokens, passwords, pins.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::files::{open_file, text_of};
use crate::sys;

/// Reads the text of a file that only its owner, the present user, may read and write: mode 0600 or less. Links are
/// followed, and their target is checked. A named pipe is not waited for.
///
/// # Errors
/// Those of [`open_file`]; `PermissionDenied`, with the remedy, for a file of another owner or mode. `FileTooLarge`
/// beyond `longest` bytes, `InvalidData` for text that is not UTF-8. On Windows the file's access list is looked at: nobody but
/// the present user, the system and its administrators may be in it.
pub fn read_private(path: &Path, longest: u64) -> io::Result<String> {
    text_of(open_own(path, 0o077)?, longest)
}

/// Opens a file of the present user in which none of these permission bits is set.
pub(crate) fn open_own(path: &Path, forbidden: u32) -> io::Result<File> {
    let file = open_file(path)?;
    sys::check_own(&file, forbidden)?;
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
        let kind = |path| read_private(path, 10).map_err(|why| why.kind());
        assert_eq!(kind(&path), Err(io::ErrorKind::NotFound));
        fs::write(&path, "secret").unwrap();
        for mode in [0o644, 0o640, 0o620, 0o604, 0o610, 0o601] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let refused = read_private(&path, 10).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            assert!(
                refused.to_string().contains(&format!("(mode {mode:o}); mend it by chmod 600")),
                "{refused}"
            );
            // What is only not to be changed by others.
            assert_eq!(open_own(&path, 0o022).is_ok(), mode & 0o022 == 0, "{mode:o}");
        }
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(kind(&path), Ok("secret".into()));
        }
        assert_eq!(read_private(&path, 5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(kind(&link), Ok("secret".into()));
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        for place in [dir.path(), &fifo] {
            assert_eq!(read_private(place, 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
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
        for forbidden in [0o077, 0o022] {
            let refused = open_own(&path, forbidden).unwrap_err();
            assert!(refused.to_string().contains(&format!("another user (number {uid})")), "{refused}");
        }
    }
}
