//! The short form: nodes, pipes and faults in a few lines.

use std::time::Duration;

use p2pd_core::{Accept, Config, Event, NameNews, Plan, PortState, Strategy};
use p2pd_simulations::lab::{Lab, PATIENCE, Peer, Pipe, Sweep};
use p2pd_simulations::service::router::RouterSpec;

#[allow(dead_code)]
#[path = "../examples/orders.rs"]
mod orders;

fn same(config: Config) -> Config {
    config
}

/// A lab with a pipe from `a` to `b`.
fn joined(a: &str, b: &str) -> (Lab, [Peer; 2], [Pipe; 2]) {
    let mut lab = Lab::new(7);
    let peers = [a, b].map(|nats| lab.behind(nats).node(same));
    let (x, y) = lab.connect(peers[0], peers[1]).unwrap();
    (lab, peers, [x, y])
}

#[test]
fn each_pair_of_nats_has_its_strategy_and_both_ends_their_bytes() {
    for (a, b, strategy) in [
        ("open", "open", Strategy::Direct),
        ("linux", "open", Strategy::Direct),
        ("open", "linux", Strategy::Reverse),
        ("openwrt", "cgn+openwrt", Strategy::Punch),
        ("linux-random", "linux-random", Strategy::Relay),
    ] {
        let (mut lab, [here, there], [x, y]) = joined(a, b);
        assert_eq!((lab.strategy(x), lab.strategy(y)), (strategy, strategy), "{a} {b}");
        assert_eq!((x.peer(), y.peer()), (here, there));
        lab.write(x, "hello");
        assert_eq!(lab.read(y).unwrap(), b"hello", "{a} {b}");
        lab.write(y, [7; 50_000]);
        lab.finish(y);
        assert_eq!(lab.read_to_end(x).unwrap(), [7; 50_000], "{a} {b}");
        // The other direction goes on.
        lab.write(x, "and more");
        lab.finish(x);
        assert_eq!(lab.read_exact(y, 4).unwrap(), b"and ", "{a} {b}");
        assert_eq!(lab.read_to_end(y).unwrap(), b"more", "{a} {b}");
        lab.check().unwrap();
        assert!(lab.elapsed() < Duration::from_secs(20), "{a} {b}: {:?}", lab.elapsed());
    }
}

#[test]
fn a_read_is_what_has_come_and_not_a_write() {
    let (mut lab, _, [x, y]) = joined("open", "open");
    for word in ["one ", "two ", "three"] {
        lab.write(x, word);
    }
    lab.run_for(Duration::from_millis(1));
    assert!(!lab.wait(Duration::from_millis(8), |_| false));
    lab.run_for(Duration::from_secs(1));
    assert_eq!(lab.read(y).unwrap(), b"one two three");
    // Silence ends by itself, in virtual time.
    let begun = lab.elapsed();
    let why = lab.read(y).unwrap_err();
    assert_eq!(
        (why.as_str(), lab.elapsed() - begun),
        ("nothing came: b (outside) waited for 120.0 s", PATIENCE)
    );
    lab.close(x);
    assert_eq!(lab.read_exact(y, 1).unwrap_err(), "the pipe broke: b (outside): cut off");
}

#[test]
fn the_same_seed_and_calls_are_the_same_run() {
    let digest = |seed| {
        let mut lab = Lab::new(seed);
        let (a, b) = (lab.behind("cgn").node(same), lab.behind("linux").node(same));
        let (x, y) = lab.connect(a, b).unwrap();
        lab.link(b).loss(10.0);
        lab.write(x, [1; 20_000]);
        lab.read_exact(y, 20_000).unwrap();
        lab.digest()
    };
    assert_eq!(digest(3), digest(3));
    assert_ne!(digest(3), digest(4));
}

#[test]
fn what_went_wrong_is_said_in_words() {
    let mut lab = Lab::new(1);
    let a = lab.behind("linux").node(same);
    let nobody = Accept::Only([lab.id(a)].into_iter().collect());
    let b = lab.behind("linux").node(|config| config.accept(nobody));
    let plan = Plan::new().strategies([Strategy::Direct]);
    let why = lab.connect_by(a, b, plan).unwrap_err();
    let start = "no pipe: a (behind linux) calls b (behind linux): every strategy failed; direct failed: ";
    assert!(why.starts_with(start), "{why}");
    let why = lab.connect(b, a).err();
    assert_eq!(why, None);
    let c = lab.outside().node(same);
    let why = lab.connect(c, b).unwrap_err();
    assert!(why.contains("the peer refused: it does not accept this node"), "{why}");
}

