//! `p2pd doctor`: what in this machine's firewall, router, DNS, clock and server list stands in the way of connections, each
//! with the command that mends it. Nothing is changed without `--fix` and a yes.

mod firewall;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::process::{ExitCode, Output, Stdio};
use std::time::Duration;

use p2pd_core::nat::Verdict;
use p2pd_core::{Event, PortState};
use p2pd_tokio::{Events, Node};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

use self::firewall::{Ports, Way};
use crate::checks::{self, Listed};
use crate::print;
use crate::say::Say;
use crate::talk::Input;
use crate::{clock, options, public, secret};

/// Longest time that a program of the system gets.
const PROGRAM: Duration = Duration::from_secs(20);
/// Longest time that a name's resolution gets.
const NAME: Duration = Duration::from_secs(5);
/// Longest wait for a router.
const ROUTER: Duration = Duration::from_secs(8);
/// Error of the clock beyond which signed names fail (600 s at the other side), and the one worth a word.
const CLOCK: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(2)];
/// Ports of listeners without one, where the system does not say.
const EPHEMERAL: Ports = Ports { first: 32_768, last: 60_999 };
/// Folders of system programs that are not in every user's path.
const FOLDERS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Findings that came before anything was opened.
pub(crate) struct Patient {
    /// Servers of the list, which is read later on.
    pub(crate) listed: Listed,
    fix: bool,
    yes: bool,
    ports: Ports,
    asks_router: bool,
    bind: Option<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Fine,
    /// Worth to know; connections are opened all the same.
    Note,
    InTheWay,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    about: &'static str,
    state: State,
    said: String,
    /// The command that mends it.
    mend: Vec<String>,
    /// False for a command that is printed only.
    runs: bool,
}

impl Finding {
    fn new(about: &'static str, state: State, said: impl Into<String>) -> Self {
        Finding { about, state, said: said.into(), mend: Vec::new(), runs: false }
    }

    /// Adds a command that `--fix` runs.
    fn mended_by(self, mend: Vec<String>) -> Self {
        Finding { mend, runs: true, ..self }
    }

    /// Adds a command for people to run, here or elsewhere.
    fn told(self, mend: impl Into<String>) -> Self {
        Finding { mend: vec![mend.into()], runs: false, ..self }
    }

    fn to_json(&self) -> Value {
        let state = match self.state {
            State::Fine => "ok",
            State::Note => "note",
            State::InTheWay => "in_the_way",
        };
        let mend = (!self.mend.is_empty()).then(|| self.mend.join(" "));
        json!({"about": self.about, "state": state, "said": self.said, "mend": mend, "runs": self.runs})
    }
}

impl Patient {
    pub(crate) fn new(options: &options::Doctor) -> Self {
        let port = options.common.port;
        Patient {
            listed: Listed::default(),
            fix: options.fix,
            yes: options.yes,
            ports: if port == 0 { ephemeral() } else { Ports { first: port, last: port } },
            asks_router: options.port.wanted(),
            bind: options.common.bind,
        }
    }
}

/// Ports that the system gives to listeners without one.
fn ephemeral() -> Ports {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ports { first, last },
        _ => EPHEMERAL,
    }
}

