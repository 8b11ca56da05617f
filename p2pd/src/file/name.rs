//! Names of files as they cross the wire: one place in a folder, for any text of the sender. Others are refused, not
//! mended: a mended name is one that neither side chose, and two of them may be the same.

use std::ffi::OsString;
use std::fmt;

use data_encoding::HEXLOWER;
use p2pd_core::NodeId;
use p2pd_core::text::is_plain;
use unicode_normalization::UnicodeNormalization;

use super::folder;
use super::wire::{MAX_NAME, MAX_PATH, Resume};

/// Most folders on the way to a file, with the one that was sent.
pub(crate) const MAX_DEPTH: usize = 64;
/// Suffix of the names of partial files.
const PART: &str = ".p2pd-part";
/// Hexadecimal digits that tell senders apart.
const SENDER: usize = 20;
/// Most bytes of a name that stand in the name of its partial file, between two dots and with the sender.
const IN_PART: usize = MAX_NAME - 2 - SENDER - PART.len();

/// A name that is one visible entry of a folder on every system.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileName(String);

/// Sender of a file, as it appears in the names of partial files.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Sender(String);

impl Sender {
    /// Makes the sender's name out of its secret, or else out of its node id.
    pub(crate) fn new(resume: Option<&Resume>, peer: NodeId) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(b"p2pd part");
        match resume {
            Some(secret) => hash.update(&[1]).update(secret),
            None => hash.update(&[0]).update(peer.as_bytes()),
        };
        Sender(HEXLOWER.encode(&hash.finalize().as_bytes()[..SENDER / 2]))
    }

    /// Returns the name of the partial file of an entry in a folder.
    pub(crate) fn part(&self, entry: &[u8]) -> String {
        let hash = HEXLOWER.encode(&blake3::hash(entry).as_bytes()[..8]);
        format!(".{hash}.{}{PART}", self.0)
    }
}

/// Returns the names of a path on the wire, each as this system has it.
///
/// # Errors
/// The error of the path, or of the first name that is none here. The first one is a [`FileName`].
pub(crate) fn names(path: &[u8]) -> Result<Vec<OsString>, NameError> {
    if path.len() > MAX_PATH {
        return Err(NameError::Length);
    }
    let mut names = Vec::new();
    for name in path.split(|b| *b == b'/') {
        if names.len() > MAX_DEPTH {
            return Err(NameError::Length);
        }
        names.push(if names.is_empty() { top(name)?.as_str().into() } else { entry(name)? });
    }
    Ok(names)
}

/// Returns the name of what is sent itself, the first one of each path.
///
/// # Errors
/// The error of the name.
pub(crate) fn top(name: &[u8]) -> Result<FileName, NameError> {
    FileName::new(std::str::from_utf8(name).map_err(|_| NameError::Text)?)
}

/// Returns the name of an entry in a folder that was sent. Hidden ones are taken: they belong to the folder. On Unix a
/// name may be any bytes.
///
/// # Errors
/// The error of the name.
fn entry(name: &[u8]) -> Result<OsString, NameError> {
    if !(1..=MAX_NAME).contains(&name.len()) {
        return Err(NameError::Length);
    }
    if name == b"." || name == b".." || std::str::from_utf8(name).is_ok_and(is_partial) {
        return Err(NameError::Dot);
    }
    if name.contains(&b'/') {
        return Err(NameError::Separator);
    }
    if name.contains(&0) {
        return Err(NameError::Control);
    }
    if cfg!(not(unix)) {
        portable(name)?;
    }
    folder::name(name).ok_or(NameError::Text)
}

/// Returns whether every system can have an entry of this name.
///
/// # Errors
/// Says why some cannot.
pub(crate) fn portable(name: &[u8]) -> Result<(), NameError> {
    let text = std::str::from_utf8(name).map_err(|_| NameError::Text)?;
    // A dot in front is one of a hidden file.
    let visible = text.trim_start_matches('.');
    if text.contains(['<', '>', '"', '|', '?', '*']) {
        return Err(NameError::Separator);
    }
    FileName::new(if visible.is_empty() { text } else { visible }).map(drop)
}

/// Returns what is the same of two names that some systems take for one: those differ in case alone, or in the normal form
/// of Unicode (macOS).
pub(crate) fn folded(name: &[u8]) -> String {
    let lower = |c: char| c.to_lowercase().map(|c| if c == 'ς' { 'σ' } else { c });
    String::from_utf8_lossy(name).nfd().flat_map(lower).nfc().collect()
}

