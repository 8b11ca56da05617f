//! A run as a picture: an SVG sequence chart (SVG 1.1). Hosts and NATs are columns, time runs down, packets are arrows.

use core::fmt::Write;

use crate::engine::{MICRO, Nanos};
use crate::net::{Body, Packet};

use super::trace::ms;

/// Most packets, drops and notes of a chart; the first ones are drawn.
pub(super) const MOST: usize = 2_000;
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

/// Texts of a packet.
#[derive(Debug)]
pub(super) struct Label {
    kind: &'static str,
    /// The part that fits beside an arrow.
    short: String,
    whole: String,
}

impl Label {
    pub(super) fn new(packet: &Packet) -> Label {
        let ends = format!("{} > {}", packet.src, packet.dst);
        let (kind, short) = match &packet.body {
            Body::Tcp(segment) => ("tcp", format!("{:?} {ends}", segment.flags)),
            Body::Udp(_) => ("udp", format!("udp {ends}")),
            Body::Icmp(what, _) => {
                ("icmp", format!("icmp {what:?} {} > {}", packet.src.ip(), packet.dst.ip()))
            }
        };
        Label { kind, short, whole: packet.to_string() }
    }
}

/// Something to draw.
#[derive(Debug)]
pub(super) enum Mark {
    /// A packet from one place to another. It came then, or was lost on the way.
    Hop { from: String, to: String, sent: Nanos, came: Option<Nanos>, packet: Label },
    /// A packet dropped at a place, and why.
    Drop { at: String, when: Nanos, what: String },
    /// A line of a program's.
    Note { at: String, when: Nanos, what: String },
}

impl Mark {
    fn when(&self) -> Nanos {
        match self {
            Mark::Hop { sent, .. } => *sent,
            Mark::Drop { when, .. } | Mark::Note { when, .. } => *when,
        }
    }
}