/// Examines, mends what the user says yes to, and then examines the firewall and the clock again.
pub(crate) async fn run(node: &Node, mut patient: Patient, say: Say) -> ExitCode {
    say.waiting("examining");
    let listed = std::mem::take(&mut patient.listed);
    let (local, others) = tokio::join!(own(&patient, &listed), network(node, &patient, &listed));
    let mut own_again = Listed::default();
    own_again.ntp.clone_from(&listed.ntp);
    let servers = servers(node, listed).await;
    say.still();
    let mut findings = local;
    findings.extend(others);
    findings.extend(servers);
    if print(&findings, say).is_err() {
        return ExitCode::FAILURE;
    }
    let ill = |findings: &[Finding]| findings.iter().any(|of| of.state == State::InTheWay);
    let mends = findings.iter().filter(|of| of.state == State::InTheWay && of.runs);
    let mut left = ill(&findings);
    if patient.fix {
        left = false;
        for finding in mends {
            left |= !mend(finding, patient.yes, say).await;
        }
        left |= findings.iter().any(|of| of.state == State::InTheWay && !of.runs);
        if !left {
            // What a command has ended with is not what it has done.
            let again = own(&patient, &own_again).await;
            left = ill(&again);
            if print(&again, say).is_err() {
                return ExitCode::FAILURE;
            }
        }
    }
    if left { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Asks, unless the yes was given already, and runs the command. Returns true if it ended well.
async fn mend(finding: &Finding, yes: bool, say: Say) -> bool {
    let line = finding.mend.join(" ");
    if !yes {
        if !Input::can_ask() || say.is_json() {
            say.error(&format!("nobody can be asked; with --yes this is run: {line}"));
            return false;
        }
        print::tell(&format!("{}\nRun this? [y/N]  {line}", finding.said));
        if !public::yes() {
            return false;
        }
    }
    say.line(|| json!({"event": "runs", "command": line}), || format!("runs: {line}"));
    match output(&finding.mend).await {
        Ok(done) if done.status.success() => true,
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            say.error(&format!("{line}: {}: {}", done.status, said.trim()));
            false
        }
        Err(why) => {
            say.error(&format!("{line}: {why}"));
            false
        }
    }
}

/// Runs a program of the system, without input.
async fn output(words: &[String]) -> io::Result<Output> {
    let (program, args) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = std::process::Command::new(program);
    secret::keep_secrets(&mut command);
    // Their words are read, which are English in this locale.
    command.args(args).env("PATH", format!("{path}:{FOLDERS}")).env("LC_ALL", "C").stdin(Stdio::null());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    timeout(PROGRAM, command.output()).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Text of a program that ended well. `None`: it is not here.
///
/// # Errors
/// What it complained of.
async fn text(line: &str) -> Option<Result<String, String>> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    match output(&words).await {
        Ok(done) if done.status.success() => Some(Ok(String::from_utf8_lossy(&done.stdout).into_owned())),
        Ok(done) => {
            let said = if done.stderr.is_empty() { done.stdout } else { done.stderr };
            Some(Err(String::from_utf8_lossy(&said).trim().to_owned()))
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => None,
        Err(why) => Some(Err(why.to_string())),
    }
}

/// Findings about the machine itself: firewall and clock.
async fn own(patient: &Patient, listed: &Listed) -> Vec<Finding> {
    let mut findings = firewalls(patient).await;
    findings.extend(others(std::env::consts::OS, patient.ports));
    findings.extend(time(listed).await);
    findings
}

async fn firewalls(patient: &Patient) -> Vec<Finding> {
    let ports = patient.ports;
    let mut findings = Vec::new();
    let (mut has_ufw, mut has_firewalld) = (false, false);
    match text("ufw status verbose").await {
        Some(Ok(said)) => {
            if let Some(open) = firewall::ufw(&said, ports) {
                has_ufw = true;
                let mend = vec!["ufw".into(), "allow".into(), format!("{}/tcp", ports.by(':'))];
                findings.push(opinion("ufw", open, ports, mend));
            }
        }
        Some(Err(why)) => findings.push(unread("ufw", &why)),
        None => {}
    }
    // Without its daemon it ends with an error, and rules nothing.
    if let Some(Ok(said)) = text("firewall-cmd --list-all").await {
        has_firewalld = true;
        let mend = vec!["firewall-cmd".into(), format!("--add-port={}/tcp", ports.by('-'))];
        findings.push(opinion("firewalld", firewall::firewalld(&said, ports), ports, mend));
    }
    let skips = |family: &str, table: &str| {
        has_firewalld && table == "firewalld" || has_ufw && family.starts_with("ip") && table == "filter"
    };
    match text("nft -j list ruleset").await {
        Some(Ok(said)) => {
            for way in [Way::In, Way::Out] {
                findings.push(nftables(&said, patient, way, skips));
            }
        }
        Some(Err(why)) => findings.push(unread("nftables", &why)),
        None if cfg!(target_os = "linux") => {
            findings.push(Finding::new("firewall", State::Note, "nft is not installed: no rules were read"));
        }
        None => {}
    }
    findings
}

fn nftables(said: &str, patient: &Patient, way: Way, skips: impl Fn(&str, &str) -> bool + Copy) -> Finding {
    let ports = patient.ports;
    let found = families(patient.bind)
        .into_iter()
        .find_map(|family| firewall::nft(said, family, ports, way, skips).transpose());
    let drops = match way {
        Way::In => format!("drops new connections to {ports}, so peers do not reach this node directly"),
        Way::Out => "drops new connections to peers".to_owned(),
    };
    match found {
        None if way == Way::In => fine("nftables", ports),
        None => Finding::new("firewall", State::Fine, "nftables: lets connections out"),
        Some(Err(why)) => Finding::new("firewall", State::Note, why),
        // The rule is gone after a restart; where it is kept differs from system to system.
        Some(Ok(block)) => Finding::new("firewall", State::InTheWay, format!("{block} {drops}"))
            .mended_by(block.mend(ports, way)),
    }
}

fn fine(of: &str, ports: Ports) -> Finding {
    Finding::new("firewall", State::Fine, format!("{of}: lets in {ports}"))
}

fn opinion(of: &str, open: bool, ports: Ports, mend: Vec<String>) -> Finding {
    if open {
        return fine(of, ports);
    }
    Finding::new("firewall", State::InTheWay, format!("{of}: lets no new connections in to {ports}"))
        .mended_by(mend)
}

/// A firewall that could not be looked at.
fn unread(of: &str, why: &str) -> Finding {
    let why = why.lines().next().unwrap_or_default();
    let finding = Finding::new("firewall", State::Note, format!("{of}: not read: {why}"));
    let is_root = why.contains("root") || why.contains("not permitted");
    if is_root { finding.told("sudo p2pd doctor, with the same options") } else { finding }
}

/// Families of which this machine has addresses that peers may dial.
fn families(bind: Option<IpAddr>) -> Vec<&'static str> {
    let found = p2pd_sys::interfaces(bind, &p2pd_core::Interfaces::default()).unwrap_or_default();
    let has = |v4: bool| found.iter().any(|interface| interface.ip.is_ipv4() == v4);
    [("ip", true), ("ip6", false)].into_iter().filter(|(_, v4)| has(*v4)).map(|(family, _)| family).collect()
}

/// Command of a system whose firewall is not looked at, for people to run.
fn others(system: &str, ports: Ports) -> Option<Finding> {
    let command = match system {
        "windows" => format!(
            "netsh advfirewall firewall add rule name=p2pd dir=in action=allow protocol=TCP localport={}",
            ports.by('-')
        ),
        "macos" => "sudo /usr/libexec/ApplicationFirewall/socketfilterfw --add \"$(command -v p2pd)\"".into(),
        _ => return None,
    };
    Some(
        Finding::new("firewall", State::Note, "not looked at on this system; this lets p2pd in")
            .told(command),
    )
}

async fn time(listed: &Listed) -> Option<Finding> {
    if listed.ntp.is_empty() {
        return None;
    }
    let [wrong, much] = CLOCK;
    Some(match clock::ask(&listed.ntp).await {
        Ok(told) if told.off() < much => Finding::new("clock", State::Fine, told.text()),
        Ok(told) => {
            let state = if told.off() >= wrong { State::InTheWay } else { State::Note };
            let said = if told.off() >= wrong { "; names that are signed for a time fail" } else { "" };
            Finding::new("clock", state, format!("{}{said}", told.text())).mended_by(sets_clock(told.ahead()))
        }
        Err(why) => Finding::new("clock", State::Note, why),
    })
}

/// Command that sets the clock: by systemd's client for NTP, or by hand.
fn sets_clock(ahead: i64) -> Vec<String> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    if fs::exists("/run/systemd/system").unwrap_or_default() {
        return words("timedatectl set-ntp true");
    }
    let seconds = (ahead as f64 / 1e6).round();
    words(&format!("date --set={:+}seconds", -seconds))
}

