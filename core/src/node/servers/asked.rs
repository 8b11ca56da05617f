//! A server that is asked in one way.

use super::{ENDS_SOON, MADE_FOR, MADE_FOR_GOOD};
use crate::config::{TurnAuth, TurnServer};
use crate::cx::Cx;
use crate::proxy::Proxy;
use crate::server::Race;
use crate::time::Instant;
use crate::turn::{Credentials, Family};
use crate::wire::Transport;

/// A server that is asked in one way, at its addresses.
#[derive(Debug)]
pub(super) struct Asked {
    /// Place of the server in the list.
    pub(super) place: u8,
    pub(super) server: TurnServer,
    pub(super) renewal: Renewal,
    pub(super) over: Transport,
    pub(super) family: Family,
    pub(super) race: Race,
    pub(super) begun: Instant,
    pub(super) by_tcp: ByTcp,
    /// The server has no address of the family, and is asked for one of the other then.
    pub(super) other: Option<Instant>,
    /// Another server sent us here.
    pub(super) is_alternate: bool,
    /// Sockets that may still be tried where the server knows our address as another client's.
    pub(super) fresh_ports: u8,
    /// Reason, if no address was found.
    pub(super) why: Option<String>,
}

impl Asked {
    /// The proxy that leads there.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.server.proxy.as_ref().filter(|_| self.over == Transport::Tcp)
    }

    /// Returns true if our user is to give credentials before the server is asked: there are none, or they end.
    pub(super) fn is_stale(&self, cx: &Cx) -> bool {
        let TurnAuth::Renewed(credentials) = &self.server.auth else { return false };
        let soon = cx.clock.map(|fix| fix.wall_at(cx.now + ENDS_SOON));
        let ends = |c: &Credentials| c.until().zip(soon).is_some_and(|(until, soon)| until <= soon);
        credentials.as_ref().is_none_or(ends)
    }

    /// The same server, asked once more by this way.
    pub(super) fn again(&self, cx: &Cx, race: Race) -> Asked {
        Asked {
            place: self.place,
            server: self.server.clone(),
            renewal: self.renewal,
            over: self.over,
            family: self.family,
            race,
            begun: cx.now,
            by_tcp: ByTcp::No,
            other: None,
            is_alternate: self.is_alternate,
            fresh_ports: self.fresh_ports,
            why: None,
        }
    }

    pub(super) fn credentials(&self, cx: &Cx) -> Option<Credentials> {
        match &self.server.auth {
            TurnAuth::Nobody => None,
            TurnAuth::Fixed(credentials) => Some(credentials.clone()),
            TurnAuth::Renewed(credentials) => credentials.clone(),
            TurnAuth::Secret(secret) => {
                let day = cx.wall().offset_micros(MADE_FOR.as_micros() as i64);
                let until = if self.renewal == Renewal::Done { day.max(MADE_FOR_GOOD) } else { day };
                Some(Credentials::short_lived(secret, None, until))
            }
        }
    }
}

/// Other credentials where a server takes the first no longer, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Renewal {
    Possible,
    /// The user has until this time to give some; nothing is asked meanwhile.
    Awaited(Instant),
    Done,
}

/// Plan to ask a server over TCP too that is asked over UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ByTcp {
    /// TCP is tried later: once UDP had no answer for a while, or failed.
    Later(Option<Instant>),
    /// TCP is in use already, or must not be used.
    No,
}
