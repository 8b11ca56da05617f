//! The broker's sockets: one task owns the broker, one serves each client.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pd_rendezvous::ConnId;
use p2pd_rendezvous::mqtt::{Broker, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// What the clients' tasks have said and the broker has not heard; a task with more to say waits.
const QUEUE: usize = 1024;
/// A closed client may take this long to take the rest of its output.
const LINGER: Duration = Duration::from_secs(5);

enum Happened {
    Accepted(TcpStream),
    Received(ConnId, Bytes),
    Sent(ConnId, usize),
    Closed(ConnId),
}

struct Client {
    /// Bounded by the broker, which counts what was not sent.
    output: mpsc::UnboundedSender<Bytes>,
    /// Dropped with the client: its task then has [`LINGER`] to end.
    _closing: oneshot::Sender<()>,
}

pub(super) async fn run(began: Instant, mut broker: Broker, listeners: Vec<TcpListener>) {
    let (events, mut happened) = mpsc::channel(QUEUE);
    // Dropped with this task, and with it every client.
    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn(accept(listener, events.clone()));
    }
    let mut clients: HashMap<ConnId, Client> = HashMap::new();
    let mut next = 0;
    loop {
        let left = broker.poll_timeout().map(|at| at.saturating_sub(began.elapsed()));
        tokio::select! {
            event = happened.recv() => match event {
                None => return,
                Some(Happened::Accepted(stream)) => {
                    let conn = ConnId(next);
                    next += 1;
                    let _ = stream.set_nodelay(true);
                    let (output, queue) = mpsc::unbounded_channel();
                    let (closing, closed) = oneshot::channel();
                    tasks.spawn(client(conn, stream, queue, closed, events.clone()));
                    clients.insert(conn, Client { output, _closing: closing });
                    broker.accept(began.elapsed(), conn);
                }
                Some(Happened::Received(conn, data)) => broker.receive(began.elapsed(), conn, &data),
                Some(Happened::Sent(conn, n)) => broker.sent(conn, n),
                Some(Happened::Closed(conn)) => {
                    clients.remove(&conn);
                    broker.closed(began.elapsed(), conn);
                }
            },
            () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {
                broker.handle_timeout(began.elapsed());
            }
            Some(_) = tasks.join_next() => {}
        }
        while let Some(output) = broker.poll_output() {
            match output {
                Output::Send(conn, data) => {
                    if let Some(client) = clients.get(&conn) {
                        let _ = client.output.send(data);
                    }
                }
                // The end of the queue is the end of the stream.
                Output::Close(conn) => drop(clients.remove(&conn)),
            }
        }
    }
}

async fn accept(listener: TcpListener, events: mpsc::Sender<Happened>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if events.send(Happened::Accepted(stream)).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn client(
    conn: ConnId,
    mut stream: TcpStream,
    queue: mpsc::UnboundedReceiver<Bytes>,
    closed: oneshot::Receiver<()>,
    events: mpsc::Sender<Happened>,
) {
    let (read, write) = stream.split();
    let both = async { tokio::join!(receive(conn, read, events.clone()), send(conn, write, queue, events)) };
    let given_up = async {
        let _ = closed.await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        _ = both => {}
        () = given_up => {}
    }
}

/// Reads to the end. What comes after the broker has closed the client is nobody's, but left unread it would
/// make the system reset the stream, and the broker's last word would be lost.
async fn receive(conn: ConnId, mut stream: ReadHalf<'_>, events: mpsc::Sender<Happened>) {
    let mut buffer = vec![0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let data = Bytes::copy_from_slice(&buffer[..n]);
        if events.send(Happened::Received(conn, data)).await.is_err() {
            return;
        }
    }
    let _ = events.send(Happened::Closed(conn)).await;
}

async fn send(
    conn: ConnId,
    mut stream: WriteHalf<'_>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    events: mpsc::Sender<Happened>,
) {
    while let Some(data) = queue.recv().await {
        let sent = stream.write_all(&data).await.is_ok();
        let said = if sent { Happened::Sent(conn, data.len()) } else { Happened::Closed(conn) };
        if events.send(said).await.is_err() || !sent {
            return;
        }
    }
    let _ = stream.shutdown().await;
}
