//! Sessions, with their streams and datagrams.

use std::ffi::{c_char, c_void};

use p2pd_core::Instant;
use p2pd_core::pipe::session::{
    Direction, MAX_DATAGRAM, OpenError, ReadResult, Session, SessionEnd, SessionEvent, StreamId, WriteError,
};
use p2pd_mio::{SessionId, SessionNews};

use crate::border::{Out, OutStruct, Sized32, buffer, bytes, clear, on, text, text_field};
use crate::event::*;
use crate::node::{Inner, p2pd_node};
use crate::plan::{number, p2pd_plan, read_plan};
use crate::status::*;

/// Id of a session for C: 0 is none.
fn id_of(session: SessionId) -> u64 {
    session.number() + 1
}

fn session_of(id: u64) -> Result<SessionId, Fault> {
    id.checked_sub(1).map(SessionId::from_number).ok_or_else(|| Fault::bare(P2PD_ERR_UNKNOWN))
}

impl Inner {
    /// Returns a session to look at.
    fn session(&mut self, id: u64) -> Result<(&mut Session, Instant), Fault> {
        self.sessions.get(session_of(id)?).ok_or_else(|| Fault::bare(P2PD_ERR_UNKNOWN))
    }

    /// Returns a session to change. The turn that sends what comes of it is called for.
    fn session_to_change(&mut self, id: u64) -> Result<(&mut Session, Instant), Fault> {
        self.session(id)?;
        self.stir();
        self.session(id)
    }

    /// Takes the next stream that a peer opened.
    pub(crate) fn next_stream(&mut self) -> Option<Told> {
        while let Some((id, direction)) = self.accepting.front().copied() {
            let opened = self.sessions.get(id).and_then(|(session, _)| session.accept(direction));
            if let Some((stream, tag)) = opened {
                self.stir();
                let told = Told::new(P2PD_EVENT_STREAM_INCOMING).session(id_of(id)).stream(stream.number());
                return Some(told.code(u32::from(direction == Direction::One)).text(tag));
            }
            self.accepting.pop_front();
        }
        None
    }

    /// Translates news of sessions; `None` for what C is not told, or is told by other events.
    pub(crate) fn of_session(&mut self, news: SessionNews) -> Option<Told> {
        Some(match news {
            SessionNews::Opened(id) => Told::new(P2PD_EVENT_SESSION_OPENED).session(id_of(id)),
            SessionNews::NotOpened(id, why) => {
                let fault = Fault::from(&why);
                let told = Told::new(P2PD_EVENT_SESSION_NOT_OPENED).session(id_of(id));
                told.status(fault.status).text(fault.text)
            }
            SessionNews::Incoming(id, peer) => {
                Told::new(P2PD_EVENT_SESSION_INCOMING).session(id_of(id)).text(peer.to_string())
            }
            SessionNews::Event(id, event) => {
                if let SessionEvent::Opened(direction) = event {
                    self.accepting.push_back((id, direction));
                    return None;
                }
                told(event)?.session(id_of(id))
            }
            _ => return None,
        })
    }
}

fn told(event: SessionEvent) -> Option<Told> {
    let of_stream = |kind, stream: StreamId| Told::new(kind).stream(stream.number());
    Some(match event {
        SessionEvent::Readable(stream) => of_stream(P2PD_EVENT_STREAM_READABLE, stream),
        SessionEvent::Writable(stream) => of_stream(P2PD_EVENT_STREAM_WRITABLE, stream),
        SessionEvent::Stopped(stream, code) => of_stream(P2PD_EVENT_STREAM_STOPPED, stream).code(code),
        SessionEvent::MayOpen => Told::new(P2PD_EVENT_SESSION_MAY_OPEN),
        SessionEvent::Datagram => Told::new(P2PD_EVENT_SESSION_DATAGRAM),
        SessionEvent::Delivered => Told::new(P2PD_EVENT_SESSION_DELIVERED),
        SessionEvent::Moved(_) => Told::new(P2PD_EVENT_SESSION_MOVED),
        SessionEvent::Stranded => Told::new(P2PD_EVENT_SESSION_STRANDED),
        SessionEvent::Ended(why) => {
            let code = if let SessionEnd::ClosedByPeer(code, _) = &why { *code } else { 0 };
            Told::new(P2PD_EVENT_SESSION_ENDED).code(code).text(why.to_string())
        }
        _ => return None,
    })
}

/// Begins to open a session, as p2pd_node_connect begins a pipe. `session` gets its id at once.
/// P2PD_EVENT_SESSION_OPENED or P2PD_EVENT_SESSION_NOT_OPENED ends the call; p2pd_session_free gives it up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_session_connect(
    node: *mut p2pd_node,
    to: *const c_char,
    plan: *const p2pd_plan,
    session: *mut u64,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let (place, to, plan) = (Out::new(session)?, text(to)?, read_plan(plan)?);
            place.put(id_of(inner.connect_session(to, plan)?));
            Ok(P2PD_OK)
        })
    }
}

