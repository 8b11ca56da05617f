//! The file with the keys that names had when they were first seen.
//!
//! One line each: the name, the node id, and the highest sequence number seen. Lines that begin with `#` are left out.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use p2pd_core::{Name, NamePin};

/// Longest file: far over what a node remembers.
const MAX_FILE: u64 = 1 << 20;

/// Why the file could not be used.
#[derive(Debug)]
pub enum PinFileError {
    /// It could not be read or written.
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

/// The file, which need not be there.
#[derive(Clone, Debug)]
pub struct PinFile {
    path: PathBuf,
}

impl PinFile {
    /// The file in this place.
    pub fn new(path: PathBuf) -> Self {
        PinFile { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it; nothing, if it is not there. Of two lines with one name the first counts.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong: then nothing is believed, since a pin that is lost is a key that is believed
    /// anew.
    pub fn load(&self) -> Result<Vec<NamePin>, PinFileError> {
        Ok(self.read()?.into_values().collect())
    }

    /// Adds a pin, or puts it in the place of the one of its name and id. One of another id stays.
    ///
    /// # Errors
    /// As [`load`](Self::load), or it cannot be written.
    pub fn keep(&self, pin: NamePin) -> Result<(), PinFileError> {
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
        let mut pins = self.read()?;
        let known = pins.remove(&name).is_some();
        if known {
            self.write(&pins)?;
        }
        Ok(known)
    }

    fn read(&self) -> Result<BTreeMap<Name, NamePin>, PinFileError> {
        let mut text = String::new();
        match File::open(&self.path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => return Err(PinFileError::Io(self.path.clone(), why)),
        }
        let mut pins = BTreeMap::new();
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let pin = parse(line).ok_or_else(|| PinFileError::Line(self.path.clone(), n + 1))?;
            pins.entry(pin.name).or_insert(pin);
        }
        Ok(pins)
    }

    /// Whole or not at all: beside it, and then in its place.
    fn write(&self, pins: &BTreeMap<Name, NamePin>) -> Result<(), PinFileError> {
        let written = || {
            if let Some(folder) = self.path.parent().filter(|p| !p.as_os_str().is_empty()) {
                fs::create_dir_all(folder)?;
            }
            let unique =
                crate::random_seed()?.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
            let mut name = self.path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".new-{unique:016x}"));
            let beside = self.path.with_file_name(name);
            let text: String =
                pins.values().map(|p| format!("{} {} {}\n", p.name.as_str(), p.id, p.sequence)).collect();
            let done = crate::create_private(&beside)
                .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
                .and_then(|()| fs::rename(&beside, &self.path));
            if done.is_err() {
                let _ = fs::remove_file(&beside);
            }
            done
        };
        written().map_err(|why| PinFileError::Io(self.path.clone(), why))
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
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1, "nothing left beside it");
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
