//! Sends a line and prints the answer, by calls that block: `... --example mio_connect -- ADDRESS 127.0.0.1`.

use std::io::{Read, Write};

use p2pd_mio::{BlockingNode, Config, Plan, SecretKey};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("usage: connect ADDRESS [BIND-IP]")?;
    let mut config = Config::new(SecretKey::from_bytes(p2pd_mio::random_seed()?));
    config.bind = std::env::args().nth(2).map(|ip| ip.parse()).transpose()?;
    let mut node = BlockingNode::bind(config)?;
    let mut pipe = node.connect(&address, Plan::default())?;
    println!("{} in {:?}", pipe.strategy(), pipe.elapsed());
    pipe.write_all(b"hello\n")?;
    pipe.shutdown()?;
    let mut answer = String::new();
    pipe.read_to_string(&mut answer)?;
    print!("{answer}");
    node.shutdown();
    Ok(())
}
