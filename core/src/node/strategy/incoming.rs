//! Requests of peers: judged, asked about, and handed to the strategy that they are for.

use super::{Contract, Ctx, Parting, Strategies};
use crate::call::{Refusal, Strategy};
use crate::identity::NodeId;
use crate::node::admission::{Denied, Entry, How, Kind, Place, Waiting, Wish};
use crate::random::Domain;
use crate::signal::message::Body;
use crate::strategy::agreement::{Key, Requester};

impl Strategies {
    /// Handles a request of a peer. Returns true if it had an effect, so that a copy of the message must have none.
    pub(in crate::node) fn wish(&mut self, ctx: &mut Ctx<'_>, wish: Wish) -> bool {
        let key = (wish.session, Requester::Them);
        let known = match &wish.how {
            How::Dial => self.reverse.visits(wish.session, wish.peer, &wish.address),
            How::Relay { .. } => self.relay.is_busy(key),
            How::Punch(mappings) if self.punch.is_next_rung(key, wish.peer, mappings) => {
                let goes_on = goes_on(ctx, &wish);
                if goes_on {
                    self.punch.visit(ctx, wish.peer, wish.session, wish.via, mappings);
                }
                return goes_on;
            }
            How::Punch(_) => self.punch.is_busy(key),
            How::Udp(theirs) if self.udp.is_next_rung(key, wish.peer, theirs) => {
                let goes_on = goes_on(ctx, &wish);
                if goes_on {
                    let window = self.relay.window_for(ctx.admission.trust(wish.peer));
                    self.udp.visit(ctx, (key, wish.peer, wish.via), theirs, window);
                }
                return goes_on;
            }
            How::Udp(_) => self.udp.is_busy(key) || self.relay.is_opening(key, Strategy::Udp),
        };
        if ctx.sessions.is_over(key) || known {
            return false;
        }
        match self.judge(ctx, &wish) {
            Ok(Entry::Open) => self.fulfil(ctx, wish),
            Ok(Entry::Ask) => {
                let asked = ctx.admission.ask(ctx.cx, wish.peer, None, Waiting::Wish(Box::new(wish)));
                if let Err(Waiting::Wish(wish)) = asked {
                    deny(ctx, &wish, Denied::Refused(Refusal::Busy));
                    return false;
                }
            }
            Err(denied) => {
                deny(ctx, &wish, denied);
                return false;
            }
        }
        true
    }

    /// Goes on with a request about which our user was asked.
    pub(in crate::node) fn answer_wish(&mut self, ctx: &mut Ctx<'_>, wish: Wish, said: Result<(), Refusal>) {
        if let Err(why) = said {
            deny(ctx, &wish, Denied::Refused(why));
        } else if !self.has_room_for(ctx, &wish) {
            deny(ctx, &wish, Denied::Refused(Refusal::Busy));
        } else {
            self.fulfil(ctx, wish);
        }
    }

    /// Ends our part in a peer's session, unless something of it goes on.
    pub(in crate::node) fn leave(&mut self, ctx: &mut Ctx<'_>, key: Key, peer: NodeId, parting: Parting) {
        if self.is_busy(key) {
            return;
        }
        match parting {
            Parting::IfStreamless => ctx.sessions.forget_streamless(key),
            // A dial of the peer's may be in its hello.
            Parting::Forget | Parting::Abandon if ctx.sessions.has_accepted(key) => {}
            Parting::Forget => ctx.sessions.forget(key),
            Parting::Abandon => ctx.abandon(key, peer),
        }
    }

    /// Does what a peer has asked for.
    fn fulfil(&mut self, ctx: &mut Ctx<'_>, wish: Wish) {
        let Wish { peer, session, terms, address, via, how } = wish;
        let key = (session, Requester::Them);
        match how {
            How::Dial => self.reverse.visit(ctx, (key, peer, terms), address, via),
            How::Punch(mappings) => self.punch.visit(ctx, peer, session, via, &mappings),
            How::Udp(theirs) => {
                let window = self.relay.window_for(ctx.admission.trust(peer));
                self.udp.visit(ctx, (key, peer, via), &theirs, window);
            }
            How::Relay { relayed } => self.relay.visit(ctx, (key, peer, terms), via, relayed),
        }
    }

    /// Ends what a stranger has, for another.
    fn turn_out(&mut self, ctx: &mut Ctx<'_>, place: Place) {
        let key = (place.session, Requester::Them);
        match place.kind {
            Kind::Dial => self.reverse.turn_out(ctx, place.session),
            Kind::Punch => self.punch.forget_punch(ctx, key),
            Kind::Udp => {
                self.udp.end(ctx, key);
                self.relay.end_opening(ctx, key, Strategy::Udp);
            }
            Kind::Relay => self.relay.end(ctx, key),
        }
        self.leave(ctx, key, place.peer, Parting::IfStreamless);
    }

    /// Returns true if what the wish asks for fits. A wish that waits for the user's answer holds no place.
    fn has_room_for(&self, ctx: &Ctx<'_>, wish: &Wish) -> bool {
        let streams = matches!(wish.how.kind(), Kind::Relay | Kind::Udp);
        !streams || self.relay.has_room(ctx.admission.trust(wish.peer))
    }

    fn judge(&mut self, ctx: &mut Ctx<'_>, wish: &Wish) -> Result<Entry, Denied> {
        let place = place_of(ctx, wish);
        let entry = ctx.admission.enter(wish.peer, wish.terms).map_err(Denied::Refused)?;
        if !self.has_room_for(ctx, wish) {
            return Err(Denied::Refused(Refusal::Busy));
        }
        let places = self.places(ctx);
        let (now, random) = (ctx.cx.now, &mut ctx.cx.random);
        let draw = |below| random.below(Domain::Admission, below);
        if let Some(oldest) = ctx.admission.admit(now, place, wish.terms, places.iter().copied(), draw)? {
            self.turn_out(ctx, oldest);
        }
        Ok(entry)
    }

    /// Returns the places that the requests of peers have.
    fn places(&self, ctx: &Ctx<'_>) -> Vec<Place> {
        let met = |session| ctx.sessions.has_proven((session, Requester::Them));
        let streams = self.reverse.places(met).chain(self.punch.places(met));
        streams.chain(self.udp.places()).chain(self.relay.places()).collect()
    }
}

/// Returns true if the next request within one that has a place is admitted.
fn goes_on(ctx: &mut Ctx<'_>, wish: &Wish) -> bool {
    let (place, now) = (place_of(ctx, wish), ctx.cx.now);
    let random = &mut ctx.cx.random;
    ctx.admission.go_on(now, place, |below| random.below(Domain::Admission, below)).is_ok()
}

/// Returns the place that a request will have if it is admitted.
fn place_of(ctx: &Ctx<'_>, wish: &Wish) -> Place {
    Place {
        kind: wish.how.kind(),
        session: wish.session,
        peer: wish.peer,
        trust: ctx.admission.trust(wish.peer),
        since: ctx.cx.now,
        answered: false,
    }
}

fn deny(ctx: &mut Ctx<'_>, wish: &Wish, why: Denied) {
    ctx.cx.stats.refused += 1;
    if let Denied::Refused(why) = why {
        ctx.reply(wish.peer, wish.session, &wish.via, Body::Refused(why));
    }
}
