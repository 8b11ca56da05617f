//! Peers that the user at the terminal is asked about.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use p2pd_core::{Event, NodeId};
use p2pd_tokio::{Events, Node};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::ask::{Late, Questions, is_yes};
use crate::say::Say;
use crate::talk::Input;

/// Time to answer: the node refuses the peer then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Place of all that ask over brokers, where nobody has shown an address.
const BY_BROKER: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Peer that wants in.
#[derive(Debug)]
struct Question {
    peer: NodeId,
    until: Instant,
}

/// Asks of one peer after another whether it is let in, until the node ends. A yes counts while the program runs.
pub(super) async fn peers(node: Node, mut events: Events, say: Say) {
    let mut input = Input::default();
    let mut questions = Questions::default();
    loop {
        let now = Instant::now();
        if let Some(Question { peer, .. }) = questions.drop_over(now, |it: &Question| it.until <= now) {
            say.unanswered(peer);
        }
        if let Some(Question { peer, .. }) = questions.show() {
            say.line(
                || json!({"event": "ask", "peer": peer.to_string()}),
                || format!("{peer} wants in; type y and Enter to let it (n or nothing: no)"),
            );
        }
        let until = questions.shown().map(|it| it.until);
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Ask { peer, from })) => {
                    if !questions.has(|it| it.peer == peer) {
                        let question = Question { peer, until: Instant::now() + PATIENCE };
                        questions.add(from.unwrap_or(BY_BROKER), question);
                    }
                }
                Some(Ok(Event::AskOver { peer })) => {
                    if questions.drop_over(Instant::now(), |it| it.peer == peer).is_some() {
                        say.hung_up(peer);
                    }
                }
                Some(_) => {}
                None => return,
            },
            line = input.next() => match line {
                Ok(Some(chunk)) => {
                    match questions.line(Instant::now()) {
                        Ok(Some(Question { peer, .. })) => node.answer(peer, is_yes(chunk.bytes())),
                        Ok(None) => {}
                        Err(Late) => {
                            if let Some(Question { peer, .. }) = questions.shown() {
                                say.late(*peer);
                            }
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
