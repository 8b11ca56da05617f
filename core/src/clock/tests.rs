//! The clock against servers that tell the truth, lie, or forbid it to ask.

use super::*;

const SECOND: i64 = 1_000_000_000;
/// True time at the monotonic clock's zero.
const START: i64 = 1_700_000_000 * SECOND;

fn at(ns: i64) -> Instant {
    Instant::from_nanos(ns)
}

fn ms(ms: i64) -> Instant {
    at(ms * 1_000_000)
}

fn server(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n], 123))
}

fn clock(servers: u8) -> Clock {
    Clock::new((0..servers).map(server), [5; 32], Instant::ZERO)
}

fn sent(clock: &mut Clock) -> Vec<(SocketAddr, Bytes)> {
    core::iter::from_fn(|| clock.poll_transmit()).collect()
}

#[test]
fn offset_and_bound_are_those_of_the_exchange() {
    let mut clock = clock(1);
    let (to, request) = sent(&mut clock).remove(0);
    // 10 ms there, 5 ms in the server, 30 ms back: half the asymmetry is 10 ms.
    let receive = START + 10_000_000;
    clock.handle(ms(45), to, &packet::answer(&request, receive, receive + 5_000_000, 0));
    let fix = clock.time(ms(45)).unwrap();
    let error = fix.wall.as_micros() - (START + 45_000_000) / 1000;
    assert!((-10_001..=-9_999).contains(&error), "{error}");
    // 20 ms for the delay of 40; 0.03 us precision; 4.5 us drift while asking, 2.25 since the middle.
    assert!((20_006..=20_010).contains(&fix.error.as_micros()), "{:?}", fix.error);
    let later = clock.time(at(1000 * SECOND)).unwrap().error - fix.error;
    assert!((99_990..=100_000).contains(&later.as_micros()), "100 ppm: {later:?}");
}

#[test]
fn a_burst_then_seldom() {
    let mut clock = clock(2);
    let mut times = Vec::new();
    let mut now = Instant::ZERO;
    while now < at(3000 * SECOND) {
        assert!(sent(&mut clock).len() == 2);
        times.push(now.as_nanos() / SECOND);
        now = clock.poll_timeout().unwrap();
        clock.handle_timeout(now);
    }
    assert_eq!(times, [0, 2, 4, 6, 1030, 2054]);
    let mut other = super::tests::clock(2);
    for (second, settled) in [(2, false), (4, false), (6, false), (7, false), (8, true)] {
        other.handle_timeout(at(second * SECOND));
        assert_eq!(other.is_settled(at(second * SECOND)), settled, "{second}");
    }
    assert_eq!(clock.time(at(9 * SECOND)), Err(NoTime::NoAnswer));
}

#[test]
fn strangers_and_repetitions_do_not_count() {
    let mut clock = clock(2);
    let asked = sent(&mut clock);
    let (to, request) = &asked[0];
    let good = packet::answer(request, START, START, 0);
    clock.handle(ms(1), server(77), &good);
    clock.handle(ms(1), SocketAddr::new(to.ip(), 124), &good);
    clock.handle(ms(1), asked[1].0, &good);
    let mut wrong = good;
    wrong[31] ^= 1;
    clock.handle(ms(1), *to, &wrong);
    clock.handle(ms(1), *to, &good[..47]);
    clock.handle(ms(1), *to, request);
    // It says that it took longer than we waited, or answered before it was asked.
    for (receive, transmit) in [(START, START + 2_000_000), (START, START - 1)] {
        let mut clock = super::tests::clock(1);
        let (to, request) = sent(&mut clock).remove(0);
        clock.handle(ms(1), to, &packet::answer(&request, receive, transmit, 0));
        assert_eq!((clock.answered(), clock.stats().malformed), (0, 1));
    }
    assert_eq!(clock.stats(), Stats { strangers: 4, malformed: 2, ..Stats::default() });
    assert_eq!(clock.answered(), 0);
    clock.handle(ms(2), *to, &good);
    assert_eq!(clock.answered(), 1);
    clock.handle(ms(3), *to, &good);
    assert_eq!(clock.stats().strangers, 5, "a question has one answer");
}

#[test]
fn a_kiss_of_death_is_honoured() {
    let kiss = |request: &[u8], code: &[u8]| {
        let mut bytes = packet::answer(request, START, START, 0);
        bytes[1] = 0;
        bytes[12..16].copy_from_slice(code);
        bytes
    };
    let mut clock = clock(1);
    let (to, request) = sent(&mut clock).remove(0);
    clock.handle(ms(1), to, &kiss(&[0; 48], b"DENY"));
    assert!(clock.poll_timeout().is_some(), "a forged one ends nothing");
    clock.handle(ms(1), to, &kiss(&request, b"RATE"));
    assert_eq!(clock.poll_timeout(), Some(ms(1) + Duration::from_secs(2048)), "and the burst is over");
    clock.handle_timeout(ms(1) + Duration::from_secs(2048));
    let (to, request) = sent(&mut clock).remove(0);
    clock.handle(ms(1), to, &kiss(&request, b"DENY"));
    assert_eq!((clock.poll_timeout(), clock.is_settled(ms(1))), (None, true));
    clock.restart(ms(2));
    assert_eq!((sent(&mut clock).len(), clock.stats().kisses), (0, 2), "not even then");
}

