//! Choice of the machine's addresses that a node uses.

use core::fmt;
use core::str::FromStr;
use std::net::IpAddr;

use crate::prefix::is_within;

/// Choice among the machine's addresses. Default: all of them.
///
/// An address is used if one of [`only`](Self::only) names it, or there are none, and none of [`not`](Self::not) does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
// Exhaustive: what is used, and what is not.
pub struct Interfaces {
    /// Names of what is used. Empty: everything.
    pub only: Vec<Which>,
    /// Names of what is not used, whatever `only` says.
    pub not: Vec<Which>,
}

impl Interfaces {
    /// Returns true if this address of the interface with this name is used.
    pub fn allows(&self, name: &str, ip: IpAddr) -> bool {
        let named = |list: &[Which]| list.iter().any(|which| which.names(name, ip));
        (self.only.is_empty() || named(&self.only)) && !named(&self.not)
    }
}

/// Name of one or more of the machine's addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: a driver has to know what each names.
pub enum Which {
    /// The addresses of the interface that the system calls so, of both families.
    Name(Box<str>),
    /// The addresses with this prefix of so many bits.
    Prefix(IpAddr, u8),
}

impl Which {
    /// Returns true if it names this address of the interface with this name.
    pub fn names(&self, name: &str, ip: IpAddr) -> bool {
        match self {
            Which::Name(which) => **which == *name,
            Which::Prefix(prefix, bits) => is_within(*prefix, *bits, ip),
        }
    }
}

/// Text that is no [`Which`]: an empty name, a name with a slash or a space, or a prefix that is longer than an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WhichError(());

impl fmt::Display for WhichError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither the name of an interface nor an address nor a prefix such as 192.168.0.0/16")
    }
}

impl std::error::Error for WhichError {}

impl FromStr for Which {
    type Err = WhichError;

    fn from_str(text: &str) -> Result<Self, WhichError> {
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        match (ip.parse::<IpAddr>(), bits) {
            (Ok(ip), bits) => {
                let most = if ip.is_ipv4() { 32 } else { 128 };
                let bits = bits.map_or(Ok(most), |bits| bits.parse::<u8>().map_err(|_| WhichError(())))?;
                if bits <= most { Ok(Which::Prefix(ip, bits)) } else { Err(WhichError(())) }
            }
            (Err(_), None) if !text.is_empty() && !text.contains(char::is_whitespace) => {
                Ok(Which::Name(text.into()))
            }
            (Err(_), _) => Err(WhichError(())),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Name(name) => f.write_str(name),
            Which::Prefix(ip, 32) if ip.is_ipv4() => ip.fmt(f),
            Which::Prefix(ip, 128) => ip.fmt(f),
            Which::Prefix(ip, bits) => write!(f, "{ip}/{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(texts: &[&str]) -> Vec<Which> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn names_addresses_and_prefixes_are_told_apart_and_said_again() {
        for text in
            ["eth0", "br-aaaaaaaaaaaa", "192.168.7.1", "10.0.0.0/8", "fd00::/8", "2001:db8::1", "0.0.0.0/0"]
        {
            assert_eq!(text.parse::<Which>().unwrap().to_string(), text);
        }
        assert_eq!(which(&["192.168.7.1/32", "::1/128"]), which(&["192.168.7.1", "::1"]));
        for text in ["", "eth 0", "eth0/24", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "fd00::/129", "/8"] {
            assert_eq!(text.parse::<Which>(), Err(WhichError(())), "{text:?}");
        }
    }

    #[test]
    fn what_is_named_is_used_and_what_is_excluded_is_not() {
        let (lan, vpn): (IpAddr, IpAddr) = ("192.168.7.1".parse().unwrap(), "10.8.0.6".parse().unwrap());
        let site: IpAddr = "fd00::1".parse().unwrap();
        let all = Interfaces::default();
        assert!(all.allows("lan0", lan));
        let by_name = Interfaces { only: which(&["lan0"]), not: Vec::new() };
        assert!(by_name.allows("lan0", lan) && by_name.allows("lan0", site) && !by_name.allows("tun0", vpn));
        let by_prefix = Interfaces { only: which(&["192.168.0.0/16"]), not: Vec::new() };
        assert!(by_prefix.allows("lan0", lan) && !by_prefix.allows("lan0", site));
        let but = Interfaces { only: Vec::new(), not: which(&["10.0.0.0/8", "fd00::1"]) };
        assert!(but.allows("lan0", lan) && !but.allows("tun0", vpn) && !but.allows("lan0", site));
        let both = Interfaces { only: which(&["lan0"]), not: which(&["fc00::/7"]) };
        assert!(both.allows("lan0", lan) && !both.allows("lan0", site));
        let everything = Interfaces { only: which(&["0.0.0.0/0"]), not: Vec::new() };
        assert!(everything.allows("tun0", vpn) && !everything.allows("lan0", site));
    }
}
