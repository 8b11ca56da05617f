//! Nodes of one network found by their ids, by DNS-SD over multicast DNS (RFC 6763, RFC 6762): what is announced, and what is
//! believed of what is heard. A driver sends and receives the records.
//!
//! An instance's name is a [`Tag`], from which nobody learns the node's id who does not know it. Beside it stands a
//! signature of the node, so that nobody else can announce it.

use core::cmp::Reverse;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::net::IpAddr;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use data_encoding::BASE32_NOPAD;

use crate::address::{MAX_INTERFACES, PeerAddress, PeerInterface, is_link_local};
use crate::identity::{NodeId, SecretKey};
use crate::io::Interface;
use crate::nat::{Delta, DeltaType, NatType};
use crate::prefix::is_on_link;
use crate::reach::{Reach, reach};
use crate::signature;
use crate::time::WallTime;

/// Type of the service, with its domain.
pub const SERVICE: &str = "_p2pd._tcp.local.";
/// Time after which a node announces another tag, with another salt.
pub const ROTATION: Duration = Duration::from_secs(600);
/// Most addresses of one answer that are looked at.
pub const MAX_ADDRESSES: usize = 16;
/// Most addresses that a node announces, each with a tag of its own.
pub const MAX_ANNOUNCED: usize = 8;

/// Signatures that one search checks.
pub const MAX_CHECKED: usize = 64;

/// Name of the property of the TXT record that has the signature.
pub const SIGNATURE: &str = "s";

/// Longest time by which a signature may be ahead of our clock before it counts as the oldest.
const AHEAD: Duration = Duration::from_secs(600);
/// First bytes of what is signed.
const CONTEXT: &[u8] = b"p2pd lan announcement";
/// Length of the salt and of the hash, in bytes.
const SALT: usize = 10;
const HASH: usize = 20;

/// Name under which an address of a node is announced: a salt, and a hash of it with node id, port and address. So nobody
/// can have the tag lead elsewhere who does not know the id. Its text is a label of DNS, 48 small base32 characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    salt: [u8; SALT],
    hash: [u8; HASH],
}

impl Tag {
    /// Length of the text.
    pub const TEXT_LEN: usize = 48;

    /// Returns the tag of a node's listener with this salt, which is to be random.
    pub fn new(id: &NodeId, at: (IpAddr, u16), salt: [u8; 10]) -> Self {
        let mut hash = Blake2s::<U32>::new();
        hash.update(b"p2pd lan");
        hash.update(id.as_bytes());
        hash.update(salt);
        hash.update(at.1.to_be_bytes());
        match at.0 {
            IpAddr::V4(ip) => hash.update(ip.octets()),
            IpAddr::V6(ip) => hash.update(ip.octets()),
        }
        let whole: [u8; 32] = hash.finalize().into();
        let mut hash = [0; HASH];
        hash.copy_from_slice(&whole[..HASH]);
        Tag { salt, hash }
    }

    /// Returns true if the tag is of this node's listener.
    pub fn is_of(&self, id: &NodeId, at: (IpAddr, u16)) -> bool {
        *self == Tag::new(id, at, self.salt)
    }

    /// Returns the text for the property [`SIGNATURE`]: the node's signature of the tag, and the time of it.
    pub fn sign(&self, key: &SecretKey, now: WallTime) -> String {
        let time = now.as_micros().to_be_bytes();
        let signature = signature::sign(key, &self.signed(time));
        BASE32_NOPAD.encode(&[&time[..], &signature].concat()).to_ascii_lowercase()
    }

    /// Returns the time at which this node signed the tag; `None` if the text is no such signature.
    fn signed_at(&self, id: &NodeId, text: &str) -> Option<i64> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
        let (time, signature) = bytes.split_first_chunk()?;
        let is_right = signature::verify(id, &self.signed(*time), signature.try_into().ok()?);
        is_right.then(|| i64::from_be_bytes(*time))
    }

    fn signed(&self, time: [u8; 8]) -> Vec<u8> {
        [CONTEXT, &self.salt, &self.hash, &time].concat()
    }

    /// Returns the name of the host in the records: the text of the salt, never the machine's name.
    pub fn host(&self) -> String {
        format!("{}.local.", BASE32_NOPAD.encode(&self.salt).to_ascii_lowercase())
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; SALT + HASH];
        bytes[..SALT].copy_from_slice(&self.salt);
        bytes[SALT..].copy_from_slice(&self.hash);
        f.write_str(&BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

/// Text that is no [`Tag`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotATag;

impl fmt::Display for NotATag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a tag has {} characters of a-z and 2-7", Tag::TEXT_LEN)
    }
}

