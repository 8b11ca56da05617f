//! Links that strangers wrote: each is answered, by a run or by a complaint.

use netsim_page::run;
use p2pd_netsim::nat::PRESETS;
use serde_json::Value;

/// Numbers of which most fields take some, and then what no field takes.
const NUMBERS: [&str; 20] = [
    "0",
    "1",
    "2",
    "40",
    "100",
    "255",
    "1000",
    "10000",
    "32767",
    "65535",
    "65536",
    "4294967295",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "1e3",
    "0x1f",
    "",
    "٣",
    "abc",
];
const ALLOCS: [&str; 12] = [
    "offset+",
    "offset-",
    "dependent+",
    "dependent-",
    "seq+",
    "seq-",
    "seq-host+",
    "seq-host-",
    "block",
    "block-seq",
    "drift",
    "mixed",
];
/// Fields of a NAT that have a word, each with the words that it takes.
const WORDS: [(&str, &str); 19] = [
    ("translate", "yes no"),
    ("map", "ei ad apd"),
    ("filter", "ei ad apd"),
    ("udp-map", "ei ad apd"),
    ("alloc", "preserve preserve-next random parity sticky"),
    ("unique", "tuple port shared"),
    ("paired", "yes no"),
    ("unsolicited", "drop rst icmp-port icmp-host icmp-admin local delayed"),
    ("tracking", "conntrack contacts"),
    ("on-rst", "delete-unreplied delete keep"),
    ("sim-open", "yes no"),
    ("hairpin", "refused dropped external internal"),
    ("refresh-in", "yes no"),
    ("dmz", "yes no"),
    ("udp", "yes no"),
    ("narrow", "yes no"),
    ("refusal-takes-port", "yes no"),
    ("colour", "red"),
    ("", ""),
];

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % most as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<'a>(&mut self, these: &[&'a str]) -> &'a str {
        these[self.below(these.len())]
    }

    /// One of the first `usual` numbers, and seldom one that no field takes.
    fn number(&mut self, usual: usize) -> &'static str {
        let from = if self.one_in(200) { NUMBERS.len() } else { usual };
        NUMBERS[self.below(from)]
    }

    /// A field of a NAT and its value.
    fn field(&mut self) -> String {
        match self.below(8) {
            0 => format!("range={}-{}", self.number(10), self.number(10)),
            1 => {
                let times = [(); 9].map(|()| self.number(12));
                format!("timers={}", times.join("/"))
            }
            2 => {
                let name = self.of(&["sessions", "sessions-per-host", "background", "udp-rate"]);
                format!("{name}={}", self.number(12))
            }
            3 => format!("pool={}", self.number(6)),
            4 | 5 => format!("alloc={}{}", self.of(&ALLOCS), self.number(10)),
            _ => {
                // The last two are no fields.
                let known = WORDS.len() - if self.one_in(20) { 0 } else { 2 };
                let (name, words) = WORDS[self.below(known)];
                let words: Vec<&str> = words.split(' ').collect();
                format!("{name}={}", self.of(&words))
            }
        }
    }

    fn nat(&mut self) -> String {
        let mut nat = match self.below(12) {
            0 => self.of(&["fc", "pr/rst", "symrand", "symseq/local", "open", "none", "nosuch"]).to_owned(),
            _ => PRESETS[self.below(PRESETS.len())].name.to_owned(),
        };
        for _ in 0..self.below(4) {
            nat = format!("{nat},{}", self.field());
        }
        nat
    }

    fn query(&mut self) -> String {
        let mut fields = Vec::new();
        for name in ["seed", "a", "b", "late", "delay", "loss", "listen", "retry", "drop", "rst", "colour"] {
            let value = match name {
                "a" | "b" => {
                    let nats = if self.one_in(3) { 1 + self.below(4) } else { 1 };
                    (0..nats).map(|_| self.nat()).collect::<Vec<_>>().join("+")
                }
                _ if self.one_in(2) => continue,
                "colour" if !self.one_in(20) => continue,
                "drop" => self.of(&["a", "b", ""]).to_owned(),
                "rst" => self.of(&["a", "b", "ab", ""]).to_owned(),
                "seed" => self.number(13).to_owned(),
                "late" => self.number(8).to_owned(),
                "delay" => self.number(7).to_owned(),
                "loss" => self.number(5).to_owned(),
                _ => self.number(2).to_owned(),
            };
            fields.push(format!("{name}={value}"));
        }
        let mut query = fields.join("&").into_bytes();
        // Bytes that are nowhere meant.
        if self.one_in(8) {
            for _ in 0..=self.below(3) {
                let at = self.below(query.len());
                query[at] = b"%&=+,/\0\"\\\xff9a"[self.below(12)];
            }
        }
        String::from_utf8_lossy(&query).into_owned()
    }
}

/// `P2PD_LINKS` are so many, 1,000 by default.
#[test]
fn every_link_is_answered() {
    let mut chance = Chance(7);
    let (mut runs, mut complaints) = (0, 0);
    let links = std::env::var("P2PD_LINKS").map_or(1_000, |links| links.parse().unwrap());
    for _ in 0..links {
        let query = chance.query();
        let said = std::panic::catch_unwind(|| run(&query)).unwrap_or_else(|_| panic!("{query}"));
        assert!(said.len() < 2_000_000, "{query}: {}", said.len());
        let answer: Value =
            serde_json::from_str(&said).unwrap_or_else(|why| panic!("{query}: {why}: {said}"));
        match answer["error"].as_str() {
            Some(error) => {
                assert!(error.len() > 10 && error.len() < 5_000, "{query}: {error}");
                complaints += 1;
            }
            None => {
                assert!(answer["connected"].is_boolean(), "{query}: {said}");
                runs += 1;
            }
        }
    }
    println!("{runs} runs, {complaints} complaints");
    assert!(runs > links / 3 && complaints > links / 10, "{runs} runs, {complaints} complaints");
}
