//! Forwards: doors of this machine that lead to peers' services, the calls below `/p2p/forward`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use p2pd_core::{Plan, Target};
use serde_json::{Value, json};

use super::Daemon;
use super::answer::Refused;
use super::call::{self, Name};
use super::events::failure;
use super::guard::Query;
use super::place;
use crate::forward::{Exposing, Held, Leads, NotBegun, Wanted};

/// Forwards at a time.
const MAX_FORWARDS: usize = 64;

/// A call that concerns a forward.
#[derive(Debug)]
pub(super) enum ForwardCall {
    /// To the services of an address or a name, or `None` for our own.
    Open(Option<Target>),
    Show,
    Close,
}

/// Forwards by their names.
#[derive(Debug, Default)]
pub(super) struct Forwards(Mutex<BTreeMap<Name, Slot>>);

#[derive(Debug)]
enum Slot {
    /// The name is taken by a call under way.
    Opening,
    Open(Arc<Forward>),
}

#[derive(Debug)]
struct Forward {
    to: String,
    held: Held,
}

impl Forward {
    fn to_json(&self, name: &Name) -> Value {
        let carrier = self.held.carrier().as_ref().map(place::carrier);
        json!({
            "name": name.0, "to": self.to, "service": self.held.leads, "at": self.held.at,
            "private": self.held.is_private, "carrier": carrier,
        })
    }
}

impl Slot {
    fn open(&self) -> Option<&Arc<Forward>> {
        match self {
            Slot::Open(forward) => Some(forward),
            Slot::Opening => None,
        }
    }
}

impl Forwards {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Name, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the forwards.
    pub(super) fn list(&self) -> Vec<Value> {
        let open = |(name, slot): (&Name, &Slot)| Some(slot.open()?.to_json(name));
        self.all().iter().filter_map(open).collect()
    }

    /// Shows one.
    pub(super) fn show(&self, name: &Name) -> Result<Value, Refused> {
        let all = self.all();
        let forward = all.get(name).and_then(Slot::open);
        forward.map(|forward| forward.to_json(name)).ok_or_else(|| Refused::NoSuchForward(name.0.clone()))
    }

    fn take(&self, name: &Name) -> Option<Arc<Forward>> {
        let mut all = self.all();
        let forward = all.get(name)?.open()?.clone();
        all.remove(name);
        Some(forward)
    }

    fn reserve(&self, name: &Name) -> Result<Reserved<'_>, Refused> {
        let mut all = self.all();
        if all.len() >= MAX_FORWARDS {
            return Err(Refused::TooMany("forwards"));
        }
        match all.entry(name.clone()) {
            Entry::Occupied(_) => Err(Refused::NameTaken),
            Entry::Vacant(place) => {
                place.insert(Slot::Opening);
                drop(all);
                Ok(Reserved(self, name.clone()))
            }
        }
    }

    /// Closes all of them, so that the peers are told.
    pub(super) async fn close(&self) {
        let all = std::mem::take(&mut *self.all());
        join_all(all.values().filter_map(Slot::open).map(|forward| forward.held.close())).await;
    }
}

/// A name that is given back if nothing comes of it.
struct Reserved<'a>(&'a Forwards, Name);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut all = self.0.all();
        if matches!(all.get(&self.1), Some(Slot::Opening)) {
            all.remove(&self.1);
        }
    }
}

/// Opens a door to what `service` and `at` ask for, or to SOCKS5 by `socks`. A client that leaves meanwhile gives it up.
pub(super) async fn open(
    daemon: &Daemon,
    name: Name,
    to: Option<Target>,
    (plan, query): (Plan, &Query),
) -> Result<Value, Refused> {
    let wanted = wanted(query)?;
    let reserved = daemon.forwards.reserve(&name)?;
    let told = call::told(to.as_ref());
    let to = daemon.target(to).await?;
    let held = Held::begin(&daemon.node, (&to, plan), wanted, daemon.metrics.clone()).await;
    let held = held.map_err(|why| match why {
        NotBegun::Place(why) => Refused::NotListened(why.to_string()),
        NotBegun::Peer(why) => Refused::ConnectFailed(failure(&why)),
    })?;
    let forward = Arc::new(Forward { to: told, held });
    let shown = forward.to_json(&name);
    daemon.forwards.all().insert(name, Slot::Open(forward));
    drop(reserved);
    daemon.events.tell(&json!({"event": "forward_opened", "forward": shown}));
    Ok(shown)
}

/// Closes a door, and all that went through it.
pub(super) async fn close(daemon: &Daemon, name: &Name) -> Result<Value, Refused> {
    let forward = daemon.forwards.take(name).ok_or_else(|| Refused::NoSuchForward(name.0.clone()))?;
    forward.held.close().await;
    daemon.events.tell(&json!({"event": "forward_closed", "name": name.0}));
    Ok(json!({"closed": name.0}))
}

/// The door that a query asks for.
fn wanted(query: &Query) -> Result<Wanted, Refused> {
    match (query.get("service"), query.get("at"), query.get("socks")) {
        (Some(service), Some(at), None) => Ok(Wanted {
            leads: Leads::To(service.parse().map_err(|_| Refused::BadOption("service"))?),
            at: at.parse().map_err(|_| Refused::BadOption("at"))?,
        }),
        (None, None, Some(at)) => {
            let at: crate::forward::Place = at.parse().map_err(|_| Refused::BadOption("socks"))?;
            if at.is_datagrams() {
                return Err(Refused::BadOption("socks"));
            }
            Ok(Wanted { leads: Leads::Socks, at })
        }
        _ => Err(Refused::BadOption("service, at or socks")),
    }
}

/// Lists what this daemon exposes.
pub(super) fn services(exposing: Option<&Exposing>) -> Vec<Value> {
    let of = |(name, place)| json!({"name": name, "place": place});
    exposing.into_iter().flat_map(Exposing::services).map(of).collect()
}
