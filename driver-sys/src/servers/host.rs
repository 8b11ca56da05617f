//! The name or address of a server, as a list may have it.

use std::net::Ipv6Addr;

use p2pd_core::text::{is_plain, shown};

/// Longest name of DNS, as text.
const LONGEST: usize = 253;

/// The host and the port of an entry, if they can be those of a server.
///
/// # Errors
/// Says what has to be written otherwise, and how.
pub(super) fn place(host: &str, port: u16) -> Result<(), String> {
    let named = |why: String| format!("the host \"{}\" {why}", shown(host));
    if host.is_empty() {
        return Err("no host".into());
    }
    if port == 0 {
        return Err("port 0".into());
    }
    if host.len() > LONGEST {
        return Err(format!("a host of more than {LONGEST} bytes"));
    }
    if host.contains('@') {
        // Not repeated: there may be a password before it.
        return Err("a host with an @ in it: write `user` and `password`".into());
    }
    if host.contains(char::is_whitespace) {
        return Err(named("has a blank in it".into()));
    }
    if let Some(c) = host.chars().find(|c| !is_plain(*c)) {
        return Err(named(format!("has the character {} in it", c.escape_unicode())));
    }
    if host.contains('/') {
        return Err(named("is no name and no address: write no scheme and no path".into()));
    }
    if host.contains(['[', ']']) {
        return Err(named("has brackets: write an IPv6 address without them, and `port` for a port".into()));
    }
    let (ip, zone) = host.split_once('%').map_or((host, None), |(ip, zone)| (ip, Some(zone)));
    if host.contains(':') && (ip.parse::<Ipv6Addr>().is_err() || zone == Some("")) {
        let port = host.rsplit_once(':').filter(|(name, port)| !name.contains(':') && is_number(port));
        return Err(match port {
            Some((name, port)) => {
                named(format!("has a port in it: write host = \"{}\" and port = {port}", shown(name)))
            }
            None => named("is no IPv6 address".into()),
        });
    }
    Ok(())
}

/// Returns the host if a server list may have it.
///
/// # Errors
/// Says what has to be written otherwise, and how.
pub fn host(text: &str) -> Result<String, String> {
    place(text, 1).map(|()| text.into())
}

fn is_number(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::Servers;

    #[test]
    fn what_is_no_host_is_said_when_the_list_is_read_for_every_kind_of_server() {
        let with = |table: &str, host: &str| {
            let host = toml::Value::from(host);
            let more = match table {
                "mqtt" => "id = 1",
                "turn" => "secret = \"s\"",
                _ => "",
            };
            Servers::parse(&format!("[[{table}]]\nhost = {host}\n{more}\n"))
        };
        for table in ["mqtt", "stun", "turn", "ntp"] {
            for good in [
                "a",
                "broker.example",
                "a_b-c.example.",
                "192.0.2.1",
                "2001:db8::1",
                "fe80::1%eth0",
                "bücher.example",
            ] {
                assert!(with(table, good).is_ok(), "{table} {good}: {:?}", with(table, good));
            }
            let long = "a".repeat(254);
            for (bad, word) in [
                ("", "no host"),
                (" a", "blank"),
                ("a ", "blank"),
                ("a b", "blank"),
                ("a\n", "blank"),
                ("[2001:db8::1]", "brackets"),
                ("[2001:db8::1]:1883", "brackets"),
                ("a:1883", "host = \"a\" and port = 1883"),
                ("192.0.2.1:99", "host = \"192.0.2.1\" and port = 99"),
                ("a:b", "no IPv6 address"),
                ("2001:db8::1::", "no IPv6 address"),
                ("fe80::1%", "no IPv6 address"),
                ("mqtt://a", "no scheme"),
                ("a/mqtt", "no scheme"),
                ("alice:s3cret@a", "write `user`"),
                ("a\x1b[2J", "character \\u{1b}"),
                ("a\u{202e}b", "character \\u{202e}"),
                (&long, "more than 253"),
            ] {
                let why = with(table, bad).unwrap_err();
                assert!(why.contains(&format!("first entry of [[{table}]]: ")), "{why}");
                assert!(!why.contains("s3cret"), "{why}");
                assert!(why.contains(word) && why.chars().all(p2pd_core::text::is_plain), "{bad:?}: {why}");
            }
            let zero = format!("[[{table}]]\nhost = \"a\"\nport = 0\nid = 1\nsecret = \"s\"\n");
            let only = zero.replace(if table == "mqtt" { "secret = \"s\"\n" } else { "id = 1\n" }, "");
            let only =
                if matches!(table, "stun" | "ntp") { only.replace("secret = \"s\"\n", "") } else { only };
            assert!(Servers::parse(&only).unwrap_err().contains("port 0"), "{table}");
        }
    }
}
