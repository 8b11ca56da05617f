//! The task by which the echo service answers while nobody reads a pipe.

use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use p2pd_sys::{Layer, ReadAhead};
use socket2::SockRef;

use crate::runtime::Runtime;

/// Time that a reader has to take what came: whoever reads answers by itself.
const READER: Duration = Duration::from_millis(20);
/// Pause before the next look while the reader has enough to read.
const FULL: Duration = Duration::from_millis(500);

/// Answers on this pipe while nobody reads it, until it is dropped or has ended. `socket` is a duplicate of its stream.
pub async fn echo<R: Runtime>(socket: R::Tcp, layer: Weak<Mutex<Layer>>) {
    loop {
        // That it ended or broke is something to read, too.
        let _ = R::peek(&socket).await;
        let Some(before) = with(&layer, |layer| layer.reads()) else { return };
        R::sleep(READER).await;
        let work = |layer: &mut Layer| {
            let there =
                !matches!(peek(R::tcp_socket(&socket)), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
            let unread = there && layer.reads() == before;
            let mut io = Bare(R::tcp_socket(&socket));
            if unread { layer.read_ahead(&mut io) } else { ReadAhead::Waits }
        };
        match with(&layer, work) {
            Some(ReadAhead::Waits) => {}
            Some(ReadAhead::Sending) => {
                while sends::<R>(&socket, &layer) {
                    R::sleep(READER).await;
                }
            }
            Some(ReadAhead::Full) => R::sleep(FULL).await,
            Some(ReadAhead::Ended) | None => return,
        }
    }
}

/// Sends the replies that wait. Returns true if some still do.
fn sends<R: Runtime>(socket: &R::Tcp, layer: &Weak<Mutex<Layer>>) -> bool {
    let sent = with(layer, |layer| layer.flush(&mut Bare(R::tcp_socket(socket))));
    sent.is_some_and(|sent| sent.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock))
}

fn with<T>(layer: &Weak<Mutex<Layer>>, work: impl FnOnce(&mut Layer) -> T) -> Option<T> {
    let layer = layer.upgrade()?;
    let mut layer = layer.lock().unwrap_or_else(PoisonError::into_inner);
    Some(work(&mut layer))
}

fn peek(socket: SockRef<'_>) -> io::Result<usize> {
    socket.peek(&mut [std::mem::MaybeUninit::uninit()])
}

/// A socket that does not block.
struct Bare<'s>(SockRef<'s>);

impl Read for Bare<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&mut &*self.0).read(buf)
    }
}

impl Write for Bare<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&mut &*self.0).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
