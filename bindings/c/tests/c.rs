//! The library as programs in C have it: installed, found by pkg-config, linked in both ways, and run.
//!
//! Needs a C compiler; pkg-config, libuv, Go and valgrind where they are. What is missing is said as SKIPPED.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use p2pd::serve::{Serving, Wanted, WantedTurn};

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const CASES: [&str; 13] = [
    "encrypted",
    "plain",
    "reverse",
    "relay",
    "errors",
    "cancel",
    "closes",
    "taken",
    "sessions",
    "accepts",
    "names",
    "threads",
    "stirs",
];

/// The installed library, and servers on loopback.
struct Installed {
    root: tempfile::TempDir,
    serving: Serving,
    runtime: tokio::runtime::Runtime,
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// Says that a part was left out. Past the capture of tests, so that `tests/run` reads it.
fn skipped(test: &str, why: &str) {
    std::io::stderr().write_all(format!("SKIPPED c::{test}: {why}\n").as_bytes()).unwrap();
}

fn run(command: &mut Command) -> Output {
    let said = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let text = [&said.stdout[..], &said.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(said.status.success(), "{command:?}: {}\n{text}", said.status);
    said
}

/// Installs once for all tests; `None` without a compiler.
fn installed(test: &str) -> Option<&'static Installed> {
    static INSTALLED: OnceLock<Option<Installed>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        has("cc").then(|| {
            let root = tempfile::tempdir().unwrap();
            // Where cargo puts them for a test. What is above this folder may be of an older build.
            let built = std::env::current_exe().unwrap().parent().unwrap().to_owned();
            let mut install = Command::new(Path::new(HERE).join("install"));
            run(install.arg("--prefix").arg(root.path().join("usr")).arg("--built").arg(built));
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let users = vec![("c".into(), "secret".into())];
            let turn = WantedTurn { users, relay_ips: vec![LOCAL], ..WantedTurn::default() };
            let wanted =
                Wanted { ip: LOCAL, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn: Some(turn) };
            let serving = runtime.block_on(Serving::start(&wanted)).unwrap();
            fs::write(root.path().join("servers.toml"), serving.servers("127.0.0.1", 7).to_text()).unwrap();
            Installed { root, serving, runtime }
        })
    });
    if installed.is_none() {
        skipped(test, "no C compiler");
    }
    installed.as_ref()
}

impl Installed {
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn flags(&self, of: &[&str]) -> Vec<String> {
        let mut ask = Command::new("pkg-config");
        ask.args(of).arg("p2pd").env("PKG_CONFIG_PATH", self.path("usr/lib/pkgconfig"));
        let flags = String::from_utf8(run(&mut ask).stdout).unwrap();
        flags.split_ascii_whitespace().map(Into::into).collect()
    }

    /// Compiles a file of C against the installed library, with these flags more, and returns the program.
    fn compile(&self, source: &str, name: &str, linked: &[&str], more: &[&str]) -> PathBuf {
        let program = self.path(name);
        let mut cc = Command::new("cc");
        cc.args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-g",
            "-D_DEFAULT_SOURCE",
            "-pthread",
        ]);
        cc.arg(Path::new(HERE).join(source)).arg("-o").arg(&program).args(self.flags(linked)).args(more);
        run(&mut cc);
        program
    }

    /// A program on the installed library, with what it needs to know of the servers.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.path("usr/lib")).env("P2PD_FORBID_PUBLIC_SERVERS", "1");
        command.env("BROKER_PORT", self.serving.mqtt().port().to_string());
        command.env("STUN_PORT", self.serving.stun().port().to_string());
        let _ = &self.runtime;
        command
    }

    fn checks(&self) -> &'static Path {
        static CHECKS: OnceLock<PathBuf> = OnceLock::new();
        CHECKS.get_or_init(|| self.compile("tests/check.c", "check", &["--cflags", "--libs"], &[]))
    }
}

/// A program that runs beside the test, and ends with it.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Beside {
    fn start(command: &mut Command) -> Self {
        Beside(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        // One byte at a time: what comes behind the line is read by others.
        BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().into()
    }
}

#[test]
fn each_case_in_c_holds() {
    let Some(here) = installed("each_case_in_c_holds") else { return };
    for case in CASES {
        let said = run(here.command(here.checks()).arg(case).arg(here.path("servers.toml")));
        print!("{}", String::from_utf8_lossy(&said.stdout));
    }
}

