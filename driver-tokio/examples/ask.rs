//! Sends a text to a server and prints what it answers: `... --example ask -- tcp HOST PORT TEXT`, or with `udp`.

use std::time::Duration;

use p2pd_tokio::messages::{MessagePipe, Pattern, PipeOptions, Protocol, Route};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, host, port, text] = &args[..] else {
        return Err("usage: ask tcp|udp HOST PORT TEXT".into());
    };
    let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    let to = (host.as_str(), port.parse()?);
    let pipe = MessagePipe::open(protocol, to, Route::V4, &PipeOptions::default()).await?;
    // A queue for whatever comes. Patterns would choose by content and sender.
    let answers = pipe.subscribe(Pattern::ANY, Pattern::ANY)?;
    pipe.send(text.as_bytes()).await?;
    let answer = pipe.recv_from(answers, Duration::from_secs(3)).await?;
    println!("{}: {}", answer.from, String::from_utf8_lossy(&answer.data));
    pipe.close().await;
    Ok(())
}
