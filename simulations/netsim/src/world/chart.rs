//! A run as a picture: an SVG sequence chart (SVG 1.1). Hosts and NATs are columns, time runs down, packets are arrows.

use core::fmt::Write;
use std::collections::BTreeSet;

use crate::engine::{MICRO, Nanos};
use crate::net::{Body, Packet};

use super::trace::{Record, What, ms};

/// Most packets, drops and notes of a chart; the first ones are drawn.
const MOST: usize = 2_000;
/// Most columns of a chart.
const MOST_COLUMNS: usize = 40;
/// Most letters of a text that a chart has in full, as a tooltip.
const MOST_LETTERS: usize = 200;
/// Letters that fit between two columns.
const BETWEEN: usize = 47;

/// Distances, in pixels.
const LEFT: usize = 120;
const COLUMN: usize = 300;
const TOP: usize = 70;
const ROW: usize = 15;
/// Most room for a time in which nothing begins or ends. Longer ones are drawn shorter.
const MOST_GAP: usize = 60;

/// Kinds of packets, and their colours.
const KINDS: [(&str, &str); 3] = [("tcp", "#2456a8"), ("udp", "#2a7d3f"), ("icmp", "#b36b00")];

fn kind(packet: &Packet) -> &'static str {
    let [tcp, udp, icmp] = KINDS.map(|(kind, _)| kind);
    match packet.body {
        Body::Tcp(_) => tcp,
        Body::Udp(_) => udp,
        Body::Icmp(..) => icmp,
    }
}

/// Returns the text of a packet in which its addresses matter most.
fn by_addresses(packet: &Packet) -> String {
    let ends = format!("{} > {}", packet.src, packet.dst);
    match &packet.body {
        Body::Tcp(segment) => format!("{:?} {ends}", segment.flags),
        Body::Udp(_) => format!("udp {ends}"),
        Body::Icmp(what, _) => format!("icmp {what:?} {} > {}", packet.src.ip(), packet.dst.ip()),
    }
}

/// Returns the text of a packet without its addresses: protocol, numbers and length.
fn by_numbers(packet: &Packet) -> String {
    let whole = packet.to_string();
    whole.splitn(4, ' ').nth(3).unwrap_or_default().into()
}

/// Returns the places at which a record is drawn, if it is: where a packet leaves and where it goes to, or one place twice.
fn ends(record: &Record) -> Option<[&str; 2]> {
    match &record.what {
        What::Hop { to, .. } => Some([&record.place, to]),
        // A packet that a link lost is a hop without an arrival.
        What::Drop { .. } if record.place == super::LINK => None,
        What::Drop { .. } | What::Note(_) => Some([&record.place; 2]),
        What::Seen { .. } => None,
    }
}

/// Returns the places of records in an order in which neighbours are next to each other: on from the first one, hop by hop.
fn order<'a>(records: &[&'a Record]) -> Vec<&'a str> {
    let ways: Vec<[&str; 2]> = records.iter().filter_map(|record| ends(record)).collect();
    let mut order: Vec<&str> = Vec::new();
    for [at, _] in &ways {
        let mut next = vec![*at];
        while let Some(place) = next.pop() {
            if order.contains(&place) || order.len() > MOST_COLUMNS {
                continue;
            }
            order.push(place);
            let of = ways.iter().filter(|ends| ends.contains(&place));
            let others: Vec<&str> = of.map(|[from, to]| if *from == place { *to } else { *from }).collect();
            // The nearest neighbour first, which is the last one put.
            for other in others.into_iter().rev().filter(|other| !order.contains(other)) {
                next.retain(|waiting| *waiting != other);
                next.push(other);
            }
        }
    }
    order
}

