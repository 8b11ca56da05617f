//! UPnP Internet Gateway Devices: found by SSDP, described, and called upon by SOAP.
//!
//! Each step is a TCP connection of its own with a deadline, one at a time for each device. So a slow device delays
//! nobody else.

mod description;
mod http;
mod job;
mod soap;
mod ssdp;
#[cfg(test)]
mod tests;
mod xml;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use self::description::{Kind, Service};
use self::http::{HttpError, Reader, Url};
use self::job::{Job, Made, Phase, Why, is_ours, listed, refused, removed, values};
use self::soap::{Call, Values};
use super::{
    Ask, Config, MAX_ANSWER, MAX_DESCRIPTION, MAX_DEVICES, MAX_LISTED, MapError, MapId, Out, Reply, Request,
    StreamId, Way,
};
use crate::random::Domain;
use crate::time::Instant;

/// The searches are sent at these times after the first; UDP loses some.
const SEARCH_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500)];
/// Answers come within the second that the search allows, and a description takes an exchange.
const SEARCH_UNTIL: Duration = Duration::from_millis(3000);
/// Longest time of one exchange, dial included.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(3);
/// External ports that are tried where others are somebody else's.
const MAX_TRIES: u8 = 4;

/// All devices.
#[derive(Debug)]
pub(super) struct Upnp {
    config: Config,
    search: Option<Search>,
    devices: BTreeMap<u32, Device>,
    /// Jobs that wait for a device that is ready.
    waiting: Vec<Job>,
    made: BTreeMap<MapId, Made>,
    /// Mappings to be removed as soon as the work under way on them has ended.
    cancelled: BTreeSet<MapId>,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Search {
    since: Instant,
    sent: usize,
}

impl Search {
    fn due(&self) -> Instant {
        self.since + SEARCH_AT.get(self.sent).copied().unwrap_or(SEARCH_UNTIL)
    }
}

#[derive(Debug)]
struct Device {
    location: Url,
    stage: Stage,
    services: SmallVec<[Service; 4]>,
    exchange: Option<Exchange>,
    jobs: VecDeque<Job>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Describing,
    /// Search for a service that works: the service with this place in the list is being asked.
    Choosing(usize),
    Ready {
        service: usize,
        external: IpAddr,
    },
    Failed(MapError),
}

#[derive(Debug)]
struct Exchange {
    stream: StreamId,
    request: Bytes,
    reader: Reader,
    by: Instant,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Describe,
    Choose(Call),
    Job(Job, Call),
}

impl Upnp {
    pub(super) fn new(config: Config) -> Self {
        Upnp {
            config,
            search: None,
            devices: BTreeMap::new(),
            waiting: Vec::new(),
            made: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            next: 0,
        }
    }

    /// Asks for a mapping, at a device found anew if those known are of no use.
    pub(super) fn map(&mut self, out: &mut Out, ask: Ask) {
        self.made.remove(&ask.id);
        self.cancelled.remove(&ask.id);
        let Ask { external, lifetime: lease, .. } = ask;
        // A pinhole is nobody's but ours.
        let phase = if self.config.local.is_ipv4() { Phase::Look } else { Phase::Add { any: false } };
        self.wait(out, Job::Map { ask, phase, external, lease, tries: 0 });
    }

    /// Asks for a longer life of a mapping that was granted.
    pub(super) fn renew(&mut self, out: &mut Out, ask: Ask) {
        let made = self.made.get(&ask.id).copied();
        match made.and_then(|m| Some((m, m.device?))) {
            Some((made, device)) => {
                // Its address may have changed since.
                if let Some(Device { stage, exchange: None, .. }) = self.devices.get_mut(&device)
                    && let Stage::Ready { service, .. } = *stage
                {
                    *stage = Stage::Choosing(service);
                }
                self.enqueue(out, device, Job::Renew { ask, made });
            }
            None => out.reply(refused(ask.id, MapError::NoAnswer)),
        }
    }

    /// Takes a mapping back, or the question for it.
    pub(super) fn remove(&mut self, out: &mut Out, id: MapId) {
        let busy = |job: &Job| job.id() == Some(id);
        self.waiting.retain(|job| !busy(job));
        for device in self.devices.values_mut() {
            device.jobs.retain(|job| !busy(job));
        }
        let running = self.devices.values().any(|d| d.exchange.as_ref().is_some_and(|e| e.step.is_of(id)));
        if running {
            self.cancelled.insert(id);
            return;
        }
        match self.made.remove(&id).and_then(|m| Some((m, m.device?))) {
            Some((made, device)) => self.enqueue(out, device, Job::Remove { id, made }),
            None => out.reply(removed(id, true)),
        }
    }

