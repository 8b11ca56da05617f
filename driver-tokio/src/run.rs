//! The task that owns the core: carries out its actions, wakes it at its deadline, tells it what happens.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use p2pd_core::io::Interface;
use p2pd_core::nat::NatReport;
use p2pd_core::pipe::PipeStart;
use p2pd_core::trace::Recorder;
use p2pd_core::{
    Action, CloseHow, ConnectId, Event, Instant, IoFailure, NodeId, Notice, PeerAddress, Plan, QueryId,
    SockId, Stats,
};
use p2pd_sys::{Clock, failure, socket};
use smallvec::SmallVec;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::dial::{self, Dial};
use crate::error::ConnectError;
use crate::node::Address;
use crate::pipe::Pipe;
use crate::stream::{self, Order};

/// Events between the sockets' tasks and this one; a task with more to say waits.
const EVENT_QUEUE: usize = 256;
/// Events handled before the timer is looked at again.
const BUDGET: usize = 64;
/// The wall clock is read again after this long, when the node is awake anyway.
const CLOCK_AGAIN: Duration = Duration::from_secs(60);
/// Streams that are being closed may take this long when the node ends.
const END_WITHIN: Duration = Duration::from_secs(1);

/// What a handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Connect {
        token: u64,
        to: Box<PeerAddress>,
        plan: Plan,
        begun: oneshot::Sender<Result<ConnectId, p2pd_core::ConnectError>>,
        done: oneshot::Sender<Result<Pipe, ConnectError>>,
    },
    Cancel {
        token: u64,
    },
    Answer {
        peer: NodeId,
        accept: bool,
    },
    Nats(oneshot::Sender<Vec<NatReport>>),
    Stats(oneshot::Sender<Stats>),
    Shutdown(oneshot::Sender<()>),
}

/// Where results go.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) accept: mpsc::Sender<Pipe>,
    /// Pipes closed because nobody accepted them.
    pub(crate) turned_away: Arc<AtomicU64>,
    pub(crate) notices: broadcast::Sender<Notice>,
    pub(crate) address: watch::Sender<Address>,
    pub(crate) echo: bool,
}

