//! NATs as text: a preset's name or a kind of the grid, an answer to strangers behind a slash, fields behind commas; `+` joins a
//! chain, the host's own NAT first. `linux/rst`, `fc+pr`, `linux,alloc=seq+1,background=500`.

use core::fmt;
use core::str::FromStr;

use super::presets::{LAB, PRESETS};
use super::{
    Alloc, Clash, Dependence, Hairpin, Kind, NatSpec, OnRst, Scope, Timers, Tracking, Unique, Unsolicited,
};
use crate::engine::SECOND;

/// The NATs between a host and the internet, the host's own first; none for a public host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain(pub Vec<NatSpec>);

/// Reason why a text is no NAT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SpecError {
    /// No preset has this name.
    Name(String),
    /// No field has this name.
    Field(String),
    /// The text is no value of that field.
    Value(String),
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Name(name) => write!(f, "no preset is called {name:?}; `sim presets` lists them"),
            SpecError::Field(name) => write!(f, "a NAT has no field {name:?}"),
            SpecError::Value(text) => write!(f, "{text:?} is no value of its field"),
        }
    }
}

impl std::error::Error for SpecError {}

const DEPENDENCES: [(&str, Dependence); 3] =
    [("ei", Dependence::Endpoint), ("ad", Dependence::Address), ("apd", Dependence::AddressAndPort)];
const UNSOLICITED: [(&str, Unsolicited); 7] = [
    ("drop", Unsolicited::Drop),
    ("rst", Unsolicited::Rst),
    ("icmp-port", Unsolicited::IcmpPort),
    ("icmp-host", Unsolicited::IcmpHost),
    ("icmp-admin", Unsolicited::IcmpAdmin),
    ("local", Unsolicited::Local),
    ("delayed", Unsolicited::Delayed),
];
const HAIRPINS: [(&str, Hairpin); 4] = [
    ("refused", Hairpin::Refused),
    ("dropped", Hairpin::Dropped),
    ("external", Hairpin::External),
    ("internal", Hairpin::Internal),
];
const RSTS: [(&str, OnRst); 3] =
    [("delete-unreplied", OnRst::DeleteUnreplied), ("delete", OnRst::Delete), ("keep", OnRst::Keep)];
const TRACKINGS: [(&str, Tracking); 2] =
    [("conntrack", Tracking::Conntrack), ("contacts", Tracking::Contacts)];
const UNIQUES: [(&str, Unique); 3] =
    [("tuple", Unique::FiveTuple), ("port", Unique::Port), ("shared", Unique::Shared)];
const FLAGS: [(&str, bool); 2] = [("yes", true), ("no", false)];

/// Most mappings of other users in a thousand seconds that a text may ask for.
const MOST_BACKGROUND: u32 = 1_000_000;

fn pick<T: Copy>(table: &[(&str, T)], text: &str) -> Result<T, SpecError> {
    table.iter().find(|(name, _)| *name == text).map(|(_, v)| *v).ok_or_else(|| SpecError::Value(text.into()))
}

fn name<T: PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, v)| *v == value).map_or("?", |(name, _)| name)
}

fn number<T: FromStr>(text: &str) -> Result<T, SpecError> {
    text.parse().map_err(|_| SpecError::Value(text.into()))
}

