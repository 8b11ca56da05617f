//! The broker's sockets: one task owns the broker, one serves each client.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use p2pd_rendezvous::ConnId;
use p2pd_rendezvous::mqtt::{Broker, Limits, Output, Stats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

/// Most events of the clients' tasks that wait for the broker. A task with more waits too.
const QUEUE: usize = 1024;
/// A closed client may take this long to take the rest of its output.
const LINGER: Duration = Duration::from_secs(5);
/// Closed clients that may do so at a time; each has a socket still.
const LINGERING: usize = 256;

enum Happened {
    Accepted(TcpStream, IpAddr),
    Received(ConnId, Bytes),
    Sent(ConnId, usize),
    Closed(ConnId),
}

/// Output that waits for a client. The broker bounds it by counting bytes. It is therefore kept as bytes: a queue of
/// packets of two bytes would take a hundred times as much.
#[derive(Default)]
struct Outbox {
    /// Bytes that wait, and true if no more will come.
    waiting: Mutex<(Vec<u8>, bool)>,
    changed: Notify,
}

impl Outbox {
    fn change(&self, change: impl FnOnce(&mut (Vec<u8>, bool))) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Takes all bytes that wait; `None` once no more will come.
    async fn take(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if !waiting.0.is_empty() {
                    return Some(mem::take(&mut waiting.0));
                }
                if waiting.1 {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

struct Client {
    output: Arc<Outbox>,
    /// Signal to the client's task, by its drop: the task then has [`LINGER`] to end.
    _closing: oneshot::Sender<()>,
    task: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.output.change(|waiting| waiting.1 = true);
    }
}

/// Serves for ever; `counter` has the broker's counters.
pub(super) async fn run(
    began: Instant,
    limits: Limits,
    listeners: Vec<TcpListener>,
    counter: watch::Sender<Stats>,
) {
    let mut broker = Broker::new(limits);
    let (events, mut happened) = mpsc::channel(QUEUE);
    // Dropped with this task, and with it every client.
    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn(accept(listener, events.clone()));
    }
    let mut clients: HashMap<ConnId, Client> = HashMap::new();
    let mut lingering = VecDeque::new();
    let mut next = 0;
    loop {
        // Somebody may set the clock meanwhile.
        if let Ok(unix) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            broker.set_unix_time(began.elapsed(), unix);
        }
        let left = broker.poll_timeout().map(|at| at.saturating_sub(began.elapsed()));
        tokio::select! {
            event = happened.recv() => match event {
                None => return,
                Some(Happened::Accepted(stream, from)) => {
                    let conn = ConnId(next);
                    next += 1;
                    if broker.accept(began.elapsed(), conn, from) {
                        p2pd_sys::accepted_node(&stream);
                        let output = Arc::new(Outbox::default());
                        let (closing, closed) = oneshot::channel();
                        let task = tasks.spawn(client(conn, stream, output.clone(), closed, events.clone()));
                        clients.insert(conn, Client { output, _closing: closing, task });
                    }
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
        counter.send_replace(broker.stats());
        while let Some(output) = broker.poll_output() {
            match output {
                Output::Send(conn, data) => {
                    if let Some(client) = clients.get(&conn) {
                        client.output.change(|waiting| waiting.0.extend_from_slice(&data));
                    }
                }
                // The end of the queue is the end of the stream.
                Output::Close(conn) => {
                    lingering.extend(clients.remove(&conn).map(|client| client.task.clone()));
                    if lingering.len() > LINGERING
                        && let Some(first) = lingering.pop_front()
                    {
                        first.abort();
                    }
                }
                Output::Drop(conn) => {
                    if let Some(client) = clients.remove(&conn) {
                        client.task.abort();
                    }
                }
            }
        }
    }
}

async fn accept(listener: TcpListener, events: mpsc::Sender<Happened>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if events.send(Happened::Accepted(stream, from.ip())).await.is_err() {
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
    output: Arc<Outbox>,
    closed: oneshot::Receiver<()>,
    events: mpsc::Sender<Happened>,
) {
    let (read, write) = stream.split();
    let both =
        async { tokio::join!(receive(conn, read, events.clone()), send(conn, write, &output, events)) };
    let given_up = async {
        let _ = closed.await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        _ = both => {}
        () = given_up => {}
    }
}

/// Reads to the end. Bytes that come after the broker has closed the client are dropped. Left unread they would make
/// the system reset the stream, and the broker's last message would be lost.
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

async fn send(conn: ConnId, mut stream: WriteHalf<'_>, output: &Outbox, events: mpsc::Sender<Happened>) {
    while let Some(data) = output.take().await {
        let mut rest = &data[..];
        while !rest.is_empty() {
            // Said piece by piece: a slow client is one that takes nothing, not one that has not taken all.
            let said = match stream.write(rest).await {
                Ok(n @ 1..) => {
                    rest = &rest[n..];
                    Happened::Sent(conn, n)
                }
                _ => Happened::Closed(conn),
            };
            let over = matches!(said, Happened::Closed(_));
            if events.send(said).await.is_err() || over {
                return;
            }
        }
    }
    let _ = stream.shutdown().await;
}
