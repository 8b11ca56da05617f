use super::*;
use crate::config::Accept;
use crate::identity::SecretKey;
use crate::session::SessionId;
use crate::signal::message::{Body, MessageId};

const T: Instant = Instant::ZERO;
const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const KINDS: [Kind; 3] = [Kind::Dial, Kind::Punch, Kind::Relay];

/// An id without a key behind it, and a session of the same number.
fn id(n: u32) -> NodeId {
    let mut bytes = [9; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    NodeId::from_bytes(bytes).unwrap()
}

fn session(n: u32) -> SessionId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    SessionId(bytes)
}

fn admission(accept: Accept) -> Admission {
    let mut config = Config::new(SecretKey::from_bytes([1; 32]));
    config.accept = accept;
    Admission::new(&config, (8192, 10 * MS))
}

/// Requests, and the places that they have.
struct Bench {
    admission: Admission,
    now: Instant,
    places: Vec<Place>,
    next: u32,
    random: u64,
}

impl Bench {
    fn new(accept: Accept) -> Bench {
        Bench { admission: admission(accept), now: T, places: Vec::new(), next: 1000, random: 1 }
    }

    fn ask(&mut self, peer: u32, kind: Kind) -> Result<Option<Place>, Denied> {
        let (peer, trust) = (id(peer), self.admission.trust(id(peer)));
        self.next += 1;
        let session = session(self.next);
        let place = Place { kind, session, peer, trust, since: self.now, answered: false };
        let places = self.places.clone();
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = self.random >> 33;
        let draw = |below| random % below;
        let gone = self.admission.admit(self.now, place, Terms::ENCRYPTED, places.into_iter(), draw)?;
        self.places.retain(|p| Some(*p) != gone);
        self.places.push(place);
        Ok(gone)
    }

    /// Asks with a key that nobody has used before.
    fn flood(&mut self, kind: Kind) -> Result<Option<Place>, Denied> {
        let peer = self.next + 1;
        self.ask(peer, kind)
    }
}

#[test]
fn a_peer_is_named_by_the_list_by_a_yes_and_by_calls_that_run() {
    let mut a = admission(Accept::Only([id(1)].into()));
    assert_eq!([1, 2].map(|n| a.trust(id(n))), [Trust::Known, Trust::Stranger]);
    assert_eq!(a.trust(SecretKey::from_bytes([1; 32]).node_id()), Trust::Known, "oneself");
    a.approve(id(3));
    assert_eq!(a.trust(id(3)), Trust::Known);
    a.call_began(id(2));
    a.call_began(id(2));
    a.call_ended(id(2));
    assert_eq!(a.trust(id(2)), Trust::Known, "another call runs");
    a.call_ended(id(2));
    assert_eq!(a.trust(id(2)), Trust::Stranger);
    a.call_ended(id(2));
    a.call_began(id(2));
    assert_eq!(a.trust(id(2)), Trust::Known, "an end too many is none of the next call's");
    a.call_ended(id(1));
    assert_eq!(a.trust(id(1)), Trust::Known);
}

#[test]
fn who_may_enter_and_who_is_answered() {
    let (plain, sealed) = (Terms::PLAIN, Terms::ENCRYPTED);
    let mut a = admission(Accept::Only([id(1)].into()));
    assert_eq!(a.enter(id(1), sealed), Ok(Entry::Open));
    assert_eq!(a.enter(id(1), plain), Err(Refusal::PlainNotAllowed));
    a.call_began(id(2));
    assert_eq!(a.enter(id(2), sealed), Err(Refusal::NotAccepted), "a call lets in what answers it");
    assert_eq!([1, 2, 3].map(|n| a.may_talk(id(n))), [true, true, false]);
    a.approve(id(3));
    assert_eq!(a.enter(id(3), sealed), Ok(Entry::Open), "whom our user met by a code is on no list");
    let mut a = admission(Accept::Ask);
    assert_eq!(a.enter(id(2), sealed), Ok(Entry::Ask));
    a.call_began(id(2));
    assert_eq!(a.enter(id(2), sealed), Ok(Entry::Open));
    a.call_ended(id(2));
    assert_eq!(a.enter(id(2), sealed), Ok(Entry::Ask));
    a.approve(id(2));
    assert_eq!(a.enter(id(2), sealed), Ok(Entry::Open));
}

