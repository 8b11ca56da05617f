//! The server list, `servers.toml`.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use p2pd_core::{Broker, StunServer};
use serde::Deserialize;

/// Longer than any server list.
const MAX_FILE: u64 = 64 * 1024;
/// While this variable is set, the shipped list of public servers is not to be had. `tests/run` sets it.
pub const FORBID_PUBLIC: &str = "P2PD_FORBID_PUBLIC_SERVERS";

/// The servers that a node uses.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Servers {
    /// MQTT brokers, in the order they are preferred.
    pub brokers: Vec<Broker>,
    /// STUN servers.
    pub stun: Vec<StunServer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format {
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

impl Servers {
    /// Reads a list from a file.
    ///
    /// # Errors
    /// Names the file, and the line where it is wrong.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let mut text = String::new();
        // A device tells no length and may never end.
        let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
        read.map_err(|e| format!("{name}: {e}"))?;
        if text.len() as u64 > MAX_FILE {
            return Err(format!("{name}: more than {MAX_FILE} bytes are no server list"));
        }
        Self::parse(&text).map_err(|e| format!("{name}: {e}"))
    }

    /// The shipped list: well-known public servers, none of them verified yet.
    ///
    /// # Errors
    /// While [`FORBID_PUBLIC`] is set in the environment.
    pub fn shipped() -> Result<Self, String> {
        if std::env::var_os(FORBID_PUBLIC).is_some() {
            return Err(format!("the public servers are forbidden by {FORBID_PUBLIC}: give --config"));
        }
        Self::parse(SHIPPED).map_err(|e| format!("the shipped server list: {e}"))
    }

    /// Reads a list.
    ///
    /// # Errors
    /// Names the line where it is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Format = toml::from_str(text).map_err(|e| e.to_string())?;
        let broker = |m: Mqtt| Broker { id: m.id, host: m.host, port: m.port };
        let stun = |s: Stun| StunServer { host: s.host, port: s.port };
        Ok(Servers {
            brokers: file.mqtt.into_iter().map(broker).collect(),
            stun: file.stun.into_iter().map(stun).collect(),
        })
    }

    /// The list as a file's text, which [`parse`](Self::parse) reads back.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let quoted = |host: &str| toml::Value::from(host).to_string();
        for Broker { id, host, port } in &self.brokers {
            let _ = writeln!(text, "[[mqtt]]\nid = {id}\nhost = {}\nport = {port}\n", quoted(host));
        }
        for StunServer { host, port } in &self.stun {
            let _ = writeln!(text, "[[stun]]\nhost = {}\nport = {port}\n", quoted(host));
        }
        text
    }
}

const SHIPPED: &str = include_str!("servers.toml");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_their_default_ports_and_written_again() {
        let text = "[[mqtt]]\nid = 7\nhost = \"a\"\n[[stun]]\nhost = \"b\"\nport = 99\n";
        let servers = Servers::parse(text).unwrap();
        assert_eq!(servers.brokers, [Broker { id: 7, host: "a".into(), port: 1883 }]);
        assert_eq!(servers.stun, [StunServer { host: "b".into(), port: 99 }]);
        assert_eq!(Servers::parse(&servers.to_text()).unwrap(), servers);
        assert_eq!(Servers::parse("").unwrap(), Servers::default());
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
            let error = Servers::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_shipped_list_is_sound_and_says_what_it_is_worth() {
        let servers = Servers::parse(SHIPPED).unwrap();
        assert!(servers.brokers.len() >= 2 && servers.stun.len() >= 2);
        let entries = servers.brokers.len() + servers.stun.len();
        assert_eq!(SHIPPED.matches("# unverified\n").count(), entries, "each entry is marked");
    }
}
