//! The echo server of `echo_before.rs`, which peers now reach by p2pd too.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use p2pd_mio::{Config, Event, News, Node, Pipe, SecretKey};

const LISTENER: Token = Token(0);
const NODE: usize = 1_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = std::env::args().nth(1).unwrap_or("127.0.0.1:0".into()).parse()?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    let mut listener = TcpListener::bind(place)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    let mut config = Config::new(SecretKey::from_bytes(p2pd_mio::random_seed()?));
    config.bind = Some(listener.local_addr()?.ip());
    let mut node = Node::bind(config, poll.registry(), NODE..NODE + 10_000)?;
    let mut clients: HashMap<Token, Client> = HashMap::new();
    let mut next = 1;
    loop {
        poll.poll(&mut events, node.timeout())?;
        for event in &events {
            if node.handle(event) {
            } else if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(next), both)?;
                    clients.insert(Token(next), Client { stream: Box::new(stream), back: Vec::new() });
                    next += 1;
                }
            } else if let Some(client) = clients.get_mut(&event.token())
                && client.echo().is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock)
            {
                clients.remove(&event.token());
            }
        }
        node.tick();
        while let Some(news) = node.poll() {
            if let News::Incoming(mut pipe) = news {
                poll.registry().register(&mut pipe, Token(next), Interest::READABLE | Interest::WRITABLE)?;
                clients.insert(Token(next), Client { stream: Box::new(pipe), back: Vec::new() });
                next += 1;
            } else if let News::Event(Event::Ready { address }) = news {
                println!("also at {address}");
            }
        }
    }
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for Pipe {}

struct Client {
    stream: Box<dyn Stream>,
    back: Vec<u8>,
}

impl Client {
    fn echo(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            while !self.back.is_empty() {
                let n = self.stream.write(&self.back)?;
                self.back.drain(..n);
            }
            self.stream.flush()?;
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::ConnectionAborted.into()),
                n => self.back.extend_from_slice(&buffer[..n]),
            }
        }
    }
}
