//! Texts of strangers that people are shown.

/// Whether a character shows as itself and nothing else: no control character, no mark or override of the direction of
/// writing (Unicode's Bidi_Control), no line separator. With those a text can pass for another, or steer a terminal.
pub fn is_plain(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
}
