//! The shipped list of public servers. They learn this machine's address and whom it calls, so their user is asked once.

use std::fs;
use std::io::{self, BufRead};
use std::path::Path;

use p2pd::servers::Servers;

use crate::print;
use crate::say::Say;
use crate::talk::Input;

/// File in the user's folder with the hash of each list that was agreed to.
const FILE: &str = "public-servers";
/// Longest answer.
const ANSWER: u64 = 64;
/// Most of the file that is read.
const MOST: u64 = 64 << 10;

/// Asks at the terminal, unless the same list was agreed to before. Without a terminal the servers are named in a warning.
///
/// # Errors
/// Says what else to do, after a no.
pub(crate) fn agree(servers: &Servers, say: Say) -> Result<(), String> {
    let names = names(servers).join(", ");
    let file = crate::secret::at_home(FILE);
    let hash = blake3::hash(servers.to_text().as_bytes()).to_hex();
    if file.as_deref().is_some_and(|file| knows(file, &hash)) {
        return Ok(());
    }
    if say.is_json() || !Input::can_ask() {
        say.warning(&format!(
            "no --config: public servers of others are used, which learn this machine's address: {names}"
        ));
        return Ok(());
    }
    print::tell(&format!(
        "No server list was given (--config). There are public servers of others: {names}.\n\
         They learn this machine's address, and whom it calls. Use them from now on? [y/N]"
    ));
    if !yes() {
        return Err("no servers: give --config FILE, or --no-servers for calls without any".into());
    }
    // Where it cannot be kept, it is asked again.
    if let Some(file) = file
        && let Err(why) = keep(&file, &hash)
    {
        say.warning(&format!("{}: {why}", file.display()));
    }
    Ok(())
}

fn names(servers: &Servers) -> Vec<String> {
    let brokers = servers.brokers.iter().map(|server| &server.host);
    let others = servers.stun.iter().map(|server| &server.host);
    let turn = servers.turn.iter().map(|server| &server.host);
    let ntp = servers.ntp.iter().map(|server| &server.host);
    brokers.chain(others).chain(turn).chain(ntp).map(|host| host.to_string()).collect()
}

fn knows(file: &Path, hash: &str) -> bool {
    let text = p2pd_sys::read_private(file, MOST);
    text.is_ok_and(|text| text.lines().any(|line| line == hash))
}

/// Adds the list to those that were agreed to.
fn keep(file: &Path, hash: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let before = match p2pd_sys::read_private(file, MOST) {
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
        Err(why) => return Err(why),
    };
    p2pd_sys::replace_private(file, format!("{before}{hash}\n").as_bytes())
}

/// Reads a line from standard input. True for a yes.
pub(crate) fn yes() -> bool {
    is_yes(&read_line(io::stdin().lock()))
}

/// Reads a line and nothing behind it, which is for whoever reads next.
fn read_line(input: impl BufRead) -> String {
    let mut line = Vec::new();
    // What cannot be read is no answer.
    let _ = input.take(ANSWER).read_until(b'\n', &mut line);
    String::from_utf8_lossy(&line).into_owned()
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line_and_no_is_the_default() {
        let mut input = &b"Yes \nhello"[..];
        assert!(is_yes(&read_line(&mut input)));
        assert_eq!(input, b"hello");
        for no in ["", "n\n", "yess\n", "no\n", "\n"] {
            assert!(!is_yes(&read_line(no.as_bytes())), "{no:?}");
        }
    }

    #[test]
    fn what_was_agreed_to_is_kept_list_by_list() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new").join(FILE);
        assert!(!knows(&file, "a"));
        keep(&file, "a").unwrap();
        keep(&file, "b").unwrap();
        assert!(knows(&file, "a") && knows(&file, "b") && !knows(&file, "c"));
    }
}
