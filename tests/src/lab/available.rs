//! Abilities of this machine, found by trying them, and the report of a test that it cannot run here.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::netns::Namespace;
use super::{rules, sys};

/// A part of the system that a test in the lab may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Root's rights.
    Root,
    /// Making network namespaces.
    Namespaces,
    /// Making TUN devices.
    Tun,
    /// `ip` of iproute2.
    Ip,
    /// `nft`, and a kernel that takes the routers' rules.
    Nft,
    /// The MQTT broker.
    Mosquitto,
    /// The STUN and TURN server.
    Coturn,
    /// The router's UPnP, NAT-PMP and PCP server.
    Miniupnpd,
    /// The NTP server.
    Chrony,
    /// Runs a program by a wrong clock.
    Faketime,
    /// The NAT64.
    Tayga,
    /// sshd, nginx, dnsmasq and PostgreSQL, with their clients.
    Services,
    /// The measure of throughput.
    Iperf3,
}

/// Programs of [`Part::Services`], each with its package.
const SERVICES: [(&str, &str); 7] = [
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("pg_ctlcluster", "postgresql"),
];

impl Part {
    /// Parts that every lab needs.
    pub const BASE: [Self; 5] = [Self::Root, Self::Namespaces, Self::Tun, Self::Ip, Self::Nft];

    /// Checks that the part is there.
    ///
    /// # Errors
    /// Says why the part is missing.
    pub fn check(self) -> Result<(), String> {
        static FOUND: [OnceLock<Result<(), String>>; 13] = [const { OnceLock::new() }; 13];
        FOUND[self as usize].get_or_init(|| self.find()).clone()
    }

    fn find(self) -> Result<(), String> {
        match self {
            Self::Root => match sys::effective_uid() {
                0 => Ok(()),
                uid => Err(format!("not root (uid {uid})")),
            },
            Self::Namespaces => Namespace::new("probe").map(drop).map_err(|e| e.to_string()),
            Self::Tun => {
                let space = Namespace::new("probe").map_err(|e| e.to_string())?;
                space.tun("probe").map(drop).map_err(|e| e.to_string())
            }
            Self::Ip => program("ip", "iproute2"),
            Self::Nft => {
                program("nft", "nftables")?;
                let space = Namespace::new("probe").map_err(|e| e.to_string())?;
                space.configure("nft", &["-f", "-"], rules::PROBE).map_err(|e| e.to_string())
            }
            Self::Mosquitto => program("mosquitto", "mosquitto"),
            Self::Coturn => program("turnserver", "coturn"),
            Self::Miniupnpd => program("miniupnpd", "miniupnpd-nftables"),
            Self::Chrony => program("chronyd", "chrony"),
            Self::Faketime => program("faketime", "faketime"),
            Self::Tayga => program("tayga", "tayga"),
            Self::Services => SERVICES.iter().try_for_each(|(name, package)| program(name, package)),
            Self::Iperf3 => program("iperf3", "iperf3"),
        }
    }
}

/// Checks whether labs can be built here.
///
/// # Errors
/// Names what is missing.
pub fn available() -> Result<(), String> {
    available_with(&[])
}

/// Checks as [`available`] does, and whether these parts are there too.
///
/// # Errors
/// Names what is missing.
pub fn available_with(parts: &[Part]) -> Result<(), String> {
    Part::BASE.iter().chain(parts).try_for_each(|part| part.check())
}

/// Returns false, after printing `SKIPPED test: reason`, when something is missing. [`require_lab!`] calls this.
///
/// [`require_lab!`]: crate::require_lab
///
/// # Panics
/// When something is missing although the environment says `P2PD_REQUIRE_LAB=1`.
pub fn ready(test: &str, parts: &[Part]) -> bool {
    let Err(reason) = available_with(parts) else { return true };
    let test = test.strip_suffix("::here").unwrap_or(test);
    let required = std::env::var("P2PD_REQUIRE_LAB").is_ok_and(|value| value == "1");
    assert!(!required, "P2PD_REQUIRE_LAB=1, but {test} cannot run: {reason}");
    let reason = reason.split("\ninput:").next().unwrap_or_default();
    // Not eprintln!, which the test harness swallows when a test passes. If stderr is closed there is
    // nobody to tell.
    let line = format!("SKIPPED {test}: {}\n", reason.replace('\n', " "));
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}

/// Ends the calling test with `SKIPPED name: reason` where no lab can be built, or without the named
/// [`Part`](crate::lab::Part)s: `require_lab!()`, `require_lab!(Mosquitto, Coturn)`. With
/// `P2PD_REQUIRE_LAB=1` in the environment the test fails instead.
#[macro_export]
macro_rules! require_lab {
    ($($part:ident),* $(,)?) => {{
        fn here() {}
        if !$crate::lab::ready(::std::any::type_name_of_val(&here), &[$($crate::lab::Part::$part),*]) {
            return;
        }
    }};
}

/// Finds a program, also where only root's PATH looks.
pub(super) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(system);
    if name.contains('/') {
        None
    } else {
        places.find_map(|dir| Some(dir.join(name)).filter(|p| p.is_file()))
    }
}

fn program(name: &str, package: &str) -> Result<(), String> {
    tool(name).map(drop).ok_or_else(|| format!("no program {name} (package {package})"))
}
