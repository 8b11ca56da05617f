//! A broker's entry: where it is, how the way to it is secured, and who we are to it.

use std::collections::BTreeMap;
use std::path::Path;

use p2pd_core::text::shown;
use p2pd_core::{Broker, Header, Login};
use serde::Deserialize;

use super::LoginSource;
use super::host::place;
use super::login::{self, Password};
use super::secure::Keys;

/// Prefix of the environment variables that may hold a broker's password.
const VARIABLES: &str = "P2PD_MQTT_";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mqtt {
    id: u16,
    /// URL in place of `host`, `port`, `tls`, `websocket` and perhaps `user`.
    url: Option<String>,
    host: Option<Box<str>>,
    port: Option<u16>,
    tls: Option<bool>,
    server_name: Option<Box<str>>,
    ca: Option<String>,
    pin: Option<String>,
    client_certificate: Option<String>,
    client_key: Option<String>,
    alpn: Option<Box<str>>,
    websocket: Option<Box<str>>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<String>,
    password_env: Option<String>,
    credential_command: Option<Vec<String>>,
}

impl Mqtt {
    /// The broker, and where its login comes from, if that may become another one.
    pub(super) fn broker(mut self, folder: &Path) -> Result<(Broker, Option<LoginSource>), String> {
        if let Some(url) = self.url.take() {
            self.fill(&url)?;
        }
        let m = self;
        let host = m.host.ok_or("no `host`")?;
        place(&host, m.port.unwrap_or(1))?;
        let keys = Keys {
            tls: m.tls,
            server_name: m.server_name,
            ca: m.ca,
            pin: m.pin,
            client: (m.client_certificate, m.client_key),
            alpn: m.alpn,
        };
        let tls = keys.tls(&host, folder)?;
        let is_path = |path: &str| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
        if m.websocket.as_deref().is_some_and(|path| !is_path(path)) {
            return Err("`websocket` is a path, which begins with / and has no spaces".into());
        }
        if m.websocket.is_none() && !m.headers.is_empty() {
            return Err("`headers` are a WebSocket's: give `websocket` too".into());
        }
        let mut headers = Vec::new();
        for (name, value) in &m.headers {
            let header = Header::new(name, value);
            headers.push(header.ok_or_else(|| format!("the header \"{}\" cannot be sent", shown(name)))?);
        }
        let file = m.user.as_deref().zip(m.password_file.clone()).map(|(user, name)| LoginSource::File {
            user: user.into(),
            folder: folder.into(),
            name,
        });
        let password = Password { text: m.password, file: m.password_file, variable: m.password_env };
        let password = password.read(folder, VARIABLES)?;
        let login = match (m.user, password, &m.credential_command) {
            (None, None, _) => None,
            (_, _, Some(_)) => return Err("`user` and `password`, or `credential_command`, not both".into()),
            (None, Some(_), _) => return Err("a `password` without `user`".into()),
            (Some(user), password, _) => Some(Login::new(&user, password.as_deref())),
        };
        if m.credential_command.as_ref().is_some_and(Vec::is_empty) {
            return Err("an empty `credential_command`".into());
        }
        let usual = match (&tls, &m.websocket) {
            (None, None) => 1883,
            (Some(_), None) => 8883,
            (None, Some(_)) => 80,
            (Some(_), Some(_)) => 443,
        };
        let port = m.port.unwrap_or(usual);
        let source = m.credential_command.map(LoginSource::Command).or(file);
        let broker = Broker {
            tls,
            websocket: m.websocket,
            headers,
            login,
            renews: source.is_some(),
            ..Broker::new(m.id, &host, port)
        };
        Ok((broker, source))
    }

