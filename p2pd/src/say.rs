//! Reports of events, for people or, with `--json`, for programs; always on standard error.

use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use p2pd_core::nat::{Allocation, Mapping, NatReport, NatType, Verdict};
use p2pd_core::portmap::{self, Listed as Entry, Protocol};
use p2pd_core::text::shown;
use p2pd_core::{Event, Name, NameNews, NodeId, PeerAddress, PortState, StrategyReport};
use p2pd_sys::messages::RouteTable;
use p2pd_tokio::{ConnectError, PipeInfo};
use serde_json::json;

use crate::clock::{self, Told};
use crate::demo::Row;
use crate::interfaces::{Listed, listed_route};
use crate::invitation::Invitation;
use crate::print::{self, tell, tell_program};
use crate::server::{Relaying, Running};

/// Form in which things are said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Say {
    json: bool,
    /// Prints errors only.
    quiet: bool,
    /// Spinner at a terminal, which turns during a wait. Lives as long as the program.
    spinner: Option<&'static ProgressBar>,
    /// Progress bars at the bottom of a terminal. Lines go above them.
    bars: Option<&'static MultiProgress>,
}

fn clock_text(ahead: i64, error: Duration) -> String {
    let wrong = Duration::from_micros(ahead.unsigned_abs()).as_secs();
    let where_to = if ahead < 0 { "behind" } else { "ahead" };
    format!("this machine's clock is {wrong} s {where_to}, give or take {} ms", error.as_millis())
}

/// State of the listener's port on a router.
pub(crate) fn port(local: IpAddr, state: PortState) -> serde_json::Value {
    let local = local.to_string();
    match state {
        PortState::Open { way, external, truth } => json!({
            "event": "port", "local": local, "state": "open", "external": external.to_string(),
            "way": way.to_string(), "truth": truth.name(), "detail": truth.to_string(),
        }),
        PortState::Lost => json!({"event": "port", "local": local, "state": "lost"}),
        PortState::Removed { confirmed } => {
            json!({"event": "port", "local": local, "state": "removed", "confirmed": confirmed})
        }
        other => json!({"event": "port", "local": local, "state": "failed", "detail": why(other)}),
    }
}

fn port_text(local: IpAddr, state: PortState) -> String {
    match state {
        PortState::Open { way, external, truth } => {
            format!("router: {external} leads to our port at {local}, by {way}; {truth}")
        }
        PortState::Lost => format!("router: our port at {local} is closed, and is tried again"),
        PortState::Removed { confirmed: true } => format!("router: our port at {local} is closed"),
        PortState::Removed { .. } => format!("router: nobody confirmed that our port at {local} is closed"),
        other => format!("router: our port at {local} stays closed: {}", why(other)),
    }
}

fn why(state: PortState) -> String {
    let PortState::Failed { gateway, upnp } = state else { return String::new() };
    let ways = [("PCP, NAT-PMP", gateway), ("UPnP", upnp)];
    let said: Vec<String> = ways.iter().filter_map(|(way, e)| Some(format!("{way}: {}", (*e)?))).collect();
    said.join("; ")
}

