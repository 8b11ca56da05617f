//! Peers that the user at the terminal is asked about.

use std::collections::VecDeque;
use std::time::Duration;

use p2pd_core::{Event, NodeId};
use p2pd_tokio::{Events, Node};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::say::Say;
use crate::talk::Input;

/// Time to answer: the node refuses the peer then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most questions that wait: as many as the node asks, which shares them out among networks.
const MOST: usize = 64;
/// Time after a question has run out in which a line is no answer to the next one: it was typed for the one before.
const LATE: Duration = Duration::from_secs(3);

/// Questions that wait. The user sees the first one.
#[derive(Debug, Default)]
struct Questions {
    waiting: VecDeque<(NodeId, Instant)>,
    shown: Option<NodeId>,
    /// A line before this time was typed for a question that has run out.
    late_until: Option<Instant>,
}

impl Questions {
    fn add(&mut self, peer: NodeId, now: Instant) {
        let known = self.waiting.iter().any(|(other, _)| *other == peer);
        if !known && self.waiting.len() < MOST {
            self.waiting.push_back((peer, now + PATIENCE));
        }
    }

    /// Drops those that have run out. Returns the one among them that the user saw.
    fn run_out(&mut self, now: Instant) -> Option<NodeId> {
        let mut seen = None;
        while let Some((peer, until)) = self.waiting.front().copied()
            && until <= now
        {
            self.waiting.pop_front();
            if self.shown == Some(peer) {
                (seen, self.late_until) = (Some(peer), Some(until + LATE));
            }
        }
        seen
    }

    /// Returns the peer to ask about, if the user does not see it yet.
    fn show(&mut self) -> Option<NodeId> {
        let first = self.waiting.front().map(|(peer, _)| *peer);
        let before = std::mem::replace(&mut self.shown, first);
        first.filter(|peer| before != Some(*peer))
    }

    /// Takes in that the user typed a line. Returns whom it is about; what was typed before a question is no answer to it.
    ///
    /// # Errors
    /// The peer that is asked about, if the line was typed for the one before.
    fn line(&mut self, now: Instant) -> Result<Option<NodeId>, NodeId> {
        match self.waiting.front() {
            Some((peer, _)) if self.late_until.is_some_and(|until| now < until) => Err(*peer),
            _ => Ok(self.waiting.pop_front().map(|(peer, _)| peer)),
        }
    }
}

/// Asks of one peer after another whether it is let in, until the node ends. A yes counts while the program runs.
pub(super) async fn peers(node: Node, mut events: Events, say: Say) {
    let mut input = Input::default();
    let mut questions = Questions::default();
    loop {
        if let Some(peer) = questions.run_out(Instant::now()) {
            say.line(
                || json!({"event": "unanswered", "peer": peer.to_string()}),
                || format!("{peer} was not answered in time"),
            );
        }
        if let Some(peer) = questions.show() {
            say.line(
                || json!({"event": "ask", "peer": peer.to_string()}),
                || format!("{peer} wants in; type y and Enter to let it (n or nothing: no)"),
            );
        }
        let until = questions.waiting.front().map(|(_, until)| *until);
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Ask { peer })) => questions.add(peer, Instant::now()),
                Some(_) => {}
                None => return,
            },
            line = input.next() => match line {
                Ok(Some(chunk)) => {
                    match questions.line(Instant::now()) {
                        Ok(Some(peer)) => node.answer(peer, is_yes(chunk.bytes())),
                        Ok(None) => {}
                        Err(peer) => {
                            say.warning(&format!("that came too late; the question is about {peer} now"));
                        }
                    }
                    input.done(chunk);
                }
                // Nobody can be asked any more; questions run out by themselves.
                Ok(None) | Err(_) => while events.recv().await.is_some() {},
            },
            () = over => {}
        }
    }
}

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
    fn a_line_that_comes_late_lets_nobody_else_in() {
        let id = |n| p2pd_core::SecretKey::from_bytes([n; 32]).node_id();
        let [friend, stranger] = [8, 16].map(id);
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut questions = Questions::default();
        assert_eq!(questions.line(begin), Ok(None), "typed before any question");
        questions.add(friend, at(0));
        questions.add(stranger, at(1));
        questions.add(stranger, at(2));
        assert_eq!((questions.show(), questions.show()), (Some(friend), None));
        assert_eq!(questions.run_out(at(29)), None);
        assert_eq!((questions.run_out(at(30)), questions.show()), (Some(friend), Some(stranger)));
        // The yes was meant for the friend.
        questions.add(friend, at(30));
        assert_eq!(questions.line(at(30)), Err(stranger));
        assert_eq!(questions.run_out(at(31)), Some(stranger));
        assert_eq!((questions.show(), questions.line(at(33))), (Some(friend), Err(friend)));
        assert_eq!(questions.line(at(34)), Ok(Some(friend)));
        assert_eq!(questions.line(at(35)), Ok(None));
    }
}
