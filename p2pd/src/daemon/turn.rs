//! Relayed addresses at TURN servers: the calls below `/p2p/turn/NAME`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pd::servers::{self, WayOut};
use p2pd_core::pipe::subscriptions::Queue;
use p2pd_core::turn::MAX_PAYLOAD;
use p2pd_core::{MAX_ALLOCATIONS, TurnServer};
use p2pd_tokio::messages::{End, MessagePipe, PipeOptions, SendError};
use p2pd_tokio::{Allocate, AllocateError, Node, RelayFamily};
use serde_json::{Value, json};

use super::LAST_WORDS;
use super::answer::Refused;
use super::call::{Name, Subscribed};
use super::queues::{QueueCall, Queues};

/// Longest wait for a datagram to be taken.
const SEND: Duration = Duration::from_secs(30);

const TOO_MANY: Refused = Refused::TooMany("relayed addresses");

/// A call that concerns a relayed address.
#[derive(Debug)]
pub(super) enum TurnCall {
    Open,
    Close,
    Send(SocketAddr, Vec<u8>),
    Queue(QueueCall),
}

/// The relayed addresses by their names.
#[derive(Debug, Default)]
pub(super) struct Turns(Arc<Mutex<ByName>>);

type ByName = BTreeMap<Name, Arc<Relayed>>;

#[derive(Debug)]
struct Relayed {
    at: SocketAddr,
    other: Option<SocketAddr>,
    queues: Arc<Queues>,
}

impl Turns {
    /// Asks the TURN servers of the list for an address, or the one of the call, which is then reached as the list says of
    /// its own.
    pub(super) async fn open(
        &self,
        node: &Node,
        name: &Name,
        (family, timeout, server): (Option<&str>, Option<Duration>, Option<TurnServer>),
        queue: Queue,
    ) -> Result<Value, Refused> {
        room(&self.all(), name)?;
        let mut wish = Allocate::default();
        wish.family = match family {
            None => None,
            Some("4") => Some(RelayFamily::V4),
            Some("6") => Some(RelayFamily::V6),
            Some("both") => Some(RelayFamily::Both),
            Some(_) => return Err(Refused::BadOption("family")),
        };
        wish.timeout = timeout.unwrap_or(wish.timeout);
        wish.servers.extend(server);
        let failed = |why: String| Refused::ConnectFailed(json!({"reason": why}));
        let allocation = node.allocate(wish).await.map_err(|why| match why {
            AllocateError::TooMany => TOO_MANY,
            AllocateError::Servers(why) => Refused::BadServer(why.to_string()),
            why => failed(why.to_string()),
        })?;
        let (at, other) = (allocation.relayed_addr(), allocation.other_relayed_addr());
        let options = PipeOptions { queue, ..PipeOptions::default() };
        let pipe = MessagePipe::new(allocation, &options).map_err(|why| failed(why.to_string()))?;
        let relayed = Relayed { at, other, queues: Arc::new(Queues::new(pipe)) };
        relayed.queues.subscribe(&Subscribed::everything(), queue)?;
        let shown = relayed.to_json(name);
        self.keep(name, relayed)?;
        Ok(shown)
    }

    /// Keeps an address under its name until its pipe has ended, and nobody reads the rest.
    fn keep(&self, name: &Name, relayed: Relayed) -> Result<(), Refused> {
        let relayed = Arc::new(relayed);
        {
            let mut all = self.all();
            room(&all, name)?;
            all.insert(name.clone(), relayed.clone());
        }
        let (all, name) = (self.0.clone(), name.clone());
        tokio::spawn(async move {
            if relayed.queues.pipe.ended().await != End::Closed && relayed.queues.has_messages() {
                tokio::time::sleep(LAST_WORDS).await;
            }
            let mut all = lock(&all);
            if all.get(&name).is_some_and(|named| Arc::ptr_eq(named, &relayed)) {
                all.remove(&name);
            }
        });
        Ok(())
    }

    /// Lists the addresses with their names.
    pub(super) fn list(&self) -> Vec<Value> {
        self.all().iter().map(|(name, relayed)| relayed.to_json(name)).collect()
    }

    /// Gives an address up.
    pub(super) async fn close(&self, name: &Name) -> Result<Value, Refused> {
        let relayed = self.find(name)?;
        self.all().remove(name);
        relayed.queues.pipe.close().await;
        Ok(json!({"closed": name.0}))
    }

