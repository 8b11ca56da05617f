//! `p2pd file` as its user runs it: two processes on loopback, cut and gone on with.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

const LOCAL: [&str; 3] = ["--no-servers", "--bind", "127.0.0.1"];

/// Home of all tests, with the secrets by which receivers recognise senders.
fn home() -> &'static Path {
    static HOME: OnceLock<tempfile::TempDir> = OnceLock::new();
    HOME.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

fn p2pd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.arg("file").args(args).args(LOCAL).env(p2pd::servers::FORBID_PUBLIC, "1").env("HOME", home());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends the process however the test ends.
struct Receiver {
    child: Child,
    said: BufReader<ChildStderr>,
    address: String,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Receiver {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let dir = dir.to_str().unwrap();
        let mut child = p2pd(&["receive", "--json", "--dir", dir]).args(more).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut receiver = Receiver { child, said, address: String::new() };
        receiver.address =
            receiver.event(|event| event["event"] == "ready")["address"].as_str().unwrap().into();
        receiver
    }

    fn event(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.said.read_line(&mut line).unwrap(), 0, "the receiver ended");
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Interrupts it, and returns its exit code.
    fn interrupt(&mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    /// Reads what is said from now on, so that the receiver never waits for a reader.
    fn ignore(&self) {
        use std::os::fd::AsFd;
        let mut said = fs::File::from(self.said.get_ref().as_fd().try_clone_to_owned().unwrap());
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    }

    /// The next thing that is said of a file.
    fn state(&mut self, state: &str) -> Value {
        self.event(|event| event["event"] == "file" && event["state"] == state)
    }
}

fn send(to: &str, files: &[&Path]) -> Command {
    let mut command = p2pd(&["send", to]);
    command.args(files);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ended(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(&output.stderr))
}

/// 64 MiB without a short period.
fn large(dir: &Path) -> PathBuf {
    let block: Vec<u8> = (0..1_000_003_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut data = block.repeat(68);
    data.truncate(64 << 20);
    let path = dir.join("large.bin");
    fs::write(&path, data).unwrap();
    path
}

/// Returns the path of a partial file, if there is one.
fn part(dir: &Path, name: &str) -> Option<PathBuf> {
    let parts = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let begin = format!(".{name}.");
    parts.into_iter().find(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&begin) && name.ends_with(".p2pd-part")
    })
}

