//! `p2pd`: netcat through NATs.
#![forbid(unsafe_code)]

mod arrivals;
mod ask;
mod checks;
mod clock;
mod commands;
mod daemon;
mod demo;
mod doctor;
mod exec;
mod file;
mod forward;
mod help;
mod interfaces;
mod invitation;
mod lan;
mod limits;
mod log;
mod manual;
mod map;
mod meet;
mod metrics;
mod names;
mod options;
#[cfg(feature = "otlp")]
mod otlp;
mod peers;
mod ping;
mod print;
mod public;
mod quiet;
mod say;
mod secret;
mod server;
mod service;
mod signals;
#[cfg(unix)]
mod socket_file;
mod status;
mod talk;
mod task;
mod trace;

use std::process::ExitCode;

use clap::Parser;
use p2pd_core::text::is_plain;

/// Exit code for wrong usage: arguments, addresses, files.
const USAGE: u8 = 2;
/// Exit code of a command that SIGINT or SIGTERM ended before it was done, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    // Help goes to standard output and ends with 0, what is wrong with the arguments ends with 2.
    let options = options::Options::try_parse().unwrap_or_else(|why| {
        // It repeats what was given, which may be copied from anywhere.
        if std::env::args_os().all(|arg| arg.to_string_lossy().chars().all(is_plain)) {
            why.exit();
        }
        print::tell(&why.to_string());
        std::process::exit(USAGE.into());
    });
    // A punch through a NAT with random ports takes more than a thousand sockets.
    let _ = p2pd_tokio::raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            print::tell(&format!("p2pd: {why}"));
            return ExitCode::FAILURE;
        }
    };
    let serves = options.command.serves();
    let code = runtime.block_on(async {
        if let Err(why) = signals::take(serves) {
            print::tell(&format!("p2pd: signals: {why}"));
        }
        commands::run(options).await
    });
    // A read of the terminal cannot be interrupted; the process does not wait for it.
    runtime.shutdown_background();
    code
}
