//! Rooms around one broker, which does what brokers and strangers may do.

use std::collections::{BTreeSet, VecDeque};

use super::*;
use crate::identity::SecretKey;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// From a room to the broker and on to every room.
const DELAY: Duration = Duration::from_millis(20);
const WITHIN: Duration = Duration::from_secs(60);

/// Messages that a broker delivers of one that it takes.
type Broker = Box<dyn FnMut(&Message) -> Vec<Bytes>>;

struct Member {
    room: Room,
    random: Random,
    address: Option<PeerAddress>,
    follows: BTreeSet<Box<str>>,
    news: Vec<(Duration, MeetingNews)>,
}

struct World {
    now: Instant,
    members: Vec<Member>,
    /// Messages under way, and their receiver if not all.
    flying: VecDeque<(Instant, Option<usize>, Box<str>, Bytes)>,
    broker: Broker,
    /// Messages that rooms have published: room and message.
    said: Vec<(usize, Message)>,
    stats: Stats,
}

fn purpose() -> ProtocolTag {
    ProtocolTag::new(b"test").unwrap()
}

fn code(text: &str) -> Code {
    text.parse().unwrap()
}

fn address(n: u8) -> PeerAddress {
    let id = SecretKey::from_bytes([n; 32]).node_id();
    format!("0-[0,203.0.113.{n},192.168.1.5,40404,5,6,0]-0-{id}").parse().unwrap()
}

impl World {
    fn new() -> Self {
        World {
            now: Instant::ZERO,
            members: Vec::new(),
            flying: VecDeque::new(),
            broker: Box::new(|message| vec![message.encode()]),
            said: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// Adds a room; its broker grants every subscription after `DELAY`.
    fn add(&mut self, make: impl FnOnce(&mut Env<'_>) -> Room) -> usize {
        let n = self.members.len();
        let mut random = Random::new([n as u8 + 1; 32]);
        let mut env =
            Env { now: self.now, random: &mut random, stats: &mut self.stats, address: None, acts: vec![] };
        let room = make(&mut env);
        let acts = env.acts;
        let (address, follows) = (Some(address(n as u8 + 1)), BTreeSet::new());
        self.members.push(Member { room, random, address, follows, news: vec![] });
        self.carry_out(n, acts);
        n
    }

    fn host(&mut self, text: &str) -> usize {
        let code = code(text);
        self.add(|env| {
            let claim = env.random.bytes(Domain::Meeting);
            Room::new(env, purpose(), WITHIN, code, State::Host(Hosting::Claiming(claim), Count::default()))
        })
    }

    fn guest(&mut self, text: &str) -> usize {
        let code = code(text);
        self.add(|env| Room::join(env, code, purpose(), WITHIN))
    }

    fn step(&mut self, n: usize, act: impl FnOnce(&mut Room, &mut Env<'_>)) {
        let member = &mut self.members[n];
        let mut env = Env {
            now: self.now,
            random: &mut member.random,
            stats: &mut self.stats,
            address: member.address.as_ref(),
            acts: vec![],
        };
        act(&mut member.room, &mut env);
        let acts = env.acts;
        self.carry_out(n, acts);
    }

    fn carry_out(&mut self, n: usize, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Follow(topic) => {
                    self.members[n].follows.insert(topic.clone());
                    self.flying.push_back((self.now + DELAY, Some(n), topic, Bytes::new()));
                }
                Act::Unfollow(topic) => assert!(self.members[n].follows.remove(&topic)),
                Act::Tell(news) => {
                    let at = self.now.since(Instant::ZERO);
                    self.members[n].news.push((at, news));
                }
                Act::Publish(topic, payload, _) => {
                    let message = Message::decode(&payload).unwrap();
                    let delivered = (self.broker)(&message);
                    self.said.push((n, message));
                    for payload in delivered {
                        self.publish(&topic, payload);
                    }
                }
            }
        }
    }

    /// Publishes as anybody may.
    fn publish(&mut self, topic: &str, payload: Bytes) {
        self.flying.push_back((self.now + DELAY, None, topic.into(), payload));
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.members.iter().filter_map(|member| member.room.next()).min();
            let arrival = self.flying.front().map(|(at, ..)| *at);
            let Some(next) = due.into_iter().chain(arrival).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, to, topic, payload) = self.flying.pop_front().unwrap();
                for n in 0..self.members.len() {
                    if !self.members[n].follows.contains(&topic) || to.is_some_and(|to| to != n) {
                        continue;
                    }
                    if payload.is_empty() {
                        self.step(n, |room, env| {
                            if *room.topic == *topic {
                                room.granted(env, 0)
                            }
                        });
                    } else {
                        self.step(n, |room, env| room.heard(env, &payload));
                    }
                }
            }
            for n in 0..self.members.len() {
                if self.members[n].room.next().is_some_and(|at| at <= self.now) {
                    self.step(n, Room::drive);
                }
            }
        }
        self.now = end;
    }

    fn run_until_met(&mut self, n: usize) {
        for _ in 0..1000 {
            if self.members[n].room.has_met() {
                return;
            }
            self.run(10 * MS);
        }
        panic!("{:?}", self.news(n));
    }

    fn news(&self, n: usize) -> Vec<MeetingNews> {
        self.members[n].news.iter().map(|(_, news)| news.clone()).collect()
    }

    fn topic(&self, n: usize) -> Box<str> {
        self.members[n].room.topic.clone()
    }

    fn last(&self, n: usize) -> Option<MeetingNews> {
        self.news(n).pop()
    }

    fn said_by(&self, n: usize) -> Vec<&Message> {
        self.said.iter().filter(|(by, _)| *by == n).map(|(_, message)| message).collect()
    }
}

