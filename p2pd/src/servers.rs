//! The server list, `servers.toml`.

use std::path::Path;

use p2pd_core::{Broker, StunServer};
use serde::Deserialize;

/// Longer than any server list.
const MAX_FILE: u64 = 64 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mqtt: Vec<Mqtt>,
    #[serde(default)]
    stun: Vec<Stun>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mqtt {
    id: u16,
    host: Box<str>,
    #[serde(default = "mqtt_port")]
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stun {
    host: Box<str>,
    #[serde(default = "stun_port")]
    port: u16,
}

fn mqtt_port() -> u16 {
    1883
}

fn stun_port() -> u16 {
    3478
}

/// Reads a server list.
///
/// # Errors
/// Names the file, and the line where it is wrong.
pub(crate) fn read(path: &Path) -> Result<(Vec<Broker>, Vec<StunServer>), String> {
    let name = path.display();
    let size = std::fs::metadata(path).map_err(|e| format!("{name}: {e}"))?.len();
    if size > MAX_FILE {
        return Err(format!("{name}: {size} bytes are no server list"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
    parse(&text).map_err(|e| format!("{name}: {e}"))
}

fn parse(text: &str) -> Result<(Vec<Broker>, Vec<StunServer>), String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let brokers = file.mqtt.into_iter().map(|m| Broker { id: m.id, host: m.host, port: m.port }).collect();
    let stun = file.stun.into_iter().map(|s| StunServer { host: s.host, port: s.port }).collect();
    Ok((brokers, stun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_their_default_ports() {
        let text = "[[mqtt]]\nid = 7\nhost = \"a\"\n[[stun]]\nhost = \"b\"\nport = 99\n";
        let (brokers, stun) = parse(text).unwrap();
        assert_eq!(brokers, [Broker { id: 7, host: "a".into(), port: 1883 }]);
        assert_eq!(stun, [StunServer { host: "b".into(), port: 99 }]);
        assert_eq!(parse("").unwrap(), (vec![], vec![]));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, word) in [
            ("[[mqtt]]\nhost = \"a\"\n", "id"),
            ("[[mqtt]]\nid = 70000\nhost = \"a\"\n", "line 2"),
            ("[[mqqt]]\nid = 1\n", "mqqt"),
            ("[[stun]]\nhost = 3\n", "line 2"),
            ("[[stun]\n", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
