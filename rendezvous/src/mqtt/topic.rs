//! Topic names and filters (MQTT 3.1.1 section 4.7).

/// Longest name or filter in bytes. The protocol allows 65,535; every topic of p2pd has 52.
pub const MAX_TOPIC: usize = 256;

/// Whether it can be published to.
pub(crate) fn is_name(text: &str) -> bool {
    is_text(text) && !text.contains(['#', '+'])
}

/// Whether it can be subscribed to: wildcards stand alone in their level, and `#` only in the last.
pub(crate) fn is_filter(text: &str) -> bool {
    let mut levels = text.split('/').peekable();
    let mut sound = true;
    while let Some(level) = levels.next() {
        sound &= match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !level.contains(['#', '+']),
        };
    }
    sound && is_text(text)
}

pub(crate) fn has_wildcard(filter: &str) -> bool {
    filter.contains(['#', '+'])
}

/// Whether a filter takes a name in. A wildcard at the beginning does not reach names that begin with `$`.
pub(crate) fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['#', '+']) {
        return false;
    }
    let (mut filter, mut name) = (filter.split('/'), name.split('/'));
    loop {
        match (filter.next(), name.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(f), Some(n)) if f == n => {}
            _ => return false,
        }
    }
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TOPIC && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_section_4_7_says() {
        for (filter, name) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a/b"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("$SYS/#", "$SYS/monitor"),
            ("a", "a"),
        ] {
            assert!(matches(filter, name), "{filter} {name}");
        }
        for (filter, name) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/monitor"),
            ("+/monitor", "$SYS/monitor"),
            ("a", "A"),
            ("a", "a/"),
        ] {
            assert!(!matches(filter, name), "{filter} {name}");
        }
    }

    #[test]
    fn only_sound_names_and_filters_are_taken() {
        for filter in ["#", "+", "a/#", "+/a/#", "/", "a//b", "a b"] {
            assert!(is_filter(filter), "{filter}");
        }
        for filter in ["", "a#", "a/#/b", "a+", "+a/b", "a\0b", &"a".repeat(MAX_TOPIC + 1)] {
            assert!(!is_filter(filter), "{filter}");
        }
        assert!(is_name("a/b") && !is_name("a/+") && !is_name("#") && !is_name(""));
    }
}
