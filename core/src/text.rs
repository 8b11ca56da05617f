//! Texts of strangers that people are shown.

use core::fmt::{self, Write};

/// True if a character shows as itself and nothing else: no control character, no mark or override of the direction of
/// writing (Unicode's Bidi_Control), no line separator. With those a text can pass for another, or steer a terminal.
pub fn is_plain(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
}

/// A text of a stranger as people may be shown it: every character that is not [plain](is_plain) is escaped as in Rust's
/// source, `\n` or `\u{1b}`. What comes of it has one line.
pub fn shown(text: &str) -> Shown<'_> {
    Shown(text)
}

/// Result of [`shown`].
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\n' | '\r' | '\t' => write!(f, "{}", c.escape_default())?,
                c if is_plain(c) => f.write_char(c)?,
                c => write!(f, "{}", c.escape_unicode())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_turns_the_writing_is_escaped_and_all_else_stays() {
        for same in ["", "plain", "Ärger 2 \\ \"x\" 💩", "שלום עולם", "a\u{301}"] {
            assert_eq!(shown(same).to_string(), same);
        }
        for (text, expected) in [
            ("a\nready: b\r\tc", "a\\nready: b\\r\\tc"),
            ("\x1b[2J\x1b]0;x\x07", "\\u{1b}[2J\\u{1b}]0;x\\u{7}"),
            ("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\u{0}"),
            ("exe.\u{202e}gpj", "exe.\\u{202e}gpj"),
            ("\u{2066}\u{2069}\u{200f}\u{61c}", "\\u{2066}\\u{2069}\\u{200f}\\u{61c}"),
            ("\u{2028}", "\\u{2028}"),
        ] {
            assert_eq!(shown(text).to_string(), expected);
        }
        let all: String = ('\0'..=char::MAX).collect();
        assert!(shown(&all).to_string().chars().all(is_plain));
    }
}