impl Say {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let terminal = !json && !quiet && std::io::stderr().is_terminal();
        let spinner = || ProgressBar::hidden().with_style(ProgressStyle::default_spinner());
        let spinner = terminal.then(|| &*Box::leak(Box::new(spinner())));
        Say { json, quiet, spinner, bars: terminal.then(|| &*Box::leak(Box::new(MultiProgress::new()))) }
    }

    /// Shows that the program waits for `what`, until the next [`still`](Self::still).
    pub(crate) fn waiting(self, what: &'static str) {
        if let Some(spinner) = self.spinner {
            spinner.set_draw_target(ProgressDrawTarget::stderr());
            spinner.set_message(what);
            spinner.enable_steady_tick(Duration::from_millis(100));
        }
    }

    pub(crate) fn still(self) {
        if let Some(spinner) = self.spinner {
            spinner.disable_steady_tick();
            spinner.finish_and_clear();
        }
    }

    /// Creates a bar, at a terminal only.
    pub(crate) fn bar(self, length: u64, style: impl FnOnce() -> ProgressStyle) -> Option<ProgressBar> {
        self.bars.map(|bars| bars.add(ProgressBar::new(length).with_style(style())))
    }

    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a line for programs only.
    pub(crate) fn json_line(self, json: impl FnOnce() -> serde_json::Value) {
        if self.json {
            tell_program(&json());
        }
    }

    /// Prints the node's address, and the ways by which peers reach it.
    pub(crate) fn ready(self, address: &PeerAddress, id: NodeId, invitation: Option<&Invitation>) {
        self.still();
        self.line(
            || json!({"event": "ready", "address": address.to_string(), "node_id": id.to_string()}),
            || format!("ready: {address}"),
        );
        if let Some(invitation) = invitation.filter(|_| !self.json && !self.quiet) {
            self.above(|| invitation.tell(address));
        }
    }

    pub(crate) fn registered(self, name: Name, brokers: u8) {
        self.still();
        self.line(
            || json!({"event": "registered", "name": name.to_string(), "brokers": brokers}),
            || format!("registered: {name}, on {brokers} broker(s)"),
        );
    }

    pub(crate) fn released(self, name: Name, brokers: u8) {
        self.still();
        self.line(
            || json!({"event": "released", "name": name.to_string(), "brokers": brokers}),
            || format!("released: {name}, on {brokers} broker(s)"),
        );
    }

    /// Says where the API is, and which token it asks for. The link has the token where browsers keep it to themselves,
    /// and only at a terminal: other output is kept, and read by others.
    pub(crate) fn api(self, at: SocketAddr, token: Option<&str>, file: Option<&Path>, unix: Option<&Path>) {
        let (file, unix) = (file.map(|f| f.display().to_string()), unix.map(|u| u.display().to_string()));
        let token = token.filter(|_| !self.json && io::stderr().is_terminal());
        let page = token.map_or(format!("http://{at}/"), |token| format!("http://{at}/#{token}"));
        let text = || {
            let file = file.as_ref().map_or("no token asked for".into(), |file| format!("token in {file}"));
            let unix = unix.as_ref().map_or(String::new(), |unix| format!(", and on {unix}"));
            format!("API on http://{at}{unix}, {file}")
        };
        let event =
            || json!({"event": "api", "api": at.to_string(), "unix": unix, "token_file": file, "page": page});
        self.line(event, text);
        if !self.json && !self.quiet {
            self.above(|| tell(&format!("page: {page}")));
        }
    }

    /// Prints where the metrics are read.
    pub(crate) fn metrics(self, at: SocketAddr) {
        self.line(
            || json!({"event": "metrics", "at": at.to_string()}),
            || format!("metrics on http://{at}/metrics"),
        );
    }

    /// Prints the reports on NATs: to standard output for people, one event each for programs. Returns false if nobody
    /// reads it.
    #[must_use]
    pub(crate) fn nats(self, reports: &[NatReport]) -> bool {
        self.still();
        let verdict = Verdict::of(reports);
        if self.json {
            tell_program(
                &json!({"event": "verdict", "verdict": verdict.name(), "text": verdict.to_string()}),
            );
            for report in reports {
                let mut event = nat(report);
                event["event"] = "nat".into();
                tell_program(&event);
            }
            return true;
        }
        let texts = core::iter::once(verdict.to_string()).chain(reports.iter().map(nat_text));
        { texts }.all(|text| self.print(&text))
    }

    /// A broker that was lost is usable.
    pub(crate) fn broker_again(self, id: u16) {
        self.line(
            || json!({"event": "broker", "id": id, "state": "ready"}),
            || format!("broker {id}: connected again"),
        );
    }

    /// Prints the progress of a connect, and other events for people.
    pub(crate) fn event(self, event: &Event) {
        match event {
            Event::Progress { strategy, stage, .. } => self.line(
                || json!({"event": "progress", "strategy": strategy.name(), "stage": stage.to_string()}),
                || format!("{strategy}: {stage}"),
            ),
            Event::Broker { id, state: p2pd_core::BrokerState::Lost(why) } => self.line(
                || json!({"event": "broker", "id": id, "state": "lost", "reason": why.to_string()}),
                || format!("broker {id}: {why}"),
            ),
            Event::PipeGone { peer, local, remote } => self.line(
                || {
                    json!({
                        "event": "pipe_gone", "local": local.to_string(), "remote": remote.to_string(),
                        "peer": peer.to_string(),
                    })
                },
                || format!("the pipe to {peer} at {remote} is gone: so is our address {local}"),
            ),
            // What a call waits for is said by whoever called.
            Event::Name { name, news } => match &**news {
                NameNews::Contested { by } => self.line(
                    || json!({"event": "name_contested", "name": name.to_string(), "by": by.to_string()}),
                    || format!("{name}: node {by} claims the name too"),
                ),
                NameNews::Waiting => self.line(
                    || json!({"event": "name_waits", "name": name.to_string()}),
                    || format!("{name}: no broker is there; it is registered when one comes"),
                ),
                NameNews::NotRegistered(why) => self.line(
                    || json!({"event": "name_lost", "name": name.to_string(), "reason": why.to_string()}),
                    || format!("{name} is not registered: {why}"),
                ),
                _ => {}
            },
            Event::IdentityInUse => self.line(
                || json!({"event": "identity_in_use"}),
                || "another process uses this key: peers may reach either".into(),
            ),
            // For people only if the node does not go by it.
            Event::Clock { ahead, error } if self.json || ahead.unsigned_abs() > 60_000_000 => {
                self.line(|| clock::event(*ahead, *error), || clock_text(*ahead, *error));
            }
            Event::Port { local, state } => self.line(|| port(*local, *state), || port_text(*local, *state)),
            _ => {}
        }
    }

    pub(crate) fn opened(self, event: &str, pipe: &PipeInfo) {
        self.still();
        let ms = pipe.elapsed().as_secs_f64() * 1e3;
        let strategy = pipe.strategy().name();
        tracing::info!(target: "p2pd::node", peer = %pipe.peer(), remote = %pipe.remote_addr(), strategy, ms, "{event}");
        self.line(
            || {
                json!({
                    "event": event, "strategy": strategy, "elapsed_ms": (ms * 1e3).round() / 1e3,
                    "local": pipe.local_addr().to_string(), "remote": pipe.remote_addr().to_string(),
                    "peer": pipe.peer().to_string(), "mode": pipe.mode().to_string(),
                })
            },
            || format!("{event}: {} at {} by {strategy} in {ms:.1} ms", pipe.peer(), pipe.remote_addr()),
        );
    }

    pub(crate) fn failed(self, why: &ConnectError) {
        self.still();
        let (reason, entries, advice) = match why {
            ConnectError::Failed(reason, report) => {
                (reason.to_string(), report.strategies.as_slice(), report.advice.map(|a| a.to_string()))
            }
            other => (other.to_string(), &[][..], None),
        };
        self.wrong(
            || json!({"event": "failed", "reason": reason, "strategies": entries, "advice": advice}),
            || {
                let advice = advice.as_ref().map_or(String::new(), |text| format!("\nwhat to do: {text}"));
                format!("failed: {reason}{}{advice}", details(entries))
            },
        );
    }

    /// The machine's interfaces and routes: to standard output for people.
    #[must_use]
    pub(crate) fn interfaces(self, listed: &[Listed], routes: &RouteTable) -> bool {
        let event = |row| {
            let mut event = listed_route(row);
            event["event"] = "route".into();
            event
        };
        listed.iter().all(|card| self.result(|| card.event(), || card.text()))
            && routes.iter().all(|row| self.result(|| event(row), || format!("route {row}")))
    }

    /// Tells how far the clock is off: to standard output for people.
    #[must_use]
    pub(crate) fn clock(self, told: &Told) -> bool {
        self.result(|| told.event(), || told.text())
    }

    /// Tells the state of a mapped port.
    pub(crate) fn mapping(self, protocol: Protocol, port: u16, event: &portmap::Event) {
        self.still();
        let name = protocol.to_string().to_lowercase();
        match event {
            portmap::Event::Mapped { way, external, lifetime, truth, .. } => self.line(
                || {
                    json!({
                        "event": "mapped", "protocol": name, "port": port, "external": external.to_string(),
                        "way": way.to_string(), "lifetime_s": lifetime.map(|l| l.as_secs()),
                        "truth": truth.name(), "detail": truth.to_string(),
                    })
                },
                || format!("mapped: {external} leads to {protocol} port {port}, by {way}; {truth}"),
            ),
            portmap::Event::Lost { .. } => self.line(
                || json!({"event": "lost", "protocol": name, "port": port}),
                || format!("lost: {protocol} port {port} is closed, and is tried again"),
            ),
            portmap::Event::Removed { confirmed, .. } => self.line(
                || json!({"event": "removed", "protocol": name, "port": port, "confirmed": confirmed}),
                || {
                    let doubt = if *confirmed { "" } else { ", as far as known: the router did not answer" };
                    format!("removed: {protocol} port {port} is closed{doubt}")
                },
            ),
            _ => {}
        }
    }

    /// An entry of a router's table: to standard output for people.
    #[must_use]
    pub(crate) fn listed(self, entry: &Entry) -> bool {
        let Entry { protocol, external, internal, lease, description } = entry;
        let event = || {
            json!({
                "event": "mapping", "protocol": protocol.to_string().to_lowercase(), "external": external,
                "internal": internal.to_string(), "lease_s": lease, "description": description,
            })
        };
        self.result(event, || {
            format!("{protocol} {external} -> {internal}, {lease} s, \"{}\"", shown(description))
        })
    }

    /// Prints a result: to standard output for people, an event for programs. Returns false if nobody reads it.
    #[must_use]
    pub(crate) fn result(
        self,
        json: impl FnOnce() -> serde_json::Value,
        text: impl FnOnce() -> String,
    ) -> bool {
        self.still();
        if self.json {
            tell_program(&json());
            return true;
        }
        self.print(&text())
    }

    /// Prints lines to standard output. Returns false if they could not be written, after an error message.
    #[must_use]
    pub(crate) fn print(self, text: &str) -> bool {
        self.printed(print::out(text))
    }

    /// True if a write to standard output succeeded; says why it did not.
    #[must_use]
    pub(crate) fn printed(self, done: io::Result<()>) -> bool {
        done.inspect_err(|why| self.error(&format!("standard output: {why}"))).is_ok()
    }

    /// Prints an error.
    pub(crate) fn error(self, why: &str) {
        self.still();
        self.wrong(|| json!({"event": "error", "reason": why}), || format!("p2pd: {why}"));
    }

    pub(crate) fn warning(self, what: &str) {
        self.line(|| json!({"event": "warning", "reason": what}), || format!("p2pd: warning: {what}"));
    }

    pub(crate) fn serving(self, servers: &Running<'_>) {
        let Running { mqtt, stun, second, ports, turn } = *servers;
        let relays = turn.map(|turn| turn.ips.iter().map(IpAddr::to_string).collect::<Vec<String>>());
        let kept = turn.and_then(|turn| turn.kept).map(|path| path.display().to_string());
        let reached = turn.map(|turn| match turn {
            Relaying { ips, .. } if ips.iter().all(IpAddr::is_loopback) => "this machine",
            Relaying { private: true, .. } => "the internet and private networks",
            _ => "the internet",
        });
        let [first, other] = ports;
        let text = || {
            let nat = second.map_or(String::new(), |s| format!(" and {s} (RFC 5780)"));
            let turn = match (&relays, reached, turn.and_then(|turn| turn.user)) {
                (Some(relays), Some(reached), user) => format!(
                    ", TURN on {stun}, relaying as {} to {reached} {}{}; --no-turn opens no relay",
                    relays.join(" and "),
                    user.map_or("for whoever knows the secret".into(), |user| format!("for the user {user}")),
                    kept.as_ref().map_or(String::new(), |path| format!(", whose password is kept in {path}")),
                ),
                _ => String::new(),
            };
            format!("serving: MQTT on {mqtt}, STUN on {stun} and port {other}{nat}{turn}")
        };
        let event = || {
            json!({
                "event": "serving", "mqtt": mqtt.to_string(), "stun": stun.to_string(),
                "stun_ports": [first, other], "stun_second": second.map(|a| a.to_string()),
                "turn": turn.map(|_| stun.to_string()), "turn_password_file": kept,
                "relay_ips": relays, "relays_to": reached,
            })
        };
        self.line(event, text);
    }

    pub(crate) fn demo_begins(
        self,
        mqtt: SocketAddr,
        stun: SocketAddr,
        peer: &PeerAddress,
        mebibytes: u32,
    ) -> io::Result<()> {
        if self.json {
            self.serving(&Running { mqtt, stun, second: None, ports: [stun.port(); 2], turn: None });
            return Ok(());
        }
        let head = format!(
            "{:<10} {:<10} {:>12} {:>12} {:>12}",
            "strategy", "pipe", "open ms", "MB/s there", "MB/s back"
        );
        print::out(&format!("servers: MQTT on {mqtt}, STUN on {stun}"))?;
        print::out(&format!("peer:    {peer}"))?;
        print::out(&format!(
            "each pipe carries {mebibytes} MiB there and back, and both are checked by hash"
        ))?;
        print::out("")?;
        print::out(&head)
    }

    pub(crate) fn demo_row(self, row: Row) -> io::Result<()> {
        let (strategy, mode) = (row.way, row.mode.to_string());
        let (ms, there, back) = (row.open.as_secs_f64() * 1e3, row.rate(row.there), row.rate(row.back));
        if self.json {
            let row = json!({
                "event": "demo", "strategy": strategy, "mode": mode, "elapsed_ms": ms, "mb_per_s_there": there,
                "mb_per_s_back": back, "bytes": row.bytes,
            });
            tell_program(&row);
            Ok(())
        } else {
            print::out(&format!("{strategy:<10} {mode:<10} {ms:>12.1} {there:>12.0} {back:>12.0}"))
        }
    }

    pub(crate) fn demo_ends(self) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        print::out("")?;
        print::out("all of it arrived as it was sent")
    }

    /// Writes something above spinner and bars, which are drawn again below it.
    pub(crate) fn above<T>(self, write: impl FnOnce() -> T) -> T {
        match self.bars.zip(self.spinner) {
            Some((bars, spinner)) => bars.suspend(|| spinner.suspend(write)),
            None => write(),
        }
    }

    /// Says something, in the form that is wanted.
    pub(crate) fn line(self, json: impl FnOnce() -> serde_json::Value, text: impl FnOnce() -> String) {
        if !self.quiet {
            self.wrong(json, text);
        }
    }

    /// Prints an error, also with `--quiet`.
    pub(crate) fn wrong(self, json: impl FnOnce() -> serde_json::Value, text: impl FnOnce() -> String) {
        if self.json {
            tell_program(&json());
        } else {
            self.above(|| tell(&text()));
        }
    }
}

