//! A chat in a mio loop: `... --example mio_chat -- 127.0.0.1` waits for a friend, with an ADDRESS behind it calls one.
//! Standard input can only block, so it has a thread; the node has none.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, channel};

use mio::{Events, Interest, Poll, Token, Waker};
use p2pd_mio::{Config, Event, News, Node, Pipe, Plan, SecretKey};

const INPUT: Token = Token(0);
const PIPE: Token = Token(1);
const NODE: std::ops::Range<usize> = 2..1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_mio::random_seed()?));
    config.bind = Some(std::env::args().nth(1).ok_or("usage: mio_chat BIND-IP [ADDRESS]")?.parse()?);
    let friend = std::env::args().nth(2);
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(64));
    let input = read_input(Waker::new(poll.registry(), INPUT)?);
    let mut node = Node::bind(config, poll.registry(), NODE)?;
    if let Some(friend) = &friend {
        node.connect(friend, Plan::default())?;
    }
    let mut chat = None;
    while !node.is_over() {
        poll.poll(&mut events, node.timeout())?;
        for event in &events {
            node.handle(event);
        }
        node.tick();
        while let Some(news) = node.poll() {
            match news {
                News::Event(Event::Ready { address }) if friend.is_none() => println!("{address}"),
                News::NotOpened(_, why) => return Err(why.into()),
                News::Opened(_, mut pipe) | News::Incoming(mut pipe) if chat.is_none() => {
                    poll.registry().register(&mut pipe, PIPE, Interest::READABLE | Interest::WRITABLE)?;
                    chat = Some(Chat { pipe, to_send: Vec::new(), sent: false, heard: false });
                }
                _ => {}
            }
        }
        if let Some(chat) = &mut chat {
            chat.receive()?;
            chat.send(&input)?;
            if chat.sent && chat.heard {
                node.shutdown();
            }
        }
    }
    Ok(())
}

/// Lines of the user's; nothing for the end.
fn read_input(waker: Waker) -> Receiver<Vec<u8>> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        while io::stdin().read_line(&mut line).is_ok_and(|n| n > 0) {
            let _ = sender.send(std::mem::take(&mut line).into_bytes());
            let _ = waker.wake();
        }
        let _ = sender.send(Vec::new());
        let _ = waker.wake();
    });
    lines
}

struct Chat {
    pipe: Pipe,
    to_send: Vec<u8>,
    /// True once all of `to_send` was sent, with the end.
    sent: bool,
    heard: bool,
}

impl Chat {
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while !self.heard {
            match self.pipe.read(&mut buffer) {
                Ok(n) => {
                    self.heard = n == 0;
                    io::stdout().write_all(&buffer[..n])?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        io::stdout().flush()
    }

    fn send(&mut self, input: &Receiver<Vec<u8>>) -> io::Result<()> {
        while !self.sent {
            if self.to_send.is_empty() {
                match input.try_recv() {
                    Ok(line) if !line.is_empty() => self.to_send = line,
                    Err(std::sync::mpsc::TryRecvError::Empty) => {
                        return would_block_is_fine(self.pipe.flush());
                    }
                    _ => {
                        self.sent = self.pipe.shutdown().is_ok();
                        return Ok(());
                    }
                }
            }
            match self.pipe.write(&self.to_send) {
                Ok(n) => drop(self.to_send.drain(..n)),
                other => return would_block_is_fine(other.map(drop)),
            }
        }
        Ok(())
    }
}

fn would_block_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}