/// Returns a text as XML, of at most so many letters.
pub(super) fn safe(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (n, letter) in text.chars().enumerate() {
        if n == most {
            out.push('…');
            break;
        }
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // XML has none of them.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A chart in the making.
struct Chart<'a> {
    out: String,
    /// Places and their labels.
    columns: Vec<(&'a str, &'a str)>,
}

impl Chart<'_> {
    fn column(&self, place: &str) -> Option<usize> {
        self.columns.iter().position(|(p, _)| *p == place).map(|n| LEFT + n * COLUMN)
    }

    fn put(&mut self, what: core::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.out.write_fmt(what);
    }

    fn text(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let text = safe(text, BETWEEN);
        self.put(format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"));
    }

    /// Begins a mark whose whole text is a tooltip.
    fn begin(&mut self, class: &str, whole: &str) {
        self.put(format_args!("<g class=\"{class}\"><title>{}</title>", safe(whole, MOST_LETTERS)));
    }

    /// Draws a hop that begins at `y` and ends at `end`.
    fn hop(&mut self, [x, to]: [usize; 2], [y, end]: [usize; 2], lost: bool, text: &str) {
        if lost {
            let middle = x.midpoint(to);
            self.put(format_args!("<path class=\"lost\" d=\"M{x} {y}H{middle}\"/>"));
            self.text(middle, y + 3, "x", "× lost");
        } else if to == x {
            self.put(format_args!("<path d=\"M{x} {y}h12V{end}h-12\"/>"));
        } else {
            self.put(format_args!("<path class=\"way\" d=\"M{x} {y}L{to} {end}\"/>"));
        }
        let (at, class) = if to >= x { (x + 5, "r") } else { (x - 5, "l") };
        self.text(at, y - 3, class, text);
    }

    /// Draws what is before the marks, from the style to the columns.
    fn head(&mut self, title: &str, height: usize) {
        let width = LEFT + self.columns.len().max(1) * COLUMN;
        self.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             <style>text{{font:10px monospace;fill:#222}}.title{{font:15px sans-serif}}.place{{font:bold 12px monospace;text-anchor:middle}}\
             .l,.time{{text-anchor:end}}.time{{fill:#777}}.note *{{fill:#06c}}path{{fill:none;stroke:#999}}.lost{{stroke-dasharray:4 3}}"
        ));
        for (kind, colour) in KINDS {
            self.put(format_args!(
                ".{kind} path{{stroke:{colour}}}.{kind} .way{{marker-end:url(#{kind})}}.{kind} .head{{fill:{colour};stroke:none}}"
            ));
        }
        self.out.push_str(".x,.drop text{fill:#b3261e}</style>\n<defs>");
        for (kind, _) in KINDS {
            self.put(format_args!(
                "<marker id=\"{kind}\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
                 <g class=\"{kind}\"><path class=\"head\" d=\"M0 0L8 4L0 8z\"/></g></marker>"
            ));
        }
        self.out.push_str("</defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
        let heading = safe(title, MOST_LETTERS);
        self.put(format_args!("<text class=\"title\" x=\"10\" y=\"22\">{heading}</text>\n"));
        for (n, (_, label)) in self.columns.clone().into_iter().enumerate() {
            let x = LEFT + n * COLUMN;
            self.text(x, TOP - 24, "place", label);
            self.put(format_args!("<path d=\"M{x} {}V{}\"/>\n", TOP - 16, height - 35));
        }
    }
}

/// Rows of a chart.
struct Rows {
    /// Beginning and end of each record.
    of: Vec<[usize; 2]>,
    /// First row of each time.
    times: Vec<(Nanos, usize)>,
    last: usize,
}

/// Returns the rows of records: one for each beginning, and one for each end that comes later. At one time, what was under way
/// arrives, and then one thing follows from the other. Time between rows is drawn by its length in microseconds, doubled and doubled.
fn rows(records: &[&Record]) -> Rows {
    let mut points: Vec<(Nanos, bool, usize)> = Vec::new();
    for (n, record) in records.iter().enumerate() {
        points.push((record.at, true, n));
        if let What::Hop { arrives: Some(arrives), .. } = record.what
            && arrives > record.at
        {
            points.push((arrives, false, n));
        }
    }
    points.sort_unstable();
    let mut rows = Rows { of: vec![[0; 2]; records.len()], times: Vec::new(), last: TOP };
    for (at, begins, n) in points {
        match rows.times.last().map(|(last, _)| at - last) {
            None => rows.times.push((at, TOP)),
            Some(0) => rows.last += ROW,
            Some(gap) => {
                rows.last += (4 * (gap / MICRO + 1).ilog2() as usize).clamp(ROW, MOST_GAP);
                rows.times.push((at, rows.last));
            }
        }
        // What takes no time ends where it begins.
        rows.of[n] = if begins { [rows.last; 2] } else { [rows.of[n][0], rows.last] };
    }
    rows
}

/// Returns what happened from a time on as a chart: with these columns, places and their labels, or, where there are none, with
/// all places in an order of the chart's.
pub(super) fn svg(title: &str, columns: &[(&str, &str)], from: Nanos, records: &[Record]) -> String {
    let records: Vec<&Record> = records.iter().filter(|record| record.at >= from).collect();
    let text = if columns.is_empty() { by_addresses } else { by_numbers };
    let mut columns = match columns {
        [] => order(&records).into_iter().map(|place| (place, place)).collect(),
        _ => columns.to_vec(),
    };
    let drawn = |columns: &[(&str, &str)]| -> Vec<&Record> {
        let places: BTreeSet<&str> = columns.iter().map(|(place, _)| *place).collect();
        let among = |ends: [&str; 2]| ends.iter().all(|end| places.contains(end));
        records.iter().copied().filter(|record| ends(record).is_some_and(among)).collect()
    };
    let used: BTreeSet<&str> = drawn(&columns).into_iter().filter_map(ends).flatten().collect();
    columns.retain(|(place, _)| used.contains(place));
    let more_columns = columns.len() > MOST_COLUMNS;
    columns.truncate(MOST_COLUMNS);
    let mut shown = drawn(&columns);
    let more = shown.len().saturating_sub(MOST);
    shown.truncate(MOST);

    let Rows { of, times, last } = rows(&shown);
    let height = last + 50;
    let mut chart = Chart { out: String::new(), columns };
    chart.head(title, height);
    for (when, y) in times {
        chart.text(LEFT - 20, y + 3, "time", &format!("{} ms", ms(when)));
        chart.out.push('\n');
    }
    for (record, [y, end]) in shown.into_iter().zip(of) {
        let Some([Some(x), Some(to)]) = ends(record).map(|ends| ends.map(|end| chart.column(end))) else {
            continue;
        };
        match &record.what {
            What::Hop { arrives, packet, .. } => {
                chart.begin(kind(packet), &packet.to_string());
                chart.hop([x, to], [y, end], arrives.is_none(), &text(packet));
            }
            What::Drop { packet, why } => {
                let whole = format!("{why}: {packet}");
                chart.begin("drop", &whole);
                chart.text(x - 3, y, "x", "×");
                chart.text(x + 8, y, "why", &whole);
            }
            What::Note(what) => {
                chart.begin("note", what);
                chart.put(format_args!("<circle cx=\"{x}\" cy=\"{}\" r=\"3\"/>", y - 3));
                chart.text(x + 8, y, "what", what);
            }
            What::Seen { .. } => {}
        }
        chart.out.push_str("</g>\n");
    }
    let mut left = Vec::new();
    if more > 0 {
        left.push(format!("{more} packets, drops and notes more"));
    }
    if more_columns {
        left.push("places more".into());
    }
    if !left.is_empty() {
        let (y, left) = (height - 12, left.join(", "));
        chart.put(format_args!("<text x=\"10\" y=\"{y}\">Not drawn: {left}</text>\n"));
    }
    chart.out.push_str("</svg>\n");
    chart.out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MILLI;

    fn packet() -> Packet {
        let ends = [([192, 0, 2, 1], 7), ([192, 0, 2, 2], 9)].map(Into::into);
        Packet { src: ends[0], dst: ends[1], ttl: 64, body: Body::Udp((&b"ping"[..]).into()) }
    }

    fn record(at: Nanos, place: &str, what: What) -> Record {
        Record { at, place: place.into(), what }
    }

    fn hop(from: &str, to: &str, sent: Nanos, arrives: Option<Nanos>) -> Record {
        record(sent, from, What::Hop { to: to.into(), arrives, packet: packet() })
    }

    #[test]
    fn neighbours_stand_next_to_each_other() {
        let records = [
            hop("host0", "nat0", 0, Some(1)),
            hop("host1", "nat1", 0, Some(1)),
            hop("nat0", "nat1", 1, Some(2)),
            hop("nat1", "host1", 2, Some(3)),
            hop("host2", "host3", 2, Some(3)),
            // A lost packet has no column of its own.
            record(3, "link", What::Drop { packet: packet(), why: "link" }),
        ];
        let records: Vec<&Record> = records.iter().collect();
        assert_eq!(order(&records), ["host0", "nat0", "nat1", "host1", "host2", "host3"]);
    }

    #[test]
    fn arrows_drops_losses_and_notes_are_where_they_belong() {
        let records = [
            hop("host0", "nat0", 0, Some(0)),
            hop("nat0", "host1", 0, Some(20 * MILLI)),
            record(30 * MILLI, "nat0", What::Drop { packet: packet(), why: "<unsolicited>" }),
            hop("host1", "nat0", 31 * MILLI, None),
            record(40 * MILLI, "host1", What::Note("a & b\u{1}".into())),
        ];
        let picture = svg("One & two", &[], 0, &records);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        for part in [
            "One &amp; two",
            // The first row; the second begins at the same time, and takes longer.
            "d=\"M120 70L420 70\"/>",
            "d=\"M420 85L720 141\"/>",
            "udp 192.0.2.1:7 &gt; 192.0.2.2:9</text>",
            "<text class=\"time\" x=\"100\" y=\"144\">20.000 ms</text>",
            "<g class=\"drop\"><title>&lt;unsolicited&gt;: 192.0.2.1:7 ",
            "<path class=\"lost\" d=\"M720 ",
            "a &amp; b\u{fffd}",
        ] {
            assert!(picture.contains(part), "no {part} in {picture}");
        }
        let count =
            |picture: &str| ["place", "way"].map(|c| picture.matches(&format!("class=\"{c}\"")).count());
        assert_eq!(count(&picture), [3, 2]);
        // Columns in another order, one of them without anything. The texts leave out the addresses.
        let one = svg("", &[("host1", "b"), ("host7", "c"), ("nat0", "its <NAT>")], 0, &records);
        assert_eq!(count(&one), [2, 1]);
        assert!(one.contains("d=\"M420 70L120 126\"/>") && one.contains(">its &lt;NAT&gt;</text>"), "{one}");
        assert!(one.contains(">udp len 4</text>") && !one.contains(">c</text>"), "{one}");
        // What began before is left out.
        assert_eq!(count(&svg("", &[], 1, &records)), [2, 0]);
    }

    #[test]
    fn what_arrives_at_one_time_has_rows_of_its_own_before_what_follows() {
        let records = [
            hop("a", "b", 0, Some(9 * MILLI)),
            hop("a", "b", 1, Some(9 * MILLI)),
            hop("b", "a", 9 * MILLI, Some(9 * MILLI)),
        ];
        let Rows { of, times, last } = rows(&records.iter().collect::<Vec<_>>());
        let row = TOP + ROW + 52;
        assert_eq!(of, [[TOP, row], [TOP + ROW, row + ROW], [row + 2 * ROW; 2]]);
        assert_eq!((times.len(), last), (3, row + 2 * ROW));
    }

    #[test]
    fn a_chart_has_a_bound() {
        let what = "&".repeat(5_000);
        let note = |n: u64| record(n, &format!("host{}", n % 100), What::Note(what.clone()));
        let records: Vec<Record> = (0..20_000).map(note).collect();
        let picture = svg(&what, &[], 0, &records);
        assert!(picture.len() < 3_000_000, "{}", picture.len());
        assert!(
            picture.contains("Not drawn: 6000 packets, drops and notes more, places more"),
            "{}",
            &picture[picture.len() - 300..]
        );
        assert!(svg("", &[], 0, &[]).ends_with("</svg>\n"));
    }
}
