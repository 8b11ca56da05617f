//! Sends everything back, over TCP and UDP: `... --example mio_echo_server -- 127.0.0.1 4000 4010` serves eleven ports.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use mio::{Events, Poll};
use p2pd_mio::messages::{News, PipeOptions, Pipes, Protocol, Route, Target};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [ip, first, last] = &args[..] else {
        return Err("usage: mio_echo_server IP FIRST-PORT LAST-PORT".into());
    };
    let route = Route::from(ip.parse::<IpAddr>()?);
    let (targets, ports) = ([Target::Route(route)], [first.parse()?..=last.parse()?]);
    let protocols = [Protocol::Tcp, Protocol::Udp];
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    let mut pipes = Pipes::new(poll.registry(), 0..10_000)?;
    let options = PipeOptions::default();
    for server in pipes.listen_all(&targets, &ports, &protocols, &[route.family()], &options)? {
        println!("{:?} {}", server.protocol, server.at);
        // A listener has no messages, its clients have.
        pipes.hear(server.pipe, true);
    }
    loop {
        match poll.poll(&mut events, pipes.timeout()) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e.into()),
            _ => {}
        }
        for event in &events {
            pipes.handle(event);
        }
        pipes.tick();
        while let Some(news) = pipes.poll() {
            match news {
                // A client that does not read what it is sent is not read either.
                News::Accepted { pipe, .. } => drop(pipes.link(pipe, pipe)),
                News::Ended(pipe, _) => drop(pipes.close(pipe)),
                News::Message(pipe, message) => {
                    drop::<io::Result<()>>(pipes.send_to(pipe, &message.data, message.from))
                }
                _ => {}
            }
        }
    }
}