fn alloc(text: &str) -> Result<Alloc, SpecError> {
    let signed = |prefix: &str| text.strip_prefix(prefix).filter(|t| t.starts_with(['+', '-']));
    if let Some(step) = signed("seq-host") {
        return Ok(Alloc::Sequential { step: number(step)?, scope: Scope::Host });
    }
    if let Some(step) = signed("seq") {
        return Ok(Alloc::Sequential { step: number(step)?, scope: Scope::Global });
    }
    if let Some(step) = signed("dependent") {
        return Ok(Alloc::Dependent { step: number(step)? });
    }
    if let Some(by) = signed("offset") {
        return Ok(Alloc::Offset(number(by)?));
    }
    type WithCount = fn(u16) -> Alloc;
    let counts: [(&str, WithCount); 4] = [
        ("block-seq", Alloc::CountedBlock),
        ("block", Alloc::Block),
        ("drift", Alloc::Drift),
        ("mixed", Alloc::Mixed),
    ];
    for (prefix, alloc) in counts {
        if let Some(count) = text.strip_prefix(prefix) {
            return Ok(alloc(number(count)?));
        }
    }
    match text {
        "parity" => Ok(Alloc::Parity),
        "sticky" => Ok(Alloc::Sticky),
        "preserve" => Ok(Alloc::Preserve(Clash::Random)),
        "preserve-next" => Ok(Alloc::Preserve(Clash::Next)),
        "random" => Ok(Alloc::Random),
        _ => Err(SpecError::Value(text.into())),
    }
}

fn alloc_text(alloc: Alloc) -> String {
    match alloc {
        Alloc::Preserve(Clash::Random) => "preserve".into(),
        Alloc::Preserve(Clash::Next) => "preserve-next".into(),
        Alloc::Random => "random".into(),
        Alloc::Parity => "parity".into(),
        Alloc::Sticky => "sticky".into(),
        Alloc::Offset(by) => format!("offset{by:+}"),
        Alloc::Dependent { step } => format!("dependent{step:+}"),
        Alloc::Sequential { step, scope: Scope::Global } => format!("seq{step:+}"),
        Alloc::Sequential { step, scope: Scope::Host } => format!("seq-host{step:+}"),
        Alloc::CountedBlock(size) => format!("block-seq{size}"),
        Alloc::Block(size) => format!("block{size}"),
        Alloc::Drift(most) => format!("drift{most}"),
        Alloc::Mixed(permille) => format!("mixed{permille}"),
    }
}

impl NatSpec {
    fn set(&mut self, field: &str, value: &str) -> Result<(), SpecError> {
        match field {
            "translate" => self.translate = pick(&FLAGS, value)?,
            "map" => (self.mapping, self.udp.0) = (pick(&DEPENDENCES, value)?, pick(&DEPENDENCES, value)?),
            "filter" => {
                (self.filtering, self.udp.1) = (pick(&DEPENDENCES, value)?, pick(&DEPENDENCES, value)?);
            }
            "udp-map" => self.udp.0 = pick(&DEPENDENCES, value)?,
            "udp-filter" => self.udp.1 = pick(&DEPENDENCES, value)?,
            "alloc" => self.alloc = alloc(value)?,
            "unique" => self.unique = pick(&UNIQUES, value)?,
            "range" => {
                let (low, high) = value.split_once('-').ok_or_else(|| SpecError::Value(value.into()))?;
                self.range = (number(low)?, number(high)?);
                if self.range.0 == 0 || self.range.0 > self.range.1 {
                    return Err(SpecError::Value(value.into()));
                }
            }
            "pool" => self.pool = number::<u8>(value)?.max(1),
            "paired" => self.paired = pick(&FLAGS, value)?,
            "unsolicited" => self.unsolicited = pick(&UNSOLICITED, value)?,
            "tracking" => self.tracking = pick(&TRACKINGS, value)?,
            "on-rst" => self.on_rst = pick(&RSTS, value)?,
            "sim-open" => self.simultaneous_open = pick(&FLAGS, value)?,
            "hairpin" => self.hairpin = pick(&HAIRPINS, value)?,
            "timers" => {
                let times: Vec<u32> = value.split('/').map(number).collect::<Result<_, _>>()?;
                let [syn, syn_received, established, closing, time_wait, closed, udp, udp_replied, mapping] =
                    times[..]
                else {
                    return Err(SpecError::Value(value.into()));
                };
                let s = |n: u32| u64::from(n) * SECOND;
                self.timers = Timers {
                    syn: s(syn),
                    syn_received: s(syn_received),
                    established: s(established),
                    closing: s(closing),
                    time_wait: s(time_wait),
                    closed: s(closed),
                    udp: s(udp),
                    udp_replied: s(udp_replied),
                    mapping: s(mapping),
                };
            }
            "refresh-in" => self.refresh_inbound = pick(&FLAGS, value)?,
            "sessions" => self.caps.total = number(value)?,
            "sessions-per-host" => self.caps.per_host = number(value)?,
            "background" => {
                // Each of these mappings is drawn.
                self.background = number(value)?;
                if self.background > MOST_BACKGROUND {
                    return Err(SpecError::Value(value.into()));
                }
            }
            "dmz" => self.dmz = pick(&FLAGS, value)?,
            "udp" => self.udp_passes = pick(&FLAGS, value)?,
            "udp-rate" => self.udp_rate = number(value)?,
            "narrow" => self.narrow = pick(&FLAGS, value)?,
            "refusal-takes-port" => self.refusal_takes_port = pick(&FLAGS, value)?,
            _ => return Err(SpecError::Field(field.into())),
        }
        Ok(())
    }
}