    /// Takes back a mapping that somebody made, by its external port.
    pub(super) fn forget(&mut self, out: &mut Out, ask: Ask) {
        let Ask { id, protocol, external, .. } = ask;
        let made = Made { device: None, protocol, external, lease: 0, pinhole: None };
        self.wait(out, Job::Remove { id, made });
    }

    /// Reads the table of a device.
    pub(super) fn list(&mut self, out: &mut Out) {
        self.wait(out, Job::List { index: 0 });
    }

    /// Returns true if a datagram is an answer to a search.
    pub(super) fn is_answer(&self, data: &[u8]) -> bool {
        self.search.is_some() && ssdp::is_answer(data)
    }

    pub(super) fn datagram(&mut self, out: &mut Out, from: SocketAddr, data: &[u8]) {
        let Some(location) = ssdp::location(&self.config, from, data) else {
            out.stats.strangers += 1;
            return;
        };
        // One description for an address, so that nobody takes all places for itself.
        let known = self.devices.values().any(|d| d.location.host.ip() == location.host.ip());
        if known {
            return;
        }
        // The gateway has a place whoever answered before.
        let is_gateway = |host: &SocketAddr| Some(host.ip()) == self.config.gateway;
        let places = if is_gateway(&location.host) { MAX_DEVICES } else { MAX_DEVICES - 1 };
        let others = self.devices.values().filter(|d| !is_gateway(&d.location.host)).count();
        if others >= places {
            out.stats.strangers += 1;
            return;
        }
        self.next += 1;
        let device = Device {
            location,
            stage: Stage::Describing,
            services: SmallVec::new(),
            exchange: None,
            jobs: VecDeque::new(),
        };
        self.devices.insert(self.next, device);
        self.work(out, self.next);
    }

    pub(super) fn connected(&mut self, out: &mut Out, stream: StreamId) {
        let Some(exchange) = self.on(stream).and_then(|n| self.devices.get_mut(&n)?.exchange.as_mut()) else {
            return;
        };
        out.requests.push_back(Request::Send { stream, data: exchange.request.clone() });
        out.requests.push_back(Request::Read { stream, credit: exchange.reader.credit() });
    }

    pub(super) fn received(&mut self, out: &mut Out, stream: StreamId, data: &[u8]) {
        let Some(number) = self.on(stream) else { return };
        let reader = self.devices.get_mut(&number).and_then(|d| d.exchange.as_mut()).map(|e| &mut e.reader);
        match reader.map(|r| r.push(data)) {
            Some(Ok(Some(answer))) => self.answered(out, number, Ok(answer)),
            Some(Err(why)) => self.answered(out, number, Err(why)),
            Some(Ok(None)) | None => {}
        }
    }

    /// Takes in the end of a stream: it ended, broke, or could not be opened.
    pub(super) fn ended(&mut self, out: &mut Out, stream: StreamId) {
        let Some(number) = self.on(stream) else { return };
        let Some(exchange) = self.devices.get_mut(&number).and_then(|d| d.exchange.as_mut()) else { return };
        let reader = core::mem::replace(&mut exchange.reader, Reader::new(0));
        self.answered(out, number, reader.end());
    }

    pub(super) fn timeout(&mut self, out: &mut Out) {
        let late = |d: &Device| d.exchange.as_ref().is_some_and(|e| e.by <= out.now);
        let slow: Vec<u32> = self.devices.iter().filter(|(_, d)| late(d)).map(|(n, _)| *n).collect();
        for number in slow {
            self.answered(out, number, Err(HttpError::CutOff));
        }
        self.search(out);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let exchanges = self.devices.values().filter_map(|d| d.exchange.as_ref().map(|e| e.by));
        exchanges.chain(self.search.map(|s| s.due())).min()
    }

    fn on(&self, stream: StreamId) -> Option<u32> {
        let has = |d: &Device| d.exchange.as_ref().is_some_and(|e| e.stream == stream);
        self.devices.iter().find(|(_, d)| has(d)).map(|(number, _)| *number)
    }

