//! Tests of both sides against each other, cut at any point, and of a receiver against a hand-written peer.

use std::fs;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, split};

use super::wire::Message;
use super::*;

const SOME: u64 = 1 << 30;
const LIMITS: Limits = Limits { bytes: SOME, parts: SOME, keep: Duration::from_secs(3600) };
/// Secret that the sender of [`Folders`] shows.
const RESUME: Resume = [5; 16];

fn peer(n: u8) -> NodeId {
    p2pd_core::SecretKey::from_bytes([n; 32]).node_id()
}

/// Returns the name of a file while that sender sends it.
fn partial(name: &str) -> String {
    FileName::new(name).unwrap().partial(&name::Sender::new(Some(&RESUME), peer(1)))
}

struct Folders {
    here: tempfile::TempDir,
    there: tempfile::TempDir,
}

impl Folders {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folders = Folders { here: tempfile::tempdir().unwrap(), there: tempfile::tempdir().unwrap() };
        for (name, bytes) in files {
            fs::write(folders.here.path().join(name), bytes).unwrap();
        }
        folders
    }

    fn outgoing(&self, names: &[&str]) -> Vec<Outgoing> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.here.path().join(name)).collect();
        outgoing(&paths, Say::new(true, true)).unwrap().files
    }

    /// Returns names and lengths of the receiver's files.
    fn received(&self) -> Vec<(String, u64)> {
        let mut all: Vec<_> = fs::read_dir(self.there.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect();
        all.sort();
        all
    }

    /// Sends over a stream that ends after so many bytes there. Returns the outcomes of both sides, and the events.
    async fn send(
        &self,
        names: &[&str],
        cut: Option<u64>,
        overwrite: bool,
    ) -> (io::Result<usize>, io::Result<usize>, Vec<String>) {
        let inbox = Inbox::new(self.there.path(), overwrite, LIMITS).unwrap();
        self.send_to(&inbox, names, cut).await
    }

    async fn send_to(
        &self,
        inbox: &Inbox,
        names: &[&str],
        cut: Option<u64>,
    ) -> (io::Result<usize>, io::Result<usize>, Vec<String>) {
        let (near, near_end) = tokio::io::duplex(64 * 1024);
        let (far, far_end) = tokio::io::duplex(64 * 1024);
        let wire = async move {
            let ((mut nr, mut nw), (mut fr, mut fw)) = (split(near_end), split(far_end));
            let there = async {
                match cut {
                    Some(bytes) => {
                        let mut cut = (&mut nr).take(bytes);
                        let _ = tokio::io::copy(&mut cut, &mut fw).await;
                    }
                    None => {
                        let _ = tokio::io::copy(&mut nr, &mut fw).await;
                        let _ = fw.shutdown().await;
                        std::future::pending::<()>().await;
                    }
                }
            };
            let back = async {
                let _ = tokio::io::copy(&mut fr, &mut nw).await;
                let _ = nw.shutdown().await;
            };
            tokio::select! { () = there => {}, () = back => {} }
        };
        let files = self.outgoing(names);
        let (mut said, mut heard) = (Vec::new(), Vec::new());
        let sending = send::send(&files, Some(RESUME), split(near), |event| note(&mut said, &event));
        let receiving = receive::receive(inbox, SOME, peer(2), split(far), |event| note(&mut heard, &event));
        let (sent, received, ()) = tokio::join!(sending, receiving, wire);
        said.extend(heard);
        (sent, received, said)
    }
}

fn note(into: &mut Vec<String>, event: &Event<'_>) {
    match event {
        Event::Begins { name, from, .. } => into.push(format!("{name} from {from}")),
        Event::Moved { .. } | Event::Greeted | Event::Compares => {}
        Event::Ended { name, how: Ended::Moved { bytes, .. } } => into.push(format!("{name} whole {bytes}")),
        Event::Ended { name, how: Ended::Same } => into.push(format!("{name} same")),
        Event::Ended { name, how: Ended::Refused(why) } => into.push(format!("{name} {why:?}")),
        Event::Ended { name, how: Ended::Failed(why) } => into.push(format!("{name} {:?}", why.kind())),
    }
}

