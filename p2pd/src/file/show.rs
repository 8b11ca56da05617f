//! Display of a transfer: a bar for all and one for a large file at a terminal, lines elsewhere, events for programs.

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use p2pd_core::NodeId;
use serde_json::{Value, json};

use super::consent::{counted, listed};
use super::wire::Listing;
use super::{Ended, Event};
use crate::say::Say;

/// Time between two progress events for programs.
const EVERY: Duration = Duration::from_secs(1);
/// Bytes of a file that has a bar and lines of its own among others of a folder.
const LARGE: u64 = 16 << 20;

/// The files of one transfer.
#[derive(Debug)]
pub(crate) struct Shown {
    say: Say,
    direction: &'static str,
    peer: NodeId,
    /// Bar of all, where there are folders, and of the file under way.
    bars: [Option<ProgressBar>; 2],
    list: Listing,
    began: Instant,
    /// Begin of the file under way.
    file: Instant,
    told: Instant,
    /// Position in the file under way, and bytes and files that are done or there already.
    at: u64,
    bytes: u64,
    files: u64,
    /// Bytes that were there before.
    before: u64,
}

impl Shown {
    pub(super) fn new(say: Say, direction: &'static str, peer: NodeId) -> Self {
        let now = Instant::now();
        Shown {
            say,
            direction,
            peer,
            bars: [None, None],
            list: Listing::default(),
            began: now,
            file: now,
            told: now,
            at: 0,
            bytes: 0,
            files: 0,
            before: 0,
        }
    }

    pub(super) fn tell(&mut self, event: &Event<'_>) {
        match *event {
            Event::Compares => {}
            Event::Listed(list) => self.listed(list),
            Event::Begins { name, size, from } => self.begins(name, size, from),
            Event::Moved { name, bytes } => self.moved(name, bytes),
            Event::Kept { name, kept, was_there } => {
                let more = json!({"kept": kept.map_or(name, |kept| kept.as_str())});
                match kept {
                    _ if was_there => self.line("same", name, more, || {
                        let other = kept.map_or(String::new(), |kept| format!(", as {kept}"));
                        format!("{name}: is there already{other}")
                    }),
                    Some(kept) => self.line("kept", name, more, || format!("kept: {name} as {kept}")),
                    None => self.say.json_line(|| self.event("kept", name, more)),
                }
            }
            Event::Linked => self.files += 1,
            Event::Ended { name, ref how } => {
                if let Some(bar) = self.bars[1].take() {
                    bar.finish_and_clear();
                }
                self.ended(name, how);
            }
        }
    }

    /// Returns true where each file has lines of its own.
    fn is_flat(&self) -> bool {
        self.list.folders == 0
    }

    fn listed(&mut self, list: &Listing) {
        (self.list, self.began) = (list.clone(), Instant::now());
        self.say.json_line(|| {
            let mut event = listed(list);
            event["event"] = "files".into();
            event["state"] = "listed".into();
            event["direction"] = self.direction.into();
            event["peer"] = self.peer.to_string().into();
            event
        });
        if self.is_flat() {
            return;
        }
        self.bars[0] = self.say.bar(list.bytes.unwrap_or_default(), style);
        if self.bars[0].is_none() && !self.say.is_json() {
            let text = format!("{}: {}", self.doing(), counted(list));
            self.say.line(|| json!({}), || text);
        }
    }

    fn begins(&mut self, name: &str, size: Option<u64>, from: u64) {
        (self.file, self.at) = (Instant::now(), from);
        (self.bytes, self.before) = (self.bytes + from, self.before + from);
        if !self.is_flat() && size.is_none_or(|size| size < LARGE) {
            return;
        }
        self.told = Instant::now();
        self.bars[1] = self.say.bar(size.unwrap_or_default(), style);
        if let Some(bar) = &self.bars[1] {
            bar.set_message(name.to_owned());
            bar.set_position(from);
            bar.reset_eta();
        } else {
            let how = if from > 0 { format!(", from byte {from}") } else { String::new() };
            let length = size.map_or("of unknown size".into(), |size| HumanBytes(size).to_string());
            self.line("begun", name, json!({"size": size, "from": from}), || {
                format!("{}: {name}, {length}{how}", self.doing())
            });
        }
    }

