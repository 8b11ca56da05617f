//! `p2pd service`: units of the user's systemd, which run this program with the arguments of a command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode, Stdio};

use clap::Parser;
use serde_json::json;

use crate::commands::{ended, usage};
use crate::options::{Command, Options, ServiceCommand};
use crate::say::Say;

/// First line of each unit of ours. A file without it is somebody else's, and stays.
const OURS: &str = "# Made by p2pd service install";
/// Longest unit that is read.
const MOST: u64 = 64 << 10;
/// Lines of the sandbox that a user's systemd can lay without root.
const SANDBOX: &str = "NoNewPrivileges=yes
LimitNOFILE=65536
UMask=0077
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
";
/// Further ones, which programs of callers (`listen --exec`) may not bear.
const NARROW: &str = "RestrictNamespaces=yes
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
";

pub(crate) fn run(command: ServiceCommand, say: Say) -> ExitCode {
    let Some(folder) = folder() else { return usage(say, "there is no home folder for units") };
    let done = match command {
        ServiceCommand::Install { name, dry_run, command } => match unit(&command) {
            Ok((kind, text)) => {
                install(&folder, name.as_ref().map_or(kind, |name| &name.0), &text, dry_run, say)
            }
            Err(why) => return usage(say, &why),
        },
        ServiceCommand::Remove { name } => remove(&folder, &name.0, say),
        ServiceCommand::Status => status(&folder, say),
    };
    ended(done, say)
}

/// Folder of the user's units.
fn folder() -> Option<PathBuf> {
    let set = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let config = set.or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(config.join("systemd/user"))
}

fn file_name(name: &str) -> String {
    format!("p2pd-{name}.service")
}

/// Makes a unit of the arguments behind `p2pd`. Returns the command too.
///
/// # Errors
/// Says what is wrong with the arguments.
fn unit(arguments: &[String]) -> Result<(&'static str, String), String> {
    let all = std::iter::once("p2pd").chain(arguments.iter().map(String::as_str));
    let options = Options::try_parse_from(all).map_err(|why| why.to_string().trim().to_owned())?;
    let (kind, runs_programs) = match options.command {
        Command::Listen { exec, lines, .. } => {
            let each = lines.wanted().is_some_and(|wanted| !wanted.each.is_empty());
            ("listen", each || !exec.is_empty())
        }
        Command::Expose(_) => ("expose", false),
        Command::Daemon(_) => ("daemon", false),
        Command::Serve(_) => ("serve", false),
        _ => return Err("a service is one of listen, expose, daemon and serve".into()),
    };
    let failed = |why: io::Error| why.to_string();
    let program = std::env::current_exe().map_err(failed)?;
    let here = std::env::current_dir().map_err(failed)?;
    let path = |path: &Path| path.to_str().map(str::to_owned).ok_or(format!("{} is no text", path.display()));
    let (program, here) = (path(&program)?, path(&here)?);
    if std::iter::once(&program).chain([&here]).chain(arguments).any(|word| word.contains(char::is_control)) {
        return Err("a unit has no control characters".into());
    }
    let words: Vec<String> = std::iter::once(&program).chain(arguments).map(|word| quoted(word)).collect();
    let narrow = if runs_programs { "" } else { NARROW };
    let text = format!(
        "{OURS}\n[Unit]\nDescription=p2pd {kind}\nDocumentation=man:p2pd-{kind}(1)\n\n[Service]\n\
         WorkingDirectory={}\nExecStart={}\nRestart=on-failure\nRestartSec=5\n{SANDBOX}{narrow}\n\
         [Install]\nWantedBy=default.target\n",
        here.replace('%', "%%"),
        words.join(" "),
    );
    Ok((kind, text))
}

/// One word of `ExecStart`, which systemd takes as it is (systemd.service(5)).
fn quoted(word: &str) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' | '$' => out.extend([c, c]),
            c => out.push(c),
        }
    }
    out + "\""
}

/// True if a user's systemd is there to be told.
fn has_systemd() -> bool {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.is_some_and(|folder| folder.join("systemd/private").exists())
}

fn systemctl(words: &[&str]) -> Process {
    let mut command = Process::new("systemctl");
    command.arg("--user").args(words).stdin(Stdio::null());
    command
}

/// Tells the user's systemd, or says the commands where there is none.
fn tell(all: &[&[&str]], say: Say) -> Result<bool, String> {
    for words in all {
        let line = format!("systemctl --user {}", words.join(" "));
        if !has_systemd() {
            let text = || format!("no systemd of this user runs here; once it does: {line}");
            say.line(|| json!({"event": "not_run", "command": line}), text);
            continue;
        }
        let done = systemctl(words).stdout(Stdio::null()).stderr(Stdio::inherit()).status();
        match done {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("{line}: {status}")),
            Err(why) => return Err(format!("{line}: {why}")),
        }
    }
    Ok(true)
}

