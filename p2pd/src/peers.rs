//! Peers that this machine was paired with: names that are usable wherever an address is.
//!
//! The file has one line each: the name and the address. Lines that begin with `#` are left out.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::OnceLock;

use p2pd_core::{Name, NodeId, PeerAddress, Target, TargetError};
use p2pd_sys::{Lock, read_private, replace_private};
use serde_json::json;

use crate::commands::ended;
use crate::options::PeersCommand;
use crate::say::Say;

/// Longest file: a thousand of the longest addresses.
const MAX_FILE: u64 = 1 << 20;

/// File of this process, that of `--peers`.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// Says which file this process uses. Default: `~/.p2pd/peers`.
pub(crate) fn use_file(path: &Path) {
    let _ = FILE.set(path.into());
}

fn file() -> Result<PathBuf, String> {
    let path = FILE.get().cloned().or_else(|| crate::secret::at_home("peers"));
    path.ok_or_else(|| "no home directory: give --peers".into())
}

/// Value of `--accept`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Accepted {
    Id(NodeId),
    /// Every peer of the file.
    Paired,
}

impl FromStr for Accepted {
    type Err = p2pd_core::NodeIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "paired" { Ok(Accepted::Paired) } else { text.parse().map(Accepted::Id) }
    }
}

/// Returns the node ids that are accepted.
///
/// # Errors
/// Says what is wrong with the file.
pub(crate) fn ids(accepted: &[Accepted]) -> Result<std::collections::BTreeSet<NodeId>, String> {
    let mut ids = std::collections::BTreeSet::new();
    for one in accepted {
        match one {
            Accepted::Id(id) => drop(ids.insert(*id)),
            Accepted::Paired => {
                let peers = read(&file()?)?;
                ids.extend(peers.values().filter_map(|address| NodeId::try_from(address.node()).ok()));
            }
        }
    }
    Ok(ids)
}

/// Reads an address, a name of the brokers', or the name of a peer.
///
/// # Errors
/// Says that it is none of these.
pub(crate) fn target(text: &str) -> Result<Target, TargetError> {
    text.parse().or_else(|why| {
        let known = || read(&file().ok()?).ok()?.remove(&text.parse::<Name>().ok()?);
        // Names of brokers have an ending, and are not looked for here.
        let known = (!text.ends_with(p2pd_core::name::SUFFIX)).then(known).flatten();
        known.map(|address| Target::Address(Box::new(address))).ok_or(why)
    })
}

/// Returns the address of a peer of the file.
pub(crate) fn of(id: NodeId) -> Option<PeerAddress> {
    let peers = read(&file().ok()?).ok()?;
    peers.into_values().find(|address| NodeId::try_from(address.node()) == Ok(id))
}

/// Keeps a peer under a name, in place of an older address of the same node. Returns the name; without one it is made of
/// the node id.
///
/// # Errors
/// Says why it cannot be kept: another node has the name, or the file cannot be written.
pub(crate) fn keep(name: Option<Name>, id: NodeId, address: &PeerAddress) -> Result<Name, String> {
    keep_in(&file()?, name, id, address)
}

fn keep_in(path: &Path, name: Option<Name>, id: NodeId, address: &PeerAddress) -> Result<Name, String> {
    change(path, |peers| {
        let is_it = |known: &PeerAddress| NodeId::try_from(known.node()) == Ok(id);
        let old = peers.iter().find(|(_, known)| is_it(known)).map(|(name, _)| *name);
        let made = || id.to_string()[..8].parse().map_err(|_| "give --name".to_owned());
        let name = name.or(old).map_or_else(made, Ok)?;
        if peers.get(&name).is_some_and(|known| !is_it(known)) {
            let name = name.as_str();
            return Err(format!("{name} is another peer; give --name, or: p2pd peers forget {name}"));
        }
        peers.retain(|_, known| !is_it(known));
        peers.insert(name, address.clone());
        Ok(name)
    })
}

