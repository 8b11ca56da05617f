//! Firewalls' rules about a new TCP connection, read from what their own programs print: `nft -j list ruleset`, `ufw status
//! verbose`, `firewall-cmd --list-all`. Of rules that ask for more than a port nothing is believed: they neither let in nor drop.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::Value;

/// Longest way through chains that jump.
const DEEPEST: u32 = 16;

/// TCP ports, one or those that the system gives to listeners without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Ports {
    /// Both ends with a sign between them, or the one port.
    pub(crate) fn by(self, sign: char) -> String {
        let Ports { first, last } = self;
        if first == last { first.to_string() } else { format!("{first}{sign}{last}") }
    }

    fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "TCP port {}", self.first);
        }
        write!(f, "TCP ports {} to {}", self.first, self.last)
    }
}

/// Direction of a connection, as this machine sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    In,
    Out,
}

/// Chain that drops a new connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) chain: String,
}

impl Block {
    /// True if `iptables` keeps the table, and expects nobody else to change it.
    fn is_of_iptables(&self) -> bool {
        let chain = ["INPUT", "OUTPUT", "PREROUTING"].contains(&&*self.chain);
        chain && (self.family == "ip" || self.family == "ip6")
    }

    /// Command that lets the ports through, in front of all else in the chain.
    pub(crate) fn mend(&self, ports: Ports, way: Way) -> Vec<String> {
        let words = match (self.is_of_iptables(), way) {
            (true, _) => {
                let program = if self.family == "ip" { "iptables" } else { "ip6tables" };
                let ports =
                    if way == Way::In { format!(" --dport {}", ports.by(':')) } else { String::new() };
                format!("{program} -t {} -I {} -p tcp{ports} -j ACCEPT", self.table, self.chain)
            }
            (false, way) => {
                let what = match way {
                    Way::In => format!("tcp dport {}", ports.by('-')),
                    Way::Out => "meta l4proto { tcp, udp }".into(),
                };
                format!("nft insert rule {} {} {} {what} accept", self.family, self.table, self.chain)
            }
        };
        words.split(' ').map(str::to_owned).collect()
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nftables: chain {} of table {} {}", self.chain, self.family, self.table)
    }
}

/// Fate of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
    /// The chain has ended without a word.
    Open,
}

/// Rules of a family, as a packet of one port meets them.
struct Ruleset<'a> {
    all: &'a [Value],
    family: &'a str,
    port: u16,
}

/// Returns the first chain that drops new connections of this family (`ip`, `ip6`) to one end of the ports. Tables for which
/// `skips` is true, by family and name, are left to others.
///
/// # Errors
/// The text is not what `nft -j list ruleset` prints.
pub(crate) fn nft(
    text: &str,
    family: &str,
    ports: Ports,
    way: Way,
    skips: impl Fn(&str, &str) -> bool,
) -> Result<Option<Block>, String> {
    let said: Value = serde_json::from_str(text).map_err(|why| format!("nft: {why}"))?;
    let all = said["nftables"].as_array().ok_or("nft: no list of rules")?;
    let hooks: &[&str] = if way == Way::In { &["prerouting", "input"] } else { &["output"] };
    let mut chains: Vec<&Value> = all.iter().map(|of| &of["chain"]).collect();
    chains.retain(|chain| {
        let of = chain["family"].as_str().unwrap_or_default();
        let known = chain["type"] == "filter" && hooks.iter().any(|hook| chain["hook"] == *hook);
        known && [family, "inet"].contains(&of) && !skips(of, chain["table"].as_str().unwrap_or_default())
    });
    chains.sort_by_key(|chain| (chain["hook"] != "prerouting", chain["prio"].as_i64()));
    for port in [ports.first, ports.last] {
        let rules = Ruleset { all, family, port };
        let drops = |chain: &&&Value| match rules.walk(chain, DEEPEST) {
            Fate::Dropped => true,
            Fate::Open => chain["policy"] == "drop",
            Fate::Accepted => false,
        };
        if let Some(chain) = chains.iter().find(drops) {
            let text = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
            return Ok(Some(Block { family: text("family"), table: text("table"), chain: text("name") }));
        }
    }
    Ok(None)
}

