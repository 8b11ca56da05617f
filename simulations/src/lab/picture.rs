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
    Leaves(&'a Hop),
    /// The number of the hop among those of the picture.
    Arrives(usize),
    Note(usize, &'a str),
}

pub(super) fn svg(lab: &Lab) -> String {
    let Some(trace) = lab.world.trace() else { return String::new() };
    let (places, labels) = columns(lab, trace);
    let column = |place: &str| places.get(place).copied();
    let from = lab.opened.unwrap_or(0);
    let mut hops: Vec<&Hop> = Vec::new();
    let mut marks: Vec<(Nanos, Mark<'_>)> = Vec::new();
    for hop in trace.hops().iter().filter(|hop| hop.sent >= from) {
        if column(&hop.from).is_none() || column(&hop.to).is_none() {
            continue;
        }
        marks.push((hop.sent, Mark::Leaves(hop)));
        marks.extend(hop.arrives.map(|at| (at, Mark::Arrives(hops.len()))));
        hops.push(hop);
    }
    let notes = trace.notes().filter(|(at, ..)| *at >= from);
    marks.extend(notes.filter_map(|(at, place, what)| Some((at, Mark::Note(column(place)?, what)))));
    // A note comes before the packets that it causes, and after those that cause it.
    marks.sort_by_key(|(at, mark)| {
        let order = match mark {
            Mark::Arrives(_) => 0,
            Mark::Note(..) => 1,
            Mark::Leaves(_) => 2,
        };
        (*at, order)
    });
    let left_out = marks.len().saturating_sub(MOST);
    marks.truncate(MOST);
    draw(lab, &labels, &hops, &marks, left_out, &places)
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
    let from = lab.opened.unwrap_or(0);
    let relays = |hop: &Hop| hop.sent >= from && (hop.from == turn || hop.to == turn);
    if trace.hops().iter().any(relays) {
        groups.insert(groups.len().min(1), vec![(turn, "TURN".into())]);
    }
    let (places, labels): (Vec<String>, Vec<String>) = groups.into_iter().flatten().unzip();
    (places.into_iter().zip(0..).collect(), labels)
}

fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn draw(
    lab: &Lab,
    labels: &[String],
    hops: &[&Hop],
    marks: &[(Nanos, Mark<'_>)],
    left_out: usize,
    places: &BTreeMap<String, usize>,
) -> String {
    let x = |column: usize| LEFT + COLUMN * column;
    let y = |row: usize| TOP + ROW * row;
    let (width, height) = (x(labels.len().saturating_sub(1)) + LEFT + 120, y(marks.len() + 1));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n<title>{0}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\"/></marker></defs>\n<text x=\"8\" y=\"16\" font-size=\"12\">{0}</text>\n",
        safe(&lab.scene().to_string())
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
            Mark::Leaves(hop) => leaves(&mut svg, hop, y0, hops, marks, (&x, &y, places)),
            Mark::Arrives(_) => {}
        }
    }
    if left_out > 0 {
        let _ = writeln!(svg, "<text x=\"8\" y=\"{}\">and {left_out} more</text>", y(marks.len()) + 4);
    }
    svg.push_str("</svg>\n");
    svg
}

type Layout<'a> = (&'a dyn Fn(usize) -> usize, &'a dyn Fn(usize) -> usize, &'a BTreeMap<String, usize>);

/// Draws a packet's arrow: to where it arrives, or half the way and a cross where it is lost.
fn leaves(
    svg: &mut String,
    hop: &Hop,
    y0: usize,
    hops: &[&Hop],
    marks: &[(Nanos, Mark<'_>)],
    (x, y, places): Layout<'_>,
) {
    let (from, to) = (x(places[&hop.from]), x(places[&hop.to]));
    let arrives = |mark: &Mark<'_>| matches!(mark, Mark::Arrives(n) if core::ptr::eq(hops[*n], hop));
    let row = marks.iter().position(|(_, mark)| arrives(mark));
    let (x1, y1, end) = match (hop.arrives, row) {
        (Some(_), Some(row)) => (to, y(row), " marker-end=\"url(#tip)\""),
        // The rest of it is left out.
        (Some(_), None) => (to, y(marks.len()), ""),
        (None, _) => ((from + to) / 2, y0 + ROW / 2, ""),
    };
    let colour = if hop.arrives.is_some() { "#000" } else { "#c00" };
    let _ =
        writeln!(svg, "<line x1=\"{from}\" y1=\"{y0}\" x2=\"{x1}\" y2=\"{y1}\" stroke=\"{colour}\"{end}/>");
    if hop.arrives.is_none() {
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
