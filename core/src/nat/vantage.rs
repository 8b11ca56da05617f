//! Plausibility of what STUN servers say, for votes over UDP and for surveys alike.

use std::net::IpAddr;

use crate::address::{is_dialable, is_internet};
use crate::prefix::is_on_link;
use crate::reach::{Reach, reach};

/// Address of ours that servers are asked from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Vantage {
    pub(crate) ip: IpAddr,
    /// Length of its on-link prefix, in bits.
    pub(crate) prefix: u8,
}

impl Vantage {
    /// Returns true if a server may see our address as that one.
    ///
    /// An interface on the internet is not seen as one inside. Nor is anybody seen so by a server on the internet. A neighbour
    /// sees our address as it is.
    pub(crate) fn may_be(self, server: IpAddr, said: IpAddr) -> bool {
        let [ours, server_in, said_in] = [self.ip, server, said].map(|ip| reach(ip, &[]));
        let possible = match said_in {
            Reach::Internet => true,
            Reach::Inside => ours == Reach::Inside && server_in != Reach::Internet,
            Reach::Loopback => ours == Reach::Loopback,
            Reach::Nobody => false,
        };
        let other = possible && !is_on_link(self.ip, self.prefix, server);
        said.is_ipv4() == self.ip.is_ipv4() && is_dialable(said) && (said == self.ip || other)
    }
}

/// Returns true if an address of the internet was seen over the internet.
pub(super) fn is_outside(server: IpAddr, said: Option<IpAddr>) -> bool {
    [Some(server), said].iter().all(|ip| ip.is_some_and(is_internet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_not_believed() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (ours, prefix, server, said, possible) in [
            // At home, by a server on the internet, in the carrier's network, and in our own.
            ("192.168.7.1", 24, "203.0.113.1", "198.51.100.9", true),
            ("192.168.7.1", 24, "203.0.113.1", "172.18.0.1", false),
            ("192.168.7.1", 24, "203.0.113.1", "192.168.7.1", true),
            ("192.168.7.1", 24, "100.64.0.1", "100.64.3.3", true),
            ("192.168.7.1", 24, "100.64.0.1", "198.51.100.9", true),
            ("192.168.7.1", 24, "192.168.7.2", "192.168.7.1", true),
            ("192.168.7.1", 24, "192.168.7.2", "172.18.0.1", false),
            ("192.168.7.1", 24, "192.168.7.2", "198.51.100.9", false),
            // On the internet.
            ("198.51.100.9", 32, "203.0.113.1", "198.51.100.9", true),
            ("198.51.100.9", 32, "203.0.113.1", "172.18.0.1", false),
            ("198.51.100.9", 32, "192.168.1.1", "172.18.0.1", false),
            ("198.51.100.9", 32, "203.0.113.1", "203.0.113.77", true),
            // Nonsense.
            ("192.168.7.1", 24, "203.0.113.1", "127.0.0.1", false),
            ("192.168.7.1", 24, "203.0.113.1", "0.0.0.0", false),
            ("192.168.7.1", 24, "203.0.113.1", "224.0.0.1", false),
            ("192.168.7.1", 24, "203.0.113.1", "2001:db8::1", false),
            ("127.0.0.1", 8, "127.0.0.1", "127.0.0.1", true),
            ("2001:db8::1", 64, "2001:db8:9::1", "2001:db8:5::1", true),
            ("2001:db8::1", 64, "2001:db8:9::1", "fd00::1", false),
        ] {
            let vantage = Vantage { ip: ip(ours), prefix };
            assert_eq!(vantage.may_be(ip(server), ip(said)), possible, "{ours}: {server} says {said}");
        }
    }
}
