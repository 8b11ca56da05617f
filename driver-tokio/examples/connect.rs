//! Sends a line and prints the answer: `cargo run -p p2pd-tokio --example connect -- ADDRESS 127.0.0.1`.

use p2pd_tokio::{Config, Node, SecretKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("usage: connect ADDRESS [BIND-IP]")?;
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed()?));
    config.bind = std::env::args().nth(2).map(|ip| ip.parse()).transpose()?;
    let node = Node::bind(config).await?;
    let mut pipe = node.connect(&address).await?;
    println!("{} in {:?}", pipe.strategy(), pipe.elapsed());
    pipe.write_all(b"hello\n").await?;
    pipe.shutdown().await?;
    let mut answer = String::new();
    pipe.read_to_string(&mut answer).await?;
    print!("{answer}");
    node.shutdown().await;
    Ok(())
}
