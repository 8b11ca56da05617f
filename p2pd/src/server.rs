//! `p2pd serve`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use p2pd::serve::{ServeError, Serving, Wanted, WantedTurn};
use p2pd::servers::Servers;

use crate::commands::usage;
use crate::options::Serve;
use crate::say::Say;

pub(crate) async fn run(options: &Serve, say: Say) -> ExitCode {
    let ip = options.bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    if options.write.is_some() && options.host.is_none() && ip.is_unspecified() {
        return usage(say, "--write needs to know how peers reach this machine: give --host or --bind");
    }
    let turn = match turn(options) {
        Ok(turn) => turn,
        Err(why) => {
            say.error(&why);
            return ExitCode::FAILURE;
        }
    };
    let wanted = Wanted {
        turn,
        ip,
        second_ip: options.second,
        mqtt_port: options.mqtt_port,
        stun_ports: [options.stun_port, options.stun_second_port],
    };
    allow_sockets();
    let mut serving = match Serving::start(&wanted).await {
        Ok(serving) => serving,
        Err(why @ ServeError::Addresses) => return usage(say, &format!("--second: {why}")),
        Err(why @ ServeError::RelayAddress(_)) => return usage(say, &format!("{why}: give --relay-ip")),
        Err(why) => {
            say.error(&why.to_string());
            return ExitCode::FAILURE;
        }
    };
    if let Some(path) = &options.write {
        let host = options.host.clone().unwrap_or_else(|| ip.to_string());
        if let Err(why) = write(path, &serving.servers(&host, options.id)) {
            return usage(say, &format!("{}: {why}", path.display()));
        }
    }
    let made = wanted.turn.as_ref().filter(|_| options.turn).and_then(|turn| turn.users.first());
    say.serving(&Running {
        mqtt: serving.mqtt(),
        stun: serving.stun(),
        second: second(&wanted, &serving),
        relay: serving.relay_ip(),
        made,
    });
    tokio::select! {
        () = interrupted() => ExitCode::SUCCESS,
        () = serving.ended() => {
            say.error("a server ended by itself");
            ExitCode::FAILURE
        }
    }
}

/// What is said of running servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running<'a> {
    pub(crate) mqtt: SocketAddr,
    pub(crate) stun: SocketAddr,
    /// The STUN server's second address.
    pub(crate) second: Option<SocketAddr>,
    /// The TURN server's relaying address.
    pub(crate) relay: Option<IpAddr>,
    /// The user of the TURN server that was made up for it.
    pub(crate) made: Option<&'a (String, String)>,
}

/// The TURN server that the options ask for.
fn turn(options: &Serve) -> Result<Option<WantedTurn>, String> {
    let (mut users, secret) = (options.turn_user.clone(), options.turn_secret.clone());
    if options.turn {
        let seed = p2pd_tokio::random_seed().map_err(|why| format!("no random numbers: {why}"))?;
        let password = seed[..16].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        users.insert(0, ("p2pd".into(), password));
    }
    let wanted = !users.is_empty() || secret.is_some();
    Ok(wanted.then_some(WantedTurn { users, secret, relay_ip: options.relay_ip }))
}

/// Writes a list; a new one with passwords in it is for the user's eyes only.
fn write(path: &Path, list: &Servers) -> io::Result<()> {
    let mut file = OpenOptions::new();
    file.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if list.is_secret() {
        use std::os::unix::fs::OpenOptionsExt;
        file.mode(0o600);
    }
    file.open(path)?.write_all(list.to_text().as_bytes())
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

/// Waits for the user to end the program.
pub(crate) async fn interrupted() {
    tokio::select! {
        // An error means that there is no such signal here: then only being killed ends it.
        Ok(()) = tokio::signal::ctrl_c() => {}
        () = terminated() => {}
    }
}

#[cfg(unix)]
pub(crate) async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
pub(crate) async fn terminated() {
    std::future::pending().await
}
