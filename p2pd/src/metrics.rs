//! `/metrics`: what a node or a server did, in the text form of OpenMetrics. No peer, address or name is in it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use p2pd::serve::Counts;
use p2pd_core::{BrokerState, Event, Stats, Strategy, Times};
use p2pd_tokio::{Events, Node};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::say::Say;

/// Type of the text.
pub(crate) const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Readers at a time.
const READERS: usize = 16;
/// Longest time for a request and its answer.
const LONGEST: Duration = Duration::from_secs(10);

/// Direction of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Sent,
    Received,
}

/// Counters that the program keeps beside those of its node.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Bytes by direction and strategy.
    bytes: [[AtomicU64; Strategy::ALL.len()]; 2],
    /// Sessions that went over to another connection, by its strategy.
    moved: [AtomicU64; Strategy::ALL.len()],
    /// Brokers whose state has changed, and whether each is ready.
    brokers: Mutex<BTreeMap<u16, bool>>,
}

impl Metrics {
    pub(crate) fn count(&self, way: Way, over: Strategy, bytes: u64) {
        self.bytes[way as usize][over as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts the move of a session to a connection by this strategy.
    pub(crate) fn moved(&self, to: Strategy) {
        self.moved[to as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Has them read at this port, if one is wanted, until the task is ended that is returned.
    ///
    /// # Errors
    /// Says what the system has against it.
    pub(crate) async fn read_at(
        self: &Arc<Self>,
        at: Option<SocketAddr>,
        node: &Node,
        say: Say,
    ) -> Result<Option<JoinHandle<()>>, String> {
        let Some(port) = Port::open(at, say).await? else { return Ok(None) };
        let (followed, events) = (self.clone(), node.events());
        let (metrics, node) = (self.clone(), node.clone());
        let text = move || {
            let (node, metrics) = (node.clone(), metrics.clone());
            async move { metrics.text(&node, &[]).await }
        };
        Ok(Some(tokio::spawn(async move {
            tokio::join!(followed.follow(events), port.serve(text));
        })))
    }

    /// Follows the brokers' states for ever.
    pub(crate) async fn follow(&self, mut events: Events) {
        while let Some(event) = events.recv().await {
            if let Ok(Event::Broker { id, state }) = event {
                let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
                brokers.insert(id, state == BrokerState::Ready);
            }
        }
    }

    /// Returns the text, with these counts of what is held now.
    pub(crate) async fn text(&self, node: &Node, held: &[(&'static str, &'static str, u64)]) -> String {
        let mut table = Table::default();
        if let Some(stats) = node.stats().await {
            table.of_node(&stats);
        }
        for (way, name) in [(Way::Sent, "sent"), (Way::Received, "received")] {
            for (strategy, bytes) in Strategy::ALL.iter().zip(&self.bytes[way as usize]) {
                let labels = [("direction", name.into()), ("strategy", strategy.name().into())];
                table.counter(
                    "p2pd_bytes",
                    "Bytes of users, by what carried them",
                    &labels,
                    bytes.load(Ordering::Relaxed),
                );
            }
        }
        let moved = Strategy::ALL.iter().zip(&self.moved);
        let moved: Vec<_> = moved.map(|(by, n)| (by.name(), n.load(Ordering::Relaxed))).collect();
        table.counters(("p2pd_moved", "Sessions that went over to another connection", "strategy"), &moved);
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Those that were ready before anybody listened are announced.
        for id in node.current_address().iter().flat_map(|address| address.brokers()) {
            brokers.entry(*id).or_insert(true);
        }
        for (id, ready) in &brokers {
            let labels = [("id", id.to_string())];
            table.gauge(
                "p2pd_broker_ready",
                "1 while the broker of this id takes our messages",
                &labels,
                (*ready).into(),
            );
        }
        for (name, help, n) in held {
            table.gauge(name, help, &[], *n);
        }
        table.text()
    }
}

/// Bytes of one connection in one direction, counted among all of its strategy too.
#[derive(Debug)]
pub(crate) struct Count {
    of: (Way, Strategy),
    bytes: AtomicU64,
    all: Arc<Metrics>,
}

impl Count {
    pub(crate) fn new(way: Way, over: Strategy, all: &Arc<Metrics>) -> Self {
        Count { of: (way, over), bytes: AtomicU64::new(0), all: all.clone() }
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.all.count(self.of.0, self.of.1, bytes as u64);
    }

    pub(crate) fn get(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Returns the text about servers.
pub(crate) fn of_servers(counts: &Counts) -> String {
    let mut table = Table::default();
    let Counts { mqtt, stun, turn, allocations, .. } = counts;
    table.counters(
        ("p2pd_mqtt_connections", "Connections to the broker, by what became of them", "outcome"),
        &[
            ("accepted", mqtt.accepted),
            ("refused", mqtt.refused),
            ("evicted", mqtt.evicted),
            ("violations", mqtt.violations),
            ("stalled", mqtt.stalled),
        ],
    );
    table.counters(
        ("p2pd_mqtt_messages", "Messages at the broker", "outcome"),
        &[("published", mqtt.published), ("delivered", mqtt.delivered), ("dropped", mqtt.dropped)],
    );
    table.counters(
        ("p2pd_stun_requests", "Requests to the STUN server", "outcome"),
        &[
            ("answered", stun.answered),
            ("refused", stun.refused),
            ("malformed", stun.malformed),
            ("over_rate", stun.over_rate),
        ],
    );
    if let Some(turn) = turn {
        table.counter("p2pd_turn_allocations", "Allocations that were made", &[], turn.allocated);
        table.gauge("p2pd_turn_allocations_open", "Allocations now", &[], *allocations as u64);
        table.counters(
            ("p2pd_turn_dropped", "What the TURN server refused or dropped", "reason"),
            &[
                ("over_quota", turn.over_quota),
                ("malformed", turn.malformed),
                ("over_rate", turn.over_rate),
                ("forbidden", turn.forbidden),
                ("over_bytes", turn.over_bytes),
            ],
        );
    }
    table.text()
}

/// Families of values in the order in which they came.
#[derive(Default, Debug)]
struct Table(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    values: Vec<(Vec<(&'static str, String)>, Value)>,
}

#[derive(Debug)]
enum Value {
    Number(u64),
    Times(Times),
}

impl Table {
    fn of_node(&mut self, stats: &Stats) {
        for (name, help, counts) in [
            ("p2pd_opened", "Calls of ours that got a connection", stats.opened),
            ("p2pd_accepted", "Connections that peers opened", stats.accepted),
        ] {
            let counts: Vec<_> = counts.iter().map(|(strategy, n)| (strategy.name(), n)).collect();
            self.counters((name, help, "strategy"), &counts);
        }
        let failed = &stats.failed;
        self.counters(
            ("p2pd_failed", "Calls of ours that got no connection", "reason"),
            &[
                ("deadline_passed", failed.deadline_passed),
                ("strategies_failed", failed.strategies_failed),
                ("refused_by_peer", failed.refused_by_peer),
                ("name", failed.name),
                ("shutdown", failed.shutdown),
            ],
        );
        let help = "Time from a call of ours to its connection";
        self.add("p2pd_open_seconds", help, MetricType::Histogram, &[], Value::Times(stats.open_times));
        self.counters(
            ("p2pd_refused", "What was refused or dropped", "reason"),
            &[
                ("bad_hello", stats.bad_hellos),
                ("not_accepted", stats.refused),
                ("streams_over_limit", stats.streams_over_limit),
                ("tainted_stream", stats.streams_refused_as_tainted),
                ("messages_over_limit", stats.messages_over_limit),
                ("bad_message", stats.bad_messages),
                ("repeated_message", stats.repeated_messages),
                ("stale_message", stats.stale_messages),
                ("bad_stun", stats.bad_stun),
                ("unknown_id", stats.unknown_ids),
                ("datagram_not_taken", stats.datagrams_dropped),
            ],
        );
    }

    /// Adds a counter for each value of one label.
    fn counters(
        &mut self,
        (name, help, label): (&'static str, &'static str, &'static str),
        all: &[(&str, u64)],
    ) {
        for (value, n) in all {
            self.counter(name, help, &[(label, (*value).to_owned())], *n);
        }
    }

    fn counter(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, String)], n: u64) {
        self.add(name, help, MetricType::Counter, labels, Value::Number(n));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, String)], n: u64) {
        self.add(name, help, MetricType::Gauge, labels, Value::Number(n));
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        labels: &[(&'static str, String)],
        value: Value,
    ) {
        let value = (labels.to_vec(), value);
        match self.0.last_mut().filter(|family| family.name == name) {
            Some(family) => family.values.push(value),
            None => self.0.push(Family { name, help, kind, values: vec![value] }),
        }
    }

    fn text(self) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(self));
        // Writing to a String cannot fail.
        let _ = text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Table {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, kind, values } in &self.0 {
            let mut family = encoder.encode_descriptor(name, help, None, *kind)?;
            for (labels, value) in values {
                match labels.is_empty() {
                    true => value.encode(&mut family, *kind)?,
                    false => value.encode(&mut family.encode_family(labels)?, *kind)?,
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, to: &mut MetricEncoder<'_>, kind: MetricType) -> fmt::Result {
        type NoLabels = [(&'static str, &'static str); 0];
        match (self, kind) {
            (Value::Number(n), MetricType::Gauge) => to.encode_gauge(n),
            (Value::Number(n), _) => to.encode_counter::<NoLabels, _, u64>(n, None),
            (Value::Times(times), _) => {
                let bounds = Times::BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(times.counts().iter().copied()).collect();
                let all = times.counts().iter().sum();
                to.encode_histogram::<NoLabels>(times.sum().as_secs_f64(), all, &buckets, None)
            }
        }
    }
}

/// A port at which the text is read, by `GET /metrics`, from whoever reaches it.
#[derive(Debug)]
pub(crate) struct Port(TcpListener);

impl Port {
    /// Opens the port that is asked for, if one is, and says where it is.
    ///
    /// # Errors
    /// Says what the system has against it.
    pub(crate) async fn open(at: Option<SocketAddr>, say: Say) -> Result<Option<Self>, String> {
        let Some(at) = at else { return Ok(None) };
        let named = |why: io::Error| format!("--metrics {at}: {why}");
        let listener = TcpListener::bind(at).await.map_err(named)?;
        say.metrics(listener.local_addr().map_err(named)?);
        Ok(Some(Port(listener)))
    }

    /// Answers for ever, each reader once.
    pub(crate) async fn serve<F: Future<Output = String> + Send + 'static>(
        self,
        text: impl Fn() -> F + Clone + Send + Sync + 'static,
    ) {
        let places = Arc::new(Semaphore::new(READERS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = self.0.accept().await else {
                // For want of descriptors, which others give back.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let text = text.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let text = text.clone();
                async move {
                    let found = request.uri().path() == "/metrics" && request.method() == Method::GET;
                    let (status, kind, body) = match found {
                        true => (StatusCode::OK, TYPE, text().await),
                        false => (StatusCode::NOT_FOUND, "text/plain", "GET /metrics\n".to_owned()),
                    };
                    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
                    Ok::<_, Infallible>(answer.body(body).unwrap_or_default())
                }
            });
            tokio::spawn(async move {
                let _place = place;
                let mut http = http1::Builder::new();
                http.keep_alive(false)
                    .timer(TokioTimer::new())
                    .header_read_timeout(LONGEST)
                    .max_buf_size(8192);
                let _ = timeout(LONGEST, http.serve_connection(TokioIo::new(stream), answer)).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_openmetrics() {
        let mut table = Table::default();
        table.counter("p2pd_opened", "Opened", &[("strategy", "punch".into())], 3);
        table.counter("p2pd_opened", "Opened", &[("strategy", "re\"lay".into())], 0);
        table.gauge("p2pd_connections", "Connections", &[], 2);
        table.add("p2pd_open_seconds", "Time", MetricType::Histogram, &[], Value::Times(Times::default()));
        let text = table.text();
        let begin = "# HELP p2pd_opened Opened\n# TYPE p2pd_opened counter\n\
                     p2pd_opened_total{strategy=\"punch\"} 3\np2pd_opened_total{strategy=\"re\\\"lay\"} 0\n\
                     # HELP p2pd_connections Connections\n# TYPE p2pd_connections gauge\np2pd_connections 2\n";
        assert_eq!(text.get(..begin.len()), Some(begin), "{text}");
        assert!(
            text.contains("p2pd_open_seconds_bucket{le=\"+Inf\"} 0\n") && text.ends_with("# EOF\n"),
            "{text}"
        );
    }
}
