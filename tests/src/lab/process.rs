//! Programs that run in the lab: started inside a namespace, watched by their output, never left behind.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{LabError, Result, sys};

/// Stream to which a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of a program's output, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Stream to which the line was written.
    pub stream: Stream,
    /// Text of the line; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// A running program. Dropping it, or the [`Lab`](super::Lab), kills and reaps exactly that process.
pub struct Child {
    process: Arc<Process>,
    stdin: Option<ChildStdin>,
    /// Receiver of lines, in a mutex only to make guards shareable between threads.
    lines: Mutex<Receiver<Line>>,
    seen: Vec<Line>,
    /// Number of lines of `seen` that a wait has looked at.
    looked: usize,
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Child({}, pid {})", self.process.name, self.process.id)
    }
}

impl Child {
    /// Starts `command` with all three streams piped.
    pub(super) fn spawn(mut command: Command, registry: &Registry) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |e: std::io::Error| LabError::new(format!("starting {name}: {e}"));
        let mut child = on_spawner(move || command.spawn())?.map_err(failed)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let id = child.id();
        let exit = match sys::pidfd(id) {
            Ok(fd) => fd,
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(LabError::new(format!("watching {name}: {e}")));
            }
        };
        let process = Arc::new(Process { name, id, exit, child: Mutex::new(child) });
        registry.add(&process);
        let (sender, lines) = channel();
        // From here on an error drops `started`, which ends the process.
        let started = Self { process, stdin, lines: Mutex::new(lines), seen: Vec::new(), looked: 0 };
        if let Some(pipe) = stdout {
            started.read(pipe, Stream::Stdout, sender.clone())?;
        }
        if let Some(pipe) = stderr {
            started.read(pipe, Stream::Stderr, sender)?;
        }
        Ok(started)
    }

    fn read(&self, pipe: impl Read + Send + 'static, stream: Stream, lines: Sender<Line>) -> Result<()> {
        let work = move || {
            for bytes in BufReader::new(pipe).split(b'\n').map_while(|line| line.ok()) {
                let text = String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned();
                if lines.send(Line { stream, text }).is_err() {
                    return;
                }
            }
        };
        let name = format!("{stream:?} of {}", self.process.id);
        let thread = std::thread::Builder::new().name(name).spawn(work);
        thread.map(drop).map_err(|e| LabError::new(format!("reading {self:?}: {e}")))
    }

    fn receiver(&mut self) -> &Receiver<Line> {
        self.lines.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id
    }

    /// The pipe to the program's standard input, once. While nobody takes it, it stays open.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Waits for a line that satisfies `wanted`, among those that no earlier call has looked at. The
    /// error holds all that the program has said.
    pub fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(line) = self.seen.get(self.looked) {
                self.looked += 1;
                if wanted(&line.text) {
                    return Ok(line.text.clone());
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receiver().recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.complain(&format!("no such line within {timeout:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.complain("it closed its output before such a line"));
                }
            }
        }
    }

    /// All lines written so far.
    pub fn lines(&mut self) -> &[Line] {
        let fresh: Vec<_> = self.receiver().try_iter().collect();
        self.seen.extend(fresh);
        &self.seen
    }

    /// Returns the program's exit status, if it has ended.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.process.lock().try_wait().map_err(|e| LabError::new(format!("waiting for {self:?}: {e}")))
    }

    /// Waits for the program to end by itself and collects the rest of its output.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        let mut poll = sys::PollSet::new([self.process.exit.as_fd()]);
        loop {
            if let Some(status) = self.try_wait()? {
                // A program that it started may hold the pipes open, so their end has a deadline too.
                let left = || deadline.saturating_duration_since(Instant::now());
                while let Ok(line) = self.receiver().recv_timeout(left()) {
                    self.seen.push(line);
                }
                return Ok(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.complain(&format!("still running after {timeout:?}")));
            }
            poll.wait(Some(left)).map_err(|e| LabError::new(format!("waiting for {self:?}: {e}")))?;
        }
    }

    /// Asks the program to end (SIGTERM), to be followed by [`Child::wait`].
    pub fn terminate(&self) -> Result<()> {
        match sys::signal(self.process.exit.as_fd(), libc::SIGTERM) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                Err(LabError::new(format!("SIGTERM for {self:?}: {e}")))
            }
            _ => Ok(()),
        }
    }

    /// Kills and reaps the process. It may have ended before.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// An error that quotes the program.
    pub(super) fn complain(&mut self, what: &str) -> LabError {
        let state = match self.try_wait() {
            Ok(Some(status)) => format!("ended with {status}"),
            Ok(None) => "running".to_owned(),
            Err(e) => e.to_string(),
        };
        let said: Vec<_> = self.lines().iter().map(|l| format!("  {:?} {}", l.stream, l.text)).collect();
        LabError::new(format!("{self:?} ({state}): {what}; its output:\n{}", said.join("\n")))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.process.kill();
    }
}

struct Process {
    name: String,
    id: u32,
    /// Readable once the process has ended.
    exit: OwnedFd,
    child: Mutex<std::process::Child>,
}

impl Process {
    fn lock(&self) -> MutexGuard<'_, std::process::Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self) {
        let mut child = self.lock();
        // Errors mean that it has ended and was waited for.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The processes of one lab, so that they end with it even when somebody still holds their guard.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<Vec<Weak<Process>>>>);

impl Registry {
    fn add(&self, process: &Arc<Process>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(process));
    }

    pub(super) fn kill_all(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.iter().filter_map(Weak::upgrade).for_each(|process| process.kill());
    }
}

/// Runs `work` on a thread that lives as long as this process. A child dies with the thread that forked it (see
/// [`sys::confine`]), and tests start programs from threads that end early.
fn on_spawner<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    type Job = Box<dyn FnOnce() + Send>;
    static SPAWNER: OnceLock<std::result::Result<Sender<Job>, String>> = OnceLock::new();
    let start = || {
        let (sender, jobs) = channel::<Job>();
        let thread = std::thread::Builder::new().name("lab spawner".into());
        let thread = thread.spawn(move || jobs.iter().for_each(|job| job()));
        thread.map(|_| sender).map_err(|e| e.to_string())
    };
    let failed = |why: &dyn fmt::Display| LabError::new(format!("the thread that starts programs: {why}"));
    let spawner = SPAWNER.get_or_init(start).as_ref().map_err(|e| failed(e))?;
    let (sender, result) = channel();
    let job = move || {
        let _ = sender.send(work());
    };
    spawner.send(Box::new(job)).map_err(|e| failed(&e))?;
    result.recv().map_err(|e| failed(&e))
}
