//! A run, told: where each packet went and when, why some were dropped, and each NAT's table after each change.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use p2pd_netsim::dial::{Dials, Ending};
use p2pd_netsim::engine::{MILLI, Nanos};
use p2pd_netsim::nat::Entry;
use p2pd_netsim::net::{Blackout, Body, LinkSpec, Packet};
use p2pd_netsim::world::{Record, Trace, What};

use crate::json::Json;
use crate::wish::Wish;

/// Most packets, drops and tables that are told; a usual run has some 50.
const MOST: usize = 1_000;
/// Most entries of all these tables.
const MOST_ENTRIES: usize = 10_000;
const NAMES: [&str; 2] = ["A", "B"];

/// A host or a NAT.
struct Place {
    id: String,
    name: String,
    nat: bool,
}

/// The tables of all NATs at a time.
struct Frame {
    at: Nanos,
    tables: Vec<Vec<Entry>>,
}

/// Returns the dials, with the faults that are wished.
fn prepare(wish: &Wish) -> Dials {
    let attempt = &wish.attempt;
    let mut dials = Dials::new(wish.seed, attempt, true);
    for side in 0..2 {
        let (mut home, mut uplink) = (LinkSpec::default(), LinkSpec::with_delay(attempt.one_way / 2));
        // Each packet between the two crosses A's link once.
        if side == 0 {
            uplink.loss_ppm = wish.loss_ppm;
        }
        if wish.drop == Some(side) {
            let from = dials.begin() + if side == 1 { attempt.offset } else { 0 };
            let first = if attempt.chains[side].0.is_empty() { &mut uplink } else { &mut home };
            first.blackout = Blackout { from, until: from + 1 };
        }
        dials.set_links(side, home, uplink);
    }
    dials
}

/// Returns hosts and NATs from left to right: A, A's NATs, B's NATs, B.
fn places(dials: &Dials) -> Vec<Place> {
    let side = |side: usize| {
        let whose = NAMES[side];
        let host = Place { id: dials.hosts()[side].place(), name: whose.into(), nat: false };
        let nats = dials.nats(side).enumerate().map(move |(n, (id, nat))| {
            let name = match (n, nat.spec().translate) {
                (0, true) => format!("{whose}'s router"),
                (0, false) => format!("{whose}'s firewall"),
                (1, _) => format!("{whose}'s provider"),
                _ => format!("{whose}'s provider, NAT {n}"),
            };
            Place { id: id.place(), name, nat: true }
        });
        std::iter::once(host).chain(nats).collect::<Vec<_>>()
    };
    let (left, mut right) = (side(0), side(1));
    right.reverse();
    left.into_iter().chain(right).collect()
}

fn tables(dials: &Dials) -> Vec<Vec<Entry>> {
    let now = dials.now();
    let of = |side| dials.nats(side).map(|(_, nat)| nat.entries(now)).collect::<Vec<_>>();
    let (left, mut right) = (of(0), of(1));
    right.reverse();
    left.into_iter().chain(right).collect()
}

/// Returns a packet's kind in a word or two.
fn kind(packet: &Packet) -> String {
    let segment = match &packet.body {
        Body::Tcp(segment) => segment,
        Body::Udp(_) => return "UDP".into(),
        Body::Icmp(kind, _) => return format!("ICMP {kind:?}"),
    };
    let flags = segment.flags;
    let kind = match (flags.syn(), flags.ack()) {
        _ if flags.rst() => "RST",
        _ if flags.fin() => "FIN",
        (true, true) => "SYN-ACK",
        (true, false) => "SYN",
        _ if segment.data.is_empty() => "ACK",
        _ => "data",
    };
    kind.into()
}