impl FromStr for Chain {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Chain, SpecError> {
        let mut chain = Vec::new();
        // Signs of steps and offsets look like the chain's joint: a joint is not followed by a digit.
        let mut rest = text;
        while !rest.is_empty() {
            let joint = rest
                .match_indices('+')
                .map(|(at, _)| at)
                .find(|at| rest.as_bytes().get(at + 1).is_none_or(|c| !c.is_ascii_digit()));
            let (one, more) = joint.map_or((rest, ""), |at| (&rest[..at], &rest[at + 1..]));
            rest = more;
            chain.extend(one_spec(one)?);
        }
        Ok(Chain(chain))
    }
}

/// Parses one link of a chain. A preset may itself be a chain, and a public host has no NAT.
fn one_spec(text: &str) -> Result<Vec<NatSpec>, SpecError> {
    let mut parts = text.split(',');
    let head = parts.next().unwrap_or_default();
    let (base, unsolicited) = match head.split_once('/') {
        Some((base, policy)) => (base, Some(pick(&UNSOLICITED, policy)?)),
        None => (head, None),
    };
    let mut specs = match PRESETS.iter().chain(LAB).find(|p| p.name == base) {
        Some(preset) => preset.chain.to_vec(),
        None => vec![base.parse::<Kind>().map_err(|_| SpecError::Name(base.into()))?.spec()],
    };
    if let (Some(last), Some(policy)) = (specs.last_mut(), unsolicited) {
        last.unsolicited = policy;
    }
    for part in parts {
        let (field, value) = part.split_once('=').ok_or_else(|| SpecError::Field(part.into()))?;
        specs.last_mut().ok_or_else(|| SpecError::Field(part.into()))?.set(field, value)?;
    }
    Ok(specs)
}

/// Every field of a NAT, by its name in texts.
fn fields(s: &NatSpec) -> Vec<(&'static str, String)> {
    let flag = |b| name(&FLAGS, b).to_owned();
    let dep = |d| name(&DEPENDENCES, d).to_owned();
    let t = &s.timers;
    let times = [
        t.syn,
        t.syn_received,
        t.established,
        t.closing,
        t.time_wait,
        t.closed,
        t.udp,
        t.udp_replied,
        t.mapping,
    ];
    let times: Vec<String> = times.iter().map(|t| (t / SECOND).to_string()).collect();
    vec![
        ("translate", flag(s.translate)),
        // These two set those of UDP too, and so come first.
        ("map", dep(s.mapping)),
        ("filter", dep(s.filtering)),
        ("udp-map", dep(s.udp.0)),
        ("udp-filter", dep(s.udp.1)),
        ("alloc", alloc_text(s.alloc)),
        ("unique", name(&UNIQUES, s.unique).into()),
        ("range", format!("{}-{}", s.range.0, s.range.1)),
        ("pool", s.pool.to_string()),
        ("paired", flag(s.paired)),
        ("unsolicited", name(&UNSOLICITED, s.unsolicited).into()),
        ("tracking", name(&TRACKINGS, s.tracking).into()),
        ("on-rst", name(&RSTS, s.on_rst).into()),
        ("sim-open", flag(s.simultaneous_open)),
        ("hairpin", name(&HAIRPINS, s.hairpin).into()),
        ("timers", times.join("/")),
        ("refresh-in", flag(s.refresh_inbound)),
        ("sessions", s.caps.total.to_string()),
        ("sessions-per-host", s.caps.per_host.to_string()),
        ("background", s.background.to_string()),
        ("dmz", flag(s.dmz)),
        ("udp", flag(s.udp_passes)),
        ("udp-rate", s.udp_rate.to_string()),
        ("narrow", flag(s.narrow)),
        ("refusal-takes-port", flag(s.refusal_takes_port)),
    ]
}

