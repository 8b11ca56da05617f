//! Files of this program with a secret of 32 bytes in them, which it makes itself.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

/// Hexadecimal digits of a secret.
const DIGITS: usize = 64;

/// A file of this name in the folder that this program has in the user's home.
pub(crate) fn at_home(name: &str) -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".p2pd").join(name))
}

/// The secret in a file, which is made with mode 0600 if it is missing.
///
/// # Errors
/// Names the file and what is wrong with it: not ours alone, or something else.
pub(crate) fn load_or_create(path: &Path) -> Result<String, String> {
    let name = path.display();
    let load = || match p2pd_sys::open_private(path) {
        Ok(file) => read(file).map(Some),
        Err(why) if why.is_missing() => Ok(None),
        Err(why) => Err(why.to_string()),
    };
    let made = || create(path).map_err(|why| why.to_string());
    let found = match load() {
        // Another process may have made it meanwhile.
        Ok(None) => made().and_then(|()| load()),
        found => found,
    };
    found.and_then(|secret| secret.ok_or("is gone".into())).map_err(|why| format!("{name}: {why}"))
}

fn read(file: File) -> Result<String, String> {
    let mut text = String::new();
    file.take(DIGITS as u64 + 2).read_to_string(&mut text).map_err(|e| e.to_string())?;
    let secret = text.trim_end();
    if secret.len() == DIGITS && secret.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(secret.to_owned())
    } else {
        Err(format!("no token: {DIGITS} hexadecimal digits. Remove it, and a new one is made"))
    }
}

/// Makes it, whole or not at all.
fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt;
            builder.mode(0o700);
        }
        builder.recursive(true).create(folder)?;
    }
    let mut beside = path.file_name().unwrap_or_default().to_owned();
    beside.push(format!(".new-{}", HEXLOWER.encode(&p2pd_tokio::random_seed()?[..8])));
    let beside = path.with_file_name(beside);
    let secret = HEXLOWER.encode(&p2pd_tokio::random_seed()?);
    let written = p2pd_tokio::create_private(&beside).and_then(|mut file| {
        file.write_all(format!("{secret}\n").as_bytes())?;
        file.sync_all()
    });
    // A hard link fails where the name exists, which a rename would replace.
    let linked = written.and_then(|()| fs::hard_link(&beside, path));
    let _ = fs::remove_file(&beside);
    match linked {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/token");
        let secret = load_or_create(&path).unwrap();
        assert_eq!(secret.len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("new")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(dir.path().join("new")).unwrap().count(), 1, "nothing left beside it");
        assert_eq!(load_or_create(&path).unwrap(), secret);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = load_or_create(&path).unwrap_err();
        assert!(refused.contains("640") && refused.contains("new/token"), "{refused}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "abc", &"g".repeat(64), &"a".repeat(65)] {
            fs::write(&path, text).unwrap();
            assert!(load_or_create(&path).is_err(), "{text}");
        }
    }

    #[test]
    fn making_it_at_once_gives_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let made: Vec<String> = std::thread::scope(|s| {
            let threads = [(); 8].map(|()| s.spawn(|| load_or_create(&path).unwrap()));
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|secret| *secret == made[0]), "{made:?}");
    }
}