/// Closes a session at once: what has not arrived is lost. The peer is told the code, and up to 255 bytes of the reason,
/// which may be NULL. P2PD_EVENT_SESSION_ENDED follows; go on with turns until then, and a little longer for the peer to hear.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_session_close(
    node: *mut p2pd_node,
    session: u64,
    code: u32,
    reason: *const c_char,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let reason = if reason.is_null() { "" } else { text(reason)? };
            let (session, now) = inner.session_to_change(session)?;
            session.close(now, code, reason.as_bytes());
            Ok(P2PD_OK)
        })
    }
}

/// Forgets a session; its id is gone. For one that is over, or to give one up, in which case the peer hears nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_session_free(node: *mut p2pd_node, session: u64) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let id = session_of(session)?;
            inner.sessions.forget(id);
            inner.stir();
            Ok(P2PD_OK)
        })
    }
}

/// Asks whether all that was written on a session has arrived. P2PD_AGAIN: no, and P2PD_EVENT_SESSION_DELIVERED follows.
/// P2PD_ERR_ENDED: the session is over, and what became of the rest is not known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_session_delivered(node: *mut p2pd_node, session: u64) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let (session, _) = inner.session(session)?;
            // A session that has ended holds nothing any more, whatever became of it.
            match (session.is_over(), session.is_delivered()) {
                (true, _) => Err(Fault::bare(P2PD_ERR_ENDED)),
                (false, true) => Ok(P2PD_OK),
                (false, false) => Ok(P2PD_AGAIN),
            }
        })
    }
}

/// Properties of a session's connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
// Exhaustive: C has its layout. It may grow at its end, and says its size.
pub struct p2pd_session_info {
    /// sizeof(p2pd_session_info), set by the caller before the call.
    pub size: u32,
    /// Number of the p2pd_strategy that opened the connection. 0: there is no connection now, and the texts are empty.
    pub strategy: u32,
    /// Round trip in microseconds; 0 where none was measured yet.
    pub round_trip_us: u64,
    /// The peer's proven node id, with a zero byte.
    pub peer: [c_char; 64],
    /// Local end of the connection as IP:PORT, with a zero byte.
    pub local: [c_char; 64],
    /// The peer's end as seen from here, with a zero byte.
    pub remote: [c_char; 64],
}

// SAFETY: numbers, the size first.
unsafe impl Sized32 for p2pd_session_info {
    const FIRST: usize = size_of::<p2pd_session_info>();
}

/// Says what is known of the connection under a session; the `size` of `info` is set before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_session_get_info(
    node: *mut p2pd_node,
    session: u64,
    info: *mut p2pd_session_info,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let place = OutStruct::new(info)?;
            let round_trip = inner.session(session)?.0.round_trip();
            let carrier = inner.sessions.carrier(session_of(session)?);
            let text = |text: Option<String>| text_field(text.unwrap_or_default().as_bytes());
            place.put(p2pd_session_info {
                size: 0,
                strategy: carrier.map_or(0, |pipe| number(pipe.strategy())),
                round_trip_us: round_trip.map_or(0, |took| took.as_micros() as u64),
                peer: text(carrier.map(|pipe| pipe.peer().to_string())),
                local: text(carrier.map(|pipe| pipe.local_addr().to_string())),
                remote: text(carrier.map(|pipe| pipe.remote_addr().to_string())),
            });
            Ok(P2PD_OK)
        })
    }
}

/// Opens a stream, on which only this end sends if `one_way`. `stream` gets its number. The peer is told of it with its
/// first bytes, and of the tag, which has up to 255 bytes. P2PD_AGAIN: the peer has as many streams as it takes, and
/// P2PD_EVENT_SESSION_MAY_OPEN follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_stream_open(
    node: *mut p2pd_node,
    session: u64,
    one_way: bool,
    tag: *const c_void,
    tag_size: usize,
    stream: *mut u32,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let (place, tag) = (Out::new(stream)?, bytes(tag, tag_size)?);
            let direction = if one_way { Direction::One } else { Direction::Both };
            let (session, now) = inner.session_to_change(session)?;
            match session.open(now, direction, tag) {
                Ok(stream) => place.put(stream.number()),
                Err(OpenError::TooMany) => return Ok(P2PD_AGAIN),
                Err(OpenError::Ended) => return Err(Fault::bare(P2PD_ERR_ENDED)),
                Err(_) => return Err(Fault::new(P2PD_ERR_ARGUMENT, "a stream's tag has at most 255 bytes")),
            }
            Ok(P2PD_OK)
        })
    }
}

