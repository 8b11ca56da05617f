//! `p2pd expose`: services of this machine for peers that are let in, each by its name and no other.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::NodeId;
use p2pd_tokio::{Node, Session, SessionConfig};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::allow::Rule;
use super::copy::{Stream, join};
use super::place::{Local, Place, Service, look_up};
use super::wire::{Answer, CROWDED, Destination, Host, ServiceName, Wish};
use super::{ask, datagrams, link, options};
use crate::arrivals::Arrivals;
use crate::commands::{addresses, close_pipes};
use crate::invitation::Invitation;
use crate::limits::{Held, Places};
use crate::metrics::{Metrics, Way};
use crate::say::Say;
use crate::signals::interrupted;
use crate::talk::place;

/// Longest time for a service to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Most connections of one peer that was let in, and of one place of strangers.
const OF_PEER: usize = 1024;
const OF_STRANGERS: usize = 128;
/// Streams beyond these, on which a peer hears that it has too many.
const REFUSED: usize = 16;
/// Most connections of all.
const OF_ALL: usize = 4096;
/// Most sessions of one peer or place, and of all.
const SESSIONS: (usize, usize) = (16, 256);

/// Services that are exposed, and the peers that may use them.
#[derive(Debug)]
pub(crate) struct Exposing {
    services: BTreeMap<ServiceName, Place>,
    allow: Vec<Rule>,
    pub(crate) who: Who,
    pub(crate) metrics: Arc<Metrics>,
}

/// Peers that are let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// The peers of `--accept`.
    Listed,
    /// Peers that the user at the terminal says yes to.
    Asked,
    Anyone,
}

/// A peer by its key, or a stranger by where it comes from: keys cost nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum By {
    Key(NodeId),
    Place(IpAddr),
}

impl Exposing {
    /// Reads the options. `asks` tells that somebody can be asked.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub(crate) fn new(options: &options::Expose, asks: bool) -> Result<Self, String> {
        if options.services.is_empty() && options.allow.is_empty() {
            return Err("nothing to expose: give services as NAME=PLACE, or --allow".into());
        }
        let who = match (options.common.accept.is_empty(), options.anyone) {
            (false, _) => Who::Listed,
            (true, true) => Who::Anyone,
            (true, false) if asks => Who::Asked,
            (true, false) => {
                return Err(
                    "nobody is at a terminal to be asked: name the peers by --accept, or give --anyone"
                        .into(),
                );
            }
        };
        Self::of(&options.services, options.allow.clone(), who)
    }

    /// Exposes services, and what the rules allow, to these peers.
    ///
    /// # Errors
    /// If a service is given twice.
    pub(crate) fn of(list: &[Service], allow: Vec<Rule>, who: Who) -> Result<Self, String> {
        let mut services = BTreeMap::new();
        for Service { name, place } in list {
            if services.insert(name.clone(), place.clone()).is_some() {
                return Err(format!("the service {name} is given twice"));
            }
        }
        Ok(Exposing { services, allow, who, metrics: Arc::default() })
    }

    /// Returns the names of the services and their places.
    pub(crate) fn services(&self) -> impl Iterator<Item = (String, String)> {
        self.services.iter().map(|(name, place)| (name.to_string(), place.to_string()))
    }

    /// Returns the settings of sessions. Those of strangers hold less.
    pub(crate) fn sessions(&self) -> SessionConfig {
        let all = SessionConfig { streams: (OF_PEER + REFUSED) as u32, ..SessionConfig::default() };
        match self.who {
            Who::Listed | Who::Asked => all,
            Who::Anyone => SessionConfig {
                streams: (OF_STRANGERS + REFUSED) as u32,
                stream_window: 1 << 20,
                window: 2 << 20,
                kept: 1 << 20,
                queues: 1 << 20,
                ..all
            },
        }
    }

    /// Returns what follows the address in the command for the other side.
    pub(crate) fn example(&self) -> String {
        let service = |(name, place): (&ServiceName, &Place)| match place {
            Place::Tcp(_, port) => format!(" {name} {}", example_port(*port)),
            Place::Udp(_, port) => format!(" {name} udp:{}", example_port(*port)),
            Place::Unix(_) => format!(" {name} unix:./{name}"),
        };
        let socks = if self.allow.is_empty() { "" } else { " --socks 1080" };
        self.services.iter().map(service).collect::<String>() + socks
    }

    /// Finds what is asked for, and connects to it.
    async fn find(&self, wish: &Wish) -> Result<Found, Answer> {
        match wish {
            Wish::Stream(name) | Wish::Datagrams(name) => {
                let place = self.services.get(name).ok_or(Answer::Unknown)?;
                match (wish, place.is_datagrams()) {
                    (Wish::Datagrams(_), true) => within(place.datagrams()).await.map(Found::Datagrams),
                    (Wish::Datagrams(_), false) => Err(Answer::IsStream),
                    (_, true) => Err(Answer::IsDatagrams),
                    (_, false) => within(place.connect()).await.map(Found::Stream),
                }
            }
            Wish::Connect(to) => {
                if !self.allow.iter().any(|rule| rule.allows(to)) {
                    return Err(Answer::NotAllowed);
                }
                let Destination { host, port } = to;
                let host = match host {
                    Host::Ip(ip) => ip.to_string(),
                    Host::Name(name) => name.clone(),
                };
                let connecting = async { TcpStream::connect(&*look_up(&host, *port).await?).await };
                let stream = within(connecting).await?;
                p2pd_sys::accepted(&stream);
                Ok(Found::Stream(Local::Tcp(stream)))
            }
        }
    }
}