fn wait_for(dir: &Path, name: &str, bytes: u64) -> PathBuf {
    let begin = Instant::now();
    loop {
        let part = part(dir, name);
        let there = part.as_ref().and_then(|part| fs::metadata(part).ok()).map_or(0, |found| found.len());
        if let Some(part) = part.filter(|_| there >= bytes) {
            return part;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{name}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the length of a file once what was under way has arrived: it has not grown for half a second.
fn settled(path: &Path) -> u64 {
    let (mut length, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        let now = fs::metadata(path).unwrap().len();
        if now != length {
            (length, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    length
}

#[test]
fn files_arrive_whole_and_their_hash_is_said() {
    let here = tempfile::tempdir().unwrap();
    // A folder that is not there yet is made.
    let there = here.path().join("Downloads");
    let (one, two) = (here.path().join("one two.txt"), here.path().join("empty"));
    fs::write(&one, "hello").unwrap();
    fs::write(&two, "").unwrap();
    let mut receiver = Receiver::start(&there, &["--once"]);
    let (code, said) = ended(&send(&receiver.address, &[&one, &two]).output().unwrap());
    assert_eq!(code, Some(0), "{said}");
    // As b3sum has it.
    let hash = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";
    assert!(said.contains(&format!("blake3 {hash}")), "{said}");
    assert!(said.contains("sending: one two.txt, 5 B\n") && !said.contains('\r'), "{said}");
    let done = receiver.state("done");
    assert_eq!((&done["name"], &done["size"]), (&"one two.txt".into(), &5.into()));
    assert_eq!((&done["blake3"], &done["direction"]), (&hash.into(), &"receive".into()));
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_to_string(there.join("one two.txt")).unwrap(), "hello");
    assert_eq!(fs::read_dir(&there).unwrap().count(), 2);
}

#[test]
fn a_cut_on_either_side_is_gone_on_from() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = large(here.path());
    // A receiver that begins anew is the same one by its key.
    let key = here.path().join("key");
    let same = ["--identity", key.to_str().unwrap()];
    let mut receiver = Receiver::start(there.path(), &same);
    // The sender is killed,
    let mut sender = send(&receiver.address, &[&file]).spawn().unwrap();
    let part = wait_for(there.path(), "large.bin", 1 << 20);
    sender.kill().unwrap();
    sender.wait().unwrap();
    let cut = settled(&part);
    assert!(cut < 64 << 20, "too fast to be cut");
    // then the receiver, whose sender says what to do,
    let sender = send(&receiver.address, &[&file]).spawn().unwrap();
    assert_eq!(wait_for(there.path(), "large.bin", cut + (1 << 20)), part, "the sender is known again");
    receiver.interrupt();
    let (code, said) = ended(&sender.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("large.bin: ") && said.contains("the same command goes on from there"), "{said}");
    assert!(!there.path().join("large.bin").exists());
    // and what is there by now is not sent again, but for the mebibyte that was cut.
    let again = settled(&part);
    assert!(again > cut && again < 64 << 20, "{cut}, {again}");
    let again = again >> 20 << 20;
    let mut receiver = Receiver::start(there.path(), &same);
    let (code, said) = ended(&send(&receiver.address, &[&file]).output().unwrap());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("from byte {again}")), "{said}");
    let done = receiver.state("done");
    assert_eq!((&done["from"], &done["size"]), (&again.into(), &(64 << 20).into()));
    assert!(fs::read(&file).unwrap() == fs::read(there.path().join("large.bin")).unwrap());
    assert!(!part.exists());
    // Once more: it is there already.
    let (code, said) = ended(&send(&receiver.address, &[&file]).output().unwrap());
    assert_eq!((code, said.contains("large.bin: is there already")), (Some(0), true), "{said}");
}

#[test]
fn what_is_refused_is_said_on_both_sides_and_ends_with_1() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let paths = ["taken", "big", "good"].map(|name| here.path().join(name));
    for (path, size) in paths.iter().zip([3, 2000, 100]) {
        fs::write(path, vec![b'x'; size]).unwrap();
    }
    fs::write(there.path().join("taken"), "old").unwrap();
    let kept = there.path().join("taken (1)");
    let mut receiver = Receiver::start(there.path(), &["--once", "--max-size", "1K"]);
    let files: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let (code, said) = ended(&send(&receiver.address, &files).output().unwrap());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("p2pd: big: the receiver does not take so many bytes"), "{said}");
    // The receiver's user is told, and nobody else.
    assert!(!said.contains("taken (1)"), "{said}");
    assert_eq!(receiver.state("refused")["name"], "big");
    let done = receiver.state("done");
    assert_eq!((&done["name"], &done["kept"]), (&"taken".into(), &"taken (1)".into()));
    assert_eq!(receiver.child.wait().unwrap().code(), Some(1));
    assert_eq!(fs::read_to_string(there.path().join("taken")).unwrap(), "old");
    assert_eq!(fs::read_to_string(kept).unwrap(), "xxx");
    assert_eq!(fs::metadata(there.path().join("good")).unwrap().len(), 100);

    let mut receiver = Receiver::start(there.path(), &["--once", "--overwrite"]);
    assert_eq!(ended(&send(&receiver.address, &files[..1]).output().unwrap()).0, Some(0));
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_to_string(there.path().join("taken")).unwrap(), "xxx");
}

#[test]
fn wrong_usage_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing").join("folder");
    let address =
        "None-[0,127.0.0.1,127.0.0.1,9,1,1,0]-0-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for (mut command, word) in [
        (send("nonsense", &[&missing]), "address"),
        (send(address, &[]), "<PATH>"),
        (
            send(address, &[Path::new("-"), Path::new("-"), Path::new("/dev/null")]),
            "not a file and not a folder",
        ),
        (p2pd(&["receive", "--dir", missing.to_str().unwrap()]), "missing"),
        (p2pd(&["receive", "--max-size", "1X"]), "not a number of bytes"),
        (p2pd(&["receive", "--max-size", "99999999999T"]), "too many bytes"),
    ] {
        let (code, said) = ended(&command.output().unwrap());
        assert_eq!((code, said.contains(word)), (Some(2), true), "{word}: {said}");
    }
}

