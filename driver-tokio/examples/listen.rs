//! Sends every peer its own bytes back: `cargo run -p p2pd-tokio --example listen -- 127.0.0.1`.

use p2pd_tokio::{Config, Node, SecretKey};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed()?));
    config.bind = std::env::args().nth(1).map(|ip| ip.parse()).transpose()?;
    let node = Node::bind(config).await?;
    println!("{}", node.address().await);
    while let Some(pipe) = node.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(pipe);
            tokio::io::copy(&mut read, &mut write).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut write).await
        });
    }
    Ok(())
}