/// What a socket's task, or the system at once, has to say.
#[derive(Debug)]
pub(crate) enum Happened {
    Bound {
        sock: SockId,
        local: SocketAddr,
    },
    Fired {
        sock: SockId,
        late: Duration,
    },
    Connected {
        sock: SockId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    Accepted {
        listener: SockId,
        stream: TcpStream,
        remote: SocketAddr,
    },
    Failed {
        sock: SockId,
        cause: IoFailure,
    },
    Datagram {
        sock: SockId,
        from: SocketAddr,
        data: Bytes,
    },
    Stream {
        sock: SockId,
        data: Bytes,
    },
    Eof {
        sock: SockId,
    },
    Resolved {
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    },
    /// A stream that broke when it was to be handed out.
    Lost {
        answers: SmallVec<[ConnectId; 1]>,
        cause: IoFailure,
    },
    /// A stream that is the user's from now on.
    Detached {
        stream: TcpStream,
        pipe: Box<PipeStart>,
    },
}

#[derive(Debug)]
enum Sock {
    Udp(Arc<UdpSocket>, AbortHandle),
    Listener(AbortHandle),
    Stream(mpsc::UnboundedSender<Order>),
}

struct Driver {
    core: Recorder,
    clock: Clock,
    socks: HashMap<SockId, Sock>,
    queries: HashMap<QueryId, AbortHandle>,
    calls: HashMap<ConnectId, (u64, oneshot::Sender<Result<Pipe, ConnectError>>)>,
    accepted: u32,
    events: mpsc::Sender<Happened>,
    tasks: JoinSet<()>,
    out: Outputs,
    clock_read: Instant,
    closed: bool,
}

pub(crate) async fn run(
    core: Recorder,
    clock: Clock,
    interfaces: Vec<Interface>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    out: Outputs,
) {
    let (events, mut happened) = mpsc::channel(EVENT_QUEUE);
    let mut driver = Driver {
        core,
        clock,
        socks: HashMap::new(),
        queries: HashMap::new(),
        calls: HashMap::new(),
        accepted: 0,
        events,
        tasks: JoinSet::new(),
        out,
        clock_read: clock.now(),
        closed: false,
    };
    let now = clock.now();
    driver.core.handle(now, Event::Clock(p2pd_sys::wall_clock(now)));
    driver.core.handle(now, Event::Interfaces(&interfaces));
    driver.carry_out();
    let timer = tokio::time::sleep(Duration::MAX / 4);
    tokio::pin!(timer);
    let mut waiting_for_end = Vec::new();
    let mut handles = true;
    while !driver.closed {
        let deadline = driver.core.poll_timeout();
        if let Some(at) = deadline {
            timer.as_mut().reset(tokio::time::Instant::now() + clock.until(at));
        }
        tokio::select! {
            command = commands.recv(), if handles => match command {
                Some(Command::Shutdown(done)) => {
                    waiting_for_end.push(done);
                    driver.core.shutdown(clock.now());
                }
                // The last handle is gone.
                None => {
                    handles = false;
                    driver.core.shutdown(clock.now());
                }
                Some(command) => driver.command(command),
            },
            first = happened.recv() => {
                let mut next = first;
                for _ in 0..BUDGET {
                    let Some(event) = next else { break };
                    driver.tell(event);
                    next = happened.try_recv().ok();
                }
                if let Some(event) = next {
                    driver.tell(event);
                }
            }
            () = &mut timer, if deadline.is_some() => driver.core.handle(clock.now(), Event::Timeout),
            // Ended tasks are forgotten.
            Some(_) = driver.tasks.join_next(), if !driver.tasks.is_empty() => {}
        }
        driver.carry_out();
    }
    // What was still to be sent by streams that end gracefully.
    let ending = async { while driver.tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(END_WITHIN, ending).await;
    driver.tasks.shutdown().await;
    drop(driver);
    for done in waiting_for_end {
        let _ = done.send(());
    }
}

impl Driver {
    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Connect { token, to, plan, begun, done } => {
                let id = self.core.connect(now, &to, plan);
                if let Ok(id) = id {
                    self.calls.insert(id, (token, done));
                }
                if begun.send(id).is_err()
                    && let Ok(id) = id
                {
                    // Given up before it was told: the canceller's word may have come first.
                    self.calls.remove(&id);
                    self.core.cancel(now, id);
                }
            }
            Command::Cancel { token } => {
                let id = self.calls.iter().find(|(_, (t, _))| *t == token).map(|(id, _)| *id);
                if let Some(id) = id {
                    self.calls.remove(&id);
                    self.core.cancel(now, id);
                }
            }
            Command::Answer { peer, accept } => self.core.answer(now, peer, accept),
            Command::Nats(reply) => {
                let _ = reply.send(self.core.nats().cloned().collect());
            }
            Command::Stats(reply) => {
                let _ = reply.send(self.core.stats());
            }
            Command::Shutdown(_) => {}
        }
    }

    /// Tells the core, unless the socket was closed meanwhile.
    fn tell(&mut self, happened: Happened) {
        let now = self.clock.now();
        if now.since(self.clock_read) > CLOCK_AGAIN {
            self.clock_read = now;
            self.core.handle(now, Event::Clock(p2pd_sys::wall_clock(now)));
        }
        let open = |sock: &SockId| self.socks.contains_key(sock);
        match happened {
            Happened::Bound { sock, local } if open(&sock) => {
                self.core.handle(now, Event::Bound { sock, local })
            }
            Happened::Fired { sock, late } if open(&sock) => {
                self.core.handle(now, Event::Fired { sock, late })
            }
            Happened::Connected { sock, local, remote } if open(&sock) => {
                self.core.handle(now, Event::Connected { sock, local, remote });
            }
            Happened::Accepted { listener, stream, remote } if open(&listener) => {
                let Ok(local) = stream.local_addr() else { return };
                let sock = SockId::accepted(self.accepted);
                self.accepted += 1;
                let (orders, queue) = mpsc::unbounded_channel();
                self.tasks.spawn(stream::run(sock, stream, queue, self.events.clone()));
                self.socks.insert(sock, Sock::Stream(orders));
                self.core.handle(now, Event::Accepted { listener, sock, local, remote });
            }
            // A bind or dial that failed at once was never in the table.
            Happened::Failed { sock, cause } => {
                self.socks.remove(&sock);
                self.core.handle(now, Event::Failed { sock, cause });
            }
            Happened::Datagram { sock, from, data } if open(&sock) => {
                self.core.handle(now, Event::Datagram { sock, from, data: &data });
            }
            Happened::Stream { sock, data } if open(&sock) => {
                self.core.handle(now, Event::Stream { sock, data: &data });
            }
            Happened::Eof { sock } if open(&sock) => self.core.handle(now, Event::Eof { sock }),
            Happened::Resolved { query, result } if self.queries.remove(&query).is_some() => {
                self.core.handle(now, Event::Resolved { query, result });
            }
            Happened::Detached { stream, pipe } => self.hand_out(stream, *pipe),
            Happened::Lost { answers, cause } => {
                for connect in answers {
                    self.answer(connect, Err(ConnectError::Lost(cause)));
                }
            }
            _ => {}
        }
    }

