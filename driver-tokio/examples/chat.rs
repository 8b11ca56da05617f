//! A chat on tokio: `... --example chat -- 127.0.0.1` waits for a friend, with an ADDRESS behind it calls one.

use p2pd_tokio::{Config, Node, SecretKey};
use tokio::io::{AsyncWriteExt, copy, split, stdin, stdout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed()?));
    config.bind = Some(std::env::args().nth(1).ok_or("usage: chat BIND-IP [ADDRESS]")?.parse()?);
    let node = Node::bind(config).await?;
    let pipe = match std::env::args().nth(2) {
        Some(address) => node.connect(&address).await?,
        None => {
            println!("{}", node.address().await);
            node.accept().await.ok_or("the node ended")?
        }
    };
    let (mut theirs, mut ours) = split(pipe);
    let sending = tokio::spawn(async move {
        copy(&mut stdin(), &mut ours).await?;
        ours.shutdown().await
    });
    copy(&mut theirs, &mut stdout()).await?;
    stdout().flush().await?;
    sending.await??;
    node.shutdown().await;
    Ok(())
}