impl Ruleset<'_> {
    /// Takes a packet through a chain, and those that it jumps to.
    fn walk(&self, chain: &Value, deepest: u32) -> Fate {
        let Some(deepest) = deepest.checked_sub(1) else { return Fate::Open };
        let rules = self.all.iter().map(|of| &of["rule"]).filter(|rule| {
            ["family", "table"].iter().all(|key| rule[key] == chain[key]) && rule["chain"] == chain["name"]
        });
        for rule in rules {
            for statement in rule["expr"].as_array().into_iter().flatten() {
                if let Some(at) = statement.get("match") {
                    if self.is_match(&at["left"], at["op"].as_str().unwrap_or_default(), &at["right"])
                        != Some(true)
                    {
                        break;
                    }
                } else if statement.get("xt").is_some() || statement["limit"]["inv"] == true {
                    // An extension of iptables, of which nft says nothing; a limit that a single packet keeps.
                    break;
                } else if let Some(map) = statement.get("vmap") {
                    let entries = map["data"]["set"].as_array().into_iter().flatten();
                    let verdict = entries.filter_map(|entry| {
                        let is = self.is_match(&map["key"], "==", &entry[0]) == Some(true);
                        is.then(|| self.verdict(&entry[1], chain, deepest)).flatten()
                    });
                    match { verdict }.next() {
                        Some(Fate::Open) | None => {}
                        Some(fate) => return fate,
                    }
                } else {
                    match self.verdict(statement, chain, deepest) {
                        Some(Fate::Open) if statement.get("jump").is_none() => return Fate::Open,
                        Some(Fate::Open) | None => {}
                        Some(fate) => return fate,
                    }
                }
            }
        }
        Fate::Open
    }

    /// Carries a statement out. `None`: it decides nothing. Open: the chain returns, or one that it jumps to has.
    fn verdict(&self, statement: &Value, chain: &Value, deepest: u32) -> Option<Fate> {
        let has = |name: &str| statement.get(name).is_some() || statement == name;
        if has("accept") {
            return Some(Fate::Accepted);
        }
        if has("drop") || has("reject") {
            return Some(Fate::Dropped);
        }
        if has("return") {
            return Some(Fate::Open);
        }
        let to = statement.get("jump").or(statement.get("goto"))?["target"].as_str()?;
        let target = self
            .all
            .iter()
            .map(|of| &of["chain"])
            .find(|of| ["family", "table"].iter().all(|key| of[key] == chain[key]) && of["name"] == to)?;
        Some(self.walk(target, deepest))
    }

    /// Compares a field of the packet. `None`: of that field nothing is known.
    fn is_match(&self, left: &Value, op: &str, right: &Value) -> Option<bool> {
        let meta = left["meta"]["key"].as_str();
        let (protocol, field) = (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str());
        let text = |is: &str| holds(right, &|value| Some(value == is));
        let found = match (meta, protocol, field) {
            // Which interface it is nobody knows, only that it is not the loopback.
            (Some("iif" | "iifname" | "oif" | "oifname"), ..) => (right == "lo").then_some(false),
            (Some("l4proto"), ..) => text("tcp"),
            (Some("nfproto"), ..) => text(if self.family == "ip" { "ipv4" } else { "ipv6" }),
            (_, Some("ip"), Some("protocol")) | (_, Some("ip6"), Some("nexthdr")) => text("tcp"),
            (_, Some("tcp" | "th"), Some("dport")) => {
                let number = Some(u64::from(self.port));
                return match op {
                    "<" => right.as_u64().map(|other| number < Some(other)),
                    ">" => right.as_u64().map(|other| number > Some(other)),
                    "<=" => right.as_u64().map(|other| number <= Some(other)),
                    ">=" => right.as_u64().map(|other| number >= Some(other)),
                    _ => holds(right, &|value| value.as_u64().map(|other| number == Some(other)))
                        .map(|is| is != (op == "!=")),
                };
            }
            (_, Some("udp" | "icmp" | "icmpv6" | "sctp" | "dccp" | "igmp"), _) => return Some(false),
            _ if left["ct"]["key"] == "state" => text("new"),
            _ => None,
        };
        found.map(|is| is != (op == "!="))
    }
}

