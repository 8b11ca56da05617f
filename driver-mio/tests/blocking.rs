//! The front for programs without a loop.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use p2pd_mio::{BlockingNode, Config, ConnectError, Event, PipeMode, Plan, SecretKey, Strategy};

const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn node() -> BlockingNode {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_mio::random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.allow_plain = true;
    BlockingNode::bind(config).unwrap()
}

#[test]
fn connect_blocks_until_there_is_a_pipe() {
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        let (mut a, mut b) = (node(), node());
        let to = b.address().unwrap();
        let listens = thread::spawn(move || {
            let mut pipe = b.accept(LONG).unwrap().unwrap();
            b.shutdown();
            let mut all = Vec::new();
            pipe.read_to_end(&mut all).unwrap();
            pipe.write_all(&all).unwrap();
            pipe.shutdown().unwrap();
        });
        let mut pipe = a.connect(&to, Plan::new().mode(mode)).unwrap();
        assert_eq!((pipe.strategy(), pipe.mode()), (Strategy::Direct, mode));
        a.shutdown();
        let data: Vec<u8> = (0..3 << 20).map(|n: usize| (n % 251) as u8).collect();
        // The peer reads all of it before it writes.
        pipe.write_all(&data).unwrap();
        pipe.shutdown().unwrap();
        let mut back = Vec::new();
        pipe.read_to_end(&mut back).unwrap();
        assert!(back == data, "{mode}");
        assert_eq!(pipe.into_std().is_ok(), mode == PipeMode::Plain);
        listens.join().unwrap();
    }
}

#[test]
fn what_does_not_come_is_waited_for_as_long_as_was_said() {
    let (mut a, mut b) = (node(), node());
    let within = Duration::from_millis(100);
    let began = Instant::now();
    assert!(a.accept(Some(within)).unwrap().is_none());
    assert!(began.elapsed() >= within);
    let began = Instant::now();
    a.serve(within).unwrap();
    assert!(began.elapsed() >= within);
    assert!(std::iter::from_fn(|| a.event()).any(|n| matches!(n, Event::Ready { .. })));
    // The other node listens but is not served, so nobody says hello.
    let silent = Plan::new().timeout(within);
    let failed = a.connect(&b.address().unwrap(), silent).unwrap_err();
    assert!(matches!(&failed, ConnectError::Failed(..)), "{failed}");
    assert!(failed.to_string().contains("deadline"), "{failed}");
}
