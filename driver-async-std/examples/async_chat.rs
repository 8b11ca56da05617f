//! A chat on async-std: `... --example async_chat -- 127.0.0.1` waits for a friend, with an ADDRESS behind it calls
//! one.

use async_std::io::{copy, stdin, stdout};
use futures_lite::AsyncWriteExt;
use futures_lite::future::try_zip;
use p2pd_async_std::{Config, Node, SecretKey};

#[async_std::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_async_std::random_seed()?));
    config.bind = Some(std::env::args().nth(1).ok_or("usage: async_chat BIND-IP [ADDRESS]")?.parse()?);
    let node = Node::bind(config).await?;
    let pipe = match std::env::args().nth(2) {
        Some(address) => node.connect(&address).await?,
        None => {
            println!("{}", node.address().await);
            node.accept().await.ok_or("the node ended")?
        }
    };
    let (mut theirs, mut ours) = futures_lite::io::split(pipe);
    let sending = async {
        copy(&mut stdin(), &mut ours).await?;
        ours.close().await
    };
    let receiving = async {
        copy(&mut theirs, &mut stdout()).await?;
        stdout().flush().await
    };
    try_zip(sending, receiving).await?;
    node.shutdown().await;
    Ok(())
}
