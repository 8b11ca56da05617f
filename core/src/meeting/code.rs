//! Codes that people read out and type.

use core::fmt;
use core::str::FromStr;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use data_encoding::BASE32_NOPAD;

use crate::pipe::ProtocolTag;
use crate::random::{Domain, Random};

use super::VERSION;

const LIST: &str = include_str!("words.txt");

/// Code such as `7-guitar-oxygen`: a number, which picks the topic where two nodes meet, and two words of a list of
/// 1,296, which are the secret. So 1,679,616 codes have one number, which is 20.7 bits.
///
/// Capital letters are read as small ones, and spaces as hyphens. One letter that is wrong, missing or too many makes no
/// other word of a word.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    pub(super) number: u16,
    pub(super) words: [u16; 2],
}

/// Reason that a text is no [`Code`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CodeError {
    /// The text is not a number, a hyphen, a word, a hyphen and a word.
    Form,
    /// The number is not within 1 to 999.
    Number,
    /// The word is not in the list. The second is the one that begins with the same three letters, if there is one.
    Word(Box<str>, Option<&'static str>),
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodeError::Form => f.write_str("a code is a number and two words, such as 7-guitar-oxygen"),
            CodeError::Number => write!(f, "the number of a code is within 1 to {}", Code::NUMBERS),
            CodeError::Word(word, None) => write!(f, "no code has the word {}", crate::text::shown(word)),
            CodeError::Word(word, Some(near)) => {
                write!(f, "no code has the word {}; is it {near}?", crate::text::shown(word))
            }
        }
    }
}

impl std::error::Error for CodeError {}

/// Returns the words of the list, in their order.
fn words() -> impl Iterator<Item = &'static str> {
    LIST.lines().filter(|line| !line.starts_with('#'))
}

impl Code {
    /// Highest number of a code; the lowest is 1.
    pub const NUMBERS: u16 = 999;

    /// Number of words that each of the two is drawn from.
    pub const WORDS: u16 = 1296;

    pub(super) fn draw(random: &mut Random) -> Self {
        let mut below = |most: u16| random.below(Domain::Meeting, most.into()) as u16;
        Code { number: 1 + below(Self::NUMBERS), words: [below(Self::WORDS), below(Self::WORDS)] }
    }

    /// Returns the number.
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// Returns the topic where nodes meet that have codes with this number for a `purpose`: `p2pd-meet-` and a
    /// BLAKE2s-256 hash in base32. The hash is of `p2pd meeting`, the version, the purpose's length and bytes, and the
    /// number, big-endian.
    pub(crate) fn topic(&self, purpose: &ProtocolTag) -> Box<str> {
        let mut hash = Blake2s::<U32>::new();
        hash.update(b"p2pd meeting");
        hash.update([VERSION, purpose.as_bytes().len() as u8]);
        hash.update(purpose.as_bytes());
        hash.update(self.number.to_be_bytes());
        format!("p2pd-meet-{}", BASE32_NOPAD.encode(&hash.finalize()).to_ascii_lowercase()).into()
    }
}

fn find(text: &str) -> Result<u16, CodeError> {
    let begins = |word: &str| text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(&word[..3]));
    match words().zip(0..).find(|(word, _)| begins(word)) {
        Some((word, place)) if word.eq_ignore_ascii_case(text) => Ok(place),
        near => Err(CodeError::Word(text.into(), near.map(|(word, _)| word))),
    }
}

impl FromStr for Code {
    type Err = CodeError;
    fn from_str(text: &str) -> Result<Self, CodeError> {
        let text = text.trim().replace(char::is_whitespace, "-");
        let (number, rest) = text.split_once('-').ok_or(CodeError::Form)?;
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CodeError::Form);
        }
        let number = number.parse().unwrap_or(0);
        if !(1..=Self::NUMBERS).contains(&number) {
            return Err(CodeError::Number);
        }
        // One word of the list has a hyphen.
        let mut wrong = CodeError::Form;
        for (at, _) in rest.match_indices('-') {
            match (find(&rest[..at]), find(&rest[at + 1..])) {
                (Ok(one), Ok(other)) => return Ok(Code { number, words: [one, other] }),
                (Err(why), _) | (_, Err(why)) => wrong = why,
            }
        }
        Err(wrong)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, other] = self.words.map(|place| words().nth(place.into()).unwrap_or_default());
        write!(f, "{}-{one}-{other}", self.number)
    }
}

