//! Tests of both sides against each other, cut at any point, and of a receiver against a hand-written peer.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, split};

use super::wire::{Frame, Meta, Number, Offer};
use super::*;

const SOME: u64 = 1 << 30;
const LIMITS: Limits = Limits { files: SOME, bytes: SOME, parts: SOME, keep: Duration::from_secs(3600) };
const TERMS: Terms = Terms { max_size: SOME, outside_links: false, packed: true };
/// Secret that the sender of [`Folders`] shows.
const RESUME: Resume = [5; 16];
/// Groups of files of the tests.
const GROUP: u64 = 1 << 20;

fn peer(n: u8) -> NodeId {
    p2pd_core::SecretKey::from_bytes([n; 32]).node_id()
}

/// Returns the name of a file while that sender sends it.
fn partial(name: &str) -> String {
    FileName::new(name).unwrap().partial(&name::Sender::new(Some(&RESUME), peer(1)))
}

type Outcome = (io::Result<usize>, io::Result<usize>, Vec<String>);

struct Folders {
    here: tempfile::TempDir,
    there: tempfile::TempDir,
}

impl Folders {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folders = Folders { here: tempfile::tempdir().unwrap(), there: tempfile::tempdir().unwrap() };
        for (name, bytes) in files {
            let path = folders.here(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folders
    }

    fn here(&self, name: &str) -> PathBuf {
        self.here.path().join(name)
    }

    fn there(&self, name: &str) -> PathBuf {
        self.there.path().join(name)
    }

    fn inbox(&self, overwrite: bool) -> Inbox {
        Inbox::new(self.there.path(), overwrite, LIMITS).unwrap()
    }

    fn batch(&self, names: &[&str]) -> Batch {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.here(name)).collect();
        Batch::new(&paths, Say::new(false, true)).unwrap()
    }

    /// Returns names and lengths of the receiver's files.
    fn received(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        list(self.there.path(), "", &mut all);
        all.sort();
        all
    }

    /// Sends over a stream that ends after so many bytes there. Returns the outcomes of both sides, and the events.
    async fn send(&self, names: &[&str], cut: Option<u64>) -> Outcome {
        self.send_to(Arc::new(self.inbox(false)), names, cut).await
    }

    async fn send_to(&self, inbox: Arc<Inbox>, names: &[&str], cut: Option<u64>) -> Outcome {
        transfer(inbox, self.batch(names), TERMS, cut).await
    }
}

fn list(dir: &Path, before: &str, into: &mut Vec<(String, u64)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{before}{}", entry.file_name().to_string_lossy());
        let found = entry.metadata().unwrap();
        if found.is_dir() {
            list(&entry.path(), &format!("{name}/"), into);
        }
        into.push((name, if found.is_file() { found.len() } else { 0 }));
    }
}

async fn transfer(inbox: Arc<Inbox>, batch: Batch, terms: Terms, cut: Option<u64>) -> Outcome {
    let (near, near_end) = tokio::io::duplex(256 * 1024);
    let (far, far_end) = tokio::io::duplex(256 * 1024);
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
    let ends = |(from, to): (tokio::io::ReadHalf<DuplexStream>, tokio::io::WriteHalf<DuplexStream>), stop| {
        (Reader::new(from, stop), Writer::new(to))
    };
    let (near, stop) = (ends(split(near), Arc::default()), Arc::new(Stop::default()));
    let far = ends(split(far), stop.clone());
    let sending = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        let sent = send::send(&batch, Some(RESUME), true, near, |event| note(&mut said, &event));
        (sent, said)
    });
    let receiving = tokio::task::spawn_blocking(move || {
        let mut heard = Vec::new();
        let received = receive::receive(
            &inbox,
            terms,
            (peer(2), stop),
            far,
            |_| Ok(()),
            |event| note(&mut heard, &event),
        );
        (received, heard)
    });
    let (sent, received, ()) = tokio::join!(sending, receiving, wire);
    let ((sent, mut said), (received, heard)) = (sent.unwrap(), received.unwrap());
    said.extend(heard);
    (sent, received, said)
}

fn note(into: &mut Vec<String>, event: &Event<'_>) {
    match event {
        Event::Begins { name, from, .. } => into.push(format!("{name} from {from}")),
        Event::Moved { .. } | Event::Listed(_) | Event::Compares | Event::Linked => {}
        Event::Kept { name, kept, was_there } => {
            let there = if *was_there { " already" } else { "" };
            into.push(format!("{name} kept {kept:?}{there}"));
        }
        Event::Ended { name, how: Ended::Moved { bytes, .. } } => into.push(format!("{name} whole {bytes}")),
        Event::Ended { name, how: Ended::Same(_) } => into.push(format!("{name} same")),
        Event::Ended { name, how: Ended::Refused(why) } => into.push(format!("{name} {why:?}")),
        Event::Ended { name, how: Ended::Failed(why) } => into.push(format!("{name} failed: {why}")),
    }
}

