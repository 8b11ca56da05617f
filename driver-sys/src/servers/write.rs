//! A list as a file's text.

use std::fmt::Write;

use p2pd_core::Transport;
use p2pd_core::turn::Lifetimes;
use p2pd_core::{Broker, NtpServer, Proxy, ProxyKind, StunServer};

use super::secure;
use super::{LoginSource, Servers, TurnCredential, TurnServer, WayOut};

impl Servers {
    /// The list as a file's text, which [`parse`](Self::parse) reads back.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Broker { id, host, port, tls, websocket, headers, login, renews: _, proxy: _ } in &self.brokers {
            let _ = writeln!(text, "[[mqtt]]\nid = {id}\nhost = {}\nport = {port}", quoted(host));
            if let Some(path) = websocket {
                let _ = writeln!(text, "websocket = {}", quoted(path));
            }
            if let Some(login) = login {
                let _ = writeln!(text, "user = {}", quoted(login.user()));
            }
            if let Some(password) = login.as_ref().and_then(|l| l.password()) {
                let _ = writeln!(text, "password = {}", quoted(password));
            }
            if let Some(LoginSource::Command(command)) = self.logins.get(id) {
                let _ = writeln!(text, "credential_command = {}", toml::Value::from(command.clone()));
            }
            let headers: Vec<String> =
                headers.iter().map(|h| format!("{} = {}", quoted(h.name()), quoted(h.value()))).collect();
            if !headers.is_empty() {
                let _ = writeln!(text, "headers = {{ {} }}", headers.join(", "));
            }
            let _ = writeln!(text, "{}", secure::to_text(tls.as_ref()));
        }
        for StunServer { host, port } in &self.stun {
            let _ = writeln!(text, "[[stun]]\nhost = {}\nport = {port}\n", quoted(host));
        }
        for TurnServer { host, port, transport, tls, credential, lifetimes, alternates_anywhere } in
            &self.turn
        {
            let _ = writeln!(text, "[[turn]]\nhost = {}\nport = {port}", quoted(host));
            text.push_str(&secure::to_text(tls.as_ref()));
            if let Some(over) = transport {
                let over = if *over == Transport::Udp { "udp" } else { "tcp" };
                let _ = writeln!(text, "transport = \"{over}\"");
            }
            if *alternates_anywhere {
                text.push_str("alternates = \"anywhere\"\n");
            }
            let usual = Lifetimes::default();
            for (name, is, usual) in [
                ("permission_lifetime", lifetimes.permission, usual.permission),
                ("channel_lifetime", lifetimes.channel, usual.channel),
            ] {
                if is != usual {
                    let _ = writeln!(text, "{name} = {}", is.as_secs());
                }
            }
            let _ = match credential {
                TurnCredential::Nobody => writeln!(text, "auth = \"none\"\n"),
                TurnCredential::Password { user, password } => {
                    writeln!(text, "user = {}\npassword = {}\n", quoted(user), quoted(password))
                }
                TurnCredential::Secret(secret) => writeln!(text, "secret = {}\n", quoted(secret)),
                TurnCredential::Command(command) => {
                    let command = toml::Value::from(command.clone());
                    writeln!(text, "credential_command = {command}\n")
                }
            };
        }
        for NtpServer { host, port } in &self.ntp {
            let _ = writeln!(text, "[[ntp]]\nhost = {}\nport = {port}\n", quoted(host));
        }
        if let Some(way) = &self.proxy {
            way_out(&mut text, way);
        }
        text
    }
}

fn way_out(text: &mut String, WayOut { proxy, except }: &WayOut) {
    let Some(Proxy { kind, host, port, login }) = proxy else {
        return text.push_str("[proxy]\nurl = \"none\"\n");
    };
    let scheme = if *kind == ProxyKind::Http { "http" } else { "socks5" };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let _ = writeln!(text, "[proxy]\nurl = {}", quoted(&format!("{scheme}://{host}:{port}")));
    if let Some(login) = login {
        let _ = writeln!(text, "user = {}", quoted(login.user()));
    }
    if let Some(password) = login.as_ref().and_then(|l| l.password()) {
        let _ = writeln!(text, "password = {}", quoted(password));
    }
    if !except.is_empty() {
        let _ = writeln!(text, "except = {}", toml::Value::from(except.clone()));
    }
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