    /// Keeps a job for the first device that is ready; without a device, the search begins anew.
    fn wait(&mut self, out: &mut Out, job: Job) {
        if let Some(device) = self.ready() {
            return self.enqueue(out, device, job);
        }
        self.waiting.push(job);
        if self.search.is_none() && !self.is_choosing() {
            self.devices.retain(|_, d| d.exchange.is_some());
            self.search = Some(Search { since: out.now, sent: 0 });
            self.search(out);
        }
    }

    /// The gateway's device; another one only when the search is over, since anybody on the LAN can answer first.
    fn ready(&self) -> Option<u32> {
        let mut ready = self.devices.iter().filter(|(_, d)| matches!(d.stage, Stage::Ready { .. }));
        let is_gateway = |d: &Device| Some(d.location.host.ip()) == self.config.gateway;
        let gateway = ready.clone().find(|(_, d)| is_gateway(d));
        let any = || ready.next().filter(|_| self.search.is_none());
        gateway.or_else(any).map(|(number, _)| *number)
    }

    /// Gives the waiting jobs to a device that is ready.
    fn hand_out(&mut self, out: &mut Out) {
        let Some(device) = self.ready() else { return };
        for job in core::mem::take(&mut self.waiting) {
            self.enqueue(out, device, job);
        }
    }

    fn is_choosing(&self) -> bool {
        self.devices.values().any(|d| matches!(d.stage, Stage::Describing | Stage::Choosing(_)))
    }

    fn search(&mut self, out: &mut Out) {
        let Some(search) = self.search.as_mut().filter(|s| s.due() <= out.now) else { return };
        if search.sent == SEARCH_AT.len() {
            self.search = None;
            self.hand_out(out);
            return self.give_up(out);
        }
        search.sent += 1;
        for (to, data) in ssdp::searches(&self.config) {
            out.datagram(to, data);
        }
    }

    /// Ends the waiting jobs, if there is nothing to wait for any more.
    fn give_up(&mut self, out: &mut Out) {
        if self.search.is_some() || self.is_choosing() || self.ready().is_some() {
            return;
        }
        let failed = self.devices.values().find_map(|d| match d.stage {
            Stage::Failed(why) => Some(why),
            _ => None,
        });
        for job in core::mem::take(&mut self.waiting) {
            job.fail(out, failed.unwrap_or(MapError::NoAnswer));
        }
    }

    fn enqueue(&mut self, out: &mut Out, number: u32, job: Job) {
        match self.devices.get_mut(&number) {
            Some(device) => device.jobs.push_back(job),
            None => return job.fail(out, MapError::NoAnswer),
        }
        self.work(out, number);
    }

    /// Begins the next exchange with a device, if there is none.
    fn work(&mut self, out: &mut Out, number: u32) {
        let client = self.config.local;
        let Some(device) = self.devices.get_mut(&number).filter(|d| d.exchange.is_none()) else { return };
        let (to, request, most, step) = match device.stage {
            Stage::Describing => {
                (device.location.host, http::get(&device.location), MAX_DESCRIPTION, Step::Describe)
            }
            Stage::Choosing(place) => {
                let service = &device.services[place];
                let call = match service.kind {
                    Kind::Wan { .. } => Call::ExternalAddress,
                    Kind::Firewall => Call::FirewallStatus,
                };
                (service.control.host, call.request(service), MAX_ANSWER, Step::Choose(call))
            }
            Stage::Ready { service, .. } => {
                let Some(job) = device.jobs.pop_front() else { return };
                let service = &device.services[service];
                let Some(call) = job.call(service.kind, client) else {
                    job.fail(out, MapError::NotSupported);
                    return self.work(out, number);
                };
                (service.control.host, call.request(service), MAX_ANSWER, Step::Job(job, call))
            }
            Stage::Failed(why) => {
                for job in core::mem::take(&mut device.jobs) {
                    job.fail(out, why);
                }
                return self.give_up(out);
            }
        };
        self.next += 1;
        let stream = StreamId(self.next);
        let by = out.now + EXCHANGE_WITHIN;
        device.exchange = Some(Exchange { stream, request, reader: Reader::new(most), by, step });
        out.requests.push_back(Request::Connect { stream, to });
    }

    /// Takes in the end of an exchange.
    fn answered(&mut self, out: &mut Out, number: u32, answer: Result<http::Answer, HttpError>) {
        let Some(device) = self.devices.get_mut(&number) else { return };
        let Some(Exchange { stream, step, .. }) = device.exchange.take() else { return };
        out.requests.push_back(Request::Close { stream });
        match step {
            Step::Describe => device.describe(&answer, &self.config),
            Step::Choose(call) => device.choose(values(call, &answer), self.config.local),
            Step::Job(job, call) => self.job_answered(out, number, job, values(call, &answer)),
        }
        self.hand_out(out);
        self.work(out, number);
        self.give_up(out);
    }

