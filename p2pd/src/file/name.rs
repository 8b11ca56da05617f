//! Names of files as they cross the wire: one place in a folder, whatever the sender says.

use std::fmt;

use p2pd_core::text::is_plain;

/// Longest name in bytes. Most file systems take 255; what is being received has a longer name meanwhile.
pub(crate) const MAX_NAME: usize = 200;

/// A name that is one visible entry of a folder on every system.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileName(String);

/// Why a text is no such name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NameError {
    /// None, or more than [`MAX_NAME`] bytes.
    Length,
    /// `.`, `..`, and hidden files: those configure programs, so that receiving one could run something.
    Dot,
    /// A slash, a backslash or a colon (which begins a drive or a stream on Windows).
    Separator,
    /// A control character, or one that turns the direction of writing and so hides what the name is.
    Control,
    /// What Windows takes for a device, or shortens.
    Device,
}

impl FileName {
    /// # Errors
    /// What is wrong with the name.
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

    /// As it is called while it is received: hidden, and no name that a sender can choose.
    pub(crate) fn partial(&self) -> String {
        format!(".{}.p2pd-part", self.0)
    }
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
            stem.strip_prefix(port).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let longest = FileName::new(&"n".repeat(MAX_NAME)).unwrap().partial();
        assert!(longest.len() <= 255, "{}", longest.len());
        assert_eq!(FileName::new(&FileName::new("a").unwrap().partial()), Err(NameError::Dot));
    }
}
