//! Tests of the drivers' dependencies: no tokio where none is needed, and no runtime at all under mio.

use std::process::Command;

/// The crates of a package, without those of tests and builds.
fn crates(package: &str, more: &[&str]) -> Vec<String> {
    let mut tree = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    tree.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--package", package]);
    let out = tree.args(more).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(String::from).collect()
}

#[test]
fn there_is_no_tokio_under_async_std_and_smol() {
    for more in [&[][..], &["--no-default-features", "--features", "smol"]] {
        let crates = crates("p2pd-async-std", more);
        let has = |name: &str| crates.iter().any(|c| c == name);
        assert!(has("p2pd-core") && has("async-io"), "{crates:?}");
        assert_eq!(has("async-std"), more.is_empty(), "{crates:?}");
        assert_eq!(has("smol"), !more.is_empty(), "{crates:?}");
        assert!(!crates.iter().any(|c| c.contains("tokio")), "{crates:?}");
    }
}

#[test]
fn there_is_no_runtime_under_mio() {
    let crates = crates("p2pd-mio", &[]);
    assert!(crates.iter().any(|c| c == "mio"), "{crates:?}");
    let runtimes = ["tokio", "async", "smol", "futures", "executor", "polling", "blocking", "event-listener"];
    let found: Vec<_> = crates.iter().filter(|c| runtimes.iter().any(|r| c.contains(r))).collect();
    assert!(found.is_empty(), "{found:?}");
}