/// Findings about the machine's network: names, NAT and router.
async fn network(node: &Node, patient: &Patient, listed: &Listed) -> Vec<Finding> {
    let (router, names, nats) = tokio::join!(router(node.events(), patient), dns(listed), node.nats());
    let verdict = Verdict::of(&nats);
    let state = match verdict {
        Verdict::Open | Verdict::Public | Verdict::Firewall | Verdict::Predictable => State::Fine,
        _ => State::Note,
    };
    let mut findings = vec![Finding::new("network", state, verdict.to_string())];
    findings.extend(router);
    findings.extend(names);
    findings
}

async fn router(mut events: Events, patient: &Patient) -> Option<Finding> {
    let finding = |state, said: String| Some(Finding::new("router", state, said));
    if !patient.asks_router {
        return finding(State::Note, "not asked: --map-port has it asked to open a port".into());
    }
    let deadline = Instant::now() + ROUTER;
    loop {
        match timeout_at(deadline, events.recv()).await {
            Ok(Some(Ok(Event::Port { state: PortState::Open { way, external, .. }, .. }))) => {
                return finding(State::Fine, format!("opens ports by {way}: {external} led here"));
            }
            Ok(Some(Ok(Event::Port { state: PortState::Failed { .. }, .. }))) => {
                let ports = patient.ports;
                let said =
                    format!("opens no port by PCP, NAT-PMP or UPnP; on its own page {ports} can be led here");
                return finding(State::Note, said);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

async fn dns(listed: &Listed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in listed.names() {
        // Only the addresses count, not the port.
        let looked_up = async { tokio::net::lookup_host((name, 0)).await.map(Iterator::count) };
        let found = timeout(NAME, looked_up).await;
        let why = match found {
            Ok(Ok(1..)) => continue,
            Ok(Ok(_)) => "no address".to_owned(),
            Ok(Err(why)) => why.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        let finding = Finding::new("dns", State::InTheWay, format!("{name}: {why}"));
        let resolved = fs::read_to_string("/etc/resolv.conf").unwrap_or_default().contains("127.0.0.53");
        findings.push(match resolved {
            true => finding.mended_by(vec!["systemctl".into(), "restart".into(), "systemd-resolved".into()]),
            false => finding.told(format!(
                "getent hosts {name}  # finds it once /etc/resolv.conf and the name are right"
            )),
        });
    }
    if findings.is_empty() && !listed.names().is_empty() {
        findings.push(Finding::new("dns", State::Fine, "finds each server of the list"));
    }
    findings
}

/// Asks each server. A kind of which none answers stands in the way.
async fn servers(node: &Node, mut listed: Listed) -> Vec<Finding> {
    listed.ntp.clear();
    let rows = checks::ask(node, listed).await;
    let answers = |kind| rows.iter().any(|row| row.kind == kind && row.said.is_ok());
    let mut findings: Vec<Finding> = Vec::new();
    for row in &rows {
        let (name, kind) = (&row.server, row.kind);
        findings.push(match &row.said {
            Ok(said) => Finding::new("servers", State::Fine, format!("{kind} {name}: {said}")),
            Err(why) => {
                let state = if answers(kind) { State::Note } else { State::InTheWay };
                Finding::new("servers", state, format!("{kind} {name}: {why}")).told(
                    "p2pd serve --write servers.toml --host NAME  # there, or a list with another server",
                )
            }
        });
    }
    if !rows.iter().any(|row| row.kind == "mqtt") {
        let said = "no broker is listed: nodes that cannot be dialled are not reached";
        findings.push(Finding::new("servers", State::Note, said).told("p2pd config > servers.toml"));
    }
    findings
}

fn print(findings: &[Finding], say: Say) -> io::Result<()> {
    if say.is_json() {
        return findings
            .iter()
            .try_for_each(|of| print::out(&print::for_programs(&of.to_json().to_string())));
    }
    print::out(&table(findings))
}

fn table(findings: &[Finding]) -> String {
    let line = |of: &Finding| {
        let mark = match of.state {
            State::Fine => "ok",
            State::Note => "note",
            State::InTheWay => "IN THE WAY",
        };
        let mend = match &of.mend[..] {
            [] => String::new(),
            words => format!(
                "\n{:12}{:10}{} {}",
                "",
                "",
                if of.runs { "mend:" } else { "by hand:" },
                words.join(" ")
            ),
        };
        format!("{mark:<12}{:<10}{}{mend}", of.about, of.said)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_systems_get_a_command_to_run_by_hand() {
        let ports = Ports { first: 4000, last: 4000 };
        let of = |system| others(system, ports).map(|finding| (finding.mend.join(" "), finding.runs));
        let netsh =
            "netsh advfirewall firewall add rule name=p2pd dir=in action=allow protocol=TCP localport=4000";
        assert_eq!(of("windows"), Some((netsh.into(), false)));
        let filter = "sudo /usr/libexec/ApplicationFirewall/socketfilterfw --add \"$(command -v p2pd)\"";
        assert_eq!(of("macos"), Some((filter.into(), false)));
        assert_eq!(of("linux"), None);
    }

    #[test]
    fn the_table_names_each_command() {
        let findings = [
            Finding::new("clock", State::Fine, "right"),
            Finding::new("firewall", State::InTheWay, "drops").mended_by(vec!["nft".into(), "x".into()]),
            unread("ufw", "ERROR: You need to be root to run this script"),
        ];
        assert_eq!(
            table(&findings),
            "ok          clock     right\n\
             IN THE WAY  firewall  drops\n                      mend: nft x\n\
             note        firewall  ufw: not read: ERROR: You need to be root to run this script\n                      \
             by hand: sudo p2pd doctor, with the same options"
        );
        let json = findings[1].to_json();
        assert_eq!(
            (&json["state"], &json["mend"], &json["runs"]),
            (&"in_the_way".into(), &"nft x".into(), &true.into())
        );
    }
}
