//! Sends everything back, over TCP and UDP. `... --example async_echo_server -- 127.0.0.1 4000 4010` serves eleven
//! ports.

use std::net::IpAddr;

use p2pd_async_std::messages::{Daemon, PipeOptions, Protocol, Route, Target};

#[async_std::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [ip, first, last] = &args[..] else {
        return Err("usage: async_echo_server IP FIRST-PORT LAST-PORT".into());
    };
    let route = Route::from(ip.parse::<IpAddr>()?);
    let (targets, ports) = ([Target::Route(route)], [first.parse()?..=last.parse()?]);
    let protocols = [Protocol::Tcp, Protocol::Udp];
    let options = PipeOptions::default();
    let daemon = Daemon::listen_all(&targets, &ports, &protocols, &[route.family()], &options)?;
    for (at, protocol) in daemon.bound() {
        println!("{protocol:?} {at}");
    }
    let echo = daemon.serve(|message, pipe| async move {
        // One that left before its answer is no error.
        let _ = pipe.send_to(&message.data, message.from).await;
    });
    echo.await;
    Ok(())
}
