//! `p2pd serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use p2pd::serve::{ServeError, Serving, Wanted};

use crate::commands::usage;
use crate::options::Serve;
use crate::say::Say;

pub(crate) async fn run(options: &Serve, say: Say) -> ExitCode {
    let ip = options.bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    if options.write.is_some() && options.host.is_none() && ip.is_unspecified() {
        return usage(say, "--write needs to know how peers reach this machine: give --host or --bind");
    }
    let wanted = Wanted {
        ip,
        second_ip: options.second,
        mqtt_port: options.mqtt_port,
        stun_ports: [options.stun_port, options.stun_second_port],
    };
    allow_sockets();
    let mut serving = match Serving::start(&wanted).await {
        Ok(serving) => serving,
        Err(why @ ServeError::Addresses) => return usage(say, &format!("--second: {why}")),
        Err(why) => {
            say.error(&why.to_string());
            return ExitCode::FAILURE;
        }
    };
    if let Some(path) = &options.write {
        let host = options.host.clone().unwrap_or_else(|| ip.to_string());
        let list = serving.servers(&host, options.id).to_text();
        if let Err(why) = std::fs::write(path, list) {
            return usage(say, &format!("{}: {why}", path.display()));
        }
    }
    say.serving(serving.mqtt(), serving.stun(), second(&wanted, &serving));
    tokio::select! {
        // An error means that there is no such signal here: then only being killed ends it.
        Ok(()) = tokio::signal::ctrl_c() => ExitCode::SUCCESS,
        () = terminated() => ExitCode::SUCCESS,
        () = serving.ended() => {
            say.error("a server ended by itself");
            ExitCode::FAILURE
        }
    }
}

/// As many sockets as the system lets a process have: the usual 1,024 are fewer than the servers' own limits allow,
/// and at the system's limit nobody is let in any more.
fn allow_sockets() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let now = getrlimit(Resource::Nofile);
        // Where it is refused, as on macOS for "unlimited", the servers have what they have.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now });
    }
}

fn second(wanted: &Wanted, serving: &Serving) -> Option<SocketAddr> {
    wanted.second_ip.map(|ip| (ip, serving.stun().port()).into())
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending().await
}
