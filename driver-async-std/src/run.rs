//! The task that owns the engine: waits for its sockets, its timer and the handles, and reports the results to users.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use async_channel::{Receiver, Sender, TrySendError};
use async_io::Timer;
use futures_lite::Stream;
use p2pd_core::SockId;
use p2pd_core::nat::NatReport;
use p2pd_core::{
    Allocate, AllocateError, ConnectId, Login, Name, NameError, NamePin, NodeId, Notice, PeerAddress, PipeId,
    Plan, ServerRef, Stats, Target,
};
use p2pd_sys::{Calls, Engine, NameAnswer, NameCall, NameCalls, News};

use crate::ConnectError;
use crate::messages::Allocation;
use crate::node::Known;
use crate::pipe::Pipe;
use crate::reactor::{Answer, AsyncIo};

/// Sockets served before handles and the timer are looked at again.
const BUDGET: usize = 64;

/// Request of a handle to the driver's task.
#[derive(Debug)]
pub(crate) enum Command {
    Connect {
        token: u64,
        to: Box<Target>,
        plan: Plan,
        begun: Sender<Result<ConnectId, p2pd_core::ConnectError>>,
        done: Sender<Result<Pipe, ConnectError>>,
    },
    Cancel {
        token: u64,
    },
    Name {
        name: Name,
        call: NameCall,
        done: Sender<Result<NameAnswer, NameError>>,
    },
    PinName(NamePin),
    Busy(bool),
    RenewLogin {
        server: ServerRef,
        login: Option<Login>,
    },
    Answer {
        peer: NodeId,
        accept: bool,
    },
    Ping {
        to: Box<PeerAddress>,
        number: u32,
        done: Sender<Result<u8, p2pd_core::ConnectError>>,
    },
    Allocate {
        wish: Allocate,
        done: Sender<Result<Allocation, AllocateError>>,
    },
    /// Whoever waited for a relayed address may have given up.
    SweepAllocations,
    Nats(Sender<Vec<NatReport>>),
    Stats(Sender<Stats>),
    Shutdown(Sender<()>),
}

/// Receivers of the driver's results.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) accept: Sender<Pipe>,
    /// Pipes closed because nobody accepted them.
    pub(crate) turned_away: Arc<AtomicU64>,
    pub(crate) notices: async_broadcast::Sender<Notice>,
    pub(crate) address: Arc<Known>,
    pub(crate) echo: bool,
}

struct Driver {
    engine: Engine<AsyncIo>,
    calls: Calls<Sender<Result<Pipe, ConnectError>>>,
    names: NameCalls<Sender<Result<NameAnswer, NameError>>>,
    allocations: HashMap<PipeId, Sender<Result<Allocation, AllocateError>>>,
    out: Outputs,
    /// Tasks that wait for the end.
    ends: Vec<Sender<()>>,
}

/// Reason for which the task was woken.
enum Woken {
    Command(Option<Command>),
    Sock(SockId),
    Resolved(Answer),
    Timer,
}

pub(crate) async fn run(engine: Engine<AsyncIo>, commands: Receiver<Command>, out: Outputs) {
    let ready = engine.reactor().ready.clone();
    let (calls, names, allocations) = (Calls::default(), NameCalls::default(), HashMap::new());
    let mut driver = Driver { engine, calls, names, allocations, out, ends: Vec::new() };
    let queue = commands.clone();
    let mut commands = pin!(commands);
    let mut timer = Timer::never();
    let mut handles = true;
    loop {
        driver.tell();
        if driver.engine.is_over() {
            break;
        }
        // Too near for the timer: only others get their turn.
        let mut give_way = driver.engine.is_firing();
        match driver.engine.timeout() {
            Some(left) => timer.set_after(left),
            None => timer = Timer::never(),
        }
        let woken = poll_fn(|cx| {
            if handles && let Poll::Ready(command) = commands.as_mut().poll_next(cx) {
                return Poll::Ready(Woken::Command(command));
            }
            if let Poll::Ready(sock) = ready.poll_next(cx) {
                return Poll::Ready(Woken::Sock(sock));
            }
            if let Poll::Ready(answer) = driver.engine.reactor_mut().poll_answer(cx) {
                return Poll::Ready(Woken::Resolved(answer));
            }
            if std::mem::take(&mut give_way) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if driver.engine.is_firing() {
                return Poll::Ready(Woken::Timer);
            }
            Pin::new(&mut timer).poll(cx).map(|_| Woken::Timer)
        });
        match woken.await {
            Woken::Command(Some(command)) => driver.command(command),
            // The last handle is gone.
            Woken::Command(None) => {
                handles = false;
                driver.engine.shutdown();
            }
            Woken::Sock(first) => {
                driver.engine.ready(first);
                for sock in std::iter::from_fn(|| ready.try_next()).take(BUDGET) {
                    driver.engine.ready(sock);
                }
            }
            Woken::Resolved((query, result)) => driver.engine.resolved(query, result),
            Woken::Timer => {}
        }
        driver.engine.tick();
    }
    // Whoever has just asked must hear that nobody answers; the channel would keep what is in it.
    queue.close();
    while queue.try_recv().is_ok() {}
    driver.out.address.end();
    let ends = driver.ends;
    drop((driver.engine, driver.out));
    for done in ends {
        let _ = done.try_send(());
    }
}

