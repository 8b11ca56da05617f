//! The wall clock: the driver's, put right where time servers say that it is wrong.
//!
//! Nothing needs them: messages of a node whose clock is wrong are answered with the right time, at the price of a
//! round trip. But names are signed for a time, and a node with a wrong clock can neither register nor resolve any.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::NetworkEvent;
use crate::clock::Clock;
use crate::config::NtpServer;
use crate::cx::{Cx, Owner, Timer};
use crate::event::Event;
use crate::failure::IoFailure;
use crate::io::{CloseHow, QueryId, SockId};
use crate::random::Domain;
use crate::server::{Race, local_for};
use crate::time::{ClockFix, Instant};

/// A clock that is wrong by less is left alone: messages count within ten minutes, names within more.
const TOLERATED: Duration = Duration::from_secs(60);
/// Largest drift between the wall clock and the monotonic one from one reading to the next. A larger one means that the
/// wall clock was set, or that one of them stood still.
const JUMP: Duration = Duration::from_secs(1);
/// A look-up may take this long.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// A server's burst takes six seconds; then its last answer is waited for.
const ASK_WITHIN: Duration = Duration::from_secs(8);
/// The servers are asked again after this long: where nobody knew the time, and where they did.
const AGAIN: (Duration, Duration) = (Duration::from_secs(15 * 60), Duration::from_secs(24 * 3600));
/// Time for which work that a wrong clock would spoil waits for the servers.
const PATIENCE: Duration = Duration::from_secs(2);
/// Least time between two questions to the servers, however often the clock is set.
const NOT_SOONER: Duration = Duration::from_secs(60);

/// Knowledge of a node about the time.
#[derive(Debug)]
pub(super) struct Timekeeper {
    servers: Vec<NtpServer>,
    /// Address to ask from, if the configuration names one.
    bind: Option<IpAddr>,
    /// There is a network to ask in.
    runs: bool,
    /// Last reading that the driver gave.
    told: Option<ClockFix>,
    /// Lead of the driver's clock in microseconds, once a server has answered; 0 for a lead within `TOLERATED`.
    ahead: Option<i64>,
    state: State,
    /// Time of the last question to the servers.
    asked: Option<Instant>,
    /// Set where the right time has become known; true if the clock to go by was set by more than [`TOLERATED`].
    news: Option<bool>,
}

#[derive(Debug)]
enum State {
    /// Waits for the timer, or for ever.
    Idle,
    Asking {
        clock: Box<Clock>,
        /// The ways to the servers, and their ports.
        ways: Vec<(Race, u16)>,
        socks: SmallVec<[Socket; 2]>,
        until: Instant,
    },
}

/// A socket for one address family.
#[derive(Clone, Copy, Debug)]
struct Socket {
    sock: SockId,
    v4: bool,
    bound: bool,
}

impl Timekeeper {
    pub(super) fn new(servers: Vec<NtpServer>, bind: Option<IpAddr>) -> Self {
        Timekeeper {
            servers,
            bind,
            runs: false,
            told: None,
            ahead: None,
            state: State::Idle,
            asked: None,
            news: None,
        }
    }

    /// Asks the servers, as there is a network now.
    pub(super) fn start(&mut self, cx: &mut Cx) {
        self.runs = true;
        self.ask(cx);
    }

    /// Returns the time until which work that depends on the clock had better wait, if it had.
    pub(super) fn awaited_until(&self, now: Instant) -> Option<Instant> {
        let asking = !matches!(self.state, State::Idle) && self.ahead.is_none();
        self.asked.map(|at| at + PATIENCE).filter(|until| asking && now < *until)
    }

    /// Asks nobody any more. Sockets are left to the caller.
    pub(super) fn stop(&mut self) {
        (self.runs, self.state) = (false, State::Idle);
    }

    /// Returns what has changed since the last call.
    pub(super) fn take_news(&mut self) -> Option<NetworkEvent> {
        self.news.take().map(|set| if set { NetworkEvent::TimeSet } else { NetworkEvent::TimeKnown })
    }

