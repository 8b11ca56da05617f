//! `--trace` and `replay`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use p2pd_core::trace::{self, MAX_TEXT, ReplayError};
use serde_json::json;

use crate::USAGE;
use crate::say::Say;

/// Creates the file, and returns the function that writes a trace into it.
///
/// # Errors
/// Names the file and the error of its place.
pub(crate) fn create(path: &Path, say: Say) -> Result<impl FnMut(&str) + Send + 'static, String> {
    let name = path.display().to_string();
    let file = p2pd_tokio::create_private(path).map_err(|e| format!("{name}: {e}"))?;
    let mut file = Some(file);
    // Each line at once, unbuffered: a trace is wanted most of programs that end badly.
    Ok(move |line: &str| {
        if let Some(open) = &mut file
            && let Err(why) = open.write_all(line.as_bytes())
        {
            say.error(&format!("{name}: {why}; the trace ends here"));
            file = None;
        }
    })
}

/// Runs a trace again and says how it went.
pub(crate) fn replay(path: &Path, say: Say) -> ExitCode {
    let name = path.display();
    let text = match read(path) {
        Ok(text) => text,
        Err(why) => {
            say.error(&format!("{name}: {why}"));
            return ExitCode::from(USAGE);
        }
    };
    match trace::replay(&text) {
        Ok(done) => {
            say.line(
                || {
                    json!({
                        "event": "replayed", "node_id": done.node.to_string(), "events": done.events,
                        "calls": done.calls, "actions": done.actions,
                    })
                },
                || format!("{name}: {done}"),
            );
            ExitCode::SUCCESS
        }
        Err(ReplayError::Differs { line, expected, got }) => {
            say.line(
                || json!({"event": "differs", "line": line, "recorded": expected, "replayed": got}),
                || format!("{name}: line {line} differs\n  recorded: {expected}\n  replayed: {got}"),
            );
            ExitCode::FAILURE
        }
        Err(why) => {
            say.error(&format!("{name}: {why}"));
            ExitCode::from(USAGE)
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    // One byte more than is read: the replay says that it is too long.
    File::open(path)?.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a trace: not text"))
}
