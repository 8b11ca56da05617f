//! Byte patterns, as the P2PD documents have them, with a bound on their cost.

use core::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 1024;
/// Bytes that a compiled pattern may take; `x{1000}{1000}` and its like are refused.
const MAX_PROGRAM: usize = 64 * 1024;
/// Bytes of a pattern's cache, which are taken at its first use. With less the search is slower, not wrong.
const CACHE: usize = 16 * 1024;

/// A pattern for messages or peers: a regular expression on bytes, where `\w`, `\d` and `(?i)` are those of ASCII. A
/// pattern matches anywhere unless it says `^` or `$`. A search takes time in proportion to the text, whatever the
/// pattern is; its author may be a stranger.
#[derive(Clone, Debug)]
pub struct Pattern(Option<Regex>);

impl Pattern {
    /// Pattern that matches everything; the empty pattern.
    pub const ANY: Pattern = Pattern(None);

    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`PatternError`], by the kind of the mistake.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Ok(Self::ANY);
        }
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let compiled =
            RegexBuilder::new(text).unicode(false).size_limit(MAX_PROGRAM).dfa_size_limit(CACHE).build();
        match compiled {
            Ok(regex) => Ok(Pattern(Some(regex))),
            Err(regex::Error::CompiledTooBig(_)) => Err(PatternError::TooBig),
            Err(_) => Err(PatternError::Malformed),
        }
    }

    /// Returns the pattern's text.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", Regex::as_str)
    }

    /// Returns true if the pattern is somewhere in `text`.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.0.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// Reason that a pattern cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PatternError {
    /// The pattern is longer than [`MAX_PATTERN`].
    TooLong,
    /// The pattern is short, but stands for more than 64 KiB.
    TooBig,
    /// The pattern is no regular expression, or uses Unicode classes or look-around. Patterns have neither.
    Malformed,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::TooLong => write!(f, "the pattern is longer than {MAX_PATTERN} bytes"),
            PatternError::TooBig => f.write_str("the pattern stands for too much"),
            PatternError::Malformed => f.write_str("not a regular expression on bytes"),
        }
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &[u8]) -> bool {
        Pattern::new(pattern).unwrap().matches(text)
    }

    #[test]
    fn bytes_are_matched_anywhere_and_as_ascii() {
        assert!(matches("[hH]e[l]+o", b"well, hellllo there"));
        assert!(!matches("^[hH]e[l]+o", b"well, hello"));
        assert!(matches(r"(?-u)\xff\x00", b"a\xff\x00b"));
        assert!(matches(r"^\w+$", b"azAZ_09") && !matches(r"^\w+$", "\u{e9}".as_bytes()));
        assert!(matches("(?i)ECHO", b"echo"));
        assert!(matches(r"127\.0\.0\.1:\d+$", b"127.0.0.1:12333"));
        assert!(matches("", b"") && matches("", b"anything") && Pattern::new("").unwrap().0.is_none());
    }

    #[test]
    fn what_is_no_pattern_or_too_much_is_refused() {
        let error = |text: &str| Pattern::new(text).unwrap_err();
        for text in ["(", "[a", "*", "a{2,1}", r"(?=x)", r"\pL", r"(a)\1", "(?P<n>a)(?P<n>b)"] {
            assert_eq!(error(text), PatternError::Malformed, "{text}");
        }
        assert_eq!(error("x{1000}{1000}"), PatternError::TooBig);
        assert_eq!(error(&"a".repeat(MAX_PATTERN + 1)), PatternError::TooLong);
        assert!(Pattern::new(&"a".repeat(MAX_PATTERN)).is_ok());
        assert_eq!(error(&"(".repeat(MAX_PATTERN)), PatternError::Malformed);
    }

    #[test]
    fn patterns_that_make_others_backtrack_are_answered() {
        // A backtracking matcher takes 2^n steps for these; 16 KiB would never be answered.
        let text = [vec![b'a'; 16 * 1024], vec![b'!']].concat();
        for pattern in ["(a+)+$", "(a|aa)+$", "(a*)*b", "(.*)*x$", "(a|a?)+b$"] {
            assert!(!matches(pattern, &text), "{pattern}");
        }
        assert!(matches("(a+)+!$", &text));
    }
}