#[test]
#[should_panic(
    expected = "no chain of NATs is \"opnwrt\": no preset is called \"opnwrt\"; `sim presets` lists them. The presets: open, one2one, linux"
)]
fn a_nat_that_is_none_is_answered_with_the_presets() {
    Lab::new(1).behind("opnwrt");
}

#[test]
fn every_call_of_the_core_is_there() {
    let mut lab = Lab::new(2);
    let a = lab.behind("linux").node(same);
    let b = lab.behind("linux").node(|config| config.accept(Accept::Ask));
    // A name is registered and called.
    let name = "bob".parse().unwrap();
    lab.run_for(Duration::from_secs(10));
    lab.node(b).call(|node, now| node.register(now, name)).unwrap();
    let registered = |event: &Event| match event {
        Event::Name { news, .. } => matches!(**news, NameNews::Registered { .. }).then_some(()),
        _ => None,
    };
    assert_eq!(lab.node(b).wait_for(registered), Some(()));
    let call = lab.node(a).call(|node, now| node.connect_name(now, name, Plan::new())).unwrap();
    // It asks, and its user answers.
    let asked = lab.node(b).wait_for(|event| match event {
        Event::Ask { peer, .. } => Some(*peer),
        _ => None,
    });
    assert_eq!(asked, Some(lab.id(a)));
    let caller = lab.id(a);
    lab.node(b).call(|node, now| node.answer(now, caller, true));
    let x = lab.outcome(a, call).unwrap();
    let y = lab.accept(b).unwrap();
    lab.write(y, "by name");
    assert_eq!(lab.read(x).unwrap(), b"by name");
    // A call that is cancelled has no outcome.
    lab.node(a).events();
    let address = lab.address(b).unwrap();
    let call = lab.node(a).call(|node, now| node.connect(now, &address, Plan::new())).unwrap();
    lab.node(a).call(|node, now| node.cancel(now, call));
    lab.run_for(Duration::from_secs(60));
    let of_call = |event: &Event| matches!(event, Event::Failed { connect, .. } if *connect == call);
    assert!(!lab.node(a).events().iter().any(of_call));
    assert_eq!(lab.node(a).core().stats().failed.shutdown, 0);
    lab.node(a).call(|node, now| node.shutdown(now));
    assert!(lab.node(a).events().contains(&Event::Closed));
}

#[test]
fn faults_by_hand_do_what_they_say() {
    // A path that is cut for three seconds.
    let (mut lab, [_, there], [x, y]) = joined("linux", "linux");
    lab.drop_path(there, Duration::from_secs(3));
    let begun = lab.elapsed();
    lab.write(x, "late");
    assert_eq!(lab.read(y).unwrap(), b"late");
    let took = lab.elapsed() - begun;
    assert!((3..8).contains(&took.as_secs()), "{took:?}");
    // A link that loses all, until it is healed.
    lab.link(there).loss(100.0);
    lab.write(x, "later");
    assert!(!lab.wait(Duration::from_secs(5), |lab| lab.elapsed() < begun));
    assert!(lab.read(y).is_err());
    lab.heal();
    assert_eq!(lab.read(y).unwrap(), b"later");
    // A NAT that forgot the stream answers for it, and the pipe breaks.
    let (mut lab, [here, there], [x, y]) = joined("open", "openwrt");
    lab.reboot_nat(there);
    lab.write(x, "lost");
    let why = lab.read(x).unwrap_err();
    assert!(why.starts_with("the pipe broke: a (outside): "), "{why}");
    // A node that moves is called at its new address.
    let before = lab.address(there).unwrap();
    lab.move_to(there, "fullcone");
    assert!(lab.wait(PATIENCE, |lab| lab.address(there).is_ok_and(|address| address != before)));
    let (x, _) = lab.connect(here, there).unwrap();
    assert_eq!(lab.strategy(x), Strategy::Direct);
    assert!(lab.read(y).is_err());
    lab.check().unwrap();
}