fn met(n: u8) -> MeetingNews {
    MeetingNews::Met(Box::new(address(n)))
}

fn failed(why: MeetingError) -> MeetingNews {
    MeetingNews::Failed(why)
}

#[test]
fn two_with_one_code_get_each_others_address_in_three_round_trips() {
    let mut world = World::new();
    let host = world.host("7-guitar-oxygen");
    world.run(S);
    let guest = world.guest("7-guitar-oxygen");
    world.run(S);
    let told = (DELAY + CLAIM_FOR, MeetingNews::Code(code("7-guitar-oxygen")));
    // Followed, HELLO, ANSWER, PROOF, HOST, GUEST.
    assert_eq!(world.members[host].news, [told.clone(), (S + 6 * DELAY, met(2))]);
    world.run(LINGER);
    let done = (S + 6 * DELAY + LINGER, MeetingNews::Done);
    assert_eq!(world.members[host].news, [told, (S + 6 * DELAY, met(2)), done]);
    assert_eq!(world.members[guest].news, [(S + 5 * DELAY, met(1)), (S + 7 * DELAY, MeetingNews::Done)]);
    let kinds: Vec<u8> = world.said.iter().map(|(_, message)| message.encode()[1]).collect();
    assert_eq!(kinds, [0, 2, 3, 5, 6, 7, 9]);
    assert!(world.members.iter().all(|member| member.room.is_over() && member.follows.is_empty()));
    assert_eq!(world.stats, Stats::default());
    // Of who they are nothing went over the broker in clear.
    for (_, message) in &world.said {
        let bytes = message.encode();
        for n in [1, 2] {
            let (text, id) = (address(n).to_string(), SecretKey::from_bytes([n; 32]).node_id());
            assert!(!bytes.windows(8).any(|w| w == &text.as_bytes()[..8]), "{message:?}");
            assert!(!bytes.windows(8).any(|w| w == &id.as_bytes()[..8]), "{message:?}");
        }
    }
}

#[test]
fn an_address_is_sent_once_it_is_settled() {
    let mut world = World::new();
    let (host, guest) = (world.host("7-guitar-oxygen"), world.guest("7-guitar-oxygen"));
    let later = [0, 1].map(|n: usize| world.members[n].address.take());
    world.run(5 * S);
    assert_eq!((world.last(guest), world.said_by(host).len()), (None, 2));
    world.members[host].address = later[0].clone();
    world.step(host, Room::drive);
    world.run(5 * S);
    assert_eq!((world.last(guest), world.news(host).len()), (Some(met(1)), 1));
    world.members[guest].address = later[1].clone();
    world.step(guest, Room::drive);
    world.run(S);
    assert_eq!(world.last(host), Some(met(2)));
}

