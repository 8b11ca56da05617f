//! The receiver's yes to a list.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use p2pd_core::NodeId;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::name::names;
use super::stage::MAX_FILES;
use super::walk::show;
use super::wire::{Listing, Refusal};
use crate::forward::is_yes;
use crate::say::Say;
use crate::talk::Input;

/// Time to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time after a question has run out in which a line is no answer to the next one: it was typed for the one before.
const LATE: Duration = Duration::from_secs(3);
/// Names that are shown of a list.
const SHOWN: usize = 5;

/// Way to a yes or a no to what peers want to send.
#[derive(Debug)]
pub(super) enum Consent {
    /// Everything is taken (`--yes`).
    Given,
    /// The user at the terminal is asked.
    Asked(mpsc::Sender<Question>),
    /// Nobody can be asked: files alone are taken, and no folders.
    FilesAlone,
}

/// Question to the user.
#[derive(Debug)]
pub(super) struct Question {
    peer: NodeId,
    list: Listing,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

impl Consent {
    /// Returns whether a list is taken; waits for the user where one is asked.
    ///
    /// # Errors
    /// The reason for the sender.
    pub(super) fn to(&self, peer: NodeId, list: &Listing) -> Result<(), Refusal> {
        match self {
            Consent::Given => Ok(()),
            Consent::FilesAlone if list.folders > 0 => Err(Refusal::Nobody),
            Consent::FilesAlone if list.files > MAX_FILES as u64 => Err(Refusal::TooMany),
            Consent::FilesAlone => Ok(()),
            Consent::Asked(user) => {
                let (answer, answered) = oneshot::channel();
                let question = Question { peer, list: list.clone(), answer };
                user.blocking_send(question).map_err(|_| Refusal::Unanswered)?;
                answered.blocking_recv().unwrap_or(Err(Refusal::Unanswered))
            }
        }
    }
}

/// Asks one question after another.
pub(super) async fn ask(mut questions: mpsc::Receiver<Question>, say: Say) {
    let mut input = Input::default();
    let mut late = Instant::now();
    while let Some(Question { peer, list, answer }) = questions.recv().await {
        // What was typed before is no answer.
        while let Some(chunk) = input.waiting() {
            input.done(chunk);
        }
        say.line(
            || {
                let mut event = listed(&list);
                event["event"] = "ask".into();
                event["peer"] = peer.to_string().into();
                event
            },
            || {
                format!(
                    "{peer} wants to send {}; type y and Enter to take it (n or nothing: no)",
                    described(&list)
                )
            },
        );
        let until = Instant::now() + PATIENCE;
        let answered = loop {
            tokio::select! {
                line = input.next() => match line {
                    Ok(Some(chunk)) => {
                        let yes = is_yes(chunk.bytes());
                        input.done(chunk);
                        if Instant::now() >= late {
                            break if yes { Ok(()) } else { Err(Refusal::Declined) };
                        }
                        say.warning(&format!("that came too late; the question is about {peer} now"));
                    }
                    Ok(None) | Err(_) => break Err(Refusal::Nobody),
                },
                () = sleep_until(until) => {
                    late = until + LATE;
                    say.line(
                        || json!({"event": "unanswered", "peer": peer.to_string()}),
                        || format!("{peer} was not answered in time"),
                    );
                    break Err(Refusal::Unanswered);
                }
            }
        };
        let _ = answer.send(answered);
    }
}

/// A list for programs.
pub(super) fn listed(list: &Listing) -> serde_json::Value {
    let shown = |names: &[Vec<u8>]| names.iter().map(|name| show(name)).collect::<Vec<_>>();
    json!({
        "files": list.files, "folders": list.folders, "size": list.bytes, "names": shown(&list.names),
        "unusual": list.odd, "unusual_names": shown(&list.odd_names),
    })
}

/// Number and size of what is listed, for people.
pub(super) fn counted(list: &Listing) -> String {
    let of = |n: u64, what: &str| format!("{} {what}{}", HumanCount(n), if n == 1 { "" } else { "s" });
    let folders =
        if list.folders > 0 { format!(" in {}", of(list.folders, "folder")) } else { String::new() };
    let bytes = list.bytes.map_or("of unknown size".into(), |bytes| HumanBytes(bytes).to_string());
    format!("{}{folders}, {bytes}", of(list.files, "file"))
}

/// A list for people: how much, the first names, and those that this system cannot have.
fn described(list: &Listing) -> String {
    let join = |names: &[Vec<u8>]| names.iter().map(|name| show(name)).collect::<Vec<_>>().join(", ");
    let shown = &list.names[..list.names.len().min(SHOWN)];
    let more = if list.files.saturating_add(list.folders) > shown.len() as u64 { ", …" } else { "" };
    let bad: Vec<Vec<u8>> = list.odd_names.iter().filter(|name| names(name).is_err()).cloned().collect();
    let bad = match bad.len() {
        0 => String::new(),
        n => {
            let least = if list.odd > list.odd_names.len() as u64 { "at least " } else { "" };
            format!("; {least}{n} that this system cannot have so named are left out: {}", join(&bad))
        }
    };
    format!("{}: {}{more}{bad}", counted(list), join(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_told_with_its_first_names_and_nothing_that_writes_on_the_terminal() {
        let name = |text: &str| text.as_bytes().to_vec();
        let mut list =
            Listing { files: 1, bytes: Some(5), names: vec![name("one two.txt")], ..Listing::default() };
        assert_eq!(described(&list), "1 file, 5 B: one two.txt");
        list = Listing {
            files: 10_003,
            folders: 2,
            bytes: None,
            names: ["d", "d/a\u{1b}[2J", "d/b", "d/c", "d/e", "d/f"].map(name).to_vec(),
            odd: 12,
            odd_names: vec![name("d/a\u{1b}[2J"), name("d/a\0b")],
        };
        assert_eq!(
            described(&list),
            "10,003 files in 2 folders, of unknown size: d, d/a\\u{1b}[2J, d/b, d/c, d/e, …; at least 1 that this \
             system cannot have so named are left out: d/a\\u{0}b"
        );
    }

    #[test]
    fn without_a_user_files_are_taken_and_folders_are_not() {
        let peer = p2pd_core::SecretKey::from_bytes([1; 32]).node_id();
        let list = |files, folders| Listing { files, folders, ..Listing::default() };
        for (consent, list, told) in [
            (Consent::FilesAlone, list(1000, 0), Ok(())),
            (Consent::FilesAlone, list(1001, 0), Err(Refusal::TooMany)),
            (Consent::FilesAlone, list(0, 1), Err(Refusal::Nobody)),
            (Consent::Given, list(u64::MAX, u64::MAX), Ok(())),
        ] {
            assert_eq!(consent.to(peer, &list), told);
        }
    }
}
