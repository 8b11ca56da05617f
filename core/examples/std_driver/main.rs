//! Two nodes on loopback, each on a driver of bare sockets: one says something to the other, which answers.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a driver does what the core must not do"
)]

pub(crate) mod driver;
pub(crate) mod pipe;
pub(crate) mod sockets;

use std::io;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use driver::Driver;
use p2pd_core::io::Interface;
use p2pd_core::{Config, PipeMode, Plan, SecretKey};
use pipe::Pipe;

// ANCHOR: main
fn main() -> io::Result<()> {
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        println!("{mode}: {}", ask(mode, "are you there?")?);
    }
    Ok(())
}

/// Opens a pipe, sends the question and returns the answer.
pub fn ask(mode: PipeMode, question: &str) -> io::Result<String> {
    let (mut here, mut there) = (node(1)?, node(2)?);
    let plan = Plan::new().mode(mode);
    here.node.connect(here.now(), &there.node.address(), plan).map_err(io::Error::other)?;
    let (mut ours, mut theirs) = loop {
        // Bare sockets cannot be waited for: a millisecond is the price of a driver that has no other loop.
        thread::sleep(here.tick().min(there.tick()).min(Duration::from_millis(1)));
        if !here.pipes.is_empty() && !there.pipes.is_empty() {
            break (blocking(&mut here)?, blocking(&mut there)?);
        }
    };
    // From here on the pipe is two sockets, which need no driver.
    let answering = thread::spawn(move || {
        let heard = all(&mut theirs)?;
        theirs.send(&[b"yes: ", &heard[..]].concat())?;
        theirs.end()
    });
    ours.send(question.as_bytes())?;
    ours.end()?;
    let answer = all(&mut ours)?;
    answering.join().map_err(|_| io::ErrorKind::Other)??;
    String::from_utf8(answer).map_err(io::Error::other)
}

/// Receives until the peer's end.
fn all(pipe: &mut Pipe) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match pipe.receive()? {
            end if end.is_empty() => return Ok(all),
            more => all.extend(more),
        }
    }
}

fn node(key: u8) -> io::Result<Driver> {
    let mut config = Config::new(SecretKey::from_bytes([key; 32]));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.allow_plain = true;
    Driver::new(config, &[Interface::new(1, Ipv4Addr::LOCALHOST.into(), 8)])
}

fn blocking(driver: &mut Driver) -> io::Result<Pipe> {
    let pipe = driver.pipes.pop_front().ok_or(io::ErrorKind::NotConnected)?;
    pipe.tcp.set_nonblocking(false)?;
    Ok(pipe)
}
// ANCHOR_END: main
