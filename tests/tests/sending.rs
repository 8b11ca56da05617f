//! A folder of many files and a large one by a code between two homes behind NATs, cut three times: by the sender's
//! network, which goes away and is another one then, by the end of the receiver, and by the end of the sender.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use p2pd_tests::lab::{Child, Line, SERVER};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, TwoLines, World, event, program};
use serde_json::Value;

/// One way from home to home.
const ONE_WAY: Duration = Duration::from_millis(5);
/// Time without a network.
const AWAY: Duration = Duration::from_secs(1);
const RECEIVED: &str = "received";
/// Longest of the small files, in bytes.
const LARGE: u64 = 2047;

/// Size of what is sent.
#[derive(Clone, Copy)]
struct Sizes {
    files: usize,
    /// Bytes of the large file.
    large: usize,
    /// Longest time of a transfer.
    patience: Duration,
}

/// Bytes that no program makes smaller.
struct Noise(u64);

impl Noise {
    fn block(&mut self, length: usize) -> Vec<u8> {
        let mut block = vec![0; length];
        for bytes in block.chunks_mut(8) {
            // Xorshift.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.copy_from_slice(&self.0.to_le_bytes()[..bytes.len()]);
        }
        block
    }
}

/// Two homes, and what goes from the first to the second.
struct Homes {
    /// Folder with the programs of magic-wormhole, if these send and receive.
    wormhole: Option<PathBuf>,
    world: World,
    lines: TwoLines,
    dir: tempfile::TempDir,
    sizes: Sizes,
}

impl Homes {
    fn new(sizes: Sizes) -> Self {
        let world = World::far_apart(&["pr", "pr", "pr"], ONE_WAY);
        // The sender's second network is the third home's.
        let lines = TwoLines::to(&world, 2);
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes { wormhole: None, world, lines, dir, sizes };
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        for n in 0..sizes.files {
            let folder = homes.at("folder").join(format!("{:02}", n / 100));
            fs::create_dir_all(&folder).unwrap();
            // 1 to 2,047 bytes.
            let length = 1 + n.wrapping_mul(0x9e37) % 2047;
            fs::write(folder.join(n.to_string()), noise.block(length)).unwrap();
        }
        let mut large = BufWriter::new(File::create(homes.at("large")).unwrap());
        (0..sizes.large >> 20).for_each(|_| large.write_all(&noise.block(1 << 20)).unwrap());
        large.flush().unwrap();
        homes
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, host: usize, args: &[&str]) -> Child {
        let host = self.world.lab.host(host);
        let mut command = host.command(program());
        // Each has a secret of its own.
        command.env("HOME", self.at(host.name()));
        self.world.run_by(host, command, args)
    }

    /// Begins to send, under a new code.
    fn begin(&self, what: &str) -> [Child; 2] {
        let (path, into) = (self.at(what), self.at(RECEIVED));
        let (path, into) = (path.to_str().unwrap(), into.to_str().unwrap());
        if let Some(bin) = &self.wormhole {
            let mut sender = self.wormhole(bin, 0, &["send", "--hide-progress", "--no-qr", path]);
            let said = "Wormhole code is: ";
            let code = sender.wait_for_line(|line| line.starts_with(said), PATIENCE).unwrap();
            fs::create_dir_all(into).unwrap();
            let receive = ["receive", "--hide-progress", "--accept-file", "-o", into, &code[said.len()..]];
            return [sender, self.wormhole(bin, 1, &receive)];
        }
        let mut sender = self.start(0, &["send", path]);
        let code = event(&mut sender, "code")["code"].as_str().unwrap().to_owned();
        [sender, self.start(1, &["receive", &code, "--yes", "--dir", into])]
    }

    fn wormhole(&self, bin: &Path, host: usize, args: &[&str]) -> Child {
        let (host, server) = (self.world.lab.host(host), SERVER[0]);
        let mut command = host.command(bin.join("wormhole").to_str().unwrap());
        command.env("HOME", self.at(host.name())).env("PYTHONDONTWRITEBYTECODE", "1");
        command.args(["--relay-url", &format!("ws://{server}:4000/v1")]);
        command.args(["--transit-helper", &format!("tcp:{server}:4001")]).args(args);
        host.spawn(command).unwrap()
    }

