//! Changes of the machine's network, heard for the pipes whose users want to know.

use std::io::{self, Read};
use std::time::Instant;

use mio::Interest;
use mio::net::TcpStream;
use p2pd_sys::messages::PipeOptions;
use p2pd_sys::messages::network::{COMPARE_EVERY, NetworkWatch, QUIET, changes, is_overflow, matters};

use super::pipe::State;
use super::pipes::{News, Pipes};
use super::tokens::PipeId;

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
            let mut socket = changes().ok().map(TcpStream::from_std);
            let id = self.insert(&PipeOptions::default(), |registry, token| {
                if let Some(socket) = &mut socket {
                    registry.register(socket, token, Interest::READABLE)?;
                }
                Ok(State::Watching(socket))
            })?;
            self.network = Some(id);
            // What came before the loop watched, and where there is no socket the first comparison.
            self.compare_network(id);
            self.queue(id);
        }
        if let Some(entry) = self.here(pipe) {
            entry.network = Some(NetworkWatch::new(local));
        }
        Ok(true)
    }

    pub(super) fn hear_of_network(&mut self, id: PipeId) {
        let Some(entry) = self.each.get_mut(&id) else { return };
        let (waits, State::Watching(Some(socket))) = (entry.deadline.is_some(), &mut entry.state) else {
            return;
        };
        let (mut buffer, mut matter) = ([0; 8192], false);
        loop {
            match socket.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_overflow(&e) => matter = true,
                // So long that it may have been cut.
                Ok(n) if n > 0 => matter |= n == buffer.len() || matters(&buffer[..n]),
                Ok(_) | Err(_) => {
                    // The loop's own end.
                    let _ = self.registry.deregister(socket);
                    entry.state = State::Watching(None);
                    matter = true;
                    break;
                }
            }
        }
        if matter && !waits {
            self.set_deadline(id, Some(Instant::now() + QUIET));
        }
    }

    pub(super) fn compare_network(&mut self, id: PipeId) {
        let cards = p2pd_sys::cards();
        for (pipe, entry) in &mut self.each {
            let change = entry.network.as_mut().and_then(|network| network.compare(&cards));
            self.news.extend(change.map(|change| News::Network(*pipe, change)));
        }
        if matches!(self.each.get(&id).map(|entry| &entry.state), Some(State::Watching(None))) {
            self.set_deadline(id, Some(Instant::now() + COMPARE_EVERY));
        }
    }
}
