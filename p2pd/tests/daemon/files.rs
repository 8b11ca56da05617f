//! Files by REST, between two daemons, and between a daemon and the commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Daemon, p2pd, serve, start};
use crate::sessions::until;

/// Sender, receiver and the receiver's folder.
struct Two {
    here: Daemon,
    there: Daemon,
    into: PathBuf,
    from: tempfile::TempDir,
    _dir: tempfile::TempDir,
}

impl Two {
    fn new(here: &[&str], there: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("in");
        let there = [&["--no-servers", "--files", into.to_str().unwrap()], there].concat();
        let there = Daemon::with(&there);
        let here = Daemon::with(&[&["--no-servers"], here].concat());
        Two { here, there, into, from: tempfile::tempdir().unwrap(), _dir: dir }
    }

    fn file(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.from.path().join(name);
        fs::write(&path, data).unwrap();
        path
    }

    /// Sends a file by curl, under a name and with more options.
    fn send(&self, file: &Path, name: &str, options: &[&str]) -> Sending {
        let url = format!("http://{}/p2p/file/send/{}/{name}", self.here.api, self.there.address);
        Sending::begin(&self.here, &url, file, options)
    }

    /// Waits for what is offered, and returns it.
    fn offered(&self) -> Value {
        until(|| self.transfers("offered").pop())
    }

    fn transfers(&self, state: &str) -> Vec<Value> {
        let all = self.there.ok("/p2p/file")["transfers"].as_array().unwrap().clone();
        all.into_iter().filter(|of| of["state"] == state).collect()
    }

    fn accept(&self) -> Value {
        let offered = self.offered();
        let path = format!("/p2p/file/{}/accept", offered["number"]);
        assert_eq!(self.there.post(&path, "").0, 200);
        offered
    }

    /// Names in the receiver's folder.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.into).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A curl that sends a file.
struct Sending(Child);

impl Sending {
    fn begin(daemon: &Daemon, url: &str, file: &Path, options: &[&str]) -> Self {
        let mut curl = Command::new("curl");
        curl.args([
            "-q",
            "-s",
            "-g",
            "--noproxy",
            "*",
            "--max-time",
            "60",
            "--path-as-is",
            "-w",
            "%{http_code}",
        ]);
        curl.args(["-H", &format!("X-P2PD-Token: {}", daemon.token), "-X", "POST", "-T"]).arg(file);
        curl.args(options).arg(url).stdin(Stdio::null()).stdout(Stdio::piped());
        Sending(curl.spawn().expect("curl is not installed"))
    }

