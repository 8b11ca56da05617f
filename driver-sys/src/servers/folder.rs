//! The files of a list: the list itself, and what it names beside it.

use std::io;
use std::path::{Component, Path};

use p2pd_core::text::shown;

/// Longer than any server list.
const MAX_FILE: u64 = 64 * 1024;

/// The text of a list.
///
/// # Errors
/// Names the file.
pub(super) fn list(path: &Path) -> Result<String, String> {
    crate::read_text(path, MAX_FILE).map_err(|why| match why.kind() {
        io::ErrorKind::FileTooLarge => {
            format!("{}: more than {MAX_FILE} bytes are no server list", path.display())
        }
        _ => format!("{}: {why}", path.display()),
    })
}

/// The text of a file that a list names. Lists are handed on, so that a name in one leads nowhere but into the list's own
/// folder: not by `..`, by a root, nor by a symbolic link.
///
/// # Errors
/// Shows the name, and says what is wrong with it or with the file.
pub(super) fn beside(folder: &Path, name: &str) -> Result<String, String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", shown(name));
    let path = Path::new(name);
    let within = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !within {
        return Err(named(&"a list names files below its own folder only, without .. and without a root"));
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let real = || {
        let (folder, file) = (folder.canonicalize()?, folder.join(path).canonicalize()?);
        Ok(file.starts_with(folder).then_some(file))
    };
    match real().map_err(|why: io::Error| named(&why))? {
        Some(file) => crate::read_text(&file, MAX_FILE).map_err(|why| named(&why)),
        None => Err(named(&"a symbolic link leads out of the list's folder")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::Servers;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;
    use std::time::Duration;

    /// Fails, rather than hanging, where reading waits.
    fn read(list: &std::path::Path) -> Result<Servers, String> {
        let (list, (told, hears)) = (list.to_owned(), mpsc::channel());
        std::thread::spawn(move || drop(told.send(Servers::read(&list))));
        hears.recv_timeout(Duration::from_secs(10)).expect("reading waits")
    }

    fn fifo(path: &std::path::Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn a_list_reads_nothing_outside_of_its_folder_and_waits_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pem = include_str!("test-ca.pem");
        fs::write(dir.path().join("outside.pem"), pem).unwrap();
        let inside = dir.path().join("lists");
        fs::create_dir_all(inside.join("deep")).unwrap();
        fs::write(inside.join("deep/ca.pem"), pem).unwrap();
        fs::write(inside.join("big"), "x".repeat(70_000)).unwrap();
        symlink("deep/ca.pem", inside.join("within")).unwrap();
        symlink("../outside.pem", inside.join("file-out")).unwrap();
        symlink("..", inside.join("folder-out")).unwrap();
        symlink("/dev/zero", inside.join("zero")).unwrap();
        fifo(&inside.join("fifo"));
        let list = inside.join("servers.toml");
        let outside = dir.path().join("outside.pem");
        let (up, link) = ("its own folder", "symbolic link leads out");
        for (ca, word) in [
            ("deep/ca.pem", None),
            ("./deep/ca.pem", None),
            ("within", None),
            ("../outside.pem", Some(up)),
            ("../../../../../../etc/shadow", Some(up)),
            ("deep/../../outside.pem", Some(up)),
            (outside.to_str().unwrap(), Some(up)),
            ("file-out", Some(link)),
            ("folder-out/outside.pem", Some(link)),
            ("zero", Some(link)),
            ("fifo", Some("not a file")),
            ("deep", Some("a folder")),
            ("big", Some("longer than")),
            ("missing", Some("No such file")),
            ("a\x1b[2J\nb", Some("a\\u{1b}[2J\\nb: No such file")),
            ("a\0b", Some("a\\u{0}b: ")),
        ] {
            let ca = toml::Value::from(ca);
            fs::write(&list, format!("[[mqtt]]\nid = 1\nhost = \"a\"\ntls = true\nca = {ca}\n")).unwrap();
            match (read(&list), word) {
                (Ok(_), None) => {}
                (Err(why), Some(word)) => {
                    assert!(why.contains("first entry of [[mqtt]]: ") && why.contains(word), "{ca}: {why}");
                    assert!(why.chars().all(p2pd_core::text::is_plain), "{why:?}");
                }
                (got, _) => panic!("{ca}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_list_that_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("fifo");
        fifo(&pipe);
        for path in [&*pipe, dir.path(), "/dev/zero".as_ref(), "/dev/tty".as_ref()] {
            let why = read(path).unwrap_err();
            assert!(why.contains(path.to_str().unwrap()) && why.contains("not a file"), "{why}");
        }
    }
}
