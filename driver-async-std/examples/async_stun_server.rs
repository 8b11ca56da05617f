//! Tells every client its address, over UDP (RFC 8489): `... --example async_stun_server -- 127.0.0.1:3478`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use p2pd_async_std::messages::{Daemon, PipeOptions, Protocol};
use p2pd_rendezvous::stun::{Limits, Server, Sites};

#[async_std::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let at = std::env::args().nth(1).ok_or("usage: async_stun_server ADDRESS:PORT")?.parse()?;
    let daemon = Daemon::listen_specific(&[(at, Protocol::Udp)], &PipeOptions::default())?;
    println!("{}", daemon.bound()[0].0);
    let server = Arc::new(Mutex::new(Server::new(Sites::One, Limits::default())));
    let began = Instant::now();
    let serving = daemon.serve(move |message, pipe| {
        let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = server.datagram(began.elapsed(), pipe.local_addr(), message.from, &message.data);
        async move {
            if let Some(reply) = reply {
                // STUN's clients ask again.
                let _ = pipe.send_to(&reply.data, reply.to).await;
            }
        }
    });
    serving.await;
    Ok(())
}
