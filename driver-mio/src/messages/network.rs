//! Changes of the machine's network, heard for the pipes whose users want to know.

use std::io::{self, Read};
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Token};
use p2pd_sys::messages::network::{COMPARE_EVERY, NetworkWatch, QUIET, Word, changes};

use super::pipes::{News, Pipes};
use super::tokens::PipeId;

/// Source of word of changes, as long as a pipe watches.
#[derive(Debug)]
pub(super) struct Watch {
    told: Option<Told>,
    pub(super) due: Option<Instant>,
    watchers: usize,
}

/// Socket that tells of changes, where the system has one.
#[derive(Debug)]
struct Told {
    socket: TcpStream,
    id: PipeId,
    token: Token,
}

impl Pipes {
    /// Has [`News::Network`] tell when the machine's interfaces, addresses or default routes have changed, with the
    /// meaning for this pipe, until it is closed. All pipes share one token for it. Where the system does not tell of
    /// changes, interfaces are compared every 5 s. Returns false if the pipe is not open.
    ///
    /// # Errors
    /// `OutOfMemory`: no token is left. The loop's own.
    pub fn watch_network(&mut self, pipe: PipeId) -> io::Result<bool> {
        let Some(local) = self.local_addr(pipe) else { return Ok(false) };
        if self.network.is_none() {
            let told = changes().ok().map(|socket| self.tell(TcpStream::from_std(socket))).transpose()?;
            let due = told.is_none().then(|| Instant::now() + COMPARE_EVERY);
            self.network = Some(Watch { told, due, watchers: 0 });
        }
        if let (Some(entry), Some(watch)) = (self.each.get_mut(&pipe), &mut self.network)
            && entry.network.replace(NetworkWatch::new(local)).is_none()
        {
            watch.watchers += 1;
        }
        Ok(true)
    }

    fn tell(&mut self, mut socket: TcpStream) -> io::Result<Told> {
        let (id, token) = self.tokens.take().ok_or(io::ErrorKind::OutOfMemory)?;
        match self.registry.register(&mut socket, token, Interest::READABLE) {
            Ok(()) => Ok(Told { socket, id, token }),
            Err(e) => {
                self.give_back(token);
                Err(e)
            }
        }
    }

    /// Hears what has come, if this is the name of the socket that tells of changes.
    pub(super) fn hear_of_network(&mut self, id: PipeId) {
        let Some(watch) = &mut self.network else { return };
        let Some(told) = watch.told.as_mut().filter(|told| told.id == id) else { return };
        let mut buffer = [0; 8192];
        let lost = loop {
            let read = told.socket.read(&mut buffer);
            let word = Word::of(&read, &buffer);
            if matches!(word, Word::Changed | Word::Lost) {
                watch.due.get_or_insert_with(|| Instant::now() + QUIET);
            }
            if matches!(word, Word::None | Word::Lost) {
                break word == Word::Lost;
            }
        };
        if lost {
            let told = watch.told.take();
            self.end_told(told);
        }
    }

    /// Compares the interfaces, if it is time to.
    pub(super) fn compare_network(&mut self, now: Instant) {
        let Some(watch) = self.network.as_mut().filter(|watch| watch.due.is_some_and(|due| due <= now))
        else {
            return;
        };
        watch.due = watch.told.is_none().then(|| now + COMPARE_EVERY);
        let cards = p2pd_sys::cards();
        for (pipe, entry) in &mut self.each {
            let change = entry.network.as_mut().and_then(|network| network.compare(&cards));
            self.news.extend(change.map(|change| News::Network(*pipe, change)));
        }
    }

    /// Ends the watch of a pipe, and with the last one the source.
    pub(super) fn unwatch(&mut self, id: PipeId) {
        if self.each.get_mut(&id).and_then(|entry| entry.network.take()).is_none() {
            return;
        }
        if let Some(watch) = &mut self.network {
            watch.watchers -= 1;
            if watch.watchers == 0 {
                let told = watch.told.take();
                self.network = None;
                self.end_told(told);
            }
        }
    }

    fn end_told(&mut self, told: Option<Told>) {
        if let Some(mut told) = told {
            // Else the loop has ended.
            let _ = self.registry.deregister(&mut told.socket);
            self.give_back(told.token);
        }
    }
}
