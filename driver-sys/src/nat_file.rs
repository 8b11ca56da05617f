//! The file with what the NATs of networks were seen to remember.
//!
//! One line for each network, the latest last: the router or `-`, the address outside, and in seconds how long an idle
//! connection lived and after what time one was forgotten, or `-`. Nothing depends on it but the number of packets: a line
//! that is wrong is left out, and a file that is lost is measured again.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use p2pd_core::nat::{NatMemory, Network};

use crate::files::{Lock, replace_private, text_of};
use crate::secret::open_own;

/// Most lines.
const MAX_LINES: usize = 32;
const MAX_FILE: u64 = 1 << 14;

/// The file, which need not be there. Several processes may use one.
#[derive(Clone, Debug)]
pub struct NatFile {
    path: PathBuf,
}

impl NatFile {
    /// The file in this place.
    pub fn new(path: PathBuf) -> Self {
        NatFile { path }
    }

    /// Returns what is in the file, as [`Config::nat_memory`](p2pd_core::Config::nat_memory) wants it.
    pub fn load(&self) -> Vec<NatMemory> {
        let text = open_own(&self.path, 0o022).and_then(|file| text_of(file, MAX_FILE)).unwrap_or_default();
        text.lines().filter_map(parse).collect()
    }

    /// Puts what is known of a network in the place of what was.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self, memory: NatMemory) -> io::Result<()> {
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        folder.map_or(Ok(()), fs::create_dir_all)?;
        let _lock = Lock::take(&self.path)?;
        let mut all = self.load();
        all.retain(|known| known.network != memory.network);
        all.push(memory);
        let text: String = all.iter().skip(all.len().saturating_sub(MAX_LINES)).map(line).collect();
        replace_private(&self.path, text.as_bytes())
    }
}

fn line(memory: &NatMemory) -> String {
    let NatMemory { network: Network { gateway, outside }, held, lost } = memory;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let gateway = or_none(gateway.map(|ip| ip.to_string()));
    let lost = or_none(lost.map(|lost| lost.as_secs().to_string()));
    format!("{gateway} {outside} {} {lost}\n", held.as_secs())
}

fn parse(line: &str) -> Option<NatMemory> {
    let words: Vec<&str> = line.split(' ').collect();
    let [gateway, outside, held, lost] = words[..] else { return None };
    let seconds = |word: &str| word.parse().ok().map(Duration::from_secs);
    Some(NatMemory {
        network: Network {
            gateway: if gateway == "-" { None } else { Some(gateway.parse().ok()?) },
            outside: outside.parse().ok()?,
        },
        held: seconds(held)?,
        lost: if lost == "-" { None } else { Some(seconds(lost)?) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(n: u8, held: u64) -> NatMemory {
        let network = Network { gateway: Some([192, 168, 0, 1].into()), outside: [198, 51, 100, n].into() };
        NatMemory { network, held: Duration::from_secs(held), lost: None }
    }

    #[test]
    fn the_latest_networks_are_kept_and_lines_that_are_wrong_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = NatFile::new(dir.path().join("deep/nat"));
        assert_eq!(file.load(), []);
        let other = NatMemory {
            network: Network { gateway: None, outside: "2001:db8::".parse().unwrap() },
            lost: Some(Duration::from_secs(80)),
            ..memory(0, 40)
        };
        for memory in [memory(1, 40), other, memory(1, 80)] {
            file.keep(memory).unwrap();
        }
        assert_eq!(file.load(), [other, memory(1, 80)]);
        let text = fs::read_to_string(&file.path).unwrap();
        fs::write(&file.path, format!("nonsense\n- 1.2.3.4 x -\n{text}- 1.2.3.4 5 - -\n")).unwrap();
        assert_eq!(file.load(), [other, memory(1, 80)]);
        for n in 2..=40 {
            file.keep(memory(n, 20)).unwrap();
        }
        assert_eq!((file.load().len(), file.load().last()), (32, Some(&memory(40, 20))));
    }
}
