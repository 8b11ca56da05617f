//! A trace of a run, for a person to read.

use core::fmt::Write;
use std::collections::BTreeSet;

use super::chart::{self, Label, Mark};
use super::pcap;
use crate::engine::{MILLI, Nanos};
use crate::net::Packet;

/// Lines of a run, one for each event: time, place, description. And its packets, as they were seen at each place.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Vec<(Nanos, String, String)>,
    places: Vec<String>,
    /// Time, number of the place, and bytes from the IP header on.
    packets: Vec<(Nanos, usize, Vec<u8>)>,
    hops: Vec<Hop>,
    notes: Vec<Note>,
    drops: Vec<Note>,
    /// What a chart has.
    marks: Vec<Mark>,
}

/// Line that [`World::note`](super::World::note) wrote, or a dropped packet.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Note {
    /// Time of the note.
    pub at: Nanos,
    /// Place of the note.
    pub place: String,
    /// Text of the note; of a dropped packet the reason, a colon and the packet.
    pub what: String,
    /// Number of hops that had begun before it.
    pub after: usize,
}

/// Way of a packet from one host or NAT to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Hop {
    /// Time at which the packet left.
    pub sent: Nanos,
    /// Time of its arrival; `None` if the link lost it.
    pub arrives: Option<Nanos>,
    /// Place that it left.
    pub from: String,
    /// Place that it goes to.
    pub to: String,
    /// Text of the packet, as in the lines.
    pub packet: String,
}

/// Milliseconds with three places.
pub(super) fn ms(at: Nanos) -> String {
    format!("{}.{:03}", at / MILLI, at % MILLI / 1_000)
}

