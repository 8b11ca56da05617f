//! The keys of a server's entry that say how the way to it is secured.

use std::fmt::Write;
use std::path::Path;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use p2pd_core::text::shown;
use p2pd_core::{ClientKey, Tls, TlsFailure, Trust};

use super::folder::beside;
use super::write::quoted;

/// TLS keys of an entry, as the list has them.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) tls: Option<bool>,
    pub(super) server_name: Option<Box<str>>,
    /// The name of a file beside the list, or what would be in it.
    pub(super) ca: Option<String>,
    pub(super) pin: Option<String>,
    /// Certificate of our own and its key, likewise.
    pub(super) client: (Option<String>, Option<String>),
    pub(super) alpn: Option<Box<str>>,
}

impl Keys {
    /// Returns the settings for this host; files are sought from `folder` on.
    pub(super) fn tls(self, host: &str, folder: &Path) -> Result<Option<Tls>, String> {
        let Keys { tls, server_name, ca, pin, client, alpn } = self;
        if tls != Some(true) {
            let given = [
                ("server_name", server_name.is_some()),
                ("ca", ca.is_some()),
                ("pin", pin.is_some()),
                ("client_certificate", client.0.is_some()),
                ("client_key", client.1.is_some()),
                ("alpn", alpn.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(format!("`{key}` without `tls = true`")),
                None => Ok(None),
            };
        }
        let trust = match (ca, pin) {
            (Some(_), Some(_)) => {
                return Err("`ca` or `pin`, not both: a pinned key needs no authority".into());
            }
            (Some(ca), None) => Trust::Authorities(pem(ca, folder)?.into()),
            (None, Some(pin)) => Trust::Pinned(hash(&pin)?),
            (None, None) => Trust::Public,
        };
        let client = match client {
            (None, None) => None,
            (Some(certificates), Some(key)) => {
                let (certificates, key) = (pem(certificates, folder)?.into(), pem(key, folder)?.into());
                Some(ClientKey { certificates, key })
            }
            _ => return Err("`client_certificate` and `client_key`, both or none".into()),
        };
        if alpn.as_ref().is_some_and(|name| !(1..=255).contains(&name.len())) {
            return Err("`alpn` has 1 to 255 bytes".into());
        }
        let tls = Tls { trust, name: server_name, client, alpn };
        let nobody = Tls { client: None, ..tls.clone() };
        if tls.client.is_some() && crate::check_tls(host, &nobody).is_ok() {
            return match crate::check_tls(host, &tls) {
                Ok(()) => Ok(Some(tls)),
                Err(_) => Err("`client_certificate` or `client_key` cannot be read (PEM), or they do not belong together".into()),
            };
        }
        match (crate::check_tls(host, &tls), &tls.trust) {
            (Ok(()), _) => Ok(Some(tls)),
            (Err(TlsFailure::Settings), Trust::Authorities(_))
                if crate::check_tls(host, &named(&tls)).is_ok() =>
            {
                Err("`ca` has no certificate that can be read (PEM)".into())
            }
            (Err(_), _) => {
                let name = tls.name.as_deref().unwrap_or(host);
                Err(format!("no certificate can be for the name \"{}\"", shown(name)))
            }
        }
    }
}

/// The same name, without what may be wrong with authorities.
fn named(tls: &Tls) -> Tls {
    Tls { trust: Trust::Pinned([0; 32]), name: tls.name.clone(), ..Tls::PUBLIC }
}

fn pem(ca: String, folder: &Path) -> Result<String, String> {
    if ca.contains("-----BEGIN") { Ok(ca) } else { beside(folder, &ca) }
}

fn hash(pin: &str) -> Result<[u8; 32], String> {
    let hash = HEXLOWER_PERMISSIVE.decode(pin.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
    hash.ok_or_else(|| "`pin` is not 64 hexadecimal digits: the SHA-256 of the server's public key".into())
}

/// The lines that say the same.
pub(super) fn to_text(tls: Option<&Tls>) -> String {
    let mut text = String::new();
    let Some(Tls { trust, name, client, alpn }) = tls else { return text };
    text.push_str("tls = true\n");
    if let Some(name) = name {
        let _ = writeln!(text, "server_name = {}", quoted(name));
    }
    let _ = match trust {
        Trust::Public => Ok(()),
        Trust::Authorities(pem) => writeln!(text, "ca = {}", quoted(&String::from_utf8_lossy(pem))),
        Trust::Pinned(hash) => writeln!(text, "pin = \"{}\"", HEXLOWER.encode(hash)),
    };
    if let Some(ClientKey { certificates, key }) = client {
        for (name, pem) in [("client_certificate", certificates), ("client_key", key)] {
            let _ = writeln!(text, "{name} = {}", quoted(&String::from_utf8_lossy(pem)));
        }
    }
    if let Some(alpn) = alpn {
        let _ = writeln!(text, "alpn = {}", quoted(alpn));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Servers;
    use super::*;

    /// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -days 36500`.
    const PEM: &str = include_str!("test-ca.pem");
    const PIN: &str = "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff";

    fn broker(lines: &str) -> Result<p2pd_core::Broker, String> {
        let servers = Servers::parse(&format!("[[mqtt]]\nid = 1\n{lines}\n"))?;
        assert_eq!(Servers::parse(&servers.to_text()).as_ref(), Ok(&servers), "{}", servers.to_text());
        Ok(servers.brokers[0].clone())
    }

    #[test]
    fn a_broker_is_reached_as_its_entry_says() {
        let with = |port, tls: Option<Tls>, websocket: Option<&str>| p2pd_core::Broker {
            tls,
            websocket: websocket.map(Into::into),
            ..p2pd_core::Broker::new(1, "a", port)
        };
        let pinned = Tls { trust: Trust::Pinned(hash(PIN).unwrap()), name: Some("b".into()), ..Tls::PUBLIC };
        let trusting = Tls { trust: Trust::Authorities(PEM.into()), ..Tls::PUBLIC };
        let ca = format!("tls = true\nca = '''{PEM}'''");
        for (lines, expected) in [
            ("tls = false", with(1883, None, None)),
            ("tls = true", with(8883, Some(Tls::PUBLIC), None)),
            ("websocket = \"/mqtt\"", with(80, None, Some("/mqtt"))),
            ("tls = true\nwebsocket = \"/mqtt\"", with(443, Some(Tls::PUBLIC), Some("/mqtt"))),
            ("tls = true\nport = 9", with(9, Some(Tls::PUBLIC), None)),
            (
                &format!("tls = true\nserver_name = \"b\"\npin = \"{}\"", PIN.to_uppercase()),
                with(8883, Some(pinned), None),
            ),
            (&ca, with(8883, Some(trusting), None)),
        ] {
            assert_eq!(broker(&format!("host = \"a\"\n{lines}")), Ok(expected), "{lines}");
        }
    }

    #[test]
    fn authorities_are_read_from_a_file_beside_the_list() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), PEM).unwrap();
        let list = folder.path().join("servers.toml");
        std::fs::write(&list, "[[mqtt]]\nid = 1\nhost = \"a\"\ntls = true\nca = \"ca.pem\"\n").unwrap();
        let tls = Servers::read(&list).unwrap().brokers[0].tls.clone().unwrap();
        assert_eq!(tls.trust, Trust::Authorities(PEM.into()));
        std::fs::remove_file(folder.path().join("ca.pem")).unwrap();
        let why = Servers::read(&list).unwrap_err();
        assert!(
            why.contains("servers.toml: the first entry of [[mqtt]]: ") && why.contains("ca.pem: No such"),
            "{why}"
        );
    }

