//! The receiver's yes to a list.

use std::net::IpAddr;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use p2pd_core::NodeId;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::name::{names, portable};
use super::stage::MAX_FILES;
use super::walk::show;
use super::wire::{Listing, Refusal};
use crate::ask::{Late, Questions, is_yes};
use crate::say::Say;
use crate::talk::Input;

/// Time to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

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
    from: IpAddr,
    list: Listing,
    /// Closed once the peer has hung up.
    answer: oneshot::Sender<Result<(), Refusal>>,
    /// Set once the user sees the question.
    until: Option<Instant>,
}

impl Consent {
    /// Returns whether a list is taken; waits for the user where one is asked, until the peer has hung up.
    ///
    /// # Errors
    /// The reason for the sender.
    pub(super) fn to(
        &self,
        (peer, from): (NodeId, IpAddr),
        list: &Listing,
        hung_up: impl Future<Output = ()>,
    ) -> Result<(), Refusal> {
        match self {
            Consent::Given => Ok(()),
            Consent::FilesAlone if list.folders > 0 => Err(Refusal::Nobody),
            Consent::FilesAlone if list.files > MAX_FILES as u64 => Err(Refusal::TooMany),
            Consent::FilesAlone => Ok(()),
            Consent::Asked(user) => {
                let (answer, answered) = oneshot::channel();
                let question = Question { peer, from, list: list.clone(), answer, until: None };
                let asked = async {
                    user.send(question).await.map_err(|_| Refusal::Unanswered)?;
                    answered.await.unwrap_or(Err(Refusal::Unanswered))
                };
                Handle::current().block_on(async {
                    tokio::select! {
                        // An answer counts though the peer hangs up at that moment: the user was told that it does.
                        biased;
                        answer = asked => answer,
                        () = hung_up => Err(Refusal::Unanswered),
                    }
                })
            }
        }
    }
}

/// Asks one question after another; with `once` to the first yes, after which nothing is taken any more.
///
/// `folds` tells that this system takes names for the same that differ in case or in the normal form of Unicode.
pub(super) async fn ask(mut asked: mpsc::Receiver<Question>, (once, folds): (bool, bool), say: Say) {
    let mut input = Input::default();
    let mut questions = Questions::default();
    loop {
        while let Ok(question) = asked.try_recv() {
            questions.add(question.from, question);
        }
        if let Some(Question { peer, .. }) = questions.drop_over(Instant::now(), |it| it.answer.is_closed()) {
            say.hung_up(peer);
        }
        let now = Instant::now();
        if let Some(Question { peer, answer, .. }) =
            questions.drop_over(now, |it| it.until.is_some_and(|until| until <= now))
        {
            say.unanswered(peer);
            let _ = answer.send(Err(Refusal::Unanswered));
        }
        if let Some(question) = questions.show() {
            // What was typed before is no answer.
            while let Some(chunk) = input.waiting() {
                input.done(chunk);
            }
            question.until = Some(now + PATIENCE);
            say.asks(question.peer, &question.list, folds);
        }
        let Some(Question { answer, until: Some(until), .. }) = questions.shown() else {
            match asked.recv().await {
                Some(question) => questions.add(question.from, question),
                None => return,
            }
            continue;
        };
        let until = *until;
        tokio::select! {
            question = asked.recv() => match question {
                Some(question) => questions.add(question.from, question),
                None => return,
            },
            line = input.next() => {
                let answered = match line {
                    Ok(Some(chunk)) => {
                        let answer = if is_yes(chunk.bytes()) { Ok(()) } else { Err(Refusal::Declined) };
                        input.done(chunk);
                        questions.line(Instant::now()).map(|question| (question, answer))
                    }
                    // Nobody can be asked any more.
                    Ok(None) | Err(_) => Ok((questions.take(), Err(Refusal::Nobody))),
                };
                match answered {
                    Ok((question, answer)) => {
                        let heard = question.is_some_and(|question| question.answer.send(answer).is_ok());
                        if once && heard && answer.is_ok() {
                            return;
                        }
                    }
                    Err(Late) => {
                        if let Some(Question { peer, .. }) = questions.shown() {
                            say.late(*peer);
                        }
                    }
                }
            }
            () = answer.closed() => {}
            () = sleep_until(until) => {}
        }
    }
}

