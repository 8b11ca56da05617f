//! Sends every peer its own bytes back, in a mio loop: `cargo run -p p2pd-mio --example mio_listen -- 127.0.0.1`.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use mio::{Events, Interest, Poll, Token};
use p2pd_mio::{Config, Event, News, Node, Pipe, SecretKey};

/// Tokens from here on are the pipes', those before the node's.
const PIPES: usize = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_mio::random_seed()?));
    config.bind = std::env::args().nth(1).map(|ip| ip.parse()).transpose()?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    let mut node = Node::bind(config, poll.registry(), 0..PIPES)?;
    let mut pipes = HashMap::new();
    let mut next = PIPES;
    loop {
        poll.poll(&mut events, node.timeout())?;
        for event in &events {
            if !node.handle(event)
                && let Some((pipe, back)) = pipes.get_mut(&event.token())
                && echo(pipe, back).is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock)
            {
                pipes.remove(&event.token());
            }
        }
        node.tick();
        while let Some(news) = node.poll() {
            match news {
                News::Event(Event::Ready { address }) => println!("{address}"),
                News::Incoming(mut pipe) => {
                    next += 1;
                    let both = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut pipe, Token(next), both)?;
                    pipes.insert(Token(next), (pipe, Back::default()));
                }
                _ => {}
            }
        }
    }
}

/// Bytes that came in and go back.
#[derive(Default)]
struct Back {
    bytes: Vec<u8>,
    ended: bool,
}

fn echo(pipe: &mut Pipe, back: &mut Back) -> io::Result<()> {
    loop {
        while !back.bytes.is_empty() {
            let n = pipe.write(&back.bytes)?;
            back.bytes.drain(..n);
        }
        if back.ended {
            return pipe.shutdown();
        }
        let mut buffer = [0; 16 * 1024];
        let read = pipe.read(&mut buffer)?;
        back.bytes.extend_from_slice(&buffer[..read]);
        back.ended = read == 0;
    }
}
