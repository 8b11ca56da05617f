//! `--lan`: announces the node in its networks, and finds peers there by their ids, by multicast DNS on a thread of
//! `mdns-sd`'s. What is announced and believed is `p2pd_core::lan`'s decision.

use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use p2pd_core::lan::{ROTATION, SERVICE, Search, Tag, may_announce};
use p2pd_core::{NodeId, PeerAddress, Target};
use p2pd_tokio::Node;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::options::Common;
use crate::say::Say;

/// Longest search for a peer of which nothing but the id is known. Questions go out at its begin, after 1 s and after 3 s.
const ALONE: Duration = Duration::from_millis(3500);
/// Longest search for a peer whose address is known.
const BESIDE: Duration = Duration::from_millis(300);
/// Wait for further answers behind the first: an honest one comes up to 50 ms after the question, a forged one at once.
const GRACE: Duration = Duration::from_millis(60);
/// Longest wait for the farewell to be sent.
const FAREWELL: Duration = Duration::from_millis(500);
/// Time between two looks for the listener's port, while the node opens it.
const LOOK: Duration = Duration::from_millis(10);

/// Announcement of a node, until it is ended.
pub(crate) struct Announcement {
    mdns: ServiceDaemon,
    renewing: JoinHandle<()>,
}

impl Announcement {
    /// Announces the node, under another tag each [`ROTATION`].
    ///
    /// # Errors
    /// Says why there is no multicast DNS.
    pub(crate) fn begin(node: &Node, common: &Common, say: Say) -> Result<Self, String> {
        let mdns = multicast(common)?;
        let renewing = tokio::spawn(renew(mdns.clone(), node.clone(), nearby(common), say));
        Ok(Announcement { mdns, renewing })
    }

    /// Takes the announcement back.
    pub(crate) async fn end(self) {
        self.renewing.abort();
        leave(&self.mdns).await;
    }
}

async fn renew(mdns: ServiceDaemon, node: Node, nearby: IfKind, say: Say) {
    let port = loop {
        match node.current_address().and_then(|a| a.interfaces().next().map(|i| i.port)) {
            Some(port) => break port,
            None => sleep(LOOK).await,
        }
    };
    let mut last: Option<String> = None;
    loop {
        match announce(&mdns, &node.node_id(), port, nearby.clone()) {
            Ok((tag, name)) => {
                say.line(
                    || json!({"event": "announced", "tag": tag.to_string(), "port": port}),
                    || format!("announced in this network as {tag}"),
                );
                if let Some(last) = last.replace(name) {
                    let _ = mdns.unregister(&last);
                }
            }
            Err(why) => say.error(&format!("--lan: {why}")),
        }
        sleep(ROTATION).await;
    }
}

/// Announces a node under a new tag, and returns it with its full name.
fn announce(mdns: &ServiceDaemon, id: &NodeId, port: u16, nearby: IfKind) -> Result<(Tag, String), String> {
    let seed = p2pd_tokio::random_seed().map_err(|why| why.to_string())?;
    let mut salt = [0; 10];
    salt.copy_from_slice(&seed[..10]);
    let tag = Tag::new(id, salt);
    let nothing: [(&str, &str); 0] = [];
    let info = ServiceInfo::new(SERVICE, &tag.to_string(), &tag.host(), "", port, &nothing[..]);
    let mut info = info.map_err(|why| why.to_string())?.enable_addr_auto();
    // Names are drawn at random. Who claims one of them could have us take another, under which nobody finds us.
    info.set_requires_probe(false);
    info.set_interfaces(vec![nearby]);
    let name = info.get_fullname().to_owned();
    mdns.register(info).map_err(|why| why.to_string())?;
    Ok((tag, name))
}

/// Puts into a target what is found in the networks of this machine. A name stays as it is.
///
/// # Errors
/// Says why there was no search, or that nobody answered for an id without an address.
pub(crate) async fn find(to: &mut Target, common: &Common, say: Say) -> Result<(), String> {
    let Target::Address(known) = to else { return Ok(()) };
    let Ok(id) = NodeId::try_from(known.node()) else { return Ok(()) };
    let is_alone = known.brokers().is_empty() && known.interfaces().next().is_none();
    let limit = if is_alone { ALONE } else { BESIDE };
    say.waiting("searching this network");
    let began = Instant::now();
    match search(id, known, limit, common).await? {
        Some(found) => {
            let after = began.elapsed();
            say.line(
                || json!({"event": "found", "address": found.to_string(), "elapsed_ms": after.as_secs_f64() * 1e3}),
                || format!("found in this network after {} ms: {found}", after.as_millis()),
            );
            **known = found;
            Ok(())
        }
        None if is_alone => Err(format!("nobody in this network answered for {id} within {limit:?}")),
        None => Ok(()),
    }
}

async fn search(
    id: NodeId,
    known: &PeerAddress,
    limit: Duration,
    common: &Common,
) -> Result<Option<PeerAddress>, String> {
    let ours = p2pd_sys::interfaces(common.bind, &common.interfaces()).map_err(|why| why.to_string())?;
    let mdns = multicast(common)?;
    let answers = mdns.browse(SERVICE).map_err(|why| why.to_string())?;
    let mut search = Search::new(id);
    let mut until = Instant::now() + limit;
    while let Ok(Ok(event)) = timeout_at(until, answers.recv_async()).await {
        let ServiceEvent::ServiceResolved(answer) = event else { continue };
        if search.hear(&answer.fullname, answer.port, heard(&answer), &ours) {
            until = until.min(Instant::now() + GRACE);
        }
    }
    // The call need not wait for this.
    tokio::spawn(async move { leave(&mdns).await });
    Ok(search.address(Some(known)))
}

/// Addresses of an answer, each with the index of an interface that heard it.
fn heard(answer: &ResolvedService) -> impl Iterator<Item = (IpAddr, u32)> {
    answer.addresses.iter().flat_map(|address| {
        let by: Vec<u32> = match address {
            ScopedIp::V4(v4) => v4.interface_ids().iter().map(|by| by.index).collect(),
            ScopedIp::V6(v6) => vec![v6.scope_id().index],
            _ => Vec::new(),
        };
        by.into_iter().map(|index| (address.to_ip_addr(), index))
    })
}

/// Multicast DNS on the interfaces that the options allow.
fn multicast(common: &Common) -> Result<ServiceDaemon, String> {
    let begin = || {
        let mdns = ServiceDaemon::new()?;
        mdns.disable_interface(IfKind::All)?;
        mdns.enable_interface(nearby(common))?;
        Ok(mdns)
    };
    begin().map_err(|why: mdns_sd::Error| format!("multicast DNS: {why}"))
}

/// Addresses to announce, and to ask from: private and link-local ones that the options allow.
fn nearby(common: &Common) -> IfKind {
    let (bind, wanted) = (common.bind, common.interfaces());
    IfKind::Predicate(IfPredicate::new(move |card| {
        let ip = card.ip();
        may_announce(ip) && bind.is_none_or(|bind| bind == ip) && wanted.allows(&card.name, ip)
    }))
}

/// Ends the thread, which says farewell for what it has announced.
async fn leave(mdns: &ServiceDaemon) {
    if let Ok(left) = mdns.shutdown() {
        let _ = timeout(FAREWELL, left.recv_async()).await;
    }
}
