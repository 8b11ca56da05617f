//! Forwards a TCP port to a peer, by two pipes that are joined:
//! `... --example forward -- 127.0.0.1:8080 ADDRESS [BIND-IP]`. Each visitor has a pipe of its own.

use p2pd_tokio::messages::{Daemon, MessagePipe, PipeOptions, Protocol};
use p2pd_tokio::{Config, Node, SecretKey};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: forward LOCAL-ADDRESS:PORT ADDRESS [BIND-IP]";
    let at = std::env::args().nth(1).ok_or(usage)?.parse()?;
    let address = std::env::args().nth(2).ok_or(usage)?;
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed()?));
    config.bind = std::env::args().nth(3).map(|ip| ip.parse()).transpose()?;
    let node = Node::bind(config).await?;
    let options = PipeOptions::default();
    let mut door = Daemon::listen_specific(&[(at, Protocol::Tcp)], &options)?;
    println!("{}", door.bound()[0].0);
    loop {
        let visitor = door.accept().await?;
        match node.connect(&address).await {
            Ok(pipe) => visitor.join(&MessagePipe::new(pipe, &options)?),
            Err(why) => eprintln!("{why}"),
        }
    }
}