/// Returns true if a file of this name is a partial one.
pub(crate) fn is_partial(name: &str) -> bool {
    let between = name.strip_prefix('.').and_then(|name| name.strip_suffix(PART));
    between.and_then(|name| name.rsplit_once('.')).is_some_and(|(name, sender)| {
        !name.is_empty() && sender.len() == SENDER && sender.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Reason why a text is no such name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NameError {
    /// The name is empty, or has more than [`MAX_NAME`] bytes.
    Length,
    /// `.`, `..`, and hidden files: those configure programs, so that receiving one could run something.
    Dot,
    /// A slash, a backslash or a colon (which begins a drive or a stream on Windows).
    Separator,
    /// A control character, or one that turns the direction of writing and so hides the real name.
    Control,
    /// A device's name on Windows, or an ending that Windows drops.
    Device,
    /// The name is not UTF-8.
    Text,
}

impl FileName {
    /// # Errors
    /// The error of the name.
    pub(crate) fn new(text: &str) -> Result<Self, NameError> {
        let device = text.split('.').next().unwrap_or("").trim_end();
        if !(1..=MAX_NAME).contains(&text.len()) {
            Err(NameError::Length)
        } else if text.starts_with('.') {
            Err(NameError::Dot)
        } else if text.contains(['/', '\\', ':']) {
            Err(NameError::Separator)
        } else if text.chars().any(|c| !is_plain(c)) {
            Err(NameError::Control)
        } else if text.ends_with(['.', ' ']) || is_device(device) {
            Err(NameError::Device)
        } else {
            Ok(FileName(text.into()))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the partial file: hidden, not to be chosen by a sender, and another one for each sender.
    pub(crate) fn partial(&self, sender: &Sender) -> String {
        let name = if self.0.len() <= IN_PART {
            self.0.clone()
        } else {
            // Two names that begin alike have two partial files.
            let hash = HEXLOWER.encode(&blake3::hash(self.0.as_bytes()).as_bytes()[..8]);
            format!("{}~{hash}", beginning(&self.0, IN_PART - 1 - hash.len()))
        };
        format!(".{name}.{}{PART}", sender.0)
    }

    /// Returns a numbered name for the same file: `a (1).txt` for `a.txt`.
    pub(crate) fn numbered(&self, number: u32) -> Self {
        if number == 0 {
            return self.clone();
        }
        let (stem, end) = match self.0.rsplit_once('.') {
            Some((stem, end)) if end.len() < 16 => (stem, format!(" ({number}).{end}")),
            _ => (&*self.0, format!(" ({number})")),
        };
        FileName(format!("{}{end}", beginning(stem, MAX_NAME - end.len())))
    }
}

/// The beginning of a text in at most so many bytes.
fn beginning(text: &str, bytes: usize) -> &str {
    let fits = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..fits.unwrap_or(0)]
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Length => write!(f, "a file's name has 1 to {MAX_NAME} bytes"),
            NameError::Dot => f.write_str("a file's name may not begin with a dot"),
            NameError::Separator => {
                f.write_str("a file's name may have no slash, no backslash and no colon in it")
            }
            NameError::Control => f.write_str("a file's name may have no control characters in it"),
            NameError::Text => f.write_str("a file's name has to be UTF-8"),
            NameError::Device => {
                f.write_str("a file's name may not be a device of Windows, nor end with a dot or a space")
            }
        }
    }
}

/// Microsoft, "Naming Files, Paths, and Namespaces".
fn is_device(stem: &str) -> bool {
    let stem = stem.to_ascii_lowercase();
    matches!(&*stem, "con" | "prn" | "aux" | "nul")
        || ["com", "lpt"].iter().any(|port| {
            let is_digit = |n: char| n.is_ascii_digit() || "\u{b9}\u{b2}\u{b3}".contains(n);
            stem.strip_prefix(port).is_some_and(|n| n.chars().count() == 1 && n.chars().all(is_digit))
        })
}

#[cfg(test)]
mod tests {
    use p2pd_core::SecretKey;

    use super::*;

    fn peer(n: u8) -> NodeId {
        SecretKey::from_bytes([n; 32]).node_id()
    }

    #[test]
    fn names_are_one_visible_entry_of_a_folder() {
        let long = "n".repeat(MAX_NAME);
        for good in ["a", "report.tar.gz", "Ärger 2.txt", "com10", "console.log", "a..b", "-rf", "💩", &long]
        {
            assert_eq!(FileName::new(good).as_ref().map(FileName::as_str), Ok(good));
        }
        let long = "n".repeat(MAX_NAME + 1);
        for (bad, why) in [
            ("", NameError::Length),
            (&*long, NameError::Length),
            (".", NameError::Dot),
            ("..", NameError::Dot),
            ("../../etc/passwd", NameError::Dot),
            (".bashrc", NameError::Dot),
            (".a.p2pd-part", NameError::Dot),
            ("a/b", NameError::Separator),
            ("/etc/passwd", NameError::Separator),
            ("a/../../b", NameError::Separator),
            ("a\\..\\b", NameError::Separator),
            ("C:a", NameError::Separator),
            ("a:stream", NameError::Separator),
            ("a\0b", NameError::Control),
            ("a\nready", NameError::Control),
            ("\x1b[2J", NameError::Control),
            ("a\u{85}", NameError::Control),
            ("exe.\u{202e}gpj", NameError::Control),
            ("nul", NameError::Device),
            ("Com1.txt", NameError::Device),
            ("aux .h", NameError::Device),
            ("a.", NameError::Device),
            ("a ", NameError::Device),
        ] {
            assert_eq!(FileName::new(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn what_is_being_received_fits_and_is_no_name_of_a_sender() {
        let one = Sender::new(Some(&[1; 16]), peer(7));
        for length in [IN_PART, IN_PART + 1, MAX_NAME] {
            let longest = FileName::new(&"n".repeat(length)).unwrap().partial(&one);
            assert!(longest.len() == MAX_NAME && is_partial(&longest), "{longest}");
            let other = format!("{}m", "n".repeat(length - 1));
            assert_ne!(FileName::new(&other).unwrap().partial(&one), longest);
        }
        let longest = FileName::new(&"ä".repeat(MAX_NAME / 2)).unwrap().partial(&one);
        assert!(longest.len() <= MAX_NAME);
        let part = FileName::new("a").unwrap().partial(&one);
        assert_eq!(FileName::new(&part), Err(NameError::Dot));
        assert!(is_partial(&part) && is_partial(&longest));
        for other in ["a", ".a", ".a.p2pd-part", ".p2pd-part", ".a.0123.p2pd-part", &part[1..]] {
            assert!(!is_partial(other), "{other}");
        }
    }

    #[test]
    fn names_that_one_system_takes_for_the_same_are_twins() {
        for (one, other) in [
            ("Makefile", "MAKEFILE"),
            ("caf\u{e9}", "CAFE\u{301}"),
            ("\u{212b}", "a\u{30a}"),
            ("ΟΔΟΣ", "οδος"),
        ] {
            assert_eq!(folded(one.as_bytes()), folded(other.as_bytes()), "{one} {other}");
        }
        assert_eq!(folded("CAFE\u{301}".as_bytes()), "caf\u{e9}");
        for (one, other) in [("cafe", "caf\u{e9}"), ("a", "b"), ("ss", "ß"), ("a ", "a")] {
            assert_ne!(folded(one.as_bytes()), folded(other.as_bytes()), "{one} {other}");
        }
    }

    #[test]
    fn senders_are_known_by_their_secret_or_else_by_their_id() {
        let peers = [7, 8].map(peer);
        let secret = |n: u8, peer| Sender::new(Some(&[n; 16]), peer);
        assert_eq!(secret(1, peers[0]), secret(1, peers[1]));
        assert_ne!(secret(1, peers[0]), secret(2, peers[0]));
        assert_ne!(Sender::new(None, peers[0]), Sender::new(None, peers[1]));
    }

    #[test]
    fn another_name_is_a_name_too() {
        let long = format!("{}ä.txt", "n".repeat(MAX_NAME - 6));
        for (name, other) in
            [("a", "a (7)"), ("a.txt", "a (7).txt"), ("a.tar.gz", "a.tar (7).gz"), (&long, "")]
        {
            let name = FileName::new(name).unwrap();
            let numbered = name.numbered(7);
            assert!(other.is_empty() || numbered.as_str() == other, "{numbered}");
            assert_eq!(FileName::new(numbered.as_str()), Ok(numbered));
            assert_eq!(name.numbered(0), name);
        }
    }
}
