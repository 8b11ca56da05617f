//! Display of a transfer: a bar at a terminal, lines elsewhere, events for programs.

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use p2pd_core::NodeId;
use serde_json::{Value, json};

use super::{Ended, Event};
use crate::say::Say;

/// Time between two progress events for programs.
const EVERY: Duration = Duration::from_secs(1);

/// The files of one pipe.
#[derive(Debug)]
pub(super) struct Shown {
    say: Say,
    direction: &'static str,
    peer: NodeId,
    bar: Option<ProgressBar>,
    began: Instant,
    told: Instant,
}

impl Shown {
    pub(super) fn new(say: Say, direction: &'static str, peer: NodeId) -> Self {
        let now = Instant::now();
        Shown { say, direction, peer, bar: None, began: now, told: now }
    }

    pub(super) fn tell(&mut self, event: &Event<'_>) {
        match *event {
            Event::Greeted | Event::Compares => {}
            Event::Begins { name, size, from } => {
                (self.began, self.told) = (Instant::now(), Instant::now());
                self.bar = self.say.bar(size, style);
                if let Some(bar) = &self.bar {
                    bar.set_message(name.to_owned());
                    bar.set_position(from);
                    bar.reset_eta();
                } else {
                    let how = if from > 0 { format!(", from byte {from}") } else { String::new() };
                    self.line("begun", name, json!({"size": size, "from": from}), || {
                        format!("{}: {name}, {}{how}", self.doing(), HumanBytes(size))
                    });
                }
            }
            Event::Moved { name, bytes } => match &self.bar {
                Some(bar) => bar.set_position(bytes),
                None if self.told.elapsed() >= EVERY => {
                    self.told = Instant::now();
                    self.say.json_line(|| self.event("moving", name, json!({"bytes": bytes})));
                }
                None => {}
            },
            Event::Ended { name, ref how } => {
                self.clear();
                self.ended(name, how);
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn ended(&self, name: &str, how: &Ended<'_>) {
        match how {
            Ended::Moved { bytes, from, digest, kept } => {
                let took = self.began.elapsed().as_secs_f64();
                let hash = HEXLOWER.encode(digest);
                let kept = kept.as_ref().map(super::name::FileName::as_str);
                let more = json!({
                    "size": bytes, "from": from, "blake3": hash, "seconds": took, "kept": kept.unwrap_or(name),
                });
                self.line("done", name, more, || {
                    let rate = HumanBytes(((bytes - from) as f64 / took.max(1e-9)) as u64);
                    format!(
                        "{}: {name}{}, {}, {took:.1} s, {rate}/s, blake3 {hash}",
                        self.done(),
                        kept.map_or(String::new(), |kept| format!(" as {kept}")),
                        HumanBytes(*bytes)
                    )
                });
            }
            Ended::Same => self.line("same", name, json!({}), || format!("{name}: is there already")),
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