/// Omits the words, which are a secret.
impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}-..)", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn three_letters_tell_every_word_of_the_list() {
        assert_eq!(words().count(), usize::from(Code::WORDS));
        assert_eq!(words().map(|word| &word[..3]).collect::<BTreeSet<_>>().len(), 1296);
        for (place, word) in words().enumerate() {
            assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{word}");
            assert_eq!(find(word).map(usize::from), Ok(place));
        }
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code: Code = "7-guitar-oxygen".parse().unwrap();
        for text in [" 7 guitar oxygen\n", "7-GUITAR-Oxygen", "007-guitar-oxygen"] {
            assert_eq!(text.parse(), Ok(code), "{text}");
        }
        assert_eq!(code.to_string(), "7-guitar-oxygen");
        for text in ["999-yo-yo-aardvark", "1-zucchini-yo-yo", "12-yo-yo-yo-yo"] {
            assert_eq!(text.parse::<Code>().unwrap().to_string(), text);
        }
        assert_eq!(format!("{code:?}"), "Code(7-..)");
    }

    #[test]
    fn a_mistyped_word_is_named_and_never_another_one() {
        let wrong = |text: &str| text.parse::<Code>().unwrap_err();
        for text in ["", "7", "7-guitar", "guitar-oxygen", "+7-guitar-oxygen", "-7-guitar-oxygen"] {
            assert_eq!(wrong(text), CodeError::Form, "{text}");
        }
        for text in ["0-guitar-oxygen", "1000-guitar-oxygen", "99999999-guitar-oxygen"] {
            assert_eq!(wrong(text), CodeError::Number, "{text}");
        }
        assert_eq!(wrong("7-guitra-oxygen"), CodeError::Word("guitra".into(), Some("guitar")));
        assert_eq!(wrong("7-guitar-oxygens"), CodeError::Word("oxygens".into(), Some("oxygen")));
        assert_eq!(wrong("7-gu-oxygen"), CodeError::Word("gu".into(), None));
        assert_eq!(wrong("7-qqq-oxygen"), CodeError::Word("qqq".into(), None));
        assert_eq!(
            wrong("7-gui\u{e9}\u{e9}-oxygen").to_string(),
            "no code has the word gui\u{e9}\u{e9}; is it guitar?"
        );
        // No letter less, more or else makes another word.
        let all: BTreeSet<&str> = words().collect();
        for word in words() {
            for at in 0..word.len() {
                let (head, tail) = (&word[..at], &word[at + 1..]);
                assert!(!all.contains(&*format!("{head}{tail}")), "{word}");
                for letter in ('a'..='z').filter(|letter| !word[at..].starts_with(*letter)) {
                    for typed in [format!("{head}{letter}{tail}"), format!("{head}{letter}{}", &word[at..])] {
                        assert!(!all.contains(&*typed), "{word} as {typed}");
                    }
                }
            }
        }
    }

    #[test]
    fn codes_are_drawn_evenly() {
        let mut random = Random::new([1; 32]);
        let drawn: Vec<Code> = (0..20_000).map(|_| Code::draw(&mut random)).collect();
        let count = |of: &dyn Fn(&Code) -> u16| drawn.iter().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!(count(&|code| code.number), 999);
        assert_eq!((count(&|code| code.words[0]), count(&|code| code.words[1])), (1296, 1296));
        assert!(drawn.iter().all(|code| code.to_string().parse() == Ok(*code)));
    }

    #[test]
    fn a_topic_is_one_for_a_number_and_a_purpose() {
        let topic = |code: &str, purpose: &[u8]| {
            code.parse::<Code>().unwrap().topic(&ProtocolTag::new(purpose).unwrap())
        };
        assert_eq!(topic("7-guitar-oxygen", b"chat"), topic("7-aardvark-zombie", b"chat"));
        assert_ne!(topic("7-guitar-oxygen", b"chat"), topic("8-guitar-oxygen", b"chat"));
        assert_ne!(topic("7-guitar-oxygen", b"chat"), topic("7-guitar-oxygen", b"chats"));
        assert_eq!(topic("7-guitar-oxygen", b"chat").len(), 62);
    }
}
