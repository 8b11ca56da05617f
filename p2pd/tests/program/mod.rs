//! Programs at pipes, as tests start them.

use std::io::Read;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A program, which ends however the test ends.
pub(crate) struct Program(pub(crate) Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Starts it at pipes, without public servers. Returns its input, and its output and what it complains of.
    pub(crate) fn start(mut command: Command) -> (Self, Option<ChildStdin>, [Box<dyn Read + Send>; 2]) {
        command.env(p2pd::servers::FORBID_PUBLIC, "1").stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let output = [child.stdout.take().map(boxed).unwrap(), child.stderr.take().map(boxed).unwrap()];
        (Program(child), input, output)
    }

    /// Waits for its end, and returns its exit code.
    ///
    /// # Panics
    /// After this long, with what it has said.
    pub(crate) fn code(&mut self, within: Duration, said: impl Fn() -> String) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begin.elapsed() < within, "goes on: {}", said());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}