    fn moved(&mut self, name: &str, bytes: u64) {
        self.bytes += bytes.saturating_sub(self.at);
        self.at = bytes;
        if let Some(bar) = &self.bars[1] {
            bar.set_position(bytes);
        }
        self.all();
        if self.bars[1].is_none() && self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            self.say.json_line(|| self.event("moving", name, json!({"bytes": bytes})));
            if !self.is_flat() {
                let (files, bytes) = (self.files, self.bytes);
                self.say.json_line(|| {
                    json!({
                        "event": "files", "state": "moving", "files": files, "bytes": bytes,
                        "direction": self.direction, "peer": self.peer.to_string(),
                    })
                });
            }
        }
    }

    /// Moves the bar of all.
    fn all(&self) {
        if let Some(bar) = &self.bars[0] {
            bar.set_position(self.bytes);
            bar.set_message(format!("{} of {} files", HumanCount(self.files), HumanCount(self.list.files)));
        }
    }

    /// Says how much went over, at the end of all.
    pub(super) fn finish(&mut self) {
        self.clear();
        if self.is_flat() {
            return;
        }
        let took = self.began.elapsed().as_secs_f64();
        let moved = self.bytes - self.before;
        let (files, bytes, before) = (self.files, self.bytes, self.before);
        self.say.line(
            || {
                json!({
                    "event": "files", "state": "done", "files": files, "bytes": bytes, "before": before,
                    "seconds": took, "direction": self.direction, "peer": self.peer.to_string(),
                })
            },
            || {
                let rate = HumanBytes((moved as f64 / took.max(1e-9)) as u64);
                let there = match before {
                    0 => String::new(),
                    n => format!(" ({} were there)", HumanBytes(n)),
                };
                format!(
                    "{}: {} files, {}{there}, {took:.1} s, {rate}/s",
                    self.done(),
                    HumanCount(files),
                    HumanBytes(bytes)
                )
            },
        );
    }

    /// Takes the bars away.
    pub(super) fn clear(&mut self) {
        for bar in self.bars.iter_mut().filter_map(Option::take) {
            bar.finish_and_clear();
        }
    }

    fn ended(&mut self, name: &str, how: &Ended<'_>) {
        match how {
            Ended::Moved { bytes, from, digest, kept } => {
                self.files += 1;
                self.all();
                if !self.is_flat() && *bytes < LARGE && !self.say.is_json() {
                    return;
                }
                let took = self.file.elapsed().as_secs_f64();
                let hash = HEXLOWER.encode(digest);
                let kept = kept.as_ref().map(super::name::FileName::as_str);
                let more = json!({
                    "size": bytes, "from": from, "blake3": hash, "seconds": took, "kept": kept.unwrap_or(name),
                });
                self.line("done", name, more, || {
                    let rate = HumanBytes((bytes.saturating_sub(*from) as f64 / took.max(1e-9)) as u64);
                    format!(
                        "{}: {name}{}, {}, {took:.1} s, {rate}/s, blake3 {hash}",
                        self.done(),
                        kept.map_or(String::new(), |kept| format!(" as {kept}")),
                        HumanBytes(*bytes)
                    )
                });
            }
            Ended::Same(bytes) => {
                self.files += 1;
                (self.bytes, self.before) = (self.bytes + bytes, self.before + bytes);
                self.all();
                if self.is_flat() || self.say.is_json() {
                    self.line("same", name, json!({}), || format!("{name}: is there already"));
                }
            }
            Ended::Refused(why) => {
                let why = why.reason();
                let event = || self.event("refused", name, json!({"reason": why}));
                self.say.wrong(event, || format!("p2pd: {name}: {why}"));
            }
            Ended::Failed(why) => {
                let event = || self.event("failed", name, json!({"reason": why.to_string()}));
                self.say.wrong(event, || format!("p2pd: {name}: {why}"));
            }
        }
    }

    fn doing(&self) -> &'static str {
        if self.direction == "send" { "sending" } else { "receiving" }
    }

    fn done(&self) -> &'static str {
        if self.direction == "send" { "sent" } else { "received" }
    }

    fn line(&self, state: &str, name: &str, more: Value, text: impl FnOnce() -> String) {
        self.say.line(|| self.event(state, name, more), text);
    }

    fn event(&self, state: &str, name: &str, more: Value) -> Value {
        let mut event = json!({
            "event": "file", "state": state, "name": name, "direction": self.direction, "peer": self.peer.to_string(),
        });
        if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
            event.extend(more);
        }
        event
    }
}

fn style() -> ProgressStyle {
    let template =
        "{wide_msg} {bytes:>11} of {total_bytes:<11} {bar:20} {percent:>3} % {bytes_per_sec:>13} {eta:>4}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