    pub(super) async fn send(&self, name: &Name, to: SocketAddr, data: &[u8]) -> Result<Value, Refused> {
        let relayed = self.find(name)?;
        match tokio::time::timeout(SEND, relayed.queues.pipe.send_to(data, to)).await {
            Ok(Ok(())) => Ok(json!({"name": name.0, "sent": data.len()})),
            Ok(Err(SendError::Failed(std::io::ErrorKind::InvalidInput))) if data.len() > MAX_PAYLOAD => {
                Err(Refused::TooLong)
            }
            Ok(Err(SendError::Failed(std::io::ErrorKind::InvalidInput))) => {
                Err(Refused::BadOption("the address's family"))
            }
            Ok(Err(_)) => Err(Refused::Ended),
            Err(_) => Err(Refused::Busy),
        }
    }

    pub(super) fn queues(&self, name: &Name) -> Result<Arc<Queues>, Refused> {
        Ok(self.find(name)?.queues.clone())
    }

    fn find(&self, name: &Name) -> Result<Arc<Relayed>, Refused> {
        self.all().get(name).cloned().ok_or_else(|| Refused::NoSuchConnection(name.0.clone()))
    }

    fn all(&self) -> MutexGuard<'_, ByName> {
        lock(&self.0)
    }
}

fn lock(all: &Mutex<ByName>) -> MutexGuard<'_, ByName> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that a further address may have the name.
fn room(all: &ByName, name: &Name) -> Result<(), Refused> {
    if all.contains_key(name) {
        return Err(Refused::NameTaken);
    }
    if all.len() >= MAX_ALLOCATIONS { Err(TOO_MANY) } else { Ok(()) }
}

impl Relayed {
    fn to_json(&self, name: &Name) -> Value {
        let shown = |at: SocketAddr| json!([at.ip().to_string(), at.port()]);
        let mut value = json!({"name": name.0, "relayed": shown(self.at)});
        if let Some(other) = self.other {
            value["other"] = shown(other);
        }
        value
    }
}

/// The TURN server that a call names, as an entry of a list has it, under the rules of lists. `way` is what the list says of
/// the way to its servers; where it says nothing, the environment may.
pub(super) fn server(entry: &str, way: Option<&WayOut>) -> Result<TurnServer, Refused> {
    let entry = servers::TurnServer::from_json(entry).map_err(Refused::BadServer)?;
    // A program of this machine's is the list's business.
    if let servers::TurnCredential::Command(_) = entry.credential {
        return Err(Refused::BadServer("a `credential_command` is for lists only".into()));
    }
    let mut server = entry.for_node();
    let way = match way {
        Some(way) => way.clone(),
        None => WayOut::of_environment().map_err(Refused::BadServer)?,
    };
    server.proxy = way.to(&server.host).cloned();
    Ok(server)
}

/// The address that a path names.
pub(super) fn address(ip: &str, port: &str) -> Option<SocketAddr> {
    let ip: IpAddr = ip.parse().ok()?;
    let port: u16 = port.parse().ok()?;
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use p2pd_tokio::messages::Route;

    use super::*;

    #[tokio::test]
    async fn an_address_that_has_ended_gives_its_name_back_and_there_are_only_so_many() {
        let turns = Turns::default();
        let keep = |number: usize| {
            let pipe = MessagePipe::bind(
                Route::from(SocketAddr::from(([127, 0, 0, 1], 0))),
                &PipeOptions::default(),
            );
            let pipe = pipe.unwrap();
            let queues = Arc::new(Queues::new(pipe.clone()));
            let relayed = Relayed { other: None, at: pipe.local_addr(), queues };
            turns.keep(&Name(format!("turn-{number}")), relayed).map(|()| pipe)
        };
        let pipes: Vec<_> = (0..MAX_ALLOCATIONS).map(|number| keep(number).unwrap()).collect();
        assert_eq!(keep(0).unwrap_err(), Refused::NameTaken);
        assert_eq!(keep(MAX_ALLOCATIONS).unwrap_err(), TOO_MANY);
        let shown = json!({"name": "turn-0", "relayed": ["127.0.0.1", pipes[0].local_addr().port()]});
        assert_eq!(turns.list()[0], shown);
        pipes[0].close().await;
        let gone = async {
            while turns.list().len() == MAX_ALLOCATIONS {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SEND, gone).await.unwrap();
        assert!(keep(0).is_ok());
    }
}
