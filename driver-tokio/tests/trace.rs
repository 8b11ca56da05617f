//! Records the work of two nodes over real sockets, and runs it again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use p2pd_core::trace::{LineError, ReplayError, replay};
use p2pd_tokio::{ConnectError, Node, PipeMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod common;
use common::{LONG, config, moved, plan};

/// Starts a node that records, and returns its record.
async fn recorded() -> (Node, Arc<Mutex<String>>) {
    let text = Arc::new(Mutex::new(String::new()));
    let lines = text.clone();
    let write = move |line: &str| lines.lock().unwrap().push_str(line);
    (Node::builder(config()).trace(write).bind().await.unwrap(), text)
}

/// The traces of a caller and of a callee: a pipe in each mode, a failure, a call given up, an end.
async fn traces() -> (String, String) {
    let ((a, ours), (b, theirs)) = (recorded().await, recorded().await);
    let to = b.address().await;
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        let (near, far) = tokio::join!(a.connect_with(&to, plan(mode, LONG)), b.accept());
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        near.write_all(b"between us").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "between us");
    }
    let nobody = a.connect("None-0-0-x").await;
    assert!(matches!(nobody, Err(ConnectError::NotBegun(_))));
    // Somebody who never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = moved(&to, silent.local_addr().unwrap().port());
    drop(a.start_connect(&there, plan(PipeMode::Encrypted, LONG)).await.unwrap());
    b.answer(a.node_id(), true);
    b.shutdown().await;
    a.connect(&to).await.unwrap_err();
    a.shutdown().await;
    let text = |of: Arc<Mutex<String>>| of.lock().unwrap().clone();
    (text(ours), text(theirs))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_of_a_connect_act_the_same_again() {
    let (ours, theirs) = traces().await;
    let at_ours = ["begun ok 0", "begun error node-id length 1", " cancel 2", " plain\n"];
    for (text, words) in [(&ours, &at_ours[..]), (&theirs, &[" accepted ", " answer ", " shutdown"][..])] {
        let replayed = replay(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
        println!("{} lines, {} bytes: {replayed}", text.lines().count(), text.len());
        let count = |kind: &str| text.lines().filter(|l| l.starts_with(kind)).count() as u64;
        assert_eq!(replayed.events, count("event "));
        assert_eq!(replayed.calls, count("call "));
        assert_eq!(replayed.actions, count("action "));
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(count("action detach "), 2);
        // "between us"
        assert!(!text.contains("6265747765656e207573"), "no byte of users");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_trace_is_told_with_its_line() {
    let (text, _) = traces().await;
    let lines: Vec<&str> = text.lines().collect();
    let mut said = 0;
    for (n, line) in lines.iter().enumerate() {
        if !["action ", "idle ", "begun "].iter().any(|kind| line.starts_with(kind)) {
            continue;
        }
        // The last digit, if there is one, becomes another.
        let Some(at) = line.rfind(|c: char| c.is_ascii_digit()) else { continue };
        let other = if &line[at..=at] == "1" { "2" } else { "1" };
        let changed = format!("{}{other}{}", &line[..at], &line[at + 1..]);
        let mut all = lines.clone();
        all[n] = &changed;
        let told = replay(&(all.join("\n") + "\n")).unwrap_err();
        match told {
            ReplayError::Differs { line: at, expected, got } => {
                assert_eq!((at, expected.as_str(), got.as_str()), (n + 1, changed.as_str(), *line));
                said += 1;
            }
            // Where the digit was part of something stricter than a number.
            ReplayError::Line { line: at, .. } => assert_eq!(at, n + 1, "{changed}"),
            other => panic!("{other}"),
        }
    }
    assert!(said > 20, "{said}");
    let lost = lines.iter().position(|l| l.contains(" connected ")).unwrap();
    let mut without = lines.clone();
    without.remove(lost);
    let told = replay(&(without.join("\n") + "\n")).unwrap_err();
    assert!(matches!(told, ReplayError::Differs { line, .. } if line > lost), "{told}");
    let cut = replay(&text[..text.len() - 1]).unwrap_err();
    assert_eq!(cut, ReplayError::Line { line: lines.len(), why: LineError::CutOff });
    // A program that died before it wrote the rest.
    let header = lines.iter().position(|l| l.starts_with("event ")).unwrap();
    for n in header..lines.len() {
        replay(&(lines[..n].join("\n") + "\n")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_asked_a_node_hears_of_its_end_also_if_its_task_panics() {
    let armed = Arc::new(AtomicBool::new(false));
    let (panics, (release, released)) = (armed.clone(), mpsc::channel());
    let write = move |_: &str| {
        if panics.load(Ordering::SeqCst) {
            let _: Result<(), _> = released.recv();
            panic!("a trace that panics");
        }
    };
    let node = Node::builder(config()).trace(write).bind().await.unwrap();
    let (to, mut events) = (node.address().await, node.events());
    armed.store(true, Ordering::SeqCst);
    // The second question waits while the task is at the first.
    let asking = async { tokio::join!(node.connect(&to), node.stats(), async { release.send(()) }) };
    let (failed, stats, _) = tokio::time::timeout(LONG, asking).await.unwrap();
    assert!(matches!(failed, Err(ConnectError::NodeGone)) && stats.is_none());
    assert!(node.accept().await.is_none() && node.nats().await.is_empty());
    while events.recv().await.is_some() {}
}