    /// Goes on with magic-wormhole, whose servers are begun and returned.
    fn take_wormhole(&mut self, bin: &Path) -> [Child; 2] {
        let server = self.world.lab.server();
        let begin = |what: &str, port: u16| {
            let mut command = server.command(bin.join("twist").to_str().unwrap());
            // A mailbox keeps a file there.
            command.current_dir(self.dir.path()).env("PYTHONDONTWRITEBYTECODE", "1");
            command.args([what, &format!("--port=tcp:{port}")]);
            let mut child = server.spawn(command).unwrap();
            let begun = child.wait_for_line(|line| line.contains(&format!("starting on {port}")), PATIENCE);
            assert!(begun.is_ok(), "{begun:?}");
            child
        };
        let servers = [begin("wormhole-mailbox", 4000), begin("transitrelay", 4001)];
        self.wormhole = Some(bin.to_owned());
        servers
    }

    /// Waits until so many hundredths of what is sent have left since a count.
    fn until(&self, what: &str, since: u64, hundredths: u64) {
        let (began, all) = (Instant::now(), weight(&self.at(what)));
        while self.sent() - since < all * hundredths / 100 {
            assert!(began.elapsed() < self.sizes.patience, "{what}: {hundredths} %");
            sleep(Duration::from_millis(1));
        }
    }

    /// Waits until both have ended well, and what arrived is what was sent. Returns what they said, and when they ended.
    fn ends(&self, what: &str, [mut sender, mut receiver]: [Child; 2]) -> ([Vec<Line>; 2], Instant) {
        for child in [&mut receiver, &mut sender] {
            let ended = child.wait(self.sizes.patience).map(|status| status.success());
            assert!(matches!(ended, Ok(true)), "{what}: {ended:?}: {:?}", child.lines());
        }
        let at = Instant::now();
        let two = [self.at(what), self.at(RECEIVED).join(what)];
        assert!(Command::new("diff").arg("-r").args(two).status().unwrap().success(), "{what} differs");
        fs::remove_dir_all(self.at(RECEIVED)).unwrap();
        ([sender, receiver].map(|mut child| child.lines().to_vec()), at)
    }

    /// Sends without a cut. Returns the time from the start of the sender to the end of both.
    fn whole(&self, what: &str) -> Duration {
        let began = Instant::now();
        let ends = self.begin(what);
        self.ends(what, ends).1 - began
    }

    /// Ends the receiver once half has been sent, and both begin again. Returns the time from then on, and the hundredths
    /// that were sent again.
    fn killed(&self, what: &str) -> (Duration, u64) {
        let all = weight(&self.at(what));
        let since = self.sent();
        let [sender, receiver] = self.begin(what);
        self.until(what, since, 50);
        receiver.kill();
        sender.kill();
        let (began, before) = (Instant::now(), self.sent());
        let ends = self.begin(what);
        let (_, at) = self.ends(what, ends);
        (at - began, (self.sent() - before) * 100 / all)
    }

