//! A stream that is the core's: reads by credit, writes what it is given, and ends as it is told.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes};
use p2pd_core::pipe::PipeStart;
use p2pd_core::{CloseHow, SockId};
use p2pd_sys::{failure, socket};
use std::collections::VecDeque;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::run::{Happened, prepare_close};

/// What is queued may take this long to leave when the stream ends gracefully, and the other end as long to
/// end its own direction.
const LINGER: Duration = Duration::from_secs(2);
/// Read at a time.
const CHUNK: usize = 16 * 1024;

/// What the core wants of a stream.
#[derive(Debug)]
pub(crate) enum Order {
    Send(Bytes),
    Read(usize),
    Close(CloseHow),
    Detach(Box<PipeStart>),
}

pub(crate) async fn run(
    sock: SockId,
    stream: TcpStream,
    mut orders: mpsc::UnboundedReceiver<Order>,
    events: mpsc::Sender<Happened>,
) {
    let mut credit = 0;
    let mut out: VecDeque<Bytes> = VecDeque::new();
    let mut ended = false;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Send(data)) => out.push_back(data),
                Some(Order::Read(more)) => credit += more,
                Some(Order::Close(CloseHow::Graceful)) => return finish(stream, out).await,
                Some(Order::Close(how)) => return prepare_close(&stream, how),
                Some(Order::Detach(pipe)) => {
                    // The core stops here; what it queued goes first.
                    let happened = match flush(&stream, &mut out).await {
                        Ok(()) => Happened::Detached { stream, pipe },
                        Err(e) => Happened::Lost { answers: pipe.answers, cause: failure(&e) },
                    };
                    let _ = events.send(happened).await;
                    return;
                }
                // The node is gone.
                None => return,
            },
            ready = stream.writable(), if !out.is_empty() => {
                if let Err(e) = ready.and_then(|()| write_some(&stream, &mut out)) {
                    let _ = events.send(Happened::Failed { sock, cause: failure(&e) }).await;
                    return;
                }
            }
            ready = stream.readable(), if credit > 0 && !ended => {
                socket::quick_ack(&stream);
                let mut buffer = vec![0; credit.min(CHUNK)];
                let happened = match ready.and_then(|()| stream.try_read(&mut buffer)) {
                    Ok(0) => {
                        ended = true;
                        Happened::Eof { sock }
                    }
                    Ok(n) => {
                        credit -= n;
                        buffer.truncate(n);
                        Happened::Stream { sock, data: buffer.into() }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(e) => {
                        let _ = events.send(Happened::Failed { sock, cause: failure(&e) }).await;
                        return;
                    }
                };
                if events.send(happened).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Writes as much as the system takes.
fn write_some(stream: &TcpStream, out: &mut VecDeque<Bytes>) -> io::Result<()> {
    while let Some(front) = out.front_mut() {
        match stream.try_write(front) {
            Ok(n) => front.advance(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
        if front.is_empty() {
            out.pop_front();
        }
    }
    Ok(())
}

async fn flush(stream: &TcpStream, out: &mut VecDeque<Bytes>) -> io::Result<()> {
    while !out.is_empty() {
        stream.writable().await?;
        write_some(stream, out)?;
    }
    Ok(())
}

/// Sends what is queued, then FIN, and reads the other direction out: a close over unread bytes would
/// send RST, which may overtake what was sent.
async fn finish(stream: TcpStream, mut out: VecDeque<Bytes>) {
    let ending = async {
        flush(&stream, &mut out).await?;
        socket2::SockRef::from(&stream).shutdown(std::net::Shutdown::Write)?;
        let mut waste = [0; 1024];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut waste) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    };
    let _: Result<io::Result<()>, _> = tokio::time::timeout(LINGER, ending).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pd_core::pipe::PipeKeys;
    use p2pd_core::{NodeId, SecretKey, Strategy};

    fn peer() -> NodeId {
        SecretKey::from_bytes([7; 32]).node_id()
    }

    async fn two() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(dial, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    fn pipe(stream: &TcpStream) -> Box<PipeStart> {
        Box::new(PipeStart {
            answers: smallvec::SmallVec::new(),
            peer: peer(),
            strategy: Strategy::Direct,
            local: stream.local_addr().unwrap(),
            remote: stream.peer_addr().unwrap(),
            elapsed: Duration::ZERO,
            keys: PipeKeys::Plain,
        })
    }

    fn start(stream: TcpStream) -> (mpsc::UnboundedSender<Order>, mpsc::Receiver<Happened>) {
        let (orders, queue) = mpsc::unbounded_channel();
        let (events, happened) = mpsc::channel(16);
        tokio::spawn(run(SockId::accepted(1), stream, queue, events));
        (orders, happened)
    }

    #[tokio::test]
    async fn a_stream_that_broke_before_it_was_handed_out_is_reported() {
        let (near, far) = two().await;
        let pipe = pipe(&near);
        let (orders, mut happened) = start(near);
        socket::reset_on_close(&far).unwrap();
        drop(far);
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Whoever waits for this pipe must hear of it, or waits for ever.
        orders.send(Order::Send(Bytes::from_static(b"confirm"))).unwrap();
        orders.send(Order::Detach(pipe)).unwrap();
        let told = happened.recv().await;
        assert!(matches!(told, Some(Happened::Lost { cause: p2pd_core::IoFailure::Reset, .. })), "{told:?}");
    }

    #[tokio::test]
    async fn not_one_byte_is_read_beyond_the_credit() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (near, mut far) = two().await;
        let pipe = pipe(&near);
        let (orders, mut happened) = start(near);
        far.write_all(b"0123456789").await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(50), happened.recv()).await;
        assert!(quiet.is_err(), "read without credit: {quiet:?}");
        orders.send(Order::Read(3)).unwrap();
        let told = happened.recv().await;
        assert!(matches!(&told, Some(Happened::Stream { data, .. }) if &data[..] == b"012"), "{told:?}");
        orders.send(Order::Detach(pipe)).unwrap();
        let Some(Happened::Detached { mut stream, .. }) = happened.recv().await else {
            panic!("not detached")
        };
        let mut rest = [0; 7];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"3456789");
    }
}