/// Reads what has come on a stream, as p2pd_pipe_read. P2PD_ERR_RESET: the peer gave its direction up.
/// P2PD_ERR_CLOSED: the stream was stopped here, or is gone. P2PD_ERR_ENDED: so is the session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_stream_read(
    node: *mut p2pd_node,
    session: u64,
    stream: u32,
    data: *mut c_void,
    size: usize,
    got: *mut usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        clear(got);
        on(node, |inner| {
            let (place, to) = (Out::new(got)?, buffer(data, size)?);
            if to.is_empty() {
                return Err(Fault::new(P2PD_ERR_BUFFER, "the buffer has no room"));
            }
            let (session, now) = inner.session(session)?;
            let done = match session.read(now, StreamId::from_number(stream), to) {
                ReadResult::Read(n) => {
                    place.put(n);
                    Ok(P2PD_OK)
                }
                // Nothing was taken, so that there is nothing for a turn to tell the peer.
                ReadResult::Empty => return Ok(P2PD_AGAIN),
                ReadResult::End => Ok(P2PD_END),
                ReadResult::Reset(code) => Err(Fault::of_peer(P2PD_ERR_RESET, code)),
                ReadResult::Gone if session.is_over() => Err(Fault::bare(P2PD_ERR_ENDED)),
                ReadResult::Gone => Err(Fault::bare(P2PD_ERR_CLOSED)),
            };
            inner.stir();
            done
        })
    }
}

/// Writes on a stream, as p2pd_pipe_write. P2PD_ERR_CLOSED: our direction was ended here, or the peer stopped it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_stream_write(
    node: *mut p2pd_node,
    session: u64,
    stream: u32,
    data: *const c_void,
    size: usize,
    taken: *mut usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        clear(taken);
        on(node, |inner| {
            let (place, from) = (Out::new(taken)?, bytes(data, size)?);
            let (session, now) = inner.session_to_change(session)?;
            match session.write(now, StreamId::from_number(stream), from) {
                Ok(n) => {
                    place.put(n);
                    Ok(if n == 0 && size > 0 { P2PD_AGAIN } else { P2PD_OK })
                }
                Err(WriteError::Ended) => Err(Fault::bare(P2PD_ERR_ENDED)),
                Err(_) => Err(Fault::bare(P2PD_ERR_CLOSED)),
            }
        })
    }
}

/// Runs a call on a stream.
unsafe fn on_stream(
    node: *mut p2pd_node,
    session: u64,
    stream: u32,
    call: impl FnOnce(&mut Session, Instant, StreamId),
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let (session, now) = inner.session_to_change(session)?;
            call(session, now, StreamId::from_number(stream));
            Ok(P2PD_OK)
        })
    }
}

/// Ends our direction of a stream: the peer reads P2PD_END after all that was written. Nothing to one that has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_stream_finish(node: *mut p2pd_node, session: u64, stream: u32) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { on_stream(node, session, stream, |session, now, id| session.finish(now, id)) }
}

/// Gives our direction of a stream up: bytes that wait are dropped, and the peer is told the code. Nothing to one that
/// has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_stream_reset(
    node: *mut p2pd_node,
    session: u64,
    stream: u32,
    code: u32,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { on_stream(node, session, stream, |session, now, id| session.reset(now, id, code)) }
}

/// Gives the peer's direction of a stream up: bytes that wait are dropped, and the peer is told the code. Nothing to one
/// that has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_stream_stop(
    node: *mut p2pd_node,
    session: u64,
    stream: u32,
    code: u32,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { on_stream(node, session, stream, |session, now, id| session.stop(now, id, code)) }
}

/// Sets a stream's priority: of the streams that can send, those with the greatest send first. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_stream_priority(
    node: *mut p2pd_node,
    session: u64,
    stream: u32,
    priority: i32,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { on_stream(node, session, stream, |session, _, id| session.set_priority(id, priority)) }
}

/// Sends a datagram of at most 1,200 bytes, which may get lost. P2PD_ERR_ARGUMENT: it is longer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_datagram_send(
    node: *mut p2pd_node,
    session: u64,
    data: *const c_void,
    size: usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let data = bytes(data, size)?;
            if data.len() > MAX_DATAGRAM {
                return Err(Fault::new(P2PD_ERR_ARGUMENT, "a datagram has at most 1,200 bytes"));
            }
            let (session, now) = inner.session_to_change(session)?;
            if session.send_datagram(now, data.to_vec().into()) {
                Ok(P2PD_OK)
            } else {
                Err(Fault::bare(P2PD_ERR_ENDED))
            }
        })
    }
}

/// Takes the oldest datagram that has come; `got` gets its size. P2PD_AGAIN: none, and P2PD_EVENT_SESSION_DATAGRAM follows.
/// What `size` has no room for is cut off; 1,200 bytes are always enough.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_datagram_receive(
    node: *mut p2pd_node,
    session: u64,
    data: *mut c_void,
    size: usize,
    got: *mut usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        clear(got);
        on(node, |inner| {
            let (place, to) = (Out::new(got)?, buffer(data, size)?);
            let (session, _) = inner.session(session)?;
            let Some(datagram) = session.read_datagram() else {
                return if session.is_over() { Err(Fault::bare(P2PD_ERR_ENDED)) } else { Ok(P2PD_AGAIN) };
            };
            let n = datagram.len().min(to.len());
            to[..n].copy_from_slice(&datagram[..n]);
            place.put(n);
            Ok(P2PD_OK)
        })
    }
}