impl std::error::Error for NotATag {}

impl FromStr for Tag {
    type Err = NotATag;
    fn from_str(text: &str) -> Result<Self, NotATag> {
        if text.len() != Tag::TEXT_LEN {
            return Err(NotATag);
        }
        // DNS makes no difference between capital and small letters.
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| NotATag)?;
        let mut tag = Tag { salt: [0; SALT], hash: [0; HASH] };
        let (salt, hash) = bytes.split_at_checked(SALT).ok_or(NotATag)?;
        tag.salt.copy_from_slice(salt);
        tag.hash.copy_from_slice(hash);
        Ok(tag)
    }
}

/// Returns true if a node may be announced by this address of its own: one of a private network or of a link.
pub fn may_announce(ip: IpAddr) -> bool {
    reach(ip, &[]) == Reach::Inside
}

/// Search for a node in the networks of this machine.
#[derive(Clone, Debug)]
pub struct Search {
    wanted: NodeId,
    /// Latest time of a signature that is taken for it.
    latest: WallTime,
    checked: usize,
    found: Vec<Found>,
}

/// Address of the node, and the time at which the node signed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Found {
    ip: IpAddr,
    port: u16,
    signed: i64,
}

impl Search {
    /// Begins a search at this time of our clock.
    pub fn new(wanted: NodeId, now: WallTime) -> Self {
        let latest = now.offset_micros(AHEAD.as_micros() as i64);
        Search { wanted, latest, checked: 0, found: Vec::new() }
    }

    /// Takes an answer in: the instance's full name, its [`SIGNATURE`], its port, and its addresses, each with the index of
    /// the interface that heard it. Returns true if it gave an address that is new.
    ///
    /// An address counts if the tag is the wanted node's at this address and port, and signed by it. It has to be a private
    /// or a link-local one, in the prefix of an address in use on the interface that heard it. A search keeps
    /// [`MAX_INTERFACES`] of a family, those that were signed last: whoever repeats old answers displaces no new one. What
    /// was signed more than 10 minutes ahead of our clock counts as the oldest. A search checks [`MAX_CHECKED`] signatures.
    /// Who is there is proven by the hello.
    pub fn hear(
        &mut self,
        (name, signature): (&str, &str),
        port: u16,
        heard: impl IntoIterator<Item = (IpAddr, u32)>,
        ours: &[Interface],
    ) -> bool {
        let tag = name.split_once('.').and_then(|(label, _)| label.parse::<Tag>().ok());
        let Some(tag) = tag.filter(|_| port != 0) else { return false };
        let near = |ip, index| {
            may_announce(ip)
                && ours.iter().any(|i| i.index == index && i.used && is_on_link(i.ip, i.prefix, ip))
                // A link-local address of this machine leads to no other node.
                && !(is_link_local(ip) && ours.iter().any(|i| i.ip == ip))
        };
        let mut heard = heard.into_iter().take(MAX_ADDRESSES);
        let found = heard.find(|(ip, index)| near(*ip, *index) && tag.is_of(&self.wanted, (*ip, port)));
        let Some((ip, _)) = found else { return false };
        if self.checked >= MAX_CHECKED {
            return false;
        }
        self.checked += 1;
        let Some(signed) = tag.signed_at(&self.wanted, signature) else { return false };
        let signed = if signed > self.latest.as_micros() { i64::MIN } else { signed };
        if let Some(there) = self.found.iter_mut().find(|there| (there.ip, there.port) == (ip, port)) {
            there.signed = there.signed.max(signed);
            return false;
        }
        let family = self.found.iter().enumerate().filter(|(_, there)| there.ip.is_ipv4() == ip.is_ipv4());
        if family.clone().count() == MAX_INTERFACES {
            // Of equal ones the last.
            let oldest = family.rev().min_by_key(|(_, there)| there.signed);
            let Some((at, _)) = oldest.filter(|(_, oldest)| oldest.signed < signed) else { return false };
            self.found.remove(at);
        }
        self.found.push(Found { ip, port, signed });
        true
    }