impl Driver {
    fn command(&mut self, command: Command) {
        match command {
            Command::Connect { token, to, plan, begun, done } => {
                let id = self.calls.begin(&mut self.engine, (&to, plan), token, done);
                if begun.try_send(id).is_err() {
                    // Given up before it was told: the canceller's word may have come first.
                    self.calls.cancel(&mut self.engine, token);
                }
            }
            Command::Cancel { token } => self.calls.cancel(&mut self.engine, token),
            Command::Name { name, call, done } => {
                if let Err((why, done)) = self.names.begin(&mut self.engine, (name, call), done) {
                    let _ = done.try_send(Err(why));
                }
            }
            Command::PinName(pin) => self.engine.pin_name(pin),
            Command::Busy(busy) => self.engine.set_busy(busy),
            Command::RenewLogin { server, login } => self.engine.renew_login(server, login),
            Command::Answer { peer, accept } => self.engine.answer(peer, accept),
            Command::Ping { to, number, done } => drop(done.try_send(self.engine.ping(&to, number))),
            Command::Allocate { wish, done } => match self.engine.allocate(&wish) {
                Ok(id) => drop(self.allocations.insert(id, done)),
                Err(why) => drop(done.try_send(Err(why))),
            },
            Command::SweepAllocations => {
                let given_up: Vec<PipeId> =
                    self.allocations.iter().filter(|(_, done)| done.is_closed()).map(|(id, _)| *id).collect();
                for id in given_up {
                    self.allocations.remove(&id);
                    self.engine.cancel_allocate(id);
                }
            }
            Command::Nats(reply) => {
                let _ = reply.try_send(self.engine.node().nats().cloned().collect());
            }
            Command::Stats(reply) => {
                let _ = reply.try_send(self.engine.node().stats());
            }
            Command::Shutdown(done) => {
                self.ends.push(done);
                self.engine.shutdown();
            }
        }
    }

    /// Passes the engine's news on.
    fn tell(&mut self) {
        while let Some(news) = self.engine.take_news() {
            match news {
                News::Notice(notice) => {
                    if let Notice::Name { name, news } = &notice {
                        for (done, outcome) in self.names.told(*name, news) {
                            let _ = done.try_send(outcome);
                        }
                    }
                    if matches!(notice, Notice::Listening { .. } | Notice::Ready { .. }) {
                        self.out.address.set(self.engine.address().clone());
                    }
                    let _ = self.out.notices.try_broadcast(notice);
                }
                News::Allocated(id, stream, layer) => {
                    let allocation = Allocation::new(stream, *layer);
                    let failed = |e: std::io::Error| AllocateError::Failed(e.to_string().into());
                    self.allocated(id, allocation.map_err(failed));
                }
                News::NotAllocated(id, why) => self.allocated(id, Err(why)),
                News::NotOpened(connect, why) => self.answer(connect, Err(why)),
                News::Opened(connect, stream, start) => {
                    self.answer(connect, Ok(Pipe::new(stream.io, *start, false)));
                }
                News::Incoming(stream, start) => {
                    let pipe = Pipe::new(stream.io, *start, self.out.echo);
                    if let Err(TrySendError::Full(_)) = self.out.accept.try_send(pipe) {
                        self.out.turned_away.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Ends a wish. Whoever has given up meanwhile drops the allocation, which gives it up.
    fn allocated(&mut self, id: PipeId, outcome: Result<Allocation, AllocateError>) {
        if let Some(done) = self.allocations.remove(&id) {
            let _ = done.try_send(outcome);
        }
    }

    /// Ends a call. A caller that has given up meanwhile drops the pipe, which closes it.
    fn answer(&mut self, connect: ConnectId, outcome: Result<Pipe, ConnectError>) {
        if let Some(done) = self.calls.end(connect) {
            let _ = done.try_send(outcome);
        }
    }
}

/// `cargo test --release -p p2pd-async-std late -- --nocapture` prints the figures.
#[cfg(test)]
mod tests {
    use super::*;
    use p2pd_sys::Lateness;
    use std::time::{Duration, Instant};

    async fn fire(late: &Lateness, dials: u32, gap: Duration) {
        let before = late.count();
        let engine = late.engine(dials, gap, AsyncIo::default()).unwrap();
        let (commands, queue) = async_channel::unbounded();
        let out = Outputs {
            accept: async_channel::bounded(1).0,
            turned_away: Arc::default(),
            notices: async_broadcast::broadcast(16).0,
            address: Arc::new(Known::new(engine.address().clone())),
            echo: false,
        };
        crate::executor::spawn(run(engine, queue, out));
        while late.count() < before + dials as usize {
            Timer::after(Duration::from_millis(20)).await;
        }
        drop(commands);
    }

    #[test]
    fn armed_dials_are_little_late() {
        futures_lite::future::block_on(async {
            let timer = Lateness::default();
            for _ in 0..100 {
                let at = Instant::now() + Duration::from_micros(5_300);
                Timer::at(at).await;
                timer.push(at.elapsed());
            }
            println!("async-io's own timer: {timer}");
            for (dials, gap, rounds) in Lateness::CASES {
                let late = Lateness::default();
                for _ in 0..rounds {
                    fire(&late, dials, gap).await;
                }
                late.judge("async-std", dials, gap);
            }
        });
    }
}