/// Opens a session to a receiver, and the stream of a sender on it.
async fn by_hand(
    to: &str,
    key: u8,
) -> (p2pd_tokio::Node, p2pd_tokio::Session, (p2pd_tokio::SendStream, p2pd_tokio::RecvStream)) {
    let mut config = p2pd_core::Config::new(p2pd_core::SecretKey::from_bytes([key; 32]));
    config.bind = Some([127, 0, 0, 1].into());
    let node = p2pd_tokio::Node::bind(config).await.unwrap();
    let mut plan = p2pd_core::Plan::new();
    plan.protocol = p2pd_core::ProtocolTag::new(b"p2pd-files/3");
    let session = node.connect_session_with(to, plan).await.unwrap();
    let stream = session.open_bi(b"files/3").await.unwrap();
    (node, session, stream)
}

/// A greeting, with a list of one file, and the offer of a file of so many bytes.
fn offered(name: &str, size: u64) -> Vec<u8> {
    let path = [&(name.len() as u16).to_be_bytes()[..], name.as_bytes()].concat();
    let names = [&[1][..], &path, &[0; 9]].concat();
    let hello = [&[0, 0][..], &[0; 16], &1_u64.to_be_bytes(), &[0; 8], &size.to_be_bytes(), &names].concat();
    let file = [&[2, 0][..], &size.to_be_bytes(), &0o644_u16.to_be_bytes(), &[0; 12], &path].concat();
    [framed(&hello), framed(&file)].concat()
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

/// Says the sender's part by hand up to the receiver's last word on the file, and leaves the session open.
#[tokio::test]
async fn a_receiver_that_has_all_ends_with_0_though_its_sender_is_still_there() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let there = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(there.path(), &[]);
    let (_node, _session, (mut send, mut recv)) = by_hand(&receiver.address, 1).await;
    send.write_all(&offered("n", 0)).await.unwrap();
    // Go; the first file from byte 0 on.
    let mut answers = [0; 6 + 17];
    recv.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers, *b"\0\0\0\x02\x20\0\0\0\0\x0d\x22\0\0\0\0\0\0\0\0\0\0\0\0");
    let hash = [&[10][..], blake3::hash(b"").as_bytes()].concat();
    send.write_all(&[framed(&[6, 0, 0, 0, 0]), framed(&hash)].concat()).await.unwrap();
    let mut done = [0; 9];
    recv.read_exact(&mut done).await.unwrap();
    assert_eq!(done, *b"\0\0\0\x05\x25\0\0\0\0");
    receiver.state("done");
    assert_eq!(receiver.interrupt(), Some(0));
}

/// Strangers that list nothing, hide what they send, or say nothing, neither end nor hold a receiver of one.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_the_one_that_is_received_from() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = here.path().join("file");
    fs::write(&file, "hello").unwrap();
    let mut receiver = Receiver::start(there.path(), &["--once", "--yes"]);
    let (_node, _session, _silent) = by_hand(&receiver.address, 1).await;
    for (key, files) in [(2, 0_u64), (3, 1)] {
        let (_node, _session, (mut send, mut recv)) = by_hand(&receiver.address, key).await;
        let hello = [&[0, 0][..], &[0; 16], &files.to_be_bytes(), &[0; 26]].concat();
        send.write_all(&framed(&hello)).await.unwrap();
        let mut said = Vec::new();
        let _ = recv.read_to_end(&mut said).await;
        assert_eq!(said, b"", "{files}");
    }
    let begin = Instant::now();
    let sent = tokio::task::spawn_blocking({
        let mut command = send(&receiver.address, &[&file]);
        move || command.output().unwrap()
    });
    let (code, said) = ended(&sent.await.unwrap());
    assert_eq!(code, Some(0), "{said}");
    // The silent one is waited for as long.
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_to_string(there.path().join("file")).unwrap(), "hello");
}

