//! Questions to the user at the terminal, one after another. Keys cost nothing, so questions take turns by where who asks
//! comes from: of each place one waits for an answer, and the others of the place behind those of all others.

use std::net::IpAddr;
use std::time::Duration;

use p2pd_core::NodeId;
use serde_json::json;
use tokio::time::Instant;

use crate::say::Say;
use crate::talk::{MOST, Turns};

/// Time after a question has gone in which a line is no answer to the next one: it was typed for the one before.
const LATE: Duration = Duration::from_secs(3);

/// Questions that wait, and the one that the user sees.
#[derive(Debug)]
pub(crate) struct Questions<Q> {
    waiting: Turns<Q>,
    shown: Option<Q>,
    /// A line before this time was typed for a question that has gone.
    late_until: Option<Instant>,
}

impl<Q> Default for Questions<Q> {
    fn default() -> Self {
        Questions { waiting: Turns::new(MOST), shown: None, late_until: None }
    }
}

impl<Q> Questions<Q> {
    pub(crate) fn add(&mut self, from: IpAddr, question: Q) {
        self.waiting.push(from, question);
    }

    /// Returns true if one of them is so.
    pub(crate) fn has(&self, is_so: impl Fn(&Q) -> bool) -> bool {
        self.shown.iter().chain(self.waiting.iter()).any(is_so)
    }

    /// Returns the question to show, unless the user sees one.
    pub(crate) fn show(&mut self) -> Option<&mut Q> {
        if self.shown.is_some() {
            return None;
        }
        self.shown = self.waiting.next(|_| true, |_| true);
        self.shown.as_mut()
    }

    /// Returns the question that the user sees.
    pub(crate) fn shown(&mut self) -> Option<&mut Q> {
        self.shown.as_mut()
    }

    /// Takes the question that the user sees, which nobody can answer any more.
    pub(crate) fn take(&mut self) -> Option<Q> {
        self.shown.take()
    }

    /// Drops those that nobody wants answered any more. Returns the one among them that the user saw.
    pub(crate) fn drop_over(&mut self, now: Instant, is_over: impl Fn(&Q) -> bool) -> Option<Q> {
        self.waiting.retain(|question| !is_over(question));
        let over = self.shown.take_if(|question| is_over(question));
        if over.is_some() {
            self.late_until = Some(now + LATE);
        }
        over
    }

    /// Takes in that the user typed a line. Returns the question that it answers; what was typed before one answers none.
    ///
    /// # Errors
    /// If the line was typed for the question before.
    pub(crate) fn line(&mut self, now: Instant) -> Result<Option<Q>, Late> {
        match self.late_until {
            Some(until) if now < until && self.shown.is_some() => Err(Late),
            _ => Ok(self.shown.take()),
        }
    }
}

impl Say {
    pub(crate) fn unanswered(self, peer: NodeId) {
        self.line(
            || json!({"event": "unanswered", "peer": peer.to_string()}),
            || format!("{peer} was not answered in time"),
        );
    }

    pub(crate) fn hung_up(self, peer: NodeId) {
        self.line(
            || json!({"event": "hung_up", "peer": peer.to_string()}),
            || format!("{peer} has hung up, and wants no answer any more"),
        );
    }

    /// Says that a line came too late to be an answer about this peer.
    pub(crate) fn late(self, peer: NodeId) {
        self.warning(&format!("that came too late; the question is about {peer} now"));
    }
}

/// Line that came too late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Late;

/// Returns whether a line that the user typed is a yes.
pub(crate) fn is_yes(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.eq_ignore_ascii_case(b"y") || line.eq_ignore_ascii_case(b"yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_is_said_in_so_many_letters() {
        for (line, yes) in [
            ("y\n", true),
            ("YES\r\n", true),
            (" y", true),
            ("", false),
            ("\n", false),
            ("n\n", false),
            ("yy\n", false),
        ] {
            assert_eq!(is_yes(line.as_bytes()), yes, "{line:?}");
        }
    }

    #[test]
    fn a_line_that_comes_late_answers_nothing_else() {
        let from = "192.0.2.1".parse().unwrap();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut questions = Questions::default();
        assert_eq!(questions.line(begin), Ok(None), "typed before any question");
        questions.add(from, "friend");
        questions.add(from, "stranger");
        assert_eq!((questions.show().copied(), questions.show()), (Some("friend"), None));
        assert!(questions.has(|it| *it == "friend") && questions.has(|it| *it == "stranger"));
        assert_eq!(questions.drop_over(at(30), |it| *it == "friend"), Some("friend"));
        assert_eq!(questions.show().copied(), Some("stranger"));
        // The yes was meant for the friend.
        questions.add(from, "friend");
        assert_eq!(questions.line(at(32)), Err(Late));
        assert_eq!(questions.drop_over(at(32), |it| *it == "stranger"), Some("stranger"));
        assert_eq!((questions.show().copied(), questions.line(at(34))), (Some("friend"), Err(Late)));
        assert_eq!(questions.line(at(35)), Ok(Some("friend")));
        assert_eq!(questions.line(at(36)), Ok(None));
        // One that the user never saw goes without a word.
        questions.add(from, "one");
        questions.add(from, "other");
        questions.show();
        assert_eq!(questions.drop_over(at(37), |it| *it == "other"), None);
        assert_eq!((questions.line(at(38)), questions.show()), (Ok(Some("one")), None));
    }

    #[test]
    fn one_line_with_many_keys_is_asked_about_once_a_round() {
        let mut questions = Questions::default();
        let of = |text: &str| text.parse().unwrap();
        (0..40_u16).for_each(|n| questions.add(format!("2001:db8::{n}").parse().unwrap(), "crowd"));
        questions.add(of("192.0.2.1"), "one");
        questions.add(of("192.0.2.2"), "other");
        let mut order = Vec::new();
        while let Some(shown) = questions.show().copied() {
            order.push(shown);
            questions.line(Instant::now()).unwrap();
        }
        assert_eq!((order[..4].to_vec(), order.len()), (vec!["crowd", "one", "other", "crowd"], 42));
    }
}
