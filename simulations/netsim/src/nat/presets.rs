//! NATs that exist, by name.
//!
//! `confidence` is the source of a row. `measured`: on a real kernel (`simulations/netsim/data/README.md`). `source`: read in the device's
//! or a test laboratory's own sources. `document`: from an RFC or a vendor's text. `recalled`: to be confirmed before a
//! figure rests on it.

use super::kind::USERSPACE;
use super::{
    Alloc, Caps, Clash, Dependence, Hairpin, NatSpec, OnRst, Scope, Timers, Tracking, Unique, Unsolicited,
};
use crate::engine::SECOND;
use Dependence::{Address as Ad, AddressAndPort as Apd, Endpoint as Ei};

/// A named NAT, or chain of NATs.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name in texts.
    pub name: &'static str,
    /// The NATs, the host's own first; none for a public host.
    pub chain: &'static [NatSpec],
    /// Devices or networks that have this NAT.
    pub what: &'static str,
    /// Source of the row: `measured`, `source`, `document` or `recalled`.
    pub confidence: &'static str,
}

const fn row(
    name: &'static str,
    chain: &'static [NatSpec],
    what: &'static str,
    confidence: &'static str,
) -> Preset {
    Preset { name, chain, what, confidence }
}

const LINUX: NatSpec = NatSpec::LINUX;
const ONE_TO_ONE: NatSpec = NatSpec { hairpin: Hairpin::Dropped, dmz: true, ..FULL_CONE };
const RANDOM: NatSpec = LINUX.alloc(Alloc::Random);
const FULL_CONE: NatSpec = NatSpec {
    unique: Unique::Port,
    tracking: Tracking::Contacts,
    on_rst: OnRst::Keep,
    hairpin: Hairpin::External,
    timers: Timers::RFC,
    ..LINUX.with(Ei, Ei)
};
const CONE: NatSpec = NatSpec { hairpin: Hairpin::Refused, ..FULL_CONE };
const SYMMETRIC: NatSpec = NatSpec { on_rst: OnRst::Delete, timers: Timers::RFC, ..LINUX };
const SEQUENTIAL: Alloc = Alloc::Sequential { step: 1, scope: Scope::Global };
const CGN: NatSpec = NatSpec {
    timers: Timers::RFC.with(120, 7_200),
    alloc: Alloc::Block(2048),
    caps: Caps { total: 0, per_host: 2048 },
    pool: 4,
    ..FULL_CONE
};
const PF: NatSpec = NatSpec {
    range: (50_001, 65_535),
    timers: Timers { closed: 90 * SECOND, ..Timers::LINUX.with(120, 86_400) },
    ..RANDOM
};
const MOBILE: NatSpec = NatSpec { timers: Timers::RFC.with(60, 1_800), on_rst: OnRst::Delete, ..RANDOM };
const CLOUD: NatSpec = NatSpec { hairpin: Hairpin::Dropped, timers: Timers::LINUX.with(60, 350), ..RANDOM };
const OPENWRT: NatSpec = LINUX.unsolicited(Unsolicited::Rst);
const MOBILE_RST: NatSpec =
    NatSpec { timers: Timers::RFC.with(30, 300), ..MOBILE.unsolicited(Unsolicited::Rst) };