/// Carries `p2pd peers` out.
pub(crate) fn run(command: Option<PeersCommand>, say: Say) -> ExitCode {
    let done = file().and_then(|path| match command {
        None => read(&path).map(|peers| {
            peers.iter().all(|(name, address)| {
                let name = name.as_str();
                let json = || json!({"name": name, "address": address.to_string()}).to_string();
                say.print(&if say.is_json() { json() } else { format!("{name} {address}") })
            })
        }),
        Some(PeersCommand::Forget { name }) => change(&path, |peers| match peers.remove(&name) {
            Some(_) => Ok(true),
            None => Err(format!("no peer has the name {}", name.as_str())),
        }),
    });
    ended(done, say)
}

type Peers = BTreeMap<Name, PeerAddress>;

fn read(path: &Path) -> Result<Peers, String> {
    let text = match read_private(path, MAX_FILE) {
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Peers::new()),
        Err(why) => return Err(failed(path, why)),
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
    let peer = |(n, line): (usize, &str)| {
        let peer = line.split_once(' ').and_then(|(name, address)| {
            let address: PeerAddress = address.parse().ok()?;
            NodeId::try_from(address.node()).ok()?;
            Some((name.parse().ok()?, address))
        });
        peer.ok_or_else(|| failed(path, format!("line {} is no name and address", n + 1)))
    };
    lines.map(peer).collect()
}

/// Changes the file, while no other process does.
fn change<T>(path: &Path, act: impl FnOnce(&mut Peers) -> Result<T, String>) -> Result<T, String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), fs::create_dir_all);
    let _lock = made.and_then(|()| Lock::take(path)).map_err(|why| failed(path, why))?;
    let mut peers = read(path)?;
    let done = act(&mut peers)?;
    let text: String = peers.iter().map(|(name, at)| format!("{} {at}\n", name.as_str())).collect();
    replace_private(path, text.as_bytes()).map_err(|why| failed(path, why))?;
    Ok(done)
}

fn failed(path: &Path, why: impl fmt::Display) -> String {
    format!("file of peers {}: {why}", path.display())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use p2pd_core::SecretKey;

    use super::*;

    fn peer(n: u8, port: u16) -> (NodeId, PeerAddress) {
        let id = SecretKey::from_bytes([n; 32]).node_id();
        (id, format!("0-[0,192.0.2.{n},192.0.2.{n},{port},1,1,0]-0-{id}").parse().unwrap())
    }

    #[test]
    fn a_peer_is_kept_once_and_its_name_is_not_taken_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/peers");
        let name = |text: &str| Some(text.parse::<Name>().unwrap());
        let keep = |name, n, port| {
            let (id, address) = peer(n, port);
            keep_in(&path, name, id, &address).map(|name| name.as_str().to_owned())
        };
        assert_eq!(keep(name("laptop"), 1, 5), Ok("laptop".into()));
        assert_eq!(keep(None, 2, 5), Ok(peer(2, 5).0.to_string()[..8].into()));
        // Paired anew it has another address, and keeps its name unless it is given another.
        assert_eq!(keep(None, 1, 6), Ok("laptop".into()));
        let taken = keep(name("laptop"), 2, 5).unwrap_err();
        assert!(taken.contains("p2pd peers forget laptop"), "{taken}");
        assert_eq!(keep(name("desk"), 2, 7), Ok("desk".into()));
        let text = format!("desk {}\nlaptop {}\n", peer(2, 7).1, peer(1, 6).1);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // What others may write or read is not believed, nor a line that is wrong.
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(read(&path).is_err());
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, format!("# mine\n{text}desk")).unwrap();
        let wrong = keep(None, 3, 5).unwrap_err();
        assert!(wrong.ends_with("line 4 is no name and address"), "{wrong}");
    }

    #[test]
    fn accept_takes_ids_and_the_word_for_all_peers() {
        let id = peer(1, 5).0;
        assert_eq!(id.to_string().parse(), Ok(Accepted::Id(id)));
        assert_eq!("paired".parse(), Ok(Accepted::Paired));
        assert!("pair".parse::<Accepted>().is_err());
    }
}