/// True for a unit of ours, false where there is none.
///
/// # Errors
/// It is somebody else's, or cannot be read.
fn is_ours(path: &Path) -> Result<bool, String> {
    match p2pd_sys::read_private(path, MOST) {
        Ok(text) if text.starts_with(OURS) => Ok(true),
        Ok(_) => Err(format!("{}: this unit was not made by p2pd service install", path.display())),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(format!("{}: {why}", path.display())),
    }
}

fn install(folder: &Path, name: &str, text: &str, dry_run: bool, say: Say) -> Result<bool, String> {
    let (file, path) = (file_name(name), folder.join(file_name(name)));
    if dry_run {
        return Ok(
            say.print(&format!("# {}", path.display())) && say.printed(crate::print::raw(text.as_bytes()))
        );
    }
    is_ours(&path)?;
    let written = fs::create_dir_all(folder).and_then(|()| p2pd_sys::replace_private(&path, text.as_bytes()));
    written.map_err(|why| format!("{}: {why}", path.display()))?;
    let place = path.display().to_string();
    say.line(|| json!({"event": "installed", "unit": place}), || format!("installed: {place}"));
    tell(&[&["daemon-reload"], &["enable", "--now", &file]], say)
}

fn remove(folder: &Path, name: &str, say: Say) -> Result<bool, String> {
    let (file, path) = (file_name(name), folder.join(file_name(name)));
    if !is_ours(&path)? {
        return Err(format!("{}: there is no such unit", path.display()));
    }
    tell(&[&["disable", "--now", &file]], say)?;
    fs::remove_file(&path).map_err(|why| format!("{}: {why}", path.display()))?;
    let place = path.display().to_string();
    say.line(|| json!({"event": "removed", "unit": place}), || format!("removed: {place}"));
    tell(&[&["daemon-reload"]], say)
}

/// Prints a line for each unit of ours. Returns false if one does not run.
fn status(folder: &Path, say: Say) -> Result<bool, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(why) => return Err(format!("{}: {why}", folder.display())),
    };
    let mut units: Vec<PathBuf> = entries.into_iter().filter(|path| is_ours(path) == Ok(true)).collect();
    units.sort();
    let mut all = true;
    for path in units {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let state = match has_systemd() {
            true => systemctl(&["is-active", &file]).output().map_or_else(
                |why| why.to_string(),
                |said| String::from_utf8_lossy(&said.stdout).trim().to_owned(),
            ),
            false => "installed; no systemd of this user runs here".into(),
        };
        all &= state == "active";
        let line = if say.is_json() {
            json!({"unit": file, "state": state}).to_string()
        } else {
            format!("{file} {state}")
        };
        if !say.print(&line) {
            return Ok(false);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ServiceName;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn systemd_takes_each_word_as_it_is() {
        assert_eq!(quoted(r#"a "b" $HOME %h \n"#), r#""a \"b\" $$HOME %%h \\n""#);
        let arguments = [words("listen --exec"), vec!["my program".into()]].concat();
        let (kind, text) = unit(&arguments).unwrap();
        assert_eq!(kind, "listen");
        assert!(
            text.contains(" \"listen\" \"--exec\" \"my program\"\n") && !text.contains("MemoryDeny"),
            "{text}"
        );
        let arguments = words("--json serve --no-turn");
        let (kind, text) = unit(&arguments).unwrap();
        assert!(kind == "serve" && text.contains("MemoryDenyWriteExecute=yes\n"), "{text}");
        for (line, is, narrow) in [
            ("listen --exec=cat", "listen", false),
            ("listen --messages --each=cat", "listen", false),
            ("listen --messages --only=--exec", "listen", true),
        ] {
            let (kind, text) = unit(&words(line)).unwrap();
            assert_eq!((kind, text.contains("MemoryDeny")), (is, narrow), "{line}");
        }
    }

    #[test]
    fn what_would_not_run_is_no_unit() {
        for (line, word) in
            [("connect x", "one of listen"), ("daemon --nonsense", "--nonsense"), ("demo", "one of listen")]
        {
            let why = unit(&words(line)).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
        let line = ["daemon".to_owned(), "--config".to_owned(), "a\nExecStartPost=/bin/evil".to_owned()];
        assert_eq!(unit(&line).unwrap_err(), "a unit has no control characters");
        for (name, is) in [("a-1", true), ("", false), ("../x", false), ("a b", false), ("a@b", false)] {
            assert_eq!(name.parse::<ServiceName>().is_ok(), is, "{name}");
        }
    }
}