    fn job_answered(&mut self, out: &mut Out, number: u32, job: Job, answer: Result<Values, Why>) {
        if answer == Err(Why::NoAnswer)
            && let Some(device) = self.devices.get_mut(&number)
        {
            // A search is worth more than to ask it again.
            device.stage = Stage::Failed(MapError::NoAnswer);
        }
        match job {
            Job::Map { ask, .. } => match self.map_answered(out, number, job, answer) {
                Next::Again(job) if !self.cancelled.contains(&ask.id) => {
                    if let Some(device) = self.devices.get_mut(&number) {
                        device.jobs.push_front(job);
                    }
                }
                Next::Again(_) | Next::Ended if self.cancelled.remove(&ask.id) => self.remove(out, ask.id),
                Next::Again(_) => {}
                Next::Ended => {}
            },
            Job::Renew { ask, made } => {
                if self.cancelled.remove(&ask.id) {
                    return self.remove(out, ask.id);
                }
                // 704: a router that has started again forgot the pinhole. A mapping's renewal makes it anew anyway.
                if made.pinhole.is_some()
                    && answer == Err(Why::Fault(704))
                    && let Some(device) = self.devices.get_mut(&number)
                {
                    let Ask { external, lifetime: lease, .. } = ask;
                    let phase = Phase::Add { any: false };
                    device.jobs.push_front(Job::Map { ask, phase, external, lease, tries: 0 });
                    return;
                }
                out.reply(match answer {
                    Ok(_) => self.granted(number, ask.id, made),
                    Err(why) => refused(ask.id, why.into()),
                });
            }
            // 714 and 704: it is not there.
            Job::Remove { id, .. } => {
                let gone = matches!(answer, Ok(_) | Err(Why::Fault(714 | 704)));
                out.reply(removed(id, gone));
            }
            Job::List { index } => self.listed(out, number, index, answer),
        }
    }

    fn map_answered(&mut self, out: &mut Out, number: u32, job: Job, answer: Result<Values, Why>) -> Next {
        let Job::Map { ask, phase, external, lease, tries } = job else { return Next::Ended };
        let kind = self.devices.get(&number).and_then(Device::kind);
        let any = kind == Some(Kind::Wan { any: true });
        let again = |phase, lease| Next::Again(Job::Map { ask, phase, external, lease, tries });
        let why = match (phase, answer) {
            (Phase::Look, Ok(values)) if is_ours(&values, self.config.local, ask.internal) => {
                return again(Phase::Add { any: false }, lease);
            }
            (Phase::Look, Ok(_)) if any => return again(Phase::Add { any }, lease),
            (Phase::Look, Ok(_)) => MapError::Conflict,
            (Phase::Look, Err(Why::NoAnswer)) => MapError::NoAnswer,
            // Most often 714, no such entry. A device that cannot say is asked all the same.
            (Phase::Look, Err(_)) => return again(Phase::Add { any }, lease),
            (Phase::Add { .. }, Ok(values)) => {
                let number_of = |name: &str| values.get(name).and_then(|v| v.parse::<u16>().ok());
                let pinhole = number_of("UniqueID");
                let external = match kind {
                    Some(Kind::Firewall) if pinhole.is_none() => 0,
                    Some(Kind::Firewall) => ask.internal,
                    _ if phase == (Phase::Add { any: true }) => number_of("NewReservedPort").unwrap_or(0),
                    _ => external,
                };
                if external != 0 {
                    let made =
                        Made { device: Some(number), protocol: ask.protocol, external, lease, pinhole };
                    let reply = self.granted(number, ask.id, made);
                    out.reply(reply);
                    return Next::Ended;
                }
                MapError::BadAnswer
            }
            (Phase::Add { .. }, Err(Why::Fault(725))) if lease != 0 => return again(phase, 0),
            // A device of version 2 without the action of version 2.
            (Phase::Add { any: true }, Err(Why::Fault(401 | 602))) => {
                return again(Phase::Add { any: false }, lease);
            }
            (Phase::Add { .. }, Err(Why::Fault(724))) if external != ask.internal => {
                let job =
                    Job::Map { ask, phase: Phase::Look, external: ask.internal, lease, tries: MAX_TRIES };
                return Next::Again(job);
            }
            (Phase::Add { .. }, Err(why)) => why.into(),
        };
        if why == MapError::Conflict && tries + 1 < MAX_TRIES {
            let drawn = out.random.below(Domain::PortMapping, 65_536 - 49_152) as u16;
            let job = Job::Map { ask, phase: Phase::Look, external: 49_152 + drawn, lease, tries: tries + 1 };
            return Next::Again(job);
        }
        if !self.cancelled.contains(&ask.id) {
            out.reply(refused(ask.id, why));
        }
        Next::Ended
    }

