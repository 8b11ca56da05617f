//! Command for the other side, which fits this side's options, and a QR code of the address.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;

use p2pd_core::Name;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use crate::options::Common;
use crate::print::tell;

/// Command for the other side, with the address to call.
#[derive(Debug)]
pub(crate) struct Invitation {
    /// Parts of the command before the address and behind it.
    command: [String; 2],
    /// Name to give in place of the address.
    name: Option<Name>,
    qr: bool,
}

impl Invitation {
    /// Creates the invitation for this subcommand of the other side. `behind` is the text behind the address in it.
    pub(crate) fn new(verb: &str, behind: &str, name: Option<Name>, qr: bool, common: &Common) -> Self {
        let mut options = behind.to_owned();
        if common.no_servers {
            options += " --no-servers";
        }
        if common.lan {
            options += " --lan";
        }
        if let Some(list) = &common.config {
            options += &format!(" --config {}", quoted(&file_name(list)));
        }
        // Such a node is for this machine only, and so is the other one then.
        if let Some(ip) = common.bind.filter(IpAddr::is_loopback) {
            options += &format!(" --bind {ip}");
        }
        Invitation { command: [format!("p2pd {verb}"), options], name, qr }
    }

    /// Prints the command to standard error.
    pub(crate) fn tell(&self, address: &impl Display) {
        let to = self.name.map_or_else(|| address.to_string(), |name| name.to_string());
        let [verb, options] = &self.command;
        tell(&format!("other side: {verb} {}{options}", quoted(&to)));
        if self.qr {
            self.draw(&to);
        }
    }

    /// Prints a QR code to standard error.
    pub(crate) fn draw(&self, text: &impl Display) {
        qr(&text.to_string()).iter().for_each(|line| tell(line));
    }
}

/// Name of a file without its folder, which may be another one at the other side.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    if !word.is_empty() && word.bytes().all(is_bare) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Two rows of modules in a line, light ones as blocks: terminals are dark as a rule, and readers take both.
fn qr(text: &str) -> Vec<String> {
    // No address is too long for one.
    let Ok(code) = QrCode::new(text) else { return Vec::new() };
    let drawn = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    drawn.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_where_they_have_to_be() {
        for (word, expected) in [
            ("servers.toml", "servers.toml"),
            ("example.peer", "example.peer"),
            ("0-[0,192.0.2.1,192.0.2.1,5,1,1,0]-0-abc", "'0-[0,192.0.2.1,192.0.2.1,5,1,1,0]-0-abc'"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
            let out =
                std::process::Command::new("sh").arg("-c").arg(format!("printf %s {expected}")).output();
            assert_eq!(out.unwrap().stdout, word.as_bytes());
        }
    }

    #[test]
    fn the_longest_address_fits_into_a_code_of_equal_lines() {
        for text in ["a", &"[0,2001:db8::1,2001:db8::1,65535,5,6,65535]".repeat(23)] {
            let lines = qr(text);
            assert!(!lines.is_empty());
            assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()));
        }
    }
}
