//! Sends a line and prints the answer: `... --example async_connect -- ADDRESS 127.0.0.1`.

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use p2pd_async_std::{Config, Node, SecretKey};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    futures_lite::future::block_on(async {
        let address = std::env::args().nth(1).ok_or("usage: async_connect ADDRESS [BIND-IP]")?;
        let mut config = Config::new(SecretKey::from_bytes(p2pd_async_std::random_seed()?));
        config.bind = std::env::args().nth(2).map(|ip| ip.parse()).transpose()?;
        let node = Node::bind(config).await?;
        let mut pipe = node.connect(&address).await?;
        println!("{} in {:?}", pipe.strategy(), pipe.elapsed());
        pipe.write_all(b"hello\n").await?;
        pipe.close().await?;
        let mut answer = String::new();
        pipe.read_to_string(&mut answer).await?;
        print!("{answer}");
        node.shutdown().await;
        Ok(())
    })
}
