//! Word of changes of this machine's network, as it comes: `changes [SECONDS]`, for 30 s unless told. Ends with an error where
//! the system tells of none, or none came.

use std::io::Read;
use std::time::{Duration, Instant};

use p2pd_sys::messages::network::{Word, changes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(30), |n| n.parse())?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut socket = changes()?;
    let (mut buffer, mut words) = ([0; 8192], 0);
    while Instant::now() < until {
        let read = socket.read(&mut buffer);
        match Word::of(&read, &buffer) {
            Word::None => std::thread::sleep(Duration::from_millis(20)),
            Word::Idle => {}
            Word::Changed => {
                words += 1;
                let up = p2pd_sys::cards().into_iter().filter(|card| card.up);
                let up: Vec<String> = up.map(|card| card.name).collect();
                println!("changed; interfaces that are up: {}", up.join(" "));
            }
            Word::Lost => return Err("the system tells nothing any more".into()),
        }
    }
    println!("words of changes: {words}");
    if words == 0 { Err("none came".into()) } else { Ok(()) }
}