/// Peers of one address take every place that it has, and send nothing. A peer that comes after them is received from
/// soon, and those that make room are told why.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_send_nothing_make_room() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = here.path().join("file");
    fs::write(&file, "hello").unwrap();
    let receiver = Receiver::start(there.path(), &[]);
    let mut held = Vec::new();
    for number in 0..8 {
        let (node, session, (mut send, recv)) = by_hand(&receiver.address, number + 1).await;
        // An offer of 1 GiB, and the beginning of its bytes.
        let begun = [framed(&[6, 0, 0, 0, 0]), framed(&[7, 1])].concat();
        send.write_all(&[offered("big", 1 << 30), begun].concat()).await.unwrap();
        held.push((node, session, send, recv));
    }
    let begin = Instant::now();
    let sent = tokio::task::spawn_blocking({
        let mut command = send(&receiver.address, &[&file]);
        move || command.output().unwrap()
    });
    let (code, said) = ended(&sent.await.unwrap());
    assert_eq!(code, Some(0), "{said}");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert_eq!(fs::read_to_string(there.path().join("file")).unwrap(), "hello");
    // Nothing is taken any more: the receiver is crowded.
    let told = async |recv: &mut p2pd_tokio::RecvStream| {
        let mut said = Vec::new();
        let _ = tokio::time::timeout(Duration::from_millis(500), recv.read_to_end(&mut said)).await;
        said.ends_with(&[0, 0, 0, 2, 33, 6])
    };
    let mut crowded = 0;
    for (.., recv) in &mut held {
        crowded += usize::from(told(recv).await);
    }
    assert!(crowded >= 1, "{crowded}");
}

/// A folder between two processes, cut on either side and gone on with; without a yes it is not taken.
#[test]
fn a_folder_is_taken_with_a_yes_and_gone_on_with_after_a_cut() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = here.path().join("folder");
    fs::create_dir_all(folder.join("in")).unwrap();
    for n in 0..500 {
        fs::write(folder.join(format!("in/{n}")), format!("file {n}")).unwrap();
    }
    let file = large(&folder);
    std::os::unix::fs::symlink("in/7", folder.join("link")).unwrap();
    let key = here.path().join("key");
    let key = key.to_str().unwrap();

    let mut receiver = Receiver::start(there.path(), &["--once", "--identity", key]);
    let (code, said) = ended(&send(&receiver.address, &[&folder]).output().unwrap());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("it needs --yes there"), "{said}");
    receiver.event(|event| event["event"] == "error" && event.to_string().contains("--yes"));
    drop(receiver);
    assert_eq!(fs::read_dir(there.path()).unwrap().count(), 0);

    let same = ["--yes", "--identity", key];
    let receiver = Receiver::start(there.path(), &same);
    let mut sender = send(&receiver.address, &[&folder]).spawn().unwrap();
    let staged = {
        let begin = Instant::now();
        loop {
            // Once some of the large file is there, wherever it comes in the order.
            let staged = part(there.path(), "folder");
            let size = staged.as_ref().map_or(0, |staged| {
                let found = fs::read_dir(staged).unwrap().flatten();
                found.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).max().unwrap_or(0)
            });
            if let Some(staged) = staged.filter(|_| size > 1 << 20) {
                break staged;
            }
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    sender.kill().unwrap();
    sender.wait().unwrap();
    assert!(!there.path().join("folder").exists());
    drop(receiver);

    let mut receiver = Receiver::start(there.path(), &same);
    let sender = send(&receiver.address, &[&folder]).spawn().unwrap();
    let listed = receiver.event(|event| event["event"] == "files");
    assert_eq!((&listed["files"], &listed["folders"]), (&502.into(), &2.into()));
    let done = receiver.event(|event| event["event"] == "files" && event["state"] == "done");
    assert!(done["before"].as_u64().unwrap() >= 1 << 20, "{done}");
    let (code, said) = ended(&sender.wait_with_output().unwrap());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sending: 502 files in 2 folders, 64.0"), "{said}");
    assert!(said.contains(" were there)"), "{said}");
    let arrived = there.path().join("folder");
    assert!(fs::read(file).unwrap() == fs::read(arrived.join("large.bin")).unwrap());
    assert_eq!(fs::read_dir(arrived.join("in")).unwrap().count(), 500);
    assert_eq!(fs::read_to_string(arrived.join("link")).unwrap(), "file 7");
    assert!(!staged.exists());
    assert_eq!(fs::read_dir(there.path()).unwrap().count(), 1);
}

#[test]
fn standard_input_arrives_as_a_file() {
    use std::io::Write;
    let there = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(there.path(), &["--once"]);
    let mut sender = send(&receiver.address, &[Path::new("-")]).stdin(Stdio::piped()).spawn().unwrap();
    let text = "some bytes\n".repeat(100_000);
    sender.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let (code, said) = ended(&sender.wait_with_output().unwrap());
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(receiver.state("done")["size"], 1_100_000);
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    assert!(fs::read_to_string(there.path().join("stdin")).unwrap() == text);
}