/// Looks for a value in a set, list or range, or compares it. `None`: the set has a name, or something else is in it.
fn holds(right: &Value, is: &dyn Fn(&Value) -> Option<bool>) -> Option<bool> {
    if let Some(range) = right.get("range") {
        // A range is of numbers: the value is in it unless it lies before or behind.
        let ends = [range[0].as_u64()?, range[1].as_u64()?];
        return Some((ends[0]..=ends[1]).any(|n| is(&n.into()) == Some(true)));
    }
    if right.as_str().is_some_and(|name| name.starts_with('@')) {
        return None;
    }
    match right.get("set").unwrap_or(right).as_array() {
        Some(all) => all.iter().try_fold(false, |found, one| Some(found | holds(one, is)?)),
        None => is(right),
    }
}

/// Reads `ufw status verbose`. `None`: it is not active. True: new connections to the ports come in.
pub(crate) fn ufw(text: &str, ports: Ports) -> Option<bool> {
    if !text.lines().any(|line| line.trim() == "Status: active") {
        return None;
    }
    let rule = |line: &str| {
        let mut cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        let (to, action, from) = (cells.next()?, cells.next()?, cells.next()?);
        let covers = from == "Anywhere" && (to == "Anywhere" || covers(to, ports));
        let action = action.strip_suffix(" IN")?;
        covers.then_some(matches!(action, "ALLOW" | "LIMIT"))
    };
    // The first rule that fits decides.
    let by_default = text.lines().any(|line| line.starts_with("Default: allow (incoming)"));
    Some(text.lines().find_map(rule).unwrap_or(by_default))
}

/// Reads `firewall-cmd --list-all`. True: new connections to the ports come in.
pub(crate) fn firewalld(text: &str, ports: Ports) -> bool {
    let value = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or("").trim();
    value("target:") == "ACCEPT" || value("ports:").split_whitespace().any(|port| covers(port, ports))
}

