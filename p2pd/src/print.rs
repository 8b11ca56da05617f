//! Output to standard output and standard error. All that is printed goes through here. So no text of a stranger steers
//! a terminal or passes for a line of the program.

use std::fmt::Write as _;
use std::io::{self, Write};

use p2pd_core::text::{is_plain, shown};
use serde_json::Value;

/// Makes a text for people: characters that are not plain are escaped, and lines behind the first are indented. So only
/// the program's own words begin a line, and no line break of a stranger's text does.
pub(crate) fn for_people(text: &str) -> String {
    let mut lines = text.split('\n');
    let mut out = shown(lines.next().unwrap_or_default()).to_string();
    for line in lines {
        let indent = if line.starts_with("  ") { "" } else { "  " };
        let _ = write!(out, "\n{indent}{}", shown(line));
    }
    out
}

/// JSON for programs, in one line. It says the same with everything escaped that is not plain.
pub(crate) fn for_programs(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_plain(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// An event or a text on standard error. Where nobody reads it any more, the work goes on all the same.
pub(crate) fn tell(text: &str) {
    // At once: another thread's line would come in between.
    let _ = io::stderr().write_all(format!("{}\n", for_people(text)).as_bytes());
}

/// An event on standard error, likewise.
pub(crate) fn tell_program(event: &Value) {
    let _ = io::stderr().write_all(format!("{}\n", for_programs(&event.to_string())).as_bytes());
}

/// Lines on standard output.
///
/// # Errors
/// Of writing: nobody reads it any more, or the disk is full.
pub(crate) fn out(text: &str) -> io::Result<()> {
    raw(format!("{}\n", for_people(text)).as_bytes())
}

/// Bytes of our own on standard output, as they are.
///
/// # Errors
/// As of [`out`].
pub(crate) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stranger_begins_no_line_and_steers_nothing() {
        assert_eq!(for_people("failed: x\n  punch missed: y"), "failed: x\n  punch missed: y");
        assert_eq!(for_people("a\nready: b\r\x1b[2J"), "a\n  ready: b\\r\\u{1b}[2J");
        let hostile: String = ('\0'..=char::MAX).collect();
        let said = for_people(&hostile);
        assert!(said.lines().skip(1).all(|line| line.starts_with("  ")));
        assert!(said.chars().all(|c| c == '\n' || is_plain(c)));
    }

    #[test]
    fn programs_read_the_same_json_though_nothing_in_it_steers_a_terminal() {
        let text = "\x1b]0;x\x07\u{9b}2J\u{7f}\n\u{202e}\u{e0001}💩\u{2028}\"\\";
        let event = json!({"event": "error", "reason": text, text: [text]});
        let line = for_programs(&event.to_string());
        assert!(line.chars().all(is_plain), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), event);
    }
}
