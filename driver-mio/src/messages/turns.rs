//! Work for a pipe when its turn comes.

use std::io;

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

    /// Queues the pipes that send to this one, since they may be read again.
    pub(super) fn queue_sources(&mut self, id: PipeId) {
        for source in self.each.get(&id).map(|entry| entry.sources.clone()).unwrap_or_default() {
            self.queue(source);
        }
    }

    /// Returns true if anybody wants the next message and can take it.
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
            let most = if open.socket.is_a_stream() { limit } else { MAX_DATAGRAM };
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
                self.break_off(id, Some(End::Closed));
                return;
            }
            self.unlink(id, link.to);
        }
    }

    /// Sends a message on to a linked pipe. Returns false if that pipe cannot be sent to any more.
    fn pass_on(&mut self, to: PipeId, data: &[u8]) -> bool {
        let Some(open) = self.each.get_mut(&to).and_then(Entry::open_mut) else { return false };
        let Some(remote) = open.remote else { return false };
        // It may be that one datagram could not be sent.
        open.send(data, remote).is_ok() || open.protocol == Protocol::Udp
    }
}