#[test]
fn a_server_counts_once_and_there_are_nine_at_most() {
    let many = (0..20).flat_map(|n| [server(n), server(n)]);
    let mut clock = Clock::new(many, [5; 32], Instant::ZERO);
    let asked = sent(&mut clock);
    assert_eq!(asked.len(), MAX_SERVERS);
    let cookies: std::collections::BTreeSet<_> = asked.iter().map(|(_, data)| data[40..].to_vec()).collect();
    assert_eq!(cookies.len(), MAX_SERVERS);
}

/// A server of a simulated run.
struct Simulated {
    /// Offset of the server's clock and the dispersion that it admits; a liar admits nothing.
    off: i64,
    dispersion: i64,
    there: i64,
    back: i64,
    loss: u64,
}

struct Dice(Random);

impl Dice {
    fn up_to(&mut self, most: i64) -> i64 {
        self.0.below(Domain::BackOff, most as u64 + 1) as i64
    }

    fn around(&mut self, most: i64) -> i64 {
        self.up_to(2 * most) - most
    }

    fn server(&mut self, liar: bool) -> Simulated {
        let dispersion = self.up_to(50_000_000);
        // Most lies are small ones, which overlap with the truth.
        let lie = [20_000_000, 200_000_000, 3600 * SECOND][self.up_to(2) as usize];
        Simulated {
            off: if liar { self.around(lie) } else { self.around(dispersion) },
            dispersion: if liar { 0 } else { dispersion },
            there: self.up_to(150_000_000),
            back: self.up_to(150_000_000),
            loss: self.up_to(60) as u64,
        }
    }
}

/// Runs an hour or so. Returns the number of times that were told, and each violation of their bound.
fn run(seed: u64, liars_win: bool) -> (u64, Vec<String>) {
    let mut key = [9; 32];
    key[..8].copy_from_slice(&seed.to_be_bytes());
    let mut dice = Dice(Random::new(key));
    let count = 1 + dice.up_to(6) as u8;
    let most = if liars_win { count } else { (count - 1) / 2 };
    let liars = dice.up_to(i64::from(most)) as u8;
    let servers: Vec<Simulated> = (0..count).map(|n| dice.server(n < liars)).collect();
    // Our clock goes wrong by so many parts per million.
    let ppm = dice.around(DRIFT_PPM);
    let truth = |mono: i64| START + mono + mono / 1_000_000 * ppm;
    let mut clock = Clock::new((0..count).map(server), key, Instant::ZERO);
    let mut arrivals: std::collections::BTreeMap<(i64, u8), [u8; 48]> = Default::default();
    let (mut told, mut violations) = (0, Vec::new());
    let mut now = 0;
    while now < 4000 * SECOND {
        for (to, request) in sent(&mut clock) {
            let n = (0..count).find(|n| server(*n) == to).unwrap();
            let its = &servers[usize::from(n)];
            if (dice.up_to(99) as u64) < its.loss {
                continue;
            }
            let queue = [dice.up_to(20_000_000), dice.up_to(20_000_000)];
            let receive = truth(now + its.there + queue[0]) + its.off;
            let taken = dice.up_to(1_000_000);
            let bytes = packet::answer(&request, receive, receive + taken, its.dispersion);
            arrivals.insert(
                (now + its.there + its.back + queue[0] + queue[1] + taken * 1001 / 1000 + 2, n),
                bytes,
            );
        }
        let due = clock.poll_timeout().unwrap().as_nanos();
        match arrivals.pop_first() {
            Some(((when, n), bytes)) if when <= due => {
                now = when;
                clock.handle(at(now), server(n), &bytes);
            }
            other => {
                if let Some((key, bytes)) = other {
                    arrivals.insert(key, bytes);
                }
                now = due;
                clock.handle_timeout(at(now));
            }
        }
        for ask in [now, now + dice.up_to(900 * SECOND)] {
            let Ok(fix) = clock.time(at(ask)) else { continue };
            // Losses may leave the liars in the majority, of which nothing is promised.
            let lying = clock.servers[..usize::from(liars)].iter().filter(|s| !s.samples.is_empty()).count();
            if !liars_win && 2 * lying >= clock.answered() {
                continue;
            }
            told += 1;
            let error = fix.wall.as_micros().abs_diff(truth(ask) / 1000);
            if u128::from(error) > fix.error.as_micros() {
                violations
                    .push(format!("seed {seed}: {liars} of {count} lie: {error} us, stated {:?}", fix.error));
            }
        }
    }
    (told, violations)
}

#[test]
fn the_stated_bound_holds_in_a_thousand_runs_with_lying_minorities() {
    let mut told = 0;
    for seed in 0..1000 {
        let (times, violations) = run(seed, false);
        assert_eq!(violations, Vec::<String>::new());
        told += times;
    }
    assert!(told > 45_000, "{told}");
}

#[test]
fn liars_that_are_the_majority_do_break_it() {
    let broken = (0..100).filter(|seed| !run(*seed, true).1.is_empty()).count();
    assert!(broken > 20, "the runs above would not notice a lie: {broken}");
}