    /// Returns the bytes that the sender's host has sent by both lines, with all headers.
    fn sent(&self) -> u64 {
        let counts =
            self.world.lab.host(0).enter(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let lines =
            counts.lines().filter(|line| TwoLines::DEVICES.iter().any(|name| line.trim().starts_with(name)));
        lines
            .map(|line| line.split_whitespace().nth(9).and_then(|sent| sent.parse::<u64>().ok()).unwrap())
            .sum()
    }

    /// Sends with three cuts. Returns the time of all, and the bytes that were there at the last begin: on the disk, and as
    /// the receiver says.
    fn cut(&self, what: &str) -> (Duration, u64, u64) {
        let (began, since) = (Instant::now(), self.sent());
        let [mut sender, receiver] = self.begin(what);
        self.until(what, since, 20);
        self.world.lab.host(0).ip_batch("link set eth0 down\n").unwrap();
        sleep(AWAY);
        self.lines.go(&self.world, 1);
        event(&mut sender, "moved");
        self.until(what, since, 40);
        receiver.kill();
        // It tries for a minute, which its user does not wait for.
        event(&mut sender, "stranded");
        sender.terminate().unwrap();
        assert_eq!(sender.wait(PATIENCE).unwrap().code(), Some(130));

        let since = self.sent();
        let [sender, mut receiver] = self.begin(what);
        self.until(what, since, 20);
        sender.kill();
        receiver.terminate().unwrap();
        receiver.wait(PATIENCE).unwrap();
        self.lines.go(&self.world, 0);

        let kept = kept(&self.at(RECEIVED));
        let ends = self.begin(what);
        let ([_, receiver], at) = self.ends(what, ends);
        (at - began, kept, there_before(&receiver))
    }
}

/// Returns the number of bytes that the receiver says were there when the last transfer began.
fn there_before(lines: &[Line]) -> u64 {
    let said = |line: &Line| serde_json::from_str::<Value>(&line.text).ok();
    let ended = |event: &Value| {
        event["state"] == "done" && (event["before"].is_u64() || event["size"].as_u64() > Some(LARGE))
    };
    let event = lines.iter().rev().filter_map(said).find(ended).unwrap();
    event["before"].as_u64().or(event["from"].as_u64()).unwrap()
}

/// Returns the number of bytes below a path that come no second time: of whole files, and whole mebibytes of parts.
fn kept(path: &Path) -> u64 {
    let Ok(found) = path.symlink_metadata() else { return 0 };
    match found.is_dir() {
        true => entries(path).map(|entry| kept(&entry)).sum(),
        false if path.extension().is_some_and(|end| end == "p2pd-part") => found.len() >> 20 << 20,
        false => found.len(),
    }
}

fn entries(path: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Returns the number of bytes of all files below a path.
fn weight(path: &Path) -> u64 {
    // What is renamed meanwhile is counted the next time.
    let Ok(found) = path.symlink_metadata() else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    entries(path).map(|entry| weight(&entry)).sum()
}

#[test]
fn a_folder_and_a_large_file_by_code_outlive_three_cuts() {
    require_lab!(Mosquitto, Coturn);
    let homes = Homes::new(Sizes { files: 1_000, large: 32 << 20, patience: PATIENCE });
    for what in ["folder", "large"] {
        let all = weight(&homes.at(what));
        let (took, kept, there) = homes.cut(what);
        println!("{what}: {all} bytes with three cuts in {took:?}; {there} were there at the last begin");
        assert_eq!((there, (1..all).contains(&there)), (kept, true), "{what}");
    }
}

#[test]
#[ignore = "takes minutes: tests/long/send"]
fn ten_thousand_files_and_two_gibibytes_beside_other_programs() {
    require_lab!(Mosquitto, Coturn);
    let mut homes = Homes::new(Sizes { files: 10_000, large: 2 << 30, patience: Duration::from_secs(600) });
    for what in ["folder", "large"] {
        let (took, kept, there) = homes.cut(what);
        println!("p2pd, {what}: with three cuts {:.1} s", took.as_secs_f64());
        assert_eq!(there, kept, "{what}");
    }
    println!(
        "| program | 10,000 files, s | again after a kill: s, sent | 2 GiB, s | again after a kill: s, sent |"
    );
    println!("|---|---|---|---|---|");
    let row = |homes: &Homes, name: &str| {
        let cells = ["folder", "large"].map(|what| {
            let (whole, (again, share)) = (homes.whole(what), homes.killed(what));
            format!("{:.1} | {:.1}, {share} %", whole.as_secs_f64(), again.as_secs_f64())
        });
        println!("| {name} | {} |", cells.join(" | "));
    };
    row(&homes, "p2pd");
    match std::env::var_os("P2PD_WORMHOLE") {
        Some(bin) => {
            let _servers = homes.take_wormhole(Path::new(&bin));
            row(&homes, "magic-wormhole");
        }
        None => println!("SKIPPED magic-wormhole: not installed"),
    }
}
