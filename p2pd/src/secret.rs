//! Files of this program with a secret of 32 bytes in them, which it makes itself.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::HEXLOWER;

/// Hexadecimal digits of a secret.
const DIGITS: usize = 64;

/// Prefixes of environment variables that hold secrets of brokers, proxies and TURN servers.
const VARIABLES: [&str; 3] = ["P2PD_MQTT_", "P2PD_PROXY_", "P2PD_TURN_"];

/// Keeps our servers' secrets out of a program's environment.
pub(crate) fn keep_secrets(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if VARIABLES.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(name);
        }
    }
}

/// A file of this name in the folder that this program has in the user's home.
pub(crate) fn at_home(name: &str) -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".p2pd").join(name))
}

/// Reads the secret in a file; `None` if there is no file.
///
/// # Errors
/// Names the file and the error: others may read it, or something else.
pub(crate) fn load(path: &Path) -> Result<Option<String>, String> {
    let found = match p2pd_sys::read_private(path, DIGITS as u64 + 2) {
        Ok(text) => read(&text).map(Some),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why.to_string()),
    };
    found.map_err(|why| format!("{}: {why}", path.display()))
}

/// Reads the secret in a file, which is made with mode 0600 if it is missing.
///
/// # Errors
/// Names the file and the error: others may read it, or something else.
pub(crate) fn load_or_create(path: &Path) -> Result<String, String> {
    let made = || -> io::Result<bool> {
        let secret = HEXLOWER.encode(&p2pd_tokio::random_seed()?);
        p2pd_sys::make_private(path, format!("{secret}\n").as_bytes())
    };
    let found = match load(path)? {
        Some(secret) => return Ok(secret),
        // Another process may have made it meanwhile.
        None => made().map_err(|why| format!("{}: {why}", path.display())).and_then(|_| load(path))?,
    };
    found.ok_or_else(|| format!("{}: is gone", path.display()))
}

fn read(text: &str) -> Result<String, String> {
    let secret = text.trim_end();
    if secret.len() == DIGITS && secret.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(secret.to_owned())
    } else {
        Err(format!("no token: {DIGITS} hexadecimal digits. Remove it, and a new one is made"))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
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
