//! Sends every peer its own bytes back: `cargo run -p p2pd-async-std --example async_listen -- 127.0.0.1`.

use futures_lite::AsyncWriteExt;
use p2pd_async_std::{Config, Node, SecretKey};

#[async_std::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_async_std::random_seed()?));
    config.bind = std::env::args().nth(1).map(|ip| ip.parse()).transpose()?;
    let node = Node::bind(config).await?;
    println!("{}", node.address().await);
    while let Some(pipe) = node.accept().await {
        async_std::task::spawn(async move {
            let (mut read, mut write) = futures_lite::io::split(pipe);
            futures_lite::io::copy(&mut read, &mut write).await?;
            write.close().await
        });
    }
    Ok(())
}
