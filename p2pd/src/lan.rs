//! `--lan`: announces the node in its networks, and finds peers there by their ids, by multicast DNS on a thread of
//! `mdns-sd`'s. What is announced and believed is `p2pd_core::lan`'s decision.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mdns_sd::{
    IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo, TxtProperty,
};
use p2pd_core::address::AddressError;
use p2pd_core::io::Interface;
use p2pd_core::lan::{MAX_ANNOUNCED, ROTATION, SERVICE, SIGNATURE, Search, Tag, may_announce};
use p2pd_core::{NodeId, PeerAddress, SecretKey, Target};
use p2pd_tokio::Node;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::options::Common;
use crate::say::Say;

/// Longest search for a peer of which nothing but the id is known. Questions go out at its begin, after 1 s and after 3 s.
const ALONE: Duration = Duration::from_millis(3500);
/// Longest search for a peer whose address is known.
const BESIDE: Duration = Duration::from_millis(300);
/// Shortest search, so that who answers unasked does not end it before others were asked: the question leaves within 50 ms,
/// and a responder takes up to 50 ms more.
const ASKED: Duration = Duration::from_millis(150);
/// Wait for further answers behind the first.
const GRACE: Duration = Duration::from_millis(60);
/// Longest wait for the farewell to be sent.
const FAREWELL: Duration = Duration::from_millis(500);
/// Most records that the thread may keep of strangers while it announces, and time between two looks at their number.
const MOST_KEPT: i64 = 4096;
const WATCH: Duration = Duration::from_secs(1);
/// Time between two looks for the listener's port, while the node opens it.
const LOOK: Duration = Duration::from_millis(10);

/// Announcement of a node, until it is ended.
pub(crate) struct Announcement {
    over: oneshot::Sender<()>,
    keeping: JoinHandle<()>,
}

impl Announcement {
    /// Announces the node, under other tags each [`ROTATION`].
    ///
    /// # Errors
    /// Says why there is no multicast DNS.
    pub(crate) fn begin(node: &Node, key: SecretKey, common: &Common, say: Say) -> Result<Self, String> {
        let (over, ended) = oneshot::channel();
        let keeping = keep(multicast(common)?, (node.clone(), key), common.clone(), ended, say);
        let keeping = tokio::spawn(keeping);
        Ok(Announcement { over, keeping })
    }

    /// Takes the announcement back.
    pub(crate) async fn end(self) {
        drop(self.over);
        let _ = self.keeping.await;
    }
}

/// Announces until `ended`. Each time the thread is a new one, so that it keeps nothing of what strangers said.
async fn keep(
    mut mdns: ServiceDaemon,
    (node, key): (Node, SecretKey),
    common: Common,
    mut ended: oneshot::Receiver<()>,
    say: Say,
) {
    // Later on the address may have a router's port in place of the listener's.
    let port = loop {
        if let Some(first) = node.current_address().and_then(|a| a.interfaces().next().copied()) {
            break first.port;
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = &mut ended => return leave(&mdns).await,
        }
    };
    loop {
        let ours = addresses(&node, &common);
        match announce(&mdns, &key, &ours, port, &common) {
            Ok(tags) => {
                let at: Vec<String> = ours.iter().map(|ip| SocketAddr::new(*ip, port).to_string()).collect();
                say.line(
                    || json!({"event": "announced", "at": at, "tags": tags}),
                    || format!("announced in this network at {}", at.join(", ")),
                );
            }
            Err(why) => say.error(&format!("--lan: {why}")),
        }
        tokio::select! {
            () = is_due(&mdns, &ours, &node, &common) => {}
            _ = &mut ended => break,
        }
        match multicast(&common) {
            Ok(next) => {
                leave(&mdns).await;
                mdns = next;
            }
            Err(why) => say.error(&format!("--lan: {why}")),
        }
    }
    leave(&mdns).await;
}

/// Waits until other tags are due: their time is over, our addresses have changed, or the thread keeps more records than it
/// may. It keeps what is said unasked too.
async fn is_due(mdns: &ServiceDaemon, ours: &[IpAddr], node: &Node, common: &Common) {
    let over = Instant::now() + ROTATION;
    while Instant::now() < over {
        sleep(WATCH).await;
        if addresses(node, common) != ours {
            return;
        }
        let Ok(asked) = mdns.get_metrics() else { continue };
        let Ok(Ok(counts)) = timeout(WATCH, asked.recv_async()).await else { continue };
        let kept: i64 = counts.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, n)| n).sum();
        if kept > MOST_KEPT {
            return;
        }
    }
}

/// Addresses to announce, of the families that the node listens on: a machine without IPv6 has link-local addresses too.
fn addresses(node: &Node, common: &Common) -> Vec<IpAddr> {
    let listens = node.current_address();
    let listens = |ip: &IpAddr| {
        listens.as_ref().is_some_and(|a| !if ip.is_ipv4() { a.v4().is_empty() } else { a.v6().is_empty() })
    };
    let all = p2pd_sys::interfaces(common.bind, &common.interfaces()).unwrap_or_default();
    let ours = all.into_iter().filter(|i| i.used && may_announce(i.ip)).map(|i| i.ip);
    ours.filter(listens).take(MAX_ANNOUNCED).collect()
}

