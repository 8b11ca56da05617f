//! Messages beside a relayed pipe, between their user and the engine. They are frames of a length (two bytes,
//! big-endian) and as many bytes. A local socket pair of their own carries them, so that a pipe that nobody reads holds
//! none up.

use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pd_core::relay::{MAX_MESSAGE, MessageError};

use super::buffer::{Incoming, Outgoing};
use super::relayed::Link;

const LENGTH: usize = 2;

/// A message with its length before it.
pub(crate) fn put_frame(out: &mut Vec<u8>, message: &[u8]) {
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(message);
}

/// Returns the length of the frame at the front; `None` while its length field is not complete.
pub(crate) fn frame_length(bytes: &[u8]) -> Option<usize> {
    let (length, _) = bytes.split_first_chunk::<LENGTH>()?;
    Some(LENGTH + usize::from(u16::from_be_bytes(*length)))
}

/// The user's side of the messages. Both directions may be used at once, by two tasks or threads.
///
/// Each call is given the socket. The socket may block, or give `WouldBlock`, which the call then gives too.
#[derive(Debug)]
pub struct MessageLayer {
    link: Arc<Link>,
    sending: Mutex<Outgoing>,
    receiving: Mutex<Receiving>,
}

#[derive(Debug)]
struct Receiving {
    frames: Incoming,
    /// Frames that the engine still had when it closed the socket.
    rest: Option<Cursor<Vec<u8>>>,
}

impl MessageLayer {
    pub(super) fn new(link: Arc<Link>) -> Self {
        let receiving = Receiving { frames: Incoming::new(LENGTH + MAX_MESSAGE), rest: None };
        MessageLayer { link, sending: Mutex::default(), receiving: Mutex::new(receiving) }
    }

    /// Takes a message whole, or not at all. The part that the socket does not take now goes by [`flush`](Self::flush),
    /// or with the next one.
    ///
    /// # Errors
    /// `InvalidInput` for one that is too long, `WouldBlock` while an earlier one waits; why the pipe or its relay is
    /// gone.
    pub fn send(&self, io: &mut impl Write, message: &[u8]) -> io::Result<()> {
        if message.len() > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, MessageError::TooLong));
        }
        let mut out = lock(&self.sending);
        out.send(io).map_err(|why| self.link.explain(why))?;
        put_frame(out.end(), message);
        match out.send(io) {
            Err(why) if why.kind() != io::ErrorKind::WouldBlock => Err(self.link.explain(why)),
            _ => Ok(()),
        }
    }

    /// Sends the waiting bytes.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn flush(&self, io: &mut impl Write) -> io::Result<()> {
        lock(&self.sending).send(io).map_err(|why| self.link.explain(why))
    }

    /// Returns true if something waits to be sent.
    pub fn waits(&self) -> bool {
        !lock(&self.sending).is_empty()
    }

    /// The next message.
    ///
    /// # Errors
    /// `WouldBlock` for none yet; after the last one why the pipe or its relay is gone.
    pub fn receive(&self, io: &mut impl Read) -> io::Result<Vec<u8>> {
        let mut receiving = lock(&self.receiving);
        let Receiving { frames, rest } = &mut *receiving;
        loop {
            let need = frame_length(frames.front()).unwrap_or(LENGTH);
            if need > LENGTH + MAX_MESSAGE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if frame_length(frames.front()).is_some() && frames.front().len() >= need {
                let message = frames.front()[LENGTH..need].to_vec();
                frames.consume(need);
                return Ok(message);
            }
            let read = match rest {
                None => frames.fill(io, need),
                Some(rest) => frames.fill(rest, need),
            };
            match (read, &rest) {
                (Ok(0), Some(_)) => {
                    return Err(self.link.explain(io::ErrorKind::UnexpectedEof.into()));
                }
                (Ok(0), None) => *rest = Some(Cursor::new(self.link.take_rest())),
                (Ok(_), _) => {}
                (Err(e), _) if e.kind() == io::ErrorKind::Interrupted => {}
                (Err(e), _) if e.kind() == io::ErrorKind::WouldBlock => {
                    frames.release();
                    return Err(e);
                }
                // The engine closed it with something of ours unread.
                (Err(_), _) => *rest = Some(Cursor::new(self.link.take_rest())),
            }
        }
    }
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}
