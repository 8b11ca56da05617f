//! Machines of tests: a folder that is home and current, and commands at terminals.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2pd::servers::FORBID_PUBLIC;
use tempfile::TempDir;

use crate::terminal::at_terminal;

const PATIENCE: Duration = Duration::from_secs(60);
/// A machine of its own: a folder that is home and current, with the program in its path.
pub(crate) struct Machine {
    dir: TempDir,
}

/// A command at a terminal.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    said: Arc<Mutex<String>>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Makes one whose program is this script, which gets the path of the real one as P2PD.
    pub(crate) fn new(program: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("p2pd"), program).unwrap();
        std::fs::set_permissions(bin.join("p2pd"), PermissionsExt::from_mode(0o755)).unwrap();
        Machine { dir }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn types(&self, line: &str) -> Terminal {
        let mut command = at_terminal(line);
        let bin = self.path("bin").display().to_string();
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).env("HOME", self.dir.path()).env("P2PD", env!("CARGO_BIN_EXE_p2pd"));
        command.env("SHELL", "/bin/sh").env(FORBID_PUBLIC, "1").current_dir(self.dir.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut from, into) = (child.stdout.take().unwrap(), said.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Terminal { child, said }
    }
}

impl Terminal {
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits for a line that begins so, and returns its rest.
    pub(crate) fn says(&self, begin: &str) -> String {
        let since = Instant::now();
        loop {
            let said = self.said();
            let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut lines =
                whole.lines().map(|line| line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or(""));
            let found = lines.find_map(|line| line.split_once(begin));
            if let Some((_, rest)) = found {
                return rest.trim().to_owned();
            }
            assert!(since.elapsed() < PATIENCE, "not {begin:?}: {said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn ends(mut self) -> (Option<i32>, String) {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                std::thread::sleep(Duration::from_millis(50));
                return (status.code(), self.said());
            }
            assert!(since.elapsed() < PATIENCE, "goes on: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