    #[test]
    fn mistakes_are_named() {
        let both = format!("tls = true\nca = \"x\"\npin = \"{PIN}\"");
        let broken = "tls = true\nca = '''-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----'''";
        for (lines, word) in [
            ("server_name = \"b\"", "`server_name` without `tls = true`"),
            ("ca = \"b\"", "`ca` without"),
            ("tls = false\npin = \"b\"", "`pin` without"),
            (&both, "not both"),
            ("tls = true\npin = \"abc\"", "64 hexadecimal"),
            ("tls = true\nserver_name = \"no name\"", "for the name \"no name\""),
            (broken, "can be read (PEM)"),
            ("tls = true\ntsl = 1", "unknown field `tsl`"),
            ("websocket = \"mqtt\"", "begins with /"),
            ("websocket = \"/a b\"", "begins with /"),
        ] {
            let why = broker(&format!("host = \"a\"\n{lines}")).unwrap_err();
            assert!(why.contains(word), "{lines}: {why}");
        }
    }

    #[test]
    fn a_turn_server_with_tls_has_its_own_port_and_no_udp() {
        let turn = |lines: &str| {
            let servers = Servers::parse(&format!("[[turn]]\nsecret = \"s\"\n{lines}\n"))?;
            assert_eq!(Servers::parse(&servers.to_text()).as_ref(), Ok(&servers), "{}", servers.to_text());
            Ok::<_, String>((servers.turn[0].port, servers.turn[0].tls.clone()))
        };
        assert_eq!(turn("host = \"a\"\ntls = true"), Ok((5349, Some(Tls::PUBLIC))));
        assert_eq!(
            turn("host = \"a\"\ntls = true\ntransport = \"tcp\"\nport = 9"),
            Ok((9, Some(Tls::PUBLIC)))
        );
        assert_eq!(turn("url = \"turns:a\""), Ok((5349, Some(Tls::PUBLIC))));
        assert_eq!(turn("url = \"TURNS:a\""), Ok((5349, Some(Tls::PUBLIC))));
        assert_eq!(turn("url = \"turns:a:9?transport=tcp\""), Ok((9, Some(Tls::PUBLIC))));
        let pinned = Tls { trust: Trust::Pinned(hash(PIN).unwrap()), ..Tls::PUBLIC };
        assert_eq!(turn(&format!("url = \"turns:a\"\npin = \"{PIN}\"")), Ok((5349, Some(pinned))));
        for (lines, word) in [
            ("host = \"a\"\ntls = true\ntransport = \"udp\"", "TLS goes over TCP"),
            ("url = \"turns:a?transport=udp\"", "TLS goes over TCP"),
            ("url = \"turns:a\"\ntls = false", "`tls` is in the `url`"),
            ("url = \"turn:a\"\ntls = true", "`tls` is in the `url`"),
        ] {
            let why = turn(lines).unwrap_err();
            assert!(why.contains("first entry of [[turn]]") && why.contains(word), "{lines}: {why}");
        }
    }
}
