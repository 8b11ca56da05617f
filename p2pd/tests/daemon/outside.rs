//! Programs outside: ended with the test; curl. The test of `examples/netsim-page` has this file and `browser.rs` too.

use std::process::{Child, Command};

/// Ends the process however the test ends.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn curl(options: &[&str], url: &str) -> (u16, Vec<u8>) {
    let fixed =
        ["-q", "-s", "-g", "--noproxy", "*", "--max-time", "40", "--path-as-is", "-w", "%{http_code}"];
    let out =
        Command::new("curl").args(fixed).args(options).arg(url).output().expect("curl is not installed");
    let (body, status) = out.stdout.split_at(out.stdout.len() - 3);
    (std::str::from_utf8(status).unwrap().parse().unwrap(), body.to_vec())
}
