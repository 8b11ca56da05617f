//! Logins at a server, as its entry says: a password in one of three places, or a login in a URL.

use std::path::Path;

use p2pd_core::text::shown;

use super::folder::beside;
use super::format::host_and_port;

/// The keys of an entry that name its password.
#[derive(Debug, Default)]
pub(super) struct Password {
    pub(super) text: Option<String>,
    pub(super) file: Option<String>,
    pub(super) variable: Option<String>,
}

impl Password {
    /// The password. Only variables that begin with `prefix` are read: lists are handed on, and no list is to have another
    /// secret sent.
    pub(super) fn read(self, folder: &Path, prefix: &str) -> Result<Option<String>, String> {
        match (self.text, self.file, self.variable) {
            (None, None, None) => Ok(None),
            (Some(password), None, None) => Ok(Some(password)),
            (None, Some(file), None) => password_file(folder, &file).map(Some),
            (None, None, Some(name)) => variable(&name, prefix).map(Some),
            _ => Err("one of `password`, `password_file`, `password_env`".into()),
        }
    }
}

/// Returns the password in a file of the list's folder, without the line's end that an editor makes.
///
/// # Errors
/// Shows the file's name, and says what is wrong with it.
pub(super) fn password_file(folder: &Path, name: &str) -> Result<String, String> {
    Ok(beside(folder, name)?.trim_end_matches(['\r', '\n']).into())
}

fn variable(name: &str, prefix: &str) -> Result<String, String> {
    if !name.starts_with(prefix) {
        return Err(format!("`password_env` names a variable that begins with {prefix}"));
    }
    std::env::var(name).map_err(|_| format!("the environment has no {}", shown(name)))
}

/// Part of a URL between the scheme and the path: `user:password@host:port`.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) host: Box<str>,
    pub(super) port: Option<u16>,
}

/// Reads it; the reasons repeat nothing of it, since it may have a password in it.
pub(super) fn authority(text: &str) -> Result<Authority, String> {
    let (login, place) = text.rsplit_once('@').map_or((None, text), |(login, place)| (Some(login), place));
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        None => (None, None),
        Some((user, "")) => (Some(decoded(user)?), None),
        Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
    };
    let (host, port) = host_and_port(place).map_err(|why| format!("`url`: {why}"))?;
    Ok(Authority { user, password, host, port })
}

/// Decodes the escapes of RFC 3986.
fn decoded(text: &str) -> Result<String, &'static str> {
    let mut parts = text.split('%');
    let mut bytes: Vec<u8> = parts.next().unwrap_or_default().into();
    for part in parts {
        let (escape, rest) = part.split_at_checked(2).ok_or("a % in the `url` that escapes nothing")?;
        bytes.push(u8::from_str_radix(escape, 16).map_err(|_| "a % in the `url` that escapes nothing")?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| "a user or password in the `url` that is no UTF-8")
}
