//! Hands a bare socket to code that knows nothing of p2pd: `... --example plain -- 127.0.0.1 [ADDRESS]`. Without an
//! address it waits for a peer, with one it connects; each end sends a line and prints the other's.

use std::io::{BufRead, BufReader, Write};

use p2pd_tokio::{Config, Node, PipeMode, Plan, SecretKey};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed()?));
    config.bind = Some(std::env::args().nth(1).ok_or("usage: plain BIND-IP [ADDRESS]")?.parse()?);
    config.allow_plain = true;
    let node = Node::bind(config).await?;
    let pipe = match std::env::args().nth(2) {
        Some(address) => {
            let plan = Plan::new().mode(PipeMode::Plain);
            node.connect_with(&address, plan).await?
        }
        None => {
            println!("{}", node.address().await);
            node.accept().await.ok_or("the node ended")?
        }
    };
    let stream = pipe.into_tcp_stream().map_err(|_| "the peer asked for an encrypted pipe")?.into_std()?;
    node.shutdown().await;
    stream.set_nonblocking(false)?;
    writeln!(&stream, "hello from {}", stream.local_addr()?)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    print!("{line}");
    Ok(())
}
