//! `connect --streams`, and `listen` with a program for each caller, as their users run them.
#![cfg(unix)]

mod between;
mod program;

use std::io::{Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use between::Between;
use program::Program;

const LOCAL: [&str; 3] = ["--no-servers", "--bind", "127.0.0.1"];
const LONG: Duration = Duration::from_secs(60);

/// The program at pipes, which ends however the test ends.
struct Running {
    program: Program,
    input: Option<ChildStdin>,
    out: Arc<Mutex<String>>,
    said: Arc<Mutex<String>>,
}

fn gather(mut stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let said = Arc::new(Mutex::new(String::new()));
    let into = said.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    said
}

fn until(text: &Arc<Mutex<String>>, what: &str) -> String {
    let begin = Instant::now();
    loop {
        let said = text.lock().unwrap().clone();
        if said.contains(what) {
            return said;
        }
        assert!(begin.elapsed() < LONG, "not {what:?}: {said}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Running {
    fn p2pd(verb: &str, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.arg(verb).args(LOCAL).args(args);
        let (program, input, output) = Program::start(command);
        let [out, said] = output.map(gather);
        Running { program, input, out, said }
    }

    fn write(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Ends its input, and returns its exit code and its output.
    fn ends(&mut self) -> (Option<i32>, String) {
        self.input = None;
        let code = self.program.code(LONG, || self.said.lock().unwrap().clone());
        thread::sleep(Duration::from_millis(20));
        (code, self.out.lock().unwrap().clone())
    }

    fn says(&self, what: &str) -> String {
        until(&self.said, what)
    }

    fn address(&self) -> String {
        let said = self.says("\n");
        said.lines().find_map(|line| line.strip_prefix("ready: ")).unwrap().to_owned()
    }
}

#[test]
fn a_talk_on_a_stream_goes_on_when_the_connection_is_cut() {
    let mut listener = Running::p2pd("listen", &[]);
    let address = listener.address();
    let (between, to) = Between::before(&address);
    let mut caller = Running::p2pd("connect", &[&to, "--streams"]);
    caller.write("one\n");
    until(&listener.out, "one\n");
    listener.write("two\n");
    until(&caller.out, "two\n");
    between.cut();
    caller.write("three\n");
    listener.write("four\n");
    until(&listener.out, "one\nthree\n");
    until(&caller.out, "two\nfour\n");
    between.cut();
    // The end goes over the next connection too.
    listener.input = None;
    caller.write("five\n");
    assert_eq!(caller.ends(), (Some(0), "two\nfour\n".into()), "{}", caller.said.lock().unwrap());
    until(&listener.out, "one\nthree\nfive\n");
    caller.says("goes on: ");
    // Streams and pipes take turns.
    let mut pipe = Running::p2pd("connect", &[&address]);
    pipe.write("six\n");
    assert_eq!(pipe.ends().0, Some(0));
    let mut stream = Running::p2pd("connect", &[&address, "--streams"]);
    stream.write("seven\n");
    assert_eq!(stream.ends().0, Some(0), "{}", stream.said.lock().unwrap());
    until(&listener.out, "five\nsix\nseven\n");
}

#[test]
fn a_listener_that_takes_no_sessions_says_so() {
    let listener = Running::p2pd("listen", &["--messages"]);
    let mut caller = Running::p2pd("connect", &[&listener.address(), "--streams"]);
    assert_eq!(caller.ends().0, Some(1));
    caller.says("its program serves no sessions");
}

#[test]
fn each_caller_has_a_program_of_its_own_one_after_another() {
    let script = "read line; echo \"$line for $P2PD_PEER\"; cat | wc -c; echo complaint >&2";
    let listener = Running::p2pd("listen", &["--exec", "sh", "-c", script]);
    let address = listener.address();
    for how in [&[][..], &["--streams"]] {
        let mut caller = Running::p2pd("connect", &[&[&*address], how].concat());
        caller.write("hello\n");
        caller.write(&"x".repeat(100_000));
        let (code, out) = caller.ends();
        assert_eq!(code, Some(0), "{}", caller.said.lock().unwrap());
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("hello for ") && lines[0].len() == 10 + 52, "{out}");
        assert_eq!((lines[1].trim(), lines.len()), ("100000", 2));
    }
    listener.says("--exec sh: complaint");
    // A program that ends without having read is an end, and one that fails is said.
    let listener = Running::p2pd("listen", &["--exec", "sh", "-c", "echo no; exit 3"]);
    let mut caller = Running::p2pd("connect", &[&listener.address()]);
    caller.write(&"x".repeat(50_000));
    assert_eq!(until(&caller.out, "no\n"), "no\n");
    listener.says("exit status: 3");
    let listener = Running::p2pd("listen", &["--exec", "/nonexistent/program"]);
    let mut caller = Running::p2pd("connect", &[&listener.address()]);
    caller.ends();
    listener.says("/nonexistent/program: No such file");
}

#[test]
fn many_callers_have_a_program_each() {
    let listener = Running::p2pd("listen", &["--many", "--exec", "cat"]);
    let address = listener.address();
    let mut callers: Vec<_> = (0..6)
        .map(|n| {
            let how: &[&str] = if n % 2 == 0 { &[] } else { &["--streams"] };
            Running::p2pd("connect", &[&[&*address], how].concat())
        })
        .collect();
    // All at once: each is answered while the others are there.
    for round in 0..2 {
        for (n, caller) in callers.iter_mut().enumerate() {
            caller.write(&format!("{round} of {n}\n"));
        }
        for (n, caller) in callers.iter().enumerate() {
            until(&caller.out, &format!("{round} of {n}\n"));
        }
    }
    for (n, caller) in callers.iter_mut().enumerate() {
        let (code, out) = caller.ends();
        assert_eq!((code, out), (Some(0), format!("0 of {n}\n1 of {n}\n")));
    }
    // A caller that is killed takes its program along.
    let listener = Running::p2pd("listen", &["--many", "--exec", "sh", "-c", "echo $$; cat; sleep 1000"]);
    let caller = Running::p2pd("connect", &[&listener.address()]);
    let id = until(&caller.out, "\n").trim().to_owned();
    let there = || Command::new("kill").args(["-0", &id]).stderr(Stdio::null()).status().unwrap().success();
    assert!(there());
    drop(caller);
    let begin = Instant::now();
    while there() {
        assert!(begin.elapsed() < LONG, "{id} goes on");
        thread::sleep(Duration::from_millis(5));
    }
}
