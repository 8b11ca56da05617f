//! `p2pd completions` and `p2pd man`: both made from the command line's own description.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::USAGE;
use crate::options::Options;
use crate::print::raw;
use crate::say::Say;

/// The completion script of a shell, to standard output.
pub(crate) fn completions(shell: Shell, say: Say) -> ExitCode {
    // Into memory first: clap panics where nobody reads.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Options::command(), "p2pd", &mut script);
    print(&script, say)
}

/// Writes all man pages into a folder, or the first one to standard output.
pub(crate) fn man(folder: Option<&Path>, say: Say) -> ExitCode {
    let command = Options::command();
    match folder {
        Some(folder) => match clap_mangen::generate_to(command, folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                say.error(&format!("{}: {why}", folder.display()));
                ExitCode::from(USAGE)
            }
        },
        None => {
            let mut page = Vec::new();
            match clap_mangen::Man::new(command).render(&mut page) {
                Ok(()) => print(&page, say),
                Err(why) => {
                    say.error(&why.to_string());
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// The server list with every field, to standard output.
pub(crate) fn config(say: Say) -> ExitCode {
    print(p2pd::servers::EXAMPLE.as_bytes(), say)
}

fn print(text: &[u8], say: Say) -> ExitCode {
    if say.printed(raw(text)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