/// Outcome of each strategy for people, a line each.
fn details(entries: &[StrategyReport]) -> String {
    let one = |s: &StrategyReport| format!("\n  {} {}: {}", s.strategy, s.outcome.name(), s.detail);
    entries.iter().map(one).collect()
}

/// Measurement of a NAT, for programs.
pub(crate) fn nat(report: &NatReport) -> serde_json::Value {
    let behaviour = report.behaviour;
    let (kind, delta) = (behaviour.nat_type(), behaviour.delta());
    json!({
        "local": report.local.to_string(), "mapped": report.mapped.map(|m| m.to_string()),
        "mapping": behaviour.mapping.map(|m| format!("{m:?}")),
        "filtering": behaviour.filtering.map(|f| format!("{f:?}")),
        "allocation": behaviour.allocation.map(allocation), "hypotheses": report.hypotheses,
        "nat_type": kind.map(NatType::number), "delta_type": delta.kind.number(), "delta": delta.value,
        "hairpin": report.hairpin,
        "round_trip_ms": report.round_trip.map(|t| t.as_secs_f64() * 1e3),
        "server": report.server.map(|s| s.to_string()), "second_address": report.second_address,
        "same_by_port": report.same_by_port,
        "stun": report.answers,
    })
}

/// A rule of port allocation, by its name and its numbers.
fn allocation(rule: Allocation) -> serde_json::Value {
    match rule {
        Allocation::Equal => json!({"rule": "equal"}),
        Allocation::Preserving(offset) => json!({"rule": "preserving", "offset": offset}),
        Allocation::Sequential(step) => json!({"rule": "sequential", "step": step}),
        Allocation::Dependent(step) => json!({"rule": "dependent", "step": step}),
        Allocation::Random { low, high } => json!({"rule": "random", "low": low, "high": high}),
    }
}

