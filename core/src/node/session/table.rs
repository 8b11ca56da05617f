//! The streams that are saying hello, by id and by session, so that no event walks them all.

use std::collections::{BTreeMap, BTreeSet};

use super::stream::Stream;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::pipe::Terms;
use crate::strategy::agreement::Key;

#[derive(Debug, Default)]
pub(super) struct Streams {
    all: BTreeMap<SockId, Box<Stream>>,
    by_session: BTreeSet<(Key, SockId)>,
}

impl Streams {
    pub(super) fn insert(&mut self, sock: SockId, stream: Stream) {
        if let Some((key, ..)) = stream.session() {
            self.by_session.insert((key, sock));
        }
        self.all.insert(sock, Box::new(stream));
    }

    pub(super) fn remove(&mut self, sock: SockId) -> Option<Stream> {
        let stream = self.all.remove(&sock)?;
        if let Some((key, ..)) = stream.session() {
            self.by_session.remove(&(key, sock));
        }
        Some(*stream)
    }

    pub(super) fn get(&self, sock: SockId) -> Option<&Stream> {
        self.all.get(&sock).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, sock: SockId) -> Option<&mut Stream> {
        self.all.get_mut(&sock).map(Box::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SockId, &Stream)> {
        self.all.iter().map(|(sock, stream)| (*sock, stream.as_ref()))
    }

    /// The stranger at the other end of an accepted stream has said what it wants.
    pub(super) fn introduce(&mut self, sock: SockId, session: (Key, NodeId, Terms)) {
        if let Some(mut stream) = self.remove(sock) {
            stream.introduce(session);
            self.insert(sock, stream);
        }
    }

    pub(super) fn of_session(&self, key: Key) -> impl Iterator<Item = SockId> + '_ {
        let (first, last) = (SockId::from_number(0), SockId::from_number(u64::MAX));
        self.by_session.range((key, first)..=(key, last)).map(|(_, sock)| *sock)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