    /// The driver read its clock.
    pub(super) fn told(&mut self, cx: &mut Cx, fix: ClockFix) {
        let before = self.told.replace(fix);
        let jumped = before.is_some_and(|b| exceeds(fix.wall.micros_since(b.wall_at(fix.at)), JUMP));
        if jumped {
            // Perhaps it is right now, and what was found of it holds no more.
            self.ahead = None;
            if let State::Asking { clock, until, .. } = &mut self.state {
                clock.restart(cx.now);
                *until = cx.now + ASK_WITHIN;
            }
            self.ask(cx);
            self.drive(cx);
        }
        cx.clock = self.clock();
    }

    /// Asks the servers, if there are any and they were not asked lately.
    pub(super) fn ask(&mut self, cx: &mut Cx) {
        let now = cx.now;
        let idle = matches!(self.state, State::Idle);
        if !self.runs || self.servers.is_empty() || !idle {
            return;
        }
        if let Some(at) = self.asked.map(|at| at + NOT_SOONER).filter(|at| now < *at) {
            return cx.timers.set(Timer::Clock, Some(at));
        }
        self.asked = Some(now);
        cx.timers.set(Timer::Clock, None);
        let way = |s: &NtpServer| (Race::start(cx, Owner::Clock, &s.host, RESOLVE_WITHIN), s.port);
        let ways = self.servers.iter().map(way).collect();
        let clock = Box::new(Clock::new([], cx.random.draw(Domain::Clock), now));
        self.state = State::Asking { clock, ways, socks: SmallVec::new(), until: now + ASK_WITHIN };
        self.drive(cx);
    }

    /// Asks them now where nobody has told the time yet: there may be a network by now.
    pub(super) fn ask_again(&mut self, cx: &mut Cx) {
        if self.ahead.is_none() {
            self.ask(cx);
        }
    }

    pub(super) fn resolved(
        &mut self,
        cx: &mut Cx,
        families: [bool; 2],
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) {
        let State::Asking { ways, until, .. } = &mut self.state else { return };
        let usable = |ip: &IpAddr| families[usize::from(!ip.is_ipv4())];
        for (race, _) in ways {
            // What is found out of a failed look-up is that there is nothing to ask.
            let _ = race.resolved(cx, query, &result, usable);
        }
        *until = cx.now + ASK_WITHIN;
        self.drive(cx);
    }

    pub(super) fn bound(&mut self, cx: &mut Cx, sock: SockId) {
        if let State::Asking { socks, .. } = &mut self.state
            && let Some(socket) = socks.iter_mut().find(|s| s.sock == sock)
        {
            socket.bound = true;
        }
        self.drive(cx);
    }

    pub(super) fn datagram(&mut self, cx: &mut Cx, from: SocketAddr, data: &[u8]) {
        let now = cx.now;
        if let State::Asking { clock, ways, .. } = &mut self.state {
            clock.handle(now, from, data);
            for (of, (race, _)) in ways.iter_mut().enumerate() {
                if clock.told(of) == Some(from) {
                    cx.experience.works(race.host(), from.ip());
                    race.stop(cx);
                }
            }
            let servers = ways.iter().enumerate().filter(|(of, (race, _))| race.is_open() || clock.asks(*of));
            // More than half of them are believed at once, and better answers later.
            if clock.answered() * 2 > servers.count()
                && let Ok(fix) = clock.time(now)
            {
                self.time_is(cx, fix);
            }
        }
        self.drive(cx);
    }

    pub(super) fn timeout(&mut self, cx: &mut Cx) {
        let now = cx.now;
        match &mut self.state {
            State::Idle => self.ask(cx),
            State::Asking { clock, .. } => clock.handle_timeout(now),
        }
        self.drive(cx);
    }

