//! A trace of a run, for a person to read.

use core::fmt::Write;
use std::collections::BTreeSet;

use super::{chart, pcap};
use crate::engine::{MILLI, Nanos};
use crate::net::Packet;

/// Everything that happened in a run: packets at each place and between places, drops and notes.
#[derive(Debug, Default)]
pub struct Trace {
    records: Vec<Record>,
}

/// Something that happened at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Record {
    /// Time, in nanoseconds.
    pub at: Nanos,
    /// Host or NAT, as [`HostId::place`](super::HostId::place) names it; `link` where a link lost a packet.
    pub place: String,
    /// The event.
    pub what: What,
}

/// Event at a place. A packet's content is shared with the packet on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum What {
    /// A packet is there.
    Seen {
        /// Direction: `>` as it leaves, `<` as it comes. Before that stands the side of a NAT.
        way: &'static str,
        /// The packet, as it is there.
        packet: Packet,
    },
    /// A packet leaves for the next place. A copy that the link makes has a hop of its own.
    Hop {
        /// The next place.
        to: String,
        /// Time of the arrival; `None` if the link loses the packet.
        arrives: Option<Nanos>,
        /// The packet, as it leaves.
        packet: Packet,
    },
    /// A packet ends there.
    Drop {
        /// The packet, as it came.
        packet: Packet,
        /// Reason, as in [`Counts::dropped`](super::Counts::dropped).
        why: &'static str,
    },
    /// A line that [`World::note`](super::World::note) wrote.
    Note(String),
}

impl Record {
    /// Returns the line of the record, if it has one.
    fn line(&self) -> Option<String> {
        match &self.what {
            What::Seen { way, packet } => Some(format!("{way} {packet}")),
            What::Hop { .. } => None,
            What::Drop { packet, why } => Some(format!("x {packet}: {why}")),
            What::Note(line) => Some(line.clone()),
        }
    }
}

/// Milliseconds with three places.
pub(super) fn ms(at: Nanos) -> String {
    format!("{}.{:03}", at / MILLI, at % MILLI / 1_000)
}

