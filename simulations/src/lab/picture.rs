//! Choice of what a lab's picture has: columns, their labels, and its beginning.

use super::{Lab, Peer};
use crate::world::Trace;

pub(super) fn svg(lab: &Lab) -> String {
    let drawn = lab.sides.iter().any(Option::is_some);
    let title = if drawn { lab.scene().to_string() } else { format!("seed {}", lab.scene().seed) };
    let columns = columns(lab);
    let columns: Vec<(&str, &str)> = columns.iter().map(|(place, label)| (&place[..], &label[..])).collect();
    let draw = |trace: &Trace| trace.svg(&title, &columns, lab.opened.unwrap_or(0));
    lab.world.trace().map(draw).unwrap_or_default()
}

/// Returns places and labels: of each node, its host and its NATs from the host outward; and the TURN server. Nodes in even places have
/// their NATs on the right, the others on the left.
fn columns(lab: &Lab) -> Vec<(String, String)> {
    let mut groups: Vec<Vec<(String, String)>> = Vec::new();
    let mut seen = Vec::new();
    for (n, standing) in lab.peers.iter().enumerate() {
        let home = &lab.homes[standing.home];
        let mut group = vec![(standing.host.place(), lab.name(Peer(n)))];
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
    groups.insert(groups.len().min(1), vec![(lab.turn.place(), "TURN".into())]);
    groups.concat()
}
