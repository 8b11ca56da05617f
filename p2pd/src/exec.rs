//! A program that gets the connected socket (`connect --exec`).

use std::ffi::OsString;
use std::process::ExitCode;

use p2pd_tokio::Pipe;

use crate::say::Say;

/// Command line to run.
#[derive(Debug)]
#[cfg_attr(not(unix), expect(dead_code, reason = "nothing is run there"))]
pub(crate) struct Program {
    words: Vec<OsString>,
    stdio: bool,
}

impl Program {
    /// `None` for no words.
    pub(crate) fn new(words: Vec<OsString>, stdio: bool) -> Option<Program> {
        (!words.is_empty()).then_some(Program { words, stdio })
    }

    /// Runs the program with the pipe's socket, and returns its exit code. The code is 1 if the program could not be
    /// run or was ended by a signal.
    #[cfg(unix)]
    pub(crate) async fn run(self, pipe: Pipe, say: Say) -> ExitCode {
        let name = self.words[0].to_string_lossy().into_owned();
        let ran = tokio::task::spawn_blocking(move || {
            let mut command = std::process::Command::new(&self.words[0]);
            command.args(&self.words[1..]).env("P2PD_PEER", pipe.peer().to_string());
            crate::secret::keep_secrets(&mut command);
            let socket = pipe.into_std()?;
            if self.stdio {
                use std::os::fd::OwnedFd;
                command.stdin(OwnedFd::from(socket.try_clone()?)).stdout(OwnedFd::from(socket.try_clone()?));
            }
            p2pd_sys::handover::inherit(&mut command, socket.into())?;
            let mut child = command.spawn()?;
            // With it, our copies of the socket.
            drop(command);
            child.wait()
        });
        match ran.await.unwrap_or_else(|why| Err(std::io::Error::other(why))) {
            Ok(status) => match status.code() {
                Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
                None => {
                    say.error(&format!("{name}: {status}"));
                    ExitCode::FAILURE
                }
            },
            Err(why) => {
                say.error(&format!("{name}: {why}"));
                ExitCode::FAILURE
            }
        }
    }

    /// Sockets are no descriptors here.
    #[cfg(not(unix))]
    pub(crate) async fn run(self, _: Pipe, say: Say) -> ExitCode {
        say.error("--exec is not supported on this system");
        ExitCode::FAILURE
    }
}
