//! A run as a picture: a line for each host and NAT, and an arrow for each packet between them.

use core::fmt::Write;
use std::collections::BTreeMap;

use super::Lab;
use crate::engine::{MILLI, Nanos};
use crate::world::{Hop, Trace};

/// Most packets and notes of a picture.
const MOST: usize = 200;
/// Distance of two lines, of two marks on one, and of the first line from the left.
const COLUMN: usize = 300;
const ROW: usize = 20;
const LEFT: usize = 130;
const TOP: usize = 60;

/// One of a picture's marks.
enum Mark<'a> {
    /// Number of the hop, and its two columns.
    Leaves(usize, [usize; 2]),
    /// Number of the hop.
    Arrives(usize),
    /// Column and text.
    Note(usize, &'a str),
}

/// Returns the number of the first packet after the first pipe was open, or 0.
fn first_hop(lab: &Lab, trace: &Trace) -> usize {
    let opened = lab.opened.and_then(|opened| trace.notes().iter().find(|note| note.at >= opened));
    opened.map_or(0, |note| note.after)
}

pub(super) fn svg(lab: &Lab) -> String {
    let Some(trace) = lab.world.trace() else { return String::new() };
    let (places, labels) = columns(lab, trace);
    let column = |place: &str| places.get(place).copied();
    let begins = first_hop(lab, trace);
    let hops = || trace.hops().iter().enumerate().skip(begins);
    // Marks of one time: what was under way arrives, and then one thing follows from the other. Inside a home no time goes by.
    let mut marks: Vec<((Nanos, bool, usize, u8), Mark<'_>)> = Vec::new();
    for (n, hop) in hops() {
        let (Some(from), Some(to)) = (column(&hop.from), column(&hop.to)) else { continue };
        marks.push(((hop.sent, true, n, 1), Mark::Leaves(n, [from, to])));
        marks.extend(hop.arrives.map(|at| ((at, at == hop.sent, n, 2), Mark::Arrives(n))));
    }
    let notes = trace.notes().iter().filter(|note| note.after >= begins);
    marks.extend(notes.filter_map(|note| {
        Some(((note.at, true, note.after, 0), Mark::Note(column(&note.place)?, &note.what)))
    }));
    marks.sort_by_key(|(order, _)| *order);
    let mut marks: Vec<(Nanos, Mark<'_>)> = marks.into_iter().map(|((at, ..), mark)| (at, mark)).collect();
    let left_out = marks.len().saturating_sub(MOST);
    marks.truncate(MOST);
    draw(lab, &labels, trace.hops(), &marks, left_out)
}

/// Returns the columns of the picture by their places, with labels: of each node, its host and its NATs from the host outward; then
/// the TURN server, if it relayed anything. Nodes in even places have their NATs on the right, the others on the left.
fn columns(lab: &Lab, trace: &Trace) -> (BTreeMap<String, usize>, Vec<String>) {
    let mut groups: Vec<Vec<(String, String)>> = Vec::new();
    let mut seen = Vec::new();
    for (n, standing) in lab.peers.iter().enumerate() {
        let home = &lab.homes[standing.home];
        let mut group = vec![(standing.host.place(), lab.name(super::Peer(n)))];
        for (depth, nat) in home.site.nats.iter().enumerate() {
            if !seen.contains(&nat.place()) {
                seen.push(nat.place());
                let name = if home.site.nats.len() > 1 {
                    format!("{} {}", home.text, depth + 1)
                } else {
                    home.text.clone()
                };
                group.push((nat.place(), name));
            }
        }
        if n % 2 == 1 {
            group.reverse();
        }
        groups.push(group);
    }
    let turn = lab.turn.place();
    let relays = |hop: &Hop| hop.from == turn || hop.to == turn;
    if trace.hops()[first_hop(lab, trace)..].iter().any(relays) {
        groups.insert(groups.len().min(1), vec![(turn, "TURN".into())]);
    }
    let (places, labels): (Vec<String>, Vec<String>) = groups.into_iter().flatten().unzip();
    (places.into_iter().zip(0..).collect(), labels)
}

fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn x(column: usize) -> usize {
    LEFT + COLUMN * column
}

fn y(row: usize) -> usize {
    TOP + ROW * row
}

fn draw(lab: &Lab, labels: &[String], hops: &[Hop], marks: &[(Nanos, Mark<'_>)], left_out: usize) -> String {
    let (width, height) = (x(labels.len().saturating_sub(1)) + LEFT + 120, y(marks.len() + 1));
    let drawn = lab.sides.iter().any(Option::is_some);
    let title = if drawn { lab.scene().to_string() } else { format!("seed {}", lab.scene().seed) };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n<title>{0}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\"/></marker></defs>\n<text x=\"8\" y=\"16\" font-size=\"12\">{0}</text>\n",
        safe(&title)
    );
    // Writing to a String does not fail.
    for (column, label) in labels.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{0}\" y=\"40\" text-anchor=\"middle\" font-weight=\"bold\">{1}</text>\
             <line x1=\"{0}\" y1=\"46\" x2=\"{0}\" y2=\"{height}\" stroke=\"#999\"/>",
            x(column),
            safe(label)
        );
    }
    let arrivals = marks.iter().enumerate().filter_map(|(row, (_, mark))| match mark {
        Mark::Arrives(n) => Some((*n, row)),
        Mark::Leaves(..) | Mark::Note(..) => None,
    });
    let arrivals: BTreeMap<usize, usize> = arrivals.collect();
    let mut last = None;
    for (row, (at, mark)) in marks.iter().enumerate() {
        let y0 = y(row);
        if last.replace(*at) != Some(*at) {
            let ms = format!("{}.{:03}", at / MILLI, at % MILLI / 1_000);
            let _ = writeln!(svg, "<text x=\"8\" y=\"{}\" fill=\"#666\">{ms}</text>", y0 + 4);
        }
        match mark {
            Mark::Note(column, what) => {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{0}\" cy=\"{y0}\" r=\"3\" fill=\"#06c\"/><text x=\"{1}\" y=\"{2}\" fill=\"#06c\">{3}</text>",
                    x(*column),
                    x(*column) + 7,
                    y0 + 4,
                    safe(what)
                );
            }
            Mark::Leaves(n, columns) => {
                // Where its arrival is left out, so is the rest of the way.
                let end = hops[*n].arrives.map(|_| arrivals.get(n).copied().unwrap_or(marks.len()));
                arrow(&mut svg, &hops[*n], columns.map(x), y0, end.map(y));
            }
            Mark::Arrives(_) => {}
        }
    }
    if left_out > 0 {
        let _ = writeln!(svg, "<text x=\"8\" y=\"{}\">and {left_out} more</text>", y(marks.len()) + 4);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws a packet's arrow: to where it arrives, or half the way and a cross where it is lost.
fn arrow(svg: &mut String, hop: &Hop, [from, to]: [usize; 2], y0: usize, end: Option<usize>) {
    let (x1, y1, tip, colour) = match end {
        Some(y1) => (to, y1, " marker-end=\"url(#tip)\"", "#000"),
        None => (usize::midpoint(from, to), y0 + ROW / 2, "", "#c00"),
    };
    let _ =
        writeln!(svg, "<line x1=\"{from}\" y1=\"{y0}\" x2=\"{x1}\" y2=\"{y1}\" stroke=\"{colour}\"{tip}/>");
    if end.is_none() {
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" fill=\"{colour}\">✕ lost</text>", x1 - 4, y1 + 4);
    }
    let (at, anchor) = if to > from { (from + 7, "start") } else { (from - 7, "end") };
    // The addresses are those of the columns.
    let what = hop.packet.splitn(4, ' ').nth(3).unwrap_or(&hop.packet);
    let _ = writeln!(
        svg,
        "<text x=\"{at}\" y=\"{}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>",
        y0 - 3,
        safe(what)
    );
}
