//! The file with the keys that names had when they were first seen.
//!
//! One line each: the name, the node id, and the highest sequence number seen. Lines that begin with `#` are left out.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use p2pd_core::{Name, NamePin};

use crate::files::{Lock, replace_private, text_of};
use crate::secret::open_own;

/// Longest file: far more than a node remembers.
const MAX_FILE: u64 = 1 << 20;

/// Reason why the file could not be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum PinFileError {
    /// Reading or writing failed.
    Io(PathBuf, io::Error),
    /// The line with this number, from 1, is no name, node id and sequence number.
    Line(PathBuf, usize),
}

impl fmt::Display for PinFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PinFileError::Io(path, why) => write!(f, "file of names {}: {why}", path.display()),
            PinFileError::Line(path, line) => {
                write!(f, "file of names {}: line {line} is no name, node id and number", path.display())
            }
        }
    }
}

impl std::error::Error for PinFileError {}

/// The file, which need not be there. Several processes may use one. A process that changes it holds a lock meanwhile,
/// on a file with `.lock` behind its name.
#[derive(Clone, Debug)]
pub struct PinFile {
    path: PathBuf,
}

impl PinFile {
    /// The file in this place.
    pub fn new(path: PathBuf) -> Self {
        PinFile { path }
    }

    /// Returns its place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the pins in the file; none, if there is no file. Of two lines with one name the first counts.
    ///
    /// # Errors
    /// Reading failed, or a line is wrong: then nothing is believed, since a pin that is lost is a key that is believed
    /// anew.
    pub fn load(&self) -> Result<Vec<NamePin>, PinFileError> {
        Ok(self.read()?.into_values().collect())
    }

    /// Adds a pin, or puts it in the place of the one of its name and id. One of another id stays.
    ///
    /// # Errors
    /// As [`load`](Self::load), or it cannot be written.
    pub fn keep(&self, pin: NamePin) -> Result<(), PinFileError> {
        let _lock = self.lock()?;
        let mut pins = self.read()?;
        let known = pins.entry(pin.name).or_insert(pin);
        if known.id == pin.id {
            known.sequence = known.sequence.max(pin.sequence);
        }
        self.write(&pins)
    }

    /// Takes a name out; false: it was not in it.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub fn forget(&self, name: Name) -> Result<bool, PinFileError> {
        let _lock = self.lock()?;
        let mut pins = self.read()?;
        let known = pins.remove(&name).is_some();
        if known {
            self.write(&pins)?;
        }
        Ok(known)
    }

    fn read(&self) -> Result<BTreeMap<Name, NamePin>, PinFileError> {
        // Others may read it, but not change whom names lead to.
        let text = match open_own(&self.path, 0o022).and_then(|file| text_of(file, MAX_FILE)) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
            Err(why) => return Err(self.failed(why)),
        };
        let mut pins = BTreeMap::new();
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let pin = parse(line).ok_or_else(|| PinFileError::Line(self.path.clone(), n + 1))?;
            pins.entry(pin.name).or_insert(pin);
        }
        Ok(pins)
    }

    fn write(&self, pins: &BTreeMap<Name, NamePin>) -> Result<(), PinFileError> {
        let text: String =
            pins.values().map(|p| format!("{} {} {}\n", p.name.as_str(), p.id, p.sequence)).collect();
        replace_private(&self.path, text.as_bytes()).map_err(|why| self.failed(why))
    }

    /// Locks the file against writes of others, from reading to writing.
    fn lock(&self) -> Result<Lock, PinFileError> {
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        let made = folder.map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| Lock::take(&self.path)).map_err(|why| self.failed(why))
    }

    fn failed(&self, why: io::Error) -> PinFileError {
        PinFileError::Io(self.path.clone(), why)
    }
}

fn parse(line: &str) -> Option<NamePin> {
    let mut words = line.split(' ');
    let (name, id, sequence) = (words.next()?, words.next()?, words.next()?);
    let pin = NamePin { name: name.parse().ok()?, id: id.parse().ok()?, sequence: sequence.parse().ok()? };
    words.next().is_none().then_some(pin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pd_core::SecretKey;

    fn pin(name: &str, n: u8, sequence: u64) -> NamePin {
        NamePin { name: name.parse().unwrap(), id: SecretKey::from_bytes([n; 32]).node_id(), sequence }
    }

    #[test]
    fn pins_are_kept_for_the_first_key_and_forgotten_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = PinFile::new(dir.path().join("deep/names"));
        assert_eq!(file.load().unwrap(), []);
        file.keep(pin("b", 1, 5)).unwrap();
        file.keep(pin("a", 2, 9)).unwrap();
        file.keep(pin("b", 1, 7)).unwrap();
        file.keep(pin("b", 3, 99)).unwrap();
        file.keep(pin("b", 1, 6)).unwrap();
        assert_eq!(file.load().unwrap(), [pin("a", 2, 9), pin("b", 1, 7)]);
        assert!(file.forget("a".parse().unwrap()).unwrap());
        assert!(!file.forget("a".parse().unwrap()).unwrap());
        assert_eq!(file.load().unwrap(), [pin("b", 1, 7)]);
        let names = fs::read_dir(dir.path().join("deep")).unwrap().map(|entry| entry.unwrap().file_name());
        let names: std::collections::BTreeSet<_> = names.collect();
        assert_eq!(names, ["names", "names.lock"].map(Into::into).into(), "nothing else is left");
    }

    #[test]
    fn of_pins_that_are_kept_at_once_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        // Each has a file description of its own, as a process has.
        std::thread::scope(|s| {
            for writer in 0..4_u8 {
                let file = PinFile::new(dir.path().join("names"));
                s.spawn(move || {
                    for n in 0..25 {
                        file.keep(pin(&format!("w{writer}-{n}"), writer + 1, 1)).unwrap();
                    }
                });
            }
        });
        assert_eq!(PinFile::new(dir.path().join("names")).load().unwrap().len(), 100);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_change_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = PinFile::new(dir.path().join("names"));
        file.keep(pin("a", 1, 5)).unwrap();
        for (mode, good) in [(0o644, true), (0o666, false), (0o600, true)] {
            fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!((file.load().is_ok(), file.keep(pin("a", 1, 6)).is_ok()), (good, good), "{mode:o}");
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_named_and_nothing_is_believed_or_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = PinFile::new(dir.path().join("names"));
        let good = format!("# a comment\na {} 5\n", pin("a", 1, 5).id);
        for bad in ["a", "a b 5", "", "a_b x 5"] {
            let text = format!("{good}{bad}\n");
            fs::write(file.path(), &text).unwrap();
            assert!(matches!(file.load(), Err(PinFileError::Line(_, 3))), "{bad}");
            assert!(file.keep(pin("c", 1, 1)).is_err());
            assert_eq!(fs::read_to_string(file.path()).unwrap(), text);
        }
        fs::write(file.path(), good).unwrap();
        assert_eq!(file.load().unwrap(), [pin("a", 1, 5)]);
    }
}