impl fmt::Display for Chain {
    /// A kind of the grid, or the preset `linux` and every field that is not as there; `open` for no NAT. Reading it
    /// gives the same chain.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("open");
        }
        for (n, spec) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "+" })?;
            if let Some(kind) = Kind::of(spec) {
                write!(f, "{kind}")?;
                continue;
            }
            f.write_str("linux")?;
            // What `map` and `filter` imply for UDP counts as the starting point.
            let mut base = NatSpec::LINUX;
            base.udp = (spec.mapping, spec.filtering);
            for ((field, value), (_, usual)) in fields(spec).into_iter().zip(fields(&base)) {
                if value != usual {
                    write!(f, ",{field}={value}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_read_back_from_its_print() {
        for preset in PRESETS.iter().chain(LAB) {
            let chain = Chain(preset.chain.to_vec());
            assert_eq!(chain.to_string().parse(), Ok(chain), "{}", preset.name);
            assert_eq!(preset.name.parse(), Ok(Chain(preset.chain.to_vec())));
        }
    }

    #[test]
    fn fields_policies_and_chains_are_read() {
        let chain: Chain = "pr/rst+symseq,alloc=seq-2,background=500".parse().unwrap();
        assert_eq!(chain.0.len(), 2);
        assert_eq!(chain.0[0], NatSpec { unsolicited: Unsolicited::Rst, ..NatSpec::LINUX });
        assert_eq!(chain.0[1].alloc, Alloc::Sequential { step: -2, scope: Scope::Global });
        assert_eq!(chain.0[1].background, 500);
        let chain: Chain = "linux,alloc=seq+1+fc".parse().unwrap();
        assert_eq!((chain.0.len(), chain.0[1].mapping), (2, Dependence::Endpoint));
        assert_eq!("none".parse(), Ok(Chain::default()));
        let chain: Chain = "fc+pr/rst".parse().unwrap();
        assert_eq!(chain.to_string(), "linux,map=ei,filter=ei+linux,unsolicited=rst");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| text.parse::<Chain>().unwrap_err();
        assert_eq!(error("nosuch"), SpecError::Name("nosuch".into()));
        assert_eq!(error("linux/maybe"), SpecError::Value("maybe".into()));
        assert_eq!(error("linux,colour=red"), SpecError::Field("colour".into()));
        assert_eq!(error("linux,map=xx"), SpecError::Value("xx".into()));
        assert_eq!(error("linux,range=9-3"), SpecError::Value("9-3".into()));
        assert_eq!(error("linux,alloc=seq"), SpecError::Value("seq".into()));
        assert_eq!(error("linux,background=1000001"), SpecError::Value("1000001".into()));
        // Times that no clock here can hold.
        let times = "1/1/1/1/1/1/1/1/4294967296";
        assert_eq!(error(&format!("linux,timers={times}")), SpecError::Value("4294967296".into()));
        assert_eq!(error("none,map=ei"), SpecError::Field("map=ei".into()));
    }
}