/// Makes bytes without a short period.
fn payload(len: u32) -> Vec<u8> {
    let mut seed = 1_u64;
    (0..len)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_arrive_as_they_are_and_a_second_time_are_there_already() {
    let data = payload(700_001);
    let folders = Folders::new(&[("a", &data), ("empty", b"")]);
    let inbox = Arc::new(folders.inbox(false));
    let (sent, refused, mut said) = folders.send_to(inbox.clone(), &["a", "empty"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    said.sort();
    let twice = |text: &'static str| [text; 2];
    let once =
        [twice("a from 0"), twice("a whole 700001"), twice("empty from 0"), twice("empty whole 0")].concat();
    assert_eq!(said, once);
    assert_eq!(fs::read(folders.there("a")).unwrap(), data);
    assert_eq!(folders.received(), [("a".into(), 700_001), ("empty".into(), 0)]);

    let (sent, refused, said) = folders.send_to(inbox, &["a", "empty"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    assert!(said.contains(&"a same".into()) && !said.contains(&"a from 0".into()), "{said:?}");
    // A receiver that has begun anew has it sent again, and has it once.
    let (sent, refused, mut said) = folders.send(&["a", "empty"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    said.sort();
    assert_eq!(said, once);
    assert_eq!(folders.received(), [("a".into(), 700_001), ("empty".into(), 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_off_goes_on_with_the_group_that_it_was_in() {
    let data = payload(7_000_000);
    let folders = Folders::new(&[("a", &data)]);
    let part = folders.there(&partial("a"));
    let mut from = 0;
    for _ in 0..2 {
        let (sent, received, said) = folders.send(&["a"], Some(2_500_000)).await;
        sent.unwrap_err();
        assert_eq!(received.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(said[0], format!("a from {from}"));
        let now = fs::metadata(&part).unwrap().len();
        // The rest of what came through is frames.
        assert!((from + 2_300_000..from + 2_500_000).contains(&now), "{from} to {now}");
        assert_eq!(fs::read(&part).unwrap(), data[..now as usize]);
        from = now / GROUP * GROUP;
    }
    let (sent, received, said) = folders.send(&["a"], None).await;
    assert_eq!((sent.unwrap(), received.unwrap()), (0, 0));
    let whole = [format!("a from {from}"), "a whole 7000000".into()];
    assert_eq!(said, [whole.clone(), whole].concat());
    assert_eq!(fs::read(folders.there("a")).unwrap(), data);
    assert!(!part.exists());
}

/// Over a relay the end of a session is noticed after a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_takes_over_what_it_still_sends_on_a_session_that_hangs() {
    let data = payload(3_000_000);
    let folders = Folders::new(&[("a", &data)]);
    let inbox = Arc::new(folders.inbox(false));
    let mut said = bytes(&[hello(1, 0), file("a", 3_000_000), Frame::Body(0)]);
    data[..2_200_000].chunks(100_000).for_each(|piece| Frame::Data(piece.to_vec()).write(&mut said));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut from, mut to) = split(near);
    let hanging = {
        let inbox = inbox.clone();
        let stop = Arc::new(Stop::default());
        let (read, write) = split(far);
        let ends = (Reader::new(read, stop.clone()), Writer::new(write));
        tokio::task::spawn_blocking(move || {
            receive::receive(&inbox, TERMS, (peer(1), stop), ends, |_| Ok(()), |_| {})
        })
    };
    to.write_all(&said).await.unwrap();
    // Only now the user, who has interrupted it, sends again.
    let part = folders.there(&partial("a"));
    while fs::metadata(&part).map_or(0, |found| found.len()) < 2_200_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut heard = Vec::new();
    let (again, ()) = tokio::join!(folders.send_to(inbox, &["a"], None), async {
        from.read_to_end(&mut heard).await.unwrap();
        drop(to);
    });
    let (sent, refused, said) = again;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    assert_eq!(said[0], format!("a from {}", 2 * GROUP));
    let first = hanging.await.unwrap().unwrap_err();
    assert_eq!(first.to_string(), format!("{}: its sender begins anew", peer(1)));
    assert_eq!(frames(&heard), [Frame::Go(true), Frame::Take(0, 0), Frame::No(Refusal::InUse)]);
    assert_eq!(fs::read(folders.there("a")).unwrap(), data);
    assert_eq!(folders.received(), [("a".into(), 3_000_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_as_long_as_file_systems_have_them_and_a_bad_one_keeps_no_other_back() {
    let (long, longer) = ("n".repeat(255), format!("{}m", "n".repeat(254)));
    let data = payload(2_500_000);
    let folders = Folders::new(&[(&long, &data), (".hidden", b""), (&longer, b"x")]);
    assert_eq!(folders.batch(&[&long, ".hidden", &longer]).skipped, 1);
    // One name is sent once.
    assert_eq!(folders.batch(&[&long, &longer, &long]).skipped, 1);
    let (sent, ..) = folders.send(&[&long, &longer], Some(2_300_000)).await;
    sent.unwrap_err();
    let (sent, refused, said) = folders.send(&[&long, &longer], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    assert!(said.contains(&format!("{long} from {}", 2 * GROUP)), "{said:?}");
    assert_eq!(folders.received(), [(longer, 1), (long, 2_500_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_of_another_file_is_gone_on_with_as_far_as_it_is_the_same() {
    let data = payload(3_500_000);
    let folders = Folders::new(&[("a", b"the new one"), ("c", &data)]);
    fs::write(folders.there(&partial("a")), b"the old").unwrap();
    let mut old = data[..3_300_000].to_vec();
    old[1_200_000] ^= 1;
    fs::write(folders.there(&partial("c")), old).unwrap();
    let (sent, refused, said) = folders.send(&["a", "c"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    assert!(said.contains(&"a from 0".into()) && said.contains(&format!("c from {GROUP}")), "{said:?}");
    assert_eq!(fs::read(folders.there("a")).unwrap(), b"the new one");
    assert_eq!(fs::read(folders.there("c")).unwrap(), data);

    // As long, and another one.
    fs::write(folders.here("a"), b"a newer one").unwrap();
    let (sent, refused, _) = folders.send(&["a"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    assert_eq!(fs::read(folders.there("a")).unwrap(), b"the new one");
    assert_eq!(fs::read(folders.there("a (1)")).unwrap(), b"a newer one");
    let (sent, ..) = folders.send_to(Arc::new(folders.inbox(true)), &["a"], None).await;
    assert_eq!(sent.unwrap(), 0);
    assert_eq!(fs::read(folders.there("a")).unwrap(), b"a newer one");
    assert_eq!(folders.received(), [("a".into(), 11), ("a (1)".into(), 11), ("c".into(), 3_500_000)]);
}

fn tree_of_files() -> Folders {
    let folders = Folders::new(&[
        ("d/a", b"one"),
        ("d/.hidden", b"two"),
        ("d/in/large", &payload(3_000_000)),
        ("d/in/empty", b""),
    ]);
    fs::create_dir(folders.here("d/nothing")).unwrap();
    folders
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_arrives_as_it_is() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let folders = tree_of_files();
    let then = std::time::SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 789_000_000);
    let set = |name: &str, mode: u32| {
        let path = folders.here(name);
        let file = fs::File::open(&path).unwrap();
        file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(then)).unwrap();
    };
    symlink("in/large", folders.here("d/link")).unwrap();
    symlink("../a", folders.here("d/in/up")).unwrap();
    symlink("nowhere", folders.here("d/dangling")).unwrap();
    fs::write(folders.here("d").join(OsStr::from_bytes(b"\xff\xfe:\\")), b"odd").unwrap();
    set("d/a", 0o4751);
    set("d/in/empty", 0o400);
    set("d/in", 0o550);
    set("d", 0o700);
    let (sent, refused, said) = folders.send(&["d"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0), "{said:?}");
    assert_eq!(said.last().unwrap(), "d kept None");
    let (mut here, mut there) = (Vec::new(), Vec::new());
    list(&folders.here("d"), "", &mut here);
    list(&folders.there("d"), "", &mut there);
    here.sort();
    there.sort();
    assert_eq!(there, here);
    assert_eq!(here.len(), 10);
    for name in ["a", ".hidden", "in/large", "in"] {
        let [one, other] =
            [folders.here("d"), folders.there("d")].map(|d| fs::metadata(d.join(name)).unwrap());
        let seen = |of: &fs::Metadata| (of.mode() & 0o777, of.mtime(), of.mtime_nsec());
        assert_eq!(seen(&one), seen(&other), "{name}");
    }
    assert_eq!(
        fs::metadata(folders.there("d/a")).unwrap().mode() & 0o7777,
        0o751,
        "nothing runs as its owner"
    );
    assert_eq!(fs::metadata(folders.there("d")).unwrap().modified().unwrap(), then);
    for name in ["link", "in/up", "dangling"] {
        let [one, other] =
            [folders.here("d"), folders.there("d")].map(|d| fs::read_link(d.join(name)).unwrap());
        assert_eq!(one, other);
    }
    assert_eq!(fs::read(folders.there("d/in/large")).unwrap(), payload(3_000_000));
    assert_eq!(folders.received().len(), 11);
    // Once more it is there already.
    let (sent, _, said) = folders.send(&["d"], None).await;
    assert_eq!((sent.unwrap(), said.last().unwrap().as_str()), (0, "d kept None already"));
    assert_eq!(folders.received().len(), 11);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_there_whole_is_neither_sent_nor_kept_twice() {
    use std::os::unix::fs::symlink;
    let folders = tree_of_files();
    symlink("a", folders.here("d/link")).unwrap();
    let inbox = Arc::new(folders.inbox(false));
    let send = async || folders.send_to(inbox.clone(), &["d"], None).await;
    let (sent, _, said) = send().await;
    assert_eq!((sent.unwrap(), said.last().unwrap().as_str()), (0, "d kept None"));
    let first = folders.received();
    // The same receiver knows it again, and no byte of it is sent.
    let (sent, refused, said) = send().await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    let from: Vec<_> = said.iter().filter(|said| said.contains(" from ")).collect();
    assert_eq!(from, ["d/in/empty from 0"; 2], "an empty file has nothing to prove by");
    assert_eq!(said.iter().filter(|said| *said == "d/in/large same").count(), 2);
    assert_eq!((said.last().unwrap().as_str(), folders.received()), ("d kept None already", first.clone()));
    // Another sender, or a receiver that has begun anew, gets all of it, and has it once.
    let (sent, _, said) = folders.send(&["d"], None).await;
    assert_eq!(sent.unwrap(), 0);
    assert!(said.contains(&"d/in/large from 0".into()), "{said:?}");
    assert_eq!((said.last().unwrap().as_str(), folders.received()), ("d kept None already", first));
    // What differs is another folder: in bytes, in a link, by one more name, and by one less.
    let unlink = |name: &str| fs::remove_file(folders.here(name)).unwrap();
    let mut kept = 0;
    for change in 0..4 {
        match change {
            0 => fs::write(folders.here("d/a"), "two").unwrap(),
            1 => {
                unlink("d/link");
                symlink("b", folders.here("d/link")).unwrap();
            }
            2 => fs::write(folders.here("d/more"), "").unwrap(),
            _ => ["d/more", "d/.hidden"].into_iter().for_each(unlink),
        }
        let (sent, _, said) = send().await;
        kept += 1;
        assert_eq!(sent.unwrap(), 0);
        assert_eq!(said.last().unwrap(), &format!("d kept Some(FileName(\"d ({kept})\"))"), "{change}");
        assert!(said.contains(&"d/in/large same".into()), "{change}: {said:?}");
        let (mut here, mut there) = (Vec::new(), Vec::new());
        list(&folders.here("d"), "", &mut here);
        list(&folders.there(&format!("d ({kept})")), "", &mut there);
        here.sort();
        there.sort();
        assert_eq!(here, there, "{change}");
        assert_eq!(fs::read(folders.there(&format!("d ({kept})/in/large"))).unwrap(), payload(3_000_000));
    }
    // The last one is known again, and so is one that came before.
    assert_eq!(send().await.2.last().unwrap(), "d kept Some(FileName(\"d (4)\")) already");
    fs::write(folders.here("d/.hidden"), "two").unwrap();
    fs::write(folders.here("d/more"), "").unwrap();
    assert_eq!(send().await.2.last().unwrap(), "d kept Some(FileName(\"d (3)\")) already");
    // What the receiver's user has changed is no proof of anything.
    fs::write(folders.there("d (3)/in/large"), payload(2_999_999)).unwrap();
    let (_, _, said) = send().await;
    assert!(said.contains(&"d/in/large from 0".into()), "{said:?}");
    assert_eq!(said.last().unwrap(), "d kept Some(FileName(\"d (5)\"))");
}

/// A receiver that takes no holes gets their zeros. A cut behind a hole goes on there.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn holes_arrive_as_holes_where_they_are_taken() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    for packed in [true, false] {
        let folders = Folders::new(&[("d/a", b"one")]);
        let sparse = fs::File::create(folders.here("d/sparse")).unwrap();
        sparse.write_all_at(&payload(100_000), 5 << 20).unwrap();
        sparse.set_len(8 << 20).unwrap();
        let terms = Terms { packed, ..TERMS };
        let send =
            async |cut| transfer(Arc::new(folders.inbox(false)), folders.batch(&["d"]), terms, cut).await;
        if packed {
            send(Some(60_000)).await.0.unwrap_err();
        }
        let (sent, refused, said) = send(None).await;
        assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
        let from = if packed { 5 << 20 } else { 0 };
        assert!(said.contains(&format!("d/sparse from {from}")), "{said:?}");
        let [here, there] = [folders.here("d/sparse"), folders.there("d/sparse")];
        assert!(fs::read(&here).unwrap() == fs::read(&there).unwrap());
        let bytes = fs::metadata(&there).unwrap().blocks() * 512;
        assert_eq!(bytes < 1 << 20, packed, "{bytes}");
    }
}

/// Cuts at every part of the transfer: the second send always makes it whole, and nothing but it is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_cut_off_is_gone_on_with() {
    for cut in [100, 300, 500, 800, 1_200_000, 2_900_000, 3_000_300] {
        let folders = tree_of_files();
        let (sent, received, _) = folders.send(&["d"], Some(cut)).await;
        assert!(sent.is_err() && received.is_err(), "{cut}");
        assert!(!folders.there("d").exists());
        let before: u64 = folders.received().iter().map(|(_, len)| len).sum();
        let (sent, refused, said) = folders.send(&["d"], None).await;
        assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0), "{cut}");
        let mut there = Vec::new();
        list(&folders.there("d"), "", &mut there);
        there.sort();
        let whole =
            [(".hidden", 3), ("a", 3), ("in", 0), ("in/empty", 0), ("in/large", 3_000_000), ("nothing", 0)];
        assert_eq!(there, whole.map(|(name, len)| (name.to_owned(), len)), "{cut}");
        assert_eq!(fs::read(folders.there("d/in/large")).unwrap(), payload(3_000_000));
        assert_eq!(folders.received().len(), 7, "{cut}: {:?}", folders.received());
        if before >= 3_000_000 {
            assert!(said.contains(&"d/in/large same".into()), "{cut}: {said:?}");
        } else if before > 2 * GROUP {
            assert!(said.contains(&format!("d/in/large from {}", 2 * GROUP)), "{cut}: {said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_after_a_cut_arrives_as_it_is_now() {
    let folders = tree_of_files();
    folders.send(&["d"], Some(2_900_000)).await.0.unwrap_err();
    let mut data = payload(3_000_000);
    data[10] ^= 1;
    fs::write(folders.here("d/in/large"), &data).unwrap();
    fs::write(folders.here("d/a"), b"six").unwrap();
    fs::remove_file(folders.here("d/.hidden")).unwrap();
    let (sent, refused, _) = folders.send(&["d"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    assert!(fs::read(folders.there("d/in/large")).unwrap() == data);
    assert_eq!(fs::read(folders.there("d/a")).unwrap(), b"six");
}

/// A file that grows while it is sent, and one that came after the list was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_meanwhile_is_told() {
    for (name, bytes, lost, others) in [
        ("d/a", &b"one and more"[..], 1..=1, 0),
        ("d/new", b"", 1..=1, 0),
        ("d/more/new", b"", 2..=2, 0),
        // Where the list does not show all, the last ones are left out: the new ones, or one file, or `in` and its two.
        ("d/new", b"", 1..=1, 20),
        ("d/more/new", b"", 2..=3, 20),
    ] {
        let folders = tree_of_files();
        (0..others).for_each(|n| fs::write(folders.here(&format!("d/{n}")), "x").unwrap());
        let batch = folders.batch(&["d"]);
        fs::create_dir_all(folders.here(name).parent().unwrap()).unwrap();
        fs::write(folders.here(name), bytes).unwrap();
        let (sent, refused, said) = transfer(Arc::new(folders.inbox(false)), batch, TERMS, None).await;
        let failed = said.iter().filter(|said| said.contains("failed: new, or longer than it was")).count();
        assert_eq!(sent.unwrap(), failed, "{name}: {said:?}");
        assert!(lost.contains(&failed), "{name}: {said:?}");
        assert_eq!(refused.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_goes_into_one_that_is_there_only_if_it_may() {
    let folders = tree_of_files();
    fs::create_dir_all(folders.there("d/in")).unwrap();
    fs::write(folders.there("d/a"), "theirs").unwrap();
    fs::write(folders.there("d/in/other"), "theirs").unwrap();
    let (sent, _, said) = folders.send(&["d"], None).await;
    assert_eq!(sent.unwrap(), 0);
    assert!(said.last().unwrap().contains("d (1)"), "{said:?}");
    assert_eq!(fs::read_to_string(folders.there("d/a")).unwrap(), "theirs");
    let (sent, refused, _) = folders.send_to(Arc::new(folders.inbox(true)), &["d"], None).await;
    assert_eq!((sent.unwrap(), refused.unwrap()), (0, 0));
    assert_eq!(fs::read_to_string(folders.there("d/a")).unwrap(), "one");
    assert_eq!(fs::read_to_string(folders.there("d/in/other")).unwrap(), "theirs");
    assert_eq!(fs::read(folders.there("d/in/large")).unwrap().len(), 3_000_000);
    assert_eq!(folders.received().len(), 15, "{:?}", folders.received());
}

/// Returns the receiver's answers to the bytes of a hand-written peer, and the receiver's outcome.
async fn spoken(inbox: &Arc<Inbox>, terms: Terms, bytes: Vec<u8>) -> (Vec<Frame>, io::Result<usize>) {
    let (near, far) = tokio::io::duplex(4 << 20);
    let (mut read, mut write) = split::<DuplexStream>(near);
    let (inbox, stop) = (inbox.clone(), Arc::new(Stop::default()));
    let (from, to) = split(far);
    let ends = (Reader::new(from, stop.clone()), Writer::new(to));
    let receiving = tokio::task::spawn_blocking(move || {
        receive::receive(&inbox, terms, (peer(3), stop), ends, |_| Ok(()), |_| {})
    });
    let speaking = async move {
        let _ = write.write_all(&bytes).await;
        let _ = write.shutdown().await;
        let mut answers = Vec::new();
        let _ = read.read_to_end(&mut answers).await;
        frames(&answers)
    };
    let (answers, ended) = tokio::join!(speaking, receiving);
    (answers, ended.unwrap())
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut all = Vec::new();
    while let Ok(Some((frame, length))) = Frame::read(bytes) {
        all.push(frame);
        bytes = &bytes[length..];
    }
    all
}

/// Returns the bytes of frames. A list without names gets those of the entries that follow, as many as it has to show.
fn bytes(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let path = |frame: &Frame| match frame {
        Frame::Folder(path) | Frame::File(Offer { path, .. }) | Frame::Link(path, ..) => Some(path.clone()),
        _ => None,
    };
    let cut = |path: Vec<u8>| path[..path.len().min(wire::MAX_NAME)].to_vec();
    for frame in frames {
        let mut frame = frame.clone();
        if let Frame::Hello(_, list) = &mut frame
            && list.names.is_empty()
        {
            let all = list.files.saturating_add(list.folders).min(wire::MAX_NAMES as u64);
            let paths = frames.iter().filter_map(path).map(cut);
            list.names = paths.chain(std::iter::repeat(b"more".to_vec())).take(all as usize).collect();
        }
        frame.write(&mut bytes);
    }
    bytes
}

fn hello(files: u64, folders: u64) -> Frame {
    Frame::Hello(Some(RESUME), Listing { files, folders, bytes: None, ..Listing::default() })
}

const META: Meta = Meta { mode: 0o644, seconds: 1, nanos: 0 };

fn file(path: &str, size: u64) -> Frame {
    Frame::File(Offer { path: path.into(), size: Some(size), meta: META, sparse: false })
}

fn folder(path: &str) -> Frame {
    Frame::Folder(path.into())
}

fn link(path: &str, target: &str) -> Frame {
    Frame::Link(path.into(), target.into(), META)
}

/// The bytes of a file, by its number.
fn body(n: Number, data: &[u8]) -> Vec<Frame> {
    vec![Frame::Body(n), Frame::Data(data.to_vec()), Frame::End(*blake3::hash(data).as_bytes())]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_sender_writes_nowhere_else_and_not_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("in");
    fs::create_dir(&inside).unwrap();
    let inbox = Arc::new(Inbox::new(&inside, true, LIMITS).unwrap());
    let long = "n".repeat(256);
    let deep = format!("d{}", "/d".repeat(65));
    let names = [
        "../out",
        "/tmp/p2pd-out",
        "..",
        ".",
        "a/b",
        "a\\b",
        ".profile",
        "a\0",
        "\x1b]0;x\x07",
        "CON",
        "d/..",
        "d/../../out",
        "d/.",
        "d//x",
        "d/",
        "d/a\0b",
        "d/x/../y",
        &long,
        &deep,
        "d/.a.0123456789abcdef0123.p2pd-part",
    ];
    let mut all = vec![hello(names.len() as u64 + 2, 1), folder("d")];
    all.extend(names.map(|name| file(name, 1)));
    all.extend([file("big", 101), file("huge", u64::MAX - 1)]);
    let (answers, ended) = spoken(&inbox, Terms { max_size: 100, ..TERMS }, bytes(&all)).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(answers[..2], [Frame::Go(true), Frame::Done(0)]);
    for (n, answer) in answers[2..].iter().enumerate() {
        let Frame::Not(number, why) = answer else { panic!("{n}: {answer:?}") };
        assert_eq!(*number as usize, n + 1);
        match names.get(n) {
            // A path whose folder was not sent.
            Some(&("a/b" | "d/x/../y")) => assert!([Refusal::NotWritten, Refusal::Name].contains(why)),
            Some(name) => assert_eq!(*why, Refusal::Name, "{name}"),
            None => assert_eq!(*why, Refusal::TooLarge),
        }
    }
    assert_eq!(answers.len(), names.len() + 4);
    // Nothing but the folder that was begun.
    let mut left = Vec::new();
    list(dir.path(), "", &mut left);
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_beyond_what_was_offered_end_it_and_a_wrong_hash_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Arc::new(Inbox::new(dir.path(), false, LIMITS).unwrap());
    let packed = zstd::bulk::compress(&vec![0; 2 << 20], 1).unwrap();
    let mut over = bytes(&[hello(1, 0), file("a", 3)]);
    for more in [
        vec![Frame::Body(0), Frame::Data(vec![1; 4])],
        vec![Frame::Body(0), Frame::Data(vec![1; 2]), Frame::Hole(2)],
        vec![Frame::Body(0), Frame::Data(vec![1; 2]), Frame::End([0; 32])],
        vec![Frame::Body(1)],
        vec![Frame::Data(vec![1])],
        vec![Frame::Tree(0, vec![[0; 32]])],
        vec![file("b", 1)],
        vec![Frame::Go(true)],
        vec![hello(1, 0)],
        // More than it says, and more than a block may be.
        vec![Frame::Body(0), Frame::Packed(packed.clone())],
        vec![Frame::Body(0), Frame::Packed(b"no zstd".to_vec())],
    ] {
        let length = over.len();
        over.extend(bytes(&more));
        let (answers, ended) = spoken(&inbox, TERMS, over.clone()).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData, "{more:?}");
        assert_eq!(answers[..2], [Frame::Go(true), Frame::Take(0, 0)], "{more:?}");
        over.truncate(length);
        let _ = fs::remove_file(dir.path().join(partial("a")));
    }
    // Whoever has no yes sends every byte.
    for cheap in [Frame::Hole(3), Frame::Packed(zstd::bulk::compress(&[0; 3], 1).unwrap())] {
        let said = bytes(&[hello(1, 0), file("a", 3), Frame::Body(0), cheap]);
        let (answers, ended) = spoken(&inbox, Terms { packed: false, ..TERMS }, said).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(answers[0], Frame::Go(false));
    }
    let mut wrong = bytes(&[hello(2, 0), file("c", 3), file("d", 3)]);
    wrong.extend(bytes(&[Frame::Body(0), Frame::Data(b"abc".to_vec()), Frame::End([7; 32])]));
    wrong.extend(bytes(&body(1, b"def")));
    wrong.extend(bytes(&[Frame::Bye]));
    let (answers, ended) = spoken(&inbox, TERMS, wrong).await;
    assert_eq!(
        answers[3..],
        [Frame::Not(0, Refusal::Damaged), Frame::Done(1), Frame::Stored],
        "the next one is taken"
    );
    assert_eq!(ended.unwrap(), 1);
    let mut left = Vec::new();
    list(dir.path(), "", &mut left);
    assert_eq!(left, [("d".into(), 3)]);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_never_makes_a_later_file_land_outside() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let inbox = Arc::new(Inbox::new(dir.path(), true, LIMITS).unwrap());
    let out = outside.path().to_str().unwrap();
    let terms = Terms { outside_links: true, ..TERMS };
    // A link to a folder, then a file, a folder and a link through it; a link, then a file of its name; the part's name as
    // a link is none that may be chosen.
    let all = [
        hello(8, 3),
        folder("d"),
        link("d/l", out),
        file("d/l/x", 1),
        folder("d/l/y"),
        link("d/l/z", "a"),
        link("d/f", &format!("{out}/made")),
        file("d/f", 1),
    ];
    let mut said = bytes(&all);
    said.extend(bytes(&body(6, b"x")));
    // A folder of a link's name takes its place.
    said.extend(bytes(&[folder("d/l"), file("d/l/x", 1)]));
    said.extend(bytes(&body(8, b"y")));
    said.extend(bytes(&[Frame::Leave("d".into(), META), Frame::Bye]));
    let (answers, ended) = spoken(&inbox, terms, said).await;
    let refused = |n| Frame::Not(n, Refusal::NotWritten);
    assert_eq!(
        answers,
        [
            Frame::Go(true),
            Frame::Done(0),
            Frame::Done(1),
            refused(2),
            refused(3),
            refused(4),
            Frame::Done(5),
            Frame::Take(6, 0),
            Frame::Done(6),
            Frame::Done(7),
            Frame::Take(8, 0),
            Frame::Done(8),
            Frame::Done(9),
            Frame::Stored,
        ]
    );
    assert_eq!(ended.unwrap(), 3);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(dir.path().join("d/f").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_to_string(dir.path().join("d/l/x")).unwrap(), "y");
    assert_eq!(
        fs::metadata(dir.path().join("d")).unwrap().modified().unwrap().elapsed().unwrap().as_secs()
            / 1_000_000_000,
        1
    );
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn links_that_lead_out_of_their_folder_are_made_only_if_the_user_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let links = [
        ("d/a", "x", true),
        ("d/b", "./in/../x", false),
        ("d/c", "/etc/passwd", false),
        ("d/e", "..", false),
        ("d/f", "../d/x", false),
        ("d/in/g", "../x", true),
        ("d/in/h", "../../x", false),
        ("d/in/i", ".././/in/x", true),
        ("d/in/j", "x/..", false),
        ("d/k", "a\0b", false),
        ("top", "x", false),
    ];
    for outside_links in [false, true] {
        let inbox = Arc::new(Inbox::new(dir.path(), true, LIMITS).unwrap());
        let mut all = vec![hello(links.len() as u64, 2), folder("d"), folder("d/in")];
        all.extend(links.map(|(path, target, _)| link(path, target)));
        let (answers, _) = spoken(&inbox, Terms { outside_links, ..TERMS }, bytes(&all)).await;
        for ((path, target, inside), answer) in links.iter().zip(&answers[3..]) {
            let made = (*inside || outside_links) && *path != "top" && !target.contains('\0');
            assert_eq!(matches!(answer, Frame::Done(_)), made, "{path} to {target}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_shows_all_holds() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Arc::new(Inbox::new(dir.path(), true, LIMITS).unwrap());
    let names = vec![b"cat.jpg".to_vec(), b"d".to_vec()];
    let list = Listing { files: 1, folders: 1, names, ..Listing::default() };
    let all =
        [Frame::Hello(None, list.clone()), folder("d"), file("evil.sh", 0), Frame::Leave("d".into(), META)];
    let (answers, _) = spoken(&inbox, TERMS, bytes(&all)).await;
    assert_eq!(answers[1..], [Frame::Done(0), Frame::Not(1, Refusal::Name), Frame::Done(2)]);
    // A list that is longer shows its first names.
    let names: Vec<_> = (0..wire::MAX_NAMES).map(|n| n.to_string().into_bytes()).collect();
    let long = Listing { files: 10, names, ..list.clone() };
    let all = [Frame::Hello(None, long.clone()), folder("d"), file("d/x", 0)];
    let (answers, _) = spoken(&inbox, TERMS, bytes(&all)).await;
    assert_eq!(answers[1..], [Frame::Done(0), Frame::Take(1, 0)]);
    // One that shows fewer than it can is taken by nobody, nor is one of nothing.
    for hidden in [
        Listing { files: 2, ..list },
        Listing { names: long.names[1..].to_vec(), ..long.clone() },
        Listing { names: vec![b"cat.jpg".to_vec()], files: u64::MAX, ..long },
        Listing::default(),
    ] {
        let said = [Frame::Hello(None, hidden), folder("d"), file("d/x", 0)];
        let mut all = Vec::new();
        said.iter().for_each(|frame| frame.write(&mut all));
        let (answers, ended) = spoken(&inbox, TERMS, all).await;
        assert_eq!((answers, ended.unwrap_err().kind()), (vec![], io::ErrorKind::InvalidData));
    }
}

/// A file system that takes names for the same that differ in case alone.
#[tokio::test(flavor = "multi_thread")]
async fn twins_are_refused_where_their_names_are_one() {
    let dir = tempfile::tempdir().unwrap();
    for folds in [true, false] {
        let mut inbox = Inbox::new(dir.path(), true, LIMITS).unwrap();
        inbox.folds = folds;
        let all = [
            hello(6, 4),
            folder("d"),
            file("d/Makefile", 1),
            file("d/makefile", 1),
            folder("d/MAKEFILE"),
            folder("d/e"),
            file("d/e/makefile", 1),
            file("d/caf\u{e9}", 1),
            file("d/cafe\u{301}", 1),
        ];
        let (answers, _) = spoken(&Arc::new(inbox), TERMS, bytes(&all)).await;
        let twin = |n| answers.contains(&Frame::Not(n, Refusal::Twin));
        assert_eq!([1, 2, 3, 4, 5].map(twin), [false, folds, folds, false, false], "{answers:?}");
        assert_eq!([6, 7].map(twin), [false, folds], "{answers:?}");
    }
    // Of one connect, not even beside each other.
    let inbox = Arc::new(Inbox::new(dir.path(), true, LIMITS).unwrap());
    let (answers, _) = spoken(&inbox, TERMS, bytes(&[hello(2, 0), file("a", 1), file("A", 1)])).await;
    assert_eq!(answers[2], Frame::Not(1, Refusal::Twin));
}

/// Answers to a sender are the same as for an empty folder, no matter which files others have sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_sent_is_not_told() {
    let folders = Folders::new(&[("secret", b"twelve bytes"), ("half", &payload(500_000)), ("d/x", b"y")]);
    let inbox = Arc::new(folders.inbox(false));
    folders.send_to(inbox.clone(), &["secret", "d"], None).await.0.unwrap();
    folders.send_to(inbox.clone(), &["half"], Some(200_000)).await.0.unwrap_err();
    assert!(folders.there(&partial("half")).exists());
    let empty = tempfile::tempdir().unwrap();
    let empty = Arc::new(Inbox::new(empty.path(), false, LIMITS).unwrap());
    let mut strangers = 100..;
    for (name, sent) in [
        ("secret", &b"twelve bytes"[..]),
        ("secret", b"a guess of s"),
        ("secret", b"short"),
        ("half", b"half"),
        ("d", b"y"),
    ] {
        for _ in 0..2 {
            let list = Listing { files: 1, bytes: Some(100), ..Listing::default() };
            let stranger = Frame::Hello(strangers.next().map(|n| [n; 16]), list);
            let mut said = bytes(&[stranger, file(name, sent.len() as u64)]);
            said.extend(bytes(&body(0, sent)));
            said.extend(bytes(&[Frame::Bye]));
            for inbox in [&inbox, &empty] {
                let (answers, ended) = spoken(inbox, TERMS, said.clone()).await;
                assert_eq!(
                    answers,
                    [Frame::Go(true), Frame::Take(0, 0), Frame::Done(0), Frame::Stored],
                    "{name}"
                );
                assert_eq!(ended.unwrap(), 0);
            }
        }
    }
    // Not even by an offer of the length that is there, nor by a folder of the name.
    let stranger = Frame::Hello(None, Listing { files: 2, folders: 1, ..Listing::default() });
    let ask = bytes(&[stranger, file("half", 500_000), folder("d"), file("d/x", 1)]);
    let (answers, _) = spoken(&inbox, TERMS, ask).await;
    assert_eq!(answers, [Frame::Go(true), Frame::Take(0, 0), Frame::Done(1), Frame::Take(2, 0)]);
    assert_eq!(fs::read(folders.there("secret")).unwrap(), b"twelve bytes");
    assert_eq!(fs::read(folders.there("d/x")).unwrap(), b"y");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_an_end_to_what_all_peers_together_may_send() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 100, files: 3, ..LIMITS };
    let inbox = Arc::new(Inbox::new(dir.path(), false, limits).unwrap());
    let last = |name| {
        let mut said = bytes(&[hello(1, 0), file(name, 60)]);
        said.extend(bytes(&body(0, &[7; 60])));
        said
    };
    let (answers, _) = spoken(&inbox, TERMS, last("a")).await;
    assert_eq!(answers, [Frame::Go(true), Frame::Take(0, 0), Frame::Done(0)]);
    let (answers, _) = spoken(&inbox, TERMS, last("b")).await;
    assert_eq!(answers[1], Frame::Not(0, Refusal::TooLarge));
    // What is refused uses nothing up.
    let mut all = vec![hello(20, 0)];
    all.extend((0..20).map(|_| file("..", 0)));
    let (answers, _) = spoken(&inbox, TERMS, bytes(&all)).await;
    assert_eq!(answers[20], Frame::Not(19, Refusal::Name));
    let mut all = vec![hello(20, 0)];
    all.extend((0..20).map(|n| link(&format!("l{n}"), "x")));
    let (answers, _) = spoken(&inbox, TERMS, bytes(&all)).await;
    assert_eq!(answers[20], Frame::Not(19, Refusal::Name));
    // Files without bytes have an end too, as have folders and links.
    let all = [hello(3, 1), folder("d"), file("d/a", 0), file("d/b", 0)];
    let (answers, _) = spoken(&inbox, TERMS, bytes(&all)).await;
    assert_eq!(answers[1..], [Frame::Done(0), Frame::Take(1, 0), Frame::Not(2, Refusal::TooMany)]);
    // A size that is not known ends where the bytes do that are taken.
    let inbox = Arc::new(Inbox::new(dir.path(), false, LIMITS).unwrap());
    let unknown = Frame::File(Offer { path: b"in".to_vec(), size: None, meta: META, sparse: false });
    let mut said = bytes(&[hello(1, 0), unknown]);
    said.extend(bytes(&body(0, &[7; 60])));
    said.extend(bytes(&[Frame::Bye]));
    let (answers, _) = spoken(&inbox, Terms { max_size: 60, ..TERMS }, said.clone()).await;
    assert_eq!(answers[2..], [Frame::Done(0), Frame::Stored]);
    let (answers, _) = spoken(&inbox, Terms { max_size: 59, ..TERMS }, said).await;
    assert_eq!(answers[2..], [Frame::Not(0, Refusal::NotWritten), Frame::Stored]);
}

/// A file that is copied from an earlier folder counts as one that is sent.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_what_was_sent_before_end_where_the_bytes_do_that_are_taken() {
    let folders = Folders::new(&[("a", &[1; 250]), ("b", &[2; 250])]);
    let hashes = |name: &str| {
        tree::of_file(&fs::File::open(folders.here(name)).unwrap(), 250, tree::group(Some(250))).unwrap()
    };
    let inbox = Inbox::new(folders.there.path(), false, Limits { bytes: 900, ..LIMITS }).unwrap();
    let inbox = Arc::new(inbox);
    let mut said = vec![hello(3, 1), folder("d"), file("d/a", 250), file("d/b", 250), file("d/hole", 300)];
    said.extend([body(1, &[1; 250]), body(2, &[2; 250])].concat());
    said.extend([Frame::Body(3), Frame::Hole(300), Frame::End(*blake3::hash(&[0; 300]).as_bytes())]);
    said.push(Frame::Leave(b"d".to_vec(), META));
    let (answers, _) = spoken(&inbox, TERMS, bytes(&said)).await;
    assert_eq!(answers.last(), Some(&Frame::Done(4)));
    assert_eq!((folders.received().len(), inbox.room()), (4, 400));
    // Each one has room. A file of holes is not proven: its copy would have none.
    let mut said = vec![hello(3, 1), folder("d"), file("d/a", 250), file("d/b", 250), file("d/hole", 300)];
    said.extend([Frame::Tree(1, hashes("a")), Frame::Tree(2, hashes("b"))]);
    let (answers, _) = spoken(&inbox, TERMS, bytes(&said)).await;
    assert_eq!(
        answers[2..],
        [
            Frame::Prove(1, 250),
            Frame::Prove(2, 250),
            Frame::Take(3, 0),
            Frame::Same(1),
            Frame::Not(2, Refusal::NotWritten)
        ]
    );
    assert_eq!(inbox.room(), 0);
}

/// Files that a user puts into a received folder are not told to its sender.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_proves_nothing_by_files_that_it_never_sent() {
    let put = |folders: &Folders, name: &str, seconds: u64| {
        fs::write(folders.there(name), [3; 250]).unwrap();
        let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let file = fs::File::options().write(true).open(folders.there(name)).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(then)).unwrap();
    };
    let mut first = vec![hello(2, 1), folder("d"), file("d/a", 250), file("d/b", 250)];
    first.extend([body(1, &[1; 250]), body(2, &[2; 250])].concat());
    first.push(Frame::Leave(b"d".to_vec(), META));
    let again = [hello(3, 1), folder("d"), file("d/a", 250), file("d/b", 250), file("d/theirs", 250)];
    for overwrite in [false, true] {
        let folders = Folders::new(&[]);
        let inbox = Arc::new(folders.inbox(overwrite));
        if overwrite {
            fs::create_dir(folders.there("d")).unwrap();
            // Of the time that the sender guesses.
            put(&folders, "d/theirs", 1);
        }
        let (answers, _) = spoken(&inbox, TERMS, bytes(&first)).await;
        assert_eq!(answers.last(), Some(&Frame::Done(3)));
        if !overwrite {
            put(&folders, "d/theirs", 2);
            put(&folders, "d/b", 2);
        }
        let (answers, _) = spoken(&inbox, TERMS, bytes(&again)).await;
        let known = if overwrite { Frame::Take(1, 0) } else { Frame::Prove(1, 250) };
        assert_eq!(answers[2..], [known, Frame::Take(2, 0), Frame::Take(3, 0)], "{overwrite}");
    }
}

/// A choice by chance would miss one of the 32 streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_came_before_the_end_of_its_session_is_taken() {
    let node = async || {
        let key = p2pd_core::SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap());
        let mut config = p2pd_core::Config::new(key);
        config.bind = Some([127, 0, 0, 1].into());
        Node::bind(config.sessions(true)).await.unwrap()
    };
    let (a, b) = (node().await, node().await);
    let to = b.address().await;
    let (ours, theirs) = tokio::join!(a.connect_session(&to), b.accept_session());
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    let mut opened = Vec::new();
    for _ in 0..32 {
        opened.push(ours.open_bi(TAG).await.unwrap());
    }
    ours.delivered().await.unwrap();
    ours.close(0, b"");
    theirs.closed().await;
    for n in 0..32 {
        assert!(stream(&theirs).await.is_some(), "{n}");
    }
    assert!(stream(&theirs).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_begin_is_let_go_after_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Arc::new(Inbox::new(dir.path(), false, LIMITS).unwrap());
    let one = async |said: Vec<Frame>| {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (_read, mut write) = split::<DuplexStream>(near);
        write.write_all(&bytes(&said)).await.unwrap();
        let (from, to) = split(far);
        let stop = Arc::new(Stop::default());
        let ends = (Reader::new(from, stop.clone()), Writer::new(to));
        let (began, inbox) = (Instant::now(), inbox.clone());
        let ended = tokio::task::spawn_blocking(move || {
            receive::receive(&inbox, TERMS, (peer(3), stop), ends, |_| Ok(()), |_| {})
        });
        assert_eq!(ended.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        let took = began.elapsed().as_secs();
        assert!((9..30).contains(&took), "{took} s after {said:?}");
    };
    tokio::join!(
        one(vec![]),
        one(vec![hello(1, 0)]),
        one(vec![hello(1, 0), file("a", 1 << 20)]),
        one(vec![hello(1, 0), file("b", 1 << 20), Frame::Body(0)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_without_end_are_not_answered_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Arc::new(Inbox::new(dir.path(), false, LIMITS).unwrap());
    let mut all = vec![hello(u64::MAX, u64::MAX)];
    all.resize(20_000, file("..", 0));
    let (answers, ended) = spoken(&inbox, TERMS, bytes(&all)).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(answers.len(), receive::MAX_REFUSED + 1);
    // Nor are more taken at a time than a sender may offer, nor more than it listed.
    for (listed, offered, taken) in [(u64::MAX, 2000, stage::MAX_FILES), (3, 5, 3)] {
        let mut all = vec![hello(listed, 0)];
        all.extend((0..offered).map(|n| file(&format!("f{n}"), 1)));
        let (answers, ended) = spoken(&inbox, TERMS, bytes(&all)).await;
        ended.unwrap_err();
        let takes = answers.iter().filter(|answer| matches!(answer, Frame::Take(..))).count();
        assert_eq!(takes, taken);
    }
    let mut all = vec![hello(u64::MAX, u64::MAX), folder("d")];
    all.extend((0..2000).map(|n| file(&format!("d/f{n}"), 1)));
    let (answers, ended) = spoken(&inbox, TERMS, bytes(&all)).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(answers.len(), 2 + send::WINDOW);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_speaks_otherwise_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Arc::new(Inbox::new(dir.path(), false, LIMITS).unwrap());
    for other in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"",
        b"\0\0\0\x01\x0c",
        &bytes(&[hello(1, 0), Frame::Stored]),
        &bytes(&[hello(1, 0), file("a", 1), hello(1, 0)])[..90],
    ] {
        let (_, ended) = spoken(&inbox, TERMS, other.to_vec()).await;
        let kind = ended.unwrap_err().kind();
        assert!(
            [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof].contains(&kind),
            "{other:?}: {kind}"
        );
    }
}

/// Sends to a hand-written receiver, which says these bytes whatever comes. Returns the sender's outcome.
async fn answered(folders: &Folders, name: &str, said: Vec<u8>) -> io::Result<usize> {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (from, to) = split(near);
    let ends = (Reader::new(from, Arc::default()), Writer::new(to));
    let batch = folders.batch(&[name]);
    let sending = tokio::task::spawn_blocking(move || send::send(&batch, None, true, ends, |_| {}));
    let answering = async move {
        let (mut read, mut write) = split(far);
        let _ = write.write_all(&said).await;
        let _ = write.shutdown().await;
        let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
    };
    tokio::join!(sending, answering).0.unwrap()
}

/// A receiver gets the file that is offered, and nothing by what it answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_receiver_is_told_apart() {
    let folders = Folders::new(&[("a", b"xyz")]);
    let other = "the peer answered what was not asked";
    for (said, why) in [
        (vec![hello(1, 0)], "the peer is no receiver"),
        (vec![Frame::No(Refusal::Declined)], "the receiver's user said no"),
        (vec![Frame::Go(true), Frame::No(Refusal::Crowded)], "busy and made room"),
        (vec![Frame::Go(true), Frame::Take(1, 0)], other),
        (vec![Frame::Go(true), Frame::Take(0, 1)], other),
        (vec![Frame::Go(true), Frame::Done(0)], other),
        (vec![Frame::Go(true), Frame::Same(0)], other),
        (vec![Frame::Go(true), Frame::Prove(0, 0)], other),
        (vec![Frame::Go(true), Frame::Prove(0, 4)], other),
        (vec![Frame::Go(true), Frame::Prove(0, 2), Frame::Same(0)], other),
        (vec![Frame::Go(true), Frame::Prove(0, 3), Frame::Take(0, GROUP)], other),
        (vec![Frame::Go(true), Frame::Take(0, 0), Frame::Take(0, 0)], other),
        (vec![Frame::Go(true), Frame::Stored], other),
        (vec![Frame::Go(true)], "the peer ended"),
        (vec![], "the peer ended: it does not receive files"),
    ] {
        let ended = answered(&folders, "a", bytes(&said)).await.unwrap_err().to_string();
        assert!(ended.contains(why), "{said:?}: {ended}");
    }
}

#[test]
fn what_cannot_be_sent_is_said_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".hidden"), "").unwrap();
    for (path, why) in [("missing", "No such file"), (".hidden", "begin with a dot")] {
        let said = Batch::new(&[dir.path().join(path)], Say::new(true, true)).unwrap_err();
        assert!(said.contains(why) && said.contains(path), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn a_list_says_what_there_is_and_which_names_are_odd() {
    use std::os::unix::fs::symlink;
    let folders = tree_of_files();
    fs::write(folders.here("d/a:b"), "12345").unwrap();
    fs::write(folders.here("d/in/aux.h"), "").unwrap();
    // Twins: one of them is odd, whichever comes second, and in another folder none is.
    for twin in ["d/in/caf\u{e9}", "d/in/cafe\u{301}", "d/caf\u{e9}"] {
        fs::write(folders.here(twin), "").unwrap();
    }
    // Nothing is followed out, nor round in a circle.
    symlink("/", folders.here("d/root")).unwrap();
    symlink(".", folders.here("d/in/again")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folders.here("d/fifo"), 0o600.into()).unwrap();
    let batch = folders.batch(&["d", "d/a"]);
    let list = &batch.listing;
    assert_eq!((list.files, list.folders, list.bytes), (12, 3, Some(3_000_014)));
    assert_eq!((list.odd, batch.skipped), (3, 1));
    let mut odd = list.odd_names.clone();
    odd.sort();
    assert_eq!(odd[..2], [b"d/a:b".to_vec(), b"d/in/aux.h".to_vec()]);
    assert!(odd[2].starts_with(b"d/in/caf"));
    assert_eq!(list.names.len(), wire::MAX_NAMES);
    assert_eq!(list.names[0], b"d");
    // A folder by a name that has none.
    let dots = Batch::new(&[folders.here("d/in/..")], Say::new(true, true)).unwrap();
    assert_eq!(dots.listing.names[0], b"d");
}