#[test]
fn neighbours_share_a_home_and_its_router() {
    let mut lab = Lab::new(5);
    let a = lab.behind("linux").router(RouterSpec::HONEST).node(same);
    let b = lab.beside(a).node(|config| config.portmap(true));
    let opened = |event: &Event| match event {
        Event::Port { state: PortState::Open { external, .. }, .. } => Some(*external),
        _ => None,
    };
    let external = lab.node(b).wait_for(opened).unwrap();
    assert_eq!(external.ip().to_string(), "45.10.1.1");
    lab.run_for(Duration::from_secs(2));
    let c = lab.behind("linux-random").node(same);
    let (x, _) = lab.connect(c, b).unwrap();
    assert_eq!(lab.strategy(x), Strategy::Direct);
    // Inside, with no NAT between them.
    let (x, _) = lab.connect(a, b).unwrap();
    assert_eq!(lab.strategy(x), Strategy::Direct);
}

#[test]
fn a_run_is_there_as_text_packets_and_picture() {
    let (mut lab, [_, there], [x, y]) = joined("linux", "open");
    lab.write(x, "hello");
    lab.read(y).unwrap();
    lab.link(there).loss(100.0);
    lab.write(y, "lost");
    lab.run_for(Duration::from_millis(1));
    let trace = lab.trace();
    assert!(trace.starts_with("host3 is a (behind linux), nat0\nhost4 is b (outside)\n"), "{trace}");
    assert!(trace.contains("host3  writes 5 bytes: hello\n"), "{trace}");
    // A section header block of pcapng.
    assert_eq!(lab.pcap()[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let picture = lab.picture();
    for part in
        [">a</text>", ">linux</text>", ">b</text>", "writes 5 bytes: hello", "reads 5 bytes: hello", "× lost"]
    {
        assert!(picture.contains(part), "{part}: {picture}");
    }
    assert!(!picture.contains("TURN") && picture.ends_with("</svg>\n"));
}

#[test]
fn a_sweep_draws_its_scenes_and_runs_each() {
    let seen = std::cell::RefCell::new(Vec::new());
    let worlds = Sweep::new(3).between(["open", "linux", "cgn"]).breaking().run(|lab| {
        let count = lab.number("messages", 1..=3);
        seen.borrow_mut().push(lab.scene().to_string());
        let (a, b) = (lab.here().node(same), lab.there().node(same));
        let (x, y) = lab.connect(a, b)?;
        lab.write(x, vec![1; count as usize]);
        // Faults may break the pipe.
        match lab.read_exact(y, count as usize) {
            Ok(_) => Ok(()),
            Err(why) if why.starts_with("the pipe broke") || why.starts_with("nothing came") => Ok(()),
            Err(why) => Err(why),
        }
    });
    assert_eq!(worlds.unwrap(), 9);
    let seen = seen.into_inner();
    assert!(seen[0].starts_with("seed 27, here open, there open"), "{}", seen[0]);
    let one_of = |word: &str| seen.iter().any(|scene| scene.contains(word));
    assert!(one_of(" % ") && one_of("beside") && one_of("messages 1") && one_of("messages 3"), "{seen:#?}");
    // What is printed is that world again.
    let again = Lab::repeat(&seen[4]).unwrap();
    assert_eq!(again.scene().to_string(), seen[4]);
}

/// A record of a pipe has 16,384 bytes of text and 18 of its own, a segment 1,400. The twelfth segment has the end of the first
/// record and 398 bytes more: a second record of up to 380 bytes of text arrives with it.
#[test]
fn a_text_that_is_read_once_is_found_at_the_first_byte_too_many() {
    let whole = 16_384 + 12 * 1_400 - (16_384 + 18) - 18;
    let found = Sweep::new(1).run(|lab| {
        let (a, b) = (lab.here().node(same), lab.there().node(same));
        let (x, y) = lab.connect(a, b)?;
        let length = lab.number("length", 1..=100_000) as usize;
        lab.write(x, vec![1; length]);
        let read = lab.read(y)?.len();
        if read == length { Ok(()) } else { Err(format!("a text was cut: {read} of {length}")) }
    });
    let found = found.unwrap_err();
    assert_eq!(found.why, format!("a text was cut: 16384 of {}", whole + 1));
    let scene = found.lab.scene().to_string();
    assert!(scene.ends_with(&format!(", here open, there open, length {}", whole + 1)), "{scene}");
}

#[test]
fn the_book_has_what_the_example_prints_and_draws() {
    let (text, picture) = orders::story().unwrap();
    let anew = "cargo run -p p2pd-simulations --example orders -- docs/src/img/orders.svg";
    let page = include_str!("book/lab.md");
    assert!(page.contains(&format!("```text\n{text}```\n")), "{anew}\n{text}");
    assert!(picture == include_str!("book/orders.svg"), "{anew}");
}