/// A port for the other side: one that needs no privilege.
fn example_port(port: u16) -> u16 {
    if port < 1024 { port + 8000 } else { port }
}

enum Found {
    Stream(Local),
    Datagrams(tokio::net::UdpSocket),
}

async fn within<T>(connecting: impl Future<Output = io::Result<T>>) -> Result<T, Answer> {
    match timeout(CONNECT, connecting).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(why)) => Err(match why.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Answer::Refused,
            io::ErrorKind::TimedOut => Answer::TimedOut,
            _ => Answer::Unreachable,
        }),
        Err(_) => Err(Answer::TimedOut),
    }
}

/// Serves until interrupted.
pub(crate) async fn run(node: &Node, exposing: Exposing, invitation: Invitation, say: Say) -> ExitCode {
    for (name, at) in &exposing.services {
        say.line(
            || json!({"event": "exposes", "service": name.to_string(), "place": at.to_string()}),
            || format!("exposes: {name} at {at}"),
        );
    }
    if exposing.who == Who::Anyone {
        say.warning("whoever knows the address reaches what is exposed (--anyone)");
    }
    let telling = tokio::spawn(addresses(node.clone(), node.events(), Some(invitation), say));
    let asking =
        (exposing.who == Who::Asked).then(|| tokio::spawn(ask::peers(node.clone(), node.events(), say)));
    let draining = close_pipes(node);
    tokio::select! {
        () = serve(Arrivals::Of(node.clone()), Arc::new(exposing), say) => {}
        () = interrupted() => {}
    }
    for task in [Some(telling), asking, Some(draining)].into_iter().flatten() {
        task.abort();
    }
    // The sessions' own tasks tell their peers.
    tokio::time::sleep(Duration::from_millis(50)).await;
    ExitCode::SUCCESS
}

/// Serves sessions as they come.
pub(crate) async fn serve(mut arrivals: Arrivals, exposing: Arc<Exposing>, say: Say) {
    let sessions = Places::new(SESSIONS.0, SESSIONS.1);
    let of_one = if exposing.who == Who::Anyone { OF_STRANGERS } else { OF_PEER };
    let connections = Places::new(of_one, OF_ALL);
    while let Some(session) = arrivals.next().await {
        let by = match session.carrier() {
            _ if exposing.who != Who::Anyone => By::Key(session.peer()),
            Some(carrier) => By::Place(place(carrier.remote_addr().ip())),
            // A stranger that nobody can place: its key costs it nothing.
            None => {
                session.close(CROWDED, b"its connection is gone");
                continue;
            }
        };
        let Some(seat) = sessions.take(by) else {
            session.close(CROWDED, b"too many sessions");
            continue;
        };
        if let Some(carrier) = session.carrier() {
            say.opened("incoming", &carrier);
        }
        let (exposing, connections) = (exposing.clone(), connections.clone());
        tokio::spawn(async move {
            let metrics = exposing.metrics.clone();
            let serving = async {
                tokio::join!(
                    peer(&session, exposing, connections, by),
                    super::moves(&session, &metrics, say)
                );
            };
            tokio::select! {
                () = serving => {}
                () = interrupted() => link::close(&session).await,
            }
            drop(seat);
        });
    }
}