#[test]
fn a_wrong_guess_burns_the_code_and_the_third_ends_it() {
    let mut world = World::new();
    let host = world.host("7-guitar-oxygen");
    let mut codes = Vec::new();
    for round in 1..=3_u8 {
        world.run(S);
        let Some(MeetingNews::Code(code)) = world.last(host) else { panic!("{:?}", world.news(host)) };
        assert_eq!(world.news(host).len(), 2 * usize::from(round) - 1);
        codes.push(code);
        // The right number with wrong words.
        let [one, other] = code.words;
        let wrong = Code { words: [one, (other + 1) % Code::WORDS], ..code };
        let guesser = world.guest(&wrong.to_string());
        world.run(S);
        assert_eq!(world.news(guesser), [failed(MeetingError::WrongCode)]);
        assert!(world.news(host).contains(&MeetingNews::Guessed));
    }
    assert_eq!(codes.iter().map(Code::to_string).collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(world.last(host), Some(failed(MeetingError::Guessed)));
    assert_eq!(world.news(host).iter().filter(|news| **news == MeetingNews::Guessed).count(), 3);
    // A burned code opens nothing.
    let late = world.guest(&codes[0].to_string());
    world.run(WITHIN);
    assert_eq!(world.news(late), [failed(MeetingError::Nobody)]);
    // Neither was told who is there.
    assert!(
        !world
            .said
            .iter()
            .any(|(_, message)| matches!(message, Message::Host { .. } | Message::Guest { .. }))
    );
}

#[test]
fn whoever_gives_no_proof_has_guessed_nothing_and_makes_room() {
    let mut world = World::new();
    let host = world.host("7-guitar-oxygen");
    world.run(S);
    let silent = world.guest("7-guitar-oyster");
    world.run(3 * DELAY);
    // It has the host's message by now, and goes before its proof arrives.
    world.flying.clear();
    world.step(silent, Room::leave);
    assert_eq!(world.said_by(host).len(), 2);
    let guest = world.guest("7-guitar-oxygen");
    world.run(4 * S);
    assert_eq!(world.news(guest), [], "busy");
    world.run(2 * S);
    assert_eq!(world.news(guest), [met(1), MeetingNews::Done]);
    world.run(LINGER);
    assert_eq!(world.news(host), [MeetingNews::Code(code("7-guitar-oxygen")), met(3), MeetingNews::Done]);
}

#[test]
fn a_second_guest_is_busy_and_gets_nothing() {
    let mut world = World::new();
    let host = world.host("7-guitar-oxygen");
    let first = world.guest("7-guitar-oxygen");
    // It does not send its address, so that the host stays.
    world.members[first].address = None;
    world.run(2 * S);
    let second = world.guest("7-guitar-oxygen");
    world.run(2 * S);
    assert!(world.said_by(host).iter().any(|message| matches!(message, Message::Busy(_))));
    world.run(WITHIN);
    assert_eq!(world.news(first), [met(1), MeetingNews::Unconfirmed]);
    assert_eq!(world.last(host), Some(failed(MeetingError::Silent)));
    assert_eq!(world.news(second), [failed(MeetingError::Busy)]);
    // One that comes when the code was used.
    let mut world = World::new();
    let (host, first) = (world.host("7-guitar-oxygen"), world.guest("7-guitar-oxygen"));
    world.run(3 * S);
    assert_eq!((world.last(host), world.news(first)[0].clone()), (Some(met(2)), met(1)));
    world.run(LINGER);
    assert_eq!(world.last(host), Some(MeetingNews::Done));
    let second = world.guest("7-guitar-oxygen");
    world.run(WITHIN);
    assert_eq!(world.news(second), [failed(MeetingError::Nobody)]);
}

#[test]
fn a_broker_that_repeats_everything_changes_nothing() {
    let mut world = World::new();
    let mut old: Vec<Bytes> = Vec::new();
    world.broker = Box::new(move |message| {
        old.push(message.encode());
        // The newest first, then all that ever was.
        core::iter::once(message.encode()).chain(old.clone()).collect()
    });
    let (host, guest) = (world.host("7-guitar-oxygen"), world.guest("7-guitar-oxygen"));
    world.run(3 * S + LINGER);
    assert_eq!(world.news(host), [MeetingNews::Code(code("7-guitar-oxygen")), met(2), MeetingNews::Done]);
    assert_eq!(world.news(guest), [met(1), MeetingNews::Done]);
}

#[test]
fn what_was_said_in_another_meeting_proves_nothing() {
    let mut first = World::new();
    first.host("7-guitar-oxygen");
    first.run(S);
    first.guest("7-guitar-oxygen");
    first.run(3 * S);
    // The broker has all of it, and the same code is drawn again.
    let mut world = World::new();
    world.host("1-guitar-oxygen");
    let host = world.host("7-guitar-oxygen");
    world.run(S);
    for (by, message) in &first.said {
        if *by == 1 {
            let topic = world.topic(host);
            world.publish(&topic, message.encode());
        }
    }
    world.run(S);
    // It was answered once, to the HELLO; the proof was of another exchange.
    assert_eq!(world.said_by(host).len(), 2);
    assert_eq!(world.news(host), [MeetingNews::Code(code("7-guitar-oxygen"))]);
    // Towards a guest.
    let guest = world.guest("1-guitar-oyster");
    for (by, message) in &first.said {
        if *by == 0 {
            let topic = world.topic(guest);
            world.publish(&topic, message.encode());
        }
    }
    world.run(DELAY);
    assert_eq!((world.news(guest), world.said_by(guest).len()), (vec![], 1));
}

/// Alters one byte of each message of one kind, at each place in turn.
#[test]
fn an_altered_message_ends_a_meeting_or_is_none_and_never_another_one() {
    for (kind, length, burns) in
        [(2, 51, true), (3, 67, true), (5, 50, true), (6, 100, false), (7, 60, false)]
    {
        for at in 2..length {
            let mut world = World::new();
            let mut times = 0;
            world.broker = Box::new(move |message| {
                let mut bytes = message.encode().to_vec();
                if bytes[1] == kind {
                    times += 1;
                    bytes[at] ^= 1;
                }
                assert!(times < 200);
                vec![bytes.into()]
            });
            let (host, guest) = (world.host("7-guitar-oxygen"), world.guest("7-guitar-oxygen"));
            world.run(2 * S);
            let (of_host, of_guest) = (world.news(host), world.news(guest));
            // Neither takes a wrong address for right. The host was proven to be itself if only GUEST was altered.
            let expected = if kind == 7 { vec![met(1)] } else { vec![] };
            let honest: Vec<_> =
                of_guest.iter().filter(|news| matches!(news, MeetingNews::Met(_))).cloned().collect();
            assert_eq!(honest, expected, "{kind} at {at}: {of_guest:?}");
            assert!(!of_host.iter().any(|news| matches!(news, MeetingNews::Met(_))), "{kind} at {at}");
            if !burns {
                assert!(!of_host.contains(&MeetingNews::Guessed), "{kind} at {at}");
            }
        }
    }
}

/// A broker in the middle that guesses: towards the guest it is a host, towards the host a guest.
/// Everybody under the topic has heard the exchange.
#[test]
fn a_word_of_the_end_that_is_not_the_hosts_is_none() {
    let mut world = World::new();
    world.broker = Box::new(|message| match message {
        Message::Guest { .. } => Vec::new(),
        other => vec![other.encode()],
    });
    let host = world.host("7-guitar-oxygen");
    let guest = world.guest("7-guitar-oxygen");
    world.run(5 * S);
    assert_eq!(world.news(guest), [met(1)]);
    let exchange = world.said_by(guest).into_iter().find_map(|message| match message {
        Message::Guest { exchange, .. } => Some(*exchange),
        _ => None,
    });
    let (exchange, topic) = (exchange.unwrap(), world.topic(guest));
    let bad = world.stats.bad_messages;
    world.publish(&topic, Message::Done { exchange, word: [9; 32] }.encode());
    world.run(S);
    assert_eq!((world.news(guest), world.stats.bad_messages - bad), (vec![met(1)], 1));
    // The host's own counts.
    world.broker = Box::new(|message| vec![message.encode()]);
    world.run(5 * S);
    assert_eq!(world.news(guest), [met(1), MeetingNews::Done]);
    assert_eq!(world.last(host), Some(MeetingNews::Done));
}

#[test]
fn a_broker_between_has_one_guess_at_each_side() {
    for (guess, right) in [("7-guitar-oyster", false), ("7-guitar-oxygen", true)] {
        let mut world = World::new();
        let (guess, topic) = (code(guess), code(guess).topic(&purpose()));
        let mut random = Random::new([99; 32]);
        let mut keys: Option<Keys> = None;
        let (to_host, of_broker) = Half::start(Side::Guest, &guess, &topic, &mut random);
        let mut to_host = Some((to_host, of_broker));
        world.broker = Box::new(move |message| match message {
            // The guest's HELLO is answered here, and a HELLO of its own goes to the host.
            Message::Hello { guest, point } if *guest != [7; 16] => {
                let (half, ours) = Half::start(Side::Host, &guess, &topic, &mut random);
                let answer = Message::Answer { guest: *guest, exchange: [8; 16], point: ours };
                keys = half.finish(point, &topic, message, &answer);
                let hello = Message::Hello { guest: [7; 16], point: of_broker };
                vec![answer.encode(), hello.encode()]
            }
            Message::Answer { guest, exchange, point } if *guest == [7; 16] => {
                let Some((half, ours)) = to_host.take() else { return vec![] };
                let hello = Message::Hello { guest: [7; 16], point: ours };
                let keys = half.finish(point, &topic, &hello, message).unwrap();
                vec![Message::Proof { exchange: *exchange, proof: keys.proof(Side::Guest) }.encode()]
            }
            // The guest's proof shows whether the guess was right, and nothing about another guess.
            Message::Proof { exchange: [8, ..], proof } => {
                assert_eq!(keys.as_ref().unwrap().is_proof(Side::Guest, proof), right);
                vec![]
            }
            Message::Host { .. } => {
                assert!(right);
                vec![]
            }
            other => vec![other.encode()],
        });
        let host = world.host("7-guitar-oxygen");
        world.run(S);
        let guest = world.guest("7-guitar-oxygen");
        world.run(3 * S);
        assert_eq!(world.news(host).contains(&MeetingNews::Guessed), !right);
        assert_eq!(world.news(guest), []);
        world.run(WITHIN);
        assert_eq!(world.news(guest), [failed(MeetingError::WrongCode)]);
        let host_spoke = world.said_by(host).iter().any(|message| matches!(message, Message::Host { .. }));
        assert_eq!(host_spoke, right);
    }
}

#[test]
fn a_flood_is_answered_by_a_few_messages_and_denies_no_longer_than_it_lasts() {
    let mut world = World::new();
    let host = world.host("7-guitar-oxygen");
    world.run(S);
    let topic = world.topic(host);
    let mut random = Random::new([5; 32]);
    for n in 0..2_000_u32 {
        let (_, point) = Half::start(Side::Guest, &code("7-guitar-oyster"), &topic, &mut random);
        let mut guest = [0; 16];
        guest[..4].copy_from_slice(&n.to_be_bytes());
        for message in [Message::Hello { guest, point }, Message::Claim(guest), Message::Gone(guest)] {
            world.publish(&topic, message.encode());
        }
        world.publish(&topic, Bytes::from_static(b"\x01\x63nonsense that is no message"));
        world.run(5 * MS);
    }
    // 10 s: two exchanges and the claim before, the burst, and four a second.
    let (burst, every) = ANSWERS;
    let most = 3 + burst as usize + (10_000 / every.as_millis() as usize) + 1;
    assert!((most - 2..=most).contains(&world.said_by(host).len()), "{}", world.said_by(host).len());
    world.run(DELAY);
    assert_eq!(world.stats.bad_messages, 2_000);
    assert!(world.stats.messages_over_limit > 3_900);
    assert_eq!(world.news(host), [MeetingNews::Code(code("7-guitar-oxygen"))]);
    let guest = world.guest("7-guitar-oxygen");
    world.run(PROOF_WITHIN + 2 * S);
    assert_eq!(world.news(guest), [met(1), MeetingNews::Done]);
}

#[test]
fn of_two_hosts_with_one_number_the_second_draws_another() {
    let mut world = World::new();
    let first = world.host("7-guitar-oxygen");
    world.run(S);
    let second = world.host("7-aardvark-zombie");
    world.run(S);
    assert_eq!(world.news(first), [MeetingNews::Code(code("7-guitar-oxygen"))]);
    let [MeetingNews::Code(other)] = world.news(second)[..] else { panic!("{:?}", world.news(second)) };
    assert_ne!(other.number, 7);
    // At the same time: the one with the lower claim stays.
    let mut world = World::new();
    let hosts = [world.host("7-guitar-oxygen"), world.host("7-aardvark-zombie")];
    let claims = [1, 2].map(|n| Random::new([n; 32]).bytes::<16>(Domain::Meeting));
    world.run(2 * S);
    let stayed = usize::from(claims[1] < claims[0]);
    let numbers = hosts.map(|n| match world.news(n)[..] {
        [MeetingNews::Code(code)] => code.number,
        ref other => panic!("{other:?}"),
    });
    assert_eq!(numbers[stayed], 7);
    assert_ne!(numbers[1 - stayed], 7);
}

#[test]
fn where_every_number_is_taken_the_host_ends() {
    let mut world = World::new();
    world.broker = Box::new(|message| match message {
        Message::Claim(claim) => vec![Message::Taken(*claim).encode()],
        other => vec![other.encode()],
    });
    let host = world.host("7-guitar-oxygen");
    world.run(10 * S);
    assert_eq!(world.news(host), [failed(MeetingError::Taken)]);
    assert_eq!(world.said_by(host).len(), usize::from(MAX_DRAWS));
}

#[test]
fn without_a_broker_or_anybody_it_ends_in_time() {
    let mut world = World::new();
    let (host, guest) = (world.host("7-guitar-oxygen"), world.guest("8-guitar-oxygen"));
    world.flying.clear();
    world.run(WITHIN);
    for n in [host, guest] {
        assert_eq!(world.members[n].news, [(BROKER_WITHIN, failed(MeetingError::NoBroker))]);
    }
    let mut world = World::new();
    let (host, guest) = (world.host("7-guitar-oxygen"), world.guest("8-guitar-oxygen"));
    world.run(2 * WITHIN);
    let [_, nobody] = &world.members[host].news[..] else { panic!() };
    assert_eq!(*nobody, (WITHIN, failed(MeetingError::Nobody)));
    assert_eq!(world.members[guest].news, [(WITHIN, failed(MeetingError::Nobody))]);
    // A HELLO at once and one a second.
    assert_eq!(world.said_by(guest).len(), 60);
}

/// Two rooms whose broker loses so many messages of one kind.
fn lossy(kind: u8, lost: u32) -> (World, [usize; 2]) {
    let mut world = World::new();
    let mut left = lost;
    world.broker = Box::new(move |message| {
        let is_lost = message.encode()[1] == kind && left > 0;
        left -= u32::from(is_lost);
        if is_lost { vec![] } else { vec![message.encode()] }
    });
    let members = [world.host("7-guitar-oxygen"), world.guest("7-guitar-oxygen")];
    (world, members)
}

#[test]
fn lost_messages_of_each_kind_are_said_again_and_both_know_it() {
    // HELLO, ANSWER, PROOF, HOST, GUEST and DONE.
    for kind in [2, 3, 5, 6, 7, 9] {
        for lost in 0..=2 {
            let (mut world, [host, guest]) = lossy(kind, lost);
            world.run(10 * S);
            let code = MeetingNews::Code(code("7-guitar-oxygen"));
            assert_eq!(world.news(host), [code, met(2), MeetingNews::Done], "{lost} of {kind}");
            assert_eq!(world.news(guest), [met(1), MeetingNews::Done], "{lost} of {kind}");
            assert!(world.members.iter().all(|member| member.room.is_over()), "{lost} of {kind}");
        }
    }
}

#[test]
fn a_guest_that_the_host_may_not_know_is_told_so() {
    for (kind, of_host) in [(7, failed(MeetingError::Silent)), (9, MeetingNews::Done)] {
        let (mut world, [host, guest]) = lossy(kind, u32::MAX);
        world.run(WITHIN);
        assert_eq!(world.last(host), Some(of_host), "{kind}");
        let [(since, ref first), (until, ref last)] = world.members[guest].news[..] else { panic!("{kind}") };
        assert_eq!((first, last, until - since), (&met(1), &MeetingNews::Unconfirmed, ADDRESS_WITHIN));
        // Once at once, and once a second.
        let said = world.said_by(guest).iter().filter(|said| matches!(said, Message::Guest { .. })).count();
        assert_eq!(said, 30, "{kind}");
    }
    // Our user may give a host up that was met; its guest still hears that.
    let (mut world, [host, guest]) = lossy(9, 1);
    world.run_until_met(host);
    world.step(host, Room::end);
    world.run(2 * S);
    assert_eq!(world.last(guest), Some(MeetingNews::Done));
}