/// Passes bytes on to a port of this machine, each after so long. Returns its own port.
async fn far_away(port: u16, delay: Duration) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = door.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = door.accept().await {
            let far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            let ((near_from, near_to), (far_from, far_to)) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near_from, far_to), (far_from, near_to)] {
                let (later, mut due) = tokio::sync::mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(10_000);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(n @ 1..) = from.read(&mut buffer).await {
                        let _ = later.send((tokio::time::Instant::now() + delay, buffer[..n].to_vec())).await;
                    }
                });
                tokio::spawn(async move {
                    while let Some((at, bytes)) = due.recv().await {
                        tokio::time::sleep_until(at).await;
                        if to.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    at
}

/// Returns an address with another port.
fn with_port(address: &str, port: impl Fn(u16) -> u16) -> (String, u16) {
    let parts: Vec<&str> = address.split(',').collect();
    let old: u16 = parts[3].parse().unwrap();
    let mut new = parts.clone();
    let text = port(old).to_string();
    new[3] = &text;
    (new.join(","), old)
}

/// 10,000 files of 1 KiB over a round trip of 50 ms. A round trip for each would take 500 s. Prints the time.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_take_no_round_trip_each() {
    // In memory, where there is a place: a disk may take longer to remove so many files than the network to bring them.
    let place = if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let [here, there] = [(); 2].map(|()| tempfile::tempdir_in(&place).unwrap());
    let many = here.path().join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..10_000_u32 {
        let bytes: Vec<u8> =
            (0..256).flat_map(|m: u32| (n * 256 + m).wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
        fs::write(many.join(n.to_string()), bytes).unwrap();
    }
    let receiver = Receiver::start(there.path(), &["--once", "--yes"]);
    receiver.ignore();
    let (_, port) = with_port(&receiver.address, |port| port);
    let far = far_away(port, Duration::from_millis(25)).await;
    let address = with_port(&receiver.address, |_| far).0;
    let begin = Instant::now();
    let sent = tokio::task::spawn_blocking(move || send(&address, &[&many]).output().unwrap());
    let (code, said) = ended(&sent.await.unwrap());
    let took = begin.elapsed();
    assert_eq!(code, Some(0), "{said}");
    println!("10,000 files of 1 KiB over 50 ms: {took:.2?}; {}", said.lines().last().unwrap_or_default());
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(fs::read_dir(there.path().join("many")).unwrap().count(), 10_000);
}

/// A file of 2 GiB, and once more after a cut in its middle. Prints the rates.
#[test]
#[ignore = "writes 4 GiB: a figure of docs/src/measurements.md"]
fn two_gibibytes() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = here.path().join("two");
    let mut seed = 1_u64;
    let block: Vec<u8> = (0..(1 << 20) / 8)
        .flat_map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed ^ (seed >> 29)).to_be_bytes()
        })
        .collect();
    let mut whole = std::io::BufWriter::new(fs::File::create(&file).unwrap());
    for n in 0..2048_u32 {
        use std::io::Write;
        whole.write_all(&n.to_be_bytes()).unwrap();
        whole.write_all(&block[4..]).unwrap();
    }
    drop(whole);
    let key = here.path().join("key");
    let same = ["--yes", "--identity", key.to_str().unwrap(), "--max-size", "8G"];
    let receiver = Receiver::start(there.path(), &same);
    let begin = Instant::now();
    let (code, said) = ended(&send(&receiver.address, &[&file]).output().unwrap());
    println!("{:.2?}: {}", begin.elapsed(), said.lines().last().unwrap_or_default());
    assert_eq!(code, Some(0), "{said}");
    fs::remove_file(there.path().join("two")).unwrap();
    drop(receiver);
    let receiver = Receiver::start(there.path(), &same);
    let mut sender = send(&receiver.address, &[&file]).spawn().unwrap();
    wait_for(there.path(), "two", 1 << 30);
    sender.kill().unwrap();
    sender.wait().unwrap();
    drop(receiver);
    let receiver = Receiver::start(there.path(), &same);
    let begin = Instant::now();
    let (code, said) = ended(&send(&receiver.address, &[&file]).output().unwrap());
    println!("after a cut: {:.2?}: {}", begin.elapsed(), said.lines().last().unwrap_or_default());
    assert_eq!(code, Some(0), "{said}");
    let compared = Command::new("cmp").args([file, there.path().join("two")]).status().unwrap();
    assert!(compared.success());
}
