//! `p2pd servers check`: asks each server of a list, and says what it answers. `p2pd doctor` does so too.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt, join_all};
use p2pd_core::{Broker, BrokerState, Config, Event, NtpServer, StunServer, TurnServer};
use p2pd_sys::messages::{Protocol, Route};
use p2pd_tokio::messages::stun::Client;
use p2pd_tokio::{Allocate, Events, Node};
use serde_json::{Value, json};
use tokio::time::{Instant as Deadline, timeout_at};

use crate::print;
use crate::say::Say;

/// Longest wait for a broker: a message to ourselves may take 20 s.
const BROKER: Duration = Duration::from_secs(25);
/// Longest wait for a relayed address, and for the time.
const OTHERS: Duration = Duration::from_secs(10);

/// The servers of a list.
#[derive(Default, Debug)]
pub(crate) struct Listed {
    brokers: Vec<Broker>,
    stun: Vec<StunServer>,
    turn: Vec<TurnServer>,
    pub(crate) ntp: Vec<NtpServer>,
    bind: Option<IpAddr>,
}

/// Outcome of asking one server.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) kind: &'static str,
    pub(crate) server: String,
    took: Duration,
    pub(crate) said: Result<String, String>,
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

    /// Names of the servers, without addresses.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let hosts = self.brokers.iter().map(|server| &*server.host);
        let hosts = hosts.chain(self.stun.iter().map(|server| &*server.host));
        let hosts = hosts.chain(self.turn.iter().map(|server| &*server.host));
        let hosts = hosts.chain(self.ntp.iter().map(|server| &*server.host));
        hosts.filter(|host| host.parse::<IpAddr>().is_err()).collect()
    }
}

/// Asks all, and prints what they answer. Returns success if each has answered.
pub(crate) async fn run(node: &Node, listed: Listed, say: Say) -> ExitCode {
    say.waiting("asking the servers");
    let rows = ask(node, listed).await;
    let all = rows.iter().all(|row| row.said.is_ok());
    let printed = match say.is_json() {
        true => rows.iter().try_for_each(|row| print::out(&print::for_programs(&row.to_json().to_string()))),
        false if rows.is_empty() => print::out("the list names no server"),
        false => print::out(&table(&rows)),
    };
    if all && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Asks all at once.
pub(crate) async fn ask(node: &Node, listed: Listed) -> Vec<Row> {
    let Listed { brokers, stun, turn, ntp, bind } = listed;
    let mut asked: Vec<BoxFuture<'_, Row>> = Vec::new();
    for broker in brokers {
        let name = format!("{} {}:{}", broker.id, broker.host, broker.port);
        asked.push(row("mqtt", name, ask_broker(node, broker.id)).boxed());
    }
    for server in stun {
        asked.push(row("stun", format!("{}:{}", server.host, server.port), ask_stun(server, bind)).boxed());
    }
    for server in turn {
        asked.push(row("turn", format!("{}:{}", server.host, server.port), ask_turn(node, server)).boxed());
    }
    if !ntp.is_empty() {
        let names: Vec<&str> = ntp.iter().map(|server| &*server.host).collect();
        asked.push(row("ntp", names.join(", "), ask_time(node.events())).boxed());
    }
    join_all(asked).await
}

async fn row(
    kind: &'static str,
    server: String,
    asking: impl Future<Output = Result<String, String>>,
) -> Row {
    let begin = Instant::now();
    let said = asking.await;
    Row { kind, server, took: begin.elapsed(), said }
}

async fn ask_broker(node: &Node, id: u16) -> Result<String, String> {
    let (mut events, deadline) = (node.events(), Deadline::now() + BROKER);
    // It may have been ready before anybody listened.
    let ready = || node.current_address().is_some_and(|address| address.brokers().contains(&id));
    let mut said = "no answer".to_owned();
    while !ready() {
        match timeout_at(deadline, events.recv()).await {
            Ok(Some(Ok(Event::Broker { id: of, state }))) if of == id => match state {
                BrokerState::Ready => break,
                BrokerState::Lost(why) => said = why.to_string(),
                BrokerState::Swallows => return Err("takes messages and delivers none".into()),
                BrokerState::EndsAtMessages => return Err("ends the session at a message".into()),
                _ => {}
            },
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Err(said),
        }
    }
    Ok("takes and delivers messages".into())
}

async fn ask_stun(server: StunServer, bind: Option<IpAddr>) -> Result<String, String> {
    let route = Route::of((bind.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0).into());
    let client = Client::new((&*server.host, server.port), route);
    let (udp, tcp) = tokio::join!(client.mapping(Protocol::Udp), client.mapping(Protocol::Tcp));
    let (how, seen) = match (udp, tcp) {
        (Ok(udp), Ok(_)) => ("UDP and TCP".to_owned(), udp),
        (Ok(udp), Err(why)) => (format!("UDP, not over TCP ({why})"), udp),
        (Err(why), Ok(tcp)) => (format!("TCP, not over UDP ({why})"), tcp),
        (Err(why), Err(_)) => return Err(why.to_string()),
    };
    Ok(format!("answers over {how}; we are {}", seen.external.ip()))
}

async fn ask_turn(node: &Node, server: TurnServer) -> Result<String, String> {
    let mut wish = Allocate::default();
    (wish.servers, wish.timeout) = (vec![server], OTHERS);
    match node.allocate(wish).await {
        Ok(allocation) => Ok(format!("relays, from {}", allocation.relayed_addr().ip())),
        Err(why) => Err(why.to_string()),
    }
}

/// Waits for the time that most of the servers agree on. The node asks all of them.
async fn ask_time(mut events: Events) -> Result<String, String> {
    let deadline = Deadline::now() + OTHERS;
    loop {
        match timeout_at(deadline, events.recv()).await {
            Ok(Some(Ok(Event::Clock { ahead, error }))) => {
                let (ahead, error) = (ahead as f64 / 1e6, error.as_secs_f64());
                return Ok(format!("our clock is {ahead:.3} s ahead, to within {error:.3} s"));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Err("no answer that enough of them agree on".into()),
        }
    }
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "kind": self.kind, "server": self.server, "ok": self.said.is_ok(),
            "elapsed_ms": self.took.as_secs_f64() * 1e3,
            "said": self.said.as_ref().unwrap_or_else(|why| why),
        })
    }
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.server.chars().count()).max().unwrap_or_default();
    let line = |row: &Row| {
        let ms = row.took.as_millis();
        let (mark, said) = match &row.said {
            Ok(said) => ("ok", said),
            Err(why) => ("FAILED", why),
        };
        format!("{mark:6}  {}  {:width$}  {ms:>6} ms  {said}", row.kind, row.server)
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