#[test]
fn each_case_in_c_is_clean_under_valgrind() {
    let Some(here) = installed("each_case_in_c_is_clean_under_valgrind") else { return };
    if !has("valgrind") {
        skipped("each_case_in_c_is_clean_under_valgrind", "no valgrind");
        return;
    }
    let mut valgrind = here.command("valgrind");
    valgrind.args([
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite,indirect",
    ]);
    valgrind.args(["--show-leak-kinds=definite,indirect", "--num-callers=30"]);
    valgrind.arg(format!("--suppressions={HERE}/valgrind.supp")).env("MANY", "400000");
    let said = run(valgrind.arg(here.checks()).arg("all").arg(here.path("servers.toml")));
    assert!(said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    print!("{}", String::from_utf8_lossy(&said.stdout));
}

/// Programs see the header's functions and nothing else, each with its version.
#[test]
fn only_the_headers_functions_are_exported_with_their_version() {
    let Some(here) = installed("only_the_headers_functions_are_exported_with_their_version") else { return };
    let library = here.path("usr/lib/libp2pd.so");
    let listed =
        run(Command::new("nm").args(["-D", "--defined-only", "--with-symbol-versions"]).arg(&library));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut exported: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    exported.retain(|name| *name != "P2PD_0.1");
    exported.sort_unstable();
    let header = fs::read_to_string(here.path("usr/include/p2pd.h")).unwrap();
    let mut declared: Vec<String> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '*']))
        .filter_map(|line| Some(line.split_once('(')?.0.rsplit([' ', '*']).next()?.to_owned() + "@@P2PD_0.1"))
        .filter(|name| name.starts_with("p2pd_"))
        .collect();
    declared.sort_unstable();
    assert!(declared.len() > 50, "{declared:?}");
    assert_eq!(exported, declared);
    let dynamic = run(Command::new("readelf").arg("-d").arg(&library));
    assert!(String::from_utf8(dynamic.stdout).unwrap().contains("soname: [libp2pd.so.0]"));
}

#[test]
fn the_examples_talk_to_each_other() {
    let Some(here) = installed("the_examples_talk_to_each_other") else { return };
    let list = here.path("servers.toml");
    // One is linked with the shared library, the other one contains the static one.
    let echo = here.compile("examples/echo.c", "echo", &["--cflags", "--libs"], &[]);
    let archive = here.path("usr/lib/libp2pd.a");
    let private: Vec<String> = here.flags(&["--libs", "--static"]);
    let private: Vec<&str> = private.iter().map(String::as_str).filter(|flag| *flag != "-lp2pd").collect();
    let more = [&[archive.to_str().unwrap()][..], &private].concat();
    let connect = here.compile("examples/connect.c", "connect", &["--cflags"], &more);
    let mut echo = Beside::start(here.command(echo).args(["--bind", "127.0.0.1", "--servers"]).arg(&list));
    let address = echo.line();
    let mut connect = here.command(connect);
    connect.env_remove("LD_LIBRARY_PATH").args([&address, "--bind", "127.0.0.1", "--servers"]).arg(&list);
    let mut connect = connect.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = (0..500_000_u32).map(|n| (n * 7 + (n >> 9)) as u8).collect();
    let (mut input, sent) = (connect.stdin.take().unwrap(), bytes.clone());
    let writes = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let back = connect.wait_with_output().unwrap();
    writes.join().unwrap();
    assert!(back.status.success());
    assert!(back.stdout == bytes, "{} bytes came back", back.stdout.len());

    if !has("go") && Command::new("go").arg("version").output().is_err() {
        skipped("the_examples_talk_to_each_other", "no Go");
        return;
    }
    let go = here.path("go_connect");
    let mut build = here.command("go");
    build.args(["build", "-o"]).arg(&go).arg(Path::new(HERE).join("examples/connect.go"));
    build.env("PKG_CONFIG_PATH", here.path("usr/lib/pkgconfig")).env("GOCACHE", here.path("go-cache"));
    run(build.env("GO111MODULE", "off"));
    let said = run(here.command(go).args([&address, "127.0.0.1"]));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "hello from Go\n");
}

#[test]
fn a_chat_in_a_libuv_loop_hears_both_sides() {
    let Some(here) = installed("a_chat_in_a_libuv_loop_hears_both_sides") else { return };
    let uv = Command::new("pkg-config").args(["--cflags", "--libs", "libuv"]).output();
    let Some(uv) = uv.ok().filter(|said| said.status.success()) else {
        skipped("a_chat_in_a_libuv_loop_hears_both_sides", "no libuv");
        return;
    };
    let uv = String::from_utf8(uv.stdout).unwrap();
    let uv: Vec<&str> = uv.split_ascii_whitespace().collect();
    let chat = here.compile("examples/chat_uv.c", "chat_uv", &["--cflags", "--libs"], &uv);
    let mut waits = Beside::start(here.command(&chat).arg("127.0.0.1"));
    let address = waits.line();
    let mut calls = Beside::start(here.command(&chat).args(["127.0.0.1", &address]));
    let say = |end: &mut Beside, line: &[u8]| end.0.stdin.as_mut().unwrap().write_all(line).unwrap();
    say(&mut calls, b"hello\n");
    assert_eq!(waits.line(), "hello");
    say(&mut waits, b"and hello to you\n");
    assert_eq!(calls.line(), "and hello to you");
    for end in [&mut calls, &mut waits] {
        drop(end.0.stdin.take());
    }
    for end in [&mut calls, &mut waits] {
        assert!(end.0.wait().unwrap().success());
    }
}

/// A compiler of C++ takes the header.
#[test]
fn the_header_is_cplusplus_too() {
    let Some(here) = installed("the_header_is_cplusplus_too") else { return };
    if !has("c++") {
        skipped("the_header_is_cplusplus_too", "no C++ compiler");
        return;
    }
    let header = here.path("usr/include/p2pd.h");
    run(Command::new("c++")
        .args(["-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"])
        .arg(header));
}
