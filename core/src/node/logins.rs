//! Logins that are good for a while: the user is asked for another one where a server does not take the last.

use core::time::Duration;
use std::collections::BTreeMap;

use super::Node;
use crate::config::{Login, ServerRef, TurnAuth};
use crate::notice::Notice;
use crate::time::Instant;
use crate::turn::Credentials;

/// Time for which work waits for a new login, and within which the user is not asked for it again.
pub(super) const RENEW_WITHIN: Duration = Duration::from_secs(12);

/// Servers whose new logins have been asked for, and until when.
pub(super) type Logins = BTreeMap<ServerRef, Instant>;

impl Node {
    /// Answers [`Notice::LoginWanted`]: the login that a server takes from now on. It may come unasked, before the old
    /// one ends. `None`: there is none to be had, and whatever waits for it goes on without the server.
    pub fn renew_login(&mut self, now: Instant, server: ServerRef, login: Option<Login>) {
        self.advance(now);
        if self.is_shut() {
            return;
        }
        self.logins.remove(&server);
        match server {
            ServerRef::Broker(id) => {
                if let Some(login) = login {
                    self.signalling.renew(&mut self.cx, id, &login);
                }
            }
            ServerRef::Turn(place) => {
                let Some(turn) = self.config.turn.get_mut(usize::from(place)) else { return };
                let TurnAuth::Renewed(credentials) = &mut turn.auth else { return };
                let fresh = login.map(|l| Credentials::new(l.user(), l.password().unwrap_or_default()));
                if fresh.is_some() {
                    credentials.clone_from(&fresh);
                }
                self.relays_renew(place, fresh.as_ref());
                self.allocations_renew(place, fresh.as_ref());
            }
        }
        self.settle();
    }

    /// Asks our user for another login.
    pub(super) fn want_login(&mut self, server: ServerRef) {
        let until = self.logins.entry(server).or_insert(self.cx.now);
        if *until <= self.cx.now {
            *until = self.cx.now + RENEW_WITHIN;
            self.cx.notify(Notice::LoginWanted { server });
        }
    }
}