impl Trace {
    /// Returns all records, in the order in which they happened.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Returns the trace as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (at, place, what) in self.lines() {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{:>11} {place:<6} {what}", ms(at));
        }
        text
    }

    /// Returns the trace as one HTML page without anything from elsewhere. Time runs down, and each host and NAT has a
    /// column, in the order of `places` or, where that is empty, of their names.
    pub fn html(&self, title: &str, places: &[&str]) -> String {
        let all: BTreeSet<&str> = self.lines().map(|(_, p, _)| p).collect();
        let places: Vec<&str> = if places.is_empty() { all.into_iter().collect() } else { places.to_vec() };
        let safe = |text: &str| chart::safe(text, usize::MAX);
        let mut page = format!(
            "<!doctype html><meta charset=utf-8><title>{0}</title><style>body{{font:13px sans-serif}}\
             table{{border-collapse:collapse}}td,th{{border-left:1px solid #bbb;padding:1px 8px;font:12px monospace}}\
             th{{position:sticky;top:0;background:#eee}}.in{{background:#e6f4e6}}.out{{background:#e6eefa}}\
             .drop{{background:#fadddd}}</style><h1>{0}</h1><table><tr><th>ms",
            safe(title)
        );
        for place in &places {
            let _ = write!(page, "<th>{}", safe(place));
        }
        for (at, place, what) in self.lines() {
            let Some(column) = places.iter().position(|p| *p == place) else { continue };
            let class = match what.split_whitespace().next() {
                Some("x") => "drop",
                Some(">") => "out",
                _ => "in",
            };
            let _ = write!(page, "\n<tr><td>{}", ms(at));
            for n in 0..places.len() {
                match n == column {
                    true => {
                        let _ = write!(page, "<td class={class}>{}", safe(&what));
                    }
                    false => page.push_str("<td>"),
                }
            }
        }
        page.push_str("</table>\n");
        page
    }

    /// Returns the packets as a pcapng file, which Wireshark and tcpdump read. Each host and each side of a NAT is an interface.
    /// A host's have what it sent and what reached it; a NAT's what came in there. Time 0 is the beginning of 1970.
    pub fn pcapng(&self) -> Vec<u8> {
        let (mut places, mut packets) = (Vec::new(), Vec::new());
        for record in &self.records {
            let What::Seen { way, packet } = &record.what else { continue };
            let place = match way.split_once(' ') {
                Some((side, _)) => format!("{}-{side}", record.place),
                None => record.place.clone(),
            };
            let number = places.iter().position(|p| *p == place).unwrap_or_else(|| {
                places.push(place);
                places.len() - 1
            });
            packets.push((record.at, number, packet.to_bytes()));
        }
        pcap::file(&places, packets.iter().map(|(at, place, bytes)| (*at, *place, &bytes[..])))
    }

    /// Returns the trace as an SVG sequence chart without anything from elsewhere. Time runs down. Packets are arrows, in their
    /// whole length where the pointer is; lost and dropped ones have a cross.
    ///
    /// `columns` are the places to draw and their labels, in this order; those in which nothing happens are left out. Beside an
    /// arrow are the packet's numbers then. Where `columns` is empty, each host and NAT has a column next to its neighbours, and
    /// beside an arrow are the packet's addresses. What began before `from`, in nanoseconds, is left out.
    ///
    /// Distances in time grow with its logarithm. The chart has the first 2,000 packets, drops and notes and 40 columns, which is at
    /// most 3 MB, and says what it leaves out.
    pub fn svg(&self, title: &str, columns: &[(&str, &str)], from: Nanos) -> String {
        chart::svg(title, columns, from, &self.records)
    }

    /// Returns time, place and text of each line.
    fn lines(&self) -> impl Iterator<Item = (Nanos, &str, String)> {
        self.records.iter().filter_map(|record| Some((record.at, record.place.as_str(), record.line()?)))
    }

    pub(super) fn push(&mut self, at: Nanos, place: impl Into<String>, what: What) {
        self.records.push(Record { at, place: place.into(), what });
    }

    pub(super) fn seen(&mut self, at: Nanos, place: String, way: &'static str, packet: &Packet) {
        self.push(at, place, What::Seen { way, packet: packet.clone() });
    }

    /// Records that a packet leaves a place for another: a hop for each copy, or one without an arrival where there is none.
    pub(super) fn hop(&mut self, now: Nanos, ends: [String; 2], packet: &Packet, delays: &[Nanos]) {
        let arrivals = delays.iter().map(|delay| Some(now + delay));
        let lost = delays.is_empty().then_some(None);
        let [from, to] = ends;
        for arrives in arrivals.chain(lost) {
            self.push(now, &from[..], What::Hop { to: to.clone(), arrives, packet: packet.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Body;

    #[test]
    fn a_page_has_a_column_for_each_place_and_escapes_what_it_shows() {
        let mut trace = Trace::default();
        trace.push(1_500_000, "host0", What::Note("> a <b>".into()));
        trace.push(2_000_000, "nat0", What::Note("x a: unsolicited".into()));
        assert_eq!(trace.text(), "      1.500 host0  > a <b>\n      2.000 nat0   x a: unsolicited\n");
        let page = trace.html("A & B", &[]);
        assert!(page.contains("<h1>A &amp; B</h1>") && page.contains("<th>host0<th>nat0"));
        assert!(page.contains("<tr><td>1.500<td class=out>&gt; a &lt;b&gt;<td>"));
        assert!(page.contains("<tr><td>2.000<td><td class=drop>x a: unsolicited"));
    }

    #[test]
    fn each_copy_of_a_packet_has_its_hop_and_a_lost_one_no_arrival() {
        let mut trace = Trace::default();
        let packet = Packet {
            src: ([192, 0, 2, 1], 7).into(),
            dst: ([192, 0, 2, 2], 9).into(),
            ttl: 64,
            body: Body::Udp((&b"ping"[..]).into()),
        };
        for delays in [&[3, 5][..], &[]] {
            trace.hop(10, ["host0".into(), "nat0".into()], &packet, delays);
        }
        let arrival = |record: &Record| match record.what {
            What::Hop { arrives, .. } => arrives,
            _ => Some(0),
        };
        assert_eq!(trace.records().iter().map(arrival).collect::<Vec<_>>(), [Some(13), Some(15), None]);
        assert_eq!(trace.text(), "");
    }

    #[test]
    fn a_capture_has_an_interface_for_each_place_and_every_packet() {
        let mut trace = Trace::default();
        let packet = |port| Packet {
            src: ([192, 0, 2, 1], port).into(),
            dst: ([192, 0, 2, 2], 9).into(),
            ttl: 64,
            body: Body::Udp((&b"ping"[..]).into()),
        };
        trace.seen(1_500_000_000, "host0".into(), ">", &packet(7));
        trace.seen(1_500_000_001, "nat0".into(), "in  <", &packet(7));
        trace.seen(7_000_000_000, "host0".into(), ">", &packet(8));
        let file = trace.pcapng();
        // Kind and length of each block: the section, two interfaces, three packets.
        let (mut blocks, mut at) = (Vec::new(), 0);
        while at < file.len() {
            let word = |n: usize| u32::from_le_bytes(file[at + 4 * n..][..4].try_into().unwrap());
            let length = word(1) as usize;
            assert_eq!(file[at + length - 4..at + length], word(1).to_le_bytes());
            blocks.push((word(0), length));
            if word(0) == 6 {
                let time = u64::from(word(3)) << 32 | u64::from(word(4));
                assert!([1_500_000_000, 1_500_000_001, 7_000_000_000].contains(&time));
                assert_eq!((word(2) == 1, word(5)), (time == 1_500_000_001, 46));
            }
            at += length;
        }
        assert_eq!(blocks, [(0x0a0d_0d0a, 28), (1, 44), (1, 44), (6, 80), (6, 80), (6, 80)]);
    }
}