impl Trace {
    /// Returns the trace as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (at, place, what) in &self.lines {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{:>11} {place:<6} {what}", ms(*at));
        }
        text
    }

    /// Returns the trace as one HTML page without anything from elsewhere. Time runs down, and each host and NAT has a
    /// column, in the order of `places` or, where that is empty, of their names.
    pub fn html(&self, title: &str, places: &[&str]) -> String {
        let all: BTreeSet<&str> = self.lines.iter().map(|(_, p, _)| p.as_str()).collect();
        let places: Vec<&str> = if places.is_empty() { all.into_iter().collect() } else { places.to_vec() };
        let safe = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
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
        for (at, place, what) in &self.lines {
            let Some(column) = places.iter().position(|p| p == place) else { continue };
            let class = match what.split_whitespace().next() {
                Some("x") => "drop",
                Some(">") => "out",
                _ => "in",
            };
            let _ = write!(page, "\n<tr><td>{}", ms(*at));
            for n in 0..places.len() {
                match n == column {
                    true => {
                        let _ = write!(page, "<td class={class}>{}", safe(what));
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
        let packets = self.packets.iter().map(|(at, place, bytes)| (*at, *place, &bytes[..]));
        pcap::file(&self.places, packets)
    }

    /// Returns the ways of all packets between hosts and NATs, in the order in which they left; a copy has its own.
    pub fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// Returns the notes, in order.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Returns the dropped packets, in order. One that a link lost has the place `link`.
    pub fn drops(&self) -> &[Note] {
        &self.drops
    }

    pub(super) fn way(&mut self, now: Nanos, [from, to]: [String; 2], packet: &Packet, delays: &[Nanos]) {
        let hop = Hop { sent: now, arrives: None, from, to, packet: packet.to_string() };
        if delays.is_empty() {
            self.hops.push(hop.clone());
        }
        let copies = delays.iter().map(|delay| Hop { arrives: Some(now + delay), ..hop.clone() });
        self.hops.extend(copies);
    }

    /// Returns the trace as an SVG sequence chart without anything from elsewhere. Time runs down. Each host and NAT has a
    /// column, in the order of `places` or, where that is empty, next to its neighbours. Packets are arrows, in their whole length
    /// where the pointer is; lost and dropped ones have a cross.
    ///
    /// Distances in time grow with its logarithm. The chart has the first 2,000 packets, drops and notes and 40 columns, which is at
    /// most 3 MB, and says what it leaves out.
    pub fn svg(&self, title: &str, places: &[&str]) -> String {
        chart::svg(title, places, &self.marks)
    }

    /// A packet leaves a place for another. It comes then, or is lost on the way.
    pub(super) fn hop(&mut self, sent: Nanos, ends: [String; 2], came: Option<Nanos>, packet: &Packet) {
        let [from, to] = ends;
        self.marks.push(Mark::Hop { from, to, sent, came, packet: Label::new(packet) });
    }

    pub(super) fn packet(&mut self, now: Nanos, at: &str, way: &str, packet: &Packet) {
        self.line(now, at, &format!("{way} {packet}"));
        // A NAT's side is the first word.
        let place = match way.split_once(' ') {
            Some((side, _)) => format!("{at}-{side}"),
            None => at.into(),
        };
        let place = self.places.iter().position(|p| *p == place).unwrap_or_else(|| {
            self.places.push(place);
            self.places.len() - 1
        });
        self.packets.push((now, place, packet.to_bytes()));
    }

    pub(super) fn dropped(&mut self, now: Nanos, at: &str, packet: &Packet, why: &str) {
        self.line(now, at, &format!("x {packet}: {why}"));
        let what = format!("{why}: {packet}");
        self.drops.push(Note { at: now, place: at.into(), what: what.clone(), after: self.hops.len() });
        self.marks.push(Mark::Drop { at: at.into(), when: now, what });
    }

    pub(super) fn note(&mut self, now: Nanos, at: &str, line: &str) {
        self.line(now, at, line);
        self.notes.push(Note { at: now, place: at.into(), what: line.into(), after: self.hops.len() });
        self.marks.push(Mark::Note { at: at.into(), when: now, what: line.into() });
    }

    fn line(&mut self, now: Nanos, at: &str, line: &str) {
        self.lines.push((now, at.into(), line.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Body;

    #[test]
    fn a_page_has_a_column_for_each_place_and_escapes_what_it_shows() {
        let mut trace = Trace::default();
        trace.line(1_500_000, "host0", "> a <b>");
        trace.line(2_000_000, "nat0", "x a: unsolicited");
        assert_eq!(trace.text(), "      1.500 host0  > a <b>\n      2.000 nat0   x a: unsolicited\n");
        let page = trace.html("A & B", &[]);
        assert!(page.contains("<h1>A &amp; B</h1>") && page.contains("<th>host0<th>nat0"));
        assert!(page.contains("<tr><td>1.500<td class=out>&gt; a &lt;b&gt;<td>"));
        assert!(page.contains("<tr><td>2.000<td><td class=drop>x a: unsolicited"));
    }

    #[test]
    fn each_copy_of_a_packet_has_its_way_and_a_lost_one_no_arrival() {
        let mut trace = Trace::default();
        let packet = Packet {
            src: ([192, 0, 2, 1], 7).into(),
            dst: ([192, 0, 2, 2], 9).into(),
            ttl: 64,
            body: Body::Udp((&b"ping"[..]).into()),
        };
        for delays in [&[3, 5][..], &[]] {
            trace.way(10, ["host0".into(), "nat0".into()], &packet, delays);
        }
        let ways: Vec<_> = trace.hops().iter().map(|hop| (hop.sent, hop.arrives)).collect();
        assert_eq!(ways, [(10, Some(13)), (10, Some(15)), (10, None)]);
        assert_eq!(trace.hops()[2].packet, "192.0.2.1:7 > 192.0.2.2:9 udp len 4");
        trace.line(11, "host0", "> a packet");
        trace.note(12, "host0", "a note");
        let note = Note { at: 12, place: "host0".into(), what: "a note".into(), after: 3 };
        assert_eq!((trace.notes(), trace.text().lines().count()), (&[note][..], 2));
        trace.dropped(13, "nat0", &packet, "unsolicited");
        let what = "unsolicited: 192.0.2.1:7 > 192.0.2.2:9 udp len 4".into();
        assert_eq!(trace.drops(), [Note { at: 13, place: "nat0".into(), what, after: 3 }]);
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
        trace.packet(1_500_000_000, "host0", ">", &packet(7));
        trace.packet(1_500_000_001, "nat0", "in  <", &packet(7));
        trace.packet(7_000_000_000, "host0", ">", &packet(8));
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