    /// Sends what is to be sent, and ends when all have answered or had the time to.
    fn drive(&mut self, cx: &mut Cx) {
        let now = cx.now;
        self.ask_addresses(cx);
        let State::Asking { clock, ways, socks, until } = &mut self.state else { return };
        let bound = socks.iter().all(|s| s.bound);
        while let Some((to, data)) = bound.then(|| clock.poll_transmit()).flatten() {
            if let Some(socket) = socks.iter().find(|s| s.v4 == to.is_ipv4()) {
                cx.send_datagram(socket.sock, to, data);
            }
        }
        let open = ways.iter().any(|(race, _)| race.is_open());
        if now < *until && (open || !clock.is_settled(now)) {
            let due = ways.iter().filter_map(|(race, _)| race.due());
            let at = due.chain(clock.poll_timeout()).chain([*until]).min();
            return cx.timers.set(Timer::Clock, at);
        }
        ways.iter_mut().for_each(|(race, _)| race.stop(cx));
        let found = clock.time(now);
        for socket in core::mem::take(socks) {
            cx.close(socket.sock, CloseHow::Drop);
        }
        self.state = State::Idle;
        let pause = if found.is_ok() { AGAIN.1 } else { AGAIN.0 };
        cx.timers.set(Timer::Clock, Some(now + pause));
        // Nobody waits for them any longer.
        let Ok(fix) = found else { return self.tell(false) };
        let ahead = self.time_is(cx, fix);
        cx.notify(Event::Clock { ahead, error: fix.error });
    }

    /// Asks the addresses whose turn has come.
    fn ask_addresses(&mut self, cx: &mut Cx) {
        let now = cx.now;
        let State::Asking { clock, ways, socks, .. } = &mut self.state else { return };
        let mut missing: SmallVec<[IpAddr; 2]> = SmallVec::new();
        for (of, (race, port)) in ways.iter_mut().enumerate() {
            while let Some(ip) = race.next(now) {
                clock.add(now, of, SocketAddr::new(ip, *port));
                let has = |v4| socks.iter().any(|s| s.v4 == v4);
                if !has(ip.is_ipv4()) && !missing.iter().any(|m| m.is_ipv4() == ip.is_ipv4()) {
                    missing.push(ip);
                }
            }
        }
        for ip in missing {
            let local = local_for(cx, ip, self.bind);
            let sock = cx.bind_udp(Owner::Clock, local);
            if let State::Asking { socks, .. } = &mut self.state {
                socks.push(Socket { sock, v4: ip.is_ipv4(), bound: false });
            }
        }
    }

    /// A socket could not be had.
    pub(super) fn failed(&mut self, cx: &mut Cx, sock: SockId) {
        let State::Asking { socks, .. } = &mut self.state else { return };
        socks.retain(|s| s.sock != sock);
        self.drive(cx);
    }

    /// Takes over the time that the servers gave. Returns the lead of the driver's clock in microseconds.
    fn time_is(&mut self, cx: &mut Cx, fix: ClockFix) -> i64 {
        let now = cx.now;
        let before = cx.wall();
        let ahead = match self.told {
            Some(told) => told.wall_at(now).micros_since(fix.wall_at(now)),
            // The driver has no clock, then this is it.
            None => {
                self.told = Some(fix);
                0
            }
        };
        self.ahead = Some(if exceeds(ahead, TOLERATED) { ahead } else { 0 });
        cx.clock = self.clock();
        self.tell(exceeds(cx.wall().micros_since(before), TOLERATED));
        ahead
    }

    /// The clock to go by.
    fn clock(&self) -> Option<ClockFix> {
        let ahead = self.ahead.unwrap_or(0);
        self.told.map(|fix| ClockFix { wall: fix.wall.offset_micros(ahead.saturating_neg()), ..fix })
    }

    fn tell(&mut self, set: bool) {
        self.news = self.news.max(Some(set));
    }
}

/// Returns true if a number of microseconds, in either direction, is more than `than`.
fn exceeds(micros: i64, than: Duration) -> bool {
    u128::from(micros.unsigned_abs()) > than.as_micros()
}