    /// Returns the address of the node: what was found, and behind it what is left room for of an address that was known
    /// before, with its brokers. Of what was known the first of a family has a place always. `None` if nothing was found.
    pub fn address(&self, known: Option<&PeerAddress>) -> Option<PeerAddress> {
        if self.found.is_empty() {
            return None;
        }
        // A link-local address is good for want of another one.
        let mut found = self.found.clone();
        found.sort_by_key(|there| (is_link_local(there.ip), Reverse(there.signed)));
        let mut all: Vec<PeerInterface> = Vec::new();
        for Found { ip, port, .. } in found {
            let of_family = |i: &&PeerInterface| i.internal.is_ipv4() == ip.is_ipv4();
            let index = all.iter().filter(of_family).count() as u16;
            let is_there = |known: &PeerInterface| {
                self.found.iter().any(|f| (f.ip, f.port) == (known.external, known.port))
            };
            let kept = known.iter().flat_map(|address| address.interfaces());
            let kept = kept.filter(of_family).any(|known| !is_there(known));
            if usize::from(index) + usize::from(kept) >= MAX_INTERFACES {
                continue;
            }
            let delta = Delta { kind: DeltaType::NotApplicable, value: 0 };
            let nat = NatType::OpenInternet;
            all.push(PeerInterface { index, external: ip, internal: ip, port, nat, delta });
        }
        for more in known.iter().flat_map(|address| address.interfaces()) {
            let of_family = all.iter().filter(|i| i.internal.is_ipv4() == more.internal.is_ipv4()).count();
            let is_there = all.iter().any(|i| (i.external, i.port) == (more.external, more.port));
            if of_family < MAX_INTERFACES && !is_there {
                all.push(PeerInterface { index: of_family as u16, ..*more });
            }
        }
        let brokers = known.map_or(&[][..], |address| address.brokers());
        PeerAddress::new(brokers, &all, self.wanted.to_node_text()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    const NOW: WallTime = WallTime::from_micros(1_000_000_000);

    fn id(n: u8) -> NodeId {
        SecretKey::from_bytes([n; 32]).node_id()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ours() -> [Interface; 4] {
        let mut unused = Interface::new(3, ip("10.0.0.1"), 8);
        unused.used = false;
        [
            Interface::new(2, ip("192.168.7.2"), 24),
            Interface::new(2, ip("fd07::2"), 64),
            unused,
            Interface::new(4, ip("203.0.113.2"), 24),
        ]
    }

    fn tag(n: u8, at: &str, port: u16, salt: u8) -> Tag {
        Tag::new(&id(n), (ip(at), port), [salt; 10])
    }

    /// Signature of a node's tag at this second.
    fn sign(n: u8, tag: Tag, second: i64) -> String {
        tag.sign(&SecretKey::from_bytes([n; 32]), WallTime::from_micros(second * 1_000_000))
    }

    /// Has a search hear that this node says to be there, by a tag that is right.
    fn hear(search: &mut Search, n: u8, port: u16, at: (&str, u32)) -> bool {
        hear_signed(search, n, port, at, 1)
    }

    fn hear_signed(search: &mut Search, n: u8, port: u16, at: (&str, u32), second: i64) -> bool {
        let tag = tag(n, at.0, port, 0);
        let name = format!("{tag}.{SERVICE}");
        search.hear((&name, &sign(n, tag, second)), port, [(ip(at.0), at.1)], &ours())
    }

    #[test]
    fn a_tag_is_known_by_who_knows_the_id_and_differs_with_each_salt() {
        let at = |text: &str, port| (ip(text), port);
        let tag = self::tag(1, "192.168.7.9", 40404, 7);
        assert_eq!(tag.to_string(), "a4dqobyha4dqobyhpqsakrogevmh5qezz665qy5owjtolesf");
        assert_eq!(
            self::tag(1, "fd07::9", 40404, 7).to_string(),
            "a4dqobyha4dqobyhivgdt4nhk44sukegyxfjzi6evwa7m2n3"
        );
        assert_eq!(tag.host(), "a4dqobyha4dqobyh.local.");
        assert_eq!(tag.signed_at(&id(1), &sign(1, tag, 7)), Some(7_000_000));
        assert_eq!(tag.to_string().parse(), Ok(tag));
        assert_eq!(tag.to_string().to_uppercase().parse(), Ok(tag));
        assert!(tag.is_of(&id(1), at("192.168.7.9", 40404)));
        for (n, text, port) in
            [(2, "192.168.7.9", 40404), (1, "192.168.7.8", 40404), (1, "192.168.7.9", 40405)]
        {
            assert!(!tag.is_of(&id(n), at(text, port)), "{n} {text} {port}");
        }
        let other = self::tag(1, "192.168.7.9", 40404, 8);
        assert!(other.is_of(&id(1), at("192.168.7.9", 40404)) && other.hash != tag.hash);
        // The same hash with another salt is nobody's.
        assert!(!Tag { salt: other.salt, ..tag }.is_of(&id(1), at("192.168.7.9", 40404)));
        for text in ["", "a", &tag.to_string()[1..], &"1".repeat(48), &"é".repeat(24)] {
            assert_eq!(text.parse::<Tag>(), Err(NotATag), "{text}");
        }
    }

    #[test]
    fn what_is_near_is_found_and_nothing_else_is() {
        let mut search = Search::new(id(1), NOW);
        let near = ("192.168.7.9", 2);
        for (n, port, at) in [
            (2, 5, near),
            (1, 0, near),
            // Heard by another interface, on one that is not used, beyond the prefix, of the internet, loopback.
            (1, 5, ("192.168.7.9", 3)),
            (1, 5, ("10.0.0.9", 3)),
            (1, 5, ("192.168.8.9", 2)),
            (1, 5, ("203.0.113.9", 4)),
            (1, 5, ("8.8.8.8", 2)),
            (1, 5, ("127.0.0.1", 2)),
            (1, 5, ("fd08::9", 2)),
        ] {
            assert!(!hear(&mut search, n, port, at), "{n} {port} {at:?}");
        }
        // Names that are none, and a right one with another port, or with another address.
        let of = tag(1, near.0, 5, 0);
        let (right, signed) = (of.to_string(), sign(1, of, 1));
        for (name, port, at) in [
            (right.clone(), 5, near),
            (format!("x{right}.{SERVICE}"), 5, near),
            (format!("{right} (2).{SERVICE}"), 5, near),
            ("é".repeat(40), 5, near),
            (format!("{right}.{SERVICE}"), 6, near),
            (format!("{right}.{SERVICE}"), 5, ("192.168.7.8", 2)),
        ] {
            assert!(
                !search.hear((&name, &signed), port, [(ip(at.0), at.1)], &ours()),
                "{name} {port} {at:?}"
            );
        }
        // Signed by nobody, by another node, for another tag, and at another time than it says.
        let name = format!("{right}.{SERVICE}");
        let later = BASE32_NOPAD.decode(sign(1, of, 2).to_ascii_uppercase().as_bytes()).unwrap();
        let mut moved = BASE32_NOPAD.decode(signed.to_ascii_uppercase().as_bytes()).unwrap();
        moved[..8].copy_from_slice(&later[..8]);
        for bad in ["", "a", &sign(2, of, 1), &sign(1, tag(1, near.0, 6, 0), 1), &BASE32_NOPAD.encode(&moved)]
        {
            assert!(!search.hear((&name, bad), 5, [(ip(near.0), near.1)], &ours()), "{bad}");
        }
        assert_eq!(search.address(None), None);
        // Among 16 addresses the right one is found, behind them it is not looked at.
        let mut heard = vec![(ip("192.168.7.8"), 2); 16];
        heard.push((ip(near.0), 2));
        assert!(!search.hear((&name, &signed), 5, heard.clone(), &ours()));
        assert!(search.hear((&name, &signed), 5, heard.drain(1..), &ours()));
        // The same again is not new, another port is.
        assert!(!hear(&mut search, 1, 5, near));
        assert!(hear(&mut search, 1, 6, near));
        assert!(hear(&mut search, 1, 5, ("fd07::9", 2)));
        let id = id(1);
        assert_eq!(
            search.address(None).unwrap().to_string(),
            format!(
                "None-[0,192.168.7.9,192.168.7.9,5,1,1,0]|[1,192.168.7.9,192.168.7.9,6,1,1,0]-[0,fd07::9,fd07::9,5,1,1,0]-{id}"
            )
        );
    }

    #[test]
    fn a_search_takes_three_addresses_of_a_family_and_link_local_ones_last() {
        let mut search = Search::new(id(1), NOW);
        let all = ["169.254.1.9", "192.168.7.10", "192.168.7.11", "192.168.7.12"];
        let linked = [Interface::new(2, ip("169.254.1.1"), 16), ours()[0]];
        // Our own one does not count.
        let mut heard = |at: &str| {
            let tag = tag(1, at, 5, 0);
            search.hear((&format!("{tag}.{SERVICE}"), &sign(1, tag, 1)), 5, [(ip(at), 2)], &linked)
        };
        assert!(!heard("169.254.1.1"));
        let heard = all.map(heard);
        assert_eq!(heard, [true, true, true, false]);
        let address = search.address(None).unwrap();
        let found: Vec<String> = address.v4().iter().map(|i| i.internal.to_string()).collect();
        assert_eq!(found, ["192.168.7.10", "192.168.7.11", "169.254.1.9"]);
    }

    #[test]
    fn what_was_known_comes_behind_what_was_found_as_far_as_there_is_room() {
        let node = id(1);
        let known: PeerAddress = format!(
            "3-[0,198.51.100.1,10.1.1.1,5,5,1,0]|[1,192.168.7.9,192.168.7.9,5,1,1,0]|[2,198.51.100.2,10.1.1.2,5,5,1,0]-0-{node}"
        )
        .parse()
        .unwrap();
        let mut search = Search::new(node, NOW);
        for at in ["192.168.7.9", "192.168.7.8"] {
            assert!(hear(&mut search, 1, 5, (at, 2)));
        }
        assert_eq!(
            search.address(Some(&known)).unwrap().to_string(),
            format!(
                "3-[0,192.168.7.9,192.168.7.9,5,1,1,0]|[1,192.168.7.8,192.168.7.8,5,1,1,0]|[2,198.51.100.1,10.1.1.1,5,5,1,0]-0-{node}"
            )
        );
    }

    /// Anybody who has heard the node before may repeat what it said then, as often as it likes.
    #[test]
    fn old_answers_displace_neither_a_new_one_nor_all_that_was_known() {
        let node = id(1);
        let mut search = Search::new(node, NOW);
        for n in 10..14 {
            assert_eq!(hear_signed(&mut search, 1, 5, (&format!("192.168.7.{n}"), 2), 100), n < 13, "{n}");
        }
        assert!(hear_signed(&mut search, 1, 7, ("192.168.7.9", 2), 101));
        assert!(!hear_signed(&mut search, 1, 5, ("192.168.7.13", 2), 99));
        // Heard again, and newer.
        assert!(!hear_signed(&mut search, 1, 5, ("192.168.7.11", 2), 102));
        let found = |known| {
            let address = search.address(known).unwrap();
            address.v4().iter().map(|i| format!("{}:{}", i.external, i.port)).collect::<Vec<_>>()
        };
        assert_eq!(found(None), ["192.168.7.11:5", "192.168.7.9:7", "192.168.7.10:5"]);
        let known = format!("3-[0,198.51.100.1,10.1.1.1,5,5,1,0]|[1,198.51.100.2,10.1.1.2,5,5,1,0]-0-{node}");
        let known: PeerAddress = known.parse().unwrap();
        assert_eq!(found(Some(&known)), ["192.168.7.11:5", "192.168.7.9:7", "198.51.100.1:5"]);
    }

    #[test]
    fn what_is_signed_in_the_future_comes_last_and_displaces_nothing() {
        let mut search = Search::new(id(1), NOW);
        // NOW is second 1000.
        for (n, second, is_new) in
            [(9, 1601, true), (10, 1600, true), (11, 5, true), (12, 6, true), (13, 1601, false)]
        {
            let at = format!("192.168.7.{n}");
            assert_eq!(hear_signed(&mut search, 1, 5, (&at, 2), second), is_new, "{n}");
        }
        let address = search.address(None).unwrap();
        let found: Vec<String> = address.v4().iter().map(|i| i.external.to_string()).collect();
        assert_eq!(found, ["192.168.7.10", "192.168.7.12", "192.168.7.11"]);
    }

    #[test]
    fn a_search_checks_64_signatures() {
        for (wrong, is_heard) in [(63, true), (64, false)] {
            let mut search = Search::new(id(1), NOW);
            let at = ("192.168.7.9", 2);
            let name = format!("{}.{SERVICE}", tag(1, at.0, 5, 0));
            for _ in 0..wrong {
                // Tags of other nodes cost nothing.
                assert!(!hear(&mut search, 2, 5, at));
                assert!(!search.hear((&name, "a"), 5, [(ip(at.0), at.1)], &ours()));
            }
            assert_eq!(hear(&mut search, 1, 5, at), is_heard, "{wrong}");
        }
    }

    #[test]
    fn a_node_is_announced_in_private_networks_and_on_links_alone() {
        let all = ["192.168.7.1", "10.0.0.1", "169.254.3.4", "fd00::1", "fe80::1"];
        assert_eq!(all.map(|text| may_announce(ip(text))), [true; 5]);
        let none = ["203.0.113.1", "8.8.8.8", "127.0.0.1", "::1", "2001:db8::1", "224.0.0.251"];
        assert_eq!(none.map(|text| may_announce(ip(text))), [false; 6]);
    }
}
