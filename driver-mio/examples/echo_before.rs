//! An echo server in a mio loop that knows nothing of p2pd. `echo_after.rs` is the same one with it.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = std::env::args().nth(1).unwrap_or("127.0.0.1:0".into()).parse()?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    let mut listener = TcpListener::bind(place)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    let mut clients: HashMap<Token, Client> = HashMap::new();
    let mut next = 1;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(next), both)?;
                    clients.insert(Token(next), Client { stream, back: Vec::new() });
                    next += 1;
                }
            } else if let Some(client) = clients.get_mut(&event.token())
                && client.echo().is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock)
            {
                clients.remove(&event.token());
            }
        }
    }
}

struct Client {
    stream: TcpStream,
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
