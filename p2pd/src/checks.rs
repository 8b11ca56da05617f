//! `p2pd servers check`: asks each server of a list, and says what it answers.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use p2pd_core::{Broker, BrokerState, Config, Event, NtpServer, StunServer, TurnServer};
use p2pd_sys::messages::{Protocol, Route};
use p2pd_tokio::messages::stun::Client;
use p2pd_tokio::{Allocate, Events, Node};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant as Deadline, timeout_at};

use crate::print;
use crate::say::Say;

/// Longest wait for a broker: a message to ourselves may take 20 s.
const BROKER: Duration = Duration::from_secs(25);
/// Longest wait for a relayed address, and for the time.
const OTHERS: Duration = Duration::from_secs(10);

/// The servers of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    brokers: Vec<Broker>,
    stun: Vec<StunServer>,
    turn: Vec<TurnServer>,
    ntp: Vec<NtpServer>,
    bind: Option<IpAddr>,
}

/// What came of one server.
#[derive(Debug)]
struct Row {
    kind: &'static str,
    server: String,
    took: Option<Duration>,
    said: Result<String, String>,
}

impl Listed {
    pub(crate) fn of(config: &Config) -> Self {
        let Config { brokers, stun, turn, ntp, bind, .. } = config;
        Listed {
            brokers: brokers.clone(),
            stun: stun.clone(),
            turn: turn.clone(),
            ntp: ntp.clone(),
            bind: *bind,
        }
    }
}

/// Asks all at once. Returns success if each has answered.
pub(crate) async fn run(node: &Node, listed: Listed, say: Say) -> ExitCode {
    say.waiting("asking the servers");
    let mut asked = JoinSet::new();
    let Listed { brokers, stun, turn, ntp, bind } = listed;
    let mut order = Vec::new();
    let mut add = |kind: &'static str, server: String| {
        order.push((kind, server.clone()));
        Row { kind, server, took: None, said: Err("no answer".into()) }
    };
    for broker in brokers {
        let row = add("mqtt", format!("{} {}:{}", broker.id, broker.host, broker.port));
        asked.spawn(ask_broker(node.clone(), node.events(), broker.id, row));
    }
    for server in stun {
        let row = add("stun", format!("{}:{}", server.host, server.port));
        asked.spawn(ask_stun(server, bind, row));
    }
    for server in turn {
        let row = add("turn", format!("{}:{}", server.host, server.port));
        asked.spawn(ask_turn(node.clone(), server, row));
    }
    if !ntp.is_empty() {
        let names: Vec<&str> = ntp.iter().map(|server| &*server.host).collect();
        let row = add("ntp", names.join(", "));
        asked.spawn(ask_time(node.events(), row));
    }
    let mut rows = asked.join_all().await;
    rows.sort_by_key(|row| {
        order.iter().position(|(kind, server)| (*kind, server) == (row.kind, &row.server))
    });
    let all = rows.iter().all(|row| row.said.is_ok());
    let printed = match say.is_json() {
        true => rows.iter().try_for_each(|row| print::out(&print::for_programs(&row.to_json().to_string()))),
        false if rows.is_empty() => print::out("the list names no server"),
        false => print::out(&table(&rows)),
    };
    if all && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn ask_broker(node: Node, mut events: Events, id: u16, row: Row) -> Row {
    let (begin, deadline) = (Instant::now(), Deadline::now() + BROKER);
    // It may have been ready before anybody listened.
    let ready = |node: &Node| node.current_address().is_some_and(|address| address.brokers().contains(&id));
    let mut said = Err("no answer".to_owned());
    while !ready(&node) {
        match timeout_at(deadline, events.recv()).await {
            Ok(Some(Ok(Event::Broker { id: of, state }))) if of == id => match state {
                BrokerState::Ready => break,
                BrokerState::Lost(why) => said = Err(why.to_string()),
                BrokerState::Swallows => {
                    return row.with(begin, Err("takes messages and delivers none".into()));
                }
                BrokerState::EndsAtMessages => {
                    return row.with(begin, Err("ends the session at a message".into()));
                }
                _ => {}
            },
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return row.with(begin, said),
        }
    }
    row.with(begin, Ok("takes and delivers messages".into()))
}

async fn ask_stun(server: StunServer, bind: Option<IpAddr>, row: Row) -> Row {
    let begin = Instant::now();
    let route = match bind {
        Some(ip) => Route::of((ip, 0).into()),
        None => Route::of((Ipv4Addr::UNSPECIFIED, 0).into()),
    };
    let client = Client::new((&*server.host, server.port), route);
    let (udp, tcp) = tokio::join!(client.mapping(Protocol::Udp), client.mapping(Protocol::Tcp));
    let said = match (udp, tcp) {
        (Ok(udp), Ok(_)) => Ok(format!("answers over UDP and TCP; we are {}", udp.external.ip())),
        (Ok(udp), Err(why)) => {
            Ok(format!("answers over UDP, not over TCP ({why}); we are {}", udp.external.ip()))
        }
        (Err(why), Ok(tcp)) => {
            Ok(format!("answers over TCP, not over UDP ({why}); we are {}", tcp.external.ip()))
        }
        (Err(why), Err(_)) => Err(why.to_string()),
    };
    row.with(begin, said)
}

async fn ask_turn(node: Node, server: TurnServer, row: Row) -> Row {
    let begin = Instant::now();
    let mut wish = Allocate::default();
    (wish.servers, wish.timeout) = (vec![server], OTHERS);
    let said = match node.allocate(wish).await {
        Ok(allocation) => Ok(format!("relays, from {}", allocation.relayed_addr().ip())),
        Err(why) => Err(why.to_string()),
    };
    row.with(begin, said)
}

/// The node asks all of them, and takes the time that most agree on.
async fn ask_time(mut events: Events, row: Row) -> Row {
    let (begin, deadline) = (Instant::now(), Deadline::now() + OTHERS);
    loop {
        match timeout_at(deadline, events.recv()).await {
            Ok(Some(Ok(Event::Clock { ahead, error }))) => {
                let (ahead, error) = (ahead as f64 / 1e6, error.as_secs_f64());
                return row
                    .with(begin, Ok(format!("our clock is {ahead:.3} s ahead, to within {error:.3} s")));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                return row.with(begin, Err("no answer that enough of them agree on".into()));
            }
        }
    }
}

impl Row {
    fn with(self, begin: Instant, said: Result<String, String>) -> Self {
        Row { took: Some(begin.elapsed()), said, ..self }
    }

    fn to_json(&self) -> Value {
        json!({
            "kind": self.kind, "server": self.server, "ok": self.said.is_ok(),
            "elapsed_ms": self.took.map(|took| took.as_secs_f64() * 1e3),
            "said": self.said.as_ref().unwrap_or_else(|why| why),
        })
    }
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.server.chars().count()).max().unwrap_or_default();
    let line = |row: &Row| {
        let ms = row.took.map_or(0, |took| took.as_millis());
        let (mark, said) = match &row.said {
            Ok(said) => ("ok", said),
            Err(why) => ("FAILED", why),
        };
        format!("{mark:6}  {}  {:width$}  {ms:>6} ms  {said}", row.kind, row.server)
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
