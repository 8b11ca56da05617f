//! Kinds of the machine's links, as Linux tells them: rtnetlink(7), by kind and never by name.

use std::collections::BTreeMap;

use p2pd_core::io::LinkKind;

use crate::sys;

/// The kinds of all links that are not simply real ones, by their index. Linux only.
pub(crate) fn kinds() -> BTreeMap<u32, LinkKind> {
    let mut links = Vec::new();
    if sys::dump_links(|messages| read(messages, &mut links)).is_err() {
        links.clear();
    }
    judge(&links)
}

/// A link as it is told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Told {
    index: u32,
    /// `IFLA_INFO_KIND`; empty for hardware.
    kind: String,
    /// Index of the bridge, if the link is a port of one.
    master: Option<u32>,
}

fn judge(links: &[Told]) -> BTreeMap<u32, LinkKind> {
    let of = |link: &Told| match &*link.kind {
        // A container's own end of a `veth` is its network; the other end has no address.
        "" | "bond" | "team" | "vlan" | "macvlan" | "ipvlan" | "veth" | "netkit" => None,
        // It is real if one of its ports is.
        "bridge" => {
            let real = |port: &Told| port.kind.is_empty() || matches!(&*port.kind, "bond" | "team" | "vlan");
            let ports = links.iter().filter(|port| port.master == Some(link.index));
            (!ports.into_iter().any(real)).then_some(LinkKind::Virtual)
        }
        "tun" | "wireguard" | "ipip" | "sit" | "gre" | "gretap" | "ip6tnl" | "ip6gre" | "vti" | "vti6"
        | "xfrm" | "ppp" | "geneve" | "vxlan" => Some(LinkKind::Tunnel),
        _ => Some(LinkKind::Virtual),
    };
    links.iter().filter_map(|link| Some((link.index, of(link)?))).collect()
}

/// Reads a datagram of a dump. False: it was the last one, or is not understood.
fn read(mut messages: &[u8], links: &mut Vec<Told>) -> bool {
    /// `struct nlmsghdr`, `struct ifinfomsg`.
    const HEADERS: usize = 16 + 16;
    /// `RTM_NEWLINK`; others say that the dump is over.
    const LINK: u16 = 16;
    while !messages.is_empty() {
        let length = word(messages, 0).unwrap_or(0) as usize;
        let Some(message) = messages.get(..length).filter(|m| m.len() >= HEADERS) else { return false };
        if half(message, 4) != Some(LINK) {
            return false;
        }
        let mut told = Told { index: word(message, 20).unwrap_or(0), ..Told::default() };
        for (kind, value) in attributes(&message[HEADERS..]) {
            match kind {
                // IFLA_MASTER, IFLA_LINKINFO with IFLA_INFO_KIND in it.
                10 => told.master = word(value, 0),
                18 => {
                    let info = attributes(value).find(|(kind, _)| *kind == 1);
                    let name = info.map_or(&[][..], |(_, name)| name);
                    told.kind = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
                }
                _ => {}
            }
        }
        links.push(told);
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// The attributes, `struct rtattr`, up to one that is not whole.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?);
        let value = rest.get(4..length)?;
        // The two highest bits say how it is put.
        let kind = half(rest, 2)? & 0x3fff;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(index: u32, kind: &str, master: Option<u32>) -> Told {
        Told { index, kind: kind.into(), master }
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(link: &Told) -> Vec<u8> {
        let mut body = [0; 16].to_vec();
        body[4..8].copy_from_slice(&link.index.to_ne_bytes());
        body.extend(attribute(3, b"name\0"));
        if let Some(master) = link.master {
            body.extend(attribute(10, &master.to_ne_bytes()));
        }
        body.extend(attribute(18 | 0x8000, &attribute(1, format!("{}\0", link.kind).as_bytes())));
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(16u16.to_ne_bytes());
        message.extend([0; 10]);
        [message, body].concat()
    }

    #[test]
    fn a_bridge_is_as_real_as_its_ports() {
        let links = [
            told(1, "", None),
            told(2, "bridge", None),
            told(3, "veth", Some(2)),
            told(4, "bridge", None),
            told(5, "", Some(4)),
            told(6, "bridge", None),
            told(7, "wireguard", None),
            told(8, "dummy", None),
            told(9, "veth", None),
        ];
        let [virtual_, tunnel] = [LinkKind::Virtual, LinkKind::Tunnel];
        let expected = [(2, virtual_), (6, virtual_), (7, tunnel), (8, virtual_)];
        assert_eq!(judge(&links).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_dump_is_read_and_nonsense_is_not() {
        let links = [told(2, "bridge", None), told(3, "veth", Some(2))];
        let whole = links.iter().map(message).collect::<Vec<_>>().concat();
        let mut found = Vec::new();
        assert!(read(&whole, &mut found));
        assert_eq!(found, links);
        for n in 1..whole.len() {
            read(&whole[..n], &mut Vec::new());
        }
        assert!(!read(&[0; 64], &mut Vec::new()));
        if cfg!(target_os = "linux") {
            let mut links = Vec::new();
            sys::dump_links(|messages| read(messages, &mut links)).unwrap();
            assert!(links.iter().any(|link| link.index > 0), "every machine has a loopback");
        }
    }
}
