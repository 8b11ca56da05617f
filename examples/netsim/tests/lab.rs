//! Nodes of p2pd behind simulated NATs, and this crate's protocol between them.

use p2pd_core::Config;
use p2pd_simulations::lab::{Finding, Lab, Sweep};
use protocol_of_your_own::texts::{framed, next};

/// The configuration of the program under test: here the lab's.
fn cfg(config: Config) -> Config {
    config
}

// ANCHOR: five
#[test]
fn two_homes_are_joined() -> Result<(), String> {
    let seed = 7;
    let mut lab = Lab::new(seed);
    let a = lab.behind("openwrt").node(cfg);
    let b = lab.behind("cgn+openwrt").node(cfg);
    let (x, y) = lab.connect(a, b)?;
    lab.write(x, b"hello");
    assert_eq!(lab.read(y)?, b"hello");
    Ok(())
}
// ANCHOR_END: five

#[test]
fn every_text_arrives_behind_every_nat() -> Result<(), Box<Finding>> {
    let nats = ["open", "linux", "openwrt", "cgn", "linux-random", "symmetric-seq1", "double-mobile"];
    let worlds = Sweep::new(1).between(nats).run(|lab| {
        let (a, b) = (lab.here().node(cfg), lab.there().node(cfg));
        let (x, y) = lab.connect(a, b)?;
        let (texts, length) = (lab.number("texts", 1..=20), lab.number("length", 0..=5_000));
        let text = |n: u64| vec![n as u8; length as usize];
        for n in 0..texts {
            lab.write(x, framed(&text(n)));
        }
        let mut came = Vec::new();
        for n in 0..texts {
            let read = loop {
                match next(&mut came) {
                    Some(read) => break read,
                    None => came.extend(lab.read(y)?),
                }
            };
            assert!(read == text(n), "a text came wrong: {n} of {texts}");
        }
        Ok(())
    })?;
    assert_eq!(worlds, 49);
    Ok(())
}