/// Makes bytes without a short period.
fn payload(len: u32) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_arrive_as_they_are_and_a_second_time_are_there_already() {
    let data = payload(700_001);
    let folders = Folders::new(&[("a", &data), ("empty", b"")]);
    let inbox = Inbox::new(folders.there.path(), false, LIMITS).unwrap();
    let (sent, refused, said) = folders.send_to(&inbox, &["a", "empty"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (2, 0));
    let once = ["a from 0", "a whole 700001", "empty from 0", "empty whole 0"];
    assert_eq!(said, [once, once].concat());
    assert_eq!(fs::read(folders.there.path().join("a")).unwrap(), data);
    assert_eq!(folders.received(), [("a".into(), 700_001), ("empty".into(), 0)]);

    let (sent, refused, said) = folders.send_to(&inbox, &["a", "empty"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (2, 0));
    assert_eq!(said[said.len() - 2..], ["a same", "empty same"]);
    // A receiver that has begun anew has it sent again, and has it once.
    let (sent, refused, said) = folders.send(&["a", "empty"], None, false).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (2, 0));
    assert_eq!(said, [once, once].concat());
    assert_eq!(folders.received(), [("a".into(), 700_001), ("empty".into(), 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_off_goes_on_where_it_was_until_it_is_whole() {
    let data = payload(1_000_000);
    let folders = Folders::new(&[("a", &data)]);
    let part = folders.there.path().join(partial("a"));
    let mut from = 0;
    for _ in 0..3 {
        let (sent, received, said) = folders.send(&["a"], Some(300_000), false).await;
        sent.unwrap_err();
        assert_eq!(received.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(said[..2], vec![format!("a from {from}"); 2]);
        let now = fs::metadata(&part).unwrap().len();
        // The rest of what came through is messages.
        assert!((from + 299_900..from + 300_000).contains(&now), "{from} to {now}");
        assert_eq!(fs::read(&part).unwrap(), data[..now as usize]);
        from = now;
    }
    let (sent, received, said) = folders.send(&["a"], None, false).await;
    assert_eq!((sent.unwrap(), received.unwrap()), (1, 0));
    let whole = [format!("a from {from}"), "a whole 1000000".into()];
    assert_eq!(said, [whole.clone(), whole].concat());
    assert_eq!(fs::read(folders.there.path().join("a")).unwrap(), data);
    assert!(!part.exists());
}

/// Over a relay the end of a pipe is noticed after a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_takes_over_what_it_still_sends_on_a_pipe_that_hangs() {
    let data = payload(1_000_000);
    let folders = Folders::new(&[("a", &data)]);
    let inbox = Inbox::new(folders.there.path(), false, LIMITS).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut from, mut to) = split(near);
    let hangs = async {
        let mut said = bytes(&[Message::Hello(Some(RESUME)), offer("a", 1_000_000)]).await;
        said.extend(&data[..300_000]);
        to.write_all(&said).await.unwrap();
        // Only now the user, who has interrupted it, sends again.
        let part = folders.there.path().join(partial("a"));
        while fs::metadata(&part).map_or(0, |found| found.len()) < 200_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (sent, refused, said) = folders.send_to(&inbox, &["a"], None).await;
        assert_eq!((sent.unwrap(), refused.unwrap()), (1, 0));
        let from: u64 = said[0].strip_prefix("a from ").unwrap().parse().unwrap();
        assert!((200_000..=300_000).contains(&from), "{said:?}");
        to
    };
    let first = receive::receive(&inbox, SOME, peer(1), split(far), |_| {});
    let (first, _to) = tokio::join!(first, hangs);
    assert_eq!(first.unwrap_err().to_string(), "a: its sender begins it anew");
    assert_eq!(Message::read(&mut from).await.unwrap(), Some(Message::Accept { have: 0 }));
    assert_eq!(Message::read(&mut from).await.unwrap(), Some(Message::Refused(Refusal::InUse)));
    assert_eq!(fs::read(folders.there.path().join("a")).unwrap(), data);
    assert_eq!(folders.received(), [("a".into(), 1_000_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_as_long_as_file_systems_have_them_and_a_bad_one_keeps_no_other_back() {
    let (long, longer) = ("n".repeat(255), format!("{}m", "n".repeat(254)));
    let data = payload(500_000);
    let folders = Folders::new(&[(&long, &data), (".hidden", b""), (&longer, b"x")]);
    let names = [&*long, ".hidden", &longer];
    let paths: Vec<PathBuf> = names.iter().map(|name| folders.here.path().join(name)).collect();
    let batch = outgoing(&paths, Say::new(true, true)).unwrap();
    assert_eq!((batch.files.len(), batch.skipped), (2, 1));
    let (sent, ..) = folders.send(&[&long, &longer], Some(300_000), false).await;
    sent.unwrap_err();
    let (sent, refused, said) = folders.send(&[&long, &longer], None, false).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (2, 0));
    assert!(!said[0].ends_with(" from 0"), "{said:?}");
    assert_eq!(folders.received(), [(longer, 1), (long, 500_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_of_another_file_is_not_gone_on_with() {
    let folders = Folders::new(&[("a", b"the new one")]);
    fs::write(folders.there.path().join(partial("a")), b"the old").unwrap();
    let (sent, refused, said) = folders.send(&["a"], None, false).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (1, 0));
    assert_eq!(said[0], "a from 0");
    assert_eq!(fs::read(folders.there.path().join("a")).unwrap(), b"the new one");

    // As long, and another one.
    fs::write(folders.here.path().join("a"), b"a newer one").unwrap();
    fs::write(folders.here.path().join("b"), b"more").unwrap();
    let (sent, refused, said) = folders.send(&["a", "b"], None, false).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (2, 0));
    assert_eq!(said[0], "a from 0");
    assert_eq!(fs::read(folders.there.path().join("a")).unwrap(), b"the new one");
    assert_eq!(fs::read(folders.there.path().join("a (1)")).unwrap(), b"a newer one");
    let (sent, ..) = folders.send(&["a"], None, true).await;
    assert_eq!(sent.unwrap(), 1);
    assert_eq!(fs::read(folders.there.path().join("a")).unwrap(), b"a newer one");
    assert_eq!(folders.received(), [("a".into(), 11), ("a (1)".into(), 11), ("b".into(), 4)]);
}

/// Returns the receiver's answers to the bytes of a hand-written peer, and the receiver's outcome.
async fn spoken(inbox: &Inbox, max: u64, bytes: Vec<u8>) -> (Vec<Message>, io::Result<usize>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (mut read, mut write) = split::<DuplexStream>(near);
    let speaking = async move {
        let _ = write.write_all(&bytes).await;
        let _ = write.shutdown().await;
        let mut answers = Vec::new();
        while let Ok(Some(answer)) = Message::read(&mut read).await {
            answers.push(answer);
        }
        answers
    };
    tokio::join!(speaking, receive::receive(inbox, max, peer(3), split(far), |_| {}))
}

async fn bytes(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.write(&mut bytes).await.unwrap();
    }
    bytes
}

fn offer(name: &str, size: u64) -> Message {
    Message::Offer { size, name: name.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_sender_writes_nowhere_else_and_not_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("in");
    fs::create_dir(&folder).unwrap();
    let inbox = Inbox::new(&folder, true, LIMITS).unwrap();
    let names =
        ["../out", "/tmp/p2pd-out", "..", "a/b", "a\\b", ".profile", "a\0", "\x1b]0;x\x07", "CON", ""];
    let mut all = vec![Message::Hello(None)];
    all.extend(names.map(|name| offer(name, 1)));
    all.extend([offer("big", 101), offer("huge", u64::MAX)]);
    let (answers, ended) = spoken(&inbox, 100, bytes(&all).await).await;
    let mut expected = vec![Message::Refused(Refusal::Name); names.len()];
    expected.resize(names.len() + 2, Message::Refused(Refusal::TooLarge));
    assert_eq!((answers, ended.unwrap()), (expected, 12));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    // The cap is one for all files of a pipe.
    let digest = |data: &[u8]| {
        let mut hashed = copy::Hashed::default();
        hashed.update(data);
        Message::Digest(hashed.digest())
    };
    let mut two = bytes(&[Message::Hello(None), offer("a", 60)]).await;
    two.extend([7; 60]);
    two.extend(bytes(&[digest(&[7; 60]), offer("b", 60)]).await);
    let (answers, ended) = spoken(&inbox, 100, two).await;
    assert_eq!(answers, [Message::Accept { have: 0 }, Message::Done, Message::Refused(Refusal::TooLarge)]);
    assert_eq!(ended.unwrap(), 1);

    // Another hash than that of the bytes: nothing is kept.
    let mut wrong = bytes(&[Message::Hello(None), offer("c", 3)]).await;
    wrong.extend(b"abc");
    wrong.extend(bytes(&[digest(b"abd")]).await);
    let (answers, ended) = spoken(&inbox, 100, wrong).await;
    assert_eq!(answers, [Message::Accept { have: 0 }, Message::Refused(Refusal::Damaged)]);
    assert_eq!(ended.unwrap(), 1);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

/// Answers to a sender are the same as for an empty folder, no matter which files others have sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_sent_is_not_told() {
    let folders = Folders::new(&[("secret", b"twelve bytes"), ("half", &payload(500_000))]);
    let inbox = Inbox::new(folders.there.path(), false, LIMITS).unwrap();
    folders.send_to(&inbox, &["secret"], None).await.0.unwrap();
    folders.send_to(&inbox, &["half"], Some(200_000)).await.0.unwrap_err();
    assert!(folders.there.path().join(partial("half")).exists());
    let empty = tempfile::tempdir().unwrap();
    let empty = Inbox::new(empty.path(), false, LIMITS).unwrap();
    let digest = |data: &[u8]| {
        let mut hashed = copy::Hashed::default();
        hashed.update(data);
        Message::Digest(hashed.digest())
    };
    let mut strangers = 100..;
    for (name, sent) in [
        ("secret", &b"twelve bytes"[..]),
        ("secret", b"a guess of s"),
        ("secret", b"short"),
        ("half", b"half"),
    ] {
        for _ in 0..2 {
            let stranger = strangers.next().map(|n| [n; 16]);
            let mut said = bytes(&[Message::Hello(stranger), offer(name, sent.len() as u64)]).await;
            said.extend(sent);
            said.extend(bytes(&[digest(sent)]).await);
            for inbox in [&inbox, &empty] {
                let (answers, ended) = spoken(inbox, 100, said.clone()).await;
                assert_eq!(answers, [Message::Accept { have: 0 }, Message::Done], "{name}");
                assert_eq!(ended.unwrap(), 0);
            }
        }
        // Not even by an offer of the length that is there.
        let ask = bytes(&[Message::Hello(None), offer("half", 500_000)]).await;
        let (answers, _) = spoken(&inbox, SOME, ask).await;
        assert_eq!(answers, [Message::Accept { have: 0 }]);
    }
    assert_eq!(fs::read(folders.there.path().join("secret")).unwrap(), b"twelve bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_an_end_to_what_all_peers_together_may_send() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::new(dir.path(), false, Limits { bytes: 100, ..LIMITS }).unwrap();
    for (name, answers) in
        [("a", vec![Message::Accept { have: 0 }]), ("b", vec![Message::Refused(Refusal::TooLarge)])]
    {
        let mut said = bytes(&[Message::Hello(None), offer(name, 60)]).await;
        said.extend([7; 60]);
        assert_eq!(spoken(&inbox, SOME, said).await.0, answers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_begin_is_let_go_after_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::new(dir.path(), false, LIMITS).unwrap();
    let one = async |said: Vec<Message>| {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (_read, mut write) = split::<DuplexStream>(near);
        write.write_all(&bytes(&said).await).await.unwrap();
        let began = std::time::Instant::now();
        let ended = receive::receive(&inbox, SOME, peer(3), split(far), |_| {}).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let took = began.elapsed().as_secs();
        assert!((9..30).contains(&took), "{took} s after {said:?}");
    };
    tokio::join!(
        one(vec![]),
        one(vec![Message::Hello(None)]),
        one(vec![Message::Hello(None), offer("a", 1 << 20)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_without_end_are_not_answered_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::new(dir.path(), false, LIMITS).unwrap();
    let mut all = vec![Message::Hello(None)];
    all.resize(5000, offer("..", 0));
    let (answers, ended) = spoken(&inbox, 100, bytes(&all).await).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(answers.len(), 2 * receive::MAX_FILES + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_speaks_otherwise_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::new(dir.path(), false, LIMITS).unwrap();
    for other in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"",
        b"\0\x01\x06",
        &bytes(&[Message::Hello(None), Message::Done]).await,
        &bytes(&[Message::Hello(None), offer("a", 1), Message::Hello(None)]).await[..40],
    ] {
        let (_, ended) = spoken(&inbox, 100, other.to_vec()).await;
        let kind = ended.unwrap_err().kind();
        assert!(
            [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof].contains(&kind),
            "{other:?}: {kind}"
        );
    }
    // To a sender, one that sends back what it gets is no receiver.
    let folders = Folders::new(&[("a", b"x")]);
    let (near, far) = tokio::io::duplex(1024);
    let echo = async {
        let (mut read, mut write) = split(far);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    };
    let files = folders.outgoing(&["a"]);
    let sending = send::send(&files, None, split(near), |_| {});
    let sent = tokio::select! { sent = sending => sent, () = echo => panic!() };
    assert_eq!(sent.unwrap_err().to_string(), "a: the peer is no receiver");
}

#[test]
fn what_cannot_be_sent_is_said_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".hidden"), "").unwrap();
    for (path, why) in [("missing", "No such file"), ("", "not a file"), (".hidden", "begin with a dot")] {
        let said = outgoing(&[dir.path().join(path)], Say::new(true, true)).unwrap_err();
        assert!(said.contains(why) && said.contains(path), "{said}");
    }
}
