//! Pipes.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_void};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::{Interest, Registry, Token};
use p2pd_core::PipeMode;
use p2pd_mio::Pipe;

use crate::border::{Out, OutStruct, Sized32, buffer, bytes, clear, on, text_field};
use crate::event::{P2PD_EVENT_PIPE_READABLE, P2PD_EVENT_PIPE_WRITABLE, Told};
use crate::node::p2pd_node;
use crate::plan::number;
use crate::status::*;

/// Time that bytes of a pipe which was ended and closed have to leave.
const SOON: Duration = Duration::from_secs(10);

/// Pipes of a node, by their ids.
#[derive(Debug)]
pub(crate) struct Pipes {
    held: HashMap<u64, Held>,
    ready: VecDeque<(u64, Way)>,
    last: u64,
    /// Token of the pipe 0.
    tokens: usize,
    /// Closed by the user, with bytes that have to leave, until this time.
    leaving: Vec<(u64, Instant)>,
}

#[derive(Debug)]
struct Held {
    pipe: Pipe,
    /// The user waits to be told that something can be read.
    wants_read: bool,
    /// The user waits to be told that something can be written.
    wants_write: bool,
    writing: Writing,
}

/// State of our direction of a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writing {
    Open,
    /// The user ended it; bytes have to leave first.
    Ending,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Read,
    Write,
}

impl Held {
    fn end(&mut self) -> io::Result<()> {
        self.writing = Writing::Ending;
        match self.pipe.shutdown() {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(()),
            done => {
                self.writing = Writing::Ended;
                done
            }
        }
    }
}

impl Pipes {
    pub(crate) fn new(tokens: usize) -> Self {
        Pipes { held: HashMap::new(), ready: VecDeque::new(), last: 0, tokens, leaving: Vec::new() }
    }

    fn token(&self, id: u64) -> Option<Token> {
        usize::try_from(id).ok()?.checked_add(self.tokens).map(Token)
    }

    pub(crate) fn insert(&mut self, registry: &Registry, mut pipe: Pipe) -> io::Result<u64> {
        let id = self.last + 1;
        let token = self.token(id).ok_or(io::ErrorKind::OutOfMemory)?;
        registry.register(&mut pipe, token, Interest::READABLE | Interest::WRITABLE)?;
        self.last = id;
        // What came with the hello is in the pipe already, so the system may have nothing to tell.
        self.ready.push_back((id, Way::Read));
        self.held.insert(id, Held { pipe, wants_read: false, wants_write: false, writing: Writing::Open });
        Ok(id)
    }

    fn get(&mut self, id: u64) -> Result<&mut Held, Fault> {
        let leaves = self.leaving.iter().any(|(leaving, _)| *leaving == id);
        self.held.get_mut(&id).filter(|_| !leaves).ok_or_else(|| Fault::bare(P2PD_ERR_UNKNOWN))
    }

    pub(crate) fn handle(&mut self, event: &mio::event::Event) {
        let Some(id) = event.token().0.checked_sub(self.tokens) else { return };
        let id = id as u64;
        let Some(held) = self.held.get_mut(&id) else { return };
        let broken = event.is_error();
        if event.is_writable() || event.is_write_closed() || broken {
            // An error is told at the user's next call.
            let _ = match held.writing {
                Writing::Ending => held.end(),
                _ if held.pipe.wants_write() => held.pipe.flush(),
                _ => Ok(()),
            };
            if std::mem::take(&mut held.wants_write) {
                self.ready.push_back((id, Way::Write));
            }
        }
        if (event.is_readable() || event.is_read_closed() || broken) && std::mem::take(&mut held.wants_read) {
            self.ready.push_back((id, Way::Read));
        }
    }