impl Say {
    fn asks(self, peer: NodeId, list: &Listing, folds: bool) {
        self.line(
            || {
                let mut event = listed(list);
                event["event"] = "ask".into();
                event["peer"] = peer.to_string().into();
                event
            },
            || {
                format!(
                    "{peer} wants to send {}; type y and Enter to take it (n or nothing: no)",
                    described(list, folds)
                )
            },
        );
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

/// A list for people: how much, the first names, and those that this system cannot have, or not both.
fn described(list: &Listing, folds: bool) -> String {
    let join = |names: &[Vec<u8>]| names.iter().map(|name| show(name)).collect::<Vec<_>>().join(", ");
    let more = if list.files.saturating_add(list.folders) > list.names.len() as u64 { ", …" } else { "" };
    // What every system can have is in the list of odd names as a twin.
    let is_twin =
        |name: &[u8]| folds && name.rsplit(|b| *b == b'/').next().is_some_and(|name| portable(name).is_ok());
    let is_bad = |name: &&Vec<u8>| names(name).is_err() || is_twin(name);
    let bad: Vec<Vec<u8>> = list.odd_names.iter().filter(is_bad).cloned().collect();
    let bad = match bad.len() {
        0 => String::new(),
        n => {
            let least = if list.odd > list.odd_names.len() as u64 { "at least " } else { "" };
            format!("; {least}{n} that this system cannot have so named are left out: {}", join(&bad))
        }
    };
    format!("{}: {}{more}{bad}", counted(list), join(&list.names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_told_with_its_first_names_and_nothing_that_writes_on_the_terminal() {
        let name = |text: &str| text.as_bytes().to_vec();
        let mut list =
            Listing { files: 1, bytes: Some(5), names: vec![name("one two.txt")], ..Listing::default() };
        assert_eq!(described(&list, true), "1 file, 5 B: one two.txt");
        list = Listing {
            files: 10_003,
            folders: 2,
            bytes: None,
            names: ["d", "d/a\u{1b}[2J", "d/b", "d/c", "d/e", "d/f"].map(name).to_vec(),
            odd: 12,
            odd_names: vec![name("d/a\u{1b}[2J"), name("d/a\0b")],
        };
        assert_eq!(
            described(&list, false),
            "10,003 files in 2 folders, of unknown size: d, d/a\\u{1b}[2J, d/b, d/c, d/e, d/f, …; at least 1 that this \
             system cannot have so named are left out: d/a\\u{0}b"
        );
    }

    #[test]
    fn twins_are_listed_where_they_are_one_file() {
        let name = |text: &str| text.as_bytes().to_vec();
        let list = Listing {
            files: 2,
            folders: 1,
            bytes: Some(5),
            names: ["d", "d/a", "d/A"].map(name).to_vec(),
            odd: 2,
            odd_names: vec![name("d/A"), name("d/a:b")],
        };
        assert_eq!(described(&list, false), "2 files in 1 folder, 5 B: d, d/a, d/A");
        assert_eq!(
            described(&list, true),
            "2 files in 1 folder, 5 B: d, d/a, d/A; 1 that this system cannot have so named are left out: d/A"
        );
    }

    #[test]
    fn without_a_user_files_are_taken_and_folders_are_not() {
        let peer = p2pd_core::SecretKey::from_bytes([1; 32]).node_id();
        let from = "192.0.2.1".parse().unwrap();
        let list = |files, folders| Listing { files, folders, ..Listing::default() };
        for (consent, list, told) in [
            (Consent::FilesAlone, list(1000, 0), Ok(())),
            (Consent::FilesAlone, list(1001, 0), Err(Refusal::TooMany)),
            (Consent::FilesAlone, list(0, 1), Err(Refusal::Nobody)),
            (Consent::Given, list(u64::MAX, u64::MAX), Ok(())),
        ] {
            assert_eq!(consent.to((peer, from), &list, std::future::pending()), told);
        }
    }

    /// A choice by chance between the two would take the wrong one in one of the 64 rounds at least.
    #[tokio::test]
    async fn an_answer_counts_though_its_asker_hangs_up_at_that_moment() {
        let peer = p2pd_core::SecretKey::from_bytes([1; 32]).node_id();
        let from = "192.0.2.1".parse().unwrap();
        for round in 0..64 {
            let (user, mut questions) = mpsc::channel::<Question>(1);
            let consent = Consent::Asked(user);
            let hung_up = async move {
                questions.recv().await.unwrap().answer.send(Ok(())).unwrap();
                // Both are there when they are looked at next.
                tokio::task::yield_now().await;
            };
            let asking = move || consent.to((peer, from), &Listing::default(), hung_up);
            assert_eq!(tokio::task::spawn_blocking(asking).await.unwrap(), Ok(()), "{round}");
        }
    }

    #[tokio::test]
    async fn a_question_ends_with_its_asker() {
        let peer = p2pd_core::SecretKey::from_bytes([1; 32]).node_id();
        let (user, mut questions) = mpsc::channel(1);
        let (hangs_up, hung_up) = oneshot::channel::<()>();
        let consent = Consent::Asked(user);
        let from = "192.0.2.1".parse().unwrap();
        let asking = tokio::task::spawn_blocking(move || {
            consent.to((peer, from), &Listing::default(), async { drop(hung_up.await) })
        });
        let question = questions.recv().await.unwrap();
        assert!(!question.answer.is_closed());
        drop(hangs_up);
        assert_eq!(asking.await.unwrap(), Err(Refusal::Unanswered));
        assert!(question.answer.is_closed());
    }
}
