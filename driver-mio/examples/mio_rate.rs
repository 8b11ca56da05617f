//! Throughput of an encrypted pipe on loopback, beside that of `bindings/c/examples/rate.c`, which does the same: `mio_rate` prints
//! its address and reads what comes, `mio_rate ADDRESS BYTES` sends so many bytes and prints MB/s. `tests/long/c` runs both.

use std::io::{self, Read, Write};
use std::time::Instant;

use mio::{Events, Interest, Poll, Token};
use p2pd_mio::{Config, Event, News, Node, Pipe, Plan, SecretKey};

const PIPE: Token = Token(0);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let to = arguments.next();
    let mut left: usize = arguments.next().map_or(Ok(0), |bytes| bytes.parse())?;
    let bytes = left;
    let mut config = Config::new(SecretKey::from_bytes(p2pd_mio::random_seed()?));
    config.bind = Some("127.0.0.1".parse()?);
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(64));
    let mut node = Node::bind(config, poll.registry(), 1..1_000)?;
    if let Some(to) = &to {
        node.connect(to, Plan::default())?;
    }
    let mut buffer = vec![7; 65_536];
    let mut ended = false;
    let mut open: Option<(Pipe, Instant)> = None;
    loop {
        poll.poll(&mut events, node.timeout())?;
        for event in &events {
            node.handle(event);
        }
        node.tick();
        while let Some(news) = node.poll() {
            match news {
                News::Event(Event::Ready { address }) if to.is_none() => println!("{address}"),
                News::NotOpened(_, why) => return Err(why.into()),
                News::Opened(_, mut pipe) | News::Incoming(mut pipe) => {
                    poll.registry().register(&mut pipe, PIPE, Interest::READABLE | Interest::WRITABLE)?;
                    open = Some((pipe, Instant::now()));
                }
                _ => {}
            }
        }
        let Some((pipe, began)) = &mut open else { continue };
        match turn(pipe, &mut buffer, &mut left, (to.is_some(), &mut ended)) {
            Ok(()) => {
                if to.is_some() {
                    println!("{:.0}", bytes as f64 / began.elapsed().as_secs_f64() / 1e6);
                }
                return Ok(());
            }
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            Err(why) => return Err(why.into()),
        }
    }
}

/// Sends what is left, and reads until the peer ends. The end that sends ends first.
fn turn(
    pipe: &mut Pipe,
    buffer: &mut [u8],
    left: &mut usize,
    (sends, ended): (bool, &mut bool),
) -> io::Result<()> {
    while *left > 0 {
        let part = buffer.len().min(*left);
        *left -= pipe.write(&buffer[..part])?;
    }
    if sends && !*ended {
        pipe.shutdown()?;
        *ended = true;
    }
    while pipe.read(buffer)? > 0 {}
    if sends { Ok(()) } else { pipe.shutdown() }
}
