//! Sessions that open through coturn, move to a punched path while bytes flow, and move back when that is cut. The program
//! runs as its user runs it.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use p2pd_tests::lab::{Child, SERVER};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World, event, program};

const ONE_WAY: Duration = Duration::from_millis(5);

fn content(n: usize) -> u8 {
    ((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Blocks TCP through a home's router from now on, but to the servers and from them.
fn cut(world: &World, home: usize) {
    let servers = SERVER.map(|ip| ip.to_string()).join(", ");
    let rules = format!(
        "table inet nodirect {{\nchain forwarded {{\ntype filter hook forward priority -10\n\
         meta l4proto tcp ip saddr != {{ {servers} }} ip daddr != {{ {servers} }} drop\n}}\n}}"
    );
    nft(world, home, &rules);
}

fn mend(world: &World, home: usize) {
    nft(world, home, "delete table inet nodirect");
}

fn nft(world: &World, home: usize, rules: &str) {
    let [router, ..] = world.lab.routers(home) else { panic!("no router") };
    assert!(router.command("nft").arg(rules).status().unwrap().success());
}

/// Waits until both ends say that their bytes go by this strategy.
fn moved(children: [&mut Child; 2], by: &str) {
    let wanted = format!("\"strategy\":\"{by}\"");
    for child in children {
        let told = |line: &str| line.contains("\"event\":\"moved\"") && line.contains(&wanted);
        if let Err(why) = child.wait_for_line(told, PATIENCE) {
            panic!("not {by}: {why}; {:?}", child.lines());
        }
    }
}

#[test]
fn a_session_moves_to_the_punched_path_and_back_with_every_byte() {
    require_lab!(Mosquitto, Coturn);
    for homes in [["pr/drop", "pr/drop"], ["symseq/drop", "fw/rst"]] {
        let world = World::relaying(&homes, ONE_WAY, &[], "");
        cut(&world, 1);
        let (mut listener, address) = world.listen();
        let files = tempfile::tempdir().unwrap();
        let came = files.path().join("came");
        let line = format!(
            "exec {} connect {address} --strategies relay,punch --relay-first --timeout 60 --json --config {} > {}",
            program(),
            world.config().display(),
            came.display()
        );
        let mut child = world.lab.host(1).run("sh", ["-c", &line]).unwrap();
        let mut stdin = child.take_stdin().unwrap();
        let connected = event(&mut child, "connected");
        assert_eq!(connected["strategy"], "relay");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut all) = (stop.clone(), Vec::new());
        let writer = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) || all.len() < 12 << 20 {
                let chunk: Vec<u8> = (all.len()..all.len() + 64 * 1024).map(content).collect();
                stdin.write_all(&chunk).unwrap();
                all.extend_from_slice(&chunk);
                thread::sleep(Duration::from_millis(10));
            }
            all
        });
        thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        mend(&world, 1);
        moved([&mut child, &mut listener], "punch");
        println!("{homes:?}: moved {:.1} s after the way was free", began.elapsed().as_secs_f64());
        thread::sleep(Duration::from_secs(2));
        let began = Instant::now();
        cut(&world, 1);
        moved([&mut child, &mut listener], "relay");
        println!("{homes:?}: back {:.1} s after it was cut", began.elapsed().as_secs_f64());
        thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::SeqCst);
        let sent = writer.join().unwrap();
        let ended = child.wait(Duration::from_secs(60)).unwrap();
        assert!(ended.success(), "{:?}", child.lines());
        let back = fs::read(&came).unwrap();
        assert!(back == sent, "{} bytes of {} came back", back.len(), sent.len());
        println!("{homes:?}: {:.1} MiB there and back unchanged", sent.len() as f64 / f64::from(1 << 20));
    }
}

#[test]
fn by_the_default_plan_a_call_moves_by_itself() {
    require_lab!(Mosquitto, Coturn);
    let world = World::relaying(&["pr/drop", "pr/drop"], ONE_WAY, &[], "");
    let (mut listener, address) = world.listen();
    for _ in 0..5 {
        let mut child = world.run(world.lab.host(1), &["connect", &address, "--relay-first"]);
        let mut stdin = child.take_stdin().unwrap();
        let connected = event(&mut child, "connected");
        let by = connected["strategy"].as_str().unwrap().to_owned();
        stdin.write_all(b"first\n").unwrap();
        child.wait_for_line(|line| line == "first", PATIENCE).unwrap();
        println!("by {by} in {} ms", connected["elapsed_ms"]);
        // Which of both is first is a matter of milliseconds.
        if by == "relay" {
            let moved = event(&mut child, "moved");
            let to = moved["strategy"].as_str().unwrap();
            assert!(["punch", "udp"].contains(&to), "{moved}");
            assert_eq!(event(&mut listener, "moved")["strategy"], to);
            let remote: SocketAddr = moved["remote"].as_str().unwrap().parse().unwrap();
            assert_eq!(remote.ip(), world.lab.host(0).wan());
        } else {
            assert!(["punch", "udp"].contains(&&*by), "{by}");
        }
        stdin.write_all(b"second\n").unwrap();
        child.wait_for_line(|line| line == "second", PATIENCE).unwrap();
        drop(stdin);
        assert!(child.wait(PATIENCE).unwrap().success(), "{:?}", child.lines());
    }
}
