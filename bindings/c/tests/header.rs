//! The header is the one that cbindgen writes from this crate.

use std::path::Path;

/// Files in the order in which the header has their types.
const FILES: [&str; 7] = ["status", "plan", "config", "event", "node", "pipe", "session"];

fn written() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let builder = FILES.iter().fold(cbindgen::Builder::new(), |builder, file| {
        builder.with_src(here.join(format!("src/{file}.rs")))
    });
    let mut header = Vec::new();
    builder.with_config(config).generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

/// `P2PD_WRITE=1 cargo test -p p2pd-c --test header` writes it.
#[test]
fn the_header_is_as_the_crate_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/p2pd.h");
    let written = written();
    if std::env::var_os("P2PD_WRITE").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap();
    let differs = there.lines().zip(written.lines()).position(|(there, new)| there != new);
    assert!(there == written, "include/p2pd.h differs from line {differs:?}: write it anew by P2PD_WRITE=1");
}
