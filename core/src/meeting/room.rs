//! One meeting as a state machine: messages and times in, messages and news out.

use core::time::Duration;

use bytes::Bytes;

use super::code::Code;
use super::proof::{Half, Keys, Side};
use super::wire::{Message, Proof, Tag};
use super::{MAX_CODES, MeetingError, MeetingNews};
use crate::address::PeerAddress;
use crate::identity::NodeId;
use crate::limit::Bucket;
use crate::pipe::ProtocolTag;
use crate::random::{Domain, Random};
use crate::stats::Stats;
use crate::time::Instant;

/// Time for a first broker to take the subscription.
const BROKER_WITHIN: Duration = Duration::from_secs(10);
/// Time from there to the host's code, in which another host with the number speaks up.
const CLAIM_FOR: Duration = Duration::from_millis(700);
/// Numbers that a host draws in a row because others have them.
const MAX_DRAWS: u8 = 8;
/// Interval at which a message is repeated that was not answered.
const REPEAT: Duration = Duration::from_secs(1);
/// Time for a guest's proof. Without one nothing was guessed, and the next guest has its turn.
const PROOF_WITHIN: Duration = Duration::from_secs(5);
/// Time for the address of a guest that has proven the code, and for the host's word that it has come.
const ADDRESS_WITHIN: Duration = Duration::from_secs(30);
/// Time for which a host that has all repeats that to a guest that asks: each asks once a second.
const LINGER: Duration = Duration::from_secs(3);
/// Answers to whoever publishes under the topic: so many at once, then one each so often.
const ANSWERS: (u32, Duration) = (8, Duration::from_millis(250));

/// Thing that a room wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Follow(Box<str>),
    Unfollow(Box<str>),
    /// Publishes at the broker at this place, or at all.
    Publish(Box<str>, Bytes, Option<u8>),
    Tell(MeetingNews),
}

/// Parts of the node that a room needs.
pub(crate) struct Env<'a> {
    pub(crate) now: Instant,
    pub(crate) random: &'a mut Random,
    pub(crate) stats: &'a mut Stats,
    /// Address of our node, once it is settled.
    pub(crate) address: Option<&'a PeerAddress>,
    pub(crate) acts: Vec<Act>,
}

#[derive(Debug)]
pub(crate) struct Room {
    purpose: ProtocolTag,
    code: Code,
    topic: Box<str>,
    /// Beginning of the wait for a broker.
    began: Instant,
    /// Time of the first broker's SUBACK.
    granted: Option<Instant>,
    /// End of the wait for the other side.
    until: Instant,
    answers: Bucket,
    /// Time of the last message that the other side waits for.
    said: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Host(Hosting, Count),
    Guest(Joining),
    Over,
}

/// Codes that were told, and numbers in a row that were taken.
#[derive(Clone, Copy, Default, Debug)]
struct Count {
    codes: u8,
    draws: u8,
}

#[derive(Debug)]
enum Hosting {
    /// The host asks whether another one has the number.
    Claiming(Tag),
    /// The code was told.
    Waiting,
    /// A guest has been answered.
    Answered { hello: Message, answer: Bytes, exchange: Tag, keys: Keys, until: Instant },
    /// A guest has proven the code. The reply is made once our address is settled.
    Proven { hello: Message, exchange: Tag, keys: Keys, reply: Option<Bytes>, again: Instant, until: Instant },
    /// The guest's address was told to our user, and the guest is to hear that.
    Leaving { exchange: Tag, done: Bytes, until: Instant },
}

#[derive(Debug)]
enum Joining {
    /// A host is asked.
    Asking { half: Half, hello: Message, busy: bool, again: Instant },
    /// A host has answered.
    Proving { exchange: Tag, keys: Keys, proof: Bytes, again: Instant },
    /// The host's address was told to our user, and the host is to get ours.
    Leaving { exchange: Tag, keys: Keys, reply: Option<Bytes>, again: Instant, until: Instant },
}

impl Room {
    /// Begins as the host.
    pub(crate) fn host(env: &mut Env<'_>, purpose: ProtocolTag, within: Duration) -> Self {
        let code = Code::draw(env.random);
        let claim = env.random.bytes(Domain::Meeting);
        let state = State::Host(Hosting::Claiming(claim), Count::default());
        Room::new(env, purpose, within, code, state)
    }