    /// Lets go of closed pipes whose bytes have left, or had their time.
    pub(crate) fn tick(&mut self, registry: &Registry) {
        if self.leaving.is_empty() {
            return;
        }
        let (now, held) = (Instant::now(), &mut self.held);
        self.leaving.retain(|(id, until)| {
            let leaves = *until > now && held.get(id).is_some_and(|held| held.writing == Writing::Ending);
            if !leaves && let Some(mut gone) = held.remove(id) {
                // It was registered, so this cannot fail but by the loop's own end.
                let _ = registry.deregister(&mut gone.pipe);
            }
            leaves
        });
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let until = self.leaving.iter().map(|(_, until)| *until).min()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn next_ready(&mut self) -> Option<Told> {
        loop {
            let (id, way) = self.ready.pop_front()?;
            if self.get(id).is_ok() {
                let kind = match way {
                    Way::Read => P2PD_EVENT_PIPE_READABLE,
                    Way::Write => P2PD_EVENT_PIPE_WRITABLE,
                };
                return Some(Told::new(kind).pipe(id));
            }
        }
    }

    fn read(&mut self, id: u64, to: &mut [u8]) -> Result<Option<usize>, Fault> {
        let held = self.get(id)?;
        if to.is_empty() {
            return Err(Fault::new(P2PD_ERR_BUFFER, "the buffer has no room"));
        }
        loop {
            return match held.pipe.read(to) {
                Ok(n) => Ok(Some(n)),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    held.wants_read = true;
                    Ok(None)
                }
                Err(why) => Err(broken(&why)),
            };
        }
    }

    /// Writes until the pipe takes no more. Bytes that were taken count. An error behind them comes with the next call, which
    /// an event calls for: then the second is true.
    fn write(&mut self, id: u64, data: &[u8]) -> Result<(usize, bool), Fault> {
        let held = self.get(id)?;
        if held.writing != Writing::Open {
            return Err(Fault::bare(P2PD_ERR_CLOSED));
        }
        let mut taken = 0;
        while taken < data.len() {
            match held.pipe.write(&data[taken..]) {
                Ok(n) => taken += n,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    held.wants_write = true;
                    break;
                }
                Err(why) if taken == 0 => return Err(broken(&why)),
                Err(_) => {
                    self.ready.push_back((id, Way::Write));
                    return Ok((taken, true));
                }
            }
        }
        Ok((taken, false))
    }

    /// Closes a pipe. Returns true if bytes have to leave first, which needs turns.
    pub(crate) fn close(&mut self, registry: &Registry, id: u64) -> Result<bool, Fault> {
        let leaves = self.get(id)?.writing == Writing::Ending;
        if leaves {
            self.leaving.push((id, Instant::now() + SOON));
        } else if let Some(mut held) = self.held.remove(&id) {
            // It was registered, so this cannot fail but by the loop's own end.
            let _ = registry.deregister(&mut held.pipe);
        }
        Ok(leaves)
    }
}

#[cfg(unix)]
impl Pipes {
    /// Gives the bare socket of a pipe away.
    pub(crate) fn take(&mut self, registry: &Registry, id: u64) -> Result<c_int, Fault> {
        let held = self.get(id)?;
        let bare = held.pipe.mode() == PipeMode::Plain && held.pipe.strategy() < p2pd_core::Strategy::Udp;
        if !bare || held.writing == Writing::Ending || held.pipe.wants_write() {
            return Err(Fault::bare(P2PD_ERR_UNSUPPORTED));
        }
        let Some(mut held) = self.held.remove(&id) else { return Err(Fault::bare(P2PD_ERR_UNKNOWN)) };
        // It was registered, so this cannot fail but by the loop's own end.
        let _ = registry.deregister(&mut held.pipe);
        // A plain pipe without echo service, of which nothing waits: its stream may leave.
        let stream = held.pipe.into_tcp_stream().map_err(|_| Fault::bare(P2PD_ERR_UNSUPPORTED))?;
        Ok(std::os::fd::IntoRawFd::into_raw_fd(stream))
    }
}

fn broken(why: &io::Error) -> Fault {
    Fault::new(P2PD_ERR_BROKEN, why)
}

/// Properties of a pipe.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
// Exhaustive: C has its layout. It may grow at its end, and says its size.
pub struct p2pd_pipe_info {
    /// sizeof(p2pd_pipe_info), set by the caller before the call.
    pub size: u32,
    /// Number of the p2pd_strategy that opened it.
    pub strategy: u32,
    /// Number of its p2pd_mode.
    pub mode: u32,
    /// Of a pipe that a peer opened: 1 if the accept list or a yes named the peer, 0 for a stranger.
    pub named: u32,
    /// Microseconds that opening took.
    pub elapsed_us: u64,
    /// The peer's proven node id, with a zero byte.
    pub peer: [c_char; 64],
    /// Local end as IP:PORT, with a zero byte; of a relayed pipe the relayed address, where it is ours.
    pub local: [c_char; 64],
    /// The peer's end as seen from here, with a zero byte.
    pub remote: [c_char; 64],
    /// Protocol that the caller named, with a zero byte. Empty for none.
    pub protocol: [c_char; 72],
}

