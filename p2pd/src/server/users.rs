//! Users of the TURN server, from options, files and the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use p2pd::serve::WantedTurn;
use p2pd_rendezvous::turn::Limits;
use p2pd_sys::{make_private, read_private};

use crate::options::{self, Serve};
use crate::say::Say;

/// A secret, where no option gives one.
const SECRET: &str = "P2PD_TURN_SECRET";
/// Most bytes of a file with users or a secret.
const LONGEST: u64 = 1 << 20;
/// The user whose password is made once and kept.
const KEPT: &str = "p2pd";

/// Returns the TURN server to run and the file that keeps the password made for it.
pub(super) fn wanted(options: &Serve, say: Say) -> Result<Option<(WantedTurn, Option<PathBuf>)>, String> {
    if options.no_turn {
        return Ok(None);
    }
    let Serve { turn_user, turn_users, turn_secret, turn_secret_file, .. } = options;
    for (given, option, rather) in [
        (!turn_user.is_empty(), "--turn-user", "--turn-users FILE"),
        (turn_secret.is_some(), "--turn-secret", "--turn-secret-file FILE"),
    ] {
        if given {
            say.warning(&format!(
                "every user of this machine can read {option} in the list of processes: rather {rather}"
            ));
        }
    }
    let mut users = turn_user.clone();
    if let Some(path) = turn_users {
        users.extend(listed(path)?);
    }
    let secret = match (turn_secret, turn_secret_file) {
        (Some(secret), _) => Some(secret.clone()),
        (None, Some(path)) => Some(secret_in(path)?),
        (None, None) => std::env::var_os(SECRET).map(from_environment).transpose()?,
    };
    let mut kept = None;
    if options.turn_password_file.is_some() || (users.is_empty() && secret.is_none()) {
        let path = kept_in(options.turn_password_file.as_deref())?;
        let password = password(&path).map_err(|why| {
            format!("{}: {why}; give --turn-password-file another file, or --no-turn", path.display())
        })?;
        users.insert(0, (KEPT.into(), password));
        kept = Some(path);
    }
    let rate = |bytes: u64| (bytes > 0).then_some(bytes);
    let limits = Limits {
        allocation_bytes: rate(options.turn_rate),
        user_bytes: rate(options.turn_user_rate),
        ..Limits::default()
    };
    let (relay_ips, allow_private) = (options.relay_ip.clone(), options.turn_allow_private);
    if matches!(relay_ips[..], [a, b, ..] if relay_ips.len() > 2 || a.is_ipv4() == b.is_ipv4()) {
        return Err("--relay-ip is for one IPv4 and one IPv6 address".into());
    }
    Ok(Some((WantedTurn { users, secret, relay_ips, allow_private, limits }, kept)))
}

fn kept_in(given: Option<&Path>) -> Result<PathBuf, String> {
    match given {
        Some(path) => Ok(path.to_owned()),
        None => {
            let home =
                std::env::home_dir().ok_or("no home directory: give --turn-password-file, or --no-turn")?;
            Ok(home.join(".p2pd").join("turn-password"))
        }
    }
}

/// The password in a file, or a new one that is put there: lists that were given out hold for the next start too.
fn password(path: &Path) -> std::io::Result<String> {
    let seed = p2pd_tokio::random_seed()?;
    let new = seed[..16].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    if make_private(path, format!("{new}\n").as_bytes())? {
        return Ok(new);
    }
    let text = read_private(path, LONGEST)?;
    match text.trim() {
        "" => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "there is no password in it")),
        password => Ok(password.to_owned()),
    }
}

/// The users of a file: one `NAME:PASSWORD` a line.
fn listed(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = read_private(path, LONGEST).map_err(|why| format!("{}: {why}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let user =
        |(n, line)| options::user(line).map_err(|why| format!("{}: line {}: {why}", path.display(), n + 1));
    lines.map(user).collect()
}

fn secret_in(path: &Path) -> Result<String, String> {
    let text = read_private(path, LONGEST).map_err(|why| format!("{}: {why}", path.display()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{}: there is no secret in it", path.display())),
        secret => Ok(secret.to_owned()),
    }
}

fn from_environment(value: OsString) -> Result<String, String> {
    let secret = value.into_string().ok().filter(|secret| !secret.is_empty());
    secret.ok_or_else(|| format!("{SECRET} is empty or no text"))
}
