//! Commands at terminals, which `script` makes.

use std::process::Command;

/// Returns a command that runs a line of the shell at a terminal of its own.
///
/// Once `script` is killed its terminal hangs up, and the system ends what runs there by SIGHUP. Under `nohup` that
/// signal is ignored, which programs inherit; here it is not.
pub(crate) fn at_terminal(line: &str) -> Command {
    let mut command = Command::new("env");
    command.args([
        "--default-signal=HUP",
        "script",
        "--quiet",
        "--return",
        "--echo",
        "never",
        "--command",
        line,
    ]);
    command.arg("/dev/null");
    command
}