/// Returns the places of marks in an order in which neighbours are next to each other: on from the first one, hop by hop.
fn order(marks: &[Mark]) -> Vec<&str> {
    let hops = || {
        marks.iter().filter_map(|mark| match mark {
            Mark::Hop { from, to, .. } => Some((from.as_str(), to.as_str())),
            _ => None,
        })
    };
    let mut order: Vec<&str> = Vec::new();
    for mark in marks {
        let (Mark::Hop { from: at, .. } | Mark::Drop { at, .. } | Mark::Note { at, .. }) = mark;
        let mut next = vec![at.as_str()];
        while let Some(place) = next.pop() {
            if order.contains(&place) || order.len() > MOST_COLUMNS {
                continue;
            }
            order.push(place);
            let ends = hops().filter(|(from, to)| *from == place || *to == place);
            let others: Vec<&str> = ends.map(|(from, to)| if from == place { to } else { from }).collect();
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
fn safe(text: &str, most: usize) -> String {
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
    places: &'a [&'a str],
}

impl Chart<'_> {
    fn column(&self, place: &str) -> Option<usize> {
        self.places.iter().position(|p| *p == place).map(|n| LEFT + COLUMN / 2 + n * COLUMN)
    }

    fn put(&mut self, what: core::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.out.write_fmt(what);
    }

    fn text(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let text = safe(text, BETWEEN);
        self.put(format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"));
    }

    /// Draws a hop that begins at `y` and ends at `end`.
    fn hop(&mut self, [x, to]: [usize; 2], [y, end]: [usize; 2], lost: bool, packet: &Label) {
        let Label { kind, short, whole } = packet;
        let right = to >= x;
        self.put(format_args!("<g class=\"{kind}\"><title>{}</title>", safe(whole, MOST_LETTERS)));
        if lost {
            let middle = x.midpoint(to);
            self.put(format_args!("<path class=\"lost\" d=\"M{x} {y}H{middle}\"/>"));
            self.text(middle, y + 4, "x", "×");
        } else if to == x {
            self.put(format_args!("<path d=\"M{x} {y}h12V{end}h-12\"/>"));
        } else {
            let (head, back) = if right { (to - 1, "-7") } else { (to + 1, "7") };
            self.put(format_args!(
                "<path d=\"M{x} {y}L{to} {end}\"/><path class=\"head\" d=\"M{head} {end}l{back} -4v8z\"/>"
            ));
        }
        let (at, class) = if right { (x + 5, "r") } else { (x - 5, "l") };
        self.text(at, y - 3, class, short);
        self.out.push_str("</g>\n");
    }
}

/// Returns the marks as a chart, with these columns or, where there are none, with all places in an order of its own.
pub(super) fn svg(title: &str, places: &[&str], marks: &[Mark]) -> String {
    let all = order(marks);
    let mut places = if places.is_empty() { all } else { places.to_vec() };
    let more_places = places.len() > MOST_COLUMNS;
    places.truncate(MOST_COLUMNS);
    let mut chart = Chart { out: String::new(), places: &places };
    let shown: Vec<&Mark> = marks
        .iter()
        .filter(|mark| match mark {
            Mark::Hop { from, to, .. } => chart.column(from).and(chart.column(to)).is_some(),
            Mark::Drop { at, .. } | Mark::Note { at, .. } => chart.column(at).is_some(),
        })
        .collect();
    let more = shown.len().saturating_sub(MOST);
    let shown = &shown[..shown.len() - more];

    // Each mark begins in a row of its own. Times between rows are drawn by their length in microseconds, doubled and doubled.
    let mut points: Vec<(Nanos, usize, bool)> = Vec::new();
    for (n, mark) in shown.iter().enumerate() {
        points.push((mark.when(), n, false));
        if let Mark::Hop { sent, came: Some(came), .. } = mark
            && came > sent
        {
            points.push((*came, n, true));
        }
    }
    points.sort_by_key(|(when, n, end)| (*when, !*end, *n));
    let (mut rows, mut times) = (vec![[0; 2]; shown.len()], Vec::new());
    let (mut y, mut last) = (TOP, None);
    for (when, n, end) in points {
        if last != Some(when) {
            let gap = when - last.unwrap_or(when);
            y += (4 * ((gap / MICRO) + 1).ilog2() as usize).min(MOST_GAP);
            // A row of its own, so that the times do not cover each other.
            y = y.max(times.last().map_or(0, |(_, above)| above + ROW));
            times.push((when, y));
            last = Some(when);
        } else if !end {
            y += ROW;
        }
        // What takes no time ends where it begins.
        rows[n] = if end { [rows[n][0], y] } else { [y; 2] };
    }

    let (width, height) = (LEFT + places.len().max(1) * COLUMN, y + 50);
    chart.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <style>text{{font:10px monospace;fill:#222}}.title{{font:15px sans-serif}}.place,.x{{text-anchor:middle}}\
         .place{{font-size:13px}}.l,.time{{text-anchor:end}}.time{{fill:#777}}.note{{fill:#666;font-style:italic}}\
         path{{fill:none;stroke:#999}}.tcp path{{stroke:#2456a8}}.udp path{{stroke:#2a7d3f}}.icmp path{{stroke:#b36b00}}\
         .tcp .head{{fill:#2456a8}}.udp .head{{fill:#2a7d3f}}.icmp .head{{fill:#b36b00}}.lost{{stroke-dasharray:4 3}}\
         .x,.drop text{{fill:#b3261e}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    ));
    let heading = safe(title, MOST_LETTERS);
    chart.put(format_args!("<text class=\"title\" x=\"10\" y=\"22\">{heading}</text>\n"));
    for place in &places {
        let x = chart.column(place).unwrap_or(LEFT);
        chart.text(x, TOP - 24, "place", place);
        chart.put(format_args!("<path d=\"M{x} {}V{}\"/>\n", TOP - 16, height - 35));
    }
    for (when, y) in times {
        chart.text(LEFT - 10, y + 3, "time", &format!("{} ms", ms(when)));
        chart.out.push('\n');
    }
    for (mark, [begin, end]) in shown.iter().zip(rows) {
        match mark {
            Mark::Hop { from, to, came, packet, .. } => {
                let (Some(x), Some(to)) = (chart.column(from), chart.column(to)) else { continue };
                chart.hop([x, to], [begin, end], came.is_none(), packet);
            }
            Mark::Drop { at, what, .. } => {
                let Some(x) = chart.column(at) else { continue };
                chart.put(format_args!("<g class=\"drop\"><title>{}</title>", safe(what, MOST_LETTERS)));
                chart.text(x, begin, "x", "×");
                chart.text(x + 8, begin, "why", what);
                chart.out.push_str("</g>\n");
            }
            Mark::Note { at, what, .. } => {
                let Some(x) = chart.column(at) else { continue };
                chart.put(format_args!("<g><title>{}</title>", safe(what, MOST_LETTERS)));
                chart.text(x + 8, begin, "note", what);
                chart.out.push_str("</g>\n");
            }
        }
    }
    let mut left = Vec::new();
    if more > 0 {
        left.push(format!("{more} packets, drops and notes more"));
    }
    if more_places {
        left.push("places more".into());
    }
    if !left.is_empty() {
        chart.put(format_args!(
            "<text x=\"10\" y=\"{}\">Not drawn: {}</text>\n",
            height - 12,
            left.join(", ")
        ));
    }
    chart.out.push_str("</svg>\n");
    chart.out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MILLI;

    fn hop(from: &str, to: &str, sent: Nanos, came: Option<Nanos>) -> Mark {
        let ends = [([192, 0, 2, 1], 7), ([192, 0, 2, 2], 9)].map(Into::into);
        let packet = Packet { src: ends[0], dst: ends[1], ttl: 64, body: Body::Udp((&b"ping"[..]).into()) };
        Mark::Hop { from: from.into(), to: to.into(), sent, came, packet: Label::new(&packet) }
    }

    #[test]
    fn neighbours_stand_next_to_each_other() {
        let marks = [
            hop("host0", "nat0", 0, Some(1)),
            hop("host1", "nat1", 0, Some(1)),
            hop("nat0", "nat1", 1, Some(2)),
            hop("nat1", "host1", 2, Some(3)),
            hop("host2", "host3", 2, Some(3)),
        ];
        assert_eq!(order(&marks), ["host0", "nat0", "nat1", "host1", "host2", "host3"]);
    }

    #[test]
    fn arrows_drops_losses_and_notes_are_where_they_belong() {
        let marks = [
            hop("host0", "nat0", 0, Some(0)),
            hop("nat0", "host1", 0, Some(20 * MILLI)),
            Mark::Drop { at: "nat0".into(), when: 30 * MILLI, what: "unsolicited: S <b>".into() },
            hop("host1", "nat0", 31 * MILLI, None),
            Mark::Note { at: "host1".into(), when: 40 * MILLI, what: "a & b\u{1}".into() },
        ];
        let picture = svg("One & two", &[], &marks);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        for part in [
            "One &amp; two",
            // The first row; the second begins at the same time, and takes longer.
            "<path d=\"M270 70L570 70\"/>",
            "<path d=\"M570 85L870 141\"/>",
            "<text class=\"time\" x=\"110\" y=\"144\">20.000 ms</text>",
            "<g class=\"drop\"><title>unsolicited: S &lt;b&gt;</title>",
            "<path class=\"lost\" d=\"M870 ",
            "a &amp; b\u{fffd}",
        ] {
            assert!(picture.contains(part), "no {part} in {picture}");
        }
        assert_eq!(picture.matches("class=\"head\"").count(), 2);
        let one = svg("", &["nat0", "host1"], &marks);
        assert_eq!((one.matches("class=\"place\"").count(), one.matches("class=\"head\"").count()), (2, 1));
    }

    #[test]
    fn a_chart_has_a_bound() {
        let what = "&".repeat(5_000);
        let note = |n: u64| Mark::Note { at: format!("host{}", n % 100), when: n, what: what.clone() };
        let marks: Vec<Mark> = (0..20_000).map(note).collect();
        let picture = svg(&what, &[], &marks);
        assert!(picture.len() < 3_000_000, "{}", picture.len());
        assert!(
            picture.contains("Not drawn: 6000 packets, drops and notes more, places more"),
            "{}",
            &picture[picture.len() - 300..]
        );
        assert!(svg("", &[], &[]).ends_with("</svg>\n"));
    }
}