#[test]
fn strangers_of_each_kind_have_a_rate_of_their_own_and_known_peers_another() {
    let mut bench = Bench::new(Accept::Anyone);
    (0..64).for_each(|n| bench.admission.approve(id(n)));
    for kind in KINDS {
        assert_eq!((0..1000).filter(|_| bench.flood(kind).is_ok()).count(), 32, "{kind:?} at once");
        assert_eq!(bench.flood(kind), Err(Denied::Crowded));
        for n in 0..64 {
            let place = bench.ask(n, kind);
            assert_eq!(place, Ok(None), "{kind:?}, known peer {n}");
            bench.places.pop();
        }
    }
    // Of a flood of a hundred a second of each kind 25 are let in.
    bench.now = bench.now + 10 * S;
    let mut admitted = [0; 3];
    for _ in 0..1000 {
        bench.now = bench.now + 10 * MS;
        for kind in KINDS {
            admitted[kind as usize] += u32::from(bench.flood(kind).is_ok());
        }
    }
    assert!(admitted.iter().all(|n| (250..=300).contains(n)), "{admitted:?}");
}

#[test]
fn the_oldest_stranger_without_an_answer_makes_room() {
    let mut bench = Bench::new(Accept::Anyone);
    let mut first = Vec::new();
    for n in 0..128 {
        assert_eq!(bench.flood(Kind::Relay), Ok(None));
        bench.now = bench.now + 50 * MS;
        first.push(bench.places[n]);
    }
    bench.places[0].answered = true;
    assert_eq!(bench.flood(Kind::Relay), Ok(Some(first[1])));
    assert_eq!(bench.flood(Kind::Punch), Ok(None), "another kind has room");
    // If all have answers, the oldest goes.
    bench.places.iter_mut().for_each(|p| p.answered = true);
    bench.now = bench.now + 50 * MS;
    let gone = bench.flood(Kind::Relay);
    assert_eq!(gone, Ok(Some(Place { answered: true, ..first[0] })));
}

#[test]
fn who_is_let_in_has_its_place_for_a_while_whatever_others_do() {
    let mut bench = Bench::new(Accept::Anyone);
    for _ in 0..40 {
        bench.now = bench.now + 50 * MS;
        assert!(bench.flood(Kind::Dial).is_ok());
    }
    bench.now = bench.now + 10 * S;
    // The worst: it comes first, and then the burst that was saved.
    assert!(bench.ask(1, Kind::Dial).is_ok());
    let began = bench.now;
    while bench.places.iter().any(|p| p.peer == id(1)) {
        while bench.flood(Kind::Dial).is_ok() {}
        bench.now = bench.now + MS;
    }
    assert!(bench.now.since(began) >= requests::LEAST, "{:?}", bench.now.since(began));
}

#[test]
fn one_strangers_requests_are_one_at_a_time_and_have_a_rate() {
    let mut bench = Bench::new(Accept::Anyone);
    assert_eq!(bench.ask(1, Kind::Dial), Ok(None));
    for kind in KINDS {
        assert_eq!(bench.ask(1, kind), Err(Denied::Refused(Refusal::Busy)));
    }
    bench.places.clear();
    let of_one = |bench: &mut Bench, kind| {
        let mut admitted = 0;
        while bench.ask(1, kind).is_ok() {
            bench.places.clear();
            admitted += 1;
        }
        admitted
    };
    assert_eq!(KINDS.map(|kind| of_one(&mut bench, kind)), [7, 16, 8]);
    // That takes nothing of the others' rate.
    assert_eq!((0..100).filter(|_| bench.flood(Kind::Dial).is_ok()).count(), 32 - 8);
    bench.now = bench.now + 5 * S;
    bench.places.clear();
    assert_eq!(KINDS.map(|kind| of_one(&mut bench, kind)), [1, 2, 1]);
}

#[test]
fn a_named_peer_may_call_often() {
    let mut bench = Bench::new(Accept::Only([id(1)].into()));
    let asked = |bench: &mut Bench, kind| {
        let ask = |_: &u32| {
            bench.places.clear();
            bench.ask(1, kind).is_ok()
        };
        (0..100).take_while(ask).count()
    };
    // Thirty calls in a row each ask for all.
    assert_eq!(KINDS.map(|kind| asked(&mut bench, kind)), [32; 3]);
    bench.now = bench.now + 5 * S;
    assert_eq!(KINDS.map(|kind| asked(&mut bench, kind)), [10; 3]);
}

#[test]
fn a_known_peer_has_eight_at_a_time_and_all_of_them_64() {
    let mut bench = Bench::new(Accept::Only((0..100).map(id).collect()));
    for n in 0..8 {
        for k in 0..8 {
            assert_eq!(bench.ask(n, Kind::Dial), Ok(None), "{n} {k}");
        }
        assert_eq!(bench.ask(n, Kind::Punch), Err(Denied::Refused(Refusal::Busy)));
    }
    assert_eq!(bench.ask(9, Kind::Dial), Err(Denied::Refused(Refusal::Busy)));
    assert_eq!(bench.ask(9, Kind::Punch), Ok(None));
}

