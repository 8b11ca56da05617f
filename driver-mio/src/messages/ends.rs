//! Links, and how pipes end and go: by themselves, with others, or because their user is done with them.

use std::time::Instant;

use p2pd_sys::messages::End;

use super::pipe::{Link, Open, State};
use super::pipes::{News, Pipes};
use super::tokens::PipeId;

impl Pipes {
    pub(super) fn ended(&mut self, id: PipeId, end: End) {
        let Some(entry) = self.each.get_mut(&id) else { return };
        let Some(open) = entry.open_mut() else { return };
        open.end = Some(end);
        self.news.push_back(News::Ended(id, end));
        let links = std::mem::take(&mut entry.links);
        for link in &links {
            if let Some(other) = self.each.get_mut(&link.to)
                && !link.joined
            {
                other.sources.retain(|source| *source != id);
            }
        }
        let joined: Vec<_> = links.into_iter().filter(|link| link.joined).collect();
        if let Some(entry) = self.each.get_mut(&id) {
            // To know whom to go with.
            entry.links.clone_from(&joined);
        }
        for link in joined {
            self.pass_end(id, link.to, end);
        }
    }

    /// Passes earlier ends on when a pipe has opened: a pipe joined to it may have ended before.
    pub(super) fn pass_ends_before(&mut self, id: PipeId) {
        for source in self.joined_to(id) {
            if let Some(end) = self.open_one(source).and_then(|open| open.end) {
                self.pass_end(source, id, end);
            }
        }
    }

    fn pass_end(&mut self, from: PipeId, to: PipeId, end: End) {
        if end == End::Peer {
            self.finish(to);
        } else {
            self.break_off(from, Some(end));
        }
    }

    /// Links a pipe that may have ended.
    pub(super) fn connect_to(&mut self, from: PipeId, link: Link) -> bool {
        if self.here(link.to).is_none() {
            return false;
        }
        let Some(entry) = self.here(from) else { return false };
        let end = entry.open().and_then(|open| open.end);
        match entry.links.iter_mut().find(|known| known.to == link.to) {
            Some(known) => known.joined |= link.joined,
            None if end.is_some() && !link.joined => {}
            None => entry.links.push(link),
        }
        if let Some(other) = self.each.get_mut(&link.to)
            && !other.sources.contains(&from)
        {
            other.sources.push(from);
        }
        if let Some(end) = end
            && link.joined
        {
            self.pass_end(from, link.to, end);
        }
        self.queue(from);
        true
    }

    /// Joined pipes that have nothing more to do go.
    pub(super) fn settle(&mut self, id: PipeId) {
        let is_over = |id: &PipeId| self.open_one(*id).is_some_and(Open::is_over);
        let joined: Vec<_> = self.joined_to(id);
        if !joined.is_empty() && is_over(&id) && joined.iter().all(is_over) {
            for one in joined.into_iter().chain([id]) {
                self.remove(one);
            }
        }
    }

    pub(super) fn joined_to(&self, id: PipeId) -> Vec<PipeId> {
        let links = self.each.get(&id).map(|entry| entry.links.iter());
        links.into_iter().flatten().filter(|link| link.joined).map(|link| link.to).collect()
    }

    /// Takes a pipe away, with a reset, and those joined to it. With an end its user is told of it.
    pub(super) fn break_off(&mut self, id: PipeId, end: Option<End>) -> bool {
        let Some(entry) = self.each.get(&id) else { return false };
        let known = match &entry.state {
            State::Leaving(_) => return false,
            State::Open(open) => {
                open.reset();
                open.end
            }
            State::Opening(_) | State::Listening(_) => None,
        };
        if let Some(end) = end
            && known.is_none()
        {
            self.news.push_back(News::Ended(id, end));
        }
        let joined = self.joined_to(id);
        self.remove(id);
        for other in joined {
            self.break_off(other, Some(End::Closed));
        }
        true
    }

    /// The user is done with a pipe, which may still send.
    pub(super) fn leave(&mut self, id: PipeId, until: Instant) -> bool {
        let Some(entry) = self.here(id) else { return false };
        let sends = match &mut entry.state {
            State::Open(open) => {
                open.leave();
                !open.flush()
            }
            _ => false,
        };
        let joined = self.joined_to(id);
        if sends {
            self.unlink_all(id);
            self.unwatch(id);
            self.set_deadline(id, Some(until));
            if let Some(entry) = self.each.remove(&id) {
                self.each.insert(id, entry.leaving());
            }
        } else {
            self.remove(id);
        }
        for other in joined {
            self.break_off(other, Some(End::Closed));
        }
        true
    }

    fn unlink_all(&mut self, id: PipeId) {
        let Some(entry) = self.each.get_mut(&id) else { return };
        let (links, sources) = (std::mem::take(&mut entry.links), std::mem::take(&mut entry.sources));
        for link in links {
            if let Some(other) = self.each.get_mut(&link.to) {
                other.sources.retain(|source| *source != id);
            }
        }
        for source in sources {
            if let Some(other) = self.each.get_mut(&source) {
                other.links.retain(|link| link.to != id);
            }
            self.queue(source);
        }
    }

    pub(super) fn remove(&mut self, id: PipeId) {
        self.unlink_all(id);
        self.unwatch(id);
        self.set_deadline(id, None);
        let Some(mut entry) = self.each.remove(&id) else { return };
        // What was registered can be deregistered; else the loop has ended.
        let _ = match &mut entry.state {
            State::Open(open) | State::Leaving(open) => self.registry.deregister(&mut open.socket),
            State::Listening(listener) => self.registry.deregister(listener),
            State::Opening(opening) => opening.deregister(&self.registry),
        };
        self.names.cancel(id);
        self.give_back(entry.token);
    }
}