    fn granted(&mut self, number: u32, id: MapId, made: Made) -> Reply {
        self.made.insert(id, made);
        let external = match self.devices.get(&number).map(|d| d.stage) {
            Some(Stage::Ready { external, .. }) => external,
            _ => self.config.local,
        };
        let lifetime = Some(made.lease).filter(|s| *s != 0);
        Reply::Granted { id, way: Way::Upnp, external: SocketAddr::new(external, made.external), lifetime }
    }

    fn listed(&mut self, out: &mut Out, number: u32, index: u16, answer: Result<Values, Why>) {
        let end = match answer {
            Ok(values) => {
                if let Some(entry) = listed(&values) {
                    out.reply(Reply::Listed(entry));
                }
                if index + 1 < MAX_LISTED
                    && let Some(device) = self.devices.get_mut(&number)
                {
                    device.jobs.push_front(Job::List { index: index + 1 });
                    return;
                }
                Ok(())
            }
            // The end of the table: 713, and by some devices 714, 402 or 501.
            Err(Why::Fault(713 | 714 | 402 | 501)) => Ok(()),
            Err(why) => Err(why.into()),
        };
        out.reply(Reply::ListEnd(end));
    }
}

enum Next {
    Again(Job),
    Ended,
}

impl Device {
    fn kind(&self) -> Option<Kind> {
        match self.stage {
            Stage::Ready { service, .. } => self.services.get(service).map(|s| s.kind),
            _ => None,
        }
    }

    fn describe(&mut self, answer: &Result<http::Answer, HttpError>, config: &Config) {
        let found = match answer {
            Ok(answer) if answer.code == 200 => {
                description::services(&answer.body, &self.location, config.zone)
            }
            Ok(_) | Err(HttpError::Malformed | HttpError::TooLong) => Err(MapError::BadAnswer),
            Err(HttpError::CutOff) => Err(MapError::NoAnswer),
        };
        self.stage = match found {
            Ok(mut services) => {
                let wan = |s: &Service| matches!(s.kind, Kind::Wan { .. });
                services.retain(|s| wan(s) == config.local.is_ipv4());
                self.services = services;
                if self.services.is_empty() {
                    Stage::Failed(MapError::NotSupported)
                } else {
                    Stage::Choosing(0)
                }
            }
            Err(why) => Stage::Failed(why),
        };
    }

    /// Takes the service that knows its external address, or lets pinholes be made.
    fn choose(&mut self, answer: Result<Values, Why>, local: IpAddr) {
        let Stage::Choosing(service) = self.stage else { return };
        let values = answer.as_ref().ok();
        let value = |name: &str| values.and_then(|v| v.get(name)).map(String::as_str);
        let external = match self.services[service].kind {
            Kind::Wan { .. } => {
                let ip = value("NewExternalIPAddress").and_then(|ip| ip.parse::<IpAddr>().ok());
                ip.filter(|ip| ip.is_ipv4() && !ip.is_unspecified()).ok_or(MapError::NoNetwork)
            }
            // What the standard calls 1, some call true.
            Kind::Firewall => match value("InboundPinholeAllowed") {
                Some("1" | "true") => Ok(local),
                _ => Err(MapError::NotAuthorized),
            },
        };
        self.stage = match (external, answer) {
            (Ok(external), _) => Stage::Ready { service, external },
            (Err(_), _) if service + 1 < self.services.len() => Stage::Choosing(service + 1),
            (Err(_), Err(Why::NoAnswer)) => Stage::Failed(MapError::NoAnswer),
            (Err(why), _) => Stage::Failed(why),
        };
    }
}

impl Step {
    fn is_of(&self, id: MapId) -> bool {
        matches!(self, Step::Job(Job::Map { ask, .. } | Job::Renew { ask, .. }, _) if ask.id == id)
    }
}