/// Returns the whole sentences that say how it ended, and why.
fn why(
    wish: &Wish,
    dials: &Dials,
    ending: &Ending,
    frames: &[Frame],
    records: &[Record],
    places: &[Place],
) -> Vec<String> {
    // Without floating-point numbers, whose printing is an eighth of the file.
    let ms = |at: Nanos| format!("{}.{} ms", at / MILLI, at % MILLI * 10 / MILLI);
    let connected = ending.letter == 'o' || ending.letter.is_ascii_digit();
    let mut said = Vec::new();
    if let ([Some(a), Some(b)], true) = (ending.connected, connected) {
        let listener = NAMES.iter().zip(ending.accepted).find(|(_, accepted)| *accepted);
        said.push(match listener {
            Some((name, _)) => {
                format!("Connected after {}: {name}'s listener accepted the other's dial.", ms(a.max(b)))
            }
            None => format!(
                "Connected after {}: each side's SYN came in by the way that its own SYN had opened.",
                ms(a.max(b))
            ),
        });
    } else if let [Some(_), Some(_)] = ending.connected {
        said.push("Both sides report a connection, but no byte came through it.".into());
    }
    if !connected {
        for side in 0..2 {
            let Some(aimed) = dials.aims()[1 - side] else {
                said.push(format!(
                    "No server saw {0}, for {0}'s NATs let no connection through.",
                    NAMES[side]
                ));
                continue;
            };
            if let Some(used) = used(dials, side, frames).filter(|used| *used != aimed) {
                said.push(format!(
                    "{} dials {aimed}, where two servers' answers let it expect {}. But {}'s NAT sends this dial from {used}: it takes another port for each destination, and the guess was wrong.",
                    NAMES[1 - side], NAMES[side], NAMES[side]
                ));
            }
        }
    }
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for record in records {
        if let What::Drop { why, .. } = record.what {
            *counts.entry((&record.place, why)).or_default() += 1;
        }
    }
    for ((place, reason), count) in counts {
        let packets = if count == 1 { "1 packet".to_owned() } else { format!("{count} packets") };
        let Some(place) = places.iter().find(|other| other.id == place) else {
            said.push(format!("{packets} got lost on the way."));
            continue;
        };
        said.push(match reason {
            "unsolicited" => {
                format!("{} dropped {packets}: its table had nothing for where they came from.", place.name)
            }
            other => format!("{} dropped {packets}: {other}.", place.name),
        });
    }
    for (name, error) in NAMES.iter().zip(ending.errors) {
        if let Some((failure, at)) = error {
            said.push(format!("{name}'s first dial ended after {}: {failure}.", ms(at)));
        }
    }
    if !connected && ending.errors.iter().flatten().next().is_some() && wish.attempt.retry.is_none() {
        said.push("A program that dials again after an error may still get through: try that.".into());
    }
    said
}

/// Returns the end from which a side's outermost NAT has sent its dials; `None` where there is no NAT, or no dial came so far.
fn used(dials: &Dials, side: usize, frames: &[Frame]) -> Option<SocketAddr> {
    let left = dials.nats(0).count();
    let outermost = match (side, dials.nats(side).count()) {
        (_, 0) => return None,
        (0, count) => count - 1,
        _ => left,
    };
    let to = dials.aims()[side]?;
    let mut all = frames.iter().flat_map(|frame| &frame.tables[outermost]);
    all.find(|entry| entry.remote == Some(to)).map(|entry| entry.external)
}

