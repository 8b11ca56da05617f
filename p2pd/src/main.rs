//! `p2pd`: netcat through NATs.
#![forbid(unsafe_code)]

mod clock;
mod commands;
mod daemon;
mod demo;
mod exec;
mod file;
mod help;
mod interfaces;
mod log;
mod manual;
mod map;
mod names;
mod options;
mod say;
mod secret;
mod server;
mod talk;
mod trace;

use std::process::ExitCode;

use clap::Parser;

/// Exit code for wrong usage: arguments, addresses, files.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // clap itself exits with 2 on wrong arguments.
    let options = options::Options::parse();
    // A punch through a NAT with random ports takes more than a thousand sockets.
    let _ = p2pd_tokio::raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("p2pd: {why}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(commands::run(options));
    // A read of the terminal cannot be interrupted; the process does not wait for it.
    runtime.shutdown_background();
    code
}
