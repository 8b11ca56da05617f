//! SSDP (UPnP Device Architecture 2.0 section 1.3): the search for devices, and their answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use super::http::Url;
use crate::address::scoped;
use crate::portmap::Config;

const PORT: u16 = 1900;
const MAX_HEADERS: usize = 32;
/// Longest answer looked at.
const MAX_ANSWER: usize = 2048;

/// Search targets. Version 2 devices have to answer to 1 as well; not all do.
const TARGETS_V4: [&str; 2] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
];
const TARGETS_V6: [&str; 2] = [
    "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
];

/// The searches: to the group, and to the gateway itself, whose answer comes through firewalls on our side.
pub(super) fn searches(config: &Config) -> impl Iterator<Item = (SocketAddr, Bytes)> {
    let (group, targets): (IpAddr, _) = match config.local {
        IpAddr::V4(_) => (Ipv4Addr::new(239, 255, 255, 250).into(), TARGETS_V4),
        IpAddr::V6(_) => (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc).into(), TARGETS_V6),
    };
    let group = match scoped(group, PORT, config.zone) {
        SocketAddr::V6(mut group) => {
            group.set_scope_id(config.zone);
            group.into()
        }
        v4 => v4,
    };
    let gateway = config.gateway.map(|ip| scoped(ip, PORT, config.zone));
    let places = [Some(group), gateway].into_iter().flatten();
    places.flat_map(move |to| targets.map(|target| (to, search(to, target))))
}

fn search(to: SocketAddr, target: &str) -> Bytes {
    let host = SocketAddr::new(to.ip(), to.port());
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {host}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {target}\r\n\r\n")
        .into()
}

/// Returns true if the data looks like an answer at all.
pub(super) fn is_answer(data: &[u8]) -> bool {
    data.starts_with(b"HTTP/1.")
}

/// Returns the address of the answering device's description. `None` if it is not to be used: a stranger could have us
/// connect to any address.
pub(super) fn location(config: &Config, from: SocketAddr, data: &[u8]) -> Option<Url> {
    let data = data.get(..data.len().min(MAX_ANSWER))?;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    if !matches!(response.parse(data), Ok(httparse::Status::Complete(_))) || response.code != Some(200) {
        return None;
    }
    let value = |name: &str| {
        let header = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
        str::from_utf8(header.value.trim_ascii()).ok()
    };
    let target = value("st")?;
    if !TARGETS_V4.contains(&target) && !TARGETS_V6.contains(&target) {
        return None;
    }
    let url = Url::parse(value("location")?, config.zone)?;
    let near = config.gateway == Some(url.host.ip()) || is_on_link(config, url.host.ip());
    (near && from.ip() == url.host.ip() && url.host.ip() != config.local).then_some(url)
}

fn is_on_link(config: &Config, ip: IpAddr) -> bool {
    let prefix = u32::from(config.prefix);
    match (config.local, ip) {
        (IpAddr::V4(ours), IpAddr::V4(ip)) => {
            let differs = ours.to_bits() ^ ip.to_bits();
            prefix <= 32 && differs.checked_shr(32 - prefix).unwrap_or(0) == 0 && prefix > 0
        }
        (IpAddr::V6(_), IpAddr::V6(ip)) if ip.is_unicast_link_local() => true,
        (IpAddr::V6(ours), IpAddr::V6(ip)) => {
            let differs = ours.to_bits() ^ ip.to_bits();
            prefix <= 128 && differs.checked_shr(128 - prefix).unwrap_or(0) == 0 && prefix > 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(location: &str) -> String {
        let target = TARGETS_V4[0];
        format!(
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {target}\r\nLocation: {location}\r\n\r\n"
        )
    }

    #[test]
    fn searches_go_to_the_group_and_to_the_gateway() {
        let mut config = Config::new("192.168.1.5".parse().unwrap(), 24);
        config.gateway = Some("192.168.1.1".parse().unwrap());
        let all: Vec<_> = searches(&config).map(|(to, _)| to.to_string()).collect();
        assert_eq!(
            all,
            ["239.255.255.250:1900", "239.255.255.250:1900", "192.168.1.1:1900", "192.168.1.1:1900"]
        );
        let (_, data) = searches(&config).next().unwrap();
        let expected = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
                        ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
        assert_eq!(data, expected);
        let mut v6 = Config::new("2a00::5".parse().unwrap(), 64);
        v6.zone = 3;
        assert_eq!(searches(&v6).next().unwrap().0.to_string(), "[ff02::c%3]:1900");
    }

    #[test]
    fn strangers_answers_lead_nowhere() {
        let mut config = Config::new("192.168.1.5".parse().unwrap(), 24);
        config.gateway = Some("10.0.0.1".parse().unwrap());
        let found = |from: &str, location: &str| {
            super::location(&config, from.parse().unwrap(), answer(location).as_bytes()).is_some()
        };
        assert!(found("192.168.1.1:1900", "http://192.168.1.1:5000/x"));
        assert!(found("192.168.1.77:4", "http://192.168.1.77/x"), "another device of the LAN");
        assert!(found("10.0.0.1:1900", "http://10.0.0.1/x"), "the gateway, though off the subnet");
        assert!(!found("192.168.1.1:1900", "http://192.168.1.2/x"), "names another device");
        assert!(!found("192.168.2.1:1900", "http://192.168.2.1/x"), "off the subnet");
        assert!(!found("9.9.9.9:1900", "http://9.9.9.9/x"));
        assert!(!found("192.168.1.5:1900", "http://192.168.1.5/x"), "ourselves");
        assert!(!found("192.168.1.1:1900", "https://192.168.1.1/x"));
        assert!(!found("192.168.1.1:1900", "http://router/x"));
        let wrong = answer("http://192.168.1.1/x");
        for (bad, from) in [
            (wrong.replace("200", "404"), "192.168.1.1:1900"),
            (wrong.replace("InternetGateway", "MediaRenderer"), "192.168.1.1:1900"),
            (wrong.replace("Location", "Elsewhere"), "192.168.1.1:1900"),
            (wrong[..wrong.len() - 2].to_owned(), "192.168.1.1:1900"),
        ] {
            assert_eq!(super::location(&config, from.parse().unwrap(), bad.as_bytes()), None, "{bad}");
        }
    }
}