    /// Begins as the guest with a code.
    pub(crate) fn join(env: &mut Env<'_>, code: Code, purpose: ProtocolTag, within: Duration) -> Self {
        let (half, point) = Half::start(Side::Guest, &code, &code.topic(&purpose), env.random);
        let hello = Message::Hello { guest: env.random.bytes(Domain::Meeting), point };
        let again = env.now + REPEAT;
        let state = State::Guest(Joining::Asking { half, hello, busy: false, again });
        Room::new(env, purpose, within, code, state)
    }

    fn new(env: &mut Env<'_>, purpose: ProtocolTag, within: Duration, code: Code, state: State) -> Self {
        let topic = code.topic(&purpose);
        env.acts.push(Act::Follow(topic.clone()));
        let (began, until) = (env.now, env.now + within);
        let answers = Bucket::new(ANSWERS.0, ANSWERS.1);
        Room { purpose, code, topic, began, granted: None, until, answers, said: began, state }
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Handles the word of the broker at this place that it delivers what is published under the topic.
    pub(crate) fn granted(&mut self, env: &mut Env<'_>, place: u8) {
        self.granted.get_or_insert(env.now);
        let again = match &self.state {
            State::Host(Hosting::Claiming(claim), _) => Message::Claim(*claim).encode(),
            State::Guest(Joining::Asking { hello, .. }) => hello.encode(),
            State::Guest(Joining::Proving { proof, .. }) => proof.clone(),
            _ => return,
        };
        env.acts.push(Act::Publish(self.topic.clone(), again, Some(place)));
    }

    /// Ends it without a word.
    fn leave(&mut self, env: &mut Env<'_>) {
        if !self.is_over() {
            env.acts.push(Act::Unfollow(self.topic.clone()));
            self.state = State::Over;
        }
    }

    /// Returns true once the other side was met. What is left is that it hears so.
    fn has_met(&self) -> bool {
        matches!(self.state, State::Guest(Joining::Leaving { .. }) | State::Host(Hosting::Leaving { .. }, _))
    }

    /// Ends it at our user's wish. Whom it has met still hears the rest.
    pub(crate) fn end(&mut self, env: &mut Env<'_>) {
        if !self.has_met() {
            self.leave(env);
        }
    }

    /// Ends it after the other side was met.
    fn done(&mut self, env: &mut Env<'_>, news: MeetingNews) {
        env.acts.push(Act::Tell(news));
        self.leave(env);
    }

    /// Ends it for a reason, if its user was not told an end yet.
    pub(crate) fn fail(&mut self, env: &mut Env<'_>, why: MeetingError) {
        if !(self.is_over() || self.has_met()) {
            env.acts.push(Act::Tell(MeetingNews::Failed(why)));
        }
        self.leave(env);
    }

    /// Handles what anybody published under the topic; our own messages come back, too.
    pub(crate) fn heard(&mut self, env: &mut Env<'_>, payload: &[u8]) {
        let Some(message) = Message::decode(payload) else {
            env.stats.bad_messages += 1;
            return;
        };
        match self.state {
            State::Host(..) => self.heard_by_host(env, message),
            State::Guest(_) => self.heard_by_guest(env, message),
            State::Over => {}
        }
        self.drive(env);
    }

    fn heard_by_host(&mut self, env: &mut Env<'_>, message: Message) {
        let State::Host(hosting, _) = &mut self.state else { return };
        // What was said before is repeated for whoever asks again, and what is new has a rate.
        let (reply, again) = match (&mut *hosting, message) {
            (Hosting::Claiming(ours), Message::Claim(theirs)) if theirs < *ours => {
                return self.draw_again(env, MeetingError::Taken);
            }
            (Hosting::Claiming(ours), Message::Claim(theirs)) if theirs == *ours => return,
            (_, Message::Claim(theirs)) => (Message::Taken(theirs).encode(), false),
            (Hosting::Claiming(ours), Message::Taken(claim)) if claim == *ours => {
                return self.draw_again(env, MeetingError::Taken);
            }
            (Hosting::Waiting, hello @ Message::Hello { .. }) => return self.answer(env, hello),
            (Hosting::Answered { hello, answer, .. }, message) if message == *hello => (answer.clone(), true),
            (Hosting::Proven { hello, reply: Some(reply), .. }, message) if message == *hello => {
                (reply.clone(), true)
            }
            (Hosting::Proven { hello, .. }, message) if message == *hello => return,
            (Hosting::Answered { .. } | Hosting::Proven { .. }, Message::Hello { guest, .. }) => {
                (Message::Busy(guest).encode(), false)
            }
            (Hosting::Answered { exchange: ours, .. }, Message::Proof { exchange, proof })
                if exchange == *ours =>
            {
                return self.prove(env, &proof);
            }
            (Hosting::Proven { exchange: ours, reply: Some(reply), .. }, Message::Proof { exchange, .. })
                if exchange == *ours =>
            {
                (reply.clone(), true)
            }
            (Hosting::Proven { exchange: ours, keys, .. }, Message::Guest { exchange, sealed })
                if exchange == *ours =>
            {
                let Some(address) = opened(keys, Side::Guest, &sealed) else {
                    env.stats.bad_messages += 1;
                    return;
                };
                env.acts.push(Act::Tell(MeetingNews::Met(address)));
                let done = Message::Done { exchange, word: keys.done() }.encode();
                let until = env.now + LINGER;
                *hosting = Hosting::Leaving { exchange, done: done.clone(), until };
                return self.say(env, done);
            }
            (Hosting::Leaving { exchange: ours, done, .. }, Message::Guest { exchange, .. })
                if exchange == *ours =>
            {
                (done.clone(), true)
            }
            _ => return,
        };
        if again {
            self.repeat(env, reply);
        } else if self.answers.take(env.now) {
            self.publish(env, reply);
        } else {
            env.stats.messages_over_limit += 1;
        }
    }

    /// Says something once more, unless something was said a moment ago: each broker delivers a copy of what is answered.
    fn repeat(&mut self, env: &mut Env<'_>, message: Bytes) {
        if self.said + REPEAT / 2 <= env.now {
            self.say(env, message);
        }
    }

    /// Says something that the other side waits for.
    fn say(&mut self, env: &mut Env<'_>, message: Bytes) {
        self.said = env.now;
        self.publish(env, message);
    }

    /// Answers a guest: the one exchange at a time.
    fn answer(&mut self, env: &mut Env<'_>, hello: Message) {
        let State::Host(hosting, _) = &mut self.state else { return };
        let Message::Hello { guest, point: theirs } = hello else { return };
        let (half, point) = Half::start(Side::Host, &self.code, &self.topic, env.random);
        let exchange = env.random.bytes(Domain::Meeting);
        let answer = Message::Answer { guest, exchange, point };
        let Some(keys) = half.finish(&theirs, &self.topic, &hello, &answer) else {
            env.stats.bad_messages += 1;
            return;
        };
        let (answer, until) = (answer.encode(), env.now + PROOF_WITHIN);
        *hosting = Hosting::Answered { hello, answer: answer.clone(), exchange, keys, until };
        self.say(env, answer);
    }

    /// Judges the proof of the guest that was answered: the one guess at the code.
    fn prove(&mut self, env: &mut Env<'_>, proof: &Proof) {
        let State::Host(hosting, _) = &mut self.state else { return };
        match core::mem::replace(hosting, Hosting::Waiting) {
            Hosting::Answered { hello, exchange, keys, .. } if keys.is_proof(Side::Guest, proof) => {
                let (again, until) = (env.now, env.now + ADDRESS_WITHIN);
                *hosting = Hosting::Proven { hello, exchange, keys, reply: None, again, until };
            }
            Hosting::Answered { exchange, .. } => {
                self.publish(env, Message::Gone(exchange).encode());
                env.acts.push(Act::Tell(MeetingNews::Guessed));
                self.draw_again(env, MeetingError::Guessed);
            }
            other => *hosting = other,
        }
    }

    /// Begins anew with another code, or ends for this reason where it has been so often enough.
    fn draw_again(&mut self, env: &mut Env<'_>, why: MeetingError) {
        let State::Host(hosting, count) = &mut self.state else { return };
        count.draws = if why == MeetingError::Taken { count.draws + 1 } else { 0 };
        if count.codes >= MAX_CODES || count.draws >= MAX_DRAWS {
            return self.fail(env, why);
        }
        *hosting = Hosting::Claiming(env.random.bytes(Domain::Meeting));
        env.acts.push(Act::Unfollow(self.topic.clone()));
        self.code = Code::draw(env.random);
        self.topic = self.code.topic(&self.purpose);
        (self.began, self.granted) = (env.now, None);
        env.acts.push(Act::Follow(self.topic.clone()));
    }

    fn heard_by_guest(&mut self, env: &mut Env<'_>, message: Message) {
        let State::Guest(joining) = &mut self.state else { return };
        match (joining, message) {
            (
                Joining::Asking { hello: Message::Hello { guest: ours, .. }, .. },
                answer @ Message::Answer { guest, .. },
            ) if guest == *ours => self.answered(env, answer),
            (
                Joining::Asking { hello: Message::Hello { guest: ours, .. }, busy, .. },
                Message::Busy(guest),
            ) if guest == *ours => {
                *busy = true;
            }
            (Joining::Proving { exchange: ours, .. }, Message::Gone(exchange)) if exchange == *ours => {
                self.fail(env, MeetingError::WrongCode);
            }
            (Joining::Proving { exchange: ours, keys, .. }, Message::Host { exchange, proof, sealed })
                if exchange == *ours =>
            {
                let authentic = keys.is_proof(Side::Host, &proof);
                match opened(keys, Side::Host, &sealed).filter(|_| authentic) {
                    Some(address) => self.met(env, address),
                    None => env.stats.bad_messages += 1,
                }
            }
            (
                Joining::Leaving { exchange: ours, keys, reply: Some(_), .. },
                Message::Done { exchange, word },
            ) if exchange == *ours => {
                // Everybody under the topic knows the exchange.
                if keys.is_done(&word) {
                    self.done(env, MeetingNews::Done);
                } else {
                    env.stats.bad_messages += 1;
                }
            }
            _ => {}
        }
    }

    /// Proves the code to the first host that answers.
    fn answered(&mut self, env: &mut Env<'_>, answer: Message) {
        let Message::Answer { exchange, point, .. } = answer else { return };
        let State::Guest(Joining::Asking { half, hello, .. }) =
            core::mem::replace(&mut self.state, State::Over)
        else {
            return;
        };
        let Some(keys) = half.finish(&point, &self.topic, &hello, &answer) else {
            env.acts.push(Act::Tell(MeetingNews::Failed(MeetingError::WrongCode)));
            env.acts.push(Act::Unfollow(self.topic.clone()));
            return;
        };
        let proof = Message::Proof { exchange, proof: keys.proof(Side::Guest) }.encode();
        let again = env.now + REPEAT;
        self.state = State::Guest(Joining::Proving { exchange, keys, proof: proof.clone(), again });
        self.publish(env, proof);
    }

    /// The host has proven the code, too.
    fn met(&mut self, env: &mut Env<'_>, address: Box<PeerAddress>) {
        let state = core::mem::replace(&mut self.state, State::Over);
        if let State::Guest(Joining::Proving { exchange, keys, .. }) = state {
            env.acts.push(Act::Tell(MeetingNews::Met(address)));
            let (again, until) = (env.now, env.now + ADDRESS_WITHIN);
            self.state = State::Guest(Joining::Leaving { exchange, keys, reply: None, again, until });
        }
    }

    /// Does what the time or our address lets it do.
    pub(crate) fn drive(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        let heard = matches!(
            self.state,
            State::Host(Hosting::Answered { .. } | Hosting::Proven { .. } | Hosting::Leaving { .. }, _)
                | State::Guest(Joining::Leaving { .. })
        );
        if !heard && self.until <= now {
            return match self.state {
                State::Guest(Joining::Asking { busy: true, .. }) => self.fail(env, MeetingError::Busy),
                State::Guest(Joining::Proving { .. }) => self.fail(env, MeetingError::WrongCode),
                _ => self.fail(env, MeetingError::Nobody),
            };
        }
        if self.granted.is_none() && self.began + BROKER_WITHIN <= now && !self.is_over() {
            return self.fail(env, MeetingError::NoBroker);
        }
        let claimed = self.granted.is_some_and(|since| since + CLAIM_FOR <= now);
        let again = match &mut self.state {
            State::Host(hosting @ Hosting::Claiming(_), count) if claimed => {
                *hosting = Hosting::Waiting;
                *count = Count { codes: count.codes + 1, draws: 0 };
                env.acts.push(Act::Tell(MeetingNews::Code(self.code)));
                None
            }
            State::Host(hosting @ Hosting::Answered { .. }, _) => {
                if let Hosting::Answered { until, .. } = hosting
                    && *until <= now
                {
                    *hosting = Hosting::Waiting;
                }
                None
            }
            State::Host(Hosting::Proven { until, .. }, _) if *until <= now => {
                return self.fail(env, MeetingError::Silent);
            }
            State::Host(Hosting::Proven { exchange, keys, reply, again, .. }, _) => {
                if let (None, Some(address)) = (&reply, env.address) {
                    let (exchange, proof) = (*exchange, keys.proof(Side::Host));
                    let sealed = keys.seal(Side::Host, &address.to_string());
                    *reply = Some(Message::Host { exchange, proof, sealed }.encode());
                }
                reply.clone().filter(|_| is_due(again, now))
            }
            State::Guest(Joining::Asking { hello, again, .. }) => is_due(again, now).then(|| hello.encode()),
            State::Guest(Joining::Proving { proof, again, .. }) => is_due(again, now).then(|| proof.clone()),
            State::Host(Hosting::Leaving { until, .. }, _) if *until <= now => {
                return self.done(env, MeetingNews::Done);
            }
            State::Guest(Joining::Leaving { until, .. }) if *until <= now => {
                return self.done(env, MeetingNews::Unconfirmed);
            }
            State::Guest(Joining::Leaving { exchange, keys, reply, again, .. }) => {
                if let (None, Some(address)) = (&reply, env.address) {
                    let sealed = keys.seal(Side::Guest, &address.to_string());
                    *reply = Some(Message::Guest { exchange: *exchange, sealed }.encode());
                }
                reply.clone().filter(|_| is_due(again, now))
            }
            _ => None,
        };
        if let Some(message) = again {
            self.say(env, message);
        }
    }

    /// Returns the time of the next [`drive`](Self::drive).
    pub(crate) fn next(&self) -> Option<Instant> {
        let granting = (self.granted.is_none()).then_some(self.began + BROKER_WITHIN);
        let own = match &self.state {
            State::Host(Hosting::Claiming(_), _) => {
                self.granted.map_or(self.until, |since| (since + CLAIM_FOR).min(self.until))
            }
            State::Host(Hosting::Waiting, _) => self.until,
            State::Host(Hosting::Answered { until, .. }, _) => *until,
            State::Host(Hosting::Proven { reply: None, until, .. }, _) => *until,
            State::Host(Hosting::Proven { again, until, .. }, _) => *again.min(until),
            State::Host(Hosting::Leaving { until, .. }, _) => *until,
            State::Guest(Joining::Asking { again, .. } | Joining::Proving { again, .. }) => {
                *again.min(&self.until)
            }
            State::Guest(Joining::Leaving { reply: None, until, .. }) => *until,
            State::Guest(Joining::Leaving { again, until, .. }) => *again.min(until),
            State::Over => return None,
        };
        granting.into_iter().chain([own]).min()
    }

    fn publish(&self, env: &mut Env<'_>, message: Bytes) {
        env.acts.push(Act::Publish(self.topic.clone(), message, None));
    }
}

/// Returns true if a repetition is due, and puts the next one off.
fn is_due(again: &mut Instant, now: Instant) -> bool {
    let due = *again <= now;
    if due {
        *again = now + REPEAT;
    }
    due
}

/// Returns the address that a side has sealed, of a node that could prove it.
fn opened(keys: &Keys, by: Side, sealed: &[u8]) -> Option<Box<PeerAddress>> {
    let address: PeerAddress = keys.open(by, sealed)?.parse().ok()?;
    NodeId::try_from(address.node()).ok().map(|_| Box::new(address))
}

#[cfg(test)]
mod tests;
