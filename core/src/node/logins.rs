//! Logins that are good for a while: the user is asked for another one where a server does not take the last.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::cx::Cx;
use crate::event::Event;
use crate::login::ServerRef;
use crate::time::Instant;

/// Time for which work waits for a new login, and within which the user is not asked for it again.
pub(super) const RENEW_WITHIN: Duration = Duration::from_secs(12);

/// Servers whose new logins have been asked for, and until when.
#[derive(Debug, Default)]
pub(super) struct Logins(BTreeMap<ServerRef, Instant>);

impl Logins {
    /// Asks our user for another login.
    pub(super) fn want(&mut self, cx: &mut Cx, server: ServerRef) {
        let until = self.0.entry(server).or_insert(cx.now);
        if *until <= cx.now {
            *until = cx.now + RENEW_WITHIN;
            cx.notify(Event::LoginWanted { server });
        }
    }

    /// Notes that the user has answered.
    pub(super) fn answered(&mut self, server: ServerRef) {
        self.0.remove(&server);
    }
}