    /// Takes the fields that an URL stands for: `mqtts://user@host:8883`, `wss://host/path`.
    fn fill(&mut self, url: &str) -> Result<(), String> {
        // It may have a password in it.
        let (scheme, rest) =
            url.split_once("://").ok_or("`url` begins with mqtt://, mqtts://, ws:// or wss://")?;
        let (tls, websocket) = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" => (false, false),
            "mqtts" => (true, false),
            "ws" => (false, true),
            "wss" => (true, true),
            _ => return Err("`url` begins with mqtt://, mqtts://, ws:// or wss://".into()),
        };
        if self.host.is_some() || self.port.is_some() || self.tls.is_some() || self.websocket.is_some() {
            return Err("`url` has host, port, `tls` and `websocket` in it".into());
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if !websocket && !matches!(path, "" | "/") {
            return Err("a path in the `url` of what is no WebSocket".into());
        }
        let from_url = login::authority(authority)?;
        if from_url.user.is_some() && self.user.is_some() {
            return Err("`user`, or a user in the `url`, not both".into());
        }
        if from_url.password.is_some() && self.password.is_some() {
            return Err("`password`, or a password in the `url`, not both".into());
        }
        self.user = from_url.user.or(self.user.take());
        self.password = from_url.password.or(self.password.take());
        (self.host, self.port) = (Some(from_url.host), from_url.port);
        self.tls = Some(tls);
        self.websocket = websocket.then(|| if path.is_empty() { "/".into() } else { path.into() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::{Header, Tls};

    use super::super::Servers;
    use super::*;

    fn broker(lines: &str) -> Result<Broker, String> {
        let servers = Servers::parse(&format!("[[mqtt]]\nid = 1\n{lines}\n"))?;
        let text = servers.to_text();
        assert_eq!(Servers::parse(&text).as_ref(), Ok(&servers), "{text}");
        Ok(servers.brokers[0].clone())
    }

    #[test]
    fn urls_stand_for_the_fields_that_they_have_in_them() {
        let tls = Some(Tls::PUBLIC);
        let login = |user: &str, password| Some(Login::new(user, password));
        for (url, expected) in [
            ("mqtt://a", Broker::new(1, "a", 1883)),
            ("mqtt://a:99/", Broker::new(1, "a", 99)),
            ("mqtts://a", Broker { tls: tls.clone(), ..Broker::new(1, "a", 8883) }),
            ("MQTTS://a", Broker { tls: tls.clone(), ..Broker::new(1, "a", 8883) }),
            ("mqtts://[2001:db8::1]:5", Broker { tls: tls.clone(), ..Broker::new(1, "2001:db8::1", 5) }),
            (
                "mqtts://me%40home@a:8883",
                Broker { tls: tls.clone(), login: login("me@home", None), ..Broker::new(1, "a", 8883) },
            ),
            ("mqtt://u:p%3aw@a", Broker { login: login("u", Some("p:w")), ..Broker::new(1, "a", 1883) }),
            ("ws://a", Broker { websocket: Some("/".into()), ..Broker::new(1, "a", 80) }),
            (
                "wss://a/mqtt?x=1",
                Broker { tls, websocket: Some("/mqtt?x=1".into()), ..Broker::new(1, "a", 443) },
            ),
        ] {
            assert_eq!(broker(&format!("url = \"{url}\"")), Ok(expected), "{url}");
        }
    }

    #[test]
    fn who_we_are_to_a_broker_is_read_and_shown_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("password"), "s3cret\n").unwrap();
        let list = dir.path().join("servers.toml");
        std::fs::write(&list, "[[mqtt]]\nid = 1\nhost = \"a\"\nuser = \"u\"\npassword_file = \"password\"\n")
            .unwrap();
        let from_file = Servers::read(&list).unwrap();
        assert_eq!(from_file.brokers[0].login, Some(Login::new("u", Some("s3cret"))));
        assert!(from_file.is_secret());
        assert!(!format!("{from_file:?}").contains("s3cret"));
        let given = broker("host = \"a\"\nuser = \"u\"\npassword = \"p\"").unwrap();
        assert_eq!(given.login, Some(Login::new("u", Some("p"))));
        let header = "host = \"a\"\nwebsocket = \"/\"\nheaders = { Authorization = \"Bearer s3cret\" }";
        let header = broker(header).unwrap();
        assert_eq!(header.headers, [Header::new("Authorization", "Bearer s3cret").unwrap()]);
        assert!(!format!("{header:?}").contains("s3cret"));
    }

    #[test]
    fn mistakes_are_named() {
        for (lines, word) in [
            ("", "no `host`"),
            ("url = \"a\"", "mqtts://"),
            ("url = \"http://a\"", "mqtts://"),
            ("url = \"mqtt://a\"\nport = 5", "in it"),
            ("url = \"mqtt://a/x\"", "a path"),
            ("url = \"mqtt://a:b\"", "no port"),
            ("url = \"mqtt://%@a\"", "escapes nothing"),
            ("url = \"mqtt://u@a\"\nuser = \"u\"", "not both"),
            ("host = \"a\"\npassword = \"p\"", "without `user`"),
            ("host = \"a\"\nuser = \"u\"\npassword = \"p\"\npassword_env = \"P2PD_MQTT_X\"", "one of"),
            (
                "host = \"a\"\nuser = \"u\"\npassword_env = \"AWS_SECRET_ACCESS_KEY\"",
                "begins with P2PD_MQTT_",
            ),
            ("host = \"a\"\nuser = \"u\"\npassword_env = \"P2PD_MQTT_NOT_SET\"", "has no P2PD_MQTT_NOT_SET"),
            ("host = \"a\"\nuser = \"u\"\npassword_file = \"../x\"", "own folder"),
            ("host = \"a\"\nuser = \"u\"\ncredential_command = [\"x\"]", "not both"),
            ("host = \"a\"\ncredential_command = []", "empty `credential_command`"),
            ("host = \"a\"\nheaders = { A = \"b\" }", "give `websocket`"),
            ("host = \"a\"\nwebsocket = \"/\"\nheaders = { A = \"b\\r\\nC: d\" }", "header \"A\""),
            ("host = \"a\"\nclient_key = \"x\"", "`client_key` without"),
            ("host = \"a\"\ntls = true\nclient_key = \"x\"", "both"),
            (
                "host = \"a\"\ntls = true\nclient_certificate = \"-----BEGIN\"\nclient_key = \"-----BEGIN\"",
                "client",
            ),
        ] {
            let why = broker(lines).unwrap_err();
            assert!(why.contains("first entry of [[mqtt]]: ") && why.contains(word), "{lines}: {why}");
        }
    }
}