    /// Does what the core asks, until it asks nothing more.
    fn carry_out(&mut self) {
        let mut at_once = VecDeque::new();
        loop {
            while let Some(action) = self.core.poll_action() {
                self.act(action, &mut at_once);
            }
            match at_once.pop_front() {
                Some(happened) => self.tell(happened),
                None => return,
            }
        }
    }

    fn act(&mut self, action: Action, at_once: &mut VecDeque<Happened>) {
        match action {
            Action::BindUdp { sock, local, opts } => {
                let bound = socket::udp(local, &opts).and_then(UdpSocket::from_std);
                match bound.and_then(|udp| udp.local_addr().map(|local| (Arc::new(udp), local))) {
                    Ok((udp, local)) => {
                        let task =
                            self.tasks.spawn(receive_datagrams(sock, udp.clone(), self.events.clone()));
                        self.socks.insert(sock, Sock::Udp(udp, task));
                        at_once.push_back(Happened::Bound { sock, local });
                    }
                    Err(e) => at_once.push_back(Happened::Failed { sock, cause: failure(&e) }),
                }
            }
            Action::Listen { sock, local, backlog, opts } => {
                let bound = socket::listener(local, backlog, &opts).and_then(TcpListener::from_std);
                match bound.and_then(|l| l.local_addr().map(|local| (l, local))) {
                    Ok((listener, local)) => {
                        let accepting = accept_streams(sock, listener, opts.nodelay, self.events.clone());
                        let task = self.tasks.spawn(accepting);
                        self.socks.insert(sock, Sock::Listener(task));
                        at_once.push_back(Happened::Bound { sock, local });
                    }
                    Err(e) => at_once.push_back(Happened::Failed { sock, cause: failure(&e) }),
                }
            }
            Action::Connect { sock, local, remote, opts, at, deadline } => {
                match socket::dialler(local, &opts) {
                    Ok(socket) => {
                        let (orders, queue) = mpsc::unbounded_channel();
                        let dial = Dial { sock, socket, remote, at, deadline, clock: self.clock };
                        self.tasks.spawn(dial::run(dial, queue, self.events.clone()));
                        self.socks.insert(sock, Sock::Stream(orders));
                    }
                    Err(e) => at_once.push_back(Happened::Failed { sock, cause: failure(&e) }),
                }
            }
            Action::SendDatagram { sock, to, data } => {
                if let Some(Sock::Udp(udp, _)) = self.socks.get(&sock) {
                    // Not tokio's own try: it fails until its reactor has seen the new socket once.
                    let _ = socket2::SockRef::from(&**udp).send_to(&data, &to.into());
                }
            }
            Action::SendStream { sock, data } => self.order(sock, Order::Send(data)),
            Action::Read { sock, credit } => self.order(sock, Order::Read(credit as usize)),
            Action::Close { sock, how } => match self.socks.remove(&sock) {
                Some(Sock::Udp(_, task) | Sock::Listener(task)) => task.abort(),
                Some(Sock::Stream(orders)) => {
                    let _ = orders.send(Order::Close(how));
                }
                None => {}
            },
            Action::Detach { sock, pipe } => {
                if let Some(Sock::Stream(orders)) = self.socks.remove(&sock) {
                    let _ = orders.send(Order::Detach(pipe));
                }
            }
            Action::Resolve { query, host, deadline } => {
                let within = self.clock.until(deadline);
                let task = self.tasks.spawn(resolve(query, host, within, self.events.clone()));
                self.queries.insert(query, task);
            }
            Action::Cancel { query } => {
                if let Some(task) = self.queries.remove(&query) {
                    task.abort();
                }
            }
            Action::Notify(notice) => self.notify(notice),
            // The vocabulary may grow; what is not known here is not asked of this version.
            _ => {}
        }
    }