/// True if a text such as `22`, `80,443/tcp`, `5000:5010/tcp` or `5000-5010/tcp` holds all the ports.
fn covers(text: &str, ports: Ports) -> bool {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let one = |part: &str| {
        let (first, last) = part.split_once([':', '-']).unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse()) else { return false };
        let range = ports.range();
        first <= *range.start() && *range.end() <= last
    };
    protocol == "tcp" && numbers.split(',').any(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints of the programs in a network namespace: nft 1.0.6, ufw 0.36.2, firewalld 1.3.3.
    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../tests/firewalls/", $name))
        };
    }

    fn port(port: u16) -> Ports {
        Ports { first: port, last: port }
    }

    fn blocked(text: &str, family: &str, ports: Ports, way: Way) -> Option<String> {
        nft(text, family, ports, way, |_, _| false).unwrap().map(|block| block.mend(ports, way).join(" "))
    }

    #[test]
    fn a_policy_drops_what_no_rule_lets_in() {
        let text = recorded!("nft-drop.json");
        for open in [22, 80, 443] {
            assert_eq!(blocked(text, "ip", port(open), Way::In), None);
        }
        let mend = Some("nft insert rule inet filter input tcp dport 5005 accept".to_owned());
        // UDP's ports are not TCP's.
        assert_eq!(blocked(text, "ip6", port(5005), Way::In), mend);
        let any = Ports { first: 32_768, last: 60_999 };
        let mend = Some("nft insert rule inet filter input tcp dport 32768-60999 accept".to_owned());
        assert_eq!(blocked(text, "ip", any, Way::In), mend);
        assert_eq!(blocked(text, "ip", any, Way::Out), None);
        assert_eq!(blocked(recorded!("nft-empty.json"), "ip", any, Way::In), None);
        assert!(blocked(recorded!("nft-reject.json"), "ip", port(81), Way::In).is_some());
        assert_eq!(blocked(recorded!("nft-reject.json"), "ip", port(80), Way::In), None);
    }

    #[test]
    fn jumps_maps_and_sets_are_followed() {
        let text = recorded!("nft-jumps.json");
        for (open, port) in
            [(true, 4000), (true, 5000), (true, 5010), (true, 6000), (false, 5011), (false, 443)]
                .map(|(open, number)| (open, port(number)))
        {
            assert_eq!(blocked(text, "ip", port, Way::In).is_none(), open, "{port}");
        }
        // One end of a range is enough to be in the way.
        assert!(blocked(text, "ip", Ports { first: 5000, last: 5011 }, Way::In).is_some());
        assert_eq!(blocked(text, "ip", port(80), Way::Out), None);
        let mend = Some("nft insert rule inet fw output meta l4proto { tcp, udp } accept".to_owned());
        assert_eq!(blocked(text, "ip", port(25), Way::Out), mend);
    }

    #[test]
    fn tables_of_iptables_are_mended_by_iptables() {
        let text = recorded!("nft-iptables.json");
        let mend = Some("iptables -t filter -I INPUT -p tcp --dport 4000:4010 -j ACCEPT".to_owned());
        assert_eq!(blocked(text, "ip", Ports { first: 4000, last: 4010 }, Way::In), mend);
        assert_eq!(blocked(text, "ip", port(22), Way::In), None);
        assert_eq!(blocked(text, "ip6", port(4000), Way::In), None);
        let skips = |family: &str, table: &str| (family, table) == ("ip", "filter");
        assert_eq!(nft(text, "ip", port(4000), Way::In, skips), Ok(None));
        assert!(nft("", "ip", port(4000), Way::In, skips).is_err());
        assert!(nft("{}", "ip", port(4000), Way::In, skips).is_err());
    }

    #[test]
    fn chains_that_jump_in_a_circle_end() {
        let text = r#"{"nftables": [
            {"chain": {"family": "ip", "table": "t", "name": "a", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "ip", "table": "t", "name": "b"}},
            {"rule": {"family": "ip", "table": "t", "chain": "a", "expr": [{"jump": {"target": "b"}}]}},
            {"rule": {"family": "ip", "table": "t", "chain": "b", "expr": [{"jump": {"target": "b"}}]}}]}"#;
        assert!(blocked(text, "ip", port(1), Way::In).is_some());
    }

    #[test]
    fn ufw_is_read() {
        let text = recorded!("ufw.txt");
        assert_eq!(ufw(recorded!("ufw-inactive.txt"), port(22)), None);
        for (number, open) in [(22, true), (5005, false), (4000, false), (4001, false), (9, false)] {
            assert_eq!(ufw(text, port(number)), Some(open), "{number}");
        }
        let text = recorded!("ufw-allow.txt");
        assert_eq!((ufw(text, port(9)), ufw(text, port(4001))), (Some(true), Some(false)));
    }

    #[test]
    fn firewalld_is_read() {
        let text = recorded!("firewalld.txt");
        for (number, open) in [(4000, true), (5010, true), (5011, false), (22, false)] {
            assert_eq!(firewalld(text, port(number)), open, "{number}");
        }
        assert!(!firewalld(text, Ports { first: 5000, last: 5011 }));
        assert!(firewalld(&text.replace("target: default", "target: ACCEPT"), port(9)));
    }
}
