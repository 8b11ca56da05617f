//! A trace of a run, for a person to read.

use core::fmt::Write;
use std::collections::BTreeSet;

use crate::engine::{MILLI, Nanos};
use crate::net::Packet;

/// Lines of a run, one for each event: time, place, description.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Vec<(Nanos, String, String)>,
}

/// Milliseconds with three places.
fn ms(at: Nanos) -> String {
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

    pub(super) fn packet(&mut self, now: Nanos, at: &str, way: &str, packet: &Packet) {
        self.line(now, at, &format!("{way} {packet}"));
    }

    pub(super) fn dropped(&mut self, now: Nanos, at: &str, packet: &Packet, why: &str) {
        self.line(now, at, &format!("x {packet}: {why}"));
    }

    pub(super) fn line(&mut self, now: Nanos, at: &str, line: &str) {
        self.lines.push((now, at.into(), line.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