/// The presets.
pub const PRESETS: &[Preset] = &[
    row("open", &[], "a public host", "measured"),
    row("one2one", &[ONE_TO_ONE], "one address to one address, no filter (EC2)", "source"),
    row("linux", &[LINUX], "Linux masquerading, silent: most vendor firmwares", "measured"),
    row(
        "linux-accept",
        &[LINUX.unsolicited(Unsolicited::Local)],
        "Linux masquerading without firewall",
        "measured",
    ),
    row("openwrt", &[OPENWRT], "OpenWrt as shipped: strangers are rejected", "source"),
    row("linux-random", &[RANDOM], "Linux masquerade fully-random", "measured"),
    row(
        "linux-range",
        &[NatSpec { range: (50_000, 50_100), ..LINUX.with(Ei, Apd).alloc(Alloc::Random) }],
        "Linux snat to a port range",
        "measured",
    ),
    row("fullcone", &[FULL_CONE], "full-cone modules and some vendor chips", "source"),
    row("restricted-cone", &[CONE.with(Ei, Ad)], "routers with VoIP help", "source"),
    row("port-restricted-cone", &[CONE.with(Ei, Apd)], "EIM with port filtering", "document"),
    row("rfc5382", &[NatSpec::RFC], "what RFC 4787 and RFC 5382 ask for", "document"),
    row("pf", &[PF], "pfSense, OPNsense, OpenBSD", "document"),
    row(
        "pf-static-port",
        &[NatSpec { range: (1024, 65_535), ..PF.alloc(LINUX.alloc) }],
        "pf with static-port",
        "document",
    ),
    row("symmetric-seq1", &[SYMMETRIC.alloc(SEQUENTIAL)], "older home routers", "recalled"),
    row(
        "symmetric-seq2",
        &[SYMMETRIC.alloc(Alloc::Sequential { step: 2, scope: Scope::Global })],
        "older home routers",
        "recalled",
    ),
    row(
        "symmetric-seq-host",
        &[SYMMETRIC.alloc(Alloc::Sequential { step: 1, scope: Scope::Host })],
        "sequential for each inside host",
        "recalled",
    ),
    row(
        "symmetric-busy",
        &[NatSpec { background: 2_000, ..SYMMETRIC.alloc(SEQUENTIAL) }],
        "sequential, two flows a second of other users",
        "recalled",
    ),
    row(
        "dependent",
        &[CONE.with(Ei, Apd).alloc(Alloc::Dependent { step: 1 })],
        "port moves with the inside port",
        "document",
    ),
    row(
        "offset",
        &[CONE.with(Ei, Apd).alloc(Alloc::Offset(1_000))],
        "inside port plus a constant",
        "document",
    ),
    row(
        "starlink-like",
        &[NatSpec { range: (35_000, 65_535), ..CONE.with(Ei, Apd) }],
        "preserves the port within a range",
        "document",
    ),
    row(
        "windows-ics",
        &[NatSpec { range: (49_152, 65_535), ..SYMMETRIC.alloc(SEQUENTIAL).unsolicited(Unsolicited::Rst) }],
        "Windows connection sharing",
        "recalled",
    ),
    row(
        "cisco-ios",
        &[NatSpec {
            timers: Timers::RFC.with(60, 86_400),
            ..CONE.with(Ei, Apd).alloc(Alloc::Preserve(Clash::Next))
        }],
        "Cisco IOS with PAT",
        "recalled",
    ),
    row(
        "enterprise",
        &[NatSpec { timers: Timers::LINUX.with(30, 3_600), on_rst: OnRst::Delete, ..RANDOM }],
        "ASA, Palo Alto, Fortinet",
        "source",
    ),
    row("cgn", &[CGN], "carrier NAT with port blocks", "recalled"),
    row("cgn-deterministic", &[CGN.with(Ei, Apd)], "RFC 7422", "document"),
    row("mobile-symmetric", &[MOBILE], "a third of mobile carriers", "document"),
    row("mobile-rst", &[MOBILE_RST], "the same, answering strangers with RST", "recalled"),
    row("cloud", &[CLOUD], "the NAT gateways of the large clouds", "source"),
    row("double", &[LINUX, CGN], "a home router behind a carrier NAT", "measured"),
    row("double-mobile", &[OPENWRT, MOBILE], "a home router on a mobile network", "document"),
    row(
        "firewall",
        &[NatSpec { translate: false, ..LINUX }],
        "no translation, strangers are dropped (RFC 6092)",
        "measured",
    ),
];

/// NATs that the real-kernel laboratory builds, under their names there.
pub const LAB: &[Preset] = &[
    row("none", &[], "public host", "measured"),
    row("fw", &[NatSpec { translate: false, ..LINUX }], "stateful firewall", "measured"),
    row("fc", &[LAB_FC], "nft maps and dnat", "measured"),
    row("ar", &[NatSpec { filtering: Ad, udp: (Ei, Ad), ..LAB_FC }], "nft maps and set", "measured"),
    row("pr", &[LINUX], "masquerade", "measured"),
    row(
        "eimrand",
        &[NatSpec { range: (32_768, 60_999), ..LAB_FC.with(Ei, Apd).alloc(Alloc::Random) }],
        "nft maps and random",
        "measured",
    ),
    row(
        "symseq",
        &[NatSpec { range: (40_000, 42_047), refusal_takes_port: true, ..LINUX.alloc(SEQUENTIAL) }],
        "numgen",
        "measured",
    ),
    row("symrand", &[RANDOM], "masquerade fully-random", "measured"),
    // The laboratory's userspace NAT: MAP.FILTER.ALLOC, no TCP states, contacts for two minutes.
    row("u:eim.eif.keep", &[USERSPACE.with(Ei, Ei)], "userspace NAT", "measured"),
    row("u:eim.adf.rand", &[USERSPACE.with(Ei, Ad).alloc(Alloc::Random)], "userspace NAT", "measured"),
    row("u:eim.apdf.rand", &[USERSPACE.with(Ei, Apd).alloc(Alloc::Random)], "userspace NAT", "measured"),
    row("u:eim.apdf.keep", &[USERSPACE.with(Ei, Apd)], "userspace NAT", "measured"),
    row(
        "u:apdm.apdf.seq2",
        &[USERSPACE.with(Apd, Apd).alloc(Alloc::Sequential { step: 2, scope: Scope::Global })],
        "userspace NAT",
        "measured",
    ),
    row("u:apdm.apdf.seq", &[USERSPACE.with(Apd, Apd).alloc(SEQUENTIAL)], "userspace NAT", "measured"),
    row("u:adm.adf.seq", &[USERSPACE.with(Ad, Ad).alloc(SEQUENTIAL)], "userspace NAT", "measured"),
    row("u:apdm.apdf.rand", &[USERSPACE.with(Apd, Apd).alloc(Alloc::Random)], "userspace NAT", "measured"),
];

const LAB_FC: NatSpec = LINUX.with(Ei, Ei);
