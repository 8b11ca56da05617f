//! A protocol of one's own, which answers PING, tried on the node itself: `... --example protocol -- 127.0.0.1`.

use std::time::Duration;

use p2pd_tokio::messages::{Message, MessagePipe, Pattern, PipeOptions};
use p2pd_tokio::{Config, Node, Plan, SecretKey, Strategy};

async fn protocol(message: Message, pipe: MessagePipe) {
    if message.data.starts_with(b"PING") {
        // A peer that left before its answer is no error.
        let _ = pipe.send(b"PONG").await;
    }
}

/// Gives every peer the protocol.
async fn serve(node: Node) -> std::io::Result<()> {
    while let Some(pipe) = node.accept().await {
        let pipe = MessagePipe::new(pipe, &PipeOptions::default())?;
        pipe.on_message(protocol);
        tokio::spawn(async move { pipe.ended().await });
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed()?));
    config.bind = std::env::args().nth(1).map(|ip| ip.parse()).transpose()?;
    let node = Node::bind(config).await?;
    tokio::spawn(serve(node.clone()));
    // Every way to connect, in this order. To oneself the first is enough.
    let strategies = Strategy::ALL;
    let plan = Plan::new().strategies(strategies);
    let pipe = node.connect_with(&node.address().await, plan).await?;
    println!("{}", pipe.strategy());
    let pipe = MessagePipe::new(pipe, &PipeOptions::default())?;
    let pongs = pipe.subscribe(Pattern::new("^PONG$")?, Pattern::ANY)?;
    pipe.send(b"PING").await?;
    println!("{}", String::from_utf8_lossy(&pipe.recv(pongs, Duration::from_secs(4)).await?));
    pipe.close().await;
    node.shutdown().await;
    Ok(())
}
