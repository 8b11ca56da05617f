//! Messages of strangers, well formed, for floods in tests: hellos up to any step, and sealed messages. Beside them the
//! codecs that tests write servers and clients with.
//!
//! Only tests have a use for this module, and nothing in it can be done to a node that an attacker could not do.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::address::PeerAddress;
use crate::call::Refusal;
use crate::failure::IoFailure;
use crate::hello::{Control, Heard, Hello, Offer, Purpose, Status};
use crate::identity::{NodeId, SecretKey};
use crate::nat::Behaviour;
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::signal::mappings::Mappings;
use crate::signal::message::{Body, Message, MessageId};
use crate::signal::seal;
use crate::time::WallTime;

pub use crate::wire::fingerprint::append_fingerprint;
pub use crate::wire::guard::stun as guard_stun;
#[cfg(feature = "relay")]
pub use crate::wire::integrity::{IntegrityKey, userhash};
pub use crate::wire::mqtt;
#[cfg(feature = "relay")]
pub use crate::wire::turn::{Answer, answer as turn_answer};

/// Content of a sealed message.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: only tests use it.
pub enum Matter {
    /// DIRECT: dial me here.
    Direct(PeerAddress),
    /// INITIAL_MAPPINGS: punch with me; I come from this one of my addresses, from these ports.
    Punch(PeerAddress, IpAddr, Vec<u16>),
    /// TURN_REQUEST: come to this relayed address.
    Relay(PeerAddress, SocketAddr),
    /// ECHO: answer with the same.
    Echo(Vec<u8>),
    /// CLOCK about a message with this id.
    Clock([u8; 16], WallTime),
    /// DIALLED: these addresses, without success.
    Dialled(Vec<SocketAddr>),
    /// REFUSED: as busy.
    Refused,
}

/// A message before it is sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: only tests use it.
pub struct Letter {
    /// Id of the message.
    pub id: [u8; 16],
    /// The session that it belongs to.
    pub session: [u8; 16],
    /// Time of sending, as the message says.
    pub sent: WallTime,
    /// Content of the message.
    pub matter: Matter,
}

impl Letter {
    /// Returns the payload to publish on the topic of `to`; empty if `to` is no key that anything can be sealed for.
    pub fn seal(self, from: &SecretKey, to: &NodeId, entropy: [u8; 32]) -> Bytes {
        let terms = Terms::ENCRYPTED;
        let body = match self.matter {
            Matter::Direct(address) => Body::Direct { terms, address: Box::new(address) },
            Matter::Punch(address, external, ports) => Body::Initial(Box::new(Mappings {
                terms,
                rung: 0,
                behaviour: Behaviour::default(),
                signal_delay: core::time::Duration::ZERO,
                external,
                ports: SmallVec::from_vec(ports),
                address: Box::new(address),
            })),
            Matter::Relay(address, relayed) => {
                Body::TurnRequest { terms, relayed, address: Box::new(address) }
            }
            Matter::Echo(payload) => Body::Echo(SmallVec::from_vec(payload)),
            Matter::Clock(about, wall) => Body::Clock { about: MessageId(about), wall },
            Matter::Dialled(dials) => {
                let dials: SmallVec<[_; _]> = dials.into_iter().map(|to| (to, IoFailure::TimedOut)).collect();
                Body::Dialled { count: dials.len() as u8, dials }
            }
            Matter::Refused => Body::Refused(Refusal::Busy),
        };
        let session = SessionId(self.session);
        let message = Message { id: MessageId(self.id), sent: self.sent, lifetime: 600, session, body };
        seal::seal(from, to, &message, entropy).unwrap_or_default().into()
    }
}

/// The dialling end of a hello that goes as far as the other end lets it: up to a pipe.
#[derive(Debug)]
pub struct Caller {
    ours: SecretKey,
    session: SessionId,
    /// True if the caller nominates.
    nominates: bool,
    hello: Hello,
}

impl Caller {
    /// Returns a caller who wants a pipe in a session of this id, and its first frame. `None` if `to` is no key to say
    /// hello to.
    pub fn new(
        ours: &SecretKey,
        to: &NodeId,
        session: [u8; 16],
        entropy: [u8; 32],
    ) -> Option<(Caller, Bytes)> {
        let session = SessionId(session);
        let offer = Offer { session, purpose: Purpose::Open, terms: Terms::ENCRYPTED };
        let (hello, first) = Hello::initiate(ours, to, offer, false, entropy).ok()?;
        let nominates = ours.node_id() < *to;
        Some((Caller { ours: ours.clone(), session, nominates, hello }, first))
    }

    /// Takes in the other end's bytes. Returns the answers to them.
    pub fn receive(&mut self, mut data: &[u8]) -> Vec<Bytes> {
        let mut answers = Vec::new();
        while !data.is_empty() {
            let Ok((taken, heard)) = self.hello.receive(&self.ours, data, || [0; 32]) else { break };
            data = data.get(taken..).unwrap_or_default();
            let answer = match heard {
                Some(Heard::Second(Status::Ready { .. }) | Heard::Control(Control::Approved))
                    if self.nominates =>
                {
                    Control::Nominate(SmallVec::from_slice(&[self.session]))
                }
                Some(Heard::Control(Control::Nominate(_))) => Control::Confirm(None),
                _ if taken == 0 => break,
                _ => continue,
            };
            answers.extend(self.hello.control(&answer).ok());
        }
        answers
    }
}