#[test]
fn messages_that_strangers_cause_have_a_rate_for_each_worth_and_leave_known_peers_theirs() {
    for (worth, burst, a_second) in
        [(Worth::Refusal, 32, 10), (Worth::Report, 32, 10), (Worth::Answer, 64, 62)]
    {
        let mut a = admission(Accept::Anyone);
        a.approve(id(1));
        for (second, most) in [burst, a_second].into_iter().enumerate() {
            let now = T + second as u32 * S;
            let strangers = (1000 * (1 + second as u32)..).take(200);
            assert_eq!(strangers.filter(|n| a.may_reply(now, id(*n), worth)).count(), most, "{worth:?}");
            let known = (0..100).filter(|_| a.may_reply(now, id(1), worth)).count();
            assert_eq!(known, [64, 10][second]);
        }
    }
}

#[test]
fn beyond_what_is_opened_of_whomever_named_peers_envelopes_are_known_by_their_marks() {
    use crate::signal::seal::seal;
    let (ours, friend, other) =
        (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]), SecretKey::from_bytes([3; 32]));
    let mut a = admission(Accept::Only((0..100).map(id).chain([friend.node_id()]).collect()));
    let wall = WallTime::from_micros(1_700_000_000_000_000);
    let envelope = |from: &SecretKey, n: u8| {
        let (session, body) = (session(0), Body::Dialling(0));
        let message = Message { id: MessageId([n; 16]), sent: wall, lifetime: 600, session, body };
        seal(from, &ours.node_id(), &message, [n; 32]).unwrap()
    };
    let junk = |n: u32| [n.to_be_bytes().as_slice(), &[9; 120]].concat();
    // A flood on one broker: 200, and then none, whatever comes.
    let opened = (0..250).filter(|n| a.open((T, wall), 0, &ours, &junk(*n))).count();
    assert_eq!(opened, 200);
    assert!(a.open((T, wall), 1, &ours, &junk(0)), "another broker has its own");
    assert!(!a.open((T, wall), 0, &ours, &envelope(&other, 1)));
    for n in 0..64 {
        assert!(a.open((T, wall), 0, &ours, &envelope(&friend, n)), "{n}");
        assert!(!a.open((T, wall), 0, &ours, &envelope(&friend, n)), "{n}: once");
    }
    assert!(!a.open((T, wall), 0, &ours, &envelope(&friend, 64)), "within a rate");
    a.call_began(other.node_id());
    assert!(a.open((T, wall), 0, &ours, &envelope(&other, 1)), "we call it");
    // Work is bounded: a flood finds no more keys tried than are set aside.
    let flood = (0..2000).filter(|n| a.open((T, wall), 0, &ours, &junk(5000 + n))).count();
    assert_eq!(flood, 0);
    assert!(!a.open((T, wall), 0, &ours, &envelope(&other, 2)), "all work is done");
    let later = T + 100 * MS;
    assert!((0..20).all(|_| a.open((later, wall), 0, &ours, &junk(0))), "the rate goes on");
    assert!(a.open((later, wall), 0, &ours, &envelope(&other, 2)));
}

#[test]
fn a_message_counts_once_if_it_was_kept_and_a_known_peers_beside_any_flood() {
    let mut a = admission(Accept::Anyone);
    a.approve(id(1));
    let message = |n: u32| Message {
        id: MessageId(session(n).0),
        sent: WallTime::from_micros(0),
        lifetime: 600,
        session: session(0),
        body: Body::Dialling(0),
    };
    let at = (T, WallTime::from_micros(0));
    // Seventeen keys, 256 messages of each, and then as many again of as many keys.
    let keys = (0..4352).map(|n| 2 + n % 17).chain(100..4452);
    for (n, key) in keys.enumerate() {
        let verdict = a.hear(at, 0, id(key), &message(10 + n as u32), Bearing::Asks);
        assert!(matches!(verdict, Verdict::Fresh(_)), "{verdict:?}");
    }
    let Verdict::Fresh(stamp) = a.hear(at, 0, id(1), &message(1), Bearing::Asks) else { panic!() };
    a.keep(stamp);
    assert_eq!(a.hear(at, 0, id(1), &message(1), Bearing::Asks), Verdict::Repeated);
    // Whom we called has a rate for its answers.
    let heard = (0..200)
        .filter(|n| matches!(a.hear(at, 0, id(1), &message(5000 + n), Bearing::Answers), Verdict::Fresh(_)));
    assert_eq!(heard.count(), 128);
    assert!(matches!(a.hear(at, 0, id(1), &message(6000), Bearing::Asks), Verdict::Fresh(_)));
}

/// A peer that knows our address can repeat what another peer has said to us.
#[test]
fn what_is_said_to_repeated_messages_leaves_a_peers_answers_alone() {
    let mut a = admission(Accept::Anyone);
    a.approve(id(1));
    for (peer, most) in [(id(1), 64), (id(2), 16)] {
        let mut sent = |worth| (0..100).filter(|_| a.may_reply(T, peer, worth)).count();
        assert_eq!([Worth::Refusal, Worth::Answer, Worth::Report].map(&mut sent), [most; 3]);
    }
}
