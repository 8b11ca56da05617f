//! `p2pd listen` and `p2pd connect` as people type them: at terminals, which `script` makes, and at pipes.
#![cfg(unix)]

mod program;
mod terminal;

use std::io::{Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use program::Program;

const LOCAL: &str = "--no-servers --bind 127.0.0.1";

/// A command of a shell, which ends however the test ends.
struct Running {
    program: Program,
    input: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
}

impl Running {
    fn start(command: Command) -> Self {
        let (program, input, streams) = Program::start(command);
        let said = Arc::new(Mutex::new(String::new()));
        for mut stream in streams {
            let said = said.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    said.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
            });
        }
        Running { program, input, said }
    }

    /// Starts the program at a terminal, which shows typed text too.
    fn terminal(args: &str) -> Self {
        Self::start(terminal::at_terminal(&format!("exec {} {args} {LOCAL}", env!("CARGO_BIN_EXE_p2pd"))))
    }

    /// Starts the program at pipes.
    fn piped(args: &str) -> Self {
        let (verb, rest) = args.split_once(' ').unwrap_or((args, ""));
        // A program that is run for each message comes last.
        Self::bare(&format!("{verb} {LOCAL} {rest}"))
    }

    /// Starts the program at pipes, with these arguments alone.
    fn bare(args: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.args(args.split_whitespace());
        Self::start(command)
    }

    fn write(&mut self, text: &str) -> &mut Self {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        self
    }

    /// Ends its standard input.
    fn end(&mut self) -> &mut Self {
        self.input = None;
        self
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    fn says(&mut self, what: &str) -> &mut Self {
        let begin = Instant::now();
        while !self.said().contains(what) {
            assert!(begin.elapsed() < Duration::from_secs(30), "not {what:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }

    /// Waits for the end of the program and returns its exit code.
    fn ends(&mut self) -> Option<i32> {
        self.program.code(Duration::from_secs(30), || self.said.lock().unwrap().clone())
    }

    /// A listener's address.
    fn address(&mut self) -> String {
        self.says("ready: ").says("\n");
        let said = self.said();
        let rest = said.split_once("ready: ").unwrap().1;
        let begin = Instant::now();
        while !self.said().split_once("ready: ").unwrap().1.contains(['\r', '\n']) {
            assert!(begin.elapsed() < Duration::from_secs(30), "{rest}");
        }
        self.said().split_once("ready: ").unwrap().1.split(['\r', '\n']).next().unwrap().trim().to_owned()
    }
}

fn connect(address: &str) -> String {
    format!("connect {address}")
}

fn at_terminal(address: &str) -> String {
    format!("connect '{address}'")
}

#[test]
fn the_first_example_of_the_readme() {
    let mut listener = Running::terminal("listen");
    let address = listener.address();
    // What is typed before anybody comes is for the first who does.
    for word in ["hello", "hello again"] {
        let mut caller = Running::piped(&connect(&address));
        caller.write(&format!("{word}\n")).end();
        assert_eq!(caller.ends(), Some(0), "{}", caller.said());
        assert!(!caller.said().contains("cut off"), "{}", caller.said());
        listener.says(word);
    }
    // Ctrl-C, as a terminal has it.
    listener.write("\x03");
    assert_eq!(listener.ends(), Some(0), "{}", listener.said());
    assert!(!listener.said().contains("p2pd: "), "{}", listener.said());
}

/// As under `nohup tests/run`.
#[test]
fn a_terminal_that_is_gone_ends_its_programs_where_hangups_are_ignored() {
    let line = format!("echo pid: $$; exec {} listen {LOCAL}", env!("CARGO_BIN_EXE_p2pd"));
    let script = terminal::at_terminal(&line);
    let mut ignoring = Command::new("sh");
    ignoring.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(script.get_program()).args(script.get_args());
    let mut listener = Running::start(ignoring);
    listener.says("ready: ");
    let said = listener.said();
    let id = said.split("pid: ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let is_there = || Command::new("kill").args(["-0", id]).stderr(Stdio::null()).status().unwrap().success();
    assert!(is_there());
    drop(listener);
    let begin = Instant::now();
    while is_there() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{id} goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn lines_that_are_typed_go_to_whoever_is_there_and_none_is_swallowed() {
    let mut listener = Running::terminal("listen");
    let address = listener.address();
    let mut first = Running::piped(&connect(&address));
    listener.says("incoming: ").write("one\n");
    first.says("one\n").end();
    assert_eq!(first.ends(), Some(0), "{}", first.said());
    // Nobody is there; the next one gets it.
    listener.write("two\n");
    let mut second = Running::piped(&connect(&address));
    second.says("two\n");
    assert!(!second.said().contains("one\n"));
    listener.write("three\n");
    second.says("three\n").end();
    assert_eq!(second.ends(), Some(0), "{}", second.said());
}

#[test]
fn two_terminals_talk_until_the_caller_ends() {
    let mut listener = Running::terminal("listen");
    let address = listener.address();
    let mut caller = Running::terminal(&at_terminal(&address));
    caller.says("connected: ").write("from the caller\n");
    listener.says("from the caller").write("from the listener\n");
    caller.says("from the listener").write("\x04");
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    assert!(!listener.said().contains("p2pd: "), "{}", listener.said());
}

#[test]
fn a_listener_that_sends_nothing_lets_one_type() {
    let mut listener = Running::piped("listen");
    let address = listener.end().address();
    let mut caller = Running::terminal(&at_terminal(&address));
    caller.says("the peer sends no more").write("typed late\n");
    listener.says("typed late\n");
    caller.write("\x04");
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    // Each direction ends by itself at pipes too.
    let mut caller = Running::piped(&connect(&address));
    caller.says("connected: ").write("and later").end();
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    listener.says("and later");
}

#[test]
fn a_second_caller_is_told_that_it_waits_and_is_served_next() {
    let mut listener = Running::piped("listen");
    let address = listener.address();
    let mut first = Running::piped(&connect(&address));
    first.says("connected: ").write("first\n");
    listener.says("first\n").write("to the first\n");
    first.says("to the first\n");
    let mut second = Running::piped(&connect(&address));
    second.says("the peer is busy with another caller; waiting").write("second\n").end();
    listener.says("waiting: ");
    assert!(!listener.said().contains("second\n"));
    first.end();
    // At pipes both have to end.
    listener.end().says("second\n");
    assert_eq!((first.ends(), second.ends()), (Some(0), Some(0)), "{} {}", first.said(), second.said());
    let mut third = Running::piped(&connect(&address));
    third.write("third\n").end();
    assert_eq!(third.ends(), Some(0), "{}", third.said());
    assert!(!third.said().contains("busy"), "{}", third.said());
    listener.says("third\n");
}

#[test]
fn a_silent_caller_makes_room_for_the_next_one() {
    // One that said something has longer.
    let mut listener = Running::piped("listen --idle 3");
    let address = listener.end().address();
    let mut idle = Running::piped(&connect(&address));
    idle.says("connected: ");
    let begin = Instant::now();
    let mut next = Running::piped(&connect(&address));
    next.write("next\n").end();
    listener.says("makes room").says("next\n");
    assert_eq!(next.ends(), Some(0), "{}", next.said());
    let took = begin.elapsed();
    assert!((2..15).contains(&took.as_secs()), "{took:?}");
    // With nobody waiting nobody is hurried.
    let mut alone = Running::piped(&connect(&address));
    alone.says("connected: ");
    std::thread::sleep(Duration::from_secs(5));
    alone.write("alone\n").end();
    assert_eq!(alone.ends(), Some(0), "{}", alone.said());
    listener.says("alone\n");
}

#[test]
fn much_goes_through_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (sent, came) = (dir.path().join("sent"), dir.path().join("came"));
    let block: Vec<u8> = (0..1_000_003_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    std::fs::write(&sent, block.repeat(20)).unwrap();
    let mut listener = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    listener.arg("listen").args(LOCAL.split_whitespace()).env(p2pd::servers::FORBID_PUBLIC, "1");
    listener.stdin(Stdio::null()).stdout(std::fs::File::create(&came).unwrap()).stderr(Stdio::piped());
    let mut child = listener.spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    let mut listener = Running { program: Program(child), input: None, said: Arc::default() };
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let address = lines.find_map(|line| line.unwrap().strip_prefix("ready: ").map(str::to_owned)).unwrap();
    let caller = Command::new(env!("CARGO_BIN_EXE_p2pd"))
        .args(["connect", &address])
        .args(LOCAL.split_whitespace())
        .env(p2pd::servers::FORBID_PUBLIC, "1")
        .stdin(std::fs::File::open(&sent).unwrap())
        .output()
        .unwrap();
    assert_eq!(caller.status.code(), Some(0), "{}", String::from_utf8_lossy(&caller.stderr));
    let (begin, len) = (Instant::now(), std::fs::metadata(&sent).unwrap().len());
    while std::fs::metadata(&came).unwrap().len() < len {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(std::fs::read(&sent).unwrap() == std::fs::read(&came).unwrap());
    let _ = listener.program.0.kill();
}

/// Lines to send, and what comes of them where hellos alone are wanted.
const LINES: &str = "other\nhello\n\nhelllo\nhello, at last";

fn hellos(said: &str) -> Vec<&str> {
    let mut hellos: Vec<&str> = said.lines().filter(|line| line.starts_with("hel")).collect();
    hellos.sort_unstable();
    hellos
}

#[test]
fn lines_are_messages_by_patterns_and_one_that_is_too_long_is_left_out() {
    let mut listener = Running::piped("listen --messages --only ^hel+o");
    let address = listener.address();
    let mut caller = Running::piped(&format!("connect {address} --messages"));
    caller.write(&"x".repeat(20_000)).write("\n").write(LINES).end();
    listener.end();
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    assert!(caller.said().contains("no message; it is left out"), "{}", caller.said());
    listener.says("hello, at last\n");
    assert_eq!(hellos(&listener.said()), ["helllo", "hello", "hello, at last"]);
    assert!(!listener.said().contains("\nother\n"), "{}", listener.said());
    // Bytes are no messages.
    let mut caller = Running::piped(&connect(&address));
    caller.write("\u{1}\u{1}no end").end();
    listener.says("the pipe broke: ");
}

#[test]
fn a_program_answers_each_message_and_may_fail() {
    let mut listener = Running::piped("listen --messages --each sed s/^hel/HEL/;/other/q7");
    let address = listener.address();
    let mut caller = Running::piped(&format!("connect {address} --messages"));
    caller.write(LINES).end();
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    let said = caller.said();
    let answers: Vec<&str> = said.lines().filter(|line| line.starts_with("HEL")).collect();
    assert_eq!(answers, ["HELlo", "HELllo", "HELlo, at last"], "{said}");
    listener.says("--each sed: exit status: 7");
}

/// A program of a shell, in this folder.
fn script(dir: &std::path::Path, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("program");
    std::fs::write(&path, format!("#!/bin/sh\ncd {}\n{text}\n", dir.display())).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn a_caller_has_a_program_run_at_a_rate_and_its_turn_ends_though_it_is_never_silent() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(dir.path(), "echo >> ran");
    let ran = || std::fs::read(dir.path().join("ran")).map_or(0, |lines| lines.len());
    let mut listener = Running::piped(&format!("listen --idle 3 --messages --each {program}"));
    let address = listener.address();
    let mut first = Running::piped(&format!("connect {address} --messages"));
    // Two bytes each on the wire.
    first.write(&"\n".repeat(5_000));
    let begin = Instant::now();
    while ran() < 64 {
        assert!(begin.elapsed() < Duration::from_secs(30), "{}", listener.said());
        std::thread::sleep(Duration::from_millis(5));
    }
    let most = |begin: Instant| 66 + begin.elapsed().as_millis() as usize / 100;
    let mut second = Running::piped(&format!("connect {address} --messages"));
    second.write("second\n").end();
    listener.says("others wait for 3 s");
    assert!(ran() <= most(begin), "{}", ran());
    assert_eq!(second.ends(), Some(0), "{}", second.said());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn a_program_ends_with_what_it_started_and_has_no_secret_and_steers_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let text = "sleep 300 </dev/null >/dev/null 2>&1 & echo $! > started
        printf '\\033[2Jcomplaint\\n' >&2; env | grep ^P2PD_; wait";
    let program = script(dir.path(), text);
    let started = dir.path().join("started");
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(["listen", "--idle", "1"]).args(LOCAL.split(' ')).args(["--messages", "--each", &program]);
    for variable in ["P2PD_MQTT_A", "P2PD_PROXY_A", "P2PD_TURN_SECRET"] {
        command.env(variable, "secret");
    }
    let mut listener = Running::start(command);
    let address = listener.address();
    let mut first = Running::piped(&format!("connect {address} --messages"));
    first.write("a\n");
    listener.says("\\u{1b}[2Jcomplaint");
    let id = std::fs::read_to_string(&started).unwrap();
    let is_there =
        || Command::new("kill").args(["-0", id.trim()]).stderr(Stdio::null()).status().unwrap().success();
    assert!(is_there());
    // The next one ends the first one's turn, and its program with it.
    std::fs::write(dir.path().join("program"), "#!/bin/sh\nenv | grep ^P2PD_").unwrap();
    let mut second = Running::piped(&format!("connect {address} --messages"));
    second.write("b\n").end();
    assert_eq!(second.ends(), Some(0), "{}", second.said());
    assert!(second.said().contains("P2PD_PEER=") && !second.said().contains("secret"), "{}", second.said());
    let begin = Instant::now();
    while is_there() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{id} goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn messages_go_beside_a_relayed_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (list, key) = (path("servers.toml"), path("key"));
    let serve = "serve --bind 127.0.0.1 --mqtt-port 0 --stun-port 0";
    let mut serving =
        Running::bare(&format!("{serve} --turn-password-file {} --write {list}", path("password")));
    serving.says("serving: ");
    let mut id = Running::bare(&format!("id --identity {key}"));
    assert_eq!(id.ends(), Some(0));
    std::thread::sleep(Duration::from_millis(50));
    let with = format!("--bind 127.0.0.1 --config {list}");
    let mut listener =
        Running::bare(&format!("listen {with} --accept {} --messages --each cat", id.said().trim()));
    let address = listener.address();
    let mut caller = Running::bare(&format!(
        "connect {address} {with} --identity {key} --strategies relay --messages --only ^hel+o"
    ));
    caller.write(LINES).end();
    assert_eq!(caller.ends(), Some(0), "{}", caller.said());
    assert!(caller.said().contains("by relay"), "{}", caller.said());
    assert_eq!(hellos(&caller.said()), ["helllo", "hello", "hello, at last"]);
}
