//! A relayed address at a TURN server, as a pipe of messages: sends a text to an address, and prints what comes back.
//! `... --example turn_client -- HOST:PORT USER PASSWORD PEER:PORT TEXT`.

use std::time::Duration;

use p2pd_tokio::messages::{MessagePipe, Pattern, PipeOptions};
use p2pd_tokio::{Allocate, Config, Credentials, Node, SecretKey, TurnServer, random_seed};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, user, password, peer, text] = &args[..] else {
        return Err("usage: turn_client HOST:PORT USER PASSWORD PEER:PORT TEXT".into());
    };
    let (host, port) = server.rsplit_once(':').ok_or("no port")?;
    let mut config = Config::new(SecretKey::from_bytes(random_seed()?));
    config.turn = vec![TurnServer::new(host, port.parse()?, Credentials::new(user, password))];
    let node = Node::bind(config).await?;
    let allocation = node.allocate(Allocate::default()).await?;
    println!("peers reach us at {}", allocation.relayed_addr());
    let pipe = MessagePipe::new(allocation, &PipeOptions::default())?;
    let all = pipe.subscribe(Pattern::ANY, Pattern::ANY)?;
    pipe.send_to(text.as_bytes(), peer.parse()?).await?;
    let answer = pipe.recv_from(all, Duration::from_secs(5)).await?;
    println!("{}: {}", answer.from, String::from_utf8_lossy(&answer.data));
    pipe.close().await;
    node.shutdown().await;
    Ok(())
}