// SAFETY: numbers, the size first.
unsafe impl Sized32 for p2pd_pipe_info {
    const FIRST: usize = size_of::<p2pd_pipe_info>();
}

/// Says what is known of a pipe; the `size` of `info` is set before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_pipe_get_info(
    node: *mut p2pd_node,
    pipe: u64,
    info: *mut p2pd_pipe_info,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let place = OutStruct::new(info)?;
            let pipe = &inner.pipes.get(pipe)?.pipe;
            let protocol = pipe.protocol();
            place.put(p2pd_pipe_info {
                size: 0,
                strategy: number(pipe.strategy()),
                mode: u32::from(pipe.mode() == PipeMode::Plain),
                named: u32::from(pipe.is_named()),
                elapsed_us: u64::try_from(pipe.elapsed().as_micros()).unwrap_or(u64::MAX),
                peer: text_field(pipe.peer().to_string().as_bytes()),
                local: text_field(pipe.local_addr().to_string().as_bytes()),
                remote: text_field(pipe.remote_addr().to_string().as_bytes()),
                protocol: text_field(protocol.as_ref().map_or(&[], |tag| tag.as_bytes())),
            });
            Ok(P2PD_OK)
        })
    }
}

/// Reads what has come, up to `size` bytes; `got` gets their number. P2PD_AGAIN: nothing now, and P2PD_EVENT_PIPE_READABLE
/// follows. P2PD_END: the peer ended its direction. P2PD_ERR_BROKEN: the pipe was cut off, among others. Where there is
/// nothing, `got` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_pipe_read(
    node: *mut p2pd_node,
    pipe: u64,
    data: *mut c_void,
    size: usize,
    got: *mut usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        clear(got);
        on(node, |inner| {
            let (place, to) = (Out::new(got)?, buffer(data, size)?);
            let Some(n) = inner.pipes.read(pipe, to)? else { return Ok(P2PD_AGAIN) };
            place.put(n);
            Ok(if n == 0 { P2PD_END } else { P2PD_OK })
        })
    }
}

/// Writes; `taken` gets the number of bytes that were taken, which leave by themselves. If they are fewer than `size`,
/// P2PD_EVENT_PIPE_WRITABLE follows; if they are none, the result is P2PD_AGAIN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_pipe_write(
    node: *mut p2pd_node,
    pipe: u64,
    data: *const c_void,
    size: usize,
    taken: *mut usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        clear(taken);
        on(node, |inner| {
            let (place, from) = (Out::new(taken)?, bytes(data, size)?);
            let (n, failed) = inner.pipes.write(pipe, from)?;
            if failed {
                inner.stir();
            }
            place.put(n);
            Ok(if n == 0 && size > 0 { P2PD_AGAIN } else { P2PD_OK })
        })
    }
}

/// Ends our direction: the peer reads P2PD_END after all that was written. The other direction goes on. Nothing to a
/// direction that was ended before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_pipe_shutdown(node: *mut p2pd_node, pipe: u64) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let held = inner.pipes.get(pipe)?;
            if held.writing == Writing::Open {
                held.end().map_err(|why| broken(&why))?;
            }
            Ok(P2PD_OK)
        })
    }
}

/// Closes a pipe; its id is gone. After p2pd_pipe_shutdown what was written still leaves, within 10 s of turns. Without it the
/// pipe is cut off, and the peer reads P2PD_ERR_BROKEN if it is encrypted. Bytes that the peer sends from now on are lost, and a
/// system may then drop what it has not sent yet: to lose nothing, read until P2PD_END before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_pipe_close(node: *mut p2pd_node, pipe: u64) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            inner.close_pipe(pipe)?;
            Ok(P2PD_OK)
        })
    }
}

/// Takes the bare TCP socket of a plain pipe, if all that was written has left. The socket does not block, and is the
/// caller's to close; the pipe's id is gone. P2PD_ERR_UNSUPPORTED, and the pipe stays as it is: it is encrypted or relayed,
/// or this system has no descriptors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_pipe_take_fd(node: *mut p2pd_node, pipe: u64, fd: *mut c_int) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let place = Out::new(fd)?;
            #[cfg(unix)]
            {
                place.put(inner.take_pipe(pipe)?);
                Ok(P2PD_OK)
            }
            #[cfg(not(unix))]
            {
                let _ = (inner.pipes.get(pipe)?, place);
                Err(Fault::bare(P2PD_ERR_UNSUPPORTED))
            }
        })
    }
}
