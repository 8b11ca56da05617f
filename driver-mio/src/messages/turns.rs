//! What is done for a pipe when its turn comes.

use std::io;
use std::time::Instant;

use p2pd_core::pipe::subscriptions::Message;
use p2pd_sys::messages::{End, MAX_DATAGRAM, Protocol};

use super::pipe::{Entry, Link, Open, State};
use super::pipes::{News, Pipes};
use super::tokens::PipeId;

/// Reads of one pipe in one turn.
const READS: usize = 16;

impl Pipes {
    pub(super) fn turn(&mut self, id: PipeId) {
        let Some(entry) = self.each.get_mut(&id) else { return };
        entry.queued = false;
        match &mut entry.state {
            State::Opening(_) => self.dialled(id),
            State::Listening(_) => self.accept(id),
            State::Leaving(open) => {
                if open.flush() {
                    self.remove(id);
                }
            }
            State::Open(open) => {
                let had_room = open.has_room();
                open.flush();
                if !had_room && open.has_room() {
                    if std::mem::take(&mut open.told) {
                        self.news.push_back(News::Writable(id));
                    }
                    self.queue_sources(id);
                }
                self.read(id);
                self.settle(id);
            }
        }
    }

    /// A pipe's deadline has come.
    pub(super) fn late(&mut self, id: PipeId) {
        match self.each.get(&id).map(|entry| &entry.state) {
            Some(State::Opening(_)) => self.opening_is_late(id),
            Some(State::Leaving(_)) => self.remove(id),
            Some(State::Listening(_)) => self.queue(id),
            Some(State::Open(_)) | None => {}
        }
    }

    /// Whoever sends to this one may be read again.
    pub(super) fn queue_sources(&mut self, id: PipeId) {
        for source in self.each.get(&id).map(|entry| entry.sources.clone()).unwrap_or_default() {
            self.queue(source);
        }
    }

    /// Whether anybody wants what would be read, and can take it.
    fn wants(&self, id: PipeId) -> bool {
        let Some(entry) = self.each.get(&id) else { return false };
        let has_room = |link: &Link| self.open_one(link.to).is_some_and(Open::has_room);
        entry.wants() && entry.links.iter().all(has_room)
    }

    fn read(&mut self, id: PipeId) {
        for _ in 0..READS {
            if !self.wants(id) {
                return;
            }
            let Some(entry) = self.each.get_mut(&id).filter(|entry| entry.readable) else { return };
            let limit = entry.options.reader_limit.max(1);
            let State::Open(open) = &mut entry.state else { return };
            if open.end.is_some() {
                return;
            }
            let most = if open.protocol == Protocol::Udp { MAX_DATAGRAM } else { limit };
            if self.buffer.len() < most {
                self.buffer.resize(most, 0);
            }
            match open.socket.read(&mut self.buffer[..most]) {
                Ok((0, None)) => self.ended(id, End::Peer),
                Ok((len, from)) => {
                    let Some(from) = from.or(open.remote) else { continue };
                    let data = self.buffer[..len].to_vec().into();
                    self.deliver(id, Message { data, from });
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => entry.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => self.ended(id, End::Failed(e.kind())),
            }
        }
        self.queue(id);
    }

    fn deliver(&mut self, id: PipeId, message: Message) {
        let Some(entry) = self.each.get_mut(&id) else { return };
        if !entry.unique.is_new(&message.data, message.from) {
            return;
        }
        entry.subscriptions.deliver(&message.data, message.from);
        let links = entry.links.clone();
        if entry.hears {
            entry.unheard += 1;
            self.news.push_back(News::Message(id, message.clone()));
        }
        for link in links {
            if self.pass_on(link.to, &message.data) {
                continue;
            }
            if link.joined {
                self.break_joined(id, End::Closed);
                return;
            }
            self.unlink(id, link.to);
        }
    }

    /// False: it cannot be sent to any more.
    fn pass_on(&mut self, to: PipeId, data: &[u8]) -> bool {
        let Some(open) = self.each.get_mut(&to).and_then(Entry::open_mut) else { return false };
        let Some(remote) = open.remote else { return false };
        // It may be that one datagram could not be sent.
        open.send(data, remote).is_ok() || open.protocol == Protocol::Udp
    }

    fn ended(&mut self, id: PipeId, end: End) {
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

    /// A pipe has opened: what it is joined to may have ended before.
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
            self.break_joined(from, end);
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
    fn settle(&mut self, id: PipeId) {
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

    /// A joined pipe has broken, or what it is joined to has: it goes, and takes that along.
    fn break_joined(&mut self, id: PipeId, end: End) {
        self.break_off(id, Some(end));
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
            self.break_joined(other, End::Closed);
        }
        true
    }

    /// The user is done with a pipe, which may still send.
    pub(super) fn leave(&mut self, id: PipeId, until: Instant) -> bool {
        let Some(entry) = self.each.get_mut(&id) else { return false };
        match &mut entry.state {
            State::Leaving(_) => return false,
            State::Opening(_) | State::Listening(_) => {
                self.remove(id);
                return true;
            }
            State::Open(open) => {
                open.leave();
                if open.flush() {
                    let joined = self.joined_to(id);
                    self.remove(id);
                    for other in joined {
                        self.break_joined(other, End::Closed);
                    }
                    return true;
                }
            }
        }
        // It keeps its name to itself, until its socket has taken the rest.
        let joined = self.joined_to(id);
        self.unlink_all(id);
        self.set_deadline(id, Some(until));
        if let Some(mut entry) = self.each.remove(&id) {
            entry.subscriptions = Default::default();
            if let State::Open(open) = entry.state {
                entry.state = State::Leaving(open);
            }
            self.each.insert(id, entry);
        }
        for other in joined {
            self.break_joined(other, End::Closed);
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
        self.set_deadline(id, None);
        let Some(mut entry) = self.each.remove(&id) else { return };
        // What was registered can be deregistered; else the loop has ended.
        let _ = match &mut entry.state {
            State::Open(open) | State::Leaving(open) => self.registry.deregister(&mut open.socket),
            State::Listening(listener) => self.registry.deregister(listener),
            State::Opening(opening) => opening.deregister(&self.registry),
        };
        self.names.cancel(id);
        self.tokens.give_back(entry.token);
        for listener in std::mem::take(&mut self.crowded) {
            self.queue(listener);
        }
    }
}