/// Runs what is wished and tells it. Times are in microseconds from the first dial on.
pub(crate) fn tell(wish: &Wish) -> Json {
    let mut dials = prepare(wish);
    let mut frames = vec![Frame { at: dials.begin(), tables: tables(&dials) }];
    let mut entries = 0;
    while dials.step() {
        if frames.len() == MOST || entries > MOST_ENTRIES {
            continue;
        }
        let tables = tables(&dials);
        if frames.last().is_none_or(|last| last.tables != tables) {
            entries += tables.iter().map(Vec::len).sum::<usize>();
            frames.push(Frame { at: dials.now(), tables });
        }
    }
    let (ending, begin) = (dials.ending(), dials.begin());
    let micros = |at: Nanos| Json::from((at as i64 - begin as i64) / 1_000);
    let places = places(&dials);
    // The trace was asked for.
    let records = dials.trace().map(Trace::records).unwrap_or_default();
    let mut hops = records.iter().filter_map(|record| match &record.what {
        What::Hop { to, arrives, packet } => Some(Json::array([
            record.place.as_str().into(),
            to.as_str().into(),
            micros(record.at),
            arrives.map(micros).into(),
            kind(packet).into(),
            packet.to_string().into(),
        ])),
        _ => None,
    });
    // A packet that a link lost is a hop without an arrival.
    let mut drops = records.iter().filter_map(|record| match record.what {
        What::Drop { why, .. } if places.iter().any(|place| place.id == record.place) => {
            Some(Json::array([record.place.as_str().into(), micros(record.at), why.into()]))
        }
        _ => None,
    });
    let end = |end: SocketAddr| Json::from(end.to_string());
    let entry = |entry: &Entry| {
        Json::array([
            end(entry.inside),
            end(entry.external),
            entry.remote.map(end).into(),
            entry.state.into(),
        ])
    };
    let table = |table: &Vec<Entry>| Json::array(table.iter().map(entry));
    let told =
        [&mut hops as &mut dyn Iterator<Item = Json>, &mut drops].map(|all| Json::array(all.take(MOST)));
    let more =
        frames.len() == MOST || entries > MOST_ENTRIES || hops.next().or_else(|| drops.next()).is_some();
    let [hops, drops] = told;
    let mut reasons = why(wish, &dials, &ending, &frames, records, &places);
    if more {
        reasons.push(format!("There was more than the picture has: it ends after {MOST} packets or tables."));
    }
    Json::object([
        ("connected", (ending.letter == 'o' || ending.letter.is_ascii_digit()).into()),
        ("at", Json::array(ending.connected.map(|at| Json::from(at.map(|at| (at / 1_000) as i64))))),
        ("digest", format!("{:016x}", ending.digest).into()),
        ("why", Json::array(reasons.into_iter().map(Json::from))),
        ("aims", Json::array(dials.aims().map(|aim| Json::from(aim.map(end))))),
        ("end", micros(dials.now())),
        (
            "places",
            Json::array(places.iter().map(|place| {
                Json::object([
                    ("id", place.id.as_str().into()),
                    ("name", place.name.as_str().into()),
                    ("nat", place.nat.into()),
                ])
            })),
        ),
        ("hops", hops),
        ("drops", drops),
        (
            "frames",
            Json::array(
                frames.iter().map(|frame| {
                    Json::array([micros(frame.at), Json::array(frame.tables.iter().map(table))])
                }),
            ),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use p2pd_netsim::dial::attempt;

    use super::*;

    fn told(query: &str) -> (Wish, String) {
        let wish: Wish = query.parse().unwrap();
        let text = tell(&wish).text();
        (wish, text)
    }

    #[test]
    fn a_run_without_faults_is_the_attempt_of_the_library() {
        for query in [
            "seed=7&a=openwrt&b=linux&late=50",
            "seed=3&a=linux-random&b=linux-random",
            "a=double&b=fullcone",
        ] {
            let (wish, text) = told(query);
            let digest = attempt(wish.seed, &wish.attempt, false).0.digest;
            assert!(text.contains(&format!("\"digest\":\"{digest:016x}\"")), "{query}: {text}");
        }
    }

    #[test]
    fn it_says_why_it_failed() {
        let (_, text) = told("a=linux-random&b=linux-random");
        assert!(text.starts_with("{\"connected\":false") && text.contains("the guess was wrong"), "{text}");
        assert!(
            text.contains("A's router dropped 4 packets: its table had nothing for where they came from."),
            "{text}"
        );
        let (_, text) = told("a=linux&b=linux&late=50&rst=b&delay=40");
        assert!(
            text.contains("\"RST\"") && text.contains("first dial ended after 80.0 ms: connection refused."),
            "{text}"
        );
    }

    #[test]
    fn the_first_packet_is_lost_at_home_alone() {
        let (_, text) = told("a=linux&b=linux&drop=a");
        assert!(text.starts_with("{\"connected\":true"), "{text}");
        assert_eq!(text.matches(",null,\"SYN\"").count(), 1, "{text}");
        assert!(text.contains("1 packet got lost on the way."), "{text}");
    }
}