/// Serves the streams of one session.
async fn peer(session: &Session, exposing: Arc<Exposing>, connections: Arc<Places<By>>, by: By) {
    loop {
        let stream = tokio::select! {
            stream = session.accept_bi() => stream,
            // Nothing is wanted on one that its opener alone sends on.
            one = session.accept_uni() => match one {
                Ok(_) => continue,
                Err(_) => return,
            },
        };
        let Ok(stream) = stream else { return };
        let held = connections.take(by);
        tokio::spawn(one(session.clone(), stream, exposing.clone(), held));
    }
}

/// Serves one stream.
async fn one(session: Session, mut stream: Stream, exposing: Arc<Exposing>, held: Option<Held<By>>) {
    let peer = session.peer();
    let wish = Wish::read(stream.0.tag());
    let found = match &wish {
        _ if held.is_none() => Err(Answer::Busy),
        Some(wish) => exposing.find(wish).await,
        None => Err(Answer::Unknown),
    };
    let answer = found.as_ref().err().copied().unwrap_or(Answer::Open);
    if let Some(wish) = &wish {
        tracing::info!(target: "p2pd::expose", %peer, service = %wish, %answer, "asked");
    }
    if stream.0.write_all(&[answer.byte()]).await.is_err() {
        return;
    }
    match found {
        Ok(Found::Stream(local)) => {
            let count = |way: Way, n: usize| {
                if let Some(carrier) = session.carrier() {
                    exposing.metrics.count(way, carrier.strategy(), n as u64);
                }
            };
            join(local, &mut stream, count).await;
        }
        Ok(Found::Datagrams(socket)) => datagrams::serve(socket, &mut stream).await,
        Err(_) => stream.0.finish(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposing(services: &[&str], allow: &[&str]) -> Exposing {
        let services = services.iter().map(|text| {
            let Service { name, place } = text.parse().unwrap();
            (name, place)
        });
        let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
        let metrics = Arc::default();
        Exposing { services: services.collect(), allow, who: Who::Listed, metrics }
    }

    #[tokio::test]
    async fn a_wish_that_is_not_granted_has_its_answer() {
        // Bound, and nothing accepts: a port that is taken and refuses.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let services =
            [format!("gone={closed}"), "dns=udp:53".into(), "file=unix:/nonexistent/socket".into()];
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        let exposing = exposing(&services, &["127.0.0.1:9"]);
        for (tag, answer) in [
            ("stream/ssh", Answer::Unknown),
            ("datagrams/ssh", Answer::Unknown),
            ("stream/GONE", Answer::Unknown),
            ("stream/gone", Answer::Refused),
            ("stream/file", Answer::Refused),
            ("datagrams/gone", Answer::IsStream),
            ("stream/dns", Answer::IsDatagrams),
            ("connect/127.0.0.1:10", Answer::NotAllowed),
            ("connect/localhost:9", Answer::NotAllowed),
            ("connect/[::ffff:127.0.0.1]:9", Answer::Refused),
        ] {
            let wish = Wish::read(tag.as_bytes()).unwrap();
            assert_eq!(exposing.find(&wish).await.err(), Some(answer), "{tag}");
        }
    }

    #[test]
    fn the_other_side_is_told_ports_that_need_no_privilege() {
        let exposing =
            exposing(&["web=[::1]:8080", "ssh=22", "dns=udp:53", "db=unix:/run/db"], &["a.example:80"]);
        assert_eq!(exposing.example(), " db unix:./db dns udp:8053 ssh 8022 web 8080 --socks 1080");
    }
}
