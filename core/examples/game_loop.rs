//! A game's loop: it draws a frame every 2 ms, and all that two nodes and their pipes do is done between two frames.
//! Nothing waits, and there are no threads. The driver is that of `std_driver`.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a driver does what the core must not do"
)]

#[path = "std_driver/driver.rs"]
mod driver;
#[allow(dead_code, reason = "this game never ends a pipe")]
#[path = "std_driver/pipe.rs"]
mod pipe;
#[path = "std_driver/sockets.rs"]
mod sockets;

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::time::Duration;

use driver::Driver;
use p2pd_core::io::Interface;
use p2pd_core::{Config, PipeMode, Plan, SecretKey};
use pipe::Pipe;

const FRAME: Duration = Duration::from_millis(2);

// ANCHOR: player
/// A player in the game: a node, its pipe to the other player, and where that one stands.
struct Player {
    driver: Driver,
    pipe: Option<Pipe>,
    seen: u8,
}

impl Player {
    fn new(key: u8) -> io::Result<Player> {
        let mut config = Config::new(SecretKey::from_bytes([key; 32]));
        config.bind = Some(Ipv4Addr::LOCALHOST.into());
        config.allow_plain = true;
        let driver = Driver::new(config, &[Interface::new(1, Ipv4Addr::LOCALHOST.into(), 8)])?;
        Ok(Player { driver, pipe: None, seen: 0 })
    }

    /// All of the network's work in one frame. `place` is where this player stands now.
    fn tick(&mut self, place: u8) -> io::Result<()> {
        self.driver.tick();
        self.pipe = self.pipe.take().or_else(|| self.driver.pipes.pop_front());
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        pipe.send(&[place])?;
        // What the system does not take now goes with the next frame.
        unless_it_waits(pipe.flush())?;
        while let Some(bytes) = unless_it_waits(pipe.receive())? {
            self.seen = *bytes.last().ok_or(ErrorKind::UnexpectedEof)?;
        }
        Ok(())
    }
}

fn unless_it_waits<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        done => done.map(Some),
    }
}
// ANCHOR_END: player

// ANCHOR: main
fn main() -> io::Result<()> {
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        println!("{mode}: each player saw the other one arrive in {} frames", play(mode)?);
    }
    Ok(())
}

/// Plays until each player has seen the other one at place 100. Returns the number of frames.
pub fn play(mode: PipeMode) -> io::Result<u32> {
    let (mut one, mut two) = (Player::new(1)?, Player::new(2)?);
    let plan = Plan::new().mode(mode);
    one.driver.node.connect(one.driver.now(), &two.driver.node.address(), plan).map_err(io::Error::other)?;
    for frame in 1..5000 {
        let place = frame.min(100) as u8;
        one.tick(place)?;
        two.tick(place)?;
        if one.seen == 100 && two.seen == 100 {
            return Ok(frame);
        }
        // Here a game draws.
        std::thread::sleep(FRAME);
    }
    Err(ErrorKind::TimedOut.into())
}
// ANCHOR_END: main