/// The same for people, a paragraph.
fn nat_text(report: &NatReport) -> String {
    let behaviour = report.behaviour;
    let (kind, delta) = (behaviour.nat_type(), behaviour.delta());
    let Some(mapped) = report.mapped else {
        return format!(
            "{}: no STUN server gave an answer over TCP that can be true; nothing is known{}",
            report.local,
            lies(report)
        );
    };
    let kind = kind.map_or("not known".to_owned(), |kind| kind.number().to_string());
    let delta_number = delta.kind.number();
    let mut text = format!("{}: {behaviour} (type {kind}, delta {delta_number})", report.local);
    text += &format!("\n  seen from outside as {mapped}");
    text += &match behaviour.mapping {
        Some(mapping) => format!("\n  mapping: {mapping}"),
        None if report.same_by_port == Some(true) => {
            "\n  mapping: the same for each port of an address; for other addresses not known, the server has one".into()
        }
        None => "\n  mapping: not known, the server has one address and port".into(),
    };
    text += &match behaviour.filtering {
        Some(filtering) => format!("\n  lets in: {filtering} (measured over UDP)"),
        None => "\n  lets in: not known, the server does not answer from elsewhere".into(),
    };
    if behaviour.mapping != Some(Mapping::None) {
        text += &format!("\n  external ports: {delta}; seen {:?}", report.samples);
        for (n, hypothesis) in report.hypotheses.iter().enumerate() {
            text += &format!("\n  {} {hypothesis}", if n == 0 { "most likely" } else { "or" });
        }
        if let (false, Some(server)) = (report.hypotheses.is_empty(), report.server) {
            text += &format!("\n  (by what {server} and its other address and port have seen)");
        }
        text += match report.hairpin {
            Some(true) => "\n  takes inside dials to the outside address back in (hairpin)",
            Some(false) => "\n  does not take inside dials to the outside address back in (no hairpin)",
            None => "",
        };
    }
    text + &lies(report)
}

/// STUN servers that are not believed, a line each.
fn lies(report: &NatReport) -> String {
    let mut text = String::new();
    for answer in report.answers.iter().filter(|a| !a.believed) {
        let Some(said) = answer.said else { continue };
        let why = if answer.plausible { "another server says otherwise" } else { "that cannot be" };
        text += &format!("\n  the STUN server {} says {said}: {why}, and it is not believed", answer.server);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_allocation_has_its_numbers() {
        for (rule, expected) in [
            (Allocation::Equal, json!({"rule": "equal"})),
            (Allocation::Preserving(9), json!({"rule": "preserving", "offset": 9})),
            (Allocation::Sequential(-2), json!({"rule": "sequential", "step": -2})),
            (Allocation::Dependent(1), json!({"rule": "dependent", "step": 1})),
            (
                Allocation::Random { low: 1024, high: 65_535 },
                json!({"rule": "random", "low": 1024, "high": 65_535}),
            ),
        ] {
            assert_eq!(allocation(rule), expected);
        }
    }
}
