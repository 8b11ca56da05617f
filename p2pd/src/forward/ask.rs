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

/// Asks of one peer after another whether it is let in, until the node ends. A yes counts while the program runs.
pub(super) async fn peers(node: Node, mut events: Events, say: Say) {
    let mut input = Input::default();
    let mut waiting: VecDeque<(NodeId, Instant)> = VecDeque::new();
    let mut asked = None;
    let mut deaf_until = Instant::now();
    loop {
        while let Some((peer, until)) = waiting.front().copied()
            && until <= Instant::now()
        {
            waiting.pop_front();
            if asked == Some(peer) {
                deaf_until = until + LATE;
                say.line(
                    || json!({"event": "unanswered", "peer": peer.to_string()}),
                    || format!("{peer} was not answered in time"),
                );
            }
        }
        let next = waiting.front().copied();
        if let Some((peer, _)) = next
            && asked != Some(peer)
        {
            say.line(
                || json!({"event": "ask", "peer": peer.to_string()}),
                || format!("{peer} wants in; type y and Enter to let it (n or nothing: no)"),
            );
        }
        asked = next.map(|(peer, _)| peer);
        let over = async {
            match next {
                Some((_, until)) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Ask { peer })) => {
                    let known = waiting.iter().any(|(other, _)| *other == peer);
                    if !known && waiting.len() < MOST {
                        waiting.push_back((peer, Instant::now() + PATIENCE));
                    }
                }
                Some(_) => {}
                None => return,
            },
            line = input.next() => match line {
                Ok(Some(chunk)) => {
                    // What was typed before the question is no answer to it.
                    if Instant::now() < deaf_until {
                        if let Some((peer, _)) = next {
                            say.warning(&format!("that came too late; the question is about {peer} now"));
                        }
                    } else if let Some((peer, _)) = waiting.pop_front() {
                        node.answer(peer, is_yes(chunk.bytes()));
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

fn is_yes(line: &[u8]) -> bool {
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
}