/// Announces a node's addresses, each under a new tag, and returns the tags.
fn announce(
    mdns: &ServiceDaemon,
    key: &SecretKey,
    ours: &[IpAddr],
    port: u16,
    common: &Common,
) -> Result<Vec<String>, String> {
    let mut tags = Vec::new();
    let (id, now) = (key.node_id(), p2pd_sys::wall_clock(p2pd_core::Instant::ZERO).wall);
    for ip in ours {
        let seed = p2pd_tokio::random_seed().map_err(|why| why.to_string())?;
        let mut salt = [0; 10];
        salt.copy_from_slice(&seed[..10]);
        let tag = Tag::new(&id, (*ip, port), salt);
        let text = vec![TxtProperty::from((SIGNATURE, tag.sign(key, now).as_str()))];
        let info = ServiceInfo::new(SERVICE, &tag.to_string(), &tag.host(), *ip, port, text);
        let mut info = info.map_err(|why| why.to_string())?;
        // Names are drawn at random. Who claims one of them could have us take another, under which nobody finds us.
        info.set_requires_probe(false);
        info.set_interfaces(vec![nearby(common)]);
        mdns.register(info).map_err(|why| why.to_string())?;
        tags.push(tag.to_string());
    }
    Ok(tags)
}

/// Returns a target that says no more than a node id.
///
/// # Errors
/// None for the id of a node.
pub(crate) fn bare(id: NodeId) -> Result<Target, AddressError> {
    PeerAddress::new(&[], &[], id.to_node_text()).map(|address| Target::Address(Box::new(address)))
}

/// Returns true if a target says no more than a node id.
pub(crate) fn is_bare(to: &Target) -> bool {
    matches!(to, Target::Address(known) if known.brokers().is_empty() && known.interfaces().next().is_none())
}

/// Puts into a target what is found in the networks of this machine. A name stays as it is.
///
/// # Errors
/// Says why there was no search, or that nobody answered for an id without an address.
pub(crate) async fn find(to: &mut Target, common: &Common, say: Say) -> Result<(), String> {
    let is_alone = is_bare(to);
    let Target::Address(known) = to else { return Ok(()) };
    let Ok(id) = NodeId::try_from(known.node()) else { return Ok(()) };
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
    let mut answers = mdns.browse(SERVICE).map_err(|why| why.to_string())?;
    let mut search = Search::new(id, p2pd_sys::wall_clock(p2pd_core::Instant::ZERO).wall);
    let began = Instant::now();
    let mut until = began + limit;
    loop {
        let next = || async { answers.recv_async().await.ok() };
        if listen((&mut search, &ours), (began, &mut until), next).await {
            break;
        }
        match mdns.browse(SERVICE) {
            Ok(more) => answers = more,
            Err(_) => break,
        }
    }
    // The call need not wait for this.
    tokio::spawn(async move { leave(&mdns).await });
    Ok(search.address(Some(known)))
}

/// Takes answers in until the search is over, and shortens it for one that is taken. Returns false if they end before: the
/// thread ends a subscription whose events are not read fast enough.
async fn listen<F: Future<Output = Option<ServiceEvent>>>(
    (search, ours): (&mut Search, &[Interface]),
    (began, until): (Instant, &mut Instant),
    mut next: impl FnMut() -> F,
) -> bool {
    // The clock is looked at here too: `timeout_at` ends no wait for what is there already.
    while Instant::now() < *until {
        match timeout_at(*until, next()).await {
            Ok(Some(ServiceEvent::ServiceResolved(answer))) => {
                let signature = answer.txt_properties.get_property_val_str(SIGNATURE).unwrap_or_default();
                if search.hear((&answer.fullname, signature), answer.port, heard(&answer), ours) {
                    *until = (*until).min((began + ASKED).max(Instant::now() + GRACE));
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
    true
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
        // A new interface is left out for so long while its IPv6 address is not ready (RFC 4862, section 5.4).
        mdns.set_ip_check_interval(1)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Listens so long to events that come at once. Returns what [`listen`] does.
    async fn heard_of(time: Duration, mut next: impl FnMut(Instant) -> bool) -> bool {
        let id = SecretKey::from_bytes([1; 32]).node_id();
        let mut search = Search::new(id, p2pd_sys::wall_clock(p2pd_core::Instant::ZERO).wall);
        let began = Instant::now();
        let end = began + time;
        let event = || std::future::ready(next(end).then(|| ServiceEvent::SearchStarted(SERVICE.into())));
        listen((&mut search, &[]), (began, &mut end.clone()), event).await
    }

    #[tokio::test]
    async fn a_search_ends_in_time_though_events_come_without_end() {
        let mut late = 0;
        let next = |end| {
            late += u32::from(Instant::now() >= end);
            // The clock may strike between the two looks at it.
            late <= 1
        };
        assert!(heard_of(Duration::from_millis(20), next).await);
    }

    #[tokio::test]
    async fn a_search_whose_events_end_before_it_says_so() {
        let mut left = 3;
        let next = |_| {
            left -= 1;
            left > 0
        };
        assert!(!heard_of(ALONE, next).await);
        assert_eq!(left, 0);
    }
}