    /// Waits for its end: status and JSON.
    fn ended(self) -> (u16, Value) {
        let out = self.0.wait_with_output().unwrap();
        let (body, status) = out.stdout.split_at(out.stdout.len() - 3);
        let json = serde_json::from_slice(body).unwrap_or(Value::Null);
        (std::str::from_utf8(status).unwrap().parse().unwrap(), json)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Bytes without a short period.
fn noise(length: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..1_000_003_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut data = block.repeat(length / block.len() + 1);
    data.truncate(length);
    data
}

#[test]
fn a_file_is_sent_once_it_is_accepted_and_is_the_same() {
    let two = Two::new(&[], &[]);
    let data = noise(5_000_001);
    let file = two.file("a file.bin", &data);
    let (events, theirs) = (two.here.follow(), two.there.follow());
    let sending = two.send(&file, "a%20file.bin?modified=1700000000.25", &[]);
    let offered = two.accept();
    assert_eq!((&offered["files"], &offered["size"]), (&1.into(), &5_000_001.into()));
    assert_eq!((&offered["names"], &offered["peer"]), (&json!(["a file.bin"]), &two.here.id.clone().into()));
    assert!(offered["seconds_left"].as_u64().unwrap() > 60, "{offered}");
    let (status, sent) = sending.ended();
    assert_eq!((status, &sent["state"], &sent["direction"]), (200, &"done".into(), &"send".into()), "{sent}");
    let outcome = &sent["outcomes"][0];
    assert_eq!(outcome["blake3"], blake3::hash(&data).to_hex().to_string());
    assert!(fs::read(two.into.join("a file.bin")).unwrap() == data);
    let time = fs::metadata(two.into.join("a file.bin")).unwrap().modified().unwrap();
    assert_eq!(time.duration_since(std::time::UNIX_EPOCH).unwrap(), Duration::from_millis(1_700_000_000_250));
    // Both ends tell of it.
    let states = |events: &std::sync::Mutex<Vec<Value>>, last: &str| {
        until(|| {
            let events = events.lock().unwrap();
            let of = events.iter().filter(|event| event["event"] == "transfer");
            let states: Vec<String> =
                of.map(|event| event["transfer"]["state"].as_str().unwrap().to_owned()).collect();
            states.last().is_some_and(|state| state == last).then_some(states)
        })
    };
    assert_eq!(states(&events, "done")[0], "waiting");
    assert_eq!(states(&theirs, "done")[..2], ["offered", "waiting"]);
    let received = two.transfers("done").pop().unwrap();
    assert_eq!(
        (&received["moved"]["bytes"], &received["outcomes"][0]["kept"]),
        (&5_000_001.into(), &"a file.bin".into())
    );

    // The same once more is there already; another one of its name is kept beside it.
    let sending = two.send(&file, "a%20file.bin?modified=1700000000.25", &[]);
    two.accept();
    let (status, sent) = sending.ended();
    assert_eq!((status, &sent["outcomes"][0]["same"]), (200, &true.into()), "{sent}");
    let other = two.file("other", b"other");
    let sending = two.send(&other, "a%20file.bin", &[]);
    two.accept();
    assert_eq!(sending.ended().0, 200);
    assert_eq!(two.names(), ["a file (1).bin", "a file.bin"]);
    assert_eq!(fs::read(two.into.join("a file (1).bin")).unwrap(), b"other");

    // What has ended can be forgotten; on a connection the peer needs no address, and chunks have no length.
    let number = &received["number"];
    assert_eq!(two.there.curl(&format!("/p2p/file/{number}"), &["-X", "DELETE"]).0, 200);
    assert_eq!(two.there.curl(&format!("/p2p/file/{number}"), &["-X", "DELETE"]).1["error"], 38);
    two.here.ok(&format!("/p2p/open/con/{}", two.there.address));
    let url = format!("http://{}/p2p/file/con/con/chunks", two.here.api);
    let sending = Sending::begin(&two.here, &url, &file, &["-H", "Transfer-Encoding: chunked"]);
    assert_eq!(two.accept()["size"], Value::Null);
    let (status, sent) = sending.ended();
    assert_eq!(status, 200, "{sent}");
    assert!(fs::read(two.into.join("chunks")).unwrap() == data);
    // The other end of it was called, and knows no address.
    let path = format!("/p2p/file/con/{}/x", two.here.id);
    assert_eq!(two.there.post(&path, "x").1["error"], 44);
}

#[test]
fn a_send_that_is_cut_off_goes_on() {
    let two = Two::new(&[], &[]);
    let data = noise(24 << 20);
    let file = two.file("large", &data);
    let part = || {
        let name = two.names().into_iter().find(|name| name.ends_with(".p2pd-part"))?;
        Some(fs::metadata(two.into.join(name)).unwrap().len())
    };
    let sending = two.send(&file, "large?modified=1700000000", &["--limit-rate", "6M"]);
    two.accept();
    until(|| part().filter(|length| *length > 5 << 20));
    sending.kill();
    let failed = until(|| two.transfers("failed").pop());
    assert!(failed["reason"].as_str().unwrap().contains("gave it up"), "{failed}");
    let there = part().unwrap();
    assert!((5 << 20..24 << 20).contains(&there), "{there}");
    let sending = two.send(&file, "large?modified=1700000000", &[]);
    two.accept();
    let (status, sent) = sending.ended();
    assert_eq!(status, 200, "{sent}");
    let before = sent["moved"]["before"].as_u64().unwrap();
    assert!(before > there - (2 << 20) && before <= there, "{before} of {there}: {sent}");
    assert!(fs::read(two.into.join("large")).unwrap() == data);
    assert_eq!(two.names(), ["large"]);
}

/// Another file of the same name, size and time is told from the one that was begun, and arrives once it is sent again.
#[test]
fn what_was_begun_is_not_gone_on_with_by_another_file() {
    let two = Two::new(&[], &[]);
    let mut data = noise(12 << 20);
    let file = two.file("file", &data);
    let sending = two.send(&file, "file?modified=1", &["--limit-rate", "4M"]);
    two.accept();
    let part = |name: &String| name.ends_with(".p2pd-part");
    let length = |name: &String| fs::metadata(two.into.join(name)).unwrap().len();
    until(|| two.names().iter().filter(|name| part(name)).map(length).find(|length| *length > 4 << 20));
    sending.kill();
    until(|| two.transfers("failed").pop());
    data[3 << 20] ^= 1;
    let other = two.file("other", &data);
    let sending = two.send(&other, "file?modified=1", &[]);
    two.accept();
    let (status, why) = sending.ended();
    assert!(status == 409 && why["msg"].as_str().unwrap().contains("another file of this name"), "{why}");
    let sending = two.send(&other, "file?modified=1", &[]);
    two.accept();
    let (status, sent) = sending.ended();
    assert_eq!((status, &sent["moved"]["before"]), (200, &(3 << 20).into()), "{sent}");
    assert!(fs::read(two.into.join("file")).unwrap() == data);
    assert_eq!(two.names(), ["file"]);
}

#[test]
fn what_is_refused_or_too_large_leaves_nothing_behind() {
    let two = Two::new(&["--max-size", "3M"], &["--max-size", "1M"]);
    let (small, large, huge) =
        (two.file("small", b"small"), two.file("large", &noise(2 << 20)), two.file("huge", &noise(4 << 20)));
    // By the receiver's user.
    let sending = two.send(&small, "small", &[]);
    let path = format!("/p2p/file/{}/refuse", two.offered()["number"]);
    assert_eq!(two.there.post(&path, "").0, 200);
    let (status, why) = sending.ended();
    assert_eq!((status, &why["error"]), (409, &41.into()));
    assert!(why["msg"].as_str().unwrap().contains("the receiver's user said no"), "{why}");
    assert_eq!(two.there.post(&path, "").1["error"], 38, "it is no part of the history");
    // By the receiver's bound, and by our own before anybody is called.
    let sending = two.send(&large, "large", &[]);
    two.accept();
    let (status, why) = sending.ended();
    assert!(status == 409 && why["msg"].as_str().unwrap().contains("so many bytes"), "{why}");
    assert_eq!(two.send(&huge, "huge", &[]).ended().0, 413);
    let sending = two.send(&huge, "huge", &["-H", "Transfer-Encoding: chunked"]);
    two.accept();
    assert_eq!(sending.ended().0, 409);
    // Where nobody receives files, nobody is asked.
    let url = format!("http://{}/p2p/file/send/{}/small", two.there.api, two.here.address);
    let ended = Sending::begin(&two.there, &url, &small, &["--max-time", "3"]);
    assert_eq!(two.here.ok("/p2p/file")["folder"], Value::Null);
    assert_ne!(ended.ended().0, 200);
    // Of the one in chunks what came within the bound is kept for its sender, as with the command.
    let part = |name: &String| name.ends_with(".p2pd-part");
    let length = |name: &String| fs::metadata(two.into.join(name)).unwrap().len();
    let names = two.names();
    assert!(names.len() <= 1 && names.iter().all(|name| part(name) && length(name) <= 1 << 20), "{names:?}");
}

#[test]
fn names_that_lead_elsewhere_are_refused_and_so_are_strangers() {
    let two = Two::new(&[], &[]);
    let small = two.file("small", b"small");
    for name in
        ["..", "%2e%2e", "..%2Fx", "%2Fetc%2Fpasswd", "a%5Cb", ".bashrc", "con", "a%00b", "a%0ab", "a."]
    {
        let (status, why) = two.send(&small, name, &[]).ended();
        assert!(status == 400 || status == 404, "{name}: {status} {why}");
    }
    assert_eq!(two.send(&small, &"x".repeat(256), &[]).ended().1["error"], 40);
    // As the API's other calls: the token, the Origin and the Host.
    let path = format!("/p2p/file/send/{}/small", two.there.address);
    for path in [path.as_str(), "/p2p/file", "/p2p/file/1/accept", "/p2p/forward"] {
        let method: &[&str] = if path.contains("file/") { &["--data-binary", "x"] } else { &[] };
        let token = format!("X-P2PD-Token: {}", two.here.token);
        assert_eq!(two.here.bare(path, method).0, 401, "{path}");
        let foreign = [method, &["-H", &token, "-H", "Origin: https://evil.example"]].concat();
        assert_eq!(two.here.bare(path, &foreign).0, 403, "{path}");
        let rebound = [method, &["-H", &token, "-H", "Host: evil.example"]].concat();
        assert_eq!(two.here.bare(path, &rebound).0, 421, "{path}");
    }
    // No page can cause it by an image.
    assert_eq!(two.here.get(&path).0, 405);
    assert_eq!(two.here.get("/p2p/file/1/accept").0, 405);
    assert_eq!(two.there.ok("/p2p/file")["transfers"], json!([]));
    assert_eq!(two.names(), Vec::<String>::new());
}

#[test]
fn offers_have_a_number_and_go_with_who_made_them() {
    let two = Two::new(&[], &[]);
    let small = two.file("small", b"small");
    // Of one key four are received from at a time, and the others wait.
    let sending: Vec<Sending> = (0..6).map(|_| two.send(&small, "small", &[])).collect();
    until(|| (two.transfers("offered").len() == 4).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(two.transfers("offered").len(), 4);
    // Of one address eight, whatever their keys.
    let others: Vec<Daemon> = (0..2).map(|_| Daemon::start()).collect();
    let more: Vec<Sending> = others
        .iter()
        .flat_map(|of| [of; 3])
        .map(|of| {
            let url = format!("http://{}/p2p/file/send/{}/small", of.api, two.there.address);
            Sending::begin(of, &url, &small, &[])
        })
        .collect();
    until(|| (two.transfers("offered").len() == 8).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(two.transfers("offered").len(), 8);
    // A program ends what it sends, and the offer is gone there.
    for of in others.iter().chain([&two.here]) {
        for transfer in of.ok("/p2p/file")["transfers"].as_array().unwrap() {
            let path = format!("/p2p/file/{}", transfer["number"]);
            assert_eq!(of.curl(&path, &["-X", "DELETE"]).0, 200);
        }
    }
    for sending in sending.into_iter().chain(more) {
        assert_ne!(sending.ended().0, 200);
    }
    until(|| two.transfers("offered").is_empty().then_some(()));
    assert_eq!(two.names(), Vec::<String>::new());
}

/// The machine of the commands: `send` to a daemon, and a daemon to `receive`.
#[test]
fn a_daemon_and_the_commands_send_to_each_other() {
    let two = Two::new(&[], &[]);
    let data = noise(3_000_000);
    let folder = two.from.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("inside"), &data).unwrap();
    let mut send =
        p2pd(&["send", "--json", "--no-servers", "--bind", "127.0.0.1", "--to", &two.there.address]);
    let mut sending = send.arg(&folder).env("HOME", two.from.path()).spawn().unwrap();
    let offered = two.accept();
    assert_eq!((&offered["folders"], &offered["names"]), (&1.into(), &json!(["folder", "folder/inside"])));
    assert!(sending.wait().unwrap().success());
    assert!(fs::read(two.into.join("folder/inside")).unwrap() == data);

    let dir = tempfile::tempdir().unwrap();
    let mut receive = p2pd(&["receive", "--json", "--yes", "--no-servers", "--bind", "127.0.0.1", "--dir"]);
    receive.arg(dir.path());
    let (_receiving, events) = start(receive, "ready");
    let address = events.last().unwrap()["address"].as_str().unwrap();
    let url = format!("http://{}/p2p/file/send/{address}/inside", two.here.api);
    let begin = Instant::now();
    let (status, sent) = Sending::begin(&two.here, &url, &folder.join("inside"), &[]).ended();
    assert_eq!(status, 200, "{sent}");
    assert!(fs::read(dir.path().join("inside")).unwrap() == data);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

/// Codes, between two daemons, and between a daemon and the commands.
#[test]
fn whoever_has_the_code_gets_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (list, into, file) = (path("servers.toml"), path("in"), path("file"));
    let _serving = serve(list.as_ref(), &["--no-turn"]);
    let here = Daemon::with(&["--config", &list]);
    let there = Daemon::with(&["--config", &list, "--files", &into]);
    let strangers: Vec<Daemon> = (0..3).map(|_| Daemon::start()).collect();
    // Lets in a peer that never comes, and who is met.
    let never = &strangers[0].id;
    let closed = Daemon::with(&["--config", &list, "--files", &path("closed"), "--accept", never]);
    let data = noise(300_000);
    fs::write(&file, &data).unwrap();
    let send = |name: &str| {
        let url = format!("http://{}/p2p/file/code/{name}", here.api);
        let sending = Sending::begin(&here, &url, file.as_ref(), &[]);
        let code = until(|| {
            let all = here.ok("/p2p/file")["transfers"].as_array().unwrap().clone();
            all.iter().find_map(|of| of["code"].as_str().map(str::to_owned))
        });
        (sending, code)
    };
    // Offers that nobody answers fill the seats of the sender's own address, and wait for more.
    let crowd: Vec<Sending> = strangers
        .iter()
        .flat_map(|of| [of; 4])
        .map(|of| {
            let url = format!("http://{}/p2p/file/send/{}/small", of.api, there.address);
            Sending::begin(of, &url, file.as_ref(), &[])
        })
        .collect();
    let offered = || {
        let all = there.ok("/p2p/file")["transfers"].as_array().unwrap().clone();
        all.iter().filter(|of| of["state"] == "offered").count()
    };
    until(|| (offered() == 8).then_some(()));
    let (sending, code) = send("one");
    let (status, met) = there.post(&format!("/p2p/file/receive/{code}"), "");
    assert_eq!((status, &met["peer"]), (200, &here.id.clone().into()), "{met}");
    let (status, sent) = sending.ended();
    assert_eq!((status, &sent["state"], &sent["code"]), (200, &"done".into(), &Value::Null), "{sent}");
    assert!(fs::read(Path::new(&into).join("one")).unwrap() == data);
    assert_eq!(offered(), 8);
    drop(strangers);
    crowd.into_iter().for_each(|sending| assert_ne!(sending.ended().0, 200));
    for code in ["7-guitar-oxyge", "0-guitar-oxygen", "guitar-oxygen"] {
        assert_eq!(there.post(&format!("/p2p/file/receive/{code}"), "").1["error"], 26, "{code}");
    }
    assert_eq!(here.post("/p2p/file/receive/7-guitar-oxygen", "").1["error"], 45);

    let (sending, code) = send("three");
    assert_eq!(closed.post(&format!("/p2p/file/receive/{code}"), "").0, 200);
    assert_eq!(sending.ended().0, 200);
    assert!(fs::read(dir.path().join("closed/three")).unwrap() == data);

    let (sending, code) = send("two");
    let local = ["--json", "--bind", "127.0.0.1", "--config", &list];
    let mut receive = p2pd(&["receive", &code, "--dir", &path("by command")]);
    let mut receiving = receive.args(local).env("HOME", dir.path()).spawn().unwrap();
    assert_eq!(sending.ended().0, 200);
    assert!(receiving.wait().unwrap().success());
    assert!(fs::read(dir.path().join("by command/two")).unwrap() == data);

    let mut send = p2pd(&["send", &file]);
    let (mut sending, events) = {
        send.args(local).env("HOME", dir.path());
        start(send, "code")
    };
    let code = events.last().unwrap()["code"].as_str().unwrap().to_owned();
    assert_eq!(there.post(&format!("/p2p/file/receive/{code}"), "").0, 200);
    assert!(sending.0.wait().unwrap().success());
    assert!(fs::read(Path::new(&into).join("file")).unwrap() == data);
}

/// Body is read as fast as the peer takes it: a large one costs next to no memory while nobody has said yes, nor later.
#[cfg(target_os = "linux")]
#[test]
fn a_body_is_never_held() {
    let two = Two::new(&[], &[]);
    let file = two.from.path().join("large");
    fs::File::create(&file).unwrap().set_len(160 << 20).unwrap();
    let most = || {
        let status = fs::read_to_string(format!("/proc/{}/status", two.here.process.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    };
    let before = most();
    let sending = two.send(&file, "large", &[]);
    two.offered();
    std::thread::sleep(Duration::from_millis(500));
    let waiting = most();
    two.accept();
    let (status, sent) = sending.ended();
    assert_eq!((status, &sent["outcomes"][0]["size"]), (200, &(160_u64 << 20).into()), "{sent}");
    let moved = most();
    println!("{before}, {waiting} and {moved} MiB");
    assert!(waiting < before + 8 && moved < before + 64, "{before}, {waiting} and {moved} MiB");
    assert_eq!(fs::metadata(two.into.join("large")).unwrap().len(), 160 << 20);
}
