//! A folder of many files and a large one by a code between two homes behind NATs, cut three times: by the sender's
//! network, which goes away and is another one then, by the end of the receiver, and by the end of the sender.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use p2pd_tests::lab::{Child, Line};
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
        let homes = Homes { world, lines, dir, sizes };
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
        let mut sender = self.start(0, &["send", self.at(what).to_str().unwrap()]);
        let code = event(&mut sender, "code")["code"].as_str().unwrap().to_owned();
        let into = self.at(RECEIVED);
        let receiver = self.start(1, &["receive", &code, "--yes", "--dir", into.to_str().unwrap()]);
        [sender, receiver]
    }

    /// Waits until this part of what is sent is there, in hundredths.
    fn until(&self, what: &str, hundredths: u64) {
        let (began, all) = (Instant::now(), weight(&self.at(what)));
        while weight(&self.at(RECEIVED)) < all * hundredths / 100 {
            assert!(began.elapsed() < self.sizes.patience, "{what}: {hundredths} %");
            sleep(Duration::from_millis(2));
        }
        let there = weight(&self.at(RECEIVED));
        assert!(there < all, "{what}: too fast to be cut");
    }

    /// Waits until both have ended well, and what arrived is what was sent. Returns what they said.
    fn ends(&self, what: &str, [mut sender, mut receiver]: [Child; 2]) -> [Vec<Line>; 2] {
        for child in [&mut receiver, &mut sender] {
            let ended = child.wait(self.sizes.patience).map(|status| status.success());
            assert!(matches!(ended, Ok(true)), "{what}: {ended:?}: {:?}", child.lines());
        }
        let two = [self.at(what), self.at(RECEIVED).join(what)];
        assert!(Command::new("diff").arg("-r").args(two).status().unwrap().success(), "{what} differs");
        fs::remove_dir_all(self.at(RECEIVED)).unwrap();
        [sender, receiver].map(|mut child| child.lines().to_vec())
    }

    /// Sends without a cut. Returns the time from the code to the end of both.
    fn whole(&self, what: &str) -> Duration {
        let began = Instant::now();
        let [mut sender, mut receiver] = self.begin(what);
        for child in [&mut receiver, &mut sender] {
            child.wait(self.sizes.patience).unwrap();
        }
        let took = began.elapsed();
        self.ends(what, [sender, receiver]);
        took
    }

    /// Sends with three cuts. Returns the time of all, and the bytes that were there at the last begin: on the disk, and as
    /// the receiver says.
    fn cut(&self, what: &str) -> (Duration, u64, u64) {
        let began = Instant::now();
        let [mut sender, receiver] = self.begin(what);
        self.until(what, 20);
        self.world.lab.host(0).ip_batch("link set eth0 down\n").unwrap();
        sleep(AWAY);
        self.lines.go(&self.world, 1);
        event(&mut sender, "moved");
        self.until(what, 40);
        receiver.kill();
        // It tries for a minute, which its user does not wait for.
        event(&mut sender, "stranded");
        sender.terminate().unwrap();
        assert_eq!(sender.wait(PATIENCE).unwrap().code(), Some(130));

        let [sender, mut receiver] = self.begin(what);
        self.until(what, 60);
        sender.kill();
        receiver.terminate().unwrap();
        receiver.wait(PATIENCE).unwrap();
        self.lines.go(&self.world, 0);

        let kept = kept(&self.at(RECEIVED));
        let ends = self.begin(what);
        let [_, receiver] = self.ends(what, ends);
        (began.elapsed(), kept, there_before(&receiver))
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
    let homes = Homes::new(Sizes { files: 1_000, large: 64 << 20, patience: PATIENCE });
    for what in ["folder", "large"] {
        let all = weight(&homes.at(what));
        let (took, kept, there) = homes.cut(what);
        println!("{what}: {all} bytes with three cuts in {took:?}; {there} were there at the last begin");
        assert_eq!((there, there < all), (kept, true), "{what}");
    }
}
