//! Destinations that `expose --allow` opens to SOCKS clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::wire::{Destination, Host};

/// Rule that allows destinations: a host and a port.
///
/// A name is allowed by names alone and an address by addresses alone. What a name resolves to does not matter: it is the
/// exposer's own resolver that is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    hosts: Hosts,
    /// `None` for all ports.
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Hosts {
    Name(String),
    /// Names that end so, with the dot before it.
    Below(String),
    Prefix(IpAddr, u8),
}

impl Rule {
    pub(super) fn allows(&self, to: &Destination) -> bool {
        let port = self.port.is_none_or(|port| port == to.port);
        port && match (&self.hosts, &to.host) {
            (Hosts::Name(name), Host::Name(asked)) => name == asked,
            (Hosts::Below(end), Host::Name(asked)) => asked.ends_with(end.as_str()),
            (Hosts::Prefix(network, bits), Host::Ip(ip)) => masked(*network, *bits) == masked(*ip, *bits),
            _ => false,
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    /// `HOST:PORT`, where HOST is a name, `*.NAME`, an address or a prefix, and PORT may be `*`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("not HOST:PORT, such as intranet.example:80")?;
        let port = match port {
            "*" => None,
            port => Some(port.parse().ok().filter(|p| *p != 0).ok_or_else(|| format!("{port}: no port"))?),
        };
        let bare = match host.strip_prefix('[') {
            Some(rest) => rest.replacen(']', "", 1),
            None => host.to_owned(),
        };
        let hosts = if let Some(end) = host.strip_prefix("*.") {
            match Host::new(end) {
                Some(Host::Name(end)) => Hosts::Below(format!(".{end}")),
                _ => return Err(format!("{host}: *. stands before a name")),
            }
        } else if let Some((ip, bits)) = bare.split_once('/') {
            let ip: IpAddr = ip.parse().map_err(|_| format!("{host}: no prefix"))?;
            let most = if ip.is_ipv4() { 32 } else { 128 };
            let bits =
                bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(|| format!("{host}: no prefix"))?;
            Hosts::Prefix(ip, bits)
        } else {
            match Host::new(&bare) {
                Some(Host::Name(name)) => Hosts::Name(name),
                Some(Host::Ip(ip)) => Hosts::Prefix(ip, if ip.is_ipv4() { 32 } else { 128 }),
                None => return Err(format!("{host}: neither a name nor an address")),
            }
        };
        Ok(Rule { hosts, port })
    }
}

/// An address without the bits behind the prefix. The two families have nothing in common.
fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_allowed_by_its_own_kind_of_rule_alone() {
        let to = |text: &str| text.parse::<Destination>().unwrap();
        for (rule, allowed, refused) in [
            (
                "Intranet.example:80",
                &["intranet.example:80", "INTRANET.example.:80"][..],
                &["intranet.example:81", "x.intranet.example:80", "192.0.2.1:80"][..],
            ),
            (
                "*.example:443",
                &["a.example:443", "a.b.example:443"],
                &["example:443", "aexample:443", "a.example:80"],
            ),
            (
                "10.0.0.0/8:*",
                &["10.1.2.3:1", "10.255.0.1:65535", "[::ffff:10.1.1.1]:22"],
                &["11.0.0.1:1", "a.example:1", "[::1]:1"],
            ),
            ("[2001:db8::]/32:22", &["[2001:db8:1::1]:22"], &["[2001:db9::1]:22"]),
            ("2001:db8::/32:22", &["[2001:db8:1::1]:22"], &["[2001:db9::1]:22"]),
            ("[::1]:22", &["[::1]:22"], &["[::2]:22", "127.0.0.1:22"]),
            ("0.0.0.0/0:80", &["192.0.2.1:80"], &["[::1]:80", "a:80"]),
            ("::/0:80", &["[2001:db8::1]:80"], &["192.0.2.1:80"]),
            ("127.0.0.1:80", &["127.0.0.1:80"], &["127.0.0.2:80", "localhost:80"]),
        ] {
            let rule: Rule = rule.parse().unwrap_or_else(|why| panic!("{rule}: {why}"));
            for text in allowed {
                assert!(rule.allows(&to(text)), "{rule:?} {text}");
            }
            for text in refused {
                assert!(!rule.allows(&to(text)), "{rule:?} {text}");
            }
        }
        for bad in [
            "",
            "a",
            ":80",
            "a:0",
            "a:x",
            "*:80",
            "*.:80",
            "*.10.0.0.1:80",
            "10.0.0.0/33:1",
            "10.0.0/8:1",
            "a b:1",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }
}
