//! `p2pd serve`.

mod users;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use p2pd::serve::{ServeError, Serving, Wanted};
use p2pd::servers::Servers;

use crate::commands::usage;
use crate::options::Serve;
use crate::say::Say;
use crate::signals::interrupted;

pub(crate) async fn run(options: &Serve, say: Say) -> ExitCode {
    let ip = options.bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    if options.write.is_some() && options.host.is_none() && ip.is_unspecified() {
        return usage(say, "--write needs to know how peers reach this machine: give --host or --bind");
    }
    let (turn, kept) = match users::wanted(options, say) {
        Ok(wanted) => wanted.unzip(),
        Err(why) => return usage(say, &why),
    };
    let kept = kept.flatten();
    let wanted = Wanted {
        turn,
        ip,
        second_ip: options.second,
        mqtt_port: options.mqtt_port,
        stun_ports: [options.stun_port, options.stun_second_port],
    };
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
    say.serving(&Running {
        mqtt: serving.mqtt(),
        stun: serving.stun(),
        second: second(&wanted, &serving),
        relay: serving.relay_ips(),
        kept: kept.as_deref(),
    });
    tokio::select! {
        () = interrupted() => ExitCode::SUCCESS,
        () = serving.ended() => {
            say.error("a server ended by itself");
            ExitCode::FAILURE
        }
    }
}

/// Places of running servers, to be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running<'a> {
    pub(crate) mqtt: SocketAddr,
    pub(crate) stun: SocketAddr,
    /// The STUN server's second address.
    pub(crate) second: Option<SocketAddr>,
    /// The TURN server's relaying address.
    pub(crate) relay: &'a [IpAddr],
    /// File with the password that was made up for the TURN server.
    pub(crate) kept: Option<&'a Path>,
}

/// Writes a list, in the place of any file that was there; one with passwords in it is readable for its owner only.
fn write(path: &Path, list: &Servers) -> io::Result<()> {
    let text = list.to_text();
    if list.is_secret() {
        p2pd_sys::replace_private(path, text.as_bytes())
    } else {
        std::fs::write(path, text)
    }
}

fn second(wanted: &Wanted, serving: &Serving) -> Option<SocketAddr> {
    wanted.second_ip.map(|ip| (ip, serving.stun().port()).into())
}
