//! A protocol with a fault, which a sweep over worlds finds and makes small: `cargo run -p p2pd-simulations --example orders`. With the
//! name of a file it also draws the smallest world there, as an SVG.
//!
//! The page "A bug, found and mended" of the book goes through it, and `tests/lab.rs` compares what is printed and drawn with it.

use p2pd_core::Config;
use p2pd_simulations::lab::{Lab, Pipe};

fn config(config: Config) -> Config {
    config
}

// ANCHOR: faulty
/// The client sends orders, each with one write. The shop takes each read for one order.
fn orders(lab: &mut Lab) -> Result<(), String> {
    let (client, shop) = (lab.here().node(config), lab.there().node(config));
    let (to_shop, at_shop) = lab.connect(client, shop)?;
    let count = lab.number("orders", 1..=20);
    for n in 0..count {
        lab.write(to_shop, format!("buy {n};"));
    }
    for n in 0..count {
        let order = lab.read(at_shop)?;
        if order != format!("buy {n};").as_bytes() {
            return Err(format!("no such order: {}", order.escape_ascii()));
        }
    }
    Ok(())
}
// ANCHOR_END: faulty

// ANCHOR: mended
/// The shop reads up to the semicolon that ends an order, however many reads that takes, and keeps what follows.
fn mended(lab: &mut Lab) -> Result<(), String> {
    let (client, shop) = (lab.here().node(config), lab.there().node(config));
    let (to_shop, at_shop) = lab.connect(client, shop)?;
    let count = lab.number("orders", 1..=20);
    for n in 0..count {
        lab.write(to_shop, format!("buy {n};"));
    }
    let mut waiting = Vec::new();
    for n in 0..count {
        let order = next_order(lab, at_shop, &mut waiting)?;
        if order != format!("buy {n};").as_bytes() {
            return Err(format!("no such order: {}", order.escape_ascii()));
        }
    }
    Ok(())
}

fn next_order(lab: &mut Lab, pipe: Pipe, waiting: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    loop {
        if let Some(end) = waiting.iter().position(|byte| *byte == b';') {
            return Ok(waiting.drain(..=end).collect());
        }
        let more = lab.read(pipe)?;
        if more.is_empty() {
            return Err("the client left: in the middle of an order".into());
        }
        waiting.extend(more);
    }
}
// ANCHOR_END: mended

// ANCHOR: repeated
/// The world in which it failed stays a test.
fn repeated() -> Result<(), String> {
    mended(&mut Lab::repeat("seed 961, here open, there open, reorder 9 % there, orders 4")?)
}
// ANCHOR_END: repeated

// ANCHOR: main
/// Returns what is printed, and the picture of the smallest world.
pub fn story() -> Result<(String, String), String> {
    let Err(finding) = Lab::every_pair(1, orders) else {
        return Err("one write was one read in every world".into());
    };
    repeated()?;
    let worlds = Lab::every_pair(1, mended)?;
    Ok((format!("{finding}\nmended, it holds in {worlds} worlds\n"), finding.lab.picture()))
}
// ANCHOR_END: main

/// Prints the story, and writes the picture to the file that is named.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (text, picture) = story()?;
    print!("{text}");
    if let Some(file) = std::env::args().nth(1) {
        std::fs::write(file, picture)?;
    }
    Ok(())
}
