//! Topic names and filters (MQTT 3.1.1 section 4.7).

/// Longest name or filter in bytes. The protocol allows 65,535; every topic of p2pd has 52.
pub const MAX_TOPIC: usize = 256;

/// Returns true if the text is a topic that can be published to.
pub(crate) fn is_name(text: &str) -> bool {
    is_text(text) && !text.contains(['#', '+'])
}

/// Tells if a filter can be subscribed to: a name, and none of the server's own (MQTT 3.1.1 section 4.7.2). Those
/// include the topics that other brokers have under `$share`.
pub(crate) fn is_subscribable(filter: &str) -> bool {
    is_name(filter) && !filter.starts_with('$')
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TOPIC && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_taken_and_none_of_the_servers_own() {
        for name in ["/", "a//b", "a b", "a/b", "p2pd-name-x"] {
            assert!(is_name(name) && is_subscribable(name), "{name}");
        }
        for filter in ["#", "+", "a/#", "+/a/#", "p2pd/#", "p2pd/+/x", "a#", "a+", "", "a\0b"] {
            assert!(!is_name(filter) && !is_subscribable(filter), "{filter}");
        }
        for filter in ["$SYS/broker/clients", "$share/group/a", "$SYS"] {
            assert!(!is_subscribable(filter), "{filter}");
        }
        assert!(!is_name(&"a".repeat(MAX_TOPIC + 1)));
    }
}
