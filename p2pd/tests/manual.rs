//! Tests of the program's own documents: help, man pages, completions, the example of a server list, logs.
#![cfg(unix)]

use std::fs;
use std::process::{Command, Stdio};

fn p2pd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(args).env(p2pd::servers::FORBID_PUBLIC, "1").stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error.
fn ends(args: &[&str]) -> (Option<i32>, String, String) {
    let out = p2pd(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Subcommands as the help lists them.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let name = |line: &str| line.strip_prefix("  ").filter(|l| !l.starts_with(' ')).map(first_word);
    list.lines().filter_map(name).filter(|name| name != "help").collect()
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap().into()
}

#[test]
fn help_teaches_by_example_and_says_what_exit_codes_mean() {
    let (code, help, _) = ends(&["--help"]);
    assert_eq!(code, Some(0));
    for part in ["there$  p2pd listen --config servers.toml", "Exit status:\n  0  done", "  2  wrong usage"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    for args in [
        &["listen"][..],
        &["connect"],
        &["file", "send"],
        &["file", "receive"],
        &["send"],
        &["receive"],
        &["pair"],
        &["daemon"],
        &["serve"],
        &["expose"],
        &["forward"],
    ] {
        let (code, help, _) = ends(&[args, &["--help"]].concat());
        assert_eq!((code, help.contains("Examples:\n")), (Some(0), true), "{args:?}");
    }
}

#[test]
fn there_is_a_man_page_of_each_subcommand() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, said) = ends(&["man", folder.path().to_str().unwrap()]);
    assert_eq!((code, &*out, &*said), (Some(0), "", ""));
    let mut expected = vec!["p2pd.1".to_owned()];
    for name in subcommands(&ends(&["--help"]).1) {
        if name == "file" {
            let inner = subcommands(&ends(&["file", "--help"]).1);
            expected.extend(inner.iter().map(|inner| format!("p2pd-file-{inner}.1")));
        }
        expected.push(format!("p2pd-{name}.1"));
    }
    assert!(expected.len() > 12, "{expected:?}");
    for name in &expected {
        let page = fs::read_to_string(folder.path().join(name)).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(page.contains(".TH p2pd") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let (code, page, _) = ends(&["man"]);
    assert_eq!(code, Some(0));
    assert!(page.contains("Exit status:") && page.contains("p2pd\\-connect(1)"), "{page}");
    let (code, _, said) = ends(&["man", "/nonexistent/folder"]);
    assert_eq!((code, said.contains("/nonexistent/folder: ")), (Some(2), true), "{said}");
}

#[test]
fn shells_complete_what_there_is() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = ends(&["completions", shell]);
        assert_eq!(code, Some(0));
        for word in ["receive", "overwrite", "completions", "strategies"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let script = ends(&["completions", "bash"]).1;
    let asked = format!(
        "{script}\nCOMP_WORDS=(p2pd file receive --ov); COMP_CWORD=3; _p2pd p2pd --ov receive; echo \"${{COMPREPLY[@]}}\""
    );
    let out = Command::new("bash").args(["--norc", "-c", &asked]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "--overwrite", "{out:?}");
    // A reader that leaves is no reason to panic.
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let out = p2pd(&["completions", "bash"]).stdout(closed).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), said.contains("standard output: ")), (Some(1), true), "{said}");
}

#[test]
fn the_example_is_a_list() {
    let (code, list, _) = ends(&["config"]);
    assert_eq!((code, &*list), (Some(0), p2pd::servers::EXAMPLE));
}

#[test]
fn logs_are_of_a_level_and_json_where_the_rest_is() {
    let local = ["--no-servers", "--bind", "127.0.0.1"];
    // Of a node that is gone: what is logged of a connect to it is logged before the program ends.
    let address = ends(&[&["addr"], &local[..]].concat()).1;
    let connect = |more: &[&str]| ends(&[&["connect", address.trim()], &local[..], more].concat());
    let (code, _, said) = connect(&["--log", "info"]);
    assert_eq!(code, Some(1));
    assert!(said.contains(" INFO p2pd::node: connect failed connect="), "{said}");
    assert!(!connect(&["--log", "error"]).2.contains("p2pd::node"));
    let (_, _, said) = connect(&["--json", "--log", "p2pd::node=debug,off"]);
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed = lines.iter().find(|line| line["message"] == "connect failed").unwrap();
    assert_eq!((&failed["level"], &failed["target"]), (&"INFO".into(), &"p2pd::node".into()));
    let (code, _, said) = connect(&["--log", "inf"]);
    assert_eq!((code, said.contains("`inf` is not one of off, error, warn")), (Some(2), true), "{said}");
}
