//! Jobs at a device: calls one after another, and the meaning of the answers.

use std::net::{IpAddr, SocketAddr};

use super::description::Kind;
use super::http::{self, HttpError};
use super::soap::{Call, SoapError, Values};
use crate::portmap::{Ask, Listed, MapError, MapId, Out, Protocol, Reply, Way};
use crate::text::is_plain;

/// A task at a device.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    Map { ask: Ask, phase: Phase, external: u16, lease: u32, tries: u8 },
    Renew { ask: Ask, made: Made },
    Remove { id: MapId, made: Made },
    List { index: u16 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Looks up the port's owner first: some devices give a port to the last one that asks.
    Look,
    Add {
        any: bool,
    },
}

/// A mapping or pinhole that exists at a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) device: Option<u32>,
    pub(super) protocol: Protocol,
    pub(super) external: u16,
    pub(super) lease: u32,
    pub(super) pinhole: Option<u16>,
}

impl Job {
    pub(super) fn id(&self) -> Option<MapId> {
        match self {
            Job::Map { ask, .. } | Job::Renew { ask, .. } => Some(ask.id),
            Job::Remove { id, .. } => Some(*id),
            Job::List { .. } => None,
        }
    }

    /// Returns the call for a service of this kind; `None` if the service has no such call.
    pub(super) fn call(&self, kind: Kind, client: IpAddr) -> Option<Call> {
        let firewall = kind == Kind::Firewall;
        Some(match *self {
            Job::Map { ask, lease, .. } if firewall => Call::AddPinhole {
                protocol: ask.protocol,
                client,
                internal: ask.internal,
                lease: lease.max(1),
            },
            Job::Map { ask, phase: Phase::Look, external, .. } => {
                Call::Specific { protocol: ask.protocol, external }
            }
            Job::Map { ask, phase: Phase::Add { any }, external, lease, .. } => {
                let Ask { protocol, internal, .. } = ask;
                Call::Add { any, protocol, external, client, internal, lease }
            }
            Job::Renew { made: Made { pinhole: Some(id), lease, .. }, .. } if firewall => {
                Call::UpdatePinhole { id, lease }
            }
            Job::Renew { ask, made } if !firewall => {
                let Made { protocol, external, lease, .. } = made;
                Call::Add { any: false, protocol, external, client, internal: ask.internal, lease }
            }
            Job::Remove { made: Made { pinhole: Some(id), .. }, .. } if firewall => {
                Call::DeletePinhole { id }
            }
            Job::Remove { made, .. } if !firewall => {
                Call::Delete { protocol: made.protocol, external: made.external }
            }
            Job::List { index } if !firewall => Call::Generic { index },
            Job::Renew { .. } | Job::Remove { .. } | Job::List { .. } => return None,
        })
    }

    pub(super) fn fail(self, out: &mut Out, why: MapError) {
        out.reply(match self {
            Job::Map { ask, .. } | Job::Renew { ask, .. } => refused(ask.id, why),
            Job::Remove { id, .. } => removed(id, false),
            Job::List { .. } => Reply::ListEnd(Err(why)),
        });
    }
}

/// Reason that a call has no values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    NoAnswer,
    BadAnswer,
    Fault(u16),
}

impl From<Why> for MapError {
    /// The numbers of WANIPConnection:2 section 2.5 and WANIPv6FirewallControl:1 section 2.6.
    fn from(why: Why) -> MapError {
        match why {
            Why::NoAnswer => MapError::NoAnswer,
            Why::BadAnswer => MapError::BadAnswer,
            Why::Fault(606) => MapError::NotAuthorized,
            Why::Fault(718 | 729) => MapError::Conflict,
            Why::Fault(727) => MapError::OnlyWholeAddress,
            Why::Fault(701 | 728) => MapError::NoResources,
            Why::Fault(401 | 602) => MapError::NotSupported,
            Why::Fault(code) => MapError::Other(code),
        }
    }
}

pub(super) fn values(call: Call, answer: &Result<http::Answer, HttpError>) -> Result<Values, Why> {
    match answer {
        Ok(answer) => call.answer(answer).map_err(|why| match why {
            SoapError::Fault(code) => Why::Fault(code),
            SoapError::Malformed => Why::BadAnswer,
        }),
        Err(HttpError::CutOff) => Err(Why::NoAnswer),
        Err(HttpError::Malformed | HttpError::TooLong) => Err(Why::BadAnswer),
    }
}

pub(super) fn is_ours(values: &Values, client: IpAddr, internal: u16) -> bool {
    let is = |name: &str, text: String| values.get(name).is_some_and(|v| *v == text);
    is("NewInternalClient", client.to_string()) && is("NewInternalPort", internal.to_string())
}

/// An entry of a table; `None` for one that cannot be read.
pub(super) fn listed(values: &Values) -> Option<Listed> {
    let value = |name: &str| values.get(name).map(String::as_str);
    let port = |name: &str| value(name)?.parse::<u16>().ok();
    let protocol = match value("NewProtocol")? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    // It goes to terminals.
    let description = value("NewPortMappingDescription").unwrap_or_default();
    let description = description.chars().filter(|c| is_plain(*c)).take(64).collect::<String>();
    Some(Listed {
        protocol,
        external: port("NewExternalPort")?,
        internal: SocketAddr::new(value("NewInternalClient")?.parse().ok()?, port("NewInternalPort")?),
        lease: value("NewLeaseDuration").and_then(|v| v.parse().ok()).unwrap_or(0),
        description: description.into(),
    })
}

pub(super) fn refused(id: MapId, why: MapError) -> Reply {
    Reply::Refused { id, way: Way::Upnp, why }
}

pub(super) fn removed(id: MapId, confirmed: bool) -> Reply {
    Reply::Removed { id, way: Way::Upnp, confirmed }
}
