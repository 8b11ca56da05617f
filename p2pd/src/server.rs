//! `p2pd serve`.

mod users;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use p2pd::serve::{ServeError, Serving, Wanted};
use p2pd::servers::Servers;

use crate::commands::usage;
use crate::metrics::{self, Port};
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
    let second_port = options.stun_port.checked_add(1).filter(|_| options.stun_port > 0).unwrap_or(0);
    let mut wanted = Wanted {
        turn,
        ip,
        second_ip: options.second,
        mqtt_port: options.mqtt_port,
        stun_ports: [options.stun_port, options.stun_second_port.unwrap_or(second_port)],
    };
    let metrics = match Port::open(options.metrics, say).await {
        Ok(port) => port,
        Err(why) => return usage(say, &why),
    };
    let mut started = Serving::start(&wanted).await;
    // Nobody asked for the relay: where there is no way to the internet, the rest is served.
    if let (Err(ServeError::RelayAddress(why)), true) = (&started, kept.is_some()) {
        say.warning(&format!(
            "no TURN server, since there is no default route ({why}): --relay-ip gives it an address"
        ));
        wanted.turn = None;
        started = Serving::start(&wanted).await;
    }
    let mut serving = match started {
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
        ports: serving.stun_ports(),
        turn: wanted.turn.as_ref().map(|turn| Relaying {
            ips: serving.relay_ips(),
            private: serving.relays_to_private(),
            kept: kept.as_deref(),
            user: turn.users.first().map(|(name, _)| name.as_str()),
        }),
    });
    let counting = serving.counting();
    let metrics = async {
        match metrics {
            Some(port) => {
                port.serve(move || std::future::ready(metrics::of_servers(&counting.counts()))).await
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = interrupted() => ExitCode::SUCCESS,
        () = metrics => ExitCode::FAILURE,
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
    /// The STUN server's ports, which the TURN server has too.
    pub(crate) ports: [u16; 2],
    pub(crate) turn: Option<Relaying<'a>>,
}

/// A TURN server, to be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relaying<'a> {
    pub(crate) ips: &'a [IpAddr],
    /// True if private addresses are relayed to.
    pub(crate) private: bool,
    /// File with the password that was made for it.
    pub(crate) kept: Option<&'a Path>,
    /// The user of the list, or the first one.
    pub(crate) user: Option<&'a str>,
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