    fn order(&self, sock: SockId, order: Order) {
        if let Some(Sock::Stream(orders)) = self.socks.get(&sock) {
            let _ = orders.send(order);
        }
    }

    fn notify(&mut self, notice: Notice) {
        match &notice {
            Notice::Listening { address } => {
                self.out.address.send_if_modified(|known| {
                    let opening = matches!(known, Address::Opening);
                    if opening {
                        *known = Address::Listening(*address.clone());
                    }
                    opening
                });
            }
            Notice::Ready { address } => {
                // A failed listener is the last word: `bind` reports it and gives the node up.
                self.out.address.send_if_modified(|known| {
                    let usable = !matches!(known, Address::ListenFailed(..));
                    if usable {
                        *known = Address::Ready(*address.clone());
                    }
                    usable
                });
            }
            Notice::ListenFailed { local, cause } => {
                self.out.address.send_replace(Address::ListenFailed(*local, *cause));
            }
            Notice::Failed { connect, reason, report } => {
                self.answer(*connect, Err(ConnectError::Failed(*reason, report.clone())));
            }
            Notice::Closed => self.closed = true,
            _ => {}
        }
        let _ = self.out.notices.send(notice);
    }

    /// Ends a call. Whoever has given up meanwhile drops the pipe, which closes it.
    fn answer(&mut self, connect: ConnectId, outcome: Result<Pipe, ConnectError>) {
        if let Some((_, done)) = self.calls.remove(&connect) {
            let _ = done.send(outcome);
        }
    }

    fn hand_out(&mut self, stream: TcpStream, pipe: PipeStart) {
        let answers = pipe.answers.clone();
        let pipe = Pipe::new(stream, pipe, self.out.echo && answers.is_empty());
        match answers.split_first() {
            Some((first, others)) => {
                self.answer(*first, Ok(pipe));
                for other in others {
                    self.answer(*other, Err(ConnectError::AnsweredTogether(*first)));
                }
            }
            None => {
                if let Err(TrySendError::Full(_)) = self.out.accept.try_send(pipe) {
                    self.out.turned_away.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

async fn receive_datagrams(sock: SockId, udp: Arc<UdpSocket>, events: mpsc::Sender<Happened>) {
    let mut buffer = vec![0; 2048];
    loop {
        // An ICMP error of an earlier datagram is no reason to stop, and says nothing that silence does not.
        if let Ok((n, from)) = udp.recv_from(&mut buffer).await {
            let data = Bytes::copy_from_slice(&buffer[..n]);
            if events.send(Happened::Datagram { sock, from, data }).await.is_err() {
                return;
            }
        } else {
            // One that stays must not spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn accept_streams(
    listener_id: SockId,
    listener: TcpListener,
    nodelay: bool,
    events: mpsc::Sender<Happened>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let _ = stream.set_nodelay(nodelay);
                if events.send(Happened::Accepted { listener: listener_id, stream, remote }).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, or the stream died in the queue: the next may work, but not at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn resolve(query: QueryId, host: Box<str>, within: Duration, events: mpsc::Sender<Happened>) {
    let looked_up = tokio::time::timeout(within, tokio::net::lookup_host((&*host, 0))).await;
    let result = match looked_up {
        Err(_) => Err(IoFailure::TimedOut),
        Ok(Err(_)) => Err(IoFailure::NoSuchName),
        Ok(Ok(found)) => Ok(found.map(|a| a.ip()).take(4).collect()),
    };
    let _ = events.send(Happened::Resolved { query, result }).await;
}

/// Ends a stream as the core wants it.
pub(crate) fn prepare_close(stream: &TcpStream, how: CloseHow) {
    if how == CloseHow::Reset {
        let _ = socket::reset_on_close(stream);
    }
}
